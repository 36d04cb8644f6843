/* bits.h - a set of small numbers that knows its lowest and its highest member.
 *
 * A tree of words, each bit of which says whether the word below it has members:
 *
 *   level 1   [ 0 1 0 0 ... ]                    one bit for each word of level 0
 *   level 0   [ 0 0 ... ] [ 0 1 1 0 ... ] ...    one bit for each number
 *
 * Cost    all functions look at one word a level, of which there are log64 of the largest number
 * Threads none. */
#ifndef PKVI_CORE_BITS_H
#define PKVI_CORE_BITS_H

#include "base/mem.h"

enum { PKVI_BITS_LEVELS = 5 };

struct pkvi_bits {
    uint64_t* words; /* of all levels, level 0 first */
    uint64_t* level[PKVI_BITS_LEVELS];
    uint32_t levels;
};

/* For numbers below `count`, at least 1 and at most 2^30. */
int pkvi_bits_open(struct pkvi_bits* bits, struct pkvi_mem* mem, uint32_t count);
void pkvi_bits_close(struct pkvi_bits* bits, struct pkvi_mem* mem);

void pkvi_bits_add(struct pkvi_bits* bits, uint32_t number);
void pkvi_bits_remove(struct pkvi_bits* bits, uint32_t number);

/* pre: the set is not empty. */
uint32_t pkvi_bits_lowest(const struct pkvi_bits* bits);
uint32_t pkvi_bits_highest(const struct pkvi_bits* bits);

#endif
