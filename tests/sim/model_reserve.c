/* model_reserve.c - slots for the next tokens of many sequences at once, and token trees in them. */
#include "sim/model_parts.h"

#include <string.h>

/* ---- Decide ---------------------------------------------------------------------------------- */

/* The block that the next token of a sequence goes to, if it is partly filled; else PKV_NO_BLOCK. */
static uint32_t written_tail(const model* m, uint32_t index) {
    if (!model_is_alive(m, index)) return PKV_NO_BLOCK;
    const model_seq* seq = &m->seqs[index];
    const uint32_t used = seq->length + seq->reserved;
    if (seq->residence != PKV_RESIDENT || used % m->block_tokens == 0) return PKV_NO_BLOCK;
    return seq->blocks[used / m->block_tokens];
}

/* Entries before this one have left the block already; the last that names it keeps it, if it does
 * not share it with the index, or may take it out of there. */
static enum model_tail tail_of(const model* m, const model_entry* entries, uint32_t index,
                               bool is_scarce) {
    const uint32_t block = written_tail(m, entries[index].seq);
    if (block == PKV_NO_BLOCK) return MODEL_TAIL_STAYS;
    const model_seq* seq = &m->seqs[entries[index].seq];
    uint32_t left = 0;
    for (uint32_t i = 0; i < index; i++)
        left += written_tail(m, entries[i].seq) == block;
    const model_block* tail = &m->blocks[block];
    if (tail->holders > left + 1) return MODEL_TAIL_COPIED;
    if (!tail->indexed) return MODEL_TAIL_STAYS;
    const uint32_t offset = (seq->length + seq->reserved) % m->block_tokens;
    if (tail->tenant != seq->tenant) return MODEL_TAIL_COPIED;
    return is_scarce || tail->fill <= offset ? MODEL_TAIL_TAKEN : MODEL_TAIL_COPIED;
}

static bool entry_is_too_long(const model* m, const model_entry* entry) {
    const model_seq* seq = &m->seqs[entry->seq];
    return entry->count > m->config.sequence_tokens_max - seq->length - seq->reserved;
}

/* Errors of one entry by itself. */
static uint32_t entry_errors(const model* m, const model_entry* entry, bool is_plan) {
    uint32_t errors = 0;
    if (entry->count == 0) errors |= MODEL_BIT(PKV_EINVAL);
    if (!model_is_alive(m, entry->seq)) return errors | MODEL_BIT(PKV_ESTALE);
    const model_seq* seq = &m->seqs[entry->seq];
    errors |= model_idle_errors(m, entry->seq).must;
    if (is_plan && seq->reserved > 0) errors |= MODEL_BIT(PKV_EBUSY);
    if (entry_is_too_long(m, entry)) errors |= MODEL_BIT(PKV_ETOOBIG);
    return errors;
}

static uint64_t blocks_of_entry(const model* m, const model_entry* entries, uint32_t index,
                                bool is_scarce) {
    const model_entry* entry = &entries[index];
    if (!model_is_alive(m, entry->seq) || entry_is_too_long(m, entry)) return 0; /* it is refused */
    const model_seq* seq = &m->seqs[entry->seq];
    if (seq->residence != PKV_RESIDENT) return 0;
    const uint32_t pages = model_pages(m, seq->length + seq->reserved + entry->count);
    const bool is_copied = tail_of(m, entries, index, is_scarce) == MODEL_TAIL_COPIED;
    return pages - model_seq_pages(m, seq) + is_copied;
}

/* Blocks that each account needs. Returns their sum. */
static uint64_t set_need(const model* m, const model_entry* entries, uint32_t count, bool is_scarce,
                         uint32_t* need) {
    uint64_t blocks = 0;
    memset(need, 0, MODEL_ACCOUNTS * sizeof *need);
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t more = blocks_of_entry(m, entries, i, is_scarce);
        if (more > 0) need[model_account_of(m, entries[i].seq)] += (uint32_t)more;
        blocks += more;
    }
    return blocks;
}

/* Is there no room for the copies that would be made with more of it? */
static bool is_scarce(const model* m, const model_entry* entries, uint32_t count) {
    uint32_t need[MODEL_ACCOUNTS];
    set_need(m, entries, count, false, need);
    return model_need_errors(m, need) != 0;
}

/* Errors of all entries together; those that cannot be counted have said so themselves. */
static uint32_t sum_errors(const model* m, const model_entry* entries, uint32_t count) {
    uint32_t errors = 0;
    uint64_t tokens = 0;
    uint32_t need[MODEL_ACCOUNTS];
    const uint64_t blocks = set_need(m, entries, count, is_scarce(m, entries, count), need);
    for (uint32_t i = 0; i < count; i++)
        tokens += entries[i].count;
    if (tokens > m->config.plan_tokens_max) errors |= MODEL_BIT(PKV_ETOOBIG);
    if (blocks > m->config.blocks) return errors | MODEL_BIT(PKV_ETOOBIG);
    return errors | model_need_errors(m, need);
}

