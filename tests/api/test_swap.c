/* test_swap.c - sequences that go to the host tier and come back, on the CPU and the simulated
 * device: what is in them afterwards, what the pool and others notice, and what is left when a
 * transfer fails, is lost or is given up. tests/cuda/test_swap.c has the CUDA device. */
#include "unit.h"

#include "api/fixture.h"

enum { HOST_BLOCKS = 12 };

static const char* const devices[] = {"sim", "cpu"};

static pkv_config swap_config(const char* device) {
    pkv_config config = fixture_config();
    config.device = device;
    config.host_blocks = HOST_BLOCKS;
    return config;
}

static pkv_cache* open_on(const char* device) {
    const pkv_config config = swap_config(device);
    return fixture_create(&config);
}

static void faults(pkv_cache* cache, const char* spec) {
    const int status = pkv_faults_set(cache, spec, 1);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(status);
}

/* ---- Verbs ----------------------------------------------------------------------------------- */

static pkv_transfer start_out(pkv_cache* cache, pkv_seq seq) {
    pkv_transfer transfer;
    ASSERT_OK(pkv_seq_swap_out(cache, seq, &transfer));
    ASSERT_EQ(fixture_info(cache, seq).residence, PKV_LEAVING);
    return transfer;
}

static pkv_transfer start_in(pkv_cache* cache, pkv_seq seq) {
    pkv_transfer transfer;
    ASSERT_OK(pkv_seq_swap_in(cache, seq, &transfer));
    ASSERT_EQ(fixture_info(cache, seq).residence, PKV_ARRIVING);
    return transfer;
}

static void swap_out(pkv_cache* cache, pkv_seq seq) {
    ASSERT_OK(pkv_transfer_wait(cache, start_out(cache, seq)));
    ASSERT_EQ(fixture_info(cache, seq).residence, PKV_AWAY);
    fixture_check(cache);
}

static void swap_in(pkv_cache* cache, pkv_seq seq) {
    ASSERT_OK(pkv_transfer_wait(cache, start_in(cache, seq)));
    ASSERT_EQ(fixture_info(cache, seq).residence, PKV_RESIDENT);
    fixture_check(cache);
}

static void poll_until_done(pkv_cache* cache, pkv_transfer transfer) {
    uint32_t done = 0;
    while (!done)
        ASSERT_OK(pkv_transfer_poll(cache, transfer, &done));
    ASSERT_STATUS(pkv_transfer_poll(cache, transfer, &done), PKV_ESTALE);
}

/* A sequence of `count` tokens, whose ids begin with `first`. */
static pkv_seq grown(pkv_cache* cache, uint64_t tenant, uint32_t count, uint32_t first) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_tokens(tokens, count, first);
    fixture_extend(cache, seq, tokens, count);
    return seq;
}

static void expect_grown(pkv_cache* cache, pkv_seq seq, uint32_t count, uint32_t first) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    fixture_tokens(tokens, count, first);
    fixture_expect(cache, seq, tokens, count);
}

/* Let a sequence of another tenant take all that is free or cached, which overwrites it. */
static void use_all_blocks(pkv_cache* cache) {
    const pkv_stats stats = fixture_stats(cache);
    const uint32_t blocks = stats.blocks_free + stats.blocks_cached;
    const pkv_seq seq = grown(cache, 77, blocks * FIXTURE_BLOCK, 900);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

/* ---- There and back -------------------------------------------------------------------------- */

TEST(a_sequence_comes_back_as_it_left) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        const pkv_seq seq = grown(cache, 1, 18, 1);
        ASSERT_EQ(fixture_stats(cache).blocks_active, 5);
        swap_out(cache, seq);
        const pkv_seq_info info = fixture_info(cache, seq);
        ASSERT_EQ(info.length, 18);
        ASSERT_EQ(info.pages, 5);
        ASSERT_EQ(info.tenant, 1);
        ASSERT_EQ(fixture_stats(cache).blocks_active, 0);
        ASSERT_EQ(fixture_stats(cache).host_blocks_free, HOST_BLOCKS - 5);
        use_all_blocks(cache);
        swap_in(cache, seq);
        expect_grown(cache, seq, 18, 1);
        const pkv_stats stats = fixture_stats(cache);
        pkv_sizes sizes;
        const pkv_config config = swap_config(devices[d]);
        ASSERT_OK(pkv_config_check(&config, NULL, &sizes));
        ASSERT_EQ(stats.host_blocks_total, HOST_BLOCKS);
        ASSERT_EQ(stats.host_blocks_free, HOST_BLOCKS);
        ASSERT_EQ(stats.swap_out_bytes, 5 * sizes.block_bytes);
        ASSERT_EQ(stats.swap_in_bytes, 5 * sizes.block_bytes);
        ASSERT_EQ(sizes.host_bytes, HOST_BLOCKS * sizes.block_bytes);
        ASSERT_EQ(stats.transfers + stats.transfers_failed + stats.transfers_cancelled, 0);
        pkv_cache_destroy(cache);
    }
}

