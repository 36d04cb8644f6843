/* quota.c - see quota.h. */
#include "core/quota.h"

#include <assert.h>

enum { FEW_EVICTIONS = 4 };

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* What `a` has beyond `b`. */
static uint32_t beyond(uint32_t a, uint32_t b) {
    return a > b ? a - b : 0;
}

static uint32_t claim_of(const struct pkvi_account* a) {
    return pkvi_account_claim(a->guaranteed, a->active);
}

static uint32_t excess_of(const struct pkvi_account* a) {
    return beyond(a->active + a->cached, a->most);
}

/* ---- Accounts -------------------------------------------------------------------------------- */

static uint32_t* bucket_of(const struct pkvi_quotas* quotas, uint64_t tenant) {
    const uint64_t mixed = (tenant ^ tenant >> 32) * 0x9e3779b97f4a7c15;
    return &quotas->buckets[(uint32_t)(mixed >> 32) & quotas->bucket_mask];
}

static uint32_t mask_for(uint32_t accounts) {
    uint32_t buckets = 1;
    while (buckets < accounts)
        buckets *= 2;
    return buckets - 1;
}

int pkvi_quotas_open(struct pkvi_quotas* quotas, struct pkvi_mem* mem, uint32_t account_max,
                     uint32_t block_count) {
    *quotas = (struct pkvi_quotas){.account_max = account_max,
                                   .block_count = block_count,
                                   .bucket_mask = mask_for(account_max)};
    PKVI_TRY(pkvi_mem_take(mem, quotas->bucket_mask + 1, sizeof *quotas->buckets,
                           (void**)&quotas->buckets));
    PKVI_TRY(
        pkvi_mem_take(mem, account_max + 1, sizeof *quotas->accounts, (void**)&quotas->accounts));
    PKVI_TRY(
        pkvi_mem_take(mem, account_max + 1, sizeof *quotas->recounts, (void**)&quotas->recounts));
    quotas->accounts[PKVI_ACCOUNT_SHARED] = (struct pkvi_account){.most = UINT32_MAX};
    return PKV_OK;
}

void pkvi_quotas_close(struct pkvi_quotas* quotas, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, quotas->recounts);
    pkvi_mem_give(mem, quotas->accounts);
    pkvi_mem_give(mem, quotas->buckets);
}

uint32_t pkvi_quotas_find(const struct pkvi_quotas* quotas, uint64_t tenant) {
    uint32_t account = *bucket_of(quotas, tenant);
    while (account != PKVI_ACCOUNT_SHARED && quotas->accounts[account].tenant != tenant)
        account = quotas->accounts[account].next;
    return account;
}

uint32_t pkvi_quotas_add(struct pkvi_quotas* quotas, uint64_t tenant) {
    assert(quotas->open_count < quotas->account_max);
    uint32_t account = 1;
    while (quotas->accounts[account].open)
        account++;
    uint32_t* bucket = bucket_of(quotas, tenant);
    quotas->accounts[account] =
        (struct pkvi_account){.tenant = tenant, .most = UINT32_MAX, .next = *bucket, .open = true};
    *bucket = account;
    quotas->open_count++;
    return account;
}

void pkvi_quotas_remove(struct pkvi_quotas* quotas, uint32_t account) {
    struct pkvi_account* a = &quotas->accounts[account];
    assert(a->active + a->cached + a->sequences + a->host + a->guaranteed == 0);
    uint32_t* link = bucket_of(quotas, a->tenant);
    while (*link != account)
        link = &quotas->accounts[*link].next;
    *link = a->next;
    a->open = false;
    quotas->open_count--;
}

void pkvi_quotas_set(struct pkvi_quotas* quotas, uint32_t account, uint32_t guaranteed,
                     uint32_t most) {
    struct pkvi_account* a = &quotas->accounts[account];
    quotas->claimed -= claim_of(a);
    quotas->excess -= excess_of(a);
    quotas->guaranteed -= a->guaranteed;
    a->guaranteed = guaranteed;
    a->most = most;
    quotas->guaranteed += a->guaranteed;
    quotas->claimed += claim_of(a);
    quotas->excess += excess_of(a);
}

/* ---- Counting -------------------------------------------------------------------------------- */

void pkvi_quotas_count(struct pkvi_quotas* quotas, uint32_t account, int64_t active,
                       int64_t cached) {
    struct pkvi_account* a = &quotas->accounts[account];
    quotas->claimed -= claim_of(a);
    quotas->excess -= excess_of(a);
    a->active = (uint32_t)(a->active + active);
    a->cached = (uint32_t)(a->cached + cached);
    quotas->cached = (uint32_t)(quotas->cached + cached);
    quotas->claimed += claim_of(a);
    quotas->excess += excess_of(a);
}

uint32_t pkvi_quotas_available(const struct pkvi_quotas* quotas, uint32_t account) {
    const struct pkvi_account* a = &quotas->accounts[account];
    const uint32_t room = quotas->block_count - (uint32_t)quotas->claimed;
    return smaller(beyond(a->most, a->active), beyond(a->guaranteed, a->active) + room);
}

