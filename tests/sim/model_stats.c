/* model_stats.c - the numbers that pkv_cache_stats has to give. */
#include "sim/model.h"

/* Of a cache in a shared arena; of others the header says little. */
typedef struct memory_stats {
    uint64_t total, used, bytes, bytes_used, bytes_loose, bytes_lost;
} memory_stats;

static memory_stats memory_of(const model* m, const pkv_stats* stats) {
    if (m->arena == NULL)
        return (memory_stats){stats->extents_total, stats->extents_used, stats->arena_bytes,
                              stats->bytes_used,    stats->bytes_loose,  stats->bytes_lost};
    const uint64_t held = model_held_extents(m);
    const uint64_t blocks = held * m->per_extent;
    const uint64_t used = model_used_blocks(m);
    return (memory_stats){
        .total = m->arena->extent_count,
        .used = held,
        .bytes = held * m->arena->extent_bytes,
        .bytes_used = used * m->block_bytes,
        .bytes_loose = (blocks - used) * m->block_bytes,
        .bytes_lost = held * m->arena->extent_bytes - blocks * m->block_bytes,
    };
}

const char* model_compare_stats(const model* m, const pkv_stats* stats, uint64_t* want,
                                uint64_t* got) {
    const memory_stats memory = memory_of(m, stats);
    const struct {
        const char* name;
        uint64_t want, got;
    } lines[] = {
        {"blocks_total", model_used_blocks(m) + model_free_blocks(m), stats->blocks_total},
        {"blocks_free", model_free_blocks(m), stats->blocks_free},
        {"blocks_active", m->blocks_active, stats->blocks_active},
        {"blocks_cached", m->blocks_cached, stats->blocks_cached},
        {"blocks_peak", m->counters.blocks_peak, stats->blocks_peak},
        {"sequences", model_alive_count(m), stats->sequences},
        {"pins", model_pin_count(m), stats->pins},
        {"pins_expired", m->counters.pins_expired, stats->pins_expired},
        {"plans", m->plans, stats->plans},
        {"plans_committed", m->counters.plans_committed, stats->plans_committed},
        {"plans_aborted", m->counters.plans_aborted, stats->plans_aborted},
        {"tokens_committed", m->counters.tokens_committed, stats->tokens_committed},
        {"prefix_query_tokens", m->counters.prefix_query_tokens, stats->prefix_query_tokens},
        {"prefix_hit_tokens", m->counters.prefix_hit_tokens, stats->prefix_hit_tokens},
        {"prefix_inserts", m->counters.prefix_inserts, stats->prefix_inserts},
        {"prefix_duplicates", m->counters.prefix_duplicates, stats->prefix_duplicates},
        {"evictions", m->counters.evictions, stats->evictions},
        {"retained", model_retained_count(m), stats->retained},
        {"expirations", m->counters.expirations, stats->expirations},
        {"forks", m->counters.forks, stats->forks},
        {"cow_copies", m->counters.cow_copies, stats->cow_copies},
        {"cow_peak", m->counters.cow_peak, stats->cow_peak},
        {"cow_bytes", m->counters.cow_bytes, stats->cow_bytes},
        {"rolled_blocks", m->counters.rolled_blocks, stats->rolled_blocks},
        {"host_blocks_free", m->host_free, stats->host_blocks_free},
        {"transfers", m->transfers, stats->transfers},
        {"tokens_rejected", m->counters.tokens_rejected, stats->tokens_rejected},
        {"transfers_failed", m->counters.transfers_failed, stats->transfers_failed},
        {"transfers_cancelled", m->counters.transfers_cancelled, stats->transfers_cancelled},
        {"swap_out_bytes", m->counters.swap_out_bytes, stats->swap_out_bytes},
        {"swap_in_bytes", m->counters.swap_in_bytes, stats->swap_in_bytes},
        {"extents_claimed", m->counters.extents_claimed, stats->extents_claimed},
        {"extents_ceded", m->counters.extents_ceded, stats->extents_ceded},
        {"extents_total", memory.total, stats->extents_total},
        {"extents_used", memory.used, stats->extents_used},
        {"extents_emptied", m->counters.extents_emptied, stats->extents_emptied},
        {"arena_bytes", memory.bytes, stats->arena_bytes},
        {"bytes_used", memory.bytes_used, stats->bytes_used},
        {"bytes_loose", memory.bytes_loose, stats->bytes_loose},
        {"bytes_lost", memory.bytes_lost, stats->bytes_lost},
        {"blocks_moved", m->counters.blocks_moved, stats->blocks_moved},
        {"table rows", m->plan_rows, stats->table_rows_extended + stats->table_rows_rewritten},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (lines[i].want == lines[i].got) continue;
        *want = lines[i].want;
        *got = lines[i].got;
        return lines[i].name;
    }
    return NULL;
}
