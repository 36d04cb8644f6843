/* tables.c - see tables.h. */
#include "device/cuda/tables.h"

#include "base/limits.h"
#include <string.h>

enum { TABLE_ALIGNMENT = 64, TABLES = 8 };

static uint64_t aligned(uint64_t bytes) {
    return (bytes + TABLE_ALIGNMENT - 1) / TABLE_ALIGNMENT * TABLE_ALIGNMENT;
}

/* Partial results of 256 sequences at 4k tokens with 32 query heads of 128 dims take 34 MB. What
 * does not fit into PKVI_PARTIALS_BYTES runs in a further round, after the first. */
bool pkvi_gpu_limits_of(const struct pkvi_device_config* config, struct pkvi_gpu_limits* limits) {
    const pkv_group_config* group = &config->layout.group;
    const uint64_t seqs = config->plan_sequences_max;
    const uint64_t pages = pkvi_ceil_div(config->sequence_tokens_max, group->block_tokens);
    limits->bounds =
        pkvi_gpu_bounds_of(config->plan_sequences_max, config->plan_tokens_max,
                           config->sequence_tokens_max, group->kv_heads, PKVI_GPU_GROUP_HEADS_MAX);
    const struct pkvi_gpu_bounds* bounds = &limits->bounds;
    if (bounds->decode_items > UINT32_MAX) return false;
    if (bounds->prefill_items > UINT32_MAX) return false;
    limits->graph = pkvi_gpu_decode_bounds_of(
        config->graph.sequences, config->graph.sequence_tokens, config->sequence_tokens_max,
        group->kv_heads, config->graph_query_heads / group->kv_heads);
    if (limits->graph.partial_rows > UINT32_MAX) return false;
    const uint64_t numbers = (seqs + 1) + seqs + (seqs + 1) + seqs * pages;
    limits->partial_rows =
        pkvi_gpu_partial_rows(bounds, config->plan_sequences_max, group->value_dim);
    if (limits->partial_rows < limits->graph.partial_rows)
        limits->partial_rows = (uint32_t)limits->graph.partial_rows;
    limits->tables_bytes =
        (numbers + seqs) * sizeof(uint32_t) +
        pkvi_gpu_nodes_max(config->plan_sequences_max, config->plan_tokens_max) *
            sizeof(struct pkvi_gpu_node) +
        (bounds->decode_items + bounds->prefill_items) * sizeof(struct pkvi_gpu_item) +
        (uint64_t)TABLES * TABLE_ALIGNMENT;
    return true;
}

/* Takes piece after piece of the memory. */
struct packer {
    unsigned char* memory;
    uint64_t used;
};

static void* pack(struct packer* packer, uint64_t count, uint64_t element_bytes) {
    void* place = packer->memory + packer->used;
    packer->used += aligned(count * element_bytes);
    return place;
}

static uint32_t pages_of_longest(const struct pkvi_attend_job* job, uint32_t block_tokens) {
    uint32_t longest = 0;
    for (uint32_t e = 0; e < job->entries; e++)
        if (job->lengths[e] > longest) longest = job->lengths[e];
    return pkvi_ceil_div(longest, block_tokens);
}

static void fill_plan(const struct pkvi_attend_job* job, struct packer* packer,
                      struct pkvi_gpu_tables* tables) {
    const uint32_t block_tokens = job->layout->group.block_tokens;
    const size_t entries = job->entries;
    tables->table_stride = pages_of_longest(job, block_tokens);
    tables->starts = pack(packer, entries + 1, sizeof(uint32_t));
    tables->lengths = pack(packer, entries, sizeof(uint32_t));
    tables->counts = pack(packer, entries + 1, sizeof(uint32_t));
    tables->block_table = pack(packer, entries * tables->table_stride, sizeof(uint32_t));
    memcpy(tables->starts, job->starts, (entries + 1) * sizeof(uint32_t));
    memcpy(tables->lengths, job->lengths, entries * sizeof(uint32_t));
    for (size_t e = 0; e < entries; e++)
        memcpy(tables->block_table + e * tables->table_stride,
               job->block_table + e * job->table_stride,
               pkvi_ceil_div(job->lengths[e], block_tokens) * sizeof(uint32_t));
}

static void fill_trees(const struct pkvi_attend_job* job, struct packer* packer,
                       struct pkvi_gpu_tables* tables) {
    tables->trees = NULL;
    tables->nodes = NULL;
    if (job->trees == NULL) return;
    tables->trees = pack(packer, job->entries, sizeof *tables->trees);
    tables->nodes = (struct pkvi_gpu_node*)(packer->memory + packer->used);
    pack(packer, pkvi_gpu_nodes_fill(job, tables->trees, tables->nodes), sizeof *tables->nodes);
}

void pkvi_gpu_tables_fill(const struct pkvi_attend_job* job, const struct pkvi_gpu_limits* limits,
                          struct pkvi_gpu_item* prefill, unsigned char* memory,
                          struct pkvi_gpu_tables* tables, uint64_t* bytes) {
    const pkv_group_config* group = &job->layout->group;
    struct packer packer = {memory, 0};
    fill_plan(job, &packer, tables);
    fill_trees(job, &packer, tables);
    tables->decode = (struct pkvi_gpu_item*)(memory + packer.used);
    const struct pkvi_gpu_shape shape = {
        .entries = job->entries,
        .starts = job->starts,
        .lengths = job->lengths,
        .trees = tables->trees,
        .kv_heads = group->kv_heads,
        .group_heads = job->query_heads / group->kv_heads,
        .window = group->window,
        .sinks = group->sinks,
    };
    struct pkvi_gpu_work work = {
        .decode = tables->decode,
        .prefill = prefill,
        .round_ends = tables->round_ends,
        .partial_rows = limits->partial_rows,
    };
    pkvi_gpu_split(&shape, &work);
    pack(&packer, work.decode_count, sizeof *work.decode);
    tables->prefill = pack(&packer, work.prefill_count, sizeof *work.prefill);
    memcpy(tables->prefill, prefill, work.prefill_count * sizeof *prefill);
    tables->rounds = work.rounds;
    tables->prefill_count = work.prefill_count;
    for (uint32_t r = 0; r < work.rounds; r++)
        tables->counts[r] = work.round_ends[r] - (r > 0 ? work.round_ends[r - 1] : 0);
    tables->counts[work.rounds] = work.prefill_count;
    *bytes = packer.used;
}
