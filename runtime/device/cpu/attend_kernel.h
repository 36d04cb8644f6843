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

#define LOG2_E 0x1.715476p+0F
#define LN_2   0x1.62e430p-1F

enum { ROWS_UNPACKED_MIN = 2 * ROWS_STREAMED_MAX }; /* with more rows, unpacking pays */

struct context {
    const struct pkvi_attend_job* job;
    const struct pkvi_item* item;
    const struct pkvi_workspace* workspace;
    struct pkvi_walk walk;
    uint32_t key_dim;
    uint32_t value_dim;
    size_t q_row_bytes;  /* [key_dim] of f32, or of bf16 and then of what bf16 left */
    size_t q_rest_bytes; /* where that begins; 0: nothing is left */
    size_t state_floats;
    uint32_t group_heads;    /* query heads per KV head */
    uint32_t first_position; /* of the entry's first new token */
    float score_factor;      /* from products to scores, whose exponential is a power of 2 */
    float weight_factor;     /* for types whose elements are too small: see operand.h */
    float out_factor;        /* and what is left of it in the output */
    bool unpacks;            /* types that are not native are converted once for all rows */
};

/* Rows of one call of the inner loops. */
struct rows {
    const unsigned char* q; /* [count][q_row_bytes] */
    float* states;          /* [count][state_floats] */
    uint32_t first;         /* row number in the entry, token-major */
    uint32_t count;
};

/* Where a piece comes from and in which types. */
struct source {
    struct piece piece;
    const float* affine; /* of V in 4-bit values */
    uint32_t k_dtype;
    uint32_t v_dtype;
};

/* Scales of V of the WIDTH tokens from `lane` on. */
static vf token_scales(const struct piece* piece, int tile, int lane) {
    return v_load(piece->v_scales[tile] + lane * 4);
}

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

/* Turn the scores of `tiles` into weights, update maxima and sums, and say by how much what was
 * summed so far has to be corrected. A row that sees nothing gets weights 0 and correction 1. */
static void update_states(const struct context* context, float* scores, const struct rows* rows,
                          struct tiles tiles, float* corrections) {
    const int begin = tiles.begin * PKVI_TILE_TOKENS;
    const int end = tiles.end * PKVI_TILE_TOKENS;
    float before[ROWS_PADDED] = {0.0F};
    float after[ROWS_PADDED] = {0.0F};
    for (uint32_t r = 0; r < rows->count; r++) {
        const float* row = scores + r * PKVI_CHUNK_TOKENS;
        vf highest = v_load(row + begin);
        for (int i = begin + WIDTH; i < end; i += WIDTH)
            highest = v_max(highest, v_load(row + i));
        float* const max = state_max(context, rows->states + r * context->state_floats);
        const float row_max = v_reduce_max(highest);
        before[r] = *max;
        *max = row_max > *max ? row_max : *max;
        after[r] = base_of(*max);
    }
    for (uint32_t r = 0; r < rows->count; r += WIDTH)
        v_store(corrections + r, v_exp2(v_load(before + r) - v_load(after + r)));
    for (uint32_t r = 0; r < rows->count; r++) {
        float* row = scores + r * PKVI_CHUNK_TOKENS;
        vf total = v_set(0.0F);
        for (int i = begin; i < end; i += WIDTH) {
            const vf weight = v_exp2(v_load(row + i) - after[r]);
            v_store(row + i, weight);
            total += weight;
        }
        float* const sum = state_sum(context, rows->states + r * context->state_floats);
        *sum = *sum * corrections[r] + v_reduce_add(total);
    }
}

/* Bring weights into the form in which they multiply V: times the scales of V, and in bf16 for dot
 * products. In place: no element moves up. */
static const unsigned char* shape_weights(const struct context* context, const struct source* source,
                                          float* weights, uint32_t count, struct tiles tiles) {
    const bool is_bf16 = uses_dot(source->v_dtype);
    const bool scaled = has_token_scale(context->job->layout->group.v_dtype);
    uint16_t* const halves = (uint16_t*)(void*)weights;
    if (!is_bf16 && !scaled) return (const unsigned char*)weights;
    for (uint32_t r = 0; r < count; r++)
        for (int tile = tiles.begin; tile < tiles.end; tile++)
            for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
                const size_t at = r * PKVI_CHUNK_TOKENS + (size_t)(tile * PKVI_TILE_TOKENS + lane);
                vf weight = v_load(weights + at) * context->weight_factor;
                if (scaled) weight *= token_scales(&source->piece, tile, lane);
                if (is_bf16)
                    v_store_bf16(halves + at, weight);
                else
                    v_store(weights + at, weight);
            }
    return (const unsigned char*)weights;
}

