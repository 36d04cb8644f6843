/* model.c - see model.h. Sequences first, then the books on blocks, then reservation and commit. */
#include "sim/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void* take(size_t count, size_t bytes) {
    void* memory = calloc(count + 1, bytes);
    if (memory == NULL) {
        fputs("the model is out of memory\n", stderr);
        exit(2);
    }
    return memory;
}

uint32_t model_pages(const model* m, uint32_t tokens) {
    return tokens / m->block_tokens + (tokens % m->block_tokens != 0);
}

void model_open(model* m, const pkv_config* config) {
    *m = (model){.config = *config, .block_tokens = config->groups[0].block_tokens};
    m->host_free = config->host_blocks;
    pkv_sizes sizes;
    if (pkv_config_check(config, NULL, &sizes) == PKV_OK) m->block_bytes = sizes.block_bytes;
    m->per_extent = sizes.blocks_per_extent;
    const uint32_t tokens = config->sequence_tokens_max;
    m->seqs = take(config->sequences_max, sizeof *m->seqs);
    for (uint32_t i = 0; i < config->sequences_max; i++) {
        m->seqs[i].tokens = take(tokens, sizeof(uint32_t));
        m->seqs[i].chains = take(tokens, sizeof(uint32_t));
        m->seqs[i].fills = take(tokens, sizeof(uint32_t));
        m->seqs[i].parents = take(tokens, sizeof(uint32_t));
        m->seqs[i].announced = take(tokens, sizeof(uint32_t));
        m->seqs[i].keys = take(tokens, sizeof(uint32_t));
        m->seqs[i].blocks = take(model_pages(m, tokens), sizeof(uint32_t));
    }
    m->blocks = take(config->blocks, sizeof *m->blocks);
    for (uint32_t i = 0; i < config->blocks; i++) {
        m->blocks[i].tokens = take(m->block_tokens, sizeof(uint32_t));
        m->blocks[i].fills = take(m->block_tokens, sizeof(uint32_t));
        m->blocks[i].keys = take(m->block_tokens, sizeof(uint32_t));
    }
    m->tails = take(config->plan_sequences_max, sizeof *m->tails);
    m->fresh = take(config->blocks, sizeof(uint32_t));
}

void model_close(model* m) {
    for (uint32_t i = 0; i < m->config.sequences_max; i++) {
        free(m->seqs[i].tokens);
        free(m->seqs[i].chains);
        free(m->seqs[i].fills);
        free(m->seqs[i].parents);
        free(m->seqs[i].announced);
        free(m->seqs[i].keys);
        free(m->seqs[i].blocks);
    }
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        free(m->blocks[i].tokens);
        free(m->blocks[i].fills);
        free(m->blocks[i].keys);
    }
    free(m->seqs);
    free(m->blocks);
    free(m->tails);
    free(m->fresh);
}

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* ---- Books on blocks ------------------------------------------------------------------------- */

bool model_is_used(const model_block* block) {
    return block->holders > 0 || block->indexed;
}

/* Any unused block will do: which number the library picks is its own affair. */
static uint32_t block_take(model* m, uint64_t tenant) {
    uint32_t i = 0;
    while (model_is_used(&m->blocks[i]))
        i++;
    m->blocks[i].holders = 1;
    m->blocks[i].tenant = tenant;
    m->blocks[i].real = MODEL_UNSEEN;
    m->blocks[i].terms = (model_terms){PKV_PRIORITY_DEFAULT, UINT64_MAX, UINT64_MAX};
    m->blocks_active++;
    m->fresh[m->fresh_count++] = i;
    return i;
}

static void block_hold(model* m, uint32_t i) {
    model_block* block = &m->blocks[i];
    if (block->holders++ > 0) return;
    m->blocks_cached--;
    m->blocks_active++;
}

static void rest(model* m, model_block* block) {
    block->idle_since = ++m->now;
    block->idle_us = m->clock_us;
    block->left_with = m->departures;
}

/* As one of several that a sequence lets go of together. */
static void block_leave(model* m, uint32_t i) {
    model_block* block = &m->blocks[i];
    if (--block->holders > 0) return;
    m->blocks_active--;
    if (!block->indexed) return;
    rest(m, block);
    m->blocks_cached++;
}

static void block_release(model* m, uint32_t i) {
    m->departures++;
    block_leave(m, i);
}

/* An index entry goes; those behind it are found no more. */
static void index_remove(model* m, uint32_t entry) {
    m->blocks[entry].indexed = false;
    m->blocks[entry].published = false;
    for (uint32_t i = 0; i < m->config.blocks; i++)
        if (m->blocks[i].indexed && m->blocks[i].parent == entry)
            m->blocks[i].parent = MODEL_ORPHAN;
}

static void block_drop(model* m, uint32_t block) {
    index_remove(m, block);
    m->blocks_cached--;
}

void model_expire(model* m, uint32_t block) {
    block_drop(m, block);
    m->counters.expirations++;
}

static bool goes_before(const model_block* a, const model_block* b) {
    if (a->terms.priority != b->terms.priority) return a->terms.priority < b->terms.priority;
    return a->idle_since < b->idle_since;
}

uint32_t model_first_to_go(const model* m, uint32_t account) {
    uint32_t oldest = MODEL_NONE;
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        if (!m->blocks[i].indexed || m->blocks[i].holders > 0) continue;
        if (model_account(m, m->blocks[i].tenant) != account) continue;
        if (oldest == MODEL_NONE || goes_before(&m->blocks[i], &m->blocks[oldest])) oldest = i;
    }
    return oldest;
}

