/* machine_ptx.h - machine.h on the hardware: inline PTX for sm_80 and later. */
#ifndef PKVI_DEVICE_CUDA_MACHINE_PTX_H
#define PKVI_DEVICE_CUDA_MACHINE_PTX_H

#include "device/cuda/system_cuda.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define GPU_DEVICE                  __device__ __forceinline__
#define GPU_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

extern __shared__ __align__(128) unsigned char pkvi_gpu_shared[];

namespace gpu {

/* Launches of a kernel on the selected device may have so much dynamic shared memory. */
template <class Job> int prepare(void (*kernel)(Job), int shared_bytes) {
    return pkvi_gpu_status_of(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
}

/* Start kernel(job) in a stream. */
template <class Job>
int launch(void (*kernel)(Job), uint32_t blocks, uint32_t threads, size_t shared_bytes,
           pkvi_gpu_stream* stream, const Job& job) {
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = (cudaStream_t)stream;
    return pkvi_gpu_status_of(cudaLaunchKernelEx(&config, kernel, job));
}

GPU_DEVICE uint32_t thread() {
    return threadIdx.x;
}
GPU_DEVICE uint32_t lane() {
    return threadIdx.x % WARP;
}
GPU_DEVICE uint32_t warp() {
    return threadIdx.x / WARP;
}
GPU_DEVICE uint32_t block() {
    return blockIdx.x;
}
GPU_DEVICE uint32_t blocks() {
    return gridDim.x;
}
GPU_DEVICE unsigned char* shared() {
    return pkvi_gpu_shared;
}

GPU_DEVICE uint32_t shared_address(const void* at) {
    return (uint32_t)__cvta_generic_to_shared(at);
}

/* 16 bytes from global to shared memory, or zeros. */
GPU_DEVICE void copy_async(void* to, const void* from, bool is_there) {
    const int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
}
GPU_DEVICE void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until at most `groups` of the committed groups of this thread are on their way. */
template <int groups> GPU_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

/* Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8. */
GPU_DEVICE void load_matrices(uint32_t (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}
GPU_DEVICE void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* c += a * b */
GPU_DEVICE void multiply_add(bf16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                             uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
GPU_DEVICE void multiply_add(f16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

GPU_DEVICE float shuffle_xor(float value, int mask) {
    return __shfl_xor_sync(0xffffffffU, value, mask);
}
/* In any lane of the warp? */
GPU_DEVICE bool any(bool condition) {
    return __any_sync(0xffffffffU, condition) != 0;
}
GPU_DEVICE void sync_warp() {
    __syncwarp();
}
GPU_DEVICE void sync_block() {
    __syncthreads();
}
/* What this thread has written to global memory is seen before what it writes next. */
GPU_DEVICE void fence() {
    __threadfence();
}
/* The counter before. */
GPU_DEVICE uint32_t count_up(uint32_t* counter) {
    return atomicAdd(counter, 1U);
}

GPU_DEVICE float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
GPU_DEVICE float log2(float x) {
    return ::log2f(x);
}
/* Rounded on its own: never part of a fused multiply-add. */
GPU_DEVICE float multiply(float a, float b) {
    return __fmul_rn(a, b);
}

GPU_DEVICE uint32_t pack(bf16, float first, float second) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
GPU_DEVICE uint32_t pack(f16, float first, float second) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
GPU_DEVICE float unpack(bf16, uint16_t bits) {
    return __uint_as_float((uint32_t)bits << 16);
}
GPU_DEVICE float unpack(f16, uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}
/* Pairs of bf16, exact where the product is. */
GPU_DEVICE uint32_t multiply_pairs(uint32_t a, uint32_t b) {
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000U));
    return product;
}
/* Byte i of the result is byte number (selector >> 4 * i & 7) of a (0 .. 3) and b (4 .. 7). */
GPU_DEVICE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    return __byte_perm(a, b, selector);
}
GPU_DEVICE float float_of_bits(uint32_t bits) {
    return __uint_as_float(bits);
}

} // namespace gpu

#endif
