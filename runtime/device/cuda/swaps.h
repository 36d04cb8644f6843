/* swaps.h - blocks to pinned host memory and back, beside the stream that computes.
 *
 *   compute   [step 7 ....][step 8 ....][step 9: layer 0][layer 1]...       the caller's stream
 *                   |                            ^          ^
 *   out             '->[copy blocks of step 7]   |          |
 *   in                 [layers 0, 1 of blocks]---'  [2, 3]--'               groups of layers
 *
 * Order   What uses blocks belongs to a step: the work of one plan, or what comes between plans. A
 *         block remembers its last step, and a ring of events the ends of the last RING steps. A copy
 *         waits for the last step that any of its blocks was used in, and for nothing younger.
 *         Reading a source would not have to wait for its readers; one number for both keeps the
 *         books small. A plan that is loaded for a graph (graphs.h) uses its blocks whenever that is
 *         launched: in every step until the next load. Blocks that are arriving are marked with the
 *         transfer; before work on a layer of a plan that has such blocks, the stream is made to wait
 *         for the group of that layer.
 *         Whatever else a block could have to wait for has been waited for by the host: a transfer
 *         has ended before its blocks or slots are used for another.
 * Groups  A transfer in is cut into groups of layers, each with an event, so that the first layer can
 *         be computed while the last is on its way. A transfer out is one group.
 * Ways    Pieces go by the copy engines, many in one call, or where those are slower by a kernel
 *         (pkvi_gpu_launch_gather). Which, is measured for the two sizes of piece that a cache has,
 *         when it is opened.
 * Holds   W1  arriving[b] names the open transfer in that b is a destination of, or is 0
 *         W2  every use of b so far is in step last_step[b] or an earlier one
 * Threads the lock of the device, but for waiting. */
#ifndef PKVI_DEVICE_CUDA_SWAPS_H
#define PKVI_DEVICE_CUDA_SWAPS_H

#include "device/cuda/kernels.h"
#include "device/cuda/system.h"
#include "device/transfer.h"

enum { PKVI_GPU_STEPS = 32 };

struct pkvi_gpu_swap {
    bool is_open;
    bool is_in;
    struct pkvi_transfer_fate fate;
    uint32_t count;
    uint32_t ordered;                   /* leading groups that the compute stream waits for */
    uint32_t* blocks;                   /* [pairs_max] */
    unsigned char* first_to;            /* some byte of the destination */
    struct pkvi_gpu_event** groups;     /* [group_count]; out: the first alone */
    struct pkvi_gpu_copy_pair* staging; /* pinned; [group_count][pairs_max], if kernels copy */
    struct pkvi_gpu_copy_pair* pairs;   /* the same in device memory */
};

struct pkvi_gpu_swaps {
    struct pkvi_mem* mem;
    struct pkvi_gpu_stream* in;
    struct pkvi_gpu_stream* out;
    struct pkvi_gpu_swap* swaps; /* [count] */
    uint32_t count;              /* 0: there is no host tier, and everything here does nothing */
    uint32_t pairs_max;
    uint32_t group_layers;
    uint32_t group_count;
    uint64_t group_bytes; /* of a block; the last group may have less */
    bool gathers_in;
    bool gathers_out;
    void** to; /* [pairs_max] scratch */
    const void** from;

    struct pkvi_gpu_event* steps[PKVI_GPU_STEPS]; /* event s % PKVI_GPU_STEPS: the end of step s */
    uint64_t step;                                /* the present one, from 1 on */
    uint64_t plan;                                /* whose work it is; 0: of none */
    bool is_used;        /* something has been put into the stream in this step */
    bool has_slots;      /* the plan's slots have been marked in this step */
    bool has_table;      /* and its table */
    uint64_t arrivals;   /* set of transfers that blocks of this step are arriving by */
    uint64_t* last_step; /* [blocks] */
    uint8_t* arriving;   /* [blocks] number of the transfer, from 1 on, or 0 */
    uint64_t block_bytes;
    uint32_t block_count;
    uint32_t block_tokens;
    const unsigned char* base;     /* of the arena, once it is there */
    struct pkvi_attend_job loaded; /* the plan that captured steps are done for; 0 entries: none */
};

/* Errors  PKV_ENOMEM, PKV_EIO, PKV_EDEVICE. Close what was opened in part as if it were whole. */
int pkvi_gpu_swaps_open(struct pkvi_gpu_swaps* swaps, const struct pkvi_device_config* config);
void pkvi_gpu_swaps_close(struct pkvi_gpu_swaps* swaps);

/* ---- What computes says ---------------------------------------------------------------------- */

/* Work on `layer` of plan `plan`, or of none (0), is about to be put into `stream`. It uses the
 * blocks of `slots` [count], or those named by a table. */
int pkvi_gpu_swaps_use_slots(struct pkvi_gpu_swaps* swaps, const struct pkvi_kv_job* job,
                             struct pkvi_gpu_stream* stream);
int pkvi_gpu_swaps_use_table(struct pkvi_gpu_swaps* swaps, const struct pkvi_attend_job* job,
                             struct pkvi_gpu_stream* stream);
/* The plan of `job` is about to be loaded, so that a captured graph of its layers may be launched. The
 * job's arrays stay where they are until the next call. The graph has no waits inside: the stream waits
 * here for all that arrives. */
int pkvi_gpu_swaps_use_loaded(struct pkvi_gpu_swaps* swaps, const struct pkvi_attend_job* job,
                              struct pkvi_gpu_stream* stream);
/* The block at this address is about to be copied or zeroed there. */
void pkvi_gpu_swaps_use_block(struct pkvi_gpu_swaps* swaps, const void* address);

/* ---- Transfers ------------------------------------------------------------------------------- */

/* Start one; `stream` is the one that computes. */
int pkvi_gpu_swaps_start(struct pkvi_gpu_swaps* swaps, const struct pkvi_transfer_job* job,
                         struct pkvi_gpu_stream* stream);

/* The event after which it touches nothing any more. */
struct pkvi_gpu_event* pkvi_gpu_swap_last(const struct pkvi_gpu_swaps* swaps, uint32_t index);

/* That event has come. */
void pkvi_gpu_swaps_end(struct pkvi_gpu_swaps* swaps, uint32_t index);

#endif
