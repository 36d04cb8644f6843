/* learned.c - the policy "reuse", the default: the block that is worth least goes first, by what was
 * learned of when blocks of its kind are asked for again (reuse.h).
 *
 * A block is worth at least as much as those behind it, since who asks for them asks for it: in a
 * sequence, levels never rise from a page to the next. Without that, a page could go before those
 * that cannot be found without it.
 *
 * Each level of reuse has up to sixteen lists, cohorts of blocks that became idle about the same
 * time, oldest first; older ones span more time. A cohort's blocks count as being of its middle age.
 * When a new one is needed, the two neighbours that differ least for their age become one.
 *
 *   level 0   [ 900 .. 7100 ][ 7200 .. 8800 ] ... [ 9990 .. 9999 ]   clock when they became idle
 *   level 1   ...
 *
 * A block's list is found by its level, in `list` of its row, and the time.
 *
 * Cost    an event and a victim: a look at up to 16 small records, or now and then at all 224;
 *         scores are renewed, and reuse estimated anew, as evictions go on. */
#include "core/policy/builtin.h"

enum {
    COHORTS = 16,              /* of a level */
    COHORTS_PER_CAPACITY = 16, /* a new one spans a 16th of the capacity in asked blocks */
    SCORES_PER_CAPACITY = 100, /* times scores are renewed while as many blocks go as there are */
    SWEEPS_PER_CAPACITY = 16,  /* times reuse is estimated meanwhile */
    EVICTIONS_PER_SWEEP = 512, /* but not more often than that */
    MEMORY = 2 /* evictions after which experience counts half, for each ghost that is kept */
};

_Static_assert(PKVI_REUSE_KINDS - 1 <= PKVI_KIND_MAX, "rows and ghosts have room for a kind");
_Static_assert(PKVI_REUSE_LEVELS - 1 <= PKVI_GHOST_LIST_MAX, "ghosts have room for a level");
_Static_assert(PKVI_REUSE_LEVELS* COHORTS <= PKVI_DOMAIN_LISTS, "each cohort has a list");

static uint32_t first_of(uint32_t level) {
    return level * COHORTS;
}

static uint32_t age_of(const struct pkvi_domain* domain, const struct pkvi_cohort* cohort) {
    return domain->shared->clock - cohort->end + (cohort->end - cohort->start) / 2;
}

static void score(struct pkvi_domain* domain, uint32_t level, uint32_t cohort) {
    struct pkvi_cohort* c = &domain->cohorts[first_of(level) + cohort];
    c->score = pkvi_reuse_worth(domain->shared->reuse, level, age_of(domain, c));
}

static void score_all(struct pkvi_domain* domain) {
    for (uint32_t level = 0; level < PKVI_REUSE_LEVELS; level++)
        for (uint32_t i = 0; i < domain->cohort_count[level]; i++)
            score(domain, level, i);
    domain->until_rescore = domain->capacity / SCORES_PER_CAPACITY;
    domain->version = domain->shared->reuse->version;
    domain->least = PKVI_NONE;
}

/* ---- Cohorts --------------------------------------------------------------------------------- */

static void close_gap(struct pkvi_domain* domain, uint32_t level, uint32_t cohort) {
    const uint32_t first = first_of(level);
    const uint32_t last = --domain->cohort_count[level];
    for (uint32_t i = cohort; i < last; i++) {
        domain->lists[first + i] = domain->lists[first + i + 1];
        domain->cohorts[first + i] = domain->cohorts[first + i + 1];
    }
    domain->lists[first + last] =
        (struct pkvi_list){.head = PKVI_NONE, .tail = PKVI_NONE, .count = 0};
}

static void drop_empty(struct pkvi_domain* domain, uint32_t level) {
    for (uint32_t i = domain->cohort_count[level]; i-- > 0;)
        if (domain->lists[first_of(level) + i].count == 0) close_gap(domain, level, i);
}

/* Append the list of the next cohort, which is not empty, to that of this one, which is not
 * either. */
