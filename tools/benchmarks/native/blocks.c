/* blocks.c - what the books of a cache cost: reservations, tables, the prefix index; no kernels.
 *
 *   pkv_bench_blocks RUNS
 *
 * Knows the public header alone, as an engine does. Prints one JSON object a line: the samples of a
 * figure as {"figure", "unit": "ns", "median", "p10", "p90", "samples"}, or a number as {"figure",
 * "unit", "value"}. Every workload ends with pkv_check, and a status that is not PKV_OK ends the
 * program: a figure of a broken cache is worth nothing.
 *
 * Blocks are those of one layer of a Llama-3-8B (8 KV heads of 128 dims, bf16, 16 tokens: 64 KiB).
 * Token ids are random, so that no two sequences share a block unless the workload says so. */
#include <pagedkv.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    BATCH = 256,            /* sequences that run at once */
    CONTEXT = 1024,         /* tokens of each when decoding begins */
    CONTEXT_MAX = 2048,     /* and when it starts over */
    BLOCK_TOKENS = 16,      /* of every cache here */
    PROMPT = 4096,          /* tokens of the prefill that is reserved and freed */
    LONG_PROMPT = 32768,    /* tokens of the prompt that is matched */
    LONG_CONTEXT = 1000000, /* tokens of the sequence that is forked */
    POOL_BLOCKS = 100000,   /* of the pool that is created */
    THREADS_MAX = 8,
    THREAD_SEQUENCES = 16
};

/* ---- Rig ------------------------------------------------------------------------------------- */

static void must(int status, const char* what) {
    if (status == PKV_OK) return;
    fprintf(stderr, "%s: %s\n", what, pkv_status_message(status));
    exit(1);
}

#define MUST(call) must(call, #call)

static double now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static uint32_t next_token(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(state >> 33);
}

static void fill_tokens(uint32_t* tokens, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = next_token();
}

/* Measured values of one figure, in ns. */
struct samples {
    const char* figure;
    uint32_t count, capacity;
    double* values;
};

static void add(struct samples* samples, double value) {
    if (samples->count == samples->capacity) {
        samples->capacity = samples->capacity > 0 ? 2 * samples->capacity : 64;
        samples->values = realloc(samples->values, samples->capacity * sizeof(double));
        if (samples->values == NULL) must(PKV_ENOMEM, samples->figure);
    }
    samples->values[samples->count++] = value;
}

static int compare(const void* left, const void* right) {
    const double a = *(const double*)left;
    const double b = *(const double*)right;
    return (a > b) - (a < b);
}

static double quantile(const struct samples* samples, double share) {
    return samples->values[(uint32_t)(share * (samples->count - 1))];
}

/* Print and forget. */
static void report(struct samples* samples) {
    qsort(samples->values, samples->count, sizeof(double), compare);
    printf("{\"figure\": \"%s\", \"unit\": \"ns\", \"median\": %.1f, \"p10\": %.1f, "
           "\"p90\": %.1f, \"samples\": %u}\n",
           samples->figure, quantile(samples, 0.5), quantile(samples, 0.1), quantile(samples, 0.9),
           samples->count);
    free(samples->values);
}

static void report_number(const char* figure, const char* unit, double value) {
    printf("{\"figure\": \"%s\", \"unit\": \"%s\", \"value\": %.0f}\n", figure, unit, value);
}

static pkv_config config_for(uint32_t blocks, uint32_t sequence_tokens) {
    pkv_config config;
    MUST(pkv_config_init(&config, PKV_VERSION));
    config.groups[0] = (pkv_group_config){.layers = 1,
                                          .kv_heads = 8,
                                          .key_dim = 128,
                                          .k_dtype = PKV_BF16,
                                          .v_dtype = PKV_BF16,
                                          .block_tokens = BLOCK_TOKENS};
    config.blocks = blocks;
    config.sequences_max = BATCH;
    config.sequence_tokens_max = sequence_tokens;
    config.plan_tokens_max = LONG_PROMPT;
    config.faults = ""; /* not those of the environment */
    return config;
}

