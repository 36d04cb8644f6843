/* fixture.h - what the tests of the public interface share: a small cache, and tokens in one call.
 *
 * The cache runs on the simulated device, has one layer, one head and blocks of 4 tokens. K and V
 * of a token are told from its id and position, so that what is read back says where it came from:
 *
 *     k = 1000 * id + position          v = -k
 *
 * Include it after unit.h: its helpers assert. */
#ifndef TESTS_API_FIXTURE_H
#define TESTS_API_FIXTURE_H

#include "unit.h"

enum { FIXTURE_DIM = 16, FIXTURE_BLOCK = 4, FIXTURE_TOKENS_MAX = 256 };

static inline pkv_config fixture_config(void) {
    pkv_config config;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.groups[0] = (pkv_group_config){
        .layers = 1, .kv_heads = 1, .key_dim = FIXTURE_DIM, .block_tokens = FIXTURE_BLOCK};
    config.blocks = 16;
    config.sequences_max = 8;
    config.plan_tokens_max = FIXTURE_TOKENS_MAX;
    config.seed = 1;
    config.eviction = "lru"; /* whose victims are easy to tell */
    return config;
}

static inline pkv_cache* fixture_create(const pkv_config* config) {
    pkv_cache* cache = NULL;
    ASSERT_OK(pkv_cache_create(config, &cache));
    return cache;
}

static inline pkv_cache* fixture_open(void) {
    const pkv_config config = fixture_config();
    return fixture_create(&config);
}

static inline pkv_seq fixture_seq(pkv_cache* cache, uint64_t tenant) {
    pkv_seq seq;
    ASSERT_OK(pkv_seq_create(cache, tenant, &seq));
    return seq;
}

static inline pkv_stats fixture_stats(pkv_cache* cache) {
    pkv_stats stats = {.struct_size = sizeof stats};
    ASSERT_OK(pkv_cache_stats(cache, &stats));
    return stats;
}

static inline pkv_report fixture_check(pkv_cache* cache) {
    pkv_report report;
    ASSERT_OK(pkv_check(cache, &report));
    return report;
}

static inline pkv_seq_info fixture_info(pkv_cache* cache, pkv_seq seq) {
    pkv_seq_info info;
    ASSERT_OK(pkv_seq_get_info(cache, seq, &info));
    return info;
}

/* Write all rows of a plan, whose tokens are `tokens` in entry order. */
static inline int fixture_write(pkv_cache* cache, pkv_plan plan, const uint32_t* tokens) {
    static _Thread_local float k[FIXTURE_TOKENS_MAX][FIXTURE_DIM];
    static _Thread_local float v[FIXTURE_TOKENS_MAX][FIXTURE_DIM];
    pkv_plan_info info;
    const int status = pkv_plan_get_info(cache, plan, 0, &info);
    if (status != PKV_OK) return status;
    for (uint32_t row = 0; row < info.tokens; row++) {
        for (uint32_t d = 0; d < FIXTURE_DIM; d++) {
            k[row][d] = (float)(1000 * tokens[row] + info.positions[row]);
            v[row][d] = -k[row][d];
        }
    }
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    return pkv_write(cache, plan, 0, &k_array, &v_array);
}

/* Reserve, write and commit. */
static inline void fixture_extend(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens,
                                  uint32_t count) {
    const pkv_entry entry = {seq, tokens, count};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, tokens));
    ASSERT_OK(pkv_plan_commit(cache, plan));
}

/* K of one position; checks that V belongs to it. */
static inline float fixture_read(pkv_cache* cache, pkv_seq seq, uint32_t position) {
    float k[FIXTURE_DIM];
    float v[FIXTURE_DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    ASSERT_OK(pkv_seq_read(cache, seq, 0, position, position + 1, &k_array, &v_array));
    for (uint32_t d = 0; d < FIXTURE_DIM; d++) {
        ASSERT(k[d] == k[0]);
        ASSERT(v[d] == -k[0]);
    }
    return k[0];
}

/* Every committed position holds what fixture_extend stored for `tokens`. */
static inline void fixture_expect(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens,
                                  uint32_t count) {
    ASSERT_EQ(fixture_info(cache, seq).length, count);
    for (uint32_t i = 0; i < count; i++)
        ASSERT_NEAR(fixture_read(cache, seq, i), 1000 * tokens[i] + i, 0);
}

/* Ids that differ from call to call, so that nothing is shared by accident. */
static inline void fixture_tokens(uint32_t* tokens, uint32_t count, uint32_t first) {
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = first + i;
}

#endif
