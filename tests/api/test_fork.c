/* test_fork.c - forks share everything until one of them is written to. */
#include "unit.h"

#include "api/fixture.h"

static pkv_seq fork_of(pkv_cache* cache, pkv_seq seq) {
    pkv_seq child;
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    return child;
}

TEST(a_fork_takes_no_blocks) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[10];
    fixture_tokens(tokens, 10, 1);
    const pkv_seq seq = fixture_seq(cache, 5);
    fixture_extend(cache, seq, tokens, 10);
    const pkv_seq child = fork_of(cache, seq);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
    ASSERT_EQ(fixture_stats(cache).forks, 1);
    ASSERT_EQ(fixture_info(cache, child).tenant, 5);
    fixture_expect(cache, child, tokens, 10);
    pkv_cache_destroy(cache);
}

TEST(forks_go_their_own_ways) {
    pkv_cache* cache = fixture_open();
    const uint32_t left[8] = {1, 2, 3, 4, 5, 6, 70, 80};
    const uint32_t right[8] = {1, 2, 3, 4, 5, 6, 700, 800};
    const pkv_seq a = fixture_seq(cache, 0);
    fixture_extend(cache, a, left, 6);
    const pkv_seq b = fork_of(cache, a);
    fixture_extend(cache, a, left + 6, 2);
    fixture_extend(cache, b, right + 6, 2);
    fixture_expect(cache, a, left, 8);
    fixture_expect(cache, b, right, 8);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
    pkv_cache_destroy(cache);
}

TEST(of_two_forks_in_one_plan_the_last_keeps_the_block) {
    pkv_cache* cache = fixture_open();
    const uint32_t stem[2] = {1, 2};
    const uint32_t ends[2] = {30, 40};
    const pkv_seq a = fixture_seq(cache, 0);
    fixture_extend(cache, a, stem, 2);
    const pkv_seq b = fork_of(cache, a);
    const pkv_entry entries[2] = {{a, &ends[0], 1}, {b, &ends[1], 1}};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, entries, 2, &plan));
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_OK(fixture_write(cache, plan, ends));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    fixture_expect(cache, a, (const uint32_t[]){1, 2, 30}, 3);
    fixture_expect(cache, b, (const uint32_t[]){1, 2, 40}, 3);
    pkv_cache_destroy(cache);
}

/* The last of the entries is shorter than the others, and writes over what they have copied. A fork
 * that is in no plan keeps the block too, and then all copy it. */
static void fork_and_write_all(bool with_bystander, uint64_t copies) {
    pkv_cache* cache = fixture_open();
    const uint32_t stem[3] = {1, 2, 3};
    const uint32_t ends[3] = {30, 40, 50};
    const pkv_seq a = fixture_seq(cache, 0);
    fixture_extend(cache, a, stem, 3);
    const pkv_seq b = fork_of(cache, a);
    const pkv_seq c = fork_of(cache, a);
    const pkv_seq bystander = with_bystander ? fork_of(cache, b) : (pkv_seq){0};
    ASSERT_OK(pkv_seq_truncate(cache, c, 1));
    const pkv_entry entries[3] = {{a, &ends[0], 1}, {b, &ends[1], 1}, {c, &ends[2], 1}};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, entries, 3, &plan));
    ASSERT_EQ(fixture_stats(cache).cow_copies, copies);
    ASSERT_EQ(fixture_stats(cache).cow_peak, copies);
    ASSERT_OK(fixture_write(cache, plan, ends));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    fixture_expect(cache, a, (const uint32_t[]){1, 2, 3, 30}, 4);
    fixture_expect(cache, b, (const uint32_t[]){1, 2, 3, 40}, 4);
    fixture_expect(cache, c, (const uint32_t[]){1, 50}, 2);
    if (with_bystander) fixture_expect(cache, bystander, stem, 3);
    pkv_cache_destroy(cache);
}

TEST(the_last_writer_keeps_the_block_unless_somebody_else_names_it) {
    fork_and_write_all(false, 2);
    fork_and_write_all(true, 3);
}

static pkv_cache* open_copying_at_forks(uint32_t blocks) {
    pkv_config config = fixture_config();
    config.blocks = blocks;
    config.cow = PKV_COW_FORK;
    return fixture_create(&config);
}

TEST(a_fork_that_copies_leaves_nothing_to_copy) {
    pkv_cache* cache = open_copying_at_forks(16);
    const uint32_t left[8] = {1, 2, 3, 4, 5, 6, 70, 80};
    const uint32_t right[8] = {1, 2, 3, 4, 5, 6, 700, 800};
    const pkv_seq a = fixture_seq(cache, 0);
    fixture_extend(cache, a, left, 6);
    const pkv_seq b = fork_of(cache, a);
    const pkv_stats forked = fixture_stats(cache);
    ASSERT_EQ(forked.cow_copies, 1);
    ASSERT_EQ(forked.cow_peak, 1);
    ASSERT_EQ(forked.cow_bytes, FIXTURE_BLOCK * FIXTURE_DIM * 2 * sizeof(float));
    ASSERT_EQ(forked.blocks_active, 3);
    ASSERT_EQ(forked.blocks_peak, 3);
    fixture_check(cache);
    fixture_extend(cache, a, left + 6, 2);
    fixture_extend(cache, b, right + 6, 2);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    fixture_expect(cache, a, left, 8);
    fixture_expect(cache, b, right, 8);
    fork_of(cache, b); /* full blocks are shared as ever */
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
    pkv_cache_destroy(cache);
}

