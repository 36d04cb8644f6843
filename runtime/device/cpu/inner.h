/* inner.h - the two inner loops of attention, for up to ROWS_MAX query rows that share a KV head.
 *
 *   qk    scores[row][token] = factor * sum over d of K[d][token] * q[row][d]
 *   pv    out[row][d] = correction[row] * out[row][d] + sum over t of weight[row][t] * V[t][d]
 *
 * An operand (operand.h) is loaded once for all rows, and its products grow in registers; nothing is
 * summed across lanes. What stays in registers is (rows x vectors): few rows take many vectors at
 * once and many rows few, so that there are always enough independent sums to hide the latency of
 * the arithmetic. A row's sums are added up in the same order in every instance: over all dims, and
 * over the tokens of a chunk.
 *
 * Up to four rows (decode) walk the same places of the piece of cache that comes next as of the
 * present one, and prefetch it into L2: blocks lie anywhere, so the hardware cannot guess where.
 * With more rows the arithmetic is what takes the time, and the caller prefetches. */
#ifndef PKVI_DEVICE_CPU_INNER_H
#define PKVI_DEVICE_CPU_INNER_H

#include "device/cpu/chunk.h"
#include "device/cpu/operand.h"

enum {
    ROWS_MAX = 6,          /* of one call */
    ROWS_STREAMED_MAX = 4, /* and of one that reads types that have to be converted */
    ROWS_PADDED = (ROWS_MAX + WIDTH - 1) / WIDTH * WIDTH, /* to whole vectors */
    TILE_VECTORS = PKVI_TILE_TOKENS / WIDTH,
    CHUNK_VECTORS = PKVI_CHUNK_TOKENS / WIDTH,
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

/* What qk is given beside the pieces. */
struct queries {
    const unsigned char* q; /* [rows][row_bytes]: [key_dim] of f32, or of bf16 for dot products */
    size_t row_bytes;
    size_t rest_bytes; /* not 0: that far behind, what the rounding to bf16 took from q */
    uint32_t key_dim;
    float factor;
    float* scores; /* [rows][PKVI_CHUNK_TOKENS] */
};

/* Scales and minima of group number `group` of the WIDTH tokens from `lane` on. */
INLINE struct affine k_affine(const uint32_t dtype, const unsigned char* scales, uint32_t group,
                              int lane) {
    if (dtype != PKV_I4) return (struct affine){0};
    const uint16_t* at = (const uint16_t*)(const void*)scales + group * 2 * PKVI_TILE_TOKENS + lane;
    return (struct affine){v_load_f16(at), v_load_f16(at + PKVI_TILE_TOKENS)};
}

/* Scores of `rows` rows with the tokens of `vectors` vectors of the chunk, from number `first` on.
 * Dims go by in steps of 8: what a word of 4-bit values holds. */
INLINE void qk_block(const int rows, const int vectors, const uint32_t dtype,
                     const struct queries* queries, const struct piece* piece,
                     const struct piece* next, const int first) {
    const bool dot = uses_dot(dtype);
    const size_t q_bytes = dot ? 2 : 4;
    vf sums[SUMS_MAX];
    UNROLL for (int i = 0; i < rows * vectors; i++) sums[i] = v_set(0.0F);
    for (uint32_t begin = 0; begin < queries->key_dim; begin += PKVI_GROUP_DIMS) {
        const uint32_t rest = queries->key_dim - begin;
        const uint32_t end = begin + (rest < PKVI_GROUP_DIMS ? rest : PKVI_GROUP_DIMS);
        struct affine affine[SUMS_MAX];
        UNROLL for (int i = 0; i < vectors; i++) affine[i] =
            k_affine(dtype, piece->k_scales[(first + i) / TILE_VECTORS], begin / PKVI_GROUP_DIMS,
                     (first + i) % TILE_VECTORS * WIDTH);
        for (uint32_t d = begin; d < end; d += 8) {
            UNROLL for (uint32_t pair = 0; pair < 8; pair += 2) {
                struct operand k[SUMS_MAX];
                UNROLL for (int i = 0; i < vectors; i++) k[i] =
                    load_k(dtype, piece->k[(first + i) / TILE_VECTORS], d + pair,
                           (first + i) % TILE_VECTORS * WIDTH, affine[i]);
                UNROLL for (int r = 0; r < rows; r++) {
                    const void* q =
                        queries->q + (size_t)r * queries->row_bytes + (d + pair) * q_bytes;
                    UNROLL for (int i = 0; i < vectors; i++) sums[r * vectors + i] =
                        v_multiply_add(dot, k[i], q, sums[r * vectors + i]);
                }
                if (!dot || queries->rest_bytes == 0) continue;
                UNROLL for (int r = 0; r < rows; r++) {
                    const void* q = queries->q + (size_t)r * queries->row_bytes +
                                    queries->rest_bytes + (d + pair) * q_bytes;
                    UNROLL for (int i = 0; i < vectors; i++) sums[r * vectors + i] =
                        v_multiply_add(dot, k[i], q, sums[r * vectors + i]);
                }
            }
            if (rows > ROWS_STREAMED_MAX) continue;
            UNROLL for (int i = 0; i < vectors; i++) if ((first + i) % TILE_VECTORS == 0)
                prefetch(next->k[(first + i) / TILE_VECTORS] +
                             d * PKVI_TILE_TOKENS * pkvi_dtype_bits(dtype) / 8,
                         PKVI_TILE_TOKENS * pkvi_dtype_bits(dtype));
        }
    }
    UNROLL for (int i = 0; i < vectors; i++) {
        const int lane = (first + i) % TILE_VECTORS * WIDTH;
        vf factor = v_set(queries->factor);
        if (has_token_scale(dtype))
            factor *= v_load(piece->k_scales[(first + i) / TILE_VECTORS] + lane * 4);
        UNROLL for (int r = 0; r < rows; r++)
            v_store(queries->scores + r * PKVI_CHUNK_TOKENS + (first + i) * WIDTH,
                    sums[r * vectors + i] * factor);
    }
}

/* Of the chunk's tiles: all at once where that is asked, otherwise one by one. */
INLINE void qk(const int rows, const uint32_t dtype, const struct queries* queries,
               const struct piece* piece, const struct piece* next, struct tiles tiles) {
    const int vectors = fitting_vectors(rows, CHUNK_VECTORS);
    int first = tiles.begin * TILE_VECTORS;
    for (; first + vectors <= tiles.end * TILE_VECTORS; first += vectors)
        qk_block(rows, vectors, dtype, queries, piece, next, first);
    for (; first < tiles.end * TILE_VECTORS; first++)
        qk_block(rows, 1, dtype, queries, piece, next, first);
}

/* ---- Weighted sum ---------------------------------------------------------------------------- */

/* What pv is given beside the pieces. */
struct sums {
    uint32_t value_dim;
    const unsigned char* weights; /* [rows][PKVI_CHUNK_TOKENS] of f32, or bf16 for dot products */
    const float* affine;          /* of 4-bit values: [tile][group][scale, minimum][16 tokens] */
    const float* corrections;     /* [rows] */
    float* out;                   /* [rows][stride] */
    size_t stride;
};

/* Floats of scales and minima that one tile of 4-bit values has. */
INLINE size_t affine_floats(uint32_t value_dim) {
    return (size_t)pkvi_scale_groups(value_dim) * 2 * PKVI_TILE_TOKENS;
}

INLINE struct affine v_affine(const uint32_t dtype, const struct sums* sums, int tile, uint32_t t,
                              uint32_t d) {
    if (dtype != PKV_I4) return (struct affine){0};
    const float* at = sums->affine + (size_t)tile * affine_floats(sums->value_dim) +
                      d / PKVI_GROUP_DIMS * 2 * PKVI_TILE_TOKENS + t;
    return (struct affine){v_set(at[0]), v_set(at[PKVI_TILE_TOKENS])};
}

/* Add tokens t and t + 1 of a tile, or t alone. The slot of a token that is not there holds rubbish,
 * perhaps NaN, which must not even be multiplied by 0. */
INLINE void add_tokens(const int rows, const int vectors, const uint32_t dtype, const bool both,
                       const struct sums* sums, const unsigned char* v, int tile, uint32_t t,
                       uint32_t d, vf* out) {
    const bool dot = uses_dot(dtype);
    struct operand operand[SUMS_MAX];
    UNROLL for (int i = 0; i < vectors; i++) {
        const uint32_t at = d + (uint32_t)i * WIDTH;
        operand[i] = load_v(dtype, v, sums->value_dim, t, at, v_affine(dtype, sums, tile, t, at),
                            v_affine(dtype, sums, tile, t + 1, at));
        if (!both && dot) operand[i].pairs &= 0x0000ffffU;
        if (!both && !dot) operand[i].second = v_set(0.0F);
    }
    UNROLL for (int r = 0; r < rows; r++) {
        const size_t token = (size_t)(r * PKVI_CHUNK_TOKENS + tile * PKVI_TILE_TOKENS) + t;
        UNROLL for (int i = 0; i < vectors; i++) out[r * vectors + i] = v_multiply_add(
            dot, operand[i], sums->weights + token * (dot ? 2 : 4), out[r * vectors + i]);
    }
}

/* The output's dims [d, d + vectors * WIDTH). Of the next piece, as much is prefetched as this one
 * reads. */
INLINE void pv_block(const int rows, const int vectors, const uint32_t dtype,
                     const struct sums* sums, const struct piece* piece, const struct piece* next,
                     struct tiles tiles, uint32_t d) {
    const size_t pair_bytes = 2 * WIDTH * (size_t)vectors * pkvi_dtype_bits(dtype) / 8;
    vf out[SUMS_MAX];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++)
        out[r * vectors + i] =
            v_load(sums->out + (size_t)r * sums->stride + d + i * WIDTH) * sums->corrections[r];
    for (int tile = tiles.begin; tile < tiles.end; tile++) {
        const uint32_t tokens = piece->tokens[tile];
        const unsigned char* ahead =
            next->v[tile] + (size_t)d * PKVI_TILE_TOKENS * pkvi_dtype_bits(dtype) / 8;
        uint32_t t = 0;
        for (; t + 8 <= tokens; t += 8) {
            UNROLL for (uint32_t pair = 0; pair < 8; pair += 2)
                add_tokens(rows, vectors, dtype, true, sums, piece->v[tile], tile, t + pair, d, out);
            if (rows > ROWS_STREAMED_MAX) continue;
            prefetch(ahead, 4 * pair_bytes);
            ahead += 4 * pair_bytes;
        }
        for (; t + 2 <= tokens; t += 2)
            add_tokens(rows, vectors, dtype, true, sums, piece->v[tile], tile, t, d, out);
        if (t < tokens)
            add_tokens(rows, vectors, dtype, false, sums, piece->v[tile], tile, t, d, out);
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int i = 0; i < vectors; i++)
        v_store(sums->out + (size_t)r * sums->stride + d + i * WIDTH, out[r * vectors + i]);
}

