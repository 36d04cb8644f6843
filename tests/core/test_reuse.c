/* test_reuse.c - the estimates behind the default eviction against a slow computation in double from a
 * list of all spells, and the choice of victims against a search through all lists. */
#include "unit.h"

#include "base/hash.h"
#include "core/policy/builtin.h"
#include <math.h>

enum {
    BINS = PKVI_REUSE_BINS,
    LEVELS = PKVI_REUSE_LEVELS,
    KINDS = PKVI_REUSE_KINDS,
    SPELLS = 30000,
    PAGES = 12, /* of a request */
};

static uint32_t below(uint64_t* random, uint32_t bound) {
    return (uint32_t)(pkvi_random_next(random) % bound);
}

/* ---- Estimates ------------------------------------------------------------------------------- */

struct spell {
    uint32_t kind, level, bin;
    bool is_reuse, is_lasting;
    double weight, expected;
};

struct paper {
    struct spell* spells; /* [SPELLS] */
    uint32_t count;
    double hazard[BINS];
    double factor[KINDS];
    double run_pages;
};

/* By search: the bin whose ages hold this one. */
static double first_age(uint32_t bin) {
    if (bin == 0) return 0;
    return ((bin + 1) % 2 == 0 ? 1.0 : 1.5) * pow(2, (bin + 1) / 2);
}

static uint32_t bin_of(double age) {
    uint32_t bin = 0;
    while (bin + 1 < BINS && age >= first_age(bin + 1))
        bin++;
    return bin;
}

static double expected_until(const struct paper* paper, uint32_t bin) {
    double sum = 0;
    for (uint32_t i = 0; i < bin; i++)
        sum += paper->hazard[i];
    return sum;
}

/* Reused at this age, and those that got as old, of one level or of all (LEVELS). */
static void count(const struct paper* paper, uint32_t level, uint32_t bin, double* reused,
                  double* risk) {
    *reused = *risk = 0;
    for (uint32_t i = 0; i < paper->count; i++) {
        const struct spell* s = &paper->spells[i];
        if (level < LEVELS && s->level != level) continue;
        if (s->bin >= bin) *risk += s->weight;
        if (s->bin == bin && s->is_reuse) *reused += s->weight;
    }
}

static double assumed(uint32_t kind) {
    static const double uses[] = {0.6, 1.2, 1.8, 2.6, 4.0, 6.0, 8.0};
    static const double fresh[] = {1.6, 1.2, 1.0, 0.9, 0.75};
    if (kind == PKVI_REUSE_LAST) return 0.3;
    return uses[(kind - 1) / 15] * fresh[(kind - 1) / 3 % 5];
}

static void estimate_factors(struct paper* paper) {
    double reused[KINDS] = {0};
    double expected[KINDS] = {0};
    double all_reused = 40 * paper->run_pages;
    double all_expected = all_reused;
    for (uint32_t i = 0; i < paper->count; i++) {
        const struct spell* s = &paper->spells[i];
        reused[s->kind] += s->is_reuse ? s->weight : 0;
        expected[s->kind] += s->weight * s->expected;
    }
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        all_reused += reused[kind];
        all_expected += expected[kind];
    }
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        const double trust = kind == 0 ? 40 : 40 * paper->run_pages;
        const double own = expected[kind] * all_reused / all_expected;
        paper->factor[kind] = (reused[kind] + trust * assumed(kind)) / (own + trust);
    }
}

static void estimate_hazard(struct paper* paper) {
    for (uint32_t bin = 0; bin < BINS; bin++) {
        double reused;
        double risk;
        count(paper, LEVELS, bin, &reused, &risk);
        paper->hazard[bin] = (reused + 50 * 0.05 * pow(0.9, bin)) / (risk + 50);
    }
}

/* The best of all ages to give up, each computed from the start. */
static double worth(const double* hazard, uint32_t first) {
    double best = 0;
    for (uint32_t last = first; last < BINS; last++) {
        double lasting = 1;
        double room = 0;
        for (uint32_t bin = first; bin <= last; bin++) {
            const double half = bin == first ? 0.5 : 1;
            const double h = bin == first ? 1 - sqrt(1 - hazard[bin]) : hazard[bin];
            room += lasting * half * (first_age(bin + 1) - first_age(bin)) * (1 - h / 2);
            lasting *= 1 - h;
        }
        if ((1 - lasting) / room > best) best = (1 - lasting) / room;
    }
    return best;
}

