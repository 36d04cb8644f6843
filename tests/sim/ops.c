/* ops.c - the operations that a round draws from: one small function each, and the table of
 * them. */
#include "sim/round.h"

#include <string.h>

static const model_verdict nothing_fails = {0, 0};

/* ---- Sequences ------------------------------------------------------------------------------- */

static void bury_seq(sim* s, pkv_seq handle) {
    s->dead_seqs[sim_below(s, SIM_DEAD)] = handle;
}

static void op_free(sim* s);

static void op_create(sim* s) {
    if (model_create_errors(&s->model).must != 0 && sim_percent(s, 85)) {
        op_free(s);
        return;
    }
    const uint64_t tenant = sim_draw_tenant(s, s->tenants);
    const model_verdict verdict = model_create_errors(&s->model);
    pkv_seq handle;
    sim_before(s, verdict);
    const int status = pkv_seq_create(s->cache, tenant, &handle);
    if (!sim_judge(s, "seq.create", verdict, status, tenant, 0)) return;
    const uint32_t seq = model_create(&s->model, tenant);
    s->handles[seq] = handle;
    s->doc_of[seq] = sim_below(s, SIM_DOCS);
}

/* An empty sequence, or MODEL_NONE. */
static uint32_t find_empty(const sim* s) {
    for (uint32_t i = 0; i < s->config.sequences_max; i++) {
        const model_seq* seq = &s->model.seqs[i];
        if (!seq->alive || seq->in_plan || seq->residence != PKV_RESIDENT) continue;
        if (seq->length + seq->reserved == 0) return i;
    }
    return MODEL_NONE;
}

static void op_match(sim* s) {
    uint32_t seq = find_empty(s);
    if (seq == MODEL_NONE && sim_percent(s, 85)) {
        op_create(s);
        return;
    }
    if (seq == MODEL_NONE || sim_percent(s, 5)) seq = sim_draw_seq(s);
    uint32_t count = sim_below(s, s->config.sequence_tokens_max + 1);
    if (sim_percent(s, 2)) count = 1U << 31;
    if (seq != MODEL_NONE && count <= s->config.sequence_tokens_max)
        sim_draw_tokens(s, seq, 0, count, s->tokens);
    const model_verdict verdict = model_match_errors(&s->model, seq, count);
    uint32_t matched = 0;
    sim_before(s, verdict);
    const int status = pkv_seq_match(s->cache, sim_handle(s, seq), s->tokens, count, &matched);
    if (!sim_judge(s, "seq.match", verdict, status, count, matched)) return;
    const uint32_t want = model_match(&s->model, seq, s->tokens, count);
    if (matched != want) sim_fail(s, "matched %u tokens, want %u", matched, want);
}

/* After a failed device the room may have been made or not; whichever it was, wholly. Statistics are not
 * asked: they would let come due what was not over yet. */
bool sim_has_made_room(sim* s, int status, uint32_t* evicted) {
    if (status != PKV_EIO && status != PKV_ETIMEDOUT) return false;
    sim_read_trace(s);
    *evicted = s->victim_count;
    return *evicted > 0 || round_has_claims(s);
}

static void expect_evictions(sim* s, uint32_t evicted, uint32_t needed) {
    if (evicted != needed) sim_fail(s, "%u evictions, want none or %u", evicted, needed);
}

static void adopt_evictions(sim* s, uint32_t count, int status) {
    uint32_t evicted;
    if (!sim_has_made_room(s, status, &evicted)) return;
    expect_evictions(s, evicted, model_make_room(&s->model, s->model_entries, count));
}

static void op_fork(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    const model_verdict verdict = model_fork_errors(&s->model, seq);
    pkv_seq handle;
    sim_before(s, verdict);
    const int status = pkv_seq_fork(s->cache, sim_handle(s, seq), &handle);
    if (!sim_judge(s, "seq.fork", verdict, status, seq, 0)) {
        uint32_t evicted;
        if (verdict.must == 0 && sim_has_made_room(s, status, &evicted))
            expect_evictions(s, evicted, model_fork_room(&s->model, seq));
        return;
    }
    const uint32_t child = model_fork(&s->model, seq);
    s->handles[child] = handle;
    s->doc_of[child] = s->doc_of[seq];
    if (s->model.fresh_count == 0) return;
    sim_learn_blocks(s, child);
    sim_expect_scrubs(s);
}

