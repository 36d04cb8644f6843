/* driver.c - one cache of a round, from its creation to its end. */
#include "sim/round.h"

#include <stdio.h>
#include <stdlib.h>

enum { FAULT_PERIOD = 400, FAULT_REST_PERCENT = 25 };

/* ---- Begin and end --------------------------------------------------------------------------- */

static void* counting_resize(void* ctx, void* memory, size_t old_bytes, size_t new_bytes) {
    sim* s = ctx;
    s->hook_bytes += (int64_t)new_bytes - (int64_t)old_bytes;
    if (new_bytes > 0) {
        s->hook_calls++;
        return malloc(new_bytes);
    }
    free(memory);
    return NULL;
}

static void* take(size_t count, size_t bytes) {
    void* memory = calloc(count + 1, bytes);
    if (memory == NULL) {
        fputs("the test is out of memory\n", stderr);
        exit(2);
    }
    return memory;
}

static void take_buffers(sim* s) {
    const pkv_config* config = &s->config;
    const pkv_group_config* group = &config->groups[0];
    const uint32_t seqs = config->sequences_max;
    const size_t rows = config->plan_tokens_max + config->sequence_tokens_max;
    const uint32_t dim = group->key_dim > group->value_dim ? group->key_dim : group->value_dim;
    const size_t row_elements = (size_t)group->kv_heads * (dim + 1);
    s->docs = take((size_t)SIM_DOCS * config->sequence_tokens_max, sizeof *s->docs);
    s->doc_of = take(seqs, sizeof *s->doc_of);
    s->handles = take(seqs, sizeof *s->handles);
    s->plans = take(config->plans_max, sizeof *s->plans);
    for (uint32_t i = 0; i < config->plans_max; i++) {
        s->plans[i].seqs = take(seqs, sizeof(uint32_t));
        s->plans[i].counts = take(seqs, sizeof(uint32_t));
    }
    s->real_tenant = take(s->number_count, sizeof *s->real_tenant);
    s->real_written = take(s->number_count, sizeof *s->real_written);
    s->real_mixed = take(s->number_count, sizeof *s->real_mixed);
    s->transfers = take(config->transfers_max, sizeof *s->transfers);
    s->model_of_real = take(s->number_count, sizeof *s->model_of_real);
    s->told_of = take(s->number_count, sizeof *s->told_of);
    for (uint32_t i = 0; i < s->number_count; i++)
        s->model_of_real[i] = MODEL_NONE;
    for (uint32_t i = 0; i < SIM_DEAD; i++) {
        s->dead_seqs[i].id = sim_next(s) | 1;
        s->dead_plans[i].id = sim_next(s) | 1;
    }
    s->tokens = take(rows, sizeof *s->tokens);
    s->model_entries = take(seqs + 1, sizeof *s->model_entries);
    s->entries = take(seqs + 1, sizeof *s->entries);
    s->parents = take(seqs + 1, sizeof *s->parents);
    s->parent_rows = take(rows, sizeof *s->parent_rows);
    s->paths = take(seqs + 1, sizeof *s->paths);
    s->path_rows = take(rows, sizeof *s->path_rows);
    s->numbers = take(rows, sizeof *s->numbers);
    s->k = take(rows * row_elements, sizeof *s->k);
    s->v = take(rows * row_elements, sizeof *s->v);
}

static void give_buffers(sim* s) {
    for (uint32_t i = 0; s->plans != NULL && i < s->config.plans_max; i++) {
        free(s->plans[i].seqs);
        free(s->plans[i].counts);
    }
    void* const buffers[] = {
        s->docs,       s->doc_of,        s->handles,
        s->plans,      s->real_tenant,   s->real_written,
        s->real_mixed, s->transfers,     s->model_of_real,
        s->tokens,     s->model_entries, s->entries,
        s->parents,    s->parent_rows,   s->paths,
        s->path_rows,  s->numbers,       s->k,
        s->v,          s->told_of,
    };
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        free(buffers[i]);
}

/* What a cache knows of the one before it: nothing. */
static void forget(sim* s) {
    s->injected = 0;
    s->scrubs = 0;
    s->events_seen = 0;
    s->victim_count = 0;
    s->move_count = 0;
    s->hook_bytes = 0;
    s->hook_calls = 0;
}

void sim_open(sim* s) {
    const bool tight = s->model.leaves_are_tight;
    const uint32_t number = s->model.number;
    if (s->config.arena == NULL) s->number_count = s->config.blocks;
    s->config.memory = (pkv_memory_hook){counting_resize, s};
    forget(s);
    take_buffers(s);
    sim_draw_docs(s);
    const int status = pkv_cache_create(&s->config, &s->cache);
    if (status != PKV_OK) sim_fail(s, "pkv_cache_create gave %s", pkv_status_name(status));
    model_open(&s->model, &s->config);
    s->model.leaves_are_tight = tight;
    s->model.number = number;
    s->model.canary = s->options.canary;
    sim_watch_victims(s);
}

