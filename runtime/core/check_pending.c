/* check_pending.c - recounts what sequences have announced (N2). */
#include "core/check_parts.h"

#include "core/cache.h"

static bool is_in_bucket(const struct pkvi_pending* pending, uint32_t entry) {
    uint32_t i = pending->buckets[pending->entries[entry].hash & pending->bucket_mask];
    for (uint32_t seen = 0; i != PKVI_NONE && i < pending->count_max; seen++) {
        if (i == entry) return true;
        if (seen > pending->count_max) return false; /* a ring */
        i = pending->entries[i].next;
    }
    return false;
}

/* The entries of one sequence, in the order of pages that it has still to commit. */
static const char* check_seq(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t* named) {
    const struct pkvi_pending* pending = &cache->pending;
    uint32_t first = seq->length / cache->pool.block_tokens;
    for (uint32_t i = seq->announced; i != PKVI_NONE; i = pending->entries[i].next_page) {
        if (i >= pending->count_max) return "N2";
        if (pending->entries[i].page < first) return "N2";
        if (!is_in_bucket(pending, i)) return "N2";
        if (++*named > pending->count_max) return "N2"; /* a ring */
        first = pending->entries[i].page + 1;
    }
    return NULL;
}

static uint32_t count_filed(const struct pkvi_pending* pending) {
    uint32_t filed = 0;
    for (uint32_t bucket = 0; bucket <= pending->bucket_mask; bucket++)
        for (uint32_t i = pending->buckets[bucket]; i != PKVI_NONE && filed <= pending->count_max;
             i = pending->entries[i].next)
            filed++;
    return filed;
}

const char* pkvi_check_pending(const pkv_cache* cache) {
    const struct pkvi_pending* pending = &cache->pending;
    uint32_t named = 0;
    uint32_t free = 0;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        if (!cache->seqs.slots[i].alive) continue;
        const char* broken = check_seq(cache, &cache->seqs.slots[i], &named);
        if (broken != NULL) return broken;
    }
    for (uint32_t i = pending->free_head; i != PKVI_NONE; i = pending->entries[i].next)
        if (++free > pending->count_max) return "N2";
    if (free != pending->free_count) return "N2";
    if (named + free != pending->count_max) return "N2";
    return count_filed(pending) == named ? NULL : "N2";
}

uint64_t pkvi_digest_pending(const pkv_cache* cache) {
    const struct pkvi_pending* pending = &cache->pending;
    uint64_t digest = pending->free_count;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        const struct pkvi_seq* seq = &cache->seqs.slots[i];
        uint32_t entry = seq->alive ? seq->announced : PKVI_NONE;
        for (; entry != PKVI_NONE; entry = pending->entries[entry].next_page) {
            uint64_t state = digest ^ pending->entries[entry].hash ^ i;
            digest = pkvi_random_next(&state);
        }
    }
    return digest;
}
