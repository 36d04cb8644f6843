/* model.c - see model.h: sequences. Books on blocks, the prefix index, reservations and the host tier have
 * files of their own. */
#include "sim/model_parts.h"

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

static void open_seq(const model* m, model_seq* seq) {
    const uint32_t tokens = m->config.sequence_tokens_max;
    seq->tokens = take(tokens, sizeof(uint32_t));
    seq->chains = take(tokens, sizeof(uint32_t));
    seq->fills = take(tokens, sizeof(uint32_t));
    seq->parents = take(tokens, sizeof(uint32_t));
    seq->announced = take(tokens, sizeof(uint32_t));
    seq->keys = take(tokens, sizeof(uint32_t));
    seq->blocks = take(model_pages(m, tokens), sizeof(uint32_t));
}

static void close_seq(model_seq* seq) {
    free(seq->tokens);
    free(seq->chains);
    free(seq->fills);
    free(seq->parents);
    free(seq->announced);
    free(seq->keys);
    free(seq->blocks);
}

void model_open(model* m, const pkv_config* config) {
    *m = (model){.config = *config, .block_tokens = config->groups[0].block_tokens};
    m->host_free = config->host_blocks;
    pkv_sizes sizes;
    if (pkv_config_check(config, NULL, &sizes) == PKV_OK) m->block_bytes = sizes.block_bytes;
    m->per_extent = sizes.blocks_per_extent;
    m->seqs = take(config->sequences_max, sizeof *m->seqs);
    m->pins = take(config->sequences_max, sizeof *m->pins);
    for (uint32_t i = 0; i < config->sequences_max; i++) {
        open_seq(m, &m->seqs[i]);
        open_seq(m, &m->pins[i].seq);
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
        close_seq(&m->seqs[i]);
        close_seq(&m->pins[i].seq);
    }
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        free(m->blocks[i].tokens);
        free(m->blocks[i].fills);
        free(m->blocks[i].keys);
    }
    free(m->seqs);
    free(m->pins);
    free(m->blocks);
    free(m->tails);
    free(m->fresh);
}

/* ---- Values ---------------------------------------------------------------------------------- */

uint32_t model_chain_behind(const model_seq* seq, uint64_t before, uint64_t token) {
    uint64_t x = seq->tenant * 0x9e3779b97f4a7c15 + before * 0xbf58476d1ce4e5b9 + token + 1;
    x = (x ^ x >> 31) * 0x94d049bb133111eb;
    return (uint32_t)(x >> 32);
}

uint32_t model_chain_of(const model_seq* seq, uint32_t position, uint64_t token) {
    return model_chain_behind(seq, position > 0 ? seq->chains[position - 1] : 0, token);
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
    const size_t bytes = to->length * sizeof(uint32_t);
    memcpy(to->tokens, from->tokens, bytes);
    memcpy(to->chains, from->chains, bytes);
    memcpy(to->fills, from->fills, bytes);
}

/* ---- Sequences ------------------------------------------------------------------------------- */

bool model_is_alive(const model* m, uint32_t seq) {
    return seq != MODEL_NONE && m->seqs[seq].alive;
}

uint32_t model_alive_count(const model* m) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        count += m->seqs[i].alive;
    return count;
}

uint32_t model_seq_pages(const model* m, const model_seq* seq) {
    return model_pages(m, seq->length + seq->reserved);
}

/* Pages that have not rolled off. */
uint32_t model_kept_pages(const model* m, const model_seq* seq) {
    uint32_t count = 0;
    for (uint32_t page = 0; page < model_seq_pages(m, seq); page++)
        count += seq->blocks[page] != MODEL_ROLLED;
    return count;
}

uint32_t model_account_of(const model* m, uint32_t seq) {
    return model_account(m, m->seqs[seq].tenant);
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
    const bool is_full = model_alive_count(m) + model_pin_count(m) == m->config.sequences_max;
    return (model_verdict){is_full ? MODEL_BIT(PKV_ENOSEQS) : 0, 0};
}

uint32_t model_create(model* m, uint64_t tenant) {
    return seq_begin(m, tenant);
}

/* Of whatever needs the blocks of a sequence, or changes it. */
model_verdict model_idle_errors(const model* m, uint32_t seq) {
    if (!model_is_alive(m, seq)) return (model_verdict){MODEL_BIT(PKV_ESTALE), 0};
    const model_seq* s = &m->seqs[seq];
    uint32_t errors = s->in_plan ? MODEL_BIT(PKV_EBUSY) : 0;
    if (s->residence == PKV_AWAY) errors |= MODEL_BIT(PKV_EAWAY);
    if (s->residence == PKV_LEAVING) errors |= MODEL_BIT(PKV_EBUSY);
    if (s->residence == PKV_ARRIVING) errors |= MODEL_BIT(PKV_EBUSY);
    return (model_verdict){errors, 0};
}

/* ---- Fork ------------------------------------------------------------------------------------ */

