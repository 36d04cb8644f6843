/* policy.c - lists of idle blocks; see policy.h. */
#include "core/policy/policy.h"

void pkvi_domain_init(struct pkvi_domain* domain, const struct pkvi_policy* policy,
                      struct pkvi_candidate* candidates) {
    *domain = (struct pkvi_domain){.policy = policy, .candidates = candidates};
    for (uint32_t i = 0; i < PKVI_DOMAIN_LISTS; i++)
        domain->lists[i] = (struct pkvi_list){.head = PKVI_NONE, .tail = PKVI_NONE};
}

void pkvi_domain_append(struct pkvi_domain* domain, uint32_t list, uint32_t block) {
    struct pkvi_list* l = &domain->lists[list];
    struct pkvi_candidate* candidates = domain->candidates;
    candidates[block].previous = l->tail;
    candidates[block].next = PKVI_NONE;
    if (l->tail == PKVI_NONE)
        l->head = block;
    else
        candidates[l->tail].next = block;
    l->tail = block;
    l->count++;
    domain->idle_count++;
}

void pkvi_domain_remove(struct pkvi_domain* domain, uint32_t list, uint32_t block) {
    struct pkvi_list* l = &domain->lists[list];
    struct pkvi_candidate* candidates = domain->candidates;
    const uint32_t previous = candidates[block].previous;
    const uint32_t next = candidates[block].next;
    if (previous == PKVI_NONE)
        l->head = next;
    else
        candidates[previous].next = next;
    if (next == PKVI_NONE)
        l->tail = previous;
    else
        candidates[next].previous = previous;
    l->count--;
    domain->idle_count--;
}
