/* swap.c - see swap.h. */
#include "core/swap.h"

#include "core/cache.h"
#include "core/window.h"
#include <assert.h>
#include <string.h>

/* ---- Slots and handles ----------------------------------------------------------------------- */

int pkvi_transfers_open(struct pkvi_transfers* transfers, struct pkvi_mem* mem,
                        const pkv_config* config, uint32_t first_generation) {
    const uint32_t count = config->transfers_max;
    *transfers = (struct pkvi_transfers){.count_max = count, .free_head = PKVI_NONE};
    PKVI_TRY(pkvi_mem_take(mem, count, sizeof *transfers->slots, (void**)&transfers->slots));
    for (uint32_t i = count; i-- > 0;) {
        transfers->slots[i] = (struct pkvi_transfer){.generation = first_generation,
                                                     .next_free = transfers->free_head};
        transfers->free_head = i;
    }
    return PKV_OK;
}

void pkvi_transfers_stop(struct pkvi_transfers* transfers, struct pkvi_device* device) {
    if (transfers->slots == NULL) return;
    for (uint32_t i = 0; i < transfers->count_max; i++) {
        const struct pkvi_transfer* transfer = &transfers->slots[i];
        if (transfer->open && transfer->bytes > 0) device->ops->transfer_cancel(device, i);
    }
}

void pkvi_transfers_close(struct pkvi_transfers* transfers, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, transfers->slots);
}

uint32_t pkvi_transfer_index(const struct pkvi_transfers* transfers,
                             const struct pkvi_transfer* transfer) {
    return (uint32_t)(transfer - transfers->slots);
}

static pkv_transfer transfer_handle(const struct pkvi_transfers* transfers,
                                    const struct pkvi_transfer* transfer) {
    const uint32_t index = pkvi_transfer_index(transfers, transfer);
    return (pkv_transfer){pkvi_handle_make(PKVI_HANDLE_TRANSFER, transfer->generation, index)};
}

int pkvi_transfer_find(const struct pkvi_transfers* transfers, pkv_transfer handle,
                       struct pkvi_transfer** transfer) {
    const uint32_t slot = pkvi_handle_slot(handle.id);
    if (slot >= transfers->count_max) return PKV_ESTALE;
    struct pkvi_transfer* found = &transfers->slots[slot];
    if (!found->open) return PKV_ESTALE;
    if (transfer_handle(transfers, found).id != handle.id) return PKV_ESTALE;
    *transfer = found;
    return PKV_OK;
}

static struct pkvi_transfer* open_transfer(pkv_cache* cache, struct pkvi_seq* seq, bool is_in,
                                           uint64_t bytes, pkv_transfer* handle) {
    struct pkvi_transfers* transfers = &cache->transfers;
    struct pkvi_transfer* transfer = &transfers->slots[transfers->free_head];
    transfers->free_head = transfer->next_free;
    transfers->open_count++;
    transfer->seq = seq;
    transfer->bytes = bytes;
    transfer->is_in = is_in;
    transfer->in_call = false;
    transfer->open = true;
    *handle = transfer_handle(transfers, transfer);
    pkvi_trace_note(&cache->trace, is_in ? "swap.in" : "swap.out",
                    pkvi_seq_handle(&cache->seqs, seq).id, bytes);
    return transfer;
}

static void close_transfer(pkv_cache* cache, struct pkvi_transfer* transfer) {
    struct pkvi_transfers* transfers = &cache->transfers;
    transfer->open = false;
    transfer->generation++;
    transfer->next_free = transfers->free_head;
    transfers->free_head = pkvi_transfer_index(transfers, transfer);
    transfers->open_count--;
}

/* ---- Start ----------------------------------------------------------------------------------- */

static int admit(const pkv_cache* cache) {
    if (cache->tier.slot_count == 0) return PKV_ENOTSUP;
    return cache->transfers.free_head != PKVI_NONE ? PKV_OK : PKV_EBUSY;
}

