/* test_partial.c - hits that end within a block, and last blocks that are cached partly filled. */
#include "unit.h"

#include "api/fixture.h"

static uint32_t match(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count) {
    uint32_t matched = UINT32_MAX;
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    return matched;
}

static pkv_seq matched_seq(pkv_cache* cache, const uint32_t* tokens, uint32_t count,
                           uint32_t wanted) {
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, tokens, count), wanted);
    return seq;
}

static void put(pkv_cache* cache, uint64_t tenant, const uint32_t* tokens, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_extend(cache, seq, tokens, count);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

TEST(an_identical_prompt_is_reused_but_for_its_last_token) {
    pkv_config config = fixture_config();
    config.groups[0].block_tokens = 16;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[63];
    fixture_tokens(tokens, 63, 1);
    put(cache, 0, tokens, 63);
    const pkv_seq seq = matched_seq(cache, tokens, 62, 62);
    fixture_extend(cache, seq, tokens + 62, 1);
    fixture_expect(cache, seq, tokens, 63);
    pkv_cache_destroy(cache);
}

TEST(a_hit_ends_where_the_texts_part) {
    pkv_cache* cache = fixture_open();
    const uint32_t stored[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const uint32_t asked[8] = {1, 2, 3, 4, 5, 6, 70, 80};
    put(cache, 0, stored, 8);
    const pkv_seq seq = matched_seq(cache, asked, 8, 6);
    fixture_expect(cache, seq, asked, 6);
    fixture_extend(cache, seq, asked + 6, 2);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    fixture_expect(cache, seq, asked, 8);
    const pkv_seq other = matched_seq(cache, stored, 8, 8);
    fixture_expect(cache, other, stored, 8);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(the_longest_common_beginning_wins) {
    pkv_cache* cache = fixture_open();
    put(cache, 0, (const uint32_t[]){1, 2, 3, 9}, 4);
    put(cache, 0, (const uint32_t[]){1, 8, 8, 8}, 4);
    put(cache, 0, (const uint32_t[]){2, 2, 3, 4}, 4);
    const pkv_seq seq = matched_seq(cache, (const uint32_t[]){1, 2, 3, 4}, 4, 3);
    fixture_expect(cache, seq, (const uint32_t[]){1, 2, 3}, 3);
    pkv_cache_destroy(cache);
}

TEST(a_hit_may_end_in_the_first_block_and_stays_within_its_tenant) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[3] = {1, 2, 3};
    put(cache, 1, tokens, 3);
    const pkv_seq stranger = fixture_seq(cache, 2);
    ASSERT_EQ(match(cache, stranger, tokens, 3), 0);
    const pkv_seq owner = fixture_seq(cache, 1);
    ASSERT_EQ(match(cache, owner, tokens, 2), 2);
    fixture_expect(cache, owner, tokens, 2);
    pkv_cache_destroy(cache);
}

TEST(who_goes_on_where_a_cached_tail_ends_does_not_copy_it) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    put(cache, 0, tokens, 6);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 2);
    const pkv_seq seq = matched_seq(cache, tokens, 8, 6);
    fixture_extend(cache, seq, tokens + 6, 2);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    fixture_expect(cache, seq, tokens, 8);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 2);
    matched_seq(cache, tokens, 8, 8);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(two_that_go_on_from_one_cached_tail_go_their_own_ways) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[6];
    fixture_tokens(tokens, 6, 1);
    put(cache, 0, tokens, 6);
    const pkv_seq a = matched_seq(cache, tokens, 6, 6);
    const pkv_seq b = matched_seq(cache, tokens, 6, 6);
    fixture_extend(cache, a, (const uint32_t[]){70}, 1);
    fixture_extend(cache, b, (const uint32_t[]){80}, 1);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1); /* the second has it alone by then */
    fixture_expect(cache, a, (const uint32_t[]){1, 2, 3, 4, 5, 6, 70}, 7);
    fixture_expect(cache, b, (const uint32_t[]){1, 2, 3, 4, 5, 6, 80}, 7);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(a_tail_that_a_longer_block_contains_is_not_cached_twice) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    put(cache, 0, tokens, 8);
    const pkv_seq shorter = fixture_seq(cache, 0);
    fixture_extend(cache, shorter, tokens, 6);
    ASSERT_OK(pkv_seq_free(cache, shorter));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 2);
    put(cache, 0, tokens, 3);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 2);
    pkv_cache_destroy(cache);
}

