/* pack_encode.h - from elements of an array to codes of the cache, a vector at a time.
 *
 * The unit is a vector of words: WIDTH 32-bit words of consecutive dims of one row of one head, with
 * as many codes in each as fit: one of f32, two of f16 and bf16, four of the 8-bit types and, with a
 * byte for each code, of i4. Types with scales need them first: pack_scales() passes over the rows
 * of one head in a tile, which stay in the first-level cache for the second pass.
 *
 * What is the same type already is not converted. That numbers are finite in the type of the cache
 * is seen from the largest magnitude that passed by, once for each call.
 *
 * Holds   W1  codes and scales are those of quantise.c, bit for bit, on every level */
#ifndef PKVI_DEVICE_CPU_PACK_ENCODE_H
#define PKVI_DEVICE_CPU_PACK_ENCODE_H

#include "device/cpu/pack_vector.h"
#include "device/cpu/quantise.h"

#include <math.h>

/* Rows of one head that lie in one tile. */
struct pack_rows {
    const unsigned char* from; /* element 0 of the first row */
    size_t stride;             /* bytes from row to row */
    const unsigned char* next; /* what is read after them, of the same head */
    size_t next_stride;
    uint32_t count;
    uint32_t dim;
};

/* The scales of such rows: as they are stored, and as codes are made with them. */
struct pack_scales {
    float scale[PKVI_TILE_TOKENS];                               /* of i8, e4m3, e5m2 */
    uint16_t halves[PKVI_SCALE_GROUPS_MAX][2][PKVI_TILE_TOKENS]; /* of i4: scale, minimum */
    float inverse[PKVI_SCALE_GROUPS_MAX][PKVI_TILE_TOKENS];      /* group 0: of the whole row */
    float minimum[PKVI_SCALE_GROUPS_MAX][PKVI_TILE_TOKENS];      /* of i4 */
};

PACK_INLINE bool pack_is_copied(const uint32_t from_dtype, const uint32_t dtype) {
    return from_dtype == dtype && dtype != PKV_F32;
}

/* Codes in a word. */
PACK_INLINE uint32_t pack_codes(const uint32_t dtype) {
    if (dtype == PKV_F32) return 1;
    return dtype == PKV_F16 || dtype == PKV_BF16 ? 2 : 4;
}

/* ---- Elements -------------------------------------------------------------------------------- */

PACK_INLINE vf pack_load(const uint32_t dtype, const unsigned char* row, uint32_t d) {
    if (dtype == PKV_F32) return v_load(row + (size_t)d * 4);
    return dtype == PKV_F16 ? v_load_f16(row + (size_t)d * 2) : v_load_bf16(row + (size_t)d * 2);
}

/* 16-bit elements from d on as they are, in pairs; `dim` is a multiple of 16, so that half a vector
 * may be all that is left. */
PACK_INLINE vu pack_load_pairs(const unsigned char* row, uint32_t d, uint32_t dim) {
    if (dim - d >= 2 * WIDTH) return v_load_words(row + (size_t)d * 2);
    vu pairs = {0};
    memcpy(&pairs, row + (size_t)d * 2, sizeof pairs / 2);
    return pairs;
}

PACK_INLINE vu pack_f16_bits(vf value) {
#if defined(PKVI_LEVEL_AVX512)
    return (vu)_mm512_cvtepu16_epi32(
        _mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(PKVI_LEVEL_AVX2)
    return (vu)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(PKVI_LEVEL_NEON)
    return (vu)vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)value)));
#else
    vu bits;
    for (int i = 0; i < WIDTH; i++)
        bits[i] = pkvi_float_to_f16(value[i]);
    return bits;
#endif
}

PACK_INLINE void pack_store_halves(uint16_t* to, vu bits) {
    const vu halves = pack_narrow_halves(bits, bits);
    memcpy(to, &halves, sizeof halves / 2);
}

PACK_INLINE vf pack_f16_numbers(vu bits) {
    uint16_t halves[WIDTH];
    pack_store_halves(halves, bits);
    return v_load_f16(halves);
}

