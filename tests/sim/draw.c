/* draw.c - what is random about a round: the shape of the cache, texts, tokens, faults.
 *
 * Pools are small and words are few, so that running out of blocks, meeting prefixes and evicting
 * are the rule. Every choice comes from the round's own generator (SplitMix64). */
#include "sim/round.h"

#include <stdio.h>
#include <string.h>

uint64_t sim_next(sim* s) {
    return round_next(&s->random);
}

uint32_t sim_below(sim* s, uint32_t bound) {
    if (bound == 0) return 0;
    return (uint32_t)((sim_next(s) >> 32) * bound >> 32);
}

bool sim_percent(sim* s, uint32_t percent) {
    return sim_below(s, 100) < percent;
}

uint32_t sim_between(sim* s, uint32_t low, uint32_t high) {
    return low + sim_below(s, high - low + 1);
}

/* ---- Configuration --------------------------------------------------------------------------- */

static void draw_window(sim* s, pkv_group_config* group) {
    if (sim_percent(s, 60)) return;
    group->window = sim_between(s, 1, 4 * group->block_tokens);
    if (sim_percent(s, 50)) group->sinks = sim_between(s, 1, 2 * group->block_tokens);
}

/* Every second round stores f32; the others any types, K and V apart, in blocks that hold them. */
static void draw_types(sim* s) {
    pkv_group_config* group = &s->config.groups[0];
    group->key_dim = 16;
    group->value_dim = 16;
    if (sim_percent(s, 50)) return;
    group->k_dtype = sim_below(s, PKV_I4 + 1);
    group->v_dtype = sim_below(s, PKV_I4 + 1);
    if (!row_is_scaled(group->k_dtype) && !row_is_scaled(group->v_dtype)) return;
    group->block_tokens = sim_percent(s, 50) ? 16 : 32;
    s->config.blocks = sim_between(s, 2, 12);
    if (sim_percent(s, 30)) group->key_dim = 48; /* i4: more than one scale */
    if (sim_percent(s, 30)) group->value_dim = 48;
}

/* A few rounds have tables of more than one leaf, which takes more than 256 pages. */
static void draw_shape(sim* s) {
    pkv_group_config* group = &s->config.groups[0];
    group->layers = sim_between(s, 1, 2);
    group->kv_heads = sim_between(s, 1, 2);
    if (sim_percent(s, 4)) {
        group->key_dim = 16;
        group->value_dim = 16;
        group->block_tokens = 1;
        s->config.blocks = sim_between(s, 300, 700);
        s->config.sequences_max = sim_between(s, 2, 4);
        s->config.plan_tokens_max = sim_between(s, 64, 600);
    } else {
        group->block_tokens = 1U << sim_below(s, 4);
        s->config.blocks = sim_between(s, 2, 48);
        s->config.sequences_max = sim_between(s, 1, 10);
        s->config.plan_tokens_max = sim_between(s, 1, 40);
        draw_types(s);
    }
}

static void draw_limits(sim* s) {
    pkv_config* config = &s->config;
    const uint32_t pool_tokens = config->blocks * config->groups[0].block_tokens;
    config->sequence_tokens_max = sim_percent(s, 70) ? pool_tokens : sim_between(s, 1, pool_tokens);
    config->plans_max = sim_between(s, 1, 3);
    config->plan_sequences_max = sim_between(s, 1, config->sequences_max);
    config->trace_events_max = SIM_EVENTS;
    config->prefix_off = sim_percent(s, 8);
    config->host_blocks = sim_percent(s, 75) ? sim_between(s, 1, config->blocks + 4) : 0;
    config->transfers_max = sim_between(s, 1, 3);
    config->announced_pages_max = sim_between(s, 1, config->blocks);
    config->key_sets_max = SIM_KEY_SETS;
    config->key_bytes_max = 64;
    config->tenants_max = sim_percent(s, 70) ? sim_between(s, 1, MODEL_ACCOUNTS - 1) : 0;
    config->retained_max = sim_percent(s, 70) ? sim_between(s, 1, config->blocks + 2) : 0;
    config->seed = sim_next(s) | 1;
    /* Which pages roll off depends on free leaves, which the model does not know: not both. */
    if (config->groups[0].window == 0 && sim_percent(s, 10)) {
        config->table_leaves_max = sim_between(s, 1, config->sequences_max);
        s->model.leaves_are_tight = true;
    }
}

void sim_draw_config(sim* s) {
    pkv_config_init(&s->config, PKV_VERSION);
    s->config.device = s->options.device;
    s->config.faults = "";
    draw_shape(s);
    draw_window(s, &s->config.groups[0]);
    draw_limits(s);
    if (sim_percent(s, 25)) s->config.cow = PKV_COW_FORK;
    s->config.cow_whole = sim_percent(s, 50);
    sim_draw_policy(s);
    s->tenants = sim_between(s, 1, SIM_TENANTS);
    s->vocabulary = sim_between(s, 1, 4);
    s->publishes = sim_percent(s, 40);
#ifdef PKV_TINY
    s->check_every = 1;
#else
    s->check_every = s->config.blocks > 100 ? 64 : 16;
#endif
}

/* ---- Sequences and tokens -------------------------------------------------------------------- */

void sim_draw_docs(sim* s) {
    for (uint32_t i = 0; i < SIM_DOCS * s->config.sequence_tokens_max; i++)
        s->docs[i] = sim_below(s, s->vocabulary);
}

