/* test_retain.c - what stays cached for longer, or goes sooner, than the policy says: priorities,
 * durations, times to live. */
#include "unit.h"

#include "api/retain_fixture.h"

/* ---- Priorities ------------------------------------------------------------------------------ */

TEST(lower_priorities_go_first_and_higher_ones_last) {
    static const char* const policies[] = {"reuse", "lru",    "fifo", "lfu",
                                           "slru",  "s3fifo", "arc",  "greedydual"};
    for (uint32_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        pkv_config config = retain_config();
        config.eviction = policies[i];
        pkv_cache* cache = fixture_create(&config);
        leave_block(cache, 100, (pkv_retention){.priority = 90});
        leave_block(cache, 200, (pkv_retention){.priority = PKV_PRIORITY_DEFAULT});
        leave_block(cache, 300, (pkv_retention){.priority = 36});
        leave_block(cache, 400, (pkv_retention){.priority = 34});
        leave_block(cache, 500, (pkv_retention){.priority = 0});
        leave_block(cache, 600, (pkv_retention){.priority = 100});
        static const uint32_t order[] = {500, 400, 200, 300, 100, 600};
        for (uint32_t gone = 0; gone < 6; gone++) {
            press(cache, 1);
            ASSERT(!is_cached(cache, order[gone]));
            ASSERT_EQ(fixture_stats(cache).blocks_cached, 5 - gone);
        }
        ASSERT_EQ(fixture_stats(cache).retained, 0);
        pkv_cache_destroy(cache);
    }
}

TEST(one_reservation_takes_from_all_levels_in_order) {
    pkv_cache* cache = retain_open();
    leave_block(cache, 100, (pkv_retention){.priority = 90});
    leave_block(cache, 200, (pkv_retention){.priority = PKV_PRIORITY_DEFAULT});
    leave_block(cache, 300, (pkv_retention){.priority = 10});
    leave_block(cache, 400, (pkv_retention){.priority = 80});
    press(cache, 3);
    ASSERT(is_cached(cache, 100));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 1);
    pkv_cache_destroy(cache);
}

TEST(of_one_priority_the_last_block_of_a_sequence_goes_first) {
    pkv_cache* cache = retain_open();
    for (uint32_t i = 0; i < 2; i++) {
        const pkv_seq seq = grow(cache, 0, 100 + 100 * i, 3 * FIXTURE_BLOCK);
        retain_all(cache, seq, (pkv_retention){.priority = 80});
        ASSERT_OK(pkv_seq_free(cache, seq));
    }
    press(cache, 2);
    ASSERT_EQ(seen(cache, 100, 3 * FIXTURE_BLOCK), FIXTURE_BLOCK);
    ASSERT_EQ(seen(cache, 200, 3 * FIXTURE_BLOCK), 3 * FIXTURE_BLOCK);
    ASSERT_EQ(found_by(cache, 0, 100, FIXTURE_BLOCK), FIXTURE_BLOCK); /* is the youngest now */
    press(cache, 3);
    ASSERT_EQ(seen(cache, 200, FIXTURE_BLOCK), 0);
    ASSERT(is_cached(cache, 100));
    pkv_cache_destroy(cache);
}

TEST(no_reservation_fails_for_a_priority) {
    pkv_config config = retain_config();
    config.retained_max = config.blocks;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq seq = grow(cache, 0, 1, config.blocks * FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 100});
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).retained, config.blocks);
    press(cache, config.blocks);
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    pkv_cache_destroy(cache);
}

/* ---- Time ------------------------------------------------------------------------------------ */

TEST(a_priority_lapses_when_its_block_was_idle_for_so_long) {
    pkv_cache* cache = retain_open();
    leave_block(cache, 100, (pkv_retention){.priority = 90, .duration_us = 500 * MS});
    leave_block(cache, 200, (pkv_retention){.priority = PKV_PRIORITY_DEFAULT});
    advance(cache, 499);
    press(cache, 1);
    ASSERT(is_cached(cache, 100));
    ASSERT_EQ(found_by(cache, 0, 100, FIXTURE_BLOCK), FIXTURE_BLOCK); /* begins anew */
    advance(cache, 499);
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    advance(cache, 1);
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    leave_block(cache, 300, (pkv_retention){.priority = 36});
    press(cache, 1);
    ASSERT(!is_cached(cache, 100));
    ASSERT(is_cached(cache, 300));
    pkv_cache_destroy(cache);
}

