// What the kernels share. Included only by files that are compiled once per instruction
// set: everything here is in an unnamed namespace, and nothing of the standard library
// is called, so that the linker can never take one set's code for another's.
#pragma once

#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// X and Y may be the same memory: no iteration reads what another one writes.
#if defined(__clang__)
#define SNN_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define SNN_INDEPENDENT _Pragma("GCC ivdep")
#endif
// Two hyperthreads share a core's decoders: 1.08 times the throughput at 1M floats.
#if defined(__AVX2__) && !defined(__clang__)  // which interleaves by itself
#define SNN_UNROLL _Pragma("GCC unroll 4")
#define SNN_UNROLL_WHOLLY _Pragma("GCC unroll 8")
#else
#define SNN_UNROLL
#define SNN_UNROLL_WHOLLY
#endif

namespace snn {
namespace SNN_ISA {
namespace {

// Loops are functions of their own, called through pointers: one copy of each serves
// every element type and layout, which keeps the library small.
#define SNN_LOOP __attribute__((noinline))

constexpr size_t kBlock = 512;   // elements that are widened, or given a threshold each, at a time
constexpr size_t kLongRow = 64;  // from here a row is worth a loop of its own

inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

inline float absolute(float x) { return __builtin_fabsf(x); }
inline double absolute(double x) { return __builtin_fabs(x); }
inline float with_sign_of(float magnitude, float x) { return __builtin_copysignf(magnitude, x); }
inline double with_sign_of(double magnitude, double x) { return __builtin_copysign(magnitude, x); }

// b where one of them is NaN, as the vector instructions have it.
inline float larger(float a, float b) { return a > b ? a : b; }
inline double larger(double a, double b) { return a > b ? a : b; }
inline float smaller(float a, float b) { return a < b ? a : b; }
inline double smaller(double a, double b) { return a < b ? a : b; }

#if defined(__AVX2__)
// The same for a vector of floats. Of conditional expressions GCC 12 would make comparisons and blends.
#if defined(__AVX512F__)
using Floats = __m512;
typedef int32_t Ints __attribute__((vector_size(64)));
inline Floats larger(float a, Floats b) { return _mm512_max_ps(_mm512_set1_ps(a), b); }
inline Floats smaller(float a, Floats b) { return _mm512_min_ps(_mm512_set1_ps(a), b); }
#else
using Floats = __m256;
typedef int32_t Ints __attribute__((vector_size(32)));
inline Floats larger(float a, Floats b) { return _mm256_max_ps(_mm256_set1_ps(a), b); }
inline Floats smaller(float a, Floats b) { return _mm256_min_ps(_mm256_set1_ps(a), b); }
#endif
inline Floats absolute(Floats x) { return reinterpret_cast<Floats>(reinterpret_cast<Ints>(x) & 0x7fffffff); }
inline Floats with_sign_of(Floats magnitude, Floats x) {  // a magnitude without a sign of its own
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(magnitude) | (reinterpret_cast<Ints>(x) & INT32_MIN));
}
#endif

// floor() of what is not negative; NaN stays.
#if defined(__SSE4_1__) || defined(__aarch64__)
inline float floor_count(float x) { return __builtin_floorf(x); }
inline double floor_count(double x) { return __builtin_floor(x); }
#else
// Without a rounding instruction: adding and taking away the first number that has no
// fraction rounds to nearest, a comparison makes that a floor. Exact, and vectorises.
template <typename T>
inline T floor_by_rounding(T x, T no_fraction) {
  const T nearest = (x + no_fraction) - no_fraction;
  const T below = nearest - (nearest > x ? T(1) : T(0));
  return x < no_fraction ? below : x;
}
inline float floor_count(float x) { return floor_by_rounding(x, 8388608.0f); }
inline double floor_count(double x) { return floor_by_rounding(x, 4503599627370496.0); }
#endif

inline uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

inline float widen(Half half) {
#if defined(__F16C__)
  return _cvtsh_ss(half.bits);
#else
  const uint32_t magnitude = half.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000u) << 16;
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000u | (magnitude > 0x7c00u ? 0x400000u : 0u);
  const uint32_t tiny = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  return float_of(sign | (magnitude < 0x400u ? tiny : magnitude < 0x7c00u ? normal : special));
#endif
}

// Rounds to nearest, ties to even.
inline Half narrow(float x) {
#if defined(__F16C__)
  return {static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
  const uint32_t bits = bits_of(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);  // the sum rounds at 2^-24
  const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  const uint32_t finite = magnitude < 0x38800000u ? tiny : magnitude < 0x477ff000u ? normal : 0x7c00u;
  return {static_cast<uint16_t>(((bits >> 16) & 0x8000u) | (magnitude > 0x7f800000u ? nan : finite))};
#endif
}

SNN_LOOP void widen(const Half* x, float* y, size_t count) {
  size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
#else
  SNN_INDEPENDENT
#endif
  for (; i < count; ++i) y[i] = widen(x[i]);
}

SNN_LOOP void narrow(const float* x, Half* y, size_t count) {
  size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  }
#else
  SNN_INDEPENDENT
#endif
  for (; i < count; ++i) y[i] = narrow(x[i]);
}

// How a kernel written for T reads and writes memory that holds another type: in place
// where they are the same, block by block through a buffer for float16.
template <typename Storage>
struct Access {
  using T = Storage;
  static constexpr bool kIsPlain = true;
  static constexpr size_t kMost = ~size_t{0};
  static T value(Storage x) { return x; }
  const T* read(const Storage* x, size_t) { return x; }
  T* write(Storage* y) { return y; }
  void flush(Storage*, size_t) {}
};

template <>
struct Access<Half> {
  using T = float;
  static constexpr bool kIsPlain = false;
  static constexpr size_t kMost = kBlock;
  static T value(Half x) { return widen(x); }
  const T* read(const Half* x, size_t count) {
    widen(x, buffer, count);
    return buffer;
  }
  T* write(Half*) { return buffer; }
  void flush(Half* y, size_t count) { narrow(buffer, y, count); }
  alignas(64) float buffer[kBlock];
};

inline bool has_long_rows(const Layout& layout) { return layout.channels == 1 || layout.inner >= kLongRow; }

// Where an element lies in its row, kept up without a division for each row.
struct Place {
  Place(size_t element, const Layout& layout)
      : left(layout.inner - element % layout.inner), channel(element / layout.inner % layout.channels) {}

