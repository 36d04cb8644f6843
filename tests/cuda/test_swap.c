/* test_swap.c - swapping on the CUDA device, over the emulator: two copy streams beside the one that
 * computes, all three as late and in as odd an order as their events allow.
 *
 * A copy that does not wait for a kernel which uses its block, or a kernel that does not wait for
 * what arrives, sees the wrong bytes for some seed; each test runs for many. */
#include "unit.h"

#include "emulator/control.h"

enum { DIM = 64, HEADS = 2, GROUP = 2, LAYERS = 4, ROWS_MAX = 80 };

#include "cuda/fixture.h"

enum { BLOCK = 16, BLOCKS = 12, SEEDS = 12 };

/* ---- A cache and its contents ---------------------------------------------------------------- */

static pkv_config config_of(uint32_t dtype) {
    pkv_config config = fixture_config("cuda", dtype);
    config.blocks = BLOCKS;
    config.host_blocks = 10;
    config.swap_layers = 1;
    return config;
}

static pkv_cache* open_with_seed(uint64_t seed) {
    const pkv_config config = config_of(PKV_BF16);
    emulator_reset(seed);
    emulator_seed(seed);
    return create(&config);
}

/* All layers get the same K and V. Nothing is waited for. */
static void fill(pkv_cache* cache, pkv_seq seq, uint32_t count, const struct arrays* arrays) {
    const pkv_plan plan = begin(cache, seq, count);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        ASSERT_OK(write_layer(cache, plan, layer, arrays));
    ASSERT_OK(pkv_plan_commit(cache, plan));
}

static float* read_keys(pkv_cache* cache, pkv_seq seq, uint32_t layer, uint32_t count) {
    float* k = floats(KV_FLOATS);
    const pkv_array array = {.data = k};
    ASSERT_OK(pkv_seq_read(cache, seq, layer, 0, count, &array, NULL));
    return k;
}

static void expect_keys(pkv_cache* cache, pkv_seq seq, uint32_t count, const struct arrays* from) {
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        float* k = read_keys(cache, seq, layer, count);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        for (uint32_t i = 0; i < count * HEADS * DIM; i++)
            ASSERT_NEAR(k[i], from->k[i], 0.02);
        pkvi_gpu_free_pinned(k);
    }
}

static uint32_t residence(pkv_cache* cache, pkv_seq seq) {
    pkv_seq_info info;
    ASSERT_OK(pkv_seq_get_info(cache, seq, &info));
    return info.residence;
}

static pkv_transfer start_out(pkv_cache* cache, pkv_seq seq) {
    pkv_transfer transfer;
    ASSERT_OK(pkv_seq_swap_out(cache, seq, &transfer));
    return transfer;
}

static pkv_transfer start_in(pkv_cache* cache, pkv_seq seq) {
    pkv_transfer transfer;
    ASSERT_OK(pkv_seq_swap_in(cache, seq, &transfer));
    return transfer;
}

static void swap_out(pkv_cache* cache, pkv_seq seq) {
    ASSERT_OK(pkv_transfer_wait(cache, start_out(cache, seq)));
    ASSERT_EQ(residence(cache, seq), PKV_AWAY);
    ASSERT_OK(pkv_check(cache, NULL));
}

static void swap_in(pkv_cache* cache, pkv_seq seq) {
    ASSERT_OK(pkv_transfer_wait(cache, start_in(cache, seq)));
    ASSERT_EQ(residence(cache, seq), PKV_RESIDENT);
    ASSERT_OK(pkv_check(cache, NULL));
}

/* Another tenant writes into every free block. */
static void use_all_blocks(pkv_cache* cache) {
    pkv_stats stats = {.struct_size = sizeof stats};
    struct arrays arrays = arrays_open(999);
    const pkv_seq seq = new_seq_of(cache, 77);
    ASSERT_OK(pkv_cache_stats(cache, &stats));
    for (uint32_t i = 0; i < stats.blocks_free; i++)
        fill(cache, seq, BLOCK, &arrays);
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    ASSERT_OK(pkv_seq_free(cache, seq));
    arrays_close(&arrays);
}

