/* control.h - the emulator as tests see it, in C. */
#ifndef TESTS_EMULATOR_CONTROL_H
#define TESTS_EMULATOR_CONTROL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Decides every draw that follows. */
void emulator_seed(uint64_t seed);

/* What has been done since the program began. */
struct emulator_counters {
    uint64_t blocks;
    uint64_t copies;
    uint64_t matrices;  /* loaded, four at a time */
    uint64_t products;  /* multiply_add of a warp */
    uint64_t conflicts; /* rows of matrices that met another one in their bank */
};
struct emulator_counters emulator_counters_get(void);

#ifdef __cplusplus
}
#endif
#endif
