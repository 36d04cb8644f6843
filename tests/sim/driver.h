/* driver.h - a random program over the public interface of one cache, run beside the model.
 *
 * A round (round.h) has one cache or several: their configurations, workload and faults are drawn from
 * one seed, so that a failure is replayed by naming the seed. An operation goes through four steps:
 *
 *   verdict   the model says which statuses are allowed
 *   before    where the call may fail, pkv_check is asked for the digests, of all caches
 *   call      the library does it
 *   judge     the status must be allowed; after a failure the digests must be the same; after a
 *             success the model does it too, and every number and every K/V value that it predicts
 *             must come out, and no sequence of another cache has changed
 *
 * The first difference is kept and ends the round; nothing here exits or prints. */
#ifndef TESTS_SIM_DRIVER_H
#define TESTS_SIM_DRIVER_H

#include "sim/model.h"
#include "sim/row.h"

enum {
    SIM_TENANTS = 3,
    SIM_KEY_SETS = 5,  /* different sets of extra keys */
    SIM_DOCS = 4,      /* texts that sequences copy from, so that prefixes meet */
    SIM_DEAD = 16,     /* dead handles kept for hostile calls */
    SIM_EVENTS = 1024, /* as many as the trace keeps */
};

typedef struct sim_options {
    uint64_t seed;
    uint64_t ops;
    const char* device;
    bool swarm;               /* faults, drawn anew every few hundred operations */
    enum model_canary canary; /* plant an error in the model: the round must fail */
    bool verbose;             /* print every operation */
} sim_options;

typedef struct sim_plan {
    pkv_plan handle; /* id 0: not open */
    uint32_t entries;
    uint32_t tokens;
    bool written;
    bool has_trees;
    uint32_t* seqs;   /* [plan_sequences_max] */
    uint32_t* counts; /* [plan_sequences_max] */
} sim_plan;

typedef struct sim_transfer {
    pkv_transfer handle; /* id 0: none */
    uint32_t seq;
} sim_transfer;

/* Numbers [from] and [to] of a block that compaction has moved. */
typedef struct sim_move {
    uint32_t from;
    uint32_t to;
} sim_move;

/* Pins that somebody wants to end: this one, or those of an owner; 0 and UINT64_MAX for none. */
typedef struct sim_release {
    uint64_t id;
    uint64_t owner;
} sim_release;

struct sim_round;

/* One cache of a round. */
typedef struct sim {
    struct sim_round* round;
    sim_options options;
    uint64_t random;
    uint64_t published; /* tokens that were published in this round */
    uint64_t pending;   /* tokens that were found to be on their way */
    uint64_t fired;     /* faults that took an action */
    uint64_t retained;  /* blocks that were asked to be */
    uint64_t pinned;    /* pins that were made */
    uint64_t quotas_set;
    uint64_t quota_refusals;  /* calls that gave PKV_EQUOTA */
    uint64_t memory_refusals; /* that gave PKV_ENOBLOCKS since other caches hold the memory */

    pkv_config config;
    uint32_t number_count; /* the library's numbers of blocks are below */
    pkv_cache* cache;
    model model;
    uint32_t tenants;
    uint32_t vocabulary;
    bool publishes; /* in some rounds tenants publish; in the others nothing is common to them */
    uint32_t check_every;    /* operations between two calls of pkv_check */
    uint32_t* docs;          /* [SIM_DOCS][sequence_tokens_max] */
    uint32_t* doc_of;        /* [sequences_max] the text a sequence copies from */
    pkv_seq* handles;        /* [sequences_max] of the model's sequences, by the same index */
    sim_plan* plans;         /* [plans_max] */
    sim_transfer* transfers; /* [transfers_max] */
    pkv_seq dead_seqs[SIM_DEAD];
    pkv_plan dead_plans[SIM_DEAD];

    uint32_t injected; /* statuses that the faults in force may cause */
    pkv_report before;
    uint64_t scrubs;         /* predicted */
    uint64_t* real_tenant;   /* [number_count] whose bytes are in the library's block */
    bool* real_written;      /* [number_count] */
    bool* real_mixed;        /* [number_count] an arrival that failed has left bytes there */
    uint32_t* model_of_real; /* [number_count] */
    uint8_t* told_of;        /* [number_count] what the application has been told of the block */
    uint64_t events_told;
    uint64_t compacts_failed; /* copies of which have failed, so that nothing moved */
    bool predicts_victims;    /* by the policy; else the model is told whom it evicts */
    bool goes_from_the_end;   /* what a sequence has let go of, whatever its policy has learned */
    uint64_t events_seen;     /* of the trace */
    uint64_t told;            /* victims that were not predicted */
    uint32_t victim_count;
    uint32_t victims[SIM_EVENTS]; /* evicted by the library, not yet by the model */
    sim_release releases;
    uint32_t move_count;
    sim_move moves[SIM_EVENTS]; /* likewise */
    pkv_trace_event events[SIM_EVENTS];
    int64_t hook_bytes; /* held through the memory hook */
    uint64_t hook_calls;

    uint32_t* tokens;           /* [plan_tokens_max + slack] of the call being made */
    model_entry* model_entries; /* [plan_sequences_max + 1] */
    pkv_entry* entries;
    const uint32_t** parents; /* [plan_sequences_max + 1] of the entries; in parent_rows */
    uint32_t* parent_rows;    /* [plan_tokens_max + slack] */
    pkv_path* paths;          /* [plan_sequences_max + 1]; in path_rows */
    uint32_t* path_rows;      /* [plan_tokens_max + slack] */
    uint32_t* numbers;        /* room for blocks and slots */
    float* k;                 /* room for the rows of a plan or a sequence */
    float* v;
} sim;

