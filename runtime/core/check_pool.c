/* check_pool.c - the part of the judge that recounts blocks and extents; see check.h. */
#include "core/cache.h"
#include "core/check_parts.h"

/* ---- Arena ----------------------------------------------------------------------------------- */

/* Does a pool of that number live here? */
static bool is_pool(const pkv_cache* cache, uint32_t number) {
    const pkv_cache* other = cache->arena->caches;
    if (cache->pool.number == number) return true;
    while (other != NULL && other->pool.number != number)
        other = other->arena_next;
    return other != NULL;
}

static const char* check_holder(const pkv_cache* cache, uint32_t extent) {
    const struct pkv_arena* arena = cache->arena;
    const uint32_t holder = arena->holder[extent];
    const bool is_held = holder != PKVI_HOLDER_NONE && holder != PKVI_HOLDER_SYSTEM;
    EXPECT(pkvi_extents_has(&arena->free, extent) == (holder == PKVI_HOLDER_NONE), "A1");
    EXPECT(!is_held || is_pool(cache, holder), "A1");
    return NULL;
}

/* Every extent is somewhere, once, and pools count what they hold. */
static const char* check_arena(const pkv_cache* cache) {
    const struct pkv_arena* arena = cache->arena;
    EXPECT(pkvi_extents_are_sound(&arena->free), "A1");
    uint32_t given_back = 0;
    for (uint32_t extent = 0; extent < arena->extent_max; extent++) {
        CHECK(check_holder(cache, extent));
        given_back += arena->holder[extent] == PKVI_HOLDER_SYSTEM;
    }
    uint32_t held = arena->is_shared ? 0 : cache->pool.held_count;
    uint32_t caches = 0;
    for (const pkv_cache* c = arena->caches; c != NULL; c = c->arena_next, caches++)
        held += c->pool.held_count;
    EXPECT(caches == arena->cache_count, "A2");
    EXPECT(arena->extent_count == arena->free.count + held, "A2");
    EXPECT(arena->extent_count + given_back == arena->extent_max, "A2");
    return NULL;
}

/* ---- Pool ------------------------------------------------------------------------------------ */

static const char* check_free_list(const struct pkvi_pool* pool, uint32_t extent, uint32_t used) {
    const struct pkvi_extent* e = &pool->extents[extent];
    const uint32_t first = extent * pool->space.blocks_per_extent;
    const uint32_t capacity = pkvi_pool_extent_capacity(pool, extent);
    uint32_t listed = 0;
    for (uint32_t b = e->free_head; b != PKVI_NONE; b = pool->blocks[b].next) {
        EXPECT(b >= first && b < first + capacity, "P2");
        EXPECT(pool->blocks[b].refs == 0, "P2");
        EXPECT(++listed <= capacity, "P2");
    }
    EXPECT(used + listed == e->fresh, "P2");
    return NULL;
}

static uint32_t count_idle(const pkv_cache* cache, uint32_t first, uint32_t end) {
    uint32_t idle = 0;
    for (uint32_t b = first; b < end; b++)
        idle += cache->prefix.nodes[b].indexed && cache->pool.blocks[b].refs == 1;
    return idle;
}

/* What others may claim. */
static const char* check_spare(const pkv_cache* cache, uint32_t extent, uint32_t used,
                               uint32_t idle) {
    const struct pkvi_pool* pool = &cache->pool;
    if (!cache->arena->is_shared) return NULL;
    const bool is_spare = used > 0 && idle == used;
    EXPECT(pkvi_extents_has(&pool->spare, extent) == is_spare, "P6");
    EXPECT(used == 0 || pool->extents[extent].idle == idle, "P6");
    return NULL;
}

static const char* check_extent(const pkv_cache* cache, uint32_t extent, uint32_t* open_free) {
    const struct pkvi_pool* pool = &cache->pool;
    const struct pkvi_extent* e = &pool->extents[extent];
    const uint32_t first = extent * pool->space.blocks_per_extent;
    const uint32_t capacity = pkvi_pool_extent_capacity(pool, extent);
    const bool is_held = cache->arena->holder[extent] == pool->number;
    uint32_t used = 0;
    for (uint32_t b = first; b < first + capacity; b++)
        used += pool->blocks[b].refs > 0;
    EXPECT((used > 0) == is_held, "P4");
    EXPECT(pkvi_extents_has(&pool->open, extent) == (is_held && used < capacity), "P4");
    CHECK(check_spare(cache, extent, used, count_idle(cache, first, first + capacity)));
    if (!is_held) return NULL;
    CHECK(check_free_list(pool, extent, used));
    EXPECT(e->used == used, "P4");
    EXPECT(used == capacity || pool->open.weight[extent] == used, "P4");
    *open_free += capacity - used;
    return NULL;
}

static const char* check_counts(const pkv_cache* cache, uint32_t open_free) {
    const struct pkvi_pool* pool = &cache->pool;
    uint32_t used = 0;
    uint32_t held = 0;
    for (uint32_t b = 0; b < pool->block_count; b++)
        used += pool->blocks[b].refs > 0;
    for (uint32_t extent = 0; extent < cache->arena->extent_max; extent++)
        held += cache->arena->holder[extent] == pool->number;
    EXPECT(pool->used_count == used, "P3");
    EXPECT(used <= pool->limit, "P3");
    EXPECT(pool->held_count == held, "P3");
    EXPECT(pool->open_free == open_free, "P3");
    return NULL;
}

const char* pkvi_check_pool(const pkv_cache* cache) {
    const struct pkvi_pool* pool = &cache->pool;
    for (uint32_t b = 0; b < pool->block_count; b++)
        EXPECT(pool->blocks[b].refs == cache->checker.block_refs[b], "P1");
    CHECK(check_arena(cache));
    EXPECT(pkvi_extents_are_sound(&pool->open), "P4");
    EXPECT(!cache->arena->is_shared || pkvi_extents_are_sound(&pool->spare), "P6");
    uint32_t open_free = 0;
    for (uint32_t extent = 0; extent < cache->arena->extent_max; extent++)
        CHECK(check_extent(cache, extent, &open_free));
    return check_counts(cache, open_free);
}
