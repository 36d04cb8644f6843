/* test_plan.c - steps: all or nothing, what a plan says, write, attend, commit, abort. */
#include "unit.h"

#include "api/fixture.h"

static pkv_plan begin(pkv_cache* cache, const pkv_entry* entries, uint32_t count) {
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(cache, entries, count, &plan));
    return plan;
}

TEST(a_plan_lists_rows_in_entry_order) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const pkv_seq a = fixture_seq(cache, 0);
    const pkv_seq b = fixture_seq(cache, 0);
    fixture_extend(cache, b, tokens, 5);
    const pkv_entry entries[2] = {{a, tokens, 2}, {b, tokens + 5, 4}};
    const pkv_plan plan = begin(cache, entries, 2);
    pkv_plan_info info;
    ASSERT_OK(pkv_plan_get_info(cache, plan, 0, &info));
    ASSERT_EQ(info.entries, 2);
    ASSERT_EQ(info.tokens, 6);
    ASSERT_MEM(info.starts, ((const uint32_t[]){0, 2, 6}), 12);
    ASSERT_MEM(info.lengths, ((const uint32_t[]){2, 9}), 8);
    ASSERT_MEM(info.positions, ((const uint32_t[]){0, 1, 5, 6, 7, 8}), 24);
    for (uint32_t row = 0; row < 6; row++) {
        const uint32_t* table = info.block_table + (row < 2 ? 0 : info.table_stride);
        const uint32_t position = info.positions[row];
        ASSERT_EQ(info.slots[row],
                  table[position / FIXTURE_BLOCK] * FIXTURE_BLOCK + position % FIXTURE_BLOCK);
    }
    ASSERT_STATUS(pkv_plan_get_info(cache, plan, 1, &info), PKV_ERANGE);
    pkv_cache_destroy(cache);
}

TEST(sequences_are_busy_while_planned) {
    pkv_cache* cache = fixture_open();
    const uint32_t token = 1;
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_entry entry = {seq, &token, 1};
    const pkv_plan plan = begin(cache, &entry, 1);
    pkv_plan second;
    uint32_t matched;
    float k[FIXTURE_DIM];
    const pkv_array array = {.data = k};
    ASSERT_EQ(fixture_info(cache, seq).in_plan, 1);
    ASSERT_STATUS(pkv_plan_begin(cache, &entry, 1, &second), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_append(cache, seq, &token, 1, NULL), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_commit(cache, seq), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_match(cache, seq, &token, 1, &matched), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_read(cache, seq, 0, 0, 0, &array, NULL), PKV_EBUSY);
    ASSERT_STATUS(pkv_seq_free(cache, seq), PKV_EBUSY);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    ASSERT_EQ(fixture_info(cache, seq).in_plan, 0);
    ASSERT_OK(pkv_seq_free(cache, seq));
    pkv_cache_destroy(cache);
}

TEST(all_entries_get_their_blocks_or_none_does) {
    pkv_cache* cache = fixture_open();
    const pkv_seq a = fixture_seq(cache, 0);
    const pkv_seq b = fixture_seq(cache, 0);
    const pkv_seq c = fixture_seq(cache, 0);
    ASSERT_OK(pkv_seq_append(cache, c, NULL, 8, NULL));
    const pkv_report before = fixture_check(cache);
    const pkv_entry entries[2] = {{a, NULL, 40}, {b, NULL, 20}};
    pkv_plan plan;
    ASSERT_STATUS(pkv_plan_begin(cache, entries, 2, &plan), PKV_ENOBLOCKS);
    const pkv_report after = fixture_check(cache);
    ASSERT_EQ(after.cache_digest, before.cache_digest);
    ASSERT_OK(pkv_seq_free(cache, c));
    ASSERT_OK(pkv_plan_begin(cache, entries, 2, &plan));
    pkv_cache_destroy(cache);
}

