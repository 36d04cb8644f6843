/* test_kernels.c - every kernel at every instruction set level against the scalar reference, on
 * random shapes.
 *
 *   test_kernels [--shapes N] [--seed S] [--isa LEVEL]
 *
 * Every fourth shape has token trees among its sequences.
 *
 * For each shape: the cache is written by the device and read back exactly; unnamed blocks are
 * untouched; attention is compared with the reference, which computes from the same stored values;
 * padding of arrays is untouched. One JSON line per level and cache type says how far off the worst
 * shape was. A difference prints the shape and the command that repeats it.
 *
 * The canaries come first: mistakes of the kind that kernels make, planted by changing the
 * question, have to be seen by the same comparison. */
#include "kernel/rig.h"

#include "device/cpu/quantise.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHAPES_DEFAULT = 2000 };

enum { DTYPES = PKV_I4 + 1 };

static const pkv_parallel_hook no_hook = {NULL, NULL};

/* The reference computes from the same stored values, so that what is left is the arithmetic. That
 * is f32 but at level avx512bf16, where queries multiply K, and weights V, in fewer bits: 8 of bf16
 * for fp8 always and for bf16 when the queries are bf16 themselves (twice 8 otherwise), 16 for i8 and
 * i4. An error of a score grows with the score. */
static double arithmetic_limit(uint32_t dtype, uint32_t q_dtype, const char* isa) {
    if (dtype == PKV_F32) return 1e-11;
    if (dtype == PKV_F16 || strcmp(isa, "avx512bf16") != 0) return 1e-10;
    if (dtype == PKV_BF16) return q_dtype == PKV_BF16 ? 1e-5 : 1e-9;
    return dtype == PKV_I8 || dtype == PKV_I4 ? 1e-7 : 1e-5;
}

static double cache_limit(const struct shape* shape, bool is_value, const char* isa) {
    if (is_value) return arithmetic_limit(shape->group.v_dtype, shape->q_dtype, isa);
    const double steepness = (double)(shape->spread * shape->spread);
    return arithmetic_limit(shape->group.k_dtype, shape->q_dtype, isa) * steepness;
}

/* Errors of K, of V and of the output's own rounding are independent: their squares add up. */
static double nmse_limit(const struct shape* shape, const char* isa) {
    static const double out_limits[] = {0.0, 1e-6, 1e-5};
    return cache_limit(shape, false, isa) + cache_limit(shape, true, isa) +
           out_limits[shape->out_dtype];
}

/* NaN differs from everything, so that it is caught by "not within". */
static bool is_within(struct difference difference, double limit) {
    return difference.nmse <= limit && difference.lse_nmse <= limit;
}

/* ---- Write and read -------------------------------------------------------------------------- */

/* What a row becomes in a cache of type `dtype`. */
static void round_row(uint32_t dtype, float* row, uint32_t dim) {
    unsigned char codes[PKV_HEAD_DIM_MAX];
    struct pkvi_scale scales[PKVI_SCALE_GROUPS_MAX];
    const bool is_scaled = pkvi_dtype_is_scaled(dtype);
    if (is_scaled && !pkvi_quantise(dtype, row, dim, codes, scales)) row[0] = NAN;
    for (uint32_t d = 0; d < dim; d++)
        row[d] = is_scaled ? pkvi_dequantise(dtype, codes[d], scales[pkvi_scale_index(dtype, d)])
                           : pkvi_element_round(row[d], dtype);
}

static bool is_stored(const struct shape* shape, const struct cells* cells, uint32_t who,
                      uint32_t begin, bool is_value) {
    const uint32_t dtype = is_value ? shape->group.v_dtype : shape->group.k_dtype;
    for (uint32_t i = 0; i < cells->rows; i++)
        for (uint32_t head = 0; head < cells->heads; head++) {
            float row[PKV_HEAD_DIM_MAX];
            for (uint32_t d = 0; d < cells->dim; d++)
                row[d] = pkvi_element_round(scene_value(shape, who, begin + i, head, d, is_value),
                                            shape->kv_dtype);
            round_row(dtype, row, cells->dim);
            for (uint32_t d = 0; d < cells->dim; d++)
                if (pkvi_float_bits(pkvi_array_get(&cells->array, i, head, d)) !=
                    pkvi_float_bits(row[d]))
                    return false;
        }
    return true;
}

