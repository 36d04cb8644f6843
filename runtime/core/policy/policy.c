/* policy.c - what all policies share: rows, lists, runs; see policy.h. */
#include "core/policy/policy.h"

#include "core/policy/builtin.h"
#include <assert.h>
#include <string.h>

/* The first is the default. */
static const struct pkvi_policy* const policies[] = {
    &pkvi_policy_reuse, &pkvi_policy_lru,    &pkvi_policy_fifo, &pkvi_policy_lfu,
    &pkvi_policy_slru,  &pkvi_policy_s3fifo, &pkvi_policy_arc,  &pkvi_policy_greedydual,
};

const struct pkvi_policy* pkvi_policy_of(const pkv_config* config) {
    if (config->eviction_hook.choose != NULL) return &pkvi_policy_hook;
    if (config->eviction == NULL) return policies[0];
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        if (strcmp(policies[i]->name, config->eviction) == 0) return policies[i];
    return NULL;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static int open_offer(struct pkvi_shared* shared, struct pkvi_mem* mem, uint32_t blocks,
                      const pkv_config* config) {
    const pkv_eviction_hook* hook = &config->eviction_hook;
    PKVI_TRY(pkvi_mem_take(mem, 1, sizeof *shared->offer, (void**)&shared->offer));
    struct pkvi_offer* offer = shared->offer;
    offer->hook = *hook;
    offer->names_any = hook->note != NULL && config->tenants_max == 0;
    if (hook->offer_max == 0 || hook->offer_max > blocks) offer->hook.offer_max = blocks;
    if (hook->offer_max == PKV_OFFER_NONE) offer->hook.offer_max = 0;
    PKVI_TRY(pkvi_mem_take(mem, offer->hook.offer_max, sizeof *offer->candidates,
                           (void**)&offer->candidates));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *offer->pages, (void**)&offer->pages));
    return pkvi_mem_take(mem, blocks, sizeof *offer->names, (void**)&offer->names);
}

int pkvi_shared_open(struct pkvi_shared* shared, struct pkvi_mem* mem, uint32_t blocks,
                     const struct pkvi_policy* policy, const pkv_config* config) {
    *shared = (struct pkvi_shared){.block_count = blocks};
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *shared->candidates, (void**)&shared->candidates));
    if (policy->has_ghosts) {
        PKVI_TRY(pkvi_mem_take(mem, 1, sizeof *shared->ghosts, (void**)&shared->ghosts));
        PKVI_TRY(pkvi_ghosts_open(shared->ghosts, mem, blocks));
    }
    if (policy->learns) {
        PKVI_TRY(pkvi_mem_take(mem, 1, sizeof *shared->reuse, (void**)&shared->reuse));
        pkvi_reuse_init(shared->reuse);
    }
    return policy->offers ? open_offer(shared, mem, blocks, config) : PKV_OK;
}

void pkvi_shared_close(struct pkvi_shared* shared, struct pkvi_mem* mem) {
    if (shared->offer != NULL) {
        pkvi_mem_give(mem, shared->offer->names);
        pkvi_mem_give(mem, shared->offer->pages);
        pkvi_mem_give(mem, shared->offer->candidates);
    }
    pkvi_mem_give(mem, shared->offer);
    pkvi_mem_give(mem, shared->reuse);
    if (shared->ghosts != NULL) pkvi_ghosts_close(shared->ghosts, mem);
    pkvi_mem_give(mem, shared->ghosts);
    pkvi_mem_give(mem, shared->candidates);
}

void pkvi_domain_init(struct pkvi_domain* domain, const struct pkvi_policy* policy,
                      struct pkvi_shared* shared, uint32_t capacity) {
    *domain = (struct pkvi_domain){
        .policy = policy, .shared = shared, .levels = domain->levels, .capacity = capacity};
    domain->run.page = PKVI_NONE;
    for (uint32_t i = 0; i < PKVI_DOMAIN_LISTS; i++)
        domain->lists[i] = (struct pkvi_list){.head = PKVI_NONE, .tail = PKVI_NONE};
}

/* ---- Events ---------------------------------------------------------------------------------- */

static uint32_t at_most(uint32_t value, uint32_t limit) {
    return value < limit ? value : limit;
}

/* Which pages up to this one somebody had asked for before. */
static void note_origin(const struct pkvi_domain* domain, struct pkvi_candidate* candidate,
                        uint32_t parent, const struct pkvi_origin* origin, bool was_seen) {
    const uint32_t pages = origin->page + 1;
    if (!was_seen && parent != PKVI_NONE && origin->page > origin->matched) {
        const struct pkvi_candidate* before = pkvi_candidate(domain, parent);
        candidate->fresh = at_most(before->fresh + 1U, PKVI_FRESH_MAX) & PKVI_FRESH_MAX;
        candidate->seen = before->seen;
        return;
    }
    const uint32_t seen = was_seen ? pages : origin->matched;
    const uint32_t fresh = pages > seen ? pages - seen : 0;
    candidate->fresh = at_most(fresh, PKVI_FRESH_MAX) & PKVI_FRESH_MAX;
    candidate->seen = pkvi_reuse_seen(seen) & 3;
}

