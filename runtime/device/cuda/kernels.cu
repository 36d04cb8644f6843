/* kernels.cu - starts the kernels: picks the instance for a type, a dim and queries. */
#include "device/cuda/attend.cuh"
#include "device/cuda/store.cuh"

#include "device/cuda/kernels.h"

/* Dims that there are kernels for. Builds that are about one of them may define fewer. */
#ifndef PKVI_GPU_DIMS
#define PKVI_GPU_DIMS(X) X(64) X(96) X(128) X(256)
#endif

namespace {

using namespace pkvi;

/* Call `visitor` with the instance for a type, a dim and the parts of queries; `otherwise` when there
 * is none. Two parts are there for types of 16 bits. */
template <uint32_t DTYPE, int DIM, int PARTS> struct instance {
    static constexpr uint32_t dtype = DTYPE;
    static constexpr int dim = DIM;
    static constexpr int parts = PARTS;
};

template <uint32_t DTYPE, int DIM, class Visitor> int visit_parts(bool is_f32, Visitor visitor) {
    if constexpr (stored<DTYPE>::bytes == 2)
        if (is_f32) return visitor(instance<DTYPE, DIM, 2>());
    return visitor(instance<DTYPE, DIM, 1>());
}

template <uint32_t DTYPE, class Visitor>
int visit_dim(uint32_t dim, bool is_f32, Visitor visitor, int otherwise) {
    switch (dim) {
#define VISIT(dim)                                                                                 \
    case dim:                                                                                      \
        return visit_parts<DTYPE, dim>(is_f32, visitor);
        PKVI_GPU_DIMS(VISIT)
#undef VISIT
    default:
        return otherwise;
    }
}

template <class Visitor>
int visit(uint32_t dtype, uint32_t dim, bool is_f32, Visitor visitor, int otherwise) {
    switch (dtype) {
    case PKV_F16:
        return visit_dim<PKV_F16>(dim, is_f32, visitor, otherwise);
    case PKV_BF16:
        return visit_dim<PKV_BF16>(dim, is_f32, visitor, otherwise);
    case PKV_I8:
        return visit_dim<PKV_I8>(dim, is_f32, visitor, otherwise);
    case PKV_E4M3:
        return visit_dim<PKV_E4M3>(dim, is_f32, visitor, otherwise);
    default:
        return otherwise;
    }
}

uint32_t lesser(uint64_t a, uint32_t b) {
    return a < b ? (uint32_t)a : b;
}

} // namespace

bool pkvi_gpu_has_kernel(uint32_t dim, uint32_t k_dtype, uint32_t v_dtype) {
    if (k_dtype != v_dtype) return false;
    return visit(k_dtype, dim, false, [](auto) { return 1; }, 0) != 0;
}

int pkvi_gpu_launch_decode(const pkvi_gpu_attend* job, uint32_t blocks, pkvi_gpu_stream* stream) {
    return visit(
        job->blocks.k_dtype, job->blocks.dim, job->q.dtype == PKV_F32,
        [&](auto with) {
            using shape = decode_shape<with.dtype, with.dim, with.parts>;
            return gpu::launch(decode<with.dtype, with.dim, with.parts>, blocks, DECODE_THREADS,
                               shape::shared_bytes, stream, *job);
        },
        PKV_ENOTSUP);
}

int pkvi_gpu_launch_prefill(const pkvi_gpu_attend* job, uint32_t blocks, pkvi_gpu_stream* stream) {
    return visit(
        job->blocks.k_dtype, job->blocks.dim, job->q.dtype == PKV_F32,
        [&](auto with) {
            using shape = prefill_shape<with.dtype, with.dim, with.parts>;
            return gpu::launch(prefill<with.dtype, with.dim, with.parts>, blocks, PREFILL_THREADS,
                               shape::shared_bytes, stream, *job);
        },
        PKV_ENOTSUP);
}

uint64_t pkvi_gpu_shared_bytes(uint32_t dim, uint32_t k_dtype, bool is_f32) {
    return (uint64_t)visit(
        k_dtype, dim, is_f32,
        [](auto with) {
            using of_decode = decode_shape<with.dtype, with.dim, with.parts>;
            using of_prefill = prefill_shape<with.dtype, with.dim, with.parts>;
            return of_decode::shared_bytes > of_prefill::shared_bytes ? of_decode::shared_bytes
                                                                      : of_prefill::shared_bytes;
        },
        0);
}

enum { STORE_BLOCKS_MAX = 4096 };

static uint32_t store_blocks(const pkvi_gpu_kv* job) {
    const uint64_t rows = (uint64_t)job->tokens * job->blocks.kv_heads * 2;
    return lesser((rows + STORE_WARPS - 1) / STORE_WARPS, STORE_BLOCKS_MAX);
}

int pkvi_gpu_launch_write(const pkvi_gpu_kv* job, pkvi_gpu_stream* stream) {
    return gpu::launch(write_rows, store_blocks(job), STORE_THREADS, 0, stream, *job);
}

int pkvi_gpu_launch_read(const pkvi_gpu_kv* job, pkvi_gpu_stream* stream) {
    return gpu::launch(read_rows, store_blocks(job), STORE_THREADS, 0, stream, *job);
}

/* Few thread blocks, so that the kernels which compute keep theirs. */
enum { GATHER_BLOCKS_MAX = 12 };

int pkvi_gpu_launch_gather(const pkvi_gpu_copy_pair* copies, uint32_t count, uint64_t bytes,
                           pkvi_gpu_stream* stream) {
    const gather_job job = {copies, count, bytes / 16};
    return gpu::launch(gather, lesser(count, GATHER_BLOCKS_MAX), STORE_THREADS, 0, stream, job);
}
