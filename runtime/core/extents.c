/* extents.c - see extents.h. */
#include "core/extents.h"

#include "base/hash.h"
#include <assert.h>

/* First fit knows its members by address and has no lists. */
static uint32_t list_count(const struct pkvi_extents* set) {
    if (set->policy == PKV_FIRST_FIT) return 0;
    return set->policy == PKV_BEST_FIT ? set->weight_max + 1 : 1;
}

static int open_bits(struct pkvi_extents* set, struct pkvi_mem* mem) {
    if (set->policy == PKV_FIRST_FIT) return pkvi_bits_open(&set->bits, mem, set->extent_max);
    if (set->policy == PKV_BEST_FIT) return pkvi_bits_open(&set->bits, mem, set->weight_max + 1);
    return PKV_OK;
}

int pkvi_extents_open(struct pkvi_extents* set, struct pkvi_mem* mem, enum pkv_allocator policy,
                      uint32_t extent_max, uint32_t weight_max) {
    *set =
        (struct pkvi_extents){.policy = policy, .extent_max = extent_max, .weight_max = weight_max};
    const uint32_t lists = list_count(set);
    const uint32_t links = lists > 0 ? extent_max : 0;
    PKVI_TRY(pkvi_mem_take(mem, extent_max, sizeof(uint32_t), (void**)&set->weight));
    PKVI_TRY(pkvi_mem_take(mem, links, sizeof(uint32_t), (void**)&set->previous));
    PKVI_TRY(pkvi_mem_take(mem, links, sizeof(uint32_t), (void**)&set->next));
    PKVI_TRY(pkvi_mem_take(mem, lists, sizeof(uint32_t), (void**)&set->heads));
    PKVI_TRY(pkvi_mem_take(mem, lists, sizeof(uint32_t), (void**)&set->tails));
    for (uint32_t extent = 0; extent < extent_max; extent++)
        set->weight[extent] = PKVI_NONE;
    for (uint32_t list = 0; list < lists; list++)
        set->heads[list] = set->tails[list] = PKVI_NONE;
    return open_bits(set, mem);
}

