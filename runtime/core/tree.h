/* tree.h - token trees: several continuations of a sequence in one step, of which one is kept.
 *
 * The tokens of a tree have slots one behind the other, in the order in which they were given, as
 * those of a chain have; only their positions and what they see differ. When a path is accepted its
 * tokens move forward to the first of those slots, K, V and ids, and the rest is cut off:
 *
 *     slots     A B C D E F       path A D F       A D F | cut
 *
 * A path goes up in the order of slots, and a token moves to a slot at or before its own: done in
 * the order of the path, no move overwrites what a later one reads.
 *
 * Threads the cache's lock. */
#ifndef PKVI_CORE_TREE_H
#define PKVI_CORE_TREE_H

#include "core/plan.h"

/* May an entry of `count` tokens have these parents?
 * Errors  PKV_EINVAL, PKV_ETOOBIG. */
int pkvi_tree_admit(const uint32_t* parents, uint32_t count);

/* Set entry `index` of a plan, behind `length` committed tokens, up as a tree; NULL, or parents that
 * make a chain: as none. pre: its slots and positions are those of a chain. */
void pkvi_tree_fill(struct pkvi_plan* plan, uint32_t index, const uint32_t* parents,
                    uint32_t length);

/* PKV_EINVAL unless `path` is one of entry `index`. */
int pkvi_tree_check_path(const struct pkvi_plan* plan, uint32_t index, const pkv_path* path);

/* Move K and V of one path for each entry. On error nothing has moved.
 * Errors  PKV_EIO, PKV_EDEVICE. */
int pkvi_tree_move(pkv_cache* cache, const struct pkvi_plan* plan, const pkv_path* paths);

/* Move the ids of the path likewise, and cut the other reserved tokens off. Cannot fail. */
void pkvi_tree_prune(pkv_cache* cache, struct pkvi_seq* seq, const pkv_path* path);

#endif
