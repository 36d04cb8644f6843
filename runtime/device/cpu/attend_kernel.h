/* attend_kernel.h - the attention kernel: one source, compiled once for each instruction set.
 *
 * Included by the level_*.c files, after simd.h. Reading order is bottom up: attend() at the end
 * walks splits and chunks; a chunk is scored (qk), weighted (softmax) and summed (pv) for up to
 * ROWS_MAX rows at once, so that each vector of K or V is loaded once for all rows that share the
 * KV head.
 *
 *   qk    scores[row][16 tokens] += K[dim][16 tokens] * q[row][dim]     two sums a row: even and
 *         odd dims
 *   pv    out[row][dims]         += V[token][dims] * weight[row][token] tokens in order
 *
 * While a chunk is computed, the same head's pieces of the next chunk are prefetched into L2:
 * blocks lie anywhere, so the hardware cannot guess them.
 *
 * Rows in one call are 8, 4, 2 or 1; the loops over them are unrolled by making `rows` a constant
 * of each instance. An instance does to a row exactly what every other does. */

#define INLINE static inline __attribute__((always_inline))

/* The present chunk, as one KV head sees it. */
struct tile {
    const unsigned char* k;
    const unsigned char* v;
    uint32_t tokens; /* that exist; 0: the tile is not to be read */
};

struct chunk {
    uint32_t begin; /* position of its first token */
    struct tile tiles[PKVI_CHUNK_TILES];
    uint32_t k_dtype; /* of the tiles: f32 when they were gathered */
    uint32_t v_dtype;
};

/* Rows of one call: they share the KV head. */
struct rows {
    const float* q; /* [rows][key_dim] */
    float* states;  /* [rows][state_floats] */
    uint32_t row;   /* number of the first one in the entry, token-major */
    uint32_t count;
};

struct context {
    const struct pkvi_attend_job* job;
    const struct pkvi_item* item;
    const struct pkvi_workspace* workspace;
    const uint32_t* pages;
    uint32_t key_dim;
    uint32_t value_dim;
    uint32_t state_floats;
    uint32_t group_heads;
    uint32_t first_position; /* of the entry's first new token */
    uint32_t end;            /* tokens that the item's last row can see */
};

static float* state_max(const struct context* context, float* state) {
    return state + context->value_dim;
}

static float* state_sum(const struct context* context, float* state) {
    return state + context->value_dim + 1;
}

static uint32_t position_of(const struct context* context, uint32_t row) {
    return context->first_position + row / context->group_heads;
}

/* ---- Scores ---------------------------------------------------------------------------------- */

/* Dims d and d + 1 of WIDTH tokens from `lane` on. */
INLINE void load_k(const unsigned char* k, uint32_t dtype, uint32_t d, int lane, vf* even,
                   vf* odd) {
    const size_t at = (size_t)d * PKVI_TILE_TOKENS;
    const float* f32 = (const float*)(const void*)k;
    const uint16_t* u16 = (const uint16_t*)(const void*)k;
    if (dtype == PKV_F32) {
        *even = v_load(f32 + at + lane);
        *odd = v_load(f32 + at + PKVI_TILE_TOKENS + lane);
    } else if (dtype == PKV_F16) {
        *even = v_load_f16(u16 + at + lane);
        *odd = v_load_f16(u16 + at + PKVI_TILE_TOKENS + lane);
    } else {
        v_load_pairs(u16 + at + (size_t)lane * 2, even, odd);
    }
}

INLINE void prefetch(const unsigned char* at, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(at + i, 0, 2);
}

INLINE void qk(const int rows, const uint32_t dtype, const float* q, uint32_t key_dim,
               const unsigned char* k, const unsigned char* next, float scale, float* scores) {
    const uint32_t step_bytes = 2 * PKVI_TILE_TOKENS * (dtype == PKV_F32 ? 4 : 2);
    for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
        vf even[ROWS_MAX];
        vf odd[ROWS_MAX];
        for (int r = 0; r < rows; r++)
            even[r] = odd[r] = v_set(0.0F);
        for (uint32_t d = 0; d < key_dim; d += 2) {
            vf a;
            vf b;
            load_k(k, dtype, d, lane, &a, &b);
            if (lane == 0) prefetch(next + (size_t)d / 2 * step_bytes, step_bytes);
            for (int r = 0; r < rows; r++) {
                even[r] = v_fma(a, v_set(q[(size_t)r * key_dim + d]), even[r]);
                odd[r] = v_fma(b, v_set(q[(size_t)r * key_dim + d + 1]), odd[r]);
            }
        }
        for (int r = 0; r < rows; r++)
            v_store(scores + (size_t)r * PKVI_CHUNK_TOKENS + lane, (even[r] + odd[r]) * scale);
    }
}

