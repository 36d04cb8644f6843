/* plan.c - see plan.h. */
#include "core/plan.h"

#include "core/cache.h"
#include "core/tree.h"
#include <string.h>

/* ---- Slots and handles ----------------------------------------------------------------------- */

static int open_arrays(struct pkvi_plan* plan, struct pkvi_mem* mem, const pkv_config* config,
                       uint32_t stride) {
    const uint64_t seqs = config->plan_sequences_max;
    const uint64_t tokens = config->plan_tokens_max;
    PKVI_TRY(pkvi_mem_take(mem, seqs, sizeof *plan->seqs, (void**)&plan->seqs));
    PKVI_TRY(pkvi_mem_take(mem, seqs + 1, sizeof *plan->starts, (void**)&plan->starts));
    PKVI_TRY(pkvi_mem_take(mem, seqs, sizeof *plan->lengths, (void**)&plan->lengths));
    PKVI_TRY(pkvi_mem_take(mem, tokens, sizeof *plan->positions, (void**)&plan->positions));
    PKVI_TRY(pkvi_mem_take(mem, tokens, sizeof *plan->slots, (void**)&plan->slots));
    PKVI_TRY(pkvi_mem_take(mem, tokens, sizeof *plan->parents, (void**)&plan->parents));
    PKVI_TRY(pkvi_mem_take(mem, seqs, sizeof *plan->trees, (void**)&plan->trees));
    PKVI_TRY(pkvi_mem_take(mem, seqs, sizeof *plan->rows, (void**)&plan->rows));
    return pkvi_mem_take(mem, seqs * stride, sizeof(uint32_t), (void**)&plan->block_table);
}

int pkvi_plans_open(struct pkvi_plans* plans, struct pkvi_mem* mem, const pkv_config* config,
                    uint32_t first_generation) {
    *plans = (struct pkvi_plans){.count_max = config->plans_max,
                                 .table_stride = pkvi_config_pages_max(config)};
    PKVI_TRY(pkvi_mem_take(mem, plans->count_max, sizeof *plans->slots, (void**)&plans->slots));
    for (uint32_t i = 0; i < plans->count_max; i++) {
        struct pkvi_plan* plan = &plans->slots[i];
        plan->generation = first_generation;
        plan->next_free = i + 1 < plans->count_max ? i + 1 : PKVI_NONE;
        PKVI_TRY(open_arrays(plan, mem, config, plans->table_stride));
    }
    return PKV_OK;
}

void pkvi_plans_close(struct pkvi_plans* plans, struct pkvi_mem* mem) {
    if (plans->slots == NULL) return;
    for (uint32_t i = 0; i < plans->count_max; i++) {
        struct pkvi_plan* plan = &plans->slots[i];
        pkvi_mem_give(mem, plan->block_table);
        pkvi_mem_give(mem, plan->rows);
        pkvi_mem_give(mem, plan->trees);
        pkvi_mem_give(mem, plan->parents);
        pkvi_mem_give(mem, plan->slots);
        pkvi_mem_give(mem, plan->positions);
        pkvi_mem_give(mem, plan->lengths);
        pkvi_mem_give(mem, plan->starts);
        pkvi_mem_give(mem, plan->seqs);
    }
    pkvi_mem_give(mem, plans->slots);
}

static pkv_plan plan_handle(const struct pkvi_plans* plans, const struct pkvi_plan* plan) {
    const uint32_t slot = (uint32_t)(plan - plans->slots);
    return (pkv_plan){pkvi_handle_make(PKVI_HANDLE_PLAN, plan->generation, slot)};
}

int pkvi_plan_find(const struct pkvi_plans* plans, pkv_plan handle, struct pkvi_plan** plan) {
    const uint32_t slot = pkvi_handle_slot(handle.id);
    if (slot >= plans->count_max) return PKV_ESTALE;
    struct pkvi_plan* found = &plans->slots[slot];
    if (!found->open) return PKV_ESTALE;
    if (plan_handle(plans, found).id != handle.id) return PKV_ESTALE;
    *plan = found;
    return PKV_OK;
}

