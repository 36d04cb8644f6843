/* test_eviction.c - policies of eviction: each does what its name says and leaves first, a scan
 * does not wipe what is hot, and an application that chooses badly does no harm. */
#include "unit.h"

#include "api/fixture.h"
#include <string.h>

enum { BLOCKS = 64, TOKENS = BLOCKS * FIXTURE_BLOCK };

static const char* const names[] = {"reuse", "lru",    "fifo", "lfu",
                                    "slru",  "s3fifo", "arc",  "greedydual"};
enum { NAMES = sizeof names / sizeof *names };

static pkv_config config_of(const char* eviction) {
    pkv_config config = fixture_config();
    config.blocks = BLOCKS;
    config.eviction = eviction;
    return config;
}

/* One request: attach what there is, commit the rest without K and V, end. Returns the tokens
 * found. */
static uint32_t ask(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    if (matched < count) {
        ASSERT_OK(pkv_seq_append(cache, seq, tokens + matched, count - matched, NULL));
        ASSERT_OK(pkv_seq_commit(cache, seq));
    }
    ASSERT_OK(pkv_seq_free(cache, seq));
    return matched;
}

static uint32_t ask_for(pkv_cache* cache, uint32_t first_token, uint32_t count) {
    uint32_t tokens[TOKENS];
    fixture_tokens(tokens, count, first_token);
    return ask(cache, tokens, count);
}

TEST(an_unknown_policy_is_refused) {
    const pkv_config config = config_of("least");
    const char* why;
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_ENOTSUP);
    ASSERT_EQ(strncmp(why, "eviction: ", 10), 0);
}

/* ---- All policies ---------------------------------------------------------------------------- */

TEST(leaves_go_before_their_parents) {
    for (int i = 0; i < NAMES; i++) {
        const pkv_config config = config_of(names[i]);
        pkv_cache* cache = fixture_create(&config);
        ask_for(cache, 1, 10 * FIXTURE_BLOCK);
        ask_for(cache, 1000, (BLOCKS - 4) * FIXTURE_BLOCK); /* takes six of the ten */
        ASSERT_EQ(fixture_stats(cache).evictions, 6);
        ASSERT_EQ(ask_for(cache, 1, 10 * FIXTURE_BLOCK), 4 * FIXTURE_BLOCK);
        fixture_check(cache);
        pkv_cache_destroy(cache);
    }
}

TEST(books_are_in_order_whatever_the_policy) {
    for (int i = 0; i < NAMES; i++) {
        const pkv_config config = config_of(names[i]);
        pkv_cache* cache = fixture_create(&config);
        uint64_t dice = 7;
        pkv_seq held = {0};
        for (int round = 0; round < 3000; round++) {
            dice = dice * 6364136223846793005ULL + 1442695040888963407ULL;
            const uint32_t roll = (uint32_t)(dice >> 33);
            const uint32_t document = roll % 3 == 0 ? roll / 3 % 4 : 100 + roll / 3 % 64;
            ask_for(cache, document * 1000, (1 + roll / 7 % 16) * FIXTURE_BLOCK);
            if (roll % 11 == 0) { /* one sequence stays and keeps its blocks in use */
                uint32_t tokens[2 * FIXTURE_BLOCK];
                uint32_t matched;
                ASSERT_OK(pkv_seq_free(cache, held));
                held = fixture_seq(cache, 0);
                fixture_tokens(tokens, 2 * FIXTURE_BLOCK, document * 1000);
                ASSERT_OK(pkv_seq_match(cache, held, tokens, 2 * FIXTURE_BLOCK, &matched));
            }
            if (round % 16 == 0) fixture_check(cache);
        }
        ASSERT_GE(fixture_stats(cache).evictions, 1000);
        ASSERT_EQ(fixture_stats(cache).eviction_fallbacks, 0);
        pkv_cache_destroy(cache);
    }
}

static uint64_t hits_beside_scan(const char* eviction) {
    const pkv_config config = config_of(eviction);
    pkv_cache* cache = fixture_create(&config);
    uint64_t hits = 0;
    for (uint32_t round = 0; round < 400; round++) {
        hits += ask_for(cache, 1, 16 * FIXTURE_BLOCK);
        for (uint32_t i = 0; i < 8; i++) /* more than all blocks are scanned in between */
            ask_for(cache, 1000 * (2 + round * 8 + i), 12 * FIXTURE_BLOCK);
    }
    pkv_cache_destroy(cache);
    return hits;
}

