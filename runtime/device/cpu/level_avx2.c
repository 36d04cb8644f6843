/* level_avx2.c - the kernels for AVX2 with FMA and F16C: most x86 processors since 2013. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#define PKVI_LEVEL_AVX2
#include "device/cpu/attend.h"
#include "device/cpu/simd.h"
#include <math.h>

#include "device/cpu/attend_kernel.h"

static bool is_supported(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const struct pkvi_kernels pkvi_kernels_avx2 = {"avx2", is_supported, attend, merge};
#else
typedef int pkvi_level_avx2_is_empty;
#endif
