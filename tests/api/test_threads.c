/* test_threads.c - four threads on one cache, each with sequences of its own and all with the same
 * blocks.
 *
 * What is shared is the pool, the prefix index and the page table leaves of forks; the values that
 * are read back say whether anyone wrote where he should not. Run under ThreadSanitizer it also
 * says whether anyone looked at a byte that another thread was changing. Asserts belong to the main
 * thread, so workers count what is wrong. */
#include "unit.h"

#include "api/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, ROUNDS = 400 };

struct shared {
    pkv_cache* cache;
    pkv_seq stem; /* forked by everyone */
    atomic_uint wrong;
    atomic_uint committed;
    atomic_uint swapped;
    atomic_uint refused;
};

struct worker {
    struct shared* shared;
    uint32_t number;
    uint32_t random;
};

static uint32_t roll(struct worker* w, uint32_t bound) {
    w->random = w->random * 1664525 + 1013904223;
    return (w->random >> 16) % bound;
}

static void expect(struct worker* w, bool holds) {
    if (!holds) atomic_fetch_add(&w->shared->wrong, 1);
}

/* K at `position` must be that of `token`. */
static void expect_value(struct worker* w, pkv_seq seq, uint32_t position, uint32_t token) {
    float k[FIXTURE_DIM];
    const pkv_array array = {.data = k};
    const int status = pkv_seq_read(w->shared->cache, seq, 0, position, position + 1, &array, NULL);
    expect(w, status == PKV_OK);
    if (status == PKV_OK) expect(w, k[0] == (float)(1000 * token + position));
}

/* Append tokens by a plan; false when there was no room now. */
static bool extend(struct worker* w, pkv_seq seq, const uint32_t* tokens, uint32_t count) {
    pkv_cache* cache = w->shared->cache;
    const pkv_entry entry = {seq, tokens, count};
    pkv_plan plan;
    const int status = pkv_plan_begin(cache, &entry, 1, &plan);
    if (status == PKV_ENOBLOCKS || status == PKV_EBUSY) {
        atomic_fetch_add(&w->shared->refused, 1);
        return false;
    }
    expect(w, status == PKV_OK);
    if (status != PKV_OK) return false;
    expect(w, fixture_write(cache, plan, tokens) == PKV_OK);
    if (roll(w, 8) == 0) {
        expect(w, pkv_plan_abort(cache, plan) == PKV_OK);
        return false;
    }
    expect(w, pkv_plan_commit(cache, plan) == PKV_OK);
    atomic_fetch_add(&w->shared->committed, 1);
    return true;
}

/* Few different prompts, so that threads find, and make, the same blocks. */
static void use_prefix(struct worker* w) {
    uint32_t tokens[12];
    uint32_t matched;
    pkv_seq seq;
    fixture_tokens(tokens, 12, 1 + roll(w, 3));
    if (pkv_seq_create(w->shared->cache, roll(w, 2), &seq) != PKV_OK) return;
    expect(w, pkv_seq_match(w->shared->cache, seq, tokens, 12, &matched) == PKV_OK);
    if (matched > 0) expect_value(w, seq, matched - 1, tokens[matched - 1]);
    if (matched == 12 || extend(w, seq, tokens + matched, 12 - matched))
        for (uint32_t i = 0; i < 12; i++)
            expect_value(w, seq, i, tokens[i]);
    expect(w, pkv_seq_free(w->shared->cache, seq) == PKV_OK);
}

static void use_fork(struct worker* w) {
    const uint32_t token = 100 + w->number;
    pkv_seq child;
    if (pkv_seq_fork(w->shared->cache, w->shared->stem, &child) != PKV_OK) return;
    if (extend(w, child, &token, 1)) expect_value(w, child, 6, token);
    expect_value(w, child, 5, 6);
    expect(w, pkv_seq_truncate(w->shared->cache, child, 2) == PKV_OK);
    expect(w, pkv_seq_free(w->shared->cache, child) == PKV_OK);
}

/* Ask, wait or give up; true when the sequence has gone where it was to go. */
static bool end_swap(struct worker* w, pkv_transfer transfer) {
    pkv_cache* cache = w->shared->cache;
    uint32_t done = 0;
    if (roll(w, 4) == 0) {
        expect(w, pkv_transfer_cancel(cache, transfer) == PKV_OK);
        return false;
    }
    for (uint32_t i = roll(w, 3); i > 0 && !done; i--)
        expect(w, pkv_transfer_poll(cache, transfer, &done) == PKV_OK);
    if (!done) expect(w, pkv_transfer_wait(cache, transfer) == PKV_OK);
    return true;
}

/* A sequence with a prefix that others have too goes to the host tier, and comes back if there is
 * room. */
