/* compact.c - see compact.h. */
#include "core/compact.h"

#include "core/cache.h"
#include <assert.h>
#include <string.h>

int pkvi_compactor_open(struct pkvi_compactor* compactor, struct pkvi_mem* mem,
                        const struct pkvi_pool* pool) {
    const uint64_t extents = pool->arena->extent_max;
    const uint64_t weights = (uint64_t)pool->space.blocks_per_extent + 2;
    PKVI_TRY(pkvi_mem_take(mem, extents, sizeof(uint32_t), (void**)&compactor->order));
    PKVI_TRY(pkvi_mem_take(mem, weights, sizeof(uint32_t), (void**)&compactor->counts));
    return pkvi_mem_take(mem, extents, sizeof(uint8_t), (void**)&compactor->pinned);
}

void pkvi_compactor_close(struct pkvi_compactor* compactor, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, compactor->pinned);
    pkvi_mem_give(mem, compactor->counts);
    pkvi_mem_give(mem, compactor->order);
}

/* ---- Who stays ------------------------------------------------------------------------------- */

/* First page of a sequence that has to stay where it is. */
static uint32_t first_still_page(const pkv_cache* cache, const struct pkvi_seq* seq) {
    const bool is_moving = seq->residence == PKV_LEAVING || seq->residence == PKV_ARRIVING;
    if (seq->in_plan || seq->readers > 0 || is_moving) return 0;
    return seq->reserved > 0 ? pkvi_pool_page(&cache->pool, seq->length) : seq->table.pages;
}

static void pin_blocks(pkv_cache* cache) {
    struct pkvi_compactor* compactor = &cache->compactor;
    const uint32_t per_extent = cache->pool.space.blocks_per_extent;
    memset(compactor->pinned, 0, cache->arena->extent_max);
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        const struct pkvi_seq* seq = &cache->seqs.slots[i];
        if (!seq->alive) continue;
        for (uint32_t page = first_still_page(cache, seq); page < seq->table.pages; page++) {
            const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
            if (block != PKV_NO_BLOCK) compactor->pinned[block / per_extent] = 1;
        }
    }
}

/* ---- Choose ---------------------------------------------------------------------------------- */

/* Extents order[0 .. givers) give all their blocks, so many `moves`, to those from `takers` on. */
struct choice {
    uint32_t givers;
    uint32_t takers;
    uint32_t held;
    uint32_t moves;
};

/* How late an extent comes: the pinned, which cannot become empty, take first of all, and never stand
 * before a full one, which can. */
static uint32_t weight_of(const pkv_cache* cache, uint32_t extent) {
    const struct pkvi_pool* pool = &cache->pool;
    if (cache->compactor.pinned[extent]) return pool->space.blocks_per_extent + 1;
    return pool->extents[extent].used;
}

static bool is_held(const pkv_cache* cache, uint32_t extent) {
    return cache->arena->holder[extent] == cache->pool.number;
}

/* Sort the extents that the pool holds by weight, by counting. */
static uint32_t sort_extents(pkv_cache* cache) {
    struct pkvi_compactor* compactor = &cache->compactor;
    const uint32_t extents = cache->arena->extent_max;
    const uint32_t weights = cache->pool.space.blocks_per_extent + 2;
    uint32_t* const counts = compactor->counts;
    memset(counts, 0, weights * sizeof *counts);
    for (uint32_t e = 0; e < extents; e++)
        if (is_held(cache, e)) counts[weight_of(cache, e)]++;
    uint32_t first = 0;
    for (uint32_t w = 0; w < weights; w++) {
        const uint32_t count = counts[w];
        counts[w] = first;
        first += count;
    }
    for (uint32_t e = 0; e < extents; e++)
        if (is_held(cache, e)) compactor->order[counts[weight_of(cache, e)]++] = e;
    return first;
}

static uint32_t room_of(const pkv_cache* cache, uint32_t extent) {
    return pkvi_pool_extent_capacity(&cache->pool, extent) - cache->pool.extents[extent].used;
}

static struct choice choose(pkv_cache* cache, uint32_t max_moves) {
    const uint32_t* order = cache->compactor.order;
    pin_blocks(cache);
    struct choice choice = {.held = sort_extents(cache)};
    uint64_t room = 0;
    choice.takers = choice.held;
    while (choice.givers < choice.takers) {
        const uint32_t giver = order[choice.givers];
        const uint32_t used = cache->pool.extents[giver].used;
        if (cache->compactor.pinned[giver]) break;
        if (used > max_moves - choice.moves) break;
        while (room < used && choice.takers > choice.givers + 1)
            room += room_of(cache, order[--choice.takers]);
        if (room < used) break;
        room -= used;
        choice.moves += used;
        choice.givers++;
    }
    return choice;
}

/* ---- Take ------------------------------------------------------------------------------------ */

/* The blocks that move, into scratch.blocks. */
static void list_sources(pkv_cache* cache, struct choice choice) {
    const struct pkvi_pool* pool = &cache->pool;
    uint32_t* source = cache->scratch.blocks;
    for (uint32_t i = 0; i < choice.givers; i++) {
        const uint32_t extent = cache->compactor.order[i];
        const uint32_t first = extent * pool->space.blocks_per_extent;
        const uint32_t end = first + pkvi_pool_extent_capacity(pool, extent);
        for (uint32_t block = first; block < end; block++)
            if (pool->blocks[block].refs > 0) *source++ = block;
    }
    assert(source == cache->scratch.blocks + choice.moves);
}

