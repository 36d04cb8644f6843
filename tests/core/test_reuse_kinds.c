/* test_reuse_kinds.c - what the default eviction learns from, against the events on paper: the kind of a
 * block when it becomes idle, from all that was ever asked for, and spells, one by one.
 *
 * Texts grow as conversations do, and some begin alike. The cache is small, and remembers all that it
 * evicts, so that paper and policy know the same. */
#include "unit.h"

#include "base/hash.h"
#include "core/policy/builtin.h"
#include <string.h>

enum {
    BLOCKS = 120,
    TEXTS = 40,
    STEM = 6, /* pages that all texts of a family begin with */
    FAMILIES = 4,
    PAGES_MAX = 40, /* of a text */
    REQUESTS = 500,
    KINDS = PKVI_REUSE_KINDS,
};

/* A page of a text, or of the stem of a family. */
struct page {
    uint32_t uses;
    uint32_t block; /* PKVI_NONE: not cached */
    uint32_t fresh; /* as of the request that brought it in */
    uint32_t seen;
    uint32_t rested;
    uint32_t kind;
};

struct world {
    struct pkvi_shared shared;
    struct pkvi_domain domain;
    uint64_t random;
    struct page texts[TEXTS][PAGES_MAX];
    struct page stems[FAMILIES][STEM];
    struct page* owner[BLOCKS];
    uint32_t lengths[TEXTS];
    uint32_t free[BLOCKS];
    uint32_t free_count;
    uint32_t clock;
    uint32_t reused[KINDS];
    uint32_t reused_at[PKVI_REUSE_BINS];
};

static uint32_t below(struct world* w, uint32_t bound) {
    return (uint32_t)(pkvi_random_next(&w->random) % bound);
}

static struct page* page_of(struct world* w, uint32_t text, uint32_t page) {
    return page < STEM ? &w->stems[text % FAMILIES][page] : &w->texts[text][page];
}

/* Every page has another one, whatever its place. */
static uint32_t identity_of(const struct world* w, const struct page* page) {
    const uint64_t place = (uint64_t)((const char*)page - (const char*)w);
    return (uint32_t)((place + 1) * 0x9E3779B97F4A7C15U >> 32);
}

/* By search: the bin whose ages hold this one; 0..1, 2, 3, 4..5, 6..7, 8..11, ... */
static uint32_t bin_of(uint32_t age) {
    uint32_t first = 2;
    for (uint32_t bin = 0;; bin++) {
        if (age < first) return bin;
        first = (first & (first - 1)) == 0 ? first + first / 2 : first / 3 * 4;
    }
}

static uint32_t class_of(const uint32_t* firsts, uint32_t count, uint32_t value) {
    uint32_t found = 0;
    for (uint32_t i = 1; i < count; i++)
        if (value >= firsts[i]) found = i;
    return found;
}

static uint32_t kind_on_paper(const struct page* page, const struct page* last) {
    static const uint32_t uses[] = {1, 2, 3, 4, 6, 9, 16};
    static const uint32_t fresh[] = {0, 8, 16, 32, 64};
    static const uint32_t seen[] = {0, 2, 16};
    if (page == last) return 0;
    const uint32_t u = class_of(uses, 7, page->uses);
    return 1 + (u * 5 + class_of(fresh, 5, last->fresh)) * 3 + class_of(seen, 3, last->seen);
}

static void evict(struct world* w) {
    const uint32_t block = pkvi_domain_evict(&w->domain);
    struct page* page = w->owner[block];
    pkvi_domain_remember(&w->domain, block, identity_of(w, page));
    page->block = PKVI_NONE;
    w->free[w->free_count++] = block;
}

/* The block, or its ghost, is asked for again. */
static void note_reuse(struct world* w, const struct page* page) {
    w->reused[page->kind]++;
    w->reused_at[bin_of(w->clock - page->rested)]++;
}

static uint32_t match(struct world* w, uint32_t text, uint32_t pages) {
    uint32_t found = 0;
    for (; found < pages; found++) {
        struct page* page = page_of(w, text, found);
        if (page->block == PKVI_NONE) break;
        pkvi_domain_use(&w->domain, page->block);
        w->clock++;
        page->uses++;
        note_reuse(w, page);
        pkvi_domain_hold(&w->domain, page->block);
    }
    return found;
}

