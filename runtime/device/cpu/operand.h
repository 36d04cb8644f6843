/* operand.h - elements of the cache as the inner loops multiply them, whatever type they are stored
 * in.
 *
 * An operand is two consecutive elements in each of WIDTH lanes: dims d and d + 1 of WIDTH tokens
 * (K), or tokens t and t + 1 of WIDTH dims (V). How it is multiplied belongs to type and level:
 *
 *   FLOATS   two vectors of f32, fused multiply-add. f32 and f16; and every type where there are
 *            no dot products
 *   BF16S    pairs of bf16, dot products into f32. bf16; and fp8, which is exact in bf16
 *   INT16S   pairs of int16, dot products into int32. i8 and i4; q and weights are rounded to 16
 *            bits, and what is summed is exact
 *
 * Scales of a token stay outside of the loops: those of K multiply scores, those of V weights.
 *
 * fp8 becomes bf16 by shifting its bits into place, without moving the exponent's bias. What comes
 * out is too small by 2^(127 - bias), which FP8_LIFT and fp8_factor make up for; zero stays zero.
 * There are no subnormal numbers of fp8 in the cache (quantise.h). */
#ifndef PKVI_DEVICE_CPU_OPERAND_H
#define PKVI_DEVICE_CPU_OPERAND_H

#include "device/cpu/packed.h"
#include "device/cpu/simd.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL /* checks make unrolled loops so long that compilers take minutes for them */
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* What types are unpacked to when many rows share them, if the cache has no such type. They keep the
 * scales of what they were. */
enum { WIDE_I8 = PKV_I4 + 1, WIDE_I4, DTYPES };

enum arithmetic { FLOATS, BF16S, INT16S };

struct operand {
    vf first;
    vf second;
    vu pairs;
};

/* Of 4-bit values: element = minimum + scale * n. */
struct affine {
    vf scale;
    vf minimum;
};

INLINE bool is_plain(const uint32_t dtype) {
    return dtype == PKV_F32 || dtype == PKV_F16;
}

INLINE bool is_i4(const uint32_t dtype) {
    return dtype == PKV_I4 || dtype == WIDE_I4;
}

INLINE bool is_fp8(const uint32_t dtype) {
    return dtype == PKV_E4M3 || dtype == PKV_E5M2;
}

/* Has a scale for each token and head, which is applied outside of the loops. */
INLINE bool has_token_scale(const uint32_t dtype) {
    return dtype == PKV_I8 || dtype == WIDE_I8 || is_fp8(dtype);
}

INLINE enum arithmetic arithmetic_of(const uint32_t dtype) {
    if (!HAS_DOT || is_plain(dtype)) return FLOATS;
    return dtype == PKV_BF16 || is_fp8(dtype) ? BF16S : INT16S;
}

/* The type that is multiplied as it is stored. */
INLINE uint32_t native_of(const uint32_t dtype) {
    if (arithmetic_of(dtype) == FLOATS) return PKV_F32;
    if (arithmetic_of(dtype) == BF16S) return PKV_BF16;
    return is_i4(dtype) ? WIDE_I4 : WIDE_I8;
}

INLINE size_t bits_of(const uint32_t dtype) {
    return dtype > PKV_I4 ? 16 : pkvi_dtype_bits(dtype);
}

/* Bytes of one element of q or of weights. */
INLINE size_t factor_bytes(const uint32_t dtype) {
    return arithmetic_of(dtype) == FLOATS ? 4 : 2;
}

/* 2^64 goes into the other factor of a product, so that no product is too small for f32; and the
 * rest of 2^(127 - bias) into the result. */
#define FP8_LIFT 0x1p64F
static inline float fp8_factor(const uint32_t dtype) {
    return dtype == PKV_E4M3 ? 0x1p56F : dtype == PKV_E5M2 ? 0x1p48F : 1.0F;
}

static inline float lift_of(const uint32_t dtype) {
    return is_fp8(dtype) ? FP8_LIFT : 1.0F;
}

/* ---- Conversions ----------------------------------------------------------------------------- */

typedef int8_t signed_bytes2 __attribute__((vector_size(WIDTH * 2)));
typedef uint8_t bytes2 __attribute__((vector_size(WIDTH * 2)));
typedef uint16_t words2 __attribute__((vector_size(WIDTH * 4)));
typedef int16_t signed_words2 __attribute__((vector_size(WIDTH * 4)));
typedef uint16_t half __attribute__((vector_size(WIDTH * 2)));

/* 2 * WIDTH codes, each to the top of a 16-bit word. */
INLINE signed_words2 load_high_bytes(const void* from) {
    bytes2 codes;
    memcpy(&codes, from, sizeof codes);
    return (signed_words2)(__builtin_convertvector(codes, words2) << 8);
}

/* s eeee mmm -> s 0000 eeee mmm 0000, and s eeeee mm -> s 000 eeeee mm 00000. */
INLINE vu load_fp8(const uint32_t dtype, const void* from) {
    const signed_words2 high = load_high_bytes(from);
    if (dtype == PKV_E4M3) return (vu)((high >> 4) & (int16_t)0x87f0);
    return (vu)((high >> 3) & (int16_t)0x8fe0);
}

