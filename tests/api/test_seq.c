/* test_seq.c - the life of a sequence: create, append, commit, read, free, and what handles
 * name. */
#include "unit.h"

#include "api/fixture.h"

TEST(a_new_sequence_is_empty) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 77);
    const pkv_seq_info info = fixture_info(cache, seq);
    ASSERT_EQ(info.length, 0);
    ASSERT_EQ(info.reserved, 0);
    ASSERT_EQ(info.pages, 0);
    ASSERT_EQ(info.in_plan, 0);
    ASSERT_EQ(info.tenant, 77);
    pkv_cache_destroy(cache);
}

TEST(what_was_written_is_read_back) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    uint32_t tokens[11];
    fixture_tokens(tokens, 11, 40);
    fixture_extend(cache, seq, tokens, 6);
    fixture_extend(cache, seq, tokens + 6, 1);
    fixture_extend(cache, seq, tokens + 7, 4);
    fixture_expect(cache, seq, tokens, 11);
    ASSERT_EQ(fixture_info(cache, seq).pages, 3);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
    ASSERT_EQ(fixture_stats(cache).tokens_committed, 11);
    pkv_cache_destroy(cache);
}

TEST(every_slot_of_sequences_is_given_once) {
    pkv_cache* cache = fixture_open();
    pkv_seq seqs[9];
    for (uint32_t i = 0; i < 8; i++)
        seqs[i] = fixture_seq(cache, i);
    ASSERT_STATUS(pkv_seq_create(cache, 0, &seqs[8]), PKV_ENOSEQS);
    ASSERT_OK(pkv_seq_free(cache, seqs[3]));
    seqs[8] = fixture_seq(cache, 8);
    ASSERT_NE(seqs[8].id, seqs[3].id);
    pkv_cache_destroy(cache);
}

TEST(a_freed_handle_is_stale) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    pkv_seq_info info;
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_STATUS(pkv_seq_free(cache, seq), PKV_ESTALE);
    ASSERT_STATUS(pkv_seq_get_info(cache, seq, &info), PKV_ESTALE);
    const pkv_seq next = fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_commit(cache, seq), PKV_ESTALE);
    ASSERT_OK(pkv_seq_commit(cache, next));
    pkv_cache_destroy(cache);
}

TEST(freeing_the_zero_handle_does_nothing) {
    pkv_cache* cache = fixture_open();
    ASSERT_OK(pkv_seq_free(cache, (pkv_seq){0}));
    ASSERT_STATUS(pkv_seq_commit(cache, (pkv_seq){0}), PKV_ESTALE);
    pkv_cache_destroy(cache);
}

TEST(append_gives_slots_that_commit_makes_part_of_the_sequence) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    uint32_t slots[6];
    uint32_t blocks[2];
    ASSERT_OK(pkv_seq_append(cache, seq, tokens, 6, slots));
    ASSERT_EQ(fixture_info(cache, seq).length, 0);
    ASSERT_EQ(fixture_info(cache, seq).reserved, 6);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 2, blocks));
    for (uint32_t i = 0; i < 6; i++)
        ASSERT_EQ(slots[i], blocks[i / FIXTURE_BLOCK] * FIXTURE_BLOCK + i % FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_EQ(fixture_info(cache, seq).length, 6);
    ASSERT_EQ(fixture_info(cache, seq).reserved, 0);
    ASSERT_STATUS(pkv_seq_append(cache, seq, tokens, 0, NULL), PKV_EINVAL);
    pkv_cache_destroy(cache);
}