/* For the account of the block that comes. */
static uint32_t take_target(pkv_cache* cache, uint32_t extent, uint32_t source) {
    const uint32_t account = cache->pool.blocks[source].account;
    pkvi_quotas_count(&cache->quotas, account, 1, 0);
    return pkvi_pool_take_in(&cache->pool, extent, account);
}

/* Take a target for each of them, in the fullest extents; forward[source] says which. */
static void take_targets(pkv_cache* cache, struct choice choice, uint32_t* forward) {
    struct pkvi_pool* pool = &cache->pool;
    const uint32_t* source = cache->scratch.blocks;
    const uint32_t* end = source + choice.moves;
    memset(forward, 0xff, pool->block_count * sizeof *forward); /* PKVI_NONE */
    for (uint32_t i = choice.held; i-- > choice.takers && source < end;) {
        const uint32_t extent = cache->compactor.order[i];
        for (uint32_t n = room_of(cache, extent); n > 0 && source < end; n--) {
            forward[*source] = take_target(cache, extent, *source);
            source++;
        }
    }
    assert(source == end);
}

static void return_targets(pkv_cache* cache, struct choice choice, const uint32_t* forward) {
    for (uint32_t i = choice.moves; i-- > 0;)
        pkvi_pool_unref(&cache->pool, forward[cache->scratch.blocks[i]]);
}

/* ---- Copy ------------------------------------------------------------------------------------ */

static int submit_copy(pkv_cache* cache, uint32_t from, uint32_t to, uint64_t* ticket) {
    const struct pkvi_space* space = &cache->pool.space;
    cache->pool.blocks[to].written = PKVI_BYTES_MIXED; /* until all has been well */
    const struct pkvi_copy_job job = {.to = pkvi_space_block(space, to),
                                      .from = pkvi_space_block(space, from),
                                      .bytes = space->block_bytes};
    return cache->device->ops->copy(cache->device, &job, ticket);
}

/* As many at once as the device has room for; waits for each, also after a failure. */
static int copy_batch(pkv_cache* cache, const uint32_t* sources, uint32_t count,
                      const uint32_t* forward) {
    uint64_t* const tickets = cache->scratch.tickets;
    uint32_t submitted = 0;
    int status = PKV_OK;
    for (; submitted < count; submitted++) {
        const uint32_t from = sources[submitted];
        status = submit_copy(cache, from, forward[from], &tickets[submitted]);
        if (status != PKV_OK) break;
    }
    for (uint32_t i = 0; i < submitted; i++) {
        const int ended = cache->device->ops->wait(cache->device, tickets[i]);
        if (status == PKV_OK) status = ended;
    }
    return status;
}

static int copy_blocks(pkv_cache* cache, uint32_t moves, const uint32_t* forward) {
    const uint32_t batch = cache->config.plan_sequences_max;
    for (uint32_t done = 0; done < moves; done += batch) {
        const uint32_t rest = moves - done;
        PKVI_TRY(
            copy_batch(cache, cache->scratch.blocks + done, rest < batch ? rest : batch, forward));
    }
    return PKV_OK;
}

/* ---- Apply ----------------------------------------------------------------------------------- */

static void move_blocks(pkv_cache* cache, uint32_t moves, const uint32_t* forward) {
    struct pkvi_pool* pool = &cache->pool;
    for (uint32_t i = 0; i < moves; i++) {
        const uint32_t from = cache->scratch.blocks[i];
        const bool is_idle = pkvi_prefix_is_idle(&cache->prefix, from);
        if (is_idle) pkvi_pool_note_idle(pool, from, false);
        pkvi_pool_move(pool, from, forward[from]);
        if (is_idle) pkvi_pool_note_idle(pool, forward[from], true);
        pkvi_trace_note_often(&cache->trace, "cache.move", from, forward[from]);
    }
}

/* Sequences that share a leaf have all changed when it has. */
static void move_tables(pkv_cache* cache, const uint32_t* forward) {
    uint32_t* const seen = cache->checker.leaf_refs;
    memset(seen, 0, cache->leaves.leaf_count * sizeof *seen);
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        struct pkvi_seq* seq = &cache->seqs.slots[i];
        if (!seq->alive) continue;
        if (pkvi_table_follow(&cache->leaves, &seq->table, forward, seen)) seq->version++;
    }
}

int pkvi_cache_compact(pkv_cache* cache, uint32_t max_moves, uint32_t* moved) {
    uint32_t* const forward = cache->checker.block_refs;
    const struct choice choice = choose(cache, max_moves);
    if (choice.moves == 0) {
        *moved = 0;
        return PKV_OK;
    }
    list_sources(cache, choice);
    take_targets(cache, choice, forward);
    const int status = copy_blocks(cache, choice.moves, forward);
    if (status != PKV_OK) {
        return_targets(cache, choice, forward);
        return status;
    }
    move_blocks(cache, choice.moves, forward);
    pkvi_prefix_follow(&cache->prefix, forward);
    move_tables(cache, forward);
    cache->stats.blocks_moved += choice.moves;
    cache->stats.extents_emptied += choice.givers;
    pkvi_trace_note(&cache->trace, "cache.compact", choice.givers, choice.moves);
    *moved = choice.moves;
    return PKV_OK;
}
