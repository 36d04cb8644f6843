/* judge.c - what calls may return, what has to be as it was before, and all numbers. */
#include "sim/round.h"

#include <stdarg.h>
#include <stdio.h>

bool sim_is_well(const sim* s) {
    return s->round->failure[0] == '\0';
}

void sim_fail(sim* s, const char* format, ...) {
    char* failure = s->round->failure;
    if (failure[0] != '\0') return;
    const int length = snprintf(failure, ROUND_FAILURE_BYTES, "cache %u: ", s->model.number);
    va_list args;
    va_start(args, format);
    vsnprintf(failure + length, ROUND_FAILURE_BYTES - (size_t)length, format, args);
    va_end(args);
}

/* ---- Notes ----------------------------------------------------------------------------------- */

static void fold(sim_round* r, uint64_t value) {
    r->hash = (r->hash ^ value) * 0x100000001b3;
    r->hash ^= r->hash >> 29;
}

static void print_record(const round_record* r) {
    printf("%8llu  %u %-14s %llu %llu %llu -> %s\n", (unsigned long long)r->number, r->cache,
           r->what, (unsigned long long)r->a, (unsigned long long)r->b, (unsigned long long)r->c,
           pkv_status_name(r->status));
}

void sim_note(sim* s, const char* what, uint64_t a, uint64_t b, uint64_t c, int status) {
    sim_round* round = s->round;
    round_record* record = &round->records[round->notes++ % ROUND_RECORDS];
    *record = (round_record){round->op, s->model.number, what, a, b, c, status};
    for (const char* letter = what; *letter != '\0'; letter++)
        fold(round, (unsigned char)*letter);
    fold(round, s->model.number);
    fold(round, a);
    fold(round, b);
    fold(round, c);
    fold(round, (uint64_t)status);
    if (s->options.verbose) print_record(record);
}

void round_print_records(const sim_round* r) {
    const uint64_t first = r->notes > ROUND_RECORDS ? r->notes - ROUND_RECORDS : 0;
    printf("the last calls: operation, cache, call\n");
    for (uint64_t i = first; i < r->notes; i++)
        print_record(&r->records[i % ROUND_RECORDS]);
}

/* ---- Before and after ------------------------------------------------------------------------ */

void sim_take_report(sim* s, pkv_report* report) {
    const int status = pkv_check(s->cache, report);
    if (status != PKV_OK) sim_fail(s, "pkv_check: %s", report->broken);
}

/* Calls that cannot fail are asked now and then what they have done to other caches. */
static bool needs_reports(const sim* s, model_verdict verdict) {
    if ((verdict.must | verdict.may | s->injected) != 0) return true;
    return s->round->sim_count > 1 && s->round->op % s->check_every == 0;
}

void sim_before(sim* s, model_verdict verdict) {
    sim_round* r = s->round;
    sim_settle(s);
    r->has_before = needs_reports(s, verdict);
    for (uint32_t i = 0; i < r->sim_count && r->has_before; i++)
        sim_take_report(&r->sims[i], &r->sims[i].before);
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

/* Nobody else's sequences ever change, and nothing at all when the call has done nothing. */
static void judge_others(sim* s, const char* what, bool is_whole) {
    sim_round* r = s->round;
    pkv_report after;
    for (uint32_t i = 0; i < r->sim_count; i++) {
        const sim* other = &r->sims[i];
        if (other == s) continue;
        sim_take_report(&r->sims[i], &after);
        if (after.sequences_digest != other->before.sequences_digest)
            sim_fail(s, "%s changed sequences of cache %u", what, i);
        if (is_whole && after.cache_digest != other->before.cache_digest)
            sim_fail(s, "%s failed and changed cache %u", what, i);
    }
}

/* What failed must have left everything as it was. A failed device may have cost cached blocks, and
 * so may a delay, by which what was retained has come due, or pins have ended. */
static void judge_unchanged(sim* s, const char* what, int status, bool was_delayed,
                            bool has_ended) {
    pkv_report after;
    s->round->failed_calls++;
    if (!s->round->has_before) return;
    sim_take_report(s, &after);
    const bool has_evicted = status == PKV_EIO || status == PKV_ETIMEDOUT;
    const bool has_expired = has_ended || (was_delayed && s->config.retained_max > 0);
    if (!has_ended && after.sequences_digest != s->before.sequences_digest)
        sim_fail(s, "%s failed with %s and changed sequences", what, pkv_status_name(status));
    if (!has_evicted && !has_expired && after.cache_digest != s->before.cache_digest)
        sim_fail(s, "%s failed with %s and changed the cache", what, pkv_status_name(status));
    judge_others(s, what, !has_evicted && !has_expired);
}

static bool judge_success(sim* s, const char* what, model_verdict verdict) {
    char wanted[200];
    describe(verdict.must, wanted, sizeof wanted);
    if (verdict.must != 0) sim_fail(s, "%s succeeded, want %s", what, wanted);
    if (s->round->has_before) judge_others(s, what, false);
    return sim_is_well(s);
}

/* Do other caches hold memory that this one might have? */
static bool is_short(const sim* s) {
    return model_used_blocks(&s->model) + model_free_blocks(&s->model) < s->config.blocks;
}

bool sim_judge(sim* s, const char* what, model_verdict verdict, int status, uint64_t a,
               uint64_t b) {
    char allowed[200];
    const bool was_delayed = s->model.clock_us != pkv_clock_us(s->cache);
    s->model.clock_us = pkv_clock_us(s->cache);
    sim_note(s, what, a, b, s->model.blocks_active, status);
    const uint32_t pins = model_pin_count(&s->model);
    if (was_delayed) sim_read_trace(s);
    const bool has_ended = model_pin_count(&s->model) < pins;
    if (status == PKV_OK) return judge_success(s, what, verdict);
    const uint32_t set = verdict.must | verdict.may | s->injected;
    if (status > 0 || status < -31 || (set & MODEL_BIT(status)) == 0) {
        describe(verdict.must != 0 ? set : set | MODEL_BIT(PKV_OK), allowed, sizeof allowed);
        sim_fail(s, "%s gave %s, want %s", what, pkv_status_name(status), allowed);
    }
    s->quota_refusals += status == PKV_EQUOTA;
    s->memory_refusals += status == PKV_ENOBLOCKS && is_short(s);
    judge_unchanged(s, what, status, was_delayed, has_ended);
    return false;
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static bool predicts_scrubs(const sim* s) {
    return !s->round->faults_have_been && !s->round->has_regrown;
}

void sim_check_stats(sim* s) {
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
    if (predicts_scrubs(s) && stats.scrubs != s->scrubs)
        sim_fail(s, "scrubs: want %llu, got %llu", (unsigned long long)s->scrubs,
                 (unsigned long long)stats.scrubs);
    if (stats.heap_calls != s->hook_calls) sim_fail(s, "the heap was called after create");
    if ((int64_t)stats.heap_bytes != s->hook_bytes)
        sim_fail(s, "heap_bytes is not what the hook holds");
    sim_check_victims(s);
}
