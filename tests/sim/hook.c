/* hook.c - an application that chooses victims: it talks nonsense, and listens well.
 *
 * In half of the rounds it is told what becomes of blocks. What it is told must make sense by itself,
 * and what it is offered must be what it has been told is idle. */
#include "sim/round.h"

enum { UNKNOWN, BUSY, IDLE };

/* Sound names, names twice, names of blocks in use and of none at all. */
static uint32_t talk(sim* s, const pkv_candidate* candidates, uint32_t offered, uint32_t count,
                     uint32_t* victims) {
    if (sim_percent(s, 5)) return count + 1;
    const uint32_t named = sim_percent(s, 80) ? count : sim_below(s, count + 1);
    for (uint32_t i = 0; i < named; i++) {
        const bool is_sound = offered > 0 && sim_percent(s, 90);
        victims[i] =
            is_sound ? candidates[sim_below(s, offered)].block : sim_below(s, s->number_count + 2);
    }
    return named;
}

static uint32_t count_idle(const sim* s) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->number_count; i++)
        count += s->told_of[i] == IDLE;
    return count;
}

static uint32_t choose(void* ctx, const pkv_candidate* candidates, uint32_t offered, uint32_t count,
                       uint32_t* victims) {
    sim* s = ctx;
    const pkv_eviction_hook* hook = &s->config.eviction_hook;
    if (hook->note == NULL) return talk(s, candidates, offered, count, victims);
    for (uint32_t i = 0; i < offered; i++)
        if (s->told_of[candidates[i].block] != IDLE)
            sim_fail(s, "block %u is offered and was not told to be idle", candidates[i].block);
    const bool is_all = hook->offer_max == 0 && s->config.tenants_max == 0;
    if (is_all && offered != count_idle(s))
        sim_fail(s, "%u blocks are offered, %u were told to be idle", offered, count_idle(s));
    if (hook->offer_max == PKV_OFFER_NONE && offered > 0) sim_fail(s, "blocks are offered");
    return talk(s, candidates, offered, count, victims);
}

/* What a block may be when an event comes, and what it is then. */
static void hear(sim* s, uint32_t event, uint32_t block) {
    static const struct {
        uint8_t from; /* states, as bits */
        uint8_t to;
    } steps[] = {
        [PKV_BLOCK_CACHED] = {1 << UNKNOWN, BUSY},
        [PKV_BLOCK_BUSY] = {1 << IDLE, BUSY},
        [PKV_BLOCK_IDLE] = {1 << BUSY | 1 << IDLE, IDLE},
        [PKV_BLOCK_GONE] = {1 << BUSY | 1 << IDLE, UNKNOWN},
    };
    const bool is_told_anew = event == PKV_BLOCK_CACHED && s->config.tenants_max > 0;
    if ((steps[event].from >> s->told_of[block] & 1) == 0 && !is_told_anew)
        sim_fail(s, "event %u of block %u, which was told to be %u", event, block,
                 s->told_of[block]);
    s->told_of[block] = steps[event].to;
}

static void note(void* ctx, uint32_t event, uint32_t block, uint32_t other) {
    sim* s = ctx;
    s->events_told++;
    if (event == PKV_BLOCK_USED) {
        if (s->told_of[block] == UNKNOWN) sim_fail(s, "block %u is used and unknown", block);
    } else if (event == PKV_BLOCK_MOVED) {
        if (s->told_of[other] != UNKNOWN) sim_fail(s, "block %u is where %u moves", other, block);
        s->told_of[other] = s->told_of[block];
        s->told_of[block] = UNKNOWN;
    } else {
        hear(s, event, block);
    }
}

void sim_draw_hook(sim* s) {
    pkv_eviction_hook* hook = &s->config.eviction_hook;
    *hook = (pkv_eviction_hook){.choose = choose, .ctx = s};
    if (sim_percent(s, 50)) hook->offer_max = sim_between(s, 1, s->config.blocks);
    if (sim_percent(s, 50)) return;
    hook->note = note;
    if (s->config.tenants_max == 0 && sim_percent(s, 50)) hook->offer_max = PKV_OFFER_NONE;
}
