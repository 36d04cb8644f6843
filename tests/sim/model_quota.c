/* model_quota.c - quotas as the header describes them, by counting all blocks each time. */
#include "sim/model.h"

#include <string.h>

static uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

uint32_t model_account(const model* m, uint64_t tenant) {
    for (uint32_t i = 1; i <= m->config.tenants_max; i++)
        if (m->quotas[i].is_set && m->quotas[i].tenant == tenant) return i;
    return 0;
}

uint32_t model_active(const model* m, uint32_t account) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.blocks; i++)
        if (m->blocks[i].holders > 0) count += model_account(m, m->blocks[i].tenant) == account;
    return count;
}

uint32_t model_cached(const model* m, uint32_t account) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.blocks; i++)
        if (m->blocks[i].indexed && m->blocks[i].holders == 0)
            count += model_account(m, m->blocks[i].tenant) == account;
    return count;
}

static uint32_t most_of(const model_quota* quota) {
    if (quota->borrow_off) return quota->guaranteed;
    return quota->limit > 0 ? quota->limit : UINT32_MAX;
}

/* Blocks that cached ones of others cannot be part of, with `more` blocks for `account`. */
static uint64_t claims(const model* m, const uint32_t* need) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i <= m->config.tenants_max; i++)
        sum += max_u32(m->quotas[i].guaranteed, model_active(m, i) + need[i]);
    return sum;
}

bool model_may_activate(const model* m, uint64_t tenant) {
    uint32_t need[MODEL_ACCOUNTS] = {0};
    need[model_account(m, tenant)] = 1;
    return claims(m, need) <= m->config.blocks;
}

uint32_t model_quota_errors(const model* m, const uint32_t* need) {
    uint32_t errors = 0;
    for (uint32_t i = 1; i <= m->config.tenants_max; i++)
        if (need[i] > 0 && model_active(m, i) + need[i] > most_of(&m->quotas[i]))
            errors |= MODEL_BIT(PKV_EQUOTA);
    if (claims(m, need) > m->config.blocks) errors |= MODEL_BIT(PKV_ENOBLOCKS);
    return errors;
}

uint32_t model_need_errors(const model* m, const uint32_t* need) {
    const uint32_t errors = model_quota_errors(m, need);
    return model_fits_memory(m, need) ? errors : errors | MODEL_BIT(PKV_ENOBLOCKS);
}

bool model_is_above_limit(const model* m, uint32_t account, uint32_t need) {
    if (account == 0) return false;
    const uint32_t used = model_active(m, account) + model_cached(m, account) + need;
    return used > most_of(&m->quotas[account]);
}

uint32_t model_richest(const model* m, const uint32_t* need) {
    uint32_t richest = MODEL_NONE;
    uint32_t most = 0;
    for (uint32_t i = 0; i <= m->config.tenants_max; i++) {
        const uint32_t cached = model_cached(m, i);
        const uint32_t used = model_active(m, i) + cached + need[i];
        if (cached == 0 || used <= m->quotas[i].guaranteed + most) continue;
        most = used - m->quotas[i].guaranteed;
        richest = i;
    }
    return richest;
}

/* ---- Set and delete -------------------------------------------------------------------------- */

static uint32_t active_of_tenant(const model* m, uint64_t tenant) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.blocks; i++)
        count += m->blocks[i].holders > 0 && m->blocks[i].tenant == tenant;
    return count;
}

static uint32_t quota_count(const model* m) {
    uint32_t count = 0;
    for (uint32_t i = 1; i <= m->config.tenants_max; i++)
        count += m->quotas[i].is_set;
    return count;
}

model_verdict model_set_errors(const model* m, const model_quota* quota) {
    const uint32_t account = model_account(m, quota->tenant);
    const uint32_t active = active_of_tenant(m, quota->tenant);
    uint32_t errors = 0;
    if (quota->limit > 0 && quota->limit < quota->guaranteed) errors |= MODEL_BIT(PKV_EINVAL);
    if (account == 0 && quota_count(m) == m->config.tenants_max) errors |= MODEL_BIT(PKV_ETOOBIG);
    uint64_t guaranteed = quota->guaranteed;
    uint64_t claimed = max_u32(quota->guaranteed, active);
    for (uint32_t i = 0; i <= m->config.tenants_max; i++) {
        if (i > 0 && i == account) continue;
        const bool was_in_it = i == 0 && account == 0; /* it leaves those without a quota */
        guaranteed += m->quotas[i].guaranteed;
        claimed += max_u32(m->quotas[i].guaranteed, model_active(m, i) - (was_in_it ? active : 0));
    }
    if (guaranteed > m->config.blocks) errors |= MODEL_BIT(PKV_ETOOBIG);
    if (active > most_of(quota)) errors |= MODEL_BIT(PKV_EQUOTA);
    if (claimed > m->config.blocks) errors |= MODEL_BIT(PKV_ENOBLOCKS);
    return (model_verdict){errors, 0};
}

/* Their policy begins anew with what it is told then. */
static void forget_departures(model* m, uint64_t tenant) {
    for (uint32_t i = 0; i < m->config.blocks; i++)
        if (m->blocks[i].tenant == tenant) m->blocks[i].left_with = ++m->departures;
}

void model_set(model* m, const model_quota* quota) {
    uint32_t account = model_account(m, quota->tenant);
    if (account == 0) {
        account = 1;
        while (m->quotas[account].is_set)
            account++;
        m->quotas[account] = (model_quota){.tenant = quota->tenant, .is_set = true};
        forget_departures(m, quota->tenant);
    }
    m->quotas[account].guaranteed = quota->guaranteed;
    m->quotas[account].limit = quota->limit;
    m->quotas[account].borrow_off = quota->borrow_off;
    while (model_is_above_limit(m, account, 0))
        model_evict(m, account);
}

uint32_t model_seqs_of(const model* m, uint32_t account) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        count += m->seqs[i].alive && model_account(m, m->seqs[i].tenant) == account;
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        count += m->pins[i].seq.alive && model_account(m, m->pins[i].seq.tenant) == account;
    return count;
}

model_verdict model_delete_errors(const model* m, uint64_t tenant) {
    const uint32_t account = model_account(m, tenant);
    if (account == 0) return (model_verdict){MODEL_BIT(PKV_EINVAL), 0};
    const bool is_busy = model_active(m, account) + model_seqs_of(m, account) > 0;
    return (model_verdict){is_busy ? MODEL_BIT(PKV_EBUSY) : 0, 0};
}

void model_delete(model* m, uint64_t tenant) {
    const uint32_t account = model_account(m, tenant);
    while (model_cached(m, account) > 0)
        model_evict(m, account);
    m->quotas[account] = (model_quota){.is_set = false};
}

uint32_t model_available(const model* m, uint32_t account) {
    uint32_t need[MODEL_ACCOUNTS] = {0};
    do {
        need[account]++;
    } while (model_need_errors(m, need) == 0);
    return need[account] - 1;
}
