/* test_compact.c - blocks move together: which, when, how many, and who must not notice. */
#include "unit.h"

#include "api/arena_fixture.h"

enum { PIECES = 12 };

/* An arena of extents of eight blocks, so that there is something to move between. */
struct yard {
    pkv_arena* arena;
    pkv_cache* cache;
    pkv_seq seqs[PIECES];
    uint32_t tokens[PIECES][FIXTURE_TOKENS_MAX];
    uint32_t counts[PIECES];
};

static void yard_open(struct yard* y, uint32_t extents) {
    *y = (struct yard){.arena = arena_open(extents)};
    pkv_config config = member_config(y->arena, 1);
    config.host_blocks = 32;
    config.plan_sequences_max = 3; /* copies go in several batches */
    y->cache = fixture_create(&config);
}

static void yard_close(struct yard* y) {
    fixture_check(y->cache);
    pkv_cache_destroy(y->cache);
    ASSERT_OK(pkv_arena_destroy(y->arena));
}

/* Sequence `index` of `blocks` blocks, whose texts all differ. */
static void yard_add(struct yard* y, uint32_t index, uint32_t blocks) {
    const uint32_t count = blocks * FIXTURE_BLOCK;
    y->seqs[index] = fixture_seq(y->cache, 0);
    y->counts[index] = count;
    fixture_tokens(y->tokens[index], count, 1 + 500 * index);
    fixture_extend(y->cache, y->seqs[index], y->tokens[index], count);
}

static void yard_expect(struct yard* y, uint32_t index) {
    fixture_expect(y->cache, y->seqs[index], y->tokens[index], y->counts[index]);
}

/* Its blocks stay cached. */
static void yard_remove(struct yard* y, uint32_t index) {
    ASSERT_OK(pkv_seq_free(y->cache, y->seqs[index]));
    y->seqs[index].id = 0;
}

static uint32_t held(struct yard* y) {
    return fixture_stats(y->cache).extents_used;
}

static uint32_t compact(struct yard* y, uint32_t max_moves) {
    uint32_t moved = 99;
    const uint32_t before = held(y);
    ASSERT_OK(pkv_cache_compact(y->cache, max_moves, &moved));
    ASSERT_LE(moved, max_moves);
    ASSERT_EQ(held(y) < before, moved > 0);
    fixture_check(y->cache);
    return moved;
}

static uint32_t block_of(struct yard* y, uint32_t index, uint32_t page) {
    uint32_t block;
    ASSERT_OK(pkv_seq_blocks(y->cache, y->seqs[index], 0, page, page + 1, &block));
    return block;
}

/* Three extents in use: 0 by six blocks of sequence 1, 1 by two of 3, 2 by one of 5. Sequences
 * without ids leave nothing in the index when they end. */
static void three_extents(struct yard* y) {
    const uint32_t kept[] = {6, 2, 1};
    yard_open(y, 4);
    for (uint32_t i = 0; i < 3; i++) {
        yard_add(y, 2 * i + 1, kept[i]);
        y->seqs[2 * i] = fixture_seq(y->cache, 0);
        ASSERT_OK(reserve(y->cache, y->seqs[2 * i], A_BLOCKS - kept[i]));
    }
    for (uint32_t i = 0; i < 3; i++)
        ASSERT_OK(pkv_seq_free(y->cache, y->seqs[2 * i]));
    ASSERT_EQ(held(y), 3);
    fixture_check(y->cache);
}

TEST(the_emptiest_extents_give_to_the_fullest) {
    struct yard y;
    three_extents(&y);
    const uint32_t first = block_of(&y, 1, 0);
    const uint32_t middle = block_of(&y, 3, 0);
    ASSERT_EQ(compact(&y, 100), 1); /* the two of extent 1 do not fit beside it */
    ASSERT_EQ(held(&y), 2);
    ASSERT_EQ(block_of(&y, 1, 0), first);
    ASSERT_EQ(block_of(&y, 3, 0), middle);
    ASSERT_EQ(block_of(&y, 5, 0) / A_BLOCKS, first / A_BLOCKS);
    ASSERT_EQ(fixture_stats(y.cache).blocks_moved, 1);
    ASSERT_EQ(fixture_stats(y.cache).extents_emptied, 1);
    for (uint32_t i = 1; i < 6; i += 2)
        yard_expect(&y, i);
    ASSERT_EQ(compact(&y, 100), 0); /* 7 and 2: nothing more to gain */
    yard_close(&y);
}