/* Read the last tokens of each entry back: both sides, and each side alone. */
static const char* check_read(struct scene* scene, struct rig* rig) {
    const struct shape* shape = &scene->shape;
    const pkv_group_config* group = &shape->group;
    for (uint32_t e = 0; e < shape->entry_count; e++) {
        const struct entry* entry = &shape->entries[e];
        uint32_t slots[64];
        const uint32_t count = entry->fresh < 64 ? entry->fresh : 64;
        const uint32_t begin = entry->length - count;
        for (uint32_t i = 0; i < count; i++)
            slots[i] = scene_slot(scene, e, begin + i);
        struct cells k = cells_open(count, group->kv_heads, group->key_dim, PKV_F32,
                                    shape->pad_elements, shape->head_major);
        struct cells v = cells_open(count, group->kv_heads, group->value_dim, PKV_F32,
                                    shape->pad_elements, shape->head_major);
        struct pkvi_kv_job job = {&scene->layout,
                                  &scene->space,
                                  group->layers - 1,
                                  count,
                                  slots,
                                  k.array,
                                  v.array,
                                  0,
                                  NULL};
        if (e % 3 == 1) job.v.data = NULL;
        if (e % 3 == 2) job.k.data = NULL;
        const bool read = rig->device->ops->read(rig->device, &job) == PKV_OK;
        const bool k_right = e % 3 == 2 || is_stored(shape, &k, entry->who, begin, false);
        const bool v_right = e % 3 == 1 || is_stored(shape, &v, entry->who, begin, true);
        const bool padding = cells_padding_is_untouched(&k) && cells_padding_is_untouched(&v);
        cells_close(&k);
        cells_close(&v);
        if (!read || !k_right || !v_right) return "what was written is not what is read";
        if (!padding) return "read wrote between the elements of its arrays";
    }
    return NULL;
}

static bool is_named(const struct scene* scene, uint32_t block) {
    const size_t count = (size_t)scene->shape.entry_count * scene->table_stride;
    for (size_t i = 0; i < count; i++)
        if (scene->block_table[i] == block) return true;
    return false;
}

static const char* check_unnamed_blocks(const struct scene* scene) {
    for (uint32_t block = 0; block < scene->blocks; block++) {
        if (is_named(scene, block)) continue;
        const unsigned char* bytes = pkvi_space_block(&scene->space, block);
        for (uint64_t i = 0; i < scene->layout.block_bytes; i++)
            if (bytes[i] != 0xff) return "a block that nobody names was written";
    }
    return NULL;
}

/* ---- Attend ---------------------------------------------------------------------------------- */

/* The reference's answer; the caller closes it. */
static struct scene* reference_of(const struct shape* shape) {
    struct scene* scene = scene_open(shape, 1, rig_reference_write, NULL);
    const struct pkvi_attend_job job = scene_job(scene);
    if (pkvi_reference_attend(&job) != PKV_OK) {
        fprintf(stderr, "the reference refused a shape\n");
        exit(1);
    }
    return scene;
}

/* One shape at one level; NULL, or what is wrong with it. */
static const char* check_shape(const struct shape* shape, const char* isa,
                               const struct scene* reference, struct difference* difference) {
    struct rig rig;
    rig_open(&rig, shape, isa, shape->threads, no_hook);
    struct scene* scene = scene_open(shape, shape->seed ^ 2, rig_write, &rig);
    const struct pkvi_attend_job job = scene_job(scene);
    const uint64_t calls = rig.mem.calls;
    const char* wrong = check_unnamed_blocks(scene);
    if (wrong == NULL) wrong = check_read(scene, &rig);
    if (wrong == NULL && rig.device->ops->attend(rig.device, &job) != PKV_OK)
        wrong = "attend failed";
    *difference = rig_compare(scene, reference);
    if (wrong == NULL && !is_within(*difference, nmse_limit(shape, isa)))
        wrong = "the result is not near the reference";
    if (wrong == NULL && !cells_padding_is_untouched(&scene->out))
        wrong = "attend wrote between the elements of its output";
    if (wrong == NULL && rig.mem.calls != calls) wrong = "memory was taken after open";
    scene_close(scene);
    rig_close(&rig);
    return wrong;
}

