/* trace.h - a ring of the last operations, written always, read after something went wrong.
 *
 * Threads: the owner's lock. */
#ifndef PKVI_BASE_TRACE_H
#define PKVI_BASE_TRACE_H

#include "base/clock.h"
#include "base/mem.h"

struct pkvi_trace {
    pkv_trace_event* events; /* ring of `capacity`, a power of two */
    uint32_t capacity;
    uint64_t next;         /* number of the next event */
    uint64_t last_time_us; /* of the event before it */
    struct pkvi_clock* clock;
};

/* `capacity` is rounded up to a power of two; pre: at most 2^31. */
int pkvi_trace_open(struct pkvi_trace* trace, struct pkvi_mem* mem, uint32_t capacity,
                    struct pkvi_clock* clock);
void pkvi_trace_close(struct pkvi_trace* trace, struct pkvi_mem* mem);

/* `what` is a static string. */
void pkvi_trace_note(struct pkvi_trace* trace, const char* what, uint64_t subject, uint64_t detail);

/* The same for what happens with every token: reading the clock would cost as much as the operation
 * itself. The time is that of the event before or of the system's last tick, whichever is later. */
void pkvi_trace_note_often(struct pkvi_trace* trace, const char* what, uint64_t subject,
                           uint64_t detail);

/* Newest min(capacity, kept) events, oldest first; returns how many. */
uint32_t pkvi_trace_copy(const struct pkvi_trace* trace, pkv_trace_event* events,
                         uint32_t capacity);

#endif
