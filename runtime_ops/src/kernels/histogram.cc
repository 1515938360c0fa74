#include "histogram.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__clang__)
#define SNN_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define SNN_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace snn {
namespace {

constexpr int kMantissaBits = 23;
constexpr int32_t kMagnitude = 0x7fffffff;
constexpr int32_t kInfinity = 0x7f800000;

static_assert(kHistogramBlock * kMostBlocks == size_t{1} << (kCountBit - kMantissaBits), "the rests overflow");

int32_t bits_of(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Vectors of 16 bytes, which the baseline of both architectures has.
using Floats = float __attribute__((vector_size(16)));
using Integers = int32_t __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(16)));

struct Lanes {
  static constexpr size_t kCount = 4;
  Doubles sum[2] = {}, squares[2] = {};
  Floats low = Floats{} + HUGE_VALF, high = Floats{} - HUGE_VALF;
  Integers not_finite = {};

  void add(const float* x) {
    Integers bits;
    __builtin_memcpy(&bits, x, sizeof bits);
    const Integers bad = (bits & kMagnitude) > kInfinity - 1;  // all ones or 0
    not_finite -= bad;
    const Integers kept = bits & ~bad;
    const Integers infinity = bad & kInfinity;  // of the sign that is no extreme
    const Floats values = reinterpret_cast<Floats>(kept);
    const Floats low_values = reinterpret_cast<Floats>(kept | infinity);
    const Floats high_values = reinterpret_cast<Floats>(kept | infinity | (bad & INT32_MIN));
    low = low_values < low ? low_values : low;
    high = high_values > high ? high_values : high;
    add(0, widen(values));
    add(1, widen(__builtin_shufflevector(values, values, 2, 3, 2, 3)));
  }

 private:
  // The first two.
  static Doubles widen(Floats values) {
#if defined(__SSE2__)  // GCC converts them one by one
    return _mm_cvtps_pd(values);
#else
    return Doubles{values[0], values[1]};
#endif
  }
  void add(int half, Doubles values) {
    sum[half] += values;
    squares[half] += values * values;
  }
};

}  // namespace

Moments find_moments(const float* x, size_t count) {
  Lanes lanes;
  size_t i = 0;
  for (; i + Lanes::kCount <= count; i += Lanes::kCount) lanes.add(x + i);
  Moments moments;
  const size_t left = count - i;
  if (left != 0) {  // what is missing is not finite, so it adds nothing
    float last[Lanes::kCount];
    for (size_t l = 0; l < Lanes::kCount; ++l) last[l] = l < left ? x[i + l] : HUGE_VALF;
    lanes.add(last);
    moments.not_finite = -static_cast<int64_t>(Lanes::kCount - left);
  }
  const Doubles sum = lanes.sum[0] + lanes.sum[1], squares = lanes.squares[0] + lanes.squares[1];
  moments.sum = sum[0] + sum[1];
  moments.squares = squares[0] + squares[1];
  for (size_t l = 0; l < Lanes::kCount; ++l) {
    moments.not_finite += lanes.not_finite[l];
    moments.low = lanes.low[l] < moments.low ? lanes.low[l] : moments.low;
    moments.high = lanes.high[l] > moments.high ? lanes.high[l] : moments.high;
  }
  return moments;
}

int32_t find_top(const Bins& bins, const Moments& moments) {
  if (moments.low > moments.high) return bins.octaves;
  const float largest = moments.high > -moments.low ? moments.high : -moments.low;
  const int32_t exponent = bits_of(largest) >> kMantissaBits;
  return exponent > bins.octaves ? exponent : bins.octaves;
}

namespace {

template <bool kRests>
void count_in(const Bins& bins, int32_t top, const float* x, size_t count, uint64_t* words) {
  const int shift = kMantissaBits - bins.leading;
  const int32_t below = ((top - bins.octaves + 1) << bins.leading) - 1;  // the last that counts as 0
  const int32_t rest_mask = (1 << shift) - 1;
  const int32_t end = (top + 1) << kMantissaBits;  // of the largest magnitudes
  int32_t bin[kHistogramBlock];
  int32_t rest[kHistogramBlock];
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const int32_t bits = bits_of(x[i]);
    const int32_t magnitude = bits & kMagnitude & ((bits & kMagnitude) < end ? -1 : 0);
    const int32_t above = (magnitude >> shift) - below;
    const int32_t distance = above > 0 ? above : 0;
    const int32_t sign = bits >> 31;  // 0 or -1
    bin[i] = (distance ^ sign) - sign;
    if (kRests) rest[i] = magnitude & rest_mask;
  }
  // Sets of counters, so that equal values in a row need not wait for each other.
  const size_t size = bins.count();
  uint64_t* const first = words + bins.side();
  uint64_t* const second = first + size;
  uint64_t* const third = kRests ? first : second + size;
  uint64_t* const fourth = kRests ? second : third + size;
  const auto add = [&](uint64_t* middle, size_t i) {
    middle[bin[i]] += (uint64_t{1} << kCountBit) + (kRests ? static_cast<uint32_t>(rest[i]) : 0u);
  };
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    add(first, i);
    add(second, i + 1);
    add(third, i + 2);
    add(fourth, i + 3);
  }
  for (; i < count; ++i) add(first, i);
}

}  // namespace

void count_values(const Bins& bins, int32_t top, const float* x, size_t count, uint64_t* words) {
  if (bins.has_rests) return count_in<true>(bins, top, x, count, words);
  count_in<false>(bins, top, x, count, words);
}

}  // namespace snn
