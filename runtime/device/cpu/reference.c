/* reference.c - the specification: what write, read and attend mean, in the plainest terms.
 *
 * Attention is summed in double precision, one element at a time, in two passes over the scores; no
 * row knows of another. In a token tree, a row that stands behind the query's place is one of its
 * ancestors or is not seen. Every kernel is compared with this file, and the simulated device runs on
 * it. K and V of a head lie in the plain order [token][dim]; a packed device has its own write and
 * read, but stores the same codes and scales (quantise.h), so that attention over one cache is the
 * specification for attention over the other.
 *
 * Nothing here is fast on purpose, and nothing here may be made clever. */
#include "device/cpu/quantise.h"
#include "device/device.h"

#include <math.h>

/* One token's K or V of one head. */
struct stored {
    uint32_t dtype;
    uint32_t dim;
    unsigned char* data;   /* element 0; i4: two elements a byte, the even one in the low bits */
    unsigned char* scales; /* of scaled types: f32, or for i4 pairs of f16 scale and minimum */
};

static struct stored stored_at(const struct pkvi_layout* layout, const struct pkvi_space* space,
                               uint32_t layer, uint32_t slot, uint32_t head, bool is_value) {
    const pkv_group_config* group = &layout->group;
    const uint32_t token = slot % group->block_tokens;
    unsigned char* piece = pkvi_space_block(space, slot / group->block_tokens) +
                           pkvi_layout_head(layout, layer, head, is_value);
    const uint32_t dtype = is_value ? group->v_dtype : group->k_dtype;
    const uint32_t dim = is_value ? group->value_dim : group->key_dim;
    const uint64_t scale_offset = is_value ? layout->v_scale_offset : layout->k_scale_offset;
    return (struct stored){
        .dtype = dtype,
        .dim = dim,
        .data = piece + (size_t)token * dim * pkvi_dtype_bits(dtype) / 8,
        .scales = piece + scale_offset + (size_t)token * pkvi_scale_bytes(dtype, dim),
    };
}

static struct pkvi_scale get_scale(const struct stored* from, uint32_t d) {
    if (from->dtype != PKV_I4) return (struct pkvi_scale){*(const float*)from->scales, 0.0F};
    const uint32_t index = 2 * pkvi_scale_index(from->dtype, d);
    return (struct pkvi_scale){pkvi_element_get(from->scales, index, PKV_F16),
                               pkvi_element_get(from->scales, index + 1, PKV_F16)};
}

static float get(const struct stored* from, uint32_t d) {
    if (!pkvi_dtype_is_scaled(from->dtype)) return pkvi_element_get(from->data, d, from->dtype);
    unsigned char code = from->data[d];
    if (from->dtype == PKV_I4) code = (unsigned char)(from->data[d / 2] >> d % 2 * 4 & 15);
    return pkvi_dequantise(from->dtype, code, get_scale(from, d));
}

/* ---- Write and read -------------------------------------------------------------------------- */

/* False when a number is not finite in the type of the cache. */
static bool put_plain(const struct stored* to, const float* row) {
    for (uint32_t d = 0; d < to->dim; d++) {
        if (!isfinite(pkvi_element_round(row[d], to->dtype))) return false;
        pkvi_element_set(to->data, d, to->dtype, row[d]);
    }
    return true;
}

static bool put_scaled(const struct stored* to, const float* row) {
    unsigned char codes[PKV_HEAD_DIM_MAX];
    struct pkvi_scale scales[PKVI_SCALE_GROUPS_MAX];
    if (!pkvi_quantise(to->dtype, row, to->dim, codes, scales)) return false;
    if (to->dtype != PKV_I4) {
        memcpy(to->data, codes, to->dim);
        pkvi_element_set(to->scales, 0, PKV_F32, scales->scale);
        return true;
    }
    for (uint32_t d = 0; d < to->dim; d += 2)
        to->data[d / 2] = (unsigned char)(codes[d] | codes[d + 1] << 4);
    for (uint32_t i = 0; i < pkvi_scale_groups(to->dim); i++) {
        pkvi_element_set(to->scales, 2 * i, PKV_F16, scales[i].scale);
        pkvi_element_set(to->scales, 2 * i + 1, PKV_F16, scales[i].minimum);
    }
    return true;
}

static int write_side(const struct pkvi_kv_job* job, const pkv_array* array, bool is_value) {
    float numbers[PKV_HEAD_DIM_MAX];
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct stored to =
                stored_at(job->layout, job->space, job->layer, job->slots[row], head, is_value);
            for (uint32_t d = 0; d < to.dim; d++)
                numbers[d] = pkvi_array_get(array, row, head, d);
            const bool is_finite =
                pkvi_dtype_is_scaled(to.dtype) ? put_scaled(&to, numbers) : put_plain(&to, numbers);
            if (!is_finite) return PKV_ENONFINITE;
        }
    return PKV_OK;
}

static void read_side(const struct pkvi_kv_job* job, const pkv_array* array, bool is_value) {
    if (array->data == NULL) return;
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct stored from =
                stored_at(job->layout, job->space, job->layer, job->slots[row], head, is_value);
            for (uint32_t d = 0; d < from.dim; d++)
                pkvi_array_set(array, row, head, d, get(&from, d));
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

static void move_side(const struct pkvi_move_job* job, uint32_t layer, uint32_t head, uint32_t i,
                      bool is_value) {
    const struct pkvi_layout* layout = job->layout;
    const struct stored to = stored_at(layout, job->space, layer, job->to[i], head, is_value);
    const struct stored from = stored_at(layout, job->space, layer, job->from[i], head, is_value);
    memcpy(to.data, from.data, (size_t)from.dim * pkvi_dtype_bits(from.dtype) / 8);
    memcpy(to.scales, from.scales, pkvi_scale_bytes(from.dtype, from.dim));
}

void pkvi_reference_move(const struct pkvi_move_job* job) {
    for (uint32_t i = 0; i < job->count; i++)
        for (uint32_t layer = 0; layer < job->layout->group.layers; layer++)
            for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
                move_side(job, layer, head, i, false);
                move_side(job, layer, head, i, true);
            }
}