TEST(what_was_computed_elsewhere_is_written_to_appended_slots) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    float k[6][FIXTURE_DIM];
    float v[6][FIXTURE_DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    for (uint32_t i = 0; i < 6; i++) {
        for (uint32_t d = 0; d < FIXTURE_DIM; d++) {
            k[i][d] = (float)(1000 * tokens[i] + i);
            v[i][d] = -k[i][d];
        }
    }
    ASSERT_STATUS(pkv_seq_write(cache, seq, 0, &k_array, &v_array), PKV_ERANGE);
    ASSERT_OK(pkv_seq_append(cache, seq, tokens, 5, NULL));
    ASSERT_OK(pkv_seq_append(cache, seq, tokens + 5, 1, NULL));
    ASSERT_STATUS(pkv_seq_write(cache, seq, 1, &k_array, &v_array), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_write(cache, seq, 0, NULL, &v_array), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_write(cache, seq, 0, &k_array, NULL), PKV_EINVAL);
    ASSERT_OK(pkv_seq_write(cache, seq, 0, &k_array, &v_array));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    fixture_expect(cache, seq, tokens, 6);
    ASSERT_STATUS(pkv_seq_write(cache, seq, 0, &k_array, &v_array), PKV_ERANGE);
    const pkv_entry entry = {seq, tokens, 1};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_STATUS(pkv_seq_write(cache, seq, 0, &k_array, &v_array), PKV_EBUSY);
    pkv_cache_destroy(cache);
}

TEST(truncating_to_the_length_gives_reserved_tokens_up) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t tokens[5] = {1, 2, 3, 4, 5};
    fixture_extend(cache, seq, tokens, 5);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 20, NULL));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 7);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 5));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    fixture_expect(cache, seq, tokens, 5);
    pkv_cache_destroy(cache);
}

TEST(only_committed_positions_can_be_read) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t tokens[3] = {1, 2, 3};
    float k[4][FIXTURE_DIM];
    const pkv_array array = {.data = k};
    fixture_extend(cache, seq, tokens, 3);
    ASSERT_OK(pkv_seq_read(cache, seq, 0, 0, 3, &array, NULL));
    ASSERT_OK(pkv_seq_read(cache, seq, 0, 3, 3, &array, NULL));
    ASSERT_STATUS(pkv_seq_read(cache, seq, 0, 0, 4, &array, NULL), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_read(cache, seq, 0, 4, 4, &array, NULL), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_read(cache, seq, 0, 2, 1, &array, NULL), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_read(cache, seq, 1, 0, 3, &array, NULL), PKV_ERANGE);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 1, NULL));
    ASSERT_STATUS(pkv_seq_read(cache, seq, 0, 0, 4, &array, NULL), PKV_ERANGE);
    pkv_cache_destroy(cache);
}

TEST(block_numbers_are_those_of_existing_pages) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    uint32_t blocks[3];
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 9, NULL));
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 3, blocks));
    ASSERT_NE(blocks[0], blocks[1]);
    ASSERT_NE(blocks[1], blocks[2]);
    ASSERT_LT(blocks[2], 16);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 3, 3, NULL));
    ASSERT_STATUS(pkv_seq_blocks(cache, seq, 0, 0, 4, blocks), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_blocks(cache, seq, 0, 2, 1, blocks), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_blocks(cache, seq, 1, 0, 1, blocks), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_blocks(cache, seq, 0, 0, 1, NULL), PKV_EINVAL);
    pkv_cache_destroy(cache);
}

TEST(strides_say_where_elements_are) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t tokens[2] = {8, 9};
    float k[2][3 * FIXTURE_DIM];
    fixture_extend(cache, seq, tokens, 2);
    memset(k, 0, sizeof k);
    const pkv_array wide = {.data = &k[0][FIXTURE_DIM], .row_stride = 3 * FIXTURE_DIM};
    ASSERT_OK(pkv_seq_read(cache, seq, 0, 0, 2, &wide, NULL));
    for (uint32_t d = 0; d < 3 * FIXTURE_DIM; d++) {
        const bool is_inside = d / FIXTURE_DIM == 1;
        ASSERT_NEAR(k[0][d], is_inside ? 8000 : 0, 0);
        ASSERT_NEAR(k[1][d], is_inside ? 9001 : 0, 0);
    }
    pkv_cache_destroy(cache);
}
