/* check_retain.c - the part of the judge (check.h) that recounts what is retained. */
#include "core/cache.h"
#include "core/check_parts.h"

static uint64_t fold(uint64_t digest, uint64_t value) {
    uint64_t state = digest ^ value;
    return pkvi_random_next(&state);
}

static const char* check_row(const pkv_cache* cache, uint32_t number) {
    const struct pkvi_retention* retention = &cache->prefix.shared.retention;
    const struct pkvi_retained* row = &retention->rows[number];
    EXPECT(row->block < cache->pool.block_count, "K1");
    EXPECT(retention->row_of[row->block] == number, "K1");
    EXPECT(cache->pool.blocks[row->block].refs > 0, "K1");
    EXPECT(row->terms.level < PKVI_LEVELS && !pkvi_terms_are_default(&row->terms), "K1");
    const bool is_idle = pkvi_prefix_is_idle(&cache->prefix, row->block);
    EXPECT((row->since_us != PKVI_NEVER) == is_idle, "K3");
    EXPECT(row->place == PKVI_NONE || row->place < retention->heap_count, "K3");
    EXPECT(row->place == PKVI_NONE || retention->heap[row->place] == number, "K3");
    EXPECT((row->place != PKVI_NONE) == (pkvi_retained_due_us(row) != PKVI_NEVER), "K3");
    return NULL;
}

/* Every row is free or that of a block; a block's row is its own. */
static const char* check_rows(const pkv_cache* cache) {
    const struct pkvi_retention* retention = &cache->prefix.shared.retention;
    uint32_t free = 0;
    uint32_t used = 0;
    for (uint32_t row = retention->free_head; row != PKVI_NONE; row = retention->rows[row].next) {
        EXPECT(row < retention->row_count, "K1");
        EXPECT(retention->rows[row].block == PKVI_NONE, "K1");
        EXPECT(++free <= retention->row_count, "K1");
    }
    for (uint32_t row = 0; row < retention->row_count; row++) {
        if (retention->rows[row].block == PKVI_NONE) continue;
        used++;
        CHECK(check_row(cache, row));
    }
    EXPECT(used == retention->used, "K1");
    EXPECT(used + free == retention->row_count, "K1");
    uint32_t retained = 0;
    for (uint32_t b = 0; b < cache->pool.block_count; b++)
        retained += retention->row_of[b] != PKVI_NONE;
    EXPECT(retained == used, "K1");
    return NULL;
}

static const char* check_heap(const struct pkvi_retention* retention) {
    EXPECT(retention->heap_count <= retention->used, "K3");
    for (uint32_t place = 1; place < retention->heap_count; place++) {
        const struct pkvi_retained* row = &retention->rows[retention->heap[place]];
        const struct pkvi_retained* parent = &retention->rows[retention->heap[(place - 1) / 2]];
        const uint64_t due = pkvi_retained_due_us(row);
        const uint64_t parent_due = pkvi_retained_due_us(parent);
        EXPECT(parent_due < due || (parent_due == due && parent->turn < row->turn), "K3");
    }
    return NULL;
}

static const char* check_level(const pkv_cache* cache, uint32_t account, uint32_t number,
                               uint32_t* listed) {
    const struct pkvi_retained* rows = cache->prefix.shared.retention.rows;
    const struct pkvi_level* level = &cache->prefix.domains[account].levels->level[number];
    uint32_t previous = PKVI_NONE;
    for (uint32_t row = level->head; row != PKVI_NONE; row = rows[row].next) {
        EXPECT(row < cache->prefix.shared.retention.row_count, "K2");
        EXPECT(rows[row].block != PKVI_NONE && rows[row].terms.level == number, "K2");
        EXPECT(rows[row].previous == previous, "K2");
        EXPECT(previous == PKVI_NONE || rows[previous].turn < rows[row].turn, "K2");
        EXPECT(pkvi_prefix_is_idle(&cache->prefix, rows[row].block), "K2");
        EXPECT(cache->pool.blocks[rows[row].block].account == account, "K2");
        EXPECT(++*listed <= cache->prefix.domains[account].levels->count, "K2");
        previous = row;
    }
    EXPECT(level->tail == previous, "K2");
    return NULL;
}

const char* pkvi_check_levels(const pkv_cache* cache, uint32_t account, uint32_t* idle) {
    const struct pkvi_levels* levels = cache->prefix.domains[account].levels;
    uint32_t listed = 0;
    uint32_t lower = 0;
    if (levels == NULL) return NULL;
    for (uint32_t level = 0; level < PKVI_LEVELS; level++) {
        if (level == PKV_PRIORITY_DEFAULT) lower = listed;
        CHECK(check_level(cache, account, level, &listed));
    }
    EXPECT(levels->level[PKV_PRIORITY_DEFAULT].head == PKVI_NONE, "K2");
    EXPECT(listed == levels->count, "K2");
    EXPECT(lower == levels->lower_count, "K2");
    *idle += listed;
    return NULL;
}

const char* pkvi_check_retention(const pkv_cache* cache) {
    const struct pkvi_retention* retention = &cache->prefix.shared.retention;
    if (retention->row_count == 0) return NULL;
    CHECK(check_rows(cache));
    return check_heap(retention);
}

uint64_t pkvi_digest_retention(const pkv_cache* cache) {
    const struct pkvi_retention* retention = &cache->prefix.shared.retention;
    uint64_t digest = 0;
    for (uint32_t i = 0; i < retention->row_count; i++) {
        const struct pkvi_retained* row = &retention->rows[i];
        if (row->block == PKVI_NONE) continue;
        digest = fold(digest, (uint64_t)row->block << 32 | row->terms.level);
        digest = fold(digest, row->terms.duration_us);
        digest = fold(digest, row->terms.ttl_us);
        digest = fold(digest, row->turn);
    }
    return digest;
}
