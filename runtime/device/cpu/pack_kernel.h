/* pack_kernel.h - storing K and V in the packed order (packed.h): one source, compiled once for
 * each instruction set.
 *
 * Included by the level_*.c files. Reading order is bottom up: pack() at the end walks runs of rows
 * that lie in one tile, and in it K and V and their heads. pack_encode.h turns elements into words
 * of codes, pack_place.h puts words where they belong, pack_vector.h has the instructions.
 *
 *   whole tile    of 16 tokens, a vector of words of each row at a time: encoded, transposed (K) or
 *                 interleaved (V), and stored, without a copy in memory in between
 *   fewer rows    each is encoded, and then scattered
 *
 * The memory bus is the limit, so that what is read next is fetched into the second-level cache line
 * by line as the present lines are stored. docs/performance.md says what else was tried.
 *
 * Holds   W1  the bytes are those of the scalar codec, whatever the level and the cut into runs
 *         W2  nothing but the slots of the rows is written */
#ifndef PKVI_DEVICE_CPU_PACK_KERNEL_H
#define PKVI_DEVICE_CPU_PACK_KERNEL_H

#include "device/cpu/pack_place.h"

/* ---- Rows of one head ------------------------------------------------------------------------ */

/* Both of a whole tile, which begins at `to`. */
PACK_INLINE void pack_tile_of_k(const uint32_t from_dtype, const uint32_t dtype,
                                const struct pack_rows rows, const struct pack_scales* scales,
                                unsigned char* to, vu* worst) {
    const uint32_t dims = WIDTH * pack_codes(dtype);
    for (uint32_t d = 0; d < rows.dim; d += dims, to += dims * pack_dim_bytes_of_k(dtype)) {
        vu words[PKVI_TILE_TOKENS];
        for (uint32_t r = 0; r < PKVI_TILE_TOKENS; r++)
            words[r] = pack_words(from_dtype, dtype, rows, r, d, scales, worst);
        pack_place_k(dtype, words, to, rows.dim - d);
    }
}

PACK_INLINE void pack_tile_of_v(const uint32_t from_dtype, const uint32_t dtype,
                                const struct pack_rows rows, const struct pack_scales* scales,
                                unsigned char* to, vu* worst) {
    const uint32_t count = pack_rows_of_v(dtype);
    const size_t dim_bytes = pack_dim_bytes_of_v(dtype);
    for (uint32_t t = 0; t < PKVI_TILE_TOKENS; t += count, to += rows.dim * dim_bytes)
        for (uint32_t d = 0; d < rows.dim; d += WIDTH * pack_codes(dtype)) {
            vu words[8];
            PACK_UNROLL for (uint32_t r = 0; r < count; r++) words[r] =
                pack_words(from_dtype, dtype, rows, t + r, d, scales, worst);
            pack_place_v(dtype, words, to + d * dim_bytes, rows.dim - d);
        }
}

PACK_INLINE void pack_few(const uint32_t from_dtype, const uint32_t dtype, const bool is_value,
                          const struct pack_rows rows, const struct pack_scales* scales,
                          const struct pack_place* place, vu* worst) {
    unsigned char codes[(PKV_HEAD_DIM_MAX + WIDTH * 4) * 4] __attribute__((aligned(64)));
    for (uint32_t r = 0; r < rows.count; r++) {
        unsigned char* to = codes;
        for (uint32_t d = 0; d < rows.dim; d += WIDTH * pack_codes(dtype), to += sizeof(vu)) {
            const vu words = pack_words(from_dtype, dtype, rows, r, d, scales, worst);
            memcpy(to, &words, sizeof words);
        }
        if (is_value)
            pack_scatter_v(place, place->token + r, codes);
        else
            pack_scatter_k(place, place->token + r, codes);
    }
}

