// Runs a neuron that looks at one element at a time over a range of a tensor: long rows with one
// theta or scale each, short ones in blocks with one beside each element.
#pragma once

#include "common.h"

namespace snn {
namespace SNN_ISA {
namespace {

// y[0, count) from x. `factors` are one for all, or one for each element; `constants` are of the
// type that the loop knows, so that one copy of what calls it serves all operators.
template <typename T>
using Loop = void (*)(const T* x, T* y, size_t count, const T* factors, const void* constants);

template <typename T>
struct Loops {
  Loop<T> row;
  Loop<T> spread;
};

template <typename Storage, typename T>
void run_loops(const void* x_memory, void* y_memory, size_t begin, size_t end, const Layout& layout, const void* factors,
               const Loops<T>& loops, const void* constants) {
  const Storage* x = static_cast<const Storage*>(x_memory);
  Storage* y = static_cast<Storage*>(y_memory);
  Access<Storage> access;
  if (has_long_rows(layout)) {
    const Storage* factor = static_cast<const Storage*>(factors);
    for_each_row(begin, end, layout, Access<Storage>::kMost, [&](size_t first, size_t count, size_t channel) {
      const T value = Access<Storage>::value(factor[channel]);
      const T* in = access.read(x + first, count);
      loops.row(in, access.write(y + first), count, &value, constants);
      access.flush(y + first, count);
    });
    return;
  }
  Spread<Storage> blocks(factors, layout, begin, end);
  size_t i = begin, count = 0;
  while (const T* factor = blocks.next(count)) {
    const T* in = access.read(x + i, count);
    loops.spread(in, access.write(y + i), count, factor, constants);
    access.flush(y + i, count);
    i += count;
  }
}

#if defined(__AVX2__)
// The part of a row that makes whole blocks, and its length. A block is read before it is written:
// where y lies a little after x, but for a multiple of 4 KiB, processors take each read for one of
// what has just been written, and wait.
template <typename Neuron>
inline size_t fire_blocks(const Neuron neuron, const float* x, float* y, size_t count) {
  constexpr size_t kVectors = 8, kLanes = sizeof(Floats) / sizeof(float);
  const size_t end = count / (kVectors * kLanes) * (kVectors * kLanes);
  for (size_t i = 0; i < end; i += kVectors * kLanes) {
    Floats held[kVectors];
    SNN_UNROLL_WHOLLY
    for (size_t k = 0; k < kVectors; ++k) __builtin_memcpy(&held[k], x + i + k * kLanes, sizeof(Floats));
    SNN_UNROLL_WHOLLY
    for (size_t k = 0; k < kVectors; ++k) {
      const Floats fired = neuron.fire(held[k]);
      __builtin_memcpy(y + i + k * kLanes, &fired, sizeof(Floats));
    }
  }
  return end;
}
#endif

// For a Neuron made of a factor and constants, with fire(x): one element's y, or a vector's where
// kInVectors says so. Copies of the constants are the loop's own, no store to y changes them.
template <typename Neuron, typename T>
SNN_LOOP void fire_row(const T* x, T* y, size_t count, const T* factor, const void* constants) {
  const Neuron neuron(*factor, *static_cast<const typename Neuron::Constants*>(constants));
  size_t done = 0;
#if defined(__AVX2__)
  if constexpr (Neuron::kInVectors && sizeof(T) == sizeof(float)) done = fire_blocks(neuron, x, y, count);
#endif
  if constexpr (Neuron::kUnroll && sizeof(T) == sizeof(float)) {
    SNN_INDEPENDENT SNN_UNROLL
    for (size_t i = done; i < count; ++i) y[i] = neuron.fire(x[i]);
  } else {
    SNN_INDEPENDENT
    for (size_t i = done; i < count; ++i) y[i] = neuron.fire(x[i]);
  }
}

template <typename Neuron, typename T>
SNN_LOOP void fire_spread(const T* x, T* y, size_t count, const T* factors, const void* constants) {
  const typename Neuron::Constants own = *static_cast<const typename Neuron::Constants*>(constants);
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) y[i] = Neuron(factors[i], own).fire(x[i]);
}

template <typename Neuron, typename T>
constexpr Loops<T> loops_of() {
  return {fire_row<Neuron, T>, fire_spread<Neuron, T>};
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
