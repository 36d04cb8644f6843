/* test_retain_shared.c - who else has to do with what is retained: sequences that share blocks, tenants,
 * the host tier, compaction, other caches, and an application that chooses. */
#include "unit.h"

#include "api/retain_fixture.h"

/* ---- Several who ask ------------------------------------------------------------------------- */

/* What is left of five blocks on these terms and those, after `ms` and when `count` had to go? */
TEST(the_most_that_was_asked_counts) {
    pkv_cache* cache = retain_open();
    uint32_t tokens[FIXTURE_BLOCK];
    uint32_t matched;
    fixture_tokens(tokens, FIXTURE_BLOCK, 100);
    const pkv_seq seq = grow(cache, 0, 100, FIXTURE_BLOCK);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, other, tokens, FIXTURE_BLOCK, &matched));
    ASSERT_EQ(matched, FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 80, .duration_us = 50 * MS, .ttl_us = MS});
    retain_all(cache, other, (pkv_retention){.priority = 60, .ttl_us = 90 * MS});
    retain_all(cache, seq, (pkv_retention){.priority = 80, .duration_us = 70 * MS, .ttl_us = MS});
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_seq_free(cache, other));
    leave_block(cache, 200, (pkv_retention){.priority = 79});
    advance(cache, 69);
    press(cache, 1);
    ASSERT(!is_cached(cache, 200));
    leave_block(cache, 300, (pkv_retention){.priority = 36});
    leave_block(cache, 400, (pkv_retention){.priority = 36});
    advance(cache, 1);
    ASSERT(is_cached(cache, 100));
    advance(cache, 20);
    ASSERT(!is_cached(cache, 100));
    pkv_cache_destroy(cache);
}

TEST(default_terms_lift_lower_ones) {
    pkv_cache* cache = retain_open();
    const pkv_seq seq = grow(cache, 0, 100, FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 3, .ttl_us = MS});
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    retain_all(cache, seq, (pkv_retention){.priority = PKV_PRIORITY_DEFAULT});
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    retain_all(cache, seq, (pkv_retention){.priority = 90});
    retain_all(cache, seq, (pkv_retention){.priority = PKV_PRIORITY_DEFAULT});
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    pkv_cache_destroy(cache);
}

TEST(terms_are_taken_back) {
    pkv_cache* cache = retain_open();
    uint32_t retained;
    const pkv_seq seq = grow(cache, 0, 100, 2 * FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 90});
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 1, NULL, &retained));
    ASSERT_EQ(retained, 1);
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    ASSERT_OK(pkv_seq_retain(cache, seq, 0, 8, NULL, NULL));
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(forks_share_terms_and_copies_have_none) {
    pkv_cache* cache = retain_open();
    const uint32_t token = 7;
    pkv_seq child;
    const pkv_seq seq = grow(cache, 0, 100, 6);
    retain_all(cache, seq, (pkv_retention){.priority = 90});
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    fixture_extend(cache, child, &token, 1);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    ASSERT_EQ(fixture_stats(cache).retained, 2);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_seq_free(cache, child));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 3);
    press(cache, 1);
    ASSERT_EQ(fixture_stats(cache).retained, 2);
    ASSERT_EQ(seen(cache, 100, 6), 6);
    pkv_cache_destroy(cache);
}

/* ---- Tenants, tiers, moves ------------------------------------------------------------------- */

TEST(a_tenant_gets_nothing_of_anothers_guarantee_by_its_priorities) {
    pkv_config config = retain_config();
    config.tenants_max = 2;
    config.retained_max = 16;
    pkv_cache* cache = fixture_create(&config);
    const pkv_tenant_config guaranteed = {.tenant = 1, .guaranteed = 8};
    ASSERT_OK(pkv_tenant_set(cache, &guaranteed));
    ASSERT_OK(pkv_seq_free(cache, grow(cache, 1, 100, 8 * FIXTURE_BLOCK)));
    const pkv_seq greedy = grow(cache, 2, 500, 8 * FIXTURE_BLOCK);
    retain_all(cache, greedy, (pkv_retention){.priority = 100});
    ASSERT_OK(pkv_seq_free(cache, greedy));
    ASSERT_OK(pkv_seq_free(cache, grow(cache, 2, 700, 8 * FIXTURE_BLOCK)));
    ASSERT_EQ(found_by(cache, 1, 100, 8 * FIXTURE_BLOCK), 8 * FIXTURE_BLOCK);
    ASSERT_EQ(found_by(cache, 2, 500, 8 * FIXTURE_BLOCK), 0); /* its own had to go */
    pkv_cache_destroy(cache);
}