static void op_truncate(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    uint32_t length = seq == MODEL_NONE ? 0 : s->model.seqs[seq].length;
    length -=
        sim_percent(s, 60) ? sim_below(s, length < 6 ? length + 1 : 6) : sim_below(s, length + 1);
    if (sim_percent(s, 3)) length += 1 + sim_below(s, 3);
    const model_verdict verdict = model_truncate_errors(&s->model, seq, length);
    sim_before(s, verdict);
    const int status = pkv_seq_truncate(s->cache, sim_handle(s, seq), length);
    if (sim_judge(s, "seq.truncate", verdict, status, seq, length))
        model_truncate(&s->model, seq, length);
}

void sim_free_seq(sim* s, uint32_t seq) {
    const model_verdict verdict = model_free_errors(&s->model, seq);
    const pkv_seq handle = sim_handle(s, seq);
    sim_before(s, verdict);
    const int status = pkv_seq_free(s->cache, handle);
    if (!sim_judge(s, "seq.free", verdict, status, seq, 0)) return;
    model_free(&s->model, seq);
    bury_seq(s, handle);
}

static void op_free(sim* s) {
    sim_free_seq(s, sim_draw_seq(s));
}

static void op_info(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    pkv_seq_info info = {0};
    const model_verdict verdict = {seq == MODEL_NONE ? MODEL_BIT(PKV_ESTALE) : 0, 0};
    sim_before(s, verdict);
    const int status = pkv_seq_get_info(s->cache, sim_handle(s, seq), &info);
    if (!sim_judge(s, "seq.get_info", verdict, status, info.length, info.reserved)) return;
    const model_seq* want = &s->model.seqs[seq];
    if (info.length != want->length) sim_fail(s, "length %u, want %u", info.length, want->length);
    if (info.reserved != want->reserved)
        sim_fail(s, "reserved %u, want %u", info.reserved, want->reserved);
    if (info.pages != model_pages(&s->model, want->length + want->reserved))
        sim_fail(s, "%u pages", info.pages);
    if (info.in_plan != want->in_plan) sim_fail(s, "in_plan %u", info.in_plan);
    if (info.residence != want->residence) sim_fail(s, "residence %u", info.residence);
    if (info.tenant != want->tenant) sim_fail(s, "the tenant has changed");
}

static void op_blocks(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    if (seq != MODEL_NONE) sim_learn_blocks(s, seq);
}

static void op_read(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    const uint32_t length = seq == MODEL_NONE ? 4 : s->model.seqs[seq].length;
    const uint32_t begin = sim_below(s, length + 1);
    uint32_t end = begin + sim_below(s, sim_percent(s, 80) ? 8 : length + 2);
    if (end > length && sim_percent(s, 95)) end = length;
    sim_read_range(s, seq, begin, end);
}

/* ---- Reservation ----------------------------------------------------------------------------- */

/* How many tokens to ask for: mostly one or a chunk that may fit, sometimes what must be
 * refused. */
static uint32_t draw_count(sim* s, uint32_t buffered) {
    const uint32_t kind = sim_below(s, 200);
    const uint32_t rest = s->config.plan_tokens_max - buffered;
    if (kind < 100) return 1;
    if (kind < 180) return 1 + sim_below(s, rest / (1 + sim_below(s, 4)));
    if (kind < 196) return 1 + sim_below(s, s->config.plan_tokens_max);
    if (kind < 197) return 0;
    if (kind < 198) return 1U << 31;
    if (kind < 199) return s->config.plan_tokens_max + 1;
    return UINT32_MAX;
}

/* Fill in one entry of both worlds. Tokens that do not fit the buffer are never read: the call must
 * fail. */
static void draw_entry(sim* s, uint32_t index, uint32_t seq, uint32_t* buffered) {
    const uint32_t count = draw_count(s, *buffered);
    const uint32_t* tokens = NULL;
    if (!sim_percent(s, 3)) {
        const bool fits = count <= s->config.plan_tokens_max - *buffered;
        const uint32_t rest = fits ? count : 0;
        if (seq != MODEL_NONE) {
            const model_seq* sequence = &s->model.seqs[seq];
            sim_draw_tokens(s, seq, sequence->length + sequence->reserved, rest,
                            s->tokens + *buffered);
        }
        tokens = s->tokens + *buffered;
        *buffered += rest;
    }
    s->model_entries[index] = (model_entry){seq, tokens, count};
    s->entries[index] = (pkv_entry){sim_handle(s, seq), tokens, count};
}

