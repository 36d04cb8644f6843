/* pack_kernel.h - storing K and V in the packed order (packed.h): one source, compiled once for
 * each instruction set.
 *
 * Included by the level_*.c files. Reading order is bottom up: pack() at the end walks runs of rows
 * that lie in one tile. The rows of some heads at a time are
 *
 *   encoded   from the type of the array to elements of the cache, in the plain order, into a stage
 *             of 16 KiB: conversion, or magnitude, scale and codes (quantise.h). Row by row with
 *             all heads, so that the array is read as one stream
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

/* Elements that are encoded before they are placed: as many heads as fit, at most PACK_HEADS_MAX. */
enum { PACK_HEADS_MAX = 8, PACK_STAGE_BYTES = PKVI_TILE_TOKENS * PKV_HEAD_DIM_MAX * 4 };

/* The rows of some heads of one run, encoded. */
struct pack_stage {
    unsigned char data[PACK_STAGE_BYTES + 64] __attribute__((aligned(64)));
    float scales[PACK_HEADS_MAX][PKVI_TILE_TOKENS];              /* of i8, e4m3, e5m2 */
    uint16_t halves[PKVI_SCALE_GROUPS_MAX][2][PKVI_TILE_TOKENS]; /* of i4: scale, minimum */
};

/* What is stored: `count` rows of K or V of `heads` heads. */
struct pack_rows {
    uint32_t dtype; /* of the cache */
    uint32_t dim;
    uint32_t count;
    uint32_t heads;
    const unsigned char* from; /* element 0 of the first row of the first head */
    size_t row_stride;         /* bytes from row to row */
    size_t head_stride;        /* and from head to head */
    uint32_t from_dtype;
    uint32_t ahead; /* rows of the next tile that are there: they are fetched meanwhile */
    const pkv_group_config* group;
    bool is_value;
    uint32_t token;    /* of the first row, in its block */
    unsigned char* to; /* the first head's piece */
    unsigned char* to_scales;
    size_t to_stride; /* to the next head's */
};

/* Bytes of an element in the stage: codes of i4 have a byte each. */
PACK_INLINE size_t pack_staged_bytes(uint32_t dtype) {
    return pkvi_dtype_is_scaled(dtype) ? 1 : pkvi_dtype_bytes(dtype);
}

PACK_INLINE const unsigned char* pack_row(const struct pack_rows* rows, uint32_t row,
                                          uint32_t head) {
    return rows->from + row * rows->row_stride + head * rows->head_stride;
}

/* Ask for a row of the next tile, or for one half of it, when the same row of this one is read:
 * while a tile is placed nothing would be read otherwise. */
PACK_INLINE void pack_fetch(const struct pack_rows* rows, uint32_t row, uint32_t head,
                            uint32_t half, uint32_t halves) {
    if (row >= rows->ahead) return;
    const size_t bytes = rows->dim * pkvi_dtype_bytes(rows->from_dtype) / 2;
    const unsigned char* at = pack_row(rows, PKVI_TILE_TOKENS + row, head) + half * bytes;
    for (size_t byte = 0; byte < bytes * halves; byte += 64)
        __builtin_prefetch(at + byte, 0, 2);
}

/* Where the row goes in the stage, [head][row][dim]. */
PACK_INLINE unsigned char* pack_staged(const struct pack_rows* rows, struct pack_stage* stage,
                                       uint32_t row, uint32_t head) {
    const size_t row_bytes = rows->dim * pack_staged_bytes(rows->dtype);
    return stage->data + (head * PKVI_TILE_TOKENS + row) * row_bytes;
}

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

/* The low bits of each lane, and back. */
PACK_INLINE pack_half pack_to_half(vu value) {
#if defined(PKVI_LEVEL_AVX512)
    return (pack_half)_mm512_cvtepi32_epi16((__m512i)value);
#elif defined(PKVI_LEVEL_AVX2)
    const __m256i packed =
        _mm256_packus_epi32((__m256i)(value & 0xffffU), (__m256i)(value & 0xffffU));
    return (pack_half)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
    return __builtin_convertvector(value, pack_half);
#endif
}

PACK_INLINE pack_quarter pack_to_quarter(vu value) {
#if defined(PKVI_LEVEL_AVX512)
    return (pack_quarter)_mm512_cvtepi32_epi8((__m512i)value);
#elif defined(PKVI_LEVEL_AVX2)
    const pack_half half = pack_to_half(value & 0xffU);
    const __m128i packed = _mm_packus_epi16((__m128i)half, (__m128i)half);
    pack_quarter result;
    memcpy(&result, &packed, sizeof result);
    return result;
#else
    return __builtin_convertvector(value, pack_quarter);
#endif
}

