/* hostile_swaps.c - bad calls on transfers, and on sequences that are away. */
#include "sweep/hostile.h"

static int bad_swap(struct world* w) {
    pkv_transfer transfer;
    switch (world_below(w, 9)) {
    case 0:
        return pkv_seq_swap_out(NULL, w->seqs[COMMITTED], &transfer);
    case 1:
        return pkv_seq_swap_out(w->cache, world_bad_seq(w), &transfer);
    case 2:
        return pkv_seq_swap_out(w->cache, w->seqs[RESERVED + world_below(w, 2)], &transfer);
    case 3:
        return pkv_seq_swap_out(w->cache, w->seqs[COMMITTED], NULL);
    case 4:
        return pkv_seq_swap_out(w->cache, w->seqs[GONE], &transfer);
    case 5:
        return pkv_seq_swap_in(NULL, w->seqs[GONE], &transfer);
    case 6:
        return pkv_seq_swap_in(w->cache, world_bad_seq(w), &transfer);
    case 7:
        return pkv_seq_swap_in(w->cache, w->seqs[GONE], NULL);
    default:
        return pkv_seq_swap_in(w->cache, w->seqs[EMPTY + world_below(w, 5)], &transfer);
    }
}

/* None is under way. */
static pkv_transfer bad_transfer(struct world* w) {
    switch (world_below(w, 4)) {
    case 0:
        return w->dead_transfer;
    case 1:
        return (pkv_transfer){w->seqs[world_below(w, SEQS)].id};
    case 2:
        return (pkv_transfer){world_flip_bits(w, w->dead_transfer.id)};
    default:
        return (pkv_transfer){world_next(w)};
    }
}

static int bad_transfer_call(struct world* w) {
    const pkv_transfer transfer = bad_transfer(w);
    uint32_t done;
    switch (world_below(w, 6)) {
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
    const pkv_array array = world_array(k);
    const pkv_seq gone = w->seqs[GONE];
    const pkv_entry entries[2] = {{w->seqs[EMPTY], world_tokens, 2}, {gone, world_tokens, 1}};
    uint32_t number;
    pkv_seq child;
    pkv_plan plan;
    switch (world_below(w, 8)) {
    case 0:
        return pkv_seq_match(w->cache, gone, world_tokens, 4, &number);
    case 1:
        return pkv_seq_fork(w->cache, gone, &child);
    case 2:
        return pkv_seq_truncate(w->cache, gone, world_below(w, 4));
    case 3:
        return pkv_seq_append(w->cache, gone, world_tokens, 1, NULL);
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

static int (*const calls[])(struct world* w) = {
    bad_swap,
    bad_transfer_call,
    away_call,
};

const hostile_kinds hostile_on_swaps = {"swaps", calls, sizeof calls / sizeof *calls};
