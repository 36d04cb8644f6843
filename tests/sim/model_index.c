/* model_index.c - the prefix index: by looking at all entries each time. */
#include "sim/model_parts.h"

#include <string.h>

/* ---- Find ------------------------------------------------------------------------------------ */

static bool is_at(const model_block* block, model_place at) {
    if (!block->indexed || block->parent != at.parent) return false;
    if (block->published != at.is_public) return false;
    return at.is_public || block->tenant == at.seq->tenant;
}

/* How many of `count` tokens does an entry begin with, under the same extra keys? */
static uint32_t shared_with(const model_block* block, model_place at, const uint32_t* tokens,
                            uint32_t count) {
    uint32_t shared = 0;
    if (at.begin == 0 && block->salt != at.seq->salt) return 0;
    while (shared < count && shared < block->fill && block->tokens[shared] == tokens[shared] &&
           block->keys[shared] == at.seq->keys[at.begin + shared])
        shared++;
    return shared;
}

uint32_t model_find_at(const model* m, model_place at, const uint32_t* tokens, uint32_t count) {
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        const model_block* block = &m->blocks[i];
        if (!is_at(block, at) || block->fill != count) continue;
        if (shared_with(block, at, tokens, count) == count) return i;
    }
    return MODEL_NONE;
}

/* The index entry of exactly these tokens, of the tenant or else published, or MODEL_NONE. */
uint32_t model_index_find(const model* m, model_place at, const uint32_t* tokens, uint32_t count) {
    at.is_public = false;
    const uint32_t own = model_find_at(m, at, tokens, count);
    at.is_public = true;
    return own != MODEL_NONE ? own : model_find_at(m, at, tokens, count);
}

/* The newest entry that begins with `token` and is older than `before`. */
static uint32_t next_sibling(const model* m, model_place at, uint32_t token, uint64_t before) {
    uint32_t newest = MODEL_NONE;
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        const model_block* block = &m->blocks[i];
        if (!is_at(block, at)) continue;
        if (block->tokens[0] != token || block->indexed_at >= before) continue;
        if (newest == MODEL_NONE || block->indexed_at > m->blocks[newest].indexed_at) newest = i;
    }
    return newest;
}

/* Improve on `longest` by the newest entries of one kind. */
static uint32_t longest_at(const model* m, model_place at, const uint32_t* tokens, uint32_t count,
                           uint32_t longest, uint32_t* common) {
    uint64_t before = UINT64_MAX;
    for (uint32_t n = 0; n < MODEL_SIBLINGS && count > 0; n++) {
        const uint32_t i = next_sibling(m, at, tokens[0], before);
        if (i == MODEL_NONE) break;
        const uint32_t shared = shared_with(&m->blocks[i], at, tokens, count);
        if (shared > *common) longest = i;
        if (shared > *common) *common = shared;
        before = m->blocks[i].indexed_at;
    }
    return longest;
}

/* The entry that shares most of the beginning of `tokens`, among the newest ones. */
uint32_t model_index_longest(const model* m, model_place at, const uint32_t* tokens, uint32_t count,
                             uint32_t* common) {
    *common = 0;
    at.is_public = false;
    const uint32_t own = longest_at(m, at, tokens, count, MODEL_NONE, common);
    at.is_public = true;
    return longest_at(m, at, tokens, count, own, common);
}

/* Is it an entry that others can stand behind? */
bool model_is_full_entry(const model* m, uint32_t block) {
    return m->blocks[block].indexed && m->blocks[block].fill == m->block_tokens;
}

/* ---- Add ------------------------------------------------------------------------------------- */

/* May the page enter the index? Only when it and what is before it are there. */
static bool is_indexable(const model* m, const model_seq* seq, uint32_t page, uint32_t* parent) {
    *parent = MODEL_NONE;
    if (seq->blocks[page] == MODEL_ROLLED) return false;
    if (page == 0) return true;
    *parent = seq->blocks[page - 1];
    return *parent != MODEL_ROLLED && model_is_full_entry(m, *parent);
}

static void index_add(model* m, const model_seq* seq, uint32_t page, uint32_t parent,
                      uint32_t fill) {
    model_block* block = &m->blocks[seq->blocks[page]];
    const uint32_t begin = page * m->block_tokens;
    block->indexed = true;
    block->parent = parent;
    block->fill = fill;
    block->indexed_at = ++m->now;
    memcpy(block->tokens, seq->tokens + begin, fill * sizeof(uint32_t));
    memcpy(block->fills, seq->fills + begin, fill * sizeof(uint32_t));
    memcpy(block->keys, seq->keys + begin, fill * sizeof(uint32_t));
    block->salt = page == 0 ? seq->salt : 0;
    m->counters.prefix_inserts++;
}

/* An idle block of another tenant becomes active only when its quota allows. */
static bool may_share(const model* m, uint32_t own, uint32_t equal) {
    const model_block* block = &m->blocks[equal];
    if (model_account(m, block->tenant) == model_account(m, m->blocks[own].tenant)) return true;
    return block->holders > 0 || model_may_activate(m, block->tenant);
}

/* What was asked for a block that goes is asked for the equal one. */
static void leave_terms(const model_block* own, model_block* equal) {
    if (own->holders > 1 || own->tenant != equal->tenant || !model_is_retained(own)) return;
    model_set_terms(equal, &own->terms);
}

/* Put one full page into the index, or take over the equal one. False when it cannot be. */
static bool index_page(model* m, model_seq* seq, uint32_t page) {
    uint32_t parent;
    if (!is_indexable(m, seq, page, &parent)) return false;
    const uint32_t begin = page * m->block_tokens;
    const size_t bytes = m->block_tokens * sizeof(uint32_t);
    const uint32_t own = seq->blocks[page];
    const model_place at = {seq, parent, begin, false};
    const uint32_t equal = model_index_find(m, at, seq->tokens + begin, m->block_tokens);
    if (equal != MODEL_NONE) {
        if (m->canary == MODEL_FORGETS_EQUALS) return true;
        if (!may_share(m, own, equal)) return false;
        model_block_hold(m, equal);
        leave_terms(&m->blocks[own], &m->blocks[equal]);
        model_block_release(m, own);
        seq->blocks[page] = equal;
        memcpy(seq->fills + begin, m->blocks[equal].fills, bytes);
        m->counters.prefix_duplicates++;
        return true;
    }
    index_add(m, seq, page, parent, m->block_tokens);
    return true;
}

void model_index_from(model* m, model_seq* seq, uint32_t first_page) {
    const uint32_t full_pages = seq->known / m->block_tokens;
    for (uint32_t page = first_page; page < full_pages && !m->config.prefix_off; page++)
        if (!index_page(m, seq, page)) return;
}

/* The last, partly filled page of a sequence that ends, unless as much of it is there already. */
void model_index_tail(model* m, model_seq* seq) {
    const uint32_t known = min_u32(seq->known, seq->length);
    const uint32_t page = known / m->block_tokens;
    const uint32_t fill = known % m->block_tokens;
    uint32_t parent;
    uint32_t common;
    if (m->config.prefix_off || fill == 0) return;
    if (!is_indexable(m, seq, page, &parent) || m->blocks[seq->blocks[page]].indexed) return;
    const uint32_t* tokens = seq->tokens + page * m->block_tokens;
    const model_place at = {seq, parent, page * m->block_tokens, false};
    model_index_longest(m, at, tokens, fill, &common);
    if (common == fill) return;
    if (model_index_find(m, at, tokens, fill) != MODEL_NONE) return;
    index_add(m, seq, page, parent, fill);
}
