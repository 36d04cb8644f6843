/* reuse.c - see reuse.h. */
#include "core/policy/reuse.h"

#include <math.h>
#include <string.h>

enum {
    BINS = PKVI_REUSE_BINS,
    LEVELS = PKVI_REUSE_LEVELS,
    KINDS = PKVI_REUSE_KINDS,
    BELIEFS = PKVI_REUSE_BELIEFS,
    STEPS = 2,         /* levels an octave of the factor */
    AVERAGE = 5,       /* level of the factor 1 */
    KIND_TRUST = 40,   /* requests after whose reuse the data outweigh what was assumed of a kind */
    LEVEL_TRUST = 400, /* requests after which a level's own hazard outweighs that of all */
    TRUST = 50,        /* spells after which that of all outweighs what was assumed */
    ASSUMED_PAGES = 24, /* of a request, as if so many had been seen: */
    ASSUMED_RUNS = 100,
};

/* What is assumed until it is known better. The hazard falls with age, as it does when nothing is
 * known of the rate. It grows with the uses, likewise: who was asked for k times in a while is, on
 * average, k times as often. Short sequences go on more often. */
static const float assumed_hazard = 0.05F;
static const float assumed_fall = 0.9F;
static const float factor_of_last = 0.3F;
static const float factor_of_uses[PKVI_REUSE_USES] = {0.6F, 1.2F, 1.8F, 2.6F, 4.0F, 6.0F, 8.0F};
static const float factor_of_fresh[PKVI_REUSE_FRESH] = {1.6F, 1.2F, 1.0F, 0.9F, 0.75F};

/* Half octaves: 0..1, 2, 3, 4..5, 6..7, 8..11, ... */
static uint32_t bin_of(uint32_t age) {
    if (age < 2) return 0;
    const uint32_t octave = 31 - (uint32_t)__builtin_clz(age);
    const uint32_t bin = 2 * octave + (age >> (octave - 1) & 1) - 1;
    return bin < BINS ? bin : BINS - 1;
}

static float first_age(uint32_t bin) {
    if (bin == 0) return 0;
    const uint32_t half = bin + 1;
    return (float)(half % 2 == 0 ? 1U << half / 2 : 3U << (half / 2 - 1));
}

static uint32_t log2_between(uint32_t value, uint32_t low, uint32_t high) {
    const uint32_t log2 = 31 - (uint32_t)__builtin_clz(value | 1);
    return log2 < low ? 0 : log2 > high ? high - low : log2 - low;
}

uint32_t pkvi_reuse_kind(uint32_t uses, uint32_t fresh_pages, uint32_t seen) {
    static const uint8_t first_uses[PKVI_REUSE_USES] = {1, 2, 3, 4, 6, 9, 16};
    uint32_t u = PKVI_REUSE_USES - 1;
    while (u > 0 && uses < first_uses[u])
        u--;
    const uint32_t fresh = log2_between(fresh_pages, 2, 1 + PKVI_REUSE_FRESH);
    return 1 + (u * PKVI_REUSE_FRESH + fresh) * PKVI_REUSE_SEEN + seen;
}

static float assumed_factor(uint32_t kind) {
    if (kind == PKVI_REUSE_LAST) return factor_of_last;
    const uint32_t fresh = (kind - 1) / PKVI_REUSE_SEEN;
    return factor_of_uses[fresh / PKVI_REUSE_FRESH] * factor_of_fresh[fresh % PKVI_REUSE_FRESH];
}

static uint8_t level_of(float log_factor) {
    const float level = floorf(STEPS * log_factor + 0.5F) + AVERAGE;
    if (level < 0) return 0;
    return level < LEVELS ? (uint8_t)level : LEVELS - 1;
}

void pkvi_reuse_init(struct pkvi_reuse* reuse) {
    memset(reuse, 0, sizeof *reuse);
    reuse->belief.gain[BELIEFS - 1] = 1;
    for (uint32_t kind = 0; kind < KINDS; kind++)
        reuse->factor[kind] = assumed_factor(kind);
    pkvi_reuse_estimate(reuse);
}

