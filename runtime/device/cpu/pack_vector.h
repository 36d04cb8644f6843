/* pack_vector.h - what packing needs of vectors beyond simd.h: narrowing, interleaving,
 * transposition, and stores past the caches.
 *
 * Lanes keep their order in everything here: what is narrowed or interleaved is in the order that a
 * loop over elements would give. Instructions that work inside 128-bit pieces of a register are
 * followed by one that puts the pieces in order. */
#ifndef PKVI_DEVICE_CPU_PACK_VECTOR_H
#define PKVI_DEVICE_CPU_PACK_VECTOR_H

#include "device/cpu/packed.h"
#include "device/cpu/simd.h"

#define PACK_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define PACK_UNROLL   _Pragma("unroll")
#define PACK_UNROLL_4 _Pragma("unroll 4")
#else
#define PACK_UNROLL   _Pragma("GCC unroll 16")
#define PACK_UNROLL_4 _Pragma("GCC unroll 4")
#endif

enum { PACK_TILE_VECTORS = PKVI_TILE_TOKENS / WIDTH };

/* ---- Maxima ---------------------------------------------------------------------------------- */

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

/* Of both halves of each lane, which are below 2^15. */
PACK_INLINE vu pack_max_halves(vu a, vu b) {
#if defined(PKVI_LEVEL_AVX512)
    return (vu)_mm512_max_epi16((__m512i)a, (__m512i)b);
#elif defined(PKVI_LEVEL_AVX2)
    return (vu)_mm256_max_epi16((__m256i)a, (__m256i)b);
#elif defined(PKVI_LEVEL_NEON)
    return (vu)vmaxq_u16((uint16x8_t)a, (uint16x8_t)b);
#else
    return pack_max(a & 0xffff0000U, b & 0xffff0000U) | pack_max(a & 0xffffU, b & 0xffffU);
#endif
}

/* The largest lane. */
PACK_INLINE uint32_t pack_highest(vu value) {
    uint32_t lanes[WIDTH];
    memcpy(lanes, &value, sizeof value);
    uint32_t highest = 0;
    for (int i = 0; i < WIDTH; i++)
        highest = lanes[i] > highest ? lanes[i] : highest;
    return highest;
}

/* Bits of magnitudes are ordered as the magnitudes are. */
PACK_INLINE vu pack_magnitude(vf value) {
    return (vu)value & 0x7fffffffU;
}

/* ---- Narrowing and interleaving -------------------------------------------------------------- */

#define PACK_EVEN_8(n) (n), (n) + 2, (n) + 4, (n) + 6, (n) + 8, (n) + 10, (n) + 12, (n) + 14

/* The low halves of the lanes of a, then of b. */
PACK_INLINE vu pack_narrow_halves(vu a, vu b) {
#if defined(PKVI_LEVEL_AVX512)
    typedef int16_t halves __attribute__((vector_size(WIDTH * 4)));
    const halves even = {PACK_EVEN_8(0), PACK_EVEN_8(16), PACK_EVEN_8(32), PACK_EVEN_8(48)};
    return (vu)_mm512_permutex2var_epi16((__m512i)a, (__m512i)even, (__m512i)b);
#elif defined(PKVI_LEVEL_AVX2)
    return (vu)_mm256_permute4x64_epi64(
        _mm256_packus_epi32((__m256i)(a & 0xffffU), (__m256i)(b & 0xffffU)), 0xd8);
#elif defined(PKVI_LEVEL_NEON)
    return (vu)vuzp1q_u16((uint16x8_t)a, (uint16x8_t)b);
#else
    uint16_t halves[2 * WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        halves[i] = (uint16_t)a[i];
        halves[WIDTH + i] = (uint16_t)b[i];
    }
    return v_load_words(halves);
#endif
}

/* Of numbers from -128 to 127, as bytes: the lanes of the first, then of the next. */
PACK_INLINE vu pack_narrow_bytes(const vu of[4]) {
#if defined(PKVI_LEVEL_AVX512)
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_packs_epi32((__m512i)of[0], (__m512i)of[1]);
    const __m512i high = _mm512_packs_epi32((__m512i)of[2], (__m512i)of[3]);
    return (vu)_mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
#elif defined(PKVI_LEVEL_AVX2)
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i low = _mm256_packs_epi32((__m256i)of[0], (__m256i)of[1]);
    const __m256i high = _mm256_packs_epi32((__m256i)of[2], (__m256i)of[3]);
    return (vu)_mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
#elif defined(PKVI_LEVEL_NEON)
    const uint16x8_t low = vuzp1q_u16((uint16x8_t)of[0], (uint16x8_t)of[1]);
    const uint16x8_t high = vuzp1q_u16((uint16x8_t)of[2], (uint16x8_t)of[3]);
    return (vu)vuzp1q_u8((uint8x16_t)low, (uint8x16_t)high);
#else
    uint8_t bytes[4 * WIDTH];
    for (int i = 0; i < 4 * WIDTH; i++)
        bytes[i] = (uint8_t)of[i / WIDTH][i % WIDTH];
    return v_load_words(bytes);
#endif
}

