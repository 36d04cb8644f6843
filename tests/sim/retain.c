/* retain.c - blocks are asked to stay longer, or to go sooner; time passes. */
#include "sim/driver.h"

#include <string.h>

/* Where the clock is real, nothing is said about time. */
static bool has_virtual_clock(const sim* s) {
    return strcmp(s->options.device, "sim") == 0;
}

void sim_settle(sim* s) {
    pkv_stats stats = {.struct_size = sizeof stats};
    s->model.clock_us = pkv_clock_us(s->cache);
    if (s->config.retained_max == 0 && model_pin_count(&s->model) == 0) return;
    pkv_cache_stats(s->cache, &stats);
    sim_read_trace(s);
    model_settle(&s->model);
    sim_expect_pins_in_time(s);
}

static uint64_t draw_time(sim* s) {
    if (sim_percent(s, 40) || !has_virtual_clock(s)) return 0;
    return sim_percent(s, 5) ? UINT64_MAX - sim_below(s, 9) : 1 + sim_below(s, 3000);
}

static pkv_retention draw_retention(sim* s) {
    static const uint32_t priorities[] = {0, 10, 34, 35, 36, 90, 100};
    pkv_retention retention = {.priority = priorities[sim_below(s, 7)]};
    if (sim_percent(s, 3)) retention.priority = 101;
    retention.duration_us = draw_time(s);
    retention.ttl_us = draw_time(s);
    return retention;
}

static uint64_t without_end(uint64_t us) {
    return us > 0 ? us : UINT64_MAX;
}

void sim_op_retain(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    const uint32_t length = seq != MODEL_NONE ? s->model.seqs[seq].length : 0;
    const uint32_t begin = sim_below(s, length + 1);
    uint32_t end = begin + sim_below(s, length - begin + 1);
    if (sim_percent(s, 3)) end = sim_below(s, length + 2);
    const pkv_retention retention = draw_retention(s);
    const model_terms asked = {retention.priority, without_end(retention.duration_us),
                               without_end(retention.ttl_us)};
    const model_terms* terms = sim_percent(s, 85) ? &asked : NULL;
    sim_settle(s); /* rows of what is over are free */
    const model_verdict verdict = model_retain_errors(&s->model, seq, begin, end, terms);
    uint32_t retained = 0;
    sim_before(s, verdict);
    const int status = pkv_seq_retain(s->cache, sim_handle(s, seq), begin, end,
                                      terms != NULL ? &retention : NULL, &retained);
    if (!sim_judge(s, "seq.retain", verdict, status, begin, end)) return;
    const uint32_t want = model_retain(&s->model, seq, begin, end, terms);
    if (retained != want) sim_fail(s, "retained %u blocks, want %u", retained, want);
    s->retained += retained;
}
