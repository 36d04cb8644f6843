/* sibling.c - see sibling.h. */
#include "core/sibling.h"

#include "base/limits.h"

static uint32_t bucket_of(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                          uint32_t parent_generation, uint32_t token) {
    const uint64_t key[3] = {place->is_public ? UINT64_MAX : place->tenant,
                             (uint64_t)place->parent << 32 | parent_generation, token};
    return (uint32_t)pkvi_hash(prefix->key, key, sizeof key) & prefix->bucket_mask;
}

uint32_t pkvi_sibling_bucket(const struct pkvi_prefix* prefix, uint32_t block) {
    const struct pkvi_place place = pkvi_place_of(prefix, block);
    return bucket_of(prefix, &place, prefix->parent_generation[block],
                     pkvi_pool_tokens(prefix->pool, block)[0]);
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

/* How much of `tokens` [count] does a node begin with, with the same extra keys? */
static uint32_t shared_with(const struct pkvi_prefix* prefix, uint32_t node,
                            const struct pkvi_place* place, const uint32_t* tokens,
                            uint32_t count) {
    const uint32_t fill = prefix->fill[node];
    const uint32_t shared =
        common_beginning(pkvi_pool_tokens(prefix->pool, node), tokens, fill < count ? fill : count);
    return pkvi_extra_common(&prefix->extras, prefix->extra[node], place->extra, place->begin,
                             shared);
}

static uint32_t longest_at(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                           const uint32_t* tokens, uint32_t count, uint32_t* common) {
    const uint32_t generation = pkvi_prefix_generation(prefix, place->parent);
    uint32_t longest = PKVI_NONE;
    uint32_t node = prefix->siblings[bucket_of(prefix, place, generation, tokens[0])];
    for (uint32_t seen = 0; node != PKVI_NONE && seen < PKVI_SIBLINGS_MAX && *common < count;
         node = prefix->sibling_next[node]) {
        if (pkvi_pool_tokens(prefix->pool, node)[0] != tokens[0]) continue;
        if (!pkvi_prefix_is_child(prefix, node, place)) continue;
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

uint32_t pkvi_sibling_loosen(struct pkvi_prefix* prefix, uint32_t* nodes) {
    uint32_t count = 0;
    for (uint32_t bucket = 0; bucket <= prefix->bucket_mask; bucket++) {
        uint32_t node = prefix->siblings[bucket];
        if (node == PKVI_NONE) continue;
        while (prefix->sibling_next[node] != PKVI_NONE)
            node = prefix->sibling_next[node];
        for (; node != PKVI_NONE; node = prefix->sibling_previous[node])
            nodes[count++] = node;
        prefix->siblings[bucket] = PKVI_NONE;
    }
    return count;
}
