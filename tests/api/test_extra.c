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

/* An image that begins with a block, ends with it, or is its last token. */
TEST(keys_that_begin_or_end_with_a_block_count_for_just_that_block) {
    const uint32_t ranges[5][2] = {{4, 8}, {7, 8}, {8, 12}, {4, 5}, {0, 4}};
    for (uint32_t i = 0; i < 5; i++) {
        const uint32_t begin = ranges[i][0];
        const uint32_t end = ranges[i][1];
        pkv_cache* cache = fixture_open();
        put(cache, (struct keys){.list = {key(begin, end, "cat")}, .count = 1}, 12);
        ASSERT_EQ(found(cache, (struct keys){.list = {key(begin, end, "cat")}, .count = 1}), 12);
        ASSERT_EQ(found(cache, (struct keys){.list = {key(begin, end, "dog")}, .count = 1}), begin);
        ASSERT_EQ(found(cache, (struct keys){.salt = NULL}), begin);
        ASSERT_EQ(found(cache, (struct keys){.list = {key(end, end + 1, "cat")}, .count = 1}),
                  begin);
        pkv_cache_destroy(cache);
    }
}

/* Its K and V have seen the image. */
TEST(the_text_behind_another_image_is_another) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.list = {key(0, 4, "cat")}, .count = 1}, 12);
    put(cache, (struct keys){.list = {key(0, 4, "dog")}, .count = 1}, 8);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 5);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(0, 4, "dog")}, .count = 1}), 8);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(0, 4, "cow")}, .count = 1}), 0);
    pkv_cache_destroy(cache);
}

TEST(images_that_change_places_are_not_the_same) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.list = {key(2, 5, "cat"), key(6, 9, "dog")}, .count = 2}, 12);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(2, 5, "dog"), key(6, 9, "cat")}, .count = 2}),
              2);
    ASSERT_EQ(found(cache, (struct keys){.list = {key(2, 5, "cat"), key(6, 9, "cow")}, .count = 2}),
              6);
    pkv_cache_destroy(cache);
}

TEST(no_salt_and_a_salt_of_no_bytes_are_the_same) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.salt = NULL}, 12);
    const pkv_seq seq = fixture_seq(cache, 0);
    uint32_t matched;
    ASSERT_OK(pkv_seq_set_keys(cache, seq, "anything", 0, NULL, 0));
    ASSERT_OK(pkv_seq_match(cache, seq, text, 12, &matched));
    ASSERT_EQ(matched, 12);
    pkv_cache_destroy(cache);
}

TEST(a_salt_may_be_long_and_each_byte_of_it_counts) {
    enum { SALT = 65536 };
    static char salt[SALT];
    pkv_config config = fixture_config();
    config.key_bytes_max = SALT + 12;
    pkv_cache* cache = fixture_create(&config);
    uint32_t matched;
    memset(salt, 's', SALT);
    const pkv_seq owner = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_set_keys(cache, owner, salt, SALT, NULL, 0));
    fixture_extend(cache, owner, text, 12);
    ASSERT_OK(pkv_seq_free(cache, owner));
    const uint32_t places[3] = {0, SALT / 2, SALT - 1};
    for (uint32_t i = 0; i < 3; i++) {
        const pkv_seq other = fixture_seq(cache, 0);
        salt[places[i]] = 't';
        ASSERT_OK(pkv_seq_set_keys(cache, other, salt, SALT, NULL, 0));
        ASSERT_OK(pkv_seq_match(cache, other, text, 12, &matched));
        ASSERT_EQ(matched, 0);
        ASSERT_OK(pkv_seq_free(cache, other));
        salt[places[i]] = 's';
    }
    const pkv_seq shorter = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_set_keys(cache, shorter, salt, SALT - 1, NULL, 0));
    ASSERT_OK(pkv_seq_match(cache, shorter, text, 12, &matched));
    ASSERT_EQ(matched, 0);
    ASSERT_OK(pkv_seq_free(cache, shorter));
    const pkv_seq same = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_set_keys(cache, same, salt, SALT, NULL, 0));
    ASSERT_OK(pkv_seq_match(cache, same, text, 12, &matched));
    ASSERT_EQ(matched, 12);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

/* An adapter is a salt, and what is found within a block obeys it too. */
TEST(no_part_of_a_block_is_found_under_another_salt) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.salt = "adapter 1"}, 7);
    put(cache, (struct keys){.salt = "adapter 2"}, 3);
    ASSERT_EQ(found(cache, (struct keys){.salt = "adapter 1"}), 7);
    ASSERT_EQ(found(cache, (struct keys){.salt = "adapter 2"}), 3);
    ASSERT_EQ(found(cache, (struct keys){.salt = NULL}), 0);
    pkv_cache_destroy(cache);
}

TEST(the_same_salt_of_another_tenant_finds_nothing) {
    pkv_cache* cache = fixture_open();
    put(cache, (struct keys){.salt = "a"}, 12);
    const pkv_seq stranger = fixture_seq(cache, 1);
    uint32_t matched;
    ASSERT_OK(pkv_seq_set_keys(cache, stranger, "a", 1, NULL, 0));
    ASSERT_OK(pkv_seq_match(cache, stranger, text, 12, &matched));
    ASSERT_EQ(matched, 0);
    pkv_cache_destroy(cache);
}
