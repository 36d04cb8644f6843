/* test_tree.c - token trees: where their tokens stand, which path is kept, and what is left of the
 * others. */
#include "unit.h"

#include "api/typed.h"
#include <math.h>

enum { NO = PKV_NO_PARENT };

/*   row      0   1   2   3   4   5            0 - 1 - 2
 *   depth    0   1   2   1   2   2             \_ 3 - 4
 *                                                  \_ 5  */
static const uint32_t parents[6] = {NO, 0, 1, 0, 3, 3};
static const uint32_t ids[6] = {10, 11, 12, 13, 14, 15};
static const uint32_t branch[3] = {0, 3, 5};
static const uint32_t kept[3] = {10, 13, 15};

static int begin(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, const uint32_t* tree,
                 uint32_t count, pkv_plan* plan) {
    const pkv_entry entry = {seq, tokens, count};
    return pkv_plan_begin_trees(cache, &entry, &tree, 1, plan);
}

static pkv_plan begin_written(pkv_cache* cache, pkv_seq seq) {
    pkv_plan plan;
    ASSERT_OK(begin(cache, seq, ids, parents, 6, &plan));
    ASSERT_OK(fixture_write(cache, plan, ids));
    return plan;
}

static int accept(pkv_cache* cache, pkv_plan plan, const uint32_t* rows, uint32_t count) {
    const pkv_path path = {rows, count};
    return pkv_plan_accept(cache, plan, &path, 1);
}

static uint32_t match(pkv_cache* cache, const uint32_t* tokens, uint32_t count) {
    uint32_t matched;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, count, &matched));
    ASSERT_OK(pkv_seq_free(cache, seq));
    return matched;
}

/* ---- Begin ----------------------------------------------------------------------------------- */

TEST(positions_go_by_depth_and_slots_by_row) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t stem[5] = {1, 2, 3, 4, 5};
    const uint32_t want[6] = {5, 6, 7, 6, 7, 7};
    pkv_plan_info info;
    fixture_extend(cache, seq, stem, 5);
    const pkv_plan plan = begin_written(cache, seq);
    ASSERT_OK(pkv_plan_get_info(cache, plan, 0, &info));
    ASSERT_EQ(info.lengths[0], 11);
    for (uint32_t i = 0; i < 6; i++) {
        const uint32_t block = info.block_table[(5 + i) / FIXTURE_BLOCK];
        ASSERT_EQ(info.positions[i], want[i]);
        ASSERT_EQ(info.slots[i], block * FIXTURE_BLOCK + (5 + i) % FIXTURE_BLOCK);
    }
    fixture_check(cache);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    fixture_expect(cache, seq, stem, 5);
    pkv_cache_destroy(cache);
}

TEST(what_is_no_tree_is_refused) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t itself[2] = {NO, 1};
    const uint32_t later[3] = {NO, 2, 0};
    const uint32_t root[1] = {0};
    static uint32_t wide[PKV_TREE_TOKENS_MAX + 1];
    pkv_plan plan;
    for (uint32_t i = 0; i <= PKV_TREE_TOKENS_MAX; i++)
        wide[i] = NO;
    ASSERT_STATUS(begin(cache, seq, ids, itself, 2, &plan), PKV_EINVAL);
    ASSERT_STATUS(begin(cache, seq, ids, later, 3, &plan), PKV_EINVAL);
    ASSERT_STATUS(begin(cache, seq, ids, root, 1, &plan), PKV_EINVAL);
    ASSERT_STATUS(begin(cache, seq, NULL, wide, PKV_TREE_TOKENS_MAX + 1, &plan), PKV_ETOOBIG);
    const pkv_entry entry = {seq, ids, 6};
    const uint32_t* const tree = parents;
    ASSERT_STATUS(pkv_plan_begin_trees(NULL, &entry, &tree, 1, &plan), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_begin_trees(cache, NULL, &tree, 1, &plan), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_begin_trees(cache, &entry, NULL, 1, &plan), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_begin_trees(cache, &entry, &tree, 1, NULL), PKV_EINVAL);
    ASSERT_EQ(fixture_stats(cache).plans, 0);
    pkv_cache_destroy(cache);
}

TEST(a_tree_that_is_a_chain_is_one) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t chain[4] = {NO, 0, 1, 2};
    pkv_plan plan;
    ASSERT_OK(begin(cache, seq, ids, chain, 4, &plan));
    ASSERT_OK(fixture_write(cache, plan, ids));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    fixture_expect(cache, seq, ids, 4);
    ASSERT_EQ(match(cache, ids, 4), 4);
    pkv_cache_destroy(cache);
}

/* ---- Accept ---------------------------------------------------------------------------------- */

