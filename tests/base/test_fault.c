/* test_fault.c - what a visit of a fault point does: counting, dice, chains, and each action. */
#include "base/fault.h"
#include "unit.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static struct pkvi_faults faults;

TEST(every_point_has_a_name_and_a_meaning) {
    for (int i = 0; i < PKVI_FAULT_COUNT; i++) {
        const char* name = pkvi_fault_name((enum pkvi_fault_point)i);
        ASSERT(strchr(name, '.') != NULL);
        ASSERT_GT(strlen(pkvi_fault_meaning((enum pkvi_fault_point)i)), 5);
        for (int other = 0; other < i; other++)
            ASSERT_NE(strcmp(name, pkvi_fault_name((enum pkvi_fault_point)other)), 0);
    }
}

#ifdef PKV_NO_FAULTS

TEST(without_fault_points_every_specification_is_refused) {
    uint64_t visits = 1;
    uint64_t fired = 1;
    ASSERT_STATUS(pkvi_faults_init(&faults, "mem.alloc=off", 0), PKV_ENOTSUP);
    ASSERT_OK(pkvi_faults_init(&faults, NULL, 0));
    ASSERT_OK(pkvi_faults_set(&faults, " ; ", 0));
    ASSERT_STATUS(pkvi_faults_set(&faults, "mem.alloc=off", 0), PKV_ENOTSUP);
    ASSERT_STATUS(pkvi_faults_set(&faults, "rubbish", 0), PKV_ENOTSUP);
    ASSERT_OK(pkvi_fault_check(&faults, PKVI_FAULT_MEM_ALLOC));
    ASSERT_EQ(pkvi_fault_visit(&faults, PKVI_FAULT_MEM_ALLOC).action, PKVI_ACT_OFF);
    pkvi_faults_counts(&faults, PKVI_FAULT_MEM_ALLOC, &visits, &fired);
    ASSERT_EQ(visits + fired, 0);
    pkvi_faults_free(&faults);
}

#else

static uint64_t visits_of(enum pkvi_fault_point point) {
    uint64_t visits;
    uint64_t fired;
    pkvi_faults_counts(&faults, point, &visits, &fired);
    return visits;
}

static uint64_t fired_of(enum pkvi_fault_point point) {
    uint64_t visits;
    uint64_t fired;
    pkvi_faults_counts(&faults, point, &visits, &fired);
    return fired;
}

static int check(void) {
    return pkvi_fault_check(&faults, PKVI_FAULT_MEM_ALLOC);
}

static struct pkvi_fault visit(void) {
    return pkvi_fault_visit(&faults, PKVI_FAULT_MEM_ALLOC);
}

TEST(nothing_fails_unless_told_to) {
    ASSERT_OK(pkvi_faults_init(&faults, NULL, 0));
    for (int point = 0; point < PKVI_FAULT_COUNT; point++) {
        ASSERT_OK(pkvi_fault_check(&faults, (enum pkvi_fault_point)point));
        ASSERT_EQ(pkvi_fault_visit(&faults, (enum pkvi_fault_point)point).action, PKVI_ACT_OFF);
        ASSERT_EQ(visits_of((enum pkvi_fault_point)point), 0);
    }
    pkvi_faults_free(&faults);
}

TEST(a_bad_specification_fails_init) {
    ASSERT_STATUS(pkvi_faults_init(&faults, "nosuch=off", 0), PKV_EFAULTSPEC);
}

TEST(only_the_named_point_fails_and_is_counted) {
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=return(ETIMEDOUT)", 0));
    for (int i = 0; i < 3; i++) {
        ASSERT_STATUS(check(), PKV_ETIMEDOUT);
        ASSERT_OK(pkvi_fault_check(&faults, PKVI_FAULT_SEQ_FORK));
    }
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 3);
    ASSERT_EQ(fired_of(PKVI_FAULT_MEM_ALLOC), 3);
    ASSERT_EQ(visits_of(PKVI_FAULT_SEQ_FORK), 0);
    pkvi_faults_free(&faults);
}

TEST(off_counts_visits_and_fires_nothing) {
    ASSERT_OK(pkvi_faults_init(&faults, "*=off", 0));
    for (int i = 0; i < 5; i++)
        ASSERT_OK(check());
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 5);
    ASSERT_EQ(fired_of(PKVI_FAULT_MEM_ALLOC), 0);
    pkvi_faults_free(&faults);
}

