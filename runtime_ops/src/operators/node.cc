#include "node.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace snn {
namespace {

constexpr ort::ElementType kOrtType[kElements] = {ort::kFloat, ort::kHalf, ort::kDouble};

double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

}  // namespace

double element_value(Element element, const void* data, size_t index) {
  switch (element) {
    case kFloat32: return static_cast<const float*>(data)[index];
    case kFloat16: return half_value(static_cast<const Half*>(data)[index].bits);
    default: return static_cast<const double*>(data)[index];
  }
}

bool product_fits(Element element, double a, double b) {
  const double product = a * b;  // exact for float32 and float16
  switch (element) {
    case kFloat32: return std::isfinite(static_cast<float>(product));
    case kFloat16: return std::fabs(product) < 65520.0;  // from here float16 rounds to infinity
    default: return std::isfinite(product);
  }
}

double scaled_reciprocal(Element element, double value, double factor) {
  if (element == kFloat64) return 1.0 / value * factor;
  const float reciprocal = 1.0f / static_cast<float>(value);
  return reciprocal * static_cast<float>(factor);
}

const char* element_name(Element element) {
  constexpr const char* kNames[kElements] = {"float32", "float16", "double"};
  return kNames[element];
}

Node::Node(const Operator& op, const ort::KernelInfo* info)
    : api_(op.api), kernels_(op.kernels), op_(op.GetName(&op)), element_(op.element), name_("") {
  size_t size = sizeof name_;
  if (!worked(api_->KernelInfo_GetNodeName(info, name_, &size))) {
    std::snprintf(name_, sizeof name_, "(name too long)");
  }
}

bool Node::worked(ort::Status* status) const {
  if (status == nullptr) return true;
  api_->ReleaseStatus(status);
  return false;
}

ort::Status* Node::refuse(const char* format, ...) const {
  char what[320];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  char message[512];
  std::snprintf(message, sizeof message, "%s node '%s': %s", op_, name_, what);
  return api_->CreateStatus(ort::kInvalidArgument, message);
}

ort::Status* Node::refuse_other_type(const ort::KernelInfo* info, const char* name, const char* wanted) const {
  float real = 0;
  int64_t integer = 0;
  size_t size = 0;
  if (worked(api_->KernelInfoGetAttribute_float(info, name, &real))) {
    return refuse("attribute %s must be %s, got the float %g", name, wanted, static_cast<double>(real));
  }
  if (worked(api_->KernelInfoGetAttribute_int64(info, name, &integer))) {
    return refuse("attribute %s must be %s, got the integer %lld", name, wanted, static_cast<long long>(integer));
  }
  if (worked(api_->KernelInfoGetAttribute_string(info, name, nullptr, &size))) {
    return refuse("attribute %s must be %s, got a string", name, wanted);
  }
  if (worked(api_->KernelInfoGetAttributeArray_float(info, name, nullptr, &size)) ||
      worked(api_->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size))) {
    return refuse("attribute %s must be %s, got a list", name, wanted);
  }
  return nullptr;
}

ort::Status* Node::read_int(const ort::KernelInfo* info, const char* name, int64_t& value) const {
  int64_t found = 0;
  if (!worked(api_->KernelInfoGetAttribute_int64(info, name, &found))) return refuse_other_type(info, name, "an integer");
  value = found;
  return nullptr;
}

ort::Status* Node::read_int_in(const ort::KernelInfo* info, const char* name, int64_t& value, int64_t least,
                               int64_t most) const {
  if (ort::Status* status = read_int(info, name, value)) return status;
  if (value >= least && value <= most) return nullptr;
  return refuse("%s = %lld must lie in %lld..%lld", name, static_cast<long long>(value),
                static_cast<long long>(least), static_cast<long long>(most));
}

ort::Status* Node::read_float(const ort::KernelInfo* info, const char* name, float& value) const {
  float found = 0;
  if (!worked(api_->KernelInfoGetAttribute_float(info, name, &found))) return refuse_other_type(info, name, "a float");
  value = found;
  return nullptr;
}

ort::Status* Node::read_tensor(const ort::Value* value, const char* name, Tensor& tensor) const {
  ort::TensorInfo* info = nullptr;
  if (ort::Status* status = api_->GetTensorTypeAndShape(value, &info)) return status;
  ort::ElementType type{};
  Shape& shape = tensor.shape;
  ort::Status* status = api_->GetTensorElementType(info, &type);
  if (status == nullptr) status = api_->GetDimensionsCount(info, &shape.rank);
  if (status == nullptr && type != kOrtType[element_]) {
    status = refuse("%s must be %s, got element type %d", name, element_name(element_), type);
  }
  if (status == nullptr && shape.rank > kMaxRank) {
    status = refuse("%s has rank %zu, at most %zu is supported", name, shape.rank, kMaxRank);
  }
  if (status == nullptr) status = api_->GetDimensions(info, shape.dims, shape.rank);
  api_->ReleaseTensorTypeAndShapeInfo(info);
  if (status != nullptr) return status;

  bool is_empty = false;
  for (size_t i = 0; i < shape.rank; ++i) is_empty = is_empty || shape.dims[i] == 0;
  tensor.count = is_empty ? 0 : 1;
  for (size_t i = 0; i < shape.rank; ++i) {
    const int64_t dim = shape.dims[i];
    if (dim < 0 || __builtin_mul_overflow(tensor.count, static_cast<size_t>(dim), &tensor.count)) {
      return refuse("%s has an impossible dimension %lld on axis %zu", name, static_cast<long long>(dim), i);
    }
  }
  void* memory = nullptr;
  // The runtime has one accessor for reading and writing; inputs are only read here.
  status = api_->GetTensorMutableData(const_cast<ort::Value*>(value), &memory);
  tensor.data = memory;
  if (status == nullptr && memory == nullptr && tensor.count != 0) status = refuse("%s has no memory", name);
  return status;
}

