/* test_arena.c - sets of bits and of extents against arrays that are searched from end to end, and
 * damage to the books of a shared arena. */
#include "unit.h"

#include "base/hash.h"
#include "core/arena_shared.h"
#include "core/cache.h"

enum { EXTENTS = 300, WEIGHTS = 5, ROUNDS = 20000 };

static struct pkvi_mem memory(struct pkvi_faults* faults) {
    struct pkvi_mem mem;
    const pkv_memory_hook hook = {NULL, NULL};
    ASSERT_OK(pkvi_faults_init(faults, "", 0));
    pkvi_mem_init(&mem, &hook, faults);
    return mem;
}

/* ---- Bits ------------------------------------------------------------------------------------ */

static void exercise_bits(uint32_t count) {
    struct pkvi_faults faults;
    struct pkvi_mem mem = memory(&faults);
    struct pkvi_bits bits;
    uint64_t random = count;
    bool* members = calloc(count, sizeof *members);
    ASSERT(members != NULL);
    ASSERT_OK(pkvi_bits_open(&bits, &mem, count));
    for (uint32_t round = 0; round < 400; round++) {
        const uint32_t number = (uint32_t)(pkvi_random_next(&random) % count);
        members[number] = !members[number];
        (members[number] ? pkvi_bits_add : pkvi_bits_remove)(&bits, number);
        uint32_t low = 0;
        uint32_t high = count;
        while (low < count && !members[low])
            low++;
        if (low == count) continue; /* empty */
        while (!members[high - 1])
            high--;
        ASSERT_EQ(pkvi_bits_lowest(&bits), low);
        ASSERT_EQ(pkvi_bits_highest(&bits), high - 1);
    }
    pkvi_bits_close(&bits, &mem);
    ASSERT_EQ(mem.bytes, 0);
    pkvi_faults_free(&faults);
    free(members);
}

