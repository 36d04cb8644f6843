/* tenant.c - see tenant.h. */
#include "core/tenant.h"

#include "core/cache.h"
#include "core/reclaim.h"

static uint32_t most_of(const pkv_tenant_config* config) {
    if (config->borrow_off) return config->guaranteed;
    return config->limit != 0 ? config->limit : UINT32_MAX;
}

static bool is_owned(const pkv_cache* cache, uint32_t block, uint64_t tenant) {
    return cache->pool.blocks[block].refs > 0 && cache->pool.blocks[block].owner == tenant;
}

/* Blocks of a tenant without a quota that its sequences name. */
static uint32_t count_active(const pkv_cache* cache, uint64_t tenant) {
    uint32_t active = 0;
    for (uint32_t b = 0; b < cache->pool.block_count; b++)
        active += is_owned(cache, b, tenant) && !pkvi_prefix_is_idle(&cache->prefix, b);
    return active;
}

/* ---- Set ------------------------------------------------------------------------------------- */

/* Do the new numbers fit what is in use? `account` is the shared one for a first quota. */
static int admit(pkv_cache* cache, const pkv_tenant_config* config, uint32_t account) {
    const struct pkvi_quotas* quotas = &cache->quotas;
    const struct pkvi_account* a = &quotas->accounts[account];
    const bool is_first = account == PKVI_ACCOUNT_SHARED;
    if (is_first && quotas->open_count == quotas->account_max) return PKV_ETOOBIG;
    const uint64_t guaranteed = quotas->guaranteed - a->guaranteed + config->guaranteed;
    if (guaranteed > quotas->block_count) return PKV_ETOOBIG;
    const uint32_t active = is_first ? count_active(cache, config->tenant) : a->active;
    if (active > most_of(config)) return PKV_EQUOTA;
    const uint64_t claimed = quotas->claimed - pkvi_account_claim(a->guaranteed, active) +
                             pkvi_account_claim(config->guaranteed, active);
    return claimed <= quotas->block_count ? PKV_OK : PKV_ENOBLOCKS;
}

/* Idle blocks in the order in which they stand, so that they go in that order. */
static void move_idle(pkv_cache* cache, const struct pkvi_list* list, uint64_t tenant,
                      uint32_t account) {
    uint32_t next;
    for (uint32_t b = list->head; b != PKVI_NONE; b = next) {
        next = cache->prefix.shared.candidates[b].next;
        if (is_owned(cache, b, tenant)) pkvi_prefix_move(&cache->prefix, b, account);
    }
}

/* Those that are hidden from the policy, likewise. */
static void move_hidden(pkv_cache* cache, const struct pkvi_level* level, uint64_t tenant,
                        uint32_t account) {
    const struct pkvi_retained* rows = cache->prefix.shared.retention.rows;
    uint32_t next;
    for (uint32_t row = level->head; row != PKVI_NONE; row = next) {
        next = rows[row].next;
        if (is_owned(cache, rows[row].block, tenant))
            pkvi_prefix_move(&cache->prefix, rows[row].block, account);
    }
}

static void move_blocks(pkv_cache* cache, uint64_t tenant, uint32_t account) {
    const struct pkvi_domain* from = &cache->prefix.domains[PKVI_ACCOUNT_SHARED];
    for (uint32_t i = 0; i < PKVI_DOMAIN_LISTS; i++)
        move_idle(cache, &from->lists[i], tenant, account);
    for (uint32_t i = 0; from->levels != NULL && i < PKVI_LEVELS; i++)
        move_hidden(cache, &from->levels->level[i], tenant, account);
    for (uint32_t b = 0; b < cache->pool.block_count; b++)
        if (is_owned(cache, b, tenant) && cache->pool.blocks[b].account != account)
            pkvi_prefix_move(&cache->prefix, b, account);
}

/* An account of its own, with all that the tenant has already. */
static uint32_t open_account(pkv_cache* cache, uint64_t tenant) {
    const uint32_t account = pkvi_quotas_add(&cache->quotas, tenant);
    pkvi_prefix_renew(&cache->prefix, account);
    move_blocks(cache, tenant, account);
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        struct pkvi_seq* seq = &cache->seqs.slots[i];
        if (seq->alive && seq->tenant == tenant) pkvi_seq_move(cache, seq, account);
    }
    return account;
}

int pkvi_tenant_set(pkv_cache* cache, const pkv_tenant_config* config) {
    if (config->limit != 0 && config->limit < config->guaranteed) return PKV_EINVAL;
    pkvi_settle(cache);
    uint32_t account = pkvi_quotas_find(&cache->quotas, config->tenant);
    PKVI_TRY(admit(cache, config, account));
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_TENANT_SET));
    if (account == PKVI_ACCOUNT_SHARED) account = open_account(cache, config->tenant);
    pkvi_quotas_set(&cache->quotas, account, config->guaranteed, most_of(config));
    cache->quotas.accounts[account].limit = config->limit;
    cache->quotas.accounts[account].borrow_off = config->borrow_off != 0;
    pkvi_reserve_evict(cache, (uint32_t)cache->quotas.excess);
    pkvi_trace_note(&cache->trace, "tenant.set", config->tenant, config->guaranteed);
    return PKV_OK;
}

/* ---- Delete ---------------------------------------------------------------------------------- */

int pkvi_tenant_delete(pkv_cache* cache, uint64_t tenant) {
    pkvi_settle(cache);
    const uint32_t account = pkvi_quotas_find(&cache->quotas, tenant);
    if (account == PKVI_ACCOUNT_SHARED) return PKV_EINVAL;
    const struct pkvi_account* a = &cache->quotas.accounts[account];
    if (a->sequences > 0 || a->active > 0) return PKV_EBUSY;
    pkvi_quotas_set(&cache->quotas, account, 0, 0); /* everything cached is too much */
    pkvi_reserve_evict(cache, (uint32_t)cache->quotas.excess);
    pkvi_quotas_remove(&cache->quotas, account);
    pkvi_trace_note(&cache->trace, "tenant.delete", tenant, 0);
    return PKV_OK;
}

/* ---- Look ------------------------------------------------------------------------------------ */

void pkvi_tenant_info(pkv_cache* cache, uint64_t tenant, pkv_tenant_info* info) {
    const uint32_t account = pkvi_quotas_find(&cache->quotas, tenant);
    const struct pkvi_account* a = &cache->quotas.accounts[account];
    const uint32_t used = a->active + a->cached;
    *info = (pkv_tenant_info){
        .tenant = tenant,
        .has_quota = account != PKVI_ACCOUNT_SHARED,
        .guaranteed = a->guaranteed,
        .limit = a->limit,
        .borrow_off = a->borrow_off,
        .blocks_active = a->active,
        .blocks_cached = a->cached,
        .blocks_borrowed = used > a->guaranteed ? used - a->guaranteed : 0,
        .blocks_available = pkvi_room_available(cache, account),
        .host_blocks = a->host,
        .sequences = a->sequences,
        .refused = a->refused,
        .evictions = a->evicted,
        .prefix_query_tokens = a->query_tokens,
        .prefix_hit_tokens = a->hit_tokens,
    };
}

uint32_t pkvi_tenant_list(const pkv_cache* cache, uint64_t* tenants, uint32_t capacity) {
    const struct pkvi_quotas* quotas = &cache->quotas;
    uint32_t copied = 0;
    for (uint32_t i = 1; i <= quotas->account_max && copied < capacity; i++)
        if (quotas->accounts[i].open) tenants[copied++] = quotas->accounts[i].tenant;
    return quotas->open_count;
}