/* What an instruction has interleaved inside 128-bit pieces, in order. */
#if defined(PKVI_LEVEL_AVX512)
PACK_INLINE void pack_weave(__m512i low, __m512i high, vu out[2]) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    out[0] = (vu)_mm512_permutex2var_epi64(low, first, high);
    out[1] = (vu)_mm512_permutex2var_epi64(low, second, high);
}
#elif defined(PKVI_LEVEL_AVX2)
PACK_INLINE void pack_weave(__m256i low, __m256i high, vu out[2]) {
    out[0] = (vu)_mm256_permute2x128_si256(low, high, 0x20);
    out[1] = (vu)_mm256_permute2x128_si256(low, high, 0x31);
}
#endif

/* Halves of lanes: the first of a, the first of b, the second of a, ... */
PACK_INLINE void pack_zip_halves(vu a, vu b, vu out[2]) {
#if defined(PKVI_LEVEL_AVX512)
    pack_weave(_mm512_unpacklo_epi16((__m512i)a, (__m512i)b),
               _mm512_unpackhi_epi16((__m512i)a, (__m512i)b), out);
#elif defined(PKVI_LEVEL_AVX2)
    pack_weave(_mm256_unpacklo_epi16((__m256i)a, (__m256i)b),
               _mm256_unpackhi_epi16((__m256i)a, (__m256i)b), out);
#elif defined(PKVI_LEVEL_NEON)
    out[0] = (vu)vzip1q_u16((uint16x8_t)a, (uint16x8_t)b);
    out[1] = (vu)vzip2q_u16((uint16x8_t)a, (uint16x8_t)b);
#else
    uint16_t halves[2][2 * WIDTH];
    uint16_t zipped[2 * 2 * WIDTH];
    memcpy(halves[0], &a, sizeof a);
    memcpy(halves[1], &b, sizeof b);
    for (int i = 0; i < 4 * WIDTH; i++)
        zipped[i] = halves[i % 2][i / 2];
    memcpy(out, zipped, sizeof zipped);
#endif
}

/* The same of bytes. */
PACK_INLINE void pack_zip_bytes(vu a, vu b, vu out[2]) {
#if defined(PKVI_LEVEL_AVX512)
    pack_weave(_mm512_unpacklo_epi8((__m512i)a, (__m512i)b),
               _mm512_unpackhi_epi8((__m512i)a, (__m512i)b), out);
#elif defined(PKVI_LEVEL_AVX2)
    pack_weave(_mm256_unpacklo_epi8((__m256i)a, (__m256i)b),
               _mm256_unpackhi_epi8((__m256i)a, (__m256i)b), out);
#elif defined(PKVI_LEVEL_NEON)
    out[0] = (vu)vzip1q_u8((uint8x16_t)a, (uint8x16_t)b);
    out[1] = (vu)vzip2q_u8((uint8x16_t)a, (uint8x16_t)b);
#else
    uint8_t bytes[2][4 * WIDTH];
    uint8_t zipped[2 * 4 * WIDTH];
    memcpy(bytes[0], &a, sizeof a);
    memcpy(bytes[1], &b, sizeof b);
    for (int i = 0; i < 8 * WIDTH; i++)
        zipped[i] = bytes[i % 2][i / 2];
    memcpy(out, zipped, sizeof zipped);
#endif
}

/* ---- Past the caches ------------------------------------------------------------------------- */

/* Rows of some dims are no multiple of a vector; what does not begin on one is an ordinary store. */
PACK_INLINE void pack_stream(void* to, vu value) {
#if defined(PKVI_LEVEL_AVX512) || defined(PKVI_LEVEL_AVX2)
    if ((uintptr_t)to % sizeof value == 0) {
#if defined(PKVI_LEVEL_AVX512)
        _mm512_stream_si512(to, (__m512i)value);
#else
        _mm256_stream_si256(to, (__m256i)value);
#endif
        return;
    }
#endif
    memcpy(to, &value, sizeof value);
}

/* What was streamed is seen by whoever is told so afterwards. */
PACK_INLINE void pack_fence(void) {
#if defined(PKVI_LEVEL_AVX512) || defined(PKVI_LEVEL_AVX2)
    _mm_sfence();
#endif
}

/* ---- Transposition --------------------------------------------------------------------------- */

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

PACK_INLINE vu pack_highest_bits_of_rows(vu rows[WIDTH]) {
    PACK_FOLDS(rows, pack_max)
    return rows[0];
}

#endif