TEST(what_can_never_fit_is_told_from_what_does_not_fit_now) {
    pkv_config config = fixture_config();
    config.sequence_tokens_max = 64;
    config.plan_tokens_max = 100;
    pkv_cache* cache = fixture_create(&config);
    const pkv_seq a = fixture_seq(cache, 0);
    const pkv_seq b = fixture_seq(cache, 0);
    pkv_plan plan;
    const pkv_entry too_long = {a, NULL, 65};
    ASSERT_STATUS(pkv_plan_begin(cache, &too_long, 1, &plan), PKV_ETOOBIG);
    const pkv_entry huge = {a, NULL, 1U << 31};
    ASSERT_STATUS(pkv_plan_begin(cache, &huge, 1, &plan), PKV_ETOOBIG);
    const pkv_entry wide[2] = {{a, NULL, 64}, {b, NULL, 1}};
    ASSERT_STATUS(pkv_plan_begin(cache, wide, 2, &plan), PKV_ETOOBIG);
    const pkv_entry many[2] = {{a, NULL, 60}, {b, NULL, 41}};
    ASSERT_STATUS(pkv_plan_begin(cache, many, 2, &plan), PKV_ETOOBIG);
    ASSERT_STATUS(pkv_seq_append(cache, a, NULL, UINT32_MAX, NULL), PKV_ETOOBIG);
    ASSERT_OK(pkv_seq_append(cache, a, NULL, 64, NULL));
    ASSERT_STATUS(pkv_seq_append(cache, b, NULL, 1, NULL), PKV_ENOBLOCKS);
    pkv_cache_destroy(cache);
}

TEST(malformed_plans_are_refused) {
    pkv_config config = fixture_config();
    config.plan_sequences_max = 2;
    config.plans_max = 1;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t token = 1;
    const pkv_seq seq = fixture_seq(cache, 0);
    const pkv_seq other = fixture_seq(cache, 0);
    const pkv_entry entry = {seq, &token, 1};
    const pkv_entry twice[3] = {entry, entry, entry};
    const pkv_entry empty = {seq, &token, 0};
    const pkv_entry stale = {{12345}, &token, 1};
    pkv_plan plan = {99};
    ASSERT_STATUS(pkv_plan_begin(cache, &entry, 0, &plan), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_begin(cache, twice, 2, &plan), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_begin(cache, &empty, 1, &plan), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_begin(cache, &stale, 1, &plan), PKV_ESTALE);
    ASSERT_STATUS(pkv_plan_begin(cache, NULL, 1, &plan), PKV_EINVAL);
    ASSERT_STATUS(pkv_plan_begin(cache, &entry, 1, NULL), PKV_EINVAL);
    ASSERT_EQ(plan.id, 99);
    begin(cache, &entry, 1);
    const pkv_entry next = {other, &token, 1};
    ASSERT_STATUS(pkv_plan_begin(cache, &next, 1, &plan), PKV_EBUSY);
    pkv_cache_destroy(cache);
}

TEST(abort_leaves_sequences_as_they_were) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[20];
    fixture_tokens(tokens, 20, 1);
    const pkv_seq a = fixture_seq(cache, 0);
    const pkv_seq b = fixture_seq(cache, 0);
    fixture_extend(cache, a, tokens, 6);
    const pkv_report before = fixture_check(cache);
    const pkv_entry entries[2] = {{a, tokens + 6, 9}, {b, tokens, 20}};
    const pkv_plan plan = begin(cache, entries, 2);
    ASSERT_OK(pkv_plan_abort(cache, plan));
    const pkv_report after = fixture_check(cache);
    ASSERT_EQ(after.sequences_digest, before.sequences_digest);
    ASSERT_EQ(fixture_stats(cache).blocks_active, 2);
    ASSERT_EQ(fixture_stats(cache).plans_aborted, 1);
    fixture_expect(cache, a, tokens, 6);
    pkv_cache_destroy(cache);
}

TEST(an_ended_plan_is_stale) {
    pkv_cache* cache = fixture_open();
    const uint32_t token = 1;
    const pkv_entry entry = {fixture_seq(cache, 0), &token, 1};
    const pkv_plan plan = begin(cache, &entry, 1);
    pkv_plan_info info;
    ASSERT_OK(pkv_plan_commit(cache, plan));
    ASSERT_STATUS(pkv_plan_commit(cache, plan), PKV_ESTALE);
    ASSERT_STATUS(pkv_plan_abort(cache, plan), PKV_ESTALE);
    ASSERT_STATUS(pkv_plan_get_info(cache, plan, 0, &info), PKV_ESTALE);
    ASSERT_STATUS(fixture_write(cache, plan, &token), PKV_ESTALE);
    ASSERT_EQ(begin(cache, &entry, 1).id == plan.id, 0);
    pkv_cache_destroy(cache);
}

TEST(rows_of_a_steady_batch_are_only_extended) {
    pkv_cache* cache = fixture_open();
    uint32_t tokens[12];
    fixture_tokens(tokens, 12, 1);
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 1);
    for (uint32_t i = 1; i < 12; i++)
        fixture_extend(cache, seq, tokens + i, 1);
    const pkv_stats stats = fixture_stats(cache);
    ASSERT_EQ(stats.table_rows_extended + stats.table_rows_rewritten, 12);
    ASSERT_GE(stats.table_rows_extended, 10);
    pkv_cache_destroy(cache);
}

