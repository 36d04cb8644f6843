/* sharing.c - operations by which sequences tell each other what they have and are about to have. */
#include "sim/driver.h"

/* A text of some length, as `seq` would compute it from position 0 on. */
static uint32_t draw_text(sim* s, uint32_t seq) {
    const uint32_t count = sim_below(s, s->config.sequence_tokens_max + 1);
    if (sim_percent(s, 2)) return 1U << 31;
    if (seq != MODEL_NONE) sim_draw_tokens(s, seq, 0, count, s->tokens);
    return count;
}

void sim_op_lookup(sim* s) {
    uint32_t seq = sim_draw_seq(s);
    for (uint32_t i = 0; i < s->config.sequences_max && sim_percent(s, 90); i++)
        if (s->model.seqs[i].alive && s->model.seqs[i].length == 0) seq = i;
    const uint32_t count = draw_text(s, seq);
    model_verdict verdict = model_match_errors(&s->model, seq, count);
    verdict.may &= ~MODEL_BIT(PKV_ENOLEAVES);
    pkv_match match = {0, 0};
    sim_before(s, verdict);
    const int status = pkv_seq_lookup(s->cache, sim_handle(s, seq), s->tokens, count, &match);
    if (!sim_judge(s, "seq.lookup", verdict, status, match.matched, match.pending)) return;
    const pkv_match want = model_lookup(&s->model, seq, s->tokens, count);
    if (match.matched != want.matched)
        sim_fail(s, "lookup: %u matched, want %u", match.matched, want.matched);
    if (match.pending != want.pending)
        sim_fail(s, "lookup: %u pending, want %u", match.pending, want.pending);
    s->pending += match.pending;
}

void sim_op_announce(sim* s) {
    const uint32_t seq = sim_draw_seq(s);
    const uint32_t count = draw_text(s, seq);
    const model_verdict verdict = model_announce_errors(&s->model, seq, count);
    sim_before(s, verdict);
    const int status = pkv_seq_announce(s->cache, sim_handle(s, seq), s->tokens, count);
    if (sim_judge(s, "seq.announce", verdict, status, seq, count))
        model_announce(&s->model, seq, s->tokens, count);
}

/* ---- Extra keys ------------------------------------------------------------------------------ */

/* Key n stands for n bytes, so that one is the beginning of the next. */
static const char key_bytes[] = "abcd";

/* One of a few sets of keys, the same in both worlds. Set 0 is empty. */
static uint32_t draw_keys(const sim* s, uint32_t set, pkv_extra_key* keys, uint32_t* salt) {
    const uint32_t block = s->model.block_tokens;
    const uint32_t begins[SIM_KEY_SETS] = {0, 0, block / 2, block + 1, block};
    const uint32_t sizes[SIM_KEY_SETS] = {0, 0, 1, 2, 1};
    *salt = set == 1 || set == 3 ? set : 0;
    if (sizes[set] == 0) return 0;
    keys[0] = (pkv_extra_key){begins[set], begins[set] + block, key_bytes, sizes[set]};
    keys[1] = (pkv_extra_key){keys[0].end, keys[0].end + 1, key_bytes, 3};
    return set == 4 ? 2 : 1;
}

void sim_op_set_keys(sim* s) {
    uint32_t seq = sim_draw_seq(s);
    for (uint32_t i = 0; i < s->config.sequences_max && sim_percent(s, 90); i++)
        if (s->model.seqs[i].alive && s->model.seqs[i].length == 0) seq = i;
    pkv_extra_key keys[2];
    uint32_t salt;
    const uint32_t set = sim_below(s, SIM_KEY_SETS);
    const uint32_t count = draw_keys(s, set, keys, &salt);
    const model_verdict verdict = model_keys_errors(&s->model, seq);
    sim_before(s, verdict);
    const int status = pkv_seq_set_keys(s->cache, sim_handle(s, seq), key_bytes, salt, keys, count);
    if (!sim_judge(s, "seq.set_keys", verdict, status, seq, set)) return;
    for (uint32_t i = 0; i < s->config.sequence_tokens_max; i++) {
        s->numbers[i] = 0;
        for (uint32_t k = 0; k < count; k++)
            if (keys[k].begin <= i && i < keys[k].end) s->numbers[i] = keys[k].size;
    }
    model_set_keys(&s->model, seq, salt, s->numbers);
}

/* ---- Publishing ------------------------------------------------------------------------------ */

void sim_op_publish(sim* s) {
    if (!s->publishes) return;
    const uint32_t seq = sim_draw_seq(s);
    const uint32_t length = seq != MODEL_NONE ? s->model.seqs[seq].length : 0;
    uint32_t count = sim_below(s, length + 1);
    if (sim_percent(s, 5)) count = length + 1;
    const model_verdict verdict = model_publish_errors(&s->model, seq, count);
    uint32_t published = 0;
    sim_before(s, verdict);
    const int status = pkv_seq_publish(s->cache, sim_handle(s, seq), count, &published);
    if (!sim_judge(s, "seq.publish", verdict, status, count, published)) return;
    const uint32_t want = model_publish(&s->model, seq, count);
    if (published != want) sim_fail(s, "published %u tokens, want %u", published, want);
    s->published += published;
}

/* ---- Dropping all ---------------------------------------------------------------------------- */

/* Seldom: a cache that has just lost everything is no interesting one. */
void sim_op_drop(sim* s) {
    if (sim_percent(s, 70)) return;
    const model_verdict verdict = {0, 0};
    uint32_t dropped = 0;
    sim_before(s, verdict);
    const int status = pkv_cache_drop(s->cache, &dropped);
    if (!sim_judge(s, "cache.drop", verdict, status, dropped, 0)) return;
    const uint32_t want = model_drop(&s->model);
    if (dropped != want) sim_fail(s, "dropped %u blocks, want %u", dropped, want);
}