void pkvi_extents_close(struct pkvi_extents* set, struct pkvi_mem* mem) {
    pkvi_bits_close(&set->bits, mem);
    pkvi_mem_give(mem, set->tails);
    pkvi_mem_give(mem, set->heads);
    pkvi_mem_give(mem, set->next);
    pkvi_mem_give(mem, set->previous);
    pkvi_mem_give(mem, set->weight);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static uint32_t list_of(const struct pkvi_extents* set, uint32_t extent) {
    return set->policy == PKV_BEST_FIT ? set->weight[extent] : 0;
}

static void link(struct pkvi_extents* set, uint32_t extent) {
    const uint32_t list = list_of(set, extent);
    const bool at_end = set->policy == PKV_RING;
    const uint32_t previous = at_end ? set->tails[list] : PKVI_NONE;
    const uint32_t next = at_end ? PKVI_NONE : set->heads[list];
    set->previous[extent] = previous;
    set->next[extent] = next;
    *(previous == PKVI_NONE ? &set->heads[list] : &set->next[previous]) = extent;
    *(next == PKVI_NONE ? &set->tails[list] : &set->previous[next]) = extent;
    if (set->policy == PKV_BEST_FIT) pkvi_bits_add(&set->bits, list);
}

static void unlink(struct pkvi_extents* set, uint32_t extent) {
    const uint32_t list = list_of(set, extent);
    const uint32_t previous = set->previous[extent];
    const uint32_t next = set->next[extent];
    *(previous == PKVI_NONE ? &set->heads[list] : &set->next[previous]) = next;
    *(next == PKVI_NONE ? &set->tails[list] : &set->previous[next]) = previous;
    if (set->policy == PKV_BEST_FIT && set->heads[list] == PKVI_NONE)
        pkvi_bits_remove(&set->bits, list);
}

/* ---- The set --------------------------------------------------------------------------------- */

void pkvi_extents_add(struct pkvi_extents* set, uint32_t extent, uint32_t weight) {
    assert(!pkvi_extents_has(set, extent));
    assert(weight <= set->weight_max);
    set->weight[extent] = weight;
    set->count++;
    if (set->policy == PKV_FIRST_FIT)
        pkvi_bits_add(&set->bits, extent);
    else
        link(set, extent);
}

void pkvi_extents_remove(struct pkvi_extents* set, uint32_t extent) {
    assert(pkvi_extents_has(set, extent));
    if (set->policy == PKV_FIRST_FIT)
        pkvi_bits_remove(&set->bits, extent);
    else
        unlink(set, extent);
    set->weight[extent] = PKVI_NONE;
    set->count--;
}

void pkvi_extents_reweigh(struct pkvi_extents* set, uint32_t extent, uint32_t weight) {
    assert(pkvi_extents_has(set, extent));
    const bool moves = set->policy == PKV_BEST_FIT;
    if (moves) unlink(set, extent);
    set->weight[extent] = weight;
    if (moves) link(set, extent);
}

uint32_t pkvi_extents_first(const struct pkvi_extents* set) {
    assert(set->count > 0);
    if (set->policy == PKV_FIRST_FIT) return pkvi_bits_lowest(&set->bits);
    if (set->policy == PKV_BEST_FIT) return set->heads[pkvi_bits_highest(&set->bits)];
    return set->heads[0];
}

/* ---- Check and digest ------------------------------------------------------------------------ */

/* Count a list whose members are sound; more than there are when they are not. */
static uint32_t count_list(const struct pkvi_extents* set, uint32_t list) {
    uint32_t count = 0;
    uint32_t previous = PKVI_NONE;
    for (uint32_t e = set->heads[list]; e != PKVI_NONE; previous = e, e = set->next[e]) {
        if (e >= set->extent_max || ++count > set->count) return PKVI_NONE;
        if (!pkvi_extents_has(set, e) || list_of(set, e) != list) return PKVI_NONE;
        if (set->previous[e] != previous) return PKVI_NONE;
    }
    return set->tails[list] == previous ? count : PKVI_NONE;
}

static bool has_bit(const struct pkvi_bits* bits, uint32_t number) {
    return (bits->level[0][number / 64] >> number % 64 & 1) != 0;
}

static bool lists_are_sound(const struct pkvi_extents* set) {
    uint64_t listed = 0;
    for (uint32_t list = 0; list < list_count(set); list++) {
        const bool is_empty = set->heads[list] == PKVI_NONE;
        if (set->policy == PKV_BEST_FIT && has_bit(&set->bits, list) == is_empty) return false;
        listed += count_list(set, list);
    }
    return listed == set->count;
}

static bool bits_are_sound(const struct pkvi_extents* set) {
    for (uint32_t extent = 0; extent < set->extent_max; extent++)
        if (has_bit(&set->bits, extent) != pkvi_extents_has(set, extent)) return false;
    return true;
}

bool pkvi_extents_are_sound(const struct pkvi_extents* set) {
    uint32_t count = 0;
    for (uint32_t extent = 0; extent < set->extent_max; extent++)
        count += pkvi_extents_has(set, extent);
    if (count != set->count) return false;
    return set->policy == PKV_FIRST_FIT ? bits_are_sound(set) : lists_are_sound(set);
}

static uint64_t fold(uint64_t digest, uint64_t value) {
    uint64_t state = digest ^ value;
    return pkvi_random_next(&state);
}

uint64_t pkvi_extents_digest(const struct pkvi_extents* set, uint64_t digest) {
    for (uint32_t extent = 0; extent < set->extent_max; extent++)
        digest = fold(digest, set->weight[extent]);
    for (uint32_t list = 0; list < list_count(set); list++)
        for (uint32_t e = set->heads[list]; e != PKVI_NONE; e = set->next[e])
            digest = fold(digest, e);
    return digest;
}
