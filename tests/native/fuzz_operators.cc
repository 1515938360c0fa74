// Fuzzing of the operators against a strict runtime (fake_runtime.h): bytes become a node,
// its tensors and a way of running it; whatever they are, the kernel refuses with a status
// that names the node, or computes the same bits in every way it can be run.
//
// With libFuzzer, or by itself (SNN_STANDALONE): fuzz_operators SECONDS [SEED [INPUT]].
#include <chrono>
#include <cmath>
#include <csignal>
#include <limits>
#include <memory>

#include "fake_runtime.h"

namespace {

#define REQUIRE(condition, ...)                                             \
  do {                                                                      \
    if (!(condition)) {                                                     \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);  \
      std::fprintf(stderr, __VA_ARGS__);                                    \
      std::fprintf(stderr, "\n");                                           \
      std::abort();                                                         \
    }                                                                       \
  } while (false)

constexpr const char* kNames[] = {"MultiThresholdFire", "ScaleFire", "DualScaleFire", "StaircaseFire", "IntegrateFire"};
enum { kMultiThresholdFire, kScaleFire, kDualScaleFire, kStaircaseFire, kIntegrateFire };
constexpr ort::ElementType kTypes[] = {ort::kFloat, ort::kHalf, ort::kDouble};
constexpr const char* kIsas[] = {"baseline", "avx2", "avx512"};
constexpr size_t kMostElements = 4096;
constexpr size_t kMostElementsInParallel = 40000;  // several chunks for the threads

// The library reads the instruction set once per runtime: so there is a runtime for each,
// and one without the parallel loop.
struct Runtime {
  ort::ApiBase base;
  ort::SessionOptions options;
};

void check_descriptor(const ort::CustomOp& op, uint32_t version) {
  REQUIRE(op.version == version, "%u", op.version);
  REQUIRE(op.GetOutputTypeCount(&op) == 1 && op.GetExecutionProviderType(&op) == nullptr, "%s", op.GetName(&op));
  for (size_t i = 0; i < op.GetInputTypeCount(&op); ++i) {
    REQUIRE(op.GetInputType(&op, i) == op.GetOutputType(&op, 0), "%s", op.GetName(&op));
    REQUIRE(op.GetInputCharacteristic(&op, i) == ort::kRequired && op.GetInputMemoryType(&op, i) == 0, "%zu", i);
  }
  REQUIRE(op.GetOutputCharacteristic(&op, 0) == ort::kRequired, "%s", op.GetName(&op));
  int *inputs = nullptr, *outputs = nullptr;
  REQUIRE(op.GetMayInplace(&inputs, &outputs) == 1 && inputs[0] == 0 && outputs[0] == 0, "%s", op.GetName(&op));
  op.ReleaseMayInplace(inputs, outputs);
}

template <uint32_t kNewest>
Runtime* open_runtime(const char* isa) {
  setenv("SNN_OPS_ISA", isa, 1);
  auto* runtime = new Runtime{fake::kBase<kNewest>, {}};
  for (int repeat = 0; repeat < 2; ++repeat) {
    ort::SessionOptions options;
    ort::Status* status = RegisterCustomOps(&options, &runtime->base);
    REQUIRE(status == nullptr && options.domains.size() == 2, "registration failed");
    runtime->options = options;
  }
  for (const ort::CustomOp* op : runtime->options.domains[0]->operators) check_descriptor(*op, kNewest);
  return runtime;
}

// What registration does on a runtime that is too old, or whose functions fail.
void check_refused_registration() {
  ort::SessionOptions options;
  const ort::ApiBase old = fake::kBase<15>;
  ort::Status* status = RegisterCustomOps(&options, &old);
  REQUIRE(status != nullptr && status->message.find("1.16") != std::string::npos, "no word of the version");
  fake::release_status(status);
  const ort::ApiBase nothing = fake::kBase<0>;
  REQUIRE(RegisterCustomOps(&options, &nothing) == nullptr && options.domains.empty(), "took a runtime without tables");
  static ort::ApiBase bases[32];  // the library knows runtimes by their addresses
  for (int call = 0;; ++call) {
    REQUIRE(call < 32, "registration calls the runtime more often than expected");
    bases[call] = fake::kBase<18>;
    fake::calls_until_failure = call;
    status = RegisterCustomOps(&options, &bases[call]);
    const bool failed = fake::calls_until_failure < 0;
    fake::calls_until_failure = -1;
    REQUIRE((status != nullptr) == failed && (options.domains.size() < 2) == failed, "call %d", call);
    if (status == nullptr) break;
    fake::release_status(status);
  }
}

