/* round.c - a round from its seed to its end: create, operate, judge, converge, destroy. */
#include "sim/round.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t round_next(uint64_t* random) {
    uint64_t x = *random += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint32_t below(sim_round* r, uint32_t bound) {
    return (uint32_t)((round_next(&r->random) >> 32) * bound >> 32);
}

/* ---- Begin ----------------------------------------------------------------------------------- */

/* Of ten rounds four have a cache with an arena of its own, one has one in an arena that it could
 * share, and five have several. */
static uint32_t draw_count(sim_round* r, bool* is_shared) {
    const uint32_t ticket = below(r, 10);
    *is_shared = ticket >= 4;
    return ticket < 5 ? 1 : 2 + below(r, MODEL_CACHES - 1);
}

static void begin_round(sim_round* r, const sim_options* options) {
    bool is_shared;
    *r = (sim_round){.options = *options, .random = options->seed, .hash = 0xcbf29ce484222325};
    r->sim_count = draw_count(r, &is_shared);
    for (uint32_t i = 0; i < r->sim_count; i++) {
        sim* s = &r->sims[i];
        *s = (sim){.round = r, .options = *options, .random = round_next(&r->random)};
        s->model.number = i;
        sim_draw_config(s);
    }
    r->turn_percent = r->sim_count > 1 ? 1U << below(r, 7) : 0;
    if (is_shared) round_draw_arena(r);
    for (uint32_t i = 0; i < r->sim_count; i++)
        sim_open(&r->sims[i]);
    if (is_shared) round_watch_claims(r);
}

/* ---- The round ------------------------------------------------------------------------------- */

static void check_all(sim_round* r) {
    for (uint32_t i = 0; i < r->sim_count; i++)
        sim_check_stats(&r->sims[i]);
    if (r->arena != NULL) round_check_memory(r);
}

static void fold_reports(sim_round* r) {
    pkv_report report;
    for (uint32_t i = 0; i < r->sim_count; i++) {
        if (r->op % r->sims[i].check_every != 0) continue;
        sim_take_report(&r->sims[i], &report);
        sim_note(&r->sims[i], "check", report.cache_digest, 0, 0, PKV_OK);
    }
}

/* In some rounds caches alternate with each operation, in others one is busy while others rest. */
static sim* draw_turn(sim_round* r) {
    if (below(r, 100) >= r->turn_percent) return &r->sims[r->turn];
    if (below(r, 100) > r->turn_percent) sim_rest(&r->sims[r->turn]);
    r->turn = below(r, r->sim_count);
    return &r->sims[r->turn];
}

/* A cache dies with all that it has, and another of its kind takes its place in the arena. */
static void replace_cache(sim_round* r, sim* s) {
    pkv_report report;
    for (uint32_t i = 0; i < r->sim_count; i++)
        sim_take_report(&r->sims[i], &r->sims[i].before);
    sim_note(s, "cache.replace", s->model.blocks_active, 0, 0, PKV_OK);
    sim_destroy(s);
    sim_close(s);
    round_forget_bytes(s);
    sim_open(s);
    round_watch_claims(r);
    for (uint32_t i = 0; i < r->sim_count; i++) {
        sim_take_report(&r->sims[i], &report);
        if (&r->sims[i] != s && report.sequences_digest != r->sims[i].before.sequences_digest)
            sim_fail(s, "its end changed sequences of cache %u", i);
    }
    r->replaced++;
}

static void step(sim_round* r) {
    for (uint32_t i = 0; i < r->sim_count; i++)
        sim_turn_faults(&r->sims[i]);
    if (r->arena != NULL && below(r, 200) == 0)
        round_resize(r);
    else if (r->arena != NULL && below(r, 4000) == 0)
        replace_cache(r, &r->sims[below(r, r->sim_count)]);
    else
        sim_op(draw_turn(r));
    check_all(r);
    fold_reports(r);
    r->op++;
}

static bool is_well(const sim_round* r) {
    return r->failure[0] == '\0';
}

static void end_round(sim_round* r) {
    if (r->arena != NULL) round_regrow(r);
    for (uint32_t i = 0; i < r->sim_count && is_well(r); i++)
        sim_converge(&r->sims[i]);
    for (uint32_t i = 0; i < r->sim_count && is_well(r); i++)
        sim_destroy(&r->sims[i]);
    if (is_well(r)) round_destroy_arena(r);
}

bool round_run(sim_round* r, const sim_options* options) {
    begin_round(r, options);
    while (r->op < options->ops && is_well(r))
        step(r);
    if (is_well(r)) end_round(r);
    return is_well(r);
}

void round_close(sim_round* r) {
    for (uint32_t i = 0; i < r->sim_count; i++)
        sim_close(&r->sims[i]);
    pkv_arena_destroy(r->arena);
    free(r->writers);
}

/* ---- Report ---------------------------------------------------------------------------------- */

static void print_trace(const sim* s) {
    enum { EVENTS = 24 };
    pkv_trace_event events[EVENTS];
    uint32_t count = 0;
    if (s->cache == NULL || pkv_trace_read(s->cache, events, EVENTS, &count) != PKV_OK) return;
    printf("the trace of cache %u:\n", s->model.number);
    for (uint32_t i = 0; i < count; i++)
        printf("%8llu  %-14s subject %llx detail %llu at %llu us\n",
               (unsigned long long)events[i].number, events[i].what,
               (unsigned long long)events[i].subject, (unsigned long long)events[i].detail,
               (unsigned long long)events[i].time_us);
}

static void print_config(const sim* s) {
    const pkv_group_config* group = &s->config.groups[0];
    printf("cache %u: blocks %u of %u tokens, %u in an extent, %u sequences of %u tokens, %u plans "
           "of %u sequences and %u tokens, window %u, sinks %u, leaves %u, prefix_off %u, types "
           "%u/%u, dims %u/%u, host blocks %u, transfers %u, quotas %u, retained %u, allocator %u, "
           "eviction %s\n",
           s->model.number, s->config.blocks, group->block_tokens, s->model.per_extent,
           s->config.sequences_max, s->config.sequence_tokens_max, s->config.plans_max,
           s->config.plan_sequences_max, s->config.plan_tokens_max, group->window, group->sinks,
           s->config.table_leaves_max, s->config.prefix_off, group->k_dtype, group->v_dtype,
           group->key_dim, group->value_dim, s->config.host_blocks, s->config.transfers_max,
           s->config.tenants_max, s->config.retained_max, s->config.allocator, s->config.eviction);
}

static const char* canary_flag(enum model_canary canary) {
    if (canary == MODEL_SOUND) return "";
    return canary == MODEL_SEES_MEMORY ? " --canary-memory" : " --canary";
}

void round_report(const sim_round* r, const char* program) {
    const sim_options* options = &r->options;
    printf("DIFFERENCE at operation %llu: %s\n", (unsigned long long)r->op, r->failure);
    if (r->arena != NULL)
        printf("an arena of %u extents, at most %u\n", r->memory.extent_count,
               r->memory.extent_max);
    for (uint32_t i = 0; i < r->sim_count; i++)
        print_config(&r->sims[i]);
    round_print_records(r);
    for (uint32_t i = 0; i < r->sim_count; i++)
        print_trace(&r->sims[i]);
    const uint64_t ops = r->op > 0 ? r->op : 1;
    printf("replay: %s --seed %llu --ops %llu --device %s%s%s\n", program,
           (unsigned long long)options->seed, (unsigned long long)ops, options->device,
           options->swarm ? " --swarm" : "", canary_flag(options->canary));
}