static pkv_cache* open_cache(uint32_t blocks, uint32_t sequence_tokens) {
    const pkv_config config = config_for(blocks, sequence_tokens);
    pkv_cache* cache;
    MUST(pkv_cache_create(&config, &cache));
    return cache;
}

static pkv_stats stats_of(pkv_cache* cache) {
    pkv_stats stats = {.struct_size = sizeof stats};
    MUST(pkv_cache_stats(cache, &stats));
    return stats;
}

static void close_cache(pkv_cache* cache) {
    MUST(pkv_check(cache, NULL));
    pkv_cache_destroy(cache);
}

/* A sequence of `count` committed random tokens. */
static pkv_seq start_sequence(pkv_cache* cache, uint32_t count) {
    static uint32_t tokens[PROMPT];
    pkv_seq seq;
    MUST(pkv_seq_create(cache, 0, &seq));
    while (count > 0) {
        const uint32_t part = count < PROMPT ? count : PROMPT;
        fill_tokens(tokens, part);
        MUST(pkv_seq_append(cache, seq, tokens, part, NULL));
        MUST(pkv_seq_commit(cache, seq));
        count -= part;
    }
    return seq;
}

/* ---- A decode step --------------------------------------------------------------------------- */

/* Staggered, as requests are: each step, one sequence in sixteen begins a new block. */
static void start_batch(pkv_cache* cache, pkv_seq* seqs) {
    for (uint32_t i = 0; i < BATCH; i++)
        seqs[i] = start_sequence(cache, CONTEXT + i % BLOCK_TOKENS);
}

static void free_batch(pkv_cache* cache, const pkv_seq* seqs) {
    for (uint32_t i = 0; i < BATCH; i++)
        MUST(pkv_seq_free(cache, seqs[i]));
}

static void step_once(pkv_cache* cache, const pkv_seq* seqs, struct samples* samples) {
    uint32_t tokens[BATCH];
    pkv_entry entries[BATCH];
    pkv_plan plan;
    fill_tokens(tokens, BATCH);
    const double start = now_ns();
    for (uint32_t i = 0; i < BATCH; i++)
        entries[i] = (pkv_entry){seqs[i], &tokens[i], 1};
    MUST(pkv_plan_begin(cache, entries, BATCH, &plan));
    pkv_plan_info info;
    MUST(pkv_plan_get_info(cache, plan, 0, &info));
    MUST(pkv_plan_commit(cache, plan));
    add(samples, now_ns() - start);
}

static void bench_steps(uint32_t runs) {
    struct samples steps = {.figure = "decode step of 256 sequences"};
    pkv_cache* cache = open_cache(BATCH * CONTEXT_MAX / BLOCK_TOKENS, CONTEXT_MAX);
    uint64_t rewritten = 0;
    pkv_seq seqs[BATCH];
    for (uint32_t run = 0; run < runs;) {
        struct samples warm_up = {.figure = "warm-up"};
        start_batch(cache, seqs);
        step_once(cache, seqs, &warm_up); /* writes every row of the table once */
        free(warm_up.values);
        const uint64_t before = stats_of(cache).table_rows_rewritten;
        for (uint32_t step = CONTEXT + BLOCK_TOKENS; step < CONTEXT_MAX && run < runs;
             step++, run++)
            step_once(cache, seqs, &steps);
        rewritten += stats_of(cache).table_rows_rewritten - before;
        free_batch(cache, seqs);
    }
    const pkv_stats stats = stats_of(cache);
    report(&steps);
    report_number("table rows extended or kept", "rows", (double)stats.table_rows_extended);
    report_number("table rows rewritten after the first step", "rows", (double)rewritten);
    close_cache(cache);
}

/* ---- One token of one sequence --------------------------------------------------------------- */