/* Of finite numbers. */
PACK_INLINE vu pack_bf16_bits(vf value) {
    const vu bits = (vu)value;
    return (bits + 0x7fffU + (bits >> 16 & 1)) >> 16;
}

/* The nearest integer, ties to even, of numbers below 2^22. */
PACK_INLINE vu pack_integer(vf value) {
#if defined(PKVI_LEVEL_AVX512)
    return (vu)_mm512_cvtps_epi32((__m512)value);
#elif defined(PKVI_LEVEL_AVX2)
    return (vu)_mm256_cvtps_epi32((__m256)value);
#else
    const float magic = 0x1.8p23F;
    return (vu)(value + magic) - (vu)v_set(magic);
#endif
}

/* As encode_minifloat in quantise.c; negative numbers give negative codes. */
PACK_INLINE vu pack_minifloat(const uint32_t dtype, vf value) {
    const struct pkvi_minifloat type = pkvi_minifloat_of(dtype);
    const int drop = 23 - type.fraction_bits;
    const uint32_t moved = (uint32_t)(127 - type.bias) << type.fraction_bits;
    const uint32_t one = 1U << type.fraction_bits;
    const vu magnitude = pack_magnitude(value);
    const vu rounded = (magnitude + ((1U << (drop - 1)) - 1) + (magnitude >> drop & 1)) >> drop;
    const vu is_small = (vu)((vi)rounded < (int32_t)(moved + one));
    const vu is_half = (vu)((vi)magnitude >= (127 - type.bias) << 23);
    const vu small = is_half & one;
    const vu code = (is_small & small) | (~is_small & (rounded - moved));
    return (vu)((vi)value >> 31 << 7) | code;
}

/* One code in the low bits of each lane; of 8-bit types as a number from -128 to 127. */
PACK_INLINE vu pack_code(const uint32_t dtype, vf value) {
    switch (dtype) {
    case PKV_F32:
        return (vu)value;
    case PKV_F16:
        return pack_f16_bits(value);
    case PKV_BF16:
        return pack_bf16_bits(value);
    case PKV_I8:
        return pack_integer(value);
    case PKV_I4:
        return pack_integer(value) & 15U;
    default:
        return pack_minifloat(dtype, value);
    }
}

/* ---- Scales ---------------------------------------------------------------------------------- */

PACK_INLINE vf pack_inverse(vf scale) {
    return v_select(scale > 0.0F, 1.0F / scale, v_set(0.0F));
}

/* The bits of the largest magnitude in each lane, over a row: of its own type. */
PACK_INLINE vu pack_magnitude_of_row(const uint32_t dtype, const unsigned char* row, uint32_t dim) {
    vu highest = {0};
    if (dtype == PKV_F32) {
        for (uint32_t d = 0; d < dim; d += WIDTH)
            highest = pack_max(highest, pack_magnitude(v_load(row + (size_t)d * 4)));
        return highest;
    }
    const uint32_t whole = dim / (2 * WIDTH) * (2 * WIDTH);
    PACK_UNROLL_4 for (uint32_t d = 0; d < whole; d += 2 * WIDTH) highest =
        pack_max_halves(highest, v_load_words(row + (size_t)d * 2) & 0x7fff7fffU);
    if (whole < dim)
        highest = pack_max_halves(highest, pack_load_pairs(row, whole, dim) & 0x7fff7fffU);
    return pack_max(highest & 0xffffU, highest >> 16);
}

/* Bits of a type, in the low bits of each lane, as numbers. */
PACK_INLINE vf pack_numbers(const uint32_t dtype, vu bits) {
    if (dtype == PKV_F32) return (vf)bits;
    return dtype == PKV_F16 ? pack_f16_numbers(bits) : (vf)(bits << 16);
}

/* Scales of up to WIDTH rows from `first` on: as pkvi_scale_of_magnitude. Returns what has to be
 * finite. */
