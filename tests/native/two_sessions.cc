// Two sessions at once, for ThreadSanitizer: options registered from two threads, for one
// runtime and for two, then kernels of their own and one that both share, as a session does
// whose Run is called from two threads. Results must equal those computed alone.
#include <iterator>
#include <memory>

#include "fake_runtime.h"

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "two_sessions: %s\n", what);
  std::abort();
}

void require_ok(ort::Status* status) { require(status == nullptr, status == nullptr ? "" : status->message.c_str()); }

constexpr const char* kNames[] = {"MultiThresholdFire", "ScaleFire", "DualScaleFire", "StaircaseFire", "IntegrateFire"};
constexpr ort::ElementType kTypes[] = {ort::kFloat, ort::kHalf, ort::kDouble};
constexpr int64_t kRows = 4, kChannels = 5, kInner = 2000;  // more than one chunk

// One node: X [4, 5, 2000] against 5 thetas or scales.
struct Node {
  const ort::CustomOp* op;
  std::vector<std::unique_ptr<ort::Value>> inputs;
  void* kernel = nullptr;

  Node(const ort::SessionOptions& options, const char* name, ort::ElementType type)
      : op(fake::find_operator(options, name, type)) {
    require(op != nullptr, "an operator is not registered");
    add(type, {kRows, kChannels, kInner}, -3.0, 0.001);
    add(type, {kChannels}, 0.5, 0.25);
    ort::KernelInfo info{"neuron", {}, {}};
    if (op->GetInputTypeCount(op) == 3) {
      add(type, {40}, -1.0, 0.25);
      info.attributes["density"] = 8.0f;
      info.attributes["start"] = -20.0f;
    } else {
      for (const char* attribute : {"levels_pos", "linear", "top_pos"}) info.attributes[attribute] = int64_t{7};
      for (const char* attribute : {"levels_neg", "top_neg"}) info.attributes[attribute] = int64_t{3};
      info.attributes["timesteps"] = int64_t{2};
    }
    for (const auto& input : inputs) info.constants.push_back(input == inputs[0] ? nullptr : input.get());
    require_ok(op->CreateKernelV2(op, nullptr, &info, &kernel));
  }
  ~Node() { op->KernelDestroy(kernel); }

  std::vector<unsigned char> run() const {
    const ort::Value& x = *inputs[0];
    ort::Value y(x.type, x.dims, x.count);
    ort::KernelContext context;
    for (const auto& input : inputs) context.inputs.push_back(input.get());
    context.output = &y;
    context.threads = 2;
    require_ok(op->KernelComputeV2(kernel, &context));
    const auto* bytes = static_cast<const unsigned char*>(y.data);
    return {bytes, bytes + y.bytes()};
  }

 private:
  void add(ort::ElementType type, std::vector<int64_t> dims, double first, double step) {
    size_t count = 1;
    for (int64_t dim : dims) count *= static_cast<size_t>(dim);
    auto tensor = std::make_unique<ort::Value>(type, std::move(dims), count);
    for (size_t i = 0; i < count; ++i) {
      const double value = first + step * static_cast<double>(i % 8000);
      if (type == ort::kFloat) static_cast<float*>(tensor->data)[i] = static_cast<float>(value);
      else if (type == ort::kDouble) static_cast<double*>(tensor->data)[i] = value;
      // float16 of the sign, exponent and fraction that these small steps walk through
      else static_cast<uint16_t*>(tensor->data)[i] = static_cast<uint16_t>(0x3800 + i % 2048);
    }
    inputs.push_back(std::move(tensor));
  }
};

std::vector<std::unique_ptr<Node>> make_nodes(const ort::SessionOptions& options) {
  std::vector<std::unique_ptr<Node>> nodes;
  for (const char* name : kNames) {
    for (ort::ElementType type : kTypes) nodes.push_back(std::make_unique<Node>(options, name, type));
  }
  return nodes;
}

// Both threads pass at once.
class Gate {
 public:
  void pass() {
    ++waiting_;
    while (waiting_.load() < 2) {
    }
  }

 private:
  std::atomic<int> waiting_{0};
};

void round(bool one_runtime) {
  // Not freed: the library knows the runtimes by their addresses.
  auto* bases = new ort::ApiBase[3]{fake::kBase<18>, fake::kBase<18>, fake::kBase<18>};
  ort::SessionOptions alone;
  require_ok(RegisterCustomOps(&alone, &bases[2]));
  const auto shared = make_nodes(alone);
  std::vector<std::vector<unsigned char>> expected;
  for (const auto& node : shared) expected.push_back(node->run());

  Gate registering, running;
  const auto session = [&](int index) {
    ort::SessionOptions options;
    registering.pass();
    require_ok(RegisterCustomOps(&options, &bases[one_runtime ? 0 : index]));
    require(options.domains.size() == 2 && options.domains[0]->operators.size() == std::size(kNames) * std::size(kTypes), "not all operators are registered");
    require(options.domains[1]->operators.size() == 1, "the observer is not registered");
    const auto own = make_nodes(options);
    running.pass();
    for (size_t i = 0; i < own.size(); ++i) {
      require(own[i]->run() == expected[i], "a session of its own gives another result");
      require(shared[i]->run() == expected[i], "a shared session gives another result");
    }
  };
  std::thread other(session, 1);
  session(0);
  other.join();
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  for (int i = 0; i < rounds; ++i) round(i % 2 == 0);
  require(fake::live_statuses == 0 && fake::live_infos == 0, "something was not released");
  std::printf("%d rounds of two sessions\n", rounds);
  return 0;
}