TEST(a_path_is_moved_and_the_rest_is_free_at_once) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_plan plan = begin_written(cache, seq);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_OK(accept(cache, plan, branch, 3));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 1);
    ASSERT_EQ(fixture_stats(cache).blocks_free, 15);
    ASSERT_EQ(fixture_stats(cache).tokens_committed, 3);
    ASSERT_EQ(fixture_stats(cache).tokens_rejected, 3);
    ASSERT_EQ(fixture_stats(cache).plans_committed, 1);
    fixture_expect(cache, seq, kept, 3);
    fixture_check(cache);
    ASSERT_STATUS(pkv_plan_abort(cache, plan), PKV_ESTALE);
    pkv_cache_destroy(cache);
}

TEST(only_the_path_is_cached) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t stem[2] = {1, 2};
    const uint32_t next[3] = {20, 21, 22};
    const uint32_t text[8] = {1, 2, 10, 13, 15, 20, 21, 22};
    const uint32_t other[8] = {1, 2, 10, 11, 12, 13, 14, 15};
    fixture_extend(cache, seq, stem, 2);
    ASSERT_OK(accept(cache, begin_written(cache, seq), branch, 3));
    ASSERT_EQ(match(cache, other, 8), 3); /* up to where the path leaves it */
    ASSERT_EQ(match(cache, text, 8), 4);
    fixture_extend(cache, seq, next, 3);
    ASSERT_EQ(match(cache, text, 8), 8);
    fixture_expect(cache, seq, text, 8);
    pkv_cache_destroy(cache);
}

TEST(unknown_ids_stay_unknown) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    pkv_plan plan;
    ASSERT_OK(begin(cache, seq, NULL, parents, 6, &plan));
    ASSERT_OK(fixture_write(cache, plan, ids));
    ASSERT_OK(accept(cache, plan, branch, 3));
    fixture_expect(cache, seq, kept, 3);
    fixture_extend(cache, seq, ids, 5);
    ASSERT_EQ(fixture_stats(cache).prefix_inserts, 0);
    pkv_cache_destroy(cache);
}

TEST(the_first_tokens_of_a_chain_need_no_move) {
    pkv_config config = fixture_config();
    config.faults = "device.move=return(EIO)";
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t first[2] = {0, 1};
    const pkv_entry entry = {seq, ids, 6};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, ids));
    ASSERT_OK(accept(cache, plan, NULL, 5));
    fixture_expect(cache, seq, ids, 5);
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, ids));
    ASSERT_OK(accept(cache, plan, first, 2));
    fixture_expect(cache, seq, (const uint32_t[]){10, 11, 12, 13, 14, 10, 11}, 7);
    ASSERT_EQ(match(cache, (const uint32_t[]){10, 11, 12, 13, 14, 15, 10, 11}, 8), 4);
    pkv_cache_destroy(cache);
}

TEST(an_empty_path_takes_everything_back) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t stem[3] = {1, 2, 3};
    fixture_extend(cache, seq, stem, 3);
    ASSERT_OK(accept(cache, begin_written(cache, seq), NULL, 0));
    fixture_expect(cache, seq, stem, 3);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 1);
    ASSERT_EQ(fixture_stats(cache).tokens_rejected, 6);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(what_is_no_path_is_refused) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t wrong[][3] = {{3, 5, 5}, {0, 5, 5}, {0, 1, 4}, {0, 3, 6}, {0, 0, 3}};
    const pkv_path paths[2] = {{branch, 3}, {branch, 3}};
    const pkv_plan plan = begin_written(cache, seq);
    ASSERT_STATUS(pkv_plan_commit(cache, plan), PKV_EINVAL);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        ASSERT_STATUS(accept(cache, plan, wrong[i], 3), PKV_EINVAL);
    ASSERT_STATUS(accept(cache, plan, NULL, 4), PKV_EINVAL); /* 3 is no child of 2 */
    ASSERT_STATUS(accept(cache, plan, NULL, 7), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_accept(cache, plan, paths, 2), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_accept(cache, plan, NULL, 1), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_accept(NULL, plan, paths, 1), PKV_EINVAL);
    ASSERT_STATUS(accept(cache, (pkv_plan){7}, branch, 3), PKV_ESTALE);
    ASSERT_OK(accept(cache, plan, branch, 3));
    fixture_expect(cache, seq, kept, 3);
    pkv_cache_destroy(cache);
}

