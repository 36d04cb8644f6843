/* level_avx512bf16.c - the kernels for AVX-512 with dot products of pairs: of bf16, and of int16 (VNNI). */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((                                                                                \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c"))),        \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c")
#endif
#define PKVI_LEVEL_AVX512
#define PKVI_LEVEL_DOT
#include "device/cpu/attend_kernel.h"
#include "device/cpu/pack_kernel.h"

static bool is_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

const struct pkvi_kernels pkvi_kernels_avx512bf16 = {"avx512bf16", is_supported, attend, merge,
                                                     pack};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int pkvi_level_avx512bf16_is_empty;
#endif
