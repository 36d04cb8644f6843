/* allocators.c - the allocator policies beside each other, on a long random mix of two models in one
 * arena.
 *
 *   pkv_bench_allocators STEPS SEED
 *
 * Knows the public header alone. Prints one JSON object a line for each policy and kind of mix. The
 * demand of the models swings in opposite directions, so that extents have to move between them:
 *
 *   demand   model 1  75 % of the arena ... 5 % ... 75 %        in blocks of active sequences
 *            model 2   5 %              ... 75 % ...  5 %
 *
 * Sequences have prompts of 1 to 64 blocks, short ones being the most, grow by a block now and then,
 * and end in random order. "plain": no prefix index, nothing is cached. "cached": prompts come from
 * a set of texts and stay cached, so that memory is full and others have to give extents up.
 *
 *   loose      free blocks in held extents, share of their bytes: what others cannot use; mean of
 *              all steps
 *   free       extents that nobody holds, share of the arena; mean
 *   refused    reservations that found no blocks though loose and free bytes were enough; share
 *   reserve    ns that reservations took, as the library counts them
 *
 * Blocks are small, since nothing is computed: only changes of owner touch them. */
#include <pagedkv.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    EXTENT = 1 << 16,
    EXTENTS = 512,
    BLOCK_TOKENS = 16,
    SEQUENCES = 1024,
    PROMPT_BLOCKS = 64,
    TEXTS = 64,
    PERIOD = 20000, /* steps of one swing */
};

static void must(int status, const char* what) {
    if (status == PKV_OK) return;
    fprintf(stderr, "%s: %s\n", what, pkv_status_message(status));
    exit(1);
}

#define MUST(call) must(call, #call)

struct model {
    pkv_cache* cache;
    pkv_seq seqs[SEQUENCES];
    uint32_t count;
    uint64_t block_bytes;
};

struct mix {
    pkv_arena* arena;
    struct model models[2];
    uint64_t random;
    bool is_cached;
    uint64_t asked;
    uint64_t refused;
    double loose;
    double free;
};

static uint32_t below(struct mix* mix, uint32_t bound) {
    mix->random = mix->random * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)((mix->random >> 33) % bound);
}

static pkv_arena_stats arena_stats(const struct mix* mix) {
    pkv_arena_stats stats = {.struct_size = sizeof stats};
    MUST(pkv_arena_get_stats(mix->arena, &stats));
    return stats;
}

static pkv_stats cache_stats(const struct model* model) {
    pkv_stats stats = {.struct_size = sizeof stats};
    MUST(pkv_cache_stats(model->cache, &stats));
    return stats;
}

/* Blocks of 16 tokens, of `heads` heads: 2 KiB for each. */
static void open_model(struct mix* mix, struct model* model, uint32_t heads) {
    pkv_config config;
    pkv_sizes sizes;
    MUST(pkv_config_init(&config, PKV_VERSION));
    config.faults = "";
    config.groups[0] = (pkv_group_config){
        .layers = 1, .kv_heads = heads, .key_dim = 16, .block_tokens = BLOCK_TOKENS};
    config.arena = mix->arena;
    config.sequences_max = SEQUENCES;
    config.sequence_tokens_max = 8192;
    config.prefix_off = !mix->is_cached;
    config.seed = heads;
    MUST(pkv_config_check(&config, NULL, &sizes));
    MUST(pkv_cache_create(&config, &model->cache));
    model->block_bytes = sizes.block_bytes;
    model->count = 0;
}

/* ---- Sequences ------------------------------------------------------------------------------- */

/* Count a reservation. One that is refused though the bytes are there is fragmentation's fault. */
static bool reserve(struct mix* mix, struct model* model, pkv_seq seq, const uint32_t* tokens,
                    uint32_t count) {
    const int status = pkv_seq_append(model->cache, seq, tokens, count, NULL);
    mix->asked++;
    if (status == PKV_OK) {
        MUST(pkv_seq_commit(model->cache, seq));
        return true;
    }
    if (status != PKV_ENOBLOCKS) must(status, "pkv_seq_append");
    const pkv_arena_stats stats = arena_stats(mix);
    const uint64_t room = stats.bytes_loose + stats.extents_free * stats.extent_bytes;
    mix->refused += room >= (uint64_t)count / BLOCK_TOKENS * model->block_bytes;
    return false;
}

/* Short prompts are the most: the smaller of three draws. */
static uint32_t draw_blocks(struct mix* mix) {
    uint32_t blocks = PROMPT_BLOCKS;
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t other = 1 + below(mix, PROMPT_BLOCKS);
        if (other < blocks) blocks = other;
    }
    return blocks;
}

static void start(struct mix* mix, struct model* model) {
    uint32_t tokens[PROMPT_BLOCKS * BLOCK_TOKENS + 1];
    uint32_t matched = 0;
    pkv_seq seq;
    if (model->count == SEQUENCES) return;
    const uint32_t count = draw_blocks(mix) * BLOCK_TOKENS;
    const uint32_t text = below(mix, TEXTS);
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = text * 4096 + i;
    if (below(mix, 3) == 0) tokens[count / 2] = below(mix, 1U << 30); /* it strays */
    MUST(pkv_seq_create(model->cache, 0, &seq));
    if (mix->is_cached) MUST(pkv_seq_match(model->cache, seq, tokens, count - 1, &matched));
    if (reserve(mix, model, seq, tokens + matched, count - matched))
        model->seqs[model->count++] = seq;
    else
        MUST(pkv_seq_free(model->cache, seq));
}

