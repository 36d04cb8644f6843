/* extents.h - a set of extents, and which of them serves next: the allocator's policy.
 *
 * A pool keeps the extents that have room in such a set, each with its weight, the blocks in use;
 * the arena keeps the free ones.
 *
 *   first fit   the lowest address                        a tree of bits over the extents
 *   best fit    the heaviest, of those the youngest       a list for each weight, a tree of bits
 *                                                         over the weights that have members
 *   ring        the one that has been in the set longest  one list, joined at its end
 *   lifo        the one that joined last                  one list, joined at its front
 *
 * Holds   E1  weight[e] is PKVI_NONE  <=>  e is not in the set, and `count` are
 *         E2  lists and bits hold exactly the members, best fit each in the list of its weight
 * Cost    O(1), or one word for each level of the bits.
 * Threads the arena's lock. */
#ifndef PKVI_CORE_EXTENTS_H
#define PKVI_CORE_EXTENTS_H

#include "base/limits.h"
#include "core/bits.h"

struct pkvi_extents {
    enum pkv_allocator policy;
    uint32_t extent_max;
    uint32_t weight_max;
    uint32_t count;
    uint32_t* weight;      /* [extent_max] */
    uint32_t* previous;    /* [extent_max] */
    uint32_t* next;        /* [extent_max] */
    uint32_t* heads;       /* [lists] */
    uint32_t* tails;       /* [lists] */
    struct pkvi_bits bits; /* of extents, or of weights */
};

/* For extents below `extent_max` of weights up to `weight_max`. */
int pkvi_extents_open(struct pkvi_extents* set, struct pkvi_mem* mem, enum pkv_allocator policy,
                      uint32_t extent_max, uint32_t weight_max);
void pkvi_extents_close(struct pkvi_extents* set, struct pkvi_mem* mem);

void pkvi_extents_add(struct pkvi_extents* set, uint32_t extent, uint32_t weight);
void pkvi_extents_remove(struct pkvi_extents* set, uint32_t extent);
void pkvi_extents_reweigh(struct pkvi_extents* set, uint32_t extent, uint32_t weight);

/* The one that serves next. pre: the set is not empty. */
uint32_t pkvi_extents_first(const struct pkvi_extents* set);

static inline bool pkvi_extents_has(const struct pkvi_extents* set, uint32_t extent) {
    return set->weight[extent] != PKVI_NONE;
}

/* Do E1 and E2 hold? */
bool pkvi_extents_are_sound(const struct pkvi_extents* set);

/* Fold the members, and their order where it decides, into a digest. */
uint64_t pkvi_extents_digest(const struct pkvi_extents* set, uint64_t digest);

#endif
