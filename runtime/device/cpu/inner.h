/* inner.h - the two inner loops of attention, for up to ROWS_MAX query rows that share a KV head.
 *
 *   qk    scores[row][token] = factor * sum over d of K[d][token] * q[row][d]
 *   pv    out[row][d] = correction[row] * out[row][d] + sum over t of weight[row][t] * V[t][d]
 *
 * An operand (operand.h) is loaded once for all rows, and its products grow in registers; nothing is
 * summed across lanes. A row's sums are added up in the same order in every instance: over all dims,
 * and over the tokens of a chunk; sums of integers are exact, and are turned into floats once for a
 * group of dims, a head or a chunk.
 *
 * Up to four rows (decode) walk the same places of the piece of cache that comes next as of the
 * present one, and prefetch it into L2: blocks lie anywhere, so the hardware cannot guess where.
 * With more rows the arithmetic is what takes the time, and the caller prefetches.
 *
 * What was tried, on one Zen 4 core at level avx512bf16: decode of 8 sequences of 4,096 tokens, 32/8
 * heads of 128, blocks of 16 in random order, as fractions of the sequential read (a bare read of
 * the same slabs reaches .80 to .85):
 *
 *   one head after the other, 8 blocks at a time, next head prefetched     bf16 .67  f32 .62  i8 .54
 *   4 blocks at a time: what f32 does with GQA                             bf16 .67  f32 .68  i8 .50
 *   2 blocks at a time (but MHA falls from .73 to .63)                               f32 .73
 *   blocks in the order of memory: K of all heads, then V                  bf16 .48  f32 .70
 *   prefetch V of the same head during K, the next K during V              bf16 .57  f32 .56  i8 .40
 *   prefetch 4 KiB ahead, 1 KiB ahead                               bf16 .64, .51  f32 .55, .46
 *   prefetch two or three heads ahead                                      bf16 .65  f32 .67  i8 .49
 *
 * In cache, decode runs at 40 GB/s in bf16, 44 in f32, 22 in f16, 18 in i8, 16 in e4m3, 8 in i4; i8
 * widened to bf16 instead of int16 at 12, i4 scaled and rounded to bf16 in the loop at 6. */
#ifndef PKVI_DEVICE_CPU_INNER_H
#define PKVI_DEVICE_CPU_INNER_H

#include "device/cpu/chunk.h"
#include "device/cpu/operand.h"

enum {
    ROWS_MAX = 6,          /* of one call */
    ROWS_STREAMED_MAX = 4, /* and of one that prefetches, and that converts types */
    ROWS_PADDED = (ROWS_MAX + WIDTH - 1) / WIDTH * WIDTH, /* to whole vectors */
    TILE_VECTORS = PKVI_TILE_TOKENS / WIDTH,
    CHUNK_VECTORS = PKVI_CHUNK_TOKENS / WIDTH,
    GROUPS_MAX = PKV_HEAD_DIM_MAX / PKVI_GROUP_DIMS,
    SUMS_ROOM = 32, /* no block has more sums */
};

/* One KV head's part of a chunk. */
struct piece {
    const unsigned char* k[PKVI_CHUNK_TILES];
    const unsigned char* v[PKVI_CHUNK_TILES];
    const unsigned char* k_scales[PKVI_CHUNK_TILES]; /* of scaled types */
    const unsigned char* v_scales[PKVI_CHUNK_TILES];
    const uint32_t* tokens; /* [PKVI_CHUNK_TILES] */
};

/* Tiles [begin, end) of a chunk. */
struct tiles {
    int begin;
    int end;
};

INLINE void prefetch(const unsigned char* at, const size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(at + i, 0, 2);
}

/* As many vectors for each row as fit into registers, at most `most`; a power of two. Without a
 * loop, so that the compiler knows the number before it unrolls others. */
INLINE int fitting_vectors(const int rows, const int most) {
    const int fitting = SUMS_MAX / rows < most ? SUMS_MAX / rows : most;
    return fitting >= 16 ? 16 : fitting >= 8 ? 8 : fitting >= 4 ? 4 : fitting >= 2 ? 2 : 1;
}

/* ---- Scores ---------------------------------------------------------------------------------- */

