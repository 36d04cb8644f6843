/* test_timing.c - the time that pkv_seq_match takes does not say whether another tenant has the prompt
 * in the cache.
 *
 *   test_timing [--samples N]
 *
 * Three kinds of prompts: cached by the tenant that asks (the canary: a hit, which takes longer, and
 * has to be told from a miss), cached by another tenant, and never seen. They are asked for in random
 * order, each copied to the same place before, by sequences that are made outside the measurement.
 * A round gives Welch's t between the last two, of samples without the slowest tenth, which is what the
 * system has interrupted. How long chains of the index are is a matter of its secret key and differs
 * from one to the next: each round has a new one, and the median over the rounds decides, with its
 * sign. A difference that is real has the same sign in all of them. */
#define UNIT_NO_MAIN
#include "unit.h"

#include <math.h>
#include <time.h>

enum { BLOCK = 16, PROMPT = 4 * BLOCK, PROMPTS = 2048, ROUNDS = 9, ASKER = 1, OWNER = 2 };
enum kind { MINE, FOREIGN, UNSEEN, KINDS };

static uint32_t samples_wanted = 12000; /* of each kind, in a round */

struct samples {
    double* ns;
    uint32_t count;
};

struct world {
    pkv_cache* cache;
    uint64_t random;
    uint32_t prompts[KINDS][PROMPTS][PROMPT];
    struct samples samples[KINDS];
};

static struct world world;

static uint64_t next(struct world* w) {
    uint64_t x = w->random += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static void cache_prompt(struct world* w, uint64_t tenant, const uint32_t* tokens) {
    pkv_seq seq;
    ASSERT_OK(pkv_seq_create(w->cache, tenant, &seq));
    ASSERT_OK(pkv_seq_append(w->cache, seq, tokens, PROMPT, NULL));
    ASSERT_OK(pkv_seq_commit(w->cache, seq));
    ASSERT_OK(pkv_seq_free(w->cache, seq));
}

static void open_round(struct world* w, uint64_t seed) {
    pkv_config config;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.faults = "";
    config.groups[0] =
        (pkv_group_config){.layers = 1, .kv_heads = 1, .key_dim = 16, .block_tokens = BLOCK};
    config.blocks = 3 * PROMPTS * PROMPT / BLOCK;
    config.sequences_max = 2;
    config.sequence_tokens_max = PROMPT;
    config.seed = seed;
    ASSERT_OK(pkv_cache_create(&config, &w->cache));
    w->random = seed;
    for (uint32_t i = 0; i < PROMPTS; i++)
        for (uint32_t kind = 0; kind < KINDS; kind++)
            for (uint32_t t = 0; t < PROMPT;
                 t++) /* no two begin alike: there are no partial hits */
                w->prompts[kind][i][t] = t > 0 ? (uint32_t)next(w) >> 8 : KINDS * i + kind;
    for (uint32_t i = 0; i < PROMPTS; i++) {
        cache_prompt(w, ASKER, w->prompts[MINE][i]);
        cache_prompt(w, OWNER, w->prompts[FOREIGN][i]);
    }
    for (uint32_t kind = 0; kind < KINDS; kind++)
        w->samples[kind].count = 0;
}

static double now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void take_sample(struct world* w) {
    static uint32_t tokens[PROMPT];
    const enum kind kind = (enum kind)(next(w) % KINDS);
    struct samples* samples = &w->samples[kind];
    uint32_t matched;
    pkv_seq seq;
    memcpy(tokens, w->prompts[kind][next(w) % PROMPTS], sizeof tokens);
    ASSERT_OK(pkv_seq_create(w->cache, ASKER, &seq));
    const double begin = now_ns();
    const int status = pkv_seq_match(w->cache, seq, tokens, PROMPT, &matched);
    const double end = now_ns();
    ASSERT_OK(status);
    ASSERT_EQ(matched, kind == MINE ? PROMPT : 0);
    ASSERT_OK(pkv_seq_free(w->cache, seq));
    if (samples->count < samples_wanted) samples->ns[samples->count++] = end - begin;
}

/* ---- Statistics ------------------------------------------------------------------------------ */

static int compare(const void* a, const void* b) {
    const double x = *(const double*)a;
    const double y = *(const double*)b;
    return (x > y) - (x < y);
}

static void mean_and_variance(const double* values, uint32_t count, double* mean,
                              double* variance) {
    double sum = 0;
    double squares = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += values[i];
    *mean = sum / count;
    for (uint32_t i = 0; i < count; i++)
        squares += (values[i] - *mean) * (values[i] - *mean);
    *variance = squares / (count - 1);
}

/* Welch's t of b against a, both without what is above the limit under which nine tenths of the two
 * together are. */
static double welch(const struct samples* a, const struct samples* b) {
    const uint32_t count = a->count + b->count;
    double* all = malloc(count * sizeof *all);
    ASSERT(all != NULL);
    memcpy(all, a->ns, a->count * sizeof *all);
    memcpy(all + a->count, b->ns, b->count * sizeof *all);
    qsort(all, count, sizeof *all, compare);
    const double limit = all[count - count / 10 - 1];
    double mean[2];
    double variance[2];
    uint32_t kept[2] = {0, 0};
    const struct samples* both[2] = {a, b};
    for (uint32_t s = 0; s < 2; s++) {
        for (uint32_t i = 0; i < both[s]->count; i++)
            if (both[s]->ns[i] <= limit) all[kept[s]++] = both[s]->ns[i];
        ASSERT_GT(kept[s], 100);
        mean_and_variance(all, kept[s], &mean[s], &variance[s]);
    }
    free(all);
    return (mean[1] - mean[0]) / sqrt(variance[0] / kept[0] + variance[1] / kept[1]);
}

static double median(double* values, uint32_t count) {
    qsort(values, count, sizeof *values, compare);
    return values[count / 2];
}

static bool is_full(const struct world* w) {
    for (uint32_t kind = 0; kind < KINDS; kind++)
        if (w->samples[kind].count < samples_wanted) return false;
    return true;
}

TEST(a_match_takes_as_long_for_a_prompt_of_another_tenant_as_for_a_new_one) {
    double foreign[ROUNDS];
    double mine[ROUNDS];
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        world.samples[kind].ns = malloc(samples_wanted * sizeof(double));
        ASSERT(world.samples[kind].ns != NULL);
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        open_round(&world, round + 1);
        for (uint32_t i = 0; i < samples_wanted / 4; i++)
            take_sample(&world);
        for (uint32_t kind = 0; kind < KINDS; kind++)
            world.samples[kind].count = 0; /* those were to warm up */
        while (!is_full(&world))
            take_sample(&world);
        foreign[round] = welch(&world.samples[UNSEEN], &world.samples[FOREIGN]);
        mine[round] = welch(&world.samples[UNSEEN], &world.samples[MINE]);
        printf("  round %" PRIu32 ": t %.2f of another tenant's, %.2f of the own\n", round + 1,
               foreign[round], mine[round]);
        pkv_cache_destroy(world.cache);
    }
    for (uint32_t kind = 0; kind < KINDS; kind++)
        free(world.samples[kind].ns);
    const double t = median(foreign, ROUNDS);
    const double canary = median(mine, ROUNDS);
    printf("  median t %.2f, canary %.2f, samples %" PRIu32 "\n", t, canary,
           ROUNDS * samples_wanted);
    ASSERT(fabs(t) < 4.5);
    ASSERT(fabs(canary) > 4.5);
}

int main(int argc, char** argv) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--samples") == 0)
            samples_wanted = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    return unit_main(NULL);
}