/* ---- Weighted sum ---------------------------------------------------------------------------- */

/* Add `tokens` tokens of one tile to the outputs of `rows` rows, `vectors` vectors of dims at a
 * time. */
INLINE void pv_tile(const int rows, const int vectors, const uint32_t dtype, const unsigned char* v,
                    uint32_t value_dim, uint32_t d, uint32_t tokens, const float* weights,
                    vf out[ROWS_MAX][4]) {
    const float* f32 = (const float*)(const void*)v;
    const uint16_t* u16 = (const uint16_t*)(const void*)v;
    if (dtype != PKV_BF16) {
        for (uint32_t t = 0; t < tokens; t++)
            for (int i = 0; i < vectors; i++) {
                const size_t at = (size_t)t * value_dim + d + (size_t)(i * WIDTH);
                const vf value = dtype == PKV_F32 ? v_load(f32 + at) : v_load_f16(u16 + at);
                for (int r = 0; r < rows; r++)
                    out[r][i] =
                        v_fma(value, v_set(weights[r * PKVI_CHUNK_TOKENS + (int)t]), out[r][i]);
            }
        return;
    }
    for (uint32_t t = 0; t < tokens; t += 2) {
        const bool has_second = t + 1 < tokens; /* else the slot holds rubbish, NaN included */
        for (int i = 0; i < vectors; i++) {
            const size_t at = (size_t)t * value_dim + 2 * (d + (size_t)(i * WIDTH));
            vf first;
            vf second;
            v_load_pairs(u16 + at, &first, &second);
            for (int r = 0; r < rows; r++) {
                const float* weight = weights + r * PKVI_CHUNK_TOKENS + t;
                out[r][i] = v_fma(first, v_set(weight[0]), out[r][i]);
                if (has_second) out[r][i] = v_fma(second, v_set(weight[1]), out[r][i]);
            }
        }
    }
}

INLINE void pv_block(const int rows, const int vectors, const uint32_t dtype,
                     const struct context* context, const struct chunk* chunk, uint32_t d,
                     const float* weights, const float* corrections, float* states) {
    vf out[ROWS_MAX][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < vectors; i++) {
            const float* from = states + (size_t)r * context->state_floats + d + i * WIDTH;
            out[r][i] = v_load(from) * corrections[r];
        }
    for (int t = 0; t < PKVI_CHUNK_TILES; t++)
        pv_tile(rows, vectors, dtype, chunk->tiles[t].v, context->value_dim, d,
                chunk->tiles[t].tokens, weights + t * PKVI_TILE_TOKENS, out);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < vectors; i++)
            v_store(states + (size_t)r * context->state_floats + d + i * WIDTH, out[r][i]);
}

INLINE void pv(const int rows, const uint32_t dtype, const struct context* context,
               const struct chunk* chunk, const float* weights, const float* corrections,
               float* states) {
    const int vectors = rows == 8 ? 2 : 4;
    uint32_t d = 0;
    for (; d + (uint32_t)(vectors * WIDTH) <= context->value_dim; d += (uint32_t)(vectors * WIDTH))
        pv_block(rows, vectors, dtype, context, chunk, d, weights, corrections, states);
    for (; d < context->value_dim; d += WIDTH)
        pv_block(rows, 1, dtype, context, chunk, d, weights, corrections, states);
}

/* ---- Instances ------------------------------------------------------------------------------- */

typedef void qk_function(const float* q, uint32_t key_dim, const unsigned char* k,
                         const unsigned char* next, float scale, float* scores);
typedef void pv_function(const struct context* context, const struct chunk* chunk,
                         const float* weights, const float* corrections, float* states);

