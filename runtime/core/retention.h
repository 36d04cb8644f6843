/* retention.h - the verb by which a sequence says how long its blocks stay cached; the table is that
 * of policy/retain.h.
 *
 * Threads the cache's lock. */
#ifndef PKVI_CORE_RETENTION_H
#define PKVI_CORE_RETENTION_H

#include "core/seq.h"

/* Ask for `terms` for what [begin, end) touches, or, when `terms` is NULL, take back what was asked.
 * retained  set to the blocks that are meant
 * Errors    PKV_ENOTSUP, PKV_EBUSY, PKV_EAWAY, PKV_ERANGE, PKV_ETOOBIG. */
int pkvi_seq_retain(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t begin, uint32_t end,
                    const struct pkvi_terms* terms, uint32_t* retained);

/* Let what has come due by `now_us` take effect: priorities lapse, blocks are dropped. */
void pkvi_retention_settle(pkv_cache* cache, uint64_t now_us);

#endif
