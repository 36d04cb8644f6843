/* graphs.h - steps that are captured once, in a CUDA graph, and replayed for other plans.
 *
 *   load 1        load 2        load 3                     host: staging memory in turns
 *      |             |             |                       one copy each, in the order of the stream
 *      v             v             v
 *   [head][starts][lengths][slots][items ...][block table ...]      device: one address for ever
 *                 ^
 *      captured kernels read how much there is to do, and where its tables are
 *
 * What is captured depends on the shape of the step alone: launches are as large as a plan of that
 * shape can ever need, but no larger than GRAPH_BLOCKS_MAX thread blocks, which go round; those with
 * nothing to do return at once. What a plan says is cut as ever (split.h), into one round, for which
 * there is room: results are those of the same plan uncaptured, bit for bit.
 *
 * Only items and block table vary in size, so that a load copies what the plan has and not what there
 * is room for. Staging memory is filled again LOADS loads later, when its copy is done.
 *
 * Threads the lock of the device. */
#ifndef PKVI_DEVICE_CUDA_GRAPHS_H
#define PKVI_DEVICE_CUDA_GRAPHS_H

#include "device/cuda/cells.h"
#include "device/cuda/tables.h"

enum { PKVI_GPU_LOADS = 4 };

/* Where in the memory the parts with a fixed place are. */
struct pkvi_gpu_graph_tables {
    struct pkvi_gpu_head* head;
    uint32_t* starts;
    uint32_t* lengths;
    uint32_t* slots;
    struct pkvi_gpu_item* items; /* and the block table behind them */
};

struct pkvi_gpu_graph_staging {
    unsigned char* memory; /* pinned */
    struct pkvi_gpu_event* sent;
};

struct pkvi_gpu_graphs {
    struct pkvi_graph largest; /* 0 sequences: there are no captured steps, and nothing is open */
    uint32_t query_heads;
    uint32_t kv_heads;
    uint32_t sequence_tokens_max;
    uint64_t bytes; /* that the largest plan takes */
    unsigned char* memory;
    struct pkvi_gpu_graph_tables there; /* in it */
    struct pkvi_gpu_graph_staging staging[PKVI_GPU_LOADS];
    uint64_t loads; /* so far */
};

/* Errors  PKV_ENOMEM, PKV_EIO, PKV_EDEVICE. Close what was opened in part as if it were whole. */
int pkvi_gpu_graphs_open(struct pkvi_gpu_graphs* graphs, const struct pkvi_device_config* config);
void pkvi_gpu_graphs_close(struct pkvi_gpu_graphs* graphs);

/* Thread blocks of attention for steps of this shape. */
uint32_t pkvi_gpu_graph_blocks(const struct pkvi_gpu_graphs* graphs, struct pkvi_graph shape);

/* Write what the plan of `job` and `slots` says to staging memory, from where pkvi_gpu_graphs_send
 * sends it: so many *bytes. *staged is the same job, with its arrays in staging memory, where they
 * stay until the next load but LOADS - 1.
 * Errors  PKV_ENOTSUP while `stream` is captured, and PKV_EIO, PKV_EDEVICE. */
int pkvi_gpu_graphs_fill(struct pkvi_gpu_graphs* graphs, const struct pkvi_attend_job* job,
                         const uint32_t* slots, const struct pkvi_gpu_limits* limits,
                         struct pkvi_gpu_stream* stream, struct pkvi_attend_job* staged,
                         uint64_t* bytes);
int pkvi_gpu_graphs_send(struct pkvi_gpu_graphs* graphs, uint64_t bytes,
                         struct pkvi_gpu_stream* stream);

#endif
