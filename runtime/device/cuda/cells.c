/* cells.c - see cells.h. */
#include "device/cuda/cells.h"

static int open_cell(struct pkvi_gpu_cell* cell, uint64_t bytes) {
    PKVI_TRY(pkvi_gpu_event_open(&cell->sent));
    PKVI_TRY(pkvi_gpu_alloc_pinned(bytes, (void**)&cell->staging));
    return pkvi_gpu_alloc(bytes, (void**)&cell->memory);
}

int pkvi_gpu_cells_open(struct pkvi_gpu_cells* cells, struct pkvi_mem* mem, uint32_t count,
                        uint64_t bytes) {
    *cells = (struct pkvi_gpu_cells){.bytes = bytes};
    PKVI_TRY(pkvi_mem_take(mem, count, sizeof *cells->cells, (void**)&cells->cells));
    cells->count = count;
    for (uint32_t i = 0; i < count; i++)
        PKVI_TRY(open_cell(&cells->cells[i], bytes));
    return PKV_OK;
}

void pkvi_gpu_cells_close(struct pkvi_gpu_cells* cells, struct pkvi_mem* mem) {
    for (uint32_t i = 0; i < cells->count; i++) {
        struct pkvi_gpu_cell* cell = &cells->cells[i];
        if (cell->memory != NULL) pkvi_gpu_free(cell->memory);
        if (cell->staging != NULL) pkvi_gpu_free_pinned(cell->staging);
        if (cell->sent != NULL) pkvi_gpu_event_close(cell->sent);
    }
    pkvi_mem_give(mem, cells->cells);
}

struct pkvi_gpu_cell* pkvi_gpu_cell_find(struct pkvi_gpu_cells* cells, struct pkvi_gpu_key key) {
    if (key.plan == 0) return NULL;
    for (uint32_t i = 0; i < cells->count; i++) {
        struct pkvi_gpu_cell* cell = &cells->cells[i];
        if (cell->key.plan != key.plan) continue;
        if (cell->key.query_heads != key.query_heads) continue;
        cell->used = ++cells->uses;
        return cell;
    }
    return NULL;
}

int pkvi_gpu_cell_take(struct pkvi_gpu_cells* cells, struct pkvi_gpu_stream* stream,
                       struct pkvi_gpu_cell** cell) {
    bool is_captured;
    PKVI_TRY(pkvi_gpu_stream_is_captured(stream, &is_captured));
    if (is_captured) return PKV_ENOTSUP;
    struct pkvi_gpu_cell* oldest = &cells->cells[0];
    for (uint32_t i = 1; i < cells->count; i++)
        if (cells->cells[i].used < oldest->used) oldest = &cells->cells[i];
    PKVI_TRY(pkvi_gpu_event_wait(oldest->sent)); /* one that was never recorded is done */
    oldest->key = (struct pkvi_gpu_key){0, 0};
    oldest->used = ++cells->uses;
    *cell = oldest;
    return PKV_OK;
}

int pkvi_gpu_send(void* memory, const void* staging, uint64_t bytes, struct pkvi_gpu_event* sent,
                  struct pkvi_gpu_stream* stream) {
    PKVI_TRY(pkvi_gpu_copy(memory, staging, bytes, stream));
    const int status = pkvi_gpu_event_record(sent, stream);
    /* Without the event nobody knows when the staging memory is free again. */
    if (status != PKV_OK) pkvi_gpu_stream_wait(stream);
    return status;
}

int pkvi_gpu_cell_send(struct pkvi_gpu_cell* cell, struct pkvi_gpu_key key, uint64_t bytes,
                       struct pkvi_gpu_stream* stream) {
    PKVI_TRY(pkvi_gpu_send(cell->memory, cell->staging, bytes, cell->sent, stream));
    cell->key = key;
    return PKV_OK;
}
