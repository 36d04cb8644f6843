/* prefix.c - see prefix.h for the idea and the invariants. */
#include "core/prefix.h"

#include "base/limits.h"
#include "core/sibling.h"
#include <assert.h>
#include <string.h>

static uint32_t bucket_of(const struct pkvi_prefix* prefix, uint64_t tenant, uint32_t parent,
                          uint32_t parent_generation, const uint32_t* tokens, uint32_t count) {
    struct {
        uint64_t tenant;
        uint32_t parent, parent_generation;
        uint32_t tokens[PKV_BLOCK_TOKENS_MAX];
    } key;
    const size_t token_bytes = count * sizeof *tokens;
    key.tenant = tenant;
    key.parent = parent;
    key.parent_generation = parent_generation;
    memcpy(key.tokens, tokens, token_bytes);
    const uint64_t hash =
        pkvi_hash(prefix->key, &key, offsetof(__typeof__(key), tokens) + token_bytes);
    return (uint32_t)hash & prefix->bucket_mask;
}

static uint32_t bucket_count_for(uint32_t blocks) {
    uint32_t bits = 0;
    while (bits < PKVI_HASH_BITS_MAX && (1U << bits) < blocks)
        bits++;
    return 1U << bits;
}

int pkvi_prefix_open(struct pkvi_prefix* prefix, struct pkvi_pool* pool, struct pkvi_mem* mem,
                     struct pkvi_hash_key key, const struct pkvi_policy* policy) {
    const uint32_t blocks = pool->block_count;
    const uint32_t buckets = bucket_count_for(blocks);
    *prefix = (struct pkvi_prefix){
        .pool = pool,
        .key = key,
        .bucket_mask = buckets - 1,
    };
    uint32_t** const arrays[] = {&prefix->chain,           &prefix->bucket,
                                 &prefix->parent,          &prefix->parent_generation,
                                 &prefix->generation,      &prefix->sibling_next,
                                 &prefix->sibling_previous};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof(uint32_t), (void**)arrays[i]));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *prefix->fill, (void**)&prefix->fill));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *prefix->indexed, (void**)&prefix->indexed));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *prefix->candidates, (void**)&prefix->candidates));
    pkvi_domain_init(&prefix->domain, policy, prefix->candidates);
    PKVI_TRY(pkvi_mem_take(mem, buckets, sizeof(uint32_t), (void**)&prefix->buckets));
    PKVI_TRY(pkvi_mem_take(mem, buckets, sizeof(uint32_t), (void**)&prefix->siblings));
    for (uint32_t i = 0; i < buckets; i++) {
        prefix->buckets[i] = PKVI_NONE;
        prefix->siblings[i] = PKVI_NONE;
    }
    return PKV_OK;
}

void pkvi_prefix_close(struct pkvi_prefix* prefix, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, prefix->siblings);
    pkvi_mem_give(mem, prefix->buckets);
    pkvi_mem_give(mem, prefix->candidates);
    pkvi_mem_give(mem, prefix->indexed);
    pkvi_mem_give(mem, prefix->fill);
    pkvi_mem_give(mem, prefix->sibling_previous);
    pkvi_mem_give(mem, prefix->sibling_next);
    pkvi_mem_give(mem, prefix->generation);
    pkvi_mem_give(mem, prefix->parent_generation);
    pkvi_mem_give(mem, prefix->parent);
    pkvi_mem_give(mem, prefix->bucket);
    pkvi_mem_give(mem, prefix->chain);
}

static bool node_has_key(const struct pkvi_prefix* prefix, uint32_t node, uint64_t tenant,
                         uint32_t parent, const uint32_t* tokens, uint32_t count) {
    if (!pkvi_prefix_is_child(prefix, node, tenant, parent)) return false;
    if (prefix->fill[node] != count) return false;
    return memcmp(pkvi_pool_tokens(prefix->pool, node), tokens, count * sizeof *tokens) == 0;
}

static uint32_t find_in(const struct pkvi_prefix* prefix, uint32_t bucket, uint64_t tenant,
                        uint32_t parent, const uint32_t* tokens, uint32_t count) {
    uint32_t node = prefix->buckets[bucket];
    while (node != PKVI_NONE && !node_has_key(prefix, node, tenant, parent, tokens, count))
        node = prefix->chain[node];
    return node;
}

