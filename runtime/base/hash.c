/* hash.c - see hash.h. */
#include "base/hash.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

static inline uint64_t rotate(uint64_t value, unsigned bits) {
    return value << bits | value >> (64 - bits);
}

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

static inline void sip_word(uint64_t v[4], uint64_t word) {
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}

/* The last, partial word carries the length in its top byte. */
static uint64_t last_word(const unsigned char* data, size_t bytes) {
    uint64_t word = 0;
    memcpy(&word, data + bytes / 8 * 8,
           bytes % 8); /* little endian, as all supported targets are */
    return word | (uint64_t)bytes << 56;
}

uint64_t pkvi_hash(struct pkvi_hash_key key, const void* data, size_t bytes) {
    uint64_t v[4] = {key.k0 ^ 0x736f6d6570736575, key.k1 ^ 0x646f72616e646f6d,
                     key.k0 ^ 0x6c7967656e657261, key.k1 ^ 0x7465646279746573};
    const unsigned char* bytes_in = data;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, bytes_in + i, sizeof word);
        sip_word(v, word);
    }
    sip_word(v, last_word(bytes_in, bytes));
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t pkvi_random_next(uint64_t* state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* A signal can interrupt the wait for the system's own seed early after boot. */
static int ask_system(uint64_t* seed) {
    ssize_t got;
    do
        got = getrandom(seed, sizeof *seed, 0);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof *seed ? PKV_OK : PKV_EIO;
}

int pkvi_seed_open(struct pkvi_faults* faults, uint64_t seed, uint64_t* state) {
    PKVI_TRY(pkvi_fault_check(faults, PKVI_FAULT_SEED_READ));
    if (seed == 0) PKVI_TRY(ask_system(&seed));
    *state = seed;
    return PKV_OK;
}
