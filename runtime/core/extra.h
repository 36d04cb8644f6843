/* extra.h - keys that sequences have beside their token ids: of images, of adapters, and a salt.
 *
 * A token id does not say everything that K and V depend on. What stands for an image has the same
 * ids whatever the image; an adapter changes all of them. A sequence may therefore have a set of
 * extra keys: bytes for ranges of positions, and a salt, which belongs to position 0. Blocks are
 * found only by sequences whose keys over the positions of the block are the same, byte for byte.
 *
 * Sets are kept once each, in a fixed number of slots, and named by a number: slot and generation.
 * Sequences hold their set. Nodes of the prefix index only name it: when all slots are taken, the
 * set that no sequence has held for longest goes, and nodes that name it are found no more. When
 * sequences hold all of them, one more set is not kept, and its sequence is not cached.
 *
 *   set 7   salt "acme"     [ 3, 40) "sha256 of image 1"     [ 90, 127) "sha256 of image 2"
 *
 * Holds   E1  a slot's holders are the living sequences that name it; it is unused, or filed in its
 *             bucket; it is on the list of those without holders exactly if it has none
 * Cost    O(bytes of the set), once for a sequence; sequences and blocks without keys pay nothing.
 * Threads the cache's lock. */
#ifndef PKVI_CORE_EXTRA_H
#define PKVI_CORE_EXTRA_H

#include "base/hash.h"
#include "base/mem.h"
#include <stdbool.h>

enum { PKVI_NO_EXTRA = 0 };

struct pkvi_extra_slot {
    uint64_t hash; /* of the encoded set */
    uint32_t id;   /* names it; PKVI_NO_EXTRA: nothing was ever kept here */
    uint32_t holders;
    uint32_t bytes;    /* of the encoded set */
    uint32_t chain;    /* next slot of the bucket */
    uint32_t previous; /* neighbours on the list of slots without holders */
    uint32_t next;
};

struct pkvi_extras {
    struct pkvi_hash_key key;
    struct pkvi_extra_slot* slots; /* [count_max] */
    unsigned char* bytes;          /* [count_max][bytes_max] encoded sets */
    unsigned char* scratch;        /* [bytes_max] the set that is looked for */
    uint32_t* buckets;
    uint32_t bucket_mask;
    uint32_t count_max;
    uint32_t bytes_max;
    uint32_t free_head; /* slots without holders: the one that goes first */
    uint32_t free_tail;
};

int pkvi_extras_open(struct pkvi_extras* extras, struct pkvi_mem* mem, struct pkvi_hash_key key,
                     uint32_t count_max, uint32_t bytes_max);
void pkvi_extras_close(struct pkvi_extras* extras, struct pkvi_mem* mem);

/* Keep a set and hold it; its number goes to *id. False when sequences hold all slots.
 * pre: what pkvi_extra_check says. */
bool pkvi_extra_take(struct pkvi_extras* extras, const void* salt, uint32_t salt_bytes,
                     const pkv_extra_key* keys, uint32_t count, uint32_t* id);

/* Are the ranges in order and apart, and does the set fit?
 * Errors  PKV_EINVAL, PKV_ETOOBIG. */
int pkvi_extra_check(const struct pkvi_extras* extras, const void* salt, uint32_t salt_bytes,
                     const pkv_extra_key* keys, uint32_t count);

/* One more sequence, or one less, has the set; PKVI_NO_EXTRA is allowed. */
void pkvi_extra_hold(struct pkvi_extras* extras, uint32_t id);
void pkvi_extra_release(struct pkvi_extras* extras, uint32_t id);

/* Is the set still kept, or no set? */
bool pkvi_extra_is_known(const struct pkvi_extras* extras, uint32_t id);

/* A hash of the keys over positions [begin, end): equal keys, equal hashes. 0: there are none. */
uint64_t pkvi_extra_hash(const struct pkvi_extras* extras, uint32_t id, uint32_t begin,
                         uint32_t end);

/* How many of the positions from `begin` on, at most `count`, have the same keys in both sets? A
 * set that is gone has nothing in common with any. */
uint32_t pkvi_extra_common(const struct pkvi_extras* extras, uint32_t a, uint32_t b, uint32_t begin,
                           uint32_t count);

#endif
