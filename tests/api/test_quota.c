/* test_quota.c - what a tenant is guaranteed, may have at most, and gets from whom.
 *
 * The pool has 16 blocks of 4 tokens. */
#include "unit.h"

#include "api/fixture.h"

enum { CHAT = 1, BATCH = 2, OTHER = 3, FOURTH = 4 };

static pkv_cache* open_cache(void) {
    pkv_config config = fixture_config();
    config.tenants_max = 3;
    config.host_blocks = 8;
    return fixture_create(&config);
}

static int set_quota(pkv_cache* cache, uint64_t tenant, uint32_t guaranteed, uint32_t limit) {
    const pkv_tenant_config config = {tenant, guaranteed, limit, 0};
    return pkv_tenant_set(cache, &config);
}

static pkv_tenant_info info_of(pkv_cache* cache, uint64_t tenant) {
    pkv_tenant_info info;
    ASSERT_OK(pkv_tenant_get(cache, tenant, &info));
    return info;
}

/* Blocks that a sequence names and that will not be cached. */
static int try_take(pkv_cache* cache, pkv_seq seq, uint32_t blocks) {
    const int status = pkv_seq_append(cache, seq, NULL, blocks * FIXTURE_BLOCK, NULL);
    if (status == PKV_OK) ASSERT_OK(pkv_seq_commit(cache, seq));
    return status;
}

static pkv_seq take(pkv_cache* cache, uint64_t tenant, uint32_t blocks) {
    const pkv_seq seq = fixture_seq(cache, tenant);
    ASSERT_OK(try_take(cache, seq, blocks));
    return seq;
}

/* Blocks that only the index names: those of the tokens from `first` on. */
static void leave_cached(pkv_cache* cache, uint64_t tenant, uint32_t blocks, uint32_t first) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    fixture_tokens(tokens, blocks * FIXTURE_BLOCK, first);
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_extend(cache, seq, tokens, blocks * FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

static uint32_t match(pkv_cache* cache, pkv_seq seq, uint32_t blocks, uint32_t first) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    uint32_t matched;
    fixture_tokens(tokens, blocks * FIXTURE_BLOCK, first);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, blocks * FIXTURE_BLOCK, &matched));
    return matched / FIXTURE_BLOCK;
}

static uint32_t lookup(pkv_cache* cache, pkv_seq seq, uint32_t blocks, uint32_t first) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    pkv_match found;
    fixture_tokens(tokens, blocks * FIXTURE_BLOCK, first);
    ASSERT_OK(pkv_seq_lookup(cache, seq, tokens, blocks * FIXTURE_BLOCK, &found));
    ASSERT_EQ(found.pending, 0);
    return found.matched / FIXTURE_BLOCK;
}

/* How many of these blocks are still cached? */
static uint32_t count_cached(pkv_cache* cache, uint64_t tenant, uint32_t blocks, uint32_t first) {
    const pkv_seq seq = fixture_seq(cache, tenant);
    const uint32_t matched = match(cache, seq, blocks, first);
    ASSERT_OK(pkv_seq_free(cache, seq));
    return matched;
}

static void end(pkv_cache* cache) {
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* ---- Accounts -------------------------------------------------------------------------------- */

TEST(tenants_without_a_quota_are_counted_together) {
    pkv_cache* cache = open_cache();
    take(cache, OTHER, 2);
    leave_cached(cache, FOURTH, 3, 100);
    const pkv_tenant_info info = info_of(cache, 77);
    ASSERT_EQ(info.tenant, 77);
    ASSERT_EQ(info.has_quota, 0);
    ASSERT_EQ(info.blocks_active, 2);
    ASSERT_EQ(info.blocks_cached, 3);
    ASSERT_EQ(info.blocks_borrowed, 5);
    ASSERT_EQ(info.blocks_available, 14);
    ASSERT_EQ(info.sequences, 1);
    end(cache);
}

TEST(each_tenant_with_a_quota_is_counted_by_itself) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 4, 8));
    const pkv_seq seq = take(cache, CHAT, 3);
    leave_cached(cache, CHAT, 2, 100);
    take(cache, OTHER, 1);
    const pkv_tenant_info info = info_of(cache, CHAT);
    ASSERT_EQ(info.has_quota, 1);
    ASSERT_EQ(info.guaranteed, 4);
    ASSERT_EQ(info.limit, 8);
    ASSERT_EQ(info.blocks_active, 3);
    ASSERT_EQ(info.blocks_cached, 2);
    ASSERT_EQ(info.blocks_borrowed, 1);
    ASSERT_EQ(info.blocks_available, 5);
    ASSERT_EQ(info.sequences, 1);
    ASSERT_EQ(info_of(cache, OTHER).blocks_active, 1);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(info_of(cache, CHAT).blocks_active, 0);
    end(cache);
}