struct Runtimes {
  Runtime* of_isa[3];
  Runtime* without_loop;

  Runtimes() {
    for (int i = 0; i < 3; ++i) of_isa[i] = open_runtime<18>(kIsas[i]);
    without_loop = open_runtime<16>("avx512");
    REQUIRE(open_runtime<17>("avx2") != nullptr, "1.17");
    unsetenv("SNN_OPS_ISA");
  }
};

// The fuzzer's bytes; after the last one zeros, and noise where a tensor needs more.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {
    for (size_t i = 0; i < size; ++i) noise_ = (noise_ ^ data[i]) * 0x100000001b3;
  }
  uint8_t byte() { return size_ == 0 ? 0 : (--size_, *data_++); }
  size_t below(size_t limit) { return (byte() | size_t{byte()} << 8) % limit; }
  bool rarely() { return byte() >= 240; }
  uint64_t bits() {
    if (size_ < 8) return random();
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | byte();
    return value;
  }
  uint64_t random() {
    noise_ ^= noise_ << 13;
    noise_ ^= noise_ >> 7;
    noise_ ^= noise_ << 17;
    return noise_;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  uint64_t noise_ = 0xcbf29ce484222325;
};

// Of a float's bits those that float16 has; a tiny one becomes 0.
uint16_t half_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  return static_cast<uint16_t>(magnitude < 0x38800000 ? sign : sign | ((magnitude - 0x38000000) >> 13));
}

void put(ort::Value& tensor, size_t index, double value) {
  if (tensor.type == ort::kFloat) {
    static_cast<float*>(tensor.data)[index] = static_cast<float>(value);
  } else if (tensor.type == ort::kHalf) {
    static_cast<uint16_t*>(tensor.data)[index] = half_of(static_cast<float>(value));
  } else {
    static_cast<double*>(tensor.data)[index] = value;
  }
}

bool is_nan(const ort::Value& tensor, const void* data, size_t index) {
  if (tensor.type == ort::kFloat) return std::isnan(static_cast<const float*>(data)[index]);
  if (tensor.type == ort::kHalf) return (static_cast<const uint16_t*>(data)[index] & 0x7fff) > 0x7c00;
  return std::isnan(static_cast<const double*>(data)[index]);
}

constexpr double kSpecial[] = {0.0, -0.0, 1.0, -1.0, 0.5, 65504.0, 65520.0, 3.4e38, -3.4e38, 1e-45, 1e-38, 6e-8,
                               8388608.0, 16777216.0, 1e300, 5e-324,
                               std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()};

double special(Bytes& bytes) { return kSpecial[bytes.random() % std::size(kSpecial)]; }
double moderate(Bytes& bytes) { return (static_cast<double>(bytes.random() >> 40) / (1 << 24) - 0.5) * 20; }

void fill(Bytes& bytes, ort::Value& x) {
  const uint8_t kind = bytes.byte();
  const double step = 1.0 / (1 + bytes.byte() % 8);
  const size_t size = fake::size_of(x.type);
  for (size_t i = 0; i < x.count; ++i) {
    const uint64_t raw = kind % 4 == 0 ? bytes.bits() : 0;
    switch (kind % 4) {
      case 0: std::memcpy(static_cast<char*>(x.data) + i * size, &raw, size); break;
      case 1: put(x, i, special(bytes)); break;
      case 2: put(x, i, moderate(bytes)); break;
      default: put(x, i, std::floor(moderate(bytes) * 4) * step);  // on the thresholds
    }
  }
}

// theta or scale: good ones as a rule.
void fill_positive(Bytes& bytes, ort::Value& tensor) {
  const uint8_t kind = bytes.byte();
  for (size_t i = 0; i < tensor.count; ++i) {
    put(tensor, i, kind < 160 ? std::fabs(moderate(bytes)) + 0.01 : kind < 220 ? 0.25 : kind < 240 ? 1e-7 : special(bytes));
  }
}

