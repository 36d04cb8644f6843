/* move.c - blocks move together: what sequences hold may be called by other numbers afterwards, and
 * nothing else changes.
 *
 * The trace says what has moved where. Blocks that a plan, a transfer or uncommitted tokens hold still
 * must not be among them, and each extent that a block has left must be empty. */
#include "sim/round.h"

#include <string.h>

/* First page of a sequence that may not move. */
static uint32_t first_still_page(const sim* s, const model_seq* seq) {
    if (seq->in_plan || seq->residence != PKV_RESIDENT) return 0;
    if (seq->reserved > 0) return seq->length / s->model.block_tokens;
    return MODEL_NONE;
}

static bool is_still(const sim* s, uint32_t block) {
    for (uint32_t i = 0; i < s->config.sequences_max; i++) {
        const model_seq* seq = &s->model.seqs[i];
        if (!seq->alive || seq->residence == PKV_AWAY) continue;
        const uint32_t pages = model_pages(&s->model, seq->length + seq->reserved);
        for (uint32_t page = first_still_page(s, seq); page < pages; page++)
            if (seq->blocks[page] == block) return true;
    }
    return false;
}

/* The block in use that has a number, or MODEL_NONE. */
static uint32_t find_block(const sim* s, uint32_t real) {
    const uint32_t i = real < s->number_count ? s->model_of_real[real] : MODEL_NONE;
    if (i == MODEL_NONE || s->model.blocks[i].real != real) return MODEL_NONE;
    return model_is_used(&s->model.blocks[i]) ? i : MODEL_NONE;
}

/* Its bytes go along, and stay where they were as well. */
static void follow_move(sim* s, sim_move move) {
    const uint32_t block = find_block(s, move.from);
    if (block == MODEL_NONE || move.to >= s->number_count || find_block(s, move.to) != MODEL_NONE) {
        sim_fail(s, "block %u moved to %u", move.from, move.to);
        return;
    }
    if (is_still(s, block)) sim_fail(s, "block %u moved while it was held still", move.from);
    s->model.blocks[block].real = move.to;
    s->model_of_real[move.to] = block;
    s->real_tenant[move.to] = s->real_tenant[move.from];
    s->real_written[move.to] = s->real_written[move.from];
    s->real_mixed[move.to] = s->real_mixed[move.from];
}

static void expect_empty(sim* s, uint32_t extent) {
    for (uint32_t i = 0; i < s->config.blocks; i++)
        if (model_is_used(&s->model.blocks[i]) && model_extent_of(&s->model, i) == extent)
            sim_fail(s, "blocks of extent %u moved, and it is not empty", extent);
}

static void follow_moves(sim* s, uint32_t moved) {
    sim_read_trace(s);
    if (s->move_count != moved) sim_fail(s, "%u moves, want %u", s->move_count, moved);
    const uint32_t held = s->model.arena != NULL ? model_held_extents(&s->model) : 0;
    for (uint32_t i = 0; i < s->move_count && sim_is_well(s); i++)
        follow_move(s, s->moves[i]);
    for (uint32_t i = 0; i < s->move_count && sim_is_well(s); i++)
        expect_empty(s, s->moves[i].from / s->model.per_extent);
    if (s->model.arena != NULL && sim_is_well(s))
        s->model.counters.extents_emptied += held - model_held_extents(&s->model);
    s->model.counters.blocks_moved += moved;
    s->move_count = 0;
}

/* Sequences must see the new numbers. */
static void learn_all(sim* s) {
    for (uint32_t i = 0; i < s->config.sequences_max; i++)
        if (s->model.seqs[i].alive && s->model.seqs[i].residence != PKV_AWAY)
            sim_learn_blocks(s, i);
}

/* Could all of an extent go into the others that the cache holds, with so many moves? */
static bool can_become_empty(const sim* s, uint32_t extent, uint32_t max_moves) {
    const model* m = &s->model;
    uint32_t used = 0;
    for (uint32_t i = 0; i < s->config.blocks; i++) {
        if (!model_is_used(&m->blocks[i]) || model_extent_of(m, i) != extent) continue;
        if (is_still(s, i)) return false;
        used++;
    }
    const uint32_t room_of_others =
        (model_held_extents(m) - 1) * m->per_extent - (model_used_blocks(m) - used);
    return used > 0 && used <= max_moves && used <= room_of_others;
}

/* In an arena of its own all blocks are in one extent, or each has one. */
static void expect_nothing_to_gain(sim* s, uint32_t max_moves) {
    if (s->model.arena == NULL) return;
    for (uint32_t extent = 0; extent < s->model.arena->extent_max; extent++)
        if (can_become_empty(s, extent, max_moves))
            sim_fail(s, "nothing moved, but extent %u could be emptied", extent);
}

void sim_op_compact(sim* s) {
    const model_verdict verdict = {0, 0};
    const uint32_t max_moves = sim_below(s, 3) == 0 ? s->config.blocks : sim_below(s, 9);
    uint32_t moved = 0;
    sim_before(s, verdict);
    const int status = pkv_cache_compact(s->cache, max_moves, &moved);
    if (!sim_judge(s, "compact", verdict, status, max_moves, moved)) {
        s->compacts_failed++;
        return;
    }
    if (moved > max_moves) sim_fail(s, "compact moved %u blocks of at most %u", moved, max_moves);
    if (moved == 0) {
        expect_nothing_to_gain(s, max_moves);
        return;
    }
    follow_moves(s, moved);
    learn_all(s);
}
