/* shape.c - random shapes: every parameter that a kernel could get wrong, at a bounded cost.
 *
 * Most shapes are small, so that there can be many; the budget of elements is spent either on heads
 * and dims or on context. Lengths like to stand at the borders of blocks, tiles and splits, where
 * mistakes are. */
#include "kernel/scene.h"

#include "base/hash.h"
#include "base/limits.h"
#include <math.h>
#include <stdio.h>

enum {
    STORED_MAX = 160000, /* elements of K and V in a scene */
    WORK_MAX = 700000,   /* rows x heads x context x dims */
};

static uint32_t below(uint64_t* random, uint32_t limit) {
    return (uint32_t)(pkvi_random_next(random) % limit);
}

static bool one_in(uint64_t* random, uint32_t n) {
    return below(random, n) == 0;
}

static uint32_t lesser(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* {query heads per KV head, KV heads}: MHA, GQA and MQA as models have them, and odd ones. */
static const uint32_t head_counts[][2] = {
    {1, 1}, {1, 2},  {1, 3},  {1, 4},  {1, 8},  {2, 1},  {2, 2},  {3, 1},  {3, 2},  {3, 5},
    {4, 1}, {4, 2},  {4, 4},  {4, 8},  {5, 1},  {6, 2},  {7, 1},  {7, 4},  {8, 1},  {8, 2},
    {9, 1}, {12, 2}, {13, 1}, {15, 2}, {16, 1}, {16, 2}, {24, 1}, {32, 1}, {71, 1}, {200, 1},
};

static void draw_group(struct shape* shape, uint64_t* random) {
    pkv_group_config* group = &shape->group;
    const uint32_t common[] = {32, 64, 80, 96, 112, 128, 192, 256};
    const uint32_t* heads = head_counts[below(random, sizeof head_counts / sizeof *head_counts)];
    group->layers = 1 + below(random, 3);
    group->kv_heads = heads[1];
    shape->query_heads = heads[0] * heads[1];
    group->key_dim = one_in(random, 2) ? common[below(random, 8)] : 16 * (1 + below(random, 16));
    group->value_dim = one_in(random, 3) ? 16 * (1 + below(random, 16)) : group->key_dim;
    group->k_dtype = below(random, PKV_I4 + 1);
    group->v_dtype = one_in(random, 3) ? below(random, PKV_I4 + 1) : group->k_dtype;
    group->block_tokens = one_in(random, 3) ? 16 : 1U << below(random, 9);
    const bool is_scaled =
        pkvi_dtype_is_scaled(group->k_dtype) || pkvi_dtype_is_scaled(group->v_dtype);
    if (is_scaled && group->block_tokens < 16) group->block_tokens *= 16;
}

/* Windows and sinks that fall before, on and behind borders. */
static void draw_window(struct shape* shape, uint64_t* random) {
    const uint32_t sizes[] = {1, 2, 15, 16, 17, 31, 64, 100, 256, 1000};
    if (!one_in(random, 3)) return;
    shape->group.window = one_in(random, 2) ? sizes[below(random, 10)] : 1 + below(random, 300);
    if (one_in(random, 2)) shape->group.sinks = 1 + below(random, one_in(random, 4) ? 70 : 8);
}

static uint32_t draw_length(uint64_t* random, uint32_t longest) {
    const uint32_t borders[] = {16, 64, 128, 256, PKVI_SPLIT_TOKENS, 2 * PKVI_SPLIT_TOKENS};
    uint32_t length = 1 + below(random, one_in(random, 2) ? longest : lesser(longest, 40));
    if (one_in(random, 3)) length = borders[below(random, 6)] + below(random, 3) - 1;
    return lesser(length, longest);
}

/* Decode, prefill from nothing, a chunk over a past, a whole mixture. */
static uint32_t draw_fresh(uint64_t* random, uint32_t length, uint32_t most) {
    const uint32_t limit = lesser(length, most);
    if (one_in(random, 3)) return limit;
    return one_in(random, 2) ? 1 : 1 + below(random, limit);
}

static void draw_entries(struct shape* shape, uint64_t* random) {
    const pkv_group_config* group = &shape->group;
    const uint32_t wanted = one_in(random, 3) ? 1 : 1 + below(random, SCENE_ENTRIES_MAX);
    const uint32_t dims = group->key_dim + group->value_dim;
    uint32_t stored = lesser(STORED_MAX / (group->kv_heads * dims), 1500);
    uint32_t work = WORK_MAX / (shape->query_heads * dims);
    for (uint32_t e = 0; e < wanted && stored > 0 && work > 0; e++) {
        struct entry* entry = &shape->entries[e];
        const uint32_t rest = wanted - e;
        entry->who = e + 1;
        entry->length = draw_length(random, lesser(work, rest == 1 ? stored : 1 + stored * 2 / 3));
        entry->fresh = draw_fresh(random, entry->length, 1 + (work / entry->length - 1));
        stored -= lesser(stored, entry->length);
        work -= lesser(work, entry->length * entry->fresh);
        shape->entry_count++;
    }
}

struct shape shape_random(uint64_t seed) {
    uint64_t random = seed;
    struct shape shape = {.seed = pkvi_random_next(&random), .spread = 1.0F, .threads = 1};
    draw_group(&shape, &random);
    draw_window(&shape, &random);
    draw_entries(&shape, &random);
    shape.scale = 1.0F / sqrtf((float)shape.group.key_dim);
    if (one_in(&random, 5)) shape.scale *= -0.5F;
    if (one_in(&random, 4))
        shape.softcap = one_in(&random, 2) ? 30.0F : 0.5F + (float)below(&random, 4);
    if (one_in(&random, 6)) shape.spread = 4.0F;
    if (one_in(&random, 3)) shape.q_dtype = below(&random, 3);
    if (one_in(&random, 4)) shape.out_dtype = below(&random, 3);
    if (one_in(&random, 3)) shape.kv_dtype = below(&random, 3);
    if (one_in(&random, 3)) shape.pad_elements = 1 + below(&random, 20);
    shape.head_major = one_in(&random, 3);
    shape.no_lse = one_in(&random, 5);
    if (one_in(&random, 4)) shape.threads = 2 + below(&random, 3);
    shape.has_sink_logits = one_in(&random, 3);
    return shape;
}

const char* const shape_dtype_names[] = {"f32", "f16", "bf16", "i8", "e4m3", "e5m2", "i4"};

void shape_print(const struct shape* shape) {
    const pkv_group_config* group = &shape->group;
    printf("  heads %u/%u dims %u/%u cache %s/%s block_tokens %u window %u sinks %u layers %u\n"
           "  scale %g softcap %g spread %g arrays q %s out %s kv %s pad %u%s%s%s%s threads "
           "%u\n",
           shape->query_heads, group->kv_heads, group->key_dim, group->value_dim,
           shape_dtype_names[group->k_dtype], shape_dtype_names[group->v_dtype],
           group->block_tokens, group->window, group->sinks, group->layers, (double)shape->scale,
           (double)shape->softcap, (double)shape->spread, shape_dtype_names[shape->q_dtype],
           shape_dtype_names[shape->out_dtype], shape_dtype_names[shape->kv_dtype],
           shape->pad_elements, shape->head_major ? " head-major" : "",
           shape->no_lse ? " no lse" : "", shape->has_sink_logits ? " sink logits" : "",
           shape->trees ? " trees" : "", shape->threads);
    for (uint32_t e = 0; e < shape->entry_count; e++)
        printf("  entry %u: length %u, new %u\n", e, shape->entries[e].length,
               shape->entries[e].fresh);
}
