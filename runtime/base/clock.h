/* clock.h - the only source of time: monotonic, or virtual under the simulated device.
 *
 * A virtual clock moves only when somebody advances it, so that a simulated run takes the same
 * course every time. Threads: any. */
#ifndef PKVI_BASE_CLOCK_H
#define PKVI_BASE_CLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct pkvi_clock {
    bool is_virtual;
    uint64_t start_us;           /* of the monotonic clock, at init */
    uint64_t start_ns;           /* the same */
    uint64_t start_ticks;        /* of the processor's counter, at init */
    _Atomic uint64_t virtual_us; /* since init */
};

void pkvi_clock_init(struct pkvi_clock* clock, bool is_virtual);
uint64_t pkvi_clock_now_us(struct pkvi_clock* clock);

/* The same as of the last tick of the system, some milliseconds ago at most: a fifth of the price,
 * for what happens with every token. */
uint64_t pkvi_clock_recent_us(struct pkvi_clock* clock);

/* For short durations: the processor's own counter, or the virtual clock. */
uint64_t pkvi_clock_ticks(struct pkvi_clock* clock);

/* How long that is, from what the counter has done since init. */
uint64_t pkvi_clock_ticks_ns(struct pkvi_clock* clock, uint64_t ticks);

/* Move a virtual clock forward; a monotonic one is left alone. */
void pkvi_clock_advance(struct pkvi_clock* clock, uint64_t us);

/* Let `us` pass: sleeps, or advances the virtual clock. */
void pkvi_clock_sleep(struct pkvi_clock* clock, uint64_t us);

#endif
