/* content.c - what is stored in the cache, and whether it comes out again.
 *
 * Each row says whose it is (row.h). A block that was not copied on write, was copied wrongly or not
 * wholly, shared with the wrong prefix or not zeroed shows up as the row of another. */
#include "sim/round.h"

#include <math.h>
#include <string.h>

/* K or V of the cache. */
typedef struct side {
    const char* name;
    bool is_value;
    uint32_t dtype;
    uint32_t dim;
} side;

static side side_of(const sim* s, bool is_value) {
    const pkv_group_config* group = &s->config.groups[0];
    if (is_value) return (side){"V", true, group->v_dtype, group->value_dim};
    return (side){"K", false, group->k_dtype, group->key_dim};
}

/* ---- Write ----------------------------------------------------------------------------------- */

static void fill_rows(const sim* s, float** rows, const model_seq* seq, uint32_t layer,
                      bool is_value) {
    const side to = side_of(s, is_value);
    for (uint32_t i = 0; i < seq->reserved; i++) {
        for (uint32_t head = 0; head < s->config.groups[0].kv_heads; head++) {
            const uint32_t fill = seq->fills[seq->length + i];
            row_fill(to.dtype, row_key(fill, layer, head, is_value), *rows, to.dim);
            *rows += to.dim;
        }
    }
}

static int write_layer(sim* s, const sim_plan* plan, uint32_t layer) {
    float* k_rows = s->k;
    float* v_rows = s->v;
    for (uint32_t i = 0; i < plan->entries; i++) {
        const model_seq* seq = &s->model.seqs[plan->seqs[i]];
        fill_rows(s, &k_rows, seq, layer, false);
        fill_rows(s, &v_rows, seq, layer, true);
    }
    const pkv_array k = {.data = s->k};
    const pkv_array v = {.data = s->v};
    return pkv_write(s->cache, plan->handle, layer, &k, &v);
}

/* After a failure the slots hold nothing defined, which the model calls spoiled. */
void sim_write_plan(sim* s, sim_plan* plan) {
    for (uint32_t i = 0; i < plan->entries; i++)
        model_write(&s->model, plan->seqs[i]);
    plan->written = true;
    const model_verdict verdict = {0, 0};
    for (uint32_t layer = 0; layer < s->config.groups[0].layers; layer++) {
        sim_before(s, verdict);
        const int status = write_layer(s, plan, layer);
        plan->written &= sim_judge(s, "write", verdict, status, plan->tokens, layer);
    }
    if (plan->written) return;
    for (uint32_t i = 0; i < plan->entries; i++)
        model_spoil(&s->model, plan->seqs[i]);
}

/* The same for what was appended outside plans. */
void sim_write_seq(sim* s, uint32_t seq) {
    const pkv_group_config* group = &s->config.groups[0];
    const model_verdict verdict = model_write_errors(&s->model, seq);
    const bool is_right = verdict.must == 0;
    const pkv_array k = {.data = s->k};
    const pkv_array v = {.data = s->v};
    bool written = true;
    if (is_right) model_write(&s->model, seq);
    for (uint32_t layer = 0; layer < (is_right ? group->layers : 1); layer++) {
        float* k_rows = s->k;
        float* v_rows = s->v;
        if (is_right) fill_rows(s, &k_rows, &s->model.seqs[seq], layer, false);
        if (is_right) fill_rows(s, &v_rows, &s->model.seqs[seq], layer, true);
        sim_before(s, verdict);
        const int status = pkv_seq_write(s->cache, sim_handle(s, seq), layer, &k, &v);
        written &= sim_judge(s, "seq.write", verdict, status, seq, layer);
    }
    if (is_right && !written) model_spoil(&s->model, seq);
}

/* ---- Read ------------------------------------------------------------------------------------ */

/* A slot that was never written may hold nothing, or what the same tenant once stored in that layer
 * and head. Once copies have been made to fail it may hold rubbish, but nobody else's row by
 * chance. */
static bool is_own_residue(const sim* s, side from, const float* row, uint32_t layer, uint32_t head,
                           uint64_t tenant) {
    uint32_t key;
    if (s->round->faults_have_been || row_is_zero(row, from.dim)) return true;
    if (s->published > 0) return true; /* a copy of a published block holds the publisher's rows */
    if (!row_read(from.dtype, row, from.dim, &key)) return false;
    const uint32_t fill = key & ((1U << ROW_FILL_BITS) - 1);
    if (fill >> MODEL_OWNER_SHIFT != model_owner(&s->model, tenant)) return false;
    return key == row_key(fill, layer, head, from.is_value);
}

/* The first element that is wrong, or dim. */
static uint32_t first_wrong(const sim* s, side from, const model_seq* seq, uint32_t position,
                            uint32_t layer, uint32_t head, const float* row) {
    const uint32_t fill = seq->fills[position];
    if (fill == 0) return is_own_residue(s, from, row, layer, head, seq->tenant) ? from.dim : 0;
    return row_differs(from.dtype, row_key(fill, layer, head, from.is_value), row, from.dim);
}