// A table: runs of equal levels as a rule, a few long ones or many short ones.
void fill_levels(Bytes& bytes, ort::Value& tensor) {
  const uint8_t kind = bytes.byte();
  const uint64_t length = 1 + bytes.byte();
  double value = moderate(bytes);
  for (size_t i = 0; i < tensor.count; ++i) {
    put(tensor, i, kind < 230 ? value : special(bytes));
    if (bytes.random() % length == 0) value = kind < 20 && value > 0 ? -0.0 : moderate(bytes);
  }
}

std::vector<int64_t> make_shape(Bytes& bytes, size_t most) {
  static constexpr int64_t kDims[] = {1,  2,  3,  4,   5,   7,   8,   16,   17,   31,    33,
                                      63, 64, 65, 100, 511, 512, 513, 1000, 4096, 40000, 0};
  const uint8_t kind = bytes.byte();
  const size_t rank = kind < 16 ? 0 : kind < 240 ? 1 + kind % 5 : kind % 35;
  std::vector<int64_t> dims(rank);
  for (int64_t& dim : dims) dim = rank > 8 ? 1 + (bytes.byte() > 250) : kDims[bytes.byte() % std::size(kDims)];
  for (size_t i = 0; i < rank; ++i) {
    size_t count = 1;
    for (int64_t dim : dims) count *= dim == 0 ? 1 : static_cast<size_t>(dim);
    while (count > most && dims[i] > 1) {
      dims[i] /= 2;
      count /= 2;
    }
  }
  return dims;
}

// Shapes that need no memory because they have no elements, or cannot have any.
std::vector<int64_t> impossible_shape(Bytes& bytes) {
  const int64_t huge = int64_t{1} << 40;
  const std::vector<int64_t> shapes[] = {
      {-1},           {3, -2},         {std::numeric_limits<int64_t>::min(), 2}, {int64_t{1} << 62, 8},
      {0, huge, huge}, {huge, huge, 0}, {0, 3, huge, huge}};
  return shapes[bytes.byte() % std::size(shapes)];
}

fake::Attribute odd_attribute(Bytes& bytes) {
  static constexpr int64_t kIntegers[] = {0, -1, 1, 33, 1 << 24, (1 << 24) + 1, int64_t{1} << 31, (int64_t{1} << 31) + 1,
                                          std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()};
  switch (bytes.byte() % 6) {
    case 0: return static_cast<float>(special(bytes));
    case 1: return std::string(bytes.byte(), 'x');
    case 2: return std::vector<float>(bytes.byte() % 3, 1.0f);
    case 3: return std::vector<int64_t>(bytes.byte() % 3, 1);
    case 4: return fake::OtherType{};
    default: return kIntegers[bytes.byte() % std::size(kIntegers)];
  }
}

void set_attribute(Bytes& bytes, ort::KernelInfo& info, const char* name, fake::Attribute value) {
  const uint8_t kind = bytes.byte();
  if (kind < 200) info.attributes[name] = std::move(value);
  else if (kind >= 240) info.attributes[name] = odd_attribute(bytes);
}

// One node with its tensors.
struct Case {
  int op;
  ort::ElementType type;
  ort::KernelInfo info;
  std::vector<std::unique_ptr<ort::Value>> inputs;
  size_t threads;
  int isa;
  bool is_odd = false;  // X has no memory to copy

