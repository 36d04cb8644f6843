/* test_collision.c - blocks whose hashes are equal are told apart by their tokens, and by what stands
 * before them.
 *
 * The index files a block by 32 bits. Among some hundred thousand blocks two have the same, by the
 * birthday paradox; the test looks for them with the key of the cache, as nobody outside can. */
#include "unit.h"

#include "api/fixture.h"
#include "core/cache.h"

enum { CANDIDATES = 1 << 18 }; /* 8 pairs are expected; none at all once in 3,000 seeds */

struct candidate {
    uint32_t identity;
    uint32_t number; /* which block it is */
};

static struct candidate candidates[CANDIDATES];

static int by_identity(const void* a, const void* b) {
    const struct candidate* left = a;
    const struct candidate* right = b;
    return (left->identity > right->identity) - (left->identity < right->identity);
}

/* All of them differ; ids are small, so that K and V of the fixture are exact. */
static void block_of(uint32_t number, uint32_t* tokens) {
    fixture_tokens(tokens, FIXTURE_BLOCK, 1);
    tokens[FIXTURE_BLOCK - 2] = number % 512;
    tokens[FIXTURE_BLOCK - 1] = number / 512;
}

/* Two first blocks of one hash. A block that is a first page lends its row to ask for hashes. */
static void collide(pkv_cache* cache, uint32_t a[FIXTURE_BLOCK], uint32_t b[FIXTURE_BLOCK]) {
    uint32_t own[FIXTURE_BLOCK] = {9, 9, 9, 9};
    uint32_t block;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, own, FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 1, &block));
    uint32_t* const row = pkvi_pool_tokens(&cache->pool, block);
    for (uint32_t i = 0; i < CANDIDATES; i++) {
        block_of(i, row);
        const uint32_t identity = pkvi_prefix_identity(&cache->prefix, block, 0);
        candidates[i] = (struct candidate){identity, i};
    }
    memcpy(row, own, sizeof own);
    qsort(candidates, CANDIDATES, sizeof *candidates, by_identity);
    uint32_t i = 1;
    while (i < CANDIDATES && candidates[i].identity != candidates[i - 1].identity)
        i++;
    ASSERT_LT(i, CANDIDATES);
    block_of(candidates[i - 1].number, a);
    block_of(candidates[i].number, b);
}

static uint32_t count_common(const uint32_t* a, const uint32_t* b) {
    uint32_t common = 0;
    while (common < FIXTURE_BLOCK && a[common] == b[common])
        common++;
    return common;
}

static uint32_t match(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    fixture_expect(cache, seq, tokens, matched);
    ASSERT_OK(pkv_seq_free(cache, seq));
    return matched;
}

static uint32_t committed_block(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    uint32_t block;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, count);
    ASSERT_OK(
        pkv_seq_blocks(cache, seq, 0, count / FIXTURE_BLOCK - 1, count / FIXTURE_BLOCK, &block));
    ASSERT_OK(pkv_seq_free(cache, seq));
    return block;
}

/* Two texts that differ in their first blocks alone, which have one hash; so the last ones have. */
static void expect_apart(uint32_t count) {
    pkv_cache* cache = fixture_open();
    uint32_t texts[2][2 * FIXTURE_BLOCK];
    uint32_t blocks[2];
    collide(cache, texts[0], texts[1]);
    const uint32_t common = count_common(texts[0], texts[1]);
    for (uint32_t i = 0; i < 2; i++) {
        fixture_tokens(texts[i] + FIXTURE_BLOCK, FIXTURE_BLOCK, 500);
        ASSERT_EQ(match(cache, texts[i], count), i == 0 ? 0 : common);
        blocks[i] = committed_block(cache, texts[i], count);
    }
    ASSERT_NE(blocks[0], blocks[1]);
    const struct pkvi_node* nodes = cache->prefix.nodes;
    ASSERT_EQ(nodes[blocks[0]].identity, nodes[blocks[1]].identity);
    for (uint32_t i = 0; i < 2; i++)
        ASSERT_EQ(match(cache, texts[i], count), count);
    ASSERT_EQ(fixture_stats(cache).prefix_duplicates, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(first_blocks_of_one_hash_are_told_apart) {
    expect_apart(FIXTURE_BLOCK);
}

/* Behind parents of one hash equal blocks have one hash too, and yet each belongs to its own. */
TEST(equal_blocks_behind_parents_of_one_hash_are_told_apart) {
    expect_apart(2 * FIXTURE_BLOCK);
}
