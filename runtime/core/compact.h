/* compact.h - blocks move together, so that whole extents become free and others can have them.
 *
 *   before   [ a . . . ]  [ b c . . ]  [ d e f . ]
 *   after    (given back) [ b c . . ]  [ d e f a ]
 *
 * The emptiest extents give, the fullest take, and an extent is begun only when all of it can go
 * within the moves that are left: every move counts towards memory that is given back. Never
 * needed for correctness, since block numbers are private to a cache between two plans.
 *
 * Still   Blocks that somebody may look at outside the lock stay: those of sequences in open plans,
 *         being read or written, or in a transfer, and those of reserved tokens, whose slots the
 *         caller knows. An extent with one of them only takes.
 * Steps   choose, take the targets, copy (the device can fail here; the targets go back and nobody
 *         has noticed), apply: the pool, the prefix index, the page tables. Tables and nodes are
 *         walked once each, there is no map from blocks to those who name them.
 * Threads the arena's lock, for the whole of a call. */
#ifndef PKVI_CORE_COMPACT_H
#define PKVI_CORE_COMPACT_H

#include "core/pool.h"

/* Room for one call, taken at create; what it needs for each block and leaf, it borrows from the
 * judge (check.h). */
struct pkvi_compactor {
    uint32_t* order;  /* [extents] that the pool holds, emptiest first */
    uint32_t* counts; /* [blocks_per_extent + 2] */
    uint8_t* pinned;  /* [extents] */
};

int pkvi_compactor_open(struct pkvi_compactor* compactor, struct pkvi_mem* mem,
                        const struct pkvi_pool* pool);
void pkvi_compactor_close(struct pkvi_compactor* compactor, struct pkvi_mem* mem);

/* The public function of the same name. */
int pkvi_cache_compact(pkv_cache* cache, uint32_t max_moves, uint32_t* moved);

#endif
