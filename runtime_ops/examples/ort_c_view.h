/* The part of ONNX Runtime's C API that embed.c uses, declared by us.
 *
 * ONNX Runtime's Python wheels ship no headers. With the official onnxruntime_c_api.h on the
 * include path embed.c uses that one and never reads this file.
 *
 * The runtime's functions are reached through a table of function pointers that only grows at
 * its end: a place in it, once given, is kept. OrtApi below has the functions that the example
 * calls at their places and leaves the rest unnamed; the assertions at the end check each place.
 * For POSIX systems: paths are char strings, functions have the C calling convention.
 */
#ifndef SNN_EXAMPLES_ORT_C_VIEW_H
#define SNN_EXAMPLES_ORT_C_VIEW_H

#include <stddef.h>
#include <stdint.h>

/* Handles: the runtime makes them, only the runtime looks inside. */
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtEnv OrtEnv;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtStatus OrtStatus;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtValue OrtValue;

/* Of each enumeration the values that the example uses. */
typedef enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 } OrtLoggingLevel;
typedef enum OrtAllocatorType { OrtDeviceAllocator = 0 } OrtAllocatorType;
typedef enum OrtMemType { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum ONNXTensorElementDataType {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1
} ONNXTensorElementDataType;

/* A place in the table that the example does not use. */
typedef void (*OrtUnused)(void);

/* Every function that gives an OrtStatus* gives NULL for success. */
typedef struct OrtApi {
  OrtUnused unused_0[2];
  const char *(*GetErrorMessage)(const OrtStatus *status);
  OrtStatus *(*CreateEnv)(OrtLoggingLevel level, const char *log_id, OrtEnv **env);
  OrtUnused unused_4[3];
  OrtStatus *(*CreateSession)(const OrtEnv *env, const char *model_path,
                              const OrtSessionOptions *options, OrtSession **session);
  OrtUnused unused_8[1];
  OrtStatus *(*Run)(OrtSession *session, const OrtRunOptions *options,
                    const char *const *input_names, const OrtValue *const *inputs,
                    size_t input_count, const char *const *output_names, size_t output_count,
                    OrtValue **outputs);
  OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **options);
  OrtUnused unused_11[19];
  OrtStatus *(*SessionGetInputCount)(const OrtSession *session, size_t *count);
  OrtStatus *(*SessionGetOutputCount)(const OrtSession *session, size_t *count);
  OrtUnused unused_32[1];
  OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *session, size_t index,
                                        OrtTypeInfo **type);
  OrtUnused unused_34[2];
  OrtStatus *(*SessionGetInputName)(const OrtSession *session, size_t index,
                                    OrtAllocator *allocator, char **name);
  OrtStatus *(*SessionGetOutputName)(const OrtSession *session, size_t index,
                                     OrtAllocator *allocator, char **name);
  OrtUnused unused_38[11];
  OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *memory, void *data,
                                               size_t bytes, const int64_t *dims, size_t rank,
                                               ONNXTensorElementDataType type, OrtValue **value);
  OrtUnused unused_50[1];
  OrtStatus *(*GetTensorMutableData)(OrtValue *value, void **data);
  OrtUnused unused_52[3];
  OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *type,
                                         const OrtTensorTypeAndShapeInfo **tensor);
  OrtUnused unused_56[4];
  OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *tensor,
                                     ONNXTensorElementDataType *type);
  OrtStatus *(*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *tensor, size_t *rank);
  OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *tensor, int64_t *dims, size_t rank);
  OrtUnused unused_63[1];
  OrtStatus *(*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo *tensor, size_t *count);
  OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *value, OrtTensorTypeAndShapeInfo **tensor);
  OrtUnused unused_66[3];
  OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType allocator, OrtMemType type,
                                    OrtMemoryInfo **memory);
  OrtUnused unused_70[6];
  OrtStatus *(*AllocatorFree)(OrtAllocator *allocator, void *memory);
  OrtUnused unused_77[1];
  OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **allocator);
  OrtUnused unused_79[13];
  void (*ReleaseEnv)(OrtEnv *env);
  void (*ReleaseStatus)(OrtStatus *status);
  void (*ReleaseMemoryInfo)(OrtMemoryInfo *memory);
  void (*ReleaseSession)(OrtSession *session);
  void (*ReleaseValue)(OrtValue *value);
  OrtUnused unused_97[1];
  void (*ReleaseTypeInfo)(OrtTypeInfo *type);
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *tensor);
  void (*ReleaseSessionOptions)(OrtSessionOptions *options);
  OrtUnused unused_101[127];
  OrtStatus *(*RegisterCustomOpsLibrary_V2)(OrtSessionOptions *options, const char *library);
} OrtApi;

/* What the runtime's one exported function, OrtGetApiBase, gives. */
typedef struct OrtApiBase {
  const OrtApi *(*GetApi)(uint32_t version); /* NULL: the runtime is older than that version */
  const char *(*GetVersionString)(void);
} OrtApiBase;

#define SNN_ASSERT_SLOT(name, slot)                                    \
  _Static_assert(offsetof(OrtApi, name) == (slot) * sizeof(OrtUnused), \
                 #name " is not at its place in the table")
SNN_ASSERT_SLOT(GetErrorMessage, 2);
SNN_ASSERT_SLOT(CreateEnv, 3);
SNN_ASSERT_SLOT(CreateSession, 7);
SNN_ASSERT_SLOT(Run, 9);
SNN_ASSERT_SLOT(CreateSessionOptions, 10);
SNN_ASSERT_SLOT(SessionGetInputCount, 30);
SNN_ASSERT_SLOT(SessionGetOutputCount, 31);
SNN_ASSERT_SLOT(SessionGetInputTypeInfo, 33);
SNN_ASSERT_SLOT(SessionGetInputName, 36);
SNN_ASSERT_SLOT(SessionGetOutputName, 37);
SNN_ASSERT_SLOT(CreateTensorWithDataAsOrtValue, 49);
SNN_ASSERT_SLOT(GetTensorMutableData, 51);
SNN_ASSERT_SLOT(CastTypeInfoToTensorInfo, 55);
SNN_ASSERT_SLOT(GetTensorElementType, 60);
SNN_ASSERT_SLOT(GetDimensionsCount, 61);
SNN_ASSERT_SLOT(GetDimensions, 62);
SNN_ASSERT_SLOT(GetTensorShapeElementCount, 64);
SNN_ASSERT_SLOT(GetTensorTypeAndShape, 65);
SNN_ASSERT_SLOT(CreateCpuMemoryInfo, 69);
SNN_ASSERT_SLOT(AllocatorFree, 76);
SNN_ASSERT_SLOT(GetAllocatorWithDefaultOptions, 78);
SNN_ASSERT_SLOT(ReleaseEnv, 92);
SNN_ASSERT_SLOT(ReleaseStatus, 93);
SNN_ASSERT_SLOT(ReleaseMemoryInfo, 94);
SNN_ASSERT_SLOT(ReleaseSession, 95);
SNN_ASSERT_SLOT(ReleaseValue, 96);
SNN_ASSERT_SLOT(ReleaseTypeInfo, 98);
SNN_ASSERT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
SNN_ASSERT_SLOT(ReleaseSessionOptions, 100);
SNN_ASSERT_SLOT(RegisterCustomOpsLibrary_V2, 228);

#endif
