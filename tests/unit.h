/* unit.h - the whole test harness: named tests, asserts that say both sides, one program a file.
 *
 *     #include "unit.h"
 *
 *     TEST(blocks_are_counted) {
 *         ASSERT_EQ(pool.free, 3);
 *     }
 *
 * A test registers itself, so none can be forgotten. Each prints `ok NAME`, `FAIL NAME` or `skip NAME`; the
 * last line is `N passed, M failed`. The program exits with 0 when all passed, 1 when one failed, 77 when all
 * were skipped, and 2 when no test has a name that contains the filter: the first argument, or $UNIT_FILTER.
 * With $UNIT_STOP set it ends at the first failure.
 *
 * Asserts are no `assert`: NDEBUG does not touch them. A failed one leaves its test at once, so it belongs in
 * the thread that the test runs in; other threads report through what they leave behind. Each operand is
 * evaluated once. tests/base/test_canary.c proves that every assert can fail. */
#ifndef UNIT_H
#define UNIT_H

#include "pagedkv.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Holds every 64-bit value, signed or not, so that comparisons are those of arithmetic. */
__extension__ typedef __int128 unit_integer;

struct unit_test {
    const char* name;
    void (*run)(void);
    struct unit_test* next;
};

static struct unit_test* unit_first;
static struct unit_test** unit_last = &unit_first;
static jmp_buf unit_exit;

/* PASSED is 0, which setjmp returns first; the others come by longjmp. */
enum unit_outcome { UNIT_PASSED, UNIT_FAILED, UNIT_SKIPPED };

static inline void unit_register(struct unit_test* test) {
    *unit_last = test;
    unit_last = &test->next;
}

#define TEST(name)                                                                                 \
    static void name(void);                                                                        \
    __attribute__((constructor)) static void unit_register_##name(void) {                          \
        static struct unit_test test = {#name, name, NULL};                                        \
        unit_register(&test);                                                                      \
    }                                                                                              \
    static void name(void)

/* ---- Failing ----------------------------------------------------------------------------------- */

_Noreturn static inline void unit_leave(enum unit_outcome outcome) {
    fflush(stdout);
    longjmp(unit_exit, (int)outcome);
}

static inline void unit_place(const char* file, int line, const char* what) {
    printf("  %s:%d: %s\n", file, line, what);
}

/* Write a number of any 64-bit type. */
static inline void unit_print(const char* text, unit_integer value) {
    if (value < 0)
        printf("    %s = %" PRId64 "\n", text, (int64_t)value);
    else
        printf("    %s = %" PRIu64 " (0x%" PRIx64 ")\n", text, (uint64_t)value, (uint64_t)value);
}

static inline void unit_check_integers(bool holds, const char* file, int line, const char* what,
                                       const char* left_text, unit_integer left,
                                       const char* right_text, unit_integer right) {
    if (holds) return;
    unit_place(file, line, what);
    unit_print(left_text, left);
    unit_print(right_text, right);
    unit_leave(UNIT_FAILED);
}

static inline void unit_check_true(bool holds, const char* file, int line, const char* text) {
    if (holds) return;
    unit_place(file, line, "is not true");
    printf("    %s\n", text);
    unit_leave(UNIT_FAILED);
}

static inline const char* unit_status_name(int status) {
    const char* name = pkv_status_name(status);
    return name != NULL ? name : "no status";
}

static inline void unit_check_status(const char* file, int line, const char* text, int status,
                                     int wanted) {
    if (status == wanted) return;
    unit_place(file, line, "another status");
    printf("    %s = %d (%s)\n", text, status, unit_status_name(status));
    printf("    wanted %d (%s)\n", wanted, unit_status_name(wanted));
    unit_leave(UNIT_FAILED);
}

static inline void unit_check_strings(const char* file, int line, const char* left_text,
                                      const char* left, const char* right_text, const char* right) {
    const bool both = left != NULL && right != NULL;
    if (both ? strcmp(left, right) == 0 : left == right) return;
    unit_place(file, line, "strings differ");
    printf("    %s = \"%s\"\n", left_text, left != NULL ? left : "(null)");
    printf("    %s = \"%s\"\n", right_text, right != NULL ? right : "(null)");
    unit_leave(UNIT_FAILED);
}

static inline void unit_check_bytes(const char* file, int line, const char* left_text,
                                    const void* left, const char* right_text, const void* right,
                                    size_t bytes) {
    const unsigned char* a = left;
    const unsigned char* b = right;
    size_t at = 0;
    while (at < bytes && a[at] == b[at])
        at++;
    if (at == bytes) return;
    unit_place(file, line, "bytes differ");
    printf("    %s[%zu] = 0x%02x\n    %s[%zu] = 0x%02x\n", left_text, at, a[at], right_text, at,
           b[at]);
    unit_leave(UNIT_FAILED);
}

