/* inner.h - the two inner loops of attention, for up to ROWS_MAX query rows that share a KV head.
 *
 *   qk    scores[row][token] = scale * sum over d of K[d][token] * q[row][d], even and odd d apart
 *   pv    out[row][d] = correction[row] * out[row][d] + sum over t of weight[row][t] * V[t][d]
 *
 * A vector of K or V is loaded and widened once for all rows, and its products grow in registers;
 * nothing is summed across lanes. What stays in registers is (rows x vectors): few rows take many
 * vectors at once and many rows few, so that there are always enough independent sums to hide the
 * latency of the arithmetic. A row's sums are added up in the same order in every instance.
 *
 * Both loops walk the same places of the piece of cache that is next as of the present one, and
 * prefetch it into L2: blocks lie anywhere, so the hardware cannot guess where.
 *
 * Measured on one Zen 5 core, decode of 8 sequences of 4,096 tokens, 32/8 heads of 128, blocks of
 * 16 in random order, as a fraction of the read bandwidth: bf16 .65, f16 .65, f32 .55. One vector
 * of K at a time, blocks looked up for each head, and K alone prefetched, a whole chunk ahead: .39,
 * .34, .47. Prefetching into L1 instead of L2 is as good or better here, but needs a large L1. */
#ifndef PKVI_DEVICE_CPU_INNER_H
#define PKVI_DEVICE_CPU_INNER_H

#include "device/cpu/chunk.h"
#include "device/cpu/simd.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    TILE_VECTORS = PKVI_TILE_TOKENS / WIDTH,
    CHUNK_VECTORS = PKVI_CHUNK_TOKENS / WIDTH,
};

/* One KV head's part of a chunk. */
struct piece {
    const unsigned char* k[PKVI_CHUNK_TILES];
    const unsigned char* v[PKVI_CHUNK_TILES];
    const uint32_t* tokens; /* [PKVI_CHUNK_TILES] */
};

/* ---- Scores ---------------------------------------------------------------------------------- */

/* Bytes of dims d and d + 1 of a tile's 16 tokens. */
INLINE size_t pair_bytes(const uint32_t dtype) {
    return (size_t)2 * PKVI_TILE_TOKENS * (dtype == PKV_F32 ? 4 : 2);
}

/* Dims d and d + 1 of the WIDTH tokens from `lane` on; `at` is where the two dims are. */
INLINE void load_k(const uint32_t dtype, const unsigned char* at, int lane, vf* even, vf* odd) {
    const float* f32 = (const float*)(const void*)at;
    const uint16_t* u16 = (const uint16_t*)(const void*)at;
    if (dtype == PKV_F32) {
        *even = v_load(f32 + lane);
        *odd = v_load(f32 + PKVI_TILE_TOKENS + lane);
    } else if (dtype == PKV_F16) {
        *even = v_load_f16(u16 + lane);
        *odd = v_load_f16(u16 + PKVI_TILE_TOKENS + lane);
    } else {
        v_load_pairs(u16 + 2 * lane, even, odd);
    }
}

INLINE void prefetch(const unsigned char* at, const size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(at + i, 0, 2);
}

/* Scores of `rows` rows with the tokens of `vectors` vectors of the chunk, from number `first` on.
 * */
INLINE void qk_block(const int rows, const int vectors, const uint32_t dtype, const float* q,
                     const uint32_t key_dim, const struct piece* piece, const struct piece* next,
                     const int first, const float scale, float* scores) {
    vf even[SUMS_MAX];
    vf odd[SUMS_MAX];
    UNROLL for (int i = 0; i < rows * vectors; i++) even[i] = odd[i] = v_set(0.0F);
    for (uint32_t d = 0; d < key_dim; d += 2) {
        const size_t at = d / 2 * pair_bytes(dtype);
        UNROLL for (int i = 0; i < vectors; i++) {
            const int tile = (first + i) / TILE_VECTORS;
            const int lane = (first + i) % TILE_VECTORS * WIDTH;
            vf a;
            vf b;
            load_k(dtype, piece->k[tile] + at, lane, &a, &b);
            if (lane == 0) prefetch(next->k[tile] + at, pair_bytes(dtype));
            UNROLL for (int r = 0; r < rows; r++) {
                const float* pair = q + (size_t)r * key_dim + d;
                even[i * rows + r] = v_fma(a, v_set(pair[0]), even[i * rows + r]);
                odd[i * rows + r] = v_fma(b, v_set(pair[1]), odd[i * rows + r]);
            }
        }
    }
    UNROLL for (int i = 0; i < vectors; i++) UNROLL for (int r = 0; r < rows; r++)
        v_store(scores + r * PKVI_CHUNK_TOKENS + (first + i) * WIDTH,
                (even[i * rows + r] + odd[i * rows + r]) * scale);
}

INLINE void qk(const int rows, const uint32_t dtype, const float* q, uint32_t key_dim,
               const struct piece* piece, const struct piece* next, float scale, float* scores) {
    const int fitting = SUMS_MAX / 2 / rows;
    const int vectors = fitting < CHUNK_VECTORS ? fitting : CHUNK_VECTORS;
    for (int first = 0; first < CHUNK_VECTORS; first += vectors)
        qk_block(rows, vectors, dtype, q, key_dim, piece, next, first, scale, scores);
}

/* ---- Weighted sum ---------------------------------------------------------------------------- */

/* What pv is given beside the piece. */
struct sums {
    uint32_t value_dim;
    const float* weights;     /* [rows][PKVI_CHUNK_TOKENS] */
    const float* corrections; /* [rows] */
    float* out;               /* [rows][stride] */
    size_t stride;
};

