/* fixture.h - what the tests of the CUDA device share: a cache on it, arrays that it reaches, and one
 * layer or step in one call.
 *
 * A test says how large things are, and then includes this, after unit.h:
 *
 *     enum { DIM = 64, HEADS = 2, GROUP = 4, LAYERS = 3, ROWS_MAX = 64 };
 *
 * with HEADS KV heads, and GROUP query heads for each of them. */
#ifndef TESTS_CUDA_FIXTURE_H
#define TESTS_CUDA_FIXTURE_H

#include "unit.h"

#include "base/hash.h"
#include "emulator/system.h"

static inline void needs_emulator(void) {
    if (!emulator_is_here()) SKIP("calls are counted, and made to fail, in the emulator alone");
}

/* Nothing is left of a cache and of what the test had. */
static inline void expect_nothing_left(void) {
    const struct emulator_usage usage = emulator_used();
    ASSERT_EQ(usage.allocations, 0);
    ASSERT_EQ(usage.events, 0);
    ASSERT_EQ(usage.streams, 0);
    ASSERT_EQ(usage.contexts, 0);
    ASSERT_EQ(usage.queued, 0);
}

/* ---- A cache --------------------------------------------------------------------------------- */

static inline pkv_config fixture_config(const char* device, uint32_t dtype) {
    pkv_config config;
    setenv("PKV_CUDA_LIBRARY", EMULATED_LIBRARY, 1);
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = device;
    config.faults = "";
    config.groups[0] = (pkv_group_config){
        .layers = LAYERS, .kv_heads = HEADS, .key_dim = DIM, .k_dtype = dtype, .v_dtype = dtype};
    config.sequences_max = 8;
    config.plan_tokens_max = ROWS_MAX;
    config.seed = 1;
    return config;
}

static inline pkv_cache* create(const pkv_config* config) {
    pkv_cache* cache = NULL;
    ASSERT_OK(pkv_cache_create(config, &cache));
    return cache;
}

static inline pkv_seq new_seq_of(pkv_cache* cache, uint64_t tenant) {
    pkv_seq seq;
    ASSERT_OK(pkv_seq_create(cache, tenant, &seq));
    return seq;
}

static inline pkv_seq new_seq(pkv_cache* cache) {
    return new_seq_of(cache, 0);
}

static inline pkv_plan begin(pkv_cache* cache, pkv_seq seq, uint32_t count) {
    const pkv_entry entry = {seq, NULL, count};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    return plan;
}

/* Let every call of these kinds fail in turn while a cache is created, and see that nothing is left
 * of it. Returns how often that was. */
static inline uint32_t fail_each_call(const pkv_config* config, const enum emulator_call* calls,
                                      size_t count) {
    uint32_t failures = 0;
    for (size_t c = 0; c < count; c++)
        for (uint32_t after = 0;; after++) {
            pkv_cache* cache = NULL;
            emulator_reset(after + 1);
            emulator_fail(calls[c], after, PKV_ENOMEM);
            const int status = pkv_cache_create(config, &cache);
            if (status == PKV_OK) {
                pkv_cache_destroy(cache);
                break;
            }
            ASSERT_STATUS(status, PKV_ENOMEM);
            expect_nothing_left();
            failures++;
        }
    emulator_reset(1);
    expect_nothing_left();
    return failures;
}

/* ---- Arrays ---------------------------------------------------------------------------------- */

enum {
    KV_FLOATS = ROWS_MAX * HEADS * DIM,
    Q_FLOATS = KV_FLOATS * GROUP,
    LSE_FLOATS = ROWS_MAX * HEADS * GROUP
};

/* Pinned memory: both the device and the CPU reach it. */
static inline float* floats(uint64_t count) {
    void* memory;
    ASSERT_OK(pkvi_gpu_alloc_pinned(count * sizeof(float), &memory));
    return memory;
}

static inline void draw_floats(float* memory, uint64_t count, uint64_t seed) {
    for (uint64_t i = 0; i < count; i++)
        memory[i] = (float)(int64_t)(pkvi_random_next(&seed) >> 40) * 0x1p-22F - 2.0F;
}

static inline float* random_floats(uint64_t count, uint64_t seed) {
    float* memory = floats(count);
    draw_floats(memory, count, seed);
    return memory;
}

/* K and V of a step, queries, and room for results. */
struct arrays {
    float* k;
    float* v;
    float* q;
    float* out;
    float* lse;
    float* sinks; /* one for each query head */
};

static inline struct arrays arrays_open(uint64_t seed) {
    return (struct arrays){random_floats(KV_FLOATS, seed),
                           random_floats(KV_FLOATS, seed + 1),
                           random_floats(Q_FLOATS, seed + 2),
                           floats(Q_FLOATS),
                           floats(LSE_FLOATS),
                           random_floats((uint64_t)HEADS * GROUP, seed + 3)};
}

static inline void arrays_close(struct arrays* arrays) {
    pkvi_gpu_free_pinned(arrays->k);
    pkvi_gpu_free_pinned(arrays->v);
    pkvi_gpu_free_pinned(arrays->q);
    pkvi_gpu_free_pinned(arrays->out);
    pkvi_gpu_free_pinned(arrays->lse);
    pkvi_gpu_free_pinned(arrays->sinks);
}

static inline void expect_near(const float* left, const float* right, uint64_t count,
                               float tolerance) {
    for (uint64_t i = 0; i < count; i++)
        ASSERT_NEAR(left[i], right[i], tolerance);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static inline int write_layer(pkv_cache* cache, pkv_plan plan, uint32_t layer,
                              const struct arrays* from) {
    const pkv_array k = {.data = from->k};
    const pkv_array v = {.data = from->v};
    return pkv_write(cache, plan, layer, &k, &v);
}

static inline int attend_layer(pkv_cache* cache, pkv_plan plan, uint32_t layer,
                               const struct arrays* arrays) {
    const pkv_attention attention = {.q = {.data = arrays->q},
                                     .out = {.data = arrays->out},
                                     .lse = arrays->lse,
                                     .query_heads = HEADS * GROUP,
                                     .sink_logits = arrays->sinks};
    return pkv_attend(cache, plan, layer, &attention);
}

/* Tokens that were computed elsewhere come in, more than one plan takes at a time; all layers get the
 * same K and V. */
static inline void import(pkv_cache* cache, pkv_seq seq, uint32_t count, float* k, float* v) {
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    for (uint32_t done = 0; done < count; done += ROWS_MAX)
        ASSERT_OK(pkv_seq_append(cache, seq, NULL,
                                 count - done < ROWS_MAX ? count - done : ROWS_MAX, NULL));
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        ASSERT_OK(pkv_seq_write(cache, seq, layer, &k_array, &v_array));
    ASSERT_OK(pkv_seq_commit(cache, seq));
}

#endif
