/* test_hostile.c - calls with every kind of nonsense: always a status, never a crash, nothing
 * changed.
 *
 *   test_hostile [--calls N] [--seed S] [filter]
 *
 * Each call has at least one thing wrong: a handle that is zero, freed, of the other kind, of
 * another cache or made up; a NULL; a count of 2^31 and more; a range that ends before it begins; a
 * sequence named twice; an array of no known type. The digest of the cache is compared after each.
 * After every 500 of them some right calls follow, which are not counted, to keep handles moving. */
#define UNIT_NO_MAIN
#include "unit.h"

enum { DIM = 16, SEQS = 7, DEAD = 64 };

static uint64_t calls_wanted = 1000000;
static uint64_t seed = 1;

/* A cache in the middle of its life: sequences that are empty, committed, reserved, in a plan and
 * away. */
struct world {
    pkv_cache* cache;
    pkv_cache* other; /* of the same shape, with the same life */
    pkv_seq seqs[SEQS];
    pkv_seq foreign;
    pkv_plan plan;
    pkv_plan foreign_plan;
    pkv_seq dead_seqs[DEAD];
    pkv_plan dead_plans[DEAD];
    pkv_transfer dead_transfer;
    uint64_t random;
    uint64_t counts[32]; /* calls by the status they gave, negated */
};

enum { EMPTY, COMMITTED, RESERVED, PLANNED, FORKED, SPARE, GONE };

static uint64_t next(struct world* w) {
    uint64_t x = w->random += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint32_t below(struct world* w, uint32_t bound) {
    return (uint32_t)(next(w) % bound);
}

/* ---- The world ------------------------------------------------------------------------------- */

static pkv_cache* open_cache(uint64_t cache_seed) {
    pkv_config config;
    pkv_cache* cache;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.groups[0] =
        (pkv_group_config){.layers = 1, .kv_heads = 1, .key_dim = DIM, .block_tokens = 2};
    config.blocks = 16;
    config.sequences_max = SEQS + 1;
    config.plan_tokens_max = 8;
    config.trace_events_max = 4;
    config.host_blocks = 4;
    config.retained_max = 1;
    config.seed = cache_seed;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    return cache;
}

static const uint32_t tokens[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static void live_a_while(pkv_cache* cache, pkv_seq* seqs, pkv_plan* plan, pkv_transfer* transfer) {
    for (uint32_t i = 0; i < SEQS; i++)
        if (i != FORKED) ASSERT_OK(pkv_seq_create(cache, i % 2, &seqs[i]));
    ASSERT_OK(pkv_seq_append(cache, seqs[COMMITTED], tokens, 5, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seqs[COMMITTED]));
    ASSERT_OK(pkv_seq_append(cache, seqs[RESERVED], tokens, 3, NULL));
    ASSERT_OK(pkv_seq_fork(cache, seqs[COMMITTED], &seqs[FORKED]));
    const pkv_entry entry = {seqs[PLANNED], tokens, 3};
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, plan));
    ASSERT_OK(pkv_seq_append(cache, seqs[GONE], tokens, 3, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seqs[GONE]));
    ASSERT_OK(pkv_seq_swap_out(cache, seqs[GONE], transfer));
    ASSERT_OK(pkv_transfer_wait(cache, *transfer));
}

static void open_world(struct world* w) {
    pkv_seq seqs[SEQS];
    *w = (struct world){.random = seed};
    w->cache = open_cache(2 * seed + 1);
    w->other = open_cache(2 * seed + 2);
    pkv_transfer foreign;
    live_a_while(w->cache, w->seqs, &w->plan, &w->dead_transfer);
    live_a_while(w->other, seqs, &w->foreign_plan, &foreign);
    w->foreign = seqs[COMMITTED];
}

static void close_world(struct world* w) {
    pkv_cache_destroy(w->cache);
    pkv_cache_destroy(w->other);
}

