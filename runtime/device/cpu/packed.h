/* packed.h - the order of elements inside one head's K or V, as the kernels want it.
 *
 *   K   tiles of 16 tokens, each [dim][16 tokens]: one vector is one dim of 16 tokens, so that
 *       scores of 16 tokens grow in the lanes of one register and nothing is summed across lanes
 *   V   [token][dim]: one vector is 16 dims of a token, so that the output grows in registers
 *
 *   bf16, i8, e4m3 and e5m2 are stored in pairs: K [dim/2][16 tokens][2], V [token/2][dim][2]. A
 *   pair widens to two f32 vectors by a shift and a mask, and is what dot-product instructions take
 *
 *   i4 is stored in words of 8 codes: K [dim/8][16 tokens], V [token/8][dim]. Code 2p of a word is
 *   at bits 4p, code 2p + 1 at bits 16 + 4p, so that (word >> 4p) & 0x000f000f is pair p
 *
 * Behind the elements of all tokens come the scales of the scaled types: f32 [token], or for i4,
 * tile by tile, [group of 32 dims] of 16 f16 scales and then 16 f16 minima of the tile's tokens.
 *
 * A block of fewer than 16 tokens holds a tile of as many tokens as it has; attention gathers 16 of
 * them before it computes. A block of one token cannot pair V. Scaled types have whole tiles. */
#ifndef PKVI_DEVICE_CPU_PACKED_H
#define PKVI_DEVICE_CPU_PACKED_H

#include "device/device.h"

enum { PKVI_TILE_TOKENS = 16 };

static inline uint32_t pkvi_tile_tokens(uint32_t block_tokens) {
    return block_tokens < PKVI_TILE_TOKENS ? block_tokens : PKVI_TILE_TOKENS;
}

static inline bool pkvi_dtype_is_paired(uint32_t dtype) {
    return dtype >= PKV_BF16 && dtype != PKV_I4;
}

/* Index of element `d` of `token` (in its block) inside one head's K; not of i4. */
static inline uint64_t pkvi_packed_k(const pkv_group_config* group, uint32_t token, uint32_t d) {
    const uint32_t tile = pkvi_tile_tokens(group->block_tokens);
    const uint64_t first = (uint64_t)(token / tile) * group->key_dim * tile;
    const uint32_t lane = token % tile;
    if (pkvi_dtype_is_paired(group->k_dtype)) return first + (d / 2) * 2 * tile + lane * 2 + d % 2;
    return first + d * tile + lane;
}

static inline bool pkvi_v_is_paired(const pkv_group_config* group) {
    return pkvi_dtype_is_paired(group->v_dtype) && group->block_tokens > 1;
}

/* Index of element `d` of `token` inside one head's V; not of i4. */
static inline uint64_t pkvi_packed_v(const pkv_group_config* group, uint32_t token, uint32_t d) {
    if (pkvi_v_is_paired(group))
        return (uint64_t)(token / 2) * 2 * group->value_dim + d * 2 + token % 2;
    return (uint64_t)token * group->value_dim + d;
}

/* The word of i4 that holds element `d` of `token`, and the bits below it there. */
static inline uint64_t pkvi_packed_k_word(const pkv_group_config* group, uint32_t token,
                                          uint32_t d) {
    const uint32_t tile = token / PKVI_TILE_TOKENS;
    return ((uint64_t)tile * (group->key_dim / 8) + d / 8) * PKVI_TILE_TOKENS +
           token % PKVI_TILE_TOKENS;
}

static inline uint64_t pkvi_packed_v_word(const pkv_group_config* group, uint32_t token,
                                          uint32_t d) {
    return (uint64_t)(token / 8) * group->value_dim + d;
}

static inline uint32_t pkvi_word_shift(uint32_t index) {
    return index % 8 / 2 * 4 + index % 2 * 16;
}

/* Index of the f16 scale of `group` of `token` among the scales of one head of i4; its minimum
 * stands PKVI_TILE_TOKENS behind. */
static inline uint64_t pkvi_packed_scale(uint32_t dim, uint32_t token, uint32_t group) {
    const uint32_t tile = token / PKVI_TILE_TOKENS;
    return ((uint64_t)tile * pkvi_scale_groups(dim) + group) * 2 * PKVI_TILE_TOKENS +
           token % PKVI_TILE_TOKENS;
}

/* One head's K or V in a block. */
static inline unsigned char* pkvi_packed_head(const struct pkvi_layout* layout,
                                              const struct pkvi_space* space, uint32_t layer,
                                              uint32_t block, uint32_t head, bool is_value) {
    return pkvi_space_block(space, block) + pkvi_layout_head(layout, layer, head, is_value);
}

struct pkvi_kernels;
struct pkvi_threads;

/* Store rows in packed order, and read them back. Errors of write: PKV_ENONFINITE. */
int pkvi_packed_write(const struct pkvi_kv_job* job, const struct pkvi_kernels* kernels,
                      struct pkvi_threads* threads, uint32_t thread_count);
void pkvi_packed_read(const struct pkvi_kv_job* job);

/* Move tokens as they are stored. */
void pkvi_packed_move(const struct pkvi_move_job* job);

#endif
