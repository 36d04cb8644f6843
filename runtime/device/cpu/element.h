/* element.h - arrays one element at a time: reading, writing and rounding f32, f16 and bf16. */
#ifndef PKVI_DEVICE_CPU_ELEMENT_H
#define PKVI_DEVICE_CPU_ELEMENT_H

#include "device/codec.h"
#include "device/device.h"

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
