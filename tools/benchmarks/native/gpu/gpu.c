/* gpu.c - what the CUDA kernels cost, beside the limits of the GPU they run on.
 *
 *   pkv_bench_gpu SECTION... [--tiny]
 *
 * Sections: decode, prefill, mixed, layout, store (write and read), swap, small (copies of small pieces), overlap (decode
 * while blocks are swapped). Prints one JSON object a line: the machine first, then a row for each
 * figure. Exits with 77 where there is no GPU. --tiny makes everything small, for the emulator.
 *
 * A row is the median of replays of a CUDA graph that calls attention once for each layer of a pool.
 * All layers together are larger than the cache of the GPU, blocks are in random order and numbers
 * are random, so that every call reads from memory. The limits of the memory are measured right
 * before each row, on the same memory. */
#include "gpu/problem.h"

#include "base/hash.h"
#include <pagedkv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REPLAYS = 25,
    WARM_REPLAYS = 3,
    LIMIT_RUNS = 5,
    LIMIT_BYTES_MAX = 1 << 30,
    SET_BYTES_MIN = 1 << 30, /* of K and V, and more than twice the cache of the GPU */
    SWAP_BLOCK_BYTES = 2 << 20,
    SWAP_LARGE_BYTES = 16 << 20,
    SWAP_POOL_BYTES = 512 << 20,
    SWAP_BYTES = 64 << 20, /* moved in one sample */
    SWAP_PIECES_MAX = 4096,
};

struct bench {
    struct machine machine;
    struct pkvi_gpu_stream* stream;
    struct stopwatch* watch;
    bool is_tiny;
    uint32_t replays;
};

/* ---- Samples --------------------------------------------------------------------------------- */

struct samples {
    double seconds[REPLAYS];
    uint32_t count;
};

static int compare(const void* left, const void* right) {
    const double a = *(const double*)left;
    const double b = *(const double*)right;
    return (a > b) - (a < b);
}

static double quantile(struct samples* samples, double part) {
    qsort(samples->seconds, samples->count, sizeof *samples->seconds, compare);
    return samples->seconds[(uint32_t)(part * (samples->count - 1) + 0.5)];
}

static void print_samples(struct samples* samples, double calls) {
    printf("\"seconds\": %.4g, \"p10\": %.4g, \"p90\": %.4g, \"samples\": %u",
           quantile(samples, 0.5) / calls, quantile(samples, 0.1) / calls,
           quantile(samples, 0.9) / calls, samples->count);
}

/* The first replay keeps the GPU busy while the host starts the second, so that the time is that of
 * the GPU alone. */
static double time_replay(const struct bench* bench, struct replay* replay) {
    replay_run(replay, bench->stream);
    stopwatch_start(bench->watch, bench->stream);
    replay_run(replay, bench->stream);
    return stopwatch_stop(bench->watch, bench->stream);
}

static struct samples time_replays(const struct bench* bench, struct replay* replay) {
    struct samples samples = {.count = bench->replays};
    for (uint32_t i = 0; i < WARM_REPLAYS; i++)
        time_replay(bench, replay);
    for (uint32_t i = 0; i < samples.count; i++)
        samples.seconds[i] = time_replay(bench, replay);
    return samples;
}

/* ---- Limits ---------------------------------------------------------------------------------- */

static double read_rate(const struct bench* bench, const void* memory, uint64_t bytes) {
    struct samples samples = {.count = LIMIT_RUNS};
    for (uint32_t i = 0; i < LIMIT_RUNS; i++) {
        machine_read(memory, bytes, bench->stream); /* as in time_replay */
        stopwatch_start(bench->watch, bench->stream);
        machine_read(memory, bytes, bench->stream);
        samples.seconds[i] = stopwatch_stop(bench->watch, bench->stream);
    }
    return (double)bytes / quantile(&samples, 0.5);
}

/* Bytes read and written; what is copied is not looked at again. */
static double copy_rate(const struct bench* bench, const void* memory, uint64_t bytes) {
    struct samples samples = {.count = LIMIT_RUNS};
    void* to;
    MUST(pkvi_gpu_alloc(bytes, &to));
    for (uint32_t i = 0; i < LIMIT_RUNS; i++) {
        MUST(pkvi_gpu_copy(to, memory, bytes, bench->stream));
        stopwatch_start(bench->watch, bench->stream);
        MUST(pkvi_gpu_copy(to, memory, bytes, bench->stream));
        samples.seconds[i] = stopwatch_stop(bench->watch, bench->stream);
    }
    pkvi_gpu_free(to);
    return 2.0 * (double)bytes / quantile(&samples, 0.5);
}

