/* test_faults.c - faults as an application sees them: set by one string, counted, survived. */
#include "unit.h"

#include "api/fixture.h"

/* The counters of a point, found by its name. */
static pkv_fault_info info_of(pkv_cache* cache, const char* name) {
    pkv_fault_info info;
    for (uint32_t i = 0; i < pkv_fault_count(); i++) {
        ASSERT_OK(pkv_fault_get(cache, i, &info));
        if (strcmp(info.name, name) == 0) return info;
    }
    ASSERT(!"there is no such point");
    return info;
}

/* A cache whose faults are `spec`; skips where the build has none. */
static pkv_cache* open_with(const char* spec) {
    pkv_config config = fixture_config();
    pkv_cache* cache = fixture_create(&config);
    const int status = pkv_faults_set(cache, "mem.alloc=off", 0);
    pkv_cache_destroy(cache);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    config.faults = spec;
    return fixture_create(&config);
}

TEST(every_point_is_listed_with_its_meaning) {
    pkv_fault_info info;
    ASSERT_GT(pkv_fault_count(), 10);
    for (uint32_t i = 0; i < pkv_fault_count(); i++) {
        ASSERT_OK(pkv_fault_get(NULL, i, &info));
        ASSERT(strchr(info.name, '.') != NULL);
        ASSERT_GT(strlen(info.meaning), 5);
        ASSERT_EQ(info.visits, 0);
        ASSERT_EQ(info.fired, 0);
    }
    ASSERT_STATUS(pkv_fault_get(NULL, pkv_fault_count(), &info), PKV_ERANGE);
    ASSERT_STATUS(pkv_fault_get(NULL, 0, NULL), PKV_EINVAL);
}

TEST(a_config_can_carry_faults) {
    pkv_cache* cache = open_with("seq.create=2*off->1*return(ENOSEQS)");
    pkv_seq seq;
    fixture_seq(cache, 0);
    fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_create(cache, 0, &seq), PKV_ENOSEQS);
    fixture_seq(cache, 0);
    ASSERT_EQ(info_of(cache, "seq.create").visits, 4);
    ASSERT_EQ(info_of(cache, "seq.create").fired, 1);
    ASSERT_EQ(info_of(cache, "seq.fork").visits, 0);
    pkv_cache_destroy(cache);
}

TEST(the_environment_can_carry_faults) {
    pkv_cache* cache = open_with("");
    pkv_cache_destroy(cache);
    pkv_config config = fixture_config();
    config.faults = NULL;
    setenv("PKV_FAULTS", "device.open=return(EDEVICE)", 1);
    const int failed = pkv_cache_create(&config, &cache);
    setenv("PKV_FAULTS", "device.open", 1);
    const int malformed = pkv_cache_create(&config, &cache);
    unsetenv("PKV_FAULTS");
    ASSERT_STATUS(failed, PKV_EDEVICE);
    ASSERT_STATUS(malformed, PKV_EFAULTSPEC);
}

TEST(a_bad_specification_changes_nothing) {
    pkv_cache* cache = open_with("seq.create=return(EIO)");
    pkv_seq seq;
    ASSERT_STATUS(pkv_faults_set(cache, "seq.create=off; no.such.point=off", 0), PKV_EFAULTSPEC);
    ASSERT_STATUS(pkv_faults_set(cache, "seq.create=explode", 0), PKV_EFAULTSPEC);
    ASSERT_STATUS(pkv_seq_create(cache, 0, &seq), PKV_EIO);
    ASSERT_OK(pkv_faults_set(cache, NULL, 0));
    fixture_seq(cache, 0);
    pkv_cache_destroy(cache);
}

TEST(the_same_seed_gives_the_same_schedule) {
    uint32_t schedules[3] = {0};
    for (uint32_t run = 0; run < 3; run++) {
        pkv_cache* cache = open_with("");
        ASSERT_OK(pkv_faults_set(cache, "seq.create=50%return(EIO)", run < 2 ? 7 : 8));
        for (uint32_t i = 0; i < 32; i++) {
            pkv_seq seq = {0};
            const int status = pkv_seq_create(cache, 0, &seq);
            schedules[run] |= (uint32_t)(status == PKV_EIO) << i;
            ASSERT_OK(pkv_seq_free(cache, seq));
        }
        pkv_cache_destroy(cache);
    }
    ASSERT_EQ(schedules[0], schedules[1]);
    ASSERT_NE(schedules[0], schedules[2]);
}

/* Fork a sequence with a partial last block, so that the next begin copies it. */
static pkv_entry prepare_copy(pkv_cache* cache) {
    static const uint32_t tokens[3] = {1, 2, 3};
    const pkv_seq seq = fixture_seq(cache, 0);
    pkv_seq child;
    fixture_extend(cache, seq, tokens, 2);
    ASSERT_OK(pkv_seq_fork(cache, seq, &child));
    return (pkv_entry){child, tokens + 2, 1};
}

TEST(a_copy_that_fails_is_taken_back) {
    static const struct {
        const char* spec;
        int status;
    } cases[] = {
        {"device.copy.submit=1*return(EIO)", PKV_EIO},
        {"device.copy.done=1*return(EIO)", PKV_EIO},
        {"device.copy.done=1*drop", PKV_ETIMEDOUT},
        {"device.copy.done=1*corrupt(3)", PKV_EIO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pkv_cache* cache = open_with("");
        const pkv_entry entry = prepare_copy(cache);
        const pkv_report before = fixture_check(cache);
        pkv_plan plan;
        ASSERT_OK(pkv_faults_set(cache, cases[i].spec, 1));
        ASSERT_STATUS(pkv_plan_begin(cache, &entry, 1, &plan), cases[i].status);
        ASSERT_EQ(fixture_check(cache).sequences_digest, before.sequences_digest);
        ASSERT_EQ(fixture_stats(cache).blocks_active, 1);
        ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
        ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
        ASSERT_OK(fixture_write(cache, plan, entry.tokens));
        ASSERT_OK(pkv_plan_commit(cache, plan));
        fixture_expect(cache, entry.seq, (const uint32_t[]){1, 2, 3}, 3);
        pkv_cache_destroy(cache);
    }
}

TEST(a_copy_may_be_late_or_come_twice) {
    static const char* const specs[] = {"device.copy.done=delay(5000)", "device.copy.done=dup",
                                        "device.copy.submit=delay(5000)"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        pkv_cache* cache = open_with(specs[i]);
        const pkv_entry entry = prepare_copy(cache);
        const uint64_t before_us = pkv_clock_us(cache);
        fixture_extend(cache, entry.seq, entry.tokens, 1);
        if (strstr(specs[i], "delay") != NULL) ASSERT_GE(pkv_clock_us(cache) - before_us, 5000);
        fixture_expect(cache, entry.seq, (const uint32_t[]){1, 2, 3}, 3);
        pkv_cache_destroy(cache);
    }
}

TEST(a_failed_write_can_be_repeated) {
    pkv_cache* cache = open_with("device.write=1*return(EIO)");
    const uint32_t tokens[3] = {1, 2, 3};
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_entry entry = {seq, tokens, 3};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_STATUS(fixture_write(cache, plan, tokens), PKV_EIO);
    ASSERT_OK(fixture_write(cache, plan, tokens));
    ASSERT_OK(pkv_plan_commit(cache, plan));
    fixture_expect(cache, seq, tokens, 3);
    pkv_cache_destroy(cache);
}
