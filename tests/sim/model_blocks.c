/* model_blocks.c - the books on blocks: who holds one, which are idle and since when, and who goes when
 * room is needed. */
#include "sim/model_parts.h"

bool model_is_used(const model_block* block) {
    return block->holders > 0 || block->indexed;
}

/* Any unused block will do: which number the library picks is its own affair. */
uint32_t model_block_take(model* m, uint64_t tenant) {
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

void model_block_hold(model* m, uint32_t i) {
    model_block* block = &m->blocks[i];
    if (block->holders++ > 0) return;
    m->blocks_cached--;
    m->blocks_active++;
}

void model_rest(model* m, model_block* block) {
    block->idle_since = ++m->now;
    block->idle_us = m->clock_us;
    block->left_with = m->departures;
}

/* As one of several that a sequence lets go of together. */
void model_block_leave(model* m, uint32_t i) {
    model_block* block = &m->blocks[i];
    if (--block->holders > 0) return;
    m->blocks_active--;
    if (!block->indexed) return;
    model_rest(m, block);
    m->blocks_cached++;
}

void model_block_release(model* m, uint32_t i) {
    m->departures++;
    model_block_leave(m, i);
}

void model_note_peak(model* m) {
    if (m->blocks_active > m->counters.blocks_peak) m->counters.blocks_peak = m->blocks_active;
}

/* An index entry goes; those behind it are found no more. */
void model_index_remove(model* m, uint32_t entry) {
    m->blocks[entry].indexed = false;
    m->blocks[entry].published = false;
    for (uint32_t i = 0; i < m->config.blocks; i++)
        if (m->blocks[i].indexed && m->blocks[i].parent == entry)
            m->blocks[i].parent = MODEL_ORPHAN;
}

static void block_drop(model* m, uint32_t block) {
    model_index_remove(m, block);
    m->blocks_cached--;
}

void model_expire(model* m, uint32_t block) {
    block_drop(m, block);
    m->counters.expirations++;
}

/* ---- Who goes -------------------------------------------------------------------------------- */

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
uint32_t model_make_room_for(model* m, const uint32_t* need) {
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
