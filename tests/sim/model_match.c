/* model_match.c - what is found of a text, what is announced of it, and who may find it. */
#include "sim/model_parts.h"

#include <string.h>

/* ---- Match ----------------------------------------------------------------------------------- */

model_verdict model_match_errors(const model* m, uint32_t seq, uint32_t count) {
    model_verdict verdict = model_idle_errors(m, seq);
    if (count > m->config.sequence_tokens_max) verdict.must |= MODEL_BIT(PKV_ETOOBIG);
    if (!model_is_alive(m, seq)) return verdict;
    if (model_seq_pages(m, &m->seqs[seq]) > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    if (m->leaves_are_tight) verdict.may |= MODEL_BIT(PKV_ENOLEAVES);
    return verdict;
}

/* Make the first `count` tokens of an index entry the next ones of a sequence. */
static void attach(model* m, model_seq* s, uint32_t entry, uint32_t count) {
    const model_block* block = &m->blocks[entry];
    model_block_hold(m, entry);
    s->blocks[s->length / m->block_tokens] = entry;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t position = s->length + i;
        s->tokens[position] = block->tokens[i];
        s->chains[position] = model_chain_of(s, position, block->tokens[i]);
        s->fills[position] = block->fills[i];
    }
    s->length += count;
}

/* The entry behind `parent` that has the next of the tokens [length, count), and how many: a
 * published one as long as *is_public and there is one. */
static uint32_t index_next(const model* m, const model_seq* seq, uint32_t parent,
                           const uint32_t* tokens, uint32_t length, uint32_t count, bool* is_public,
                           uint32_t* common) {
    const uint32_t piece = min_u32(count - length, m->block_tokens);
    const model_place at = {seq, parent, length, *is_public};
    *common = m->block_tokens;
    if (m->config.prefix_off) return MODEL_NONE;
    if (piece == m->block_tokens) {
        const uint32_t published =
            *is_public ? model_find_at(m, at, tokens + length, piece) : MODEL_NONE;
        if (published != MODEL_NONE) return published;
        const uint32_t full = model_index_find(m, at, tokens + length, piece);
        *is_public = false;
        if (full != MODEL_NONE) return full;
    }
    return model_index_longest(m, at, tokens + length, piece, common);
}

static uint32_t way_length(const model* m, const model_seq* seq, const uint32_t* tokens,
                           uint32_t count, bool is_public) {
    uint32_t parent = MODEL_NONE;
    uint32_t common = m->block_tokens;
    uint32_t length = 0;
    while (length < count && common == m->block_tokens) {
        parent = index_next(m, seq, parent, tokens, length, count, &is_public, &common);
        if (parent == MODEL_NONE) break;
        length += common;
    }
    return length;
}

/* Is the way that begins with published entries the longer one? */
static bool prefers_published(const model* m, const model_seq* seq, const uint32_t* tokens,
                              uint32_t count) {
    return way_length(m, seq, tokens, count, true) > way_length(m, seq, tokens, count, false);
}

uint32_t model_match(model* m, uint32_t seq, const uint32_t* tokens, uint32_t count) {
    model_seq* s = &m->seqs[seq];
    bool is_public = prefers_published(m, s, tokens, count);
    uint32_t parent = MODEL_NONE;
    uint32_t common = m->block_tokens;
    while (s->length < count && common == m->block_tokens) {
        parent = index_next(m, s, parent, tokens, s->length, count, &is_public, &common);
        if (parent == MODEL_NONE) break;
        if (m->blocks[parent].holders == 0 && !model_may_activate(m, m->blocks[parent].tenant))
            break;
        attach(m, s, parent, common);
    }
    model_announce_from(s, s->length / m->block_tokens);
    s->known = s->length;
    m->counters.prefix_query_tokens += count;
    m->counters.prefix_hit_tokens += s->length;
    m->quotas[model_account(m, s->tenant)].query_tokens += count;
    m->quotas[model_account(m, s->tenant)].hit_tokens += s->length;
    if (m->config.groups[0].window > 0) model_roll_off(m, s);
    model_note_peak(m);
    return s->length;
}

/* ---- Look up and announce -------------------------------------------------------------------- */

