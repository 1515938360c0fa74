// The levels of 16 positions on a staircase at a time, with AVX-512; what they are for: staircase.h.
#pragma once

#include "common.h"

#if defined(__AVX512F__)

namespace snn {
namespace SNN_ISA {
namespace {

// Any table: one gather.
class ManyCells {
 public:
  explicit ManyCells(const StaircaseParameters& staircase)
      : table_(static_cast<const float*>(staircase.table)), last_(_mm512_set1_ps(staircase.last)) {}

  __m512 levels(__m512 position) const {  // of NaN cell 0's: maxima give their second operand then
    const __m512 clipped = _mm512_min_ps(_mm512_max_ps(position, _mm512_setzero_ps()), last_);
    return _mm512_i32gather_ps(_mm512_cvttps_epi32(clipped), table_, sizeof(float));
  }

 private:
  const float* table_;
  __m512 last_;
};

// A table of few runs of equal levels, held in registers: FewLevels. The 31 cells where a run ends
// (padded by +inf) are a binary search tree: level j has 2^j entries at tree[2^j], and which of them
// is asked depends on the j comparisons before; comparison b is bit b of the index. As the ends are
// whole numbers, a position reaches one exactly where its cell does, and the clipped cell.
class FewCells {
 public:
  explicit FewCells(const StaircaseParameters& staircase) : FewCells(*staircase.few) {}

  __m512 levels(__m512 position) const {
    const __mmask16 first = reached(position, root_);
    const __mmask16 second = reached(position, _mm512_mask_blend_ps(first, left_, right_));
    __m512i index = with_bit(_mm512_setzero_si512(), first, 1);
    index = with_bit(index, second, 2);
    index = with_bit(index, reached(position, _mm512_permutexvar_ps(index, third_)), 4);
    index = with_bit(index, reached(position, _mm512_permutexvar_ps(index, fourth_)), 8);
    index = with_bit(index, reached(position, _mm512_permutexvar_ps(index, fifth_)), 16);
    return _mm512_permutex2var_ps(low_, index, high_);
  }

 private:
  explicit FewCells(const FewLevels& few)
      : root_(_mm512_set1_ps(few.tree[1])), left_(_mm512_set1_ps(few.tree[2])), right_(_mm512_set1_ps(few.tree[3])),
        third_(_mm512_castps128_ps512(_mm_load_ps(few.tree + 4))),
        fourth_(_mm512_castps256_ps512(_mm256_load_ps(few.tree + 8))), fifth_(_mm512_load_ps(few.tree + 16)),
        low_(_mm512_load_ps(few.levels)), high_(_mm512_load_ps(few.levels + 16)) {}
  static __mmask16 reached(__m512 position, __m512 end) { return _mm512_cmp_ps_mask(position, end, _CMP_GE_OQ); }
  static __m512i with_bit(__m512i index, __mmask16 mask, int bit) {
    return _mm512_mask_or_epi32(index, mask, index, _mm512_set1_epi32(bit));
  }

  __m512 root_, left_, right_, third_, fourth_, fifth_, low_, high_;
};

// kSpread: one scale beside each element, otherwise one for all.
template <typename Cells, bool kSpread>
SNN_LOOP void climb(const float* x, float* y, size_t count, const float* scales, const void* constants) {
  const StaircaseParameters& staircase = *static_cast<const StaircaseParameters*>(constants);
  const Cells cells(staircase);
  const __m512 one = _mm512_set1_ps(1.0f), density = _mm512_set1_ps(staircase.density), start = _mm512_set1_ps(staircase.start);
  __m512 scale = _mm512_set1_ps(*scales);
  __m512 rate = _mm512_mul_ps(_mm512_div_ps(one, scale), density);
  const auto fire = [&](size_t i, __mmask16 mask) {
    if constexpr (kSpread) {
      scale = _mm512_maskz_loadu_ps(mask, scales + i);
      rate = _mm512_mul_ps(_mm512_div_ps(one, scale), density);
    }
    const __m512 position = _mm512_sub_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), rate), start);
    const __m512 fired = _mm512_add_ps(_mm512_mul_ps(scale, cells.levels(position)), _mm512_setzero_ps());
    // The table of fixupimm says "take the position" for both kinds of NaN.
    _mm512_mask_storeu_ps(y + i, mask, _mm512_fixupimm_ps(fired, position, _mm512_set1_epi32(0x11), 0));
  };
  size_t i = 0;
  for (; i + 16 <= count; i += 16) fire(i, 0xffff);
  if (i < count) fire(i, static_cast<__mmask16>((1u << (count - i)) - 1));
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn

#endif