void pkvi_domain_enter(struct pkvi_domain* domain, uint32_t block, uint32_t parent,
                       uint32_t identity, const struct pkvi_origin* origin) {
    struct pkvi_shared* shared = domain->shared;
    struct pkvi_ghost ghost = {.uses = 0};
    if (shared->ghosts != NULL) ghost = pkvi_ghosts_take(shared->ghosts, identity);
    shared->clock++;
    struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    *candidate = (struct pkvi_candidate){
        .uses = at_most(ghost.uses + 1U, PKVI_USES_MAX) & PKVI_USES_MAX, .list = PKVI_UNLISTED};
    note_origin(domain, candidate, parent, origin, ghost.uses > 0);
    if (shared->offer != NULL) shared->offer->pages[block] = origin->page;
    domain->policy->enter(domain, block, ghost.uses > 0 ? &ghost : NULL);
}

void pkvi_domain_forget(struct pkvi_domain* domain, uint32_t block) {
    struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    if (domain->policy->keeps_place && candidate->list != PKVI_UNLISTED)
        pkvi_domain_remove(domain, block);
    candidate->list = PKVI_UNLISTED;
}

void pkvi_domain_gone(struct pkvi_domain* domain, uint32_t block) {
    pkvi_offer_note(domain->shared->offer, PKV_BLOCK_GONE, block, 0);
}

void pkvi_domain_use(struct pkvi_domain* domain, uint32_t block) {
    struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    pkvi_offer_note(domain->shared->offer, PKV_BLOCK_USED, block, 0);
    domain->shared->clock++;
    candidate->uses = at_most(candidate->uses + 1U, PKVI_USES_MAX) & PKVI_USES_MAX;
}

/* A block stops being idle; says whether it was hidden from the policy. `is_used`: it is in use. */
static bool end_idle(struct pkvi_domain* domain, uint32_t block, bool is_used) {
    struct pkvi_retention* retention = &domain->shared->retention;
    pkvi_candidate(domain, block)->is_idle = 0;
    domain->idle_count--;
    return pkvi_is_retained(retention, block) &&
           pkvi_retain_leave(retention, domain->levels, block, is_used);
}

void pkvi_domain_hold(struct pkvi_domain* domain, uint32_t block) {
    if (!end_idle(domain, block, true)) domain->policy->hold(domain, block);
}

static void leave_policy(struct pkvi_domain* domain, uint32_t block) {
    if (domain->policy->leave != NULL)
        domain->policy->leave(domain, block);
    else
        pkvi_domain_remove(domain, block);
    pkvi_candidate(domain, block)->list = PKVI_UNLISTED;
}

void pkvi_domain_leave(struct pkvi_domain* domain, uint32_t block) {
    if (!end_idle(domain, block, false)) leave_policy(domain, block);
}

static void lengthen_run(struct pkvi_domain* domain, const struct pkvi_candidate* candidate,
                         uint32_t page) {
    struct pkvi_run* run = &domain->run;
    const bool goes_on = run->page != PKVI_NONE && page + 1 == run->page;
    if (!goes_on) *run = (struct pkvi_run){.fresh = candidate->fresh, .seen = candidate->seen};
    run->page = page;
    run->pages++;
}

void pkvi_domain_rest(struct pkvi_domain* domain, uint32_t block, uint32_t page) {
    struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    struct pkvi_retention* retention = &domain->shared->retention;
    candidate->is_idle = 1;
    domain->idle_count++;
    lengthen_run(domain, candidate, page);
    if (pkvi_is_retained(retention, block) && pkvi_retain_rest(retention, domain->levels, block))
        pkvi_domain_forget(domain, block);
    else
        domain->policy->rest(domain, block);
    candidate->rested = domain->shared->clock;
}

void pkvi_domain_lapse(struct pkvi_domain* domain, uint32_t block, uint32_t page) {
    end_idle(domain, block, false);
    pkvi_retain_lapse(&domain->shared->retention, block);
    pkvi_domain_rest(domain, block, page);
}

/* ---- Victims --------------------------------------------------------------------------------- */

/* Idle blocks that the policy sees. */
static uint32_t seen_count(const struct pkvi_domain* domain) {
    return domain->idle_count - (domain->levels != NULL ? domain->levels->count : 0);
}

