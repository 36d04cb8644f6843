/* reserve.c - see reserve.h.
 *
 *   decide  count blocks and leaves from the state as it is; refuse what does not fit
 *   take    evict cached blocks if need be, take blocks from the pool: cannot fail any more
 *   move    zero blocks that held another tenant's bytes, copy shared tails: the device can fail,
 *           and then the blocks go back and no sequence has noticed
 *   apply   put the blocks into the tables
 *
 * The blocks of a batch stand in scratch.blocks in a fixed order: for each item in turn the copy of
 * its tail, if any, and then its new pages.
 *
 * A tail that only the index has too is not copied but taken out of the index when nothing is lost
 * by that, since all that the node has is before the new tokens, or when there is no room for the
 * copy. */
#include "core/reserve.h"

#include "core/cache.h"
#include "core/reclaim.h"
#include "device/copy.h"
#include <assert.h>
#include <string.h>

int pkvi_scratch_open(struct pkvi_scratch* scratch, struct pkvi_mem* mem,
                      const pkv_config* config) {
    const uint32_t items = config->plan_sequences_max;
    const uint32_t tokens = config->plan_tokens_max;
    PKVI_TRY(pkvi_mem_take(mem, items, sizeof *scratch->items, (void**)&scratch->items));
    PKVI_TRY(pkvi_mem_take(mem, items, sizeof *scratch->tickets, (void**)&scratch->tickets));
    PKVI_TRY(pkvi_mem_take(mem, tokens, sizeof *scratch->from, (void**)&scratch->from));
    PKVI_TRY(pkvi_mem_take(mem, tokens, sizeof *scratch->to, (void**)&scratch->to));
    return pkvi_mem_take(mem, config->blocks, sizeof *scratch->blocks, (void**)&scratch->blocks);
}

void pkvi_scratch_close(struct pkvi_scratch* scratch, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, scratch->blocks);
    pkvi_mem_give(mem, scratch->to);
    pkvi_mem_give(mem, scratch->from);
    pkvi_mem_give(mem, scratch->tickets);
    pkvi_mem_give(mem, scratch->items);
}

/* ---- Decide ---------------------------------------------------------------------------------- */

struct need {
    uint64_t blocks;
    uint64_t leaves;
    uint64_t copies; /* of the blocks */
};

static uint32_t tail_leaf(const struct pkvi_reservation* item) {
    const struct pkvi_table* table = &item->seq->table;
    return table->leaves[(table->pages - 1) / PKVI_LEAF_PAGES];
}

static uint32_t tail_block(const pkv_cache* cache, const struct pkvi_reservation* item) {
    return pkvi_table_get(&cache->leaves, &item->seq->table, item->seq->table.pages - 1);
}

/* What names the tail of an item when its turn comes: items before it may have left the same leaf
 * or the same block by then, and the last one keeps what it alone names. */
struct holders {
    uint32_t tables; /* that name the leaf */
    uint32_t refs;   /* of the block */
};

static struct holders tail_holders(const pkv_cache* cache, uint32_t index) {
    const struct pkvi_reservation* items = cache->scratch.items;
    const uint32_t leaf = tail_leaf(&items[index]);
    const uint32_t block = tail_block(cache, &items[index]);
    struct holders holders = {cache->leaves.refs[leaf], 1};
    if (block != PKV_NO_BLOCK) holders.refs = cache->pool.blocks[block].refs;
    if (holders.tables == 1 && holders.refs == 1) return holders;
    for (uint32_t i = 0; i < index; i++) {
        if (!items[i].own_leaf && !items[i].copy_tail) continue;
        holders.tables -= items[i].own_leaf && tail_leaf(&items[i]) == leaf;
        if (tail_block(cache, &items[i]) != block) continue;
        holders.refs += items[i].own_leaf; /* its leaf, a copy, names the block too */
        holders.refs -= items[i].copy_tail;
    }
    return holders;
}

/* May the tail leave the index, so that the sequence has it alone? */
static bool may_take_tail(const pkv_cache* cache, const struct pkvi_reservation* item,
                          uint32_t offset, bool is_scarce) {
    const uint32_t block = tail_block(cache, item);
    if (!cache->prefix.nodes[block].indexed) return false;
    if (cache->pool.blocks[block].owner != item->seq->tenant)
        return false; /* another has published it */
    return is_scarce || pkvi_prefix_fill(&cache->prefix, block) <= offset;
}