/* Time `call` for all sequences of the batch; the sample is the mean of one. */
#define TIME_BATCH(samples, call)                                                                  \
    do {                                                                                           \
        const double start = now_ns();                                                             \
        for (uint32_t i = 0; i < BATCH; i++)                                                       \
            MUST(call);                                                                            \
        add(samples, (now_ns() - start) / BATCH);                                                  \
    } while (0)

static void bench_append(uint32_t runs) {
    struct samples append = {.figure = "append without a new block"};
    struct samples append_block = {.figure = "append with a new block"};
    struct samples commit = {.figure = "commit of one token"};
    struct samples commit_block = {.figure = "commit that fills and indexes a block"};
    pkv_cache* cache = open_cache(BATCH * CONTEXT_MAX / BLOCK_TOKENS, CONTEXT_MAX);
    uint32_t tokens[BATCH];
    uint32_t slot;
    pkv_seq seqs[BATCH];
    for (uint32_t run = 0; run < runs;) {
        for (uint32_t i = 0; i < BATCH; i++)
            seqs[i] = start_sequence(cache, CONTEXT);
        for (uint32_t length = CONTEXT; length < CONTEXT_MAX && run < runs; length++, run++) {
            const uint32_t offset = length % BLOCK_TOKENS;
            fill_tokens(tokens, BATCH);
            TIME_BATCH(offset == 0 ? &append_block : &append,
                       pkv_seq_append(cache, seqs[i], &tokens[i], 1, &slot));
            TIME_BATCH(offset == BLOCK_TOKENS - 1 ? &commit_block : &commit,
                       pkv_seq_commit(cache, seqs[i]));
        }
        free_batch(cache, seqs);
    }
    report(&append);
    report(&append_block);
    report(&commit);
    report(&commit_block);
    close_cache(cache);
}

/* ---- A prompt -------------------------------------------------------------------------------- */

/* What reserving, committing and freeing a prompt of PROMPT tokens takes. */
struct prompt_samples {
    struct samples reserve, commit, release;
};

static void prompt_once(pkv_cache* cache, struct prompt_samples* samples) {
    static uint32_t tokens[PROMPT];
    pkv_seq seq;
    fill_tokens(tokens, PROMPT);
    MUST(pkv_seq_create(cache, 0, &seq));
    const double start = now_ns();
    MUST(pkv_seq_append(cache, seq, tokens, PROMPT, NULL));
    const double reserved = now_ns();
    MUST(pkv_seq_commit(cache, seq));
    const double committed = now_ns();
    MUST(pkv_seq_free(cache, seq));
    const double freed = now_ns();
    add(&samples->reserve, reserved - start);
    add(&samples->commit, committed - reserved);
    add(&samples->release, freed - committed);
}

/* Blocks are free when asked for: a pool is used up once and then made again. */
static void bench_prompt(uint32_t runs) {
    struct prompt_samples samples = {{.figure = "reservation of 4,096 tokens"},
                                     {.figure = "commit of 4,096 tokens (256 blocks indexed)"},
                                     {.figure = "free of 4,096 tokens (256 blocks stay cached)"}};
    const uint32_t prompts = 64;
    for (uint32_t run = 0; run < runs;) {
        pkv_cache* cache = open_cache(prompts * PROMPT / BLOCK_TOKENS, PROMPT);
        for (uint32_t i = 0; i < prompts; i++) {
            struct prompt_samples first = {{.figure = ""}, {.figure = ""}, {.figure = ""}};
            const int is_first = i == 0; /* the system has yet to find the pages of the books */
            prompt_once(cache, is_first ? &first : &samples);
            free(first.reserve.values);
            free(first.commit.values);
            free(first.release.values);
            run += (uint32_t)!is_first;
        }
        close_cache(cache);
    }
    report(&samples.reserve);
    report(&samples.commit);
    report(&samples.release);
}

