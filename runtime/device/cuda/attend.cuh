/* attend.cuh - the two kernels of attention.
 *
 *   decode    one thread block has 16 rows, and its four warps stream the tiles of the item, each
 *             its own ones (first, fifth, ...) through a ring of its own: no warp waits for another
 *             until the end. Then their results are merged, and those of the splits of a sequence
 *             by whichever thread block finishes last
 *   prefill   one thread block has 128 rows, 16 a warp, and brings each tile once for all of them;
 *             the next tiles are on their way while these are worked on
 *
 * Merging (Milakov and Gimelshein, 2018) goes in the order of warps and of splits, never in that of
 * arrival, so that a result does not depend on timing; and what is cut where depends on the entry
 * alone (split.h), so that it does not depend on the batch either. */
#ifndef PKVI_DEVICE_CUDA_ATTEND_CUH
#define PKVI_DEVICE_CUDA_ATTEND_CUH

#include "device/cuda/tile.cuh"

namespace pkvi {

GPU_DEVICE const uint32_t* table_row(const pkvi_gpu_attend& job, uint32_t entry) {
    if (job.head == nullptr) return job.block_table + (size_t)entry * job.table_stride;
    return job.block_table + job.head->table_first + (size_t)entry * job.head->table_stride;
}

/* Rows that the tiles of an item are brought for. */
GPU_DEVICE source source_of(const pkvi_gpu_attend& job, const pkvi_gpu_item& item) {
    const uint32_t length = job.lengths[item.entry];
    const uint32_t fresh = job.starts[item.entry + 1] - job.starts[item.entry];
    return {&job.blocks, table_row(job, item.entry), item.kv_head, length,
            pkvi_gpu_visible_to(&item, length, fresh, pkvi_gpu_is_tree(job.trees, item.entry),
                                job.group_heads, job.window, job.sinks)};
}

/* One element of a row's output, relative to the highest score, which is in base 2; and the sum of
 * the weights. */
struct merged {
    float out;
    float highest;
    float sum;
};

GPU_DEVICE uint32_t query_head(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                               uint32_t row) {
    return item.kv_head * job.group_heads + (item.row + row) % job.group_heads;
}

/* With one more score that has no value, where there is one: the sink of the query head. */
GPU_DEVICE merged join_sink(const pkvi_gpu_attend& job, const pkvi_gpu_item& item, uint32_t row,
                            merged state) {
    const float log2_e = 1.44269504F;
    if (job.sink_logits == nullptr) return state;
    const float score = job.sink_logits[query_head(job, item, row)] * log2_e;
    const float highest = fmaxf(state.highest, score);
    const float keep = gpu::exp2(state.highest - highest);
    return {state.out * keep, highest, state.sum * keep + gpu::exp2(score - highest)};
}

/* The natural logarithm of a softmax's sum. */
GPU_DEVICE void store_lse(const pkvi_gpu_attend& job, const pkvi_gpu_item& item, uint32_t row,
                          const merged& state) {
    const float ln_2 = 0.693147181F;
    const uint32_t token = job.starts[item.entry] + (item.row + row) / job.group_heads;
    if (job.lse != nullptr)
        job.lse[(size_t)token * job.query_heads + query_head(job, item, row)] =
            (state.highest + gpu::log2(state.sum)) * ln_2;
}

/* ---- Decode ---------------------------------------------------------------------------------- */

enum { DECODE_WARPS = 4, DECODE_THREADS = DECODE_WARPS * gpu::WARP };

/* How shared memory of decode is used: Q, then the rings; at the end, where both are done with, the
 * states of the warps. */
template <class TYPES, int DIM, int PARTS> struct decode_shape {
    using tile = tile_shape<TYPES, DIM>;
    static constexpr int stages = tile::k_row_bytes + tile::v_row_bytes > 512 ? 2 : 3;
    static constexpr int query_bytes = PARTS * WARP_ROWS * query_shape<DIM, PARTS>::pitch;
    static constexpr int ring_bytes = stages * tile::bytes;
    static constexpr int state_floats = DIM + 2; /* of a row: output, highest score, sum */
    static constexpr int streaming_bytes = query_bytes + DECODE_WARPS * ring_bytes;
    static constexpr int merging_bytes =
        DECODE_WARPS * WARP_ROWS * state_floats * (int)sizeof(float);
    static constexpr int shared_bytes =
        streaming_bytes > merging_bytes ? streaming_bytes : merging_bytes;
    /* The file of registers and 227 KiB of shared memory hold two. */
    static constexpr int blocks = shared_bytes <= 113 * 1024 ? 2 : 1;
};

/* One row's state merged from `count` ones, `stride` floats apart, in order: element `d`. */
GPU_DEVICE merged merge_states(const float* states, uint32_t count, size_t stride, int dim,
                               uint32_t d) {
    merged result = {0.0F, -INFINITY, 0.0F};
    for (uint32_t i = 0; i < count; i++)
        result.highest = fmaxf(result.highest, states[i * stride + dim]);
    const float base = result.highest == -INFINITY ? 0.0F : result.highest;
    for (uint32_t i = 0; i < count; i++) {
        const float* state = states + i * stride;
        const float factor = gpu::exp2(state[dim] - base);
        result.out += factor * state[d];
        result.sum += factor * state[dim + 1];
    }
    return result;
}

/* Merge `count` states of each row and store what comes out: into the output, or as the partial
 * result at `partial`. By the whole thread block. */
template <int DIM>
GPU_DEVICE void merge_rows(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                           const float* states, uint32_t count, size_t stride, float* partial) {
    constexpr int floats = DIM + 2;
    for (uint32_t i = gpu::thread(); i < item.rows * DIM; i += DECODE_THREADS) {
        const uint32_t row = i / DIM;
        const uint32_t d = i % DIM;
        const merged value = merge_states(states + row * floats, count, stride, DIM, d);
        if (partial != nullptr) {
            float* to = partial + row * floats;
            to[d] = value.out;
            if (d == 0) to[DIM] = value.highest;
            if (d == 0) to[DIM + 1] = value.sum;
        } else {
            const merged whole = join_sink(job, item, row, value);
            store_element(job.out, row_index(job, item, job.out, row) + d, whole.out / whole.sum);
            if (d == 0) store_lse(job, item, row, whole);
        }
    }
}

template <class TYPES, int DIM>
GPU_DEVICE void store_state(const softmax_state<DIM>& state, float* rows) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float* row = rows + (gpu::lane() / 4 + half * 8) * (DIM + 2);
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            row[output_dim<typename TYPES::value>(i, 0)] = state.out[i][2 * half];
            row[output_dim<typename TYPES::value>(i, 1)] = state.out[i][2 * half + 1];
        }
        if (gpu::lane() % 4 == 0) {
            row[DIM] = state.highest[half];
            row[DIM + 1] = state.sum[half];
        }
    }
}