uint32_t model_later_page(const model* m, uint32_t block) {
    const model_block* b = &m->blocks[block];
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        const model_block* other = &m->blocks[i];
        if (!other->indexed || other->holders > 0 || other->left_with != b->left_with) continue;
        if (other->tenant != b->tenant || other->terms.priority != b->terms.priority) continue;
        if (other->idle_since < b->idle_since) return i;
    }
    return MODEL_NONE;
}

void model_evict(model* m, uint32_t account) {
    uint32_t victim = MODEL_NONE;
    if (m->victim != NULL) victim = m->victim(m->ctx, account);
    if (victim == MODEL_NONE) victim = model_first_to_go(m, account);
    model_lose(m, victim);
}

void model_lose(model* m, uint32_t block) {
    m->counters.evictions++;
    m->quotas[model_account(m, m->blocks[block].tenant)].evictions++;
    block_drop(m, block);
}

/* Whose cached block goes next, or MODEL_NONE. When nobody has borrowed any more, those who ask give
 * what they are guaranteed themselves, no more than they ask for; in which order, is nowhere said. */
static uint32_t next_to_give(const model* m, const uint32_t* need, const uint32_t* lost) {
    const uint32_t richest = model_richest(m, need);
    if (richest != MODEL_NONE) return richest;
    for (uint32_t i = 0; i <= m->config.tenants_max; i++) {
        if (model_cached(m, i) == 0 || lost[i] >= need[i]) continue;
        if (m->is_victim_of == NULL || m->is_victim_of(m->ctx, i)) return i;
    }
    return MODEL_NONE;
}

/* Room for so many blocks on each account. Returns how many were evicted. */
static uint32_t make_room(model* m, const uint32_t* need) {
    const uint64_t before = m->counters.evictions;
    uint32_t lost[MODEL_ACCOUNTS] = {0};
    uint32_t blocks = 0;
    for (uint32_t i = 0; i <= m->config.tenants_max; i++) {
        blocks += need[i];
        for (; model_is_above_limit(m, i, need[i]); lost[i]++)
            model_evict(m, i);
    }
    while (model_free_blocks(m) < blocks) {
        const uint32_t account = next_to_give(m, need, lost);
        if (account == MODEL_NONE) break;
        model_evict(m, account);
        lost[account]++;
    }
    if (model_free_blocks(m) < blocks) model_claim(m, blocks - model_free_blocks(m));
    return (uint32_t)(m->counters.evictions - before);
}

/* Where entries are looked for: behind `parent`, for the position `begin` of a sequence. */
typedef struct place {
    const model_seq* seq;
    uint32_t parent;
    uint32_t begin;
    bool is_public; /* among the published ones; else among those of the tenant */
} place;

static bool is_at(const model_block* block, place at) {
    if (!block->indexed || block->parent != at.parent) return false;
    if (block->published != at.is_public) return false;
    return at.is_public || block->tenant == at.seq->tenant;
}

/* How many of `count` tokens does an entry begin with, under the same extra keys? */
static uint32_t shared_with(const model_block* block, place at, const uint32_t* tokens,
                            uint32_t count) {
    uint32_t shared = 0;
    if (at.begin == 0 && block->salt != at.seq->salt) return 0;
    while (shared < count && shared < block->fill && block->tokens[shared] == tokens[shared] &&
           block->keys[shared] == at.seq->keys[at.begin + shared])
        shared++;
    return shared;
}

static uint32_t find_at(const model* m, place at, const uint32_t* tokens, uint32_t count) {
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        const model_block* block = &m->blocks[i];
        if (!is_at(block, at) || block->fill != count) continue;
        if (shared_with(block, at, tokens, count) == count) return i;
    }
    return MODEL_NONE;
}

/* The index entry of exactly these tokens, of the tenant or else published, or MODEL_NONE. */
static uint32_t index_find(const model* m, place at, const uint32_t* tokens, uint32_t count) {
    at.is_public = false;
    const uint32_t own = find_at(m, at, tokens, count);
    at.is_public = true;
    return own != MODEL_NONE ? own : find_at(m, at, tokens, count);
}

