/* ghost.h - what is remembered of blocks that have left the prefix index.
 *
 * A table of sets of eight; a block goes to the set of its identity and takes the place of the
 * one that came first. An identity is a hash: two blocks that share one make a policy mistaken, and
 * nothing else.
 *
 * Cost    O(1). Memory: 12 bytes each; see pkvi_ghosts_open for how many.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_GHOST_H
#define PKVI_CORE_GHOST_H

#include "base/mem.h"

#define PKVI_NONE UINT32_MAX /* end of a list, no block, no extent */

enum { PKVI_GHOST_WAYS = 8 };

struct pkvi_ghost {
    uint32_t identity;
    uint32_t rested; /* clock when the block became idle for the last time */
    uint8_t uses;    /* 0: the place is free */
    uint8_t kind;
    uint8_t list; /* from which it was evicted */
};

struct pkvi_ghosts {
    struct pkvi_ghost* entries; /* [count] */
    uint32_t count;             /* PKVI_GHOST_WAYS times a power of two */
    uint32_t listed[2];         /* how many came from lists 0 and 1 */
};

/* Twice as many as `blocks`, and up to 65536 as long as that is no more than 16 times as many:
 * small caches forget so soon that they learn nothing without. */
int pkvi_ghosts_open(struct pkvi_ghosts* ghosts, struct pkvi_mem* mem, uint32_t blocks);
void pkvi_ghosts_close(struct pkvi_ghosts* ghosts, struct pkvi_mem* mem);

/* Remember `ghost`; returns the one that is forgotten for it, with uses 0 if there is none. */
struct pkvi_ghost pkvi_ghosts_put(struct pkvi_ghosts* ghosts, struct pkvi_ghost ghost);

/* Take the ghost of `identity` out; its uses are 0 if there is none. */
struct pkvi_ghost pkvi_ghosts_take(struct pkvi_ghosts* ghosts, uint32_t identity);

#endif
