// A stand-in for ONNX Runtime, as much of it as runtime_ops/src/ort_abi.h names, so that
// the library runs in programs whose every instruction a sanitizer sees. Stricter than the
// real one: tensors lie in memory of exactly their size, what is handed out is counted, any
// call may be told to fail, and a slot that the version asked for does not have aborts.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "ort_abi.h"

extern "C" ort::Status* ORT_CALL RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base);

namespace fake {

// An attribute of a type that the library has no accessor for.
struct OtherType {};
using Attribute = std::variant<float, int64_t, std::string, std::vector<float>, std::vector<int64_t>, OtherType>;

inline size_t size_of(ort::ElementType type) { return type == ort::kFloat ? 4 : type == ort::kHalf ? 2 : 8; }

}  // namespace fake

namespace ort {

struct Status {
  ErrorCode code;
  std::string message;
};

struct Value {
  ElementType type = kFloat;
  std::vector<int64_t> dims;
  size_t count = 0;
  void* data = nullptr;

  Value() = default;
  // `count` is given apart, for shapes that no memory can have.
  Value(ElementType element_type, std::vector<int64_t> shape, size_t elements)
      : type(element_type), dims(std::move(shape)), count(elements), data(std::malloc(bytes())) {}
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;
  ~Value() { std::free(data); }

  size_t bytes() const { return count * fake::size_of(type); }
};

struct TensorInfo {
  ElementType type;
  std::vector<int64_t> dims;
  std::vector<std::string> names = {};  // of unknown dimensions; none where it is empty
};

struct KernelInfo {
  std::string name;
  std::map<std::string, fake::Attribute> attributes;
  std::vector<const Value*> constants;  // one per input, null where it is not constant
};

struct KernelContext {
  std::vector<const Value*> inputs;
  Value* output = nullptr;  // what the runtime hands out: its memory may be that of inputs[0]
  size_t threads = 1;
  std::vector<int64_t> asked_dims;
  int asked = 0;
};

struct ShapeContext {
  TensorInfo input;
  TensorInfo output;
  bool is_set = false;
};

struct CustomOpDomain {
  std::string name;
  std::vector<const CustomOp*> operators;
};

struct SessionOptions {
  std::vector<CustomOpDomain*> domains;
};

}  // namespace ort

