// IntegrateFire: the neuron of neuron.h over timesteps. The residual potential r, what the
// spikes did not carry away, is added to the next input:
//
//   u = r + x;  y = theta * spikes(u);  r = u - y;  r = 0 at first
//
// A block of residuals stays in the first-level cache while its timesteps pass.
#pragma once

#include "neuron.h"

namespace snn {
namespace SNN_ISA {
namespace {

template <typename Neuron, typename T>
SNN_LOOP void integrate_step(const T* x, T* y, T* residual, const T* theta, size_t count, Levels<T> levels) {
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const T potential = residual[i] + x[i];
    const T fired = theta[i] * Neuron::spikes(potential, theta[i], levels);
    residual[i] = potential - fired;
    y[i] = fired;
  }
}

template <typename Storage>
void integrate(const void* x_memory, void* y_memory, size_t begin, size_t end, const Layout& layout,
               const IntegrateParameters& parameters) {
  using T = typename Access<Storage>::T;
  const Storage* x = static_cast<const Storage*>(x_memory);
  Storage* y = static_cast<Storage*>(y_memory);
  const Levels<T> levels(parameters.neuron);
  const auto step = parameters.neuron.levels_neg == 0.0f ? integrate_step<Excitatory, T> : integrate_step<Signed, T>;
  Access<Storage> access;
  Spread<Storage> theta(parameters.neuron.theta, layout);
  alignas(64) T residual[kBlock];
  for (size_t i = begin; i < end; i += theta.length()) {
    const size_t count = smaller(theta.length(), end - i);
    const T* thresholds = theta.at(i, count);
    for (size_t j = 0; j < count; ++j) residual[j] = T(0);
    for (size_t t = 0; t < parameters.timesteps; ++t) {
      const size_t first = t * parameters.step + i;
      const T* in = access.read(x + first, count);
      step(in, access.write(y + first), residual, thresholds, count, levels);
      access.flush(y + first, count);
    }
  }
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
