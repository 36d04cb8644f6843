/* walk.h - the longest cached prefix of some tokens: a walk through the index, page by page.
 *
 * A tenant's own nodes come first, published ones after them. Where the tenant has computed the
 * beginning itself, and somebody has published it later with what follows, the published nodes stand
 * behind published ones and not behind its own: they are walked along too, and the longer way counts.
 *
 * Threads the cache's lock. */
#ifndef PKVI_CORE_WALK_H
#define PKVI_CORE_WALK_H

#include "core/prefix.h"
#include "core/seq.h"

/* Where the pages of a sequence from `page` on are, behind the node of the page before. */
struct pkvi_place pkvi_walk_place(const pkv_cache* cache, const struct pkvi_seq* seq,
                                  uint32_t parent, uint32_t page);

/* Look for the longest prefix; its blocks go to `blocks`. Returns how many full pages it has, and
 * in *tail how many tokens of one more. */
uint32_t pkvi_walk(const pkv_cache* cache, const struct pkvi_seq* seq, const uint32_t* tokens,
                   uint32_t count, uint32_t* blocks, uint32_t* tail);

#endif
