// MultiThresholdFire: y = theta * spikes(x).
#pragma once

#include "elementwise.h"
#include "neuron.h"

namespace snn {
namespace SNN_ISA {
namespace {

template <typename Counter, typename T>
struct MultiThreshold {
  using Constants = Levels<T>;
  static constexpr bool kUnroll = Counter::kUnroll, kInVectors = false;
  MultiThreshold(T theta, const Levels<T>& levels) : theta_(theta), levels_(levels) {}
  T fire(T x) const { return theta_ * Counter::spikes(x, theta_, levels_); }

 private:
  T theta_;
  Levels<T> levels_;
};

template <typename Storage>
void fire(const void* x, void* y, size_t begin, size_t end, const Layout& layout, const FireParameters& parameters) {
  using T = typename Access<Storage>::T;
  const Levels<T> levels(parameters);
  const Loops<T> loops = parameters.levels_neg == 0.0f ? loops_of<MultiThreshold<Excitatory, T>, T>()
                                                       : loops_of<MultiThreshold<Signed, T>, T>();
  run_loops<Storage, T>(x, y, begin, end, layout, parameters.theta, loops, &levels);
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