PACK_INLINE vu pack_scales_of_magnitudes(const uint32_t from_dtype, const uint32_t dtype,
                                         const struct pack_rows rows, uint32_t first,
                                         struct pack_scales* scales) {
    const uint32_t rest = (1U << (24 - PKVI_SCALE_BITS)) - 1;
    vu magnitudes[WIDTH];
    for (uint32_t r = 0; r < WIDTH; r++)
        magnitudes[r] =
            first + r < rows.count
                ? pack_magnitude_of_row(from_dtype, rows.from + (first + r) * rows.stride, rows.dim)
                : (vu){0};
    const vf highest = pack_numbers(from_dtype, pack_highest_bits_of_rows(magnitudes));
    const vf exact = highest / pkvi_largest_number(dtype);
    const vf rounded = (vf)(((vu)exact + rest) & ~rest);
    const vf scale = v_select(highest < PKVI_HIGHEST_ZERO, v_set(0.0F), rounded);
    v_store(scales->scale + first, scale);
    v_store(scales->inverse[0] + first, pack_inverse(scale));
    return pack_max((vu)highest, (vu)(scale * pkvi_largest_number(dtype)));
}

/* The largest f16 that is not above each number, as its bits and, in *number, as a float. */
PACK_INLINE vu pack_f16_not_above(vf value, vf* number) {
    const vu bits = pack_f16_bits(value);
    const vu is_above = (vu)(pack_f16_numbers(bits) > value);
    const vu is_zero = (vu)(bits == 0);
    const vu is_negative = (vu)((bits & 0x8000U) != 0);
    const vu next = (is_zero & 0x8001U) |
                    (~is_zero & ((is_negative & (bits + 1)) | (~is_negative & (bits - 1))));
    const vu result = (is_above & next) | (~is_above & bits);
    *number = pack_f16_numbers(result);
    return result;
}

/* Of numbers that are not negative. */
PACK_INLINE vu pack_f16_not_below(vf value, vf* number) {
    const vu bits = pack_f16_not_above(-value, number) & 0x7fffU;
    *number = -*number;
    return bits;
}

/* Scale and minimum of one group of up to WIDTH rows from `first` on: as pkvi_scale_of_range.
 * Returns what has to be finite. */
PACK_INLINE vu pack_scales_of_group(const uint32_t from_dtype, const struct pack_rows rows,
                                    uint32_t first, uint32_t group, struct pack_scales* scales) {
    const uint32_t begin = group * PKVI_GROUP_DIMS;
    const uint32_t dims = rows.dim - begin < PKVI_GROUP_DIMS ? 16 : PKVI_GROUP_DIMS;
    vf highest[WIDTH];
    vf negated[WIDTH];
    vu worst = {0};
    for (uint32_t r = 0; r < WIDTH; r++) {
        const bool is_there = first + r < rows.count;
        const unsigned char* row = rows.from + (first + r) * rows.stride;
        highest[r] = negated[r] = v_set(is_there ? -INFINITY : 0.0F);
        for (uint32_t d = begin; is_there && d < begin + dims; d += WIDTH) {
            const vf value = pack_load(from_dtype, row, d);
            worst = pack_max(worst, pack_magnitude(value));
            highest[r] = v_max(highest[r], value);
            negated[r] = v_max(negated[r], -value);
        }
    }
    vf minimum;
    vf scale;
    const vu minimum_bits = pack_f16_not_above(-pack_highest_of_rows(negated), &minimum);
    minimum += 0.0F;
    const vf step = (pack_highest_of_rows(highest) - minimum) / 15.0F;
    const vu scale_bits = pack_f16_not_below(step * PKVI_STEP_SHORTENED, &scale);
    /* Bits of minus zero are those of the number that is used, zero. */
    const vu is_zero = (vu)(minimum == 0.0F);
    pack_store_halves(scales->halves[group][0] + first, scale_bits);
    pack_store_halves(scales->halves[group][1] + first, minimum_bits & ~is_zero);
    v_store(scales->inverse[group] + first, pack_inverse(scale));
    v_store(scales->minimum[group] + first, minimum);
    return pack_max(worst, pack_max(pack_magnitude(scale), pack_magnitude(minimum)));
}