TEST(bits_know_their_ends) {
    static const uint32_t counts[] = {1, 2, 63, 64, 65, 128, 4096, 4097, 70000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        exercise_bits(counts[i]);
}

/* ---- Sets of extents ------------------------------------------------------------------------- */

struct shadow {
    bool in;
    uint32_t weight;
    uint64_t joined; /* when it came, and for best fit when its weight last changed */
};

/* Does `a` serve before `b`? */
static bool serves_before(enum pkv_allocator policy, const struct shadow* set, uint32_t a,
                          uint32_t b) {
    switch (policy) {
    case PKV_FIRST_FIT:
        return a < b;
    case PKV_RING:
        return set[a].joined < set[b].joined;
    case PKV_BEST_FIT:
        if (set[a].weight != set[b].weight) return set[a].weight > set[b].weight;
        return set[a].joined > set[b].joined;
    default:
        return set[a].joined > set[b].joined;
    }
}

static uint32_t shadow_first(enum pkv_allocator policy, const struct shadow* set) {
    uint32_t best = EXTENTS;
    for (uint32_t e = 0; e < EXTENTS; e++)
        if (set[e].in && (best == EXTENTS || serves_before(policy, set, e, best))) best = e;
    return best;
}

static void exercise_set(enum pkv_allocator policy) {
    struct pkvi_faults faults;
    struct pkvi_mem mem = memory(&faults);
    struct pkvi_extents set;
    struct shadow shadow[EXTENTS] = {{0}};
    uint64_t random = 7 + policy;
    uint32_t count = 0;
    ASSERT_OK(pkvi_extents_open(&set, &mem, policy, EXTENTS, WEIGHTS));
    for (uint64_t round = 1; round < ROUNDS; round++) {
        const uint32_t e = (uint32_t)(pkvi_random_next(&random) % EXTENTS);
        const uint32_t weight = (uint32_t)(pkvi_random_next(&random) % (WEIGHTS + 1));
        struct shadow* s = &shadow[e];
        if (!s->in) {
            pkvi_extents_add(&set, e, weight);
            *s = (struct shadow){true, weight, round};
            count++;
        } else if (pkvi_random_next(&random) % 2 == 0) {
            pkvi_extents_reweigh(&set, e, weight);
            s->weight = weight;
            if (policy == PKV_BEST_FIT) s->joined = round;
        } else {
            pkvi_extents_remove(&set, e);
            s->in = false;
            count--;
        }
        ASSERT_EQ(set.count, count);
        if (count > 0) ASSERT_EQ(pkvi_extents_first(&set), shadow_first(policy, shadow));
        if (round % 64 == 0) ASSERT(pkvi_extents_are_sound(&set));
    }
    pkvi_extents_close(&set, &mem);
    ASSERT_EQ(mem.bytes, 0);
    pkvi_faults_free(&faults);
}

TEST(the_lowest_address_serves_first) {
    exercise_set(PKV_FIRST_FIT);
}

TEST(the_fullest_extent_serves_first) {
    exercise_set(PKV_BEST_FIT);
}

TEST(the_oldest_extent_serves_first) {
    exercise_set(PKV_RING);
}

TEST(the_youngest_extent_serves_first) {
    exercise_set(PKV_LIFO);
}

static void open_three(struct pkvi_extents* set, struct pkvi_mem* mem, enum pkv_allocator policy) {
    ASSERT_OK(pkvi_extents_open(set, mem, policy, 8, 3));
    for (uint32_t e = 2; e < 5; e++)
        pkvi_extents_add(set, e, e - 2);
    ASSERT(pkvi_extents_are_sound(set));
}

/* The judge of a set notices a wrong count, link, bit and end, for every policy that has them. */
TEST(damage_to_a_set_is_noticed) {
    for (enum pkv_allocator policy = PKV_FIRST_FIT; policy <= PKV_LIFO; policy++) {
        for (uint32_t damage = 0; damage < 4; damage++) {
            struct pkvi_faults faults;
            struct pkvi_mem mem = memory(&faults);
            struct pkvi_extents set;
            open_three(&set, &mem, policy);
            const bool has_lists = policy != PKV_FIRST_FIT;
            if (damage == 0) set.count++;
            if (damage == 1) set.weight[6] = 0;
            if (damage == 2) *(has_lists ? &set.tails[0] : &set.weight[3]) = PKVI_NONE;
            if (damage == 3 && policy != PKV_RING && policy != PKV_LIFO) set.bits.words[0] ^= 2;
            if (damage == 3 && (policy == PKV_RING || policy == PKV_LIFO)) set.previous[3] = 7;
            ASSERT(!pkvi_extents_are_sound(&set));
            pkvi_extents_close(&set, &mem);
            pkvi_faults_free(&faults);
        }
    }
}

/* ---- Books of a shared arena ----------------------------------------------------------------- */

struct pair {
    pkv_arena* arena;
    pkv_cache* a; /* blocks of 512 bytes, 8 to an extent */
    pkv_cache* b; /* blocks of 1536 bytes, 2 to an extent */
};

static pkv_cache* open_cache(pkv_arena* arena, uint32_t heads) {
    pkv_config config;
    pkv_cache* cache;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.groups[0] =
        (pkv_group_config){.layers = 1, .kv_heads = heads, .key_dim = 16, .block_tokens = 4};
    config.seed = heads;
    config.arena = arena;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    return cache;
}

static void cache_some(pkv_cache* cache, uint32_t tokens, bool ends) {
    uint32_t ids[64];
    pkv_seq seq;
    for (uint32_t i = 0; i < tokens; i++)
        ids[i] = i + ends;
    ASSERT_OK(pkv_seq_create(cache, 0, &seq));
    ASSERT_OK(pkv_seq_append(cache, seq, ids, tokens, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seq));
    if (ends) ASSERT_OK(pkv_seq_free(cache, seq));
}

static struct pair open_pair(void) {
    struct pair p;
    pkv_arena_config config;
    ASSERT_OK(pkv_arena_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.extent_bytes = 4096;
    config.bytes = 6 * 4096;
    config.bytes_max = 8 * 4096;
    ASSERT_OK(pkv_arena_create(&config, &p.arena));
    p.a = open_cache(p.arena, 1);
    p.b = open_cache(p.arena, 3);
    cache_some(p.a, 32, true);  /* an extent that is only cached */
    cache_some(p.a, 12, false); /* one with active blocks and room */
    cache_some(p.b, 8, false);
    return p;
}

static void close_pair(struct pair p) {
    pkv_cache_destroy(p.a);
    pkv_cache_destroy(p.b);
    ASSERT_OK(pkv_arena_destroy(p.arena));
}

TEST(a_shared_arena_in_use_is_in_order) {
    const struct pair p = open_pair();
    ASSERT_EQ(p.a->pool.spare.count, 1);
    ASSERT_EQ(p.arena->free.count, 3);
    ASSERT_OK(pkv_check(p.a, NULL));
    ASSERT_OK(pkv_check(p.b, NULL));
    close_pair(p);
}

/* Extent 0 is spare, 1 is A's, 2 is B's, 3 to 5 are free, 6 and 7 are not there yet. */
TEST(damage_to_a_shared_arena_is_called_by_its_name) {
    const struct pair p = open_pair();
    const struct {
        uint32_t* number;
        uint32_t damage;
        const char* invariant;
    } cases[] = {
        {&p.arena->holder[2], 77, "A1"},
        {&p.arena->holder[4], p.b->pool.number, "A1"},
        {&p.arena->holder[7], PKVI_HOLDER_NONE, "A1"},
        {&p.arena->free.count, 2, "A1"},
        {&p.arena->extent_count, 7, "A2"},
        {&p.arena->cache_count, 1, "A2"},
        {&p.b->pool.held_count, 2, "A2"},
        {&p.arena->holder[1], p.b->pool.number, "P4"},
        {&p.a->pool.open.weight[1], 2, "P4"},
        {&p.a->pool.extents[1].idle, 1, "P6"},
        {&p.a->pool.spare.weight[0], PKVI_NONE, "P6"},
        {&p.a->pool.spare.heads[0], 1, "P6"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t healthy = *cases[i].number;
        pkv_report report;
        ASSERT_NE(healthy, cases[i].damage);
        *cases[i].number = cases[i].damage;
        const int status = pkv_check(p.a, &report);
        printf("  damage %zu: %s\n", i, report.broken != NULL ? report.broken : "not noticed");
        ASSERT_STATUS(status, PKV_ECORRUPT);
        ASSERT_STR(report.broken, cases[i].invariant);
        *cases[i].number = healthy;
    }
    ASSERT_OK(pkv_check(p.a, NULL));
    close_pair(p);
}