/* Something right: a sequence and a plan end, and leave their handles behind. */
static void move_on(struct world* w) {
    const pkv_entry entry = {w->seqs[EMPTY], tokens, 2};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(w->cache, &entry, 1, &plan));
    ASSERT_OK(pkv_plan_abort(w->cache, plan));
    w->dead_plans[below(w, DEAD)] = plan;
    ASSERT_OK(pkv_seq_free(w->cache, w->seqs[SPARE]));
    w->dead_seqs[below(w, DEAD)] = w->seqs[SPARE];
    ASSERT_OK(pkv_seq_create(w->cache, 3, &w->seqs[SPARE]));
}

/* ---- Bad handles ----------------------------------------------------------------------------- */

static bool is_live(const struct world* w, uint64_t id) {
    for (uint32_t i = 0; i < SEQS; i++)
        if (w->seqs[i].id == id) return true;
    return w->plan.id == id;
}

static uint64_t flip_bits(struct world* w, uint64_t id) {
    for (uint32_t flips = 1 + below(w, 8); flips > 0; flips--)
        id ^= 1ULL << below(w, 64);
    return is_live(w, id) ? 0 : id;
}

static pkv_seq bad_seq(struct world* w) {
    switch (below(w, 6)) {
    case 0:
        return (pkv_seq){0};
    case 1:
        return w->dead_seqs[below(w, DEAD)];
    case 2:
        return (pkv_seq){w->plan.id};
    case 3:
        return w->foreign;
    case 4:
        return (pkv_seq){flip_bits(w, w->seqs[below(w, SEQS)].id)};
    default:
        return (pkv_seq){next(w)};
    }
}

static pkv_plan bad_plan(struct world* w) {
    switch (below(w, 6)) {
    case 0:
        return (pkv_plan){0};
    case 1:
        return w->dead_plans[below(w, DEAD)];
    case 2:
        return (pkv_plan){w->seqs[PLANNED].id};
    case 3:
        return w->foreign_plan;
    case 4:
        return (pkv_plan){flip_bits(w, w->plan.id)};
    default:
        return (pkv_plan){next(w)};
    }
}

static uint32_t huge(struct world* w) {
    const uint32_t choices[] = {1U << 31, UINT32_MAX, (1U << 31) - 1, 0x40000000, 33};
    return choices[below(w, 5)];
}

/* ---- Bad calls on sequences ------------------------------------------------------------------ */

static pkv_array array_of(float* data) {
    return (pkv_array){.data = data};
}

/* Is not an array of two rows or more. */
static pkv_array bad_array(struct world* w, float* data) {
    pkv_array array = array_of(data);
    switch (below(w, 5)) {
    case 0:
        array.data = NULL;
        break;
    case 1:
        array.data = (char*)data + 1 + below(w, 3);
        break;
    case 2:
        array.dtype = 3 + below(w, UINT32_MAX - 3);
        break;
    case 3:
        array.row_stride = UINT64_MAX - below(w, 1000);
        break;
    default:
        array.row_stride = UINT64_MAX / 8;
        break;
    }
    return array;
}

static int bad_create(struct world* w) {
    pkv_seq seq;
    return below(w, 2) ? pkv_seq_create(NULL, 0, &seq) : pkv_seq_create(w->cache, 0, NULL);
}

static int bad_match(struct world* w) {
    uint32_t matched;
    switch (below(w, 6)) {
    case 0:
        return pkv_seq_match(NULL, w->seqs[EMPTY], tokens, 4, &matched);
    case 1:
        return pkv_seq_match(w->cache, bad_seq(w), tokens, 4, &matched);
    case 2:
        return pkv_seq_match(w->cache, w->seqs[EMPTY], NULL, 4, &matched);
    case 3:
        return pkv_seq_match(w->cache, w->seqs[EMPTY], tokens, 4, NULL);
    case 4:
        return pkv_seq_match(w->cache, w->seqs[EMPTY], tokens, huge(w), &matched);
    default:
        return pkv_seq_match(w->cache, w->seqs[1 + below(w, 4)], tokens, 4, &matched);
    }
}

