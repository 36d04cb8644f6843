/* attend_kernel.h - attention over one item: one source, compiled once for each instruction set.
 *
 * Included by the level_*.c files. Reading order is bottom up: attend() at the end walks the
 * splits, a split its chunks, a chunk its KV heads and their rows. For up to ROWS_MAX rows at once
 * a chunk is scored (inner.h), masked, weighted and summed.
 *
 * Online softmax: a state is (output so far, highest score, sum of weights relative to it), with
 * the operations clear / update (one chunk) / merge (of two states) / finish.
 *
 * Holds   R1  a row's arithmetic is the same in every instance, whichever rows stand beside it
 *         R2  a chunk of which a row sees nothing leaves its state as it was (but for the sign of
 *             zeros, which finish makes positive): it does not matter whether the row visits it
 *         R3  slots behind the last token that a row of the item may see can hold NaN: scores with
 *             them are replaced, and their values are not read */
#include "device/cpu/attend.h"
#include "device/cpu/inner.h"

#include <math.h>

struct context {
    const struct pkvi_attend_job* job;
    const struct pkvi_item* item;
    const struct pkvi_workspace* workspace;
    struct pkvi_walk walk;
    uint32_t key_dim;
    uint32_t value_dim;
    size_t state_floats;
    uint32_t group_heads;    /* query heads per KV head */
    uint32_t first_position; /* of the entry's first new token */
};

/* Rows of one call of the inner loops. */
struct rows {
    const float* q; /* [count][key_dim] */
    float* states;  /* [count][state_floats] */
    uint32_t first; /* row number in the entry, token-major */
    uint32_t count;
};

static uint32_t position_of(const struct context* context, uint32_t row) {
    return context->first_position + row / context->group_heads;
}

/* ---- State of the online softmax ------------------------------------------------------------- */

static float* state_max(const struct context* context, float* state) {
    return state + context->value_dim;
}

static float* state_sum(const struct context* context, float* state) {
    return state + context->value_dim + 1;
}

static void clear_states(const struct context* context, float* states, size_t count) {
    memset(states, 0, count * context->state_floats * sizeof *states);
    for (size_t i = 0; i < count; i++)
        *state_max(context, states + i * context->state_floats) = -INFINITY;
}

/* What to subtract from scores before the exponential: the maximum, unless nothing was seen yet. */
static float base_of(float max) {
    return max == -INFINITY ? 0.0F : max;
}

/* Turn `count` rows of scores into weights, update maxima and sums, and say by how much what was
 * summed so far has to be corrected. A row that sees nothing gets weights 0 and correction 1. */
static void update_states(const struct context* context, float* scores, float* states,
                          uint32_t count, float* corrections) {
    float before[WIDTH] = {0.0F};
    float after[WIDTH] = {0.0F};
    for (uint32_t r = 0; r < count; r++) {
        const float* row = scores + r * PKVI_CHUNK_TOKENS;
        vf highest = v_load(row);
        for (int i = WIDTH; i < PKVI_CHUNK_TOKENS; i += WIDTH)
            highest = v_max(highest, v_load(row + i));
        float* const max = state_max(context, states + r * context->state_floats);
        const float row_max = v_reduce_max(highest);
        before[r] = *max;
        *max = row_max > *max ? row_max : *max;
        after[r] = base_of(*max);
    }
    float factors[WIDTH];
    v_store(factors, v_exp(v_load(before) - v_load(after)));
    for (uint32_t r = 0; r < count; r++) {
        float* row = scores + r * PKVI_CHUNK_TOKENS;
        vf total = v_set(0.0F);
        for (int i = 0; i < PKVI_CHUNK_TOKENS; i += WIDTH) {
            const vf weight = v_exp(v_load(row + i) - after[r]);
            v_store(row + i, weight);
            total += weight;
        }
        float* const sum = state_sum(context, states + r * context->state_floats);
        *sum = *sum * factors[r] + v_reduce_add(total);
        corrections[r] = factors[r];
    }
}

/* Merge a later state into an earlier one. */
static void merge_state(const struct context* context, float* sum, const float* later) {
    float* const max = state_max(context, sum);
    const float later_max = later[context->value_dim];
    const float before = *max;
    *max = later_max > before ? later_max : before;
    const float base = base_of(*max);
    const float keep = v_exp(v_set(before - base))[0];
    const float take = v_exp(v_set(later_max - base))[0];
    for (uint32_t d = 0; d < context->value_dim; d += WIDTH)
        v_store(sum + d, v_fma(v_load(later + d), v_set(take), v_load(sum + d) * keep));
    float* const total = state_sum(context, sum);
    *total = *total * keep + later[context->value_dim + 1] * take;
}

static void merge_states(const struct context* context, float* sums, const float* later,
                         size_t count) {
    for (size_t i = 0; i < count; i++)
        merge_state(context, sums + i * context->state_floats, later + i * context->state_floats);
}

/* ---- Masks ----------------------------------------------------------------------------------- */

