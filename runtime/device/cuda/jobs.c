/* jobs.c - write, read and attend on the CUDA device: sends what kernels need to know, once for
 * each plan, and starts them. */
#include "device/cuda/arguments.h"
#include "device/cuda/gpu.h"

#include <string.h>

/* ---- Write and read -------------------------------------------------------------------------- */

typedef int launch_kv(const struct pkvi_gpu_kv* job, struct pkvi_gpu_stream* stream);

static void advance(struct pkvi_gpu_array* array, uint64_t rows) {
    if (array->data == NULL) return;
    const uint64_t bytes = rows * array->row_stride * pkvi_dtype_bytes(array->dtype);
    array->data = (unsigned char*)array->data + bytes;
}

/* Send `count` slots, unless they are there. */
static int send_slots(struct pkvi_gpu* gpu, uint64_t plan, const uint32_t* slots, uint32_t count,
                      const uint32_t** there) {
    const struct pkvi_gpu_key key = {plan, 0};
    struct pkvi_gpu_cell* cell = pkvi_gpu_cell_find(&gpu->slot_cells, key);
    if (cell == NULL) {
        PKVI_TRY(pkvi_gpu_cell_take(&gpu->slot_cells, gpu->stream, &cell));
        memcpy(cell->staging, slots, count * sizeof *slots);
        PKVI_TRY(pkvi_gpu_cell_send(cell, key, count * sizeof *slots, gpu->stream));
    }
    *there = (const uint32_t*)cell->memory;
    return PKV_OK;
}

/* A job of a plan goes in one piece; others may be of any size. */
static int move(struct pkvi_gpu* gpu, const struct pkvi_kv_job* job, launch_kv* launch) {
    struct pkvi_gpu_kv piece = {
        .blocks = pkvi_gpu_blocks_of(job->layout, job->space, job->layer),
        .k = pkvi_gpu_array_of(&job->k),
        .v = pkvi_gpu_array_of(&job->v),
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

/* For whichever plan is loaded then. */
static int write_captured(const struct pkvi_gpu* gpu, const struct pkvi_kv_job* job) {
    const struct pkvi_gpu_kv all = {
        .blocks = pkvi_gpu_blocks_of(job->layout, job->space, job->layer),
        .k = pkvi_gpu_array_of(&job->k),
        .v = pkvi_gpu_array_of(&job->v),
        .slots = gpu->graphs.there.slots,
        .tokens = job->tokens,
        .head = gpu->graphs.there.head,
    };
    return pkvi_gpu_launch_write(&all, gpu->stream);
}

static bool reaches(const pkv_array* array) {
    return array->data == NULL || pkvi_gpu_reaches(array->data);
}

static int move_planned(struct pkvi_gpu* gpu, const struct pkvi_kv_job* job, launch_kv* launch) {
    PKVI_TRY(pkvi_gpu_swaps_use_slots(&gpu->swaps, job, gpu->stream));
    return move(gpu, job, launch);
}

static int run_kv(struct pkvi_device* device, const struct pkvi_kv_job* job,
                  enum pkvi_fault_point point, launch_kv* launch) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    PKVI_TRY(pkvi_gpu_enter(gpu, pkvi_fault_check(gpu->faults, point)));
    int status = reaches(&job->k) && reaches(&job->v) ? PKV_OK : PKV_EINVAL;
    if (status == PKV_OK)
        status = job->graph != NULL ? write_captured(gpu, job) : move_planned(gpu, job, launch);
    return pkvi_gpu_leave(gpu, status);
}

int pkvi_gpu_write(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    return run_kv(device, job, PKVI_FAULT_DEVICE_WRITE, pkvi_gpu_launch_write);
}

int pkvi_gpu_read(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    return run_kv(device, job, PKVI_FAULT_DEVICE_READ, pkvi_gpu_launch_read);
}

/* ---- Moves ----------------------------------------------------------------------------------- */

/* All slots of one side of the moves, as a job that uses them. */
static struct pkvi_kv_job use_of(const struct pkvi_move_job* job, const uint32_t* slots) {
    return (struct pkvi_kv_job){.layout = job->layout,
                                .space = job->space,
                                .layer = job->layout->group.layers - 1,
                                .tokens = job->count,
                                .slots = slots};
}

/* The slots that are read, and then those that are written. */
static int send_moves(struct pkvi_gpu* gpu, const struct pkvi_move_job* job,
                      const uint32_t** there) {
    const uint64_t bytes = job->count * sizeof *job->from;
    const struct pkvi_gpu_key key = {0, 0};
    struct pkvi_gpu_cell* cell;
    PKVI_TRY(pkvi_gpu_cell_take(&gpu->slot_cells, gpu->stream, &cell));
    memcpy(cell->staging, job->from, bytes);
    memcpy(cell->staging + bytes, job->to, bytes);
    PKVI_TRY(pkvi_gpu_cell_send(cell, key, 2 * bytes, gpu->stream));
    *there = (const uint32_t*)cell->memory;
    return PKV_OK;
}

static int move_tokens(struct pkvi_gpu* gpu, const struct pkvi_move_job* job) {
    const struct pkvi_kv_job from = use_of(job, job->from);
    const struct pkvi_kv_job to = use_of(job, job->to);
    struct pkvi_gpu_move call = {
        .blocks = pkvi_gpu_blocks_of(job->layout, job->space, 0),
        .layers = job->layout->group.layers,
        .layer_bytes = job->layout->layer_bytes,
        .count = job->count,
    };
    PKVI_TRY(pkvi_gpu_swaps_use_slots(&gpu->swaps, &from, gpu->stream));
    PKVI_TRY(pkvi_gpu_swaps_use_slots(&gpu->swaps, &to, gpu->stream));
    PKVI_TRY(send_moves(gpu, job, &call.from));
    call.to = call.from + job->count;
    return pkvi_gpu_launch_move(&call, gpu->stream);
}

int pkvi_gpu_move(struct pkvi_device* device, const struct pkvi_move_job* job) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    PKVI_TRY(pkvi_gpu_enter(gpu, pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_MOVE)));
    return pkvi_gpu_leave(gpu, move_tokens(gpu, job));
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* From staging memory to where the same is in device memory. */
static void move_there(const struct pkvi_gpu_cell* cell, struct pkvi_gpu_tables* tables) {
    const ptrdiff_t distance = cell->memory - cell->staging;
    tables->starts = (uint32_t*)((unsigned char*)tables->starts + distance);
    tables->lengths = (uint32_t*)((unsigned char*)tables->lengths + distance);
    tables->counts = (uint32_t*)((unsigned char*)tables->counts + distance);
    tables->block_table = (uint32_t*)((unsigned char*)tables->block_table + distance);
    if (tables->trees != NULL) {
        tables->trees = (uint32_t*)((unsigned char*)tables->trees + distance);
        tables->nodes = (struct pkvi_gpu_node*)((unsigned char*)tables->nodes + distance);
    }
    tables->decode = (struct pkvi_gpu_item*)((unsigned char*)tables->decode + distance);
    tables->prefill = (struct pkvi_gpu_item*)((unsigned char*)tables->prefill + distance);
}

