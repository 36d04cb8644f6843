/* retain_fixture.h - what the tests of retention share; include it after unit.h. */
#ifndef TESTS_API_RETAIN_FIXTURE_H
#define TESTS_API_RETAIN_FIXTURE_H

#include "api/arena_fixture.h"

enum { MS = 1000, RETAINED = 12 };

static inline pkv_config retain_config(void) {
    pkv_config config = fixture_config();
    config.retained_max = RETAINED;
    return config;
}

static inline pkv_cache* retain_open(void) {
    const pkv_config config = retain_config();
    return fixture_create(&config);
}

/* A sequence of `tenant` with `count` tokens from `first` on. */
static inline pkv_seq grow(pkv_cache* cache, uint64_t tenant, uint32_t first, uint32_t count) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    fixture_tokens(tokens, count, first);
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_extend(cache, seq, tokens, count);
    return seq;
}

static inline void retain_all(pkv_cache* cache, pkv_seq seq, pkv_retention retention) {
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, fixture_info(cache, seq).length, &retention, NULL));
}

/* One block of tokens from `first` on, on these terms, cached. */
static inline void leave_block(pkv_cache* cache, uint32_t first, pkv_retention retention) {
    const pkv_seq seq = grow(cache, 0, first, FIXTURE_BLOCK);
    retain_all(cache, seq, retention);
    ASSERT_OK(pkv_seq_free(cache, seq));
    fixture_check(cache);
}

/* How many of `count` tokens from `first` on does `tenant` find? Uses them. */
static inline uint32_t found_by(pkv_cache* cache, uint64_t tenant, uint32_t first, uint32_t count) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    uint32_t matched;
    fixture_tokens(tokens, count, first);
    const pkv_seq seq = fixture_seq(cache, tenant);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    ASSERT_OK(pkv_seq_free(cache, seq));
    fixture_check(cache);
    return matched;
}

/* The same by a lookup, which uses nothing. */
static inline uint32_t seen(pkv_cache* cache, uint32_t first, uint32_t count) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    pkv_match match;
    fixture_tokens(tokens, count, first);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_lookup(cache, seq, tokens, count, &match));
    ASSERT_OK(pkv_seq_free(cache, seq));
    return match.matched;
}

static inline bool is_cached(pkv_cache* cache, uint32_t first) {
    return seen(cache, first, FIXTURE_BLOCK) == FIXTURE_BLOCK;
}

/* Make `count` cached blocks go, by asking for all free blocks and so many more. */
static inline void press(pkv_cache* cache, uint32_t count) {
    const uint64_t before = fixture_stats(cache).evictions;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(reserve(cache, seq, fixture_stats(cache).blocks_free + count));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).evictions, before + count);
    fixture_check(cache);
}

static inline void advance(pkv_cache* cache, uint64_t ms) {
    ASSERT_OK(pkv_clock_advance(cache, ms * MS));
}

#endif
