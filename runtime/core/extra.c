/* extra.c - see extra.h.
 *
 * A set is encoded as a run of records, [begin][end][size][bytes], the salt first, as a record of
 * the empty range [0, 0). Ranges that touch and have the same bytes are one, so that equal keys of
 * all positions mean equal encodings, and a range cut to a block says all of its part. */
#include "core/extra.h"

#include "base/limits.h"
#include "core/policy/policy.h"
#include <assert.h>
#include <string.h>

struct record {
    uint32_t begin, end, size;
    const unsigned char* bytes;
};

enum { HEAD_BYTES = 3 * sizeof(uint32_t) };

static uint32_t bucket_count_for(uint32_t count) {
    uint32_t bits = 0;
    while (bits < PKVI_HASH_BITS_MAX && (1U << bits) < count)
        bits++;
    return 1U << bits;
}

/* ---- Slots without holders: a list, the one that goes first in front ------------------------- */

static void append_free(struct pkvi_extras* extras, uint32_t slot) {
    struct pkvi_extra_slot* s = &extras->slots[slot];
    s->previous = extras->free_tail;
    s->next = PKVI_NONE;
    if (extras->free_tail == PKVI_NONE)
        extras->free_head = slot;
    else
        extras->slots[extras->free_tail].next = slot;
    extras->free_tail = slot;
}

static void remove_free(struct pkvi_extras* extras, uint32_t slot) {
    const struct pkvi_extra_slot* s = &extras->slots[slot];
    if (s->previous == PKVI_NONE)
        extras->free_head = s->next;
    else
        extras->slots[s->previous].next = s->next;
    if (s->next == PKVI_NONE)
        extras->free_tail = s->previous;
    else
        extras->slots[s->next].previous = s->previous;
}

int pkvi_extras_open(struct pkvi_extras* extras, struct pkvi_mem* mem, struct pkvi_hash_key key,
                     uint32_t count_max, uint32_t bytes_max) {
    const uint32_t buckets = bucket_count_for(count_max);
    *extras = (struct pkvi_extras){.key = key,
                                   .bucket_mask = buckets - 1,
                                   .count_max = count_max,
                                   .bytes_max = bytes_max,
                                   .free_head = PKVI_NONE,
                                   .free_tail = PKVI_NONE};
    PKVI_TRY(pkvi_mem_take(mem, count_max, sizeof *extras->slots, (void**)&extras->slots));
    PKVI_TRY(pkvi_mem_take(mem, count_max, bytes_max, (void**)&extras->bytes));
    PKVI_TRY(pkvi_mem_take(mem, 1, bytes_max, (void**)&extras->scratch));
    PKVI_TRY(pkvi_mem_take(mem, buckets, sizeof *extras->buckets, (void**)&extras->buckets));
    for (uint32_t i = 0; i < buckets; i++)
        extras->buckets[i] = PKVI_NONE;
    for (uint32_t i = 0; i < count_max; i++)
        append_free(extras, i);
    return PKV_OK;
}

void pkvi_extras_close(struct pkvi_extras* extras, struct pkvi_mem* mem) {
    pkvi_mem_give(mem, extras->buckets);
    pkvi_mem_give(mem, extras->scratch);
    pkvi_mem_give(mem, extras->bytes);
    pkvi_mem_give(mem, extras->slots);
}

/* ---- Records --------------------------------------------------------------------------------- */

/* Ids count up by count_max in each slot, so that one names its slot, and never comes back. */
static struct pkvi_extra_slot* slot_of(const struct pkvi_extras* extras, uint32_t id) {
    if (id == PKVI_NO_EXTRA) return NULL;
    struct pkvi_extra_slot* slot = &extras->slots[(id - 1) % extras->count_max];
    return slot->id == id ? slot : NULL;
}

static const unsigned char* bytes_of(const struct pkvi_extras* extras, uint32_t slot) {
    return extras->bytes + (size_t)slot * extras->bytes_max;
}

static struct record read_record(const unsigned char* at) {
    struct record r;
    memcpy(&r.begin, at, sizeof r.begin);
    memcpy(&r.end, at + sizeof r.begin, sizeof r.end);
    memcpy(&r.size, at + sizeof r.begin + sizeof r.end, sizeof r.size);
    r.bytes = at + HEAD_BYTES;
    return r;
}

