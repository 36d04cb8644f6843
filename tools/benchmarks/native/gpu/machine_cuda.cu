/* machine_cuda.cu - machine.h over the CUDA runtime. */
#include "gpu/machine.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define MUST_CUDA(call)                                                                            \
    do {                                                                                           \
        const cudaError_t error_ = (call);                                                         \
        if (error_ != cudaSuccess) {                                                               \
            fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error_));                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static cudaStream_t stream_of(pkvi_gpu_stream* stream) {
    return (cudaStream_t)stream;
}

static int attribute(cudaDeviceAttr which) {
    int value;
    int device;
    MUST_CUDA(cudaGetDevice(&device));
    MUST_CUDA(cudaDeviceGetAttribute(&value, which, device));
    return value;
}

void machine_describe(machine* machine) {
    cudaDeviceProp properties;
    size_t free_bytes;
    size_t total_bytes;
    int device;
    MUST_CUDA(cudaGetDevice(&device));
    MUST_CUDA(cudaGetDeviceProperties(&properties, device));
    MUST_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    memset(machine, 0, sizeof *machine);
    machine->kind = "cuda";
    memcpy(machine->name, properties.name, sizeof machine->name);
    machine->multiprocessors = (uint32_t)properties.multiProcessorCount;
    machine->memory_free = free_bytes;
    machine->l2_bytes = (uint64_t)properties.l2CacheSize;
    machine->compute = properties.major * 10 + properties.minor;
    MUST_CUDA(cudaDriverGetVersion(&machine->driver));
    MUST_CUDA(cudaRuntimeGetVersion(&machine->runtime));
}

/* ---- Replays --------------------------------------------------------------------------------- */

struct replay {
    cudaGraph_t graph;
    cudaGraphExec_t instance;
};

replay* replay_record(replay_work* work, void* ctx, pkvi_gpu_stream* stream) {
    replay* recorded = new replay;
    MUST_CUDA(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal));
    work(ctx, stream);
    MUST_CUDA(cudaStreamEndCapture(stream_of(stream), &recorded->graph));
    MUST_CUDA(cudaGraphInstantiate(&recorded->instance, recorded->graph, 0));
    return recorded;
}

void replay_run(replay* replay, pkvi_gpu_stream* stream) {
    MUST_CUDA(cudaGraphLaunch(replay->instance, stream_of(stream)));
}

void replay_close(replay* replay) {
    MUST_CUDA(cudaGraphExecDestroy(replay->instance));
    MUST_CUDA(cudaGraphDestroy(replay->graph));
    delete replay;
}

/* ---- Times ----------------------------------------------------------------------------------- */

struct stopwatch {
    cudaEvent_t start;
    cudaEvent_t stop;
};

stopwatch* stopwatch_open(void) {
    stopwatch* watch = new stopwatch;
    MUST_CUDA(cudaEventCreate(&watch->start));
    MUST_CUDA(cudaEventCreate(&watch->stop));
    return watch;
}

void stopwatch_start(stopwatch* watch, pkvi_gpu_stream* stream) {
    MUST_CUDA(cudaEventRecord(watch->start, stream_of(stream)));
}

double stopwatch_stop(stopwatch* watch, pkvi_gpu_stream* stream) {
    float milliseconds;
    MUST_CUDA(cudaEventRecord(watch->stop, stream_of(stream)));
    MUST_CUDA(cudaEventSynchronize(watch->stop));
    MUST_CUDA(cudaEventElapsedTime(&milliseconds, watch->start, watch->stop));
    return (double)milliseconds / 1e3;
}

void stopwatch_close(stopwatch* watch) {
    MUST_CUDA(cudaEventDestroy(watch->start));
    MUST_CUDA(cudaEventDestroy(watch->stop));
    delete watch;
}

/* ---- Kernels --------------------------------------------------------------------------------- */

enum { THREADS = 256, READ_BLOCKS = 8, READ_UNROLL = 4 };

static __device__ uint64_t mixed(uint64_t x) {
    x += 0x9e3779b97f4a7c15U;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27) * 0x94d049bb133111ebU;
    return x ^ x >> 31;
}

/* The sum of four uniform numbers, mean 0, variance 1. */
static __global__ void fill_random(__nv_bfloat16* to, uint64_t count, uint64_t seed) {
    for (uint64_t i = blockIdx.x * (uint64_t)THREADS + threadIdx.x; i < count;
         i += gridDim.x * (uint64_t)THREADS) {
        const uint64_t bits = mixed(seed ^ i * 0xd1342543de82ef95U);
        float sum = 0.0F;
        for (int part = 0; part < 4; part++)
            sum += (float)(bits >> 16 * part & 0xffff) / 65536.0F - 0.5F;
        to[i] = __float2bfloat16(sum * 1.7320508F);
    }
}

