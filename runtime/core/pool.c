/* pool.c - see pool.h for the picture and the invariants.
 *
 * Reading order: take and free are at the end and are the point of the file; what stands before
 * them moves extents between arena and pool. */
#include "core/pool.h"

#include <string.h>

uint32_t pkvi_pool_extent_capacity(const struct pkvi_pool* pool, uint32_t extent) {
    uint32_t first = extent * pool->space.blocks_per_extent;
    uint32_t rest = pool->block_count - first;
    return rest < pool->space.blocks_per_extent ? rest : pool->space.blocks_per_extent;
}

/* ---- Extents --------------------------------------------------------------------------------- */

static uint32_t extent_of(const struct pkvi_pool* pool, uint32_t block) {
    return block / pool->space.blocks_per_extent;
}

/* In an arena of its own a pool meets nobody's bytes but its own. */
static void learn_bytes(struct pkvi_pool* pool, uint32_t extent, uint32_t writer) {
    if (writer == pool->number) return;
    const enum pkvi_bytes bytes = writer == 0 ? PKVI_BYTES_ZERO : PKVI_BYTES_MIXED;
    struct pkvi_block* const first = &pool->blocks[extent * pool->space.blocks_per_extent];
    struct pkvi_block* const end = first + pkvi_pool_extent_capacity(pool, extent);
    for (struct pkvi_block* block = first; block < end; block++)
        block->written = bytes;
}

static uint32_t borrow_extent(struct pkvi_pool* pool) {
    uint32_t writer;
    const uint32_t extent = pkvi_arena_take(pool->arena, pool->number, &writer);
    learn_bytes(pool, extent, writer);
    pool->extents[extent] = (struct pkvi_extent){.free_head = PKVI_NONE};
    pool->held_count++;
    pool->open_free += pkvi_pool_extent_capacity(pool, extent);
    pkvi_extents_add(&pool->open, extent, 0);
    return extent;
}

/* Another device may have the memory next: this one has to be through with it. */
static void give_extent(struct pkvi_pool* pool, uint32_t extent) {
    if (pool->arena->is_shared && pool->device->ops->settle != NULL)
        pool->device->ops->settle(pool->device);
    pool->held_count--;
    pkvi_arena_give(pool->arena, extent);
}

static void return_extent(struct pkvi_pool* pool, uint32_t extent) {
    pkvi_extents_remove(&pool->open, extent);
    pool->open_free -= pkvi_pool_extent_capacity(pool, extent);
    give_extent(pool, extent);
}

/* Keep the set of spare extents right after a change of used or idle. */
static void update_spare(struct pkvi_pool* pool, uint32_t extent) {
    if (!pool->arena->is_shared) return;
    const struct pkvi_extent* e = &pool->extents[extent];
    const bool is_spare = e->used > 0 && e->idle == e->used;
    if (is_spare == pkvi_extents_has(&pool->spare, extent)) return;
    if (is_spare)
        pkvi_extents_add(&pool->spare, extent, 0);
    else
        pkvi_extents_remove(&pool->spare, extent);
}

void pkvi_pool_count_idle(struct pkvi_pool* pool, uint32_t block, bool is_idle) {
    const uint32_t extent = extent_of(pool, block);
    pool->extents[extent].idle += is_idle ? 1 : UINT32_MAX;
    update_spare(pool, extent);
}

/* ---- Open and close -------------------------------------------------------------------------- */

int pkvi_pool_open(struct pkvi_pool* pool, struct pkv_arena* arena, struct pkvi_device* device,
                   struct pkvi_mem* mem, struct pkvi_faults* faults,
                   const struct pkvi_pool_config* config) {
    const struct pkvi_layout* layout = config->layout;
    const uint32_t blocks = config->block_count;
    const uint32_t extents = arena->extent_max;
    *pool = (struct pkvi_pool){
        .arena = arena,
        .device = device,
        .faults = faults,
        .quotas = config->quotas,
        .space = {arena->base, arena->extent_bytes, layout->block_bytes, config->blocks_per_extent},
        .number = pkvi_arena_number(arena),
        .block_count = blocks,
        .limit = config->limit,
        .block_tokens = layout->group.block_tokens,
        .block_shift = (uint32_t)__builtin_ctz(layout->group.block_tokens),
    };
    const uint64_t token_bytes = (uint64_t)pool->block_tokens * sizeof *pool->tokens;
    PKVI_TRY(
        pkvi_extents_open(&pool->open, mem, config->policy, extents, config->blocks_per_extent));
    if (arena->is_shared) PKVI_TRY(pkvi_extents_open(&pool->spare, mem, PKV_RING, extents, 0));
    PKVI_TRY(pkvi_mem_take(mem, extents, sizeof *pool->extents, (void**)&pool->extents));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *pool->blocks, (void**)&pool->blocks));
    return pkvi_mem_take(mem, blocks, token_bytes, (void**)&pool->tokens);
}