/* ---- There and back -------------------------------------------------------------------------- */

static void round_trip(uint32_t dtype, uint32_t swap_layers) {
    pkv_config config = config_of(dtype);
    config.swap_layers = swap_layers;
    pkv_cache* cache = create(&config);
    struct arrays arrays = arrays_open(1);
    float* before[LAYERS];
    const pkv_seq seq = new_seq_of(cache, 1);
    fill(cache, seq, 70, &arrays);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        before[layer] = read_keys(cache, seq, layer, 70);
    swap_out(cache, seq);
    use_all_blocks(cache);
    swap_in(cache, seq);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        float* after = read_keys(cache, seq, layer, 70);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        ASSERT_MEM(after, before[layer], 70 * HEADS * DIM * sizeof(float));
        pkvi_gpu_free_pinned(after);
        pkvi_gpu_free_pinned(before[layer]);
    }
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

TEST(every_type_comes_back_bit_for_bit_either_way) {
    static const uint32_t dtypes[] = {PKV_F16, PKV_BF16, PKV_I8, PKV_E4M3};
    for (uint32_t way = 0; way < 2; way++) {
        emulator_reset(way + 1);
        emulator_set_costs(way == 0 ? 1 : 1000, 100);
        for (uint32_t i = 0; i < 4; i++)
            round_trip(dtypes[i], i); /* layers of a group; 0: as the device likes */
    }
}

/* Kernels that a swap starts, in and out. */
static uint64_t count_launches(uint64_t copy_ns, uint64_t kernel_ns) {
    emulator_reset(1);
    emulator_set_costs(copy_ns, kernel_ns);
    pkv_cache* cache = open_with_seed(1);
    struct arrays arrays = arrays_open(1);
    const pkv_seq seq = new_seq_of(cache, 1);
    fill(cache, seq, 40, &arrays);
    const uint64_t before = emulator_count(EMULATOR_LAUNCH);
    swap_out(cache, seq);
    swap_in(cache, seq);
    const uint64_t launches = emulator_count(EMULATOR_LAUNCH) - before;
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    return launches;
}

TEST(small_pieces_go_the_faster_way) {
    ASSERT_EQ(count_launches(1000, 100), 1 + LAYERS);
    ASSERT_EQ(count_launches(1, 100), 0);
}

/* ---- Order ----------------------------------------------------------------------------------- */

/* A sequence leaves while the kernels that write it are still queued. */
TEST(a_copy_out_waits_for_the_writers_of_its_blocks) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays arrays = arrays_open(seed);
        const pkv_seq seq = new_seq_of(cache, 1);
        fill(cache, seq, 70, &arrays);
        swap_out(cache, seq);
        use_all_blocks(cache);
        swap_in(cache, seq);
        expect_keys(cache, seq, 70, &arrays);
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
}

/* A sequence arrives in blocks that kernels, still queued, read and write for one that has ended. */
TEST(a_copy_in_waits_for_readers_and_writers_of_its_blocks) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays first = arrays_open(seed);
        struct arrays second = arrays_open(seed + 100);
        const pkv_seq seq = new_seq_of(cache, 1);
        fill(cache, seq, 70, &first);
        swap_out(cache, seq);
        use_all_blocks(cache);
        const pkv_seq other = new_seq_of(cache, 2);
        fill(cache, other, 80, &second);
        float* keys[LAYERS];
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            keys[layer] = read_keys(cache, other, layer, 80);
        ASSERT_OK(pkv_seq_free(cache, other));
        swap_in(cache, seq);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            for (uint32_t i = 0; i < 80 * HEADS * DIM; i++)
                ASSERT_NEAR(keys[layer][i], second.k[i], 0.02);
            pkvi_gpu_free_pinned(keys[layer]);
        }
        expect_keys(cache, seq, 70, &first);
        arrays_close(&first);
        arrays_close(&second);
        pkv_cache_destroy(cache);
    }
}

