/* reclaim.h - room for a reservation: what to evict, and what to claim from other caches.
 *
 *   limit    a pool that uses all that it may has to evict of its own
 *   memory   first what is free, then what it has cached itself, but not what its tenants are
 *            guaranteed, unless they ask for it; when all of that is not enough, extents of other
 *            caches in the arena whose blocks are only cached
 *
 * Nothing is evicted unless what can be had that way suffices, and an active block is never touched.
 * Of others, the cache with the most spare extents gives first, and of its extents the one that has
 * been spare for longest.
 *
 * Not     One order of age over all caches: recency of one model's blocks says little of another's,
 *         and a cache under pressure would empty those that are quiet.
 * Threads the arena's lock. */
#ifndef PKVI_CORE_RECLAIM_H
#define PKVI_CORE_RECLAIM_H

#include "core/arena.h"

struct pkvi_room {
    uint32_t evictions; /* of the cache's own cached blocks */
    uint32_t extents;   /* of other caches */
};

/* What has to go so that `blocks` can be taken, for which `wanted` blocks would have to be evicted,
 * cached here or not? Nothing changes.
 * Errors  PKV_ENOBLOCKS, or what a fault point says. */
int pkvi_room_decide(pkv_cache* cache, uint32_t blocks, uint32_t wanted, struct pkvi_room* room);

/* How many more blocks could the sequences of `account` have now? By quotas, and by memory. */
uint32_t pkvi_room_available(pkv_cache* cache, uint32_t account);

/* Could so many blocks be had by evicting, here and from others? Nothing changes. */
bool pkvi_room_suffices(pkv_cache* cache, uint32_t wanted);

/* Extents of the caches in `arena`, but of `cache` itself, whose blocks are only cached, now that
 * pins which are over have ended; and make them free, so many of them. */
uint64_t pkvi_spare_count(const pkv_arena* arena, const pkv_cache* cache);
void pkvi_spare_claim(pkv_arena* arena, const pkv_cache* cache, uint32_t count);

/* Make it go. Cannot fail. */
void pkvi_room_make(pkv_cache* cache, struct pkvi_room room);

#endif
