/* model_parts.h - what the files of the model ask of each other. */
#ifndef TESTS_SIM_MODEL_PARTS_H
#define TESTS_SIM_MODEL_PARTS_H

#include "sim/model.h"

static inline uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* ---- model.c: sequences ---------------------------------------------------------------------- */

bool model_is_alive(const model* m, uint32_t seq);
uint32_t model_seq_pages(const model* m, const model_seq* seq);
uint32_t model_kept_pages(const model* m, const model_seq* seq);
uint32_t model_account_of(const model* m, uint32_t seq);
model_verdict model_idle_errors(const model* m, uint32_t seq);
uint32_t model_may_of_reserve(const model* m);

/* Hashes of all tokens up to one, after that of those before it. */
uint32_t model_chain_behind(const model_seq* seq, uint64_t before, uint64_t token);
uint32_t model_chain_of(const model_seq* seq, uint32_t position, uint64_t token);

/* A dead sequence gets the first `pages` pages of another, and holds them; one lets go of all that it has,
 * and leaves it in the index. */
void model_copy_seq(model* m, model_seq* to, const model_seq* from, uint32_t pages);
void model_let_go(model* m, model_seq* seq);

void model_cut(model* m, model_seq* seq, uint32_t length);
void model_copy_tail(model* m, model_seq* seq);
void model_note_copies(model* m, uint32_t copies);
void model_announce_from(model_seq* seq, uint32_t begin);
uint32_t model_last_entry(const model* m, const model_seq* seq);
void model_rest_again(model* m, uint32_t entry);
void model_roll_off(model* m, model_seq* seq);

/* ---- model_blocks.c -------------------------------------------------------------------------- */

uint32_t model_block_take(model* m, uint64_t tenant);
void model_block_hold(model* m, uint32_t i);
void model_block_leave(model* m,
                       uint32_t i); /* as one of several, after `departures` has moved on */
void model_block_release(model* m, uint32_t i);
void model_rest(model* m, model_block* block);
void model_index_remove(model* m, uint32_t entry);
void model_note_peak(model* m);
uint32_t model_make_room_for(model* m, const uint32_t* need);

/* ---- model_index.c --------------------------------------------------------------------------- */

/* Where entries are looked for: behind `parent`, for the position `begin` of a sequence. */
typedef struct model_place {
    const model_seq* seq;
    uint32_t parent;
    uint32_t begin;
    bool is_public; /* among the published ones; else among those of the tenant */
} model_place;

uint32_t model_find_at(const model* m, model_place at, const uint32_t* tokens, uint32_t count);
uint32_t model_index_find(const model* m, model_place at, const uint32_t* tokens, uint32_t count);
uint32_t model_index_longest(const model* m, model_place at, const uint32_t* tokens, uint32_t count,
                             uint32_t* common);
bool model_is_full_entry(const model* m, uint32_t block);
void model_index_from(model* m, model_seq* seq, uint32_t first_page);
void model_index_tail(model* m, model_seq* seq);

#endif
