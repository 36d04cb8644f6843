/* builtin.h - the policies; each has a file of its own, but simple.c has those without history. */
#ifndef PKVI_CORE_BUILTIN_H
#define PKVI_CORE_BUILTIN_H

#include "core/policy/policy.h"

extern const struct pkvi_policy pkvi_policy_lru;
extern const struct pkvi_policy pkvi_policy_fifo;
extern const struct pkvi_policy pkvi_policy_lfu;
extern const struct pkvi_policy pkvi_policy_slru;
extern const struct pkvi_policy pkvi_policy_s3fifo;
extern const struct pkvi_policy pkvi_policy_arc;
extern const struct pkvi_policy pkvi_policy_greedydual;
extern const struct pkvi_policy pkvi_policy_reuse;
extern const struct pkvi_policy pkvi_policy_hook; /* has no name that a config may give */

/* Take a block off `list`, which its row does not say. */
void pkvi_domain_unlink(struct pkvi_domain* domain, uint32_t list, uint32_t block);

/* Tell an application with books of its own, if there is one. */
static inline void pkvi_offer_note(const struct pkvi_offer* offer, uint32_t event, uint32_t block,
                                   uint32_t other) {
    if (offer == NULL || offer->hook.note == NULL) return;
    offer->hook.note(offer->hook.ctx, event, block, other);
}

/* Nothing to note when a block enters. */
static inline void pkvi_policy_no_enter(struct pkvi_domain* domain, uint32_t block,
                                        const struct pkvi_ghost* was_ghost) {
    (void)domain;
    (void)block;
    (void)was_ghost;
}

#endif
