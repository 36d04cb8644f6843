/* tables.h - the tables of an attention call: the plan's arrays and the items of work, packed into
 * one piece of memory that is sent in one copy.
 *
 *   [starts][lengths][counts][block table][trees][nodes][decode items][prefill items]
 *
 * The block table is packed to the longest sequence of the plan. Counts are those of the items of
 * each round of decode, and then of prefill. */
#ifndef PKVI_DEVICE_CUDA_TABLES_H
#define PKVI_DEVICE_CUDA_TABLES_H

#include "device/cuda/nodes.h"
#include "device/cuda/split.h"
#include "device/device.h"

/* Limits of a device that its calls stay within, and what follows from them. */
struct pkvi_gpu_limits {
    struct pkvi_gpu_bounds bounds;
    struct pkvi_gpu_decode_bounds graph; /* of the largest captured step, which takes one round */
    uint32_t partial_rows;               /* rows of partial results that there is room for */
    uint64_t tables_bytes;               /* of the largest plan */
};

/* Pointers to the tables of one call; and the numbers that launches need on the host. */
struct pkvi_gpu_tables {
    uint32_t* starts;
    uint32_t* lengths;
    uint32_t* counts;
    uint32_t* block_table;
    uint32_t* trees; /* NULL: there is none */
    struct pkvi_gpu_node* nodes;
    struct pkvi_gpu_item* decode;
    struct pkvi_gpu_item* prefill;
    uint32_t* round_ends; /* [plan_sequences_max], host memory */
    uint32_t table_stride;
    uint32_t rounds;
    uint32_t prefill_count;
};

enum { PKVI_GPU_GROUP_HEADS_MAX = 128 }; /* query heads of one KV head */

/* False when the sizes are too large to be counted. */
bool pkvi_gpu_limits_of(const struct pkvi_device_config* config, struct pkvi_gpu_limits* limits);

/* Write the tables of `job` to `memory` and say in *bytes how many they take. Fills in all of
 * *tables but round_ends, which the caller gives.
 * prefill  scratch memory for the items of prefill */
void pkvi_gpu_tables_fill(const struct pkvi_attend_job* job, const struct pkvi_gpu_limits* limits,
                          struct pkvi_gpu_item* prefill, unsigned char* memory,
                          struct pkvi_gpu_tables* tables, uint64_t* bytes);

#endif
