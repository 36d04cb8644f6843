/* cache.c - builds a cache from its parts and takes it apart again.
 *
 * The struct starts zeroed and every close function accepts a part that was never opened, so that a
 * failure anywhere on the way up is answered by the same way down. */
#include "core/cache.h"

#include "core/arena_shared.h"
#include <stdlib.h>
#include <string.h>

static int open_device(pkv_cache* cache) {
    const pkv_config* config = &cache->config;
    const struct pkvi_device_config device = {
        .isa = config->isa,
        .ordinal = config->device_ordinal,
        .threads = config->threads,
        .parallel = config->parallel,
        .layout = cache->layout,
        .plan_tokens_max = config->plan_tokens_max,
        .plan_sequences_max = config->plan_sequences_max,
        .sequence_tokens_max = config->sequence_tokens_max,
        .plans_max = config->plans_max,
        .copies_max = config->plan_sequences_max,
        .blocks = config->blocks,
        .transfers_max = config->transfers_max,
        .transfer_pairs_max = pkvi_config_transfer_pairs_max(config),
        .swap_layers = config->swap_layers,
        .graph = {config->graph_sequences_max, config->graph_sequence_tokens_max},
        .graph_query_heads = config->graph_query_heads,
        .seed = config->fault_seed,
        .mem = &cache->mem,
        .faults = &cache->faults,
        .clock = &cache->clock,
    };
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_DEVICE_OPEN));
    return pkvi_device_open(config->device, &device, &cache->device);
}

static int open_arena(pkv_cache* cache) {
    const pkv_sizes* sizes = &cache->sizes;
    if (cache->arena->is_shared) return PKV_OK;
    return pkvi_arena_open(cache->arena, cache->device, &cache->mem, cache->config.allocator,
                           sizes->block_bytes * sizes->blocks_per_extent, sizes->extents,
                           sizes->extents);
}

static int open_pool(pkv_cache* cache) {
    const struct pkvi_pool_config config = {
        .layout = &cache->layout,
        .quotas = &cache->quotas,
        .limit = cache->config.blocks,
        .block_count = pkvi_config_block_numbers(&cache->config, &cache->sizes),
        .blocks_per_extent = cache->sizes.blocks_per_extent,
        .policy = cache->config.allocator,
    };
    return pkvi_pool_open(&cache->pool, cache->arena, cache->device, &cache->mem, &cache->faults,
                          &config);
}

static int open_memory(pkv_cache* cache, struct pkvi_hash_key key) {
    struct pkvi_mem* mem = &cache->mem;
    PKVI_TRY(
        pkvi_quotas_open(&cache->quotas, mem, cache->config.tenants_max, cache->config.blocks));
    PKVI_TRY(open_arena(cache));
    PKVI_TRY(open_pool(cache));
    PKVI_TRY(pkvi_tier_open(&cache->tier, cache->device, mem, &cache->faults, &cache->layout,
                            cache->config.host_blocks));
    PKVI_TRY(pkvi_prefix_open(&cache->prefix, &cache->pool, mem, key, &cache->config));
    cache->prefix.shared.retention.clock = &cache->clock;
    return pkvi_leaves_open(&cache->leaves, &cache->prefix, mem, cache->config.table_leaves_max);
}

static int open_parts(pkv_cache* cache) {
    const pkv_config* config = &cache->config;
    struct pkvi_mem* mem = &cache->mem;
    uint64_t random;
    PKVI_TRY(pkvi_seed_open(&cache->faults, config->seed, &random));
    const struct pkvi_hash_key key = {pkvi_random_next(&random), pkvi_random_next(&random)};
    PKVI_TRY(pkvi_trace_open(&cache->trace, mem, config->trace_events_max, &cache->clock));
    PKVI_TRY(open_device(cache));
    PKVI_TRY(open_memory(cache, key));
    cache->pins.next_deadline_us = UINT64_MAX;
    PKVI_TRY(pkvi_seqs_open(&cache->seqs, mem, config, (uint32_t)pkvi_random_next(&random)));
    PKVI_TRY(pkvi_pending_open(&cache->pending, mem, key, config->announced_pages_max));
    PKVI_TRY(pkvi_plans_open(&cache->plans, mem, config, (uint32_t)pkvi_random_next(&random)));
    PKVI_TRY(
        pkvi_transfers_open(&cache->transfers, mem, config, (uint32_t)pkvi_random_next(&random)));
    PKVI_TRY(pkvi_scratch_open(&cache->scratch, mem, config));
    PKVI_TRY(pkvi_checker_open(&cache->checker, mem, cache->pool.block_count,
                               config->table_leaves_max, config->host_blocks));
    PKVI_TRY(pkvi_compactor_open(&cache->compactor, mem, &cache->pool));
    if (cache->arena->is_shared) pkvi_arena_join(cache);
    return PKV_OK;
}

