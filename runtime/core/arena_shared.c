/* arena_shared.c - an arena that several caches live in: made from its config, destroyed, counted.
 *
 * It has a device of its own, for its memory alone; each cache computes on it with a device of its
 * own. */
#include "core/arena_shared.h"

#include "core/cache.h"
#include "core/reclaim.h"
#include "core/require.h"
#include <stdlib.h>
#include <string.h>

enum { EXTENT_BYTES_DEFAULT = 2 << 20, EXTENT_ALIGNMENT = 4096, EXTENTS_MAX = 1 << 24 };

/* ---- Config ---------------------------------------------------------------------------------- */

/* Static names, so that the arena keeps none of the caller's strings. */
static const char* known_device(const char* name) {
    if (name == NULL || strcmp(name, "cpu") == 0) return "cpu";
    return strcmp(name, "sim") == 0 ? "sim" : NULL;
}

static int check_bytes(pkv_arena_config* config, const char** why) {
    if (config->extent_bytes == 0) config->extent_bytes = EXTENT_BYTES_DEFAULT;
    if (config->bytes_max == 0) config->bytes_max = config->bytes;
    REQUIRE(config->extent_bytes % EXTENT_ALIGNMENT == 0, PKV_EINVAL,
            "extent_bytes: a multiple of 4096");
    REQUIRE(config->bytes >= config->extent_bytes, PKV_EINVAL, "bytes: at least one extent");
    REQUIRE(config->bytes_max >= config->bytes, PKV_EINVAL, "bytes_max: at least bytes");
    REQUIRE(config->bytes_max <= PTRDIFF_MAX, PKV_ETOOBIG,
            "bytes_max: more than the address space");
    REQUIRE(config->bytes_max / config->extent_bytes <= EXTENTS_MAX, PKV_ETOOBIG,
            "bytes_max: at most 2^24 extents");
    return PKV_OK;
}

int pkvi_arena_resolve(const pkv_arena_config* config, pkv_arena_config* resolved,
                       const char** why) {
    REQUIRE(config->struct_size == sizeof *config, PKV_EVERSION,
            "struct_size: call pkv_arena_config_init first");
    REQUIRE((config->version ^ PKV_VERSION) >> 8 == 0, PKV_EVERSION,
            "version: the program was compiled for another version");
    pkv_arena_config result = *config;
    const char* device = result.device != NULL ? result.device : "cpu";
    REQUIRE(pkvi_device_known(device), PKV_ENOTSUP, "device: \"cpu\", \"cuda\" or \"sim\"");
    result.device = known_device(device);
    REQUIRE(result.device != NULL, PKV_ENOTSUP, "device: this one has no arenas to share");
    REQUIRE(result.allocator <= PKV_LIFO, PKV_EINVAL, "allocator: one of enum pkv_allocator");
    if (result.allocator == PKV_ALLOCATOR_DEFAULT) result.allocator = PKVI_ALLOCATOR_DEFAULT;
    PKVI_TRY(check_bytes(&result, why));
    *resolved = result;
    return PKV_OK;
}

/* ---- Create and destroy ---------------------------------------------------------------------- */

static int open_parts(struct pkv_arena* arena, const pkv_arena_config* config) {
    const struct pkvi_device_config device_config = {
        .memory_only = true,
        .mem = &arena->mem,
        .faults = &arena->faults,
        .clock = &arena->clock,
    };
    struct pkvi_device* device;
    PKVI_TRY(pkvi_fault_check(&arena->faults, PKVI_FAULT_DEVICE_OPEN));
    PKVI_TRY(pkvi_device_open(config->device, &device_config, &device));
    const int status =
        pkvi_arena_open(arena, device, &arena->mem, config->allocator, config->extent_bytes,
                        (uint32_t)(config->bytes_max / config->extent_bytes),
                        (uint32_t)(config->bytes / config->extent_bytes));
    if (status != PKV_OK) device->ops->close(device);
    return status;
}

static int allocate(const pkv_arena_config* config, struct pkvi_faults* faults,
                    struct pkv_arena** arena) {
    struct pkvi_mem mem;
    void* memory;
    pkvi_mem_init(&mem, &config->memory, faults);
    PKVI_TRY(pkvi_mem_take(&mem, 1, sizeof **arena, &memory));
    *arena = memory;
    (*arena)->faults = *faults;
    (*arena)->mem = mem;
    (*arena)->mem.faults = &(*arena)->faults;
    return PKV_OK;
}

static void release(struct pkv_arena* arena) {
    struct pkvi_faults faults = arena->faults;
    struct pkvi_mem mem = arena->mem;
    mem.faults = &faults;
    pkvi_mem_give(&mem, arena);
    pkvi_faults_free(&faults);
}