TEST(it_goes_on_where_it_was) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        const pkv_seq seq = grown(cache, 1, 6, 1);
        uint32_t tokens[10];
        fixture_tokens(tokens, 10, 1);
        swap_out(cache, seq);
        use_all_blocks(cache);
        swap_in(cache, seq);
        fixture_extend(cache, seq, tokens + 6, 4);
        fixture_expect(cache, seq, tokens, 10);
        swap_out(cache, seq);
        swap_in(cache, seq);
        fixture_expect(cache, seq, tokens, 10);
        pkv_cache_destroy(cache);
    }
}

TEST(polling_ends_a_transfer_too) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        const pkv_seq seq = grown(cache, 1, 18, 1);
        poll_until_done(cache, start_out(cache, seq));
        ASSERT_EQ(fixture_info(cache, seq).residence, PKV_AWAY);
        use_all_blocks(cache);
        poll_until_done(cache, start_in(cache, seq));
        expect_grown(cache, seq, 18, 1);
        pkv_cache_destroy(cache);
    }
}

/* Polls of the CPU device copy some MiB each. */
TEST(a_poll_is_bounded) {
    pkv_config config = swap_config("cpu");
    config.groups[0].layers = 512;
    config.groups[0].kv_heads = 16;
    config.blocks = HOST_BLOCKS;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq seq = fixture_seq(cache, 1);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, FIXTURE_BLOCK * 3, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    const pkv_transfer transfer = start_out(cache, seq);
    uint32_t done = 1;
    ASSERT_OK(pkv_transfer_poll(cache, transfer, &done));
    ASSERT_EQ(done, 0);
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    pkv_cache_destroy(cache);
}

TEST(an_empty_sequence_can_go_too) {
    pkv_cache* cache = open_on("sim");
    const pkv_seq seq = fixture_seq(cache, 1);
    uint32_t token = 5;
    swap_out(cache, seq);
    ASSERT_STATUS(pkv_seq_append(cache, seq, &token, 1, NULL), PKV_EAWAY);
    poll_until_done(cache, start_in(cache, seq));
    fixture_extend(cache, seq, &token, 1);
    fixture_expect(cache, seq, &token, 1);
    pkv_cache_destroy(cache);
}

TEST(pages_behind_the_window_stay_away) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_config config = swap_config(devices[d]);
        config.groups[0].window = 6;
        config.groups[0].sinks = 3;
        pkv_cache* cache = fixture_create(&config);
        const pkv_seq seq = grown(cache, 1, 30, 1);
        uint32_t before[8];
        uint32_t after[8];
        ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 8, before));
        ASSERT_EQ(before[3], PKV_NO_BLOCK);
        ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
        swap_out(cache, seq);
        ASSERT_EQ(fixture_stats(cache).host_blocks_free, HOST_BLOCKS - 3);
        use_all_blocks(cache);
        swap_in(cache, seq);
        ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 8, after));
        for (uint32_t page = 0; page < 8; page++)
            ASSERT_EQ(before[page] == PKV_NO_BLOCK, after[page] == PKV_NO_BLOCK);
        ASSERT_NEAR(fixture_read(cache, seq, 2), 1000 * 3 + 2, 0);
        for (uint32_t i = 24; i < 30; i++)
            ASSERT_NEAR(fixture_read(cache, seq, i), 1000 * (1 + i) + i, 0);
        pkv_cache_destroy(cache);
    }
}

