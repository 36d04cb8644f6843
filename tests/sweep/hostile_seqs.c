/* hostile_seqs.c - bad calls on sequences. */
#include "sweep/hostile.h"

static int bad_create(struct world* w) {
    pkv_seq seq;
    return world_below(w, 2) ? pkv_seq_create(NULL, 0, &seq) : pkv_seq_create(w->cache, 0, NULL);
}

static int bad_match(struct world* w) {
    uint32_t matched;
    switch (world_below(w, 6)) {
    case 0:
        return pkv_seq_match(NULL, w->seqs[EMPTY], world_tokens, 4, &matched);
    case 1:
        return pkv_seq_match(w->cache, world_bad_seq(w), world_tokens, 4, &matched);
    case 2:
        return pkv_seq_match(w->cache, w->seqs[EMPTY], NULL, 4, &matched);
    case 3:
        return pkv_seq_match(w->cache, w->seqs[EMPTY], world_tokens, 4, NULL);
    case 4:
        return pkv_seq_match(w->cache, w->seqs[EMPTY], world_tokens, world_huge(w), &matched);
    default:
        return pkv_seq_match(w->cache, w->seqs[1 + world_below(w, 4)], world_tokens, 4, &matched);
    }
}

static int bad_lookup(struct world* w) {
    pkv_match match;
    switch (world_below(w, 6)) {
    case 0:
        return pkv_seq_lookup(NULL, w->seqs[EMPTY], world_tokens, 4, &match);
    case 1:
        return pkv_seq_lookup(w->cache, world_bad_seq(w), world_tokens, 4, &match);
    case 2:
        return pkv_seq_lookup(w->cache, w->seqs[EMPTY], NULL, 4, &match);
    case 3:
        return pkv_seq_lookup(w->cache, w->seqs[EMPTY], world_tokens, 4, NULL);
    case 4:
        return pkv_seq_lookup(w->cache, w->seqs[EMPTY], world_tokens, world_huge(w), &match);
    default:
        return pkv_seq_lookup(w->cache, w->seqs[1 + world_below(w, 4)], world_tokens, 4, &match);
    }
}

static int bad_announce(struct world* w) {
    switch (world_below(w, 5)) {
    case 0:
        return pkv_seq_announce(NULL, w->seqs[EMPTY], world_tokens, 4);
    case 1:
        return pkv_seq_announce(w->cache, world_bad_seq(w), world_tokens, 4);
    case 2:
        return pkv_seq_announce(w->cache, w->seqs[EMPTY], NULL, 4);
    case 3:
        return pkv_seq_announce(w->cache, w->seqs[EMPTY], world_tokens, world_huge(w));
    default:
        return pkv_seq_announce(w->cache, w->seqs[PLANNED], world_tokens, 4);
    }
}

static int bad_fork(struct world* w) {
    pkv_seq child;
    switch (world_below(w, 4)) {
    case 0:
        return pkv_seq_fork(NULL, w->seqs[COMMITTED], &child);
    case 1:
        return pkv_seq_fork(w->cache, world_bad_seq(w), &child);
    case 2:
        return pkv_seq_fork(w->cache, w->seqs[COMMITTED], NULL);
    default:
        return pkv_seq_fork(w->cache, w->seqs[RESERVED + world_below(w, 2)], &child);
    }
}

static int bad_truncate(struct world* w) {
    switch (world_below(w, 4)) {
    case 0:
        return pkv_seq_truncate(NULL, w->seqs[COMMITTED], 1);
    case 1:
        return pkv_seq_truncate(w->cache, world_bad_seq(w), world_below(w, 6));
    case 2:
        return pkv_seq_truncate(w->cache, w->seqs[COMMITTED], world_huge(w));
    default:
        return pkv_seq_truncate(w->cache, w->seqs[PLANNED], 0);
    }
}