  explicit Case(Bytes& bytes) {
    op = bytes.byte() % std::size(kNames);
    type = kTypes[bytes.byte() % 3];
    isa = bytes.byte() % 3;
    const bool in_parallel = bytes.byte() >= 248;
    threads = 1 + bytes.byte() % 3;
    const uint8_t name = bytes.byte();
    info.name = name < 200 ? "neuron" : name < 220 ? "" : name < 230 ? "%s%n'" : std::string(size_t{100} + name - 230, 'n');

    int64_t timesteps = 1;
    if (op == kIntegrateFire) {
      timesteps = 1 + static_cast<int64_t>(bytes.byte() % 9);
      set_attribute(bytes, info, "timesteps", timesteps);
    }
    is_odd = bytes.rarely() && bytes.rarely();
    std::vector<int64_t> shape =
        is_odd ? impossible_shape(bytes)
               : make_shape(bytes, (in_parallel ? kMostElementsInParallel : kMostElements) / static_cast<size_t>(timesteps));
    std::vector<int64_t> step = shape;
    if (!is_odd && !shape.empty()) shape[0] *= timesteps;
    const int64_t rank = static_cast<int64_t>(shape.size());
    int64_t axis = rank == 0 || bytes.rarely() ? bytes.byte() - 128 : static_cast<int64_t>(bytes.byte()) % rank;
    if (axis >= 0 && bytes.byte() % 4 == 0) axis -= rank;
    set_attribute(bytes, info, "axis", axis);
    if (op == kMultiThresholdFire || op == kIntegrateFire) {
      const uint8_t levels = bytes.byte();
      set_attribute(bytes, info, "levels_pos", int64_t{levels % 8 == 0 ? 1 << 24 : levels % 40});
      set_attribute(bytes, info, "levels_neg", int64_t{bytes.byte() % 3 == 0 ? bytes.byte() : 0});
      set_attribute(bytes, info, "v0", static_cast<float>(bytes.byte()) / 256);
    } else if (op == kStaircaseFire) {
      set_attribute(bytes, info, "density", static_cast<float>(1 + bytes.byte()) / 16);
      set_attribute(bytes, info, "start", static_cast<float>(bytes.byte()) / 2 - 100);
    } else {
      const int64_t linear = 1 + static_cast<int64_t>(bytes.rarely() ? bytes.below(2100) : bytes.byte() % 32);
      set_attribute(bytes, info, "linear", linear);
      set_attribute(bytes, info, "top_pos", top(bytes, linear));
      set_attribute(bytes, info, "top_neg", bytes.byte() % 2 == 0 ? top(bytes, linear) : 0);
    }

    add(bytes, shape, is_odd ? 0 : count_of(shape));
    fill(bytes, *inputs[0]);
    const int64_t at = axis < 0 ? axis + rank : axis;
    const uint8_t per_channel = bytes.byte();
    std::vector<int64_t> theta;
    if (per_channel >= 246) theta = make_shape(bytes, 64);
    else if (per_channel >= 230) theta = {1};
    else if (per_channel >= 100 && at >= 0 && at < rank && !is_odd) {
      theta = {step[static_cast<size_t>(at)]};
      if (per_channel >= 160) {  // as it broadcasts from the right
        theta.insert(theta.end(), static_cast<size_t>(rank - 1 - at), 1);
        if (per_channel >= 220) theta.insert(theta.begin(), static_cast<size_t>(at), 1);
      }
    }
    add(bytes, theta, count_of(theta));
    fill_positive(bytes, *inputs[1]);
    if (op == kStaircaseFire) {
      const size_t cells = bytes.rarely() ? bytes.below(4200) : 1 + bytes.byte() % (bytes.byte() % 2 == 0 ? 255 : 40);
      std::vector<int64_t> dims = {static_cast<int64_t>(cells)};
      if (bytes.rarely()) dims.insert(dims.begin(), 1);
      add(bytes, dims, cells);
      fill_levels(bytes, *inputs[2]);
    }
    for (const auto& input : inputs) info.constants.push_back(bytes.byte() % 2 == 0 ? input.get() : nullptr);
  }

 private:
  static size_t count_of(const std::vector<int64_t>& dims) {
    size_t count = 1;
    for (int64_t dim : dims) count *= static_cast<size_t>(dim);
    return count;
  }
  void add(Bytes& bytes, const std::vector<int64_t>& dims, size_t count) {
    const ort::ElementType element = bytes.rarely() && bytes.rarely() ? kTypes[bytes.byte() % 3] : type;
    inputs.push_back(std::make_unique<ort::Value>(element, dims, count));
    if (count == 0 && bytes.byte() % 2 == 0) {  // empty tensors may have no memory at all
      std::free(inputs.back()->data);
      inputs.back()->data = nullptr;
    }
  }
  // A level as a rule: a multiple of its octave's step.
  static int64_t top(Bytes& bytes, int64_t linear) {
    int64_t step = 1;
    for (int octave = bytes.byte() % 8; octave > 0; --octave) step *= 2;
    return bytes.rarely() ? static_cast<int64_t>(bytes.below(500)) : linear * step;
  }
};

struct Outcome {
  std::string refusal;  // empty: it computed
  std::vector<unsigned char> y;
};

// What a status says, released.
std::string text_of(ort::Status* status) {
  if (status == nullptr) return "";
  REQUIRE(!status->message.empty(), "a status without words");
  const std::string text = status->message;
  fake::release_status(status);
  return text;
}

