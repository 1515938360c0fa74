#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace snn {

const Kernels& select_kernels() {
  const char* limit = std::getenv("SNN_OPS_ISA");
  const auto allowed = [limit](const char* isa) { return limit == nullptr || std::strcmp(limit, isa) == 0; };
#ifdef SNN_DISPATCH_AVX512
  if (allowed("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return avx512::kernels;
  }
#endif
#ifdef SNN_DISPATCH_AVX2
  if ((allowed("avx2") || allowed("avx512")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
    return avx2::kernels;
  }
#endif
  (void)allowed;
  return baseline::kernels;
}

}  // namespace snn
