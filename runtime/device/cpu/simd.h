/* simd.h - the vocabulary that the kernels are written in: one vector of WIDTH floats.
 *
 * Arithmetic uses the compiler's vector types; what they cannot say (fused multiply-add, maximum,
 * f16) is an intrinsic for each instruction set. Include it after the level has been chosen by one
 * of PKVI_LEVEL_AVX512, PKVI_LEVEL_AVX2, PKVI_LEVEL_NEON, PKVI_LEVEL_SCALAR.
 *
 * Fused multiply-add is always explicit and the build forbids contraction, so that the same
 * row gives the same bits in whichever instance of a kernel it is computed. */
#ifndef PKVI_DEVICE_CPU_SIMD_H
#define PKVI_DEVICE_CPU_SIMD_H

#include "device/cpu/element.h"

#if defined(PKVI_LEVEL_AVX512) || defined(PKVI_LEVEL_AVX2)
#include <immintrin.h>
#elif defined(PKVI_LEVEL_NEON)
#include <arm_neon.h>
#endif

/* Floats of a vector; sums that the inner loops keep in registers; whether there are dot products
 * of bf16 pairs (PKVI_LEVEL_DOT). */
#if defined(PKVI_LEVEL_AVX512)
enum { WIDTH = 16, SUMS_MAX = 24 };
#elif defined(PKVI_LEVEL_AVX2)
enum { WIDTH = 8, SUMS_MAX = 12 };
#elif defined(PKVI_LEVEL_NEON)
enum { WIDTH = 4, SUMS_MAX = 24 };
#else
enum { WIDTH = 4, SUMS_MAX = 8 };
#endif
#if defined(PKVI_LEVEL_DOT)
enum { HAS_DOT = 1 };
#else
enum { HAS_DOT = 0 };
#endif

typedef float vf __attribute__((vector_size(WIDTH * 4)));
typedef int32_t vi __attribute__((vector_size(WIDTH * 4)));
typedef uint32_t vu __attribute__((vector_size(WIDTH * 4)));

static inline vf v_load(const void* from) {
    vf result;
    memcpy(&result, from, sizeof result);
    return result;
}

static inline void v_store(float* to, vf value) {
    memcpy(to, &value, sizeof value);
}

static inline vf v_set(float value) {
    return (vf){0} + value;
}

