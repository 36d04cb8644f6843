/* chunk.h - where the K and V of a stretch of positions lie, as the kernels walk along a sequence.
 *
 *   chunk   up to PKVI_CHUNK_TOKENS positions: one update of the softmax
 *   tile    16 of them: one run of K and one of V in the packed order (packed.h)
 *
 * A tile lies in one block when blocks have 16 tokens or more; it is then used where it is. Tiles
 * of smaller blocks are put together in scratch memory, head by head, in the same order and type.
 *
 * Looking a block up costs divisions, so it is done once for all KV heads: `k` and `v` of a tile
 * point to the item's first KV head, and the others follow at fixed steps. */
#ifndef PKVI_DEVICE_CPU_CHUNK_H
#define PKVI_DEVICE_CPU_CHUNK_H

#include "base/limits.h"
#include "device/cpu/packed.h"

enum {
    PKVI_CHUNK_TOKENS = PKVI_SPLIT_TOKENS < 128 ? PKVI_SPLIT_TOKENS : 128,
    PKVI_CHUNK_TILES = PKVI_CHUNK_TOKENS / PKVI_TILE_TOKENS,
};

/* The rows of query that a walk serves see positions up to `high`, and behind `low` only sinks. */
struct pkvi_walk {
    const struct pkvi_attend_job* job;
    const uint32_t* pages; /* the entry's row of the block table */
    uint32_t low;          /* position of the first query row */
    uint32_t high;         /* and of the last */
    uint32_t kv_head;      /* first of the item */
    unsigned char* stage;  /* [PKVI_CHUNK_TILES] K and V of a tile; for small blocks */
    int tiles;             /* of a chunk */
};

struct pkvi_chunk {
    uint32_t begin; /* position of its first token */
    bool is_seen;   /* by any row; otherwise the pointers mean nothing */
    const unsigned char*
        k[PKVI_CHUNK_TILES]; /* tiles that no row sees point to one that is there: */
    const unsigned char*
        v[PKVI_CHUNK_TILES]; /* they may be read, but what is read does not count */
    const unsigned char* k_scales[PKVI_CHUNK_TILES]; /* likewise; of scaled types */
    const unsigned char* v_scales[PKVI_CHUNK_TILES];
    uint32_t tokens[PKVI_CHUNK_TILES]; /* that exist and may be read; 0: nobody sees the tile */
    size_t k_step;                     /* bytes from one KV head to the next */
    size_t v_step;
};

/* Tiles of a chunk: half of the most there can be for f32 with several query heads for each KV head,
 * where decode is a tenth faster so; a tenth slower with one. Nothing but the model decides. */
static inline int pkvi_chunk_tiles(const pkv_group_config* group, uint32_t query_heads) {
    const bool is_wide = group->k_dtype == PKV_F32 || group->v_dtype == PKV_F32;
    const bool is_shared = query_heads > group->kv_heads;
    return is_wide && is_shared && PKVI_CHUNK_TILES > 1 ? PKVI_CHUNK_TILES / 2 : PKVI_CHUNK_TILES;
}

/* Can any row at a position in [low, high] see any of [begin, end)? */
static inline bool pkvi_sees_any(const pkv_group_config* group, uint32_t low, uint32_t high,
                                 uint32_t begin, uint32_t end) {
    if (begin > high) return false;
    if (group->window == 0) return true;
    return begin < group->sinks || end - 1 + group->window > low;
}

/* Can every row at a position in [low, high] see all of [begin, end)? */
static inline bool pkvi_sees_all(const pkv_group_config* group, uint32_t low, uint32_t high,
                                 uint32_t begin, uint32_t end) {
    if (end > low + 1) return false;
    return group->window == 0 || end <= group->sinks || high - begin < group->window;
}

/* Bytes of stage memory that a geometry needs: 0 when its blocks are used where they are. */
static inline uint64_t pkvi_stage_bytes(const pkv_group_config* group) {
    if (group->block_tokens >= PKVI_TILE_TOKENS) return 0;
    return (uint64_t)PKVI_CHUNK_TOKENS * (group->key_dim * pkvi_dtype_bytes(group->k_dtype) +
                                          group->value_dim * pkvi_dtype_bytes(group->v_dtype));
}

/* Find the chunk that begins at position `begin`. For small blocks its pointers are set by
 * pkvi_chunk_stage, which gathers the tiles of KV head `index` of the item. */
void pkvi_chunk_locate(const struct pkvi_walk* walk, uint32_t begin, struct pkvi_chunk* chunk);
void pkvi_chunk_stage(const struct pkvi_walk* walk, uint32_t index, struct pkvi_chunk* chunk);

#endif