/* Cut the work and send its tables, unless they are there. */
static int send_tables(struct pkvi_gpu* gpu, const struct pkvi_attend_job* job,
                       const struct pkvi_gpu_tables** there) {
    const struct pkvi_gpu_key key = {job->plan, job->query_heads};
    struct pkvi_gpu_cell* cell = pkvi_gpu_cell_find(&gpu->table_cells, key);
    const bool is_there = cell != NULL;
    if (!is_there) PKVI_TRY(pkvi_gpu_cell_take(&gpu->table_cells, gpu->stream, &cell));
    struct pkvi_gpu_tables* tables = &gpu->tables[cell - gpu->table_cells.cells];
    *there = tables;
    if (is_there) return PKV_OK;
    uint64_t bytes;
    pkvi_gpu_tables_fill(job, &gpu->limits, gpu->prefill, cell->staging, tables, &bytes);
    move_there(cell, tables);
    return pkvi_gpu_cell_send(cell, key, bytes, gpu->stream);
}

/* One thread block for each item: the hardware hands them out as others end. */
static int launch_rounds(struct pkvi_gpu* gpu, struct pkvi_gpu_attend* call,
                         const struct pkvi_gpu_tables* tables) {
    uint32_t begin = 0;
    for (uint32_t r = 0; r < tables->rounds; r++) {
        const uint32_t end = tables->round_ends[r];
        call->items = tables->decode + begin;
        call->item_count = tables->counts + r;
        PKVI_TRY(pkvi_gpu_launch_decode(call, end - begin, gpu->stream));
        begin = end;
    }
    if (tables->prefill_count == 0) return PKV_OK;
    call->items = tables->prefill;
    call->item_count = tables->counts + tables->rounds;
    return pkvi_gpu_launch_prefill(call, tables->prefill_count, gpu->stream);
}

