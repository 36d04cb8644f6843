/* driver.c - a round from its seed to its end: create, operate, judge, converge, destroy. */
#include "sim/driver.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAULT_PERIOD = 400, FAULT_REST_PERCENT = 25 };

/* ---- Failure and judgement ------------------------------------------------------------------- */

void sim_fail(sim* s, const char* format, ...) {
    if (s->failure[0] != '\0') return;
    va_list args;
    va_start(args, format);
    vsnprintf(s->failure, sizeof s->failure, format, args);
    va_end(args);
}

static void fold(sim* s, uint64_t value) {
    s->hash = (s->hash ^ value) * 0x100000001b3;
    s->hash ^= s->hash >> 29;
}

static void print_record(const sim_record* r) {
    printf("%8llu  %-14s %llu %llu %llu -> %s\n", (unsigned long long)r->number, r->what,
           (unsigned long long)r->a, (unsigned long long)r->b, (unsigned long long)r->c,
           pkv_status_name(r->status));
}

void sim_note(sim* s, const char* what, uint64_t a, uint64_t b, uint64_t c, int status) {
    sim_record* record = &s->records[s->notes++ % SIM_RECORDS];
    *record = (sim_record){s->op, what, a, b, c, status};
    for (const char* letter = what; *letter != '\0'; letter++)
        fold(s, (unsigned char)*letter);
    fold(s, a);
    fold(s, b);
    fold(s, c);
    fold(s, (uint64_t)status);
    if (s->options.verbose) print_record(record);
}

static void take_report(sim* s, pkv_report* report) {
    const int status = pkv_check(s->cache, report);
    if (status != PKV_OK) sim_fail(s, "pkv_check: %s", report->broken);
}

void sim_before(sim* s, model_verdict verdict) {
    sim_settle(s);
    s->has_before = (verdict.must | verdict.may | s->injected) != 0;
    if (s->has_before) take_report(s, &s->before);
}

/* "EBUSY or ESTALE" */
static void describe(uint32_t set, char* text, size_t bytes) {
    size_t length = 0;
    text[0] = '\0';
    for (int status = 0; status > -32; status--) {
        if ((set & MODEL_BIT(status)) == 0) continue;
        const char* join = length > 0 ? " or " : "";
        length +=
            (size_t)snprintf(text + length, bytes - length, "%s%s", join, pkv_status_name(status));
    }
}

/* What failed must have left everything as it was. A failed device may have cost cached blocks, and
 * so may a delay, by which what was retained has come due. */
static void judge_unchanged(sim* s, const char* what, int status, bool was_delayed) {
    pkv_report after;
    s->failed_calls++;
    if (!s->has_before) return;
    take_report(s, &after);
    const bool whole = status != PKV_EIO && status != PKV_ETIMEDOUT &&
                       !(was_delayed && s->config.retained_max > 0);
    if (after.sequences_digest != s->before.sequences_digest)
        sim_fail(s, "%s failed with %s and changed sequences", what, pkv_status_name(status));
    if (whole && after.cache_digest != s->before.cache_digest)
        sim_fail(s, "%s failed with %s and changed the cache", what, pkv_status_name(status));
}

bool sim_judge(sim* s, const char* what, model_verdict verdict, int status, uint64_t a,
               uint64_t b) {
    char allowed[200];
    const bool was_delayed = s->model.clock_us != pkv_clock_us(s->cache);
    s->model.clock_us = pkv_clock_us(s->cache);
    sim_note(s, what, a, b, s->model.blocks_active, status);
    s->quota_refusals += status == PKV_EQUOTA;
    if (status == PKV_OK) {
        if (verdict.must == 0) return s->failure[0] == '\0';
        describe(verdict.must, allowed, sizeof allowed);
        sim_fail(s, "%s succeeded, want %s", what, allowed);
        return false;
    }
    const uint32_t set = verdict.must | verdict.may | s->injected;
    if (status > 0 || status < -31 || (set & MODEL_BIT(status)) == 0) {
        describe(verdict.must != 0 ? set : set | MODEL_BIT(PKV_OK), allowed, sizeof allowed);
        sim_fail(s, "%s gave %s, want %s", what, pkv_status_name(status), allowed);
    }
    judge_unchanged(s, what, status, was_delayed);
    return false;
}