static int bad_lookup(struct world* w) {
    pkv_match match;
    switch (below(w, 6)) {
    case 0:
        return pkv_seq_lookup(NULL, w->seqs[EMPTY], tokens, 4, &match);
    case 1:
        return pkv_seq_lookup(w->cache, bad_seq(w), tokens, 4, &match);
    case 2:
        return pkv_seq_lookup(w->cache, w->seqs[EMPTY], NULL, 4, &match);
    case 3:
        return pkv_seq_lookup(w->cache, w->seqs[EMPTY], tokens, 4, NULL);
    case 4:
        return pkv_seq_lookup(w->cache, w->seqs[EMPTY], tokens, huge(w), &match);
    default:
        return pkv_seq_lookup(w->cache, w->seqs[1 + below(w, 4)], tokens, 4, &match);
    }
}

static int bad_announce(struct world* w) {
    switch (below(w, 5)) {
    case 0:
        return pkv_seq_announce(NULL, w->seqs[EMPTY], tokens, 4);
    case 1:
        return pkv_seq_announce(w->cache, bad_seq(w), tokens, 4);
    case 2:
        return pkv_seq_announce(w->cache, w->seqs[EMPTY], NULL, 4);
    case 3:
        return pkv_seq_announce(w->cache, w->seqs[EMPTY], tokens, huge(w));
    default:
        return pkv_seq_announce(w->cache, w->seqs[PLANNED], tokens, 4);
    }
}

static int bad_set_keys(struct world* w) {
    static const pkv_extra_key keys[2] = {{4, 6, "cat", 3}, {5, 8, "dog", 3}};
    const pkv_seq seq = w->seqs[EMPTY];
    switch (below(w, 7)) {
    case 0:
        return pkv_seq_set_keys(NULL, seq, "salt", 4, keys, 1);
    case 1:
        return pkv_seq_set_keys(w->cache, bad_seq(w), "salt", 4, keys, 1);
    case 2:
        return pkv_seq_set_keys(w->cache, seq, NULL, 1 + below(w, 9), keys, 1);
    case 3:
        return pkv_seq_set_keys(w->cache, seq, "salt", 4, NULL, 1 + below(w, 9));
    case 4:
        return pkv_seq_set_keys(w->cache, seq, NULL, 0, keys, 2); /* they overlap */
    case 5:
        return pkv_seq_set_keys(w->cache, seq, "salt", UINT32_MAX - below(w, 9), NULL, 0);
    default:
        return pkv_seq_set_keys(w->cache, w->seqs[1 + below(w, 4)], "salt", 4, keys, 1);
    }
}

static int bad_publish(struct world* w) {
    uint32_t published;
    switch (below(w, 5)) {
    case 0:
        return pkv_seq_publish(NULL, w->seqs[COMMITTED], 1, &published);
    case 1:
        return pkv_seq_publish(w->cache, bad_seq(w), 1, &published);
    case 2:
        return pkv_seq_publish(w->cache, w->seqs[COMMITTED], 1, NULL);
    case 3:
        return pkv_seq_publish(w->cache, w->seqs[COMMITTED], huge(w), &published);
    default:
        return pkv_seq_publish(w->cache, w->seqs[PLANNED], 0, &published);
    }
}

static int bad_retain(struct world* w) {
    const pkv_retention high = {.priority = 90, .ttl_us = huge(w)};
    const pkv_retention too_high = {.priority = 101 + below(w, 1000)};
    const pkv_seq seq = w->seqs[COMMITTED];
    switch (below(w, 8)) {
    case 0:
        return pkv_seq_retain(NULL, seq, 0, 1, &high, NULL);
    case 1:
        return pkv_seq_retain(w->cache, bad_seq(w), 0, 1, &high, NULL);
    case 2:
        return pkv_seq_retain(w->cache, seq, 0, 1, &too_high, NULL);
    case 3:
        return pkv_seq_retain(w->cache, seq, 0, huge(w), &high, NULL);
    case 4:
        return pkv_seq_retain(w->cache, seq, 2, 1, NULL, NULL);
    case 5:
        return pkv_seq_retain(w->cache, w->seqs[GONE], 0, 1, &high, NULL);
    case 6:
        return pkv_seq_retain(w->cache, w->seqs[PLANNED], 0, 1, &high, NULL);
    default: /* two blocks, and room for one */
        return pkv_seq_retain(w->cache, seq, 0, 5, &high, NULL);
    }
}

