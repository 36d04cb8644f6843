/* seq.c - see seq.h. Reservation, the one verb that is hard, has a file of its own: reserve.c. */
#include "core/seq.h"

#include "core/cache.h"
#include "core/sibling.h"
#include "core/walk.h"
#include "core/window.h"
#include <assert.h>

/* ---- Slots and handles ----------------------------------------------------------------------- */

int pkvi_seqs_open(struct pkvi_seqs* seqs, struct pkvi_mem* mem, const pkv_config* config,
                   uint32_t first_generation) {
    const uint32_t leaves = pkvi_leaves_for(pkvi_config_pages_max(config));
    *seqs = (struct pkvi_seqs){.count_max = config->sequences_max, .free_head = 0};
    PKVI_TRY(pkvi_mem_take(mem, seqs->count_max, sizeof *seqs->slots, (void**)&seqs->slots));
    PKVI_TRY(pkvi_mem_take(mem, (uint64_t)seqs->count_max * leaves, sizeof *seqs->directories,
                           (void**)&seqs->directories));
    for (uint32_t i = 0; i < seqs->count_max; i++) {
        struct pkvi_seq* seq = &seqs->slots[i];
        seq->table.leaves = seqs->directories + (size_t)i * leaves;
        seq->generation = first_generation;
        seq->next_free = i + 1 < seqs->count_max ? i + 1 : PKVI_NONE;
    }
    return PKV_OK;
}

void pkvi_seqs_close(struct pkvi_seqs* seqs, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, seqs->directories);
    pkvi_mem_give(mem, seqs->slots);
}

pkv_seq pkvi_seq_handle(const struct pkvi_seqs* seqs, const struct pkvi_seq* seq) {
    const uint32_t slot = (uint32_t)(seq - seqs->slots);
    return (pkv_seq){pkvi_handle_make(PKVI_HANDLE_SEQ, seq->generation, slot)};
}

int pkvi_seq_find(const struct pkvi_seqs* seqs, pkv_seq handle, struct pkvi_seq** seq) {
    const uint32_t slot = pkvi_handle_slot(handle.id);
    if (slot >= seqs->count_max) return PKV_ESTALE;
    struct pkvi_seq* found = &seqs->slots[slot];
    if (!found->alive || found->is_pin) return PKV_ESTALE;
    if (pkvi_seq_handle(seqs, found).id != handle.id) return PKV_ESTALE;
    *seq = found;
    return PKV_OK;
}

static struct pkvi_seq* slot_take(pkv_cache* cache, uint64_t tenant, uint32_t account) {
    struct pkvi_seqs* seqs = &cache->seqs;
    struct pkvi_seq* seq = &seqs->slots[seqs->free_head];
    seqs->free_head = seq->next_free;
    seqs->alive_count++;
    cache->quotas.accounts[account].sequences++;
    *seq = (struct pkvi_seq){.tenant = tenant,
                             .account = account,
                             .table.leaves = seq->table.leaves,
                             .generation = seq->generation,
                             .announced = PKVI_NONE,
                             .host_head = PKVI_NONE,
                             .alive = true};
    return seq;
}

static void slot_give(pkv_cache* cache, struct pkvi_seq* seq) {
    struct pkvi_seqs* seqs = &cache->seqs;
    cache->quotas.accounts[seq->account].sequences--;
    seq->alive = false;
    seq->generation++;
    seq->next_free = seqs->free_head;
    seqs->free_head = (uint32_t)(seq - seqs->slots);
    seqs->alive_count--;
}

int pkvi_seq_check_idle(const struct pkvi_seq* seq) {
    if (seq->in_plan) return PKV_EBUSY;
    if (seq->readers > 0) return PKV_EBUSY;
    return pkvi_seq_check_resident(seq);
}

