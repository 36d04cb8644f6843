/* attend.c - the driver of attention on the CPU: cuts a call into items and hands them to threads.
 *
 *   entry   one sequence of the call: (new tokens x heads of a KV group) rows for each KV head
 *   item    up to PKVI_ITEM_ROWS rows: all KV heads of a decode row together, so that a block's
 *           slab is visited once; or a tile of rows of one KV head of a long chunk, so that K and V
 *           are reused
 *   part    an item, or one split of it. Items that are large in comparison with what a thread has
 *           to do are cut; their splits are merged afterwards, in the order in which one thread
 *           would have done it
 *
 * Threads take parts from a shared counter. Each works in a workspace of its own. */
#include "device/cpu/attend.h"

#include <pthread.h>

enum {
    PARTIAL_FLOATS = 1 << 21, /* room for states of parts: 8 MiB */
    PARTS_PER_WORKER = 4,     /* so that no thread waits long for the last one */
    ALIGNMENT_FLOATS = 16,    /* a cache line */
};

/* How the rows of one entry are cut. */
struct cut {
    uint32_t first_part; /* parts of all entries before it */
    uint32_t kv_heads;   /* of one item */
    uint32_t rows;       /* of one KV head of one item */
    uint32_t head_tiles;
    uint32_t row_tiles;
    uint32_t splits;         /* parts of one item; 1: the item is computed whole */
    uint64_t partial_floats; /* of one part */
    float* partials;         /* [items][splits][partial_floats]; NULL when splits is 1 */
};

struct pkvi_attender {
    const struct pkvi_kernels* kernels;
    struct pkvi_threads* threads;
    pthread_mutex_t lock; /* one call at a time uses what follows */
    uint32_t worker_count;
    struct pkvi_workspace* workspaces; /* [worker_count] */
    float* floats;                     /* storage of all workspaces */
    float* partials;
    struct cut* cuts; /* [plan_sequences_max] */
    const struct pkvi_attend_job* job;
    uint32_t parts;
    _Atomic uint32_t next_part;
};

/* ---- Open and close -------------------------------------------------------------------------- */

static float* take(float** at, uint64_t floats) {
    float* const taken = *at;
    *at += floats;
    return taken;
}

static int open_workspaces(struct pkvi_attender* attender,
                           const struct pkvi_device_config* config) {
    const pkv_group_config* group = &config->layout.group;
    const uint64_t q = (uint64_t)PKVI_ITEM_ROWS * group->key_dim;
    const uint64_t state = (uint64_t)PKVI_ITEM_ROWS * pkvi_state_floats(group->value_dim);
    const uint64_t affine = (uint64_t)PKVI_CHUNK_TOKENS * pkvi_scale_groups(group->value_dim) * 2;
    const uint64_t unpacked = (uint64_t)PKVI_CHUNK_TOKENS * (group->key_dim + group->value_dim);
    const uint64_t stage = pkvi_stage_bytes(group) / sizeof(float);
    const uint64_t scores = (uint64_t)PKVI_ITEM_ROWS * PKVI_CHUNK_TOKENS;
    const uint64_t corrections = PKVI_ITEM_ROWS + ALIGNMENT_FLOATS;
    const uint64_t all = q + 2 * state + scores + corrections + affine + unpacked + stage;
    PKVI_TRY(pkvi_mem_take(config->mem, attender->worker_count, sizeof *attender->workspaces,
                           (void**)&attender->workspaces));
    PKVI_TRY(pkvi_mem_take(config->mem, attender->worker_count * all + ALIGNMENT_FLOATS,
                           sizeof(float), (void**)&attender->floats));
    float* at = attender->floats + ALIGNMENT_FLOATS -
                (uintptr_t)attender->floats / sizeof(float) % ALIGNMENT_FLOATS;
    for (uint32_t i = 0; i < attender->worker_count; i++) {
        struct pkvi_workspace* workspace = &attender->workspaces[i];
        workspace->q = (unsigned char*)take(&at, q);
        workspace->sum = take(&at, state);
        workspace->split = take(&at, state);
        workspace->scores = take(&at, scores);
        workspace->corrections = take(&at, corrections);
        workspace->affine = take(&at, affine);
        workspace->unpacked = (unsigned char*)take(&at, unpacked);
        workspace->stage = (unsigned char*)take(&at, stage);
    }
    return PKV_OK;
}

static int open_memory(struct pkvi_attender* attender, const struct pkvi_device_config* config) {
    struct pkvi_mem* mem = config->mem;
    PKVI_TRY(open_workspaces(attender, config));
    PKVI_TRY(pkvi_mem_take(mem, attender->worker_count > 1 ? PARTIAL_FLOATS : 0, sizeof(float),
                           (void**)&attender->partials));
    return pkvi_mem_take(mem, config->plan_sequences_max, sizeof *attender->cuts,
                         (void**)&attender->cuts);
}

