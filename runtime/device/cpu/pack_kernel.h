/* pack_kernel.h - storing K and V in the packed order (packed.h): one source, compiled once for
 * each instruction set.
 *
 * Included by the level_*.c files. Reading order is bottom up: pack() at the end walks runs of rows
 * that lie in one tile, and their heads. Each head's rows are
 *
 *   encoded   from the type of the array to elements of the cache, in the plain order, into a stage
 *             of a few KiB: conversion, or magnitude, scale and codes (quantise.h)
 *   placed    from the stage into the block. A whole tile of K is a transposition, in registers, of
 *             16 tokens by 32-bit columns: a column is an element of f32, two of f16 or bf16, four
 *             of the 8-bit types. V interleaves the rows of 2 or 8 tokens. What is not a whole tile
 *             is scattered element by element
 *
 * Whole tiles are written past the caches: a prompt's K and V of a layer are larger than what is
 * kept until attention reads them, and lines need not be read before they are overwritten.
 *
 * Holds   W1  the bytes are those of the scalar codec, whatever the level and the cut into runs
 *         W2  nothing but the slots of the rows is written */
#ifndef PKVI_DEVICE_CPU_PACK_KERNEL_H
#define PKVI_DEVICE_CPU_PACK_KERNEL_H

#include "device/cpu/packed.h"
#include "device/cpu/quantise.h"
#include "device/cpu/simd.h"

#include <math.h>

#define PACK_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define PACK_UNROLL _Pragma("unroll")
#else
#define PACK_UNROLL _Pragma("GCC unroll 16")
#endif

typedef uint16_t pack_half __attribute__((vector_size(WIDTH * 2)));
typedef uint8_t pack_quarter __attribute__((vector_size(WIDTH)));

enum { PACK_TILE_VECTORS = PKVI_TILE_TOKENS / WIDTH };

/* The rows of one head of one run, encoded. */
struct pack_stage {
    unsigned char data[PKVI_TILE_TOKENS * PKV_HEAD_DIM_MAX * 4 + 64] __attribute__((aligned(64)));
    float scales[PKVI_TILE_TOKENS];                              /* of i8, e4m3, e5m2 */
    uint16_t halves[PKVI_SCALE_GROUPS_MAX][2][PKVI_TILE_TOKENS]; /* of i4: scale, minimum */
};

/* What is stored: `count` rows of K or V of one head. */
struct pack_rows {
    uint32_t dtype; /* of the cache */
    uint32_t dim;
    uint32_t count;
    const unsigned char* from; /* element 0 of the first row */
    size_t from_stride;        /* bytes from row to row */
    uint32_t from_dtype;
    const pkv_group_config* group;
    bool is_value;
    uint32_t token; /* of the first row, in its block */
    unsigned char* to;
    unsigned char* to_scales;
};

/* ---- Vocabulary ------------------------------------------------------------------------------ */

PACK_INLINE vu pack_load(const void* from) {
    vu result;
    memcpy(&result, from, sizeof result);
    return result;
}

PACK_INLINE void pack_store(void* to, vu value) {
    memcpy(to, &value, sizeof value);
}

/* Of numbers below 2^31. */
PACK_INLINE vu pack_max(vu a, vu b) {
#if defined(PKVI_LEVEL_AVX512)
    return (vu)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(PKVI_LEVEL_AVX2)
    return (vu)_mm256_max_epi32((__m256i)a, (__m256i)b);
#elif defined(PKVI_LEVEL_NEON)
    return (vu)vmaxq_u32((uint32x4_t)a, (uint32x4_t)b);
#else
    const vu mask = (vu)((vi)a > (vi)b);
    return (a & mask) | (b & ~mask);
#endif
}

/* Bits of magnitudes are ordered as the magnitudes are. */
PACK_INLINE uint32_t pack_highest(vu magnitudes) {
    uint32_t lanes[WIDTH];
    pack_store(lanes, magnitudes);
    uint32_t highest = 0;
    for (int i = 0; i < WIDTH; i++)
        highest = lanes[i] > highest ? lanes[i] : highest;
    return highest;
}

PACK_INLINE vu pack_magnitude(vf value) {
    return (vu)value & 0x7fffffffU;
}

/* Past the caches; `to` is aligned to the vector. */
PACK_INLINE void pack_stream(void* to, vu value) {
#if defined(PKVI_LEVEL_AVX512)
    _mm512_stream_si512(to, (__m512i)value);
#elif defined(PKVI_LEVEL_AVX2)
    _mm256_stream_si256(to, (__m256i)value);
#else
    memcpy(to, &value, sizeof value);
#endif
}

