/* test_eviction_books.c - a policy of the application that keeps books of its own: it is told what
 * becomes of each block, and names victims without being offered any.
 *
 * The one here is least recently used, written by what it is told alone. It must choose as the one
 * that is built in, whatever the cache is used for. */
#include "unit.h"

#include "api/retain_fixture.h"

enum { BOOKS_MAX = 64, NOBODY = BOOKS_MAX };

enum state { UNKNOWN, BUSY, IDLE };

/* A list of idle blocks, the one that has been idle for longest first. */
struct books {
    enum state states[BOOKS_MAX];
    uint32_t next[BOOKS_MAX + 1]; /* a ring through NOBODY */
    uint32_t previous[BOOKS_MAX + 1];
    uint32_t pages[BOOKS_MAX];
    uint32_t events[PKV_BLOCK_MOVED + 1];
    uint32_t asked;
    bool is_confused; /* was told what cannot be */
};

static void books_open(struct books* books) {
    *books = (struct books){.asked = 0};
    books->next[NOBODY] = books->previous[NOBODY] = NOBODY;
}

static void unlink_block(struct books* books, uint32_t block) {
    books->next[books->previous[block]] = books->next[block];
    books->previous[books->next[block]] = books->previous[block];
}

/* Behind those that are idle already, or in the place of another. */
static void link_before(struct books* books, uint32_t block, uint32_t place) {
    books->next[block] = place;
    books->previous[block] = books->previous[place];
    books->next[books->previous[place]] = block;
    books->previous[place] = block;
}

static void set_state(struct books* books, uint32_t block, enum state state) {
    if (books->states[block] == IDLE) unlink_block(books, block);
    if (state == IDLE) link_before(books, block, NOBODY);
    books->states[block] = state;
}

static void move_block(struct books* books, uint32_t from, uint32_t to) {
    if (books->states[to] != UNKNOWN) books->is_confused = true;
    if (books->states[from] == IDLE) link_before(books, to, from);
    books->states[to] = books->states[from];
    set_state(books, from, UNKNOWN);
}

static void note(void* ctx, uint32_t event, uint32_t block, uint32_t other) {
    struct books* books = ctx;
    books->events[event]++;
    const bool is_known = books->states[block] != UNKNOWN;
    if (is_known != (event != PKV_BLOCK_CACHED)) books->is_confused = true;
    switch (event) {
    case PKV_BLOCK_CACHED:
        books->pages[block] = other;
        set_state(books, block, BUSY);
        break;
    case PKV_BLOCK_BUSY:
        if (books->states[block] != IDLE) books->is_confused = true;
        set_state(books, block, BUSY);
        break;
    case PKV_BLOCK_IDLE:
        set_state(books, block, IDLE);
        break;
    case PKV_BLOCK_GONE:
        set_state(books, block, UNKNOWN);
        break;
    case PKV_BLOCK_MOVED:
        move_block(books, block, other);
        break;
    default:
        break;
    }
}

static uint32_t choose(void* ctx, const pkv_candidate* candidates, uint32_t offered, uint32_t count,
                       uint32_t* victims) {
    struct books* books = ctx;
    uint32_t block = books->next[NOBODY];
    (void)candidates;
    if (offered != 0) books->is_confused = true;
    books->asked++;
    for (uint32_t i = 0; i < count; i++, block = books->next[block])
        victims[i] = block;
    return count;
}

static pkv_config books_config(struct books* books) {
    pkv_config config = fixture_config();
    config.blocks = BOOKS_MAX;
    config.sequences_max = 12;
    config.retained_max = BOOKS_MAX;
    config.host_blocks = 16;
    if (books == NULL) return config;
    books_open(books);
    config.eviction_hook = (pkv_eviction_hook){
        .choose = choose, .ctx = books, .offer_max = PKV_OFFER_NONE, .note = note};
    return config;
}

/* ---- As the built-in one --------------------------------------------------------------------- */

static uint32_t below(uint64_t* random, uint32_t bound) {
    *random = *random * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)(*random >> 33) % bound;
}

/* One of some operations that depend on the numbers alone; the result of those that have one. */
static uint64_t operate(pkv_cache* cache, pkv_seq* seqs, uint32_t count, uint64_t* random) {
    pkv_seq* seq = &seqs[below(random, count)];
    uint32_t tokens[FIXTURE_TOKENS_MAX];
    uint32_t result = 0;
    const uint32_t kind = below(random, 10);
    const uint32_t text = below(random, 6);
    const uint32_t length = 1 + below(random, 60);
    const pkv_retention retention = {
        .priority = below(random, 101), .duration_us = 50 * MS, .ttl_us = 40 * MS};
    for (uint32_t i = 0; i < length; i++)
        tokens[i] = 1000 * text + (i < 20 ? 0 : 100 * kind) + i;
    if (kind < 5) {
        pkv_seq_free(cache, *seq);
        *seq = fixture_seq(cache, 0);
        ASSERT_OK(pkv_seq_match(cache, *seq, tokens, length, &result));
        if (pkv_seq_append(cache, *seq, tokens + result, length - result, NULL) == PKV_OK)
            ASSERT_OK(pkv_seq_commit(cache, *seq));
    } else if (kind < 7 && seq->id != 0) {
        const uint32_t end = fixture_info(cache, *seq).length;
        pkv_seq_retain(cache, *seq, 0, end, &retention, &result);
    } else if (kind == 7) {
        ASSERT_OK(pkv_clock_advance(cache, (uint64_t)length * MS));
    } else if (kind == 8) {
        ASSERT_OK(pkv_cache_compact(cache, 8, &result));
    } else if (seq->id != 0) {
        ASSERT_OK(pkv_seq_truncate(cache, *seq, fixture_info(cache, *seq).length / 2));
    }
    return result;
}

