/* mem.c - see mem.h.
 *
 *   hook memory   [ padding | header: size, offset | 64-byte aligned memory for the caller ]
 *
 * The header in front remembers what the hook must be told when the memory goes back. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

struct header {
    uint64_t hook_bytes; /* as asked of the hook */
    uint64_t offset;     /* from the hook's pointer to the caller's */
};

static void* default_resize(void* ctx, void* memory, size_t old_bytes, size_t new_bytes) {
    (void)ctx;
    (void)old_bytes;
    if (new_bytes > 0) return calloc(1, new_bytes); /* large tables stay untouched until used */
    free(memory);
    return NULL;
}

void pkvi_mem_init(struct pkvi_mem* mem, const pkv_memory_hook* hook, struct pkvi_faults* faults) {
    *mem = (struct pkvi_mem){.hook = *hook, .faults = faults};
    if (mem->hook.resize == NULL) mem->hook.resize = default_resize;
}

static unsigned char* place(unsigned char* raw, uint64_t hook_bytes) {
    const uintptr_t first = (uintptr_t)raw + sizeof(struct header);
    const uintptr_t aligned = (first + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    unsigned char* memory = raw + (aligned - (uintptr_t)raw);
    const struct header header = {hook_bytes, aligned - (uintptr_t)raw};
    memcpy(memory - sizeof header, &header, sizeof header);
    return memory;
}

int pkvi_mem_take(struct pkvi_mem* mem, uint64_t count, uint64_t element_bytes, void** memory) {
    uint64_t bytes;
    uint64_t hook_bytes;
    if (!pkvi_mul(count, element_bytes, &bytes)) return PKV_ENOMEM;
    if (bytes == 0) {
        *memory = NULL;
        return PKV_OK;
    }
    if (!pkvi_add(bytes, sizeof(struct header) + ALIGNMENT, &hook_bytes)) return PKV_ENOMEM;
    if (hook_bytes > PTRDIFF_MAX) return PKV_ENOMEM;
    PKVI_TRY(pkvi_fault_check(mem->faults, PKVI_FAULT_MEM_ALLOC));
    unsigned char* raw = mem->hook.resize(mem->hook.ctx, NULL, 0, hook_bytes);
    if (raw == NULL) return PKV_ENOMEM;
    if (mem->hook.resize != default_resize) memset(raw, 0, hook_bytes);
    mem->bytes += hook_bytes;
    mem->calls++;
    *memory = place(raw, hook_bytes);
    return PKV_OK;
}

void pkvi_mem_give(struct pkvi_mem* mem, void* memory) {
    if (memory == NULL) return;
    struct header header;
    memcpy(&header, (unsigned char*)memory - sizeof header, sizeof header);
    mem->bytes -= header.hook_bytes;
    mem->hook.resize(mem->hook.ctx, (unsigned char*)memory - header.offset, header.hook_bytes, 0);
}