TEST(a_fork_that_copies_needs_a_block) {
    pkv_cache* cache = open_copying_at_forks(2);
    const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    const pkv_seq a = fixture_seq(cache, 0);
    pkv_seq child = {42};
    fixture_extend(cache, a, tokens, 6);
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(pkv_seq_fork(cache, a, &child), PKV_ENOBLOCKS);
    ASSERT_EQ(child.id, 42);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_OK(pkv_seq_truncate(cache, a, 4));
    ASSERT_OK(pkv_seq_fork(cache, a, &child));
    pkv_cache_destroy(cache);
}

TEST(a_fork_whose_copy_fails_has_not_happened) {
    pkv_cache* cache = open_copying_at_forks(16);
    const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    const pkv_seq a = fixture_seq(cache, 0);
    pkv_seq child = {42};
    fixture_extend(cache, a, tokens, 6);
    const pkv_report before = fixture_check(cache);
    ASSERT_OK(pkv_faults_set(cache, "device.copy.submit=1*return(EIO)", 1));
    ASSERT_STATUS(pkv_seq_fork(cache, a, &child), PKV_EIO);
    ASSERT_OK(pkv_faults_set(cache, "device.copy.done=1*return(EIO)", 1));
    ASSERT_STATUS(pkv_seq_fork(cache, a, &child), PKV_EIO);
    ASSERT_EQ(child.id, 42);
    ASSERT_EQ(fixture_check(cache).sequences_digest, before.sequences_digest);
    ASSERT_EQ(fixture_stats(cache).forks, 0);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
    fixture_expect(cache, fork_of(cache, a), tokens, 6);
    pkv_cache_destroy(cache);
}

TEST(a_full_last_block_is_not_copied) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[5] = {1, 2, 3, 4, 5};
    const pkv_seq a = fixture_seq(cache, 0);
    fixture_extend(cache, a, tokens, 4);
    const pkv_seq b = fork_of(cache, a);
    fixture_extend(cache, b, tokens + 4, 1);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    fixture_expect(cache, a, tokens, 4);
    fixture_expect(cache, b, tokens, 5);
    pkv_cache_destroy(cache);
}

TEST(the_last_of_a_family_frees_the_blocks) {
    pkv_config config = fixture_config();
    config.prefix_off = 1;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[10];
    fixture_tokens(tokens, 10, 1);
    const pkv_seq a = fixture_seq(cache, 0);
    fixture_extend(cache, a, tokens, 10);
    const pkv_seq b = fork_of(cache, a);
    const pkv_seq c = fork_of(cache, b);
    ASSERT_OK(pkv_seq_free(cache, a));
    ASSERT_OK(pkv_seq_free(cache, c));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
    fixture_expect(cache, b, tokens, 10);
    ASSERT_OK(pkv_seq_free(cache, b));
    ASSERT_EQ(fixture_stats(cache).blocks_free, 16);
    ASSERT_EQ(fixture_stats(cache).leaves_free, fixture_stats(cache).leaves_total);
    pkv_cache_destroy(cache);
}

/* Every sequence slot is used, and every table has a leaf of its own in the end. */
TEST(the_default_leaves_are_always_enough) {
    pkv_config config = fixture_config();
    config.sequences_max = 2;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t tokens[3] = {1, 2, 3};
    const pkv_seq a = fixture_seq(cache, 0);
    fixture_extend(cache, a, tokens, 1);
    const pkv_seq b = fork_of(cache, a);
    const pkv_entry entries[2] = {{a, tokens + 1, 1}, {b, tokens + 2, 1}};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, entries, 2, &plan));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    pkv_cache_destroy(cache);
}

TEST(what_cannot_be_forked_is_refused) {
    pkv_cache* cache = fixture_open();
    const uint32_t token = 1;
    pkv_seq child = {42};
    pkv_plan plan;
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, seq, &token, 1, NULL));
    ASSERT_STATUS(pkv_seq_fork(cache, seq, &child), PKV_EBUSY);
    ASSERT_OK(pkv_seq_commit(cache, seq));
    const pkv_entry entry = {seq, &token, 1};
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_STATUS(pkv_seq_fork(cache, seq, &child), PKV_EBUSY);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_STATUS(pkv_seq_fork(cache, seq, NULL), PKV_EINVAL);
    for (uint32_t i = 1; i < 8; i++)
        fork_of(cache, seq);
    ASSERT_STATUS(pkv_seq_fork(cache, seq, &child), PKV_ENOSEQS);
    ASSERT_EQ(child.id, 42);
    pkv_cache_destroy(cache);
}