void pkvi_pool_close(struct pkvi_pool* pool, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, pool->tokens);
    pkvi_mem_give(mem, pool->blocks);
    pkvi_mem_give(mem, pool->extents);
    pkvi_extents_close(&pool->spare, mem);
    pkvi_extents_close(&pool->open, mem);
}

void pkvi_pool_abandon(struct pkvi_pool* pool) {
    for (uint32_t extent = 0; pool->held_count > 0; extent++)
        if (pool->arena->holder[extent] == pool->number) give_extent(pool, extent);
}

struct pkvi_usage pkvi_pool_usage(const struct pkvi_pool* pool) {
    const uint64_t block_bytes = pool->space.block_bytes;
    const uint64_t held = pool->held_count * pool->space.extent_bytes;
    struct pkvi_usage usage = {
        .used = pool->used_count * block_bytes,
        .loose = pool->open_free * block_bytes,
    };
    usage.lost = held - usage.used - usage.loose;
    return usage;
}

/* ---- Take and free --------------------------------------------------------------------------- */

int pkvi_pool_admit(struct pkvi_pool* pool, uint32_t count, uint32_t evicted) {
    PKVI_TRY(pkvi_fault_check(pool->faults, PKVI_FAULT_POOL_TAKE));
    if (count <= pool->open_free + evicted) return PKV_OK;
    return pkvi_fault_check(pool->faults, PKVI_FAULT_ARENA_TAKE);
}

/* The next block of an extent that has one. */
static uint32_t take_one(struct pkvi_pool* pool, uint32_t extent, uint32_t account) {
    struct pkvi_extent* e = &pool->extents[extent];
    uint32_t block = e->free_head;
    if (block != PKVI_NONE)
        e->free_head = pool->blocks[block].next;
    else
        block = extent * pool->space.blocks_per_extent + e->fresh++;
    assert(pool->blocks[block].refs == 0);
    pool->blocks[block].refs = 1;
    pool->blocks[block].account = account;
    e->used++;
    return block;
}

/* Take up to `count` blocks of an extent with room; returns how many. */
static uint32_t take_some(struct pkvi_pool* pool, uint32_t extent, uint32_t account, uint32_t count,
                          uint32_t* blocks) {
    const struct pkvi_extent* e = &pool->extents[extent];
    const uint32_t capacity = pkvi_pool_extent_capacity(pool, extent);
    const uint32_t room = capacity - e->used;
    const uint32_t taken = count < room ? count : room;
    for (uint32_t i = 0; i < taken; i++)
        blocks[i] = take_one(pool, extent, account);
    if (e->used == capacity)
        pkvi_extents_remove(&pool->open, extent);
    else
        pkvi_extents_reweigh(&pool->open, extent, e->used);
    update_spare(pool, extent);
    pool->open_free -= taken;
    pool->used_count += taken;
    return taken;
}

void pkvi_pool_take(struct pkvi_pool* pool, uint32_t account, uint32_t count, uint32_t* blocks) {
    assert(count <= pkvi_pool_free_count(pool));
    for (uint32_t done = 0; done < count;) {
        const uint32_t extent =
            pool->open.count > 0 ? pkvi_extents_first(&pool->open) : borrow_extent(pool);
        done += take_some(pool, extent, account, count - done, blocks + done);
    }
}

uint32_t pkvi_pool_take_in(struct pkvi_pool* pool, uint32_t extent, uint32_t account) {
    uint32_t block;
    const uint32_t taken = take_some(pool, extent, account, 1, &block);
    assert(taken == 1);
    (void)taken;
    return block;
}

void pkvi_pool_free(struct pkvi_pool* pool, uint32_t block) {
    const uint32_t extent = extent_of(pool, block);
    struct pkvi_extent* e = &pool->extents[extent];
    assert(e->used > 0);
    pkvi_quotas_drop(pool->quotas, pool->blocks[block].account);
    pool->blocks[block].next = e->free_head;
    e->free_head = block;
    e->used--;
    if (pkvi_extents_has(&pool->open, extent))
        pkvi_extents_reweigh(&pool->open, extent, e->used);
    else
        pkvi_extents_add(&pool->open, extent, e->used);
    pool->open_free++;
    pool->used_count--;
    update_spare(pool, extent);
    if (e->used == 0) return_extent(pool, extent);
}

void pkvi_pool_move(struct pkvi_pool* pool, uint32_t from, uint32_t to) {
    pool->blocks[to] = pool->blocks[from];
    memcpy(pkvi_pool_tokens(pool, to), pkvi_pool_tokens(pool, from),
           pool->block_tokens * sizeof *pool->tokens);
    pool->blocks[from].refs = 0;
    pkvi_pool_free(pool, from);
}

bool pkvi_pool_is_foreign(const struct pkvi_pool* pool, uint32_t block, uint64_t tenant) {
    const struct pkvi_block* b = &pool->blocks[block];
    if (b->written == PKVI_BYTES_MIXED) return true;
    return b->written == PKVI_BYTES_OWNED && b->owner != tenant;
}
