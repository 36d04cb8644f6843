/* test_packed.c - writing K and V at every instruction set level: each byte stands where packed.h
 * says, and is what the scalar codec makes of the row; nothing else is touched; reading gives what
 * the reference reads.
 *
 * The places are computed here once more, from the drawing in packed.h, and not by its functions.
 * Lengths and first slots are drawn so that whole tiles, pieces of tiles and single tokens occur, in
 * blocks of every size. */
#include "kernel/rig.h"

#include "base/hash.h"
#include "device/cpu/quantise.h"
#include "unit.h"

enum { CASES = 400, BLOCKS = 6, LAYERS = 2, TOKENS_MAX = 4 * PKV_BLOCK_TOKENS_MAX };

struct problem {
    struct shape shape; /* geometry and types; one entry */
    struct pkvi_layout layout;
    struct cells k;
    struct cells v;
    uint32_t tokens;
    uint32_t slots[TOKENS_MAX];
    struct pkvi_space space;
};

static uint32_t below(uint64_t* random, uint32_t limit) {
    return (uint32_t)(pkvi_random_next(random) % limit);
}

/* ---- Problems -------------------------------------------------------------------------------- */

static void draw_group(pkv_group_config* group, uint64_t* random) {
    *group = (pkv_group_config){
        .layers = LAYERS,
        .kv_heads = 1 + below(random, 3),
        .key_dim = 16 * (1 + below(random, 16)),
        .value_dim = 16 * (1 + below(random, 16)),
        .k_dtype = below(random, PKV_I4 + 1),
        .v_dtype = below(random, PKV_I4 + 1),
        .block_tokens = 1U << below(random, 9),
    };
    if (pkvi_dtype_is_scaled(group->k_dtype) || pkvi_dtype_is_scaled(group->v_dtype))
        group->block_tokens = 16U << below(random, 5);
}

/* One run of positions through blocks in an odd order, starting anywhere in the first. */
static void draw_slots(struct problem* problem, uint64_t* random) {
    const uint32_t block_tokens = problem->shape.group.block_tokens;
    const uint32_t first = below(random, block_tokens);
    const uint32_t room = (BLOCKS - 1) * block_tokens - first;
    const uint32_t most = room < TOKENS_MAX ? room : TOKENS_MAX;
    problem->tokens = 1 + below(random, below(random, 2) ? most : (most < 4 ? most : 4));
    for (uint32_t i = 0; i < problem->tokens; i++) {
        const uint32_t block = (5 * ((first + i) / block_tokens) + 2) % BLOCKS;
        problem->slots[i] = block * block_tokens + (first + i) % block_tokens;
    }
}

static void fill(const struct cells* cells, uint64_t* random) {
    const uint32_t kind = below(random, 4);
    for (uint32_t row = 0; row < cells->rows; row++) {
        const float size = kind == 0 ? 1.0F : ldexpf(1.0F, (int)below(random, 16) - 10);
        for (uint32_t head = 0; head < cells->heads; head++)
            for (uint32_t d = 0; d < cells->dim; d++) {
                const float uniform = (float)below(random, 1 << 20) / 0x1p19F - 1.0F;
                const bool is_zero = kind == 2 && below(random, 40) > 0;
                const float offset = kind == 3 ? (float)(d % 7) : 0.0F;
                pkvi_array_set(&cells->array, row, head, d,
                               is_zero ? 0.0F : size * (uniform + offset));
            }
    }
}

