// Lays sorted thresholds out as the tree that search_tree.h walks.
#pragma once

#include <limits>

#include "kernels.h"

namespace snn {

// `threshold_at` gives `count` thresholds, `level_at` one level more; depth is one of kDepths.
template <typename T, typename ThresholdAt, typename LevelAt>
void plant(size_t count, ThresholdAt threshold_at, LevelAt level_at, int depth, Tables<T>& tables) {
  tables = Tables<T>{};
  tables.tree[0] = std::numeric_limits<T>::infinity();  // never asked
  for (int level = 0; level < depth; ++level) {
    for (size_t index = 0; index < (size_t{1} << level); ++index) {
      size_t position = 0;  // how many thresholds the comparisons of `index` have passed
      for (int bit = 0; bit < level; ++bit) position += ((index >> bit) & 1) << (depth - 1 - bit);
      position += (size_t{1} << (depth - 1 - level)) - 1;
      tables.tree[(size_t{1} << level) + index] =
          position < count ? static_cast<T>(threshold_at(position)) : std::numeric_limits<T>::infinity();
    }
  }
  for (size_t index = 0; index < (size_t{1} << depth); ++index) {
    size_t passed = 0;
    for (int bit = 0; bit < depth; ++bit) passed += ((index >> bit) & 1) << (depth - 1 - bit);
    tables.levels[index] = static_cast<T>(level_at(passed < count ? passed : count));
  }
}

}  // namespace snn
