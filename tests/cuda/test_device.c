/* test_device.c - the CUDA device behind the public interface, over the emulator: what is sent and
 * when, what is refused, and what is left when something fails. On a GPU (tests/gpu): what of this
 * needs no emulator.
 *
 * Streams run late and in an odd order, so that a result that is right is right by order and not by
 * luck. Numbers are compared with the simulated device, which computes in double precision. */
#include "unit.h"

#include "device/cuda/kernels.h"
#include "emulator/graph.h"
#include <pthread.h>

enum { DIM = 64, HEADS = 2, GROUP = 4, LAYERS = 3, ROWS_MAX = 64 };

#include "cuda/fixture.h"

static pkv_config config_of(const char* device) {
    pkv_config config = fixture_config(device, PKV_BF16);
    config.blocks = 64;
    config.sequence_tokens_max = 320;
    return config;
}

static pkv_cache* open_on(const char* device) {
    const pkv_config config = config_of(device);
    return create(&config);
}

/* All layers of one step. */
static void run_step(pkv_cache* cache, pkv_seq seq, uint32_t count, const struct arrays* arrays) {
    const pkv_plan plan = begin(cache, seq, count);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        ASSERT_OK(write_layer(cache, plan, layer, arrays));
        ASSERT_OK(attend_layer(cache, plan, layer, arrays));
    }
    ASSERT_OK(pkv_plan_commit(cache, plan));
}

/* ---- Results --------------------------------------------------------------------------------- */

/* The same steps on both devices: a prompt of several pages, then single tokens. */
TEST(results_are_those_of_the_reference) {
    emulator_reset(11);
    pkv_cache* cuda = open_on("cuda");
    pkv_cache* sim = open_on("sim");
    const pkv_seq on_cuda = new_seq(cuda);
    const pkv_seq on_sim = new_seq(sim);
    const uint32_t counts[] = {ROWS_MAX, 1, 1, 17, 1};
    for (uint32_t step = 0; step < 5; step++) {
        struct arrays arrays = arrays_open(100 * step);
        struct arrays wanted = arrays_open(100 * step);
        const uint64_t rows = (uint64_t)counts[step] * HEADS * GROUP;
        run_step(cuda, on_cuda, counts[step], &arrays);
        run_step(sim, on_sim, counts[step], &wanted);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        expect_near(arrays.out, wanted.out, rows * DIM, 0.02F);
        expect_near(arrays.lse, wanted.lse, rows, 0.005F);
        arrays_close(&arrays);
        arrays_close(&wanted);
    }
    ASSERT_OK(pkv_check(cuda, NULL));
    pkv_cache_destroy(cuda);
    pkv_cache_destroy(sim);
    expect_nothing_left();
}

/* A tree in one step, of which a path is kept, and then one more token. */
static void run_tree(pkv_cache* cache, pkv_seq seq, struct arrays* tree, struct arrays* next) {
    enum { ROWS = 7 };
    const uint32_t parents[ROWS] = {PKV_NO_PARENT, 0, 1, 0, 3, PKV_NO_PARENT, 4};
    const uint32_t rows[] = {0, 3, 4, 6};
    const uint32_t* const parents_of[] = {parents};
    const pkv_entry entry = {seq, NULL, ROWS};
    const pkv_path path = {rows, 4};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin_trees(cache, &entry, parents_of, 1, &plan));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        ASSERT_OK(write_layer(cache, plan, layer, tree));
        ASSERT_OK(attend_layer(cache, plan, layer, tree));
    }
    ASSERT_OK(pkv_plan_accept(cache, plan, &path, 1));
    run_step(cache, seq, 1, next);
}