/* ---- Attend ---------------------------------------------------------------------------------- */

/* One query row of one head. */
struct query {
    const struct pkvi_attend_job* job;
    const uint32_t* pages;        /* its row of the block table */
    const struct pkvi_tree* tree; /* of its entry, or NULL */
    uint32_t row;
    uint32_t head;
    uint32_t kv_head;
    uint32_t first; /* place of the entry's first row in the table */
    uint32_t place; /* and of the query's own: its position, but in a tree */
};

/* The position of the token at `place` in the table. */
static uint32_t position_of(const struct query* query, uint32_t place) {
    const bool is_node = query->tree != NULL && place >= query->first;
    return is_node ? query->tree->positions[place - query->first] : place;
}

/* Is the token at `place` the query's own or one that it follows? */
static bool is_followed(const struct query* query, uint32_t place) {
    if (query->tree == NULL || place < query->first) return place <= query->place;
    uint32_t node = query->place - query->first;
    while (node != PKV_NO_PARENT && node != place - query->first)
        node = query->tree->parents[node];
    return node != PKV_NO_PARENT;
}

/* May the query see the token at `place`? Causal, window, sinks. */
static bool is_visible(const struct query* query, uint32_t place) {
    const pkv_group_config* group = &query->job->layout->group;
    const uint32_t position = position_of(query, place);
    if (!is_followed(query, place)) return false;
    if (group->window == 0) return true;
    if (position < group->sinks) return true;
    return position_of(query, query->place) - position < group->window;
}

static struct stored cached(const struct query* query, uint32_t place, bool is_value) {
    const struct pkvi_attend_job* job = query->job;
    const uint32_t block_tokens = job->layout->group.block_tokens;
    const uint32_t slot = query->pages[place / block_tokens] * block_tokens + place % block_tokens;
    return stored_at(job->layout, job->space, job->layer, slot, query->kv_head, is_value);
}

static double score(const struct query* query, uint32_t place) {
    const struct pkvi_attend_job* job = query->job;
    const pkv_group_config* group = &job->layout->group;
    const struct stored key = cached(query, place, false);
    double sum = 0.0;
    for (uint32_t d = 0; d < group->key_dim; d++)
        sum += (double)pkvi_array_get(&job->q, query->row, query->head, d) * (double)get(&key, d);
    sum *= (double)job->scale;
    const double cap = (double)job->softcap;
    return cap > 0.0 ? cap * tanh(sum / cap) : sum;
}

static void attend_query(const struct query* query) {
    const struct pkvi_attend_job* job = query->job;
    const pkv_group_config* group = &job->layout->group;
    double highest = -INFINITY;
    for (uint32_t p = 0; p <= query->place; p++)
        if (is_visible(query, p)) highest = fmax(highest, score(query, p));
    const double sink =
        job->sink_logits != NULL ? (double)job->sink_logits[query->head] : -INFINITY;
    highest = fmax(highest, sink);
    double total = exp(sink - highest);
    double out[PKV_HEAD_DIM_MAX] = {0.0};
    for (uint32_t p = 0; p <= query->place; p++) {
        if (!is_visible(query, p)) continue;
        const double weight = exp(score(query, p) - highest);
        const struct stored value = cached(query, p, true);
        total += weight;
        for (uint32_t d = 0; d < group->value_dim; d++)
            out[d] += weight * (double)get(&value, d);
    }
    for (uint32_t d = 0; d < group->value_dim; d++)
        pkvi_array_set(&job->out, query->row, query->head, d, (float)(out[d] / total));
    if (job->lse != NULL)
        job->lse[(size_t)query->row * job->query_heads + query->head] =
            (float)(highest + log(total));
}

static const struct pkvi_tree* tree_of(const struct pkvi_attend_job* job, uint32_t entry) {
    if (job->trees == NULL || job->trees[entry].parents == NULL) return NULL;
    return &job->trees[entry];
}

static int check_queries(const struct pkvi_attend_job* job) {
    for (uint32_t row = 0; row < job->starts[job->entries]; row++)
        for (uint32_t head = 0; head < job->query_heads; head++)
            for (uint32_t d = 0; d < job->layout->group.key_dim; d++)
                if (!isfinite(pkvi_array_get(&job->q, row, head, d))) return PKV_ENONFINITE;
    for (uint32_t head = 0; job->sink_logits != NULL && head < job->query_heads; head++)
        if (!isfinite(job->sink_logits[head])) return PKV_ENONFINITE;
    return PKV_OK;
}

int pkvi_reference_attend(const struct pkvi_attend_job* job) {
    const uint32_t heads_per_kv = job->query_heads / job->layout->group.kv_heads;
    PKVI_TRY(check_queries(job));
    for (uint32_t entry = 0; entry < job->entries; entry++) {
        const uint32_t begin = job->starts[entry];
        const uint32_t end = job->starts[entry + 1];
        for (uint32_t row = begin; row < end; row++)
            for (uint32_t head = 0; head < job->query_heads; head++) {
                const struct query query = {
                    .job = job,
                    .pages = job->block_table + (size_t)entry * job->table_stride,
                    .tree = tree_of(job, entry),
                    .row = row,
                    .head = head,
                    .kv_head = head / heads_per_kv,
                    .first = job->lengths[entry] - end + begin,
                    .place = job->lengths[entry] - end + row,
                };
                attend_query(&query);
            }
    }
    return PKV_OK;
}