/* Every type that K and V can be stored in: the same numbers come out, bit for bit. */
enum { TYPED_TOKENS = 40, TYPED_DIM = 64, TYPED_HEADS = 2, TYPED_LAYERS = 3 };

static void read_typed(pkv_cache* cache, pkv_seq seq, uint32_t layer, float* k, float* v) {
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    ASSERT_OK(pkv_seq_read(cache, seq, layer, 0, TYPED_TOKENS, &k_array, &v_array));
}

static void round_trip(const char* device, uint32_t k_dtype, uint32_t v_dtype) {
    enum { ELEMENTS = TYPED_TOKENS * TYPED_HEADS * TYPED_DIM };
    static float numbers[ELEMENTS];
    static float before[TYPED_LAYERS][2][ELEMENTS];
    static float after[2][ELEMENTS];
    pkv_config config = swap_config(device);
    config.groups[0] = (pkv_group_config){.layers = TYPED_LAYERS,
                                          .kv_heads = TYPED_HEADS,
                                          .key_dim = TYPED_DIM,
                                          .k_dtype = k_dtype,
                                          .v_dtype = v_dtype};
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq seq = fixture_seq(cache, 1);
    const pkv_array array = {.data = numbers};
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, TYPED_TOKENS, NULL));
    for (uint32_t layer = 0; layer < TYPED_LAYERS; layer++) {
        for (uint32_t i = 0; i < ELEMENTS; i++)
            numbers[i] = sinf((float)(i + 7 * layer)) * (float)(1 + i % 5);
        ASSERT_OK(pkv_seq_write(cache, seq, layer, &array, &array));
    }
    ASSERT_OK(pkv_seq_commit(cache, seq));
    for (uint32_t layer = 0; layer < TYPED_LAYERS; layer++)
        read_typed(cache, seq, layer, before[layer][0], before[layer][1]);
    swap_out(cache, seq);
    const pkv_seq other = fixture_seq(cache, 2);
    ASSERT_OK(pkv_seq_append(cache, other, NULL, 16 * 16, NULL));
    ASSERT_OK(pkv_seq_free(cache, other));
    swap_in(cache, seq);
    for (uint32_t layer = 0; layer < TYPED_LAYERS; layer++) {
        read_typed(cache, seq, layer, after[0], after[1]);
        ASSERT_MEM(after[0], before[layer][0], sizeof after[0]);
        ASSERT_MEM(after[1], before[layer][1], sizeof after[1]);
    }
    pkv_cache_destroy(cache);
}

TEST(every_type_comes_back_bit_for_bit) {
    for (uint32_t d = 0; d < 2; d++)
        for (uint32_t k_dtype = PKV_F32; k_dtype <= PKV_I4; k_dtype++)
            for (uint32_t v_dtype = PKV_F32; v_dtype <= PKV_I4; v_dtype++)
                round_trip(devices[d], k_dtype, v_dtype);
}

/* ---- What verbs say meanwhile ---------------------------------------------------------------- */

/* Everything that needs K/V or changes the sequence says `wanted`. */
static void expect_all_refused(pkv_cache* cache, pkv_seq seq, int wanted) {
    static float k[FIXTURE_DIM];
    const uint32_t token = 1;
    const pkv_array array = {.data = k};
    const pkv_entry entry = {seq, &token, 1};
    uint32_t number;
    pkv_seq child;
    pkv_plan plan;
    pkv_transfer transfer;
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(pkv_seq_match(cache, seq, &token, 1, &number), wanted);
    ASSERT_STATUS(pkv_seq_fork(cache, seq, &child), wanted);
    ASSERT_STATUS(pkv_seq_truncate(cache, seq, 0), wanted);
    ASSERT_STATUS(pkv_seq_append(cache, seq, &token, 1, NULL), wanted);
    ASSERT_STATUS(pkv_seq_write(cache, seq, 0, &array, &array), wanted);
    ASSERT_STATUS(pkv_seq_commit(cache, seq), wanted);
    ASSERT_STATUS(pkv_seq_read(cache, seq, 0, 0, 1, &array, NULL), wanted);
    ASSERT_STATUS(pkv_plan_begin(cache, &entry, 1, &plan), wanted);
    ASSERT_STATUS(pkv_seq_swap_out(cache, seq, &transfer), wanted);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
}