TEST(only_known_and_committed_tokens_of_a_tail_are_cached) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 5);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 1, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_OK(pkv_seq_append(cache, seq, tokens + 6, 1, NULL)); /* never committed */
    ASSERT_OK(pkv_seq_free(cache, seq));
    matched_seq(cache, tokens, 8, 5);
    pkv_cache_destroy(cache);
}

TEST(a_tail_without_its_prefix_is_not_cached) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[6];
    fixture_tokens(tokens, 6, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 4, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    fixture_extend(cache, seq, tokens + 4, 2);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    pkv_cache_destroy(cache);
}

/* The beginning of the text has rolled off, and left the index for other tokens. */
TEST(behind_a_window_a_tail_is_found_only_with_all_of_its_prefix) {
    pkv_config config = fixture_config();
    config.groups[0].window = 4;
    config.blocks = 6;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[14];
    fixture_tokens(tokens, 14, 1);
    put(cache, 0, tokens, 14);
    const pkv_seq seq = matched_seq(cache, tokens, 13, 13);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    fixture_extend(cache, seq, tokens + 13, 1);
    uint32_t blocks[4];
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 4, blocks));
    ASSERT_EQ(blocks[0], PKV_NO_BLOCK);
    ASSERT_EQ(blocks[1], PKV_NO_BLOCK);
    ASSERT_NE(blocks[2], PKV_NO_BLOCK);
    ASSERT_NEAR(fixture_read(cache, seq, 13), 1000 * 14 + 13, 0);
    ASSERT_OK(pkv_seq_free(cache, seq));
    const pkv_seq taker = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, taker, NULL, 12, NULL));
    const pkv_seq again = fixture_seq(cache, 0);
    ASSERT_LT(match(cache, again, tokens, 13), 13);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* Truncated into a cached block in a pool without room for a copy. */
TEST(alone_in_a_full_pool_a_sequence_goes_on) {
    pkv_config config = fixture_config();
    config.blocks = 2;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 8);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 7));
    fixture_extend(cache, seq, (const uint32_t[]){80}, 1);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
    fixture_expect(cache, seq, (const uint32_t[]){1, 2, 3, 4, 5, 6, 7, 80}, 8);
    ASSERT_OK(pkv_seq_free(cache, seq));
    matched_seq(cache, tokens, 8, 7);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(a_failed_reservation_leaves_the_tail_cached) {
    pkv_config config = fixture_config();
    config.blocks = 3;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[6];
    fixture_tokens(tokens, 6, 1);
    put(cache, 0, tokens, 6);
    const pkv_seq seq = matched_seq(cache, tokens, 6, 6);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, other, NULL, 1, NULL));
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(pkv_seq_append(cache, seq, NULL, 3, NULL), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    pkv_cache_destroy(cache);
}

TEST(an_aborted_plan_gives_a_taken_tail_back_when_its_sequence_ends) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[6];
    fixture_tokens(tokens, 6, 1);
    put(cache, 0, tokens, 6);
    const pkv_seq seq = matched_seq(cache, tokens, 6, 6);
    const pkv_entry entry = {seq, (const uint32_t[]){70}, 1};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    fixture_expect(cache, seq, tokens, 6);
    ASSERT_OK(pkv_seq_free(cache, seq));
    matched_seq(cache, (const uint32_t[]){1, 2, 3, 4, 5, 6, 70}, 7, 6);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(tails_are_evicted_before_their_prefix) {
    pkv_config config = fixture_config();
    config.blocks = 3;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[10];
    fixture_tokens(tokens, 10, 1);
    put(cache, 0, tokens, 10);
    const pkv_seq taker = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, taker, NULL, 1, NULL));
    matched_seq(cache, tokens, 10, 8);
    pkv_cache_destroy(cache);
}
