/* test_arena.c - several caches in one arena: who gets extents, what is never taken, what is seen. */
#include "unit.h"

#include "api/arena_fixture.h"
#include <pthread.h>

/* ---- Config ---------------------------------------------------------------------------------- */

static void expect_refused(pkv_arena_config config, int status, const char* field) {
    const char* why = NULL;
    pkv_arena* arena = NULL;
    ASSERT_STATUS(pkv_arena_config_check(&config, &why), status);
    ASSERT(why != NULL && strncmp(why, field, strlen(field)) == 0);
    ASSERT_STATUS(pkv_arena_config_check(&config, NULL), status);
    ASSERT_STATUS(pkv_arena_create(&config, &arena), status);
    ASSERT_PTR(arena, NULL);
}

TEST(bad_arenas_are_refused_by_the_name_of_the_field) {
    pkv_arena_config config = arena_config(4);
    ASSERT_OK(pkv_arena_config_check(&config, NULL));
    config.struct_size--;
    expect_refused(config, PKV_EVERSION, "struct_size:");
    config = arena_config(4);
    config.version += 1 << 8;
    expect_refused(config, PKV_EVERSION, "version:");
    config = arena_config(4);
    config.device = "abacus";
    expect_refused(config, PKV_ENOTSUP, "device:");
    config.device = "cuda";
    expect_refused(config, PKV_ENOTSUP, "device:");
    config = arena_config(0);
    expect_refused(config, PKV_EINVAL, "bytes:");
    config.bytes = EXTENT - 1;
    expect_refused(config, PKV_EINVAL, "bytes:");
    config = arena_config(4);
    config.bytes_max = 3 * EXTENT;
    expect_refused(config, PKV_EINVAL, "bytes_max:");
    config.bytes_max = UINT64_MAX;
    expect_refused(config, PKV_ETOOBIG, "bytes_max:");
    config.bytes_max = (uint64_t)EXTENT << 25;
    expect_refused(config, PKV_ETOOBIG, "bytes_max:");
    config = arena_config(4);
    config.extent_bytes = EXTENT + 8;
    expect_refused(config, PKV_EINVAL, "extent_bytes:");
    config = arena_config(4);
    config.allocator = PKV_LIFO + 1;
    expect_refused(config, PKV_EINVAL, "allocator:");
}

