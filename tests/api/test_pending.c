/* test_pending.c - what is announced, who is told, and how long. */
#include "unit.h"

#include "api/fixture.h"

static pkv_match lookup(pkv_cache* cache, uint64_t tenant, const uint32_t* tokens, uint32_t count) {
    pkv_match match = {UINT32_MAX, UINT32_MAX};
    const pkv_seq seq = fixture_seq(cache, tenant);
    ASSERT_OK(pkv_seq_lookup(cache, seq, tokens, count, &match));
    ASSERT_OK(pkv_seq_free(cache, seq));
    fixture_check(cache);
    return match;
}

static void expect(pkv_cache* cache, const uint32_t* tokens, uint32_t count, uint32_t matched,
                   uint32_t pending) {
    const pkv_match match = lookup(cache, 0, tokens, count);
    ASSERT_EQ(match.matched, matched);
    ASSERT_EQ(match.pending, pending);
}

static pkv_seq announced(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_announce(cache, seq, tokens, count));
    return seq;
}

TEST(what_is_announced_is_pending_until_it_is_committed) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[13];
    fixture_tokens(tokens, 13, 1);
    expect(cache, tokens, 12, 0, 0);
    const pkv_seq owner = announced(cache, tokens, 13);
    expect(cache, tokens, 12, 0, 12);
    expect(cache, tokens, 11, 0, 8); /* whole blocks */
    fixture_extend(cache, owner, tokens, 6);
    expect(cache, tokens, 12, 4, 8);
    fixture_extend(cache, owner, tokens + 6, 6);
    expect(cache, tokens, 12, 12, 0);
    pkv_cache_destroy(cache);
}

TEST(only_the_same_text_of_the_same_tenant_is_pending) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[12];
    fixture_tokens(tokens, 12, 1);
    announced(cache, tokens, 12);
    uint32_t other[12];
    fixture_tokens(other, 12, 1);
    other[5] = 99;
    expect(cache, other, 12, 0, 4);
    other[0] = 99;
    expect(cache, other, 12, 0, 0);
    expect(cache, tokens + 4, 8, 0, 0);
    ASSERT_EQ(lookup(cache, 1, tokens, 12).pending, 0);
    pkv_cache_destroy(cache);
}

static int end_by_free(pkv_cache* cache, pkv_seq seq) {
    return pkv_seq_free(cache, seq);
}

static int end_by_truncate(pkv_cache* cache, pkv_seq seq) {
    return pkv_seq_truncate(cache, seq, 0);
}

static int end_by_taking_back(pkv_cache* cache, pkv_seq seq) {
    return pkv_seq_announce(cache, seq, NULL, 0);
}

static int end_by_swap(pkv_cache* cache, pkv_seq seq) {
    pkv_transfer transfer;
    const int status = pkv_seq_swap_out(cache, seq, &transfer);
    return status == PKV_OK ? pkv_transfer_wait(cache, transfer) : status;
}

static int end_by_abort_and_free(pkv_cache* cache, pkv_seq seq) {
    const pkv_entry entry = {seq, NULL, 4};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    expect(cache, (const uint32_t[]){1, 2, 3, 4}, 4, 0, 4); /* it may try again */
    return pkv_seq_free(cache, seq);
}

TEST(when_the_owner_fails_nobody_waits_any_longer) {
    int (*const ends[])(pkv_cache*, pkv_seq) = {end_by_free, end_by_truncate, end_by_taking_back,
                                                end_by_swap, end_by_abort_and_free};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        pkv_config config = fixture_config();
        config.host_blocks = 4;
        pkv_cache* cache = fixture_create(&config);
        uint32_t tokens[8];
        fixture_tokens(tokens, 8, 1);
        const pkv_seq owner = announced(cache, tokens, 8);
        expect(cache, tokens, 8, 0, 8);
        ASSERT_OK(ends[i](cache, owner));
        expect(cache, tokens, 8, 0, 0);
        pkv_cache_destroy(cache);
    }
}

TEST(another_one_that_has_announced_it_too_is_still_waited_for) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq first = announced(cache, tokens, 8);
    announced(cache, tokens, 8);
    ASSERT_OK(pkv_seq_free(cache, first));
    expect(cache, tokens, 8, 0, 8);
    pkv_cache_destroy(cache);
}

TEST(an_announcement_replaces_the_one_before) {
    pkv_cache* cache = fixture_open();
    const uint32_t first[4] = {1, 2, 3, 4};
    const uint32_t second[4] = {5, 6, 7, 8};
    const pkv_seq seq = announced(cache, first, 4);
    ASSERT_OK(pkv_seq_announce(cache, seq, second, 4));
    expect(cache, first, 4, 0, 0);
    expect(cache, second, 4, 0, 4);
    pkv_cache_destroy(cache);
}

TEST(a_hit_within_a_block_shortens_what_is_pending) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq old = fixture_seq(cache, 0);
    fixture_extend(cache, old, tokens, 3);
    ASSERT_OK(pkv_seq_free(cache, old));
    announced(cache, tokens, 8);
    expect(cache, tokens, 8, 3, 5);
    pkv_cache_destroy(cache);
}

TEST(announcements_have_a_bounded_number_of_pages) {
    pkv_config config = fixture_config();
    config.announced_pages_max = 3;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[16];
    fixture_tokens(tokens, 16, 1);
    const pkv_seq first = announced(cache, tokens, 8);
    uint32_t other[16];
    fixture_tokens(other, 16, 100);
    announced(cache, other, 16);
    expect(cache, tokens, 16, 0, 8);
    expect(cache, other, 16, 0, 4);
    ASSERT_OK(pkv_seq_free(cache, first));
    announced(cache, tokens, 16);
    expect(cache, tokens, 16, 0, 8);
    pkv_cache_destroy(cache);
}

TEST(without_the_index_nothing_is_pending) {
    pkv_config config = fixture_config();
    config.prefix_off = 1;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t tokens[4] = {1, 2, 3, 4};
    announced(cache, tokens, 4);
    expect(cache, tokens, 4, 0, 0);
    pkv_cache_destroy(cache);
}

TEST(looking_up_changes_nothing) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    const pkv_seq old = fixture_seq(cache, 0);
    fixture_extend(cache, old, tokens, 6);
    ASSERT_OK(pkv_seq_free(cache, old));
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_report before = fixture_check(cache);
    pkv_match match;
    ASSERT_OK(pkv_seq_lookup(cache, seq, tokens, 8, &match));
    ASSERT_EQ(match.matched, 6);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_EQ(fixture_stats(cache).prefix_query_tokens, 0);
    pkv_cache_destroy(cache);
}
