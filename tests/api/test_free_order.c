/* test_free_order.c - in which order blocks are used again: free ones first, then cached ones from the
 * last block of the sequence that ended first. The trace says which block went. */
#include "unit.h"

#include "api/fixture.h"

enum { EVENTS = 1024 };

/* Blocks that were evicted so far, in their order; returns how many. */
static uint32_t evicted(pkv_cache* cache, uint32_t* blocks) {
    static pkv_trace_event events[EVENTS];
    uint32_t count;
    uint32_t found = 0;
    ASSERT_OK(pkv_trace_read(cache, events, EVENTS, &count));
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(events[i].what, "prefix.evict") == 0)
            blocks[found++] = (uint32_t)events[i].subject;
    return found;
}

static pkv_seq computed(pkv_cache* cache, const uint32_t* tokens, uint32_t count,
                        uint32_t* blocks) {
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    if (matched < count) fixture_extend(cache, seq, tokens + matched, count - matched);
    const uint32_t pages = fixture_info(cache, seq).pages;
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, pages, blocks));
    return seq;
}

/* Take all blocks of the cache for tokens that are never cached. */
static pkv_seq take_all(pkv_cache* cache) {
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t blocks = fixture_stats(cache).blocks_total;
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, blocks * FIXTURE_BLOCK, NULL));
    return seq;
}

TEST(sequences_go_in_the_order_in_which_they_ended_each_from_its_last_block) {
    pkv_config config = fixture_config();
    config.blocks = 7;
    pkv_cache* cache = fixture_create(&config);
    uint32_t text[16];
    uint32_t a[4];
    uint32_t b[3];
    uint32_t order[16];
    fixture_tokens(text, 16, 1);
    const pkv_seq first = computed(cache, text, 14, a); /* the last block is filled half */
    fixture_tokens(text, 16, 100);
    const pkv_seq second = computed(cache, text, 12, b);
    ASSERT_OK(pkv_seq_free(cache, second)); /* later made, earlier ended */
    ASSERT_OK(pkv_seq_free(cache, first));
    take_all(cache);
    const uint32_t wanted[7] = {b[2], b[1], b[0], a[3], a[2], a[1], a[0]};
    ASSERT_EQ(evicted(cache, order), 7);
    ASSERT_MEM(order, wanted, sizeof wanted);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(a_shared_beginning_goes_with_the_last_who_had_it) {
    pkv_config config = fixture_config();
    config.blocks = 5;
    pkv_cache* cache = fixture_create(&config);
    uint32_t text[15];
    uint32_t a[4];
    uint32_t b[4];
    uint32_t order[16];
    fixture_tokens(text, 15, 1);
    const pkv_seq first = computed(cache, text, 15, a);
    text[12] = 99;
    const pkv_seq second = computed(cache, text, 13, b);
    ASSERT_MEM(a, b, 3 * sizeof *a);
    ASSERT_OK(pkv_seq_free(cache, first));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 1); /* the second has the rest */
    ASSERT_OK(pkv_seq_free(cache, second));
    take_all(cache);
    const uint32_t wanted[5] = {a[3], b[3], a[2], a[1], a[0]};
    ASSERT_EQ(evicted(cache, order), 5);
    ASSERT_MEM(order, wanted, sizeof wanted);
    pkv_cache_destroy(cache);
}

TEST(what_was_found_again_goes_behind_what_ended_meanwhile) {
    pkv_config config = fixture_config();
    config.blocks = 6;
    pkv_cache* cache = fixture_create(&config);
    uint32_t old[12];
    uint32_t young[12];
    uint32_t a[3];
    uint32_t b[3];
    uint32_t order[16];
    fixture_tokens(old, 12, 1);
    fixture_tokens(young, 12, 100);
    ASSERT_OK(pkv_seq_free(cache, computed(cache, old, 12, a)));
    ASSERT_OK(pkv_seq_free(cache, computed(cache, young, 12, b)));
    ASSERT_OK(pkv_seq_free(cache, computed(cache, old, 8, a))); /* two of its three blocks */
    take_all(cache);
    const uint32_t wanted[6] = {a[2], b[2], b[1], b[0], a[1], a[0]};
    ASSERT_EQ(evicted(cache, order), 6);
    ASSERT_MEM(order, wanted, sizeof wanted);
    pkv_cache_destroy(cache);
}