/* Its own steps may be long ago, further than the ring of their events reaches. */
TEST(a_copy_waits_for_steps_of_long_ago) {
    for (uint64_t seed = 1; seed <= SEEDS / 4; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays arrays = arrays_open(seed);
        const pkv_seq old = new_seq_of(cache, 1);
        const pkv_seq busy = new_seq_of(cache, 1);
        fill(cache, old, 40, &arrays);
        for (uint32_t step = 0; step < 70; step++)
            fill(cache, busy, 1, &arrays);
        swap_out(cache, old);
        use_all_blocks(cache);
        swap_in(cache, old);
        expect_keys(cache, old, 40, &arrays);
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
}

/* A copy waits for nothing that has to do with other blocks: for some seed there is still work of a
 * later step in the stream when it is done. */
TEST(a_copy_does_not_wait_for_steps_of_others) {
    uint32_t overlapped = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays arrays = arrays_open(seed);
        const pkv_seq seq = new_seq_of(cache, 1);
        const pkv_seq busy = new_seq_of(cache, 1);
        fill(cache, seq, 40, &arrays);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        for (uint32_t step = 0; step < 10; step++)
            fill(cache, busy, 1, &arrays);
        ASSERT_OK(pkv_transfer_wait(cache, start_out(cache, seq)));
        overlapped += emulator_used().queued > 0;
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
    ASSERT_GT(overlapped, SEEDS / 2);
}

/* Blocks may have been zeroed, or copied into, and not used further: that is work to wait for too. */
TEST(a_copy_waits_for_scrubs_and_copies_on_write) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays arrays = arrays_open(seed);
        const pkv_seq seq = new_seq_of(cache, 1);
        pkv_seq child;
        fill(cache, seq, 70, &arrays);
        ASSERT_OK(pkv_seq_fork(cache, seq, &child));
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        ASSERT_OK(pkv_plan_abort(cache, begin(cache, child, 1))); /* its tail stays copied */
        swap_out(cache, child);
        swap_out(cache, seq);
        use_all_blocks(cache);
        ASSERT_OK(pkv_plan_abort(cache, begin(cache, new_seq_of(cache, 3), 80))); /* zeroed */
        swap_in(cache, child);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        expect_keys(cache, child, 70, &arrays);
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
}

TEST(another_stream_is_waited_for_as_well) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays arrays = arrays_open(seed);
        struct pkvi_gpu_stream* streams[2];
        for (uint32_t i = 0; i < 2; i++)
            ASSERT_OK(pkvi_gpu_stream_open(&streams[i]));
        const pkv_seq seq = new_seq_of(cache, 1);
        ASSERT_OK(pkv_cache_set_stream(cache, streams[0]));
        fill(cache, seq, 70, &arrays);
        ASSERT_OK(pkv_cache_set_stream(cache, streams[1]));
        swap_out(cache, seq);
        ASSERT_OK(pkv_cache_set_stream(cache, NULL));
        use_all_blocks(cache);
        swap_in(cache, seq);
        expect_keys(cache, seq, 70, &arrays);
        for (uint32_t i = 0; i < 2; i++)
            pkvi_gpu_stream_close(streams[i]);
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
    expect_nothing_left();
}

/* ---- Computing while it arrives -------------------------------------------------------------- */

/* The step that a sequence takes: its output for each layer. `transfer` may still be under way. */
static void step_all_layers(pkv_cache* cache, pkv_plan plan, struct arrays arrays[LAYERS],
                            bool backwards) {
    for (uint32_t i = 0; i < LAYERS; i++) {
        const uint32_t layer = backwards ? LAYERS - 1 - i : i;
        ASSERT_OK(write_layer(cache, plan, layer, &arrays[layer]));
        ASSERT_OK(attend_layer(cache, plan, layer, &arrays[layer]));
    }
}

