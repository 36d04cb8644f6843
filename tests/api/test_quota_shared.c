/* test_quota_shared.c - quotas of a cache whose arena has less memory than the cache may have blocks,
 * what it loses, and what is over in one cache when another needs its room.
 *
 * The arena has two extents of eight blocks, and address space for four: 32 blocks. */
#include "unit.h"

#include "api/arena_fixture.h"

enum { CHAT = 1, BATCH = 2, EXTENTS = 2 };

static pkv_arena* open_arena(void) {
    pkv_arena_config config = arena_config(EXTENTS);
    config.bytes_max = 2 * config.bytes;
    pkv_arena* arena;
    ASSERT_OK(pkv_arena_create(&config, &arena));
    return arena;
}

static pkv_cache* open_cache(pkv_arena* arena) {
    pkv_config config = member_config(arena, 1);
    config.tenants_max = 2;
    return fixture_create(&config);
}

static void close_all(pkv_cache* cache, pkv_arena* arena) {
    fixture_check(cache);
    pkv_cache_destroy(cache);
    ASSERT_OK(pkv_arena_destroy(arena));
}

static pkv_tenant_info info_of(pkv_cache* cache, uint64_t tenant) {
    pkv_tenant_info info;
    ASSERT_OK(pkv_tenant_get(cache, tenant, &info));
    return info;
}

static void set_guarantee(pkv_cache* cache, uint64_t tenant, uint32_t blocks) {
    const pkv_tenant_config config = {tenant, blocks, 0, 0};
    ASSERT_OK(pkv_tenant_set(cache, &config));
}

/* `blocks` cached blocks of a tenant, of tokens from `first` on. */
static void leave(pkv_cache* cache, uint64_t tenant, uint32_t blocks, uint32_t first) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_tokens(tokens, blocks * FIXTURE_BLOCK, first);
    fixture_extend(cache, seq, tokens, blocks * FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

/* CHAT has `cached` blocks of the 12 that it is guaranteed; all other memory is in use by `*batch`. */
static pkv_cache* open_full(pkv_arena* arena, uint32_t cached, pkv_seq* batch) {
    pkv_cache* cache = open_cache(arena);
    set_guarantee(cache, CHAT, 12);
    leave(cache, CHAT, cached, 1);
    *batch = fixture_seq(cache, BATCH);
    ASSERT_OK(reserve(cache, *batch, EXTENTS * A_BLOCKS - cached));
    ASSERT_OK(pkv_seq_commit(cache, *batch));
    ASSERT_EQ(fixture_stats(cache).blocks_free, 0);
    return cache;
}

TEST(others_get_none_of_a_guarantee_that_memory_is_short_of) {
    pkv_arena* arena = open_arena();
    pkv_seq batch;
    pkv_cache* cache = open_full(arena, 12, &batch);
    const uint64_t before = fixture_check(cache).cache_digest;
    for (uint32_t blocks = 1; blocks <= 10; blocks++) /* all of it would fit the quotas */
        ASSERT_STATUS(reserve(cache, batch, blocks), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(cache).cache_digest, before);
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 12);
    close_all(cache, arena);
}

TEST(a_tenant_loses_its_own_cached_blocks_when_memory_is_short) {
    pkv_arena* arena = open_arena();
    pkv_seq batch;
    pkv_cache* cache = open_full(arena, 9, &batch);
    const pkv_seq chat = fixture_seq(cache, CHAT);
    ASSERT_OK(reserve(cache, chat, 2)); /* few, and still within the guarantee */
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 7);
    ASSERT_OK(reserve(cache, chat, 6)); /* many, of which some are beyond it */
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 1);
    ASSERT_EQ(info_of(cache, CHAT).blocks_active, 8);
    ASSERT_STATUS(reserve(cache, chat, 2), PKV_ENOBLOCKS);
    close_all(cache, arena);
}

TEST(in_one_plan_each_tenant_loses_no_more_than_it_asks_for) {
    pkv_arena* arena = open_arena();
    pkv_seq batch;
    pkv_cache* cache = open_full(arena, 9, &batch);
    const pkv_seq other = fixture_seq(cache, BATCH);
    const pkv_seq chat = fixture_seq(cache, CHAT);
    const pkv_entry entries[2] = {{chat, NULL, 2 * FIXTURE_BLOCK}, {other, NULL, FIXTURE_BLOCK}};
    pkv_plan plan;
    ASSERT_STATUS(pkv_plan_begin(cache, entries, 2, &plan), PKV_ENOBLOCKS);
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 9);
    ASSERT_OK(pkv_plan_begin(cache, entries, 1, &plan));
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 7);
    close_all(cache, arena);
}

TEST(extents_of_others_come_before_what_a_tenant_is_guaranteed) {
    pkv_arena* arena = open_arena();
    pkv_cache* cache = open_cache(arena);
    pkv_cache* other = member_open(arena, B_HEADS);
    leave_cached(other, B_BLOCKS, 1);
    set_guarantee(cache, CHAT, 8);
    leave(cache, CHAT, 8, 1);
    const pkv_seq batch = fixture_seq(cache, BATCH);
    ASSERT_OK(reserve(cache, batch, 3));
    ASSERT_EQ(info_of(cache, CHAT).blocks_cached, 8);
    ASSERT_EQ(fixture_stats(cache).extents_claimed, 1);
    fixture_check(other);
    pkv_cache_destroy(other);
    close_all(cache, arena);
}

