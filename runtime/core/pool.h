/* pool.h - the blocks of one group: who may have one, who holds one, whose bytes are in one.
 *
 * Blocks live in extents borrowed from the arena, any of them, so that there are as many numbers of
 * blocks as would fit all of it; how many a pool may use at once is its limit. A block number says
 * where its bytes are:
 *
 *   block = extent * blocks_per_extent + index in the extent        (pkvi_space_block)
 *
 *   extent   [ used | free | used | never used ... ]
 *                     |               ^
 *                     +-> free list   fresh: blocks from here on were never taken since the extent
 *                                     came
 *
 * Extents with room are open: a set whose policy says which serves next (extents.h). It serves
 * until it is full, so that others can become empty and go back.
 *
 * Holds   P1  refs of block b == page table leaf entries + prefix index nodes that name b
 *         P2  b can be taken  <=>  it has no references
 *         P3  used_count == blocks with references, at most the limit; open_free == blocks without,
 *             in the extents that the pool holds, which are held_count
 *         P4  an extent is held  <=>  at least one of its blocks is referenced; open  <=>  it has
 *             room besides
 *         P5  bytes in b were written by its owner only, or are zero, or are mixed: `written`
 *             says which. Those of another pool are mixed
 *         P6  in a shared arena, idle == the blocks of an extent that are only cached, and an extent
 *             is spare  <=>  it is held and all of its blocks in use are
 * Not     A bitmap per extent was considered: it makes finding the lowest free block cheap, but
 *         every take then costs a search where a list costs two loads. Policies that need the order
 *         can sort.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_POOL_H
#define PKVI_CORE_POOL_H

#include "core/arena.h"
#include "core/policy/policy.h"
#include "core/quota.h"
#include <assert.h>

/* What `written` says of a block's bytes. Mixed ones are foreign to everybody. */
enum pkvi_bytes { PKVI_BYTES_ZERO, PKVI_BYTES_OWNED, PKVI_BYTES_MIXED };

struct pkvi_block {
    uint64_t owner;       /* tenant whose bytes are in it */
    uint32_t refs : 30;   /* of page tables and of the prefix index */
    uint32_t written : 2; /* enum pkvi_bytes */
    union {
        uint32_t account; /* of a taken one: on which it is counted (quota.h) */
        uint32_t next;    /* of a free one: the next of its extent */
    };
};

struct pkvi_extent {
    uint32_t used;      /* blocks with references */
    uint32_t idle;      /* of those, blocks that are only cached; counted in a shared arena */
    uint32_t fresh;     /* first block never taken since the extent was borrowed */
    uint32_t free_head; /* freed blocks, linked through `next` */
};

struct pkvi_pool {
    struct pkv_arena* arena;
    struct pkvi_device* device;
    struct pkvi_faults* faults;
    struct pkvi_quotas* quotas;
    struct pkvi_space space;
    uint32_t number;       /* by which the arena knows it */
    uint32_t block_count;  /* numbers of blocks: those of all extents */
    uint32_t limit;        /* blocks that may be in use at once */
    uint32_t block_tokens; /* 1 << block_shift: positions are cut up with every token */
    uint32_t block_shift;
    uint32_t used_count; /* blocks with references */
    uint32_t held_count; /* extents */
    uint32_t open_free;  /* blocks that open extents can give without asking the arena */
    struct pkvi_extents open;
    struct pkvi_extents spare; /* in a shared arena: what others may claim, oldest first */
    struct pkvi_extent* extents;
    struct pkvi_block* blocks; /* [block_count] */
    uint32_t* tokens;          /* [block_count][block_tokens] ids of the tokens in the block */
};

/* What a pool is opened with. */
struct pkvi_pool_config {
    const struct pkvi_layout* layout;
    struct pkvi_quotas* quotas;
    uint32_t limit;
    uint32_t block_count;
    uint32_t blocks_per_extent;
    enum pkv_allocator policy;
};

/* Bytes of the extents that a pool holds: in use; free blocks; ends too short for a block. */
struct pkvi_usage {
    uint64_t used;
    uint64_t loose;
    uint64_t lost;
};

int pkvi_pool_open(struct pkvi_pool* pool, struct pkv_arena* arena, struct pkvi_device* device,
                   struct pkvi_mem* mem, struct pkvi_faults* faults,
                   const struct pkvi_pool_config* config);
void pkvi_pool_close(struct pkvi_pool* pool, struct pkvi_mem* mem);

/* Give every extent back, whatever is in it: the cache ends, and nobody looks at its books again. */
void pkvi_pool_abandon(struct pkvi_pool* pool);

/* Blocks that can be taken now. In a shared arena others may be faster. */
static inline uint32_t pkvi_pool_free_count(const struct pkvi_pool* pool) {
    const uint64_t room =
        pool->open_free + (uint64_t)pool->arena->free.count * pool->space.blocks_per_extent;
    const uint32_t left = pool->limit - pool->used_count;
    return room < left ? (uint32_t)room : left;
}

/* Ask whether `count` blocks, which are free once `evicted` cached ones have been, may be taken:
 * nothing changes.
 * Errors  what the fault points pool.take and arena.take say. */
int pkvi_pool_admit(struct pkvi_pool* pool, uint32_t count, uint32_t evicted);

/* Take `count` blocks for `account`, each with one reference. pre: so many are free, and they have
 * been counted there. Cannot fail. */
void pkvi_pool_take(struct pkvi_pool* pool, uint32_t account, uint32_t count, uint32_t* blocks);

/* Take a block of `extent`, which the pool holds and which has room; it has been counted. */
uint32_t pkvi_pool_take_in(struct pkvi_pool* pool, uint32_t extent, uint32_t account);

/* The bytes of `from` are in `to` now, which was just taken: so are its references and all that is
 * known of it, and `from` is free. */
void pkvi_pool_move(struct pkvi_pool* pool, uint32_t from, uint32_t to);

/* A block has no references any more. */
void pkvi_pool_free(struct pkvi_pool* pool, uint32_t block);

/* Add or drop a reference; dropping returns how many are left, and frees the block at 0. */
static inline void pkvi_pool_ref(struct pkvi_pool* pool, uint32_t block) {
    assert(pool->blocks[block].refs > 0);
    pool->blocks[block].refs++;
}

static inline uint32_t pkvi_pool_unref(struct pkvi_pool* pool, uint32_t block) {
    assert(pool->blocks[block].refs > 0);
    const uint32_t left = --pool->blocks[block].refs;
    if (left == 0) pkvi_pool_free(pool, block);
    return left;
}

/* A block of a shared arena has become only cached, or is not any more. */
void pkvi_pool_count_idle(struct pkvi_pool* pool, uint32_t block, bool is_idle);

static inline void pkvi_pool_note_idle(struct pkvi_pool* pool, uint32_t block, bool is_idle) {
    if (pool->arena->is_shared) pkvi_pool_count_idle(pool, block, is_idle);
}

struct pkvi_usage pkvi_pool_usage(const struct pkvi_pool* pool);

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