TEST(a_sequence_that_is_not_there_is_left_alone) {
    pkv_cache* cache = open_on("sim");
    const pkv_seq seq = grown(cache, 1, 6, 1);
    uint32_t block;
    pkv_transfer other;
    ASSERT_STATUS(pkv_seq_swap_in(cache, seq, &other), PKV_EINVAL);
    pkv_transfer transfer = start_out(cache, seq);
    expect_all_refused(cache, seq, PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_free(cache, seq), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_swap_in(cache, seq, &other), PKV_EBUSY);
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    expect_all_refused(cache, seq, PKV_EAWAY);
    ASSERT_STATUS(pkv_seq_blocks(cache, seq, 0, 0, 1, &block), PKV_EAWAY);
    transfer = start_in(cache, seq);
    expect_all_refused(cache, seq, PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_free(cache, seq), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_swap_in(cache, seq, &other), PKV_EBUSY);
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    expect_grown(cache, seq, 6, 1);
    pkv_cache_destroy(cache);
}

TEST(what_is_not_committed_stays) {
    pkv_cache* cache = open_on("sim");
    const uint32_t token = 1;
    pkv_transfer transfer;
    const pkv_seq appended = fixture_seq(cache, 1);
    const pkv_entry planned = {fixture_seq(cache, 1), &token, 1};
    pkv_plan plan;
    ASSERT_OK(pkv_seq_append(cache, appended, &token, 1, NULL));
    ASSERT_OK(pkv_plan_begin(cache, &planned, 1, &plan));
    ASSERT_STATUS(pkv_seq_swap_out(cache, appended, &transfer), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_swap_out(cache, planned.seq, &transfer), PKV_EBUSY);
    pkv_cache_destroy(cache);
}

