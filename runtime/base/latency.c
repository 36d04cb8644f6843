/* latency.c - see latency.h.
 *
 *   ticks    0 1 2 3 4 5 6 7 8-9 10-11 12-13 14-15 16-19 ...
 *   bucket   0 1 2 3 4 5 6 7 8   9     10    11    12 */
#include "base/latency.h"

enum { CUTS_SHIFT = 2, CUTS = 1 << CUTS_SHIFT };

static uint32_t bucket_of(uint64_t ticks) {
    if (ticks < CUTS) return (uint32_t)ticks;
    const uint32_t shift = 63 - (uint32_t)__builtin_clzll(ticks) - CUTS_SHIFT;
    return (shift << CUTS_SHIFT) + (uint32_t)(ticks >> shift);
}

/* The middle of what falls into a bucket. */
static uint64_t middle_of(uint32_t bucket) {
    if (bucket < 2 * CUTS) return bucket;
    const uint32_t shift = (bucket >> CUTS_SHIFT) - 1;
    const uint64_t first = (uint64_t)(bucket - (shift << CUTS_SHIFT)) << shift;
    return first + (((uint64_t)1 << shift) - 1) / 2;
}

void pkvi_latency_add(struct pkvi_latency* latency, uint64_t ticks) {
    latency->counts[bucket_of(ticks)]++;
    latency->count++;
    if (ticks > latency->max) latency->max = ticks;
}

uint64_t pkvi_latency_quantile(const struct pkvi_latency* latency, uint32_t percent) {
    const uint64_t wanted = latency->count - latency->count * (100 - percent) / 100;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < PKVI_LATENCY_BUCKETS && latency->count > 0; i++) {
        seen += latency->counts[i];
        if (seen < wanted) continue;
        const uint64_t middle = middle_of(i);
        return middle < latency->max ? middle : latency->max;
    }
    return 0;
}