#define INSTANCE(rows, dtype)                                                                      \
    static void qk_##rows##_##dtype(const float* q, uint32_t key_dim, const unsigned char* k,      \
                                    const unsigned char* next, float scale, float* scores) {       \
        qk(rows, PKV_##dtype, q, key_dim, k, next, scale, scores);                                 \
    }                                                                                              \
    static void pv_##rows##_##dtype(const struct context* context, const struct chunk* chunk,      \
                                    const float* weights, const float* corrections,                \
                                    float* states) {                                               \
        pv(rows, PKV_##dtype, context, chunk, weights, corrections, states);                       \
    }
#define INSTANCES(rows)   INSTANCE(rows, F32) INSTANCE(rows, F16) INSTANCE(rows, BF16)
#define TABLE(what, rows) {what##_##rows##_F32, what##_##rows##_F16, what##_##rows##_BF16}

INSTANCES(1)
INSTANCES(2)
INSTANCES(4)
#ifdef PKVI_LEVEL_AVX512
INSTANCES(8)
static qk_function* const qk_table[][3] = {TABLE(qk, 1), TABLE(qk, 2), TABLE(qk, 4), TABLE(qk, 8)};
static pv_function* const pv_table[][3] = {TABLE(pv, 1), TABLE(pv, 2), TABLE(pv, 4), TABLE(pv, 8)};
#else
static qk_function* const qk_table[][3] = {TABLE(qk, 1), TABLE(qk, 2), TABLE(qk, 4)};
static pv_function* const pv_table[][3] = {TABLE(pv, 1), TABLE(pv, 2), TABLE(pv, 4)};
#endif

/* ---- Masks and softmax ----------------------------------------------------------------------- */

/* Can a row at `position` see all of [begin, end)? */
static bool sees_all(const pkv_group_config* group, uint32_t position, uint32_t begin,
                     uint32_t end) {
    if (end > position + 1) return false;
    return group->window == 0 || end <= group->sinks || position - begin < group->window;
}

/* Can any row at a position in [low, high] see any of [begin, end)? */
static bool sees_any(const pkv_group_config* group, uint32_t low, uint32_t high, uint32_t begin,
                     uint32_t end) {
    if (begin > high) return false;
    if (group->window == 0) return true;
    return begin < group->sinks || end - 1 + group->window > low;
}

static vi positions_from(uint32_t begin) {
    vi result;
    for (int i = 0; i < WIDTH; i++)
        result[i] = (int32_t)begin + i;
    return result;
}

static vi visible_lanes(const pkv_group_config* group, vi positions, uint32_t position) {
    vi visible = positions <= (int32_t)position;
    if (group->window > 0) {
        const vi in_window = positions > (int32_t)position - (int32_t)group->window;
        visible &= in_window | (positions < (int32_t)group->sinks);
    }
    return visible;
}

/* Soft cap and mask for the 16 scores of one row and tile that begins at `begin`. */
static void shape_scores(const struct context* context, uint32_t row, uint32_t begin,
                         float* scores) {
    const pkv_group_config* group = &context->job->layout->group;
    const uint32_t position = position_of(context, row);
    const float cap = context->job->softcap;
    const bool all = sees_all(group, position, begin, begin + PKVI_TILE_TOKENS);
    if (all && cap == 0.0F) return;
    for (int lane = 0; lane < PKVI_TILE_TOKENS; lane += WIDTH) {
        vf score = v_load(scores + lane);
        if (cap > 0.0F) score = v_tanh(score / cap) * cap;
        const vi visible = visible_lanes(group, positions_from(begin + (uint32_t)lane), position);
        v_store(scores + lane, v_select(visible, score, v_set(-INFINITY)));
    }
}

/* Turn the scores of one row into weights relative to the new maximum; returns what the sums so far
 * are to be multiplied with. A row that sees nothing of the chunk keeps its state, bit for bit. */
static float softmax_row(const struct context* context, float* scores, float* state) {
    vf highest = v_load(scores);
    for (int i = WIDTH; i < PKVI_CHUNK_TOKENS; i += WIDTH)
        highest = v_max(highest, v_load(scores + i));
    float* const max = state_max(context, state);
    float* const sum = state_sum(context, state);
    const float chunk_max = v_reduce_max(highest);
    if (chunk_max == -INFINITY) {
        memset(scores, 0, PKVI_CHUNK_TOKENS * sizeof *scores);
        return 1.0F;
    }
    const float new_max = chunk_max > *max ? chunk_max : *max;
    vf total = v_set(0.0F);
    for (int i = 0; i < PKVI_CHUNK_TOKENS; i += WIDTH) {
        const vf weight = v_exp(v_load(scores + i) - new_max);
        v_store(scores + i, weight);
        total += weight;
    }
    const float correction = v_exp(v_set(*max - new_max))[0];
    *sum = *sum * correction + v_reduce_add(total);
    *max = new_max;
    return correction;
}

/* ---- One chunk ------------------------------------------------------------------------------- */

static int log2_rows(uint32_t count) {
    int log2 = 0;
    while ((2U << log2) <= count && (2 << log2) <= ROWS_MAX)
        log2++;
    return log2;
}

/* Up to ROWS_MAX rows against one chunk; `next` is the same head's next chunk, for prefetching. */
static void attend_rows(const struct context* context, const struct chunk* chunk,
                        const struct chunk* next, const struct rows* rows, int log2) {
    float scores[ROWS_MAX * PKVI_CHUNK_TOKENS] __attribute__((aligned(64)));
    float corrections[ROWS_MAX];
    for (int t = 0; t < PKVI_CHUNK_TILES; t++) {
        const struct tile* tile = &chunk->tiles[t];
        const uint32_t begin = chunk->begin + (uint32_t)t * PKVI_TILE_TOKENS;
        float* tile_scores = scores + t * PKVI_TILE_TOKENS;
        if (tile->tokens > 0)
            qk_table[log2][chunk->k_dtype](rows->q, context->key_dim, tile->k, next->tiles[t].k,
                                           context->job->scale, tile_scores);
        for (uint32_t r = 0; r < rows->count; r++) {
            float* row_scores = tile_scores + r * PKVI_CHUNK_TOKENS;
            for (int i = 0; tile->tokens == 0 && i < PKVI_TILE_TOKENS; i++)
                row_scores[i] = -INFINITY;
            if (tile->tokens > 0) shape_scores(context, rows->row + r, begin, row_scores);
        }
    }
    for (uint32_t r = 0; r < rows->count; r++)
        corrections[r] = softmax_row(context, scores + r * PKVI_CHUNK_TOKENS,
                                     rows->states + (size_t)r * context->state_floats);
    pv_table[log2][chunk->v_dtype](context, chunk, scores, corrections, rows->states);
}

static bool row_range_sees(const struct context* context, const struct chunk* chunk, uint32_t row,
                           uint32_t count) {
    return sees_any(&context->job->layout->group, position_of(context, row),
                    position_of(context, row + count - 1), chunk->begin,
                    chunk->begin + PKVI_CHUNK_TOKENS);
}

/* All rows of one KV head of the item against one chunk. `index` counts the item's KV heads. */
static void attend_chunk(const struct context* context, const struct chunk* chunk,
                         const struct chunk* next, uint32_t index) {
    const struct pkvi_item* item = context->item;
    const size_t base = (size_t)index * item->rows;
    for (uint32_t done = 0; done < item->rows;) {
        const int log2 = log2_rows(item->rows - done);
        const struct rows rows = {
            .q = context->workspace->q + (base + done) * context->key_dim,
            .states = context->workspace->split + (base + done) * context->state_floats,
            .row = item->row + done,
            .count = 1U << log2,
        };
        if (row_range_sees(context, chunk, rows.row, rows.count))
            attend_rows(context, chunk, done == 0 ? next : chunk, &rows, log2);
        done += rows.count;
    }
}

/* ---- Where a chunk's tiles are --------------------------------------------------------------- */

static uint32_t tile_tokens(const struct context* context, uint32_t begin) {
    const struct pkvi_item* item = context->item;
    const uint32_t low = position_of(context, item->row);
    const uint32_t high = position_of(context, item->row + item->rows - 1);
    if (begin >= context->end) return 0;
    if (!sees_any(&context->job->layout->group, low, high, begin, begin + PKVI_TILE_TOKENS))
        return 0;
    const uint32_t rest = context->end - begin;
    return rest < PKVI_TILE_TOKENS ? rest : PKVI_TILE_TOKENS;
}

/* Tiles that lie whole in a block are used where they are. */
static void locate_tile(const struct context* context, uint32_t kv_head, uint32_t begin,
                        struct tile* tile) {
    const struct pkvi_attend_job* job = context->job;
    const pkv_group_config* group = &job->layout->group;
    const uint32_t block = context->pages[begin / group->block_tokens];
    const size_t offset = begin % group->block_tokens;
    tile->k = pkvi_packed_head(job->layout, job->space, job->layer, block, kv_head, false) +
              offset * group->key_dim * pkvi_dtype_bytes(group->k_dtype);
    tile->v = pkvi_packed_head(job->layout, job->space, job->layer, block, kv_head, true) +
              offset * group->value_dim * pkvi_dtype_bytes(group->v_dtype);
}

/* Tiles of small blocks are gathered, token by token, as f32. Tokens that may not be read become
 * zeros. */
static void gather_tile(const struct context* context, uint32_t kv_head, uint32_t begin, float* k,
                        float* v, struct tile* tile) {
    const struct pkvi_attend_job* job = context->job;
    const pkv_group_config* group = &job->layout->group;
    memset(k, 0, (size_t)PKVI_TILE_TOKENS * group->key_dim * sizeof *k);
    memset(v, 0, (size_t)PKVI_TILE_TOKENS * group->value_dim * sizeof *v);
    for (uint32_t t = 0; t < tile->tokens; t++) {
        const uint32_t block = context->pages[(begin + t) / group->block_tokens];
        const uint32_t token = (begin + t) % group->block_tokens;
        if (block == PKV_NO_BLOCK) continue;
        const unsigned char* from_k =
            pkvi_packed_head(job->layout, job->space, job->layer, block, kv_head, false);
        const unsigned char* from_v =
            pkvi_packed_head(job->layout, job->space, job->layer, block, kv_head, true);
        for (uint32_t d = 0; d < group->key_dim; d++)
            k[d * PKVI_TILE_TOKENS + t] =
                pkvi_element_get(from_k, pkvi_packed_k(group, token, d), group->k_dtype);
        for (uint32_t d = 0; d < group->value_dim; d++)
            v[t * group->value_dim + d] =
                pkvi_element_get(from_v, pkvi_packed_v(group, token, d), group->v_dtype);
    }
    tile->k = (const unsigned char*)k;
    tile->v = (const unsigned char*)v;
}

static void locate_chunk(const struct context* context, uint32_t kv_head, uint32_t begin,
                         struct chunk* chunk) {
    const pkv_group_config* group = &context->job->layout->group;
    const bool is_gathered = group->block_tokens < PKVI_TILE_TOKENS;
    const size_t k_floats = (size_t)PKVI_TILE_TOKENS * context->key_dim;
    const size_t v_floats = (size_t)PKVI_TILE_TOKENS * context->value_dim;
    float* room = context->workspace->tiles;
    chunk->begin = begin;
    chunk->k_dtype = is_gathered ? PKV_F32 : group->k_dtype;
    chunk->v_dtype = is_gathered ? PKV_F32 : group->v_dtype;
    for (int t = 0; t < PKVI_CHUNK_TILES; t++) {
        struct tile* tile = &chunk->tiles[t];
        const uint32_t tile_begin = begin + (uint32_t)t * PKVI_TILE_TOKENS;
        *tile = (struct tile){.tokens = tile_tokens(context, tile_begin)};
        if (tile->tokens == 0) continue;
        if (!is_gathered) {
            locate_tile(context, kv_head, tile_begin, tile);
        } else {
            gather_tile(context, kv_head, tile_begin, room, room + k_floats, tile);
            room += k_floats + v_floats;
        }
    }
}

/* Where to prefetch from while `chunk` is computed: the next one where it can be told, else the
 * chunk itself. */
static void locate_next(const struct context* context, uint32_t kv_head, uint32_t begin,
                        const struct chunk* chunk, struct chunk* next) {
    *next = *chunk;
    if (context->job->layout->group.block_tokens < PKVI_TILE_TOKENS) return;
    for (int t = 0; t < PKVI_CHUNK_TILES; t++) {
        const uint32_t tile_begin = begin + (uint32_t)t * PKVI_TILE_TOKENS;
        if (tile_tokens(context, tile_begin) == 0) continue;
        locate_tile(context, kv_head, tile_begin, &next->tiles[t]);
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
        for (uint32_t r = 0; r < context->item->rows; r++) {
            const uint32_t row = context->item->row + r;
            for (uint32_t d = 0; d < context->key_dim; d++)
                *q++ = pkvi_array_get(&context->job->q, array_row(context, row),
                                      query_head(context, index, row), d);
        }
}

static void clear_states(const struct context* context, float* states, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float* state = states + i * context->state_floats;
        memset(state, 0, context->state_floats * sizeof *state);
        *state_max(context, state) = -INFINITY;
    }
}

/* Merge the state of a split into the sum of those before it. */
static void merge_state(const struct context* context, float* sum, const float* split) {
    float* const max = state_max(context, sum);
    const float split_max = split[context->value_dim];
    if (split_max == -INFINITY) return;
    const float new_max = split_max > *max ? split_max : *max;
    const float keep = v_exp(v_set(*max - new_max))[0];
    const float take = v_exp(v_set(split_max - new_max))[0];
    for (uint32_t d = 0; d < context->value_dim; d += WIDTH)
        v_store(sum + d, v_load(sum + d) * keep + v_load(split + d) * take);
    *state_sum(context, sum) =
        *state_sum(context, sum) * keep + split[context->value_dim + 1] * take;
    *max = new_max;
}

static void merge_states(const struct context* context, float* sums, const float* splits,
                         size_t count) {
    for (size_t i = 0; i < count; i++)
        merge_state(context, sums + i * context->state_floats, splits + i * context->state_floats);
}

static void write_row(const struct context* context, uint32_t index, uint32_t row, float* state) {
    const struct pkvi_attend_job* job = context->job;
    const uint32_t to_row = array_row(context, row);
    const uint32_t head = query_head(context, index, row);
    const float sum = *state_sum(context, state);
    for (uint32_t d = 0; d < context->value_dim; d++)
        pkvi_array_set(&job->out, to_row, head, d, state[d] / sum);
    if (job->lse != NULL)
        job->lse[(size_t)to_row * job->query_heads + head] = *state_max(context, state) + logf(sum);
}

static void write_rows(const struct context* context, float* states) {
    for (uint32_t index = 0; index < context->item->kv_heads; index++)
        for (uint32_t r = 0; r < context->item->rows; r++, states += context->state_floats)
            write_row(context, index, context->item->row + r, states);
}

/* ---- Items ----------------------------------------------------------------------------------- */

static struct context make_context(const struct pkvi_attend_job* job, const struct pkvi_item* item,
                                   const struct pkvi_workspace* workspace) {
    const pkv_group_config* group = &job->layout->group;
    struct context context = {
        .job = job,
        .item = item,
        .workspace = workspace,
        .pages = job->block_table + (size_t)item->entry * job->table_stride,
        .key_dim = group->key_dim,
        .value_dim = group->value_dim,
        .state_floats = pkvi_state_floats(group->value_dim),
        .group_heads = job->query_heads / group->kv_heads,
    };
    const uint32_t new_tokens = job->starts[item->entry + 1] - job->starts[item->entry];
    context.first_position = job->lengths[item->entry] - new_tokens;
    context.end = position_of(&context, item->row + item->rows - 1) + 1;
    return context;
}

/* A block's slab is visited once for all KV heads of the item. */
static void attend_split(const struct context* context, uint32_t begin, uint32_t end) {
    for (uint32_t at = begin; at < end; at += PKVI_CHUNK_TOKENS)
        for (uint32_t index = 0; index < context->item->kv_heads; index++) {
            const uint32_t kv_head = context->item->kv_head + index;
            struct chunk chunk;
            struct chunk next;
            locate_chunk(context, kv_head, at, &chunk);
            locate_next(context, kv_head, at + PKVI_CHUNK_TOKENS, &chunk, &next);
            attend_chunk(context, &chunk, &next, index);
        }
}

static void attend(const struct pkvi_attend_job* job, const struct pkvi_item* item,
                   const struct pkvi_workspace* workspace) {
    const struct context context = make_context(job, item, workspace);
    const size_t count = (size_t)item->rows * item->kv_heads;
    load_queries(&context);
    clear_states(&context, workspace->sum, count);
    for (uint32_t split = item->split_begin; split < item->split_end; split++) {
        const uint32_t begin = split * PKVI_SPLIT_TOKENS;
        const uint32_t rest = begin < context.end ? context.end - begin : 0;
        const uint32_t tokens = rest < PKVI_SPLIT_TOKENS ? rest : PKVI_SPLIT_TOKENS;
        clear_states(&context, workspace->split, count);
        attend_split(&context, begin, begin + tokens);
        if (item->partial == NULL) merge_states(&context, workspace->sum, workspace->split, count);
    }
    if (item->partial == NULL)
        write_rows(&context, workspace->sum);
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
    write_rows(&context, workspace->sum);
}
