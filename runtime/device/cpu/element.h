/* element.h - one element at a time: reading, writing and rounding f32, f16 and bf16 in plain C.
 *
 * Conversions are written with integers, so that they give the same bits with every compiler and
 * flag. Both 16-bit types round to nearest, ties to even. */
#ifndef PKVI_DEVICE_CPU_ELEMENT_H
#define PKVI_DEVICE_CPU_ELEMENT_H

#include "device/device.h"
#include <string.h>

static inline uint32_t pkvi_float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float pkvi_bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float pkvi_bf16_to_float(uint16_t bits) {
    return pkvi_bits_float((uint32_t)bits << 16);
}

static inline uint16_t pkvi_float_to_bf16(float value) {
    const uint32_t bits = pkvi_float_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* stays NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float pkvi_f16_to_float(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    const uint32_t exponent = bits >> 10 & 0x1f;
    const uint32_t fraction = bits & 0x3ff;
    if (exponent == 0x1f) return pkvi_bits_float(sign | 0x7f800000 | fraction << 13);
    if (exponent != 0) return pkvi_bits_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float subnormal = (float)fraction * 0x1p-24F; /* exact */
    return sign != 0 ? -subnormal : subnormal;
}

static inline uint16_t pkvi_float_to_f16(float value) {
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

static inline float pkvi_element_get(const void* data, uint64_t index, uint32_t dtype) {
    if (dtype == PKV_F32) return ((const float*)data)[index];
    const uint16_t bits = ((const uint16_t*)data)[index];
    return dtype == PKV_F16 ? pkvi_f16_to_float(bits) : pkvi_bf16_to_float(bits);
}

static inline void pkvi_element_set(void* data, uint64_t index, uint32_t dtype, float value) {
    if (dtype == PKV_F32)
        ((float*)data)[index] = value;
    else
        ((uint16_t*)data)[index] =
            dtype == PKV_F16 ? pkvi_float_to_f16(value) : pkvi_float_to_bf16(value);
}

/* What `value` becomes when it is stored as `dtype`. */
static inline float pkvi_element_round(float value, uint32_t dtype) {
    if (dtype == PKV_F32) return value;
    return dtype == PKV_F16 ? pkvi_f16_to_float(pkvi_float_to_f16(value))
                            : pkvi_bf16_to_float(pkvi_float_to_bf16(value));
}

static inline float pkvi_array_get(const pkv_array* array, uint64_t row, uint64_t head,
                                   uint64_t d) {
    const uint64_t index = row * array->row_stride + head * array->head_stride + d;
    return pkvi_element_get(array->data, index, array->dtype);
}

static inline void pkvi_array_set(const pkv_array* array, uint64_t row, uint64_t head, uint64_t d,
                                  float value) {
    const uint64_t index = row * array->row_stride + head * array->head_stride + d;
    pkvi_element_set(array->data, index, array->dtype, value);
}

#endif
