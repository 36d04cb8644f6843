/* config.c - defaults and limits, each checked by itself so that the message can name the field. */
#include "core/config.h"

#include "base/limits.h"
#include "core/arena.h"
#include "core/require.h"
#include "core/table.h"
#include <stdlib.h>
#include <string.h>

enum {
    LAYERS_MAX = 1024,
    HEADS_MAX = 1024,
    BLOCKS_MAX = 1 << 24,
    SEQUENCES_MAX = 1 << 20,
    SEQUENCE_TOKENS_MAX = 1 << 27,
    SEQUENCE_TOKENS_DEFAULT = 32768,
    PLANS_MAX = 64,
    PLAN_TOKENS_MAX = 1 << 20,
    PLAN_TOKENS_DEFAULT = 4096,
    TRACE_EVENTS_MAX = 1 << 20,
    THREADS_MAX = 1024,
    TRANSFERS_MAX = 64,
    TENANTS_MAX = PKVI_ACCOUNTS_MAX - 1,
    TRANSFERS_DEFAULT = 4,
    ANNOUNCED_PAGES_DEFAULT = 4096,
    KEY_SETS_DEFAULT = 1024,
    KEY_BYTES_DEFAULT = 1024,
    KEY_BYTES_MAX = 1 << 20,
    QUERY_HEADS_MAX = 65536,
};

static void set_default(uint32_t* field, uint32_t value) {
    if (*field == 0) *field = value;
}

/* An empty variable of the environment means the same as none. */
static const char* text_or_null(const char* text) {
    if (text == NULL) return NULL;
    return text[0] != '\0' ? text : NULL;
}

static bool is_power_of_two(uint32_t value) {
    return value != 0 && (value & (value - 1)) == 0;
}

static bool in_range(uint32_t value, uint32_t low, uint32_t high) {
    return value >= low && value <= high;
}

static int check_group(pkv_group_config* group, const char** why) {
    set_default(&group->value_dim, group->key_dim);
    set_default(&group->block_tokens, 16);
    REQUIRE(in_range(group->layers, 1, LAYERS_MAX), PKV_EINVAL, "groups[0].layers: 1 to 1024");
    REQUIRE(in_range(group->kv_heads, 1, HEADS_MAX), PKV_EINVAL, "groups[0].kv_heads: 1 to 1024");
    REQUIRE(in_range(group->key_dim, 16, PKV_HEAD_DIM_MAX), PKV_EINVAL,
            "groups[0].key_dim: 16 to 256");
    REQUIRE(group->key_dim % 16 == 0, PKV_EINVAL, "groups[0].key_dim: a multiple of 16");
    REQUIRE(in_range(group->value_dim, 16, PKV_HEAD_DIM_MAX), PKV_EINVAL,
            "groups[0].value_dim: 16 to 256");
    REQUIRE(group->value_dim % 16 == 0, PKV_EINVAL, "groups[0].value_dim: a multiple of 16");
    REQUIRE(group->k_dtype <= PKV_I4, PKV_EINVAL, "groups[0].k_dtype: one of enum pkv_dtype");
    REQUIRE(group->v_dtype <= PKV_I4, PKV_EINVAL, "groups[0].v_dtype: one of enum pkv_dtype");
    REQUIRE(is_power_of_two(group->block_tokens), PKV_EINVAL,
            "groups[0].block_tokens: a power of two");
    REQUIRE(group->block_tokens <= PKV_BLOCK_TOKENS_MAX, PKV_EINVAL,
            "groups[0].block_tokens: at most 256");
    const bool is_scaled =
        pkvi_dtype_is_scaled(group->k_dtype) || pkvi_dtype_is_scaled(group->v_dtype);
    REQUIRE(!is_scaled || group->block_tokens >= 16, PKV_EINVAL,
            "groups[0].block_tokens: at least 16 with i8, e4m3, e5m2 and i4");
    REQUIRE(group->window <= SEQUENCE_TOKENS_MAX, PKV_EINVAL, "groups[0].window: at most 2^27");
    REQUIRE(group->sinks <= SEQUENCE_TOKENS_MAX, PKV_EINVAL, "groups[0].sinks: at most 2^27");
    return PKV_OK;
}