/* Full pages and new tokens in a page of their own, or a page that arrives and is written to. */
static void step_while_arriving(bool backwards, uint64_t seeds) {
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        const uint32_t length = seed % 2 ? 64 : 70;
        pkv_cache* cache = open_with_seed(seed);
        struct arrays prompt = arrays_open(seed);
        struct arrays wanted[LAYERS];
        struct arrays got[LAYERS];
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            wanted[layer] = arrays_open(seed + 7 * layer);
            got[layer] = arrays_open(seed + 7 * layer);
        }
        const pkv_seq seq = new_seq_of(cache, 1);
        fill(cache, seq, length, &prompt);
        pkv_plan plan = begin(cache, seq, 3);
        step_all_layers(cache, plan, wanted, backwards);
        ASSERT_OK(pkv_plan_abort(cache, plan));
        swap_out(cache, seq);
        use_all_blocks(cache);

        const pkv_transfer transfer = start_in(cache, seq);
        plan = begin(cache, seq, 3);
        ASSERT_OK(pkv_check(cache, NULL));
        step_all_layers(cache, plan, got, backwards);
        ASSERT_STATUS(pkv_plan_commit(cache, plan), PKV_EBUSY);
        ASSERT_STATUS(pkv_transfer_cancel(cache, transfer), PKV_EBUSY);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            ASSERT_MEM(got[layer].out, wanted[layer].out, 3 * HEADS * GROUP * DIM * sizeof(float));
            arrays_close(&wanted[layer]);
            arrays_close(&got[layer]);
        }
        uint32_t done = 0;
        ASSERT_OK(pkv_transfer_poll(cache, transfer, &done)); /* the stream has waited for all */
        ASSERT_EQ(done, 1);
        ASSERT_OK(pkv_plan_commit(cache, plan));
        ASSERT_OK(pkv_check(cache, NULL));
        expect_keys(cache, seq, length, &prompt);
        arrays_close(&prompt);
        pkv_cache_destroy(cache);
    }
    expect_nothing_left();
}

TEST(a_plan_is_right_though_its_sequence_is_still_arriving) {
    step_while_arriving(false, 3 * SEEDS);
}

/* No layer has waited before the last one does: it has to wait for all groups, its own included. */
TEST(layers_may_be_computed_from_the_last_to_the_first) {
    step_while_arriving(true, SEEDS);
}

TEST(the_first_layer_does_not_wait_for_the_last) {
    uint32_t early = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays arrays = arrays_open(seed);
        const pkv_seq seq = new_seq_of(cache, 1);
        fill(cache, seq, 70, &arrays);
        swap_out(cache, seq);
        const pkv_transfer transfer = start_in(cache, seq);
        const pkv_plan plan = begin(cache, seq, 1);
        ASSERT_OK(write_layer(cache, plan, 0, &arrays));
        ASSERT_OK(attend_layer(cache, plan, 0, &arrays));
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        uint32_t done;
        ASSERT_OK(pkv_transfer_poll(cache, transfer, &done));
        early += !done;
        if (!done) ASSERT_OK(pkv_transfer_wait(cache, transfer));
        ASSERT_OK(pkv_plan_abort(cache, plan));
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
    ASSERT_GT(early, 0);
}

