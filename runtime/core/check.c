/* check.c - see check.h.
 *
 * Each check_* function looks at one structure, trusts only what was checked before it, and returns
 * the name of the first invariant that it finds broken, or NULL. Walks along lists are bounded by
 * the number of elements there can be, so that a ring made by a bug is found and not followed for
 * ever. */
#include "core/check_parts.h"

#include "core/cache.h"
#include <string.h>

int pkvi_checker_open(struct pkvi_checker* checker, struct pkvi_mem* mem, uint32_t blocks,
                      uint32_t leaves, uint32_t host_blocks) {
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof(uint32_t), (void**)&checker->block_refs));
    PKVI_TRY(pkvi_mem_take(mem, leaves, sizeof(uint32_t), (void**)&checker->leaf_refs));
    PKVI_TRY(pkvi_mem_take(mem, leaves, sizeof(uint32_t), (void**)&checker->leaf_fill));
    return pkvi_mem_take(mem, host_blocks, sizeof(uint8_t), (void**)&checker->slot_named);
}

void pkvi_checker_close(struct pkvi_checker* checker, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, checker->slot_named);
    pkvi_mem_give(mem, checker->leaf_fill);
    pkvi_mem_give(mem, checker->leaf_refs);
    pkvi_mem_give(mem, checker->block_refs);
}

static void clear(pkv_cache* cache) {
    const struct pkvi_checker* checker = &cache->checker;
    memset(checker->block_refs, 0, cache->pool.block_count * sizeof(uint32_t));
    memset(checker->leaf_refs, 0, cache->leaves.leaf_count * sizeof(uint32_t));
    memset(checker->leaf_fill, 0, cache->leaves.leaf_count * sizeof(uint32_t));
    for (uint32_t slot = 0; slot < cache->tier.slot_count; slot++)
        checker->slot_named[slot] = 0;
}

/* ---- Sequences and tables -------------------------------------------------------------------- */

static bool may_be_rolled(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t page) {
    if (page >= seq->rolled_end) return false;
    return (uint64_t)page * cache->pool.block_tokens >= cache->layout.group.sinks;
}

/* Count the entries of a leaf that no table named before. */
static const char* count_leaf(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t first,
                              uint32_t fill) {
    for (uint32_t page = first; page < first + fill; page++) {
        const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
        if (block == PKV_NO_BLOCK) {
            EXPECT(may_be_rolled(cache, seq, page), "S4");
        } else {
            EXPECT(block < cache->pool.block_count, "T3");
            cache->checker.block_refs[block]++;
        }
    }
    return NULL;
}

static const char* check_table(pkv_cache* cache, const struct pkvi_seq* seq) {
    struct pkvi_checker* checker = &cache->checker;
    for (uint32_t first = 0; first < seq->table.pages; first += PKVI_LEAF_PAGES) {
        const uint32_t leaf = seq->table.leaves[first / PKVI_LEAF_PAGES];
        const uint32_t rest = seq->table.pages - first;
        const uint32_t fill = rest < PKVI_LEAF_PAGES ? rest : PKVI_LEAF_PAGES;
        EXPECT(leaf < cache->leaves.leaf_count, "T1");
        if (checker->leaf_refs[leaf]++ == 0) {
            checker->leaf_fill[leaf] = fill;
            CHECK(count_leaf(cache, seq, first, fill));
        }
        EXPECT(checker->leaf_fill[leaf] == fill, "T2");
    }
    return NULL;
}

static const char* check_seq(pkv_cache* cache, const struct pkvi_seq* seq) {
    const uint32_t used = seq->length + seq->reserved;
    const uint32_t pages = pkvi_ceil_div(used, cache->pool.block_tokens);
    if (seq->residence == PKV_AWAY)
        EXPECT(seq->table.pages == 0, "H2");
    else
        EXPECT(seq->table.pages == pages, "S1");
    EXPECT(seq->known <= used, "S3");
    return check_table(cache, seq);
}

/* Reserved tokens are nobody else's; looked at when all references have been counted. */
static const char* check_reserved(pkv_cache* cache, const struct pkvi_seq* seq) {
    const uint32_t first = seq->length / cache->pool.block_tokens;
    for (uint32_t page = first; seq->reserved > 0 && page < seq->table.pages; page++) {
        const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
        EXPECT(!pkvi_table_is_shared(&cache->leaves, &seq->table, page), "S2");
        EXPECT(block != PKV_NO_BLOCK, "S2");
        EXPECT(cache->pool.blocks[block].refs == 1, "S2");
    }
    return NULL;
}

