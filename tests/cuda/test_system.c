/* test_system.c - system_cuda.c, the file that talks to CUDA's runtime, over a runtime made here.
 *
 * This one computes nothing. It keeps the rules that the file has to mind, as CUDA's documents state
 * them: a call that needs a context makes one on the device of the calling thread; contexts that are
 * entered form a stack; the last error stays on record until somebody takes it off; and errors of a
 * device that is lost stay whatever one does. Each call can be told how to fail. */
#include "unit.h"

/* The types and the functions below; where CUDA is installed, its own are not used. */
#include "device/cuda/system_cuda.c"

/* ---- The runtime ----------------------------------------------------------------------------- */

struct runtime {
    int driver_version; /* 0: there is no driver */
    int device_count;
    cudaError_t start;   /* what the first question is answered with */
    cudaError_t failure; /* of every call that needs a context */
    cudaError_t last;    /* on record */
    bool is_lost;        /* `last` stays */
    bool lacks_functions;
    int present[4]; /* devices of the contexts that were entered */
    int depth;
    uint32_t contexts; /* bit d: there is one on device d */
    int retained;
    int major;
    int memory_device;
};

static struct runtime cuda;

static void restart(void) {
    cuda = (struct runtime){
        .driver_version = CUDART_VERSION, .device_count = 2, .major = 9, .memory_device = 1};
}

static cudaError_t answer(cudaError_t error) {
    if (error != cudaSuccess) cuda.last = error;
    return error;
}

static int present(void) {
    return cuda.depth > 0 ? cuda.present[cuda.depth - 1] : 0;
}

static cudaError_t work(void) {
    cuda.contexts |= 1U << present();
    return answer(cuda.failure);
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t last = cuda.last;
    if (!cuda.is_lost) cuda.last = cudaSuccess;
    return last;
}

cudaError_t cudaPeekAtLastError(void) {
    return cuda.last;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = cuda.start == cudaSuccess ? cuda.device_count : 0;
    return answer(cuda.start);
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = cuda.driver_version;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, enum cudaDeviceAttr which, int device) {
    *value = which == cudaDevAttrComputeCapabilityMajor ? cuda.major : 1000;
    return answer(device < cuda.device_count ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int* device) {
    *device = present();
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes* attributes, const void* memory) {
    *attributes = (struct cudaPointerAttributes){cudaMemoryTypeDevice, cuda.memory_device, NULL};
    memcpy(&attributes->devicePointer, &memory, sizeof memory);
    return answer(cuda.failure);
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
    (void)stream;
    *device = cuda.memory_device;
    return answer(cuda.failure);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus* status) {
    (void)stream;
    *status = cudaStreamCaptureStatusActive;
    return work();
}

cudaError_t cudaDeviceSynchronize(void) {
    return work();
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
    *memory = &cuda;
    return bytes > 0 ? work() : answer(cudaErrorInvalidValue);
}

cudaError_t cudaFree(void* memory) {
    return memory == &cuda ? work() : answer(cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags) {
    return flags == cudaHostAllocPortable ? cudaMalloc(memory, bytes) : cudaErrorInvalidValue;
}

cudaError_t cudaFreeHost(void* memory) {
    return cudaFree(memory);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    *stream = (cudaStream_t)&cuda;
    return flags == cudaStreamNonBlocking ? work() : answer(cudaErrorInvalidValue);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    (void)stream;
    return work();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    (void)stream;
    return work();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)stream;
    (void)event;
    (void)flags;
    return work();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    *event = (cudaEvent_t)&cuda;
    return flags == cudaEventDisableTiming ? work() : answer(cudaErrorInvalidValue);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    (void)event;
    return work();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)event;
    (void)stream;
    return work();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    (void)event;
    return work();
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    (void)event;
    return work();
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind,
                            cudaStream_t stream) {
    (void)to;
    (void)from;
    (void)bytes;
    (void)kind;
    (void)stream;
    return work();
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
    return cudaMemcpyAsync(memory, memory, bytes, value, stream);
}

/* Sources are read in the order of the stream, and all sizes are there. */
cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, size_t* sizes,
                                 size_t count, struct cudaMemcpyAttributes* attributes,
                                 size_t* first, size_t attribute_count, cudaStream_t stream) {
    bool is_good = attribute_count == 1 && *first == 0 && stream != NULL;
    is_good &= attributes->srcAccessOrder == cudaMemcpySrcAccessOrderStream;
    for (size_t i = 0; i < count; i++)
        is_good &= sizes[i] == 64 && to[i] != from[i];
    return is_good ? work() : answer(cudaErrorInvalidValue);
}

/* ---- The driver ------------------------------------------------------------------------------ */

static CUresult device_get(CUdevice* device, int ordinal) {
    *device = 70 + ordinal; /* no number of a device */
    return ordinal < cuda.device_count ? 0 : cudaErrorInvalidDevice;
}

static CUresult primary_retain(CUcontext* context, CUdevice device) {
    if (cuda.failure != cudaSuccess) return cuda.failure;
    *context = (CUcontext)&cuda.present[device - 70];
    cuda.contexts |= 1U << (device - 70);
    cuda.retained++;
    return 0;
}

