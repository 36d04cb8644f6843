/* scene.c - see scene.h. */
#include "kernel/scene.h"

#include "base/hash.h"
#include "device/cpu/element.h"
#include "kernel/memory.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void* must(void* memory) {
    if (memory != NULL && memory != MAP_FAILED) return memory;
    fprintf(stderr, "the test has no memory\n");
    exit(2);
}

/* ---- Values ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t state, uint64_t value) {
    state ^= value + 0x9e3779b97f4a7c15;
    return pkvi_random_next(&state);
}

/* Nearly normal: the sum of four uniform numbers, mean 0, variance 1. */
static float normal_of(uint64_t bits) {
    float sum = 0.0F;
    for (int i = 0; i < 4; i++)
        sum += (float)(bits >> (16 * i) & 0xffff) / 65536.0F - 0.5F;
    return sum * 1.7320508F;
}

static float value_at(const struct shape* shape, uint64_t kind, uint32_t who, uint32_t position,
                      uint32_t head, uint32_t d) {
    uint64_t state = mix(shape->seed, kind << 32 | who);
    state = mix(state, (uint64_t)position << 32 | head);
    return normal_of(mix(state, d));
}

float scene_value(const struct shape* shape, uint32_t who, uint32_t position, uint32_t head,
                  uint32_t d, bool is_value) {
    return value_at(shape, is_value ? 2 : 1, who, position, head, d);
}

/* ---- Arrays ---------------------------------------------------------------------------------- */

struct cells cells_open(uint32_t rows, uint32_t heads, uint32_t dim, uint32_t dtype, uint32_t pad,
                        bool head_major) {
    struct cells cells = {.rows = rows, .heads = heads, .dim = dim};
    cells.array.dtype = dtype;
    if (head_major) {
        cells.array.row_stride = dim + pad;
        cells.array.head_stride = rows * (uint64_t)(dim + pad) + pad;
    } else {
        cells.array.head_stride = dim + pad;
        cells.array.row_stride = heads * (uint64_t)(dim + pad) + pad;
    }
    const uint64_t elements =
        (rows - 1) * cells.array.row_stride + (heads - 1) * cells.array.head_stride + dim;
    cells.bytes = elements * pkvi_dtype_bytes(dtype);
    cells.array.data = memory_take(cells.bytes);
    memset(cells.array.data, 0xff, cells.bytes);
    return cells;
}

void cells_close(struct cells* cells) {
    memory_give(cells->array.data);
}

bool cells_padding_is_untouched(const struct cells* cells) {
    const uint32_t size = pkvi_dtype_bytes(cells->array.dtype);
    unsigned char* copy = must(malloc(cells->bytes));
    memcpy(copy, cells->array.data, cells->bytes);
    for (uint32_t row = 0; row < cells->rows; row++)
        for (uint32_t head = 0; head < cells->heads; head++) {
            const uint64_t first = row * cells->array.row_stride + head * cells->array.head_stride;
            memset(copy + first * size, 0xff, (size_t)cells->dim * size);
        }
    bool untouched = true;
    for (size_t i = 0; i < cells->bytes; i++)
        untouched &= copy[i] == 0xff;
    free(copy);
    return untouched;
}

static void fill_queries(struct scene* scene) {
    const struct shape* shape = &scene->shape;
    for (uint32_t e = 0; e < shape->entry_count; e++) {
        const struct entry* entry = &shape->entries[e];
        for (uint32_t i = 0; i < entry->fresh; i++)
            for (uint32_t head = 0; head < shape->query_heads; head++)
                for (uint32_t d = 0; d < shape->group.key_dim; d++) {
                    const uint32_t position = entry->length - entry->fresh + i;
                    const float value = value_at(shape, 3, entry->who, position, head, d);
                    pkvi_array_set(&scene->q.array, scene->starts[e] + i, head, d,
                                   value * shape->spread);
                }
    }
    for (uint32_t head = 0; head < shape->query_heads; head++)
        scene->sink_logits[head] = 3.0F * value_at(shape, 4, 0, 0, head, 0);
}

/* ---- Trees ----------------------------------------------------------------------------------- */

/* Any token before it can be a parent, most often the one just before. */
static uint32_t draw_parent(const struct shape* shape, uint32_t who, uint32_t row) {
    const uint64_t bits = mix(mix(shape->seed, 4ULL << 32 | who), row);
    if (row == 0 || bits % 8 == 0) return PKV_NO_PARENT;
    return bits % 8 < 5 ? row - 1 : (uint32_t)(bits >> 8) % row;
}

