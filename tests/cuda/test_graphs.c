/* test_graphs.c - captured steps of the CUDA device, over the emulator, which records and replays graphs,
 * and (tests/gpu) over CUDA's own.
 *
 * Two caches with the same seed live through the same: one is called for each step, in the other a
 * step has been captured and is launched. What comes out, and what is stored, has the same bits. */
#include "unit.h"

#include "emulator/control.h"
#include "emulator/graph.h"
#include <string.h>

enum { DIM = 64, HEADS = 2, GROUP = 4, LAYERS = 3, ROWS_MAX = 64 };

#include "cuda/fixture.h"

enum { SEQUENCES = 4, TOKENS = 2, SEEDS = 6, WINDOW = 70 };

static pkv_config config_of(uint32_t dtype) {
    pkv_config config = fixture_config("cuda", dtype);
    config.blocks = 96;
    config.sequence_tokens_max = 320;
    config.graph_sequences_max = SEQUENCES;
    config.graph_sequence_tokens_max = TOKENS;
    config.graph_query_heads = HEADS * GROUP;
    return config;
}

/* ---- A cache with a captured step ------------------------------------------------------------ */

struct engine {
    pkv_cache* cache;
    struct pkvi_gpu_stream* stream;
    struct graph* graph; /* NULL: calls are not captured */
    uint32_t sequences;  /* that it was captured for */
    struct arrays layers[LAYERS];
    pkv_seq seqs[SEQUENCES];
};

/* All layers of a step. */
static void call_layers(const struct engine* engine, pkv_plan plan) {
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        ASSERT_OK(write_layer(engine->cache, plan, layer, &engine->layers[layer]));
        ASSERT_OK(attend_layer(engine->cache, plan, layer, &engine->layers[layer]));
    }
}

static struct graph* capture(const struct engine* engine, uint32_t sequences) {
    pkv_plan shape;
    ASSERT_OK(pkv_graph_begin(engine->cache, sequences, TOKENS, &shape));
    graph_capture(engine->stream);
    call_layers(engine, shape);
    struct graph* graph = graph_end(engine->stream);
    ASSERT_OK(pkv_plan_abort(engine->cache, shape));
    return graph;
}

static struct engine open_engine(const pkv_config* config, bool is_captured) {
    struct engine engine = {.cache = create(config), .sequences = SEQUENCES};
    ASSERT_OK(pkvi_gpu_stream_open(&engine.stream));
    ASSERT_OK(pkv_cache_set_stream(engine.cache, engine.stream));
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        engine.layers[layer] = arrays_open(layer);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        engine.seqs[i] = new_seq(engine.cache);
    if (is_captured) engine.graph = capture(&engine, SEQUENCES);
    return engine;
}

static void close_engine(struct engine* engine) {
    ASSERT_OK(pkvi_gpu_stream_wait(engine->stream));
    if (engine->graph != NULL) graph_close(engine->graph);
    pkv_cache_destroy(engine->cache);
    pkvi_gpu_stream_close(engine->stream);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        arrays_close(&engine->layers[layer]);
}

/* Inputs of a step, for both caches the same, and results that nobody has written. */
static void draw_inputs(struct engine* engine, uint64_t seed) {
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        struct arrays* arrays = &engine->layers[layer];
        draw_floats(arrays->k, KV_FLOATS, seed + 10 * layer);
        draw_floats(arrays->v, KV_FLOATS, seed + 10 * layer + 1);
        draw_floats(arrays->q, Q_FLOATS, seed + 10 * layer + 2);
        memset(arrays->out, 0xff, Q_FLOATS * sizeof(float));
        memset(arrays->lse, 0xff, LSE_FLOATS * sizeof(float));
    }
}

/* The sequences of a step and their new tokens: 0 where one does not take part. */
struct step {
    uint32_t counts[SEQUENCES];
};

