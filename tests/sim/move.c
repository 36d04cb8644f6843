/* move.c - blocks move together: what sequences hold may be called by other numbers afterwards, and
 * nothing else changes.
 *
 * The model's blocks have no numbers; those of the library are learnt again, and those of sequences
 * that a plan, a transfer or uncommitted tokens hold still must be the same. */
#include "sim/driver.h"

/* First page of a sequence that may not move. */
static uint32_t first_still_page(const sim* s, const model_seq* seq) {
    if (seq->in_plan || seq->residence != PKV_RESIDENT) return 0;
    if (seq->reserved > 0) return seq->length / s->model.block_tokens;
    return MODEL_NONE;
}

/* Forget the numbers of blocks that may have moved: all but those that are held still. */
static void forget_blocks(sim* s) {
    for (uint32_t i = 0; i < s->config.blocks; i++)
        s->numbers_before[i] = s->model.blocks[i].real;
    for (uint32_t i = 0; i < s->config.blocks; i++)
        s->model.blocks[i].real = MODEL_UNSEEN;
    for (uint32_t i = 0; i < s->config.sequences_max; i++) {
        const model_seq* seq = &s->model.seqs[i];
        if (!seq->alive || seq->residence == PKV_AWAY) continue;
        const uint32_t pages = model_pages(&s->model, seq->length + seq->reserved);
        for (uint32_t page = first_still_page(s, seq); page < pages; page++)
            if (seq->blocks[page] != MODEL_ROLLED)
                s->model.blocks[seq->blocks[page]].real = s->numbers_before[seq->blocks[page]];
    }
}

/* Numbers that the library has given up are nobody's until they are learnt again. */
static void learn_all(sim* s) {
    for (uint32_t i = 0; i < s->number_count; i++)
        s->model_of_real[i] = MODEL_NONE;
    for (uint32_t i = 0; i < s->config.blocks; i++)
        if (s->model.blocks[i].real < s->number_count)
            s->model_of_real[s->model.blocks[i].real] = i;
    for (uint32_t i = 0; i < s->config.sequences_max; i++)
        if (s->model.seqs[i].alive && s->model.seqs[i].residence != PKV_AWAY)
            sim_learn_blocks(s, i);
}

void sim_op_compact(sim* s) {
    if (s->names_victims) return; /* what is only cached could not be told from then on */
    const model_verdict verdict = {0, 0};
    const uint32_t max_moves = sim_below(s, 3) == 0 ? s->config.blocks : sim_below(s, 9);
    pkv_stats before = {.struct_size = sizeof before};
    pkv_stats after = {.struct_size = sizeof after};
    uint32_t moved = 0;
    pkv_cache_stats(s->cache, &before);
    sim_before(s, verdict);
    const int status = pkv_cache_compact(s->cache, max_moves, &moved);
    if (!sim_judge(s, "compact", verdict, status, max_moves, moved)) return;
    pkv_cache_stats(s->cache, &after);
    const uint32_t emptied = before.extents_used - after.extents_used;
    if (moved > max_moves) sim_fail(s, "compact moved %u blocks of at most %u", moved, max_moves);
    if ((moved > 0) != (emptied > 0)) sim_fail(s, "compact: %u moves, %u extents", moved, emptied);
    if (moved == 0) return;
    s->moves += moved;
    s->blocks_have_moved = true;
    forget_blocks(s);
    learn_all(s);
}
