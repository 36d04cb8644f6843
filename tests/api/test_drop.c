/* test_drop.c - a cache forgets all that is cached, while sequences run, wait, or are on their way:
 * nobody finds what was computed before, and what runs goes on. */
#include "unit.h"

#include "api/fixture.h"

static uint32_t text[24];

static uint32_t drop(pkv_cache* cache) {
    uint32_t dropped = UINT32_MAX;
    ASSERT_OK(pkv_cache_drop(cache, &dropped));
    fixture_check(cache);
    return dropped;
}

static uint32_t found(pkv_cache* cache, uint64_t tenant, uint32_t count) {
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, tenant);
    ASSERT_OK(pkv_seq_match(cache, seq, text, count, &matched));
    ASSERT_OK(pkv_seq_free(cache, seq));
    return matched;
}

static void put(pkv_cache* cache, uint64_t tenant, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_extend(cache, seq, text, count);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

static pkv_cache* open_cache(void) {
    pkv_config config = fixture_config();
    config.host_blocks = 8;
    config.tenants_max = 2;
    config.retained_max = 4;
    fixture_tokens(text, 24, 1);
    return fixture_create(&config);
}

TEST(what_is_only_cached_is_free_at_once) {
    pkv_cache* cache = open_cache();
    put(cache, 0, 10);
    put(cache, 1, 8);
    ASSERT_EQ(drop(cache), 5);
    const pkv_stats stats = fixture_stats(cache);
    ASSERT_EQ(stats.blocks_free, 16);
    ASSERT_EQ(stats.blocks_cached, 0);
    ASSERT_EQ(stats.evictions, 0); /* nobody needed the room */
    ASSERT_EQ(found(cache, 0, 10), 0);
    ASSERT_EQ(found(cache, 1, 8), 0);
    ASSERT_EQ(drop(cache), 0);
    put(cache, 0, 10); /* computed anew */
    ASSERT_EQ(found(cache, 0, 10), 10);
    pkv_cache_destroy(cache);
}

TEST(what_runs_goes_on_and_is_not_found) {
    pkv_cache* cache = open_cache();
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, text, 6);
    ASSERT_EQ(drop(cache), 0);
    fixture_expect(cache, seq, text, 6);
    ASSERT_EQ(found(cache, 0, 6), 0);
    fixture_extend(cache, seq, text + 6, 6); /* with what it had: nobody may have that */
    fixture_expect(cache, seq, text, 12);
    ASSERT_EQ(found(cache, 0, 12), 0);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).blocks_free, 16);
    pkv_cache_destroy(cache);
}

TEST(a_first_block_that_was_begun_before_is_not_found_when_it_is_full) {
    pkv_cache* cache = open_cache();
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, text, 3);
    drop(cache);
    fixture_extend(cache, seq, text + 3, 5);
    ASSERT_EQ(found(cache, 0, 8), 0);
    pkv_cache_destroy(cache);
}

TEST(forks_of_what_runs_are_not_found_either) {
    pkv_cache* cache = open_cache();
    pkv_seq child;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, text, 6);
    drop(cache);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    fixture_extend(cache, child, text + 6, 6);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_seq_free(cache, child));
    ASSERT_EQ(fixture_stats(cache).blocks_free, 16);
    pkv_cache_destroy(cache);
}

TEST(a_sequence_that_begins_anew_is_cached_again) {
    pkv_cache* cache = open_cache();
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, text, 10);
    drop(cache);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 2));
    fixture_extend(cache, seq, text + 2, 6);
    ASSERT_EQ(found(cache, 0, 8), 0);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 0));
    fixture_extend(cache, seq, text, 10);
    ASSERT_EQ(found(cache, 0, 10), 8);
    pkv_cache_destroy(cache);
}