static void join_next(struct pkvi_domain* domain, uint32_t level, uint32_t cohort) {
    struct pkvi_list* list = &domain->lists[first_of(level) + cohort];
    struct pkvi_cohort* c = &domain->cohorts[first_of(level) + cohort];
    pkvi_candidate(domain, list[0].tail)->next = list[1].head;
    pkvi_candidate(domain, list[1].head)->previous = list[0].tail;
    list[1].head = list[0].head;
    list[1].count += list[0].count;
    c[1].start = c[0].start;
    close_gap(domain, level, cohort);
    score(domain, level, cohort);
}

/* Which neighbours would span least of their age? */
static uint32_t closest_pair(const struct pkvi_domain* domain, uint32_t level) {
    const struct pkvi_cohort* c = &domain->cohorts[first_of(level)];
    const uint32_t shortest = domain->capacity / COHORTS_PER_CAPACITY + 1;
    uint32_t best = 0;
    float least = 0;
    for (uint32_t i = 0; i + 1 < domain->cohort_count[level]; i++) {
        const float span = (float)(c[i + 1].end - c[i].start);
        const float age = (float)(domain->shared->clock - c[i + 1].end + shortest);
        if (i == 0 || span / age < least) {
            least = span / age;
            best = i;
        }
    }
    return best;
}

static void open_cohort(struct pkvi_domain* domain, uint32_t level) {
    drop_empty(domain, level);
    if (domain->cohort_count[level] == COHORTS)
        join_next(domain, level, closest_pair(domain, level));
    const uint32_t cohort = domain->cohort_count[level]++;
    const uint32_t now = domain->shared->clock;
    domain->cohorts[first_of(level) + cohort] = (struct pkvi_cohort){.start = now, .end = now};
    score(domain, level, cohort);
    domain->least = PKVI_NONE; /* lists have moved, and this one may be it */
}

static uint32_t newest(struct pkvi_domain* domain, uint32_t level) {
    const uint32_t span = domain->capacity / COHORTS_PER_CAPACITY;
    const uint32_t count = domain->cohort_count[level];
    const bool is_old =
        count == 0 ||
        domain->shared->clock - domain->cohorts[first_of(level) + count - 1].start > span;
    if (is_old) open_cohort(domain, level);
    return first_of(level) + domain->cohort_count[level] - 1;
}

static uint32_t cohort_of(const struct pkvi_domain* domain, uint32_t block) {
    const struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    const uint32_t first = first_of(candidate->list);
    uint32_t i = domain->cohort_count[candidate->list] - 1;
    const uint32_t now = domain->shared->clock;
    while (i > 0 && now - candidate->rested > now - domain->cohorts[first + i].start)
        i--;
    return first + i;
}

/* ---- Events ---------------------------------------------------------------------------------- */

static void enter(struct pkvi_domain* domain, uint32_t block, const struct pkvi_ghost* was_ghost) {
    (void)block;
    if (was_ghost == NULL) return;
    const struct pkvi_shared* shared = domain->shared;
    pkvi_reuse_note(shared->reuse, was_ghost->kind, was_ghost->list,
                    shared->clock - was_ghost->rested, true);
}

static void end_spell(struct pkvi_domain* domain, uint32_t block, bool is_reuse) {
    const struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    const struct pkvi_shared* shared = domain->shared;
    pkvi_domain_unlink(domain, cohort_of(domain, block), block);
    pkvi_reuse_note(shared->reuse, candidate->kind, candidate->list,
                    shared->clock - candidate->rested, is_reuse);
}

static void hold(struct pkvi_domain* domain, uint32_t block) {
    end_spell(domain, block, true);
}

static void leave(struct pkvi_domain* domain, uint32_t block) {
    end_spell(domain, block, false);
}

static uint32_t kind_of(const struct pkvi_domain* domain, const struct pkvi_candidate* candidate) {
    const struct pkvi_run* run = &domain->run;
    if (run->pages == 1) return PKVI_REUSE_LAST;
    return pkvi_reuse_kind(candidate->uses, run->fresh, run->seen);
}