/* ---- Admission ------------------------------------------------------------------------------- */

uint32_t pkvi_quotas_evictions(const struct pkvi_quotas* quotas, uint32_t free, uint32_t blocks) {
    const uint32_t excess = (uint32_t)quotas->excess;
    return excess + beyond(blocks, free + excess);
}

/* Cached blocks without which the account is still `level` above its guarantee, or more. */
static uint32_t borrowed_above(const struct pkvi_account* a, uint32_t level) {
    const uint32_t left = a->cached - a->evict;
    return smaller(left, beyond(a->active + left, a->guaranteed + level));
}

/* Cached blocks within the guarantee that go for the sake of the account itself: so many that it
 * gives no more than it asks for. */
static uint32_t own_share(const struct pkvi_account* a) {
    const uint32_t borrowed = borrowed_above(a, 0) + a->evict;
    return smaller(beyond(a->cached, borrowed), beyond(a->asked, borrowed));
}

static uint64_t sum_above(const struct pkvi_quotas* quotas, uint32_t level) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i <= quotas->account_max; i++)
        sum += borrowed_above(&quotas->accounts[i], level);
    return sum;
}

/* The lowest level to which all can come down without losing more than `evictions`. */
static uint32_t find_level(const struct pkvi_quotas* quotas, uint32_t evictions) {
    uint32_t low = 0;
    uint32_t high = quotas->block_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (sum_above(quotas, middle) <= evictions)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* pre: so many cached blocks are above somebody's guarantee. */
static void share_by_level(struct pkvi_quotas* quotas, uint32_t evictions) {
    const uint32_t level = find_level(quotas, evictions);
    uint32_t rest = evictions - (uint32_t)sum_above(quotas, level);
    for (uint32_t i = 0; i <= quotas->account_max; i++) {
        struct pkvi_account* a = &quotas->accounts[i];
        uint32_t share = borrowed_above(a, level);
        if (rest > 0 && borrowed_above(a, level - 1) > share) { /* the last ones, one each */
            share++;
            rest--;
        }
        a->evict += share;
    }
    assert(rest == 0);
}

/* The account that is most above its guarantee, of those with cached blocks; the first of equals. */
static struct pkvi_account* find_richest(const struct pkvi_quotas* quotas) {
    struct pkvi_account* richest = NULL;
    uint32_t most = 0;
    for (uint32_t i = 0; i <= quotas->account_max; i++) {
        struct pkvi_account* a = &quotas->accounts[i];
        const uint32_t left = a->cached - a->evict;
        const uint32_t above = left > 0 ? beyond(a->active + left, a->guaranteed) : 0;
        if (above <= most) continue;
        most = above;
        richest = a;
    }
    return richest;
}

/* A step of decoding asks for few blocks, a prompt for many: one by one costs a look at all accounts
 * each, the level some twenty. */
static uint32_t share_few(struct pkvi_quotas* quotas, uint32_t evictions) {
    for (; evictions > 0; evictions--) {
        struct pkvi_account* richest = find_richest(quotas);
        if (richest == NULL) return evictions;
        richest->evict++;
    }
    return 0;
}

/* Returns how many are missing. Q3 promises that none is, where the pool has all of its memory. */
static uint32_t share_borrowed(struct pkvi_quotas* quotas, uint32_t evictions) {
    if (evictions <= FEW_EVICTIONS) return share_few(quotas, evictions);
    const uint64_t borrowed = sum_above(quotas, 0);
    const uint32_t shared = borrowed < evictions ? (uint32_t)borrowed : evictions;
    share_by_level(quotas, shared);
    return evictions - shared;
}

static void share_own(struct pkvi_quotas* quotas, uint32_t evictions) {
    for (uint32_t i = 0; i <= quotas->account_max && evictions > 0; i++) {
        struct pkvi_account* a = &quotas->accounts[i];
        const uint32_t share = smaller(own_share(a), evictions);
        a->evict += share;
        evictions -= share;
    }
    assert(evictions == 0);
}

uint32_t pkvi_quotas_evictable(const struct pkvi_quotas* quotas) {
    if (quotas->open_count == 0) return quotas->cached;
    uint64_t sum = sum_above(quotas, 0);
    for (uint32_t i = 0; i <= quotas->account_max; i++)
        sum += own_share(&quotas->accounts[i]);
    return (uint32_t)sum;
}

void pkvi_quotas_share(struct pkvi_quotas* quotas, uint32_t evictions) {
    if (quotas->open_count == 0) {
        quotas->accounts[PKVI_ACCOUNT_SHARED].evict = evictions;
        return;
    }
    for (uint32_t i = 0; i <= quotas->account_max; i++)
        quotas->accounts[i].evict = excess_of(&quotas->accounts[i]);
    const uint32_t missing = share_borrowed(quotas, evictions - (uint32_t)quotas->excess);
    if (missing > 0) share_own(quotas, missing);
}