/* Idle sequences, each once; now and then anything at all. */
static uint32_t draw_entries(sim* s) {
    const uint32_t max = s->config.plan_sequences_max;
    uint32_t wanted = 1 + sim_below(s, max);
    if (sim_percent(s, 1)) wanted = sim_percent(s, 50) ? 0 : max + 1;
    const bool anything = sim_percent(s, 4);
    const uint32_t first = sim_below(s, s->config.sequences_max);
    uint32_t count = 0;
    uint32_t buffered = 0;
    for (uint32_t i = 0; i < s->config.sequences_max && count < wanted; i++) {
        const uint32_t seq = anything ? sim_draw_seq(s) : (first + i) % s->config.sequences_max;
        if (!anything) {
            const model_seq* sequence = &s->model.seqs[seq];
            if (!sequence->alive || sequence->in_plan || sequence->reserved > 0) continue;
            if (sequence->residence != PKV_RESIDENT) continue;
        }
        draw_entry(s, count++, seq, &buffered);
    }
    return count;
}

static sim_plan* find_plan(sim* s, bool open) {
    const uint32_t first = sim_below(s, s->config.plans_max);
    for (uint32_t i = 0; i < s->config.plans_max; i++) {
        sim_plan* plan = &s->plans[(first + i) % s->config.plans_max];
        if ((plan->handle.id != 0) == open) return plan;
    }
    return NULL;
}

static void note_plan(sim* s, sim_plan* plan, pkv_plan handle, uint32_t count) {
    plan->handle = handle;
    plan->entries = count;
    plan->tokens = 0;
    plan->written = false;
    plan->has_trees = false;
    for (uint32_t i = 0; i < count; i++) {
        plan->seqs[i] = s->model_entries[i].seq;
        plan->counts[i] = s->model_entries[i].count;
        plan->tokens += plan->counts[i];
        s->model.seqs[plan->seqs[i]].in_plan = true;
    }
    s->model.plans++;
    s->model.plan_rows += count;
}

static void op_begin(sim* s) {
    const uint32_t count = draw_entries(s);
    if (count == 0 && sim_percent(s, 90)) return;
    model_verdict verdict = model_begin_errors(&s->model, s->model_entries, count);
    const bool has_trees = sim_draw_trees(s, count, &verdict);
    pkv_plan handle;
    sim_before(s, verdict);
    const int status = has_trees
                           ? pkv_plan_begin_trees(s->cache, s->entries, s->parents, count, &handle)
                           : pkv_plan_begin(s->cache, s->entries, count, &handle);
    if (!sim_judge(s, "plan.begin", verdict, status, count, s->entries[0].count)) {
        if (verdict.must == 0) adopt_evictions(s, count, status);
        return;
    }
    model_reserve(&s->model, s->model_entries, count);
    sim_plan* plan = find_plan(s, false);
    note_plan(s, plan, handle, count);
    if (has_trees) sim_plant_trees(s, plan);
    for (uint32_t i = 0; i < count; i++)
        sim_learn_blocks(s, plan->seqs[i]);
    sim_expect_scrubs(s);
    sim_check_plan(s, plan);
}

static void op_append(sim* s) {
    uint32_t buffered = 0;
    draw_entry(s, 0, sim_draw_seq(s), &buffered);
    const model_entry* entry = &s->model_entries[0];
    const model_verdict verdict = model_append_errors(&s->model, entry);
    const uint32_t first = entry->seq == MODEL_NONE ? 0
                                                    : s->model.seqs[entry->seq].length +
                                                          s->model.seqs[entry->seq].reserved;
    sim_before(s, verdict);
    const int status =
        pkv_seq_append(s->cache, s->entries[0].seq, entry->tokens, entry->count, s->numbers);
    if (!sim_judge(s, "seq.append", verdict, status, entry->seq, entry->count)) {
        if (verdict.must == 0) adopt_evictions(s, 1, status);
        return;
    }
    uint32_t last_slot = s->numbers[entry->count - 1];
    model_reserve(&s->model, entry, 1);
    sim_learn_blocks(s, entry->seq);
    sim_expect_scrubs(s);
    const uint32_t last = first + entry->count - 1;
    const uint32_t block = s->model.seqs[entry->seq].blocks[last / s->model.block_tokens];
    const uint32_t want =
        s->model.blocks[block].real * s->model.block_tokens + last % s->model.block_tokens;
    if (last_slot != want) sim_fail(s, "slot %u, want %u", last_slot, want);
}

/* Mostly one that has appended tokens. */
static uint32_t draw_appended(sim* s) {
    uint32_t seq = sim_draw_seq(s);
    for (uint32_t i = 0; i < s->config.sequences_max && sim_percent(s, 90); i++) {
        const model_seq* candidate = &s->model.seqs[i];
        if (candidate->alive && !candidate->in_plan && candidate->reserved > 0) seq = i;
    }
    return seq;
}

static void op_seq_write(sim* s) {
    sim_write_seq(s, draw_appended(s));
}

