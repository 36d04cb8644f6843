/* plan.h - what one step computes: a batch of reservations, and the arrays that kernels read. Entries
 * can be token trees (tree.h).
 *
 * Rows of the block table stay where they are between steps. Row r remembers which sequence it
 * showed, at which version of its table, and how many pages; when the same sequence comes back at
 * the same version, only new pages are appended. An engine that keeps its batch in order therefore
 * rewrites nothing.
 *
 * Holds   L1  a sequence is in at most one open plan
 *         L2  row r of an open plan equals the page table of its sequence
 *         L3  a new token stands one position behind its parent, which comes before it; without a
 *             parent, behind the committed tokens
 * Threads the cache's lock; `users` counts kernels that read the arrays outside it. */
#ifndef PKVI_CORE_PLAN_H
#define PKVI_CORE_PLAN_H

#include "core/reserve.h"

/* What a row of the block table shows. */
struct pkvi_row {
    uint64_t seq_id;
    uint32_t version;
    uint32_t pages;
};

struct pkvi_plan {
    uint32_t generation;
    uint32_t entries;
    uint32_t tokens;
    uint32_t users;      /* writes and attends that run now */
    uint32_t tree_count; /* entries that are trees */
    uint32_t next_free;
    bool open;
    struct pkvi_graph graph; /* of pkv_graph_begin; 0 sequences: an ordinary plan */
    pkv_seq* seqs;           /* [plan_sequences_max] */
    uint32_t* starts;        /* [plan_sequences_max + 1] */
    uint32_t* lengths;       /* [plan_sequences_max] */
    uint32_t* positions;     /* [plan_tokens_max] */
    uint32_t* slots;         /* [plan_tokens_max] */
    uint32_t* parents;       /* [plan_tokens_max] of entries that are trees */
    struct pkvi_tree* trees; /* [plan_sequences_max] */
    struct pkvi_row* rows;   /* [plan_sequences_max] */
    uint32_t* block_table;   /* [plan_sequences_max][table_stride] */
};

struct pkvi_plans {
    struct pkvi_plan* slots;
    uint32_t count_max;
    uint32_t open_count;
    uint32_t free_head;
    uint32_t table_stride; /* pages of the longest sequence */
};

int pkvi_plans_open(struct pkvi_plans* plans, struct pkvi_mem* mem, const pkv_config* config,
                    uint32_t first_generation);
void pkvi_plans_close(struct pkvi_plans* plans, struct pkvi_mem* mem);

/* PKV_ESTALE unless `handle` names an open plan of this cache. */
int pkvi_plan_find(const struct pkvi_plans* plans, pkv_plan handle, struct pkvi_plan** plan);

/* `parents` as in pkv_plan_begin_trees, or NULL: no entry is a tree. */
int pkvi_plan_begin(pkv_cache* cache, const pkv_entry* entries, const uint32_t* const* parents,
                    uint32_t count, pkv_plan* handle);
/* Does it stand for captured steps, and name no sequence? */
static inline bool pkvi_plan_is_shape(const struct pkvi_plan* plan) {
    return plan->graph.sequences != 0;
}

/* Open a plan that has no entries and rows for a captured step of shape `graph`. */
int pkvi_graph_begin(pkv_cache* cache, struct pkvi_graph graph, pkv_plan* handle);
/* Is `graph` a shape that the config allows, and does an ordinary plan fit it? */
int pkvi_graph_check(const pkv_cache* cache, struct pkvi_graph graph);
int pkvi_plan_check_graph(const struct pkvi_plan* plan, struct pkvi_graph graph);

int pkvi_plan_commit(pkv_cache* cache, struct pkvi_plan* plan);
int pkvi_plan_accept(pkv_cache* cache, struct pkvi_plan* plan, const pkv_path* paths,
                     uint32_t count);
int pkvi_plan_abort(pkv_cache* cache, struct pkvi_plan* plan);
void pkvi_plan_info(const pkv_cache* cache, const struct pkvi_plan* plan, pkv_plan_info* info);

/* Reserve for one sequence outside any plan: pkv_seq_append. */
int pkvi_seq_append(pkv_cache* cache, const pkv_entry* entry, uint32_t* slots);

#endif