/* After its first step a batch that stays in order rewrites no row, whether blocks are added or
 * not. */
TEST(a_batch_in_order_rewrites_no_row) {
    enum { SEQUENCES = 4, STEPS = 3 * FIXTURE_BLOCK };
    pkv_cache* cache = fixture_open();
    pkv_entry entries[SEQUENCES];
    uint32_t tokens[SEQUENCES];
    for (uint32_t i = 0; i < SEQUENCES; i++)
        entries[i] = (pkv_entry){fixture_seq(cache, 0), &tokens[i], 1};
    for (uint32_t step = 0; step < STEPS; step++) {
        for (uint32_t i = 0; i < SEQUENCES; i++)
            tokens[i] = 1000 * i + step;
        ASSERT_OK(pkv_plan_commit(cache, begin(cache, entries, SEQUENCES)));
        ASSERT_EQ(fixture_stats(cache).table_rows_rewritten, SEQUENCES);
        ASSERT_EQ(fixture_stats(cache).table_rows_extended, step * SEQUENCES);
    }
    pkv_cache_destroy(cache);
}

/* ---- Write and attend ------------------------------------------------------------------------ */

TEST(what_is_not_an_array_is_refused) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[2] = {1, 2};
    const pkv_entry entry = {fixture_seq(cache, 0), tokens, 2};
    const pkv_plan plan = begin(cache, &entry, 1);
    float data[2 * FIXTURE_DIM] = {0};
    const pkv_array good = {.data = data};
    const pkv_array null = {.data = NULL};
    const pkv_array strange = {.data = data, .dtype = 9};
    const pkv_array crooked = {.data = (char*)data + 1};
    const pkv_array endless = {.data = data, .row_stride = UINT64_MAX / 2};
    ASSERT_STATUS(pkv_write(cache, plan, 0, NULL, &good), PKV_EINVAL);
    ASSERT_STATUS(pkv_write(cache, plan, 0, &good, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_write(cache, plan, 0, &null, &good), PKV_EINVAL);
    ASSERT_STATUS(pkv_write(cache, plan, 0, &good, &strange), PKV_EINVAL);
    ASSERT_STATUS(pkv_write(cache, plan, 0, &crooked, &good), PKV_EINVAL);
    ASSERT_STATUS(pkv_write(cache, plan, 0, &good, &endless), PKV_EINVAL);
    ASSERT_STATUS(pkv_write(cache, plan, 1, &good, &good), PKV_ERANGE);
    ASSERT_OK(pkv_write(cache, plan, 0, &good, &good));
    pkv_cache_destroy(cache);
}

TEST(what_is_not_finite_is_not_stored) {
    pkv_config config = fixture_config();
    config.groups[0].k_dtype = PKV_F16;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t token = 1;
    const pkv_entry entry = {fixture_seq(cache, 0), &token, 1};
    const pkv_plan plan = begin(cache, &entry, 1);
    float data[FIXTURE_DIM] = {0};
    float other[FIXTURE_DIM] = {0};
    const pkv_array array = {.data = data};
    const pkv_array fine = {.data = other};
    data[7] = NAN;
    ASSERT_STATUS(pkv_write(cache, plan, 0, &array, &fine), PKV_ENONFINITE);
    ASSERT_STATUS(pkv_write(cache, plan, 0, &fine, &array), PKV_ENONFINITE);
    data[7] = -INFINITY;
    ASSERT_STATUS(pkv_write(cache, plan, 0, &fine, &array), PKV_ENONFINITE);
    data[7] = 1e6F; /* finite, but not in f16 */
    ASSERT_STATUS(pkv_write(cache, plan, 0, &array, &fine), PKV_ENONFINITE);
    ASSERT_OK(pkv_write(cache, plan, 0, &fine, &array));
    pkv_cache_destroy(cache);
}

