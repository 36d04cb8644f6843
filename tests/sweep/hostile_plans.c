/* hostile_plans.c - bad calls on plans. */
#include "sweep/hostile.h"
#include <math.h>

static int bad_begin(struct world* w) {
    pkv_plan plan;
    const pkv_entry good = {w->seqs[EMPTY], world_tokens, 1};
    pkv_entry entries[SEQS + 2];
    for (uint32_t i = 0; i < SEQS + 2; i++)
        entries[i] = good;
    switch (world_below(w, 9)) {
    case 0:
        return pkv_plan_begin(NULL, &good, 1, &plan);
    case 1:
        return pkv_plan_begin(w->cache, NULL, 1, &plan);
    case 2:
        return pkv_plan_begin(w->cache, &good, 1, NULL);
    case 3:
        return pkv_plan_begin(w->cache, &good, 0, &plan);
    case 4:
        return pkv_plan_begin(w->cache, entries, 2 + world_below(w, SEQS), &plan);
    case 5:
        return pkv_plan_begin(w->cache, entries, world_huge(w), &plan);
    case 6:
        entries[1].seq = world_bad_seq(w);
        return pkv_plan_begin(w->cache, entries, 2, &plan);
    case 7:
        entries[0].count = world_below(w, 2) ? world_huge(w) : 0;
        return pkv_plan_begin(w->cache, entries, 1, &plan);
    default:
        entries[1].seq = w->seqs[RESERVED + world_below(w, 2)];
        return pkv_plan_begin(w->cache, entries, 2, &plan);
    }
}

static int bad_trees(struct world* w) {
    pkv_plan plan;
    const pkv_entry good = {w->seqs[EMPTY], world_tokens, 2};
    const uint32_t wrong[2] = {world_below(w, 2) ? 0 : PKV_NO_PARENT,
                               1 + world_below(w, PKV_NO_PARENT - 1)};
    const uint32_t* const parents[2] = {wrong, NULL};
    const pkv_entry wide = {w->seqs[EMPTY], NULL, world_huge(w)};
    const uint32_t* const none = NULL;
    switch (world_below(w, 5)) {
    case 0:
        return pkv_plan_begin_trees(w->cache, &good, NULL, 1, &plan);
    case 1:
        return pkv_plan_begin_trees(world_below(w, 2) ? w->cache : NULL, NULL, parents, 1, &plan);
    case 2:
        return pkv_plan_begin_trees(w->cache, &good, parents, 1, NULL);
    case 3:
        return pkv_plan_begin_trees(w->cache, &wide, &none, 1, &plan);
    default:
        return pkv_plan_begin_trees(w->cache, &good, parents, 1, &plan);
    }
}

static int bad_accept(struct world* w) {
    const uint32_t rows[2] = {1 + world_below(w, UINT32_MAX - 1), world_below(w, 4)};
    const pkv_path paths[3] = {{rows, 1 + world_below(w, 2)}, {NULL, world_huge(w)}, {NULL, 0}};
    switch (world_below(w, 6)) {
    case 0:
        return pkv_plan_accept(NULL, w->plan, paths, 1);
    case 1:
        return pkv_plan_accept(w->cache, world_bad_plan(w), paths + 2, 1);
    case 2:
        return pkv_plan_accept(w->cache, w->plan, NULL, 1);
    case 3:
        return pkv_plan_accept(w->cache, w->plan, paths + 2, world_below(w, 2) ? 0 : world_huge(w));
    default:
        return pkv_plan_accept(w->cache, w->plan, paths + world_below(w, 2), 1);
    }
}

static int bad_plan_info(struct world* w) {
    pkv_plan_info info;
    switch (world_below(w, 4)) {
    case 0:
        return pkv_plan_get_info(NULL, w->plan, 0, &info);
    case 1:
        return pkv_plan_get_info(w->cache, world_bad_plan(w), 0, &info);
    case 2:
        return pkv_plan_get_info(w->cache, w->plan, 1 + world_below(w, UINT32_MAX - 1), &info);
    default:
        return pkv_plan_get_info(w->cache, w->plan, 0, NULL);
    }
}

static int bad_write(struct world* w) {
    float data[8 * DIM] = {0};
    const pkv_array good = world_array(data);
    const pkv_array bad = world_bad_array(w, data);
    switch (world_below(w, 6)) {
    case 0:
        return pkv_write(NULL, w->plan, 0, &good, &good);
    case 1:
        return pkv_write(w->cache, world_bad_plan(w), 0, &good, &good);
    case 2:
        return pkv_write(w->cache, w->plan, 1 + world_below(w, UINT32_MAX - 1), &good, &good);
    case 3:
        return pkv_write(w->cache, w->plan, 0, NULL, &good);
    case 4:
        return pkv_write(w->cache, w->plan, 0, &good, NULL);
    default:
        return pkv_write(w->cache, w->plan, 0, &bad, &good);
    }
}

static int bad_attend(struct world* w) {
    float data[8 * DIM] = {0};
    float out[8 * DIM];
    const float sinks[2] = {NAN, NAN};
    pkv_attention attention = {.q = world_array(data), .out = world_array(out), .query_heads = 1};
    switch (world_below(w, 10)) {
    case 0:
        return pkv_attend(NULL, w->plan, 0, &attention);
    case 1:
        return pkv_attend(w->cache, world_bad_plan(w), 0, &attention);
    case 2:
        return pkv_attend(w->cache, w->plan, 1 + world_below(w, UINT32_MAX - 1), &attention);
    case 3:
        return pkv_attend(w->cache, w->plan, 0, NULL);
    case 4:
        attention.q = world_bad_array(w, data);
        break;
    case 5:
        attention.out = world_bad_array(w, out);
        break;
    case 6:
        attention.query_heads = world_below(w, 2) ? 0 : 65537 + world_below(w, 1000);
        break;
    case 7:
        attention.softcap = world_below(w, 2) ? -1.0F : NAN;
        break;
    case 8:
        attention.sink_logits = (const float*)(const void*)((const char*)sinks + world_below(w, 4));
        break;
    default:
        attention.scale = world_below(w, 2) ? INFINITY : NAN;
        break;
    }
    return pkv_attend(w->cache, w->plan, 0, &attention);
}

static int bad_end(struct world* w) {
    switch (world_below(w, 4)) {
    case 0:
        return pkv_plan_commit(NULL, w->plan);
    case 1:
        return pkv_plan_abort(NULL, w->plan);
    case 2:
        return pkv_plan_commit(w->cache, world_bad_plan(w));
    default:
        return pkv_plan_abort(w->cache, world_bad_plan(w));
    }
}

static int (*const calls[])(struct world* w) = {
    bad_begin, bad_trees, bad_accept, bad_plan_info, bad_write, bad_attend, bad_end,
};

const hostile_kinds hostile_on_plans = {"plans", calls, sizeof calls / sizeof *calls};