TEST(the_trace_says_what_moved_where) {
    struct yard y;
    pkv_trace_event events[2];
    uint32_t count;
    three_extents(&y);
    const uint32_t before = block_of(&y, 5, 0);
    ASSERT_EQ(compact(&y, 100), 1);
    ASSERT_OK(pkv_trace_read(y.cache, events, 2, &count));
    ASSERT_EQ(count, 2);
    ASSERT_STR(events[0].what, "cache.move");
    ASSERT_EQ(events[0].subject, before);
    ASSERT_EQ(events[0].detail, block_of(&y, 5, 0));
    ASSERT_STR(events[1].what, "cache.compact");
    yard_close(&y);
}

TEST(nothing_moves_that_frees_no_extent) {
    struct yard y;
    three_extents(&y);
    yard_add(&y, 7, 3); /* somewhere beside the others */
    const uint32_t before = held(&y);
    ASSERT_EQ(compact(&y, 0), 0);
    ASSERT_EQ(held(&y), before);
    while (compact(&y, 3) > 0)
        continue;
    ASSERT_EQ(held(&y), 2); /* for twelve blocks */
    for (uint32_t i = 1; i < 6; i += 2)
        yard_expect(&y, i);
    yard_close(&y);
}

/* A fork, cached blocks and their children, and a hit afterwards: all of it follows. */
TEST(all_who_name_a_block_follow_it) {
    struct yard y;
    uint32_t matched;
    pkv_seq child;
    yard_open(&y, 6);
    yard_add(&y, 0, 7);
    yard_add(&y, 1, 1);
    y.seqs[2] = fixture_seq(y.cache, 0);
    ASSERT_OK(reserve(y.cache, y.seqs[2], A_BLOCKS - 3));
    yard_add(&y, 3, 3); /* in the second extent */
    ASSERT_OK(pkv_seq_free(y.cache, y.seqs[2]));
    ASSERT_OK(pkv_seq_fork(y.cache, y.seqs[3], &child));
    ASSERT_OK(pkv_seq_free(y.cache, y.seqs[3]));
    yard_remove(&y, 0); /* its seven blocks are cached, one is active */
    y.seqs[4] = fixture_seq(y.cache, 0);
    ASSERT_OK(reserve(y.cache, y.seqs[4], A_BLOCKS + 5));
    ASSERT_OK(pkv_seq_truncate(y.cache, y.seqs[4], 0));
    const uint32_t before = held(&y);
    const uint32_t cached = fixture_stats(y.cache).blocks_cached;
    while (compact(&y, 100) > 0)
        continue;
    ASSERT_LE(held(&y), before);
    ASSERT_EQ(fixture_stats(y.cache).blocks_cached, cached);
    y.seqs[3] = child;
    yard_expect(&y, 3);
    yard_expect(&y, 1);
    y.seqs[0] = fixture_seq(y.cache, 0);
    ASSERT_OK(pkv_seq_match(y.cache, y.seqs[0], y.tokens[0], y.counts[0], &matched));
    ASSERT_EQ(matched, y.counts[0]);
    yard_expect(&y, 0);
    yard_close(&y);
}

/* Cached blocks go in the same order as before. */
TEST(the_order_of_eviction_stays) {
    struct yard y;
    uint32_t matched;
    three_extents(&y);
    for (uint32_t i = 5; i < 6; i -= 2)
        ASSERT_OK(pkv_seq_free(y.cache, y.seqs[i])); /* 5 first, then 3, then 1 */
    ASSERT_EQ(fixture_stats(y.cache).blocks_cached, 9);
    ASSERT_EQ(compact(&y, 100), 1);
    const uint32_t free = fixture_stats(y.cache).blocks_free;
    ASSERT_OK(reserve(y.cache, fixture_seq(y.cache, 0), free + 3));
    for (uint32_t i = 1; i < 6; i += 2) {
        const pkv_seq seq = fixture_seq(y.cache, 0);
        ASSERT_OK(pkv_seq_match(y.cache, seq, y.tokens[i], y.counts[i], &matched));
        ASSERT_EQ(matched, i == 1 ? y.counts[i] : 0);
    }
    yard_close(&y);
}

