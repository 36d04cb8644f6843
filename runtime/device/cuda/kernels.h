/* kernels.h - the kernels of the CUDA device as the host sees them: what each is given and how it is
 * started.
 *
 * The kernels (*.cuh) touch the GPU only through machine.h, and are compiled twice from the same
 * source: by nvcc for the device, and by a C++ compiler for the emulator that tests them on machines
 * without one. Which of the two this is, decides which library the host code is linked with.
 *
 * LAYOUT of a head's piece of a block (see device.h): rows of dims in the order of tokens,
 * [token][dim], then the scales [token] of scaled types. Sixteen tokens are a tile, the unit in which
 * kernels read: block_tokens is a multiple of 16.
 *
 * All pointers are device pointers unless they say otherwise. */
#ifndef PKVI_DEVICE_CUDA_KERNELS_H
#define PKVI_DEVICE_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct pkvi_gpu_stream; /* system.h */

enum {
    PKVI_GPU_TILE_TOKENS = 16,
    PKVI_GPU_DECODE_ROWS = 16,   /* rows of a decode item, at most */
    PKVI_GPU_PREFILL_ROWS = 128, /* and of a prefill item */
    PKVI_GPU_TREE_WORDS = 8,     /* 32 rows each */
    PKVI_GPU_NO_TREE = -1,
};

/* Where blocks are, and one layer in them. */
struct pkvi_gpu_blocks {
    unsigned char* base;
    uint64_t extent_bytes;
    uint64_t block_bytes;
    uint64_t layer_offset; /* of the layer's slab inside a block */
    uint64_t k_head_bytes;
    uint64_t v_head_bytes;
    uint64_t v_offset;       /* of the first V inside a slab */
    uint64_t k_scale_offset; /* inside one head's K */
    uint64_t v_scale_offset;
    uint32_t blocks_per_extent;
    uint32_t block_tokens;
    uint32_t kv_heads;
    uint32_t dim; /* of keys and of values */
    uint32_t k_dtype;
    uint32_t v_dtype;
};

/* An array [rows][heads][dim]; strides in elements. */
struct pkvi_gpu_array {
    void* data; /* NULL in a read: not wanted */
    uint64_t row_stride;
    uint64_t head_stride;
    uint32_t dtype; /* PKV_F32, PKV_F16, PKV_BF16 */
};

/* What differs from one plan to the next where calls are captured in a graph (graphs.h): it stands in
 * device memory, in front of the plan's tables. */
struct pkvi_gpu_head {
    uint32_t tokens;      /* new ones of all entries */
    uint32_t items;       /* of decode */
    uint32_t table_first; /* element of the block table at which the row of entry 0 begins */
    uint32_t table_stride;
};

/* ---- Write and read -------------------------------------------------------------------------- */

struct pkvi_gpu_kv {
    struct pkvi_gpu_blocks blocks;
    struct pkvi_gpu_array k; /* [tokens][kv_heads][dim] */
    struct pkvi_gpu_array v;
    const uint32_t* slots; /* [tokens] */
    uint32_t tokens;
    const struct pkvi_gpu_head* head; /* NULL, or where it stands how many of `tokens` there are */
};

/* Store rows into slots, converted to the types of the cache; and copy slots into rows. */
int pkvi_gpu_launch_write(const struct pkvi_gpu_kv* job, struct pkvi_gpu_stream* stream);
int pkvi_gpu_launch_read(const struct pkvi_gpu_kv* job, struct pkvi_gpu_stream* stream);

/* Tokens that go to other slots, in all layers, one after the other: from[i] to to[i]. */
struct pkvi_gpu_move {
    struct pkvi_gpu_blocks blocks; /* of layer 0 */
    uint32_t layers;
    uint64_t layer_bytes;
    const uint32_t* from; /* [count] slots */
    const uint32_t* to;
    uint32_t count;
};

int pkvi_gpu_launch_move(const struct pkvi_gpu_move* job, struct pkvi_gpu_stream* stream);

/* ---- Attention ------------------------------------------------------------------------------- */

/* One piece of work: `rows` rows that share a KV head of one entry, over a range of its visible
 * tiles. Row r of a KV head h is token r / group_heads of the entry's new ones, and query head
 * h * group_heads + r % group_heads. Numbers of visible tiles count what the rows see: those of the
 * sinks first, then those of the window (pkvi_gpu_visible_of in split.h). */