TEST(attention_with_a_zero_query_is_the_mean) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 5);
    const pkv_entry entry = {seq, tokens + 5, 1};
    const pkv_plan plan = begin(cache, &entry, 1);
    ASSERT_OK(fixture_write(cache, plan, tokens + 5));
    float q[2][FIXTURE_DIM] = {{0}};
    float out[2][FIXTURE_DIM];
    float lse[2];
    const pkv_attention attention = {
        .q = {.data = q}, .out = {.data = out}, .lse = lse, .query_heads = 2};
    ASSERT_OK(pkv_attend(cache, plan, 0, &attention));
    double mean = 0;
    for (uint32_t i = 0; i < 6; i++)
        mean -= (1000.0 * tokens[i] + i) / 6;
    for (uint32_t head = 0; head < 2; head++) {
        ASSERT_NEAR(out[head][3], mean, 1e-3);
        ASSERT_NEAR(lse[head], log(6), 1e-6);
    }
    pkv_cache_destroy(cache);
}

/* Sinks below all scores, among them, and far above: the last one takes all the weight. */
TEST(sinks_take_weight_from_the_values) {
    pkv_cache* cache = fixture_open();
    const uint32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    const pkv_seq seq = fixture_seq(cache, 0);
    fixture_extend(cache, seq, tokens, 5);
    const pkv_entry entry = {seq, tokens + 5, 1};
    const pkv_plan plan = begin(cache, &entry, 1);
    ASSERT_OK(fixture_write(cache, plan, tokens + 5));
    float q[3][FIXTURE_DIM] = {{0}};
    float out[3][FIXTURE_DIM];
    float lse[3];
    const float sinks[3] = {-3e38F, logf(2), 1e6F};
    const pkv_attention attention = {.q = {.data = q},
                                     .out = {.data = out},
                                     .lse = lse,
                                     .query_heads = 3,
                                     .softcap = 0.25F,
                                     .sink_logits = sinks};
    ASSERT_OK(pkv_attend(cache, plan, 0, &attention));
    double mean = 0;
    for (uint32_t i = 0; i < 6; i++)
        mean -= (1000.0 * tokens[i] + i) / 6;
    ASSERT_NEAR(out[0][3], mean, 1e-3);
    ASSERT_NEAR(lse[0], log(6), 1e-6);
    ASSERT_NEAR(out[1][3], mean * 6 / 8, 1e-3);
    ASSERT_NEAR(lse[1], log(8), 1e-6);
    ASSERT_NEAR(out[2][3], 0, 0);
    ASSERT_NEAR(lse[2], 1e6, 0.1);
    pkv_cache_destroy(cache);
}

TEST(attention_arguments_are_checked) {
    pkv_config config = fixture_config();
    config.groups[0].kv_heads = 2;
    pkv_cache* cache = fixture_create(&config);
    const uint32_t token = 1;
    const pkv_entry entry = {fixture_seq(cache, 0), &token, 1};
    const pkv_plan plan = begin(cache, &entry, 1);
    float q[4 * FIXTURE_DIM] = {0};
    float out[4 * FIXTURE_DIM] = {0};
    const pkv_array k = {.data = q};
    ASSERT_OK(pkv_write(cache, plan, 0, &k, &k));
    const pkv_attention good = {.q = {.data = q}, .out = {.data = out}, .query_heads = 4};
    ASSERT_OK(pkv_attend(cache, plan, 0, &good));
    ASSERT_STATUS(pkv_attend(cache, plan, 0, NULL), PKV_EINVAL);
    ASSERT_STATUS(pkv_attend(cache, plan, 1, &good), PKV_ERANGE);
    pkv_attention bad = good;
    bad.query_heads = 3;
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_EINVAL);
    bad.query_heads = 0;
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_EINVAL);
    bad.query_heads = 65538;
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_EINVAL);
    bad = good;
    bad.scale = NAN;
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_EINVAL);
    bad = good;
    bad.softcap = -1;
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_EINVAL);
    bad = good;
    float sinks[5] = {0};
    bad.sink_logits = (const float*)(void*)((char*)sinks + 1);
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_EINVAL);
    bad.sink_logits = sinks;
    ASSERT_OK(pkv_attend(cache, plan, 0, &bad));
    out[0] = 42;
    for (uint32_t head = 0; head < 4; head++) {
        sinks[head] = head % 2 == 0 ? NAN : -INFINITY;
        ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_ENONFINITE);
        sinks[head] = 0;
    }
    ASSERT_NEAR(out[0], 42, 0);
    bad = good;
    bad.out.data = NULL;
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &bad), PKV_EINVAL);
    q[5] = NAN;
    out[0] = 42;
    ASSERT_STATUS(pkv_attend(cache, plan, 0, &good), PKV_ENONFINITE);
    ASSERT_NEAR(out[0], 42, 0);
    pkv_cache_destroy(cache);
}