void machine_fill(void* memory, uint64_t count, uint64_t seed, pkvi_gpu_stream* stream) {
    fill_random<<<4096, THREADS, 0, stream_of(stream)>>>((__nv_bfloat16*)memory, count,
                                                         seed * 0x9e3779b97f4a7c15U);
    MUST_CUDA(cudaGetLastError());
}

static __device__ uint4 load_once(const uint4* from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from));
    return value;
}

/* `never` is NULL, which the compiler does not know: what is read must seem to matter. */
static __global__ void read_once(const uint4* from, uint64_t count, uint32_t* never) {
    const uint64_t step = gridDim.x * (uint64_t)THREADS;
    uint32_t sum = 0;
    uint64_t i = blockIdx.x * (uint64_t)THREADS + threadIdx.x;
    for (; i + (READ_UNROLL - 1) * step < count; i += READ_UNROLL * step) {
        uint4 values[READ_UNROLL];
#pragma unroll
        for (int j = 0; j < READ_UNROLL; j++)
            values[j] = load_once(from + i + j * step);
#pragma unroll
        for (int j = 0; j < READ_UNROLL; j++)
            sum += values[j].x ^ values[j].y ^ values[j].z ^ values[j].w;
    }
    for (; i < count; i += step)
        sum += load_once(from + i).x;
    if (never != nullptr) *never = sum;
}

void machine_read(const void* memory, uint64_t bytes, pkvi_gpu_stream* stream) {
    const unsigned blocks = (unsigned)attribute(cudaDevAttrMultiProcessorCount) * READ_BLOCKS;
    read_once<<<blocks, THREADS, 0, stream_of(stream)>>>((const uint4*)memory,
                                                         bytes / sizeof(uint4), nullptr);
    MUST_CUDA(cudaGetLastError());
}

enum { MULTIPLY_ROUNDS = 2048, MULTIPLY_CHAINS = 8 };

static __global__ void multiply(float* never) {
    float c[MULTIPLY_CHAINS][4] = {};
    const uint32_t a = threadIdx.x * 0x3c003c00U;
    for (int round = 0; round < MULTIPLY_ROUNDS; round++)
#pragma unroll
        for (int chain = 0; chain < MULTIPLY_CHAINS; chain++)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                         "{%4, %4, %4, %4}, {%4, %4}, {%0, %1, %2, %3};"
                         : "+f"(c[chain][0]), "+f"(c[chain][1]), "+f"(c[chain][2]),
                           "+f"(c[chain][3])
                         : "r"(a));
    if (never == nullptr) return;
    for (int chain = 0; chain < MULTIPLY_CHAINS; chain++)
        never[threadIdx.x] += c[chain][0];
}

double machine_multiply(pkvi_gpu_stream* stream) {
    const unsigned blocks = (unsigned)attribute(cudaDevAttrMultiProcessorCount) * 4;
    multiply<<<blocks, THREADS, 0, stream_of(stream)>>>(nullptr);
    MUST_CUDA(cudaGetLastError());
    const double per_warp = 2.0 * 16 * 8 * 16 * MULTIPLY_ROUNDS * MULTIPLY_CHAINS;
    return per_warp * blocks * (THREADS / 32);
}

/* Cycles and nanoseconds that pass in 5 ms. */
static __global__ void count_cycles(uint64_t* result) {
    uint64_t begin;
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    const long long first = clock64();
    do
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - begin < 5000000);
    result[0] = (uint64_t)(clock64() - first);
    result[1] = now - begin;
}

/* The clock follows the load: the kernel comes right behind one that is all multiplications. */
double machine_clock_hz(pkvi_gpu_stream* stream) {
    uint64_t* result;
    MUST_CUDA(cudaHostAlloc((void**)&result, 2 * sizeof *result, cudaHostAllocMapped));
    for (int i = 0; i < 20; i++)
        machine_multiply(stream);
    count_cycles<<<1, 1, 0, stream_of(stream)>>>(result);
    MUST_CUDA(cudaGetLastError());
    MUST_CUDA(cudaStreamSynchronize(stream_of(stream)));
    const double hz = (double)result[0] / (double)result[1] * 1e9;
    MUST_CUDA(cudaFreeHost(result));
    return hz;
}