/* The newest entry that begins with `token` and is older than `before`. */
static uint32_t next_sibling(const model* m, place at, uint32_t token, uint64_t before) {
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
static uint32_t longest_at(const model* m, place at, const uint32_t* tokens, uint32_t count,
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
static uint32_t index_longest(const model* m, place at, const uint32_t* tokens, uint32_t count,
                              uint32_t* common) {
    *common = 0;
    at.is_public = false;
    const uint32_t own = longest_at(m, at, tokens, count, MODEL_NONE, common);
    at.is_public = true;
    return longest_at(m, at, tokens, count, own, common);
}

/* Is it an entry that others can stand behind? */
static bool is_full_entry(const model* m, uint32_t block) {
    return m->blocks[block].indexed && m->blocks[block].fill == m->block_tokens;
}

static void note_peak(model* m) {
    if (m->blocks_active > m->counters.blocks_peak) m->counters.blocks_peak = m->blocks_active;
}

/* ---- Values ---------------------------------------------------------------------------------- */

static uint32_t chain_behind(const model_seq* seq, uint64_t before, uint64_t token) {
    uint64_t x = seq->tenant * 0x9e3779b97f4a7c15 + before * 0xbf58476d1ce4e5b9 + token + 1;
    x = (x ^ x >> 31) * 0x94d049bb133111eb;
    return (uint32_t)(x >> 32);
}

static uint32_t chain_of(const model_seq* seq, uint32_t position, uint64_t token) {
    return chain_behind(seq, position > 0 ? seq->chains[position - 1] : 0, token);
}

uint32_t model_owner(const model* m, uint64_t tenant) {
    return m->number << 2 | (uint32_t)(tenant & 3);
}

/* Never 0, and short enough to be exact in f32 with room for layer and head above. */
static uint32_t fill_of(const model* m, const model_seq* seq, uint32_t position) {
    const uint32_t low = seq->chains[position] & ((1U << MODEL_OWNER_SHIFT) - 1);
    return model_owner(m, seq->tenant) << MODEL_OWNER_SHIFT | low | 1;
}

static void copy_tokens(model_seq* to, const model_seq* from) {
    const size_t bytes = from->length * sizeof(uint32_t);
    memcpy(to->tokens, from->tokens, bytes);
    memcpy(to->chains, from->chains, bytes);
    memcpy(to->fills, from->fills, bytes);
}

/* ---- Sequences ------------------------------------------------------------------------------- */

static bool is_alive(const model* m, uint32_t seq) {
    return seq != MODEL_NONE && m->seqs[seq].alive;
}

uint32_t model_alive_count(const model* m) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        count += m->seqs[i].alive;
    return count;
}

static uint32_t seq_pages(const model* m, const model_seq* seq) {
    return model_pages(m, seq->length + seq->reserved);
}

/* A dead slot becomes an empty sequence. */
static uint32_t seq_begin(model* m, uint64_t tenant) {
    uint32_t i = 0;
    while (m->seqs[i].alive)
        i++;
    model_seq* seq = &m->seqs[i];
    seq->alive = true;
    seq->in_plan = false;
    seq->residence = PKV_RESIDENT;
    seq->tenant = tenant;
    seq->length = 0;
    seq->reserved = 0;
    seq->known = 0;
    seq->salt = 0;
    memset(seq->keys, 0, m->config.sequence_tokens_max * sizeof(uint32_t));
    seq->announced_begin = 0;
    seq->announced_end = 0;
    return i;
}

model_verdict model_create_errors(const model* m) {
    const bool is_full = model_alive_count(m) == m->config.sequences_max;
    return (model_verdict){is_full ? MODEL_BIT(PKV_ENOSEQS) : 0, 0};
}

uint32_t model_create(model* m, uint64_t tenant) {
    return seq_begin(m, tenant);
}

/* Of whatever needs the blocks of a sequence, or changes it. */
static model_verdict idle_errors(const model* m, uint32_t seq) {
    if (!is_alive(m, seq)) return (model_verdict){MODEL_BIT(PKV_ESTALE), 0};
    const model_seq* s = &m->seqs[seq];
    uint32_t errors = s->in_plan ? MODEL_BIT(PKV_EBUSY) : 0;
    if (s->residence == PKV_AWAY) errors |= MODEL_BIT(PKV_EAWAY);
    if (s->residence == PKV_LEAVING) errors |= MODEL_BIT(PKV_EBUSY);
    if (s->residence == PKV_ARRIVING) errors |= MODEL_BIT(PKV_EBUSY);
    return (model_verdict){errors, 0};
}

static uint32_t account_of(const model* m, uint32_t seq) {
    return model_account(m, m->seqs[seq].tenant);
}

static uint32_t may_of_reserve(const model* m) {
    return m->leaves_are_tight ? MODEL_BIT(PKV_ENOLEAVES) : 0;
}

bool model_fork_copies(const model* m, uint32_t seq) {
    if (m->config.cow != PKV_COW_FORK || !is_alive(m, seq)) return false;
    return m->seqs[seq].residence == PKV_RESIDENT && m->seqs[seq].length % m->block_tokens != 0;
}

model_verdict model_fork_errors(const model* m, uint32_t seq) {
    model_verdict verdict = model_create_errors(m);
    if (!is_alive(m, seq)) return (model_verdict){verdict.must | MODEL_BIT(PKV_ESTALE), 0};
    if (m->seqs[seq].reserved > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    verdict.must |= idle_errors(m, seq).must;
    if (!model_fork_copies(m, seq)) return verdict;
    uint32_t need[MODEL_ACCOUNTS] = {0};
    need[account_of(m, seq)] = 1;
    verdict.must |= model_need_errors(m, need);
    verdict.may |= may_of_reserve(m);
    return verdict;
}

uint32_t model_fork_room(model* m, uint32_t seq) {
    uint32_t need[MODEL_ACCOUNTS] = {0};
    need[account_of(m, seq)] = 1;
    return make_room(m, need);
}

/* Of the last block the tiles of 16 tokens that are filled; blocks have no bytes between them. */
static uint64_t tail_bytes(const model* m, const model_seq* seq) {
    const uint32_t tiles = (m->block_tokens + 15) / 16;
    const uint32_t filled = (seq->length + seq->reserved) % m->block_tokens;
    return m->config.cow_whole ? m->block_bytes : m->block_bytes / tiles * ((filled + 15) / 16);
}

static void copy_tail(model* m, model_seq* seq) {
    m->counters.cow_bytes += tail_bytes(m, seq);
    uint32_t* tail = &seq->blocks[seq_pages(m, seq) - 1];
    const uint32_t shared = *tail;
    *tail = block_take(m, seq->tenant);
    block_release(m, shared);
}

/* Of one plan, append or fork. */
static void note_copies(model* m, uint32_t copies) {
    m->counters.cow_copies += copies;
    if (copies > m->counters.cow_peak) m->counters.cow_peak = copies;
}

uint32_t model_fork(model* m, uint32_t seq) {
    const model_seq* parent = &m->seqs[seq];
    const uint32_t index = seq_begin(m, parent->tenant);
    model_seq* child = &m->seqs[index];
    child->length = parent->length;
    child->known = parent->known;
    child->salt = parent->salt;
    memcpy(child->keys, parent->keys, m->config.sequence_tokens_max * sizeof(uint32_t));
    copy_tokens(child, parent);
    for (uint32_t page = 0; page < seq_pages(m, parent); page++) {
        child->blocks[page] = parent->blocks[page];
        if (child->blocks[page] != MODEL_ROLLED) block_hold(m, child->blocks[page]);
    }
    m->counters.forks++;
    m->fresh_count = 0;
    if (!model_fork_copies(m, seq)) return index;
    model_fork_room(m, seq);
    copy_tail(m, child);
    note_copies(m, 1);
    note_peak(m);
    return index;
}

/* Release the pages from `pages` on, last one first. */
static void cut(model* m, model_seq* seq, uint32_t length) {
    m->departures++;
    for (uint32_t page = seq_pages(m, seq); page-- > model_pages(m, length);)
        if (seq->blocks[page] != MODEL_ROLLED) block_leave(m, seq->blocks[page]);
    seq->length = length;
    seq->reserved = 0;
    seq->known = min_u32(seq->known, length);
}

model_verdict model_free_errors(const model* m, uint32_t seq) {
    const model_verdict verdict = idle_errors(m, seq);
    return (model_verdict){verdict.must & ~MODEL_BIT(PKV_EAWAY), 0};
}

/* Pages that have not rolled off. */
static uint32_t kept_pages(const model* m, const model_seq* seq) {
    uint32_t count = 0;
    for (uint32_t page = 0; page < seq_pages(m, seq); page++)
        count += seq->blocks[page] != MODEL_ROLLED;
    return count;
}

/* What it had announced is not pending any more, or only from page `begin` on. */
static void announce_from(model_seq* seq, uint32_t begin) {
    if (seq->announced_begin < begin) seq->announced_begin = begin;
    if (seq->announced_begin >= seq->announced_end) seq->announced_end = 0;
    if (seq->announced_end == 0) seq->announced_begin = 0;
}

static void index_tail(model* m, model_seq* seq);

/* The last page behind the rolled-off ones that is in the index, when there are any. */
static uint32_t last_entry(const model* m, const model_seq* seq) {
    uint32_t last = MODEL_NONE;
    for (uint32_t page = seq_pages(m, seq); page-- > 0;) {
        if (seq->blocks[page] == MODEL_ROLLED) return last;
        if (last == MODEL_NONE && m->blocks[seq->blocks[page]].indexed) last = seq->blocks[page];
    }
    return MODEL_NONE; /* nothing has rolled off */
}

/* What the sequence has let go of, and what rolled off before, is young again, last page first. */
static void rest_again(model* m, uint32_t entry) {
    for (; entry != MODEL_NONE && entry != MODEL_ORPHAN; entry = m->blocks[entry].parent)
        if (m->blocks[entry].holders == 0) rest(m, &m->blocks[entry]);
}

void model_free(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    if (s->residence == PKV_AWAY) {
        m->host_free += kept_pages(m, s);
    } else {
        index_tail(m, s);
        const uint32_t last = last_entry(m, s);
        cut(m, s, 0);
        rest_again(m, last);
    }
    announce_from(s, UINT32_MAX);
    s->alive = false;
}

/* First position that a sequence of `length` tokens may not have lost. */
static uint32_t window_begin(const model* m, uint32_t length) {
    const uint32_t window = m->config.groups[0].window;
    return window > 0 && length > window ? length - window : 0;
}

/* Has any position in [begin, end) rolled off? */
static bool has_rolled(const model* m, const model_seq* seq, uint32_t begin, uint32_t end) {
    for (uint32_t position = begin; position < end; position++)
        if (seq->blocks[position / m->block_tokens] == MODEL_ROLLED) return true;
    return false;
}

model_verdict model_truncate_errors(const model* m, uint32_t seq, uint32_t length) {
    model_verdict verdict = idle_errors(m, seq);
    if (!is_alive(m, seq)) return verdict;
    const model_seq* s = &m->seqs[seq];
    const bool is_outside = length > s->length || has_rolled(m, s, window_begin(m, length), length);
    if (is_outside) verdict.must |= MODEL_BIT(PKV_ERANGE);
    if (m->leaves_are_tight) verdict.may |= MODEL_BIT(PKV_ENOLEAVES);
    return verdict;
}

void model_truncate(model* m, uint32_t seq, uint32_t length) {
    cut(m, &m->seqs[seq], length);
    announce_from(&m->seqs[seq], UINT32_MAX);
}

/* ---- Match ----------------------------------------------------------------------------------- */

model_verdict model_match_errors(const model* m, uint32_t seq, uint32_t count) {
    model_verdict verdict = idle_errors(m, seq);
    if (count > m->config.sequence_tokens_max) verdict.must |= MODEL_BIT(PKV_ETOOBIG);
    if (!is_alive(m, seq)) return verdict;
    if (seq_pages(m, &m->seqs[seq]) > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    if (m->leaves_are_tight) verdict.may |= MODEL_BIT(PKV_ENOLEAVES);
    return verdict;
}

/* Make the first `count` tokens of an index entry the next ones of a sequence. */
static void attach(model* m, model_seq* s, uint32_t entry, uint32_t count) {
    const model_block* block = &m->blocks[entry];
    block_hold(m, entry);
    s->blocks[s->length / m->block_tokens] = entry;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t position = s->length + i;
        s->tokens[position] = block->tokens[i];
        s->chains[position] = chain_of(s, position, block->tokens[i]);
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
    const place at = {seq, parent, length, *is_public};
    *common = m->block_tokens;
    if (m->config.prefix_off) return MODEL_NONE;
    if (piece == m->block_tokens) {
        const uint32_t published = *is_public ? find_at(m, at, tokens + length, piece) : MODEL_NONE;
        if (published != MODEL_NONE) return published;
        const uint32_t full = index_find(m, at, tokens + length, piece);
        *is_public = false;
        if (full != MODEL_NONE) return full;
    }
    return index_longest(m, at, tokens + length, piece, common);
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
    announce_from(s, s->length / m->block_tokens);
    s->known = s->length;
    m->counters.prefix_query_tokens += count;
    m->counters.prefix_hit_tokens += s->length;
    m->quotas[model_account(m, s->tenant)].query_tokens += count;
    m->quotas[model_account(m, s->tenant)].hit_tokens += s->length;
    note_peak(m);
    return s->length;
}

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
    model_verdict verdict = idle_errors(m, seq);
    if (count > m->config.sequence_tokens_max) verdict.must |= MODEL_BIT(PKV_ETOOBIG);
    return verdict;
}

void model_announce(model* m, uint32_t seq, const uint32_t* tokens, uint32_t count) {
    model_seq* s = &m->seqs[seq];
    uint32_t left = m->config.announced_pages_max;
    announce_from(s, UINT32_MAX);
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        if (m->seqs[i].alive) left -= m->seqs[i].announced_end - m->seqs[i].announced_begin;
    if (m->config.prefix_off) left = 0;
    const uint32_t begin = s->length / m->block_tokens;
    const uint32_t end = count / m->block_tokens;
    s->announced_begin = begin;
    s->announced_end = end > begin ? begin + min_u32(end - begin, left) : begin;
    memcpy(s->announced, tokens, count * sizeof *tokens);
    announce_from(s, begin);
}

model_verdict model_keys_errors(const model* m, uint32_t seq) {
    model_verdict verdict = idle_errors(m, seq);
    if (is_alive(m, seq) && seq_pages(m, &m->seqs[seq]) > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    return verdict;
}

void model_set_keys(model* m, uint32_t seq, uint32_t salt, const uint32_t* keys) {
    model_seq* s = &m->seqs[seq];
    announce_from(s, UINT32_MAX);
    s->salt = salt;
    memcpy(s->keys, keys, m->config.sequence_tokens_max * sizeof *keys);
}

model_verdict model_publish_errors(const model* m, uint32_t seq, uint32_t count) {
    model_verdict verdict = idle_errors(m, seq);
    if (is_alive(m, seq) && count > m->seqs[seq].length) verdict.must |= MODEL_BIT(PKV_ERANGE);
    return verdict;
}

uint32_t model_publish(model* m, uint32_t seq, uint32_t count) {
    const model_seq* s = &m->seqs[seq];
    uint32_t parent = MODEL_NONE;
    uint32_t page = 0;
    for (; page < count / m->block_tokens; page++) {
        const uint32_t own = s->blocks[page];
        if (own == MODEL_ROLLED || !is_full_entry(m, own)) break;
        const place at = {s, parent, page * m->block_tokens, true};
        const uint32_t equal = find_at(m, at, m->blocks[own].tokens, m->block_tokens);
        parent = equal != MODEL_NONE ? equal : own;
        if (equal != MODEL_NONE) continue;
        m->blocks[own].published = true;
        m->blocks[own].parent = at.parent;
        m->blocks[own].indexed_at = ++m->now;
    }
    return page * m->block_tokens;
}

/* ---- Reservation ----------------------------------------------------------------------------- */

/* The block that the next token of a sequence goes to, if it is partly filled; else PKV_NO_BLOCK. */
static uint32_t written_tail(const model* m, uint32_t index) {
    if (!is_alive(m, index)) return PKV_NO_BLOCK;
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
    if (!is_alive(m, entry->seq)) return errors | MODEL_BIT(PKV_ESTALE);
    const model_seq* seq = &m->seqs[entry->seq];
    errors |= idle_errors(m, entry->seq).must;
    if (is_plan && seq->reserved > 0) errors |= MODEL_BIT(PKV_EBUSY);
    if (entry_is_too_long(m, entry)) errors |= MODEL_BIT(PKV_ETOOBIG);
    return errors;
}

static uint64_t blocks_of_entry(const model* m, const model_entry* entries, uint32_t index,
                                bool is_scarce) {
    const model_entry* entry = &entries[index];
    if (!is_alive(m, entry->seq) || entry_is_too_long(m, entry)) return 0; /* it is refused */
    const model_seq* seq = &m->seqs[entry->seq];
    if (seq->residence != PKV_RESIDENT) return 0;
    const uint32_t pages = model_pages(m, seq->length + seq->reserved + entry->count);
    const bool is_copied = tail_of(m, entries, index, is_scarce) == MODEL_TAIL_COPIED;
    return pages - seq_pages(m, seq) + is_copied;
}

/* Blocks that each account needs. Returns their sum. */
static uint64_t set_need(const model* m, const model_entry* entries, uint32_t count, bool is_scarce,
                         uint32_t* need) {
    uint64_t blocks = 0;
    memset(need, 0, MODEL_ACCOUNTS * sizeof *need);
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t more = blocks_of_entry(m, entries, i, is_scarce);
        if (more > 0) need[account_of(m, entries[i].seq)] += (uint32_t)more;
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
    return (model_verdict){errors, may_of_reserve(m)};
}

model_verdict model_append_errors(const model* m, const model_entry* entry) {
    const uint32_t errors = sum_errors(m, entry, 1) | entry_errors(m, entry, false);
    return (model_verdict){errors, may_of_reserve(m)};
}

uint32_t model_make_room(model* m, const model_entry* entries, uint32_t count) {
    uint32_t need[MODEL_ACCOUNTS];
    set_need(m, entries, count, is_scarce(m, entries, count), need);
    return make_room(m, need);
}

/* The new tokens of one sequence, into its arrays. */
static void extend(model* m, model_seq* seq, const model_entry* entry) {
    const uint32_t first = seq->length + seq->reserved;
    const bool stay_known = entry->tokens != NULL && seq->known == first;
    for (uint32_t i = 0; i < entry->count; i++) {
        const uint64_t token = entry->tokens != NULL ? entry->tokens[i] : ++m->nonce << 32;
        seq->tokens[first + i] = (uint32_t)token;
        seq->chains[first + i] = chain_of(seq, first + i, token);
        seq->fills[first + i] = 0;
    }
    for (uint32_t page = seq_pages(m, seq); page < model_pages(m, first + entry->count); page++)
        seq->blocks[page] = block_take(m, seq->tenant);
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
    note_copies(m, copies);
    for (uint32_t i = 0; i < count; i++) {
        model_seq* seq = &m->seqs[entries[i].seq];
        if (m->tails[i] == MODEL_TAIL_COPIED) copy_tail(m, seq);
        if (m->tails[i] == MODEL_TAIL_TAKEN) index_remove(m, seq->blocks[seq_pages(m, seq) - 1]);
        extend(m, seq, &entries[i]);
    }
    note_peak(m);
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
        s->chains[at] = chain_behind(s, before, token);
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
    for (uint32_t page = seq_pages(m, s); page-- > model_pages(m, s->length + count);)
        block_release(m, s->blocks[page]);
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

/* ---- Write, commit, abort -------------------------------------------------------------------- */

model_verdict model_write_errors(const model* m, uint32_t seq) {
    model_verdict verdict = idle_errors(m, seq);
    if (!is_alive(m, seq)) return verdict;
    if (m->seqs[seq].reserved == 0) verdict.must |= MODEL_BIT(PKV_ERANGE);
    return verdict;
}

void model_write(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    for (uint32_t i = s->length; i < s->length + s->reserved; i++)
        s->fills[i] = fill_of(m, s, i);
}

void model_spoil(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    for (uint32_t i = s->length; i < s->length + s->reserved; i++)
        s->fills[i] = 0;
}

model_verdict model_commit_errors(const model* m, uint32_t seq) {
    return idle_errors(m, seq);
}

/* May the page enter the index? Only when it and what is before it are there. */
static bool is_indexable(const model* m, const model_seq* seq, uint32_t page, uint32_t* parent) {
    *parent = MODEL_NONE;
    if (seq->blocks[page] == MODEL_ROLLED) return false;
    if (page == 0) return true;
    *parent = seq->blocks[page - 1];
    return *parent != MODEL_ROLLED && is_full_entry(m, *parent);
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
    const place at = {seq, parent, begin, false};
    const uint32_t equal = index_find(m, at, seq->tokens + begin, m->block_tokens);
    if (equal != MODEL_NONE) {
        if (m->canary == MODEL_FORGETS_EQUALS) return true;
        if (!may_share(m, own, equal)) return false;
        block_hold(m, equal);
        leave_terms(&m->blocks[own], &m->blocks[equal]);
        block_release(m, own);
        seq->blocks[page] = equal;
        memcpy(seq->fills + begin, m->blocks[equal].fills, bytes);
        m->counters.prefix_duplicates++;
        return true;
    }
    index_add(m, seq, page, parent, m->block_tokens);
    return true;
}

/* The last, partly filled page of a sequence that ends, unless as much of it is there already. */
static void index_tail(model* m, model_seq* seq) {
    const uint32_t known = min_u32(seq->known, seq->length);
    const uint32_t page = known / m->block_tokens;
    const uint32_t fill = known % m->block_tokens;
    uint32_t parent;
    uint32_t common;
    if (m->config.prefix_off || fill == 0) return;
    if (!is_indexable(m, seq, page, &parent) || m->blocks[seq->blocks[page]].indexed) return;
    const uint32_t* tokens = seq->tokens + page * m->block_tokens;
    const place at = {seq, parent, page * m->block_tokens, false};
    index_longest(m, at, tokens, fill, &common);
    if (common == fill) return;
    if (index_find(m, at, tokens, fill) != MODEL_NONE) return;
    index_add(m, seq, page, parent, fill);
}

static void roll_off(model* m, model_seq* seq) {
    const uint32_t end = window_begin(m, seq->length) / m->block_tokens;
    for (uint32_t page = model_pages(m, m->config.groups[0].sinks); page < end; page++) {
        if (seq->blocks[page] == MODEL_ROLLED) continue;
        block_release(m, seq->blocks[page]);
        seq->blocks[page] = MODEL_ROLLED;
        m->counters.rolled_blocks++;
    }
}

static void index_from(model* m, model_seq* seq, uint32_t first_page) {
    const uint32_t full_pages = seq->known / m->block_tokens;
    for (uint32_t page = first_page; page < full_pages && !m->config.prefix_off; page++)
        if (!index_page(m, seq, page)) return;
}

void model_commit(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    const uint32_t first_page = s->length / m->block_tokens;
    m->counters.tokens_committed += s->reserved;
    s->length += s->reserved;
    s->reserved = 0;
    s->in_plan = false;
    index_from(m, s, first_page);
    announce_from(s, s->length / m->block_tokens);
    if (m->config.groups[0].window > 0) roll_off(m, s);
}

void model_abort(model* m, uint32_t seq) {
    m->seqs[seq].in_plan = false;
    cut(m, &m->seqs[seq], m->seqs[seq].length);
}

/* ---- Swapping -------------------------------------------------------------------------------- */

static uint32_t transfer_errors(const model* m) {
    if (m->config.host_blocks == 0) return MODEL_BIT(PKV_ENOTSUP);
    return m->transfers == m->config.transfers_max ? MODEL_BIT(PKV_EBUSY) : 0;
}

model_verdict model_swap_out_errors(const model* m, uint32_t seq) {
    model_verdict verdict = idle_errors(m, seq);
    verdict.must |= transfer_errors(m);
    if (!is_alive(m, seq)) return verdict;
    const uint32_t pages = kept_pages(m, &m->seqs[seq]);
    if (m->seqs[seq].reserved > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    if (pages > m->config.host_blocks)
        verdict.must |= MODEL_BIT(PKV_ETOOBIG);
    else if (pages > m->host_free)
        verdict.must |= MODEL_BIT(PKV_ENOHOST);
    return verdict;
}

void model_swap_out(model* m, uint32_t seq) {
    m->seqs[seq].residence = PKV_LEAVING;
    announce_from(&m->seqs[seq], UINT32_MAX);
    m->host_free -= kept_pages(m, &m->seqs[seq]);
    m->transfers++;
}

uint32_t model_swap_in_room(model* m, uint32_t seq) {
    uint32_t need[MODEL_ACCOUNTS] = {0};
    need[account_of(m, seq)] = kept_pages(m, &m->seqs[seq]);
    return make_room(m, need);
}

uint32_t model_slots_of(const model* m, uint32_t account) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++) {
        const model_seq* seq = &m->seqs[i];
        if (seq->alive && seq->residence != PKV_RESIDENT && account_of(m, i) == account)
            count += kept_pages(m, seq);
    }
    return count;
}

model_verdict model_swap_in_errors(const model* m, uint32_t seq) {
    model_verdict verdict = {transfer_errors(m), may_of_reserve(m)};
    if (!is_alive(m, seq)) return (model_verdict){verdict.must | MODEL_BIT(PKV_ESTALE), 0};
    const model_seq* s = &m->seqs[seq];
    if (s->residence == PKV_RESIDENT) verdict.must |= MODEL_BIT(PKV_EINVAL);
    if (s->residence == PKV_LEAVING) verdict.must |= MODEL_BIT(PKV_EBUSY);
    if (s->residence == PKV_ARRIVING) verdict.must |= MODEL_BIT(PKV_EBUSY);
    uint32_t need[MODEL_ACCOUNTS] = {0};
    if (s->residence == PKV_AWAY) need[account_of(m, seq)] = kept_pages(m, s);
    verdict.must |= model_need_errors(m, need);
    return verdict;
}

void model_swap_in(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    model_swap_in_room(m, seq);
    m->fresh_count = 0;
    for (uint32_t page = 0; page < seq_pages(m, s); page++)
        if (s->blocks[page] != MODEL_ROLLED) s->blocks[page] = block_take(m, s->tenant);
    s->residence = PKV_ARRIVING;
    m->transfers++;
    note_peak(m);
}

/* Let the blocks go, last page first. */
static void leave(model* m, model_seq* seq) {
    const uint32_t last = last_entry(m, seq);
    m->departures++;
    for (uint32_t page = seq_pages(m, seq); page-- > 0;)
        if (seq->blocks[page] != MODEL_ROLLED) block_leave(m, seq->blocks[page]);
    rest_again(m, last);
    seq->residence = PKV_AWAY;
}

static void stay(model* m, model_seq* seq) {
    m->host_free += kept_pages(m, seq);
    seq->residence = PKV_RESIDENT;
}

void model_swap_end(model* m, uint32_t seq, bool is_done) {
    model_seq* s = &m->seqs[seq];
    const uint64_t bytes = is_done ? kept_pages(m, s) * m->block_bytes : 0;
    const bool is_in = s->residence == PKV_ARRIVING;
    m->transfers--;
    *(is_in ? &m->counters.swap_in_bytes : &m->counters.swap_out_bytes) += bytes;
    if (is_in == is_done)
        stay(m, s);
    else
        leave(m, s);
    if (is_in && is_done) index_from(m, s, 0);
}

/* ---- Comparing ------------------------------------------------------------------------------- */

model_verdict model_read_errors(const model* m, uint32_t seq, uint32_t begin, uint32_t end) {
    model_verdict verdict = idle_errors(m, seq);
    if (begin > end) verdict.must |= MODEL_BIT(PKV_ERANGE);
    if (!is_alive(m, seq)) return verdict;
    const model_seq* s = &m->seqs[seq];
    if (end > s->length) verdict.must |= MODEL_BIT(PKV_ERANGE);
    if (has_rolled(m, s, begin, min_u32(end, s->length))) verdict.must |= MODEL_BIT(PKV_ERANGE);
    return verdict;
}

/* Of a cache in a shared arena; of others the header says little. */
typedef struct memory_stats {
    uint64_t total, used, bytes, bytes_used, bytes_loose, bytes_lost;
} memory_stats;

static memory_stats memory_of(const model* m, const pkv_stats* stats) {
    if (m->arena == NULL)
        return (memory_stats){stats->extents_total, stats->extents_used, stats->arena_bytes,
                              stats->bytes_used,    stats->bytes_loose,  stats->bytes_lost};
    const uint64_t held = model_held_extents(m);
    const uint64_t blocks = held * m->per_extent;
    const uint64_t used = model_used_blocks(m);
    return (memory_stats){
        .total = m->arena->extent_count,
        .used = held,
        .bytes = held * m->arena->extent_bytes,
        .bytes_used = used * m->block_bytes,
        .bytes_loose = (blocks - used) * m->block_bytes,
        .bytes_lost = held * m->arena->extent_bytes - blocks * m->block_bytes,
    };
}

const char* model_compare_stats(const model* m, const pkv_stats* stats, uint64_t* want,
                                uint64_t* got) {
    const memory_stats memory = memory_of(m, stats);
    const struct {
        const char* name;
        uint64_t want, got;
    } lines[] = {
        {"blocks_total", model_used_blocks(m) + model_free_blocks(m), stats->blocks_total},
        {"blocks_free", model_free_blocks(m), stats->blocks_free},
        {"blocks_active", m->blocks_active, stats->blocks_active},
        {"blocks_cached", m->blocks_cached, stats->blocks_cached},
        {"blocks_peak", m->counters.blocks_peak, stats->blocks_peak},
        {"sequences", model_alive_count(m), stats->sequences},
        {"plans", m->plans, stats->plans},
        {"plans_committed", m->counters.plans_committed, stats->plans_committed},
        {"plans_aborted", m->counters.plans_aborted, stats->plans_aborted},
        {"tokens_committed", m->counters.tokens_committed, stats->tokens_committed},
        {"prefix_query_tokens", m->counters.prefix_query_tokens, stats->prefix_query_tokens},
        {"prefix_hit_tokens", m->counters.prefix_hit_tokens, stats->prefix_hit_tokens},
        {"prefix_inserts", m->counters.prefix_inserts, stats->prefix_inserts},
        {"prefix_duplicates", m->counters.prefix_duplicates, stats->prefix_duplicates},
        {"evictions", m->counters.evictions, stats->evictions},
        {"retained", model_retained_count(m), stats->retained},
        {"expirations", m->counters.expirations, stats->expirations},
        {"forks", m->counters.forks, stats->forks},
        {"cow_copies", m->counters.cow_copies, stats->cow_copies},
        {"cow_peak", m->counters.cow_peak, stats->cow_peak},
        {"cow_bytes", m->counters.cow_bytes, stats->cow_bytes},
        {"rolled_blocks", m->counters.rolled_blocks, stats->rolled_blocks},
        {"host_blocks_free", m->host_free, stats->host_blocks_free},
        {"transfers", m->transfers, stats->transfers},
        {"tokens_rejected", m->counters.tokens_rejected, stats->tokens_rejected},
        {"transfers_failed", m->counters.transfers_failed, stats->transfers_failed},
        {"transfers_cancelled", m->counters.transfers_cancelled, stats->transfers_cancelled},
        {"swap_out_bytes", m->counters.swap_out_bytes, stats->swap_out_bytes},
        {"swap_in_bytes", m->counters.swap_in_bytes, stats->swap_in_bytes},
        {"extents_claimed", m->counters.extents_claimed, stats->extents_claimed},
        {"extents_ceded", m->counters.extents_ceded, stats->extents_ceded},
        {"extents_total", memory.total, stats->extents_total},
        {"extents_used", memory.used, stats->extents_used},
        {"extents_emptied", m->counters.extents_emptied, stats->extents_emptied},
        {"arena_bytes", memory.bytes, stats->arena_bytes},
        {"bytes_used", memory.bytes_used, stats->bytes_used},
        {"bytes_loose", memory.bytes_loose, stats->bytes_loose},
        {"bytes_lost", memory.bytes_lost, stats->bytes_lost},
        {"blocks_moved", m->counters.blocks_moved, stats->blocks_moved},
        {"table rows", m->plan_rows, stats->table_rows_extended + stats->table_rows_rewritten},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (lines[i].want == lines[i].got) continue;
        *want = lines[i].want;
        *got = lines[i].got;
        return lines[i].name;
    }
    return NULL;
}