static void close_plan(pkv_cache* cache, struct pkvi_plan* plan) {
    plan->open = false;
    plan->generation++;
    plan->next_free = cache->plans.free_head;
    cache->plans.free_head = (uint32_t)(plan - cache->plans.slots);
    cache->plans.open_count--;
}

/* ---- Begin ----------------------------------------------------------------------------------- */

/* A device that orders its work after transfers takes plans for a sequence that is still arriving.
 */
static bool may_arrive_in_plan(const pkv_cache* cache, const struct pkvi_seq* seq) {
    if (!cache->device->ops->orders_transfers) return false;
    if (seq->in_plan) return false;
    return seq->residence == PKV_ARRIVING && seq->readers == 0;
}

/* Turn one public entry into a reservation; `serial` finds a sequence that is named twice. */
static int admit_entry(pkv_cache* cache, const pkv_entry* entry, uint64_t serial,
                       struct pkvi_reservation* item) {
    struct pkvi_seq* seq;
    if (entry->count == 0) return PKV_EINVAL;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, entry->seq, &seq));
    if (seq->mark == serial) return PKV_EINVAL;
    if (!may_arrive_in_plan(cache, seq)) PKVI_TRY(pkvi_seq_check_idle(seq));
    seq->mark = serial;
    *item = (struct pkvi_reservation){.seq = seq, .tokens = entry->tokens, .count = entry->count};
    return PKV_OK;
}

static int admit_entries(pkv_cache* cache, const pkv_entry* entries, uint32_t count) {
    if (count == 0) return PKV_EINVAL;
    if (count > cache->config.plan_sequences_max) return PKV_ETOOBIG;
    const uint64_t serial = ++cache->scratch.serial;
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct pkvi_reservation* item = &cache->scratch.items[i];
        PKVI_TRY(admit_entry(cache, &entries[i], serial, item));
        if (item->seq->reserved > 0) return PKV_EBUSY;
        tokens += item->count;
    }
    return tokens <= cache->config.plan_tokens_max ? PKV_OK : PKV_ETOOBIG;
}

static int admit_trees(const pkv_entry* entries, const uint32_t* const* parents, uint32_t count) {
    for (uint32_t i = 0; parents != NULL && i < count; i++)
        if (parents[i] != NULL) PKVI_TRY(pkvi_tree_admit(parents[i], entries[i].count));
    return PKV_OK;
}

static void fill_tokens(const pkv_cache* cache, struct pkvi_plan* plan,
                        const struct pkvi_seq* seq) {
    const uint32_t first = seq->length;
    const uint32_t count = seq->reserved;
    uint32_t* positions = plan->positions + plan->tokens;
    for (uint32_t i = 0; i < count; i++)
        positions[i] = first + i;
    pkvi_seq_slots(cache, seq, first, count, plan->slots + plan->tokens);
    plan->tokens += count;
}

/* Bring row `index` up to date with the table of `seq`. */
static void fill_row(pkv_cache* cache, struct pkvi_plan* plan, uint32_t index,
                     const struct pkvi_seq* seq) {
    struct pkvi_row* row = &plan->rows[index];
    const uint64_t seq_id = plan->seqs[index].id;
    const bool is_same = row->seq_id == seq_id && row->version == seq->version;
    uint32_t* blocks = plan->block_table + (size_t)index * cache->plans.table_stride;
    for (uint32_t page = is_same ? row->pages : 0; page < seq->table.pages; page++)
        blocks[page] = pkvi_table_get(&cache->leaves, &seq->table, page);
    *row = (struct pkvi_row){seq_id, seq->version, seq->table.pages};
    cache->stats.table_rows_extended += is_same;
    cache->stats.table_rows_rewritten += !is_same;
}

