/* test_turns.c - prompts that share beginnings, as requests of a service do: whole blocks or
 * not, in use or ended, turn after turn, sample beside sample. */
#include "unit.h"

#include "api/fixture.h"

static uint32_t match(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count) {
    uint32_t matched;
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    return matched;
}

static void put(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, count);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

static uint32_t found(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t matched = match(cache, seq, tokens, count);
    fixture_expect(cache, seq, tokens, matched);
    ASSERT_OK(pkv_seq_free(cache, seq));
    return matched;
}

/* ---- Lengths --------------------------------------------------------------------------------- */

/* The last token is computed again for its logits; its block is there already, and stays one. */
TEST(a_prompt_of_whole_blocks_is_computed_but_for_its_last_token) {
    pkv_cache* cache = fixture_open();
    uint32_t text[8];
    fixture_tokens(text, 8, 1);
    put(cache, text, 8);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, text, 7), 7);
    fixture_extend(cache, seq, text + 7, 1);
    fixture_expect(cache, seq, text, 8);
    pkv_stats stats = fixture_stats(cache);
    ASSERT_EQ(stats.tokens_committed, 8 + 1);
    ASSERT_EQ(stats.prefix_duplicates, 1); /* the copy that was written to is given back */
    ASSERT_EQ(stats.blocks_active, 2);
    ASSERT_EQ(stats.blocks_cached, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* Who needs no logits, for example to fork from the prompt, may have all of it. */
TEST(a_prompt_of_whole_blocks_can_be_had_whole) {
    pkv_cache* cache = fixture_open();
    uint32_t text[9];
    fixture_tokens(text, 9, 1);
    put(cache, text, 8);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, text, 8), 8);
    fixture_extend(cache, seq, text + 8, 1); /* into a block of its own */
    ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
    fixture_expect(cache, seq, text, 9);
    pkv_cache_destroy(cache);
}

TEST(every_length_of_a_cached_text_is_found_to_its_end) {
    for (uint32_t block = 1; block <= 8; block *= 2) {
        pkv_config config = fixture_config();
        config.groups[0].block_tokens = block;
        config.blocks = 64;
        pkv_cache* cache = fixture_create(&config);
        uint32_t text[24];
        fixture_tokens(text, 24, 1);
        put(cache, text, 19);
        for (uint32_t count = 0; count <= 24; count++)
            ASSERT_EQ(found(cache, text, count), count < 19 ? count : 19);
        fixture_check(cache);
        pkv_cache_destroy(cache);
    }
}

TEST(a_shorter_text_is_part_of_a_longer_one_whichever_came_first) {
    uint32_t text[12];
    fixture_tokens(text, 12, 1);
    for (uint32_t order = 0; order < 2; order++) {
        pkv_cache* cache = fixture_open();
        put(cache, text, order == 0 ? 6 : 11);
        put(cache, text, order == 0 ? 11 : 6);
        ASSERT_EQ(found(cache, text, 12), 11);
        ASSERT_EQ(found(cache, text, 6), 6);
        ASSERT_LE(fixture_stats(cache).blocks_cached, 4); /* and the half block of the first */
        fixture_check(cache);
        pkv_cache_destroy(cache);
    }
}

