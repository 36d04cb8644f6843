/* test_check.c - the judge itself: every kind of damage to the books is found, and called by its
 * name.
 *
 * A cache is brought into a state in which all structures are in use: a fork that shares a leaf,
 * cached prefixes, an open plan, appended tokens, extents that are full, partly used and free, a
 * sequence that is away and one that is leaving.
 * pkv_check finds nothing. Then one number in it is changed, and pkv_check must name the invariant.
 * */
#include "unit.h"

#include "core/cache.h"
#include "core/sibling.h"

/* Blocks of 1 MiB, so that an extent holds two of them (or one, with tiny limits). */
enum { BLOCK_TOKENS = 16, BLOCKS = 16 };

enum { PARENT, CHILD, PLANNED, APPENDED, GONE, AWAY, LEAVING, SEQS };

struct world {
    pkv_cache* cache;
    pkv_seq handles[SEQS];
    struct pkvi_seq* seqs[SEQS];
    struct pkvi_plan* plan;
    struct pkvi_transfer* transfer;
};

static void grow(pkv_cache* cache, pkv_seq seq, uint32_t count) {
    uint32_t tokens[64];
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = 7 * i + (uint32_t)seq.id;
    ASSERT_OK(pkv_seq_append(cache, seq, tokens, count, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
}

/* Tokens without names, so that they are not cached. */
static void swap_out(struct world* w, uint32_t seq, pkv_transfer* transfer) {
    ASSERT_OK(pkv_seq_append(w->cache, w->handles[seq], NULL, 20, NULL));
    ASSERT_OK(pkv_seq_commit(w->cache, w->handles[seq]));
    ASSERT_OK(pkv_seq_swap_out(w->cache, w->handles[seq], transfer));
}

static void open_world(struct world* w) {
    pkv_config config;
    pkv_plan plan;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.groups[0] = (pkv_group_config){
        .layers = 8, .kv_heads = 4, .key_dim = 256, .block_tokens = BLOCK_TOKENS};
    config.blocks = BLOCKS;
    config.sequences_max = SEQS + 1;
    config.host_blocks = 6;
    config.tenants_max = 2;
    config.seed = 3;
    config.eviction = "lru"; /* one list, whose order the tests know */
    ASSERT_OK(pkv_cache_create(&config, &w->cache));
    for (uint32_t i = 0; i < SEQS; i++)
        if (i != CHILD) ASSERT_OK(pkv_seq_create(w->cache, i == GONE ? 2 : 1, &w->handles[i]));
    grow(w->cache, w->handles[PARENT], 40);
    grow(w->cache, w->handles[GONE], 32);
    ASSERT_OK(pkv_seq_fork(w->cache, w->handles[PARENT], &w->handles[CHILD]));
    ASSERT_OK(pkv_seq_free(w->cache, w->handles[GONE]));
    const pkv_tenant_config quota = {.tenant = 2, .guaranteed = 3, .limit = 5};
    ASSERT_OK(pkv_tenant_set(w->cache, &quota));
    const pkv_entry entry = {w->handles[PLANNED], NULL, 20};
    ASSERT_OK(pkv_plan_begin(w->cache, &entry, 1, &plan));
    ASSERT_OK(pkv_seq_append(w->cache, w->handles[APPENDED], NULL, 3, NULL));
    pkv_transfer transfer;
    swap_out(w, AWAY, &transfer);
    ASSERT_OK(pkv_transfer_wait(w->cache, transfer));
    swap_out(w, LEAVING, &transfer);
    ASSERT_OK(pkvi_transfer_find(&w->cache->transfers, transfer, &w->transfer));
    for (uint32_t i = 0; i < SEQS; i++)
        if (i != GONE) ASSERT_OK(pkvi_seq_find(&w->cache->seqs, w->handles[i], &w->seqs[i]));
    ASSERT_OK(pkvi_plan_find(&w->cache->plans, plan, &w->plan));
    ASSERT_EQ(w->cache->prefix.domains[1].idle_count, 2);
    ASSERT_GE(w->cache->arena->free.count, 2);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static uint32_t block_of(const struct world* w, uint32_t seq, uint32_t page) {
    return pkvi_table_get(&w->cache->leaves, &w->seqs[seq]->table, page);
}

static uint32_t* entry_of(const struct world* w, uint32_t seq, uint32_t page) {
    const uint32_t leaf = w->seqs[seq]->table.leaves[page / PKVI_LEAF_PAGES];
    return &w->cache->leaves.entries[leaf * PKVI_LEAF_PAGES + page % PKVI_LEAF_PAGES];
}

static struct pkvi_extent* extent_of(const struct world* w, uint32_t block) {
    return &w->cache->pool.extents[block / w->cache->pool.space.blocks_per_extent];
}

static struct pkvi_list* idle_list(const struct world* w) {
    return &w->cache->prefix.domains[1].lists[0];
}

#define DAMAGE(name, statement)                                                                    \
    static void name(struct world* w) {                                                            \
        pkv_cache* cache = w->cache;                                                               \
        (void)cache;                                                                               \
        statement;                                                                                 \
    }

DAMAGE(extent_free_and_held, cache->arena->holder[pkvi_extents_first(&cache->arena->free)] = 1)
DAMAGE(extent_of_nobody,
       cache->arena->holder[extent_of(w, block_of(w, PARENT, 0)) - cache->pool.extents] = 7)
DAMAGE(extent_free_unlisted, cache->arena->free.count--)
DAMAGE(extent_lost, cache->arena->extent_count++)
DAMAGE(held_count_high, cache->pool.held_count++)
DAMAGE(extra_reference, cache->pool.blocks[block_of(w, PARENT, 0)].refs++)
DAMAGE(lost_reference, cache->pool.blocks[block_of(w, PLANNED, 1)].refs--)
DAMAGE(lost_index_reference, cache->pool.blocks[idle_list(w)->head].refs--)
DAMAGE(used_count_high, cache->pool.used_count++)
DAMAGE(used_count_low, cache->pool.used_count--)
DAMAGE(open_free_high, cache->pool.open_free++)
DAMAGE(limit_passed, cache->pool.limit = 1)
DAMAGE(extent_use_high, extent_of(w, block_of(w, PARENT, 0))->used++)
DAMAGE(extent_never_used, extent_of(w, block_of(w, APPENDED, 0))->fresh++)
DAMAGE(extent_open_but_full,
       pkvi_extents_add(&cache->pool.open,
                        block_of(w, PARENT, 0) / cache->pool.space.blocks_per_extent, 1))
DAMAGE(leaf_reference_high, cache->leaves.refs[w->seqs[CHILD]->table.leaves[0]]++)
DAMAGE(leaf_free_count, cache->leaves.free_count--)
DAMAGE(leaf_free_in_use, cache->leaves.free_head = w->seqs[PLANNED]->table.leaves[0])
DAMAGE(leaf_that_is_not, w->seqs[PLANNED]->table.leaves[0] = cache->leaves.leaf_count)
DAMAGE(leaf_shared_by_unequals, w->seqs[CHILD]->length = 5; w->seqs[CHILD]->known = 5;
       w->seqs[CHILD]->table.pages = 1)
DAMAGE(entry_that_is_no_block, *entry_of(w, PARENT, 1) = BLOCKS)
DAMAGE(entry_rolled_too_soon, *entry_of(w, PARENT, 0) = PKV_NO_BLOCK)
DAMAGE(length_without_pages, w->seqs[PARENT]->length += BLOCK_TOKENS)
DAMAGE(pages_without_length, w->seqs[APPENDED]->reserved = 0)
DAMAGE(alive_count_high, cache->seqs.alive_count++)
DAMAGE(reserved_in_a_shared_leaf, w->seqs[PARENT]->length--; w->seqs[PARENT]->reserved++)
DAMAGE(more_known_than_there_are, w->seqs[PARENT]->known = 41)
DAMAGE(idle_count_high, cache->prefix.domains[1].idle_count++)
DAMAGE(idle_list_cut, cache->prefix.shared.candidates[idle_list(w)->head].next = PKVI_NONE)
DAMAGE(idle_list_ring,
       cache->prefix.shared.candidates[idle_list(w)->tail].next = idle_list(w)->head)
DAMAGE(idle_list_back, cache->prefix.shared.candidates[idle_list(w)->tail].previous = PKVI_NONE)
DAMAGE(idle_list_short, idle_list(w)->count--)
DAMAGE(idle_in_use, idle_list(w)->head = block_of(w, PARENT, 0))
DAMAGE(
    sibling_lost,
    cache->prefix
        .nodes[cache->prefix.siblings[pkvi_sibling_bucket(&cache->prefix, block_of(w, PARENT, 0))]]
        .sibling_next = PKVI_NONE;
    cache->prefix.siblings[pkvi_sibling_bucket(&cache->prefix, block_of(w, PARENT, 0))] = PKVI_NONE)
DAMAGE(sibling_back, cache->prefix.nodes[block_of(w, PARENT, 0)].sibling_previous = 0)
DAMAGE(node_without_tokens, cache->prefix.nodes[block_of(w, PARENT, 1)].end = 0)
DAMAGE(published_count_high, cache->prefix.published_count++)
DAMAGE(part_published, cache->prefix.nodes[block_of(w, PARENT, 2)].published = 1;
       cache->prefix.published_count++)
DAMAGE(keys_held_by_nobody, cache->prefix.extras.slots[0].holders++)
DAMAGE(keys_lost, cache->prefix.extras.free_head = PKVI_NONE)
DAMAGE(announcement_lost, cache->pending.free_count++)
DAMAGE(announcement_of_nobody,
       cache->pending.free_head = cache->pending.entries[cache->pending.free_head].next)
DAMAGE(node_count_low, cache->prefix.node_count--)
DAMAGE(node_unmarked, cache->prefix.nodes[block_of(w, PARENT, 1)].indexed = 0)
DAMAGE(node_marked, cache->prefix.nodes[block_of(w, PARENT, 2)].indexed = 1)
DAMAGE(identity_mistaken, cache->prefix.nodes[block_of(w, PARENT, 0)].identity++)
DAMAGE(node_at_another_position, cache->prefix.nodes[block_of(w, PARENT, 1)].end += BLOCK_TOKENS)
DAMAGE(parent_that_is_not, cache->prefix.nodes[block_of(w, PARENT, 1)].parent = BLOCKS)
DAMAGE(bucket_out_of_range, cache->prefix.nodes[block_of(w, PARENT, 0)].chain = BLOCKS)
DAMAGE(planned_without_plan, w->seqs[PARENT]->in_plan = true)
DAMAGE(plan_without_planned, w->seqs[PLANNED]->in_plan = false)
DAMAGE(plan_of_a_dead_sequence, w->plan->seqs[0] = w->handles[GONE])
DAMAGE(slot_named_twice, w->seqs[LEAVING]->host_head = w->seqs[AWAY]->host_head)
DAMAGE(slot_lost, cache->tier.free_head = cache->tier.next[cache->tier.free_head])
DAMAGE(slot_free_count, cache->tier.free_count--)
DAMAGE(slot_that_is_not, cache->tier.free_head = cache->tier.slot_count)
DAMAGE(slot_of_no_page, cache->tier.page[w->seqs[AWAY]->host_head] = 9)
DAMAGE(away_without_slots, w->seqs[AWAY]->host_head = PKVI_NONE)
DAMAGE(resident_with_slots, w->seqs[APPENDED]->host_head = w->seqs[AWAY]->host_head)
DAMAGE(away_with_blocks, w->seqs[PARENT]->residence = PKV_AWAY)
DAMAGE(leaving_without_transfer, w->transfer->seq = w->seqs[PARENT])
DAMAGE(arriving_by_a_way_out, w->seqs[LEAVING]->residence = PKV_ARRIVING)
DAMAGE(transfer_count_high, cache->transfers.open_count++)
DAMAGE(failed_without_arriving, w->seqs[PLANNED]->arrival = PKV_EIO)
DAMAGE(account_active_high, cache->quotas.accounts[0].active++)
DAMAGE(account_cached_low, cache->quotas.accounts[1].cached--)
DAMAGE(accounts_cached_high, cache->quotas.cached++)
DAMAGE(account_above_its_limit, cache->quotas.accounts[1].most = 1)
DAMAGE(account_owes_evictions, cache->quotas.accounts[1].evict = 1)
DAMAGE(excess_high, cache->quotas.excess++)
DAMAGE(claimed_high, cache->quotas.claimed++)
DAMAGE(guaranteed_low, cache->quotas.guaranteed--)
DAMAGE(guaranteed_beyond_the_pool, cache->quotas.accounts[1].guaranteed += BLOCKS;
       cache->quotas.guaranteed += BLOCKS; cache->quotas.claimed += BLOCKS)
DAMAGE(block_of_another_account, cache->pool.blocks[block_of(w, PARENT, 0)].account = 1)
DAMAGE(seq_of_another_account, w->seqs[AWAY]->account = 1)
DAMAGE(account_sequences_high, cache->quotas.accounts[0].sequences++)
DAMAGE(account_host_high, cache->quotas.accounts[1].host++)
DAMAGE(account_not_found, cache->quotas.accounts[1].tenant++)
DAMAGE(open_accounts_low, cache->quotas.open_count--)
DAMAGE(row_not_of_the_table, w->plan->block_table[1] = w->plan->block_table[0])

static void position_not_of_the_parent(struct world* w) {
    w->plan->positions[3]++;
}

static void parent_behind_its_child(struct world* w) {
    for (uint32_t i = 0; i < 20; i++)
        w->plan->parents[i] = i - 1;
    w->plan->parents[0] = PKV_NO_PARENT;
    w->plan->parents[7] = 8;
    w->plan->trees[0].parents = w->plan->parents;
}

static const struct {
    const char* name;
    void (*damage)(struct world* w);
    const char* invariant;
} cases[] = {
    {"extent_free_and_held", extent_free_and_held, "A1"},
    {"extent_of_nobody", extent_of_nobody, "A1"},
    {"extent_free_unlisted", extent_free_unlisted, "A1"},
    {"extent_lost", extent_lost, "A2"},
    {"held_count_high", held_count_high, "A2"},
    {"extra_reference", extra_reference, "P1"},
    {"lost_reference", lost_reference, "P1"},
    {"lost_index_reference", lost_index_reference, "X2"},
    {"used_count_high", used_count_high, "P3"},
    {"used_count_low", used_count_low, "P3"},
    {"open_free_high", open_free_high, "P3"},
    {"limit_passed", limit_passed, "P3"},
    {"extent_use_high", extent_use_high, "P4"},
    {"extent_never_used", extent_never_used, "P2"},
    {"extent_open_but_full", extent_open_but_full, "P4"},
    {"leaf_reference_high", leaf_reference_high, "T1"},
    {"leaf_free_count", leaf_free_count, "T1"},
    {"leaf_free_in_use", leaf_free_in_use, "T1"},
    {"leaf_that_is_not", leaf_that_is_not, "T1"},
    {"leaf_shared_by_unequals", leaf_shared_by_unequals, "T2"},
    {"entry_that_is_no_block", entry_that_is_no_block, "T3"},
    {"entry_rolled_too_soon", entry_rolled_too_soon, "S4"},
    {"length_without_pages", length_without_pages, "S1"},
    {"pages_without_length", pages_without_length, "S1"},
    {"alive_count_high", alive_count_high, "S1"},
    {"reserved_in_a_shared_leaf", reserved_in_a_shared_leaf, "S2"},
    {"more_known_than_there_are", more_known_than_there_are, "S3"},
    {"idle_count_high", idle_count_high, "X2"},
    {"idle_list_cut", idle_list_cut, "X2"},
    {"idle_list_ring", idle_list_ring, "X2"},
    {"idle_list_back", idle_list_back, "X2"},
    {"idle_list_short", idle_list_short, "X2"},
    {"idle_in_use", idle_in_use, "X2"},
    {"sibling_lost", sibling_lost, "X5"},
    {"sibling_back", sibling_back, "X5"},
    {"node_without_tokens", node_without_tokens, "X3"},
    {"published_count_high", published_count_high, "X6"},
    {"part_published", part_published, "X6"},
    {"keys_held_by_nobody", keys_held_by_nobody, "E1"},
    {"keys_lost", keys_lost, "E1"},
    {"announcement_lost", announcement_lost, "N2"},
    {"announcement_of_nobody", announcement_of_nobody, "N2"},
    {"node_count_low", node_count_low, "X3"},
    {"node_unmarked", node_unmarked, "X3"},
    {"node_marked", node_marked, "X3"},
    {"identity_mistaken", identity_mistaken, "X3"},
    {"node_at_another_position", node_at_another_position, "X3"},
    {"parent_that_is_not", parent_that_is_not, "X3"},
    {"bucket_out_of_range", bucket_out_of_range, "X3"},
    {"planned_without_plan", planned_without_plan, "L1"},
    {"plan_without_planned", plan_without_planned, "L1"},
    {"plan_of_a_dead_sequence", plan_of_a_dead_sequence, "L1"},
    {"slot_named_twice", slot_named_twice, "H1"},
    {"slot_lost", slot_lost, "H1"},
    {"slot_free_count", slot_free_count, "H1"},
    {"slot_that_is_not", slot_that_is_not, "H1"},
    {"slot_of_no_page", slot_of_no_page, "H2"},
    {"away_without_slots", away_without_slots, "H2"},
    {"resident_with_slots", resident_with_slots, "H2"},
    {"away_with_blocks", away_with_blocks, "H2"},
    {"leaving_without_transfer", leaving_without_transfer, "H3"},
    {"arriving_by_a_way_out", arriving_by_a_way_out, "H3"},
    {"transfer_count_high", transfer_count_high, "H3"},
    {"failed_without_arriving", failed_without_arriving, "H3"},
    {"account_active_high", account_active_high, "Q1"},
    {"account_cached_low", account_cached_low, "Q1"},
    {"accounts_cached_high", accounts_cached_high, "Q1"},
    {"account_above_its_limit", account_above_its_limit, "Q2"},
    {"account_owes_evictions", account_owes_evictions, "Q2"},
    {"excess_high", excess_high, "Q2"},
    {"claimed_high", claimed_high, "Q3"},
    {"guaranteed_low", guaranteed_low, "Q3"},
    {"guaranteed_beyond_the_pool", guaranteed_beyond_the_pool, "Q3"},
    {"block_of_another_account", block_of_another_account, "Q4"},
    {"seq_of_another_account", seq_of_another_account, "Q4"},
    {"account_sequences_high", account_sequences_high, "Q4"},
    {"account_host_high", account_host_high, "Q4"},
    {"account_not_found", account_not_found, "Q4"},
    {"open_accounts_low", open_accounts_low, "Q4"},
    {"row_not_of_the_table", row_not_of_the_table, "L2"},
    {"position_not_of_the_parent", position_not_of_the_parent, "L3"},
    {"parent_behind_its_child", parent_behind_its_child, "L3"},
};

TEST(a_cache_in_full_use_is_in_order) {
    struct world w;
    pkv_report report;
    open_world(&w);
    ASSERT_OK(pkv_check(w.cache, &report));
    ASSERT_PTR(report.broken, NULL);
    ASSERT_NE(report.sequences_digest, report.cache_digest);
    ASSERT_OK(pkv_check(w.cache, NULL));
    ASSERT_STATUS(pkv_check(NULL, &report), PKV_EINVAL);
    pkv_cache_destroy(w.cache);
}

TEST(damage_is_called_by_its_name) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        pkv_report report;
        open_world(&w);
        cases[i].damage(&w);
        const int status = pkv_check(w.cache, &report);
        const bool is_named =
            status == PKV_ECORRUPT && strcmp(report.broken, cases[i].invariant) == 0;
        if (!is_named) printf("  %s\n", cases[i].name);
        ASSERT_STATUS(status, PKV_ECORRUPT);
        ASSERT_STR(report.broken, cases[i].invariant);
        ASSERT_EQ(report.sequences_digest, 0);
        ASSERT_EQ(report.cache_digest, 0);
        pkv_cache_destroy(w.cache);
    }
}

/* Two nodes with equal tokens under one parent; the cache makes sure that it never comes to that.
 * */
TEST(equal_nodes_are_found) {
    struct world w;
    pkv_report report;
    open_world(&w);
    const uint32_t first = block_of(&w, PARENT, 0);
    const uint32_t second = idle_list(&w)->tail; /* a first page too: freed last */
    memcpy(pkvi_pool_tokens(&w.cache->pool, second), pkvi_pool_tokens(&w.cache->pool, first),
           BLOCK_TOKENS * sizeof(uint32_t));
    ASSERT_STATUS(pkv_check(w.cache, &report), PKV_ECORRUPT);
    ASSERT_STR(report.broken, "X3");
    pkv_cache_destroy(w.cache);
}

/* ---- Digests --------------------------------------------------------------------------------- */

TEST(the_digest_sees_what_sequences_see_and_nothing_else) {
    struct world w;
    pkv_report before;
    pkv_report after;
    uint32_t matched;
    const uint32_t token = 1;
    uint32_t block;
    open_world(&w);
    ASSERT_OK(pkv_check(w.cache, &before));
    pkvi_prefix_evict(&w.cache->prefix, 1, 1, &block);
    ASSERT_OK(pkv_check(w.cache, &after));
    ASSERT_EQ(after.sequences_digest, before.sequences_digest);
    ASSERT_NE(after.cache_digest, before.cache_digest);
    pkv_seq seq;
    ASSERT_OK(pkv_seq_create(w.cache, 1, &seq));
    ASSERT_OK(pkv_seq_match(w.cache, seq, &token, 1, &matched));
    ASSERT_OK(pkv_check(w.cache, &before));
    ASSERT_NE(after.sequences_digest, before.sequences_digest);
    pkv_cache_destroy(w.cache);
}