/* A row of q, `row_bytes` from one to the next:
 *   FLOATS   [key_dim] of f32
 *   BF16S    [key_dim] of bf16, and at `rest_bytes`, if that is not 0, what the rounding took
 *   INT16S   [key_dim] of int16, then as f32 its scale and the sum of each group of dims */
struct queries {
    const unsigned char* q;
    size_t row_bytes;
    size_t rest_bytes;
    uint32_t key_dim;
    float factor;
    bool is_scaled; /* K has a scale for each token, unpacked or not */
    float* scores;  /* [rows][PKVI_CHUNK_TOKENS] */
};

INLINE const float* q_numbers(const struct queries* queries, int row) {
    return (const float*)(const void*)(queries->q + (size_t)row * queries->row_bytes +
                                       queries->key_dim * sizeof(int16_t));
}

/* Scales and minima of group number `group` of the WIDTH tokens from `lane` on. */
INLINE struct affine k_affine(const uint32_t dtype, const unsigned char* scales, uint32_t group,
                              int lane) {
    if (!is_i4(dtype)) return (struct affine){0};
    const uint16_t* at = (const uint16_t*)(const void*)scales + group * 2 * PKVI_TILE_TOKENS + lane;
    return (struct affine){v_load_f16(at), v_load_f16(at + PKVI_TILE_TOKENS)};
}

/* Add the products of dims d and d + 1, or half of them; their factors lie at `q`. */
INLINE void qk_products(const int rows, const int vectors, const uint32_t dtype, const int half,
                        const struct queries* queries, const unsigned char* q,
                        const struct piece* piece, const int first, uint32_t d,
                        const struct affine* affine, vf* sums) {
    struct operand k[SUMS_ROOM];
    UNROLL for (int i = 0; i < vectors; i++) k[i] =
        load_k(dtype, piece->k[(first + i) / TILE_VECTORS], d, (first + i) % TILE_VECTORS * WIDTH,
               affine[i]);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++)
        sums[r * vectors + i] =
            v_multiply_add(arithmetic_of(dtype), half, rows > ROWS_STREAMED_MAX, k[i],
                           q + (size_t)r * queries->row_bytes, sums[r * vectors + i]);
}

INLINE void qk_dims(const int rows, const int vectors, const uint32_t dtype,
                    const struct queries* queries, const struct piece* piece, const int first,
                    uint32_t d, const struct affine* affine, vf* sums) {
    const enum arithmetic arithmetic = arithmetic_of(dtype);
    const unsigned char* q = queries->q + d * factor_bytes(dtype);
    qk_products(rows, vectors, dtype, 0, queries, q, piece, first, d, affine, sums);
    if (arithmetic == FLOATS)
        qk_products(rows, vectors, dtype, 1, queries, q, piece, first, d, affine, sums);
    if (arithmetic == BF16S && queries->rest_bytes != 0)
        qk_products(rows, vectors, dtype, 0, queries, q + queries->rest_bytes, piece, first, d,
                    affine, sums);
}

/* Scores of `rows` rows with the tokens of `vectors` vectors of the chunk, from number `first` on.
 * Dims go by in groups of 32, which have scales of their own in 4-bit values, and in steps of 8,
 * which a word of them holds. */