TEST(hits_are_counted_for_the_tenant_that_asked) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 4, 0));
    leave_cached(cache, CHAT, 2, 100);
    ASSERT_EQ(count_cached(cache, CHAT, 3, 100), 2);
    ASSERT_EQ(count_cached(cache, OTHER, 3, 100), 0);
    ASSERT_EQ(info_of(cache, CHAT).prefix_query_tokens, 12);
    ASSERT_EQ(info_of(cache, CHAT).prefix_hit_tokens, 8);
    ASSERT_EQ(info_of(cache, OTHER).prefix_hit_tokens, 0);
    end(cache);
}

TEST(a_fork_and_its_copies_are_its_tenants) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 2, 3));
    const pkv_seq seq = fixture_seq(cache, CHAT);
    pkv_seq child;
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 6, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    ASSERT_EQ(info_of(cache, CHAT).sequences, 2);
    ASSERT_EQ(info_of(cache, CHAT).blocks_active, 2);
    ASSERT_OK(pkv_seq_append(cache, child, NULL, 1, NULL)); /* copies the tail */
    ASSERT_EQ(info_of(cache, CHAT).blocks_active, 3);
    ASSERT_STATUS(pkv_seq_append(cache, child, NULL, 2, NULL), PKV_EQUOTA);
    end(cache);
}

TEST(the_list_names_who_has_a_quota) {
    pkv_cache* cache = open_cache();
    uint64_t tenants[3] = {0, 0, 0};
    uint32_t count = 9;
    ASSERT_OK(pkv_tenant_list(cache, NULL, 0, &count));
    ASSERT_EQ(count, 0);
    ASSERT_OK(set_quota(cache, UINT64_MAX, 1, 0));
    ASSERT_OK(set_quota(cache, 0, 1, 0));
    ASSERT_OK(pkv_tenant_list(cache, tenants, 3, &count));
    ASSERT_EQ(count, 2);
    ASSERT(tenants[0] == UINT64_MAX && tenants[1] == 0);
    ASSERT_OK(pkv_tenant_list(cache, tenants, 1, &count));
    ASSERT_EQ(count, 2);
    ASSERT_STATUS(pkv_tenant_list(cache, tenants, 3, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_tenant_list(cache, NULL, 1, &count), PKV_EINVAL);
    ASSERT_STATUS(pkv_tenant_list(NULL, tenants, 1, &count), PKV_EINVAL);
    end(cache);
}

/* ---- Limits ---------------------------------------------------------------------------------- */

TEST(a_tenant_at_its_limit_is_refused_and_nothing_changes) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, BATCH, 0, 5));
    leave_cached(cache, OTHER, 4, 100);
    const pkv_seq seq = take(cache, BATCH, 4);
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(try_take(cache, seq, 2), PKV_EQUOTA);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_EQ(info_of(cache, BATCH).refused, 1);
    ASSERT_EQ(info_of(cache, BATCH).blocks_available, 1);
    ASSERT_OK(try_take(cache, seq, 1));
    ASSERT_EQ(info_of(cache, BATCH).blocks_available, 0);
    ASSERT_EQ(info_of(cache, OTHER).refused, 0);
    end(cache);
}

