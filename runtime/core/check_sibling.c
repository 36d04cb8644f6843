/* check_sibling.c - recounts the chains of siblings (X5). The nodes themselves have been checked. */
#include "core/check_parts.h"

#include "core/cache.h"
#include "core/sibling.h"

static const char* check_chain(const pkv_cache* cache, uint32_t bucket, uint32_t* chained) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    uint32_t previous = PKVI_NONE;
    for (uint32_t b = prefix->siblings[bucket]; b != PKVI_NONE; b = prefix->sibling_next[b]) {
        if (b >= cache->pool.block_count) return "X5";
        if (!prefix->indexed[b]) return "X5";
        if (prefix->sibling_previous[b] != previous) return "X5";
        if (pkvi_sibling_bucket(prefix, b) != bucket) return "X5";
        if (++*chained > prefix->node_count) return "X5"; /* a ring */
        previous = b;
    }
    return NULL;
}

const char* pkvi_check_siblings(const pkv_cache* cache) {
    uint32_t chained = 0;
    for (uint32_t bucket = 0; bucket <= cache->prefix.bucket_mask; bucket++) {
        const char* broken = check_chain(cache, bucket, &chained);
        if (broken != NULL) return broken;
    }
    return chained == cache->prefix.node_count ? NULL : "X5";
}
