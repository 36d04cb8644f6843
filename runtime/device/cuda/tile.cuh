/* tile.cuh - what one warp does: attention of 16 rows to a few tiles of 16 tokens that lie in shared
 * memory. Decode and prefill differ in who brings the tiles and which rows a warp has.
 *
 * Rows are (token, query head) pairs that share a KV head: padded to 16, they are the rows of the
 * tensor cores' first operand, whatever the group of heads is. Scores come out of the first product
 * in just the order in which weights go into the second one, so that they stay in registers.
 *
 * Rows of shared memory are 16 bytes longer than their elements: eight rows of a matrix then lie in
 * different banks, for every length that there is (an odd number of 16-byte pieces).
 *
 * 8-bit elements are read by the same loads of 16-bit matrices, which gives a lane four neighbours
 * of K (four dims of a token) or two by two of V (two dims of two tokens) at once. The products do
 * not mind in which order their 16 dims come, as long as Q comes in the same (query_pair); columns
 * of the output come in the order that V's bytes dictate (output_dim). They are turned into bf16,
 * which holds every i8 and e4m3; scales of K multiply the scores, and those of V the weights.
 *
 * K and V need not have the same type: queries are rounded to what K is multiplied as, bf16 or for
 * f16 f16, and weights to what V is. When queries come in f32, what the rounding took is multiplied
 * as well (PARTS = 2), and likewise for the weights. */
#ifndef PKVI_DEVICE_CUDA_TILE_CUH
#define PKVI_DEVICE_CUDA_TILE_CUH

#include "device/cuda/split.h"
#include "device/cuda/stored.cuh"