TEST(used_up_terms_hand_over_and_a_used_up_chain_is_off) {
    static const int wanted[] = {0, 0, PKV_EIO, PKV_ENOMEM, PKV_ENOMEM, 0, 0};
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=2*off->1*return(EIO)->2*return(ENOMEM)", 0));
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        ASSERT_STATUS(check(), wanted[i]);
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 7);
    ASSERT_EQ(fired_of(PKVI_FAULT_MEM_ALLOC), 3);
    pkvi_faults_free(&faults);
}

/* ---- Dice -------------------------------------------------------------------------------------- */

enum { DICE = 64 };

/* Which of 64 visits fire, as bits; other points are visited in between `noise` times. */
static uint64_t pattern(const char* spec, uint64_t seed, int noise) {
    uint64_t bits = 0;
    ASSERT_OK(pkvi_faults_init(&faults, spec, seed));
    for (int i = 0; i < DICE; i++) {
        for (int n = 0; n < noise; n++)
            (void)pkvi_fault_check(&faults, PKVI_FAULT_SEQ_FORK);
        bits = bits << 1 | (check() != PKV_OK);
    }
    pkvi_faults_free(&faults);
    return bits;
}

TEST(a_schedule_is_a_function_of_seed_and_name_alone) {
    const uint64_t bits = pattern("mem.alloc=50%return(EIO)", 7, 0);
    ASSERT_EQ(pattern("mem.alloc=50%return(EIO)", 7, 0), bits);
    ASSERT_EQ(pattern("*=50%return(EIO)", 7, 3), bits);
    ASSERT_EQ(pattern("seq.fork=10%return(EIO); mem.alloc=50%return(EIO)", 7, 1), bits);
    ASSERT_NE(pattern("mem.alloc=50%return(EIO)", 8, 0), bits);
}

TEST(points_have_generators_of_their_own) {
    uint64_t bits[PKVI_FAULT_COUNT] = {0};
    ASSERT_OK(pkvi_faults_init(&faults, "*=50%return(EIO)", 7));
    for (int i = 0; i < PKVI_FAULT_COUNT * DICE; i++) {
        const enum pkvi_fault_point point = (enum pkvi_fault_point)(i % PKVI_FAULT_COUNT);
        bits[point] = bits[point] << 1 | (pkvi_fault_check(&faults, point) != PKV_OK);
    }
    for (int i = 0; i < PKVI_FAULT_COUNT; i++)
        for (int other = 0; other < i; other++)
            ASSERT_NE(bits[i], bits[other]);
    pkvi_faults_free(&faults);
}

/* The seed is fixed, so this holds always or never: 6 standard deviations around the mean. */
static void expect_share(const char* spec, double share) {
    enum { VISITS = 1000000 };
    ASSERT_OK(pkvi_faults_init(&faults, spec, 3));
    for (int i = 0; i < VISITS; i++)
        (void)check();
    const double deviation = sqrt(VISITS * share * (1.0 - share));
    ASSERT_NEAR((double)fired_of(PKVI_FAULT_MEM_ALLOC), VISITS * share, 6.0 * deviation);
    pkvi_faults_free(&faults);
}

TEST(percentages_are_shares_of_visits) {
    expect_share("mem.alloc=0%return(EIO)", 0.0);
    expect_share("mem.alloc=0.01%return(EIO)", 0.0001);
    expect_share("mem.alloc=0.5%return(EIO)", 0.005);
    expect_share("mem.alloc=30%return(EIO)", 0.3);
    expect_share("mem.alloc=99.5%return(EIO)", 0.995);
    expect_share("mem.alloc=100%return(EIO)", 1.0);
}

TEST(a_limit_counts_uses_and_not_visits) {
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=10%5*return(EIO)", 3));
    for (int i = 0; i < 1000; i++)
        (void)check();
    ASSERT_EQ(fired_of(PKVI_FAULT_MEM_ALLOC), 5);
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 1000);
    pkvi_faults_free(&faults);
}

TEST(random_bits_are_fresh_at_each_visit) {
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=corrupt(3)", 3));
    const struct pkvi_fault first = visit();
    const struct pkvi_fault second = visit();
    ASSERT_EQ(first.action, PKVI_ACT_CORRUPT);
    ASSERT_EQ(first.argument, 3);
    ASSERT_NE(first.random, second.random);
    ASSERT_OK(pkvi_faults_set(&faults, "mem.alloc=corrupt(3)", 3));
    ASSERT_EQ(visit().random, first.random);
    pkvi_faults_free(&faults);
}

