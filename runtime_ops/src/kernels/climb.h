// The levels of positions on a staircase, vectors of 16 at a time, with AVX-512; what they are for:
// staircase.h.
#pragma once

#include "common.h"

#if defined(__AVX512F__)

namespace snn {
namespace SNN_ISA {
namespace {

constexpr int kVectors = 4;  // at a time, so that one waits while others are permuted
constexpr size_t kClimbed = 16 * kVectors;

// Ways to find factor * level + 0, of NaN any level where kGivesNaN does not say that it is NaN.

// Any table: gathers. Two of 8 take less time than one of 16.
class ManyCells {
 public:
  static constexpr bool kGivesNaN = false;
  ManyCells(const StaircaseParameters& staircase, float factor)
      : table_(static_cast<const float*>(staircase.table)), last_(_mm512_set1_ps(staircase.last)),
        factor_(_mm512_set1_ps(factor)) {}

  void find(const __m512* positions, __m512* levels) const {
    SNN_UNROLL_WHOLLY
    for (int k = 0; k < kVectors; ++k) {  // maxima give their second operand of NaN
      const __m512 clipped = _mm512_min_ps(_mm512_max_ps(positions[k], _mm512_setzero_ps()), last_);
      const __m512i cells = _mm512_cvttps_epi32(clipped);
      const __m256 low = _mm256_i32gather_ps(table_, _mm512_castsi512_si256(cells), sizeof(float));
      const __m256 high = _mm256_i32gather_ps(table_, _mm512_extracti32x8_epi32(cells, 1), sizeof(float));
      const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
      levels[k] = _mm512_add_ps(_mm512_mul_ps(factor_, both), _mm512_setzero_ps());
    }
  }

 private:
  const float* table_;
  __m512 last_, factor_;
};

// Numbers in registers. An index counts with its lowest 5 bits, or 6 where there are 64.

class Counts64 {
 public:
  explicit Counts64(const uint16_t* counts) : low_(_mm512_load_si512(counts)), high_(_mm512_load_si512(counts + 32)) {}
  __m512i operator[](__m512i index) const {
    return _mm512_maskz_permutex2var_epi16(0x55555555, low_, index, high_);
  }

 private:
  __m512i low_, high_;
};

class Ends32 {
 public:
  explicit Ends32(const uint16_t* ends) : low_(widened(ends)), high_(widened(ends + 16)) {}
  __m512 operator[](__m512i index) const { return _mm512_permutex2var_ps(low_, index, high_); }

 private:
  static __m512 widened(const uint16_t* ends) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(ends))));
  }
  __m512 low_, high_;
};

class Ends64 {
 public:
  explicit Ends64(const uint16_t* ends) : ends_(ends) {}
  __m512 operator[](__m512i index) const { return _mm512_cvtepi32_ps(ends_[index]); }

 private:
  Counts64 ends_;
};

// Multiplied by the factor.
class Levels32 {
 public:
  Levels32(const float* levels, __m512 factor) : low_(scaled(levels, factor)), high_(scaled(levels + 16, factor)) {}
  __m512 operator[](__m512i index) const { return _mm512_permutex2var_ps(low_, index, high_); }
  // Of index itself where the mask is 0.
  __m512 of(__m512 index, __mmask16 mask) const {
    return _mm512_mask2_permutex2var_ps(low_, _mm512_castps_si512(index), mask, high_);
  }

 private:
  static __m512 scaled(const float* levels, __m512 factor) {
    return _mm512_add_ps(_mm512_mul_ps(factor, _mm512_load_ps(levels)), _mm512_setzero_ps());
  }
  __m512 low_, high_;
};

class Levels64 {
 public:
  Levels64(const float* levels, __m512 factor) : low_(levels, factor), high_(levels + 32, factor) {}
  __m512 operator[](__m512i index) const {
    return _mm512_mask_mov_ps(low_[index], _mm512_test_epi32_mask(index, _mm512_set1_epi32(32)), high_[index]);
  }

 private:
  Levels32 low_, high_;
};

// As ends are whole numbers, a position reaches one exactly where its cell does.
class Buckets {
 public:
  explicit Buckets(const FewLevels& few) : last_end_(_mm512_set1_ps(few.last_end)), rate_(_mm512_set1_ps(few.rate)) {}
  __m512 clipped(__m512 position) const {  // NaN stays
    return _mm512_min_ps(last_end_, _mm512_max_ps(_mm512_setzero_ps(), position));
  }
  // 2^23 and the number of the bucket, which are the lowest bits; NaN stays.
  __m512 of(__m512 clipped) const { return _mm512_fmadd_ps(clipped, rate_, _mm512_set1_ps(8388608.0f)); }

 private:
  __m512 last_end_, rate_;
};

// A table with no more than one end in each of 32 buckets. NaN is on neither side of an end: what
// remains of it is the number of its bucket, which is NaN.
class EvenCells {
 public:
  static constexpr bool kGivesNaN = true;
  EvenCells(const StaircaseParameters& staircase, float factor)
      : buckets_(*staircase.few), ends_(staircase.few->ends), below_(staircase.few->below, _mm512_set1_ps(factor)),
        above_(staircase.few->above, _mm512_set1_ps(factor)) {}