/* Merge a later state into an earlier one. */
static void merge_state(const struct context* context, float* sum, const float* later) {
    float* const max = state_max(context, sum);
    const float later_max = later[context->value_dim];
    const float before = *max;
    *max = later_max > before ? later_max : before;
    const float base = base_of(*max);
    const float keep = v_exp2(v_set(before - base))[0];
    const float take = v_exp2(v_set(later_max - base))[0];
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
        v_store(scores + i, v_tanh(v_load(scores + i) / cap) * (cap * LOG2_E));
}

static void mask_scores(const struct context* context, const struct pkvi_chunk* chunk,
                        const struct rows* rows, struct tiles tiles, float* scores) {
    const pkv_group_config* group = &context->job->layout->group;
    for (uint32_t r = 0; r < rows->count; r++) {
        const uint32_t position = position_of(context, rows->first + r);
        float* row = scores + r * PKVI_CHUNK_TOKENS;
        for (int i = tiles.begin * PKVI_TILE_TOKENS; i < tiles.end * PKVI_TILE_TOKENS; i += WIDTH) {
            const vi visible = visible_lanes(group, chunk->begin + (uint32_t)i, position);
            v_store(row + i, v_select(visible, v_load(row + i), v_set(-INFINITY)));
        }
    }
}

/* ---- Rows, chunks, splits -------------------------------------------------------------------- */

/* The tiles of which rows at positions [low, high] see anything; without those in between that they
 * do not see. Tiles that are left out would get weight 0. */
static struct tiles tiles_seen(const struct context* context, const struct pkvi_chunk* chunk,
                               uint32_t low, uint32_t high) {
    const pkv_group_config* group = &context->job->layout->group;
    struct tiles tiles = {0, PKVI_CHUNK_TILES};
    while (tiles.begin < tiles.end) {
        const uint32_t begin = chunk->begin + (uint32_t)(tiles.end - 1) * PKVI_TILE_TOKENS;
        if (pkvi_sees_any(group, low, high, begin, begin + PKVI_TILE_TOKENS)) break;
        tiles.end--;
    }
    while (tiles.begin < tiles.end) {
        const uint32_t begin = chunk->begin + (uint32_t)tiles.begin * PKVI_TILE_TOKENS;
        if (pkvi_sees_any(group, low, high, begin, begin + PKVI_TILE_TOKENS)) break;
        tiles.begin++;
    }
    return tiles;
}

static void attend_rows(const struct context* context, const struct pkvi_chunk* chunk,
                        const struct source* source, const struct piece* next,
                        const struct rows* rows) {
    const struct pkvi_attend_job* job = context->job;
    const pkv_group_config* group = &job->layout->group;
    const uint32_t low = position_of(context, rows->first);
    const uint32_t high = position_of(context, rows->first + rows->count - 1);
    const struct tiles tiles = tiles_seen(context, chunk, low, high);
    if (tiles.begin == tiles.end) return;

    float scores[ROWS_MAX * PKVI_CHUNK_TOKENS] __attribute__((aligned(64)));
    float corrections[ROWS_PADDED];
    const struct queries queries = {
        .q = rows->q,
        .row_bytes = context->q_row_bytes,
        .rest_bytes = context->q_rest_bytes,
        .key_dim = context->key_dim,
        .factor = context->score_factor,
        .scores = scores,
    };
    loops_of[source->k_dtype].qk[rows->count](&queries, &source->piece, next, tiles);
    if (job->softcap > 0.0F) cap_scores(scores, rows->count, job->softcap);
    if (!pkvi_sees_all(group, low, high, chunk->begin + (uint32_t)tiles.begin * PKVI_TILE_TOKENS,
                       chunk->begin + (uint32_t)tiles.end * PKVI_TILE_TOKENS))
        mask_scores(context, chunk, rows, tiles, scores);
    update_states(context, scores, rows, tiles, corrections);
    const struct sums sums = {
        .value_dim = context->value_dim,
        .weights = shape_weights(context, source, scores, rows->count, tiles),
        .affine = source->affine,
        .corrections = corrections,
        .out = rows->states,
        .stride = context->state_floats,
    };
    loops_of[source->v_dtype].pv[rows->count](&sums, &source->piece, next, tiles);
}

