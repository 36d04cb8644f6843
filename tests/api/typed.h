/* typed.h - caches of any types of K and V, and rows that each of them holds exactly.
 *
 * Two layers, two heads, blocks of 16 tokens, so that a block is full of codes and scales. The rows
 * of a token are made from its id (sim/row.h): what is read is compared with them bit by bit. The
 * tests run for every pair of types of which one has scales, on both devices.
 *
 * Include it after unit.h: its helpers assert. */
#ifndef TESTS_API_TYPED_H
#define TESTS_API_TYPED_H

#include "api/fixture.h"
#include "sim/row.h"

enum {
    TYPED_LAYERS = 2,
    TYPED_HEADS = 2,
    TYPED_K_DIM = 48, /* i4: a whole group of 32 dims and a half one */
    TYPED_V_DIM = 32,
    TYPED_BLOCK = 16,
    TYPED_TOKENS_MAX = 4 * TYPED_BLOCK,
};

struct typed {
    pkv_cache* cache;
    pkv_group_config group;
    uint64_t block_bytes;
    bool cow_whole;
};

static inline struct typed typed_open(const char* device, uint32_t k_dtype, uint32_t v_dtype,
                                      uint32_t block_tokens, bool cow_whole) {
    pkv_config config = fixture_config();
    config.device = device;
    config.blocks = 4;
    config.groups[0] = (pkv_group_config){
        .layers = TYPED_LAYERS,
        .kv_heads = TYPED_HEADS,
        .key_dim = TYPED_K_DIM,
        .value_dim = TYPED_V_DIM,
        .k_dtype = k_dtype,
        .v_dtype = v_dtype,
        .block_tokens = block_tokens,
    };
    config.cow_whole = cow_whole;
    pkv_sizes sizes;
    ASSERT_OK(pkv_config_check(&config, NULL, &sizes));
    return (struct typed){fixture_create(&config), config.groups[0], sizes.block_bytes, cow_whole};
}

static inline void typed_run(struct typed t, void (*run)(struct typed t)) {
    run(t);
    fixture_check(t.cache);
    pkv_cache_destroy(t.cache);
}

/* Run a test for every pair of types with scales among them, on both devices. */
static inline void typed_for_all(void (*run)(struct typed t)) {
    static const char* const devices[] = {"sim", "cpu"};
    for (uint32_t pair = 0; pair < 2 * (PKV_I4 + 1) * (PKV_I4 + 1); pair++) {
        const uint32_t k_dtype = pair / 2 % (PKV_I4 + 1);
        const uint32_t v_dtype = pair / 2 / (PKV_I4 + 1);
        if (!row_is_scaled(k_dtype) && !row_is_scaled(v_dtype)) continue;
        typed_run(typed_open(devices[pair % 2], k_dtype, v_dtype, TYPED_BLOCK, false), run);
    }
}

/* Write the rows of `tokens`, which are all that is reserved. */
static inline void typed_write(struct typed t, pkv_seq seq, const uint32_t* tokens,
                               uint32_t count) {
    static float k[TYPED_TOKENS_MAX][TYPED_HEADS][TYPED_K_DIM];
    static float v[TYPED_TOKENS_MAX][TYPED_HEADS][TYPED_V_DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    for (uint32_t layer = 0; layer < TYPED_LAYERS; layer++) {
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t head = 0; head < TYPED_HEADS; head++) {
                row_fill(t.group.k_dtype, row_key(tokens[i], layer, head, false), k[i][head],
                         TYPED_K_DIM);
                row_fill(t.group.v_dtype, row_key(tokens[i], layer, head, true), v[i][head],
                         TYPED_V_DIM);
            }
        ASSERT_OK(pkv_seq_write(t.cache, seq, layer, &k_array, &v_array));
    }
}

/* Append, write and commit. */
static inline void typed_extend(struct typed t, pkv_seq seq, const uint32_t* tokens,
                                uint32_t count) {
    ASSERT_OK(pkv_seq_append(t.cache, seq, tokens, count, NULL));
    typed_write(t, seq, tokens, count);
    ASSERT_OK(pkv_seq_commit(t.cache, seq));
}

/* The sequence has these tokens, and every bit of their rows. Token 0: all zeros. */
static inline void typed_expect(struct typed t, pkv_seq seq, const uint32_t* tokens,
                                uint32_t count) {
    static float k[TYPED_TOKENS_MAX][TYPED_HEADS][TYPED_K_DIM];
    static float v[TYPED_TOKENS_MAX][TYPED_HEADS][TYPED_V_DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    ASSERT_EQ(fixture_info(t.cache, seq).length, count);
    for (uint32_t layer = 0; layer < TYPED_LAYERS; layer++) {
        ASSERT_OK(pkv_seq_read(t.cache, seq, layer, 0, count, &k_array, &v_array));
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t head = 0; head < TYPED_HEADS; head++) {
                const uint32_t k_key = row_key(tokens[i], layer, head, false);
                const uint32_t v_key = row_key(tokens[i], layer, head, true);
                if (tokens[i] == 0) {
                    ASSERT(row_is_zero(k[i][head], TYPED_K_DIM));
                    ASSERT(row_is_zero(v[i][head], TYPED_V_DIM));
                    continue;
                }
                ASSERT_EQ(row_differs(t.group.k_dtype, k_key, k[i][head], TYPED_K_DIM),
                          TYPED_K_DIM);
                ASSERT_EQ(row_differs(t.group.v_dtype, v_key, v[i][head], TYPED_V_DIM),
                          TYPED_V_DIM);
            }
    }
}

/* Ids whose rows differ in codes, scales and minima. */
static inline void typed_tokens(uint32_t* tokens, uint32_t count, uint32_t first) {
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = ((first + i) * 0x9e3779b1U >> 12) | 1;
}

#endif
