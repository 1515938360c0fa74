// MultiThresholdFire: y = theta * spikes(x).
#pragma once

#include "neuron.h"

namespace snn {
namespace SNN_ISA {
namespace {

template <typename Neuron, typename T>
SNN_LOOP void fire_row(const T* x, T* y, size_t count, T theta, Levels<T> levels) {
  if constexpr (Neuron::kUnroll) {
    SNN_INDEPENDENT SNN_UNROLL
    for (size_t i = 0; i < count; ++i) y[i] = theta * Neuron::spikes(x[i], theta, levels);
  } else {
    SNN_INDEPENDENT
    for (size_t i = 0; i < count; ++i) y[i] = theta * Neuron::spikes(x[i], theta, levels);
  }
}

template <typename Neuron, typename T>
SNN_LOOP void fire_spread(const T* x, T* y, size_t count, const T* theta, Levels<T> levels) {
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) y[i] = theta[i] * Neuron::spikes(x[i], theta[i], levels);
}

template <typename Storage>
void fire(const void* x_memory, void* y_memory, size_t begin, size_t end, const Layout& layout,
          const FireParameters& parameters) {
  using T = typename Access<Storage>::T;
  const Storage* x = static_cast<const Storage*>(x_memory);
  Storage* y = static_cast<Storage*>(y_memory);
  const Levels<T> levels(parameters);
  const bool excitatory = parameters.levels_neg == 0.0f;
  Access<Storage> access;
  if (has_long_rows(layout)) {
    const Storage* theta = static_cast<const Storage*>(parameters.theta);
    const auto row = excitatory ? fire_row<Excitatory, T> : fire_row<Signed, T>;
    for_each_row(begin, end, layout, Access<Storage>::kMost, [&](size_t first, size_t count, size_t channel) {
      const T* in = access.read(x + first, count);
      row(in, access.write(y + first), count, Access<Storage>::value(theta[channel]), levels);
      access.flush(y + first, count);
    });
    return;
  }
  const auto spread = excitatory ? fire_spread<Excitatory, T> : fire_spread<Signed, T>;
  Spread<Storage> theta(parameters.theta, layout, begin, end);
  size_t i = begin, count = 0;
  while (const T* thresholds = theta.next(count)) {
    const T* in = access.read(x + i, count);
    spread(in, access.write(y + i), count, thresholds, levels);
    access.flush(y + i, count);
    i += count;
  }
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