/* Bytes of one extent, and what is cut from it. */
static int cut_extents(const pkv_config* config, const struct pkvi_layout* layout, pkv_sizes* sizes,
                       const char** why) {
    const uint64_t bytes = layout->block_bytes;
    const uint64_t extent = config->arena != NULL ? config->arena->extent_bytes : PKVI_EXTENT_BYTES;
    const bool fits = bytes <= extent;
    REQUIRE(fits || config->arena == NULL, PKV_EINVAL,
            "arena: one block of groups[0] is larger than its extents");
    sizes->block_bytes = bytes;
    sizes->blocks_per_extent = fits ? (uint32_t)(extent / bytes) : 1;
    return PKV_OK;
}

/* A pool in a shared arena may have all of it, unless it says how much. */
static int check_arena(pkv_config* config, const pkv_sizes* sizes, const char** why) {
    const pkv_arena* arena = config->arena;
    REQUIRE(config->allocator <= PKV_LIFO, PKV_EINVAL, "allocator: one of enum pkv_allocator");
    if (config->allocator == PKV_ALLOCATOR_DEFAULT)
        config->allocator = arena != NULL ? (uint32_t)arena->policy : PKVI_ALLOCATOR_DEFAULT;
    if (arena == NULL) return PKV_OK;
    const uint64_t numbers = (uint64_t)arena->extent_max * sizes->blocks_per_extent;
    REQUIRE(strcmp(config->device, arena->device_name) == 0, PKV_EINVAL,
            "arena: it is of another device");
    REQUIRE(numbers <= BLOCKS_MAX, PKV_ETOOBIG, "arena: more than 2^24 blocks of groups[0] fit it");
    if (config->blocks == 0 || config->blocks > numbers) config->blocks = (uint32_t)numbers;
    return PKV_OK;
}

static int check_limits(pkv_config* config, const char** why) {
    REQUIRE(config->blocks > 0, PKV_EINVAL, "blocks: must be set, there is no default");
    REQUIRE(config->blocks <= BLOCKS_MAX, PKV_ETOOBIG, "blocks: at most 2^24");
    const uint64_t pool_tokens = (uint64_t)config->blocks * config->groups[0].block_tokens;
    set_default(&config->sequences_max, 256);
    set_default(&config->sequence_tokens_max, pool_tokens < SEQUENCE_TOKENS_DEFAULT
                                                  ? (uint32_t)pool_tokens
                                                  : SEQUENCE_TOKENS_DEFAULT);
    set_default(&config->plans_max, 2);
    set_default(&config->plan_sequences_max, config->sequences_max);
    set_default(&config->plan_tokens_max, PLAN_TOKENS_DEFAULT);
    set_default(&config->trace_events_max, 1024);
    set_default(&config->threads, 1);
    set_default(&config->transfers_max, TRANSFERS_DEFAULT);
    set_default(&config->announced_pages_max, config->blocks < ANNOUNCED_PAGES_DEFAULT
                                                  ? config->blocks
                                                  : ANNOUNCED_PAGES_DEFAULT);
    REQUIRE(config->sequences_max <= SEQUENCES_MAX, PKV_ETOOBIG, "sequences_max: at most 2^20");
    REQUIRE(config->sequence_tokens_max <= SEQUENCE_TOKENS_MAX, PKV_ETOOBIG,
            "sequence_tokens_max: at most 2^27");
    REQUIRE(config->plans_max <= PLANS_MAX, PKV_ETOOBIG, "plans_max: at most 64");
    REQUIRE(config->plan_sequences_max <= SEQUENCES_MAX, PKV_ETOOBIG,
            "plan_sequences_max: at most 2^20");
    REQUIRE(config->plan_tokens_max <= PLAN_TOKENS_MAX, PKV_ETOOBIG,
            "plan_tokens_max: at most 2^20");
    REQUIRE(config->trace_events_max <= TRACE_EVENTS_MAX, PKV_ETOOBIG,
            "trace_events_max: at most 2^20");
    REQUIRE(config->threads <= THREADS_MAX, PKV_ETOOBIG, "threads: at most 1024");
    REQUIRE(config->host_blocks <= BLOCKS_MAX, PKV_ETOOBIG, "host_blocks: at most 2^24");
    REQUIRE(config->transfers_max <= TRANSFERS_MAX, PKV_ETOOBIG, "transfers_max: at most 64");
    REQUIRE(config->tenants_max <= TENANTS_MAX, PKV_ETOOBIG, "tenants_max: at most 65535");
    REQUIRE(config->retained_max <= BLOCKS_MAX, PKV_ETOOBIG, "retained_max: at most 2^24");
    REQUIRE(config->swap_layers <= config->groups[0].layers, PKV_EINVAL,
            "swap_layers: at most the layers of the group");
    set_default(&config->key_sets_max, config->sequences_max < KEY_SETS_DEFAULT
                                           ? config->sequences_max
                                           : KEY_SETS_DEFAULT);
    set_default(&config->key_bytes_max, KEY_BYTES_DEFAULT);
    REQUIRE(config->key_sets_max <= SEQUENCES_MAX, PKV_ETOOBIG, "key_sets_max: at most 2^20");
    REQUIRE(config->key_bytes_max <= KEY_BYTES_MAX, PKV_ETOOBIG, "key_bytes_max: at most 2^20");
    REQUIRE(config->announced_pages_max <= BLOCKS_MAX, PKV_ETOOBIG,
            "announced_pages_max: at most 2^24");
    REQUIRE(config->cow <= PKV_COW_FORK, PKV_EINVAL, "cow: PKV_COW_WRITE or PKV_COW_FORK");
    REQUIRE(config->eviction_hook.offer_max != PKV_OFFER_NONE ||
                (config->eviction_hook.note != NULL && config->tenants_max == 0),
            PKV_EINVAL, "eviction_hook.offer_max: PKV_OFFER_NONE needs note, and tenants_max 0");
    if (config->host_blocks == 0) config->transfers_max = 0;
    return PKV_OK;
}

