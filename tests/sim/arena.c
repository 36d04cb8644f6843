/* arena.c - the arena of a round: how large it is and becomes, and which extents its caches have given
 * up for others.
 *
 * Which cache gives, and which of its extents, the header leaves to the library, and the trace names
 * the blocks. What it does say is checked: only extents in which everything is only cached, whole ones,
 * and as many as are needed. */
#include "sim/round.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t ceil_div(uint64_t a, uint64_t b) {
    return (uint32_t)((a + b - 1) / b);
}

/* ---- Shape ----------------------------------------------------------------------------------- */

static uint64_t block_bytes_of(sim* s) {
    pkv_sizes sizes = {0};
    if (pkv_config_check(&s->config, NULL, &sizes) != PKV_OK) sim_fail(s, "the config is refused");
    return sizes.block_bytes;
}

/* The largest block of all caches fits once, or a few times. */
static uint64_t draw_extent_bytes(sim_round* r) {
    enum { PAGE = 4096 };
    uint64_t largest = 1;
    for (uint32_t i = 0; i < r->sim_count; i++) {
        const uint64_t bytes = block_bytes_of(&r->sims[i]);
        if (bytes > largest) largest = bytes;
    }
    const uint64_t wanted = largest * sim_between(&r->sims[0], 1, 4);
    return (wanted + PAGE - 1) / PAGE * PAGE;
}

/* Extents that would hold all blocks of all caches. */
static uint32_t sum_extents(sim_round* r, uint64_t extent_bytes) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < r->sim_count; i++) {
        sim* s = &r->sims[i];
        sum += ceil_div(s->config.blocks, extent_bytes / block_bytes_of(s));
    }
    return sum;
}

/* In two rounds of three there is less memory than the caches might have blocks. */
static pkv_arena_config draw_config(sim_round* r) {
    sim* s = &r->sims[0];
    pkv_arena_config config;
    if (pkv_arena_config_init(&config, PKV_VERSION) != PKV_OK) sim_fail(s, "no arena config");
    config.device = r->options.device;
    config.faults = "";
    config.extent_bytes = draw_extent_bytes(r);
    const uint32_t all = sum_extents(r, config.extent_bytes);
    const uint32_t extents = sim_percent(s, 33) ? all : sim_between(s, 1 + all / 5, 1 + all / 2);
    const uint32_t more = sim_percent(s, 50) ? sim_below(s, all + 3 - extents) : 0;
    config.bytes = extents * config.extent_bytes;
    config.bytes_max = (extents + more) * config.extent_bytes;
    return config;
}

static void create(sim_round* r, pkv_arena_config* config) {
    const bool is_faulty = r->options.swarm && sim_percent(&r->sims[0], 50);
    if (is_faulty) config->faults = "arena.resize=10%return(EIO)";
    int status = pkv_arena_create(config, &r->arena);
    if (is_faulty && status == PKV_ENOTSUP) { /* built without fault points */
        config->faults = "";
        status = pkv_arena_create(config, &r->arena);
    } else if (is_faulty) {
        r->arena_injected = MODEL_BIT(PKV_EIO);
    }
    if (status != PKV_OK)
        sim_fail(&r->sims[0], "the arena is refused: %s", pkv_status_name(status));
}

static void place(sim_round* r, sim* s, const pkv_arena_config* config) {
    const uint32_t per_extent = (uint32_t)(config->extent_bytes / block_bytes_of(s));
    s->number_count = r->memory.extent_max * per_extent;
    if (s->config.blocks > s->number_count) s->config.blocks = s->number_count;
    s->config.arena = r->arena;
    s->config.allocator = sim_below(s, PKV_LIFO + 1);
}

