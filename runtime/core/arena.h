/* arena.h - device memory, cut into extents that pools borrow.
 *
 * Why     Pools of different block sizes can share memory only in pieces that fit all of them. An
 *         extent is such a piece: a pool takes one, cuts it into blocks, and gives it back when all
 *         are free.
 * State   a LIFO list of free extents, so that memory used last, still warm, is used next
 * Holds   A1  an extent is on the free list or is held by exactly one pool
 * Threads the cache's lock. */
#ifndef PKVI_CORE_ARENA_H
#define PKVI_CORE_ARENA_H

#include "device/device.h"

struct pkvi_arena {
    struct pkvi_device* device;
    void* base;
    uint64_t bytes;
    uint64_t extent_bytes;
    uint32_t extent_count;
    uint32_t free_count;
    uint32_t* free_list; /* [free_count] extents, the next one last */
};

/* Take extent_count * extent_bytes of device memory; the product is known to fit. */
int pkvi_arena_open(struct pkvi_arena* arena, struct pkvi_device* device, struct pkvi_mem* mem,
                    uint64_t extent_bytes, uint32_t extent_count);
void pkvi_arena_close(struct pkvi_arena* arena, struct pkvi_mem* mem);

/* pre: free_count > 0. Cannot fail. */
uint32_t pkvi_arena_take(struct pkvi_arena* arena);
void pkvi_arena_give(struct pkvi_arena* arena, uint32_t extent);

#endif
