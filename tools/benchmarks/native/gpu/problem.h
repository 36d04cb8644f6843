/* problem.h - an attention problem in the memory of a GPU: a pool of blocks in random order, filled
 * with random K and V, and a call for each layer. */
#ifndef BENCH_GPU_PROBLEM_H
#define BENCH_GPU_PROBLEM_H

#include "device/cuda/kernels.h"
#include "gpu/machine.h"

struct pkvi_gpu_work;

/* Some entries of the same shape; a batch has up to two kinds. */
struct entries {
    uint32_t count;
    uint32_t length; /* with the new tokens */
    uint32_t fresh;
};

struct problem_shape {
    struct entries entries[2];
    uint32_t query_heads;
    uint32_t kv_heads;
    uint32_t dim;
    uint32_t dtype;
    uint32_t layers;     /* as many, or more for set_bytes, or fewer: what there is memory for */
    uint64_t set_bytes;  /* of K and V of all layers, at least */
    bool is_layer_major; /* the blocks of a layer stand together, not the layers of a block */
};

struct problem;

struct problem* problem_open(const struct problem_shape* shape, const struct machine* machine,
                             struct pkvi_gpu_stream* stream);
void problem_close(struct problem* problem);

uint32_t problem_layers(const struct problem* problem);
/* Bytes of K and V that one layer's call has to read, and its floating-point operations. */
uint64_t problem_bytes(const struct problem* problem);
double problem_operations(const struct problem* problem);
/* The pool, for measurements of the memory itself. */
const void* problem_pool(const struct problem* problem, uint64_t* bytes);

/* Attention of all layers, a replay_work. */
void problem_attend(void* problem, struct pkvi_gpu_stream* stream);

/* K and V of the first `tokens` tokens in all layers, stored from arrays in bf16 or read into them. The
 * arrays, the problem's to free, are the same for all layers. */
struct store {
    struct problem* problem;
    struct pkvi_gpu_kv call;
    bool is_read;
};
struct store store_open(struct problem* problem, uint32_t tokens, bool is_read,
                        struct pkvi_gpu_stream* stream);
/* Bytes read and written for one layer. */
uint64_t store_bytes(const struct store* store);
void store_run(void* store, struct pkvi_gpu_stream* stream); /* a replay_work */

/* The largest error (NMSE) of some rows of the last layer, of the first entry, one in the middle and the
 * last, against double precision over what is stored. */
double problem_check(struct problem* problem, struct pkvi_gpu_stream* stream);

/* Copy from, and to, memory of the host that is not pinned, and wait. */
void copy_in(void* to, const void* from, uint64_t bytes, struct pkvi_gpu_stream* stream);
void copy_out(void* to, const void* from, uint64_t bytes, struct pkvi_gpu_stream* stream);

/* Ends the program with the name of the call, unless the status is PKV_OK. */
void must(int status, const char* call);
#define MUST(call) must(call, #call)

#endif
