/* arena.c - see arena.h. What a shared arena is made of, and how it comes and goes, is in
 * arena_shared.c. */
#include "core/arena.h"

#include <assert.h>

static int open_books(struct pkv_arena* arena, struct pkvi_mem* mem) {
    const uint32_t count = arena->extent_max;
    /* Free extents all weigh the same: the lowest address stands in for the best fit. */
    const enum pkv_allocator policy = arena->policy == PKV_BEST_FIT ? PKV_FIRST_FIT : arena->policy;
    PKVI_TRY(pkvi_mem_take(mem, count, sizeof *arena->holder, (void**)&arena->holder));
    PKVI_TRY(pkvi_mem_take(mem, count, sizeof *arena->writer, (void**)&arena->writer));
    return pkvi_extents_open(&arena->free, mem, policy, count, 0);
}

static void close_books(struct pkv_arena* arena, struct pkvi_mem* mem) {
    pkvi_extents_close(&arena->free, mem);
    pkvi_mem_give(mem, arena->writer);
    pkvi_mem_give(mem, arena->holder);
}

/* The lowest address serves first, whatever the policy. */
static void fill_books(struct pkv_arena* arena) {
    const bool is_lifo = arena->policy == PKV_LIFO;
    for (uint32_t i = 0; i < arena->extent_count; i++)
        pkvi_extents_add(&arena->free, is_lifo ? arena->extent_count - 1 - i : i, 0);
    for (uint32_t i = arena->extent_count; i < arena->extent_max; i++)
        arena->holder[i] = PKVI_HOLDER_SYSTEM;
}

int pkvi_arena_open(struct pkv_arena* arena, struct pkvi_device* device, struct pkvi_mem* mem,
                    enum pkv_allocator policy, uint64_t extent_bytes, uint32_t extent_max,
                    uint32_t extent_count) {
    arena->policy = policy;
    arena->extent_bytes = extent_bytes;
    arena->extent_max = extent_max;
    arena->extent_count = extent_count;
    int status = open_books(arena, mem);
    if (status == PKV_OK)
        status = device->ops->alloc(device, extent_bytes * extent_max, (void**)&arena->base);
    if (status != PKV_OK) {
        close_books(arena, mem);
        return status;
    }
    arena->device = device;
    fill_books(arena);
    return PKV_OK;
}

void pkvi_arena_close(struct pkv_arena* arena, struct pkvi_mem* mem) {
    if (arena->device == NULL) return; /* never opened */
    const uint64_t bytes = arena->extent_bytes * arena->extent_max;
    arena->device->ops->free(arena->device, arena->base, bytes);
    close_books(arena, mem);
}

uint32_t pkvi_arena_number(struct pkv_arena* arena) {
    pthread_mutex_lock(&arena->lock);
    const uint32_t number = ++arena->last_number;
    pthread_mutex_unlock(&arena->lock);
    return number;
}

uint32_t pkvi_arena_take(struct pkv_arena* arena, uint32_t number, uint32_t* writer) {
    const uint32_t extent = pkvi_extents_first(&arena->free);
    pkvi_extents_remove(&arena->free, extent);
    arena->holder[extent] = number;
    *writer = arena->writer[extent];
    arena->writer[extent] = number;
    return extent;
}

void pkvi_arena_give(struct pkv_arena* arena, uint32_t extent) {
    arena->holder[extent] = PKVI_HOLDER_NONE;
    pkvi_extents_add(&arena->free, extent, 0);
}

void pkvi_arena_cede(struct pkv_arena* arena, uint32_t extent) {
    pkvi_extents_remove(&arena->free, extent);
    arena->holder[extent] = PKVI_HOLDER_SYSTEM;
    arena->extent_count--;
}

/* Its bytes are zeros. */
void pkvi_arena_regain(struct pkv_arena* arena, uint32_t extent) {
    arena->holder[extent] = PKVI_HOLDER_NONE;
    arena->writer[extent] = 0;
    arena->extent_count++;
    pkvi_extents_add(&arena->free, extent, 0);
}