static void decide_tail(const pkv_cache* cache, uint32_t index, uint32_t used, bool is_scarce) {
    struct pkvi_reservation* item = &cache->scratch.items[index];
    const struct pkvi_table* table = &item->seq->table;
    const uint32_t offset = pkvi_pool_offset(&cache->pool, used);
    item->own_leaf = false;
    item->copy_tail = false;
    item->take_tail = false;
    if (table->pages == 0) return;
    const struct holders holders = tail_holders(cache, index);
    if (offset != 0) { /* the tail is partly filled */
        const bool is_shared = holders.tables > 1 || holders.refs > 1;
        const bool has_one_other = holders.tables == 1 && holders.refs == 2;
        item->take_tail = has_one_other && may_take_tail(cache, item, offset, is_scarce);
        item->copy_tail = is_shared && !item->take_tail;
    }
    const bool leaf_has_room = table->pages % PKVI_LEAF_PAGES != 0;
    const bool leaf_is_written = item->copy_tail || (item->new_pages > 0 && leaf_has_room);
    item->own_leaf = holders.tables > 1 && leaf_is_written;
}

static int decide_item(const pkv_cache* cache, uint32_t index, bool is_scarce, struct need* need) {
    struct pkvi_reservation* item = &cache->scratch.items[index];
    const struct pkvi_seq* seq = item->seq;
    const uint32_t used = seq->length + seq->reserved;
    if (item->count > cache->config.sequence_tokens_max - used) return PKV_ETOOBIG;
    const uint32_t pages = pkvi_pool_pages(&cache->pool, used + item->count);
    item->new_pages = pages - seq->table.pages;
    decide_tail(cache, index, used, is_scarce);
    need->blocks += item->new_pages + item->copy_tail;
    need->copies += item->copy_tail;
    need->leaves += pkvi_leaves_for(pages) - pkvi_leaves_for(seq->table.pages);
    need->leaves += item->own_leaf;
    return PKV_OK;
}

static int decide_items(const pkv_cache* cache, uint32_t count, bool is_scarce, struct need* need) {
    *need = (struct need){0, 0, 0};
    for (uint32_t i = 0; i < count; i++)
        PKVI_TRY(decide_item(cache, i, is_scarce, need));
    return PKV_OK;
}

static int decide_leaves(pkv_cache* cache, uint64_t leaves) {
    if (leaves == 0) return PKV_OK;
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_TABLE_LEAF));
    return leaves <= cache->leaves.free_count ? PKV_OK : PKV_ENOLEAVES;
}

/* Blocks that an item takes. */
static uint32_t blocks_of(const struct pkvi_reservation* item) {
    return item->new_pages + item->copy_tail;
}

/* Note what the items ask for on the accounts of their tenants, until it is taken. */
static void ask_blocks(pkv_cache* cache, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const struct pkvi_reservation* item = &cache->scratch.items[i];
        cache->quotas.accounts[item->seq->account].asked += blocks_of(item);
    }
}

static void end_asking(pkv_cache* cache, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        cache->quotas.accounts[cache->scratch.items[i].seq->account].asked = 0;
}

/* Count the blocks of all items on the accounts of their tenants (sign 1), or not after all. */
static void count_blocks(pkv_cache* cache, uint32_t count, int64_t sign) {
    for (uint32_t i = 0; i < count; i++) {
        const struct pkvi_reservation* item = &cache->scratch.items[i];
        pkvi_quotas_count(&cache->quotas, item->seq->account, sign * blocks_of(item), 0);
    }
}

/* The first account that is above its limit by now, or NULL. */
static struct pkvi_account* find_above_limit(pkv_cache* cache, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        struct pkvi_account* a = &cache->quotas.accounts[cache->scratch.items[i].seq->account];
        if (a->active > a->most) return a;
    }
    return NULL;
}

/* How many cached blocks would have to go so that `blocks`, which have been counted, fit? */
static uint32_t wanted_evictions(const pkv_cache* cache, uint32_t blocks) {
    return pkvi_quotas_evictions(&cache->quotas, pkvi_pool_free_count(&cache->pool), blocks);
}

/* Do the quotas and the memory have room for what has been counted? */
static bool has_room(pkv_cache* cache, uint32_t count, uint32_t blocks) {
    if (find_above_limit(cache, count) != NULL) return false;
    if (pkvi_quotas_admit(&cache->quotas) != PKV_OK) return false;
    ask_blocks(cache, count);
    const bool suffices = pkvi_room_suffices(cache, wanted_evictions(cache, blocks));
    end_asking(cache, count);
    return suffices;
}

