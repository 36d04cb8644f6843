/* books.c - numbers that the library hands out: blocks, slots, arrays of plans; and handles it
 * never gave. */
#include "sim/round.h"

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* The library's number of a block is free to choose when the block is taken, and stays from then
 * on. */
static void learn_block(sim* s, uint32_t seq, uint32_t page, uint32_t got) {
    const uint32_t index = s->model.seqs[seq].blocks[page];
    if (index == MODEL_ROLLED) {
        if (got != PKV_NO_BLOCK)
            sim_fail(s, "page %u of sequence %u has not rolled off", page, seq);
        return;
    }
    model_block* block = &s->model.blocks[index];
    if (block->real == got) return;
    if (block->real != MODEL_UNSEEN) {
        sim_fail(s, "page %u of sequence %u: block %u, want %u", page, seq, got, block->real);
        return;
    }
    if (got >= s->number_count) {
        sim_fail(s, "page %u of sequence %u: there is no block %u", page, seq, got);
        return;
    }
    const uint32_t other = s->model_of_real[got];
    if (other != MODEL_NONE && model_is_used(&s->model.blocks[other]) &&
        s->model.blocks[other].real == got)
        sim_fail(s, "page %u of sequence %u: block %u is in use elsewhere", page, seq, got);
    block->real = got;
    s->model_of_real[got] = index;
    round_note_extent(s, got);
}

void sim_learn_blocks(sim* s, uint32_t seq) {
    const model_seq* sequence = &s->model.seqs[seq];
    const uint32_t pages = model_pages(&s->model, sequence->length + sequence->reserved);
    const bool is_away = sequence->residence == PKV_AWAY;
    const model_verdict verdict = {is_away ? MODEL_BIT(PKV_EAWAY) : 0, 0};
    sim_before(s, verdict);
    const int status = pkv_seq_blocks(s->cache, s->handles[seq], 0, 0, pages, s->numbers);
    if (!sim_judge(s, "seq.blocks", verdict, status, seq, pages)) return;
    for (uint32_t page = 0; page < pages && sim_is_well(s); page++)
        learn_block(s, seq, page, s->numbers[page]);
}

/* Every block that the last reservation took was zeroed exactly if it held another tenant's
 * bytes. */
void sim_expect_scrubs(sim* s) {
    for (uint32_t i = 0; i < s->model.fresh_count && sim_is_well(s); i++) {
        const model_block* block = &s->model.blocks[s->model.fresh[i]];
        const bool is_foreign =
            s->real_written[block->real] && s->real_tenant[block->real] != block->tenant;
        if (is_foreign || s->real_mixed[block->real]) s->scrubs++;
        s->real_mixed[block->real] = false;
        s->real_tenant[block->real] = block->tenant;
        s->real_written[block->real] = true;
    }
}

