/* test_hash.c - SipHash-1-3 against a slow implementation made from the paper's text, and SplitMix64.
 *
 * The slow one takes the numbers of rounds as parameters, so that it can itself be held against the published
 * vector of SipHash-2-4 before it judges. Five more values come from another program: hash() of bytes in
 * CPython 3.11, whose default is SipHash-1-3, with the key 0. */
#include "base/hash.h"
#include "unit.h"

/* ---- The slow implementation: bits and bytes one at a time ------------------------------------- */

static uint64_t turn_left(uint64_t value, int bits) {
    for (int i = 0; i < bits; i++) {
        const uint64_t top = value >> 63;
        value = value << 1 | top;
    }
    return value;
}

static void slow_rounds(uint64_t v[4], int count) {
    for (int i = 0; i < count; i++) {
        v[0] = v[0] + v[1], v[1] = turn_left(v[1], 13), v[1] = v[1] ^ v[0],
        v[0] = turn_left(v[0], 32);
        v[2] = v[2] + v[3], v[3] = turn_left(v[3], 16), v[3] = v[3] ^ v[2];
        v[0] = v[0] + v[3], v[3] = turn_left(v[3], 21), v[3] = v[3] ^ v[0];
        v[2] = v[2] + v[1], v[1] = turn_left(v[1], 17), v[1] = v[1] ^ v[2],
        v[2] = turn_left(v[2], 32);
    }
}

/* Byte `at` of the message as it is padded: zeros, then the length in the very last byte. */
static uint64_t padded_byte(const unsigned char* data, size_t bytes, size_t at) {
    if (at < bytes) return data[at];
    return at == bytes / 8 * 8 + 7 ? bytes & 0xff : 0;
}

static uint64_t slow_siphash(int c, int d, uint64_t k0, uint64_t k1, const unsigned char* data,
                             size_t bytes) {
    const char* text = "somepseudorandomlygeneratedbytes";
    uint64_t v[4] = {0, 0, 0, 0};
    for (int i = 0; i < 32; i++)
        v[i / 8] = v[i / 8] << 8 | (unsigned char)text[i];
    v[0] ^= k0, v[1] ^= k1, v[2] ^= k0, v[3] ^= k1;
    for (size_t start = 0; start < bytes / 8 * 8 + 8; start += 8) {
        uint64_t word = 0;
        for (size_t i = 0; i < 8; i++)
            word |= padded_byte(data, bytes, start + i) << 8 * i;
        v[3] ^= word;
        slow_rounds(v, c);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    slow_rounds(v, d);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void count_up(unsigned char* data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)i;
}

static const struct pkvi_hash_key paper_key = {0x0706050403020100, 0x0f0e0d0c0b0a0908};

TEST(the_slow_implementation_gives_the_papers_vector) {
    unsigned char data[15];
    count_up(data, sizeof data);
    ASSERT_EQ(slow_siphash(2, 4, paper_key.k0, paper_key.k1, data, sizeof data),
              0xa129ca6149be45e5);
}

TEST(hash_equals_the_slow_implementation_at_every_length) {
    unsigned char data[600];
    uint64_t random = 1;
    for (size_t bytes = 0; bytes < sizeof data; bytes++) {
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = (unsigned char)pkvi_random_next(&random);
        const struct pkvi_hash_key key = {pkvi_random_next(&random), pkvi_random_next(&random)};
        ASSERT_EQ(pkvi_hash(key, data, bytes), slow_siphash(1, 3, key.k0, key.k1, data, bytes));
    }
}

TEST(hash_equals_that_of_another_program) {
    unsigned char data[1000];
    const struct pkvi_hash_key zero = {0, 0};
    count_up(data, sizeof data);
    ASSERT_EQ(pkvi_hash(zero, "a", 1), 0x407448d2b89b1813);
    ASSERT_EQ(pkvi_hash(zero, "abc", 3), 0xc03bc3a0042630f2);
    ASSERT_EQ(pkvi_hash(zero, data, 15), 0xf30eb725bb91c9ea);
    ASSERT_EQ(pkvi_hash(zero, data, 64), 0x75e05fd5bbc870c6);
    ASSERT_EQ(pkvi_hash(zero, data, 1000), 0x498f889ac054d2d8);
}

TEST(hash_does_not_care_for_alignment) {
    unsigned char data[80];
    count_up(data, 40);
    const uint64_t wanted = pkvi_hash(paper_key, data, 40);
    for (size_t shift = 1; shift < 16; shift++) {
        count_up(data + shift, 40);
        ASSERT_EQ(pkvi_hash(paper_key, data + shift, 40), wanted);
    }
}

TEST(every_bit_of_key_and_data_matters) {
    unsigned char data[24] = {0};
    const uint64_t wanted = pkvi_hash(paper_key, data, sizeof data);
    for (size_t bit = 0; bit < sizeof data * 8; bit++) {
        data[bit / 8] ^= (unsigned char)(1U << bit % 8);
        ASSERT_NE(pkvi_hash(paper_key, data, sizeof data), wanted);
        data[bit / 8] ^= (unsigned char)(1U << bit % 8);
    }
    for (int bit = 0; bit < 128; bit++) {
        struct pkvi_hash_key key = paper_key;
        *(bit < 64 ? &key.k0 : &key.k1) ^= 1ULL << bit % 64;
        ASSERT_NE(pkvi_hash(key, data, sizeof data), wanted);
    }
}

TEST(random_numbers_are_splitmix64) {
    static const uint64_t wanted[] = {6457827717110365317U, 3203168211198807973U,
                                      9817491932198370423U, 4593380528125082431U,
                                      16408922859458223821U};
    uint64_t state = 1234567;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        ASSERT_EQ(pkvi_random_next(&state), wanted[i]);
}

TEST(a_seed_is_kept_and_no_seed_asks_the_system) {
    struct pkvi_faults faults;
    uint64_t first;
    uint64_t second;
    ASSERT_OK(pkvi_faults_init(&faults, NULL, 0));
    ASSERT_OK(pkvi_seed_open(&faults, 77, &first));
    ASSERT_OK(pkvi_seed_open(&faults, 77, &second));
    ASSERT_EQ(pkvi_random_next(&first), pkvi_random_next(&second));
    ASSERT_OK(pkvi_seed_open(&faults, 78, &second));
    ASSERT_NE(pkvi_random_next(&first), pkvi_random_next(&second));
    ASSERT_OK(pkvi_seed_open(&faults, 0, &first));
    ASSERT_OK(pkvi_seed_open(&faults, 0, &second));
    ASSERT_NE(first, second);
    pkvi_faults_free(&faults);
}

TEST(reading_the_seed_can_fail) {
#ifdef PKV_NO_FAULTS
    SKIP("built without fault points");
#else
    struct pkvi_faults faults;
    uint64_t state = 5;
    ASSERT_OK(pkvi_faults_init(&faults, "seed.read=return(EIO)", 0));
    ASSERT_STATUS(pkvi_seed_open(&faults, 0, &state), PKV_EIO);
    ASSERT_STATUS(pkvi_seed_open(&faults, 1, &state), PKV_EIO);
    ASSERT_EQ(state, 5);
    pkvi_faults_free(&faults);
#endif
}
