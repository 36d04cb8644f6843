/* attend_kernel.h - attention over one item: one source, compiled once for each instruction set.
 *
 * Included by the level_*.c files. Reading order is bottom up: attend() at the end walks the
 * splits, a split its chunks, a chunk its KV heads and their rows, a few at a time. A chunk is
 * scored (inner.h), masked, weighted and summed.
 *
 * Online softmax: a state is (output so far, highest score, sum of weights relative to it), with
 * the operations clear / update (one chunk) / merge (of two states) / join a sink / finish.
 *
 * Holds   R1  a row's arithmetic is the same in every instance, whichever rows stand beside it
 *         R2  a chunk of which a row sees nothing leaves its state as it was (but for the sign of
 *             zeros, which finish makes positive): it does not matter whether the row visits it
 *         R3  slots behind the last token that a row of the item may see can hold NaN: scores with
 *             them are replaced, and their values are not read
 *         R4  rows of a token tree differ from others in their mask alone, and in chunks that reach
 *             into the tree alone */
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
    size_t q_row_bytes; /* see struct queries */
    size_t state_floats;
    uint32_t group_heads;    /* query heads per KV head */
    uint32_t first_position; /* of the entry's first new token */
    struct pkvi_tree tree;   /* of the entry; without parents: it is none */
    float score_factor;      /* from products to scores, whose exponential is a power of 2 */
    float weight_factor;     /* for types whose elements are too small: see operand.h */
    float out_factor;        /* and what is left of it in the output */
    bool unpacks; /* many rows: types that are not native are converted for all of them */
};

/* Rows of one call of the inner loops. */
struct rows {
    const unsigned char* q; /* [count][q_row_bytes] */
    float* states;          /* [count][state_floats] */
    float* scores;          /* [count][PKVI_CHUNK_TOKENS], then their weights */
    float* corrections;     /* [ROWS_PADDED] */
    uint32_t first;         /* row number in the entry, token-major */
    uint32_t count;
    struct tiles tiles; /* what they see of the present chunk */
};

/* Where a piece comes from and in which types. */
struct source {
    struct piece piece;
    const float* affine; /* of V in 4-bit values */
    uint32_t k_dtype;
    uint32_t v_dtype;
};

/* Does what multiplies K or V of `dtype` have more digits than bf16? With queries in bf16 it need not,
 * and fp8 is coarser than what would be lost. */
static bool is_precise(const struct context* context, uint32_t dtype) {
    return dtype == PKV_BF16 && context->job->q.dtype != PKV_BF16;
}

/* In a tree, the place in the page table: what the row sees does not lie behind it. */
static uint32_t position_of(const struct context* context, uint32_t row) {
    return context->first_position + row / context->group_heads;
}

