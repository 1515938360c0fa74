// Memory by malloc and not by operator new: the library then needs nothing of the C++
// runtime, which would more than double its size.
#pragma once

#include <cstdlib>

namespace snn {

// Room for one T; null when there is none.
template <typename T>
void* allocate() {
  constexpr size_t kAlignment = 64;  // of a vector register, and a multiple of alignof(T)
  static_assert(kAlignment % alignof(T) == 0, "aligned_alloc would not do");
  return std::aligned_alloc(kAlignment, (sizeof(T) + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace snn
