/* test_extra.c - extra keys: who finds what, where a hit ends, what becomes of a full table. */
#include "unit.h"

#include "api/fixture.h"

static const uint32_t text[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

struct keys {
    const char* salt;
    pkv_extra_key list[3];
    uint32_t count;
};

static pkv_extra_key key(uint32_t begin, uint32_t end, const char* bytes) {
    return (pkv_extra_key){begin, end, bytes, (uint32_t)strlen(bytes)};
}

static pkv_seq keyed(pkv_cache* cache, struct keys keys) {
    const pkv_seq seq = fixture_seq(cache, 0);
    const uint32_t salt_bytes = keys.salt != NULL ? (uint32_t)strlen(keys.salt) : 0;
    ASSERT_OK(pkv_seq_set_keys(cache, seq, keys.salt, salt_bytes, keys.list, keys.count));
    return seq;
}

static void put(pkv_cache* cache, struct keys keys, uint32_t count) {
    const pkv_seq seq = keyed(cache, keys);
    fixture_extend(cache, seq, text, count);
    ASSERT_OK(pkv_seq_free(cache, seq));
}

/* How much of the text is found under these keys? */
static uint32_t found(pkv_cache* cache, struct keys keys) {
    uint32_t matched;
    const pkv_seq seq = keyed(cache, keys);
    ASSERT_OK(pkv_seq_match(cache, seq, text, 12, &matched));
    fixture_expect(cache, seq, text, matched);
    ASSERT_OK(pkv_seq_free(cache, seq));
    fixture_check(cache);
    return matched;
}

TEST(another_salt_finds_nothing) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.salt = "a"}, 12);
    ASSERT_EQ(found(cache, (struct keys){.salt = "a"}), 12);
    ASSERT_EQ(found(cache, (struct keys){.salt = "ab"}), 0);
    ASSERT_EQ(found(cache, (struct keys){.salt = NULL}), 0);
    pkv_cache_destroy(cache);
}

TEST(a_salt_may_be_any_bytes) {
    pkv_cache* cache = fixture_open();
    const pkv_seq a = fixture_seq(cache, 0);
    const pkv_seq b = fixture_seq(cache, 0);
    uint32_t matched;
    ASSERT_OK(pkv_seq_set_keys(cache, a, "\0x", 2, NULL, 0));
    ASSERT_OK(pkv_seq_set_keys(cache, b, "\0y", 2, NULL, 0));
    fixture_extend(cache, a, text, 12);
    ASSERT_OK(pkv_seq_match(cache, b, text, 12, &matched));
    ASSERT_EQ(matched, 0);
    pkv_cache_destroy(cache);
}

TEST(a_hit_ends_where_the_keys_part) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.list = {key(6, 9, "cat")}, .count = 1}, 12);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(6, 9, "cat")}, .count = 1}), 12);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(6, 9, "dog")}, .count = 1}), 6);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(6, 8, "cat")}, .count = 1}), 8);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(5, 9, "cat")}, .count = 1}), 5);
    ASSERT_EQ(found(cache, (struct keys){.salt = NULL}), 6);
    pkv_cache_destroy(cache);
}

TEST(keys_elsewhere_do_not_matter) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.salt = NULL}, 8);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(8, 99, "cat")}, .count = 1}), 8);
    put(cache, (struct keys){.list = {key(8, 99, "cat")}, .count = 1}, 12);
    ASSERT_EQ(found(cache, (struct keys){.salt = NULL}), 8);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 3);
    pkv_cache_destroy(cache);
}

TEST(ranges_that_touch_with_the_same_bytes_are_one) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.list = {key(2, 6, "cat"), key(6, 10, "cat")}, .count = 2}, 12);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(2, 10, "cat")}, .count = 1}), 12);
    pkv_cache_destroy(cache);
}

TEST(equal_blocks_under_different_keys_are_both_kept) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.salt = "a"}, 8);
    put(cache, (struct keys){.salt = "b"}, 8);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 4);
    ASSERT_EQ(fixture_stats(cache).prefix_duplicates, 0);
    pkv_cache_destroy(cache);
}

TEST(a_fork_has_the_keys_of_its_parent) {
    pkv_cache* cache = fixture_open();
    const pkv_seq parent = keyed(cache, (struct keys){.list = {key(4, 9, "cat")}, .count = 1});
    pkv_seq child;
    fixture_extend(cache, parent, text, 4);
    ASSERT_OK(pkv_seq_fork(cache, parent, &child));
    ASSERT_OK(pkv_seq_free(cache, parent));
    fixture_extend(cache, child, text + 4, 8);
    ASSERT_EQ(found(cache, (struct keys){.salt = NULL}), 4);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(4, 9, "cat")}, .count = 1}), 12);
    pkv_cache_destroy(cache);
}

TEST(what_is_pending_has_keys_too) {
    pkv_cache* cache = fixture_open();
    pkv_match match;
    const pkv_seq owner = keyed(cache, (struct keys){.salt = "a"});
    ASSERT_OK(pkv_seq_announce(cache, owner, text, 12));
    const pkv_seq same = keyed(cache, (struct keys){.salt = "a"});
    ASSERT_OK(pkv_seq_lookup(cache, same, text, 12, &match));
    ASSERT_EQ(match.pending, 12);
    const pkv_seq other = keyed(cache, (struct keys){.salt = "b"});
    ASSERT_OK(pkv_seq_lookup(cache, other, text, 12, &match));
    ASSERT_EQ(match.pending, 0);
    pkv_cache_destroy(cache);
}

