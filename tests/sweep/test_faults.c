/* test_faults.c - every fault point, at every visit, in a program that calls every public function.
 *
 * For each point and each N, the Nth visit fails once (or from then on) while the scenario runs.
 * The step in which it happens must say so, must leave every sequence as it was, and must succeed
 * when it is called again. At the end all blocks are back and every value was right. N goes on
 * until the scenario ends without the point having fired. Points of create are swept in the same
 * way by creating again.
 *
 * The table at the end says how often each point was made to act. */
#include "unit.h"

#include "sweep/scenario.h"

enum { POINTS_MAX = 64, VISITS_MAX = 10000 };

static uint64_t fired_total[POINTS_MAX];

/* What a sweep does to a point. */
struct form {
    const char* action;
    bool is_persistent;
    bool may_pass; /* the action need not make the step fail */
};

static const struct form returns_once = {"return(EIO)", false, false};
static const struct form returns_on = {"return(EIO)", true, false};

static const char* point_name(uint32_t point) {
    pkv_fault_info info;
    ASSERT_OK(pkv_fault_get(NULL, point, &info));
    return info.name;
}

static uint64_t fired(pkv_cache* cache, uint32_t point) {
    pkv_fault_info info;
    ASSERT_OK(pkv_fault_get(cache, point, &info));
    return info.fired;
}

static void write_spec(char* spec, size_t bytes, const char* name, uint64_t n, struct form form) {
    const char* times = form.is_persistent ? "" : "1*";
    if (n > 0)
        snprintf(spec, bytes, "%s=%" PRIu64 "*off->%s%s", name, n, times, form.action);
    else
        snprintf(spec, bytes, "%s=%s%s", name, times, form.action);
}

static pkv_report report_of(pkv_cache* cache) {
    pkv_report report;
    ASSERT_OK(pkv_check(cache, &report));
    return report;
}

/* A step has failed with `status`: nothing has changed, and the next call succeeds. */
static void recover(scenario* s, uint32_t step, struct form form, pkv_report before) {
    ASSERT_EQ(report_of(s->cache).sequences_digest, before.sequences_digest);
    if (form.is_persistent) {
        ASSERT_NE(scenario_steps[step].run(s), PKV_OK);
        ASSERT_EQ(report_of(s->cache).sequences_digest, before.sequences_digest);
        ASSERT_OK(pkv_faults_set(s->cache, "", 0));
    }
    ASSERT_OK(scenario_steps[step].run(s));
}

/* Run the scenario with the Nth visit misbehaving. Returns how often the point acted. */
static uint64_t run_scenario(const scenario_kind* kind, uint32_t point, uint64_t n,
                             struct form form) {
    const pkv_config config = scenario_config(kind);
    pkv_cache* cache;
    scenario s;
    char spec[120];
    write_spec(spec, sizeof spec, point_name(point), n, form);
    ASSERT_OK(pkv_cache_create(&config, &cache));
    ASSERT_OK(pkv_faults_set(cache, spec, n));
    scenario_start(&s, cache, kind);
    uint64_t count = 0;
    for (uint32_t i = 0; i < scenario_step_count; i++) {
        const pkv_report before = report_of(cache);
        const uint64_t fired_before = fired(cache, point);
        const int status = scenario_steps[i].run(&s);
        const uint64_t fired_now = fired(cache, point) - fired_before;
        if (fired_now == 0) ASSERT_OK(status);
        if (fired_now > 0 && !form.may_pass) ASSERT_STATUS(status, PKV_EIO);
        if (status != PKV_OK) recover(&s, i, form, before);
        count += fired_now;
    }
    ASSERT(!s.is_wrong);
    pkv_cache_destroy(cache);
    return count;
}

static void sweep_point(const scenario_kind* kind, uint32_t point, struct form form) {
    for (uint64_t n = 0; n < VISITS_MAX; n++) {
        const uint64_t count = run_scenario(kind, point, n, form);
        fired_total[point] += count;
        if (count == 0) return;
    }
    ASSERT(!"the point never ceased to fire");
}

static void skip_without_faults(void) {
    ASSERT_LE(pkv_fault_count(), POINTS_MAX);
    const pkv_config config = scenario_config(&scenario_kinds[0]);
    pkv_cache* cache;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    const int status = pkv_faults_set(cache, "mem.alloc=off", 0);
    pkv_cache_destroy(cache);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
}

static bool has_clock(const scenario_kind* kind) {
    return strcmp(kind->device, "sim") == 0;
}

TEST(every_visit_of_every_point_may_fail_once) {
    skip_without_faults();
    for (uint32_t d = 0; d < scenario_kind_count; d++)
        for (uint32_t point = 0; point < pkv_fault_count(); point++)
            sweep_point(&scenario_kinds[d], point, returns_once);
}

