// The kernels against the formulas written down once more, element by element: for
// processors that have no onnxruntime at hand, such as a 64-bit Arm under an emulator.
//
//   check_kernels [seed]      prints what was compared; exit status 1 on the first difference
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "../../runtime_ops/src/kernels/few_levels.h"
#include "../../runtime_ops/src/kernels/kernels.h"

using namespace snn;

namespace {

std::mt19937_64 random_bits;

float half_to_float(Half half) {
  const int exponent = (half.bits >> 10) & 31, fraction = half.bits & 1023;
  const float sign = (half.bits & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                               : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25));
}

// The nearest of all 65,536, ties to the even one: slow, and independent of the kernels'.
Half float_to_half(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return {0x7e00};
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  uint16_t low = 0, high = 0x7bff;  // largest finite
  while (low < high) {
    const uint16_t middle = static_cast<uint16_t>((low + high + 1) / 2);
    if (half_to_float({middle}) <= magnitude) low = middle;
    else high = static_cast<uint16_t>(middle - 1);
  }
  const float below = magnitude - half_to_float({low});
  const float above = (low == 0x7bff ? 65536.0f : half_to_float({static_cast<uint16_t>(low + 1)})) - magnitude;
  const bool up = above < below || (above == below && low % 2 == 1);
  return {static_cast<uint16_t>(sign | (up ? low + 1 : low))};
}

template <typename S>
using Wide = std::conditional_t<std::is_same<S, Half>::value, float, S>;
template <typename S>
Wide<S> wide(S x) {
  if constexpr (std::is_same<S, Half>::value) return half_to_float(x);
  else return x;
}
template <typename S>
S stored(Wide<S> x) {
  if constexpr (std::is_same<S, Half>::value) return float_to_half(x);
  else return x;
}
template <typename S>
bool same(S a, S b) {
  if (std::isnan(wide(a)) && std::isnan(wide(b))) return true;
  return std::memcmp(&a, &b, sizeof a) == 0;
}

template <typename S>
std::vector<S> inputs(size_t count) {
  std::normal_distribution<double> normal(0, 3);
  std::vector<S> x(count);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t kind = random_bits() % 4;
    const uint64_t raw = random_bits();
    if (kind == 0) std::memcpy(&x[i], &raw, sizeof(S));
    else if (kind == 1) x[i] = stored<S>(static_cast<Wide<S>>(static_cast<int>(raw % 160) - 80) / 8);  // ties
    else x[i] = stored<S>(static_cast<Wide<S>>(normal(random_bits)));
  }
  return x;
}

template <typename T>
T fire_formula(T u, T theta, const FireParameters& p) {
  const T fired = std::floor(std::fabs(u) / theta + T(p.v0));
  const T limit = u < 0 ? T(p.levels_neg) : T(p.levels_pos);
  const T count = fired > limit ? limit : fired;
  return theta * (u < 0 ? T(0) - count : count);
}

template <typename T>
T octave_formula(T x, T scale, const OctaveParameters& p) {
  const T two_to_p = std::ldexp(T(1), std::numeric_limits<T>::digits);
  const T reciprocal = T(1) / scale;
  T c = x * reciprocal;
  if (c > T(p.top_pos)) c = p.top_pos;
  if (c < T(-p.top_neg)) c = -p.top_neg;
  const T steep = std::fabs(c) * (two_to_p / T(p.linear)), least = T(0.75) * two_to_p;
  const T grid = (c > 0 ? T(1) : c < 0 ? T(-1) : T(0)) * (steep > least ? steep : least);
  return scale * (grid - (grid - c));
}

template <typename T>
T staircase_formula(T x, T scale, const StaircaseParameters& p) {
  const T position = x * (T(1) / scale * T(p.density)) - T(p.start);
  if (std::isnan(position)) return position;
  const T cell = std::floor(std::min(std::max(position, T(0)), T(p.last)));
  return scale * static_cast<const T*>(p.table)[static_cast<size_t>(cell)] + T(0);
}

template <typename S>
void require_same(const char* what, const std::vector<S>& y, const std::vector<S>& expected, size_t from, size_t to) {
  for (size_t i = from; i < to; ++i) {
    if (same(y[i], expected[i])) continue;
    std::printf("%s, %zu bytes an element: element %zu is %a, not %a\n", what, sizeof(S), i,
                static_cast<double>(wide(y[i])), static_cast<double>(wide(expected[i])));
    std::exit(1);
  }
}