static void close_parts(pkv_cache* cache) {
    struct pkvi_mem* mem = &cache->mem;
    pkvi_compactor_close(&cache->compactor, mem);
    pkvi_checker_close(&cache->checker, mem);
    pkvi_scratch_close(&cache->scratch, mem);
    pkvi_transfers_close(&cache->transfers, mem);
    pkvi_plans_close(&cache->plans, mem);
    pkvi_pending_close(&cache->pending, mem);
    pkvi_seqs_close(&cache->seqs, mem);
    pkvi_leaves_close(&cache->leaves, mem);
    pkvi_prefix_close(&cache->prefix, mem);
    pkvi_tier_close(&cache->tier, mem);
    pkvi_pool_close(&cache->pool, mem);
    pkvi_arena_close(&cache->own_arena, mem);
    pkvi_quotas_close(&cache->quotas, mem);
    if (cache->device != NULL) cache->device->ops->close(cache->device);
    pkvi_trace_close(&cache->trace, mem);
}

/* The cache object itself comes from the hook too; it moves its own accounting in once it
 * exists. */
static int allocate(const pkv_config* config, struct pkvi_faults* faults, pkv_cache** cache) {
    struct pkvi_mem mem;
    void* memory;
    pkvi_mem_init(&mem, &config->memory, faults);
    PKVI_TRY(pkvi_mem_take(&mem, 1, sizeof **cache, &memory));
    *cache = memory;
    (*cache)->faults = *faults;
    (*cache)->mem = mem;
    (*cache)->mem.faults = &(*cache)->faults;
    return PKV_OK;
}

static void release(pkv_cache* cache) {
    struct pkvi_faults faults = cache->faults;
    struct pkvi_mem mem = cache->mem;
    mem.faults = &faults;
    pkvi_mem_give(&mem, cache);
    pkvi_faults_free(&faults);
}

int pkvi_cache_create(const pkv_config* config, pkv_cache** cache) {
    pkv_config resolved;
    struct pkvi_layout layout;
    pkv_sizes sizes;
    const char* why;
    PKVI_TRY(pkvi_config_resolve(config, &resolved, &layout, &sizes, &why));
    const char* spec = resolved.faults != NULL ? resolved.faults : getenv("PKV_FAULTS");

    struct pkvi_faults faults;
    pkv_cache* created;
    PKVI_TRY(pkvi_faults_init(&faults, spec, resolved.fault_seed));
    int status = allocate(&resolved, &faults, &created);
    if (status != PKV_OK) goto fail_faults;
    created->config = resolved;
    created->layout = layout;
    created->sizes = sizes;
    pkvi_clock_init(&created->clock, strcmp(resolved.device, "sim") == 0);
    created->faults.clock = &created->clock;
    created->arena = resolved.arena != NULL ? resolved.arena : &created->own_arena;
    if (pthread_mutex_init(&created->own_arena.lock, NULL) != 0) {
        status = PKV_ENOMEM;
        goto fail_cache;
    }
    status = open_parts(created);
    if (status != PKV_OK) goto fail_parts;
    created->config.device = NULL;
    created->config.isa = NULL;
    created->config.faults = NULL;
    created->config.eviction = NULL;
    *cache = created;
    return PKV_OK;

fail_parts:
    close_parts(created);
    pthread_mutex_destroy(&created->own_arena.lock);
fail_cache:
    release(created);
    return status;
fail_faults:
    pkvi_faults_free(&faults);
    return status;
}

void pkvi_cache_destroy(pkv_cache* cache) {
    pkvi_transfers_stop(&cache->transfers, cache->device);
    if (cache->arena->is_shared) pkvi_arena_leave(cache);
    close_parts(cache);
    pthread_mutex_destroy(&cache->own_arena.lock);
    release(cache);
}

