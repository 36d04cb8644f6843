/* test_config.c - versions, statuses, and every field of a config that can be wrong. */
#include "unit.h"

#include "api/fixture.h"

TEST(the_version_is_that_of_the_header) {
    pkv_config config;
    ASSERT_EQ(pkv_version(), PKV_VERSION);
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION ^ 1)); /* the patch number does not matter */
    ASSERT_STATUS(pkv_config_init(&config, PKV_VERSION ^ 1 << 8), PKV_EVERSION);
    ASSERT_STATUS(pkv_config_init(&config, PKV_VERSION ^ 1 << 16), PKV_EVERSION);
    ASSERT_STATUS(pkv_config_init(NULL, PKV_VERSION), PKV_EINVAL);
}

TEST(every_status_has_a_name_and_a_message) {
#define EXPECT_STATUS(name, value, message)                                                        \
    ASSERT_EQ(PKV_##name, value);                                                                  \
    ASSERT_STR(pkv_status_name(PKV_##name), #name);                                                \
    ASSERT_STR(pkv_status_message(PKV_##name), message);
    PKV_STATUS_MAP(EXPECT_STATUS)
#undef EXPECT_STATUS
    ASSERT_STR(pkv_status_name(1), NULL);
    ASSERT_STR(pkv_status_message(-99), NULL);
    ASSERT_STR(pkv_status_name(INT32_MIN), NULL);
}

TEST(sizes_are_told_without_creating) {
    const pkv_config config = fixture_config();
    pkv_sizes sizes;
    ASSERT_OK(pkv_config_check(&config, NULL, &sizes));
    ASSERT_EQ(sizes.block_bytes, 2 * FIXTURE_BLOCK * FIXTURE_DIM * sizeof(float));
    ASSERT_GE(sizes.arena_bytes, 16 * sizes.block_bytes);
    ASSERT_GE((uint64_t)sizes.extents * sizes.blocks_per_extent, 16);
    ASSERT_OK(pkv_config_check(&config, NULL, NULL));
}

/* ---- Bad fields ------------------------------------------------------------------------------ */

struct bad {
    const char* field; /* must stand in the explanation */
    int status;
    void (*spoil)(pkv_config* config);
};

#define BAD(name, statement)                                                                       \
    static void name(pkv_config* config) {                                                         \
        pkv_group_config* group = &config->groups[0];                                              \
        (void)group;                                                                               \
        statement;                                                                                 \
    }

BAD(no_init, config->struct_size = 0)
BAD(short_struct, config->struct_size -= 4)
BAD(other_version, config->version ^= 0x100)
BAD(no_such_device, config->device = "abacus")
BAD(no_such_isa, config->isa = "mmx")
BAD(two_groups, config->group_count = 2)
BAD(nine_groups, config->group_count = 9)
BAD(no_blocks, config->blocks = 0)
BAD(many_blocks, config->blocks = (1U << 24) + 1)
BAD(all_blocks, config->blocks = UINT32_MAX)
BAD(no_layers, group->layers = 0)
BAD(many_layers, group->layers = 1025)
BAD(no_heads, group->kv_heads = 0)
BAD(many_heads, group->kv_heads = 1025)
BAD(no_dim, group->key_dim = 0)
BAD(odd_dim, group->key_dim = 7)
BAD(crooked_dim, group->key_dim = 40)
BAD(wide_dim, group->key_dim = 272)
BAD(odd_value_dim, group->value_dim = 7)
BAD(wide_value_dim, group->value_dim = 512)
BAD(no_such_k_dtype, group->k_dtype = PKV_I4 + 1)
BAD(no_such_v_dtype, group->v_dtype = UINT32_MAX)
BAD(three_tokens, group->block_tokens = 3)
BAD(short_scaled_k, (group->block_tokens = 8, group->k_dtype = PKV_I8))
BAD(short_scaled_v, (group->block_tokens = 8, group->v_dtype = PKV_I4))
BAD(long_blocks, group->block_tokens = 512)
BAD(huge_blocks, group->block_tokens = 1U << 31)
BAD(huge_window, group->window = UINT32_MAX)
BAD(huge_sinks, group->sinks = UINT32_MAX)
BAD(many_sequences, config->sequences_max = UINT32_MAX)
BAD(long_sequences, config->sequence_tokens_max = UINT32_MAX)
BAD(many_plans, config->plans_max = UINT32_MAX)
BAD(wide_plans, config->plan_sequences_max = UINT32_MAX)
BAD(long_plans, config->plan_tokens_max = UINT32_MAX)
BAD(many_leaves, config->table_leaves_max = UINT32_MAX)
BAD(long_trace, config->trace_events_max = UINT32_MAX)
BAD(many_threads, config->threads = UINT32_MAX)
BAD(no_such_cow, config->cow = PKV_COW_FORK + 1)

static const struct bad bads[] = {
    {"struct_size", PKV_EVERSION, no_init},
    {"struct_size", PKV_EVERSION, short_struct},
    {"version", PKV_EVERSION, other_version},
    {"device", PKV_ENOTSUP, no_such_device},
    {"isa", PKV_ENOTSUP, no_such_isa},
    {"group_count", PKV_ENOTSUP, two_groups},
    {"cow", PKV_EINVAL, no_such_cow},
    {"group_count", 0, nine_groups},
    {"blocks", PKV_EINVAL, no_blocks},
    {"blocks", 0, many_blocks},
    {"blocks", 0, all_blocks},
    {"layers", PKV_EINVAL, no_layers},
    {"layers", 0, many_layers},
    {"kv_heads", PKV_EINVAL, no_heads},
    {"kv_heads", 0, many_heads},
    {"key_dim", PKV_EINVAL, no_dim},
    {"key_dim", PKV_EINVAL, odd_dim},
    {"key_dim", PKV_EINVAL, crooked_dim},
    {"key_dim", 0, wide_dim},
    {"value_dim", PKV_EINVAL, odd_value_dim},
    {"value_dim", 0, wide_value_dim},
    {"k_dtype", PKV_EINVAL, no_such_k_dtype},
    {"v_dtype", PKV_EINVAL, no_such_v_dtype},
    {"block_tokens", PKV_EINVAL, three_tokens},
    {"block_tokens", PKV_EINVAL, short_scaled_k},
    {"block_tokens", PKV_EINVAL, short_scaled_v},
    {"block_tokens", 0, long_blocks},
    {"block_tokens", 0, huge_blocks},
    {"window", 0, huge_window},
    {"sinks", 0, huge_sinks},
    {"sequences_max", 0, many_sequences},
    {"sequence_tokens_max", 0, long_sequences},
    {"plans_max", 0, many_plans},
    {"plan_sequences_max", 0, wide_plans},
    {"plan_tokens_max", 0, long_plans},
    {"table_leaves_max", 0, many_leaves},
    {"trace_events_max", 0, long_trace},
    {"threads", 0, many_threads},
};

/* Status 0 in the table: PKV_EINVAL or PKV_ETOOBIG, the header leaves it open. */
TEST(a_bad_field_is_named_before_anything_is_taken) {
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        pkv_config config = fixture_config();
        const char* why = NULL;
        pkv_sizes sizes = {.extents = 1234};
        pkv_cache* cache = (pkv_cache*)&config;
        bads[i].spoil(&config);
        const int status = pkv_config_check(&config, &why, &sizes);
        if (bads[i].status != 0)
            ASSERT_STATUS(status, bads[i].status);
        else
            ASSERT(status == PKV_EINVAL || status == PKV_ETOOBIG || status == PKV_ENOTSUP);
        ASSERT(why != NULL);
        if (strstr(why, bads[i].field) == NULL) ASSERT_STR(why, bads[i].field);
        ASSERT_EQ(sizes.extents, 1234);
        ASSERT_STATUS(pkv_cache_create(&config, &cache), status);
        ASSERT_PTR(cache, &config);
        ASSERT_STATUS(pkv_config_check(&config, NULL, NULL), status);
    }
}

/* ---- Random fields --------------------------------------------------------------------------- */

enum { HOOK_BYTES_MAX = 32 << 20, ARENA_BYTES_MAX = 8 << 20 };

/* Memory, but not as much as the largest of configs would take. */
static void* modest_resize(void* ctx, void* memory, size_t old_bytes, size_t new_bytes) {
    int64_t* held = ctx;
    if (new_bytes > (size_t)HOOK_BYTES_MAX) return NULL;
    if (new_bytes > 0 && *held + (int64_t)new_bytes > HOOK_BYTES_MAX) return NULL;
    *held += (int64_t)new_bytes - (int64_t)old_bytes;
    if (new_bytes > 0) return malloc(new_bytes);
    free(memory);
    return NULL;
}

static uint32_t roll(uint64_t* random) {
    *random = *random * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)(*random >> 33);
}

/* Zero, small, a power of two, next to a limit, or anything. */
static uint32_t draw_number(uint64_t* random) {
    const uint32_t power = 1U << roll(random) % 32;
    switch (roll(random) % 6) {
    case 0:
        return 0;
    case 1:
        return roll(random) % 8;
    case 2:
        return power;
    case 3:
        return power - 1;
    case 4:
        return power + 1;
    default:
        return UINT32_MAX - roll(random) % 3;
    }
}

/* A good config with one to four fields replaced. */
static void draw_config(pkv_config* config, uint64_t* random) {
    pkv_group_config* group = &config->groups[0];
    uint32_t* const fields[] = {
        &config->blocks,
        &config->group_count,
        &config->sequences_max,
        &config->sequence_tokens_max,
        &config->plans_max,
        &config->plan_sequences_max,
        &config->plan_tokens_max,
        &config->table_leaves_max,
        &config->trace_events_max,
        &group->layers,
        &group->kv_heads,
        &group->key_dim,
        &group->value_dim,
        &group->k_dtype,
        &group->v_dtype,
        &group->block_tokens,
        &group->window,
        &group->sinks,
    };
    const uint32_t count = sizeof fields / sizeof *fields;
    for (uint32_t n = 1 + roll(random) % 4; n > 0; n--)
        *fields[roll(random) % count] = draw_number(random);
}

/* Whatever the numbers: a status and a sentence, or a cache that works. */
TEST(random_configs_are_refused_or_work) {
    uint64_t random = 5;
    uint32_t created = 0;
    uint32_t refused = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        pkv_config config = fixture_config();
        int64_t held = 0;
        const char* why = NULL;
        pkv_sizes sizes;
        pkv_cache* cache;
        draw_config(&config, &random);
        config.memory = (pkv_memory_hook){modest_resize, &held};
        const int status = pkv_config_check(&config, &why, &sizes);
        ASSERT_EQ(status != PKV_OK, why != NULL);
        if (status != PKV_OK) {
            ASSERT_STATUS(pkv_cache_create(&config, &cache), status);
            refused++;
            continue;
        }
        ASSERT_GE((uint64_t)sizes.extents * sizes.blocks_per_extent, config.blocks);
        ASSERT_GE(sizes.arena_bytes / sizes.block_bytes, config.blocks);
        if (sizes.arena_bytes > ARENA_BYTES_MAX) continue;
        const int create = pkv_cache_create(&config, &cache);
        if (create != PKV_OK) {
            ASSERT_STATUS(create, PKV_ENOMEM);
            continue;
        }
        created++;
        const pkv_seq seq = fixture_seq(cache, 1);
        ASSERT_OK(pkv_seq_append(cache, seq, NULL, 1, NULL));
        ASSERT_OK(pkv_seq_commit(cache, seq));
        fixture_check(cache);
        pkv_cache_destroy(cache);
        ASSERT_EQ(held, 0);
    }
    ASSERT_GT(created, 20);
    ASSERT_GT(refused, 200);
}

TEST(null_pointers_are_refused) {
    pkv_config config = fixture_config();
    pkv_cache* cache;
    const char* why = NULL;
    ASSERT_STATUS(pkv_config_check(NULL, &why, NULL), PKV_EINVAL);
    ASSERT(why != NULL);
    ASSERT_STATUS(pkv_config_check(NULL, NULL, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_cache_create(NULL, &cache), PKV_EINVAL);
    ASSERT_STATUS(pkv_cache_create(&config, NULL), PKV_EINVAL);
    ASSERT_PTR(pkv_cache_isa(NULL), NULL);
    ASSERT_EQ(pkv_clock_us(NULL), 0);
    pkv_cache_destroy(NULL);
}

TEST(defaults_are_those_of_the_header) {
    pkv_config config;
    pkv_stats stats = {.struct_size = sizeof stats};
    pkv_sizes sizes;
    pkv_cache* cache;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.groups[0] = (pkv_group_config){.layers = 1, .kv_heads = 1, .key_dim = 16};
    config.blocks = 3;
    config.faults = "";
    config.seed = 1;
    ASSERT_OK(pkv_config_check(&config, NULL, &sizes));
    ASSERT_EQ(sizes.block_bytes, 2 * 16 * 16 * sizeof(float));
    ASSERT_OK(pkv_cache_create(&config, &cache));
    ASSERT_OK(pkv_cache_stats(cache, &stats));
    ASSERT_EQ(stats.blocks_total, 3);
    ASSERT_EQ(stats.leaves_total % 256, 0); /* one leaf and more for each of 256 sequences */
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_append(cache, seq, NULL, 49, NULL), PKV_ETOOBIG);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 48, NULL));
    ASSERT_STATUS(pkv_clock_advance(cache, 1), PKV_ENOTSUP);
    ASSERT_STR(pkv_cache_isa(cache) != NULL ? "an isa" : NULL, "an isa");
    pkv_cache_destroy(cache);
}

