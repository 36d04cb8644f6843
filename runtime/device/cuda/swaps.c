/* swaps.c - see swaps.h. */
#include "device/cuda/swaps.h"

#include <string.h>

enum {
    GROUP_BYTES = 512 << 10,      /* of a block, that a copy engine likes to have in one piece */
    GROUPS_DEFAULT_MAX = 8,       /* but not so few that nothing overlaps */
    ENGINE_BYTES_MIN = 256 << 10, /* pieces from here on go by the copy engines, unmeasured */
    TRIAL_PIECES = 32,
    TRIALS = 3,
};

/* ---- Steps ----------------------------------------------------------------------------------- */

static void mark(struct pkvi_gpu_swaps* swaps, uint32_t block) {
    swaps->is_used = true;
    swaps->last_step[block] = swaps->step;
    if (swaps->arriving[block] != 0) swaps->arrivals |= 1ULL << (swaps->arriving[block] - 1);
}

static void mark_row(struct pkvi_gpu_swaps* swaps, const uint32_t* row, uint32_t length) {
    for (uint32_t page = 0; page * swaps->block_tokens < length; page++)
        if (row[page] != PKV_NO_BLOCK) mark(swaps, row[page]);
}

static void mark_table(struct pkvi_gpu_swaps* swaps, const struct pkvi_attend_job* job) {
    for (uint32_t e = 0; e < job->entries; e++)
        mark_row(swaps, job->block_table + (size_t)e * job->table_stride, job->lengths[e]);
}

/* End the present step, so that there is an event for it. The graph of the plan that is loaded may be
 * launched at any time until the next one is: its blocks are used in every step until then. */
static int close_step(struct pkvi_gpu_swaps* swaps, struct pkvi_gpu_stream* stream) {
    if (swaps->is_used) {
        PKVI_TRY(pkvi_gpu_event_record(swaps->steps[swaps->step % PKVI_GPU_STEPS], stream));
        swaps->step++;
    }
    swaps->is_used = false;
    swaps->has_slots = false;
    swaps->has_table = false;
    mark_table(swaps, &swaps->loaded);
    swaps->arrivals = 0;
    return PKV_OK;
}

static int enter_step(struct pkvi_gpu_swaps* swaps, uint64_t plan, struct pkvi_gpu_stream* stream) {
    if (plan != swaps->plan) PKVI_TRY(close_step(swaps, stream));
    swaps->plan = plan;
    if (plan == 0) swaps->arrivals = 0;
    return PKV_OK;
}

/* Let the stream wait for what arrives of `layer`. Groups arrive in order. */
static int await_layer(struct pkvi_gpu_swaps* swaps, uint32_t layer,
                       struct pkvi_gpu_stream* stream) {
    const uint32_t group = layer / swaps->group_layers;
    for (uint32_t i = 0; swaps->arrivals >> i != 0 && i < swaps->count; i++) {
        struct pkvi_gpu_swap* swap = &swaps->swaps[i];
        if ((swaps->arrivals >> i & 1) == 0) continue;
        if (!swap->is_open || !swap->is_in || group < swap->ordered) continue;
        PKVI_TRY(pkvi_gpu_event_order(swap->groups[group], stream));
        swap->ordered = group + 1;
    }
    return PKV_OK;
}

int pkvi_gpu_swaps_use_slots(struct pkvi_gpu_swaps* swaps, const struct pkvi_kv_job* job,
                             struct pkvi_gpu_stream* stream) {
    if (swaps->count == 0) return PKV_OK;
    PKVI_TRY(enter_step(swaps, job->plan, stream));
    if (job->plan == 0 || !swaps->has_slots)
        for (uint32_t i = 0; i < job->tokens; i++)
            mark(swaps, job->slots[i] / swaps->block_tokens);
    swaps->has_slots = true;
    return await_layer(swaps, job->layer, stream);
}

int pkvi_gpu_swaps_use_table(struct pkvi_gpu_swaps* swaps, const struct pkvi_attend_job* job,
                             struct pkvi_gpu_stream* stream) {
    if (swaps->count == 0) return PKV_OK;
    PKVI_TRY(enter_step(swaps, job->plan, stream));
    if (job->plan == 0 || !swaps->has_table) mark_table(swaps, job);
    swaps->has_table = true;
    return await_layer(swaps, job->layer, stream);
}

