/* test_hostile.c - calls with every kind of nonsense: always a status, never a crash, nothing
 * changed.
 *
 *   test_hostile [--calls N] [--seed S] [filter]
 *
 * Each call has at least one thing wrong (hostile.h). The digest of the cache is compared after each.
 * After every 500 of them some right calls follow, which are not counted, to keep handles moving. */
#define UNIT_NO_MAIN
#include "unit.h"

#include "sweep/hostile.h"

static uint64_t calls_wanted = 1000000;
static uint64_t seed = 1;

/* ---- The world ------------------------------------------------------------------------------- */

static pkv_arena* open_arena(void) {
    pkv_arena_config config;
    pkv_arena* arena;
    ASSERT_OK(pkv_arena_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.extent_bytes = EXTENT;
    config.bytes = (uint64_t)EXTENTS * EXTENT;
    ASSERT_OK(pkv_arena_create(&config, &arena));
    return arena;
}

static pkv_cache* open_cache(pkv_arena* arena, uint64_t cache_seed) {
    pkv_config config;
    pkv_cache* cache;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = "sim";
    config.faults = "";
    config.groups[0] =
        (pkv_group_config){.layers = 1, .kv_heads = 1, .key_dim = DIM, .block_tokens = 2};
    config.arena = arena;
    config.blocks = BLOCKS; /* of an extent */
    config.tenants_max = 1;
    config.sequences_max = SEQS + 1;
    config.plan_tokens_max = 8;
    config.trace_events_max = 4;
    config.host_blocks = 4;
    config.retained_max = 1;
    config.seed = cache_seed;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    return cache;
}

static void live_a_while(pkv_cache* cache, pkv_seq* seqs, pkv_plan* plan, pkv_transfer* transfer) {
    const pkv_tenant_config quota = {.tenant = OWNER, .guaranteed = 2, .limit = 8};
    ASSERT_OK(pkv_tenant_set(cache, &quota));
    for (uint32_t i = 0; i < SEQS; i++)
        if (i != FORKED) ASSERT_OK(pkv_seq_create(cache, i % 2, &seqs[i]));
    ASSERT_OK(pkv_seq_append(cache, seqs[COMMITTED], world_tokens, 5, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seqs[COMMITTED]));
    ASSERT_OK(pkv_seq_append(cache, seqs[RESERVED], world_tokens, 3, NULL));
    ASSERT_OK(pkv_seq_fork(cache, seqs[COMMITTED], &seqs[FORKED]));
    const pkv_entry entry = {seqs[PLANNED], world_tokens, 3};
    ASSERT_OK(pkv_plan_begin(cache, &entry, 1, plan));
    ASSERT_OK(pkv_seq_append(cache, seqs[GONE], world_tokens, 3, NULL));
    ASSERT_OK(pkv_seq_commit(cache, seqs[GONE]));
    ASSERT_OK(pkv_seq_swap_out(cache, seqs[GONE], transfer));
    ASSERT_OK(pkv_transfer_wait(cache, *transfer));
}

static void open_world(struct world* w) {
    pkv_seq seqs[SEQS];
    *w = (struct world){.random = seed};
    w->arena = open_arena();
    w->cache = open_cache(w->arena, 2 * seed + 1);
    w->other = open_cache(w->arena, 2 * seed + 2);
    pkv_transfer foreign;
    live_a_while(w->cache, w->seqs, &w->plan, &w->dead_transfer);
    live_a_while(w->other, seqs, &w->foreign_plan, &foreign);
    w->foreign = seqs[COMMITTED];
    ASSERT_OK(pkv_pin_create(w->cache, w->seqs[COMMITTED], 4, OWNER, 0, &w->dead_pin));
    ASSERT_OK(pkv_pin_release(w->cache, w->dead_pin));
}

static void close_world(struct world* w) {
    pkv_cache_destroy(w->cache);
    pkv_cache_destroy(w->other);
    ASSERT_OK(pkv_arena_destroy(w->arena));
}

/* Something right: a sequence and a plan end, and leave their handles behind. */
static void move_on(struct world* w) {
    const pkv_entry entry = {w->seqs[EMPTY], world_tokens, 2};
    pkv_plan plan;
    ASSERT_OK(pkv_plan_begin(w->cache, &entry, 1, &plan));
    ASSERT_OK(pkv_plan_abort(w->cache, plan));
    w->dead_plans[world_below(w, DEAD)] = plan;
    ASSERT_OK(pkv_seq_free(w->cache, w->seqs[SPARE]));
    w->dead_seqs[world_below(w, DEAD)] = w->seqs[SPARE];
    ASSERT_OK(pkv_seq_create(w->cache, 3, &w->seqs[SPARE]));
}

/* ---- The test -------------------------------------------------------------------------------- */

static const hostile_kinds* const all[] = {&hostile_on_seqs,    &hostile_on_sharing,
                                           &hostile_on_plans,   &hostile_on_caches,
                                           &hostile_on_tenants, &hostile_on_swaps};

enum { ALL = sizeof all / sizeof *all };

/* Every kind of call is as probable as every other. */
static int make_call(struct world* w, const char** name, uint32_t* kind) {
    uint32_t kinds = 0;
    for (uint32_t i = 0; i < ALL; i++)
        kinds += all[i]->count;
    *kind = world_below(w, kinds);
    const hostile_kinds* const* group = all;
    for (; *kind >= (*group)->count; group++)
        *kind -= (*group)->count;
    *name = (*group)->name;
    return (*group)->calls[*kind](w);
}

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
        const char* name;
        uint32_t kind;
        const int status = make_call(&w, &name, &kind);
        const bool is_error = status < 0 && pkv_status_name(status) != NULL;
        const uint64_t after = digest(w.cache);
        if (!is_error || after != before)
            printf("  kind %u of calls on %s: replay with --seed %" PRIu64 " --calls %" PRIu64 "\n",
                   kind, name, seed, call + 1);
        ASSERT(is_error);
        ASSERT_EQ(after, before);
        w.counts[-status]++;
        if (call % 500 == 0) {
            move_on(&w);
            before = digest(w.cache);
        }
    }
    print_counts(&w, calls_wanted);
    static const int kinds[] = {PKV_ESTALE, PKV_EINVAL, PKV_EBUSY, PKV_EQUOTA, PKV_ENOBLOCKS};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        ASSERT_GT(w.counts[-kinds[i]], 0);
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
