// The one exported symbol: ONNX Runtime calls it when a session's options name this library.
#include <atomic>
#include <new>

#include "multi_threshold_fire.h"

#if defined(_WIN32)
#define SNN_EXPORT __declspec(dllexport)
#else
#define SNN_EXPORT __attribute__((visibility("default")))
#endif

namespace snn {
namespace {

constexpr const char* kDomain = "ai.snn";

// What one loaded runtime needs from us. Sessions use it until the process ends, so it
// is never freed; a process holds one per runtime, however often options are registered.
struct Library {
  explicit Library(const ort::ApiBase* runtime, const ort::Api& resolved)
      : base(runtime), api(resolved), fire(make_multi_threshold_fire(api)) {}
  const ort::ApiBase* base;
  ort::Api api;
  MultiThresholdFireOp fire;
  ort::CustomOpDomain* domain = nullptr;
  Library* next = nullptr;
};

std::atomic<Library*> libraries{nullptr};

ort::Status* open_library(const ort::ApiBase* base, Library** out) {
  for (Library* library = libraries.load(); library != nullptr; library = library->next) {
    if (library->base == base) {
      *out = library;
      return nullptr;
    }
  }
  const ort::Table* table = base->GetApi(ort::kApiVersion);
  if (table == nullptr) {  // CreateStatus has been slot 0 since the first table
    const ort::Table* first = base->GetApi(1);
    if (first == nullptr) return nullptr;
    decltype(ort::Api::CreateStatus) create_status = nullptr;
    ort::resolve(create_status, *first, 0);
    return create_status(ort::kFail, "the snn-compile operators need ONNX Runtime 1.16 or newer");
  }
  const ort::Api api = ort::resolve_api(*table, base->GetApi(ort::kApiVersionParallelFor));
  Library* library = new (std::nothrow) Library(base, api);
  if (library == nullptr) return api.CreateStatus(ort::kFail, "snn-compile operators: out of memory");
  ort::Status* status = api.CreateCustomOpDomain(kDomain, &library->domain);
  if (status == nullptr) status = api.CustomOpDomain_Add(library->domain, &library->fire);
  if (status != nullptr) {
    delete library;
    return status;
  }
  library->next = libraries.load();
  while (!libraries.compare_exchange_weak(library->next, library)) {
  }
  *out = library;
  return nullptr;
}

}  // namespace
}  // namespace snn

extern "C" SNN_EXPORT ort::Status* ORT_CALL RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  snn::Library* library = nullptr;
  if (ort::Status* status = snn::open_library(base, &library)) return status;
  return library == nullptr ? nullptr : library->api.AddCustomOpDomain(options, library->domain);
}
