// MultiThresholdFire on spans of memory. No runtime, no ABI: arithmetic only.
#pragma once

#include <cstddef>

namespace snn {

// How a contiguous tensor is seen: [outer, channels, inner], the channel axis in the
// middle. `theta` holds 1 value (every element) or `channels` values.
struct FireLayout {
  size_t channels;
  size_t inner;
};

struct FireParameters {
  const float* theta;
  size_t theta_count;
  float levels_pos;  // N+ and N- as exact floats (at most 2^24)
  float levels_neg;
  float v0;  // initial membrane potential, in units of theta
};

// Y[begin, end) of the flattened tensor:
//   c = min(floor(|x| / theta + v0), x < 0 ? N- : N+);  y = theta * (x < 0 ? 0 - c : c)
// evaluated in exactly this order in float32, so that it equals the ONNX function body
// bit for bit. NaN gives NaN; a silent neuron gives +0.
using FireFunction = void (*)(const float* x, float* y, size_t begin, size_t end, const FireLayout& layout,
                              const FireParameters& parameters);

// The same body compiled for each instruction set.
namespace baseline {
void fire(const float*, float*, size_t, size_t, const FireLayout&, const FireParameters&);
}
#ifdef SNN_DISPATCH_SSE41
namespace sse41 {
void fire(const float*, float*, size_t, size_t, const FireLayout&, const FireParameters&);
}
#endif
#ifdef SNN_DISPATCH_AVX2
namespace avx2 {
void fire(const float*, float*, size_t, size_t, const FireLayout&, const FireParameters&);
}
#endif
#ifdef SNN_DISPATCH_AVX512
namespace avx512 {
void fire(const float*, float*, size_t, size_t, const FireLayout&, const FireParameters&);
}
#endif

// The best of them that this processor executes.
FireFunction select_fire();

}  // namespace snn
