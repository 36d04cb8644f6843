/* test_publish.c - prefixes that a tenant gives to all others. */
#include "unit.h"

#include "api/fixture.h"

static const uint32_t text[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

static uint32_t publish(pkv_cache* cache, pkv_seq seq, uint32_t count) {
    uint32_t published = UINT32_MAX;
    ASSERT_OK(pkv_seq_publish(cache, seq, count, &published));
    fixture_check(cache);
    return published;
}

/* A sequence of `tenant` with what is found of the text. */
static pkv_seq matched(pkv_cache* cache, uint64_t tenant, uint32_t count, uint32_t wanted) {
    uint32_t found;
    const pkv_seq seq = fixture_seq(cache, tenant);
    ASSERT_OK(pkv_seq_match(cache, seq, text, count, &found));
    ASSERT_EQ(found, wanted);
    fixture_expect(cache, seq, text, wanted);
    return seq;
}

static pkv_seq computed(pkv_cache* cache, uint64_t tenant, uint32_t count) {
    const pkv_seq seq = fixture_seq(cache, tenant);
    fixture_extend(cache, seq, text, count);
    return seq;
}

TEST(only_what_is_published_is_found_by_others) {
    pkv_cache* cache = fixture_open();
    const pkv_seq owner = computed(cache, 1, 12);
    matched(cache, 2, 12, 0);
    ASSERT_EQ(publish(cache, owner, 9), 8);
    matched(cache, 2, 12, 8);
    matched(cache, 2, 7, 7); /* also in part */
    matched(cache, 1, 12, 12);
    pkv_cache_destroy(cache);
}

TEST(who_has_computed_the_beginning_finds_what_is_published_behind_it) {
    pkv_cache* cache = fixture_open();
    computed(cache, 2, 6);
    const pkv_seq owner = computed(cache, 1, 12);
    ASSERT_EQ(publish(cache, owner, 12), 12);
    matched(cache, 2, 12, 12);
    matched(cache, 2, 11, 11);
    matched(cache, 2, 6, 6);
    matched(cache, 3, 12, 12);
    pkv_cache_destroy(cache);
}

TEST(who_publishes_behind_the_published_beginning_of_another_finds_it) {
    pkv_cache* cache = fixture_open();
    const pkv_seq first = computed(cache, 1, 4);
    const pkv_seq second = computed(cache, 2, 8);
    ASSERT_EQ(publish(cache, first, 4), 4);
    ASSERT_EQ(publish(cache, second, 8), 8);
    matched(cache, 2, 8, 8); /* its own first page leads nowhere */
    matched(cache, 1, 8, 8);
    pkv_cache_destroy(cache);
}

TEST(what_a_tenant_has_behind_its_own_beginning_is_found_when_it_is_longer) {
    pkv_cache* cache = fixture_open();
    computed(cache, 2, 12);
    const pkv_seq owner = computed(cache, 1, 8);
    ASSERT_EQ(publish(cache, owner, 8), 8);
    const pkv_seq seq = matched(cache, 2, 12, 12);
    ASSERT_OK(pkv_seq_free(cache, seq));
    matched(cache, 3, 12, 8);
    pkv_cache_destroy(cache);
}

TEST(what_follows_a_published_prefix_is_each_tenants_own) {
    pkv_cache* cache = fixture_open();
    const pkv_seq owner = computed(cache, 1, 4);
    publish(cache, owner, 4);
    const pkv_seq other = matched(cache, 2, 12, 4);
    fixture_extend(cache, other, text + 4, 8);
    matched(cache, 1, 12, 4);
    matched(cache, 3, 12, 4);
    matched(cache, 2, 12, 12);
    ASSERT_OK(pkv_seq_free(cache, owner));
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(published_blocks_outlive_their_owner_and_are_scrubbed_in_the_end) {
    pkv_config config = fixture_config();
    config.blocks = 2;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq owner = computed(cache, 1, 8);
    publish(cache, owner, 8);
    ASSERT_OK(pkv_seq_free(cache, owner));
    const pkv_seq other = matched(cache, 2, 8, 8);
    ASSERT_OK(pkv_seq_free(cache, other));
    ASSERT_EQ(fixture_stats(cache).scrubs, 0);
    const pkv_seq taker = fixture_seq(cache, 2);
    ASSERT_OK(pkv_seq_append(cache, taker, NULL, 8, NULL));
    ASSERT_EQ(fixture_stats(cache).scrubs, 2);
    ASSERT_OK(pkv_seq_commit(cache, taker));
    ASSERT_NEAR(fixture_read(cache, taker, 0), 0, 0);
    pkv_cache_destroy(cache);
}

TEST(who_writes_into_a_published_block_gets_a_copy) {
    pkv_cache* cache = fixture_open();
    const pkv_seq owner = computed(cache, 1, 8);
    publish(cache, owner, 8);
    ASSERT_OK(pkv_seq_free(cache, owner));
    const pkv_seq other = matched(cache, 2, 6, 6);
    fixture_extend(cache, other, (const uint32_t[]){70}, 1);
    ASSERT_EQ(fixture_stats(cache).cow_copies, 1);
    fixture_expect(cache, other, (const uint32_t[]){1, 2, 3, 4, 5, 6, 70}, 7);
    matched(cache, 3, 8, 8);
    pkv_cache_destroy(cache);
}

/* Alone in a full pool: what another tenant has written is never written over in place. */
TEST(a_published_block_of_another_is_not_taken_over) {
    pkv_config config = fixture_config();
    config.blocks = 1;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq owner = computed(cache, 1, 4);
    publish(cache, owner, 4);
    ASSERT_OK(pkv_seq_free(cache, owner));
    const pkv_seq other = matched(cache, 2, 3, 3);
    ASSERT_STATUS(pkv_seq_append(cache, other, NULL, 1, NULL), PKV_ENOBLOCKS);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(two_tenants_publish_one_text_and_the_rest_is_joined_to_it) {
    pkv_cache* cache = fixture_open();
    const pkv_seq a = computed(cache, 1, 8);
    const pkv_seq b = computed(cache, 2, 12);
    ASSERT_EQ(publish(cache, a, 8), 8);
    ASSERT_EQ(publish(cache, b, 12), 12);
    ASSERT_EQ(publish(cache, b, 12), 12);
    matched(cache, 3, 12, 12);
    const pkv_seq equal = computed(cache, 3, 12); /* shares what is published */
    ASSERT_EQ(fixture_stats(cache).prefix_duplicates, 3);
    ASSERT_OK(pkv_seq_free(cache, equal));
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(what_is_not_in_the_index_cannot_be_published) {
    pkv_cache* cache = fixture_open();
    const pkv_seq seq = fixture_seq(cache, 1);
    fixture_extend(cache, seq, text, 4);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 4, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    ASSERT_EQ(publish(cache, seq, 8), 4);
    uint32_t published;
    ASSERT_STATUS(pkv_seq_publish(cache, seq, 9, &published), PKV_ERANGE);
    ASSERT_STATUS(pkv_seq_publish(cache, seq, 8, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_publish(NULL, seq, 8, &published), PKV_EINVAL);
    pkv_cache_destroy(cache);
}

TEST(keys_stay_part_of_what_is_published) {
    pkv_cache* cache = fixture_open();
    const pkv_seq owner = fixture_seq(cache, 1);
    ASSERT_OK(pkv_seq_set_keys(cache, owner, "lora", 4, NULL, 0));
    fixture_extend(cache, owner, text, 8);
    ASSERT_EQ(publish(cache, owner, 8), 8);
    matched(cache, 2, 8, 0);
    const pkv_seq other = fixture_seq(cache, 2);
    ASSERT_OK(pkv_seq_set_keys(cache, other, "lora", 4, NULL, 0));
    uint32_t found;
    ASSERT_OK(pkv_seq_match(cache, other, text, 8, &found));
    ASSERT_EQ(found, 8);
    pkv_cache_destroy(cache);
}