INLINE void qk_block(const int rows, const int vectors, const uint32_t dtype,
                     const struct queries* queries, const struct piece* piece,
                     const struct piece* next, const int first) {
    const bool grouped = HAS_DOT && is_i4(dtype);
    vf sums[SUMS_ROOM];
    vf totals[SUMS_ROOM]; /* over groups */
    UNROLL for (int i = 0; i < rows * vectors; i++) sums[i] = totals[i] = v_set(0.0F);
    for (uint32_t begin = 0; begin < queries->key_dim; begin += PKVI_GROUP_DIMS) {
        const uint32_t rest = queries->key_dim - begin;
        const uint32_t end = begin + (rest < PKVI_GROUP_DIMS ? rest : PKVI_GROUP_DIMS);
        const uint32_t group = begin / PKVI_GROUP_DIMS;
        struct affine affine[SUMS_ROOM];
        if (rows <= ROWS_STREAMED_MAX && (is_i4(dtype) || (has_token_scale(dtype) && group == 0)))
            UNROLL for (int i = 0; i < vectors; i += TILE_VECTORS)
                prefetch(next->k_scales[(first + i) / TILE_VECTORS] + group * 64, 1);
        UNROLL for (int i = 0; i < vectors; i++) affine[i] =
            k_affine(dtype, piece->k_scales[(first + i) / TILE_VECTORS], group,
                     (first + i) % TILE_VECTORS * WIDTH);
        for (uint32_t d = begin; d < end; d += 8) {
            UNROLL for (uint32_t pair = 0; pair < 8; pair += 2)
                qk_dims(rows, vectors, dtype, queries, piece, first, d + pair, affine, sums);
            if (rows > ROWS_STREAMED_MAX) continue;
            UNROLL for (int i = 0; i < vectors; i += TILE_VECTORS) prefetch(
                next->k[(first + i) / TILE_VECTORS] + d * PKVI_TILE_TOKENS * bits_of(dtype) / 8,
                PKVI_TILE_TOKENS * bits_of(dtype));
        }
        if (!grouped) continue;
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++) {
            vf* const sum = &sums[r * vectors + i];
            const vf minima = affine[i].minimum * q_numbers(queries, r)[1 + group];
            totals[r * vectors + i] += v_fma(v_total(INT16S, *sum), affine[i].scale, minima);
            *sum = v_set(0.0F);
        }
    }
    UNROLL for (int i = 0; i < vectors; i++) {
        const int lane = (first + i) % TILE_VECTORS * WIDTH;
        vf factor = v_set(queries->factor);
        if (queries->is_scaled)
            factor *= v_load(piece->k_scales[(first + i) / TILE_VECTORS] + lane * 4);
        UNROLL for (int r = 0; r < rows; r++) {
            vf score = grouped ? totals[r * vectors + i]
                               : v_total(arithmetic_of(dtype), sums[r * vectors + i]);
            if (arithmetic_of(dtype) == INT16S) score *= q_numbers(queries, r)[0];
            v_store(queries->scores + r * PKVI_CHUNK_TOKENS + (first + i) * WIDTH, score * factor);
        }
    }
}

/* Of several tiles at once as far as registers go; 4-bit values have two sums for each score. */
INLINE void qk(const int rows, const uint32_t dtype, const struct queries* queries,
               const struct piece* piece, const struct piece* next, struct tiles tiles) {
    const bool grouped = HAS_DOT && is_i4(dtype);
    const int vectors = fitting_vectors(grouped ? 2 * rows : rows, CHUNK_VECTORS);
    int first = tiles.begin * TILE_VECTORS;
    const int end = tiles.end * TILE_VECTORS;
    for (; vectors > TILE_VECTORS && first + vectors <= end; first += vectors)
        qk_block(rows, vectors, dtype, queries, piece, next, first);
    for (; first < end; first += TILE_VECTORS)
        qk_block(rows, TILE_VECTORS, dtype, queries, piece, next, first);
}

/* ---- Weighted sum ---------------------------------------------------------------------------- */

/* What pv is given beside the pieces. A row of weights, `row_bytes` from one to the next:
 *   FLOATS   [PKVI_CHUNK_TOKENS] of f32
 *   BF16S    the same of bf16, and at `rest_bytes`, if that is not 0, what the rounding took
 *   INT16S   the same of int16; for i4 once for each group of dims */
struct sums {
    uint32_t value_dim;
    const unsigned char* weights;
    size_t row_bytes;
    size_t rest_bytes;
    const float* affine;      /* of i4: [tile][group][scale, minimum][16 tokens] */
    const float* corrections; /* [rows] */
    const float* scales;      /* [rows][GROUPS_MAX] of weights; for INT16S */
    const float* minima;      /* [rows][GROUPS_MAX] weighted sums of minima; for i4 */
    float* out;               /* [rows][stride] */
    size_t stride;
};

/* Floats of scales and minima that one tile of 4-bit values has. */
INLINE size_t affine_floats(uint32_t value_dim) {
    return (size_t)pkvi_scale_groups(value_dim) * 2 * PKVI_TILE_TOKENS;
}

/* Where the scales of a tile's group begin; the minima follow. */
INLINE const float* v_scales_at(const struct sums* sums, int tile, uint32_t group) {
    return sums->affine + (size_t)tile * affine_floats(sums->value_dim) +
           (size_t)group * 2 * PKVI_TILE_TOKENS;
}

