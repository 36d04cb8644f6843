/* sharing.c - operations by which sequences tell each other what they have and are about to have. */
#include "sim/driver.h"

/* A text of some length, as `seq` would compute it from position 0 on. */
static uint32_t draw_text(sim* s, uint32_t seq) {
    const uint32_t count = sim_below(s, s->config.sequence_tokens_max + 1);
    if (sim_percent(s, 2)) return 1U << 31;
    if (seq != MODEL_NONE) sim_draw_tokens(s, seq, 0, count, s->tokens);
    return count;
}

void sim_op_lookup(sim* s) {
    uint32_t seq = sim_draw_seq(s);
    for (uint32_t i = 0; i < s->config.sequences_max && sim_percent(s, 90); i++)
        if (s->model.seqs[i].alive && s->model.seqs[i].length == 0) seq = i;
    const uint32_t count = draw_text(s, seq);
    model_verdict verdict = model_match_errors(&s->model, seq, count);
    verdict.may &= ~MODEL_BIT(PKV_ENOLEAVES);
    pkv_match match = {0, 0};
    sim_before(s, verdict);
    const int status = pkv_seq_lookup(s->cache, sim_handle(s, seq), s->tokens, count, &match);
    if (!sim_judge(s, "seq.lookup", verdict, status, match.matched, match.pending)) return;
    const pkv_match want = model_lookup(&s->model, seq, s->tokens, count);
    if (match.matched != want.matched)
        sim_fail(s, "lookup: %u matched, want %u", match.matched, want.matched);
    if (match.pending != want.pending)
        sim_fail(s, "lookup: %u pending, want %u", match.pending, want.pending);
    s->pending += match.pending;
}

void sim_op_announce(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    const uint32_t count = draw_text(s, seq);
    const model_verdict verdict = model_announce_errors(&s->model, seq, count);
    sim_before(s, verdict);
    const int status = pkv_seq_announce(s->cache, sim_handle(s, seq), s->tokens, count);
    if (sim_judge(s, "seq.announce", verdict, status, seq, count))
        model_announce(&s->model, seq, s->tokens, count);
}