/* A warp streams its tiles. */
template <class TYPES, int DIM, int PARTS>
GPU_DEVICE void stream_tiles(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                             const unsigned char* q, unsigned char* ring,
                             softmax_state<DIM>& state) {
    using shape = decode_shape<TYPES, DIM, PARTS>;
    using tile = tile_shape<TYPES, DIM>;
    const source from = source_of(job, item);
    const score_rule rule = rule_of(job, item, 0);
    uint32_t next = item.tile_begin + gpu::warp(); /* to be copied */
    uint32_t filling = 0;                          /* stage that it goes to */
#pragma unroll
    for (int i = 0; i < shape::stages - 1; i++) {
        copy_tile<TYPES, DIM>(from, next, item.tile_end, ring + filling++ * tile::bytes);
        gpu::copy_commit();
        next += DECODE_WARPS;
    }
    uint32_t reading = 0;
    for (uint32_t number = item.tile_begin + gpu::warp(); number < item.tile_end;
         number += DECODE_WARPS) {
        gpu::copy_wait<shape::stages - 2>();
        gpu::sync_warp();
        copy_tile<TYPES, DIM>(from, next, item.tile_end, ring + filling * tile::bytes);
        gpu::copy_commit();
        next += DECODE_WARPS;
        const uint32_t tokens[1] = {pkvi_gpu_visible_tile(from.visible, number) * TILE};
        attend_tiles<TYPES, DIM, PARTS, 1>(rule, q, WARP_ROWS * query_shape<DIM, PARTS>::pitch,
                                           ring + reading * tile::bytes, tokens, state);
        filling = filling + 1 == shape::stages ? 0 : filling + 1;
        reading = reading + 1 == shape::stages ? 0 : reading + 1;
    }
    gpu::copy_wait<0>();
    state.finish();
}

