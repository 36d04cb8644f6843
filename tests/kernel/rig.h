/* rig.h - a CPU device of a chosen level, opened as a cache would open it, and how to compare two
 * results. */
#ifndef TESTS_KERNEL_RIG_H
#define TESTS_KERNEL_RIG_H

#include "kernel/scene.h"

struct rig {
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    struct pkvi_clock clock;
    struct pkvi_device* device;
};

enum { RIG_LEVELS_MAX = 5 };

/* NULL-terminated list of the levels that this machine can run, or of `only`. */
const char* const* rig_levels(const char* only);

/* A device sized for `shape`; ends the program when it cannot be opened. */
void rig_open(struct rig* rig, const struct shape* shape, const char* isa, uint32_t threads,
              pkv_parallel_hook hook);
void rig_close(struct rig* rig);

/* write_function for a rig, and for the reference (ctx is not used). */
int rig_write(void* rig, const struct pkvi_kv_job* job);
int rig_reference_write(void* ctx, const struct pkvi_kv_job* job);

/* The argument after `name`, or `otherwise`. */
uint64_t rig_number(int argc, char** argv, const char* name, uint64_t otherwise);
const char* rig_word(int argc, char** argv, const char* name, const char* otherwise);

/* Error of a result relative to the reference. */
struct difference {
    double nmse;     /* sum of squared errors of out / sum of squares */
    double lse_nmse; /* likewise of lse, where 1 is added to each square: lse may be 0 */
};
struct difference rig_compare(const struct scene* result, const struct scene* reference);

/* Are the results of `count` tokens from row a of `left` and row b of `right` the same bits? */
bool rig_same_bits(const struct scene* left, uint32_t a, const struct scene* right, uint32_t b,
                   uint32_t count);

#endif
