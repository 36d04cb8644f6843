/* test_restore.c - a sequence is saved, by reading it, and restored by append and write: into a cache
 * that is fragmented, has blocks of another size, or has some of it already. */
#include "unit.h"

#include "api/fixture.h"

enum { LENGTH = 22 };

struct saved {
    uint32_t tokens[LENGTH];
    float k[LENGTH][FIXTURE_DIM];
    float v[LENGTH][FIXTURE_DIM];
};

static struct saved saved;

static pkv_cache* open_cache(uint32_t block_tokens, uint32_t dtype) {
    pkv_config config = fixture_config();
    config.groups[0].block_tokens = block_tokens;
    config.groups[0].k_dtype = dtype;
    config.groups[0].v_dtype = dtype;
    config.seed = block_tokens;
    return fixture_create(&config);
}

static void read_all(pkv_cache* cache, pkv_seq seq, float* k, float* v) {
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    ASSERT_OK(pkv_seq_read(cache, seq, 0, 0, LENGTH, &k_array, &v_array));
}

/* A prompt, some decoded tokens, and a fork that has gone its own way. */
static void save(uint32_t dtype) {
    pkv_cache* cache = open_cache(16, dtype);
    pkv_seq child;
    const uint32_t other = 40;
    fixture_tokens(saved.tokens, LENGTH, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, saved.tokens, 17);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    fixture_extend(cache, child, &other, 1);
    for (uint32_t i = 17; i < LENGTH; i++)
        fixture_extend(cache, seq, saved.tokens + i, 1);
    read_all(cache, seq, saved.k[0], saved.v[0]);
    pkv_cache_destroy(cache);
}

/* Restore what is not there yet. */
static pkv_seq restore(pkv_cache* cache, uint32_t wanted_hit) {
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, seq, saved.tokens, LENGTH, &matched));
    ASSERT_EQ(matched, wanted_hit);
    if (matched < LENGTH) {
        const pkv_array k_array = {.data = saved.k[matched]};
        const pkv_array v_array = {.data = saved.v[matched]};
        ASSERT_OK(pkv_seq_append(cache, seq, saved.tokens + matched, LENGTH - matched, NULL));
        ASSERT_OK(pkv_seq_write(cache, seq, 0, &k_array, &v_array));
        ASSERT_OK(pkv_seq_commit(cache, seq));
    }
    return seq;
}

static void expect_saved(pkv_cache* cache, pkv_seq seq) {
    static struct saved got;
    ASSERT_EQ(fixture_info(cache, seq).length, LENGTH);
    read_all(cache, seq, got.k[0], got.v[0]);
    ASSERT_MEM(got.k, saved.k, sizeof got.k);
    ASSERT_MEM(got.v, saved.v, sizeof got.v);
    fixture_check(cache);
}

TEST(a_sequence_is_restored_to_blocks_of_any_size) {
    save(PKV_F32);
    for (uint32_t block_tokens = 2; block_tokens <= 32; block_tokens *= 2) {
        pkv_cache* cache = open_cache(block_tokens, PKV_F32);
        const pkv_seq seq = restore(cache, 0);
        expect_saved(cache, seq);
        fixture_extend(cache, seq, (const uint32_t[]){90}, 1); /* and goes on */
        ASSERT_NEAR(fixture_read(cache, seq, LENGTH), 90000 + LENGTH, 0);
        pkv_cache_destroy(cache);
    }
}

TEST(what_was_stored_with_few_bits_is_restored_to_the_same_bits) {
    const uint32_t dtypes[5] = {PKV_F16, PKV_BF16, PKV_I8, PKV_E4M3, PKV_E5M2};
    for (uint32_t i = 0; i < 5; i++) {
        save(dtypes[i]);
        pkv_cache* cache = open_cache(16, dtypes[i]);
        expect_saved(cache, restore(cache, 0));
        pkv_cache_destroy(cache);
    }
}

TEST(a_fragmented_cache_takes_it_wherever_there_is_room) {
    save(PKV_F32);
    pkv_cache* cache = open_cache(4, PKV_F32);
    pkv_seq seqs[8];
    uint32_t blocks[6];
    for (uint32_t i = 0; i < 8; i++) { /* two blocks each: all are taken */
        seqs[i] = fixture_seq(cache, 0);
        ASSERT_OK(pkv_seq_append(cache, seqs[i], NULL, 8, NULL));
        ASSERT_OK(pkv_seq_commit(cache, seqs[i]));
    }
    for (uint32_t i = 0; i < 8; i += 2)
        ASSERT_OK(pkv_seq_free(cache, seqs[i]));
    const pkv_seq seq = restore(cache, 0);
    expect_saved(cache, seq);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 6, blocks));
    uint32_t gaps = 0;
    for (uint32_t page = 1; page < 6; page++)
        gaps += blocks[page] != blocks[page - 1] + 1;
    ASSERT_GT(gaps, 0); /* which is what the test is about */
    pkv_cache_destroy(cache);
}

TEST(what_is_restored_is_found_and_what_is_found_needs_no_restoring) {
    save(PKV_F32);
    pkv_cache* cache = open_cache(4, PKV_F32);
    ASSERT_OK(pkv_seq_free(cache, restore(cache, 0)));
    const pkv_seq again = restore(cache, LENGTH);
    expect_saved(cache, again);
    ASSERT_OK(pkv_seq_truncate(cache, again, 9));
    const pkv_seq beside = restore(cache, LENGTH);
    expect_saved(cache, beside);
    ASSERT_EQ(fixture_stats(cache).tokens_committed, LENGTH);
    pkv_cache_destroy(cache);
}