int pkvi_gpu_swaps_use_loaded(struct pkvi_gpu_swaps* swaps, const struct pkvi_attend_job* job,
                              struct pkvi_gpu_stream* stream) {
    if (swaps->count == 0) return PKV_OK;
    swaps->loaded.entries = 0; /* its graph stands in the stream, before this */
    PKVI_TRY(enter_step(swaps, job->plan, stream));
    mark_table(swaps, job);
    swaps->loaded = *job;
    return await_layer(swaps, job->layout->group.layers - 1, stream);
}

void pkvi_gpu_swaps_use_block(struct pkvi_gpu_swaps* swaps, const void* address) {
    if (swaps->count == 0 || swaps->base == NULL) return;
    const ptrdiff_t offset = (const unsigned char*)address - swaps->base;
    const uint64_t block = (uint64_t)offset / swaps->block_bytes;
    if (offset >= 0 && block < swaps->block_count) mark(swaps, (uint32_t)block);
}

/* ---- Copies ---------------------------------------------------------------------------------- */

static uint32_t group_count_of(const struct pkvi_gpu_swaps* swaps, bool is_in) {
    return is_in ? swaps->group_count : 1;
}

/* What group `group` of a transfer moves of each block. */
static uint64_t group_begin(const struct pkvi_gpu_swaps* swaps, uint32_t group) {
    return group * swaps->group_bytes;
}

static uint64_t group_size(const struct pkvi_gpu_swaps* swaps, uint32_t group, bool is_in) {
    const uint64_t rest = swaps->block_bytes - group_begin(swaps, group);
    return is_in && rest > swaps->group_bytes ? swaps->group_bytes : rest;
}

static struct pkvi_gpu_copy_pair pair_of(const struct pkvi_transfer_job* job, uint32_t i,
                                         uint64_t offset) {
    unsigned char* block = pkvi_space_block(job->space, job->blocks[i]) + offset;
    unsigned char* slot = pkvi_transfer_host(job, i) + offset;
    return (struct pkvi_gpu_copy_pair){job->is_in ? block : slot, job->is_in ? slot : block};
}

static int copy_group(struct pkvi_gpu_swaps* swaps, const struct pkvi_transfer_job* job,
                      uint32_t group, struct pkvi_gpu_stream* stream) {
    for (uint32_t i = 0; i < job->count; i++) {
        const struct pkvi_gpu_copy_pair pair = pair_of(job, i, group_begin(swaps, group));
        swaps->to[i] = pair.to;
        swaps->from[i] = pair.from;
    }
    return pkvi_gpu_copy_batch(swaps->to, swaps->from, job->count,
                               group_size(swaps, group, job->is_in), stream);
}

/* Tell the kernel about the pieces of all groups. */
static int send_pairs(struct pkvi_gpu_swaps* swaps, const struct pkvi_transfer_job* job,
                      struct pkvi_gpu_stream* stream) {
    const struct pkvi_gpu_swap* swap = &swaps->swaps[job->index];
    const uint32_t groups = group_count_of(swaps, job->is_in);
    struct pkvi_gpu_copy_pair* pair = swap->staging;
    for (uint32_t group = 0; group < groups; group++)
        for (uint32_t i = 0; i < job->count; i++)
            *pair++ = pair_of(job, i, group_begin(swaps, group));
    const uint64_t bytes = (uint64_t)groups * job->count * sizeof *pair;
    return pkvi_gpu_copy(swap->pairs, swap->staging, bytes, stream);
}

static int copy_groups(struct pkvi_gpu_swaps* swaps, const struct pkvi_transfer_job* job,
                       struct pkvi_gpu_stream* stream) {
    const struct pkvi_gpu_swap* swap = &swaps->swaps[job->index];
    const bool gathers = job->is_in ? swaps->gathers_in : swaps->gathers_out;
    if (gathers) PKVI_TRY(send_pairs(swaps, job, stream));
    for (uint32_t group = 0; group < group_count_of(swaps, job->is_in); group++) {
        if (gathers)
            PKVI_TRY(pkvi_gpu_launch_gather(swap->pairs + (size_t)group * job->count, job->count,
                                            group_size(swaps, group, job->is_in), stream));
        else
            PKVI_TRY(copy_group(swaps, job, group, stream));
        PKVI_TRY(pkvi_gpu_event_record(swap->groups[group], stream));
    }
    return PKV_OK;
}