uint32_t pkvi_prefix_find(const struct pkvi_prefix* prefix, uint64_t tenant, uint32_t parent,
                          const uint32_t* tokens) {
    const uint32_t count = prefix->pool->block_tokens;
    const uint32_t generation = pkvi_prefix_generation(prefix, parent);
    const uint32_t bucket = bucket_of(prefix, tenant, parent, generation, tokens, count);
    return find_in(prefix, bucket, tenant, parent, tokens, count);
}

/* By the node's own record, since its parent may have moved on. */
uint32_t pkvi_prefix_bucket(const struct pkvi_prefix* prefix, uint32_t block) {
    return bucket_of(prefix, prefix->pool->owner[block], prefix->parent[block],
                     prefix->parent_generation[block], pkvi_pool_tokens(prefix->pool, block),
                     prefix->fill[block]);
}

static struct pkvi_domain* domain_of(struct pkvi_prefix* prefix, uint32_t block) {
    (void)block;
    return &prefix->domain;
}

/* May its policy choose it? */
static bool is_idle(const struct pkvi_prefix* prefix, uint32_t block) {
    return prefix->indexed[block] && prefix->pool->refs[block] == 1;
}

uint32_t pkvi_prefix_insert(struct pkvi_prefix* prefix, uint32_t block, uint32_t parent,
                            uint32_t fill, const struct pkvi_origin* origin) {
    assert(!prefix->indexed[block]);
    assert(parent == PKVI_NONE || pkvi_prefix_is_full(prefix, parent));
    const uint32_t* tokens = pkvi_pool_tokens(prefix->pool, block);
    const uint64_t tenant = prefix->pool->owner[block];
    const uint32_t generation = pkvi_prefix_generation(prefix, parent);
    const uint32_t bucket = bucket_of(prefix, tenant, parent, generation, tokens, fill);
    const uint32_t equal = find_in(prefix, bucket, tenant, parent, tokens, fill);
    if (equal != PKVI_NONE) return equal;
    prefix->parent[block] = parent;
    prefix->parent_generation[block] = generation;
    prefix->bucket[block] = bucket;
    prefix->chain[block] = prefix->buckets[bucket];
    prefix->buckets[bucket] = block;
    prefix->fill[block] = (uint16_t)fill;
    pkvi_sibling_link(prefix, block);
    prefix->indexed[block] = 1;
    prefix->node_count++;
    pkvi_pool_ref(prefix->pool, block);
    struct pkvi_domain* domain = domain_of(prefix, block);
    domain->policy->enter(domain, block, origin);
    return block;
}

static void remove_node(struct pkvi_prefix* prefix, uint32_t node) {
    uint32_t* link = &prefix->buckets[prefix->bucket[node]];
    while (*link != node)
        link = &prefix->chain[*link];
    *link = prefix->chain[node];
    pkvi_sibling_unlink(prefix, node);
    prefix->indexed[node] = 0;
    prefix->generation[node]++;
    prefix->node_count--;
}

void pkvi_prefix_forget(struct pkvi_prefix* prefix, uint32_t block) {
    assert(prefix->pool->refs[block] > 1);
    remove_node(prefix, block);
    pkvi_pool_unref(prefix->pool, block);
}

/* ---- What the policy sees -------------------------------------------------------------------- */

void pkvi_prefix_use(struct pkvi_prefix* prefix, uint32_t block) {
    struct pkvi_domain* domain = domain_of(prefix, block);
    domain->policy->use(domain, block);
}

void pkvi_prefix_ref(struct pkvi_prefix* prefix, uint32_t block) {
    if (is_idle(prefix, block)) {
        struct pkvi_domain* domain = domain_of(prefix, block);
        domain->policy->hold(domain, block);
    }
    pkvi_pool_ref(prefix->pool, block);
}

void pkvi_prefix_unref(struct pkvi_prefix* prefix, uint32_t block) {
    pkvi_pool_unref(prefix->pool, block);
    if (!is_idle(prefix, block)) return;
    struct pkvi_domain* domain = domain_of(prefix, block);
    domain->policy->rest(domain, block);
}

void pkvi_prefix_evict(struct pkvi_prefix* prefix, struct pkvi_domain* domain, uint32_t count,
                       uint32_t* blocks) {
    assert(count <= domain->idle_count);
    for (uint32_t i = 0; i < count; i++) {
        blocks[i] = domain->policy->evict(domain);
        remove_node(prefix, blocks[i]);
        pkvi_pool_unref(prefix->pool, blocks[i]);
    }
}
