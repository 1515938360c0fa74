// The glue between ONNX Runtime and fire(): reads attributes and tensors, trusts none of
// them, and answers with a status that names the node and the numbers. Nothing here
// throws (the library is built without exceptions).
#include "multi_threshold_fire.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <new>

#include "fire.h"

namespace snn {
namespace {

constexpr size_t kMaxRank = 32;
constexpr int64_t kMaxLevels = int64_t{1} << 24;  // the integers that float32 holds exactly
constexpr size_t kChunk = size_t{1} << 14;        // elements per parallel task: 64 KiB in, 64 KiB out

struct Shape {
  size_t rank = 0;
  int64_t dims[kMaxRank] = {};
};

struct Kernel {
  const ort::Api* api;
  FireFunction fire;
  int64_t axis = 1;
  int64_t levels_pos = 1;
  int64_t levels_neg = 0;
  float v0 = 0.5f;
  bool theta_checked = false;  // constant, and found good when the kernel was created
  char node[128] = "";
};

__attribute__((format(printf, 2, 3))) ort::Status* refuse(const Kernel& kernel, const char* format, ...) {
  char what[320];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  char message[512];
  std::snprintf(message, sizeof message, "MultiThresholdFire node '%s': %s", kernel.node, what);
  return kernel.api->CreateStatus(ort::kInvalidArgument, message);
}

template <typename T>
using Getter = ort::Status*(ORT_CALL*)(const ort::KernelInfo*, const char* name, T*);

// A missing attribute keeps its default; one that `other` can read is of the wrong type.
template <typename T, typename Other>
ort::Status* read_attribute(const Kernel& kernel, const ort::KernelInfo* info, const char* name, const char* wanted,
                            Getter<T> get, Getter<Other> other, T& value) {
  T found{};
  ort::Status* status = get(info, name, &found);
  if (status == nullptr) {
    value = found;
    return nullptr;
  }
  kernel.api->ReleaseStatus(status);
  Other mistaken{};
  if (ort::Status* absent = other(info, name, &mistaken)) {
    kernel.api->ReleaseStatus(absent);
    return nullptr;
  }
  return refuse(kernel, "attribute %s must be %s, got %g", name, wanted, static_cast<double>(mistaken));
}

ort::Status* read_int(const Kernel& kernel, const ort::KernelInfo* info, const char* name, int64_t& value) {
  return read_attribute(kernel, info, name, "an integer", kernel.api->KernelInfoGetAttribute_int64,
                        kernel.api->KernelInfoGetAttribute_float, value);
}

ort::Status* read_float(const Kernel& kernel, const ort::KernelInfo* info, const char* name, float& value) {
  return read_attribute(kernel, info, name, "a float", kernel.api->KernelInfoGetAttribute_float,
                        kernel.api->KernelInfoGetAttribute_int64, value);
}

ort::Status* read_tensor(const Kernel& kernel, const ort::Value* value, const char* name, Shape& shape, size_t& count,
                         const float*& data) {
  const ort::Api& api = *kernel.api;
  ort::TensorInfo* info = nullptr;
  if (ort::Status* status = api.GetTensorTypeAndShape(value, &info)) return status;
  ort::ElementType type{};
  ort::Status* status = api.GetTensorElementType(info, &type);
  if (status == nullptr) status = api.GetDimensionsCount(info, &shape.rank);
  if (status == nullptr && type != ort::kFloat) status = refuse(kernel, "%s must be float32, got element type %d", name, type);
  if (status == nullptr && shape.rank > kMaxRank) status = refuse(kernel, "%s has rank %zu, at most %zu is supported", name, shape.rank, kMaxRank);
  if (status == nullptr) status = api.GetDimensions(info, shape.dims, shape.rank);
  api.ReleaseTensorTypeAndShapeInfo(info);
  if (status != nullptr) return status;

  count = 1;
  for (size_t i = 0; i < shape.rank; ++i) {
    const int64_t dim = shape.dims[i];
    if (dim < 0 || __builtin_mul_overflow(count, static_cast<size_t>(dim), &count)) {
      return refuse(kernel, "%s has an impossible dimension %lld on axis %zu", name, static_cast<long long>(dim), i);
    }
  }
  void* memory = nullptr;
  // The runtime has one accessor for reading and writing; inputs are only read here.
  status = api.GetTensorMutableData(const_cast<ort::Value*>(value), &memory);
  data = static_cast<const float*>(memory);
  return status;
}

ort::Status* check_theta(const Kernel& kernel, const Shape& shape, size_t count, const float* theta) {
  if (shape.rank > 1) return refuse(kernel, "theta must be a scalar or of shape [C], got rank %zu", shape.rank);
  const float most = static_cast<float>(std::max(kernel.levels_pos, kernel.levels_neg));
  for (size_t i = 0; i < count; ++i) {
    if (!(theta[i] > 0.0f) || !std::isfinite(theta[i])) {
      return refuse(kernel, "theta[%zu] = %g, thresholds must be finite and greater than 0", i, static_cast<double>(theta[i]));
    }
    if (!std::isfinite(theta[i] * most)) {
      return refuse(kernel, "theta[%zu] = %g times %g levels overflows float32", i, static_cast<double>(theta[i]), static_cast<double>(most));
    }
  }
  return nullptr;
}

ort::Status* check_constant_theta(Kernel& kernel, const ort::KernelInfo* info) {
  int is_constant = 0;
  const ort::Value* value = nullptr;
  if (ort::Status* status = kernel.api->KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &value)) return status;
  if (!is_constant || value == nullptr) return nullptr;
  Shape shape;
  size_t count = 0;
  const float* theta = nullptr;
  if (ort::Status* status = read_tensor(kernel, value, "theta", shape, count, theta)) return status;
  if (ort::Status* status = check_theta(kernel, shape, count, theta)) return status;
  kernel.theta_checked = true;
  return nullptr;
}

ort::Status* read_attributes(Kernel& kernel, const ort::KernelInfo* info) {
  if (ort::Status* status = read_int(kernel, info, "axis", kernel.axis)) return status;
  if (ort::Status* status = read_int(kernel, info, "levels_pos", kernel.levels_pos)) return status;
  if (ort::Status* status = read_int(kernel, info, "levels_neg", kernel.levels_neg)) return status;
  if (ort::Status* status = read_float(kernel, info, "v0", kernel.v0)) return status;
  const auto in_range = [](int64_t levels) { return levels >= 0 && levels <= kMaxLevels; };
  if (!in_range(kernel.levels_pos) || !in_range(kernel.levels_neg) || kernel.levels_pos + kernel.levels_neg == 0) {
    return refuse(kernel, "levels_pos = %lld and levels_neg = %lld must lie in 0..%lld, one of them above 0",
                  static_cast<long long>(kernel.levels_pos), static_cast<long long>(kernel.levels_neg),
                  static_cast<long long>(kMaxLevels));
  }
  if (!(kernel.v0 >= 0.0f && kernel.v0 < 1.0f)) {
    return refuse(kernel, "v0 = %g must lie in [0, 1): it is a fraction of theta", static_cast<double>(kernel.v0));
  }
  return nullptr;
}

ort::Status* ORT_CALL create(const ort::CustomOp* op, const ort::Table*, const ort::KernelInfo* info, void** out) {
  const ort::Api& api = *static_cast<const MultiThresholdFireOp*>(op)->api;
  Kernel* kernel = new (std::nothrow) Kernel{};
  if (kernel == nullptr) return api.CreateStatus(ort::kFail, "MultiThresholdFire: out of memory");
  kernel->api = &api;
  kernel->fire = select_fire();
  size_t size = sizeof kernel->node;
  if (ort::Status* status = api.KernelInfo_GetNodeName(info, kernel->node, &size)) {  // longer than the buffer
    api.ReleaseStatus(status);
    std::snprintf(kernel->node, sizeof kernel->node, "(name too long)");
  }
  ort::Status* status = read_attributes(*kernel, info);
  if (status == nullptr) status = check_constant_theta(*kernel, info);
  if (status != nullptr) {
    delete kernel;
    return status;
  }
  *out = kernel;
  return nullptr;
}

void ORT_CALL destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

// Sees X as [outer, channels, inner]; a scalar theta needs no axis.
ort::Status* lay_out(const Kernel& kernel, const Shape& x, size_t theta_count, FireLayout& layout) {
  layout = {1, 1};
  if (theta_count == 1) return nullptr;
  const int64_t rank = static_cast<int64_t>(x.rank);
  const int64_t axis = kernel.axis < 0 ? kernel.axis + rank : kernel.axis;
  if (axis < 0 || axis >= rank) {
    return refuse(kernel, "axis = %lld does not exist in X of rank %lld", static_cast<long long>(kernel.axis), static_cast<long long>(rank));
  }
  if (static_cast<size_t>(x.dims[axis]) != theta_count) {
    return refuse(kernel, "theta has %zu values but axis %lld of X has %lld channels", theta_count,
                  static_cast<long long>(axis), static_cast<long long>(x.dims[axis]));
  }
  layout.channels = theta_count;
  for (int64_t i = axis + 1; i < rank; ++i) layout.inner *= static_cast<size_t>(x.dims[i]);
  return nullptr;
}

struct Work {
  FireFunction fire;
  const float* x;
  float* y;
  size_t count;
  FireLayout layout;
  FireParameters parameters;
};

void ORT_CALL run_chunk(void* user, size_t index) {
  const Work& work = *static_cast<const Work*>(user);
  const size_t begin = index * kChunk;
  work.fire(work.x, work.y, begin, std::min(begin + kChunk, work.count), work.layout, work.parameters);
}

ort::Status* ORT_CALL compute(void* self, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(self);
  const ort::Api& api = *kernel.api;

  const ort::Value* x_value = nullptr;
  const ort::Value* theta_value = nullptr;
  if (ort::Status* status = api.KernelContext_GetInput(context, 0, &x_value)) return status;
  if (ort::Status* status = api.KernelContext_GetInput(context, 1, &theta_value)) return status;
  if (x_value == nullptr || theta_value == nullptr) return refuse(kernel, "needs the inputs X and theta");
  Shape x_shape, theta_shape;
  size_t count = 0, theta_count = 0;
  const float* x = nullptr;
  const float* theta = nullptr;
  if (ort::Status* status = read_tensor(kernel, x_value, "X", x_shape, count, x)) return status;
  if (ort::Status* status = read_tensor(kernel, theta_value, "theta", theta_shape, theta_count, theta)) return status;
  if (!kernel.theta_checked) {
    if (ort::Status* status = check_theta(kernel, theta_shape, theta_count, theta)) return status;
  }
  FireLayout layout;
  if (ort::Status* status = lay_out(kernel, x_shape, theta_count, layout)) return status;

  ort::Value* y_value = nullptr;
  if (ort::Status* status = api.KernelContext_GetOutput(context, 0, x_shape.dims, x_shape.rank, &y_value)) return status;
  void* y = nullptr;
  if (ort::Status* status = api.GetTensorMutableData(y_value, &y)) return status;
  if (count == 0) return nullptr;

  Work work{kernel.fire, x, static_cast<float*>(y), count, layout,
            {theta, theta_count, static_cast<float>(kernel.levels_pos), static_cast<float>(kernel.levels_neg), kernel.v0}};
  const size_t chunks = (count + kChunk - 1) / kChunk;
  if (chunks > 1 && api.KernelContext_ParallelFor != nullptr) {
    return api.KernelContext_ParallelFor(context, run_chunk, chunks, 0, &work);
  }
  kernel.fire(x, work.y, 0, count, layout, work.parameters);
  return nullptr;
}

const char* ORT_CALL name(const ort::CustomOp*) { return "MultiThresholdFire"; }
const char* ORT_CALL provider(const ort::CustomOp*) { return nullptr; }  // null: the CPU
ort::ElementType ORT_CALL element_type(const ort::CustomOp*, size_t) { return ort::kFloat; }
size_t ORT_CALL input_count(const ort::CustomOp*) { return 2; }
size_t ORT_CALL output_count(const ort::CustomOp*) { return 1; }
ort::Characteristic ORT_CALL required(const ort::CustomOp*, size_t) { return ort::kRequired; }
int ORT_CALL default_memory(const ort::CustomOp*, size_t) { return 0; }

}  // namespace

MultiThresholdFireOp make_multi_threshold_fire(const ort::Api& api) {
  MultiThresholdFireOp op{};
  op.version = ort::kApiVersion;
  op.GetName = name;
  op.GetExecutionProviderType = provider;
  op.GetInputType = element_type;
  op.GetInputTypeCount = input_count;
  op.GetOutputType = element_type;
  op.GetOutputTypeCount = output_count;
  op.KernelDestroy = destroy;
  op.GetInputCharacteristic = required;
  op.GetOutputCharacteristic = required;
  op.GetInputMemoryType = default_memory;
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.api = &api;
  return op;
}

}  // namespace snn