/* Lanes of the WIDTH positions from `begin` on that a row at `position` sees. */
static vi visible_lanes(const pkv_group_config* group, uint32_t begin, uint32_t position) {
    vi positions = {0};
    for (int i = 0; i < WIDTH; i++)
        positions[i] = (int32_t)begin + i;
    vi visible = positions <= (int32_t)position;
    if (group->window > 0) {
        const vi is_near = positions > (int32_t)position - (int32_t)group->window;
        visible &= is_near | (positions < (int32_t)group->sinks);
    }
    return visible;
}

static void cap_scores(float* scores, uint32_t count, float cap) {
    for (uint32_t i = 0; i < count * PKVI_CHUNK_TOKENS; i += WIDTH)
        v_store(scores + i, v_tanh(v_load(scores + i) / cap) * cap);
}

static void mask_scores(const struct context* context, const struct pkvi_chunk* chunk,
                        const struct rows* rows, float* scores) {
    const pkv_group_config* group = &context->job->layout->group;
    for (uint32_t r = 0; r < rows->count; r++)
        for (uint32_t i = 0; i < PKVI_CHUNK_TOKENS; i += WIDTH) {
            float* at = scores + r * PKVI_CHUNK_TOKENS + i;
            const vi visible =
                visible_lanes(group, chunk->begin + i, position_of(context, rows->first + r));
            v_store(at, v_select(visible, v_load(at), v_set(-INFINITY)));
        }
}

/* ---- Rows, chunks, splits -------------------------------------------------------------------- */

static void attend_rows(const struct context* context, const struct pkvi_chunk* chunk,
                        const struct piece* piece, const struct piece* next,
                        const struct rows* rows, int log2) {
    const struct pkvi_attend_job* job = context->job;
    const pkv_group_config* group = &job->layout->group;
    const uint32_t low = position_of(context, rows->first);
    const uint32_t high = position_of(context, rows->first + rows->count - 1);
    const uint32_t end = chunk->begin + PKVI_CHUNK_TOKENS;
    if (!pkvi_sees_any(group, low, high, chunk->begin, end)) return;

    float scores[ROWS_MAX * PKVI_CHUNK_TOKENS] __attribute__((aligned(64)));
    float corrections[ROWS_MAX];
    qk_table[log2][group->k_dtype](rows->q, context->key_dim, piece, next, job->scale, scores);
    if (job->softcap > 0.0F) cap_scores(scores, rows->count, job->softcap);
    if (!pkvi_sees_all(group, low, high, chunk->begin, end))
        mask_scores(context, chunk, rows, scores);
    update_states(context, scores, rows->states, rows->count, corrections);
    const struct sums sums = {context->value_dim, scores, corrections, rows->states,
                              context->state_floats};
    pv_table[log2][group->v_dtype](&sums, piece, next);
}

static int log2_of_rows(uint32_t count) {
    int log2 = 0;
    while ((2U << log2) <= count && (2 << log2) <= ROWS_MAX)
        log2++;
    return log2;
}

/* All rows of one KV head, number `index` of the item. */
static void attend_head(const struct context* context, const struct pkvi_chunk* chunk,
                        uint32_t index, const struct piece* piece, const struct piece* next) {
    const struct pkvi_item* item = context->item;
    const size_t base = (size_t)index * item->rows;
    for (uint32_t done = 0; done < item->rows;) {
        const int log2 = log2_of_rows(item->rows - done);
        const struct rows rows = {
            .q = context->workspace->q + (base + done) * context->key_dim,
            .states = context->workspace->split + (base + done) * context->state_floats,
            .first = item->row + done,
            .count = 1U << log2,
        };
        attend_rows(context, chunk, piece, done == 0 ? next : piece, &rows, log2);
        done += rows.count;
    }
}

static struct piece piece_of(const struct pkvi_chunk* chunk, uint32_t index) {
    struct piece piece = {.tokens = chunk->tokens};
    for (int t = 0; t < PKVI_CHUNK_TILES; t++) {
        piece.k[t] = chunk->k[t] + index * chunk->k_step;
        piece.v[t] = chunk->v[t] + index * chunk->v_step;
    }
    return piece;
}

/* All KV heads of the item against one chunk, so that the slabs of its blocks are visited once.
 * What is prefetched is the next head of this chunk, or the first one of the chunk after it. */
static void attend_chunk(const struct context* context, struct pkvi_chunk* chunk,
                         const struct pkvi_chunk* after) {
    const pkv_group_config* group = &context->job->layout->group;
    const bool is_staged = group->block_tokens < PKVI_TILE_TOKENS;
    const uint32_t heads = context->item->kv_heads;
    for (uint32_t index = 0; index < heads; index++) {
        if (is_staged) pkvi_chunk_stage(&context->walk, index, chunk);
        const struct piece piece = piece_of(chunk, index);
        struct piece next = piece;
        if (!is_staged && index + 1 < heads) next = piece_of(chunk, index + 1);
        if (!is_staged && index + 1 == heads && after->is_seen) next = piece_of(after, 0);
        attend_head(context, chunk, index, &piece, &next);
    }
}