/* How many of `rest` rows the next call takes. */
static uint32_t next_rows(const struct source* source, uint32_t rest) {
    const bool takes_six =
        loops_of[source->k_dtype].qk[6] != NULL && loops_of[source->v_dtype].pv[6] != NULL;
    if (rest >= 6 && takes_six) return 6;
    if (rest >= 4 && rest != 5 && rest != 6) return 4;
    return rest < 3 ? rest : 3;
}

/* Prefetch part `index` of `count` of the next piece. */
static void prefetch_part(const struct context* context, const struct piece* next, uint32_t index,
                          uint32_t count) {
    const pkv_group_config* group = &context->job->layout->group;
    const size_t k_bytes =
        (size_t)PKVI_TILE_TOKENS * group->key_dim * pkvi_dtype_bits(group->k_dtype) / 8;
    const size_t v_bytes =
        (size_t)PKVI_TILE_TOKENS * group->value_dim * pkvi_dtype_bits(group->v_dtype) / 8;
    for (int t = 0; t < PKVI_CHUNK_TILES; t++) {
        const size_t k_end = k_bytes * (index + 1) / count;
        const size_t v_end = v_bytes * (index + 1) / count;
        for (size_t at = k_bytes * index / count; at < k_end; at += 64)
            prefetch(next->k[t] + at, 1);
        for (size_t at = v_bytes * index / count; at < v_end; at += 64)
            prefetch(next->v[t] + at, 1);
    }
}

/* All rows of one KV head, number `index` of the item. */
static void attend_head(const struct context* context, const struct pkvi_chunk* chunk,
                        uint32_t index, const struct source* source, const struct piece* next) {
    const struct pkvi_item* item = context->item;
    const size_t base = (size_t)index * item->rows;
    for (uint32_t done = 0; done < item->rows;) {
        const uint32_t count = next_rows(source, item->rows - done);
        const struct rows rows = {
            .q = context->workspace->q + (base + done) * context->q_row_bytes,
            .states = context->workspace->split + (base + done) * context->state_floats,
            .first = item->row + done,
            .count = count,
        };
        if (count > ROWS_STREAMED_MAX)
            prefetch_part(context, next, done / count, item->rows / count);
        attend_rows(context, chunk, source, done == 0 ? next : &source->piece, &rows);
        done += count;
    }
}

static struct piece piece_of(const struct pkvi_chunk* chunk, uint32_t index) {
    struct piece piece = {.tokens = chunk->tokens};
    for (int t = 0; t < PKVI_CHUNK_TILES; t++) {
        piece.k[t] = chunk->k[t] + index * chunk->k_step;
        piece.v[t] = chunk->v[t] + index * chunk->v_step;
        piece.k_scales[t] = chunk->k_scales[t] + index * chunk->k_step;
        piece.v_scales[t] = chunk->v_scales[t] + index * chunk->v_step;
    }
    return piece;
}

/* Scales and minima of V as floats. */
static void load_affine(const struct context* context, const struct piece* piece, float* affine) {
    const size_t floats = affine_floats(context->value_dim);
    for (int t = 0; t < PKVI_CHUNK_TILES; t++) {
        const uint16_t* from = (const uint16_t*)(const void*)piece->v_scales[t];
        for (size_t i = 0; i < floats; i += WIDTH)
            v_store(affine + (size_t)t * floats + i, v_load_f16(from + i));
    }
}

