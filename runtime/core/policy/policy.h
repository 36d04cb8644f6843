/* policy.h - which cached block goes first when room is needed.
 *
 * The prefix index tells a policy by events what becomes of its nodes, and asks for victims:
 *
 *   enter --> [in use] --rest--> [idle] --hold--> [in use] ...
 *      use: a request      the last holder       a request
 *      found it            has let go            takes it     [idle] --evict--> (left the index)
 *
 *   candidate   what policies know of one block: a row of an array over all blocks. It means
 *               something while the block is indexed
 *   shared      the candidates, what is remembered of blocks that have left (ghost.h), and what was
 *               learned of reuse (reuse.h): one for all domains
 *   policy      a table of functions; it has no state of its own
 *   domain      one instance of a policy: heads of lists, counters. Cheap, so that there can be
 *               several; each block belongs to one, from entering the index until it leaves
 *
 * Blocks stand on the lists of their domain, each on one at most, and the policy says on which and
 * where. Every idle block stands on one; a block in use may keep its place (fifo, s3fifo). Blocks that
 * are retained with another priority than the default are hidden from the policy while they are idle,
 * and stand on lists of their own (retain.h).
 *
 * Holds   X2  the lists of a domain, those of retain.h among them, hold each of its idle blocks once,
 *             and blocks in use only where the policy keeps their places
 * Cost    an event is O(1); the choice of a victim looks at the heads of at most
 *         PKVI_DOMAIN_LISTS lists, and passes over a block in use once for each time it is held.
 * Tail    A request lets go of its last page first. A policy that treats blocks that are otherwise
 *         alike in this order takes leaves before their parents.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_POLICY_H
#define PKVI_CORE_POLICY_H

#include "base/limits.h"
#include "core/policy/ghost.h"
#include "core/policy/retain.h"
#include "core/policy/reuse.h"
#include <stdbool.h>

enum {
    PKVI_DOMAIN_LISTS = 224,
    PKVI_UNLISTED = 255,
    PKVI_USES_MAX = 127,  /* counts stop here */
    PKVI_FRESH_MAX = 127, /* likewise */
    PKVI_KIND_MAX = 127
};

/* What is known of a block, and where it stands. */
struct pkvi_candidate {
    uint32_t previous; /* neighbours on its list */
    uint32_t next;
    uint32_t rested;    /* clock of the domain's shared part when it last became idle */
    uint32_t uses : 7;  /* requests that computed or found it, as far as is remembered */
    uint32_t list : 8;  /* on which it stands, or PKVI_UNLISTED */
    uint32_t fresh : 7; /* pages of the sequence that brought it, up to this, never seen before */
    uint32_t seen : 2;  /* how many before those had been: a class of reuse.h */
    uint32_t kind : 7;  /* reuse: see reuse.h; others keep a small number here */
    uint32_t is_idle : 1;
};

struct pkvi_list {
    uint32_t head; /* goes first */
    uint32_t tail;
    uint32_t count;
};

struct pkvi_shared {
    struct pkvi_candidate* candidates; /* [blocks] */
    struct pkvi_ghosts* ghosts;        /* or NULL, where the policy asks for none */
    struct pkvi_reuse* reuse;          /* likewise */
    struct pkvi_offer* offer;          /* likewise */
    struct pkvi_retention retention;   /* of blocks that are retained */
    uint32_t block_count;
    uint32_t clock; /* blocks that requests have asked for */
};

/* A run is the pages that one sequence lets go of, last one first. */
struct pkvi_run {
    uint32_t page;  /* that went last, or PKVI_NONE */
    uint32_t pages; /* so far */
    uint32_t fresh; /* of the last page of the sequence */
    uint32_t seen;  /* likewise */
    uint32_t level; /* reuse: the highest so far */
};

/* What a policy that calls the application keeps for it. */
struct pkvi_offer {
    pkv_eviction_hook hook;
    pkv_candidate* candidates; /* [hook.offer_max] */
    uint32_t* pages;           /* [blocks] of the sequence that brought the block */
    uint32_t* names;           /* [blocks] victims that it named */
    uint32_t named;
    uint32_t used;      /* of the names */
    bool names_any;     /* it may name blocks that were not offered; there is one domain only */
    uint64_t fallbacks; /* victims that it named wrongly or not at all */
};

/* Blocks of one list of the policy "reuse", which became idle about the same time. */
struct pkvi_cohort {
    uint32_t start; /* clock when its first block, and its last one, became idle */
    uint32_t end;
    float score;
};

struct pkvi_domain {
    const struct pkvi_policy* policy;
    struct pkvi_shared* shared;
    struct pkvi_levels* levels; /* idle blocks that the policy does not see; NULL: there are none */
    uint32_t capacity;          /* blocks that it may have */
    uint32_t idle_count;        /* those among them */
    struct pkvi_run run;
    struct pkvi_list lists[PKVI_DOMAIN_LISTS];
    uint32_t version;       /* reuse: of the estimates behind the scores */
    uint32_t level;         /* lfu, greedydual: of the last victim; arc: target of its first list */
    uint32_t until_rescore; /* reuse: evictions until scores are old */
    uint32_t least;         /* reuse: list to take from, or PKVI_NONE: to be found */
    uint32_t cohort_count[PKVI_REUSE_LEVELS];      /* reuse: lists in use of each level */
    struct pkvi_cohort cohorts[PKVI_DOMAIN_LISTS]; /* reuse: of each list */
};