PACK_INLINE vu pack_scales_of_groups(const uint32_t from_dtype, const struct pack_rows rows,
                                     uint32_t first, struct pack_scales* scales) {
    vu worst = pack_scales_of_group(from_dtype, rows, first, 0, scales);
    for (uint32_t group = 1; group < pkvi_scale_groups(rows.dim); group++)
        worst = pack_max(worst, pack_scales_of_group(from_dtype, rows, first, group, scales));
    return worst;
}

/* The scales of rows, of which there is one at least, before they are encoded. Returns what has to
 * be finite. */
PACK_INLINE vu pack_find_scales(const uint32_t from_dtype, const uint32_t dtype,
                                const struct pack_rows rows, struct pack_scales* scales) {
    vu worst = {0};
    uint32_t first = 0;
    do {
        if (dtype == PKV_I4)
            worst = pack_max(worst, pack_scales_of_groups(from_dtype, rows, first, scales));
        else
            worst =
                pack_max(worst, pack_scales_of_magnitudes(from_dtype, dtype, rows, first, scales));
        first += WIDTH;
    } while (first < rows.count);
    return worst;
}

/* ---- Words ----------------------------------------------------------------------------------- */

/* Elements of row r from d on as the type's codes are made from. */
PACK_INLINE vf pack_scaled(const uint32_t dtype, vf value, const struct pack_scales* scales,
                           uint32_t r, uint32_t d) {
    if (!pkvi_dtype_is_scaled(dtype)) return value;
    if (dtype != PKV_I4) return value * scales->inverse[0][r];
    const uint32_t group = d / PKVI_GROUP_DIMS;
    return (value - scales->minimum[group][r]) * scales->inverse[group][r];
}

/* One vector of words of row r from element d on; those beyond the row are of no use. Meanwhile the
 * same lines of what comes next are asked for: as many as are stored, so that reading and writing
 * go on side by side. `worst` collects the largest magnitude of types without scales. */
PACK_INLINE vu pack_words(const uint32_t from_dtype, const uint32_t dtype,
                          const struct pack_rows rows, uint32_t r, uint32_t d,
                          const struct pack_scales* scales, vu* worst) {
    const unsigned char* row = rows.from + r * rows.stride;
    const size_t bytes = WIDTH * pack_codes(dtype) * pkvi_dtype_bytes(from_dtype);
    const unsigned char* at = rows.next + r * rows.next_stride + d * pkvi_dtype_bytes(from_dtype);
    for (size_t byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch(at + byte, 0, 2);
    if (pack_is_copied(from_dtype, dtype)) {
        const vu pairs = pack_load_pairs(row, d, rows.dim);
        *worst = pack_max_halves(*worst, pairs & 0x7fff7fffU);
        return pairs;
    }
    vu codes[4];
    PACK_UNROLL for (uint32_t i = 0; i < pack_codes(dtype); i++) {
        const uint32_t last = rows.dim - WIDTH;
        const uint32_t e = d + i * WIDTH < last ? d + i * WIDTH : last;
        const vf value = pack_load(from_dtype, row, e);
        if (!pkvi_dtype_is_scaled(dtype)) *worst = pack_max(*worst, pack_magnitude(value));
        codes[i] = pack_code(dtype, pack_scaled(dtype, value, scales, r, e));
    }
    if (pack_codes(dtype) == 1) return codes[0];
    return pack_codes(dtype) == 2 ? pack_narrow_halves(codes[0], codes[1])
                                  : pack_narrow_bytes(codes);
}

/* Is everything finite in the type of the cache, given the largest magnitude? */
PACK_INLINE bool pack_is_finite(const uint32_t from_dtype, const uint32_t dtype, vu worst) {
    if (pack_is_copied(from_dtype, dtype)) {
        const uint32_t highest = pack_highest(pack_max(worst & 0xffffU, worst >> 16));
        return highest < (dtype == PKV_F16 ? 0x7c00U : 0x7f80U);
    }
    /* The bits of the smallest magnitude that is infinite in the type. */
    const uint32_t limit = dtype == PKV_F16    ? 0x477ff000U
                           : dtype == PKV_BF16 ? 0x7f7f8000U
                                               : 0x7f800000U;
    return pack_highest(worst) < limit;
}

#endif
