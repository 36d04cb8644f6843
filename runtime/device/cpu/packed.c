/* packed.c - writes K and V into the packed order, and reads them back. See packed.h for the
 * order. */
#include "device/cpu/packed.h"

#include "device/cpu/element.h"
#include <math.h>

/* Where one token's element 0 is, and how far its elements are apart: constant for f32 and f16, and
 * for bf16 between pairs and inside them. */
struct lane {
    unsigned char* data;
    uint32_t dim;
    uint32_t dtype;
    uint64_t step_in_pair; /* from even to odd d */
    uint64_t step_pair;    /* from d to d + 2 */
};

static struct lane lane_of_k(const struct pkvi_layout* layout, const struct pkvi_space* space,
                             uint32_t layer, uint32_t slot, uint32_t head) {
    const pkv_group_config* group = &layout->group;
    const uint32_t token = slot % group->block_tokens;
    const uint64_t first = pkvi_packed_k(group, token, 0);
    unsigned char* base =
        pkvi_packed_head(layout, space, layer, slot / group->block_tokens, head, false);
    return (struct lane){
        .data = base + first * pkvi_dtype_bytes(group->k_dtype),
        .dim = group->key_dim,
        .dtype = group->k_dtype,
        .step_in_pair = pkvi_packed_k(group, token, 1) - first,
        .step_pair = pkvi_packed_k(group, token, 2) - first,
    };
}

static struct lane lane_of_v(const struct pkvi_layout* layout, const struct pkvi_space* space,
                             uint32_t layer, uint32_t slot, uint32_t head) {
    const pkv_group_config* group = &layout->group;
    const uint32_t token = slot % group->block_tokens;
    const uint64_t first = pkvi_packed_v(group, token, 0);
    unsigned char* base =
        pkvi_packed_head(layout, space, layer, slot / group->block_tokens, head, true);
    return (struct lane){
        .data = base + first * pkvi_dtype_bytes(group->v_dtype),
        .dim = group->value_dim,
        .dtype = group->v_dtype,
        .step_in_pair = pkvi_packed_v(group, token, 1) - first,
        .step_pair = pkvi_packed_v(group, token, 2) - first,
    };
}

static uint64_t lane_index(const struct lane* lane, uint32_t d) {
    return d / 2 * lane->step_pair + d % 2 * lane->step_in_pair;
}

/* False when a value is not finite in the type of the cache. */
static bool store(const struct lane* lane, const pkv_array* from, uint32_t row, uint32_t head) {
    bool all_finite = true;
    for (uint32_t d = 0; d < lane->dim; d++) {
        const float value = pkvi_array_get(from, row, head, d);
        all_finite &= isfinite(pkvi_element_round(value, lane->dtype)) != 0;
        pkvi_element_set(lane->data, lane_index(lane, d), lane->dtype, value);
    }
    return all_finite;
}

static void load(const struct lane* lane, const pkv_array* to, uint32_t row, uint32_t head) {
    for (uint32_t d = 0; d < lane->dim; d++)
        pkvi_array_set(to, row, head, d,
                       pkvi_element_get(lane->data, lane_index(lane, d), lane->dtype));
}

int pkvi_packed_write(const struct pkvi_write_job* job) {
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct lane k =
                lane_of_k(job->layout, job->space, job->layer, job->slots[row], head);
            const struct lane v =
                lane_of_v(job->layout, job->space, job->layer, job->slots[row], head);
            if (!store(&k, &job->k, row, head)) return PKV_ENONFINITE;
            if (!store(&v, &job->v, row, head)) return PKV_ENONFINITE;
        }
    return PKV_OK;
}

void pkvi_packed_read(const struct pkvi_read_job* job) {
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct lane k =
                lane_of_k(job->layout, job->space, job->layer, job->slots[row], head);
            const struct lane v =
                lane_of_v(job->layout, job->space, job->layer, job->slots[row], head);
            if (job->k.data != NULL) load(&k, &job->k, row, head);
            if (job->v.data != NULL) load(&v, &job->v, row, head);
        }
}