TEST(handles_of_transfers_are_told_apart) {
    pkv_cache* cache = open_on("sim");
    const pkv_seq seq = grown(cache, 1, 6, 1);
    const pkv_transfer transfer = start_out(cache, seq);
    uint32_t done;
    ASSERT_STATUS(pkv_transfer_wait(cache, (pkv_transfer){0}), PKV_ESTALE);
    ASSERT_STATUS(pkv_transfer_wait(cache, (pkv_transfer){seq.id}), PKV_ESTALE);
    ASSERT_STATUS(pkv_transfer_wait(cache, (pkv_transfer){transfer.id ^ 1}), PKV_ESTALE);
    ASSERT_STATUS(pkv_transfer_poll(cache, (pkv_transfer){transfer.id ^ (1ULL << 40)}, &done),
                  PKV_ESTALE);
    ASSERT_STATUS(pkv_transfer_poll(cache, transfer, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_transfer_poll(NULL, transfer, &done), PKV_EINVAL);
    ASSERT_STATUS(pkv_transfer_wait(NULL, transfer), PKV_EINVAL);
    ASSERT_STATUS(pkv_transfer_cancel(NULL, transfer), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_swap_out(cache, seq, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_swap_in(cache, seq, NULL), PKV_EINVAL);
    ASSERT_OK(pkv_transfer_cancel(cache, (pkv_transfer){0}));
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    ASSERT_STATUS(pkv_transfer_wait(cache, transfer), PKV_ESTALE);
    ASSERT_STATUS(pkv_transfer_cancel(cache, transfer), PKV_ESTALE);
    pkv_cache_destroy(cache);
}

/* ---- Room ------------------------------------------------------------------------------------ */

TEST(the_host_tier_is_taken_whole_or_not_at_all) {
    pkv_cache* cache = open_on("sim");
    pkv_transfer transfer;
    const pkv_seq large = grown(cache, 1, 13 * FIXTURE_BLOCK, 1);
    ASSERT_STATUS(pkv_seq_swap_out(cache, large, &transfer), PKV_ETOOBIG);
    ASSERT_OK(pkv_seq_truncate(cache, large, 7 * FIXTURE_BLOCK));
    const pkv_seq small = grown(cache, 1, 6 * FIXTURE_BLOCK, 500);
    swap_out(cache, large);
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(pkv_seq_swap_out(cache, small, &transfer), PKV_ENOHOST);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_OK(pkv_seq_free(cache, large)); /* its slots are free at once */
    ASSERT_EQ(fixture_stats(cache).host_blocks_free, HOST_BLOCKS);
    swap_out(cache, small);
    pkv_cache_destroy(cache);
}

TEST(without_a_host_tier_nobody_leaves) {
    pkv_cache* cache = fixture_open();
    pkv_transfer transfer;
    const pkv_seq seq = grown(cache, 1, 6, 1);
    ASSERT_STATUS(pkv_seq_swap_out(cache, seq, &transfer), PKV_ENOTSUP);
    ASSERT_EQ(fixture_stats(cache).host_blocks_total, 0);
    pkv_cache_destroy(cache);
}

TEST(so_many_transfers_and_no_more) {
    pkv_config config = swap_config("sim");
    config.transfers_max = 2;
    pkv_cache* cache = fixture_create(&config);
    pkv_seq seqs[3];
    pkv_transfer transfers[3];
    for (uint32_t i = 0; i < 3; i++)
        seqs[i] = grown(cache, 1, 6, 100 * (i + 1));
    transfers[0] = start_out(cache, seqs[0]);
    transfers[1] = start_out(cache, seqs[1]);
    ASSERT_STATUS(pkv_seq_swap_out(cache, seqs[2], &transfers[2]), PKV_EBUSY);
    ASSERT_EQ(fixture_stats(cache).transfers, 2);
    ASSERT_OK(pkv_transfer_wait(cache, transfers[1]));
    transfers[2] = start_out(cache, seqs[2]);
    ASSERT_OK(pkv_transfer_wait(cache, transfers[0]));
    ASSERT_OK(pkv_transfer_wait(cache, transfers[2]));
    for (uint32_t i = 0; i < 3; i++) {
        swap_in(cache, seqs[i]);
        expect_grown(cache, seqs[i], 6, 100 * (i + 1));
    }
    pkv_cache_destroy(cache);
}

TEST(coming_back_evicts_if_that_is_enough) {
    pkv_cache* cache = open_on("sim");
    pkv_transfer transfer;
    const pkv_seq seq = grown(cache, 1, 4 * FIXTURE_BLOCK, 1);
    swap_out(cache, seq);
    const pkv_seq active = grown(cache, 1, 13 * FIXTURE_BLOCK, 300);
    const pkv_report before = fixture_check(cache);
    ASSERT_STATUS(pkv_seq_swap_in(cache, seq, &transfer), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(cache).cache_digest, before.cache_digest);
    ASSERT_OK(pkv_seq_truncate(cache, active, 12 * FIXTURE_BLOCK));
    const pkv_stats stats = fixture_stats(cache);
    ASSERT_LT(stats.blocks_free, 4);
    swap_in(cache, seq);
    ASSERT_GT(fixture_stats(cache).evictions, stats.evictions);
    expect_grown(cache, seq, 4 * FIXTURE_BLOCK, 1);
    expect_grown(cache, active, 12 * FIXTURE_BLOCK, 300);
    pkv_cache_destroy(cache);
}

/* ---- What is shared -------------------------------------------------------------------------- */

TEST(forks_leave_one_by_one) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        const pkv_seq parent = grown(cache, 1, 10, 1);
        const uint32_t token = 7;
        pkv_seq child;
        ASSERT_OK(pkv_seq_fork(cache, parent, &child));
        swap_out(cache, parent);
        ASSERT_EQ(fixture_stats(cache).blocks_active, 3);
        expect_grown(cache, child, 10, 1);
        fixture_extend(cache, child, &token, 1);
        swap_out(cache, child);
        use_all_blocks(cache);
        swap_in(cache, parent);
        expect_grown(cache, parent, 10, 1);
        swap_in(cache, child);
        ASSERT_EQ(fixture_info(cache, child).length, 11);
        ASSERT_NEAR(fixture_read(cache, child, 10), 7010, 0);
        ASSERT_NEAR(fixture_read(cache, child, 9), 10009, 0);
        /* The first two pages of both are equal, and shared again; the tails are not. */
        ASSERT_EQ(fixture_stats(cache).blocks_active, 4);
        pkv_cache_destroy(cache);
    }
}