static void compare_rows(sim* s, bool is_value, uint32_t index, uint32_t begin, uint32_t end,
                         uint32_t layer) {
    const side from = side_of(s, is_value);
    const model_seq* seq = &s->model.seqs[index];
    const float* row = is_value ? s->v : s->k;
    for (uint32_t position = begin; position < end; position++) {
        for (uint32_t head = 0; head < s->config.groups[0].kv_heads; head++, row += from.dim) {
            const uint32_t d = first_wrong(s, from, seq, position, layer, head, row);
            if (d == from.dim) continue;
            const uint32_t key = row_key(seq->fills[position], layer, head, is_value);
            sim_fail(s,
                     "%s of sequence %u at position %u, layer %u, head %u, element %u: want %g, "
                     "got %g",
                     from.name, index, position, layer, head, d,
                     (double)row_element(from.dtype, key, d), (double)row[d]);
            return;
        }
    }
}

void sim_read_range(sim* s, uint32_t seq, uint32_t begin, uint32_t end) {
    const uint32_t layer = sim_below(s, s->config.groups[0].layers);
    const bool wants_k = sim_percent(s, 80);
    const bool wants_v = !wants_k || sim_percent(s, 50);
    const pkv_array k = {.data = s->k};
    const pkv_array v = {.data = s->v};
    const model_verdict verdict = model_read_errors(&s->model, seq, begin, end);
    sim_before(s, verdict);
    const int status = pkv_seq_read(s->cache, sim_handle(s, seq), layer, begin, end,
                                    wants_k ? &k : NULL, wants_v ? &v : NULL);
    if (!sim_judge(s, "seq.read", verdict, status, begin, end)) return;
    if (wants_k) compare_rows(s, false, seq, begin, end, layer);
    if (wants_v) compare_rows(s, true, seq, begin, end, layer);
}

/* ---- Attend ---------------------------------------------------------------------------------- */

/* The mean of one element over what is visible, and of the size of the rows it stands in. */
typedef struct mean {
    uint32_t count; /* 0: some of it is not known */
    double value;
    double size;
} mean;

/* With a zero query every visible token weighs the same: the output is the mean of their values. */
static mean mean_of_visible(const sim* s, const model_seq* seq, uint32_t from, uint32_t layer,
                            uint32_t head, uint32_t d) {
    const uint32_t dtype = s->config.groups[0].v_dtype;
    mean sum = {0, 0.0, 0.0};
    for (uint32_t to = 0; to <= from; to++) {
        if (!model_sees(&s->model, seq, from, to)) continue;
        if (seq->fills[to] == 0) return (mean){0, 0.0, 0.0};
        const uint32_t key = row_key(seq->fills[to], layer, head, true);
        sum.value += (double)row_element(dtype, key, d);
        sum.size += fabs((double)row_element(dtype, key, 0));
        sum.size += fabs((double)row_element(dtype, key, 1));
        sum.count++;
    }
    return (mean){sum.count, sum.value / sum.count, sum.size / sum.count};
}

/* Weights meet scales before they are rounded to bf16 or int16, where the processor multiplies
 * these. */
static double tolerance_of(uint32_t v_dtype) {
    return row_is_scaled(v_dtype) ? 0x1p-8 : 1e-5;
}

static void compare_row(sim* s, uint32_t index, uint32_t position, uint32_t layer, const float* out,
                        const float* lse) {
    const pkv_group_config* group = &s->config.groups[0];
    const double tolerance = tolerance_of(group->v_dtype);
    for (uint32_t head = 0; head < group->kv_heads; head++) {
        const uint32_t d = position % group->value_dim;
        const mean want = mean_of_visible(s, &s->model.seqs[index], position, layer, head, d);
        if (want.count == 0) return;
        const double got = (double)out[head * group->value_dim + d];
        if (!(fabs(got - want.value) <= tolerance * want.size) ||
            !(fabs((double)lse[head] - log(want.count)) <= 1e-5))
            sim_fail(s,
                     "attention of sequence %u at %u, layer %u, head %u, element %u: want %g over "
                     "%u, got %g, lse %g",
                     index, position, layer, head, d, want.value, want.count, got,
                     (double)lse[head]);
    }
}

/* The arrays of a plan hold its rows: q in k, out in v, lse behind out. */
void sim_attend_plan(sim* s, const sim_plan* plan) {
    const pkv_group_config* group = &s->config.groups[0];
    const uint32_t layer = sim_below(s, group->layers);
    const size_t rows = (size_t)plan->tokens * group->kv_heads;
    memset(s->k, 0, rows * group->key_dim * sizeof *s->k);
    float* lse = s->v + rows * group->value_dim;
    const pkv_attention attention = {
        .q = {.data = s->k}, .out = {.data = s->v}, .lse = lse, .query_heads = group->kv_heads};
    const model_verdict verdict = {0, 0};
    sim_before(s, verdict);
    const int status = pkv_attend(s->cache, plan->handle, layer, &attention);
    if (!sim_judge(s, "attend", verdict, status, plan->tokens, layer)) return;
    uint32_t row = 0;
    for (uint32_t i = 0; i < plan->entries; i++) {
        const uint32_t length = s->model.seqs[plan->seqs[i]].length;
        for (uint32_t j = 0; j < plan->counts[i]; j++, row++)
            compare_row(s, plan->seqs[i], length + j, layer,
                        s->v + row * group->kv_heads * group->value_dim,
                        lse + row * group->kv_heads);
    }
}
