/* system_cuda.c - system.h over the CUDA runtime, which is linked statically and finds the driver
 * when the process runs.
 *
 * CUDA remembers the last error of a thread for whoever asks next. Every call here that fails takes
 * it off that record, so that the application's own checks do not trip over it. Sticky errors stay
 * whatever one does; those are PKV_EDEVICE. */
#include "device/cuda/system_cuda.h"

#include "pagedkv.h"
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <string.h>
#include <time.h>

#define TRY_CUDA(call)                                                                             \
    do {                                                                                           \
        const cudaError_t try_cuda_error_ = (call);                                                \
        if (try_cuda_error_ != cudaSuccess) return pkvi_gpu_status_of((int)try_cuda_error_);       \
    } while (0)

int pkvi_gpu_status_of(int error) {
    if (error == cudaSuccess) return PKV_OK;
    cudaGetLastError();
    switch ((cudaError_t)error) {
    case cudaErrorMemoryAllocation:
        return PKV_ENOMEM;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidDevice:
    case cudaErrorInvalidResourceHandle:
        return PKV_EINVAL;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorNotSupported:
        return PKV_ENOTSUP;
    /* After these the context is of no use to anybody. */
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown:
    case cudaErrorContextIsDestroyed:
    case cudaErrorMpsClientTerminated:
#if CUDART_VERSION >= 13000
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorExternalDevice:
#endif
        return PKV_EDEVICE;
    default:
        return cudaPeekAtLastError() == cudaSuccess ? PKV_EIO : PKV_EDEVICE;
    }
}

static cudaStream_t stream_of(struct pkvi_gpu_stream* stream) {
    return (cudaStream_t)stream;
}

static cudaEvent_t event_of(struct pkvi_gpu_event* event) {
    return (cudaEvent_t)event;
}

/* ---- Devices --------------------------------------------------------------------------------- */

const char* pkvi_gpu_absent(void) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    switch (error) {
    case cudaSuccess:
        return count > 0 ? NULL : "device: there is no NVIDIA GPU";
    case cudaErrorNoDevice:
        return "device: there is no NVIDIA GPU";
    case cudaErrorInsufficientDriver: {
        int version = 0;
        const bool is_there = cudaDriverGetVersion(&version) == cudaSuccess && version > 0;
        cudaGetLastError();
        return is_there
                   ? "device: the NVIDIA driver is older than the CUDA that libpagedkv_cuda.so "
                     "was built with"
                   : "device: there is no NVIDIA driver";
    }
    default:
        return "device: the NVIDIA driver does not start";
    }
}

int pkvi_gpu_count(int* count) {
    TRY_CUDA(cudaGetDeviceCount(count));
    return PKV_OK;
}

static int attribute(int ordinal, enum cudaDeviceAttr which, int* value) {
    TRY_CUDA(cudaDeviceGetAttribute(value, which, ordinal));
    return PKV_OK;
}

int pkvi_gpu_describe(int ordinal, struct pkvi_gpu_properties* properties) {
    int major;
    int minor;
    int shared_bytes;
    int driver_version;
    int status = attribute(ordinal, cudaDevAttrComputeCapabilityMajor, &major);
    if (status == PKV_OK) status = attribute(ordinal, cudaDevAttrComputeCapabilityMinor, &minor);
    if (status == PKV_OK)
        status = attribute(ordinal, cudaDevAttrMaxSharedMemoryPerBlockOptin, &shared_bytes);
    if (status != PKV_OK) return status;
    TRY_CUDA(cudaDriverGetVersion(&driver_version));
    *properties = (struct pkvi_gpu_properties){major, minor, (uint64_t)shared_bytes,
                                               driver_version < CUDART_VERSION};
    return PKV_OK;
}

/* ---- Contexts -------------------------------------------------------------------------------- */

typedef CUresult CUDAAPI get_device(CUdevice* device, int ordinal);
typedef CUresult CUDAAPI retain_context(CUcontext* context, CUdevice device);
typedef CUresult CUDAAPI release_context(CUdevice device);
typedef CUresult CUDAAPI push_context(CUcontext context);
typedef CUresult CUDAAPI pop_context(CUcontext* context);

enum { DRIVER_VERSION = 12000 }; /* in which the functions have these types */

typedef void any_function(void);

/* A function of the driver, which is not linked. */
static int find_in_driver(const char* name, any_function** function) {
    void* address;
    enum cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    TRY_CUDA(cudaGetDriverEntryPointByVersion(name, &address, DRIVER_VERSION, cudaEnableDefault,
                                              &found));
#else
    TRY_CUDA(cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found));
#endif
    if (found != cudaDriverEntryPointSuccess) return PKV_ENOTSUP;
    memcpy(function, &address, sizeof address);
    return PKV_OK;
}

