/* test_sweep.c - every call that the CUDA device makes to its system fails in turn.
 *
 * A program of steps uses all that the device does: kernels, copies of blocks, scrubs, streams, swaps,
 * loads of captured steps. Each call of each kind fails once: the step in which it falls fails with that
 * status and has changed nothing that sequences can see, the books are sound, and the same step then
 * succeeds. At the end results are, bit for bit, those of a run without failures. Calls that fail for
 * good end everything but the process. */
#include "unit.h"

#include "emulator/control.h"

enum { DIM = 64, HEADS = 1, GROUP = 2, LAYERS = 2, ROWS_MAX = 40 };

#include "cuda/fixture.h"

enum { FIRST_TOKENS = 36, MORE_TOKENS = 5, RESULTS_MAX = 16 };

struct world {
    pkv_cache* cache;
    struct pkvi_gpu_stream* stream;
    struct arrays arrays;
    pkv_seq seq;
    pkv_seq child;
    pkv_plan plan;
    pkv_plan shape;
    uint64_t results[RESULTS_MAX]; /* hashes of what came out, in the order of steps */
    uint32_t result_count;
};

static pkv_config config_of(void) {
    pkv_config config = fixture_config("cuda", PKV_I8);
    config.blocks = 6;
    config.host_blocks = 4;
    config.swap_layers = 1;
    config.sequence_tokens_max = 80;
    config.plans_max = 2;
    config.graph_sequences_max = 1;
    config.graph_query_heads = HEADS * GROUP;
    return config;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* What is in `memory` when all is done that was asked for. */
static void note_result(struct world* world, const void* memory, uint64_t bytes) {
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    ASSERT_OK(pkvi_gpu_stream_wait(world->stream));
    const struct pkvi_hash_key key = {1, 2};
    world->results[world->result_count++] = pkvi_hash(key, memory, bytes);
}

static int begin_for(struct world* world, pkv_seq seq, uint32_t count) {
    const pkv_entry entry = {seq, NULL, count};
    pkv_plan plan;
    const int status = pkv_plan_begin(world->cache, &entry, 1, &plan);
    if (status == PKV_OK) world->plan = plan;
    return status;
}

static int begin_first(struct world* world) {
    return begin_for(world, world->seq, FIRST_TOKENS);
}

static int write_first_layer(struct world* world) {
    return write_layer(world->cache, world->plan, 0, &world->arrays);
}

static int write_last_layer(struct world* world) {
    return write_layer(world->cache, world->plan, LAYERS - 1, &world->arrays);
}

static int attend_to(struct world* world, pkv_plan plan, uint32_t layer, uint32_t rows) {
    const int status = attend_layer(world->cache, plan, layer, &world->arrays);
    if (status == PKV_OK)
        note_result(world, world->arrays.out, rows * HEADS * GROUP * DIM * sizeof(float));
    return status;
}

static int attend_first_layer(struct world* world) {
    return attend_to(world, world->plan, 0, FIRST_TOKENS);
}

static int attend_last_layer(struct world* world) {
    return attend_to(world, world->plan, LAYERS - 1, MORE_TOKENS);
}

static int commit(struct world* world) {
    return pkv_plan_commit(world->cache, world->plan);
}

static int give_up(struct world* world) {
    return pkv_plan_abort(world->cache, world->plan);
}

static int fork(struct world* world) {
    return pkv_seq_fork(world->cache, world->seq, &world->child);
}

/* Copies the block that both share. */
static int begin_child(struct world* world) {
    return begin_for(world, world->child, MORE_TOKENS);
}

static int use_stream(struct world* world) {
    return pkv_cache_set_stream(world->cache, world->stream);
}

static int read_back(struct world* world) {
    const pkv_array k = {.data = world->arrays.k};
    const pkv_array v = {.data = world->arrays.v};
    const int status = pkv_seq_read(world->cache, world->seq, 1, 0, FIRST_TOKENS, &k, &v);
    const uint64_t bytes = (uint64_t)FIRST_TOKENS * HEADS * DIM * sizeof(float);
    if (status != PKV_OK) return status;
    note_result(world, world->arrays.k, bytes);
    note_result(world, world->arrays.v, bytes);
    return PKV_OK;
}

static int free_child(struct world* world) {
    return pkv_seq_free(world->cache, world->child);
}

static int swap_out(struct world* world) {
    pkv_transfer transfer;
    PKVI_TRY(pkv_seq_swap_out(world->cache, world->seq, &transfer));
    return pkv_transfer_wait(world->cache, transfer);
}

/* A stranger, whose blocks are zeroed first. */
static int begin_stranger(struct world* world) {
    return begin_for(world, world->child, FIRST_TOKENS);
}

static int create_stranger(struct world* world) {
    return pkv_seq_create(world->cache, 7, &world->child);
}

static int swap_in(struct world* world) {
    pkv_transfer transfer;
    uint32_t done = 0;
    PKVI_TRY(pkv_seq_swap_in(world->cache, world->seq, &transfer));
    while (!done)
        PKVI_TRY(pkv_transfer_poll(world->cache, transfer, &done));
    return PKV_OK;
}

static int begin_one(struct world* world) {
    return begin_for(world, world->seq, 1);
}

static int load(struct world* world) {
    return pkv_graph_load(world->cache, world->plan, 1, 1);
}

static int open_shape(struct world* world) {
    return pkv_graph_begin(world->cache, 1, 1, &world->shape);
}

static int write_shape(struct world* world) {
    return write_layer(world->cache, world->shape, 0, &world->arrays);
}

static int attend_shape(struct world* world) {
    return attend_to(world, world->shape, 0, 1);
}

static int (*const steps[])(struct world*) = {
    begin_first,      write_first_layer,
    write_last_layer, attend_first_layer,
    commit,           fork,
    begin_child,      write_first_layer,
    write_last_layer, attend_last_layer,
    commit,           read_back,
    use_stream,       free_child,
    swap_out,         create_stranger,
    begin_stranger,   give_up,
    free_child,       swap_in,
    read_back,        begin_one,
    open_shape,       load,
    write_shape,      write_last_layer,
    attend_shape,     commit,
    read_back,
};

enum { STEPS = sizeof steps / sizeof *steps };

/* ---- Runs ------------------------------------------------------------------------------------ */

/* Failures are armed when the cache is there. */
static void open_world(struct world* world) {
    const pkv_config config = config_of();
    emulator_reset(1);
    emulator_seed(1);
    *world = (struct world){.cache = create(&config), .arrays = arrays_open(5)};
    ASSERT_OK(pkvi_gpu_stream_open(&world->stream));
    world->seq = new_seq_of(world->cache, 1);
}

static void close_world(struct world* world) {
    pkv_cache_destroy(world->cache);
    emulator_reset(1);
    pkvi_gpu_stream_close(world->stream);
    arrays_close(&world->arrays);
    expect_nothing_left();
}

static uint64_t digest_of(const struct world* world) {
    pkv_report report;
    ASSERT_OK(pkv_check(world->cache, &report));
    return report.sequences_digest;
}

/* Failed steps so far; a step that fails is done once more. */
static uint32_t run(struct world* world, int wanted) {
    uint32_t failed = 0;
    for (uint32_t i = 0; i < STEPS; i++) {
        const uint64_t before = digest_of(world);
        const int status = steps[i](world);
        if (status == PKV_OK) continue;
        failed++;
        ASSERT_STATUS(status, wanted);
        ASSERT_EQ(digest_of(world), before);
        ASSERT_OK(steps[i](world));
    }
    return failed;
}

/* From the first failure on every step fails, or has nothing to do with the device. */
static void run_to_the_end(struct world* world) {
    bool is_lost = false;
    for (uint32_t i = 0; i < STEPS; i++) {
        const int status = steps[i](world);
        is_lost |= status == PKV_EDEVICE;
        ASSERT_OK(pkv_check(world->cache, NULL));
        if (is_lost) break;
        ASSERT_OK(status);
    }
    ASSERT(is_lost);
    ASSERT_STATUS(pkv_cache_set_stream(world->cache, NULL), PKV_EDEVICE);
}

static const enum emulator_call kinds[] = {EMULATOR_COPY,   EMULATOR_ZERO,  EMULATOR_LAUNCH,
                                           EMULATOR_RECORD, EMULATOR_ORDER, EMULATOR_QUERY,
                                           EMULATOR_ENTER};

enum { KINDS = sizeof kinds / sizeof *kinds };

/* Calls of each kind in a run in which none fails, and its results. */
static void measure(struct world* world, uint64_t counts[KINDS]) {
    uint64_t before[KINDS];
    open_world(world);
    for (uint32_t k = 0; k < KINDS; k++)
        before[k] = emulator_count(kinds[k]);
    ASSERT_EQ(run(world, PKV_OK), 0);
    for (uint32_t k = 0; k < KINDS; k++)
        counts[k] = emulator_count(kinds[k]) - before[k];
    close_world(world);
}

TEST(calls_that_fail_once_lose_nothing) {
    struct world good;
    uint64_t counts[KINDS];
    uint32_t noticed = 0;
    measure(&good, counts);
    for (uint32_t k = 0; k < KINDS; k++) {
        ASSERT_GT(counts[k], 0);
        for (uint32_t n = 0; n < counts[k]; n++) {
            struct world world;
            open_world(&world);
            emulator_fail(kinds[k], n, PKV_EIO);
            noticed += run(&world, PKV_EIO);
            ASSERT_EQ(world.result_count, good.result_count);
            ASSERT_MEM(world.results, good.results, good.result_count * sizeof *good.results);
            close_world(&world);
        }
    }
    ASSERT_GT(noticed, 60);
}

TEST(calls_that_fail_for_good_leave_sound_books) {
    struct world good;
    uint64_t counts[KINDS];
    measure(&good, counts);
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t n = 0; n < counts[k]; n++) {
            struct world world;
            open_world(&world);
            emulator_fail(kinds[k], n, PKV_EDEVICE);
            run_to_the_end(&world);
            close_world(&world);
        }
}
