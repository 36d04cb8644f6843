/* round.h - one round: a cache, or several that share an arena, each beside its model (driver.h).
 *
 * Operations of the caches alternate at random. What one does must leave the sequences of the others
 * alone; their cached blocks may go where the header says so, and the trace says which went. */
#ifndef TESTS_SIM_ROUND_H
#define TESTS_SIM_ROUND_H

#include "sim/driver.h"

enum { ROUND_RECORDS = 24, ROUND_FAILURE_BYTES = 400 };

/* One call, for the report and for the hash of the run. */
typedef struct round_record {
    uint64_t number; /* of the operation that it is part of */
    uint32_t cache;
    const char* what;
    uint64_t a, b, c;
    int status;
} round_record;

typedef struct sim_round {
    sim_options options;
    uint64_t random;
    uint64_t hash;
    uint64_t op;
    uint64_t notes;                      /* calls made */
    uint64_t failed_calls;               /* calls that failed, rightly */
    char failure[ROUND_FAILURE_BYTES];   /* "" while all is well */
    round_record records[ROUND_RECORDS]; /* of the last calls */
    bool has_before;                     /* the digests before the call are known */
    bool faults_have_been;               /* residue may be rubbish, scrubs are not predicted */

    pkv_arena* arena; /* with small extents, so that they move; NULL: each cache has its own */
    model_arena memory;
    uint32_t arena_injected; /* statuses that the faults of the arena may cause */
    uint32_t* writers;       /* [extent_max] the cache whose bytes are in it, plus 1; 0: zeros */
    bool has_shrunk;
    bool has_regrown; /* after that: which extents hold zeros is not known, scrubs neither */
    uint64_t grown, shrunk, resizes_refused;
    uint64_t replaced; /* caches */

    uint32_t turn_percent; /* how often it is another cache's turn */
    uint32_t turn;         /* of this one */
    uint32_t sim_count;
    sim sims[MODEL_CACHES];
} sim_round;

/* Run one round. False when a difference was found; *r then says which, until round_close. */
bool round_run(sim_round* r, const sim_options* options);
void round_close(sim_round* r);
void round_report(const sim_round* r, const char* program);

void round_print_records(const sim_round* r); /* judge.c */
uint64_t round_next(uint64_t* random);        /* SplitMix64 */

/* arena.c: what the caches of a round share. */
void round_draw_arena(sim_round* r);
void round_watch_claims(sim_round* r);
void round_note_extent(sim* s, uint32_t real);
void round_forget_bytes(sim* s); /* what the cache has written is nobody's any more */
bool round_has_claims(sim* s);   /* has another cache just given up extents? */
void round_resize(sim_round* r);
void round_regrow(sim_round* r); /* to all the memory that there can be */
void round_check_memory(sim_round* r);
void round_destroy_arena(sim_round* r);

#endif
