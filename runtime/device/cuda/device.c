/* device.c - the CUDA device: the vtable of device.h over the kernels and the system below.
 *
 * Everything is put into one stream, the caller's, and is done in that order; the host goes on. The
 * tables of a plan are sent once (cells.h), and so are the items that its attention is cut into
 * (split.h), when it is attended to for the first time.
 *
 * A failure that the GPU does not recover from is remembered: from then on the device refuses
 * everything, so that nobody takes what it left for a result.
 *
 * Threads  a mutex orders what is put into the stream, and with it the use of cells and the like.
 * */
#include "device/cuda/gpu.h"
#include "device/ending.h"

#include <stdio.h>

enum { LOOSE_CELLS = 2 }; /* of slots, for jobs of no plan, besides one for each plan */

/* ---- Entering and leaving -------------------------------------------------------------------- */

/* Note a failure for good. pre: the lock is held. */
static int note(struct pkvi_gpu* gpu, int status) {
    if (status == PKV_EDEVICE) gpu->has_failed = true;
    return status;
}

int pkvi_gpu_enter(struct pkvi_gpu* gpu, int status) {
    pthread_mutex_lock(&gpu->lock);
    note(gpu, status);
    if (gpu->has_failed) status = PKV_EDEVICE;
    if (status == PKV_OK) status = note(gpu, pkvi_gpu_context_enter(&gpu->context));
    if (status != PKV_OK) pthread_mutex_unlock(&gpu->lock);
    return status;
}

int pkvi_gpu_leave(struct pkvi_gpu* gpu, int status) {
    note(gpu, status);
    pkvi_gpu_context_leave(&gpu->context);
    pthread_mutex_unlock(&gpu->lock);
    return status;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static int alloc_zeroed(struct pkvi_gpu* gpu, uint64_t bytes, void** memory) {
    PKVI_TRY(pkvi_gpu_alloc(bytes, memory));
    int status = pkvi_gpu_zero(*memory, bytes, gpu->stream);
    if (status == PKV_OK) status = pkvi_gpu_stream_wait(gpu->stream);
    if (status == PKV_OK) return PKV_OK;
    pkvi_gpu_free(*memory);
    *memory = NULL;
    return status;
}

static int gpu_alloc(struct pkvi_device* device, uint64_t bytes, void** base) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    PKVI_TRY(pkvi_gpu_enter(gpu, pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_ALLOC)));
    const int status = alloc_zeroed(gpu, bytes, base);
    if (status == PKV_OK) gpu->swaps.base = *base;
    return pkvi_gpu_leave(gpu, status);
}

void pkvi_gpu_give_back(struct pkvi_gpu* gpu, void* memory, void (*give)(void* memory)) {
    const int entered = pkvi_gpu_context_enter(&gpu->context);
    pkvi_gpu_wait();
    give(memory);
    if (entered == PKV_OK) pkvi_gpu_context_leave(&gpu->context);
}

static void gpu_free(struct pkvi_device* device, void* base, uint64_t bytes) {
    (void)bytes;
    pkvi_gpu_give_back(pkvi_gpu_of(device), base, pkvi_gpu_free);
}

/* A bit cannot be flipped from here; a byte can be zeroed. */
static int finish_copy(struct pkvi_gpu* gpu, unsigned char* to, uint64_t bytes,
                       struct pkvi_fault fault) {
    if (pkvi_ending_is_damage(fault))
        PKVI_TRY(pkvi_gpu_zero(to + fault.random % bytes, 1, gpu->stream));
    return pkvi_ending_status(fault);
}

/* A ticket is the status of the copy as a positive number. That it is complete for what comes after
 * it in the stream is all that wait() promises. */
static int gpu_copy(struct pkvi_device* device, const struct pkvi_copy_job* job, uint64_t* ticket) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    const int refused = pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_COPY_SUBMIT);
    const struct pkvi_fault fault = pkvi_fault_visit(gpu->faults, PKVI_FAULT_DEVICE_COPY_DONE);
    if (fault.action == PKVI_ACT_DELAY) pkvi_clock_sleep(gpu->clock, fault.argument);
    PKVI_TRY(pkvi_gpu_enter(gpu, refused));
    pkvi_gpu_swaps_use_block(&gpu->swaps, job->from);
    pkvi_gpu_swaps_use_block(&gpu->swaps, job->to);
    const int status = pkvi_gpu_copy(job->to, job->from, job->bytes, gpu->stream);
    if (status == PKV_OK)
        *ticket = (uint64_t)-note(gpu, finish_copy(gpu, job->to, job->bytes, fault));
    return pkvi_gpu_leave(gpu, status);
}

