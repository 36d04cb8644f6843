/* check.h - the judge: recounts everything and compares it with the books.
 *
 * Tests call it after every step, applications when they are in doubt. The names of the invariants
 * are those in the headers of arena, pool, prefix, table, seq and plan, and in DESIGN.md. */
#ifndef PKVI_CORE_CHECK_H
#define PKVI_CORE_CHECK_H

#include "core/table.h"

/* Room for one recount, taken at create. */
struct pkvi_checker {
    uint32_t* block_refs; /* [blocks] */
    uint32_t* leaf_refs;  /* [leaves] */
    uint32_t* leaf_fill;  /* [leaves] entries in use */
    uint8_t* slot_named;  /* [host_blocks] */
};

int pkvi_checker_open(struct pkvi_checker* checker, struct pkvi_mem* mem, uint32_t blocks,
                      uint32_t leaves, uint32_t host_blocks);
void pkvi_checker_close(struct pkvi_checker* checker, struct pkvi_mem* mem);

/* Parts of the recount that stand in files of their own: the invariant that is broken, or NULL. */
const char* pkvi_check_siblings(const pkv_cache* cache); /* check_sibling.c */
const char* pkvi_check_pending(const pkv_cache* cache);  /* check_pending.c */
const char* pkvi_check_extras(const pkv_cache* cache);   /* check_extra.c */
const char* pkvi_check_published(const pkv_cache* cache);
bool pkvi_check_extras_are_equal(const pkv_cache* cache, uint32_t a, uint32_t b);
uint64_t pkvi_digest_pending(const pkv_cache* cache);
/* check_pool.c: the pool, the arena, and the extents of other caches in it; the name of the first
 * invariant that does not hold, or NULL. pre: block_refs are counted. */
const char* pkvi_check_pool(const pkv_cache* cache);

/* PKV_OK, or PKV_ECORRUPT with report->broken set. The digests are 0 then. */
int pkvi_check(pkv_cache* cache, pkv_report* report);

/* check_quota.c: the name of the first invariant of quotas that does not hold, or NULL. Trusts pool,
 * index, sequences and host tier. */
const char* pkvi_check_quotas(const pkv_cache* cache);

#endif
