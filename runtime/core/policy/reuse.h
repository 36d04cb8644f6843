/* reuse.h - when are blocks asked for again? Learned while the cache runs.
 *
 *   age     blocks that requests have asked for since this one became idle; in bins of half an
 *           octave
 *   kind    what is known of a block when it becomes idle: how often it was used, how much of its
 *           sequence had never been seen, and how much had; the last page of a sequence is a kind of
 *           its own, since the next turn mostly changes it
 *   level   kinds that are reused about equally often
 *
 * For each level the hazard is estimated: how probable is reuse at this age, of blocks that have
 * got so old without. Blocks that are idle, and ghosts, count as not reused so far, and those that
 * were forgotten as not reused until then (Kaplan and Meier, 1958). Few data are completed by many:
 * a level's hazard starts as that of all, times a factor; a kind's factor, which decides on its
 * level, is how often it was reused by how often it would have been if it were like all (Cox, 1972).
 *
 * Two precautions against learning what is not so. Blocks of one request share its fate, so that
 * data count by requests: what is assumed weighs as much as so many requests of the average length.
 * And factors are believed as far as they have proved right: of the powers 0, 1/4 .. 1 of all
 * factors the one counts under which what was then seen was most probable. Where kinds do not
 * matter, as in sessions that ask with all that was before, that is 0, and age alone decides.
 *
 * From the hazard follows what a block is worth: the best that it can be expected to earn, in hits
 * for the room that it takes and the time until then, over all times to give it up (Gittins, 1979).
 * It falls with age where blocks that were not used soon are not used at all, as least recently
 * used has it; and it rises where reuse takes its time, as a person who reads before asking on.
 *
 * Threads the cache's lock. */
#ifndef PKVI_CORE_REUSE_H
#define PKVI_CORE_REUSE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PKVI_REUSE_BINS = 48,
    PKVI_REUSE_LEVELS = 14,
    PKVI_REUSE_USES = 7,  /* 1, 2, 3, up to 5, 8, 15, more */
    PKVI_REUSE_FRESH = 5, /* pages never seen: under 8, 16, 32, 64, more */
    PKVI_REUSE_SEEN = 3,  /* pages seen: under 2, 16, more */
    PKVI_REUSE_LAST = 0,  /* kind of the last page */
    PKVI_REUSE_KINDS = 1 + PKVI_REUSE_USES * PKVI_REUSE_FRESH * PKVI_REUSE_SEEN,
    PKVI_REUSE_BELIEFS = 5, /* powers of factors */
};

/* Idle spells that ended, and that go on, by age. */
struct pkvi_spells {
    float reused[PKVI_REUSE_LEVELS][PKVI_REUSE_BINS];
    float ended[PKVI_REUSE_LEVELS][PKVI_REUSE_BINS]; /* without reuse, as far as was seen */
    float lasting[PKVI_REUSE_LEVELS][PKVI_REUSE_BINS];
    float kind_reused[PKVI_REUSE_KINDS];
    float kind_expected[PKVI_REUSE_KINDS];
    float kind_lasting[PKVI_REUSE_KINDS];
};

/* How well each power of the factors has said what came next: logarithms of probability, by
 * requests, beside that of power 0. */
struct pkvi_belief {
    float gain[PKVI_REUSE_BELIEFS];
    uint32_t power;                        /* the best, in quarters */
    float reused_before[PKVI_REUSE_KINDS]; /* as of the last estimate */
    float expected_before[PKVI_REUSE_KINDS];
};

struct pkvi_reuse {
    struct pkvi_spells spells;
    struct pkvi_belief belief;
    float expected[PKVI_REUSE_BINS + 1]; /* hazard of all, summed up to a bin */
    float factor[PKVI_REUSE_KINDS];
    uint8_t level[PKVI_REUSE_KINDS]; /* that follows from it, as far as it is believed */
    float worth[PKVI_REUSE_LEVELS][PKVI_REUSE_BINS];
    float run_pages; /* of the average request */
    uint64_t pages;  /* that became idle, and the requests that let go of them */
    uint64_t runs;
    uint32_t version; /* counts the estimates */
    uint32_t swept;   /* ghosts seen since the last one */
    uint32_t noted;   /* spells noted since the last time that old ones were given less weight */
};

/* Nothing is known yet. */
void pkvi_reuse_init(struct pkvi_reuse* reuse);

/* The class of so many pages that had been seen. */
static inline uint32_t pkvi_reuse_seen(uint32_t pages) {
    return pages < 2 ? 0 : pages < 16 ? 1 : 2;
}

uint32_t pkvi_reuse_kind(uint32_t uses, uint32_t fresh_pages, uint32_t seen);

static inline uint32_t pkvi_reuse_level(const struct pkvi_reuse* reuse, uint32_t kind) {
    return reuse->level[kind];
}

/* An idle spell has ended at this age, by reuse or not. */
void pkvi_reuse_note(struct pkvi_reuse* reuse, uint32_t kind, uint32_t level, uint32_t age,
                     bool is_reuse);

/* `count` spells of this age go on. A kind of PKVI_REUSE_KINDS is unknown. */
void pkvi_reuse_note_lasting(struct pkvi_reuse* reuse, uint32_t kind, uint32_t level, uint32_t age,
                             uint32_t count);

/* A page has become idle, the last one of its request or not. */
void pkvi_reuse_note_page(struct pkvi_reuse* reuse, bool is_last);

/* Estimate anew; what lasts has to be noted again for the next time. */
void pkvi_reuse_estimate(struct pkvi_reuse* reuse);

/* What a block of `level` is worth at this age. */
float pkvi_reuse_worth(const struct pkvi_reuse* reuse, uint32_t level, uint32_t age);

/* Spells that end are halved in weight after each `memory` of them. */
void pkvi_reuse_fade(struct pkvi_reuse* reuse, uint32_t memory);

#endif
