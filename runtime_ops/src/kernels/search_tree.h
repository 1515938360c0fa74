// Where x lies among sorted thresholds: one comparison per halving, the tables in vector
// registers.
//
// With d = depth, the 2^d - 1 thresholds (padded by +inf) are a binary search tree. Level j
// has 2^j entries at tree[2^j]; which of them is asked depends on the j comparisons before,
// and comparison b is bit b of the index. So a comparison adds one bit to the index and
// moves nothing, and the last comparison is the one that tells the halves of a table apart
// that is too long for one register. `levels` has 2^d entries in the order of the index.
#pragma once

#include "lanes.h"

namespace snn {
namespace SNN_ISA {
namespace {

// y[0, count) from x; `scale` multiplies thresholds and levels, one value per element, or is
// not read where the tables are multiplied already.
template <typename T>
using Climb = void (*)(const T* x, T* y, size_t count, const T* scale, const Tables<T>& tables, int depth);

// One element at a time, with any processor.
template <bool kScaled, typename T>
SNN_LOOP void climb_one_by_one(const T* x, T* y, size_t count, const T* scale, const Tables<T>& tables, int depth) {
  for (size_t i = 0; i < count; ++i) {
    const T potential = x[i];
    const T factor = kScaled ? scale[i] : T(1);
    uint32_t index = 0;
    for (int level = 0; level < depth; ++level) {
      const T entry = tables.tree[(1u << level) + index];
      index |= static_cast<uint32_t>(potential >= (kScaled ? factor * entry : entry)) << level;
    }
    const T fired = kScaled ? factor * tables.levels[index] : tables.levels[index];
    y[i] = potential == potential ? fired : potential;
  }
}

template <int kDepth, int kLevel, bool kScaled, typename V, typename T>
inline void descend(typename V::Values x, typename V::Values scale, const T* tree, typename V::Index& index,
                    typename V::Mask* masks) {
  if constexpr (kLevel < kDepth) {
    typename V::Values threshold;
    if constexpr (kLevel == 0) {
      threshold = V::fill(tree[1]);
    } else if constexpr (kLevel == 1) {  // any port blends, one permutes
      threshold = V::select(masks[0], V::fill(tree[3]), V::fill(tree[2]));
    } else {
      threshold = V::template pick<(1 << kLevel)>(tree + (1 << kLevel), index, masks);
    }
    if constexpr (kScaled) threshold = V::multiply(scale, threshold);
    masks[kLevel] = V::at_least(x, threshold);
    index = V::set_bit(index, masks[kLevel], 1u << kLevel);
    descend<kDepth, kLevel + 1, kScaled, V, T>(x, scale, tree, index, masks);
  }
}

template <int kDepth, bool kScaled, typename V, typename T>
inline typename V::Values staircase(typename V::Values x, typename V::Values scale, const Tables<T>& tables) {
  typename V::Index index = V::no_index();
  typename V::Mask masks[kDepth];
  descend<kDepth, 0, kScaled, V, T>(x, scale, tables.tree, index, masks);
  typename V::Values y = V::template pick<(1 << kDepth)>(tables.levels, index, masks);
  if constexpr (kScaled) y = V::multiply(scale, y);
  return V::keep_nan(x, y);
}

// A vector at a time; what is left over goes through a vector of its own.
template <int kDepth, bool kScaled, typename T>
SNN_LOOP void climb_by_vectors(const T* x, T* y, size_t count, const T* scale, const Tables<T>& tables, int) {
  using V = Lanes<T>;
  T rest[V::kWidth] = {};
  T rest_scale[V::kWidth] = {};
  for (size_t i = 0; i < count; i += V::kWidth) {
    const T* in = x + i;
    const T* factor = kScaled ? scale + i : rest_scale;
    T* out = y + i;
    const size_t left = count - i;
    if (left < V::kWidth) {
      for (size_t j = 0; j < left; ++j) rest[j] = in[j];
      for (size_t j = 0; kScaled && j < left; ++j) rest_scale[j] = factor[j];
      in = out = rest;
      factor = rest_scale;
    }
    V::store(out, staircase<kDepth, kScaled, V, T>(V::load(in), V::load(factor), tables));
    for (size_t j = 0; left < V::kWidth && j < left; ++j) y[i + j] = rest[j];
  }
}

// `depth` is one of kDepths.
template <bool kScaled, typename T>
Climb<T> climb_of_depth(int depth) {
  if constexpr (Lanes<T>::kWidth > 1) {
    if (depth == kDepths[0]) return climb_by_vectors<kDepths[0], kScaled, T>;
    if (depth == kDepths[1]) return climb_by_vectors<kDepths[1], kScaled, T>;
    return climb_by_vectors<kDepths[2], kScaled, T>;
  } else {
    (void)depth;
    return climb_one_by_one<kScaled, T>;
  }
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
