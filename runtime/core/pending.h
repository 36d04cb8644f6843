/* pending.h - what living sequences are about to compute, so that others can wait for it.
 *
 * Nothing uncommitted is shared, so two requests with one prompt that arrive together would both
 * compute it. A sequence can announce the tokens that it is going to compute; who asks for a prefix
 * is then told how much of it is on its way, and decides itself whether to wait.
 *
 *   announced   [ page 4 ] -> [ page 5 ] -> [ page 6 ]     of sequence A, whose length is in page 4
 *                  hash of the tenant and all tokens and extra keys up to the end of the page
 *
 * There is an entry for each full page that is not committed yet. It goes when the page is, since it
 * can be found in the prefix index then, and all entries of a sequence go when it ends, is cut or
 * leaves: who waited is told 0 from then on and computes the prefix itself.
 * Tokens are not kept. When two hashes meet somebody waits in vain for a while, and nothing else
 * happens: a hit is a matter of the index, where tokens are compared.
 *
 * Holds   N2  an entry is free, or on the chain of its bucket and on that of one sequence, in the
 *             order of its pages, none of which is committed
 * Cost    O(1) for each page.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_PENDING_H
#define PKVI_CORE_PENDING_H

#include "core/seq.h"

struct pkvi_announcement {
    uint64_t hash;
    uint32_t page;
    uint32_t next;      /* in its bucket, or free */
    uint32_t next_page; /* of its sequence, or PKVI_NONE */
};

struct pkvi_pending {
    struct pkvi_hash_key key;
    struct pkvi_announcement* entries;
    uint32_t* buckets;
    uint32_t bucket_mask;
    uint32_t count_max;
    uint32_t free_count;
    uint32_t free_head;
};

int pkvi_pending_open(struct pkvi_pending* pending, struct pkvi_mem* mem, struct pkvi_hash_key key,
                      uint32_t count_max);
void pkvi_pending_close(struct pkvi_pending* pending, struct pkvi_mem* mem);

/* Announce the full pages of `tokens` [count] that `seq` has not committed, in place of what it had
 * announced; as many of the first ones as there are entries. */
void pkvi_pending_announce(pkv_cache* cache, struct pkvi_seq* seq, const uint32_t* tokens,
                           uint32_t count);

/* Forget what `seq` has announced before page `end`. */
void pkvi_pending_release(struct pkvi_pending* pending, struct pkvi_seq* seq, uint32_t end);

/* How many pages of `tokens` [count] from `page` on have been announced, without a gap, by
 * sequences of the tenant of `seq` that have the same extra keys? */
uint32_t pkvi_pending_pages(const pkv_cache* cache, const struct pkvi_seq* seq,
                            const uint32_t* tokens, uint32_t count, uint32_t page);

#endif
