/* bench.h - what the benchmark of the kernels asks of C: attention problems in the memory of the
 * CPU device, and the limits of the machine.
 *
 * Compiled into the shared library pkv_bench, which holds the whole library with its internals, and
 * opened from Python (_native.py repeats these declarations). Functions that can fail return a
 * status of pagedkv.h; times are in seconds of the monotonic clock. Not for use by several threads
 * at once. */
#ifndef TOOLS_BENCHMARKS_NATIVE_BENCH_H
#define TOOLS_BENCHMARKS_NATIVE_BENCH_H

#include "device/device.h"

#define BENCH_API __attribute__((visibility("default")))

/* ---- Scenes ---------------------------------------------------------------------------------- */

struct bench_shape {
    uint32_t layers;
    uint32_t entries;
    uint32_t query_heads;
    uint32_t kv_heads;
    uint32_t dim; /* of keys and of values */
    uint32_t block_tokens;
    uint32_t k_dtype;
    uint32_t v_dtype;
    uint32_t q_dtype;      /* of queries and of the output */
    uint32_t source_dtype; /* of the arrays that K and V are written from */
    uint32_t source_bytes; /* of the pool of random values they are taken from */
    uint32_t threads;
    uint32_t is_shuffled; /* pages in random order; otherwise one run of blocks */
    uint32_t seed;
};

/* K and V of `entries` sequences in `layers` layers, all of it random. */
struct bench_scene;

/* Open a device of level `isa` (NULL: the best), place lengths[e] tokens of each entry and write
 * all K and V. fresh[e] of the tokens of entry e, its last, are query rows.
 * Errors  PKV_ENOTSUP (the level, or a type), PKV_ENOMEM, PKV_ETOOBIG, and what the device says. */
BENCH_API int bench_scene_open(const struct bench_shape* shape, const char* isa,
                               const uint32_t* lengths, const uint32_t* fresh,
                               struct bench_scene** scene);
BENCH_API void bench_scene_close(struct bench_scene* scene);
BENCH_API const char* bench_scene_isa(const struct bench_scene* scene);
BENCH_API uint64_t bench_scene_bytes(const struct bench_scene* scene); /* K and V, all layers */

/* One attention call for the query rows of entries [begin, end). */
BENCH_API int bench_scene_attend(struct bench_scene* scene, uint32_t layer, uint32_t begin,
                                 uint32_t end, double* seconds);

/* One write call for tokens [position, position + count) of every entry. Where the values come from
 * moves on with every call, through the whole pool. */
BENCH_API int bench_scene_write(struct bench_scene* scene, uint32_t layer, uint32_t position,
                                uint32_t count, double* seconds);

/* Read every block's slab of every layer in the order of the block tables, the next ones being
 * prefetched: what attention would take if it did nothing else. */
BENCH_API double bench_scene_read(struct bench_scene* scene, uint32_t threads);

/* Is the output that the last attend of `layer` left for query row `row` of `entry` right?
 * output_nmse  its error relative to the reference, computed from K and V as the device reads them
 *              back
 * stored_nmse  error of those K and V relative to what was written, after scene_open
 * Errors  PKV_ENOMEM, and what the device says. */
BENCH_API int bench_scene_check(struct bench_scene* scene, uint32_t layer, uint32_t entry,
                                uint32_t row, double* output_nmse, double* stored_nmse);

/* Change an output, or one of the stored values, as a mistake of a kernel would: for the test of the
 * check. */
BENCH_API void bench_scene_spoil(struct bench_scene* scene, uint32_t is_stored);

/* ---- Limits ---------------------------------------------------------------------------------- */

struct bench_limits;

enum bench_peak { BENCH_PEAK_FMA = 0, BENCH_PEAK_BF16 = 1, BENCH_PEAK_INT8 = 2 };

/* Errors  PKV_ENOMEM. */
BENCH_API int bench_limits_open(uint64_t bytes, struct bench_limits** limits);
BENCH_API void bench_limits_close(struct bench_limits* limits);

/* Bytes per second of reading all of the memory in order, the best of several inner loops. */
BENCH_API double bench_limits_read(struct bench_limits* limits, uint32_t threads);
/* Bytes per second copied, each counted once: of memcpy or past the caches, the better. */
BENCH_API double bench_limits_copy(struct bench_limits* limits, uint32_t threads);
/* Operations per second (a multiplication and an addition are two); 0 when this processor, or this
 * build, has no such instruction. */
BENCH_API double bench_peak(uint32_t kind, uint32_t threads);

/* ---- Between the files ----------------------------------------------------------------------- */

double bench_now(void);

/* Read pieces[0 .. count), each of piece_bytes (a multiple of 256), while `ahead` bytes further on
 * in that order are prefetched; 0: nothing is. Seconds. */
double bench_read_pieces(const unsigned char* const* pieces, uint64_t count, uint64_t piece_bytes,
                         uint64_t ahead, uint32_t threads);

#endif
