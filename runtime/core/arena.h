/* arena.h - device memory, cut into extents that pools borrow.
 *
 * Why     Pools of different block sizes can share memory only in pieces that fit all of them. An
 *         extent is such a piece: a pool takes one, cuts it into blocks, and gives it back when all
 *         are free. So one model's block is never padded to another's; what is left at the end of
 *         an extent is all that is lost.
 *
 *   free --take--> held by one pool --give--> free
 *    '--shrink--> given back to the system --grow--> free, zeroed
 *
 * Who     A cache has an arena of its own, or lives in one that several share (pkv_arena_create).
 *         Caches of one arena share its lock, so that one of them may evict what another has only
 *         cached (reclaim.h).
 * Bytes   An extent remembers whose bytes are in it. A pool that gets one of another pool's treats
 *         them as foreign to everybody (P5).
 * Holds   A1  an extent is on the free list, or held by exactly one pool, or given back
 *         A2  free_count, the extents that pools hold, and those given back add up to extent_max
 * Threads `lock`, which is also that of every cache that lives here. */
#ifndef PKVI_CORE_ARENA_H
#define PKVI_CORE_ARENA_H

#include "core/extents.h"
#include "device/device.h"
#include <pthread.h>

/* What measurements found best; see docs/performance.md. */
#define PKVI_ALLOCATOR_DEFAULT PKV_FIRST_FIT

/* What holder[] says beside the numbers of pools. */
#define PKVI_HOLDER_NONE   0
#define PKVI_HOLDER_SYSTEM UINT32_MAX

struct pkv_arena {
    pthread_mutex_t lock;
    struct pkvi_device* device; /* whose memory it is */
    unsigned char* base;
    uint64_t extent_bytes;
    uint32_t extent_max;       /* of the address space */
    uint32_t extent_count;     /* not given back */
    struct pkvi_extents free;  /* extents that nobody holds */
    uint32_t* holder;          /* [extent_max] number of the pool, or one of the above */
    uint32_t* writer;          /* [extent_max] number of the pool whose bytes are in it; 0: zeros */
    uint32_t last_number;      /* of a pool */
    enum pkv_allocator policy; /* of its pools, unless their config says otherwise */

    /* Of one that several caches share. */
    bool is_shared;
    const char* device_name; /* static */
    struct pkv_cache* caches;
    uint32_t cache_count;
    uint64_t claims; /* extents that caches gave up for each other, or for a resize */
    struct pkvi_faults faults;
    struct pkvi_clock clock;
    struct pkvi_mem mem;
};

/* Take extent_max * extent_bytes of device memory, of which extent_count extents may be used; the
 * product is known to fit. */
int pkvi_arena_open(struct pkv_arena* arena, struct pkvi_device* device, struct pkvi_mem* mem,
                    enum pkv_allocator policy, uint64_t extent_bytes, uint32_t extent_max,
                    uint32_t extent_count);
void pkvi_arena_close(struct pkv_arena* arena, struct pkvi_mem* mem);

/* Number a pool: not 0, and never that of another. Takes the lock. */
uint32_t pkvi_arena_number(struct pkv_arena* arena);

/* Take the next free extent for pool `number`; *writer is the pool whose bytes are in it, or 0.
 * pre: one is free. Cannot fail. */
uint32_t pkvi_arena_take(struct pkv_arena* arena, uint32_t number, uint32_t* writer);
void pkvi_arena_give(struct pkv_arena* arena, uint32_t extent);

/* The system has a free extent from now on, or the arena has it back. */
void pkvi_arena_cede(struct pkv_arena* arena, uint32_t extent);
void pkvi_arena_regain(struct pkv_arena* arena, uint32_t extent);

#endif
