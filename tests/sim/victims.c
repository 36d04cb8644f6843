/* victims.c - which blocks were evicted, in rounds whose policy the model does not know.
 *
 * The trace names them. Each must be a block that the model could have evicted then: cached, held by
 * nobody, of the account that has to give one; and there must be as many as the model needs. */
#include "sim/driver.h"

#include <string.h>

static const char* const policies[] = {"reuse",  "fifo", "lfu",       "slru",
                                       "s3fifo", "arc",  "greedydual"};

/* Sound names, names twice, names of blocks in use and of none at all. */
static uint32_t choose(void* ctx, const pkv_candidate* candidates, uint32_t offered, uint32_t count,
                       uint32_t* victims) {
    sim* s = ctx;
    if (sim_percent(s, 5)) return count + 1;
    const uint32_t named = sim_percent(s, 80) ? count : sim_below(s, count + 1);
    for (uint32_t i = 0; i < named; i++) {
        const bool is_sound = offered > 0 && sim_percent(s, 90);
        victims[i] =
            is_sound ? candidates[sim_below(s, offered)].block : sim_below(s, s->number_count + 2);
    }
    return named;
}

void sim_draw_policy(sim* s) {
    const uint32_t kind = sim_below(s, 10);
    s->config.eviction = "lru"; /* whose victims the model predicts */
    if (kind < 4) return;
    s->names_victims = true;
    s->config.eviction = policies[sim_below(s, sizeof policies / sizeof *policies)];
    if (kind < 8) return;
    s->config.eviction_hook = (pkv_eviction_hook){choose, s, sim_below(s, s->config.blocks)};
}

/* Append the victims of events that have not been looked at. */
static void read_trace(sim* s) {
    uint32_t count = 0;
    pkv_trace_read(s->cache, s->events, SIM_EVENTS, &count);
    for (uint32_t i = 0; i < count; i++) {
        const pkv_trace_event* event = &s->events[i];
        if (event->number < s->events_seen) continue;
        if (event->number > s->events_seen) sim_fail(s, "the trace is too short for this test");
        s->events_seen = event->number + 1;
        if (strcmp(event->what, "prefix.evict") == 0)
            s->victims[s->victim_count++] = (uint32_t)event->subject;
    }
}

/* The block of the model behind a number, when it could go. */
static uint32_t evictable(const sim* s, uint32_t real, uint32_t account) {
    const uint32_t i = real < s->number_count ? s->model_of_real[real] : MODEL_NONE;
    if (i == MODEL_NONE || s->model.blocks[i].real != real) return MODEL_NONE;
    const model_block* block = &s->model.blocks[i];
    if (!block->indexed || block->holders > 0) return MODEL_NONE;
    return model_account(&s->model, block->tenant) == account ? i : MODEL_NONE;
}

/* What was retained goes by its priority whatever the policy is. */
static void check_priority(sim* s, uint32_t victim, uint32_t account) {
    const uint32_t first = model_first_to_go(&s->model, account);
    const uint32_t priority = s->model.blocks[victim].terms.priority;
    if (priority != s->model.blocks[first].terms.priority)
        sim_fail(s, "a block of priority %u went before one of %u", priority,
                 s->model.blocks[first].terms.priority);
    else if (priority != PKV_PRIORITY_DEFAULT && victim != first)
        sim_fail(s, "of two blocks of priority %u the younger went", priority);
}

/* Accounts give in another order than the model asks them, each in order. */
static uint32_t next_victim(void* ctx, uint32_t account) {
    sim* s = ctx;
    read_trace(s);
    for (uint32_t i = 0; i < s->victim_count; i++) {
        const uint32_t block = evictable(s, s->victims[i], account);
        if (block == MODEL_NONE) continue;
        s->victim_count--;
        memmove(s->victims + i, s->victims + i + 1, (s->victim_count - i) * sizeof *s->victims);
        s->told++;
        check_priority(s, block, account);
        return block;
    }
    sim_fail(s, "account %u: no block was evicted that could go, of %u", account, s->victim_count);
    return MODEL_NONE;
}

void sim_watch_victims(sim* s) {
    if (!s->names_victims) return;
    s->model.victim = next_victim;
    s->model.victim_ctx = s;
}

void sim_check_victims(sim* s) {
    if (!s->names_victims) return;
    read_trace(s);
    if (s->victim_count > 0) sim_fail(s, "block %u was evicted for nothing", s->victims[0]);
}
