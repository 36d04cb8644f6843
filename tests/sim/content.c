/* content.c - what is stored in the cache, and whether it comes out again.
 *
 * The value of a position in layer l and KV head h is one number, the same in all elements of its
 * key, and half of one more in its value:
 *
 *   k = fill + l * 2^20 + h * 2^21        v = k + 1/2        all exact in f32
 *
 * A block that was not copied on write, was copied wrongly, shared with the wrong prefix or not
 * zeroed shows up as another number. */
#include "sim/driver.h"

#include <math.h>
#include <string.h>

static float value_at(uint32_t fill, uint32_t layer, uint32_t head) {
    return (float)(fill + (layer << MODEL_FILL_BITS) + (head << (MODEL_FILL_BITS + 1)));
}

/* ---- Write ----------------------------------------------------------------------------------- */

static void fill_rows(float* rows, uint32_t* row, const model_seq* seq, uint32_t layer,
                      const pkv_group_config* group, float offset) {
    for (uint32_t i = 0; i < seq->reserved; i++, (*row)++) {
        for (uint32_t head = 0; head < group->kv_heads; head++) {
            const uint32_t fill = seq->fills[seq->length + i];
            float* element = rows + (*row * group->kv_heads + head) * group->key_dim;
            for (uint32_t d = 0; d < group->key_dim; d++)
                element[d] = value_at(fill, layer, head) + offset;
        }
    }
}

static int write_layer(sim* s, const sim_plan* plan, uint32_t layer) {
    const pkv_group_config* group = &s->config.groups[0];
    uint32_t k_rows = 0;
    uint32_t v_rows = 0;
    for (uint32_t i = 0; i < plan->entries; i++) {
        const model_seq* seq = &s->model.seqs[plan->seqs[i]];
        fill_rows(s->k, &k_rows, seq, layer, group, 0.0F);
        fill_rows(s->v, &v_rows, seq, layer, group, 0.5F);
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
        uint32_t k_rows = 0;
        uint32_t v_rows = 0;
        if (is_right) fill_rows(s->k, &k_rows, &s->model.seqs[seq], layer, group, 0.0F);
        if (is_right) fill_rows(s->v, &v_rows, &s->model.seqs[seq], layer, group, 0.5F);
        sim_before(s, verdict);
        const int status = pkv_seq_write(s->cache, sim_handle(s, seq), layer, &k, &v);
        written &= sim_judge(s, "seq.write", verdict, status, seq, layer);
    }
    if (is_right && !written) model_spoil(&s->model, seq);
}

/* ---- Read ------------------------------------------------------------------------------------ */

/* A slot that was never written may hold nothing, or what the same tenant once stored in that layer
 * and head. Once copies have been made to fail it may hold rubbish, but nobody else's value by
 * chance. */
static bool is_own_residue(const sim* s, float value, uint32_t layer, uint32_t head,
                           uint64_t tenant) {
    if (value == 0.0F || s->faults_have_been) return true;
    const float fill = value - value_at(0, layer, head);
    if (!(fill >= 1.0F && fill < (float)(1 << MODEL_FILL_BITS))) return false;
    return (uint32_t)fill >> MODEL_TENANT_SHIFT == (tenant & 3);
}

static bool element_is_right(const sim* s, const model_seq* seq, uint32_t position, uint32_t layer,
                             uint32_t head, float got, float offset) {
    const uint32_t fill = seq->fills[position];
    if (fill != 0) return got == value_at(fill, layer, head) + offset;
    const float value = got == 0.0F ? 0.0F : got - offset;
    return is_own_residue(s, value, layer, head, seq->tenant);
}

static void compare_rows(sim* s, const char* name, uint32_t index, uint32_t begin, uint32_t end,
                         uint32_t layer, const float* rows, float offset) {
    const pkv_group_config* group = &s->config.groups[0];
    const model_seq* seq = &s->model.seqs[index];
    for (uint32_t position = begin; position < end; position++) {
        for (uint32_t head = 0; head < group->kv_heads; head++) {
            for (uint32_t d = 0; d < group->key_dim; d++, rows++) {
                if (element_is_right(s, seq, position, layer, head, *rows, offset)) continue;
                sim_fail(s,
                         "%s of sequence %u at position %u, layer %u, head %u, element %u: want "
                         "%g, got %g",
                         name, index, position, layer, head, d,
                         (double)(value_at(seq->fills[position], layer, head) + offset),
                         (double)*rows);
                return;
            }
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
    if (wants_k) compare_rows(s, "K", seq, begin, end, layer, s->k, 0.0F);
    if (wants_v) compare_rows(s, "V", seq, begin, end, layer, s->v, 0.5F);
}

/* ---- Attend ---------------------------------------------------------------------------------- */

static bool is_visible(const pkv_group_config* group, uint32_t from, uint32_t to) {
    if (to > from) return false;
    if (group->window == 0 || to < group->sinks) return true;
    return from - to < group->window;
}

/* With a zero query every visible token weighs the same: the output is the mean of their values. */
static double mean_of_visible(const sim* s, const model_seq* seq, uint32_t from, uint32_t layer,
                              uint32_t head, uint32_t* count) {
    double sum = 0.0;
    *count = 0;
    for (uint32_t to = 0; to <= from; to++) {
        if (!is_visible(&s->config.groups[0], from, to)) continue;
        if (seq->fills[to] == 0) return NAN;
        sum += (double)value_at(seq->fills[to], layer, head) + 0.5;
        (*count)++;
    }
    return sum / *count;
}

static void compare_row(sim* s, uint32_t index, uint32_t position, uint32_t layer, const float* out,
                        const float* lse) {
    const pkv_group_config* group = &s->config.groups[0];
    for (uint32_t head = 0; head < group->kv_heads; head++) {
        uint32_t count;
        const double want =
            mean_of_visible(s, &s->model.seqs[index], position, layer, head, &count);
        if (isnan(want)) return;
        const double got = (double)out[head * group->value_dim];
        if (fabs(got - want) > 1e-5 * want || fabs((double)lse[head] - log(count)) > 1e-5)
            sim_fail(s,
                     "attention of sequence %u at %u, layer %u, head %u: want %g over %u, got %g, "
                     "lse %g",
                     index, position, layer, head, want, count, got, (double)lse[head]);
    }
}

/* The arrays of a plan hold its rows: q in k, out in v, lse behind out. */
void sim_attend_plan(sim* s, const sim_plan* plan) {
    const pkv_group_config* group = &s->config.groups[0];
    const uint32_t layer = sim_below(s, group->layers);
    const size_t elements = (size_t)plan->tokens * group->kv_heads * group->key_dim;
    memset(s->k, 0, elements * sizeof *s->k);
    float* lse = s->v + elements;
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