  void advance(size_t count, const Layout& layout) {
    left -= count;
    if (left != 0) return;
    left = layout.inner;
    channel = channel + 1 == layout.channels ? 0 : channel + 1;
  }

  size_t left;  // elements to the end of the row
  size_t channel;
};

// Calls row(first, count, channel) for each stretch of [begin, end) that has one threshold,
// at most `most` elements at a time.
template <typename Row>
inline void for_each_row(size_t begin, size_t end, const Layout& given, size_t most, Row row) {
  const Layout layout = given.channels == 1 ? Layout{1, end} : given;
  Place place(begin, layout);
  for (size_t i = begin; i < end;) {
    const size_t count = smaller(smaller(place.left, end - i), most);
    row(i, count, place.channel);
    place.advance(count, layout);
    i += count;
  }
}

// One threshold per element, for rows too short to be worth a loop: a block of them at a time.
template <typename Storage>
class Spread {
 public:
  using T = typename Access<Storage>::T;

  Spread(const void* values, const Layout& layout, size_t begin, size_t end)
      : values_(static_cast<const Storage*>(values)), layout_(layout), place_(begin, layout), left_(end - begin),
        most_(kBlock) {
    const size_t period = layout.channels * layout.inner;
    if (period <= kBlock) {  // whole periods fill the block once and for all
      most_ = kBlock / period * period;
      repeats_ = true;
    }
  }

  // The thresholds of the next `count` elements; null at the end.
  SNN_LOOP const T* next(size_t& count) {
    count = smaller(most_, left_);
    if (count == 0) return nullptr;
    if constexpr (Access<Storage>::kIsPlain) {
      if (layout_.inner == 1 && !repeats_) {  // channels last: the thresholds lie as they are needed
        count = smaller(count, layout_.channels - place_.channel);
        const T* here = values_ + place_.channel;
        left_ -= count;
        place_.channel = place_.channel + count == layout_.channels ? 0 : place_.channel + count;
        return here;
      }
    }
    left_ -= count;
    if (repeats_ && filled_) return block_;
    filled_ = true;
    const size_t wanted = repeats_ ? most_ : count;
    for (size_t done = 0; done < wanted;) {
      const size_t stop = done + smaller(place_.left, wanted - done);
      const T value = Access<Storage>::value(values_[place_.channel]);
      place_.advance(stop - done, layout_);
      for (; done < stop; ++done) block_[done] = value;
    }
    return block_;
  }

 private:
  const Storage* values_;
  const Layout& layout_;
  Place place_;
  size_t left_;
  size_t most_;
  bool repeats_ = false;
  bool filled_ = false;
  alignas(64) T block_[kBlock];
};

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