/* The lowest position of the rows from `row` on. */
static uint32_t lowest_position(const struct context* context, uint32_t row) {
    return context->tree.parents != NULL ? context->first_position : position_of(context, row);
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

/* Turn scores into weights, update maxima and sums, and say by how much what was summed so far has
 * to be corrected. A row that sees nothing gets weights 0 and correction 1. */
static void update_states(const struct context* context, const struct rows* rows) {
    const int begin = rows->tiles.begin * PKVI_TILE_TOKENS;
    const int end = rows->tiles.end * PKVI_TILE_TOKENS;
    float before[ROWS_PADDED] = {0.0F};
    float after[ROWS_PADDED] = {0.0F};
    for (uint32_t r = 0; r < rows->count; r++) {
        const float* row = rows->scores + r * PKVI_CHUNK_TOKENS;
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
        v_store(rows->corrections + r, v_exp2(v_load(before + r) - v_load(after + r)));
    for (uint32_t r = 0; r < rows->count; r++) {
        float* row = rows->scores + r * PKVI_CHUNK_TOKENS;
        vf total = v_set(0.0F);
        for (int i = begin; i < end; i += WIDTH) {
            const vf weight = v_exp2(v_load(row + i) - after[r]);
            v_store(row + i, weight);
            total += weight;
        }
        float* const sum = state_sum(context, rows->states + r * context->state_floats);
        *sum = *sum * rows->corrections[r] + v_reduce_add(total);
    }
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
static vi positions_from(uint32_t begin) {
    vi positions = {0};
    for (int i = 0; i < WIDTH; i++)
        positions[i] = (int32_t)begin + i;
    return positions;
}

static vi lanes_before(uint32_t begin, uint32_t position) {
    return positions_from(begin) < (int32_t)position;
}

static vi visible_lanes(const pkv_group_config* group, uint32_t begin, uint32_t position) {
    const vi positions = positions_from(begin);
    vi visible = positions <= (int32_t)position;
    if (group->window > 0) {
        const vi is_near = positions > (int32_t)position - (int32_t)group->window;
        visible &= is_near | (positions < (int32_t)group->sinks);
    }
    return visible;
}

static void cap_scores(const struct rows* rows, float cap) {
    for (uint32_t r = 0; r < rows->count; r++) {
        float* row = rows->scores + r * PKVI_CHUNK_TOKENS;
        for (int i = rows->tiles.begin * PKVI_TILE_TOKENS; i < rows->tiles.end * PKVI_TILE_TOKENS;
             i += WIDTH)
            v_store(row + i, v_tanh(v_load(row + i) / cap) * (cap * LOG2_E));
    }
}

/* Lanes of tokens of the tree that are row `node` of it or its ancestors; those before `begin`, where
 * the chunk begins, are in other chunks. */
static void show_ancestors(const struct context* context, uint32_t begin, uint32_t node,
                           vi visible[CHUNK_VECTORS]) {
    const pkv_group_config* group = &context->job->layout->group;
    const uint32_t* positions = context->tree.positions;
    for (uint32_t i = node; i != PKV_NO_PARENT && context->first_position + i >= begin;
         i = context->tree.parents[i]) {
        const uint32_t lane = context->first_position + i - begin;
        const bool is_near = positions[node] - positions[i] < group->window;
        if (lane >= PKVI_CHUNK_TOKENS) continue;
        if (group->window > 0 && !is_near && positions[i] >= group->sinks) continue;
        visible[lane / WIDTH][lane % WIDTH] = -1;
    }
}

static void mask_node(const struct context* context, const struct pkvi_chunk* chunk,
                      const struct rows* rows, uint32_t r) {
    const uint32_t node = (rows->first + r) / context->group_heads;
    const int end = rows->tiles.end * TILE_VECTORS;
    vi visible[CHUNK_VECTORS];
    for (int i = rows->tiles.begin * TILE_VECTORS; i < end; i++) {
        const uint32_t begin = chunk->begin + (uint32_t)i * WIDTH;
        visible[i] =
            visible_lanes(&context->job->layout->group, begin, context->tree.positions[node]) &
            lanes_before(begin, context->first_position);
    }
    show_ancestors(context, chunk->begin, node, visible);
    float* row = rows->scores + r * PKVI_CHUNK_TOKENS;
    for (int i = rows->tiles.begin * TILE_VECTORS; i < end; i++)
        v_store(row + i * WIDTH, v_select(visible[i], v_load(row + i * WIDTH), v_set(-INFINITY)));
}

static void mask_scores(const struct context* context, const struct pkvi_chunk* chunk,
                        const struct rows* rows) {
    const pkv_group_config* group = &context->job->layout->group;
    const int end = rows->tiles.end * PKVI_TILE_TOKENS;
    for (uint32_t r = 0; r < rows->count; r++) {
        if (context->tree.parents != NULL) {
            mask_node(context, chunk, rows, r);
            continue;
        }
        const uint32_t position = position_of(context, rows->first + r);
        float* row = rows->scores + r * PKVI_CHUNK_TOKENS;
        for (int i = rows->tiles.begin * PKVI_TILE_TOKENS; i < end; i += WIDTH) {
            const vi visible = visible_lanes(group, chunk->begin + (uint32_t)i, position);
            v_store(row + i, v_select(visible, v_load(row + i), v_set(-INFINITY)));
        }
    }
}

/* The tiles of which rows at positions [low, high] see anything, and those between. A tile that is
 * left out would get weight 0. */
static struct tiles tiles_seen(const struct context* context, const struct pkvi_chunk* chunk,
                               uint32_t low, uint32_t high) {
    const pkv_group_config* group = &context->job->layout->group;
    struct tiles tiles = {0, context->walk.tiles};
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

/* ---- Weights --------------------------------------------------------------------------------- */

/* Room for the weights of one call in the form in which they multiply V (struct sums). */
struct weights {
    int16_t words[ROWS_MAX * GROUPS_MAX * PKVI_CHUNK_TOKENS] __attribute__((aligned(64)));
    float scales[ROWS_MAX * GROUPS_MAX];
    float minima[ROWS_MAX * GROUPS_MAX];
};

/* WIDTH weights times what V's scales say; 0 stays 0 even if the token's scale is rubbish. */
static vf scale_weights(vf weights, vf scales) {
    return v_select(weights > 0.0F, weights * scales, v_set(0.0F));
}

static void weigh_bf16(const struct context* context, const struct source* source,
                       const struct sums* sums, const struct rows* rows, struct weights* weights) {
    const bool scaled = has_token_scale(context->job->layout->group.v_dtype);
    for (uint32_t r = 0; r < rows->count; r++)
        for (int tile = rows->tiles.begin; tile < rows->tiles.end; tile++)
            for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
                const size_t at = r * PKVI_CHUNK_TOKENS + (size_t)(tile * PKVI_TILE_TOKENS + lane);
                vf weight = v_load(rows->scores + at) * context->weight_factor;
                if (scaled)
                    weight = scale_weights(weight, v_load(source->piece.v_scales[tile] + lane * 4));
                uint16_t* rounded =
                    (uint16_t*)((unsigned char*)weights->words + r * sums->row_bytes) +
                    tile * PKVI_TILE_TOKENS + lane;
                v_store_bf16(rounded, weight);
                if (sums->rest_bytes > 0)
                    v_store_bf16(rounded + PKVI_CHUNK_TOKENS, weight - v_load_bf16(rounded));
            }
}

static void weigh_floats(const struct context* context, const struct source* source,
                         const struct rows* rows) {
    for (uint32_t r = 0; r < rows->count; r++)
        for (int tile = rows->tiles.begin; tile < rows->tiles.end; tile++)
            for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
                float* at = rows->scores + r * PKVI_CHUNK_TOKENS + tile * PKVI_TILE_TOKENS + lane;
                v_store(at, scale_weights(v_load(at) * context->weight_factor,
                                          v_load(source->piece.v_scales[tile] + lane * 4)));
            }
}

/* The scales of V of WIDTH tokens, and group, from `lane` of a tile on. */
static vf v_scales(const struct source* source, const struct sums* sums, int tile, uint32_t group,
                   int lane) {
    if (is_i4(source->v_dtype)) return v_load(v_scales_at(sums, tile, group) + lane);
    return v_load(source->piece.v_scales[tile] + lane * 4);
}

/* One row in 16 bits, for each group of dims by itself: scaled so that its largest weight is 32767.
 * A scale for all groups would take the bits from those whose steps are small. */
static void weigh_int16(const struct source* source, const struct sums* sums,
                        const struct rows* rows, uint32_t row, struct weights* weights) {
    const bool grouped = is_i4(source->v_dtype);
    const uint32_t groups = grouped ? pkvi_scale_groups(sums->value_dim) : 1;
    const float* from = rows->scores + row * PKVI_CHUNK_TOKENS;
    for (uint32_t group = 0; group < groups; group++) {
        int16_t* to = (int16_t*)((unsigned char*)weights->words + row * sums->row_bytes) +
                      group * PKVI_CHUNK_TOKENS;
        float scaled[PKVI_CHUNK_TOKENS];
        vf highest = v_set(0.0F);
        vf minima = v_set(0.0F);
        for (int tile = rows->tiles.begin; tile < rows->tiles.end; tile++)
            for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
                const int at = tile * PKVI_TILE_TOKENS + lane;
                const vf weight = v_load(from + at);
                const vf s = scale_weights(weight, v_scales(source, sums, tile, group, lane));
                v_store(scaled + at, s);
                highest = v_max(highest, v_abs(s));
                if (!grouped) continue;
                const float* minimum = v_scales_at(sums, tile, group) + PKVI_TILE_TOKENS + lane;
                minima += scale_weights(weight, v_load(minimum));
            }
        const float most = v_reduce_max(highest);
        const float factor = most > 0.0F ? 32767.0F / most : 0.0F;
        weights->scales[row * GROUPS_MAX + group] = most / 32767.0F;
        if (grouped) weights->minima[row * GROUPS_MAX + group] = v_reduce_add(minima);
        for (int at = rows->tiles.begin * PKVI_TILE_TOKENS; at < rows->tiles.end * PKVI_TILE_TOKENS;
             at += WIDTH)
            v_store_int16(to + at, v_load(scaled + at) * factor);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* From all scores of a chunk to weights. */
static void soften_rows(const struct context* context, const struct pkvi_chunk* chunk,
                        const struct rows* rows) {
    const pkv_group_config* group = &context->job->layout->group;
    const uint32_t low = lowest_position(context, rows->first);
    const uint32_t high = position_of(context, rows->first + rows->count - 1);
    const uint32_t begin = chunk->begin + (uint32_t)rows->tiles.begin * PKVI_TILE_TOKENS;
    const uint32_t end = chunk->begin + (uint32_t)rows->tiles.end * PKVI_TILE_TOKENS;
    const bool has_nodes = context->tree.parents != NULL && end > context->first_position;
    if (context->job->softcap > 0.0F) cap_scores(rows, context->job->softcap);
    if (has_nodes || !pkvi_sees_all(group, low, high, begin, end))
        mask_scores(context, chunk, rows);
    update_states(context, rows);
}

/* Add the weighted V of all tiles to the output. */
static void add_rows(const struct context* context, const struct source* source,
                     const struct piece* next, const struct rows* rows) {
    struct weights weights;
    const enum arithmetic arithmetic = arithmetic_of(source->v_dtype);
    const size_t words = arithmetic == BF16S      ? 2
                         : is_i4(source->v_dtype) ? pkvi_scale_groups(context->value_dim)
                                                  : 1;
    const struct sums sums = {
        .value_dim = context->value_dim,
        .weights = arithmetic == FLOATS ? (const unsigned char*)rows->scores
                                        : (const unsigned char*)weights.words,
        .row_bytes =
            PKVI_CHUNK_TOKENS * (arithmetic == FLOATS ? sizeof(float) : words * sizeof(int16_t)),
        .rest_bytes = is_precise(context, context->job->layout->group.v_dtype)
                          ? PKVI_CHUNK_TOKENS * sizeof(uint16_t)
                          : 0,
        .affine = source->affine,
        .corrections = rows->corrections,
        .scales = weights.scales,
        .minima = weights.minima,
        .out = rows->states,
        .stride = context->state_floats,
    };
    if (arithmetic == BF16S) weigh_bf16(context, source, &sums, rows, &weights);
    for (uint32_t r = 0; arithmetic == INT16S && r < rows->count; r++)
        weigh_int16(source, &sums, rows, r, &weights);
    if (arithmetic == FLOATS && has_token_scale(context->job->layout->group.v_dtype))
        weigh_floats(context, source, rows);
    loops_of[source->v_dtype].pv[rows->count](&sums, &source->piece, next, rows->tiles);
}

static void attend_rows(const struct context* context, const struct pkvi_chunk* chunk,
                        const struct source* source, const struct piece* next,
                        const struct rows* rows) {
    const struct queries queries = {
        .q = rows->q,
        .row_bytes = context->q_row_bytes,
        .rest_bytes = is_precise(context, context->job->layout->group.k_dtype)
                          ? context->key_dim * sizeof(uint16_t)
                          : 0,
        .key_dim = context->key_dim,
        .factor = context->score_factor,
        .is_scaled = has_token_scale(context->job->layout->group.k_dtype),
        .scores = rows->scores,
    };
    loops_of[source->k_dtype].qk[rows->count](&queries, &source->piece, next, rows->tiles);
    soften_rows(context, chunk, rows);
    add_rows(context, source, next, rows);
}

/* How many of `rest` rows the next call takes. */
static uint32_t next_rows(const struct source* source, uint32_t rest) {
    const bool takes_six =
        loops_of[source->k_dtype].qk[6] != NULL && loops_of[source->v_dtype].pv[6] != NULL;
    if (rest >= 6 && takes_six) return 6;
    if (rest >= 4 && rest != 5 && rest != 6) return 4;
    return rest < 3 ? rest : 3;
}

/* Rows of KV head number `index` of the item, from number `done` on, and what they see of a chunk. */
static struct rows rows_of(const struct context* context, const struct pkvi_chunk* chunk,
                           const struct source* source, uint32_t index, uint32_t done) {
    const struct pkvi_item* item = context->item;
    const size_t at = (size_t)index * item->rows + done;
    struct rows rows = {
        .q = context->workspace->q + at * context->q_row_bytes,
        .states = context->workspace->split + at * context->state_floats,
        .scores = context->workspace->scores + at * PKVI_CHUNK_TOKENS,
        .corrections = context->workspace->corrections + at,
        .first = item->row + done,
        .count = next_rows(source, item->rows - done),
    };
    rows.tiles = tiles_seen(context, chunk, lowest_position(context, rows.first),
                            position_of(context, rows.first + rows.count - 1));
    return rows;
}

/* ---- Chunks, head by head -------------------------------------------------------------------- */

/* KV head number `index` of the item in a chunk. */
static struct source source_of(const struct context* context, const struct pkvi_chunk* chunk,
                               uint32_t index) {
    const pkv_group_config* group = &context->job->layout->group;
    struct source source = {
        .piece = {.tokens = chunk->tokens},
        .affine = context->workspace->affine,
        .k_dtype = group->k_dtype,
        .v_dtype = group->v_dtype,
    };
    for (int t = 0; t < context->walk.tiles; t++) {
        source.piece.k[t] = chunk->k[t] + index * chunk->k_step;
        source.piece.v[t] = chunk->v[t] + index * chunk->v_step;
        source.piece.k_scales[t] = chunk->k_scales[t] + index * chunk->k_step;
        source.piece.v_scales[t] = chunk->v_scales[t] + index * chunk->v_step;
    }
    return source;
}

/* Scales and minima of V as floats. */
static void load_affine(const struct context* context, const struct piece* piece, float* affine) {
    const size_t floats = affine_floats(context->value_dim);
    for (int t = 0; t < context->walk.tiles; t++) {
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
    for (int t = 0; t < context->walk.tiles; t++, room += k_bytes + v_bytes) {
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

/* Prefetch the part of the first KV head in the chunk that comes next which belongs to rows from
 * number `done` on of the present one. */
static void prefetch_part(const struct context* context, const struct pkvi_chunk* after,
                          const struct rows* rows, uint32_t done) {
    const pkv_group_config* group = &context->job->layout->group;
    const size_t k_bytes = group->key_dim * pkvi_dtype_bits(group->k_dtype) / 8;
    const size_t v_bytes = group->value_dim * pkvi_dtype_bits(group->v_dtype) / 8;
    const size_t begin = (size_t)PKVI_TILE_TOKENS * done / context->item->rows;
    const size_t end = (size_t)PKVI_TILE_TOKENS * (done + rows->count) / context->item->rows;
    for (int t = 0; t < context->walk.tiles; t++) {
        for (size_t at = k_bytes * begin; at < k_bytes * end; at += 64)
            prefetch(after->k[t] + at, 1);
        for (size_t at = v_bytes * begin; at < v_bytes * end; at += 64)
            prefetch(after->v[t] + at, 1);
    }
}

/* All rows of one KV head. What is prefetched is the next head of this chunk, or the first one of
 * the chunk after it. */
static void attend_head(const struct context* context, struct pkvi_chunk* chunk,
                        const struct pkvi_chunk* after, uint32_t index) {
    const pkv_group_config* group = &context->job->layout->group;
    const bool is_staged = group->block_tokens < PKVI_TILE_TOKENS;
    const bool is_last = index + 1 == context->item->kv_heads;
    if (is_staged) pkvi_chunk_stage(&context->walk, index, chunk);
    struct source source = source_of(context, chunk, index);
    struct piece next = source.piece;
    if (!is_staged && !is_last) next = source_of(context, chunk, index + 1).piece;
    if (!is_staged && is_last && after->is_seen) next = source_of(context, after, 0).piece;
    if (group->v_dtype == PKV_I4) load_affine(context, &source.piece, context->workspace->affine);
    if (context->unpacks) unpack(context, &source);
    for (uint32_t done = 0; done < context->item->rows;) {
        const struct rows rows = rows_of(context, chunk, &source, index, done);
        if (context->unpacks && after->is_seen && !is_staged)
            prefetch_part(context, after, &rows, done);
        if (rows.tiles.begin < rows.tiles.end)
            attend_rows(context, chunk, &source, done == 0 ? &next : &source.piece, &rows);
        done += rows.count;
    }
}

static void attend_split(const struct context* context, uint32_t begin, uint32_t end) {
    const uint32_t step = (uint32_t)context->walk.tiles * PKVI_TILE_TOKENS;
    struct pkvi_chunk chunk;
    struct pkvi_chunk after;
    pkvi_chunk_locate(&context->walk, begin, &after);
    for (uint32_t at = begin; at < end; at += step) {
        chunk = after;
        pkvi_chunk_locate(&context->walk, at + step, &after);
        if (!chunk.is_seen) continue;
        for (uint32_t index = 0; index < context->item->kv_heads; index++)
            attend_head(context, &chunk, &after, index);
    }
}

/* ---- Rows in and out ------------------------------------------------------------------------- */

static uint32_t array_row(const struct context* context, uint32_t row) {
    return context->job->starts[context->item->entry] + row / context->group_heads;
}

static uint32_t query_head(const struct context* context, uint32_t index, uint32_t row) {
    return (context->item->kv_head + index) * context->group_heads + row % context->group_heads;
}

/* One row of q as bf16, and what the rounding took if that counts; see struct queries. */
static void store_bf16s(const struct context* context, const float* q, unsigned char* to) {
    const float lift = lift_of(context->job->layout->group.k_dtype);
    uint16_t* rounded = (uint16_t*)(void*)to;
    for (uint32_t d = 0; d < context->key_dim; d += WIDTH) {
        const vf lifted = v_load(q + d) * lift;
        v_store_bf16(rounded + d, lifted);
        if (is_precise(context, context->job->layout->group.k_dtype))
            v_store_bf16(rounded + context->key_dim + d, lifted - v_load_bf16(rounded + d));
    }
}

/* One row of q as int16: scaled so that the largest is 32767. */
static void store_int16s(const struct context* context, const float* q, unsigned char* to) {
    int16_t* words = (int16_t*)(void*)to;
    float* numbers = (float*)(void*)(words + context->key_dim);
    vf highest = v_set(0.0F);
    for (uint32_t d = 0; d < context->key_dim; d += WIDTH)
        highest = v_max(highest, v_abs(v_load(q + d)));
    const float most = v_reduce_max(highest);
    const float factor = most > 0.0F ? 32767.0F / most : 0.0F;
    for (uint32_t d = 0; d < context->key_dim; d += WIDTH)
        v_store_int16(words + d, v_load(q + d) * factor);
    if (!is_i4(context->job->layout->group.k_dtype)) {
        numbers[0] = most / 32767.0F;
        return;
    }
    float sums[GROUPS_MAX] = {0.0F};
    for (uint32_t d = 0; d < context->key_dim; d++)
        sums[d / PKVI_GROUP_DIMS] += (float)words[d]; /* exact */
    numbers[0] = most / 32767.0F;
    memcpy(numbers + 1, sums, pkvi_scale_groups(context->key_dim) * sizeof *sums);
}

/* The item's queries, in the form in which they multiply K. */
static void load_queries(const struct context* context) {
    const uint32_t dtype = context->job->layout->group.k_dtype;
    unsigned char* to = context->workspace->q;
    for (uint32_t index = 0; index < context->item->kv_heads; index++)
        for (uint32_t r = 0; r < context->item->rows; r++, to += context->q_row_bytes) {
            const uint32_t row = context->item->row + r;
            float q[PKV_HEAD_DIM_MAX];
            v_load_row(&context->job->q, array_row(context, row), query_head(context, index, row),
                       context->key_dim, q);
            if (arithmetic_of(dtype) == INT16S) {
                store_int16s(context, q, to);
                continue;
            }
            if (arithmetic_of(dtype) == BF16S) {
                store_bf16s(context, q, to);
                continue;
            }
            for (uint32_t d = 0; d < context->key_dim; d += WIDTH)
                v_store((float*)(void*)to + d, v_load(q + d) * lift_of(dtype));
        }
}

/* One more score in the softmax of a row that has seen all others. It has no value. */
static void join_sink(const struct context* context, float* state, float logit) {
    float* const max = state_max(context, state);
    float* const sum = state_sum(context, state);
    const float score = logit * LOG2_E;
    const float before = *max;
    *max = score > before ? score : before;
    const float keep = v_exp2(v_set(before - *max))[0];
    *sum = *sum * keep + v_exp2(v_set(score - *max))[0];
    for (uint32_t d = 0; d < context->value_dim; d += WIDTH)
        v_store(state + d, v_load(state + d) * keep);
}

/* Adding zero makes negative zeros positive: see R2. */
static void finish_row(const struct context* context, uint32_t index, uint32_t row, float* state) {
    const struct pkvi_attend_job* job = context->job;
    const uint32_t to_row = array_row(context, row);
    const uint32_t head = query_head(context, index, row);
    if (job->sink_logits != NULL) join_sink(context, state, job->sink_logits[head]);
    const float sum = *state_sum(context, state);
    const float factor = context->out_factor / sum;
    for (uint32_t d = 0; d < context->value_dim; d += WIDTH)
        v_store(state + d, v_load(state + d) * factor + 0.0F);
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
    if (job->softcap == 0.0F) context.score_factor *= LOG2_E;
    if (job->trees != NULL) context.tree = job->trees[item->entry];
    context.walk = (struct pkvi_walk){
        .job = job,
        .pages = job->block_table + (size_t)item->entry * job->table_stride,
        .low = lowest_position(&context, item->row),
        .high = position_of(&context, item->row + item->rows - 1),
        .kv_head = item->kv_head,
        .stage = workspace->stage,
        .tiles = pkvi_chunk_tiles(group, job->query_heads),
    };
    return context;
}

static void attend(const struct pkvi_attend_job* job, const struct pkvi_item* item,
                   const struct pkvi_workspace* workspace) {
    const struct context context = make_context(job, item, workspace);
    const size_t count = (size_t)item->rows * item->kv_heads;
    const uint32_t seen_end = context.walk.high + 1;
    load_queries(&context);
    if (item->split_end - item->split_begin > 1) clear_states(&context, workspace->sum, count);
    for (uint32_t split = item->split_begin; split < item->split_end; split++) {
        const uint32_t begin = split * PKVI_SPLIT_TOKENS;
        const uint32_t end = begin + PKVI_SPLIT_TOKENS;
        clear_states(&context, workspace->split, count);
        attend_split(&context, begin, end < seen_end ? end : seen_end);
        if (item->split_end - item->split_begin > 1)
            merge_states(&context, workspace->sum, workspace->split, count);
    }
    if (item->partial != NULL)
        memcpy(item->partial, workspace->split, count * context.state_floats * sizeof(float));
    else if (item->split_end - item->split_begin > 1)
        finish_rows(&context, workspace->sum);
    else
        finish_rows(&context, workspace->split); /* merging it into nothing would not change it */
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
