/* sibling.c - see sibling.h. */
#include "core/sibling.h"

#include "base/limits.h"

static uint32_t bucket_of(const struct pkvi_prefix* prefix, uint64_t tenant, uint32_t parent,
                          uint32_t parent_generation, uint32_t token) {
    const uint64_t key[3] = {tenant, (uint64_t)parent << 32 | parent_generation, token};
    return (uint32_t)pkvi_hash(prefix->key, key, sizeof key) & prefix->bucket_mask;
}

uint32_t pkvi_sibling_bucket(const struct pkvi_prefix* prefix, uint32_t block) {
    return bucket_of(prefix, prefix->pool->owner[block], prefix->parent[block],
                     prefix->parent_generation[block], pkvi_pool_tokens(prefix->pool, block)[0]);
}

void pkvi_sibling_link(struct pkvi_prefix* prefix, uint32_t block) {
    uint32_t* first = &prefix->siblings[pkvi_sibling_bucket(prefix, block)];
    prefix->sibling_next[block] = *first;
    prefix->sibling_previous[block] = PKVI_NONE;
    if (*first != PKVI_NONE) prefix->sibling_previous[*first] = block;
    *first = block;
}

void pkvi_sibling_unlink(struct pkvi_prefix* prefix, uint32_t block) {
    const uint32_t next = prefix->sibling_next[block];
    const uint32_t previous = prefix->sibling_previous[block];
    if (previous == PKVI_NONE)
        prefix->siblings[pkvi_sibling_bucket(prefix, block)] = next;
    else
        prefix->sibling_next[previous] = next;
    if (next != PKVI_NONE) prefix->sibling_previous[next] = previous;
}

static uint32_t common_beginning(const uint32_t* a, const uint32_t* b, uint32_t count) {
    uint32_t common = 0;
    while (common < count && a[common] == b[common])
        common++;
    return common;
}

uint32_t pkvi_sibling_longest(const struct pkvi_prefix* prefix, uint64_t tenant, uint32_t parent,
                              const uint32_t* tokens, uint32_t count, uint32_t* common) {
    uint32_t longest = PKVI_NONE;
    *common = 0;
    if (count == 0) return PKVI_NONE;
    const uint32_t generation = pkvi_prefix_generation(prefix, parent);
    uint32_t node = prefix->siblings[bucket_of(prefix, tenant, parent, generation, tokens[0])];
    for (uint32_t seen = 0; node != PKVI_NONE && seen < PKVI_SIBLINGS_MAX && *common < count;
         node = prefix->sibling_next[node]) {
        const uint32_t* own = pkvi_pool_tokens(prefix->pool, node);
        if (own[0] != tokens[0]) continue;
        if (!pkvi_prefix_is_child(prefix, node, tenant, parent)) continue;
        const uint32_t fill = prefix->fill[node];
        const uint32_t shared = common_beginning(own, tokens, fill < count ? fill : count);
        if (shared > *common) longest = node;
        if (shared > *common) *common = shared;
        seen++;
    }
    return longest;
}