TEST(at_its_limit_a_tenant_loses_its_own_cached_blocks) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, BATCH, 0, 5));
    leave_cached(cache, OTHER, 4, 100); /* older, and would go first */
    leave_cached(cache, BATCH, 4, 200);
    take(cache, BATCH, 3);
    ASSERT_EQ(info_of(cache, BATCH).blocks_cached, 2);
    ASSERT_EQ(info_of(cache, BATCH).evictions, 2);
    ASSERT_EQ(count_cached(cache, OTHER, 4, 100), 4);
    ASSERT_EQ(count_cached(cache, BATCH, 4, 200), 2);
    ASSERT_EQ(fixture_stats(cache).blocks_free, 7);
    end(cache);
}

TEST(without_borrowing_the_guarantee_is_the_limit) {
    pkv_cache* cache = open_cache();
    const pkv_tenant_config config = {BATCH, 3, 8, 1};
    ASSERT_OK(pkv_tenant_set(cache, &config));
    ASSERT_EQ(info_of(cache, BATCH).borrow_off, 1);
    const pkv_seq seq = take(cache, BATCH, 3);
    ASSERT_STATUS(try_take(cache, seq, 1), PKV_EQUOTA);
    ASSERT_OK(set_quota(cache, BATCH, 3, 8));
    ASSERT_OK(try_take(cache, seq, 1));
    end(cache);
}

TEST(a_limit_holds_for_what_comes_back_from_the_host) {
    pkv_cache* cache = open_cache();
    pkv_transfer transfer;
    ASSERT_OK(set_quota(cache, BATCH, 0, 4));
    const pkv_seq away = take(cache, BATCH, 3);
    ASSERT_OK(pkv_seq_swap_out(cache, away, &transfer));
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    ASSERT_EQ(info_of(cache, BATCH).blocks_active, 0);
    ASSERT_EQ(info_of(cache, BATCH).host_blocks, 3);
    const pkv_seq seq = take(cache, BATCH, 2);
    ASSERT_STATUS(pkv_seq_swap_in(cache, away, &transfer), PKV_EQUOTA);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_seq_swap_in(cache, away, &transfer));
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    ASSERT_EQ(info_of(cache, BATCH).host_blocks, 0);
    ASSERT_EQ(info_of(cache, BATCH).blocks_active, 3);
    end(cache);
}

/* ---- Guarantees ------------------------------------------------------------------------------ */

TEST(sequences_of_others_never_get_what_is_guaranteed) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 6, 0));
    const pkv_seq seq = fixture_seq(cache, OTHER);
    ASSERT_EQ(info_of(cache, OTHER).blocks_available, 10);
    ASSERT_STATUS(try_take(cache, seq, 11), PKV_ENOBLOCKS);
    ASSERT_OK(try_take(cache, seq, 10));
    ASSERT_STATUS(try_take(cache, seq, 1), PKV_ENOBLOCKS);
    ASSERT_EQ(info_of(cache, CHAT).blocks_available, 6);
    take(cache, CHAT, 6);
    ASSERT_EQ(info_of(cache, CHAT).blocks_available, 0);
    end(cache);
}

TEST(others_may_cache_what_is_guaranteed_until_it_is_needed) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 6, 0));
    leave_cached(cache, OTHER, 8, 100);
    leave_cached(cache, OTHER, 8, 200);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 16);
    take(cache, CHAT, 6);
    ASSERT_EQ(info_of(cache, OTHER).blocks_cached, 10);
    end(cache);
}

TEST(cached_blocks_within_a_guarantee_outlive_every_flood) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 6, 0));
    leave_cached(cache, CHAT, 6, 100);
    for (uint32_t i = 0; i < 50; i++)
        leave_cached(cache, OTHER, 7, 1000 + 100 * i);
    ASSERT_EQ(count_cached(cache, CHAT, 6, 100), 6);
    take(cache, OTHER, 10);
    ASSERT_EQ(count_cached(cache, CHAT, 6, 100), 6);
    const pkv_seq seq = fixture_seq(cache, OTHER);
    ASSERT_STATUS(try_take(cache, seq, 1), PKV_ENOBLOCKS);
    ASSERT_EQ(info_of(cache, CHAT).evictions, 0);
    end(cache);
}