static inline void unit_check_pointers(const char* file, int line, const char* left_text,
                                       const void* left, const char* right_text,
                                       const void* right) {
    if (left == right) return;
    unit_place(file, line, "pointers differ");
    printf("    %s = %p\n    %s = %p\n", left_text, left, right_text, right);
    unit_leave(UNIT_FAILED);
}

/* A NaN on either side is not near anything. */
static inline void unit_check_near(const char* file, int line, const char* left_text, double left,
                                   const char* right_text, double right, double tolerance) {
    if (fabs(left - right) <= tolerance) return;
    unit_place(file, line, "too far apart");
    printf("    %s = %.17g\n    %s = %.17g\n", left_text, left, right_text, right);
    printf("    tolerance %.17g\n", tolerance);
    unit_leave(UNIT_FAILED);
}

static inline void unit_skip(const char* why) {
    printf("  %s\n", why);
    unit_leave(UNIT_SKIPPED);
}

/* ---- Asserts ----------------------------------------------------------------------------------- */

#define UNIT_COMPARE_(left, left_text, operation, right, right_text)                               \
    do {                                                                                           \
        const unit_integer unit_left_ = (unit_integer)(left);                                      \
        const unit_integer unit_right_ = (unit_integer)(right);                                    \
        unit_check_integers(unit_left_ operation unit_right_, __FILE__, __LINE__,                  \
                            "not " left_text " " #operation " " right_text, left_text, unit_left_, \
                            right_text, unit_right_);                                              \
    } while (0)

/* Integers of any type: -1 and UINT64_MAX are different. */
#define ASSERT_EQ(left, right) UNIT_COMPARE_(left, #left, ==, right, #right)
#define ASSERT_NE(left, right) UNIT_COMPARE_(left, #left, !=, right, #right)
#define ASSERT_LT(left, right) UNIT_COMPARE_(left, #left, <, right, #right)
#define ASSERT_LE(left, right) UNIT_COMPARE_(left, #left, <=, right, #right)
#define ASSERT_GT(left, right) UNIT_COMPARE_(left, #left, >, right, #right)
#define ASSERT_GE(left, right) UNIT_COMPARE_(left, #left, >=, right, #right)

#define ASSERT(condition)           unit_check_true((condition), __FILE__, __LINE__, #condition)
#define ASSERT_OK(call)             unit_check_status(__FILE__, __LINE__, #call, (call), PKV_OK)
#define ASSERT_STATUS(call, wanted) unit_check_status(__FILE__, __LINE__, #call, (call), (wanted))

#define ASSERT_PTR(left, right)                                                                    \
    unit_check_pointers(__FILE__, __LINE__, #left, (left), #right, (right))
#define ASSERT_STR(left, right)                                                                    \
    unit_check_strings(__FILE__, __LINE__, #left, (left), #right, (right))
#define ASSERT_MEM(left, right, bytes)                                                             \
    unit_check_bytes(__FILE__, __LINE__, #left, (left), #right, (right), (bytes))
#define ASSERT_NEAR(left, right, tolerance)                                                        \
    unit_check_near(__FILE__, __LINE__, #left, (left), #right, (right), (tolerance))

/* Leave the test without a verdict, saying why. */
#define SKIP(why) unit_skip(why)

/* ---- Running ----------------------------------------------------------------------------------- */

static inline enum unit_outcome unit_say(const struct unit_test* test, enum unit_outcome outcome) {
    static const char* const words[] = {"ok", "FAIL", "skip"};
    printf("%s %s\n", words[outcome], test->name);
    fflush(stdout);
    return outcome;
}

static inline enum unit_outcome unit_run(const struct unit_test* test) {
    switch (setjmp(unit_exit)) {
    case UNIT_PASSED:
        test->run();
        return unit_say(test, UNIT_PASSED);
    case UNIT_SKIPPED:
        return unit_say(test, UNIT_SKIPPED);
    default:
        return unit_say(test, UNIT_FAILED);
    }
}

static inline int unit_main(const char* filter) {
    int counts[3] = {0, 0, 0};
    for (const struct unit_test* test = unit_first; test != NULL; test = test->next) {
        if (filter == NULL || strstr(test->name, filter) != NULL) counts[unit_run(test)]++;
        if (counts[UNIT_FAILED] > 0 && getenv("UNIT_STOP") != NULL) break;
    }
    if (counts[UNIT_SKIPPED] > 0) printf("%d skipped\n", counts[UNIT_SKIPPED]);
    printf("%d passed, %d failed\n", counts[UNIT_PASSED], counts[UNIT_FAILED]);
    if (counts[UNIT_FAILED] > 0) return 1;
    if (counts[UNIT_PASSED] > 0) return 0;
    return counts[UNIT_SKIPPED] > 0 ? 77 : 2;
}

#ifndef UNIT_NO_MAIN
int main(int argc, char** argv) {
    return unit_main(argc > 1 ? argv[1] : getenv("UNIT_FILTER"));
}
#endif

#endif