int pkvi_arena_create(const pkv_arena_config* config, pkv_arena** arena) {
    pkv_arena_config resolved;
    const char* why;
    PKVI_TRY(pkvi_arena_resolve(config, &resolved, &why));
    const char* spec = resolved.faults != NULL ? resolved.faults : getenv("PKV_FAULTS");
    struct pkvi_faults faults;
    struct pkv_arena* created;
    PKVI_TRY(pkvi_faults_init(&faults, spec, resolved.fault_seed));
    int status = allocate(&resolved, &faults, &created);
    if (status != PKV_OK) {
        pkvi_faults_free(&faults);
        return status;
    }
    created->is_shared = true;
    created->device_name = resolved.device;
    pkvi_clock_init(&created->clock, strcmp(resolved.device, "sim") == 0);
    created->faults.clock = &created->clock;
    status = pthread_mutex_init(&created->lock, NULL) == 0 ? PKV_OK : PKV_ENOMEM;
    if (status == PKV_OK) {
        status = open_parts(created, &resolved);
        if (status != PKV_OK) pthread_mutex_destroy(&created->lock);
    }
    if (status != PKV_OK) {
        release(created);
        return status;
    }
    *arena = created;
    return PKV_OK;
}

int pkvi_arena_destroy(pkv_arena* arena) {
    pthread_mutex_lock(&arena->lock);
    const bool is_busy = arena->cache_count > 0;
    pthread_mutex_unlock(&arena->lock);
    if (is_busy) return PKV_EBUSY;
    struct pkvi_device* device = arena->device;
    pkvi_arena_close(arena, &arena->mem);
    device->ops->close(device);
    pthread_mutex_destroy(&arena->lock);
    release(arena);
    return PKV_OK;
}

/* ---- Caches ---------------------------------------------------------------------------------- */

void pkvi_arena_join(pkv_cache* cache) {
    struct pkv_arena* arena = cache->arena;
    pthread_mutex_lock(&arena->lock);
    cache->arena_next = arena->caches;
    arena->caches = cache;
    arena->cache_count++;
    pthread_mutex_unlock(&arena->lock);
}

void pkvi_arena_leave(pkv_cache* cache) {
    struct pkv_arena* arena = cache->arena;
    pthread_mutex_lock(&arena->lock);
    pkvi_pool_abandon(&cache->pool);
    pkv_cache** link = &arena->caches;
    while (*link != cache)
        link = &(*link)->arena_next;
    *link = cache->arena_next;
    arena->cache_count--;
    pthread_mutex_unlock(&arena->lock);
}

/* ---- Resize ---------------------------------------------------------------------------------- */

static void grow(struct pkv_arena* arena, uint32_t count) {
    for (uint32_t extent = 0; arena->extent_count < count; extent++)
        if (arena->holder[extent] == PKVI_HOLDER_SYSTEM) pkvi_arena_regain(arena, extent);
}

/* Highest addresses first, so that what stays lies together. All or nothing. */
static int shrink(struct pkv_arena* arena, uint32_t count) {
    const uint32_t before = arena->extent_count;
    const struct pkvi_device_ops* ops = arena->device->ops;
    int status = PKV_OK;
    for (uint32_t extent = arena->extent_max; arena->extent_count > count && extent-- > 0;) {
        if (arena->holder[extent] != PKVI_HOLDER_NONE) continue;
        unsigned char* memory = arena->base + extent * arena->extent_bytes;
        status = ops->release(arena->device, memory, arena->extent_bytes);
        if (status != PKV_OK) break;
        pkvi_arena_cede(arena, extent);
    }
    if (status != PKV_OK) grow(arena, before);
    return status;
}

int pkvi_arena_resize(pkv_arena* arena, uint64_t bytes) {
    const uint64_t count = bytes / arena->extent_bytes;
    if (count > arena->extent_max) return PKV_ETOOBIG;
    if (count >= arena->extent_count) {
        grow(arena, (uint32_t)count);
        return PKV_OK;
    }
    if (arena->device->ops->release == NULL) return PKV_ENOTSUP;
    const uint32_t leaving = arena->extent_count - (uint32_t)count;
    if (leaving > arena->free.count) {
        const uint32_t missing = leaving - arena->free.count;
        if (missing > pkvi_spare_count(arena, NULL)) return PKV_ENOBLOCKS;
        pkvi_spare_claim(arena, NULL, missing);
    }
    return shrink(arena, (uint32_t)count);
}

/* ---- Statistics ------------------------------------------------------------------------------ */

void pkvi_arena_stats(pkv_arena* arena, pkv_arena_stats* stats) {
    for (pkv_cache* cache = arena->caches; cache != NULL; cache = cache->arena_next)
        pkvi_settle(cache);
    *stats = (pkv_arena_stats){
        .struct_size = sizeof *stats,
        .caches = arena->cache_count,
        .extents_max = arena->extent_max,
        .extents_total = arena->extent_count,
        .extents_free = arena->free.count,
        .extent_bytes = arena->extent_bytes,
        .extents_claimed = arena->claims,
        .heap_bytes = arena->mem.bytes,
    };
    for (const pkv_cache* cache = arena->caches; cache != NULL; cache = cache->arena_next) {
        const struct pkvi_usage usage = pkvi_pool_usage(&cache->pool);
        stats->bytes_used += usage.used;
        stats->bytes_loose += usage.loose;
        stats->bytes_lost += usage.lost;
    }
}