bool model_fork_copies(const model* m, uint32_t seq) {
    if (m->config.cow != PKV_COW_FORK || !model_is_alive(m, seq)) return false;
    return m->seqs[seq].residence == PKV_RESIDENT && m->seqs[seq].length % m->block_tokens != 0;
}

uint32_t model_may_of_reserve(const model* m) {
    return m->leaves_are_tight ? MODEL_BIT(PKV_ENOLEAVES) : 0;
}

model_verdict model_fork_errors(const model* m, uint32_t seq) {
    model_verdict verdict = model_create_errors(m);
    if (!model_is_alive(m, seq)) return (model_verdict){verdict.must | MODEL_BIT(PKV_ESTALE), 0};
    if (m->seqs[seq].reserved > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    verdict.must |= model_idle_errors(m, seq).must;
    if (!model_fork_copies(m, seq)) return verdict;
    uint32_t need[MODEL_ACCOUNTS] = {0};
    need[model_account_of(m, seq)] = 1;
    verdict.must |= model_need_errors(m, need);
    verdict.may |= model_may_of_reserve(m);
    return verdict;
}

uint32_t model_fork_room(model* m, uint32_t seq) {
    uint32_t need[MODEL_ACCOUNTS] = {0};
    need[model_account_of(m, seq)] = 1;
    return model_make_room_for(m, need);
}

/* Of the last block the tiles of 16 tokens that are filled; blocks have no bytes between them. */
static uint64_t tail_bytes(const model* m, const model_seq* seq) {
    const uint32_t tiles = (m->block_tokens + 15) / 16;
    const uint32_t filled = (seq->length + seq->reserved) % m->block_tokens;
    return m->config.cow_whole ? m->block_bytes : m->block_bytes / tiles * ((filled + 15) / 16);
}

void model_copy_tail(model* m, model_seq* seq) {
    m->counters.cow_bytes += tail_bytes(m, seq);
    uint32_t* tail = &seq->blocks[model_seq_pages(m, seq) - 1];
    const uint32_t shared = *tail;
    *tail = model_block_take(m, seq->tenant);
    model_block_release(m, shared);
}

/* Of one plan, append or fork. */
void model_note_copies(model* m, uint32_t copies) {
    m->counters.cow_copies += copies;
    if (copies > m->counters.cow_peak) m->counters.cow_peak = copies;
}

void model_copy_seq(model* m, model_seq* to, const model_seq* from, uint32_t pages) {
    to->tenant = from->tenant;
    to->residence = PKV_RESIDENT;
    to->reserved = 0;
    to->length = min_u32(from->length, pages * m->block_tokens);
    to->known = min_u32(from->known, to->length);
    to->salt = from->salt;
    memcpy(to->keys, from->keys, m->config.sequence_tokens_max * sizeof(uint32_t));
    copy_tokens(to, from);
    for (uint32_t page = 0; page < pages; page++) {
        to->blocks[page] = from->blocks[page];
        if (to->blocks[page] != MODEL_ROLLED) model_block_hold(m, to->blocks[page]);
    }
}

uint32_t model_fork(model* m, uint32_t seq) {
    const model_seq* parent = &m->seqs[seq];
    const uint32_t index = seq_begin(m, parent->tenant);
    model_seq* child = &m->seqs[index];
    model_copy_seq(m, child, parent, model_seq_pages(m, parent));
    m->counters.forks++;
    m->fresh_count = 0;
    if (!model_fork_copies(m, seq)) return index;
    model_fork_room(m, seq);
    model_copy_tail(m, child);
    model_note_copies(m, 1);
    model_note_peak(m);
    return index;
}

/* ---- Free and truncate ----------------------------------------------------------------------- */

/* Release the pages from `pages` on, last one first. */
void model_cut(model* m, model_seq* seq, uint32_t length) {
    m->departures++;
    for (uint32_t page = model_seq_pages(m, seq); page-- > model_pages(m, length);)
        if (seq->blocks[page] != MODEL_ROLLED) model_block_leave(m, seq->blocks[page]);
    seq->length = length;
    seq->reserved = 0;
    seq->known = min_u32(seq->known, length);
}

model_verdict model_free_errors(const model* m, uint32_t seq) {
    const model_verdict verdict = model_idle_errors(m, seq);
    return (model_verdict){verdict.must & ~MODEL_BIT(PKV_EAWAY), 0};
}

/* What it had announced is not pending any more, or only from page `begin` on. */
void model_announce_from(model_seq* seq, uint32_t begin) {
    if (seq->announced_begin < begin) seq->announced_begin = begin;
    if (seq->announced_begin >= seq->announced_end) seq->announced_end = 0;
    if (seq->announced_end == 0) seq->announced_begin = 0;
}

/* The last page behind the rolled-off ones that is in the index, when there are any. */
uint32_t model_last_entry(const model* m, const model_seq* seq) {
    uint32_t last = MODEL_NONE;
    for (uint32_t page = model_seq_pages(m, seq); page-- > 0;) {
        if (seq->blocks[page] == MODEL_ROLLED) return last;
        if (last == MODEL_NONE && m->blocks[seq->blocks[page]].indexed) last = seq->blocks[page];
    }
    return MODEL_NONE; /* nothing has rolled off */
}

/* What the sequence has let go of, and what rolled off before, is young again, last page first. */
void model_rest_again(model* m, uint32_t entry) {
    for (; entry != MODEL_NONE && entry != MODEL_ORPHAN; entry = m->blocks[entry].parent)
        if (m->blocks[entry].holders == 0) model_rest(m, &m->blocks[entry]);
}

void model_let_go(model* m, model_seq* seq) {
    model_index_tail(m, seq);
    const uint32_t last = model_last_entry(m, seq);
    model_cut(m, seq, 0);
    model_rest_again(m, last);
}

void model_free(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    if (s->residence == PKV_AWAY)
        m->host_free += model_kept_pages(m, s);
    else
        model_let_go(m, s);
    model_announce_from(s, UINT32_MAX);
    s->alive = false;
}

uint32_t model_drop(model* m) {
    const uint32_t dropped = m->blocks_cached;
    for (uint32_t i = 0; i < m->config.blocks; i++)
        if (m->blocks[i].indexed) model_index_remove(m, i);
    m->blocks_cached = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++) {
        model_seq* seq = &m->seqs[i];
        m->pins[i].seq.known = 0;
        if (!seq->alive || seq->length + seq->reserved == 0) continue;
        seq->known = 0;
        model_announce_from(seq, UINT32_MAX);
    }
    return dropped;
}

