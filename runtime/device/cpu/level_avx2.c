/* level_avx2.c - the kernels for AVX2 with FMA and F16C: most x86 processors since 2013. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define PKVI_LEVEL_AVX2
#include "device/cpu/attend_kernel.h"
#include "device/cpu/pack_kernel.h"

/* Every processor with AVX2 has F16C. */
static bool is_supported(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const struct pkvi_kernels pkvi_kernels_avx2 = {"avx2", is_supported, attend, merge, pack};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int pkvi_level_avx2_is_empty;
#endif
