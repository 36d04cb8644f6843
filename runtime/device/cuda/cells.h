/* cells.h - small tables that the host makes and kernels read, in device memory.
 *
 *   fill             pkvi_gpu_cell_send
 *   staging (host) ----------------------> device memory        one copy, in the order of the
 *   stream
 *
 * A cell holds the tables of one plan, recognised by a key, so that they are sent once and not once
 * for each layer. A further plan takes the cell that was used longest ago. In device memory it may
 * do that at once: kernels that read the old tables stand before the copy in the stream. The
 * staging memory is written by the host, which waits until the copy out of it is done: with as many
 * cells as there are plans, it has been for long.
 *
 * Threads the lock of the device. */
#ifndef PKVI_DEVICE_CUDA_CELLS_H
#define PKVI_DEVICE_CUDA_CELLS_H

#include "base/mem.h"
#include "device/cuda/system.h"

/* What a cell's tables are made from; plan 0 fits nothing. */
struct pkvi_gpu_key {
    uint64_t plan;
    uint32_t query_heads; /* 0 where it does not matter */
};

struct pkvi_gpu_cell {
    struct pkvi_gpu_key key;
    uint64_t used; /* when */
    struct pkvi_gpu_event* sent;
    unsigned char* staging;
    unsigned char* memory;
};

struct pkvi_gpu_cells {
    struct pkvi_gpu_cell* cells; /* [count] */
    uint32_t count;
    uint64_t bytes; /* of a cell */
    uint64_t uses;
};

/* Errors  PKV_ENOMEM, PKV_EIO, PKV_EDEVICE. Close what was opened in part as if it were whole. */
int pkvi_gpu_cells_open(struct pkvi_gpu_cells* cells, struct pkvi_mem* mem, uint32_t count,
                        uint64_t bytes);
void pkvi_gpu_cells_close(struct pkvi_gpu_cells* cells, struct pkvi_mem* mem);

/* The cell with `key`, or NULL. */
struct pkvi_gpu_cell* pkvi_gpu_cell_find(struct pkvi_gpu_cells* cells, struct pkvi_gpu_key key);

/* A cell whose staging memory may be filled; what it held is gone.
 * Errors  PKV_ENOTSUP while `stream`, in which it is to be sent, is captured: whenever the graph is
 *         launched, the copy would take what staging memory holds then. And PKV_EIO, PKV_EDEVICE. */
int pkvi_gpu_cell_take(struct pkvi_gpu_cells* cells, struct pkvi_gpu_stream* stream,
                       struct pkvi_gpu_cell** cell);

/* Copy staging memory to the device; it may be filled again when `sent` has passed. On error it may at
 * once, and what is in device memory is not defined. */
int pkvi_gpu_send(void* memory, const void* staging, uint64_t bytes, struct pkvi_gpu_event* sent,
                  struct pkvi_gpu_stream* stream);

/* Send the first `bytes` of the staging memory; from now on the cell has `key`. */
int pkvi_gpu_cell_send(struct pkvi_gpu_cell* cell, struct pkvi_gpu_key key, uint64_t bytes,
                       struct pkvi_gpu_stream* stream);

/* Where what stands at `place` in staging memory is in device memory. */
static inline const void* pkvi_gpu_cell_there(const struct pkvi_gpu_cell* cell, const void* place) {
    return cell->memory + ((const unsigned char*)place - cell->staging);
}

#endif