namespace pkvi {

enum { TILE = PKVI_GPU_TILE_TOKENS, WARP_ROWS = 16, PADDING = 16 };

/* How queries lie in it. Two parts of 256 dims have no room for padding in the 163 KiB of compute
 * capability 8.0: there piece p of row r, 16 bytes, is at p ^ r % 8 instead. */
template <int DIM, int PARTS> struct query_shape {
    static constexpr bool is_padded = DIM * PARTS < 512;
    static constexpr int pitch = DIM * 2 + (is_padded ? PADDING : 0);
    static GPU_DEVICE uint32_t offset(uint32_t row, uint32_t byte) {
        return row * pitch + (is_padded ? byte : byte ^ row % 8 * 16);
    }
};

/* How a tile lies in shared memory: rows of K, rows of V, scales of K, scales of V. */
template <class TYPES, int DIM> struct tile_shape {
    static constexpr int scale_bytes = TILE * (int)sizeof(float);
    static constexpr int k_row_bytes = DIM * TYPES::key::bytes;
    static constexpr int v_row_bytes = DIM * TYPES::value::bytes;
    static constexpr int k_pitch = k_row_bytes + PADDING;
    static constexpr int v_pitch = v_row_bytes + PADDING;
    static constexpr int v_offset = TILE * k_pitch;
    static constexpr int k_scale_offset = v_offset + TILE * v_pitch;
    static constexpr int v_scale_offset =
        k_scale_offset + (TYPES::key::is_scaled ? scale_bytes : 0);
    static constexpr int bytes = v_scale_offset + (TYPES::value::is_scaled ? scale_bytes : 0);
    static_assert(DIM % 32 == 0, "a warp copies a row of 32 pieces or of 64");
};

/* ---- Bringing tiles -------------------------------------------------------------------------- */

/* Where the tiles of one entry and KV head are, and which of them the rows of an item see. */
struct source {
    const pkvi_gpu_blocks* blocks;
    const uint32_t* pages; /* the entry's row of the block table */
    uint32_t kv_head;
    uint32_t length;
    pkvi_gpu_visible visible;
};

GPU_DEVICE const unsigned char* slab_of(const pkvi_gpu_blocks& blocks, uint32_t block) {
    return blocks.base + (block / blocks.blocks_per_extent) * blocks.extent_bytes +
           (block % blocks.blocks_per_extent) * blocks.block_bytes + blocks.layer_offset;
}

/* Start copying the first `rows` rows of a tile, and zeros for the others. By one warp. */
template <int ROW_BYTES, int PITCH>
GPU_DEVICE void copy_rows(const unsigned char* from, uint32_t rows, unsigned char* to) {
    constexpr int pieces = ROW_BYTES / 16;
#pragma unroll
    for (uint32_t i = gpu::lane(); i < TILE * pieces; i += gpu::WARP) {
        const bool is_row = i / pieces < rows;
        gpu::copy_async(to + i / pieces * PITCH + i % pieces * 16, is_row ? from + i * 16 : from,
                        is_row);
    }
}

/* And what decodes 16 tokens, or zeros. */
GPU_DEVICE void copy_scales(const unsigned char* from, bool is_there, unsigned char* to) {
    const uint32_t at = gpu::lane() * 16;
    if (at < TILE * sizeof(float)) gpu::copy_async(to + at, is_there ? from + at : from, is_there);
}

/* Start copying visible tile `number`, or zeros when it is `end` or more; slots behind the length
 * are zeros too. By one warp. */
template <class TYPES, int DIM>
GPU_DEVICE void copy_tile(const source& from, uint32_t number, uint32_t end, unsigned char* to) {
    using shape = tile_shape<TYPES, DIM>;
    const pkvi_gpu_blocks& blocks = *from.blocks;
    const bool is_there = number < end;
    const uint32_t token = is_there ? pkvi_gpu_visible_tile(from.visible, number) * TILE : 0;
    const unsigned char* k = blocks.base;
    const unsigned char* v = blocks.base;
    const unsigned char* k_scales = blocks.base;
    const unsigned char* v_scales = blocks.base;
    if (is_there) {
        const unsigned char* slab = slab_of(blocks, from.pages[token / blocks.block_tokens]);
        const uint32_t inside = token % blocks.block_tokens;
        k = slab + from.kv_head * blocks.k_head_bytes;
        v = slab + blocks.v_offset + from.kv_head * blocks.v_head_bytes;
        k_scales = k + blocks.k_scale_offset + inside * sizeof(float);
        v_scales = v + blocks.v_scale_offset + inside * sizeof(float);
        k += (size_t)inside * shape::k_row_bytes;
        v += (size_t)inside * shape::v_row_bytes;
    }
    const uint32_t rows = is_there ? from.length - token : 0; /* that hold something */
    copy_rows<shape::k_row_bytes, shape::k_pitch>(k, rows, to);
    copy_rows<shape::v_row_bytes, shape::v_pitch>(v, rows, to + shape::v_offset);
    if (TYPES::key::is_scaled) copy_scales(k_scales, is_there, to + shape::k_scale_offset);
    if (TYPES::value::is_scaled) copy_scales(v_scales, is_there, to + shape::v_scale_offset);
}

/* ---- Queries --------------------------------------------------------------------------------- */

GPU_DEVICE float load_element(const pkvi_gpu_array& array, uint64_t index) {
    if (array.dtype == PKV_F32) return ((const float*)array.data)[index];
    const uint16_t bits = ((const uint16_t*)array.data)[index];
    return array.dtype == PKV_F16 ? gpu::unpack(gpu::f16(), bits) : gpu::unpack(gpu::bf16(), bits);
}

GPU_DEVICE void store_element(const pkvi_gpu_array& array, uint64_t index, float value) {
    if (array.dtype == PKV_F32)
        ((float*)array.data)[index] = value;
    else if (array.dtype == PKV_F16)
        ((uint16_t*)array.data)[index] = (uint16_t)gpu::pack(gpu::f16(), value, 0.0F);
    else
        ((uint16_t*)array.data)[index] = (uint16_t)gpu::pack(gpu::bf16(), value, 0.0F);
}

/* Where row `row` of an item is in arrays [tokens][query_heads][dim]. */
GPU_DEVICE uint64_t row_index(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                              const pkvi_gpu_array& array, uint32_t row) {
    const uint32_t token = job.starts[item.entry] + (item.row + row) / job.group_heads;
    const uint32_t head = item.kv_head * job.group_heads + (item.row + row) % job.group_heads;
    return token * array.row_stride + head * array.head_stride;
}

/* Which word of a row of queries in shared memory holds dims 2 * pair and 2 * pair + 1. */
template <class KEY> GPU_DEVICE uint32_t query_word(uint32_t pair) {
    if (KEY::bytes == 2) return pair;
    return pair / 8 * 8 + pair % 2 * 4 + pair % 8 / 2;
}

/* Bring the rows of an item into shared memory, [part][room rows], by a whole thread block. */
template <class KEY, int DIM, int PARTS>
GPU_DEVICE void load_queries(const pkvi_gpu_attend& job, const pkvi_gpu_item& item, uint32_t room,
                             uint32_t threads, unsigned char* to) {
    using shape = query_shape<DIM, PARTS>;
    const typename KEY::number number{};
    for (uint32_t i = gpu::thread(); i < room * (DIM / 2); i += threads) {
        const uint32_t row = i / (DIM / 2);
        const uint32_t pair = i % (DIM / 2);
        float first = 0.0F;
        float second = 0.0F;
        if (row < item.rows) {
            const uint64_t index = row_index(job, item, job.q, row) + 2 * pair;
            first = load_element(job.q, index);
            second = load_element(job.q, index + 1);
        }
        uint32_t* word = (uint32_t*)(to + shape::offset(row, query_word<KEY>(pair) * 4));
        const uint32_t rounded = gpu::pack(number, first, second);
        *word = rounded;
        if (PARTS == 2)
            *(uint32_t*)((unsigned char*)word + room * shape::pitch) =
                gpu::pack(number, first - gpu::unpack(number, (uint16_t)rounded),
                          second - gpu::unpack(number, (uint16_t)(rounded >> 16)));
    }
}

/* ---- One step of a warp ---------------------------------------------------------------------- */

/* Rows r and r + 8 of the warp's 16, r = lane / 4, belong to a lane and its three neighbours. */
template <int DIM> struct softmax_state {
    float out[DIM / 8][4];
    float highest[2];
    float sum[2]; /* of this lane's columns */

    GPU_DEVICE void clear() {
#pragma unroll
        for (int i = 0; i < DIM / 8; i++)
            out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0.0F;
        highest[0] = highest[1] = -INFINITY;
        sum[0] = sum[1] = 0.0F;
    }
    /* Of all columns. */
    GPU_DEVICE void finish() {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            sum[h] += gpu::shuffle_xor(sum[h], 1);
            sum[h] += gpu::shuffle_xor(sum[h], 2);
        }
    }
};

