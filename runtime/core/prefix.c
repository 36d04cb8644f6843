/* prefix.c - see prefix.h for the idea and the invariants. */
#include "core/prefix.h"

#include "base/limits.h"
#include "core/sibling.h"
#include <assert.h>
#include <string.h>

enum { NODES_PER_BUCKET = 2, NODES_PER_SIBLINGS = 4 };

/* The same for the same tokens and extra keys after the same prefix, whoever has it: tenants are
 * told apart by the bucket, and by comparing. */
static uint32_t identity_of(const struct pkvi_prefix* prefix, uint32_t parent_identity,
                            const struct pkvi_place* place, const uint32_t* tokens,
                            uint32_t count) {
    struct {
        uint64_t extra;
        uint64_t parent; /* so wide that words of the hash are not put together from two writes */
        uint32_t tokens[PKV_BLOCK_TOKENS_MAX];
    } key;
    const size_t token_bytes = count * sizeof *tokens;
    key.extra = pkvi_extra_hash(&prefix->extras, place->extra, place->begin, place->begin + count);
    key.parent = parent_identity;
    memcpy(key.tokens, tokens, token_bytes);
    return (uint32_t)pkvi_hash(prefix->key, &key, offsetof(__typeof__(key), tokens) + token_bytes);
}

uint32_t pkvi_prefix_identity(const struct pkvi_prefix* prefix, uint32_t block,
                              uint32_t parent_identity) {
    const struct pkvi_place place = {.extra = prefix->nodes[block].extra,
                                     .begin = pkvi_prefix_begin(prefix, block)};
    return identity_of(prefix, parent_identity, &place, pkvi_pool_tokens(prefix->pool, block),
                       pkvi_prefix_fill(prefix, block));
}

/* Where nodes of this identity are that a tenant has, or that are published. */
static uint32_t bucket_of(const struct pkvi_prefix* prefix, uint32_t identity, uint64_t tenant,
                          bool is_public) {
    const uint32_t mixed = pkvi_prefix_mix(prefix, is_public ? UINT64_MAX : tenant);
    return pkvi_prefix_scale(identity ^ mixed, prefix->bucket_count);
}

uint32_t pkvi_prefix_bucket(const struct pkvi_prefix* prefix, uint32_t block) {
    const struct pkvi_node* node = &prefix->nodes[block];
    return bucket_of(prefix, node->identity, prefix->pool->blocks[block].owner, node->published);
}

/* A policy remembers blocks of each tenant apart. */
static uint32_t ghost_of(const struct pkvi_prefix* prefix, uint32_t block) {
    const uint64_t owner = prefix->pool->blocks[block].owner;
    return prefix->nodes[block].identity ^ pkvi_prefix_mix(prefix, owner);
}

static uint32_t bucket_count_for(uint32_t nodes, uint32_t nodes_per_bucket) {
    const uint32_t most = 1U << PKVI_HASH_BITS_MAX;
    const uint32_t wanted = pkvi_ceil_div(nodes, nodes_per_bucket);
    return wanted < most ? wanted : most;
}

static int open_buckets(struct pkvi_mem* mem, uint32_t count, uint32_t** buckets) {
    PKVI_TRY(pkvi_mem_take(mem, count, sizeof **buckets, (void**)buckets));
    memset(*buckets, 0xff, count * sizeof **buckets); /* PKVI_NONE */
    return PKV_OK;
}

int pkvi_prefix_open(struct pkvi_prefix* prefix, struct pkvi_pool* pool, struct pkvi_mem* mem,
                     struct pkvi_hash_key key, const pkv_config* config) {
    const uint32_t blocks = pool->block_count;
    *prefix = (struct pkvi_prefix){
        .pool = pool,
        .key = key,
        .bucket_count = bucket_count_for(blocks, NODES_PER_BUCKET),
        .sibling_count = bucket_count_for(blocks, NODES_PER_SIBLINGS),
    };
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *prefix->nodes, (void**)&prefix->nodes));
    const struct pkvi_policy* policy = pkvi_policy_of(config);
    PKVI_TRY(pkvi_shared_open(&prefix->shared, mem, blocks, policy, config));
    const uint32_t domains = pool->quotas->account_max + 1;
    PKVI_TRY(pkvi_mem_take(mem, domains, sizeof *prefix->domains, (void**)&prefix->domains));
    struct pkvi_retention* retention = &prefix->shared.retention;
    PKVI_TRY(pkvi_retention_open(retention, mem, blocks, config->retained_max, domains));
    for (uint32_t i = 0; i < domains; i++) {
        if (retention->levels != NULL) prefix->domains[i].levels = &retention->levels[i];
        pkvi_domain_init(&prefix->domains[i], policy, &prefix->shared, blocks);
    }
    PKVI_TRY(open_buckets(mem, prefix->bucket_count, &prefix->buckets));
    PKVI_TRY(open_buckets(mem, prefix->sibling_count, &prefix->siblings));
    return pkvi_extras_open(&prefix->extras, mem, key, config->key_sets_max, config->key_bytes_max);
}

