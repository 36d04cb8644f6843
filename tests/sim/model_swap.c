/* model_swap.c - sequences to the host tier and back. */
#include "sim/model_parts.h"

static uint32_t transfer_errors(const model* m) {
    if (m->config.host_blocks == 0) return MODEL_BIT(PKV_ENOTSUP);
    return m->transfers == m->config.transfers_max ? MODEL_BIT(PKV_EBUSY) : 0;
}

model_verdict model_swap_out_errors(const model* m, uint32_t seq) {
    model_verdict verdict = model_idle_errors(m, seq);
    verdict.must |= transfer_errors(m);
    if (!model_is_alive(m, seq)) return verdict;
    const uint32_t pages = model_kept_pages(m, &m->seqs[seq]);
    if (m->seqs[seq].reserved > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    if (pages > m->config.host_blocks)
        verdict.must |= MODEL_BIT(PKV_ETOOBIG);
    else if (pages > m->host_free)
        verdict.must |= MODEL_BIT(PKV_ENOHOST);
    return verdict;
}

void model_swap_out(model* m, uint32_t seq) {
    m->seqs[seq].residence = PKV_LEAVING;
    model_announce_from(&m->seqs[seq], UINT32_MAX);
    m->host_free -= model_kept_pages(m, &m->seqs[seq]);
    m->transfers++;
}

uint32_t model_slots_of(const model* m, uint32_t account) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++) {
        const model_seq* seq = &m->seqs[i];
        if (seq->alive && seq->residence != PKV_RESIDENT && model_account_of(m, i) == account)
            count += model_kept_pages(m, seq);
    }
    return count;
}

model_verdict model_swap_in_errors(const model* m, uint32_t seq) {
    model_verdict verdict = {transfer_errors(m), model_may_of_reserve(m)};
    if (!model_is_alive(m, seq)) return (model_verdict){verdict.must | MODEL_BIT(PKV_ESTALE), 0};
    const model_seq* s = &m->seqs[seq];
    if (s->residence == PKV_RESIDENT) verdict.must |= MODEL_BIT(PKV_EINVAL);
    if (s->residence == PKV_LEAVING) verdict.must |= MODEL_BIT(PKV_EBUSY);
    if (s->residence == PKV_ARRIVING) verdict.must |= MODEL_BIT(PKV_EBUSY);
    uint32_t need[MODEL_ACCOUNTS] = {0};
    if (s->residence == PKV_AWAY) need[model_account_of(m, seq)] = model_kept_pages(m, s);
    verdict.must |= model_need_errors(m, need);
    return verdict;
}

uint32_t model_swap_in_room(model* m, uint32_t seq) {
    uint32_t need[MODEL_ACCOUNTS] = {0};
    need[model_account_of(m, seq)] = model_kept_pages(m, &m->seqs[seq]);
    return model_make_room_for(m, need);
}

void model_swap_in(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    model_swap_in_room(m, seq);
    m->fresh_count = 0;
    for (uint32_t page = 0; page < model_seq_pages(m, s); page++)
        if (s->blocks[page] != MODEL_ROLLED) s->blocks[page] = model_block_take(m, s->tenant);
    s->residence = PKV_ARRIVING;
    m->transfers++;
    model_note_peak(m);
}

/* Let the blocks go, last page first. */
static void leave(model* m, model_seq* seq) {
    const uint32_t last = model_last_entry(m, seq);
    m->departures++;
    for (uint32_t page = model_seq_pages(m, seq); page-- > 0;)
        if (seq->blocks[page] != MODEL_ROLLED) model_block_leave(m, seq->blocks[page]);
    model_rest_again(m, last);
    seq->residence = PKV_AWAY;
}

static void stay(model* m, model_seq* seq) {
    m->host_free += model_kept_pages(m, seq);
    seq->residence = PKV_RESIDENT;
}

void model_swap_end(model* m, uint32_t seq, bool is_done) {
    model_seq* s = &m->seqs[seq];
    const uint64_t bytes = is_done ? model_kept_pages(m, s) * m->block_bytes : 0;
    const bool is_in = s->residence == PKV_ARRIVING;
    m->transfers--;
    *(is_in ? &m->counters.swap_in_bytes : &m->counters.swap_out_bytes) += bytes;
    if (is_in == is_done)
        stay(m, s);
    else
        leave(m, s);
    if (is_in && is_done) model_index_from(m, s, 0);
}