/* As many vectors at once as fit into registers, then half as many, for what is left of the dims.
 * */
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

/* Turn a tile of K into the native type, in its packed order, where many rows are to use it. */
INLINE void unpack_k(const uint32_t dtype, const unsigned char* tile, const unsigned char* scales,
                     uint32_t key_dim, unsigned char* to) {
    const uint32_t native = native_of(dtype);
    for (uint32_t d = 0; d < key_dim; d += 2)
        UNROLL for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
            const struct operand k = load_k(dtype, tile, d, lane,
                                            k_affine(dtype, scales, d / PKVI_GROUP_DIMS, lane));
            unsigned char* at = to + operand_offset(native, PKVI_TILE_TOKENS, d, (size_t)lane);
            if (native == PKV_BF16) {
                memcpy(at, &k.pairs, sizeof k.pairs);
                continue;
            }
            memcpy(at, &k.first, sizeof k.first);
            memcpy(at + PKVI_TILE_TOKENS * 4, &k.second, sizeof k.second);
        }
}

/* Likewise V, of which `tokens` are there; the other slots keep what they held. */
INLINE void unpack_v(const uint32_t dtype, const struct sums* sums, int tile,
                     const unsigned char* v, uint32_t tokens, unsigned char* to) {
    const uint32_t native = native_of(dtype);
    const uint32_t dims = sums->value_dim;
    for (uint32_t t = 0; t < tokens; t += 2)
        for (uint32_t d = 0; d < dims; d += WIDTH) {
            const struct operand o = load_v(dtype, v, dims, t, d, v_affine(dtype, sums, tile, t, d),
                                            v_affine(dtype, sums, tile, t + 1, d));
            unsigned char* at = to + operand_offset(native, dims, t, d);
            if (native == PKV_BF16) {
                memcpy(at, &o.pairs, sizeof o.pairs);
                continue;
            }
            memcpy(at, &o.first, sizeof o.first);
            memcpy(at + (size_t)dims * 4, &o.second, sizeof o.second);
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

#define INSTANCE(rows, dtype)                                                                      \
    static void qk_##rows##_##dtype(const struct queries* queries, const struct piece* piece,      \
                                    const struct piece* next, struct tiles tiles) {                \
        qk(rows, PKV_##dtype, queries, piece, next, tiles);                                        \
    }                                                                                              \
    static void pv_##rows##_##dtype(const struct sums* sums, const struct piece* piece,            \
                                    const struct piece* next, struct tiles tiles) {                \
        pv(rows, PKV_##dtype, sums, piece, next, tiles);                                           \
    }
#define UNPACK(dtype)                                                                              \
    static void unpack_k_##dtype(const unsigned char* tile, const unsigned char* scales,           \
                                 uint32_t key_dim, unsigned char* to) {                            \
        unpack_k(PKV_##dtype, tile, scales, key_dim, to);                                          \
    }                                                                                              \
    static void unpack_v_##dtype(const struct sums* sums, int tile, const unsigned char* v,        \
                                 uint32_t tokens, unsigned char* to) {                             \
        unpack_v(PKV_##dtype, sums, tile, v, tokens, to);                                          \
    }
#define INSTANCES(dtype)                                                                           \
    INSTANCE(1, dtype) INSTANCE(2, dtype) INSTANCE(3, dtype) INSTANCE(4, dtype) UNPACK(dtype)
#define LOOPS(dtype, qk_6, pv_6)                                                                   \
    {                                                                                              \
        {NULL, qk_1_##dtype, qk_2_##dtype, qk_3_##dtype, qk_4_##dtype, NULL, qk_6},                \
            {NULL, pv_1_##dtype, pv_2_##dtype, pv_3_##dtype, pv_4_##dtype, NULL, pv_6},            \
            unpack_k_##dtype, unpack_v_##dtype                                                     \
    }

INSTANCES(F32)
INSTANCES(F16)
INSTANCES(BF16)
INSTANCES(I8)
INSTANCES(E4M3)
INSTANCES(E5M2)
INSTANCES(I4)
INSTANCE(6, F32)
#if defined(PKVI_LEVEL_DOT)
INSTANCE(6, BF16)
#define QK_6_BF16 qk_6_BF16
#define PV_6_BF16 pv_6_BF16
#else
#define QK_6_BF16 NULL
#define PV_6_BF16 NULL
#endif

/* By the type. */
static const struct loops loops_of[] = {
    [PKV_F32] = LOOPS(F32, qk_6_F32, pv_6_F32),
    [PKV_F16] = LOOPS(F16, NULL, NULL),
    [PKV_BF16] = LOOPS(BF16, QK_6_BF16, PV_6_BF16),
    [PKV_I8] = LOOPS(I8, NULL, NULL),
    [PKV_E4M3] = LOOPS(E4M3, NULL, NULL),
    [PKV_E5M2] = LOOPS(E5M2, NULL, NULL),
    [PKV_I4] = LOOPS(I4, NULL, NULL),
};

#endif