struct pkvi_gpu_item {
    uint32_t entry;
    uint32_t kv_head;
    uint32_t row; /* first */
    uint32_t rows;
    uint32_t tile_begin; /* among the visible ones */
    uint32_t tile_end;
    uint32_t split; /* which of `splits` pieces this is */
    uint32_t splits;
    uint32_t partial; /* row of split 0's partial result; the other splits follow, `rows` each */
    uint32_t merge;   /* number of the counter of finished splits */
};

/* A row of a token tree: where it stands, and which rows of the tree it sees. */
struct pkvi_gpu_node {
    uint32_t position;
    uint32_t seen[PKVI_GPU_TREE_WORDS]; /* one bit for each row of the tree */
};

/* What a kernel of attention is given. Everything that differs from step to step lies behind
 * pointers, so that a captured graph of launches can be replayed. */
struct pkvi_gpu_attend {
    struct pkvi_gpu_blocks blocks;
    struct pkvi_gpu_array q;     /* [tokens][query_heads][dim] */
    struct pkvi_gpu_array out;   /* [tokens][query_heads][dim] */
    float* lse;                  /* [tokens][query_heads] or NULL */
    const float* sink_logits;    /* [query_heads] or NULL */
    const uint32_t* starts;      /* [entries + 1] */
    const uint32_t* lengths;     /* [entries] */
    const uint32_t* block_table; /* [entries][table_stride] */
    uint32_t table_stride;
    const struct pkvi_gpu_head* head; /* NULL, or what says where rows of the block table are */
    const uint32_t*
        trees; /* [entries] number of its first node, or PKVI_GPU_NO_TREE; or NULL: there
                              is no tree */
    const struct pkvi_gpu_node* nodes;
    uint32_t query_heads;
    uint32_t group_heads; /* query heads of one KV head */
    uint32_t window;
    uint32_t sinks;
    float scale;
    float softcap;
    const struct pkvi_gpu_item* items; /* of this launch */
    const uint32_t* item_count;        /* one number */
    float* partials;                   /* [partial rows][dim + 2]: output, highest score, sum */
    uint32_t* merges;                  /* counters, zero between launches */
};

/* What there are kernels for, or not. */
struct pkvi_gpu_types {
    uint32_t dim; /* of keys and of values */
    uint32_t k_dtype;
    uint32_t v_dtype;
};
bool pkvi_gpu_has_kernel(struct pkvi_gpu_types cache);

/* The shared memory that one thread block of attention needs at most, with queries in f32 or not. */
uint64_t pkvi_gpu_shared_bytes(struct pkvi_gpu_types cache, bool is_f32);

/* Ask the device for that much, where it has it (`shared_bytes`): once, before attention over
 * such a cache is started there.
 * Errors  PKV_ENOTSUP (there is no kernel), PKV_EIO, PKV_EDEVICE. */
int pkvi_gpu_prepare(struct pkvi_gpu_types cache, uint64_t shared_bytes);

/* Start `blocks` thread blocks that work off the items in order. Items of decode have at most
 * PKVI_GPU_DECODE_ROWS rows; those of prefill PKVI_GPU_PREFILL_ROWS and one split. */
int pkvi_gpu_launch_decode(const struct pkvi_gpu_attend* job, uint32_t blocks,
                           struct pkvi_gpu_stream* stream);
int pkvi_gpu_launch_prefill(const struct pkvi_gpu_attend* job, uint32_t blocks,
                            struct pkvi_gpu_stream* stream);

/* ---- Copies ---------------------------------------------------------------------------------- */

/* A copy of `bytes`, a multiple of 16, between addresses that the device can reach: its own memory
 * or pinned host memory. */
struct pkvi_gpu_copy_pair {
    void* to;
    const void* from;
};

/* Copy `count` pieces of the same size; `copies` is a device pointer. For pieces that are too small
 * for the copy engines. */
int pkvi_gpu_launch_gather(const struct pkvi_gpu_copy_pair* copies, uint32_t count, uint64_t bytes,
                           struct pkvi_gpu_stream* stream);

#ifdef __cplusplus
}
#endif
#endif