void pkvi_reuse_note(struct pkvi_reuse* reuse, uint32_t kind, uint32_t level, uint32_t age,
                     bool is_reuse) {
    struct pkvi_spells* spells = &reuse->spells;
    const uint32_t bin = bin_of(age);
    spells->kind_expected[kind] += reuse->expected[bin];
    if (is_reuse) {
        spells->kind_reused[kind]++;
        spells->reused[level][bin]++;
    } else {
        spells->ended[level][bin]++;
    }
}

void pkvi_reuse_note_lasting(struct pkvi_reuse* reuse, uint32_t kind, uint32_t level, uint32_t age,
                             uint32_t count) {
    const uint32_t bin = bin_of(age);
    reuse->spells.lasting[level][bin] += (float)count;
    if (kind < KINDS) reuse->spells.kind_lasting[kind] += (float)count * reuse->expected[bin];
}

void pkvi_reuse_note_page(struct pkvi_reuse* reuse, bool is_last) {
    reuse->pages++;
    reuse->runs += is_last;
}

/* ---- Estimates ------------------------------------------------------------------------------- */

/* The hazard of all levels, oldest bin first, since who is at risk at an age is who gets older. */
static void estimate_all(struct pkvi_reuse* reuse, float* hazard) {
    const struct pkvi_spells* spells = &reuse->spells;
    float risk = 0;
    for (uint32_t bin = BINS; bin-- > 0;) {
        float reused = 0;
        for (uint32_t level = 0; level < LEVELS; level++) {
            reused += spells->reused[level][bin];
            risk += spells->ended[level][bin] + spells->lasting[level][bin];
        }
        risk += reused;
        const float assumed = assumed_hazard * powf(assumed_fall, (float)bin);
        hazard[bin] = (reused + TRUST * assumed) / (risk + TRUST);
    }
    for (uint32_t bin = 0; bin < BINS; bin++)
        reuse->expected[bin + 1] = reuse->expected[bin] + hazard[bin];
}

static float expected_of(const struct pkvi_spells* spells, uint32_t kind) {
    return spells->kind_expected[kind] + spells->kind_lasting[kind];
}

/* The logarithm of how probable is what was seen of all kinds since the last estimate, with this
 * power of the factors, by how probable it was without them. Reuse in all is taken as it was. */
static float gain_of(const struct pkvi_reuse* reuse, float power) {
    const struct pkvi_belief* belief = &reuse->belief;
    float reused = 0;
    float expected = 0;
    float with_factors = 0;
    float gain = 0;
    for (uint32_t kind = 1; kind < KINDS; kind++) {
        const float r = reuse->spells.kind_reused[kind] - belief->reused_before[kind];
        const float e = expected_of(&reuse->spells, kind) - belief->expected_before[kind];
        const float log_factor = power * log2f(reuse->factor[kind]);
        reused += r;
        gain += r * log_factor;
        expected += e;
        with_factors += e * exp2f(log_factor);
    }
    if (expected <= 0 || with_factors <= 0) return 0;
    return gain - reused * log2f(with_factors / expected);
}

static void judge_factors(struct pkvi_reuse* reuse) {
    struct pkvi_belief* belief = &reuse->belief;
    belief->power = 0;
    for (uint32_t i = 1; i < BELIEFS; i++) {
        belief->gain[i] += gain_of(reuse, (float)i / (BELIEFS - 1)) / reuse->run_pages;
        if (belief->gain[i] > belief->gain[belief->power]) belief->power = i;
    }
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        belief->reused_before[kind] = reuse->spells.kind_reused[kind];
        belief->expected_before[kind] = expected_of(&reuse->spells, kind);
    }
}

/* A request has one last page, and many of other kinds. */
static float trust_of(const struct pkvi_reuse* reuse, uint32_t kind) {
    return kind == PKVI_REUSE_LAST ? KIND_TRUST : KIND_TRUST * reuse->run_pages;
}

