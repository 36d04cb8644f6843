/* hook.c - the application chooses, a batch for each reservation.
 *
 * It is offered idle blocks, least recently used first, and names victims; or it is told what becomes
 * of blocks, and names any that are idle. Names that are not those of idle blocks, among them blocks
 * that it names twice, are passed over; for what is missing the least recently used blocks go. So
 * nothing that it says does harm. */
#include "core/policy/builtin.h"

enum { NOT_OFFERED, OFFERED, NAMED }; /* kinds, while it is asked */

static void enter(struct pkvi_domain* domain, uint32_t block, const struct pkvi_ghost* was_ghost) {
    const struct pkvi_offer* offer = domain->shared->offer;
    (void)was_ghost;
    pkvi_offer_note(offer, PKV_BLOCK_CACHED, block, offer->pages[block]);
}

static void hold(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_remove(domain, block);
    pkvi_offer_note(domain->shared->offer, PKV_BLOCK_BUSY, block, 0);
}

static void rest(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_append(domain, 0, block);
    pkvi_offer_note(domain->shared->offer, PKV_BLOCK_IDLE, block, 0);
}

/* A block that was not offered may be in use, hidden, or of another domain. */
static bool may_name(const struct pkvi_domain* domain, uint32_t block) {
    if (block >= domain->shared->block_count) return false;
    const struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    if (candidate->kind != NOT_OFFERED) return candidate->kind == OFFERED;
    if (!domain->shared->offer->names_any) return false;
    return candidate->is_idle && candidate->list != PKVI_UNLISTED;
}

/* Keep the names of blocks that may go, each once. */
static uint32_t keep_sound(const struct pkvi_domain* domain, uint32_t named) {
    uint32_t* names = domain->shared->offer->names;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < named; i++) {
        const uint32_t block = names[i];
        if (!may_name(domain, block)) continue;
        pkvi_candidate(domain, block)->kind = NAMED;
        names[kept++] = block;
    }
    return kept;
}

static void prepare(struct pkvi_domain* domain, uint32_t count) {
    const struct pkvi_shared* shared = domain->shared;
    struct pkvi_offer* offer = shared->offer;
    uint32_t offered = 0;
    uint32_t block = domain->lists[0].head;
    for (; block != PKVI_NONE && offered < offer->hook.offer_max; offered++) {
        struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
        candidate->kind = OFFERED;
        offer->candidates[offered] = (pkv_candidate){.block = block,
                                                     .page = offer->pages[block],
                                                     .uses = candidate->uses,
                                                     .age = shared->clock - candidate->rested};
        block = candidate->next;
    }
    offer->used = 0;
    offer->named =
        offer->hook.choose(offer->hook.ctx, offer->candidates, offered, count, offer->names);
    if (offer->named > count) offer->named = 0; /* nonsense: believe none of it */
    offer->named = keep_sound(domain, offer->named);
    for (uint32_t i = 0; i < offer->named; i++)
        pkvi_candidate(domain, offer->names[i])->kind = NOT_OFFERED;
    while (offered-- > 0)
        pkvi_candidate(domain, offer->candidates[offered].block)->kind = NOT_OFFERED;
}

static uint32_t evict(struct pkvi_domain* domain) {
    struct pkvi_offer* offer = domain->shared->offer;
    if (offer->used < offer->named) {
        const uint32_t block = offer->names[offer->used++];
        pkvi_domain_remove(domain, block);
        return block;
    }
    offer->fallbacks++;
    return pkvi_domain_pop(domain, 0);
}

const struct pkvi_policy pkvi_policy_hook = {.name = "hook",
                                             .offers = true,
                                             .enter = enter,
                                             .hold = hold,
                                             .rest = rest,
                                             .prepare = prepare,
                                             .evict = evict};
