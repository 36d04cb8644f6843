/* nodes.h - token trees as the kernels see them.
 *
 *   parents  - 0 1 0     node 2, position past + 2, sees rows 0 1 2    bits 0111
 *                        node 3, position past + 1, sees rows 0 3      bits 1001
 *
 * What a row sees of its own tree, window and sinks included, is one bit for each row of the tree: a
 * kernel that walked from parent to parent would wait for memory at each step.
 *
 * Cost    36 bytes a row, for trees alone; the walk is done once for each plan, on the host. */
#ifndef PKVI_DEVICE_CUDA_NODES_H
#define PKVI_DEVICE_CUDA_NODES_H

#include "device/cuda/kernels.h"
#include "device/device.h"

/* Nodes of the largest plan. */
uint64_t pkvi_gpu_nodes_max(uint32_t entries, uint32_t tokens);

/* Write the nodes of all trees of a job, which has some, and for each entry where its nodes begin, or
 * PKVI_GPU_NO_TREE. Returns how many nodes there are. */
uint32_t pkvi_gpu_nodes_fill(const struct pkvi_attend_job* job, uint32_t* trees,
                             struct pkvi_gpu_node* nodes);

#endif
