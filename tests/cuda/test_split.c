/* test_split.c - properties of how attention is cut into work, over random plans.
 *
 *   UNIT_SEED=S test_split      the same plans again
 *
 * The oracle does not cut: it asks of every row which tiles it sees, from positions alone. */
#include "unit.h"

#include "base/hash.h"
#include "device/cuda/split.h"

enum { PLANS = 9000, ENTRIES_MAX = 12, TILE = PKVI_GPU_TILE_TOKENS };

struct plan {
    struct pkvi_gpu_shape shape;
    uint32_t starts[ENTRIES_MAX + 1];
    uint32_t lengths[ENTRIES_MAX];
    uint32_t trees[ENTRIES_MAX];
    uint32_t tokens;
    uint32_t longest;
    struct pkvi_gpu_bounds bounds;
    struct pkvi_gpu_work work;
};

static uint32_t below(uint64_t* random, uint32_t limit) {
    return (uint32_t)(pkvi_random_next(random) % limit);
}

/* Mostly short, now and then long, and often on the border of a tile. */
static uint32_t draw_length(uint64_t* random) {
    const uint32_t limits[] = {40, 300, 3000, 40000};
    const uint32_t length = 1 + below(random, limits[below(random, 4)]);
    return below(random, 4) == 0 ? (length + TILE - 1) / TILE * TILE : length;
}

static uint32_t draw_fresh(uint64_t* random, uint32_t length) {
    const uint32_t limits[] = {1, 1, 4, 20, 700};
    const uint32_t fresh = 1 + below(random, limits[below(random, 5)]);
    return fresh < length ? fresh : length;
}

static void* room(uint64_t count, size_t bytes) {
    void* memory = malloc((count + 1) * bytes);
    ASSERT(memory != NULL);
    memset(memory, 0xff, (count + 1) * bytes);
    return memory;
}

static void cut(struct plan* plan, uint32_t entries_of_partials) {
    const struct pkvi_gpu_bounds* bounds = &plan->bounds;
    struct pkvi_gpu_work* work = &plan->work;
    *work = (struct pkvi_gpu_work){
        .decode = room(bounds->decode_items, sizeof *work->decode),
        .prefill = room(bounds->prefill_items, sizeof *work->prefill),
        .round_ends = room(plan->shape.entries, sizeof *work->round_ends),
        .partial_rows = (uint32_t)bounds->entry_partial_rows * entries_of_partials,
    };
    pkvi_gpu_split(&plan->shape, work);
}

static void draw_plan(uint64_t seed, struct plan* plan) {
    uint64_t random = seed;
    const uint32_t groups[] = {1, 2, 4, 7, 8, 16, 33, 128};
    *plan = (struct plan){.longest = 1};
    plan->shape = (struct pkvi_gpu_shape){.entries = 1 + below(&random, ENTRIES_MAX),
                                          .starts = plan->starts,
                                          .lengths = plan->lengths,
                                          .trees = plan->trees,
                                          .kv_heads = 1 + below(&random, 4),
                                          .group_heads = groups[below(&random, 8)]};
    if (below(&random, 2) == 0) {
        plan->shape.window = 1 + below(&random, 2000);
        plan->shape.sinks = below(&random, 3) * below(&random, 40);
    }
    for (uint32_t e = 0; e < plan->shape.entries; e++) {
        plan->lengths[e] = draw_length(&random);
        plan->tokens += draw_fresh(&random, plan->lengths[e]);
        plan->trees[e] = below(&random, 3) == 0 ? 0 : (uint32_t)PKVI_GPU_NO_TREE;
        plan->starts[e + 1] = plan->tokens;
        if (plan->lengths[e] > plan->longest) plan->longest = plan->lengths[e];
    }
    plan->bounds = pkvi_gpu_bounds_of(plan->shape.entries, plan->tokens, plan->longest,
                                      plan->shape.kv_heads, plan->shape.group_heads);
    cut(plan, 1 + below(&random, 3));
}

static void free_plan(struct plan* plan) {
    free(plan->work.decode);
    free(plan->work.prefill);
    free(plan->work.round_ends);
}

/* ---- The oracle ------------------------------------------------------------------------------ */

