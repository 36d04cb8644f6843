/* packed.c - writes K and V into the packed order, and reads them back. See packed.h for the
 * order. */
#include "device/cpu/packed.h"

#include "device/cpu/quantise.h"
#include <math.h>

/* One head's K or V, and one token in it. */
struct place {
    const pkv_group_config* group;
    bool is_value;
    uint32_t dtype;
    uint32_t dim;
    uint32_t token;
    unsigned char* data;
    unsigned char* scales;
};

static struct place place_of(const struct pkvi_kv_job* job, uint32_t row, uint32_t head,
                             bool is_value) {
    const struct pkvi_layout* layout = job->layout;
    const pkv_group_config* group = &layout->group;
    const uint32_t block = job->slots[row] / group->block_tokens;
    unsigned char* data = pkvi_packed_head(layout, job->space, job->layer, block, head, is_value);
    return (struct place){
        .group = group,
        .is_value = is_value,
        .dtype = is_value ? group->v_dtype : group->k_dtype,
        .dim = is_value ? group->value_dim : group->key_dim,
        .token = job->slots[row] % group->block_tokens,
        .data = data,
        .scales = data + (is_value ? layout->v_scale_offset : layout->k_scale_offset),
    };
}

static uint64_t element_index(const struct place* place, uint32_t d) {
    return place->is_value ? pkvi_packed_v(place->group, place->token, d)
                           : pkvi_packed_k(place->group, place->token, d);
}

/* ---- Codes and scales ------------------------------------------------------------------------ */

static uint32_t* word_of(const struct place* place, uint32_t d, uint32_t* shift) {
    *shift = pkvi_word_shift(place->is_value ? place->token : d);
    return (uint32_t*)place->data + (place->is_value
                                         ? pkvi_packed_v_word(place->group, place->token, d)
                                         : pkvi_packed_k_word(place->group, place->token, d));
}

static void set_code(const struct place* to, uint32_t d, unsigned char code) {
    if (to->dtype != PKV_I4) {
        to->data[element_index(to, d)] = code;
        return;
    }
    uint32_t shift;
    uint32_t* word = word_of(to, d, &shift);
    *word = (*word & ~(15U << shift)) | (uint32_t)code << shift;
}

static unsigned char get_code(const struct place* from, uint32_t d) {
    if (from->dtype != PKV_I4) return from->data[element_index(from, d)];
    uint32_t shift;
    const uint32_t* word = word_of(from, d, &shift);
    return (unsigned char)(*word >> shift & 15);
}

static void set_scale(const struct place* to, uint32_t index, struct pkvi_scale scale) {
    if (to->dtype != PKV_I4) {
        pkvi_element_set(to->scales, to->token, PKV_F32, scale.scale);
        return;
    }
    const uint64_t at = pkvi_packed_scale(to->dim, to->token, index);
    pkvi_element_set(to->scales, at, PKV_F16, scale.scale);
    pkvi_element_set(to->scales, at + PKVI_TILE_TOKENS, PKV_F16, scale.minimum);
}

static struct pkvi_scale get_scale(const struct place* from, uint32_t index) {
    if (from->dtype != PKV_I4)
        return (struct pkvi_scale){pkvi_element_get(from->scales, from->token, PKV_F32), 0.0F};
    const uint64_t at = pkvi_packed_scale(from->dim, from->token, index);
    return (struct pkvi_scale){
        pkvi_element_get(from->scales, at, PKV_F16),
        pkvi_element_get(from->scales, at + PKVI_TILE_TOKENS, PKV_F16),
    };
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* False when a value is not finite in the type of the cache. */
static bool store_plain(const struct place* to, const float* row) {
    bool all_finite = true;
    for (uint32_t d = 0; d < to->dim; d++) {
        all_finite &= isfinite(pkvi_element_round(row[d], to->dtype)) != 0;
        pkvi_element_set(to->data, element_index(to, d), to->dtype, row[d]);
    }
    return all_finite;
}

static bool store_scaled(const struct place* to, const float* row) {
    unsigned char codes[PKV_HEAD_DIM_MAX];
    struct pkvi_scale scales[PKVI_SCALE_GROUPS_MAX];
    if (!pkvi_quantise(to->dtype, row, to->dim, codes, scales)) return false;
    for (uint32_t d = 0; d < to->dim; d++)
        set_code(to, d, codes[d]);
    for (uint32_t i = 0; i < pkvi_scale_count(to->dtype, to->dim); i++)
        set_scale(to, i, scales[i]);
    return true;
}

static bool store(const struct place* to, const pkv_array* from, uint32_t row, uint32_t head) {
    float numbers[PKV_HEAD_DIM_MAX];
    for (uint32_t d = 0; d < to->dim; d++)
        numbers[d] = pkvi_array_get(from, row, head, d);
    return pkvi_dtype_is_scaled(to->dtype) ? store_scaled(to, numbers) : store_plain(to, numbers);
}

static float load_element(const struct place* from, uint32_t d) {
    if (!pkvi_dtype_is_scaled(from->dtype))
        return pkvi_element_get(from->data, element_index(from, d), from->dtype);
    return pkvi_dequantise(from->dtype, get_code(from, d),
                           get_scale(from, pkvi_scale_index(from->dtype, d)));
}

static void load(const struct place* from, const pkv_array* to, uint32_t row, uint32_t head) {
    for (uint32_t d = 0; d < from->dim; d++)
        pkvi_array_set(to, row, head, d, load_element(from, d));
}

int pkvi_packed_write(const struct pkvi_kv_job* job) {
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct place k = place_of(job, row, head, false);
            const struct place v = place_of(job, row, head, true);
            if (!store(&k, &job->k, row, head)) return PKV_ENONFINITE;
            if (!store(&v, &job->v, row, head)) return PKV_ENONFINITE;
        }
    return PKV_OK;
}

void pkvi_packed_read(const struct pkvi_kv_job* job) {
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct place k = place_of(job, row, head, false);
            const struct place v = place_of(job, row, head, true);
            if (job->k.data != NULL) load(&k, &job->k, row, head);
            if (job->v.data != NULL) load(&v, &job->v, row, head);
        }
}
