/* Runs a compiled SNN model with the C++ kernels of libsnn_ops.so, without Python.
 *
 *   cc -std=c11 -o embed embed.c -ldl
 *   embed ONNXRUNTIME_LIB SNN_OPS_LIB MODEL.onnx INPUT.f32 [dims...]
 *
 *   ONNXRUNTIME_LIB  libonnxruntime.so, version 1.16 or newer; opened at run time, so nothing
 *                    of the runtime is needed to compile or link this file
 *   SNN_OPS_LIB      libsnn_ops.so
 *   MODEL.onnx       a model with one float32 input
 *   INPUT.f32        the input's values, row by row, as float32 in the machine's byte order and
 *                    nothing else; the word "zeros" feeds zeros instead
 *   dims             shape of the input; without them the shape that the model declares, with 1
 *                    for each dimension that it leaves open
 *
 * For each output it prints a line "# NAME [dims]" and then one value per line, with the nine
 * digits that give the same float32 back. Exit code 0: done, 1: something failed, with what and
 * where on stderr, 2: wrong arguments.
 *
 * The steps are in run(): environment, session options, RegisterCustomOpsLibrary_V2, session,
 * input, Run, outputs. A program of its own keeps environment and session and repeats the rest.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "ort_c_view.h"
#endif

/* The version of the runtime's table that is asked for; ONNX Runtime 1.16 introduced it. */
enum { API_VERSION = 16, MAX_RANK = 32 };

typedef const OrtApiBase *(*GetApiBase)(void);

typedef struct Arguments {
  const char *runtime, *operators, *model, *input;
  int64_t dims[MAX_RANK];
  size_t rank;
  int has_dims;
} Arguments;

/* 0 for success. Otherwise prints the runtime's message, releases the status and gives -1. */
static int failed(const OrtApi *api, OrtStatus *status, const char *what, const char *where) {
  if (status == NULL) {
    return 0;
  }
  fprintf(stderr, "embed: %s: %s: %s\n", what, where, api->GetErrorMessage(status));
  api->ReleaseStatus(status);
  return -1;
}

/* Reads a shape given as arguments. */
static int parse_dims(char **text, size_t rank, Arguments *arguments) {
  if (rank > MAX_RANK) {
    fprintf(stderr, "embed: %zu dimensions, at most %d are possible\n", rank, MAX_RANK);
    return -1;
  }
  for (size_t i = 0; i < rank; ++i) {
    char *end = NULL;
    errno = 0;
    const long long dim = strtoll(text[i], &end, 10);
    if (end == text[i] || *end != '\0' || errno != 0 || dim < 0) {
      fprintf(stderr, "embed: dimension '%s' is not a whole number of at least 0\n", text[i]);
      return -1;
    }
    arguments->dims[i] = (int64_t)dim;
  }
  arguments->rank = rank;
  arguments->has_dims = rank > 0;
  return 0;
}

/* "[1,8,8]", for messages and for the line above an output's values. */
static void print_dims(FILE *stream, const int64_t *dims, size_t rank) {
  fputc('[', stream);
  for (size_t i = 0; i < rank; ++i) {
    fprintf(stream, i == 0 ? "%lld" : ",%lld", (long long)dims[i]);
  }
  fputc(']', stream);
}

/* Element type and shape of the model's input, a float32 tensor unless this fails. */
static int declared_dims(const OrtApi *api, const OrtSession *session, const char *model,
                         int64_t *dims, size_t *rank) {
  int result = -1;
  OrtTypeInfo *type = NULL;
  const OrtTensorTypeAndShapeInfo *tensor = NULL; /* belongs to `type` */
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

  if (failed(api, api->SessionGetInputTypeInfo(session, 0, &type), "type of the input", model) ||
      failed(api, api->CastTypeInfoToTensorInfo(type, &tensor), "type of the input", model)) {
    goto done;
  }
  if (tensor == NULL) {
    fprintf(stderr, "embed: %s: the input is not a tensor\n", model);
    goto done;
  }
  if (failed(api, api->GetTensorElementType(tensor, &element), "type of the input", model) ||
      failed(api, api->GetDimensionsCount(tensor, rank), "shape of the input", model)) {
    goto done;
  }
  if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || *rank > MAX_RANK) {
    fprintf(stderr, "embed: %s: the input has element type %d and rank %zu, not float32 (1) and at most %d\n",
            model, (int)element, *rank, MAX_RANK);
    goto done;
  }
  if (failed(api, api->GetDimensions(tensor, dims, *rank), "shape of the input", model)) {
    goto done;
  }
  for (size_t i = 0; i < *rank; ++i) {
    if (dims[i] < 0) { /* left open */
      dims[i] = 1;
    }
  }
  result = 0;