static int gpu_wait(struct pkvi_device* device, uint64_t ticket) {
    (void)device;
    return -(int)ticket;
}

static int gpu_zero(struct pkvi_device* device, void* to, uint64_t bytes) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    PKVI_TRY(pkvi_gpu_enter(gpu, pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_ZERO)));
    pkvi_gpu_swaps_use_block(&gpu->swaps, to);
    return pkvi_gpu_leave(gpu, pkvi_gpu_zero(to, bytes, gpu->stream));
}

/* ---- Streams --------------------------------------------------------------------------------- */

static int hand_over(struct pkvi_gpu* gpu, struct pkvi_gpu_stream* stream) {
    if (stream == gpu->stream) return PKV_OK;
    PKVI_TRY(pkvi_gpu_stream_check(stream, gpu->context.ordinal));
    PKVI_TRY(pkvi_gpu_event_record(gpu->handover, gpu->stream));
    PKVI_TRY(pkvi_gpu_event_order(gpu->handover, stream));
    gpu->stream = stream;
    return PKV_OK;
}

static int gpu_set_stream(struct pkvi_device* device, void* stream) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    PKVI_TRY(pkvi_gpu_enter(gpu, PKV_OK));
    return pkvi_gpu_leave(gpu, hand_over(gpu, stream));
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void close_parts(struct pkvi_gpu* gpu) {
    pkvi_gpu_wait();
    pkvi_gpu_swaps_close(&gpu->swaps);
    pkvi_gpu_graphs_close(&gpu->graphs);
    if (gpu->merges != NULL) pkvi_gpu_free(gpu->merges);
    if (gpu->partials != NULL) pkvi_gpu_free(gpu->partials);
    pkvi_gpu_cells_close(&gpu->table_cells, gpu->mem);
    pkvi_gpu_cells_close(&gpu->slot_cells, gpu->mem);
    if (gpu->handover != NULL) pkvi_gpu_event_close(gpu->handover);
    pkvi_mem_give(gpu->mem, gpu->prefill);
    pkvi_mem_give(gpu->mem, gpu->round_ends);
    pkvi_mem_give(gpu->mem, gpu->tables);
    if (gpu->has_lock) pthread_mutex_destroy(&gpu->lock);
}

static void gpu_close(struct pkvi_device* device) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    const int entered = pkvi_gpu_context_enter(&gpu->context);
    close_parts(gpu);
    if (entered == PKV_OK) pkvi_gpu_context_leave(&gpu->context);
    pkvi_gpu_context_close(&gpu->context);
    pkvi_mem_give(gpu->mem, gpu);
}

static const struct pkvi_device_ops gpu_ops = {
    .name = "cuda",
    .alloc = gpu_alloc,
    .free = gpu_free,
    .copy = gpu_copy,
    .copies_runs = true, /* one call, not one for each head */
    .wait = gpu_wait,
    .zero = gpu_zero,
    .write = pkvi_gpu_write,
    .read = pkvi_gpu_read,
    .attend = pkvi_gpu_attend,
    .alloc_host = pkvi_gpu_alloc_host,
    .free_host = pkvi_gpu_free_host,
    .transfer = pkvi_gpu_transfer,
    .transfer_poll = pkvi_gpu_transfer_poll,
    .transfer_wait = pkvi_gpu_transfer_wait,
    .transfer_cancel = pkvi_gpu_transfer_cancel,
    .orders_transfers = true,
    .move = pkvi_gpu_move,
    .graph_load = pkvi_gpu_graph_load,
    .set_stream = gpu_set_stream,
    .close = gpu_close,
};

static int open_tables(struct pkvi_gpu* gpu, const struct pkvi_device_config* config) {
    const struct pkvi_gpu_bounds* bounds = &gpu->limits.bounds;
    const uint32_t count = config->plans_max;
    const uint32_t seqs = config->plan_sequences_max;
    PKVI_TRY(pkvi_mem_take(gpu->mem, count, sizeof *gpu->tables, (void**)&gpu->tables));
    PKVI_TRY(pkvi_mem_take(gpu->mem, (uint64_t)count * seqs, sizeof *gpu->round_ends,
                           (void**)&gpu->round_ends));
    PKVI_TRY(pkvi_mem_take(gpu->mem, bounds->prefill_items, sizeof *gpu->prefill,
                           (void**)&gpu->prefill));
    for (uint32_t i = 0; i < count; i++)
        gpu->tables[i].round_ends = gpu->round_ends + (size_t)i * seqs;
    return pkvi_gpu_cells_open(&gpu->table_cells, gpu->mem, count, gpu->limits.tables_bytes);
}

