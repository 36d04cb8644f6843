/* plugin.h - what libpagedkv and libpagedkv_cuda.so agree on: one struct, exported under one name.
 *
 * The two are built from the same sources and share structs by pointer, so that the loader takes a
 * library of exactly its own version and sizes or none. */
#ifndef PKVI_DEVICE_CUDA_PLUGIN_H
#define PKVI_DEVICE_CUDA_PLUGIN_H

#include "device/device.h"

#define PKVI_PLUGIN_SYMBOL "pkvi_cuda_plugin"

struct pkvi_plugin_stamp {
    uint32_t version;
    uint32_t config_bytes; /* of pkv_config */
    uint32_t device_config_bytes;
    uint32_t ops_bytes;
    uint32_t kv_job_bytes;
    uint32_t attend_job_bytes;
    uint32_t transfer_job_bytes;
    uint32_t mem_bytes;
    uint32_t faults_bytes;
    uint32_t fault_points;
};

/* What both sides compute from the headers that they were compiled with. */
#define PKVI_PLUGIN_STAMP                                                                          \
    {                                                                                              \
        .version = PKV_VERSION,                                                                    \
        .config_bytes = sizeof(pkv_config),                                                        \
        .device_config_bytes = sizeof(struct pkvi_device_config),                                  \
        .ops_bytes = sizeof(struct pkvi_device_ops),                                               \
        .kv_job_bytes = sizeof(struct pkvi_kv_job),                                                \
        .attend_job_bytes = sizeof(struct pkvi_attend_job),                                        \
        .transfer_job_bytes = sizeof(struct pkvi_transfer_job),                                    \
        .mem_bytes = sizeof(struct pkvi_mem),                                                      \
        .faults_bytes = sizeof(struct pkvi_faults),                                                \
        .fault_points = PKVI_FAULT_COUNT,                                                          \
    }

/* The stamp comes first and stays first, whatever else changes. */
struct pkvi_plugin {
    struct pkvi_plugin_stamp stamp;
    const char* (*absent)(void);
    int (*check)(const pkv_config* config, const char** why);
    int (*open)(const struct pkvi_device_config* config, struct pkvi_device** device);
};

#endif
