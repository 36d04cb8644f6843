/* test_truncate.c - shortening: what is freed, what is copied when it grows again, what is
 * refused. */
#include "unit.h"

#include "api/fixture.h"

TEST(pages_behind_the_end_are_freed) {
    pkv_config config = fixture_config();
    config.prefix_off = 1;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[12];
    fixture_tokens(tokens, 12, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 12);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 5));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    fixture_expect(cache, seq, tokens, 5);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 4));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 1);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 0));
    ASSERT_EQ(fixture_stats(cache).blocks_free, 16);
    ASSERT_EQ(fixture_info(cache, seq).pages, 0);
    pkv_cache_destroy(cache);
}

TEST(growing_again_does_not_touch_cached_blocks) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const uint32_t other[2] = {500, 600};
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 8);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 6));
    fixture_extend(cache, seq, other, 2);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    fixture_expect(cache, seq, (const uint32_t[]){1, 2, 3, 4, 5, 6, 500, 600}, 8);
    const pkv_seq reader = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, reader, tokens, 8, &matched));
    ASSERT_EQ(matched, 8);
    fixture_expect(cache, reader, tokens, 8);
    pkv_cache_destroy(cache);
}

TEST(a_fork_keeps_what_the_other_gave_up) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[11];
    fixture_tokens(tokens, 11, 1);
    pkv_seq child;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 11);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    ASSERT_OK(pkv_seq_truncate(cache, seq, 5));
    fixture_expect(cache, child, tokens, 11);
    fixture_expect(cache, seq, tokens, 5);
    ASSERT_OK(pkv_seq_free(cache, child));
    fixture_expect(cache, seq, tokens, 5);
    pkv_cache_destroy(cache);
}

TEST(unknown_tokens_that_were_cut_off_are_forgotten) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 6);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 1, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_OK(pkv_seq_truncate(cache, seq, 6));
    fixture_extend(cache, seq, tokens + 6, 2);
    ASSERT_EQ(fixture_stats(cache).prefix_inserts, 2);
    pkv_cache_destroy(cache);
}

TEST(a_sequence_is_not_truncated_upwards_or_in_a_plan) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[3] = {1, 2, 3};
    pkv_plan plan;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 2);
    ASSERT_OK(pkv_seq_append(cache, seq, tokens + 2, 1, NULL));
    ASSERT_STATUS(pkv_seq_truncate(cache, seq, 3), PKV_ERANGE);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 2));
    const pkv_entry entry = {seq, tokens + 2, 1};
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_STATUS(pkv_seq_truncate(cache, seq, 0), PKV_EBUSY);
    pkv_cache_destroy(cache);
}
