/* model_pin.c - pins: each is a copy of a sequence, cut to whole pages, that nobody can reach. */
#include "sim/model_parts.h"

#include <string.h>

uint32_t model_pin_count(const model* m) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        count += m->pins[i].seq.alive;
    return count;
}

uint32_t model_pins_of(const model* m, uint64_t owner) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        count += m->pins[i].seq.alive && m->pins[i].owner == owner;
    return count;
}

uint32_t model_find_pin(const model* m, uint64_t id) {
    for (uint32_t i = 0; i < m->config.sequences_max; i++)
        if (m->pins[i].seq.alive && m->pins[i].id == id) return i;
    return MODEL_NONE;
}

model_verdict model_pin_errors(const model* m, uint32_t seq, uint32_t tokens) {
    model_verdict verdict = model_create_errors(m); /* a pin takes the room of a sequence, */
    if (verdict.must != 0) verdict.must |= MODEL_BIT(PKV_ENOLEAVES); /* and of its leaves */
    verdict.must |= model_idle_errors(m, seq).must;
    if (!model_is_alive(m, seq)) return verdict;
    if (m->seqs[seq].reserved > 0) verdict.must |= MODEL_BIT(PKV_EBUSY);
    if (tokens > m->seqs[seq].length) verdict.must |= MODEL_BIT(PKV_ERANGE);
    if (m->leaves_are_tight) verdict.may |= MODEL_BIT(PKV_ENOLEAVES);
    return verdict;
}

void model_pin_seq(model* m, uint32_t seq, uint32_t tokens, model_pin terms) {
    uint32_t i = 0;
    while (m->pins[i].seq.alive)
        i++;
    model_pin* pin = &m->pins[i];
    const uint32_t pages = tokens / m->block_tokens;
    pin->id = terms.id;
    pin->owner = terms.owner;
    pin->deadline_us = terms.deadline_us;
    model_copy_seq(m, &pin->seq, &m->seqs[seq], pages);
    pin->seq.alive = true;
}

bool model_pin_is_over(const model* m, uint32_t pin) {
    return m->pins[pin].deadline_us <= m->clock_us;
}

void model_end_pin(model* m, uint32_t pin) {
    model_let_go(m, &m->pins[pin].seq);
    m->pins[pin].seq.alive = false;
}
