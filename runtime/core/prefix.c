/* prefix.c - see prefix.h for the idea and the invariants. */
#include "core/prefix.h"

#include "base/limits.h"
#include "core/sibling.h"
#include <assert.h>
#include <string.h>

static uint32_t hash_of(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                        uint32_t parent_generation, const uint32_t* tokens, uint32_t count) {
    struct {
        uint64_t tenant;
        uint64_t extra;
        uint32_t parent, parent_generation;
        uint32_t tokens[PKV_BLOCK_TOKENS_MAX];
    } key;
    const size_t token_bytes = count * sizeof *tokens;
    key.tenant = place->is_public ? UINT64_MAX : place->tenant;
    key.extra = pkvi_extra_hash(&prefix->extras, place->extra, place->begin, place->begin + count);
    key.parent = place->parent;
    key.parent_generation = parent_generation;
    memcpy(key.tokens, tokens, token_bytes);
    return (uint32_t)pkvi_hash(prefix->key, &key, offsetof(__typeof__(key), tokens) + token_bytes);
}

static uint32_t bucket_of(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                          uint32_t parent_generation, const uint32_t* tokens, uint32_t count) {
    return hash_of(prefix, place, parent_generation, tokens, count) & prefix->bucket_mask;
}

static uint32_t bucket_count_for(uint32_t blocks) {
    uint32_t bits = 0;
    while (bits < PKVI_HASH_BITS_MAX && (2U << bits) <= blocks)
        bits++;
    return 1U << bits;
}

int pkvi_prefix_open(struct pkvi_prefix* prefix, struct pkvi_pool* pool, struct pkvi_mem* mem,
                     struct pkvi_hash_key key, const pkv_config* config) {
    const uint32_t blocks = pool->block_count;
    const uint32_t buckets = bucket_count_for(blocks);
    *prefix = (struct pkvi_prefix){
        .pool = pool,
        .key = key,
        .bucket_mask = buckets - 1,
    };
    uint32_t** const arrays[] = {&prefix->chain,
                                 &prefix->bucket,
                                 &prefix->parent,
                                 &prefix->parent_generation,
                                 &prefix->generation,
                                 &prefix->sibling_next,
                                 &prefix->sibling_previous,
                                 &prefix->begin,
                                 &prefix->extra};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof(uint32_t), (void**)arrays[i]));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *prefix->fill, (void**)&prefix->fill));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *prefix->indexed, (void**)&prefix->indexed));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *prefix->published, (void**)&prefix->published));
    const struct pkvi_policy* policy = pkvi_policy_of(config);
    PKVI_TRY(pkvi_shared_open(&prefix->shared, mem, blocks, policy, &config->eviction_hook));
    const uint32_t domains = pool->quotas->account_max + 1;
    PKVI_TRY(pkvi_mem_take(mem, domains, sizeof *prefix->domains, (void**)&prefix->domains));
    struct pkvi_retention* retention = &prefix->shared.retention;
    PKVI_TRY(pkvi_retention_open(retention, mem, blocks, config->retained_max, domains));
    for (uint32_t i = 0; i < domains; i++) {
        if (retention->levels != NULL) prefix->domains[i].levels = &retention->levels[i];
        pkvi_domain_init(&prefix->domains[i], policy, &prefix->shared, blocks);
    }
    PKVI_TRY(pkvi_mem_take(mem, buckets, sizeof(uint32_t), (void**)&prefix->buckets));
    PKVI_TRY(pkvi_mem_take(mem, buckets, sizeof(uint32_t), (void**)&prefix->siblings));
    for (uint32_t i = 0; i < buckets; i++) {
        prefix->buckets[i] = PKVI_NONE;
        prefix->siblings[i] = PKVI_NONE;
    }
    return pkvi_extras_open(&prefix->extras, mem, key, config->key_sets_max, config->key_bytes_max);
}