static void op_commit_seq(sim* s) {
    const uint32_t seq = draw_appended(s);
    if (sim_percent(s, 80)) sim_write_seq(s, seq);
    const model_verdict verdict = model_commit_errors(&s->model, seq);
    sim_before(s, verdict);
    const int status = pkv_seq_commit(s->cache, sim_handle(s, seq));
    if (sim_judge(s, "seq.commit", verdict, status, seq, 0)) model_commit(&s->model, seq);
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static void op_write(sim* s) {
    sim_plan* plan = find_plan(s, true);
    if (plan != NULL) sim_write_plan(s, plan);
}

static void op_attend(sim* s) {
    const sim_plan* plan = find_plan(s, true);
    if (plan != NULL && plan->written) sim_attend_plan(s, plan);
}

void sim_close_plan(sim* s, sim_plan* plan, bool commit) {
    for (uint32_t i = 0; i < plan->entries; i++) {
        if (commit)
            model_commit(&s->model, plan->seqs[i]);
        else
            model_abort(&s->model, plan->seqs[i]);
    }
    s->model.counters.plans_committed += commit;
    s->model.counters.plans_aborted += !commit;
    s->model.plans--;
    s->dead_plans[sim_below(s, SIM_DEAD)] = plan->handle;
    plan->handle.id = 0;
}

void sim_end_plan(sim* s, sim_plan* plan, bool commit) {
    const pkv_plan handle = plan->handle;
    if (commit && (plan->has_trees || sim_percent(s, 10))) {
        sim_accept_plan(s, plan);
        return;
    }
    sim_before(s, nothing_fails);
    const int status =
        commit ? pkv_plan_commit(s->cache, handle) : pkv_plan_abort(s->cache, handle);
    const char* what = commit ? "plan.commit" : "plan.abort";
    if (sim_judge(s, what, nothing_fails, status, plan->entries, plan->tokens))
        sim_close_plan(s, plan, commit);
}

static void op_end(sim* s) {
    sim_plan* plan = find_plan(s, true);
    if (plan == NULL) {
        op_begin(s);
        return;
    }
    if (!plan->written && sim_percent(s, 95)) sim_write_plan(s, plan);
    const bool is_fit = plan->written || sim_percent(s, 10);
    if (sim_is_well(s)) sim_end_plan(s, plan, is_fit && !sim_percent(s, 12));
}

/* Most sequences end: what they had is only cached from then on, and others may claim it. */
void sim_rest(sim* s) {
    for (uint32_t i = 0; i < s->config.plans_max && sim_is_well(s); i++)
        if (s->plans[i].handle.id != 0 && sim_percent(s, 80))
            sim_end_plan(s, &s->plans[i], s->plans[i].written);
    for (uint32_t i = 0; i < s->config.sequences_max && sim_is_well(s); i++)
        if (s->model.seqs[i].alive && sim_percent(s, 80)) sim_free_seq(s, i);
}

/* ---- The rest -------------------------------------------------------------------------------- */

static void op_clock(sim* s) {
    if (strcmp(s->options.device, "sim") != 0) return;
    const uint64_t us = sim_below(s, 1000);
    const uint64_t before = pkv_clock_us(s->cache);
    sim_before(s, nothing_fails);
    const int status = pkv_clock_advance(s->cache, us);
    if (!sim_judge(s, "clock.advance", nothing_fails, status, before, us)) return;
    if (pkv_clock_us(s->cache) != before + us) sim_fail(s, "the virtual clock is off");
}

static const struct {
    void (*run)(sim* s);
    uint32_t weight;
} ops[] = {
    {op_create, 8},     {op_match, 8},        {op_fork, 5},         {op_truncate, 6},
    {op_free, 6},       {op_info, 3},         {op_blocks, 4},       {op_read, 14},
    {op_begin, 18},     {op_append, 4},       {op_write, 4},        {op_commit_seq, 4},
    {op_attend, 2},     {op_end, 22},         {sim_hostile, 4},     {op_clock, 3},
    {op_seq_write, 2},  {sim_op_swap_out, 3}, {sim_op_swap_in, 6},  {sim_op_transfer, 12},
    {sim_op_lookup, 5}, {sim_op_announce, 5}, {sim_op_set_keys, 3}, {sim_op_publish, 2},
    {sim_op_quota, 4},  {sim_op_compact, 3},  {sim_op_retain, 6},   {sim_op_pin, 4},
    {sim_op_drop, 1},
};

void sim_op(sim* s) {
    uint32_t total = 0;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        total += ops[i].weight;
    uint32_t ticket = sim_below(s, total);
    size_t i = 0;
    while (ticket >= ops[i].weight)
        ticket -= ops[i++].weight;
    ops[i].run(s);
}
