/* graphs.c - see graphs.h. */
#include "device/cuda/graphs.h"

#include "base/limits.h"
#include <string.h>

/* So many are on the largest GPUs several times over; the surplus of a short step costs a few
 * microseconds. */
enum { GRAPH_BLOCKS_MAX = 4096, GRAPH_ALIGNMENT = 64 };

/* ---- Layout ---------------------------------------------------------------------------------- */

static uint64_t place(uint64_t* used, uint64_t bytes) {
    const uint64_t offset = *used;
    *used += (bytes + GRAPH_ALIGNMENT - 1) / GRAPH_ALIGNMENT * GRAPH_ALIGNMENT;
    return offset;
}

/* The parts with a fixed place, in `memory`. Returns where the others begin. */
static uint64_t lay_out(const struct pkvi_gpu_graphs* graphs, unsigned char* memory,
                        struct pkvi_gpu_graph_tables* tables) {
    const uint64_t sequences = graphs->largest.sequences;
    const uint64_t tokens = sequences * graphs->largest.sequence_tokens;
    uint64_t used = 0;
    tables->head = (void*)(memory + place(&used, sizeof *tables->head));
    tables->starts = (void*)(memory + place(&used, (sequences + 1) * sizeof *tables->starts));
    tables->lengths = (void*)(memory + place(&used, sequences * sizeof *tables->lengths));
    tables->slots = (void*)(memory + place(&used, tokens * sizeof *tables->slots));
    tables->items = (void*)(memory + used);
    return used;
}

static struct pkvi_gpu_decode_bounds bounds_of(const struct pkvi_gpu_graphs* graphs,
                                               struct pkvi_graph shape) {
    return pkvi_gpu_decode_bounds_of(shape.sequences, shape.sequence_tokens,
                                     graphs->sequence_tokens_max, graphs->kv_heads,
                                     graphs->query_heads / graphs->kv_heads);
}

