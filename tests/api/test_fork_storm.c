/* test_fork_storm.c - a hundred thousand forks that are written to, shortened and freed at random:
 * the books stay exact, and every fork reads what it has written. */
#include "unit.h"

#include "api/fixture.h"

enum {
    FORKS = 100000,
    CHECK_EVERY = 500, /* forks from one pkv_check to the next */
    READ_EVERY = 16,
    SEQS = 48,
    BLOCKS = 400,
    LENGTH_MAX = 40,
    PLAN_SEQS = 12
};

struct storm {
    pkv_cache* cache;
    uint64_t random;
    uint32_t forks;
    pkv_seq seqs[SEQS]; /* zero: none */
    uint32_t lengths[SEQS];
    uint32_t tokens[SEQS][LENGTH_MAX];
};

static uint32_t below(struct storm* s, uint32_t bound) {
    s->random = s->random * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)((s->random >> 32) * bound >> 32);
}

static bool is_alive(const struct storm* s, uint32_t i) {
    return s->seqs[i].id != 0;
}

static void end(struct storm* s, uint32_t i) {
    ASSERT_OK(pkv_seq_free(s->cache, s->seqs[i]));
    s->seqs[i] = (pkv_seq){0};
}

static void fork_one(struct storm* s, uint32_t from, uint32_t to) {
    if (is_alive(s, to)) end(s, to);
    const int status = pkv_seq_fork(s->cache, s->seqs[from], &s->seqs[to]);
    if (status == PKV_ENOBLOCKS) return; /* a fork that copies at once */
    ASSERT_OK(status);
    s->lengths[to] = s->lengths[from];
    memcpy(s->tokens[to], s->tokens[from], sizeof s->tokens[from]);
    s->forks++;
}

/* One plan over up to PLAN_SEQS sequences, which share tails as it happens. Returns its tokens. */
static uint32_t draw_plan(struct storm* s, pkv_entry* entries, uint32_t* who, uint32_t* tokens) {
    uint32_t count = 0;
    uint32_t rows = 0;
    const uint32_t first = below(s, SEQS);
    for (uint32_t n = 0; n < SEQS && count < PLAN_SEQS; n++) {
        const uint32_t i = (first + n) % SEQS;
        const uint32_t more = 1 + below(s, 5);
        if (!is_alive(s, i) || s->lengths[i] + more > LENGTH_MAX) continue;
        for (uint32_t t = 0; t < more; t++)
            tokens[rows + t] = below(s, 3);
        who[count] = i;
        entries[count++] = (pkv_entry){s->seqs[i], tokens + rows, more};
        rows += more;
    }
    return count;
}

static void write_some(struct storm* s) {
    pkv_entry entries[PLAN_SEQS];
    uint32_t who[PLAN_SEQS];
    uint32_t tokens[PLAN_SEQS * 5];
    pkv_plan plan;
    const uint32_t count = draw_plan(s, entries, who, tokens);
    if (count == 0) return;
    const int status = pkv_plan_begin(s->cache, entries, count, &plan);
    if (status == PKV_ENOBLOCKS) return;
    ASSERT_OK(status);
    ASSERT_OK(fixture_write(s->cache, plan, tokens));
    if (below(s, 8) == 0) {
        ASSERT_OK(pkv_plan_abort(s->cache, plan));
        return;
    }
    ASSERT_OK(pkv_plan_commit(s->cache, plan));
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t bytes = entries[i].count * (uint32_t)sizeof(uint32_t);
        memcpy(s->tokens[who[i]] + s->lengths[who[i]], entries[i].tokens, bytes);
        s->lengths[who[i]] += entries[i].count;
    }
}

static void act_on(struct storm* s, uint32_t i) {
    switch (below(s, 8)) {
    case 0:
        s->lengths[i] = below(s, s->lengths[i] + 1);
        ASSERT_OK(pkv_seq_truncate(s->cache, s->seqs[i], s->lengths[i]));
        break;
    case 1:
        end(s, i);
        break;
    case 2:
    case 3:
        write_some(s);
        break;
    default:
        fork_one(s, i, (i + 1 + below(s, SEQS - 1)) % SEQS);
    }
}

static void expect_sound(struct storm* s) {
    const pkv_stats stats = fixture_stats(s->cache);
    fixture_check(s->cache);
    ASSERT_EQ(stats.forks, s->forks);
    ASSERT_EQ(stats.blocks_free + stats.blocks_active + stats.blocks_cached, BLOCKS);
}

static void expect_nothing_left(struct storm* s) {
    for (uint32_t i = 0; i < SEQS; i++)
        if (is_alive(s, i)) end(s, i);
    expect_sound(s);
    const pkv_stats stats = fixture_stats(s->cache);
    ASSERT_EQ(stats.blocks_active, 0);
    ASSERT_EQ(stats.sequences, 0);
    ASSERT_EQ(stats.leaves_free, stats.leaves_total);
    ASSERT_EQ(stats.cow_bytes % stats.cow_copies, 0);
}

static void run_storm(uint32_t cow, uint32_t prefix_off) {
    pkv_config config = fixture_config();
    config.blocks = BLOCKS;
    config.sequences_max = SEQS;
    config.sequence_tokens_max = LENGTH_MAX;
    config.cow = cow;
    config.prefix_off = prefix_off;
    struct storm* s = calloc(1, sizeof *s);
    ASSERT(s != NULL);
    s->cache = fixture_create(&config);
    s->random = 1 + cow;
    for (uint32_t done = 0; s->forks < FORKS;) {
        const uint32_t i = below(s, SEQS);
        if (!is_alive(s, i)) {
            s->seqs[i] = fixture_seq(s->cache, 0);
            s->lengths[i] = 0;
        }
        act_on(s, i);
        if (is_alive(s, i) && below(s, READ_EVERY) == 0)
            fixture_expect(s->cache, s->seqs[i], s->tokens[i], s->lengths[i]);
        if (s->forks >= done + CHECK_EVERY) {
            done = s->forks;
            expect_sound(s);
        }
    }
    const pkv_stats stats = fixture_stats(s->cache);
    ASSERT_GT(stats.cow_copies, 1000);
    ASSERT_GT(stats.cow_peak, cow == PKV_COW_FORK && prefix_off ? 0 : 2);
    expect_nothing_left(s);
    pkv_cache_destroy(s->cache);
    free(s);
}

TEST(a_storm_of_forks_leaves_the_books_exact) {
    run_storm(PKV_COW_WRITE, 1);
}

TEST(a_storm_of_forks_beside_the_prefix_index) {
    run_storm(PKV_COW_WRITE, 0);
}

TEST(a_storm_of_forks_that_copy_at_once) {
    run_storm(PKV_COW_FORK, 1);
}
