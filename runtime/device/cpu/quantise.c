/* quantise.c - see quantise.h. Compiled without contraction: encoding rounds where it says so. */
#include "device/cpu/quantise.h"

#include <math.h>

enum { I4_LARGEST = 15 };

/* ---- Scales ---------------------------------------------------------------------------------- */

/* Neighbours among the f16 numbers; bits count upwards from zero in both directions. */
static float f16_not_above(float value) {
    const uint16_t bits = pkvi_float_to_f16(value);
    if (pkvi_f16_to_float(bits) <= value) return pkvi_f16_to_float(bits);
    if (bits == 0) return -0x1p-24F;
    return pkvi_f16_to_float((uint16_t)(bits & 0x8000 ? bits + 1 : bits - 1));
}

static float f16_not_below(float value) {
    return -f16_not_above(-value);
}

/* Adding zero makes a negative zero positive: which of the two is lowest is not defined. The scale
 * may be too small by a millionth, so that the rounding of this arithmetic does not make it a
 * whole f16 step too large when the numbers are decoded ones: Q2. */
struct pkvi_scale pkvi_scale_of_range(float lowest, float highest) {
    const float minimum = f16_not_above(lowest) + 0.0F;
    const float step = (highest - minimum) / (float)I4_LARGEST;
    return (struct pkvi_scale){f16_not_below(step * PKVI_STEP_SHORTENED) + 0.0F, minimum};
}

bool pkvi_scale_is_finite(uint32_t dtype, struct pkvi_scale scale) {
    if (dtype == PKV_I4) return isfinite(scale.scale) && isfinite(scale.minimum);
    return isfinite(scale.scale * pkvi_largest_number(dtype));
}

/* ---- Codes ----------------------------------------------------------------------------------- */

static bool row_is_finite(const float* row, uint32_t dim) {
    bool all_finite = true;
    for (uint32_t d = 0; d < dim; d++)
        all_finite &= isfinite(row[d]) != 0;
    return all_finite;
}

static bool quantise_i4(const float* row, uint32_t dim, unsigned char* codes,
                        struct pkvi_scale* scales) {
    for (uint32_t begin = 0; begin < dim; begin += PKVI_GROUP_DIMS) {
        const uint32_t end = begin + PKVI_GROUP_DIMS < dim ? begin + PKVI_GROUP_DIMS : dim;
        float lowest = row[begin];
        float highest = row[begin];
        for (uint32_t d = begin; d < end; d++) {
            lowest = row[d] < lowest ? row[d] : lowest;
            highest = row[d] > highest ? row[d] : highest;
        }
        const struct pkvi_scale scale = pkvi_scale_of_range(lowest, highest);
        if (!pkvi_scale_is_finite(PKV_I4, scale)) return false;
        for (uint32_t d = begin; d < end; d++)
            codes[d] =
                pkvi_encode_integer((row[d] - scale.minimum) * pkvi_scale_inverse(scale.scale)) &
                I4_LARGEST;
        scales[begin / PKVI_GROUP_DIMS] = scale;
    }
    return true;
}

bool pkvi_quantise(uint32_t dtype, const float* row, uint32_t dim, unsigned char* codes,
                   struct pkvi_scale* scales) {
    if (!row_is_finite(row, dim)) return false;
    if (dtype == PKV_I4) return quantise_i4(row, dim, codes, scales);
    float highest = 0.0F;
    for (uint32_t d = 0; d < dim; d++)
        highest = fmaxf(highest, fabsf(row[d]));
    *scales = (struct pkvi_scale){pkvi_scale_of_magnitude(dtype, highest), 0.0F};
    const float inverse = pkvi_scale_inverse(scales->scale);
    for (uint32_t d = 0; d < dim; d++)
        codes[d] = pkvi_encode(dtype, row[d] * inverse);
    return pkvi_scale_is_finite(dtype, *scales);
}

/* ---- Back ------------------------------------------------------------------------------------ */

float pkvi_dequantise(uint32_t dtype, unsigned char code, struct pkvi_scale scale) {
    if (dtype == PKV_I4) return scale.minimum + scale.scale * (float)code;
    return scale.scale * pkvi_decode(dtype, code);
}