/* Pages behind one that was evicted cannot be found, and are in the way; nobody remembers them. */
static void drop(struct world* w, struct page* page) {
    if (page->block == PKVI_NONE) return;
    pkvi_domain_leave(&w->domain, page->block);
    w->free[w->free_count++] = page->block;
    page->block = PKVI_NONE;
    page->uses = 0;
}

/* `known` pages up to here, of which the last one had been asked for before. */
static void compute(struct world* w, uint32_t text, uint32_t index, uint32_t matched,
                    uint32_t known) {
    struct page* page = page_of(w, text, index);
    const struct pkvi_origin origin = {.page = index, .matched = matched};
    const uint32_t parent = index > 0 ? page_of(w, text, index - 1)->block : PKVI_NONE;
    page->block = w->free[--w->free_count];
    w->owner[page->block] = page;
    w->clock++;
    if (page->uses > 0) note_reuse(w, page);
    page->uses++;
    page->fresh = index + 1 - known;
    page->seen = known;
    pkvi_domain_enter(&w->domain, page->block, parent, identity_of(w, page), &origin);
}

static void rest(struct world* w, uint32_t text, uint32_t pages) {
    const struct page* last = page_of(w, text, pages - 1);
    for (uint32_t i = pages; i-- > 0;) {
        struct page* page = page_of(w, text, i);
        page->kind = kind_on_paper(page, last);
        page->rested = w->clock;
        pkvi_domain_rest(&w->domain, page->block, i);
        ASSERT_EQ(pkvi_candidate(&w->domain, page->block)->kind, page->kind);
    }
}

static void request(struct world* w, uint32_t text, uint32_t pages) {
    const uint32_t matched = match(w, text, pages);
    uint32_t known = matched;
    for (uint32_t i = matched; i < pages; i++)
        drop(w, page_of(w, text, i));
    while (w->free_count < pages - matched)
        evict(w);
    for (uint32_t i = matched; i < pages; i++) {
        if (page_of(w, text, i)->uses > 0) known = i + 1;
        compute(w, text, i, matched, known);
    }
    rest(w, text, pages);
}

/* A text begins, goes on, or is asked for once more; when it is too long, it is over. */
static void next_request(struct world* w) {
    const uint32_t text = below(w, 1U << below(w, 7)) % TEXTS;
    const uint32_t pages = w->lengths[text] + 1 + below(w, below(w, 4) == 0 ? 40 : 3);
    w->lengths[text] = pages < PAGES_MAX ? pages : PAGES_MAX;
    request(w, text, w->lengths[text]);
}

static void open_world(struct world* w, struct pkvi_mem* mem) {
    const struct pkvi_policy* policy = &pkvi_policy_reuse;
    ASSERT_OK(pkvi_shared_open(&w->shared, mem, BLOCKS, policy, &(pkv_config){.blocks = BLOCKS}));
    pkvi_domain_init(&w->domain, policy, &w->shared, BLOCKS);
    while (w->free_count < BLOCKS) {
        w->free[w->free_count] = w->free_count;
        w->free_count++;
    }
    for (uint32_t i = 0; i < TEXTS * PAGES_MAX; i++)
        w->texts[i / PAGES_MAX][i % PAGES_MAX].block = PKVI_NONE;
    for (uint32_t i = 0; i < FAMILIES * STEM; i++)
        w->stems[i / STEM][i % STEM].block = PKVI_NONE;
}

TEST(kinds_and_spells_are_those_on_paper) {
    static struct world w;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    const pkv_memory_hook hook = {NULL, NULL};
    w.random = 3;
    ASSERT_OK(pkvi_faults_init(&faults, "", 0));
    pkvi_mem_init(&mem, &hook, &faults);
    open_world(&w, &mem);
    for (uint32_t i = 0; i < REQUESTS; i++)
        next_request(&w);
    const struct pkvi_spells* spells = &w.shared.reuse->spells;
    uint32_t kinds = 0;
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        ASSERT((uint32_t)spells->kind_reused[kind] == w.reused[kind]);
        kinds += w.reused[kind] > 0;
    }
    for (uint32_t bin = 0; bin < PKVI_REUSE_BINS; bin++) {
        float reused = 0;
        for (uint32_t level = 0; level < PKVI_REUSE_LEVELS; level++)
            reused += spells->reused[level][bin];
        ASSERT((uint32_t)reused == w.reused_at[bin]);
    }
    ASSERT(kinds > 40); /* of 106: not only a few have been seen */
    ASSERT(w.shared.reuse->noted > 500);
    pkvi_shared_close(&w.shared, &mem);
    pkvi_faults_free(&faults);
}