/* Numbers of the driver's errors are those of the runtime's. */
static int open_primary(any_function* get, any_function* retain, struct pkvi_gpu_context* context) {
    CUcontext primary;
    TRY_CUDA((cudaError_t)((get_device*)get)(&context->device, context->ordinal));
    TRY_CUDA((cudaError_t)((retain_context*)retain)(&primary, context->device));
    context->handle = primary;
    return PKV_OK;
}

int pkvi_gpu_context_open(int ordinal, struct pkvi_gpu_context* context) {
    any_function* get = NULL;
    any_function* retain = NULL;
    *context = (struct pkvi_gpu_context){.ordinal = ordinal};
    int status = find_in_driver("cuDeviceGet", &get);
    if (status == PKV_OK) status = find_in_driver("cuDevicePrimaryCtxRetain", &retain);
    if (status == PKV_OK) status = find_in_driver("cuDevicePrimaryCtxRelease", &context->close);
    if (status == PKV_OK) status = find_in_driver("cuCtxPushCurrent", &context->enter);
    if (status == PKV_OK) status = find_in_driver("cuCtxPopCurrent", &context->leave);
    return status == PKV_OK ? open_primary(get, retain, context) : status;
}

void pkvi_gpu_context_close(struct pkvi_gpu_context* context) {
    if (context->handle == NULL) return;
    ((release_context*)context->close)(context->device);
    context->handle = NULL;
}

int pkvi_gpu_context_enter(const struct pkvi_gpu_context* context) {
    TRY_CUDA((cudaError_t)((push_context*)context->enter)(context->handle));
    return PKV_OK;
}

void pkvi_gpu_context_leave(const struct pkvi_gpu_context* context) {
    CUcontext left;
    ((pop_context*)context->leave)(&left);
}

int pkvi_gpu_wait(void) {
    TRY_CUDA(cudaDeviceSynchronize());
    return PKV_OK;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

int pkvi_gpu_alloc(uint64_t bytes, void** memory) {
    void* allocated;
    TRY_CUDA(cudaMalloc(&allocated, bytes));
    *memory = allocated;
    return PKV_OK;
}

void pkvi_gpu_free(void* memory) {
    pkvi_gpu_status_of((int)cudaFree(memory));
}

int pkvi_gpu_alloc_pinned(uint64_t bytes, void** memory) {
    void* allocated;
    TRY_CUDA(cudaHostAlloc(&allocated, bytes, cudaHostAllocPortable));
    *memory = allocated;
    return PKV_OK;
}

void pkvi_gpu_free_pinned(void* memory) {
    pkvi_gpu_status_of((int)cudaFreeHost(memory));
}

/* Pinned and managed memory has an address on the device; other host memory has none. Memory of
 * another GPU has one too, and is of no use to kernels of this one. */
bool pkvi_gpu_reaches(const void* memory) {
    struct cudaPointerAttributes attributes;
    int present;
    if (pkvi_gpu_status_of((int)cudaGetDevice(&present)) != PKV_OK) return false;
    if (pkvi_gpu_status_of((int)cudaPointerGetAttributes(&attributes, memory)) != PKV_OK)
        return false;
    if (attributes.type == cudaMemoryTypeDevice && attributes.device != present) return false;
    return attributes.type != cudaMemoryTypeUnregistered && attributes.devicePointer == memory;
}

/* ---- Streams and events ---------------------------------------------------------------------- */

/* Not ordered with the legacy default stream: order is by events. */
int pkvi_gpu_stream_open(struct pkvi_gpu_stream** stream) {
    cudaStream_t opened;
    TRY_CUDA(cudaStreamCreateWithFlags(&opened, cudaStreamNonBlocking));
    *stream = (struct pkvi_gpu_stream*)opened;
    return PKV_OK;
}

void pkvi_gpu_stream_close(struct pkvi_gpu_stream* stream) {
    pkvi_gpu_status_of((int)cudaStreamDestroy(stream_of(stream)));
}

/* cudaStreamPerThread is another stream in each thread, and so gives no order. */
int pkvi_gpu_stream_check(struct pkvi_gpu_stream* stream, int ordinal) {
    if (stream == NULL || stream_of(stream) == cudaStreamLegacy) return PKV_OK;
    if (stream_of(stream) == cudaStreamPerThread) return PKV_EINVAL;
#if CUDART_VERSION >= 12080
    int device;
    TRY_CUDA(cudaStreamGetDevice(stream_of(stream), &device));
    return device == ordinal ? PKV_OK : PKV_EINVAL;
#else
    (void)ordinal;
    unsigned flags;
    TRY_CUDA(cudaStreamGetFlags(stream_of(stream), &flags));
    return PKV_OK;
#endif
}

int pkvi_gpu_stream_is_captured(struct pkvi_gpu_stream* stream, bool* is_captured) {
    enum cudaStreamCaptureStatus status;
    TRY_CUDA(cudaStreamIsCapturing(stream_of(stream), &status));
    *is_captured = status != cudaStreamCaptureStatusNone;
    return PKV_OK;
}

int pkvi_gpu_stream_wait(struct pkvi_gpu_stream* stream) {
    TRY_CUDA(cudaStreamSynchronize(stream_of(stream)));
    return PKV_OK;
}

int pkvi_gpu_event_open(struct pkvi_gpu_event** event) {
    cudaEvent_t opened;
    TRY_CUDA(cudaEventCreateWithFlags(&opened, cudaEventDisableTiming));
    *event = (struct pkvi_gpu_event*)opened;
    return PKV_OK;
}

void pkvi_gpu_event_close(struct pkvi_gpu_event* event) {
    pkvi_gpu_status_of((int)cudaEventDestroy(event_of(event)));
}

int pkvi_gpu_event_record(struct pkvi_gpu_event* event, struct pkvi_gpu_stream* stream) {
    TRY_CUDA(cudaEventRecord(event_of(event), stream_of(stream)));
    return PKV_OK;
}

int pkvi_gpu_event_order(struct pkvi_gpu_event* event, struct pkvi_gpu_stream* stream) {
    TRY_CUDA(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0));
    return PKV_OK;
}