static pkv_plan begin_step(const struct engine* engine, struct step step) {
    pkv_entry entries[SEQUENCES];
    uint32_t count = 0;
    pkv_plan plan;
    for (uint32_t i = 0; i < SEQUENCES; i++)
        if (step.counts[i] > 0)
            entries[count++] = (pkv_entry){engine->seqs[i], NULL, step.counts[i]};
    ASSERT_OK(pkv_plan_begin(engine->cache, entries, count, &plan));
    return plan;
}

static void launch(const struct engine* engine, pkv_plan plan) {
    ASSERT_OK(pkv_graph_load(engine->cache, plan, engine->sequences, TOKENS));
    graph_launch(engine->graph, engine->stream);
}

static void run_step(struct engine* engine, struct step step, uint64_t seed) {
    draw_inputs(engine, seed);
    const pkv_plan plan = begin_step(engine, step);
    if (engine->graph != NULL)
        launch(engine, plan);
    else
        call_layers(engine, plan);
    ASSERT_OK(pkv_plan_commit(engine->cache, plan));
    ASSERT_OK(pkvi_gpu_stream_wait(engine->stream));
}

/* Results, rows that the step does not have included. */
static bool has_same_results(const struct engine* a, const struct engine* b) {
    bool same = true;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const struct arrays* left = &a->layers[layer];
        const struct arrays* right = &b->layers[layer];
        same &= memcmp(left->out, right->out, Q_FLOATS * sizeof(float)) == 0;
        same &= memcmp(left->lse, right->lse, LSE_FLOATS * sizeof(float)) == 0;
    }
    return same;
}

static float* read_values(const struct engine* engine, uint32_t seq, uint32_t layer, uint32_t begin,
                          uint32_t end) {
    float* values = floats((uint64_t)(end - begin) * HEADS * DIM);
    const pkv_array array = {.data = values};
    ASSERT_OK(pkv_seq_read(engine->cache, engine->seqs[seq], layer, begin, end, NULL, &array));
    ASSERT_OK(pkvi_gpu_stream_wait(engine->stream));
    return values;
}

/* What is stored, behind no window. */
static void expect_same_values(const struct engine* a, const struct engine* b, uint32_t seq) {
    pkv_seq_info info;
    ASSERT_OK(pkv_seq_get_info(a->cache, a->seqs[seq], &info));
    const uint32_t begin = info.length > WINDOW ? info.length - WINDOW : 0;
    const uint64_t bytes = (uint64_t)(info.length - begin) * HEADS * DIM * sizeof(float);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        float* left = read_values(a, seq, layer, begin, info.length);
        float* right = read_values(b, seq, layer, begin, info.length);
        ASSERT_EQ(memcmp(left, right, bytes), 0);
        pkvi_gpu_free_pinned(left);
        pkvi_gpu_free_pinned(right);
    }
}

/* Of such lengths that some are read in several splits. */
static void import_prompts(struct engine* engine) {
    const uint32_t lengths[SEQUENCES] = {20, 290, 1, 130};
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        const uint64_t count = (uint64_t)lengths[i] * HEADS * DIM;
        float* k = random_floats(count, 10 * i);
        float* v = random_floats(count, 10 * i + 1);
        import(engine->cache, engine->seqs[i], lengths[i], k, v);
        ASSERT_OK(pkvi_gpu_stream_wait(engine->stream));
        pkvi_gpu_free_pinned(k);
        pkvi_gpu_free_pinned(v);
    }
}

static struct step draw_step(uint64_t* random) {
    struct step step = {{0}};
    for (uint32_t i = 0; i < SEQUENCES; i++)
        step.counts[i] = (uint32_t)(pkvi_random_next(random) % (TOKENS + 1));
    step.counts[pkvi_random_next(random) % SEQUENCES] = 1;
    return step;
}

/* ---- Results --------------------------------------------------------------------------------- */