void sim_draw_tokens(sim* s, uint32_t seq, uint32_t position, uint32_t count, uint32_t* tokens) {
    const uint32_t* doc = s->docs + s->doc_of[seq] * s->config.sequence_tokens_max;
    const uint32_t strayed = sim_percent(s, 80) ? count : sim_below(s, count);
    for (uint32_t i = 0; i < count; i++) {
        const bool in_doc = i < strayed && position + i < s->config.sequence_tokens_max;
        tokens[i] = in_doc ? doc[position + i] : sim_below(s, s->vocabulary);
    }
}

uint64_t sim_draw_tenant(sim* s, uint32_t count) {
    static const uint64_t tenants[] = {0, 0x8000000000000001, UINT64_MAX, 1ULL << 32};
    return tenants[sim_below(s, count)];
}

uint32_t sim_draw_seq(sim* s) {
    const uint32_t count = s->config.sequences_max;
    const uint32_t first = sim_below(s, count);
    if (sim_percent(s, 2)) return MODEL_NONE;
    for (uint32_t i = 0; i < count; i++)
        if (s->model.seqs[(first + i) % count].alive) return (first + i) % count;
    return MODEL_NONE;
}

pkv_seq sim_handle(const sim* s, uint32_t seq) {
    return seq == MODEL_NONE ? s->dead_seqs[s->round->op % SIM_DEAD] : s->handles[seq];
}

/* ---- Faults ---------------------------------------------------------------------------------- */

/* What a point may be told, and what a call may then return. Points that are not listed here fail
 * as devices do; those of create are never visited. */
static const struct {
    const char* point;
    const char* actions[5];
    uint32_t statuses;
} point_faults[] = {
    {"device.copy.submit", {"return(EIO)", "delay(50)"}, MODEL_BIT(PKV_EIO)},
    {"device.copy.done",
     {"return(EIO)", "drop", "dup", "corrupt(3)", "delay(700)"},
     MODEL_BIT(PKV_EIO) | MODEL_BIT(PKV_ETIMEDOUT)},
    {"device.zero", {"return(EIO)", "delay(9)"}, MODEL_BIT(PKV_EIO)},
    {"device.transfer.submit", {"return(EIO)", "delay(50)"}, MODEL_BIT(PKV_EIO)},
    {"device.transfer.done", {"return(EIO)", "drop", "corrupt(3)", "delay(700)"}, 0},
    {"tier.take", {"return(ENOHOST)"}, MODEL_BIT(PKV_ENOHOST)},
    {"arena.take", {"return(ENOBLOCKS)"}, MODEL_BIT(PKV_ENOBLOCKS)},
    {"pool.take", {"return(ENOBLOCKS)", "yield"}, MODEL_BIT(PKV_ENOBLOCKS)},
    {"prefix.evict", {"return(ENOBLOCKS)"}, MODEL_BIT(PKV_ENOBLOCKS)},
    {"arena.claim", {"return(ENOBLOCKS)"}, MODEL_BIT(PKV_ENOBLOCKS)},
    {"table.leaf", {"return(ENOLEAVES)"}, MODEL_BIT(PKV_ENOLEAVES)},
    {"seq.create", {"return(ENOSEQS)"}, MODEL_BIT(PKV_ENOSEQS)},
    {"seq.fork", {"return(ENOSEQS)"}, MODEL_BIT(PKV_ENOSEQS)},
    {"seq.match", {"return(ENOLEAVES)"}, MODEL_BIT(PKV_ENOLEAVES)},
    {NULL, {"return(EIO)", "delay(3)"}, MODEL_BIT(PKV_EIO)},
};

enum { SPEC_BYTES = 2048 };

/* "[P%][N*]action", now and then with a second term behind it. */
static void append_terms(sim* s, char* spec, const char* const* actions) {
    uint32_t choices = 1;
    while (choices < 5 && actions[choices] != NULL)
        choices++;
    char term[128];
    int length = snprintf(term, sizeof term, "%u%%", sim_between(s, 1, 40));
    if (sim_percent(s, 30))
        length +=
            snprintf(term + length, sizeof term - (size_t)length, "%u*", sim_between(s, 1, 9));
    snprintf(term + length, sizeof term - (size_t)length, "%s", actions[sim_below(s, choices)]);
    strcat(spec, term);
    if (!sim_percent(s, 20)) return;
    strcat(spec, "->");
    strcat(spec, actions[sim_below(s, choices)]);
}

static void append_point(sim* s, char* spec, const char* name) {
    size_t i = 0;
    while (point_faults[i].point != NULL && strcmp(point_faults[i].point, name) != 0)
        i++;
    if (spec[0] != '\0') strcat(spec, "; ");
    strcat(spec, name);
    strcat(spec, "=");
    append_terms(s, spec, point_faults[i].actions);
    s->injected |= point_faults[i].statuses;
}

/* Each point takes part with one chance in four, and then fires at its own rate. */
void sim_draw_faults(sim* s) {
    char spec[SPEC_BYTES] = "";
    s->injected = 0;
    for (uint32_t i = 0; i < pkv_fault_count() && strlen(spec) < SPEC_BYTES - 256; i++) {
        pkv_fault_info info;
        if (pkv_fault_get(NULL, i, &info) != PKV_OK) sim_fail(s, "fault point %u has no info", i);
        if (sim_percent(s, 25)) append_point(s, spec, info.name);
    }
    const int status = pkv_faults_set(s->cache, spec, sim_next(s));
    if (status == PKV_ENOTSUP)
        s->injected = 0; /* built without fault points: peace */
    else if (status != PKV_OK)
        sim_fail(s, "\"%s\" was refused: %s", spec, pkv_status_name(status));
    s->round->faults_have_been |= s->injected != 0;
    sim_note(s, "faults", s->injected, 0, 0, status);
    if (s->options.verbose) printf("faults: %s\n", spec);
}
