/* row.c - see row.h. */
#include "sim/row.h"

#include <string.h>

enum {
    GROUP_DIMS = 32, /* elements of i4 that share a scale */
    ENDS = 2,        /* of these: the lowest and the highest digit */
    KEY_BITS = ROW_FILL_BITS + 3,
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

bool row_is_scaled(uint32_t dtype) {
    return dtype >= PKV_I8;
}

uint32_t row_key(uint32_t fill, uint32_t layer, uint32_t head, bool is_value) {
    return fill | layer << ROW_FILL_BITS | head << (ROW_FILL_BITS + 1) |
           (uint32_t)is_value << (ROW_FILL_BITS + 2);
}

float row_element(uint32_t dtype, uint32_t key, uint32_t d) {
    const uint32_t unit = row_is_scaled(dtype) ? 1 + (key >> 1 & 255) : 1;
    const uint32_t below_zero = dtype == PKV_I4 ? key >> 9 & 127 : 0;
    return (float)(unit * digit_of(dtype, key, d)) - (float)below_zero;
}

void row_fill(uint32_t dtype, uint32_t key, float* row, uint32_t dim) {
    for (uint32_t d = 0; d < dim; d++)
        row[d] = row_element(dtype, key, d);
}

uint32_t row_differs(uint32_t dtype, uint32_t key, const float* row, uint32_t dim) {
    float want[PKV_HEAD_DIM_MAX];
    row_fill(dtype, key, want, dim);
    if (memcmp(row, want, dim * sizeof *row) == 0) return dim;
    uint32_t d = 0;
    while (memcmp(&row[d], &want[d], sizeof *row) == 0)
        d++;
    return d;
}

bool row_is_zero(const float* row, uint32_t dim) {
    for (uint32_t d = 0; d < dim; d++)
        if (row[d] != 0.0F) return false;
    return true;
}

bool row_read(uint32_t dtype, const float* row, uint32_t dim, uint32_t* key) {
    const float unit = (row[1] - row[0]) / (float)largest_digit(dtype);
    *key = 0;
    for (uint32_t i = 0; i < digit_count(dtype); i++) {
        const float digit = (row[ENDS + i] - row[0]) / unit;
        if (!(digit >= 0.0F && digit <= (float)largest_digit(dtype))) return false;
        *key |= (uint32_t)digit << i * digit_bits(dtype);
    }
    return row_differs(dtype, *key, row, dim) == dim;
}
