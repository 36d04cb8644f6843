/* arena.c - see arena.h. A stack of extent numbers is all there is to it. */
#include "core/arena.h"

#include <assert.h>

int pkvi_arena_open(struct pkvi_arena* arena, struct pkvi_device* device, struct pkvi_mem* mem,
                    uint64_t extent_bytes, uint32_t extent_count) {
    void* list;
    PKVI_TRY(pkvi_mem_take(mem, extent_count, sizeof(uint32_t), &list));
    void* base;
    uint64_t bytes = extent_bytes * extent_count;
    int status = device->ops->alloc(device, bytes, &base);
    if (status != PKV_OK) {
        pkvi_mem_give(mem, list);
        return status;
    }
    *arena = (struct pkvi_arena){
        .device = device,
        .base = base,
        .bytes = bytes,
        .extent_bytes = extent_bytes,
        .extent_count = extent_count,
        .free_count = extent_count,
        .free_list = list,
    };
    for (uint32_t i = 0; i < extent_count; i++)
        arena->free_list[i] = extent_count - 1 - i; /* lowest address first */
    return PKV_OK;
}

void pkvi_arena_close(struct pkvi_arena* arena, struct pkvi_mem* mem) {
    if (arena->device == NULL) return; /* never opened */
    arena->device->ops->free(arena->device, arena->base, arena->bytes);
    pkvi_mem_give(mem, arena->free_list);
}

uint32_t pkvi_arena_take(struct pkvi_arena* arena) {
    assert(arena->free_count > 0);
    return arena->free_list[--arena->free_count];
}

void pkvi_arena_give(struct pkvi_arena* arena, uint32_t extent) {
    assert(arena->free_count < arena->extent_count);
    arena->free_list[arena->free_count++] = extent;
}