static void grow_tree(struct scene* scene, uint32_t e) {
    const struct entry* entry = &scene->shape.entries[e];
    uint32_t* const parents = scene->parents + scene->starts[e];
    uint32_t* const positions = scene->positions + scene->starts[e];
    if (mix(scene->shape.seed, 5ULL << 32 | entry->who) % 4 == 0) return;
    for (uint32_t i = 0; i < entry->fresh; i++) {
        parents[i] = draw_parent(&scene->shape, entry->who, i);
        positions[i] =
            parents[i] == PKV_NO_PARENT ? entry->length - entry->fresh : positions[parents[i]] + 1;
    }
    scene->trees[e] = (struct pkvi_tree){parents, positions};
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

bool scene_page_is_there(const struct shape* shape, uint32_t e, uint32_t page) {
    const struct entry* entry = &shape->entries[e];
    const pkv_group_config* group = &shape->group;
    const uint32_t begin = page * group->block_tokens;
    const uint32_t end = begin + group->block_tokens;
    if (begin >= entry->length) return false;
    if (group->window == 0) return true;
    if (begin < group->sinks) return true;
    return end - 1 + group->window > entry->length - entry->fresh;
}

static uint32_t pages_of(const struct shape* shape, uint32_t e) {
    return pkvi_ceil_div(shape->entries[e].length, shape->group.block_tokens);
}

static size_t round_up(size_t value, size_t unit) {
    return (value + unit - 1) / unit * unit;
}

/* The pages of a block, guards not included. */
static size_t block_room(const struct scene* scene) {
    return round_up(scene->layout.block_bytes, (size_t)sysconf(_SC_PAGESIZE));
}

static unsigned char* block_pages(const struct scene* scene, uint32_t block) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return scene->memory + page + block * (block_room(scene) + page);
}