ort::Status* Node::read_constant(const ort::KernelInfo* info, size_t index, const char* name, Tensor& tensor,
                                 bool& found) const {
  found = false;
  int is_constant = 0;
  const ort::Value* value = nullptr;
  if (ort::Status* status = api_->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value)) return status;
  if (is_constant == 0 || value == nullptr) return nullptr;
  found = true;
  return read_tensor(value, name, tensor);
}

ort::Status* Node::read_input(const ort::KernelContext* context, size_t index, const char* name, Tensor& tensor) const {
  const ort::Value* value = nullptr;
  if (ort::Status* status = api_->KernelContext_GetInput(context, index, &value)) return status;
  if (value == nullptr) return refuse("the input %s is missing", name);
  return read_tensor(value, name, tensor);
}

ort::Status* Node::make_output(ort::KernelContext* context, size_t index, const Shape& shape, void*& data) const {
  ort::Value* value = nullptr;
  if (ort::Status* status = api_->KernelContext_GetOutput(context, index, shape.dims, shape.rank, &value)) return status;
  return api_->GetTensorMutableData(value, &data);
}

ort::Status* Node::check_per_channel(const char* name, const Tensor& tensor) const {
  size_t long_axes = 0;
  for (size_t i = 0; i < tensor.shape.rank; ++i) long_axes += tensor.shape.dims[i] == 1 ? 0 : 1;
  if (long_axes > 1) {
    return refuse("%s must have one value or values along one axis, got %zu axes longer than 1 or empty", name, long_axes);
  }
  for (size_t i = 0; i < tensor.count; ++i) {
    const double value = element_value(element_, tensor.data, i);
    if (!(value > 0.0) || !std::isfinite(value)) {
      return refuse("%s[%zu] = %g must be finite and greater than 0", name, i, value);
    }
  }
  return nullptr;
}

ort::Status* Node::find_axis(const Shape& channels, int64_t given_axis, const Shape& shape,
                             int64_t& axis) const {
  const int64_t rank = static_cast<int64_t>(shape.rank);
  if (channels.rank > 1) {  // as it broadcasts from the right
    axis = rank - static_cast<int64_t>(channels.rank);
    for (size_t i = 0; channels.dims[i] == 1; ++i) ++axis;
    return nullptr;
  }
  axis = given_axis < 0 ? given_axis + rank : given_axis;
  if (axis >= 0 && axis < rank) return nullptr;
  return refuse("axis = %lld does not exist in X of rank %lld", static_cast<long long>(given_axis), static_cast<long long>(rank));
}

ort::Status* Node::lay_out(const char* name, const Tensor& per_channel, int64_t given_axis, const Shape& shape,
                           Layout& layout) const {
  layout = {1, 1};
  if (per_channel.shape.rank > shape.rank) {
    return refuse("%s has rank %zu, more than X of rank %zu", name, per_channel.shape.rank, shape.rank);
  }
  if (per_channel.count == 1) return nullptr;
  int64_t axis = 0;
  if (ort::Status* status = find_axis(per_channel.shape, given_axis, shape, axis)) return status;
  if (static_cast<size_t>(shape.dims[axis]) != per_channel.count) {
    return refuse("%s has %zu values but axis %lld of X has %lld channels", name, per_channel.count,
                  static_cast<long long>(axis), static_cast<long long>(shape.dims[axis]));
  }
  layout.channels = per_channel.count;
  for (size_t i = static_cast<size_t>(axis) + 1; i < shape.rank; ++i) layout.inner *= static_cast<size_t>(shape.dims[i]);
  return nullptr;
}