TEST(a_tenant_makes_room_for_itself_within_its_guarantee) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 6, 0));
    leave_cached(cache, CHAT, 6, 100);
    take(cache, OTHER, 10);
    take(cache, CHAT, 4);
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 2);
    ASSERT_EQ(info_of(cache, CHAT).evictions, 4);
    end(cache);
}

TEST(who_has_borrowed_most_loses_first) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 2, 0));
    ASSERT_OK(set_quota(cache, BATCH, 2, 0));
    leave_cached(cache, BATCH, 4, 100);         /* 2 borrowed, and the oldest */
    leave_cached(cache, CHAT, 7, 200);          /* 5 borrowed */
    leave_cached(cache, OTHER, 5, 300);         /* 5 borrowed: no guarantee */
    const pkv_seq seq = take(cache, FOURTH, 3); /* with OTHER: 8 */
    ASSERT_EQ(info_of(cache, OTHER).blocks_cached, 2);
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 7);
    ASSERT_EQ(info_of(cache, BATCH).blocks_cached, 4);
    ASSERT_OK(pkv_seq_free(cache, seq));
    take(cache, FOURTH, 9); /* evicts 6: OTHER all, CHAT down to the level of BATCH, and one more */
    ASSERT_EQ(info_of(cache, OTHER).blocks_cached, 0);
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 3);
    ASSERT_EQ(info_of(cache, BATCH).blocks_cached, 4);
    end(cache);
}

/* Cached blocks that become active again are blocks that nobody can reclaim. */
TEST(a_match_takes_no_more_than_a_reservation_could) {
    pkv_cache* cache = open_cache();
    leave_cached(cache, OTHER, 9, 100);
    ASSERT_OK(set_quota(cache, CHAT, 10, 0));
    const pkv_seq seq = fixture_seq(cache, OTHER);
    const uint64_t before = fixture_check(cache).cache_digest;
    ASSERT_EQ(lookup(cache, seq, 9, 100), 6);
    ASSERT_EQ(fixture_check(cache).cache_digest, before);
    ASSERT_EQ(match(cache, seq, 9, 100), 6);
    fixture_check(cache);
    const pkv_seq second = fixture_seq(cache, OTHER);
    ASSERT_EQ(lookup(cache, second, 9, 100), 6);
    ASSERT_EQ(match(cache, second, 9, 100), 6); /* those are active already */
    take(cache, CHAT, 10);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_seq_free(cache, second));
    end(cache);
}

/* ---- Plans of several tenants ---------------------------------------------------------------- */

static int begin_two(pkv_cache* cache, pkv_seq a, uint32_t a_blocks, pkv_seq b, uint32_t b_blocks,
                     pkv_plan* plan) {
    const pkv_entry entries[] = {{a, NULL, a_blocks * FIXTURE_BLOCK},
                                 {b, NULL, b_blocks * FIXTURE_BLOCK}};
    return pkv_plan_begin(cache, entries, 2, plan);
}

TEST(a_plan_takes_for_all_its_tenants_or_for_none) {
    pkv_cache* cache = open_cache();
    pkv_plan plan;
    ASSERT_OK(set_quota(cache, CHAT, 4, 6));
    ASSERT_OK(set_quota(cache, BATCH, 0, 8));
    const pkv_seq chat = fixture_seq(cache, CHAT);
    const pkv_seq batch = fixture_seq(cache, BATCH);
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(begin_two(cache, chat, 3, batch, 9, &plan), PKV_EQUOTA);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_EQ(info_of(cache, CHAT).refused, 0);
    ASSERT_EQ(info_of(cache, BATCH).refused, 1);
    ASSERT_OK(begin_two(cache, chat, 6, batch, 8, &plan));
    ASSERT_EQ(info_of(cache, CHAT).blocks_active, 6);
    ASSERT_EQ(info_of(cache, BATCH).blocks_active, 8);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_EQ(info_of(cache, CHAT).blocks_active, 0);
    ASSERT_EQ(info_of(cache, BATCH).blocks_active, 0);
    end(cache);
}