TEST(a_plan_whose_sequence_failed_to_arrive_is_given_up) {
    pkv_cache* cache = open_with_seed(1);
    struct arrays arrays = arrays_open(1);
    const pkv_seq seq = new_seq_of(cache, 1);
    fill(cache, seq, 70, &arrays);
    swap_out(cache, seq);
    const pkv_transfer transfer = start_in(cache, seq);
    const pkv_plan plan = begin(cache, seq, 1);
    const int status = pkv_faults_set(cache, "device.transfer.done=return(EIO)", 1);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    ASSERT_STATUS(pkv_transfer_wait(cache, transfer), PKV_EIO);
    ASSERT_STATUS(pkv_transfer_wait(cache, transfer), PKV_ESTALE);
    ASSERT_OK(pkv_check(cache, NULL));
    ASSERT_STATUS(pkv_seq_free(cache, seq), PKV_EBUSY);
    ASSERT_STATUS(pkv_plan_commit(cache, plan), PKV_EIO);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_EQ(residence(cache, seq), PKV_AWAY);
    ASSERT_OK(pkv_check(cache, NULL));
    ASSERT_OK(pkv_faults_set(cache, "", 0));
    swap_in(cache, seq);
    expect_keys(cache, seq, 70, &arrays);
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

/* ---- Failure --------------------------------------------------------------------------------- */

/* The copy or event of number n fails when a swap is started: nothing is lost, and what had been
 * begun touches nothing afterwards. */
static bool fail_at(enum emulator_call call, uint32_t n, bool is_in) {
    pkv_cache* cache = open_with_seed(n + 1);
    struct arrays arrays = arrays_open(n);
    const pkv_seq seq = new_seq_of(cache, 1);
    pkv_transfer transfer;
    fill(cache, seq, 70, &arrays);
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    if (is_in) swap_out(cache, seq);
    emulator_fail(call, n, PKV_EIO);
    const int status =
        is_in ? pkv_seq_swap_in(cache, seq, &transfer) : pkv_seq_swap_out(cache, seq, &transfer);
    emulator_reset(n + 1);
    if (status == PKV_OK) ASSERT_OK(pkv_transfer_cancel(cache, transfer));
    if (status != PKV_OK) ASSERT_STATUS(status, PKV_EIO);
    ASSERT_EQ(emulator_used().queued, 0); /* no copy is left behind */
    ASSERT_EQ(residence(cache, seq), is_in ? PKV_AWAY : PKV_RESIDENT);
    ASSERT_OK(pkv_check(cache, NULL));
    use_all_blocks(cache);
    if (is_in) swap_in(cache, seq);
    expect_keys(cache, seq, 70, &arrays);
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
    return status != PKV_OK;
}

TEST(a_swap_that_cannot_be_started_whole_is_not_started) {
    static const enum emulator_call calls[] = {EMULATOR_COPY, EMULATOR_LAUNCH, EMULATOR_RECORD};
    for (uint32_t way = 0; way < 2; way++) {
        uint32_t failed = 0;
        emulator_set_costs(way == 0 ? 1 : 1000, 100);
        for (uint32_t c = 0; c < 3; c++)
            for (uint32_t is_in = 0; is_in < 2; is_in++)
                for (uint32_t n = 0; fail_at(calls[c], n, is_in != 0); n++)
                    failed++;
        ASSERT_GT(failed, 8);
    }
}

TEST(a_swap_can_be_given_up_at_any_time) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pkv_cache* cache = open_with_seed(seed);
        struct arrays arrays = arrays_open(seed);
        const pkv_seq seq = new_seq_of(cache, 1);
        fill(cache, seq, 70, &arrays);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        ASSERT_OK(pkv_transfer_cancel(cache, start_out(cache, seq)));
        ASSERT_EQ(emulator_used().queued, 0); /* no copy is left behind */
        ASSERT_EQ(residence(cache, seq), PKV_RESIDENT);
        swap_out(cache, seq);
        const pkv_transfer transfer = start_in(cache, seq);
        uint32_t done = 0;
        for (uint64_t i = 0; i < seed / 2 && !done; i++)
            ASSERT_OK(pkv_transfer_poll(cache, transfer, &done));
        if (!done) {
            ASSERT_OK(pkv_transfer_cancel(cache, transfer));
            ASSERT_EQ(residence(cache, seq), PKV_AWAY);
            use_all_blocks(cache);
            swap_in(cache, seq);
        }
        expect_keys(cache, seq, 70, &arrays);
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
    expect_nothing_left();
}

struct failure {
    const char* spec;
    int status;
};

