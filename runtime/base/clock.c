/* clock.c - see clock.h. */
#include "base/clock.h"

#include <errno.h>
#include <time.h>

static uint64_t monotonic_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void pkvi_clock_init(struct pkvi_clock* clock, bool is_virtual) {
    clock->is_virtual = is_virtual;
    clock->start_us = monotonic_us();
    atomic_init(&clock->virtual_us, 0);
}

uint64_t pkvi_clock_now_us(struct pkvi_clock* clock) {
    if (clock->is_virtual) return atomic_load_explicit(&clock->virtual_us, memory_order_relaxed);
    return monotonic_us() - clock->start_us;
}

void pkvi_clock_advance(struct pkvi_clock* clock, uint64_t us) {
    if (clock->is_virtual) atomic_fetch_add_explicit(&clock->virtual_us, us, memory_order_relaxed);
}

void pkvi_clock_sleep(struct pkvi_clock* clock, uint64_t us) {
    if (clock->is_virtual) {
        pkvi_clock_advance(clock, us);
        return;
    }
    struct timespec rest = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
        continue;
}