static double multiply_rate(const struct bench* bench) {
    struct samples samples = {.count = LIMIT_RUNS};
    double operations = 0.0;
    for (uint32_t i = 0; i < LIMIT_RUNS; i++) {
        stopwatch_start(bench->watch, bench->stream);
        for (uint32_t j = 0; j < 20; j++)
            operations = 20.0 * machine_multiply(bench->stream);
        samples.seconds[i] = stopwatch_stop(bench->watch, bench->stream);
    }
    return operations / quantile(&samples, 0.5);
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* A row whose limit is the memory (decode) or the tensor cores. */
struct attention_row {
    const char* section;
    const char* name;
    struct problem_shape shape;
};

static struct problem_shape shrunk(struct problem_shape shape) {
    for (uint32_t i = 0; i < 2; i++) {
        struct entries* entries = &shape.entries[i];
        if (entries->count > 2) entries->count = 2;
        if (entries->length > 160) entries->length = 160;
        if (entries->fresh > 100) entries->fresh = 100;
    }
    shape.layers = 2;
    return shape;
}

/* With so many layers that none is still in the cache of the GPU when its turn comes again. */
static struct problem_shape sized(const struct bench* bench, struct problem_shape shape) {
    const uint64_t beyond_cache = 2 * bench->machine.l2_bytes + 1;
    if (bench->is_tiny) return shrunk(shape);
    shape.set_bytes = beyond_cache > SET_BYTES_MIN ? beyond_cache : SET_BYTES_MIN;
    return shape;
}

static void run_attention(const struct bench* bench, const struct attention_row* row) {
    const struct problem_shape shape = sized(bench, row->shape);
    struct problem* problem = problem_open(&shape, &bench->machine, bench->stream);
    const uint32_t layers = problem_layers(problem);
    uint64_t pool_bytes;
    const void* pool = problem_pool(problem, &pool_bytes);
    const uint64_t limit_bytes = pool_bytes < LIMIT_BYTES_MAX ? pool_bytes : LIMIT_BYTES_MAX;
    const double read = read_rate(bench, pool, limit_bytes);
    const double copy = copy_rate(bench, pool, limit_bytes);
    problem_attend(problem, bench->stream); /* loads the kernels, which a capture must not */
    MUST(pkvi_gpu_stream_wait(bench->stream));
    struct replay* replay = replay_record(problem_attend, problem, bench->stream);
    struct samples samples = time_replays(bench, replay);
    const double error = problem_check(problem, bench->stream);
    printf("{\"section\": \"%s\", \"row\": \"%s\", \"layers\": %u, \"set_bytes\": %llu, "
           "\"set_bytes_least\": %llu, \"bytes\": %llu, \"operations\": %.6g, "
           "\"read_bytes_per_s\": %.5g, "
           "\"copy_bytes_per_s\": %.5g, \"nmse\": %.3g, ",
           row->section, row->name, layers, (unsigned long long)pool_bytes,
           (unsigned long long)shape.set_bytes, (unsigned long long)problem_bytes(problem),
           problem_operations(problem), read, copy, error);
    print_samples(&samples, layers);
    printf("}\n");
    replay_close(replay);
    problem_close(problem);
}

/* Query heads 32, KV heads 8, dim 128. */
#define LLAMA(dtype_, layers_)                                                                     \
    .query_heads = 32, .kv_heads = 8, .dim = 128, .dtype = (dtype_), .layers = (layers_)
#define DECODE(count, length, dtype)                                                               \
    {                                                                                              \
        "decode", "decode B=" #count " L=" #length " " #dtype, {                                   \
            .entries = {{count, length, 1}}, LLAMA(PKV_##dtype, 32)                                \
        }                                                                                          \
    }
#define PREFILL(length)                                                                            \
    {                                                                                              \
        "prefill", "prefill causal " #length " BF16", {                                            \
            .entries = {{1, length, length}}, LLAMA(PKV_BF16, 2)                                   \
        }                                                                                          \
    }
#define LAYOUT(count, length, name, is_layer_major_)                                               \
    {                                                                                              \
        "layout", "decode B=" #count " L=" #length " BF16 " name, {                                \
            .entries = {{count, length, 1}}, LLAMA(PKV_BF16, 32),                                  \
            .is_layer_major = (is_layer_major_)                                                    \
        }                                                                                          \
    }

