/* check_extra.c - recounts sets of extra keys (E1) and published nodes (X6). */
#include "core/check_parts.h"

#include "core/cache.h"

static uint32_t count_holders(const pkv_cache* cache, uint32_t id) {
    uint32_t holders = 0;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        const struct pkvi_seq* seq = &cache->seqs.slots[i];
        holders += seq->alive && seq->extra == id;
    }
    return holders;
}

static bool is_filed(const struct pkvi_extras* extras, uint32_t slot) {
    uint32_t i = extras->buckets[extras->slots[slot].hash & extras->bucket_mask];
    for (uint32_t seen = 0; i < extras->count_max && seen <= extras->count_max; seen++) {
        if (i == slot) return true;
        i = extras->slots[i].chain;
    }
    return false;
}

const char* pkvi_check_extras(const pkv_cache* cache) {
    const struct pkvi_extras* extras = &cache->prefix.extras;
    uint32_t held = 0;
    uint32_t free = 0;
    for (uint32_t i = 0; i < extras->count_max; i++) {
        const struct pkvi_extra_slot* slot = &extras->slots[i];
        held += slot->holders > 0;
        if (slot->id == PKVI_NO_EXTRA) continue;
        if (slot->holders != count_holders(cache, slot->id)) return "E1";
        if (!is_filed(extras, i)) return "E1";
    }
    for (uint32_t i = extras->free_head; i != PKVI_NONE; i = extras->slots[i].next) {
        if (extras->slots[i].holders > 0) return "E1";
        if (++free > extras->count_max) return "E1"; /* a ring */
    }
    return held + free == extras->count_max ? NULL : "E1";
}

const char* pkvi_check_published(const pkv_cache* cache) {
    uint32_t published = 0;
    for (uint32_t b = 0; b < cache->pool.block_count; b++) {
        published += cache->prefix.nodes[b].published;
        if (cache->prefix.nodes[b].published && !pkvi_prefix_is_full(&cache->prefix, b))
            return "X6";
    }
    return published == cache->prefix.published_count ? NULL : "X6";
}

bool pkvi_check_extras_are_equal(const pkv_cache* cache, uint32_t a, uint32_t b) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    const uint32_t fill = pkvi_prefix_fill(prefix, a);
    return pkvi_extra_common(&prefix->extras, prefix->nodes[a].extra, prefix->nodes[b].extra,
                             pkvi_prefix_begin(prefix, a), fill) == fill;
}
