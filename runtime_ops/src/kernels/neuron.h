// The number of spikes of a multi-threshold neuron, signed.
//
//   c = min(floor(|u| / theta + v0), u < 0 ? N- : N+);  spikes = u < 0 ? 0 - c : c
//
// evaluated in exactly this order in T, so that it equals the ONNX function body bit for
// bit. NaN gives NaN; a silent neuron gives +0. Written as minima, maxima and one select
// per line: these have the operand order for which the vector instructions keep a NaN,
// and the compiler leaves them as straight-line code.
#pragma once

#include "common.h"

namespace snn {
namespace SNN_ISA {
namespace {

template <typename T>
struct Levels {
  explicit Levels(const FireParameters& parameters)
      : pos(parameters.levels_pos), neg(parameters.levels_neg), v0(parameters.v0) {}
  T pos, neg, v0;
};

// Two forms of one formula; this one, for N- = 0, saves a comparison and two selects.
struct Excitatory {  // u < 0 is silent, as |u| taken from max(u, 0) shows
  static constexpr bool kUnroll = true;
  template <typename T>
  static inline T spikes(T u, T theta, const Levels<T>& levels) {
    const T potential = absolute(T(0) > u ? T(0) : u);
    const T fired = floor_count(potential / theta + levels.v0);
    return levels.pos < fired ? levels.pos : fired;
  }
};

struct Signed {
  static constexpr bool kUnroll = false;
  template <typename T>
  static inline T spikes(T u, T theta, const Levels<T>& levels) {
    const T fired = floor_count(absolute(u) / theta + levels.v0);
    const T limit = u < T(0) ? levels.neg : levels.pos;
    const T count = limit < fired ? limit : fired;
    const T sign = u < T(0) ? T(-1) : T(1);  // 1 for NaN
    return sign * count + T(0);              // + 0 turns the -0 of a silent neuron into +0
  }
};

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
