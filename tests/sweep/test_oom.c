/* test_oom.c - memory runs out at every place where it can.
 *
 * Memory is taken by pkv_cache_create alone. So there the Nth allocation fails, for every N until
 * create succeeds: once only, or from then on; through the memory hook, through the fault point
 * mem.alloc, and by failing malloc itself under the library's feet. Each time nothing may be left
 * behind and the next create must succeed. After create, every public function is called while no
 * memory is to be had at all: it must not notice, and must not ask.
 *
 * malloc is replaced by functions of this program. Sanitizers replace it too, so that part is
 * skipped there. */
#include "unit.h"

#include "sweep/scenario.h"

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <time.h>

/* ---- malloc under the library's feet --------------------------------------------------------- */

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 1
enum { CYCLES = 500 };

/* Counted and failed only in the thread that asked for it: others may start up at any moment.
 * Volatile, since a compiler knows that malloc touches no variable of the program. */
static _Thread_local volatile bool is_watching;
static _Thread_local volatile uint64_t watched_calls;
static _Thread_local volatile uint64_t fail_from; /* number of the first call that fails */
static _Thread_local volatile uint64_t fail_count;
static atomic_long live; /* allocations held, by anyone */

void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void* memory);

static bool must_fail(void) {
    if (!is_watching) return false;
    const uint64_t call = watched_calls++;
    return call >= fail_from && call - fail_from < fail_count;
}

static void* count_live(void* memory) {
    if (memory != NULL) atomic_fetch_add(&live, 1);
    return memory;
}

void* malloc(size_t bytes) {
    return must_fail() ? NULL : count_live(__libc_malloc(bytes));
}

void* calloc(size_t count, size_t bytes) {
    return must_fail() ? NULL : count_live(__libc_calloc(count, bytes));
}

void* realloc(void* memory, size_t bytes) {
    if (must_fail()) return NULL;
    if (memory == NULL) return count_live(__libc_realloc(NULL, bytes));
    return __libc_realloc(memory, bytes);
}

int posix_memalign(void** memory, size_t alignment, size_t bytes) {
    if (must_fail()) return ENOMEM;
    *memory = count_live(__libc_memalign(alignment, bytes));
    return *memory != NULL ? 0 : ENOMEM;
}

void* aligned_alloc(size_t alignment, size_t bytes) {
    return must_fail() ? NULL : count_live(__libc_memalign(alignment, bytes));
}

void free(void* memory) {
    if (memory != NULL) atomic_fetch_sub(&live, 1);
    __libc_free(memory);
}

static void watch(uint64_t first, uint64_t count) {
    fail_from = first;
    fail_count = count;
    watched_calls = 0;
    is_watching = true;
}

static uint64_t unwatch(void) {
    is_watching = false;
    return watched_calls;
}
#else
enum { CYCLES = 20 }; /* threads start slowly under a sanitizer */
#endif

/* ---- The memory hook ------------------------------------------------------------------------- */

struct budget {
    uint64_t calls;      /* allocations asked for */
    uint64_t fail_from;  /* number of the first that fails */
    uint64_t fail_count; /* so many */
    int64_t bytes;       /* held */
};

static void* budget_resize(void* ctx, void* memory, size_t old_bytes, size_t new_bytes) {
    struct budget* budget = ctx;
    if (new_bytes == 0) {
        budget->bytes -= (int64_t)old_bytes;
        free(memory);
        return NULL;
    }
    const uint64_t call = budget->calls++;
    if (call >= budget->fail_from && call - budget->fail_from < budget->fail_count) return NULL;
    void* result = malloc(new_bytes);
    if (result != NULL) budget->bytes += (int64_t)new_bytes;
    return result;
}

static pkv_config config_for(const scenario_kind* kind, struct budget* budget) {
    pkv_config config = scenario_config(kind);
    config.threads = 2;
    config.memory = (pkv_memory_hook){budget_resize, budget};
    return config;
}

static const uint64_t forms[] = {1, UINT64_MAX}; /* one-shot, persistent */