/* Blocks that a sequence arrives in are written whole, and hold bytes of two tenants before. */
void sim_note_arrival(sim* s, uint32_t seq, bool is_done) {
    const model_seq* sequence = &s->model.seqs[seq];
    for (uint32_t page = 0; page < model_pages(&s->model, sequence->length); page++) {
        const uint32_t block = sequence->blocks[page];
        if (block == MODEL_ROLLED) continue;
        const uint32_t real = s->model.blocks[block].real;
        s->real_tenant[real] = sequence->tenant;
        s->real_written[real] = true;
        s->real_mixed[real] = !is_done;
    }
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static void check_row(sim* s, const pkv_plan_info* info, uint32_t index, uint32_t seq) {
    const model_seq* sequence = &s->model.seqs[seq];
    const uint32_t* table = info->block_table + (size_t)index * info->table_stride;
    const uint32_t first_row = info->starts[index];
    if (info->lengths[index] != sequence->length + sequence->reserved)
        sim_fail(s, "plan: length %u of entry %u", info->lengths[index], index);
    for (uint32_t page = 0; page < model_pages(&s->model, info->lengths[index]); page++) {
        const uint32_t block = sequence->blocks[page];
        const uint32_t want = block == MODEL_ROLLED ? PKV_NO_BLOCK : s->model.blocks[block].real;
        if (table[page] != want)
            sim_fail(s, "plan: page %u of entry %u is block %u, want %u", page, index, table[page],
                     want);
    }
    for (uint32_t i = 0; i < sequence->reserved; i++) {
        const uint32_t place = sequence->length + i;
        const uint32_t offset = place % s->model.block_tokens;
        const uint32_t slot = table[place / s->model.block_tokens] * s->model.block_tokens + offset;
        if (info->positions[first_row + i] != model_position(sequence, place))
            sim_fail(s, "plan: position %u in row %u", info->positions[first_row + i],
                     first_row + i);
        if (info->slots[first_row + i] != slot)
            sim_fail(s, "plan: slot %u in row %u", info->slots[first_row + i], first_row + i);
    }
}

void sim_check_plan(sim* s, const sim_plan* plan) {
    pkv_plan_info info;
    const model_verdict verdict = {0, 0};
    if (!sim_is_well(s)) return;
    sim_before(s, verdict);
    const int status = pkv_plan_get_info(s->cache, plan->handle, 0, &info);
    if (!sim_judge(s, "plan.get_info", verdict, status, plan->entries, plan->tokens)) return;
    if (info.entries != plan->entries) sim_fail(s, "plan: %u entries", info.entries);
    if (info.tokens != plan->tokens) sim_fail(s, "plan: %u tokens", info.tokens);
    uint32_t row = 0;
    for (uint32_t i = 0; i < plan->entries; i++) {
        if (info.starts[i] != row) sim_fail(s, "plan: entry %u starts at %u", i, info.starts[i]);
        row += plan->counts[i];
        check_row(s, &info, i, plan->seqs[i]);
    }
    if (info.starts[plan->entries] != row) sim_fail(s, "plan: the last start is not the count");
}

/* ---- Hostile handles ------------------------------------------------------------------------- */

static bool is_live(const sim* s, uint64_t id) {
    for (uint32_t i = 0; i < s->config.sequences_max; i++)
        if (s->model.seqs[i].alive && s->handles[i].id == id) return true;
    for (uint32_t i = 0; i < s->config.plans_max; i++)
        if (s->plans[i].handle.id == id) return true;
    for (uint32_t i = 0; i < s->config.transfers_max; i++)
        if (s->transfers[i].handle.id == id) return true;
    return false;
}

/* Zero, dead, of the other kind, or a live handle with some bits flipped; never one that is alive
 * as what it is used for. */
static uint64_t forge(sim* s, bool as_plan) {
    const uint32_t kind = sim_below(s, 5);
    const uint32_t seq = sim_below(s, s->config.sequences_max);
    if (kind == 0) return 0;
    if (kind == 1)
        return as_plan ? s->dead_plans[seq % SIM_DEAD].id : s->dead_seqs[seq % SIM_DEAD].id;
    if (kind == 2)
        return as_plan ? s->handles[seq].id : s->plans[seq % s->config.plans_max].handle.id;
    uint64_t id = s->handles[seq].id;
    for (uint32_t flips = 1 + sim_below(s, 6); flips > 0; flips--)
        id ^= 1ULL << sim_below(s, 64);
    if (kind == 4) id = sim_next(s);
    return is_live(s, id) ? 0 : id;
}

static int call_seq(sim* s, pkv_seq seq, uint32_t which) {
    uint32_t number = 0;
    const uint32_t token = 0;
    pkv_seq child;
    pkv_seq_info info;
    const pkv_array array = {.data = s->k};
    const pkv_entry entry = {seq, &token, 1};
    pkv_plan plan;
    pkv_transfer transfer;
    pkv_match match;
    switch (which) {
    case 0:
        return pkv_seq_match(s->cache, seq, &token, 1, &number);
    case 1:
        return pkv_seq_fork(s->cache, seq, &child);
    case 2:
        return pkv_seq_truncate(s->cache, seq, 0);
    case 3:
        return pkv_seq_get_info(s->cache, seq, &info);
    case 4:
        return pkv_seq_blocks(s->cache, seq, 0, 0, 0, &number);
    case 5:
        return pkv_seq_append(s->cache, seq, &token, 1, &number);
    case 6:
        return pkv_seq_commit(s->cache, seq);
    case 7:
        return pkv_seq_read(s->cache, seq, 0, 0, 1, &array, NULL);
    case 8:
        return pkv_plan_begin(s->cache, &entry, 1, &plan);
    case 9:
        return pkv_seq_write(s->cache, seq, 0, &array, &array);
    case 10:
        return pkv_seq_swap_out(s->cache, seq, &transfer);
    case 11:
        return pkv_seq_swap_in(s->cache, seq, &transfer);
    case 12:
        return pkv_seq_lookup(s->cache, seq, &token, 1, &match);
    case 13:
        return pkv_seq_announce(s->cache, seq, &token, 1);
    case 14:
        return pkv_seq_set_keys(s->cache, seq, "salt", 4, NULL, 0);
    case 15:
        return pkv_seq_publish(s->cache, seq, 0, &number);
    case 16:
        return s->config.retained_max > 0 ? pkv_seq_retain(s->cache, seq, 0, 0, NULL, &number)
                                          : pkv_seq_free(s->cache, (pkv_seq){seq.id | !seq.id});
    default:
        return pkv_seq_free(s->cache, seq.id == 0 ? (pkv_seq){1} : seq);
    }
}

static int call_plan(sim* s, pkv_plan plan, uint32_t which) {
    pkv_plan_info info;
    uint32_t done;
    const pkv_array array = {.data = s->k};
    const pkv_attention attention = {
        .q = array, .out = {.data = s->v}, .query_heads = s->config.groups[0].kv_heads};
    const pkv_path path = {NULL, 1};
    switch (which) {
    case 8:
        return pkv_plan_accept(s->cache, plan, &path, 1);
    case 0:
        return pkv_plan_get_info(s->cache, plan, 0, &info);
    case 1:
        return pkv_write(s->cache, plan, 0, &array, &array);
    case 2:
        return pkv_attend(s->cache, plan, 0, &attention);
    case 3:
        return pkv_plan_commit(s->cache, plan);
    case 4:
        return pkv_plan_abort(s->cache, plan);
    default: /* a zero handle may be cancelled */
        return sim_call_transfer(s, (pkv_transfer){plan.id != 0 ? plan.id : 1}, which - 5, &done);
    }
}

void sim_hostile(sim* s) {
    const bool as_plan = sim_percent(s, 35);
    const uint64_t id = forge(s, as_plan);
    const uint32_t which = sim_below(s, as_plan ? 9 : 18);
    const bool plans_are_full = !as_plan && which == 8 && s->model.plans == s->config.plans_max;
    const model_verdict verdict = {
        MODEL_BIT(PKV_ESTALE) | (plans_are_full ? MODEL_BIT(PKV_EBUSY) : 0), 0};
    sim_before(s, verdict);
    const int status =
        as_plan ? call_plan(s, (pkv_plan){id}, which) : call_seq(s, (pkv_seq){id}, which);
    sim_judge(s, as_plan ? "hostile plan" : "hostile seq", verdict, status, id, which);
}
