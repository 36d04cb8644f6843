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

/* Types of K and of V that there are kernels for. Each pair is compiled for every dim. */
#define PKVI_GPU_TYPES(X) X(F16, F16) X(BF16, BF16) X(I8, I8) X(E4M3, E4M3) X(I8, F16) X(I8, BF16)

/* Call `visitor` with the instance for types, a dim and the parts of queries; `otherwise` when there
 * is none. */
template <class TYPES, int DIM, int PARTS> struct instance {
    using types = TYPES;
    using decode_at = decode_shape<TYPES, DIM, PARTS>;
    using prefill_at = prefill_shape<TYPES, DIM, PARTS>;
    static constexpr int dim = DIM;
    static constexpr int parts = PARTS;
};

template <class TYPES, int DIM, class Visitor> int visit_parts(bool is_f32, Visitor visitor) {
    if constexpr (TYPES::has_parts)
        if (is_f32) return visitor(instance<TYPES, DIM, 2>());
    return visitor(instance<TYPES, DIM, 1>());
}

template <class TYPES, class Visitor>
int visit_dim(uint32_t dim, bool is_f32, Visitor visitor, int otherwise) {
    switch (dim) {
#define VISIT(dim)                                                                                 \
    case dim:                                                                                      \
        return visit_parts<TYPES, dim>(is_f32, visitor);
        PKVI_GPU_DIMS(VISIT)
#undef VISIT
    default:
        return otherwise;
    }
}

template <class Visitor>
int visit(const pkvi_gpu_types& cache, bool is_f32, Visitor visitor, int otherwise) {
    switch (cache.k_dtype << 8 | cache.v_dtype) {
#define VISIT(k, v)                                                                                \
    case PKV_##k << 8 | PKV_##v:                                                                   \
        return visit_dim<types<PKV_##k, PKV_##v>>(cache.dim, is_f32, visitor, otherwise);
        PKVI_GPU_TYPES(VISIT)
#undef VISIT
    default:
        return otherwise;
    }
}

uint32_t lesser(uint64_t a, uint32_t b) {
    return a < b ? (uint32_t)a : b;
}

} // namespace

bool pkvi_gpu_has_kernel(struct pkvi_gpu_types cache) {
    return visit(cache, false, [](auto) { return 1; }, 0) != 0;
}

uint64_t pkvi_gpu_shared_bytes(struct pkvi_gpu_types cache, bool is_f32) {
    return (uint64_t)visit(
        cache, is_f32,
        [](auto with) {
            using at = decltype(with);
            constexpr int of_decode = at::decode_at::shared_bytes;
            constexpr int of_prefill = at::prefill_at::shared_bytes;
            return of_decode > of_prefill ? of_decode : of_prefill;
        },
        0);
}

int pkvi_gpu_prepare(struct pkvi_gpu_types cache, uint64_t shared_bytes) {
    int status = PKV_OK;
    for (int is_f32 = 0; is_f32 < 2 && status == PKV_OK; is_f32++) {
        if (pkvi_gpu_shared_bytes(cache, is_f32) > shared_bytes) break; /* nobody will start it */
        status = visit(
            cache, is_f32,
            [](auto with) {
                using at = decltype(with);
                const int failed = gpu::prepare(decode<typename at::types, at::dim, at::parts>,
                                                at::decode_at::shared_bytes);
                if (failed) return failed;
                return gpu::prepare(prefill<typename at::types, at::dim, at::parts>,
                                    at::prefill_at::shared_bytes);
            },
            PKV_ENOTSUP);
    }
    return status;
}

static pkvi_gpu_types types_of(const pkvi_gpu_attend* job) {
    return {job->blocks.dim, job->blocks.k_dtype, job->blocks.v_dtype};
}

int pkvi_gpu_launch_decode(const pkvi_gpu_attend* job, uint32_t blocks, pkvi_gpu_stream* stream) {
    return visit(
        types_of(job), job->q.dtype == PKV_F32,
        [&](auto with) {
            using at = decltype(with);
            return gpu::launch(decode<typename at::types, at::dim, at::parts>, blocks,
                               DECODE_THREADS, at::decode_at::shared_bytes, stream, *job);
        },
        PKV_ENOTSUP);
}

int pkvi_gpu_launch_prefill(const pkvi_gpu_attend* job, uint32_t blocks, pkvi_gpu_stream* stream) {
    return visit(
        types_of(job), job->q.dtype == PKV_F32,
        [&](auto with) {
            using at = decltype(with);
            return gpu::launch(prefill<typename at::types, at::dim, at::parts>, blocks,
                               PREFILL_THREADS, at::prefill_at::shared_bytes, stream, *job);
        },
        PKV_ENOTSUP);
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

int pkvi_gpu_launch_move(const pkvi_gpu_move* job, pkvi_gpu_stream* stream) {
    const uint32_t rows = job->layers * job->blocks.kv_heads * 2;
    const uint32_t blocks = lesser((rows + STORE_WARPS - 1) / STORE_WARPS, STORE_BLOCKS_MAX);
    return gpu::launch(move_rows, blocks, STORE_THREADS, 0, stream, *job);
}

/* Few thread blocks, so that the kernels which compute keep theirs. */
enum { GATHER_BLOCKS_MAX = 12 };

int pkvi_gpu_launch_gather(const pkvi_gpu_copy_pair* copies, uint32_t count, uint64_t bytes,
                           pkvi_gpu_stream* stream) {
    const gather_job job = {copies, count, bytes / 16};
    return gpu::launch(gather, lesser(count, GATHER_BLOCKS_MAX), STORE_THREADS, 0, stream, job);
}