PACK_INLINE bool pack_as(const uint32_t from_dtype, const uint32_t dtype, const bool is_value,
                         const struct pack_rows rows, const struct pack_place* place) {
    struct pack_scales found;
    const struct pack_scales* scales = NULL;
    vu worst = {0};
    if (pkvi_dtype_is_scaled(dtype)) {
        worst = pack_find_scales(from_dtype, dtype, rows, &found);
        pack_place_scales(place, &found, rows.count);
        scales = &found;
    }
    if (rows.count < PKVI_TILE_TOKENS)
        pack_few(from_dtype, dtype, is_value, rows, scales, place, &worst);
    else if (is_value)
        pack_tile_of_v(from_dtype, dtype, rows, scales, pack_tile(place), &worst);
    else
        pack_tile_of_k(from_dtype, dtype, rows, scales, pack_tile(place), &worst);
    return pack_is_finite(from_dtype, dtype, worst);
}

PACK_INLINE bool pack_from(const uint32_t from_dtype, const bool is_value,
                           const struct pack_rows rows, const struct pack_place* place) {
    switch (place->dtype) {
    case PKV_F32:
        return pack_as(from_dtype, PKV_F32, is_value, rows, place);
    case PKV_F16:
        return pack_as(from_dtype, PKV_F16, is_value, rows, place);
    case PKV_BF16:
        return pack_as(from_dtype, PKV_BF16, is_value, rows, place);
    case PKV_I8:
        return pack_as(from_dtype, PKV_I8, is_value, rows, place);
    case PKV_E4M3:
        return pack_as(from_dtype, PKV_E4M3, is_value, rows, place);
    case PKV_E5M2:
        return pack_as(from_dtype, PKV_E5M2, is_value, rows, place);
    default:
        return pack_as(from_dtype, PKV_I4, is_value, rows, place);
    }
}

static bool pack_head(uint32_t from_dtype, bool is_value, const struct pack_rows rows,
                      const struct pack_place* place) {
    switch (from_dtype) {
    case PKV_F32:
        return pack_from(PKV_F32, is_value, rows, place);
    case PKV_F16:
        return pack_from(PKV_F16, is_value, rows, place);
    default:
        return pack_from(PKV_BF16, is_value, rows, place);
    }
}

/* ---- Rows of a job --------------------------------------------------------------------------- */

/* Rows [row, row + count), which lie in one tile. */
static bool pack_side(const struct pkvi_kv_job* job, uint32_t row, uint32_t count, bool is_value) {
    const struct pkvi_layout* layout = job->layout;
    const pkv_group_config* group = &layout->group;
    const pkv_array* array = is_value ? &job->v : &job->k;
    const size_t element = pkvi_dtype_bytes(array->dtype);
    const size_t stride = array->row_stride * element;
    /* What is read next, at the same place: V after K, and the next tile's K after V. */
    const bool is_followed = count == PKVI_TILE_TOKENS && job->tokens - row >= 2 * PKVI_TILE_TOKENS;
    const uint32_t next_row = is_value && is_followed ? row + PKVI_TILE_TOKENS : row;
    const pkv_array* next = is_value ? &job->k : &job->v;
    const size_t next_stride = next->row_stride * pkvi_dtype_bytes(next->dtype);
    struct pack_rows rows = {
        .from = (const unsigned char*)array->data + row * stride,
        .stride = stride,
        .next = (const unsigned char*)next->data + next_row * next_stride,
        .next_stride = next_stride,
        .count = count,
        .dim = is_value ? group->value_dim : group->key_dim,
    };
    struct pack_place place = {
        .group = group,
        .dtype = is_value ? group->v_dtype : group->k_dtype,
        .dim = rows.dim,
        .token = job->slots[row] % group->block_tokens,
    };
    const uint32_t block = job->slots[row] / group->block_tokens;
    bool all_finite = true;
    for (uint32_t head = 0; head < group->kv_heads; head++) {
        place.to = pkvi_packed_head(layout, job->space, job->layer, block, head, is_value);
        place.scales = place.to + (is_value ? layout->v_scale_offset : layout->k_scale_offset);
        all_finite &= pack_head(array->dtype, is_value, rows, &place);
        rows.from += array->head_stride * element;
        rows.next += next->head_stride * pkvi_dtype_bytes(next->dtype);
    }
    return all_finite;
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
