/* scenario.h - one short program that calls every public function, cut into steps that can be
 * retried.
 *
 * A step that fails must leave the scenario as it was, so that a sweep can let any operation inside
 * it fail, look at the damage, call it again, and go on to the end. Two tenants, forks that copy
 * their tails, a shared prefix, an abort, eviction, and blocks that change tenant are all in it. */
#ifndef TESTS_SWEEP_SCENARIO_H
#define TESTS_SWEEP_SCENARIO_H

#include "pagedkv.h"
#include <stdbool.h>

enum { SCENARIO_SEQS = 4, SCENARIO_TOKENS = 48, SCENARIO_DIM = 16 };

typedef struct scenario {
    pkv_cache* cache;
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

/* A config for `device`, with 12 blocks of 4 tokens. */
pkv_config scenario_config(const char* device);

void scenario_start(scenario* s, pkv_cache* cache);

#endif