static int open_workspace(struct pkvi_gpu* gpu, const struct pkvi_device_config* config) {
    const uint64_t row_bytes = (config->layout.group.value_dim + 2) * sizeof(float);
    const uint64_t merges_bytes = gpu->limits.bounds.decode_items * sizeof *gpu->merges;
    PKVI_TRY(pkvi_gpu_alloc(gpu->limits.partial_rows * row_bytes, (void**)&gpu->partials));
    return alloc_zeroed(gpu, merges_bytes, (void**)&gpu->merges);
}

static int prepare_kernels(const struct pkvi_gpu* gpu, const pkv_group_config* group) {
    const struct pkvi_gpu_types cache = {group->key_dim, group->k_dtype, group->v_dtype};
    return pkvi_gpu_prepare(cache, gpu->shared_bytes);
}

/* Nothing is loaded at first: zeros say that there is nothing to do. */
static int open_graphs(struct pkvi_gpu* gpu, const struct pkvi_device_config* config) {
    struct pkvi_gpu_graphs* graphs = &gpu->graphs;
    PKVI_TRY(pkvi_gpu_graphs_open(graphs, config));
    if (graphs->largest.sequences == 0) return PKV_OK;
    PKVI_TRY(pkvi_gpu_zero(graphs->memory, graphs->bytes, gpu->stream));
    return pkvi_gpu_stream_wait(gpu->stream);
}

static int open_parts(struct pkvi_gpu* gpu, const struct pkvi_device_config* config) {
    struct pkvi_gpu_properties properties;
    if (pthread_mutex_init(&gpu->lock, NULL) != 0) return PKV_ENOMEM;
    gpu->has_lock = true;
    PKVI_TRY(pkvi_gpu_describe(gpu->context.ordinal, &properties));
    snprintf(gpu->isa, sizeof gpu->isa, "sm_%d%d", properties.compute_major,
             properties.compute_minor);
    gpu->shared_bytes = properties.shared_bytes;
    PKVI_TRY(prepare_kernels(gpu, &config->layout.group));
    if (!pkvi_gpu_limits_of(config, &gpu->limits)) return PKV_ENOMEM;
    gpu->slots_max = config->plan_tokens_max;
    PKVI_TRY(pkvi_gpu_event_open(&gpu->handover));
    PKVI_TRY(pkvi_gpu_cells_open(&gpu->slot_cells, gpu->mem, config->plans_max + LOOSE_CELLS,
                                 2ULL * gpu->slots_max * sizeof(uint32_t)));
    PKVI_TRY(open_tables(gpu, config));
    PKVI_TRY(pkvi_gpu_swaps_open(&gpu->swaps, config));
    PKVI_TRY(open_workspace(gpu, config));
    return open_graphs(gpu, config);
}

/* Open what happens in the context, or nothing. */
static int open_inside(struct pkvi_gpu* gpu, const struct pkvi_device_config* config) {
    PKVI_TRY(pkvi_gpu_context_enter(&gpu->context));
    const int status = open_parts(gpu, config);
    if (status != PKV_OK) close_parts(gpu);
    pkvi_gpu_context_leave(&gpu->context);
    return status;
}

int pkvi_gpu_open(const struct pkvi_device_config* config, struct pkvi_device** device) {
    struct pkvi_gpu* gpu;
    PKVI_TRY(pkvi_mem_take(config->mem, 1, sizeof *gpu, (void**)&gpu));
    gpu->device = (struct pkvi_device){.ops = &gpu_ops, .isa = gpu->isa};
    gpu->mem = config->mem;
    gpu->faults = config->faults;
    gpu->clock = config->clock;
    int status = pkvi_gpu_context_open((int)config->ordinal, &gpu->context);
    if (status == PKV_OK) status = open_inside(gpu, config);
    if (status == PKV_OK) {
        *device = &gpu->device;
        return PKV_OK;
    }
    pkvi_gpu_context_close(&gpu->context);
    pkvi_mem_give(config->mem, gpu);
    return status;
}