static void compare_steps(const pkv_config* config, uint64_t seed) {
    emulator_reset(seed);
    emulator_seed(seed);
    struct engine direct = open_engine(config, false);
    struct engine replayed = open_engine(config, true);
    import_prompts(&direct);
    import_prompts(&replayed);
    for (uint32_t i = 0; i < 8; i++) {
        const struct step step = draw_step(&seed);
        run_step(&direct, step, 1000 * i);
        run_step(&replayed, step, 1000 * i);
        ASSERT(has_same_results(&direct, &replayed));
    }
    for (uint32_t i = 0; i < SEQUENCES; i++)
        expect_same_values(&direct, &replayed, i);
    ASSERT_OK(pkv_check(replayed.cache, NULL));
    close_engine(&direct);
    close_engine(&replayed);
    expect_nothing_left();
}

/* Captured before anything was loaded, replayed for plans of other sequences, lengths and counts. */
TEST(replayed_steps_have_the_bits_of_called_ones) {
    const pkv_config config = config_of(PKV_BF16);
    for (uint64_t seed = 0; seed < SEEDS; seed++)
        compare_steps(&config, seed);
}

TEST(with_scales_and_a_window_too) {
    pkv_config config = config_of(PKV_I8);
    config.groups[0].window = WINDOW;
    config.groups[0].sinks = 5;
    compare_steps(&config, 3);
}

/* Canary: a graph that is launched without its load does what the plan before says. */
TEST(what_is_not_loaded_is_not_done) {
    const pkv_config config = config_of(PKV_BF16);
    emulator_reset(41);
    struct engine direct = open_engine(&config, false);
    struct engine replayed = open_engine(&config, true);
    const struct step first = {{1, 0, 2, 0}};
    const struct step second = {{0, 1, 0, 1}};
    run_step(&direct, first, 7);
    run_step(&replayed, first, 7);
    ASSERT(has_same_results(&direct, &replayed));
    run_step(&direct, second, 8);
    draw_inputs(&replayed, 8);
    const pkv_plan plan = begin_step(&replayed, second);
    graph_launch(replayed.graph, replayed.stream);
    ASSERT_OK(pkvi_gpu_stream_wait(replayed.stream));
    ASSERT(!has_same_results(&direct, &replayed));
    draw_inputs(&replayed, 8);
    launch(&replayed, plan);
    ASSERT_OK(pkvi_gpu_stream_wait(replayed.stream));
    ASSERT(has_same_results(&direct, &replayed));
    close_engine(&direct);
    close_engine(&replayed);
    expect_nothing_left();
}

TEST(before_the_first_load_a_graph_does_nothing) {
    const pkv_config config = config_of(PKV_BF16);
    emulator_reset(42);
    struct engine untouched = open_engine(&config, false);
    struct engine replayed = open_engine(&config, true);
    draw_inputs(&untouched, 1);
    draw_inputs(&replayed, 1);
    graph_launch(replayed.graph, replayed.stream);
    ASSERT_OK(pkvi_gpu_stream_wait(replayed.stream));
    ASSERT(has_same_results(&untouched, &replayed));
    close_engine(&untouched);
    close_engine(&replayed);
    expect_nothing_left();
}

/* A small graph and a large one are launched in turn, for whatever is loaded. */
TEST(graphs_of_several_sizes_share_what_is_loaded) {
    const pkv_config config = config_of(PKV_BF16);
    emulator_reset(43);
    struct engine direct = open_engine(&config, false);
    struct engine replayed = open_engine(&config, true);
    struct graph* large = replayed.graph;
    struct graph* small = capture(&replayed, 2);
    import_prompts(&direct);
    import_prompts(&replayed);
    const struct step steps[] = {{{1, 1, 1, 1}}, {{0, 1, 0, 2}}, {{1, 1, 2, 1}}, {{2, 0, 0, 0}}};
    for (uint32_t i = 0; i < 4; i++) {
        replayed.graph = i % 2 == 0 ? large : small;
        replayed.sequences = i % 2 == 0 ? SEQUENCES : 2;
        run_step(&direct, steps[i], i);
        run_step(&replayed, steps[i], i);
        ASSERT(has_same_results(&direct, &replayed));
    }
    replayed.graph = large;
    close_engine(&direct);
    close_engine(&replayed);
    graph_close(small);
    expect_nothing_left();
}

