/* prefix.h - the prefix index: which block holds the K/V of these tokens after that prefix.
 *
 * A radix tree over blocks, kept without node objects: a committed block is its own node, and all
 * that a node needs stands in arrays indexed by block number.
 *
 *   tenant 7 -> [The quick brown fox] -> [jumps over the lazy] -> ...
 *                 block 12, parent: root     block 31, parent: 12
 *
 * A child is found by hashing (tenant, parent, tokens) and then comparing all three: equal tokens
 * under the identical parent prove the whole prefix by induction, so the hash is never a proof.
 * A parent is named by block number and generation; when a node leaves the index its generation
 * moves on, which makes its children unreachable at once without visiting them. They go as they get
 * old.
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
 * Not     A chain of hashes over the whole prefix (as vLLM has it) makes a collision a wrong
 *         answer. Reference counts of children would let eviction skip inner nodes; the order makes
 *         it needless.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_PREFIX_H
#define PKVI_CORE_PREFIX_H

#include "base/hash.h"
#include "core/policy/policy.h"
#include "core/pool.h"

struct pkvi_prefix {
    struct pkvi_pool* pool;
    struct pkvi_hash_key key; /* secret: nobody can aim for a bucket */
    uint32_t bucket_mask;
    uint32_t* buckets;           /* first node of each chain */
    uint32_t* chain;             /* [block] next node of the bucket */
    uint32_t* bucket;            /* [block] in which it is filed */
    uint32_t* parent;            /* [block] parent's block, or PKVI_NONE: first page */
    uint32_t* parent_generation; /* [block] of the parent when the child was indexed */
    uint32_t* generation;        /* [block] counts how often it left the index */
    uint32_t* siblings;          /* first node of each chain of siblings, by hash */
    uint32_t* sibling_next;      /* [block] the next older one */
    uint32_t* sibling_previous;  /* [block] */
    uint16_t* fill;              /* [block] tokens of the node; block_tokens: it is full */
    uint8_t* indexed;            /* [block] 1: the block is a node */
    uint32_t node_count;
    struct pkvi_candidate* candidates; /* [block] */
    struct pkvi_domain domain;         /* to which all blocks belong */
};

int pkvi_prefix_open(struct pkvi_prefix* prefix, struct pkvi_pool* pool, struct pkvi_mem* mem,
                     struct pkvi_hash_key key, const struct pkvi_policy* policy);
void pkvi_prefix_close(struct pkvi_prefix* prefix, struct pkvi_mem* mem);

/* The node of `tokens` [block_tokens] under `parent` (PKVI_NONE: first page), or PKVI_NONE. */
uint32_t pkvi_prefix_find(const struct pkvi_prefix* prefix, uint64_t tenant, uint32_t parent,
                          const uint32_t* tokens);

/* Make the first `fill` tokens of `block`, whose tokens and owner are set, a node, unless there is
 * one with the same key. Returns the node: `block`, or the older one. pre: the parent is indexed. */
uint32_t pkvi_prefix_insert(struct pkvi_prefix* prefix, uint32_t block, uint32_t parent,
                            uint32_t fill, const struct pkvi_origin* origin);

/* Node `block`, which somebody holds, leaves the index; the block stays with its holders. */
void pkvi_prefix_forget(struct pkvi_prefix* prefix, uint32_t block);

/* A table takes or drops a reference to `block`, a node or not. */
void pkvi_prefix_ref(struct pkvi_prefix* prefix, uint32_t block);
void pkvi_prefix_unref(struct pkvi_prefix* prefix, uint32_t block);

/* A request found node `block` in the index, or computed it once more; pkvi_prefix_ref follows. */
void pkvi_prefix_use(struct pkvi_prefix* prefix, uint32_t block);

/* The bucket that node `block` belongs into, by its own record. */
uint32_t pkvi_prefix_bucket(const struct pkvi_prefix* prefix, uint32_t block);

/* How often the block has left the index; of the root, never. */
static inline uint32_t pkvi_prefix_generation(const struct pkvi_prefix* prefix, uint32_t parent) {
    return parent == PKVI_NONE ? 0 : prefix->generation[parent];
}

static inline bool pkvi_prefix_is_full(const struct pkvi_prefix* prefix, uint32_t block) {
    return prefix->indexed[block] && prefix->fill[block] == prefix->pool->block_tokens;
}

/* Does node `node` of `tenant` stand under `parent`, as that is now? */
static inline bool pkvi_prefix_is_child(const struct pkvi_prefix* prefix, uint32_t node,
                                        uint64_t tenant, uint32_t parent) {
    if (prefix->parent[node] != parent) return false;
    if (prefix->parent_generation[node] != pkvi_prefix_generation(prefix, parent)) return false;
    return prefix->pool->owner[node] == tenant;
}

/* Idle blocks of all domains. */
static inline uint32_t pkvi_prefix_idle_count(const struct pkvi_prefix* prefix) {
    return prefix->domain.idle_count;
}

/* Drop `count` idle blocks of `domain`, which its policy chooses; their numbers go to `blocks`.
 * pre: count <= domain->idle_count. */
void pkvi_prefix_evict(struct pkvi_prefix* prefix, struct pkvi_domain* domain, uint32_t count,
                       uint32_t* blocks);

#endif
