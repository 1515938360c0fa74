// The few vector operations of the tree search that a compiler does not find by itself:
// picking table entries from registers. One class per instruction set and type; the
// algorithm in search_tree.h is written once, against their common face.
#pragma once

#include "common.h"

namespace snn {
namespace SNN_ISA {
namespace {

// No vectors of this type: the search goes one element at a time.
template <typename T>
struct Lanes {
  static constexpr int kWidth = 1;
};

#if defined(__AVX512F__)

template <>
struct Lanes<float> {
  static constexpr int kWidth = 16;
  using Values = __m512;
  using Index = __m512i;
  using Mask = __mmask16;
  static Values load(const float* x) { return _mm512_loadu_ps(x); }
  static void store(float* y, Values values) { _mm512_storeu_ps(y, values); }
  static Values fill(float value) { return _mm512_set1_ps(value); }
  static Values multiply(Values a, Values b) { return _mm512_mul_ps(a, b); }
  static Index no_index() { return _mm512_setzero_si512(); }
  static Mask at_least(Values x, Values threshold) { return _mm512_cmp_ps_mask(x, threshold, _CMP_GE_OQ); }
  // y, or x where x is NaN: the table says "take x" for both classes of NaN, quiet and signalling.
  static Values keep_nan(Values x, Values y) { return _mm512_fixupimm_ps(y, x, _mm512_set1_epi32(0x11), 0); }
  static Index set_bit(Index index, Mask mask, uint32_t bit) {
    return _mm512_mask_or_epi32(index, mask, index, _mm512_set1_epi32(static_cast<int>(bit)));
  }
  static Values select(Mask mask, Values yes, Values no) { return _mm512_mask_blend_ps(mask, no, yes); }
  // Entry `index` of the `kSize` first entries; `masks` are the bits of the index.
  template <int kSize>
  static Values pick(const float* table, Index index, const Mask* masks) {
    if constexpr (kSize <= 16) {
      return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
    } else if constexpr (kSize == 32) {
      return _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
    } else {
      return select(masks[__builtin_ctz(kSize) - 1], pick<kSize / 2>(table + kSize / 2, index, masks),
                    pick<kSize / 2>(table, index, masks));
    }
  }
};

template <>
struct Lanes<double> {
  static constexpr int kWidth = 8;
  using Values = __m512d;
  using Index = __m512i;
  using Mask = __mmask8;
  static Values load(const double* x) { return _mm512_loadu_pd(x); }
  static void store(double* y, Values values) { _mm512_storeu_pd(y, values); }
  static Values fill(double value) { return _mm512_set1_pd(value); }
  static Values multiply(Values a, Values b) { return _mm512_mul_pd(a, b); }
  static Index no_index() { return _mm512_setzero_si512(); }
  static Mask at_least(Values x, Values threshold) { return _mm512_cmp_pd_mask(x, threshold, _CMP_GE_OQ); }
  static Values keep_nan(Values x, Values y) { return _mm512_fixupimm_pd(y, x, _mm512_set1_epi64(0x11), 0); }
  static Index set_bit(Index index, Mask mask, uint32_t bit) {
    return _mm512_mask_or_epi64(index, mask, index, _mm512_set1_epi64(static_cast<long long>(bit)));
  }
  static Values select(Mask mask, Values yes, Values no) { return _mm512_mask_blend_pd(mask, no, yes); }
  template <int kSize>
  static Values pick(const double* table, Index index, const Mask* masks) {
    if constexpr (kSize <= 8) {
      return _mm512_permutexvar_pd(index, _mm512_loadu_pd(table));
    } else if constexpr (kSize == 16) {
      return _mm512_permutex2var_pd(_mm512_loadu_pd(table), index, _mm512_loadu_pd(table + 8));
    } else {
      return select(masks[__builtin_ctz(kSize) - 1], pick<kSize / 2>(table + kSize / 2, index, masks),
                    pick<kSize / 2>(table, index, masks));
    }
  }
};

#elif defined(__AVX2__)

template <>
struct Lanes<float> {
  static constexpr int kWidth = 8;
  using Values = __m256;
  using Index = __m256i;
  using Mask = __m256;
  static Values load(const float* x) { return _mm256_loadu_ps(x); }
  static void store(float* y, Values values) { _mm256_storeu_ps(y, values); }
  static Values fill(float value) { return _mm256_set1_ps(value); }
  static Values multiply(Values a, Values b) { return _mm256_mul_ps(a, b); }
  static Index no_index() { return _mm256_setzero_si256(); }
  static Mask at_least(Values x, Values threshold) { return _mm256_cmp_ps(x, threshold, _CMP_GE_OQ); }
  static Values keep_nan(Values x, Values y) { return select(_mm256_cmp_ps(x, x, _CMP_UNORD_Q), x, y); }
  static Index set_bit(Index index, Mask mask, uint32_t bit) {
    return _mm256_or_si256(index, _mm256_and_si256(_mm256_castps_si256(mask), _mm256_set1_epi32(static_cast<int>(bit))));
  }
  static Values select(Mask mask, Values yes, Values no) { return _mm256_blendv_ps(no, yes, mask); }
  template <int kSize>
  static Values pick(const float* table, Index index, const Mask* masks) {
    if constexpr (kSize <= 8) {
      return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
    } else {
      return select(masks[__builtin_ctz(kSize) - 1], pick<kSize / 2>(table + kSize / 2, index, masks),
                    pick<kSize / 2>(table, index, masks));
    }
  }
};

#elif defined(__aarch64__)

template <>
struct Lanes<float> {
  static constexpr int kWidth = 4;
  using Values = float32x4_t;
  using Index = uint32x4_t;
  using Mask = uint32x4_t;
  static Values load(const float* x) { return vld1q_f32(x); }
  static void store(float* y, Values values) { vst1q_f32(y, values); }
  static Values fill(float value) { return vdupq_n_f32(value); }
  static Values multiply(Values a, Values b) { return vmulq_f32(a, b); }
  static Index no_index() { return vdupq_n_u32(0); }
  static Mask at_least(Values x, Values threshold) { return vcgeq_f32(x, threshold); }
  static Values keep_nan(Values x, Values y) { return select(vceqq_f32(x, x), y, x); }
  static Index set_bit(Index index, Mask mask, uint32_t bit) { return vorrq_u32(index, vandq_u32(mask, vdupq_n_u32(bit))); }
  static Values select(Mask mask, Values yes, Values no) { return vbslq_f32(mask, yes, no); }
  template <int kSize>
  static Values pick(const float* table, Index index, const Mask* masks) {
    if constexpr (kSize <= 16) {  // 64 bytes, addressed by byte
      const uint32x4_t entry = vandq_u32(index, vdupq_n_u32(15));
      const uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100u), entry, vdupq_n_u32(0x04040404u));
      const uint8x16x4_t entries = vld1q_u8_x4(reinterpret_cast<const uint8_t*>(table));
      return vreinterpretq_f32_u8(vqtbl4q_u8(entries, vreinterpretq_u8_u32(bytes)));
    } else {
      return select(masks[__builtin_ctz(kSize) - 1], pick<kSize / 2>(table + kSize / 2, index, masks),
                    pick<kSize / 2>(table, index, masks));
    }
  }
};

#endif

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
