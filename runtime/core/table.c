/* table.c - see table.h for the picture and the invariants. */
#include "core/table.h"

#include <assert.h>

int pkvi_leaves_open(struct pkvi_leaves* leaves, struct pkvi_prefix* prefix, struct pkvi_mem* mem,
                     uint32_t leaf_count) {
    *leaves = (struct pkvi_leaves){
        .prefix = prefix, .leaf_count = leaf_count, .free_count = leaf_count, .free_head = 0};
    PKVI_TRY(pkvi_mem_take(mem, leaf_count, sizeof(uint32_t), (void**)&leaves->next));
    PKVI_TRY(pkvi_mem_take(mem, leaf_count, sizeof(uint32_t), (void**)&leaves->refs));
    PKVI_TRY(pkvi_mem_take(mem, leaf_count, PKVI_LEAF_PAGES * sizeof(uint32_t),
                           (void**)&leaves->entries));
    for (uint32_t leaf = 0; leaf < leaf_count; leaf++)
        leaves->next[leaf] = leaf + 1 < leaf_count ? leaf + 1 : PKVI_NONE;
    return PKV_OK;
}

void pkvi_leaves_close(struct pkvi_leaves* leaves, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, leaves->entries);
    pkvi_mem_give(mem, leaves->refs);
    pkvi_mem_give(mem, leaves->next);
}

/* Pages of `table` that lie in the leaf at `index` of its directory. */
static uint32_t leaf_fill(const struct pkvi_table* table, uint32_t index) {
    const uint32_t rest = table->pages - index * PKVI_LEAF_PAGES;
    return rest < PKVI_LEAF_PAGES ? rest : PKVI_LEAF_PAGES;
}

static uint32_t take_leaf(struct pkvi_leaves* leaves) {
    assert(leaves->free_count > 0);
    const uint32_t leaf = leaves->free_head;
    leaves->free_head = leaves->next[leaf];
    leaves->free_count--;
    assert(leaves->refs[leaf] == 0);
    leaves->refs[leaf] = 1;
    return leaf;
}

static void free_leaf(struct pkvi_leaves* leaves, uint32_t leaf) {
    leaves->next[leaf] = leaves->free_head;
    leaves->free_head = leaf;
    leaves->free_count++;
}

void pkvi_table_set(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t page,
                    uint32_t block) {
    assert(!pkvi_table_is_shared(leaves, table, page));
    *pkvi_table_entry(leaves, table, page) = block;
}

bool pkvi_table_is_shared(const struct pkvi_leaves* leaves, const struct pkvi_table* table,
                          uint32_t page) {
    assert(page < table->pages);
    return leaves->refs[table->leaves[page / PKVI_LEAF_PAGES]] > 1;
}

/* Replace the shared leaf at `index` by a private one with its first `kept` entries. */
static void copy_leaf(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t index,
                      uint32_t kept) {
    const uint32_t shared = table->leaves[index];
    const uint32_t own = take_leaf(leaves);
    const uint32_t* from = pkvi_leaf_entries(leaves, shared);
    uint32_t* to = pkvi_leaf_entries(leaves, own);
    for (uint32_t i = 0; i < kept; i++) {
        to[i] = from[i];
        if (to[i] != PKV_NO_BLOCK) pkvi_prefix_ref(leaves->prefix, to[i]);
    }
    leaves->refs[shared]--;
    table->leaves[index] = own;
}

void pkvi_table_own(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t page) {
    const uint32_t index = page / PKVI_LEAF_PAGES;
    if (pkvi_table_is_shared(leaves, table, page))
        copy_leaf(leaves, table, index, leaf_fill(table, index));
}

void pkvi_table_push(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t block) {
    const uint32_t index = table->pages / PKVI_LEAF_PAGES;
    if (table->pages % PKVI_LEAF_PAGES == 0) table->leaves[index] = take_leaf(leaves);
    table->pages++;
    pkvi_table_set(leaves, table, table->pages - 1, block);
}

enum { LEAF_UNSEEN, LEAF_SAME, LEAF_CHANGED }; /* in this order */

static uint32_t follow_leaf(uint32_t* entries, uint32_t fill, const uint32_t* forward) {
    uint32_t result = LEAF_SAME;
    for (uint32_t i = 0; i < fill; i++) {
        if (entries[i] == PKV_NO_BLOCK || forward[entries[i]] == PKVI_NONE) continue;
        entries[i] = forward[entries[i]];
        result = LEAF_CHANGED;
    }
    return result;
}

bool pkvi_table_follow(struct pkvi_leaves* leaves, const struct pkvi_table* table,
                       const uint32_t* forward, uint32_t* seen) {
    const uint32_t count = pkvi_leaves_for(table->pages);
    bool has_changed = false;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t leaf = table->leaves[i];
        uint32_t* entries = pkvi_leaf_entries(leaves, leaf);
        if (seen[leaf] == LEAF_UNSEEN)
            seen[leaf] = follow_leaf(entries, leaf_fill(table, i), forward);
        has_changed |= seen[leaf] == LEAF_CHANGED;
    }
    return has_changed;
}

void pkvi_table_fork(struct pkvi_leaves* leaves, const struct pkvi_table* table,
                     struct pkvi_table* child) {
    assert(child->pages == 0);
    const uint32_t count = pkvi_leaves_for(table->pages);
    for (uint32_t i = 0; i < count; i++) {
        child->leaves[i] = table->leaves[i];
        leaves->refs[table->leaves[i]]++;
    }
    child->pages = table->pages;
}

bool pkvi_table_cut_needs_leaf(const struct pkvi_leaves* leaves, const struct pkvi_table* table,
                               uint32_t pages) {
    if (pages >= table->pages) return false;
    if (pages % PKVI_LEAF_PAGES == 0) return false;
    return pkvi_table_is_shared(leaves, table, pages);
}

/* Drop the entries [kept, fill) of a private leaf, last one first. */
static void drop_entries(struct pkvi_leaves* leaves, uint32_t leaf, uint32_t kept, uint32_t fill) {
    const uint32_t* entries = pkvi_leaf_entries(leaves, leaf);
    for (uint32_t i = fill; i-- > kept;)
        if (entries[i] != PKV_NO_BLOCK) pkvi_prefix_unref(leaves->prefix, entries[i]);
}

/* Shorten the leaf at `index`, the table's last, to its first `kept` entries. */
static void cut_leaf(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t index,
                     uint32_t kept) {
    const uint32_t leaf = table->leaves[index];
    if (leaves->refs[leaf] == 1) {
        drop_entries(leaves, leaf, kept, leaf_fill(table, index));
        if (kept == 0) {
            leaves->refs[leaf] = 0;
            free_leaf(leaves, leaf);
        }
    } else if (kept == 0) {
        leaves->refs[leaf]--;
    } else {
        copy_leaf(leaves, table, index, kept);
    }
}

void pkvi_table_cut(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t pages) {
    while (table->pages > pages) {
        const uint32_t index = (table->pages - 1) / PKVI_LEAF_PAGES;
        const uint32_t first = index * PKVI_LEAF_PAGES;
        const uint32_t kept = pages > first ? pages - first : 0;
        cut_leaf(leaves, table, index, kept);
        table->pages = first + kept;
    }
}
