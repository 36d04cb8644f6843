/* transfers.c - the operations of the vtable that swap blocks, over swaps.h.
 *
 * The host waits for copies outside the lock of the device, so that others can compute meanwhile.
 * A transfer that was told to misbehave is carried out all the same, and then said to have ended as
 * it was told: what is lost or damaged on the way cannot be had from a GPU that works. */
#include "device/cuda/gpu.h"
#include "device/ending.h"

#include <string.h>

int pkvi_gpu_alloc_host(struct pkvi_device* device, uint64_t bytes, void** base) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    const int refused = pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_HOST_ALLOC);
    PKVI_TRY(pkvi_gpu_enter(gpu, refused));
    const int status = pkvi_gpu_alloc_pinned(bytes, base);
    if (status == PKV_OK) memset(*base, 0, bytes);
    return pkvi_gpu_leave(gpu, status);
}

void pkvi_gpu_free_host(struct pkvi_device* device, void* base, uint64_t bytes) {
    (void)bytes;
    pkvi_gpu_give_back(pkvi_gpu_of(device), base, pkvi_gpu_free_pinned);
}

int pkvi_gpu_transfer(struct pkvi_device* device, const struct pkvi_transfer_job* job) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    const int refused = pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_TRANSFER_SUBMIT);
    PKVI_TRY(pkvi_gpu_enter(gpu, refused));
    return pkvi_gpu_leave(gpu, pkvi_gpu_swaps_start(&gpu->swaps, job, gpu->stream));
}

/* One call at a time works on a transfer, so that no lock is needed. */
static struct pkvi_fault fate_of(struct pkvi_gpu* gpu, uint32_t index) {
    return pkvi_transfer_learn(&gpu->swaps.swaps[index].fate, gpu->faults);
}

/* Wait until the device touches nothing of the transfer any more; who cannot enter waits as well. */
static int await(struct pkvi_gpu* gpu, uint32_t index) {
    const int entered = pkvi_gpu_context_enter(&gpu->context);
    const int status = pkvi_gpu_event_wait(pkvi_gpu_swap_last(&gpu->swaps, index));
    if (entered == PKV_OK) pkvi_gpu_context_leave(&gpu->context);
    return status;
}

/* Let go of it; `status` is how its copies ended. */
static int finish(struct pkvi_gpu* gpu, uint32_t index, int status) {
    pthread_mutex_lock(&gpu->lock);
    pkvi_gpu_swaps_end(&gpu->swaps, index);
    pthread_mutex_unlock(&gpu->lock);
    PKVI_TRY(pkvi_gpu_enter(gpu, status));
    return pkvi_gpu_leave(gpu, PKV_OK);
}

/* Damage the copy as it was told: what is in device memory can be zeroed from here. */
static int corrupt(struct pkvi_gpu* gpu, uint32_t index) {
    const struct pkvi_gpu_swap* swap = &gpu->swaps.swaps[index];
    if (!swap->is_in) {
        *swap->first_to ^= 1;
        return PKV_OK;
    }
    PKVI_TRY(pkvi_gpu_enter(gpu, PKV_OK));
    int status = pkvi_gpu_zero(swap->first_to, 1, gpu->swaps.in);
    if (status == PKV_OK) status = pkvi_gpu_stream_wait(gpu->swaps.in);
    return pkvi_gpu_leave(gpu, status);
}

/* All copies are done: end as it was told. */
static int settle(struct pkvi_gpu* gpu, uint32_t index, struct pkvi_fault fate) {
    int status = PKV_OK;
    if (fate.action == PKVI_ACT_DELAY) pkvi_clock_sleep(gpu->clock, fate.argument);
    if (pkvi_ending_is_damage(fate)) status = corrupt(gpu, index);
    return finish(gpu, index, status != PKV_OK ? status : pkvi_ending_status(fate));
}

static int ask(struct pkvi_gpu* gpu, uint32_t index, bool* is_done) {
    PKVI_TRY(pkvi_gpu_enter(gpu, PKV_OK));
    struct pkvi_gpu_event* last = pkvi_gpu_swap_last(&gpu->swaps, index);
    return pkvi_gpu_leave(gpu, pkvi_gpu_event_is_done(last, is_done));
}

/* Who cannot ask waits: copies that may still go on are not called ended. */
int pkvi_gpu_transfer_poll(struct pkvi_device* device, uint32_t index, bool* has_ended) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    const struct pkvi_fault fate = fate_of(gpu, index);
    bool is_done = false;
    const int status = ask(gpu, index, &is_done);
    *has_ended = true;
    if (status != PKV_OK) {
        await(gpu, index);
        return finish(gpu, index, status);
    }
    *has_ended = is_done && fate.action != PKVI_ACT_DROP;
    return *has_ended ? settle(gpu, index, fate) : PKV_OK;
}

int pkvi_gpu_transfer_wait(struct pkvi_device* device, uint32_t index) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    const struct pkvi_fault fate = fate_of(gpu, index);
    const int status = await(gpu, index);
    return status == PKV_OK ? settle(gpu, index, fate) : finish(gpu, index, status);
}

void pkvi_gpu_transfer_cancel(struct pkvi_device* device, uint32_t index) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    finish(gpu, index, await(gpu, index));
}
