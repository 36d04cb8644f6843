/* test_room.c - room for what is not found: a hit is not evicted for its own rest, and who finds no
 * room leaves the cache as it was. */
#include "unit.h"

#include "api/fixture.h"

static void put(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, count);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

static pkv_seq matched_seq(pkv_cache* cache, const uint32_t* tokens, uint32_t count,
                           uint32_t wanted) {
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    ASSERT_EQ(matched, wanted);
    return seq;
}

static pkv_cache* open_with(uint32_t blocks) {
    pkv_config config = fixture_config();
    config.blocks = blocks;
    return fixture_create(&config);
}

TEST(what_was_found_stays_when_the_rest_needs_room) {
    pkv_cache* cache = open_with(2);
    uint32_t old[8];
    uint32_t young[4];
    fixture_tokens(old, 8, 1);
    fixture_tokens(young, 4, 100);
    put(cache, old, 4); /* by age this one would go first */
    put(cache, young, 4);
    const pkv_seq seq = matched_seq(cache, old, 7, 4);
    fixture_extend(cache, seq, old + 4, 4);
    ASSERT_EQ(fixture_stats(cache).evictions, 1);
    fixture_expect(cache, seq, old, 8);
    matched_seq(cache, young, 4, 0);
    pkv_cache_destroy(cache);
}

TEST(who_finds_no_room_for_the_rest_leaves_what_it_found) {
    pkv_cache* cache = open_with(6);
    uint32_t text[20];
    uint32_t other[8];
    fixture_tokens(text, 20, 1);
    fixture_tokens(other, 8, 100);
    put(cache, text, 12);
    const pkv_seq runner = fixture_seq(cache, 0);
    fixture_extend(cache, runner, other, 8);
    const pkv_seq seq = matched_seq(cache, text, 19, 12);
    const pkv_report before = fixture_check(cache);
    const pkv_entry entry = {seq, text + 12, 8}; /* two blocks; one is free */
    pkv_plan plan;
    ASSERT_STATUS(pkv_plan_begin(cache, &entry, 1, &plan), PKV_ENOBLOCKS);
    ASSERT_STATUS(pkv_seq_append(cache, seq, text + 12, 8, NULL), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_EQ(fixture_stats(cache).evictions, 0);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 3);
    ASSERT_OK(pkv_seq_free(cache, runner));
    matched_seq(cache, text, 20, 12);
    matched_seq(cache, other, 8, 8);
    pkv_cache_destroy(cache);
}

/* What an engine asks before it admits a request. */
TEST(a_request_that_waits_for_room_leaves_the_order_of_eviction_alone) {
    pkv_cache* cache = open_with(4);
    uint32_t old[12];
    uint32_t young[4];
    uint32_t other[4];
    pkv_match match;
    fixture_tokens(old, 12, 1);
    fixture_tokens(young, 4, 100);
    fixture_tokens(other, 4, 200);
    const pkv_seq runner = fixture_seq(cache, 0);
    fixture_extend(cache, runner, other, 4);
    put(cache, old, 4);
    put(cache, young, 4);
    const pkv_seq waiting = fixture_seq(cache, 0);
    for (uint32_t i = 0; i < 3; i++) {
        ASSERT_OK(pkv_seq_lookup(cache, waiting, old, 11, &match));
        ASSERT_EQ(match.matched, 4);
    }
    ASSERT_OK(pkv_seq_append(cache, runner, NULL, 8, NULL)); /* one free block, and one cached */
    matched_seq(cache, young, 4, 4);
    ASSERT_OK(pkv_seq_lookup(cache, waiting, old, 11, &match));
    ASSERT_EQ(match.matched, 0);
    pkv_cache_destroy(cache);
}

TEST(exactly_all_blocks_can_be_had) {
    pkv_cache* cache = open_with(5);
    uint32_t text[20];
    fixture_tokens(text, 20, 1);
    put(cache, text, 9); /* two full ones and one with a token */
    const pkv_seq seq = matched_seq(cache, text, 20, 9);
    fixture_extend(cache, seq, text + 9, 11);
    const pkv_stats stats = fixture_stats(cache);
    ASSERT_EQ(stats.blocks_active, 5);
    ASSERT_EQ(stats.blocks_free, 0);
    ASSERT_EQ(stats.evictions, 0);
    fixture_expect(cache, seq, text, 20);
    const pkv_report before = fixture_check(cache);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_append(cache, other, NULL, 1, NULL), PKV_ENOBLOCKS);
    ASSERT_STATUS(pkv_seq_append(cache, seq, NULL, 1, NULL), PKV_ETOOBIG);
    ASSERT_OK(pkv_seq_free(cache, other));
    ASSERT_EQ(fixture_check(cache).sequences_digest, before.sequences_digest);
    pkv_cache_destroy(cache);
}

/* As an engine does that preempts by computing again. */
TEST(a_sequence_that_gave_way_finds_all_that_nobody_needed) {
    pkv_cache* cache = open_with(6);
    uint32_t text[11];
    fixture_tokens(text, 11, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, text, 6);
    for (uint32_t i = 6; i < 11; i++)
        fixture_extend(cache, seq, text + i, 1); /* decoded */
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_append(cache, other, NULL, 16, NULL), PKV_ENOBLOCKS);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_seq_append(cache, other, NULL, 16, NULL));
    ASSERT_EQ(fixture_stats(cache).evictions, 1); /* its last block */
    ASSERT_OK(pkv_seq_free(cache, other));
    const pkv_seq again = matched_seq(cache, text, 10, 8);
    fixture_extend(cache, again, text + 8, 3);
    fixture_expect(cache, again, text, 11);
    pkv_cache_destroy(cache);
}

TEST(a_hit_of_which_others_still_hold_a_part_is_counted_once) {
    pkv_cache* cache = open_with(4);
    uint32_t text[12];
    fixture_tokens(text, 12, 1);
    put(cache, text, 12);
    const pkv_seq holder = matched_seq(cache, text, 4, 4);
    const pkv_seq seq = matched_seq(cache, text, 12, 12);
    pkv_stats stats = fixture_stats(cache);
    ASSERT_EQ(stats.blocks_active, 3);
    ASSERT_EQ(stats.blocks_cached, 0);
    ASSERT_OK(pkv_seq_free(cache, seq));
    stats = fixture_stats(cache);
    ASSERT_EQ(stats.blocks_active, 1);
    ASSERT_EQ(stats.blocks_cached, 2);
    ASSERT_OK(pkv_seq_append(cache, holder, NULL, 12, NULL)); /* the free one and both cached */
    ASSERT_EQ(fixture_stats(cache).evictions, 2);
    fixture_expect(cache, holder, text, 4);
    pkv_cache_destroy(cache);
}
