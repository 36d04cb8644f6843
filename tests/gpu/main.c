/* main.c - stands before the main of a test program (the linker's --wrap=main): where there is no GPU,
 * nothing is tested, and 77 says so. */
#include "device/cuda/system.h"

#include <stdio.h>

int __real_main(int argc, char** argv);
int __wrap_main(int argc, char** argv);

int __wrap_main(int argc, char** argv) {
    const char* absent = pkvi_gpu_absent();
    if (absent == NULL) return __real_main(argc, argv);
    printf("not run: %s\n", absent);
    return 77;
}