/* ---- What is sent, and when ------------------------------------------------------------------ */

enum { AHEAD = 11 }; /* more steps than there is staging memory for */

/* Steps with the same inputs, one after the other, none of which is waited for. */
static void run_ahead(struct engine* engine, float* results[AHEAD]) {
    draw_inputs(engine, 5);
    for (uint32_t i = 0; i < AHEAD; i++) {
        const pkv_plan plan = begin_step(engine, (struct step){{1, i % 3, (i + 1) % 3, i % 2}});
        if (engine->graph != NULL)
            launch(engine, plan);
        else
            call_layers(engine, plan);
        results[i] = floats(Q_FLOATS);
        ASSERT_OK(pkvi_gpu_copy(results[i], engine->layers[LAYERS - 1].out,
                                Q_FLOATS * sizeof(float), engine->stream));
        ASSERT_OK(pkv_plan_commit(engine->cache, plan));
    }
    ASSERT_OK(pkvi_gpu_stream_wait(engine->stream));
}

/* All steps are in the stream before the first one is done: each finds its own plan. */
TEST(steps_may_be_far_ahead_of_the_device) {
    const pkv_config config = config_of(PKV_BF16);
    float* wanted[AHEAD];
    float* found[AHEAD];
    emulator_reset(7);
    struct engine direct = open_engine(&config, false);
    struct engine replayed = open_engine(&config, true);
    run_ahead(&direct, wanted);
    run_ahead(&replayed, found);
    for (uint32_t i = 0; i < AHEAD; i++) {
        ASSERT_EQ(memcmp(wanted[i], found[i], Q_FLOATS * sizeof(float)), 0);
        pkvi_gpu_free_pinned(wanted[i]);
        pkvi_gpu_free_pinned(found[i]);
    }
    close_engine(&direct);
    close_engine(&replayed);
    expect_nothing_left();
}

TEST(a_load_is_one_copy_and_waits_for_nothing) {
    needs_emulator();
    const pkv_config config = config_of(PKV_BF16);
    emulator_reset(44);
    struct engine engine = open_engine(&config, true);
    import_prompts(&engine);
    const pkv_plan plan = begin_step(&engine, (struct step){{1, 1, 1, 1}});
    ASSERT_OK(pkvi_gpu_stream_wait(engine.stream));
    const uint64_t copies = emulator_count(EMULATOR_COPY);
    const uint64_t launches = emulator_count(EMULATOR_LAUNCH);
    ASSERT_OK(pkv_graph_load(engine.cache, plan, SEQUENCES, TOKENS));
    ASSERT_EQ(emulator_count(EMULATOR_COPY) - copies, 1);
    ASSERT_EQ(emulator_count(EMULATOR_LAUNCH) - launches, 0);
    ASSERT_EQ(emulator_used().queued, 2); /* the copy and its event */
    close_engine(&engine);
    expect_nothing_left();
}

/* Whatever the plan, the same thread blocks are started. */
TEST(the_grid_is_fixed) {
    needs_emulator();
    const pkv_config config = config_of(PKV_BF16);
    emulator_reset(45);
    struct engine engine = open_engine(&config, true);
    const struct step steps[] = {{{1, 0, 0, 0}}, {{2, 2, 2, 2}}, {{0, 1, 1, 0}}};
    uint64_t first = 0;
    for (uint32_t i = 0; i < 3; i++) {
        if (i == 1) import_prompts(&engine);
        const pkv_plan plan = begin_step(&engine, steps[i]);
        ASSERT_OK(pkvi_gpu_stream_wait(engine.stream));
        const uint64_t before = emulator_counters_get().blocks;
        launch(&engine, plan);
        ASSERT_OK(pkvi_gpu_stream_wait(engine.stream));
        const uint64_t started = emulator_counters_get().blocks - before;
        if (i == 0) first = started;
        ASSERT_EQ(started, first);
        ASSERT_OK(pkv_plan_commit(engine.cache, plan));
    }
    ASSERT_GT(first, 0);
    close_engine(&engine);
    expect_nothing_left();
}

