/* test_pin.c - pins: what they hold, how they end, what they are not. */
#include "unit.h"

#include "api/fixture.h"

enum { MS = 1000 };

/* Is the block of tokens from `first` on cached? */
static bool is_cached(pkv_cache* cache, uint32_t first) {
    uint32_t tokens[FIXTURE_BLOCK];
    uint32_t matched;
    fixture_tokens(tokens, FIXTURE_BLOCK, first);
    const pkv_seq seq = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_match(cache, seq, tokens, FIXTURE_BLOCK, &matched));
    ASSERT_OK(pkv_seq_free(cache, seq));
    return matched == FIXTURE_BLOCK;
}

TEST(pinned_blocks_stay_when_their_sequence_ends) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[10];
    fixture_tokens(tokens, 10, 1);
    pkv_pin pin;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 10);
    ASSERT_OK(pkv_pin_create(cache, seq, 10, 5, 0, &pin));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2); /* whole ones */
    ASSERT_EQ(fixture_stats(cache).pins, 1);
    ASSERT_EQ(fixture_stats(cache).sequences, 0);
    const pkv_seq other = fixture_seq(cache, 0);
    ASSERT_STATUS(pkv_seq_append(cache, other, NULL, 15 * FIXTURE_BLOCK, NULL), PKV_ENOBLOCKS);
    ASSERT_OK(pkv_seq_append(cache, other, NULL, 14 * FIXTURE_BLOCK, NULL));
    ASSERT_OK(pkv_seq_free(cache, other));
    ASSERT(is_cached(cache, 1));
    fixture_check(cache);
    ASSERT_OK(pkv_pin_release(cache, pin));
    ASSERT_STATUS(pkv_pin_release(cache, pin), PKV_ESTALE);
    ASSERT_OK(pkv_pin_release(cache, (pkv_pin){0}));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 0);
    ASSERT_EQ(fixture_stats(cache).blocks_cached, 2);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(pins_end_with_their_owner) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    uint32_t released;
    fixture_tokens(tokens, 8, 1);
    pkv_pin pins[3];
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 8);
    for (uint32_t i = 0; i < 3; i++)
        ASSERT_OK(pkv_pin_create(cache, seq, 8, i / 2, 0, &pins[i]));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_pins_release(cache, 0, &released));
    ASSERT_EQ(released, 2);
    ASSERT_STATUS(pkv_pin_release(cache, pins[1]), PKV_ESTALE);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_OK(pkv_pins_release(cache, 9, &released));
    ASSERT_EQ(released, 0);
    ASSERT_OK(pkv_pins_release(cache, 1, NULL));
    ASSERT_EQ(fixture_stats(cache).blocks_active, 0);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(a_pin_ends_at_its_timeout) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    pkv_pin early, late;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 8);
    ASSERT_OK(pkv_pin_create(cache, seq, 4, 1, 100 * MS, &early));
    ASSERT_OK(pkv_pin_create(cache, seq, 8, 1, 200 * MS, &late));
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_OK(pkv_clock_advance(cache, 150 * MS));
    ASSERT_EQ(fixture_stats(cache).pins, 1);
    ASSERT_STATUS(pkv_pin_release(cache, early), PKV_ESTALE);
    ASSERT_OK(pkv_clock_advance(cache, 150 * MS));
    const pkv_seq other = fixture_seq(cache, 0); /* whoever needs the room gets it */
    ASSERT_OK(pkv_seq_append(cache, other, NULL, 16 * FIXTURE_BLOCK, NULL));
    ASSERT_EQ(fixture_stats(cache).pins_expired, 2);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(a_pin_is_no_sequence) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    pkv_pin pin;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 8);
    ASSERT_OK(pkv_pin_create(cache, seq, 8, 1, 0, &pin));
    ASSERT_STATUS(pkv_seq_free(cache, (pkv_seq){pin.id}), PKV_ESTALE);
    /* the handle that the slot would have as a sequence */
    const pkv_seq forged = {(seq.id & ~(uint64_t)0xffffff) | (pin.id & 0xffffff)};
    ASSERT_STATUS(pkv_seq_free(cache, forged), PKV_ESTALE);
    ASSERT_STATUS(pkv_pin_release(cache, (pkv_pin){seq.id}), PKV_ESTALE);
    ASSERT_STATUS(pkv_pin_create(cache, seq, 9, 1, 0, &pin), PKV_ERANGE);
    ASSERT_STATUS(pkv_pin_create(cache, seq, 8, 1, 0, NULL), PKV_EINVAL);
    ASSERT_OK(pkv_seq_append(cache, seq, NULL, 1, NULL));
    ASSERT_STATUS(pkv_pin_create(cache, seq, 8, 1, 0, &pin), PKV_EBUSY);
    fixture_check(cache);
    pkv_cache_destroy(cache);
}

TEST(pins_without_room_change_nothing) {
    pkv_config config = fixture_config();
    config.sequences_max = 2;
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[8];
    fixture_tokens(tokens, 8, 1);
    pkv_pin pin;
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 8);
    const pkv_seq other = fixture_seq(cache, 0);
    const uint64_t before = fixture_check(cache).cache_digest;
    ASSERT_STATUS(pkv_pin_create(cache, seq, 8, 1, 0, &pin), PKV_ENOSEQS);
    ASSERT_EQ(fixture_check(cache).cache_digest, before);
    ASSERT_EQ(fixture_stats(cache).forks, 0);
    ASSERT_OK(pkv_seq_free(cache, other));
    ASSERT_OK(pkv_pin_create(cache, seq, 8, 1, 0, &pin));
    ASSERT_EQ(fixture_stats(cache).forks, 0);
    pkv_cache_destroy(cache);
}