static int bad_fork(struct world* w) {
    pkv_seq child;
    switch (below(w, 4)) {
    case 0:
        return pkv_seq_fork(NULL, w->seqs[COMMITTED], &child);
    case 1:
        return pkv_seq_fork(w->cache, bad_seq(w), &child);
    case 2:
        return pkv_seq_fork(w->cache, w->seqs[COMMITTED], NULL);
    default:
        return pkv_seq_fork(w->cache, w->seqs[RESERVED + below(w, 2)], &child);
    }
}

static int bad_truncate(struct world* w) {
    switch (below(w, 4)) {
    case 0:
        return pkv_seq_truncate(NULL, w->seqs[COMMITTED], 1);
    case 1:
        return pkv_seq_truncate(w->cache, bad_seq(w), below(w, 6));
    case 2:
        return pkv_seq_truncate(w->cache, w->seqs[COMMITTED], huge(w));
    default:
        return pkv_seq_truncate(w->cache, w->seqs[PLANNED], 0);
    }
}

static int bad_free(struct world* w) {
    const pkv_seq seq = bad_seq(w);
    switch (below(w, 3)) {
    case 0:
        return pkv_seq_free(NULL, w->seqs[COMMITTED]);
    case 1:
        return pkv_seq_free(w->cache, seq.id == 0 ? (pkv_seq){7} : seq); /* zero is allowed */
    default:
        return pkv_seq_free(w->cache, w->seqs[PLANNED]);
    }
}

static int bad_info(struct world* w) {
    pkv_seq_info info;
    switch (below(w, 3)) {
    case 0:
        return pkv_seq_get_info(NULL, w->seqs[COMMITTED], &info);
    case 1:
        return pkv_seq_get_info(w->cache, bad_seq(w), &info);
    default:
        return pkv_seq_get_info(w->cache, w->seqs[COMMITTED], NULL);
    }
}

static int bad_blocks(struct world* w) {
    uint32_t blocks[4];
    const pkv_seq seq = w->seqs[COMMITTED];
    switch (below(w, 6)) {
    case 0:
        return pkv_seq_blocks(NULL, seq, 0, 0, 1, blocks);
    case 1:
        return pkv_seq_blocks(w->cache, bad_seq(w), 0, 0, below(w, 4), blocks);
    case 2:
        return pkv_seq_blocks(w->cache, seq, 1 + below(w, UINT32_MAX - 1), 0, 1, blocks);
    case 3:
        return pkv_seq_blocks(w->cache, seq, 0, 0, huge(w), blocks);
    case 4:
        return pkv_seq_blocks(w->cache, seq, 0, 2, 1, blocks);
    default:
        return pkv_seq_blocks(w->cache, seq, 0, 0, 1, NULL);
    }
}

static int bad_append(struct world* w) {
    switch (below(w, 5)) {
    case 0:
        return pkv_seq_append(NULL, w->seqs[EMPTY], tokens, 1, NULL);
    case 1:
        return pkv_seq_append(w->cache, bad_seq(w), tokens, 1, NULL);
    case 2:
        return pkv_seq_append(w->cache, w->seqs[EMPTY], tokens, 0, NULL);
    case 3:
        return pkv_seq_append(w->cache, w->seqs[EMPTY], tokens, huge(w), NULL);
    default:
        return pkv_seq_append(w->cache, w->seqs[PLANNED], tokens, 1, NULL);
    }
}

static int bad_seq_write(struct world* w) {
    float data[8 * DIM] = {0};
    const pkv_array good = array_of(data);
    const pkv_array bad = bad_array(w, data);
    const pkv_seq seq = w->seqs[RESERVED];
    switch (below(w, 7)) {
    case 0:
        return pkv_seq_write(NULL, seq, 0, &good, &good);
    case 1:
        return pkv_seq_write(w->cache, bad_seq(w), 0, &good, &good);
    case 2:
        return pkv_seq_write(w->cache, seq, 1 + below(w, UINT32_MAX - 1), &good, &good);
    case 3:
        return pkv_seq_write(w->cache, seq, 0, NULL, &good);
    case 4:
        return pkv_seq_write(w->cache, seq, 0, &good, NULL);
    case 5:
        return pkv_seq_write(w->cache, seq, 0, &good, &bad);
    default:
        return pkv_seq_write(w->cache, w->seqs[below(w, 2)], 0, &good, &good);
    }
}

