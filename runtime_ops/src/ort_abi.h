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

using Slot = void(ORT_CALL*)();

// The oldest table we ask for, and the table that adds parallel-for.
constexpr uint32_t kApiVersion = 16;
constexpr uint32_t kApiVersionParallelFor = 17;

struct Table {
  Slot slot[1];  // as many as the runtime has; only the numbers below are read
};

struct ApiBase {
  const Table*(ORT_CALL* GetApi)(uint32_t version);  // null: the runtime is older
  const char*(ORT_CALL* GetVersionString)();
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1 };
enum Characteristic : int { kRequired = 0 };

// One descriptor per operator. `version` tells the runtime which fields it may read:
// at 16 that is everything declared here.
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
  Status*(ORT_CALL* GetTensorTypeAndShape)(const Value*, TensorInfo**);
  Status*(ORT_CALL* KernelInfoGetAttribute_float)(const KernelInfo*, const char* name, float*);
  Status*(ORT_CALL* KernelInfoGetAttribute_int64)(const KernelInfo*, const char* name, int64_t*);
  Status*(ORT_CALL* KernelContext_GetInput)(const KernelContext*, size_t index, const Value**);
  Status*(ORT_CALL* KernelContext_GetOutput)(KernelContext*, size_t index, const int64_t* dims, size_t rank, Value**);
  void(ORT_CALL* ReleaseStatus)(Status*);
  void(ORT_CALL* ReleaseTensorTypeAndShapeInfo)(TensorInfo*);
  Status*(ORT_CALL* KernelInfo_GetNodeName)(const KernelInfo*, char* name, size_t* size);
  Status*(ORT_CALL* KernelInfoGetConstantInput_tensor)(const KernelInfo*, size_t index, int* is_constant, const Value**);
  // Null on runtimes before 1.17.
  Status*(ORT_CALL* KernelContext_ParallelFor)(const KernelContext*, LoopBody, size_t total, size_t num_batch, void* user);
};

template <typename Function>
void resolve(Function& function, const Table& table, size_t slot) {
  function = reinterpret_cast<Function>(table.slot[slot]);
}

// Reads the slots of `table`; `parallel` is the table at version 17, or null.
inline Api resolve_api(const Table& table, const Table* parallel) {
  Api api{};
  resolve(api.CreateStatus, table, 0);
  resolve(api.CreateCustomOpDomain, table, 26);
  resolve(api.CustomOpDomain_Add, table, 27);
  resolve(api.AddCustomOpDomain, table, 28);
  resolve(api.GetTensorMutableData, table, 51);
  resolve(api.GetTensorElementType, table, 60);
  resolve(api.GetDimensionsCount, table, 61);
  resolve(api.GetDimensions, table, 62);
  resolve(api.GetTensorTypeAndShape, table, 65);
  resolve(api.KernelInfoGetAttribute_float, table, 85);
  resolve(api.KernelInfoGetAttribute_int64, table, 86);
  resolve(api.KernelContext_GetInput, table, 90);
  resolve(api.KernelContext_GetOutput, table, 91);
  resolve(api.ReleaseStatus, table, 93);
  resolve(api.ReleaseTensorTypeAndShapeInfo, table, 99);
  resolve(api.KernelInfo_GetNodeName, table, 244);
  resolve(api.KernelInfoGetConstantInput_tensor, table, 249);
  if (parallel != nullptr) resolve(api.KernelContext_ParallelFor, *parallel, 274);
  return api;
}

}  // namespace ort