/* Has a living sequence of the tenant announced this page of the same text under the same keys? */
static bool is_announced(const model* m, const model_seq* asking, const uint32_t* tokens,
                         uint32_t page) {
    const size_t bytes = (page + 1) * m->block_tokens * sizeof *tokens;
    for (uint32_t i = 0; i < m->config.sequences_max; i++) {
        const model_seq* seq = &m->seqs[i];
        if (!seq->alive || seq->tenant != asking->tenant || seq->salt != asking->salt) continue;
        if (page < seq->announced_begin || page >= seq->announced_end) continue;
        if (memcmp(seq->keys, asking->keys, bytes) != 0) continue;
        if (memcmp(seq->announced, tokens, bytes) == 0) return true;
    }
    return false;
}

pkv_match model_lookup(const model* m, uint32_t seq, const uint32_t* tokens, uint32_t count) {
    const model_seq* s = &m->seqs[seq];
    pkv_match match = {0, 0};
    uint32_t need[MODEL_ACCOUNTS] = {0};
    bool is_public = prefers_published(m, s, tokens, count);
    uint32_t parent = MODEL_NONE;
    uint32_t common = m->block_tokens;
    while (match.matched < count && common == m->block_tokens) {
        parent = index_next(m, s, parent, tokens, match.matched, count, &is_public, &common);
        if (parent == MODEL_NONE) break;
        if (m->blocks[parent].holders == 0) {
            need[model_account(m, m->blocks[parent].tenant)]++;
            if ((model_quota_errors(m, need) & MODEL_BIT(PKV_ENOBLOCKS)) != 0) break;
        }
        match.matched += common;
    }
    uint32_t page = match.matched / m->block_tokens;
    while (page < count / m->block_tokens && is_announced(m, s, tokens, page))
        page++;
    if (page * m->block_tokens > match.matched)
        match.pending = page * m->block_tokens - match.matched;
    return match;
}

model_verdict model_announce_errors(const model* m, uint32_t seq, uint32_t count) {
    model_verdict verdict = model_idle_errors(m, seq);
    if (count > m->config.sequence_tokens_max) verdict.must |= MODEL_BIT(PKV_ETOOBIG);
    return verdict;
}

void model_announce(model* m, uint32_t seq, const uint32_t* tokens, uint32_t count) {
    model_seq* s = &m->seqs[seq];
    uint32_t left = m->config.announced_pages_max;
    model_announce_from(s, UINT32_MAX);
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        if (m->seqs[i].alive) left -= m->seqs[i].announced_end - m->seqs[i].announced_begin;
    if (m->config.prefix_off) left = 0;
    const uint32_t begin = s->length / m->block_tokens;
    const uint32_t end = count / m->block_tokens;
    s->announced_begin = begin;
    s->announced_end = end > begin ? begin + min_u32(end - begin, left) : begin;
    memcpy(s->announced, tokens, count * sizeof *tokens);
    model_announce_from(s, begin);
}

/* ---- Keys and publishing --------------------------------------------------------------------- */

model_verdict model_keys_errors(const model* m, uint32_t seq) {
    model_verdict verdict = model_idle_errors(m, seq);
    if (model_is_alive(m, seq) && model_seq_pages(m, &m->seqs[seq]) > 0)
        verdict.must |= MODEL_BIT(PKV_EBUSY);
    return verdict;
}

void model_set_keys(model* m, uint32_t seq, uint32_t salt, const uint32_t* keys) {
    model_seq* s = &m->seqs[seq];
    model_announce_from(s, UINT32_MAX);
    s->salt = salt;
    memcpy(s->keys, keys, m->config.sequence_tokens_max * sizeof *keys);
}

model_verdict model_publish_errors(const model* m, uint32_t seq, uint32_t count) {
    model_verdict verdict = model_idle_errors(m, seq);
    if (model_is_alive(m, seq) && count > m->seqs[seq].length)
        verdict.must |= MODEL_BIT(PKV_ERANGE);
    return verdict;
}

uint32_t model_publish(model* m, uint32_t seq, uint32_t count) {
    const model_seq* s = &m->seqs[seq];
    uint32_t parent = MODEL_NONE;
    uint32_t page = 0;
    for (; page < count / m->block_tokens; page++) {
        const uint32_t own = s->blocks[page];
        if (own == MODEL_ROLLED || !model_is_full_entry(m, own)) break;
        const model_place at = {s, parent, page * m->block_tokens, true};
        const uint32_t equal = model_find_at(m, at, m->blocks[own].tokens, m->block_tokens);
        parent = equal != MODEL_NONE ? equal : own;
        if (equal != MODEL_NONE) continue;
        m->blocks[own].published = true;
        m->blocks[own].parent = at.parent;
        m->blocks[own].indexed_at = ++m->now;
    }
    return page * m->block_tokens;
}
