/* test_check_retain.c - the judge of what is retained: damage to the table, the lists of levels and
 * the heap is found, and called by its name. */
#include "unit.h"

#include "core/cache.h"

enum { BLOCK_TOKENS = 4, RETAINED = 10 };

/* Idle blocks, four of priority 80 and two of priority 10, which have times to come, and two of
 * priority 60, which have none; one that is in use, and a row that is free. */
static pkv_cache* open_world(void) {
    static const uint32_t priorities[] = {80, 10, 60, 90};
    static const uint32_t counts[] = {4, 2, 2, 1};
    pkv_config config;
    pkv_cache* cache;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.groups[0] =
        (pkv_group_config){.layers = 1, .kv_heads = 1, .key_dim = 16, .block_tokens = BLOCK_TOKENS};
    config.blocks = 16;
    config.retained_max = RETAINED;
    config.seed = 3;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t tokens[4 * BLOCK_TOKENS];
        const uint32_t count = counts[i] * BLOCK_TOKENS;
        const pkv_retention retention = {.priority = priorities[i], .ttl_us = i != 2 ? 500 + i : 0};
        pkv_seq seq;
        for (uint32_t t = 0; t < count; t++)
            tokens[t] = 100 * i + t;
        ASSERT_OK(pkv_seq_create(cache, 0, &seq));
        ASSERT_OK(pkv_seq_append(cache, seq, tokens, count, NULL));
        ASSERT_OK(pkv_seq_commit(cache, seq));
        ASSERT_OK(pkv_seq_retain(cache, seq, 0, count, &retention, NULL));
        if (i < 3) ASSERT_OK(pkv_seq_free(cache, seq));
    }
    return cache;
}

static struct pkvi_retention* table_of(pkv_cache* cache) {
    return &cache->prefix.shared.retention;
}

static struct pkvi_levels* levels_of(pkv_cache* cache) {
    return cache->prefix.domains[0].levels;
}

static struct pkvi_retained* row_at(pkv_cache* cache, uint32_t level) {
    return &table_of(cache)->rows[levels_of(cache)->level[level].head];
}

/* ---- Damage ---------------------------------------------------------------------------------- */

#define DAMAGE(name, statement)                                                                    \
    static void name(pkv_cache* cache) {                                                           \
        struct pkvi_retention* table = table_of(cache);                                            \
        struct pkvi_levels* levels = levels_of(cache);                                             \
        (void)table;                                                                               \
        (void)levels;                                                                              \
        statement;                                                                                 \
    }

DAMAGE(used_high, table->used++)
DAMAGE(free_row_lost, table->free_head = PKVI_NONE)
DAMAGE(free_row_in_use, table->free_head = levels->level[80].head)
DAMAGE(row_of_another_block, row_at(cache, 80)->block = row_at(cache, 10)->block)
DAMAGE(row_of_no_block, row_at(cache, 80)->block = 16)
DAMAGE(row_of_a_free_block, table->row_of[15] = table->row_of[row_at(cache, 80)->block])
DAMAGE(row_that_says_nothing, row_at(cache, 80)->terms.level = PKV_PRIORITY_DEFAULT;
       row_at(cache, 80)->terms.ttl_us = PKVI_NEVER)
DAMAGE(idle_row_in_use, row_at(cache, 80)->since_us = PKVI_NEVER)
DAMAGE(list_of_another_level, levels->level[81] = levels->level[80];
       levels->level[80] = levels->level[79])
DAMAGE(list_cut, levels->level[80].head = row_at(cache, 80)->next)
DAMAGE(list_short, levels->level[80].tail = levels->level[80].head)
DAMAGE(list_ring, table->rows[levels->level[10].tail].next = levels->level[10].head)
DAMAGE(list_out_of_turn, row_at(cache, 60)->turn = 99)
DAMAGE(hidden_count_high, levels->count++)
DAMAGE(lower_count_low, levels->lower_count--)
DAMAGE(heap_short, table->heap_count--)
DAMAGE(heap_out_of_order, row_at(cache, 10)->since_us += 9;
       table->rows[table->heap[0]].since_us += 90)
DAMAGE(heap_place_mistaken, row_at(cache, 80)->place = row_at(cache, 10)->place)

static const struct {
    const char* name;
    void (*damage)(pkv_cache* cache);
    const char* invariant;
} cases[] = {
    {"used_high", used_high, "K1"},
    {"free_row_lost", free_row_lost, "K1"},
    {"free_row_in_use", free_row_in_use, "K1"},
    {"row_of_another_block", row_of_another_block, "K1"},
    {"row_of_no_block", row_of_no_block, "K1"},
    {"row_of_a_free_block", row_of_a_free_block, "K1"},
    {"row_that_says_nothing", row_that_says_nothing, "K1"},
    {"idle_row_in_use", idle_row_in_use, "K3"},
    {"list_of_another_level", list_of_another_level, "K2"},
    {"list_cut", list_cut, "K2"},
    {"list_short", list_short, "K2"},
    {"list_ring", list_ring, "K2"},
    {"list_out_of_turn", list_out_of_turn, "K2"},
    {"hidden_count_high", hidden_count_high, "K2"},
    {"lower_count_low", lower_count_low, "K2"},
    {"heap_short", heap_short, "K3"},
    {"heap_out_of_order", heap_out_of_order, "K3"},
    {"heap_place_mistaken", heap_place_mistaken, "K3"},
};

TEST(a_table_in_use_is_in_order) {
    pkv_cache* cache = open_world();
    ASSERT_OK(pkv_check(cache, NULL));
    ASSERT_EQ(table_of(cache)->used, RETAINED - 1);
    ASSERT_EQ(table_of(cache)->heap_count, 6);
    pkv_cache_destroy(cache);
}

TEST(damage_to_the_table_is_called_by_its_name) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pkv_cache* cache = open_world();
        pkv_report report;
        cases[i].damage(cache);
        const int status = pkv_check(cache, &report);
        const bool is_named =
            status == PKV_ECORRUPT && strcmp(report.broken, cases[i].invariant) == 0;
        if (!is_named) printf("  %s\n", cases[i].name);
        ASSERT_STATUS(status, PKV_ECORRUPT);
        ASSERT_STR(report.broken, cases[i].invariant);
        pkv_cache_destroy(cache);
    }
}
