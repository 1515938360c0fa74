// The neurons' arithmetic on spans of memory: no runtime, no ABI. Everything under kernels/
// except select.cc and histogram.cc is compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace snn {

enum Element : int { kFloat32, kFloat16, kFloat64 };
constexpr int kElements = 3;

// float16 is a storage type: kernels widen it to float32, compute there and round the
// result once, as the function body of a float16 neuron does.
struct Half {
  uint16_t bits;
};

// How a contiguous tensor is seen: [outer, channels, inner], the channel axis in the
// middle. One channel: a scalar threshold, `inner` is then of no account.
struct Layout {
  size_t channels = 1;
  size_t inner = 1;
};

struct FireParameters {
  const void* theta;  // `channels` values of the element type
  float levels_pos;   // N+ and N- as exact floats (at most 2^24)
  float levels_neg;
  float v0;  // initial membrane potential, in units of theta
};

struct IntegrateParameters {
  FireParameters neuron;
  size_t timesteps;
  size_t step;  // elements of one timestep; X and Y hold timesteps * step
};

struct OctaveParameters {
  const void* scale;  // `channels` values of the element type
  float linear;       // m, top+ and top- as exact floats (at most 2^24)
  float top_pos;
  float top_neg;
};

constexpr int kMaxCells = 4096;

// A table of at most 32 runs of equal levels: where one run ends and the next begins, counted in
// cells, as the binary search tree that climb.h walks, and the levels in the order of its index.
struct FewLevels {
  static constexpr int kDepth = 5;
  static constexpr int kLevels = 1 << kDepth;
  alignas(64) float tree[kLevels];
  alignas(64) float levels[kLevels];
};

struct StaircaseParameters {
  const void* scale;     // `channels` values of the element type
  const void* table;     // float for float16 and float32, double for float64
  const FewLevels* few;  // the same table, or null
  float density;
  float start;
  float last;  // the number of cells less 1
};

// Y[begin, end) of the flattened tensor; X and Y may be the same memory, not overlap otherwise.
template <typename Parameters>
using Kernel = void (*)(const void* x, void* y, size_t begin, size_t end, const Layout&, const Parameters&);

struct Kernels {
  Kernel<FireParameters> fire[kElements];
  Kernel<OctaveParameters> scale[kElements];
  Kernel<StaircaseParameters> staircase[kElements];
  // begin and end count within one timestep; every timestep of that range is computed.
  Kernel<IntegrateParameters> integrate[kElements];
};

namespace baseline {
extern const Kernels kernels;
}
#ifdef SNN_DISPATCH_AVX2
namespace avx2 {
extern const Kernels kernels;
}
#endif
#ifdef SNN_DISPATCH_AVX512
namespace avx512 {
extern const Kernels kernels;
}
#endif

// The best of them that this processor executes. The environment variable SNN_OPS_ISA
// (baseline, avx2, avx512) sets an upper limit: for tests and comparisons.
const Kernels& select_kernels();

}  // namespace snn
