/* stored.cuh - the types of the cache as kernels see them: their bytes, and what they are multiplied
 * as. */
#ifndef PKVI_DEVICE_CUDA_STORED_CUH
#define PKVI_DEVICE_CUDA_STORED_CUH

#include "device/cuda/machine.h"
#include "pagedkv.h"

namespace pkvi {

template <class NUMBER, int BYTES> struct stored_as {
    using number = NUMBER; /* of the products */
    static constexpr int bytes = BYTES;
    static constexpr bool is_scaled = BYTES == 1;
};
template <uint32_t DTYPE> struct stored;
template <> struct stored<PKV_F16> : stored_as<gpu::f16, 2> {};
template <> struct stored<PKV_BF16> : stored_as<gpu::bf16, 2> {};
template <> struct stored<PKV_I8> : stored_as<gpu::bf16, 1> {};
template <> struct stored<PKV_E4M3> : stored_as<gpu::bf16, 1> {};

/* The types of K and of V of a cache. */
template <uint32_t K_DTYPE, uint32_t V_DTYPE> struct types {
    using key = stored<K_DTYPE>;
    using value = stored<V_DTYPE>;
    /* Are there kernels that multiply queries and weights of f32 in two parts? */
    static constexpr bool has_parts = key::bytes == 2 && value::bytes == 2;
};

/* ---- 8-bit elements -------------------------------------------------------------------------- */

/* Bytes FIRST and SECOND of a word as a pair of bf16. */
template <int FIRST, int SECOND> GPU_DEVICE uint32_t expand(stored<PKV_I8>, uint32_t word) {
    const uint32_t lifted = word ^ 0x80808080U; /* n + 128 */
    const uint32_t bits = 0x4b000000U;          /* 2^23: the integer is in the low byte */
    const float lift = 8388608.0F + 128.0F;
    const float first = gpu::float_of_bits(gpu::permute_bytes(lifted, bits, 0x7650U | FIRST));
    const float second = gpu::float_of_bits(gpu::permute_bytes(lifted, bits, 0x7650U | SECOND));
    return gpu::pack(gpu::bf16(), first - lift, second - lift);
}

/* s eeee mmm -> s 0000 eeee mmm 0000 as bf16, whose exponent has another bias: by 2^120. */
template <int FIRST, int SECOND> GPU_DEVICE uint32_t expand(stored<PKV_E4M3>, uint32_t word) {
    const uint32_t high = gpu::permute_bytes(word, 0, SECOND << 12 | 4 << 8 | FIRST << 4 | 4);
    const uint32_t pair = (high & 0x80008000U) | (high >> 4 & 0x07f007f0U);
    return gpu::multiply_pairs(pair, 0x7b807b80U);
}

} // namespace pkvi

#endif
