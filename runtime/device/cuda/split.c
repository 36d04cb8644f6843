/* split.c - see split.h. */
#include "device/cuda/split.h"

#include "base/limits.h"

enum {
    DECODE_ROWS_MAX = 64, /* rows of an entry and KV head: with more it is prefill */
    SPLITS_MAX = 64,
#ifdef PKV_TINY
    TILES_OF_SPLITS = 1, /* n splits where there are n * n times as many tiles */
#else
    TILES_OF_SPLITS = 4,
#endif
};

/* More splits mean more thread blocks for a long sequence, and more partial results: half the root of
 * the tiles keeps both in proportion (4 splits of 256 tokens at 1k, 8 of 512 at 4k, 45 of 2.9k at
 * 128k). */
static uint32_t splits_of(uint32_t tiles) {
    uint32_t splits = 1;
    while (splits < SPLITS_MAX && TILES_OF_SPLITS * (splits + 1) * (splits + 1) <= tiles)
        splits++;
    return splits;
}

static uint32_t divided_up(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

/* Rows of the row tile that begins at `row`. */
static uint32_t tile_rows(uint32_t rows, uint32_t row, uint32_t most) {
    return rows - row < most ? rows - row : most;
}

/* Of any row tile of a sequence: it sees its tiles, and one more where the window begins inside one. */
static uint32_t splits_max_of(uint32_t sequence_tokens) {
    return splits_of(divided_up(sequence_tokens, PKVI_GPU_TILE_TOKENS) + 1);
}

struct pkvi_gpu_bounds pkvi_gpu_bounds_of(uint32_t entries, uint32_t tokens,
                                          uint32_t sequence_tokens, uint32_t kv_heads,
                                          uint32_t group_heads) {
    const uint64_t splits = splits_max_of(sequence_tokens);
    const uint64_t row_tiles = DECODE_ROWS_MAX / PKVI_GPU_DECODE_ROWS;
    const uint64_t rows = (uint64_t)tokens * group_heads;
    return (struct pkvi_gpu_bounds){
        .decode_items = entries * row_tiles * splits * kv_heads,
        .prefill_items = (rows / PKVI_GPU_PREFILL_ROWS + entries) * kv_heads,
        .entry_partial_rows = DECODE_ROWS_MAX * splits * kv_heads,
    };
}

bool pkvi_gpu_is_decode(uint32_t rows) {
    return rows <= DECODE_ROWS_MAX;
}

struct pkvi_gpu_decode_bounds pkvi_gpu_decode_bounds_of(uint32_t entries, uint32_t entry_tokens,
                                                        uint32_t sequence_tokens, uint32_t kv_heads,
                                                        uint32_t group_heads) {
    const uint64_t splits = splits_max_of(sequence_tokens);
    const uint32_t rows = entry_tokens * group_heads;
    return (struct pkvi_gpu_decode_bounds){
        .items = entries * divided_up(rows, PKVI_GPU_DECODE_ROWS) * splits * kv_heads,
        .partial_rows = entries * rows * splits * kv_heads,
    };
}

uint32_t pkvi_gpu_partial_rows(const struct pkvi_gpu_bounds* bounds, uint32_t entries,
                               uint32_t dim) {
    const uint64_t most = PKVI_PARTIALS_BYTES / ((dim + 2) * sizeof(float));
    uint64_t rows = bounds->entry_partial_rows * entries;
    if (rows > most) rows = most;
    return (uint32_t)(rows < bounds->entry_partial_rows ? bounds->entry_partial_rows : rows);
}

/* The visible tiles of one row tile, cut into pieces that differ by one tile at most. */
static void split_row_tile(struct pkvi_gpu_work* work, struct pkvi_gpu_item item, uint32_t tiles) {
    for (item.split = 0; item.split < item.splits; item.split++) {
        item.tile_begin = (uint32_t)((uint64_t)tiles * item.split / item.splits);
        item.tile_end = (uint32_t)((uint64_t)tiles * (item.split + 1) / item.splits);
        work->decode[work->decode_count++] = item;
    }
}

/* What one round has used so far. */
struct round {
    uint32_t partial_rows;
    uint32_t merges;
};

static void close_round(struct pkvi_gpu_work* work, struct round* round) {
    work->round_ends[work->rounds++] = work->decode_count;
    if (round->merges > work->merges) work->merges = round->merges;
    *round = (struct round){0, 0};
}

static struct pkvi_gpu_visible visible_to(const struct pkvi_gpu_shape* shape,
                                          const struct pkvi_gpu_item* item) {
    const uint32_t fresh = shape->starts[item->entry + 1] - shape->starts[item->entry];
    return pkvi_gpu_visible_to(item, shape->lengths[item->entry], fresh,
                               pkvi_gpu_is_tree(shape->trees, item->entry), shape->group_heads,
                               shape->window, shape->sinks);
}

/* Rows of the partial results of an entry; none where nothing is split. */
static uint32_t count_partial_rows(const struct pkvi_gpu_shape* shape, uint32_t rows,
                                   struct pkvi_gpu_item item) {
    uint32_t count = 0;
    for (item.row = 0; item.row < rows; item.row += PKVI_GPU_DECODE_ROWS) {
        item.rows = tile_rows(rows, item.row, PKVI_GPU_DECODE_ROWS);
        const uint32_t splits = splits_of(visible_to(shape, &item).count);
        if (splits > 1) count += item.rows * splits * shape->kv_heads;
    }
    return count;
}

static void split_decode(const struct pkvi_gpu_shape* shape, struct pkvi_gpu_item item,
                         uint32_t rows, struct pkvi_gpu_work* work, struct round* round) {
    const uint32_t wanted = count_partial_rows(shape, rows, item);
    if (round->partial_rows + wanted > work->partial_rows) close_round(work, round);
    for (item.kv_head = 0; item.kv_head < shape->kv_heads; item.kv_head++)
        for (item.row = 0; item.row < rows; item.row += PKVI_GPU_DECODE_ROWS) {
            item.rows = tile_rows(rows, item.row, PKVI_GPU_DECODE_ROWS);
            const struct pkvi_gpu_visible visible = visible_to(shape, &item);
            item.splits = splits_of(visible.count);
            item.partial = round->partial_rows;
            item.merge = round->merges;
            split_row_tile(work, item, visible.count);
            if (item.splits == 1) continue;
            round->partial_rows += item.rows * item.splits;
            round->merges++;
        }
}

/* Row tiles from the last one, which sees most, so that the longest items are not the last. */
static void split_prefill(const struct pkvi_gpu_shape* shape, struct pkvi_gpu_item item,
                          uint32_t rows, struct pkvi_gpu_work* work) {
    for (uint32_t tile = divided_up(rows, PKVI_GPU_PREFILL_ROWS); tile-- > 0;)
        for (item.kv_head = 0; item.kv_head < shape->kv_heads; item.kv_head++) {
            item.row = tile * PKVI_GPU_PREFILL_ROWS;
            item.rows = tile_rows(rows, item.row, PKVI_GPU_PREFILL_ROWS);
            item.splits = 1;
            item.tile_end = visible_to(shape, &item).count;
            work->prefill[work->prefill_count++] = item;
        }
}

void pkvi_gpu_split(const struct pkvi_gpu_shape* shape, struct pkvi_gpu_work* work) {
    struct round round = {0, 0};
    work->decode_count = 0;
    work->prefill_count = 0;
    work->rounds = 0;
    work->merges = 0;
    for (uint32_t e = 0; e < shape->entries; e++) {
        const struct pkvi_gpu_item item = {.entry = e};
        const uint32_t rows = (shape->starts[e + 1] - shape->starts[e]) * shape->group_heads;
        if (pkvi_gpu_is_decode(rows))
            split_decode(shape, item, rows, work, &round);
        else
            split_prefill(shape, item, rows, work);
    }
    const uint32_t closed = work->rounds > 0 ? work->round_ends[work->rounds - 1] : 0;
    if (work->decode_count > closed) close_round(work, &round);
}