INLINE struct affine v_affine(const uint32_t dtype, const struct sums* sums, int tile, uint32_t t,
                              uint32_t d) {
    if (HAS_DOT || dtype != PKV_I4) return (struct affine){0};
    const float* at = v_scales_at(sums, tile, d / PKVI_GROUP_DIMS) + t;
    return (struct affine){v_set(at[0]), v_set(at[PKVI_TILE_TOKENS])};
}

/* Add the products of tokens t and t + 1, or half of them; their factors lie at `weights`. The slot
 * of a token that is not there holds rubbish, perhaps NaN, which must not even be multiplied by 0. */
INLINE void pv_products(const int rows, const int vectors, const uint32_t dtype, const int half,
                        const bool both, const struct sums* sums, const unsigned char* weights,
                        const unsigned char* v, int tile, uint32_t t, uint32_t d, vf* out) {
    const bool grouped = HAS_DOT && is_i4(dtype);
    struct operand operand[SUMS_ROOM];
    UNROLL for (int i = 0; i < vectors; i++) {
        const uint32_t at = d + (uint32_t)i * WIDTH;
        operand[i] = load_v(dtype, v, sums->value_dim, t, at, v_affine(dtype, sums, tile, t, at),
                            v_affine(dtype, sums, tile, t + 1, at));
        if (!both) operand[i].pairs &= 0x0000ffffU;
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++) {
        const size_t group = grouped ? (d + (uint32_t)i * WIDTH) / PKVI_GROUP_DIMS : 0;
        out[r * vectors + i] = v_multiply_add(
            arithmetic_of(dtype), half, rows > ROWS_STREAMED_MAX, operand[i],
            weights + (size_t)r * sums->row_bytes + group * PKVI_CHUNK_TOKENS * sizeof(int16_t),
            out[r * vectors + i]);
    }
}

/* Add tokens t and t + 1 of a tile, or t alone. */
INLINE void add_tokens(const int rows, const int vectors, const uint32_t dtype, const bool both,
                       const struct sums* sums, const unsigned char* v, int tile, uint32_t t,
                       uint32_t d, vf* out) {
    const enum arithmetic arithmetic = arithmetic_of(dtype);
    const size_t token = (size_t)(tile * PKVI_TILE_TOKENS) + t;
    const unsigned char* weights = sums->weights + token * factor_bytes(dtype);
    pv_products(rows, vectors, dtype, 0, both, sums, weights, v, tile, t, d, out);
    if (arithmetic == FLOATS && both)
        pv_products(rows, vectors, dtype, 1, both, sums, weights, v, tile, t, d, out);
    if (arithmetic == BF16S && sums->rest_bytes != 0)
        pv_products(rows, vectors, dtype, 0, both, sums, weights + sums->rest_bytes, v, tile, t, d,
                    out);
}

INLINE float* out_at(const struct sums* sums, int row, uint32_t d) {
    return sums->out + (size_t)row * sums->stride + d;
}