TEST(a_prefix_that_stayed_is_shared_again) {
    pkv_cache* cache = open_on("sim");
    uint32_t before[2];
    uint32_t after[2];
    const pkv_seq seq = grown(cache, 1, 2 * FIXTURE_BLOCK, 1);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 2, before));
    swap_out(cache, seq);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 2);
    swap_in(cache, seq);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 2, after));
    ASSERT_MEM(after, before, sizeof after);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    ASSERT_EQ(fixture_stats(cache).prefix_duplicates, 2);
    pkv_cache_destroy(cache);
}

TEST(a_prefix_that_went_is_found_again) {
    pkv_cache* cache = open_on("sim");
    uint32_t tokens[2 * FIXTURE_BLOCK];
    uint32_t matched;
    const pkv_seq seq = grown(cache, 1, 2 * FIXTURE_BLOCK, 1);
    fixture_tokens(tokens, 2 * FIXTURE_BLOCK, 1);
    swap_out(cache, seq);
    use_all_blocks(cache);
    const pkv_seq other = fixture_seq(cache, 1);
    ASSERT_OK(pkv_seq_match(cache, other, tokens, 2 * FIXTURE_BLOCK, &matched));
    ASSERT_EQ(matched, 0);
    swap_in(cache, seq);
    ASSERT_OK(pkv_seq_match(cache, other, tokens, 2 * FIXTURE_BLOCK, &matched));
    ASSERT_EQ(matched, 2 * FIXTURE_BLOCK);
    expect_grown(cache, other, 2 * FIXTURE_BLOCK, 1);
    pkv_cache_destroy(cache);
}

TEST(tokens_that_nobody_named_are_not_indexed) {
    pkv_cache* cache = open_on("sim");
    const pkv_seq seq = fixture_seq(cache, 1);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 2 * FIXTURE_BLOCK, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    swap_out(cache, seq);
    swap_in(cache, seq);
    ASSERT_EQ(fixture_stats(cache).prefix_inserts, 0);
    pkv_cache_destroy(cache);
}

/* ---- Failure --------------------------------------------------------------------------------- */

struct failure {
    const char* spec;
    int status;
};

static const struct failure failures[] = {
    {"device.transfer.done=return(EIO)", PKV_EIO},
    {"device.transfer.done=corrupt(1)", PKV_EIO},
    {"device.transfer.done=corrupt(8)", PKV_EIO},
    {"device.transfer.done=drop", PKV_ETIMEDOUT},
};

static void fail_both_ways(const char* device, const struct failure* failure) {
    pkv_cache* cache = open_on(device);
    const pkv_seq seq = grown(cache, 1, 18, 1);
    const pkv_report resident = fixture_check(cache);
    faults(cache, failure->spec);
    ASSERT_STATUS(pkv_transfer_wait(cache, start_out(cache, seq)), failure->status);
    ASSERT_EQ(fixture_info(cache, seq).residence, PKV_RESIDENT);
    ASSERT_EQ(fixture_check(cache).cache_digest, resident.cache_digest);
    expect_grown(cache, seq, 18, 1);
    ASSERT_EQ(fixture_stats(cache).swap_out_bytes, 0);
    faults(cache, "");
    swap_out(cache, seq);
    use_all_blocks(cache);
    const pkv_report away = fixture_check(cache);
    faults(cache, failure->spec);
    ASSERT_STATUS(pkv_transfer_wait(cache, start_in(cache, seq)), failure->status);
    ASSERT_EQ(fixture_info(cache, seq).residence, PKV_AWAY);
    ASSERT_EQ(fixture_check(cache).sequences_digest, away.sequences_digest);
    ASSERT_EQ(fixture_stats(cache).transfers_failed, 2);
    ASSERT_EQ(fixture_stats(cache).swap_in_bytes, 0);
    faults(cache, "");
    swap_in(cache, seq);
    expect_grown(cache, seq, 18, 1);
    pkv_cache_destroy(cache);
}

