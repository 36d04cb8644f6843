/* test_copy.c - which bytes of a block are copied for its first tokens. */
#include "device/copy.h"
#include "unit.h"

enum { BLOCK_TOKENS = 64, FROM = 0x55, TO = 0xaa };

static struct pkvi_layout layout_of(uint32_t k_dtype, uint32_t v_dtype) {
    const pkv_group_config group = {.layers = 3,
                                    .kv_heads = 2,
                                    .key_dim = 48,
                                    .value_dim = 32,
                                    .k_dtype = k_dtype,
                                    .v_dtype = v_dtype,
                                    .block_tokens = BLOCK_TOKENS};
    struct pkvi_layout layout;
    ASSERT(pkvi_layout_init(&layout, &group));
    return layout;
}

static uint64_t count_copied(const unsigned char* to, uint64_t bytes) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < bytes; i++)
        count += to[i] == FROM;
    return count;
}

/* K and V of so many tokens, with their scales. */
static uint64_t bytes_of(const pkv_group_config* group, uint32_t tokens) {
    const uint64_t k = group->key_dim * pkvi_dtype_bits(group->k_dtype) / 8 +
                       pkvi_scale_bytes(group->k_dtype, group->key_dim);
    const uint64_t v = group->value_dim * pkvi_dtype_bits(group->v_dtype) / 8 +
                       pkvi_scale_bytes(group->v_dtype, group->value_dim);
    return (uint64_t)group->layers * group->kv_heads * tokens * (k + v);
}

static void copy_tokens(const struct pkvi_layout* layout, uint32_t tokens) {
    unsigned char* from = malloc(layout->block_bytes);
    unsigned char* to = malloc(layout->block_bytes);
    ASSERT(from != NULL && to != NULL);
    memset(from, FROM, layout->block_bytes);
    memset(to, TO, layout->block_bytes);
    const struct pkvi_copy_job job = pkvi_copy_tokens(layout, to, from, tokens);
    const uint32_t copied = (tokens + 15) / 16 * 16;
    ASSERT_EQ(job.bytes,
              copied < BLOCK_TOKENS ? bytes_of(&layout->group, copied) : layout->block_bytes);
    pkvi_copy_run(&job);
    ASSERT_EQ(count_copied(to, layout->block_bytes), job.bytes);
    for (uint64_t i = 0; i < job.bytes; i++) { /* each of them once */
        ASSERT_EQ(*pkvi_copy_at(&job, i), FROM);
        *pkvi_copy_at(&job, i) = TO;
    }
    pkvi_copy_fill(&job, FROM);
    ASSERT_EQ(count_copied(to, layout->block_bytes), job.bytes);
    free(from);
    free(to);
}

TEST(whole_tiles_of_elements_and_scales_are_copied) {
    for (uint32_t k = PKV_F32; k <= PKV_I4; k++) {
        for (uint32_t v = PKV_F32; v <= PKV_I4; v++) {
            const struct pkvi_layout layout = layout_of(k, v);
            const uint32_t fills[] = {1, 15, 16, 17, 32, 48, 49, 63};
            for (size_t i = 0; i < sizeof fills / sizeof *fills; i++)
                copy_tokens(&layout, fills[i]);
        }
    }
}

TEST(blocks_of_one_tile_are_copied_whole) {
    struct pkvi_layout layout = layout_of(PKV_F32, PKV_F32);
    layout.group.block_tokens = 8;
    unsigned char byte = 0;
    const struct pkvi_copy_job job = pkvi_copy_tokens(&layout, &byte, &byte, 1);
    ASSERT_EQ(job.bytes, layout.block_bytes);
}
