/* pool.h - the blocks of one group: who may have one, who holds one, whose bytes are in one.
 *
 * Blocks live in extents borrowed from the arena. A block number says where its bytes are:
 *
 *   block = extent * blocks_per_extent + index in the extent        (pkvi_space_block)
 *
 *   extent   [ used | free | used | never used ... ]
 *                     |               ^
 *                     +-> free list   fresh: blocks from here on were never taken since the extent
 *                                     came
 *
 * An extent with room is on the list of open extents; takes are served from its front, so one
 * extent fills up before the next is begun and others can become empty and go back.
 *
 * Holds   P1  refs[b] == page table leaf entries + prefix index nodes that name b
 *         P2  b can be taken  <=>  refs[b] == 0
 *         P3  free_count == blocks that can be taken, in held extents and in those the arena could
 *             give
 *         P4  an extent is held  <=>  at least one of its blocks is referenced
 *         P5  bytes in b were written by owner[b] only, or are zero, or are mixed: written[b] says
 *             which
 * Not     A bitmap per extent was considered: it makes finding the lowest free block cheap, but
 *         every take then costs a search where a list costs two loads. Policies that need the order
 *         can sort.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_POOL_H
#define PKVI_CORE_POOL_H

#include "core/arena.h"
#include "core/policy/policy.h"
#include "core/quota.h"

/* What written[] says of a block's bytes. Mixed ones are foreign to everybody. */
enum pkvi_bytes { PKVI_BYTES_ZERO, PKVI_BYTES_OWNED, PKVI_BYTES_MIXED };

struct pkvi_extent {
    uint32_t used;          /* blocks with references */
    uint32_t fresh;         /* first block never taken since the extent was borrowed */
    uint32_t free_head;     /* freed blocks, linked through next[] */
    uint32_t open_previous; /* neighbours on the list of open extents */
    uint32_t open_next;
};

struct pkvi_pool {
    struct pkvi_arena* arena;
    struct pkvi_faults* faults;
    struct pkvi_quotas* quotas;
    struct pkvi_space space;
    uint32_t block_count;
    uint32_t block_tokens; /* 1 << block_shift: positions are cut up with every token */
    uint32_t block_shift;
    uint32_t free_count;
    uint32_t open_free; /* blocks that open extents can give without asking the arena */
    uint32_t open_head; /* first open extent, or PKVI_NONE */
    struct pkvi_extent* extents;
    uint32_t* refs;    /* [block_count] */
    uint32_t* next;    /* [block_count] free list inside the extent */
    uint64_t* owner;   /* [block_count] tenant whose bytes are in the block */
    uint16_t* account; /* [block_count] on which a taken block is counted (quota.h) */
    uint8_t* written;  /* [block_count] enum pkvi_bytes */
    uint32_t* tokens;  /* [block_count][block_tokens] ids of the tokens in the block */
};

int pkvi_pool_open(struct pkvi_pool* pool, struct pkvi_arena* arena, struct pkvi_mem* mem,
                   struct pkvi_faults* faults, struct pkvi_quotas* quotas,
                   const struct pkvi_layout* layout, uint32_t block_count,
                   uint32_t blocks_per_extent);
void pkvi_pool_close(struct pkvi_pool* pool, struct pkvi_mem* mem);

/* Ask whether `count` blocks may be taken once `evicted` cached ones have been freed: nothing
 * changes.
 * Errors  PKV_ENOBLOCKS, or what the fault points pool.take and arena.take say. */
int pkvi_pool_admit(struct pkvi_pool* pool, uint32_t count, uint32_t evicted);

/* Take `count` blocks for `account`, each with one reference. pre: count <= free_count, and they
 * have been counted there. Cannot fail. */
void pkvi_pool_take(struct pkvi_pool* pool, uint32_t account, uint32_t count, uint32_t* blocks);

/* Add or drop a reference; dropping returns how many are left, and frees the block at 0. */
void pkvi_pool_ref(struct pkvi_pool* pool, uint32_t block);
uint32_t pkvi_pool_unref(struct pkvi_pool* pool, uint32_t block);

/* Does `block` hold bytes of another tenant than `tenant`, or may it? */
bool pkvi_pool_is_foreign(const struct pkvi_pool* pool, uint32_t block, uint64_t tenant);

/* Blocks of `extent`; the last extent may be cut short by block_count. */
uint32_t pkvi_pool_extent_capacity(const struct pkvi_pool* pool, uint32_t extent);

/* The page and the place in it of a token position, and the pages that `tokens` tokens take. */
static inline uint32_t pkvi_pool_page(const struct pkvi_pool* pool, uint32_t position) {
    return position >> pool->block_shift;
}

static inline uint32_t pkvi_pool_offset(const struct pkvi_pool* pool, uint32_t position) {
    return position & (pool->block_tokens - 1);
}

static inline uint32_t pkvi_pool_pages(const struct pkvi_pool* pool, uint32_t tokens) {
    return pkvi_pool_page(pool, tokens) + (pkvi_pool_offset(pool, tokens) != 0);
}

/* How many of `count` positions from `position` on lie in the page of the first? */
static inline uint32_t pkvi_pool_piece(const struct pkvi_pool* pool, uint32_t position,
                                       uint32_t count) {
    const uint32_t room = pool->block_tokens - pkvi_pool_offset(pool, position);
    return count < room ? count : room;
}

static inline uint32_t* pkvi_pool_tokens(const struct pkvi_pool* pool, uint32_t block) {
    return pool->tokens + (size_t)block * pool->block_tokens;
}

#endif