int pkvi_attender_open(struct pkvi_attender** attender, const struct pkvi_device_config* config,
                       const struct pkvi_kernels* kernels, struct pkvi_threads* threads) {
    struct pkvi_attender* opened;
    PKVI_TRY(pkvi_mem_take(config->mem, 1, sizeof *opened, (void**)&opened));
    opened->kernels = kernels;
    opened->threads = threads;
    opened->worker_count = config->threads;
    pthread_mutex_init(&opened->lock, NULL);
    const int status = open_memory(opened, config);
    if (status != PKV_OK) {
        pkvi_attender_close(opened, config->mem);
        return status;
    }
    *attender = opened;
    return PKV_OK;
}

void pkvi_attender_close(struct pkvi_attender* attender, struct pkvi_mem* mem) {
    if (attender == NULL) return;
    pkvi_mem_give(mem, attender->cuts);
    pkvi_mem_give(mem, attender->partials);
    pkvi_mem_give(mem, attender->floats);
    pkvi_mem_give(mem, attender->workspaces);
    pthread_mutex_destroy(&attender->lock);
    pkvi_mem_give(mem, attender);
}

/* ---- Cutting --------------------------------------------------------------------------------- */

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Rows and KV heads of one item of `entry`; at most `heads_max` KV heads. */
static void cut_rows(const struct pkvi_attend_job* job, uint32_t entry, uint32_t heads_max,
                     struct cut* cut) {
    const uint32_t kv_heads = job->layout->group.kv_heads;
    const uint32_t new_tokens = job->starts[entry + 1] - job->starts[entry];
    const uint32_t rows = new_tokens * (job->query_heads / kv_heads);
    *cut = (struct cut){.splits = 1};
    cut->rows = min_u32(rows, PKVI_ITEM_ROWS);
    cut->row_tiles = pkvi_ceil_div(rows, cut->rows);
    cut->kv_heads = min_u32(PKVI_ITEM_ROWS / cut->rows, heads_max);
    cut->head_tiles = pkvi_ceil_div(kv_heads, cut->kv_heads);
}

static uint32_t item_count(const struct cut* cut) {
    return cut->head_tiles * cut->row_tiles;
}

/* Cut items of an entry into their splits, if there is room for the partial states. */
static uint64_t cut_splits(const struct pkvi_attend_job* job, uint32_t entry, float* room,
                           uint64_t room_floats, struct cut* cut) {
    const uint32_t splits = pkvi_ceil_div(job->lengths[entry], PKVI_SPLIT_TOKENS);
    const uint64_t one =
        (uint64_t)cut->rows * cut->kv_heads * pkvi_state_floats(job->layout->group.value_dim);
    const uint64_t all = one * splits * item_count(cut);
    if (splits < 2) return 0;
    if (all > room_floats) return 0;
    cut->splits = splits;
    cut->partial_floats = one;
    cut->partials = room;
    return all;
}

/* Products of rows and tokens: what an item, or a whole call, costs. */
static uint64_t item_work(const struct pkvi_attend_job* job, uint32_t entry,
                          const struct cut* cut) {
    return (uint64_t)cut->rows * cut->kv_heads * job->lengths[entry];
}

static uint64_t job_work(const struct pkvi_attend_job* job) {
    uint64_t work = 0;
    for (uint32_t e = 0; e < job->entries; e++)
        work += (uint64_t)(job->starts[e + 1] - job->starts[e]) * job->lengths[e];
    return work * job->query_heads;
}

/* Cut every entry into items, and items that are too large for threads to share evenly into splits
 * or, where that is not possible, into fewer heads. `share` is how large an item may be. */
static void cut_job(struct pkvi_attender* attender, const struct pkvi_attend_job* job) {
    const uint32_t kv_heads = job->layout->group.kv_heads;
    const uint64_t share = job_work(job) / (attender->worker_count * PARTS_PER_WORKER);
    uint64_t used = 0;
    attender->parts = 0;
    for (uint32_t e = 0; e < job->entries; e++) {
        struct cut* cut = &attender->cuts[e];
        cut_rows(job, e, kv_heads, cut);
        if (attender->worker_count > 1 && item_work(job, e, cut) > share) {
            used += cut_splits(job, e, attender->partials + used, PARTIAL_FLOATS - used, cut);
            if (cut->splits == 1) cut_rows(job, e, pkvi_ceil_div(kv_heads, PARTS_PER_WORKER), cut);
        }
        cut->first_part = attender->parts;
        attender->parts += item_count(cut) * cut->splits;
    }
}

/* ---- Working --------------------------------------------------------------------------------- */

