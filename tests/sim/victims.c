/* victims.c - which blocks were evicted and which have moved: the trace names them.
 *
 * Each victim must be a block that the model could have evicted then: cached, held by nobody, of the
 * account that has to give one; and there must be as many as the model needs. Under "lru" it must be
 * the very one that the model would choose. */
#include "sim/round.h"

#include <string.h>

static const char* const policies[] = {"reuse",  "fifo", "lfu",       "slru",
                                       "s3fifo", "arc",  "greedydual"};

void sim_draw_policy(sim* s) {
    const uint32_t kind = sim_below(s, 10);
    s->config.eviction = "lru";
    s->predicts_victims = kind < 4;
    s->goes_from_the_end = kind < 4;
    if (s->predicts_victims) return;
    s->config.eviction = policies[sim_below(s, sizeof policies / sizeof *policies)];
    s->goes_from_the_end = kind < 8 && s->config.groups[0].window == 0 &&
                           strcmp(s->config.eviction, "greedydual") == 0;
    if (kind < 8) return;
    sim_draw_hook(s);
}

/* The block of the model behind a number, when it is only cached; else MODEL_NONE. */
static uint32_t find_idle(const sim* s, uint32_t real) {
    const uint32_t i = real < s->number_count ? s->model_of_real[real] : MODEL_NONE;
    if (i == MODEL_NONE || s->model.blocks[i].real != real) return MODEL_NONE;
    return s->model.blocks[i].indexed && s->model.blocks[i].holders == 0 ? i : MODEL_NONE;
}

/* The same, when it could go for an account. */
static uint32_t evictable(const sim* s, uint32_t real, uint32_t account) {
    const uint32_t i = find_idle(s, real);
    if (i == MODEL_NONE) return MODEL_NONE;
    return model_account(&s->model, s->model.blocks[i].tenant) == account ? i : MODEL_NONE;
}

/* What comes due while a call is delayed, the library notices in time for its end, or later. */
static void settle_block(sim* s, uint32_t real) {
    const uint32_t i = find_idle(s, real);
    if (i != MODEL_NONE) model_come_due(&s->model, i);
}

static void read_event(sim* s, const pkv_trace_event* event) {
    const uint32_t block = (uint32_t)event->subject;
    if (strcmp(event->what, "prefix.evict") == 0) s->victims[s->victim_count++] = block;
    if (strcmp(event->what, "prefix.expire") == 0) settle_block(s, block);
    if (strcmp(event->what, "prefix.lapse") == 0) settle_block(s, block);
    if (strcmp(event->what, "pin.end") == 0) sim_end_pin(s, event->subject);
    if (strcmp(event->what, "cache.move") == 0)
        s->moves[s->move_count++] = (sim_move){block, (uint32_t)event->detail};
}

/* What events say that have not been looked at. */
void sim_read_trace(sim* s) {
    pkv_trace_event newest;
    uint32_t count = 0;
    pkv_trace_read(s->cache, &newest, 1, &count);
    if (count == 0 || newest.number < s->events_seen) return;
    const uint64_t missed = newest.number + 1 - s->events_seen;
    if (missed > SIM_EVENTS) sim_fail(s, "the trace is too short for this test");
    pkv_trace_read(s->cache, s->events, missed < SIM_EVENTS ? (uint32_t)missed : SIM_EVENTS,
                   &count);
    for (uint32_t i = 0; i < count; i++)
        read_event(s, &s->events[i]);
    s->events_seen = newest.number + 1;
}

static void remove_victim(sim* s, uint32_t i) {
    s->victim_count--;
    memmove(s->victims + i, s->victims + i + 1, (s->victim_count - i) * sizeof *s->victims);
}

bool sim_take_victim(sim* s, uint32_t real) {
    uint32_t i = 0;
    while (i < s->victim_count && s->victims[i] != real)
        i++;
    if (i == s->victim_count) return false;
    remove_victim(s, i);
    return true;
}

/* Of what a sequence has let go of together, its end goes first: under "lru", and under "greedydual",
 * which looks at what is behind a block, when there is no window behind which others still hold some
 * of it. Other policies ask how often and since when a block was used, so that its beginning can go
 * first; "reuse" takes care that this is rare, but its ages are those of groups. */
static void check_tail(sim* s, uint32_t victim) {
    const uint32_t later = model_later_page(&s->model, victim);
    if (s->goes_from_the_end && later != MODEL_NONE)
        sim_fail(s, "block %u was evicted before block %u, which is behind it",
                 s->model.blocks[victim].real, s->model.blocks[later].real);
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

static void check_victim(sim* s, uint32_t victim, uint32_t account) {
    const uint32_t first = model_first_to_go(&s->model, account);
    check_tail(s, victim);
    if (!s->predicts_victims)
        check_priority(s, victim, account);
    else if (victim != first)
        sim_fail(s, "block %u was evicted before block %u", s->model.blocks[victim].real,
                 s->model.blocks[first].real);
    s->told += !s->predicts_victims;
}

/* The first victim of an account, by its place among them. Accounts give in another order than the
 * model asks them, each in order. */
static uint32_t find_victim(sim* s, uint32_t account) {
    uint32_t i = 0;
    sim_read_trace(s);
    while (i < s->victim_count && evictable(s, s->victims[i], account) == MODEL_NONE)
        i++;
    return i;
}

static bool is_victim_of(void* ctx, uint32_t account) {
    sim* s = ctx;
    return find_victim(s, account) < s->victim_count;
}

static uint32_t next_victim(void* ctx, uint32_t account) {
    sim* s = ctx;
    const uint32_t i = find_victim(s, account);
    if (i == s->victim_count) {
        sim_fail(s, "account %u: no block was evicted that could go, of %u", account,
                 s->victim_count);
        return MODEL_NONE;
    }
    const uint32_t block = evictable(s, s->victims[i], account);
    remove_victim(s, i);
    check_victim(s, block, account);
    return block;
}

void sim_watch_victims(sim* s) {
    s->model.victim = next_victim;
    s->model.is_victim_of = is_victim_of;
    s->model.ctx = s;
    s->releases.owner = UINT64_MAX;
}

void sim_check_victims(sim* s) {
    sim_read_trace(s);
    if (s->victim_count > 0) sim_fail(s, "block %u was evicted for nothing", s->victims[0]);
    if (s->move_count > 0) sim_fail(s, "block %u moved for nothing", s->moves[0].from);
}