/* The dim of out[i][column] in lane c = lane % 4. */
template <class VALUE> GPU_DEVICE uint32_t output_dim(int i, uint32_t column) {
    const uint32_t n = gpu::lane() % 4 * 2 + column;
    if (VALUE::bytes == 2) return (uint32_t)i * 8 + n;
    return (uint32_t)(i / 2) * 16 + 2 * n + (uint32_t)(i % 2);
}

/* What turns products into scores in base 2, and which of them count. */
struct score_rule {
    float factor;  /* scale, times log2(e) where there is no soft cap */
    float softcap; /* 0: none */
    uint32_t window;
    uint32_t sinks;
    uint32_t positions[2];   /* of the lane's two rows */
    const uint32_t* seen[2]; /* of a tree: their bits (pkvi_gpu_node), else NULL */
    uint32_t past;           /* tokens before the tree */
};

/* Of a row, or of the last one where a warp has more rows than there are. */
GPU_DEVICE const pkvi_gpu_node* node_of(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                                        uint32_t row) {
    const uint32_t last = item.row + item.rows - 1;
    return &job.nodes[job.trees[item.entry] + (row < last ? row : last) / job.group_heads];
}

GPU_DEVICE score_rule rule_of(const pkvi_gpu_attend& job, const pkvi_gpu_item& item,
                              uint32_t first_row) {
    const float log2_e = 1.44269504F;
    const uint32_t past =
        job.lengths[item.entry] - (job.starts[item.entry + 1] - job.starts[item.entry]);
    const uint32_t row = item.row + first_row + gpu::lane() / 4;
    score_rule rule = {job.softcap > 0.0F ? job.scale / job.softcap : job.scale * log2_e,
                       job.softcap,
                       job.window,
                       job.sinks,
                       {past + row / job.group_heads, past + (row + 8) / job.group_heads},
                       {nullptr, nullptr},
                       past};
    if (!pkvi_gpu_is_tree(job.trees, item.entry)) return rule;
    for (int half = 0; half < 2; half++) {
        const pkvi_gpu_node* node = node_of(job, item, row + (uint32_t)half * 8);
        rule.positions[half] = node->position;
        rule.seen[half] = node->seen;
    }
    return rule;
}

