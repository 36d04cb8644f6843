/* tier.c - see tier.h. */
#include "core/tier.h"

#include <assert.h>

int pkvi_tier_open(struct pkvi_tier* tier, struct pkvi_device* device, struct pkvi_mem* mem,
                   struct pkvi_faults* faults, const struct pkvi_layout* layout,
                   uint32_t slot_count) {
    const uint64_t token_bytes = layout->group.block_tokens * sizeof *tier->tokens;
    *tier = (struct pkvi_tier){
        .device = device,
        .faults = faults,
        .slot_count = slot_count,
        .free_count = slot_count,
        .free_head = slot_count > 0 ? 0 : PKVI_NONE,
        .block_tokens = layout->group.block_tokens,
    };
    if (slot_count == 0) return PKV_OK;
    PKVI_TRY(pkvi_mem_take(mem, slot_count, sizeof *tier->next, (void**)&tier->next));
    PKVI_TRY(pkvi_mem_take(mem, slot_count, sizeof *tier->page, (void**)&tier->page));
    PKVI_TRY(pkvi_mem_take(mem, slot_count, sizeof *tier->scratch, (void**)&tier->scratch));
    PKVI_TRY(pkvi_mem_take(mem, slot_count, token_bytes, (void**)&tier->tokens));
    for (uint32_t slot = 0; slot < slot_count; slot++)
        tier->next[slot] = slot + 1 < slot_count ? slot + 1 : PKVI_NONE;
    tier->bytes = slot_count * layout->block_bytes;
    return device->ops->alloc_host(device, tier->bytes, (void**)&tier->base);
}

void pkvi_tier_close(struct pkvi_tier* tier, struct pkvi_mem* mem) {
    if (tier->base != NULL) tier->device->ops->free_host(tier->device, tier->base, tier->bytes);
    pkvi_mem_give(mem, tier->tokens);
    pkvi_mem_give(mem, tier->scratch);
    pkvi_mem_give(mem, tier->page);
    pkvi_mem_give(mem, tier->next);
}

int pkvi_tier_admit(struct pkvi_tier* tier, uint32_t count) {
    if (count > tier->slot_count) return PKV_ETOOBIG;
    PKVI_TRY(pkvi_fault_check(tier->faults, PKVI_FAULT_TIER_TAKE));
    return count <= tier->free_count ? PKV_OK : PKV_ENOHOST;
}

uint32_t pkvi_tier_take(struct pkvi_tier* tier, uint32_t page, uint32_t head) {
    assert(tier->free_count > 0);
    const uint32_t slot = tier->free_head;
    tier->free_head = tier->next[slot];
    tier->free_count--;
    tier->page[slot] = page;
    tier->next[slot] = head;
    return slot;
}

uint32_t pkvi_tier_give(struct pkvi_tier* tier, uint32_t head) {
    const uint32_t before = tier->free_count;
    while (head != PKVI_NONE) {
        const uint32_t slot = head;
        head = tier->next[slot];
        tier->next[slot] = tier->free_head;
        tier->free_head = slot;
        tier->free_count++;
    }
    return tier->free_count - before;
}

uint32_t pkvi_tier_count(const struct pkvi_tier* tier, uint32_t head) {
    uint32_t count = 0;
    for (uint32_t slot = head; slot != PKVI_NONE; slot = tier->next[slot])
        count++;
    return count;
}
