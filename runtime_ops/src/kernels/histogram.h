// Histograms and moments of float32 values, for the observer of activations. Integers are
// counted, so that the order does not matter; sums have an order of their own:
//
//   The values of a row, in order, are cut into blocks of kHistogramBlock. In a block value k
//   is added to lane k % 4, in float64; lane 2 is added to lane 0 and 3 to 1, then 1 to 0.
//   The sums of blocks are added in order.
//
// Values that are not finite are counted apart and are 0 to all else.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace snn {

constexpr size_t kHistogramBlock = 1024;
// A counter holds how often from this bit on, and under it the sum of the rests, below 2^23
// each: one addition to memory for both. So many blocks may be counted before it is emptied.
constexpr int kCountBit = 43;
constexpr size_t kMostBlocks = 1024;

// Per sign `octaves` powers of two of 1 << leading bins each; the bin between them is 0's.
struct Bins {
  int leading;
  int octaves;
  bool has_rests;  // else values are counted alone

  size_t side() const { return static_cast<size_t>(octaves) << leading; }
  size_t count() const { return 2 * side() + 1; }
  // Sets of counters, so that equal values in a row need not wait for each other.
  size_t sets() const { return has_rests ? 2 : 4; }
  size_t words() const { return sets() * count(); }
};

struct Moments {
  double sum = 0;
  double squares = 0;
  float low = HUGE_VALF;  // above `high` where no value is finite
  float high = -HUGE_VALF;
  int64_t not_finite = 0;

  void append(const Moments& next) {
    sum += next.sum;
    squares += next.squares;
    low = next.low < low ? next.low : low;
    high = next.high > high ? next.high : high;
    not_finite += next.not_finite;
  }
};

// Of at most one block.
Moments find_moments(const float* x, size_t count);

// The exponent of the largest magnitude, at least `octaves`.
int32_t find_top(const Bins& bins, const Moments& moments);

// Counts at most one block of values; those that are not finite, or larger than `top` allows, in
// 0's bin. `words`, sets of counters for the caller to add up, begin as zeros.
void count_values(const Bins& bins, int32_t top, const float* x, size_t count, uint64_t* words);

}  // namespace snn
