/* test_quantise.c - the codec of the scaled types: each number becomes the nearest one that its
 * row's scale can express, scales are as small as they may be, and what is decoded can be encoded
 * again. */
#include "device/cpu/quantise.h"

#include "base/hash.h"
#include "unit.h"

enum { ROWS = 3000, DIM = 112 }; /* three groups of 32 dims and one of 16 */

static const uint32_t scaled[] = {PKV_I8, PKV_E4M3, PKV_E5M2, PKV_I4};

#define FOR_EACH_SCALED(dtype)                                                                     \
    for (uint32_t i_ = 0, dtype = scaled[0]; i_ < 4; dtype = scaled[++i_ % 4])

struct encoded {
    unsigned char codes[PKV_HEAD_DIM_MAX];
    struct pkvi_scale scales[PKVI_SCALE_GROUPS_MAX];
};

static float uniform(uint64_t* random) {
    return (float)(pkvi_random_next(random) >> 40) / 0x1p23F - 1.0F;
}

/* Rows of every kind: magnitudes from 2^-40 to 2^14, offsets, zeros, few distinct numbers. */
static void draw_row(uint64_t* random, float* row) {
    const float size = ldexpf(1.0F, (int)(pkvi_random_next(random) % 55) - 40);
    const uint32_t kind = (uint32_t)(pkvi_random_next(random) % 4);
    const float offset = kind == 1 ? 3.0F * uniform(random) : 0.0F;
    for (uint32_t d = 0; d < DIM; d++) {
        row[d] = size * (offset + uniform(random));
        if (kind == 2 && pkvi_random_next(random) % 3 == 0) row[d] = 0.0F;
        if (kind == 3) row[d] = size * floorf(3.0F * uniform(random));
    }
}

static float decoded(uint32_t dtype, const struct encoded* row, uint32_t d) {
    return pkvi_dequantise(dtype, row->codes[d], row->scales[pkvi_scale_index(dtype, d)]);
}

static float magnitude_of(const float* row, uint32_t begin, uint32_t end) {
    float highest = 0.0F;
    for (uint32_t d = begin; d < end; d++)
        highest = fmaxf(highest, fabsf(row[d]));
    return highest;
}

/* The number of code `code` of a row of scale 1, from the definition of the types. */
static double number_of(uint32_t dtype, uint32_t code) {
    const struct pkvi_minifloat type = pkvi_minifloat_of(dtype);
    const uint32_t fraction = code & ((1U << type.fraction_bits) - 1);
    const int exponent = (int)(code & 0x7f) >> type.fraction_bits;
    const double sign = code & 0x80 ? -1.0 : 1.0;
    if (dtype == PKV_I8) return code < 128 ? code : (double)code - 256;
    if (exponent == 0) return sign * 0.0;
    return sign * ldexp(1.0 + ldexp(fraction, -type.fraction_bits), exponent - type.bias);
}

/* Codes that may be stored: neither subnormal nor beyond the largest number. */
static bool is_stored(uint32_t dtype, uint32_t code) {
    const struct pkvi_minifloat type = pkvi_minifloat_of(dtype);
    if (dtype == PKV_I8) return code != 128;
    if ((code & 0x7f) != 0 && (code & 0x7f) >> type.fraction_bits == 0) return false;
    return fabs(number_of(dtype, code)) <= (double)type.largest;
}

static double nearest_distance(uint32_t dtype, double value) {
    double best = INFINITY;
    for (uint32_t code = 0; code < 256; code++)
        if (is_stored(dtype, code)) best = fmin(best, fabs(number_of(dtype, code) - value));
    return best;
}

/* ---- Codes ----------------------------------------------------------------------------------- */

TEST(every_code_is_decoded_as_its_type_says) {
    const struct pkvi_scale one = {1.0F, 0.0F};
    for (uint32_t dtype = PKV_I8; dtype <= PKV_E5M2; dtype++)
        for (uint32_t code = 0; code < 256; code++)
            if (is_stored(dtype, code))
                ASSERT((double)pkvi_dequantise(dtype, (unsigned char)code, one) ==
                       number_of(dtype, code));
    ASSERT(number_of(PKV_E4M3, 0x7e) == 448.0);
    ASSERT(number_of(PKV_E4M3, 0x08) == 0x1p-6);
    ASSERT(number_of(PKV_E5M2, 0x7b) == 57344.0);
    ASSERT(number_of(PKV_E5M2, 0x84) == -0x1p-14);
    ASSERT(pkvi_dequantise(PKV_I4, 9, (struct pkvi_scale){0.5F, -2.0F}) == 2.5F);
}

TEST(numbers_become_the_nearest_ones) {
    uint64_t random = 1;
    for (uint32_t dtype = PKV_I8; dtype <= PKV_E5M2; dtype++)
        for (uint32_t i = 0; i < ROWS / 10; i++) {
            float row[DIM];
            struct encoded encoded;
            draw_row(&random, row);
            ASSERT(pkvi_quantise(dtype, row, DIM, encoded.codes, encoded.scales));
            const double scale = (double)encoded.scales[0].scale;
            for (uint32_t d = 0; d < DIM && scale > 0.0; d++) {
                const double wanted = (double)row[d] / scale;
                const double got = number_of(dtype, encoded.codes[d]);
                ASSERT(is_stored(dtype, encoded.codes[d]));
                ASSERT_NEAR(fabs(got - wanted), nearest_distance(dtype, wanted),
                            1e-6 * fabs(wanted));
            }
        }
}