/* Have all splits of this item's rows been stored? Only the last thread block is told so. */
GPU_DEVICE bool is_last_split(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                              uint32_t* flag) {
    gpu::fence();
    gpu::sync_block();
    if (gpu::thread() == 0) {
        gpu::fence(); /* what the others stored, which the barrier has shown to this thread */
        *flag = gpu::count_up(&job.merges[item.merge]) + 1;
        if (*flag == item.splits) job.merges[item.merge] = 0; /* for the next launch */
        gpu::fence();
    }
    gpu::sync_block();
    return *flag == item.splits;
}

template <class TYPES, int DIM, int PARTS>
GPU_KERNEL(DECODE_THREADS, (decode_shape<TYPES, DIM, PARTS>::blocks))
decode(const pkvi_gpu_attend job) {
    using shape = decode_shape<TYPES, DIM, PARTS>;
    unsigned char* q = gpu::shared();
    unsigned char* ring = q + shape::query_bytes + gpu::warp() * shape::ring_bytes;
    float* states = (float*)gpu::shared();
    for (uint32_t i = gpu::block(); i < *job.item_count; i += gpu::blocks()) {
        const pkvi_gpu_item item = job.items[i];
        load_queries<typename TYPES::key, DIM, PARTS>(job, item, WARP_ROWS, DECODE_THREADS, q);
        gpu::sync_block();
        softmax_state<DIM> state;
        state.clear();
        stream_tiles<TYPES, DIM, PARTS>(job, item, q, ring, state);
        gpu::sync_block();
        store_state<TYPES, DIM>(state, states + gpu::warp() * WARP_ROWS * shape::state_floats);
        gpu::sync_block();
        float* partials = job.partials + (size_t)item.partial * shape::state_floats;
        const size_t split_floats = (size_t)item.rows * shape::state_floats;
        merge_rows<DIM>(job, item, states, DECODE_WARPS, WARP_ROWS * shape::state_floats,
                        item.splits > 1 ? partials + item.split * split_floats : nullptr);
        if (item.splits > 1 && is_last_split(job, item, (uint32_t*)gpu::shared()))
            merge_rows<DIM>(job, item, partials, item.splits, split_floats, nullptr);
        gpu::sync_block();
    }
}

/* ---- Prefill --------------------------------------------------------------------------------- */

enum {
    PREFILL_WARPS = PKVI_GPU_PREFILL_ROWS / WARP_ROWS,
    PREFILL_THREADS = PREFILL_WARPS * gpu::WARP,
    PREFILL_STAGES = 2,
};

template <class TYPES, int DIM, int PARTS> struct prefill_shape {
    using tile = tile_shape<TYPES, DIM>;
    static constexpr int tiles = DIM <= 128 ? 4 : PARTS == 1 ? 2 : 1; /* of a step */
    static constexpr int query_bytes =
        PARTS * PKVI_GPU_PREFILL_ROWS * query_shape<DIM, PARTS>::pitch;
    static constexpr int stage_bytes = tiles * tile::bytes;
    static constexpr int shared_bytes = query_bytes + PREFILL_STAGES * stage_bytes;
};