void round_draw_arena(sim_round* r) {
    pkv_arena_config config = draw_config(r);
    r->memory = (model_arena){.extent_bytes = config.extent_bytes,
                              .extent_count = (uint32_t)(config.bytes / config.extent_bytes),
                              .extent_max = (uint32_t)(config.bytes_max / config.extent_bytes)};
    if (r->memory.extent_max > MODEL_EXTENTS) sim_fail(&r->sims[0], "too many extents");
    r->writers = calloc(r->memory.extent_max, sizeof *r->writers);
    if (r->writers == NULL) exit(2);
    create(r, &config);
    for (uint32_t i = 0; i < r->sim_count; i++)
        place(r, &r->sims[i], &config);
}

/* ---- Whose bytes ----------------------------------------------------------------------------- */

/* A block was taken: its extent has come from another cache, perhaps. */
void round_note_extent(sim* s, uint32_t real) {
    const sim_round* r = s->round;
    if (r->arena == NULL) return;
    const uint32_t extent = real / s->model.per_extent;
    const uint32_t own = s->model.number + 1;
    const uint32_t writer = r->writers[extent];
    r->writers[extent] = own;
    if (writer == 0 || writer == own) return;
    for (uint32_t i = 0; i < s->model.per_extent; i++)
        s->real_mixed[extent * s->model.per_extent + i] = true;
}

void round_forget_bytes(sim* s) {
    const sim_round* r = s->round;
    for (uint32_t extent = 0; extent < r->memory.extent_max; extent++)
        if (r->writers[extent] == s->model.number + 1) r->writers[extent] = UINT32_MAX;
}

/* ---- Claims ---------------------------------------------------------------------------------- */

/* A cache has lost what it had cached in an extent. */
static void lose_extent(sim* s, uint32_t extent) {
    model* m = &s->model;
    uint32_t lost = 0;
    for (uint32_t i = 0; i < s->config.blocks && sim_is_well(s); i++) {
        if (!model_is_used(&m->blocks[i]) || model_extent_of(m, i) != extent) continue;
        if (m->blocks[i].holders > 0)
            sim_fail(s, "extent %u was claimed with block %u in use", extent, m->blocks[i].real);
        else if (!sim_take_victim(s, m->blocks[i].real))
            sim_fail(s, "extent %u was claimed without block %u", extent, m->blocks[i].real);
        model_lose(m, i);
        lost++;
    }
    if (lost == 0) sim_fail(s, "block %u was evicted, which is not cached", s->victims[0]);
    m->counters.extents_ceded++;
}

bool round_has_claims(sim* s) {
    sim_round* r = s->round;
    uint32_t victims = 0;
    for (uint32_t i = 0; i < r->sim_count; i++) {
        if (&r->sims[i] == s) continue;
        sim_read_trace(&r->sims[i]);
        victims += r->sims[i].victim_count;
    }
    return victims > 0;
}

/* Returns how many extents all caches but `claimer`, which may be NULL, have given up. */
static uint32_t adopt_claims(sim_round* r, const sim* claimer) {
    uint32_t extents = 0;
    for (uint32_t i = 0; i < r->sim_count; i++) {
        sim* s = &r->sims[i];
        if (s == claimer) continue;
        sim_read_trace(s);
        for (; s->victim_count > 0 && sim_is_well(s); extents++)
            lose_extent(s, s->victims[0] / s->model.per_extent);
    }
    r->memory.claims += extents;
    return extents;
}

static void claim(void* ctx, uint32_t extents) {
    sim* s = ctx;
    const uint32_t given = adopt_claims(s->round, s);
    if (given != extents) sim_fail(s, "%u extents were claimed, want %u", given, extents);
    s->model.counters.extents_claimed += extents;
}

void round_watch_claims(sim_round* r) {
    r->memory.cache_count = r->sim_count;
    for (uint32_t i = 0; i < r->sim_count; i++) {
        model* m = &r->sims[i].model;
        r->memory.caches[i] = m;
        m->arena = &r->memory;
        m->claim = claim;
    }
}

/* ---- Resize ---------------------------------------------------------------------------------- */

static uint64_t draw_bytes(sim_round* r) {
    sim* s = &r->sims[0];
    const model_arena* memory = &r->memory;
    uint32_t count = sim_between(s, memory->extent_max / 2, memory->extent_max);
    if (sim_percent(s, 30)) count = sim_below(s, memory->extent_max + 2);
    if (sim_percent(s, 2)) return UINT64_MAX;
    return count * memory->extent_bytes + sim_below(s, 2);
}