TEST(null_is_refused_where_it_is_not_allowed) {
    const char* why = NULL;
    pkv_arena_config config = arena_config(4);
    pkv_arena_stats stats = {.struct_size = sizeof stats};
    pkv_arena* arena;
    ASSERT_STATUS(pkv_arena_config_init(NULL, PKV_VERSION), PKV_EINVAL);
    ASSERT_STATUS(pkv_arena_config_init(&config, PKV_VERSION + (1 << 8)), PKV_EVERSION);
    ASSERT_STATUS(pkv_arena_config_check(NULL, &why), PKV_EINVAL);
    ASSERT(why != NULL);
    ASSERT_STATUS(pkv_arena_create(NULL, &arena), PKV_EINVAL);
    ASSERT_STATUS(pkv_arena_create(&config, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_arena_get_stats(NULL, &stats), PKV_EINVAL);
    ASSERT_OK(pkv_arena_destroy(NULL));
    arena = arena_open(2);
    ASSERT_STATUS(pkv_arena_get_stats(arena, NULL), PKV_EINVAL);
    stats.struct_size = 0;
    ASSERT_STATUS(pkv_arena_get_stats(arena, &stats), PKV_EINVAL);
    stats.struct_size = sizeof stats + 1;
    ASSERT_STATUS(pkv_arena_get_stats(arena, &stats), PKV_EINVAL);
    stats = (pkv_arena_stats){.struct_size = 8};
    ASSERT_OK(pkv_arena_get_stats(arena, &stats));
    ASSERT_EQ(stats.extents_total, 0); /* not known to this caller */
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(a_cache_that_does_not_fit_an_arena_is_refused) {
    pkv_arena* arena = arena_open(4);
    const char* why = NULL;
    pkv_cache* cache;
    pkv_config config = member_config(arena, 9); /* blocks of 4608 bytes */
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_EINVAL);
    ASSERT(strncmp(why, "arena:", 6) == 0);
    ASSERT_STATUS(pkv_cache_create(&config, &cache), PKV_EINVAL);
    config = member_config(arena, 1);
    config.device = "cpu";
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_EINVAL);
    ASSERT(strncmp(why, "arena:", 6) == 0);
    config = member_config(arena, 1);
    config.allocator = PKV_LIFO + 1;
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_EINVAL);
    ASSERT(strncmp(why, "allocator:", 10) == 0);
    config = member_config(NULL, 1); /* an arena of its own has no default */
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_EINVAL);
    ASSERT_EQ(arena_stats(arena).caches, 0);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(sizes_say_what_a_cache_may_have) {
    pkv_arena* arena = arena_open(4);
    pkv_sizes sizes;
    pkv_config config = member_config(arena, B_HEADS);
    ASSERT_OK(pkv_config_check(&config, NULL, &sizes));
    ASSERT_EQ(sizes.block_bytes, 1536);
    ASSERT_EQ(sizes.blocks_per_extent, B_BLOCKS);
    ASSERT_EQ(sizes.extents, 4);
    ASSERT_EQ(sizes.arena_bytes, 4 * EXTENT);
    config.blocks = 3;
    ASSERT_OK(pkv_config_check(&config, NULL, &sizes));
    ASSERT_EQ(sizes.extents, 2);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* ---- Extents move ---------------------------------------------------------------------------- */

TEST(an_arena_outlives_its_caches) {
    pkv_arena* arena = arena_open(2);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    ASSERT_EQ(arena_stats(arena).caches, 2);
    ASSERT_OK(reserve(a, fixture_seq(a, 0), 1));
    ASSERT_STATUS(pkv_arena_destroy(arena), PKV_EBUSY);
    pkv_cache_destroy(a); /* with a sequence in it */
    ASSERT_EQ(arena_stats(arena).extents_free, 2);
    ASSERT_STATUS(pkv_arena_destroy(arena), PKV_EBUSY);
    ASSERT_OK(reserve(b, fixture_seq(b, 0), 2 * B_BLOCKS));
    fixture_check(b);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(what_one_frees_the_other_takes) {
    pkv_arena* arena = arena_open(3);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    const pkv_seq of_a = fixture_seq(a, 0);
    const pkv_seq of_b = fixture_seq(b, 0);
    ASSERT_OK(reserve(a, of_a, 2 * A_BLOCKS + 1));
    ASSERT_EQ(fixture_stats(a).extents_used, 3);
    ASSERT_EQ(fixture_stats(a).blocks_total, 3 * A_BLOCKS);
    ASSERT_EQ(fixture_stats(b).blocks_total, 0);
    ASSERT_STATUS(reserve(b, of_b, 1), PKV_ENOBLOCKS);
    ASSERT_OK(pkv_seq_free(a, of_a)); /* nothing of it was committed */
    ASSERT_EQ(fixture_stats(b).blocks_total, 3 * B_BLOCKS);
    ASSERT_OK(reserve(b, of_b, 2 * B_BLOCKS - 1));
    const pkv_arena_stats stats = arena_stats(arena);
    ASSERT_EQ(stats.extents_free, 1);
    ASSERT_EQ(stats.bytes_used, 3 * 1536);
    ASSERT_EQ(stats.bytes_loose, 1536);
    ASSERT_EQ(stats.bytes_lost, 2 * 1024);
    ASSERT_EQ(fixture_stats(b).bytes_lost, 2 * 1024);
    ASSERT_EQ(fixture_stats(b).arena_bytes, 2 * EXTENT);
    ASSERT_EQ(fixture_stats(a).blocks_free, A_BLOCKS);
    ASSERT_EQ(fixture_stats(a).arena_bytes, 0);
    fixture_check(a);
    fixture_check(b);
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(a_cache_keeps_to_its_limit) {
    pkv_arena* arena = arena_open(4);
    pkv_config config = member_config(arena, 1);
    config.blocks = A_BLOCKS + 1;
    pkv_cache* a = fixture_create(&config);
    const pkv_seq seq = fixture_seq(a, 0);
    ASSERT_EQ(fixture_stats(a).blocks_total, A_BLOCKS + 1);
    ASSERT_STATUS(reserve(a, seq, A_BLOCKS + 2), PKV_ETOOBIG);
    leave_cached(a, 3, 0);
    ASSERT_OK(reserve(a, seq, A_BLOCKS)); /* two of the cached ones have to go */
    ASSERT_EQ(fixture_stats(a).evictions, 2);
    ASSERT_STATUS(reserve(a, seq, 2), PKV_ENOBLOCKS);
    ASSERT_OK(reserve(a, seq, 1));
    ASSERT_EQ(fixture_stats(a).blocks_free, 0);
    fixture_check(a);
    pkv_cache_destroy(a);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* ---- Claims ---------------------------------------------------------------------------------- */

TEST(cached_extents_of_others_are_claimed) {
    pkv_arena* arena = arena_open(3);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    leave_cached(a, 3 * A_BLOCKS, 0);
    ASSERT_EQ(arena_stats(arena).extents_free, 0);
    ASSERT_OK(reserve(b, fixture_seq(b, 0), B_BLOCKS + 1));
    ASSERT_EQ(fixture_stats(a).extents_ceded, 2);
    ASSERT_EQ(fixture_stats(a).evictions, 2 * A_BLOCKS);
    ASSERT_EQ(fixture_stats(a).blocks_cached, A_BLOCKS);
    ASSERT_EQ(fixture_stats(b).extents_claimed, 2);
    ASSERT_EQ(arena_stats(arena).extents_claimed, 2);
    fixture_check(a);
    fixture_check(b);
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(all_that_is_needed_is_claimed_or_nothing) {
    pkv_arena* arena = arena_open(3);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    const pkv_seq of_a = fixture_seq(a, 0);
    leave_cached(a, 2 * A_BLOCKS, 0);
    ASSERT_OK(reserve(a, of_a, 1)); /* the third extent has an active block */
    const pkv_seq of_b = fixture_seq(b, 0);
    const pkv_report before_a = fixture_check(a);
    const pkv_report before_b = fixture_check(b);
    ASSERT_STATUS(reserve(b, of_b, 2 * B_BLOCKS + 1), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(a).cache_digest, before_a.cache_digest);
    ASSERT_EQ(fixture_check(b).cache_digest, before_b.cache_digest);
    ASSERT_OK(reserve(b, of_b, 2 * B_BLOCKS));
    ASSERT_EQ(fixture_info(a, of_a).reserved, FIXTURE_BLOCK);
    ASSERT_EQ(fixture_stats(a).blocks_cached, 0);
    fixture_check(a);
    fixture_check(b);
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(what_a_cache_has_cached_itself_goes_first) {
    pkv_arena* arena = arena_open(3);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    leave_cached(a, 2 * A_BLOCKS, 0);
    leave_cached(b, B_BLOCKS, 0);
    ASSERT_OK(reserve(b, fixture_seq(b, 0), 2));
    ASSERT_EQ(fixture_stats(b).evictions, 2);
    ASSERT_EQ(fixture_stats(a).evictions, 0);
    ASSERT_OK(reserve(b, fixture_seq(b, 0), 1));
    ASSERT_EQ(fixture_stats(a).evictions, A_BLOCKS);
    fixture_check(a);
    fixture_check(b);
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* A hit makes its extent safe, and what is behind a block that was claimed is not found any more. */
TEST(claims_and_hits_keep_out_of_each_others_way) {
    pkv_arena* arena = arena_open(2);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    uint32_t tokens[2 * A_BLOCKS * FIXTURE_BLOCK];
    uint32_t matched;
    fixture_tokens(tokens, 2 * A_BLOCKS * FIXTURE_BLOCK, 0);
    leave_cached(a, 2 * A_BLOCKS, 0);
    pkv_seq seq = fixture_seq(a, 0);
    ASSERT_OK(pkv_seq_match(a, seq, tokens, FIXTURE_BLOCK, &matched));
    ASSERT_EQ(matched, FIXTURE_BLOCK);
    ASSERT_OK(reserve(b, fixture_seq(b, 0), B_BLOCKS));
    ASSERT_STATUS(reserve(b, fixture_seq(b, 0), 1), PKV_ENOBLOCKS);
    ASSERT_OK(pkv_seq_free(a, seq));
    seq = fixture_seq(a, 0);
    ASSERT_OK(pkv_seq_match(a, seq, tokens, 2 * A_BLOCKS * FIXTURE_BLOCK, &matched));
    ASSERT_EQ(matched, A_BLOCKS * FIXTURE_BLOCK);
    fixture_check(a);
    fixture_check(b);
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(a_claim_that_fails_changes_nothing) {
    pkv_arena* arena = arena_open(1);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    leave_cached(a, A_BLOCKS, 0);
    const pkv_seq seq = fixture_seq(b, 0);
    if (pkv_faults_set(b, "arena.claim=1*return(ENOBLOCKS)", 0) == PKV_ENOTSUP)
        SKIP("this build has no fault points");
    const pkv_report before = fixture_check(a);
    ASSERT_STATUS(reserve(b, seq, 1), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(a).cache_digest, before.cache_digest);
    ASSERT_OK(reserve(b, seq, 1));
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

/* The same tenant in another model sees zeros, not what the first model left. */
TEST(bytes_do_not_pass_from_model_to_model) {
    pkv_arena* arena = arena_open(1);
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* other = member_open(arena, 1);
    uint32_t tokens[A_BLOCKS * FIXTURE_BLOCK];
    fixture_tokens(tokens, A_BLOCKS * FIXTURE_BLOCK, 1);
    pkv_seq seq = fixture_seq(a, 0);
    fixture_extend(a, seq, tokens, A_BLOCKS * FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_free(a, seq));
    seq = fixture_seq(other, 0);
    ASSERT_OK(reserve(other, seq, A_BLOCKS));
    ASSERT_OK(pkv_seq_commit(other, seq));
    for (uint32_t i = 0; i < A_BLOCKS * FIXTURE_BLOCK; i++)
        ASSERT_NEAR(fixture_read(other, seq, i), 0, 0);
    ASSERT_EQ(fixture_stats(other).scrubs, A_BLOCKS);
    ASSERT_OK(pkv_seq_free(other, seq));
    /* And back again: what was A's has been the other's meanwhile. */
    seq = fixture_seq(a, 0);
    ASSERT_OK(reserve(a, seq, A_BLOCKS));
    ASSERT_EQ(fixture_stats(a).scrubs, A_BLOCKS);
    pkv_cache_destroy(a);
    pkv_cache_destroy(other);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* ---- Resize ---------------------------------------------------------------------------------- */

static pkv_arena* resizable_open(uint32_t extents, uint32_t extents_max, const char* device,
                                 const char* faults) {
    pkv_arena_config config = arena_config(extents);
    pkv_arena* arena;
    config.bytes_max = (uint64_t)extents_max * EXTENT;
    config.device = device;
    config.faults = faults;
    ASSERT_OK(pkv_arena_create(&config, &arena));
    return arena;
}

TEST(an_arena_grows_and_shrinks) {
    pkv_arena* arena = resizable_open(2, 4, "sim", "");
    pkv_cache* a = member_open(arena, 1);
    const pkv_seq seq = fixture_seq(a, 0);
    ASSERT_EQ(arena_stats(arena).extents_max, 4);
    ASSERT_EQ(fixture_stats(a).blocks_total, 2 * A_BLOCKS);
    ASSERT_STATUS(reserve(a, seq, 3 * A_BLOCKS), PKV_ENOBLOCKS); /* it could fit one day */
    ASSERT_OK(pkv_arena_resize(arena, 4 * EXTENT));
    ASSERT_EQ(arena_stats(arena).extents_total, 4);
    ASSERT_OK(reserve(a, seq, 3 * A_BLOCKS));
    const pkv_report before = fixture_check(a);
    ASSERT_STATUS(pkv_arena_resize(arena, 2 * EXTENT), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(a).cache_digest, before.cache_digest);
    ASSERT_OK(pkv_arena_resize(arena, 3 * EXTENT + 1)); /* whole extents */
    ASSERT_EQ(arena_stats(arena).extents_total, 3);
    ASSERT_EQ(arena_stats(arena).extents_free, 0);
    ASSERT_STATUS(reserve(a, fixture_seq(a, 0), 1), PKV_ENOBLOCKS);
    fixture_check(a);
    ASSERT_OK(pkv_seq_free(a, seq));
    ASSERT_OK(pkv_arena_resize(arena, 0));
    ASSERT_STATUS(reserve(a, fixture_seq(a, 0), 1), PKV_ENOBLOCKS);
    ASSERT_OK(pkv_arena_resize(arena, EXTENT));
    ASSERT_OK(reserve(a, fixture_seq(a, 0), A_BLOCKS));
    ASSERT_STATUS(pkv_arena_resize(arena, 5 * EXTENT), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_arena_resize(arena, UINT64_MAX), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_arena_resize(NULL, EXTENT), PKV_EINVAL);
    fixture_check(a);
    pkv_cache_destroy(a);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* Wherever the free extents lie: those that stay keep their bytes. */
TEST(what_is_in_use_is_not_given_back) {
    pkv_arena* arena = resizable_open(4, 4, "cpu", "");
    pkv_config config = member_config(arena, 1);
    config.device = "cpu";
    pkv_cache* a = fixture_create(&config);
    uint32_t tokens[A_BLOCKS * FIXTURE_BLOCK];
    fixture_tokens(tokens, A_BLOCKS * FIXTURE_BLOCK, 1);
    const pkv_seq first = fixture_seq(a, 0);
    const pkv_seq second = fixture_seq(a, 0);
    ASSERT_OK(reserve(a, first, 2 * A_BLOCKS));
    fixture_extend(a, second, tokens, A_BLOCKS * FIXTURE_BLOCK);
    ASSERT_OK(pkv_seq_free(a, first)); /* below it in the arena */
    ASSERT_OK(pkv_arena_resize(arena, EXTENT));
    fixture_expect(a, second, tokens, A_BLOCKS * FIXTURE_BLOCK);
    ASSERT_OK(pkv_arena_resize(arena, 4 * EXTENT));
    const pkv_seq third = fixture_seq(a, 0);
    ASSERT_OK(reserve(a, third, 3 * A_BLOCKS));
    ASSERT_OK(pkv_seq_commit(a, third));
    for (uint32_t i = 0; i < 3 * A_BLOCKS * FIXTURE_BLOCK; i++)
        ASSERT_NEAR(fixture_read(a, third, i), 0, 0);
    ASSERT_EQ(fixture_stats(a).scrubs, 0); /* the system had zeroed them */
    fixture_expect(a, second, tokens, A_BLOCKS * FIXTURE_BLOCK);
    fixture_check(a);
    pkv_cache_destroy(a);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(cached_blocks_make_way_for_a_smaller_arena) {
    pkv_arena* arena = resizable_open(4, 4, "sim", "");
    pkv_cache* a = member_open(arena, 1);
    pkv_cache* b = member_open(arena, B_HEADS);
    leave_cached(a, 2 * A_BLOCKS, 0);
    leave_cached(b, B_BLOCKS, 0);
    ASSERT_OK(reserve(b, fixture_seq(b, 0), 1));
    const pkv_report before = fixture_check(a);
    ASSERT_STATUS(pkv_arena_resize(arena, 0), PKV_ENOBLOCKS);
    ASSERT_EQ(fixture_check(a).cache_digest, before.cache_digest);
    ASSERT_OK(pkv_arena_resize(arena, 3 * EXTENT));
    ASSERT_EQ(fixture_stats(a).blocks_cached, A_BLOCKS); /* it had the most to give */
    ASSERT_EQ(fixture_stats(b).blocks_cached, B_BLOCKS);
    ASSERT_OK(pkv_arena_resize(arena, EXTENT));
    ASSERT_EQ(fixture_stats(a).blocks_cached, 0);
    ASSERT_EQ(fixture_stats(b).blocks_cached, 0);
    ASSERT_EQ(fixture_stats(b).blocks_active, 1);
    fixture_check(a);
    fixture_check(b);
    pkv_cache_destroy(a);
    pkv_cache_destroy(b);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* The second of three extents cannot be given back: so none is. */
TEST(a_resize_that_fails_changes_nothing) {
    pkv_arena* arena = resizable_open(4, 4, "sim", "arena.resize=1*off->1*return(EIO)");
    pkv_cache* a = member_open(arena, 1);
    if (pkv_faults_set(a, "", 0) == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(reserve(a, fixture_seq(a, 0), 1));
    ASSERT_STATUS(pkv_arena_resize(arena, EXTENT), PKV_EIO);
    ASSERT_EQ(arena_stats(arena).extents_total, 4);
    ASSERT_EQ(arena_stats(arena).extents_free, 3);
    fixture_check(a);
    ASSERT_OK(pkv_arena_resize(arena, EXTENT));
    ASSERT_EQ(arena_stats(arena).extents_free, 0);
    fixture_check(a);
    pkv_cache_destroy(a);
    ASSERT_OK(pkv_arena_destroy(arena));
}

/* ---- Everything at once ---------------------------------------------------------------------- */

enum { MIX_SEQS = 6, MIX_STEPS = 1500 };

struct mix {
    pkv_cache* cache;
    uint32_t heads;
    struct {
        pkv_seq seq;
        uint32_t count;
        uint32_t first;
        bool is_known; /* by its ids: it is cached when it ends; others leave holes */
    } live[MIX_SEQS];
};

static uint64_t next(uint64_t* random) {
    *random = *random * 6364136223846793005U + 1442695040888963407U;
    return *random >> 33;
}

static float mix_value(uint32_t token, uint32_t position, uint32_t head) {
    return (float)(1000 * token + 10 * position + head);
}

/* K and V of all tokens of a plan of one sequence. */
static void mix_write(struct mix* m, pkv_plan plan, uint32_t first, uint32_t begin,
                      uint32_t count) {
    static float k[16 * B_HEADS * FIXTURE_DIM];
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t h = 0; h < m->heads; h++)
            for (uint32_t d = 0; d < FIXTURE_DIM; d++)
                k[(i * m->heads + h) * FIXTURE_DIM + d] =
                    mix_value(first + begin + i, begin + i, h);
    const pkv_array array = {.data = k};
    ASSERT_OK(pkv_write(m->cache, plan, 0, &array, &array));
}

static void mix_expect(struct mix* m, uint32_t index) {
    static float k[FIXTURE_TOKENS_MAX * B_HEADS * FIXTURE_DIM];
    const pkv_array array = {.data = k};
    const uint32_t count = m->live[index].count;
    ASSERT_OK(pkv_seq_read(m->cache, m->live[index].seq, 0, 0, count, &array, NULL));
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t h = 0; h < m->heads; h++)
            ASSERT_NEAR(k[(i * m->heads + h) * FIXTURE_DIM],
                        mix_value(m->live[index].first + i, i, h), 0);
}

static void mix_grow(struct mix* m, uint32_t index, uint64_t* random) {
    const uint32_t count = 1 + (uint32_t)(next(random) % 12);
    const uint32_t begin = m->live[index].count;
    uint32_t tokens[12];
    pkv_plan plan;
    if (begin + count > 200) return;
    fixture_tokens(tokens, count, m->live[index].first + begin);
    const pkv_entry entry = {m->live[index].seq, m->live[index].is_known ? tokens : NULL, count};
    const int status = pkv_plan_begin(m->cache, &entry, 1, &plan);
    if (status == PKV_ENOBLOCKS) return;
    ASSERT_OK(status);
    mix_write(m, plan, m->live[index].first, begin, count);
    ASSERT_OK(pkv_plan_commit(m->cache, plan));
    m->live[index].count += count;
}

/* Few texts, so that prefixes are found again. */
static void mix_start(struct mix* m, uint32_t index, uint64_t* random) {
    uint32_t tokens[64];
    uint32_t matched;
    m->live[index].seq = fixture_seq(m->cache, 0);
    m->live[index].first = 1 + 1000 * (uint32_t)(next(random) % 3);
    fixture_tokens(tokens, 64, m->live[index].first);
    ASSERT_OK(pkv_seq_match(m->cache, m->live[index].seq, tokens, 64, &matched));
    m->live[index].is_known = next(random) % 2 == 0;
    m->live[index].count = matched;
}

static void mix_step(struct mix* m, uint64_t* random) {
    const uint32_t index = (uint32_t)(next(random) % MIX_SEQS);
    if (m->live[index].seq.id == 0) mix_start(m, index, random);
    if (next(random) % 5 > 0) {
        mix_grow(m, index, random);
        return;
    }
    mix_expect(m, index);
    ASSERT_OK(pkv_seq_free(m->cache, m->live[index].seq));
    m->live[index].seq.id = 0;
}

/* Between the steps of the models, blocks move and the arena changes its size. */
static void mix_disturb(pkv_arena* arena, pkv_cache* cache, uint64_t* random) {
    const uint64_t kind = next(random) % 40;
    uint32_t moved;
    if (kind < 4) ASSERT_OK(pkv_cache_compact(cache, (uint32_t)next(random) % 12, &moved));
    if (kind != 5) return;
    const int status = pkv_arena_resize(arena, (6 + next(random) % 4) * EXTENT);
    ASSERT(status == PKV_OK || status == PKV_ENOBLOCKS);
}

static void run_mix(enum pkv_allocator allocator, uint64_t seed) {
    pkv_arena_config config = arena_config(9);
    uint64_t moved = 0;
    pkv_arena* arena;
    config.allocator = allocator;
    ASSERT_OK(pkv_arena_create(&config, &arena));
    struct mix mixes[3] = {{.heads = 1}, {.heads = B_HEADS}, {.heads = 2}};
    for (uint32_t i = 0; i < 3; i++)
        mixes[i].cache = member_open(arena, mixes[i].heads);
    for (uint32_t step = 0; step < MIX_STEPS; step++) {
        struct mix* m = &mixes[next(&seed) % 3];
        mix_step(m, &seed);
        mix_disturb(arena, m->cache, &seed);
        if (step % 4 != 0) continue;
        for (uint32_t i = 0; i < 3; i++)
            fixture_check(mixes[i].cache);
        arena_stats(arena);
    }
    ASSERT_GT(arena_stats(arena).extents_claimed, 0);
    ASSERT_OK(pkv_arena_resize(arena, 9 * EXTENT));
    for (uint32_t i = 0; i < 3; i++) {
        moved += fixture_stats(mixes[i].cache).blocks_moved;
        for (uint32_t index = 0; index < MIX_SEQS; index++)
            if (mixes[i].live[index].seq.id != 0) mix_expect(&mixes[i], index);
        pkv_cache_destroy(mixes[i].cache);
    }
    ASSERT_GT(moved, 0);
    ASSERT_EQ(arena_stats(arena).extents_free, 9);
    ASSERT_OK(pkv_arena_destroy(arena));
}

TEST(three_models_mix_under_every_policy) {
    for (enum pkv_allocator policy = PKV_FIRST_FIT; policy <= PKV_LIFO; policy++)
        run_mix(policy, 11 * policy);
}

/* ---- Threads --------------------------------------------------------------------------------- */

struct worker {
    pkv_cache* cache;
    uint64_t seed;
};

/* Reserve, commit and end sequences, which stay cached; threads report and do not assert. */
static bool work_once(struct worker* worker) {
    uint32_t tokens[8 * FIXTURE_BLOCK];
    pkv_seq seq;
    const uint32_t blocks = 1 + (uint32_t)(next(&worker->seed) % 8);
    fixture_tokens(tokens, blocks * FIXTURE_BLOCK, (uint32_t)next(&worker->seed) & 0xffff);
    if (pkv_seq_create(worker->cache, 0, &seq) != PKV_OK) return false;
    const int status = pkv_seq_append(worker->cache, seq, tokens, blocks * FIXTURE_BLOCK, NULL);
    if (status != PKV_OK && status != PKV_ENOBLOCKS) return false;
    if (status == PKV_OK && pkv_seq_commit(worker->cache, seq) != PKV_OK) return false;
    return pkv_seq_free(worker->cache, seq) == PKV_OK;
}

static void* work(void* context) {
    for (uint32_t step = 0; step < 400; step++)
        if (!work_once(context)) return context;
    return NULL;
}

TEST(caches_of_one_arena_run_in_threads) {
    pkv_arena* arena = arena_open(4);
    struct worker workers[3] = {{.seed = 1}, {.seed = 2}, {.seed = 3}};
    pthread_t threads[3];
    for (uint32_t i = 0; i < 3; i++)
        workers[i].cache = member_open(arena, 1 + i);
    for (uint32_t i = 0; i < 3; i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    for (uint32_t i = 0; i < 3; i++) {
        void* failed;
        pthread_join(threads[i], &failed);
        ASSERT_PTR(failed, NULL);
    }
    for (uint32_t i = 0; i < 3; i++) {
        fixture_check(workers[i].cache);
        pkv_cache_destroy(workers[i].cache);
    }
    ASSERT_OK(pkv_arena_destroy(arena));
}