static int bad_commit(struct world* w) {
    switch (below(w, 3)) {
    case 0:
        return pkv_seq_commit(NULL, w->seqs[RESERVED]);
    case 1:
        return pkv_seq_commit(w->cache, bad_seq(w));
    default:
        return pkv_seq_commit(w->cache, w->seqs[PLANNED]);
    }
}

static int bad_read(struct world* w) {
    float data[8 * DIM];
    const pkv_array good = array_of(data);
    const pkv_array bad = bad_array(w, data);
    const pkv_seq seq = w->seqs[COMMITTED];
    switch (below(w, 8)) {
    case 0:
        return pkv_seq_read(NULL, seq, 0, 0, 2, &good, NULL);
    case 1:
        return pkv_seq_read(w->cache, bad_seq(w), 0, 0, below(w, 3), &good, NULL);
    case 2:
        return pkv_seq_read(w->cache, seq, 1 + below(w, UINT32_MAX - 1), 0, 2, &good, NULL);
    case 3:
        return pkv_seq_read(w->cache, seq, 0, 0, huge(w), NULL, NULL);
    case 4:
        return pkv_seq_read(w->cache, seq, 0, huge(w), 1, &good, NULL);
    case 5:
        return pkv_seq_read(w->cache, seq, 0, 0, 2, &bad, &good);
    case 6:
        return pkv_seq_read(w->cache, w->seqs[RESERVED], 0, 0, 3, &good, &good);
    default:
        return pkv_seq_read(w->cache, w->seqs[PLANNED], 0, 0, 1, &good, &good);
    }
}

/* ---- Bad calls on plans ---------------------------------------------------------------------- */

static int bad_begin(struct world* w) {
    pkv_plan plan;
    const pkv_entry good = {w->seqs[EMPTY], tokens, 1};
    pkv_entry entries[SEQS + 2];
    for (uint32_t i = 0; i < SEQS + 2; i++)
        entries[i] = good;
    switch (below(w, 9)) {
    case 0:
        return pkv_plan_begin(NULL, &good, 1, &plan);
    case 1:
        return pkv_plan_begin(w->cache, NULL, 1, &plan);
    case 2:
        return pkv_plan_begin(w->cache, &good, 1, NULL);
    case 3:
        return pkv_plan_begin(w->cache, &good, 0, &plan);
    case 4:
        return pkv_plan_begin(w->cache, entries, 2 + below(w, SEQS), &plan);
    case 5:
        return pkv_plan_begin(w->cache, entries, huge(w), &plan);
    case 6:
        entries[1].seq = bad_seq(w);
        return pkv_plan_begin(w->cache, entries, 2, &plan);
    case 7:
        entries[0].count = below(w, 2) ? huge(w) : 0;
        return pkv_plan_begin(w->cache, entries, 1, &plan);
    default:
        entries[1].seq = w->seqs[RESERVED + below(w, 2)];
        return pkv_plan_begin(w->cache, entries, 2, &plan);
    }
}

static int bad_trees(struct world* w) {
    pkv_plan plan;
    const pkv_entry good = {w->seqs[EMPTY], tokens, 2};
    const uint32_t wrong[2] = {below(w, 2) ? 0 : PKV_NO_PARENT, 1 + below(w, PKV_NO_PARENT - 1)};
    const uint32_t* const parents[2] = {wrong, NULL};
    const pkv_entry wide = {w->seqs[EMPTY], NULL, huge(w)};
    const uint32_t* const none = NULL;
    switch (below(w, 5)) {
    case 0:
        return pkv_plan_begin_trees(w->cache, &good, NULL, 1, &plan);
    case 1:
        return pkv_plan_begin_trees(below(w, 2) ? w->cache : NULL, NULL, parents, 1, &plan);
    case 2:
        return pkv_plan_begin_trees(w->cache, &good, parents, 1, NULL);
    case 3:
        return pkv_plan_begin_trees(w->cache, &wide, &none, 1, &plan);
    default:
        return pkv_plan_begin_trees(w->cache, &good, parents, 1, &plan);
    }
}