static uint32_t fresh_of(const struct plan* plan, uint32_t entry) {
    return plan->starts[entry + 1] - plan->starts[entry];
}

static uint32_t rows_of(const struct plan* plan, uint32_t entry) {
    return fresh_of(plan, entry) * plan->shape.group_heads;
}

/* May a token at `position`, in place `place` of the page table, see any token of `tile`? */
static bool sees_tile(const struct pkvi_gpu_shape* shape, uint32_t position, uint32_t place,
                      uint32_t tile) {
    const uint32_t first = tile * TILE;
    const uint32_t last = first + TILE - 1;
    if (first > place) return false;
    if (shape->window == 0) return true;
    if (first < shape->sinks) return true;
    return (uint64_t)last + shape->window > position;
}

/* Which tiles does the item bring? As a kernel computes it. */
static struct pkvi_gpu_visible visible_of(const struct plan* plan,
                                          const struct pkvi_gpu_item* item) {
    const struct pkvi_gpu_shape* shape = &plan->shape;
    return pkvi_gpu_visible_to(item, plan->lengths[item->entry], fresh_of(plan, item->entry),
                               pkvi_gpu_is_tree(shape->trees, item->entry), shape->group_heads,
                               shape->window, shape->sinks);
}

/* What the items of one entry and KV head do, counted by row. */
struct tally {
    uint8_t* times; /* [rows][tiles] how often a tile is brought for a row */
    uint32_t rows;
    uint32_t tiles;
};

static void count_item(const struct plan* plan, const struct pkvi_gpu_item* item,
                       struct tally* tally) {
    const struct pkvi_gpu_visible visible = visible_of(plan, item);
    for (uint32_t number = item->tile_begin; number < item->tile_end; number++) {
        const uint32_t tile = pkvi_gpu_visible_tile(visible, number);
        if (tile >= tally->tiles) continue; /* then the right one is missing somewhere */
        for (uint32_t row = item->row; row < item->row + item->rows; row++)
            if (row < tally->rows) tally->times[(size_t)row * tally->tiles + tile]++;
    }
}

/* Is each tile that a row sees brought for it once, and no tile twice? */
static bool tally_is_exact(const struct plan* plan, uint32_t entry, const struct tally* tally) {
    const uint32_t past = plan->lengths[entry] - fresh_of(plan, entry);
    for (uint32_t row = 0; row < tally->rows; row++)
        for (uint32_t tile = 0; tile < tally->tiles; tile++) {
            const uint32_t place = past + row / plan->shape.group_heads;
            const uint32_t position = pkvi_gpu_is_tree(plan->trees, entry) ? past : place;
            const uint8_t times = tally->times[(size_t)row * tally->tiles + tile];
            if (sees_tile(&plan->shape, position, place, tile) ? times != 1 : times > 1)
                return false;
        }
    return true;
}

static bool covers(const struct plan* plan, uint32_t entry, uint32_t kv_head) {
    struct tally tally = {.rows = rows_of(plan, entry),
                          .tiles = (plan->lengths[entry] + TILE - 1) / TILE};
    tally.times = calloc((size_t)tally.rows * tally.tiles, 1);
    const struct pkvi_gpu_work* work = &plan->work;
    for (uint32_t i = 0; i < work->decode_count + work->prefill_count; i++) {
        const struct pkvi_gpu_item* item =
            i < work->decode_count ? &work->decode[i] : &work->prefill[i - work->decode_count];
        if (item->entry == entry && item->kv_head == kv_head) count_item(plan, item, &tally);
    }
    const bool is_exact = tally_is_exact(plan, entry, &tally);
    free(tally.times);
    return is_exact;
}

static bool covers_all(const struct plan* plan) {
    for (uint32_t e = 0; e < plan->shape.entries; e++) {
        if ((uint64_t)rows_of(plan, e) * plan->lengths[e] > 4000000) continue; /* takes too long */
        for (uint32_t h = 0; h < plan->shape.kv_heads; h++)
            if (!covers(plan, e, h)) return false;
    }
    return true;
}

/* ---- Properties ------------------------------------------------------------------------------ */

