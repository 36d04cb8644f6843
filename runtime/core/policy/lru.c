/* lru.c - the block that has been idle longest goes first. O(1). */
#include "core/policy/policy.h"

static void enter(struct pkvi_domain* domain, uint32_t block, const struct pkvi_origin* origin) {
    (void)domain;
    (void)block;
    (void)origin;
}

static void use(struct pkvi_domain* domain, uint32_t block) {
    (void)domain;
    (void)block;
}

static void hold(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_remove(domain, 0, block);
}

static void rest(struct pkvi_domain* domain, uint32_t block) {
    pkvi_domain_append(domain, 0, block);
}

static uint32_t evict(struct pkvi_domain* domain) {
    const uint32_t block = domain->lists[0].head;
    pkvi_domain_remove(domain, 0, block);
    return block;
}

const struct pkvi_policy pkvi_policy_lru = {
    .name = "lru",
    .enter = enter,
    .use = use,
    .hold = hold,
    .rest = rest,
    .evict = evict,
};
