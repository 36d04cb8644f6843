/* policy.h - which cached block goes first when room is needed.
 *
 * The prefix index tells a policy by events what becomes of its nodes, and asks for victims:
 *
 *   enter --> [in use] --rest--> [idle] --hold--> [in use] ...
 *      use: a request      the last holder       a request
 *      found it            has let go            takes it     [idle] --evict--> (left the index)
 *
 *   candidate   what policies know of one block: a row of an array over all blocks, which all
 *               domains share. It means something while the block is indexed
 *   policy      a table of functions; it has no state of its own
 *   domain      one instance of a policy: heads of lists, counters. Cheap, so that there can be
 *               several; each block belongs to one, from entering the index until it leaves
 *
 * Idle blocks of a domain stand on its lists, each on one of them, and the policy says on which and
 * where. Everybody else may walk the lists, which is how pkv_check sees them.
 *
 * Holds   X2  the lists of a domain hold exactly those of its nodes that only the index names
 * Cost    events and the choice of one victim are O(1), or O(log n) where the policy says so.
 * Tail    A request lets go of its last page first. A policy that treats blocks that are otherwise
 *         alike in this order takes leaves before their parents.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_POLICY_H
#define PKVI_CORE_POLICY_H

#include "base/mem.h"
#include <stdbool.h>

#define PKVI_NONE UINT32_MAX /* end of a list, no block, no extent */

enum { PKVI_DOMAIN_LISTS = 1 };

/* Where a block stands. */
struct pkvi_candidate {
    uint32_t previous; /* neighbours on its list, while it is idle */
    uint32_t next;
};

struct pkvi_list {
    uint32_t head; /* goes first */
    uint32_t tail;
    uint32_t count;
};

/* How a node came into the index. */
struct pkvi_origin {
    uint32_t page;    /* of the sequence */
    uint32_t matched; /* pages that the sequence had found in the index when it began */
    uint32_t behind;  /* pages that were committed with it and come after it */
};

struct pkvi_domain {
    const struct pkvi_policy* policy;
    struct pkvi_candidate* candidates; /* [blocks] shared by all domains */
    uint32_t idle_count;               /* of all lists */
    struct pkvi_list lists[PKVI_DOMAIN_LISTS];
};

/* Every function is there. `block` is of this domain. */
struct pkvi_policy {
    const char* name;
    /* The block has become a node; it is in use. */
    void (*enter)(struct pkvi_domain* domain, uint32_t block, const struct pkvi_origin* origin);
    /* A request found it in the index; `hold` follows if it was idle. */
    void (*use)(struct pkvi_domain* domain, uint32_t block);
    /* It is in use, or idle, from now on: off and onto a list. */
    void (*hold)(struct pkvi_domain* domain, uint32_t block);
    void (*rest)(struct pkvi_domain* domain, uint32_t block);
    /* Choose an idle block and take it off its list; it leaves the index. pre: idle_count > 0. */
    uint32_t (*evict)(struct pkvi_domain* domain);
};

extern const struct pkvi_policy pkvi_policy_lru;

void pkvi_domain_init(struct pkvi_domain* domain, const struct pkvi_policy* policy,
                      struct pkvi_candidate* candidates);

/* Put an idle block at the tail of a list, or take it off. */
void pkvi_domain_append(struct pkvi_domain* domain, uint32_t list, uint32_t block);
void pkvi_domain_remove(struct pkvi_domain* domain, uint32_t list, uint32_t block);

#endif
