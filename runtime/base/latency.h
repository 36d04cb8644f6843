/* latency.h - a histogram of durations that costs an increment, and answers with quantiles.
 *
 * Buckets are powers of two cut into four: a quantile is at most an eighth above or below. Durations
 * are counted in ticks of the processor's own counter, which costs a third of reading the clock, and
 * become nanoseconds when somebody asks; under a virtual clock they are its nanoseconds.
 *
 * Threads none: whoever counts holds a lock. */
#ifndef PKVI_BASE_LATENCY_H
#define PKVI_BASE_LATENCY_H

#include "base/clock.h"

enum { PKVI_LATENCY_BUCKETS = 4 * 63 };

struct pkvi_latency {
    uint64_t count;
    uint64_t max; /* ticks */
    uint64_t counts[PKVI_LATENCY_BUCKETS];
};

/* A duration of `ticks`, see pkvi_clock_ticks. */
void pkvi_latency_add(struct pkvi_latency* latency, uint64_t ticks);

/* The duration in ticks that `percent` of all do not pass: the middle of its bucket, at most the
 * longest. 0 when there are none. */
uint64_t pkvi_latency_quantile(const struct pkvi_latency* latency, uint32_t percent);

#endif
