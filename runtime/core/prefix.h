/* prefix.h - the prefix index: which block holds the K/V of these tokens after that prefix.
 *
 * A radix tree over blocks: a committed block is its own node, and all that a node needs stands in
 * one row of an array over all blocks.
 *
 *   tenant 7 -> [The quick brown fox] -> [jumps over the lazy] -> ...
 *                 block 12, parent: root     block 31, parent: 12
 *
 * A child is found by its identity, a hash of its tokens and of the identity of its parent, and then
 * by comparing tenant, parent and tokens: equal tokens under the identical parent prove the whole
 * prefix by induction, so the hash is never a proof. A parent is named by block number and
 * generation; when a node leaves the index its generation moves on, which makes its children
 * unreachable at once without visiting them. They go as they get old.
 *
 * Extra keys (extra.h) are part of the key of a node: who has others does not find it. A tenant may
 * publish a prefix: its nodes are then filed as nobody's, where every tenant looks behind its own.
 * The block of a published node stays its owner's, who paid for it, until it leaves the index; it
 * is scrubbed like any other before somebody else gets it.
 *
 * Most nodes are full. The last, partly filled page of a sequence that has ended is a partial node;
 * it has no children. A hit may end within a node of either kind: the sequence attaches the block
 * with its length in the middle, and copies it before it writes (reserve.c). Which nodes share the
 * beginning of a block is seen from their siblings (sibling.h).
 *
 * Blocks that only the index names are idle, and a policy says which of them goes first when room
 * is needed (policy/policy.h). Sequences let go from their last page to their first, so that a
 * policy can let leaves go before their parents.
 *
 * Holds   X1  a node's block has one reference from the index
 *         X2  idle, that is on a list of its domain  <=>  indexed and refs == 1
 *         X3  every node is on the chain of its hash bucket; no two nodes have equal keys
 *         X4  tokens of a node's block never change: before it is written it is copied, or leaves
 *             the index
 *         X5  every node is on the chain of its siblings
 *         X6  published nodes are full
 * Not     A chain of hashes over the whole prefix (as vLLM has it) makes a collision a wrong
 *         answer. Reference counts of children would let eviction skip inner nodes; the order makes
 *         it needless.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_PREFIX_H
#define PKVI_CORE_PREFIX_H

#include "base/hash.h"
#include "core/extra.h"
#include "core/policy/policy.h"
#include "core/pool.h"

/* Where the children are that are looked for. */
struct pkvi_place {
    uint64_t tenant;
    uint32_t parent; /* PKVI_NONE: first page */
    uint32_t extra;  /* set of extra keys, or PKVI_NO_EXTRA */
    uint32_t begin;  /* position of their first token */
    bool is_public;  /* published ones, of whatever tenant */
};

enum { PKVI_END_MAX = (1 << 28) - 1 };

/* A block that is a node, or has been one. */
struct pkvi_node {
    uint32_t chain;             /* next node of its bucket */
    uint32_t identity;          /* hash of its tokens and extra keys and of all before them */
    uint32_t parent;            /* block, or PKVI_NONE: it is a first page */
    uint32_t parent_generation; /* of the parent when the node was indexed */
    uint32_t generation;        /* counts how often the block left the index */
    uint32_t sibling_next;      /* the next older one */
    uint32_t sibling_previous;  /* or PKVI_SIBLING_FIRST and the number of the bucket */
    uint32_t extra;             /* set of extra keys, if it has any over its positions */
    uint32_t end : 28;          /* position behind its last token */
    uint32_t indexed : 1;
    uint32_t published : 1; /* every tenant finds it */
};

