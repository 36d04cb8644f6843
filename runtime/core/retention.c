/* retention.c - see retention.h. */
#include "core/retention.h"

#include "core/cache.h"

/* Pages [begin, end) of a sequence whose blocks can be retained. */
struct pages {
    uint32_t begin;
    uint32_t end;
};

/* Those that positions [begin, end) touch. Pages of unknown tokens are never cached. */
static struct pages touched_pages(const pkv_cache* cache, const struct pkvi_seq* seq,
                                  uint32_t begin, uint32_t end) {
    if (end > seq->known) end = seq->known;
    if (begin >= end || !pkvi_seq_is_cached(cache, seq)) return (struct pages){0, 0};
    return (struct pages){pkvi_pool_page(&cache->pool, begin), pkvi_pool_pages(&cache->pool, end)};
}

/* The block of a page, or PKVI_NONE: it has rolled off, or is another tenant's, who published it. */
static uint32_t own_block(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t page) {
    const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
    if (block == PKV_NO_BLOCK) return PKVI_NONE;
    return cache->pool.blocks[block].owner == seq->tenant ? block : PKVI_NONE;
}

/* Rows that have to be taken for the pages. */
static uint32_t count_new_rows(const pkv_cache* cache, const struct pkvi_seq* seq,
                               struct pages pages) {
    uint32_t rows = 0;
    for (uint32_t page = pages.begin; page < pages.end; page++) {
        const uint32_t block = own_block(cache, seq, page);
        if (block != PKVI_NONE) rows += !pkvi_is_retained(&cache->prefix.shared.retention, block);
    }
    return rows;
}

static void set_terms(struct pkvi_retention* retention, uint32_t block,
                      const struct pkvi_terms* terms) {
    if (terms != NULL)
        pkvi_retain(retention, block, terms);
    else if (pkvi_is_retained(retention, block))
        pkvi_retain_forget(retention, block);
}

static uint32_t set_all(pkv_cache* cache, const struct pkvi_seq* seq, struct pages pages,
                        const struct pkvi_terms* terms) {
    uint32_t blocks = 0;
    for (uint32_t page = pages.begin; page < pages.end; page++) {
        const uint32_t block = own_block(cache, seq, page);
        if (block == PKVI_NONE) continue;
        set_terms(&cache->prefix.shared.retention, block, terms);
        blocks++;
    }
    return blocks;
}

int pkvi_seq_retain(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t begin, uint32_t end,
                    const struct pkvi_terms* terms, uint32_t* retained) {
    const struct pkvi_retention* retention = &cache->prefix.shared.retention;
    if (retention->row_count == 0) return PKV_ENOTSUP;
    PKVI_TRY(pkvi_seq_check_resident(seq));
    if (begin > end || end > seq->length) return PKV_ERANGE;
    pkvi_settle(cache); /* rows of what is over are free */
    const struct pages pages = touched_pages(cache, seq, begin, end);
    const bool takes_rows = terms != NULL && !pkvi_terms_are_default(terms);
    if (takes_rows && count_new_rows(cache, seq, pages) > retention->row_count - retention->used)
        return PKV_ETOOBIG;
    *retained = set_all(cache, seq, pages, terms);
    pkvi_trace_note(&cache->trace, "seq.retain", pkvi_seq_handle(&cache->seqs, seq).id, *retained);
    return PKV_OK;
}

/* ---- What comes due -------------------------------------------------------------------------- */

static void expire(pkv_cache* cache, uint32_t block) {
    pkvi_prefix_drop(&cache->prefix, block);
    pkvi_trace_note_often(&cache->trace, "prefix.expire", block, 0);
    cache->stats.expirations++;
}

static void lapse(pkv_cache* cache, uint32_t block) {
    pkvi_prefix_lapse(&cache->prefix, block);
    pkvi_trace_note_often(&cache->trace, "prefix.lapse", block, 0);
}

void pkvi_retention_settle(pkv_cache* cache, uint64_t now_us) {
    const struct pkvi_retention* retention = &cache->prefix.shared.retention;
    uint32_t block;
    while (pkvi_retain_due_us(retention, &block) <= now_us) {
        if (pkvi_retain_is_over(retention, block, now_us))
            expire(cache, block);
        else
            lapse(cache, block);
    }
}