TEST(a_low_priority_lapses_too) {
    pkv_cache* cache = retain_open();
    leave_block(cache, 100, (pkv_retention){.priority = 5, .duration_us = 10 * MS});
    leave_block(cache, 200, (pkv_retention){.priority = PKV_PRIORITY_DEFAULT});
    advance(cache, 20);
    press(cache, 1); /* the first counts as cached since its priority has lapsed */
    ASSERT(!is_cached(cache, 200));
    ASSERT(is_cached(cache, 100));
    pkv_cache_destroy(cache);
}

TEST(blocks_that_lapse_together_keep_their_order) {
    pkv_cache* cache = retain_open();
    const pkv_seq seq = grow(cache, 0, 100, 8 * FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 90, .duration_us = 10 * MS});
    ASSERT_OK(pkv_seq_free(cache, seq));
    advance(cache, 10);
    for (uint32_t left = 8; left-- > 0;) {
        press(cache, 1);
        ASSERT_EQ(seen(cache, 100, 8 * FIXTURE_BLOCK), left * FIXTURE_BLOCK);
    }
    pkv_cache_destroy(cache);
}

TEST(a_block_that_was_idle_for_its_time_is_gone) {
    pkv_cache* cache = retain_open();
    const pkv_retention short_lived = {.priority = PKV_PRIORITY_DEFAULT, .ttl_us = 300 * MS};
    leave_block(cache, 100, short_lived);
    leave_block(cache, 200, (pkv_retention){.priority = 90, .ttl_us = 300 * MS});
    advance(cache, 200);
    ASSERT_EQ(found_by(cache, 0, 100, FIXTURE_BLOCK), FIXTURE_BLOCK); /* begins anew */
    advance(cache, 100);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 1);
    ASSERT_EQ(fixture_stats(cache).expirations, 1);
    ASSERT(!is_cached(cache, 200));
    advance(cache, 199);
    ASSERT(is_cached(cache, 100));
    advance(cache, 1);
    ASSERT_EQ(found_by(cache, 0, 100, FIXTURE_BLOCK), 0);
    const pkv_stats stats = fixture_stats(cache);
    ASSERT_EQ(stats.blocks_free, 16);
    ASSERT_EQ(stats.expirations, 2);
    ASSERT_EQ(stats.evictions, 0);
    ASSERT_EQ(stats.retained, 0);
    pkv_cache_destroy(cache);
}

TEST(each_call_that_looks_notices_that_the_time_is_over) {
    pkv_cache* cache = retain_open();
    uint32_t tokens[FIXTURE_BLOCK];
    fixture_tokens(tokens, FIXTURE_BLOCK, 100);
    for (int call = 0; call < 3; call++) {
        uint32_t matched = 0;
        pkv_match match = {0, 0};
        const pkv_seq seq = fixture_seq(cache, 0);
        leave_block(cache, 100, (pkv_retention){.priority = 90, .ttl_us = 1});
        ASSERT_OK(pkv_clock_advance(cache, 1));
        if (call == 0) ASSERT_OK(pkv_seq_match(cache, seq, tokens, FIXTURE_BLOCK, &matched));
        if (call == 1) ASSERT_OK(pkv_seq_lookup(cache, seq, tokens, FIXTURE_BLOCK, &match));
        if (call == 2) ASSERT_OK(reserve(cache, seq, 16)); /* evicts nothing any more */
        ASSERT_EQ(matched, 0);
        ASSERT_EQ(match.matched, 0);
        ASSERT_OK(pkv_seq_free(cache, seq));
    }
    ASSERT_EQ(fixture_stats(cache).evictions, 0);
    ASSERT_EQ(fixture_stats(cache).expirations, 3);
    pkv_cache_destroy(cache);
}

TEST(a_priority_lapses_before_the_time_to_live_is_over) {
    pkv_cache* cache = retain_open();
    leave_block(cache, 100,
                (pkv_retention){.priority = 90, .duration_us = 100 * MS, .ttl_us = 300 * MS});
    advance(cache, 150);
    leave_block(cache, 200, (pkv_retention){.priority = 36});
    ASSERT_EQ(fixture_stats(cache).retained, 2);
    leave_block(cache, 300, (pkv_retention){.priority = 36});
    advance(cache, 149);
    ASSERT(is_cached(cache, 100));
    advance(cache, 1); /* counted from when it became cached */
    ASSERT(!is_cached(cache, 100));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 2);
    pkv_cache_destroy(cache);
}

