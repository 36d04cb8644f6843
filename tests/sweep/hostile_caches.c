/* hostile_caches.c - bad calls on caches and arenas. */
#include "sweep/hostile.h"

static int bad_cache_call(struct world* w) {
    pkv_stats stats = {.struct_size =
                           world_below(w, 2) ? 0 : sizeof stats + 1 + world_below(w, 1000)};
    pkv_fault_info info;
    pkv_trace_event event;
    uint32_t count;
    switch (world_below(w, 11)) {
    case 0:
        return pkv_cache_stats(NULL, &stats);
    case 1:
        return pkv_cache_stats(w->cache, NULL);
    case 2:
        return pkv_cache_stats(w->cache, &stats);
    case 3:
        return pkv_check(NULL, NULL);
    case 4:
        return pkv_faults_set(NULL, "", 0);
    case 5:
        return pkv_fault_get(w->cache, pkv_fault_count() + world_below(w, 99), &info);
    case 6:
        return pkv_fault_get(w->cache, 0, NULL);
    case 7:
        return pkv_clock_advance(NULL, 1);
    case 8:
        return pkv_trace_read(NULL, &event, 1, &count);
    case 9:
        return pkv_trace_read(w->cache, NULL, 1, &count);
    default:
        return pkv_trace_read(w->cache, &event, 1, NULL);
    }
}

static int bad_arena_config(struct world* w) {
    pkv_arena_config config;
    pkv_arena* arena;
    if (pkv_arena_config_init(&config, PKV_VERSION) != PKV_OK) return PKV_OK;
    config.device = "sim";
    config.bytes = (uint64_t)EXTENTS * EXTENT;
    config.extent_bytes = EXTENT + 1 + world_below(w, EXTENT - 1);
    switch (world_below(w, 5)) {
    case 0:
        return pkv_arena_config_init(NULL, PKV_VERSION);
    case 1:
        return pkv_arena_config_check(world_below(w, 2) ? NULL : &config, NULL);
    case 2:
        return pkv_arena_create(world_below(w, 2) ? NULL : &config, &arena);
    case 3:
        return pkv_arena_create(&config, NULL);
    default:
        config.extent_bytes = EXTENT;
        config.bytes_max = config.bytes - 1 - world_below(w, EXTENT);
        return pkv_arena_create(&config, &arena);
    }
}

static int bad_arena_call(struct world* w) {
    pkv_arena_stats stats = {.struct_size =
                                 world_below(w, 2) ? 0 : sizeof stats + 1 + world_below(w, 1000)};
    switch (world_below(w, 7)) {
    case 0:
        return pkv_arena_destroy(w->arena);
    case 1:
        return pkv_arena_resize(NULL, EXTENT);
    case 2:
        return pkv_arena_resize(w->arena, UINT64_MAX - world_next(w) / 2);
    case 3: /* it is full */
        return pkv_arena_resize(w->arena, world_below(w, EXTENTS * EXTENT));
    case 4:
        return pkv_arena_get_stats(world_below(w, 2) ? NULL : w->arena, &stats);
    case 5:
        return pkv_arena_get_stats(w->arena, NULL);
    default:
        return bad_arena_config(w);
    }
}

static int bad_compact(struct world* w) {
    uint32_t moved;
    switch (world_below(w, 3)) {
    case 0:
        return pkv_cache_compact(NULL, world_huge(w), &moved);
    case 1:
        return pkv_cache_drop(NULL, &moved);
    default:
        return pkv_cache_compact(w->cache, world_huge(w), NULL);
    }
}

/* This device has neither. */
static int bad_cuda_call(struct world* w) {
    float value = 0;
    pkv_plan plan;
    switch (world_below(w, 5)) {
    case 0:
        return pkv_cache_set_stream(world_below(w, 2) ? w->cache : NULL, &value);
    case 1:
        return pkv_graph_begin(w->cache, world_below(w, 9), world_below(w, 99), &plan);
    case 2:
        return pkv_graph_begin(world_below(w, 2) ? w->cache : NULL, 1, 1, NULL);
    case 3:
        return pkv_graph_load(w->cache, w->plan, world_huge(w), 1);
    default:
        return pkv_graph_load(world_below(w, 2) ? w->cache : NULL, world_bad_plan(w), 1, 1);
    }
}

static int bad_specification(struct world* w) {
    static const char letters[] = "=*%->;().,0159 abcdefgmrsu.EIO";
    char spec[24];
    const uint32_t length = 1 + world_below(w, sizeof spec - 2);
    for (uint32_t i = 0; i < length; i++)
        spec[i] = letters[world_below(w, sizeof letters - 1)];
    spec[length] = '\0';
    spec[0] = '='; /* no point has an empty name */
    return pkv_faults_set(w->cache, spec, 0);
}

static int (*const calls[])(struct world* w) = {
    bad_cache_call, bad_arena_call, bad_compact, bad_cuda_call, bad_specification,
};

const hostile_kinds hostile_on_caches = {"caches", calls, sizeof calls / sizeof *calls};