static void fill_plan(pkv_cache* cache, struct pkvi_plan* plan, const uint32_t* const* parents,
                      uint32_t count) {
    plan->entries = count;
    plan->tokens = 0;
    plan->tree_count = 0;
    plan->starts[0] = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct pkvi_seq* seq = cache->scratch.items[i].seq;
        seq->in_plan = true;
        plan->seqs[i] = pkvi_seq_handle(&cache->seqs, seq);
        plan->lengths[i] = seq->length + seq->reserved;
        fill_tokens(cache, plan, seq);
        plan->starts[i + 1] = plan->tokens;
        pkvi_tree_fill(plan, i, parents != NULL ? parents[i] : NULL, seq->length);
        fill_row(cache, plan, i, seq);
    }
}

static struct pkvi_plan* open_plan(pkv_cache* cache, struct pkvi_graph graph) {
    struct pkvi_plan* plan = &cache->plans.slots[cache->plans.free_head];
    cache->plans.free_head = plan->next_free;
    cache->plans.open_count++;
    plan->open = true;
    plan->graph = graph;
    return plan;
}

int pkvi_plan_begin(pkv_cache* cache, const pkv_entry* entries, const uint32_t* const* parents,
                    uint32_t count, pkv_plan* handle) {
    PKVI_TRY(admit_entries(cache, entries, count));
    PKVI_TRY(admit_trees(entries, parents, count));
    if (cache->plans.free_head == PKVI_NONE) return PKV_EBUSY;
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_PLAN_BEGIN));
    PKVI_TRY(pkvi_reserve(cache, count));
    struct pkvi_plan* plan = open_plan(cache, (struct pkvi_graph){0, 0});
    fill_plan(cache, plan, parents, count);
    *handle = plan_handle(&cache->plans, plan);
    pkvi_trace_note(&cache->trace, "plan.begin", handle->id, plan->tokens);
    return PKV_OK;
}

/* ---- Captured steps -------------------------------------------------------------------------- */

int pkvi_graph_check(const pkv_cache* cache, struct pkvi_graph graph) {
    const pkv_config* config = &cache->config;
    if (graph.sequences == 0 || graph.sequence_tokens == 0) return PKV_EINVAL;
    if (config->graph_sequences_max == 0) return PKV_ENOTSUP;
    if (graph.sequences > config->graph_sequences_max) return PKV_ETOOBIG;
    return graph.sequence_tokens <= config->graph_sequence_tokens_max ? PKV_OK : PKV_ETOOBIG;
}

int pkvi_plan_check_graph(const struct pkvi_plan* plan, struct pkvi_graph graph) {
    if (pkvi_plan_is_shape(plan)) return PKV_EINVAL;
    if (plan->tree_count > 0) return PKV_ENOTSUP; /* captured kernels know no trees */
    if (plan->entries > graph.sequences) return PKV_ETOOBIG;
    for (uint32_t i = 0; i < plan->entries; i++)
        if (plan->starts[i + 1] - plan->starts[i] > graph.sequence_tokens) return PKV_ETOOBIG;
    return PKV_OK;
}

int pkvi_graph_begin(pkv_cache* cache, struct pkvi_graph graph, pkv_plan* handle) {
    PKVI_TRY(pkvi_graph_check(cache, graph));
    if (cache->plans.free_head == PKVI_NONE) return PKV_EBUSY;
    PKVI_TRY(pkvi_fault_check(&cache->faults, PKVI_FAULT_PLAN_BEGIN));
    struct pkvi_plan* plan = open_plan(cache, graph);
    plan->entries = 0;
    plan->tree_count = 0;
    plan->tokens = graph.sequences * graph.sequence_tokens;
    *handle = plan_handle(&cache->plans, plan);
    pkvi_trace_note(&cache->trace, "graph.begin", handle->id, plan->tokens);
    return PKV_OK;
}

int pkvi_seq_append(pkv_cache* cache, const pkv_entry* entry, uint32_t* slots) {
    PKVI_TRY(admit_entry(cache, entry, ++cache->scratch.serial, &cache->scratch.items[0]));
    PKVI_TRY(pkvi_seq_check_resident(cache->scratch.items[0].seq));
    if (entry->count > cache->config.plan_tokens_max) return PKV_ETOOBIG;
    PKVI_TRY(pkvi_reserve(cache, 1));
    const struct pkvi_seq* seq = cache->scratch.items[0].seq;
    const uint32_t first = seq->length + seq->reserved - entry->count;
    if (slots != NULL) pkvi_seq_slots(cache, seq, first, entry->count, slots);
    pkvi_trace_note_often(&cache->trace, "seq.append", entry->seq.id, entry->count);
    return PKV_OK;
}

