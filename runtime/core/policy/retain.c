/* retain.c - see retain.h. */
#include "core/policy/retain.h"

#include <assert.h>

int pkvi_retention_open(struct pkvi_retention* retention, struct pkvi_mem* mem, uint32_t blocks,
                        uint32_t rows, uint32_t domains) {
    *retention = (struct pkvi_retention){.row_count = rows, .free_head = PKVI_NONE};
    if (rows == 0) return PKV_OK;
    PKVI_TRY(pkvi_mem_take(mem, rows, sizeof *retention->rows, (void**)&retention->rows));
    PKVI_TRY(pkvi_mem_take(mem, rows, sizeof *retention->heap, (void**)&retention->heap));
    PKVI_TRY(pkvi_mem_take(mem, blocks, sizeof *retention->row_of, (void**)&retention->row_of));
    PKVI_TRY(pkvi_mem_take(mem, domains, sizeof *retention->levels, (void**)&retention->levels));
    for (uint32_t block = 0; block < blocks; block++)
        retention->row_of[block] = PKVI_NONE;
    for (uint32_t row = rows; row-- > 0;) {
        retention->rows[row].block = PKVI_NONE;
        retention->rows[row].next = retention->free_head;
        retention->free_head = row;
    }
    for (uint32_t i = 0; i < domains; i++)
        for (uint32_t level = 0; level < PKVI_LEVELS; level++)
            retention->levels[i].level[level] = (struct pkvi_level){PKVI_NONE, PKVI_NONE};
    return PKV_OK;
}

void pkvi_retention_close(struct pkvi_retention* retention, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, retention->levels);
    pkvi_mem_give(mem, retention->row_of);
    pkvi_mem_give(mem, retention->heap);
    pkvi_mem_give(mem, retention->rows);
}

static struct pkvi_retained* row_of(const struct pkvi_retention* retention, uint32_t block) {
    assert(pkvi_is_retained(retention, block));
    return &retention->rows[retention->row_of[block]];
}

static bool is_hidden(const struct pkvi_retained* row) {
    return row->terms.level != PKV_PRIORITY_DEFAULT;
}

/* ---- Moments --------------------------------------------------------------------------------- */

static uint64_t later(uint64_t since_us, uint64_t us) {
    return us < PKVI_NEVER - since_us ? since_us + us : PKVI_NEVER;
}

static uint64_t over_us(const struct pkvi_retained* row) {
    return later(row->since_us, row->terms.ttl_us);
}

uint64_t pkvi_retained_due_us(const struct pkvi_retained* row) {
    if (row->since_us == PKVI_NEVER) return PKVI_NEVER;
    const uint64_t over = over_us(row);
    const uint64_t lapse = is_hidden(row) ? later(row->since_us, row->terms.duration_us) : over;
    return lapse < over ? lapse : over;
}

static bool is_before(const struct pkvi_retained* a, const struct pkvi_retained* b) {
    const uint64_t due_a = pkvi_retained_due_us(a);
    const uint64_t due_b = pkvi_retained_due_us(b);
    return due_a != due_b ? due_a < due_b : a->turn < b->turn;
}

/* ---- The heap -------------------------------------------------------------------------------- */

static struct pkvi_retained* heap_row(const struct pkvi_retention* retention, uint32_t place) {
    return &retention->rows[retention->heap[place]];
}

static void heap_put(struct pkvi_retention* retention, uint32_t place, struct pkvi_retained* row) {
    retention->heap[place] = (uint32_t)(row - retention->rows);
    row->place = place;
}

/* Put `row` at `place` or above it, where it belongs. */
static void heap_rise(struct pkvi_retention* retention, uint32_t place, struct pkvi_retained* row) {
    while (place > 0 && is_before(row, heap_row(retention, (place - 1) / 2))) {
        heap_put(retention, place, heap_row(retention, (place - 1) / 2));
        place = (place - 1) / 2;
    }
    heap_put(retention, place, row);
}

/* The child of `place` that comes first, or PKVI_NONE. */
static uint32_t first_child(const struct pkvi_retention* retention, uint32_t place) {
    const uint32_t left = 2 * place + 1;
    const uint32_t right = left + 1;
    if (left >= retention->heap_count) return PKVI_NONE;
    if (right >= retention->heap_count) return left;
    return is_before(heap_row(retention, right), heap_row(retention, left)) ? right : left;
}

/* Put `row` at `place` or below it. */
static void heap_sink(struct pkvi_retention* retention, uint32_t place, struct pkvi_retained* row) {
    uint32_t child = first_child(retention, place);
    while (child != PKVI_NONE && is_before(heap_row(retention, child), row)) {
        heap_put(retention, place, heap_row(retention, child));
        place = child;
        child = first_child(retention, place);
    }
    heap_put(retention, place, row);
}

static void heap_insert(struct pkvi_retention* retention, struct pkvi_retained* row) {
    heap_rise(retention, retention->heap_count++, row);
}

static void heap_remove(struct pkvi_retention* retention, struct pkvi_retained* row) {
    const uint32_t place = row->place;
    struct pkvi_retained* last = heap_row(retention, --retention->heap_count);
    row->place = PKVI_NONE;
    if (last == row) return;
    heap_sink(retention, place, last);
    heap_rise(retention, last->place, last);
}

/* ---- Lists of levels ------------------------------------------------------------------------- */

static void count_row(struct pkvi_levels* levels, const struct pkvi_retained* row,
                      uint32_t change) {
    levels->count += change;
    if (row->terms.level < PKV_PRIORITY_DEFAULT) levels->lower_count += change;
}