PACK_INLINE void pack_stream_half(void* to, pack_half value) {
#if defined(PKVI_LEVEL_AVX512)
    _mm256_stream_si256(to, (__m256i)value);
#elif defined(PKVI_LEVEL_AVX2)
    _mm_stream_si128(to, (__m128i)value);
#else
    memcpy(to, &value, sizeof value);
#endif
}

/* What was streamed is seen by whoever is told so afterwards. */
PACK_INLINE void pack_fence(void) {
#if defined(PKVI_LEVEL_AVX512) || defined(PKVI_LEVEL_AVX2)
    _mm_sfence();
#endif
}

/* Rows 2^n apart exchange what is on the wrong side of the diagonal. */
#define PACK_LOW(lane, step)  ((lane) & (step) ? WIDTH + (lane) - (step) : (lane))
#define PACK_HIGH(lane, step) ((lane) & (step) ? WIDTH + (lane) : (lane) + (step))
#define PACK_LANES_4(pick, step, from)                                                             \
    pick(from, step), pick(from + 1, step), pick(from + 2, step), pick(from + 3, step)
#if defined(PKVI_LEVEL_AVX512)
#define PACK_LANES(pick, step)                                                                     \
    PACK_LANES_4(pick, step, 0), PACK_LANES_4(pick, step, 4), PACK_LANES_4(pick, step, 8),         \
        PACK_LANES_4(pick, step, 12)
#elif defined(PKVI_LEVEL_AVX2)
#define PACK_LANES(pick, step) PACK_LANES_4(pick, step, 0), PACK_LANES_4(pick, step, 4)
#else
#define PACK_LANES(pick, step) PACK_LANES_4(pick, step, 0)
#endif
#if defined(__clang__)
#define PACK_SHUFFLE(a, b, pick, step) __builtin_shufflevector(a, b, PACK_LANES(pick, step))
#else
#define PACK_SHUFFLE(a, b, pick, step) __builtin_shuffle(a, b, (vi){PACK_LANES(pick, step)})
#endif
#define PACK_EXCHANGE(rows, step)                                                                  \
    PACK_UNROLL for (int i = 0; i < WIDTH; i++) {                                                  \
        if (i & (step)) continue;                                                                  \
        const vu low = PACK_SHUFFLE((rows)[i], (rows)[i + (step)], PACK_LOW, step);                \
        (rows)[i + (step)] = PACK_SHUFFLE((rows)[i], (rows)[i + (step)], PACK_HIGH, step);         \
        (rows)[i] = low;                                                                           \
    }

PACK_INLINE void pack_transpose(vu rows[WIDTH]){PACK_EXCHANGE(rows, 1) PACK_EXCHANGE(rows, 2)
#if defined(PKVI_LEVEL_AVX512) || defined(PKVI_LEVEL_AVX2)
                                                    PACK_EXCHANGE(rows, 4)
#endif
#if defined(PKVI_LEVEL_AVX512)
                                                        PACK_EXCHANGE(rows, 8)
#endif
}

/* The largest lane of each of WIDTH rows: that of row i in lane i. */
#define PACK_FOLD(rows, step, max)                                                                 \
    PACK_UNROLL for (int i = 0; i < WIDTH; i += 2 * (step))(rows)[i] =                             \
        max(PACK_SHUFFLE((rows)[i], (rows)[i + (step)], PACK_LOW, step),                           \
            PACK_SHUFFLE((rows)[i], (rows)[i + (step)], PACK_HIGH, step));
#if defined(PKVI_LEVEL_AVX512)
#define PACK_FOLDS(rows, max)                                                                      \
    PACK_FOLD(rows, 1, max)                                                                        \
    PACK_FOLD(rows, 2, max)                                                                        \
    PACK_FOLD(rows, 4, max)                                                                        \
    PACK_FOLD(rows, 8, max)
#elif defined(PKVI_LEVEL_AVX2)
#define PACK_FOLDS(rows, max)                                                                      \
    PACK_FOLD(rows, 1, max)                                                                        \
    PACK_FOLD(rows, 2, max)                                                                        \
    PACK_FOLD(rows, 4, max)
#else
#define PACK_FOLDS(rows, max)                                                                      \
    PACK_FOLD(rows, 1, max)                                                                        \
    PACK_FOLD(rows, 2, max)
#endif

PACK_INLINE vf pack_highest_of_rows(vf rows[WIDTH]) {
    PACK_FOLDS(rows, v_max)
    return rows[0];
}

