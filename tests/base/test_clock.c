/* test_clock.c - a virtual clock moves when it is told to, a monotonic one only by itself. */
#include "base/clock.h"
#include "unit.h"

TEST(a_virtual_clock_moves_only_when_advanced) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, true);
    ASSERT_EQ(pkvi_clock_now_us(&clock), 0);
    pkvi_clock_advance(&clock, 5);
    ASSERT_EQ(pkvi_clock_now_us(&clock), 5);
    pkvi_clock_sleep(&clock, 3600000000U);
    ASSERT_EQ(pkvi_clock_now_us(&clock), 3600000005U);
    ASSERT_EQ(pkvi_clock_now_us(&clock), 3600000005U);
}

TEST(a_monotonic_clock_never_goes_back) {
    struct pkvi_clock clock;
    uint64_t last_us = 0;
    pkvi_clock_init(&clock, false);
    for (int i = 0; i < 10000; i++) {
        const uint64_t now_us = pkvi_clock_now_us(&clock);
        ASSERT_GE(now_us, last_us);
        last_us = now_us;
    }
}

TEST(a_monotonic_clock_counts_from_its_own_start) {
    struct pkvi_clock early;
    struct pkvi_clock late;
    pkvi_clock_init(&early, false);
    pkvi_clock_sleep(&early, 2000);
    pkvi_clock_init(&late, false);
    const uint64_t late_us = pkvi_clock_now_us(&late);
    ASSERT_GE(pkvi_clock_now_us(&early), late_us + 2000);
}

TEST(a_monotonic_clock_cannot_be_advanced) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, false);
    pkvi_clock_advance(&clock, 1ULL << 50);
    ASSERT_LT(pkvi_clock_now_us(&clock), 1ULL << 50);
}

/* The last tick is behind the clock, by less than a second on any system, and may be before the
 * start. */
TEST(a_recent_time_is_not_ahead_and_not_far_behind) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, false);
    ASSERT_LE(pkvi_clock_recent_us(&clock), pkvi_clock_now_us(&clock));
    clock.start_us -= 10000000;
    const uint64_t before_us = pkvi_clock_now_us(&clock);
    const uint64_t recent_us = pkvi_clock_recent_us(&clock);
    ASSERT_LE(recent_us, pkvi_clock_now_us(&clock));
    ASSERT_GE(recent_us + 1000000, before_us);
}

TEST(a_virtual_clock_is_always_recent) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, true);
    pkvi_clock_advance(&clock, 5);
    ASSERT_EQ(pkvi_clock_recent_us(&clock), 5);
}

TEST(sleeping_takes_at_least_its_time) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, false);
    const uint64_t before_us = pkvi_clock_now_us(&clock);
    pkvi_clock_sleep(&clock, 2000);
    ASSERT_GE(pkvi_clock_now_us(&clock) - before_us, 2000);
}
