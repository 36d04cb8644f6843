/* table.h - page tables: which block holds a page of a sequence.
 *
 * Two levels, so that a fork costs one reference per leaf and not one per page:
 *
 *   table A   [leaf 5 | leaf 9 ]            leaf 5 (refs 2)   [ 12 31 40 ... 77 ]   full, shared
 *   table B   [leaf 5 | leaf 2 ]            leaf 9 (refs 1)   [ 81 90 ]             A's own tail
 *                                           leaf 2 (refs 1)   [ 81 13 14 ]          B's own tail
 *
 * Holds   T1  a leaf's reference count equals the tables that name it
 *         T2  tables that share a leaf agree on all of it, also on how many pages it has: who wants
 *             to change a shared leaf makes a private copy first
 *         T3  an entry is a block or PKV_NO_BLOCK (rolled off), and counts as one reference to the
 *             block, however many tables share the leaf
 *         T4  pages == entries in use, over all leaves of the table
 * Not     One flat array per sequence: forking a million tokens would copy 250 KB.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_TABLE_H
#define PKVI_CORE_TABLE_H

#include "base/limits.h"
#include "core/prefix.h"
#include <assert.h>

/* All leaves of a cache. */
struct pkvi_leaves {
    struct pkvi_prefix* prefix; /* takes and drops the references to blocks */
    uint32_t leaf_count;
    uint32_t free_count;
    uint32_t free_head;
    uint32_t* next;    /* [leaf] free list */
    uint32_t* refs;    /* [leaf] tables that name it */
    uint32_t* entries; /* [leaf][PKVI_LEAF_PAGES] */
};

struct pkvi_table {
    uint32_t* leaves; /* directory; its storage belongs to the sequence slot */
    uint32_t pages;
};

int pkvi_leaves_open(struct pkvi_leaves* leaves, struct pkvi_prefix* prefix, struct pkvi_mem* mem,
                     uint32_t leaf_count);
void pkvi_leaves_close(struct pkvi_leaves* leaves, struct pkvi_mem* mem);

static inline uint32_t pkvi_leaves_for(uint32_t pages) {
    return pkvi_ceil_div(pages, PKVI_LEAF_PAGES);
}

static inline uint32_t* pkvi_leaf_entries(const struct pkvi_leaves* leaves, uint32_t leaf) {
    return leaves->entries + (size_t)leaf * PKVI_LEAF_PAGES;
}

static inline uint32_t* pkvi_table_entry(const struct pkvi_leaves* leaves,
                                         const struct pkvi_table* table, uint32_t page) {
    assert(page < table->pages);
    const uint32_t leaf = table->leaves[page / PKVI_LEAF_PAGES];
    return pkvi_leaf_entries(leaves, leaf) + page % PKVI_LEAF_PAGES;
}

/* pre: page < table->pages. */
static inline uint32_t pkvi_table_get(const struct pkvi_leaves* leaves,
                                      const struct pkvi_table* table, uint32_t page) {
    return *pkvi_table_entry(leaves, table, page);
}

/* Replace an entry; the references are the caller's affair. pre: the leaf is private. */
void pkvi_table_set(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t page,
                    uint32_t block);

/* Is the leaf of `page` named by another table too? pre: page < table->pages. */
bool pkvi_table_is_shared(const struct pkvi_leaves* leaves, const struct pkvi_table* table,
                          uint32_t page);

/* Give the table its own copy of the leaf that holds `page`, if it is shared; takes one free leaf
 * then. */
void pkvi_table_own(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t page);

/* Append a page whose block already carries the reference. pre: the last leaf is private; if it is
 * full, a leaf is free. */
void pkvi_table_push(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t block);

/* Blocks have moved: forward[b] is where b is now, or PKVI_NONE. `seen` [leaves] is zeroed and
 * remembers which leaves have been looked at, by any table. Returns whether an entry has changed. */
bool pkvi_table_follow(struct pkvi_leaves* leaves, const struct pkvi_table* table,
                       const uint32_t* forward, uint32_t* seen);

/* Make `child`, which is empty, name all of `table`. */
void pkvi_table_fork(struct pkvi_leaves* leaves, const struct pkvi_table* table,
                     struct pkvi_table* child);

/* Does cutting to `pages` need a free leaf, since it ends inside a shared one? */
bool pkvi_table_cut_needs_leaf(const struct pkvi_leaves* leaves, const struct pkvi_table* table,
                               uint32_t pages);

/* Drop the pages from `pages` on, last one first. */
void pkvi_table_cut(struct pkvi_leaves* leaves, struct pkvi_table* table, uint32_t pages);

#endif
