/* ghost.h - what is remembered of blocks that have left the prefix index.
 *
 * A table of sets of eight; a block goes to the set that its identity says, and takes the place of
 * the one that came first. An identity is a hash, and half of it is kept to tell the ghosts of a set
 * apart: two blocks that are taken for one make a policy mistaken, and nothing else.
 *
 * Cost    O(1). Memory: 8 bytes each; see pkvi_ghosts_open for how many.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_GHOST_H
#define PKVI_CORE_GHOST_H

#include "base/mem.h"

enum { PKVI_GHOST_WAYS = 8, PKVI_GHOST_USES_MAX = 31, PKVI_GHOST_LIST_MAX = 15 };

struct pkvi_ghost {
    uint32_t rested;   /* clock when the block became idle for the last time */
    uint32_t tag : 16; /* of its identity */
    uint32_t uses : 5; /* so many or more; 0: the place is free */
    uint32_t kind : 7;
    uint32_t list : 4; /* from which it was evicted */
};

struct pkvi_ghosts {
    struct pkvi_ghost* entries; /* [count] */
    uint32_t count;             /* PKVI_GHOST_WAYS times a power of two */
    uint32_t listed[2];         /* how many came from lists 0 and 1 */
};

/* As many as `blocks`, and up to 65536 as long as that is no more than 64 times as many:
 * what is asked for again at an age that nobody remembers seems not to be asked for at all, and
 * that age does not depend on the size of the cache. */
int pkvi_ghosts_open(struct pkvi_ghosts* ghosts, struct pkvi_mem* mem, uint32_t blocks);
void pkvi_ghosts_close(struct pkvi_ghosts* ghosts, struct pkvi_mem* mem);

/* Remember `ghost`, of which all but the tag is set; returns the one that is forgotten for it, with
 * uses 0 if there is none. */
struct pkvi_ghost pkvi_ghosts_put(struct pkvi_ghosts* ghosts, uint32_t identity,
                                  struct pkvi_ghost ghost);

/* Take the ghost of `identity` out; its uses are 0 if there is none. */
struct pkvi_ghost pkvi_ghosts_take(struct pkvi_ghosts* ghosts, uint32_t identity);

#endif
