/* swaps.c - sequences to the host tier and back. What the simulated device decides by itself is when a
 * transfer is done, so that the model is told at its end how it ended. */
#include "sim/round.h"

static sim_transfer* find_transfer(sim* s, bool open) {
    const uint32_t first = sim_below(s, s->config.transfers_max);
    for (uint32_t i = 0; i < s->config.transfers_max; i++) {
        sim_transfer* transfer = &s->transfers[(first + i) % s->config.transfers_max];
        if ((transfer->handle.id != 0) == open) return transfer;
    }
    return NULL;
}

static void note_transfer(sim* s, pkv_transfer handle, uint32_t seq) {
    sim_transfer* transfer = find_transfer(s, false);
    if (transfer == NULL) {
        sim_fail(s, "more transfers than there can be");
        return;
    }
    *transfer = (sim_transfer){handle, seq};
}

/* Mostly one in that state. */
static uint32_t draw_seq_in(sim* s, enum pkv_residence residence) {
    const uint32_t count = s->config.sequences_max;
    const uint32_t first = sim_below(s, count);
    for (uint32_t i = 0; i < count && sim_percent(s, 97); i++) {
        const uint32_t index = (first + i) % count;
        const model_seq* seq = &s->model.seqs[index];
        if (seq->alive && !seq->in_plan && seq->residence == residence) return index;
    }
    return sim_draw_seq(s);
}

void sim_op_swap_out(sim* s) {
    const uint32_t seq = draw_seq_in(s, PKV_RESIDENT);
    const model_verdict verdict = model_swap_out_errors(&s->model, seq);
    pkv_transfer handle;
    sim_before(s, verdict);
    const int status = pkv_seq_swap_out(s->cache, sim_handle(s, seq), &handle);
    if (!sim_judge(s, "swap.out", verdict, status, seq, 0)) return;
    model_swap_out(&s->model, seq);
    note_transfer(s, handle, seq);
}

static void adopt_evictions(sim* s, uint32_t seq, int status) {
    uint32_t evicted;
    if (sim_has_made_room(s, status, &evicted)) model_swap_in_room(&s->model, seq);
}

void sim_op_swap_in(sim* s) {
    const uint32_t seq = draw_seq_in(s, PKV_AWAY);
    const model_verdict verdict = model_swap_in_errors(&s->model, seq);
    pkv_transfer handle;
    sim_before(s, verdict);
    const int status = pkv_seq_swap_in(s->cache, sim_handle(s, seq), &handle);
    if (!sim_judge(s, "swap.in", verdict, status, seq, 0)) {
        if (verdict.must == 0) adopt_evictions(s, seq, status);
        return;
    }
    model_swap_in(&s->model, seq);
    note_transfer(s, handle, seq);
    sim_learn_blocks(s, seq);
    sim_note_arrival(s, seq, false);
}

enum { POLL, WAIT, CANCEL };

int sim_call_transfer(sim* s, pkv_transfer handle, uint32_t which, uint32_t* done) {
    *done = 1;
    switch (which) {
    case POLL:
        return pkv_transfer_poll(s->cache, handle, done);
    case WAIT:
        return pkv_transfer_wait(s->cache, handle);
    default:
        return pkv_transfer_cancel(s->cache, handle);
    }
}

static void end_transfer(sim* s, sim_transfer* transfer, uint32_t which, int status) {
    const uint32_t seq = transfer->seq;
    const bool is_done = status == PKV_OK && which != CANCEL;
    const bool is_in = s->model.seqs[seq].residence == PKV_ARRIVING;
    if (is_in && is_done) sim_note_arrival(s, seq, true);
    s->model.counters.transfers_failed += status != PKV_OK;
    s->model.counters.transfers_cancelled += which == CANCEL;
    model_swap_end(&s->model, seq, is_done);
    transfer->handle.id = 0;
}

/* How a transfer ends was decided when it was first asked for, perhaps by faults that are over. */
static void call_transfer(sim* s, sim_transfer* transfer, uint32_t which) {
    static const char* const names[] = {"transfer.poll", "transfer.wait", "transfer.cancel"};
    const bool may_fail = s->round->faults_have_been && which != CANCEL;
    const uint32_t failures = MODEL_BIT(PKV_EIO) | MODEL_BIT(PKV_ETIMEDOUT);
    const model_verdict verdict = {0, may_fail ? failures : 0};
    uint32_t done;
    s->round->has_before =
        false; /* a failure, too, ends the transfer, and is judged by the model */
    const int status = sim_call_transfer(s, transfer->handle, which, &done);
    sim_judge(s, names[which], verdict, status, transfer->seq, done);
    if (!sim_is_well(s)) return;
    if (status != PKV_OK || done) end_transfer(s, transfer, which, status);
}

void sim_op_transfer(sim* s) {
    sim_transfer* transfer = find_transfer(s, true);
    if (transfer == NULL) return;
    const uint32_t ticket = sim_below(s, 10);
    call_transfer(s, transfer, ticket < 6 ? POLL : ticket < 8 ? WAIT : CANCEL);
}

void sim_end_transfers(sim* s) {
    for (uint32_t i = 0; i < s->config.transfers_max; i++)
        if (s->transfers[i].handle.id != 0) call_transfer(s, &s->transfers[i], WAIT);
}