static const struct attention_row attention_rows[] = {
    DECODE(32, 4096, BF16),
    DECODE(1, 131072, BF16),
    DECODE(256, 1024, BF16),
    DECODE(64, 8192, BF16),
    DECODE(1, 1024, BF16),
    DECODE(32, 4096, E4M3),
    DECODE(32, 4096, I8),
    DECODE(32, 4096, F16),
    PREFILL(8192),
    PREFILL(16384),
    PREFILL(32768),
    {"mixed",
     "mixed 32 x decode L=4096, 2048 new at 8192 BF16",
     {.entries = {{32, 4096, 1}, {1, 8192, 2048}}, LLAMA(PKV_BF16, 8)}},
    {"mixed", "mixed, the decode part alone", {.entries = {{32, 4096, 1}}, LLAMA(PKV_BF16, 8)}},
    {"mixed", "mixed, the chunk alone", {.entries = {{1, 8192, 2048}}, LLAMA(PKV_BF16, 8)}},
    LAYOUT(32, 4096, "block-major", false),
    LAYOUT(32, 4096, "layer-major", true),
    LAYOUT(1, 131072, "block-major", false),
    LAYOUT(1, 131072, "layer-major", true),
};

/* ---- Write and read -------------------------------------------------------------------------- */

struct store_row {
    const char* name;
    uint32_t dtype;
    uint32_t tokens;
    bool is_read;
};

static const struct store_row store_rows[] = {
    {"write 256 tokens BF16", PKV_BF16, 256, false},
    {"write 8192 tokens BF16", PKV_BF16, 8192, false},
    {"write 256 tokens I8", PKV_I8, 256, false},
    {"write 8192 tokens I8", PKV_I8, 8192, false},
    {"read 8192 tokens BF16", PKV_BF16, 8192, true},
    {"read 8192 tokens I8", PKV_I8, 8192, true},
};

static void run_store(const struct bench* bench, const struct store_row* row) {
    const struct problem_shape decode = {.entries = {{32, 4096, 1}}, LLAMA(row->dtype, 8)};
    const struct problem_shape shape = sized(bench, decode);
    struct problem* problem = problem_open(&shape, &bench->machine, bench->stream);
    struct store store =
        store_open(problem, bench->is_tiny ? 100 : row->tokens, row->is_read, bench->stream);
    uint64_t pool_bytes;
    const void* pool = problem_pool(problem, &pool_bytes);
    const double copy =
        copy_rate(bench, pool, pool_bytes < LIMIT_BYTES_MAX ? pool_bytes : LIMIT_BYTES_MAX);
    store_run(&store, bench->stream); /* loads the kernels, which a capture must not */
    MUST(pkvi_gpu_stream_wait(bench->stream));
    struct replay* replay = replay_record(store_run, &store, bench->stream);
    struct samples samples = time_replays(bench, replay);
    printf("{\"section\": \"store\", \"row\": \"%s\", \"layers\": %u, \"moved_bytes\": %llu, "
           "\"copy_bytes_per_s\": %.5g, ",
           row->name, problem_layers(problem), (unsigned long long)store_bytes(&store), copy);
    print_samples(&samples, problem_layers(problem));
    printf("}\n");
    replay_close(replay);
    problem_close(problem);
}

static void section_store(const struct bench* bench) {
    for (uint32_t i = 0; i < sizeof store_rows / sizeof *store_rows; i++)
        run_store(bench, &store_rows[i]);
}

/* ---- Swap ------------------------------------------------------------------------------------ */

/* A pool of the device and one of the host, cut into pieces of the same size in random order. */
struct swap {
    unsigned char* device;
    unsigned char* host;
    uint64_t bytes; /* of each pool */
    struct pkvi_gpu_stream* streams[2];
    struct pkvi_gpu_event* events[2];
    void* to[2][SWAP_PIECES_MAX]; /* out, in */
    const void* from[2][SWAP_PIECES_MAX];
    struct pkvi_gpu_copy_pair* pairs[2]; /* device memory: the same for the gather kernel */
    uint32_t count;
    uint64_t piece_bytes;
};

enum { OUT, IN };
static const char* const direction_names[] = {"out", "in"};

