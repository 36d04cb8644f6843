/* api_cache.c - configuration, cache, statistics, check, faults, clock and trace. */
#include "api/api.h"

#include <string.h>

int pkv_config_init(pkv_config* config, uint32_t version) {
    if (config == NULL) return PKV_EINVAL;
    if ((version ^ PKV_VERSION) >> 8 != 0) return PKV_EVERSION;
    memset(config, 0, sizeof *config);
    config->struct_size = sizeof *config;
    config->version = version;
    return PKV_OK;
}

int pkv_config_check(const pkv_config* config, const char** why, pkv_sizes* sizes) {
    const char* ignored_why;
    if (why == NULL) why = &ignored_why;
    if (config == NULL) {
        *why = "config: must not be NULL";
        return PKV_EINVAL;
    }
    pkv_config resolved;
    struct pkvi_layout layout;
    pkv_sizes result;
    PKVI_TRY(pkvi_config_resolve(config, &resolved, &layout, &result, why));
    if (sizes != NULL) *sizes = result;
    return PKV_OK;
}

int pkv_cache_create(const pkv_config* config, pkv_cache** cache) {
    if (config == NULL) return PKV_EINVAL;
    if (cache == NULL) return PKV_EINVAL;
    return pkvi_cache_create(config, cache);
}

void pkv_cache_destroy(pkv_cache* cache) {
    if (cache == NULL) return;
    pkvi_cache_destroy(cache);
}

int pkv_cache_stats(pkv_cache* cache, pkv_stats* stats) {
    if (cache == NULL) return PKV_EINVAL;
    if (stats == NULL) return PKV_EINVAL;
    const uint32_t known_bytes = stats->struct_size;
    if (known_bytes < sizeof stats->struct_size) return PKV_EINVAL;
    if (known_bytes > sizeof *stats) return PKV_EINVAL;
    pkv_stats all;
    pkvi_lock(cache);
    pkvi_settle(cache);
    pkvi_cache_stats(cache, &all);
    pkvi_unlock(cache, PKV_OK);
    all.struct_size = known_bytes;
    memcpy(stats, &all, known_bytes);
    return PKV_OK;
}

int pkv_cache_compact(pkv_cache* cache, uint32_t max_moves, uint32_t* moved) {
    if (cache == NULL) return PKV_EINVAL;
    if (moved == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_cache_compact(cache, max_moves, moved));
}

int pkv_cache_drop(pkv_cache* cache, uint32_t* dropped) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    const uint32_t count = pkvi_cache_drop(cache);
    if (dropped != NULL) *dropped = count;
    return pkvi_unlock(cache, PKV_OK);
}

const char* pkv_cache_isa(const pkv_cache* cache) {
    return cache == NULL ? NULL : cache->device->isa;
}

int pkv_cache_set_stream(pkv_cache* cache, void* stream) {
    if (cache == NULL) return PKV_EINVAL;
    const struct pkvi_device_ops* ops = cache->device->ops;
    return ops->set_stream != NULL ? ops->set_stream(cache->device, stream) : PKV_ENOTSUP;
}

const char* pkv_device_absent(const char* name) {
    return pkvi_device_absent(name != NULL ? name : "cpu");
}

int pkv_check(pkv_cache* cache, pkv_report* report) {
    pkv_report ignored;
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_check(cache, report != NULL ? report : &ignored));
}

int pkv_faults_set(pkv_cache* cache, const char* spec, uint64_t seed) {
    if (cache == NULL) return PKV_EINVAL;
    return pkvi_faults_set(&cache->faults, spec, seed); /* not under the lock: it ends a pause */
}

uint32_t pkv_fault_count(void) {
    return PKVI_FAULT_COUNT;
}

int pkv_fault_get(pkv_cache* cache, uint32_t index, pkv_fault_info* info) {
    if (info == NULL) return PKV_EINVAL;
    if (index >= PKVI_FAULT_COUNT) return PKV_ERANGE;
    const enum pkvi_fault_point point = (enum pkvi_fault_point)index;
    *info = (pkv_fault_info){.name = pkvi_fault_name(point), .meaning = pkvi_fault_meaning(point)};
    if (cache != NULL) pkvi_faults_counts(&cache->faults, point, &info->visits, &info->fired);
    return PKV_OK;
}

uint64_t pkv_clock_us(pkv_cache* cache) {
    return cache == NULL ? 0 : pkvi_clock_now_us(&cache->clock);
}

int pkv_clock_advance(pkv_cache* cache, uint64_t us) {
    if (cache == NULL) return PKV_EINVAL;
    if (!cache->clock.is_virtual) return PKV_ENOTSUP;
    pkvi_clock_advance(&cache->clock, us);
    return PKV_OK;
}

int pkv_trace_read(pkv_cache* cache, pkv_trace_event* events, uint32_t capacity, uint32_t* count) {
    if (cache == NULL) return PKV_EINVAL;
    if (count == NULL) return PKV_EINVAL;
    if (events == NULL && capacity > 0) return PKV_EINVAL;
    pkvi_lock(cache);
    *count = pkvi_trace_copy(&cache->trace, events, capacity);
    return pkvi_unlock(cache, PKV_OK);
}
