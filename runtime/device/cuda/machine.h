/* machine.h - all that kernels ask of a GPU, in a dozen primitives.
 *
 * nvcc turns them into PTX (machine_ptx.h). Elsewhere an emulator stands in (tests/emulator/), which
 * runs the same kernels thread by thread and is as unkind as the hardware may be: bytes of a copy
 * arrive only at the wait that covers them, shared memory begins as NaN, warps run in odd orders.
 *
 *   launch              GPU_KERNEL(threads, blocks), GPU_DEVICE; gpu::launch
 *   where am I          gpu::thread, lane, warp, block, blocks; gpu::shared
 *   shared memory       gpu::copy_async, copy_commit, copy_wait<N>
 *   tensor cores        gpu::load_matrices, load_matrices_transposed, multiply_add
 *   across threads      gpu::shuffle_xor, any, sync_warp, sync_block, fence, count_up
 *   numbers             gpu::exp2, pack, unpack, multiply, multiply_pairs, permute_bytes
 *
 * Fragments are those of PTX's mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"): with
 * r = lane / 4 and c = lane % 4,
 *
 *   A, 16 rows x 16   a[0]: row r, columns 2c, 2c+1   a[1]: row r+8   a[2], a[3]: columns + 8
 *   B, 16 x 8 columns b0: rows 2c, 2c+1 of column r   b1: rows + 8
 *   C, 16 rows x 8    c[0], c[1]: row r, columns 2c, 2c+1   c[2], c[3]: row r+8 */
#ifndef PKVI_DEVICE_CUDA_MACHINE_H
#define PKVI_DEVICE_CUDA_MACHINE_H

#include <stddef.h>
#include <stdint.h>

namespace gpu {

enum { WARP = 32 };

/* Types that tensor cores multiply, two in a word, the first in the low half. */
struct f16 {};
struct bf16 {};

} // namespace gpu

#ifdef __CUDACC__
#include "device/cuda/machine_ptx.h"
#else
#include "emulator/machine.h"
#endif

#endif