model_verdict model_begin_errors(const model* m, const model_entry* entries, uint32_t count) {
    uint32_t errors = sum_errors(m, entries, count);
    if (count == 0) errors |= MODEL_BIT(PKV_EINVAL);
    if (count > m->config.plan_sequences_max) errors |= MODEL_BIT(PKV_ETOOBIG);
    if (m->plans == m->config.plans_max) errors |= MODEL_BIT(PKV_EBUSY);
    for (uint32_t i = 0; i < count; i++) {
        errors |= entry_errors(m, &entries[i], true);
        for (uint32_t j = 0; j < i; j++)
            if (entries[j].seq == entries[i].seq) errors |= MODEL_BIT(PKV_EINVAL);
    }
    return (model_verdict){errors, model_may_of_reserve(m)};
}

model_verdict model_append_errors(const model* m, const model_entry* entry) {
    const uint32_t errors = sum_errors(m, entry, 1) | entry_errors(m, entry, false);
    return (model_verdict){errors, model_may_of_reserve(m)};
}

/* ---- Apply ----------------------------------------------------------------------------------- */

uint32_t model_make_room(model* m, const model_entry* entries, uint32_t count) {
    uint32_t need[MODEL_ACCOUNTS];
    set_need(m, entries, count, is_scarce(m, entries, count), need);
    return model_make_room_for(m, need);
}

/* The new tokens of one sequence, into its arrays. */
static void extend(model* m, model_seq* seq, const model_entry* entry) {
    const uint32_t first = seq->length + seq->reserved;
    const bool stay_known = entry->tokens != NULL && seq->known == first;
    for (uint32_t i = 0; i < entry->count; i++) {
        const uint64_t token = entry->tokens != NULL ? entry->tokens[i] : ++m->nonce << 32;
        seq->tokens[first + i] = (uint32_t)token;
        seq->chains[first + i] = model_chain_of(seq, first + i, token);
        seq->fills[first + i] = 0;
    }
    for (uint32_t page = model_seq_pages(m, seq); page < model_pages(m, first + entry->count);
         page++)
        seq->blocks[page] = model_block_take(m, seq->tenant);
    seq->reserved += entry->count;
    seq->is_tree = false;
    if (stay_known) seq->known = first + entry->count;
}

void model_reserve(model* m, const model_entry* entries, uint32_t count) {
    const bool scarce = is_scarce(m, entries, count);
    model_make_room(m, entries, count);
    m->fresh_count = 0;
    uint32_t copies = 0;
    for (uint32_t i = 0; i < count; i++) {
        m->tails[i] = tail_of(m, entries, i, scarce);
        copies += m->tails[i] == MODEL_TAIL_COPIED;
    }
    model_note_copies(m, copies);
    for (uint32_t i = 0; i < count; i++) {
        model_seq* seq = &m->seqs[entries[i].seq];
        if (m->tails[i] == MODEL_TAIL_COPIED) model_copy_tail(m, seq);
        if (m->tails[i] == MODEL_TAIL_TAKEN)
            model_index_remove(m, seq->blocks[model_seq_pages(m, seq) - 1]);
        extend(m, seq, &entries[i]);
    }
    model_note_peak(m);
}

/* ---- Trees ----------------------------------------------------------------------------------- */

void model_grow_tree(model* m, uint32_t seq, const uint32_t* parents) {
    model_seq* s = &m->seqs[seq];
    const bool is_known = s->known == s->length + s->reserved;
    s->is_tree = true;
    for (uint32_t i = 0; i < s->reserved; i++) {
        const uint32_t at = s->length + i;
        uint32_t before = s->length > 0 ? s->chains[s->length - 1] : 0;
        if (parents[i] != PKV_NO_PARENT) before = s->chains[s->length + parents[i]];
        const uint64_t token = is_known ? s->tokens[at] : ++m->nonce << 32;
        s->chains[at] = model_chain_behind(s, before, token);
        s->parents[i] = parents[i];
    }
}

void model_accept(model* m, uint32_t seq, const uint32_t* rows, uint32_t count) {
    model_seq* s = &m->seqs[seq];
    for (uint32_t i = 0; i < count; i++) {
        s->tokens[s->length + i] = s->tokens[s->length + rows[i]];
        s->chains[s->length + i] = s->chains[s->length + rows[i]];
        s->fills[s->length + i] = s->fills[s->length + rows[i]];
    }
    for (uint32_t page = model_seq_pages(m, s); page-- > model_pages(m, s->length + count);)
        model_block_release(m, s->blocks[page]);
    m->counters.tokens_rejected += s->reserved - count;
    s->reserved = count;
    s->known = min_u32(s->known, s->length + count);
    s->is_tree = false;
}

uint32_t model_position(const model_seq* seq, uint32_t place) {
    if (!seq->is_tree || place < seq->length) return place;
    uint32_t position = seq->length;
    for (uint32_t i = place - seq->length; seq->parents[i] != PKV_NO_PARENT; i = seq->parents[i])
        position++;
    return position;
}

bool model_sees(const model* m, const model_seq* seq, uint32_t from, uint32_t to) {
    const pkv_group_config* group = &m->config.groups[0];
    const uint32_t position = model_position(seq, to);
    if (to > from) return false;
    if (seq->is_tree && to >= seq->length) {
        uint32_t node = from - seq->length;
        while (node != PKV_NO_PARENT && node != to - seq->length)
            node = seq->parents[node];
        if (node == PKV_NO_PARENT) return false;
    }
    if (group->window == 0 || position < group->sinks) return true;
    return model_position(seq, from) - position < group->window;
}
