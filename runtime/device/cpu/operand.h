/* operand.h - elements of the cache as the inner loops multiply them, whatever type they are stored
 * in.
 *
 * An operand is two consecutive elements in each of WIDTH lanes: dims d and d + 1 of WIDTH tokens
 * (K), or tokens t and t + 1 of WIDTH dims (V). Its form belongs to the type and the level:
 *
 *   floats   two vectors of f32: f32 and f16 always, and every type where there are no dot products
 *   pairs    one vector of bf16 pairs for a dot-product instruction: all other types
 *
 * Integers and fp8 are exact in bf16, so scales stay outside of the loops: those of K multiply
 * scores, those of V multiply weights. 4-bit values are scaled here, by group.
 *
 * fp8 becomes bf16 by shifting its bits into place, without moving the exponent's bias. What comes
 * out is too small by 2^(127 - bias), which FP8_LIFT and fp8_factor make up for; zero stays zero.
 * There are no subnormal numbers of fp8 in the cache (quantise.h). */
#ifndef PKVI_DEVICE_CPU_OPERAND_H
#define PKVI_DEVICE_CPU_OPERAND_H

#include "device/cpu/packed.h"
#include "device/cpu/simd.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

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

INLINE bool uses_dot(const uint32_t dtype) {
    return HAS_DOT && !is_plain(dtype);
}

/* The type that `dtype` is unpacked to when many rows share it: multiplied as it is stored. */
INLINE uint32_t native_of(const uint32_t dtype) {
    return uses_dot(dtype) ? PKV_BF16 : PKV_F32;
}

INLINE bool is_fp8(const uint32_t dtype) {
    return dtype == PKV_E4M3 || dtype == PKV_E5M2;
}

/* Has a scale for each token and head, which is applied outside of the loops. */
INLINE bool has_token_scale(const uint32_t dtype) {
    return dtype == PKV_I8 || is_fp8(dtype);
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
    const vi lanes = (vi)__builtin_convertvector(codes, vu);
    *first = __builtin_convertvector((lanes << 24) >> 24, vf);
    *second = __builtin_convertvector((lanes << 16) >> 24, vf);
}

/* Pairs of int8 as bf16: exact. */
INLINE vu load_i8_pairs(const void* from) {
#if defined(PKVI_LEVEL_DOT)
    const __m128i* bytes = from;
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes + 1)));
    return (vu)_mm512_cvtne2ps_pbh(high, low);
#else
    vf first;
    vf second;
    load_i8(from, &first, &second);
    return v_pair(first, second);
#endif
}

/* Number `pair` of the pairs of 4-bit values in each word (packed.h). */
INLINE void split_i4(vu words, uint32_t pair, vf* first, vf* second) {
    const vi fields = (vi)((words >> (4 * pair)) & 0x000f000fU);
    *first = __builtin_convertvector(fields & 0xffff, vf);
    *second = __builtin_convertvector(fields >> 16, vf);
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
        vf a;
        vf b;
        split_i4(v_load_words(at), pair, &a, &b);
        result.first = v_fma(a, first.scale, first.minimum);
        result.second = v_fma(b, second.scale, second.minimum);
        if (HAS_DOT) result.pairs = v_pair(result.first, result.second);
        return result;
    }
    if (dtype == PKV_I8 && !HAS_DOT) {
        load_i8(at, &result.first, &result.second);
        return result;
    }
    result.pairs = dtype == PKV_BF16 ? v_load_words(at)
                   : dtype == PKV_I8 ? load_i8_pairs(at)
                                     : load_fp8(dtype, at);
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
    if (is_plain(dtype)) return (e * stride + lane) * pkvi_dtype_bits(dtype) / 8;
    return (e * stride + 2 * lane) * pkvi_dtype_bits(dtype) / 8;
}

INLINE struct operand load_k(const uint32_t dtype, const unsigned char* tile, uint32_t d, int lane,
                             struct affine affine) {
    const size_t at = operand_offset(dtype, PKVI_TILE_TOKENS, d, (size_t)lane);
    return load_operand(dtype, tile + at, PKVI_TILE_TOKENS * pkvi_dtype_bits(dtype) / 8, d % 8 / 2, affine,
                        affine);
}

INLINE struct operand load_v(const uint32_t dtype, const unsigned char* tile, uint32_t value_dim,
                             uint32_t t, uint32_t d, struct affine first, struct affine second) {
    const size_t at = operand_offset(dtype, value_dim, t, d);
    return load_operand(dtype, tile + at, value_dim * pkvi_dtype_bits(dtype) / 8, t % 8 / 2, first, second);
}

/* sum + operand * (factor 0, factor 1), for a float or bf16 pair at `factors`. */
INLINE vf v_multiply_add(const bool dot, struct operand operand, const void* factors, vf sum) {
    if (dot) {
        uint32_t pair;
        memcpy(&pair, factors, sizeof pair);
        return v_dot(sum, operand.pairs, (vu){0} + pair);
    }
    const float* two = factors;
    return v_fma(operand.second, v_set(two[1]), v_fma(operand.first, v_set(two[0]), sum));
}

#endif
