/* test_window.c - blocks behind the window go back to the pool, sinks stay, and nobody can go
 * back. */
#include "unit.h"

#include "api/fixture.h"

/* A window of 6 tokens, and blocks of 4. */
static pkv_cache* open_window(uint32_t sinks) {
    pkv_config config = fixture_config();
    config.groups[0].window = 6;
    config.groups[0].sinks = sinks;
    return fixture_create(&config);
}

static pkv_seq grow(pkv_cache* cache, uint32_t length) {
    uint32_t tokens[64];
    fixture_tokens(tokens, 64, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    for (uint32_t i = 0; i < length; i++)
        fixture_extend(cache, seq, tokens + i, 1);
    return seq;
}

static int read_status(pkv_cache* cache, pkv_seq seq, uint32_t position) {
    float k[FIXTURE_DIM];
    const pkv_array array = {.data = k};
    return pkv_seq_read(cache, seq, 0, position, position + 1, &array, NULL);
}

TEST(pages_wholly_behind_the_window_roll_off) {
    pkv_cache* cache = open_window(0);
    const pkv_seq seq = grow(cache, 19);
    uint32_t blocks[5];
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 5, blocks));
    for (uint32_t page = 0; page < 3; page++)
        ASSERT_EQ(blocks[page], PKV_NO_BLOCK);
    ASSERT_NE(blocks[3], PKV_NO_BLOCK);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_EQ(fixture_stats(cache).rolled_blocks, 3);
    ASSERT_STATUS(read_status(cache, seq, 11), PKV_ERANGE);
    ASSERT_NEAR(fixture_read(cache, seq, 12), 13012, 0);
    ASSERT_EQ(fixture_info(cache, seq).length, 19);
    ASSERT_EQ(fixture_info(cache, seq).pages, 5);
    pkv_cache_destroy(cache);
}

TEST(a_sequence_may_grow_longer_than_the_pool) {
    pkv_config config = fixture_config();
    config.groups[0].window = 6;
    config.blocks = 4;
    config.sequence_tokens_max = 200;
    config.prefix_off = 1;
    pkv_cache* cache = fixture_create(&config);
    uint32_t token = 7;
    const pkv_seq seq = fixture_seq(cache, 0);
    for (uint32_t i = 0; i < 200; i++)
        fixture_extend(cache, seq, &token, 1);
    ASSERT_EQ(fixture_info(cache, seq).length, 200);
    ASSERT_LE(fixture_stats(cache).blocks_peak, 4);
    ASSERT_STATUS(pkv_seq_append(cache, seq, &token, 1, NULL), PKV_ETOOBIG);
    pkv_cache_destroy(cache);
}

TEST(sinks_stay) {
    pkv_cache* cache = open_window(5);
    const pkv_seq seq = grow(cache, 23);
    uint32_t blocks[6];
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 6, blocks));
    ASSERT_NE(blocks[0], PKV_NO_BLOCK);
    ASSERT_NE(blocks[1], PKV_NO_BLOCK); /* holds position 4, a sink */
    ASSERT_EQ(blocks[2], PKV_NO_BLOCK);
    ASSERT_EQ(blocks[3], PKV_NO_BLOCK);
    ASSERT_NE(blocks[4], PKV_NO_BLOCK);
    ASSERT_NEAR(fixture_read(cache, seq, 4), 5004, 0);
    ASSERT_STATUS(read_status(cache, seq, 8), PKV_ERANGE);
    pkv_cache_destroy(cache);
}

TEST(truncating_needs_the_window_before_the_new_end) {
    pkv_cache* cache = open_window(0);
    const pkv_seq seq = grow(cache, 19);
    ASSERT_STATUS(pkv_seq_truncate(cache, seq, 17), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_truncate(cache, seq, 1), PKV_ERANGE);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 18));
    ASSERT_EQ(fixture_info(cache, seq).length, 18);
    pkv_cache_destroy(cache);
}