static CUresult primary_release(CUdevice device) {
    cuda.retained -= device >= 70;
    return 0;
}

static CUresult push(CUcontext context) {
    if (cuda.failure != cudaSuccess) return cuda.failure;
    cuda.present[cuda.depth++] = (int)((int*)context - cuda.present);
    return 0;
}

static CUresult pop(CUcontext* context) {
    *context = (CUcontext)&cuda.present[cuda.present[--cuda.depth]];
    return 0;
}

static const struct {
    const char* name;
    any_function* function;
} driver[] = {
    {"cuDeviceGet", (any_function*)device_get},
    {"cuDevicePrimaryCtxRetain", (any_function*)primary_retain},
    {"cuDevicePrimaryCtxRelease", (any_function*)primary_release},
    {"cuCtxPushCurrent", (any_function*)push},
    {"cuCtxPopCurrent", (any_function*)pop},
};

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** address, unsigned version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult* found) {
    *found = cudaDriverEntryPointSymbolNotFound;
    for (uint32_t i = 0; i < 5; i++)
        if (strcmp(name, driver[i].name) == 0 && !cuda.lacks_functions) {
            memcpy(address, &driver[i].function, sizeof *address);
            *found = cudaDriverEntryPointSuccess;
        }
    return version == 12000 && flags == cudaEnableDefault ? cudaSuccess : cudaErrorInvalidValue;
}

/* ---- Absence --------------------------------------------------------------------------------- */

static void expect_absent(cudaError_t start, int driver_version, const char* why) {
    restart();
    cuda.start = start;
    cuda.driver_version = driver_version;
    ASSERT_STR(pkvi_gpu_absent(), why);
    ASSERT_EQ(cuda.last, cudaSuccess);
    ASSERT_EQ(cuda.contexts, 0);
}

TEST(every_reason_for_absence_has_its_sentence) {
    expect_absent(cudaErrorInsufficientDriver, 0, "device: there is no NVIDIA driver");
    expect_absent(cudaErrorInsufficientDriver, 12040,
                  "device: the NVIDIA driver is older than the CUDA that libpagedkv_cuda.so was "
                  "built with");
    expect_absent(cudaErrorNoDevice, 13000, "device: there is no NVIDIA GPU");
    expect_absent(cudaErrorUnknown, 13000, "device: the NVIDIA driver does not start");
    restart();
    ASSERT(pkvi_gpu_absent() == NULL);
    cuda.device_count = 0;
    ASSERT_STR(pkvi_gpu_absent(), "device: there is no NVIDIA GPU");
}

/* To ask about a GPU makes no context on it. */
TEST(a_description_costs_no_context) {
    struct pkvi_gpu_properties properties;
    restart();
    ASSERT_OK(pkvi_gpu_describe(1, &properties));
    ASSERT_EQ(properties.compute_major, 9);
    ASSERT(!properties.is_driver_older);
    cuda.driver_version = CUDART_VERSION - 10;
    ASSERT_OK(pkvi_gpu_describe(1, &properties));
    ASSERT(properties.is_driver_older);
    ASSERT_STATUS(pkvi_gpu_describe(2, &properties), PKV_EINVAL);
    ASSERT_EQ(cuda.last, cudaSuccess);
    ASSERT_EQ(cuda.contexts, 0);
}

/* ---- Contexts -------------------------------------------------------------------------------- */

TEST(a_context_is_entered_and_left_and_no_other_made) {
    struct pkvi_gpu_context context;
    void* memory;
    restart();
    ASSERT_OK(pkvi_gpu_context_open(1, &context));
    ASSERT_EQ(present(), 0);
    ASSERT_OK(pkvi_gpu_context_enter(&context));
    ASSERT_EQ(present(), 1);
    ASSERT_OK(pkvi_gpu_alloc(64, &memory));
    ASSERT(pkvi_gpu_reaches(memory));
    cuda.memory_device = 0;
    ASSERT(!pkvi_gpu_reaches(memory));
    pkvi_gpu_free(memory);
    pkvi_gpu_context_leave(&context);
    ASSERT_EQ(cuda.depth, 0);
    pkvi_gpu_context_close(&context);
    pkvi_gpu_context_close(&context); /* closed once */
    ASSERT_EQ(cuda.retained, 0);
    ASSERT_EQ(cuda.contexts, 2);
}

TEST(a_context_that_is_not_to_be_had) {
    struct pkvi_gpu_context context;
    restart();
    ASSERT_STATUS(pkvi_gpu_context_open(2, &context), PKV_EINVAL);
    pkvi_gpu_context_close(&context);
    cuda.failure = cudaErrorMemoryAllocation;
    ASSERT_STATUS(pkvi_gpu_context_open(1, &context), PKV_ENOMEM);
    pkvi_gpu_context_close(&context);
    cuda.failure = cudaSuccess;
    cuda.lacks_functions = true;
    ASSERT_STATUS(pkvi_gpu_context_open(1, &context), PKV_ENOTSUP);
    pkvi_gpu_context_close(&context);
    ASSERT_EQ(cuda.retained, 0);
    ASSERT_EQ(cuda.depth, 0);
}