static int check_graphs(pkv_config* config, const char** why) {
    if (config->graph_sequences_max == 0) return PKV_OK;
    set_default(&config->graph_sequence_tokens_max, 1);
    const uint64_t tokens =
        (uint64_t)config->graph_sequences_max * config->graph_sequence_tokens_max;
    REQUIRE(config->graph_sequences_max <= config->plan_sequences_max, PKV_ETOOBIG,
            "graph_sequences_max: at most plan_sequences_max");
    REQUIRE(tokens <= config->plan_tokens_max, PKV_ETOOBIG,
            "graph_sequence_tokens_max: of all sequences at most plan_tokens_max");
    REQUIRE(config->graph_query_heads > 0, PKV_EINVAL,
            "graph_query_heads: must be set, there is no default");
    REQUIRE(config->graph_query_heads % config->groups[0].kv_heads == 0, PKV_EINVAL,
            "graph_query_heads: a multiple of kv_heads");
    REQUIRE(config->graph_query_heads <= QUERY_HEADS_MAX, PKV_ETOOBIG,
            "graph_query_heads: at most 65536");
    REQUIRE(strcmp(config->device, "cuda") == 0, PKV_ENOTSUP,
            "graph_sequences_max: steps are captured on \"cuda\" alone");
    return PKV_OK;
}

static int check_leaves(pkv_config* config, const char** why) {
    const uint64_t per_sequence = pkvi_leaves_for(pkvi_config_pages_max(config));
    const uint64_t all = per_sequence * config->sequences_max;
    REQUIRE(config->table_leaves_max != 0 || all <= UINT32_MAX / PKVI_LEAF_PAGES, PKV_ETOOBIG,
            "table_leaves_max: set it; sequences_max times sequence_tokens_max is too large");
    set_default(&config->table_leaves_max, (uint32_t)all);
    REQUIRE(config->table_leaves_max <= UINT32_MAX / PKVI_LEAF_PAGES, PKV_ETOOBIG,
            "table_leaves_max: at most 2^24");
    return PKV_OK;
}

