/* device.c - which devices there are, and how a block is laid out for all of them. */
#include "device/device.h"

#include <string.h>

struct peer {
    const char* name;
    int (*open)(const struct pkvi_device_config* config, struct pkvi_device** device);
    const char* (*absent)(void);                              /* NULL: it is always there */
    int (*check)(const pkv_config* config, const char** why); /* NULL: it takes everything */
};

static const struct peer peers[] = {
    {"cpu", pkvi_host_open, NULL, NULL},
    {"cuda", pkvi_cuda_open, pkvi_cuda_absent, pkvi_cuda_check},
    {"sim", pkvi_sim_open, NULL, NULL},
};

static const struct peer* find_peer(const char* name) {
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++)
        if (strcmp(peers[i].name, name) == 0) return &peers[i];
    return NULL;
}

bool pkvi_device_known(const char* name) {
    return find_peer(name) != NULL;
}

const char* pkvi_device_absent(const char* name) {
    const struct peer* peer = find_peer(name);
    if (peer == NULL) return "device: there is none of that name";
    return peer->absent != NULL ? peer->absent() : NULL;
}

int pkvi_device_check(const pkv_config* config, const char** why) {
    const struct peer* peer = find_peer(config->device);
    if (peer->check == NULL) return PKV_OK;
    return peer->check(config, why);
}

int pkvi_device_open(const char* name, const struct pkvi_device_config* config,
                     struct pkvi_device** device) {
    const struct peer* peer = find_peer(name);
    return peer != NULL ? peer->open(config, device) : PKV_ENOTSUP;
}

enum { HEAD_ALIGNMENT = 64 };

/* One head's K or V in a block: where its scales begin, and how many bytes it takes, padded so that
 * the next one starts on a cache line. */
static bool size_head(uint32_t tokens, uint32_t dim, uint32_t dtype, uint64_t* scale_offset,
                      uint64_t* bytes) {
    uint64_t elements;
    uint64_t scale_bytes;
    if (!pkvi_mul(tokens, dim, &elements)) return false;
    if (!pkvi_mul(elements, pkvi_dtype_bits(dtype), scale_offset)) return false;
    *scale_offset /= 8;
    if (!pkvi_mul(tokens, pkvi_scale_bytes(dtype, dim), &scale_bytes)) return false;
    if (!pkvi_add(*scale_offset, scale_bytes, bytes)) return false;
    if (!pkvi_add(*bytes, HEAD_ALIGNMENT - 1, bytes)) return false;
    *bytes -= *bytes % HEAD_ALIGNMENT;
    return true;
}

bool pkvi_layout_init(struct pkvi_layout* layout, const pkv_group_config* group) {
    uint64_t v_bytes;
    layout->group = *group;
    if (!size_head(group->block_tokens, group->key_dim, group->k_dtype, &layout->k_scale_offset,
                   &layout->k_head_bytes))
        return false;
    if (!size_head(group->block_tokens, group->value_dim, group->v_dtype, &layout->v_scale_offset,
                   &layout->v_head_bytes))
        return false;
    if (!pkvi_mul(group->kv_heads, layout->k_head_bytes, &layout->v_offset)) return false;
    if (!pkvi_mul(group->kv_heads, layout->v_head_bytes, &v_bytes)) return false;
    if (!pkvi_add(layout->v_offset, v_bytes, &layout->layer_bytes)) return false;
    return pkvi_mul(group->layers, layout->layer_bytes, &layout->block_bytes);
}
