/* arena_fixture.h - what the tests of arenas share; include it after unit.h.
 *
 * Extents have 4096 bytes. A model of one head has blocks of 512 bytes, eight to an extent; one of
 * three heads has blocks of 1536, two to an extent and 1024 bytes at its end. All have four tokens
 * to a block. */
#ifndef TESTS_API_ARENA_FIXTURE_H
#define TESTS_API_ARENA_FIXTURE_H

#include "api/fixture.h"

enum { EXTENT = 4096, A_BLOCKS = 8, B_BLOCKS = 2, B_HEADS = 3 };

static inline pkv_arena_config arena_config(uint32_t extents) {
    pkv_arena_config config;
    ASSERT_OK(pkv_arena_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.extent_bytes = EXTENT;
    config.bytes = (uint64_t)extents * EXTENT;
    return config;
}

static inline pkv_arena* arena_open(uint32_t extents) {
    const pkv_arena_config config = arena_config(extents);
    pkv_arena* arena;
    ASSERT_OK(pkv_arena_create(&config, &arena));
    return arena;
}

static inline pkv_config member_config(pkv_arena* arena, uint32_t heads) {
    pkv_config config = fixture_config();
    config.groups[0].kv_heads = heads;
    config.arena = arena;
    config.blocks = 0;
    config.sequences_max = 32;
    config.sequence_tokens_max = 256;
    config.seed = 1 + heads;
    return config;
}

static inline pkv_cache* member_open(pkv_arena* arena, uint32_t heads) {
    const pkv_config config = member_config(arena, heads);
    return fixture_create(&config);
}

static inline pkv_arena_stats arena_stats(pkv_arena* arena) {
    pkv_arena_stats stats = {.struct_size = sizeof stats};
    ASSERT_OK(pkv_arena_get_stats(arena, &stats));
    ASSERT_EQ((stats.extents_total - stats.extents_free) * stats.extent_bytes,
              stats.bytes_used + stats.bytes_loose + stats.bytes_lost);
    return stats;
}

/* Blocks of whole sequences, without K/V. */
static inline int reserve(pkv_cache* cache, pkv_seq seq, uint32_t blocks) {
    return pkv_seq_append(cache, seq, NULL, blocks * FIXTURE_BLOCK, NULL);
}

/* A sequence of `blocks` blocks that stay cached when it has ended. */
static inline void leave_cached(pkv_cache* cache, uint32_t blocks, uint32_t first) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    const uint32_t count = blocks * FIXTURE_BLOCK;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_tokens(tokens, count, first);
    ASSERT_OK(pkv_seq_append(cache, seq, tokens, count, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_OK(pkv_seq_free(cache, seq));
}

#endif
