/* api_step.c - plan, write, attend, commit. */
#include "api/api.h"

#include <math.h>

enum { QUERY_HEADS_MAX = 65536, ROWS_MAX = 1 << 30 };

/* NULL for an ordinary plan. */
static const struct pkvi_graph* graph_of(const struct pkvi_plan* plan) {
    return pkvi_plan_is_shape(plan) ? &plan->graph : NULL;
}

int pkv_plan_begin(pkv_cache* cache, const pkv_entry* entries, uint32_t count, pkv_plan* plan) {
    if (cache == NULL) return PKV_EINVAL;
    if (entries == NULL) return PKV_EINVAL;
    if (plan == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_plan_begin(cache, entries, NULL, count, plan));
}

int pkv_plan_begin_trees(pkv_cache* cache, const pkv_entry* entries, const uint32_t* const* parents,
                         uint32_t count, pkv_plan* plan) {
    if (cache == NULL) return PKV_EINVAL;
    if (entries == NULL) return PKV_EINVAL;
    if (parents == NULL) return PKV_EINVAL;
    if (plan == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_plan_begin(cache, entries, parents, count, plan));
}

static int get_info(const pkv_cache* cache, pkv_plan handle, pkv_plan_info* info) {
    struct pkvi_plan* plan;
    PKVI_TRY(pkvi_plan_find(&cache->plans, handle, &plan));
    if (pkvi_plan_is_shape(plan)) return PKV_EINVAL; /* it decides nothing */
    pkvi_plan_info(cache, plan, info);
    return PKV_OK;
}

int pkv_plan_get_info(pkv_cache* cache, pkv_plan plan, uint32_t group, pkv_plan_info* info) {
    if (cache == NULL) return PKV_EINVAL;
    if (info == NULL) return PKV_EINVAL;
    if (group >= cache->config.group_count) return PKV_ERANGE;
    pkvi_lock(cache);
    return pkvi_unlock(cache, get_info(cache, plan, info));
}

static int commit(pkv_cache* cache, pkv_plan handle) {
    struct pkvi_plan* plan;
    PKVI_TRY(pkvi_plan_find(&cache->plans, handle, &plan));
    return pkvi_plan_commit(cache, plan);
}

int pkv_plan_commit(pkv_cache* cache, pkv_plan plan) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, commit(cache, plan));
}

static int accept(pkv_cache* cache, pkv_plan handle, const pkv_path* paths, uint32_t count) {
    struct pkvi_plan* plan;
    PKVI_TRY(pkvi_plan_find(&cache->plans, handle, &plan));
    return pkvi_plan_accept(cache, plan, paths, count);
}

int pkv_plan_accept(pkv_cache* cache, pkv_plan plan, const pkv_path* paths, uint32_t count) {
    if (cache == NULL) return PKV_EINVAL;
    if (paths == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, accept(cache, plan, paths, count));
}

static int abort_plan(pkv_cache* cache, pkv_plan handle) {
    struct pkvi_plan* plan;
    PKVI_TRY(pkvi_plan_find(&cache->plans, handle, &plan));
    return pkvi_plan_abort(cache, plan);
}

int pkv_plan_abort(pkv_cache* cache, pkv_plan plan) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, abort_plan(cache, plan));
}

/* A user keeps the plan open, so that kernels can run outside the lock. */
static int user_enter(pkv_cache* cache, pkv_plan handle, uint32_t layer, struct pkvi_plan** plan) {
    pkvi_lock(cache);
    int status = pkvi_plan_find(&cache->plans, handle, plan);
    if (status == PKV_OK && layer >= cache->layout.group.layers) status = PKV_ERANGE;
    if (status == PKV_OK) (*plan)->users++;
    return pkvi_unlock(cache, status);
}

static int user_leave(pkv_cache* cache, struct pkvi_plan* plan, int status) {
    pkvi_lock(cache);
    plan->users--;
    return pkvi_unlock(cache, status);
}

static int write_rows(pkv_cache* cache, const struct pkvi_plan* plan, uint64_t id, uint32_t layer,
                      const pkv_array* k, const pkv_array* v) {
    const pkv_group_config* group = &cache->layout.group;
    struct pkvi_kv_job job = {
        .layout = &cache->layout,
        .space = &cache->pool.space,
        .layer = layer,
        .tokens = plan->tokens,
        .slots = plan->slots,
        .plan = id,
        .graph = graph_of(plan),
    };
    PKVI_TRY(pkvi_array_resolve(k, plan->tokens, group->kv_heads, group->key_dim, false, &job.k));
    PKVI_TRY(pkvi_array_resolve(v, plan->tokens, group->kv_heads, group->value_dim, false, &job.v));
    return cache->device->ops->write(cache->device, &job);
}

