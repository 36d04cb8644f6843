/* clock.c - see clock.h. */
#include "base/clock.h"

#include <errno.h>
#include <time.h>

static uint64_t read_us(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t monotonic_us(void) {
    return read_us(CLOCK_MONOTONIC);
}

/* CLOCK_MONOTONIC_COARSE is the same clock, read where the last tick left it. */
static uint64_t tick_us(void) {
#ifdef CLOCK_MONOTONIC_COARSE
    return read_us(CLOCK_MONOTONIC_COARSE);
#else
    return monotonic_us();
#endif
}

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Not ordered with the instructions around it, which does not matter for tens of nanoseconds. */
static uint64_t counter(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return monotonic_ns();
#endif
}

void pkvi_clock_init(struct pkvi_clock* clock, bool is_virtual) {
    clock->is_virtual = is_virtual;
    clock->start_us = monotonic_us();
    clock->start_ns = monotonic_ns();
    clock->start_ticks = counter();
    atomic_init(&clock->virtual_us, 0);
}

uint64_t pkvi_clock_now_us(struct pkvi_clock* clock) {
    if (clock->is_virtual) return atomic_load_explicit(&clock->virtual_us, memory_order_relaxed);
    return monotonic_us() - clock->start_us;
}

uint64_t pkvi_clock_recent_us(struct pkvi_clock* clock) {
    if (clock->is_virtual) return pkvi_clock_now_us(clock);
    const uint64_t now = tick_us();
    return now > clock->start_us ? now - clock->start_us : 0; /* the tick may be before the start */
}

uint64_t pkvi_clock_ticks(struct pkvi_clock* clock) {
    return clock->is_virtual ? pkvi_clock_now_us(clock) * 1000 : counter();
}

uint64_t pkvi_clock_ticks_ns(struct pkvi_clock* clock, uint64_t ticks) {
    if (clock->is_virtual) return ticks;
    const uint64_t passed = counter() - clock->start_ticks;
    const uint64_t passed_ns = monotonic_ns() - clock->start_ns;
    if (passed == 0) return 0;
    return (uint64_t)((double)ticks * (double)passed_ns / (double)passed);
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