/* ---- Swapping -------------------------------------------------------------------------------- */

static pkv_config swapping_config(void) {
    pkv_config config = config_of(PKV_BF16);
    config.host_blocks = 32;
    config.swap_layers = 1;
    return config;
}

static void swap_out(struct engine* engine, uint32_t seq) {
    pkv_transfer transfer;
    ASSERT_OK(pkv_seq_swap_out(engine->cache, engine->seqs[seq], &transfer));
    ASSERT_OK(pkv_transfer_wait(engine->cache, transfer));
}

/* A graph has no waits inside: the load waits for all layers of a sequence that is arriving. */
TEST(a_loaded_plan_waits_for_what_arrives) {
    const pkv_config config = swapping_config();
    for (uint64_t seed = 0; seed < 4 * SEEDS; seed++) {
        emulator_reset(seed);
        struct engine direct = open_engine(&config, false);
        struct engine replayed = open_engine(&config, true);
        import_prompts(&direct);
        import_prompts(&replayed);
        const struct step step = {{0, 1, 1, 0}};
        pkv_transfer transfer;
        swap_out(&replayed, 1);
        ASSERT_OK(pkv_seq_swap_in(replayed.cache, replayed.seqs[1], &transfer));
        draw_inputs(&replayed, seed);
        const pkv_plan plan = begin_step(&replayed, step);
        launch(&replayed, plan);
        ASSERT_OK(pkvi_gpu_stream_wait(replayed.stream));
        ASSERT_OK(pkv_transfer_wait(replayed.cache, transfer));
        ASSERT_OK(pkv_plan_commit(replayed.cache, plan));
        run_step(&direct, step, seed);
        ASSERT(has_same_results(&direct, &replayed));
        close_engine(&direct);
        close_engine(&replayed);
        expect_nothing_left();
    }
}

/* What leaves has been stored, also where another plan came between load and launch. */
TEST(what_leaves_waits_for_the_launch) {
    const pkv_config config = swapping_config();
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        emulator_reset(seed);
        struct engine direct = open_engine(&config, false);
        struct engine replayed = open_engine(&config, true);
        run_step(&direct, (struct step){{1, 0, 0, 0}}, seed);
        draw_inputs(&replayed, seed);
        const pkv_plan plan = begin_step(&replayed, (struct step){{1, 0, 0, 0}});
        ASSERT_OK(pkv_graph_load(replayed.cache, plan, SEQUENCES, TOKENS));
        const pkv_plan other = begin_step(&replayed, (struct step){{0, 1, 0, 0}});
        ASSERT_OK(write_layer(replayed.cache, other, 0, &replayed.layers[0]));
        ASSERT_OK(pkv_plan_abort(replayed.cache, other));
        const pkv_plan third = begin_step(&replayed, (struct step){{0, 0, 1, 0}});
        ASSERT_OK(write_layer(replayed.cache, third, 0, &replayed.layers[0]));
        ASSERT_OK(pkv_plan_abort(replayed.cache, third));
        graph_launch(replayed.graph, replayed.stream);
        ASSERT_OK(pkv_plan_commit(replayed.cache, plan));
        swap_out(&replayed, 0);
        pkv_transfer transfer;
        ASSERT_OK(pkv_seq_swap_in(replayed.cache, replayed.seqs[0], &transfer));
        ASSERT_OK(pkv_transfer_wait(replayed.cache, transfer));
        expect_same_values(&direct, &replayed, 0);
        close_engine(&direct);
        close_engine(&replayed);
        expect_nothing_left();
    }
}