done:
  if (type != NULL) {
    api->ReleaseTypeInfo(type);
  }
  return result;
}

/* Allocates and fills the input's values; NULL after a message. */
static float *read_input(const char *path, const int64_t *dims, size_t rank, size_t *count) {
  *count = 1;
  for (size_t i = 0; i < rank; ++i) {
    if (dims[i] != 0 && *count > PTRDIFF_MAX / sizeof(float) / (uint64_t)dims[i]) {
      fputs("embed: too many values for a shape of ", stderr);
      print_dims(stderr, dims, rank);
      fputc('\n', stderr);
      return NULL;
    }
    *count *= (size_t)dims[i];
  }

  float *values = calloc(*count > 0 ? *count : 1, sizeof(float));
  if (values == NULL) {
    fprintf(stderr, "embed: no memory for %zu input values\n", *count);
    return NULL;
  }
  if (strcmp(path, "zeros") == 0) {
    return values;
  }

  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    fprintf(stderr, "embed: %s: %s\n", path, strerror(errno));
    free(values);
    return NULL;
  }
  const size_t bytes = fread(values, 1, *count * sizeof(float), file);
  const int more = bytes == *count * sizeof(float) && fgetc(file) != EOF;
  const int error = ferror(file) ? errno : 0;
  fclose(file);
  if (error != 0) {
    fprintf(stderr, "embed: %s: %s\n", path, strerror(error));
  } else if (more || bytes != *count * sizeof(float)) {
    fprintf(stderr, "embed: %s has %s %zu bytes, the input takes %zu values of 4 bytes, shape ",
            path, more ? "more than" : "only", bytes, *count);
    print_dims(stderr, dims, rank);
    fputc('\n', stderr);
  } else {
    return values;
  }
  free(values);
  return NULL;
}

/* Prints one output. */
static int print_output(const OrtApi *api, OrtValue *value, const char *name) {
  int result = -1;
  OrtTensorTypeAndShapeInfo *tensor = NULL;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  int64_t dims[MAX_RANK];
  size_t rank = 0;
  size_t count = 0;
  void *data = NULL; /* belongs to `value` */

  if (failed(api, api->GetTensorTypeAndShape(value, &tensor), "type of output", name) ||
      failed(api, api->GetTensorElementType(tensor, &element), "type of output", name) ||
      failed(api, api->GetDimensionsCount(tensor, &rank), "shape of output", name)) {
    goto done;
  }
  if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || rank > MAX_RANK) {
    fprintf(stderr, "embed: output %s has element type %d and rank %zu, not float32 (1) and at most %d\n",
            name, (int)element, rank, MAX_RANK);
    goto done;
  }
  if (failed(api, api->GetDimensions(tensor, dims, rank), "shape of output", name) ||
      failed(api, api->GetTensorShapeElementCount(tensor, &count), "shape of output", name) ||
      failed(api, api->GetTensorMutableData(value, &data), "values of output", name)) {
    goto done;
  }
  printf("# %s ", name);
  print_dims(stdout, dims, rank);
  putchar('\n');
  for (size_t i = 0; i < count; ++i) {
    printf("%.9g\n", (double)((const float *)data)[i]);
  }
  result = 0;

done:
  if (tensor != NULL) {
    api->ReleaseTensorTypeAndShapeInfo(tensor);
  }
  return result;
}