TEST(the_tokens_of_an_open_plan_are_committed_and_not_found) {
    pkv_cache* cache = open_cache();
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_entry entry = {seq, text, 8};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, text));
    drop(cache);
    ASSERT_OK(pkv_plan_commit(cache, plan));
    fixture_expect(cache, seq, text, 8);
    ASSERT_EQ(found(cache, 0, 8), 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(what_an_aborted_plan_had_begun_can_be_computed_again_and_found) {
    pkv_cache* cache = open_cache();
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_entry entry = {seq, text, 8};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    drop(cache);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    fixture_extend(cache, seq, text, 8);
    ASSERT_EQ(found(cache, 0, 8), 8);
    pkv_cache_destroy(cache);
}

TEST(who_is_away_or_on_its_way_comes_back_and_is_not_found) {
    for (uint32_t when = 0; when < 3; when++) {
        pkv_cache* cache = open_cache();
        pkv_transfer transfer;
        const pkv_seq seq = fixture_seq(cache, 0);
        fixture_extend(cache, seq, text, 10);
        ASSERT_OK(pkv_seq_swap_out(cache, seq, &transfer));
        if (when == 0) drop(cache); /* leaving */
        ASSERT_OK(pkv_transfer_wait(cache, transfer));
        if (when == 1) drop(cache); /* away */
        ASSERT_OK(pkv_seq_swap_in(cache, seq, &transfer));
        if (when == 2) drop(cache); /* arriving */
        ASSERT_OK(pkv_transfer_wait(cache, transfer));
        fixture_expect(cache, seq, text, 10);
        ASSERT_EQ(found(cache, 0, 10), 0);
        fixture_check(cache);
        pkv_cache_destroy(cache);
    }
}

TEST(pins_hold_their_blocks_and_nobody_finds_them) {
    pkv_cache* cache = open_cache();
    pkv_pin pin;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, text, 8);
    ASSERT_OK(pkv_pin_create(cache, seq, 8, 1, 0, &pin));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(drop(cache), 0);
    ASSERT_EQ(found(cache, 0, 8), 0);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_OK(pkv_pin_release(cache, pin));
    ASSERT_EQ(fixture_stats(cache).blocks_free, 16);
    pkv_cache_destroy(cache);
}

TEST(published_retained_and_guaranteed_blocks_go_like_others) {
    pkv_cache* cache = open_cache();
    uint32_t published;
    const pkv_tenant_config quota = {.tenant = 1, .guaranteed = 4, .limit = 6};
    const pkv_retention terms = {.priority = 100};
    ASSERT_OK(pkv_tenant_set(cache, &quota));
    const pkv_seq seq = fixture_seq(cache, 1);
    fixture_extend(cache, seq, text, 8);
    ASSERT_OK(pkv_seq_publish(cache, seq, 8, &published));
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 8, &terms, NULL));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(found(cache, 2, 8), 8);
    ASSERT_EQ(drop(cache), 2);
    ASSERT_EQ(found(cache, 2, 8), 0);
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    put(cache, 1, 16); /* all that it is guaranteed can be had */
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(only_what_is_still_to_come_is_waited_for) {
    pkv_cache* cache = open_cache();
    pkv_match match;
    const pkv_seq begun = fixture_seq(cache, 0);
    const pkv_seq asking = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_announce(cache, begun, text, 12));
    drop(cache); /* of which nothing is computed yet */
    ASSERT_OK(pkv_seq_lookup(cache, asking, text, 12, &match));
    ASSERT_EQ(match.pending, 12);
    fixture_extend(cache, begun, text, 4);
    drop(cache);
    ASSERT_OK(pkv_seq_lookup(cache, asking, text, 12, &match));
    ASSERT_EQ(match.matched, 0);
    ASSERT_EQ(match.pending, 0);
    pkv_cache_destroy(cache);
}

TEST(every_policy_forgets) {
    static const char* const names[] = {"reuse", "lru",    "fifo", "lfu",
                                        "slru",  "s3fifo", "arc",  "greedydual"};
    fixture_tokens(text, 24, 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        pkv_config config = fixture_config();
        config.eviction = names[i];
        pkv_cache* cache = fixture_create(&config);
        const pkv_seq held = fixture_seq(cache, 0);
        for (uint32_t round = 0; round < 3; round++) {
            for (uint32_t tenant = 1; tenant < 8; tenant++)
                put(cache, tenant, 11);
            fixture_extend(cache, held, text + round, 4);
            ASSERT_GE(drop(cache), 9);
            ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
        }
        pkv_cache_destroy(cache);
    }
}

TEST(a_drop_leaves_a_trace_and_refuses_null) {
    pkv_cache* cache = open_cache();
    pkv_trace_event event;
    uint32_t count;
    put(cache, 0, 8);
    ASSERT_OK(pkv_cache_drop(cache, NULL));
    ASSERT_OK(pkv_trace_read(cache, &event, 1, &count));
    ASSERT_STR(event.what, "cache.drop");
    ASSERT_EQ(event.detail, 2);
    ASSERT_STATUS(pkv_cache_drop(NULL, NULL), PKV_EINVAL);
    pkv_cache_destroy(cache);
}