TEST(nothing_is_evicted_as_long_as_a_block_is_free) {
    pkv_config config = fixture_config();
    config.blocks = 8;
    pkv_cache* cache = fixture_create(&config);
    uint32_t text[16];
    uint32_t blocks[4];
    uint32_t matched;
    fixture_tokens(text, 16, 1);
    ASSERT_OK(pkv_seq_free(cache, computed(cache, text, 16, blocks)));
    for (uint32_t round = 0; round < 20; round++) { /* the same four again and again */
        const pkv_seq seq = fixture_seq(cache, 0);
        ASSERT_OK(pkv_seq_append(cache, seq, NULL, 16, NULL));
        ASSERT_OK(pkv_seq_free(cache, seq));
    }
    ASSERT_EQ(fixture_stats(cache).evictions, 0);
    const pkv_seq again = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, again, text, 16, &matched));
    ASSERT_EQ(matched, 16);
    pkv_cache_destroy(cache);
}

TEST(a_block_that_is_used_for_other_tokens_is_found_under_the_new_ones_only) {
    pkv_config config = fixture_config();
    config.blocks = 1;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t old[4] = {1, 2, 3, 4};
    const uint32_t young[3] = {1, 2, 9};
    uint32_t block;
    uint32_t matched;
    ASSERT_OK(pkv_seq_free(cache, computed(cache, old, 4, &block)));
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, young, 3); /* in the only block there is */
    ASSERT_EQ(fixture_stats(cache).evictions, 1);
    ASSERT_OK(pkv_seq_free(cache, seq));
    const pkv_seq again = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, again, old, 4, &matched));
    ASSERT_EQ(matched, 2);
    fixture_expect(cache, again, young, 2);
    pkv_cache_destroy(cache);
}

/* The clock stands still, and four sequences end, the youngest first. */
TEST(equal_times_are_told_apart_by_the_order_of_the_calls) {
    pkv_cache* cache = fixture_open();
    pkv_seq seqs[4];
    uint32_t blocks[4];
    uint32_t order[16];
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t text[4] = {10 * i, 1, 2, 3};
        seqs[i] = computed(cache, text, 4, &blocks[i]);
    }
    ASSERT_EQ(pkv_clock_us(cache), 0);
    for (uint32_t i = 4; i-- > 0;)
        ASSERT_OK(pkv_seq_free(cache, seqs[i]));
    take_all(cache);
    ASSERT_EQ(pkv_clock_us(cache), 0);
    const uint32_t wanted[4] = {blocks[3], blocks[2], blocks[1], blocks[0]};
    ASSERT_EQ(evicted(cache, order), 4);
    ASSERT_MEM(order, wanted, sizeof wanted);
    pkv_cache_destroy(cache);
}

/* Rejected drafts are free at once, and were never cached. */
TEST(blocks_of_rejected_tokens_are_the_first_to_be_used_again) {
    pkv_cache* cache = fixture_open();
    uint32_t text[12];
    uint32_t old[3];
    uint32_t blocks[4];
    fixture_tokens(text, 12, 1);
    const pkv_seq seq = computed(cache, text, 4, old);
    ASSERT_OK(pkv_seq_append(cache, seq, text + 4, 8, NULL));
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 3, old));
    ASSERT_OK(pkv_seq_truncate(cache, seq, 4));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    ASSERT_OK(pkv_seq_append(cache, seq, text + 4, 8, NULL));
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 3, blocks));
    ASSERT_EQ(blocks[1] + blocks[2], old[1] + old[2]); /* those two, in either order */
    ASSERT_EQ(blocks[0], old[0]);
    ASSERT_EQ(fixture_stats(cache).prefix_inserts, 1);
    pkv_cache_destroy(cache);
}