TEST(a_transfer_that_fails_loses_nothing) {
    for (uint32_t d = 0; d < 2; d++)
        for (size_t i = 0; i < sizeof failures / sizeof *failures; i++)
            fail_both_ways(devices[d], &failures[i]);
}

TEST(a_transfer_that_is_refused_changes_nothing) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        pkv_transfer transfer;
        const pkv_seq seq = grown(cache, 1, 18, 1);
        faults(cache, "device.transfer.submit=return(EIO)");
        const pkv_report resident = fixture_check(cache);
        ASSERT_STATUS(pkv_seq_swap_out(cache, seq, &transfer), PKV_EIO);
        ASSERT_EQ(fixture_check(cache).cache_digest, resident.cache_digest);
        faults(cache, "tier.take=return(ENOHOST)");
        ASSERT_STATUS(pkv_seq_swap_out(cache, seq, &transfer), PKV_ENOHOST);
        ASSERT_EQ(fixture_check(cache).cache_digest, resident.cache_digest);
        faults(cache, "");
        swap_out(cache, seq);
        use_all_blocks(cache);
        const pkv_report away = fixture_check(cache);
        faults(cache, "device.transfer.submit=return(EIO)");
        ASSERT_STATUS(pkv_seq_swap_in(cache, seq, &transfer), PKV_EIO);
        ASSERT_EQ(fixture_check(cache).sequences_digest, away.sequences_digest);
        faults(cache, "");
        swap_in(cache, seq);
        expect_grown(cache, seq, 18, 1);
        pkv_cache_destroy(cache);
    }
}

TEST(a_lost_transfer_is_never_done_and_can_be_given_up) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        const pkv_seq seq = grown(cache, 1, 18, 1);
        faults(cache, "device.transfer.done=drop");
        const pkv_transfer transfer = start_out(cache, seq);
        for (uint32_t i = 0; i < 100; i++) {
            uint32_t done = 1;
            ASSERT_OK(pkv_transfer_poll(cache, transfer, &done));
            ASSERT_EQ(done, 0);
        }
        ASSERT_OK(pkv_transfer_cancel(cache, transfer));
        ASSERT_EQ(fixture_info(cache, seq).residence, PKV_RESIDENT);
        expect_grown(cache, seq, 18, 1);
        pkv_cache_destroy(cache);
    }
}

TEST(a_late_transfer_is_only_late) {
    pkv_cache* cache = open_on("sim");
    const pkv_seq seq = grown(cache, 1, 18, 1);
    faults(cache, "device.transfer.done=delay(5000)");
    const uint64_t start_us = pkv_clock_us(cache);
    swap_out(cache, seq);
    ASSERT_GE(pkv_clock_us(cache) - start_us, 4900);
    poll_until_done(cache, start_in(cache, seq));
    expect_grown(cache, seq, 18, 1);
    pkv_cache_destroy(cache);
}

/* Before it began, in its middle, and when it is done but nobody has asked. */
TEST(a_transfer_can_be_given_up_at_any_time) {
    for (uint32_t d = 0; d < 2; d++) {
        for (uint32_t us = 0; us < 120; us += 15) {
            pkv_cache* cache = open_on(devices[d]);
            const pkv_seq seq = grown(cache, 1, 18, 1);
            const pkv_report resident = fixture_check(cache);
            pkv_transfer transfer = start_out(cache, seq);
            if (d == 0) ASSERT_OK(pkv_clock_advance(cache, us));
            ASSERT_OK(pkv_transfer_cancel(cache, transfer));
            ASSERT_STATUS(pkv_transfer_wait(cache, transfer), PKV_ESTALE);
            ASSERT_EQ(fixture_check(cache).cache_digest, resident.cache_digest);
            swap_out(cache, seq);
            use_all_blocks(cache);
            const pkv_report away = fixture_check(cache);
            transfer = start_in(cache, seq);
            if (d == 0) ASSERT_OK(pkv_clock_advance(cache, us));
            ASSERT_OK(pkv_transfer_cancel(cache, transfer));
            ASSERT_EQ(fixture_check(cache).sequences_digest, away.sequences_digest);
            use_all_blocks(cache); /* nothing lands in them any more */
            swap_in(cache, seq);
            expect_grown(cache, seq, 18, 1);
            ASSERT_EQ(fixture_stats(cache).transfers_cancelled, 2);
            pkv_cache_destroy(cache);
        }
    }
}

