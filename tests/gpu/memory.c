/* memory.c - kernel/memory.h on a GPU: host memory that it reaches at the address that the CPU has.
 *
 * So the scenes of the kernel tests stay what they are, guards and NaN included: pages that nobody
 * registers cannot be touched by the GPU either. Pinned memory is read over the bus, which is slow
 * and does not matter here. */
#include "kernel/memory.h"

#include "device/cuda/system_cuda.h"
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

static void must(cudaError_t error, const char* call) {
    if (error == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", call, cudaGetErrorString(error));
    exit(2);
}

void* memory_take(size_t bytes) {
    void* memory;
    must(cudaHostAlloc(&memory, bytes, cudaHostAllocMapped | cudaHostAllocPortable),
         "cudaHostAlloc");
    return memory;
}

void memory_give(void* memory) {
    must(cudaFreeHost(memory), "cudaFreeHost");
}

void memory_open(void* pages, size_t bytes) {
    must(cudaHostRegister(pages, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable),
         "cudaHostRegister");
    if (pkvi_gpu_reaches(pages)) return;
    fprintf(stderr, "the GPU has registered memory at an address of its own\n");
    exit(2);
}

void memory_close(void* pages) {
    must(cudaHostUnregister(pages), "cudaHostUnregister");
}