TEST(a_move_that_fails_changes_nothing) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_plan plan = begin_written(cache, seq);
    const pkv_report before = fixture_check(cache);
    ASSERT_OK(pkv_faults_set(cache, "device.move=2*return(EIO)", 1));
    ASSERT_STATUS(accept(cache, plan, branch, 3), PKV_EIO);
    ASSERT_STATUS(accept(cache, plan, branch, 3), PKV_EIO);
    const pkv_report after = fixture_check(cache);
    ASSERT_EQ(before.cache_digest, after.cache_digest);
    ASSERT_EQ(fixture_stats(cache).tokens_rejected, 0);
    ASSERT_OK(accept(cache, plan, branch, 3));
    fixture_expect(cache, seq, kept, 3);
    pkv_cache_destroy(cache);
}

/* A tree over the shared, partly filled last block of a fork: the other keeps what it had. */
TEST(a_fork_is_not_touched) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t stem[6] = {1, 2, 3, 4, 5, 6};
    pkv_seq child;
    fixture_extend(cache, seq, stem, 6);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    ASSERT_OK(accept(cache, begin_written(cache, seq), branch, 3));
    fixture_expect(cache, child, stem, 6);
    fixture_expect(cache, seq, (const uint32_t[]){1, 2, 3, 4, 5, 6, 10, 13, 15}, 9);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* ---- Stored bits ----------------------------------------------------------------------------- */

static void write_typed(struct typed t, pkv_plan plan, const uint32_t* tokens, uint32_t count) {
    static float k[TYPED_TOKENS_MAX][TYPED_HEADS][TYPED_K_DIM];
    static float v[TYPED_TOKENS_MAX][TYPED_HEADS][TYPED_V_DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    for (uint32_t layer = 0; layer < TYPED_LAYERS; layer++) {
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t head = 0; head < TYPED_HEADS; head++) {
                row_fill(t.group.k_dtype, row_key(tokens[i], layer, head, false), k[i][head],
                         TYPED_K_DIM);
                row_fill(t.group.v_dtype, row_key(tokens[i], layer, head, true), v[i][head],
                         TYPED_V_DIM);
            }
        ASSERT_OK(pkv_write(t.cache, plan, layer, &k_array, &v_array));
    }
}

/* From the middle of a block over its end, so that tokens change their lanes, tiles and blocks. */
static void keep_a_path(struct typed t) {
    enum { STEM = 13, NODES = 24, PATH = 10 };
    uint32_t tokens[STEM + NODES];
    uint32_t tree[NODES] = {NO, NO};
    uint32_t rows[PATH];
    uint32_t text[STEM + PATH];
    pkv_plan plan;
    typed_tokens(tokens, STEM + NODES, 1);
    for (uint32_t i = 2; i < NODES; i++)
        tree[i] = i - 2;
    for (uint32_t i = 0; i < STEM; i++)
        text[i] = tokens[i];
    for (uint32_t i = 0; i < PATH; i++) {
        rows[i] = 2 * i + 1;
        text[STEM + i] = tokens[STEM + rows[i]];
    }
    const pkv_seq seq = fixture_seq(t.cache, 0);
    typed_extend(t, seq, tokens, STEM);
    ASSERT_OK(begin(t.cache, seq, tokens + STEM, tree, NODES, &plan));
    write_typed(t, plan, tokens + STEM, NODES);
    ASSERT_OK(accept(t.cache, plan, rows, PATH));
    typed_expect(t, seq, text, STEM + PATH);
    ASSERT_EQ(fixture_stats(t.cache).blocks_active, 2);
}

TEST(a_move_keeps_every_bit_of_every_type) {
    typed_for_all(keep_a_path);
    static const char* const devices[] = {"sim", "cpu"};
    for (uint32_t i = 0; i < 2 * 3; i++) {
        const struct typed t = typed_open(devices[i % 2], i / 2, i / 2, TYPED_BLOCK, false);
        keep_a_path(t);
        pkv_cache_destroy(t.cache);
    }
}

/* ---- Attention ------------------------------------------------------------------------------- */

enum { ROWS = 6, DIM = FIXTURE_DIM };

struct rows {
    float cells[ROWS][DIM];
};

/* K, V and q of a token by its id. */
static struct rows rows_of(const uint32_t* tokens, uint32_t count, uint32_t kind) {
    struct rows rows;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t d = 0; d < DIM; d++)
            rows.cells[i][d] = sinf((float)(tokens[i] * 31 + d * 7 + kind * 13));
    return rows;
}

static struct rows attend_plan(pkv_cache* cache, pkv_plan plan, const uint32_t* tokens,
                               uint32_t count) {
    struct rows k = rows_of(tokens, count, 0);
    struct rows v = rows_of(tokens, count, 1);
    struct rows q = rows_of(tokens, count, 2);
    struct rows out;
    const pkv_array k_array = {.data = k.cells};
    const pkv_array v_array = {.data = v.cells};
    ASSERT_OK(pkv_write(cache, plan, 0, &k_array, &v_array));
    const pkv_attention attention = {
        .q = {.data = q.cells}, .out = {.data = out.cells}, .query_heads = 1};
    ASSERT_OK(pkv_attend(cache, plan, 0, &attention));
    return out;
}