TEST(every_visit_of_every_point_may_fail_from_then_on) {
    skip_without_faults();
    for (uint32_t d = 0; d < scenario_kind_count; d++)
        for (uint32_t point = 0; point < pkv_fault_count(); point++)
            sweep_point(&scenario_kinds[d], point, returns_on);
}

static bool is_copy(uint32_t point) {
    const char* name = point_name(point);
    return strncmp(name, "device.copy", 11) == 0 || strncmp(name, "device.transfer", 15) == 0;
}

/* Late, lost, doubled or damaged: a status or nothing, never wrong data. */
TEST(copies_may_misbehave_in_every_way) {
    static const char* const actions[] = {"drop", "dup", "delay(3000000)", "corrupt(1)",
                                          "corrupt(8)"};
    skip_without_faults();
    for (uint32_t d = 0; d < scenario_kind_count; d++)
        for (uint32_t point = 0; point < pkv_fault_count(); point++)
            for (size_t a = 0; a < sizeof actions / sizeof *actions; a++)
                if (is_copy(point) &&
                    (has_clock(&scenario_kinds[d]) || strncmp(actions[a], "delay", 5) != 0))
                    sweep_point(&scenario_kinds[d], point, (struct form){actions[a], false, true});
}

TEST(a_delay_anywhere_is_only_a_delay) {
    skip_without_faults();
    for (uint32_t d = 0; d < scenario_kind_count; d++)
        for (uint32_t point = 0; point < pkv_fault_count() && has_clock(&scenario_kinds[d]);
             point++)
            sweep_point(&scenario_kinds[d], point, (struct form){"delay(7)", false, true});
}

/* ---- Create ---------------------------------------------------------------------------------- */

static int64_t held_bytes;

static void* counting_resize(void* ctx, void* memory, size_t old_bytes, size_t new_bytes) {
    (void)ctx;
    held_bytes += (int64_t)new_bytes - (int64_t)old_bytes;
    if (new_bytes > 0) return malloc(new_bytes);
    free(memory);
    return NULL;
}

/* One attempt to create; nothing may stay behind. */
static bool create_fails(const scenario_kind* kind, uint32_t point, uint64_t n) {
    pkv_config config = scenario_config(kind);
    char spec[120];
    pkv_cache* cache = NULL;
    write_spec(spec, sizeof spec, point_name(point), n, returns_once);
    config.faults = spec;
    config.seed = 0; /* from the operating system: visits seed.read */
    config.threads = 3;
    config.memory.resize = counting_resize;
    held_bytes = 0;
    const int status = pkv_cache_create(&config, &cache);
    if (status == PKV_OK) {
        ASSERT_EQ(fired(cache, point), 0);
        pkv_cache_destroy(cache);
    } else {
        ASSERT_STATUS(status, PKV_EIO);
        ASSERT_PTR(cache, NULL);
        fired_total[point]++;
    }
    ASSERT_EQ(held_bytes, 0);
    return status != PKV_OK;
}

TEST(every_visit_of_every_point_in_create_may_fail) {
    skip_without_faults();
    for (uint32_t d = 0; d < scenario_kind_count; d++) {
        for (uint32_t point = 0; point < pkv_fault_count(); point++) {
            uint64_t n = 0;
            while (create_fails(&scenario_kinds[d], point, n))
                ASSERT_LT(++n, VISITS_MAX);
        }
    }
}

/* ---- Arenas ---------------------------------------------------------------------------------- */

static pkv_cache* open_in(pkv_arena* arena) {
    pkv_config config = scenario_config(&scenario_kinds[0]);
    pkv_cache* cache;
    config.arena = arena;
    config.blocks = 0;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    return cache;
}

static int fill(pkv_cache* cache, pkv_seq* seq) {
    uint32_t tokens[SCENARIO_TOKENS];
    pkv_stats stats = {.struct_size = sizeof stats};
    pkv_sizes sizes;
    const pkv_config config = scenario_config(&scenario_kinds[0]);
    ASSERT_OK(pkv_cache_stats(cache, &stats));
    ASSERT_OK(pkv_config_check(&config, NULL, &sizes));
    for (uint32_t i = 0; i < SCENARIO_TOKENS; i++)
        tokens[i] = i;
    if (seq->id == 0) ASSERT_OK(pkv_seq_create(cache, 0, seq));
    const uint32_t count = (uint32_t)(4096 / sizes.block_bytes) * 4;
    return pkv_seq_append(cache, *seq, tokens, count, NULL);
}

