/* test_isolation.c - the same prompt, sent again and again by a thousand tenants: what one tenant has
 * in the cache is never another's hit, and no byte of it is another's residue.
 *
 *   test_isolation [--prompts N]
 *
 * The pool is so small that blocks change hands all the time. Whoever computes the prompt stores the
 * number of the tenant as K and V. A hit must read back that number everywhere; what has been reserved
 * and not been written must read as zero, or as that number. Every second tenant has a quota.
 *
 * The canary creates some sequences for another tenant than they are judged by. */
#define UNIT_NO_MAIN
#include "unit.h"

enum {
    DIM = 16,
    BLOCK = 4,
    TENANTS = 1000,
    BLOCKS = 1500,
    PROMPT = 2 * BLOCK,
    ROWS = PROMPT + BLOCK
};

static uint64_t prompts_wanted = 1000000;

struct world {
    pkv_cache* cache;
    uint64_t random;
    uint32_t prompt[PROMPT];
    uint32_t leak_percent; /* of the canary */
    uint64_t prompts;
    uint64_t hits;
    uint64_t foreign_hits;    /* hits that read what another tenant stored */
    uint64_t foreign_residue; /* unwritten slots that did */
};

static uint32_t below(struct world* w, uint32_t bound) {
    uint64_t x = w->random += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return (uint32_t)((x ^ x >> 31) % bound);
}

static void open_world(struct world* w, uint32_t leak_percent) {
    pkv_config config;
    *w = (struct world){.random = 1, .leak_percent = leak_percent};
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.faults = "";
    config.groups[0] =
        (pkv_group_config){.layers = 1, .kv_heads = 1, .key_dim = DIM, .block_tokens = BLOCK};
    config.blocks = BLOCKS;
    config.sequences_max = 4;
    config.sequence_tokens_max = 64;
    config.tenants_max = TENANTS / 2;
    config.seed = 5;
    ASSERT_OK(pkv_cache_create(&config, &w->cache));
    for (uint32_t i = 0; i < PROMPT; i++)
        w->prompt[i] = 100 + i;
    for (uint64_t tenant = 0; tenant < TENANTS; tenant += 2) {
        const pkv_tenant_config quota = {.tenant = tenant, .guaranteed = 1, .limit = 4};
        ASSERT_OK(pkv_tenant_set(w->cache, &quota));
    }
}

/* How many numbers of [0, rows) are neither `tenant`'s nor, where that is allowed, zero? */
static uint32_t count_foreign(struct world* w, pkv_seq seq, uint32_t rows, uint32_t tenant,
                              bool may_be_zero) {
    float k[ROWS][DIM];
    float v[ROWS][DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    uint32_t foreign = 0;
    ASSERT_OK(pkv_seq_read(w->cache, seq, 0, 0, rows, &k_array, &v_array));
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t d = 0; d < DIM; d++) {
            const float own = (float)(tenant + 1);
            const bool is_zero = k[i][d] == 0.0F && v[i][d] == 0.0F;
            foreign += !(k[i][d] == own && v[i][d] == own) && !(may_be_zero && is_zero);
        }
    return foreign;
}

static void compute(struct world* w, pkv_seq seq, uint32_t tenant, uint32_t matched) {
    float rows[ROWS][DIM];
    const pkv_array array = {.data = rows};
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t d = 0; d < DIM; d++)
            rows[i][d] = (float)(tenant + 1);
    ASSERT_OK(pkv_seq_append(w->cache, seq, w->prompt + matched, PROMPT - matched, NULL));
    ASSERT_OK(pkv_seq_write(w->cache, seq, 0, &array, &array));
    ASSERT_OK(pkv_seq_commit(w->cache, seq));
}

/* Slots that nobody has written since they changed hands. */
static void look_at_residue(struct world* w, pkv_seq seq, uint32_t tenant) {
    ASSERT_OK(pkv_seq_append(w->cache, seq, NULL, ROWS, NULL));
    ASSERT_OK(pkv_seq_commit(w->cache, seq));
    w->foreign_residue += count_foreign(w, seq, ROWS, tenant, true) > 0;
}

static void send_prompt(struct world* w) {
    const uint32_t tenant = below(w, TENANTS);
    const bool leaks = below(w, 100) < w->leak_percent;
    uint32_t matched;
    pkv_seq seq;
    ASSERT_OK(pkv_seq_create(w->cache, leaks ? (tenant + 1) % TENANTS : tenant, &seq));
    if (below(w, 16) == 0) {
        look_at_residue(w, seq, tenant);
    } else {
        ASSERT_OK(pkv_seq_match(w->cache, seq, w->prompt, PROMPT, &matched));
        w->prompts++;
        w->hits += matched > 0;
        if (matched > 0) w->foreign_hits += count_foreign(w, seq, matched, tenant, false) > 0;
        if (matched < PROMPT) compute(w, seq, tenant, matched);
    }
    ASSERT_OK(pkv_seq_free(w->cache, seq));
}

static void run(struct world* w, uint64_t prompts, uint32_t leak_percent) {
    open_world(w, leak_percent);
    while (w->prompts < prompts)
        send_prompt(w);
    ASSERT_OK(pkv_check(w->cache, NULL));
}

TEST(no_tenant_hits_what_another_has_cached) {
    struct world w;
    pkv_stats stats = {.struct_size = sizeof stats};
    run(&w, prompts_wanted, 0);
    ASSERT_OK(pkv_cache_stats(w.cache, &stats));
    printf("  prompts %" PRIu64 ", hits %" PRIu64 ", foreign hits %" PRIu64
           ", foreign residue %" PRIu64 ", scrubs %" PRIu64 ", evictions %" PRIu64 "\n",
           w.prompts, w.hits, w.foreign_hits, w.foreign_residue, stats.scrubs, stats.evictions);
    ASSERT_EQ(w.foreign_hits, 0);
    ASSERT_EQ(w.foreign_residue, 0);
    ASSERT_GT(w.hits, w.prompts / 10); /* there was something to be mistaken for */
    ASSERT_GT(stats.scrubs, w.prompts / 10);
    pkv_cache_destroy(w.cache);
}

TEST(a_tenant_that_is_mistaken_for_another_is_noticed) {
    struct world w;
    run(&w, 20000, 1);
    ASSERT_GT(w.foreign_hits, 0);
    ASSERT_GT(w.foreign_residue, 0);
    pkv_cache_destroy(w.cache);
}

int main(int argc, char** argv) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--prompts") == 0) prompts_wanted = strtoull(argv[i + 1], NULL, 10);
    return unit_main(NULL);
}
