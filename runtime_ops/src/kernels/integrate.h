// IntegrateFire: the neuron of neuron.h over timesteps. The residual potential r, what the
// spikes did not carry away, is added to the next input:
//
//   u = r + x;  y = theta * spikes(u);  r = u - y;  r = 0 at first
//
// A tile of residuals stays in the nearest caches while its timesteps pass.
#pragma once

#include "neuron.h"

namespace snn {
namespace SNN_ISA {
namespace {

template <typename Neuron, typename T>
inline T integrate_one(T x, T theta, T& residual, const Levels<T>& levels) {
  const T potential = residual + x;
  const T fired = theta * Neuron::spikes(potential, theta, levels);
  residual = potential - fired;
  return fired;
}

// One timestep. `theta` is one value, or one for each element.
template <typename T>
using Step = void (*)(const T* x, T* y, T* residual, size_t count, const T* theta, Levels<T> levels);

template <typename Neuron, typename T>
SNN_LOOP void integrate_row(const T* x, T* y, T* residual, size_t count, const T* theta, Levels<T> levels) {
  const T one = *theta;
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) y[i] = integrate_one<Neuron>(x[i], one, residual[i], levels);
}

template <typename Neuron, typename T>
SNN_LOOP void integrate_spread(const T* x, T* y, T* residual, size_t count, const T* theta, Levels<T> levels) {
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) y[i] = integrate_one<Neuron>(x[i], theta[i], residual[i], levels);
}

// Asks for what the next timestep will read and write: it lies where no prefetcher looks.
SNN_LOOP void fetch(const char* x, const char* y, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(x + i, 0, 2);
    __builtin_prefetch(y + i, 1, 2);
  }
}

constexpr size_t kTile = 2048;            // long enough for the prefetchers to find a timestep's stretch
constexpr size_t kFar = size_t{1} << 23;  // 8 MiB: out of a core's own caches

template <typename Storage>
class Integrator {
 public:
  using T = typename Access<Storage>::T;

  Integrator(const void* x, void* y, const IntegrateParameters& parameters)
      : x_(static_cast<const Storage*>(x)), y_(static_cast<Storage*>(y)), parameters_(parameters),
        levels_(parameters.neuron), is_far_(parameters.timesteps * parameters.step * sizeof(Storage) > kFar) {}

  // All timesteps of elements [first, first + count), count at most kTile.
  SNN_LOOP void tile(size_t first, size_t count, const T* theta, bool is_spread) {
    const bool excitatory = parameters_.neuron.levels_neg == 0.0f;
    const Step<T> step = is_spread ? (excitatory ? integrate_spread<Excitatory, T> : integrate_spread<Signed, T>)
                                   : (excitatory ? integrate_row<Excitatory, T> : integrate_row<Signed, T>);
    const size_t most = smaller(Access<Storage>::kMost, is_far_ ? kBlock : kTile);
    for (size_t i = 0; i < count; ++i) residual_[i] = T(0);
    for (size_t t = 0; t < parameters_.timesteps; ++t) {
      const Storage* x = x_ + t * parameters_.step + first;
      Storage* y = y_ + t * parameters_.step + first;
      for (size_t i = 0; i < count; i += most) {
        const size_t block = smaller(most, count - i);
        if (is_far_ && t + 1 < parameters_.timesteps) {
          fetch(reinterpret_cast<const char*>(x + parameters_.step + i), reinterpret_cast<const char*>(y + parameters_.step + i),
                block * sizeof(Storage));
        }
        const T* in = access_.read(x + i, block);
        step(in, access_.write(y + i), residual_ + i, block, is_spread ? theta + i : theta, levels_);
        access_.flush(y + i, block);
      }
    }
  }

 private:
  const Storage* x_;
  Storage* y_;
  const IntegrateParameters& parameters_;
  Levels<T> levels_;
  bool is_far_;
  Access<Storage> access_;
  alignas(64) T residual_[kTile];
};

template <typename Storage>
void integrate(const void* x, void* y, size_t begin, size_t end, const Layout& layout,
               const IntegrateParameters& parameters) {
  using T = typename Access<Storage>::T;
  Integrator<Storage> integrator(x, y, parameters);
  if (has_long_rows(layout)) {
    const Storage* theta = static_cast<const Storage*>(parameters.neuron.theta);
    for_each_row(begin, end, layout, kTile, [&](size_t first, size_t count, size_t channel) {
      const T value = Access<Storage>::value(theta[channel]);
      integrator.tile(first, count, &value, false);
    });
    return;
  }
  Spread<Storage> theta(parameters.neuron.theta, layout, begin, end);
  size_t i = begin, count = 0;
  while (const T* thresholds = theta.next(count)) {
    integrator.tile(i, count, thresholds, true);
    i += count;
  }
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