static void use_swap(struct worker* w) {
    pkv_cache* cache = w->shared->cache;
    uint32_t tokens[6];
    pkv_transfer transfer;
    pkv_seq seq;
    fixture_tokens(tokens, 6, 1 + roll(w, 3));
    if (pkv_seq_create(cache, roll(w, 2), &seq) != PKV_OK) return;
    bool is_here = extend(w, seq, tokens, 6);
    if (is_here && pkv_seq_swap_out(cache, seq, &transfer) == PKV_OK)
        is_here = !end_swap(w, transfer);
    if (!is_here && pkv_seq_swap_in(cache, seq, &transfer) == PKV_OK)
        is_here = end_swap(w, transfer) && atomic_fetch_add(&w->shared->swapped, 1) < UINT32_MAX;
    for (uint32_t i = 0; is_here && i < 6; i++)
        expect_value(w, seq, i, tokens[i]);
    expect(w, pkv_seq_free(cache, seq) == PKV_OK);
}

static void look_around(struct worker* w) {
    pkv_stats stats = {.struct_size = sizeof stats};
    pkv_trace_event events[4];
    uint32_t count;
    expect(w, pkv_cache_stats(w->shared->cache, &stats) == PKV_OK);
    expect(w, stats.blocks_free + stats.blocks_active + stats.blocks_cached == stats.blocks_total);
    expect(w, pkv_trace_read(w->shared->cache, events, 4, &count) == PKV_OK);
    expect(w, pkv_check(w->shared->cache, NULL) == PKV_OK);
    const uint32_t position = roll(w, 6);
    expect_value(w, w->shared->stem, position, position + 1);
}

static void* work(void* arg) {
    struct worker* w = arg;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        const uint32_t kind = roll(w, 10);
        if (kind < 4) use_prefix(w);
        if (kind >= 4 && kind < 6) use_fork(w);
        if (kind >= 6 && kind < 9) use_swap(w);
        if (kind == 9 && w->number == 0) look_around(w);
    }
    return NULL;
}

static void run_workers(struct shared* shared, void* (*body)(void* arg)) {
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){shared, i, 77 + i};
        ASSERT_EQ(pthread_create(&threads[i], NULL, body, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
}

static void open_shared(struct shared* shared, const char* device) {
    static const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    pkv_config config = fixture_config();
    config.device = device;
    config.blocks = 12;
    config.plans_max = 3;
    config.threads = 2;
    config.host_blocks = 5;
    config.transfers_max = 3;
    *shared = (struct shared){.cache = fixture_create(&config)};
    shared->stem = fixture_seq(shared->cache, 0);
    fixture_extend(shared->cache, shared->stem, tokens, 6);
}

static void close_shared(struct shared* shared) {
    fixture_check(shared->cache);
    ASSERT_OK(pkv_seq_free(shared->cache, shared->stem));
    const pkv_stats stats = fixture_stats(shared->cache);
    ASSERT_EQ(stats.blocks_active, 0);
    ASSERT_EQ(stats.sequences, 0);
    ASSERT_EQ(stats.plans, 0);
    ASSERT_EQ(stats.transfers, 0);
    ASSERT_EQ(stats.host_blocks_free, stats.host_blocks_total);
    pkv_cache_destroy(shared->cache);
}

TEST(threads_share_a_cache) {
    static const char* const devices[] = {"sim", "cpu"};
    for (uint32_t d = 0; d < 2; d++) {
        struct shared shared;
        open_shared(&shared, devices[d]);
        run_workers(&shared, work);
        ASSERT_EQ(atomic_load(&shared.wrong), 0);
        ASSERT_GT(atomic_load(&shared.committed), ROUNDS / 4);
        ASSERT_GT(atomic_load(&shared.swapped), ROUNDS / 20);
        close_shared(&shared);
    }
}

/* ---- One plan, many threads ------------------------------------------------------------------ */

struct layers {
    pkv_cache* cache;
    pkv_plan plan;
    uint32_t layer;
    uint32_t wrong;
};

static void* write_and_attend(void* arg) {
    struct layers* job = arg;
    float k[3][FIXTURE_DIM];
    float out[3][FIXTURE_DIM];
    for (uint32_t round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < 3; i++)
            for (uint32_t d = 0; d < FIXTURE_DIM; d++)
                k[i][d] = (float)(job->layer + 1);
        const pkv_array array = {.data = k};
        const pkv_attention attention = {.q = {.data = k}, .out = {.data = out}, .query_heads = 1};
        job->wrong += pkv_write(job->cache, job->plan, job->layer, &array, &array) != PKV_OK;
        job->wrong += pkv_attend(job->cache, job->plan, job->layer, &attention) != PKV_OK;
        job->wrong += fabs((double)out[2][5] - (job->layer + 1)) > 1e-5;
    }
    return NULL;
}