/* ---- Errors ---------------------------------------------------------------------------------- */

struct errors {
    cudaError_t error;
    int status;
};

/* Whatever fails, and however: its status, and nothing on record. */
static int fail_each(cudaError_t error) {
    void* memory;
    struct pkvi_gpu_stream* stream = (struct pkvi_gpu_stream*)&cuda;
    struct pkvi_gpu_event* event;
    bool is_done;
    cuda.failure = error;
    const int status = pkvi_gpu_wait();
    const int others[] = {
        pkvi_gpu_alloc(64, &memory),
        pkvi_gpu_alloc_pinned(64, &memory),
        pkvi_gpu_stream_open(&stream),
        pkvi_gpu_stream_check(stream, 1),
        pkvi_gpu_stream_is_captured(stream, &is_done),
        pkvi_gpu_stream_wait(stream),
        pkvi_gpu_event_open(&event),
        pkvi_gpu_event_record(event, stream),
        pkvi_gpu_event_order(event, stream),
        pkvi_gpu_event_wait(event),
        pkvi_gpu_event_is_done(event, &is_done),
        pkvi_gpu_copy(memory, memory, 64, stream),
        pkvi_gpu_zero(memory, 64, stream),
    };
    pkvi_gpu_free(memory);
    pkvi_gpu_free_pinned(memory);
    pkvi_gpu_event_close(event);
    pkvi_gpu_stream_close(stream);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        ASSERT_STATUS(others[i], status);
    return status;
}

TEST(errors_have_their_status_and_leave_no_record) {
    static const struct errors errors[] = {
        {cudaSuccess, PKV_OK},
        {cudaErrorMemoryAllocation, PKV_ENOMEM},
        {cudaErrorInvalidValue, PKV_EINVAL},
        {cudaErrorInvalidResourceHandle, PKV_EINVAL},
        {cudaErrorNoKernelImageForDevice, PKV_ENOTSUP},
        {cudaErrorUnsupportedPtxVersion, PKV_ENOTSUP},
        {cudaErrorStreamCaptureUnsupported, PKV_EIO},
        {cudaErrorIllegalAddress, PKV_EDEVICE},
        {cudaErrorLaunchFailure, PKV_EDEVICE},
        {cudaErrorECCUncorrectable, PKV_EDEVICE},
        {cudaErrorContained, PKV_EDEVICE},
    };
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        restart();
        ASSERT_STATUS(fail_each(errors[i].error), errors[i].status);
        ASSERT_EQ(cuda.last, cudaSuccess);
    }
}

/* One that nobody has heard of is known by that it stays. */
TEST(an_error_that_stays_is_the_end_of_the_device) {
    restart();
    cuda.is_lost = true;
    ASSERT_STATUS(fail_each((cudaError_t)998), PKV_EDEVICE);
}

TEST(what_is_not_ready_is_no_error) {
    bool is_done = true;
    restart();
    cuda.failure = cudaErrorNotReady;
    ASSERT_OK(pkvi_gpu_event_is_done((struct pkvi_gpu_event*)&cuda, &is_done));
    ASSERT(!is_done);
    ASSERT_EQ(cuda.last, cudaSuccess);
}

/* ---- Streams and copies ---------------------------------------------------------------------- */

TEST(streams_of_another_device_and_of_each_thread_are_refused) {
    struct pkvi_gpu_stream* stream = (struct pkvi_gpu_stream*)&cuda;
    restart();
    ASSERT_OK(pkvi_gpu_stream_check(NULL, 1));
    ASSERT_OK(pkvi_gpu_stream_check((struct pkvi_gpu_stream*)cudaStreamLegacy, 1));
    ASSERT_OK(pkvi_gpu_stream_check(stream, 1));
    ASSERT_STATUS(pkvi_gpu_stream_check(stream, 0), PKV_EINVAL);
    ASSERT_STATUS(pkvi_gpu_stream_check((struct pkvi_gpu_stream*)cudaStreamPerThread, 1),
                  PKV_EINVAL);
}

/* Of more copies than go into one call, and in the default stream, which takes none of these. */
TEST(batches_are_in_the_order_of_the_stream) {
    static unsigned char here[600];
    static unsigned char there[600];
    void* to[600];
    const void* from[600];
    for (uint32_t i = 0; i < 600; i++) {
        to[i] = &there[i];
        from[i] = &here[i];
    }
    restart();
    ASSERT_OK(pkvi_gpu_copy_batch(to, from, 600, 64, (struct pkvi_gpu_stream*)&cuda));
    ASSERT_OK(pkvi_gpu_copy_batch(to, from, 600, 64, NULL));
    cuda.failure = cudaErrorLaunchFailure;
    ASSERT_STATUS(pkvi_gpu_copy_batch(to, from, 600, 64, NULL), PKV_EDEVICE);
}