static struct swap* swap_open(const struct bench* bench) {
    struct swap* swap = calloc(1, sizeof *swap);
    if (swap == NULL) must(PKV_ENOMEM, "calloc");
    swap->bytes = bench->is_tiny ? 8 << 20 : SWAP_POOL_BYTES;
    MUST(pkvi_gpu_alloc(swap->bytes, (void**)&swap->device));
    MUST(pkvi_gpu_alloc_pinned(swap->bytes, (void**)&swap->host));
    machine_fill(swap->device, swap->bytes / 2, 7, bench->stream);
    MUST(pkvi_gpu_copy(swap->host, swap->device, swap->bytes, bench->stream));
    MUST(pkvi_gpu_stream_wait(bench->stream));
    for (uint32_t i = 0; i < 2; i++) {
        MUST(pkvi_gpu_stream_open(&swap->streams[i]));
        MUST(pkvi_gpu_event_open(&swap->events[i]));
        MUST(pkvi_gpu_alloc(SWAP_PIECES_MAX * sizeof **swap->pairs, (void**)&swap->pairs[i]));
    }
    return swap;
}

static void swap_close(struct swap* swap) {
    for (uint32_t i = 0; i < 2; i++) {
        pkvi_gpu_stream_close(swap->streams[i]);
        pkvi_gpu_event_close(swap->events[i]);
        pkvi_gpu_free(swap->pairs[i]);
    }
    pkvi_gpu_free(swap->device);
    pkvi_gpu_free_pinned(swap->host);
    free(swap);
}

/* `count` different places of a pool's `places`: a walk with an odd step, `places` a power of two.
 */
static uint64_t place(uint32_t i, uint64_t places, uint64_t seed) {
    return (i * (2 * (seed % places) + 1) + seed / 3) & (places - 1);
}

/* Pieces out come from the first half of the device's pool, pieces in go to the second, so that both
 * ways at once touch different memory. */
static void choose_pieces(struct swap* swap, uint64_t piece_bytes, uint32_t count) {
    const uint64_t half = swap->bytes / 2;
    const uint64_t places = half / piece_bytes;
    struct pkvi_gpu_copy_pair pairs[2][SWAP_PIECES_MAX];
    swap->piece_bytes = piece_bytes;
    swap->count = count < places ? count : (uint32_t)places;
    for (uint32_t i = 0; i < swap->count; i++)
        for (int way = 0; way < 2; way++) {
            const uint64_t base = way == OUT ? 0 : half;
            void* on_device = swap->device + base + place(i, places, 77) * piece_bytes;
            void* on_host = swap->host + base + place(i, places, 1234567) * piece_bytes;
            swap->to[way][i] = way == OUT ? on_host : on_device;
            swap->from[way][i] = way == OUT ? on_device : on_host;
            pairs[way][i] = (struct pkvi_gpu_copy_pair){swap->to[way][i], swap->from[way][i]};
        }
    for (int way = 0; way < 2; way++) {
        const uint64_t bytes = swap->count * sizeof **pairs;
        copy_in(swap->pairs[way], pairs[way], bytes, swap->streams[way]);
    }
}

enum how { BATCH, GATHER, ONE_BY_ONE };
static const char* const how_names[] = {"batch", "gather", "one by one"};

static void put_copies(struct swap* swap, int way, enum how how) {
    struct pkvi_gpu_stream* stream = swap->streams[way];
    if (how == BATCH)
        MUST(pkvi_gpu_copy_batch(swap->to[way], swap->from[way], swap->count, swap->piece_bytes,
                                 stream));
    if (how == GATHER)
        MUST(pkvi_gpu_launch_gather(swap->pairs[way], swap->count, swap->piece_bytes, stream));
    for (uint32_t i = 0; how == ONE_BY_ONE && i < swap->count; i++)
        MUST(pkvi_gpu_copy(swap->to[way][i], swap->from[way][i], swap->piece_bytes, stream));
}

/* Everything of stream `after` from here on comes after what stream `before` has now. */
static void order(struct swap* swap, int before, int after) {
    MUST(pkvi_gpu_event_record(swap->events[before], swap->streams[before]));
    MUST(pkvi_gpu_event_order(swap->events[before], swap->streams[after]));
}

/* Bytes per second of one way, or of both at once: then from the start of the first to the end of
 * the last. */