/* The entry that part number `part` belongs to. */
static uint32_t entry_of_part(const struct pkvi_attender* attender, uint32_t part) {
    uint32_t low = 0;
    uint32_t high = attender->job->entries;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (attender->cuts[middle].first_part <= part)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static struct pkvi_item make_item(const struct pkvi_attender* attender, uint32_t entry,
                                  uint32_t index) {
    const struct pkvi_attend_job* job = attender->job;
    const struct cut* cut = &attender->cuts[entry];
    const uint32_t kv_heads = job->layout->group.kv_heads;
    const uint32_t new_tokens = job->starts[entry + 1] - job->starts[entry];
    const uint32_t rows = new_tokens * (job->query_heads / kv_heads);
    const uint32_t kv_head = index / cut->row_tiles * cut->kv_heads;
    const uint32_t row = index % cut->row_tiles * cut->rows;
    return (struct pkvi_item){
        .entry = entry,
        .kv_head = kv_head,
        .kv_heads = min_u32(cut->kv_heads, kv_heads - kv_head),
        .row = row,
        .rows = min_u32(cut->rows, rows - row),
        .split_begin = 0,
        .split_end = pkvi_ceil_div(job->lengths[entry], PKVI_SPLIT_TOKENS),
    };
}

/* Partial states of an item are packed by its true size, which may be less than that of a full one.
 * */
static float* item_partials(const struct cut* cut, uint32_t index) {
    return cut->partials + (uint64_t)index * cut->splits * cut->partial_floats;
}

static void run_part(const struct pkvi_attender* attender, uint32_t part,
                     const struct pkvi_workspace* workspace) {
    const uint32_t entry = entry_of_part(attender, part);
    const struct cut* cut = &attender->cuts[entry];
    const uint32_t index = (part - cut->first_part) / cut->splits;
    const uint32_t split = (part - cut->first_part) % cut->splits;
    struct pkvi_item item = make_item(attender, entry, index);
    if (cut->splits > 1) {
        const uint64_t floats = (uint64_t)item.rows * item.kv_heads *
                                pkvi_state_floats(attender->job->layout->group.value_dim);
        item.split_begin = split;
        item.split_end = split + 1;
        item.partial = item_partials(cut, index) + split * floats;
    }
    attender->kernels->attend(attender->job, &item, workspace);
}

static void run_worker(void* arg, uint32_t index) {
    struct pkvi_attender* attender = arg;
    for (;;) {
        const uint32_t part =
            atomic_fetch_add_explicit(&attender->next_part, 1, memory_order_relaxed);
        if (part >= attender->parts) return;
        run_part(attender, part, &attender->workspaces[index]);
    }
}

static void merge_entry(struct pkvi_attender* attender, uint32_t entry) {
    const struct cut* cut = &attender->cuts[entry];
    for (uint32_t index = 0; cut->splits > 1 && index < item_count(cut); index++) {
        struct pkvi_item item = make_item(attender, entry, index);
        item.partial = item_partials(cut, index);
        attender->kernels->merge(attender->job, &item, cut->splits, &attender->workspaces[0]);
    }
}

/* ---- The call -------------------------------------------------------------------------------- */

static bool head_is_finite(const pkv_array* array, uint64_t first, uint32_t dim) {
    uint32_t worst = 0;
    if (array->dtype == PKV_F32) {
        const uint32_t* bits = (const uint32_t*)array->data + first;
        for (uint32_t d = 0; d < dim; d++)
            worst |= (bits[d] & 0x7f800000) == 0x7f800000;
    } else {
        const uint16_t exponent = array->dtype == PKV_F16 ? 0x7c00 : 0x7f80;
        const uint16_t* bits = (const uint16_t*)array->data + first;
        for (uint32_t d = 0; d < dim; d++)
            worst |= (bits[d] & exponent) == exponent;
    }
    return worst == 0;
}

static bool queries_are_finite(const struct pkvi_attend_job* job) {
    for (uint32_t row = 0; row < job->starts[job->entries]; row++)
        for (uint32_t head = 0; head < job->query_heads; head++) {
            const uint64_t first = row * job->q.row_stride + head * job->q.head_stride;
            if (!head_is_finite(&job->q, first, job->layout->group.key_dim)) return false;
        }
    return true;
}

static bool sinks_are_finite(const struct pkvi_attend_job* job) {
    const pkv_array sinks = {.data = (void*)(uintptr_t)job->sink_logits, .dtype = PKV_F32};
    return sinks.data == NULL || head_is_finite(&sinks, 0, job->query_heads);
}

int pkvi_attender_run(struct pkvi_attender* attender, const struct pkvi_attend_job* job) {
    if (!queries_are_finite(job) || !sinks_are_finite(job)) return PKV_ENONFINITE;
    pthread_mutex_lock(&attender->lock);
    attender->job = job;
    cut_job(attender, job);
    atomic_store_explicit(&attender->next_part, 0, memory_order_relaxed);
    pkvi_threads_run(attender->threads, min_u32(attender->worker_count, attender->parts),
                     run_worker, attender);
    for (uint32_t e = 0; e < job->entries; e++)
        merge_entry(attender, e);
    pthread_mutex_unlock(&attender->lock);
    return PKV_OK;
}
