/* store.cuh - the kernels that move K and V: rows into slots, slots into rows, pieces of memory.
 *
 * One warp works on one token's K or V of one head. What is stored is what quantise.h says, bit for
 * bit: the same codec (codec.h), and products that are rounded on their own. */
#ifndef PKVI_DEVICE_CUDA_STORE_CUH
#define PKVI_DEVICE_CUDA_STORE_CUH

#include "device/codec.h"
#include "device/cuda/tile.cuh"

namespace pkvi {

enum { STORE_WARPS = 8, STORE_THREADS = STORE_WARPS * gpu::WARP };

/* One row of one head in the cache. */
struct stored_row {
    unsigned char* elements;
    float* scale;
};

GPU_DEVICE bool is_scaled(const pkvi_gpu_blocks& blocks, bool is_value) {
    return (is_value ? blocks.v_dtype : blocks.k_dtype) >= PKV_I8;
}

GPU_DEVICE stored_row stored_row_of(const pkvi_gpu_blocks& blocks, bool is_value, uint32_t slot,
                                    uint32_t head) {
    const uint32_t inside = slot % blocks.block_tokens;
    const uint32_t bytes = is_scaled(blocks, is_value) ? 1 : 2;
    unsigned char* piece =
        (unsigned char*)slab_of(blocks, slot / blocks.block_tokens) +
        (is_value ? blocks.v_offset + head * blocks.v_head_bytes : head * blocks.k_head_bytes);
    return {piece + (size_t)inside * blocks.dim * bytes,
            (float*)(piece + (is_value ? blocks.v_scale_offset : blocks.k_scale_offset)) + inside};
}

/* And in the array. */
struct row_place : stored_row {
    uint64_t index;
};

GPU_DEVICE row_place place_of(const pkvi_gpu_kv& job, bool is_value, uint32_t token,
                              uint32_t head) {
    const pkvi_gpu_array& array = is_value ? job.v : job.k;
    return {stored_row_of(job.blocks, is_value, job.slots[token], head),
            token * array.row_stride + head * array.head_stride};
}

GPU_DEVICE void store_plain(const row_place& place, const pkvi_gpu_array& array, uint32_t dim,
                            uint32_t dtype) {
    const pkvi_gpu_array cache = {place.elements, 0, 0, dtype};
    for (uint32_t d = gpu::lane(); d < dim; d += gpu::WARP)
        store_element(cache, d, load_element(array, place.index + d));
}

GPU_DEVICE void store_scaled(const row_place& place, const pkvi_gpu_array& array, uint32_t dim,
                             uint32_t dtype) {
    float highest = 0.0F;
    for (uint32_t d = gpu::lane(); d < dim; d += gpu::WARP)
        highest = fmaxf(highest, fabsf(load_element(array, place.index + d)));
    for (int mask = 1; mask < gpu::WARP; mask *= 2)
        highest = fmaxf(highest, gpu::shuffle_xor(highest, mask));
    const float scale = pkvi_scale_of_magnitude(dtype, highest);
    const float inverse = pkvi_scale_inverse(scale);
    for (uint32_t d = gpu::lane(); d < dim; d += gpu::WARP)
        place.elements[d] =
            pkvi_encode(dtype, gpu::multiply(load_element(array, place.index + d), inverse));
    if (gpu::lane() == 0) *place.scale = scale;
}

GPU_KERNEL(STORE_THREADS, 1) write_rows(const pkvi_gpu_kv job) {
    const uint32_t heads = job.blocks.kv_heads;
    const uint32_t tokens = job.head != nullptr ? job.head->tokens : job.tokens;
    const uint32_t rows = tokens * heads * 2;
    const uint32_t warps = gpu::blocks() * STORE_WARPS;
    for (uint32_t i = gpu::block() * STORE_WARPS + gpu::warp(); i < rows; i += warps) {
        const bool is_value = i % 2 != 0;
        const uint32_t dtype = is_value ? job.blocks.v_dtype : job.blocks.k_dtype;
        const row_place place = place_of(job, is_value, i / 2 / heads, i / 2 % heads);
        if (dtype >= PKV_I8)
            store_scaled(place, is_value ? job.v : job.k, job.blocks.dim, dtype);
        else
            store_plain(place, is_value ? job.v : job.k, job.blocks.dim, dtype);
    }
}

GPU_KERNEL(STORE_THREADS, 1) read_rows(const pkvi_gpu_kv job) {
    const uint32_t heads = job.blocks.kv_heads;
    const uint32_t rows = job.tokens * heads * 2;
    const uint32_t warps = gpu::blocks() * STORE_WARPS;
    for (uint32_t i = gpu::block() * STORE_WARPS + gpu::warp(); i < rows; i += warps) {
        const bool is_value = i % 2 != 0;
        const pkvi_gpu_array& array = is_value ? job.v : job.k;
        if (array.data == nullptr) continue;
        const uint32_t dtype = is_value ? job.blocks.v_dtype : job.blocks.k_dtype;
        const row_place place = place_of(job, is_value, i / 2 / heads, i / 2 % heads);
        const pkvi_gpu_array cache = {place.elements, 0, 0, dtype};
        for (uint32_t d = gpu::lane(); d < job.blocks.dim; d += gpu::WARP)
            store_element(array, place.index + d,
                          dtype >= PKV_I8
                              ? gpu::multiply(pkvi_decode(dtype, place.elements[d]), *place.scale)
                              : load_element(cache, d));
    }
}

/* A lane has the same bytes of all rows, so that it has read what a later move overwrites. */
GPU_DEVICE void move_row(const stored_row& from, const stored_row& to, uint32_t words) {
    for (uint32_t i = gpu::lane(); i < words; i += gpu::WARP)
        ((uint32_t*)to.elements)[i] = ((const uint32_t*)from.elements)[i];
}

GPU_KERNEL(STORE_THREADS, 1) move_rows(const pkvi_gpu_move job) {
    const uint32_t heads = job.blocks.kv_heads;
    const uint32_t rows = job.layers * heads * 2;
    const uint32_t warps = gpu::blocks() * STORE_WARPS;
    for (uint32_t i = gpu::block() * STORE_WARPS + gpu::warp(); i < rows; i += warps) {
        const bool is_value = i % 2 != 0;
        const uint32_t head = i / 2 % heads;
        pkvi_gpu_blocks blocks = job.blocks;
        blocks.layer_offset = i / 2 / heads * job.layer_bytes;
        const uint32_t words = blocks.dim * (is_scaled(blocks, is_value) ? 1 : 2) / 4;
        for (uint32_t m = 0; m < job.count; m++) {
            const stored_row from = stored_row_of(blocks, is_value, job.from[m], head);
            const stored_row to = stored_row_of(blocks, is_value, job.to[m], head);
            move_row(from, to, words);
            if (is_scaled(blocks, is_value) && gpu::lane() == 0) *to.scale = *from.scale;
        }
    }
}

/* ---- Pieces of memory ------------------------------------------------------------------------ */

struct gather_job {
    const pkvi_gpu_copy_pair* copies;
    uint32_t count;
    uint64_t pieces; /* of 16 bytes, in each */
};

struct alignas(16) piece {
    uint64_t halves[2];
};

enum { GATHER_PIECES = 4 }; /* that a thread has under way: host memory is far away */

GPU_KERNEL(STORE_THREADS, 1) gather(const gather_job job) {
    for (uint32_t i = gpu::block(); i < job.count; i += gpu::blocks()) {
        const piece* from = (const piece*)job.copies[i].from;
        piece* to = (piece*)job.copies[i].to;
        for (uint64_t j = gpu::thread(); j < job.pieces; j += GATHER_PIECES * STORE_THREADS) {
            piece pieces[GATHER_PIECES];
#pragma unroll
            for (uint32_t k = 0; k < GATHER_PIECES; k++)
                if (j + k * STORE_THREADS < job.pieces) pieces[k] = from[j + k * STORE_THREADS];
#pragma unroll
            for (uint32_t k = 0; k < GATHER_PIECES; k++)
                if (j + k * STORE_THREADS < job.pieces) to[j + k * STORE_THREADS] = pieces[k];
        }
    }
}

} // namespace pkvi

#endif
