/* model.h - the slow, obvious truth that the library is compared with.
 *
 * A sequence is plain arrays: what token stands at each position, and what K/V value was stored
 * there. Nothing is shared; a fork copies the arrays. Beside them stand the books: which sequences
 * name a block, which blocks are in the prefix index under which parent, and since when they are
 * idle. Books are kept by counting and searching, never by the tricks of the library (no leaves, no
 * hashes, no free lists in extents), and know blocks by numbers of their own.
 *
 * Each call of the library has two functions here. `..._errors` says, before the call, which
 * statuses the header allows for it now; the other applies the effect after the call has succeeded.
 * Where several errors hold at once, the header does not say which one wins, so any of them will
 * do.
 *
 *   must   one of these statuses has to be returned; empty: the call has to succeed
 *   may    these may be returned though the call could also succeed
 *
 * Values  chain   32-bit hash of tenant and all tokens up to a position: equal prefixes, equal
 *                 chains
 *         fill    the value stored as K/V, made from the chain and two bits of the tenant; 0 means
 *                 "not known", since the test committed slots that it had not written */
#ifndef TESTS_SIM_MODEL_H
#define TESTS_SIM_MODEL_H

#include "pagedkv.h"
#include <stdbool.h>

enum {
    MODEL_NONE = 0x7fffffff,   /* no sequence, no block, no parent */
    MODEL_ROLLED = 0x7ffffffe, /* in place of a block: rolled off */
    MODEL_ORPHAN = 0x7ffffffd, /* in place of a parent: it has left the index */
    MODEL_UNSEEN = 0x7ffffffc, /* block number of the library not yet looked up */
    MODEL_ACCOUNTS = 5,        /* tenants with a quota, and all others in the first place */
    MODEL_CACHES = 3,          /* that can share an arena, */
    MODEL_EXTENTS = 1024,      /* of so many extents at most */
};

/* How long a cached block is kept; see pkv_seq_retain. */
typedef struct model_terms {
    uint32_t priority;
    uint64_t duration_us; /* UINT64_MAX: without end */
    uint64_t ttl_us;      /* likewise */
} model_terms;

typedef struct model_block {
    uint32_t holders; /* page table entries that name it, counted per sequence */
    bool indexed;
    uint64_t tenant;
    uint32_t parent; /* of an index entry: block, MODEL_NONE for a first page, or MODEL_ORPHAN */
    uint64_t idle_since; /* a stamp, for the order */
    uint64_t idle_us;    /* the time */
    uint64_t left_with;  /* blocks of one sequence that became idle together have the same number */
    model_terms terms;
    uint32_t real; /* the library's number for it */
    uint32_t fill; /* of an index entry: how many tokens it has */
    uint64_t indexed_at;
    bool published;   /* every tenant finds it */
    uint32_t salt;    /* of the sequence that made it, when it is a first page */
    uint32_t* keys;   /* [block_tokens] its extra keys, of an index entry */
    uint32_t* tokens; /* [block_tokens], of an index entry */
    uint32_t* fills;  /* [block_tokens], likewise */
} model_block;

typedef struct model_seq {
    bool alive;
    bool in_plan;
    enum pkv_residence residence;
    uint64_t tenant;
    uint32_t length;
    uint32_t reserved;
    uint32_t known;    /* leading tokens whose ids the library was told */
    uint32_t* tokens;  /* [sequence_tokens_max] */
    uint32_t* chains;  /* [sequence_tokens_max] */
    uint32_t* fills;   /* [sequence_tokens_max] */
    uint32_t* blocks;  /* [pages] */
    bool is_tree;      /* the reserved tokens are one, */
    uint32_t* parents; /* [sequence_tokens_max] with these parents, by their places among them */
    uint32_t salt;     /* stands for any bytes; 0: none */
    uint32_t* keys;    /* [sequence_tokens_max] extra key at each position; 0: none */
    uint32_t announced_begin; /* pages that it has announced and not committed */
    uint32_t announced_end;
    uint32_t* announced; /* [sequence_tokens_max] the tokens of the announcement */
} model_seq;

