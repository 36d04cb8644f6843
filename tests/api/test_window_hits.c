/* test_window_hits.c - prefix hits where a window rolls blocks off: what is found, in which order it
 * goes, and that attention does not tell a hit from a sequence that was computed. */
#include "unit.h"

#include "api/fixture.h"

enum { WINDOW = 6, PAGES_MAX = 64, LOST_OF = 8 };

static const char* const policies[] = {"reuse", "lru",    "fifo", "lfu",
                                       "slru",  "s3fifo", "arc",  "greedydual"};
enum { POLICIES = sizeof policies / sizeof *policies };

static pkv_cache* open_window(uint32_t sinks, uint32_t blocks, const char* eviction) {
    pkv_config config = fixture_config();
    config.groups[0].window = WINDOW;
    config.groups[0].sinks = sinks;
    config.blocks = blocks;
    config.sequence_tokens_max = 64;
    config.eviction = eviction;
    return fixture_create(&config);
}

static uint32_t match(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count) {
    uint32_t matched;
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    return matched;
}

static pkv_seq grown(pkv_cache* cache, const uint32_t* tokens, uint32_t length) {
    const pkv_seq seq = fixture_seq(cache, 0);
    for (uint32_t i = 0; i < length; i++)
        fixture_extend(cache, seq, tokens + i, 1);
    return seq;
}

/* Attend from one more token; returns the output, which `lse` belongs to. */
static float attend(pkv_cache* cache, pkv_seq seq, uint32_t token, float* lse) {
    const pkv_entry entry = {seq, &token, 1};
    pkv_plan plan;
    float q[FIXTURE_DIM];
    float out[FIXTURE_DIM];
    for (uint32_t d = 0; d < FIXTURE_DIM; d++)
        q[d] = 1e-5F * (float)(d + 1);
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, &token));
    const pkv_attention attention = {
        .q = {.data = q}, .out = {.data = out}, .lse = lse, .query_heads = 1};
    ASSERT_OK(pkv_attend(cache, plan, 0, &attention));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    return out[0];
}

TEST(a_hit_behind_a_window_is_attended_to_like_what_was_computed) {
    for (uint32_t sinks = 0; sinks <= 5; sinks++) {
        pkv_cache* cache = open_window(sinks, 16, "lru");
        uint32_t text[24];
        float lse[2];
        fixture_tokens(text, 24, 1);
        const pkv_seq computed = grown(cache, text, 23);
        const pkv_seq hit = fixture_seq(cache, 0);
        ASSERT_EQ(match(cache, hit, text, 23), 20); /* its last block is not full */
        for (uint32_t i = 20; i < 23; i++)
            fixture_extend(cache, hit, text + i, 1);
        const float wanted = attend(cache, computed, text[23], &lse[0]);
        const float got = attend(cache, hit, text[23], &lse[1]);
        ASSERT_MEM(&wanted, &got, sizeof wanted);
        ASSERT_MEM(&lse[0], &lse[1], sizeof lse[0]);
        const uint32_t pages = fixture_info(cache, hit).pages;
        uint32_t of_hit[PAGES_MAX];
        uint32_t of_computed[PAGES_MAX];
        ASSERT_OK(pkv_seq_blocks(cache, hit, 0, 0, pages, of_hit));
        ASSERT_OK(pkv_seq_blocks(cache, computed, 0, 0, pages, of_computed));
        ASSERT_MEM(of_hit, of_computed, pages * sizeof *of_hit); /* rolled off alike */
        fixture_check(cache);
        pkv_cache_destroy(cache);
    }
}

