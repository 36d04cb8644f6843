/* api_arena.c - the public functions on arenas that caches share. */
#include "api/api.h"
#include "core/arena_shared.h"

#include <string.h>

int pkv_arena_config_init(pkv_arena_config* config, uint32_t version) {
    if (config == NULL) return PKV_EINVAL;
    if ((version ^ PKV_VERSION) >> 8 != 0) return PKV_EVERSION;
    memset(config, 0, sizeof *config);
    config->struct_size = sizeof *config;
    config->version = version;
    return PKV_OK;
}

int pkv_arena_config_check(const pkv_arena_config* config, const char** why) {
    const char* ignored;
    pkv_arena_config resolved;
    if (why == NULL) why = &ignored;
    if (config == NULL) {
        *why = "config: must not be NULL";
        return PKV_EINVAL;
    }
    return pkvi_arena_resolve(config, &resolved, why);
}

int pkv_arena_create(const pkv_arena_config* config, pkv_arena** arena) {
    if (config == NULL) return PKV_EINVAL;
    if (arena == NULL) return PKV_EINVAL;
    return pkvi_arena_create(config, arena);
}

int pkv_arena_destroy(pkv_arena* arena) {
    return arena == NULL ? PKV_OK : pkvi_arena_destroy(arena);
}

int pkv_arena_resize(pkv_arena* arena, uint64_t bytes) {
    if (arena == NULL) return PKV_EINVAL;
    pthread_mutex_lock(&arena->lock);
    const int status = pkvi_arena_resize(arena, bytes);
    pthread_mutex_unlock(&arena->lock);
    return status;
}

int pkv_arena_get_stats(pkv_arena* arena, pkv_arena_stats* stats) {
    if (arena == NULL) return PKV_EINVAL;
    if (stats == NULL) return PKV_EINVAL;
    const uint32_t known_bytes = stats->struct_size;
    if (known_bytes < sizeof stats->struct_size) return PKV_EINVAL;
    if (known_bytes > sizeof *stats) return PKV_EINVAL;
    pkv_arena_stats all;
    pthread_mutex_lock(&arena->lock);
    pkvi_arena_stats(arena, &all);
    pthread_mutex_unlock(&arena->lock);
    all.struct_size = known_bytes;
    memcpy(stats, &all, known_bytes);
    return PKV_OK;
}