struct pkvi_prefix {
    struct pkvi_pool* pool;
    struct pkvi_extras extras;
    struct pkvi_hash_key key; /* secret: nobody can aim for a bucket */
    struct pkvi_node* nodes;  /* [blocks] */
    uint32_t* buckets;        /* first node of each chain */
    uint32_t* siblings;       /* first node of each chain of siblings (sibling.h) */
    uint32_t bucket_count;
    uint32_t sibling_count; /* buckets of them */
    uint32_t node_count;
    uint32_t published_count;
    struct pkvi_shared shared;   /* what all domains know */
    struct pkvi_domain* domains; /* one for each account of the pool (quota.h) */
};

int pkvi_prefix_open(struct pkvi_prefix* prefix, struct pkvi_pool* pool, struct pkvi_mem* mem,
                     struct pkvi_hash_key key, const pkv_config* config);
void pkvi_prefix_close(struct pkvi_prefix* prefix, struct pkvi_mem* mem);

/* The node of `tokens` [block_tokens] at a place, or PKVI_NONE. Published ones are looked for too,
 * after those of the tenant. */
uint32_t pkvi_prefix_find(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                          const uint32_t* tokens);

/* Make the first `fill` tokens of `block`, whose tokens and owner are set, a node of its owner,
 * unless there is one with the same key, or a published one. Returns the node: `block`, or the
 * older one. pre: the parent is indexed. */
uint32_t pkvi_prefix_insert(struct pkvi_prefix* prefix, uint32_t block,
                            const struct pkvi_place* place, uint32_t fill,
                            const struct pkvi_origin* origin);

/* Node `block` has the extra keys over its positions that set `extra` has: name that from now on,
 * since somebody holds it. */
void pkvi_prefix_rename_extra(struct pkvi_prefix* prefix, uint32_t block, uint32_t extra);

/* Let every tenant find node `block` behind `parent`, which is published or PKVI_NONE. */
void pkvi_prefix_publish(struct pkvi_prefix* prefix, uint32_t block, uint32_t parent);

/* Node `block`, which somebody holds, leaves the index; the block stays with its holders. */
void pkvi_prefix_forget(struct pkvi_prefix* prefix, uint32_t block);

/* A table takes or drops a reference to `block`, a node or not. */
void pkvi_prefix_ref(struct pkvi_prefix* prefix, uint32_t block);
void pkvi_prefix_unref(struct pkvi_prefix* prefix, uint32_t block);

/* A table drops its reference to `own` for one to `node`, which has the same tokens: what was asked
 * for `own` is asked for `node`, unless that is another tenant's. */
void pkvi_prefix_merge(struct pkvi_prefix* prefix, uint32_t own, uint32_t node);

/* A request found node `block` in the index, or computed it once more; pkvi_prefix_ref follows. */
void pkvi_prefix_use(struct pkvi_prefix* prefix, uint32_t block);

/* The bucket that node `block` belongs into, by its own record. */
uint32_t pkvi_prefix_bucket(const struct pkvi_prefix* prefix, uint32_t block);

/* What node `block` hashes to after a parent of this identity. */
uint32_t pkvi_prefix_identity(const struct pkvi_prefix* prefix, uint32_t block,
                              uint32_t parent_identity);

/* Spread a value over 32 bits, by a secret factor (multiply-shift, Dietzfelbinger et al., 1997). */
static inline uint32_t pkvi_prefix_mix(const struct pkvi_prefix* prefix, uint64_t value) {
    return (uint32_t)((value ^ prefix->key.k0) * (prefix->key.k1 | 1) >> 32);
}

/* One of `count` buckets, by the upper bits of a hash. */
static inline uint32_t pkvi_prefix_scale(uint32_t hash, uint32_t count) {
    return (uint32_t)((uint64_t)hash * count >> 32);
}

/* The identity that children are hashed with. */
static inline uint32_t pkvi_prefix_parent_identity(const struct pkvi_prefix* prefix,
                                                   uint32_t parent) {
    return parent == PKVI_NONE ? 0 : prefix->nodes[parent].identity;
}

