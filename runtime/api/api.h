/* api.h - what the public functions share: a lock around the books, and checks of arrays.
 *
 * This layer looks at arguments, takes the lock, and calls the core. Nothing below it checks a
 * pointer again, nothing above it exists. */
#ifndef PKVI_API_API_H
#define PKVI_API_API_H

#include "core/cache.h"

static inline void pkvi_lock(pkv_cache* cache) {
    pthread_mutex_lock(&cache->arena->lock);
}

/* Unlock and hand `status` on, so that a function can end with it. */
static inline int pkvi_unlock(pkv_cache* cache, int status) {
    pthread_mutex_unlock(&cache->arena->lock);
    return status;
}

/* Check an array of [rows][heads][dim] and fill in its strides.
 * is_written  elements must then not overlap each other.
 * Errors      PKV_EINVAL. */
int pkvi_array_resolve(const pkv_array* array, uint32_t rows, uint32_t heads, uint32_t dim,
                       bool is_written, pkv_array* resolved);

#endif
