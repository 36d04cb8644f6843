/* hostile_sharing.c - bad calls on what sequences share and hold: keys, published prefixes,
 * retention, pins. */
#include "sweep/hostile.h"

static int bad_set_keys(struct world* w) {
    static const pkv_extra_key keys[2] = {{4, 6, "cat", 3}, {5, 8, "dog", 3}};
    const pkv_seq seq = w->seqs[EMPTY];
    switch (world_below(w, 7)) {
    case 0:
        return pkv_seq_set_keys(NULL, seq, "salt", 4, keys, 1);
    case 1:
        return pkv_seq_set_keys(w->cache, world_bad_seq(w), "salt", 4, keys, 1);
    case 2:
        return pkv_seq_set_keys(w->cache, seq, NULL, 1 + world_below(w, 9), keys, 1);
    case 3:
        return pkv_seq_set_keys(w->cache, seq, "salt", 4, NULL, 1 + world_below(w, 9));
    case 4:
        return pkv_seq_set_keys(w->cache, seq, NULL, 0, keys, 2); /* they overlap */
    case 5:
        return pkv_seq_set_keys(w->cache, seq, "salt", UINT32_MAX - world_below(w, 9), NULL, 0);
    default:
        return pkv_seq_set_keys(w->cache, w->seqs[1 + world_below(w, 4)], "salt", 4, keys, 1);
    }
}

static int bad_publish(struct world* w) {
    uint32_t published;
    switch (world_below(w, 5)) {
    case 0:
        return pkv_seq_publish(NULL, w->seqs[COMMITTED], 1, &published);
    case 1:
        return pkv_seq_publish(w->cache, world_bad_seq(w), 1, &published);
    case 2:
        return pkv_seq_publish(w->cache, w->seqs[COMMITTED], 1, NULL);
    case 3:
        return pkv_seq_publish(w->cache, w->seqs[COMMITTED], world_huge(w), &published);
    default:
        return pkv_seq_publish(w->cache, w->seqs[PLANNED], 0, &published);
    }
}

static int bad_retain(struct world* w) {
    const pkv_retention high = {.priority = 90, .ttl_us = world_huge(w)};
    const pkv_retention too_high = {.priority = 101 + world_below(w, 1000)};
    const pkv_seq seq = w->seqs[COMMITTED];
    switch (world_below(w, 8)) {
    case 0:
        return pkv_seq_retain(NULL, seq, 0, 1, &high, NULL);
    case 1:
        return pkv_seq_retain(w->cache, world_bad_seq(w), 0, 1, &high, NULL);
    case 2:
        return pkv_seq_retain(w->cache, seq, 0, 1, &too_high, NULL);
    case 3:
        return pkv_seq_retain(w->cache, seq, 0, world_huge(w), &high, NULL);
    case 4:
        return pkv_seq_retain(w->cache, seq, 2, 1, NULL, NULL);
    case 5:
        return pkv_seq_retain(w->cache, w->seqs[GONE], 0, 1, &high, NULL);
    case 6:
        return pkv_seq_retain(w->cache, w->seqs[PLANNED], 0, 1, &high, NULL);
    default: /* two blocks, and room for one */
        return pkv_seq_retain(w->cache, seq, 0, 5, &high, NULL);
    }
}

static int bad_pin(struct world* w) {
    pkv_pin pin;
    switch (world_below(w, 6)) {
    case 0:
        return pkv_pin_create(NULL, w->seqs[COMMITTED], 4, OWNER, 0, &pin);
    case 1:
        return pkv_pin_create(w->cache, world_bad_seq(w), 4, OWNER, 0, &pin);
    case 2:
        return pkv_pin_create(w->cache, w->seqs[COMMITTED], 4, OWNER, 0, NULL);
    case 3:
        return pkv_pin_create(w->cache, w->seqs[COMMITTED], world_huge(w), OWNER, 0, &pin);
    case 4:
        return pkv_pin_create(w->cache, w->seqs[world_below(w, 2) ? PLANNED : GONE], 0, OWNER, 0,
                              &pin);
    default:
        return pkv_pin_create(w->cache, w->seqs[RESERVED], 0, OWNER, world_huge(w), &pin);
    }
}

static int bad_pin_release(struct world* w) {
    uint32_t released;
    switch (world_below(w, 5)) {
    case 0:
        return pkv_pin_release(NULL, w->dead_pin);
    case 1:
        return pkv_pin_release(w->cache, w->dead_pin);
    case 2:
        return pkv_pin_release(w->cache, (pkv_pin){w->seqs[world_below(w, SEQS)].id});
    case 3:
        return pkv_pin_release(w->cache, (pkv_pin){1 + world_next(w) / 2});
    default:
        return pkv_pins_release(NULL, OWNER, &released);
    }
}

static int (*const calls[])(struct world* w) = {
    bad_set_keys, bad_publish, bad_retain, bad_pin, bad_pin_release,
};

const hostile_kinds hostile_on_sharing = {"sharing", calls, sizeof calls / sizeof *calls};