/* ---- What is refused, and what fails --------------------------------------------------------- */

static void expect_config(const pkv_config* config, int status, const char* field) {
    const char* why = NULL;
    ASSERT_STATUS(pkv_config_check(config, &why, NULL), status);
    ASSERT(strncmp(why, field, strlen(field)) == 0);
}

TEST(configs_are_checked) {
    emulator_reset(51);
    pkv_config config = config_of(PKV_BF16);
    config.device = "cpu";
    expect_config(&config, PKV_ENOTSUP, "graph_sequences_max:");
    config = config_of(PKV_BF16);
    config.graph_sequences_max = 9;
    expect_config(&config, PKV_ETOOBIG, "graph_sequences_max:");
    config = config_of(PKV_BF16);
    config.graph_sequence_tokens_max = ROWS_MAX / SEQUENCES + 1;
    expect_config(&config, PKV_ETOOBIG, "graph_sequence_tokens_max:");
    config.graph_sequence_tokens_max = ROWS_MAX / SEQUENCES;
    config.graph_query_heads = 0;
    expect_config(&config, PKV_EINVAL, "graph_query_heads:");
    config.graph_query_heads = HEADS + 1;
    expect_config(&config, PKV_EINVAL, "graph_query_heads:");
    config.graph_query_heads = HEADS * 65536;
    expect_config(&config, PKV_ETOOBIG, "graph_query_heads:");
    config.graph_query_heads = HEADS * 5; /* 5 query heads times 16 tokens are more than 64 rows */
    expect_config(&config, PKV_ENOTSUP, "graph_sequence_tokens_max:");
    config.graph_query_heads = HEADS * 4;
    ASSERT_OK(pkv_config_check(&config, NULL, NULL));
}

TEST(a_cache_without_captured_steps_says_so) {
    emulator_reset(52);
    pkv_config config = config_of(PKV_BF16);
    config.graph_sequences_max = 0;
    pkv_cache* cache = create(&config);
    pkv_plan plan;
    ASSERT_STATUS(pkv_graph_begin(cache, 1, 1, &plan), PKV_ENOTSUP);
    plan = begin(cache, new_seq(cache), 1);
    ASSERT_STATUS(pkv_graph_load(cache, plan, 1, 1), PKV_ENOTSUP);
    pkv_cache_destroy(cache);
    expect_nothing_left();
}