GPU_DEVICE float cap(float score, float softcap) {
    const float log2_e = 1.44269504F;
    const float power = gpu::exp2(2.0F * log2_e * score);
    return softcap * log2_e * (1.0F - 2.0F / (1.0F + power));
}

GPU_DEVICE bool is_visible(const score_rule& rule, int half, uint32_t token) {
    const uint32_t position = rule.positions[half];
    if (rule.seen[half] != nullptr && token >= rule.past) {
        const uint32_t row = token - rule.past;
        return row < PKVI_GPU_TREE_WORDS * 32 && (rule.seen[half][row / 32] >> row % 32 & 1) != 0;
    }
    if (token > position) return false;
    return rule.window == 0 || position - token < rule.window || token < rule.sinks;
}

/* Scores of the products of Q and K, for 16 tokens. */
template <class KEY, int DIM, int PARTS>
GPU_DEVICE void multiply_keys(const unsigned char* q, uint32_t part_bytes, const unsigned char* k,
                              float (&scores)[2][4]) {
    using query = query_shape<DIM, PARTS>;
    constexpr int bytes = KEY::bytes;
    constexpr int pitch = DIM * bytes + PADDING;
    const typename KEY::number number{};
    const uint32_t lane = gpu::lane();
    const unsigned char* k_row = k + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 16;
    const auto q_offset = [lane](int step) {
        return query::offset(lane % 16, lane / 16 * 16 + (uint32_t)step * 32);
    };
#pragma unroll
    for (int step = 0; step < DIM / 16; step += 3 - bytes) { /* 32 bytes of K */
        uint32_t words[4];
        gpu::load_matrices(words, k_row + step * 16 * bytes);
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            uint32_t a[4];
            gpu::load_matrices(a, q + part * part_bytes + q_offset(step));
            if constexpr (bytes == 2) {
                gpu::multiply_add(number, scores[0], a, words[0], words[1]);
                gpu::multiply_add(number, scores[1], a, words[2], words[3]);
            } else {
                const KEY type{};
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    if (i == 1) gpu::load_matrices(a, q + part * part_bytes + q_offset(step + 1));
                    gpu::multiply_add(number, scores[0], a, expand<0, 1>(type, words[i]),
                                      expand<2, 3>(type, words[i]));
                    gpu::multiply_add(number, scores[1], a, expand<0, 1>(type, words[2 + i]),
                                      expand<2, 3>(type, words[2 + i]));
                }
            }
        }
    }
}

/* Add the products of the weights of 16 tokens, one fragment for each part, and V. */
template <class VALUE, int DIM, int PARTS>
GPU_DEVICE void multiply_values(const uint32_t (&weights)[PARTS][4], const unsigned char* v,
                                float (&out)[DIM / 8][4]) {
    constexpr int bytes = VALUE::bytes;
    constexpr int pitch = DIM * bytes + PADDING;
    const typename VALUE::number number{};
    const uint32_t lane = gpu::lane();
    const unsigned char* v_row = v + lane % 16 * pitch + lane / 16 * 16;
#pragma unroll
    for (int at = 0; at < DIM * bytes; at += 32) { /* bytes of V */
        uint32_t words[4];
        gpu::load_matrices_transposed(words, v_row + at);
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if constexpr (bytes == 2) {
                    gpu::multiply_add(number, out[at / 16 + i], weights[part], words[2 * i],
                                      words[2 * i + 1]);
                } else {
                    const VALUE type{};
                    const int tile = at / 8 + 2 * i;
                    gpu::multiply_add(number, out[tile], weights[part],
                                      expand<0, 2>(type, words[2 * i]),
                                      expand<0, 2>(type, words[2 * i + 1]));
                    gpu::multiply_add(number, out[tile + 1], weights[part],
                                      expand<1, 3>(type, words[2 * i]),
                                      expand<1, 3>(type, words[2 * i + 1]));
                }
            }
    }
}