TEST(nothing_is_needed_to_start_again) {
    pkv_cache* cache = open_window(0);
    const pkv_seq seq = grow(cache, 19);
    uint32_t tokens[19];
    fixture_tokens(tokens, 19, 300);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 0));
    fixture_extend(cache, seq, tokens, 6);
    fixture_expect(cache, seq, tokens, 6);
    fixture_extend(cache, seq, tokens + 6, 13);
    ASSERT_STATUS(read_status(cache, seq, 0), PKV_ERANGE);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(sinks_alone_are_enough_to_go_back_to) {
    pkv_cache* cache = open_window(4);
    const pkv_seq seq = grow(cache, 19);
    const uint32_t tokens[5] = {1, 2, 3, 4, 77};
    ASSERT_OK(pkv_seq_truncate(cache, seq, 4));
    fixture_extend(cache, seq, tokens + 4, 1);
    fixture_expect(cache, seq, tokens, 5);
    pkv_cache_destroy(cache);
}

TEST(a_fork_keeps_its_own_window) {
    pkv_cache* cache = open_window(0);
    const pkv_seq seq = grow(cache, 9);
    pkv_seq child;
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 500);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    fixture_extend(cache, seq, tokens, 8);
    ASSERT_STATUS(read_status(cache, seq, 3), PKV_ERANGE);
    ASSERT_NEAR(fixture_read(cache, child, 3), 4003, 0);
    ASSERT_NEAR(fixture_read(cache, child, 8), 9008, 0);
    pkv_cache_destroy(cache);
}

TEST(attention_sees_the_window_and_the_sinks) {
    pkv_cache* cache = open_window(2);
    const pkv_seq seq = grow(cache, 20);
    const uint32_t token = 21;
    const pkv_entry entry = {seq, &token, 1};
    pkv_plan plan;
    float q[FIXTURE_DIM] = {0};
    float out[FIXTURE_DIM];
    float lse;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, &token));
    const pkv_attention attention = {
        .q = {.data = q}, .out = {.data = out}, .lse = &lse, .query_heads = 1};
    ASSERT_OK(pkv_attend(cache, plan, 0, &attention));
    double sum = 0;
    const uint32_t visible[8] = {0, 1, 15, 16, 17, 18, 19, 20};
    for (uint32_t i = 0; i < 8; i++)
        sum -= 1000.0 * (visible[i] + 1) + visible[i];
    ASSERT_NEAR(out[0], sum / 8, 1e-2);
    ASSERT_NEAR(lse, log(8), 1e-6);
    pkv_cache_destroy(cache);
}

/* ---- Few leaves ------------------------------------------------------------------------------ */

#ifdef PKV_TINY
enum { LEAVES_IN_ALL = 165 }; /* of 2 pages: 150 shared, 15 for what is new */
#else
enum { LEAVES_IN_ALL = 3 }; /* of 256 pages: 2 shared, and the copy of the last one */
#endif

/* Rolling a page off a shared leaf takes a free leaf. Commit cannot fail, so it is put off. */
TEST(roll_off_waits_for_a_leaf) {
    pkv_config config = fixture_config();
    config.groups[0].block_tokens = 1;
    config.groups[0].window = 100;
    config.blocks = 400;
    config.plan_tokens_max = 400;
    config.sequence_tokens_max = 400;
    config.table_leaves_max = LEAVES_IN_ALL;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq seq = fixture_seq(cache, 0);
    pkv_seq child;
    uint32_t block;
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 300, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_EQ(fixture_stats(cache).rolled_blocks, 200);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 30, NULL));
    ASSERT_EQ(fixture_stats(cache).leaves_free, 0);
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_EQ(fixture_stats(cache).rolled_blocks, 200);
    fixture_check(cache);
    ASSERT_OK(pkv_seq_free(cache, child));
    ASSERT_OK(pkv_seq_commit(cache, seq)); /* of nothing, but it catches up */
    ASSERT_EQ(fixture_stats(cache).rolled_blocks, 230);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 229, 230, &block));
    ASSERT_EQ(block, PKV_NO_BLOCK);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 100);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}