TEST(a_prompt_longer_than_pool_and_window_is_computed_in_chunks) {
    pkv_config config = fixture_config();
    config.groups[0].window = WINDOW;
    config.blocks = 6;
    config.sequence_tokens_max = 200;
    pkv_cache* cache = fixture_create(&config);
    uint32_t text[96];
    fixture_tokens(text, 96, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    for (uint32_t begin = 0; begin < 96; begin += 12)
        fixture_extend(cache, seq, text + begin, 12);
    ASSERT_EQ(fixture_info(cache, seq).length, 96);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_LE(fixture_stats(cache).blocks_peak, 2 + 3);
    for (uint32_t i = 96 - WINDOW; i < 96; i++)
        ASSERT_NEAR(fixture_read(cache, seq, i), 1000 * text[i] + i, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* So many blocks a decoding sequence has at most, wherever it stands. */
TEST(a_window_is_as_many_blocks_as_it_can_touch) {
    for (uint32_t window = 1; window <= 9; window++) {
        pkv_config config = fixture_config();
        config.groups[0].window = window;
        pkv_cache* cache = fixture_create(&config);
        uint32_t text[40];
        fixture_tokens(text, 40, 1);
        const pkv_seq seq = fixture_seq(cache, 0);
        const uint32_t most = (window - 1 + FIXTURE_BLOCK - 1) / FIXTURE_BLOCK + 1;
        for (uint32_t i = 0; i < 40; i++) {
            fixture_extend(cache, seq, text + i, 1);
            ASSERT_LE(fixture_stats(cache).blocks_active, most);
        }
        pkv_cache_destroy(cache);
    }
}

/* What the next token sees is there, and no block that it does not touch. */
static void expect_window(pkv_cache* cache, pkv_seq seq, const uint32_t* text, uint32_t length) {
    const uint32_t begin = length - WINDOW;
    uint32_t blocks[PAGES_MAX];
    ASSERT_EQ(fixture_info(cache, seq).length, length);
    for (uint32_t i = begin; i < length; i++)
        ASSERT_NEAR(fixture_read(cache, seq, i), 1000 * text[i] + i, 0);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, begin / FIXTURE_BLOCK, blocks));
    for (uint32_t page = 0; page < begin / FIXTURE_BLOCK; page++)
        ASSERT_EQ(blocks[page], PKV_NO_BLOCK);
}

TEST(what_has_rolled_off_is_found_by_others_and_by_who_comes_back) {
    pkv_cache* cache = open_window(0, 16, "lru");
    uint32_t text[24];
    fixture_tokens(text, 24, 1);
    const pkv_seq runner = grown(cache, text, 24);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 4);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, other, text, 10), 10); /* only rolled-off ones */
    expect_window(cache, other, text, 10);
    ASSERT_OK(pkv_seq_free(cache, other));
    ASSERT_OK(pkv_seq_free(cache, runner));
    const pkv_seq again = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, again, text, 24), 24);
    expect_window(cache, again, text, 24);
    pkv_cache_destroy(cache);
}

/* In a pool that the text fills. What is behind the window makes room for what follows. */
TEST(a_hit_holds_only_what_its_window_needs) {
    pkv_cache* cache = open_window(0, 8, "lru");
    uint32_t text[40];
    fixture_tokens(text, 40, 1);
    ASSERT_OK(pkv_seq_free(cache, grown(cache, text, 32)));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 8);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, text, 32), 32);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    fixture_extend(cache, seq, text + 32, 8);
    ASSERT_EQ(fixture_stats(cache).evictions, 2);
    expect_window(cache, seq, text, 40);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(a_hit_can_be_truncated_within_its_window) {
    pkv_cache* cache = open_window(4, 16, "lru");
    uint32_t text[32];
    fixture_tokens(text, 32, 1);
    ASSERT_OK(pkv_seq_free(cache, grown(cache, text, 32)));
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, seq, text, 32), 32);
    ASSERT_STATUS(pkv_seq_truncate(cache, seq, 28), PKV_ERANGE);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 30));
    ASSERT_OK(pkv_seq_truncate(cache, seq, 3)); /* sinks alone */
    fixture_expect(cache, seq, text, 3);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* ---- Which goes first ------------------------------------------------------------------------ */

static void lose(pkv_cache* cache, uint32_t blocks) {
    const pkv_seq taker = fixture_seq(cache, 1);
    ASSERT_OK(pkv_seq_append(cache, taker, NULL, blocks * FIXTURE_BLOCK, NULL));
    ASSERT_EQ(fixture_stats(cache).evictions, blocks);
}