/* Convert K and V of a piece to their native types, where they have others. */
static void unpack(const struct context* context, struct source* source) {
    struct piece* piece = &source->piece;
    const struct loops* k = &loops_of[source->k_dtype];
    const struct loops* v = &loops_of[source->v_dtype];
    const struct sums sums = {.value_dim = context->value_dim, .affine = source->affine};
    const size_t k_bytes = (size_t)PKVI_TILE_TOKENS * context->key_dim * sizeof(float);
    const size_t v_bytes = (size_t)PKVI_TILE_TOKENS * context->value_dim * sizeof(float);
    unsigned char* room = context->workspace->unpacked;
    for (int t = 0; t < PKVI_CHUNK_TILES; t++, room += k_bytes + v_bytes) {
        if (native_of(source->k_dtype) != source->k_dtype) {
            k->unpack_k(piece->k[t], piece->k_scales[t], context->key_dim, room);
            piece->k[t] = room;
        }
        if (native_of(source->v_dtype) != source->v_dtype) {
            v->unpack_v(&sums, t, piece->v[t], piece->tokens[t], room + k_bytes);
            piece->v[t] = room + k_bytes;
        }
    }
    source->k_dtype = native_of(source->k_dtype);
    source->v_dtype = native_of(source->v_dtype);
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
        struct source source = {
            .piece = piece_of(chunk, index),
            .affine = context->workspace->affine,
            .k_dtype = group->k_dtype,
            .v_dtype = group->v_dtype,
        };
        struct piece next = source.piece;
        if (!is_staged && index + 1 < heads) next = piece_of(chunk, index + 1);
        if (!is_staged && index + 1 == heads && after->is_seen) next = piece_of(after, 0);
        if (group->v_dtype == PKV_I4)
            load_affine(context, &source.piece, context->workspace->affine);
        if (context->unpacks) unpack(context, &source);
        attend_head(context, chunk, index, &source, &next);
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

/* The item's queries, in the form in which they multiply K. */
static void load_queries(const struct context* context) {
    const uint32_t dtype = context->job->layout->group.k_dtype;
    const float lift = lift_of(dtype);
    unsigned char* q = context->workspace->q;
    for (uint32_t index = 0; index < context->item->kv_heads; index++)
        for (uint32_t r = 0; r < context->item->rows; r++, q += context->q_row_bytes) {
            const uint32_t row = context->item->row + r;
            float floats[PKV_HEAD_DIM_MAX];
            v_load_row(&context->job->q, array_row(context, row), query_head(context, index, row),
                       context->key_dim, floats);
            for (uint32_t d = 0; d < context->key_dim; d += WIDTH) {
                const vf lifted = v_load(floats + d) * lift;
                if (!uses_dot(dtype)) {
                    v_store((float*)(void*)q + d, lifted);
                    continue;
                }
                uint16_t* rounded = (uint16_t*)(void*)q + d;
                v_store_bf16(rounded, lifted);
                v_store_bf16(rounded + context->key_dim, lifted - v_load_bf16(rounded));
            }
        }
}

/* Adding zero makes negative zeros positive: see R2. */
static void finish_row(const struct context* context, uint32_t index, uint32_t row, float* state) {
    const struct pkvi_attend_job* job = context->job;
    const uint32_t to_row = array_row(context, row);
    const uint32_t head = query_head(context, index, row);
    const float sum = *state_sum(context, state);
    for (uint32_t d = 0; d < context->value_dim; d += WIDTH)
        v_store(state + d, v_load(state + d) * context->out_factor / sum + 0.0F);
    v_store_row(&job->out, to_row, head, context->value_dim, state);
    if (job->lse != NULL)
        job->lse[(size_t)to_row * job->query_heads + head] = 
            *state_max(context, state) * LN_2 + logf(sum);
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
        .q_row_bytes = group->key_dim * sizeof(float),
        .state_floats = pkvi_state_floats(group->value_dim),
        .group_heads = job->query_heads / group->kv_heads,
        .first_position = job->lengths[item->entry] - new_tokens,
        .score_factor = job->scale * fp8_factor(group->k_dtype),
        .weight_factor = lift_of(group->v_dtype),
        .out_factor = fp8_factor(group->v_dtype),
        .unpacks = item->rows > ROWS_UNPACKED_MIN,
    };
    if (uses_dot(group->k_dtype) && job->q.dtype != PKV_BF16)
        context.q_rest_bytes = group->key_dim * sizeof(uint16_t);
    if (job->softcap == 0.0F) context.score_factor *= LOG2_E;
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
