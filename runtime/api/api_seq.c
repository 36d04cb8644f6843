/* api_seq.c - the public functions on sequences. */
#include "api/api.h"

int pkv_seq_create(pkv_cache* cache, uint64_t tenant, pkv_seq* seq) {
    if (cache == NULL) return PKV_EINVAL;
    if (seq == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_seq_create(cache, tenant, seq));
}

static int match(pkv_cache* cache, pkv_seq handle, const uint32_t* tokens, uint32_t count,
                 uint32_t* matched) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_seq_match(cache, seq, tokens, count, matched);
}

int pkv_seq_match(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count,
                  uint32_t* matched) {
    if (cache == NULL) return PKV_EINVAL;
    if (matched == NULL) return PKV_EINVAL;
    if (tokens == NULL && count > 0) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, match(cache, seq, tokens, count, matched));
}

static int lookup(pkv_cache* cache, pkv_seq handle, const uint32_t* tokens, uint32_t count,
                  pkv_match* match) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_seq_lookup(cache, seq, tokens, count, match);
}

int pkv_seq_lookup(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count,
                   pkv_match* match) {
    if (cache == NULL) return PKV_EINVAL;
    if (match == NULL) return PKV_EINVAL;
    if (tokens == NULL && count > 0) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, lookup(cache, seq, tokens, count, match));
}

static int announce(pkv_cache* cache, pkv_seq handle, const uint32_t* tokens, uint32_t count) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_seq_announce(cache, seq, tokens, count);
}

int pkv_seq_announce(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count) {
    if (cache == NULL) return PKV_EINVAL;
    if (tokens == NULL && count > 0) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, announce(cache, seq, tokens, count));
}

static int set_keys(pkv_cache* cache, pkv_seq handle, const void* salt, uint32_t salt_bytes,
                    const pkv_extra_key* keys, uint32_t count) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_seq_set_keys(cache, seq, salt, salt_bytes, keys, count);
}

int pkv_seq_set_keys(pkv_cache* cache, pkv_seq seq, const void* salt, uint32_t salt_bytes,
                     const pkv_extra_key* keys, uint32_t count) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, set_keys(cache, seq, salt, salt_bytes, keys, count));
}

static int publish(pkv_cache* cache, pkv_seq handle, uint32_t count, uint32_t* published) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_seq_publish(cache, seq, count, published);
}

int pkv_seq_publish(pkv_cache* cache, pkv_seq seq, uint32_t count, uint32_t* published) {
    if (cache == NULL) return PKV_EINVAL;
    if (published == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, publish(cache, seq, count, published));
}

static int fork_seq(pkv_cache* cache, pkv_seq handle, pkv_seq* child) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_reserve_fork(cache, seq, child);
}

int pkv_seq_fork(pkv_cache* cache, pkv_seq seq, pkv_seq* child) {
    if (cache == NULL) return PKV_EINVAL;
    if (child == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, fork_seq(cache, seq, child));
}

static int truncate_seq(pkv_cache* cache, pkv_seq handle, uint32_t length) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_seq_truncate(cache, seq, length);
}

int pkv_seq_truncate(pkv_cache* cache, pkv_seq seq, uint32_t length) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, truncate_seq(cache, seq, length));
}

static int free_seq(pkv_cache* cache, pkv_seq handle) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_seq_free(cache, seq);
}

int pkv_seq_free(pkv_cache* cache, pkv_seq seq) {
    if (cache == NULL) return PKV_EINVAL;
    if (seq.id == 0) return PKV_OK;
    pkvi_lock(cache);
    return pkvi_unlock(cache, free_seq(cache, seq));
}

static int get_info(const pkv_cache* cache, pkv_seq handle, pkv_seq_info* info) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    *info = (pkv_seq_info){
        .length = seq->length,
        .reserved = seq->reserved,
        .pages = pkvi_pool_pages(&cache->pool, seq->length + seq->reserved),
        .in_plan = seq->in_plan,
        .tenant = seq->tenant,
        .residence = seq->residence,
    };
    return PKV_OK;
}

int pkv_seq_get_info(pkv_cache* cache, pkv_seq seq, pkv_seq_info* info) {
    if (cache == NULL) return PKV_EINVAL;
    if (info == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, get_info(cache, seq, info));
}

static int get_blocks(const pkv_cache* cache, pkv_seq handle, uint32_t begin, uint32_t end,
                      uint32_t* blocks) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    if (begin > end) return PKV_ERANGE;
    if (seq->residence == PKV_AWAY) return PKV_EAWAY;
    if (end > seq->table.pages) return PKV_ERANGE;
    for (uint32_t page = begin; page < end; page++)
        blocks[page - begin] = pkvi_table_get(&cache->leaves, &seq->table, page);
    return PKV_OK;
}

int pkv_seq_blocks(pkv_cache* cache, pkv_seq seq, uint32_t group, uint32_t begin, uint32_t end,
                   uint32_t* blocks) {
    if (cache == NULL) return PKV_EINVAL;
    if (blocks == NULL && begin < end) return PKV_EINVAL;
    if (group >= cache->config.group_count) return PKV_ERANGE;
    pkvi_lock(cache);
    return pkvi_unlock(cache, get_blocks(cache, seq, begin, end, blocks));
}

int pkv_seq_append(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count,
                   uint32_t* slots) {
    if (cache == NULL) return PKV_EINVAL;
    const pkv_entry entry = {seq, tokens, count};
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_seq_append(cache, &entry, slots));
}

static int commit_seq(pkv_cache* cache, pkv_seq handle) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    PKVI_TRY(pkvi_seq_check_idle(seq));
    pkvi_seq_commit(cache, seq);
    return PKV_OK;
}