static void level_hazard(const struct paper* paper, uint32_t level, double* hazard) {
    const double factor = pow(2, ((double)level - 5) / 2);
    const double trust = 400 * paper->run_pages;
    for (uint32_t bin = 0; bin < BINS; bin++) {
        double reused;
        double risk;
        count(paper, level, bin, &reused, &risk);
        hazard[bin] = fmin(1, (reused + trust * factor * paper->hazard[bin]) / (risk + trust));
    }
}

static void compare(const struct paper* paper, const struct pkvi_reuse* reuse) {
    for (uint32_t kind = 0; kind < KINDS; kind++)
        ASSERT(fabs(reuse->factor[kind] / paper->factor[kind] - 1) < 1e-3);
    for (uint32_t level = 0; level < LEVELS; level++) {
        double hazard[BINS];
        level_hazard(paper, level, hazard);
        for (uint32_t bin = 0; bin < BINS; bin++) {
            const uint32_t age = (uint32_t)first_age(bin);
            const double want = worth(hazard, bin);
            ASSERT(fabs(pkvi_reuse_worth(reuse, level, age) / want - 1) < 1e-3);
        }
    }
}

static void note_spells(struct paper* paper, struct pkvi_reuse* reuse, uint64_t* random,
                        uint32_t spells) {
    for (uint32_t i = 0; i < spells; i++) {
        const uint32_t age = below(random, 1U << below(random, 20));
        struct spell s = {
            below(random, KINDS), below(random, LEVELS), bin_of(age), false, false, 1, 0};
        const uint32_t what = below(random, 3);
        s.is_reuse = what == 0;
        s.is_lasting = what == 2;
        s.expected = expected_until(paper, s.bin);
        if (s.is_lasting)
            pkvi_reuse_note_lasting(reuse, s.kind, s.level, age, 1);
        else
            pkvi_reuse_note(reuse, s.kind, s.level, age, s.is_reuse);
        paper->spells[paper->count++] = s;
    }
}

/* What lasts is noted anew each time. */
static void forget_lasting(struct paper* paper) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < paper->count; i++)
        if (!paper->spells[i].is_lasting) paper->spells[kept++] = paper->spells[i];
    paper->count = kept;
}

TEST(estimates_are_those_on_paper) {
    static struct pkvi_reuse reuse;
    uint64_t random = 5;
    struct paper paper = {.spells = calloc(SPELLS, sizeof *paper.spells), .run_pages = 24};
    ASSERT(paper.spells != NULL);
    pkvi_reuse_init(&reuse);
    estimate_factors(&paper);
    estimate_hazard(&paper);
    compare(&paper, &reuse);
    for (uint32_t round = 1; round <= 4; round++) {
        note_spells(&paper, &reuse, &random, 2000);
        for (uint32_t i = 0; i < 300; i++)
            pkvi_reuse_note_page(&reuse, i % 6 == 0);
        paper.run_pages = (300.0 * round + 2400) / (50.0 * round + 100);
        pkvi_reuse_estimate(&reuse);
        estimate_factors(&paper);
        estimate_hazard(&paper);
        compare(&paper, &reuse);
        forget_lasting(&paper);
    }
    free(paper.spells);
}

TEST(old_experience_counts_half) {
    static struct pkvi_reuse reuse;
    pkvi_reuse_init(&reuse);
    for (uint32_t i = 0; i < 8; i++)
        pkvi_reuse_note(&reuse, 7, 3, 100, true);
    for (uint32_t i = 0; i < 4; i++)
        pkvi_reuse_fade(&reuse, 5);
    ASSERT(reuse.spells.kind_reused[7] == 8);
    pkvi_reuse_fade(&reuse, 5);
    ASSERT(reuse.spells.kind_reused[7] == 4);
    ASSERT(reuse.belief.reused_before[7] == -4); /* all of it is news yet */
}