TEST(time_does_not_pass_for_a_block_in_use) {
    pkv_cache* cache = retain_open();
    const pkv_seq seq = grow(cache, 0, 100, FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 90, .ttl_us = 100 * MS});
    pkv_pin pin;
    advance(cache, 500);
    ASSERT_OK(pkv_pin_create(cache, seq, FIXTURE_BLOCK, 1, 200 * MS, &pin));
    ASSERT_OK(pkv_seq_free(cache, seq));
    advance(cache, 199);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 1);
    advance(cache, 1); /* the pin ends, and lets go of it */
    ASSERT(is_cached(cache, 100));
    advance(cache, 99);
    ASSERT(is_cached(cache, 100));
    advance(cache, 1);
    ASSERT(!is_cached(cache, 100));
    pkv_cache_destroy(cache);
}

TEST(many_blocks_run_out_in_the_order_of_their_times) {
    pkv_config config = retain_config();
    config.blocks = 64;
    config.retained_max = 64;
    pkv_cache* cache = fixture_create(&config);
    for (uint32_t i = 0; i < 64; i++) {
        const uint64_t ms = 1 + i * 37 % 64;
        leave_block(cache, 100 * (1 + i), (pkv_retention){.priority = i, .ttl_us = ms * MS});
    }
    for (uint32_t i = 0; i < 16; i++) /* some leave from the middle of the heap and come back */
        found_by(cache, 0, 100 * (1 + 3 * i), FIXTURE_BLOCK);
    for (uint32_t ms = 1; ms <= 64; ms++) {
        advance(cache, 1);
        ASSERT_EQ(fixture_stats(cache).expirations, ms);
        fixture_check(cache);
    }
    pkv_cache_destroy(cache);
}

/* ---- Which blocks ---------------------------------------------------------------------------- */

TEST(every_block_that_the_range_touches_is_retained) {
    pkv_cache* cache = retain_open();
    const pkv_retention high = {.priority = 90};
    uint32_t retained;
    const pkv_seq seq = grow(cache, 0, 1, 14);
    ASSERT_OK(pkv_seq_retain(cache, seq, 5, 5, &high, &retained));
    ASSERT_EQ(retained, 0);
    ASSERT_OK(pkv_seq_retain(cache, seq, 5, 6, &high, &retained));
    ASSERT_EQ(retained, 1);
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    ASSERT_OK(pkv_seq_retain(cache, seq, 3, 5, &high, &retained));
    ASSERT_EQ(retained, 2);
    ASSERT_OK(pkv_seq_retain(cache, seq, 13, 14, &high, &retained));
    ASSERT_EQ(retained, 1);
    ASSERT_EQ(fixture_stats(cache).retained, 3);
    ASSERT_OK(pkv_seq_free(cache, seq));
    fixture_check(cache);
    ASSERT_EQ(fixture_stats(cache).retained, 3);
    press(cache, 1); /* the third block, which nobody has asked for */
    ASSERT_EQ(fixture_stats(cache).retained, 3);
    pkv_cache_destroy(cache);
}

/* A text shorter than a block has its time to live too. */
TEST(a_partly_filled_last_block_is_retained) {
    pkv_cache* cache = retain_open();
    const pkv_seq seq = grow(cache, 0, 100, 3);
    retain_all(cache, seq, (pkv_retention){.priority = 35, .ttl_us = MS});
    fixture_check(cache);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(seen(cache, 100, 3), 3);
    advance(cache, 1);
    ASSERT_EQ(seen(cache, 100, 3), 0);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    pkv_cache_destroy(cache);
}

TEST(a_block_that_goes_before_it_is_cached_takes_its_terms_along) {
    pkv_cache* cache = retain_open();
    const pkv_retention high = {.priority = 90};
    const pkv_seq seq = grow(cache, 0, 100, 7);
    retain_all(cache, seq, high);
    ASSERT_EQ(fixture_stats(cache).retained, 2);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 4));
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    fixture_check(cache);
    ASSERT_OK(pkv_seq_free(cache, seq));
    pkv_cache_destroy(cache);
}

TEST(a_block_that_turns_out_to_be_a_duplicate_leaves_its_terms_to_the_other) {
    pkv_cache* cache = retain_open();
    uint32_t tokens[4];
    fixture_tokens(tokens, 4, 100);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 3);
    retain_all(cache, seq, (pkv_retention){.priority = 90});
    ASSERT_OK(pkv_seq_free(cache, grow(cache, 0, 100, 4)));
    fixture_extend(cache, seq, tokens + 3, 1);
    ASSERT_EQ(fixture_stats(cache).prefix_duplicates, 1);
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    ASSERT_OK(pkv_seq_free(cache, seq));
    leave_block(cache, 200, (pkv_retention){.priority = 36});
    press(cache, 1);
    ASSERT(is_cached(cache, 100));
    pkv_cache_destroy(cache);
}

