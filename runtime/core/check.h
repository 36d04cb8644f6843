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

/* PKV_OK, or PKV_ECORRUPT with report->broken set. The digests are 0 then. */
int pkvi_check(pkv_cache* cache, pkv_report* report);

#endif