/* Policies keep cached blocks on lists of their own, which moves must not break. */
TEST(the_lists_of_every_policy_follow) {
    static const char* const policies[] = {"reuse", "lru",    "fifo", "lfu",
                                           "slru",  "s3fifo", "arc",  "greedydual"};
    for (uint32_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        pkv_arena* arena = arena_open(8);
        pkv_config config = member_config(arena, 1);
        config.eviction = policies[p];
        pkv_cache* cache = fixture_create(&config);
        uint32_t moves = 0;
        for (uint32_t i = 0; i < 200; i++) { /* of one block to six, some used again */
            uint32_t moved;
            leave_cached(cache, 1 + i % 6, 1 + 50 * (i * i % 31));
            if (i % 10 != 9) continue;
            const pkv_seq hole = fixture_seq(cache, 0);
            ASSERT_OK(reserve(cache, hole, fixture_stats(cache).blocks_free + 9));
            ASSERT_OK(pkv_seq_free(cache, hole));
            ASSERT_OK(pkv_cache_compact(cache, 100, &moved));
            moves += moved;
            fixture_check(cache);
        }
        ASSERT_GT(moves, 20);
        pkv_cache_destroy(cache);
        ASSERT_OK(pkv_arena_destroy(arena));
    }
}

/* ---- Who stays ------------------------------------------------------------------------------- */

TEST(blocks_of_open_plans_stay) {
    struct yard y;
    pkv_plan plan;
    pkv_plan_info info;
    three_extents(&y);
    const uint32_t token = 7;
    const pkv_entry entry = {y.seqs[5], &token, 1};
    ASSERT_OK(pkv_plan_begin(y.cache, &entry, 1, &plan));
    const uint32_t block = block_of(&y, 5, 0);
    ASSERT_EQ(compact(&y, 100), 2); /* the two of extent 1 move to it instead */
    ASSERT_EQ(block_of(&y, 5, 0), block);
    ASSERT_OK(pkv_plan_get_info(y.cache, plan, 0, &info));
    ASSERT_EQ(info.block_table[0], block);
    ASSERT_OK(fixture_write(y.cache, plan, &token));
    ASSERT_OK(pkv_plan_commit(y.cache, plan));
    y.tokens[5][y.counts[5]++] = token;
    for (uint32_t i = 1; i < 6; i += 2)
        yard_expect(&y, i);
    yard_close(&y);
}

/* A full extent can become empty too, when those that stay have room for all of it. */
TEST(a_full_extent_goes_where_blocks_stay) {
    struct yard y;
    const uint32_t tokens[] = {7, 8};
    pkv_plan plan;
    yard_open(&y, 4);
    yard_add(&y, 0, 3);
    const pkv_seq first = fixture_seq(y.cache, 0);
    ASSERT_OK(reserve(y.cache, first, A_BLOCKS - 3));
    yard_add(&y, 1, A_BLOCKS);
    yard_add(&y, 2, 3);
    ASSERT_OK(pkv_seq_free(y.cache, first));
    const pkv_entry entries[] = {{y.seqs[0], &tokens[0], 1}, {y.seqs[2], &tokens[1], 1}};
    ASSERT_OK(pkv_plan_begin(y.cache, entries, 2, &plan));
    ASSERT_EQ(held(&y), 3);
    ASSERT_EQ(compact(&y, A_BLOCKS - 1), 0);
    ASSERT_EQ(compact(&y, A_BLOCKS), A_BLOCKS);
    ASSERT_EQ(held(&y), 2);
    ASSERT_OK(pkv_plan_abort(y.cache, plan));
    for (uint32_t i = 0; i < 3; i++)
        yard_expect(&y, i);
    yard_close(&y);
}

/* The rows of the next plan show where blocks are now. */
TEST(the_next_plan_sees_the_new_blocks) {
    struct yard y;
    three_extents(&y);
    for (uint32_t round = 0; round < 2; round++) {
        const uint32_t tokens[] = {7 + round, 8 + round};
        const pkv_entry entries[] = {{y.seqs[3], &tokens[0], 1}, {y.seqs[5], &tokens[1], 1}};
        pkv_plan plan;
        pkv_plan_info info;
        ASSERT_OK(pkv_plan_begin(y.cache, entries, 2, &plan));
        ASSERT_OK(pkv_plan_get_info(y.cache, plan, 0, &info));
        for (uint32_t page = 0; page < 3; page++)
            ASSERT_EQ(info.block_table[page], block_of(&y, 3, page));
        for (uint32_t page = 0; page < 2; page++)
            ASSERT_EQ(info.block_table[info.table_stride + page], block_of(&y, 5, page));
        ASSERT_OK(fixture_write(y.cache, plan, tokens));
        ASSERT_OK(pkv_plan_commit(y.cache, plan));
        y.tokens[3][y.counts[3]++] = tokens[0];
        y.tokens[5][y.counts[5]++] = tokens[1];
        if (round == 0) ASSERT_GT(compact(&y, 100), 0);
    }
    yard_expect(&y, 3);
    yard_expect(&y, 5);
    yard_close(&y);
}