/* Lane by lane: mask ? a : b; a mask is all ones or all zeros, as comparisons give it. */
static inline vf v_select(vi mask, vf a, vf b) {
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

static inline vf v_fma(vf a, vf b, vf c) {
#if defined(PKVI_LEVEL_AVX512)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(PKVI_LEVEL_AVX2)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(PKVI_LEVEL_NEON)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

static inline vf v_max(vf a, vf b) {
#if defined(PKVI_LEVEL_AVX512)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(PKVI_LEVEL_AVX2)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(PKVI_LEVEL_NEON)
    return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return v_select(a > b, a, b);
#endif
}

/* WIDTH consecutive f16. */
static inline vf v_load_f16(const void* from) {
#if defined(PKVI_LEVEL_AVX512)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(from));
#elif defined(PKVI_LEVEL_AVX2)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(from));
#elif defined(PKVI_LEVEL_NEON)
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#else
    vf result;
    for (int i = 0; i < WIDTH; i++)
        result[i] = pkvi_f16_to_float(((const uint16_t*)from)[i]);
    return result;
#endif
}

/* WIDTH consecutive bf16. Compilers make several instructions of the conversion that x86 has one for. */
static inline vf v_load_bf16(const void* from) {
#if defined(PKVI_LEVEL_AVX512)
    return (vf)((vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256(from)) << 16);
#elif defined(PKVI_LEVEL_AVX2)
    return (vf)((vu)_mm256_cvtepu16_epi32(_mm_loadu_si128(from)) << 16);
#else
    typedef uint16_t half __attribute__((vector_size(WIDTH * 2)));
    half bits;
    memcpy(&bits, from, sizeof bits);
    return (vf)(__builtin_convertvector(bits, vu) << 16);
#endif
}

/* ---- Pairs of bf16: one 32-bit lane each ----------------------------------------------------- */

static inline vu v_load_words(const void* from) {
    vu result;
    memcpy(&result, from, sizeof result);
    return result;
}

static inline vf v_first(vu pairs) {
    return (vf)(pairs << 16);
}

static inline vf v_second(vu pairs) {
    return (vf)(pairs & 0xffff0000U);
}

/* sum + first * first + second * second of bf16, in f32. Numbers below the smallest normal one count
 * as zero. Only where HAS_DOT, as is the next. */
static inline vf v_dot_bf16(vf sum, vu a, vu b) {
#if defined(PKVI_LEVEL_DOT)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return v_fma(v_second(a), v_second(b), v_fma(v_first(a), v_first(b), sum));
#endif
}

/* The same of int16, in int32, whose bits the lanes of `sum` hold. With many sums gcc 12 copies
 * registers to and fro where types change, but not when it is given the instruction (`in_place`);
 * with few sums it does better on its own. */
static inline vf v_dot_int16(vf sum, vu a, vu b, const bool in_place) {
#if defined(PKVI_LEVEL_DOT)
    if (!in_place) return (vf)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    (void)in_place;
    return (vf)((vi)sum + ((vi)a >> 16) * ((vi)b >> 16) +
                ((vi)(a << 16) >> 16) * ((vi)(b << 16) >> 16));
#endif
}

/* Store WIDTH floats as bf16, rounded to nearest even. */
static inline void v_store_bf16(uint16_t* to, vf value) {
#if defined(PKVI_LEVEL_DOT)
    const __m256bh half = _mm512_cvtneps_pbh((__m512)value);
    memcpy(to, &half, sizeof half);
#else
    for (int i = 0; i < WIDTH; i++)
        to[i] = pkvi_float_to_bf16(value[i]);
#endif
}

/* Store WIDTH floats below 2^15 as int16, rounded to nearest even. */
static inline void v_store_int16(int16_t* to, vf value) {
    typedef int16_t words __attribute__((vector_size(WIDTH * 2)));
    const float magic = 0x1.8p23F;
    const words rounded = __builtin_convertvector((vi)(value + magic) - (vi)v_set(magic), words);
    memcpy(to, &rounded, sizeof rounded);
}

static inline vf v_abs(vf value) {
    return (vf)((vi)value & 0x7fffffff);
}

/* Across the lanes, always in the same order. */
static inline float v_reduce_max(vf value) {
#if defined(PKVI_LEVEL_AVX512)
    return _mm512_reduce_max_ps((__m512)value);
#elif defined(PKVI_LEVEL_NEON)
    return vmaxvq_f32((float32x4_t)value);
#else
    float lanes[WIDTH];
    v_store(lanes, value);
    for (int half = WIDTH / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    return lanes[0];
#endif
}

static inline float v_reduce_add(vf value) {
#if defined(PKVI_LEVEL_AVX512)
    return _mm512_reduce_add_ps((__m512)value);
#elif defined(PKVI_LEVEL_NEON)
    return vaddvq_f32((float32x4_t)value);
#else
    float lanes[WIDTH];
    v_store(lanes, value);
    for (int half = WIDTH / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
#endif
}

/* One head of one row of an array, `dim` elements, as floats; and back. */
static inline void v_load_row(const pkv_array* array, uint64_t row, uint64_t head, uint32_t dim,
                              float* to) {
    const uint64_t first = row * array->row_stride + head * array->head_stride;
    const float* f32 = (const float*)array->data + first;
    const uint16_t* u16 = (const uint16_t*)array->data + first;
    for (uint32_t d = 0; d < dim; d += WIDTH) {
        if (array->dtype == PKV_F32)
            v_store(to + d, v_load(f32 + d));
        else if (array->dtype == PKV_F16)
            v_store(to + d, v_load_f16(u16 + d));
        else
            v_store(to + d, v_load_bf16(u16 + d));
    }
}

static inline void v_store_row(const pkv_array* array, uint64_t row, uint64_t head, uint32_t dim,
                               const float* from) {
    if (array->dtype == PKV_F32) {
        const uint64_t first = row * array->row_stride + head * array->head_stride;
        memcpy((float*)array->data + first, from, dim * sizeof *from);
        return;
    }
    for (uint32_t d = 0; d < dim; d++)
        pkvi_array_set(array, row, head, d, from[d]);
}

/* The nearest integer, and value * 2^n for an integer n from -160 on; what is below the smallest
 * normal number may become 0. */
static inline vf v_round(vf value) {
#if defined(PKVI_LEVEL_AVX512)
    return (vf)_mm512_roundscale_ps((__m512)value, 0);
#else
    return (value + 0x1.8p23F) - 0x1.8p23F; /* moves the fraction out of the number */
#endif
}

static inline vf v_scale(vf value, vf n) {
#if defined(PKVI_LEVEL_AVX512)
    return (vf)_mm512_scalef_ps((__m512)value, (__m512)n);
#else
    const vf clamped = v_max(n, v_set(-126.0F));
    const vu exponent = (vu)(clamped + 0x1.8p23F) << 23; /* wraps when n is negative */
    return v_select(n < -126.0F, v_set(0.0F), (vf)((vu)value + exponent));
#endif
}

/* 2^x for x <= 0.
 *
 * x = n + r with |r| <= 1/2; 2^r by the polynomial of degree 5 that is 1 at 0 and whose largest
 * relative error is the smallest possible (below 2^-23). */
static inline vf v_exp2(vf x) {
    const vf clamped = v_max(x, v_set(-160.0F));
    const vf n = v_round(clamped);
    const vf r = clamped - n;
    vf sum = v_set(0x1.5bba14p-10F);
    sum = v_fma(sum, r, v_set(0x1.3cea88p-7F));
    sum = v_fma(sum, r, v_set(0x1.c6b752p-5F));
    sum = v_fma(sum, r, v_set(0x1.ebf9bcp-3F));
    sum = v_fma(sum, r, v_set(0x1.62e42ap-1F));
    sum = v_fma(sum, r, v_set(1.0F));
    return v_scale(sum, n);
}

/* tanh(x): by e^-2|x| away from 0, by its continued fraction where that would cancel. */
static inline vf v_tanh(vf x) {
    const vf magnitude = (vf)((vi)x & 0x7fffffff);
    const vf e = v_exp2(magnitude * -0x1.715476p+1F);
    const vf far = (1.0F - e) / (1.0F + e);
    const vf square = x * x;
    vf near = v_fma(square, v_set(1.0F), v_set(378.0F));
    near = v_fma(near, square, v_set(17325.0F));
    near = v_fma(near, square, v_set(135135.0F));
    vf below = v_fma(square, v_set(28.0F), v_set(3150.0F));
    below = v_fma(below, square, v_set(62370.0F));
    below = v_fma(below, square, v_set(135135.0F));
    near = magnitude * near / below;
    const vf result = v_select(magnitude < 0.625F, near, far);
    return (vf)((vi)result | ((vi)x & INT32_MIN));
}

#endif
