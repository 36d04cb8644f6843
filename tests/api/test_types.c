/* test_types.c - codes and scales of a token stay together: through forks that copy in the middle
 * of a block, shortening and writing again, the prefix index, and a change of tenant. */
#include "unit.h"

#include "api/typed.h"

/* What a sequence is made of when `kept` tokens of one text go on as another. */
static void splice(uint32_t* text, const uint32_t* left, uint32_t kept, const uint32_t* right,
                   uint32_t count) {
    memcpy(text, left, kept * sizeof *text);
    memcpy(text + kept, right, count * sizeof *text);
}

static void fork_and_go_on(struct typed t) {
    uint32_t stem[21];
    uint32_t ends[2][4];
    uint32_t text[25];
    pkv_seq child;
    typed_tokens(stem, 21, 1);
    typed_tokens(ends[0], 4, 100);
    typed_tokens(ends[1], 4, 200);
    const pkv_seq parent = fixture_seq(t.cache, 0);
    typed_extend(t, parent, stem, 21);
    ASSERT_OK(pkv_seq_fork(t.cache, parent, &child));
    typed_extend(t, child, ends[1], 4);
    ASSERT_EQ(fixture_stats(t.cache).cow_copies, 1);
    typed_expect(t, parent, stem, 21);
    typed_extend(t, parent, ends[0], 4);
    ASSERT_EQ(fixture_stats(t.cache).cow_copies, 1);
    splice(text, stem, 21, ends[0], 4);
    typed_expect(t, parent, text, 25);
    splice(text, stem, 21, ends[1], 4);
    typed_expect(t, child, text, 25);
}

TEST(forks_that_copy_in_the_middle_of_a_block_keep_every_bit) {
    typed_for_all(fork_and_go_on);
}

/* What the copy of a block takes of which so many tokens are filled. */
static uint64_t tail_bytes(struct typed t, uint32_t filled) {
    const uint32_t tiles = t.cow_whole ? 4 : (filled + 15) / 16;
    return tiles * t.block_bytes / 4;
}

/* In a block of four tiles: what is copied is what is filled, in whole tiles. */
static void fork_within_a_block(struct typed t) {
    uint32_t stem[60];
    uint32_t ends[3];
    uint32_t text[61];
    typed_tokens(stem, 60, 1);
    typed_tokens(ends, 3, 100);
    const pkv_seq parent = fixture_seq(t.cache, 0);
    uint64_t copied = 0;
    for (uint32_t length = 1; length < 60; length += 11) {
        pkv_seq child;
        const uint32_t before = fixture_info(t.cache, parent).length;
        typed_extend(t, parent, stem + before, length - before);
        ASSERT_OK(pkv_seq_fork(t.cache, parent, &child));
        typed_extend(t, child, ends, 1);
        splice(text, stem, length, ends, 1);
        typed_expect(t, child, text, length + 1);
        typed_expect(t, parent, stem, length);
        ASSERT_OK(pkv_seq_free(t.cache, child));
        const uint64_t bytes = fixture_stats(t.cache).cow_bytes - copied;
        ASSERT_EQ(bytes, tail_bytes(t, length));
        copied += bytes;
    }
}

TEST(a_fork_copies_the_tiles_that_are_filled) {
    for (uint32_t pair = 0; pair < (PKV_I4 + 1) * (PKV_I4 + 1); pair++) {
        const char* device = pair % 3 == 0 ? "sim" : "cpu";
        const uint32_t k_dtype = pair % (PKV_I4 + 1);
        const uint32_t v_dtype = pair / (PKV_I4 + 1);
        typed_run(typed_open(device, k_dtype, v_dtype, 64, false), fork_within_a_block);
        typed_run(typed_open(device, k_dtype, v_dtype, 64, true), fork_within_a_block);
    }
}

/* In place: tokens 16 to 22 share words of i4 with those that are written again. */
static void shorten_and_rewrite(struct typed t) {
    uint32_t old[30];
    uint32_t fresh[6];
    uint32_t text[29];
    typed_tokens(old, 30, 1);
    typed_tokens(fresh, 6, 300);
    const pkv_seq seq = fixture_seq(t.cache, 0);
    typed_extend(t, seq, old, 30);
    ASSERT_OK(pkv_seq_truncate(t.cache, seq, 23));
    typed_expect(t, seq, old, 23);
    typed_extend(t, seq, fresh, 6);
    ASSERT_EQ(fixture_stats(t.cache).cow_copies, 0);
    splice(text, old, 23, fresh, 6);
    typed_expect(t, seq, text, 29);
}

