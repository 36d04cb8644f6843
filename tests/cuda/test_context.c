/* test_context.c - what a call does to the thread of its caller: nothing. The cache lives on the second of
 * two GPUs, and the caller's thread uses the first one, or none yet. */
#include "unit.h"

enum { DIM = 64, HEADS = 2, GROUP = 2, LAYERS = 2, ROWS_MAX = 40 };

#include "cuda/fixture.h"

enum { OURS = 1, ON_OURS = 1 << OURS };

static pkv_config config_on_second(void) {
    pkv_config config = fixture_config("cuda", PKV_BF16);
    emulator_reset(1);
    emulator_set_gpus(2, 9, false);
    config.blocks = 24;
    config.host_blocks = 8;
    config.device_ordinal = OURS;
    config.graph_sequences_max = 1;
    config.graph_query_heads = HEADS * GROUP;
    return config;
}

static void expect_untouched(void) {
    ASSERT_EQ(emulator_selected(), 0);
    ASSERT_EQ(emulator_contexts(), ON_OURS);
}

/* Arrays of the second GPU, for which the test selects it for a moment. */
static struct arrays open_arrays(void) {
    emulator_select(OURS);
    struct arrays arrays = arrays_open(1);
    emulator_select(0);
    return arrays;
}

static void close_arrays(struct arrays* arrays) {
    emulator_select(OURS);
    arrays_close(arrays);
    emulator_select(0);
}

static void finish(pkv_cache* cache) {
    pkv_cache_destroy(cache);
    expect_untouched();
    expect_nothing_left();
    emulator_set_gpus(1, 9, false);
    emulator_reset(1);
}

static void compute(pkv_cache* cache, pkv_seq seq, const struct arrays* arrays) {
    const pkv_plan plan = begin(cache, seq, 20);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        ASSERT_OK(write_layer(cache, plan, layer, arrays));
        ASSERT_OK(attend_layer(cache, plan, layer, arrays));
    }
    ASSERT_OK(pkv_plan_commit(cache, plan));
    expect_untouched();
}

static void swap(pkv_cache* cache, pkv_seq seq) {
    pkv_transfer transfer;
    uint32_t done = 0;
    ASSERT_OK(pkv_seq_swap_out(cache, seq, &transfer));
    ASSERT_OK(pkv_transfer_wait(cache, transfer));
    expect_untouched();
    ASSERT_OK(pkv_seq_swap_in(cache, seq, &transfer));
    ASSERT_OK(pkv_transfer_cancel(cache, transfer));
    expect_untouched();
    ASSERT_OK(pkv_seq_swap_in(cache, seq, &transfer));
    while (!done)
        ASSERT_OK(pkv_transfer_poll(cache, transfer, &done));
    expect_untouched();
}

static void load_graph(pkv_cache* cache, pkv_seq seq) {
    const pkv_plan plan = begin(cache, seq, 1);
    ASSERT_OK(pkv_graph_load(cache, plan, 1, 1));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    expect_untouched();
}

/* Everything that asks something of the GPU. */
TEST(the_thread_is_left_as_it_was) {
    const pkv_config config = config_on_second();
    ASSERT_OK(pkv_config_check(&config, NULL, NULL));
    ASSERT_EQ(emulator_contexts(), 0);
    pkv_cache* cache = create(&config);
    expect_untouched();
    struct arrays arrays = open_arrays();
    const pkv_array k = {.data = arrays.k};
    const pkv_seq seq = new_seq(cache);
    pkv_seq child;
    compute(cache, seq, &arrays);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child)); /* whose first step copies a block */
    compute(cache, child, &arrays);
    ASSERT_OK(pkv_seq_read(cache, seq, 0, 0, 20, &k, NULL));
    ASSERT_OK(pkv_cache_set_stream(cache, NULL));
    swap(cache, seq);
    load_graph(cache, seq);
    close_arrays(&arrays);
    finish(cache);
}

/* Errors leave it like that too. */
TEST(so_do_calls_that_fail) {
    const pkv_config config = config_on_second();
    pkv_cache* cache;
    emulator_fail(EMULATOR_ALLOC, 2, PKV_ENOMEM);
    ASSERT_STATUS(pkv_cache_create(&config, &cache), PKV_ENOMEM);
    expect_untouched();
    expect_nothing_left();
    cache = create(&config);
    struct arrays arrays = open_arrays();
    const pkv_plan plan = begin(cache, new_seq(cache), 2);
    emulator_fail(EMULATOR_LAUNCH, 0, PKV_EIO);
    ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_EIO);
    emulator_fail(EMULATOR_ENTER, 0, PKV_EIO);
    ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_EIO);
    expect_untouched();
    emulator_fail(EMULATOR_LAUNCH, 0, PKV_EDEVICE);
    ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_EDEVICE);
    ASSERT_STATUS(attend_layer(cache, plan, 0, &arrays), PKV_EDEVICE);
    expect_untouched();
    close_arrays(&arrays);
    finish(cache);
}

/* A context that is not to be had, and one that cannot be entered, at every place in create. */
TEST(create_fails_whole_without_a_context) {
    static const enum emulator_call calls[] = {EMULATOR_CONTEXT, EMULATOR_ENTER};
    uint32_t failures = 0;
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t n = 0;; n++) {
            const pkv_config config = config_on_second();
            pkv_cache* cache;
            emulator_fail(calls[c], n, PKV_ENOMEM);
            const int status = pkv_cache_create(&config, &cache);
            emulator_reset(1);
            if (status == PKV_OK) {
                pkv_cache_destroy(cache);
                break;
            }
            ASSERT_STATUS(status, PKV_ENOMEM);
            expect_nothing_left();
            failures++;
        }
    ASSERT_GT(failures, 2);
    emulator_set_gpus(1, 9, false);
}

/* ---- What belongs to another GPU ------------------------------------------------------------- */

TEST(streams_and_memory_of_another_gpu_are_refused) {
    const pkv_config config = config_on_second();
    pkv_cache* cache = create(&config);
    struct arrays arrays = open_arrays();
    struct arrays bad = arrays;
    struct pkvi_gpu_stream* other; /* of the first GPU, which is selected */
    void* memory;
    pkv_report before;
    pkv_report after;
    const pkv_plan plan = begin(cache, new_seq(cache), 2);
    ASSERT_OK(pkv_check(cache, &before));
    ASSERT_OK(pkvi_gpu_stream_open(&other));
    ASSERT_OK(pkvi_gpu_alloc(sizeof(float) * KV_FLOATS, &memory));
    ASSERT_STATUS(pkv_cache_set_stream(cache, other), PKV_EINVAL);
    bad.k = memory;
    ASSERT_STATUS(write_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.q = memory;
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    ASSERT_OK(pkv_check(cache, &after));
    ASSERT_EQ(before.cache_digest, after.cache_digest);
    ASSERT_EQ(emulator_used().queued, 0);
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    ASSERT_OK(attend_layer(cache, plan, 0, &arrays));
    pkvi_gpu_free(memory);
    pkvi_gpu_stream_close(other);
    close_arrays(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
    emulator_set_gpus(1, 9, false);
    emulator_reset(1);
}
