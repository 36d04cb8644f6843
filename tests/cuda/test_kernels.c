/* test_kernels.c - the CUDA kernels, run by the emulator or (tests/gpu) by a GPU, against the scalar
 * reference on random shapes.
 *
 *   test_kernels [--shapes N] [--seed S] [--only SHAPE] [--blocks THREAD_BLOCKS]
 *
 * Sequences are split early (PKV_TINY), and partial results have the least memory that will do, so
 * that short sequences have splits and rounds.
 *
 * For each shape, some with token trees: write stores what the codec says, and read gives it back;
 * attention is compared with the reference, which computes from the same stored numbers; tokens move
 * as they do when paths are accepted; the same entries in another order
 * and in other blocks give the same bits. Memory that no sequence names is NaN, and beyond it none
 * can be touched. One JSON line per type says how far off the worst shape was. */
#include "kernel/rig.h"

#include "base/hash.h"
#include "device/cuda/arguments.h"
#include "device/cuda/nodes.h"
#include "device/cuda/split.h"
#include "device/cuda/system.h"
#include "emulator/control.h"
#include "kernel/memory.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHAPES_DEFAULT = 120, GRID_BLOCKS = 7 };

/* ---- Shapes ---------------------------------------------------------------------------------- */

static uint32_t pick(uint64_t* random, const uint32_t* from, uint32_t count) {
    return from[pkvi_random_next(random) % count];
}

static struct pkvi_gpu_types types_of(const struct shape* shape) {
    return (struct pkvi_gpu_types){shape->group.key_dim, shape->group.k_dtype,
                                   shape->group.v_dtype};
}

static bool may_be_trees(const struct shape* shape) {
    for (uint32_t e = 0; e < shape->entry_count; e++)
        if (shape->entries[e].fresh > PKV_TREE_TOKENS_MAX) return false;
    return true;
}

/* A shape that the device has kernels for, and of a cost that the emulator can bear. */
static struct shape draw_shape(uint64_t seed) {
    const uint32_t dims[] = {64, 64, 64, 96, 128, 128, 256};
    const uint32_t dtypes[] = {PKV_F16, PKV_BF16, PKV_I8, PKV_E4M3};
    const uint32_t pages[] = {16, 16, 16, 32, 64, 256};
    uint64_t random = seed ^ 0x5eed;
    for (uint64_t try = 0;; try++) {
        struct shape shape = shape_random(seed + (try << 32));
        uint64_t work = 0;
        shape.group.key_dim = shape.group.value_dim = pick(&random, dims, 7);
        shape.group.k_dtype = pick(&random, dtypes, 4);
        shape.group.v_dtype = pick(&random, dtypes, 4);
        shape.group.block_tokens = pick(&random, pages, 6);
        for (uint32_t e = 0; e < shape.entry_count; e++)
            work += (uint64_t)shape.entries[e].length *
                    (shape.entries[e].fresh * (shape.query_heads / shape.group.kv_heads) / 128 + 1);
        if (!pkvi_gpu_has_kernel(types_of(&shape))) continue;
        if (work * shape.group.kv_heads * shape.group.key_dim > 300000) continue;
        if (shape.query_heads / shape.group.kv_heads > 128) continue;
        shape.trees = seed % 3 == 0 && may_be_trees(&shape);
        if (shape.trees && shape.group.window > 0) /* that begins within the tree */
            shape.group.window = 1 + (uint32_t)(pkvi_random_next(&random) % 12);
        return shape;
    }
}

/* ---- Running kernels ------------------------------------------------------------------------- */

static struct pkvi_gpu_kv kv_of(const struct pkvi_kv_job* job) {
    return (struct pkvi_gpu_kv){
        .blocks = pkvi_gpu_blocks_of(job->layout, job->space, job->layer),
        .k = pkvi_gpu_array_of(&job->k),
        .v = pkvi_gpu_array_of(&job->v),
        .slots = job->slots,
        .tokens = job->tokens,
    };
}

static struct pkvi_gpu_stream* stream;
static uint32_t grid_blocks;

/* What is in the stream runs when it is waited for. */
static void finish(int status) {
    if (status == PKV_OK) status = pkvi_gpu_stream_wait(stream);
    if (status == PKV_OK) return;
    printf("a kernel failed: %s\n", pkv_status_name(status));
    exit(2);
}

static int write_rows(void* ctx, const struct pkvi_kv_job* job) {
    const struct pkvi_gpu_kv kv = kv_of(job);
    (void)ctx;
    finish(pkvi_gpu_launch_write(&kv, stream));
    return PKV_OK;
}

static void* take(size_t count, size_t size) {
    void* memory = memory_take(count * size);
    memset(memory, 0, count * size);
    return memory;
}