uint32_t pkvi_gpu_graph_blocks(const struct pkvi_gpu_graphs* graphs, struct pkvi_graph shape) {
    const uint64_t items = bounds_of(graphs, shape).items;
    return items < GRAPH_BLOCKS_MAX ? (uint32_t)items : GRAPH_BLOCKS_MAX;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void set_up(struct pkvi_gpu_graphs* graphs, const struct pkvi_device_config* config) {
    const pkv_group_config* group = &config->layout.group;
    const uint64_t pages = pkvi_ceil_div(config->sequence_tokens_max, group->block_tokens);
    struct pkvi_gpu_graph_tables unused;
    *graphs = (struct pkvi_gpu_graphs){
        .largest = config->graph,
        .query_heads = config->graph_query_heads,
        .kv_heads = group->kv_heads,
        .sequence_tokens_max = config->sequence_tokens_max,
    };
    graphs->bytes = lay_out(graphs, NULL, &unused);
    place(&graphs->bytes, bounds_of(graphs, config->graph).items * sizeof(struct pkvi_gpu_item));
    place(&graphs->bytes, config->graph.sequences * pages * sizeof(uint32_t));
}

int pkvi_gpu_graphs_open(struct pkvi_gpu_graphs* graphs, const struct pkvi_device_config* config) {
    if (config->graph.sequences == 0) return PKV_OK;
    set_up(graphs, config);
    PKVI_TRY(pkvi_gpu_alloc(graphs->bytes, (void**)&graphs->memory));
    lay_out(graphs, graphs->memory, &graphs->there);
    for (uint32_t i = 0; i < PKVI_GPU_LOADS; i++) {
        struct pkvi_gpu_graph_staging* staging = &graphs->staging[i];
        PKVI_TRY(pkvi_gpu_alloc_pinned(graphs->bytes, (void**)&staging->memory));
        PKVI_TRY(pkvi_gpu_event_open(&staging->sent));
    }
    return PKV_OK;
}

void pkvi_gpu_graphs_close(struct pkvi_gpu_graphs* graphs) {
    for (uint32_t i = 0; i < PKVI_GPU_LOADS; i++) {
        struct pkvi_gpu_graph_staging* staging = &graphs->staging[i];
        if (staging->sent != NULL) pkvi_gpu_event_close(staging->sent);
        if (staging->memory != NULL) pkvi_gpu_free_pinned(staging->memory);
    }
    if (graphs->memory != NULL) pkvi_gpu_free(graphs->memory);
}

/* ---- Loading --------------------------------------------------------------------------------- */

static uint32_t cut(const struct pkvi_attend_job* job, uint32_t partial_rows,
                    struct pkvi_gpu_item* items) {
    const pkv_group_config* group = &job->layout->group;
    const struct pkvi_gpu_shape shape = {
        .entries = job->entries,
        .starts = job->starts,
        .lengths = job->lengths,
        .kv_heads = group->kv_heads,
        .group_heads = job->query_heads / group->kv_heads,
        .window = group->window,
        .sinks = group->sinks,
    };
    uint32_t round_end;
    struct pkvi_gpu_work work = {
        .decode = items, .round_ends = &round_end, .partial_rows = partial_rows};
    pkvi_gpu_split(&shape, &work);
    return work.decode_count;
}

static uint32_t pages_of(const struct pkvi_attend_job* job, uint32_t entry) {
    return pkvi_ceil_div(job->lengths[entry], job->layout->group.block_tokens);
}

/* Rows as long as the longest sequence of the plan. */
static uint32_t fill_block_table(const struct pkvi_attend_job* job, uint32_t* table) {
    uint32_t stride = 0;
    for (uint32_t e = 0; e < job->entries; e++)
        if (pages_of(job, e) > stride) stride = pages_of(job, e);
    for (size_t e = 0; e < job->entries; e++)
        memcpy(table + e * stride, job->block_table + e * job->table_stride,
               pages_of(job, (uint32_t)e) * sizeof *table);
    return stride;
}

static struct pkvi_gpu_graph_staging* staging_of(struct pkvi_gpu_graphs* graphs) {
    return &graphs->staging[graphs->loads % PKVI_GPU_LOADS];
}

static int await_staging(struct pkvi_gpu_graphs* graphs, struct pkvi_gpu_stream* stream) {
    bool is_captured;
    PKVI_TRY(pkvi_gpu_stream_is_captured(stream, &is_captured));
    if (is_captured) return PKV_ENOTSUP; /* the copy would be launched with the graph */
    return pkvi_gpu_event_wait(staging_of(graphs)->sent);
}

int pkvi_gpu_graphs_fill(struct pkvi_gpu_graphs* graphs, const struct pkvi_attend_job* job,
                         const uint32_t* slots, const struct pkvi_gpu_limits* limits,
                         struct pkvi_gpu_stream* stream, struct pkvi_attend_job* staged,
                         uint64_t* bytes) {
    PKVI_TRY(await_staging(graphs, stream));
    unsigned char* memory = staging_of(graphs)->memory;
    struct pkvi_gpu_graph_tables here;
    uint64_t used = lay_out(graphs, memory, &here);
    memcpy(here.starts, job->starts, (job->entries + 1) * sizeof *here.starts);
    memcpy(here.lengths, job->lengths, job->entries * sizeof *here.lengths);
    memcpy(here.slots, slots, job->starts[job->entries] * sizeof *slots);
    here.head->tokens = job->starts[job->entries];
    here.head->items = cut(job, limits->partial_rows, here.items);
    place(&used, here.head->items * sizeof *here.items);
    here.head->table_first = (uint32_t)(used / sizeof(uint32_t));
    here.head->table_stride = fill_block_table(job, (uint32_t*)(void*)(memory + used));
    *staged = *job;
    staged->starts = here.starts;
    staged->lengths = here.lengths;
    staged->block_table = (uint32_t*)(void*)(memory + used);
    staged->table_stride = here.head->table_stride;
    *bytes = used + (uint64_t)job->entries * staged->table_stride * sizeof(uint32_t);
    return PKV_OK;
}

int pkvi_gpu_graphs_send(struct pkvi_gpu_graphs* graphs, uint64_t bytes,
                         struct pkvi_gpu_stream* stream) {
    const struct pkvi_gpu_graph_staging* staging = staging_of(graphs);
    graphs->loads++;
    return pkvi_gpu_send(graphs->memory, staging->memory, bytes, staging->sent, stream);
}