namespace fake {

// Counted without ordering anything, or races in the library would hide behind the counters.
inline std::atomic<long> live_statuses{0};
inline std::atomic<long> live_infos{0};
inline void add(std::atomic<long>& counter, long change) { counter.fetch_add(change, std::memory_order_relaxed); }

// Calls of this thread until one fails; negative: none does.
inline thread_local int calls_until_failure = -1;
inline constexpr const char* kInjected = "injected failure";

[[noreturn]] inline void die(const char* what) {
  std::fprintf(stderr, "fake runtime: %s\n", what);
  std::abort();
}

inline ort::Status* ORT_CALL create_status(ort::ErrorCode code, const char* message) {
  add(live_statuses, 1);
  return new ort::Status{code, message};
}
inline void ORT_CALL release_status(ort::Status* status) {
  if (status == nullptr) return;
  add(live_statuses, -1);
  delete status;
}
inline ort::Status* fail(const char* message) { return create_status(ort::kFail, message); }
inline ort::Status* injected() {
  if (calls_until_failure < 0 || calls_until_failure-- > 0) return nullptr;
  return fail(kInjected);
}
#define FAKE_MAY_FAIL \
  if (ort::Status* status = injected()) return status

inline ort::Status* ORT_CALL create_domain(const char* name, ort::CustomOpDomain** out) {
  FAKE_MAY_FAIL;
  *out = new ort::CustomOpDomain{name, {}};
  return nullptr;
}
inline void ORT_CALL release_domain(ort::CustomOpDomain* domain) { delete domain; }
inline ort::Status* ORT_CALL domain_add(ort::CustomOpDomain* domain, const ort::CustomOp* op) {
  FAKE_MAY_FAIL;
  domain->operators.push_back(op);
  return nullptr;
}
inline ort::Status* ORT_CALL add_domain(ort::SessionOptions* options, ort::CustomOpDomain* domain) {
  FAKE_MAY_FAIL;
  options->domains.push_back(domain);
  return nullptr;
}

inline ort::Status* ORT_CALL tensor_data(ort::Value* value, void** out) {
  FAKE_MAY_FAIL;
  *out = value->data;
  return nullptr;
}
inline ort::Status* ORT_CALL tensor_type_and_shape(const ort::Value* value, ort::TensorInfo** out) {
  FAKE_MAY_FAIL;
  add(live_infos, 1);
  *out = new ort::TensorInfo{value->type, value->dims};
  return nullptr;
}
inline void ORT_CALL release_info(ort::TensorInfo* info) {
  if (info == nullptr) return;
  add(live_infos, -1);
  delete info;
}
inline ort::Status* ORT_CALL element_type(const ort::TensorInfo* info, ort::ElementType* out) {
  FAKE_MAY_FAIL;
  *out = info->type;
  return nullptr;
}
inline ort::Status* ORT_CALL rank(const ort::TensorInfo* info, size_t* out) {
  FAKE_MAY_FAIL;
  *out = info->dims.size();
  return nullptr;
}
inline ort::Status* ORT_CALL dimensions(const ort::TensorInfo* info, int64_t* dims, size_t count) {
  FAKE_MAY_FAIL;
  for (size_t i = 0; i < count && i < info->dims.size(); ++i) dims[i] = info->dims[i];
  return nullptr;
}
inline ort::Status* ORT_CALL symbolic_dimensions(const ort::TensorInfo* info, const char** names, size_t rank) {
  FAKE_MAY_FAIL;
  if (rank != info->dims.size()) die("symbolic dimensions of another rank");
  for (size_t i = 0; i < rank; ++i) names[i] = info->names.empty() ? "" : info->names[i].c_str();
  return nullptr;
}

template <typename T>
const T* attribute(const ort::KernelInfo* info, const char* name) {
  const auto found = info->attributes.find(name);
  return found == info->attributes.end() ? nullptr : std::get_if<T>(&found->second);
}
template <typename T>
ort::Status* ORT_CALL scalar_attribute(const ort::KernelInfo* info, const char* name, T* out) {
  FAKE_MAY_FAIL;
  const T* found = attribute<T>(info, name);
  if (found == nullptr) return fail("no such attribute");
  *out = *found;
  return nullptr;
}
// No destination: the caller asks for the size. One that is too small is not written to.
template <typename T>
ort::Status* copy_out(const T* from, size_t needed, T* out, size_t* size) {
  const size_t room = *size;
  *size = needed;
  if (out == nullptr) return nullptr;
  if (room < needed) return fail("destination too small");
  std::memcpy(out, from, needed * sizeof(T));
  return nullptr;
}
template <typename T>
ort::Status* ORT_CALL list_attribute(const ort::KernelInfo* info, const char* name, T* out, size_t* size) {
  FAKE_MAY_FAIL;
  const auto* found = attribute<std::vector<T>>(info, name);
  return found == nullptr ? fail("no such attribute") : copy_out(found->data(), found->size(), out, size);
}
inline ort::Status* ORT_CALL string_attribute(const ort::KernelInfo* info, const char* name, char* out, size_t* size) {
  FAKE_MAY_FAIL;
  const auto* found = attribute<std::string>(info, name);
  return found == nullptr ? fail("no such attribute") : copy_out(found->c_str(), found->size() + 1, out, size);
}
inline ort::Status* ORT_CALL node_name(const ort::KernelInfo* info, char* out, size_t* size) {
  FAKE_MAY_FAIL;
  return copy_out(info->name.c_str(), info->name.size() + 1, out, size);
}
inline ort::Status* ORT_CALL constant_input(const ort::KernelInfo* info, size_t index, int* is_constant,
                                            const ort::Value** out) {
  FAKE_MAY_FAIL;
  if (index >= info->constants.size()) die("constant input out of range");
  *out = info->constants[index];
  *is_constant = *out != nullptr;
  return nullptr;
}

inline ort::Status* ORT_CALL input(const ort::KernelContext* context, size_t index, const ort::Value** out) {
  FAKE_MAY_FAIL;
  if (index >= context->inputs.size()) die("input out of range");
  *out = context->inputs[index];
  return nullptr;
}
inline ort::Status* ORT_CALL output(ort::KernelContext* context, size_t index, const int64_t* dims, size_t count,
                                    ort::Value** out) {
  FAKE_MAY_FAIL;
  if (index != 0) die("output out of range");
  context->asked_dims.assign(dims, dims + count);
  ++context->asked;
  *out = context->output;
  return nullptr;
}
inline ort::Status* ORT_CALL parallel_for(const ort::KernelContext* context, ort::LoopBody body, size_t total, size_t,
                                          void* user) {
  FAKE_MAY_FAIL;
  // Relaxed: the counter deals out indices and orders nothing else, so that a race between
  // two of them shows. Creating and joining the threads is all the order there is.
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < total;) body(user, i);
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < context->threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  return nullptr;
}

inline ort::Status* ORT_CALL infer_input(const ort::ShapeContext* context, size_t index, ort::TensorInfo** out) {
  FAKE_MAY_FAIL;
  if (index != 0) die("shape of another input than X");
  *out = const_cast<ort::TensorInfo*>(&context->input);  // the context's own: not to be released
  return nullptr;
}
inline ort::Status* ORT_CALL infer_output(const ort::ShapeContext* context, size_t index, const ort::TensorInfo* info) {
  FAKE_MAY_FAIL;
  if (index != 0) die("shape of another output than Y");
  auto* writable = const_cast<ort::ShapeContext*>(context);
  writable->output = *info;
  writable->is_set = true;
  return nullptr;
}

