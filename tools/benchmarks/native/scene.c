/* scene.c - attention problems in the memory of a CPU device. See bench.h.
 *
 * The device is opened as a cache would open it, but block tables are made here: a cache gives no
 * say in where blocks lie, and where they lie is what is measured. All blocks are one extent.
 *
 * Values come from a pool of normally distributed numbers, at places that a hash of (entry, position,
 * side) names; so they can be found again for the check and cost nothing to make. All layers hold
 * the same values, each in memory of its own. */
#include "bench.h"

#include "base/hash.h"
#include "device/cpu/element.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_TOKENS = 64,      /* of one write call while a scene is filled */
    NORMAL_COUNT = 1 << 20, /* different random values; a larger pool repeats them */
    SLAB_AHEAD = 32 << 10,  /* bytes prefetched ahead by the bare read, at least */
    READ_PIECE_UNIT = 256,  /* bench_read_pieces reads in such steps */
};

struct bench_scene {
    struct bench_shape shape;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    struct pkvi_clock clock;
    struct pkvi_device* device;
    struct pkvi_layout layout;
    struct pkvi_space space;
    uint64_t arena_bytes;
    uint32_t blocks;
    uint32_t table_stride;
    uint32_t* block_table; /* [entries][table_stride] */
    uint32_t* lengths;     /* [entries] */
    uint32_t* starts;      /* [entries + 1] */
    uint32_t* call_starts; /* [entries + 1] of the present call, from 0 */
    uint32_t* slots;       /* of the present write call */
    uint64_t slots_max;
    unsigned char* source; /* the pool of values */
    uint64_t source_elements;
    uint64_t writes; /* calls so far: where in the pool the next one begins */
    void* q;
    void* out;
};

/* ---- Random values --------------------------------------------------------------------------- */

static double random_unit(uint64_t* state) { /* in (0, 1] */
    return (double)((pkvi_random_next(state) >> 11) + 1) * 0x1p-53;
}

/* Fill data[0 .. count) with normally distributed values (Box, Muller, 1958). */
static void fill_normal(void* data, uint64_t count, uint32_t dtype, uint64_t seed) {
    const uint64_t made = count < NORMAL_COUNT ? count : NORMAL_COUNT;
    const uint64_t size = pkvi_dtype_bytes(dtype);
    for (uint64_t i = 0; i < made; i++) {
        const double radius = sqrt(-2.0 * log(random_unit(&seed)));
        const double angle = 6.283185307179586 * random_unit(&seed);
        pkvi_element_set(data, i, dtype, (float)(radius * cos(angle)));
    }
    for (uint64_t done = made; done < count;) {
        const uint64_t more = count - done < made ? count - done : made;
        memcpy((unsigned char*)data + done * size, data, more * size);
        done += more;
    }
}

static uint64_t token_elements(const struct bench_scene* scene) {
    return (uint64_t)scene->shape.kv_heads * scene->shape.dim;
}

/* K or V of `tokens` tokens: an array into the pool at a place that `where` decides. */
static pkv_array source_at(const struct bench_scene* scene, uint64_t where, uint64_t tokens) {
    const uint64_t elements = tokens * token_elements(scene);
    const uint64_t room = scene->source_elements - elements;
    uint64_t state = where;
    const uint64_t first = room == 0 ? 0 : pkvi_random_next(&state) % room / 64 * 64;
    return (pkv_array){
        .data = scene->source + first * pkvi_dtype_bytes(scene->shape.source_dtype),
        .dtype = scene->shape.source_dtype,
        .row_stride = token_elements(scene),
        .head_stride = scene->shape.dim,
    };
}