struct tally {
    uint64_t shapes;
    double worst;
    double worst_lse;
    double limit;
};

static void add(struct tally* tally, struct difference difference, double limit) {
    tally->shapes++;
    tally->worst = fmax(tally->worst, difference.nmse);
    tally->worst_lse = fmax(tally->worst_lse, difference.lse_nmse);
    tally->limit = fmax(tally->limit, limit);
}

/* A shape counts for the type with the higher limit of its two, or the later one in the enum. */
static uint32_t tallied_dtype(const struct shape* shape, const char* isa) {
    const double k = cache_limit(shape, false, isa);
    const double v = cache_limit(shape, true, isa);
    if (k != v) return k > v ? shape->group.k_dtype : shape->group.v_dtype;
    return shape->group.k_dtype > shape->group.v_dtype ? shape->group.k_dtype
                                                       : shape->group.v_dtype;
}

static int run(uint64_t shapes, uint64_t seed, const char* const* levels) {
    struct tally tallies[RIG_LEVELS_MAX][DTYPES] = {0};
    for (uint64_t i = 0; i < shapes; i++) {
        struct shape shape = shape_random(seed + i);
        shape.trees = (seed + i) % 4 == 0;
        struct scene* reference = reference_of(&shape);
        for (int level = 0; levels[level] != NULL; level++) {
            struct difference difference;
            const char* wrong = check_shape(&shape, levels[level], reference, &difference);
            add(&tallies[level][tallied_dtype(&shape, levels[level])], difference,
                nmse_limit(&shape, levels[level]));
            if (wrong == NULL) continue;
            printf("level %s: %s (nmse %.3g, lse %.3g)\n", levels[level], wrong, difference.nmse,
                   difference.lse_nmse);
            shape_print(&shape);
            printf("again with: test_kernels --shapes 1 --seed %llu --isa %s\n",
                   (unsigned long long)(seed + i), levels[level]);
            return 1;
        }
        scene_close(reference);
    }
    for (int level = 0; levels[level] != NULL; level++)
        for (uint32_t dtype = 0; dtype < DTYPES; dtype++) {
            const struct tally* tally = &tallies[level][dtype];
            printf("{\"test\": \"kernels\", \"isa\": \"%s\", \"dtype\": \"%s\", \"shapes\": %llu, "
                   "\"worst_nmse\": %.3g, \"worst_lse_nmse\": %.3g, \"limit\": %.3g}\n",
                   levels[level], shape_dtype_names[dtype], (unsigned long long)tally->shapes,
                   tally->worst, tally->worst_lse, tally->limit);
        }
    return 0;
}

/* ---- Canaries -------------------------------------------------------------------------------- */

/* A wrong question: the answer to it must not pass for the answer to the right one. */
struct canary {
    const char* name;
    void (*plant)(struct scene* scene, struct pkvi_attend_job* job);
};

static void plant_scale(struct scene* scene, struct pkvi_attend_job* job) {
    (void)scene;
    job->scale *= 1.05F;
}

static void plant_window(struct scene* scene, struct pkvi_attend_job* job) {
    (void)job;
    scene->layout.group.window--;
}

static void plant_sinks(struct scene* scene, struct pkvi_attend_job* job) {
    (void)job;
    scene->layout.group.sinks++;
}

static void plant_softcap(struct scene* scene, struct pkvi_attend_job* job) {
    (void)scene;
    job->softcap = 0.0F;
}

static void plant_sink_logits(struct scene* scene, struct pkvi_attend_job* job) {
    (void)job;
    const float sink = scene->sink_logits[0];
    scene->sink_logits[0] = scene->sink_logits[1];
    scene->sink_logits[1] = sink;
}

static void plant_no_sink_logits(struct scene* scene, struct pkvi_attend_job* job) {
    (void)scene;
    job->sink_logits = NULL;
}

static void plant_page(struct scene* scene, struct pkvi_attend_job* job) {
    (void)job;
    const uint32_t page = scene->block_table[0];
    scene->block_table[0] = scene->block_table[1];
    scene->block_table[1] = page;
}

/* One token too many: the first one behind the sequence, which holds NaN. */
static void plant_length(struct scene* scene, struct pkvi_attend_job* job) {
    (void)job;
    scene->lengths[0]++;
}