TEST(a_scan_does_not_wipe_a_hot_prefix) {
    const uint64_t all = 400 * 16 * FIXTURE_BLOCK;
    ASSERT_EQ(hits_beside_scan("lru"), 0); /* which is what the test is about */
    ASSERT_GT(hits_beside_scan(NULL), all / 2);
}

/* ---- The application chooses ----------------------------------------------------------------- */

struct chooser {
    int mood;
    uint32_t calls;
    uint32_t offered;
    uint32_t victim; /* to name, where the mood is to name one */
};

enum { YOUNGEST, NOTHING, TOO_MANY, OUT_OF_RANGE, TWICE, ONE };

static uint32_t choose(void* ctx, const pkv_candidate* candidates, uint32_t offered, uint32_t count,
                       uint32_t* victims) {
    struct chooser* chooser = ctx;
    chooser->calls++;
    chooser->offered = offered;
    for (uint32_t i = 0; i < count; i++)
        victims[i] = candidates[chooser->mood == TWICE ? 0 : offered - 1 - i].block;
    if (chooser->mood == NOTHING) return 0;
    if (chooser->mood == TOO_MANY) return count + 1;
    if (chooser->mood == OUT_OF_RANGE) victims[0] = UINT32_MAX;
    if (chooser->mood == ONE) victims[0] = chooser->victim;
    return count;
}

/* Two requests fill the cache, a third needs `count` blocks. */
static pkv_cache* fill_and_choose(struct chooser* chooser, uint32_t count) {
    pkv_config config = config_of(NULL);
    config.eviction_hook = (pkv_eviction_hook){.choose = choose, .ctx = chooser};
    pkv_cache* cache = fixture_create(&config);
    ask_for(cache, 1, 32 * FIXTURE_BLOCK);
    ask_for(cache, 1000, 32 * FIXTURE_BLOCK);
    ASSERT_EQ(chooser->calls, 0);
    ask_for(cache, 5000, count * FIXTURE_BLOCK);
    fixture_check(cache);
    return cache;
}

TEST(the_application_is_asked_once_for_a_reservation) {
    struct chooser chooser = {.mood = YOUNGEST};
    pkv_cache* cache = fill_and_choose(&chooser, 32);
    ASSERT_EQ(chooser.calls, 1);
    ASSERT_EQ(chooser.offered, BLOCKS);
    ASSERT_EQ(fixture_stats(cache).eviction_fallbacks, 0);
    ASSERT_EQ(ask_for(cache, 1, 32 * FIXTURE_BLOCK), 32 * FIXTURE_BLOCK);
    pkv_cache_destroy(cache);
}

static uint64_t fallbacks(int mood, uint32_t count) {
    struct chooser chooser = {.mood = mood};
    pkv_cache* cache = fill_and_choose(&chooser, count);
    const pkv_stats stats = fixture_stats(cache);
    ASSERT_EQ(stats.evictions, count);
    pkv_cache_destroy(cache);
    return stats.eviction_fallbacks;
}

TEST(nonsense_is_passed_over) {
    ASSERT_EQ(fallbacks(NOTHING, 8), 8);
    ASSERT_EQ(fallbacks(TOO_MANY, 8), 8);
    ASSERT_EQ(fallbacks(OUT_OF_RANGE, 8), 1);
    ASSERT_EQ(fallbacks(TWICE, 8), 7);
}

TEST(a_block_in_use_stays_whatever_the_application_says) {
    struct chooser chooser = {.mood = ONE};
    pkv_config config = config_of(NULL);
    config.eviction_hook = (pkv_eviction_hook){.choose = choose, .ctx = &chooser};
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[FIXTURE_BLOCK];
    fixture_tokens(tokens, FIXTURE_BLOCK, 9000);
    const pkv_seq held = fixture_seq(cache, 0);
    fixture_extend(cache, held, tokens, FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_blocks(cache, held, 0, 0, 1, &chooser.victim));
    ask_for(cache, 1, (BLOCKS - 1) * FIXTURE_BLOCK);
    ask_for(cache, 3000, FIXTURE_BLOCK);
    ASSERT_EQ(chooser.calls, 1);
    ASSERT_EQ(fixture_stats(cache).eviction_fallbacks, 1);
    fixture_expect(cache, held, tokens, FIXTURE_BLOCK);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}