int pkvi_gpu_event_wait(struct pkvi_gpu_event* event) {
    TRY_CUDA(cudaEventSynchronize(event_of(event)));
    return PKV_OK;
}

int pkvi_gpu_event_is_done(struct pkvi_gpu_event* event, bool* is_done) {
    const cudaError_t error = cudaEventQuery(event_of(event));
    *is_done = error == cudaSuccess;
    if (error == cudaErrorNotReady) {
        cudaGetLastError();
        return PKV_OK;
    }
    return pkvi_gpu_status_of((int)error);
}

uint64_t pkvi_gpu_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- Copies ---------------------------------------------------------------------------------- */

/* Where the memory is follows from the addresses. */
int pkvi_gpu_copy(void* to, const void* from, uint64_t bytes, struct pkvi_gpu_stream* stream) {
    TRY_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)));
    return PKV_OK;
}

int pkvi_gpu_zero(void* memory, uint64_t bytes, struct pkvi_gpu_stream* stream) {
    TRY_CUDA(cudaMemsetAsync(memory, 0, bytes, stream_of(stream)));
    return PKV_OK;
}

static int copy_one_by_one(void* const* to, const void* const* from, uint32_t count, uint64_t bytes,
                           struct pkvi_gpu_stream* stream) {
    for (uint32_t i = 0; i < count; i++) {
        const int status = pkvi_gpu_copy(to[i], from[i], bytes, stream);
        if (status != PKV_OK) return status;
    }
    return PKV_OK;
}

#if CUDART_VERSION >= 12080

enum { BATCH_MAX = 256 }; /* sizes of so many stand on the stack */

/* The sources are read in the order of the stream: what a kernel before the copy wrote is what is
 * copied. Any other access order lets the engine read ahead of it. */
static cudaError_t copy_piece(void* const* to, const void* const* from, uint32_t count,
                              size_t* sizes, cudaStream_t stream) {
    struct cudaMemcpyAttributes attributes = {.srcAccessOrder = cudaMemcpySrcAccessOrderStream};
    size_t first = 0;
#if CUDART_VERSION >= 13000
    return cudaMemcpyBatchAsync(to, from, sizes, count, &attributes, &first, 1, stream);
#else
    size_t failed;
    return cudaMemcpyBatchAsync((void**)to, (void**)from, sizes, count, &attributes, &first, 1,
                                &failed, stream);
#endif
}

/* The legacy default stream takes no batches. */
int pkvi_gpu_copy_batch(void* const* to, const void* const* from, uint32_t count, uint64_t bytes,
                        struct pkvi_gpu_stream* stream) {
    size_t sizes[BATCH_MAX];
    if (stream == NULL) return copy_one_by_one(to, from, count, bytes, stream);
    for (uint32_t i = 0; i < BATCH_MAX && i < count; i++)
        sizes[i] = bytes;
    for (uint32_t done = 0; done < count; done += BATCH_MAX) {
        const uint32_t rest = count - done;
        const uint32_t piece = rest < BATCH_MAX ? rest : BATCH_MAX;
        TRY_CUDA(copy_piece(to + done, from + done, piece, sizes, stream_of(stream)));
    }
    return PKV_OK;
}

#else

int pkvi_gpu_copy_batch(void* const* to, const void* const* from, uint32_t count, uint64_t bytes,
                        struct pkvi_gpu_stream* stream) {
    return copy_one_by_one(to, from, count, bytes, stream);
}

#endif
