/* retain.h - cached blocks that stay longer, or go sooner, than the policy of their domain says.
 *
 * A block that somebody has asked to retain has a row in a table of fixed size:
 *
 *   level     its priority. Idle blocks of another level than the default are hidden from the policy
 *             and stand on a list of their level, in the order in which they became idle
 *   duration  idle time after which the level lapses: the block is as any other then
 *   ttl       idle time after which the block is dropped
 *
 *   victims   lower levels, lowest first | what the policy chooses | higher levels, lowest first
 *
 * Both times start when the block becomes idle, anew each time. Rows of idle blocks that wait for one
 * of them stand in a heap, the next one first, those of the same moment in the order in which they
 * became idle. Whoever needs room, looks for a prefix or asks for figures lets moments that have come
 * take effect first (pkvi_settle).
 *
 * Holds   K1  a row is free, or that of one block in use or idle, which has no other
 *         K2  the list of a level, but for the default one, holds the idle blocks of its domain whose
 *             rows say so, each once
 *         K3  the heap holds the rows of idle blocks that have a moment to come, none before one that
 *             is due earlier
 * Cost    O(1) for each event, and O(log n) of the rows that wait. A table without rows, or in which
 *         none is used, costs one branch.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_RETAIN_H
#define PKVI_CORE_RETAIN_H

#include "base/clock.h"
#include "base/limits.h"
#include "core/policy/ghost.h"
#include "pagedkv.h"

enum { PKVI_LEVELS = PKV_PRIORITY_HIGHEST + 1 };

#define PKVI_NEVER UINT64_MAX

/* What was asked for a block. */
struct pkvi_terms {
    uint32_t level;
    uint64_t duration_us; /* PKVI_NEVER: the level does not lapse */
    uint64_t ttl_us;      /* PKVI_NEVER: the block is not dropped */
};

struct pkvi_retained {
    struct pkvi_terms terms;
    uint64_t since_us; /* when it became idle, or PKVI_NEVER: it is in use */
    uint64_t turn;     /* counts blocks that became idle */
    uint32_t block;    /* or PKVI_NONE: the row is free */
    uint32_t previous; /* rows on the list of its level */
    uint32_t next;     /* likewise, or of the free rows */
    uint32_t place;    /* in the heap, or PKVI_NONE */
};

/* Idle blocks of one level in one domain, by their rows. */
struct pkvi_level {
    uint32_t head; /* goes first */
    uint32_t tail;
};

/* What a domain hides from its policy. */
struct pkvi_levels {
    uint32_t count;       /* on all lists */
    uint32_t lower_count; /* on those below the default */
    struct pkvi_level level[PKVI_LEVELS];
};

struct pkvi_retention {
    struct pkvi_clock* clock;
    uint32_t row_count;
    uint32_t used; /* rows */
    uint32_t free_head;
    uint32_t heap_count;
    uint64_t turn;
    uint32_t* row_of; /* [blocks] or PKVI_NONE */
    struct pkvi_retained* rows;
    uint32_t* heap;             /* [row_count] rows */
    struct pkvi_levels* levels; /* [domains] */
};

/* Room for `rows` rows: 0 takes no memory, and nothing can be retained. */
int pkvi_retention_open(struct pkvi_retention* retention, struct pkvi_mem* mem, uint32_t blocks,
                        uint32_t rows, uint32_t domains);
void pkvi_retention_close(struct pkvi_retention* retention, struct pkvi_mem* mem);

/* Has `block` a row? */
static inline bool pkvi_is_retained(const struct pkvi_retention* retention, uint32_t block) {
    return retention->used > 0 && retention->row_of[block] != PKVI_NONE;
}

/* Ask for `terms`: the block, which is in use, has the most that anybody has asked for from then on.
 * Says whether it is retained. pre: it has a row or one is free, or the terms are what every block
 * has. */
bool pkvi_retain(struct pkvi_retention* retention, uint32_t block, const struct pkvi_terms* terms);

/* Are these the terms of blocks that nobody has asked to retain? */
bool pkvi_terms_are_default(const struct pkvi_terms* terms);

/* The row of a block is free. pre: it has one, and is on no list. */
void pkvi_retain_forget(struct pkvi_retention* retention, uint32_t block);

/* A block with a row becomes idle, or has another place among the idle: says whether it stands on a
 * list of `levels` from then on; otherwise it is the policy's. */
bool pkvi_retain_rest(struct pkvi_retention* retention, struct pkvi_levels* levels, uint32_t block);

/* It leaves its place, and says whether that was on a list of `levels`. `is_used`: it is idle no
 * more, and its times end. */
bool pkvi_retain_leave(struct pkvi_retention* retention, struct pkvi_levels* levels, uint32_t block,
                       bool is_used);

/* The block that goes first of all on the lists of `levels`. pre: there is one. */
uint32_t pkvi_retain_first(const struct pkvi_retention* retention,
                           const struct pkvi_levels* levels);

/* The next moment that an idle block waits for, or PKVI_NEVER, and whose it is. */
uint64_t pkvi_retain_due_us(const struct pkvi_retention* retention, uint32_t* block);

/* The next moment of an idle block that has this row, or PKVI_NEVER. */
uint64_t pkvi_retained_due_us(const struct pkvi_retained* row);

/* Is the time of the idle block over by `now_us`? If not, its level has lapsed. */
bool pkvi_retain_is_over(const struct pkvi_retention* retention, uint32_t block, uint64_t now_us);

/* Its level is the default one from now on. pre: it stands on no list. */
void pkvi_retain_lapse(struct pkvi_retention* retention, uint32_t block);

/* Block `from` is called `to` from now on. */
void pkvi_retain_move(struct pkvi_retention* retention, uint32_t from, uint32_t to);

#endif
