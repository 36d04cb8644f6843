/* pending.c - see pending.h. */
#include "core/pending.h"

#include "base/limits.h"
#include "core/cache.h"

static uint32_t bucket_count_for(uint32_t count) {
    uint32_t bits = 0;
    while (bits < PKVI_HASH_BITS_MAX && (1U << bits) < count)
        bits++;
    return 1U << bits;
}

int pkvi_pending_open(struct pkvi_pending* pending, struct pkvi_mem* mem, struct pkvi_hash_key key,
                      uint32_t count_max) {
    const uint32_t buckets = bucket_count_for(count_max);
    *pending = (struct pkvi_pending){.key = key,
                                     .bucket_mask = buckets - 1,
                                     .count_max = count_max,
                                     .free_count = count_max,
                                     .free_head = PKVI_NONE};
    PKVI_TRY(pkvi_mem_take(mem, count_max, sizeof *pending->entries, (void**)&pending->entries));
    PKVI_TRY(pkvi_mem_take(mem, buckets, sizeof *pending->buckets, (void**)&pending->buckets));
    for (uint32_t i = 0; i < buckets; i++)
        pending->buckets[i] = PKVI_NONE;
    for (uint32_t i = count_max; i-- > 0;) {
        pending->entries[i].next = pending->free_head;
        pending->free_head = i;
    }
    return PKV_OK;
}

void pkvi_pending_close(struct pkvi_pending* pending, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, pending->buckets);
    pkvi_mem_give(mem, pending->entries);
}

/* ---- Hashes ---------------------------------------------------------------------------------- */

/* The hash of a prefix that is one page longer. */
static uint64_t extend_hash(const pkv_cache* cache, const struct pkvi_seq* seq, uint64_t prefix,
                            const uint32_t* tokens, uint32_t page) {
    const uint32_t count = cache->pool.block_tokens;
    const uint32_t begin = page * count;
    const struct pkvi_hash_key key = cache->pending.key;
    const uint64_t parts[3] = {
        prefix, pkvi_extra_hash(&cache->prefix.extras, seq->extra, begin, begin + count),
        pkvi_hash(key, tokens + begin, count * sizeof *tokens)};
    return pkvi_hash(key, parts, sizeof parts);
}

static bool is_announced(const struct pkvi_pending* pending, uint64_t hash) {
    uint32_t entry = pending->buckets[hash & pending->bucket_mask];
    while (entry != PKVI_NONE && pending->entries[entry].hash != hash)
        entry = pending->entries[entry].next;
    return entry != PKVI_NONE;
}

/* ---- Entries --------------------------------------------------------------------------------- */

static uint32_t add(struct pkvi_pending* pending, uint64_t hash, uint32_t page) {
    const uint32_t index = pending->free_head;
    struct pkvi_announcement* entry = &pending->entries[index];
    uint32_t* bucket = &pending->buckets[hash & pending->bucket_mask];
    pending->free_head = entry->next;
    pending->free_count--;
    *entry = (struct pkvi_announcement){hash, page, *bucket, PKVI_NONE};
    *bucket = index;
    return index;
}

static void drop(struct pkvi_pending* pending, uint32_t index) {
    struct pkvi_announcement* entry = &pending->entries[index];
    uint32_t* link = &pending->buckets[entry->hash & pending->bucket_mask];
    while (*link != index)
        link = &pending->entries[*link].next;
    *link = entry->next;
    entry->next = pending->free_head;
    pending->free_head = index;
    pending->free_count++;
}

void pkvi_pending_release(struct pkvi_pending* pending, struct pkvi_seq* seq, uint32_t end) {
    while (seq->announced != PKVI_NONE && pending->entries[seq->announced].page < end) {
        const uint32_t entry = seq->announced;
        seq->announced = pending->entries[entry].next_page;
        drop(pending, entry);
    }
}

void pkvi_pending_announce(pkv_cache* cache, struct pkvi_seq* seq, const uint32_t* tokens,
                           uint32_t count) {
    struct pkvi_pending* pending = &cache->pending;
    const uint32_t block_tokens = cache->pool.block_tokens;
    const uint32_t first = pkvi_pool_page(&cache->pool, seq->length);
    uint32_t* link = &seq->announced;
    uint64_t hash = seq->tenant;
    pkvi_pending_release(pending, seq, UINT32_MAX);
    for (uint32_t page = 0; page < count / block_tokens && pending->free_count > 0; page++) {
        hash = extend_hash(cache, seq, hash, tokens, page);
        if (page < first) continue;
        *link = add(pending, hash, page);
        link = &pending->entries[*link].next_page;
    }
}

uint32_t pkvi_pending_pages(const pkv_cache* cache, const struct pkvi_seq* seq,
                            const uint32_t* tokens, uint32_t count, uint32_t page) {
    const struct pkvi_pending* pending = &cache->pending;
    const uint32_t block_tokens = cache->pool.block_tokens;
    uint64_t hash = seq->tenant;
    uint32_t end = 0;
    if (pending->free_count == pending->count_max || !pkvi_seq_is_cached(cache, seq)) return 0;
    for (; end < count / block_tokens; end++) {
        hash = extend_hash(cache, seq, hash, tokens, end);
        if (end >= page && !is_announced(pending, hash)) break;
    }
    return end > page ? end - page : 0;
}
