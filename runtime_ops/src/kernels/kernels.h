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

// A table of few runs of equal levels, in the forms that climb.h holds in registers. An end is the
// first cell of a run but the lowest. Buckets of positions tell which ends are near: numbers of
// buckets never descend, so that a position of a lower bucket than an end's lies below the end, one
// of a higher bucket above it.
struct FewLevels {
  static constexpr int kEven = 32, kMost = 64, kMostSteps = 4;
  enum Form { kByBucket, kUpTo32, kUpTo64 } form;
  int steps;       // the most ends in one bucket, without end 0
  float rate;      // buckets for one cell, of so few bits that its product with any cell is exact
  float last_end;  // and all above it
  float lowest_end;
  // kByBucket: of each of 32 buckets an end, the level below it, and the one from it on.
  // Otherwise: of each of 64 buckets the last end before it, or end 0; of each end where the one
  // behind it is, or kMaxCells, and the level from it on; below[0] is the level below all ends.
  alignas(64) uint16_t first[kMost];
  alignas(64) uint16_t ends[kMost];
  alignas(64) float below[kEven];
  alignas(64) float above[kMost];
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