static uint64_t first_seed(void) {
    const char* text = getenv("UNIT_SEED");
    const uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : 1;
    printf("  UNIT_SEED=%" PRIu64 "\n", seed);
    return seed << 32;
}

TEST(each_visible_tile_of_each_row_is_brought_once) {
    const uint64_t seed = first_seed();
    for (uint32_t i = 0; i < PLANS / 10; i++) {
        struct plan plan;
        draw_plan(seed + i, &plan);
        ASSERT(covers_all(&plan));
        free_plan(&plan);
    }
}

/* Canary: a tile too few, a tile too many, rows of another tile, an item that is lost. */
TEST(a_wrong_cut_is_seen) {
    uint32_t planted = 0;
    for (uint64_t seed = first_seed(); planted < 40; seed++) {
        struct plan plan;
        draw_plan(seed, &plan);
        struct pkvi_gpu_work* work = &plan.work;
        struct pkvi_gpu_item* item = work->decode_count > 0 ? work->decode : work->prefill;
        const struct pkvi_gpu_item good = *item;
        const bool is_checked =
            (uint64_t)rows_of(&plan, item->entry) * plan.lengths[item->entry] <= 4000000;
        if (is_checked && good.tile_end - good.tile_begin > 1) {
            item->tile_end--;
            ASSERT(!covers_all(&plan));
            *item = good;
            item->tile_begin++;
            ASSERT(!covers_all(&plan));
            *item = good;
            item->rows--;
            ASSERT(!covers_all(&plan));
            *item = good;
            item->kv_head = UINT32_MAX;
            ASSERT(!covers_all(&plan));
            *item = good;
            ASSERT(covers_all(&plan));
            planted++;
        }
        free_plan(&plan);
    }
}

/* Items stay within their bounds, and nothing is written behind the arrays. */
TEST(items_stay_within_bounds) {
    const uint64_t seed = first_seed();
    for (uint32_t i = 0; i < PLANS; i++) {
        struct plan plan;
        draw_plan(seed + i, &plan);
        const struct pkvi_gpu_work* work = &plan.work;
        struct pkvi_gpu_item untouched;
        memset(&untouched, 0xff, sizeof untouched);
        ASSERT_LE(work->decode_count, plan.bounds.decode_items);
        ASSERT_LE(work->prefill_count, plan.bounds.prefill_items);
        ASSERT_LE(work->rounds, plan.shape.entries);
        ASSERT_MEM(&work->decode[plan.bounds.decode_items], &untouched, sizeof untouched);
        ASSERT_MEM(&work->prefill[plan.bounds.prefill_items], &untouched, sizeof untouched);
        for (uint32_t n = 0; n < work->decode_count; n++) {
            const struct pkvi_gpu_item* item = &work->decode[n];
            ASSERT_GE(item->rows, 1);
            ASSERT_LE(item->rows, PKVI_GPU_DECODE_ROWS);
            ASSERT_LE(item->row + item->rows, rows_of(&plan, item->entry));
            ASSERT_LT(item->split, item->splits);
            ASSERT_LT(item->tile_begin, item->tile_end);
        }
        for (uint32_t n = 0; n < work->prefill_count; n++) {
            const struct pkvi_gpu_item* item = &work->prefill[n];
            ASSERT_LE(item->rows, PKVI_GPU_PREFILL_ROWS);
            ASSERT_LE(item->row + item->rows, rows_of(&plan, item->entry));
            ASSERT_EQ(item->splits, 1);
            ASSERT_LT(item->tile_begin, item->tile_end);
        }
        free_plan(&plan);
    }
}