static int bad_accept(struct world* w) {
    const uint32_t rows[2] = {1 + below(w, UINT32_MAX - 1), below(w, 4)};
    const pkv_path paths[3] = {{rows, 1 + below(w, 2)}, {NULL, huge(w)}, {NULL, 0}};
    switch (below(w, 6)) {
    case 0:
        return pkv_plan_accept(NULL, w->plan, paths, 1);
    case 1:
        return pkv_plan_accept(w->cache, bad_plan(w), paths + 2, 1);
    case 2:
        return pkv_plan_accept(w->cache, w->plan, NULL, 1);
    case 3:
        return pkv_plan_accept(w->cache, w->plan, paths + 2, below(w, 2) ? 0 : huge(w));
    default:
        return pkv_plan_accept(w->cache, w->plan, paths + below(w, 2), 1);
    }
}

static int bad_plan_info(struct world* w) {
    pkv_plan_info info;
    switch (below(w, 4)) {
    case 0:
        return pkv_plan_get_info(NULL, w->plan, 0, &info);
    case 1:
        return pkv_plan_get_info(w->cache, bad_plan(w), 0, &info);
    case 2:
        return pkv_plan_get_info(w->cache, w->plan, 1 + below(w, UINT32_MAX - 1), &info);
    default:
        return pkv_plan_get_info(w->cache, w->plan, 0, NULL);
    }
}

static int bad_write(struct world* w) {
    float data[8 * DIM] = {0};
    const pkv_array good = array_of(data);
    const pkv_array bad = bad_array(w, data);
    switch (below(w, 6)) {
    case 0:
        return pkv_write(NULL, w->plan, 0, &good, &good);
    case 1:
        return pkv_write(w->cache, bad_plan(w), 0, &good, &good);
    case 2:
        return pkv_write(w->cache, w->plan, 1 + below(w, UINT32_MAX - 1), &good, &good);
    case 3:
        return pkv_write(w->cache, w->plan, 0, NULL, &good);
    case 4:
        return pkv_write(w->cache, w->plan, 0, &good, NULL);
    default:
        return pkv_write(w->cache, w->plan, 0, &bad, &good);
    }
}

static int bad_attend(struct world* w) {
    float data[8 * DIM] = {0};
    float out[8 * DIM];
    const float sinks[2] = {NAN, NAN};
    pkv_attention attention = {.q = array_of(data), .out = array_of(out), .query_heads = 1};
    switch (below(w, 10)) {
    case 0:
        return pkv_attend(NULL, w->plan, 0, &attention);
    case 1:
        return pkv_attend(w->cache, bad_plan(w), 0, &attention);
    case 2:
        return pkv_attend(w->cache, w->plan, 1 + below(w, UINT32_MAX - 1), &attention);
    case 3:
        return pkv_attend(w->cache, w->plan, 0, NULL);
    case 4:
        attention.q = bad_array(w, data);
        break;
    case 5:
        attention.out = bad_array(w, out);
        break;
    case 6:
        attention.query_heads = below(w, 2) ? 0 : 65537 + below(w, 1000);
        break;
    case 7:
        attention.softcap = below(w, 2) ? -1.0F : NAN;
        break;
    case 8:
        attention.sink_logits = (const float*)(const void*)((const char*)sinks + below(w, 4));
        break;
    default:
        attention.scale = below(w, 2) ? INFINITY : NAN;
        break;
    }
    return pkv_attend(w->cache, w->plan, 0, &attention);
}

