// ScaleFire and DualScaleFire: y = scale * K, the level K of an octave neuron:
//
//   c = clip(x * (1 / scale), -top_neg, top_pos);  M = max(|c| * slope, 1.5 * 2^(p - 1))
//   S = sign(c) * M;  K = S - (S - c)
//
// evaluated in exactly this order in T, so that it equals the ONNX function body bit for bit. The
// adder rounds S - c to the levels of c's octave; the second difference is exact. NaN gives NaN, by
// the operand order of minima and maxima; S takes the sign of a 0 too, K is +0 for either.
#pragma once

#include "elementwise.h"

namespace snn {
namespace SNN_ISA {
namespace {

// All of them variables: compilers make a comparison and a blend of a maximum with a constant.
template <typename T>
struct Octaves {
  explicit Octaves(const OctaveParameters& parameters)
      : slope(kTwoToP / T(parameters.linear)), least(kTwoToP * T(0.75)), lowest(T(0) - T(parameters.top_neg)),
        highest(parameters.top_pos) {}
  static constexpr T kTwoToP = sizeof(T) == sizeof(float) ? T(0x1p24) : T(0x1p53);  // p bits of precision
  T slope, least, lowest, highest;
};

template <typename T>
class Octave {
 public:
  using Constants = Octaves<T>;
  static constexpr bool kUnroll = false, kInVectors = true;
  Octave(T scale, const Octaves<T>& octaves) : scale_(scale), rate_(T(1) / scale), octaves_(octaves) {}

 protected:
  template <typename V>
  V clip(V x) const {
    return smaller(octaves_.highest, larger(octaves_.lowest, x * rate_));
  }
  template <typename V>
  V grid(V magnitude) const {
    return larger(octaves_.least, magnitude * octaves_.slope);
  }
  T scale_, rate_;
  Octaves<T> octaves_;
};

// Two forms of one formula; this one is for top_neg = 0. V is T, or a vector of it.
template <typename T>
struct ExcitatoryOctave : Octave<T> {
  using Octave<T>::Octave;
  template <typename V>
  V fire(V x) const {
    const V clipped = this->clip(x);
    const V grid = this->grid(clipped);
    return this->scale_ * (grid - (grid - clipped));
  }
};

template <typename T>
struct SignedOctave : Octave<T> {
  using Octave<T>::Octave;
  template <typename V>
  V fire(V x) const {
    const V clipped = this->clip(x);
    const V grid = with_sign_of(this->grid(absolute(clipped)), clipped);
    return this->scale_ * (grid - (grid - clipped));
  }
};

template <typename Storage>
void scale(const void* x, void* y, size_t begin, size_t end, const Layout& layout, const OctaveParameters& parameters) {
  using T = typename Access<Storage>::T;
  const Octaves<T> octaves(parameters);
  const Loops<T> loops =
      parameters.top_neg == 0.0f ? loops_of<ExcitatoryOctave<T>, T>() : loops_of<SignedOctave<T>, T>();
  run_loops<Storage, T>(x, y, begin, end, layout, parameters.scale, loops, &octaves);
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