/* Pairs of int8 as floats: a lane holds two bytes. */
INLINE void load_i8(const void* from, vf* first, vf* second) {
    half codes;
    memcpy(&codes, from, sizeof codes);
    const vi lanes = (vi) __builtin_convertvector(codes, vu);
    *first = __builtin_convertvector((lanes << 24) >> 24, vf);
    *second = __builtin_convertvector((lanes << 16) >> 24, vf);
}

/* Pairs of int8 as pairs of int16. */
INLINE vu load_i8_pairs(const void* from) {
    signed_bytes2 codes;
    memcpy(&codes, from, sizeof codes);
    return (vu) __builtin_convertvector(codes, signed_words2);
}

/* Number `pair` of the pairs of 4-bit values in each word (packed.h). */
INLINE vu split_i4(vu words, uint32_t pair) {
    return (words >> (4 * pair)) & 0x000f000fU;
}

/* ---- Loading --------------------------------------------------------------------------------- */

/* The operand whose first elements begin at `at`; the second ones of plain types are `second_bytes`
 * behind. 4-bit values: the words begin at `at`. */
INLINE struct operand load_operand(const uint32_t dtype, const unsigned char* at,
                                   size_t second_bytes, uint32_t pair, struct affine first,
                                   struct affine second) {
    struct operand result = {0};
    if (dtype == PKV_F32) {
        result.first = v_load(at);
        result.second = v_load(at + second_bytes);
        return result;
    }
    if (dtype == PKV_F16) {
        result.first = v_load_f16(at);
        result.second = v_load_f16(at + second_bytes);
        return result;
    }
    if (dtype == PKV_I4) {
        result.pairs = split_i4(v_load_words(at), pair);
        if (HAS_DOT) return result;
        const vf n = __builtin_convertvector((vi)(result.pairs & 0xffffU), vf);
        const vf m = __builtin_convertvector((vi)(result.pairs >> 16), vf);
        result.first = v_fma(n, first.scale, first.minimum);
        result.second = v_fma(m, second.scale, second.minimum);
        return result;
    }
    if (dtype == PKV_I8) {
        if (HAS_DOT)
            result.pairs = load_i8_pairs(at);
        else
            load_i8(at, &result.first, &result.second);
        return result;
    }
    result.pairs = is_fp8(dtype) ? load_fp8(dtype, at) : v_load_words(at);
    if (!HAS_DOT) {
        result.first = v_first(result.pairs);
        result.second = v_second(result.pairs);
    }
    return result;
}

/* Byte offset, inside a run of `stride` lanes for each element, of the operand of elements e, e + 1
 * (e even) and lanes from `lane` on. K: elements are dims and lanes tokens; V: the other way. */
INLINE size_t operand_offset(const uint32_t dtype, size_t stride, uint32_t e, size_t lane) {
    if (dtype == PKV_I4) return (e / 8 * stride + lane) * 4;
    if (is_plain(dtype)) return (e * stride + lane) * bits_of(dtype) / 8;
    return (e * stride + 2 * lane) * bits_of(dtype) / 8;
}

INLINE struct operand load_k(const uint32_t dtype, const unsigned char* tile, uint32_t d, int lane,
                             struct affine affine) {
    const size_t at = operand_offset(dtype, PKVI_TILE_TOKENS, d, (size_t)lane);
    return load_operand(dtype, tile + at, PKVI_TILE_TOKENS * bits_of(dtype) / 8, d % 8 / 2, affine,
                        affine);
}

INLINE struct operand load_v(const uint32_t dtype, const unsigned char* tile, uint32_t value_dim,
                             uint32_t t, uint32_t d, struct affine first, struct affine second) {
    const size_t at = operand_offset(dtype, value_dim, t, d);
    return load_operand(dtype, tile + at, value_dim * bits_of(dtype) / 8, t % 8 / 2, first, second);
}

/* sum + operand * (factor 0, factor 1), which are two floats, bf16 or int16 at `factors`. Floats in
 * two halves: first all first elements and then all second ones, so that few are in registers. */
INLINE vf v_multiply_add(const enum arithmetic arithmetic, const int half, const bool many_sums,
                         struct operand operand, const void* factors, vf sum) {
    if (arithmetic == FLOATS) {
        const float* two = factors;
        return v_fma(half == 0 ? operand.first : operand.second, v_set(two[half]), sum);
    }
    uint32_t pair;
    memcpy(&pair, factors, sizeof pair);
    if (arithmetic == BF16S) return v_dot_bf16(sum, operand.pairs, (vu){0} + pair);
    return v_dot_int16(sum, operand.pairs, (vu){0} + pair, many_sums);
}

/* The sum that v_multiply_add has made, as floats. */
INLINE vf v_total(const enum arithmetic arithmetic, vf sum) {
    return arithmetic == INT16S ? __builtin_convertvector((vi)sum, vf) : sum;
}

#endif