/* Every function but `prepare` is there. `block` is of this domain. */
struct pkvi_policy {
    const char* name;
    bool has_ghosts;  /* wants to know blocks that come back */
    bool learns;      /* wants estimates of reuse */
    bool keeps_place; /* blocks in use may stand on its lists */
    bool offers;      /* calls the application */
    /* The block has become a node and is in use; `was_ghost` says what it was when it left the
     * index, if that is remembered, or is NULL. */
    void (*enter)(struct pkvi_domain* domain, uint32_t block, const struct pkvi_ghost* was_ghost);
    /* It is in use, or idle, from now on. */
    void (*hold)(struct pkvi_domain* domain, uint32_t block);
    void (*rest)(struct pkvi_domain* domain, uint32_t block);
    /* It is idle, and leaves its list whatever its turn; pkvi_domain_remove where this is NULL. */
    void (*leave)(struct pkvi_domain* domain, uint32_t block);
    /* The list on which it stands; what its row says where this is NULL. */
    uint32_t (*list_of)(const struct pkvi_domain* domain, uint32_t block);
    /* `count` victims will be asked for next. May be NULL. */
    void (*prepare)(struct pkvi_domain* domain, uint32_t count);
    /* Choose an idle block and take it off its list; it leaves the index. pre: there is one. */
    uint32_t (*evict)(struct pkvi_domain* domain);
};

/* How a node came into the index. */
struct pkvi_origin {
    uint32_t page;    /* of the sequence */
    uint32_t matched; /* pages that the sequence had found in the index when it began */
};

/* The policy of a config: the application's, the one that it names, or the default; NULL for a
 * name that is none. */
const struct pkvi_policy* pkvi_policy_of(const pkv_config* config);

int pkvi_shared_open(struct pkvi_shared* shared, struct pkvi_mem* mem, uint32_t blocks,
                     const struct pkvi_policy* policy, const pkv_config* config);
void pkvi_shared_close(struct pkvi_shared* shared, struct pkvi_mem* mem);

/* A domain that may have `capacity` blocks. */
void pkvi_domain_init(struct pkvi_domain* domain, const struct pkvi_policy* policy,
                      struct pkvi_shared* shared, uint32_t capacity);

/* The events; see above. `parent` is the node of the page before, or PKVI_NONE; equal identities
 * are taken for the same block that comes back. A block in use that leaves the index is
 * forgotten. */
void pkvi_domain_enter(struct pkvi_domain* domain, uint32_t block, uint32_t parent,
                       uint32_t identity, const struct pkvi_origin* origin);
void pkvi_domain_forget(struct pkvi_domain* domain, uint32_t block);
void pkvi_domain_gone(struct pkvi_domain* domain, uint32_t block); /* it is no node any more */
void pkvi_domain_use(struct pkvi_domain* domain, uint32_t block);
void pkvi_domain_hold(struct pkvi_domain* domain, uint32_t block);
void pkvi_domain_rest(struct pkvi_domain* domain, uint32_t block, uint32_t page);

/* An idle block leaves the domain, whatever its turn: it is dropped, or goes to another one. */
void pkvi_domain_leave(struct pkvi_domain* domain, uint32_t block);

/* The level of an idle block has lapsed: it is the policy's from now on. */
void pkvi_domain_lapse(struct pkvi_domain* domain, uint32_t block, uint32_t page);

/* `count` victims will be taken next. pre: count <= idle_count. */
void pkvi_domain_prepare(struct pkvi_domain* domain, uint32_t count);

/* Take one. Whoever wants it to be known when it comes back lets it be remembered at once, which
 * does nothing for those that were hidden from the policy. */
uint32_t pkvi_domain_evict(struct pkvi_domain* domain);
void pkvi_domain_remember(struct pkvi_domain* domain, uint32_t block, uint32_t identity);

/* For policies: put a block at the tail of a list; take it off the list that it stands on; take the
 * head of a list off. */
void pkvi_domain_append(struct pkvi_domain* domain, uint32_t list, uint32_t block);
void pkvi_domain_remove(struct pkvi_domain* domain, uint32_t block);
uint32_t pkvi_domain_pop(struct pkvi_domain* domain, uint32_t list);

static inline struct pkvi_candidate* pkvi_candidate(const struct pkvi_domain* domain,
                                                    uint32_t block) {
    return &domain->shared->candidates[block];
}

/* Block `from` is called `to` from now on, and stands where it stood. pre: `to` is no node. */
void pkvi_domain_move(struct pkvi_domain* domain, uint32_t from, uint32_t to);

#endif
