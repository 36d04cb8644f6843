/* machine_emulated.c - machine.h over the emulator: everything is done, and no time means anything.
 */
#include "gpu/machine.h"

#include "base/hash.h"
#include "device/cpu/element.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

void machine_describe(struct machine* machine) {
    *machine = (struct machine){
        .kind = "emulator", .name = "emulator", .multiprocessors = 2, .memory_free = 1 << 26};
}

struct replay {
    replay_work* work;
    void* ctx;
};

struct replay* replay_record(replay_work* work, void* ctx, struct pkvi_gpu_stream* stream) {
    struct replay* replay = malloc(sizeof *replay);
    (void)stream;
    if (replay == NULL) exit(1);
    *replay = (struct replay){work, ctx};
    return replay;
}

void replay_run(struct replay* replay, struct pkvi_gpu_stream* stream) {
    replay->work(replay->ctx, stream);
}

void replay_close(struct replay* replay) {
    free(replay);
}

struct stopwatch {
    struct timespec start;
};

struct stopwatch* stopwatch_open(void) {
    struct stopwatch* watch = malloc(sizeof *watch);
    if (watch == NULL) exit(1);
    return watch;
}

void stopwatch_start(struct stopwatch* watch, struct pkvi_gpu_stream* stream) {
    if (pkvi_gpu_stream_wait(stream) != 0) exit(1);
    clock_gettime(CLOCK_MONOTONIC, &watch->start);
}

double stopwatch_stop(struct stopwatch* watch, struct pkvi_gpu_stream* stream) {
    struct timespec now;
    if (pkvi_gpu_stream_wait(stream) != 0) exit(1);
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - watch->start.tv_sec) +
           (double)(now.tv_nsec - watch->start.tv_nsec) / 1e9;
}

void stopwatch_close(struct stopwatch* watch) {
    free(watch);
}

void machine_fill(void* memory, uint64_t count, uint64_t seed, struct pkvi_gpu_stream* stream) {
    const pkv_array array = {.data = memory, .dtype = PKV_BF16, .row_stride = 1};
    if (pkvi_gpu_stream_wait(stream) != 0) exit(1);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t bits = pkvi_random_next(&seed);
        const float sum = (float)(bits & 0xffff) + (float)(bits >> 16 & 0xffff) - 65535.0F;
        pkvi_array_set(&array, (uint32_t)i, 0, 0, sum / 32768.0F);
    }
}

void machine_read(const void* memory, uint64_t bytes, struct pkvi_gpu_stream* stream) {
    (void)memory;
    (void)bytes;
    (void)stream;
}

double machine_multiply(struct pkvi_gpu_stream* stream) {
    (void)stream;
    return 1.0;
}

double machine_clock_hz(struct pkvi_gpu_stream* stream) {
    (void)stream;
    return 0.0;
}
