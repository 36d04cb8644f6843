/* pin.c - see pin.h. */
#include "core/pin.h"

#include "core/cache.h"
#include <assert.h>

/* ---- Pins ------------------------------------------------------------------------------------ */

static pkv_pin handle_of(const pkv_cache* cache, const struct pkvi_seq* pin) {
    const uint32_t slot = (uint32_t)(pin - cache->seqs.slots);
    return (pkv_pin){pkvi_handle_make(PKVI_HANDLE_PIN, pin->generation, slot)};
}

static int find_pin(const pkv_cache* cache, pkv_pin handle, struct pkvi_seq** pin) {
    const uint32_t slot = pkvi_handle_slot(handle.id);
    if (slot >= cache->seqs.count_max) return PKV_ESTALE;
    struct pkvi_seq* found = &cache->seqs.slots[slot];
    if (!found->alive || !found->is_pin) return PKV_ESTALE;
    if (handle_of(cache, found).id != handle.id) return PKV_ESTALE;
    *pin = found;
    return PKV_OK;
}

/* Shorten the fork to its first `pages` pages. */
static void cut_pin(pkv_cache* cache, struct pkvi_seq* pin, uint32_t pages) {
    pkvi_table_cut(&cache->leaves, &pin->table, pages);
    pin->length = pages * cache->pool.block_tokens;
    if (pin->known > pin->length) pin->known = pin->length;
    if (pin->rolled_end > pages) pin->rolled_end = pages;
}

/* The fork shares all leaves: will cutting it to `pages` need one of its own? */
static int check_leaf(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t pages) {
    if (pages >= seq->table.pages || pages % PKVI_LEAF_PAGES == 0) return PKV_OK;
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_TABLE_LEAF));
    return cache->leaves.free_count > 0 ? PKV_OK : PKV_ENOLEAVES;
}

int pkvi_pin_create(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t tokens, uint64_t owner,
                    uint64_t timeout_us, pkv_pin* handle) {
    if (tokens > seq->length) return PKV_ERANGE;
    PKVI_TRY(pkvi_seq_check_resident(seq));
    const uint32_t pages = pkvi_pool_page(&cache->pool, tokens);
    PKVI_TRY(check_leaf(cache, seq, pages));
    PKVI_TRY(pkvi_seq_check_fork(cache, seq));
    struct pkvi_seq* pin = pkvi_seq_fork(cache, seq);
    cache->stats.forks--; /* of sequences */
    cut_pin(cache, pin, pages);
    const uint64_t now = pkvi_clock_now_us(&cache->clock);
    pin->is_pin = true;
    pin->pin_owner = owner;
    pin->pin_deadline_us =
        timeout_us > 0 && timeout_us < UINT64_MAX - now ? now + timeout_us : UINT64_MAX;
    cache->pins.count++;
    if (pin->pin_deadline_us < cache->pins.next_deadline_us)
        cache->pins.next_deadline_us = pin->pin_deadline_us;
    *handle = handle_of(cache, pin);
    pkvi_trace_note(&cache->trace, "pin.create", handle->id, pin->length);
    return PKV_OK;
}

static void end_pin(pkv_cache* cache, struct pkvi_seq* pin) {
    pkvi_trace_note(&cache->trace, "pin.end", handle_of(cache, pin).id, pin->length);
    cache->pins.count--;
    const int status = pkvi_seq_free(cache, pin);
    assert(status == PKV_OK);
    (void)status;
}

/* End the pins of `owner`, or, when `owner` is NULL, those whose deadline has come by `now`, and
 * note the next deadline. */
static uint32_t end_pins(pkv_cache* cache, const uint64_t* owner, uint64_t now) {
    uint32_t ended = 0;
    cache->pins.next_deadline_us = UINT64_MAX;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        struct pkvi_seq* pin = &cache->seqs.slots[i];
        if (!pin->alive || !pin->is_pin) continue;
        if (owner != NULL ? pin->pin_owner == *owner : pin->pin_deadline_us <= now) {
            end_pin(cache, pin);
            ended++;
        } else if (pin->pin_deadline_us < cache->pins.next_deadline_us) {
            cache->pins.next_deadline_us = pin->pin_deadline_us;
        }
    }
    return ended;
}

int pkvi_pin_release(pkv_cache* cache, pkv_pin handle) {
    pkvi_settle(cache);
    struct pkvi_seq* pin;
    PKVI_TRY(find_pin(cache, handle, &pin));
    end_pin(cache, pin);
    return PKV_OK;
}

uint32_t pkvi_pins_release(pkv_cache* cache, uint64_t owner) {
    pkvi_settle(cache);
    return cache->pins.count > 0 ? end_pins(cache, &owner, 0) : 0;
}

/* ---- What runs out --------------------------------------------------------------------------- */

/* The next moment at which something runs out, or UINT64_MAX. */
static uint64_t next_moment(const pkv_cache* cache) {
    uint32_t block;
    const uint64_t due = pkvi_retain_due_us(&cache->prefix.shared.retention, &block);
    const uint64_t deadline = cache->pins.count > 0 ? cache->pins.next_deadline_us : UINT64_MAX;
    return due < deadline ? due : deadline;
}

void pkvi_settle(pkv_cache* cache) {
    const uint64_t moment = next_moment(cache);
    if (moment == UINT64_MAX) return;
    const uint64_t now = pkvi_clock_now_us(&cache->clock);
    if (moment > now) return;
    if (cache->pins.count > 0 && cache->pins.next_deadline_us <= now)
        cache->stats.pins_expired += end_pins(cache, NULL, now);
    pkvi_retention_settle(cache, now);
}
