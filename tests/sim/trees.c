/* trees.c - plans whose entries are trees of guesses, and plans of which a part is accepted. */
#include "sim/driver.h"

static bool is_chain(const uint32_t* parents, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (parents[i] != (i > 0 ? i - 1 : (uint32_t)PKV_NO_PARENT)) return false;
    return true;
}

/* Chains, bushes and everything between; now and then one that is no tree. */
static void draw_parents(sim* s, uint32_t count, uint32_t* parents) {
    const uint32_t straight = sim_below(s, 101);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t any = sim_below(s, i + 1);
        parents[i] = any == i ? (uint32_t)PKV_NO_PARENT : any;
        if (i > 0 && sim_percent(s, straight)) parents[i] = i - 1;
        if (sim_percent(s, 1) && sim_percent(s, 20)) parents[i] = i + sim_below(s, 3);
    }
}

static uint32_t errors_of(const uint32_t* parents, uint32_t count) {
    uint32_t errors = count > PKV_TREE_TOKENS_MAX ? MODEL_BIT(PKV_ETOOBIG) : 0;
    for (uint32_t i = 0; i < count; i++)
        if (parents[i] >= i && parents[i] != PKV_NO_PARENT) errors |= MODEL_BIT(PKV_EINVAL);
    return errors;
}

/* Make trees of some entries. False when the call is to be the one without trees. */
bool sim_draw_trees(sim* s, uint32_t count, model_verdict* verdict) {
    uint32_t used = 0;
    if (!sim_percent(s, 30)) return false;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t tokens = s->model_entries[i].count;
        s->parents[i] = NULL;
        if (tokens > s->config.plan_tokens_max - used || sim_percent(s, 40)) continue;
        draw_parents(s, tokens, s->parent_rows + used);
        s->parents[i] = s->parent_rows + used;
        verdict->must |= errors_of(s->parents[i], tokens);
        used += tokens;
    }
    return true;
}

void sim_plant_trees(sim* s, sim_plan* plan) {
    for (uint32_t i = 0; i < plan->entries; i++) {
        if (s->parents[i] == NULL || is_chain(s->parents[i], plan->counts[i])) continue;
        model_grow_tree(&s->model, plan->seqs[i], s->parents[i]);
        plan->has_trees = true;
    }
}

/* ---- Accept ---------------------------------------------------------------------------------- */

static uint32_t parent_of(const model_seq* seq, uint32_t row) {
    if (seq->is_tree) return seq->parents[row];
    return row > 0 ? row - 1 : (uint32_t)PKV_NO_PARENT;
}

/* From any token, or none, up to its root. */
static uint32_t draw_path(sim* s, const model_seq* seq, uint32_t* rows) {
    uint32_t count = 0;
    uint32_t row = sim_below(s, seq->reserved + 1);
    if (row == seq->reserved) return 0;
    for (uint32_t up = row; up != PKV_NO_PARENT; up = parent_of(seq, up))
        count++;
    for (uint32_t i = count; i-- > 0; row = parent_of(seq, row))
        rows[i] = row;
    return count;
}

static void draw_paths(sim* s, const sim_plan* plan) {
    uint32_t* rows = s->path_rows;
    for (uint32_t i = 0; i < plan->entries; i++) {
        s->paths[i] = (pkv_path){rows, draw_path(s, &s->model.seqs[plan->seqs[i]], rows)};
        rows += s->paths[i].count;
    }
}

/* A path that goes astray at its end, or a commit of what is a tree. */
static void accept_wrongly(sim* s, const sim_plan* plan) {
    const model_verdict verdict = {MODEL_BIT(PKV_EINVAL), 0};
    const uint32_t last = plan->entries - 1;
    uint32_t* const rows = s->path_rows;
    sim_before(s, verdict);
    for (uint32_t i = 0; i < plan->entries; i++)
        s->paths[i] = (pkv_path){NULL, 0};
    rows[0] = plan->counts[last] + sim_below(s, 3);
    s->paths[last] = (pkv_path){rows, 1};
    const int status = plan->has_trees && sim_percent(s, 50)
                           ? pkv_plan_commit(s->cache, plan->handle)
                           : pkv_plan_accept(s->cache, plan->handle, s->paths, plan->entries);
    sim_judge(s, "wrong accept", verdict, status, plan->entries, plan->tokens);
}

void sim_accept_plan(sim* s, sim_plan* plan) {
    const model_verdict verdict = {0, 0};
    if (sim_percent(s, 5)) accept_wrongly(s, plan);
    draw_paths(s, plan);
    sim_before(s, verdict);
    const int status = pkv_plan_accept(s->cache, plan->handle, s->paths, plan->entries);
    if (!sim_judge(s, "plan.accept", verdict, status, plan->entries, plan->tokens)) return;
    for (uint32_t i = 0; i < plan->entries; i++)
        model_accept(&s->model, plan->seqs[i], s->paths[i].rows, s->paths[i].count);
    sim_close_plan(s, plan, true);
}