static int bad_end(struct world* w) {
    switch (below(w, 4)) {
    case 0:
        return pkv_plan_commit(NULL, w->plan);
    case 1:
        return pkv_plan_abort(NULL, w->plan);
    case 2:
        return pkv_plan_commit(w->cache, bad_plan(w));
    default:
        return pkv_plan_abort(w->cache, bad_plan(w));
    }
}

/* ---- Bad calls on the cache ------------------------------------------------------------------ */

static int bad_cache_call(struct world* w) {
    pkv_stats stats = {.struct_size = below(w, 2) ? 0 : sizeof stats + 1 + below(w, 1000)};
    pkv_fault_info info;
    pkv_trace_event event;
    uint32_t count;
    switch (below(w, 11)) {
    case 0:
        return pkv_cache_stats(NULL, &stats);
    case 1:
        return pkv_cache_stats(w->cache, NULL);
    case 2:
        return pkv_cache_stats(w->cache, &stats);
    case 3:
        return pkv_check(NULL, NULL);
    case 4:
        return pkv_faults_set(NULL, "", 0);
    case 5:
        return pkv_fault_get(w->cache, pkv_fault_count() + below(w, 99), &info);
    case 6:
        return pkv_fault_get(w->cache, 0, NULL);
    case 7:
        return pkv_clock_advance(NULL, 1);
    case 8:
        return pkv_trace_read(NULL, &event, 1, &count);
    case 9:
        return pkv_trace_read(w->cache, NULL, 1, &count);
    default:
        return pkv_trace_read(w->cache, &event, 1, NULL);
    }
}

static int bad_swap(struct world* w) {
    pkv_transfer transfer;
    switch (below(w, 9)) {
    case 0:
        return pkv_seq_swap_out(NULL, w->seqs[COMMITTED], &transfer);
    case 1:
        return pkv_seq_swap_out(w->cache, bad_seq(w), &transfer);
    case 2:
        return pkv_seq_swap_out(w->cache, w->seqs[RESERVED + below(w, 2)], &transfer);
    case 3:
        return pkv_seq_swap_out(w->cache, w->seqs[COMMITTED], NULL);
    case 4:
        return pkv_seq_swap_out(w->cache, w->seqs[GONE], &transfer);
    case 5:
        return pkv_seq_swap_in(NULL, w->seqs[GONE], &transfer);
    case 6:
        return pkv_seq_swap_in(w->cache, bad_seq(w), &transfer);
    case 7:
        return pkv_seq_swap_in(w->cache, w->seqs[GONE], NULL);
    default:
        return pkv_seq_swap_in(w->cache, w->seqs[EMPTY + below(w, 5)], &transfer);
    }
}

/* None is under way. */
static pkv_transfer bad_transfer(struct world* w) {
    switch (below(w, 4)) {
    case 0:
        return w->dead_transfer;
    case 1:
        return (pkv_transfer){w->seqs[below(w, SEQS)].id};
    case 2:
        return (pkv_transfer){flip_bits(w, w->dead_transfer.id)};
    default:
        return (pkv_transfer){next(w)};
    }
}

static int bad_transfer_call(struct world* w) {
    const pkv_transfer transfer = bad_transfer(w);
    uint32_t done;
    switch (below(w, 6)) {
    case 0:
        return pkv_transfer_poll(NULL, transfer, &done);
    case 1:
        return pkv_transfer_poll(w->cache, transfer, &done);
    case 2:
        return pkv_transfer_poll(w->cache, transfer, NULL);
    case 3:
        return pkv_transfer_wait(w->cache, transfer);
    case 4: /* zero is allowed */
        return pkv_transfer_cancel(w->cache, transfer.id == 0 ? (pkv_transfer){7} : transfer);
    default:
        return pkv_transfer_cancel(NULL, transfer);
    }
}

