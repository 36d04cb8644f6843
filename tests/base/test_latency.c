/* test_latency.c - the histogram against a sorted array, and the ticks that it counts. */
#include "unit.h"

#include "base/hash.h"
#include "base/latency.h"

enum { SAMPLES = 5000 };

static int compare(const void* left, const void* right) {
    const uint64_t a = *(const uint64_t*)left;
    const uint64_t b = *(const uint64_t*)right;
    return (a > b) - (a < b);
}

/* A value is exact below eight ticks, and otherwise off by an eighth at most. */
static void expect_near(uint64_t got, uint64_t want) {
    const uint64_t slack = want / 8;
    ASSERT_GE(got, want - slack);
    ASSERT_LE(got, want + slack);
}

static void exercise(uint64_t seed, uint32_t bits, uint32_t count) {
    static uint64_t values[SAMPLES];
    struct pkvi_latency latency = {0};
    for (uint32_t i = 0; i < count; i++) {
        values[i] = pkvi_random_next(&seed) >> (64 - bits);
        values[i] >>= pkvi_random_next(&seed) % bits;
        pkvi_latency_add(&latency, values[i]);
    }
    qsort(values, count, sizeof *values, compare);
    static const uint32_t percents[] = {1, 50, 99, 100};
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        const uint32_t rank = count - count * (100 - percents[i]) / 100;
        expect_near(pkvi_latency_quantile(&latency, percents[i]), values[rank - 1]);
    }
    ASSERT_EQ(latency.count, count);
    ASSERT_EQ(latency.max, values[count - 1]);
    ASSERT_LE(pkvi_latency_quantile(&latency, 100), latency.max);
}

TEST(quantiles_are_those_of_the_samples) {
    for (uint32_t bits = 1; bits < 60; bits++)
        exercise(bits, bits, SAMPLES);
    for (uint32_t count = 1; count < 20; count++)
        exercise(count, 30, count);
}

TEST(every_duration_has_a_bucket) {
    struct pkvi_latency latency = {0};
    for (uint32_t bit = 0; bit < 64; bit++) {
        pkvi_latency_add(&latency, (uint64_t)1 << bit);
        pkvi_latency_add(&latency, ((uint64_t)1 << bit) - 1);
    }
    pkvi_latency_add(&latency, UINT64_MAX);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < PKVI_LATENCY_BUCKETS; i++)
        sum += latency.counts[i];
    ASSERT_EQ(sum, latency.count);
    ASSERT_GE(pkvi_latency_quantile(&latency, 100), UINT64_MAX / 8 * 7);
}

TEST(an_empty_histogram_says_zero) {
    const struct pkvi_latency latency = {0};
    ASSERT_EQ(pkvi_latency_quantile(&latency, 50), 0);
    ASSERT_EQ(pkvi_latency_quantile(&latency, 99), 0);
}

TEST(ticks_of_a_virtual_clock_are_its_nanoseconds) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, true);
    const uint64_t start = pkvi_clock_ticks(&clock);
    pkvi_clock_advance(&clock, 7);
    ASSERT_EQ(pkvi_clock_ticks_ns(&clock, pkvi_clock_ticks(&clock) - start), 7000);
}

/* The counter and the monotonic clock agree on how long something took. */
TEST(ticks_become_nanoseconds) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, false);
    const uint64_t start = pkvi_clock_ticks(&clock);
    const uint64_t start_us = pkvi_clock_now_us(&clock);
    pkvi_clock_sleep(&clock, 3000);
    const uint64_t ns = pkvi_clock_ticks_ns(&clock, pkvi_clock_ticks(&clock) - start);
    const uint64_t us = pkvi_clock_now_us(&clock) - start_us;
    ASSERT_GE(ns, 2900000);
    ASSERT_LE(ns, (us + 100) * 1000 * 2);
}