/* So many fit, and one more does not; what was there before is there afterwards. */
static void assert_available(pkv_cache* cache, uint64_t tenant, uint32_t blocks) {
    ASSERT_EQ(info_of(cache, tenant).blocks_available, blocks);
    const pkv_seq seq = fixture_seq(cache, tenant);
    const int status = reserve(cache, seq, blocks + 1);
    ASSERT(status == PKV_ENOBLOCKS || status == PKV_ETOOBIG);
    if (blocks > 0) ASSERT_OK(reserve(cache, seq, blocks));
    ASSERT_EQ(info_of(cache, tenant).blocks_available, 0);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

TEST(what_is_available_is_there) {
    pkv_arena* arena = open_arena();
    pkv_cache* cache = open_cache(arena);
    set_guarantee(cache, CHAT, 20);                         /* of 16 that there are */
    assert_available(cache, BATCH, EXTENTS * A_BLOCKS - 4); /* quotas leave it 12 */
    leave(cache, CHAT, 7, 1);
    assert_available(cache, BATCH, EXTENTS * A_BLOCKS - 7);
    leave(cache, BATCH, 3, 100);
    assert_available(cache, BATCH, EXTENTS * A_BLOCKS - 7);
    leave(cache, BATCH, 3, 100);
    assert_available(cache, CHAT, EXTENTS * A_BLOCKS);
    close_all(cache, arena);
}

TEST(what_others_have_only_cached_is_available) {
    pkv_arena* arena = open_arena();
    pkv_cache* cache = open_cache(arena);
    pkv_cache* other = member_open(arena, B_HEADS);
    leave_cached(other, B_BLOCKS, 1);
    ASSERT_EQ(info_of(cache, CHAT).blocks_available, EXTENTS * A_BLOCKS);
    const pkv_seq held = fixture_seq(other, 0);
    ASSERT_OK(reserve(other, held, 1));
    assert_available(cache, CHAT, A_BLOCKS);
    fixture_check(other);
    pkv_cache_destroy(other);
    close_all(cache, arena);
}

/* A tail that is longer in the index would be copied, if there were memory for the copy. */
TEST(a_tail_leaves_the_index_when_memory_is_short) {
    pkv_arena* arena = open_arena();
    pkv_cache* cache = open_cache(arena);
    uint32_t tokens[6];
    uint32_t matched;
    const pkv_seq first = fixture_seq(cache, CHAT);
    fixture_tokens(tokens, 6, 1);
    fixture_extend(cache, first, tokens, 6);
    ASSERT_OK(pkv_seq_free(cache, first));
    const pkv_seq seq = fixture_seq(cache, CHAT);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, 5, &matched));
    ASSERT_EQ(matched, 5);
    ASSERT_OK(reserve(cache, fixture_seq(cache, BATCH), EXTENTS * A_BLOCKS - 2));
    ASSERT_OK(pkv_seq_append(cache, seq, tokens + 5, 1, NULL));
    ASSERT_EQ(fixture_stats(cache).cow_copies, 0);
    ASSERT_EQ(fixture_stats(cache).evictions, 0);
    close_all(cache, arena);
}

TEST(what_others_claim_counts_as_lost) {
    pkv_arena* arena = open_arena();
    pkv_cache* cache = open_cache(arena);
    pkv_cache* other = member_open(arena, B_HEADS);
    set_guarantee(cache, CHAT, 4);
    leave(cache, CHAT, A_BLOCKS, 1);
    leave(cache, BATCH, A_BLOCKS, 1);
    ASSERT_OK(reserve(other, fixture_seq(other, 0), EXTENTS * B_BLOCKS));
    ASSERT_EQ(info_of(cache, CHAT).evictions, A_BLOCKS);
    ASSERT_EQ(info_of(cache, BATCH).evictions, A_BLOCKS);
    fixture_check(other);
    pkv_cache_destroy(other);
    close_all(cache, arena);
}

/* ---- What is over ---------------------------------------------------------------------------- */

/* `blocks` blocks that only a pin holds, whose time is over. */
static void leave_expired(pkv_cache* cache, uint32_t blocks) {
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    pkv_pin pin;
    const pkv_seq seq = fixture_seq(cache, CHAT);
    fixture_tokens(tokens, blocks * FIXTURE_BLOCK, 1);
    fixture_extend(cache, seq, tokens, blocks * FIXTURE_BLOCK);
    ASSERT_OK(pkv_pin_create(cache, seq, blocks * FIXTURE_BLOCK, 1, 100, &pin));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_clock_advance(cache, 100));
}

TEST(a_pin_that_is_over_counts_for_no_tenant) {
    pkv_arena* arena = open_arena();
    pkv_cache* cache = open_cache(arena);
    leave_expired(cache, 3);
    const pkv_tenant_info info = info_of(cache, CHAT);
    ASSERT_EQ(info.blocks_active, 0);
    ASSERT_EQ(info.blocks_cached, 3);
    close_all(cache, arena);
}

TEST(a_pin_that_is_over_keeps_no_memory_from_other_caches) {
    pkv_arena* arena = open_arena();
    pkv_cache* cache = open_cache(arena);
    pkv_cache* other = member_open(arena, B_HEADS);
    leave_expired(cache, EXTENTS * A_BLOCKS);
    const pkv_seq seq = fixture_seq(other, 0);
    ASSERT_OK(reserve(other, seq, B_BLOCKS));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, A_BLOCKS);
    ASSERT_OK(pkv_arena_resize(arena, EXTENT));
    fixture_check(other);
    pkv_cache_destroy(other);
    close_all(cache, arena);
}