int pkv_seq_commit(pkv_cache* cache, pkv_seq seq) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, commit_seq(cache, seq));
}

/* ---- K/V in and out -------------------------------------------------------------------------- */

enum { CHUNK_TOKENS = 256 };

/* Positions [begin, end) of one layer, and the arrays that go with them. */
struct span {
    uint32_t layer;
    uint32_t begin;
    uint32_t end;
    pkv_array k;
    pkv_array v;
};

/* A reader keeps the sequence as it is, so that the copying itself can run outside the lock. */
static void reader_leave(pkv_cache* cache, struct pkvi_seq* seq) {
    pkvi_lock(cache);
    seq->readers--;
    pkvi_unlock(cache, PKV_OK);
}

static void advance(pkv_array* array, uint32_t rows) {
    if (array->data == NULL) return;
    const uint64_t bytes = rows * array->row_stride * pkvi_dtype_bytes(array->dtype);
    array->data = (unsigned char*)array->data + bytes;
}

/* Hand a span to the device's write or read, in pieces whose slots fit the stack. */
static int move_span(pkv_cache* cache, const struct pkvi_seq* seq, struct span span,
                     int (*move)(struct pkvi_device* device, const struct pkvi_kv_job* job)) {
    uint32_t slots[CHUNK_TOKENS];
    while (span.begin < span.end) {
        const uint32_t rest = span.end - span.begin;
        const uint32_t count = rest < CHUNK_TOKENS ? rest : CHUNK_TOKENS;
        pkvi_seq_slots(cache, seq, span.begin, count, slots);
        const struct pkvi_kv_job job = {
            .layout = &cache->layout,
            .space = &cache->pool.space,
            .layer = span.layer,
            .tokens = count,
            .slots = slots,
            .k = span.k,
            .v = span.v,
        };
        PKVI_TRY(move(cache->device, &job));
        advance(&span.k, count);
        advance(&span.v, count);
        span.begin += count;
    }
    return PKV_OK;
}

static int read_enter(pkv_cache* cache, pkv_seq handle, uint32_t begin, uint32_t end,
                      struct pkvi_seq** seq) {
    const uint32_t block_tokens = cache->pool.block_tokens;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, seq));
    if ((*seq)->in_plan) return PKV_EBUSY;
    PKVI_TRY(pkvi_seq_check_resident(*seq));
    if (end > (*seq)->length) return PKV_ERANGE;
    const uint32_t page_end = begin < end ? pkvi_ceil_div(end, block_tokens) : 0;
    for (uint32_t page = begin / block_tokens; page < page_end; page++)
        if (pkvi_table_get(&cache->leaves, &(*seq)->table, page) == PKV_NO_BLOCK) return PKV_ERANGE;
    (*seq)->readers++;
    return PKV_OK;
}

static int resolve_optional(const pkv_array* array, uint32_t rows, uint32_t heads, uint32_t dim,
                            pkv_array* resolved) {
    *resolved = (pkv_array){.data = NULL};
    if (array == NULL) return PKV_OK;
    if (rows == 0) return PKV_OK;
    return pkvi_array_resolve(array, rows, heads, dim, true, resolved);
}

int pkv_seq_read(pkv_cache* cache, pkv_seq seq, uint32_t layer, uint32_t begin, uint32_t end,
                 const pkv_array* k, const pkv_array* v) {
    if (cache == NULL) return PKV_EINVAL;
    const pkv_group_config* group = &cache->layout.group;
    if (layer >= group->layers) return PKV_ERANGE;
    if (begin > end) return PKV_ERANGE;
    struct span span = {.layer = layer, .begin = begin, .end = end};
    struct pkvi_seq* found;
    PKVI_TRY(resolve_optional(k, end - begin, group->kv_heads, group->key_dim, &span.k));
    PKVI_TRY(resolve_optional(v, end - begin, group->kv_heads, group->value_dim, &span.v));
    pkvi_lock(cache);
    PKVI_TRY(pkvi_unlock(cache, read_enter(cache, seq, begin, end, &found)));
    const int status = move_span(cache, found, span, cache->device->ops->read);
    reader_leave(cache, found);
    return status;
}

/* The arrays can only be checked when it is known how many tokens are reserved. */
static int write_enter(pkv_cache* cache, pkv_seq handle, const pkv_array* k, const pkv_array* v,
                       struct span* span, struct pkvi_seq** seq) {
    const pkv_group_config* group = &cache->layout.group;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, seq));
    const uint32_t rows = (*seq)->reserved;
    if ((*seq)->in_plan) return PKV_EBUSY;
    PKVI_TRY(pkvi_seq_check_resident(*seq));
    if (rows == 0) return PKV_ERANGE;
    PKVI_TRY(pkvi_array_resolve(k, rows, group->kv_heads, group->key_dim, false, &span->k));
    PKVI_TRY(pkvi_array_resolve(v, rows, group->kv_heads, group->value_dim, false, &span->v));
    span->begin = (*seq)->length;
    span->end = (*seq)->length + rows;
    (*seq)->readers++;
    return PKV_OK;
}

int pkv_seq_write(pkv_cache* cache, pkv_seq seq, uint32_t layer, const pkv_array* k,
                  const pkv_array* v) {
    if (cache == NULL) return PKV_EINVAL;
    if (k == NULL) return PKV_EINVAL;
    if (v == NULL) return PKV_EINVAL;
    if (layer >= cache->layout.group.layers) return PKV_ERANGE;
    struct span span = {.layer = layer};
    struct pkvi_seq* found;
    pkvi_lock(cache);
    PKVI_TRY(pkvi_unlock(cache, write_enter(cache, seq, k, v, &span, &found)));
    const int status = move_span(cache, found, span, cache->device->ops->write);
    reader_leave(cache, found);
    return status;
}