static void list_append(struct pkvi_retention* retention, struct pkvi_levels* levels,
                        struct pkvi_retained* row) {
    struct pkvi_level* level = &levels->level[row->terms.level];
    const uint32_t number = (uint32_t)(row - retention->rows);
    row->previous = level->tail;
    row->next = PKVI_NONE;
    *(level->tail == PKVI_NONE ? &level->head : &retention->rows[level->tail].next) = number;
    level->tail = number;
    count_row(levels, row, 1);
}

static void list_remove(struct pkvi_retention* retention, struct pkvi_levels* levels,
                        const struct pkvi_retained* row) {
    struct pkvi_level* level = &levels->level[row->terms.level];
    struct pkvi_retained* rows = retention->rows;
    *(row->previous == PKVI_NONE ? &level->head : &rows[row->previous].next) = row->next;
    *(row->next == PKVI_NONE ? &level->tail : &rows[row->next].previous) = row->previous;
    count_row(levels, row, UINT32_MAX);
}

/* ---- Terms ----------------------------------------------------------------------------------- */

bool pkvi_terms_are_default(const struct pkvi_terms* terms) {
    return terms->level == PKV_PRIORITY_DEFAULT && terms->ttl_us == PKVI_NEVER;
}

static void take_row(struct pkvi_retention* retention, uint32_t block,
                     const struct pkvi_terms* terms) {
    const uint32_t number = retention->free_head;
    struct pkvi_retained* row = &retention->rows[number];
    retention->free_head = row->next;
    retention->row_of[block] = number;
    retention->used++;
    *row = (struct pkvi_retained){
        .terms = *terms, .since_us = PKVI_NEVER, .block = block, .place = PKVI_NONE};
}

/* The higher level, with its duration; of equal ones, and of times to live, the longer. */
static void raise_terms(struct pkvi_terms* terms, const struct pkvi_terms* asked) {
    const bool is_higher = asked->level > terms->level;
    const bool is_longer = asked->level == terms->level && asked->duration_us > terms->duration_us;
    terms->level = is_higher ? asked->level : terms->level;
    terms->duration_us = is_higher || is_longer ? asked->duration_us : terms->duration_us;
    terms->ttl_us = asked->ttl_us > terms->ttl_us ? asked->ttl_us : terms->ttl_us;
}

bool pkvi_retain(struct pkvi_retention* retention, uint32_t block, const struct pkvi_terms* terms) {
    if (!pkvi_is_retained(retention, block)) {
        if (pkvi_terms_are_default(terms)) return false;
        take_row(retention, block, terms);
        return true;
    }
    struct pkvi_retained* row = row_of(retention, block);
    assert(row->since_us == PKVI_NEVER);
    raise_terms(&row->terms, terms);
    if (!pkvi_terms_are_default(&row->terms)) return true;
    pkvi_retain_forget(retention, block);
    return false;
}

void pkvi_retain_forget(struct pkvi_retention* retention, uint32_t block) {
    struct pkvi_retained* row = row_of(retention, block);
    assert(row->place == PKVI_NONE);
    row->block = PKVI_NONE;
    row->next = retention->free_head;
    retention->free_head = retention->row_of[block];
    retention->row_of[block] = PKVI_NONE;
    retention->used--;
}

/* ---- Events ---------------------------------------------------------------------------------- */

bool pkvi_retain_rest(struct pkvi_retention* retention, struct pkvi_levels* levels,
                      uint32_t block) {
    struct pkvi_retained* row = row_of(retention, block);
    if (row->since_us == PKVI_NEVER) { /* else it only has another place */
        row->since_us = pkvi_clock_now_us(retention->clock);
        row->turn = retention->turn++;
    }
    if (pkvi_retained_due_us(row) != PKVI_NEVER) heap_insert(retention, row);
    if (is_hidden(row)) list_append(retention, levels, row);
    return is_hidden(row);
}

bool pkvi_retain_leave(struct pkvi_retention* retention, struct pkvi_levels* levels, uint32_t block,
                       bool is_used) {
    struct pkvi_retained* row = row_of(retention, block);
    if (row->place != PKVI_NONE) heap_remove(retention, row);
    if (is_hidden(row)) list_remove(retention, levels, row);
    if (is_used) row->since_us = PKVI_NEVER;
    return is_hidden(row);
}

uint32_t pkvi_retain_first(const struct pkvi_retention* retention,
                           const struct pkvi_levels* levels) {
    uint32_t level = 0;
    assert(levels->count > 0);
    while (levels->level[level].head == PKVI_NONE)
        level++;
    return retention->rows[levels->level[level].head].block;
}

uint64_t pkvi_retain_due_us(const struct pkvi_retention* retention, uint32_t* block) {
    if (retention->heap_count == 0) return PKVI_NEVER;
    const struct pkvi_retained* row = heap_row(retention, 0);
    *block = row->block;
    return pkvi_retained_due_us(row);
}

bool pkvi_retain_is_over(const struct pkvi_retention* retention, uint32_t block, uint64_t now_us) {
    return over_us(row_of(retention, block)) <= now_us;
}

void pkvi_retain_lapse(struct pkvi_retention* retention, uint32_t block) {
    struct pkvi_retained* row = row_of(retention, block);
    row->terms.level = PKV_PRIORITY_DEFAULT;
    row->terms.duration_us = PKVI_NEVER;
    if (pkvi_terms_are_default(&row->terms)) pkvi_retain_forget(retention, block);
}

void pkvi_retain_move(struct pkvi_retention* retention, uint32_t from, uint32_t to) {
    if (!pkvi_is_retained(retention, from)) return;
    row_of(retention, from)->block = to;
    retention->row_of[to] = retention->row_of[from];
    retention->row_of[from] = PKVI_NONE;
}