TEST(layers_of_a_plan_may_be_computed_at_once) {
    pkv_config config = fixture_config();
    config.device = "cpu";
    config.threads = 2;
    config.groups[0].layers = THREADS;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t tokens[3] = {1, 2, 3};
    const pkv_entry entry = {fixture_seq(cache, 0), tokens, 3};
    pkv_plan plan;
    pthread_t threads[THREADS];
    struct layers jobs[THREADS];
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    for (uint32_t i = 0; i < THREADS; i++) {
        jobs[i] = (struct layers){cache, plan, i, 0};
        ASSERT_EQ(pthread_create(&threads[i], NULL, write_and_attend, &jobs[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
        ASSERT_EQ(jobs[i].wrong, 0);
    }
    ASSERT_OK(pkv_plan_commit(cache, plan));
    pkv_cache_destroy(cache);
}

/* ---- Busy ------------------------------------------------------------------------------------ */

struct paused {
    pkv_cache* cache;
    pkv_plan plan;
    int status;
};

static void* write_while_paused(void* arg) {
    struct paused* job = arg;
    const uint32_t token = 1;
    job->status = fixture_write(job->cache, job->plan, &token);
    return NULL;
}

static uint64_t visits(pkv_cache* cache, const char* point) {
    pkv_fault_info info = {.visits = 0};
    for (uint32_t i = 0; i < pkv_fault_count(); i++) {
        ASSERT_OK(pkv_fault_get(cache, i, &info));
        if (strcmp(info.name, point) == 0) return info.visits;
    }
    ASSERT(!"there is no such point");
    return 0;
}

TEST(a_plan_cannot_end_while_a_write_runs) {
    pkv_cache* cache = fixture_open();
    const uint32_t token = 1;
    const pkv_entry entry = {fixture_seq(cache, 0), &token, 1};
    struct paused job = {.cache = cache, .status = 1};
    pthread_t thread;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &job.plan));
    const int status = pkv_faults_set(cache, "device.write=pause", 0);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(status);
    ASSERT_EQ(pthread_create(&thread, NULL, write_while_paused, &job), 0);
    while (visits(cache, "device.write") == 0)
        sched_yield();
    const int commit = pkv_plan_commit(cache, job.plan);
    const int abort = pkv_plan_abort(cache, job.plan);
    ASSERT_OK(pkv_faults_set(cache, NULL, 0));
    ASSERT_EQ(pthread_join(thread, NULL), 0);
    ASSERT_STATUS(commit, PKV_EBUSY);
    ASSERT_STATUS(abort, PKV_EBUSY);
    ASSERT_OK(job.status);
    ASSERT_OK(pkv_plan_commit(cache, job.plan));
    pkv_cache_destroy(cache);
}

struct waiting {
    pkv_cache* cache;
    pkv_transfer transfer;
    int status;
};

static void* wait_while_paused(void* arg) {
    struct waiting* job = arg;
    job->status = pkv_transfer_wait(job->cache, job->transfer);
    return NULL;
}

/* One thread is in the device with a transfer; others are told so, and the cache works on. */
TEST(a_transfer_is_in_one_call_at_a_time) {
    pkv_config config = fixture_config();
    config.host_blocks = 4;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t token = 1;
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_seq other = fixture_seq(cache, 0);
    struct waiting job = {.cache = cache, .status = 1};
    pthread_t thread;
    uint32_t done;
    fixture_extend(cache, seq, &token, 1);
    const int status = pkv_faults_set(cache, "device.transfer.done=pause", 0);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(status);
    ASSERT_OK(pkv_seq_swap_out(cache, seq, &job.transfer));
    ASSERT_EQ(pthread_create(&thread, NULL, wait_while_paused, &job), 0);
    while (visits(cache, "device.transfer.done") == 0)
        sched_yield();
    const int polled = pkv_transfer_poll(cache, job.transfer, &done);
    const int waited = pkv_transfer_wait(cache, job.transfer);
    const int cancelled = pkv_transfer_cancel(cache, job.transfer);
    fixture_extend(cache, other, &token, 1);
    ASSERT_OK(pkv_faults_set(cache, NULL, 0));
    ASSERT_EQ(pthread_join(thread, NULL), 0);
    ASSERT_STATUS(polled, PKV_EBUSY);
    ASSERT_STATUS(waited, PKV_EBUSY);
    ASSERT_STATUS(cancelled, PKV_EBUSY);
    ASSERT_OK(job.status);
    ASSERT_EQ(fixture_info(cache, seq).residence, PKV_AWAY);
    pkv_cache_destroy(cache);
}