/* Position of the first token of node `block`, and how many tokens it has. */
static inline uint32_t pkvi_prefix_begin(const struct pkvi_prefix* prefix, uint32_t block) {
    const uint32_t last = prefix->nodes[block].end - 1;
    return last - pkvi_pool_offset(prefix->pool, last);
}

static inline uint32_t pkvi_prefix_fill(const struct pkvi_prefix* prefix, uint32_t block) {
    return prefix->nodes[block].end - pkvi_prefix_begin(prefix, block);
}

/* How often the block has left the index; of the root, never. */
static inline uint32_t pkvi_prefix_generation(const struct pkvi_prefix* prefix, uint32_t parent) {
    return parent == PKVI_NONE ? 0 : prefix->nodes[parent].generation;
}

/* The node before node `block`, or PKVI_NONE: there is none, or it has left the index. */
static inline uint32_t pkvi_prefix_parent(const struct pkvi_prefix* prefix, uint32_t block) {
    const struct pkvi_node* node = &prefix->nodes[block];
    const bool is_there = node->parent_generation == pkvi_prefix_generation(prefix, node->parent);
    return is_there ? node->parent : PKVI_NONE;
}

static inline bool pkvi_prefix_is_full(const struct pkvi_prefix* prefix, uint32_t block) {
    const struct pkvi_node* node = &prefix->nodes[block];
    return node->indexed && pkvi_pool_offset(prefix->pool, node->end) == 0;
}

/* Does node `block` stand at a place, whatever its tokens and extra keys? */
static inline bool pkvi_prefix_is_child(const struct pkvi_prefix* prefix, uint32_t block,
                                        const struct pkvi_place* place) {
    const struct pkvi_node* node = &prefix->nodes[block];
    if (node->parent != place->parent) return false;
    if (node->parent_generation != pkvi_prefix_generation(prefix, place->parent)) return false;
    if (node->published != place->is_public) return false;
    return place->is_public || prefix->pool->blocks[block].owner == place->tenant;
}

/* Where the children of a published parent are published. */
static inline struct pkvi_place pkvi_place_public(const struct pkvi_place* place) {
    struct pkvi_place result = *place;
    result.is_public = true;
    return result;
}

/* Blocks have moved: forward[b] is where b is now, or PKVI_NONE. Their nodes follow them, with their
 * children and their places among siblings and in the order of eviction. */
void pkvi_prefix_follow(struct pkvi_prefix* prefix, const uint32_t* forward);

/* Does only the index name it, so that its policy may choose it? */
static inline bool pkvi_prefix_is_idle(const struct pkvi_prefix* prefix, uint32_t block) {
    return prefix->nodes[block].indexed && prefix->pool->blocks[block].refs == 1;
}

/* Idle blocks of all domains. */
static inline uint32_t pkvi_prefix_idle_count(const struct pkvi_prefix* prefix) {
    return prefix->pool->quotas->cached;
}

/* Drop `count` idle blocks of `account`, which its policy chooses; their numbers go to `blocks`.
 * pre: so many are idle. */
void pkvi_prefix_evict(struct pkvi_prefix* prefix, uint32_t account, uint32_t count,
                       uint32_t* blocks);

/* Let the policy of an account, which is empty, begin anew. */
void pkvi_prefix_renew(struct pkvi_prefix* prefix, uint32_t account);

/* Count a block that is taken on another account from now on; its policy begins anew with it. */
void pkvi_prefix_move(struct pkvi_prefix* prefix, uint32_t block, uint32_t account);

/* `block`, which is idle, takes the place of one that becomes so now. */
void pkvi_prefix_rest_again(struct pkvi_prefix* prefix, uint32_t block);

/* Drop `block`, which is idle, whatever its turn. */
void pkvi_prefix_drop(struct pkvi_prefix* prefix, uint32_t block);

/* The priority of `block`, which is idle, has lapsed (policy/retain.h). */
void pkvi_prefix_lapse(struct pkvi_prefix* prefix, uint32_t block);

#endif