static void open_problem(struct problem* problem, uint64_t seed) {
    uint64_t random = seed;
    memset(problem, 0, sizeof *problem);
    pkv_group_config* group = &problem->shape.group;
    draw_group(group, &random);
    draw_slots(problem, &random);
    problem->shape.entry_count = 1;
    problem->shape.entries[0] = (struct entry){1, problem->tokens, problem->tokens};
    problem->shape.threads = 1 + below(&random, 3);
    ASSERT(pkvi_layout_init(&problem->layout, group));
    const uint32_t dtype = below(&random, 3);
    const uint32_t pad = below(&random, 3) * below(&random, 9);
    const bool head_major = below(&random, 3) == 0;
    problem->k =
        cells_open(problem->tokens, group->kv_heads, group->key_dim, dtype, pad, head_major);
    problem->v = cells_open(problem->tokens, group->kv_heads, group->value_dim,
                            below(&random, 3) ? dtype : below(&random, 3), pad, head_major);
    fill(&problem->k, &random);
    fill(&problem->v, &random);
    void* base;
    ASSERT_EQ(posix_memalign(&base, 64, BLOCKS * problem->layout.block_bytes), 0);
    problem->space = (struct pkvi_space){base, BLOCKS * problem->layout.block_bytes,
                                         problem->layout.block_bytes, BLOCKS};
    memset(base, 0xff, problem->space.extent_bytes);
}

static void close_problem(struct problem* problem) {
    cells_close(&problem->k);
    cells_close(&problem->v);
    free(problem->space.base);
}

static struct pkvi_kv_job job_of(const struct problem* problem, struct pkvi_space* space) {
    return (struct pkvi_kv_job){
        &problem->layout, space, LAYERS - 1, problem->tokens, problem->slots, problem->k.array,
        problem->v.array, 0,     NULL};
}

/* ---- The drawing ----------------------------------------------------------------------------- */

struct side {
    const pkv_group_config* group;
    uint32_t dtype;
    uint32_t dim;
    bool is_value;
};

/* Bytes of one element, and where element d of a token is, in elements: the plain types, and pairs
 * [dim/2][tile][2] and [token/2][dim][2]. */
static uint64_t element_at(const struct side* side, uint32_t token, uint32_t d) {
    const uint32_t tile = side->group->block_tokens < 16 ? side->group->block_tokens : 16;
    const bool in_pairs = side->dtype != PKV_F32 && side->dtype != PKV_F16;
    if (side->is_value && in_pairs && side->group->block_tokens > 1)
        return (uint64_t)(token - token % 2) * side->dim + 2 * d + token % 2;
    if (side->is_value) return (uint64_t)token * side->dim + d;
    const uint64_t before = (uint64_t)(token - token % tile) * side->dim;
    if (in_pairs) return before + (d - d % 2) * tile + 2 * (token % tile) + d % 2;
    return before + d * tile + token % tile;
}

static uint64_t word_at(const struct side* side, uint32_t token, uint32_t d) {
    if (side->is_value) return (uint64_t)(token / 8) * side->dim + d;
    return (uint64_t)(token / 16) * 16 * (side->dim / 8) + d / 8 * 16 + token % 16;
}

static void put_i4(const struct side* side, unsigned char* piece, uint32_t token,
                   const unsigned char* codes, const struct pkvi_scale* scales) {
    static const uint32_t shifts[] = {0, 16, 4, 20, 8, 24, 12, 28};
    uint32_t* words = (uint32_t*)(void*)piece;
    for (uint32_t d = 0; d < side->dim; d++) {
        const uint32_t shift = shifts[(side->is_value ? token : d) % 8];
        uint32_t* word = &words[word_at(side, token, d)];
        *word = (*word & ~(15U << shift)) | (uint32_t)codes[d] << shift;
    }
    const uint32_t groups = (side->dim + 31) / 32;
    uint16_t* halves =
        (uint16_t*)(void*)(piece + (size_t)side->group->block_tokens * side->dim / 2);
    for (uint32_t g = 0; g < groups; g++) {
        uint16_t* at = halves + (token / 16 * groups + g) * 32 + token % 16;
        at[0] = pkvi_float_to_f16(scales[g].scale);
        at[16] = pkvi_float_to_f16(scales[g].minimum);
    }
}