static const char* check_leaves(const pkv_cache* cache) {
    const struct pkvi_leaves* leaves = &cache->leaves;
    for (uint32_t leaf = 0; leaf < leaves->leaf_count; leaf++)
        EXPECT(leaves->refs[leaf] == cache->checker.leaf_refs[leaf], "T1");
    uint32_t count = 0;
    for (uint32_t leaf = leaves->free_head; leaf != PKVI_NONE; leaf = leaves->next[leaf]) {
        EXPECT(leaves->refs[leaf] == 0, "T1");
        EXPECT(++count <= leaves->free_count, "T1");
    }
    EXPECT(count == leaves->free_count, "T1");
    for (uint32_t leaf = 0; leaf < leaves->leaf_count; leaf++)
        count += leaves->refs[leaf] > 0;
    EXPECT(count == leaves->leaf_count, "T1");
    return NULL;
}

static const char* check_pin(const pkv_cache* cache, const struct pkvi_seq* pin) {
    EXPECT(!pin->in_plan && pin->readers == 0, "N1");
    EXPECT(pin->residence == PKV_RESIDENT && pin->reserved == 0, "N1");
    EXPECT(pin->pin_deadline_us >= cache->pins.next_deadline_us, "N1");
    return NULL;
}

static const char* check_seqs(pkv_cache* cache) {
    uint32_t alive = 0;
    uint32_t pins = 0;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        const struct pkvi_seq* seq = &cache->seqs.slots[i];
        if (!seq->alive) continue;
        alive++;
        CHECK(check_seq(cache, seq));
        if (!seq->is_pin) continue;
        pins++;
        CHECK(check_pin(cache, seq));
    }
    EXPECT(pins == cache->pins.count, "N1");
    EXPECT(alive == cache->seqs.alive_count, "S1");
    return check_leaves(cache);
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static const char* check_positions(const struct pkvi_plan* plan, uint32_t index, uint32_t length) {
    const uint32_t first = plan->starts[index];
    const uint32_t* parents = plan->trees[index].parents;
    for (uint32_t i = 0; first + i < plan->starts[index + 1]; i++) {
        uint32_t parent = i > 0 ? i - 1 : (uint32_t)PKV_NO_PARENT;
        if (parents != NULL) parent = parents[i];
        EXPECT(parent == PKV_NO_PARENT || parent < i, "L3");
        const uint32_t position =
            parent == PKV_NO_PARENT ? length : plan->positions[first + parent] + 1;
        EXPECT(plan->positions[first + i] == position, "L3");
    }
    return NULL;
}

static const char* check_row(const pkv_cache* cache, const struct pkvi_plan* plan, uint32_t index) {
    const struct pkvi_seq* seq;
    const int status = pkvi_seq_find(&cache->seqs, plan->seqs[index], (struct pkvi_seq**)&seq);
    EXPECT(status == PKV_OK, "L1");
    EXPECT(seq->in_plan, "L1");
    const uint32_t* row = plan->block_table + (size_t)index * cache->plans.table_stride;
    for (uint32_t page = 0; page < seq->table.pages; page++)
        EXPECT(row[page] == pkvi_table_get(&cache->leaves, &seq->table, page), "L2");
    return check_positions(plan, index, seq->length);
}

static const char* check_plans(pkv_cache* cache) {
    uint32_t named = 0;
    for (uint32_t i = 0; i < cache->plans.count_max; i++) {
        const struct pkvi_plan* plan = &cache->plans.slots[i];
        for (uint32_t entry = 0; plan->open && entry < plan->entries; entry++, named++)
            CHECK(check_row(cache, plan, entry));
    }
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        const struct pkvi_seq* seq = &cache->seqs.slots[i];
        if (!seq->alive) continue;
        named -= seq->in_plan;
        CHECK(check_reserved(cache, seq));
    }
    EXPECT(named == 0, "L1");
    return NULL;
}

/* ---- Host tier and transfers ----------------------------------------------------------------- */

static const char* count_slot(pkv_cache* cache, uint32_t slot) {
    EXPECT(slot < cache->tier.slot_count, "H1");
    EXPECT(cache->checker.slot_named[slot]++ == 0, "H1");
    return NULL;
}

