// The part of ONNX Runtime's C ABI that this library touches, declared by us.
//
// ONNX Runtime's Python wheels ship no headers, and its C++ wrapper classes tie a
// library to one release. The C table, by contrast, only ever grows at its end: a slot
// number, once given, is kept. So the table is seen here as an array of untyped slots
// and each function we call is named by its slot and its signature, nothing more.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define ORT_CALL __stdcall
#else
#define ORT_CALL
#endif

namespace ort {

// Opaque handles of the runtime.
struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct CustomOpDomain;
struct SessionOptions;
struct TensorInfo;
struct ShapeContext;

using Slot = void(ORT_CALL*)();

// The oldest table we ask for; the one that adds the parallel loop and shape inference; the
// one that adds computing in place.
constexpr uint32_t kApiVersion = 16;
constexpr uint32_t kApiVersionParallelFor = 17;
constexpr uint32_t kApiVersionInPlace = 18;

struct Table {
  Slot slot[1];  // as many as the runtime has; only the numbers below are read
};

struct ApiBase {
  const Table*(ORT_CALL* GetApi)(uint32_t version);  // null: the runtime is older
  const char*(ORT_CALL* GetVersionString)();
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1, kInt32 = 6, kInt64 = 7, kHalf = 10, kDouble = 11 };
enum Characteristic : int { kRequired = 0 };

// One descriptor per operator. `version` tells the runtime which fields it may read:
// at 16 up to KernelComputeV2, at 17 up to GetEndVersion, at 18 everything declared here.
struct CustomOp {
  uint32_t version;
  void*(ORT_CALL* CreateKernel)(const CustomOp*, const Table*, const KernelInfo*);
  const char*(ORT_CALL* GetName)(const CustomOp*);
  const char*(ORT_CALL* GetExecutionProviderType)(const CustomOp*);
  ElementType(ORT_CALL* GetInputType)(const CustomOp*, size_t index);
  size_t(ORT_CALL* GetInputTypeCount)(const CustomOp*);
  ElementType(ORT_CALL* GetOutputType)(const CustomOp*, size_t index);
  size_t(ORT_CALL* GetOutputTypeCount)(const CustomOp*);
  void(ORT_CALL* KernelCompute)(void* kernel, KernelContext*);
  void(ORT_CALL* KernelDestroy)(void* kernel);
  Characteristic(ORT_CALL* GetInputCharacteristic)(const CustomOp*, size_t index);
  Characteristic(ORT_CALL* GetOutputCharacteristic)(const CustomOp*, size_t index);
  int(ORT_CALL* GetInputMemoryType)(const CustomOp*, size_t index);
  int(ORT_CALL* GetVariadicInputMinArity)(const CustomOp*);
  int(ORT_CALL* GetVariadicInputHomogeneity)(const CustomOp*);
  int(ORT_CALL* GetVariadicOutputMinArity)(const CustomOp*);
  int(ORT_CALL* GetVariadicOutputHomogeneity)(const CustomOp*);
  Status*(ORT_CALL* CreateKernelV2)(const CustomOp*, const Table*, const KernelInfo*, void** kernel);
  Status*(ORT_CALL* KernelComputeV2)(void* kernel, KernelContext*);
  Status*(ORT_CALL* InferOutputShapeFn)(const CustomOp*, ShapeContext*);
  int(ORT_CALL* GetStartVersion)(const CustomOp*);
  int(ORT_CALL* GetEndVersion)(const CustomOp*);
  size_t(ORT_CALL* GetMayInplace)(int** inputs, int** outputs);
  void(ORT_CALL* ReleaseMayInplace)(int* inputs, int* outputs);
  size_t(ORT_CALL* GetAliasMap)(int** inputs, int** outputs);
  void(ORT_CALL* ReleaseAliasMap)(int* inputs, int* outputs);
};

// The body of a parallel loop: called once for each index below the total.
using LoopBody = void(ORT_CALL*)(void* user, size_t index);

// The functions we call, resolved once per runtime.
struct Api {
  Status*(ORT_CALL* CreateStatus)(ErrorCode, const char* message);
  Status*(ORT_CALL* CreateCustomOpDomain)(const char* name, CustomOpDomain**);
  Status*(ORT_CALL* CustomOpDomain_Add)(CustomOpDomain*, const CustomOp*);
  Status*(ORT_CALL* AddCustomOpDomain)(SessionOptions*, CustomOpDomain*);
  Status*(ORT_CALL* GetTensorMutableData)(Value*, void**);
  Status*(ORT_CALL* GetTensorElementType)(const TensorInfo*, ElementType*);
  Status*(ORT_CALL* GetDimensionsCount)(const TensorInfo*, size_t*);
  Status*(ORT_CALL* GetDimensions)(const TensorInfo*, int64_t* dims, size_t rank);
  Status*(ORT_CALL* GetSymbolicDimensions)(const TensorInfo*, const char** names, size_t rank);
  Status*(ORT_CALL* GetTensorTypeAndShape)(const Value*, TensorInfo**);
  Status*(ORT_CALL* KernelInfoGetAttribute_float)(const KernelInfo*, const char* name, float*);
  Status*(ORT_CALL* KernelInfoGetAttribute_int64)(const KernelInfo*, const char* name, int64_t*);
  Status*(ORT_CALL* KernelInfoGetAttribute_string)(const KernelInfo*, const char* name, char*, size_t* size);
  Status*(ORT_CALL* KernelContext_GetInput)(const KernelContext*, size_t index, const Value**);
  Status*(ORT_CALL* KernelContext_GetOutput)(KernelContext*, size_t index, const int64_t* dims, size_t rank, Value**);
  void(ORT_CALL* ReleaseStatus)(Status*);
  void(ORT_CALL* ReleaseTensorTypeAndShapeInfo)(TensorInfo*);
  void(ORT_CALL* ReleaseCustomOpDomain)(CustomOpDomain*);
  Status*(ORT_CALL* KernelInfoGetAttributeArray_float)(const KernelInfo*, const char* name, float*, size_t* size);
  Status*(ORT_CALL* KernelInfoGetAttributeArray_int64)(const KernelInfo*, const char* name, int64_t*, size_t* size);
  Status*(ORT_CALL* KernelInfo_GetNodeName)(const KernelInfo*, char* name, size_t* size);
  Status*(ORT_CALL* KernelInfoGetConstantInput_tensor)(const KernelInfo*, size_t index, int* is_constant, const Value**);
  // Null on runtimes before 1.17.
  Status*(ORT_CALL* ShapeInferContext_GetInputTypeShape)(const ShapeContext*, size_t index, TensorInfo**);
  Status*(ORT_CALL* ShapeInferContext_SetOutputTypeShape)(const ShapeContext*, size_t index, const TensorInfo*);
  Status*(ORT_CALL* KernelContext_ParallelFor)(const KernelContext*, LoopBody, size_t total, size_t num_batch, void* user);
};

// Where each function sits in the table.
namespace slot {
constexpr size_t CreateStatus = 0;
constexpr size_t CreateCustomOpDomain = 26;
constexpr size_t CustomOpDomain_Add = 27;
constexpr size_t AddCustomOpDomain = 28;
constexpr size_t GetTensorMutableData = 51;
constexpr size_t GetTensorElementType = 60;
constexpr size_t GetDimensionsCount = 61;
constexpr size_t GetDimensions = 62;
constexpr size_t GetSymbolicDimensions = 63;
constexpr size_t GetTensorTypeAndShape = 65;
constexpr size_t KernelInfoGetAttribute_float = 85;
constexpr size_t KernelInfoGetAttribute_int64 = 86;
constexpr size_t KernelInfoGetAttribute_string = 87;
constexpr size_t KernelContext_GetInput = 90;
constexpr size_t KernelContext_GetOutput = 91;
constexpr size_t ReleaseStatus = 93;
constexpr size_t ReleaseTensorTypeAndShapeInfo = 99;
constexpr size_t ReleaseCustomOpDomain = 101;
constexpr size_t KernelInfoGetAttributeArray_float = 162;
constexpr size_t KernelInfoGetAttributeArray_int64 = 163;
constexpr size_t KernelInfo_GetNodeName = 244;
constexpr size_t KernelInfoGetConstantInput_tensor = 249;
constexpr size_t ShapeInferContext_GetInputTypeShape = 268;
constexpr size_t ShapeInferContext_SetOutputTypeShape = 270;
constexpr size_t KernelContext_ParallelFor = 274;
}  // namespace slot

template <typename Function>
void resolve(Function& function, const Table& table, size_t slot) {
  function = reinterpret_cast<Function>(table.slot[slot]);
}

// Reads the slots of `table`; `newer` is the table at version 17, or null.
inline Api resolve_api(const Table& table, const Table* newer) {
  Api api{};
#define ORT_RESOLVE(table, name) resolve(api.name, table, slot::name)
  ORT_RESOLVE(table, CreateStatus);
  ORT_RESOLVE(table, CreateCustomOpDomain);
  ORT_RESOLVE(table, CustomOpDomain_Add);
  ORT_RESOLVE(table, AddCustomOpDomain);
  ORT_RESOLVE(table, GetTensorMutableData);
  ORT_RESOLVE(table, GetTensorElementType);
  ORT_RESOLVE(table, GetDimensionsCount);
  ORT_RESOLVE(table, GetDimensions);
  ORT_RESOLVE(table, GetSymbolicDimensions);
  ORT_RESOLVE(table, GetTensorTypeAndShape);
  ORT_RESOLVE(table, KernelInfoGetAttribute_float);
  ORT_RESOLVE(table, KernelInfoGetAttribute_int64);
  ORT_RESOLVE(table, KernelInfoGetAttribute_string);
  ORT_RESOLVE(table, KernelContext_GetInput);
  ORT_RESOLVE(table, KernelContext_GetOutput);
  ORT_RESOLVE(table, ReleaseStatus);
  ORT_RESOLVE(table, ReleaseTensorTypeAndShapeInfo);
  ORT_RESOLVE(table, ReleaseCustomOpDomain);
  ORT_RESOLVE(table, KernelInfoGetAttributeArray_float);
  ORT_RESOLVE(table, KernelInfoGetAttributeArray_int64);
  ORT_RESOLVE(table, KernelInfo_GetNodeName);
  ORT_RESOLVE(table, KernelInfoGetConstantInput_tensor);
  if (newer != nullptr) {
    ORT_RESOLVE(*newer, ShapeInferContext_GetInputTypeShape);
    ORT_RESOLVE(*newer, ShapeInferContext_SetOutputTypeShape);
    ORT_RESOLVE(*newer, KernelContext_ParallelFor);
  }
#undef ORT_RESOLVE
  return api;
}

}  // namespace ort