TEST(numbers_of_i4_are_half_a_step_off_at_most) {
    uint64_t random = 2;
    for (uint32_t i = 0; i < ROWS; i++) {
        float row[DIM];
        struct encoded encoded;
        draw_row(&random, row);
        ASSERT(pkvi_quantise(PKV_I4, row, DIM, encoded.codes, encoded.scales));
        for (uint32_t d = 0; d < DIM; d++) {
            const struct pkvi_scale scale = encoded.scales[d / 32];
            ASSERT_LE(encoded.codes[d], 15);
            ASSERT_NEAR((double)decoded(PKV_I4, &encoded, d), (double)row[d],
                        0.50002 * (double)scale.scale + 1e-6 * fabs((double)row[d]));
        }
    }
}

/* ---- Scales ---------------------------------------------------------------------------------- */

TEST(the_largest_number_has_the_largest_code) {
    static const double largest[] = {127.0, 448.0, 57344.0};
    uint64_t random = 3;
    for (uint32_t dtype = PKV_I8; dtype <= PKV_E5M2; dtype++)
        for (uint32_t i = 0; i < ROWS; i++) {
            float row[DIM];
            struct encoded encoded;
            draw_row(&random, row);
            ASSERT(pkvi_quantise(dtype, row, DIM, encoded.codes, encoded.scales));
            const double exact = (double)magnitude_of(row, 0, DIM) / largest[dtype - PKV_I8];
            ASSERT((double)encoded.scales[0].scale >= exact * (1.0 - 0x1p-24));
            ASSERT((double)encoded.scales[0].scale <= exact * (1.0 + 0x1p-15));
            double highest = 0.0;
            for (uint32_t d = 0; d < DIM; d++)
                highest = fmax(highest, fabs(number_of(dtype, encoded.codes[d])));
            if (exact > 0.0) ASSERT(highest == largest[dtype - PKV_I8]);
        }
}

/* The step before would cut the highest number off, and the minimum after this one the lowest. */
TEST(scales_of_i4_are_f16_and_as_small_as_they_may_be) {
    uint64_t random = 4;
    for (uint32_t i = 0; i < ROWS; i++) {
        float row[DIM];
        struct encoded encoded;
        draw_row(&random, row);
        ASSERT(pkvi_quantise(PKV_I4, row, DIM, encoded.codes, encoded.scales));
        for (uint32_t g = 0; g < 4; g++) {
            const uint32_t end = g < 3 ? 32 * (g + 1) : DIM;
            const struct pkvi_scale scale = encoded.scales[g];
            float lowest = row[32 * g];
            float highest = row[32 * g];
            for (uint32_t d = 32 * g; d < end; d++) {
                lowest = fminf(lowest, row[d]);
                highest = fmaxf(highest, row[d]);
            }
            const uint16_t bits = pkvi_float_to_f16(scale.scale);
            const uint16_t minimum_bits = pkvi_float_to_f16(scale.minimum);
            ASSERT(pkvi_f16_to_float(bits) == scale.scale);
            ASSERT(pkvi_f16_to_float(minimum_bits) == scale.minimum);
            ASSERT(scale.minimum <= lowest);
            const uint16_t next = minimum_bits == 0       ? 1
                                  : minimum_bits & 0x8000 ? (uint16_t)(minimum_bits - 1)
                                                          : (uint16_t)(minimum_bits + 1);
            ASSERT(pkvi_f16_to_float(next) > lowest);
            const double spread = (double)highest - (double)scale.minimum;
            ASSERT(15.0 * (double)scale.scale >= spread * (1.0 - 0x1p-19));
            if (bits > 0) ASSERT(15.0 * (double)pkvi_f16_to_float((uint16_t)(bits - 1)) <= spread);
        }
    }
}

TEST(zeros_and_what_is_nearly_zero_are_stored_as_zeros) {
    static const float none[DIM] = {0.0F};
    static const float tiny[DIM] = {0x1p-97F, -0x1.8p-97F, 0x1p-149F};
    FOR_EACH_SCALED(dtype) {
        struct encoded encoded;
        memset(&encoded, 0xff, sizeof encoded);
        ASSERT(pkvi_quantise(dtype, none, DIM, encoded.codes, encoded.scales));
        for (uint32_t d = 0; d < DIM; d++)
            ASSERT(decoded(dtype, &encoded, d) == 0.0F);
        ASSERT(pkvi_quantise(dtype, tiny, DIM, encoded.codes, encoded.scales));
        for (uint32_t d = 0; d < DIM; d++)
            ASSERT_NEAR(decoded(dtype, &encoded, d), 0.0, dtype == PKV_I4 ? 0x1p-23 : 0.0);
        const struct pkvi_scale zero = {0.0F, 0.0F};
        ASSERT(pkvi_dequantise(dtype, 0, zero) == 0.0F);
    }
}