/* A hold on whole blocks, as by a copy of the sequence that it was made of. */
typedef struct model_pin {
    uint64_t id;
    uint64_t owner;
    uint64_t deadline_us; /* UINT64_MAX: without end */
    model_seq seq;
} model_pin;

/* What a tenant may have; of the first one, that of tenants without a quota, only the counters. */
typedef struct model_quota {
    bool is_set;
    bool borrow_off;
    uint64_t tenant;
    uint32_t guaranteed;
    uint32_t limit;
    uint64_t evictions;
    uint64_t query_tokens;
    uint64_t hit_tokens;
} model_quota;

/* What pkv_plan_begin and pkv_seq_append are asked, in the model's words. */
typedef struct model_entry {
    uint32_t seq;           /* index, or MODEL_NONE for a handle of nothing alive */
    const uint32_t* tokens; /* or NULL */
    uint32_t count;
} model_entry;

/* What becomes of a partly filled last page that is about to be written. */
enum model_tail {
    MODEL_TAIL_STAYS,  /* it is the sequence's own, or there is none */
    MODEL_TAIL_COPIED, /* others have it too */
    MODEL_TAIL_TAKEN,  /* the index has it too, and loses it */
};

typedef struct model_verdict {
    uint32_t must; /* set of statuses, see MODEL_BIT */
    uint32_t may;
} model_verdict;

/* How many index entries, the newest first, are looked at for a hit that ends within a block. */
#ifdef PKV_TINY
enum { MODEL_SIBLINGS = 2 };
#else
enum { MODEL_SIBLINGS = 16 };
#endif

#define MODEL_BIT(status) (1U << (unsigned)-(status))

/* Bits [16, 20) of a fill say whose it is, so that residue of others is recognised. */
enum { MODEL_OWNER_SHIFT = 16 };

/* An error that is planted, and has to be noticed. */
enum model_canary {
    MODEL_SOUND,
    MODEL_FORGETS_EQUALS, /* commit does not share duplicate blocks */
    MODEL_SEES_MEMORY,    /* of a shared arena: one extent more than there is */
};

typedef struct model model;

/* Memory that several caches share. Who holds which extent follows from the numbers of their blocks:
 * those of one extent follow each other, and an extent goes back when its last block is free. */
typedef struct model_arena {
    uint64_t extent_bytes;
    uint32_t extent_max;   /* of the address space */
    uint32_t extent_count; /* that it has now */
    uint32_t cache_count;
    model* caches[MODEL_CACHES];
    uint64_t claims; /* extents that caches have given up for others, or for nobody */
} model_arena;

struct model {
    pkv_config config;   /* every field set, none at its default */
    model_arena* arena;  /* NULL: one of its own, which has memory for all blocks */
    uint32_t per_extent; /* blocks of an extent, in a shared arena */
    uint32_t number;     /* of the cache, among those of a round */
    uint32_t block_tokens;
    bool leaves_are_tight; /* table_leaves_max is below the default: ENOLEAVES may happen */
    enum model_canary canary;
    uint32_t blocks_active;
    uint32_t blocks_cached;
    uint32_t plans;
    uint32_t host_free;
    uint32_t transfers;
    uint64_t block_bytes;
    uint64_t clock_us;      /* the library's, after its last call */
    uint64_t now;           /* stamps of idle blocks and of index entries */
    uint64_t departures;    /* of sequences from their blocks */
    uint64_t nonce;         /* stands in for unknown tokens */
    uint64_t plan_rows;     /* rows of all plans so far */
    pkv_stats counters;     /* the cumulative ones */
    model_seq* seqs;        /* [sequences_max] */
    model_pin* pins;        /* [sequences_max] */
    model_block* blocks;    /* [blocks] */
    enum model_tail* tails; /* [plan_sequences_max] of a reservation */
    uint32_t fresh_count;
    uint32_t* fresh; /* [blocks] blocks that the last reservation took */
    model_quota quotas[MODEL_ACCOUNTS];
    /* What the library has decided, where the header leaves that to it. Which block of an account has
     * gone, MODEL_NONE after a failure; has one of this account gone; others have given up so many
     * extents. */
    uint32_t (*victim)(void* ctx, uint32_t account);
    bool (*is_victim_of)(void* ctx, uint32_t account);
    void (*claim)(void* ctx, uint32_t extents);
    void* ctx;
};

