/* level_scalar.c - the kernels for any processor: vectors of four, no fused multiply-add. */
#define PKVI_LEVEL_SCALAR
#include "device/cpu/attend_kernel.h"
#include "device/cpu/pack_kernel.h"

static bool is_supported(void) {
    return true;
}

const struct pkvi_kernels pkvi_kernels_scalar = {"scalar", is_supported, attend, merge, pack};