TEST(a_swap_that_is_told_to_fail_loses_nothing) {
    static const struct failure failures[] = {
        {"device.transfer.done=return(EIO)", PKV_EIO},
        {"device.transfer.done=corrupt(2)", PKV_EIO},
        {"device.transfer.done=drop", PKV_ETIMEDOUT},
    };
    for (uint32_t i = 0; i < 3; i++) {
        pkv_cache* cache = open_with_seed(i + 1);
        struct arrays arrays = arrays_open(i);
        const pkv_seq seq = new_seq_of(cache, 1);
        fill(cache, seq, 70, &arrays);
        if (pkv_faults_set(cache, failures[i].spec, 1) == PKV_ENOTSUP)
            SKIP("this build has no fault points");
        ASSERT_STATUS(pkv_transfer_wait(cache, start_out(cache, seq)), failures[i].status);
        ASSERT_EQ(residence(cache, seq), PKV_RESIDENT);
        expect_keys(cache, seq, 70, &arrays);
        ASSERT_OK(pkv_faults_set(cache, "", 0));
        swap_out(cache, seq);
        ASSERT_OK(pkv_faults_set(cache, failures[i].spec, 1));
        ASSERT_STATUS(pkv_transfer_wait(cache, start_in(cache, seq)), failures[i].status);
        ASSERT_EQ(residence(cache, seq), PKV_AWAY);
        ASSERT_OK(pkv_faults_set(cache, "", 0));
        use_all_blocks(cache);
        swap_in(cache, seq);
        expect_keys(cache, seq, 70, &arrays);
        arrays_close(&arrays);
        pkv_cache_destroy(cache);
    }
    expect_nothing_left();
}

/* The GPU dies while a sequence is on its way: every call says so, and nothing hangs. */
TEST(a_dead_device_ends_transfers) {
    for (uint32_t waits = 0; waits < 2; waits++) {
        pkv_cache* cache = open_with_seed(3);
        struct arrays arrays = arrays_open(3);
        const pkv_seq seq = new_seq_of(cache, 1);
        uint32_t done;
        fill(cache, seq, 70, &arrays);
        swap_out(cache, seq);
        const pkv_transfer transfer = start_in(cache, seq);
        const pkv_plan plan = begin(cache, seq, 1);
        emulator_fault(0);
        ASSERT_OK(write_layer(cache, plan, 0, &arrays));
        ASSERT_STATUS(pkvi_gpu_stream_wait(NULL), PKV_EDEVICE);
        if (waits)
            ASSERT_STATUS(pkv_transfer_wait(cache, transfer), PKV_EDEVICE);
        else
            ASSERT_STATUS(pkv_transfer_poll(cache, transfer, &done), PKV_EDEVICE);
        ASSERT_STATUS(pkv_plan_commit(cache, plan), PKV_EDEVICE);
        ASSERT_OK(pkv_plan_abort(cache, plan));
        ASSERT_EQ(residence(cache, seq), PKV_AWAY);
        ASSERT_OK(pkv_check(cache, NULL));
        pkv_transfer other;
        ASSERT_STATUS(pkv_seq_swap_in(cache, seq, &other), PKV_EDEVICE);
        ASSERT_OK(pkv_check(cache, NULL));
        pkv_cache_destroy(cache);
        emulator_reset(1);
        arrays_close(&arrays);
        expect_nothing_left();
    }
}

TEST(a_cache_may_go_while_things_move) {
    pkv_cache* cache = open_with_seed(4);
    struct arrays arrays = arrays_open(4);
    const pkv_seq away = new_seq_of(cache, 1);
    const pkv_seq leaving = new_seq_of(cache, 1);
    fill(cache, away, 40, &arrays);
    fill(cache, leaving, 40, &arrays);
    swap_out(cache, away);
    start_out(cache, leaving);
    start_in(cache, away);
    pkv_cache_destroy(cache);
    arrays_close(&arrays);
    expect_nothing_left();
}

/* Device memory, pinned memory, that of the host tier too, or an event that is not to be had, at every
 * place in create. */
TEST(create_fails_whole) {
    static const enum emulator_call calls[] = {EMULATOR_ALLOC,  EMULATOR_ALLOC_PINNED,
                                               EMULATOR_EVENT,  EMULATOR_COPY,
                                               EMULATOR_LAUNCH, EMULATOR_ZERO};
    const pkv_config config = config_of(PKV_BF16);
    emulator_set_costs(1000, 100);
    ASSERT_GT(fail_each_call(&config, calls, sizeof calls / sizeof *calls), 0);
}
