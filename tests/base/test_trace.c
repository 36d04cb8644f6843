/* test_trace.c - the ring keeps the newest events, numbered without gaps, oldest first. */
#include "base/trace.h"
#include "unit.h"

struct fixture {
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    struct pkvi_clock clock;
    struct pkvi_trace trace;
};

static void open_fixture(struct fixture* it, uint32_t capacity) {
    const pkv_memory_hook none = {NULL, NULL};
    ASSERT_OK(pkvi_faults_init(&it->faults, NULL, 0));
    pkvi_mem_init(&it->mem, &none, &it->faults);
    pkvi_clock_init(&it->clock, true);
    ASSERT_OK(pkvi_trace_open(&it->trace, &it->mem, capacity, &it->clock));
}

static void close_fixture(struct fixture* it) {
    pkvi_trace_close(&it->trace, &it->mem);
    ASSERT_EQ(it->mem.bytes, 0);
    pkvi_faults_free(&it->faults);
}

static void note(struct fixture* it, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        pkvi_clock_advance(&it->clock, 10);
        pkvi_trace_note(&it->trace, "test.note", it->trace.next * 2, it->trace.next * 3);
    }
}

TEST(an_empty_ring_has_no_events) {
    struct fixture it;
    pkv_trace_event events[4];
    open_fixture(&it, 4);
    ASSERT_EQ(pkvi_trace_copy(&it.trace, events, 4), 0);
    close_fixture(&it);
}

TEST(an_event_says_what_happened_when_and_to_whom) {
    struct fixture it;
    pkv_trace_event event;
    open_fixture(&it, 4);
    pkvi_clock_advance(&it.clock, 123);
    pkvi_trace_note(&it.trace, "seq.fork", 7, 8);
    ASSERT_EQ(pkvi_trace_copy(&it.trace, &event, 1), 1);
    ASSERT_EQ(event.number, 0);
    ASSERT_EQ(event.time_us, 123);
    ASSERT_STR(event.what, "seq.fork");
    ASSERT_EQ(event.subject, 7);
    ASSERT_EQ(event.detail, 8);
    close_fixture(&it);
}

/* Every number of events against every size of the caller's array. */
TEST(the_newest_events_are_kept_oldest_first) {
    for (uint64_t noted = 0; noted < 40; noted++)
        for (uint32_t capacity = 0; capacity < 20; capacity++) {
            struct fixture it;
            pkv_trace_event events[20];
            open_fixture(&it, 8);
            note(&it, noted);
            uint64_t wanted = noted < 8 ? noted : 8;
            if (capacity < wanted) wanted = capacity;
            ASSERT_EQ(pkvi_trace_copy(&it.trace, events, capacity), wanted);
            for (uint64_t i = 0; i < wanted; i++) {
                const uint64_t number = noted - wanted + i;
                ASSERT_EQ(events[i].number, number);
                ASSERT_EQ(events[i].time_us, 10 * (number + 1));
                ASSERT_EQ(events[i].subject, 2 * number);
                ASSERT_EQ(events[i].detail, 3 * number);
            }
            close_fixture(&it);
        }
}

/* The cheap clock may be behind the exact one; the ring never goes back. */
TEST(times_never_go_back_between_exact_and_cheap_notes) {
    struct fixture it;
    static pkv_trace_event events[1024];
    open_fixture(&it, 1024);
    pkvi_clock_init(&it.clock, false);
    pkvi_clock_sleep(&it.clock, 10);
    for (uint64_t i = 0; i < 1024; i++)
        (i % 4 == 0 ? pkvi_trace_note : pkvi_trace_note_often)(&it.trace, "test.note", i, i);
    ASSERT_EQ(pkvi_trace_copy(&it.trace, events, 1024), 1024);
    ASSERT_GE(events[0].time_us, 10);
    for (uint64_t i = 1; i < 1024; i++) {
        ASSERT_EQ(events[i].subject, i);
        ASSERT_GE(events[i].time_us, events[i - 1].time_us);
    }
    close_fixture(&it);
}

TEST(capacities_are_rounded_up_to_powers_of_two) {
    static const uint32_t pairs[][2] = {{1, 1}, {2, 2}, {3, 4}, {5, 8}, {1000, 1024}, {1024, 1024}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct fixture it;
        static pkv_trace_event events[2000];
        open_fixture(&it, pairs[i][0]);
        note(&it, 3000);
        ASSERT_EQ(pkvi_trace_copy(&it.trace, events, 2000), pairs[i][1]);
        close_fixture(&it);
    }
}

TEST(opening_without_memory_fails_and_closing_is_still_allowed) {
#ifdef PKV_NO_FAULTS
    SKIP("built without fault points");
#else
    struct fixture it;
    struct pkvi_trace failed;
    open_fixture(&it, 4);
    ASSERT_OK(pkvi_faults_set(&it.faults, "mem.alloc=return(ENOMEM)", 0));
    ASSERT_STATUS(pkvi_trace_open(&failed, &it.mem, 4, &it.clock), PKV_ENOMEM);
    pkvi_trace_close(&failed, &it.mem);
    close_fixture(&it);
#endif
}