int pkv_write(pkv_cache* cache, pkv_plan plan, uint32_t layer, const pkv_array* k,
              const pkv_array* v) {
    if (cache == NULL) return PKV_EINVAL;
    if (k == NULL) return PKV_EINVAL;
    if (v == NULL) return PKV_EINVAL;
    struct pkvi_plan* found;
    PKVI_TRY(user_enter(cache, plan, layer, &found));
    return user_leave(cache, found, write_rows(cache, found, plan.id, layer, k, v));
}

static int check_attention(const pkv_attention* attention, const pkv_group_config* group) {
    if (attention->query_heads == 0) return PKV_EINVAL;
    if (attention->query_heads > QUERY_HEADS_MAX) return PKV_EINVAL;
    if (attention->query_heads % group->kv_heads != 0) return PKV_EINVAL;
    if (!isfinite(attention->scale)) return PKV_EINVAL;
    if (!isfinite(attention->softcap)) return PKV_EINVAL;
    if ((uintptr_t)attention->sink_logits % sizeof(float) != 0) return PKV_EINVAL;
    return attention->softcap >= 0.0F ? PKV_OK : PKV_EINVAL;
}

/* What the plan says. */
static struct pkvi_attend_job job_of(const pkv_cache* cache, const struct pkvi_plan* plan,
                                     uint64_t id) {
    return (struct pkvi_attend_job){
        .layout = &cache->layout,
        .space = &cache->pool.space,
        .entries = plan->entries,
        .trees = plan->tree_count > 0 ? plan->trees : NULL,
        .starts = plan->starts,
        .lengths = plan->lengths,
        .block_table = plan->block_table,
        .table_stride = cache->plans.table_stride,
        .plan = id,
        .graph = graph_of(plan),
    };
}

static int attend_rows(pkv_cache* cache, const struct pkvi_plan* plan, uint64_t id, uint32_t layer,
                       const pkv_attention* attention) {
    const pkv_group_config* group = &cache->layout.group;
    PKVI_TRY(check_attention(attention, group));
    if ((uint64_t)plan->tokens * attention->query_heads > ROWS_MAX) return PKV_ETOOBIG;
    struct pkvi_attend_job job = job_of(cache, plan, id);
    job.layer = layer;
    job.query_heads = attention->query_heads;
    job.scale = attention->scale;
    job.softcap = attention->softcap;
    job.lse = attention->lse;
    job.sink_logits = attention->sink_logits;
    if (job.scale == 0.0F) job.scale = 1.0F / sqrtf((float)group->key_dim);
    PKVI_TRY(pkvi_array_resolve(&attention->q, plan->tokens, job.query_heads, group->key_dim, false,
                                &job.q));
    PKVI_TRY(pkvi_array_resolve(&attention->out, plan->tokens, job.query_heads, group->value_dim,
                                true, &job.out));
    return cache->device->ops->attend(cache->device, &job);
}

int pkv_attend(pkv_cache* cache, pkv_plan plan, uint32_t layer, const pkv_attention* attention) {
    if (cache == NULL) return PKV_EINVAL;
    if (attention == NULL) return PKV_EINVAL;
    struct pkvi_plan* found;
    PKVI_TRY(user_enter(cache, plan, layer, &found));
    return user_leave(cache, found, attend_rows(cache, found, plan.id, layer, attention));
}

/* ---- Captured steps -------------------------------------------------------------------------- */

int pkv_graph_begin(pkv_cache* cache, uint32_t sequences, uint32_t sequence_tokens,
                    pkv_plan* plan) {
    if (cache == NULL) return PKV_EINVAL;
    if (plan == NULL) return PKV_EINVAL;
    const struct pkvi_graph graph = {sequences, sequence_tokens};
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_graph_begin(cache, graph, plan));
}

static int load(pkv_cache* cache, const struct pkvi_plan* plan, uint64_t id,
                struct pkvi_graph graph) {
    struct pkvi_attend_job job = job_of(cache, plan, id);
    PKVI_TRY(pkvi_graph_check(cache, graph));
    PKVI_TRY(pkvi_plan_check_graph(plan, graph));
    job.layer = cache->layout.group.layers - 1;
    job.query_heads = cache->config.graph_query_heads;
    return cache->device->ops->graph_load(cache->device, &job, plan->slots);
}

int pkv_graph_load(pkv_cache* cache, pkv_plan plan, uint32_t sequences, uint32_t sequence_tokens) {
    if (cache == NULL) return PKV_EINVAL;
    const struct pkvi_graph graph = {sequences, sequence_tokens};
    struct pkvi_plan* found;
    PKVI_TRY(user_enter(cache, plan, 0, &found));
    return user_leave(cache, found, load(cache, found, plan.id, graph));
}
