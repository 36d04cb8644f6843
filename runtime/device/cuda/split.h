/* split.h - which thread blocks do what of an attention call: a pure function of the shape of the
 * plan, in plain C, for host and device.
 *
 * An entry with few rows (decode) reads its K/V in several splits, so that many thread blocks share
 * one long sequence; the last one to finish merges the partial results in order. An entry with many
 * rows (prefill) has enough row tiles to go round and is not split.
 *
 * Holds   each visible tile of each row is in exactly one item
 *         which kernel an entry takes and how it is cut depends on that entry alone, so that its
 *         result does not depend on the batch
 *         splits of one row tile differ by one tile at most
 *         the number of items is bounded by pkvi_gpu_bounds_of, whatever the lengths are */
#ifndef PKVI_DEVICE_CUDA_SPLIT_H
#define PKVI_DEVICE_CUDA_SPLIT_H

#include "device/cuda/kernels.h"

#ifdef __CUDACC__
#define PKVI_BOTH static __host__ __device__ inline
#else
#define PKVI_BOTH static inline
#endif

/* The tiles that the rows of one item see: numbers 0 .. sink_tiles are tiles 0 .. sink_tiles, and
 * the others, up to `count`, are `skip` tiles further on. */
struct pkvi_gpu_visible {
    uint32_t count;
    uint32_t sink_tiles;
    uint32_t skip;
};

/* For rows at positions first .. last of a sequence. */
PKVI_BOTH struct pkvi_gpu_visible pkvi_gpu_visible_of(uint32_t first, uint32_t last,
                                                      uint32_t window, uint32_t sinks) {
    struct pkvi_gpu_visible visible;
    const uint32_t tiles = last / PKVI_GPU_TILE_TOKENS + 1;
    const uint32_t begin =
        window != 0 && first >= window ? (first - window + 1) / PKVI_GPU_TILE_TOKENS : 0;
    const uint32_t wanted = (sinks + PKVI_GPU_TILE_TOKENS - 1) / PKVI_GPU_TILE_TOKENS;
    visible.sink_tiles = wanted < begin ? wanted : begin;
    visible.skip = begin - visible.sink_tiles;
    visible.count = tiles - visible.skip;
    return visible;
}

PKVI_BOTH uint32_t pkvi_gpu_visible_tile(struct pkvi_gpu_visible visible, uint32_t number) {
    return number < visible.sink_tiles ? number : number + visible.skip;
}

/* To the rows of an item, in a sequence of `length` tokens of which `fresh` are new. A row of a tree
 * may stand right behind the tokens before the tree, whichever it is. */
PKVI_BOTH struct pkvi_gpu_visible pkvi_gpu_visible_to(const struct pkvi_gpu_item* item,
                                                      uint32_t length, uint32_t fresh, bool is_tree,
                                                      uint32_t group_heads, uint32_t window,
                                                      uint32_t sinks) {
    const uint32_t past = length - fresh;
    return pkvi_gpu_visible_of(is_tree ? past : past + item->row / group_heads,
                               past + (item->row + item->rows - 1) / group_heads, window, sinks);
}

PKVI_BOTH bool pkvi_gpu_is_tree(const uint32_t* trees, uint32_t entry) {
    return trees != NULL && trees[entry] != (uint32_t)PKVI_GPU_NO_TREE;
}

/* The shape of a plan; host pointers. */
struct pkvi_gpu_shape {
    uint32_t entries;
    const uint32_t* starts;
    const uint32_t* lengths;
    const uint32_t* trees; /* as in pkvi_gpu_attend */
    uint32_t kv_heads;
    uint32_t group_heads;
    uint32_t window;
    uint32_t sinks;
};

/* What any call of these limits takes at most. */
struct pkvi_gpu_bounds {
    uint64_t decode_items;
    uint64_t prefill_items;
    uint64_t entry_partial_rows; /* of one entry */
};

/* What any call takes at most whose entries have `entry_tokens` new tokens or fewer, all of it decode
 * in one round. For captured calls, whose launches are as large as they will ever have to be. */
struct pkvi_gpu_decode_bounds {
    uint64_t items;
    uint64_t partial_rows;
};

/* The cut. The caller gives the arrays and their room. Partial results of all entries may take more
 * memory than there is; decode then runs in rounds, one launch after the other, which use the same
 * memory: round r ends before item round_ends[r]. */
struct pkvi_gpu_work {
    struct pkvi_gpu_item* decode;  /* [bounds.decode_items] */
    struct pkvi_gpu_item* prefill; /* [bounds.prefill_items] */
    uint32_t* round_ends;          /* [entries] */
    uint32_t partial_rows;         /* room for so many; at least bounds.entry_partial_rows */
    uint32_t decode_count;         /* from here on: results */
    uint32_t prefill_count;
    uint32_t rounds;
    uint32_t merges; /* counters that one round needs at most: no more than its items */
};

#ifdef __cplusplus
extern "C" {
#endif

struct pkvi_gpu_bounds pkvi_gpu_bounds_of(uint32_t entries, uint32_t tokens,
                                          uint32_t sequence_tokens, uint32_t kv_heads,
                                          uint32_t group_heads);

/* Are so many rows of an entry and KV head decode? */
bool pkvi_gpu_is_decode(uint32_t rows);

struct pkvi_gpu_decode_bounds pkvi_gpu_decode_bounds_of(uint32_t entries, uint32_t entry_tokens,
                                                        uint32_t sequence_tokens, uint32_t kv_heads,
                                                        uint32_t group_heads);

/* Rows of partial results to have room for, with plans of `entries`: PKVI_PARTIALS_BYTES of them, or
 * what one entry needs. */
uint32_t pkvi_gpu_partial_rows(const struct pkvi_gpu_bounds* bounds, uint32_t entries,
                               uint32_t dim);

void pkvi_gpu_split(const struct pkvi_gpu_shape* shape, struct pkvi_gpu_work* work);

#ifdef __cplusplus
}
#endif
#endif
