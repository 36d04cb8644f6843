/* api_swap.c - sequences to the host tier and back.
 *
 * Whoever polls, waits or cancels is in the device outside the lock. The transfer is marked as being
 * in a call meanwhile: it stays open, and a second such call gives PKV_EBUSY. */
#include "api/api.h"

static int start(pkv_cache* cache, pkv_seq handle, pkv_transfer* transfer,
                 int (*verb)(pkv_cache* cache, struct pkvi_seq* seq, pkv_transfer* handle)) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return verb(cache, seq, transfer);
}

int pkv_seq_swap_out(pkv_cache* cache, pkv_seq seq, pkv_transfer* transfer) {
    if (cache == NULL) return PKV_EINVAL;
    if (transfer == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, start(cache, seq, transfer, pkvi_seq_swap_out));
}

int pkv_seq_swap_in(pkv_cache* cache, pkv_seq seq, pkv_transfer* transfer) {
    if (cache == NULL) return PKV_EINVAL;
    if (transfer == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, start(cache, seq, transfer, pkvi_seq_swap_in));
}

static int enter(pkv_cache* cache, pkv_transfer handle, struct pkvi_transfer** transfer) {
    PKVI_TRY(pkvi_transfer_find(&cache->transfers, handle, transfer));
    if ((*transfer)->in_call) return PKV_EBUSY;
    (*transfer)->in_call = true;
    return PKV_OK;
}

static void leave(pkv_cache* cache, struct pkvi_transfer* transfer, bool has_ended, int status) {
    pkvi_lock(cache);
    transfer->in_call = false;
    if (has_ended) pkvi_transfer_end(cache, transfer, status);
    pkvi_unlock(cache, PKV_OK);
}

int pkv_transfer_poll(pkv_cache* cache, pkv_transfer transfer, uint32_t* done) {
    if (cache == NULL) return PKV_EINVAL;
    if (done == NULL) return PKV_EINVAL;
    struct pkvi_transfer* found;
    pkvi_lock(cache);
    PKVI_TRY(pkvi_unlock(cache, enter(cache, transfer, &found)));
    const uint32_t index = pkvi_transfer_index(&cache->transfers, found);
    bool has_ended = true;
    int status = PKV_OK;
    if (found->bytes > 0)
        status = cache->device->ops->transfer_poll(cache->device, index, &has_ended);
    leave(cache, found, has_ended, status);
    if (status == PKV_OK) *done = has_ended;
    return status;
}

int pkv_transfer_wait(pkv_cache* cache, pkv_transfer transfer) {
    if (cache == NULL) return PKV_EINVAL;
    struct pkvi_transfer* found;
    pkvi_lock(cache);
    PKVI_TRY(pkvi_unlock(cache, enter(cache, transfer, &found)));
    const uint32_t index = pkvi_transfer_index(&cache->transfers, found);
    int status = PKV_OK;
    if (found->bytes > 0) status = cache->device->ops->transfer_wait(cache->device, index);
    leave(cache, found, true, status);
    return status;
}

/* What a plan counts on is not taken from it. */
static int enter_to_cancel(pkv_cache* cache, pkv_transfer handle, struct pkvi_transfer** transfer) {
    PKVI_TRY(pkvi_transfer_find(&cache->transfers, handle, transfer));
    if ((*transfer)->seq->in_plan) return PKV_EBUSY;
    PKVI_TRY(enter(cache, handle, transfer));
    (*transfer)->seq->readers++; /* nor does a plan begin to count on it now */
    return PKV_OK;
}

int pkv_transfer_cancel(pkv_cache* cache, pkv_transfer transfer) {
    if (cache == NULL) return PKV_EINVAL;
    if (transfer.id == 0) return PKV_OK;
    struct pkvi_transfer* found;
    pkvi_lock(cache);
    PKVI_TRY(pkvi_unlock(cache, enter_to_cancel(cache, transfer, &found)));
    const uint32_t index = pkvi_transfer_index(&cache->transfers, found);
    if (found->bytes > 0) cache->device->ops->transfer_cancel(cache->device, index);
    pkvi_lock(cache);
    found->seq->readers--;
    pkvi_transfer_abandon(cache, found);
    return pkvi_unlock(cache, PKV_OK);
}
