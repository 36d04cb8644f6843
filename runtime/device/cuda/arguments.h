/* arguments.h - jobs of device.h as the kernels are given them (kernels.h). */
#ifndef PKVI_DEVICE_CUDA_ARGUMENTS_H
#define PKVI_DEVICE_CUDA_ARGUMENTS_H

#include "device/cuda/kernels.h"
#include "device/device.h"

static inline struct pkvi_gpu_blocks pkvi_gpu_blocks_of(const struct pkvi_layout* layout,
                                                        const struct pkvi_space* space,
                                                        uint32_t layer) {
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

static inline struct pkvi_gpu_array pkvi_gpu_array_of(const pkv_array* array) {
    return (struct pkvi_gpu_array){array->data, array->row_stride, array->head_stride,
                                   array->dtype};
}

#endif