void pkvi_prefix_close(struct pkvi_prefix* prefix, struct pkvi_mem* mem) {
    pkvi_extras_close(&prefix->extras, mem);
    pkvi_mem_give(mem, prefix->siblings);
    pkvi_mem_give(mem, prefix->buckets);
    pkvi_retention_close(&prefix->shared.retention, mem);
    pkvi_mem_give(mem, prefix->domains);
    pkvi_shared_close(&prefix->shared, mem);
    pkvi_mem_give(mem, prefix->published);
    pkvi_mem_give(mem, prefix->indexed);
    pkvi_mem_give(mem, prefix->fill);
    pkvi_mem_give(mem, prefix->extra);
    pkvi_mem_give(mem, prefix->begin);
    pkvi_mem_give(mem, prefix->sibling_previous);
    pkvi_mem_give(mem, prefix->sibling_next);
    pkvi_mem_give(mem, prefix->generation);
    pkvi_mem_give(mem, prefix->parent_generation);
    pkvi_mem_give(mem, prefix->parent);
    pkvi_mem_give(mem, prefix->bucket);
    pkvi_mem_give(mem, prefix->chain);
}

static bool node_has_key(const struct pkvi_prefix* prefix, uint32_t node,
                         const struct pkvi_place* place, const uint32_t* tokens, uint32_t count) {
    if (!pkvi_prefix_is_child(prefix, node, place)) return false;
    if (prefix->fill[node] != count) return false;
    const uint32_t common =
        pkvi_extra_common(&prefix->extras, prefix->extra[node], place->extra, place->begin, count);
    if (common != count) return false;
    return memcmp(pkvi_pool_tokens(prefix->pool, node), tokens, count * sizeof *tokens) == 0;
}

static uint32_t find_in(const struct pkvi_prefix* prefix, uint32_t bucket,
                        const struct pkvi_place* place, const uint32_t* tokens, uint32_t count) {
    uint32_t node = prefix->buckets[bucket];
    while (node != PKVI_NONE && !node_has_key(prefix, node, place, tokens, count))
        node = prefix->chain[node];
    return node;
}

static uint32_t place_bucket(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                             const uint32_t* tokens, uint32_t count) {
    const uint32_t generation = pkvi_prefix_generation(prefix, place->parent);
    return bucket_of(prefix, place, generation, tokens, count);
}

/* The node of the tenant, whose key is filed in `bucket`, or a published one. */
static uint32_t find_either(const struct pkvi_prefix* prefix, uint32_t bucket,
                            const struct pkvi_place* place, const uint32_t* tokens,
                            uint32_t count) {
    const uint32_t node = find_in(prefix, bucket, place, tokens, count);
    if (node != PKVI_NONE || prefix->published_count == 0) return node;
    const struct pkvi_place published = pkvi_place_public(place);
    const uint32_t other = place_bucket(prefix, &published, tokens, count);
    return find_in(prefix, other, &published, tokens, count);
}

uint32_t pkvi_prefix_find(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                          const uint32_t* tokens) {
    const uint32_t count = prefix->pool->block_tokens;
    const uint32_t bucket = place_bucket(prefix, place, tokens, count);
    return find_either(prefix, bucket, place, tokens, count);
}

/* By the node's own record, since its parent may have moved on. */
uint32_t pkvi_prefix_bucket(const struct pkvi_prefix* prefix, uint32_t block) {
    const struct pkvi_place place = pkvi_place_of(prefix, block);
    return bucket_of(prefix, &place, prefix->parent_generation[block],
                     pkvi_pool_tokens(prefix->pool, block), prefix->fill[block]);
}

static struct pkvi_domain* domain_of(const struct pkvi_prefix* prefix, uint32_t block) {
    return &prefix->domains[prefix->pool->account[block]];
}

/* Onto the chain of a bucket, and off it. */
static void file_node(struct pkvi_prefix* prefix, uint32_t node, uint32_t bucket) {
    prefix->bucket[node] = bucket;
    prefix->chain[node] = prefix->buckets[bucket];
    prefix->buckets[bucket] = node;
}