static void run_swap(const struct bench* bench, struct swap* swap, const char* section, bool is_out,
                     bool is_in, enum how how) {
    const int first = is_out ? OUT : IN;
    struct samples samples = {.count = bench->replays};
    for (uint32_t i = 0; i < samples.count; i++) {
        stopwatch_start(bench->watch, swap->streams[first]);
        if (is_out && is_in) order(swap, OUT, IN);
        put_copies(swap, first, how);
        if (is_out && is_in) put_copies(swap, IN, how);
        if (is_out && is_in) order(swap, IN, OUT);
        samples.seconds[i] = stopwatch_stop(bench->watch, swap->streams[first]);
    }
    const uint64_t bytes = swap->count * swap->piece_bytes * (is_out && is_in ? 2 : 1);
    printf("{\"section\": \"%s\", \"way\": \"%s\", \"how\": \"%s\", \"piece_bytes\": %llu, "
           "\"count\": %u, \"bytes\": %llu, \"bytes_per_s\": %.5g, ",
           section, is_out && is_in ? "both" : direction_names[first], how_names[how],
           (unsigned long long)swap->piece_bytes, swap->count, (unsigned long long)bytes,
           (double)bytes / quantile(&samples, 0.5));
    print_samples(&samples, 1.0);
    printf("}\n");
}

static void run_ways(const struct bench* bench, struct swap* swap, const char* section,
                     enum how how) {
    run_swap(bench, swap, section, true, false, how);
    run_swap(bench, swap, section, false, true, how);
    run_swap(bench, swap, section, true, true, how);
}

/* The machine's own rate with 16 MiB at a time, then blocks. */
static void section_swap(const struct bench* bench) {
    struct swap* swap = swap_open(bench);
    const uint32_t share = bench->is_tiny ? 64 : 1;
    choose_pieces(swap, SWAP_LARGE_BYTES / share, SWAP_BYTES / SWAP_LARGE_BYTES);
    run_ways(bench, swap, "swap", ONE_BY_ONE);
    choose_pieces(swap, SWAP_BLOCK_BYTES / share, SWAP_BYTES / SWAP_BLOCK_BYTES);
    run_ways(bench, swap, "swap", BATCH);
    run_ways(bench, swap, "swap", GATHER);
    swap_close(swap);
}

/* From which size on the copy engines are faster than the kernel. */
static void section_small(const struct bench* bench) {
    static const uint64_t sizes[] = {4 << 10,   8 << 10,   16 << 10,  32 << 10, 64 << 10,
                                     128 << 10, 256 << 10, 512 << 10, 1 << 20,  2 << 20};
    struct swap* swap = swap_open(bench);
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (bench->is_tiny && sizes[i] > 32 << 10) break;
        const uint64_t count = (bench->is_tiny ? 1 << 18 : SWAP_BYTES) / sizes[i];
        choose_pieces(swap, sizes[i], count < SWAP_PIECES_MAX ? (uint32_t)count : SWAP_PIECES_MAX);
        for (int how = BATCH; how <= GATHER; how++) {
            run_swap(bench, swap, "small", true, false, (enum how)how);
            run_swap(bench, swap, "small", false, true, (enum how)how);
        }
    }
    swap_close(swap);
}

/* ---- Decode while blocks are swapped --------------------------------------------------------- */

/* Decode alone and while both copy streams are busy, in turns. A sample is of decode while swapping
 * only when copies were still under way when decode had ended; those where they were not are counted,
 * and are part of what is said of all samples. */
static void overlap(const struct bench* bench, struct swap* swap, struct replay* replay,
                    uint32_t layers, double read, enum how how) {
    struct samples alone = {.count = bench->replays};
    struct samples busy = {.count = 0};
    struct samples all = {.count = bench->replays};
    for (uint32_t i = 0; i < bench->replays; i++) {
        bool is_done[2];
        alone.seconds[i] = time_replay(bench, replay);
        for (int way = 0; way < 2; way++) {
            for (uint32_t round = 0; round < 4; round++)
                put_copies(swap, way, how);
            MUST(pkvi_gpu_event_record(swap->events[way], swap->streams[way]));
        }
        all.seconds[i] = time_replay(bench, replay);
        for (int way = 0; way < 2; way++)
            MUST(pkvi_gpu_event_is_done(swap->events[way], &is_done[way]));
        if (bench->is_tiny || (!is_done[OUT] && !is_done[IN]))
            busy.seconds[busy.count++] = all.seconds[i];
        MUST(pkvi_gpu_stream_wait(swap->streams[OUT]));
        MUST(pkvi_gpu_stream_wait(swap->streams[IN]));
    }
    printf("{\"section\": \"overlap\", \"row\": \"decode B=32 L=4096 BF16 while swapping\", "
           "\"how\": \"%s\", \"samples\": %u, \"valid_samples\": %u, \"seconds_alone\": %.5g, "
           "\"seconds_all\": %.5g, \"read_bytes_per_s\": %.5g",
           how_names[how], all.count, busy.count, quantile(&alone, 0.5) / layers,
           quantile(&all, 0.5) / layers, read);
    if (busy.count > 0) printf(", \"seconds_busy\": %.5g", quantile(&busy, 0.5) / layers);
    printf("}\n");
}