static void end(struct mix* mix, struct model* model) {
    if (model->count == 0) return;
    const uint32_t index = below(mix, model->count);
    MUST(pkv_seq_free(model->cache, model->seqs[index]));
    model->seqs[index] = model->seqs[--model->count];
}

static void grow(struct mix* mix, struct model* model) {
    pkv_seq_info info;
    if (model->count == 0) return;
    const pkv_seq seq = model->seqs[below(mix, model->count)];
    MUST(pkv_seq_get_info(model->cache, seq, &info));
    if (info.length + BLOCK_TOKENS > 8192) return;
    reserve(mix, model, seq, NULL, BLOCK_TOKENS);
}

/* ---- The mix --------------------------------------------------------------------------------- */

/* How much of the arena a model wants now: 5 to 75 %, up and down. */
static double demand(uint32_t step, uint32_t index) {
    const double phase = (double)(step % PERIOD) / PERIOD;
    const double up = phase < 0.5 ? 2 * phase : 2 - 2 * phase;
    return 0.05 + 0.7 * (index == 0 ? up : 1 - up);
}

static void run_step(struct mix* mix, uint32_t step) {
    const uint32_t index = below(mix, 2);
    struct model* model = &mix->models[index];
    const pkv_stats stats = cache_stats(model);
    const double active = (double)(stats.blocks_active * model->block_bytes);
    const bool is_hungry = active < demand(step, index) * EXTENTS * (double)EXTENT;
    const uint32_t draw = below(mix, 10);
    if (draw < 4)
        grow(mix, model);
    else if (is_hungry)
        start(mix, model);
    else
        end(mix, model);
    if (!is_hungry && draw > 6) end(mix, model);
    const pkv_arena_stats arena = arena_stats(mix);
    const double held = (double)(arena.bytes_used + arena.bytes_loose + arena.bytes_lost);
    if (held > 0) mix->loose += (double)arena.bytes_loose / held;
    mix->free += (double)arena.extents_free / EXTENTS;
}

static void report(const struct mix* mix, const char* policy, uint32_t steps) {
    const pkv_stats one = cache_stats(&mix->models[0]);
    const pkv_stats two = cache_stats(&mix->models[1]);
    const double queried = (double)(one.prefix_query_tokens + two.prefix_query_tokens);
    const double hits = (double)(one.prefix_hit_tokens + two.prefix_hit_tokens);
    printf("{\"policy\": \"%s\", \"mix\": \"%s\", \"steps\": %u, \"loose\": %.4f, \"free\": %.4f, "
           "\"refused\": %.5f, \"claimed\": %llu, \"evictions\": %llu, \"hit_rate\": %.4f, "
           "\"reserve_p50_ns\": %llu, \"reserve_p99_ns\": %llu, \"reserve_max_ns\": %llu}\n",
           policy, mix->is_cached ? "cached" : "plain", steps, mix->loose / steps,
           mix->free / steps, (double)mix->refused / (double)mix->asked,
           (unsigned long long)arena_stats(mix).extents_claimed,
           (unsigned long long)(one.evictions + two.evictions), queried > 0 ? hits / queried : 0.0,
           (unsigned long long)(one.reserve_p50_ns + two.reserve_p50_ns) / 2,
           (unsigned long long)(one.reserve_p99_ns + two.reserve_p99_ns) / 2,
           (unsigned long long)(one.reserve_max_ns > two.reserve_max_ns ? one.reserve_max_ns
                                                                        : two.reserve_max_ns));
    fflush(stdout);
}

static void run_mix(const char* policy, uint32_t allocator, bool is_cached, uint32_t steps,
                    uint64_t seed) {
    static struct mix mix;
    pkv_arena_config config;
    mix = (struct mix){.random = seed, .is_cached = is_cached};
    MUST(pkv_arena_config_init(&config, PKV_VERSION));
    config.extent_bytes = EXTENT;
    config.bytes = (uint64_t)EXTENTS * EXTENT;
    config.allocator = allocator;
    config.faults = "";
    MUST(pkv_arena_create(&config, &mix.arena));
    open_model(&mix, &mix.models[0], 1); /* 32 blocks to an extent */
    open_model(&mix, &mix.models[1], 3); /* 10, and 4 KiB at the end */
    for (uint32_t step = 0; step < steps; step++)
        run_step(&mix, step);
    report(&mix, policy, steps);
    for (uint32_t i = 0; i < 2; i++) {
        MUST(pkv_check(mix.models[i].cache, NULL));
        pkv_cache_destroy(mix.models[i].cache);
    }
    MUST(pkv_arena_destroy(mix.arena));
}

int main(int argc, char** argv) {
    static const char* const names[] = {"first-fit", "best-fit", "ring", "lifo"};
    const uint32_t steps = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (steps == 0) {
        fprintf(stderr, "usage: %s STEPS [SEED]\n", argv[0]);
        return 2;
    }
    for (uint32_t cached = 0; cached < 2; cached++)
        for (uint32_t i = 0; i < 4; i++)
            run_mix(names[i], PKV_FIRST_FIT + i, cached == 1, steps, seed);
    return 0;
}
