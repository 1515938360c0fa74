// StaircaseFire: y = scale * table[i] + 0, the cell i of x on a uniform grid:
//
//   rate = (1 / scale) * density;  i = clip(x * rate - start, 0, last), whole
//
// evaluated in exactly this order in T, so that it equals the ONNX function body bit for bit. NaN
// looks up cell 0; what is added, c - c for the clipped c, is 0 or NaN.
//
// With AVX-512 vectors of float32 are looked up at once (climb.h). Otherwise a block goes through
// three loops: look-ups, which are no vector operations, apart from what is.
#pragma once

#include "climb.h"
#include "elementwise.h"

namespace snn {
namespace SNN_ISA {
namespace {

constexpr size_t kLookUp = 128;  // elements at a time; even

template <typename T>
SNN_LOOP void find_rates(const T* scales, T* rates, size_t count, T density) {
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) rates[i] = T(1) / scales[i] * density;
}

template <typename T>
SNN_LOOP void find_cells(const T* x, T* y, int32_t* cells, size_t count, const T* rates,
                         const StaircaseParameters& staircase) {
  const T start = staircase.start, last = staircase.last;
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) {
    const T position = x[i] * rates[i] - start;
    const T above = T(0) > position ? T(0) : position;
    const T clipped = last < above ? last : above;
    cells[i] = static_cast<int32_t>(clipped > T(0) ? clipped : T(0));  // of NaN: 0
    y[i] = clipped - clipped;
  }
}

// An even number of them; two cells are read at once.
template <typename T>
SNN_LOOP void look_up(const int32_t* cells, T* levels, size_t count, const T* table) {
  for (size_t i = 0; i < count; i += 2) {
    uint64_t both;
    __builtin_memcpy(&both, cells + i, sizeof both);
    levels[i] = table[both & 0xffffffffu];
    levels[i + 1] = table[both >> 32];
  }
}

template <typename T>
SNN_LOOP void fire_levels(const T* levels, T* y, size_t count, const T* scales) {
  SNN_INDEPENDENT
  for (size_t i = 0; i < count; ++i) y[i] = scales[i] * levels[i] + y[i];
}

template <bool kSpread, typename T>
void climb_by_blocks(const T* x, T* y, size_t count, const T* scales, const void* constants) {
  const StaircaseParameters& staircase = *static_cast<const StaircaseParameters*>(constants);
  int32_t cells[kLookUp];
  T levels[kLookUp], rates[kLookUp], same[kLookUp];
  if (!kSpread) {  // one scale for all
    for (T& scale : same) scale = *scales;
    find_rates(same, rates, kLookUp, T(staircase.density));
  }
  for (size_t i = 0; i < count; i += kLookUp) {
    const size_t block = smaller(kLookUp, count - i);
    const T* beside = kSpread ? scales + i : same;
    if (kSpread) find_rates(beside, rates, block, T(staircase.density));
    find_cells(x + i, y + i, cells, block, rates, staircase);
    if (block % 2 != 0) cells[block] = 0;
    look_up(cells, levels, block + block % 2, static_cast<const T*>(staircase.table));
    fire_levels(levels, y + i, block, beside);
  }
}

template <typename T>
Loops<T> loops_of(const StaircaseParameters&) {
  return {climb_by_blocks<false, T>, climb_by_blocks<true, T>};
}

#if defined(__AVX512F__)
template <typename Cells>
Loops<float> climbing() {
  return {climb_row<Cells>, climb_spread<Cells>};
}

template <>
inline Loops<float> loops_of<float>(const StaircaseParameters& staircase) {
  if (staircase.few == nullptr) return climbing<ManyCells>();
  switch (staircase.few->form) {
    case FewLevels::kByBucket: return climbing<EvenCells>();
    case FewLevels::kUpTo32: return climbing<FewCells<Ends32, Levels32>>();
    default: return climbing<FewCells<Ends64, Levels64>>();
  }
}
#endif

template <typename Storage>
void staircase(const void* x, void* y, size_t begin, size_t end, const Layout& layout,
               const StaircaseParameters& parameters) {
  using T = typename Access<Storage>::T;
  run_loops<Storage, T>(x, y, begin, end, layout, parameters.scale, loops_of<T>(parameters), &parameters);
}

}  // namespace
}  // namespace SNN_ISA
}  // namespace snn