TEST(writing_again_after_a_cut_leaves_the_tokens_before_it) {
    typed_for_all(shorten_and_rewrite);
}

/* A cut in a cached block: growing again copies it, and who finds the prefix gets the old one. */
static void rewrite_a_cached_block(struct typed t) {
    uint32_t old[16];
    uint32_t fresh[9];
    uint32_t text[18];
    uint32_t matched;
    typed_tokens(old, 16, 1);
    typed_tokens(fresh, 9, 400);
    const pkv_seq seq = fixture_seq(t.cache, 0);
    typed_extend(t, seq, old, 16);
    ASSERT_OK(pkv_seq_truncate(t.cache, seq, 9));
    typed_extend(t, seq, fresh, 9);
    ASSERT_EQ(fixture_stats(t.cache).cow_copies, 1);
    splice(text, old, 9, fresh, 9);
    typed_expect(t, seq, text, 18);
    const pkv_seq reader = fixture_seq(t.cache, 0);
    ASSERT_OK(pkv_seq_match(t.cache, reader, old, 16, &matched));
    ASSERT_EQ(matched, 16);
    typed_expect(t, reader, old, 16);
}

TEST(a_cached_block_keeps_its_scales_when_its_sequence_goes_another_way) {
    typed_for_all(rewrite_a_cached_block);
}

static void change_hands(struct typed t) {
    static const uint32_t nothing[TYPED_TOKENS_MAX];
    uint32_t tokens[TYPED_TOKENS_MAX];
    typed_tokens(tokens, TYPED_TOKENS_MAX, 1);
    const pkv_seq before = fixture_seq(t.cache, 1);
    typed_extend(t, before, tokens, TYPED_TOKENS_MAX);
    ASSERT_OK(pkv_seq_free(t.cache, before));
    const pkv_seq after = fixture_seq(t.cache, 2);
    ASSERT_OK(pkv_seq_append(t.cache, after, NULL, TYPED_TOKENS_MAX, NULL));
    ASSERT_OK(pkv_seq_commit(t.cache, after));
    ASSERT_EQ(fixture_stats(t.cache).scrubs, TYPED_TOKENS_MAX / TYPED_BLOCK);
    typed_expect(t, after, nothing, TYPED_TOKENS_MAX);
}

TEST(blocks_that_change_tenant_read_as_zeros) {
    typed_for_all(change_hands);
}

/* One plan writes a chunk, two single tokens, two tails that were copied for it, and the original. */
static void write_as_a_batch(struct typed t) {
    uint32_t tokens[TYPED_BLOCK];
    uint32_t text[TYPED_BLOCK];
    pkv_seq seqs[3];
    typed_tokens(tokens, TYPED_BLOCK, 1);
    seqs[0] = fixture_seq(t.cache, 0);
    typed_extend(t, seqs[0], tokens, 5);
    ASSERT_OK(pkv_seq_fork(t.cache, seqs[0], &seqs[1]));
    ASSERT_OK(pkv_seq_fork(t.cache, seqs[0], &seqs[2]));
    const pkv_entry entries[3] = {
        {seqs[0], tokens + 5, 1}, {seqs[1], tokens + 6, 3}, {seqs[2], tokens + 9, 1}};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(t.cache, entries, 3, &plan));
    ASSERT_EQ(fixture_stats(t.cache).cow_copies, 2);
    for (uint32_t layer = 0; layer < TYPED_LAYERS; layer++) {
        float k[5][TYPED_HEADS][TYPED_K_DIM];
        float v[5][TYPED_HEADS][TYPED_V_DIM];
        const pkv_array k_array = {.data = k};
        const pkv_array v_array = {.data = v};
        for (uint32_t row = 0; row < 5; row++)
            for (uint32_t head = 0; head < TYPED_HEADS; head++) {
                const uint32_t token = tokens[5 + row];
                row_fill(t.group.k_dtype, row_key(token, layer, head, false), k[row][head],
                         TYPED_K_DIM);
                row_fill(t.group.v_dtype, row_key(token, layer, head, true), v[row][head],
                         TYPED_V_DIM);
            }
        ASSERT_OK(pkv_write(t.cache, plan, layer, &k_array, &v_array));
    }
    ASSERT_OK(pkv_plan_commit(t.cache, plan));
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t count = entries[i].count;
        splice(text, tokens, 5, entries[i].tokens, count);
        typed_expect(t, seqs[i], text, 5 + count);
    }
}

TEST(a_batch_over_copied_tails_is_stored_as_each_alone) {
    typed_for_all(write_as_a_batch);
}