/* First position that a sequence of `length` tokens may not have lost. */
uint32_t model_window_begin(const model* m, uint32_t length) {
    const uint32_t window = m->config.groups[0].window;
    return window > 0 && length > window ? length - window : 0;
}

/* Has any position in [begin, end) rolled off? */
bool model_has_rolled(const model* m, const model_seq* seq, uint32_t begin, uint32_t end) {
    for (uint32_t position = begin; position < end; position++)
        if (seq->blocks[position / m->block_tokens] == MODEL_ROLLED) return true;
    return false;
}

model_verdict model_truncate_errors(const model* m, uint32_t seq, uint32_t length) {
    model_verdict verdict = model_idle_errors(m, seq);
    if (!model_is_alive(m, seq)) return verdict;
    const model_seq* s = &m->seqs[seq];
    const bool is_outside =
        length > s->length || model_has_rolled(m, s, model_window_begin(m, length), length);
    if (is_outside) verdict.must |= MODEL_BIT(PKV_ERANGE);
    if (m->leaves_are_tight) verdict.may |= MODEL_BIT(PKV_ENOLEAVES);
    return verdict;
}

void model_truncate(model* m, uint32_t seq, uint32_t length) {
    model_cut(m, &m->seqs[seq], length);
    model_announce_from(&m->seqs[seq], UINT32_MAX);
}

/* ---- Write, commit, abort, read -------------------------------------------------------------- */

model_verdict model_write_errors(const model* m, uint32_t seq) {
    model_verdict verdict = model_idle_errors(m, seq);
    if (!model_is_alive(m, seq)) return verdict;
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
    return model_idle_errors(m, seq);
}

void model_roll_off(model* m, model_seq* seq) {
    const uint32_t end = model_window_begin(m, seq->length) / m->block_tokens;
    for (uint32_t page = model_pages(m, m->config.groups[0].sinks); page < end; page++) {
        if (seq->blocks[page] == MODEL_ROLLED) continue;
        model_block_release(m, seq->blocks[page]);
        seq->blocks[page] = MODEL_ROLLED;
        m->counters.rolled_blocks++;
    }
}

void model_commit(model* m, uint32_t seq) {
    model_seq* s = &m->seqs[seq];
    const uint32_t first_page = s->length / m->block_tokens;
    m->counters.tokens_committed += s->reserved;
    s->length += s->reserved;
    s->reserved = 0;
    s->in_plan = false;
    model_index_from(m, s, first_page);
    model_announce_from(s, s->length / m->block_tokens);
    if (m->config.groups[0].window > 0) model_roll_off(m, s);
}

void model_abort(model* m, uint32_t seq) {
    m->seqs[seq].in_plan = false;
    model_cut(m, &m->seqs[seq], m->seqs[seq].length);
}

model_verdict model_read_errors(const model* m, uint32_t seq, uint32_t begin, uint32_t end) {
    model_verdict verdict = model_idle_errors(m, seq);
    if (begin > end) verdict.must |= MODEL_BIT(PKV_ERANGE);
    if (!model_is_alive(m, seq)) return verdict;
    const model_seq* s = &m->seqs[seq];
    if (end > s->length) verdict.must |= MODEL_BIT(PKV_ERANGE);
    if (model_has_rolled(m, s, begin, min_u32(end, s->length)))
        verdict.must |= MODEL_BIT(PKV_ERANGE);
    return verdict;
}