/* After every operation: all numbers that can be predicted. */
static void check_stats(sim* s) {
    pkv_stats stats = {.struct_size = sizeof stats};
    sim_settle(s);
    uint64_t want;
    uint64_t got;
    const int status = pkv_cache_stats(s->cache, &stats);
    if (status != PKV_OK) sim_fail(s, "pkv_cache_stats gave %s", pkv_status_name(status));
    const char* name = model_compare_stats(&s->model, &stats, &want, &got);
    if (name != NULL)
        sim_fail(s, "%s: want %llu, got %llu", name, (unsigned long long)want,
                 (unsigned long long)got);
    if (!s->faults_have_been && !s->blocks_have_moved && stats.scrubs != s->scrubs)
        sim_fail(s, "scrubs: want %llu, got %llu", (unsigned long long)s->scrubs,
                 (unsigned long long)stats.scrubs);
    if (stats.heap_calls != s->hook_calls) sim_fail(s, "the heap was called after create");
    if ((int64_t)stats.heap_bytes != s->hook_bytes)
        sim_fail(s, "heap_bytes is not what the hook holds");
    sim_check_victims(s);
}

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
    s->numbers_before = take(config->blocks, sizeof *s->numbers_before);
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
        s->docs,       s->doc_of,         s->handles,
        s->plans,      s->real_tenant,    s->real_written,
        s->real_mixed, s->transfers,      s->model_of_real,
        s->tokens,     s->model_entries,  s->entries,
        s->parents,    s->parent_rows,    s->paths,
        s->path_rows,  s->numbers,        s->k,
        s->v,          s->numbers_before,
    };
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        free(buffers[i]);
}

static void begin_round(sim* s, const sim_options* options) {
    *s = (sim){.options = *options, .random = options->seed, .hash = 0xcbf29ce484222325};
    sim_draw_config(s);
    const bool tight = s->model.leaves_are_tight;
    s->config.memory = (pkv_memory_hook){counting_resize, s};
    sim_draw_arena(s);
    take_buffers(s);
    sim_draw_docs(s);
    const int status = pkv_cache_create(&s->config, &s->cache);
    if (status != PKV_OK) sim_fail(s, "pkv_cache_create gave %s", pkv_status_name(status));
    model_open(&s->model, &s->config);
    s->model.leaves_are_tight = tight;
    s->model.canary = options->canary;
    sim_watch_victims(s);
}

void sim_close(sim* s) {
    pkv_cache_destroy(s->cache);
    if (pkv_arena_destroy(s->arena) != PKV_OK) sim_fail(s, "the arena is still in use");
    model_close(&s->model);
    give_buffers(s);
}

/* ---- The round ------------------------------------------------------------------------------- */

static uint64_t count_fired(const sim* s) {
    uint64_t fired = 0;
    for (uint32_t i = 0; i < pkv_fault_count(); i++) {
        pkv_fault_info info;
        if (pkv_fault_get(s->cache, i, &info) == PKV_OK) fired += info.fired;
    }
    return fired;
}

/* A swarm of faults lives for a while, then another, and sometimes there is peace. */
static void turn_faults(sim* s) {
    if (!s->options.swarm || s->op % FAULT_PERIOD != 0) return;
    s->fired += count_fired(s);
    if (sim_percent(s, FAULT_REST_PERCENT)) {
        s->injected = 0;
        pkv_faults_set(s->cache, NULL, 0);
    } else {
        sim_draw_faults(s);
    }
}

static void step(sim* s) {
    turn_faults(s);
    sim_op(s);
    check_stats(s);
    if (s->op % s->check_every == 0) {
        pkv_report report;
        take_report(s, &report);
        fold(s, report.cache_digest);
    }
    s->op++;
}

/* Take every block there is, so that everything cached has to go. */
static void take_all_blocks(sim* s) {
    const uint32_t chunk = s->config.plan_tokens_max;
    while (s->failure[0] == '\0' && s->model.blocks_active < s->config.blocks) {
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
            check_stats(s);
        }
    }
}

