/* sibling.c - see sibling.h. */
#include "core/sibling.h"

#include "base/limits.h"

static uint32_t bucket_of(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                          uint32_t token) {
    const uint32_t parent = pkvi_prefix_parent_identity(prefix, place->parent);
    const uint32_t tenant = pkvi_prefix_mix(prefix, place->is_public ? UINT64_MAX : place->tenant);
    const uint32_t mixed = pkvi_prefix_mix(prefix, (uint64_t)token << 32 | (parent ^ tenant));
    return pkvi_prefix_scale(mixed, prefix->sibling_count);
}

uint32_t pkvi_sibling_bucket(const struct pkvi_prefix* prefix, uint32_t block) {
    const struct pkvi_node* node = &prefix->nodes[block];
    const struct pkvi_place place = {.tenant = prefix->pool->blocks[block].owner,
                                     .parent = node->parent,
                                     .is_public = node->published};
    return bucket_of(prefix, &place, pkvi_pool_tokens(prefix->pool, block)[0]);
}

/* What names a node on its chain: the node before it, or its bucket. */
static uint32_t* link_to(struct pkvi_prefix* prefix, uint32_t block) {
    const uint32_t previous = prefix->nodes[block].sibling_previous;
    if (previous >= PKVI_SIBLING_FIRST) return &prefix->siblings[previous - PKVI_SIBLING_FIRST];
    return &prefix->nodes[previous].sibling_next;
}

void pkvi_sibling_link(struct pkvi_prefix* prefix, uint32_t block) {
    struct pkvi_node* node = &prefix->nodes[block];
    const uint32_t bucket = pkvi_sibling_bucket(prefix, block);
    node->sibling_next = prefix->siblings[bucket];
    node->sibling_previous = PKVI_SIBLING_FIRST + bucket;
    if (node->sibling_next != PKVI_NONE) prefix->nodes[node->sibling_next].sibling_previous = block;
    prefix->siblings[bucket] = block;
}

void pkvi_sibling_unlink(struct pkvi_prefix* prefix, uint32_t block) {
    const struct pkvi_node* node = &prefix->nodes[block];
    *link_to(prefix, block) = node->sibling_next;
    if (node->sibling_next != PKVI_NONE)
        prefix->nodes[node->sibling_next].sibling_previous = node->sibling_previous;
}

void pkvi_sibling_replace(struct pkvi_prefix* prefix, uint32_t from, uint32_t to) {
    const uint32_t next = prefix->nodes[from].sibling_next;
    *link_to(prefix, from) = to;
    if (next != PKVI_NONE) prefix->nodes[next].sibling_previous = to;
}

static uint32_t common_beginning(const uint32_t* a, const uint32_t* b, uint32_t count) {
    uint32_t common = 0;
    while (common < count && a[common] == b[common])
        common++;
    return common;
}

/* How much of `tokens` [count] does a node begin with, with the same extra keys? */
static uint32_t shared_with(const struct pkvi_prefix* prefix, uint32_t node,
                            const struct pkvi_place* place, const uint32_t* tokens,
                            uint32_t count) {
    const uint32_t fill = pkvi_prefix_fill(prefix, node);
    const uint32_t shared =
        common_beginning(pkvi_pool_tokens(prefix->pool, node), tokens, fill < count ? fill : count);
    return pkvi_extra_common(&prefix->extras, prefix->nodes[node].extra, place->extra, place->begin,
                             shared);
}

static uint32_t longest_at(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                           const uint32_t* tokens, uint32_t count, uint32_t* common) {
    uint32_t longest = PKVI_NONE;
    uint32_t node = prefix->siblings[bucket_of(prefix, place, tokens[0])];
    for (uint32_t seen = 0; node != PKVI_NONE && seen < PKVI_SIBLINGS_MAX && *common < count;
         node = prefix->nodes[node].sibling_next) {
        if (!pkvi_prefix_is_child(prefix, node, place)) continue;
        if (pkvi_pool_tokens(prefix->pool, node)[0] != tokens[0]) continue;
        const uint32_t shared = shared_with(prefix, node, place, tokens, count);
        if (shared > *common) longest = node;
        if (shared > *common) *common = shared;
        seen++;
    }
    return longest;
}

uint32_t pkvi_sibling_longest(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                              const uint32_t* tokens, uint32_t count, uint32_t* common) {
    *common = 0;
    if (count == 0) return PKVI_NONE;
    const uint32_t own = longest_at(prefix, place, tokens, count, common);
    if (*common == count || prefix->published_count == 0) return own;
    const struct pkvi_place published = pkvi_place_public(place);
    const uint32_t other = longest_at(prefix, &published, tokens, count, common);
    return other != PKVI_NONE ? other : own;
}
