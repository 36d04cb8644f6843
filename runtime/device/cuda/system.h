/* system.h - what the host code of the CUDA device asks of the system: memory, streams, events.
 *
 * Peers: system_cuda.c, over the CUDA runtime, and the emulator in tests/emulator/, where device
 * memory is host memory and a stream is a queue that runs as late, and against other streams in as
 * odd an order, as its events allow.
 *
 * Every function that can fail returns a status of pagedkv.h: PKV_ENOMEM, PKV_EIO for a failure
 * that leaves the device usable, PKV_EDEVICE for one that does not (a sticky error of CUDA). None
 * leaves an error behind for the caller's own CUDA calls to trip over. */
#ifndef PKVI_DEVICE_CUDA_SYSTEM_H
#define PKVI_DEVICE_CUDA_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pkvi_gpu_stream; /* a cudaStream_t; NULL is the legacy default stream */
struct pkvi_gpu_event;  /* a cudaEvent_t */

struct pkvi_gpu_properties {
    int compute_major;
    int compute_minor;
    uint64_t shared_bytes; /* that one thread block may have */
    bool is_driver_older;  /* than the CUDA that this was built with */
};

/* Why there is no device, as a static sentence that begins with "device: "; NULL when there is
 * one. */
const char* pkvi_gpu_absent(void);
int pkvi_gpu_count(int* count);
int pkvi_gpu_describe(int ordinal, struct pkvi_gpu_properties* properties);

/* What the calls of a thread on a device happen in: the primary context of the device, which CUDA's
 * runtime uses as well. A thread enters it for as long as it is in the library, and leaves it for
 * whatever context and device it had: to select that device again, as one would with cudaSetDevice,
 * would make a context on it, some hundred MiB, for a thread that had never used it. */
struct pkvi_gpu_context {
    int ordinal;
    int device;          /* the driver's name for it */
    void* handle;        /* NULL: not open */
    void (*enter)(void); /* functions of the driver, of other types */
    void (*leave)(void);
    void (*close)(void);
};
int pkvi_gpu_context_open(int ordinal, struct pkvi_gpu_context* context);
void pkvi_gpu_context_close(struct pkvi_gpu_context* context);
int pkvi_gpu_context_enter(const struct pkvi_gpu_context* context);
void pkvi_gpu_context_leave(const struct pkvi_gpu_context* context);

/* The device of everything below is that of the context that the thread has entered. */
int pkvi_gpu_wait(void); /* until all streams of the device are done */

/* Memory of the device, and host memory that it reaches and copies without a detour. */
int pkvi_gpu_alloc(uint64_t bytes, void** memory);
void pkvi_gpu_free(void* memory);
int pkvi_gpu_alloc_pinned(uint64_t bytes, void** memory);
void pkvi_gpu_free_pinned(void* memory);
/* Is this an address that kernels of the device can reach? */
bool pkvi_gpu_reaches(const void* memory);

int pkvi_gpu_stream_open(struct pkvi_gpu_stream** stream);
void pkvi_gpu_stream_close(struct pkvi_gpu_stream* stream);
/* PKV_EINVAL unless the stream is one of device `ordinal`. */
int pkvi_gpu_stream_check(struct pkvi_gpu_stream* stream, int ordinal);
/* Does what is put into the stream go into a graph, to be done when that is launched? */
int pkvi_gpu_stream_is_captured(struct pkvi_gpu_stream* stream, bool* is_captured);
int pkvi_gpu_stream_wait(struct pkvi_gpu_stream* stream); /* until all of it is done */

int pkvi_gpu_event_open(struct pkvi_gpu_event** event);
void pkvi_gpu_event_close(struct pkvi_gpu_event* event);
int pkvi_gpu_event_record(struct pkvi_gpu_event* event, struct pkvi_gpu_stream* stream);
/* What is put into `stream` from here on waits for the event; the host does not. */
int pkvi_gpu_event_order(struct pkvi_gpu_event* event, struct pkvi_gpu_stream* stream);
int pkvi_gpu_event_wait(struct pkvi_gpu_event* event); /* the host waits */
int pkvi_gpu_event_is_done(struct pkvi_gpu_event* event, bool* is_done);

/* Put into the stream; the memory must stay as it is until that is done. */
int pkvi_gpu_copy(void* to, const void* from, uint64_t bytes, struct pkvi_gpu_stream* stream);
int pkvi_gpu_zero(void* memory, uint64_t bytes, struct pkvi_gpu_stream* stream);

/* Many copies of the same size as one operation of the stream, in no order among themselves. */
int pkvi_gpu_copy_batch(void* const* to, const void* const* from, uint32_t count, uint64_t bytes,
                        struct pkvi_gpu_stream* stream);

/* A clock to compare times with, in nanoseconds. */
uint64_t pkvi_gpu_clock_ns(void);

#ifdef __cplusplus
}
#endif
#endif
