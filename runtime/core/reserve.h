/* reserve.h - slots for the next tokens of many sequences at once: all of them, or none.
 *
 * Decide, take, move, apply. Only the last phase touches a sequence, and it cannot fail. */
#ifndef PKVI_CORE_RESERVE_H
#define PKVI_CORE_RESERVE_H

#include "core/seq.h"

/* One sequence of a batch: what is asked, and what was decided. */
struct pkvi_reservation {
    struct pkvi_seq* seq;
    const uint32_t* tokens; /* [count] or NULL */
    uint32_t count;
    uint32_t new_pages;
    bool own_leaf;  /* the last leaf is shared and will be written: own it first */
    bool copy_tail; /* the last page is partly filled and shared: copy its block first */
    bool take_tail; /* it is shared with the index alone: take it out of there instead */
};

/* Room for one batch, taken at create. */
struct pkvi_scratch {
    struct pkvi_reservation* items; /* [plan_sequences_max] */
    uint32_t* blocks;               /* [blocks] */
    uint64_t* tickets;              /* [plan_sequences_max] */
    uint32_t* from;                 /* [plan_tokens_max] slots of tokens that move */
    uint32_t* to;                   /* [plan_tokens_max] */
    uint64_t serial;                /* of the last batch */
    uint64_t copied;                /* bytes of its tails */
};

int pkvi_scratch_open(struct pkvi_scratch* scratch, struct pkvi_mem* mem, const pkv_config* config);
void pkvi_scratch_close(struct pkvi_scratch* scratch, struct pkvi_mem* mem);

/* Reserve for scratch.items[0 .. count), whose first three fields are set; sequences are distinct
 * and idle.
 * Errors  PKV_ETOOBIG, PKV_ENOLEAVES, PKV_EQUOTA, PKV_ENOBLOCKS, PKV_EIO, PKV_ETIMEDOUT, as at
 *         pkv_plan_begin. */
int pkvi_reserve(pkv_cache* cache, uint32_t count);

/* Fork `seq`; errors as at pkv_seq_fork. */
int pkvi_reserve_fork(pkv_cache* cache, struct pkvi_seq* seq, pkv_seq* handle);

/* Take `count` blocks for `seq` into scratch.blocks, all or none, evicting if that suffices; ask
 * also whether `leaves` are free. Their bytes are whoever's they were: the caller overwrites them
 * whole.
 * Errors  PKV_ENOLEAVES, PKV_EQUOTA, PKV_ENOBLOCKS. */
int pkvi_reserve_blocks(pkv_cache* cache, struct pkvi_seq* seq, uint32_t count, uint32_t leaves);

/* Give the first `count` of scratch.blocks back. */
void pkvi_reserve_return(pkv_cache* cache, uint32_t count);

/* Evict so many cached blocks, from the accounts that quota.h says. */
void pkvi_reserve_evict(pkv_cache* cache, uint32_t evictions);

#endif
