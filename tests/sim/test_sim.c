/* test_sim.c - the library against the slow, obvious model, for as many random operations as
 * wanted.
 *
 *   test_sim                       the gate: plain and swarm rounds, same seed twice, the canary
 *   test_sim --ops N [--seed S]    N operations in rounds of 10,000; round i has seed S + i
 *            [--swarm]             with faults
 *            [--device NAME]       on another device than the simulated one
 *            [--print-every M]     progress after every M operations; 1 prints each call
 *            [--canary]            with an error planted in the model; has to fail
 *
 * The hash that is printed covers every call with its arguments, results and digests: two runs of
 * one seed give the same. After a difference: the last calls, the command that replays them, and
 * exit status 1. */
#include "sim/round.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PKV_TINY
enum { ROUND_OPS = 2000 };
#else
enum { ROUND_OPS = 4000 };
#endif

struct run {
    uint64_t ops;
    uint64_t seed;
    uint64_t print_every;
    const char* device; /* NULL: the simulated one */
    bool swarm;
    enum model_canary canary;
    bool quiet; /* do not report a difference */
};

struct totals {
    uint64_t ops, calls, failed_calls, fired, hash;
    uint64_t published; /* tokens that tenants published */
    uint64_t pending;   /* tokens that lookups found to be on their way */
    uint64_t quotas_set, quota_refusals;
    uint64_t retained;      /* blocks that were asked to be */
    uint64_t told;          /* victims that the model was told */
    uint64_t events_told;   /* of blocks, that an application was */
    uint64_t scaled_rounds; /* whose K or V has scales */
    uint64_t shared_rounds; /* of several caches */
    uint64_t memory_refusals;
    uint64_t compacts_failed;
    uint64_t pinned, pins_expired;
    uint64_t claims; /* extents that were given up */
    uint64_t grown, shrunk, resizes_refused;
    uint64_t replaced; /* caches */
    pkv_stats events;  /* sums over all rounds: a kind of event that never came up was not tested */
};

static void add_events(pkv_stats* events, const pkv_stats* more) {
    events->plans_committed += more->plans_committed;
    events->prefix_hit_tokens += more->prefix_hit_tokens;
    events->prefix_duplicates += more->prefix_duplicates;
    events->evictions += more->evictions;
    events->cow_copies += more->cow_copies;
    events->expirations += more->expirations;
    events->rolled_blocks += more->rolled_blocks;
    events->swap_out_bytes += more->swap_out_bytes;
    events->swap_in_bytes += more->swap_in_bytes;
    events->transfers_failed += more->transfers_failed;
    events->transfers_cancelled += more->transfers_cancelled;
    events->blocks_moved += more->blocks_moved;
    events->extents_emptied += more->extents_emptied;
    events->extents_claimed += more->extents_claimed;
}

static void add_cache(struct totals* totals, const sim* s) {
    const pkv_group_config* group = &s->config.groups[0];
    totals->fired += s->fired;
    totals->pending += s->pending;
    totals->published += s->published;
    totals->quotas_set += s->quotas_set;
    totals->quota_refusals += s->quota_refusals;
    totals->memory_refusals += s->memory_refusals;
    totals->compacts_failed += s->compacts_failed;
    totals->retained += s->retained;
    totals->pinned += s->pinned;
    totals->pins_expired += s->model.counters.pins_expired;
    totals->told += s->told;
    totals->events_told += s->events_told;
    totals->scaled_rounds += row_is_scaled(group->k_dtype) || row_is_scaled(group->v_dtype);
    totals->events.scrubs += s->scrubs;
    add_events(&totals->events, &s->model.counters);
}

static void add(struct totals* totals, const sim_round* r) {
    totals->ops += r->op;
    totals->calls += r->notes;
    totals->failed_calls += r->failed_calls;
    totals->hash = (totals->hash ^ r->hash) * 0x100000001b3;
    totals->shared_rounds += r->sim_count > 1;
    totals->claims += r->memory.claims;
    totals->grown += r->grown;
    totals->shrunk += r->shrunk;
    totals->resizes_refused += r->resizes_refused;
    totals->replaced += r->replaced;
    for (uint32_t i = 0; i < r->sim_count; i++)
        add_cache(totals, &r->sims[i]);
}

static void print_totals(const char* name, const struct totals* t) {
    printf(
        "%s: operations %llu, calls %llu, of which failed as they should %llu, faults fired %llu, "
        "hash %016llx\n",
        name, (unsigned long long)t->ops, (unsigned long long)t->calls,
        (unsigned long long)t->failed_calls, (unsigned long long)t->fired,
        (unsigned long long)t->hash);
    const pkv_stats* e = &t->events;
    printf(
        "%s: commits %llu, hit tokens %llu, duplicates %llu, evictions %llu, copies on write %llu, "
        "rolled %llu, scrubs %llu, scaled rounds %llu, bytes out %llu, in %llu, "
        "swaps failed %llu, cancelled %llu, pending %llu, published %llu, quotas set %llu, "
        "refused by quotas %llu, moved %llu, retained %llu, expired %llu, victims told %llu, "
        "events told %llu\n",
        name, (unsigned long long)e->plans_committed, (unsigned long long)e->prefix_hit_tokens,
        (unsigned long long)e->prefix_duplicates, (unsigned long long)e->evictions,
        (unsigned long long)e->cow_copies, (unsigned long long)e->rolled_blocks,
        (unsigned long long)e->scrubs, (unsigned long long)t->scaled_rounds,
        (unsigned long long)e->swap_out_bytes, (unsigned long long)e->swap_in_bytes,
        (unsigned long long)e->transfers_failed, (unsigned long long)e->transfers_cancelled,
        (unsigned long long)t->pending, (unsigned long long)t->published,
        (unsigned long long)t->quotas_set, (unsigned long long)t->quota_refusals,
        (unsigned long long)e->blocks_moved, (unsigned long long)t->retained,
        (unsigned long long)e->expirations, (unsigned long long)t->told,
        (unsigned long long)t->events_told);
    printf("%s: shared rounds %llu, extents given up %llu, for other caches %llu, emptied %llu, "
           "compactions failed %llu, refused for memory %llu, arenas grown %llu, shrunk %llu, "
           "resizes refused %llu, "
           "caches replaced %llu, pins %llu, of which their time was over %llu\n",
           name, (unsigned long long)t->shared_rounds, (unsigned long long)t->claims,
           (unsigned long long)e->extents_claimed, (unsigned long long)e->extents_emptied,
           (unsigned long long)t->compacts_failed, (unsigned long long)t->memory_refusals,
           (unsigned long long)t->grown, (unsigned long long)t->shrunk,
           (unsigned long long)t->resizes_refused, (unsigned long long)t->replaced,
           (unsigned long long)t->pinned, (unsigned long long)t->pins_expired);
    fflush(stdout);
}

