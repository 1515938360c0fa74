// Compares ort_abi.h with an official header of ONNX Runtime, when CMake is given
// -DORT_INCLUDE_DIR. It holds checks for the compiler only and becomes part of nothing. What
// is newer than the header is left out.
#include <onnxruntime_c_api.h>

#include <type_traits>

#include "ort_abi.h"

#if ORT_API_VERSION < 16
#error "the header is older than the oldest table that the library asks for"
#endif

#if defined(__GNUC__)
// The header's warn_unused_result is no part of a function's type.
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif

namespace {

template <typename T>
constexpr bool is_number = std::is_enum_v<T> || std::is_integral_v<T>;

// Whether both are passed and read in the same way. Our names for the runtime's types differ
// from its own, so any two structs count as one.
template <typename Ours, typename Theirs>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using A = std::remove_pointer_t<Ours>;
    using B = std::remove_pointer_t<Theirs>;
    return std::is_const_v<A> == std::is_const_v<B> && alike<std::remove_cv_t<A>, std::remove_cv_t<B>>();
  } else if constexpr (is_number<Ours> && is_number<Theirs>) {
    return sizeof(Ours) == sizeof(Theirs);
  } else {
    return std::is_same_v<Ours, Theirs> || (std::is_class_v<Ours> && std::is_class_v<Theirs>);
  }
}

// A function's result and parameters, with or without the header's noexcept.
template <typename Result, typename... Parameters>
struct Call {
  template <typename Other, typename... Others>
  static constexpr bool like(Call<Other, Others...>) {
    if constexpr (sizeof...(Parameters) == sizeof...(Others)) {
      return alike<Result, Other>() && (alike<Parameters, Others>() && ...);
    } else {
      return false;
    }
  }
};
template <typename Result, typename... Parameters>
constexpr Call<Result, Parameters...> call_of(Result(ORT_CALL*)(Parameters...)) {
  return {};
}

template <typename Ours, typename Theirs>
constexpr bool same_call = decltype(call_of(Ours{}))::like(decltype(call_of(Theirs{})){});

#define SAME_FUNCTION(name)                                                           \
  static_assert(ort::slot::name * sizeof(ort::Slot) == offsetof(OrtApi, name),        \
                #name " is in another slot");                                         \
  static_assert(same_call<decltype(ort::Api::name), decltype(OrtApi::name)>,          \
                #name " takes other parameters")
SAME_FUNCTION(CreateStatus);
SAME_FUNCTION(CreateCustomOpDomain);
SAME_FUNCTION(CustomOpDomain_Add);
SAME_FUNCTION(AddCustomOpDomain);
SAME_FUNCTION(GetTensorMutableData);
SAME_FUNCTION(GetTensorElementType);
SAME_FUNCTION(GetDimensionsCount);
SAME_FUNCTION(GetDimensions);
SAME_FUNCTION(GetSymbolicDimensions);
SAME_FUNCTION(GetTensorTypeAndShape);
SAME_FUNCTION(KernelInfoGetAttribute_float);
SAME_FUNCTION(KernelInfoGetAttribute_int64);
SAME_FUNCTION(KernelInfoGetAttribute_string);
SAME_FUNCTION(KernelContext_GetInput);
SAME_FUNCTION(KernelContext_GetOutput);
SAME_FUNCTION(ReleaseStatus);
SAME_FUNCTION(ReleaseTensorTypeAndShapeInfo);
SAME_FUNCTION(ReleaseCustomOpDomain);
SAME_FUNCTION(KernelInfoGetAttributeArray_float);
SAME_FUNCTION(KernelInfoGetAttributeArray_int64);
SAME_FUNCTION(KernelInfo_GetNodeName);
SAME_FUNCTION(KernelInfoGetConstantInput_tensor);
#if ORT_API_VERSION >= 17
SAME_FUNCTION(ShapeInferContext_GetInputTypeShape);
SAME_FUNCTION(ShapeInferContext_SetOutputTypeShape);
SAME_FUNCTION(KernelContext_ParallelFor);
#endif

#define SAME_FIELD(ours, theirs, name)                                              \
  static_assert(offsetof(ours, name) == offsetof(theirs, name),                     \
                #theirs "::" #name " is at another offset");                        \
  static_assert(same_call<decltype(ours::name), decltype(theirs::name)>,            \
                #theirs "::" #name " takes other parameters")
#define SAME_CALLBACK(name) SAME_FIELD(ort::CustomOp, OrtCustomOp, name)
static_assert(offsetof(ort::CustomOp, version) == offsetof(OrtCustomOp, version));
static_assert(std::is_same_v<decltype(ort::CustomOp::version), decltype(OrtCustomOp::version)>);
SAME_CALLBACK(CreateKernel);
SAME_CALLBACK(GetName);
SAME_CALLBACK(GetExecutionProviderType);
SAME_CALLBACK(GetInputType);
SAME_CALLBACK(GetInputTypeCount);
SAME_CALLBACK(GetOutputType);
SAME_CALLBACK(GetOutputTypeCount);
SAME_CALLBACK(KernelCompute);
SAME_CALLBACK(KernelDestroy);
SAME_CALLBACK(GetInputCharacteristic);
SAME_CALLBACK(GetOutputCharacteristic);
SAME_CALLBACK(GetInputMemoryType);
SAME_CALLBACK(GetVariadicInputMinArity);
SAME_CALLBACK(GetVariadicInputHomogeneity);
SAME_CALLBACK(GetVariadicOutputMinArity);
SAME_CALLBACK(GetVariadicOutputHomogeneity);
SAME_CALLBACK(CreateKernelV2);
SAME_CALLBACK(KernelComputeV2);
#if ORT_API_VERSION >= 17
SAME_CALLBACK(InferOutputShapeFn);
SAME_CALLBACK(GetStartVersion);
SAME_CALLBACK(GetEndVersion);
#endif
#if ORT_API_VERSION >= 18
SAME_CALLBACK(GetMayInplace);
SAME_CALLBACK(ReleaseMayInplace);
SAME_CALLBACK(GetAliasMap);
SAME_CALLBACK(ReleaseAliasMap);
// The runtime may read up to the end of the table that `version` names. Newer ones may have more.
static_assert(sizeof(ort::CustomOp) <= sizeof(OrtCustomOp));
#endif

SAME_FIELD(ort::ApiBase, OrtApiBase, GetApi);
SAME_FIELD(ort::ApiBase, OrtApiBase, GetVersionString);
static_assert(sizeof(ort::ApiBase) == sizeof(OrtApiBase));

static_assert(sizeof(ort::Slot) == sizeof(void*));
static_assert(sizeof(OrtApi) % sizeof(ort::Slot) == 0);

#define SAME_VALUE(ours, theirs) static_assert(int{ours} == int{theirs}, #theirs " has another value")
SAME_VALUE(ort::kFail, ORT_FAIL);
SAME_VALUE(ort::kInvalidArgument, ORT_INVALID_ARGUMENT);
SAME_VALUE(ort::kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
SAME_VALUE(ort::kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
SAME_VALUE(ort::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
SAME_VALUE(ort::kHalf, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
SAME_VALUE(ort::kDouble, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
SAME_VALUE(ort::kRequired, INPUT_OUTPUT_REQUIRED);
SAME_VALUE(0, OrtMemTypeDefault);  // what GetInputMemoryType answers

}  // namespace