int pkvi_seq_check_resident(const struct pkvi_seq* seq) {
    if (seq->residence == PKV_RESIDENT) return PKV_OK;
    return seq->residence == PKV_AWAY ? PKV_EAWAY : PKV_EBUSY;
}

static uint32_t slot_of(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t position) {
    const uint32_t page = pkvi_pool_page(&cache->pool, position);
    const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
    return block * cache->pool.block_tokens + pkvi_pool_offset(&cache->pool, position);
}

void pkvi_seq_slots(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t first,
                    uint32_t count, uint32_t* slots) {
    for (uint32_t done = 0; done < count;) {
        const uint32_t piece = pkvi_pool_piece(&cache->pool, first + done, count - done);
        const uint32_t slot = slot_of(cache, seq, first + done);
        for (uint32_t i = 0; i < piece; i++)
            slots[done + i] = slot + i;
        done += piece;
    }
}

/* ---- Create, fork, free ---------------------------------------------------------------------- */

int pkvi_seq_create(pkv_cache* cache, uint64_t tenant, pkv_seq* handle) {
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_SEQ_CREATE));
    pkvi_settle(cache);
    if (cache->seqs.free_head == PKVI_NONE) return PKV_ENOSEQS;
    struct pkvi_seq* seq = slot_take(cache, tenant, pkvi_quotas_find(&cache->quotas, tenant));
    *handle = pkvi_seq_handle(&cache->seqs, seq);
    pkvi_trace_note(&cache->trace, "seq.create", handle->id, tenant);
    return PKV_OK;
}

int pkvi_seq_check_fork(pkv_cache* cache, const struct pkvi_seq* seq) {
    if (seq->in_plan) return PKV_EBUSY;
    if (seq->reserved > 0) return PKV_EBUSY;
    PKVI_TRY(pkvi_seq_check_resident(seq));
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_SEQ_FORK));
    pkvi_settle(cache);
    return cache->seqs.free_head == PKVI_NONE ? PKV_ENOSEQS : PKV_OK;
}

struct pkvi_seq* pkvi_seq_fork(pkv_cache* cache, const struct pkvi_seq* seq) {
    struct pkvi_seq* child = slot_take(cache, seq->tenant, seq->account);
    child->length = seq->length;
    child->known = seq->known;
    child->matched = seq->matched;
    child->extra = seq->extra;
    child->is_uncached = seq->is_uncached;
    pkvi_extra_hold(&cache->prefix.extras, seq->extra);
    child->rolled_end = seq->rolled_end;
    pkvi_table_fork(&cache->leaves, &seq->table, &child->table);
    cache->stats.forks++;
    const uint64_t id = pkvi_seq_handle(&cache->seqs, child).id;
    pkvi_trace_note(&cache->trace, "seq.fork", id, child->length);
    return child;
}

int pkvi_seq_free(pkv_cache* cache, struct pkvi_seq* seq) {
    if (seq->residence != PKV_AWAY) PKVI_TRY(pkvi_seq_check_idle(seq));
    pkvi_trace_note(&cache->trace, "seq.free", pkvi_seq_handle(&cache->seqs, seq).id, seq->length);
    if (seq->residence == PKV_RESIDENT) pkvi_seq_index_tail(cache, seq);
    pkvi_window_leave(cache, seq);
    pkvi_seq_give_slots(cache, seq);
    pkvi_pending_release(&cache->pending, seq, UINT32_MAX);
    pkvi_extra_release(&cache->prefix.extras, seq->extra);
    slot_give(cache, seq);
    return PKV_OK;
}

void pkvi_seq_give_slots(pkv_cache* cache, struct pkvi_seq* seq) {
    cache->quotas.accounts[seq->account].host -= pkvi_tier_give(&cache->tier, seq->host_head);
    seq->host_head = PKVI_NONE;
}

