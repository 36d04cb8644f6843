/* gpu.h - the state of an open CUDA device, which device.c opens and jobs.c and transfers.c work
 * with. */
#ifndef PKVI_DEVICE_CUDA_GPU_H
#define PKVI_DEVICE_CUDA_GPU_H

#include "device/cuda/cells.h"
#include "device/cuda/graphs.h"
#include "device/cuda/swaps.h"
#include "device/cuda/tables.h"
#include <pthread.h>

struct pkvi_gpu {
    struct pkvi_device device;
    struct pkvi_mem* mem;
    struct pkvi_faults* faults;
    struct pkvi_clock* clock;
    char isa[16];
    struct pkvi_gpu_context context;
    uint64_t shared_bytes; /* that a thread block may have */
    pthread_mutex_t lock;  /* of all that follows */
    bool has_lock;
    bool has_failed; /* for good */
    struct pkvi_gpu_stream* stream;
    struct pkvi_gpu_event* handover; /* from one stream to the next */
    struct pkvi_gpu_limits limits;
    struct pkvi_gpu_cells slot_cells;
    uint32_t slots_max; /* of a piece; a cell has room for two, since moves have two sides */
    struct pkvi_gpu_cells table_cells;
    struct pkvi_gpu_tables* tables; /* [table_cells.count]; pointers into device memory */
    uint32_t* round_ends;           /* of all tables */
    struct pkvi_gpu_item* prefill;  /* [bounds.prefill_items] scratch */
    float* partials;
    uint32_t* merges;
    struct pkvi_gpu_graphs graphs;
    struct pkvi_gpu_swaps swaps;
};

static inline struct pkvi_gpu* pkvi_gpu_of(struct pkvi_device* device) {
    return (struct pkvi_gpu*)device;
}

/* Take the lock and enter the context of the GPU. `status` is what a fault point said, visited before:
 * a pause there stops nobody else.
 * Errors  `status`, and PKV_EDEVICE when the device has failed for good; then nothing is held. */
int pkvi_gpu_enter(struct pkvi_gpu* gpu, int status);

/* Let go, and hand `status` on; PKV_EDEVICE is remembered. */
int pkvi_gpu_leave(struct pkvi_gpu* gpu, int status);

/* Free what the device or a host tier had, with `give`, when nothing uses it any more; also on a
 * device that has failed, where the driver may refuse it. */
void pkvi_gpu_give_back(struct pkvi_gpu* gpu, void* memory, void (*give)(void* memory));

/* The operations of the vtable that start kernels. */
int pkvi_gpu_write(struct pkvi_device* device, const struct pkvi_kv_job* job);
int pkvi_gpu_read(struct pkvi_device* device, const struct pkvi_kv_job* job);
int pkvi_gpu_attend(struct pkvi_device* device, const struct pkvi_attend_job* job);
int pkvi_gpu_move(struct pkvi_device* device, const struct pkvi_move_job* job);
int pkvi_gpu_graph_load(struct pkvi_device* device, const struct pkvi_attend_job* job,
                        const uint32_t* slots);

/* Those that swap blocks. */
int pkvi_gpu_alloc_host(struct pkvi_device* device, uint64_t bytes, void** base);
void pkvi_gpu_free_host(struct pkvi_device* device, void* base, uint64_t bytes);
int pkvi_gpu_transfer(struct pkvi_device* device, const struct pkvi_transfer_job* job);
int pkvi_gpu_transfer_poll(struct pkvi_device* device, uint32_t index, bool* has_ended);
int pkvi_gpu_transfer_wait(struct pkvi_device* device, uint32_t index);
void pkvi_gpu_transfer_cancel(struct pkvi_device* device, uint32_t index);

int pkvi_gpu_open(const struct pkvi_device_config* config, struct pkvi_device** device);

#endif