/* The pool is full of cached blocks: each reservation evicts as many as it takes. */
static void bench_evicting_prompt(uint32_t runs) {
    struct prompt_samples samples = {{.figure = "reservation of 4,096 tokens, evicting 256 blocks"},
                                     {.figure = ""},
                                     {.figure = ""}};
    pkv_cache* cache = open_cache(16 * PROMPT / BLOCK_TOKENS, PROMPT);
    for (uint32_t i = 0; i < 16; i++)
        MUST(pkv_seq_free(cache, start_sequence(cache, PROMPT)));
    for (uint32_t run = 0; run < runs; run++)
        prompt_once(cache, &samples);
    report(&samples.reserve);
    free(samples.commit.values);
    free(samples.release.values);
    close_cache(cache);
}

/* The same through a plan, which also writes positions, slots and a row of the block table; and the
 * blocks, not yet committed, go back to the pool. */
static void bench_prompt_plan(uint32_t runs) {
    struct samples begin = {.figure = "plan of 4,096 tokens (with positions, slots and table)"};
    struct samples abort_plan = {.figure = "abort of that plan (256 blocks are free again)"};
    static uint32_t tokens[PROMPT];
    pkv_cache* cache = open_cache(4 * PROMPT / BLOCK_TOKENS, PROMPT);
    pkv_seq seq;
    MUST(pkv_seq_create(cache, 0, &seq));
    fill_tokens(tokens, PROMPT);
    for (uint32_t run = 0; run < runs; run++) {
        const pkv_entry entry = {seq, tokens, PROMPT};
        pkv_plan plan;
        const double start = now_ns();
        MUST(pkv_plan_begin(cache, &entry, 1, &plan));
        const double begun = now_ns();
        MUST(pkv_plan_abort(cache, plan));
        add(&begin, begun - start);
        add(&abort_plan, now_ns() - begun);
    }
    report(&begin);
    report(&abort_plan);
    close_cache(cache);
}

/* ---- Long sequences and large pools ---------------------------------------------------------- */

static void bench_match(uint32_t runs) {
    struct samples match = {.figure = "match of 32,768 cached tokens"};
    static uint32_t tokens[LONG_PROMPT];
    pkv_cache* cache = open_cache(2 * LONG_PROMPT / BLOCK_TOKENS, LONG_PROMPT);
    pkv_seq seq;
    fill_tokens(tokens, LONG_PROMPT);
    MUST(pkv_seq_create(cache, 0, &seq));
    MUST(pkv_seq_append(cache, seq, tokens, LONG_PROMPT, NULL));
    MUST(pkv_seq_commit(cache, seq));
    MUST(pkv_seq_free(cache, seq));
    for (uint32_t run = 0; run < runs; run++) {
        uint32_t matched;
        MUST(pkv_seq_create(cache, 0, &seq));
        const double start = now_ns();
        MUST(pkv_seq_match(cache, seq, tokens, LONG_PROMPT, &matched));
        add(&match, now_ns() - start);
        if (matched != LONG_PROMPT) must(PKV_ECORRUPT, "match");
        MUST(pkv_seq_free(cache, seq));
    }
    report(&match);
    close_cache(cache);
}

static void bench_fork(uint32_t runs) {
    struct samples fork = {.figure = "fork of 1,000,000 tokens"};
    struct samples release = {.figure = "free of that fork"};
    pkv_config config = config_for(LONG_CONTEXT / BLOCK_TOKENS, LONG_CONTEXT);
    config.sequences_max = 2;
    pkv_cache* cache;
    MUST(pkv_cache_create(&config, &cache));
    const pkv_seq seq = start_sequence(cache, LONG_CONTEXT);
    for (uint32_t run = 0; run < runs; run++) {
        pkv_seq child;
        const double start = now_ns();
        MUST(pkv_seq_fork(cache, seq, &child));
        const double forked = now_ns();
        MUST(pkv_seq_free(cache, child));
        add(&fork, forked - start);
        add(&release, now_ns() - forked);
    }
    report(&fork);
    report(&release);
    close_cache(cache);
}

