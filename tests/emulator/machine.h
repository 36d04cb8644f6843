/* machine.h - device/cuda/machine.h on an ordinary processor: an emulator that runs kernels thread by
 * thread and makes of every freedom of the hardware the worst.
 *
 *   - Threads of a block are fibers. Which warp runs next, and which lane of it, is drawn; a lane runs
 *     until it has to wait for others, and in half of the blocks a warp does. A few thread blocks
 *     run at a time, in a drawn order, and take drawn turns.
 *   - Shared memory is NaN when a block starts, and has borders that must not change.
 *   - Bytes of copy_async arrive at the copy_wait that covers them; until then their place is NaN.
 *   - Every address is checked for alignment, and those of shared memory for bounds. Global memory
 *     is what the test has mapped: memory next to it cannot be touched.
 *   - load_matrices counts bank conflicts.
 *   - A warp whose lanes do not do the same thing together, and a block that waits for itself, end the
 *     program.
 *
 * What it does not show: time, weak ordering of plain loads and stores, and whether the PTX says what
 * machine.h means; for the last there is compilation, and a device. */
#ifndef TESTS_EMULATOR_MACHINE_H
#define TESTS_EMULATOR_MACHINE_H

#include "emulator/control.h"
#include <cmath>
#include <cstdint>
#include <functional>

struct pkvi_gpu_stream;

#define GPU_DEVICE                  inline
#define GPU_KERNEL(threads, blocks) void

/* Run a kernel, now. */
void emulator_run(uint32_t blocks, uint32_t threads, size_t shared_bytes,
                  const std::function<void()>& kernel);

/* Put work into a stream (system.cpp). Returns a status. */
int emulator_submit(pkvi_gpu_stream* stream, std::function<void()> work);

/* The dynamic shared memory that a kernel may be started with: 48 KiB, or what it was prepared for.
 * Statuses; one that asks for more gets PKV_EIO, as from CUDA. */
int emulator_prepare(const void* kernel, size_t shared_bytes);
int emulator_check(const void* kernel, size_t shared_bytes);

namespace gpu {

template <class Job> int prepare(void (*kernel)(Job), int shared_bytes) {
    return emulator_prepare((const void*)kernel, (size_t)shared_bytes);
}

template <class Job>
int launch(void (*kernel)(Job), uint32_t blocks, uint32_t threads, size_t shared_bytes,
           pkvi_gpu_stream* stream, const Job& job) {
    const int status = emulator_check((const void*)kernel, shared_bytes);
    if (status != 0) return status;
    return emulator_submit(
        stream, [=] { emulator_run(blocks, threads, shared_bytes, [&] { kernel(job); }); });
}

uint32_t thread();
uint32_t block();
uint32_t blocks();
unsigned char* shared();
inline uint32_t lane() {
    return thread() % WARP;
}
inline uint32_t warp() {
    return thread() / WARP;
}

void copy_async(void* to, const void* from, bool is_there);
void copy_commit();
void copy_wait_for(int groups);
template <int groups> void copy_wait() {
    copy_wait_for(groups);
}

void load_matrices(uint32_t (&words)[4], const void* row);
void load_matrices_transposed(uint32_t (&words)[4], const void* row);
void multiply_add(bf16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void multiply_add(f16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

float shuffle_xor(float value, int mask);
bool any(bool condition);
void sync_warp();
void sync_block();
inline void fence() {}
uint32_t count_up(uint32_t* counter);

inline float exp2(float x) {
    return ::exp2f(x);
}
inline float log2(float x) {
    return ::log2f(x);
}
float multiply(float a, float b);
uint32_t pack(bf16, float first, float second);
uint32_t pack(f16, float first, float second);
float unpack(bf16, uint16_t bits);
float unpack(f16, uint16_t bits);
uint32_t multiply_pairs(uint32_t a, uint32_t b);
uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector);
float float_of_bits(uint32_t bits);

} // namespace gpu

#endif