void sim_close(sim* s) {
    pkv_cache_destroy(s->cache);
    s->cache = NULL;
    model_close(&s->model);
    give_buffers(s);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static uint64_t count_fired(const sim* s) {
    uint64_t fired = 0;
    for (uint32_t i = 0; i < pkv_fault_count(); i++) {
        pkv_fault_info info;
        if (pkv_fault_get(s->cache, i, &info) == PKV_OK) fired += info.fired;
    }
    return fired;
}

/* A swarm of faults lives for a while, then another, and sometimes there is peace. */
void sim_turn_faults(sim* s) {
    if (!s->options.swarm || s->round->op % FAULT_PERIOD != 0) return;
    s->fired += count_fired(s);
    if (sim_percent(s, FAULT_REST_PERCENT)) {
        s->injected = 0;
        pkv_faults_set(s->cache, NULL, 0);
    } else {
        sim_draw_faults(s);
    }
}

/* ---- Convergence ----------------------------------------------------------------------------- */

/* Take every block there is, so that everything cached has to go, in other caches too. */
static void take_all_blocks(sim* s) {
    const uint32_t chunk = s->config.plan_tokens_max;
    while (sim_is_well(s) && s->model.blocks_active < s->config.blocks) {
        pkv_seq handle;
        if (model_create_errors(&s->model).must != 0) return;
        const int status = pkv_seq_create(s->cache, 0, &handle);
        if (status != PKV_OK) sim_fail(s, "create in convergence: %s", pkv_status_name(status));
        const uint32_t seq = model_create(&s->model, 0);
        s->handles[seq] = handle;
        for (;;) {
            const uint32_t rest = s->config.sequence_tokens_max - s->model.seqs[seq].reserved;
            const model_entry entry = {seq, NULL, rest < chunk ? rest : chunk};
            const model_verdict verdict = model_append_errors(&s->model, &entry);
            if (verdict.must != 0) break;
            sim_before(s, verdict);
            const int appended = pkv_seq_append(s->cache, handle, NULL, entry.count, NULL);
            if (!sim_judge(s, "last append", verdict, appended, seq, entry.count)) return;
            model_reserve(&s->model, &entry, 1);
            sim_learn_blocks(s, seq);
            sim_expect_scrubs(s);
            sim_check_stats(s);
        }
    }
}

static void free_everything(sim* s) {
    sim_end_transfers(s);
    sim_release_pins(s);
    for (uint32_t i = 0; i < s->config.plans_max; i++)
        if (s->plans[i].handle.id != 0) sim_end_plan(s, &s->plans[i], s->plans[i].written);
    for (uint32_t i = 0; i < s->config.sequences_max; i++)
        if (s->model.seqs[i].alive) sim_free_seq(s, i);
    sim_check_stats(s);
}

static void expect_rest(sim* s) {
    pkv_stats stats = {.struct_size = sizeof stats};
    pkv_report report;
    pkv_cache_stats(s->cache, &stats);
    sim_take_report(s, &report);
    if (stats.blocks_active != 0) sim_fail(s, "%u blocks leaked", stats.blocks_active);
    if (stats.sequences != 0) sim_fail(s, "%u sequences leaked", stats.sequences);
    if (stats.pins != 0) sim_fail(s, "%u pins leaked", stats.pins);
    if (stats.plans != 0) sim_fail(s, "%u plans leaked", stats.plans);
    if (stats.transfers != 0) sim_fail(s, "%u transfers leaked", stats.transfers);
    if (stats.host_blocks_free != stats.host_blocks_total) sim_fail(s, "host blocks leaked");
    if (stats.leaves_free != stats.leaves_total) sim_fail(s, "page table leaves leaked");
    if (stats.blocks_cached == 0 && stats.extents_used != 0) sim_fail(s, "extents leaked");
}

void sim_converge(sim* s) {
    if (s->options.swarm) s->fired += count_fired(s);
    s->injected = 0;
    pkv_faults_set(s->cache, NULL, 0);
    free_everything(s);
    sim_end_quotas(s);
    expect_rest(s);
    if (!s->model.leaves_are_tight) take_all_blocks(s);
    free_everything(s);
    expect_rest(s);
}

void sim_destroy(sim* s) {
    if (s->options.swarm) s->fired += count_fired(s);
    pkv_cache_destroy(s->cache);
    s->cache = NULL;
    if (s->hook_bytes != 0)
        sim_fail(s, "%lld bytes of host memory leaked", (long long)s->hook_bytes);
}