static void resize_may_fail(uint32_t point) {
    pkv_arena_config config;
    pkv_arena* arena;
    pkv_arena_stats stats = {.struct_size = sizeof stats};
    ASSERT_OK(pkv_arena_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "arena.resize=1*off->1*return(EIO)";
    config.extent_bytes = 4096;
    config.bytes = 4 * 4096;
    ASSERT_OK(pkv_arena_create(&config, &arena));
    ASSERT_STATUS(pkv_arena_resize(arena, 4096), PKV_EIO);
    ASSERT_OK(pkv_arena_get_stats(arena, &stats));
    ASSERT_EQ(stats.extents_free, 4);
    ASSERT_OK(pkv_arena_resize(arena, 4096));
    ASSERT_OK(pkv_arena_destroy(arena));
    fired_total[point]++;
}

/* Its faults are set when it is created. */
TEST(giving_memory_back_may_fail) {
    skip_without_faults();
    for (uint32_t point = 0; point < pkv_fault_count(); point++)
        if (strcmp(point_name(point), "arena.resize") == 0) resize_may_fail(point);
}

/* Points that only a shared arena visits: what one cache has cached is claimed by another. */
TEST(a_claim_may_fail) {
    const char* spec = "arena.claim=1*return(EIO)";
    pkv_arena_config config;
    pkv_arena* arena;
    pkv_seq seq = {0};
    pkv_seq other_seq = {0};
    skip_without_faults();
    ASSERT_OK(pkv_arena_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.extent_bytes = 4096;
    config.bytes = 4096;
    ASSERT_OK(pkv_arena_create(&config, &arena));
    pkv_cache* cache = open_in(arena);
    pkv_cache* other = open_in(arena);
    ASSERT_OK(fill(other, &other_seq));
    ASSERT_OK(pkv_seq_commit(other, other_seq));
    ASSERT_OK(pkv_seq_free(other, other_seq));
    ASSERT_OK(pkv_faults_set(cache, spec, 0));
    const pkv_report before = report_of(other);
    ASSERT_STATUS(fill(cache, &seq), PKV_EIO);
    ASSERT_EQ(report_of(other).cache_digest, before.cache_digest);
    ASSERT_OK(fill(cache, &seq));
    report_of(cache);
    for (uint32_t point = 0; point < pkv_fault_count(); point++)
        fired_total[point] += fired(cache, point);
    pkv_cache_destroy(cache);
    pkv_cache_destroy(other);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* Allocations and the device of an arena itself. */
TEST(every_visit_of_every_point_in_creating_an_arena_may_fail) {
    skip_without_faults();
    for (uint32_t point = 0; point < pkv_fault_count(); point++) {
        for (uint64_t n = 0; n < VISITS_MAX; n++) {
            pkv_arena_config config;
            pkv_arena* arena = NULL;
            char spec[120];
            ASSERT_OK(pkv_arena_config_init(&config, PKV_VERSION));
            write_spec(spec, sizeof spec, point_name(point), n, returns_once);
            config.faults = spec;
            config.bytes = 8 << 20;
            config.memory.resize = counting_resize;
            held_bytes = 0;
            const int status = pkv_arena_create(&config, &arena);
            if (status == PKV_OK) ASSERT_OK(pkv_arena_destroy(arena));
            ASSERT_EQ(held_bytes, 0);
            if (status == PKV_OK) break;
            ASSERT_STATUS(status, PKV_EIO);
            ASSERT_PTR(arena, NULL);
        }
    }
}

/* The digest, by which all of the above judge, does notice changes. */
TEST(every_step_that_changes_something_changes_the_digest) {
    const pkv_config config = scenario_config(&scenario_kinds[0]);
    pkv_cache* cache;
    scenario s;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    scenario_start(&s, cache, &scenario_kinds[0]);
    for (uint32_t i = 0; i < scenario_step_count; i++) {
        static const char* const verbs[] = {"create",   "begin",  "commit", "fork",
                                            "truncate", "append", "abort",  "free",
                                            "swap",     "accept", "set",    "unset"};
        const pkv_report before = report_of(cache);
        ASSERT_OK(scenario_steps[i].run(&s));
        bool changes = false;
        for (size_t v = 0; v < sizeof verbs / sizeof *verbs; v++)
            changes |= strncmp(scenario_steps[i].name, verbs[v], strlen(verbs[v])) == 0;
        if (changes) ASSERT_NE(report_of(cache).sequences_digest, before.sequences_digest);
    }
    pkv_cache_destroy(cache);
}

/* Last, so that it sums up the others. */
TEST(every_point_acted) {
    skip_without_faults();
    for (uint32_t point = 0; point < pkv_fault_count(); point++)
        printf("  point %s fired %" PRIu64 "\n", point_name(point), fired_total[point]);
    for (uint32_t point = 0; point < pkv_fault_count(); point++)
        ASSERT_GT(fired_total[point], 0);
}