TEST(a_tenants_own_priorities_order_its_own_blocks) {
    pkv_config config = retain_config();
    config.tenants_max = 1;
    pkv_cache* cache = fixture_create(&config);
    const pkv_tenant_config limited = {.tenant = 1, .limit = 4};
    ASSERT_OK(pkv_tenant_set(cache, &limited));
    const pkv_seq seq = grow(cache, 1, 100, 2 * FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 70});
    ASSERT_OK(pkv_seq_free(cache, seq));
    for (uint32_t i = 0; i < 4; i++)
        ASSERT_OK(pkv_seq_free(cache, grow(cache, 1, 500 + 100 * i, FIXTURE_BLOCK)));
    ASSERT_EQ(found_by(cache, 1, 100, 2 * FIXTURE_BLOCK), 2 * FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_free(cache, grow(cache, 1, 900, 3 * FIXTURE_BLOCK)));
    ASSERT_EQ(found_by(cache, 1, 100, 2 * FIXTURE_BLOCK), FIXTURE_BLOCK);
    pkv_cache_destroy(cache);
}

TEST(a_first_quota_takes_terms_along_and_lets_no_time_begin_anew) {
    pkv_config config = retain_config();
    config.tenants_max = 1;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq seq = grow(cache, 0, 100, 3 * FIXTURE_BLOCK);
    retain_all(cache, seq, (pkv_retention){.priority = 90, .ttl_us = 100 * MS});
    ASSERT_OK(pkv_seq_free(cache, seq));
    leave_block(cache, 200, (pkv_retention){.priority = 35, .ttl_us = 200 * MS});
    advance(cache, 50);
    const pkv_tenant_config quota = {.tenant = 0, .guaranteed = 3};
    ASSERT_OK(pkv_tenant_set(cache, &quota));
    fixture_check(cache);
    press(cache, 2); /* one of default priority, then the last of the three */
    ASSERT_EQ(seen(cache, 100, 3 * FIXTURE_BLOCK), 2 * FIXTURE_BLOCK);
    advance(cache, 50);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(what_another_tenant_has_published_is_passed_over) {
    pkv_cache* cache = retain_open();
    uint32_t tokens[FIXTURE_BLOCK];
    uint32_t count;
    fixture_tokens(tokens, FIXTURE_BLOCK, 100);
    const pkv_seq owner = grow(cache, 1, 100, FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_publish(cache, owner, FIXTURE_BLOCK, &count));
    const pkv_seq reader = fixture_seq(cache, 2);
    ASSERT_OK(pkv_seq_match(cache, reader, tokens, FIXTURE_BLOCK, &count));
    ASSERT_EQ(count, FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_retain(cache, reader, 0, 4, &(pkv_retention){.priority = 1}, &count));
    ASSERT_EQ(count, 0);
    ASSERT_OK(pkv_seq_retain(cache, owner, 0, 4, &(pkv_retention){.priority = 90}, &count));
    ASSERT_EQ(count, 1);
    ASSERT_OK(pkv_seq_retain(cache, reader, 0, 4, NULL, &count));
    ASSERT_EQ(count, 0);
    ASSERT_EQ(fixture_stats(cache).retained, 1);
    pkv_cache_destroy(cache);
}

TEST(a_sequence_that_is_away_leaves_its_terms_with_what_is_cached) {
    pkv_config config = retain_config();
    config.host_blocks = 8;
    pkv_cache* cache = fixture_create(&config);
    const pkv_retention high = {.priority = 90};
    pkv_transfer transfer;
    const pkv_seq seq = grow(cache, 0, 100, 2 * FIXTURE_BLOCK);
    retain_all(cache, seq, high);
    ASSERT_OK(pkv_seq_swap_out(cache, seq, &transfer));
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 8, &high, NULL), PKV_EBUSY);
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    ASSERT_STATUS(pkv_seq_retain(cache, seq, 0, 8, &high, NULL), PKV_EAWAY);
    ASSERT_EQ(fixture_stats(cache).retained, 2);
    press(cache, 2);
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    ASSERT_OK(pkv_seq_swap_in(cache, seq, &transfer));
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    retain_all(cache, seq, high);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(terms_move_with_blocks) {
    pkv_arena* arena = arena_open(4);
    pkv_config config = member_config(arena, 1);
    config.retained_max = 32;
    config.eviction = "reuse";
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq stays = grow(cache, 0, 100, 7 * FIXTURE_BLOCK);
    const pkv_seq goes = grow(cache, 0, 300, 7 * FIXTURE_BLOCK);
    const pkv_seq kept = grow(cache, 0, 500, 3 * FIXTURE_BLOCK + 1);
    retain_all(cache, kept, (pkv_retention){.priority = 80, .ttl_us = MS});
    ASSERT_OK(pkv_seq_truncate(cache, goes, 4));
    ASSERT_OK(pkv_seq_free(cache, goes));
    press(cache, 6);
    ASSERT_OK(pkv_seq_truncate(cache, kept, 2 * FIXTURE_BLOCK + 1));
    leave_block(cache, 700, (pkv_retention){.priority = 90, .ttl_us = MS});
    uint32_t moved;
    ASSERT_OK(pkv_cache_compact(cache, 100, &moved));
    ASSERT_GT(moved, 0);
    fixture_check(cache);
    ASSERT_OK(pkv_seq_free(cache, kept));
    fixture_check(cache);
    ASSERT_OK(pkv_seq_free(cache, stays));
    ASSERT_EQ(seen(cache, 500, 9), 9);
    advance(cache, 1);
    ASSERT_EQ(seen(cache, 500, 9), 0);
    ASSERT(!is_cached(cache, 700));
    fixture_check(cache);
    pkv_cache_destroy(cache);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(another_cache_of_the_arena_takes_extents_whatever_is_in_them) {
    pkv_arena* arena = arena_open(2);
    pkv_config config = member_config(arena, 1);
    config.retained_max = 32;
    pkv_cache* cache = fixture_create(&config);
    pkv_cache* other = member_open(arena, B_HEADS);
    leave_block(cache, 100, (pkv_retention){.priority = 100});
    ASSERT_OK(reserve(other, fixture_seq(other, 0), 2 * B_BLOCKS));
    ASSERT(!is_cached(cache, 100));
    ASSERT_EQ(fixture_stats(cache).retained, 0);
    fixture_check(cache);
    pkv_cache_destroy(other);
    pkv_cache_destroy(cache);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* ---- The application chooses ----------------------------------------------------------------- */

static uint32_t choose(void* ctx, const pkv_candidate* candidates, uint32_t offered, uint32_t count,
                       uint32_t* victims) {
    uint32_t* asked = ctx;
    asked[0] += offered;
    asked[1] += count;
    for (uint32_t i = 0; i < count; i++)
        victims[i] = candidates[offered - 1 - i].block;
    return count;
}

TEST(the_arena_counts_what_is_over_as_gone) {
    pkv_arena* arena = arena_open(2);
    pkv_config config = member_config(arena, 1);
    config.retained_max = RETAINED;
    pkv_cache* cache = fixture_create(&config);
    leave_block(cache, 100, (pkv_retention){.priority = 50, .ttl_us = MS});
    ASSERT_EQ(arena_stats(arena).extents_free, 1);
    advance(cache, 1);
    ASSERT_EQ(arena_stats(arena).extents_free, 2);
    ASSERT_EQ(arena_stats(arena).bytes_used, 0);
    pkv_cache_destroy(cache);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(the_application_is_asked_for_blocks_of_default_priority_only) {
    uint32_t asked[2] = {0, 0};
    pkv_config config = retain_config();
    config.eviction_hook = (pkv_eviction_hook){.choose = choose, .ctx = asked};
    pkv_cache* cache = fixture_create(&config);
    leave_block(cache, 100, (pkv_retention){.priority = 90});
    leave_block(cache, 200, (pkv_retention){.priority = 35});
    leave_block(cache, 300, (pkv_retention){.priority = 35});
    leave_block(cache, 400, (pkv_retention){.priority = 1});
    press(cache, 1);
    ASSERT_EQ(asked[0], 0);
    press(cache, 1);
    ASSERT_EQ(asked[0], 2);
    ASSERT_EQ(asked[1], 1);
    ASSERT(!is_cached(cache, 300)); /* the younger one */
    press(cache, 2);
    ASSERT_EQ(asked[1], 2);
    ASSERT_EQ(fixture_stats(cache).eviction_fallbacks, 0);
    pkv_cache_destroy(cache);
}