/* ---- Transfers ------------------------------------------------------------------------------- */

/* Let the copies wait for the last step that used one of their blocks. */
static int await_steps(struct pkvi_gpu_swaps* swaps, const struct pkvi_transfer_job* job,
                       struct pkvi_gpu_stream* stream, struct pkvi_gpu_stream* copies) {
    uint64_t last = 0;
    for (uint32_t i = 0; i < job->count; i++)
        if (swaps->last_step[job->blocks[i]] > last) last = swaps->last_step[job->blocks[i]];
    if (last == 0) return PKV_OK; /* never used */
    if (last == swaps->step) PKVI_TRY(close_step(swaps, stream));
    /* The ring has forgotten earlier ends; the oldest that it has comes after them. */
    if (last + PKVI_GPU_STEPS < swaps->step) last = swaps->step - PKVI_GPU_STEPS;
    return pkvi_gpu_event_order(swaps->steps[last % PKVI_GPU_STEPS], copies);
}

static void open_swap(struct pkvi_gpu_swaps* swaps, const struct pkvi_transfer_job* job) {
    struct pkvi_gpu_swap* swap = &swaps->swaps[job->index];
    swap->is_open = true;
    swap->is_in = job->is_in;
    swap->fate.is_known = false;
    swap->count = job->count;
    swap->ordered = 0;
    swap->first_to = pair_of(job, 0, 0).to;
    memcpy(swap->blocks, job->blocks, job->count * sizeof *job->blocks);
    for (uint32_t i = 0; job->is_in && i < job->count; i++)
        swaps->arriving[job->blocks[i]] = (uint8_t)(job->index + 1);
}

int pkvi_gpu_swaps_start(struct pkvi_gpu_swaps* swaps, const struct pkvi_transfer_job* job,
                         struct pkvi_gpu_stream* stream) {
    struct pkvi_gpu_stream* copies = job->is_in ? swaps->in : swaps->out;
    PKVI_TRY(await_steps(swaps, job, stream, copies));
    const int status = copy_groups(swaps, job, copies);
    if (status == PKV_OK)
        open_swap(swaps, job);
    else
        pkvi_gpu_stream_wait(copies); /* some copies may have been begun */
    return status;
}

struct pkvi_gpu_event* pkvi_gpu_swap_last(const struct pkvi_gpu_swaps* swaps, uint32_t index) {
    const struct pkvi_gpu_swap* swap = &swaps->swaps[index];
    return swap->groups[group_count_of(swaps, swap->is_in) - 1];
}

void pkvi_gpu_swaps_end(struct pkvi_gpu_swaps* swaps, uint32_t index) {
    struct pkvi_gpu_swap* swap = &swaps->swaps[index];
    swap->is_open = false;
    for (uint32_t i = 0; swap->is_in && i < swap->count; i++)
        swaps->arriving[swap->blocks[i]] = 0;
}

/* ---- Which way is faster --------------------------------------------------------------------- */

/* Memory on both sides for a trial, and the list of its pieces. */
struct trial {
    unsigned char* there;
    unsigned char* here;
    struct pkvi_gpu_copy_pair* staging;
    struct pkvi_gpu_copy_pair* pairs;
    uint64_t bytes; /* of a piece */
    struct pkvi_gpu_stream* stream;
};

static void close_trial(struct trial* trial) {
    if (trial->pairs != NULL) pkvi_gpu_free(trial->pairs);
    if (trial->staging != NULL) pkvi_gpu_free_pinned(trial->staging);
    if (trial->here != NULL) pkvi_gpu_free_pinned(trial->here);
    if (trial->there != NULL) pkvi_gpu_free(trial->there);
}

static int open_trial(struct trial* trial, bool is_in) {
    const uint64_t list_bytes = TRIAL_PIECES * sizeof *trial->pairs;
    PKVI_TRY(pkvi_gpu_alloc(TRIAL_PIECES * trial->bytes, (void**)&trial->there));
    PKVI_TRY(pkvi_gpu_alloc_pinned(TRIAL_PIECES * trial->bytes, (void**)&trial->here));
    PKVI_TRY(pkvi_gpu_alloc_pinned(list_bytes, (void**)&trial->staging));
    PKVI_TRY(pkvi_gpu_alloc(list_bytes, (void**)&trial->pairs));
    PKVI_TRY(pkvi_gpu_zero(trial->there, TRIAL_PIECES * trial->bytes, trial->stream));
    memset(trial->here, 0, TRIAL_PIECES * trial->bytes);
    for (uint32_t i = 0; i < TRIAL_PIECES; i++) {
        unsigned char* there = trial->there + i * trial->bytes;
        unsigned char* here = trial->here + i * trial->bytes;
        trial->staging[i] = (struct pkvi_gpu_copy_pair){is_in ? there : here, is_in ? here : there};
    }
    return PKV_OK;
}

