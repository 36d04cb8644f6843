/* level_neon.c - the kernels for 64-bit Arm, where NEON is always there. */
#if defined(__aarch64__)
#define PKVI_LEVEL_NEON
#include "device/cpu/attend_kernel.h"
#include "device/cpu/pack_kernel.h"

static bool is_supported(void) {
    return true;
}

const struct pkvi_kernels pkvi_kernels_neon = {"neon", is_supported, attend, merge, pack};
#else
typedef int pkvi_level_neon_is_empty;
#endif
