/* hash.h - keyed hashing and small random generators.
 *
 * SipHash-1-3 (Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012, with 1 and 3 rounds)
 * indexes the prefix cache: its key is secret, so nobody can aim for collisions. A hash is only
 * ever an index; equality is decided by comparing. SplitMix64 (Steele, Lea, Flood, 2014) serves
 * seeds and fault dice. */
#ifndef PKVI_BASE_HASH_H
#define PKVI_BASE_HASH_H

#include "base/fault.h"
#include <stddef.h>

struct pkvi_hash_key {
    uint64_t k0, k1;
};

/* SipHash-1-3 of `bytes` bytes at `data`. */
uint64_t pkvi_hash(struct pkvi_hash_key key, const void* data, size_t bytes);

/* Next value of a SplitMix64 generator; *state may start anywhere. */
uint64_t pkvi_random_next(uint64_t* state);

/* Derive a key and further secrets from `seed`; 0 asks the operating system.
 * Errors  PKV_EIO, or what the fault point seed.read says. */
int pkvi_seed_open(struct pkvi_faults* faults, uint64_t seed, uint64_t* state);

#endif
