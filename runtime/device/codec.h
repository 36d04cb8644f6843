/* codec.h - how single numbers are stored: as f16 and bf16, and as codes of the scaled types. In plain
 * C for every device, CUDA's kernels included, so that all of them store the same bits.
 *
 * Conversions are written with integers, so that they give the same bits with every compiler and
 * flag. Both 16-bit types round to nearest, ties to even. Scaled types as a whole are quantise.h. */
#ifndef PKVI_DEVICE_CODEC_H
#define PKVI_DEVICE_CODEC_H

#include "pagedkv.h"
#include <string.h>

#ifdef __CUDACC__
#define PKVI_ANYWHERE static __host__ __device__ inline
#else
#define PKVI_ANYWHERE static inline
#endif

PKVI_ANYWHERE uint32_t pkvi_float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

PKVI_ANYWHERE float pkvi_bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- 16-bit floats --------------------------------------------------------------------------- */

PKVI_ANYWHERE float pkvi_bf16_to_float(uint16_t bits) {
    return pkvi_bits_float((uint32_t)bits << 16);
}

PKVI_ANYWHERE uint16_t pkvi_float_to_bf16(float value) {
    const uint32_t bits = pkvi_float_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* stays NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

PKVI_ANYWHERE float pkvi_f16_to_float(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    const uint32_t exponent = bits >> 10 & 0x1f;
    const uint32_t fraction = bits & 0x3ff;
    if (exponent == 0x1f) return pkvi_bits_float(sign | 0x7f800000 | fraction << 13);
    if (exponent != 0) return pkvi_bits_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float subnormal = (float)fraction * 0x1p-24F; /* exact */
    return sign != 0 ? -subnormal : subnormal;
}

PKVI_ANYWHERE uint16_t pkvi_float_to_f16(float value) {
    const uint32_t bits = pkvi_float_bits(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;  /* NaN */
    if (magnitude >= 0x477ff000) return sign | 0x7c00; /* rounds to 2^16 or more: infinity */
    if (magnitude < 0x38800000) { /* below 2^-14: subnormal, in units of 2^-24 */
        const float shifted = pkvi_bits_float(magnitude) + 0.5F; /* the addition rounds to even */
        return (uint16_t)(sign | (pkvi_float_bits(shifted) - 0x3f000000));
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded >> 13) - (112 << 10)));
}

/* ---- 8-bit codes that share a scale ---------------------------------------------------------- */

/* An 8-bit float type: bits of fraction, bias of the exponent, largest finite number. */
struct pkvi_minifloat {
    int fraction_bits;
    int bias;
    float largest;
};

PKVI_ANYWHERE struct pkvi_minifloat pkvi_minifloat_of(uint32_t dtype) {
    const struct pkvi_minifloat e4m3 = {3, 7, 448.0F};
    const struct pkvi_minifloat e5m2 = {2, 15, 57344.0F};
    return dtype == PKV_E4M3 ? e4m3 : e5m2;
}

/* The largest number that a code of i8, e4m3 or e5m2 stands for in a row of scale 1. */
PKVI_ANYWHERE float pkvi_largest_number(uint32_t dtype) {
    return dtype == PKV_I8 ? 127.0F : pkvi_minifloat_of(dtype).largest;
}

enum { PKVI_SCALE_BITS = 16 }; /* significant ones */

#define PKVI_HIGHEST_ZERO 0x1p-96F /* rows that stay below it are zeros: no subnormal products */

/* What code 1 of a row stands for whose largest magnitude is `highest`: rounded to the nearest number
 * of PKVI_SCALE_BITS that is not smaller. */
PKVI_ANYWHERE float pkvi_scale_of_magnitude(uint32_t dtype, float highest) {
    const uint32_t rest = (1U << (24 - PKVI_SCALE_BITS)) - 1;
    if (highest < PKVI_HIGHEST_ZERO) return 0.0F;
    return pkvi_bits_float((pkvi_float_bits(highest / pkvi_largest_number(dtype)) + rest) & ~rest);
}

/* The factor that turns numbers into codes: 1 / scale, or 0. */
PKVI_ANYWHERE float pkvi_scale_inverse(float scale) {
    return scale > 0.0F ? 1.0F / scale : 0.0F;
}

#define PKVI_ROUND_TO_INTEGER 0x1.8p23F /* added: the integer is in the low bits */

PKVI_ANYWHERE unsigned char pkvi_encode_integer(float value) {
    return (unsigned char)pkvi_float_bits(value + PKVI_ROUND_TO_INTEGER);
}

/* Round the fraction, ties to even, and move the exponent; below the smallest normal number it is
 * that or zero, whichever is nearer. */
PKVI_ANYWHERE unsigned char pkvi_encode_minifloat(struct pkvi_minifloat type, float value) {
    const uint32_t bits = pkvi_float_bits(value);
    const uint32_t magnitude = bits & 0x7fffffff;
    const int drop = 23 - type.fraction_bits;
    const uint32_t even = magnitude >> drop & 1;
    const uint32_t rounded = (magnitude + (1U << (drop - 1)) - 1 + even) >> drop;
    const uint32_t smallest = (uint32_t)(128 - type.bias) << type.fraction_bits;
    const uint32_t half_smallest = (uint32_t)(127 - type.bias) << 23;
    uint32_t code = rounded - ((uint32_t)(127 - type.bias) << type.fraction_bits);
    if (rounded < smallest) code = magnitude >= half_smallest ? 1U << type.fraction_bits : 0;
    return (unsigned char)(bits >> 31 << 7 | code);
}

/* Codes of subnormals, which are never stored, are zeros. */
PKVI_ANYWHERE float pkvi_decode_minifloat(struct pkvi_minifloat type, unsigned char code) {
    const uint32_t magnitude = code & 0x7fU;
    const uint32_t sign = (uint32_t)(code & 0x80) << 24;
    if (magnitude >> type.fraction_bits == 0) return pkvi_bits_float(sign);
    const uint32_t moved = magnitude + ((uint32_t)(127 - type.bias) << type.fraction_bits);
    return pkvi_bits_float(sign | moved << (23 - type.fraction_bits));
}

/* `value`, already divided by the scale, as a code of i8, e4m3 or e5m2; and what a code stands for at
 * scale 1. */
PKVI_ANYWHERE unsigned char pkvi_encode(uint32_t dtype, float value) {
    return dtype == PKV_I8 ? pkvi_encode_integer(value)
                           : pkvi_encode_minifloat(pkvi_minifloat_of(dtype), value);
}

PKVI_ANYWHERE float pkvi_decode(uint32_t dtype, unsigned char code) {
    return dtype == PKV_I8 ? (float)(int8_t)code
                           : pkvi_decode_minifloat(pkvi_minifloat_of(dtype), code);
}

#endif