static void attend_split(const struct context* context, uint32_t begin, uint32_t end) {
    struct pkvi_chunk chunk;
    struct pkvi_chunk after;
    pkvi_chunk_locate(&context->walk, begin, &after);
    for (uint32_t at = begin; at < end; at += PKVI_CHUNK_TOKENS) {
        chunk = after;
        pkvi_chunk_locate(&context->walk, at + PKVI_CHUNK_TOKENS, &after);
        if (chunk.is_seen) attend_chunk(context, &chunk, &after);
    }
}

/* ---- Rows in and out ------------------------------------------------------------------------- */

static uint32_t array_row(const struct context* context, uint32_t row) {
    return context->job->starts[context->item->entry] + row / context->group_heads;
}

static uint32_t query_head(const struct context* context, uint32_t index, uint32_t row) {
    return (context->item->kv_head + index) * context->group_heads + row % context->group_heads;
}

static void load_queries(const struct context* context) {
    float* q = context->workspace->q;
    for (uint32_t index = 0; index < context->item->kv_heads; index++)
        for (uint32_t r = 0; r < context->item->rows; r++, q += context->key_dim) {
            const uint32_t row = context->item->row + r;
            v_load_row(&context->job->q, array_row(context, row), query_head(context, index, row),
                       context->key_dim, q);
        }
}

/* Adding zero makes negative zeros positive: see R2. */
static void finish_row(const struct context* context, uint32_t index, uint32_t row, float* state) {
    const struct pkvi_attend_job* job = context->job;
    const uint32_t to_row = array_row(context, row);
    const uint32_t head = query_head(context, index, row);
    const float sum = *state_sum(context, state);
    for (uint32_t d = 0; d < context->value_dim; d += WIDTH)
        v_store(state + d, v_load(state + d) / sum + 0.0F);
    v_store_row(&job->out, to_row, head, context->value_dim, state);
    if (job->lse != NULL)
        job->lse[(size_t)to_row * job->query_heads + head] = *state_max(context, state) + logf(sum);
}

static void finish_rows(const struct context* context, float* states) {
    for (uint32_t index = 0; index < context->item->kv_heads; index++)
        for (uint32_t r = 0; r < context->item->rows; r++, states += context->state_floats)
            finish_row(context, index, context->item->row + r, states);
}

/* ---- Items ----------------------------------------------------------------------------------- */

static struct context make_context(const struct pkvi_attend_job* job, const struct pkvi_item* item,
                                   const struct pkvi_workspace* workspace) {
    const pkv_group_config* group = &job->layout->group;
    const uint32_t new_tokens = job->starts[item->entry + 1] - job->starts[item->entry];
    struct context context = {
        .job = job,
        .item = item,
        .workspace = workspace,
        .key_dim = group->key_dim,
        .value_dim = group->value_dim,
        .state_floats = pkvi_state_floats(group->value_dim),
        .group_heads = job->query_heads / group->kv_heads,
        .first_position = job->lengths[item->entry] - new_tokens,
    };
    context.walk = (struct pkvi_walk){
        .job = job,
        .pages = job->block_table + (size_t)item->entry * job->table_stride,
        .low = position_of(&context, item->row),
        .high = position_of(&context, item->row + item->rows - 1),
        .kv_head = item->kv_head,
        .stage = workspace->stage,
    };
    return context;
}

static void attend(const struct pkvi_attend_job* job, const struct pkvi_item* item,
                   const struct pkvi_workspace* workspace) {
    const struct context context = make_context(job, item, workspace);
    const size_t count = (size_t)item->rows * item->kv_heads;
    const uint32_t seen_end = context.walk.high + 1;
    load_queries(&context);
    clear_states(&context, workspace->sum, count);
    for (uint32_t split = item->split_begin; split < item->split_end; split++) {
        const uint32_t begin = split * PKVI_SPLIT_TOKENS;
        const uint32_t end = begin + PKVI_SPLIT_TOKENS;
        clear_states(&context, workspace->split, count);
        attend_split(&context, begin, end < seen_end ? end : seen_end);
        if (item->partial == NULL) merge_states(&context, workspace->sum, workspace->split, count);
    }
    if (item->partial == NULL)
        finish_rows(&context, workspace->sum);
    else
        memcpy(item->partial, workspace->split, count * context.state_floats * sizeof(float));
}

static void merge(const struct pkvi_attend_job* job, const struct pkvi_item* item, uint32_t splits,
                  const struct pkvi_workspace* workspace) {
    const struct context context = make_context(job, item, workspace);
    const size_t count = (size_t)item->rows * item->kv_heads;
    clear_states(&context, workspace->sum, count);
    for (uint32_t split = 0; split < splits; split++)
        merge_states(&context, workspace->sum, item->partial + split * count * context.state_floats,
                     count);
    finish_rows(&context, workspace->sum);
}
