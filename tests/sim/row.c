/* row.c - the numbers of one head's K or V of one token: what they are, and whose they were.
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
#include "sim/driver.h"

#include <math.h>
#include <string.h>

enum {
    GROUP_DIMS = 32, /* elements of i4 that share a scale */
    ENDS = 2,        /* of these: the lowest and the highest digit */
    KEY_BITS = MODEL_FILL_BITS + 3,
};

/* ---- Digits ---------------------------------------------------------------------------------- */

static uint32_t digit_bits(uint32_t dtype) {
    if (dtype == PKV_E4M3 || dtype == PKV_E5M2) return 3;
    return dtype == PKV_I4 ? 4 : 7;
}

static uint32_t largest_digit(uint32_t dtype) {
    return (1U << digit_bits(dtype)) - 1;
}

static uint32_t digit_count(uint32_t dtype) {
    return (KEY_BITS + digit_bits(dtype) - 1) / digit_bits(dtype);
}

static uint32_t digit_of(uint32_t dtype, uint32_t key, uint32_t d) {
    const uint32_t index = d % GROUP_DIMS;
    if (index < ENDS) return index * largest_digit(dtype);
    const uint32_t digit = (index - ENDS) % digit_count(dtype);
    return key >> digit * digit_bits(dtype) & largest_digit(dtype);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

bool sim_dtype_is_scaled(uint32_t dtype) {
    return dtype >= PKV_I8;
}

uint32_t sim_row_key(uint32_t fill, uint32_t layer, uint32_t head, bool is_value) {
    return fill | layer << MODEL_FILL_BITS | head << (MODEL_FILL_BITS + 1) |
           (uint32_t)is_value << (MODEL_FILL_BITS + 2);
}

float sim_row_element(uint32_t dtype, uint32_t key, uint32_t d) {
    const uint32_t unit = sim_dtype_is_scaled(dtype) ? 1 + (key >> 1 & 255) : 1;
    const uint32_t below_zero = dtype == PKV_I4 ? key >> 9 & 127 : 0;
    return (float)(unit * digit_of(dtype, key, d)) - (float)below_zero;
}

void sim_row_fill(uint32_t dtype, uint32_t key, float* row, uint32_t dim) {
    for (uint32_t d = 0; d < dim; d++)
        row[d] = sim_row_element(dtype, key, d);
}

/* The first element that is not the one of this key, or dim. */
uint32_t sim_row_differs(uint32_t dtype, uint32_t key, const float* row, uint32_t dim) {
    float want[PKV_HEAD_DIM_MAX];
    sim_row_fill(dtype, key, want, dim);
    if (memcmp(row, want, dim * sizeof *row) == 0) return dim;
    uint32_t d = 0;
    while (memcmp(&row[d], &want[d], sizeof *row) == 0)
        d++;
    return d;
}

bool sim_row_is_zero(const float* row, uint32_t dim) {
    for (uint32_t d = 0; d < dim; d++)
        if (row[d] != 0.0F) return false;
    return true;
}

/* The key that a row spells; false when it spells none. */
bool sim_row_read(uint32_t dtype, const float* row, uint32_t dim, uint32_t* key) {
    const float unit = (row[1] - row[0]) / (float)largest_digit(dtype);
    *key = 0;
    for (uint32_t i = 0; i < digit_count(dtype); i++) {
        const float digit = (row[ENDS + i] - row[0]) / unit;
        if (!(digit >= 0.0F && digit <= (float)largest_digit(dtype))) return false;
        *key |= (uint32_t)digit << i * digit_bits(dtype);
    }
    return sim_row_differs(dtype, *key, row, dim) == dim;
}
