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

static struct lane lane_of(const struct pkvi_kv_job* job, uint32_t row, uint32_t head,
                           bool is_value) {
    const pkv_group_config* group = &job->layout->group;
    const uint32_t block = job->slots[row] / group->block_tokens;
    const uint32_t token = job->slots[row] % group->block_tokens;
    uint64_t (*const index)(const pkv_group_config*, uint32_t, uint32_t) =
        is_value ? pkvi_packed_v : pkvi_packed_k;
    const uint32_t dtype = is_value ? group->v_dtype : group->k_dtype;
    const uint64_t first = index(group, token, 0);
    unsigned char* base =
        pkvi_packed_head(job->layout, job->space, job->layer, block, head, is_value);
    return (struct lane){
        .data = base + first * pkvi_dtype_bytes(dtype),
        .dim = is_value ? group->value_dim : group->key_dim,
        .dtype = dtype,
        .step_in_pair = index(group, token, 1) - first,
        .step_pair = index(group, token, 2) - first,
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

int pkvi_packed_write(const struct pkvi_kv_job* job) {
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct lane k = lane_of(job, row, head, false);
            const struct lane v = lane_of(job, row, head, true);
            if (!store(&k, &job->k, row, head)) return PKV_ENONFINITE;
            if (!store(&v, &job->v, row, head)) return PKV_ENONFINITE;
        }
    return PKV_OK;
}

void pkvi_packed_read(const struct pkvi_kv_job* job) {
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct lane k = lane_of(job, row, head, false);
            const struct lane v = lane_of(job, row, head, true);
            if (job->k.data != NULL) load(&k, &job->k, row, head);
            if (job->v.data != NULL) load(&v, &job->v, row, head);
        }
}