enum class Memory { kApart, kInPlace };

Outcome compute_once(const Case& node, const ort::CustomOp& op, void* kernel, size_t threads, Memory memory, uint8_t sentinel) {
  const ort::Value& x = *node.inputs[0];
  ort::KernelContext context;
  context.threads = threads;
  for (const auto& input : node.inputs) context.inputs.push_back(input.get());
  ort::Value y(x.type, x.dims, x.count);
  ort::Value copy(x.type, x.dims, x.count);
  context.output = &y;
  if (x.count != 0) {
    std::memset(y.data, sentinel, y.bytes());
    std::memcpy(copy.data, x.data, x.bytes());
  }
  if (memory == Memory::kInPlace) {  // the runtime's in-place output is X's own tensor
    context.inputs[0] = &copy;
    context.output = &copy;
  }
  Outcome outcome;
  outcome.refusal = text_of(op.KernelComputeV2(kernel, &context));
  if (!outcome.refusal.empty()) return outcome;
  REQUIRE(context.asked == 1 && context.asked_dims == x.dims, "Y must be asked for once, in X's shape");
  if (x.count == 0) return outcome;
  if (memory == Memory::kApart) REQUIRE(std::memcmp(copy.data, x.data, x.bytes()) == 0, "X was written to");
  const auto* bytes = static_cast<const unsigned char*>(context.output->data);
  outcome.y.assign(bytes, bytes + x.bytes());
  return outcome;
}

// `same_code`: run by the same instructions. Where IntegrateFire adds a NaN to a NaN, it is the
// order of the operands, the compiler's choice, whose payload stays: others may have another.
void compare(const Case& node, const Outcome& expected, const Outcome& found, const char* what, bool same_code) {
  REQUIRE(expected.refusal == found.refusal, "%s: '%s', otherwise '%s'", what, found.refusal.c_str(), expected.refusal.c_str());
  REQUIRE(expected.y.size() == found.y.size(), "%s", what);
  const size_t size = fake::size_of(node.type);
  for (size_t i = 0; i < found.y.size(); i += size) {
    uint64_t one = 0, other = 0;
    std::memcpy(&one, &expected.y[i], size);
    std::memcpy(&other, &found.y[i], size);
    const ort::Value& x = *node.inputs[0];
    if (!same_code && node.op == kIntegrateFire && is_nan(x, &one, 0) && is_nan(x, &other, 0)) continue;
    REQUIRE(one == other, "%s: element %zu of %s is %llx, otherwise %llx", what, i / size, kNames[node.op],
            static_cast<unsigned long long>(other), static_cast<unsigned long long>(one));
  }
}

void check_text(const Case& node, const std::string& text) {
  const std::string name = node.info.name.size() < 128 ? "node '" + node.info.name + "'" : "node '(name too long)'";
  REQUIRE(text.find(std::string(kNames[node.op]) + " " + name) == 0, "'%s'", text.c_str());
}

void check_nan(const Case& node, const Outcome& outcome) {
  const ort::Value& x = *node.inputs[0];
  for (size_t i = 0; i < x.count && !outcome.y.empty(); ++i) {
    const bool in = is_nan(x, x.data, i);
    const bool out = is_nan(x, outcome.y.data(), i);
    // Potentials that add up may also cancel infinities.
    REQUIRE(in == out || (out && node.op == kIntegrateFire), "element %zu: NaN %d gives NaN %d", i, in, out);
  }
}

class Kernel {
 public:
  Kernel(const Case& node, const Runtime& runtime)
      : op(*fake::find_operator(runtime.options, kNames[node.op], node.type)),
        refusal(text_of(op.CreateKernelV2(&op, nullptr, &node.info, &state))) {}
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() {
    if (refusal.empty()) op.KernelDestroy(state);
  }
  const ort::CustomOp& op;
  void* state = nullptr;
  std::string refusal;
};