/* Pages come last one first. */
static uint32_t level_in_run(struct pkvi_domain* domain, uint32_t kind) {
    struct pkvi_run* run = &domain->run;
    const uint32_t own = pkvi_reuse_level(domain->shared->reuse, kind);
    if (own > run->level) run->level = own;
    return run->level;
}

static void rest(struct pkvi_domain* domain, uint32_t block) {
    struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    const uint32_t kind = kind_of(domain, candidate);
    const uint32_t level = level_in_run(domain, kind);
    const uint32_t list = newest(domain, level);
    pkvi_domain_append(domain, list, block);
    domain->cohorts[list].end = domain->shared->clock;
    candidate->kind = kind & PKVI_KIND_MAX;
    candidate->list = (uint8_t)level;
    pkvi_reuse_note_page(domain->shared->reuse, kind == PKVI_REUSE_LAST);
    if (domain->least == PKVI_NONE) return;
    if (domain->cohorts[list].score < domain->cohorts[domain->least].score) domain->least = list;
}

/* ---- Victims --------------------------------------------------------------------------------- */

static void note_idle(struct pkvi_domain* domain) {
    for (uint32_t level = 0; level < PKVI_REUSE_LEVELS; level++)
        for (uint32_t i = 0; i < domain->cohort_count[level]; i++) {
            const uint32_t list = first_of(level) + i;
            pkvi_reuse_note_lasting(domain->shared->reuse, PKVI_REUSE_KINDS, level,
                                    age_of(domain, &domain->cohorts[list]),
                                    domain->lists[list].count);
        }
}

/* Look at some more ghosts; when all have been seen, estimate. Blocks of other domains that are idle
 * are not counted. */
static void learn(struct pkvi_domain* domain) {
    struct pkvi_shared* shared = domain->shared;
    struct pkvi_reuse* reuse = shared->reuse;
    const struct pkvi_ghosts* ghosts = shared->ghosts;
    uint32_t evictions = domain->capacity / SWEEPS_PER_CAPACITY;
    if (evictions < EVICTIONS_PER_SWEEP) evictions = EVICTIONS_PER_SWEEP;
    for (uint32_t n = ghosts->count / evictions + 1; n > 0 && reuse->swept < ghosts->count; n--) {
        const struct pkvi_ghost* ghost = &ghosts->entries[reuse->swept++];
        if (ghost->uses > 0)
            pkvi_reuse_note_lasting(reuse, ghost->kind, ghost->list, shared->clock - ghost->rested,
                                    1);
    }
    pkvi_reuse_fade(reuse, ghosts->count * MEMORY);
    if (reuse->swept < ghosts->count) return;
    reuse->swept = 0;
    note_idle(domain);
    pkvi_reuse_estimate(reuse);
}

static uint32_t least_list(const struct pkvi_domain* domain) {
    uint32_t best = PKVI_NONE;
    for (uint32_t level = 0; level < PKVI_REUSE_LEVELS; level++)
        for (uint32_t i = 0; i < domain->cohort_count[level]; i++) {
            const uint32_t list = first_of(level) + i;
            if (domain->lists[list].count == 0) continue;
            if (best == PKVI_NONE || domain->cohorts[list].score < domain->cohorts[best].score)
                best = list;
        }
    return best;
}

static uint32_t evict(struct pkvi_domain* domain) {
    learn(domain);
    const bool is_stale = domain->version != domain->shared->reuse->version;
    if (is_stale || domain->until_rescore-- == 0) score_all(domain);
    if (domain->least == PKVI_NONE || domain->lists[domain->least].count == 0)
        domain->least = least_list(domain);
    return pkvi_domain_pop(domain, domain->least);
}

const struct pkvi_policy pkvi_policy_reuse = {.name = "reuse",
                                              .has_ghosts = true,
                                              .learns = true,
                                              .enter = enter,
                                              .hold = hold,
                                              .rest = rest,
                                              .leave = leave,
                                              .list_of = cohort_of,
                                              .evict = evict};
