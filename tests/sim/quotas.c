/* quotas.c - tenants are given quotas that change, are taken away, and are looked at. */
#include "sim/driver.h"

enum { TENANTS = SIM_TENANTS + 1 }; /* one of them has no sequences */

/* What may fit mostly, and what cannot now and then. */
static model_quota draw_quota(sim* s) {
    const uint32_t blocks = s->config.blocks;
    model_quota quota = {.tenant = sim_draw_tenant(s, TENANTS)};
    quota.guaranteed = sim_below(s, blocks / (1 + sim_below(s, 4)) + 2);
    if (sim_percent(s, 60)) quota.limit = quota.guaranteed + sim_below(s, blocks);
    if (sim_percent(s, 5)) quota.limit = sim_below(s, blocks);
    quota.borrow_off = sim_percent(s, 15);
    if (sim_percent(s, 2)) quota.guaranteed = UINT32_MAX;
    return quota;
}

static void set(sim* s) {
    const model_quota quota = draw_quota(s);
    const pkv_tenant_config config = {.tenant = quota.tenant,
                                      .guaranteed = quota.guaranteed,
                                      .limit = quota.limit,
                                      .borrow_off = quota.borrow_off};
    const model_verdict verdict = model_set_errors(&s->model, &quota);
    sim_before(s, verdict);
    const int status = pkv_tenant_set(s->cache, &config);
    if (!sim_judge(s, "tenant.set", verdict, status, quota.guaranteed, quota.limit)) return;
    model_set(&s->model, &quota);
    s->quotas_set++;
}

static void drop(sim* s, uint64_t tenant) {
    const model_verdict verdict = model_delete_errors(&s->model, tenant);
    sim_before(s, verdict);
    const int status = pkv_tenant_delete(s->cache, tenant);
    if (sim_judge(s, "tenant.delete", verdict, status, tenant, 0)) model_delete(&s->model, tenant);
}

static void expect(sim* s, const char* name, uint64_t want, uint64_t got) {
    if (want != got)
        sim_fail(s, "%s of a tenant: want %llu, got %llu", name, (unsigned long long)want,
                 (unsigned long long)got);
}

static void look(sim* s) {
    const model_verdict verdict = {0, 0};
    const uint64_t tenant = sim_draw_tenant(s, TENANTS);
    const uint32_t account = model_account(&s->model, tenant);
    const model_quota* quota = &s->model.quotas[account];
    const uint32_t active = model_active(&s->model, account);
    const uint32_t cached = model_cached(&s->model, account);
    const uint32_t used = active + cached;
    pkv_tenant_info info;
    sim_before(s, verdict);
    const int status = pkv_tenant_get(s->cache, tenant, &info);
    if (!sim_judge(s, "tenant.get", verdict, status, tenant, 0)) return;
    expect(s, "has_quota", account > 0, info.has_quota);
    expect(s, "guaranteed", quota->guaranteed, info.guaranteed);
    expect(s, "limit", quota->limit, info.limit);
    expect(s, "borrow_off", quota->borrow_off, info.borrow_off);
    expect(s, "blocks_active", active, info.blocks_active);
    expect(s, "blocks_cached", cached, info.blocks_cached);
    expect(s, "blocks_borrowed", used > quota->guaranteed ? used - quota->guaranteed : 0,
           info.blocks_borrowed);
    expect(s, "blocks_available", model_available(&s->model, account), info.blocks_available);
    expect(s, "host_blocks", model_slots_of(&s->model, account), info.host_blocks);
    expect(s, "sequences", model_seqs_of(&s->model, account), info.sequences);
    expect(s, "evictions", quota->evictions, info.evictions);
    expect(s, "prefix_query_tokens", quota->query_tokens, info.prefix_query_tokens);
    expect(s, "prefix_hit_tokens", quota->hit_tokens, info.prefix_hit_tokens);
}

void sim_op_quota(sim* s) {
    const uint32_t ticket = sim_below(s, 10);
    if (ticket < 5)
        set(s);
    else if (ticket < 7)
        drop(s, sim_draw_tenant(s, TENANTS));
    else
        look(s);
}

void sim_end_quotas(sim* s) {
    for (uint32_t i = 1; i <= s->config.tenants_max && sim_is_well(s); i++)
        if (s->model.quotas[i].is_set) drop(s, s->model.quotas[i].tenant);
}