static uint64_t place_of(uint32_t entry, uint32_t position, bool is_value) {
    return ((uint64_t)entry << 32) ^ ((uint64_t)position << 1) ^ is_value;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static uint32_t pages_of(const struct bench_scene* scene, uint32_t entry) {
    return pkvi_ceil_div(scene->lengths[entry], scene->shape.block_tokens);
}

/* Blocks are handed out in order, or shuffled over all entries (Fisher, Yates). */
static int place_blocks(struct bench_scene* scene) {
    uint32_t* order = malloc(scene->blocks * sizeof *order);
    uint64_t state = scene->shape.seed;
    if (order == NULL) return PKV_ENOMEM;
    for (uint32_t i = 0; i < scene->blocks; i++)
        order[i] = i;
    for (uint32_t i = scene->blocks; scene->shape.is_shuffled && i > 1; i--) {
        const uint32_t other = (uint32_t)(pkvi_random_next(&state) % i);
        const uint32_t block = order[i - 1];
        order[i - 1] = order[other];
        order[other] = block;
    }
    uint32_t used = 0;
    for (uint32_t e = 0; e < scene->shape.entries; e++)
        for (uint32_t page = 0; page < scene->table_stride; page++)
            scene->block_table[(uint64_t)e * scene->table_stride + page] =
                page < pages_of(scene, e) ? order[used++] : (uint32_t)PKV_NO_BLOCK;
    free(order);
    return PKV_OK;
}

static int open_device(struct bench_scene* scene, const char* isa) {
    const struct bench_shape* shape = &scene->shape;
    const pkv_memory_hook memory = {NULL, NULL};
    const pkv_group_config group = {
        .layers = shape->layers,
        .kv_heads = shape->kv_heads,
        .key_dim = shape->dim,
        .value_dim = shape->dim,
        .k_dtype = shape->k_dtype,
        .v_dtype = shape->v_dtype,
        .block_tokens = shape->block_tokens,
    };
    struct pkvi_device_config config = {
        .isa = isa,
        .threads = shape->threads,
        .plan_tokens_max = scene->starts[shape->entries],
        .plan_sequences_max = shape->entries,
        .sequence_tokens_max = scene->table_stride * shape->block_tokens,
        .copies_max = 1,
        .mem = &scene->mem,
        .faults = &scene->faults,
        .clock = &scene->clock,
    };
    pkvi_clock_init(&scene->clock, false);
    PKVI_TRY(pkvi_faults_init(&scene->faults, NULL, 0));
    pkvi_mem_init(&scene->mem, &memory, &scene->faults);
    if (!pkvi_layout_init(&scene->layout, &group)) return PKV_ETOOBIG;
    config.layout = scene->layout;
    return pkvi_host_open(&config, &scene->device);
}

static int open_arena(struct bench_scene* scene) {
    void* base;
    scene->arena_bytes = scene->blocks * scene->layout.block_bytes;
    PKVI_TRY(scene->device->ops->alloc(scene->device, scene->arena_bytes, &base));
    scene->space = (struct pkvi_space){
        .base = base,
        .extent_bytes = scene->arena_bytes,
        .block_bytes = scene->layout.block_bytes,
        .blocks_per_extent = scene->blocks,
    };
    return place_blocks(scene);
}

static int open_arrays(struct bench_scene* scene) {
    const struct bench_shape* shape = &scene->shape;
    const uint64_t row = (uint64_t)shape->query_heads * shape->dim;
    const uint64_t elements = scene->starts[shape->entries] * row;
    const uint64_t size = pkvi_dtype_bytes(shape->q_dtype);
    const uint64_t source_size = pkvi_dtype_bytes(shape->source_dtype);
    uint64_t minimum = 2 * token_elements(scene) * CHUNK_TOKENS;
    if (minimum < NORMAL_COUNT) minimum = NORMAL_COUNT;
    scene->source_elements = shape->source_bytes / source_size;
    if (scene->source_elements < minimum) scene->source_elements = minimum;
    scene->slots_max = scene->source_elements / token_elements(scene);
    scene->slots = malloc(scene->slots_max * sizeof *scene->slots);
    scene->source = aligned_alloc(64, (scene->source_elements * source_size + 63) / 64 * 64);
    scene->q = aligned_alloc(64, (elements * size + 63) / 64 * 64);
    scene->out = aligned_alloc(64, (elements * size + 63) / 64 * 64);
    if (scene->slots == NULL || scene->source == NULL) return PKV_ENOMEM;
    if (scene->q == NULL || scene->out == NULL) return PKV_ENOMEM;
    fill_normal(scene->source, scene->source_elements, shape->source_dtype, shape->seed);
    fill_normal(scene->q, elements, shape->q_dtype, shape->seed + 1U);
    memset(scene->out, 0xff, elements * size);
    return PKV_OK;
}

static uint32_t slot_of(const struct bench_scene* scene, uint32_t entry, uint32_t position) {
    const uint32_t block_tokens = scene->shape.block_tokens;
    const uint64_t page = (uint64_t)entry * scene->table_stride + position / block_tokens;
    return scene->block_table[page] * block_tokens + position % block_tokens;
}

/* Write or read tokens [begin, begin + count) of one entry. */
static int move_tokens(struct bench_scene* scene,
                       int (*verb)(struct pkvi_device*, const struct pkvi_kv_job*), uint32_t layer,
                       uint32_t entry, uint32_t begin, uint32_t count, pkv_array k, pkv_array v) {
    for (uint32_t i = 0; i < count; i++)
        scene->slots[i] = slot_of(scene, entry, begin + i);
    const struct pkvi_kv_job job = {
        .layout = &scene->layout,
        .space = &scene->space,
        .layer = layer,
        .tokens = count,
        .slots = scene->slots,
        .k = k,
        .v = v,
    };
    return verb(scene->device, &job);
}

static uint32_t chunk_at(const struct bench_scene* scene, uint32_t entry, uint32_t begin) {
    const uint32_t left = scene->lengths[entry] - begin;
    return left < CHUNK_TOKENS ? left : CHUNK_TOKENS;
}

/* Write the first layer; the others get its bytes, which takes a fraction of the time. */
static int fill(struct bench_scene* scene) {
    const uint64_t slab_bytes = scene->layout.layer_bytes;
    for (uint32_t e = 0; e < scene->shape.entries; e++)
        for (uint32_t begin = 0; begin < scene->lengths[e]; begin += CHUNK_TOKENS) {
            const pkv_array k = source_at(scene, place_of(e, begin, false), CHUNK_TOKENS);
            const pkv_array v = source_at(scene, place_of(e, begin, true), CHUNK_TOKENS);
            PKVI_TRY(move_tokens(scene, scene->device->ops->write, 0, e, begin,
                                 chunk_at(scene, e, begin), k, v));
        }
    for (uint32_t block = 0; block < scene->blocks; block++) {
        unsigned char* const first = pkvi_space_block(&scene->space, block);
        for (uint32_t layer = 1; layer < scene->shape.layers; layer++)
            memcpy(first + layer * slab_bytes, first, slab_bytes);
    }
    return PKV_OK;
}

static int open_tables(struct bench_scene* scene, const uint32_t* lengths, const uint32_t* fresh) {
    const uint32_t entries = scene->shape.entries;
    scene->lengths = malloc(entries * sizeof *lengths);
    scene->starts = calloc(entries + 1, sizeof *scene->starts);
    scene->call_starts = calloc(entries + 1, sizeof *scene->call_starts);
    if (scene->lengths == NULL || scene->starts == NULL) return PKV_ENOMEM;
    if (scene->call_starts == NULL) return PKV_ENOMEM;
    memcpy(scene->lengths, lengths, entries * sizeof *lengths);
    for (uint32_t e = 0; e < entries; e++) {
        scene->starts[e + 1] = scene->starts[e] + fresh[e];
        scene->blocks += pages_of(scene, e);
        if (pages_of(scene, e) > scene->table_stride) scene->table_stride = pages_of(scene, e);
    }
    scene->block_table =
        malloc((uint64_t)entries * scene->table_stride * sizeof *scene->block_table);
    return scene->block_table != NULL ? PKV_OK : PKV_ENOMEM;
}

static int open_all(struct bench_scene* scene, const char* isa, const uint32_t* lengths,
                    const uint32_t* fresh) {
    PKVI_TRY(open_tables(scene, lengths, fresh));
    PKVI_TRY(open_device(scene, isa));
    PKVI_TRY(open_arena(scene));
    PKVI_TRY(open_arrays(scene));
    return fill(scene);
}

int bench_scene_open(const struct bench_shape* shape, const char* isa, const uint32_t* lengths,
                     const uint32_t* fresh, struct bench_scene** scene) {
    struct bench_scene* opened = calloc(1, sizeof *opened);
    if (opened == NULL) return PKV_ENOMEM;
    opened->shape = *shape;
    const int status = open_all(opened, isa, lengths, fresh);
    if (status == PKV_OK)
        *scene = opened;
    else
        bench_scene_close(opened);
    return status;
}

void bench_scene_close(struct bench_scene* scene) {
    if (scene == NULL) return;
    if (scene->space.base != NULL)
        scene->device->ops->free(scene->device, scene->space.base, scene->arena_bytes);
    if (scene->device != NULL) {
        scene->device->ops->close(scene->device);
        pkvi_faults_free(&scene->faults);
    }
    free(scene->block_table);
    free(scene->lengths);
    free(scene->starts);
    free(scene->call_starts);
    free(scene->slots);
    free(scene->source);
    free(scene->q);
    free(scene->out);
    free(scene);
}

const char* bench_scene_isa(const struct bench_scene* scene) {
    return scene->device->isa;
}

uint64_t bench_scene_bytes(const struct bench_scene* scene) {
    return scene->blocks * scene->layout.block_bytes;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* Queries or outputs from row `row` on. */
static pkv_array rows_at(const struct bench_scene* scene, void* data, uint32_t row) {
    const uint64_t stride = (uint64_t)scene->shape.query_heads * scene->shape.dim;
    return (pkv_array){
        .data = (unsigned char*)data + row * stride * pkvi_dtype_bytes(scene->shape.q_dtype),
        .dtype = scene->shape.q_dtype,
        .row_stride = stride,
        .head_stride = scene->shape.dim,
    };
}

int bench_scene_attend(struct bench_scene* scene, uint32_t layer, uint32_t begin, uint32_t end,
                       double* seconds) {
    const uint32_t first = scene->starts[begin];
    for (uint32_t e = begin; e <= end; e++)
        scene->call_starts[e - begin] = scene->starts[e] - first;
    const struct pkvi_attend_job job = {
        .layout = &scene->layout,
        .space = &scene->space,
        .layer = layer,
        .entries = end - begin,
        .starts = scene->call_starts,
        .lengths = scene->lengths + begin,
        .block_table = scene->block_table + (uint64_t)begin * scene->table_stride,
        .table_stride = scene->table_stride,
        .query_heads = scene->shape.query_heads,
        .scale = 1.0F / sqrtf((float)scene->shape.dim),
        .q = rows_at(scene, scene->q, first),
        .out = rows_at(scene, scene->out, first),
    };
    const double started = bench_now();
    const int status = scene->device->ops->attend(scene->device, &job);
    *seconds = bench_now() - started;
    return status;
}

int bench_scene_write(struct bench_scene* scene, uint32_t layer, uint32_t position, uint32_t count,
                      double* seconds) {
    const uint64_t tokens = (uint64_t)scene->shape.entries * count;
    if (tokens > scene->slots_max) return PKV_ETOOBIG;
    for (uint32_t i = 0; i < tokens; i++)
        scene->slots[i] = slot_of(scene, i / count, position + i % count);
    const struct pkvi_kv_job job = {
        .layout = &scene->layout,
        .space = &scene->space,
        .layer = layer,
        .tokens = (uint32_t)tokens,
        .slots = scene->slots,
        .k = source_at(scene, 2 * scene->writes, tokens),
        .v = source_at(scene, 2 * scene->writes + 1, tokens),
    };
    scene->writes++;
    const double started = bench_now();
    const int status = scene->device->ops->write(scene->device, &job);
    *seconds = bench_now() - started;
    return status;
}

double bench_scene_read(struct bench_scene* scene, uint32_t threads) {
    const uint64_t count = (uint64_t)scene->blocks * scene->shape.layers;
    const uint64_t bytes = scene->layout.layer_bytes / READ_PIECE_UNIT * READ_PIECE_UNIT;
    const unsigned char** slabs = malloc(count * sizeof *slabs);
    uint64_t used = 0;
    if (slabs == NULL) return 0.0;
    for (uint32_t layer = 0; layer < scene->shape.layers; layer++)
        for (uint32_t e = 0; e < scene->shape.entries; e++)
            for (uint32_t page = 0; page < pages_of(scene, e); page++) {
                const uint32_t block = scene->block_table[(uint64_t)e * scene->table_stride + page];
                slabs[used++] =
                    pkvi_space_block(&scene->space, block) + layer * scene->layout.layer_bytes;
            }
    const double seconds = bench_read_pieces(slabs, count, bytes, SLAB_AHEAD, threads);
    free(slabs);
    return seconds;
}

/* ---- Check ----------------------------------------------------------------------------------- */

struct error_sum {
    double error;
    double power;
};

static void add_error(struct error_sum* sum, float value, float want) {
    const double delta = (double)value - (double)want;
    sum->error += delta * delta;
    sum->power += (double)want * (double)want;
}

/* One entry's K and V of one layer in the plain order of the reference, as f32. */
struct plain {
    struct pkvi_layout layout;
    struct pkvi_space space;
    uint32_t* table;
    float* k; /* of one chunk */
    float* v;
    float* out; /* [query_heads][dim] */
};

static void close_plain(struct plain* plain) {
    free(plain->space.base);
    free(plain->table);
    free(plain->k);
    free(plain->v);
    free(plain->out);
}

static int open_plain(const struct bench_scene* scene, uint32_t tokens, struct plain* plain) {
    const uint64_t chunk = CHUNK_TOKENS * token_elements(scene) * sizeof(float);
    const uint32_t pages = pkvi_ceil_div(tokens, scene->shape.block_tokens);
    pkv_group_config group = scene->layout.group;
    group.layers = 1;
    group.k_dtype = PKV_F32;
    group.v_dtype = PKV_F32;
    if (!pkvi_layout_init(&plain->layout, &group)) return PKV_ETOOBIG;
    plain->space = (struct pkvi_space){
        .base = malloc(pages * plain->layout.block_bytes),
        .extent_bytes = pages * plain->layout.block_bytes,
        .block_bytes = plain->layout.block_bytes,
        .blocks_per_extent = pages,
    };
    plain->table = malloc(pages * sizeof *plain->table);
    plain->k = malloc(chunk);
    plain->v = malloc(chunk);
    plain->out = malloc((uint64_t)scene->shape.query_heads * scene->shape.dim * sizeof(float));
    if (plain->space.base == NULL || plain->table == NULL) return PKV_ENOMEM;
    if (plain->k == NULL || plain->v == NULL || plain->out == NULL) return PKV_ENOMEM;
    for (uint32_t page = 0; page < pages; page++)
        plain->table[page] = page;
    return PKV_OK;
}

static pkv_array float_array(float* data, const struct bench_scene* scene, uint32_t heads) {
    return (pkv_array){
        .data = data,
        .dtype = PKV_F32,
        .row_stride = (uint64_t)heads * scene->shape.dim,
        .head_stride = scene->shape.dim,
    };
}

static void compare_chunk(const pkv_array* read, const pkv_array* written, uint32_t tokens,
                          const struct bench_scene* scene, struct error_sum* sum) {
    for (uint32_t row = 0; row < tokens; row++)
        for (uint32_t head = 0; head < scene->shape.kv_heads; head++)
            for (uint32_t d = 0; d < scene->shape.dim; d++)
                add_error(sum, pkvi_array_get(read, row, head, d),
                          pkvi_array_get(written, row, head, d));
}

/* Read one chunk back from the device, compare it with what was written, and store it plainly. */
static int copy_chunk(struct bench_scene* scene, struct plain* plain, uint32_t layer,
                      uint32_t entry, uint32_t begin, struct error_sum* stored) {
    const uint32_t count = chunk_at(scene, entry, begin);
    const pkv_array k = float_array(plain->k, scene, scene->shape.kv_heads);
    const pkv_array v = float_array(plain->v, scene, scene->shape.kv_heads);
    const pkv_array k_source = source_at(scene, place_of(entry, begin, false), CHUNK_TOKENS);
    const pkv_array v_source = source_at(scene, place_of(entry, begin, true), CHUNK_TOKENS);
    PKVI_TRY(move_tokens(scene, scene->device->ops->read, layer, entry, begin, count, k, v));
    compare_chunk(&k, &k_source, count, scene, stored);
    compare_chunk(&v, &v_source, count, scene, stored);
    for (uint32_t i = 0; i < count; i++)
        scene->slots[i] = begin + i;
    const struct pkvi_kv_job job = {
        .layout = &plain->layout,
        .space = &plain->space,
        .tokens = count,
        .slots = scene->slots,
        .k = k,
        .v = v,
    };
    return pkvi_reference_write(&job);
}

static int check_row(struct bench_scene* scene, struct plain* plain, uint32_t layer, uint32_t entry,
                     uint32_t row, double* output_nmse, double* stored_nmse) {
    const uint32_t fresh = scene->starts[entry + 1] - scene->starts[entry];
    const uint32_t length = scene->lengths[entry] - fresh + row + 1;
    const uint32_t starts[2] = {0, 1};
    struct error_sum stored = {0.0, 0.0};
    struct error_sum output = {0.0, 0.0};
    for (uint32_t begin = 0; begin < scene->lengths[entry]; begin += CHUNK_TOKENS)
        PKVI_TRY(copy_chunk(scene, plain, layer, entry, begin, &stored));
    const struct pkvi_attend_job job = {
        .layout = &plain->layout,
        .space = &plain->space,
        .entries = 1,
        .starts = starts,
        .lengths = &length,
        .block_table = plain->table,
        .table_stride = pkvi_ceil_div(length, scene->shape.block_tokens),
        .query_heads = scene->shape.query_heads,
        .scale = 1.0F / sqrtf((float)scene->shape.dim),
        .q = rows_at(scene, scene->q, scene->starts[entry] + row),
        .out = float_array(plain->out, scene, scene->shape.query_heads),
    };
    PKVI_TRY(pkvi_reference_attend(&job));
    const pkv_array out = rows_at(scene, scene->out, scene->starts[entry] + row);
    for (uint32_t head = 0; head < scene->shape.query_heads; head++)
        for (uint32_t d = 0; d < scene->shape.dim; d++)
            add_error(&output, pkvi_array_get(&out, 0, head, d),
                      pkvi_array_get(&job.out, 0, head, d));
    *output_nmse = output.error / output.power;
    *stored_nmse = stored.error / stored.power;
    return PKV_OK;
}

int bench_scene_check(struct bench_scene* scene, uint32_t layer, uint32_t entry, uint32_t row,
                      double* output_nmse, double* stored_nmse) {
    struct plain plain = {0};
    int status = open_plain(scene, scene->lengths[entry], &plain);
    if (status == PKV_OK)
        status = check_row(scene, &plain, layer, entry, row, output_nmse, stored_nmse);
    close_plain(&plain);
    return status;
}

void bench_scene_spoil(struct bench_scene* scene, uint32_t is_stored) {
    if (is_stored)
        *pkvi_space_block(&scene->space, scene->block_table[0]) ^= 0x55;
    else
        pkvi_element_set(scene->out, 0, scene->shape.q_dtype, 1.0e3F);
}