/* Map the blocks with guards between them, all bytes 0xff. */
static void map_blocks(struct scene* scene, bool flush_with_guard_behind) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t room = block_room(scene);
    const size_t shift = flush_with_guard_behind ? room - scene->layout.block_bytes : 0;
    scene->memory_bytes = page + scene->blocks * (room + page);
    scene->memory =
        must(mmap(NULL, scene->memory_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    scene->space = (struct pkvi_space){
        .base = scene->memory + page + shift,
        .extent_bytes = room + page,
        .block_bytes = scene->layout.block_bytes,
        .blocks_per_extent = 1,
    };
    for (uint32_t block = 0; block < scene->blocks; block++) {
        unsigned char* start = block_pages(scene, block);
        if (mprotect(start, room, PROT_READ | PROT_WRITE) != 0) must(NULL);
        memory_open(start, room);
        memset(start, 0xff, room);
    }
}

static void shuffle(uint32_t* items, uint32_t count, uint64_t* random) {
    for (uint32_t i = count; i > 1; i--) {
        const uint32_t other = (uint32_t)(pkvi_random_next(random) % i);
        const uint32_t item = items[i - 1];
        items[i - 1] = items[other];
        items[other] = item;
    }
}

/* Give every page that is there a block of its own, in random order; two blocks stay unused. */
static void place_blocks(struct scene* scene, uint64_t* random) {
    const struct shape* shape = &scene->shape;
    uint32_t* order = must(malloc(scene->blocks * sizeof *order));
    for (uint32_t block = 0; block < scene->blocks; block++)
        order[block] = block;
    shuffle(order, scene->blocks, random);
    uint32_t used = 0;
    for (uint32_t e = 0; e < shape->entry_count; e++)
        for (uint32_t page = 0; page < scene->table_stride; page++)
            scene->block_table[e * scene->table_stride + page] =
                scene_page_is_there(shape, e, page) ? order[used++] : (uint32_t)PKV_NO_BLOCK;
    free(order);
}

uint32_t scene_slot(const struct scene* scene, uint32_t e, uint32_t position) {
    const uint32_t block_tokens = scene->shape.group.block_tokens;
    const uint32_t page = position / block_tokens;
    return scene->block_table[e * scene->table_stride + page] * block_tokens +
           position % block_tokens;
}

void scene_write(struct scene* scene, uint32_t e, uint32_t begin, uint32_t end,
                 write_function* write, void* ctx) {
    const struct shape* shape = &scene->shape;
    const pkv_group_config* group = &shape->group;
    const uint32_t count = end - begin;
    uint32_t* slots = memory_take(count * sizeof *slots);
    struct cells k = cells_open(count, group->kv_heads, group->key_dim, shape->kv_dtype,
                                shape->pad_elements, shape->head_major);
    struct cells v = cells_open(count, group->kv_heads, group->value_dim, shape->kv_dtype,
                                shape->pad_elements, shape->head_major);
    for (uint32_t i = 0; i < count; i++) {
        slots[i] = scene_slot(scene, e, begin + i);
        for (uint32_t head = 0; head < group->kv_heads; head++) {
            const uint32_t who = shape->entries[e].who;
            for (uint32_t d = 0; d < group->key_dim; d++)
                pkvi_array_set(&k.array, i, head, d,
                               scene_value(shape, who, begin + i, head, d, false));
            for (uint32_t d = 0; d < group->value_dim; d++)
                pkvi_array_set(&v.array, i, head, d,
                               scene_value(shape, who, begin + i, head, d, true));
        }
    }
    const struct pkvi_kv_job job = {
        .layout = &scene->layout,
        .space = &scene->space,
        .layer = group->layers - 1,
        .tokens = count,
        .slots = slots,
        .k = k.array,
        .v = v.array,
    };
    if (write(ctx, &job) != PKV_OK) {
        fprintf(stderr, "write failed on finite values\n");
        exit(1);
    }
    cells_close(&k);
    cells_close(&v);
    memory_give(slots);
}

/* Pieces of random lengths, each within pages that are there. */
static void write_entry(struct scene* scene, uint32_t e, uint64_t* random, write_function* write,
                        void* ctx) {
    const struct shape* shape = &scene->shape;
    for (uint32_t begin = 0; begin < shape->entries[e].length;) {
        const uint32_t page = begin / shape->group.block_tokens;
        if (!scene_page_is_there(shape, e, page)) {
            begin = (page + 1) * shape->group.block_tokens;
            continue;
        }
        uint32_t end = begin + 1 + (uint32_t)(pkvi_random_next(random) % 90);
        if (end > shape->entries[e].length) end = shape->entries[e].length;
        for (uint32_t next = page + 1; next * shape->group.block_tokens < end; next++)
            if (!scene_page_is_there(shape, e, next)) end = next * shape->group.block_tokens;
        scene_write(scene, e, begin, end, write, ctx);
        begin = end;
    }
}

struct scene* scene_open(const struct shape* shape, uint64_t placement, write_function* write,
                         void* ctx) {
    struct scene* scene = memory_take(sizeof *scene);
    uint64_t random = placement;
    *scene = (struct scene){.shape = *shape};
    if (!pkvi_layout_init(&scene->layout, &shape->group)) must(NULL);
    scene->blocks = 2;
    for (uint32_t e = 0; e < shape->entry_count; e++) {
        const uint32_t pages = pages_of(shape, e);
        for (uint32_t page = 0; page < pages; page++)
            scene->blocks += scene_page_is_there(shape, e, page);
        if (pages > scene->table_stride) scene->table_stride = pages;
        scene->lengths[e] = shape->entries[e].length;
        scene->starts[e + 1] = scene->starts[e] + shape->entries[e].fresh;
    }
    const size_t rows = (size_t)shape->entry_count * scene->table_stride;
    scene->block_table = memory_take(rows * sizeof *scene->block_table);
    map_blocks(scene, pkvi_random_next(&random) % 2 == 0);
    place_blocks(scene, &random);
    for (uint32_t e = 0; write != NULL && e < shape->entry_count; e++)
        write_entry(scene, e, &random, write, ctx);
    const uint32_t tokens = scene->starts[shape->entry_count];
    scene->q = cells_open(tokens, shape->query_heads, shape->group.key_dim, shape->q_dtype,
                          shape->pad_elements, shape->head_major);
    scene->out = cells_open(tokens, shape->query_heads, shape->group.value_dim, shape->out_dtype,
                            shape->pad_elements, shape->head_major);
    const size_t lse_bytes = (size_t)tokens * shape->query_heads * sizeof(float);
    scene->lse = memory_take(lse_bytes);
    memset(scene->lse, 0xff, lse_bytes);
    scene->sink_logits = memory_take(shape->query_heads * sizeof(float));
    fill_queries(scene);
    scene->parents = memory_take(tokens * sizeof *scene->parents);
    scene->positions = memory_take(tokens * sizeof *scene->positions);
    for (uint32_t e = 0; shape->trees && e < shape->entry_count; e++)
        grow_tree(scene, e);
    return scene;
}

void scene_close(struct scene* scene) {
    for (uint32_t block = 0; block < scene->blocks; block++)
        memory_close(block_pages(scene, block));
    munmap(scene->memory, scene->memory_bytes);
    cells_close(&scene->q);
    cells_close(&scene->out);
    memory_give(scene->lse);
    memory_give(scene->sink_logits);
    memory_give(scene->positions);
    memory_give(scene->parents);
    memory_give(scene->block_table);
    memory_give(scene);
}

struct pkvi_attend_job scene_job(struct scene* scene) {
    const struct shape* shape = &scene->shape;
    return (struct pkvi_attend_job){
        .layout = &scene->layout,
        .space = &scene->space,
        .layer = shape->group.layers - 1,
        .entries = shape->entry_count,
        .trees = shape->trees ? scene->trees : NULL,
        .starts = scene->starts,
        .lengths = scene->lengths,
        .block_table = scene->block_table,
        .table_stride = scene->table_stride,
        .query_heads = shape->query_heads,
        .scale = shape->scale,
        .softcap = shape->softcap,
        .q = scene->q.array,
        .out = scene->out.array,
        .lse = shape->no_lse ? NULL : scene->lse,
        .sink_logits = shape->has_sink_logits ? scene->sink_logits : NULL,
    };
}

float scene_out(const struct scene* scene, uint32_t row, uint32_t head, uint32_t d) {
    return pkvi_array_get(&scene->out.array, row, head, d);
}
