/* pool.c - see pool.h for the picture and the invariants.
 *
 * Reading order: take and free are at the end and are the point of the file; what stands before
 * them keeps the extents' free lists and the list of open extents. */
#include "core/pool.h"

#include <assert.h>

uint32_t pkvi_pool_extent_capacity(const struct pkvi_pool* pool, uint32_t extent) {
    uint32_t first = extent * pool->space.blocks_per_extent;
    uint32_t rest = pool->block_count - first;
    return rest < pool->space.blocks_per_extent ? rest : pool->space.blocks_per_extent;
}

static void open_link(struct pkvi_pool* pool, uint32_t extent) {
    struct pkvi_extent* e = &pool->extents[extent];
    e->open_previous = PKVI_NONE;
    e->open_next = pool->open_head;
    if (pool->open_head != PKVI_NONE) pool->extents[pool->open_head].open_previous = extent;
    pool->open_head = extent;
}

static void open_unlink(struct pkvi_pool* pool, uint32_t extent) {
    struct pkvi_extent* e = &pool->extents[extent];
    if (e->open_previous == PKVI_NONE)
        pool->open_head = e->open_next;
    else
        pool->extents[e->open_previous].open_next = e->open_next;
    if (e->open_next != PKVI_NONE) pool->extents[e->open_next].open_previous = e->open_previous;
}

static void borrow_extent(struct pkvi_pool* pool) {
    uint32_t extent = pkvi_arena_take(pool->arena);
    pool->extents[extent] = (struct pkvi_extent){.free_head = PKVI_NONE};
    pool->open_free += pkvi_pool_extent_capacity(pool, extent);
    open_link(pool, extent);
}

static void return_extent(struct pkvi_pool* pool, uint32_t extent) {
    open_unlink(pool, extent);
    pool->open_free -= pkvi_pool_extent_capacity(pool, extent);
    pkvi_arena_give(pool->arena, extent);
}

int pkvi_pool_open(struct pkvi_pool* pool, struct pkvi_arena* arena, struct pkvi_mem* mem,
                   struct pkvi_faults* faults, struct pkvi_quotas* quotas,
                   const struct pkvi_layout* layout, uint32_t block_count,
                   uint32_t blocks_per_extent) {
    *pool = (struct pkvi_pool){
        .arena = arena,
        .faults = faults,
        .quotas = quotas,
        .space = {arena->base, arena->extent_bytes, layout->block_bytes, blocks_per_extent},
        .block_count = block_count,
        .block_tokens = layout->group.block_tokens,
        .block_shift = (uint32_t)__builtin_ctz(layout->group.block_tokens),
        .free_count = block_count,
        .open_head = PKVI_NONE,
    };
    const uint64_t token_bytes = (uint64_t)pool->block_tokens * sizeof *pool->tokens;
    PKVI_TRY(
        pkvi_mem_take(mem, arena->extent_count, sizeof *pool->extents, (void**)&pool->extents));
    PKVI_TRY(pkvi_mem_take(mem, block_count, sizeof *pool->refs, (void**)&pool->refs));
    PKVI_TRY(pkvi_mem_take(mem, block_count, sizeof *pool->next, (void**)&pool->next));
    PKVI_TRY(pkvi_mem_take(mem, block_count, sizeof *pool->owner, (void**)&pool->owner));
    PKVI_TRY(pkvi_mem_take(mem, block_count, sizeof *pool->account, (void**)&pool->account));
    PKVI_TRY(pkvi_mem_take(mem, block_count, sizeof *pool->written, (void**)&pool->written));
    return pkvi_mem_take(mem, block_count, token_bytes, (void**)&pool->tokens);
}

void pkvi_pool_close(struct pkvi_pool* pool, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, pool->tokens);
    pkvi_mem_give(mem, pool->written);
    pkvi_mem_give(mem, pool->account);
    pkvi_mem_give(mem, pool->owner);
    pkvi_mem_give(mem, pool->next);
    pkvi_mem_give(mem, pool->refs);
    pkvi_mem_give(mem, pool->extents);
}

int pkvi_pool_admit(struct pkvi_pool* pool, uint32_t count, uint32_t evicted) {
    PKVI_TRY(pkvi_fault_check(pool->faults, PKVI_FAULT_POOL_TAKE));
    if (count > pool->free_count + evicted) return PKV_ENOBLOCKS;
    if (count <= pool->open_free + evicted) return PKV_OK;
    return pkvi_fault_check(pool->faults, PKVI_FAULT_ARENA_TAKE);
}

static uint32_t take_one(struct pkvi_pool* pool, uint32_t account) {
    if (pool->open_head == PKVI_NONE) borrow_extent(pool);
    const uint32_t extent = pool->open_head;
    struct pkvi_extent* e = &pool->extents[extent];
    uint32_t block = e->free_head;
    if (block != PKVI_NONE)
        e->free_head = pool->next[block];
    else
        block = extent * pool->space.blocks_per_extent + e->fresh++;
    assert(pool->refs[block] == 0);
    pool->refs[block] = 1;
    pool->account[block] = (uint16_t)account;
    e->used++;
    pool->open_free--;
    pool->free_count--;
    if (e->used == pkvi_pool_extent_capacity(pool, extent)) open_unlink(pool, extent);
    return block;
}

void pkvi_pool_take(struct pkvi_pool* pool, uint32_t account, uint32_t count, uint32_t* blocks) {
    assert(count <= pool->free_count);
    for (uint32_t i = 0; i < count; i++)
        blocks[i] = take_one(pool, account);
}

static void free_one(struct pkvi_pool* pool, uint32_t block) {
    const uint32_t extent = block / pool->space.blocks_per_extent;
    struct pkvi_extent* e = &pool->extents[extent];
    assert(e->used > 0);
    if (e->used == pkvi_pool_extent_capacity(pool, extent)) open_link(pool, extent);
    pool->next[block] = e->free_head;
    e->free_head = block;
    e->used--;
    pool->open_free++;
    pool->free_count++;
    if (e->used == 0) return_extent(pool, extent);
    pkvi_quotas_drop(pool->quotas, pool->account[block]);
}

void pkvi_pool_ref(struct pkvi_pool* pool, uint32_t block) {
    assert(pool->refs[block] > 0);
    pool->refs[block]++;
}

uint32_t pkvi_pool_unref(struct pkvi_pool* pool, uint32_t block) {
    assert(pool->refs[block] > 0);
    const uint32_t left = --pool->refs[block];
    if (left == 0) free_one(pool, block);
    return left;
}

bool pkvi_pool_is_foreign(const struct pkvi_pool* pool, uint32_t block, uint64_t tenant) {
    if (pool->written[block] == PKVI_BYTES_MIXED) return true;
    return pool->written[block] == PKVI_BYTES_OWNED && pool->owner[block] != tenant;
}
