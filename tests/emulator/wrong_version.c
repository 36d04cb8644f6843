/* wrong_version.c - a libpagedkv_cuda of another version, for the test of the loader. */
#include "device/cuda/plugin.h"

extern const struct pkvi_plugin pkvi_cuda_plugin;

const struct pkvi_plugin pkvi_cuda_plugin = {.stamp = {.version = PKV_VERSION + 1}};
