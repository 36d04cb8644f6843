/* emulator.c - what tests ask of the emulator, where there is a GPU instead: nothing is injected and
 * nothing is counted. Tests that are about either ask emulator_is_here first. */
#include "emulator/control.h"
#include "emulator/system.h"

bool emulator_is_here(void) {
    return false;
}

void emulator_seed(uint64_t seed) {
    (void)seed;
}

struct emulator_counters emulator_counters_get(void) {
    return (struct emulator_counters){0};
}

void emulator_fail(enum emulator_call call, uint32_t after, int status) {
    (void)call;
    (void)after;
    (void)status;
}

void emulator_fault(uint32_t after) {
    (void)after;
}

void emulator_reset(uint64_t seed) {
    (void)seed;
}

void emulator_set_shared(uint64_t bytes) {
    (void)bytes;
}

void emulator_set_gpus(uint32_t count, int compute_major, bool is_driver_older) {
    (void)count;
    (void)compute_major;
    (void)is_driver_older;
}

uint64_t emulator_count(enum emulator_call call) {
    (void)call;
    return 0;
}

struct emulator_usage emulator_used(void) {
    return (struct emulator_usage){0};
}

void emulator_set_absent(const char* why) {
    (void)why;
}
