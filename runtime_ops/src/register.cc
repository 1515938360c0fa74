// The one exported symbol: ONNX Runtime calls it when a session's options name this library.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>

#include "allocate.h"
#include "operators/operators.h"

#if defined(_WIN32)
#define SNN_EXPORT __declspec(dllexport)
#else
#define SNN_EXPORT __attribute__((visibility("default")))
#endif

namespace snn {
namespace {

constexpr const char* kDomain = "ai.snn";
constexpr const char* kToolDomain = "ai.snn.tools";

// What one loaded runtime needs from us. Sessions use it until the process ends, so it
// is never freed; a process holds one per runtime, however often options are registered
// (two, where two threads are the first to register at the same moment).
struct Library {
  const ort::ApiBase* base = nullptr;
  ort::Api api{};
  Operator operators[std::size(kDescribe) * kElements] = {};
  Operator observe = {};
  ort::CustomOpDomain* domain = nullptr;
  ort::CustomOpDomain* tools = nullptr;
  Library* next = nullptr;
};

std::atomic<Library*> libraries{nullptr};

// Null where the runtime is older. One that is asked for a table it does not have prints so
// to stderr, therefore its version string, "1.<table>.<patch>", is looked at first.
const ort::Table* newer_table(const ort::ApiBase& base, uint32_t version) {
  const char* text = base.GetVersionString();
  if (text != nullptr && std::strncmp(text, "1.", 2) == 0 && std::strtoul(text + 2, nullptr, 10) < version) return nullptr;
  return base.GetApi(version);
}

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
    ort::resolve(create_status, *first, ort::slot::CreateStatus);
    return create_status(ort::kFail, "the snn-compile operators need ONNX Runtime 1.16 or newer");
  }
  const ort::Table* newer = newer_table(*base, ort::kApiVersionParallelFor);
  const ort::Api api = ort::resolve_api(*table, newer);
  void* memory = allocate<Library>();
  if (memory == nullptr) return api.CreateStatus(ort::kFail, "snn-compile operators: out of memory");
  Library* library = new (memory) Library;
  library->base = base;
  library->api = api;
  const bool in_place = newer_table(*base, ort::kApiVersionInPlace) != nullptr;
  const auto add = [&](ort::CustomOpDomain* domain, Operator& op, Element element, void (*describe)(Operator&)) {
    op.version = in_place ? ort::kApiVersionInPlace : newer != nullptr ? ort::kApiVersionParallelFor : ort::kApiVersion;
    op.api = &library->api;
    op.kernels = &select_kernels();
    op.element = element;
    describe(op);
    return api.CustomOpDomain_Add(domain, &op);
  };
  ort::Status* status = api.CreateCustomOpDomain(kDomain, &library->domain);
  if (status == nullptr) status = api.CreateCustomOpDomain(kToolDomain, &library->tools);
  size_t index = 0;
  for (const auto describe : kDescribe) {
    for (int element = 0; element < kElements && status == nullptr; ++element) {
      status = add(library->domain, library->operators[index++], static_cast<Element>(element), describe);
    }
  }
  if (status == nullptr) status = add(library->tools, library->observe, kFloat32, describe_observe);
  if (status != nullptr) {
    for (ort::CustomOpDomain* domain : {library->domain, library->tools}) {
      if (domain != nullptr) api.ReleaseCustomOpDomain(domain);
    }
    std::free(library);
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
  if (library == nullptr) return nullptr;
  if (ort::Status* status = library->api.AddCustomOpDomain(options, library->domain)) return status;
  return library->api.AddCustomOpDomain(options, library->tools);
}
