/* mem.h - host memory for the library's own structures, through the application's hook.
 *
 * Why     One place where memory is taken makes out-of-memory testable (each call visits
 *         "mem.alloc") and lets an application account for every byte. After create, nothing calls
 *         it.
 * Holds   M1  bytes == sum of what the hook was asked for and has not got back
 *         M2  memory handed out is zeroed and aligned to 64 bytes
 * Threads none: used by create and destroy only, on the caller's thread. */
#ifndef PKVI_BASE_MEM_H
#define PKVI_BASE_MEM_H

#include "base/fault.h"

struct pkvi_mem {
    pkv_memory_hook hook; /* resize is never NULL after init */
    struct pkvi_faults* faults;
    uint64_t bytes; /* held now, as asked of the hook */
    uint64_t calls; /* allocations so far */
};

void pkvi_mem_init(struct pkvi_mem* mem, const pkv_memory_hook* hook, struct pkvi_faults* faults);

/* Zeroed memory for `count` elements of `element_bytes`. count 0 gives NULL and PKV_OK.
 * Errors  PKV_ENOMEM (also when the product overflows), or what the fault point says. */
int pkvi_mem_take(struct pkvi_mem* mem, uint64_t count, uint64_t element_bytes, void** memory);

/* Give memory back; NULL is allowed. The size is remembered in front of the memory. */
void pkvi_mem_give(struct pkvi_mem* mem, void* memory);

#endif