void pkvi_prefix_close(struct pkvi_prefix* prefix, struct pkvi_mem* mem) {
    pkvi_extras_close(&prefix->extras, mem);
    pkvi_mem_give(mem, prefix->siblings);
    pkvi_mem_give(mem, prefix->buckets);
    pkvi_retention_close(&prefix->shared.retention, mem);
    pkvi_mem_give(mem, prefix->domains);
    pkvi_shared_close(&prefix->shared, mem);
    pkvi_mem_give(mem, prefix->nodes);
}

/* ---- Find ------------------------------------------------------------------------------------ */

/* What is looked for. */
struct key {
    const struct pkvi_place* place;
    const uint32_t* tokens;
    uint32_t count;
    uint32_t identity;
};

static struct key key_of(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                         const uint32_t* tokens, uint32_t count) {
    const uint32_t parent = pkvi_prefix_parent_identity(prefix, place->parent);
    return (struct key){place, tokens, count, identity_of(prefix, parent, place, tokens, count)};
}

static bool node_has_key(const struct pkvi_prefix* prefix, uint32_t block, const struct key* key,
                         const struct pkvi_place* place) {
    const struct pkvi_node* node = &prefix->nodes[block];
    if (node->identity != key->identity) return false;
    if (!pkvi_prefix_is_child(prefix, block, place)) return false;
    if (node->end != place->begin + key->count) return false;
    const uint32_t common =
        pkvi_extra_common(&prefix->extras, node->extra, place->extra, place->begin, key->count);
    if (common != key->count) return false;
    const uint32_t* tokens = pkvi_pool_tokens(prefix->pool, block);
    return memcmp(tokens, key->tokens, key->count * sizeof *tokens) == 0;
}

static uint32_t find_at(const struct pkvi_prefix* prefix, const struct key* key,
                        const struct pkvi_place* place) {
    const uint32_t bucket = bucket_of(prefix, key->identity, place->tenant, place->is_public);
    uint32_t block = prefix->buckets[bucket];
    while (block != PKVI_NONE && !node_has_key(prefix, block, key, place))
        block = prefix->nodes[block].chain;
    return block;
}

/* The node of the tenant, or a published one; where only those are looked for, one of them. */
static uint32_t find_either(const struct pkvi_prefix* prefix, const struct key* key) {
    const uint32_t node = find_at(prefix, key, key->place);
    if (node != PKVI_NONE || key->place->is_public || prefix->published_count == 0) return node;
    const struct pkvi_place published = pkvi_place_public(key->place);
    return find_at(prefix, key, &published);
}

uint32_t pkvi_prefix_find(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                          const uint32_t* tokens) {
    const struct key key = key_of(prefix, place, tokens, prefix->pool->block_tokens);
    return find_either(prefix, &key);
}

/* ---- Nodes come and go ----------------------------------------------------------------------- */

static struct pkvi_domain* domain_of(const struct pkvi_prefix* prefix, uint32_t block) {
    return &prefix->domains[prefix->pool->blocks[block].account];
}

static uint32_t* chain_of(struct pkvi_prefix* prefix, uint32_t node) {
    return &prefix->buckets[pkvi_prefix_bucket(prefix, node)];
}

/* Onto the chains that its row says. */
static void link_node(struct pkvi_prefix* prefix, uint32_t node) {
    uint32_t* first = chain_of(prefix, node);
    prefix->nodes[node].chain = *first;
    *first = node;
    pkvi_sibling_link(prefix, node);
}

