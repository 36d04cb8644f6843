/* test_trace.c - the ring of last operations, and the clock that stamps them. */
#include "unit.h"

#include "api/fixture.h"

TEST(operations_leave_a_trace) {
    pkv_cache* cache = fixture_open();
    pkv_trace_event events[8];
    uint32_t count;
    const pkv_seq seq = fixture_seq(cache, 3);
    pkv_seq child;
    ASSERT_OK(pkv_clock_advance(cache, 70));
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    ASSERT_OK(pkv_trace_read(cache, events, 8, &count));
    ASSERT_EQ(count, 2);
    ASSERT_STR(events[0].what, "seq.create");
    ASSERT_EQ(events[0].subject, seq.id);
    ASSERT_STR(events[1].what, "seq.fork");
    ASSERT_EQ(events[1].subject, child.id);
    ASSERT_EQ(events[1].number, events[0].number + 1);
    ASSERT_EQ(events[1].time_us - events[0].time_us, 70);
    pkv_cache_destroy(cache);
}

TEST(the_newest_events_are_kept) {
    pkv_config config = fixture_config();
    config.trace_events_max = 8;
    pkv_cache* cache = fixture_create(&config);
    pkv_trace_event events[64];
    uint32_t count;
    for (uint32_t i = 0; i < 30; i++)
        ASSERT_OK(pkv_seq_free(cache, fixture_seq(cache, i)));
    ASSERT_OK(pkv_trace_read(cache, events, 64, &count));
    ASSERT_EQ(count, 8);
    ASSERT_EQ(events[7].number, 59);
    for (uint32_t i = 0; i < 8; i++)
        ASSERT_EQ(events[i].number, 52 + i);
    ASSERT_OK(pkv_trace_read(cache, events, 3, &count));
    ASSERT_EQ(count, 3);
    ASSERT_EQ(events[0].number, 57);
    ASSERT_EQ(events[2].number, 59);
    ASSERT_OK(pkv_trace_read(cache, NULL, 0, &count));
    ASSERT_EQ(count, 0);
    pkv_cache_destroy(cache);
}

TEST(evictions_are_traced) {
    pkv_config config = fixture_config();
    config.blocks = 2;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[8];
    pkv_trace_event events[32];
    uint32_t count;
    uint32_t found = 0;
    fixture_tokens(tokens, 8, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 8);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_seq_append(cache, fixture_seq(cache, 0), NULL, 8, NULL));
    ASSERT_OK(pkv_trace_read(cache, events, 32, &count));
    for (uint32_t i = 0; i < count; i++)
        found += strcmp(events[i].what, "prefix.evict") == 0;
    ASSERT_EQ(found, 2);
    pkv_cache_destroy(cache);
}

TEST(the_virtual_clock_moves_when_told) {
    pkv_cache* cache = fixture_open();
    ASSERT_EQ(pkv_clock_us(cache), 0);
    ASSERT_OK(pkv_clock_advance(cache, 1000000007));
    ASSERT_OK(pkv_clock_advance(cache, 0));
    ASSERT_EQ(pkv_clock_us(cache), 1000000007);
    ASSERT_STATUS(pkv_clock_advance(NULL, 1), PKV_EINVAL);
    pkv_cache_destroy(cache);
}

TEST(the_real_clock_cannot_be_moved) {
    pkv_config config = fixture_config();
    config.device = "cpu";
    pkv_cache* cache = fixture_create(&config);
    const uint64_t before_us = pkv_clock_us(cache);
    ASSERT_STATUS(pkv_clock_advance(cache, 1), PKV_ENOTSUP);
    ASSERT_GE(pkv_clock_us(cache), before_us);
    pkv_cache_destroy(cache);
}
