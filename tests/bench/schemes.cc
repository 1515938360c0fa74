// Ways to find a level among N sorted thresholds, all exact, one thread, data in the
// second-level cache. bench_schemes.py builds and runs this.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../../runtime_ops/src/kernels/plant.h"
#include "../../runtime_ops/src/kernels/scale.h"

namespace {

constexpr size_t kCount = 65536;  // 256 KiB in, 256 KiB out

struct Staircase {
  std::vector<float> thresholds;  // sorted
  std::vector<float> levels;      // one more
};

// As many vector comparisons as there are thresholds.
void linear_scan(const Staircase& s, const float* x, float* y) {
  for (size_t begin = 0; begin < kCount; begin += 256) {
    float value[256];
    for (float& v : value) v = s.levels[0];
    for (size_t k = 0; k < s.thresholds.size(); ++k) {
      const float threshold = s.thresholds[k], level = s.levels[k + 1];
      for (size_t i = 0; i < 256; ++i) value[i] = x[begin + i] >= threshold ? level : value[i];
    }
    for (size_t i = 0; i < 256; ++i) y[begin + i] = x[begin + i] == x[begin + i] ? value[i] : x[begin + i];
  }
}

// The standard library's binary search, element by element.
void upper_bound(const Staircase& s, const float* x, float* y) {
  for (size_t i = 0; i < kCount; ++i) {
    const auto found = std::upper_bound(s.thresholds.begin(), s.thresholds.end(), x[i]);
    y[i] = x[i] == x[i] ? s.levels[static_cast<size_t>(found - s.thresholds.begin())] : x[i];
  }
}

// A binary search without branches in the plain table: the compiler makes it gathers.
void gathered_search(const Staircase& s, const float* x, float* y) {
  int size = 1;
  while (size <= static_cast<int>(s.thresholds.size())) size *= 2;
  std::vector<float> table(static_cast<size_t>(size), INFINITY), levels(static_cast<size_t>(size), s.levels.back());
  std::copy(s.thresholds.begin(), s.thresholds.end(), table.begin());
  std::copy(s.levels.begin(), s.levels.end(), levels.begin());
  const float* const entries = table.data();
  const float* const out = levels.data();
  for (size_t begin = 0; begin < kCount; begin += 256) {
    int position[256] = {};
    for (int half = size / 2; half > 0; half /= 2) {
      for (size_t i = 0; i < 256; ++i) position[i] += x[begin + i] >= entries[position[i] + half - 1] ? half : 0;
    }
    for (size_t i = 0; i < 256; ++i) y[begin + i] = x[begin + i] == x[begin + i] ? out[position[i]] : x[begin + i];
  }
}

// A grid so fine that no cell has two thresholds: one look-up gives the cell's threshold,
// one comparison corrects the level. The grid's size depends on the closest thresholds.
struct Buckets {
  float first = 0, cells_per_unit = 0;
  std::vector<float> threshold;
  std::vector<int> below;
};

float cell_of(const Buckets& b, float x) {
  const float cell = (x - b.first) * b.cells_per_unit;
  return std::min(std::max(cell, 0.0f), static_cast<float>(b.threshold.size() - 1));
}

Buckets make_buckets(const Staircase& s) {
  for (size_t cells = 64; cells <= (size_t{1} << 22); cells *= 2) {
    Buckets b;
    b.first = s.thresholds.front();
    b.cells_per_unit = static_cast<float>(cells) / (s.thresholds.back() - b.first);
    b.threshold.assign(cells, INFINITY);
    b.below.assign(cells, 0);
    std::vector<int> inside(cells, 0);
    for (float t : s.thresholds) {
      const size_t cell = static_cast<size_t>(cell_of(b, t));
      inside[cell]++;
      b.threshold[cell] = t;
    }
    if (*std::max_element(inside.begin(), inside.end()) > 1) continue;
    for (size_t cell = 1; cell < cells; ++cell) b.below[cell] = b.below[cell - 1] + inside[cell - 1];
    return b;
  }
  return {};
}

void bucket_table(const Buckets& b, const Staircase& s, const float* x, float* y) {
  const float* const thresholds = b.threshold.data();
  const int* const below = b.below.data();
  const float* const levels = s.levels.data();
  const float last = static_cast<float>(b.threshold.size() - 1);
  for (size_t i = 0; i < kCount; ++i) {
    float cell = (x[i] - b.first) * b.cells_per_unit;
    cell = cell > 0.0f ? cell : 0.0f;  // NaN too
    cell = cell < last ? cell : last;
    const int index = static_cast<int>(cell);
    const int level = below[index] + (x[i] >= thresholds[index] ? 1 : 0);
    y[i] = x[i] == x[i] ? levels[level] : x[i];
  }
}

template <typename Body>
void measure(const char* name, const float* expected, float* y, Body body) {
  std::fill(y, y + kCount, -1.0f);
  body();
  const bool exact = std::memcmp(y, expected, kCount * sizeof(float)) == 0;
  double best = 1e9;
  for (int round = 0; round < 30; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 4; ++i) body();
    const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::min(best, elapsed.count() / 4 / kCount);
  }
  std::printf("  %-44s %7.3f ns per element%s\n", name, best, exact ? "" : "   WRONG");
}

}  // namespace

int main() {
  using namespace snn;
  using namespace snn::SNN_ISA;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(kCount), y(kCount), expected(kCount);
  for (float& v : x) v = normal(random);
  x[7] = NAN;
  for (size_t count : {size_t{31}, size_t{63}, size_t{255}}) {
    Staircase s;
    for (size_t i = 0; i < count; ++i) s.thresholds.push_back(normal(random));
    std::sort(s.thresholds.begin(), s.thresholds.end());
    for (size_t i = 0; i <= count; ++i) s.levels.push_back(normal(random));
    upper_bound(s, x.data(), expected.data());
    const Buckets buckets = make_buckets(s);
    const int depth = count == 31 ? 5 : count == 63 ? 6 : 8;
    Tables<float> tables;
    plant(count, [&](size_t i) { return s.thresholds[i]; }, [&](size_t i) { return s.levels[i]; }, depth, tables);
    std::printf("%zu thresholds\n", count);
    measure("std::upper_bound", expected.data(), y.data(), [&] { upper_bound(s, x.data(), y.data()); });
    measure("linear scan, vectorised", expected.data(), y.data(), [&] { linear_scan(s, x.data(), y.data()); });
    measure("binary search by gathers, vectorised", expected.data(), y.data(), [&] { gathered_search(s, x.data(), y.data()); });
    char name[64];
    std::snprintf(name, sizeof name, "grid of %zu cells, one correction", buckets.threshold.size());
    if (!buckets.threshold.empty()) {
      measure(name, expected.data(), y.data(), [&] { bucket_table(buckets, s, x.data(), y.data()); });
    }
    measure("search tree, one by one", expected.data(), y.data(),
            [&] { climb_one_by_one<false, float>(x.data(), y.data(), kCount, nullptr, tables, depth); });
    measure("search tree in registers (the library's)", expected.data(), y.data(),
            [&] { climb_of_depth<false, float>(depth)(x.data(), y.data(), kCount, nullptr, tables, depth); });
  }
}
