/* main.c - runs before a test program: where there is no GPU, nothing is tested, and 77 says so. */
#include "device/cuda/system.h"

#include <stdio.h>
#include <stdlib.h>

__attribute__((constructor(101))) static void leave_without_a_gpu(void) {
    const char* absent = pkvi_gpu_absent();
    if (absent == NULL) return;
    printf("not run: %s\n", absent);
    fflush(stdout);
    _Exit(77);
}
