// What the operators' glue shares: reading attributes and tensors without trusting them,
// and refusing with a status that names the node and the numbers. Nothing here throws (the
// library is built without exceptions).
#pragma once

#include <new>
#include <type_traits>

#include "../allocate.h"
#include "operators.h"

namespace snn {

constexpr size_t kMaxRank = 32;
constexpr int64_t kMaxLevels = int64_t{1} << 24;  // the integers that float32 holds exactly

struct Shape {
  size_t rank = 0;
  int64_t dims[kMaxRank] = {};
};

struct Tensor {
  Shape shape;
  size_t count = 0;
  const void* data = nullptr;
};

// Element `index` of `data`; exact for all three types.
double element_value(Element element, const void* data, size_t index);

// Whether a * b, both of the element type, is finite in it.
bool product_fits(Element element, double a, double b);

// (1 / value) * factor with the roundings of the type that `element` is computed in.
double scaled_reciprocal(Element element, double value, double factor);

const char* element_name(Element element);

class Node {
 public:
  Node(const Operator& op, const ort::KernelInfo* info);

  const ort::Api& api() const { return *api_; }
  const Kernels& kernels() const { return *kernels_; }
  Element element() const { return element_; }

  __attribute__((format(printf, 2, 3))) ort::Status* refuse(const char* format, ...) const;

  // A missing attribute leaves `value` as it is; one of another type or out of range is refused.
  ort::Status* read_int(const ort::KernelInfo* info, const char* name, int64_t& value) const;
  ort::Status* read_int_in(const ort::KernelInfo* info, const char* name, int64_t& value, int64_t least, int64_t most) const;
  ort::Status* read_float(const ort::KernelInfo* info, const char* name, float& value) const;

  // `found` is false where the input is not constant.
  ort::Status* read_constant(const ort::KernelInfo* info, size_t index, const char* name, Tensor& tensor, bool& found) const;
  ort::Status* read_input(const ort::KernelContext* context, size_t index, const char* name, Tensor& tensor) const;

  // Y has X's shape and type.
  ort::Status* make_output(ort::KernelContext* context, const Shape& shape, void*& data) const {
    return make_output(context, 0, shape, data);
  }
  ort::Status* make_output(ort::KernelContext* context, size_t index, const Shape& shape, void*& data) const;

  // theta or scale: finite, greater than 0; one value, [C], or of a higher rank with one dimension
  // other than 1.
  ort::Status* check_per_channel(const char* name, const Tensor& tensor) const;

  // Sees `shape` as [outer, channels, inner]: channels lie along `axis` where they are [C], otherwise
  // where they broadcast to from the right. One value needs no axis.
  ort::Status* lay_out(const char* name, const Tensor& per_channel, int64_t axis, const Shape& shape, Layout& layout) const;

 private:
  ort::Status* read_tensor(const ort::Value* value, const char* name, Tensor& tensor) const;
  ort::Status* find_axis(const Shape& channels, int64_t given_axis, const Shape& shape, int64_t& axis) const;
  ort::Status* refuse_other_type(const ort::KernelInfo* info, const char* name, const char* wanted) const;
  bool worked(ort::Status* status) const;  // releases it

  const ort::Api* api_;
  const Kernels* kernels_;
  const char* op_;
  Element element_;
  char name_[128];
};

// The attributes and inputs of the neurons that count multiples of theta.
struct NeuronAttributes {
  int64_t axis = 1;
  int64_t levels_pos = 1;
  int64_t levels_neg = 0;
  float v0 = 0.5f;

  bool theta_checked = false;  // constant, and found good when the kernel was created

  ort::Status* read(const Node& node, const ort::KernelInfo* info);
  ort::Status* check_constant_theta(const Node& node, const ort::KernelInfo* info);
  ort::Status* read_inputs(const Node& node, const ort::KernelContext* context, Tensor& x, Tensor& theta) const;
  FireParameters parameters(const void* theta) const;

 private:
  ort::Status* check_theta(const Node& node, const Tensor& theta) const;
};

// ThreadSanitizer does not see how a runtime that is not built with it orders a parallel
// loop: what lies before the loop comes before each chunk, each chunk before what lies
// after. Told by two addresses, so that the chunks stay unordered among themselves.
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(const void*);
extern "C" void __tsan_release(const void*);
#define SNN_TSAN(event, address) __tsan_##event(address)
#else
#define SNN_TSAN(event, address) static_cast<void>(0)
#endif

// One call of a kernel, cut into chunks for the runtime's threads.
template <typename Parameters>
struct Work {
  Kernel<Parameters> kernel;
  const void* x;
  void* y;
  size_t count;
  size_t chunk;
  Layout layout;
  Parameters parameters;

  static void ORT_CALL run_chunk(void* user, size_t index) {
    Work& work = *static_cast<Work*>(user);
    SNN_TSAN(acquire, &work.x);
    const size_t begin = index * work.chunk;
    const size_t end = work.count - begin < work.chunk ? work.count : begin + work.chunk;
    work.kernel(work.x, work.y, begin, end, work.layout, work.parameters);
    SNN_TSAN(release, &work.y);
  }

  ort::Status* run(const ort::Api& api, const ort::KernelContext* context) {
    if (count == 0) return nullptr;
    const size_t chunks = (count - 1) / chunk + 1;
    if (chunks > 1 && api.KernelContext_ParallelFor != nullptr) {
      SNN_TSAN(release, &x);
      ort::Status* status = api.KernelContext_ParallelFor(context, run_chunk, chunks, 0, this);
      SNN_TSAN(acquire, &y);
      return status;
    }
    kernel(x, y, 0, count, layout, parameters);
    return nullptr;
  }
};

constexpr size_t kChunk = size_t{1} << 14;  // elements per parallel task: 64 KiB of float32 in and out

// Fills in what all operators have in common.
void describe(Operator& op, const char*(ORT_CALL* name)(const ort::CustomOp*),
              size_t(ORT_CALL* inputs)(const ort::CustomOp*));

// The callbacks of an operator whose nodes each keep a State: made by prepare(), asked by
// compute().
template <typename State>
void use_state(Operator& described) {
  static_assert(std::is_trivially_destructible<State>::value, "freed without a destructor");
  described.CreateKernelV2 = [](const ort::CustomOp* op, const ort::Table*, const ort::KernelInfo* info,
                                void** kernel) -> ort::Status* {
    const Operator& self = *static_cast<const Operator*>(op);
    void* memory = allocate<State>();
    if (memory == nullptr) return self.api->CreateStatus(ort::kFail, "snn-compile operators: out of memory");
    State* state = new (memory) State(self, info);
    if (ort::Status* status = state->prepare(info)) {
      std::free(state);
      return status;
    }
    *kernel = state;
    return nullptr;
  };
  described.KernelComputeV2 = [](void* kernel, ort::KernelContext* context) -> ort::Status* {
    return static_cast<const State*>(kernel)->compute(context);
  };
  described.KernelDestroy = [](void* kernel) { std::free(kernel); };
}

}  // namespace snn
