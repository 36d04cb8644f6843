/* device.c - the CUDA device: the vtable of device.h over the kernels and the system below.
 *
 * Everything is put into one stream, the caller's, and is done in that order; the host goes on. The
 * tables of a plan are sent once (cells.h), and so are the items that its attention is cut into
 * (split.h), when it is attended to for the first time.
 *
 * A failure that the GPU does not recover from is remembered: from then on the device refuses
 * everything, so that nobody takes what it left for a result.
 *
 * Threads  a mutex orders what is put into the stream, and with it the use of cells and workspace.
 * */
#include "device/cuda/cells.h"
#include "device/cuda/kernels.h"
#include "device/cuda/plugin.h"
#include "device/cuda/system.h"
#include "device/cuda/tables.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    SLOTS_MIN = 256, /* room of a cell of slots, at least */
    LOOSE_CELLS = 2, /* for jobs of no plan, besides one for each plan */
};

struct gpu {
    struct pkvi_device device;
    struct pkvi_mem* mem;
    struct pkvi_faults* faults;
    struct pkvi_clock* clock;
    char isa[16];
    int ordinal;
    uint32_t multiprocessors;
    pthread_mutex_t lock; /* of all that follows */
    bool has_lock;
    bool has_failed; /* for good */
    struct pkvi_gpu_stream* stream;
    struct pkvi_gpu_event* handover; /* from one stream to the next */
    struct pkvi_gpu_limits limits;
    struct pkvi_gpu_cells slot_cells;
    uint32_t slots_max; /* of a cell */
    struct pkvi_gpu_cells table_cells;
    struct pkvi_gpu_tables* tables; /* [table_cells.count]; pointers into device memory */
    uint32_t* round_ends;           /* of all tables */
    struct pkvi_gpu_item* prefill;  /* [bounds.prefill_items] scratch */
    float* partials;
    uint32_t* merges;
};

static struct gpu* gpu_of(struct pkvi_device* device) {
    return (struct gpu*)device;
}

/* ---- Entering and leaving -------------------------------------------------------------------- */

/* Note a failure for good. pre: the lock is held. */
static int note(struct gpu* gpu, int status) {
    if (status == PKV_EDEVICE) gpu->has_failed = true;
    return status;
}

/* Take the lock and select the GPU for this thread; *before was selected by the caller. `status` is
 * what a fault point said, visited before: a pause there stops nobody else. */
static int enter(struct gpu* gpu, int status, int* before) {
    pthread_mutex_lock(&gpu->lock);
    note(gpu, status);
    if (gpu->has_failed) status = PKV_EDEVICE;
    if (status == PKV_OK) status = note(gpu, pkvi_gpu_select(gpu->ordinal, before));
    if (status != PKV_OK) pthread_mutex_unlock(&gpu->lock);
    return status;
}

static int leave(struct gpu* gpu, int before, int status) {
    note(gpu, status);
    pkvi_gpu_select(before, NULL);
    pthread_mutex_unlock(&gpu->lock);
    return status;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static int alloc_zeroed(struct gpu* gpu, uint64_t bytes, void** memory) {
    PKVI_TRY(pkvi_gpu_alloc(bytes, memory));
    int status = pkvi_gpu_zero(*memory, bytes, gpu->stream);
    if (status == PKV_OK) status = pkvi_gpu_stream_wait(gpu->stream);
    if (status == PKV_OK) return PKV_OK;
    pkvi_gpu_free(*memory);
    *memory = NULL;
    return status;
}

static int gpu_alloc(struct pkvi_device* device, uint64_t bytes, void** base) {
    struct gpu* gpu = gpu_of(device);
    int before;
    PKVI_TRY(enter(gpu, pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_ALLOC), &before));
    return leave(gpu, before, alloc_zeroed(gpu, bytes, base));
}

/* Memory goes back also on a device that has failed; the driver may refuse it. */
static void gpu_free(struct pkvi_device* device, void* base, uint64_t bytes) {
    struct gpu* gpu = gpu_of(device);
    int before;
    (void)bytes;
    if (pkvi_gpu_select(gpu->ordinal, &before) != PKV_OK) return;
    pkvi_gpu_wait();
    pkvi_gpu_free(base);
    pkvi_gpu_select(before, NULL);
}

/* How a copy that was told to misbehave ends. A bit cannot be flipped from here; a byte can be
 * zeroed. */