static int copy_trial(const struct trial* trial, bool gathers) {
    void* to[TRIAL_PIECES];
    const void* from[TRIAL_PIECES];
    if (gathers) {
        PKVI_TRY(pkvi_gpu_copy(trial->pairs, trial->staging, TRIAL_PIECES * sizeof *trial->pairs,
                               trial->stream));
        return pkvi_gpu_launch_gather(trial->pairs, TRIAL_PIECES, trial->bytes, trial->stream);
    }
    for (uint32_t i = 0; i < TRIAL_PIECES; i++) {
        to[i] = trial->staging[i].to;
        from[i] = trial->staging[i].from;
    }
    return pkvi_gpu_copy_batch(to, from, TRIAL_PIECES, trial->bytes, trial->stream);
}

/* The best of a few, the first one not counted. */
static int time_trial(const struct trial* trial, bool gathers, uint64_t* best_ns) {
    *best_ns = UINT64_MAX;
    for (uint32_t i = 0; i <= TRIALS; i++) {
        PKVI_TRY(pkvi_gpu_stream_wait(trial->stream));
        const uint64_t start_ns = pkvi_gpu_clock_ns();
        PKVI_TRY(copy_trial(trial, gathers));
        PKVI_TRY(pkvi_gpu_stream_wait(trial->stream));
        const uint64_t ns = pkvi_gpu_clock_ns() - start_ns;
        if (i > 0 && ns < *best_ns) *best_ns = ns;
    }
    return PKV_OK;
}

static int run_trial(const struct trial* trial, bool* gathers) {
    uint64_t engine_ns;
    uint64_t kernel_ns;
    PKVI_TRY(time_trial(trial, false, &engine_ns));
    PKVI_TRY(time_trial(trial, true, &kernel_ns));
    *gathers = kernel_ns < engine_ns;
    return PKV_OK;
}

static int choose_way(const struct pkvi_gpu_swaps* swaps, bool is_in, bool* gathers) {
    struct trial trial = {.bytes = is_in ? swaps->group_bytes : swaps->block_bytes,
                          .stream = is_in ? swaps->in : swaps->out};
    *gathers = false;
    if (trial.bytes >= ENGINE_BYTES_MIN) return PKV_OK;
    int status = open_trial(&trial, is_in);
    if (status == PKV_OK) status = run_trial(&trial, gathers);
    close_trial(&trial);
    return status;
}

/* ---- Open and close -------------------------------------------------------------------------- */

/* So many layers that their part of a block is a good piece, but no more than leaves a few groups. */
static uint32_t choose_layers(const struct pkvi_device_config* config) {
    const uint64_t layers = config->layout.group.layers;
    const uint64_t for_bytes =
        (GROUP_BYTES + config->layout.layer_bytes - 1) / config->layout.layer_bytes;
    const uint64_t for_count = (layers + GROUPS_DEFAULT_MAX - 1) / GROUPS_DEFAULT_MAX;
    const uint64_t chosen = for_bytes > for_count ? for_bytes : for_count;
    if (config->swap_layers > 0) return config->swap_layers;
    return (uint32_t)(chosen < layers ? chosen : layers);
}

static void set_up(struct pkvi_gpu_swaps* swaps, const struct pkvi_device_config* config) {
    *swaps = (struct pkvi_gpu_swaps){
        .mem = config->mem,
        .pairs_max = config->transfer_pairs_max,
        .group_layers = choose_layers(config),
        .step = 1,
        .block_bytes = config->layout.block_bytes,
        .block_count = config->blocks,
        .block_tokens = config->layout.group.block_tokens,
    };
    swaps->group_count = (config->layout.group.layers - 1) / swaps->group_layers + 1;
    swaps->group_bytes = swaps->group_layers * config->layout.layer_bytes;
}