PACK_INLINE vf pack_highest_magnitude_of_rows(vu rows[WIDTH]) {
    PACK_FOLDS(rows, pack_max)
    return (vf)rows[0];
}

/* ---- Encoding: plain types ------------------------------------------------------------------- */

PACK_INLINE vf pack_load_element(const uint32_t dtype, const unsigned char* row, uint32_t d) {
    if (dtype == PKV_F32) return v_load(row + d * 4);
    return dtype == PKV_F16 ? v_load_f16(row + d * 2) : v_load_bf16(row + d * 2);
}

PACK_INLINE void pack_store_f16(void* to, vf value) {
#if defined(PKVI_LEVEL_AVX512)
    _mm256_storeu_si256(to, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(PKVI_LEVEL_AVX2)
    _mm_storeu_si128(to, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(PKVI_LEVEL_NEON)
    vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)value)));
#else
    for (int i = 0; i < WIDTH; i++)
        ((uint16_t*)to)[i] = pkvi_float_to_f16(value[i]);
#endif
}

/* Of finite numbers. */
PACK_INLINE void pack_store_bf16(void* to, vf value) {
    const vu bits = (vu)value;
    const vu rounded = (bits + 0x7fffU + (bits >> 16 & 1)) >> 16;
    const pack_half half = __builtin_convertvector(rounded, pack_half);
    memcpy(to, &half, sizeof half);
}

/* The bits of the smallest magnitude that is infinite in the type. */
PACK_INLINE uint32_t pack_limit(const uint32_t dtype) {
    if (dtype == PKV_F16) return 0x477ff000U;
    return dtype == PKV_BF16 ? 0x7f7f8000U : 0x7f800000U;
}

/* Two magnitudes of 16-bit elements in each lane, in their upper halves. */
PACK_INLINE vu pack_magnitude_of_halves(vu pair) {
    return pack_max(pair & 0x7fff0000U, (pair << 16) & 0x7fff0000U);
}

/* 16 bits as they are: `dim` is a multiple of 16, and the rest of a last vector belongs to nobody.
 */
PACK_INLINE bool pack_copy_halves(const struct pack_rows* rows, struct pack_stage* stage) {
    const size_t bytes = (size_t)rows->dim * 2;
    const uint32_t infinite = rows->dtype == PKV_F16 ? 0x7c000000U : 0x7f800000U;
    vu worst = {0};
    for (uint32_t r = 0; r < rows->count; r++) {
        const unsigned char* from = rows->from + r * rows->from_stride;
        unsigned char* to = stage->data + r * bytes;
        size_t at = 0;
        for (; at + sizeof(vu) <= bytes; at += sizeof(vu)) {
            const vu pair = pack_load(from + at);
            worst = pack_max(worst, pack_magnitude_of_halves(pair));
            pack_store(to + at, pair);
        }
        if (at == bytes) continue;
        vu pair = {0};
        memcpy(&pair, from + at, sizeof pair / 2);
        worst = pack_max(worst, pack_magnitude_of_halves(pair));
        memcpy(to + at, &pair, sizeof pair / 2);
    }
    return pack_highest(worst) < infinite;
}

PACK_INLINE bool pack_convert(const uint32_t from_dtype, const uint32_t dtype,
                              const struct pack_rows* rows, struct pack_stage* stage) {
    const size_t element = pkvi_dtype_bytes(dtype);
    vu worst = {0};
    for (uint32_t r = 0; r < rows->count; r++) {
        const unsigned char* from = rows->from + r * rows->from_stride;
        unsigned char* to = stage->data + r * rows->dim * element;
        for (uint32_t d = 0; d < rows->dim; d += WIDTH) {
            const vf value = pack_load_element(from_dtype, from, d);
            worst = pack_max(worst, pack_magnitude(value));
            if (dtype == PKV_F32)
                v_store((float*)(void*)to + d, value);
            else if (dtype == PKV_F16)
                pack_store_f16(to + d * 2, value);
            else
                pack_store_bf16(to + d * 2, value);
        }
    }
    return pack_highest(worst) < pack_limit(dtype);
}

/* ---- Encoding: scaled types ------------------------------------------------------------------ */

PACK_INLINE void pack_store_codes(unsigned char* to, vu codes) {
    const pack_quarter bytes = __builtin_convertvector(codes, pack_quarter);
    memcpy(to, &bytes, sizeof bytes);
}

/* The nearest integer, in the low bits. */
PACK_INLINE vu pack_integer(vf value) {
    return (vu)(value + 0x1.8p23F);
}