static int bad_free(struct world* w) {
    const pkv_seq seq = world_bad_seq(w);
    switch (world_below(w, 3)) {
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
    switch (world_below(w, 3)) {
    case 0:
        return pkv_seq_get_info(NULL, w->seqs[COMMITTED], &info);
    case 1:
        return pkv_seq_get_info(w->cache, world_bad_seq(w), &info);
    default:
        return pkv_seq_get_info(w->cache, w->seqs[COMMITTED], NULL);
    }
}

static int bad_blocks(struct world* w) {
    uint32_t blocks[4];
    const pkv_seq seq = w->seqs[COMMITTED];
    switch (world_below(w, 6)) {
    case 0:
        return pkv_seq_blocks(NULL, seq, 0, 0, 1, blocks);
    case 1:
        return pkv_seq_blocks(w->cache, world_bad_seq(w), 0, 0, world_below(w, 4), blocks);
    case 2:
        return pkv_seq_blocks(w->cache, seq, 1 + world_below(w, UINT32_MAX - 1), 0, 1, blocks);
    case 3:
        return pkv_seq_blocks(w->cache, seq, 0, 0, world_huge(w), blocks);
    case 4:
        return pkv_seq_blocks(w->cache, seq, 0, 2, 1, blocks);
    default:
        return pkv_seq_blocks(w->cache, seq, 0, 0, 1, NULL);
    }
}

static int bad_append(struct world* w) {
    switch (world_below(w, 5)) {
    case 0:
        return pkv_seq_append(NULL, w->seqs[EMPTY], world_tokens, 1, NULL);
    case 1:
        return pkv_seq_append(w->cache, world_bad_seq(w), world_tokens, 1, NULL);
    case 2:
        return pkv_seq_append(w->cache, w->seqs[EMPTY], world_tokens, 0, NULL);
    case 3:
        return pkv_seq_append(w->cache, w->seqs[EMPTY], world_tokens, world_huge(w), NULL);
    default:
        return pkv_seq_append(w->cache, w->seqs[PLANNED], world_tokens, 1, NULL);
    }
}

static int bad_seq_write(struct world* w) {
    float data[8 * DIM] = {0};
    const pkv_array good = world_array(data);
    const pkv_array bad = world_bad_array(w, data);
    const pkv_seq seq = w->seqs[RESERVED];
    switch (world_below(w, 7)) {
    case 0:
        return pkv_seq_write(NULL, seq, 0, &good, &good);
    case 1:
        return pkv_seq_write(w->cache, world_bad_seq(w), 0, &good, &good);
    case 2:
        return pkv_seq_write(w->cache, seq, 1 + world_below(w, UINT32_MAX - 1), &good, &good);
    case 3:
        return pkv_seq_write(w->cache, seq, 0, NULL, &good);
    case 4:
        return pkv_seq_write(w->cache, seq, 0, &good, NULL);
    case 5:
        return pkv_seq_write(w->cache, seq, 0, &good, &bad);
    default:
        return pkv_seq_write(w->cache, w->seqs[world_below(w, 2)], 0, &good, &good);
    }
}

static int bad_commit(struct world* w) {
    switch (world_below(w, 3)) {
    case 0:
        return pkv_seq_commit(NULL, w->seqs[RESERVED]);
    case 1:
        return pkv_seq_commit(w->cache, world_bad_seq(w));
    default:
        return pkv_seq_commit(w->cache, w->seqs[PLANNED]);
    }
}

static int bad_read(struct world* w) {
    float data[8 * DIM];
    const pkv_array good = world_array(data);
    const pkv_array bad = world_bad_array(w, data);
    const pkv_seq seq = w->seqs[COMMITTED];
    switch (world_below(w, 8)) {
    case 0:
        return pkv_seq_read(NULL, seq, 0, 0, 2, &good, NULL);
    case 1:
        return pkv_seq_read(w->cache, world_bad_seq(w), 0, 0, world_below(w, 3), &good, NULL);
    case 2:
        return pkv_seq_read(w->cache, seq, 1 + world_below(w, UINT32_MAX - 1), 0, 2, &good, NULL);
    case 3:
        return pkv_seq_read(w->cache, seq, 0, 0, world_huge(w), NULL, NULL);
    case 4:
        return pkv_seq_read(w->cache, seq, 0, world_huge(w), 1, &good, NULL);
    case 5:
        return pkv_seq_read(w->cache, seq, 0, 0, 2, &bad, &good);
    case 6:
        return pkv_seq_read(w->cache, w->seqs[RESERVED], 0, 0, 3, &good, &good);
    default:
        return pkv_seq_read(w->cache, w->seqs[PLANNED], 0, 0, 1, &good, &good);
    }
}

static int (*const calls[])(struct world* w) = {
    bad_create, bad_match,  bad_lookup, bad_announce,  bad_fork,   bad_truncate, bad_free,
    bad_info,   bad_blocks, bad_append, bad_seq_write, bad_commit, bad_read,
};

const hostile_kinds hostile_on_seqs = {"sequences", calls, sizeof calls / sizeof *calls};
