/* chunk.c - see chunk.h. */
#include "device/cpu/chunk.h"

#include <string.h>

/* How many tokens of the tile at `begin` exist, if any row sees one of them. */
static uint32_t tile_tokens(const struct pkvi_walk* walk, uint32_t begin) {
    const pkv_group_config* group = &walk->job->layout->group;
    if (!pkvi_sees_any(group, walk->low, walk->high, begin, begin + PKVI_TILE_TOKENS)) return 0;
    const uint32_t rest = walk->high + 1 - begin;
    return rest < PKVI_TILE_TOKENS ? rest : PKVI_TILE_TOKENS;
}

/* Where tile `t` of the chunk lies, for the item's first KV head. */
static void locate_tile(const struct pkvi_walk* walk, uint32_t begin, int t,
                        struct pkvi_chunk* chunk) {
    const struct pkvi_attend_job* job = walk->job;
    const struct pkvi_layout* layout = job->layout;
    const pkv_group_config* group = &layout->group;
    const uint32_t block = walk->pages[begin / group->block_tokens];
    const size_t token = begin % group->block_tokens;
    const unsigned char* k =
        pkvi_packed_head(layout, job->space, job->layer, block, walk->kv_head, false);
    const unsigned char* v =
        pkvi_packed_head(layout, job->space, job->layer, block, walk->kv_head, true);
    chunk->k[t] = k + token * group->key_dim * pkvi_dtype_bits(group->k_dtype) / 8;
    chunk->v[t] = v + token * group->value_dim * pkvi_dtype_bits(group->v_dtype) / 8;
    chunk->k_scales[t] =
        k + layout->k_scale_offset + token * pkvi_scale_bytes(group->k_dtype, group->key_dim);
    chunk->v_scales[t] =
        v + layout->v_scale_offset + token * pkvi_scale_bytes(group->v_dtype, group->value_dim);
}

/* Let tiles that nobody sees point to one that somebody does. */
static void fill_gaps(const struct pkvi_walk* walk, struct pkvi_chunk* chunk) {
    int seen = 0;
    while (chunk->tokens[seen] == 0)
        seen++;
    for (int t = 0; t < walk->tiles; t++) {
        if (chunk->tokens[t] > 0) continue;
        chunk->k[t] = chunk->k[seen];
        chunk->v[t] = chunk->v[seen];
        chunk->k_scales[t] = chunk->k_scales[seen];
        chunk->v_scales[t] = chunk->v_scales[seen];
    }
}

void pkvi_chunk_locate(const struct pkvi_walk* walk, uint32_t begin, struct pkvi_chunk* chunk) {
    const struct pkvi_layout* layout = walk->job->layout;
    const bool is_staged = layout->group.block_tokens < PKVI_TILE_TOKENS;
    chunk->begin = begin;
    chunk->is_seen = false;
    chunk->k_step = is_staged ? 0 : layout->k_head_bytes;
    chunk->v_step = is_staged ? 0 : layout->v_head_bytes;
    for (int t = 0; t < walk->tiles; t++) {
        const uint32_t tile_begin = begin + (uint32_t)t * PKVI_TILE_TOKENS;
        chunk->tokens[t] = tile_tokens(walk, tile_begin);
        if (chunk->tokens[t] == 0) continue;
        chunk->is_seen = true;
        if (!is_staged) locate_tile(walk, tile_begin, t, chunk);
    }
    if (chunk->is_seen && !is_staged) fill_gaps(walk, chunk);
}

/* ---- Small blocks ---------------------------------------------------------------------------- */

/* Copy `count` runs of `bytes`, which lie together at `from` and `to_step` apart at `to`. */
static inline void copy_runs(unsigned char* to, size_t to_step, const unsigned char* from,
                             size_t count, const size_t bytes) {
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * to_step, from + i * bytes, bytes);
}

/* K of one small block into its columns of a tile. A constant length makes a copy one instruction.
 * */
static void stage_k(unsigned char* to, size_t to_step, const unsigned char* from, size_t count,
                    size_t bytes) {
    switch (bytes) {
    case 2:
        copy_runs(to, to_step, from, count, 2);
        break;
    case 4:
        copy_runs(to, to_step, from, count, 4);
        break;
    case 8:
        copy_runs(to, to_step, from, count, 8);
        break;
    case 16:
        copy_runs(to, to_step, from, count, 16);
        break;
    default:
        copy_runs(to, to_step, from, count, bytes);
    }
}

/* V of a small block is a piece of the tile's V, except that single tokens of bf16 have to be
 * paired. */
static void stage_v(const pkv_group_config* group, unsigned char* tile, uint32_t token,
                    const unsigned char* from) {
    const size_t row_bytes = (size_t)group->value_dim * pkvi_dtype_bytes(group->v_dtype);
    if (pkvi_v_is_paired(group) || group->v_dtype != PKV_BF16) {
        memcpy(tile + token * row_bytes, from, group->block_tokens * row_bytes);
        return;
    }
    unsigned char* pairs = tile + token / 2 * 2 * row_bytes;
    for (size_t d = 0; d < group->value_dim; d++)
        memcpy(pairs + 4 * d + 2 * (token % 2), from + 2 * d, 2);
}

static void stage_block(const struct pkvi_walk* walk, uint32_t head, uint32_t position,
                        unsigned char* k, unsigned char* v) {
    const struct pkvi_attend_job* job = walk->job;
    const pkv_group_config* group = &job->layout->group;
    const uint32_t block = walk->pages[position / group->block_tokens];
    if (block == PKV_NO_BLOCK) return; /* behind the window, in the same tile as a sink */
    const bool is_paired = group->k_dtype == PKV_BF16;
    const size_t unit_bytes = group->k_dtype == PKV_F16 ? 2 : 4;
    const uint32_t token = position % PKVI_TILE_TOKENS;
    stage_k(k + token * unit_bytes, PKVI_TILE_TOKENS * unit_bytes,
            pkvi_packed_head(job->layout, job->space, job->layer, block, head, false),
            is_paired ? group->key_dim / 2 : group->key_dim, group->block_tokens * unit_bytes);
    stage_v(group, v, token,
            pkvi_packed_head(job->layout, job->space, job->layer, block, head, true));
}

void pkvi_chunk_stage(const struct pkvi_walk* walk, uint32_t index, struct pkvi_chunk* chunk) {
    const pkv_group_config* group = &walk->job->layout->group;
    const size_t k_bytes =
        (size_t)PKVI_TILE_TOKENS * group->key_dim * pkvi_dtype_bytes(group->k_dtype);
    const size_t v_bytes =
        (size_t)PKVI_TILE_TOKENS * group->value_dim * pkvi_dtype_bytes(group->v_dtype);
    unsigned char* room = walk->stage;
    for (int t = 0; t < walk->tiles; t++, room += k_bytes + v_bytes) {
        if (chunk->tokens[t] == 0) continue;
        const uint32_t begin = chunk->begin + (uint32_t)t * PKVI_TILE_TOKENS;
        if (group->window > 0)
            memset(room + k_bytes, 0, v_bytes); /* weighs 0 where it has rolled off */
        for (uint32_t token = 0; token < chunk->tokens[t]; token += group->block_tokens)
            stage_block(walk, walk->kv_head + index, begin + token, room, room + k_bytes);
        chunk->k[t] = room;
        chunk->v[t] = room + k_bytes;
        chunk->k_scales[t] = chunk->v_scales[t] = room; /* small blocks have no scales */
    }
    fill_gaps(walk, chunk);
}