/* As encode_minifloat in quantise.c. */
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
    return ((vu)value >> 31 << 7) | code;
}

PACK_INLINE vf pack_inverse(vf scale) {
    return v_select(scale > 0.0F, 1.0F / scale, v_set(0.0F));
}

/* Scales of WIDTH rows, one in each lane, from their largest magnitudes: as
 * pkvi_scale_of_magnitude. */
PACK_INLINE vf pack_scales(const uint32_t dtype, vf highest) {
    const uint32_t rest = (1U << (24 - PKVI_SCALE_BITS)) - 1;
    const vf exact = highest / pkvi_largest_number(dtype);
    const vf rounded = (vf)(((vu)exact + rest) & ~rest);
    return v_select(highest < PKVI_HIGHEST_ZERO, v_set(0.0F), rounded);
}

PACK_INLINE void pack_codes(const uint32_t from_dtype, const uint32_t dtype,
                            const unsigned char* from, uint32_t dim, float inverse,
                            unsigned char* to) {
    for (uint32_t d = 0; d < dim; d += WIDTH) {
        const vf value = pack_load_element(from_dtype, from, d) * inverse;
        pack_store_codes(to + d,
                         dtype == PKV_I8 ? pack_integer(value) : pack_minifloat(dtype, value));
    }
}

/* Scales of up to WIDTH rows from `first` on, then their codes. */
PACK_INLINE bool pack_quantise_rows(const uint32_t from_dtype, const uint32_t dtype,
                                    const struct pack_rows* rows, uint32_t first,
                                    struct pack_stage* stage) {
    const uint32_t rest = rows->count - first;
    const uint32_t count = rest < WIDTH ? rest : WIDTH;
    const unsigned char* from = rows->from + first * rows->from_stride;
    unsigned char* to = stage->data + first * rows->dim;
    float inverses[WIDTH];
    vu worst[WIDTH];
    for (uint32_t r = 0; r < WIDTH; r++) {
        vu magnitude = {0};
        for (uint32_t d = 0; r < count && d < rows->dim; d += WIDTH)
            magnitude = pack_max(magnitude, pack_magnitude(pack_load_element(
                                                from_dtype, from + r * rows->from_stride, d)));
        worst[r] = magnitude;
    }
    const vf highest = pack_highest_magnitude_of_rows(worst);
    const vf scales = pack_scales(dtype, highest);
    v_store(stage->scales + first, scales);
    v_store(inverses, pack_inverse(scales));
    for (uint32_t r = 0; r < count; r++)
        pack_codes(from_dtype, dtype, from + r * rows->from_stride, rows->dim, inverses[r],
                   to + r * rows->dim);
    const vu largest = pack_max((vu)highest, (vu)(scales * pkvi_largest_number(dtype)));
    return pack_highest(largest) < 0x7f800000U;
}

PACK_INLINE bool pack_quantise(const uint32_t from_dtype, const uint32_t dtype,
                               const struct pack_rows* rows, struct pack_stage* stage) {
    bool all_finite = true;
    for (uint32_t first = 0; first < rows->count; first += WIDTH)
        all_finite &= pack_quantise_rows(from_dtype, dtype, rows, first, stage);
    return all_finite;
}

/* The largest f16 that is not above each number, as its bits and, in *number, as a float. */
PACK_INLINE vu pack_f16_not_above(vf value, vf* number) {
    uint16_t halves[WIDTH];
    pack_store_f16(halves, value);
    pack_half half;
    memcpy(&half, halves, sizeof half);
    const vu bits = __builtin_convertvector(half, vu);
    const vu is_above = (vu)(v_load_f16(halves) > value);
    const vu is_zero = (vu)(bits == 0);
    const vu is_negative = (vu)((bits & 0x8000U) != 0);
    const vu next = (is_zero & 0x8001U) |
                    (~is_zero & ((is_negative & (bits + 1)) | (~is_negative & (bits - 1))));
    const vu result = (is_above & next) | (~is_above & bits);
    half = __builtin_convertvector(result, pack_half);
    memcpy(halves, &half, sizeof half);
    *number = v_load_f16(halves);
    return result;
}

/* Of numbers that are not negative. */
PACK_INLINE vu pack_f16_not_below(vf value, vf* number) {
    const vu bits = pack_f16_not_above(-value, number) & 0x7fffU;
    *number = -*number;
    return bits;
}

PACK_INLINE void pack_store_halves(uint16_t* to, vu bits) {
    const pack_half half = __builtin_convertvector(bits, pack_half);
    memcpy(to, &half, sizeof half);
}

