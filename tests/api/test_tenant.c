/* test_tenant.c - bytes of one tenant never reach another: blocks are zeroed when they change
 * hands. */
#include "unit.h"

#include "api/fixture.h"

/* Commit slots without writing them: what they hold can then be read. */
static pkv_seq take_unwritten(pkv_cache* cache, uint64_t tenant, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, tenant);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, count, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    return seq;
}

static uint32_t count_nonzero(pkv_cache* cache, pkv_seq seq, uint32_t count) {
    float k[FIXTURE_TOKENS_MAX][FIXTURE_DIM];
    float v[FIXTURE_TOKENS_MAX][FIXTURE_DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    uint32_t nonzero = 0;
    ASSERT_OK(pkv_seq_read(cache, seq, 0, 0, count, &k_array, &v_array));
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t d = 0; d < FIXTURE_DIM; d++)
            nonzero += k[i][d] != 0 || v[i][d] != 0;
    return nonzero;
}

static void fill_pool(pkv_cache* cache, uint64_t tenant) {
    uint32_t tokens[64];
    fixture_tokens(tokens, 64, 1);
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_extend(cache, seq, tokens, 64);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

TEST(fresh_blocks_are_zero) {
    pkv_cache* cache = fixture_open();
    ASSERT_EQ(count_nonzero(cache, take_unwritten(cache, 1, 64), 64), 0);
    ASSERT_EQ(fixture_stats(cache).scrubs, 0);
    pkv_cache_destroy(cache);
}

TEST(blocks_that_change_tenant_are_zeroed) {
    pkv_cache* cache = fixture_open();
    fill_pool(cache, 1);
    ASSERT_EQ(count_nonzero(cache, take_unwritten(cache, 2, 64), 64), 0);
    ASSERT_EQ(fixture_stats(cache).scrubs, 16);
    pkv_cache_destroy(cache);
}

TEST(blocks_that_stay_with_their_tenant_are_not_zeroed) {
    pkv_cache* cache = fixture_open();
    fill_pool(cache, 1);
    take_unwritten(cache, 1, 64);
    ASSERT_EQ(fixture_stats(cache).scrubs, 0);
    pkv_cache_destroy(cache);
}

TEST(a_block_whose_zeroing_failed_is_zeroed_later) {
    pkv_cache* cache = fixture_open();
    fill_pool(cache, 1);
    const pkv_seq seq = fixture_seq(cache, 2);
    const int status = pkv_faults_set(cache, "device.zero=3*off->return(EIO)", 1);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(status);
    ASSERT_STATUS(pkv_seq_append(cache, seq, NULL, 64, NULL), PKV_EIO);
    ASSERT_EQ(fixture_info(cache, seq).reserved, 0);
    ASSERT_OK(pkv_faults_set(cache, NULL, 0));
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 64, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_EQ(count_nonzero(cache, seq, 64), 0);
    ASSERT_EQ(fixture_stats(cache).scrubs, 16);
    pkv_cache_destroy(cache);
}

TEST(an_aborted_plan_leaves_its_bytes_to_its_tenant_alone) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[64];
    fixture_tokens(tokens, 64, 1);
    const pkv_entry entry = {fixture_seq(cache, 1), tokens, 64};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, tokens));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_EQ(count_nonzero(cache, take_unwritten(cache, 2, 64), 64), 0);
    pkv_cache_destroy(cache);
}