static int finish_copy(struct gpu* gpu, unsigned char* to, uint64_t bytes,
                       struct pkvi_fault fault) {
    switch (fault.action) {
    case PKVI_ACT_RETURN:
        return fault.status;
    case PKVI_ACT_DROP:
        return PKV_ETIMEDOUT;
    case PKVI_ACT_CORRUPT:
        if (fault.argument == 0) return PKV_OK;
        PKVI_TRY(pkvi_gpu_zero(to + fault.random % bytes, 1, gpu->stream));
        return PKV_EIO;
    default:
        return PKV_OK;
    }
}

/* A ticket is the status of the copy as a positive number. That it is complete for what comes after
 * it in the stream is all that wait() promises. */
static int gpu_copy(struct pkvi_device* device, void* to, const void* from, uint64_t bytes,
                    uint64_t* ticket) {
    struct gpu* gpu = gpu_of(device);
    const int refused = pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_COPY_SUBMIT);
    const struct pkvi_fault fault = pkvi_fault_visit(gpu->faults, PKVI_FAULT_DEVICE_COPY_DONE);
    int before;
    if (fault.action == PKVI_ACT_DELAY) pkvi_clock_sleep(gpu->clock, fault.argument);
    PKVI_TRY(enter(gpu, refused, &before));
    const int status = pkvi_gpu_copy(to, from, bytes, gpu->stream);
    if (status == PKV_OK) *ticket = (uint64_t)-note(gpu, finish_copy(gpu, to, bytes, fault));
    return leave(gpu, before, status);
}

static int gpu_wait(struct pkvi_device* device, uint64_t ticket) {
    (void)device;
    return -(int)ticket;
}

static int gpu_zero(struct pkvi_device* device, void* to, uint64_t bytes) {
    struct gpu* gpu = gpu_of(device);
    int before;
    PKVI_TRY(enter(gpu, pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_ZERO), &before));
    return leave(gpu, before, pkvi_gpu_zero(to, bytes, gpu->stream));
}

/* ---- What kernels are given ------------------------------------------------------------------ */

static struct pkvi_gpu_blocks blocks_of(const struct pkvi_layout* layout,
                                        const struct pkvi_space* space, uint32_t layer) {
    return (struct pkvi_gpu_blocks){
        .base = space->base,
        .extent_bytes = space->extent_bytes,
        .block_bytes = space->block_bytes,
        .layer_offset = layer * layout->layer_bytes,
        .k_head_bytes = layout->k_head_bytes,
        .v_head_bytes = layout->v_head_bytes,
        .v_offset = layout->v_offset,
        .k_scale_offset = layout->k_scale_offset,
        .v_scale_offset = layout->v_scale_offset,
        .blocks_per_extent = space->blocks_per_extent,
        .block_tokens = layout->group.block_tokens,
        .kv_heads = layout->group.kv_heads,
        .dim = layout->group.key_dim,
        .k_dtype = layout->group.k_dtype,
        .v_dtype = layout->group.v_dtype,
    };
}

static struct pkvi_gpu_array array_of(const pkv_array* array) {
    return (struct pkvi_gpu_array){array->data, array->row_stride, array->head_stride,
                                   array->dtype};
}

/* ---- Write and read -------------------------------------------------------------------------- */

typedef int launch_kv(const struct pkvi_gpu_kv* job, struct pkvi_gpu_stream* stream);

static void advance(struct pkvi_gpu_array* array, uint64_t rows) {
    if (array->data == NULL) return;
    const uint64_t bytes = rows * array->row_stride * pkvi_dtype_bytes(array->dtype);
    array->data = (unsigned char*)array->data + bytes;
}

/* Send `count` slots, unless they are there. */
static int send_slots(struct gpu* gpu, uint64_t plan, const uint32_t* slots, uint32_t count,
                      const uint32_t** there) {
    const struct pkvi_gpu_key key = {plan, 0};
    struct pkvi_gpu_cell* cell = pkvi_gpu_cell_find(&gpu->slot_cells, key);
    if (cell == NULL) {
        PKVI_TRY(pkvi_gpu_cell_take(&gpu->slot_cells, &cell));
        memcpy(cell->staging, slots, count * sizeof *slots);
        PKVI_TRY(pkvi_gpu_cell_send(cell, key, count * sizeof *slots, gpu->stream));
    }
    *there = (const uint32_t*)cell->memory;
    return PKV_OK;
}