static void unfile_node(struct pkvi_prefix* prefix, uint32_t node) {
    uint32_t* link = &prefix->buckets[prefix->bucket[node]];
    while (*link != node)
        link = &prefix->chain[*link];
    *link = prefix->chain[node];
}

/* File a node whose key is set, and take it out again. */
static void link_node(struct pkvi_prefix* prefix, uint32_t node) {
    file_node(prefix, node, pkvi_prefix_bucket(prefix, node));
    pkvi_sibling_link(prefix, node);
}

static void unlink_node(struct pkvi_prefix* prefix, uint32_t node) {
    unfile_node(prefix, node);
    pkvi_sibling_unlink(prefix, node);
}

/* Blocks without extra keys name no set, so that who has none, or has them elsewhere, pays nothing.
 */
static uint32_t extra_of(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                         uint32_t count) {
    const uint32_t end = place->begin + count;
    const bool has_any = pkvi_extra_hash(&prefix->extras, place->extra, place->begin, end) != 0;
    return has_any ? place->extra : PKVI_NO_EXTRA;
}

/* The same for the same tokens after the same prefix, however often they come and go. */
static uint32_t identity_of(const struct pkvi_prefix* prefix, uint32_t block) {
    if (prefix->shared.ghosts == NULL) return 0;
    struct pkvi_place place = pkvi_place_of(prefix, block);
    if (place.parent != PKVI_NONE) place.parent = prefix->shared.candidates[place.parent].identity;
    return hash_of(prefix, &place, PKVI_NONE, pkvi_pool_tokens(prefix->pool, block),
                   prefix->fill[block]);
}

uint32_t pkvi_prefix_insert(struct pkvi_prefix* prefix, uint32_t block,
                            const struct pkvi_place* place, uint32_t fill,
                            const struct pkvi_origin* origin) {
    assert(!prefix->indexed[block]);
    assert(place->parent == PKVI_NONE || pkvi_prefix_is_full(prefix, place->parent));
    const uint32_t* tokens = pkvi_pool_tokens(prefix->pool, block);
    assert(!place->is_public);
    const uint32_t bucket = place_bucket(prefix, place, tokens, fill);
    const uint32_t equal = find_either(prefix, bucket, place, tokens, fill);
    if (equal != PKVI_NONE) return equal;
    prefix->parent[block] = place->parent;
    prefix->parent_generation[block] = pkvi_prefix_generation(prefix, place->parent);
    prefix->begin[block] = place->begin;
    prefix->extra[block] = extra_of(prefix, place, fill);
    prefix->fill[block] = (uint16_t)fill;
    prefix->published[block] = 0;
    file_node(prefix, block, bucket);
    assert(bucket == pkvi_prefix_bucket(prefix, block));
    pkvi_sibling_link(prefix, block);
    prefix->indexed[block] = 1;
    prefix->node_count++;
    pkvi_pool_ref(prefix->pool, block);
    pkvi_domain_enter(domain_of(prefix, block), block, place->parent, identity_of(prefix, block),
                      origin);
    return block;
}

void pkvi_prefix_publish(struct pkvi_prefix* prefix, uint32_t block, uint32_t parent) {
    assert(pkvi_prefix_is_full(prefix, block));
    unlink_node(prefix, block);
    prefix->parent[block] = parent;
    prefix->parent_generation[block] = pkvi_prefix_generation(prefix, parent);
    prefix->published_count += !prefix->published[block];
    prefix->published[block] = 1;
    link_node(prefix, block);
}

void pkvi_prefix_rename_extra(struct pkvi_prefix* prefix, uint32_t block, uint32_t extra) {
    if (prefix->extra[block] != PKVI_NO_EXTRA) prefix->extra[block] = extra;
}

static void remove_node(struct pkvi_prefix* prefix, uint32_t node) {
    unlink_node(prefix, node);
    prefix->published_count -= prefix->published[node];
    prefix->published[node] = 0;
    prefix->indexed[node] = 0;
    prefix->generation[node]++;
    prefix->node_count--;
}