/* Memory of the device itself, where partial results pass between thread blocks as they do in use. */
static void* take_on_device(size_t bytes, bool is_zeroed) {
    void* memory;
    finish(pkvi_gpu_alloc(bytes, &memory));
    if (is_zeroed) finish(pkvi_gpu_zero(memory, bytes, stream));
    return memory;
}

static void attend(struct scene* scene) {
    const struct pkvi_attend_job job = scene_job(scene);
    const pkv_group_config* group = &job.layout->group;
    const uint32_t group_heads = job.query_heads / group->kv_heads;
    uint32_t* trees = take(job.entries, sizeof *trees);
    const uint64_t nodes_max = pkvi_gpu_nodes_max(job.entries, job.starts[job.entries]);
    struct pkvi_gpu_node* nodes = take(nodes_max, sizeof *nodes);
    if (job.trees != NULL) pkvi_gpu_nodes_fill(&job, trees, nodes);
    const struct pkvi_gpu_shape shape = {
        .entries = job.entries,
        .starts = job.starts,
        .lengths = job.lengths,
        .trees = job.trees != NULL ? trees : NULL,
        .kv_heads = group->kv_heads,
        .group_heads = group_heads,
        .window = group->window,
        .sinks = group->sinks,
    };
    uint32_t longest = 0;
    for (uint32_t e = 0; e < job.entries; e++)
        longest = job.lengths[e] > longest ? job.lengths[e] : longest;
    const struct pkvi_gpu_bounds bounds = pkvi_gpu_bounds_of(job.entries, job.starts[job.entries],
                                                             longest, group->kv_heads, group_heads);
    struct pkvi_gpu_work work = {
        .decode = take(bounds.decode_items, sizeof(struct pkvi_gpu_item)),
        .prefill = take(bounds.prefill_items, sizeof(struct pkvi_gpu_item)),
        .round_ends = take(job.entries, sizeof(uint32_t)),
        .partial_rows = (uint32_t)bounds.entry_partial_rows,
    };
    pkvi_gpu_split(&shape, &work);
    const size_t merges_bytes = (work.merges + 1) * sizeof(uint32_t);
    void* pinned;
    finish(pkvi_gpu_alloc_pinned(merges_bytes, &pinned));
    const uint32_t* merges = pinned;
    uint32_t* count = take(1, sizeof *count);
    const size_t partial_floats = (size_t)bounds.entry_partial_rows * (group->key_dim + 2);
    struct pkvi_gpu_attend on = {
        .blocks = pkvi_gpu_blocks_of(job.layout, job.space, job.layer),
        .q = pkvi_gpu_array_of(&job.q),
        .out = pkvi_gpu_array_of(&job.out),
        .lse = job.lse,
        .sink_logits = job.sink_logits,
        .starts = job.starts,
        .lengths = job.lengths,
        .block_table = job.block_table,
        .table_stride = job.table_stride,
        .trees = shape.trees,
        .nodes = nodes,
        .query_heads = job.query_heads,
        .group_heads = group_heads,
        .window = group->window,
        .sinks = group->sinks,
        .scale = job.scale,
        .softcap = job.softcap,
        .item_count = count,
        .partials = take_on_device(partial_floats * sizeof(float), false),
        .merges = take_on_device(merges_bytes, true),
    };
    for (uint32_t r = 0, begin = 0; r < work.rounds; begin = work.round_ends[r++]) {
        *count = work.round_ends[r] - begin;
        on.items = work.decode + begin;
        finish(pkvi_gpu_launch_decode(&on, grid_blocks, stream));
    }
    *count = work.prefill_count;
    on.items = work.prefill;
    if (work.prefill_count > 0) finish(pkvi_gpu_launch_prefill(&on, grid_blocks, stream));
    finish(pkvi_gpu_copy(pinned, on.merges, merges_bytes, stream));
    for (uint32_t i = 0; i < work.merges; i++)
        if (merges[i] != 0) exit(2);
    memory_give(count);
    pkvi_gpu_free_pinned(pinned);
    pkvi_gpu_free(on.partials);
    pkvi_gpu_free(on.merges);
    memory_give(work.decode);
    memory_give(work.prefill);
    memory_give(work.round_ends);
    memory_give(nodes);
    memory_give(trees);
}

/* Accept a path of each entry's new tokens: every second one, and those behind the middle. */
static uint32_t list_moves(const struct scene* scene, uint32_t* from, uint32_t* to) {
    uint32_t count = 0;
    for (uint32_t e = 0; e < scene->shape.entry_count; e++) {
        const struct entry* entry = &scene->shape.entries[e];
        const uint32_t past = entry->length - entry->fresh;
        uint32_t accepted = 0;
        for (uint32_t row = 1; row < entry->fresh; row++) {
            if (row % 2 == 0 && row < entry->fresh / 2) continue;
            from[count] = scene_slot(scene, e, past + row);
            to[count++] = scene_slot(scene, e, past + accepted++);
        }
    }
    return count;
}

