/* window.h - what becomes of the pages of a sequence behind its window.
 *
 *   | sinks | rolled off | what the next token sees, and the page where that begins |
 *
 * A page rolls off as soon as no later token can see it. If the index knows it, it stays cached: who
 * asks for the same text needs it, since the index finds a block only through all that are before it.
 * That is also why its age must not count from then on: when the sequence lets go of the rest, all of
 * its pages become idle once more in their order, last page first. Else the beginning of a text would
 * be the first to be evicted, and all that is behind it could not be found.
 *
 * Threads the cache's lock. */
#ifndef PKVI_CORE_WINDOW_H
#define PKVI_CORE_WINDOW_H

#include "core/seq.h"

/* Have pages gone that a sequence of `length` tokens would need? */
bool pkvi_window_is_past(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t length);

/* Drop the blocks that no later token can see. Best effort where a leaf is shared and none is
 * free. */
void pkvi_window_roll(pkv_cache* cache, struct pkvi_seq* seq);

/* Let go of all pages, the last one first. */
void pkvi_window_leave(pkv_cache* cache, struct pkvi_seq* seq);

#endif