void pkvi_prefix_forget(struct pkvi_prefix* prefix, uint32_t block) {
    assert(prefix->pool->refs[block] > 1);
    pkvi_domain_forget(domain_of(prefix, block), block);
    remove_node(prefix, block);
    pkvi_pool_unref(prefix->pool, block);
}

/* ---- What the policy sees -------------------------------------------------------------------- */

void pkvi_prefix_use(struct pkvi_prefix* prefix, uint32_t block) {
    pkvi_domain_use(domain_of(prefix, block), block);
}

void pkvi_prefix_ref(struct pkvi_prefix* prefix, uint32_t block) {
    if (pkvi_prefix_is_idle(prefix, block)) {
        pkvi_domain_hold(domain_of(prefix, block), block);
        pkvi_quotas_wake(prefix->pool->quotas, prefix->pool->account[block]);
        pkvi_pool_note_idle(prefix->pool, block, false);
    }
    pkvi_pool_ref(prefix->pool, block);
}

/* What was asked for a block ends with it. */
static void forget_terms(struct pkvi_prefix* prefix, uint32_t block) {
    struct pkvi_retention* retention = &prefix->shared.retention;
    if (pkvi_is_retained(retention, block)) pkvi_retain_forget(retention, block);
}

void pkvi_prefix_unref(struct pkvi_prefix* prefix, uint32_t block) {
    const uint32_t left = pkvi_pool_unref(prefix->pool, block);
    if (left == 0) forget_terms(prefix, block);
    if (!pkvi_prefix_is_idle(prefix, block)) return;
    pkvi_domain_rest(domain_of(prefix, block), block);
    pkvi_quotas_rest(prefix->pool->quotas, prefix->pool->account[block]);
    pkvi_pool_note_idle(prefix->pool, block, true);
}

void pkvi_prefix_merge(struct pkvi_prefix* prefix, uint32_t own, uint32_t node) {
    struct pkvi_retention* retention = &prefix->shared.retention;
    const struct pkvi_pool* pool = prefix->pool;
    const bool is_last = pool->refs[own] == 1; /* its row is free for the other then */
    if (is_last && pool->owner[own] == pool->owner[node] && pkvi_is_retained(retention, own)) {
        const struct pkvi_terms terms = retention->rows[retention->row_of[own]].terms;
        pkvi_retain_forget(retention, own);
        pkvi_retain(retention, node, &terms);
    }
    pkvi_prefix_unref(prefix, own);
}

/* An idle block that its policy has let go of. */
static void drop(struct pkvi_prefix* prefix, uint32_t block) {
    pkvi_pool_note_idle(prefix->pool, block, false);
    pkvi_quotas_wake(prefix->pool->quotas, prefix->pool->account[block]);
    remove_node(prefix, block);
    forget_terms(prefix, block);
    pkvi_pool_unref(prefix->pool, block);
}

void pkvi_prefix_drop(struct pkvi_prefix* prefix, uint32_t block) {
    struct pkvi_domain* domain = domain_of(prefix, block);
    assert(pkvi_prefix_is_idle(prefix, block));
    pkvi_domain_leave(domain, block);
    drop(prefix, block);
}

void pkvi_prefix_lapse(struct pkvi_prefix* prefix, uint32_t block) {
    assert(pkvi_prefix_is_idle(prefix, block));
    pkvi_domain_lapse(domain_of(prefix, block), block);
}

void pkvi_prefix_evict(struct pkvi_prefix* prefix, uint32_t account, uint32_t count,
                       uint32_t* blocks) {
    struct pkvi_domain* domain = &prefix->domains[account];
    assert(count <= domain->idle_count);
    pkvi_domain_evict(domain, count, blocks);
    for (uint32_t i = 0; i < count; i++)
        drop(prefix, blocks[i]);
    prefix->pool->quotas->accounts[account].evicted += count;
}

void pkvi_prefix_renew(struct pkvi_prefix* prefix, uint32_t account) {
    struct pkvi_domain* domain = &prefix->domains[account];
    assert(domain->idle_count == 0);
    pkvi_domain_init(domain, domain->policy, &prefix->shared, prefix->pool->block_count);
}

