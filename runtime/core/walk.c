/* walk.c - see walk.h. */
#include "core/walk.h"

#include "core/cache.h"
#include "core/sibling.h"
#include <string.h>

struct pkvi_place pkvi_walk_place(const pkv_cache* cache, const struct pkvi_seq* seq,
                                  uint32_t parent, uint32_t page) {
    return (struct pkvi_place){seq->tenant, parent, seq->extra, page * cache->pool.block_tokens,
                               false};
}

/* Walk the index along `tokens` from `page` on, behind `parent`, among published nodes only or among
 * all; blocks found go to `blocks`. Returns the first page that is not found. */
static uint32_t walk_pages(const pkv_cache* cache, const struct pkvi_seq* seq,
                           const uint32_t* tokens, uint32_t page, uint32_t pages, uint32_t parent,
                           bool is_public, uint32_t* blocks) {
    for (; page < pages; page++) {
        struct pkvi_place place = pkvi_walk_place(cache, seq, parent, page);
        place.is_public = is_public;
        const uint32_t block = pkvi_prefix_find(&cache->prefix, &place, tokens + place.begin);
        if (block == PKVI_NONE) return page;
        blocks[page] = block;
        parent = block;
    }
    return pages;
}

/* Look for a hit in the middle of the page behind `pages` found ones; its block goes to `blocks`.
 * Returns how many tokens it has. */
static uint32_t find_tail(const pkv_cache* cache, const struct pkvi_seq* seq,
                          const uint32_t* tokens, uint32_t count, uint32_t pages,
                          uint32_t* blocks) {
    const uint32_t parent = pages > 0 ? blocks[pages - 1] : PKVI_NONE;
    const struct pkvi_place place = pkvi_walk_place(cache, seq, parent, pages);
    uint32_t common;
    if (pages == cache->pool.limit || place.begin == count) return 0;
    const uint32_t piece = pkvi_pool_piece(&cache->pool, place.begin, count - place.begin);
    blocks[pages] =
        pkvi_sibling_longest(&cache->prefix, &place, tokens + place.begin, piece, &common);
    return common;
}

/* The first of `pages` found ones that is the tenant's alone. */
static uint32_t first_own(const pkv_cache* cache, const uint32_t* blocks, uint32_t pages) {
    uint32_t page = 0;
    while (page < pages && cache->prefix.nodes[blocks[page]].published)
        page++;
    return page;
}

/* Go on from the first own page along published nodes as long as there are any, when that leads
 * further than `found` pages and `*tail` tokens. Returns the pages found. */
static uint32_t prefer_published(const pkv_cache* cache, const struct pkvi_seq* seq,
                                 const uint32_t* tokens, uint32_t count, uint32_t pages,
                                 uint32_t found, uint32_t* blocks, uint32_t* tail) {
    uint32_t* const way = cache->checker.block_refs;
    const uint32_t own = first_own(cache, blocks, found);
    const uint32_t parent = own > 0 ? blocks[own - 1] : PKVI_NONE;
    const uint32_t end = walk_pages(cache, seq, tokens, own, pages, parent, true, way);
    if (end == own) return found;
    const uint32_t more = walk_pages(cache, seq, tokens, end, pages, way[end - 1], false, way);
    const uint32_t more_tail = find_tail(cache, seq, tokens, count, more, way);
    const uint32_t block_tokens = cache->pool.block_tokens;
    if (more * block_tokens + more_tail <= found * block_tokens + *tail) return found;
    memcpy(blocks + own, way + own, (more + (more_tail > 0) - own) * sizeof *blocks);
    *tail = more_tail;
    return more;
}

uint32_t pkvi_walk(const pkv_cache* cache, const struct pkvi_seq* seq, const uint32_t* tokens,
                   uint32_t count, uint32_t* blocks, uint32_t* tail) {
    uint32_t pages = pkvi_pool_page(&cache->pool, count);
    *tail = 0;
    if (!pkvi_seq_is_cached(cache, seq)) return 0;
    if (pages > cache->pool.limit) pages = cache->pool.limit;
    const uint32_t found = walk_pages(cache, seq, tokens, 0, pages, PKVI_NONE, false, blocks);
    *tail = find_tail(cache, seq, tokens, count, found, blocks);
    if (cache->prefix.published_count == 0) return found;
    if (found * cache->pool.block_tokens + *tail == count) return found;
    return prefer_published(cache, seq, tokens, count, pages, found, blocks, tail);
}