TEST(slots_that_the_caller_knows_stay) {
    struct yard y;
    uint32_t slots[6];
    three_extents(&y);
    ASSERT_OK(pkv_seq_append(y.cache, y.seqs[5], NULL, 6, slots));
    compact(&y, 100);
    ASSERT_EQ(block_of(&y, 5, 1) * FIXTURE_BLOCK, slots[0]);
    ASSERT_EQ(block_of(&y, 5, 2) * FIXTURE_BLOCK, slots[4]);
    ASSERT_OK(pkv_seq_truncate(y.cache, y.seqs[5], FIXTURE_BLOCK));
    yard_expect(&y, 5);
    yard_close(&y);
}

TEST(blocks_on_their_way_stay) {
    struct yard y;
    pkv_transfer transfer;
    three_extents(&y);
    ASSERT_OK(pkv_seq_swap_out(y.cache, y.seqs[5], &transfer));
    ASSERT_EQ(compact(&y, 100), 2);
    ASSERT_OK(pkv_transfer_wait(y.cache, transfer));
    ASSERT_OK(pkv_seq_swap_in(y.cache, y.seqs[5], &transfer));
    compact(&y, 100);
    ASSERT_OK(pkv_transfer_wait(y.cache, transfer));
    for (uint32_t i = 1; i < 6; i += 2)
        yard_expect(&y, i);
    yard_close(&y);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

/* The Nth copy fails, in every way: nothing has moved, and the next call does it. */
TEST(a_move_that_fails_has_not_begun) {
    static const char* const points[] = {
        "device.copy.submit=%u*off->1*return(EIO)",
        "device.copy.done=%u*off->1*return(EIO)",
        "device.copy.done=%u*off->1*drop",
        "device.copy.done=%u*off->1*corrupt(3)",
        "device.copy.done=%u*off->1*delay(9)->1*drop",
    };
    for (size_t point = 0; point < sizeof points / sizeof *points; point++) {
        for (uint32_t n = 1; n < 7; n++) {
            struct yard y;
            char spec[100];
            uint32_t moved = 99;
            three_extents(&y);
            yard_add(&y, 7, 3);
            yard_add(&y, 9, 7);
            yard_remove(&y, 1);
            pkv_seq hole = fixture_seq(y.cache, 0);
            ASSERT_OK(reserve(y.cache, hole, 1));
            snprintf(spec, sizeof spec, points[point], n);
            if (pkv_faults_set(y.cache, spec, n) == PKV_ENOTSUP)
                SKIP("this build has no fault points");
            const pkv_report before = fixture_check(y.cache);
            const uint32_t extents = held(&y);
            const int status = pkv_cache_compact(y.cache, 100, &moved);
            const pkv_report after = fixture_check(y.cache);
            if (status != PKV_OK) {
                ASSERT(status == PKV_EIO || status == PKV_ETIMEDOUT);
                ASSERT_EQ(moved, 99);
                ASSERT_EQ(after.sequences_digest, before.sequences_digest);
                ASSERT_EQ(held(&y), extents);
            }
            ASSERT_OK(pkv_faults_set(y.cache, "", 0));
            compact(&y, 100);
            for (uint32_t i = 3; i < 10; i += 2)
                yard_expect(&y, i);
            yard_close(&y);
        }
    }
}

TEST(null_is_refused) {
    struct yard y;
    uint32_t moved;
    yard_open(&y, 1);
    ASSERT_STATUS(pkv_cache_compact(NULL, 1, &moved), PKV_EINVAL);
    ASSERT_STATUS(pkv_cache_compact(y.cache, 1, NULL), PKV_EINVAL);
    ASSERT_EQ(compact(&y, 5), 0); /* there is nothing */
    yard_close(&y);
}

/* ---- For others ------------------------------------------------------------------------------ */

TEST(another_model_gets_what_was_emptied) {
    struct yard y;
    three_extents(&y);
    pkv_cache* other = member_open(y.arena, B_HEADS);
    const pkv_seq seq = fixture_seq(other, 0);
    ASSERT_OK(reserve(other, seq, B_BLOCKS));
    ASSERT_STATUS(reserve(other, seq, 1), PKV_ENOBLOCKS);
    ASSERT_EQ(compact(&y, 1), 1);
    ASSERT_OK(reserve(other, seq, 1));
    fixture_check(other);
    pkv_cache_destroy(other);
    yard_close(&y);
}