static uint32_t write_record(unsigned char* at, struct record r) {
    memcpy(at, &r.begin, sizeof r.begin);
    memcpy(at + sizeof r.begin, &r.end, sizeof r.end);
    memcpy(at + sizeof r.begin + sizeof r.end, &r.size, sizeof r.size);
    memcpy(at + HEAD_BYTES, r.bytes, r.size);
    return HEAD_BYTES + r.size;
}

/* The record of the key at a position, or of the salt; size 0: there is none. */
static struct record find_record(const struct pkvi_extras* extras, uint32_t id, bool is_salt,
                                 uint32_t position) {
    const struct pkvi_extra_slot* slot = slot_of(extras, id);
    const uint32_t bytes = slot != NULL ? slot->bytes : 0;
    const unsigned char* set =
        slot != NULL ? bytes_of(extras, (uint32_t)(slot - extras->slots)) : NULL;
    for (uint32_t at = 0; at < bytes;) {
        const struct record r = read_record(set + at);
        const bool is_this =
            is_salt ? r.end == 0 : r.end > 0 && r.begin <= position && position < r.end;
        if (is_this) return r;
        at += HEAD_BYTES + r.size;
    }
    return (struct record){0, 0, 0, NULL};
}

/* ---- Sets ------------------------------------------------------------------------------------ */

int pkvi_extra_check(const struct pkvi_extras* extras, const void* salt, uint32_t salt_bytes,
                     const pkv_extra_key* keys, uint32_t count) {
    uint64_t bytes = salt_bytes > 0 ? (uint64_t)HEAD_BYTES + salt_bytes : 0;
    uint32_t end = 0;
    if (salt == NULL && salt_bytes > 0) return PKV_EINVAL;
    if (keys == NULL && count > 0) return PKV_EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        if (keys[i].bytes == NULL) return PKV_EINVAL;
        if (keys[i].size == 0) return PKV_EINVAL;
        if (keys[i].begin < end || keys[i].end <= keys[i].begin) return PKV_EINVAL;
        end = keys[i].end;
        bytes += (uint64_t)HEAD_BYTES + keys[i].size;
        if (bytes > extras->bytes_max) return PKV_ETOOBIG;
    }
    return bytes <= extras->bytes_max ? PKV_OK : PKV_ETOOBIG;
}

static bool may_join(struct record r, const pkv_extra_key* key) {
    if (r.size != key->size || r.end != key->begin || r.end == 0) return false;
    return memcmp(r.bytes, key->bytes, r.size) == 0;
}

/* Into the scratch; returns the bytes. */
static uint32_t encode(struct pkvi_extras* extras, const void* salt, uint32_t salt_bytes,
                       const pkv_extra_key* keys, uint32_t count) {
    uint32_t last = 0;
    uint32_t bytes = 0;
    if (salt_bytes > 0)
        bytes = write_record(extras->scratch, (struct record){0, 0, salt_bytes, salt});
    for (uint32_t i = 0; i < count; i++) {
        const struct record r = {keys[i].begin, keys[i].end, keys[i].size, keys[i].bytes};
        if (i > 0 && may_join(read_record(extras->scratch + last), &keys[i])) {
            memcpy(extras->scratch + last + sizeof r.begin, &r.end, sizeof r.end);
            continue;
        }
        last = bytes;
        bytes += write_record(extras->scratch + bytes, r);
    }
    return bytes;
}

static uint32_t find_set(const struct pkvi_extras* extras, uint64_t hash, uint32_t bytes) {
    uint32_t slot = extras->buckets[hash & extras->bucket_mask];
    for (; slot != PKVI_NONE; slot = extras->slots[slot].chain) {
        const struct pkvi_extra_slot* s = &extras->slots[slot];
        if (s->hash != hash || s->bytes != bytes) continue;
        if (memcmp(bytes_of(extras, slot), extras->scratch, bytes) == 0) break;
    }
    return slot;
}

static void unfile(struct pkvi_extras* extras, uint32_t slot) {
    uint32_t* link = &extras->buckets[extras->slots[slot].hash & extras->bucket_mask];
    while (*link != slot)
        link = &extras->slots[*link].chain;
    *link = extras->slots[slot].chain;
}

