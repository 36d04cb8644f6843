/* cache.h - the cache object: everything that pkv_cache_create takes, in one place.
 *
 * Modules below it (arena, pool, prefix, table) know nothing of it; modules above (seq, plan,
 * check) work on it. All of it is guarded by the lock of its arena, which api/ takes and core/
 * assumes. */
#ifndef PKVI_CORE_CACHE_H
#define PKVI_CORE_CACHE_H

#include "base/hash.h"
#include "base/latency.h"
#include "base/trace.h"
#include "core/check.h"
#include "core/compact.h"
#include "core/config.h"
#include "core/pending.h"
#include "core/pin.h"
#include "core/plan.h"
#include "core/retention.h"
#include "core/seq.h"
#include "core/swap.h"
#include "core/table.h"
#include "core/tenant.h"
#include "core/tier.h"

struct pkv_cache {
    struct pkv_arena* arena; /* its own, or one that it shares; has the lock */
    struct pkv_cache* arena_next;
    pkv_config config; /* resolved: no zero means a default any more; strings are not kept */
    pkv_sizes sizes;
    struct pkvi_layout layout;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    struct pkvi_clock clock;
    struct pkvi_trace trace;
    struct pkvi_device* device;
    struct pkvi_quotas quotas;
    struct pkv_arena own_arena;
    struct pkvi_pool pool;
    struct pkvi_prefix prefix;
    struct pkvi_leaves leaves;
    struct pkvi_seqs seqs;
    struct pkvi_pins pins;
    struct pkvi_pending pending;
    struct pkvi_plans plans;
    struct pkvi_tier tier;
    struct pkvi_transfers transfers;
    struct pkvi_scratch scratch; /* of reservations */
    struct pkvi_checker checker; /* of pkv_check */
    struct pkvi_compactor compactor;
    struct pkvi_latency latency; /* of reservations that take blocks */
    pkv_stats stats;             /* the counters; states are filled in when asked for */
};

int pkvi_cache_create(const pkv_config* config, pkv_cache** cache);
void pkvi_cache_destroy(pkv_cache* cache);

/* The public function of the same name; returns the blocks that became free. */
uint32_t pkvi_cache_drop(pkv_cache* cache);

/* The counters and the present state. */
void pkvi_cache_stats(pkv_cache* cache, pkv_stats* stats);

/* Blocks that sequences name, and keeps the highest number seen. */
uint32_t pkvi_cache_active_blocks(const pkv_cache* cache);
void pkvi_cache_note_peak(pkv_cache* cache);

#endif