/* The slots of a sequence are those of its pages, in their order; away, the window says which. */
static const char* check_slots(pkv_cache* cache, const struct pkvi_seq* seq) {
    uint32_t slot = seq->host_head;
    const uint32_t pages = pkvi_ceil_div(seq->length, cache->pool.block_tokens);
    EXPECT(seq->residence != PKV_RESIDENT || slot == PKVI_NONE, "H2");
    for (uint32_t page = 0; page < pages && seq->residence != PKV_RESIDENT; page++) {
        const bool has_slot = slot != PKVI_NONE && cache->tier.page[slot] == page;
        if (seq->residence == PKV_AWAY)
            EXPECT(has_slot || may_be_rolled(cache, seq, page), "H2");
        else
            EXPECT(has_slot == (pkvi_table_get(&cache->leaves, &seq->table, page) != PKV_NO_BLOCK),
                   "H2");
        if (!has_slot) continue;
        CHECK(count_slot(cache, slot));
        slot = cache->tier.next[slot];
    }
    EXPECT(slot == PKVI_NONE, "H2");
    return NULL;
}

static const char* check_free_slots(pkv_cache* cache) {
    const struct pkvi_tier* tier = &cache->tier;
    uint32_t free = 0;
    for (uint32_t slot = tier->free_head; slot != PKVI_NONE; slot = tier->next[slot], free++)
        CHECK(count_slot(cache, slot));
    EXPECT(free == tier->free_count, "H1");
    for (uint32_t slot = 0; slot < tier->slot_count; slot++)
        EXPECT(cache->checker.slot_named[slot] == 1, "H1");
    return NULL;
}

/* How many open transfers name the sequence? */
static uint32_t transfers_of(const pkv_cache* cache, const struct pkvi_seq* seq) {
    const struct pkvi_transfers* transfers = &cache->transfers;
    uint32_t count = 0;
    for (uint32_t i = 0; i < transfers->count_max; i++) {
        const struct pkvi_transfer* transfer = &transfers->slots[i];
        const bool fits = transfer->is_in == (seq->residence == PKV_ARRIVING);
        count += transfer->open && transfer->seq == seq && fits;
    }
    return count;
}

static const char* check_tier(pkv_cache* cache) {
    uint32_t moving = 0;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++) {
        const struct pkvi_seq* seq = &cache->seqs.slots[i];
        if (!seq->alive) continue;
        CHECK(check_slots(cache, seq));
        EXPECT(seq->arrival == PKV_OK || seq->residence == PKV_ARRIVING, "H3");
        EXPECT(seq->arrival == PKV_OK || seq->in_plan, "H3");
        const bool is_moving = seq->residence == PKV_LEAVING || seq->residence == PKV_ARRIVING;
        const bool wants_transfer = is_moving && seq->arrival == PKV_OK;
        EXPECT(transfers_of(cache, seq) == wants_transfer, "H3");
        moving += wants_transfer;
    }
    EXPECT(moving == cache->transfers.open_count, "H3");
    return check_free_slots(cache);
}

/* ---- Digests --------------------------------------------------------------------------------- */

static uint64_t fold(uint64_t digest, uint64_t value) {
    uint64_t state = digest ^ value;
    return pkvi_random_next(&state);
}

static uint64_t digest_seq(const pkv_cache* cache, const struct pkvi_seq* seq, uint64_t digest) {
    digest = fold(digest, pkvi_seq_handle(&cache->seqs, seq).id);
    digest = fold(digest, seq->tenant);
    digest = fold(digest, (uint64_t)seq->length << 32 | seq->reserved);
    digest = fold(digest, (uint64_t)seq->known << 32 | seq->in_plan);
    digest = fold(digest, seq->residence);
    for (uint32_t slot = seq->host_head; slot != PKVI_NONE; slot = cache->tier.next[slot])
        digest = fold(digest, (uint64_t)cache->tier.page[slot] << 32 | slot);
    for (uint32_t page = 0; page < seq->table.pages; page++)
        digest = fold(digest, pkvi_table_get(&cache->leaves, &seq->table, page));
    return digest;
}

