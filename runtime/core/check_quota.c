/* check_quota.c - the part of the judge (check.h) that recounts what tenants have. */
#include "core/cache.h"
#include "core/check_parts.h"
#include <string.h>

static const char* count_seqs(const pkv_cache* cache) {
    const struct pkvi_quotas* quotas = &cache->quotas;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        const struct pkvi_seq* seq = &cache->seqs.slots[i];
        if (!seq->alive) continue;
        EXPECT(pkvi_quotas_find(quotas, seq->tenant) == seq->account, "Q4");
        quotas->recounts[seq->account].sequences++;
        quotas->recounts[seq->account].host += pkvi_tier_count(&cache->tier, seq->host_head);
    }
    return NULL;
}

static const char* count_blocks(const pkv_cache* cache) {
    const struct pkvi_quotas* quotas = &cache->quotas;
    const struct pkvi_pool* pool = &cache->pool;
    for (uint32_t b = 0; b < pool->block_count; b++) {
        if (pool->blocks[b].refs == 0) continue;
        const uint32_t account = pool->blocks[b].account;
        EXPECT(pkvi_quotas_find(quotas, pool->blocks[b].owner) == account, "Q4");
        const bool is_cached = pkvi_prefix_is_idle(&cache->prefix, b);
        quotas->recounts[account].cached += is_cached;
        quotas->recounts[account].active += !is_cached;
    }
    return NULL;
}

static const char* check_account(const struct pkvi_quotas* quotas, uint32_t account) {
    const struct pkvi_account* a = &quotas->accounts[account];
    const struct pkvi_recount* count = &quotas->recounts[account];
    EXPECT(a->active == count->active, "Q1");
    EXPECT(a->cached == count->cached, "Q1");
    EXPECT(a->sequences == count->sequences, "Q4");
    EXPECT(a->host == count->host, "Q4");
    EXPECT(a->active + a->cached <= a->most, "Q2");
    EXPECT(a->evict == 0, "Q2");
    EXPECT(a->asked == 0, "Q2");
    EXPECT(!a->open || pkvi_quotas_find(quotas, a->tenant) == account, "Q4");
    return NULL;
}

const char* pkvi_check_quotas(const pkv_cache* cache) {
    const struct pkvi_quotas* quotas = &cache->quotas;
    const char* broken = NULL;
    memset(quotas->recounts, 0, (quotas->account_max + 1) * sizeof *quotas->recounts);
    broken = count_seqs(cache);
    if (broken == NULL) broken = count_blocks(cache);
    uint64_t claimed = 0;
    uint64_t guaranteed = 0;
    uint64_t cached = 0;
    uint32_t open = 0;
    for (uint32_t i = 0; i <= quotas->account_max && broken == NULL; i++) {
        const struct pkvi_account* a = &quotas->accounts[i];
        broken = check_account(quotas, i);
        claimed += pkvi_account_claim(a->guaranteed, a->active);
        guaranteed += a->guaranteed;
        cached += a->cached;
        open += a->open;
    }
    if (broken != NULL) return broken;
    EXPECT(cached == quotas->cached, "Q1");
    EXPECT(quotas->excess == 0, "Q2");
    EXPECT(guaranteed == quotas->guaranteed, "Q3");
    EXPECT(claimed == quotas->claimed, "Q3");
    EXPECT(claimed <= quotas->block_count, "Q3");
    EXPECT(open == quotas->open_count, "Q4");
    return NULL;
}