TEST(a_set_that_nobody_has_makes_room_and_its_blocks_are_lost) {
    pkv_config config = fixture_config();
    config.key_sets_max = 2;
    pkv_cache* cache = fixture_create(&config);
    put(cache, (struct keys){.salt = "a"}, 4);
    put(cache, (struct keys){.salt = "b"}, 4);
    ASSERT_EQ(found(cache, (struct keys){.salt = "a"}), 4);
    put(cache, (struct keys){.salt = "c"}, 4); /* in the place of b, which was held before a */
    ASSERT_EQ(found(cache, (struct keys){.salt = "a"}), 4);
    ASSERT_EQ(found(cache, (struct keys){.salt = "b"}), 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* What another set led to stays findable for the set that has found it. */
TEST(a_block_that_was_found_goes_by_the_keys_of_the_finder) {
    pkv_config config = fixture_config();
    config.key_sets_max = 2;
    pkv_cache* cache = fixture_create(&config);
    const struct keys one = {.list = {key(0, 4, "cat")}, .count = 1};
    const struct keys two = {.list = {key(0, 4, "cat"), key(20, 24, "dog")}, .count = 2};
    put(cache, one, 8);
    ASSERT_EQ(found(cache, two), 8);
    put(cache, (struct keys){.salt = "c"}, 4); /* in the place of `one` */
    ASSERT_EQ(found(cache, two), 8);
    pkv_cache_destroy(cache);
}

TEST(without_a_place_for_its_keys_a_sequence_is_not_cached) {
    pkv_config config = fixture_config();
    config.key_sets_max = 1;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq holder = keyed(cache, (struct keys){.salt = "a"});
    const pkv_seq seq = keyed(cache, (struct keys){.salt = "b"});
    fixture_extend(cache, seq, text, 12);
    fixture_expect(cache, seq, text, 12);
    ASSERT_EQ(fixture_stats(cache).prefix_inserts, 0);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 0);
    ASSERT_OK(pkv_seq_free(cache, holder));
    put(cache, (struct keys){.salt = "b"}, 12);
    ASSERT_EQ(found(cache, (struct keys){.salt = "b"}), 12);
    pkv_cache_destroy(cache);
}

static int set(pkv_cache* cache, pkv_seq seq, pkv_extra_key a, pkv_extra_key b) {
    const pkv_extra_key keys[2] = {a, b};
    return pkv_seq_set_keys(cache, seq, NULL, 0, keys, 2);
}

TEST(keys_that_make_no_sense_are_refused) {
    pkv_config config = fixture_config();
    config.key_bytes_max = 40;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq seq = fixture_seq(cache, 0);
    const char bytes[40] = {0};
    ASSERT_STATUS(set(cache, seq, key(0, 4, "a"), key(3, 5, "b")), PKV_EINVAL);
    ASSERT_STATUS(set(cache, seq, key(4, 5, "a"), key(0, 1, "b")), PKV_EINVAL);
    ASSERT_STATUS(set(cache, seq, key(0, 4, "a"), key(4, 4, "b")), PKV_EINVAL);
    ASSERT_STATUS(set(cache, seq, key(0, 4, "a"), key(4, 5, "")), PKV_EINVAL);
    ASSERT_STATUS(set(cache, seq, key(0, 4, "a"), (pkv_extra_key){5, 6, NULL, 1}), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_set_keys(cache, seq, NULL, 1, NULL, 0), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_set_keys(cache, seq, NULL, 0, NULL, 1), PKV_EINVAL);
    ASSERT_STATUS(pkv_seq_set_keys(cache, seq, bytes, 40, NULL, 0), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_seq_set_keys(cache, seq, bytes, UINT32_MAX, NULL, 0), PKV_ETOOBIG);
    ASSERT_OK(pkv_seq_set_keys(cache, seq, bytes, 28, NULL, 0));
    fixture_extend(cache, seq, text, 4);
    ASSERT_STATUS(pkv_seq_set_keys(cache, seq, NULL, 0, NULL, 0), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_set_keys(NULL, seq, NULL, 0, NULL, 0), PKV_EINVAL);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(a_block_that_two_have_computed_is_found_by_the_keys_that_live) {
    pkv_config config = fixture_config();
    config.key_sets_max = 2;
    pkv_cache* cache = fixture_create(&config);
    const struct keys live = {.salt = "a", .list = {key(20, 24, "later")}, .count = 1};
    const pkv_seq first = keyed(cache, (struct keys){.salt = "a"});
    const pkv_seq second = keyed(cache, live);
    fixture_extend(cache, first, text, 12);
    fixture_extend(cache, second, text, 12);
    ASSERT_EQ(fixture_stats(cache).prefix_duplicates, 3);
    ASSERT_OK(pkv_seq_free(cache, first));
    ASSERT_EQ(found(cache, (struct keys){.salt = "b"}), 0); /* the keys of `first` are forgotten */
    ASSERT_EQ(found(cache, live), 12);
    pkv_cache_destroy(cache);
}