/* False at the first difference. */
static bool run_rounds(const char* program, const struct run* run, struct totals* totals) {
    static sim_round r;
    *totals = (struct totals){0};
    for (uint64_t seed = run->seed; totals->ops < run->ops; seed++) {
        const uint64_t left = run->ops - totals->ops;
        const uint64_t before = totals->ops;
        const sim_options options = {
            .seed = seed,
            .ops = left < ROUND_OPS ? left : ROUND_OPS,
            .device = run->device != NULL ? run->device : "sim",
            .swarm = run->swarm,
            .canary = run->canary,
            .verbose = run->print_every == 1,
        };
        const bool is_good = round_run(&r, &options);
        if (!is_good && !run->quiet) round_report(&r, program);
        add(totals, &r);
        round_close(&r);
        if (!is_good) return false;
        const uint64_t every = run->print_every;
        if (every > 0 && before / every != totals->ops / every) print_totals("so far", totals);
    }
    return true;
}

/* ---- The gate -------------------------------------------------------------------------------- */

static bool same_seed_same_hash(const char* program) {
    const struct run run = {.ops = 4 * ROUND_OPS, .seed = 900, .swarm = true};
    struct totals first;
    struct totals second;
    if (!run_rounds(program, &run, &first)) return false;
    if (!run_rounds(program, &run, &second)) return false;
    if (first.hash == second.hash) return true;
    printf("the same seed gave two runs: hash %016llx and %016llx\n",
           (unsigned long long)first.hash, (unsigned long long)second.hash);
    return false;
}

static bool canary_is_found(const char* program, enum model_canary canary) {
    const struct run run = {.ops = 10 * ROUND_OPS, .seed = 1, .canary = canary, .quiet = true};
    struct totals totals;
    if (!run_rounds(program, &run, &totals)) return true;
    printf("the error %d planted in the model was not noticed\n", canary);
    return false;
}

static int run_gate(const char* program) {
    const struct run plain = {.ops = 40 * ROUND_OPS, .seed = 1};
    const struct run swarm = {.ops = 28 * ROUND_OPS, .seed = 500, .swarm = true};
    const struct run cpu = {.ops = 14 * ROUND_OPS, .seed = 800, .device = "cpu"};
    struct totals totals;
    if (!run_rounds(program, &plain, &totals)) return 1;
    print_totals("plain", &totals);
    if (!run_rounds(program, &cpu, &totals)) return 1;
    print_totals("cpu", &totals);
    if (!run_rounds(program, &swarm, &totals)) return 1;
    print_totals("swarm", &totals);
    if (!same_seed_same_hash(program)) return 1;
    if (!canary_is_found(program, MODEL_FORGETS_EQUALS)) return 1;
    return canary_is_found(program, MODEL_SEES_MEMORY) ? 0 : 1;
}

/* ---- Command line ---------------------------------------------------------------------------- */

static int usage(const char* program) {
    printf("usage: %s [--ops N] [--seed S] [--swarm] [--device NAME]\n       [--print-every M] "
           "[--canary] [--canary-memory]\n",
           program);
    return 2;
}

static bool take_number(char** argv, int* i, const char* name, uint64_t* value) {
    if (strcmp(argv[*i], name) != 0 || argv[*i + 1] == NULL) return false;
    *value = strtoull(argv[++*i], NULL, 10);
    return true;
}

int main(int argc, char** argv) {
    struct run run = {.ops = 0, .seed = 1};
    for (int i = 1; i < argc; i++) {
        if (take_number(argv, &i, "--ops", &run.ops)) continue;
        if (take_number(argv, &i, "--seed", &run.seed)) continue;
        if (take_number(argv, &i, "--print-every", &run.print_every)) continue;
        if (strcmp(argv[i], "--device") == 0 && argv[i + 1] != NULL)
            run.device = argv[++i];
        else if (strcmp(argv[i], "--swarm") == 0)
            run.swarm = true;
        else if (strcmp(argv[i], "--canary") == 0)
            run.canary = MODEL_FORGETS_EQUALS;
        else if (strcmp(argv[i], "--canary-memory") == 0)
            run.canary = MODEL_SEES_MEMORY;
        else
            return usage(argv[0]);
    }
    if (argc == 1) return run_gate(argv[0]);
    if (run.ops == 0) run.ops = 30 * ROUND_OPS;
    struct totals totals;
    if (!run_rounds(argv[0], &run, &totals)) return 1;
    print_totals("equal", &totals);
    return 0;
}