/* Scale and minimum of group `group` of up to WIDTH rows from `first` on, then the codes: as
 * pkvi_scale_of_range. */
PACK_INLINE bool pack_quantise_group(const uint32_t from_dtype, const struct pack_rows* rows,
                                     uint32_t first, uint32_t group, struct pack_stage* stage) {
    const uint32_t begin = group * PKVI_GROUP_DIMS;
    const uint32_t dims = rows->dim - begin < PKVI_GROUP_DIMS ? 16 : PKVI_GROUP_DIMS;
    const uint32_t rest = rows->count - first;
    const uint32_t count = rest < WIDTH ? rest : WIDTH;
    const unsigned char* from = rows->from + first * rows->from_stride;
    vf highest[WIDTH];
    vf negated[WIDTH];
    vu worst = {0};
    for (uint32_t r = 0; r < WIDTH; r++) {
        highest[r] = negated[r] = v_set(r < count ? -INFINITY : 0.0F);
        for (uint32_t d = begin; r < count && d < begin + dims; d += WIDTH) {
            const vf value = pack_load_element(from_dtype, from + r * rows->from_stride, d);
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
    pack_store_halves(stage->halves[group][0] + first, scale_bits);
    pack_store_halves(stage->halves[group][1] + first, minimum_bits & ~is_zero);
    float inverses[WIDTH];
    float minima[WIDTH];
    v_store(inverses, pack_inverse(scale));
    v_store(minima, minimum);
    for (uint32_t r = 0; r < count; r++)
        for (uint32_t d = begin; d < begin + dims; d += WIDTH) {
            const vf value =
                pack_load_element(from_dtype, from + r * rows->from_stride, d) - minima[r];
            pack_store_codes(stage->data + (first + r) * rows->dim + d,
                             pack_integer(value * inverses[r]) & 15U);
        }
    const vu largest = pack_max(pack_magnitude(scale), pack_magnitude(minimum));
    return pack_highest(pack_max(worst, largest)) < 0x7f800000U;
}

PACK_INLINE bool pack_quantise_i4(const uint32_t from_dtype, const struct pack_rows* rows,
                                  struct pack_stage* stage) {
    bool all_finite = true;
    for (uint32_t first = 0; first < rows->count; first += WIDTH)
        for (uint32_t group = 0; group < pkvi_scale_groups(rows->dim); group++)
            all_finite &= pack_quantise_group(from_dtype, rows, first, group, stage);
    return all_finite;
}

PACK_INLINE bool pack_encode_from(const uint32_t from_dtype, const struct pack_rows* rows,
                                  struct pack_stage* stage) {
    switch (rows->dtype) {
    case PKV_F32:
        return pack_convert(from_dtype, PKV_F32, rows, stage);
    case PKV_F16:
        return from_dtype == PKV_F16 ? pack_copy_halves(rows, stage)
                                     : pack_convert(from_dtype, PKV_F16, rows, stage);
    case PKV_BF16:
        return from_dtype == PKV_BF16 ? pack_copy_halves(rows, stage)
                                      : pack_convert(from_dtype, PKV_BF16, rows, stage);
    case PKV_I8:
        return pack_quantise(from_dtype, PKV_I8, rows, stage);
    case PKV_E4M3:
        return pack_quantise(from_dtype, PKV_E4M3, rows, stage);
    case PKV_E5M2:
        return pack_quantise(from_dtype, PKV_E5M2, rows, stage);
    default:
        return pack_quantise_i4(from_dtype, rows, stage);
    }
}

static bool pack_encode(const struct pack_rows* rows, struct pack_stage* stage) {
    switch (rows->from_dtype) {
    case PKV_F32:
        return pack_encode_from(PKV_F32, rows, stage);
    case PKV_F16:
        return pack_encode_from(PKV_F16, rows, stage);
    default:
        return pack_encode_from(PKV_BF16, rows, stage);
    }
}

/* ---- Placing: whole tiles -------------------------------------------------------------------- */

/* Bytes of an element in the stage: codes of i4 have a byte each. */
PACK_INLINE size_t pack_staged_bytes(uint32_t dtype) {
    return pkvi_dtype_is_scaled(dtype) ? 1 : pkvi_dtype_bytes(dtype);
}

/* One 32-bit column of 16 tokens: as it is, or its lower halves and then its upper ones. */
PACK_INLINE void pack_place_column(const bool is_split, unsigned char* to, const vu* column) {
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) {
        if (!is_split) {
            pack_stream(to + (size_t)i * sizeof(vu), column[i]);
            continue;
        }
        unsigned char* at = to + (size_t)i * sizeof(pack_half);
        pack_stream_half(at, __builtin_convertvector(column[i] & 0xffffU, pack_half));
        pack_stream_half(at + 32, __builtin_convertvector(column[i] >> 16, pack_half));
    }
}

/* Bytes b0 b1 b2 b3 with 4 bits each become b0 | b2 << 4 | b1 << 8 | b3 << 12. */
PACK_INLINE vu pack_nibbles(vu bytes) {
    return (bytes | bytes >> 12) & 0xffffU;
}

/* Two columns of i4, dims 0..3 and 4..7 of a word. */
PACK_INLINE void pack_place_words(unsigned char* to, const vu* first, const vu* second) {
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) {
        const vu a = pack_nibbles(first[i]);
        const vu b = pack_nibbles(second[i]);
        pack_stream(to + (size_t)i * sizeof(vu),
                    (a & 0xffU) | (b & 0xffU) << 8 | (a & 0xff00U) << 8 | (b & 0xff00U) << 16);
    }
}