static void expect_create_works(const pkv_config* config) {
    pkv_cache* cache;
    ASSERT_OK(pkv_cache_create(config, &cache));
    ASSERT_OK(pkv_check(cache, NULL));
    pkv_cache_destroy(cache);
}

/* Returns how many allocations create made in the end. */
static uint64_t sweep_hook(const scenario_kind* kind, uint64_t fail_count) {
    for (uint64_t n = 0;; n++) {
        struct budget budget = {.fail_from = n, .fail_count = fail_count};
        const pkv_config config = config_for(kind, &budget);
        pkv_cache* const untouched = (pkv_cache*)&budget;
        pkv_cache* cache = untouched;
        const int status = pkv_cache_create(&config, &cache);
        if (status == PKV_OK) {
            ASSERT_EQ(budget.calls, n);
            pkv_cache_destroy(cache);
            ASSERT_EQ(budget.bytes, 0);
            return n;
        }
        ASSERT_STATUS(status, PKV_ENOMEM);
        ASSERT_PTR(cache, untouched);
        ASSERT_EQ(budget.bytes, 0);
        budget.fail_count = 0;
        expect_create_works(&config);
        ASSERT_EQ(budget.bytes, 0);
    }
}

TEST(every_allocation_of_create_may_fail) {
    for (uint32_t d = 0; d < scenario_kind_count; d++) {
        for (uint32_t f = 0; f < 2; f++) {
            const uint64_t allocations = sweep_hook(&scenario_kinds[d], forms[f]);
            printf("  hook, %s, %s: %" PRIu64 " allocations\n", scenario_kinds[d].name,
                   f == 0 ? "one-shot" : "persistent", allocations);
            ASSERT_GT(allocations, 10);
        }
    }
}

TEST(the_fault_point_reaches_every_allocation) {
    for (uint32_t d = 0; d < scenario_kind_count; d++) {
        for (uint64_t n = 0;; n++) {
            struct budget budget = {.fail_from = UINT64_MAX};
            pkv_config config = config_for(&scenario_kinds[d], &budget);
            char spec[80];
            snprintf(spec, sizeof spec, "mem.alloc=%" PRIu64 "*off->1*return(ENOMEM)", n);
            config.faults = n > 0 ? spec : "mem.alloc=1*return(ENOMEM)";
            pkv_cache* cache;
            const int status = pkv_cache_create(&config, &cache);
            if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
            if (status == PKV_OK) {
                ASSERT_EQ(budget.calls, n);
                pkv_cache_destroy(cache);
                break;
            }
            ASSERT_STATUS(status, PKV_ENOMEM);
            ASSERT_EQ(budget.bytes, 0);
        }
    }
}

#ifdef OWN_MALLOC
/* Stacks of ended threads, with what belongs to them, stay in the C library's own cache. */
static long slack_of(const scenario_kind* kind) {
    return strcmp(kind->device, "cpu") == 0 ? 2 : 0;
}

/* Returns how many mallocs create made in the end. */
static uint64_t sweep_malloc(const scenario_kind* kind, uint64_t count, bool with_hook) {
    for (uint64_t n = 0;; n++) {
        struct budget budget = {.fail_from = UINT64_MAX};
        pkv_config config = config_for(kind, &budget);
        if (!with_hook) config.memory.resize = NULL;
        const long before = atomic_load(&live);
        pkv_cache* cache;
        watch(n, count);
        const int status = pkv_cache_create(&config, &cache);
        const uint64_t calls = unwatch();
        if (status == PKV_OK) pkv_cache_destroy(cache);
        ASSERT_EQ(budget.bytes, 0);
        ASSERT_LE(atomic_load(&live), before + slack_of(kind));
        if (calls <= n) {
            ASSERT_OK(status);
            return calls;
        }
        ASSERT(status == PKV_ENOMEM || status == PKV_EIO);
    }
}
#endif