/* Is there no room for all copies, so that tails have to leave the index instead? */
static bool is_scarce(pkv_cache* cache, uint32_t count, const struct need* need) {
    if (need->copies == 0) return false;
    if (need->blocks > cache->pool.limit) return true;
    count_blocks(cache, count, 1);
    const bool fits = has_room(cache, count, (uint32_t)need->blocks);
    count_blocks(cache, count, -1);
    return !fits;
}

/* May all that has been counted stay so? */
static int decide_quotas(pkv_cache* cache, uint32_t count) {
    struct pkvi_account* above = find_above_limit(cache, count);
    if (above == NULL) return pkvi_quotas_admit(&cache->quotas);
    above->refused++;
    return PKV_EQUOTA;
}

/* How many cached blocks must go so that `blocks` fit? */
static int decide_evictions(pkv_cache* cache, uint32_t count, uint32_t blocks,
                            struct pkvi_room* room) {
    PKVI_TRY(decide_quotas(cache, count));
    const uint32_t wanted = wanted_evictions(cache, blocks);
    if (wanted > 0) ask_blocks(cache, count);
    return pkvi_room_decide(cache, blocks, wanted, room);
}

/* From here on the blocks count as taken. */
static int decide_blocks(pkv_cache* cache, uint32_t count, uint64_t blocks,
                         struct pkvi_room* room) {
    *room = (struct pkvi_room){0, 0};
    if (blocks == 0) return PKV_OK;
    if (blocks > cache->pool.limit) return PKV_ETOOBIG;
    count_blocks(cache, count, 1);
    const int status = decide_evictions(cache, count, (uint32_t)blocks, room);
    if (status == PKV_OK) return PKV_OK;
    count_blocks(cache, count, -1);
    end_asking(cache, count);
    return status;
}

/* ---- Take and move --------------------------------------------------------------------------- */

static void evict_from(pkv_cache* cache, uint32_t account) {
    const uint32_t count = cache->quotas.accounts[account].evict;
    uint32_t* const victims = cache->scratch.blocks;
    pkvi_prefix_evict(&cache->prefix, account, count, victims);
    for (uint32_t i = 0; i < count; i++)
        pkvi_trace_note_often(&cache->trace, "prefix.evict", victims[i], i);
    cache->quotas.accounts[account].evict = 0;
}

void pkvi_reserve_evict(pkv_cache* cache, uint32_t evictions) {
    if (evictions == 0) return;
    pkvi_quotas_share(&cache->quotas, evictions);
    for (uint32_t account = 0; account <= cache->quotas.account_max; account++)
        if (cache->quotas.accounts[account].evict > 0) evict_from(cache, account);
    cache->stats.evictions += evictions;
}

static void take_blocks(pkv_cache* cache, uint32_t count, struct pkvi_room room) {
    pkvi_room_make(cache, room);
    if (room.evictions > 0 || room.extents > 0) end_asking(cache, count);
    uint32_t* blocks = cache->scratch.blocks;
    for (uint32_t i = 0; i < count; i++) {
        const struct pkvi_reservation* item = &cache->scratch.items[i];
        pkvi_pool_take(&cache->pool, item->seq->account, blocks_of(item), blocks);
        blocks += blocks_of(item);
    }
}

void pkvi_reserve_return(pkv_cache* cache, uint32_t count) {
    while (count-- > 0)
        pkvi_pool_unref(&cache->pool, cache->scratch.blocks[count]);
}

int pkvi_reserve_blocks(pkv_cache* cache, struct pkvi_seq* seq, uint32_t count, uint32_t leaves) {
    pkvi_settle(cache);
    struct pkvi_room room;
    cache->scratch.items[0] = (struct pkvi_reservation){.seq = seq, .new_pages = count};
    PKVI_TRY(decide_leaves(cache, leaves));
    PKVI_TRY(decide_blocks(cache, 1, count, &room));
    take_blocks(cache, 1, room);
    return PKV_OK;
}

static int scrub_block(pkv_cache* cache, uint32_t block, uint64_t tenant) {
    struct pkvi_pool* pool = &cache->pool;
    if (pkvi_pool_is_foreign(pool, block, tenant)) {
        unsigned char* bytes = pkvi_space_block(&pool->space, block);
        PKVI_TRY(cache->device->ops->zero(cache->device, bytes, pool->space.block_bytes));
        pool->blocks[block].written = PKVI_BYTES_ZERO;
        cache->stats.scrubs++;
    }
    pool->blocks[block].owner = tenant;
    return PKV_OK;
}