uint32_t pkvi_cache_active_blocks(const pkv_cache* cache) {
    return cache->pool.used_count - pkvi_prefix_idle_count(&cache->prefix);
}

void pkvi_cache_note_peak(pkv_cache* cache) {
    const uint32_t active = pkvi_cache_active_blocks(cache);
    if (active > cache->stats.blocks_peak) cache->stats.blocks_peak = active;
}

/* Every node leaves the index. Returns how many blocks nobody else named. */
static uint32_t drop_nodes(struct pkvi_prefix* prefix) {
    uint32_t dropped = 0;
    for (uint32_t block = 0; block < prefix->pool->block_count; block++) {
        if (!prefix->nodes[block].indexed) continue;
        if (pkvi_prefix_is_idle(prefix, block)) {
            pkvi_prefix_drop(prefix, block);
            dropped++;
        } else {
            pkvi_prefix_forget(prefix, block);
        }
    }
    return dropped;
}

/* Ids that are not known are never indexed, whatever the sequence does next. */
static void forget_tokens(pkv_cache* cache, struct pkvi_seq* seq) {
    if (!seq->alive || seq->length + seq->reserved == 0) return;
    seq->known = 0;
    pkvi_pending_release(&cache->pending, seq, UINT32_MAX);
}

uint32_t pkvi_cache_drop(pkv_cache* cache) {
    pkvi_settle(cache);
    const uint32_t dropped = drop_nodes(&cache->prefix);
    for (uint32_t i = 0; i < cache->seqs.count_max; i++)
        forget_tokens(cache, &cache->seqs.slots[i]);
    pkvi_trace_note(&cache->trace, "cache.drop", 0, dropped);
    return dropped;
}

/* In a shared arena a cache has the extents that its pool holds. */
static uint64_t arena_bytes(const pkv_cache* cache) {
    const struct pkv_arena* arena = cache->arena;
    return arena->extent_bytes * (arena->is_shared ? cache->pool.held_count : arena->extent_count);
}

static uint64_t latency_ns(pkv_cache* cache, uint32_t percent) {
    return pkvi_clock_ticks_ns(&cache->clock, pkvi_latency_quantile(&cache->latency, percent));
}

static void latency_stats(pkv_cache* cache, pkv_stats* stats) {
    stats->reservations = cache->latency.count;
    stats->reserve_p50_ns = latency_ns(cache, 50);
    stats->reserve_p99_ns = latency_ns(cache, 99);
    stats->reserve_max_ns = pkvi_clock_ticks_ns(&cache->clock, cache->latency.max);
}

void pkvi_cache_stats(pkv_cache* cache, pkv_stats* stats) {
    *stats = cache->stats;
    stats->struct_size = sizeof *stats;
    stats->blocks_free = pkvi_pool_free_count(&cache->pool);
    stats->blocks_total = stats->blocks_free + cache->pool.used_count;
    stats->blocks_active = pkvi_cache_active_blocks(cache);
    stats->blocks_cached = pkvi_prefix_idle_count(&cache->prefix);
    stats->extents_total = cache->arena->extent_count;
    stats->extents_used = cache->pool.held_count;
    stats->sequences = cache->seqs.alive_count - cache->pins.count;
    stats->pins = cache->pins.count;
    stats->plans = cache->plans.open_count;
    stats->leaves_total = cache->leaves.leaf_count;
    stats->leaves_free = cache->leaves.free_count;
    stats->heap_calls = cache->mem.calls;
    stats->heap_bytes = cache->mem.bytes;
    stats->arena_bytes = arena_bytes(cache);
    const struct pkvi_usage usage = pkvi_pool_usage(&cache->pool);
    stats->bytes_used = usage.used;
    stats->bytes_loose = usage.loose;
    stats->bytes_lost = usage.lost;
    latency_stats(cache, stats);
    stats->host_blocks_total = cache->tier.slot_count;
    stats->host_blocks_free = cache->tier.free_count;
    if (cache->prefix.shared.offer != NULL)
        stats->eviction_fallbacks = cache->prefix.shared.offer->fallbacks;
    stats->transfers = cache->transfers.open_count;
    stats->retained = cache->prefix.shared.retention.used;
}