static pkv_cache* open_window(const char* device, uint32_t window, uint32_t sinks) {
    pkv_config config = fixture_config();
    config.device = device;
    config.groups[0].window = window;
    config.groups[0].sinks = sinks;
    return fixture_create(&config);
}

static pkv_seq open_stem(pkv_cache* cache) {
    static const uint32_t stem[5] = {1, 2, 3, 4, 5};
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_entry entry = {seq, stem, 5};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    attend_plan(cache, plan, stem, 5);
    ASSERT_OK(pkv_plan_commit(cache, plan));
    return seq;
}

/* Each path of the tree as a chain by itself has the same output. */
static void compare_with_chains(const char* device, uint32_t window, uint32_t sinks) {
    static const uint32_t paths[3][3] = {{0, 1, 2}, {0, 3, 4}, {0, 3, 5}};
    pkv_cache* cache = open_window(device, window, sinks);
    pkv_plan plan;
    const pkv_seq seq = open_stem(cache);
    ASSERT_OK(begin(cache, seq, ids, parents, 6, &plan));
    const struct rows tree = attend_plan(cache, plan, ids, 6);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    for (uint32_t path = 0; path < 3; path++) {
        uint32_t tokens[3];
        for (uint32_t i = 0; i < 3; i++)
            tokens[i] = ids[paths[path][i]];
        const pkv_seq chain = open_stem(cache);
        const pkv_entry entry = {chain, tokens, 3};
        ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
        const struct rows want = attend_plan(cache, plan, tokens, 3);
        ASSERT_OK(pkv_plan_abort(cache, plan));
        for (uint32_t i = 0; i < 3; i++)
            for (uint32_t d = 0; d < DIM; d++)
                ASSERT_NEAR(tree.cells[paths[path][i]][d], want.cells[i][d], 1e-6);
    }
    pkv_cache_destroy(cache);
}

TEST(a_row_of_a_tree_sees_what_its_path_would) {
    static const char* const devices[] = {"sim", "cpu"};
    for (uint32_t i = 0; i < 2; i++) {
        compare_with_chains(devices[i], 0, 0);
        compare_with_chains(devices[i], 2, 0);
        compare_with_chains(devices[i], 3, 2);
        compare_with_chains(devices[i], 1, 7);
    }
}

TEST(a_chain_beside_a_tree_has_the_same_bits) {
    pkv_cache* cache = open_window("cpu", 0, 0);
    const uint32_t* const trees[2] = {parents, NULL};
    pkv_plan plan;
    const pkv_entry entries[2] = {{open_stem(cache), ids, 3}, {open_stem(cache), ids + 3, 3}};
    ASSERT_OK(pkv_plan_begin(cache, entries, 2, &plan));
    const struct rows alone = attend_plan(cache, plan, ids, 6);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    const uint32_t fan[3] = {NO, 0, 0};
    const uint32_t* const fans[2] = {fan, trees[1]};
    ASSERT_OK(pkv_plan_begin_trees(cache, entries, fans, 2, &plan));
    const struct rows beside = attend_plan(cache, plan, ids, 6);
    ASSERT(memcmp(alone.cells[3], beside.cells[3], 3 * sizeof *alone.cells) == 0);
    ASSERT(memcmp(alone.cells[2], beside.cells[2], sizeof *alone.cells) != 0);
    const pkv_path ends[2] = {{(const uint32_t[]){0, 2}, 2}, {NULL, 3}};
    ASSERT_OK(pkv_plan_accept(cache, plan, ends, 2));
    ASSERT_EQ(fixture_info(cache, entries[0].seq).length, 7);
    ASSERT_EQ(fixture_info(cache, entries[1].seq).length, 8);
    pkv_cache_destroy(cache);
}

/* ---- Chains of guesses without trees --------------------------------------------------------- */

TEST(truncation_frees_the_blocks_of_rejected_guesses_at_once) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 0);
    uint32_t tokens[11];
    fixture_tokens(tokens, 11, 1);
    const pkv_entry entry = {seq, NULL, 11}; /* guesses have no ids: they are not to be cached */
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(fixture_write(cache, plan, tokens));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
    ASSERT_OK(pkv_seq_truncate(cache, seq, 4));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 1);
    ASSERT_EQ(fixture_stats(cache).blocks_free, 15);
    fixture_expect(cache, seq, tokens, 4);
    pkv_cache_destroy(cache);
}