static void put_row(const struct side* side, unsigned char* piece, uint32_t token,
                    const float* row) {
    if (side->dtype <= PKV_BF16) {
        for (uint32_t d = 0; d < side->dim; d++)
            pkvi_element_set(piece, element_at(side, token, d), side->dtype, row[d]);
        return;
    }
    unsigned char codes[PKV_HEAD_DIM_MAX];
    struct pkvi_scale scales[PKVI_SCALE_GROUPS_MAX];
    ASSERT(pkvi_quantise(side->dtype, row, side->dim, codes, scales));
    if (side->dtype == PKV_I4) {
        put_i4(side, piece, token, codes, scales);
        return;
    }
    for (uint32_t d = 0; d < side->dim; d++)
        piece[element_at(side, token, d)] = codes[d];
    float* floats = (float*)(void*)(piece + (size_t)side->group->block_tokens * side->dim);
    floats[token] = scales->scale;
}

static void put_side(const struct problem* problem, unsigned char* base, bool is_value) {
    const pkv_group_config* group = &problem->shape.group;
    const struct pkvi_layout* layout = &problem->layout;
    const struct cells* cells = is_value ? &problem->v : &problem->k;
    const struct side side = {group, is_value ? group->v_dtype : group->k_dtype,
                              is_value ? group->value_dim : group->key_dim, is_value};
    for (uint32_t i = 0; i < problem->tokens; i++)
        for (uint32_t head = 0; head < group->kv_heads; head++) {
            const uint32_t block = problem->slots[i] / group->block_tokens;
            unsigned char* piece =
                base + block * layout->block_bytes + (LAYERS - 1) * layout->layer_bytes;
            piece += is_value ? layout->v_offset + head * layout->v_head_bytes
                              : head * layout->k_head_bytes;
            float row[PKV_HEAD_DIM_MAX];
            for (uint32_t d = 0; d < side.dim; d++)
                row[d] = pkvi_array_get(&cells->array, i, head, d);
            put_row(&side, piece, problem->slots[i] % group->block_tokens, row);
        }
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void print_problem(const struct problem* problem, uint64_t seed, const char* isa) {
    const pkv_group_config* group = &problem->shape.group;
    printf("  seed %llu, level %s: types %u/%u dims %u/%u heads %u block_tokens %u tokens %u from "
           "slot %u, arrays %u/%u, threads %u\n",
           (unsigned long long)seed, isa, group->k_dtype, group->v_dtype, group->key_dim,
           group->value_dim, group->kv_heads, group->block_tokens, problem->tokens,
           problem->slots[0], problem->k.array.dtype, problem->v.array.dtype,
           problem->shape.threads);
}

TEST(every_byte_stands_where_it_belongs) {
    static const pkv_parallel_hook no_hook = {NULL, NULL};
    const char* const* levels = rig_levels(NULL);
    for (uint64_t seed = 1; seed <= CASES; seed++) {
        struct problem problem;
        open_problem(&problem, seed);
        unsigned char* wanted = malloc(problem.space.extent_bytes);
        ASSERT(wanted != NULL);
        memset(wanted, 0xff, problem.space.extent_bytes);
        put_side(&problem, wanted, false);
        put_side(&problem, wanted, true);
        for (int level = 0; levels[level] != NULL; level++) {
            struct rig rig;
            rig_open(&rig, &problem.shape, levels[level], problem.shape.threads, no_hook);
            memset(problem.space.base, 0xff, problem.space.extent_bytes);
            const struct pkvi_kv_job job = job_of(&problem, &problem.space);
            ASSERT_OK(rig_write(&rig, &job));
            if (memcmp(problem.space.base, wanted, problem.space.extent_bytes) != 0)
                print_problem(&problem, seed, levels[level]);
            ASSERT_MEM(problem.space.base, wanted, problem.space.extent_bytes);
            rig_close(&rig);
        }
        free(wanted);
        close_problem(&problem);
    }
}

/* In every type of array, with padding, both sides and each alone. */
TEST(what_is_read_is_what_the_reference_reads) {
    static const pkv_parallel_hook no_hook = {NULL, NULL};
    const char* const* levels = rig_levels(NULL);
    for (uint64_t seed = 1; seed <= CASES; seed++) {
        struct problem problem;
        open_problem(&problem, seed);
        struct pkvi_space plain = problem.space;
        plain.base = malloc(plain.extent_bytes);
        ASSERT(plain.base != NULL);
        memset(plain.base, 0xff, plain.extent_bytes);
        struct pkvi_kv_job job = job_of(&problem, &plain);
        ASSERT_OK(pkvi_reference_write(&job));
        const struct cells* sides[] = {&problem.k, &problem.v};
        struct cells got[2];
        struct cells wanted[2];
        for (int s = 0; s < 2; s++) {
            const uint32_t dtype = (uint32_t)(seed / 3 % 3);
            got[s] = cells_open(problem.tokens, sides[s]->heads, sides[s]->dim, dtype, 3, false);
            wanted[s] = cells_open(problem.tokens, sides[s]->heads, sides[s]->dim, dtype, 3, false);
        }
        job.k = wanted[0].array;
        job.v = wanted[1].array;
        ASSERT_OK(pkvi_reference_read(&job));
        for (int level = 0; levels[level] != NULL; level++) {
            struct rig rig;
            rig_open(&rig, &problem.shape, levels[level], problem.shape.threads, no_hook);
            job = job_of(&problem, &problem.space);
            ASSERT_OK(rig_write(&rig, &job));
            job.k = got[0].array;
            job.v = got[1].array;
            if (seed % 3 == 1) job.k.data = NULL;
            if (seed % 3 == 2) job.v.data = NULL;
            ASSERT_OK(rig.device->ops->read(rig.device, &job));
            if (seed % 3 != 1) ASSERT_MEM(got[0].array.data, wanted[0].array.data, got[0].bytes);
            if (seed % 3 != 2) ASSERT_MEM(got[1].array.data, wanted[1].array.data, got[1].bytes);
            rig_close(&rig);
        }
        for (int s = 0; s < 2; s++) {
            cells_close(&got[s]);
            cells_close(&wanted[s]);
        }
        free(plain.base);
        close_problem(&problem);
    }
}

/* One bad number anywhere, on either side, in whole tiles and pieces of them. */
TEST(numbers_that_are_not_finite_are_refused) {
    static const pkv_parallel_hook no_hook = {NULL, NULL};
    static const float bad[] = {NAN, INFINITY, -INFINITY, 0x1.fffffep127F};
    const char* const* levels = rig_levels(NULL);
    for (uint64_t seed = 1; seed <= CASES; seed++) {
        struct problem problem;
        uint64_t random = seed;
        open_problem(&problem, seed);
        struct cells* cells = seed % 2 ? &problem.k : &problem.v;
        const uint32_t dtype = seed % 2 ? problem.shape.group.k_dtype : problem.shape.group.v_dtype;
        const float number = bad[below(&random, cells->array.dtype == PKV_F32 ? 4 : 3)];
        pkvi_array_set(&cells->array, below(&random, cells->rows), below(&random, cells->heads),
                       below(&random, cells->dim), number);
        const bool is_refused = !isfinite(number) || dtype != PKV_F32;
        for (int level = 0; levels[level] != NULL; level++) {
            struct rig rig;
            rig_open(&rig, &problem.shape, levels[level], problem.shape.threads, no_hook);
            const struct pkvi_kv_job job = job_of(&problem, &problem.space);
            const int status = rig_write(&rig, &job);
            if ((status == PKV_ENONFINITE) != is_refused)
                print_problem(&problem, seed, levels[level]);
            ASSERT_STATUS(status, is_refused ? PKV_ENONFINITE : PKV_OK);
            ASSERT_STATUS(pkvi_reference_write(&job), status);
            rig_close(&rig);
        }
        close_problem(&problem);
    }
}