static void bench_create(uint32_t runs) {
    struct samples create = {.figure = "create of a pool of 100,000 blocks"};
    for (uint32_t run = 0; run < runs; run++) {
        const double start = now_ns();
        pkv_cache* cache = open_cache(POOL_BLOCKS, 0);
        add(&create, now_ns() - start);
        pkv_cache_destroy(cache);
    }
    report(&create);
}

/* All that a block more costs in host memory, token ids aside: they are content. */
static void bench_metadata(void) {
    enum { BLOCKS = 1 << 17 }; /* smaller caches remember more ghosts (policy/ghost.c) */
    pkv_cache* small = open_cache(BLOCKS, PROMPT);
    pkv_cache* large = open_cache(2 * BLOCKS, PROMPT);
    const uint64_t bytes = stats_of(large).heap_bytes - stats_of(small).heap_bytes;
    const double tokens = BLOCK_TOKENS * sizeof(uint32_t);
    report_number("host memory of a block beside its token ids", "bytes",
                  (double)bytes / BLOCKS - tokens);
    close_cache(large);
    close_cache(small);
}

/* ---- Threads --------------------------------------------------------------------------------- */

/* What one thread does: tokens for sequences of its own. */
struct worker {
    pkv_cache* cache;
    uint32_t rounds;
    uint32_t number;
    pthread_t thread;
};

static void* work(void* argument) {
    const struct worker* worker = argument;
    pkv_seq seqs[THREAD_SEQUENCES];
    for (uint32_t i = 0; i < THREAD_SEQUENCES; i++)
        MUST(pkv_seq_create(worker->cache, 0, &seqs[i]));
    for (uint32_t round = 0; round < worker->rounds; round++) {
        for (uint32_t i = 0; i < THREAD_SEQUENCES; i++) {
            const uint32_t token = (worker->number * THREAD_SEQUENCES + i) << 20 | round;
            MUST(pkv_seq_append(worker->cache, seqs[i], &token, 1, NULL));
            MUST(pkv_seq_commit(worker->cache, seqs[i]));
        }
    }
    for (uint32_t i = 0; i < THREAD_SEQUENCES; i++)
        MUST(pkv_seq_free(worker->cache, seqs[i]));
    return NULL;
}

static void bench_threads(uint32_t threads, uint32_t runs) {
    char figure[64];
    snprintf(figure, sizeof figure, "append and commit by %u thread%s", threads,
             threads > 1 ? "s" : "");
    struct samples samples = {.figure = figure};
    for (uint32_t run = 0; run < runs; run++) {
        struct worker workers[THREADS_MAX];
        pkv_cache* cache = open_cache(THREADS_MAX * THREAD_SEQUENCES * 64, 1024);
        const double start = now_ns();
        for (uint32_t i = 0; i < threads; i++) {
            workers[i] = (struct worker){.cache = cache, .rounds = 1000, .number = i};
            if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) exit(1);
        }
        for (uint32_t i = 0; i < threads; i++)
            pthread_join(workers[i].thread, NULL);
        add(&samples, (now_ns() - start) / (threads * 1000.0 * THREAD_SEQUENCES));
        close_cache(cache);
    }
    report(&samples);
}

int main(int count, char** arguments) {
    const long runs = count == 2 ? strtol(arguments[1], NULL, 10) : 0;
    if (runs < 1 || runs > 1000000) {
        fprintf(stderr, "usage: pkv_bench_blocks RUNS, from 1 to 1000000\n");
        return 2;
    }
    const uint32_t many = (uint32_t)runs;
    const uint32_t few = many / 50 > 0 ? many / 50 : 1;
    bench_steps(many);
    bench_append(many);
    bench_prompt(many);
    bench_evicting_prompt(many);
    bench_prompt_plan(many);
    bench_match(many);
    bench_fork(many);
    bench_create(few);
    bench_metadata();
    for (uint32_t threads = 1; threads <= THREADS_MAX; threads *= 2)
        bench_threads(threads, few);
    return 0;
}