enum pack_form { PACK_WHOLE, PACK_SPLIT, PACK_WORDS };

/* `columns` of the WIDTH columns from number `first` on. */
PACK_INLINE void pack_place_columns(const enum pack_form form, unsigned char* to, uint32_t first,
                                    const uint32_t columns, vu (*column)[PACK_TILE_VECTORS]) {
    PACK_UNROLL for (uint32_t c = 0; c < columns; c += form == PACK_WORDS ? 2 : 1) {
        if (form == PACK_WORDS)
            pack_place_words(to + (size_t)(first + c) / 2 * 64, column[c], column[c + 1]);
        else
            pack_place_column(form == PACK_SPLIT, to + (size_t)(first + c) * 64, column[c]);
    }
}

PACK_INLINE void pack_place_k_as(const enum pack_form form, const unsigned char* stage,
                                 size_t row_bytes, unsigned char* to) {
    const uint32_t count = (uint32_t)(row_bytes / 4);
    for (uint32_t first = 0; first < count; first += WIDTH) {
        vu column[WIDTH][PACK_TILE_VECTORS];
        PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) {
            vu rows[WIDTH];
            PACK_UNROLL for (int r = 0; r < WIDTH; r++) rows[r] =
                pack_load(stage + (size_t)(i * WIDTH + r) * row_bytes + (size_t)first * 4);
            pack_transpose(rows);
            PACK_UNROLL for (int c = 0; c < WIDTH; c++) column[c][i] = rows[c];
        }
        if (count - first >= WIDTH)
            pack_place_columns(form, to, first, WIDTH, column);
        else
            pack_place_columns(form, to, first, count - first, column);
    }
}

static void pack_place_k(const struct pack_rows* rows, const struct pack_stage* stage) {
    const size_t row_bytes = rows->dim * pack_staged_bytes(rows->dtype);
    unsigned char* to =
        rows->to + (size_t)rows->token * rows->dim * pkvi_dtype_bits(rows->dtype) / 8;
    if (rows->dtype == PKV_F32 || rows->dtype == PKV_BF16)
        pack_place_k_as(PACK_WHOLE, stage->data, row_bytes, to);
    else if (rows->dtype == PKV_I4)
        pack_place_k_as(PACK_WORDS, stage->data, row_bytes, to);
    else
        pack_place_k_as(PACK_SPLIT, stage->data, row_bytes, to);
}

PACK_INLINE vu pack_widen_half(const void* from) {
    pack_half half;
    memcpy(&half, from, sizeof half);
    return __builtin_convertvector(half, vu);
}

PACK_INLINE vu pack_widen_quarter(const void* from) {
    pack_quarter quarter;
    memcpy(&quarter, from, sizeof quarter);
    return __builtin_convertvector(quarter, vu);
}

