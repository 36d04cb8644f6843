/* swap.h - sequences that leave for the host tier and come back, while others go on.
 *
 *               swap_out                done
 *   resident ------------> leaving -------------> away
 *      ^  ^                   |                   ^  |
 *      |  '------ failed, ----'       ,- failed, -'  | swap_in
 *      |          cancelled           |  cancelled   |
 *      '--------------------------- arriving <-------'
 *                    done
 *
 * Out     Slots are reserved all or nothing; the blocks stay the sequence's until every byte has
 *         been copied, and whatever goes wrong before that has cost nothing.
 * In      Blocks and leaves are reserved all or nothing and stand in the table at once, so that a
 *         device which orders its work can be given plans for the sequence. The slots stay the
 *         sequence's until every byte has been copied.
 * Bytes   Blocks are not scrubbed for a transfer in: it writes them whole. Until it has, they may
 *         hold bytes of two tenants, and are PKVI_BYTES_MIXED (pool.h).
 * Holds   H3  a sequence is leaving or arriving  <=>  exactly one open transfer names it, or its
 *             arrival has failed while a plan names it
 *
 * A transfer that fails while a plan names its sequence leaves the blocks to the plan. It cannot be
 * committed any more; when it is aborted the sequence is away again.
 *
 * Threads the cache's lock; `in_call` keeps a transfer open while somebody is in the device with it
 *         outside the lock. */
#ifndef PKVI_CORE_SWAP_H
#define PKVI_CORE_SWAP_H

#include "core/seq.h"

struct pkvi_transfer {
    struct pkvi_seq* seq;
    uint64_t bytes; /* 0: there is nothing to copy, and the device knows nothing of it */
    uint32_t generation;
    uint32_t next_free;
    bool open;
    bool is_in;
    bool in_call;
};

struct pkvi_transfers {
    struct pkvi_transfer* slots;
    uint32_t count_max;
    uint32_t open_count;
    uint32_t free_head;
};

int pkvi_transfers_open(struct pkvi_transfers* transfers, struct pkvi_mem* mem,
                        const pkv_config* config, uint32_t first_generation);
/* End what is under way, before the memory that it copies between goes. */
void pkvi_transfers_stop(struct pkvi_transfers* transfers, struct pkvi_device* device);
void pkvi_transfers_close(struct pkvi_transfers* transfers, struct pkvi_mem* mem);

/* PKV_ESTALE unless `handle` names an open transfer of this cache. */
int pkvi_transfer_find(const struct pkvi_transfers* transfers, pkv_transfer handle,
                       struct pkvi_transfer** transfer);
uint32_t pkvi_transfer_index(const struct pkvi_transfers* transfers,
                             const struct pkvi_transfer* transfer);

/* The verbs behind the public functions of the same names; errors as in pagedkv.h. */
int pkvi_seq_swap_out(pkv_cache* cache, struct pkvi_seq* seq, pkv_transfer* handle);
int pkvi_seq_swap_in(pkv_cache* cache, struct pkvi_seq* seq, pkv_transfer* handle);

/* The device is through with it, in this way; PKV_OK: every byte is where it should be. The handle
 * dies. Cannot fail. */
void pkvi_transfer_end(pkv_cache* cache, struct pkvi_transfer* transfer, int status);
/* The same, given up by the caller. */
void pkvi_transfer_abandon(pkv_cache* cache, struct pkvi_transfer* transfer);

/* A plan let go of `seq`, whose arrival had failed: it is away again. */
void pkvi_seq_return_blocks(pkv_cache* cache, struct pkvi_seq* seq);

#endif