/* What needs K/V of a sequence that is away. */
static int away_call(struct world* w) {
    static float k[16 * DIM];
    const pkv_array array = array_of(k);
    const pkv_seq gone = w->seqs[GONE];
    const pkv_entry entries[2] = {{w->seqs[EMPTY], tokens, 2}, {gone, tokens, 1}};
    uint32_t number;
    pkv_seq child;
    pkv_plan plan;
    switch (below(w, 8)) {
    case 0:
        return pkv_seq_match(w->cache, gone, tokens, 4, &number);
    case 1:
        return pkv_seq_fork(w->cache, gone, &child);
    case 2:
        return pkv_seq_truncate(w->cache, gone, below(w, 4));
    case 3:
        return pkv_seq_append(w->cache, gone, tokens, 1, NULL);
    case 4:
        return pkv_seq_write(w->cache, gone, 0, &array, &array);
    case 5:
        return pkv_seq_read(w->cache, gone, 0, 0, 2, &array, NULL);
    case 6:
        return pkv_seq_blocks(w->cache, gone, 0, 0, 1, &number);
    default:
        return pkv_plan_begin(w->cache, entries, 2, &plan);
    }
}

static int bad_specification(struct world* w) {
    static const char letters[] = "=*%->;().,0159 abcdefgmrsu.EIO";
    char spec[24];
    const uint32_t length = 1 + below(w, sizeof spec - 2);
    for (uint32_t i = 0; i < length; i++)
        spec[i] = letters[below(w, sizeof letters - 1)];
    spec[length] = '\0';
    spec[0] = '='; /* no point has an empty name */
    return pkv_faults_set(w->cache, spec, 0);
}

static int (*const bad_calls[])(struct world* w) = {
    bad_create,    bad_match,      bad_fork,          bad_truncate,  bad_free,
    bad_info,      bad_blocks,     bad_append,        bad_seq_write, bad_commit,
    bad_read,      bad_begin,      bad_write,         bad_attend,    bad_end,
    bad_plan_info, bad_cache_call, bad_specification, bad_swap,      bad_transfer_call,
    away_call,     bad_trees,      bad_accept,        bad_lookup,    bad_announce,
    bad_set_keys,  bad_publish,    bad_retain,
};

/* ---- The test -------------------------------------------------------------------------------- */

static uint64_t digest(pkv_cache* cache) {
    pkv_report report;
    ASSERT_OK(pkv_check(cache, &report));
    return report.cache_digest;
}

static void print_counts(const struct world* w, uint64_t calls) {
    printf("  calls %" PRIu64 ":", calls);
    for (int status = -1; status > -32; status--)
        if (w->counts[-status] > 0)
            printf(" %s %" PRIu64, pkv_status_name(status), w->counts[-status]);
    printf("\n");
}

TEST(nonsense_gives_a_status_and_changes_nothing) {
    struct world w;
    open_world(&w);
    uint64_t before = digest(w.cache);
    for (uint64_t call = 0; call < calls_wanted; call++) {
        const uint32_t which = below(&w, sizeof bad_calls / sizeof *bad_calls);
        const int status = bad_calls[which](&w);
        const bool is_error = status < 0 && pkv_status_name(status) != NULL;
        const uint64_t after = digest(w.cache);
        if (!is_error || after != before)
            printf("  kind %u of call: replay with --seed %" PRIu64 " --calls %" PRIu64 "\n", which,
                   seed, call + 1);
        ASSERT(is_error);
        ASSERT_EQ(after, before);
        w.counts[-status]++;
        if (call % 500 == 0) {
            move_on(&w);
            before = digest(w.cache);
        }
    }
    print_counts(&w, calls_wanted);
    for (size_t i = 0; i < 3; i++)
        ASSERT_GT(w.counts[i == 0 ? -PKV_ESTALE : i == 1 ? -PKV_EINVAL : -PKV_EBUSY], 0);
    close_world(&w);
}

TEST(a_right_call_would_be_noticed) {
    struct world w;
    open_world(&w);
    const uint64_t before = digest(w.cache);
    ASSERT_OK(pkv_seq_truncate(w.cache, w.seqs[COMMITTED], 4));
    ASSERT_NE(digest(w.cache), before);
    close_world(&w);
}

int main(int argc, char** argv) {
    const char* filter = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--calls") == 0 && i + 1 < argc)
            calls_wanted = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else
            filter = argv[i];
    }
    return unit_main(filter != NULL ? filter : getenv("UNIT_FILTER"));
}
