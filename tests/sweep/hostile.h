/* hostile.h - calls that have something wrong with them, on a cache in the middle of its life.
 *
 * A kind of call draws what is wrong with it: a handle that is zero, freed, of the other kind, of
 * another cache or made up; a NULL; a count of 2^31 and more; a range that ends before it begins; a
 * sequence named twice; an array of no known type; a quota that does not fit. */
#ifndef TESTS_SWEEP_HOSTILE_H
#define TESTS_SWEEP_HOSTILE_H

#include "pagedkv.h"
#include <stdbool.h>
#include <stddef.h>

enum { DIM = 16, SEQS = 7, DEAD = 64, BLOCKS = 16, EXTENT = 4096, EXTENTS = 2 };

enum { EMPTY, COMMITTED, RESERVED, PLANNED, FORKED, SPARE, GONE }; /* what the sequences are */

enum { OWNER = 1 }; /* the tenant that has a quota */

/* A cache and another of the same shape, with the same life. Both hold an extent of the arena, which
 * are all there are. */
struct world {
    pkv_arena* arena;
    pkv_cache* cache;
    pkv_cache* other;
    pkv_seq seqs[SEQS];
    pkv_seq foreign;
    pkv_plan plan;
    pkv_plan foreign_plan;
    pkv_seq dead_seqs[DEAD];
    pkv_plan dead_plans[DEAD];
    pkv_transfer dead_transfer;
    pkv_pin dead_pin;
    uint64_t random;
    uint64_t counts[32]; /* calls by the status they gave, negated */
};

extern const uint32_t world_tokens[16];

uint64_t world_next(struct world* w); /* a random number; below: in [0, bound) */
uint32_t world_below(struct world* w, uint32_t bound);

/* What names nothing that lives, and counts beyond any limit. */
uint64_t world_flip_bits(struct world* w, uint64_t id);
pkv_seq world_bad_seq(struct world* w);
pkv_plan world_bad_plan(struct world* w);
uint32_t world_huge(struct world* w);

static inline pkv_array world_array(float* data) {
    return (pkv_array){.data = data};
}

pkv_array world_bad_array(struct world* w, float* data); /* is not one of two rows or more */

/* Kinds of calls: each makes one, and returns its status. */
typedef struct hostile_kinds {
    const char* name;
    int (*const* calls)(struct world* w);
    uint32_t count;
} hostile_kinds;

extern const hostile_kinds hostile_on_seqs;
extern const hostile_kinds hostile_on_sharing;
extern const hostile_kinds hostile_on_plans;
extern const hostile_kinds hostile_on_caches;
extern const hostile_kinds hostile_on_tenants;
extern const hostile_kinds hostile_on_swaps;

#endif