/* driver.c: a cache from its creation to its end. */
void sim_open(sim* s);
void sim_converge(sim* s); /* faults stop: every sequence has to end, every block to come back */
void sim_destroy(sim* s);
void sim_close(sim* s); /* gives the memory of the test back, however the round has ended */
void sim_turn_faults(sim* s);

/* judge.c: what calls may return, and what has to be as it was. */
bool sim_is_well(const sim* s); /* no difference was found in this round */
void sim_fail(sim* s, const char* format, ...) __attribute__((format(printf, 2, 3)));
void sim_before(sim* s, model_verdict verdict);
/* True when the call succeeded, and rightly. */
bool sim_judge(sim* s, const char* what, model_verdict verdict, int status, uint64_t a, uint64_t b);
void sim_note(sim* s, const char* what, uint64_t a, uint64_t b, uint64_t c, int status);
void sim_take_report(sim* s, pkv_report* report);
void sim_check_stats(sim* s); /* all numbers that can be predicted */

/* draw.c: what is random about a round. */
uint64_t sim_next(sim* s);
uint32_t sim_below(sim* s, uint32_t bound); /* uniform in [0, bound); 0 for 0 */
uint32_t sim_between(sim* s, uint32_t low, uint32_t high);
bool sim_percent(sim* s, uint32_t percent);
void sim_draw_config(sim* s);
void sim_draw_docs(sim* s);
void sim_draw_faults(sim* s);
uint64_t sim_draw_tenant(sim* s, uint32_t count); /* one of so many */
uint32_t sim_draw_seq(sim* s); /* a live one mostly, MODEL_NONE if there is none */
void sim_draw_tokens(sim* s, uint32_t seq, uint32_t position, uint32_t count, uint32_t* tokens);
pkv_seq sim_handle(const sim* s, uint32_t seq); /* a dead handle for MODEL_NONE */

/* ops.c: operations on sequences and plans. */
void sim_op(sim* s);
void sim_rest(sim* s);
void sim_end_plan(sim* s, sim_plan* plan, bool commit);
void sim_free_seq(sim* s, uint32_t seq);
bool sim_has_made_room(sim* s, int status, uint32_t* evicted); /* in a call that has failed */

/* trees.c: trees of guesses, and the ends of plans that keep a part. */
bool sim_draw_trees(sim* s, uint32_t count, model_verdict* verdict);
void sim_plant_trees(sim* s, sim_plan* plan);
void sim_accept_plan(sim* s, sim_plan* plan);
void sim_close_plan(sim* s, sim_plan* plan, bool commit);

/* sharing.c: what others compute, and what may be shared with whom. */
void sim_op_lookup(sim* s);
void sim_op_announce(sim* s);
void sim_op_set_keys(sim* s);
void sim_op_publish(sim* s);
void sim_op_drop(sim* s);

/* retain.c: what stays how long. Settling: what has come due takes effect in both. */
void sim_settle(sim* s);
void sim_op_retain(sim* s);

/* pins.c: what is held beyond its sequence. */
void sim_op_pin(sim* s);
void sim_end_pin(sim* s, uint64_t id);
void sim_expect_pins_in_time(sim* s);
void sim_release_pins(sim* s);

/* quotas.c: who may have how many blocks. */
void sim_op_quota(sim* s);
void sim_end_quotas(sim* s);

/* swaps.c: to the host tier and back. */
void sim_op_swap_out(sim* s);
void sim_op_swap_in(sim* s);
void sim_op_transfer(sim* s);
void sim_end_transfers(sim* s);
int sim_call_transfer(sim* s, pkv_transfer handle, uint32_t which, uint32_t* done);

/* victims.c: who was evicted, and what has moved, as the trace says. */
void sim_draw_policy(sim* s);
void sim_watch_victims(sim* s);
void sim_read_trace(sim* s);
bool sim_take_victim(sim* s, uint32_t real); /* was it evicted? then it counts as done */
void sim_check_victims(sim* s);

/* hook.c: an application that chooses, and is told what becomes of blocks. */
void sim_draw_hook(sim* s);

/* move.c: blocks move together. */
void sim_op_compact(sim* s);

/* content.c: K/V. */
void sim_write_plan(sim* s, sim_plan* plan);
void sim_write_seq(sim* s, uint32_t seq);
void sim_read_range(sim* s, uint32_t seq, uint32_t begin, uint32_t end);
void sim_attend_plan(sim* s, const sim_plan* plan);

/* books.c: block numbers, slots, plans' arrays, hostile handles. */
void sim_learn_blocks(sim* s, uint32_t seq);
void sim_expect_scrubs(sim* s);
void sim_note_arrival(sim* s, uint32_t seq, bool is_done);
void sim_check_plan(sim* s, const sim_plan* plan);
void sim_hostile(sim* s);

#endif