/* ---- End ------------------------------------------------------------------------------------- */

static struct pkvi_seq* entry_seq(pkv_cache* cache, const struct pkvi_plan* plan, uint32_t index) {
    return &cache->seqs.slots[pkvi_handle_slot(plan->seqs[index].id)];
}

static struct pkvi_seq* release_entry(pkv_cache* cache, const struct pkvi_plan* plan,
                                      uint32_t index) {
    struct pkvi_seq* seq = entry_seq(cache, plan, index);
    seq->in_plan = false;
    return seq;
}

/* Have all its sequences arrived? */
static int check_arrivals(pkv_cache* cache, const struct pkvi_plan* plan) {
    for (uint32_t i = 0; i < plan->entries; i++) {
        const struct pkvi_seq* seq = entry_seq(cache, plan, i);
        PKVI_TRY(seq->arrival);
        PKVI_TRY(pkvi_seq_check_resident(seq));
    }
    return PKV_OK;
}

static void commit_entries(pkv_cache* cache, struct pkvi_plan* plan) {
    for (uint32_t i = 0; i < plan->entries; i++)
        pkvi_seq_commit(cache, release_entry(cache, plan, i));
    cache->stats.plans_committed++;
    pkvi_trace_note(&cache->trace, "plan.commit", plan_handle(&cache->plans, plan).id,
                    plan->tokens);
    close_plan(cache, plan);
}

int pkvi_plan_commit(pkv_cache* cache, struct pkvi_plan* plan) {
    if (plan->tree_count > 0) return PKV_EINVAL;
    if (pkvi_plan_is_shape(plan)) return PKV_EINVAL; /* there is nothing to commit */
    if (plan->users > 0) return PKV_EBUSY;
    PKVI_TRY(check_arrivals(cache, plan));
    commit_entries(cache, plan);
    return PKV_OK;
}

int pkvi_plan_accept(pkv_cache* cache, struct pkvi_plan* plan, const pkv_path* paths,
                     uint32_t count) {
    if (count != plan->entries) return PKV_EINVAL;
    if (pkvi_plan_is_shape(plan)) return PKV_EINVAL;
    for (uint32_t i = 0; i < count; i++)
        PKVI_TRY(pkvi_tree_check_path(plan, i, &paths[i]));
    if (plan->users > 0) return PKV_EBUSY;
    PKVI_TRY(check_arrivals(cache, plan));
    PKVI_TRY(pkvi_tree_move(cache, plan, paths));
    for (uint32_t i = 0; i < count; i++)
        pkvi_tree_prune(cache, entry_seq(cache, plan, i), &paths[i]);
    commit_entries(cache, plan);
    return PKV_OK;
}

int pkvi_plan_abort(pkv_cache* cache, struct pkvi_plan* plan) {
    if (plan->users > 0) return PKV_EBUSY;
    for (uint32_t i = 0; i < plan->entries; i++) {
        struct pkvi_seq* seq = release_entry(cache, plan, i);
        pkvi_seq_drop_reserved(cache, seq);
        if (seq->arrival != PKV_OK) pkvi_seq_return_blocks(cache, seq);
    }
    cache->stats.plans_aborted++;
    pkvi_trace_note(&cache->trace, "plan.abort", plan_handle(&cache->plans, plan).id, plan->tokens);
    close_plan(cache, plan);
    return PKV_OK;
}

void pkvi_plan_info(const pkv_cache* cache, const struct pkvi_plan* plan, pkv_plan_info* info) {
    *info = (pkv_plan_info){
        .entries = plan->entries,
        .tokens = plan->tokens,
        .table_stride = cache->plans.table_stride,
        .starts = plan->starts,
        .lengths = plan->lengths,
        .positions = plan->positions,
        .slots = plan->slots,
        .block_table = plan->block_table,
    };
}