/* Every block leaves here as `tenant`'s or zeroed. */
static int scrub_blocks(pkv_cache* cache, uint32_t count) {
    const uint32_t* block = cache->scratch.blocks;
    for (uint32_t i = 0; i < count; i++) {
        const struct pkvi_reservation* item = &cache->scratch.items[i];
        for (uint32_t n = blocks_of(item); n > 0; n--)
            PKVI_TRY(scrub_block(cache, *block++, item->seq->tenant));
    }
    return PKV_OK;
}

/* The copy of the last block of `seq`, which is partly filled, to block `to`. */
static struct pkvi_copy_job copy_of_tail(const pkv_cache* cache, const struct pkvi_seq* seq,
                                         uint32_t to) {
    const struct pkvi_space* space = &cache->pool.space;
    const uint32_t from = pkvi_table_get(&cache->leaves, &seq->table, seq->table.pages - 1);
    const bool is_whole = cache->config.cow_whole || cache->device->ops->copies_runs;
    const uint32_t filled = pkvi_pool_offset(&cache->pool, seq->length + seq->reserved);
    return pkvi_copy_tokens(&cache->layout, pkvi_space_block(space, to),
                            pkvi_space_block(space, from),
                            is_whole ? cache->pool.block_tokens : filled);
}

static int submit_copy(pkv_cache* cache, const struct pkvi_seq* seq, uint32_t to,
                       uint64_t* ticket) {
    const struct pkvi_copy_job job = copy_of_tail(cache, seq, to);
    cache->pool.blocks[to].written = PKVI_BYTES_OWNED;
    PKVI_TRY(cache->device->ops->copy(cache->device, &job, ticket));
    cache->scratch.copied += job.bytes;
    return PKV_OK;
}

/* Copy the shared tails, all in flight at once; waits for every copy, also after a failure. */
static int copy_tails(pkv_cache* cache, uint32_t count) {
    struct pkvi_scratch* scratch = &cache->scratch;
    uint32_t submitted = 0;
    uint32_t block = 0;
    int status = PKV_OK;
    scratch->copied = 0;
    for (uint32_t i = 0; i < count && status == PKV_OK; i++) {
        const struct pkvi_reservation* item = &scratch->items[i];
        if (item->copy_tail) {
            status =
                submit_copy(cache, item->seq, scratch->blocks[block], &scratch->tickets[submitted]);
            submitted += status == PKV_OK;
        }
        block += blocks_of(item);
    }
    for (uint32_t i = 0; i < submitted; i++) {
        const int ended = cache->device->ops->wait(cache->device, scratch->tickets[i]);
        if (status == PKV_OK) status = ended;
    }
    return status;
}

/* ---- Apply ----------------------------------------------------------------------------------- */

static void replace_tail(pkv_cache* cache, struct pkvi_seq* seq, uint32_t block) {
    const uint32_t page = seq->table.pages - 1;
    const uint32_t shared = pkvi_table_get(&cache->leaves, &seq->table, page);
    memcpy(pkvi_pool_tokens(&cache->pool, block), pkvi_pool_tokens(&cache->pool, shared),
           cache->pool.block_tokens * sizeof(uint32_t));
    pkvi_table_set(&cache->leaves, &seq->table, page, block);
    pkvi_prefix_unref(&cache->prefix, shared);
    seq->version++;
}

static void count_copies(pkv_cache* cache, uint32_t copies) {
    cache->stats.cow_copies += copies;
    cache->stats.cow_bytes += cache->scratch.copied;
    if (copies > cache->stats.cow_peak) cache->stats.cow_peak = copies;
}

/* Note the ids of the new tokens in their blocks. */
static void record_tokens(pkv_cache* cache, struct pkvi_seq* seq, const uint32_t* tokens,
                          uint32_t count) {
    const struct pkvi_pool* pool = &cache->pool;
    const uint32_t position = seq->length + seq->reserved;
    if (tokens == NULL || seq->known != position) return;
    for (uint32_t done = 0; done < count;) {
        const uint32_t piece = pkvi_pool_piece(pool, position + done, count - done);
        const uint32_t page = pkvi_pool_page(pool, position + done);
        const uint32_t block = pkvi_table_get(&cache->leaves, &seq->table, page);
        const uint32_t offset = pkvi_pool_offset(pool, position + done);
        memcpy(pkvi_pool_tokens(pool, block) + offset, tokens + done, piece * sizeof *tokens);
        done += piece;
    }
    seq->known = position + count;
}

