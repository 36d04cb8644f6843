/* tier.h - the host tier: slots in host memory, each as large as a block, where sequences that are
 * away keep their K/V.
 *
 *   sequence   pages      0    1   (rolled off)   4
 *              chain     [7]->[2]--------------->[5]        next[], with the page in page[]
 *
 * The slots of a sequence are a chain in the order of its pages; pages that rolled off have none.
 * Slots have the ids of their tokens beside them, as blocks have.
 *
 * Holds   H1  a slot is free, or on the chain of exactly one sequence
 *         H2  a sequence that is leaving, away or arriving has one slot for each page that has not
 *             rolled off; a resident one has none, and one that is away names no block
 * Not     Slots shared by forks: each sequence brings its own copy. Sharing them needs reference
 *         counts and a second index, for sequences that seldom leave together.
 * Bytes   A slot is written whole before its sequence counts as away, and read only for the sequence
 *         that wrote it. What an earlier tenant left in it is never seen, and needs no scrubbing.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_TIER_H
#define PKVI_CORE_TIER_H

#include "core/pool.h"

struct pkvi_tier {
    struct pkvi_device* device;
    struct pkvi_faults* faults;
    unsigned char* base;
    uint64_t bytes;
    uint32_t slot_count;
    uint32_t free_count;
    uint32_t free_head;
    uint32_t block_tokens;
    uint32_t* next;    /* [slot_count] free list, or chain of a sequence */
    uint32_t* page;    /* [slot_count] of a slot on a chain */
    uint32_t* tokens;  /* [slot_count][block_tokens] */
    uint32_t* scratch; /* [slot_count] slots of the transfer being started */
};

/* Take slot_count * block_bytes of host memory from the device; the product is known to fit. */
int pkvi_tier_open(struct pkvi_tier* tier, struct pkvi_device* device, struct pkvi_mem* mem,
                   struct pkvi_faults* faults, const struct pkvi_layout* layout,
                   uint32_t slot_count);
void pkvi_tier_close(struct pkvi_tier* tier, struct pkvi_mem* mem);

/* May `count` slots be taken? Nothing changes.
 * Errors  PKV_ETOOBIG, PKV_ENOHOST, or what the fault point tier.take says. */
int pkvi_tier_admit(struct pkvi_tier* tier, uint32_t count);

/* Take a slot for `page`, in front of the chain that starts at `head`; returns the new head. pre:
 * free_count > 0. */
uint32_t pkvi_tier_take(struct pkvi_tier* tier, uint32_t page, uint32_t head);

/* Give back the chain that starts at `head`; its last slot is the next one to be taken, so that
 * what was taken last page first is free in the order in which it was before. Returns how many slots
 * that were. */
uint32_t pkvi_tier_give(struct pkvi_tier* tier, uint32_t head);

/* Slots on the chain that starts at `head`. */
uint32_t pkvi_tier_count(const struct pkvi_tier* tier, uint32_t head);

static inline uint32_t* pkvi_tier_tokens(const struct pkvi_tier* tier, uint32_t slot) {
    return tier->tokens + (size_t)slot * tier->block_tokens;
}

#endif