inline void ORT_CALL no_such_slot() { die("a slot was called that this version of the runtime does not have"); }

inline constexpr size_t kSlots = 300;
inline constexpr size_t kSlotsBefore17 = 250;

struct Tables {
  ort::Slot at_16[kSlots], at_17[kSlots];

  Tables() {
    for (size_t i = 0; i < kSlots; ++i) at_17[i] = no_such_slot;
    namespace slot = ort::slot;
    set(slot::CreateStatus, &ort::Api::CreateStatus, create_status);
    set(slot::CreateCustomOpDomain, &ort::Api::CreateCustomOpDomain, create_domain);
    set(slot::CustomOpDomain_Add, &ort::Api::CustomOpDomain_Add, domain_add);
    set(slot::AddCustomOpDomain, &ort::Api::AddCustomOpDomain, add_domain);
    set(slot::GetTensorMutableData, &ort::Api::GetTensorMutableData, tensor_data);
    set(slot::GetTensorElementType, &ort::Api::GetTensorElementType, element_type);
    set(slot::GetDimensionsCount, &ort::Api::GetDimensionsCount, rank);
    set(slot::GetDimensions, &ort::Api::GetDimensions, dimensions);
    set(slot::GetSymbolicDimensions, &ort::Api::GetSymbolicDimensions, symbolic_dimensions);
    set(slot::GetTensorTypeAndShape, &ort::Api::GetTensorTypeAndShape, tensor_type_and_shape);
    set(slot::KernelInfoGetAttribute_float, &ort::Api::KernelInfoGetAttribute_float, scalar_attribute<float>);
    set(slot::KernelInfoGetAttribute_int64, &ort::Api::KernelInfoGetAttribute_int64, scalar_attribute<int64_t>);
    set(slot::KernelInfoGetAttribute_string, &ort::Api::KernelInfoGetAttribute_string, string_attribute);
    set(slot::KernelContext_GetInput, &ort::Api::KernelContext_GetInput, input);
    set(slot::KernelContext_GetOutput, &ort::Api::KernelContext_GetOutput, output);
    set(slot::ReleaseStatus, &ort::Api::ReleaseStatus, release_status);
    set(slot::ReleaseTensorTypeAndShapeInfo, &ort::Api::ReleaseTensorTypeAndShapeInfo, release_info);
    set(slot::ReleaseCustomOpDomain, &ort::Api::ReleaseCustomOpDomain, release_domain);
    set(slot::KernelInfoGetAttributeArray_float, &ort::Api::KernelInfoGetAttributeArray_float, list_attribute<float>);
    set(slot::KernelInfoGetAttributeArray_int64, &ort::Api::KernelInfoGetAttributeArray_int64, list_attribute<int64_t>);
    set(slot::KernelInfo_GetNodeName, &ort::Api::KernelInfo_GetNodeName, node_name);
    set(slot::KernelInfoGetConstantInput_tensor, &ort::Api::KernelInfoGetConstantInput_tensor, constant_input);
    set(slot::ShapeInferContext_GetInputTypeShape, &ort::Api::ShapeInferContext_GetInputTypeShape, infer_input);
    set(slot::ShapeInferContext_SetOutputTypeShape, &ort::Api::ShapeInferContext_SetOutputTypeShape, infer_output);
    set(slot::KernelContext_ParallelFor, &ort::Api::KernelContext_ParallelFor, parallel_for);
    for (size_t i = 0; i < kSlots; ++i) at_16[i] = i < kSlotsBefore17 ? at_17[i] : no_such_slot;
  }

 private:
  // The member only checks that the function has the type that its slot is called with.
  template <typename Function>
  void set(size_t slot, Function ort::Api::*, Function function) {
    at_17[slot] = reinterpret_cast<ort::Slot>(function);
  }
};

// A runtime whose newest table is `kNewest`.
template <uint32_t kNewest>
const ort::Table* ORT_CALL get_api(uint32_t version) {
  static const Tables tables;
  if (version > kNewest) return nullptr;
  return reinterpret_cast<const ort::Table*>(version < ort::kApiVersionParallelFor ? tables.at_16 : tables.at_17);
}
inline const char* ORT_CALL version_string() { return "fake"; }

template <uint32_t kNewest>
inline constexpr ort::ApiBase kBase = {get_api<kNewest>, version_string};

// The registered operator, found as a session finds it; null when there is none.
inline const ort::CustomOp* find_operator(const ort::SessionOptions& options, const std::string& name,
                                          ort::ElementType type) {
  for (const ort::CustomOpDomain* domain : options.domains) {
    for (const ort::CustomOp* op : domain->operators) {
      if (domain->name == "ai.snn" && name == op->GetName(op) && op->GetInputType(op, 0) == type) return op;
    }
  }
  return nullptr;
}

}  // namespace fake
