/* row.h - the numbers of one head's K or V of one token: what they are, and whose they were.
 *
 * Whose a row is, is one number, its key:
 *
 *   key = fill | layer << 20 | head << 21 | is_value << 22
 *
 * Its elements spell the key in such a way that each type of the cache holds them exactly, so that
 * what is read must be equal to what was written, whatever the types of K and V:
 *
 *   x[d] = base + unit * digit[d]
 *
 *   digit   of each 32 elements the first is 0 and the second the largest there is; the others are
 *           the digits of the key, lowest first, over and over
 *   unit    1, or for scaled types 1 to 256, from the fill: the scale that is stored beside them
 *   base    0, or for i4 0 to -127, from the fill: the minimum that is stored beside them
 *
 * A row whose codes came with the scale of another token shows up like a row of another token. */
#ifndef TESTS_SIM_ROW_H
#define TESTS_SIM_ROW_H

#include "pagedkv.h"
#include <stdbool.h>

enum { ROW_FILL_BITS = 20 };

/* `fill` is not 0 and has 20 bits; layer and head have one. */
uint32_t row_key(uint32_t fill, uint32_t layer, uint32_t head, bool is_value);

bool row_is_scaled(uint32_t dtype);
float row_element(uint32_t dtype, uint32_t key, uint32_t d);
void row_fill(uint32_t dtype, uint32_t key, float* row, uint32_t dim);

/* The first element whose bits are not those of this key's, or dim. */
uint32_t row_differs(uint32_t dtype, uint32_t key, const float* row, uint32_t dim);
bool row_is_zero(const float* row, uint32_t dim);

/* The key that a row spells; false when it spells none. */
bool row_read(uint32_t dtype, const float* row, uint32_t dim, uint32_t* key);

#endif