void check_every_way(const Case& node, const Runtimes& runtimes) {
  Kernel kernel(node, *runtimes.of_isa[node.isa]);
  Kernel baseline(node, *runtimes.of_isa[0]);
  Kernel without_loop(node, *runtimes.without_loop);
  REQUIRE(kernel.refusal == baseline.refusal && kernel.refusal == without_loop.refusal, "'%s' '%s'", kernel.refusal.c_str(),
          baseline.refusal.c_str());
  if (!kernel.refusal.empty()) {
    check_text(node, kernel.refusal);
    return;
  }
  const auto run = [&](const Kernel& of, size_t threads, Memory memory, uint8_t sentinel) {
    return compute_once(node, of.op, of.state, threads, memory, sentinel);
  };
  const Outcome first = run(kernel, 1, Memory::kApart, 0xff);
  if (!first.refusal.empty()) check_text(node, first.refusal);
  check_nan(node, first);
  compare(node, first, run(kernel, node.threads, Memory::kApart, 0x7f), "another sentinel and more threads", true);
  compare(node, first, run(kernel, node.threads, Memory::kInPlace, 0), "in place", true);
  compare(node, first, run(baseline, 1, Memory::kApart, 0xff), "baseline", false);
  compare(node, first, run(without_loop, 1, Memory::kInPlace, 0), "without the runtime's loop", false);
}

// A runtime whose n-th call fails: the status comes through, or the node makes do without.
void check_failure(const Case& node, const Runtimes& runtimes, int call) {
  fake::calls_until_failure = call;
  Kernel kernel(node, *runtimes.of_isa[node.isa]);
  if (kernel.refusal.empty()) compute_once(node, kernel.op, kernel.state, 1, Memory::kApart, 0xff);
  fake::calls_until_failure = -1;
}

void check_shape_inference(const Case& node, const Runtimes& runtimes) {
  const ort::CustomOp& op = *fake::find_operator(runtimes.of_isa[node.isa]->options, kNames[node.op], node.type);
  ort::ShapeContext context;
  context.input = {node.type, node.inputs[0]->dims};
  const size_t rank = context.input.dims.size();
  if (rank > 0 && node.inputs[0]->dims[0] % 3 == 0) {  // unknown, with a name or without
    context.input.dims[0] = -1;
    if (node.inputs[0]->dims[0] % 2 == 0) context.input.names.assign(rank, "N");
  }
  bool is_known = rank > 0 && rank <= 32;
  for (int64_t dim : context.input.dims) is_known = is_known && (dim >= 0 || !context.input.names.empty());
  REQUIRE(text_of(op.InferOutputShapeFn(&op, &context)).empty(), "shape inference");
  REQUIRE(context.is_set == is_known, "shape passed on: %d", context.is_set);
  REQUIRE(!is_known || context.output.dims == context.input.dims, "another shape than X's");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Runtimes& runtimes = *[] {
    check_refused_registration();
    return new Runtimes;
  }();
  Bytes bytes(data, size);
  const uint8_t failing = bytes.byte();
  const Case node(bytes);
  check_shape_inference(node, runtimes);
  if (failing >= 224) check_failure(node, runtimes, bytes.byte() % 64);
  else check_every_way(node, runtimes);
  REQUIRE(fake::live_statuses == 0, "%ld statuses not released", fake::live_statuses.load());
  REQUIRE(fake::live_infos == 0, "%ld tensor infos not released", fake::live_infos.load());
  return 0;
}

#ifdef SNN_STANDALONE
extern "C" void __attribute__((weak)) __sanitizer_set_death_callback(void (*)());

namespace {

unsigned long long seed = 0, input = 0;

void tell_input() { std::fprintf(stderr, "to run it again: fuzz_operators 0 %llu %llu\n", seed, input); }

void run_input() {
  uint64_t state = (seed + 1) * 0x9e3779b97f4a7c15 ^ (input + 1) * 0xd1342543de82ef95;
  std::vector<uint8_t> data(64 + input % 192);
  for (uint8_t& byte : data) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<uint8_t>(state >> 56);
  }
  LLVMFuzzerTestOneInput(data.data(), data.size());
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  if (argc > 2) seed = std::strtoull(argv[2], nullptr, 10);
  std::signal(SIGABRT, [](int) { tell_input(); });
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(tell_input);
  if (argc > 3) {
    input = std::strtoull(argv[3], nullptr, 10);
    run_input();
    return 0;
  }
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double passed = 0;
  do {
    run_input();
    ++input;
    passed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (passed < seconds);
  std::printf("%llu executions in %.0f s, %.0f per second\n", input, passed, static_cast<double>(input) / passed);
  return 0;
}
#endif