/* The last token follows another one; it has still a parent before it. */
static void plant_parent(struct scene* scene, struct pkvi_attend_job* job) {
    const uint32_t last = job->starts[1] - 1;
    scene->parents[last] = scene->parents[last] == 0 ? 1 : 0;
}

/* All positions of the tree are right but one: its window is. */
static void plant_position(struct scene* scene, struct pkvi_attend_job* job) {
    scene->positions[job->starts[1] - 1]++;
}

static const struct canary tree_canaries[] = {
    {"another parent", plant_parent},
    {"a position one too high", plant_position},
};

static const struct canary canaries[] = {
    {"scale 5 % off", plant_scale},
    {"window one short", plant_window},
    {"one sink too many", plant_sinks},
    {"no soft cap", plant_softcap},
    {"two pages exchanged", plant_page},
    {"one token beyond the end", plant_length},
    {"two sinks exchanged", plant_sink_logits},
    {"no learned sink", plant_no_sink_logits},
};

/* Sees every planted mistake: 44 tokens, windowed, capped, in pages of 16. */
static struct shape canary_shape(uint32_t dtype) {
    return (struct shape){
        .seed = 11,
        .group = {.layers = 1,
                  .kv_heads = 1,
                  .key_dim = 32,
                  .value_dim = 32,
                  .block_tokens = 16,
                  .k_dtype = dtype,
                  .v_dtype = dtype,
                  .window = 30,
                  .sinks = 3},
        .entry_count = 1,
        .entries = {{1, 44, 1}},
        .query_heads = 2,
        .scale = 0.177F,
        .softcap = 2.0F,
        .spread = 1.0F,
        .has_sink_logits = true,
        .threads = 1,
    };
}

/* The same with a tree of six tokens. */
static struct shape canary_tree_shape(uint32_t dtype) {
    struct shape shape = canary_shape(dtype);
    shape.entries[0] = (struct entry){1, 44, 6};
    shape.trees = true;
    return shape;
}

static bool canary_is_seen(const struct canary* canary, struct shape shape, const char* isa) {
    struct rig rig;
    rig_open(&rig, &shape, isa, 1, no_hook);
    struct scene* reference = reference_of(&shape);
    struct scene* scene = scene_open(&shape, 5, rig_write, &rig);
    struct pkvi_attend_job job = scene_job(scene);
    if (canary != NULL) canary->plant(scene, &job);
    rig.device->ops->attend(rig.device, &job);
    const bool seen = !is_within(rig_compare(scene, reference), nmse_limit(&shape, isa));
    scene_close(scene);
    scene_close(reference);
    rig_close(&rig);
    return seen;
}

static int count_unseen(const struct canary* planted, size_t count, struct shape shape,
                        const char* isa) {
    int failures = canary_is_seen(NULL, shape, isa); /* nothing planted */
    for (size_t i = 0; i < count; i++) {
        if (canary_is_seen(&planted[i], shape, isa)) continue;
        printf("not seen: %s (%s, %s)\n", planted[i].name, isa,
               shape_dtype_names[shape.group.k_dtype]);
        failures++;
    }
    return failures;
}

static int run_canaries(const char* const* levels) {
    int failures = 0;
    for (int level = 0; levels[level] != NULL; level++)
        for (uint32_t dtype = 0; dtype < DTYPES; dtype++) {
            const struct shape chain = canary_shape(dtype);
            const struct shape tree = canary_tree_shape(dtype);
            failures +=
                count_unseen(canaries, sizeof canaries / sizeof *canaries, chain, levels[level]);
            failures += count_unseen(tree_canaries, sizeof tree_canaries / sizeof *tree_canaries,
                                     tree, levels[level]);
        }
    if (failures > 0) printf("canaries: %d failures\n", failures);
    return failures;
}

/* ---- Main ------------------------------------------------------------------------------------ */

int main(int argc, char** argv) {
    const char* const* levels = rig_levels(rig_word(argc, argv, "--isa", NULL));
    if (levels[0] == NULL) {
        printf("not run: this machine has no such level\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (run_canaries(levels) != 0) return 1;
    return run(rig_number(argc, argv, "--shapes", SHAPES_DEFAULT),
               rig_number(argc, argv, "--seed", 1), levels);
}
