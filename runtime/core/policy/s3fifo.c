/* s3fifo.c - S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, 2023): a small queue, a main queue, ghosts.
 *
 * A block starts in the small queue, which has a tenth of the room; when it gets to the head and was
 * used meanwhile it moves to the main queue, and else it goes. In the main queue each use, up to
 * three, buys one more turn. Who comes back as a ghost of the small queue starts in the main one.
 *
 * Blocks in use keep their places; one that is found at a head in use joins the main queue when it
 * becomes idle. A block's `kind` counts its uses, with MAIN added for who starts in the main
 * queue. */
#include "core/policy/builtin.h"

enum { SMALL, MAIN_QUEUE, USES_MAX = 3, MAIN = 16 };

static void enter(struct pkvi_domain* domain, uint32_t block, const struct pkvi_ghost* was_ghost) {
    const bool is_known = was_ghost != NULL && was_ghost->list == SMALL;
    pkvi_candidate(domain, block)->kind = is_known ? MAIN : 0;
}

static void hold(struct pkvi_domain* domain, uint32_t block) {
    struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    if (candidate->kind % MAIN < USES_MAX) candidate->kind++;
}

static void rest(struct pkvi_domain* domain, uint32_t block) {
    const struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    if (candidate->list != PKVI_UNLISTED) return;
    pkvi_domain_append(domain, candidate->kind >= MAIN ? MAIN_QUEUE : SMALL, block);
}

static uint32_t next_list(const struct pkvi_domain* domain) {
    const uint32_t small = domain->lists[SMALL].count;
    if (domain->lists[MAIN_QUEUE].count == 0) return SMALL;
    return small > domain->capacity / 10 ? SMALL : MAIN_QUEUE;
}

static uint32_t evict(struct pkvi_domain* domain) {
    for (;;) {
        const uint32_t list = next_list(domain);
        const uint32_t block = pkvi_domain_pop(domain, list);
        struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
        const uint32_t uses = candidate->kind % MAIN;
        if (!candidate->is_idle) {
            candidate->list = PKVI_UNLISTED;
            candidate->kind = (MAIN + uses) & PKVI_KIND_MAX;
        } else if (uses == 0) {
            return block;
        } else {
            candidate->kind = list == SMALL ? MAIN : (MAIN + uses - 1) & PKVI_KIND_MAX;
            pkvi_domain_append(domain, MAIN_QUEUE, block);
        }
    }
}

const struct pkvi_policy pkvi_policy_s3fifo = {.name = "s3fifo",
                                               .has_ghosts = true,
                                               .keeps_place = true,
                                               .enter = enter,
                                               .hold = hold,
                                               .rest = rest,
                                               .evict = evict};