/* As a call on the first cache, which all others are to it. */
static bool resize(sim_round* r, uint64_t bytes) {
    sim* s = &r->sims[0];
    const uint32_t before = r->memory.extent_count;
    const uint32_t claims = model_resize_claims(&r->memory, bytes);
    const model_verdict verdict = model_resize_errors(&r->memory, bytes);
    const uint32_t injected = s->injected;
    s->injected = bytes / r->memory.extent_bytes < before ? r->arena_injected : 0;
    sim_before(s, verdict);
    const int status = pkv_arena_resize(r->arena, bytes);
    const bool is_done = sim_judge(s, "arena.resize", verdict, status, bytes, before);
    s->injected = injected;
    const bool has_claimed = is_done || status == PKV_EIO; /* what was evicted stays so */
    const uint32_t given = has_claimed ? adopt_claims(r, NULL) : 0;
    if (has_claimed && given != claims)
        sim_fail(s, "%u extents were given up for a resize, want %u", given, claims);
    if (is_done) r->memory.extent_count = (uint32_t)(bytes / r->memory.extent_bytes);
    return is_done;
}

void round_resize(sim_round* r) {
    const uint32_t before = r->memory.extent_count;
    if (!resize(r, draw_bytes(r))) {
        r->resizes_refused++;
        return;
    }
    r->grown += r->memory.extent_count > before;
    r->shrunk += r->memory.extent_count < before;
    r->has_shrunk |= r->memory.extent_count < before;
    r->has_regrown |= r->has_shrunk && r->memory.extent_count > before;
}

void round_regrow(sim_round* r) {
    r->has_regrown |= r->has_shrunk;
    resize(r, r->memory.extent_max * r->memory.extent_bytes);
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static void expect(sim_round* r, const char* name, uint64_t want, uint64_t got) {
    if (want != got)
        sim_fail(&r->sims[0], "%s of the arena: want %llu, got %llu", name,
                 (unsigned long long)want, (unsigned long long)got);
}

void round_check_memory(sim_round* r) {
    const model_arena* memory = &r->memory;
    pkv_arena_stats stats = {.struct_size = sizeof stats};
    uint64_t used = 0;
    uint64_t room = 0;
    if (pkv_arena_get_stats(r->arena, &stats) != PKV_OK) sim_fail(&r->sims[0], "no arena stats");
    for (uint32_t i = 0; i < r->sim_count; i++) {
        const model* m = &r->sims[i].model;
        used += model_used_blocks(m) * m->block_bytes;
        room += (uint64_t)model_held_extents(m) * m->per_extent * m->block_bytes;
    }
    const uint32_t free = model_free_extents(memory);
    const uint64_t held_bytes = (memory->extent_count - free) * memory->extent_bytes;
    expect(r, "caches", r->sim_count, stats.caches);
    expect(r, "extents_max", memory->extent_max, stats.extents_max);
    expect(r, "extents_total", memory->extent_count, stats.extents_total);
    expect(r, "extents_free", free, stats.extents_free);
    expect(r, "bytes_used", used, stats.bytes_used);
    expect(r, "bytes_loose", room - used, stats.bytes_loose);
    expect(r, "bytes_lost", held_bytes - room, stats.bytes_lost);
    expect(r, "extents_claimed", memory->claims, stats.extents_claimed);
}

void round_destroy_arena(sim_round* r) {
    if (r->arena == NULL) return;
    pkv_arena_stats stats = {.struct_size = sizeof stats};
    pkv_arena_get_stats(r->arena, &stats);
    expect(r, "extents_free at the end", r->memory.extent_count, stats.extents_free);
    const int status = pkv_arena_destroy(r->arena);
    r->arena = NULL;
    if (status != PKV_OK) sim_fail(&r->sims[0], "the arena is still in use");
}
