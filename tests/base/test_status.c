/* test_status.c - statuses have names and messages, and checked arithmetic notices overflow. */
#include "base/status.h"
#include "unit.h"

TEST(version_is_that_of_the_header) {
    ASSERT_EQ(pkv_version(), PKV_VERSION);
}

TEST(every_status_has_its_name_and_message) {
    ASSERT_STR(pkv_status_name(PKV_OK), "OK");
    ASSERT_STR(pkv_status_name(PKV_EINVAL), "EINVAL");
    ASSERT_STR(pkv_status_name(PKV_EDEVICE), "EDEVICE");
    ASSERT_STR(pkv_status_message(PKV_OK), "success");
    int count = 0;
#define CHECK(name, value, message)                                                                \
    ASSERT_STR(pkv_status_name(value), #name);                                                     \
    ASSERT_STR(pkv_status_message(value), message);                                                \
    ASSERT_EQ(PKV_##name, value);                                                                  \
    count++;
    PKV_STATUS_MAP(CHECK)
#undef CHECK
    ASSERT_GE(count, 18);
}

TEST(other_numbers_are_no_status) {
    static const int numbers[] = {1, 17, -1000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        ASSERT_STR(pkv_status_name(numbers[i]), NULL);
        ASSERT_STR(pkv_status_message(numbers[i]), NULL);
    }
}

static int calls;

static int pass_on(int status) {
    PKVI_TRY((calls++, status));
    calls += 100;
    return PKV_OK;
}

TEST(try_passes_failures_on_and_evaluates_once) {
    calls = 0;
    ASSERT_STATUS(pass_on(PKV_EIO), PKV_EIO);
    ASSERT_EQ(calls, 1);
    ASSERT_OK(pass_on(PKV_OK));
    ASSERT_EQ(calls, 102);
}

TEST(products_that_do_not_fit_are_refused) {
    uint64_t result = 7;
    ASSERT(!pkvi_mul(UINT64_MAX, 2, &result));
    ASSERT(!pkvi_mul(1ULL << 32, 1ULL << 32, &result));
    ASSERT_EQ(result, 7);
    ASSERT(pkvi_mul(UINT64_MAX, 1, &result));
    ASSERT_EQ(result, UINT64_MAX);
    ASSERT(pkvi_mul(1ULL << 31, 1ULL << 32, &result));
    ASSERT_EQ(result, 1ULL << 63);
}

TEST(sums_that_do_not_fit_are_refused) {
    uint64_t result = 7;
    ASSERT(!pkvi_add(UINT64_MAX, 1, &result));
    ASSERT_EQ(result, 7);
    ASSERT(pkvi_add(UINT64_MAX - 1, 1, &result));
    ASSERT_EQ(result, UINT64_MAX);
}

TEST(ceil_div_rounds_up_without_overflow) {
    ASSERT_EQ(pkvi_ceil_div(0, 16), 0);
    ASSERT_EQ(pkvi_ceil_div(1, 16), 1);
    ASSERT_EQ(pkvi_ceil_div(16, 16), 1);
    ASSERT_EQ(pkvi_ceil_div(17, 16), 2);
    ASSERT_EQ(pkvi_ceil_div(UINT32_MAX, 2), 1U << 31);
    ASSERT_EQ(pkvi_ceil_div(UINT32_MAX, UINT32_MAX), 1);
}