static int open_one(struct pkvi_gpu_swaps* swaps, struct pkvi_gpu_swap* swap) {
    const uint32_t groups = swaps->group_count;
    const uint64_t pairs = (uint64_t)groups * swaps->pairs_max;
    const uint64_t bytes = pairs * sizeof *swap->pairs;
    PKVI_TRY(
        pkvi_mem_take(swaps->mem, swaps->pairs_max, sizeof *swap->blocks, (void**)&swap->blocks));
    PKVI_TRY(pkvi_mem_take(swaps->mem, groups, sizeof *swap->groups, (void**)&swap->groups));
    for (uint32_t i = 0; i < groups; i++)
        PKVI_TRY(pkvi_gpu_event_open(&swap->groups[i]));
    if (!swaps->gathers_in && !swaps->gathers_out) return PKV_OK;
    PKVI_TRY(pkvi_gpu_alloc_pinned(bytes, (void**)&swap->staging));
    return pkvi_gpu_alloc(bytes, (void**)&swap->pairs);
}

static int open_books(struct pkvi_gpu_swaps* swaps) {
    const uint32_t pairs = swaps->pairs_max;
    PKVI_TRY(pkvi_mem_take(swaps->mem, pairs, sizeof *swaps->to, (void**)&swaps->to));
    PKVI_TRY(pkvi_mem_take(swaps->mem, pairs, sizeof *swaps->from, (void**)&swaps->from));
    PKVI_TRY(pkvi_mem_take(swaps->mem, swaps->block_count, sizeof *swaps->last_step,
                           (void**)&swaps->last_step));
    PKVI_TRY(pkvi_mem_take(swaps->mem, swaps->block_count, sizeof *swaps->arriving,
                           (void**)&swaps->arriving));
    for (uint32_t i = 0; i < PKVI_GPU_STEPS; i++)
        PKVI_TRY(pkvi_gpu_event_open(&swaps->steps[i]));
    return PKV_OK;
}

int pkvi_gpu_swaps_open(struct pkvi_gpu_swaps* swaps, const struct pkvi_device_config* config) {
    set_up(swaps, config);
    if (config->transfers_max == 0) return PKV_OK;
    PKVI_TRY(pkvi_gpu_stream_open(&swaps->in));
    PKVI_TRY(pkvi_gpu_stream_open(&swaps->out));
    PKVI_TRY(choose_way(swaps, true, &swaps->gathers_in));
    PKVI_TRY(choose_way(swaps, false, &swaps->gathers_out));
    PKVI_TRY(open_books(swaps));
    PKVI_TRY(pkvi_mem_take(swaps->mem, config->transfers_max, sizeof *swaps->swaps,
                           (void**)&swaps->swaps));
    swaps->count = config->transfers_max;
    for (uint32_t i = 0; i < swaps->count; i++)
        PKVI_TRY(open_one(swaps, &swaps->swaps[i]));
    return PKV_OK;
}

static void close_one(struct pkvi_gpu_swaps* swaps, struct pkvi_gpu_swap* swap) {
    if (swap->pairs != NULL) pkvi_gpu_free(swap->pairs);
    if (swap->staging != NULL) pkvi_gpu_free_pinned(swap->staging);
    for (uint32_t i = 0; swap->groups != NULL && i < swaps->group_count; i++)
        if (swap->groups[i] != NULL) pkvi_gpu_event_close(swap->groups[i]);
    pkvi_mem_give(swaps->mem, swap->groups);
    pkvi_mem_give(swaps->mem, swap->blocks);
}

void pkvi_gpu_swaps_close(struct pkvi_gpu_swaps* swaps) {
    if (swaps->mem == NULL) return; /* never opened */
    for (uint32_t i = 0; i < swaps->count; i++)
        close_one(swaps, &swaps->swaps[i]);
    pkvi_mem_give(swaps->mem, swaps->swaps);
    for (uint32_t i = 0; i < PKVI_GPU_STEPS; i++)
        if (swaps->steps[i] != NULL) pkvi_gpu_event_close(swaps->steps[i]);
    pkvi_mem_give(swaps->mem, swaps->arriving);
    pkvi_mem_give(swaps->mem, swaps->last_step);
    pkvi_mem_give(swaps->mem, swaps->from);
    pkvi_mem_give(swaps->mem, swaps->to);
    if (swaps->out != NULL) pkvi_gpu_stream_close(swaps->out);
    if (swaps->in != NULL) pkvi_gpu_stream_close(swaps->in);
}