static uint64_t digest_quotas(const pkv_cache* cache, uint64_t digest) {
    for (uint32_t i = 1; i <= cache->quotas.account_max; i++) {
        const struct pkvi_account* a = &cache->quotas.accounts[i];
        if (!a->open) continue;
        digest = fold(digest, a->tenant);
        digest = fold(digest, (uint64_t)a->guaranteed << 32 | a->most);
    }
    return digest;
}

static uint64_t digest_seqs(const pkv_cache* cache) {
    uint64_t digest = 0;
    for (uint32_t i = 0; i < cache->seqs.count_max; i++)
        if (cache->seqs.slots[i].alive) digest = digest_seq(cache, &cache->seqs.slots[i], digest);
    digest = digest_quotas(cache, digest);
    digest = fold(digest, cache->transfers.open_count);
    return fold(digest, cache->plans.open_count);
}

static uint64_t digest_free_lists(const pkv_cache* cache, uint64_t digest) {
    const struct pkvi_pool* pool = &cache->pool;
    for (uint32_t b = 0; b < pool->block_count; b++)
        digest = fold(digest, (uint64_t)pool->blocks[b].refs << 1 | cache->prefix.nodes[b].indexed);
    digest = pkvi_extents_digest(&cache->arena->free, digest);
    digest = pkvi_extents_digest(&pool->open, digest);
    for (uint32_t extent = 0; extent < cache->arena->extent_max; extent++) {
        const struct pkvi_extent* e = &pool->extents[extent];
        if (cache->arena->holder[extent] != pool->number) continue;
        digest = fold(digest, (uint64_t)extent << 32 | e->fresh);
        for (uint32_t b = e->free_head; b != PKVI_NONE; b = pool->blocks[b].next)
            digest = fold(digest, b);
    }
    for (uint32_t leaf = cache->leaves.free_head; leaf != PKVI_NONE;
         leaf = cache->leaves.next[leaf])
        digest = fold(digest, leaf);
    for (uint32_t slot = cache->tier.free_head; slot != PKVI_NONE; slot = cache->tier.next[slot])
        digest = fold(digest, slot);
    for (uint32_t s = cache->seqs.free_head; s != PKVI_NONE; s = cache->seqs.slots[s].next_free)
        digest = fold(digest, s);
    return digest;
}

static uint64_t digest_domain(const pkv_cache* cache, const struct pkvi_domain* domain,
                              uint64_t digest) {
    const struct pkvi_candidate* candidates = cache->prefix.shared.candidates;
    for (uint32_t i = 0; i < PKVI_DOMAIN_LISTS; i++)
        for (uint32_t b = domain->lists[i].head; b != PKVI_NONE; b = candidates[b].next)
            digest = fold(digest, b);
    return digest;
}

static uint64_t digest_prefix(const pkv_cache* cache, uint64_t digest) {
    const struct pkvi_prefix* prefix = &cache->prefix;
    for (uint32_t account = 0; account <= cache->quotas.account_max; account++)
        digest = digest_domain(cache, &prefix->domains[account], digest);
    for (uint32_t b = 0; b < cache->pool.block_count; b++) {
        const struct pkvi_node* node = &prefix->nodes[b];
        if (!node->indexed) continue;
        digest = fold(digest, (uint64_t)node->parent << 32 | node->parent_generation);
        digest = fold(digest, (uint64_t)node->sibling_next << 32 | node->end);
        digest = fold(digest, (uint64_t)node->extra << 1 | node->published);
    }
    return digest;
}

static const char* check_all(pkv_cache* cache) {
    clear(cache);
    CHECK(check_seqs(cache));
    CHECK(pkvi_check_prefix(cache));
    CHECK(pkvi_check_pool(cache));
    CHECK(check_tier(cache));
    CHECK(pkvi_check_pending(cache));
    CHECK(pkvi_check_extras(cache));
    CHECK(pkvi_check_quotas(cache));
    return check_plans(cache);
}

int pkvi_check(pkv_cache* cache, pkv_report* report) {
    *report = (pkv_report){.broken = check_all(cache)};
    if (report->broken != NULL) return PKV_ECORRUPT; /* lists may be rings: no digest */
    report->sequences_digest = digest_seqs(cache);
    report->cache_digest = digest_prefix(cache, digest_free_lists(cache, report->sequences_digest));
    report->cache_digest = fold(report->cache_digest, pkvi_digest_pending(cache));
    report->cache_digest = fold(report->cache_digest, pkvi_digest_retention(cache));
    return PKV_OK;
}