TEST(unknown_tokens_and_caches_without_an_index_have_nothing_to_retain) {
    pkv_config config = retain_config();
    const pkv_retention high = {.priority = 90};
    for (int round = 0; round < 2; round++) {
        uint32_t retained = 7;
        config.prefix_off = round == 1;
        pkv_cache* cache = fixture_create(&config);
        const pkv_seq seq = config.prefix_off ? grow(cache, 0, 1, 8) : fixture_seq(cache, 0);
        ASSERT_OK(pkv_seq_append(cache, seq, NULL, 8, NULL));
        ASSERT_OK(pkv_seq_commit(cache, seq));
        ASSERT_OK(pkv_seq_retain(cache, seq, 0, 8, &high, &retained));
        ASSERT_EQ(retained, 0);
        ASSERT_EQ(fixture_stats(cache).retained, 0);
        pkv_cache_destroy(cache);
    }
}

/* ---- Bad input ------------------------------------------------------------------------------- */

TEST(bad_input_is_refused_and_changes_nothing) {
    pkv_cache* cache = retain_open();
    const pkv_retention high = {.priority = 90};
    uint32_t retained = 7;
    const pkv_seq seq = grow(cache, 0, 1, 14);
    const uint64_t before = fixture_check(cache).cache_digest;
    const pkv_retention too_high = {.priority = 101};
    const pkv_retention wrapped = {.priority = UINT32_MAX};
    ASSERT_STATUS(pkv_seq_retain(NULL, seq, 0, 4, &high, &retained), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 4, &too_high, &retained), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 4, &wrapped, &retained), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 15, &high, &retained), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 3, 2, &high, &retained), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, UINT32_MAX, NULL, &retained), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_retain(cache, (pkv_seq){0}, 0, 4, &high, &retained), PKV_ESTALE);
    ASSERT_STATUS(pkv_seq_retain(cache, (pkv_seq){77}, 0, 4, NULL, &retained), PKV_ESTALE);
    ASSERT_EQ(retained, 7);
    ASSERT_EQ(fixture_check(cache).cache_digest, before);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 4, &high, &retained), PKV_ESTALE);
    pkv_cache_destroy(cache);
}

TEST(times_without_end_are_as_long_as_they_say) {
    pkv_cache* cache = retain_open();
    advance(cache, 5);
    leave_block(
        cache, 100,
        (pkv_retention){.priority = 90, .duration_us = UINT64_MAX, .ttl_us = UINT64_MAX - 1});
    advance(cache, 1000000000);
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    ASSERT(is_cached(cache, 100));
    pkv_cache_destroy(cache);
}

TEST(a_full_table_is_refused_and_changes_nothing) {
    pkv_config config = retain_config();
    config.retained_max = 2;
    pkv_cache* cache = fixture_create(&config);
    const pkv_retention high = {.priority = 90};
    uint32_t retained = 7;
    const pkv_seq seq = grow(cache, 0, 1, 12);
    const uint64_t before = fixture_check(cache).cache_digest;
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 12, &high, &retained), PKV_ETOOBIG);
    ASSERT_EQ(retained, 7);
    ASSERT_EQ(fixture_check(cache).cache_digest, before);
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 8, &high, &retained));
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 8, &(pkv_retention){.priority = 95}, &retained));
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 4, 12, &high, &retained), PKV_ETOOBIG);
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 12, &(pkv_retention){.priority = 35}, NULL));
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 4, NULL, NULL));
    ASSERT_OK(pkv_seq_retain(cache, seq, 4, 12, &high, &retained));
    ASSERT_EQ(fixture_stats(cache).retained, 2);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(without_a_table_nothing_is_retained) {
    pkv_cache* cache = fixture_open();
    const pkv_retention high = {.priority = 90};
    const pkv_seq seq = grow(cache, 0, 1, 12);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 12, &high, NULL), PKV_ENOTSUP);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 12, NULL, NULL), PKV_ENOTSUP);
    pkv_cache_destroy(cache);
}

TEST(a_plan_may_be_open) {
    pkv_cache* cache = retain_open();
    uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    const pkv_retention high = {.priority = 90};
    uint32_t retained;
    pkv_plan plan;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 5);
    const pkv_entry entry = {seq, tokens + 5, 1};
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 5, &high, &retained));
    ASSERT_EQ(retained, 2);
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 6, &high, &retained), PKV_ERANGE);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    fixture_check(cache);
    pkv_cache_destroy(cache);
}