static void compare(const pkv_config* mine, const pkv_config* theirs, struct books* books) {
    enum { SEQS = 6, ROUNDS = 20000 };
    pkv_cache* a = fixture_create(mine);
    pkv_cache* b = fixture_create(theirs);
    pkv_seq left[SEQS] = {{0}};
    pkv_seq right[SEQS] = {{0}};
    uint64_t random[2] = {7, 7};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        ASSERT_EQ(operate(a, left, SEQS, &random[0]), operate(b, right, SEQS, &random[1]));
        ASSERT(!books->is_confused);
        if (round % 64 != 0) continue;
        ASSERT_EQ(fixture_stats(a).evictions, fixture_stats(b).evictions);
        ASSERT_EQ(fixture_check(a).sequences_digest, fixture_check(b).sequences_digest);
    }
    ASSERT_EQ(fixture_stats(a).eviction_fallbacks, 0);
    ASSERT_GT(fixture_stats(a).evictions, 1000);
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
}

TEST(books_kept_by_what_is_told_choose_as_the_policy_that_is_built_in) {
    static struct books books;
    const pkv_config mine = books_config(&books);
    const pkv_config theirs = books_config(NULL);
    compare(&mine, &theirs, &books);
    for (uint32_t event = 0; event < PKV_BLOCK_MOVED; event++)
        ASSERT_GT(books.events[event], 100);
}

TEST(moved_blocks_are_told) {
    static struct books books;
    pkv_arena* arena[2] = {arena_open(8), arena_open(8)};
    pkv_config mine = books_config(&books);
    pkv_config theirs = books_config(NULL);
    mine.arena = arena[0];
    theirs.arena = arena[1];
    compare(&mine, &theirs, &books);
    ASSERT_GT(books.events[PKV_BLOCK_MOVED], 20);
    ASSERT_OK(pkv_arena_destroy(arena[0]));
    ASSERT_OK(pkv_arena_destroy(arena[1]));
}

/* ---- What is told and what counts ------------------------------------------------------------ */

TEST(a_block_is_followed_from_its_commit_to_its_end) {
    static struct books books;
    const pkv_config config = books_config(&books);
    pkv_cache* cache = fixture_create(&config);
    uint32_t tokens[2 * FIXTURE_BLOCK];
    uint32_t blocks[2];
    fixture_tokens(tokens, 2 * FIXTURE_BLOCK, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 2 * FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_blocks(cache, seq, 0, 0, 2, blocks));
    ASSERT_EQ(books.states[blocks[1]], BUSY);
    ASSERT_EQ(books.pages[blocks[1]], 1);
    ASSERT_OK(pkv_seq_free(cache, seq));
    ASSERT_EQ(books.next[NOBODY], blocks[1]); /* the last page first */
    ASSERT_EQ(books.next[blocks[1]], blocks[0]);
    ASSERT_EQ(found_by(cache, 0, 1, FIXTURE_BLOCK), FIXTURE_BLOCK);
    ASSERT_EQ(books.events[PKV_BLOCK_USED], 1);
    ASSERT_EQ(books.events[PKV_BLOCK_BUSY], 1);
    pkv_cache_destroy(cache);
    ASSERT_EQ(books.events[PKV_BLOCK_GONE], 0);
}

TEST(what_is_retained_may_be_named_when_that_lapses) {
    static struct books books;
    const pkv_config config = books_config(&books);
    pkv_cache* cache = fixture_create(&config);
    leave_block(cache, 100, (pkv_retention){.priority = 80, .duration_us = MS});
    ASSERT_EQ(books.events[PKV_BLOCK_IDLE], 0);
    advance(cache, 1);
    fixture_stats(cache);
    ASSERT_EQ(books.events[PKV_BLOCK_IDLE], 1);
    pkv_cache_destroy(cache);
}

TEST(nothing_offered_needs_books_and_no_quotas) {
    static struct books books;
    pkv_config config = books_config(&books);
    const char* why = NULL;
    config.tenants_max = 1;
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_EINVAL);
    ASSERT(strstr(why, "offer_max") != NULL);
    config.tenants_max = 0;
    config.eviction_hook.note = NULL;
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_EINVAL);
}
