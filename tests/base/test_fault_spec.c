/* test_fault_spec.c - what the parser of fault specifications takes, what it makes of it, what it refuses. */
#include "base/fault_spec.h"
#include "base/hash.h"
#include "unit.h"

#ifdef PKV_NO_FAULTS

TEST(without_fault_points_there_is_no_parser) {
    SKIP("built without fault points");
}

#else

static struct pkvi_fault_program programs[PKVI_FAULT_COUNT];

/* The program that `spec` gives the point mem.alloc. */
static const struct pkvi_fault_program* parse(const char* spec) {
    ASSERT_OK(pkvi_fault_parse(spec, programs));
    return &programs[PKVI_FAULT_MEM_ALLOC];
}

static uint32_t count_named(void) {
    uint32_t count = 0;
    for (int point = 0; point < PKVI_FAULT_COUNT; point++)
        count += programs[point].term_count > 0;
    return count;
}

TEST(empty_specifications_name_nothing) {
    static const char* const specs[] = {"", " ", ";", " ; ;; ", "\t\n"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        memset(programs, 0xff, sizeof programs);
        parse(specs[i]);
        ASSERT_EQ(count_named(), 0);
    }
}

TEST(every_action_is_understood) {
    static const struct {
        const char* spec;
        enum pkvi_fault_action action;
        int status;
        uint64_t argument;
    } cases[] = {
        {"mem.alloc=off", PKVI_ACT_OFF, 0, 0},
        {"mem.alloc=return(ENOMEM)", PKVI_ACT_RETURN, PKV_ENOMEM, 0},
        {"mem.alloc=return(EDEVICE)", PKVI_ACT_RETURN, PKV_EDEVICE, 0},
        {"mem.alloc=delay(250)", PKVI_ACT_DELAY, 0, 250},
        {"mem.alloc=delay(0)", PKVI_ACT_DELAY, 0, 0},
        {"mem.alloc=drop", PKVI_ACT_DROP, 0, 0},
        {"mem.alloc=dup", PKVI_ACT_DUP, 0, 0},
        {"mem.alloc=corrupt(4294967295)", PKVI_ACT_CORRUPT, 0, 4294967295U},
        {"mem.alloc=pause", PKVI_ACT_PAUSE, 0, 0},
        {"mem.alloc=yield", PKVI_ACT_YIELD, 0, 0},
        {"mem.alloc=crash", PKVI_ACT_CRASH, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct pkvi_fault_program* program = parse(cases[i].spec);
        ASSERT_EQ(program->term_count, 1);
        ASSERT_EQ(program->terms[0].action, cases[i].action);
        ASSERT_EQ(program->terms[0].status, cases[i].status);
        ASSERT_EQ(program->terms[0].argument, cases[i].argument);
        ASSERT_NEAR(program->terms[0].percent, 100.0, 0.0);
        ASSERT_EQ(program->terms[0].limit, 0);
        ASSERT_EQ(count_named(), 1);
    }
}

TEST(every_status_but_success_can_be_returned) {
    char spec[64];
    int count = 0;
    for (int status = -1; pkv_status_name(status) != NULL; status--, count++) {
        snprintf(spec, sizeof spec, "mem.alloc=return(%s)", pkv_status_name(status));
        ASSERT_EQ(parse(spec)->terms[0].status, status);
    }
    ASSERT_GE(count, 17);
}

TEST(percentages_may_have_decimals) {
    static const struct {
        const char* spec;
        double percent;
    } cases[] = {
        {"mem.alloc=5%off", 5.0},       {"mem.alloc=0.5%off", 0.5}, {"mem.alloc=0.125%off", 0.125},
        {"mem.alloc=99.99%off", 99.99}, {"mem.alloc=0%off", 0.0},   {"mem.alloc=100%off", 100.0},
        {"mem.alloc=100.0%off", 100.0}, {"mem.alloc=007%off", 7.0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ASSERT_NEAR(parse(cases[i].spec)->terms[0].percent, cases[i].percent, 1e-12);
}

TEST(terms_have_limits_and_chains) {
    const struct pkvi_fault_program* program =
        parse("mem.alloc=3*off->25%2*return(EIO)->delay(9)->10%crash");
    ASSERT_EQ(program->term_count, 4);
    ASSERT_EQ(program->terms[0].limit, 3);
    ASSERT_EQ(program->terms[1].limit, 2);
    ASSERT_NEAR(program->terms[1].percent, 25.0, 0.0);
    ASSERT_EQ(program->terms[1].status, PKV_EIO);
    ASSERT_EQ(program->terms[2].argument, 9);
    ASSERT_EQ(program->terms[3].action, PKVI_ACT_CRASH);
    ASSERT_NEAR(program->terms[3].percent, 10.0, 0.0);
}

TEST(white_space_may_stand_anywhere_between) {
    const struct pkvi_fault_program* program =
        parse(" \tmem.alloc = 25 % 2 * return ( EIO ) -> delay( 9 )\n; ");
    ASSERT_EQ(program->term_count, 2);
    ASSERT_NEAR(program->terms[0].percent, 25.0, 0.0);
    ASSERT_EQ(program->terms[0].limit, 2);
    ASSERT_EQ(program->terms[0].status, PKV_EIO);
    ASSERT_EQ(program->terms[1].argument, 9);
}

TEST(a_star_names_every_point_that_begins_so) {
    parse("device.copy.*=drop");
    ASSERT_EQ(count_named(), 2);
    ASSERT_EQ(programs[PKVI_FAULT_DEVICE_COPY_SUBMIT].terms[0].action, PKVI_ACT_DROP);
    ASSERT_EQ(programs[PKVI_FAULT_DEVICE_COPY_DONE].terms[0].action, PKVI_ACT_DROP);
    parse("mem.alloc*=drop");
    ASSERT_EQ(count_named(), 1);
    parse("*=drop");
    ASSERT_EQ(count_named(), PKVI_FAULT_COUNT);
}

TEST(the_last_part_that_names_a_point_counts) {
    parse("seq.*=return(EIO); seq.fork=off; mem.alloc=drop; mem.alloc=dup");
    ASSERT_EQ(programs[PKVI_FAULT_SEQ_CREATE].terms[0].action, PKVI_ACT_RETURN);
    ASSERT_EQ(programs[PKVI_FAULT_SEQ_FORK].terms[0].action, PKVI_ACT_OFF);
    ASSERT_EQ(programs[PKVI_FAULT_MEM_ALLOC].terms[0].action, PKVI_ACT_DUP);
    ASSERT_EQ(count_named(), 4);
}

TEST(every_point_can_be_named) {
    char spec[64];
    for (int point = 0; point < PKVI_FAULT_COUNT; point++) {
        snprintf(spec, sizeof spec, "%s=drop", pkvi_fault_name((enum pkvi_fault_point)point));
        parse(spec);
        ASSERT_EQ(count_named(), 1);
        ASSERT_EQ(programs[point].term_count, 1);
    }
}

TEST(what_is_not_in_the_grammar_is_refused) {
    static const char* const specs[] = {
        "mem.alloc",
        "mem.alloc=",
        "=off",
        "mem.alloc=of",
        "mem.alloc=offf",
        "mem.alloc=off()",
        "mem.alloc=off(1)",
        "mem.alloc=return",
        "mem.alloc=return()",
        "mem.alloc=return(",
        "mem.alloc=return(EIO",
        "mem.alloc=return(OK)",
        "mem.alloc=return(PKV_EIO)",
        "mem.alloc=return(eio)",
        "mem.alloc=return(EIOO)",
        "mem.alloc=return(EI)",
        "mem.alloc=return(-12)",
        "mem.alloc=delay",
        "mem.alloc=delay()",
        "mem.alloc=delay(x)",
        "mem.alloc=delay(-1)",
        "mem.alloc=delay(1.5)",
        "mem.alloc=delay(0x10)",
        "mem.alloc=delay(1e3)",
        "mem.alloc=delay(1",
        "mem.alloc=delay(1 2)",
        "mem.alloc=corrupt(4294967296)",
        "mem.alloc=corrupt(99999999999999999999999999)",
        "mem.alloc=101%off",
        "mem.alloc=100.01%off",
        "mem.alloc=4294967296%off",
        "mem.alloc=.5%off",
        "mem.alloc=5.%off",
        "mem.alloc=-5%off",
        "mem.alloc=5%5%off",
        "mem.alloc=0*off",
        "mem.alloc=1.5*off",
        "mem.alloc=2*3*off",
        "mem.alloc=2*5%off",
        "mem.alloc=5%",
        "mem.alloc=3*",
        "mem.alloc=5 off",
        "mem.alloc=off->",
        "mem.alloc=->off",
        "mem.alloc=off->->off",
        "mem.alloc=off-off",
        "mem.alloc=off off",
        "mem.alloc=off,mem.alloc=off",
        "mem.alloc=off mem.alloc=off",
        "mem.alloc==off",
        "mem.alloc:off",
        "mem .alloc=off",
        "mem.allo=off",
        "mem.allocs=off",
        "MEM.ALLOC=off",
        "mem.*.alloc=off",
        "*mem=off",
        "mem**=off",
        "nosuch*=off",
        "mem.alloc=off;nosuch=off",
        "mem.alloc=off;x",
        "mem.alloc=off\x01",
        "m\xc3\xa9m.alloc=off",
        /* nine terms */
        "mem.alloc=off->off->off->off->off->off->off->off->off",
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const int status = pkvi_fault_parse(specs[i], programs);
        if (status != PKV_EFAULTSPEC) printf("  the specification: %s\n", specs[i]);
        ASSERT_STATUS(status, PKV_EFAULTSPEC);
    }
}

TEST(eight_terms_are_the_most) {
    ASSERT_EQ(parse("mem.alloc=off->off->off->off->off->off->off->drop")->term_count, 8);
    ASSERT_EQ(programs[PKVI_FAULT_MEM_ALLOC].terms[7].action, PKVI_ACT_DROP);
}

/* Random texts made of the grammar's own pieces: whatever comes out, nothing is read past the end (each text
 * has a heap block of just its size, which the sanitizers watch) and what is taken is within its limits. */
TEST(no_text_breaks_the_parser) {
    static const char* const pieces[] = {
        "mem.alloc", "device.*",    "*",       "=", "->",  ";",     "return", "(",
        ")",         "EIO",         "5",       "%", "0.5", "delay", "off",    " ",
        "dup",       "99999999999", "corrupt", "-", ".",   "x"};
    enum { PIECES = sizeof pieces / sizeof *pieces };
    uint64_t random = 11;
    uint64_t taken = 0;
    for (int round = 0; round < 200000; round++) {
        char text[256] = "mem.alloc=";
        const bool is_prefixed = pkvi_random_next(&random) % 2;
        text[is_prefixed ? strlen(text) : 0] = '\0';
        for (uint64_t left = pkvi_random_next(&random) % 9; left > 0; left--)
            strcat(text, pieces[pkvi_random_next(&random) % PIECES]);
        char* exact = strdup(text);
        const int status = pkvi_fault_parse(exact, programs);
        free(exact);
        taken += status == PKV_OK;
        ASSERT(status == PKV_OK || status == PKV_EFAULTSPEC);
        for (int point = 0; status == PKV_OK && point < PKVI_FAULT_COUNT; point++) {
            ASSERT_LE(programs[point].term_count, PKVI_FAULT_TERMS_MAX);
            for (uint32_t i = 0; i < programs[point].term_count; i++)
                ASSERT(programs[point].terms[i].percent <= 100.0);
        }
    }
    ASSERT_GT(taken, 1000);
}

#endif