/* A job of a plan goes in one piece; others may be of any size. */
static int move(struct gpu* gpu, const struct pkvi_kv_job* job, launch_kv* launch) {
    struct pkvi_gpu_kv piece = {
        .blocks = blocks_of(job->layout, job->space, job->layer),
        .k = array_of(&job->k),
        .v = array_of(&job->v),
    };
    for (uint32_t done = 0; done < job->tokens; done += piece.tokens) {
        const uint32_t rest = job->tokens - done;
        piece.tokens = rest < gpu->slots_max ? rest : gpu->slots_max;
        PKVI_TRY(send_slots(gpu, job->plan, job->slots + done, piece.tokens, &piece.slots));
        PKVI_TRY(launch(&piece, gpu->stream));
        advance(&piece.k, piece.tokens);
        advance(&piece.v, piece.tokens);
    }
    return PKV_OK;
}

static bool reaches(const pkv_array* array) {
    return array->data == NULL || pkvi_gpu_reaches(array->data);
}

static int run_kv(struct pkvi_device* device, const struct pkvi_kv_job* job,
                  enum pkvi_fault_point point, launch_kv* launch) {
    struct gpu* gpu = gpu_of(device);
    int before;
    PKVI_TRY(enter(gpu, pkvi_fault_check(gpu->faults, point), &before));
    const bool is_valid = reaches(&job->k) && reaches(&job->v);
    return leave(gpu, before, is_valid ? move(gpu, job, launch) : PKV_EINVAL);
}

static int gpu_write(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    return run_kv(device, job, PKVI_FAULT_DEVICE_WRITE, pkvi_gpu_launch_write);
}

