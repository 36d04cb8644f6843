/* copy.c - see copy.h. */
#include "device/copy.h"

#include <string.h>

struct piece {
    uint64_t offset;
    uint64_t bytes;
};

/* Elements and scales of K and V of each head in each layer. */
static uint32_t piece_count(const struct pkvi_copy_job* job) {
    if (job->layout == NULL) return 1;
    return job->layout->group.layers * job->layout->group.kv_heads * 4;
}

static struct piece k_piece(const struct pkvi_copy_job* job, bool is_scale) {
    const struct pkvi_layout* layout = job->layout;
    const pkv_group_config* group = &layout->group;
    const uint64_t bits = (uint64_t)group->key_dim * pkvi_dtype_bits(group->k_dtype);
    if (!is_scale) return (struct piece){0, job->tokens * bits / 8};
    return (struct piece){layout->k_scale_offset,
                          (uint64_t)job->tokens * pkvi_scale_bytes(group->k_dtype, group->key_dim)};
}

static struct piece v_piece(const struct pkvi_copy_job* job, bool is_scale) {
    const struct pkvi_layout* layout = job->layout;
    const pkv_group_config* group = &layout->group;
    const uint64_t bits = (uint64_t)group->value_dim * pkvi_dtype_bits(group->v_dtype);
    if (!is_scale) return (struct piece){layout->v_offset, job->tokens * bits / 8};
    return (struct piece){layout->v_offset + layout->v_scale_offset,
                          (uint64_t)job->tokens *
                              pkvi_scale_bytes(group->v_dtype, group->value_dim)};
}

static struct piece piece_of(const struct pkvi_copy_job* job, uint32_t index) {
    const struct pkvi_layout* layout = job->layout;
    if (layout == NULL) return (struct piece){0, job->bytes};
    const bool is_scale = index % 2 != 0;
    const bool is_v = index / 2 % 2 != 0;
    const uint32_t head = index / 4 % layout->group.kv_heads;
    const uint32_t layer = index / 4 / layout->group.kv_heads;
    struct piece piece = is_v ? v_piece(job, is_scale) : k_piece(job, is_scale);
    piece.offset += layer * layout->layer_bytes;
    piece.offset += head * (is_v ? layout->v_head_bytes : layout->k_head_bytes);
    return piece;
}

struct pkvi_copy_job pkvi_copy_tokens(const struct pkvi_layout* layout, void* to, const void* from,
                                      uint32_t tokens) {
    const uint32_t tiles = (tokens + PKVI_COPY_TILE_TOKENS - 1) / PKVI_COPY_TILE_TOKENS;
    struct pkvi_copy_job job = {.to = to, .from = from, .bytes = layout->block_bytes};
    if (tiles * PKVI_COPY_TILE_TOKENS >= layout->group.block_tokens) return job;
    job.layout = layout;
    job.tokens = tiles * PKVI_COPY_TILE_TOKENS;
    job.bytes = 0;
    for (uint32_t i = 0; i < piece_count(&job); i++)
        job.bytes += piece_of(&job, i).bytes;
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