TEST(trees_are_those_of_the_reference) {
    const char* const devices[] = {"cuda", "sim"};
    struct arrays trees[2];
    struct arrays nexts[2];
    emulator_reset(21);
    for (uint32_t i = 0; i < 2; i++) {
        pkv_cache* cache = open_on(devices[i]);
        const pkv_seq seq = new_seq(cache);
        struct arrays prompt = arrays_open(1);
        trees[i] = arrays_open(2);
        nexts[i] = arrays_open(3);
        run_step(cache, seq, 29, &prompt); /* the tree begins at the end of a block */
        run_tree(cache, seq, &trees[i], &nexts[i]);
        ASSERT_OK(pkvi_gpu_stream_wait(NULL));
        ASSERT_OK(pkv_check(cache, NULL));
        arrays_close(&prompt);
        pkv_cache_destroy(cache);
    }
    expect_near(trees[0].out, trees[1].out, 7ULL * HEADS * GROUP * DIM, 0.02F);
    expect_near(trees[0].lse, trees[1].lse, 7ULL * HEADS * GROUP, 0.005F);
    expect_near(nexts[0].out, nexts[1].out, (uint64_t)HEADS * GROUP * DIM, 0.02F);
    for (uint32_t i = 0; i < 2; i++) {
        arrays_close(&trees[i]);
        arrays_close(&nexts[i]);
    }
    expect_nothing_left();
}

/* A path that cannot be moved is not accepted: the plan is as it was, and can be accepted later. */
TEST(a_path_that_cannot_be_moved_is_not_accepted) {
    needs_emulator();
    emulator_reset(22);
    pkv_cache* cache = open_on("cuda");
    const pkv_seq seq = new_seq(cache);
    const uint32_t parents[] = {PKV_NO_PARENT, PKV_NO_PARENT};
    const uint32_t second = 1;
    const uint32_t* const parents_of[] = {parents};
    const pkv_entry entry = {seq, NULL, 2};
    const pkv_path path = {&second, 1};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin_trees(cache, &entry, parents_of, 1, &plan));
    ASSERT_OK(pkv_faults_set(cache, "device.move=1*return(EIO)", 1));
    ASSERT_STATUS(pkv_plan_accept(cache, plan, &path, 1), PKV_EIO);
    ASSERT_OK(pkv_check(cache, NULL));
    ASSERT_OK(pkv_plan_accept(cache, plan, &path, 1));
    ASSERT_OK(pkv_check(cache, NULL));
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

/* Canary: the comparison above can fail. */
TEST(another_query_gives_another_result) {
    emulator_reset(12);
    pkv_cache* cuda = open_on("cuda");
    struct arrays one = arrays_open(1);
    struct arrays other = arrays_open(1);
    for (uint32_t i = 0; i < HEADS * GROUP * DIM; i++)
        other.q[i] = -other.q[i];
    const pkv_plan plan = begin(cuda, new_seq(cuda), ROWS_MAX);
    ASSERT_OK(write_layer(cuda, plan, 0, &one));
    ASSERT_OK(attend_layer(cuda, plan, 0, &one));
    other.q[ROWS_MAX * HEADS * GROUP * DIM - 1] += 8.0F;
    ASSERT_OK(attend_layer(cuda, plan, 0, &other));
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    float difference = 0.0F;
    for (uint32_t i = 0; i < ROWS_MAX * HEADS * GROUP * DIM; i++)
        difference = fmaxf(difference, fabsf(one.out[i] - other.out[i]));
    ASSERT(difference > 0.02F);
    arrays_close(&one);
    arrays_close(&other);
    pkv_cache_destroy(cuda);
    expect_nothing_left();
}

/* A fork shares its tail, which is copied before it is written to; what is read back is what each
 * sequence was given. */
