/* trace.c - see trace.h. */
#include "base/trace.h"

/* pre: value <= 2^31 */
static uint32_t power_of_two_from(uint32_t value) {
    uint32_t power = 1;
    while (power < value)
        power <<= 1;
    return power;
}

int pkvi_trace_open(struct pkvi_trace* trace, struct pkvi_mem* mem, uint32_t capacity,
                    struct pkvi_clock* clock) {
    capacity = power_of_two_from(capacity);
    *trace = (struct pkvi_trace){.capacity = capacity, .clock = clock};
    return pkvi_mem_take(mem, capacity, sizeof *trace->events, (void**)&trace->events);
}

void pkvi_trace_close(struct pkvi_trace* trace, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, trace->events);
}

static void note_at(struct pkvi_trace* trace, uint64_t time_us, const char* what, uint64_t subject,
                    uint64_t detail) {
    pkv_trace_event* event = &trace->events[trace->next & (trace->capacity - 1)];
    *event = (pkv_trace_event){trace->next, time_us, what, subject, detail};
    trace->last_time_us = time_us;
    trace->next++;
}

void pkvi_trace_note(struct pkvi_trace* trace, const char* what, uint64_t subject,
                     uint64_t detail) {
    note_at(trace, pkvi_clock_now_us(trace->clock), what, subject, detail);
}

void pkvi_trace_note_often(struct pkvi_trace* trace, const char* what, uint64_t subject,
                           uint64_t detail) {
    const uint64_t recent_us = pkvi_clock_recent_us(trace->clock);
    const uint64_t last_us = trace->last_time_us;
    note_at(trace, recent_us > last_us ? recent_us : last_us, what, subject, detail);
}

uint32_t pkvi_trace_copy(const struct pkvi_trace* trace, pkv_trace_event* events,
                         uint32_t capacity) {
    uint64_t count = trace->next < trace->capacity ? trace->next : trace->capacity;
    if (count > capacity) count = capacity;
    for (uint64_t i = 0; i < count; i++)
        events[i] = trace->events[(trace->next - count + i) & (trace->capacity - 1)];
    return (uint32_t)count;
}
