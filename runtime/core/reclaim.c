/* reclaim.c - see reclaim.h. */
#include "core/reclaim.h"

#include "core/cache.h"
#include <assert.h>

/* ---- Decide ---------------------------------------------------------------------------------- */

uint64_t pkvi_spare_count(const pkv_arena* arena, const pkv_cache* cache) {
    uint64_t count = 0;
    for (pkv_cache* other = arena->caches; other != NULL; other = other->arena_next) {
        if (other == cache) continue;
        pkvi_settle(other); /* pins that are over hold nothing */
        count += other->pool.spare.count;
    }
    return count;
}

/* Without others in its arena a pool has the memory that Q3 counts on. */
static uint32_t evictable_count(const pkv_cache* cache) {
    if (cache->arena->is_shared) return pkvi_quotas_evictable(&cache->quotas);
    return pkvi_prefix_idle_count(&cache->prefix);
}

/* Where `wanted` blocks come from: extents of others for those that are missing when everything
 * cached here has gone. False when there are not so many. */
static bool find_room(pkv_cache* cache, uint32_t wanted, struct pkvi_room* room) {
    const uint32_t idle = wanted > 0 ? evictable_count(cache) : 0;
    *room = (struct pkvi_room){.evictions = wanted < idle ? wanted : idle};
    if (wanted <= idle) return true;
    room->extents = pkvi_ceil_div(wanted - idle, cache->pool.space.blocks_per_extent);
    return room->extents <= pkvi_spare_count(cache->arena, cache);
}

bool pkvi_room_suffices(pkv_cache* cache, uint32_t wanted) {
    struct pkvi_room room;
    return find_room(cache, wanted, &room);
}

int pkvi_room_decide(pkv_cache* cache, uint32_t blocks, uint32_t wanted, struct pkvi_room* room) {
    if (!find_room(cache, wanted, room)) return PKV_ENOBLOCKS;
    if (room->extents > 0) PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_ARENA_CLAIM));
    if (room->evictions > 0) PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_PREFIX_EVICT));
    return pkvi_pool_admit(&cache->pool, blocks, room->evictions);
}

/* Blocks that memory could have for whoever asks for enough to lose what it has cached itself. */
static uint64_t reachable_count(pkv_cache* cache, uint32_t account) {
    const uint64_t extents = cache->arena->free.count + pkvi_spare_count(cache->arena, cache);
    uint32_t* asked = &cache->quotas.accounts[account].asked;
    *asked = UINT32_MAX;
    const uint32_t evictable = pkvi_quotas_evictable(&cache->quotas);
    *asked = 0;
    return cache->pool.open_free + evictable + extents * cache->pool.space.blocks_per_extent;
}

uint32_t pkvi_room_available(pkv_cache* cache, uint32_t account) {
    const uint32_t by_quota = pkvi_quotas_available(&cache->quotas, account);
    if (!cache->arena->is_shared) return by_quota;
    const uint64_t by_memory = reachable_count(cache, account);
    return by_memory < by_quota ? (uint32_t)by_memory : by_quota;
}

/* ---- Make ------------------------------------------------------------------------------------ */

static pkv_cache* most_spare(const pkv_arena* arena, const pkv_cache* cache) {
    pkv_cache* best = NULL;
    for (pkv_cache* other = arena->caches; other != NULL; other = other->arena_next) {
        if (other == cache) continue;
        if (best == NULL || other->pool.spare.count > best->pool.spare.count) best = other;
    }
    return best;
}

/* Evict all that is in a spare extent, which then goes back to the arena by itself. */
static void give_up(pkv_cache* cache, uint32_t extent) {
    const uint32_t first = extent * cache->pool.space.blocks_per_extent;
    const uint32_t end = first + cache->pool.space.blocks_per_extent;
    for (uint32_t block = first; block < end; block++) {
        if (cache->pool.blocks[block].refs == 0) continue;
        cache->quotas.accounts[cache->pool.blocks[block].account].evicted++;
        pkvi_prefix_drop(&cache->prefix, block);
        pkvi_trace_note_often(&cache->trace, "prefix.evict", block, extent);
        cache->stats.evictions++;
    }
    cache->stats.extents_ceded++;
}

void pkvi_spare_claim(pkv_arena* arena, const pkv_cache* cache, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        pkv_cache* other = most_spare(arena, cache);
        give_up(other, pkvi_extents_first(&other->pool.spare));
    }
    arena->claims += count;
}

void pkvi_room_make(pkv_cache* cache, struct pkvi_room room) {
    if (room.extents > 0) {
        pkvi_spare_claim(cache->arena, cache, room.extents);
        cache->stats.extents_claimed += room.extents;
        pkvi_trace_note(&cache->trace, "arena.claim", 0, room.extents);
    }
    pkvi_reserve_evict(cache, room.evictions);
}
