/* problem.c - see problem.h. Launches are those of the library: the same cut of the work, one
 * thread block an item, partial results in as much memory. */
#include "gpu/problem.h"

#include "base/hash.h"
#include "device/cpu/element.h"
#include "device/cuda/arguments.h"
#include "device/cuda/split.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_TOKENS = 16,
    CHUNK_TOKENS = 1 << 16, /* written at a time */
    MEMORY_SHARE = 60,      /* percent of the memory that is free */
};

/* Tables of one batch; arrays in host memory, and what is sent of them in device memory. */
struct tables {
    uint32_t entries;
    uint32_t tokens;
    uint32_t stride;
    uint32_t* starts;
    uint32_t* lengths;
    uint32_t* blocks; /* [entries][stride] */
    struct pkvi_gpu_work work;
};

struct problem {
    struct problem_shape shape;
    struct pkvi_layout layout;
    struct tables host;
    struct pkvi_gpu_attend call;
    const uint32_t* counts; /* [rounds + 1] */
    struct pkvi_gpu_item* decode;
    struct pkvi_gpu_item* prefill;
    uint32_t blocks;
    uint32_t layers;
    void* memory[32]; /* all that is to be freed */
    uint32_t memory_count;
};

void must(int status, const char* call) {
    if (status == PKV_OK) return;
    fprintf(stderr, "%s: %s\n", call, pkv_status_message(status));
    exit(1);
}

static void* take_host(size_t count, size_t size) {
    void* memory = calloc(count + 1, size);
    must(memory == NULL ? PKV_ENOMEM : PKV_OK, "calloc");
    return memory;
}

void copy_in(void* to, const void* from, uint64_t bytes, struct pkvi_gpu_stream* stream) {
    void* pinned;
    if (bytes == 0) return;
    MUST(pkvi_gpu_alloc_pinned(bytes, &pinned));
    memcpy(pinned, from, bytes);
    MUST(pkvi_gpu_copy(to, pinned, bytes, stream));
    MUST(pkvi_gpu_stream_wait(stream));
    pkvi_gpu_free_pinned(pinned);
}

void copy_out(void* to, const void* from, uint64_t bytes, struct pkvi_gpu_stream* stream) {
    void* pinned;
    MUST(pkvi_gpu_alloc_pinned(bytes, &pinned));
    MUST(pkvi_gpu_copy(pinned, from, bytes, stream));
    MUST(pkvi_gpu_stream_wait(stream));
    memcpy(to, pinned, bytes);
    pkvi_gpu_free_pinned(pinned);
}

static void* take(struct problem* problem, uint64_t bytes) {
    void* memory;
    MUST(pkvi_gpu_alloc(bytes < 16 ? 16 : bytes, &memory));
    problem->memory[problem->memory_count++] = memory;
    return memory;
}