void pkvi_seq_move(pkv_cache* cache, struct pkvi_seq* seq, uint32_t account) {
    struct pkvi_account* from = &cache->quotas.accounts[seq->account];
    struct pkvi_account* to = &cache->quotas.accounts[account];
    const uint32_t slots = pkvi_tier_count(&cache->tier, seq->host_head);
    from->sequences--;
    from->host -= slots;
    to->sequences++;
    to->host += slots;
    seq->account = account;
}

/* ---- Match ----------------------------------------------------------------------------------- */

bool pkvi_seq_is_cached(const pkv_cache* cache, const struct pkvi_seq* seq) {
    return !cache->config.prefix_off && !seq->is_uncached;
}

/* Would the block, which is cached or in use, take what others are guaranteed? */
static bool may_attach(const pkv_cache* cache, uint32_t block) {
    if (cache->pool.blocks[block].refs > 1) return true;
    return pkvi_quotas_may_activate(&cache->quotas, cache->pool.blocks[block].account);
}

/* How many of `blocks` could be attached one after the other? Counts them as in use, and not again. */
static uint32_t count_attachable(pkv_cache* cache, const uint32_t* blocks, uint32_t count) {
    const struct pkvi_block* pool = cache->pool.blocks;
    struct pkvi_quotas* quotas = &cache->quotas;
    if (quotas->open_count == 0) return count; /* what is cached can be in use */
    uint32_t attachable = 0;
    for (; attachable < count && may_attach(cache, blocks[attachable]); attachable++)
        if (pool[blocks[attachable]].refs == 1)
            pkvi_quotas_wake(quotas, pool[blocks[attachable]].account);
    for (uint32_t i = 0; i < attachable; i++)
        if (pool[blocks[i]].refs == 1) pkvi_quotas_rest(quotas, pool[blocks[i]].account);
    return attachable;
}

static int check_match(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t count) {
    PKVI_TRY(pkvi_seq_check_idle(seq));
    if (seq->length + seq->reserved > 0) return PKV_EBUSY;
    return count <= cache->config.sequence_tokens_max ? PKV_OK : PKV_ETOOBIG;
}

int pkvi_seq_lookup(pkv_cache* cache, const struct pkvi_seq* seq, const uint32_t* tokens,
                    uint32_t count, pkv_match* match) {
    PKVI_TRY(check_match(cache, seq, count));
    pkvi_settle(cache); /* what is over is found no more */
    const uint32_t block_tokens = cache->pool.block_tokens;
    uint32_t* const blocks = cache->scratch.blocks;
    uint32_t tail;
    uint32_t pages = pkvi_walk(cache, seq, tokens, count, blocks, &tail);
    const uint32_t attachable = count_attachable(cache, blocks, pages + (tail > 0));
    if (attachable < pages + (tail > 0)) tail = 0;
    if (attachable < pages) pages = attachable;
    const uint32_t more = pkvi_pending_pages(cache, seq, tokens, count, pages);
    match->matched = pages * block_tokens + tail;
    match->pending = more > 0 ? more * block_tokens - tail : 0;
    return PKV_OK;
}