static bool has_lower(const struct pkvi_domain* domain) {
    return domain->levels != NULL && domain->levels->lower_count > 0;
}

void pkvi_domain_prepare(struct pkvi_domain* domain, uint32_t count) {
    assert(count <= domain->idle_count);
    if (domain->policy->prepare == NULL) return;
    if (has_lower(domain)) count -= at_most(domain->levels->lower_count, count);
    const uint32_t chosen = at_most(seen_count(domain), count);
    if (chosen > 0) domain->policy->prepare(domain, chosen);
}

uint32_t pkvi_domain_evict(struct pkvi_domain* domain) {
    const bool is_hidden = has_lower(domain) || seen_count(domain) == 0;
    const uint32_t block = is_hidden ? pkvi_retain_first(&domain->shared->retention, domain->levels)
                                     : domain->policy->evict(domain);
    assert(pkvi_candidate(domain, block)->is_idle);
    end_idle(domain, block, false);
    return block;
}

/* The place of a ghost that is forgotten says how long it was not reused. A block whose parent went
 * first can be computed anew before it goes itself: what learns counts both, for others the later
 * ghost replaces the earlier one. */
void pkvi_domain_remember(struct pkvi_domain* domain, uint32_t block, uint32_t identity) {
    struct pkvi_shared* shared = domain->shared;
    if (shared->ghosts == NULL) return;
    const struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    if (candidate->list == PKVI_UNLISTED) return; /* the policy has never seen it there */
    if (shared->reuse == NULL) pkvi_ghosts_take(shared->ghosts, identity);
    const struct pkvi_ghost ghost = {
        .rested = candidate->rested,
        .uses = at_most(candidate->uses, PKVI_GHOST_USES_MAX) & PKVI_GHOST_USES_MAX,
        .kind = candidate->kind,
        .list = at_most(candidate->list, PKVI_GHOST_LIST_MAX) & PKVI_GHOST_LIST_MAX};
    const struct pkvi_ghost old = pkvi_ghosts_put(shared->ghosts, identity, ghost);
    if (shared->reuse != NULL && old.uses > 0)
        pkvi_reuse_note(shared->reuse, old.kind, old.list, shared->clock - old.rested, false);
}

/* ---- Lists ----------------------------------------------------------------------------------- */

void pkvi_domain_append(struct pkvi_domain* domain, uint32_t list, uint32_t block) {
    struct pkvi_list* l = &domain->lists[list];
    struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    candidate->list = (uint8_t)list;
    candidate->previous = l->tail;
    candidate->next = PKVI_NONE;
    if (l->tail == PKVI_NONE)
        l->head = block;
    else
        pkvi_candidate(domain, l->tail)->next = block;
    l->tail = block;
    l->count++;
}

void pkvi_domain_unlink(struct pkvi_domain* domain, uint32_t list, uint32_t block) {
    struct pkvi_list* l = &domain->lists[list];
    const struct pkvi_candidate* candidate = pkvi_candidate(domain, block);
    if (candidate->previous == PKVI_NONE)
        l->head = candidate->next;
    else
        pkvi_candidate(domain, candidate->previous)->next = candidate->next;
    if (candidate->next == PKVI_NONE)
        l->tail = candidate->previous;
    else
        pkvi_candidate(domain, candidate->next)->previous = candidate->previous;
    l->count--;
}

void pkvi_domain_remove(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_unlink(domain, pkvi_candidate(domain, block)->list, block);
}

uint32_t pkvi_domain_pop(struct pkvi_domain* domain, uint32_t list) {
    const uint32_t block = domain->lists[list].head;
    pkvi_domain_unlink(domain, list, block);
    return block;
}

void pkvi_domain_move(struct pkvi_domain* domain, uint32_t from, uint32_t to) {
    struct pkvi_candidate* candidates = domain->shared->candidates;
    struct pkvi_candidate* moved = &candidates[to];
    *moved = candidates[from];
    if (domain->shared->offer != NULL)
        domain->shared->offer->pages[to] = domain->shared->offer->pages[from];
    pkvi_offer_note(domain->shared->offer, PKV_BLOCK_MOVED, from, to);
    candidates[from] = (struct pkvi_candidate){.list = PKVI_UNLISTED};
    if (moved->list == PKVI_UNLISTED) return; /* hidden, or in use */
    if (!moved->is_idle && !domain->policy->keeps_place) return;
    const bool has_own = domain->policy->list_of != NULL;
    struct pkvi_list* list =
        &domain->lists[has_own ? domain->policy->list_of(domain, to) : moved->list];
    *(moved->previous == PKVI_NONE ? &list->head : &candidates[moved->previous].next) = to;
    *(moved->next == PKVI_NONE ? &list->tail : &candidates[moved->next].previous) = to;
}