static void* send(struct problem* problem, const void* from, uint64_t bytes,
                  struct pkvi_gpu_stream* stream) {
    void* to = take(problem, bytes);
    copy_in(to, from, bytes, stream);
    return to;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void lay_out_entries(const struct problem_shape* shape, struct tables* tables) {
    tables->entries = shape->entries[0].count + shape->entries[1].count;
    tables->starts = take_host(tables->entries + 1, sizeof(uint32_t));
    tables->lengths = take_host(tables->entries, sizeof(uint32_t));
    for (uint32_t e = 0; e < tables->entries; e++) {
        const struct entries* kind = &shape->entries[e >= shape->entries[0].count];
        tables->lengths[e] = kind->length;
        tables->starts[e + 1] = tables->starts[e] + kind->fresh;
        if (kind->length > tables->stride * BLOCK_TOKENS)
            tables->stride = (kind->length + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    }
    tables->tokens = tables->starts[tables->entries];
}

/* Every page gets a block of its own, in random order; returns how many there are. */
static uint32_t place_blocks(struct tables* tables) {
    uint64_t random = 1;
    uint32_t count = 0;
    tables->blocks = take_host((size_t)tables->entries * tables->stride, sizeof(uint32_t));
    uint32_t* order = take_host((size_t)tables->entries * tables->stride, sizeof(uint32_t));
    for (uint32_t e = 0; e < tables->entries; e++)
        count += (tables->lengths[e] + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t other = (uint32_t)(pkvi_random_next(&random) % (i + 1));
        order[i] = order[other];
        order[other] = i;
    }
    uint32_t used = 0;
    for (uint32_t e = 0; e < tables->entries; e++)
        for (uint32_t page = 0; page * BLOCK_TOKENS < tables->lengths[e]; page++)
            tables->blocks[e * tables->stride + page] = order[used++];
    free(order);
    return count;
}

static void cut_work(const struct problem_shape* shape, struct tables* tables) {
    const uint32_t group_heads = shape->query_heads / shape->kv_heads;
    const struct pkvi_gpu_bounds bounds =
        pkvi_gpu_bounds_of(tables->entries, tables->tokens, tables->stride * BLOCK_TOKENS,
                           shape->kv_heads, group_heads);
    const struct pkvi_gpu_shape cut = {.entries = tables->entries,
                                       .starts = tables->starts,
                                       .lengths = tables->lengths,
                                       .kv_heads = shape->kv_heads,
                                       .group_heads = group_heads};
    tables->work = (struct pkvi_gpu_work){
        .decode = take_host(bounds.decode_items, sizeof(struct pkvi_gpu_item)),
        .prefill = take_host(bounds.prefill_items, sizeof(struct pkvi_gpu_item)),
        .round_ends = take_host(tables->entries, sizeof(uint32_t)),
        .partial_rows = pkvi_gpu_partial_rows(&bounds, tables->entries, shape->dim),
    };
    pkvi_gpu_split(&cut, &tables->work);
}

/* ---- The pool -------------------------------------------------------------------------------- */

/* A layer of a pool whose blocks hold all layers, or of one that holds all blocks of a layer
 * together. */
static struct pkvi_gpu_blocks blocks_of(const struct problem* problem, unsigned char* pool,
                                        uint32_t layer) {
    const bool is_layer_major = problem->shape.is_layer_major;
    const uint64_t slab_bytes = problem->layout.layer_bytes;
    const uint64_t block_bytes = slab_bytes * (is_layer_major ? 1 : problem->layers);
    const struct pkvi_space space = {
        .base = pool + (is_layer_major ? layer * problem->blocks * slab_bytes : 0),
        .extent_bytes = problem->blocks * block_bytes,
        .block_bytes = block_bytes,
        .blocks_per_extent = problem->blocks,
    };
    return pkvi_gpu_blocks_of(&problem->layout, &space, is_layer_major ? 0 : layer);
}

/* Slots of tokens first .. first + count of all tokens of all entries, one after the other. */
static uint32_t list_slots(const struct tables* tables, uint64_t first, uint32_t most,
                           uint32_t* slots) {
    uint64_t token = 0;
    uint32_t count = 0;
    for (uint32_t e = 0; e < tables->entries; token += tables->lengths[e++])
        for (uint32_t p = 0; p < tables->lengths[e] && count < most; p++)
            if (token + p >= first)
                slots[count++] =
                    tables->blocks[e * tables->stride + p / BLOCK_TOKENS] * BLOCK_TOKENS +
                    p % BLOCK_TOKENS;
    return count;
}

/* Random K and V through the kernel that writes them: stored numbers and scales are real ones. */
static void fill_pool(struct problem* problem, unsigned char* pool,
                      struct pkvi_gpu_stream* stream) {
    const uint64_t row = (uint64_t)problem->shape.kv_heads * problem->shape.dim;
    uint32_t* slots = take_host(CHUNK_TOKENS, sizeof *slots);
    uint32_t most = 0; /* tokens of the largest chunk */
    for (uint32_t e = 0; e < problem->host.entries && most < CHUNK_TOKENS; e++)
        most += problem->host.lengths[e];
    if (most > CHUNK_TOKENS) most = CHUNK_TOKENS;
    void* k;
    void* v;
    void* on_device;
    MUST(pkvi_gpu_alloc(most * row * 2, &k));
    MUST(pkvi_gpu_alloc(most * row * 2, &v));
    MUST(pkvi_gpu_alloc(most * sizeof *slots, &on_device));
    uint64_t first = 0;
    for (uint32_t count; (count = list_slots(&problem->host, first, most, slots)) > 0;
         first += count) {
        machine_fill(k, count * row, 2 * first + 1, stream);
        machine_fill(v, count * row, 2 * first + 2, stream);
        copy_in(on_device, slots, count * sizeof *slots, stream);
        for (uint32_t layer = 0; layer < problem->layers; layer++) {
            const struct pkvi_gpu_kv job = {
                .blocks = blocks_of(problem, pool, layer),
                .k = {k, row, problem->shape.dim, PKV_BF16},
                .v = {v, row, problem->shape.dim, PKV_BF16},
                .slots = on_device,
                .tokens = count,
            };
            MUST(pkvi_gpu_launch_write(&job, stream));
        }
        MUST(pkvi_gpu_stream_wait(stream));
    }
    pkvi_gpu_free(k);
    pkvi_gpu_free(v);
    pkvi_gpu_free(on_device);
    free(slots);
}

/* ---- Open and close -------------------------------------------------------------------------- */

static uint32_t choose_layers(const struct problem* problem, const struct machine* machine) {
    const uint64_t layer_bytes = problem->blocks * problem->layout.layer_bytes;
    const uint64_t room = machine->memory_free / 100 * MEMORY_SHARE / layer_bytes;
    uint64_t wanted = (problem->shape.set_bytes + layer_bytes - 1) / layer_bytes;
    if (wanted < problem->shape.layers) wanted = problem->shape.layers;
    if (room == 0) must(PKV_ENOMEM, "the memory of one layer");
    return (uint32_t)(room < wanted ? room : wanted);
}

static void prepare_call(struct problem* problem, unsigned char* pool,
                         struct pkvi_gpu_stream* stream) {
    const struct problem_shape* shape = &problem->shape;
    const struct tables* host = &problem->host;
    const struct pkvi_gpu_work* work = &host->work;
    const uint64_t row = (uint64_t)shape->query_heads * shape->dim;
    uint32_t* counts = take_host(work->rounds + 1, sizeof *counts);
    for (uint32_t r = 0; r < work->rounds; r++)
        counts[r] = work->round_ends[r] - (r > 0 ? work->round_ends[r - 1] : 0);
    counts[work->rounds] = work->prefill_count;
    problem->counts = send(problem, counts, (work->rounds + 1) * sizeof *counts, stream);
    free(counts);
    problem->decode =
        send(problem, work->decode, work->decode_count * sizeof *work->decode, stream);
    problem->prefill =
        send(problem, work->prefill, work->prefill_count * sizeof *work->prefill, stream);
    problem->call = (struct pkvi_gpu_attend){
        .blocks = blocks_of(problem, pool, 0),
        .q = {take(problem, host->tokens * row * 2), row, shape->dim, PKV_BF16},
        .out = {take(problem, host->tokens * row * 2), row, shape->dim, PKV_BF16},
        .starts = send(problem, host->starts, (host->entries + 1) * sizeof(uint32_t), stream),
        .lengths = send(problem, host->lengths, host->entries * sizeof(uint32_t), stream),
        .block_table = send(problem, host->blocks,
                            (uint64_t)host->entries * host->stride * sizeof(uint32_t), stream),
        .table_stride = host->stride,
        .query_heads = shape->query_heads,
        .group_heads = shape->query_heads / shape->kv_heads,
        .scale = 1.0F / sqrtf((float)shape->dim),
        .partials = take(problem, (uint64_t)work->partial_rows * (shape->dim + 2) * sizeof(float)),
        .merges = take(problem, (work->merges + 1) * sizeof(uint32_t)),
    };
    MUST(pkvi_gpu_zero(problem->call.merges, (work->merges + 1) * sizeof(uint32_t), stream));
    machine_fill(problem->call.q.data, host->tokens * row, 99, stream);
}

struct problem* problem_open(const struct problem_shape* shape, const struct machine* machine,
                             struct pkvi_gpu_stream* stream) {
    struct problem* problem = take_host(1, sizeof *problem);
    const pkv_group_config group = {
        .layers = 1,
        .kv_heads = shape->kv_heads,
        .key_dim = shape->dim,
        .value_dim = shape->dim,
        .k_dtype = shape->dtype,
        .v_dtype = shape->dtype,
        .block_tokens = BLOCK_TOKENS,
    };
    const struct pkvi_gpu_types cache = {shape->dim, shape->dtype, shape->dtype};
    MUST(pkvi_gpu_prepare(cache, pkvi_gpu_shared_bytes(cache, false)));
    problem->shape = *shape;
    if (!pkvi_layout_init(&problem->layout, &group)) must(PKV_ETOOBIG, "pkvi_layout_init");
    lay_out_entries(shape, &problem->host);
    problem->blocks = place_blocks(&problem->host);
    cut_work(shape, &problem->host);
    problem->layers = choose_layers(problem, machine);
    unsigned char* pool =
        take(problem, problem->blocks * problem->layout.layer_bytes * problem->layers);
    prepare_call(problem, pool, stream);
    fill_pool(problem, pool, stream);
    return problem;
}

void problem_close(struct problem* problem) {
    for (uint32_t i = 0; i < problem->memory_count; i++)
        pkvi_gpu_free(problem->memory[i]);
    free(problem->host.starts);
    free(problem->host.lengths);
    free(problem->host.blocks);
    free(problem->host.work.decode);
    free(problem->host.work.prefill);
    free(problem->host.work.round_ends);
    free(problem);
}

/* ---- What there is to know ------------------------------------------------------------------- */

uint32_t problem_layers(const struct problem* problem) {
    return problem->layers;
}

const void* problem_pool(const struct problem* problem, uint64_t* bytes) {
    *bytes = problem->blocks * problem->layout.layer_bytes * problem->layers;
    return problem->memory[0];
}

uint64_t problem_bytes(const struct problem* problem) {
    uint64_t tokens = 0;
    for (uint32_t e = 0; e < problem->host.entries; e++)
        tokens += problem->host.lengths[e];
    return tokens * problem->layout.layer_bytes / BLOCK_TOKENS;
}

/* Two products of query heads x dim for each token that a row sees. */
double problem_operations(const struct problem* problem) {
    double seen = 0.0;
    for (uint32_t e = 0; e < problem->host.entries; e++) {
        const double length = problem->host.lengths[e];
        const double fresh = problem->host.starts[e + 1] - problem->host.starts[e];
        seen += fresh * (length - fresh) + fresh * (fresh + 1.0) / 2.0;
    }
    return 4.0 * seen * problem->shape.query_heads * problem->shape.dim;
}

/* ---- Attention ------------------------------------------------------------------------------- */

static void attend_layer(struct problem* problem, uint32_t layer, struct pkvi_gpu_stream* stream) {
    const struct pkvi_gpu_work* work = &problem->host.work;
    struct pkvi_gpu_attend call = problem->call;
    uint32_t begin = 0;
    call.blocks = blocks_of(problem, problem->memory[0], layer);
    for (uint32_t r = 0; r < work->rounds; begin = work->round_ends[r++]) {
        call.items = problem->decode + begin;
        call.item_count = problem->counts + r;
        MUST(pkvi_gpu_launch_decode(&call, work->round_ends[r] - begin, stream));
    }
    if (work->prefill_count == 0) return;
    call.items = problem->prefill;
    call.item_count = problem->counts + work->rounds;
    MUST(pkvi_gpu_launch_prefill(&call, work->prefill_count, stream));
}

void problem_attend(void* problem, struct pkvi_gpu_stream* stream) {
    for (uint32_t layer = 0; layer < ((struct problem*)problem)->layers; layer++)
        attend_layer(problem, layer, stream);
}

/* ---- Write and read -------------------------------------------------------------------------- */

struct store store_open(struct problem* problem, uint32_t tokens, bool is_read,
                        struct pkvi_gpu_stream* stream) {
    const uint64_t row = (uint64_t)problem->shape.kv_heads * problem->shape.dim;
    uint32_t* slots = take_host(tokens, sizeof *slots);
    tokens = list_slots(&problem->host, 0, tokens, slots);
    struct store store = {
        .problem = problem,
        .call = {.k = {take(problem, tokens * row * 2), row, problem->shape.dim, PKV_BF16},
                 .v = {take(problem, tokens * row * 2), row, problem->shape.dim, PKV_BF16},
                 .slots = send(problem, slots, tokens * sizeof *slots, stream),
                 .tokens = tokens},
        .is_read = is_read,
    };
    machine_fill(store.call.k.data, tokens * row, 5, stream);
    machine_fill(store.call.v.data, tokens * row, 6, stream);
    free(slots);
    return store;
}

uint64_t store_bytes(const struct store* store) {
    const struct problem* problem = store->problem;
    const uint64_t arrays = 2 * 2 * (uint64_t)problem->shape.kv_heads * problem->shape.dim;
    return store->call.tokens * (arrays + problem->layout.layer_bytes / BLOCK_TOKENS);
}

void store_run(void* ctx, struct pkvi_gpu_stream* stream) {
    struct store* store = ctx;
    for (uint32_t layer = 0; layer < store->problem->layers; layer++) {
        struct pkvi_gpu_kv call = store->call;
        call.blocks = blocks_of(store->problem, store->problem->memory[0], layer);
        MUST(store->is_read ? pkvi_gpu_launch_read(&call, stream)
                            : pkvi_gpu_launch_write(&call, stream));
    }
}

/* ---- Check ----------------------------------------------------------------------------------- */

static void* fetch(const void* from, uint64_t bytes, struct pkvi_gpu_stream* stream) {
    void* to = take_host(bytes, 1);
    copy_out(to, from, bytes, stream);
    return to;
}

/* K and V of an entry in the last layer, as f32 [length][kv_heads][dim] in host memory. */
static void read_back(struct problem* problem, uint32_t entry, float** k, float** v,
                      struct pkvi_gpu_stream* stream) {
    const struct tables* host = &problem->host;
    const uint32_t length = host->lengths[entry];
    const uint64_t row = (uint64_t)problem->shape.kv_heads * problem->shape.dim;
    uint64_t first = 0;
    for (uint32_t e = 0; e < entry; e++)
        first += host->lengths[e];
    uint32_t* slots = take_host(length, sizeof *slots);
    list_slots(host, first, length, slots);
    const uint32_t kept = problem->memory_count;
    const struct pkvi_gpu_kv job = {
        .blocks = blocks_of(problem, problem->memory[0], problem->layers - 1),
        .k = {take(problem, length * row * 4), row, problem->shape.dim, PKV_F32},
        .v = {take(problem, length * row * 4), row, problem->shape.dim, PKV_F32},
        .slots = send(problem, slots, length * sizeof *slots, stream),
        .tokens = length,
    };
    MUST(pkvi_gpu_launch_read(&job, stream));
    *k = fetch(job.k.data, length * row * 4, stream);
    *v = fetch(job.v.data, length * row * 4, stream);
    while (problem->memory_count > kept)
        pkvi_gpu_free(problem->memory[--problem->memory_count]);
    free(slots);
}

/* Softmax attention of one row in double precision to the first `length` rows of K and V. */
static void attend_plainly(const float* q, const float* k, const float* v, uint32_t length,
                           uint64_t stride, uint32_t dim, double scale, double* out) {
    double highest = -INFINITY;
    double sum = 0.0;
    double* scores = take_host(length, sizeof *scores);
    for (uint32_t t = 0; t < length; t++) {
        for (uint32_t d = 0; d < dim; d++)
            scores[t] += scale * (double)q[d] * (double)k[t * stride + d];
        highest = fmax(highest, scores[t]);
    }
    for (uint32_t t = 0; t < length; t++) {
        const double weight = exp(scores[t] - highest);
        sum += weight;
        for (uint32_t d = 0; d < dim; d++)
            out[d] += weight * (double)v[t * stride + d];
    }
    for (uint32_t d = 0; d < dim; d++)
        out[d] /= sum;
    free(scores);
}

/* One row of the output, of an entry whose K and V are given. */
static double check_row(struct problem* problem, uint32_t row, uint32_t head, uint32_t length,
                        const float* k, const float* v, struct pkvi_gpu_stream* stream) {
    const struct problem_shape* shape = &problem->shape;
    const uint32_t dim = shape->dim;
    const uint64_t index = ((uint64_t)row * shape->query_heads + head) * dim;
    const uint64_t kv_head = (uint64_t)(head / (shape->query_heads / shape->kv_heads)) * dim;
    pkv_array q = {.data = fetch((uint16_t*)problem->call.q.data + index, dim * 2, stream),
                   .dtype = PKV_BF16};
    pkv_array out = {.data = fetch((uint16_t*)problem->call.out.data + index, dim * 2, stream),
                     .dtype = PKV_BF16};
    float* query = take_host(dim, sizeof *query);
    double* wanted = take_host(dim, sizeof *wanted);
    for (uint32_t d = 0; d < dim; d++)
        query[d] = pkvi_array_get(&q, 0, 0, d);
    attend_plainly(query, k + kv_head, v + kv_head, length, (uint64_t)shape->kv_heads * dim, dim,
                   (double)problem->call.scale, wanted);
    double error = 0.0;
    double power = 0.0;
    for (uint32_t d = 0; d < dim; d++) {
        const double delta = (double)pkvi_array_get(&out, 0, 0, d) - wanted[d];
        error += delta * delta;
        power += wanted[d] * wanted[d];
    }
    free(q.data);
    free(out.data);
    free(query);
    free(wanted);
    return error / power;
}

/* The first new token, one in the middle and the last; with each another query head. */
static double check_entry(struct problem* problem, uint32_t entry, struct pkvi_gpu_stream* stream) {
    const struct tables* host = &problem->host;
    const uint32_t heads = problem->shape.query_heads;
    const uint32_t fresh = host->starts[entry + 1] - host->starts[entry];
    const uint32_t tokens[] = {0, fresh / 2, fresh - 1};
    double worst = 0.0;
    float* k;
    float* v;
    read_back(problem, entry, &k, &v, stream);
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t length = host->lengths[entry] - fresh + tokens[i] + 1;
        const double error = check_row(problem, host->starts[entry] + tokens[i],
                                       (entry + i * (heads - 1) / 2) % heads, length, k, v, stream);
        if (!(error <= worst)) worst = error; /* NaN too */
    }
    free(k);
    free(v);
    return worst;
}

double problem_check(struct problem* problem, struct pkvi_gpu_stream* stream) {
    const uint32_t entries = problem->host.entries;
    const uint32_t chosen[] = {0, entries / 2, entries - 1};
    double worst = 0.0;
    for (uint32_t i = 0; i < 3; i++) {
        if (i > 0 && chosen[i] == chosen[i - 1]) continue;
        const double error = check_entry(problem, chosen[i], stream);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}