static void pack_place_v(const struct pack_rows* rows, const struct pack_stage* stage) {
    const uint32_t dim = rows->dim;
    const size_t row_bytes = dim * pack_staged_bytes(rows->dtype);
    const unsigned char* from = stage->data;
    unsigned char* to = rows->to + (size_t)rows->token * dim * pkvi_dtype_bits(rows->dtype) / 8;
    if (rows->dtype == PKV_F32 || rows->dtype == PKV_F16) {
        for (size_t at = 0; at < PKVI_TILE_TOKENS * row_bytes; at += sizeof(vu))
            pack_stream(to + at, pack_load(from + at));
        return;
    }
    if (rows->dtype == PKV_I4) {
        for (uint32_t t = 0; t < PKVI_TILE_TOKENS; t += 8)
            for (uint32_t d = 0; d < dim; d += WIDTH, to += sizeof(vu)) {
                vu word = {0};
                PACK_UNROLL for (uint32_t i = 0; i < 8; i++) word |=
                    pack_widen_quarter(from + (t + i) * row_bytes + d) << pkvi_word_shift(i);
                pack_stream(to, word);
            }
        return;
    }
    for (uint32_t t = 0; t < PKVI_TILE_TOKENS; t += 2) {
        const unsigned char* even = from + t * row_bytes;
        const unsigned char* odd = even + row_bytes;
        if (rows->dtype == PKV_BF16) {
            for (uint32_t d = 0; d < dim; d += WIDTH, to += sizeof(vu))
                pack_stream(to, pack_widen_half(even + d * 2) | pack_widen_half(odd + d * 2) << 16);
            continue;
        }
        for (uint32_t d = 0; d < dim; d += WIDTH, to += sizeof(pack_half)) {
            pack_quarter a;
            pack_quarter b;
            memcpy(&a, even + d, sizeof a);
            memcpy(&b, odd + d, sizeof b);
            pack_stream_half(to, __builtin_convertvector(a, pack_half) |
                                     __builtin_convertvector(b, pack_half) << 8);
        }
    }
}

/* ---- Placing: pieces of tiles ---------------------------------------------------------------- */

/* `count` units of `unit` bytes, which lie together at `from` and `step` bytes apart at `to`. */
PACK_INLINE void pack_scatter(unsigned char* to, size_t step, const unsigned char* from,
                              uint32_t count, const size_t unit) {
    for (uint32_t i = 0; i < count; i++)
        memcpy(to + i * step, from + i * unit, unit);
}

static void pack_scatter_k(const struct pack_rows* rows, uint32_t token,
                           const unsigned char* from) {
    const size_t tile = pkvi_tile_tokens(rows->group->block_tokens);
    const size_t lane = token % tile;
    unsigned char* to =
        rows->to + (size_t)(token - lane) * rows->dim * pkvi_dtype_bits(rows->dtype) / 8;
    switch (rows->dtype) {
    case PKV_F32:
        pack_scatter(to + lane * 4, tile * 4, from, rows->dim, 4);
        break;
    case PKV_F16:
        pack_scatter(to + lane * 2, tile * 2, from, rows->dim, 2);
        break;
    case PKV_BF16:
        pack_scatter(to + lane * 4, tile * 4, from, rows->dim / 2, 4);
        break;
    case PKV_I4:
        for (uint32_t d = 0; d < rows->dim; d += 8) {
            uint32_t word = 0;
            for (uint32_t i = 0; i < 8; i++)
                word |= (uint32_t)from[d + i] << pkvi_word_shift(i);
            memcpy(to + lane * 4 + d / 8 * tile * 4, &word, sizeof word);
        }
        break;
    default:
        pack_scatter(to + lane * 2, tile * 2, from, rows->dim / 2, 2);
    }
}

static void pack_scatter_v(const struct pack_rows* rows, uint32_t token,
                           const unsigned char* from) {
    const uint32_t dim = rows->dim;
    const size_t staged_bytes = pack_staged_bytes(rows->dtype);
    if (rows->dtype == PKV_I4) {
        const uint32_t shift = pkvi_word_shift(token);
        uint32_t* words = (uint32_t*)(void*)rows->to + (size_t)(token / 8) * dim;
        for (uint32_t d = 0; d < dim; d++)
            words[d] = (words[d] & ~(15U << shift)) | (uint32_t)from[d] << shift;
        return;
    }
    if (!pkvi_dtype_is_paired(rows->dtype) || rows->group->block_tokens == 1) {
        memcpy(rows->to + token * dim * staged_bytes, from, dim * staged_bytes);
        return;
    }
    unsigned char* to = rows->to + ((size_t)(token - token % 2) * dim + token % 2) * staged_bytes;
    if (staged_bytes == 2)
        pack_scatter(to, 4, from, dim, 2);
    else
        pack_scatter(to, 2, from, dim, 1);
}