static void estimate_factors(struct pkvi_reuse* reuse) {
    const struct pkvi_spells* spells = &reuse->spells;
    float reused = KIND_TRUST * reuse->run_pages;
    float expected = reused;
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        reused += spells->kind_reused[kind];
        expected += expected_of(spells, kind);
    }
    const float believed = (float)reuse->belief.power / (BELIEFS - 1);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        const float own = reused / expected * expected_of(spells, kind);
        const float trust = trust_of(reuse, kind);
        reuse->factor[kind] =
            (spells->kind_reused[kind] + trust * assumed_factor(kind)) / (own + trust);
        const float power = kind == PKVI_REUSE_LAST ? 1 : believed;
        reuse->level[kind] = level_of(power * log2f(reuse->factor[kind]));
    }
}

static void estimate_level(const struct pkvi_reuse* reuse, uint32_t level, const float* all,
                           float* hazard) {
    const struct pkvi_spells* spells = &reuse->spells;
    const float trust = LEVEL_TRUST * reuse->run_pages;
    const float factor = exp2f((float)((int)level - AVERAGE) / STEPS);
    float risk = 0;
    for (uint32_t bin = BINS; bin-- > 0;) {
        const float reused = spells->reused[level][bin];
        risk += reused + spells->ended[level][bin] + spells->lasting[level][bin];
        const float h = (reused + trust * factor * all[bin]) / (risk + trust);
        hazard[bin] = h < 1 ? h : 1;
    }
}

/* Over all ages to give up: chance of reuse until then, by the expected time until one of both. The
 * age is taken to be in the middle of its bin. */
static float worth_from(const float* hazard, uint32_t first) {
    float lasting = 1;
    float chance = 0;
    float room = 0;
    float best = 0;
    for (uint32_t bin = first; bin < BINS; bin++) {
        const float part = bin == first ? 0.5F : 1.0F;
        const float width = part * (first_age(bin + 1) - first_age(bin));
        const float h = bin == first ? 1 - sqrtf(1 - hazard[bin]) : hazard[bin];
        chance += lasting * h;
        room += lasting * width * (1 - h / 2);
        lasting *= 1 - h;
        if (chance > best * room) best = chance / room;
    }
    return best;
}

void pkvi_reuse_estimate(struct pkvi_reuse* reuse) {
    float all[BINS];
    reuse->run_pages =
        ((float)reuse->pages + ASSUMED_RUNS * ASSUMED_PAGES) / ((float)reuse->runs + ASSUMED_RUNS);
    judge_factors(reuse);
    estimate_factors(reuse);
    estimate_all(reuse, all);
    for (uint32_t level = 0; level < LEVELS; level++) {
        float hazard[BINS];
        estimate_level(reuse, level, all, hazard);
        for (uint32_t bin = 0; bin < BINS; bin++)
            reuse->worth[level][bin] = worth_from(hazard, bin);
    }
    memset(reuse->spells.lasting, 0, sizeof reuse->spells.lasting);
    memset(reuse->spells.kind_lasting, 0, sizeof reuse->spells.kind_lasting);
    reuse->version++;
}

float pkvi_reuse_worth(const struct pkvi_reuse* reuse, uint32_t level, uint32_t age) {
    return reuse->worth[level][bin_of(age)];
}

static void halve(float* values, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        values[i] /= 2;
}

/* What was seen since the last estimate stays as it is. */
static void fade_belief(struct pkvi_reuse* reuse) {
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        reuse->belief.reused_before[kind] -= reuse->spells.kind_reused[kind] / 2;
        reuse->belief.expected_before[kind] -= reuse->spells.kind_expected[kind] / 2;
    }
    halve(reuse->belief.gain, BELIEFS);
}

void pkvi_reuse_fade(struct pkvi_reuse* reuse, uint32_t memory) {
    if (++reuse->noted < memory) return;
    reuse->noted = 0;
    reuse->pages /= 2;
    reuse->runs /= 2;
    fade_belief(reuse);
    halve(reuse->spells.reused[0], LEVELS * BINS);
    halve(reuse->spells.ended[0], LEVELS * BINS);
    halve(reuse->spells.kind_reused, KINDS);
    halve(reuse->spells.kind_expected, KINDS);
}