/* Put the set in the scratch into a slot that nobody holds. */
static void file(struct pkvi_extras* extras, uint32_t slot, uint64_t hash, uint32_t bytes) {
    struct pkvi_extra_slot* s = &extras->slots[slot];
    uint32_t* bucket = &extras->buckets[hash & extras->bucket_mask];
    if (s->id != PKVI_NO_EXTRA) unfile(extras, slot);
    s->id = s->id == PKVI_NO_EXTRA ? slot + 1 : s->id + extras->count_max;
    s->hash = hash;
    s->bytes = bytes;
    s->chain = *bucket;
    *bucket = slot;
    memcpy(extras->bytes + (size_t)slot * extras->bytes_max, extras->scratch, bytes);
}

bool pkvi_extra_take(struct pkvi_extras* extras, const void* salt, uint32_t salt_bytes,
                     const pkv_extra_key* keys, uint32_t count, uint32_t* id) {
    const uint32_t bytes = encode(extras, salt, salt_bytes, keys, count);
    const uint64_t hash = pkvi_hash(extras->key, extras->scratch, bytes);
    uint32_t slot = find_set(extras, hash, bytes);
    if (slot == PKVI_NONE) {
        slot = extras->free_head;
        if (slot == PKVI_NONE) return false;
        /* A slot whose numbers are used up is not used again: a number never comes back. */
        if (extras->slots[slot].id > UINT32_MAX - extras->count_max) return false;
        file(extras, slot, hash, bytes);
    }
    *id = extras->slots[slot].id;
    pkvi_extra_hold(extras, *id);
    return true;
}

void pkvi_extra_hold(struct pkvi_extras* extras, uint32_t id) {
    struct pkvi_extra_slot* slot = slot_of(extras, id);
    if (slot == NULL) return;
    if (slot->holders++ == 0) remove_free(extras, (uint32_t)(slot - extras->slots));
}

void pkvi_extra_release(struct pkvi_extras* extras, uint32_t id) {
    struct pkvi_extra_slot* slot = slot_of(extras, id);
    if (slot == NULL) return;
    assert(slot->holders > 0);
    if (--slot->holders == 0) append_free(extras, (uint32_t)(slot - extras->slots));
}

bool pkvi_extra_is_known(const struct pkvi_extras* extras, uint32_t id) {
    return id == PKVI_NO_EXTRA || slot_of(extras, id) != NULL;
}

/* ---- Keys of positions ----------------------------------------------------------------------- */

static uint64_t fold_record(const struct pkvi_extras* extras, uint64_t hash, struct record r,
                            uint32_t begin, uint32_t end) {
    const uint32_t from = r.begin > begin ? r.begin : begin;
    const uint32_t to = r.end < end ? r.end : end;
    const uint64_t part[3] = {hash, (uint64_t)(from - begin) << 32 | (to - begin),
                              pkvi_hash(extras->key, r.bytes, r.size)};
    return pkvi_hash(extras->key, part, sizeof part) | 1; /* never "none" */
}

uint64_t pkvi_extra_hash(const struct pkvi_extras* extras, uint32_t id, uint32_t begin,
                         uint32_t end) {
    const struct pkvi_extra_slot* slot = slot_of(extras, id);
    uint64_t hash = 0;
    if (slot == NULL) return 0;
    const unsigned char* set = bytes_of(extras, (uint32_t)(slot - extras->slots));
    for (uint32_t at = 0; at < slot->bytes;) {
        const struct record r = read_record(set + at);
        const bool is_salt = r.end == 0;
        if (is_salt && begin == 0) hash = fold_record(extras, hash, r, 0, 0);
        if (!is_salt && r.begin < end && begin < r.end)
            hash = fold_record(extras, hash, r, begin, end);
        at += HEAD_BYTES + r.size;
    }
    return hash;
}

static bool records_have_one_key(struct record a, struct record b) {
    if (a.size != b.size) return false;
    return a.size == 0 || memcmp(a.bytes, b.bytes, a.size) == 0;
}

uint32_t pkvi_extra_common(const struct pkvi_extras* extras, uint32_t a, uint32_t b, uint32_t begin,
                           uint32_t count) {
    if (!pkvi_extra_is_known(extras, a) || !pkvi_extra_is_known(extras, b)) return 0;
    if (a == b) return count;
    if (begin == 0 &&
        !records_have_one_key(find_record(extras, a, true, 0), find_record(extras, b, true, 0)))
        return 0;
    uint32_t common = 0;
    while (common < count && records_have_one_key(find_record(extras, a, false, begin + common),
                                                  find_record(extras, b, false, begin + common)))
        common++;
    return common;
}