/* ---- Replacing --------------------------------------------------------------------------------- */

TEST(a_new_specification_replaces_the_old_and_restarts_the_counters) {
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=return(EIO)", 0));
    ASSERT_STATUS(check(), PKV_EIO);
    ASSERT_OK(pkvi_faults_set(&faults, "seq.fork=return(EBUSY)", 0));
    ASSERT_OK(check());
    ASSERT_STATUS(pkvi_fault_check(&faults, PKVI_FAULT_SEQ_FORK), PKV_EBUSY);
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 0);
    ASSERT_EQ(visits_of(PKVI_FAULT_SEQ_FORK), 1);
    ASSERT_OK(pkvi_faults_set(&faults, NULL, 0));
    ASSERT_OK(pkvi_fault_check(&faults, PKVI_FAULT_SEQ_FORK));
    ASSERT_EQ(visits_of(PKVI_FAULT_SEQ_FORK), 0);
    pkvi_faults_free(&faults);
}

TEST(a_bad_specification_leaves_the_old_one_in_force) {
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=1*off->return(EIO)", 0));
    ASSERT_OK(check());
    ASSERT_STATUS(pkvi_faults_set(&faults, "mem.alloc=off; nosuch=off", 9), PKV_EFAULTSPEC);
    ASSERT_STATUS(check(), PKV_EIO);
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 2);
    pkvi_faults_free(&faults);
}

/* A thread may have seen the point armed just before the specification was replaced. */
TEST(a_visit_that_comes_too_late_does_not_count) {
    ASSERT_OK(pkvi_faults_init(&faults, "", 0));
    ASSERT_EQ(pkvi_fault_draw(&faults, PKVI_FAULT_MEM_ALLOC).action, PKVI_ACT_OFF);
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 0);
    pkvi_faults_free(&faults);
}

/* ---- Actions ----------------------------------------------------------------------------------- */

TEST(actions_without_meaning_at_a_check_do_nothing) {
    static const char* const specs[] = {"mem.alloc=drop", "mem.alloc=dup", "mem.alloc=corrupt(8)",
                                        "mem.alloc=yield"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        ASSERT_OK(pkvi_faults_init(&faults, specs[i], 0));
        ASSERT_OK(check());
        ASSERT_EQ(fired_of(PKVI_FAULT_MEM_ALLOC), 1);
        pkvi_faults_free(&faults);
    }
}

TEST(a_delay_passes_on_the_clock_of_the_faults) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, true);
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=delay(4000000000)", 0));
    faults.clock = &clock;
    ASSERT_OK(check());
    ASSERT_OK(check());
    ASSERT_EQ(pkvi_clock_now_us(&clock), 8000000000U);
    ASSERT_EQ(visit().argument, 4000000000U);
    ASSERT_EQ(pkvi_clock_now_us(&clock), 8000000000U); /* a visitor delays by itself */
    pkvi_faults_free(&faults);
}

TEST(a_delay_without_a_clock_takes_real_time) {
    struct pkvi_clock clock;
    pkvi_clock_init(&clock, false);
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=delay(3000)", 0));
    ASSERT_OK(check());
    ASSERT_GE(pkvi_clock_now_us(&clock), 3000);
    pkvi_faults_free(&faults);
}