static void pack_place_scales(const struct pack_rows* rows, const struct pack_stage* stage) {
    if (!pkvi_dtype_is_scaled(rows->dtype)) return;
    if (rows->dtype != PKV_I4) {
        memcpy(rows->to_scales + rows->token * sizeof(float), stage->scales,
               rows->count * sizeof(float));
        return;
    }
    for (uint32_t g = 0; g < pkvi_scale_groups(rows->dim); g++) {
        uint16_t* to =
            (uint16_t*)(void*)rows->to_scales + pkvi_packed_scale(rows->dim, rows->token, g);
        memcpy(to, stage->halves[g][0], rows->count * sizeof *to);
        memcpy(to + PKVI_TILE_TOKENS, stage->halves[g][1], rows->count * sizeof *to);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* Rows are read head by head, that is in pieces that lie a row apart. Part `part` of `parts` of the
 * next tile's rows, in the order of memory, is fetched while a head is worked on. */
static void pack_prefetch(const struct pkvi_kv_job* job, const pkv_array* array, uint32_t dim,
                          uint32_t row, uint32_t part) {
    const size_t element = pkvi_dtype_bytes(array->dtype);
    const uint32_t heads = job->layout->group.kv_heads;
    for (uint32_t i = part * PKVI_TILE_TOKENS; i < (part + 1) * PKVI_TILE_TOKENS; i++) {
        if (row + i / heads >= job->tokens) return;
        const unsigned char* at =
            (const unsigned char*)array->data +
            ((row + i / heads) * array->row_stride + i % heads * array->head_stride) * element;
        for (size_t byte = 0; byte < dim * element; byte += 64)
            __builtin_prefetch(at + byte, 0, 2);
    }
}

static bool pack_rows(const struct pack_rows* rows) {
    struct pack_stage stage;
    if (!pack_encode(rows, &stage)) return false;
    pack_place_scales(rows, &stage);
    if (rows->count == PKVI_TILE_TOKENS) {
        if (rows->is_value)
            pack_place_v(rows, &stage);
        else
            pack_place_k(rows, &stage);
        return true;
    }
    const size_t row_bytes = rows->dim * pack_staged_bytes(rows->dtype);
    for (uint32_t r = 0; r < rows->count; r++) {
        if (rows->is_value)
            pack_scatter_v(rows, rows->token + r, stage.data + r * row_bytes);
        else
            pack_scatter_k(rows, rows->token + r, stage.data + r * row_bytes);
    }
    return true;
}

static bool pack_side(const struct pkvi_kv_job* job, uint32_t row, uint32_t count, bool is_value) {
    const struct pkvi_layout* layout = job->layout;
    const pkv_group_config* group = &layout->group;
    const pkv_array* array = is_value ? &job->v : &job->k;
    const size_t element = pkvi_dtype_bytes(array->dtype);
    const uint32_t block = job->slots[row] / group->block_tokens;
    struct pack_rows rows = {
        .dtype = is_value ? group->v_dtype : group->k_dtype,
        .dim = is_value ? group->value_dim : group->key_dim,
        .count = count,
        .from_stride = array->row_stride * element,
        .from_dtype = array->dtype,
        .group = group,
        .is_value = is_value,
        .token = job->slots[row] % group->block_tokens,
    };
    for (uint32_t head = 0; head < group->kv_heads; head++) {
        pack_prefetch(job, array, rows.dim, row + PKVI_TILE_TOKENS, head);
        rows.from = (const unsigned char*)array->data +
                    (row * array->row_stride + head * array->head_stride) * element;
        rows.to = pkvi_packed_head(layout, job->space, job->layer, block, head, is_value);
        rows.to_scales = rows.to + (is_value ? layout->v_scale_offset : layout->k_scale_offset);
        if (!pack_rows(&rows)) return false;
    }
    return true;
}

/* How many rows from `row` on have consecutive slots in one tile. */
static uint32_t pack_run(const struct pkvi_kv_job* job, uint32_t row, uint32_t end) {
    const uint32_t tile = pkvi_tile_tokens(job->layout->group.block_tokens);
    const uint32_t room = tile - job->slots[row] % tile;
    uint32_t count = 1;
    while (count < room && row + count < end && job->slots[row + count] == job->slots[row] + count)
        count++;
    return count;
}

/* Store rows [begin, end) of a job. False when a number is not finite in the type of the cache. */
static bool pack(const struct pkvi_kv_job* job, uint32_t begin, uint32_t end) {
    bool all_finite = true;
    for (uint32_t row = begin; all_finite && row < end;) {
        const uint32_t count = pack_run(job, row, end);
        all_finite = pack_side(job, row, count, false) && pack_side(job, row, count, true);
        row += count;
    }
    pack_fence();
    return all_finite;
}

#endif
