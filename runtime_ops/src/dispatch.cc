#include "fire.h"

namespace snn {

FireFunction select_fire() {
#ifdef SNN_DISPATCH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return avx512::fire;
  }
#endif
#ifdef SNN_DISPATCH_AVX2
  if (__builtin_cpu_supports("avx2")) return avx2::fire;
#endif
#ifdef SNN_DISPATCH_SSE41
  if (__builtin_cpu_supports("sse4.1")) return sse41::fire;
#endif
  return baseline::fire;
}

}  // namespace snn
