/* model_retain.c - retention as the header describes it, by looking at all blocks each time. */
#include "sim/model.h"

bool model_is_retained(const model_block* block) {
    if (block->holders == 0 && !block->indexed) return false;
    return block->terms.priority != PKV_PRIORITY_DEFAULT || block->terms.ttl_us != UINT64_MAX;
}

uint32_t model_retained_count(const model* m) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.blocks; i++)
        count += model_is_retained(&m->blocks[i]);
    return count;
}

/* The most counts. */
static void raise_terms(model_terms* own, const model_terms* terms) {
    const bool is_longer = terms->duration_us > own->duration_us;
    if (terms->priority > own->priority || (terms->priority == own->priority && is_longer))
        own->duration_us = terms->duration_us;
    if (terms->priority > own->priority) own->priority = terms->priority;
    if (terms->ttl_us > own->ttl_us) own->ttl_us = terms->ttl_us;
}

/* The block of a page if it can be retained, or NULL. */
static model_block* block_of(const model* m, const model_seq* seq, uint32_t page) {
    if (m->config.prefix_off || seq->blocks[page] == MODEL_ROLLED) return NULL;
    model_block* block = &m->blocks[seq->blocks[page]];
    return block->tenant == seq->tenant ? block : NULL;
}

/* Is one of the positions [begin, end) in the page, and known? */
static bool is_touched(const model* m, const model_seq* seq, uint32_t page, uint32_t begin,
                       uint32_t end) {
    for (uint32_t i = begin; i < end && i < seq->known; i++)
        if (i / m->block_tokens == page) return true;
    return false;
}

static bool is_default(const model_terms* terms) {
    return terms->priority == PKV_PRIORITY_DEFAULT && terms->ttl_us == UINT64_MAX;
}

static uint32_t new_rows(const model* m, const model_seq* seq, uint32_t begin, uint32_t end) {
    uint32_t rows = 0;
    for (uint32_t page = 0; page < model_pages(m, seq->length); page++) {
        if (!is_touched(m, seq, page, begin, end)) continue;
        const model_block* block = block_of(m, seq, page);
        rows += block != NULL && !model_is_retained(block);
    }
    return rows;
}

model_verdict model_retain_errors(const model* m, uint32_t seq, uint32_t begin, uint32_t end,
                                  const model_terms* terms) {
    uint32_t errors = m->config.retained_max == 0 ? MODEL_BIT(PKV_ENOTSUP) : 0;
    if (terms != NULL && terms->priority > 100) errors |= MODEL_BIT(PKV_EINVAL);
    if (seq == MODEL_NONE || !m->seqs[seq].alive)
        return (model_verdict){errors | MODEL_BIT(PKV_ESTALE), 0};
    const model_seq* s = &m->seqs[seq];
    if (s->residence == PKV_AWAY)
        errors |= MODEL_BIT(PKV_EAWAY);
    else if (s->residence != PKV_RESIDENT)
        errors |= MODEL_BIT(PKV_EBUSY);
    if (begin > end || end > s->length) errors |= MODEL_BIT(PKV_ERANGE);
    if (errors != 0 || terms == NULL || is_default(terms)) return (model_verdict){errors, 0};
    const uint32_t rows = model_retained_count(m) + new_rows(m, s, begin, end);
    return (model_verdict){rows > m->config.retained_max ? MODEL_BIT(PKV_ETOOBIG) : 0, 0};
}

void model_set_terms(model_block* block, const model_terms* terms) {
    const model_terms none = {PKV_PRIORITY_DEFAULT, UINT64_MAX, UINT64_MAX};
    if (terms == NULL)
        block->terms = none;
    else if (model_is_retained(block))
        raise_terms(&block->terms, terms);
    else
        block->terms = *terms;
    if (is_default(&block->terms)) block->terms = none;
}

uint32_t model_retain(model* m, uint32_t seq, uint32_t begin, uint32_t end,
                      const model_terms* terms) {
    const model_seq* s = &m->seqs[seq];
    uint32_t blocks = 0;
    for (uint32_t page = 0; page < model_pages(m, s->length); page++) {
        model_block* block = block_of(m, s, page);
        if (block == NULL || !is_touched(m, s, page, begin, end)) continue;
        model_set_terms(block, terms);
        blocks++;
    }
    return blocks;
}

/* ---- Time ------------------------------------------------------------------------------------ */

static uint64_t later(uint64_t since, uint64_t us) {
    return us > UINT64_MAX - since ? UINT64_MAX : since + us;
}

static uint64_t due_us(const model_block* block) {
    const uint64_t over = later(block->idle_us, block->terms.ttl_us);
    if (block->terms.priority == PKV_PRIORITY_DEFAULT) return over;
    const uint64_t lapse = later(block->idle_us, block->terms.duration_us);
    return lapse < over ? lapse : over;
}

/* The idle block whose moment comes first, of equal ones the one that became idle first. */
static uint32_t next_due(const model* m) {
    uint32_t next = MODEL_NONE;
    for (uint32_t i = 0; i < m->config.blocks; i++) {
        const model_block* block = &m->blocks[i];
        if (!block->indexed || block->holders > 0 || due_us(block) > m->clock_us) continue;
        if (next != MODEL_NONE && due_us(block) > due_us(&m->blocks[next])) continue;
        if (next != MODEL_NONE && due_us(block) == due_us(&m->blocks[next]) &&
            block->idle_since > m->blocks[next].idle_since)
            continue;
        next = i;
    }
    return next;
}

void model_come_due(model* m, uint32_t i) {
    model_block* block = &m->blocks[i];
    if (due_us(block) > m->clock_us) return;
    if (later(block->idle_us, block->terms.ttl_us) <= m->clock_us) {
        model_expire(m, i);
    } else {
        block->terms.priority = PKV_PRIORITY_DEFAULT;
        block->terms.duration_us = UINT64_MAX;
        block->idle_since = ++m->now;
        block->left_with = ++m->departures;
    }
}

void model_settle(model* m) {
    for (uint32_t i = next_due(m); i != MODEL_NONE; i = next_due(m))
        model_come_due(m, i);
}