template <class TYPES, int DIM, int PARTS>
GPU_DEVICE void copy_step(const source& from, uint32_t number, uint32_t end, unsigned char* to) {
    using shape = prefill_shape<TYPES, DIM, PARTS>;
    for (uint32_t i = gpu::warp(); i < shape::tiles; i += PREFILL_WARPS)
        copy_tile<TYPES, DIM>(from, number + i, end, to + i * shape::tile::bytes);
    gpu::copy_commit();
}

template <class TYPES, int DIM>
GPU_DEVICE void store_rows(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                           const softmax_state<DIM>& state) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = gpu::warp() * WARP_ROWS + gpu::lane() / 4 + half * 8;
        if (row >= item.rows) continue;
        const uint64_t index = row_index(job, item, job.out, row);
        const merged whole =
            join_sink(job, item, row, {1.0F, state.highest[half], state.sum[half]});
#pragma unroll
        for (int i = 0; i < DIM / 8; i++)
#pragma unroll
            for (int column = 0; column < 2; column++)
                store_element(job.out, index + output_dim<typename TYPES::value>(i, column),
                              state.out[i][2 * half + column] * whole.out / whole.sum);
        if (gpu::lane() % 4 == 0) store_lse(job, item, row, whole);
    }
}

template <class TYPES, int DIM, int PARTS>
GPU_KERNEL(PREFILL_THREADS, 1)
prefill(const pkvi_gpu_attend job) {
    using shape = prefill_shape<TYPES, DIM, PARTS>;
    unsigned char* q = gpu::shared();
    unsigned char* stages = q + shape::query_bytes;
    const unsigned char* warp_q = q + gpu::warp() * WARP_ROWS * query_shape<DIM, PARTS>::pitch;
    for (uint32_t i = gpu::block(); i < *job.item_count; i += gpu::blocks()) {
        const pkvi_gpu_item item = job.items[i];
        const source from = source_of(job, item);
        const score_rule rule = rule_of(job, item, gpu::warp() * WARP_ROWS);
        const uint32_t last_row = item.row + gpu::warp() * WARP_ROWS + WARP_ROWS - 1;
        const uint32_t last_place = from.length -
                                    (job.starts[item.entry + 1] - job.starts[item.entry]) +
                                    last_row / job.group_heads;
        softmax_state<DIM> state;
        state.clear();
        copy_step<TYPES, DIM, PARTS>(from, item.tile_begin, item.tile_end, stages);
        load_queries<typename TYPES::key, DIM, PARTS>(job, item, PKVI_GPU_PREFILL_ROWS,
                                                      PREFILL_THREADS, q);
        uint32_t stage = 0;
        for (uint32_t number = item.tile_begin; number < item.tile_end; number += shape::tiles) {
            copy_step<TYPES, DIM, PARTS>(from, number + shape::tiles, item.tile_end,
                                         stages + (stage ^ 1) * shape::stage_bytes);
            gpu::copy_wait<1>();
            gpu::sync_block();
            uint32_t tokens[shape::tiles];
#pragma unroll
            for (int t = 0; t < shape::tiles; t++)
                tokens[t] = number + t < item.tile_end
                                ? pkvi_gpu_visible_tile(from.visible, number + t) * TILE
                                : NO_TILE;
            if (tokens[0] <= last_place) /* else nothing of it is visible to this warp */
                attend_tiles<TYPES, DIM, PARTS, shape::tiles>(
                    rule, warp_q, PKVI_GPU_PREFILL_ROWS * query_shape<DIM, PARTS>::pitch,
                    stages + stage * shape::stage_bytes, tokens, state);
            gpu::sync_block();
            stage ^= 1;
        }
        gpu::copy_wait<0>();
        state.finish();
        store_rows<TYPES, DIM>(job, item, state);
        gpu::sync_block();
    }
}

} // namespace pkvi

#endif
