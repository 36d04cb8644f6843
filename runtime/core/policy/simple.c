/* simple.c - lru, slru, fifo, lfu, greedydual: policies that remember nothing of who has left. */
#include "core/policy/builtin.h"

/* ---- lru: the block that has been idle longest ------------------------------------------------ */

static void lru_rest(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_append(domain, 0, block);
}

static uint32_t lru_evict(struct pkvi_domain* domain) {
    return pkvi_domain_pop(domain, 0);
}

const struct pkvi_policy pkvi_policy_lru = {.name = "lru",
                                            .enter = pkvi_policy_no_enter,
                                            .hold = pkvi_domain_remove,
                                            .rest = lru_rest,
                                            .evict = lru_evict};

/* ---- slru: of those that were used once, then of the others ----------------------------------- *
 *
 * Segmented LRU (Karedla, Love, Wherry, 1994). The second list has room for four fifths; who is
 * pushed out of it starts anew on the first. */

enum { PROBATION, PROTECTED };

static void slru_rest(struct pkvi_domain* domain, uint32_t block) {
    const bool was_used = pkvi_candidate(domain, block)->uses > 1;
    pkvi_domain_append(domain, was_used ? PROTECTED : PROBATION, block);
    if (domain->lists[PROTECTED].count > (uint64_t)domain->capacity * 4 / 5)
        pkvi_domain_append(domain, PROBATION, pkvi_domain_pop(domain, PROTECTED));
}

static uint32_t slru_evict(struct pkvi_domain* domain) {
    return pkvi_domain_pop(domain, domain->lists[PROBATION].count > 0 ? PROBATION : PROTECTED);
}

const struct pkvi_policy pkvi_policy_slru = {.name = "slru",
                                             .enter = pkvi_policy_no_enter,
                                             .hold = pkvi_domain_remove,
                                             .rest = slru_rest,
                                             .evict = slru_evict};

/* ---- fifo: the block that became idle first, used since then or not --------------------------- *
 *
 * A block in use keeps its place. One that is found at the head in use gives it up, and is among
 * the first to go when it becomes idle. */

enum { QUEUE, OVERDUE };

static void fifo_enter(struct pkvi_domain* domain, uint32_t block,
                       const struct pkvi_ghost* was_ghost) {
    (void)was_ghost;
    pkvi_candidate(domain, block)->kind = QUEUE;
}

static void fifo_hold(struct pkvi_domain* domain, uint32_t block) {
    (void)domain;
    (void)block;
}

static void fifo_rest(struct pkvi_domain* domain, uint32_t block) {
    const struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    if (candidate->list == PKVI_UNLISTED) pkvi_domain_append(domain, candidate->kind, block);
}

static uint32_t fifo_evict(struct pkvi_domain* domain) {
    for (;;) {
        const uint32_t list = domain->lists[OVERDUE].count > 0 ? OVERDUE : QUEUE;
        const uint32_t block = pkvi_domain_pop(domain, list);
        struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
        if (candidate->is_idle) return block;
        candidate->list = PKVI_UNLISTED;
        candidate->kind = OVERDUE;
    }
}

const struct pkvi_policy pkvi_policy_fifo = {.name = "fifo",
                                             .keeps_place = true,
                                             .enter = fifo_enter,
                                             .hold = fifo_hold,
                                             .rest = fifo_rest,
                                             .evict = fifo_evict};

/* ---- lfu and greedydual: least key first ------------------------------------------------------ *
 *
 * The key of a block is the key of the last victim, when the block became idle, plus a weight from 1
 * to 63: what is not used ages, since the keys of others rise above its own. Keys of idle blocks lie
 * within 63 of the last victim's, so that a ring of 64 lists has one for each.
 *
 *   lfu         weight: how often it was used (LFU with dynamic ageing, Arlitt et al., 2000)
 *   greedydual  weight: what would have to be computed again if it went, in pages: its own and those
 *               behind it in its sequence (GreedyDual, Young, 1994) */

enum { RING = 64 };

static void ring_append(struct pkvi_domain* domain, uint32_t weight, uint32_t block) {
    if (weight > RING - 1) weight = RING - 1;
    pkvi_domain_append(domain, (domain->level + weight) % RING, block);
}

static uint32_t ring_evict(struct pkvi_domain* domain) {
    while (domain->lists[domain->level % RING].count == 0)
        domain->level++;
    return pkvi_domain_pop(domain, domain->level % RING);
}

static void lfu_rest(struct pkvi_domain* domain, uint32_t block) {
    ring_append(domain, pkvi_candidate(domain, block)->uses, block);
}

const struct pkvi_policy pkvi_policy_lfu = {.name = "lfu",
                                            .enter = pkvi_policy_no_enter,
                                            .hold = pkvi_domain_remove,
                                            .rest = lfu_rest,
                                            .evict = ring_evict};

static void greedydual_rest(struct pkvi_domain* domain, uint32_t block) {
    ring_append(domain, domain->run.pages, block);
}

const struct pkvi_policy pkvi_policy_greedydual = {.name = "greedydual",
                                                   .enter = pkvi_policy_no_enter,
                                                   .hold = pkvi_domain_remove,
                                                   .rest = greedydual_rest,
                                                   .evict = ring_evict};