static void section_overlap(const struct bench* bench) {
    const struct problem_shape decode = {.entries = {{32, 4096, 1}}, LLAMA(PKV_BF16, 8)};
    const struct problem_shape shape = sized(bench, decode);
    struct swap* swap = swap_open(bench);
    struct problem* problem = problem_open(&shape, &bench->machine, bench->stream);
    problem_attend(problem, bench->stream); /* loads the kernels, which a capture must not */
    MUST(pkvi_gpu_stream_wait(bench->stream));
    struct replay* replay = replay_record(problem_attend, problem, bench->stream);
    const uint32_t share = bench->is_tiny ? 64 : 1;
    choose_pieces(swap, SWAP_BLOCK_BYTES / share, SWAP_BYTES / SWAP_BLOCK_BYTES);
    for (int i = 0; i < WARM_REPLAYS; i++)
        time_replay(bench, replay);
    uint64_t pool_bytes;
    const void* pool = problem_pool(problem, &pool_bytes);
    const double read =
        read_rate(bench, pool, pool_bytes < LIMIT_BYTES_MAX ? pool_bytes : LIMIT_BYTES_MAX);
    for (int how = BATCH; how <= GATHER; how++) {
        run_swap(bench, swap, "overlap copies", true, true, (enum how)how);
        overlap(bench, swap, replay, problem_layers(problem), read, (enum how)how);
    }
    replay_close(replay);
    problem_close(problem);
    swap_close(swap);
}

/* ---- Command line ---------------------------------------------------------------------------- */

static void print_machine(const struct bench* bench) {
    const struct machine* machine = &bench->machine;
    printf("{\"section\": \"machine\", \"kind\": \"%s\", \"name\": \"%s\", "
           "\"multiprocessors\": %u, \"memory_free_bytes\": %llu, \"l2_bytes\": %llu, "
           "\"compute\": %d, \"driver\": %d, \"runtime\": %d, \"clock_hz\": %.4g, "
           "\"mma_operations_per_s\": %.4g}\n",
           machine->kind, machine->name, machine->multiprocessors,
           (unsigned long long)machine->memory_free, (unsigned long long)machine->l2_bytes,
           machine->compute, machine->driver, machine->runtime, machine_clock_hz(bench->stream),
           multiply_rate(bench));
}

static bool run_section(const struct bench* bench, const char* section) {
    bool is_known = true;
    if (strcmp(section, "swap") == 0)
        section_swap(bench);
    else if (strcmp(section, "small") == 0)
        section_small(bench);
    else if (strcmp(section, "store") == 0)
        section_store(bench);
    else if (strcmp(section, "overlap") == 0)
        section_overlap(bench);
    else
        is_known = false;
    for (uint32_t i = 0; i < sizeof attention_rows / sizeof *attention_rows; i++)
        if (strcmp(attention_rows[i].section, section) == 0) {
            run_attention(bench, &attention_rows[i]);
            is_known = true;
        }
    return is_known;
}

int main(int argc, char** argv) {
    struct bench bench = {.replays = REPLAYS};
    const char* absent = pkvi_gpu_absent();
    if (absent != NULL) {
        printf("not run: %s\n", absent);
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* rows that are done stay, whatever becomes of the next */
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--tiny") == 0) bench.is_tiny = true;
    if (bench.is_tiny) bench.replays = 1;
    MUST(pkvi_gpu_stream_open(&bench.stream));
    bench.watch = stopwatch_open();
    machine_describe(&bench.machine);
    print_machine(&bench);
    for (int i = 1; i < argc; i++)
        if (argv[i][0] != '-' && !run_section(&bench, argv[i])) {
            fprintf(stderr, "there is no section %s\n", argv[i]);
            return 2;
        }
    stopwatch_close(bench.watch);
    pkvi_gpu_stream_close(bench.stream);
    return 0;
}
