/* check_prefix.c - recounts the prefix index (X2, X3) and asks for published nodes and siblings. */
#include "core/check_parts.h"

#include "core/cache.h"
#include <string.h>

static bool keys_are_equal(const pkv_cache* cache, uint32_t a, uint32_t b) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    const struct pkvi_node* one = &prefix->nodes[a];
    const struct pkvi_node* other = &prefix->nodes[b];
    if (one->parent != other->parent) return false;
    if (one->parent_generation != other->parent_generation) return false;
    if (one->published != other->published) return false;
    if (!one->published && cache->pool.blocks[a].owner != cache->pool.blocks[b].owner) return false;
    if (one->end != other->end) return false;
    if (!pkvi_check_extras_are_equal(cache, a, b)) return false;
    const size_t bytes = pkvi_prefix_fill(prefix, a) * sizeof(uint32_t);
    return memcmp(pkvi_pool_tokens(&cache->pool, a), pkvi_pool_tokens(&cache->pool, b), bytes) == 0;
}

/* Is the parent still the node that it was? Of a first page it always is. */
static bool has_parent(const struct pkvi_prefix* prefix, const struct pkvi_node* node) {
    if (node->parent == PKVI_NONE) return true;
    const struct pkvi_node* parent = &prefix->nodes[node->parent];
    return parent->indexed && parent->generation == node->parent_generation;
}

/* What a node says of itself, by its tokens and its parent, as long as that is there. */
static const char* check_node(const pkv_cache* cache, uint32_t block) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    const struct pkvi_node* node = &prefix->nodes[block];
    EXPECT(node->end > 0, "X3");
    if (node->parent != PKVI_NONE) EXPECT(node->parent < cache->pool.block_count, "X3");
    if (!has_parent(prefix, node)) return NULL;
    const bool is_first = node->parent == PKVI_NONE;
    const uint32_t begin = is_first ? 0 : prefix->nodes[node->parent].end;
    EXPECT(pkvi_prefix_begin(prefix, block) == begin, "X3");
    if (!pkvi_extra_is_known(&prefix->extras, node->extra)) return NULL;
    const uint32_t parent_identity = pkvi_prefix_parent_identity(prefix, node->parent);
    EXPECT(node->identity == pkvi_prefix_identity(prefix, block, parent_identity), "X3");
    return NULL;
}

static const char* check_chain(pkv_cache* cache, uint32_t bucket, uint32_t* nodes) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    for (uint32_t a = prefix->buckets[bucket]; a != PKVI_NONE; a = prefix->nodes[a].chain) {
        EXPECT(a < cache->pool.block_count, "X3");
        EXPECT(prefix->nodes[a].indexed, "X3");
        EXPECT(pkvi_prefix_bucket(prefix, a) == bucket, "X3");
        EXPECT(++*nodes <= prefix->node_count, "X3");
        CHECK(check_node(cache, a));
        cache->checker.block_refs[a]++;
    }
    /* The chain has an end: now it is safe to walk it from every node. */
    for (uint32_t a = prefix->buckets[bucket]; a != PKVI_NONE; a = prefix->nodes[a].chain)
        for (uint32_t b = prefix->nodes[a].chain; b != PKVI_NONE; b = prefix->nodes[b].chain)
            EXPECT(!keys_are_equal(cache, a, b), "X3");
    return NULL;
}

static const char* check_list(const pkv_cache* cache, uint32_t account,
                              const struct pkvi_list* list, uint32_t* idle) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    const struct pkvi_candidate* candidates = prefix->shared.candidates;
    uint32_t listed = 0;
    uint32_t previous = PKVI_NONE;
    for (uint32_t b = list->head; b != PKVI_NONE; b = candidates[b].next) {
        EXPECT(b < cache->pool.block_count, "X2");
        EXPECT(++listed <= list->count, "X2");
        EXPECT(prefix->nodes[b].indexed, "X2");
        EXPECT(candidates[b].is_idle || prefix->domains[account].policy->keeps_place, "X2");
        EXPECT(candidates[b].previous == previous, "X2");
        EXPECT(cache->pool.blocks[b].account == account, "X2");
        *idle += candidates[b].is_idle;
        previous = b;
    }
    EXPECT(list->tail == previous, "X2");
    EXPECT(list->count == listed, "X2");
    return NULL;
}

static const char* check_domain(const pkv_cache* cache, uint32_t account, uint32_t* listed) {
    const struct pkvi_domain* domain = &cache->prefix.domains[account];
    uint32_t idle = 0;
    for (uint32_t i = 0; i < PKVI_DOMAIN_LISTS; i++)
        CHECK(check_list(cache, account, &domain->lists[i], &idle));
    CHECK(pkvi_check_levels(cache, account, &idle));
    EXPECT(idle == domain->idle_count, "X2");
    *listed += idle;
    return NULL;
}

static const char* check_idle(const pkv_cache* cache) {
    uint32_t listed = 0;
    for (uint32_t account = 0; account <= cache->quotas.account_max; account++)
        CHECK(check_domain(cache, account, &listed));
    uint32_t idle = 0;
    for (uint32_t b = 0; b < cache->pool.block_count; b++) {
        const bool is_idle = pkvi_prefix_is_idle(&cache->prefix, b);
        EXPECT(cache->prefix.shared.candidates[b].is_idle == is_idle, "X2");
        idle += is_idle;
    }
    EXPECT(listed == idle, "X2");
    return NULL;
}

const char* pkvi_check_prefix(pkv_cache* cache) {
    uint32_t nodes = 0;
    for (uint32_t bucket = 0; bucket < cache->prefix.bucket_count; bucket++)
        CHECK(check_chain(cache, bucket, &nodes));
    EXPECT(nodes == cache->prefix.node_count, "X3");
    uint32_t indexed = 0;
    for (uint32_t b = 0; b < cache->pool.block_count; b++)
        indexed += cache->prefix.nodes[b].indexed;
    EXPECT(indexed == nodes, "X3");
    CHECK(pkvi_check_published(cache));
    CHECK(pkvi_check_siblings(cache));
    CHECK(pkvi_check_retention(cache));
    return check_idle(cache);
}