static int run(const OrtApi *api, Arguments *arguments) {
  const char *model = arguments->model;
  int result = -1;
  OrtEnv *env = NULL;
  OrtSessionOptions *options = NULL;
  OrtSession *session = NULL;
  OrtAllocator *allocator = NULL; /* the runtime's own, not to be released */
  OrtMemoryInfo *memory = NULL;
  OrtValue *input = NULL;
  float *input_values = NULL;
  size_t input_count = 0;
  size_t value_count = 0;
  size_t output_count = 0;
  char *input_name = NULL;
  char **output_names = NULL;
  OrtValue **outputs = NULL;

  if (failed(api, api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "embed", &env), "environment", "create") ||
      failed(api, api->CreateSessionOptions(&options), "session options", "create")) {
    goto done;
  }

  /* The one step that is ours. The runtime opens the library and closes it with the last session
   * that uses it. Without this step the same model runs on the functions that it carries. */
  if (failed(api, api->RegisterCustomOpsLibrary_V2(options, arguments->operators),
             "register operators", arguments->operators)) {
    goto done;
  }
  if (failed(api, api->CreateSession(env, model, options, &session), "open model", model)) {
    goto done;
  }

  if (failed(api, api->SessionGetInputCount(session, &input_count), "inputs", model) ||
      failed(api, api->SessionGetOutputCount(session, &output_count), "outputs", model)) {
    goto done;
  }
  if (input_count != 1) {
    fprintf(stderr, "embed: %s has %zu inputs, this example feeds one\n", model, input_count);
    goto done;
  }
  output_names = calloc(output_count + 1, sizeof *output_names);
  outputs = calloc(output_count + 1, sizeof *outputs);
  if (output_names == NULL || outputs == NULL) {
    fprintf(stderr, "embed: no memory for %zu outputs\n", output_count);
    goto done;
  }

  /* Names come in memory of the allocator. */
  if (failed(api, api->GetAllocatorWithDefaultOptions(&allocator), "allocator", "get") ||
      failed(api, api->SessionGetInputName(session, 0, allocator, &input_name), "input's name", model)) {
    goto done;
  }
  for (size_t i = 0; i < output_count; ++i) {
    if (failed(api, api->SessionGetOutputName(session, i, allocator, &output_names[i]), "output's name",
               model)) {
      goto done;
    }
  }

  /* The tensor uses our memory: input_values must live until the run is over. */
  int64_t dims[MAX_RANK];
  size_t rank = 0;
  if (declared_dims(api, session, model, dims, &rank) != 0) {
    goto done;
  }
  if (arguments->has_dims) {
    rank = arguments->rank;
    memcpy(dims, arguments->dims, sizeof dims);
  }
  input_values = read_input(arguments->input, dims, rank, &value_count);
  if (input_values == NULL ||
      failed(api, api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), "memory info",
             "create") ||
      failed(api,
             api->CreateTensorWithDataAsOrtValue(memory, input_values, value_count * sizeof(float), dims, rank,
                                                 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input),
             "input", input_name)) {
    goto done;
  }

  if (failed(api,
             api->Run(session, NULL, (const char *const *)&input_name, (const OrtValue *const *)&input, 1,
                      (const char *const *)output_names, output_count, outputs),
             "run", model)) {
    goto done;
  }
  for (size_t i = 0; i < output_count; ++i) {
    if (print_output(api, outputs[i], output_names[i]) != 0) {
      goto done;
    }
  }
  if (fflush(stdout) != 0) {
    fprintf(stderr, "embed: standard output: %s\n", strerror(errno));
    goto done;
  }
  result = 0;

done:
  for (size_t i = 0; i < output_count; ++i) {
    if (outputs != NULL && outputs[i] != NULL) {
      api->ReleaseValue(outputs[i]);
    }
    if (output_names != NULL && output_names[i] != NULL &&
        failed(api, api->AllocatorFree(allocator, output_names[i]), "output's name", "free")) {
      result = -1;
    }
  }
  free(outputs);
  free(output_names);
  if (input_name != NULL && failed(api, api->AllocatorFree(allocator, input_name), "input's name", "free")) {
    result = -1;
  }
  if (input != NULL) {
    api->ReleaseValue(input);
  }
  free(input_values);
  if (memory != NULL) {
    api->ReleaseMemoryInfo(memory);
  }
  if (session != NULL) {
    api->ReleaseSession(session);
  }
  if (options != NULL) {
    api->ReleaseSessionOptions(options);
  }
  if (env != NULL) {
    api->ReleaseEnv(env);
  }
  return result;
}

int main(int argc, char **argv) {
  Arguments arguments = {0};
  if (argc < 5) {
    fputs("usage: embed ONNXRUNTIME_LIB SNN_OPS_LIB MODEL.onnx INPUT.f32|zeros [dims...]\n", stderr);
    return 2;
  }
  arguments.runtime = argv[1];
  arguments.operators = argv[2];
  arguments.model = argv[3];
  arguments.input = argv[4];
  if (parse_dims(argv + 5, (size_t)argc - 5, &arguments) != 0) {
    return 2;
  }

  void *runtime = dlopen(arguments.runtime, RTLD_NOW | RTLD_LOCAL);
  if (runtime == NULL) {
    fprintf(stderr, "embed: open ONNX Runtime: %s\n", dlerror());
    return 1;
  }
  int result = -1;
  GetApiBase get_api_base = NULL;
  void *symbol = dlsym(runtime, "OrtGetApiBase");
  if (symbol == NULL) {
    fprintf(stderr, "embed: %s is not ONNX Runtime: it has no OrtGetApiBase\n", arguments.runtime);
  } else {
    memcpy(&get_api_base, &symbol, sizeof symbol); /* C has no cast from data to function pointers */
    const OrtApiBase *base = get_api_base();
    const OrtApi *api = base->GetApi(API_VERSION);
    if (api == NULL) {
      fprintf(stderr, "embed: %s is ONNX Runtime %s, 1.%d or newer is needed\n", arguments.runtime,
              base->GetVersionString(), API_VERSION);
    } else {
      result = run(api, &arguments);
    }
  }
  dlclose(runtime);
  return result == 0 ? 0 : 1;
}