/* The warp's 16 rows attend to TILES tiles, whose tokens begin at `tokens`; none of a tile that is
 * not there (NO_TILE) is visible. */
static constexpr uint32_t NO_TILE = 0xffffff00U;

template <class TYPES, int DIM, int PARTS, int TILES>
GPU_DEVICE void attend_tiles(const score_rule& rule, const unsigned char* q, uint32_t part_bytes,
                             const unsigned char* tiles, const uint32_t (&tokens)[TILES],
                             softmax_state<DIM>& state) {
    using shape = tile_shape<TYPES, DIM>;
    using key = typename TYPES::key;
    using value = typename TYPES::value;
    const typename value::number number{};
    float scores[TILES][2][4];
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const unsigned char* at = tiles + tile * shape::bytes;
        const float* k_scales = (const float*)(at + shape::k_scale_offset);
#pragma unroll
        for (int i = 0; i < 8; i++)
            scores[tile][i / 4][i % 4] = 0.0F;
        multiply_keys<key, DIM, PARTS>(q, part_bytes, at, scores[tile]);
#pragma unroll
        for (int i = 0; i < 8; i++) { /* columns of two products, for two rows */
            const uint32_t column = (uint32_t)(i / 4 * 8 + i % 2) + gpu::lane() % 4 * 2;
            const int half = i % 4 / 2;
            float score = scores[tile][i / 4][i % 4] * rule.factor;
            if (key::is_scaled) score *= k_scales[column];
            if (rule.softcap > 0.0F) score = cap(score, rule.softcap);
            if (!is_visible(rule, half, tokens[tile] + column)) score = -INFINITY;
            scores[tile][i / 4][i % 4] = score;
            highest[half] = fmaxf(highest[half], score);
        }
    }
    float base[2];
    float correction[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        highest[half] = fmaxf(highest[half], gpu::shuffle_xor(highest[half], 1));
        highest[half] = fmaxf(highest[half], gpu::shuffle_xor(highest[half], 2));
        highest[half] = fmaxf(highest[half], state.highest[half]);
        base[half] = highest[half] == -INFINITY ? 0.0F : highest[half];
        correction[half] = gpu::exp2(state.highest[half] - base[half]);
        state.highest[half] = highest[half];
        state.sum[half] *= correction[half];
    }
    if (gpu::any(correction[0] != 1.0F || correction[1] != 1.0F)) {
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            state.out[i][0] *= correction[0];
            state.out[i][1] *= correction[0];
            state.out[i][2] *= correction[1];
            state.out[i][3] *= correction[1];
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const unsigned char* at = tiles + tile * shape::bytes;
        const float* v_scales = (const float*)(at + shape::v_scale_offset);
        float weights[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t column = (uint32_t)(i / 4 * 8 + i % 2) + gpu::lane() % 4 * 2;
            const int half = i % 4 / 2;
            const float score = scores[tile][i / 4][i % 4];
            weights[i] = gpu::exp2(score - base[half]);
            state.sum[half] += weights[i];
            /* the scale of a slot that is not there is rubbish */
            if (value::is_scaled)
                weights[i] = score == -INFINITY ? 0.0F : weights[i] * v_scales[column];
        }
        uint32_t fragment[PARTS][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            fragment[0][i] = gpu::pack(number, weights[2 * i], weights[2 * i + 1]);
            if (PARTS == 2)
                fragment[PARTS - 1][i] = gpu::pack(
                    number, weights[2 * i] - gpu::unpack(number, (uint16_t)fragment[0][i]),
                    weights[2 * i + 1] - gpu::unpack(number, (uint16_t)(fragment[0][i] >> 16)));
        }
        multiply_values<value, DIM, PARTS>(fragment, at + shape::v_offset, state.out);
    }
}

} // namespace pkvi

#endif
