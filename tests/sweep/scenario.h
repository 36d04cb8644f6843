/* scenario.h - one short program that calls every public function, cut into steps that can be
 * retried.
 *
 * A step that fails must leave the scenario as it was, so that a sweep can let any operation inside
 * it fail, look at the damage, call it again, and go on to the end. Two tenants, forks that copy
 * their tails, a shared prefix, an abort, eviction, blocks that change tenant, and swapping are all in
 * it.
 *
 * It runs on caches of several kinds. Where K and V have scales, blocks hold four times the tokens,
 * and so does everything that the steps reserve. */
#ifndef TESTS_SWEEP_SCENARIO_H
#define TESTS_SWEEP_SCENARIO_H

#include "pagedkv.h"
#include <stdbool.h>

enum { SCENARIO_SEQS = 4, SCENARIO_TOKENS = 4 * 48, SCENARIO_DIM = 16 };

typedef struct scenario_kind {
    const char* name;
    const char* device;
    bool is_scaled; /* K in i4, V in i8 */
    uint32_t cow;
} scenario_kind;

extern const scenario_kind scenario_kinds[];
extern const uint32_t scenario_kind_count;

typedef struct scenario {
    pkv_cache* cache;
    uint32_t quarter; /* tokens of a quarter of a block */
    float v_unit;     /* of V, so that its type holds it exactly */
    pkv_seq seqs[SCENARIO_SEQS];
    pkv_plan plan;
    uint32_t tokens[SCENARIO_TOKENS];
    uint32_t matched;
    float k[SCENARIO_TOKENS * SCENARIO_DIM];
    float v[SCENARIO_TOKENS * SCENARIO_DIM];
    float out[SCENARIO_TOKENS * SCENARIO_DIM];
    float lse[SCENARIO_TOKENS];
    bool is_wrong; /* a step succeeded, but its result was not what it had to be */
} scenario;

typedef struct scenario_step {
    const char* name;
    int (*run)(scenario* s);
} scenario_step;

extern const scenario_step scenario_steps[];
extern const uint32_t scenario_step_count;

/* A config of 12 blocks of 4 tokens, or of 16 where they have scales, and a host tier of as many. */
pkv_config scenario_config(const scenario_kind* kind);

/* `cache` was created from a config of this kind. */
void scenario_start(scenario* s, pkv_cache* cache, const scenario_kind* kind);

#endif
