/* test_match.c - the prefix index: what is found, what is not, what stays cached and what is
 * evicted. */
#include "unit.h"

#include "api/fixture.h"

static uint32_t match(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count) {
    uint32_t matched = UINT32_MAX;
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    return matched;
}

/* Commit `tokens` once and forget the sequence: they stay cached. */
static void put(pkv_cache* cache, uint64_t tenant, const uint32_t* tokens, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_extend(cache, seq, tokens, count);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

TEST(the_tokens_of_a_freed_sequence_are_found) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[11];
    fixture_tokens(tokens, 11, 1);
    put(cache, 0, tokens, 11);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 3);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, tokens, 10), 10);
    fixture_expect(cache, seq, tokens, 10);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    ASSERT_EQ(fixture_stats(cache).prefix_query_tokens, 10);
    ASSERT_EQ(fixture_stats(cache).prefix_hit_tokens, 10);
    fixture_extend(cache, seq, tokens + 10, 1);
    fixture_expect(cache, seq, tokens, 11);
    pkv_cache_destroy(cache);
}

TEST(no_more_than_count_tokens_are_matched) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    put(cache, 0, tokens, 8);
    const pkv_seq all = fixture_seq(cache, 0);
    const pkv_seq less = fixture_seq(cache, 0);
    const pkv_seq none = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, all, tokens, 8), 8);
    ASSERT_EQ(match(cache, less, tokens, 7), 7);
    ASSERT_EQ(match(cache, none, NULL, 0), 0);
    pkv_cache_destroy(cache);
}

TEST(a_block_counts_only_behind_its_own_prefix) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    uint32_t other[8];
    fixture_tokens(tokens, 8, 1);
    fixture_tokens(other, 8, 1);
    other[0] = 99;
    put(cache, 0, tokens, 8);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, other, 8), 0);
    ASSERT_EQ(match(cache, seq, tokens + 4, 4), 0);
    ASSERT_EQ(match(cache, seq, tokens, 8), 8);
    pkv_cache_destroy(cache);
}

TEST(another_tenant_finds_nothing) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    put(cache, 1, tokens, 8);
    const pkv_seq stranger = fixture_seq(cache, 2);
    const pkv_seq owner = fixture_seq(cache, 1);
    ASSERT_EQ(match(cache, stranger, tokens, 8), 0);
    ASSERT_EQ(match(cache, owner, tokens, 8), 8);
    pkv_cache_destroy(cache);
}

TEST(uncommitted_tokens_are_not_found) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq writer = fixture_seq(cache, 0);
    const pkv_seq reader = fixture_seq(cache, 0);
    const pkv_entry entry = {writer, tokens, 8};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, tokens));
    ASSERT_EQ(match(cache, reader, tokens, 8), 0);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_EQ(match(cache, reader, tokens, 8), 0);
    ASSERT_EQ(fixture_stats(cache).prefix_inserts, 0);
    pkv_cache_destroy(cache);
}

TEST(unknown_tokens_end_what_is_cached) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[16];
    fixture_tokens(tokens, 16, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 4);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 4, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    fixture_extend(cache, seq, tokens + 8, 8);
    ASSERT_EQ(fixture_stats(cache).prefix_inserts, 1);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 1);
    pkv_cache_destroy(cache);
}

TEST(equal_blocks_are_kept_once) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq a = fixture_seq(cache, 0);
    const pkv_seq b = fixture_seq(cache, 0);
    fixture_extend(cache, a, tokens, 8);
    fixture_extend(cache, b, tokens, 8);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_EQ(fixture_stats(cache).prefix_duplicates, 2);
    uint32_t of_a[2];
    uint32_t of_b[2];
    ASSERT_OK(pkv_seq_blocks(cache, a, 0, 0, 2, of_a));
    ASSERT_OK(pkv_seq_blocks(cache, b, 0, 0, 2, of_b));
    ASSERT_MEM(of_a, of_b, sizeof of_a);
    fixture_expect(cache, b, tokens, 8);
    pkv_cache_destroy(cache);
}

TEST(the_longest_idle_blocks_are_evicted_first) {
    pkv_config config = fixture_config();
    config.blocks = 4;
    pkv_cache* cache = fixture_create(&config);
    uint32_t old[8];
    uint32_t young[8];
    fixture_tokens(old, 8, 1);
    fixture_tokens(young, 8, 100);
    put(cache, 0, old, 8);
    put(cache, 0, young, 8);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 4);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 1, NULL));
    ASSERT_EQ(fixture_stats(cache).evictions, 1);
    const pkv_seq first = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, first, old, 8), 4);
    ASSERT_OK(pkv_seq_free(cache, first));
    const pkv_seq second = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, second, young, 8), 8);
    pkv_cache_destroy(cache);
}

TEST(matching_makes_blocks_young_again) {
    pkv_config config = fixture_config();
    config.blocks = 2;
    pkv_cache* cache = fixture_create(&config);
    uint32_t a[4];
    uint32_t b[4];
    fixture_tokens(a, 4, 1);
    fixture_tokens(b, 4, 50);
    put(cache, 0, a, 4);
    put(cache, 0, b, 4);
    const pkv_seq touch = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, touch, a, 4), 4);
    ASSERT_OK(pkv_seq_free(cache, touch));
    const pkv_seq taker = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, taker, NULL, 1, NULL));
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, b, 4), 0);
    ASSERT_EQ(match(cache, seq, a, 4), 4);
    pkv_cache_destroy(cache);
}

TEST(held_blocks_are_not_evicted) {
    pkv_config config = fixture_config();
    config.blocks = 2;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq holder = fixture_seq(cache, 0);
    fixture_extend(cache, holder, tokens, 8);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_append(cache, seq, NULL, 1, NULL), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_stats(cache).evictions, 0);
    fixture_expect(cache, holder, tokens, 8);
    pkv_cache_destroy(cache);
}

TEST(only_an_idle_empty_sequence_can_match) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[4] = {1, 2, 3, 4};
    uint32_t matched = 5;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 1);
    ASSERT_STATUS(pkv_seq_match(cache, seq, tokens, 4, &matched), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_match(cache, seq, NULL, 4, &matched), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_match(cache, seq, tokens, 4, NULL), PKV_EINVAL);
    const pkv_seq empty = fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_match(cache, empty, tokens, 1U << 31, &matched), PKV_ETOOBIG);
    ASSERT_EQ(matched, 5);
    pkv_cache_destroy(cache);
}

TEST(without_the_index_nothing_stays) {
    pkv_config config = fixture_config();
    config.prefix_off = 1;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    put(cache, 0, tokens, 8);
    ASSERT_EQ(fixture_stats(cache).blocks_free, 16);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, tokens, 8), 0);
    pkv_cache_destroy(cache);
}