/* Memory of the model itself comes from malloc; running out of it ends the test. */
void model_open(model* m, const pkv_config* config);
void model_close(model* m);

uint32_t model_alive_count(const model* m);
uint32_t model_pages(const model* m, uint32_t tokens);

model_verdict model_create_errors(const model* m);
uint32_t model_create(model* m, uint64_t tenant);

model_verdict model_match_errors(const model* m, uint32_t seq, uint32_t count);
uint32_t model_match(model* m, uint32_t seq, const uint32_t* tokens, uint32_t count);

/* What is found, and what is pending; and announcing. */
pkv_match model_lookup(const model* m, uint32_t seq, const uint32_t* tokens, uint32_t count);
model_verdict model_announce_errors(const model* m, uint32_t seq, uint32_t count);
void model_announce(model* m, uint32_t seq, const uint32_t* tokens, uint32_t count);

/* Extra keys, which stand for any bytes: of the sequence, and [sequence_tokens_max] of positions. */
model_verdict model_keys_errors(const model* m, uint32_t seq);
void model_set_keys(model* m, uint32_t seq, uint32_t salt, const uint32_t* keys);

/* Forget all that is cached; returns the blocks that became free. */
uint32_t model_drop(model* m);

model_verdict model_publish_errors(const model* m, uint32_t seq, uint32_t count);
uint32_t model_publish(model* m, uint32_t seq, uint32_t count);

bool model_fork_copies(const model* m, uint32_t seq); /* its last block, at once */
uint32_t model_fork_room(model* m, uint32_t seq); /* makes it for the copy; how many evictions? */
model_verdict model_fork_errors(const model* m, uint32_t seq);
uint32_t model_fork(model* m, uint32_t seq);

model_verdict model_truncate_errors(const model* m, uint32_t seq, uint32_t length);
void model_truncate(model* m, uint32_t seq, uint32_t length);

model_verdict model_free_errors(const model* m, uint32_t seq);
void model_free(model* m, uint32_t seq);

/* Reservation, for a plan or for pkv_seq_append. */
model_verdict model_begin_errors(const model* m, const model_entry* entries, uint32_t count);
model_verdict model_append_errors(const model* m, const model_entry* entry);
void model_reserve(model* m, const model_entry* entries, uint32_t count);

/* What has just been reserved is a tree. The reserved tokens become those of a path, all others
 * go. */
void model_grow_tree(model* m, uint32_t seq, const uint32_t* parents);
void model_accept(model* m, uint32_t seq, const uint32_t* rows, uint32_t count);

/* The position of the token at `place`, and whether the one at `from` sees the one at `to`. */
uint32_t model_position(const model_seq* seq, uint32_t place);
bool model_sees(const model* m, const model_seq* seq, uint32_t from, uint32_t to);

/* The evictions that a reservation needs, which stay when the device fails after them. Returns how
 * many there were. */
uint32_t model_make_room(model* m, const model_entry* entries, uint32_t count);

/* Swapping. Between start and end the sequence is leaving or arriving; an end that is not a success
 * takes it back to where it was. The evictions that an arrival needs stay when it cannot start. */
model_verdict model_swap_out_errors(const model* m, uint32_t seq);
void model_swap_out(model* m, uint32_t seq);
model_verdict model_swap_in_errors(const model* m, uint32_t seq);
uint32_t model_swap_in_room(model* m, uint32_t seq);
void model_swap_in(model* m, uint32_t seq);
void model_swap_end(model* m, uint32_t seq, bool is_done);

/* Of pkv_seq_write; pkv_write cannot fail by itself. */
model_verdict model_write_errors(const model* m, uint32_t seq);

/* What the fills of a tenant's tokens begin with. */
uint32_t model_owner(const model* m, uint64_t tenant);

/* The reserved tokens of a sequence now hold what they should, or nothing known. */
void model_write(model* m, uint32_t seq);
void model_spoil(model* m, uint32_t seq);