template <typename S>
void check(const Kernels& kernels, Element element, size_t channels, size_t inner, size_t outer, size_t runs) {
  using T = Wide<S>;
  const size_t count = outer * channels * inner, steps = 3;
  const std::vector<S> x = inputs<S>(count * steps);
  std::vector<S> factor(channels), y(count * steps), expected(count * steps);
  for (S& f : factor) f = stored<S>(T(1 + random_bits() % 64) / T(32));
  const Layout layout{channels, inner};
  const size_t begin = count > 3 ? random_bits() % 3 : 0;  // a range of the tensor, not aligned
  const auto channel = [&](size_t i) { return i / inner % channels; };

  for (float negative : {0.0f, 3.0f}) {
    const FireParameters fire{factor.data(), 5.0f, negative, 0.25f};
    for (size_t i = begin; i < count; ++i) expected[i] = stored<S>(fire_formula<T>(wide(x[i]), wide(factor[channel(i)]), fire));
    kernels.fire[element](x.data(), y.data(), begin, count, layout, fire);
    require_same("MultiThresholdFire", y, expected, begin, count);

    for (size_t i = begin; i < count; ++i) {
      T residual = 0;
      for (size_t t = 0; t < steps; ++t) {
        const T u = residual + wide(x[t * count + i]);
        const T fired = fire_formula<T>(u, wide(factor[channel(i)]), fire);
        residual = u - fired;
        expected[t * count + i] = stored<S>(fired);
      }
    }
    kernels.integrate[element](x.data(), y.data(), begin, count, layout, {fire, steps, count});
    for (size_t t = 0; t < steps; ++t) require_same("IntegrateFire", y, expected, t * count + begin, (t + 1) * count);
  }

  for (float negative : {0.0f, 12.0f}) {
    const OctaveParameters octave{factor.data(), 3.0f, 48.0f, negative};
    for (size_t i = begin; i < count; ++i) expected[i] = stored<S>(octave_formula<T>(wide(x[i]), wide(factor[channel(i)]), octave));
    kernels.scale[element](x.data(), y.data(), begin, count, layout, octave);
    require_same("ScaleFire", y, expected, begin, count);
  }

  std::vector<T> table;
  std::vector<float> narrow;
  const size_t longest = random_bits() % 2 == 0 ? 1 : 5;  // even runs, or not
  for (size_t run = 0; run < runs; ++run) {
    const S level = stored<S>(T(static_cast<int>(run * 37 % 101) - 50) / T(8));  // neighbours differ
    const size_t cells = 1 + random_bits() % longest;
    table.insert(table.end(), cells, wide(level));
    narrow.insert(narrow.end(), cells, static_cast<float>(wide(level)));
  }
  FewLevels few;
  const bool has_few = element != kFloat64 && few_levels(narrow.data(), static_cast<int>(narrow.size()), few);
  const StaircaseParameters staircase{factor.data(),  table.data(), has_few ? &few : nullptr, 8.0f, -20.5f,
                                      static_cast<float>(table.size() - 1)};
  for (size_t i = begin; i < count; ++i) expected[i] = stored<S>(staircase_formula<T>(wide(x[i]), wide(factor[channel(i)]), staircase));
  kernels.staircase[element](x.data(), y.data(), begin, count, layout, staircase);
  require_same("StaircaseFire", y, expected, begin, count);
}

}  // namespace

int main(int argc, char** argv) {
  random_bits.seed(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1);
  const Kernels& kernels = select_kernels();
  size_t layouts = 0;
  for (size_t channels : {1, 2, 3, 7, 40, 600}) {
    for (size_t inner : {1, 2, 5, 16, 63, 64, 65, 130}) {
      for (size_t runs : {1, 2, 31, 32, 33, 700}) {
        const size_t outer = 1 + random_bits() % 4;
        check<float>(kernels, kFloat32, channels, inner, outer, runs);
        check<Half>(kernels, kFloat16, channels, inner, outer, runs);
        check<double>(kernels, kFloat64, channels, inner, outer, runs);
        ++layouts;
      }
    }
  }
  std::printf("%zu layouts of 4 operators and 3 types: the formulas' bits\n", layouts);
}