TEST(a_cache_may_go_while_things_move) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        const pkv_seq away = grown(cache, 1, 18, 1);
        swap_out(cache, away);
        start_out(cache, grown(cache, 1, 9, 50));
        start_in(cache, away);
        pkv_cache_destroy(cache);
    }
}

/* ---- Tenants --------------------------------------------------------------------------------- */

static uint32_t count_nonzero(pkv_cache* cache, uint64_t tenant) {
    uint32_t count = 0;
    const pkv_seq seq = fixture_seq(cache, tenant);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 64, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    for (uint32_t i = 0; i < 64; i++)
        count += fixture_read(cache, seq, i) != 0.0F;
    ASSERT_OK(pkv_seq_free(cache, seq));
    return count;
}

TEST(blocks_of_the_gone_are_zeroed_for_others) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        swap_out(cache, grown(cache, 1, 40, 1));
        ASSERT_EQ(count_nonzero(cache, 2), 0);
        pkv_cache_destroy(cache);
    }
}

/* A transfer that failed half way leaves bytes of two tenants in a block: neither may see them. */
TEST(what_a_failed_arrival_left_is_zeroed_for_all) {
    for (uint32_t d = 0; d < 2; d++) {
        for (uint64_t tenant = 1; tenant <= 3; tenant++) {
            pkv_cache* cache = open_on(devices[d]);
            const pkv_seq seq = grown(cache, 1, 40, 1);
            swap_out(cache, seq);
            const pkv_seq other = grown(cache, 2, 64, 400);
            ASSERT_OK(pkv_seq_free(cache, other));
            faults(cache, "device.transfer.done=return(EIO)");
            ASSERT_STATUS(pkv_transfer_wait(cache, start_in(cache, seq)), PKV_EIO);
            faults(cache, "");
            const pkv_seq probe = fixture_seq(cache, tenant);
            ASSERT_OK(pkv_seq_append(cache, probe, NULL, 40, NULL));
            ASSERT_OK(pkv_seq_commit(cache, probe));
            for (uint32_t i = 0; i < 40; i++) {
                const float k = fixture_read(cache, probe, i);
                if (tenant == 2 && k != 0.0F) ASSERT_NEAR(k, 1000 * (400 + i) + i, 64000);
                if (tenant != 2) ASSERT(k == 0.0F || (tenant == 1 && k < 42000));
            }
            pkv_cache_destroy(cache);
        }
    }
}

TEST(host_blocks_show_nothing_of_who_had_them) {
    for (uint32_t d = 0; d < 2; d++) {
        pkv_cache* cache = open_on(devices[d]);
        const pkv_seq first = grown(cache, 1, HOST_BLOCKS * FIXTURE_BLOCK, 1);
        swap_out(cache, first);
        ASSERT_OK(pkv_seq_free(cache, first));
        const pkv_seq second = fixture_seq(cache, 2);
        ASSERT_OK(pkv_seq_append(cache, second, NULL, 30, NULL));
        ASSERT_OK(pkv_seq_commit(cache, second));
        swap_out(cache, second);
        swap_in(cache, second);
        for (uint32_t i = 0; i < 30; i++)
            ASSERT(fixture_read(cache, second, i) == 0.0F);
        pkv_cache_destroy(cache);
    }
}

/* Without the rule that the tests above look for, the bytes are there. */
TEST(a_tenant_sees_its_own_residue) {
    pkv_cache* cache = open_on("cpu");
    swap_out(cache, grown(cache, 1, 40, 1));
    ASSERT_GT(count_nonzero(cache, 1), 0);
    pkv_cache_destroy(cache);
}
