/* plugin.c - what the loader is given: whether there is a GPU, whether it does what a config asks
 * for, and how it is opened. */
#include "device/cuda/plugin.h"

#include "device/cuda/gpu.h"
#include "device/cuda/kernels.h"
#include "device/cuda/split.h"

enum { OLDEST_COMPUTE_MAJOR = 8, NEWEST_MACHINE_CODE_MAJOR = 9 };

static int refuse(const char* sentence, const char** why) {
    *why = sentence;
    return PKV_ENOTSUP;
}

static int check_gpu(const pkv_config* config, struct pkvi_gpu_properties* properties,
                     const char** why) {
    int count = 0;
    PKVI_TRY(pkvi_gpu_count(&count));
    if (config->device_ordinal >= (uint32_t)count)
        return refuse("device_ordinal: there are not so many GPUs", why);
    PKVI_TRY(pkvi_gpu_describe((int)config->device_ordinal, properties));
    if (properties->compute_major < OLDEST_COMPUTE_MAJOR)
        return refuse("device_ordinal: the GPU is older than Ampere (compute capability 8.0)", why);
    if (properties->compute_major > NEWEST_MACHINE_CODE_MAJOR && properties->is_driver_older)
        return refuse(
            "device: the NVIDIA driver is older than the CUDA that libpagedkv_cuda.so was "
            "built with, and would have to compile its kernels for this GPU",
            why);
    return PKV_OK;
}

static bool has_kernel(uint32_t dim, uint32_t k_dtype, uint32_t v_dtype) {
    return pkvi_gpu_has_kernel((struct pkvi_gpu_types){dim, k_dtype, v_dtype});
}

/* Captured steps are cut into items of decode alone. */
static bool graph_is_decode(const pkv_config* config) {
    const uint32_t group_heads = config->graph_query_heads / config->groups[0].kv_heads;
    return config->graph_sequences_max == 0 ||
           pkvi_gpu_is_decode(config->graph_sequence_tokens_max * group_heads);
}

static int check(const pkv_config* config, const char** why) {
    const pkv_group_config* group = &config->groups[0];
    struct pkvi_gpu_properties properties;
    *why = "device: the GPU has failed";
    PKVI_TRY(check_gpu(config, &properties, why));
    if (group->value_dim != group->key_dim)
        return refuse("groups[0].value_dim: the same as key_dim on \"cuda\"", why);
    if (!has_kernel(group->key_dim, PKV_F16, PKV_F16))
        return refuse("groups[0].key_dim: 64, 96, 128 or 256 on \"cuda\"", why);
    if (!has_kernel(group->key_dim, group->k_dtype, group->k_dtype))
        return refuse("groups[0].k_dtype: f16, bf16, i8 or e4m3 on \"cuda\"", why);
    if (!has_kernel(group->key_dim, group->v_dtype, group->v_dtype))
        return refuse("groups[0].v_dtype: f16, bf16, i8 or e4m3 on \"cuda\"", why);
    if (!has_kernel(group->key_dim, group->k_dtype, group->v_dtype))
        return refuse("groups[0].v_dtype: as k_dtype, or beside i8 f16 or bf16, on \"cuda\"", why);
    const struct pkvi_gpu_types cache = {group->key_dim, group->k_dtype, group->v_dtype};
    if (pkvi_gpu_shared_bytes(cache, false) > properties.shared_bytes)
        return refuse("groups[0].key_dim: the GPU has too little shared memory for it", why);
    if (group->block_tokens % PKVI_GPU_TILE_TOKENS != 0)
        return refuse("groups[0].block_tokens: a multiple of 16 on \"cuda\"", why);
    if (!graph_is_decode(config))
        return refuse("graph_sequence_tokens_max: times query heads of a KV head, at most 64", why);
    return PKV_OK;
}

extern const struct pkvi_plugin pkvi_cuda_plugin;

__attribute__((visibility("default"))) const struct pkvi_plugin pkvi_cuda_plugin = {
    .stamp = PKVI_PLUGIN_STAMP,
    .absent = pkvi_gpu_absent,
    .check = check,
    .open = pkvi_gpu_open,
};