/* What does not depend on tables. */
static struct pkvi_gpu_attend call_of(const struct pkvi_gpu* gpu,
                                      const struct pkvi_attend_job* job) {
    const pkv_group_config* group = &job->layout->group;
    return (struct pkvi_gpu_attend){
        .blocks = pkvi_gpu_blocks_of(job->layout, job->space, job->layer),
        .q = pkvi_gpu_array_of(&job->q),
        .out = pkvi_gpu_array_of(&job->out),
        .lse = job->lse,
        .sink_logits = job->sink_logits,
        .query_heads = job->query_heads,
        .group_heads = job->query_heads / group->kv_heads,
        .window = group->window,
        .sinks = group->sinks,
        .scale = job->scale,
        .softcap = job->softcap,
        .partials = gpu->partials,
        .merges = gpu->merges,
    };
}

static int attend(struct pkvi_gpu* gpu, const struct pkvi_attend_job* job) {
    struct pkvi_gpu_attend call = call_of(gpu, job);
    const struct pkvi_gpu_tables* tables;
    PKVI_TRY(pkvi_gpu_swaps_use_table(&gpu->swaps, job, gpu->stream));
    PKVI_TRY(send_tables(gpu, job, &tables));
    call.starts = tables->starts;
    call.lengths = tables->lengths;
    call.block_table = tables->block_table;
    call.trees = tables->trees;
    call.nodes = tables->nodes;
    call.table_stride = tables->table_stride;
    return launch_rounds(gpu, &call, tables);
}

/* For whichever plan is loaded then. */
static int attend_captured(const struct pkvi_gpu* gpu, const struct pkvi_attend_job* job) {
    const struct pkvi_gpu_graphs* graphs = &gpu->graphs;
    struct pkvi_gpu_attend call = call_of(gpu, job);
    call.starts = graphs->there.starts;
    call.lengths = graphs->there.lengths;
    call.block_table = (const uint32_t*)(const void*)graphs->memory;
    call.head = graphs->there.head;
    call.items = graphs->there.items;
    call.item_count = &graphs->there.head->items;
    return pkvi_gpu_launch_decode(&call, pkvi_gpu_graph_blocks(graphs, *job->graph), gpu->stream);
}

static int check_attend(const struct pkvi_gpu* gpu, const struct pkvi_attend_job* job) {
    const pkv_group_config* group = &job->layout->group;
    const bool is_f32 = job->q.dtype == PKV_F32;
    if (job->query_heads / group->kv_heads > PKVI_GPU_GROUP_HEADS_MAX) return PKV_ENOTSUP;
    const struct pkvi_gpu_types cache = {group->key_dim, group->k_dtype, group->v_dtype};
    if (pkvi_gpu_shared_bytes(cache, is_f32) > gpu->shared_bytes) return PKV_ENOTSUP;
    if (job->graph != NULL && job->query_heads != gpu->graphs.query_heads) return PKV_EINVAL;
    if (!reaches(&job->q) || !reaches(&job->out)) return PKV_EINVAL;
    if (job->sink_logits != NULL && !pkvi_gpu_reaches(job->sink_logits)) return PKV_EINVAL;
    if (job->lse == NULL) return PKV_OK;
    if ((uintptr_t)job->lse % sizeof *job->lse != 0) return PKV_EINVAL;
    return pkvi_gpu_reaches(job->lse) ? PKV_OK : PKV_EINVAL;
}

int pkvi_gpu_attend(struct pkvi_device* device, const struct pkvi_attend_job* job) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    PKVI_TRY(pkvi_gpu_enter(gpu, pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_ATTEND)));
    int status = check_attend(gpu, job);
    if (status == PKV_OK)
        status = job->graph != NULL ? attend_captured(gpu, job) : attend(gpu, job);
    return pkvi_gpu_leave(gpu, status);
}

/* ---- Captured steps -------------------------------------------------------------------------- */

static int load(struct pkvi_gpu* gpu, const struct pkvi_attend_job* job, const uint32_t* slots) {
    struct pkvi_attend_job staged;
    uint64_t bytes;
    PKVI_TRY(
        pkvi_gpu_graphs_fill(&gpu->graphs, job, slots, &gpu->limits, gpu->stream, &staged, &bytes));
    PKVI_TRY(pkvi_gpu_swaps_use_loaded(&gpu->swaps, &staged, gpu->stream));
    return pkvi_gpu_graphs_send(&gpu->graphs, bytes, gpu->stream);
}

int pkvi_gpu_graph_load(struct pkvi_device* device, const struct pkvi_attend_job* job,
                        const uint32_t* slots) {
    struct pkvi_gpu* gpu = pkvi_gpu_of(device);
    const int refused = pkvi_fault_check(gpu->faults, PKVI_FAULT_DEVICE_COPY_SUBMIT);
    PKVI_TRY(pkvi_gpu_enter(gpu, refused));
    return pkvi_gpu_leave(gpu, load(gpu, job, slots));
}
