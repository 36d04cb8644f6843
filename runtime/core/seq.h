/* seq.h - sequences: their length, their table, and the verbs on them.
 *
 *   tokens   0 ........................ length ............ length + reserved
 *            committed: shared, cached,        reserved: have slots, are
 *            readable                          being computed, nobody else's
 *
 * Holds   S1  pages == ceil((length + reserved) / block_tokens); 0 while the sequence is away
 *         S2  blocks of reserved tokens have one reference and stand in private leaves
 *         S3  known <= length + reserved: so many leading tokens have their ids in the blocks. Only
 *             pages of known tokens are ever indexed
 *         S4  rolled pages read PKV_NO_BLOCK: those from the sinks up to rolled_end
 * Threads the cache's lock. */
#ifndef PKVI_CORE_SEQ_H
#define PKVI_CORE_SEQ_H

#include "core/handle.h"
#include "core/table.h"

struct pkvi_seq {
    uint64_t tenant;
    uint32_t account; /* of the tenant (quota.h) */
    struct pkvi_table table;
    uint32_t generation;
    uint32_t length;
    uint32_t reserved;
    uint32_t known;
    uint32_t matched;    /* pages that it found in the index when it began */
    uint32_t rolled_end; /* first page that has not been considered for roll-off */
    uint32_t version;    /* moves on when an entry of the table changes or goes */
    uint32_t readers;    /* calls that read it outside the lock */
    uint32_t next_free;
    uint32_t extra;               /* its set of extra keys, or PKVI_NO_EXTRA (extra.h) */
    uint32_t announced;           /* first of what it has announced, or PKVI_NONE (pending.h) */
    uint32_t host_head;           /* first of its slots in the host tier, or PKVI_NONE (tier.h) */
    enum pkv_residence residence; /* moved by swap.c alone */
    int arrival;                  /* how its arrival failed, while a plan still holds its blocks */
    uint64_t mark;      /* serial of the last batch that named it, to find a sequence named twice */
    uint64_t pin_owner; /* of a pin; see pin.h */
    uint64_t pin_deadline_us; /* UINT64_MAX: none */
    bool alive;
    bool is_pin;
    bool in_plan;
    bool is_uncached;  /* its extra keys found no room: the index has nothing to do with it */
    bool is_unindexed; /* it has arrived, and its pages have not been offered to the index again */
};

struct pkvi_seqs {
    struct pkvi_seq* slots;
    uint32_t* directories; /* [sequences_max][leaves of the longest sequence] */
    uint32_t count_max;
    uint32_t alive_count;
    uint32_t free_head;
};

int pkvi_seqs_open(struct pkvi_seqs* seqs, struct pkvi_mem* mem, const pkv_config* config,
                   uint32_t first_generation);
void pkvi_seqs_close(struct pkvi_seqs* seqs, struct pkvi_mem* mem);

/* PKV_ESTALE unless `handle` names a live sequence of this cache. */
int pkvi_seq_find(const struct pkvi_seqs* seqs, pkv_seq handle, struct pkvi_seq** seq);
pkv_seq pkvi_seq_handle(const struct pkvi_seqs* seqs, const struct pkvi_seq* seq);

/* The verbs behind the public functions of the same names; errors as in pagedkv.h. */
int pkvi_seq_create(pkv_cache* cache, uint64_t tenant, pkv_seq* handle);
int pkvi_seq_match(pkv_cache* cache, struct pkvi_seq* seq, const uint32_t* tokens, uint32_t count,
                   uint32_t* matched);
int pkvi_seq_lookup(pkv_cache* cache, const struct pkvi_seq* seq, const uint32_t* tokens,
                    uint32_t count, pkv_match* match);
int pkvi_seq_announce(pkv_cache* cache, struct pkvi_seq* seq, const uint32_t* tokens,
                      uint32_t count);
int pkvi_seq_set_keys(pkv_cache* cache, struct pkvi_seq* seq, const void* salt, uint32_t salt_bytes,
                      const pkv_extra_key* keys, uint32_t count);
int pkvi_seq_publish(pkv_cache* cache, struct pkvi_seq* seq, uint32_t count, uint32_t* published);
int pkvi_seq_check_fork(pkv_cache* cache, const struct pkvi_seq* seq);
/* pre: pkvi_seq_check_fork. Cannot fail. */
struct pkvi_seq* pkvi_seq_fork(pkv_cache* cache, const struct pkvi_seq* seq);
int pkvi_seq_truncate(pkv_cache* cache, struct pkvi_seq* seq, uint32_t length);
int pkvi_seq_free(pkv_cache* cache, struct pkvi_seq* seq);

/* Make the reserved tokens part of the sequence: index full pages, roll off. Cannot fail. */
void pkvi_seq_commit(pkv_cache* cache, struct pkvi_seq* seq);

/* Its tenant has another account from now on. */
void pkvi_seq_move(pkv_cache* cache, struct pkvi_seq* seq, uint32_t account);

/* Give its slots of the host tier back. Cannot fail. */
void pkvi_seq_give_slots(pkv_cache* cache, struct pkvi_seq* seq);

/* Give the reserved tokens up, all of them or those behind the first `count`. Cannot fail. */
void pkvi_seq_drop_reserved(pkv_cache* cache, struct pkvi_seq* seq);
void pkvi_seq_keep_reserved(pkv_cache* cache, struct pkvi_seq* seq, uint32_t count);

/* May a call change the sequence now? PKV_EBUSY while a plan, a reader or a transfer holds it, and
 * PKV_EAWAY. */
int pkvi_seq_check_idle(const struct pkvi_seq* seq);

/* Are its blocks there, and nobody moves them? PKV_EBUSY while a transfer does, and PKV_EAWAY. */
int pkvi_seq_check_resident(const struct pkvi_seq* seq);

/* Does the prefix index serve it? */
bool pkvi_seq_is_cached(const pkv_cache* cache, const struct pkvi_seq* seq);

/* Offer all full pages to the prefix index. pre: it is in no plan. Cannot fail. */
void pkvi_seq_index(pkv_cache* cache, struct pkvi_seq* seq);

/* Make the last, partly filled page a node of its own: the sequence is about to end. Cannot fail. */
void pkvi_seq_index_tail(pkv_cache* cache, struct pkvi_seq* seq);

/* The slots of `count` positions from `first` on, which have them. */
void pkvi_seq_slots(const pkv_cache* cache, const struct pkvi_seq* seq, uint32_t first,
                    uint32_t count, uint32_t* slots);

#endif