TEST(texts_that_branch_are_each_found_to_their_end) {
    pkv_cache* cache = fixture_open();
    uint32_t trunk[4][11]; /* they part at token 3, in the block, and 4 and 8, between blocks */
    const uint32_t parts[4] = {11, 3, 4, 8};
    for (uint32_t i = 0; i < 4; i++) {
        fixture_tokens(trunk[i], 11, 1);
        for (uint32_t t = parts[i]; t < 11; t++)
            trunk[i][t] += 100 * i;
        put(cache, trunk[i], 11);
    }
    for (uint32_t i = 0; i < 4; i++)
        ASSERT_EQ(found(cache, trunk[i], 11), 11);
    uint32_t stranger[11];
    fixture_tokens(stranger, 11, 1);
    stranger[9] = 77;
    ASSERT_EQ(found(cache, stranger, 11), 9);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* ---- Running sequences ----------------------------------------------------------------------- */

TEST(a_running_sequence_is_found_block_by_block_while_its_prompt_is_computed) {
    pkv_cache* cache = fixture_open();
    uint32_t text[12];
    fixture_tokens(text, 12, 1);
    const pkv_seq runner = fixture_seq(cache, 0);
    fixture_extend(cache, runner, text, 5); /* a prompt in chunks */
    ASSERT_EQ(found(cache, text, 12), 4);
    fixture_extend(cache, runner, text + 5, 5);
    ASSERT_EQ(found(cache, text, 12), 8);
    fixture_extend(cache, runner, text + 10, 2);
    ASSERT_EQ(found(cache, text, 12), 12);
    pkv_cache_destroy(cache);
}

TEST(who_shares_a_block_may_end_in_any_order) {
    for (uint32_t order = 0; order < 2; order++) {
        pkv_cache* cache = fixture_open();
        uint32_t text[11];
        pkv_seq seqs[2];
        fixture_tokens(text, 11, 1);
        seqs[0] = fixture_seq(cache, 0);
        fixture_extend(cache, seqs[0], text, 8);
        seqs[1] = fixture_seq(cache, 0);
        ASSERT_EQ(match(cache, seqs[1], text, 11), 8);
        fixture_extend(cache, seqs[1], text + 8, 3);
        ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
        ASSERT_OK(pkv_seq_free(cache, seqs[order]));
        fixture_expect(cache, seqs[1 - order], text, order == 0 ? 11 : 8);
        ASSERT_EQ(fixture_stats(cache).blocks_active, order == 0 ? 3 : 2);
        ASSERT_OK(pkv_seq_free(cache, seqs[1 - order]));
        ASSERT_EQ(fixture_stats(cache).blocks_cached, 3);
        ASSERT_STATUS(pkv_seq_free(cache, seqs[order]), PKV_ESTALE); /* twice */
        ASSERT_EQ(fixture_stats(cache).blocks_cached, 3);
        ASSERT_EQ(found(cache, text, 11), 11);
        pkv_cache_destroy(cache);
    }
}

TEST(samples_of_one_prompt_share_all_but_what_they_add) {
    pkv_cache* cache = fixture_open();
    uint32_t text[10];
    pkv_seq samples[4];
    fixture_tokens(text, 10, 1);
    samples[0] = fixture_seq(cache, 0);
    fixture_extend(cache, samples[0], text, 10);
    for (uint32_t i = 1; i < 4; i++)
        ASSERT_OK(pkv_seq_fork(cache, samples[0], &samples[i]));
    pkv_entry entries[4];
    uint32_t tokens[4];
    for (uint32_t i = 0; i < 4; i++) {
        tokens[i] = 50 + i;
        entries[i] = (pkv_entry){samples[i], &tokens[i], 1};
    }
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, entries, 4, &plan));
    ASSERT_OK(fixture_write(cache, plan, tokens));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2 + 4);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 3);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t all[11];
        fixture_tokens(all, 10, 1);
        all[10] = tokens[i];
        fixture_expect(cache, samples[i], all, 11);
        ASSERT_OK(pkv_seq_free(cache, samples[i]));
        ASSERT_EQ(found(cache, all, 11), 11); /* also while the others run */
    }
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* ---- Turns ----------------------------------------------------------------------------------- */

TEST(each_turn_computes_only_what_is_new) {
    pkv_cache* cache = fixture_open();
    uint32_t text[48];
    uint32_t length = 0;
    fixture_tokens(text, 48, 1);
    const uint32_t asked[4] = {5, 7, 3, 9};
    for (uint32_t turn = 0; turn < 4; turn++) {
        const pkv_seq seq = fixture_seq(cache, 0);
        const uint32_t prompt = length + asked[turn];
        ASSERT_EQ(match(cache, seq, text, prompt - 1), length);
        fixture_extend(cache, seq, text + length, asked[turn]);
        for (length = prompt; length < prompt + 4; length++)
            fixture_extend(cache, seq, text + length, 1); /* answered */
        fixture_expect(cache, seq, text, length);
        ASSERT_OK(pkv_seq_free(cache, seq));
    }
    ASSERT_EQ(fixture_stats(cache).tokens_committed, length);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, (length + FIXTURE_BLOCK - 1) / FIXTURE_BLOCK);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* An answer is written anew from its third token on. */
TEST(an_edited_turn_finds_what_is_before_the_edit_and_leaves_the_old_one) {
    pkv_cache* cache = fixture_open();
    uint32_t old[14];
    uint32_t edited[14];
    fixture_tokens(old, 14, 1);
    fixture_tokens(edited, 14, 1);
    for (uint32_t i = 7; i < 14; i++)
        edited[i] += 500;
    put(cache, old, 14);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, edited, 13), 7);
    fixture_extend(cache, seq, edited + 7, 7);
    fixture_expect(cache, seq, edited, 14);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(found(cache, old, 14), 14);
    ASSERT_EQ(found(cache, edited, 14), 14);
    pkv_cache_destroy(cache);
}

/* Ids are numbers and nothing else: none of them is special. */
TEST(every_number_is_a_token) {
    pkv_cache* cache = fixture_open();
    const uint32_t text[6] = {0, UINT32_MAX, 0, 0, 0x7fffffff, 0x80000000};
    const uint32_t zeros[6] = {0};
    const pkv_seq seq = fixture_seq(cache, 0);
    uint32_t matched;
    ASSERT_OK(pkv_seq_append(cache, seq, text, 6, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_OK(pkv_seq_free(cache, seq));
    const pkv_seq same = fixture_seq(cache, 0);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, other, zeros, 6, &matched));
    ASSERT_EQ(matched, 1);
    ASSERT_OK(pkv_seq_match(cache, same, text, 6, &matched));
    ASSERT_EQ(matched, 6);
    pkv_cache_destroy(cache);
}