/* Hand blocks in scratch.blocks and slots in tier.scratch to the device. */
static int submit(pkv_cache* cache, uint32_t count, bool is_in) {
    const struct pkvi_transfer_job job = {
        .index = cache->transfers.free_head,
        .count = count,
        .layout = &cache->layout,
        .space = &cache->pool.space,
        .host = cache->tier.base,
        .blocks = cache->scratch.blocks,
        .slots = cache->tier.scratch,
        .is_in = is_in,
    };
    if (count == 0) return PKV_OK;
    return cache->device->ops->transfer(cache->device, &job);
}

static uint32_t count_blocks(const pkv_cache* cache, const struct pkvi_seq* seq) {
    uint32_t count = 0;
    for (uint32_t page = 0; page < seq->table.pages; page++)
        count += pkvi_table_get(&cache->leaves, &seq->table, page) != PKV_NO_BLOCK;
    return count;
}

static void copy_tokens(const pkv_cache* cache, uint32_t* to, const uint32_t* from) {
    memcpy(to, from, cache->pool.block_tokens * sizeof *to);
}

/* Take a slot for each block, and note both for the device. */
static void take_slots(pkv_cache* cache, struct pkvi_seq* seq, uint32_t count) {
    struct pkvi_tier* tier = &cache->tier;
    uint32_t index = count;
    for (uint32_t page = seq->table.pages; page-- > 0;) {
        const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
        if (block == PKV_NO_BLOCK) continue;
        seq->host_head = pkvi_tier_take(tier, page, seq->host_head);
        copy_tokens(cache, pkvi_tier_tokens(tier, seq->host_head),
                    pkvi_pool_tokens(&cache->pool, block));
        cache->scratch.blocks[--index] = block;
        tier->scratch[index] = seq->host_head;
    }
    assert(index == 0);
    cache->quotas.accounts[seq->account].host += count;
}

int pkvi_seq_swap_out(pkv_cache* cache, struct pkvi_seq* seq, pkv_transfer* handle) {
    PKVI_TRY(pkvi_seq_check_idle(seq));
    if (seq->reserved > 0) return PKV_EBUSY;
    PKVI_TRY(admit(cache));
    const uint32_t count = count_blocks(cache, seq);
    PKVI_TRY(pkvi_tier_admit(&cache->tier, count));
    take_slots(cache, seq, count);
    const int status = submit(cache, count, false);
    if (status != PKV_OK) {
        pkvi_seq_give_slots(cache, seq);
        return status;
    }
    seq->residence = PKV_LEAVING;
    pkvi_pending_release(&cache->pending, seq, UINT32_MAX);
    open_transfer(cache, seq, false, count * cache->layout.block_bytes, handle);
    return PKV_OK;
}

/* Note the slots of a sequence for the device; returns how many there are. */
static uint32_t list_slots(pkv_cache* cache, const struct pkvi_seq* seq) {
    struct pkvi_tier* tier = &cache->tier;
    uint32_t count = 0;
    for (uint32_t slot = seq->host_head; slot != PKVI_NONE; slot = tier->next[slot])
        tier->scratch[count++] = slot;
    return count;
}

/* Put the blocks in scratch.blocks into the empty table, in the places of their pages. */
static void fill_table(pkv_cache* cache, struct pkvi_seq* seq) {
    struct pkvi_pool* pool = &cache->pool;
    const uint32_t* block = cache->scratch.blocks;
    uint32_t slot = seq->host_head;
    const uint32_t pages = pkvi_pool_pages(pool, seq->length);
    for (uint32_t page = 0; page < pages; page++) {
        if (slot == PKVI_NONE || cache->tier.page[slot] != page) {
            pkvi_table_push(&cache->leaves, &seq->table, PKV_NO_BLOCK);
            continue;
        }
        pool->blocks[*block].owner = seq->tenant;
        pool->blocks[*block].written = PKVI_BYTES_MIXED;
        copy_tokens(cache, pkvi_pool_tokens(pool, *block), pkvi_tier_tokens(&cache->tier, slot));
        pkvi_table_push(&cache->leaves, &seq->table, *block++);
        slot = cache->tier.next[slot];
    }
    seq->version++;
}

