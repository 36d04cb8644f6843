/* pins.c - blocks are held beyond the sequences that computed them: until somebody releases them, or
 * forgets to, or their time is over. In which order several end at once, the trace says. */
#include "sim/round.h"

#include <string.h>

enum { OWNERS = 3 };

static uint64_t draw_timeout(sim* s) {
    if (strcmp(s->options.device, "sim") != 0 || sim_percent(s, 40)) return 0;
    return sim_percent(s, 3) ? UINT64_MAX : 1 + sim_below(s, 4000);
}

static uint64_t deadline_of(const sim* s, uint64_t timeout_us) {
    const uint64_t now = s->model.clock_us;
    return timeout_us == 0 || timeout_us > UINT64_MAX - now ? UINT64_MAX : now + timeout_us;
}

static void create(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    const uint32_t length = seq != MODEL_NONE ? s->model.seqs[seq].length : 0;
    uint32_t tokens = sim_percent(s, 50) ? length : sim_below(s, length + 1);
    if (sim_percent(s, 5)) tokens = length + 1;
    const uint64_t owner = sim_below(s, OWNERS);
    const uint64_t timeout_us = draw_timeout(s);
    pkv_pin pin;
    sim_settle(s); /* pins that are over take no room */
    const model_verdict verdict = model_pin_errors(&s->model, seq, tokens);
    sim_before(s, verdict);
    const int status =
        pkv_pin_create(s->cache, sim_handle(s, seq), tokens, owner, timeout_us, &pin);
    if (!sim_judge(s, "pin.create", verdict, status, seq, tokens)) return;
    const model_pin terms = {
        .id = pin.id, .owner = owner, .deadline_us = deadline_of(s, timeout_us)};
    model_pin_seq(&s->model, seq, tokens, terms);
    s->pinned++;
}

/* A living pin mostly, else none at all. */
static pkv_pin draw_pin(sim* s) {
    const uint32_t first = sim_below(s, s->config.sequences_max);
    for (uint32_t i = 0; i < s->config.sequences_max && sim_percent(s, 98); i++) {
        const model_pin* pin = &s->model.pins[(first + i) % s->config.sequences_max];
        if (pin->seq.alive) return (pkv_pin){pin->id};
    }
    return (pkv_pin){sim_next(s)};
}

static void release(sim* s) {
    sim_settle(s); /* what is over can be released no more */
    const pkv_pin pin = draw_pin(s);
    const bool is_alive = model_find_pin(&s->model, pin.id) != MODEL_NONE;
    const model_verdict verdict = {is_alive ? 0 : MODEL_BIT(PKV_ESTALE), 0};
    sim_before(s, verdict);
    const int status = pkv_pin_release(s->cache, pin);
    s->releases = (sim_release){.id = pin.id, .owner = UINT64_MAX};
    if (sim_judge(s, "pin.release", verdict, status, is_alive, 0)) sim_read_trace(s);
    s->releases = (sim_release){0, UINT64_MAX};
    if (status == PKV_OK && model_find_pin(&s->model, pin.id) != MODEL_NONE)
        sim_fail(s, "a pin that was released is alive");
}

static void release_owner(sim* s, uint64_t owner) {
    const model_verdict verdict = {0, 0};
    uint32_t released = 0;
    sim_before(s, verdict);
    const uint32_t want = model_pins_of(&s->model, owner);
    const int status = pkv_pins_release(s->cache, owner, &released);
    s->releases = (sim_release){.id = 0, .owner = owner};
    if (sim_judge(s, "pins.release", verdict, status, owner, released)) sim_read_trace(s);
    s->releases = (sim_release){0, UINT64_MAX};
    if (!sim_is_well(s) || status != PKV_OK) return;
    if (released != want) sim_fail(s, "%u pins were released, want %u", released, want);
    if (model_pins_of(&s->model, owner) > 0) sim_fail(s, "a pin outlives its owner");
}

void sim_op_pin(sim* s) {
    const uint32_t ticket = sim_below(s, 10);
    if (ticket < 6)
        create(s);
    else if (ticket < 9)
        release(s);
    else
        release_owner(s, sim_below(s, OWNERS));
}

/* A pin has ended, as the trace says: in time, or since somebody wanted it. */
void sim_end_pin(sim* s, uint64_t id) {
    const uint32_t pin = model_find_pin(&s->model, id);
    if (pin == MODEL_NONE) {
        sim_fail(s, "a pin ended that there is not");
        return;
    }
    const bool is_over = model_pin_is_over(&s->model, pin);
    const bool is_released = id == s->releases.id || s->model.pins[pin].owner == s->releases.owner;
    if (!is_over && !is_released) sim_fail(s, "a pin ended before its time");
    s->model.counters.pins_expired += !is_released;
    model_end_pin(&s->model, pin);
}

void sim_expect_pins_in_time(sim* s) {
    for (uint32_t i = 0; i < s->config.sequences_max; i++)
        if (s->model.pins[i].seq.alive && model_pin_is_over(&s->model, i))
            sim_fail(s, "a pin is alive whose time is over");
}

void sim_release_pins(sim* s) {
    for (uint64_t owner = 0; owner < OWNERS && sim_is_well(s); owner++)
        release_owner(s, owner);
}
