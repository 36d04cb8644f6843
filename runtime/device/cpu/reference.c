/* reference.c - the specification: what write, read and attend mean, in the plainest terms.
 *
 * Attention is summed in double precision, one element at a time, in two passes over the scores; no
 * row knows of another. Every kernel is compared with this file, and the simulated device runs on
 * it. K and V of a head lie in the plain order [token][dim]; a packed device has its own write and
 * read.
 *
 * Nothing here is fast on purpose, and nothing here may be made clever. */
#include "device/cpu/element.h"
#include "device/device.h"

#include <math.h>

/* Element 0 of a token's K or V. */
static unsigned char* token_at(const struct pkvi_layout* layout, const struct pkvi_space* space,
                               uint32_t layer, uint32_t slot, uint32_t head, bool is_value) {
    const pkv_group_config* group = &layout->group;
    const uint32_t token = slot % group->block_tokens;
    unsigned char* slab =
        pkvi_space_block(space, slot / group->block_tokens) + layer * layout->layer_bytes;
    if (is_value)
        return slab + layout->v_offset + head * layout->v_head_bytes +
               (size_t)token * group->value_dim * pkvi_dtype_bytes(group->v_dtype);
    return slab + head * layout->k_head_bytes +
           (size_t)token * group->key_dim * pkvi_dtype_bytes(group->k_dtype);
}

/* ---- Write and read -------------------------------------------------------------------------- */

static int write_side(const struct pkvi_kv_job* job, const pkv_array* array, bool is_value) {
    const pkv_group_config* group = &job->layout->group;
    const uint32_t dim = is_value ? group->value_dim : group->key_dim;
    const uint32_t dtype = is_value ? group->v_dtype : group->k_dtype;
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < group->kv_heads; head++) {
            unsigned char* to =
                token_at(job->layout, job->space, job->layer, job->slots[row], head, is_value);
            for (uint32_t d = 0; d < dim; d++) {
                const float value = pkvi_array_get(array, row, head, d);
                if (!isfinite(pkvi_element_round(value, dtype))) return PKV_ENONFINITE;
                pkvi_element_set(to, d, dtype, value);
            }
        }
    return PKV_OK;
}

static void read_side(const struct pkvi_kv_job* job, const pkv_array* array, bool is_value) {
    const pkv_group_config* group = &job->layout->group;
    const uint32_t dim = is_value ? group->value_dim : group->key_dim;
    const uint32_t dtype = is_value ? group->v_dtype : group->k_dtype;
    if (array->data == NULL) return;
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < group->kv_heads; head++) {
            const unsigned char* from =
                token_at(job->layout, job->space, job->layer, job->slots[row], head, is_value);
            for (uint32_t d = 0; d < dim; d++)
                pkvi_array_set(array, row, head, d, pkvi_element_get(from, d, dtype));
        }
}

int pkvi_reference_write(const struct pkvi_kv_job* job) {
    PKVI_TRY(write_side(job, &job->k, false));
    return write_side(job, &job->v, true);
}

int pkvi_reference_read(const struct pkvi_kv_job* job) {
    read_side(job, &job->k, false);
    read_side(job, &job->v, true);
    return PKV_OK;
}

/* ---- Attend ---------------------------------------------------------------------------------- */

/* One query row of one head. */
struct query {
    const struct pkvi_attend_job* job;
    const uint32_t* pages; /* its row of the block table */
    uint32_t row;
    uint32_t head;
    uint32_t kv_head;
    uint32_t position;
};

/* May the query see the token at `position`? Causal, window, sinks. */
static bool is_visible(const struct query* query, uint32_t position) {
    const pkv_group_config* group = &query->job->layout->group;
    if (position > query->position) return false;
    if (group->window == 0) return true;
    if (position < group->sinks) return true;
    return query->position - position < group->window;
}

static const unsigned char* cached(const struct query* query, uint32_t position, bool is_value) {
    const struct pkvi_attend_job* job = query->job;
    const uint32_t block_tokens = job->layout->group.block_tokens;
    const uint32_t slot =
        query->pages[position / block_tokens] * block_tokens + position % block_tokens;
    return token_at(job->layout, job->space, job->layer, slot, query->kv_head, is_value);
}

static double score(const struct query* query, uint32_t position) {
    const struct pkvi_attend_job* job = query->job;
    const pkv_group_config* group = &job->layout->group;
    const unsigned char* key = cached(query, position, false);
    double sum = 0.0;
    for (uint32_t d = 0; d < group->key_dim; d++)
        sum += (double)pkvi_array_get(&job->q, query->row, query->head, d) *
               (double)pkvi_element_get(key, d, group->k_dtype);
    sum *= (double)job->scale;
    const double cap = (double)job->softcap;
    return cap > 0.0 ? cap * tanh(sum / cap) : sum;
}

static void attend_query(const struct query* query) {
    const struct pkvi_attend_job* job = query->job;
    const pkv_group_config* group = &job->layout->group;
    double highest = -INFINITY;
    for (uint32_t p = 0; p <= query->position; p++)
        if (is_visible(query, p)) highest = fmax(highest, score(query, p));
    double total = 0.0;
    double out[PKV_HEAD_DIM_MAX] = {0.0};
    for (uint32_t p = 0; p <= query->position; p++) {
        if (!is_visible(query, p)) continue;
        const double weight = exp(score(query, p) - highest);
        const unsigned char* value = cached(query, p, true);
        total += weight;
        for (uint32_t d = 0; d < group->value_dim; d++)
            out[d] += weight * (double)pkvi_element_get(value, d, group->v_dtype);
    }
    for (uint32_t d = 0; d < group->value_dim; d++)
        pkvi_array_set(&job->out, query->row, query->head, d, (float)(out[d] / total));
    if (job->lse != NULL)
        job->lse[(size_t)query->row * job->query_heads + query->head] =
            (float)(highest + log(total));
}

static int check_queries(const struct pkvi_attend_job* job) {
    for (uint32_t row = 0; row < job->starts[job->entries]; row++)
        for (uint32_t head = 0; head < job->query_heads; head++)
            for (uint32_t d = 0; d < job->layout->group.key_dim; d++)
                if (!isfinite(pkvi_array_get(&job->q, row, head, d))) return PKV_ENONFINITE;
    return PKV_OK;
}

int pkvi_reference_attend(const struct pkvi_attend_job* job) {
    const uint32_t heads_per_kv = job->query_heads / job->layout->group.kv_heads;
    PKVI_TRY(check_queries(job));
    for (uint32_t entry = 0; entry < job->entries; entry++) {
        const uint32_t end = job->starts[entry + 1];
        for (uint32_t row = job->starts[entry]; row < end; row++)
            for (uint32_t head = 0; head < job->query_heads; head++) {
                const struct query query = {
                    .job = job,
                    .pages = job->block_table + (size_t)entry * job->table_stride,
                    .row = row,
                    .head = head,
                    .kv_head = head / heads_per_kv,
                    .position = job->lengths[entry] - end + row,
                };
                attend_query(&query);
            }
    }
    return PKV_OK;
}