static int admit_arrival(const struct pkvi_seq* seq) {
    if (seq->residence == PKV_AWAY) return PKV_OK;
    return seq->residence == PKV_RESIDENT ? PKV_EINVAL : PKV_EBUSY;
}

int pkvi_seq_swap_in(pkv_cache* cache, struct pkvi_seq* seq, pkv_transfer* handle) {
    PKVI_TRY(admit_arrival(seq));
    PKVI_TRY(admit(cache));
    const uint32_t pages = pkvi_pool_pages(&cache->pool, seq->length);
    const uint32_t count = list_slots(cache, seq);
    PKVI_TRY(pkvi_reserve_blocks(cache, seq, count, pkvi_leaves_for(pages)));
    const int status = submit(cache, count, true);
    if (status != PKV_OK) {
        pkvi_reserve_return(cache, count);
        return status;
    }
    fill_table(cache, seq);
    seq->residence = PKV_ARRIVING;
    open_transfer(cache, seq, true, count * cache->layout.block_bytes, handle);
    pkvi_cache_note_peak(cache);
    return PKV_OK;
}

/* ---- End ------------------------------------------------------------------------------------- */

static void drop_blocks(pkv_cache* cache, struct pkvi_seq* seq) {
    pkvi_window_leave(cache, seq);
    seq->version++;
    seq->residence = PKV_AWAY;
}

static void end_out(pkv_cache* cache, const struct pkvi_transfer* transfer, bool is_done) {
    if (is_done) {
        drop_blocks(cache, transfer->seq);
        cache->stats.swap_out_bytes += transfer->bytes;
    } else {
        pkvi_seq_give_slots(cache, transfer->seq);
        transfer->seq->residence = PKV_RESIDENT;
    }
}

/* Its bytes are the tenant's from now on. */
static void arrive(pkv_cache* cache, struct pkvi_seq* seq) {
    for (uint32_t page = 0; page < pkvi_pool_pages(&cache->pool, seq->length); page++) {
        const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
        if (block != PKV_NO_BLOCK) cache->pool.blocks[block].written = PKVI_BYTES_OWNED;
    }
    pkvi_seq_give_slots(cache, seq);
    seq->residence = PKV_RESIDENT;
    seq->is_unindexed = true;
    if (!seq->in_plan) pkvi_seq_index(cache, seq);
}

static void end_in(pkv_cache* cache, const struct pkvi_transfer* transfer, int status) {
    struct pkvi_seq* seq = transfer->seq;
    if (status == PKV_OK) {
        arrive(cache, seq);
        cache->stats.swap_in_bytes += transfer->bytes;
    } else if (seq->in_plan) {
        seq->arrival = status;
    } else {
        drop_blocks(cache, seq);
    }
}

static void end(pkv_cache* cache, struct pkvi_transfer* transfer, int status) {
    if (transfer->is_in)
        end_in(cache, transfer, status);
    else
        end_out(cache, transfer, status == PKV_OK);
    close_transfer(cache, transfer);
}

void pkvi_transfer_end(pkv_cache* cache, struct pkvi_transfer* transfer, int status) {
    cache->stats.transfers_failed += status != PKV_OK;
    pkvi_trace_note(&cache->trace, "swap.end", pkvi_seq_handle(&cache->seqs, transfer->seq).id,
                    (uint64_t)-status);
    end(cache, transfer, status);
}

void pkvi_transfer_abandon(pkv_cache* cache, struct pkvi_transfer* transfer) {
    cache->stats.transfers_cancelled++;
    pkvi_trace_note(&cache->trace, "swap.cancel", pkvi_seq_handle(&cache->seqs, transfer->seq).id,
                    transfer->bytes);
    end(cache, transfer, PKV_EBUSY); /* any failure: nothing counts as copied */
}

void pkvi_seq_return_blocks(pkv_cache* cache, struct pkvi_seq* seq) {
    seq->arrival = PKV_OK;
    drop_blocks(cache, seq);
}
