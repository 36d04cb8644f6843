/* example.h - what the examples share: stop with a message when a call fails, and made-up K and V.
 *
 * A real program computes q, K and V with its model. The examples need numbers that depend on the
 * token and its position and on nothing else, as they do in a model. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <math.h>
#include <pagedkv.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 2, KV_HEADS = 2, HEADS = 4, DIM = 64, ROWS_MAX = 512 };

/* Stop unless `call` succeeds. Every function of the library says by its result what happened. */
#define OK(call)                                                                                   \
    do {                                                                                           \
        int status_ = (call);                                                                      \
        if (status_ != PKV_OK) {                                                                   \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, pkv_status_name(status_),       \
                    pkv_status_message(status_));                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Stop unless the example shows what it says. */
#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition);               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* A cache for the small model of the examples: two layers, four query heads over two KV heads. */
static inline pkv_cache* example_cache(uint32_t blocks) {
    pkv_config config;
    pkv_cache* cache;
    OK(pkv_config_init(&config, PKV_VERSION));
    config.groups[0].layers = LAYERS;
    config.groups[0].kv_heads = KV_HEADS;
    config.groups[0].key_dim = DIM;
    config.blocks = blocks; /* of 16 tokens each, the default */
    OK(pkv_cache_create(&config, &cache));
    return cache;
}

static inline float example_value(uint32_t token, uint32_t position, uint32_t i) {
    return (float)sin(0.7 * token + 0.3 * position + 1.1 * i);
}

/* One step: reserve, write and attend layer by layer, commit. `out` gets the last layer's
 * attention, [count][HEADS][DIM]. Returns the status of the reservation; nothing has changed when
 * it is not PKV_OK. */
static inline int example_step(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens,
                               uint32_t count, float* out) {
    static float k[ROWS_MAX * KV_HEADS * DIM];
    static float v[ROWS_MAX * KV_HEADS * DIM];
    static float q[ROWS_MAX * HEADS * DIM];
    pkv_entry entry = {seq, tokens, count};
    pkv_plan plan;
    pkv_plan_info info;

    int status = pkv_plan_begin(cache, &entry, 1, &plan);
    if (status != PKV_OK) return status;
    OK(pkv_plan_get_info(cache, plan, 0, &info));
    for (uint32_t row = 0; row < count; row++) { /* the model's work */
        for (uint32_t i = 0; i < KV_HEADS * DIM; i++) {
            k[row * KV_HEADS * DIM + i] = example_value(tokens[row], info.positions[row], i);
            v[row * KV_HEADS * DIM + i] = example_value(tokens[row], info.positions[row], i + 1000);
        }
        for (uint32_t i = 0; i < HEADS * DIM; i++)
            q[row * HEADS * DIM + i] = example_value(tokens[row], info.positions[row], i + 2000);
    }
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        pkv_array keys = {k, PKV_F32, 0, 0};
        pkv_array values = {v, PKV_F32, 0, 0};
        pkv_attention attention = {
            {q, PKV_F32, 0, 0}, {out, PKV_F32, 0, 0}, NULL, HEADS, 0, 0, NULL};
        OK(pkv_write(cache, plan, layer, &keys, &values));
        OK(pkv_attend(cache, plan, layer, &attention));
    }
    OK(pkv_plan_commit(cache, plan));
    return PKV_OK;
}

static inline pkv_stats example_stats(pkv_cache* cache) {
    pkv_stats stats = {0};
    stats.struct_size = sizeof stats;
    OK(pkv_cache_stats(cache, &stats));
    return stats;
}

#endif
