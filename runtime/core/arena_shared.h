/* arena_shared.h - the public arena, which several caches share; see arena.h.
 *
 * A cache joins when all of it has been created, and leaves before any of it goes. Between the two
 * it stands on arena->caches, where others find what they may claim (reclaim.h). */
#ifndef PKVI_CORE_ARENA_SHARED_H
#define PKVI_CORE_ARENA_SHARED_H

#include "core/arena.h"

/* Check `config` and fill in its defaults; *why names the field on error. */
int pkvi_arena_resolve(const pkv_arena_config* config, pkv_arena_config* resolved,
                       const char** why);

/* The public functions of the same names. */
int pkvi_arena_create(const pkv_arena_config* config, pkv_arena** arena);
int pkvi_arena_destroy(pkv_arena* arena);

/* With the lock taken. */
int pkvi_arena_resize(pkv_arena* arena, uint64_t bytes);
void pkvi_arena_stats(pkv_arena* arena, pkv_arena_stats* stats);

/* These take the lock themselves. `leave` gives all extents of the cache back. */
void pkvi_arena_join(pkv_cache* cache);
void pkvi_arena_leave(pkv_cache* cache);

#endif
