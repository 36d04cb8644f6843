/* window.c - see window.h. */
#include "core/window.h"

#include "core/cache.h"

/* Tokens before this position are behind the window of a sequence of `length` tokens. */
static uint32_t window_begin(const pkv_cache* cache, uint32_t length) {
    const uint32_t window = cache->layout.group.window;
    return window > 0 && length > window ? length - window : 0;
}

/* First page that may roll off: the sinks stay. */
static uint32_t first_rollable_page(const pkv_cache* cache) {
    return pkvi_pool_pages(&cache->pool, cache->layout.group.sinks);
}

bool pkvi_window_is_past(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t length) {
    const uint32_t first = first_rollable_page(cache);
    if (seq->rolled_end <= first) return false;
    if (length <= (uint64_t)first * cache->pool.block_tokens) return false; /* sinks only */
    return (uint64_t)seq->rolled_end * cache->pool.block_tokens > window_begin(cache, length);
}

void pkvi_window_roll(pkv_cache* cache, struct pkvi_seq* seq) {
    const uint32_t end = pkvi_pool_page(&cache->pool, window_begin(cache, seq->length));
    const uint32_t first = first_rollable_page(cache);
    if (seq->rolled_end < first) seq->rolled_end = first;
    for (; seq->rolled_end < end; seq->rolled_end++) {
        const uint32_t page = seq->rolled_end;
        if (pkvi_table_is_shared(&cache->leaves, &seq->table, page)) {
            if (cache->leaves.free_count == 0) return;
            pkvi_table_own(&cache->leaves, &seq->table, page);
        }
        const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
        pkvi_table_set(&cache->leaves, &seq->table, page, PKV_NO_BLOCK);
        pkvi_prefix_unref(&cache->prefix, block);
        seq->version++;
        cache->stats.rolled_blocks++;
    }
}

/* The last page that is a node, when there are nodes before the window that are not held. */
static uint32_t last_node(const pkv_cache* cache, const struct pkvi_seq* seq) {
    if (seq->rolled_end <= first_rollable_page(cache)) return PKVI_NONE;
    for (uint32_t page = seq->table.pages; page-- > seq->rolled_end;) {
        const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
        if (cache->prefix.nodes[block].indexed) return block;
    }
    return PKVI_NONE;
}

void pkvi_window_leave(pkv_cache* cache, struct pkvi_seq* seq) {
    uint32_t node = last_node(cache, seq);
    pkvi_table_cut(&cache->leaves, &seq->table, 0);
    for (; node != PKVI_NONE; node = pkvi_prefix_parent(&cache->prefix, node))
        if (pkvi_prefix_is_idle(&cache->prefix, node)) pkvi_prefix_rest_again(&cache->prefix, node);
}