/* A text of eight blocks, all but two behind the window, loses some of them. */
static void lose_some(const char* eviction, uint32_t sinks, uint32_t lost) {
    pkv_cache* cache = open_window(sinks, LOST_OF, eviction);
    uint32_t text[LOST_OF * FIXTURE_BLOCK];
    fixture_tokens(text, LOST_OF * FIXTURE_BLOCK, 1);
    ASSERT_OK(pkv_seq_free(cache, grown(cache, text, LOST_OF * FIXTURE_BLOCK)));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, LOST_OF);
    lose(cache, lost);
    const pkv_seq again = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, again, text, LOST_OF * FIXTURE_BLOCK), (LOST_OF - lost) * FIXTURE_BLOCK);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* The beginning rolled off long before the end was let go of, and yet it does not go before. */
TEST(a_windowed_sequence_that_ended_goes_from_its_last_block) {
    for (uint32_t i = 0; i < POLICIES; i++)
        for (uint32_t sinks = 0; sinks <= 8; sinks += 4)
            for (uint32_t lost = 1; lost < LOST_OF; lost++)
                lose_some(policies[i], sinks, lost);
}

TEST(a_partly_filled_last_block_goes_first_behind_a_window_too) {
    pkv_cache* cache = open_window(0, 8, "lru");
    uint32_t text[30];
    fixture_tokens(text, 30, 1);
    ASSERT_OK(pkv_seq_free(cache, grown(cache, text, 30)));
    lose(cache, 1);
    const pkv_seq again = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, again, text, 30), 28);
    pkv_cache_destroy(cache);
}

TEST(who_leaves_for_the_host_goes_from_its_last_block) {
    pkv_config config = fixture_config();
    config.groups[0].window = WINDOW;
    config.blocks = 8;
    config.host_blocks = 8;
    pkv_cache* cache = fixture_create(&config);
    uint32_t text[32];
    pkv_transfer transfer;
    fixture_tokens(text, 32, 1);
    const pkv_seq seq = grown(cache, text, 32);
    ASSERT_OK(pkv_seq_swap_out(cache, seq, &transfer));
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    lose(cache, 3);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, other, text, 32), 20);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* A fork holds the end, and has rolled off the same: it goes when both have ended. */
TEST(what_a_fork_holds_stays_and_what_rolled_off_is_young_again) {
    pkv_cache* cache = open_window(0, 10, "lru");
    uint32_t text[32];
    uint32_t other[8];
    pkv_seq child;
    fixture_tokens(text, 32, 1);
    fixture_tokens(other, 8, 500);
    const pkv_seq seq = grown(cache, text, 32);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    const pkv_seq stranger = fixture_seq(cache, 0);
    fixture_extend(cache, stranger, other, 8);
    ASSERT_OK(pkv_seq_free(cache, stranger));
    ASSERT_OK(pkv_seq_free(cache, seq));
    lose(cache, 2); /* those of the stranger, who ended before */
    const pkv_seq again = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, again, text, 32), 32);
    ASSERT_OK(pkv_seq_free(cache, again));
    ASSERT_OK(pkv_seq_free(cache, child));
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* The index finds a block through all that are before it, whether a token can see those or not. */
TEST(what_is_behind_a_lost_block_is_not_found) {
    pkv_cache* cache = open_window(0, 8, "lru");
    uint32_t text[24];
    fixture_tokens(text, 24, 1);
    const pkv_seq runner = grown(cache, text, 24); /* its first four blocks are idle */
    const pkv_seq taker = fixture_seq(cache, 1);
    ASSERT_OK(pkv_seq_append(cache, taker, NULL, 12, NULL)); /* two free ones, and the first */
    ASSERT_EQ(fixture_stats(cache).evictions, 1);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_EQ(match(cache, other, text, 24), 0);
    const float before = fixture_read(cache, runner, 23);
    ASSERT_NEAR(before, 1000 * text[23] + 23, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}
