/* hostile.c - see hostile.h. */
#include "sweep/hostile.h"

const uint32_t world_tokens[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

uint64_t world_next(struct world* w) {
    uint64_t x = w->random += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

uint32_t world_below(struct world* w, uint32_t bound) {
    return (uint32_t)(world_next(w) % bound);
}

static bool is_live(const struct world* w, uint64_t id) {
    for (uint32_t i = 0; i < SEQS; i++)
        if (w->seqs[i].id == id) return true;
    return w->plan.id == id;
}

uint64_t world_flip_bits(struct world* w, uint64_t id) {
    for (uint32_t flips = 1 + world_below(w, 8); flips > 0; flips--)
        id ^= 1ULL << world_below(w, 64);
    return is_live(w, id) ? 0 : id;
}

pkv_seq world_bad_seq(struct world* w) {
    switch (world_below(w, 6)) {
    case 0:
        return (pkv_seq){0};
    case 1:
        return w->dead_seqs[world_below(w, DEAD)];
    case 2:
        return (pkv_seq){w->plan.id};
    case 3:
        return w->foreign;
    case 4:
        return (pkv_seq){world_flip_bits(w, w->seqs[world_below(w, SEQS)].id)};
    default:
        return (pkv_seq){world_next(w)};
    }
}

pkv_plan world_bad_plan(struct world* w) {
    switch (world_below(w, 6)) {
    case 0:
        return (pkv_plan){0};
    case 1:
        return w->dead_plans[world_below(w, DEAD)];
    case 2:
        return (pkv_plan){w->seqs[PLANNED].id};
    case 3:
        return w->foreign_plan;
    case 4:
        return (pkv_plan){world_flip_bits(w, w->plan.id)};
    default:
        return (pkv_plan){world_next(w)};
    }
}

uint32_t world_huge(struct world* w) {
    const uint32_t choices[] = {1U << 31, UINT32_MAX, (1U << 31) - 1, 0x40000000, 33};
    return choices[world_below(w, 5)];
}

pkv_array world_bad_array(struct world* w, float* data) {
    pkv_array array = world_array(data);
    switch (world_below(w, 5)) {
    case 0:
        array.data = NULL;
        break;
    case 1:
        array.data = (char*)data + 1 + world_below(w, 3);
        break;
    case 2:
        array.dtype = 3 + world_below(w, UINT32_MAX - 3);
        break;
    case 3:
        array.row_stride = UINT64_MAX - world_below(w, 1000);
        break;
    default:
        array.row_stride = UINT64_MAX / 8;
        break;
    }
    return array;
}
