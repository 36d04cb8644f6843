/* check_parts.h - what the files of the judge share; see check.h.
 *
 * Threads the cache's lock. */
#ifndef PKVI_CORE_CHECK_PARTS_H
#define PKVI_CORE_CHECK_PARTS_H

#include "core/check.h"

/* Return the name of an invariant when it does not hold, or what another check has found. */
#define EXPECT(condition, name)                                                                    \
    do {                                                                                           \
        if (!(condition)) return name;                                                             \
    } while (0)

#define CHECK(call)                                                                                \
    do {                                                                                           \
        const char* broken_ = (call);                                                              \
        if (broken_ != NULL) return broken_;                                                       \
    } while (0)

/* Parts of the recount that stand in files of their own: the invariant that is broken, or NULL. */
const char* pkvi_check_prefix(pkv_cache* cache);         /* check_prefix.c */
const char* pkvi_check_siblings(const pkv_cache* cache); /* check_sibling.c */
const char* pkvi_check_pending(const pkv_cache* cache);  /* check_pending.c */
const char* pkvi_check_extras(const pkv_cache* cache);   /* check_extra.c */
const char* pkvi_check_published(const pkv_cache* cache);
bool pkvi_check_extras_are_equal(const pkv_cache* cache, uint32_t a, uint32_t b);
uint64_t pkvi_digest_pending(const pkv_cache* cache);

/* check_retain.c: the table of what is retained; the lists of levels of a domain, whose blocks are
 * added to *idle; and a digest of both. */
const char* pkvi_check_retention(const pkv_cache* cache);
const char* pkvi_check_levels(const pkv_cache* cache, uint32_t account, uint32_t* idle);
uint64_t pkvi_digest_retention(const pkv_cache* cache);
/* check_pool.c: the pool, the arena, and the extents of other caches in it; the name of the first
 * invariant that does not hold, or NULL. pre: block_refs are counted. */
const char* pkvi_check_pool(const pkv_cache* cache);

/* check_quota.c: the name of the first invariant of quotas that does not hold, or NULL. Trusts pool,
 * index, sequences and host tier. */
const char* pkvi_check_quotas(const pkv_cache* cache);

#endif
