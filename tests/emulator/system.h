/* system.h - what tests ask of the emulated system beyond runtime/device/cuda/system.h.
 *
 * Put work into a stream, make calls fail, and count them. */
#ifndef EMULATOR_SYSTEM_H
#define EMULATOR_SYSTEM_H

#include "device/cuda/system.h"

#ifdef __cplusplus
#include <functional>

/* Put a kernel into a stream: `run` is called when the stream comes to it, on the thread that
 * waits. The status is that of the launch. */
int emulator_submit(struct pkvi_gpu_stream* stream, std::function<void()> run);

extern "C" {
#endif

/* False where the same tests run on a GPU (tests/gpu): what follows then does nothing. */
bool emulator_is_here(void);

enum emulator_call {
    EMULATOR_ALLOC,        /* pkvi_gpu_alloc */
    EMULATOR_ALLOC_PINNED, /* pkvi_gpu_alloc_pinned */
    EMULATOR_COPY,         /* pkvi_gpu_copy, and each copy of a batch */
    EMULATOR_ZERO,         /* pkvi_gpu_zero */
    EMULATOR_LAUNCH,       /* emulator_submit */
    EMULATOR_EVENT,        /* pkvi_gpu_event_open */
    EMULATOR_RECORD,       /* pkvi_gpu_event_record */
    EMULATOR_PREPARE,      /* emulator_prepare */
    EMULATOR_STREAM,       /* pkvi_gpu_stream_open */
    EMULATOR_ORDER,        /* pkvi_gpu_event_order */
    EMULATOR_QUERY,        /* pkvi_gpu_event_is_done */
    EMULATOR_CONTEXT,      /* pkvi_gpu_context_open */
    EMULATOR_ENTER,        /* pkvi_gpu_context_enter */
    EMULATOR_CALLS
};

/* Let call number `after` from now on, from 0, of that kind fail with `status`, once. PKV_EDEVICE
 * stays: every further call fails with it until emulator_reset. */
void emulator_fail(enum emulator_call call, uint32_t after, int status);

/* Let kernel number `after` from now on fail while it runs: whatever waits for it or comes later
 * gets PKV_EDEVICE, as after an illegal address. */
void emulator_fault(uint32_t after);

/* Forget failures, and start drawing the order of streams from `seed`. pre: nothing is queued. */
void emulator_reset(uint64_t seed);

/* How long a copy of a batch and a kernel take, by the emulated clock; at first 1000 and 8000. */
void emulator_set_costs(uint64_t copy_ns, uint64_t kernel_ns);

/* The shared memory that a thread block may have; at first that of compute capability 9.0. */
void emulator_set_shared(uint64_t bytes);

/* Other GPUs than one of compute capability 9 with a driver that is new enough. */
void emulator_set_gpus(uint32_t count, int compute_major, bool is_driver_older);

/* What the application does to its thread: the device that it selects, which is 0 at first. */
void emulator_select(int device);
/* The device that calls of this thread go to now. */
int emulator_selected(void);
/* On which devices a context has been made since the reset, by the library or by whoever made calls
 * that need one: bit d is device d. */
uint32_t emulator_contexts(void);

/* How many calls of a kind there were since the reset, failed ones included. */
uint64_t emulator_count(enum emulator_call call);

/* How much memory, pinned memory, streams and events are open now. */
struct emulator_usage {
    uint64_t device_bytes;
    uint64_t pinned_bytes;
    uint32_t allocations; /* of both kinds */
    uint32_t streams;
    uint32_t events;
    uint32_t contexts; /* that are held */
    uint32_t queued;   /* what streams have not come to yet */
};
struct emulator_usage emulator_used(void);

/* Say that there is no device, with this sentence; NULL: there is one. $PKV_EMULATOR_ABSENT does
 * the same from outside. */
void emulator_set_absent(const char* why);

#ifdef __cplusplus
}
#endif
#endif