void pkvi_prefix_move(struct pkvi_prefix* prefix, uint32_t block, uint32_t account) {
    const bool idle = pkvi_prefix_is_idle(prefix, block);
    if (idle) pkvi_domain_leave(domain_of(prefix, block), block);
    if (prefix->indexed[block]) pkvi_domain_forget(domain_of(prefix, block), block);
    pkvi_quotas_count(prefix->pool->quotas, prefix->pool->account[block], idle - 1, -idle);
    pkvi_quotas_count(prefix->pool->quotas, account, 1 - idle, idle);
    prefix->pool->account[block] = (uint16_t)account;
    struct pkvi_domain* domain = domain_of(prefix, block);
    if (prefix->indexed[block]) domain->policy->enter(domain, block, NULL);
    if (idle) pkvi_domain_rest(domain, block);
}

/* ---- Moves ----------------------------------------------------------------------------------- */

/* Where the parent of a node has gone, if it has and the node is still its child. */
static uint32_t moved_parent(const struct pkvi_prefix* prefix, uint32_t node,
                             const uint32_t* forward) {
    const uint32_t parent = prefix->parent[node];
    if (parent == PKVI_NONE) return PKVI_NONE;
    if (prefix->parent_generation[node] != prefix->generation[parent]) return PKVI_NONE;
    return forward[parent];
}

/* Take every node whose key changes, or that moves, off its chain; name its parent anew. */
static void loosen_nodes(struct pkvi_prefix* prefix, const uint32_t* forward) {
    for (uint32_t node = 0; node < prefix->pool->block_count; node++) {
        if (!prefix->indexed[node]) continue;
        const uint32_t parent = moved_parent(prefix, node, forward);
        if (parent == PKVI_NONE && forward[node] == PKVI_NONE) continue;
        unfile_node(prefix, node);
        prefix->bucket[node] = PKVI_NONE;
        if (parent == PKVI_NONE) continue;
        prefix->parent[node] = parent;
        prefix->parent_generation[node] = prefix->generation[parent];
    }
}

static void move_node(struct pkvi_prefix* prefix, uint32_t from, uint32_t to) {
    struct pkvi_domain* domain = domain_of(prefix, from);
    pkvi_domain_move(domain, from, to);
    prefix->parent[to] = prefix->parent[from];
    prefix->parent_generation[to] = prefix->parent_generation[from];
    prefix->bucket[to] = PKVI_NONE;
    prefix->fill[to] = prefix->fill[from];
    prefix->begin[to] = prefix->begin[from];
    prefix->extra[to] = prefix->extra[from];
    prefix->published[to] = prefix->published[from];
    prefix->published[from] = 0;
    prefix->indexed[to] = 1;
    prefix->indexed[from] = 0;
    prefix->generation[from]++;
}

/* A block that is no node yet can be retained already. */
static void move_block(struct pkvi_prefix* prefix, uint32_t from, uint32_t to) {
    pkvi_retain_move(&prefix->shared.retention, from, to);
    if (prefix->indexed[from]) move_node(prefix, from, to);
}

void pkvi_prefix_follow(struct pkvi_prefix* prefix, const uint32_t* forward, uint32_t* nodes) {
    const uint32_t blocks = prefix->pool->block_count;
    const uint32_t count = pkvi_sibling_loosen(prefix, nodes);
    loosen_nodes(prefix, forward);
    for (uint32_t block = 0; block < blocks; block++)
        if (forward[block] != PKVI_NONE) move_block(prefix, block, forward[block]);
    for (uint32_t node = 0; node < blocks; node++)
        if (prefix->indexed[node] && prefix->bucket[node] == PKVI_NONE)
            file_node(prefix, node, pkvi_prefix_bucket(prefix, node));
    for (uint32_t i = 0; i < count; i++)
        pkvi_sibling_link(prefix, forward[nodes[i]] != PKVI_NONE ? forward[nodes[i]] : nodes[i]);
}