int pkvi_seq_match(pkv_cache* cache, struct pkvi_seq* seq, const uint32_t* tokens, uint32_t count,
                   uint32_t* matched) {
    PKVI_TRY(check_match(cache, seq, count));
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_SEQ_MATCH));
    pkvi_settle(cache);
    uint32_t* const blocks = cache->scratch.blocks;
    uint32_t tail;
    const uint32_t pages = pkvi_walk(cache, seq, tokens, count, blocks, &tail);
    const uint32_t attached = pages + (tail > 0);
    if (pkvi_leaves_for(attached) > cache->leaves.free_count) return PKV_ENOLEAVES;

    uint32_t page = 0;
    for (; page < attached && may_attach(cache, blocks[page]); page++) {
        pkvi_prefix_use(&cache->prefix, blocks[page]);
        if (page < pages) pkvi_prefix_rename_extra(&cache->prefix, blocks[page], seq->extra);
        pkvi_prefix_ref(&cache->prefix, blocks[page]);
        pkvi_table_push(&cache->leaves, &seq->table, blocks[page]);
    }
    if (page < attached) tail = 0;
    seq->matched = page - (tail > 0);
    seq->length = seq->matched * cache->pool.block_tokens + tail;
    seq->known = seq->length;
    pkvi_pending_release(&cache->pending, seq, seq->matched);
    struct pkvi_account* account = &cache->quotas.accounts[seq->account];
    account->query_tokens += count;
    account->hit_tokens += seq->length;
    cache->stats.prefix_query_tokens += count;
    cache->stats.prefix_hit_tokens += seq->length;
    if (cache->layout.group.window > 0) pkvi_window_roll(cache, seq);
    pkvi_cache_note_peak(cache);
    *matched = seq->length;
    pkvi_trace_note(&cache->trace, "seq.match", pkvi_seq_handle(&cache->seqs, seq).id, *matched);
    return PKV_OK;
}

/* ---- Truncate -------------------------------------------------------------------------------- */

static void cut_to(pkv_cache* cache, struct pkvi_seq* seq, uint32_t length) {
    const uint32_t pages = pkvi_pool_pages(&cache->pool, length);
    if (pages < seq->table.pages) seq->version++;
    pkvi_table_cut(&cache->leaves, &seq->table, pages);
    seq->length = length;
    seq->reserved = 0;
    if (seq->known > length) seq->known = length;
    if (seq->rolled_end > pages) seq->rolled_end = pages;
}

int pkvi_seq_truncate(pkv_cache* cache, struct pkvi_seq* seq, uint32_t length) {
    PKVI_TRY(pkvi_seq_check_idle(seq));
    if (length > seq->length) return PKV_ERANGE;
    if (pkvi_window_is_past(cache, seq, length)) return PKV_ERANGE;
    const uint32_t pages = pkvi_pool_pages(&cache->pool, length);
    if (pkvi_table_cut_needs_leaf(&cache->leaves, &seq->table, pages)) {
        PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_TABLE_LEAF));
        if (cache->leaves.free_count == 0) return PKV_ENOLEAVES;
    }
    cut_to(cache, seq, length);
    pkvi_pending_release(&cache->pending, seq, UINT32_MAX);
    pkvi_trace_note(&cache->trace, "seq.truncate", pkvi_seq_handle(&cache->seqs, seq).id, length);
    return PKV_OK;
}

void pkvi_seq_drop_reserved(pkv_cache* cache, struct pkvi_seq* seq) {
    cut_to(cache, seq, seq->length);
}

void pkvi_seq_keep_reserved(pkv_cache* cache, struct pkvi_seq* seq, uint32_t count) {
    const uint32_t length = seq->length;
    cut_to(cache, seq, length + count);
    seq->length = length;
    seq->reserved = count;
}

/* ---- Commit ---------------------------------------------------------------------------------- */

/* Another sequence computed the same page first: use its block and give ours back. */
static void share_page(pkv_cache* cache, struct pkvi_seq* seq, uint32_t page, uint32_t block) {
    const uint32_t own = pkvi_table_get(&cache->leaves, &seq->table, page);
    pkvi_prefix_use(&cache->prefix, block);
    pkvi_prefix_rename_extra(&cache->prefix, block, seq->extra);
    pkvi_prefix_ref(&cache->prefix, block);
    pkvi_table_set(&cache->leaves, &seq->table, page, block);
    pkvi_prefix_merge(&cache->prefix, own, block);
    seq->version++;
    cache->stats.prefix_duplicates++;
}

/* May node `block` take the place of `own`? Not when it is another tenant's, who published it, and
 * nobody may use more of that tenant's blocks. */
static bool may_share(const pkv_cache* cache, uint32_t own, uint32_t block) {
    const struct pkvi_block* blocks = cache->pool.blocks;
    return blocks[own].account == blocks[block].account || may_attach(cache, block);
}

