// Compiled once per instruction set; SNN_ISA is the namespace the build gives it.
#include "fire.h"

#include <algorithm>
#include <cmath>

namespace snn {
namespace SNN_ISA {
namespace {

// Written as minima, maxima and one select per line: these have the operand order for which
// the vector instructions keep a NaN, and the compiler leaves them as straight-line code.
// Two forms of one formula; the first, for N- = 0, saves a comparison and two selects.
struct Excitatory {  // x < 0 is silent, as |x| taken from max(x, 0) shows
  static float spikes(float x, float theta, float levels_pos, float, float v0) {
    const float potential = std::fabs(0.0f > x ? 0.0f : x);
    const float fired = std::floor(potential / theta + v0);
    return levels_pos < fired ? levels_pos : fired;
  }
};

struct Signed {
  static float spikes(float x, float theta, float levels_pos, float levels_neg, float v0) {
    const float fired = std::floor(std::fabs(x) / theta + v0);
    const float limit = x < 0.0f ? levels_neg : levels_pos;
    const float count = limit < fired ? limit : fired;
    const float sign = x < 0.0f ? -1.0f : 1.0f;  // 1 for NaN
    return sign * count + 0.0f;                  // + 0 turns the -0 of a silent neuron into +0
  }
};

template <typename Neuron>
void fire_range(const float* x, float* y, size_t begin, size_t end, const FireLayout& layout,
                const FireParameters& parameters) {
  const float levels_pos = parameters.levels_pos;
  const float levels_neg = parameters.levels_neg;
  const float v0 = parameters.v0;

  if (parameters.theta_count == 1) {
    const float theta = parameters.theta[0];
    for (size_t i = begin; i < end; ++i) y[i] = theta * Neuron::spikes(x[i], theta, levels_pos, levels_neg, v0);
    return;
  }
  if (layout.inner == 1) {  // channels last: theta runs along with x
    for (size_t i = begin; i < end;) {
      const size_t first = i % layout.channels;
      const size_t count = std::min(layout.channels - first, end - i);
      const float* theta = parameters.theta + first;
      for (size_t j = 0; j < count; ++j) {
        y[i + j] = theta[j] * Neuron::spikes(x[i + j], theta[j], levels_pos, levels_neg, v0);
      }
      i += count;
    }
    return;
  }
  for (size_t i = begin; i < end;) {
    const size_t row = i / layout.inner;
    const size_t stop = std::min((row + 1) * layout.inner, end);
    const float theta = parameters.theta[row % layout.channels];
    for (; i < stop; ++i) y[i] = theta * Neuron::spikes(x[i], theta, levels_pos, levels_neg, v0);
  }
}

}  // namespace

void fire(const float* x, float* y, size_t begin, size_t end, const FireLayout& layout,
          const FireParameters& parameters) {
  if (parameters.levels_neg == 0.0f) {
    fire_range<Excitatory>(x, y, begin, end, layout, parameters);
  } else {
    fire_range<Signed>(x, y, begin, end, layout, parameters);
  }
}

}  // namespace SNN_ISA
}  // namespace snn