TEST(two_sequences_of_a_tenant_share_its_limit_in_a_plan) {
    pkv_cache* cache = open_cache();
    pkv_plan plan;
    ASSERT_OK(set_quota(cache, BATCH, 0, 8));
    const pkv_seq a = fixture_seq(cache, BATCH);
    const pkv_seq b = fixture_seq(cache, BATCH);
    ASSERT_STATUS(begin_two(cache, a, 4, b, 5, &plan), PKV_EQUOTA);
    ASSERT_OK(begin_two(cache, a, 4, b, 4, &plan));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    end(cache);
}

TEST(a_plan_of_two_tenants_evicts_from_each_what_is_above_its_limit) {
    pkv_cache* cache = open_cache();
    pkv_plan plan;
    ASSERT_OK(set_quota(cache, CHAT, 0, 4));
    ASSERT_OK(set_quota(cache, BATCH, 0, 6));
    leave_cached(cache, CHAT, 3, 100);
    leave_cached(cache, BATCH, 5, 200);
    const pkv_seq chat = fixture_seq(cache, CHAT);
    const pkv_seq batch = fixture_seq(cache, BATCH);
    ASSERT_OK(begin_two(cache, chat, 2, batch, 3, &plan));
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 2);
    ASSERT_EQ(info_of(cache, BATCH).blocks_cached, 3);
    ASSERT_OK(pkv_plan_commit(cache, plan));
    end(cache);
}

/* ---- Changing quotas ------------------------------------------------------------------------- */

TEST(a_quota_that_is_not_possible_is_refused_and_nothing_changes) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 6, 8));
    take(cache, CHAT, 5);
    const pkv_seq other = take(cache, OTHER, 9);
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(set_quota(cache, CHAT, 6, 5), PKV_EINVAL);
    ASSERT_STATUS(set_quota(cache, CHAT, 17, 0), PKV_ETOOBIG);
    ASSERT_STATUS(set_quota(cache, BATCH, 11, 0), PKV_ETOOBIG); /* 6 + 11 */
    ASSERT_STATUS(set_quota(cache, CHAT, 4, 4), PKV_EQUOTA);    /* has 5 */
    ASSERT_STATUS(set_quota(cache, OTHER, 0, 8), PKV_EQUOTA);   /* has 9 */
    ASSERT_STATUS(set_quota(cache, CHAT, 8, 0), PKV_ENOBLOCKS); /* 9 are in use elsewhere */
    ASSERT_STATUS(set_quota(cache, BATCH, 2, 0), PKV_ENOBLOCKS);
    ASSERT_STATUS(pkv_tenant_set(cache, NULL), PKV_EINVAL);
    ASSERT_STATUS(set_quota(NULL, CHAT, 1, 0), PKV_EINVAL);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_OK(pkv_seq_free(cache, other));
    ASSERT_OK(set_quota(cache, CHAT, 8, 0));
    ASSERT_OK(set_quota(cache, BATCH, 2, 0));
    end(cache);
}

TEST(there_are_as_many_quotas_as_the_config_says) {
    pkv_cache* cache = open_cache();
    for (uint64_t tenant = 1; tenant <= 3; tenant++)
        ASSERT_OK(set_quota(cache, tenant, 1, 0));
    ASSERT_STATUS(set_quota(cache, FOURTH, 1, 0), PKV_ETOOBIG);
    ASSERT_OK(set_quota(cache, CHAT, 2, 0)); /* another one for the same tenant */
    ASSERT_OK(pkv_tenant_delete(cache, BATCH));
    ASSERT_OK(set_quota(cache, FOURTH, 1, 0));
    end(cache);
    cache = fixture_open();
    ASSERT_STATUS(set_quota(cache, CHAT, 1, 0), PKV_ETOOBIG);
    end(cache);
}