static int gpu_read(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    return run_kv(device, job, PKVI_FAULT_DEVICE_READ, pkvi_gpu_launch_read);
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* From staging memory to where the same is in device memory. */
static void move_there(const struct pkvi_gpu_cell* cell, struct pkvi_gpu_tables* tables) {
    const ptrdiff_t distance = cell->memory - cell->staging;
    tables->starts = (uint32_t*)((unsigned char*)tables->starts + distance);
    tables->lengths = (uint32_t*)((unsigned char*)tables->lengths + distance);
    tables->counts = (uint32_t*)((unsigned char*)tables->counts + distance);
    tables->block_table = (uint32_t*)((unsigned char*)tables->block_table + distance);
    tables->decode = (struct pkvi_gpu_item*)((unsigned char*)tables->decode + distance);
    tables->prefill = (struct pkvi_gpu_item*)((unsigned char*)tables->prefill + distance);
}

/* Cut the work and send its tables, unless they are there. */
static int send_tables(struct gpu* gpu, const struct pkvi_attend_job* job,
                       const struct pkvi_gpu_tables** there) {
    const struct pkvi_gpu_key key = {job->plan, job->query_heads};
    struct pkvi_gpu_cell* cell = pkvi_gpu_cell_find(&gpu->table_cells, key);
    const bool is_there = cell != NULL;
    if (!is_there) PKVI_TRY(pkvi_gpu_cell_take(&gpu->table_cells, &cell));
    struct pkvi_gpu_tables* tables = &gpu->tables[cell - gpu->table_cells.cells];
    *there = tables;
    if (is_there) return PKV_OK;
    uint64_t bytes;
    pkvi_gpu_tables_fill(job, &gpu->limits, gpu->prefill, cell->staging, tables, &bytes);
    move_there(cell, tables);
    return pkvi_gpu_cell_send(cell, key, bytes, gpu->stream);
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static int launch_rounds(struct gpu* gpu, struct pkvi_gpu_attend* call,
                         const struct pkvi_gpu_tables* tables) {
    const struct pkvi_gpu_blocks* blocks = &call->blocks;
    const uint32_t decode_max = gpu->multiprocessors * pkvi_gpu_decode_blocks_per_multiprocessor(
                                                           blocks->dim, blocks->k_dtype);
    const uint32_t prefill_max = gpu->multiprocessors * pkvi_gpu_prefill_blocks_per_multiprocessor(
                                                            blocks->dim, blocks->k_dtype);
    uint32_t begin = 0;
    for (uint32_t r = 0; r < tables->rounds; r++) {
        const uint32_t end = tables->round_ends[r];
        call->items = tables->decode + begin;
        call->item_count = tables->counts + r;
        PKVI_TRY(pkvi_gpu_launch_decode(call, smaller(end - begin, decode_max), gpu->stream));
        begin = end;
    }
    if (tables->prefill_count == 0) return PKV_OK;
    call->items = tables->prefill;
    call->item_count = tables->counts + tables->rounds;
    return pkvi_gpu_launch_prefill(call, smaller(tables->prefill_count, prefill_max), gpu->stream);
}

static int attend(struct gpu* gpu, const struct pkvi_attend_job* job) {
    const pkv_group_config* group = &job->layout->group;
    const struct pkvi_gpu_tables* tables;
    PKVI_TRY(send_tables(gpu, job, &tables));
    struct pkvi_gpu_attend call = {
        .blocks = blocks_of(job->layout, job->space, job->layer),
        .q = array_of(&job->q),
        .out = array_of(&job->out),
        .lse = job->lse,
        .starts = tables->starts,
        .lengths = tables->lengths,
        .block_table = tables->block_table,
        .table_stride = tables->table_stride,
        .query_heads = job->query_heads,
        .group_heads = job->query_heads / group->kv_heads,
        .window = group->window,
        .sinks = group->sinks,
        .scale = job->scale,
        .softcap = job->softcap,
        .partials = gpu->partials,
        .merges = gpu->merges,
    };
    return launch_rounds(gpu, &call, tables);
}

static int check_attend(const struct pkvi_attend_job* job) {
    if (job->query_heads / job->layout->group.kv_heads > PKVI_GPU_GROUP_HEADS_MAX)
        return PKV_ENOTSUP;
    if (!reaches(&job->q) || !reaches(&job->out)) return PKV_EINVAL;
    if (job->lse == NULL) return PKV_OK;
    if ((uintptr_t)job->lse % sizeof *job->lse != 0) return PKV_EINVAL;
    return pkvi_gpu_reaches(job->lse) ? PKV_OK : PKV_EINVAL;
}

static int gpu_attend(struct pkvi_device* device, const struct pkvi_attend_job* job) {
    struct gpu* gpu = gpu_of(device);
    int before;
    PKVI_TRY(enter(gpu, pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_ATTEND), &before));
    int status = check_attend(job);
    if (status == PKV_OK) status = attend(gpu, job);
    return leave(gpu, before, status);
}

/* ---- Streams --------------------------------------------------------------------------------- */

static int hand_over(struct gpu* gpu, struct pkvi_gpu_stream* stream) {
    if (stream == gpu->stream) return PKV_OK;
    PKVI_TRY(pkvi_gpu_stream_check(stream, gpu->ordinal));
    PKVI_TRY(pkvi_gpu_event_record(gpu->handover, gpu->stream));
    PKVI_TRY(pkvi_gpu_event_order(gpu->handover, stream));
    gpu->stream = stream;
    return PKV_OK;
}

static int gpu_set_stream(struct pkvi_device* device, void* stream) {
    struct gpu* gpu = gpu_of(device);
    int before;
    PKVI_TRY(enter(gpu, PKV_OK, &before));
    return leave(gpu, before, hand_over(gpu, stream));
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void close_parts(struct gpu* gpu) {
    pkvi_gpu_wait();
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
    struct gpu* gpu = gpu_of(device);
    int before;
    const int selected = pkvi_gpu_select(gpu->ordinal, &before);
    close_parts(gpu);
    if (selected == PKV_OK) pkvi_gpu_select(before, NULL);
    pkvi_mem_give(gpu->mem, gpu);
}

static const struct pkvi_device_ops gpu_ops = {
    .name = "cuda",
    .alloc = gpu_alloc,
    .free = gpu_free,
    .copy = gpu_copy,
    .wait = gpu_wait,
    .zero = gpu_zero,
    .write = gpu_write,
    .read = gpu_read,
    .attend = gpu_attend,
    .set_stream = gpu_set_stream,
    .close = gpu_close,
};

static int open_tables(struct gpu* gpu, const struct pkvi_device_config* config) {
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

static int open_workspace(struct gpu* gpu, const struct pkvi_device_config* config) {
    const uint64_t row_bytes = (config->layout.group.value_dim + 2) * sizeof(float);
    const uint64_t merges_bytes = gpu->limits.bounds.decode_items * sizeof *gpu->merges;
    PKVI_TRY(pkvi_gpu_alloc(gpu->limits.partial_rows * row_bytes, (void**)&gpu->partials));
    return alloc_zeroed(gpu, merges_bytes, (void**)&gpu->merges);
}

static int open_parts(struct gpu* gpu, const struct pkvi_device_config* config) {
    struct pkvi_gpu_properties properties;
    if (pthread_mutex_init(&gpu->lock, NULL) != 0) return PKV_ENOMEM;
    gpu->has_lock = true;
    PKVI_TRY(pkvi_gpu_describe(gpu->ordinal, &properties));
    snprintf(gpu->isa, sizeof gpu->isa, "sm_%d%d", properties.compute_major,
             properties.compute_minor);
    gpu->multiprocessors = properties.multiprocessors;
    if (!pkvi_gpu_limits_of(config, &gpu->limits)) return PKV_ENOMEM;
    gpu->slots_max = config->plan_tokens_max > SLOTS_MIN ? config->plan_tokens_max : SLOTS_MIN;
    PKVI_TRY(pkvi_gpu_event_open(&gpu->handover));
    PKVI_TRY(pkvi_gpu_cells_open(&gpu->slot_cells, gpu->mem, config->plans_max + LOOSE_CELLS,
                                 gpu->slots_max * sizeof(uint32_t)));
    PKVI_TRY(open_tables(gpu, config));
    return open_workspace(gpu, config);
}

static int gpu_open(const struct pkvi_device_config* config, struct pkvi_device** device) {
    struct gpu* gpu;
    int before;
    PKVI_TRY(pkvi_gpu_select((int)config->ordinal, &before));
    int status = pkvi_mem_take(config->mem, 1, sizeof *gpu, (void**)&gpu);
    if (status == PKV_OK) {
        gpu->device = (struct pkvi_device){.ops = &gpu_ops, .isa = gpu->isa};
        gpu->mem = config->mem;
        gpu->faults = config->faults;
        gpu->clock = config->clock;
        gpu->ordinal = (int)config->ordinal;
        status = open_parts(gpu, config);
        if (status != PKV_OK) {
            close_parts(gpu);
            pkvi_mem_give(config->mem, gpu);
        }
    }
    pkvi_gpu_select(before, NULL);
    if (status == PKV_OK) *device = &gpu->device;
    return status;
}

/* ---- What the loader is given ---------------------------------------------------------------- */

static int refuse(const char* sentence, const char** why) {
    *why = sentence;
    return PKV_ENOTSUP;
}

static int check_ordinal(const pkv_config* config, const char** why) {
    int count = 0;
    PKVI_TRY(pkvi_gpu_count(&count));
    if (config->device_ordinal < (uint32_t)count) return PKV_OK;
    return refuse("device_ordinal: there are not so many GPUs", why);
}

static int check(const pkv_config* config, const char** why) {
    const pkv_group_config* group = &config->groups[0];
    *why = "device: the GPU has failed";
    PKVI_TRY(check_ordinal(config, why));
    if (group->value_dim != group->key_dim)
        return refuse("groups[0].value_dim: the same as key_dim on \"cuda\"", why);
    if (!pkvi_gpu_has_kernel(group->key_dim, PKV_F16, PKV_F16))
        return refuse("groups[0].key_dim: 64, 96, 128 or 256 on \"cuda\"", why);
    if (!pkvi_gpu_has_kernel(group->key_dim, group->k_dtype, group->k_dtype))
        return refuse("groups[0].k_dtype: f16, bf16, i8 or e4m3 on \"cuda\"", why);
    if (!pkvi_gpu_has_kernel(group->key_dim, group->v_dtype, group->v_dtype))
        return refuse("groups[0].v_dtype: f16, bf16, i8 or e4m3 on \"cuda\"", why);
    if (!pkvi_gpu_has_kernel(group->key_dim, group->k_dtype, group->v_dtype))
        return refuse("groups[0].v_dtype: the same as k_dtype on \"cuda\"", why);
    if (group->block_tokens % PKVI_GPU_TILE_TOKENS != 0)
        return refuse("groups[0].block_tokens: a multiple of 16 on \"cuda\"", why);
    return PKV_OK;
}

extern const struct pkvi_plugin pkvi_cuda_plugin;

__attribute__((visibility("default"))) const struct pkvi_plugin pkvi_cuda_plugin = {
    .stamp = PKVI_PLUGIN_STAMP,
    .absent = pkvi_gpu_absent,
    .check = check,
    .open = gpu_open,
};
