/* sibling.h - nodes of one parent that begin with the same token, to find hits that end within a
 * block.
 *
 *   parent 12 -> [jumps over the lazy]     asked: [jumps over a fence]
 *             -> [jumps over]              found: two tokens, of either
 *             -> [barks at the cat ]       another chain
 *
 * Siblings are chained through their blocks, the newest first, in a bucket found by hashing tenant,
 * identity of the parent and first token (extra keys are left to the comparison). The longest common beginning is
 * looked for among the newest PKVI_SIBLINGS_MAX of them, so that a text that thousands of requests
 * begin with costs no more than any other: what all of them share, the newest share too.
 *
 * Holds   X5  every node is on the chain of its siblings' bucket, which can be walked both ways
 * Not     A tree over the tokens of a block finds the longest of all, and costs every insertion
 *         what few hits gain.
 * Cost    link and unlink O(1), search O(PKVI_SIBLINGS_MAX).
 * Threads the cache's lock. */
#ifndef PKVI_CORE_SIBLING_H
#define PKVI_CORE_SIBLING_H

#include "core/prefix.h"

/* In `sibling_previous`, plus the number of the bucket: no node is before this one. */
#define PKVI_SIBLING_FIRST (1U << 31)

/* Node `block`, whose key is set, joins its siblings, or leaves them. */
void pkvi_sibling_link(struct pkvi_prefix* prefix, uint32_t block);
void pkvi_sibling_unlink(struct pkvi_prefix* prefix, uint32_t block);

/* The node at a place with the longest common beginning with `tokens` [count], the newest of
 * equals, and that length in *common; or PKVI_NONE and 0. Published ones count where they have
 * more. */
uint32_t pkvi_sibling_longest(const struct pkvi_prefix* prefix, const struct pkvi_place* place,
                              const uint32_t* tokens, uint32_t count, uint32_t* common);

/* The row of node `from` has been copied to `to`, which takes its place among its siblings. */
void pkvi_sibling_replace(struct pkvi_prefix* prefix, uint32_t from, uint32_t to);

/* The bucket that node `block` belongs into. pre: its parent is indexed. */
uint32_t pkvi_sibling_bucket(const struct pkvi_prefix* prefix, uint32_t block);

#endif