static void copy_shared_tail(uint32_t block_tokens) {
    emulator_reset(13);
    pkv_config config = config_of("cuda");
    config.groups[0].block_tokens = block_tokens;
    pkv_cache* cache = create(&config);
    struct arrays first = arrays_open(1);
    struct arrays second = arrays_open(2);
    const pkv_seq parent = new_seq(cache);
    pkv_seq child;
    run_step(cache, parent, 5, &first);
    ASSERT_OK(pkv_seq_fork(cache, parent, &child));
    run_step(cache, child, 2, &second);
    float* k = floats((uint64_t)7 * HEADS * DIM);
    const pkv_array k_array = {.data = k};
    ASSERT_OK(pkv_seq_read(cache, child, 1, 0, 7, &k_array, NULL));
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    expect_near(k, first.k, 5 * HEADS * DIM, 0.02F);
    expect_near(k + 5 * HEADS * DIM, second.k, 2 * HEADS * DIM, 0.02F);
    pkvi_gpu_free_pinned(k);
    arrays_close(&first);
    arrays_close(&second);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

TEST(a_shared_tail_is_copied_in_the_order_of_the_stream) {
    copy_shared_tail(16);
    copy_shared_tail(64); /* whole, too, though a part of it would do */
}

/* Sequences of which two are read in several splits, in an order in which the longest is neither
 * first nor last, and each with its own number of new tokens. With tiny limits the two do not fit
 * into one round. */
TEST(sequences_of_all_lengths_are_attended_to_at_once) {
    enum { SEQS = 4 };
    const uint32_t lengths[SEQS] = {20, 300, 1, 270};
    const uint32_t counts[SEQS] = {1, 16, 30, 13};
    emulator_reset(14);
    pkv_cache* cuda = open_on("cuda");
    pkv_cache* sim = open_on("sim");
    pkv_entry on_cuda[SEQS];
    pkv_entry on_sim[SEQS];
    float* k[SEQS];
    float* v[SEQS];
    uint32_t rows = 0;
    for (uint32_t i = 0; i < SEQS; i++) {
        k[i] = random_floats((uint64_t)lengths[i] * HEADS * DIM, 10 * i);
        v[i] = random_floats((uint64_t)lengths[i] * HEADS * DIM, 10 * i + 1);
        on_cuda[i] = (pkv_entry){new_seq(cuda), NULL, counts[i]};
        on_sim[i] = (pkv_entry){new_seq(sim), NULL, counts[i]};
        import(cuda, on_cuda[i].seq, lengths[i], k[i], v[i]);
        import(sim, on_sim[i].seq, lengths[i], k[i], v[i]);
        rows += counts[i];
    }
    struct arrays arrays = arrays_open(5);
    struct arrays wanted = arrays_open(5);
    pkv_plan cuda_plan;
    pkv_plan sim_plan;
    ASSERT_OK(pkv_plan_begin(cuda, on_cuda, SEQS, &cuda_plan));
    ASSERT_OK(pkv_plan_begin(sim, on_sim, SEQS, &sim_plan));
    ASSERT_OK(write_layer(cuda, cuda_plan, 2, &arrays));
    ASSERT_OK(write_layer(sim, sim_plan, 2, &wanted));
    ASSERT_OK(attend_layer(cuda, cuda_plan, 2, &arrays));
    ASSERT_OK(attend_layer(sim, sim_plan, 2, &wanted));
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    expect_near(arrays.out, wanted.out, (uint64_t)rows * HEADS * GROUP * DIM, 0.02F);
    expect_near(arrays.lse, wanted.lse, (uint64_t)rows * HEADS * GROUP, 0.005F);
    ASSERT_OK(pkv_plan_abort(cuda, cuda_plan));

    float* back = floats((uint64_t)200 * HEADS * DIM);
    const pkv_array back_array = {.data = back};
    ASSERT_OK(pkv_seq_read(cuda, on_cuda[1].seq, 1, 100, 300, NULL, &back_array));
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    expect_near(back, v[1] + 100 * HEADS * DIM, (uint64_t)200 * HEADS * DIM, 0.02F);
    pkvi_gpu_free_pinned(back);
    for (uint32_t i = 0; i < SEQS; i++) {
        pkvi_gpu_free_pinned(k[i]);
        pkvi_gpu_free_pinned(v[i]);
    }
    arrays_close(&arrays);
    arrays_close(&wanted);
    pkv_cache_destroy(cuda);
    pkv_cache_destroy(sim);
    expect_nothing_left();
}

/* ---- What is sent ---------------------------------------------------------------------------- */

TEST(tables_are_sent_once_for_all_layers) {
    needs_emulator();
    emulator_reset(21);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    const pkv_seq seq = new_seq(cache);
    for (uint32_t step = 0; step < 4; step++) {
        const uint64_t before = emulator_count(EMULATOR_COPY);
        run_step(cache, seq, 3, &arrays);
        ASSERT_EQ(emulator_count(EMULATOR_COPY) - before, 2); /* slots, and tables */
    }
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

/* Nobody waits for the device in a step: everything is still queued at its end. */
TEST(a_step_does_not_wait) {
    needs_emulator();
    emulator_reset(22);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    const pkv_seq seq = new_seq(cache);
    const uint32_t before = emulator_used().queued;
    run_step(cache, seq, 3, &arrays);
    ASSERT_GE(emulator_used().queued - before, 2 * LAYERS + 2);
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

/* A graph would copy tables again whenever it is launched, from memory that holds others by then. */
TEST(tables_are_not_sent_while_a_stream_is_captured) {
    emulator_reset(24);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(7);
    struct pkvi_gpu_stream* stream;
    ASSERT_OK(pkvi_gpu_stream_open(&stream));
    ASSERT_OK(pkv_cache_set_stream(cache, stream));
    const pkv_plan plan = begin(cache, new_seq(cache), 1);
    graph_capture(stream);
    ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_ENOTSUP);
    ASSERT_STATUS(attend_layer(cache, plan, 0, &arrays), PKV_ENOTSUP);
    graph_close(graph_end(stream));
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    ASSERT_OK(attend_layer(cache, plan, 0, &arrays));
    graph_capture(stream); /* they are there now */
    ASSERT_OK(write_layer(cache, plan, 1, &arrays));
    ASSERT_OK(attend_layer(cache, plan, 1, &arrays));
    graph_close(graph_end(stream));
    pkv_cache_destroy(cache);
    pkvi_gpu_stream_close(stream);
    arrays_close(&arrays);
    expect_nothing_left();
}

/* Two plans are open at once and take turns, in two streams that the emulator runs as it likes. */
TEST(streams_change_without_losing_order) {
    emulator_reset(23);
    pkv_cache* cuda = open_on("cuda");
    pkv_cache* sim = open_on("sim");
    struct pkvi_gpu_stream* streams[2];
    ASSERT_OK(pkvi_gpu_stream_open(&streams[0]));
    ASSERT_OK(pkvi_gpu_stream_open(&streams[1]));
    const pkv_seq on_cuda = new_seq(cuda);
    const pkv_seq on_sim = new_seq(sim);
    struct arrays steps[6];
    struct arrays wanted[6];
    for (uint32_t step = 0; step < 6; step++) {
        steps[step] = arrays_open(100 * step);
        wanted[step] = arrays_open(100 * step);
        ASSERT_OK(pkv_cache_set_stream(cuda, streams[step % 2]));
        run_step(cuda, on_cuda, 5, &steps[step]);
        run_step(sim, on_sim, 5, &wanted[step]);
    }
    ASSERT_OK(pkvi_gpu_stream_wait(streams[1]));
    for (uint32_t step = 0; step < 6; step++) {
        expect_near(steps[step].out, wanted[step].out, 5 * HEADS * GROUP * DIM, 0.02F);
        arrays_close(&steps[step]);
        arrays_close(&wanted[step]);
    }
    pkv_cache_destroy(cuda);
    pkv_cache_destroy(sim);
    pkvi_gpu_stream_close(streams[0]);
    pkvi_gpu_stream_close(streams[1]);
    expect_nothing_left();
}

/* More plans than cells have room for, one after the other, before anything has run. */
TEST(staging_memory_is_not_overwritten_before_it_was_sent) {
    emulator_reset(24);
    pkv_cache* cuda = open_on("cuda");
    pkv_cache* sim = open_on("sim");
    const pkv_seq on_cuda = new_seq(cuda);
    const pkv_seq on_sim = new_seq(sim);
    struct arrays steps[9];
    struct arrays wanted[9];
    for (uint32_t step = 0; step < 9; step++) {
        steps[step] = arrays_open(100 * step);
        wanted[step] = arrays_open(100 * step);
        run_step(cuda, on_cuda, 1 + step, &steps[step]);
        run_step(sim, on_sim, 1 + step, &wanted[step]);
    }
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    for (uint32_t step = 0; step < 9; step++) {
        const uint64_t elements = (uint64_t)(1 + step) * HEADS * GROUP * DIM;
        expect_near(steps[step].out, wanted[step].out, elements, 0.02F);
        arrays_close(&steps[step]);
        arrays_close(&wanted[step]);
    }
    pkv_cache_destroy(cuda);
    pkv_cache_destroy(sim);
    expect_nothing_left();
}

/* ---- Threads --------------------------------------------------------------------------------- */

struct worker {
    pkv_cache* cache;
    pkv_seq seq;
    struct arrays arrays;
    int status; /* the first that was not PKV_OK */
};

static int step_of_worker(struct worker* worker) {
    const pkv_entry entry = {worker->seq, NULL, 5};
    pkv_plan plan;
    int status = pkv_plan_begin(worker->cache, &entry, 1, &plan);
    for (uint32_t layer = 0; layer < LAYERS && status == PKV_OK; layer++) {
        status = write_layer(worker->cache, plan, layer, &worker->arrays);
        if (status == PKV_OK) status = attend_layer(worker->cache, plan, layer, &worker->arrays);
    }
    return status == PKV_OK ? pkv_plan_commit(worker->cache, plan) : status;
}

static void* run_worker(void* argument) {
    struct worker* worker = argument;
    for (uint32_t step = 0; step < 8 && worker->status == PKV_OK; step++)
        worker->status = step_of_worker(worker);
    return NULL;
}

/* Two threads, each with a plan of its own, put their work into the same stream. */
TEST(threads_share_the_stream) {
    emulator_reset(25);
    pkv_cache* cuda = open_on("cuda");
    pkv_cache* sim = open_on("sim");
    struct worker workers[2];
    pthread_t threads[2];
    for (uint32_t i = 0; i < 2; i++) {
        workers[i] = (struct worker){cuda, new_seq(cuda), arrays_open(100 * i), PKV_OK};
        ASSERT_EQ(pthread_create(&threads[i], NULL, run_worker, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < 2; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    for (uint32_t i = 0; i < 2; i++) {
        struct worker wanted = {sim, new_seq(sim), arrays_open(100 * i), PKV_OK};
        run_worker(&wanted);
        ASSERT_OK(workers[i].status);
        ASSERT_OK(wanted.status);
        expect_near(workers[i].arrays.out, wanted.arrays.out, 5 * HEADS * GROUP * DIM, 0.02F);
        arrays_close(&workers[i].arrays);
        arrays_close(&wanted.arrays);
    }
    pkv_cache_destroy(cuda);
    pkv_cache_destroy(sim);
    expect_nothing_left();
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void expect_refused(const pkv_config* config, const char* field) {
    const char* why = NULL;
    pkv_cache* cache;
    ASSERT_STATUS(pkv_config_check(config, &why, NULL), PKV_ENOTSUP);
    ASSERT(strncmp(why, field, strlen(field)) == 0);
    ASSERT_STATUS(pkv_cache_create(config, &cache), PKV_ENOTSUP);
}

TEST(what_has_no_kernel_is_refused_with_a_list) {
    emulator_reset(31);
    const pkv_config good = config_of("cuda");
    ASSERT_OK(pkv_config_check(&good, NULL, NULL));
    pkv_config bad = good;
    bad.groups[0].key_dim = 80;
    expect_refused(&bad, "groups[0].key_dim: 64, 96, 128 or 256");
    bad = good;
    bad.groups[0].value_dim = 128;
    expect_refused(&bad, "groups[0].value_dim:");
    bad = good;
    bad.groups[0].k_dtype = PKV_F32;
    expect_refused(&bad, "groups[0].k_dtype:");
    bad = good;
    bad.groups[0].v_dtype = PKV_I4;
    expect_refused(&bad, "groups[0].v_dtype:");
    bad = good;
    bad.groups[0].v_dtype = PKV_F16;
    expect_refused(&bad, "groups[0].v_dtype: as k_dtype, or beside i8 f16 or bf16");
    bad = good;
    bad.groups[0].k_dtype = PKV_I8;
    ASSERT_OK(pkv_config_check(&bad, NULL, NULL));
    bad = good;
    bad.groups[0].block_tokens = 8;
    expect_refused(&bad, "groups[0].block_tokens: a multiple of 16");
    bad = good;
    bad.device_ordinal = 64;
    expect_refused(&bad, "device_ordinal:");
    expect_nothing_left();
}

/* All that there are kernels for fits compute capability 8.0; what 8.9 has not room for is in the
 * header. */
TEST(shared_memory_suffices) {
    const uint32_t dims[] = {64, 96, 128, 256};
    const uint32_t pairs[][2] = {{PKV_F16, PKV_F16},   {PKV_BF16, PKV_BF16}, {PKV_I8, PKV_I8},
                                 {PKV_E4M3, PKV_E4M3}, {PKV_I8, PKV_F16},    {PKV_I8, PKV_BF16}};
    for (uint32_t d = 0; d < 4; d++)
        for (uint32_t p = 0; p < 6; p++) {
            const struct pkvi_gpu_types cache = {dims[d], pairs[p][0], pairs[p][1]};
            const bool is_small = cache.k_dtype >= PKV_I8;
            ASSERT(pkvi_gpu_has_kernel(cache));
            for (int is_f32 = 0; is_f32 < 2; is_f32++) {
                const uint64_t bytes = pkvi_gpu_shared_bytes(cache, is_f32);
                const uint32_t most = is_small ? 128 : is_f32 ? 64 : 96;
                ASSERT_GT(163 * 1024 + 1, bytes);
                ASSERT_EQ(bytes <= 99 * 1024, cache.dim <= most);
            }
        }
    ASSERT(!pkvi_gpu_has_kernel((struct pkvi_gpu_types){64, PKV_F16, PKV_I8}));
    ASSERT(!pkvi_gpu_has_kernel((struct pkvi_gpu_types){64, PKV_F16, PKV_BF16}));
}

/* Older than what the kernels need; and newer than the machine code that there is, with a driver that
 * cannot compile what would replace it. */
TEST(gpus_that_kernels_cannot_run_on_are_refused) {
    needs_emulator();
    emulator_reset(34);
    const pkv_config config = config_of("cuda");
    emulator_set_gpus(1, 7, false);
    expect_refused(&config, "device_ordinal: the GPU is older than Ampere");
    emulator_set_gpus(1, 10, true);
    expect_refused(&config, "device: the NVIDIA driver is older than the CUDA");
    emulator_set_gpus(1, 10, false);
    ASSERT_OK(pkv_config_check(&config, NULL, NULL));
    emulator_set_gpus(1, 9, true);
    ASSERT_OK(pkv_config_check(&config, NULL, NULL));
    emulator_set_gpus(1, 9, false);
    expect_nothing_left();
}

/* Compute capability 8.9 has 99 KiB for a thread block, 8.0 has 163. */
TEST(what_needs_more_shared_memory_than_there_is_is_refused) {
    needs_emulator();
    emulator_reset(32);
    emulator_set_shared(99 * 1024);
    pkv_config config = config_of("cuda");
    ASSERT_OK(pkv_config_check(&config, NULL, NULL));
    config.groups[0].key_dim = config.groups[0].value_dim = 128;
    expect_refused(&config, "groups[0].key_dim: the GPU has too little shared memory");
    config.groups[0].k_dtype = config.groups[0].v_dtype = PKV_I8;
    ASSERT_OK(pkv_config_check(&config, NULL, NULL));
    emulator_set_shared(60 * 1024); /* bf16 and dim 64: with q in f32 it takes 72 KiB */
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    const pkv_plan plan = begin(cache, new_seq(cache), 1);
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    ASSERT_STATUS(attend_layer(cache, plan, 0, &arrays), PKV_ENOTSUP);
    pkv_cache_destroy(cache);
    arrays_close(&arrays);
    emulator_set_shared(227 * 1024);
    expect_nothing_left();
}

TEST(bad_arguments_change_nothing) {
    emulator_reset(32);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    const pkv_plan plan = begin(cache, new_seq(cache), 2);
    static float on_host[2 * HEADS * GROUP * DIM];
    struct arrays bad = arrays;
    pkv_report before;
    pkv_report after;
    ASSERT_OK(pkv_check(cache, &before));
    bad.k = on_host;
    ASSERT_STATUS(write_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.v = on_host;
    ASSERT_STATUS(write_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.k = (float*)(void*)((char*)arrays.k + 2);
    ASSERT_STATUS(write_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.q = on_host;
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.q = (float*)(void*)((char*)arrays.q + 2);
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.out = on_host;
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.lse = on_host;
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.lse = (float*)(void*)((char*)arrays.lse + 2);
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad = arrays;
    bad.sinks = on_host;
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    bad.sinks = (float*)(void*)((char*)arrays.sinks + 2);
    ASSERT_STATUS(attend_layer(cache, plan, 0, &bad), PKV_EINVAL);
    const pkv_attention many = {
        .q = {.data = arrays.q}, .out = {.data = arrays.out}, .query_heads = HEADS * 129};
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &many), PKV_ENOTSUP);
    if (emulator_is_here()) /* CUDA does not survive this question */
        ASSERT_STATUS(pkv_cache_set_stream(cache, on_host), PKV_EINVAL);
    ASSERT_STATUS(pkv_cache_set_stream(NULL, NULL), PKV_EINVAL);
    ASSERT_EQ(emulator_used().queued, 0);
    ASSERT_OK(pkv_check(cache, &after));
    ASSERT_EQ(after.cache_digest, before.cache_digest);
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    ASSERT_OK(attend_layer(cache, plan, 0, &arrays));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

TEST(other_devices_have_no_streams) {
    pkv_cache* cache = open_on("sim");
    ASSERT_STATUS(pkv_cache_set_stream(cache, NULL), PKV_ENOTSUP);
    pkv_cache_destroy(cache);
}

/* ---- What fails ------------------------------------------------------------------------------ */

/* Two kernels, for queries in f32 and in fewer bits, when a cache is created; never later. */
TEST(kernels_are_prepared_once) {
    needs_emulator();
    emulator_reset(33);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    const pkv_seq seq = new_seq(cache);
    ASSERT_EQ(emulator_count(EMULATOR_PREPARE), 4);
    run_step(cache, seq, ROWS_MAX, &arrays);
    run_step(cache, seq, 1, &arrays);
    ASSERT_EQ(emulator_count(EMULATOR_PREPARE), 4);
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
}

/* Every allocation of a cache in turn: nothing is left of a failed one. */
TEST(a_failed_allocation_leaves_nothing) {
    needs_emulator();
    const enum emulator_call calls[] = {EMULATOR_ALLOC, EMULATOR_ALLOC_PINNED, EMULATOR_EVENT,
                                        EMULATOR_ZERO, EMULATOR_PREPARE};
    const pkv_config config = config_of("cuda");
    ASSERT_GT(fail_each_call(&config, calls, 5), 15);
}

/* A copy or launch that fails once fails its call, and the same call then succeeds. */
TEST(a_failure_that_passes_is_one_call) {
    needs_emulator();
    emulator_reset(42);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    struct arrays wanted = arrays_open(1);
    const pkv_plan plan = begin(cache, new_seq(cache), 2);
    const enum emulator_call calls[] = {EMULATOR_COPY, EMULATOR_RECORD, EMULATOR_LAUNCH};
    for (uint32_t c = 0; c < 3; c++) {
        emulator_fail(calls[c], 0, PKV_EIO);
        ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_EIO);
    }
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    for (uint32_t c = 0; c < 3; c++) {
        emulator_fail(calls[c], 0, PKV_EIO);
        ASSERT_STATUS(attend_layer(cache, plan, 0, &arrays), PKV_EIO);
    }
    ASSERT_OK(attend_layer(cache, plan, 0, &arrays));
    pkv_cache* sim = open_on("sim");
    const pkv_plan other = begin(sim, new_seq(sim), 2);
    ASSERT_OK(write_layer(sim, other, 0, &wanted));
    ASSERT_OK(attend_layer(sim, other, 0, &wanted));
    ASSERT_OK(pkvi_gpu_stream_wait(NULL));
    expect_near(arrays.out, wanted.out, 2 * HEADS * GROUP * DIM, 0.02F);
    arrays_close(&arrays);
    arrays_close(&wanted);
    pkv_cache_destroy(cache);
    pkv_cache_destroy(sim);
    expect_nothing_left();
}

/* An error that stays is reported, by the call that meets it or a later one, and by all after it. */
TEST(an_error_that_stays_poisons_the_cache) {
    needs_emulator();
    emulator_reset(43);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    const pkv_seq seq = new_seq(cache);
    const pkv_plan plan = begin(cache, seq, 2);
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    emulator_fault(0);
    ASSERT_OK(attend_layer(cache, plan, 0, &arrays)); /* it is only queued */
    ASSERT_STATUS(pkvi_gpu_stream_wait(NULL), PKV_EDEVICE);
    ASSERT_STATUS(write_layer(cache, plan, 1, &arrays), PKV_EDEVICE);
    emulator_reset(43); /* the process has the GPU again; the cache has lost its contents */
    ASSERT_STATUS(write_layer(cache, plan, 1, &arrays), PKV_EDEVICE);
    ASSERT_STATUS(attend_layer(cache, plan, 1, &arrays), PKV_EDEVICE);
    ASSERT_STATUS(pkv_cache_set_stream(cache, NULL), PKV_EDEVICE);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_check(cache, NULL));
    pkv_cache_destroy(cache);
    pkv_cache* next = open_on("cuda");
    run_step(next, new_seq(next), 2, &arrays);
    arrays_close(&arrays);
    pkv_cache_destroy(next);
    expect_nothing_left();
}

/* The fault points of the library work on this device too, a status that stays included. */
TEST(fault_points_are_visited) {
    emulator_reset(44);
    pkv_cache* cache = open_on("cuda");
    struct arrays arrays = arrays_open(1);
    const pkv_plan plan = begin(cache, new_seq(cache), 2);
    ASSERT_OK(pkv_faults_set(cache, "device.write=1*return(EIO);device.attend=1*return(EIO)", 1));
    ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_EIO);
    ASSERT_OK(write_layer(cache, plan, 0, &arrays));
    ASSERT_STATUS(attend_layer(cache, plan, 0, &arrays), PKV_EIO);
    ASSERT_OK(attend_layer(cache, plan, 0, &arrays));
    ASSERT_OK(pkv_faults_set(cache, "device.write=1*return(EDEVICE)", 1));
    ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_EDEVICE);
    ASSERT_STATUS(write_layer(cache, plan, 0, &arrays), PKV_EDEVICE);
    arrays_close(&arrays);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}