/* ---- Again ----------------------------------------------------------------------------------- */

/* May a group of i4 be encoded again without a change? See Q2. */
static bool is_wide(const float* row, uint32_t begin, uint32_t end) {
    float lowest = row[begin];
    float highest = row[begin];
    for (uint32_t d = begin; d < end; d++) {
        lowest = fminf(lowest, row[d]);
        highest = fmaxf(highest, row[d]);
    }
    return highest - lowest > magnitude_of(row, begin, end) / 32 && highest - lowest > 0x1p-9F;
}

TEST(what_was_decoded_is_encoded_the_same_way) {
    uint64_t random = 5;
    uint32_t groups = 0;
    FOR_EACH_SCALED(dtype)
    for (uint32_t i = 0; i < ROWS; i++) {
        float row[DIM];
        float back[DIM];
        struct encoded first;
        struct encoded again;
        draw_row(&random, row);
        ASSERT(pkvi_quantise(dtype, row, DIM, first.codes, first.scales));
        for (uint32_t d = 0; d < DIM; d++)
            back[d] = decoded(dtype, &first, d);
        ASSERT(pkvi_quantise(dtype, back, DIM, again.codes, again.scales));
        if (dtype != PKV_I4) {
            ASSERT(first.scales[0].scale == again.scales[0].scale);
            ASSERT_MEM(first.codes, again.codes, DIM);
            continue;
        }
        for (uint32_t g = 0; g < 4; g++) {
            const uint32_t end = g < 3 ? 32 * (g + 1) : DIM;
            if (!is_wide(row, 32 * g, end)) continue;
            groups++;
            ASSERT(first.scales[g].scale == again.scales[g].scale);
            ASSERT(first.scales[g].minimum == again.scales[g].minimum);
            ASSERT_MEM(first.codes + 32 * g, again.codes + 32 * g, end - 32 * g);
        }
    }
    ASSERT_GT(groups, ROWS);
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static bool is_taken(uint32_t dtype, float number, uint32_t at) {
    float row[DIM] = {1.0F};
    struct encoded encoded;
    row[at] = number;
    return pkvi_quantise(dtype, row, DIM, encoded.codes, encoded.scales);
}

TEST(numbers_that_are_not_finite_are_refused) {
    FOR_EACH_SCALED(dtype)
    for (uint32_t at = 0; at < DIM; at += 37) {
        ASSERT(is_taken(dtype, 1000.0F, at));
        ASSERT(!is_taken(dtype, NAN, at));
        ASSERT(!is_taken(dtype, -NAN, at));
        ASSERT(!is_taken(dtype, INFINITY, at));
        ASSERT(!is_taken(dtype, -INFINITY, at));
    }
}

TEST(numbers_that_the_type_cannot_express_are_refused) {
    for (uint32_t dtype = PKV_I8; dtype <= PKV_E5M2; dtype++) {
        ASSERT(is_taken(dtype, 0x1p127F, 5));
        ASSERT(!is_taken(dtype, -0x1.fffffep127F, 5)); /* its scale is rounded up */
    }
    ASSERT(is_taken(PKV_I4, -65504.0F, 5));
    ASSERT(!is_taken(PKV_I4, -65505.0F, 5));
    ASSERT(is_taken(PKV_I4, 980000.0F, 5)); /* 15 steps of up to 65504 */
    ASSERT(!is_taken(PKV_I4, 990000.0F, 5));
}

/* The mean of 0..15, each exact in 4 bits, beside a group of dims with steps of 1333. */
TEST(small_groups_of_i4_keep_their_bits_beside_large_ones) {
    pkv_config config;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.blocks = 1;
    config.faults = "";
    config.groups[0] = (pkv_group_config){
        .layers = 1, .kv_heads = 1, .key_dim = 16, .value_dim = 64, .v_dtype = PKV_I4};
    pkv_cache* cache;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    float k[16][16] = {{0.0F}}; /* and q: all tokens weigh the same */
    float v[16][64];
    float out[16][64];
    for (int t = 0; t < 16; t++)
        for (int d = 0; d < 64; d++)
            v[t][d] = d >= 32 ? (float)((t + d) % 16) : d % 2 ? 10000.0F : -10000.0F;
    pkv_seq seq;
    pkv_plan plan;
    ASSERT_OK(pkv_seq_create(cache, 0, &seq));
    const pkv_entry entry = {seq, NULL, 16};
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, &plan));
    ASSERT_OK(pkv_write(cache, plan, 0, &(pkv_array){.data = k}, &(pkv_array){.data = v}));
    const pkv_attention attention = {.q = {.data = k}, .out = {.data = out}, .query_heads = 1};
    ASSERT_OK(pkv_attend(cache, plan, 0, &attention));
    for (int d = 32; d < 64; d++)
        ASSERT_NEAR((double)out[15][d], 7.5, 1e-3);
    pkv_cache_destroy(cache);
}
