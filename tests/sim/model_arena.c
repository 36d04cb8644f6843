/* model_arena.c - memory that several caches share, as the header describes it: by looking at all
 * blocks of all caches each time. */
#include "sim/model.h"

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* What `a` has beyond `b`. */
static uint32_t beyond(uint32_t a, uint32_t b) {
    return a > b ? a - b : 0;
}

/* ---- Who holds what -------------------------------------------------------------------------- */

uint32_t model_extent_of(const model* m, uint32_t block) {
    return m->blocks[block].real / m->per_extent;
}

/* Extents with a block that is in use in this sense. Between two calls all numbers are known, unless a
 * difference has been found. */
static uint32_t count_extents(const model* m, bool (*is_meant)(const model_block* block)) {
    bool has[MODEL_EXTENTS] = {false};
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        if (!is_meant(&m->blocks[i]) || model_extent_of(m, i) >= MODEL_EXTENTS) continue;
        bool* extent = &has[model_extent_of(m, i)];
        count += !*extent;
        *extent = true;
    }
    return count;
}

static bool is_active(const model_block* block) {
    return block->holders > 0;
}

uint32_t model_held_extents(const model* m) {
    return count_extents(m, model_is_used);
}

uint32_t model_spare_extents(const model* m) {
    return model_held_extents(m) - count_extents(m, is_active);
}

/* Of all caches but `m`, which may be NULL. */
static uint32_t sum_of_others(const model_arena* arena, const model* m,
                              uint32_t (*count)(const model* other)) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < arena->cache_count; i++)
        if (arena->caches[i] != m) sum += count(arena->caches[i]);
    return sum;
}

uint32_t model_free_extents(const model_arena* arena) {
    return arena->extent_count - sum_of_others(arena, NULL, model_held_extents);
}

/* ---- What a cache can have ------------------------------------------------------------------- */

uint32_t model_used_blocks(const model* m) {
    return m->blocks_active + m->blocks_cached;
}

/* Whatever no other cache holds is its own or free. */
uint32_t model_free_blocks(const model* m) {
    const uint32_t left = m->config.blocks - model_used_blocks(m);
    if (m->arena == NULL) return left;
    uint32_t extents = m->arena->extent_count;
    extents -= sum_of_others(m->arena, m, model_held_extents);
    if (m->canary == MODEL_SEES_MEMORY) extents++;
    return min_u32(extents * m->per_extent - model_used_blocks(m), left);
}

/* Cached blocks that may go for a reservation: anybody's beyond the guarantee, and of those within it
 * so many as their own tenant asks for. */
uint32_t model_givable(const model* m, const uint32_t* need) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i <= m->config.tenants_max; i++) {
        const uint32_t cached = model_cached(m, i);
        const uint32_t used = model_active(m, i) + cached;
        const uint32_t borrowed = min_u32(cached, beyond(used, m->quotas[i].guaranteed));
        sum += borrowed + min_u32(cached - borrowed, need[i]);
    }
    return sum;
}

bool model_fits_memory(const model* m, const uint32_t* need) {
    if (m->arena == NULL) return true;
    uint64_t blocks = 0;
    for (uint32_t i = 0; i <= m->config.tenants_max; i++)
        blocks += need[i];
    const uint64_t spare = sum_of_others(m->arena, m, model_spare_extents);
    return blocks <= model_free_blocks(m) + model_givable(m, need) + spare * m->per_extent;
}

void model_claim(model* m, uint32_t blocks) {
    m->claim(m->ctx, (blocks + m->per_extent - 1) / m->per_extent);
}

/* ---- Resize ---------------------------------------------------------------------------------- */

uint32_t model_resize_claims(const model_arena* arena, uint64_t bytes) {
    const uint64_t count = bytes / arena->extent_bytes;
    if (count >= arena->extent_count) return 0;
    return beyond(arena->extent_count - (uint32_t)count, model_free_extents(arena));
}

model_verdict model_resize_errors(const model_arena* arena, uint64_t bytes) {
    const uint32_t spare = sum_of_others(arena, NULL, model_spare_extents);
    uint32_t errors = 0;
    if (bytes / arena->extent_bytes > arena->extent_max) errors |= MODEL_BIT(PKV_ETOOBIG);
    if (model_resize_claims(arena, bytes) > spare) errors |= MODEL_BIT(PKV_ENOBLOCKS);
    return (model_verdict){errors, 0};
}