static void free_everything(sim* s) {
    sim_end_transfers(s);
    for (uint32_t i = 0; i < s->config.plans_max; i++)
        if (s->plans[i].handle.id != 0) sim_end_plan(s, &s->plans[i], s->plans[i].written);
    for (uint32_t i = 0; i < s->config.sequences_max; i++)
        if (s->model.seqs[i].alive) sim_free_seq(s, i);
    check_stats(s);
}

static void expect_rest(sim* s) {
    pkv_stats stats = {.struct_size = sizeof stats};
    pkv_report report;
    pkv_cache_stats(s->cache, &stats);
    take_report(s, &report);
    if (stats.blocks_active != 0) sim_fail(s, "%u blocks leaked", stats.blocks_active);
    if (stats.sequences != 0) sim_fail(s, "%u sequences leaked", stats.sequences);
    if (stats.plans != 0) sim_fail(s, "%u plans leaked", stats.plans);
    if (stats.transfers != 0) sim_fail(s, "%u transfers leaked", stats.transfers);
    if (stats.host_blocks_free != stats.host_blocks_total) sim_fail(s, "host blocks leaked");
    if (stats.leaves_free != stats.leaves_total) sim_fail(s, "page table leaves leaked");
    if (stats.blocks_cached == 0 && stats.extents_used != 0) sim_fail(s, "extents leaked");
}

/* Faults stop; then every sequence has to end, and every block to come back and be of use again. */
static void converge(sim* s) {
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

static void destroy(sim* s) {
    pkv_cache_destroy(s->cache);
    s->cache = NULL;
    if (s->hook_bytes != 0)
        sim_fail(s, "%lld bytes of host memory leaked", (long long)s->hook_bytes);
}

bool sim_run(sim* s, const sim_options* options) {
    begin_round(s, options);
    while (s->op < options->ops && s->failure[0] == '\0')
        step(s);
    if (s->failure[0] == '\0') converge(s);
    if (s->failure[0] == '\0') destroy(s);
    return s->failure[0] == '\0';
}

/* ---- Report ---------------------------------------------------------------------------------- */

static void print_trace(const sim* s) {
    enum { EVENTS = 24 };
    pkv_trace_event events[EVENTS];
    uint32_t count = 0;
    if (s->cache == NULL || pkv_trace_read(s->cache, events, EVENTS, &count) != PKV_OK) return;
    printf("the cache's own trace:\n");
    for (uint32_t i = 0; i < count; i++)
        printf("%8llu  %-14s subject %llx detail %llu at %llu us\n",
               (unsigned long long)events[i].number, events[i].what,
               (unsigned long long)events[i].subject, (unsigned long long)events[i].detail,
               (unsigned long long)events[i].time_us);
}

void sim_report(const sim* s, const char* program) {
    const pkv_group_config* group = &s->config.groups[0];
    printf("DIFFERENCE at operation %llu: %s\n", (unsigned long long)s->op, s->failure);
    if (s->arena != NULL) printf("in an arena, allocator %u, ", s->config.allocator);
    printf("config: blocks %u of %u tokens, %u sequences of %u tokens, %u plans of %u sequences "
           "and %u "
           "tokens, window %u, sinks %u, leaves %u, prefix_off %u, types %u/%u, dims %u/%u, host "
           "blocks %u, transfers %u, quotas %u, retained %u\n",
           s->config.blocks, group->block_tokens, s->config.sequences_max,
           s->config.sequence_tokens_max, s->config.plans_max, s->config.plan_sequences_max,
           s->config.plan_tokens_max, group->window, group->sinks, s->config.table_leaves_max,
           s->config.prefix_off, group->k_dtype, group->v_dtype, group->key_dim, group->value_dim,
           s->config.host_blocks, s->config.transfers_max, s->config.tenants_max,
           s->config.retained_max);
    printf("the last calls:\n");
    const uint64_t first = s->notes > SIM_RECORDS ? s->notes - SIM_RECORDS : 0;
    for (uint64_t i = first; i < s->notes; i++)
        print_record(&s->records[i % SIM_RECORDS]);
    print_trace(s);
    const uint64_t ops = s->op > 0 ? s->op : 1;
    printf("replay: %s --seed %llu --ops %llu --device %s%s%s\n", program,
           (unsigned long long)s->options.seed, (unsigned long long)ops, s->options.device,
           s->options.swarm ? " --swarm" : "", s->options.canary ? " --canary" : "");
}
