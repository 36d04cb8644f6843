/* test_threads.c - the thread pool of the CPU device: every index once, whoever calls. */
#include "device/cpu/threads.h"
#include "unit.h"

#include <pthread.h>

enum { INDICES_MAX = 1000 };

struct fixture {
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    struct pkvi_threads* threads;
};

static struct fixture it;
static const pkv_parallel_hook no_hook = {NULL, NULL};

static void set_up_with_faults(uint32_t count, pkv_parallel_hook hook, const char* faults) {
    const pkv_memory_hook none = {NULL, NULL};
    memset(&it, 0, sizeof it);
    const int status = pkvi_faults_init(&it.faults, faults, 0);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(status);
    pkvi_mem_init(&it.mem, &none, &it.faults);
    ASSERT_OK(pkvi_threads_open(&it.threads, &it.mem, &it.faults, count, hook));
}

static void set_up(uint32_t count, pkv_parallel_hook hook) {
    set_up_with_faults(count, hook, NULL);
}

static void tear_down(void) {
    pkvi_threads_close(it.threads, &it.mem);
    ASSERT_EQ(it.mem.bytes, 0);
    pkvi_faults_free(&it.faults);
}

/* How often each index was run. Plain numbers: the thread sanitizer then sees whether the pool
 * orders what a task wrote before what its caller reads. */
struct tally {
    uint32_t counts[INDICES_MAX];
};

static void count_index(void* arg, uint32_t index) {
    struct tally* tally = arg;
    tally->counts[index]++;
}

/* Whether indices [0, count), and no others, have been run once. */
static bool each_ran_once(const struct tally* tally, uint32_t count) {
    for (uint32_t i = 0; i < INDICES_MAX; i++)
        if (tally->counts[i] != (i < count ? 1 : 0)) return false;
    return true;
}

static bool run_once(uint32_t count) {
    struct tally tally = {{0}};
    pkvi_threads_run(it.threads, count, count_index, &tally);
    return each_ran_once(&tally, count);
}

TEST(every_index_runs_once) {
    const uint32_t counts[] = {0, 1, 2, 3, 7, 64, INDICES_MAX};
    for (uint32_t threads = 1; threads <= 5; threads++) {
        set_up(threads, no_hook);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            ASSERT(run_once(counts[i]));
        tear_down();
    }
}

TEST(many_short_jobs_follow_each_other) {
    set_up(4, no_hook);
    for (uint32_t i = 0; i < 3000; i++)
        ASSERT(run_once(2 + i % 5));
    tear_down();
}

static void* run_many(void* arg) {
    bool* all_right = arg;
    for (uint32_t i = 0; i < 500; i++)
        *all_right &= run_once(1 + i % 20);
    return NULL;
}

TEST(callers_take_turns) {
    pthread_t callers[3];
    bool all_right[3] = {true, true, true};
    set_up(3, no_hook);
    for (int i = 0; i < 3; i++)
        ASSERT_EQ(pthread_create(&callers[i], NULL, run_many, &all_right[i]), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(callers[i], NULL);
    ASSERT(all_right[0] && all_right[1] && all_right[2]);
    tear_down();
}

static void run_in_place(void* ctx, uint32_t count, void (*task)(void* arg, uint32_t index),
                         void* arg) {
    ++*(uint32_t*)ctx;
    for (uint32_t i = 0; i < count; i++)
        task(arg, i);
}

TEST(a_hook_gets_every_job) {
    uint32_t jobs = 0;
    set_up(4, (pkv_parallel_hook){run_in_place, &jobs});
    ASSERT(run_once(10));
    ASSERT(run_once(1));
    ASSERT_EQ(jobs, 2);
    tear_down();
}

/* The fault point counts how often a thread is started. */
static uint64_t threads_started(uint32_t count, pkv_parallel_hook hook) {
    uint64_t visits;
    uint64_t fired;
    set_up_with_faults(count, hook, "thread.create=off");
    pkvi_faults_counts(&it.faults, PKVI_FAULT_THREAD_CREATE, &visits, &fired);
    tear_down();
    return visits;
}

TEST(the_caller_is_one_of_the_threads_and_a_hook_needs_none) {
    uint32_t jobs = 0;
    ASSERT_EQ(threads_started(1, no_hook), 0);
    ASSERT_EQ(threads_started(4, no_hook), 3);
    ASSERT_EQ(threads_started(4, (pkv_parallel_hook){run_in_place, &jobs}), 0);
}