static int compute_sizes(const pkv_config* config, const struct pkvi_layout* layout,
                         pkv_sizes* sizes, const char** why) {
    sizes->extents = pkvi_ceil_div(config->blocks, sizes->blocks_per_extent);
    uint64_t extent_bytes;
    REQUIRE(pkvi_mul(sizes->blocks_per_extent, layout->block_bytes, &extent_bytes), PKV_ETOOBIG,
            "groups[0]: one extent does not fit 64 bits");
    if (config->arena != NULL) extent_bytes = config->arena->extent_bytes;
    REQUIRE(pkvi_mul(extent_bytes, sizes->extents, &sizes->arena_bytes), PKV_ETOOBIG,
            "blocks: the arena does not fit 64 bits");
    REQUIRE(sizes->arena_bytes <= PTRDIFF_MAX, PKV_ETOOBIG,
            "blocks: the arena does not fit the address space");
    REQUIRE(pkvi_mul(config->host_blocks, layout->block_bytes, &sizes->host_bytes), PKV_ETOOBIG,
            "host_blocks: the host tier does not fit 64 bits");
    REQUIRE(sizes->host_bytes <= PTRDIFF_MAX, PKV_ETOOBIG,
            "host_blocks: the host tier does not fit the address space");
    return PKV_OK;
}

int pkvi_config_resolve(const pkv_config* config, pkv_config* resolved, struct pkvi_layout* layout,
                        pkv_sizes* sizes, const char** why) {
    REQUIRE(config->struct_size == sizeof *config, PKV_EVERSION,
            "struct_size: call pkv_config_init first");
    REQUIRE((config->version ^ PKV_VERSION) >> 8 == 0, PKV_EVERSION,
            "version: the program was compiled for another version");
    pkv_config result = *config;
    if (result.device == NULL) result.device = "cpu";
    result.isa = text_or_null(result.isa != NULL ? result.isa : getenv("PKV_ISA"));
    set_default(&result.group_count, 1);
    REQUIRE(pkvi_device_known(result.device), PKV_ENOTSUP, "device: \"cpu\", \"cuda\" or \"sim\"");
    REQUIRE(result.isa == NULL || pkvi_isa_known(result.isa), PKV_ENOTSUP,
            "isa: not one that this library has and this processor runs");
    REQUIRE(result.group_count == 1, PKV_ENOTSUP, "group_count: this version takes one group");
    REQUIRE(pkvi_policy_of(&result) != NULL, PKV_ENOTSUP,
            "eviction: reuse, lru, fifo, lfu, slru, s3fifo, arc or greedydual");
    PKVI_TRY(check_group(&result.groups[0], why));
    REQUIRE(pkvi_layout_init(layout, &result.groups[0]), PKV_ETOOBIG,
            "groups[0]: one block does not fit 64 bits");
    PKVI_TRY(cut_extents(&result, layout, sizes, why));
    PKVI_TRY(check_arena(&result, sizes, why));
    PKVI_TRY(check_limits(&result, why));
    PKVI_TRY(check_graphs(&result, why));
    PKVI_TRY(check_leaves(&result, why));
    PKVI_TRY(compute_sizes(&result, layout, sizes, why));
    PKVI_TRY(pkvi_device_check(&result, why));
    *resolved = result;
    return PKV_OK;
}

uint32_t pkvi_config_transfer_pairs_max(const pkv_config* resolved) {
    const uint32_t pages = pkvi_config_pages_max(resolved);
    const uint32_t smaller = pages < resolved->blocks ? pages : resolved->blocks;
    return smaller < resolved->host_blocks ? smaller : resolved->host_blocks;
}

uint32_t pkvi_config_block_numbers(const pkv_config* resolved, const pkv_sizes* sizes) {
    if (resolved->arena == NULL) return resolved->blocks;
    return resolved->arena->extent_max * sizes->blocks_per_extent;
}

uint32_t pkvi_config_pages_max(const pkv_config* resolved) {
    return pkvi_ceil_div(resolved->sequence_tokens_max, resolved->groups[0].block_tokens);
}