/* What a child process that visits the point once ends with. */
static int fate_of_child(const char* spec) {
    int status;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (pkvi_faults_init(&faults, spec, 0) != PKV_OK) _exit(2);
        (void)check();
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

TEST(crash_ends_the_process_as_kill_does) {
    ASSERT_EQ(fate_of_child("mem.alloc=crash"), SIGKILL);
    ASSERT_EQ(fate_of_child("mem.alloc=1*off->crash"), 0);
    ASSERT_EQ(fate_of_child("nosuch=crash"), -2);
}

/* ---- Pause ------------------------------------------------------------------------------------- */

enum { WAITERS = 4 };

struct waiters {
    pthread_t threads[WAITERS];
    atomic_int returned;
    atomic_int statuses; /* sum of what the visits returned */
};

static void* wait_once(void* arg) {
    struct waiters* waiters = arg;
    atomic_fetch_add(&waiters->statuses, check());
    atomic_fetch_add(&waiters->returned, 1);
    return NULL;
}

/* Start threads and wait until each has visited the point. */
static void start(struct waiters* waiters) {
    memset(waiters, 0, sizeof *waiters);
    for (int i = 0; i < WAITERS; i++)
        ASSERT_EQ(pthread_create(&waiters->threads[i], NULL, wait_once, waiters), 0);
    while (visits_of(PKVI_FAULT_MEM_ALLOC) < WAITERS)
        usleep(100);
}

static void join(struct waiters* waiters) {
    for (int i = 0; i < WAITERS; i++)
        pthread_join(waiters->threads[i], NULL);
    ASSERT_EQ(atomic_load(&waiters->returned), WAITERS);
    ASSERT_EQ(atomic_load(&waiters->statuses), PKV_OK);
}

TEST(pause_lasts_until_the_specification_is_replaced) {
    struct waiters waiters;
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=pause", 0));
    start(&waiters);
    ASSERT_EQ(atomic_load(&waiters.returned), 0);
    ASSERT_STATUS(pkvi_faults_set(&faults, "nosuch=off", 0), PKV_EFAULTSPEC);
    ASSERT_EQ(atomic_load(&waiters.returned), 0);
    ASSERT_OK(pkvi_faults_set(&faults, "mem.alloc=pause", 0));
    join(&waiters);
    pkvi_faults_free(&faults);
}

TEST(a_paused_point_holds_up_no_other_point) {
    struct waiters waiters;
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=pause; seq.fork=return(EBUSY)", 0));
    start(&waiters);
    ASSERT_STATUS(pkvi_fault_check(&faults, PKVI_FAULT_SEQ_FORK), PKV_EBUSY);
    ASSERT_OK(pkvi_faults_set(&faults, "", 0));
    join(&waiters);
    pkvi_faults_free(&faults);
}

TEST(freeing_the_faults_ends_every_pause) {
    struct waiters waiters;
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=pause", 0));
    start(&waiters);
    pkvi_faults_free(&faults);
    join(&waiters);
}

/* ---- Threads ----------------------------------------------------------------------------------- */

enum { VISITORS = 4, VISITS_EACH = 20000 };

static atomic_int failures;

static void* visit_often(void* arg) {
    (void)arg;
    for (int i = 0; i < VISITS_EACH; i++)
        atomic_fetch_add(&failures, check() != PKV_OK);
    return NULL;
}

TEST(visits_from_many_threads_are_all_counted) {
    pthread_t threads[VISITORS];
    ASSERT_OK(pkvi_faults_init(&faults, "mem.alloc=20%return(EIO)", 5));
    atomic_store(&failures, 0);
    for (int i = 0; i < VISITORS; i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, visit_often, NULL), 0);
    for (int i = 0; i < VISITORS; i++)
        pthread_join(threads[i], NULL);
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), VISITORS * VISITS_EACH);
    ASSERT_EQ(fired_of(PKVI_FAULT_MEM_ALLOC), atomic_load(&failures));
    ASSERT_GT(atomic_load(&failures), 0);
    pkvi_faults_free(&faults);
}

TEST(a_specification_may_be_replaced_while_threads_visit) {
    static const char* const specs[] = {"mem.alloc=return(EIO)", "", "mem.alloc=50%yield->pause",
                                        "*=1*off->1*pause", "seq.fork=off"};
    pthread_t threads[VISITORS];
    ASSERT_OK(pkvi_faults_init(&faults, "", 5));
    for (int i = 0; i < VISITORS; i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, visit_often, NULL), 0);
    for (uint64_t round = 0; round < 2000; round++) {
        ASSERT_OK(pkvi_faults_set(&faults, specs[round % 5], round));
        ASSERT_LE(visits_of(PKVI_FAULT_MEM_ALLOC), VISITORS * VISITS_EACH);
    }
    ASSERT_OK(pkvi_faults_set(&faults, "seq.fork=off", 0));
    for (int i = 0; i < VISITORS; i++)
        pthread_join(threads[i], NULL);
    ASSERT_EQ(visits_of(PKVI_FAULT_MEM_ALLOC), 0); /* not named: no visits */
    pkvi_faults_free(&faults);
}

#endif
