// ScaleFire: y = scale * levels[how many scale * thresholds[i] are <= x]; NaN stays.
#pragma once

#include "search_tree.h"

namespace snn {
namespace SNN_ISA {
namespace {

// A row has one scale: its tables are multiplied once, as the function body rounds them.
template <typename T>
SNN_LOOP void multiply_tables(const Tables<T>& tables, T scale, int depth, Tables<T>& scaled) {
  const int size = 1 << depth;
  for (int i = 0; i < size; ++i) scaled.tree[i] = scale * tables.tree[i];
  for (int i = 0; i < size; ++i) scaled.levels[i] = scale * tables.levels[i];
  // Vectors are read past short tables; what lies there is never picked.
  for (int i = size; i < size + 16; ++i) scaled.tree[i] = scaled.levels[i] = T(0);
}

template <typename Storage>
void scale(const void* x_memory, void* y_memory, size_t begin, size_t end, const Layout& layout,
           const ScaleParameters& parameters) {
  using T = typename Access<Storage>::T;
  const Storage* x = static_cast<const Storage*>(x_memory);
  Storage* y = static_cast<Storage*>(y_memory);
  const Tables<T>& tables = *static_cast<const Tables<T>*>(parameters.tables);
  Access<Storage> access;
  if (has_long_rows(layout)) {
    const Storage* scale = static_cast<const Storage*>(parameters.scale);
    const Climb<T> climb = climb_of_depth<false, T>(parameters.depth);
    Tables<T> scaled;
    size_t scaled_for = ~size_t{0};
    for_each_row(begin, end, layout, Access<Storage>::kMost, [&](size_t first, size_t count, size_t channel) {
      if (channel != scaled_for) {
        multiply_tables<T>(tables, Access<Storage>::value(scale[channel]), parameters.depth, scaled);
        scaled_for = channel;
      }
      const T* in = access.read(x + first, count);
      climb(in, access.write(y + first), count, nullptr, scaled, parameters.depth);
      access.flush(y + first, count);
    });
    return;
  }
  Spread<Storage> scale(parameters.scale, layout, begin, end);
  const Climb<T> climb = climb_of_depth<true, T>(parameters.depth);
  size_t i = begin, count = 0;
  while (const T* scales = scale.next(count)) {
    const T* in = access.read(x + i, count);
    climb(in, access.write(y + i), count, scales, tables, parameters.depth);
    access.flush(y + i, count);
    i += count;
  }
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