/* Are kinds believed in after they have been seen to be reused so often, of 100 each time? */
static uint32_t belief_after(const uint32_t* reused_of_100, uint32_t kinds) {
    static struct pkvi_reuse reuse;
    pkvi_reuse_init(&reuse);
    for (uint32_t round = 0; round < 60; round++) {
        for (uint32_t kind = 0; kind < kinds; kind++)
            for (uint32_t i = 0; i < 100; i++)
                pkvi_reuse_note(&reuse, 1 + 15 * kind, 5, 3000, i < reused_of_100[kind]);
        pkvi_reuse_estimate(&reuse);
    }
    return reuse.belief.power;
}

TEST(factors_are_believed_where_they_matter) {
    ASSERT_EQ(belief_after((const uint32_t[]){5, 30, 60}, 3), PKVI_REUSE_BELIEFS - 1);
    ASSERT_EQ(belief_after((const uint32_t[]){50, 50, 50}, 3), 0);
}

/* ---- Victims --------------------------------------------------------------------------------- */

enum { BLOCKS = 200 };

struct scene {
    struct pkvi_shared shared;
    struct pkvi_domain domain;
    uint64_t random;
    uint32_t identities[BLOCKS];
    uint32_t free[BLOCKS];
    uint32_t free_count;
};

/* Evict one block, and look at what all lists were worth when it was chosen. */
static void evict(struct scene* s) {
    uint32_t heads[PKVI_DOMAIN_LISTS];
    float least = INFINITY;
    float own = INFINITY;
    for (uint32_t i = 0; i < PKVI_DOMAIN_LISTS; i++)
        heads[i] = s->domain.lists[i].count > 0 ? s->domain.lists[i].head : PKVI_NONE;
    pkvi_domain_prepare(&s->domain, 1);
    const uint32_t victim = pkvi_domain_evict(&s->domain);
    for (uint32_t i = 0; i < PKVI_DOMAIN_LISTS; i++) {
        if (heads[i] == PKVI_NONE) continue;
        least = fminf(least, s->domain.cohorts[i].score);
        if (heads[i] == victim) own = s->domain.cohorts[i].score;
    }
    ASSERT(own == least);
    pkvi_domain_remember(&s->domain, victim, s->identities[victim]);
    s->free[s->free_count++] = victim;
}

/* A request computes some pages and lets go of them, last one first. */
static void request(struct scene* s) {
    uint32_t rows[PAGES];
    const uint32_t pages = 1 + below(&s->random, PAGES);
    const uint32_t text = below(&s->random, 1U << below(&s->random, 10));
    while (s->free_count < pages)
        evict(s);
    for (uint32_t page = 0; page < pages; page++) {
        const struct pkvi_origin origin = {.page = page};
        const uint32_t block = rows[page] = s->free[--s->free_count];
        const uint32_t parent = page > 0 ? rows[page - 1] : PKVI_NONE;
        s->identities[block] = text * 2654435761U + page * 40503U;
        pkvi_domain_enter(&s->domain, block, parent, s->identities[block], &origin);
    }
    for (uint32_t page = pages; page-- > 0;) {
        pkvi_domain_rest(&s->domain, rows[page], page);
        if (page + 1 == pages) continue;
        const uint32_t behind = pkvi_candidate(&s->domain, rows[page + 1])->list;
        ASSERT(pkvi_candidate(&s->domain, rows[page])->list >= behind);
    }
}

TEST(the_least_worth_goes_first_and_no_page_before_those_behind_it) {
    static struct scene s;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    const pkv_memory_hook hook = {NULL, NULL};
    const struct pkvi_policy* policy = &pkvi_policy_reuse;
    s.random = 11;
    ASSERT_OK(pkvi_faults_init(&faults, "", 0));
    pkvi_mem_init(&mem, &hook, &faults);
    ASSERT_OK(pkvi_shared_open(&s.shared, &mem, BLOCKS, policy, &(pkv_config){.blocks = BLOCKS}));
    pkvi_domain_init(&s.domain, policy, &s.shared, BLOCKS);
    while (s.free_count < BLOCKS) {
        s.free[s.free_count] = s.free_count;
        s.free_count++;
    }
    for (uint32_t i = 0; i < 20000; i++)
        request(&s);
    ASSERT(s.shared.reuse->version > 100); /* it has learned meanwhile */
    pkvi_shared_close(&s.shared, &mem);
    pkvi_faults_free(&faults);
}
