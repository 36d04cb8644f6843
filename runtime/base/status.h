/* status.h - how errors travel inside the runtime, and arithmetic that cannot overflow unnoticed.
 *
 * Every fallible internal function returns PKV_OK or a negative pkv_status. PKVI_TRY passes a
 * failure on at once; a function that must undo something first says so with ordered labels
 * instead. */
#ifndef PKVI_BASE_STATUS_H
#define PKVI_BASE_STATUS_H

#include "pagedkv.h"
#include <stdbool.h>

#define PKVI_TRY(expression)                                                                       \
    do {                                                                                           \
        int pkvi_try_status_ = (expression);                                                       \
        if (pkvi_try_status_ != PKV_OK) return pkvi_try_status_;                                   \
    } while (0)

/* Checked arithmetic for every size: false, and *result untouched, when the value does not fit. */
static inline bool pkvi_mul(uint64_t a, uint64_t b, uint64_t* result) {
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *result = product;
    return true;
}

static inline bool pkvi_add(uint64_t a, uint64_t b, uint64_t* result) {
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *result = sum;
    return true;
}

static inline uint32_t pkvi_ceil_div(uint32_t value, uint32_t divisor) {
    return value / divisor + (value % divisor != 0);
}

#endif
