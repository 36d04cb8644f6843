/* machine.h - what the benchmark of the CUDA device asks of the machine beyond system.h: its size, its
 * limits, replays and times.
 *
 * Peers: machine_cuda.cu, and machine_emulated.c, with which the program runs on machines without a
 * GPU so that it can be tested; times mean nothing there. A failure ends the program. */
#ifndef BENCH_GPU_MACHINE_H
#define BENCH_GPU_MACHINE_H

#include "device/cuda/system.h"

#ifdef __cplusplus
extern "C" {
#endif

struct machine {
    const char* kind; /* "cuda" or "emulator" */
    char name[256];
    uint32_t multiprocessors;
    uint64_t memory_free;
    uint64_t l2_bytes;
    int compute; /* 90 for sm_90 */
    int driver;  /* as CUDA counts: 13000 is 13.0 */
    int runtime;
};
void machine_describe(struct machine* machine);

/* What `work` puts into the stream, recorded as a CUDA graph and replayed. */
struct replay;
typedef void replay_work(void* ctx, struct pkvi_gpu_stream* stream);
struct replay* replay_record(replay_work* work, void* ctx, struct pkvi_gpu_stream* stream);
void replay_run(struct replay* replay, struct pkvi_gpu_stream* stream);
void replay_close(struct replay* replay);

/* Time between two points of a stream, in seconds; waits for the second. */
struct stopwatch;
struct stopwatch* stopwatch_open(void);
void stopwatch_start(struct stopwatch* watch, struct pkvi_gpu_stream* stream);
double stopwatch_stop(struct stopwatch* watch, struct pkvi_gpu_stream* stream);
void stopwatch_close(struct stopwatch* watch);

/* Nearly normal random numbers in bf16. */
void machine_fill(void* memory, uint64_t count, uint64_t seed, struct pkvi_gpu_stream* stream);
/* Read memory once, in order, and write nothing. */
void machine_read(const void* memory, uint64_t bytes, struct pkvi_gpu_stream* stream);
/* mma.sync in bf16 from registers on every multiprocessor; returns the floating-point operations. */
double machine_multiply(struct pkvi_gpu_stream* stream);
/* Clock of a multiprocessor under load, now. */
double machine_clock_hz(struct pkvi_gpu_stream* stream);

#ifdef __cplusplus
}
#endif
#endif