/* Returns how many of `blocks` were used. */
static uint32_t apply_item(pkv_cache* cache, const struct pkvi_reservation* item,
                           const uint32_t* blocks) {
    struct pkvi_seq* seq = item->seq;
    uint32_t used = 0;
    if (item->own_leaf) pkvi_table_own(&cache->leaves, &seq->table, seq->table.pages - 1);
    if (item->copy_tail) replace_tail(cache, seq, blocks[used++]);
    if (item->take_tail) pkvi_prefix_forget(&cache->prefix, tail_block(cache, item));
    for (uint32_t i = 0; i < item->new_pages; i++) {
        cache->pool.blocks[blocks[used]].written = PKVI_BYTES_OWNED;
        pkvi_table_push(&cache->leaves, &seq->table, blocks[used++]);
    }
    record_tokens(cache, seq, item->tokens, item->count);
    seq->reserved += item->count;
    return used;
}

int pkvi_reserve(pkv_cache* cache, uint32_t count) {
    pkvi_settle(cache);
    struct need need;
    PKVI_TRY(decide_items(cache, count, false, &need));
    if (is_scarce(cache, count, &need)) PKVI_TRY(decide_items(cache, count, true, &need));
    const uint64_t start = need.blocks > 0 ? pkvi_clock_ticks(&cache->clock) : 0;
    struct pkvi_room room;
    PKVI_TRY(decide_leaves(cache, need.leaves));
    PKVI_TRY(decide_blocks(cache, count, need.blocks, &room));

    const uint32_t blocks = (uint32_t)need.blocks;
    take_blocks(cache, count, room);
    int status = scrub_blocks(cache, count);
    if (status == PKV_OK) status = copy_tails(cache, count);
    if (status != PKV_OK) {
        pkvi_reserve_return(cache, blocks);
        return status;
    }
    uint32_t used = 0;
    uint32_t copies = 0;
    for (uint32_t i = 0; i < count; i++) {
        copies += cache->scratch.items[i].copy_tail;
        used += apply_item(cache, &cache->scratch.items[i], cache->scratch.blocks + used);
    }
    assert(used == blocks);
    if (blocks > 0) pkvi_latency_add(&cache->latency, pkvi_clock_ticks(&cache->clock) - start);
    count_copies(cache, copies);
    pkvi_cache_note_peak(cache);
    return PKV_OK;
}

/* ---- Fork ------------------------------------------------------------------------------------ */

/* Copy the tail of `seq` to the first block of the scratch, for a child that is yet to be. */
static int copy_for_child(pkv_cache* cache, const struct pkvi_seq* seq) {
    const uint32_t block = cache->scratch.blocks[0];
    uint64_t ticket;
    cache->scratch.copied = 0;
    PKVI_TRY(scrub_block(cache, block, seq->tenant));
    PKVI_TRY(submit_copy(cache, seq, block, &ticket));
    return cache->device->ops->wait(cache->device, ticket);
}

static int fork_with_copy(pkv_cache* cache, struct pkvi_seq* seq, pkv_seq* handle) {
    PKVI_TRY(pkvi_reserve_blocks(cache, seq, 1, 1));
    const int status = copy_for_child(cache, seq);
    if (status != PKV_OK) {
        pkvi_reserve_return(cache, 1);
        return status;
    }
    struct pkvi_seq* child = pkvi_seq_fork(cache, seq);
    pkvi_table_own(&cache->leaves, &child->table, child->table.pages - 1);
    replace_tail(cache, child, cache->scratch.blocks[0]);
    count_copies(cache, 1);
    pkvi_cache_note_peak(cache);
    *handle = pkvi_seq_handle(&cache->seqs, child);
    return PKV_OK;
}

int pkvi_reserve_fork(pkv_cache* cache, struct pkvi_seq* seq, pkv_seq* handle) {
    PKVI_TRY(pkvi_seq_check_fork(cache, seq));
    const bool is_partly_filled = pkvi_pool_offset(&cache->pool, seq->length) != 0;
    if (cache->config.cow == PKV_COW_FORK && is_partly_filled)
        return fork_with_copy(cache, seq, handle);
    *handle = pkvi_seq_handle(&cache->seqs, pkvi_seq_fork(cache, seq));
    return PKV_OK;
}