/* Everything malloc'ed by anyone on the way, the arena and the threads included. */
TEST(every_malloc_below_create_may_fail) {
#ifndef OWN_MALLOC
    SKIP("malloc cannot be replaced here");
#else
    for (uint32_t d = 0; d < scenario_kind_count; d++) {
        for (uint32_t f = 0; f < 2; f++) {
            const uint64_t calls = sweep_malloc(&scenario_kinds[d], forms[f], true);
            ASSERT_EQ(sweep_malloc(&scenario_kinds[d], forms[f], false), calls);
            ASSERT_GT(calls, 10);
        }
    }
#endif
}

TEST(no_function_after_create_asks_for_memory) {
    for (uint32_t d = 0; d < scenario_kind_count; d++) {
        struct budget budget = {.fail_from = UINT64_MAX};
        const pkv_config config = config_for(&scenario_kinds[d], &budget);
        scenario s;
        pkv_cache* cache;
        ASSERT_OK(pkv_cache_create(&config, &cache));
        scenario_start(&s, cache, &scenario_kinds[d]);
        const uint64_t hook_calls = budget.calls;
        budget.fail_from = 0;
        budget.fail_count = UINT64_MAX;
        for (uint32_t i = 0; i < scenario_step_count; i++) {
#ifdef OWN_MALLOC
            watch(0, UINT64_MAX);
            const int status = scenario_steps[i].run(&s);
            const uint64_t calls = unwatch();
            if (calls != 0)
                printf("  step \"%s\" on %s\n", scenario_steps[i].name, scenario_kinds[d].name);
            ASSERT_EQ(calls, 0);
#else
            const int status = scenario_steps[i].run(&s);
#endif
            ASSERT_OK(status);
            ASSERT_EQ(budget.calls, hook_calls);
        }
        ASSERT(!s.is_wrong);
        pkv_stats stats = {.struct_size = sizeof stats};
        ASSERT_OK(pkv_cache_stats(cache, &stats));
        ASSERT_EQ(stats.heap_calls, hook_calls);
        ASSERT_EQ(stats.heap_bytes, budget.bytes);
        pkv_cache_destroy(cache);
        ASSERT_EQ(budget.bytes, 0);
    }
}

/* ---- A process that lives long --------------------------------------------------------------- */

/* Entries of a folder in /proc, or 0 where there is no such thing. */
static uint32_t count_entries(const char* folder) {
    DIR* directory = opendir(folder);
    uint32_t count = 0;
    if (directory == NULL) return 0;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* A thread that has been joined may still be listed for a moment. */
static void wait_for_threads(uint32_t count) {
    for (uint32_t i = 0; i < 5000 && count_entries("/proc/self/task") > count; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

TEST(caches_come_and_go_without_a_trace) {
    for (uint32_t d = 0; d < scenario_kind_count; d++) {
        struct budget budget = {.fail_from = UINT64_MAX};
        const pkv_config config = config_for(&scenario_kinds[d], &budget);
        const uint32_t threads = count_entries("/proc/self/task");
        expect_create_works(&config);
        const uint32_t files = count_entries("/proc/self/fd");
#ifdef OWN_MALLOC
        const long before = atomic_load(&live);
#endif
        for (uint32_t i = 0; i < CYCLES; i++)
            expect_create_works(&config);
        ASSERT_EQ(budget.bytes, 0);
        ASSERT_EQ(count_entries("/proc/self/fd"), files);
        wait_for_threads(threads);
        ASSERT_EQ(count_entries("/proc/self/task"), threads);
#ifdef OWN_MALLOC
        ASSERT_LE(atomic_load(&live), before + slack_of(&scenario_kinds[d]));
#endif
    }
}

TEST(the_sweep_would_notice_a_call) {
#ifndef OWN_MALLOC
    SKIP("malloc cannot be replaced here");
#else
    watch(0, 1);
    void* volatile refused = malloc(1);
    void* volatile given = malloc(1);
    const uint64_t calls = unwatch();
    ASSERT_EQ(calls, 2);
    ASSERT(refused == NULL);
    ASSERT(given != NULL);
    free(given);
#endif
}
