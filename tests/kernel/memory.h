/* memory.h - the memory that kernels under test are given.
 *
 * Tests of a device that does not reach all of the host's memory define these functions themselves
 * (tests/gpu/memory.c), and the linker then leaves those of memory.c out. Neither returns without
 * memory. */
#ifndef TESTS_KERNEL_MEMORY_H
#define TESTS_KERNEL_MEMORY_H

#include <stddef.h>

/* Memory of exactly so many bytes, so that tools see any access beyond them. */
void* memory_take(size_t bytes);
void memory_give(void* memory);

/* Kernels will touch these pages of a mapping; and no longer, before they are unmapped. */
void memory_open(void* pages, size_t bytes);
void memory_close(void* pages);

#endif