model_verdict model_commit_errors(const model* m, uint32_t seq);
void model_commit(model* m, uint32_t seq);
void model_abort(model* m, uint32_t seq);

model_verdict model_read_errors(const model* m, uint32_t seq, uint32_t begin, uint32_t end);

/* Quotas. An account is the place of a tenant's quota, or 0: those of the tenants that have none. */
model_verdict model_set_errors(const model* m, const model_quota* quota);
void model_set(model* m, const model_quota* quota);
model_verdict model_delete_errors(const model* m, uint64_t tenant);
void model_delete(model* m, uint64_t tenant);
uint32_t model_account(const model* m, uint64_t tenant);
uint32_t model_active(const model* m, uint32_t account);
uint32_t model_cached(const model* m, uint32_t account);
uint32_t model_available(const model* m, uint32_t account);
uint32_t model_seqs_of(const model* m, uint32_t account);
uint32_t model_slots_of(const model* m, uint32_t account);

/* Of reservations that need so many blocks for each account: what the quotas say, and what memory
 * says besides. */
uint32_t model_quota_errors(const model* m, const uint32_t* need);
uint32_t model_need_errors(const model* m, const uint32_t* need);
bool model_may_activate(const model* m, uint64_t tenant);
bool model_is_above_limit(const model* m, uint32_t account, uint32_t need);
uint32_t model_richest(const model* m, const uint32_t* need); /* whose cached block goes next */
/* The idle block of an account that goes first under "lru". */
uint32_t model_first_to_go(const model* m, uint32_t account);
/* Of the blocks that became idle together with this one, one that stands behind it, or MODEL_NONE. */
uint32_t model_later_page(const model* m, uint32_t block);
void model_evict(model* m, uint32_t account);
void model_lose(model* m, uint32_t block); /* an idle one, for others */

/* Memory. Held extents are those with a block in use; spare ones are of these, and their blocks in use
 * are all only cached. */
bool model_is_used(const model_block* block);
uint32_t model_extent_of(const model* m, uint32_t block);
uint32_t model_held_extents(const model* m);
uint32_t model_spare_extents(const model* m);
uint32_t model_free_extents(const model_arena* arena);
uint32_t model_used_blocks(const model* m);
uint32_t model_free_blocks(const model* m); /* that it can take now */
uint32_t model_givable(const model* m, const uint32_t* need);
bool model_fits_memory(const model* m, const uint32_t* need);
/* Make room for `blocks` of memory by claims, when all that the cache can evict has gone. */
void model_claim(model* m, uint32_t blocks);

/* Of pkv_arena_resize, and how many extents have to be given up for it. */
model_verdict model_resize_errors(const model_arena* arena, uint64_t bytes);
uint32_t model_resize_claims(const model_arena* arena, uint64_t bytes);

/* Pins. In which order they end, when several do, the model is told. */
model_verdict model_pin_errors(const model* m, uint32_t seq, uint32_t tokens);
void model_pin_seq(model* m, uint32_t seq, uint32_t tokens, model_pin terms);
void model_end_pin(model* m, uint32_t pin);
bool model_pin_is_over(const model* m, uint32_t pin);
uint32_t model_find_pin(const model* m, uint64_t id);
uint32_t model_pins_of(const model* m, uint64_t owner);
uint32_t model_pin_count(const model* m);

/* Retention; `terms` may be NULL. Settling lets what has come due by clock_us take effect. */
model_verdict model_retain_errors(const model* m, uint32_t seq, uint32_t begin, uint32_t end,
                                  const model_terms* terms);
uint32_t model_retain(model* m, uint32_t seq, uint32_t begin, uint32_t end,
                      const model_terms* terms);
bool model_is_retained(const model_block* block);
uint32_t model_retained_count(const model* m);
void model_set_terms(model_block* block, const model_terms* terms); /* what somebody asks for it */
void model_settle(model* m);
void model_come_due(model* m, uint32_t block); /* an idle one, if it is */
void model_expire(model* m, uint32_t block);

/* Compare the numbers that the model predicts. Returns the name of the first that differs, or
 * NULL. */
const char* model_compare_stats(const model* m, const pkv_stats* stats, uint64_t* want,
                                uint64_t* got);

#endif