/* Off them; or `heir`, unless it is PKVI_NONE, takes its place on the first. */
static void unchain_node(struct pkvi_prefix* prefix, uint32_t node, uint32_t heir) {
    uint32_t* link = chain_of(prefix, node);
    while (*link != node)
        link = &prefix->nodes[*link].chain;
    *link = heir != PKVI_NONE ? heir : prefix->nodes[node].chain;
}

static void unlink_node(struct pkvi_prefix* prefix, uint32_t node) {
    unchain_node(prefix, node, PKVI_NONE);
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

uint32_t pkvi_prefix_insert(struct pkvi_prefix* prefix, uint32_t block,
                            const struct pkvi_place* place, uint32_t fill,
                            const struct pkvi_origin* origin) {
    struct pkvi_node* node = &prefix->nodes[block];
    assert(!node->indexed);
    assert(!place->is_public);
    assert(place->parent == PKVI_NONE || pkvi_prefix_is_full(prefix, place->parent));
    const struct key key = key_of(prefix, place, pkvi_pool_tokens(prefix->pool, block), fill);
    const uint32_t equal = find_either(prefix, &key);
    if (equal != PKVI_NONE) return equal;
    node->identity = key.identity;
    node->parent = place->parent;
    node->parent_generation = pkvi_prefix_generation(prefix, place->parent);
    node->extra = extra_of(prefix, place, fill);
    node->end = (place->begin + fill) & PKVI_END_MAX;
    node->indexed = 1;
    node->published = 0;
    link_node(prefix, block);
    prefix->node_count++;
    pkvi_pool_ref(prefix->pool, block);
    pkvi_domain_enter(domain_of(prefix, block), block, place->parent, ghost_of(prefix, block),
                      origin);
    return block;
}

void pkvi_prefix_publish(struct pkvi_prefix* prefix, uint32_t block, uint32_t parent) {
    struct pkvi_node* node = &prefix->nodes[block];
    assert(pkvi_prefix_is_full(prefix, block));
    unlink_node(prefix, block);
    node->parent = parent;
    node->parent_generation = pkvi_prefix_generation(prefix, parent);
    prefix->published_count += !node->published;
    node->published = 1;
    link_node(prefix, block);
}

void pkvi_prefix_rename_extra(struct pkvi_prefix* prefix, uint32_t block, uint32_t extra) {
    struct pkvi_node* node = &prefix->nodes[block];
    if (node->extra != PKVI_NO_EXTRA) node->extra = extra;
}

static void remove_node(struct pkvi_prefix* prefix, uint32_t block) {
    struct pkvi_node* node = &prefix->nodes[block];
    unlink_node(prefix, block);
    pkvi_domain_gone(domain_of(prefix, block), block);
    prefix->published_count -= node->published;
    node->published = 0;
    node->indexed = 0;
    node->generation++;
    prefix->node_count--;
}

void pkvi_prefix_forget(struct pkvi_prefix* prefix, uint32_t block) {
    assert(prefix->pool->blocks[block].refs > 1);
    pkvi_domain_forget(domain_of(prefix, block), block);
    remove_node(prefix, block);
    pkvi_pool_unref(prefix->pool, block);
}

/* ---- What the policy sees -------------------------------------------------------------------- */

static uint32_t page_of(const struct pkvi_prefix* prefix, uint32_t block) {
    return pkvi_pool_page(prefix->pool, prefix->nodes[block].end - 1);
}

void pkvi_prefix_use(struct pkvi_prefix* prefix, uint32_t block) {
    pkvi_domain_use(domain_of(prefix, block), block);
}

void pkvi_prefix_ref(struct pkvi_prefix* prefix, uint32_t block) {
    if (pkvi_prefix_is_idle(prefix, block)) {
        pkvi_domain_hold(domain_of(prefix, block), block);
        pkvi_quotas_wake(prefix->pool->quotas, prefix->pool->blocks[block].account);
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
    pkvi_domain_rest(domain_of(prefix, block), block, page_of(prefix, block));
    pkvi_quotas_rest(prefix->pool->quotas, prefix->pool->blocks[block].account);
    pkvi_pool_note_idle(prefix->pool, block, true);
}

void pkvi_prefix_merge(struct pkvi_prefix* prefix, uint32_t own, uint32_t node) {
    struct pkvi_retention* retention = &prefix->shared.retention;
    const struct pkvi_pool* pool = prefix->pool;
    const bool is_last = pool->blocks[own].refs == 1; /* its row is free for the other then */
    if (is_last && pool->blocks[own].owner == pool->blocks[node].owner &&
        pkvi_is_retained(retention, own)) {
        const struct pkvi_terms terms = retention->rows[retention->row_of[own]].terms;
        pkvi_retain_forget(retention, own);
        pkvi_retain(retention, node, &terms);
    }
    pkvi_prefix_unref(prefix, own);
}

/* An idle block that its policy has let go of. */
static void drop(struct pkvi_prefix* prefix, uint32_t block) {
    pkvi_pool_note_idle(prefix->pool, block, false);
    pkvi_quotas_wake(prefix->pool->quotas, prefix->pool->blocks[block].account);
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
    pkvi_domain_lapse(domain_of(prefix, block), block, page_of(prefix, block));
}

void pkvi_prefix_rest_again(struct pkvi_prefix* prefix, uint32_t block) {
    struct pkvi_domain* domain = domain_of(prefix, block);
    assert(pkvi_prefix_is_idle(prefix, block));
    if (pkvi_is_retained(&prefix->shared.retention, block))
        pkvi_domain_hold(domain, block); /* times begin anew */
    else
        pkvi_domain_leave(domain, block); /* nobody has asked for it: nothing to learn from */
    pkvi_domain_rest(domain, block, page_of(prefix, block));
}

void pkvi_prefix_evict(struct pkvi_prefix* prefix, uint32_t account, uint32_t count,
                       uint32_t* blocks) {
    struct pkvi_domain* domain = &prefix->domains[account];
    assert(count <= domain->idle_count);
    pkvi_domain_prepare(domain, count);
    for (uint32_t i = 0; i < count; i++) {
        blocks[i] = pkvi_domain_evict(domain);
        pkvi_domain_remember(domain, blocks[i], ghost_of(prefix, blocks[i]));
        drop(prefix, blocks[i]);
    }
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
    if (prefix->nodes[block].indexed) pkvi_domain_forget(domain_of(prefix, block), block);
    pkvi_quotas_count(prefix->pool->quotas, prefix->pool->blocks[block].account, idle - 1, -idle);
    pkvi_quotas_count(prefix->pool->quotas, account, 1 - idle, idle);
    prefix->pool->blocks[block].account = account;
    struct pkvi_domain* domain = domain_of(prefix, block);
    if (prefix->nodes[block].indexed) domain->policy->enter(domain, block, NULL);
    if (idle) pkvi_domain_rest(domain, block, page_of(prefix, block));
}

/* ---- Moves ----------------------------------------------------------------------------------- */

/* Name the parent of a node anew, if that has moved and the node is still its child. */
static void follow_parent(struct pkvi_prefix* prefix, uint32_t block, const uint32_t* forward) {
    struct pkvi_node* node = &prefix->nodes[block];
    const uint32_t parent = pkvi_prefix_parent(prefix, block);
    if (parent == PKVI_NONE || forward[parent] == PKVI_NONE) return;
    node->parent = forward[parent];
    node->parent_generation = prefix->nodes[forward[parent]].generation;
}

/* Its row goes with it, except for the generation, which is the block's. The bytes and the owner
 * have moved already. */
static void move_node(struct pkvi_prefix* prefix, uint32_t from, uint32_t to) {
    struct pkvi_node* old = &prefix->nodes[from];
    struct pkvi_node* node = &prefix->nodes[to];
    const uint32_t generation = node->generation;
    unchain_node(prefix, from, to);
    *node = *old;
    node->generation = generation;
    pkvi_sibling_replace(prefix, from, to);
    pkvi_domain_move(domain_of(prefix, to), from, to);
    old->published = 0;
    old->indexed = 0;
    old->generation++;
}

/* A block that is no node yet can be retained already. */
static void move_block(struct pkvi_prefix* prefix, uint32_t from, uint32_t to) {
    pkvi_retain_move(&prefix->shared.retention, from, to);
    if (prefix->nodes[from].indexed) move_node(prefix, from, to);
}

void pkvi_prefix_follow(struct pkvi_prefix* prefix, const uint32_t* forward) {
    const uint32_t blocks = prefix->pool->block_count;
    for (uint32_t block = 0; block < blocks; block++)
        if (prefix->nodes[block].indexed) follow_parent(prefix, block, forward);
    for (uint32_t block = 0; block < blocks; block++)
        if (forward[block] != PKVI_NONE) move_block(prefix, block, forward[block]);
}
