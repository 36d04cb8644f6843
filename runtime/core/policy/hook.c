/* hook.c - the application chooses, a batch for each reservation.
 *
 * It is offered idle blocks, least recently used first, and names victims. Names that are not those
 * of idle blocks, among them blocks that it names twice, are passed over; for what is missing the
 * least recently used blocks go. So nothing that it says does harm. */
#include "core/policy/builtin.h"

static void rest(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_append(domain, 0, block);
}

/* Keep the names of blocks that were offered, each once; `kind` marks them. Others may be in use, or
 * of another domain. */
static uint32_t keep_offered(const struct pkvi_domain* domain, uint32_t named) {
    uint32_t* names = domain->shared->offer->names;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < named; i++) {
        const uint32_t block = names[i];
        if (block >= domain->shared->block_count || !pkvi_candidate(domain, block)->kind) continue;
        pkvi_candidate(domain, block)->kind = 0;
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
        candidate->kind = 1;
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
    offer->named = keep_offered(domain, offer->named);
    while (offered-- > 0)
        pkvi_candidate(domain, offer->candidates[offered].block)->kind = 0;
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
                                             .enter = pkvi_policy_no_enter,
                                             .hold = pkvi_domain_remove,
                                             .rest = rest,
                                             .prepare = prepare,
                                             .evict = evict};