typedef void move_function(const struct pkvi_move_job* job);

static void move_on_device(const struct pkvi_move_job* job) {
    const struct pkvi_gpu_move move = {
        .blocks = pkvi_gpu_blocks_of(job->layout, job->space, 0),
        .layers = job->layout->group.layers,
        .layer_bytes = job->layout->layer_bytes,
        .from = job->from,
        .to = job->to,
        .count = job->count,
    };
    finish(pkvi_gpu_launch_move(&move, stream));
}

static void move_tokens(const struct scene* scene, move_function* move) {
    const uint32_t tokens = scene->starts[scene->shape.entry_count];
    uint32_t* from = take(tokens, sizeof *from);
    uint32_t* to = take(tokens, sizeof *to);
    const uint32_t count = list_moves(scene, from, to);
    const struct pkvi_move_job job = {&scene->layout, &scene->space, count, from, to};
    if (count > 0) move(&job);
    memory_give(to);
    memory_give(from);
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static uint32_t row_bytes(const pkv_group_config* group, bool is_value) {
    return group->key_dim * pkvi_dtype_bits(is_value ? group->v_dtype : group->k_dtype) / 8;
}

/* What one head has of a block, in the plain order of this device. */
static const unsigned char* head_at(const struct scene* scene, uint32_t slot, uint32_t head,
                                    bool is_value) {
    const struct pkvi_layout* layout = &scene->layout;
    return pkvi_space_block(&scene->space, slot / layout->group.block_tokens) +
           (scene->shape.group.layers - 1) * layout->layer_bytes +
           (is_value ? layout->v_offset + head * layout->v_head_bytes
                     : head * layout->k_head_bytes);
}

/* Have two slots, each of its scene, the same codes and the same scale? */
static bool is_alike(const struct scene* scene, uint32_t slot, const struct scene* reference,
                     uint32_t other, uint32_t head, bool is_value) {
    const pkv_group_config* group = &scene->shape.group;
    const uint32_t bytes = row_bytes(group, is_value);
    const uint64_t scales = is_value ? scene->layout.v_scale_offset : scene->layout.k_scale_offset;
    const unsigned char* one = head_at(scene, slot, head, is_value);
    const unsigned char* two = head_at(reference, other, head, is_value);
    const size_t place = slot % group->block_tokens;
    const size_t other_place = other % group->block_tokens;
    if (memcmp(one + place * bytes, two + other_place * bytes, bytes) != 0) return false;
    if (!pkvi_dtype_is_scaled(is_value ? group->v_dtype : group->k_dtype)) return true;
    return memcmp(one + scales + place * sizeof(float), two + scales + other_place * sizeof(float),
                  sizeof(float)) == 0;
}

/* What the device stored, put where the reference's own write would have put it, is what it stored:
 * so that both attend to the same numbers, and the codec is checked bit for bit. */
static bool is_stored_alike(const struct scene* scene, const struct scene* reference) {
    const pkv_group_config* group = &scene->shape.group;
    bool alike = true;
    for (uint32_t e = 0; e < scene->shape.entry_count; e++)
        for (uint32_t p = 0; p < scene->lengths[e]; p++) {
            if (!scene_page_is_there(&scene->shape, e, p / group->block_tokens)) continue;
            const uint32_t a = scene_slot(scene, e, p);
            const uint32_t b = scene_slot(reference, e, p);
            for (uint32_t i = 0; i < group->kv_heads * 2; i++)
                alike &= is_alike(scene, a, reference, b, i / 2, i % 2);
        }
    return alike;
}

/* bf16 and f16 queries and weights are rounded once, those in f32 twice where neither K nor V has 8
 * bits; an error of a score grows with the score. */
static double nmse_limit(const struct shape* shape) {
    static const double out_limits[] = {0.0, 1e-6, 1e-5};
    const pkv_group_config* group = &shape->group;
    const bool is_double = shape->q_dtype == PKV_F32 && !pkvi_dtype_is_scaled(group->k_dtype) &&
                           !pkvi_dtype_is_scaled(group->v_dtype);
    const double once = group->k_dtype == PKV_F16 && group->v_dtype == PKV_F16 ? 1e-6 : 2e-5;
    const double steepness = 1.0 + (double)(shape->spread * shape->spread);
    return (is_double ? 1e-9 : once) * steepness + out_limits[shape->out_dtype];
}

enum { DTYPES = PKV_I4 + 1 };

struct worst {
    uint32_t shapes;
    double nmse;
    double lse_nmse;
};

/* Without the last entry, if there are others, and the other way round. */
static struct shape other_batch(const struct shape* shape) {
    struct shape other = *shape;
    if (other.entry_count > 1) other.entry_count--;
    for (uint32_t e = 0; e < other.entry_count; e++)
        other.entries[e] = shape->entries[other.entry_count - 1 - e];
    return other;
}

/* Each entry's rows, wherever they stand in the batch. */
static bool is_same_in_any_batch(const struct scene* scene, const struct scene* other) {
    const uint32_t count = other->shape.entry_count;
    bool same = true;
    for (uint32_t e = 0; e < count; e++)
        same &= rig_same_bits(scene, scene->starts[e], other, other->starts[count - 1 - e],
                              scene->shape.entries[e].fresh);
    return same;
}

static bool check_shape(const struct shape* shape, uint64_t seed, struct worst* worst) {
    struct scene* scene = scene_open(shape, seed, write_rows, NULL);
    struct scene* reference = scene_open(shape, seed + 1, rig_reference_write, NULL);
    const struct shape other_shape = other_batch(shape);
    struct scene* other = scene_open(&other_shape, seed + 2, write_rows, NULL);
    const struct pkvi_attend_job job = scene_job(reference);
    const char* what = NULL;
    finish(pkvi_gpu_prepare(types_of(shape), UINT64_MAX));
    if (!is_stored_alike(scene, reference)) what = "what is stored differs";
    attend(scene);
    attend(other);
    if (pkvi_reference_attend(&job) != PKV_OK) exit(2);
    const struct difference difference = rig_compare(scene, reference);
    const double limit = nmse_limit(shape);
    if (!(difference.nmse <= limit && difference.lse_nmse <= limit)) what = "attention differs";
    if (!cells_padding_is_untouched(&scene->out)) what = "padding is written";
    if (!is_same_in_any_batch(scene, other)) what = "the batch changes a result";
    move_tokens(scene, move_on_device);
    move_tokens(reference, pkvi_reference_move);
    if (!is_stored_alike(scene, reference)) what = "what is moved differs";
    worst->shapes++;
    worst->nmse = fmax(worst->nmse, difference.nmse);
    worst->lse_nmse = fmax(worst->lse_nmse, difference.lse_nmse);
    if (what != NULL) {
        printf("%s: nmse %.3g, of lse %.3g, limit %.3g; repeat with --only %llu\n", what,
               difference.nmse, difference.lse_nmse, limit, (unsigned long long)seed);
        shape_print(shape);
    }
    scene_close(scene);
    scene_close(reference);
    scene_close(other);
    return what == NULL;
}

int main(int argc, char** argv) {
    struct worst worst[DTYPES][DTYPES] = {{{0, 0.0, 0.0}}};
    const uint64_t only = rig_number(argc, argv, "--only", 0);
    const uint64_t count = only != 0 ? 1 : rig_number(argc, argv, "--shapes", SHAPES_DEFAULT);
    const uint64_t first = only != 0 ? only : rig_number(argc, argv, "--seed", 1000);
    bool passed = true;
    grid_blocks = (uint32_t)rig_number(argc, argv, "--blocks", GRID_BLOCKS);
    finish(pkvi_gpu_stream_open(&stream));
    for (uint64_t i = 0; i < count && passed; i++) {
        const struct shape shape = draw_shape(first + i);
        emulator_seed(first + i);
        passed = check_shape(&shape, first + i, &worst[shape.group.k_dtype][shape.group.v_dtype]);
    }
    for (uint32_t i = 0; i < DTYPES * DTYPES; i++) {
        const struct worst* of = &worst[i / DTYPES][i % DTYPES];
        if (of->shapes > 0)
            printf("{\"test\": \"cuda kernels\", \"dtype\": \"%s/%s\", \"shapes\": %u, "
                   "\"worst_nmse\": %.3g, \"worst_lse_nmse\": %.3g}\n",
                   shape_dtype_names[i / DTYPES], shape_dtype_names[i % DTYPES], of->shapes,
                   of->nmse, of->lse_nmse);
    }
    pkvi_gpu_stream_close(stream);
    const struct emulator_counters done = emulator_counters_get();
    if (done.blocks > 0) /* nobody counts on a GPU */
        printf(
            "{\"test\": \"cuda kernels\", \"blocks\": %llu, \"copies\": %llu, \"products\": %llu, "
            "\"bank_conflicts\": %llu}\n",
            (unsigned long long)done.blocks, (unsigned long long)done.copies,
            (unsigned long long)done.products, (unsigned long long)done.conflicts);
    return passed && done.conflicts == 0 ? 0 : 1;
}
