/* copy.c - see copy.h. */
#include "device/copy.h"

#include <string.h>

struct piece {
    uint64_t offset;
    uint64_t bytes;
};

/* Elements and scales of K and V of each head, in each layer. */
enum { PIECES_OF_HEAD = 4 };

static uint32_t piece_count(const struct pkvi_copy_job* job) {
    if (job->layout == NULL) return 1;
    return job->layout->group.layers * job->layout->group.kv_heads * PIECES_OF_HEAD;
}

static struct piece piece_of(const struct pkvi_copy_job* job, uint32_t index) {
    const struct pkvi_layout* layout = job->layout;
    if (layout == NULL) return (struct piece){0, job->bytes};
    const pkv_group_config* group = &layout->group;
    const bool is_scale = index % 2 != 0;
    const bool is_value = index / 2 % 2 != 0;
    const uint32_t head = index / PIECES_OF_HEAD % group->kv_heads;
    const uint32_t layer = index / PIECES_OF_HEAD / group->kv_heads;
    const uint32_t dtype = is_value ? group->v_dtype : group->k_dtype;
    const uint32_t dim = is_value ? group->value_dim : group->key_dim;
    const uint64_t place = pkvi_layout_head(layout, layer, head, is_value);
    const uint64_t scales = is_value ? layout->v_scale_offset : layout->k_scale_offset;
    const uint64_t tokens = job->tokens;
    if (is_scale) return (struct piece){place + scales, tokens * pkvi_scale_bytes(dtype, dim)};
    return (struct piece){place, tokens * dim * pkvi_dtype_bits(dtype) / 8};
}

struct pkvi_copy_job pkvi_copy_tokens(const struct pkvi_layout* layout, void* to, const void* from,
                                      uint32_t tokens) {
    const uint32_t tiles = (tokens + PKVI_COPY_TILE_TOKENS - 1) / PKVI_COPY_TILE_TOKENS;
    struct pkvi_copy_job job = {.to = to, .from = from, .bytes = layout->block_bytes};
    if (tiles * PKVI_COPY_TILE_TOKENS >= layout->group.block_tokens) return job;
    job.layout = layout;
    job.tokens = tiles * PKVI_COPY_TILE_TOKENS;
    job.bytes = 0;
    for (uint32_t i = 0; i < PIECES_OF_HEAD; i++) /* every head has the same */
        job.bytes += piece_of(&job, i).bytes * (piece_count(&job) / PIECES_OF_HEAD);
    return job;
}

void pkvi_copy_run(const struct pkvi_copy_job* job) {
    for (uint32_t i = 0; i < piece_count(job); i++) {
        const struct piece piece = piece_of(job, i);
        memcpy((unsigned char*)job->to + piece.offset,
               (const unsigned char*)job->from + piece.offset, piece.bytes);
    }
}

void pkvi_copy_fill(const struct pkvi_copy_job* job, unsigned char value) {
    for (uint32_t i = 0; i < piece_count(job); i++) {
        const struct piece piece = piece_of(job, i);
        memset((unsigned char*)job->to + piece.offset, value, piece.bytes);
    }
}

unsigned char* pkvi_copy_at(const struct pkvi_copy_job* job, uint64_t index) {
    struct piece piece = piece_of(job, 0);
    for (uint32_t i = 1; index >= piece.bytes; i++) {
        index -= piece.bytes;
        piece = piece_of(job, i);
    }
    return (unsigned char*)job->to + piece.offset + index;
}