/* The output's dims [d, d + vectors * WIDTH). */
INLINE void pv_block(const int rows, const int vectors, const uint32_t dtype,
                     const struct sums* sums, const struct piece* piece, const struct piece* next,
                     struct tiles tiles, uint32_t d) {
    const size_t step_bytes = 8 * WIDTH * (size_t)vectors * bits_of(dtype) / 8;
    const bool is_int = arithmetic_of(dtype) == INT16S;
    vf out[SUMS_ROOM];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++)
        out[r * vectors + i] =
            is_int ? v_set(0.0F)
                   : v_load(out_at(sums, r, d + (uint32_t)i * WIDTH)) * sums->corrections[r];
    for (int tile = tiles.begin; tile < tiles.end; tile++) {
        const uint32_t tokens = piece->tokens[tile];
        const unsigned char* ahead =
            next->v[tile] + (size_t)d * PKVI_TILE_TOKENS * bits_of(dtype) / 8;
        uint32_t t = 0;
        if (rows <= ROWS_STREAMED_MAX && pkvi_dtype_is_scaled(dtype) && d == 0)
            prefetch(next->v_scales[tile],
                     is_i4(dtype) ? 64 * pkvi_scale_groups(sums->value_dim) : 64);
        for (; t + 8 <= tokens; t += 8) {
            UNROLL for (uint32_t pair = 0; pair < 8; pair += 2) add_tokens(
                rows, vectors, dtype, true, sums, piece->v[tile], tile, t + pair, d, out);
            if (rows > ROWS_STREAMED_MAX) continue;
            prefetch(ahead, step_bytes);
            ahead += step_bytes;
        }
        for (; t + 2 <= tokens; t += 2)
            add_tokens(rows, vectors, dtype, true, sums, piece->v[tile], tile, t, d, out);
        if (t < tokens)
            add_tokens(rows, vectors, dtype, false, sums, piece->v[tile], tile, t, d, out);
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++) {
        const uint32_t at = d + (uint32_t)i * WIDTH;
        vf sum = out[r * vectors + i];
        if (is_int) {
            vf before = v_load(out_at(sums, r, at)) * sums->corrections[r];
            const int group = r * GROUPS_MAX + (is_i4(dtype) ? (int)(at / PKVI_GROUP_DIMS) : 0);
            if (is_i4(dtype)) before += sums->minima[group];
            sum = v_fma(v_total(INT16S, sum), v_set(sums->scales[group]), before);
        }
        v_store(out_at(sums, r, at), sum);
    }
}

/* As many vectors at once as fit into registers, then half as many, for what is left of the dims. */
INLINE void pv(const int rows, const uint32_t dtype, const struct sums* sums,
               const struct piece* piece, const struct piece* next, struct tiles tiles) {
    const int vectors = fitting_vectors(rows, 8);
    const uint32_t dims = sums->value_dim;
    uint32_t d = 0;
    for (; d + (uint32_t)vectors * WIDTH <= dims; d += (uint32_t)vectors * WIDTH)
        pv_block(rows, vectors, dtype, sums, piece, next, tiles, d);
    for (; vectors > 2 && d + 2 * WIDTH <= dims; d += 2 * WIDTH)
        pv_block(rows, 2, dtype, sums, piece, next, tiles, d);
    for (; d < dims; d += WIDTH)
        pv_block(rows, 1, dtype, sums, piece, next, tiles, d);
}

/* ---- Unpacking ------------------------------------------------------------------------------- */

INLINE void store_operand(const uint32_t native, struct operand operand, unsigned char* to,
                          size_t second_bytes) {
    if (native != PKV_F32) {
        memcpy(to, &operand.pairs, sizeof operand.pairs);
        return;
    }
    memcpy(to, &operand.first, sizeof operand.first);
    memcpy(to + second_bytes, &operand.second, sizeof operand.second);
}

/* Turn a tile of K into the native type, in its packed order. */
INLINE void unpack_k(const uint32_t dtype, const unsigned char* tile, const unsigned char* scales,
                     uint32_t key_dim, unsigned char* to) {
    const uint32_t native = native_of(dtype);
    for (uint32_t d = 0; d < key_dim; d += 2)
        UNROLL for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
            const struct affine affine = k_affine(dtype, scales, d / PKVI_GROUP_DIMS, lane);
            store_operand(native, load_k(dtype, tile, d, lane, affine),
                          to + operand_offset(native, PKVI_TILE_TOKENS, d, (size_t)lane),
                          PKVI_TILE_TOKENS * sizeof(float));
        }
}

/* Likewise V, of which `tokens` are there; the other slots keep what they held. */
INLINE void unpack_v(const uint32_t dtype, const struct sums* sums, int tile,
                     const unsigned char* v, uint32_t tokens, unsigned char* to) {
    const uint32_t native = native_of(dtype);
    const uint32_t dims = sums->value_dim;
    for (uint32_t t = 0; t < tokens; t += 2)
        for (uint32_t d = 0; d < dims; d += WIDTH) {
            const struct affine first = v_affine(dtype, sums, tile, t, d);
            const struct affine second = v_affine(dtype, sums, tile, t + 1, d);
            store_operand(native, load_v(dtype, v, dims, t, d, first, second),
                          to + operand_offset(native, dims, t, d), dims * sizeof(float));
        }
}

/* ---- Instances: rows x dtype ----------------------------------------------------------------- */

typedef void qk_function(const struct queries* queries, const struct piece* piece,
                         const struct piece* next, struct tiles tiles);
