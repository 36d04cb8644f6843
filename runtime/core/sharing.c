/* sharing.c - the verbs by which a sequence says what may be shared with whom: extra keys,
 * announcements, publishing. */
#include "core/cache.h"
#include "core/seq.h"

int pkvi_seq_set_keys(pkv_cache* cache, struct pkvi_seq* seq, const void* salt, uint32_t salt_bytes,
                      const pkv_extra_key* keys, uint32_t count) {
    struct pkvi_extras* extras = &cache->prefix.extras;
    PKVI_TRY(pkvi_seq_check_idle(seq));
    if (seq->length + seq->reserved > 0) return PKV_EBUSY;
    PKVI_TRY(pkvi_extra_check(extras, salt, salt_bytes, keys, count));
    pkvi_pending_release(&cache->pending, seq, UINT32_MAX);
    pkvi_extra_release(extras, seq->extra);
    seq->extra = PKVI_NO_EXTRA;
    seq->is_uncached = false;
    if (salt_bytes > 0 || count > 0)
        seq->is_uncached = !pkvi_extra_take(extras, salt, salt_bytes, keys, count, &seq->extra);
    return PKV_OK;
}

int pkvi_seq_announce(pkv_cache* cache, struct pkvi_seq* seq, const uint32_t* tokens,
                      uint32_t count) {
    PKVI_TRY(pkvi_seq_check_idle(seq));
    if (count > cache->config.sequence_tokens_max) return PKV_ETOOBIG;
    if (!pkvi_seq_is_cached(cache, seq)) count = 0; /* nobody would find what is announced */
    pkvi_pending_announce(cache, seq, tokens, count);
    return PKV_OK;
}

/* Publish one page behind `parent`; the published node that has it then, or PKVI_NONE. */
static uint32_t publish_page(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t page,
                             uint32_t parent) {
    struct pkvi_prefix* prefix = &cache->prefix;
    const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
    if (block == PKV_NO_BLOCK) return PKVI_NONE;
    if (!pkvi_prefix_is_full(prefix, block)) return PKVI_NONE;
    const struct pkvi_place place = {seq->tenant, parent, prefix->nodes[block].extra,
                                     pkvi_prefix_begin(prefix, block), true};
    const uint32_t equal = pkvi_prefix_find(prefix, &place, pkvi_pool_tokens(&cache->pool, block));
    if (equal != PKVI_NONE) return equal;
    pkvi_prefix_publish(prefix, block, parent);
    return block;
}

int pkvi_seq_publish(pkv_cache* cache, struct pkvi_seq* seq, uint32_t count, uint32_t* published) {
    PKVI_TRY(pkvi_seq_check_idle(seq));
    if (count > seq->length) return PKV_ERANGE;
    const uint32_t pages = pkvi_pool_page(&cache->pool, count);
    uint32_t parent = PKVI_NONE;
    uint32_t page = 0;
    for (; page < pages; page++) {
        const uint32_t node = publish_page(cache, seq, page, parent);
        if (node == PKVI_NONE) break;
        parent = node;
    }
    *published = page * cache->pool.block_tokens;
    pkvi_trace_note(&cache->trace, "seq.publish", pkvi_seq_handle(&cache->seqs, seq).id,
                    *published);
    return PKV_OK;
}
