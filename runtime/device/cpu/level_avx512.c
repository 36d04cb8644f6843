/* level_avx512.c - the kernels for AVX-512 (F, BW, DQ, VL): 16 floats a vector, 32 registers. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))),                   \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define PKVI_LEVEL_AVX512
#include "device/cpu/attend_kernel.h"
#include "device/cpu/pack_kernel.h"

static bool is_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const struct pkvi_kernels pkvi_kernels_avx512 = {"avx512", is_supported, attend, merge, pack};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int pkvi_level_avx512_is_empty;
#endif
