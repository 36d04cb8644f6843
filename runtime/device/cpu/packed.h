/* packed.h - the order of elements inside one head's K or V, as the kernels want it.
 *
 *   K   tiles of 16 tokens, each [dim][16 tokens]: one vector is one dim of 16 tokens, so that
 *       scores of 16 tokens grow in the lanes of one register and nothing is summed across lanes
 *   V   [token][dim]: one vector is 16 dims of a token, so that the output grows in registers
 *
 *   bf16 is stored in pairs: K [dim/2][16 tokens][2], V [token/2][dim][2]. A pair widens to two f32
 *   vectors by a shift and a mask, and is what dot-product instructions take.
 *
 * A block of fewer than 16 tokens holds a tile of as many tokens as it has; attention gathers 16 of
 * them before it computes. A block of one token cannot pair V. */
#ifndef PKVI_DEVICE_CPU_PACKED_H
#define PKVI_DEVICE_CPU_PACKED_H

#include "device/device.h"

enum { PKVI_TILE_TOKENS = 16 };

static inline uint32_t pkvi_tile_tokens(uint32_t block_tokens) {
    return block_tokens < PKVI_TILE_TOKENS ? block_tokens : PKVI_TILE_TOKENS;
}

/* Index of element `d` of `token` (in its block) inside one head's K. */
static inline uint64_t pkvi_packed_k(const pkv_group_config* group, uint32_t token, uint32_t d) {
    const uint32_t tile = pkvi_tile_tokens(group->block_tokens);
    const uint64_t first = (uint64_t)(token / tile) * group->key_dim * tile;
    const uint32_t lane = token % tile;
    if (group->k_dtype == PKV_BF16) return first + (d / 2) * 2 * tile + lane * 2 + d % 2;
    return first + d * tile + lane;
}

static inline bool pkvi_v_is_paired(const pkv_group_config* group) {
    return group->v_dtype == PKV_BF16 && group->block_tokens > 1;
}

/* Index of element `d` of `token` inside one head's V. */
static inline uint64_t pkvi_packed_v(const pkv_group_config* group, uint32_t token, uint32_t d) {
    if (pkvi_v_is_paired(group))
        return (uint64_t)(token / 2) * 2 * group->value_dim + d * 2 + token % 2;
    return (uint64_t)token * group->value_dim + d;
}

/* One head's K or V in a block. */
static inline unsigned char* pkvi_packed_head(const struct pkvi_layout* layout,
                                              const struct pkvi_space* space, uint32_t layer,
                                              uint32_t block, uint32_t head, bool is_value) {
    unsigned char* slab = pkvi_space_block(space, block) + layer * layout->layer_bytes;
    return is_value ? slab + layout->v_offset + head * layout->v_head_bytes
                    : slab + head * layout->k_head_bytes;
}

/* Store rows in packed order, and read them back. Errors of write: PKV_ENONFINITE. */
int pkvi_packed_write(const struct pkvi_kv_job* job);
void pkvi_packed_read(const struct pkvi_kv_job* job);

#endif
