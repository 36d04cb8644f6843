/* test_device.c - devices are found by name, and blocks are laid out as device.h draws them. */
#include "device/device.h"
#include "unit.h"

TEST(devices_are_known_by_their_exact_names) {
    static const char* const unknown[] = {"", "c", "cpu ", "CPU", "cpus", "simulator", "gpu"};
    ASSERT(pkvi_device_known("cpu"));
    ASSERT(pkvi_device_known("cuda"));
    ASSERT(pkvi_device_known("sim"));
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        ASSERT(!pkvi_device_known(unknown[i]));
}

TEST(an_unknown_device_is_refused) {
    const struct pkvi_device_config config = {.threads = 1};
    struct pkvi_device* device = NULL;
    ASSERT_STATUS(pkvi_device_open("gpu", &config, &device), PKV_ENOTSUP);
    ASSERT_PTR(device, NULL);
}

static const pkv_group_config plain = {
    .layers = 3, .kv_heads = 2, .key_dim = 64, .value_dim = 32, .block_tokens = 16};

TEST(pieces_of_a_block_follow_each_other) {
    struct pkvi_layout layout;
    ASSERT(pkvi_layout_init(&layout, &plain));
    ASSERT_EQ(layout.k_head_bytes, 16 * 64 * 4);
    ASSERT_EQ(layout.v_head_bytes, 16 * 32 * 4);
    ASSERT_EQ(layout.v_offset, 2 * layout.k_head_bytes);
    ASSERT_EQ(layout.layer_bytes, layout.v_offset + 2 * layout.v_head_bytes);
    ASSERT_EQ(layout.block_bytes, 3 * layout.layer_bytes);
    ASSERT_MEM(&layout.group, &plain, sizeof plain);
}

TEST(element_types_have_their_sizes) {
    struct pkvi_layout layout;
    pkv_group_config group = plain;
    group.k_dtype = PKV_F16;
    group.v_dtype = PKV_BF16;
    ASSERT(pkvi_layout_init(&layout, &group));
    ASSERT_EQ(layout.k_head_bytes, 16 * 64 * 2);
    ASSERT_EQ(layout.v_head_bytes, 16 * 32 * 2);
}

/* Every head starts on a cache line, and less than one line is lost. */
TEST(heads_start_on_cache_lines) {
    for (uint32_t tokens = 1; tokens <= PKV_BLOCK_TOKENS_MAX; tokens *= 2)
        for (uint32_t dim = 16; dim <= PKV_HEAD_DIM_MAX; dim += 16)
            for (uint32_t dtype = PKV_F32; dtype <= PKV_BF16; dtype++) {
                struct pkvi_layout layout;
                pkv_group_config group = plain;
                group.block_tokens = tokens;
                group.key_dim = dim;
                group.k_dtype = dtype;
                const uint64_t used = (uint64_t)tokens * dim * pkvi_dtype_bytes(dtype);
                ASSERT(pkvi_layout_init(&layout, &group));
                ASSERT_EQ(layout.k_head_bytes % 64, 0);
                ASSERT_GE(layout.k_head_bytes, used);
                ASSERT_LT(layout.k_head_bytes, used + 64);
            }
}

TEST(the_largest_geometry_fits) {
    struct pkvi_layout layout;
    const pkv_group_config largest = {.layers = 1024,
                                      .kv_heads = 1024,
                                      .key_dim = PKV_HEAD_DIM_MAX,
                                      .value_dim = PKV_HEAD_DIM_MAX,
                                      .block_tokens = PKV_BLOCK_TOKENS_MAX};
    ASSERT(pkvi_layout_init(&layout, &largest));
    ASSERT_EQ(layout.block_bytes, 1024ULL * 1024 * 2 * 256 * 256 * 4);
}

TEST(sizes_beyond_64_bits_are_refused) {
    struct pkvi_layout layout;
    pkv_group_config group = plain;
    group.layers = UINT32_MAX;
    group.kv_heads = UINT32_MAX;
    ASSERT(!pkvi_layout_init(&layout, &group));
    group.block_tokens = UINT32_MAX;
    group.key_dim = UINT32_MAX;
    ASSERT(!pkvi_layout_init(&layout, &group));
}

TEST(blocks_lie_in_extents) {
    static unsigned char arena[4000];
    const struct pkvi_space space = {arena, 1000, 300, 3};
    ASSERT_PTR(pkvi_space_block(&space, 0), arena);
    ASSERT_PTR(pkvi_space_block(&space, 2), arena + 600);
    ASSERT_PTR(pkvi_space_block(&space, 3), arena + 1000);
    ASSERT_PTR(pkvi_space_block(&space, 10), arena + 3300);
}
