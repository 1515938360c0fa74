// The kernels against the formulas written down once more, element by element: for
// processors that have no onnxruntime at hand, such as a 64-bit Arm under an emulator.
//
//   check_kernels [seed]      prints what was compared; exit status 1 on the first difference
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

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
void check(const Kernels& kernels, Element element, size_t channels, size_t inner, size_t outer, int thresholds) {
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

  std::vector<T> cuts, levels;
  for (int i = 0; i < thresholds; ++i) cuts.push_back(wide(stored<S>(T(i - thresholds / 2) / T(4))));
  for (int i = 0; i <= thresholds; ++i) levels.push_back(wide(stored<S>(T(static_cast<int>(random_bits() % 100) - 50) / T(8))));
  const int depth = thresholds < 32 ? 5 : thresholds < 64 ? 6 : 8;
  Tables<T> tables{};
  for (size_t index = 1; index < (size_t{1} << depth); ++index) {
    int level = 0;
    while ((size_t{2} << level) <= index) ++level;
    size_t position = (size_t{1} << (depth - 1 - level)) - 1;
    for (int bit = 0; bit < level; ++bit) position += ((index >> bit) & 1) << (depth - 1 - bit);
    tables.tree[index] = position < cuts.size() ? cuts[position] : std::numeric_limits<T>::infinity();
  }
  for (size_t index = 0; index < (size_t{1} << depth); ++index) {
    size_t passed = 0;
    for (int bit = 0; bit < depth; ++bit) passed += ((index >> bit) & 1) << (depth - 1 - bit);
    tables.levels[index] = levels[passed < cuts.size() ? passed : cuts.size()];
  }
  for (size_t i = begin; i < count; ++i) {
    const T value = wide(x[i]), scale = wide(factor[channel(i)]);
    size_t passed = 0;
    for (T cut : cuts) passed += value >= scale * cut ? 1 : 0;
    expected[i] = std::isnan(value) ? x[i] : stored<S>(scale * levels[passed]);
  }
  kernels.scale[element](x.data(), y.data(), begin, count, layout, {factor.data(), &tables, depth});
  require_same("ScaleFire", y, expected, begin, count);
}

}  // namespace

int main(int argc, char** argv) {
  random_bits.seed(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1);
  const Kernels& kernels = select_kernels();
  size_t layouts = 0;
  for (size_t channels : {1, 2, 3, 7, 40, 600}) {
    for (size_t inner : {1, 2, 5, 16, 63, 64, 65, 130}) {
      for (int thresholds : {1, 31, 40, 63, 255}) {
        const size_t outer = 1 + random_bits() % 4;
        check<float>(kernels, kFloat32, channels, inner, outer, thresholds);
        check<Half>(kernels, kFloat16, channels, inner, outer, thresholds);
        check<double>(kernels, kFloat64, channels, inner, outer, thresholds);
        ++layouts;
      }
    }
  }
  std::printf("%zu layouts of 3 operators and 3 types: the formulas' bits\n", layouts);
}
