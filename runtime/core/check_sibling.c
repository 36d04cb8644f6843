/* check_sibling.c - recounts the chains of siblings (X5). The nodes themselves have been checked. */
#include "core/check_parts.h"

#include "core/cache.h"
#include "core/sibling.h"

/* Does a node whose parent is still there belong elsewhere? */
static bool has_moved(const struct pkvi_prefix* prefix, uint32_t block, uint32_t bucket) {
    const struct pkvi_node* node = &prefix->nodes[block];
    if (pkvi_prefix_generation(prefix, node->parent) != node->parent_generation) return false;
    return pkvi_sibling_bucket(prefix, block) != bucket;
}

static const char* check_chain(const pkv_cache* cache, uint32_t bucket, uint32_t* chained) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    uint32_t previous = PKVI_SIBLING_FIRST + bucket;
    for (uint32_t b = prefix->siblings[bucket]; b != PKVI_NONE; b = prefix->nodes[b].sibling_next) {
        if (b >= cache->pool.block_count) return "X5";
        if (!prefix->nodes[b].indexed) return "X5";
        if (prefix->nodes[b].sibling_previous != previous) return "X5";
        if (has_moved(prefix, b, bucket)) return "X5";
        if (++*chained > prefix->node_count) return "X5"; /* a ring */
        previous = b;
    }
    return NULL;
}

const char* pkvi_check_siblings(const pkv_cache* cache) {
    uint32_t chained = 0;
    for (uint32_t bucket = 0; bucket < cache->prefix.sibling_count; bucket++) {
        const char* broken = check_chain(cache, bucket, &chained);
        if (broken != NULL) return broken;
    }
    return chained == cache->prefix.node_count ? NULL : "X5";
}
