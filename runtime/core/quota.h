/* quota.h - how many blocks each tenant has, is guaranteed, and may have at most.
 *
 * A tenant with a quota has an account of its own; all others share account 0, which is guaranteed
 * nothing and has no limit. A block is on the account of its owner, active or cached:
 *
 *   account    cached | active          counted where blocks are taken, freed, and become idle
 *   claim      max(guaranteed, active)  what cached blocks cannot be part of
 *
 *   pool       [ claim of a | claim of b | claim of the rest |  room  ]        claimed <= blocks
 *
 * A tenant that uses less than its guarantee claims all of it: whatever others hold of that is
 * cached, and goes when it is asked for. One that uses more has borrowed, and claims what it uses.
 * So one sum says whether blocks may become active, and where it is kept, a tenant within its
 * guarantee always finds a block that is free, or cached beyond somebody's guarantee, or its own.
 *
 * Holds   Q1  active and cached of an account are the blocks of its tenants that sequences name, or
 *             that only the index names
 *         Q2  active + cached <= most, the limit of the account
 *         Q3  claimed == the sum of max(guaranteed, active) over all accounts, and is at most the
 *             blocks of the pool
 *         Q4  a tenant has an account of its own <=> it has a quota; sequences and blocks know the
 *             account of their tenant
 * Not     Shares in percent, as schedulers have them: blocks of a live sequence cannot be taken
 *         back, so that a share would be a wish. A guarantee here is one.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_QUOTA_H
#define PKVI_CORE_QUOTA_H

#include "base/mem.h"

enum { PKVI_ACCOUNTS_MAX = 1 << 16, PKVI_ACCOUNT_SHARED = 0 };

struct pkvi_account {
    uint64_t tenant;
    uint32_t guaranteed;
    uint32_t limit; /* as it was set, and reported; 0: none */
    uint32_t most;  /* of active + cached */
    uint32_t active;
    uint32_t cached;
    uint32_t sequences;
    uint32_t host;  /* slots of the host tier */
    uint32_t evict; /* blocks it loses to the reservation under way; else 0 */
    uint32_t asked; /* blocks that the reservation under way, which has to evict, takes; else 0 */
    uint32_t next;  /* of its bucket */
    bool open;      /* a tenant has it */
    bool borrow_off;
    uint64_t refused;
    uint64_t evicted;
    uint64_t query_tokens;
    uint64_t hit_tokens;
};

/* What pkv_check counts. */
struct pkvi_recount {
    uint32_t active, cached, sequences, host;
};

struct pkvi_quotas {
    struct pkvi_account* accounts; /* [account_max + 1]; 0 is that of tenants without a quota */
    uint32_t* buckets;             /* first account of each chain, or 0 */
    struct pkvi_recount* recounts; /* [account_max + 1] */
    uint32_t bucket_mask;
    uint32_t account_max; /* quotas there can be */
    uint32_t open_count;
    uint32_t block_count; /* of the pool */
    uint64_t guaranteed;  /* sum over all accounts */
    uint64_t claimed;
    uint32_t cached; /* sum over all accounts */
    uint64_t excess; /* sum of what accounts have above their most; 0 between reservations */
};

int pkvi_quotas_open(struct pkvi_quotas* quotas, struct pkvi_mem* mem, uint32_t account_max,
                     uint32_t block_count);
void pkvi_quotas_close(struct pkvi_quotas* quotas, struct pkvi_mem* mem);

/* The account of a tenant: its own, or the shared one. */
uint32_t pkvi_quotas_find(const struct pkvi_quotas* quotas, uint64_t tenant);

/* Give a tenant an account of its own, with nothing in it, or take it away. pre: there is room; the
 * account is empty. */
uint32_t pkvi_quotas_add(struct pkvi_quotas* quotas, uint64_t tenant);
void pkvi_quotas_remove(struct pkvi_quotas* quotas, uint32_t account);

/* What the account may have. `most` may be less than it has, until blocks have been evicted. */
void pkvi_quotas_set(struct pkvi_quotas* quotas, uint32_t account, uint32_t guaranteed,
                     uint32_t most);

/* Blocks that cached blocks of others cannot be part of. */
static inline uint32_t pkvi_account_claim(uint32_t guaranteed, uint32_t active) {
    return active > guaranteed ? active : guaranteed;
}

/* ---- Counting -------------------------------------------------------------------------------- */

/* Blocks of `account` come and go: `active` is how many more sequences name, `cached` how many more
 * the index alone. Cannot fail. */
void pkvi_quotas_count(struct pkvi_quotas* quotas, uint32_t account, int64_t active,
                       int64_t cached);

/* The same for one block, which is freed, becomes idle, or is in use again: in every step. */
static inline void pkvi_quotas_drop(struct pkvi_quotas* quotas, uint32_t account) {
    struct pkvi_account* a = &quotas->accounts[account];
    quotas->claimed -= a->active > a->guaranteed;
    quotas->excess -= a->active + a->cached > a->most;
    a->active--;
}

static inline void pkvi_quotas_rest(struct pkvi_quotas* quotas, uint32_t account) {
    struct pkvi_account* a = &quotas->accounts[account];
    quotas->claimed -= a->active > a->guaranteed;
    a->active--;
    a->cached++;
    quotas->cached++;
}

static inline void pkvi_quotas_wake(struct pkvi_quotas* quotas, uint32_t account) {
    struct pkvi_account* a = &quotas->accounts[account];
    quotas->claimed += a->active >= a->guaranteed;
    a->active++;
    a->cached--;
    quotas->cached--;
}

/* May one more block of `account` become active? */
static inline bool pkvi_quotas_may_activate(const struct pkvi_quotas* quotas, uint32_t account) {
    const struct pkvi_account* a = &quotas->accounts[account];
    return a->active < a->guaranteed || quotas->claimed < quotas->block_count;
}

/* How many more blocks could `account` take now? */
uint32_t pkvi_quotas_available(const struct pkvi_quotas* quotas, uint32_t account);

/* ---- Admission ------------------------------------------------------------------------------- */

/* What was counted for the reservation under way may stay?
 * Errors  PKV_ENOBLOCKS: accounts claim more than there is. */
static inline int pkvi_quotas_admit(const struct pkvi_quotas* quotas) {
    return quotas->claimed <= quotas->block_count ? PKV_OK : PKV_ENOBLOCKS;
}

/* How many cached blocks must go, now that `blocks` have been counted and not yet taken from the
 * `free` ones? */
uint32_t pkvi_quotas_evictions(const struct pkvi_quotas* quotas, uint32_t free, uint32_t blocks);

/* Cached blocks that may go for the reservation under way. They are all but those that others are
 * guaranteed, which only counts where a pool has less memory than blocks: in a shared arena. */
uint32_t pkvi_quotas_evictable(const struct pkvi_quotas* quotas);

/* Say in `evict` of each account how many of those go from there: first what is above its most, then
 * from whoever is most above its guarantee, so that all come down to one level, then what those who
 * ask have within their own. pre: so many are evictable. */
void pkvi_quotas_share(struct pkvi_quotas* quotas, uint32_t evictions);

#endif