ort::Status* NeuronAttributes::read(const Node& node, const ort::KernelInfo* info) {
  if (ort::Status* status = node.read_int(info, "axis", axis)) return status;
  if (ort::Status* status = node.read_int(info, "levels_pos", levels_pos)) return status;
  if (ort::Status* status = node.read_int(info, "levels_neg", levels_neg)) return status;
  if (ort::Status* status = node.read_float(info, "v0", v0)) return status;
  const auto in_range = [](int64_t levels) { return levels >= 0 && levels <= kMaxLevels; };
  if (!in_range(levels_pos) || !in_range(levels_neg) || levels_pos + levels_neg == 0) {
    return node.refuse("levels_pos = %lld and levels_neg = %lld must lie in 0..%lld, one of them above 0",
                       static_cast<long long>(levels_pos), static_cast<long long>(levels_neg),
                       static_cast<long long>(kMaxLevels));
  }
  if (!(v0 >= 0.0f && v0 < 1.0f) || std::signbit(v0)) {  // -0 would make -0 of -0
    return node.refuse("v0 = %g must lie in [0, 1): it is a fraction of theta", static_cast<double>(v0));
  }
  return nullptr;
}

ort::Status* NeuronAttributes::check_theta(const Node& node, const Tensor& theta) const {
  if (ort::Status* status = node.check_per_channel("theta", theta)) return status;
  const double most = static_cast<double>(levels_pos > levels_neg ? levels_pos : levels_neg);
  for (size_t i = 0; i < theta.count; ++i) {
    const double value = element_value(node.element(), theta.data, i);
    if (!product_fits(node.element(), value, most)) {
      return node.refuse("theta[%zu] = %g times %g levels overflows %s", i, value, most, element_name(node.element()));
    }
  }
  return nullptr;
}

ort::Status* NeuronAttributes::check_constant_theta(const Node& node, const ort::KernelInfo* info) {
  Tensor theta;
  if (ort::Status* status = node.read_constant(info, 1, "theta", theta, theta_checked)) return status;
  return theta_checked ? check_theta(node, theta) : nullptr;
}

ort::Status* NeuronAttributes::read_inputs(const Node& node, const ort::KernelContext* context, Tensor& x,
                                           Tensor& theta) const {
  if (ort::Status* status = node.read_input(context, 0, "X", x)) return status;
  if (ort::Status* status = node.read_input(context, 1, "theta", theta)) return status;
  return theta_checked ? nullptr : check_theta(node, theta);
}

FireParameters NeuronAttributes::parameters(const void* theta) const {
  return {theta, static_cast<float>(levels_pos), static_cast<float>(levels_neg), v0};
}

namespace {

const char* ORT_CALL provider(const ort::CustomOp*) { return nullptr; }  // null: the CPU
ort::ElementType ORT_CALL element_type(const ort::CustomOp* op, size_t) {
  return kOrtType[static_cast<const Operator*>(op)->element];
}
size_t ORT_CALL one_output(const ort::CustomOp*) { return 1; }
ort::Characteristic ORT_CALL required(const ort::CustomOp*, size_t) { return ort::kRequired; }
int ORT_CALL default_memory(const ort::CustomOp*, size_t) { return 0; }

// Y has X's shape. Two kinds of shape are not passed on: rank 0, which the runtime shows also
// where it knows nothing of X, and unknown dimensions without a name, which it would take
// for dimensions of the value -1.
ort::Status* ORT_CALL infer_shape(const ort::CustomOp* op, ort::ShapeContext* context) {
  const ort::Api& api = *static_cast<const Operator*>(op)->api;
  ort::TensorInfo* x = nullptr;
  Shape shape;
  const char* names[kMaxRank] = {};
  if (ort::Status* status = api.ShapeInferContext_GetInputTypeShape(context, 0, &x)) return status;
  if (ort::Status* status = api.GetDimensionsCount(x, &shape.rank)) return status;
  if (shape.rank == 0 || shape.rank > kMaxRank) return nullptr;
  if (ort::Status* status = api.GetDimensions(x, shape.dims, shape.rank)) return status;
  if (ort::Status* status = api.GetSymbolicDimensions(x, names, shape.rank)) return status;
  for (size_t i = 0; i < shape.rank; ++i) {
    if (shape.dims[i] < 0 && (names[i] == nullptr || names[i][0] == '\0')) return nullptr;
  }
  return api.ShapeInferContext_SetOutputTypeShape(context, 0, x);
}

// Y may be X's memory. The runtime hands the two arrays back; they are not ours to free.
int first_tensor[] = {0};
size_t ORT_CALL may_inplace(int** inputs, int** outputs) {
  *inputs = first_tensor;
  *outputs = first_tensor;
  return 1;
}
void ORT_CALL keep(int*, int*) {}

}  // namespace

void describe(Operator& op, const char*(ORT_CALL* name)(const ort::CustomOp*),
              size_t(ORT_CALL* inputs)(const ort::CustomOp*)) {
  op.GetName = name;
  op.GetExecutionProviderType = provider;
  op.GetInputType = element_type;
  op.GetInputTypeCount = inputs;
  op.GetOutputType = element_type;
  op.GetOutputTypeCount = one_output;
  op.GetInputCharacteristic = required;
  op.GetOutputCharacteristic = required;
  op.GetInputMemoryType = default_memory;
  op.InferOutputShapeFn = infer_shape;
  op.GetMayInplace = may_inplace;
  op.ReleaseMayInplace = keep;
}

}  // namespace snn