/* Splits of a row tile stand together, in order, and differ by one tile at most. */
TEST(splits_are_balanced) {
    const uint64_t seed = first_seed();
    for (uint32_t i = 0; i < PLANS; i++) {
        struct plan plan;
        draw_plan(seed + i, &plan);
        const struct pkvi_gpu_work* work = &plan.work;
        for (uint32_t n = 0; n < work->decode_count; n += work->decode[n].splits) {
            const struct pkvi_gpu_item* first = &work->decode[n];
            uint32_t least = UINT32_MAX;
            uint32_t most = 0;
            ASSERT_LE(n + first->splits, work->decode_count);
            for (uint32_t s = 0; s < first->splits; s++) {
                const struct pkvi_gpu_item* item = first + s;
                const uint32_t tiles = item->tile_end - item->tile_begin;
                ASSERT_EQ(item->split, s);
                ASSERT_EQ(item->splits, first->splits);
                ASSERT_EQ(item->partial, first->partial);
                ASSERT_EQ(item->merge, first->merge);
                if (tiles < least) least = tiles;
                if (tiles > most) most = tiles;
            }
            ASSERT_LE(most - least, 1);
        }
        free_plan(&plan);
    }
}

/* In a round, no two row tiles share memory or a counter, and all fit. */
TEST(rounds_fit_their_memory) {
    const uint64_t seed = first_seed();
    uint32_t plans_of_rounds = 0;
    for (uint32_t i = 0; i < PLANS; i++) {
        struct plan plan;
        draw_plan(seed + i, &plan);
        const struct pkvi_gpu_work* work = &plan.work;
        plans_of_rounds += work->rounds > 1;
        uint32_t n = 0;
        for (uint32_t r = 0; r < work->rounds; r++) {
            uint32_t used = 0;
            uint32_t merges = 0;
            ASSERT_LT(n, work->round_ends[r]);
            for (; n < work->round_ends[r]; n += work->decode[n].splits) {
                const struct pkvi_gpu_item* item = &work->decode[n];
                if (item->splits == 1) continue;
                ASSERT_EQ(item->partial, used); /* one behind the other */
                ASSERT_EQ(item->merge, merges);
                used += item->rows * item->splits;
                merges++;
            }
            ASSERT_EQ(n, work->round_ends[r]);
            ASSERT_LE(used, work->partial_rows);
            ASSERT_LE(merges, work->merges);
        }
        ASSERT_EQ(n, work->decode_count);
        free_plan(&plan);
    }
    ASSERT_GT(plans_of_rounds, 10);
}

/* An entry is cut the same way alone as among others. */
TEST(the_batch_does_not_matter) {
    const uint64_t seed = first_seed();
    for (uint32_t i = 0; i < PLANS / 3; i++) {
        struct plan plan;
        draw_plan(seed + i, &plan);
        const uint32_t entry = (uint32_t)(i % plan.shape.entries);
        const uint32_t starts[] = {0, fresh_of(&plan, entry)};
        struct plan alone = {.shape = plan.shape};
        alone.shape.entries = 1;
        alone.shape.starts = starts;
        alone.shape.lengths = &plan.lengths[entry];
        alone.shape.trees = &plan.trees[entry];
        alone.bounds = pkvi_gpu_bounds_of(1, starts[1], plan.lengths[entry], plan.shape.kv_heads,
                                          plan.shape.group_heads);
        cut(&alone, 1);
        const struct pkvi_gpu_item* of_one[] = {alone.work.decode, alone.work.prefill};
        const struct pkvi_gpu_item* of_all[] = {plan.work.decode, plan.work.prefill};
        const uint32_t one_counts[] = {alone.work.decode_count, alone.work.prefill_count};
        const uint32_t all_counts[] = {plan.work.decode_count, plan.work.prefill_count};
        for (uint32_t kind = 0; kind < 2; kind++) {
            uint32_t found = 0;
            for (uint32_t n = 0; n < all_counts[kind]; n++) {
                const struct pkvi_gpu_item* item = &of_all[kind][n];
                if (item->entry != entry) continue;
                ASSERT_LT(found, one_counts[kind]);
                const struct pkvi_gpu_item* same = &of_one[kind][found++];
                ASSERT_EQ(item->kv_head, same->kv_head);
                ASSERT_EQ(item->row, same->row);
                ASSERT_EQ(item->rows, same->rows);
                ASSERT_EQ(item->tile_begin, same->tile_begin);
                ASSERT_EQ(item->tile_end, same->tile_end);
                ASSERT_EQ(item->splits, same->splits);
            }
            ASSERT_EQ(found, one_counts[kind]);
        }
        free_plan(&alone);
        free_plan(&plan);
    }
}
