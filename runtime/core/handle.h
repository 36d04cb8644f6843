/* handle.h - 64-bit names for slots of a fixed array, which notice when the slot has moved on.
 *
 *   63          32 31     24 23         0
 *   [ generation ] [ kind  ] [ slot     ]
 *
 * A slot's generation starts at a random number of the cache and moves on when the slot is freed,
 * so a stale handle, one of another cache or one of another kind does not fit any more. Kinds are
 * never 0, so the zero handle names nothing. */
#ifndef PKVI_CORE_HANDLE_H
#define PKVI_CORE_HANDLE_H

#include <stdint.h>

enum pkvi_handle_kind {
    PKVI_HANDLE_SEQ = 0x5e,
    PKVI_HANDLE_PLAN = 0x9a,
    PKVI_HANDLE_TRANSFER = 0x7f,
    PKVI_HANDLE_PIN = 0x61
};

static inline uint64_t pkvi_handle_make(enum pkvi_handle_kind kind, uint32_t generation,
                                        uint32_t slot) {
    return (uint64_t)generation << 32 | (uint64_t)kind << 24 | slot;
}

static inline uint32_t pkvi_handle_slot(uint64_t handle) {
    return (uint32_t)handle & 0xffffff;
}

#endif
