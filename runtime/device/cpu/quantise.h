/* quantise.h - the scaled types of the cache, one row of one head at a time: from floats to codes
 * and scales, and back.
 *
 *   i8            x = scale * n            n = -127..127, a byte in two's complement
 *   e4m3, e5m2    x = scale * number       the number's 8-bit code (OCP), subnormals excepted
 *   i4            x = minimum + scale * n  n = 0..15, for each group of 32 dims
 *
 * This is the specification. The reference stores what it gives; the kernels that write K and V
 * (pack_kernel.h) work on vectors and give the same bits.
 *
 * Holds   Q1  no number is cut off: scales are rounded upwards, the minimum of i4 downwards
 *         Q2  scales of i8, e4m3 and e5m2 have 16 significant bits, so that scale * n is
 *             exact in f32 and encoding what was decoded gives the same codes and scale. For i4
 *             this holds when the numbers of a group differ by a 32nd of the largest or more
 *         Q3  scales are 0 or large enough that no product is a subnormal f32
 *         Q4  zero bytes, codes and scales alike, decode to zeros */
#ifndef PKVI_DEVICE_CPU_QUANTISE_H
#define PKVI_DEVICE_CPU_QUANTISE_H

#include "device/cpu/element.h"

enum { PKVI_SCALE_GROUPS_MAX = PKV_HEAD_DIM_MAX / PKVI_GROUP_DIMS };

struct pkvi_scale {
    float scale;
    float minimum; /* of i4; 0 for the other types */
};

#define PKVI_STEP_SHORTENED (1.0F - 0x1p-20F) /* see pkvi_scale_of_range */

/* Scale and minimum of a group of i4 whose numbers lie in [lowest, highest]. */
struct pkvi_scale pkvi_scale_of_range(float lowest, float highest);

/* Can everything that a row is decoded to be expressed? */
bool pkvi_scale_is_finite(uint32_t dtype, struct pkvi_scale scale);

/* Encode `row` [dim]: one code per byte in codes [dim], and its scales: one, or one for each group.
 * False when a number is not finite, or would not be in this type. */
bool pkvi_quantise(uint32_t dtype, const float* row, uint32_t dim, unsigned char* codes,
                   struct pkvi_scale* scales);

float pkvi_dequantise(uint32_t dtype, unsigned char code, struct pkvi_scale scale);

/* Which of a row's scales belongs to element d. */
static inline uint32_t pkvi_scale_index(uint32_t dtype, uint32_t d) {
    return dtype == PKV_I4 ? d / PKVI_GROUP_DIMS : 0;
}

static inline uint32_t pkvi_scale_count(uint32_t dtype, uint32_t dim) {
    return dtype == PKV_I4 ? pkvi_scale_groups(dim) : 1;
}

#endif
