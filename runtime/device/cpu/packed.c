/* packed.c - writes K and V into the packed order, reads them back, and moves them there. See
 * packed.h for the order and pack_kernel.h for how a row gets there.
 *
 * Large jobs are cut for the threads, between tiles: tokens of one tile can share a word. */
#include "device/cpu/attend.h"
#include "device/cpu/quantise.h"
#include <stdatomic.h>

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

static struct place place_at(const struct pkvi_layout* layout, const struct pkvi_space* space,
                             uint32_t layer, uint32_t slot, uint32_t head, bool is_value) {
    const pkv_group_config* group = &layout->group;
    const uint32_t block = slot / group->block_tokens;
    unsigned char* data = pkvi_packed_head(layout, space, layer, block, head, is_value);
    return (struct place){
        .group = group,
        .is_value = is_value,
        .dtype = is_value ? group->v_dtype : group->k_dtype,
        .dim = is_value ? group->value_dim : group->key_dim,
        .token = slot % group->block_tokens,
        .data = data,
        .scales = data + (is_value ? layout->v_scale_offset : layout->k_scale_offset),
    };
}

static struct place place_of(const struct pkvi_kv_job* job, uint32_t row, uint32_t head,
                             bool is_value) {
    return place_at(job->layout, job->space, job->layer, job->slots[row], head, is_value);
}

static uint64_t element_index(const struct place* place, uint32_t d) {
    return place->is_value ? pkvi_packed_v(place->group, place->token, d)
                           : pkvi_packed_k(place->group, place->token, d);
}

/* ---- Read ------------------------------------------------------------------------------------ */

static uint32_t* word_of(const struct place* place, uint32_t d, uint32_t* shift) {
    *shift = pkvi_word_shift(place->is_value ? place->token : d);
    return (uint32_t*)place->data + (place->is_value
                                         ? pkvi_packed_v_word(place->group, place->token, d)
                                         : pkvi_packed_k_word(place->group, place->token, d));
}

static unsigned char get_code(const struct place* from, uint32_t d) {
    if (from->dtype != PKV_I4) return from->data[element_index(from, d)];
    uint32_t shift;
    const uint32_t* word = word_of(from, d, &shift);
    return (unsigned char)(*word >> shift & 15);
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

void pkvi_packed_read(const struct pkvi_kv_job* job) {
    for (uint32_t row = 0; row < job->tokens; row++)
        for (uint32_t head = 0; head < job->layout->group.kv_heads; head++) {
            const struct place k = place_of(job, row, head, false);
            const struct place v = place_of(job, row, head, true);
            if (job->k.data != NULL) load(&k, &job->k, row, head);
            if (job->v.data != NULL) load(&v, &job->v, row, head);
        }
}

/* ---- Move ------------------------------------------------------------------------------------ */

static void move_words(const struct place* to, const struct place* from) {
    for (uint32_t d = 0; d < from->dim; d++) {
        uint32_t shift;
        uint32_t* word = word_of(to, d, &shift);
        *word = (*word & ~(15U << shift)) | (uint32_t)get_code(from, d) << shift;
    }
    uint16_t* const to_scales = (uint16_t*)(void*)to->scales;
    const uint16_t* const from_scales = (const uint16_t*)(const void*)from->scales;
    for (uint32_t group = 0; group < pkvi_scale_groups(from->dim); group++) {
        const uint64_t to_at = pkvi_packed_scale(to->dim, to->token, group);
        const uint64_t from_at = pkvi_packed_scale(from->dim, from->token, group);
        to_scales[to_at] = from_scales[from_at];
        to_scales[to_at + PKVI_TILE_TOKENS] = from_scales[from_at + PKVI_TILE_TOKENS];
    }
}

static void move_token(const struct place* to, const struct place* from) {
    const size_t bytes = pkvi_dtype_bits(from->dtype) / 8;
    if (from->dtype == PKV_I4) {
        move_words(to, from);
        return;
    }
    for (uint32_t d = 0; d < from->dim; d++)
        memcpy(to->data + element_index(to, d) * bytes, from->data + element_index(from, d) * bytes,
               bytes);
    if (pkvi_dtype_is_scaled(from->dtype))
        memcpy(to->scales + to->token * sizeof(float), from->scales + from->token * sizeof(float),
               sizeof(float));
}

void pkvi_packed_move(const struct pkvi_move_job* job) {
    const pkv_group_config* group = &job->layout->group;
    for (uint32_t layer = 0; layer < group->layers; layer++)
        for (uint32_t side = 0; side < 2 * group->kv_heads; side++)
            for (uint32_t i = 0; i < job->count; i++) {
                const struct place to =
                    place_at(job->layout, job->space, layer, job->to[i], side / 2, side % 2 != 0);
                const struct place from =
                    place_at(job->layout, job->space, layer, job->from[i], side / 2, side % 2 != 0);
                move_token(&to, &from);
            }
}

/* ---- Write ----------------------------------------------------------------------------------- */

enum { SHARE_ELEMENTS_MIN = 1 << 17 }; /* of K and V: some 50 us, ten times what a thread costs */

struct shares {
    const struct pkvi_kv_job* job;
    const struct pkvi_kernels* kernels;
    uint32_t count;
    atomic_bool is_bad;
};

static uint32_t tile_of(const struct pkvi_kv_job* job, uint32_t row) {
    return job->slots[row] / PKVI_TILE_TOKENS;
}

/* The first row of share `index`: an equal part, from the next tile on. */
static uint32_t first_row(const struct shares* shares, uint32_t index) {
    const struct pkvi_kv_job* job = shares->job;
    uint32_t row = (uint32_t)((uint64_t)job->tokens * index / shares->count);
    while (row > 0 && row < job->tokens && tile_of(job, row) == tile_of(job, row - 1))
        row++;
    return row;
}

static void write_share(void* arg, uint32_t index) {
    struct shares* shares = arg;
    const uint32_t begin = first_row(shares, index);
    const uint32_t end = first_row(shares, index + 1);
    if (!shares->kernels->pack(shares->job, begin, end)) atomic_store(&shares->is_bad, true);
}

int pkvi_packed_write(const struct pkvi_kv_job* job, const struct pkvi_kernels* kernels,
                      struct pkvi_threads* threads, uint32_t thread_count) {
    const pkv_group_config* group = &job->layout->group;
    const uint64_t elements =
        (uint64_t)job->tokens * group->kv_heads * (group->key_dim + group->value_dim);
    const uint64_t most = elements / SHARE_ELEMENTS_MIN;
    struct shares shares = {job, kernels, most < thread_count ? (uint32_t)most : thread_count,
                            false};
    if (shares.count < 2) return kernels->pack(job, 0, job->tokens) ? PKV_OK : PKV_ENONFINITE;
    pkvi_threads_run(threads, shares.count, write_share, &shares);
    return atomic_load(&shares.is_bad) ? PKV_ENONFINITE : PKV_OK;
}
