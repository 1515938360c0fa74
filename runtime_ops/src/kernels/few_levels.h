// Makes FewLevels of a table, when a kernel is created: for the loops of climb.h.
#pragma once

#include <cstring>

#include "kernels.h"

namespace snn {

class TableOfFewLevels {
 public:
  TableOfFewLevels(const float* table, int cells, FewLevels& few) : few_(few) {
    levels_[0] = table[0];
    for (int cell = 1; cell < cells; ++cell) {
      if (table[cell] == table[cell - 1]) continue;
      if (++count_ > kMost) return;
      ends_[count_ - 1] = static_cast<uint16_t>(cell);
      levels_[count_] = table[cell];
    }
  }

  bool fits() {
    if (count_ > kMost) return false;
    few_.last_end = count_ > 0 ? ends_[count_ - 1] : 0.0f;
    return deal_out() || line_up();
  }

 private:
  static constexpr int kMost = FewLevels::kMost;

  // An entry for each of 32 buckets, where none has two ends.
  bool deal_out() {
    few_.form = FewLevels::kByBucket;
    set_rate(FewLevels::kEven);
    int passed = 0;
    for (int bucket = 0; bucket < FewLevels::kEven; ++bucket) {
      few_.ends[bucket] = 0;
      few_.below[bucket] = levels_[passed];
      if (next_is_in(bucket, passed)) few_.ends[bucket] = ends_[passed++];
      few_.above[bucket] = levels_[passed];
      if (next_is_in(bucket, passed)) return false;
    }
    return true;
  }

  // The ends in their order, of which there are some; unless too many are in one bucket.
  bool line_up() {
    few_.form = count_ <= 32 ? FewLevels::kUpTo32 : FewLevels::kUpTo64;
    set_rate(kMost);
    few_.lowest_end = ends_[0];
    few_.below[0] = levels_[0];
    for (int end = 0; end < kMost; ++end) {
      few_.ends[end] = end + 1 < count_ ? ends_[end + 1] : kMaxCells;
      few_.above[end] = levels_[end < count_ ? end + 1 : count_];
    }
    few_.steps = 0;
    int passed = 1;
    for (int bucket = 0; bucket < kMost; ++bucket) {
      const int before = passed;
      few_.first[bucket] = static_cast<uint16_t>(before - 1);
      while (next_is_in(bucket, passed)) ++passed;
      if (passed - before > few_.steps) few_.steps = passed - before;
    }
    return few_.steps <= FewLevels::kMostSteps;
  }

  // Cells have 12 bits, so that with 12 of its own the rate's product with one is exact.
  void set_rate(int buckets) {
    const float rate = count_ > 0 ? static_cast<float>(buckets - 1) / few_.last_end : 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &rate, sizeof bits);
    bits &= 0xfffff000u;
    std::memcpy(&few_.rate, &bits, sizeof bits);
  }

  // To nearest, ties to even, as the loops round.
  bool next_is_in(int bucket, int passed) const {
    return passed < count_ && static_cast<int>(ends_[passed] * few_.rate + 8388608.0f - 8388608.0f) == bucket;
  }

  FewLevels& few_;
  int count_ = 0;  // of the ends
  uint16_t ends_[kMost];
  float levels_[kMost + 1];
};

// Whether the table is one of few levels, with few ends in every bucket; `few` is then made of it.
inline bool few_levels(const float* table, int cells, FewLevels& few) {
  return TableOfFewLevels(table, cells, few).fits();
}

}  // namespace snn