TEST(a_program_may_know_less_of_the_counters) {
    pkv_cache* cache = fixture_open();
    pkv_stats stats;
    memset(&stats, 0x55, sizeof stats);
    stats.struct_size = offsetof(pkv_stats, blocks_active);
    ASSERT_OK(pkv_cache_stats(cache, &stats));
    ASSERT_EQ(stats.blocks_total, 16);
    ASSERT_EQ(stats.blocks_free, 16);
    ASSERT_EQ(stats.blocks_active, 0x55555555);
    ASSERT_EQ(stats.struct_size, offsetof(pkv_stats, blocks_active));
    stats.struct_size = sizeof stats.struct_size;
    ASSERT_OK(pkv_cache_stats(cache, &stats));
    stats.struct_size = sizeof stats;
    ASSERT_STATUS(pkv_cache_stats(NULL, &stats), PKV_EINVAL);
    stats.struct_size = 0;
    ASSERT_STATUS(pkv_cache_stats(cache, &stats), PKV_EINVAL);
    stats.struct_size = sizeof stats + 8;
    ASSERT_STATUS(pkv_cache_stats(cache, &stats), PKV_EINVAL);
    ASSERT_STATUS(pkv_cache_stats(cache, NULL), PKV_EINVAL);
    pkv_cache_destroy(cache);
}