TEST(bad_arguments_change_nothing) {
    emulator_reset(53);
    const pkv_config config = config_of(PKV_BF16);
    struct engine engine = open_engine(&config, true);
    pkv_cache* cache = engine.cache;
    pkv_plan shape;
    ASSERT_STATUS(pkv_graph_begin(NULL, 1, 1, &shape), PKV_EINVAL);
    ASSERT_STATUS(pkv_graph_begin(cache, 1, 1, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_graph_begin(cache, 0, 1, &shape), PKV_EINVAL);
    ASSERT_STATUS(pkv_graph_begin(cache, 1, 0, &shape), PKV_EINVAL);
    ASSERT_STATUS(pkv_graph_begin(cache, SEQUENCES + 1, 1, &shape), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_graph_begin(cache, 1, TOKENS + 1, &shape), PKV_ETOOBIG);
    ASSERT_OK(pkv_graph_begin(cache, 2, 1, &shape));
    const pkv_plan plan = begin_step(&engine, (struct step){{2, 1, 0, 0}});
    pkv_plan third;
    ASSERT_STATUS(pkv_graph_begin(cache, 1, 1, &third), PKV_EBUSY);
    ASSERT_STATUS(pkv_graph_load(NULL, plan, 2, 2), PKV_EINVAL);
    ASSERT_STATUS(pkv_graph_load(cache, (pkv_plan){1}, 2, 2), PKV_ESTALE);
    ASSERT_STATUS(pkv_graph_load(cache, shape, 2, 2), PKV_EINVAL);
    ASSERT_STATUS(pkv_graph_load(cache, plan, 0, 2), PKV_EINVAL);
    ASSERT_STATUS(pkv_graph_load(cache, plan, 1, 2), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_graph_load(cache, plan, 2, 1), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_graph_load(cache, plan, SEQUENCES + 1, 2), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_plan_commit(cache, shape), PKV_EINVAL);
    const pkv_path path = {NULL, 0};
    ASSERT_STATUS(pkv_plan_accept(cache, shape, &path, 0), PKV_EINVAL);
    pkv_plan_info info;
    ASSERT_STATUS(pkv_plan_get_info(cache, shape, 0, &info), PKV_EINVAL);
    const pkv_attention attention = {.q = {.data = engine.layers[0].q},
                                     .out = {.data = engine.layers[0].out},
                                     .query_heads = HEADS};
    ASSERT_STATUS(pkv_attend(cache, shape, 0, &attention), PKV_EINVAL);
    graph_capture(engine.stream);
    ASSERT_STATUS(pkv_graph_load(cache, plan, 2, 2), PKV_ENOTSUP);
    graph_close(graph_end(engine.stream));
    ASSERT_OK(pkv_graph_load(cache, plan, 2, 2));
    ASSERT_OK(pkv_plan_abort(cache, shape));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    const pkv_entry entry = {engine.seqs[0], NULL, 2};
    const uint32_t siblings[2] = {PKV_NO_PARENT, PKV_NO_PARENT};
    const uint32_t* parents = siblings;
    ASSERT_OK(pkv_plan_begin_trees(cache, &entry, &parents, 1, &shape));
    ASSERT_STATUS(pkv_graph_load(cache, shape, 2, 2), PKV_ENOTSUP);
    ASSERT_OK(pkv_plan_abort(cache, shape));
    ASSERT_OK(pkv_check(cache, NULL));
    close_engine(&engine);
    expect_nothing_left();
}

/* A load that fails fails by itself; the next one is as good as ever. */
TEST(a_load_that_fails_can_be_repeated) {
    needs_emulator();
    const pkv_config config = config_of(PKV_BF16);
    emulator_reset(54);
    struct engine direct = open_engine(&config, false);
    struct engine replayed = open_engine(&config, true);
    const struct step step = {{1, 0, 2, 1}};
    const enum emulator_call calls[] = {EMULATOR_COPY, EMULATOR_RECORD};
    run_step(&direct, step, 3);
    draw_inputs(&replayed, 3);
    const pkv_plan plan = begin_step(&replayed, step);
    for (uint32_t i = 0; i < 10; i++) {
        emulator_fail(calls[i % 2], 0, PKV_EIO);
        ASSERT_STATUS(pkv_graph_load(replayed.cache, plan, SEQUENCES, TOKENS), PKV_EIO);
    }
    ASSERT_OK(pkv_faults_set(replayed.cache, "device.copy.submit=1*return(EIO)", 1));
    ASSERT_STATUS(pkv_graph_load(replayed.cache, plan, SEQUENCES, TOKENS), PKV_EIO);
    launch(&replayed, plan);
    ASSERT_OK(pkvi_gpu_stream_wait(replayed.stream));
    ASSERT(has_same_results(&direct, &replayed));
    close_engine(&direct);
    close_engine(&replayed);
    expect_nothing_left();
}

/* Every allocation of a cache with captured steps in turn. */
TEST(a_failed_allocation_leaves_nothing) {
    needs_emulator();
    const enum emulator_call calls[] = {EMULATOR_ALLOC, EMULATOR_ALLOC_PINNED, EMULATOR_EVENT,
                                        EMULATOR_ZERO};
    const pkv_config config = config_of(PKV_BF16);
    ASSERT_GT(fail_each_call(&config, calls, 4), 24);
}