/* May a page enter the index? Only when it and the node of its prefix are there. */
static bool is_indexable(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t page,
                         uint32_t* block, uint32_t* parent) {
    *block = pkvi_table_get(&cache->leaves, &seq->table, page);
    *parent = PKVI_NONE;
    if (*block == PKV_NO_BLOCK) return false;
    if (page == 0) return true;
    *parent = pkvi_table_get(&cache->leaves, &seq->table, page - 1);
    return *parent != PKV_NO_BLOCK && pkvi_prefix_is_full(&cache->prefix, *parent);
}

/* Put one full page into the index. False when it cannot be. */
static bool index_page(pkv_cache* cache, struct pkvi_seq* seq, uint32_t page) {
    uint32_t block;
    uint32_t parent;
    if (!is_indexable(cache, seq, page, &block, &parent)) return false;
    const struct pkvi_origin origin = {page, seq->matched};
    const struct pkvi_place place = pkvi_walk_place(cache, seq, parent, page);
    const uint32_t node =
        pkvi_prefix_insert(&cache->prefix, block, &place, cache->pool.block_tokens, &origin);
    if (node == block) {
        cache->stats.prefix_inserts++;
        return true;
    }
    if (!may_share(cache, block, node)) return false;
    share_page(cache, seq, page, node);
    return true;
}

static void index_new_pages(pkv_cache* cache, struct pkvi_seq* seq, uint32_t old_length) {
    if (!pkvi_seq_is_cached(cache, seq)) return;
    if (seq->is_unindexed) old_length = 0;
    seq->is_unindexed = false;
    const uint32_t known = seq->known < seq->length ? seq->known : seq->length;
    const uint32_t end = pkvi_pool_page(&cache->pool, known);
    for (uint32_t page = pkvi_pool_page(&cache->pool, old_length); page < end; page++)
        if (!index_page(cache, seq, page)) return;
}

void pkvi_seq_index(pkv_cache* cache, struct pkvi_seq* seq) {
    index_new_pages(cache, seq, 0);
}

void pkvi_seq_index_tail(pkv_cache* cache, struct pkvi_seq* seq) {
    const uint32_t known = seq->known < seq->length ? seq->known : seq->length;
    const uint32_t page = pkvi_pool_page(&cache->pool, known);
    const uint32_t fill = pkvi_pool_offset(&cache->pool, known);
    uint32_t block;
    uint32_t parent;
    uint32_t common;
    if (!pkvi_seq_is_cached(cache, seq) || fill == 0) return;
    if (!is_indexable(cache, seq, page, &block, &parent)) return;
    if (cache->prefix.nodes[block].indexed) return;
    const uint32_t* tokens = pkvi_pool_tokens(&cache->pool, block);
    const struct pkvi_place place = pkvi_walk_place(cache, seq, parent, page);
    pkvi_sibling_longest(&cache->prefix, &place, tokens, fill, &common);
    if (common == fill) return; /* found there, and maybe more */
    const struct pkvi_origin origin = {page, seq->matched};
    const uint32_t node = pkvi_prefix_insert(&cache->prefix, block, &place, fill, &origin);
    cache->stats.prefix_inserts += node == block;
}

void pkvi_seq_commit(pkv_cache* cache, struct pkvi_seq* seq) {
    const uint32_t old_length = seq->length;
    cache->stats.tokens_committed += seq->reserved;
    seq->length += seq->reserved;
    seq->reserved = 0;
    index_new_pages(cache, seq, old_length);
    pkvi_pending_release(&cache->pending, seq, pkvi_pool_page(&cache->pool, seq->length));
    if (cache->layout.group.window > 0) pkvi_window_roll(cache, seq);
    pkvi_trace_note_often(&cache->trace, "seq.commit", pkvi_seq_handle(&cache->seqs, seq).id,
                          seq->length);
}