typedef void pv_function(const struct sums* sums, const struct piece* piece,
                         const struct piece* next, struct tiles tiles);
typedef void unpack_k_function(const unsigned char* tile, const unsigned char* scales,
                               uint32_t key_dim, unsigned char* to);
typedef void unpack_v_function(const struct sums* sums, int tile, const unsigned char* v,
                               uint32_t tokens, unsigned char* to);

struct loops {
    qk_function* qk[ROWS_MAX + 1]; /* by the rows; NULL where there is no instance */
    pv_function* pv[ROWS_MAX + 1];
    unpack_k_function* unpack_k;
    unpack_v_function* unpack_v;
};

#define INSTANCE(rows, dtype, code)                                                                \
    static void qk_##rows##_##dtype(const struct queries* queries, const struct piece* piece,      \
                                    const struct piece* next, struct tiles tiles) {                \
        qk(rows, code, queries, piece, next, tiles);                                               \
    }                                                                                              \
    static void pv_##rows##_##dtype(const struct sums* sums, const struct piece* piece,            \
                                    const struct piece* next, struct tiles tiles) {                \
        pv(rows, code, sums, piece, next, tiles);                                                  \
    }
#define UNPACK(dtype, code)                                                                        \
    static void unpack_k_##dtype(const unsigned char* tile, const unsigned char* scales,           \
                                 uint32_t key_dim, unsigned char* to) {                            \
        unpack_k(code, tile, scales, key_dim, to);                                                 \
    }                                                                                              \
    static void unpack_v_##dtype(const struct sums* sums, int tile, const unsigned char* v,        \
                                 uint32_t tokens, unsigned char* to) {                             \
        unpack_v(code, sums, tile, v, tokens, to);                                                 \
    }
#define INSTANCES(dtype, code)                                                                     \
    INSTANCE(1, dtype, code)                                                                       \
    INSTANCE(2, dtype, code)                                                                       \
    INSTANCE(3, dtype, code) INSTANCE(4, dtype, code) UNPACK(dtype, code)
#define LOOPS(dtype, qk_6, pv_6)                                                                   \
    {{NULL, qk_1_##dtype, qk_2_##dtype, qk_3_##dtype, qk_4_##dtype, NULL, qk_6},                   \
     {NULL, pv_1_##dtype, pv_2_##dtype, pv_3_##dtype, pv_4_##dtype, NULL, pv_6},                   \
     unpack_k_##dtype,                                                                             \
     unpack_v_##dtype}

INSTANCES(f32, PKV_F32)
INSTANCE(6, f32, PKV_F32)
INSTANCES(f16, PKV_F16)
INSTANCES(bf16, PKV_BF16)
INSTANCES(i8, PKV_I8)
INSTANCES(e4m3, PKV_E4M3)
INSTANCES(e5m2, PKV_E5M2)
INSTANCES(i4, PKV_I4)
#if defined(PKVI_LEVEL_DOT)
INSTANCE(6, bf16, PKV_BF16)
INSTANCES(wide_i8, WIDE_I8)
INSTANCE(6, wide_i8, WIDE_I8)
INSTANCES(wide_i4, WIDE_I4)
INSTANCE(6, wide_i4, WIDE_I4)
#endif

/* By the type. */
static const struct loops loops_of[DTYPES] = {
    [PKV_F32] = LOOPS(f32, qk_6_f32, pv_6_f32),
    [PKV_F16] = LOOPS(f16, NULL, NULL),
#if defined(PKVI_LEVEL_DOT)
    [PKV_BF16] = LOOPS(bf16, qk_6_bf16, pv_6_bf16),
    [WIDE_I8] = LOOPS(wide_i8, qk_6_wide_i8, pv_6_wide_i8),
    [WIDE_I4] = LOOPS(wide_i4, qk_6_wide_i4, pv_6_wide_i4),
#else
    [PKV_BF16] = LOOPS(bf16, NULL, NULL),
#endif
    [PKV_I8] = LOOPS(i8, NULL, NULL),
    [PKV_E4M3] = LOOPS(e4m3, NULL, NULL),
    [PKV_E5M2] = LOOPS(e5m2, NULL, NULL),
    [PKV_I4] = LOOPS(i4, NULL, NULL),
};

#endif