  void find(const __m512* positions, __m512* levels) const {
    SNN_UNROLL_WHOLLY
    for (int k = 0; k < kVectors; ++k) {
      const __m512 clipped = buckets_.clipped(positions[k]), bucket = buckets_.of(clipped);
      const __m512 end = ends_[_mm512_castps_si512(bucket)];
      const __m512 level = below_.of(bucket, _mm512_cmp_ps_mask(clipped, end, _CMP_LT_OQ));
      levels[k] = above_.of(level, _mm512_cmp_ps_mask(clipped, end, _CMP_GE_OQ));
    }
  }

 private:
  Buckets buckets_;
  Ends32 ends_;
  Levels32 below_, above_;
};

// A table with a few ends in each of 64 buckets. NaN reaches none.
template <typename Ends, typename Levels>
class FewCells {
 public:
  static constexpr bool kGivesNaN = false;
  FewCells(const StaircaseParameters& staircase, float factor)
      : FewCells(*staircase.few, _mm512_set1_ps(factor)) {}

  void find(const __m512* positions, __m512* levels) const {
    __m512 clipped[kVectors];
    __m512i end[kVectors];
    SNN_UNROLL_WHOLLY
    for (int k = 0; k < kVectors; ++k) {
      clipped[k] = buckets_.clipped(positions[k]);
      end[k] = first_[_mm512_castps_si512(buckets_.of(clipped[k]))];
    }
    for (int step = 0; step < steps_; ++step) {
      SNN_UNROLL_WHOLLY
      for (int k = 0; k < kVectors; ++k) {
        const __mmask16 reached = _mm512_cmp_ps_mask(clipped[k], next_[end[k]], _CMP_GE_OQ);
        end[k] = _mm512_mask_add_epi32(end[k], reached, end[k], _mm512_set1_epi32(1));
      }
    }
    SNN_UNROLL_WHOLLY
    for (int k = 0; k < kVectors; ++k) {
      const __mmask16 below = _mm512_cmp_ps_mask(clipped[k], lowest_end_, _CMP_LT_OQ);
      levels[k] = _mm512_mask_mov_ps(above_[end[k]], below, lowest_);
    }
  }

 private:
  FewCells(const FewLevels& few, __m512 factor)
      : buckets_(few), steps_(few.steps), lowest_end_(_mm512_set1_ps(few.lowest_end)),
        lowest_(_mm512_add_ps(_mm512_mul_ps(factor, _mm512_set1_ps(few.below[0])), _mm512_setzero_ps())),
        first_(few.first), next_(few.ends), above_(few.above, factor) {}

  Buckets buckets_;
  int steps_;
  __m512 lowest_end_, lowest_;
  Counts64 first_;
  Ends next_;
  Levels above_;
};

// from[0, count) as a block of its own, with zeros behind.
inline void load_block(const float* from, float* block, size_t count) {
  for (size_t i = 0; i < kClimbed; i += 16) {
    const size_t rest = i < count ? smaller(16, count - i) : 0;
    _mm512_store_ps(block + i, _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << rest) - 1), from + i));
  }
}

// `spread`: one scale beside each element, otherwise one for all.
template <typename Cells>
SNN_LOOP void climb(const float* x, float* y, size_t count, const float* scales, const StaircaseParameters& staircase,
                    bool spread) {
  const __m512 one = _mm512_set1_ps(1.0f), nought = _mm512_setzero_ps();
  const __m512 density = _mm512_set1_ps(staircase.density), start = _mm512_set1_ps(staircase.start);
  const Cells cells(staircase, spread ? 1.0f : *scales);
  const auto rate_of = [&](__m512 scale) { return _mm512_mul_ps(_mm512_div_ps(one, scale), density); };
  __m512 rate = rate_of(_mm512_set1_ps(*scales));
  alignas(64) float last_x[kClimbed], last_scales[kClimbed];
  for (size_t i = 0; i < count; i += kClimbed) {
    const bool whole = count - i >= kClimbed;
    if (!whole) {
      load_block(x + i, last_x, count - i);
      if (spread) load_block(scales + i, last_scales, count - i);
    }
    const float* in = whole ? x + i : last_x;
    const float* beside = !spread ? nullptr : whole ? scales + i : last_scales;
    float* out = whole ? y + i : last_x;
    __m512 positions[kVectors], levels[kVectors];
    SNN_UNROLL_WHOLLY
    for (int k = 0; k < kVectors; ++k) {
      if (spread) rate = rate_of(_mm512_loadu_ps(beside + 16 * k));
      positions[k] = _mm512_sub_ps(_mm512_mul_ps(_mm512_loadu_ps(in + 16 * k), rate), start);
    }
    cells.find(positions, levels);
    SNN_UNROLL_WHOLLY
    for (int k = 0; k < kVectors; ++k) {
      if (spread) levels[k] = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(beside + 16 * k), levels[k]), nought);
      // The table of fixupimm says "take the position" for both kinds of NaN.
      if (!Cells::kGivesNaN) levels[k] = _mm512_fixupimm_ps(levels[k], positions[k], _mm512_set1_epi32(0x11), 0);
      _mm512_storeu_ps(out + 16 * k, levels[k]);
    }
    if (!whole) {
      for (size_t k = 0; k < count - i; ++k) y[i + k] = last_x[k];
    }
  }
}

template <typename Cells>
void climb_row(const float* x, float* y, size_t count, const float* scale, const void* constants) {
  climb<Cells>(x, y, count, scale, *static_cast<const StaircaseParameters*>(constants), false);
}

template <typename Cells>
void climb_spread(const float* x, float* y, size_t count, const float* scales, const void* constants) {
  climb<Cells>(x, y, count, scales, *static_cast<const StaircaseParameters*>(constants), true);
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn

#endif