PACK_INLINE vu pack_load_halves(const void* from) {
    pack_half half;
    memcpy(&half, from, sizeof half);
    return __builtin_convertvector(half, vu);
}

PACK_INLINE vu pack_load_quarters(const void* from) {
#if defined(PKVI_LEVEL_AVX512)
    return (vu)_mm512_cvtepu8_epi32(_mm_loadu_si128(from));
#elif defined(PKVI_LEVEL_AVX2)
    return (vu)_mm256_cvtepu8_epi32(_mm_loadl_epi64(from));
#else
    pack_quarter quarter;
    memcpy(&quarter, from, sizeof quarter);
    return __builtin_convertvector(quarter, vu);
#endif
}

PACK_INLINE void pack_store_halves(uint16_t* to, vu bits) {
    const pack_half half = pack_to_half(bits);
    memcpy(to, &half, sizeof half);
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
    _mm256_storeu_si256(to,
                        _mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT));
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
    const pack_half half = pack_to_half(rounded);
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
    for (uint32_t i = 0; i < rows->count * rows->heads; i++) {
        const unsigned char* from = pack_row(rows, i / rows->heads, i % rows->heads);
        unsigned char* to = pack_staged(rows, stage, i / rows->heads, i % rows->heads);
        size_t at = 0;
        pack_fetch(rows, i / rows->heads, i % rows->heads, 0, 2);
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
    vu worst = {0};
    for (uint32_t i = 0; i < rows->count * rows->heads; i++) {
        const unsigned char* from = pack_row(rows, i / rows->heads, i % rows->heads);
        unsigned char* to = pack_staged(rows, stage, i / rows->heads, i % rows->heads);
        pack_fetch(rows, i / rows->heads, i % rows->heads, 0, 2);
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
    const pack_quarter bytes = pack_to_quarter(codes);
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

PACK_INLINE vu pack_magnitude_of_row(const uint32_t from_dtype, const unsigned char* from,
                                     uint32_t dim) {
    vu magnitude = {0};
    for (uint32_t d = 0; d < dim; d += WIDTH)
        magnitude = pack_max(magnitude, pack_magnitude(pack_load_element(from_dtype, from, d)));
    return magnitude;
}

/* Scales of up to WIDTH rows from `first` on, then their codes. */
PACK_INLINE bool pack_quantise_rows(const uint32_t from_dtype, const uint32_t dtype,
                                    const struct pack_rows* rows, uint32_t first,
                                    struct pack_stage* stage) {
    const uint32_t rest = rows->count - first;
    const uint32_t count = rest < WIDTH ? rest : WIDTH;
    float inverses[PACK_HEADS_MAX][WIDTH];
    vu magnitudes[PACK_HEADS_MAX][WIDTH];
    vu largest = {0};
    memset(magnitudes, 0, sizeof magnitudes);
    for (uint32_t r = 0; r < count; r++)
        for (uint32_t head = 0; head < rows->heads; head++) {
            pack_fetch(rows, first + r, head, 0, 1);
            magnitudes[head][r] =
                pack_magnitude_of_row(from_dtype, pack_row(rows, first + r, head), rows->dim);
        }
    for (uint32_t head = 0; head < rows->heads; head++) {
        const vf highest = pack_highest_magnitude_of_rows(magnitudes[head]);
        const vf scales = pack_scales(dtype, highest);
        v_store(stage->scales[head] + first, scales);
        v_store(inverses[head], pack_inverse(scales));
        largest = pack_max(largest, (vu)highest);
        largest = pack_max(largest, (vu)(scales * pkvi_largest_number(dtype)));
    }
    for (uint32_t r = 0; r < count; r++)
        for (uint32_t head = 0; head < rows->heads; head++) {
            pack_fetch(rows, first + r, head, 1, 1);
            pack_codes(from_dtype, dtype, pack_row(rows, first + r, head), rows->dim,
                       inverses[head][r], pack_staged(rows, stage, first + r, head));
        }
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
    const vu bits = pack_load_halves(halves);
    const vu is_above = (vu)(v_load_f16(halves) > value);
    const vu is_zero = (vu)(bits == 0);
    const vu is_negative = (vu)((bits & 0x8000U) != 0);
    const vu next = (is_zero & 0x8001U) |
                    (~is_zero & ((is_negative & (bits + 1)) | (~is_negative & (bits - 1))));
    const vu result = (is_above & next) | (~is_above & bits);
    pack_store_halves(halves, result);
    *number = v_load_f16(halves);
    return result;
}

/* Of numbers that are not negative. */
PACK_INLINE vu pack_f16_not_below(vf value, vf* number) {
    const vu bits = pack_f16_not_above(-value, number) & 0x7fffU;
    *number = -*number;
    return bits;
}

/* Scale and minimum of group `group` of up to WIDTH rows from `first` on, then the codes: as
 * pkvi_scale_of_range. */
PACK_INLINE bool pack_quantise_group(const uint32_t from_dtype, const struct pack_rows* rows,
                                     uint32_t first, uint32_t group, struct pack_stage* stage) {
    const uint32_t begin = group * PKVI_GROUP_DIMS;
    const uint32_t dims = rows->dim - begin < PKVI_GROUP_DIMS ? 16 : PKVI_GROUP_DIMS;
    const uint32_t rest = rows->count - first;
    const uint32_t count = rest < WIDTH ? rest : WIDTH;
    const unsigned char* from = pack_row(rows, first, 0);
    for (uint32_t r = 0; group == 0 && r < count; r++)
        pack_fetch(rows, first + r, 0, 0, 2);
    vf highest[WIDTH];
    vf negated[WIDTH];
    vu worst = {0};
    for (uint32_t r = 0; r < WIDTH; r++) {
        highest[r] = negated[r] = v_set(r < count ? -INFINITY : 0.0F);
        for (uint32_t d = begin; r < count && d < begin + dims; d += WIDTH) {
            const vf value = pack_load_element(from_dtype, from + r * rows->row_stride, d);
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
                pack_load_element(from_dtype, from + r * rows->row_stride, d) - minima[r];
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

/* One 32-bit column of 16 tokens: as it is, or its lower halves and then its upper ones. */
PACK_INLINE void pack_place_column(const bool is_split, unsigned char* to, const vu* column) {
    PACK_UNROLL for (int i = 0; i < PACK_TILE_VECTORS; i++) {
        if (!is_split) {
            pack_stream(to + (size_t)i * sizeof(vu), column[i]);
            continue;
        }
        unsigned char* at = to + (size_t)i * sizeof(pack_half);
        pack_stream_half(at, pack_to_half(column[i]));
        pack_stream_half(at + 32, pack_to_half(column[i] >> 16));
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

static void pack_place_k(const struct pack_rows* rows, const unsigned char* from,
                         unsigned char* to) {
    const size_t row_bytes = rows->dim * pack_staged_bytes(rows->dtype);
    to += (size_t)rows->token * rows->dim * pkvi_dtype_bits(rows->dtype) / 8;
    if (rows->dtype == PKV_F32 || rows->dtype == PKV_BF16)
        pack_place_k_as(PACK_WHOLE, from, row_bytes, to);
    else if (rows->dtype == PKV_I4)
        pack_place_k_as(PACK_WORDS, from, row_bytes, to);
    else
        pack_place_k_as(PACK_SPLIT, from, row_bytes, to);
}

static void pack_place_v(const struct pack_rows* rows, const unsigned char* from,
                         unsigned char* to) {
    const uint32_t dim = rows->dim;
    const size_t row_bytes = dim * pack_staged_bytes(rows->dtype);
    to += (size_t)rows->token * dim * pkvi_dtype_bits(rows->dtype) / 8;
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
                    pack_load_quarters(from + (t + i) * row_bytes + d) << pkvi_word_shift(i);
                pack_stream(to, word);
            }
        return;
    }
    for (uint32_t t = 0; t < PKVI_TILE_TOKENS; t += 2) {
        const unsigned char* even = from + t * row_bytes;
        const unsigned char* odd = even + row_bytes;
        if (rows->dtype == PKV_BF16) {
            for (uint32_t d = 0; d < dim; d += WIDTH, to += sizeof(vu))
                pack_stream(to, pack_load_halves(even + d * 2) | pack_load_halves(odd + d * 2)
                                                                     << 16);
            continue;
        }
        for (uint32_t d = 0; d < dim; d += WIDTH, to += sizeof(pack_half)) {
            const vu pair = pack_load_quarters(even + d) | pack_load_quarters(odd + d) << 8;
            pack_stream_half(to, pack_to_half(pair));
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

static void pack_scatter_k(const struct pack_rows* rows, uint32_t token, const unsigned char* from,
                           unsigned char* to) {
    const size_t tile = pkvi_tile_tokens(rows->group->block_tokens);
    const size_t lane = token % tile;
    to += (size_t)(token - lane) * rows->dim * pkvi_dtype_bits(rows->dtype) / 8;
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

static void pack_scatter_v(const struct pack_rows* rows, uint32_t token, const unsigned char* from,
                           unsigned char* to) {
    const uint32_t dim = rows->dim;
    const size_t staged_bytes = pack_staged_bytes(rows->dtype);
    if (rows->dtype == PKV_I4) {
        const uint32_t shift = pkvi_word_shift(token);
        uint32_t* words = (uint32_t*)(void*)to + (size_t)(token / 8) * dim;
        for (uint32_t d = 0; d < dim; d++)
            words[d] = (words[d] & ~(15U << shift)) | (uint32_t)from[d] << shift;
        return;
    }
    if (!pkvi_dtype_is_paired(rows->dtype) || rows->group->block_tokens == 1) {
        memcpy(to + token * dim * staged_bytes, from, dim * staged_bytes);
        return;
    }
    to += ((size_t)(token - token % 2) * dim + token % 2) * staged_bytes;
    if (staged_bytes == 2)
        pack_scatter(to, 4, from, dim, 2);
    else
        pack_scatter(to, 2, from, dim, 1);
}

static void pack_place_scales(const struct pack_rows* rows, const struct pack_stage* stage,
                              uint32_t head) {
    unsigned char* scales = rows->to_scales + head * rows->to_stride;
    if (!pkvi_dtype_is_scaled(rows->dtype)) return;
    if (rows->dtype != PKV_I4) {
        memcpy(scales + rows->token * sizeof(float), stage->scales[head],
               rows->count * sizeof(float));
        return;
    }
    for (uint32_t g = 0; g < pkvi_scale_groups(rows->dim); g++) {
        uint16_t* to = (uint16_t*)(void*)scales + pkvi_packed_scale(rows->dim, rows->token, g);
        memcpy(to, stage->halves[g][0], rows->count * sizeof *to);
        memcpy(to + PKVI_TILE_TOKENS, stage->halves[g][1], rows->count * sizeof *to);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void pack_place(const struct pack_rows* rows, struct pack_stage* stage, uint32_t head) {
    unsigned char* to = rows->to + head * rows->to_stride;
    pack_place_scales(rows, stage, head);
    if (rows->count == PKVI_TILE_TOKENS) {
        if (rows->is_value)
            pack_place_v(rows, pack_staged(rows, stage, 0, head), to);
        else
            pack_place_k(rows, pack_staged(rows, stage, 0, head), to);
        return;
    }
    for (uint32_t r = 0; r < rows->count; r++) {
        if (rows->is_value)
            pack_scatter_v(rows, rows->token + r, pack_staged(rows, stage, r, head), to);
        else
            pack_scatter_k(rows, rows->token + r, pack_staged(rows, stage, r, head), to);
    }
}

/* Heads that are encoded together, so that rows are read in the order of memory. Groups of i4 take
 * too much room for that. */
static uint32_t pack_heads_at_once(const struct pack_rows* rows) {
    const size_t head_bytes = PKVI_TILE_TOKENS * rows->dim * pack_staged_bytes(rows->dtype);
    const size_t fitting = PACK_STAGE_BYTES / head_bytes;
    if (rows->dtype == PKV_I4) return 1;
    return fitting < PACK_HEADS_MAX ? (uint32_t)fitting : PACK_HEADS_MAX;
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
        .row_stride = array->row_stride * element,
        .head_stride = array->head_stride * element,
        .from_dtype = array->dtype,
        .group = group,
        .is_value = is_value,
        .token = job->slots[row] % group->block_tokens,
        .ahead = count == PKVI_TILE_TOKENS && job->tokens - row >= 2 * PKVI_TILE_TOKENS
                     ? PKVI_TILE_TOKENS
                     : 0,
        .to_stride = is_value ? layout->v_head_bytes : layout->k_head_bytes,
    };
    const uint32_t at_once = pack_heads_at_once(&rows);
    for (uint32_t head = 0; head < group->kv_heads; head += at_once) {
        const uint32_t rest = group->kv_heads - head;
        struct pack_stage stage;
        rows.heads = rest < at_once ? rest : at_once;
        rows.from =
            (const unsigned char*)array->data + row * rows.row_stride + head * rows.head_stride;
        rows.to = pkvi_packed_head(layout, job->space, job->layer, block, head, is_value);
        rows.to_scales = rows.to + (is_value ? layout->v_scale_offset : layout->k_scale_offset);
        if (!pack_encode(&rows, &stage)) return false;
        for (uint32_t i = 0; i < rows.heads; i++)
            pack_place(&rows, &stage, i);
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
