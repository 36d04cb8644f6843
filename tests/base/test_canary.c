/* test_canary.c - proves the harness: a test that should fail does, and is counted.
 *
 * A harness cannot vouch for itself, so this program judges by exit codes and output alone. Started without
 * an argument it runs itself once for each test below, each of which must end with 1 and a line `FAIL NAME`,
 * or with what the table says. */
#define UNIT_NO_MAIN
#include "unit.h"

#include <sys/wait.h>
#include <unistd.h>

static int evaluations;

static int evaluate(void) {
    return ++evaluations;
}

TEST(fail_eq) {
    ASSERT_EQ(evaluate(), 2);
}
TEST(fail_eq_of_signs) {
    ASSERT_EQ(-1, UINT64_MAX);
}
TEST(fail_ne) {
    ASSERT_NE(UINT64_MAX, UINT64_MAX);
}
TEST(fail_lt) {
    ASSERT_LT(UINT64_MAX, -1);
}
TEST(fail_le) {
    ASSERT_LE(3, 2);
}
TEST(fail_gt) {
    ASSERT_GT(2, 2);
}
TEST(fail_ge) {
    ASSERT_GE(-1, 0U);
}
TEST(fail_true) {
    ASSERT(evaluations > 1000);
}
TEST(fail_ok) {
    ASSERT_OK(PKV_EIO);
}
TEST(fail_status) {
    ASSERT_STATUS(PKV_OK, PKV_EIO);
}
TEST(fail_unknown_status) {
    ASSERT_STATUS(12345, PKV_EIO);
}
TEST(fail_ptr) {
    ASSERT_PTR(&evaluations, NULL);
}
TEST(fail_str) {
    ASSERT_STR("left", "right");
}
TEST(fail_str_null) {
    ASSERT_STR(NULL, "right");
}
TEST(fail_mem) {
    ASSERT_MEM("left", "lent", 4);
}
TEST(fail_near) {
    ASSERT_NEAR(1.0, 1.1, 0.01);
}
TEST(fail_near_nan) {
    ASSERT_NEAR((double)NAN, (double)NAN, 1e300);
}
TEST(skip_only) {
    SKIP("to see that a skip is told from a pass");
}
TEST(pass_all) {
    evaluations = 0;
    ASSERT_EQ(evaluate(), 1);
    ASSERT_EQ(evaluations, 1);
    ASSERT_NE(-1, UINT64_MAX);
    ASSERT_LT(-1, UINT64_MAX);
    ASSERT_LE(2, 2);
    ASSERT_GT(UINT64_MAX, INT64_MAX);
    ASSERT_GE(2, 2);
    ASSERT_OK(PKV_OK);
    ASSERT_STATUS(PKV_EIO, PKV_EIO);
    ASSERT_PTR(NULL, NULL);
    ASSERT_STR(NULL, NULL);
    ASSERT_STR("left", "left");
    ASSERT_MEM("left", "lend", 2);
    ASSERT_NEAR(1.0, 1.1, 0.2);
}

/* ---- Judging ----------------------------------------------------------------------------------- */

struct expectation {
    const char* filter;
    int exit_code;
    const char* line; /* that the output must contain */
};

static const struct expectation special[] = {
    {"skip_only", 77, "skip skip_only\n"},
    {"pass_all", 0, "ok pass_all\n"},
    {"pass_all", 0, "1 passed, 0 failed\n"},
    {"no_such_test", 2, "0 passed, 0 failed\n"},
    {"fail_eq", 1, "    evaluate() = 1 (0x1)\n"},
    {"fail_eq", 1, "    2 = 2 (0x2)\n"},
    {"fail_eq_of_signs", 1, "not -1 == UINT64_MAX\n"},
    {"fail_eq", 1, "0 passed, 2 failed\n"},
    {"fail_ok", 1, "PKV_EIO = -12 (EIO)\n"},
    {"fail_mem", 1, "\"left\"[2] = 0x66\n"},
    {"a", 1, "1 passed, 17 failed\n"}, /* one that passes does not hide those that fail */
};

/* Run this program with `filter`; everything that it prints goes to `output`. */
static int run_child(const char* filter, char* output, size_t capacity) {
    char command[512];
    snprintf(command, sizeof command, "/proc/%ld/exe %s", (long)getpid(), filter);
    FILE* pipe = popen(command, "r");
    if (pipe == NULL) return -1;
    output[fread(output, 1, capacity - 1, pipe)] = '\0';
    const int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int judge(const struct expectation* wanted) {
    static char output[65536];
    const int exit_code = run_child(wanted->filter, output, sizeof output);
    if (exit_code == wanted->exit_code && strstr(output, wanted->line) != NULL) return 0;
    printf("  %s: exit code %d, wanted %d; wanted line: %s  output:\n%s", wanted->filter, exit_code,
           wanted->exit_code, wanted->line, output);
    printf("FAIL canary_%s\n", wanted->filter);
    return 1;
}

static int judge_failing(const char* name) {
    char line[128];
    snprintf(line, sizeof line, "FAIL %s\n", name);
    return judge(&(struct expectation){name, 1, line});
}

int main(int argc, char** argv) {
    if (argc > 1) return unit_main(argv[1]);
    int judged = 0;
    int failed = 0;
    for (const struct unit_test* test = unit_first; test != NULL; test = test->next) {
        if (strncmp(test->name, "fail_", 5) != 0) continue;
        failed += judge_failing(test->name);
        judged++;
    }
    for (size_t i = 0; i < sizeof special / sizeof *special; i++, judged++)
        failed += judge(&special[i]);
    if (failed == 0) printf("ok canary\n");
    printf("%d passed, %d failed\n", judged - failed, failed);
    return failed > 0 || judged < 20;
}