TEST(a_lower_limit_evicts_what_is_cached_above_it) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, BATCH, 0, 0));
    leave_cached(cache, BATCH, 6, 100);
    take(cache, BATCH, 2);
    ASSERT_OK(set_quota(cache, BATCH, 0, 5));
    ASSERT_EQ(info_of(cache, BATCH).blocks_cached, 3);
    ASSERT_EQ(info_of(cache, BATCH).evictions, 3);
    ASSERT_EQ(count_cached(cache, BATCH, 6, 100), 3);
    end(cache);
}

TEST(a_first_quota_counts_what_the_tenant_has_already) {
    pkv_cache* cache = open_cache();
    pkv_transfer transfer;
    leave_cached(cache, CHAT, 3, 100);
    leave_cached(cache, OTHER, 2, 200);
    take(cache, CHAT, 2);
    const pkv_seq away = take(cache, CHAT, 1);
    ASSERT_OK(pkv_seq_swap_out(cache, away, &transfer));
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    ASSERT_OK(set_quota(cache, CHAT, 8, 0));
    const pkv_tenant_info info = info_of(cache, CHAT);
    ASSERT_EQ(info.blocks_active, 2);
    ASSERT_EQ(info.blocks_cached, 3);
    ASSERT_EQ(info.host_blocks, 1);
    ASSERT_EQ(info.sequences, 2);
    ASSERT_EQ(info_of(cache, OTHER).blocks_cached, 2);
    ASSERT_EQ(count_cached(cache, CHAT, 3, 100), 3);
    end(cache);
}

TEST(a_quota_is_taken_away_when_nothing_is_in_use) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 6, 0));
    leave_cached(cache, CHAT, 3, 100);
    const pkv_seq seq = take(cache, CHAT, 2);
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(pkv_tenant_delete(cache, CHAT), PKV_EBUSY);
    ASSERT_STATUS(pkv_tenant_delete(cache, OTHER), PKV_EINVAL);
    ASSERT_STATUS(pkv_tenant_delete(NULL, CHAT), PKV_EINVAL);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_OK(pkv_seq_free(cache, seq));
    const pkv_seq empty = fixture_seq(cache, CHAT);
    ASSERT_STATUS(pkv_tenant_delete(cache, CHAT), PKV_EBUSY);
    ASSERT_OK(pkv_seq_free(cache, empty));
    ASSERT_OK(pkv_tenant_delete(cache, CHAT));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    ASSERT_EQ(info_of(cache, CHAT).has_quota, 0);
    ASSERT_EQ(info_of(cache, CHAT).blocks_available, 16);
    ASSERT_STATUS(pkv_tenant_delete(cache, CHAT), PKV_EINVAL);
    ASSERT_EQ(count_cached(cache, CHAT, 3, 100), 0);
    end(cache);
}

TEST(a_null_is_no_place_for_an_answer) {
    pkv_cache* cache = open_cache();
    pkv_tenant_info info;
    ASSERT_STATUS(pkv_tenant_get(cache, CHAT, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_tenant_get(NULL, CHAT, &info), PKV_EINVAL);
    end(cache);
}

TEST(a_failure_on_the_way_gives_all_counts_back) {
    pkv_cache* cache = open_cache();
    ASSERT_OK(set_quota(cache, CHAT, 8, 0));
    leave_cached(cache, OTHER, 8, 100);
    leave_cached(cache, OTHER, 8, 200);
    const int status = pkv_faults_set(cache, "device.zero=2*off->return(EIO)", 1);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(status);
    const pkv_seq seq = fixture_seq(cache, CHAT);
    ASSERT_STATUS(try_take(cache, seq, 5), PKV_EIO);
    ASSERT_EQ(info_of(cache, CHAT).blocks_active, 0);
    ASSERT_EQ(info_of(cache, OTHER).blocks_cached, 11);
    ASSERT_EQ(info_of(cache, OTHER).evictions, 5);
    end(cache);
}