/* Add token t, or for bf16 the pair of tokens from t on; `both`: the second one is there. If it is
 * not, its slot holds rubbish, perhaps NaN, and must not even be multiplied by 0. */
INLINE void add_token(const int rows, const int vectors, const uint32_t dtype,
                      const unsigned char* v, const unsigned char* next, uint32_t value_dim,
                      uint32_t d, uint32_t t, const bool both, const float* weights, vf* out) {
    const size_t element_bytes = dtype == PKV_F32 ? 4 : 2;
    const size_t in_pair = dtype == PKV_BF16 ? 2 : 1;
    const size_t at = ((size_t)t * value_dim + d * in_pair) * element_bytes;
    const size_t step = WIDTH * in_pair * element_bytes;
    UNROLL for (int i = 0; i < vectors; i++) {
        const void* from = v + at + (size_t)i * step;
        vf first;
        vf second = v_set(0.0F);
        if (dtype == PKV_F32)
            first = v_load(from);
        else if (dtype == PKV_F16)
            first = v_load_f16(from);
        else
            v_load_pairs(from, &first, &second);
        UNROLL for (int r = 0; r < rows; r++) {
            const float* weight = weights + r * PKVI_CHUNK_TOKENS + t;
            out[r * vectors + i] = v_fma(first, v_set(weight[0]), out[r * vectors + i]);
            if (dtype == PKV_BF16 && both)
                out[r * vectors + i] = v_fma(second, v_set(weight[1]), out[r * vectors + i]);
        }
    }
    prefetch(next + at, step * (size_t)vectors);
}

/* The output's dims [d, d + vectors * WIDTH). */
INLINE void pv_block(const int rows, const int vectors, const uint32_t dtype,
                     const struct sums* sums, const struct piece* piece, const struct piece* next,
                     uint32_t d) {
    const uint32_t step = dtype == PKV_BF16 ? 2 : 1;
    vf out[SUMS_MAX];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++)
        out[r * vectors + i] =
            v_load(sums->out + (size_t)r * sums->stride + d + i * WIDTH) * sums->corrections[r];
    for (int tile = 0; tile < PKVI_CHUNK_TILES; tile++) {
        const float* weights = sums->weights + tile * PKVI_TILE_TOKENS;
        const uint32_t tokens = piece->tokens[tile];
        uint32_t t = 0;
        for (; t + step <= tokens; t += step)
            add_token(rows, vectors, dtype, piece->v[tile], next->v[tile], sums->value_dim, d, t,
                      true, weights, out);
        if (t < tokens)
            add_token(rows, vectors, dtype, piece->v[tile], next->v[tile], sums->value_dim, d, t,
                      false, weights, out);
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++)
        v_store(sums->out + (size_t)r * sums->stride + d + i * WIDTH, out[r * vectors + i]);
}

/* As many vectors at once as fit into registers, then half as many, for what is left of the dims.
 * */
INLINE void pv(const int rows, const uint32_t dtype, const struct sums* sums,
               const struct piece* piece, const struct piece* next) {
    const int fitting = SUMS_MAX / rows;
    const uint32_t dims = sums->value_dim;
    uint32_t d = 0;
    for (; fitting >= 8 && d + 8 * WIDTH <= dims; d += 8 * WIDTH)
        pv_block(rows, 8, dtype, sums, piece, next, d);
    for (; fitting >= 4 && d + 4 * WIDTH <= dims; d += 4 * WIDTH)
        pv_block(rows, 4, dtype, sums, piece, next, d);
    for (; d + 2 * WIDTH <= dims; d += 2 * WIDTH)
        pv_block(rows, 2, dtype, sums, piece, next, d);
    for (; d < dims; d += WIDTH)
        pv_block(rows, 1, dtype, sums, piece, next, d);
}

/* ---- Instances: rows x dtype ----------------------------------------------------------------- */

typedef void qk_function(const float* q, uint32_t key_dim, const struct piece* piece,
                         const struct piece* next, float scale, float* scores);
typedef void pv_function(const struct sums* sums, const struct piece* piece,
                         const struct piece* next);

#define INSTANCE(rows, dtype)                                                                      \
    static void qk_##rows##_##dtype(const float* q, uint32_t key_dim, const struct piece* piece,   \
                                    const struct piece* next, float scale, float* scores) {        \
        qk(rows, PKV_##dtype, q, key_dim, piece, next, scale, scores);                             \
    }                                                                                              \
    static void pv_##rows##_##dtype(const struct sums* sums, const struct piece* piece,            \
                                    const struct piece* next) {                                    \
        pv(rows, PKV_##dtype, sums, piece, next);                                                  \
    }
#define INSTANCES(rows)   INSTANCE(rows, F32) INSTANCE(rows, F16) INSTANCE(rows, BF16)
#define NAMES(what, rows) {what##_##rows##_F32, what##_##rows##_F16, what##_##rows##_BF16}

INSTANCES(1)
INSTANCES(2)
INSTANCES(4)
#if defined(PKVI_LEVEL_AVX512)
INSTANCES(8)
#define ALL(what) {NAMES(what, 1), NAMES(what, 2), NAMES(what, 4), NAMES(what, 8)}
#else
#define ALL(what) {NAMES(what, 1), NAMES(what, 2), NAMES(what, 4)}
#endif

/* By the logarithm of the rows, then by the type. */
static qk_function* const qk_table[][3] = ALL(qk);
static pv_function* const pv_table[][3] = ALL(pv);

#endif
