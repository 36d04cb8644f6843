/* pagedkv.h - the embeddable paged KV cache: the whole public interface and its manual.
 *
 * A language model keeps the keys and values (K/V) of every token it has seen. libpagedkv keeps
 * them in fixed-size blocks, finds them through page tables, shares them between sequences, and
 * computes attention over them. It is to the KV cache what an embedded database is to tables: a
 * library that you link, with no server, no framework, no threads that you did not ask for and no
 * global state.
 *
 * WORDS
 *   token position   index of a token in its sequence, from 0
 *   page             the (position / block_tokens)-th piece of a sequence (logical)
 *   block            the storage of one page, numbered in its pool (physical)
 *   slot             where one token lives: block * block_tokens + position % block_tokens
 *   arena, extent    device memory, and a fixed-size piece of it. A pool takes extents, cuts them
 *                    into blocks and gives them back when all are free; several caches can share an
 *                    arena
 *   group            layers that share geometry and a page table; a plain model has one group
 *   plan             what one step computes: the sequences, their new tokens, tables and slots
 *   commit           the moment when K/V of new tokens is declared computed. Only committed tokens
 *                    are shared, cached or counted in the length of a sequence
 *   tenant           owner of sequences. Cached prefixes are not shared across tenants, unless they
 *                    are published, and a block is zeroed before it passes from one to another. A
 *                    tenant can have a quota: how many blocks it is guaranteed, and may have at most
 *
 * THE FIRST PROGRAM (complete in examples/first.c)
 *
 *   pkv_config config;
 *   pkv_config_init(&config, PKV_VERSION);
 *   config.groups[0] = (pkv_group_config){ .layers = 2, .kv_heads = 2, .key_dim = 64 };
 *   config.blocks = 256;
 *   pkv_cache* cache;
 *   int status = pkv_cache_create(&config, &cache);
 *
 *   pkv_seq seq;
 *   pkv_seq_create(cache, 0, &seq);                          // tenant 0
 *   pkv_seq_match(cache, seq, prompt, prompt_count - 1, &reused);
 *
 *   pkv_entry entry = { seq, prompt + reused, prompt_count - reused };
 *   pkv_plan plan;
 *   status = pkv_plan_begin(cache, &entry, 1, &plan);        // reserves every block, or none
 *   for (uint32_t layer = 0; layer < 2; layer++) {
 *       pkv_write(cache, plan, layer, &k, &v);               // K/V of the new tokens
 *       pkv_attend(cache, plan, layer, &attention);          // reads all tokens so far
 *   }
 *   pkv_plan_commit(cache, plan);                            // or pkv_plan_abort: no trace is left
 *
 *   pkv_seq_free(cache, seq);                                // full blocks stay cached
 *   pkv_cache_destroy(cache);
 *
 * RULES THAT HOLD EVERYWHERE
 *   Errors    Functions return PKV_OK (0) or a negative status. A call that fails changes nothing;
 *             the exceptions are named where they stand, at pkv_plan_begin and pkv_write. Results
 *             come through out-pointers, which are written only on success.
 *   Handles   pkv_seq, pkv_plan and pkv_transfer are values. A zero, stale, forged or foreign
 *             handle gives PKV_ESTALE and is never undefined behaviour. Pointers must be valid or
 *             NULL where that is allowed; a NULL that is not allowed gives PKV_EINVAL.
 *   Threads   Every function may be called from any thread at any time, except that
 *             pkv_cache_destroy must be the last. A mutex per cache, or per arena that several
 *             caches share, orders the bookkeeping; the
 *             heavy calls (pkv_write, pkv_attend, pkv_seq_read, pkv_seq_write) work outside it and
 *             keep their plan or sequence busy meanwhile: calls that would change it give
 *             PKV_EBUSY. Reservations (pkv_plan_begin, pkv_seq_append) hold it while they copy or
 *             zero blocks, and pkv_plan_accept while it moves tokens. Writing one layer of one plan
 *             twice at once, or while it is attended to, is a race that the library does not see.
 *   Memory    Everything is allocated by pkv_cache_create. No later call uses the heap. The arena
 *             is address space: the system finds the pages when blocks are first written.
 *   Numbers   Sizes are unsigned, ranges are half open [begin, end), zero means "the default".
 *   Since     Every function below is there since 0.1 unless it says otherwise. While the major
 *             version is 0 a new minor version may change the ABI; pkv_config_init checks it.
 *
 * Licensed under the Apache License 2.0. */
#ifndef PAGEDKV_H
#define PAGEDKV_H

#ifndef PKV_CDEF /* The Python binding reads this file through `cc -E -DPKV_CDEF`. */
#include <stddef.h>
#include <stdint.h>
#if defined(__GNUC__) && !defined(PKV_STATIC)
#define PKV_API __attribute__((visibility("default")))
#else
#define PKV_API
#endif
#ifdef __cplusplus
extern "C" {
#endif
#else
#define PKV_API
#endif

/* ---- Version and status ---------------------------------------------------------------------- */

#define PKV_VERSION_MAJOR 0
#define PKV_VERSION_MINOR 1
#define PKV_VERSION_PATCH 0
/* 0x00MMmmpp. Compiled into your program; pkv_config_init compares it with the library's. */
#define PKV_VERSION (PKV_VERSION_MAJOR << 16 | PKV_VERSION_MINOR << 8 | PKV_VERSION_PATCH)

/* Every status: name, value, message. The enum, pkv_status_name, pkv_status_message and the Python
 * exceptions are made from this table. Values never change meaning; new ones are appended. */
#define PKV_STATUS_MAP(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(EINVAL, -1, "an argument is not valid")                                                      \
    X(ESTALE, -2, "the handle names nothing alive: freed, forged, zero or of another cache")       \
    X(EBUSY, -3, "the object is in use: an open plan, uncommitted tokens or a running call")       \
    X(ENOMEM, -4, "no memory: the hook or the system returned none")                               \
    X(ENOBLOCKS, -5, "not enough free or evictable blocks now")                                    \
    X(ETOOBIG, -6, "more than the configured limits can ever hold")                                \
    X(ENOSEQS, -7, "every sequence slot is taken")                                                 \
    X(ENOLEAVES, -8, "every page table leaf is taken")                                             \
    X(ERANGE, -9, "a position lies outside the sequence, or its block has rolled off")             \
    X(ENOTSUP, -10, "not supported by this device or this version")                                \
    X(EVERSION, -11, "the program was compiled for another version of the library")                \
    X(EIO, -12, "a device operation failed")                                                       \
    X(ETIMEDOUT, -13, "a device operation did not complete in time")                               \
    X(ENONFINITE, -14, "a value is NaN or infinite, or is so in the type it is stored in")         \
    X(EFAULTSPEC, -15, "the fault specification does not parse or names no known point")           \
    X(ECORRUPT, -16, "an internal invariant does not hold")                                        \
    X(EDEVICE, -17, "the device has failed for good")                                              \
    X(EAWAY, -18, "the sequence is in the host tier: swap it in first")                            \
    X(ENOHOST, -19, "not enough free blocks in the host tier now")                                 \
    X(EQUOTA, -20, "the tenant is at its limit")

enum pkv_status {
#define PKV_STATUS_ENUM(name, value, message) PKV_##name = value,
    PKV_STATUS_MAP(PKV_STATUS_ENUM)
#undef PKV_STATUS_ENUM
};

/* The version of the loaded library, encoded as PKV_VERSION. */
PKV_API uint32_t pkv_version(void);

/* "EINVAL" for PKV_EINVAL, and its message. Static strings; NULL for a number that is no status. */
PKV_API const char* pkv_status_name(int status);
PKV_API const char* pkv_status_message(int status);

/* ---- Configuration --------------------------------------------------------------------------- */

enum pkv_limit {
    PKV_GROUPS_MAX = 8,         /* groups in a config; this version takes exactly one */
    PKV_BLOCK_TOKENS_MAX = 256, /* and a power of two */
    PKV_HEAD_DIM_MAX = 256      /* and a multiple of 16 */
};

/* Element types. Arrays that you pass have one of the first three; the cache stores K and V in any
 * of them, each group its K and its V as it likes.
 *
 * The scaled types keep a number as a short code and, beside the codes, what decodes them. They
 * need blocks of at least 16 tokens. Writing rounds; nothing but the type decides what is stored.
 *   I8      x = scale * n, n in -127..127; one f32 scale per token and head: largest |x| / 127
 *   E4M3,   8-bit floats (OCP: 3 and 2 bits of fraction) times one f32 scale per token and head,
 *   E5M2    which makes the largest |x| the largest number of the type, 448 or 57344. Numbers
 *           below the smallest normal one become 0 or that number: there are no subnormals
 *   I4      x = minimum + scale * n, n in 0..15; f16 scale and minimum for each 32 dims (the last
 *           16 when the dims are no multiple of 32) of each token and head
 * Scales of I8, E4M3 and E5M2 keep 16 significant bits, so that what is read as f32 and written
 * again is stored as it was; rows whose numbers are all below 2^-96 are stored as zeros. */
enum pkv_dtype {
    PKV_F32 = 0,
    PKV_F16 = 1,
    PKV_BF16 = 2,
    PKV_I8 = 3,
    PKV_E4M3 = 4,
    PKV_E5M2 = 5,
    PKV_I4 = 6
};

/* Entries of block tables whose block has rolled off behind the window. */
enum pkv_sentinel { PKV_NO_BLOCK = 0x7fffffff };

/* The geometry of one group. Zero in a field with a default means that default. */
typedef struct pkv_group_config {
    uint32_t layers;       /* layers in this group, 1..1024 */
    uint32_t kv_heads;     /* KV heads of each layer, 1..1024 */
    uint32_t key_dim;      /* elements of one key: a multiple of 16, 16..256 */
    uint32_t value_dim;    /* elements of one value, likewise; default key_dim */
    uint32_t k_dtype;      /* enum pkv_dtype in which keys are stored; default f32 */
    uint32_t v_dtype;      /* enum pkv_dtype in which values are stored; default f32 */
    uint32_t block_tokens; /* tokens in a block: a power of two, 1..256 (scaled types: from 16
                              on); default 16 */
    uint32_t window;       /* sliding window in tokens, the token itself included; 0: none */
    uint32_t sinks;        /* first tokens that stay visible behind the window */
} pkv_group_config;

/* Where the library gets host memory for its own structures.
 * resize(ctx, NULL, 0, n) allocates n bytes, resize(ctx, p, n, 0) frees; nothing else is asked.
 * Memory must be aligned to 16 bytes. NULL `resize` means malloc and free. Two things do not come
 * from here: the arena, which the device maps, and the state of the fault points (some KiB, by
 * malloc), since the hook is a fault point itself.
 * Called only inside pkv_cache_create and pkv_cache_destroy, on the calling thread. */
typedef struct pkv_memory_hook {
    void* (*resize)(void* ctx, void* memory, size_t old_bytes, size_t new_bytes);
    void* ctx;
} pkv_memory_hook;

/* Bring your own threads: run(ctx, count, task, arg) must call task(arg, i) once for each i in
 * [0, count), in any order, on any threads, and return when all are done.
 * `count` is at most config.threads, so set that too. `run` must not call into the same cache, also
 * not by working on other tasks while it waits.
 * NULL `run` means a fixed pool inside the cache of `threads` threads, the caller being one. */
typedef struct pkv_parallel_hook {
    void (*run)(void* ctx, uint32_t count, void (*task)(void* arg, uint32_t index), void* arg);
    void* ctx;
} pkv_parallel_hook;

/* A cached block that no sequence names, offered to be evicted. */
typedef struct pkv_candidate {
    uint32_t block;
    uint32_t page; /* of its sequence; at most 65535 */
    uint32_t uses; /* requests that computed or found it; at most 255 */
    uint32_t age;  /* blocks that requests have asked for since it was in use */
} pkv_candidate;

/* What becomes of a block of the prefix index, as an application's policy is told:
 *
 *   CACHED --> [in use] --IDLE--> [may be named] --BUSY--> [in use] ...       GONE from either
 *
 *   CACHED  it has been committed and is in use; `other` is the page of its sequence. Told anew, and
 *           IDLE once more, when a tenant gets its first quota
 *   USED    a request has found it, or computed it once more
 *   BUSY    a sequence or a pin uses it: naming it has no effect
 *   IDLE    nobody uses it from now on; told anew of pages behind a window when their sequence ends.
 *           Blocks that are retained with another priority than the default are told when that lapses
 *   GONE    it is cached no more, evicted or not
 *   MOVED   it is called `other` from now on (pkv_cache_compact) */
enum pkv_block_event {
    PKV_BLOCK_CACHED = 0,
    PKV_BLOCK_USED = 1,
    PKV_BLOCK_BUSY = 2,
    PKV_BLOCK_IDLE = 3,
    PKV_BLOCK_GONE = 4,
    PKV_BLOCK_MOVED = 5
};

/* For offer_max: none. */
#define PKV_OFFER_NONE UINT32_MAX

/* Bring your own eviction: choose(ctx, candidates, offered, count, victims) names up to `count`
 * blocks that go first, in victims[count], and returns how many. It is offered up to offer_max
 * (default: all) idle blocks, least recently used first, but for those that are retained with another
 * priority than the default.
 * Called once for each reservation that needs room, with the cache's lock held: it must not call
 * into the same cache, nor into another one of its arena. What it says can do no harm: names of
 * blocks that were not offered are passed over, more than `count` are all ignored, and for what is
 * missing the least recently used blocks go (stats.eviction_fallbacks). NULL `choose` means
 * config.eviction.
 *
 * A policy with books of its own is also told what becomes of each block, by note(ctx, event, block,
 * other), event being of enum pkv_block_event; NULL: it does not want to know. It is called within
 * any call, for each block, and under the same rules. Without quotas (config.tenants_max 0) choose
 * may then name every idle block, and with offer_max PKV_OFFER_NONE is offered nothing, which spares
 * the time that a list of all idle blocks takes. Nothing is told when the cache is destroyed. */
typedef struct pkv_eviction_hook {
    uint32_t (*choose)(void* ctx, const pkv_candidate* candidates, uint32_t offered, uint32_t count,
                       uint32_t* victims);
    void* ctx;
    uint32_t offer_max;
    void (*note)(void* ctx, uint32_t event, uint32_t block, uint32_t other);
} pkv_eviction_hook;

/* Which of the extents that have room serves next. None changes what a cache can hold; they differ in
 * how many extents become empty, so that others can have them (docs/performance.md). */
enum pkv_allocator {
    PKV_ALLOCATOR_DEFAULT = 0, /* the best of them, as measured */
    PKV_FIRST_FIT = 1,         /* the lowest address */
    PKV_BEST_FIT = 2,          /* the fullest */
    PKV_RING = 3,              /* the one that has had room for longest */
    PKV_LIFO = 4               /* the one that was given room last */
};

/* Memory that several caches share; see ARENAS. */
typedef struct pkv_arena pkv_arena;
/* When the partly filled last block that a fork shares is copied (copy on write).
 *   WRITE   when one of those that share it writes: forks cost no block, and those that end before
 *           they write, or write last, copy nothing
 *   FORK    by the fork: it takes a block and fails without one, and no later step copies for it */
enum pkv_cow { PKV_COW_WRITE = 0, PKV_COW_FORK = 1 };

typedef struct pkv_config {
    uint32_t struct_size; /* set by pkv_config_init */
    uint32_t version;     /* set by pkv_config_init */
    const char* device;   /* "cpu" (default), "cuda", or "sim", the deterministic test device */
    const char* isa;      /* of the CPU device: "scalar", "avx2", "avx512", "avx512bf16", "neon";
                             default: $PKV_ISA, else the best that the processor has */
    uint32_t group_count; /* default 1 */
    uint32_t blocks;      /* blocks of the pool, 1..2^24: required. In a shared arena: how many it
                             may have at most; default all that fit */
    pkv_group_config groups[PKV_GROUPS_MAX];
    uint32_t sequences_max;       /* sequences alive at once; default 256 */
    uint32_t sequence_tokens_max; /* of one sequence; default: what the blocks hold, <= 32768 */
    uint32_t plans_max;           /* open plans; default 2 */
    uint32_t plan_sequences_max;  /* sequences in one plan; default sequences_max */
    uint32_t plan_tokens_max;     /* new tokens in one plan; default 4096 */
    uint32_t table_leaves_max;    /* page table leaves; default: as many as can ever be needed */
    uint32_t trace_events_max;    /* events the trace ring keeps; default 1024 */
    uint32_t threads;             /* threads of the CPU device, the caller included; default 1 */
    uint32_t prefix_off;          /* nonzero: no prefix index, nothing is cached after free */
    /* Of hashes and handles; 0: from the operating system. For tests: two caches with the same seed
     * give the same handles and cannot tell them apart. */
    uint64_t seed;
    const char* faults;  /* fault specification (see FAULTS); NULL: $PKV_FAULTS, else none */
    uint64_t fault_seed; /* of the faults' random choices */
    pkv_memory_hook memory;
    pkv_parallel_hook parallel;
    uint32_t device_ordinal; /* which GPU, of "cuda"; default the first */
    uint32_t host_blocks;    /* blocks of the host tier (see SWAPPING), 0..2^24; default none */
    uint32_t transfers_max;  /* swaps under way at once; default 4 */
    uint32_t swap_layers;    /* layers that arrive together on "cuda"; default: so many that a copy
                                of them is efficient */
    uint32_t announced_pages_max; /* pages that pkv_seq_announce can keep; default blocks, but at
                                     most 4096 */
    uint32_t key_sets_max;        /* different sets of extra keys that are remembered; default
                               sequences_max, but at most 1024 */
    uint32_t key_bytes_max; /* bytes of one set: of its keys and salt, and 12 for each; default
                               1024 */
    /* Which cached blocks go first when room is needed: "reuse" (default), "lru", "fifo", "lfu",
     * "slru", "s3fifo", "arc" or "greedydual". */
    const char* eviction;
    pkv_eviction_hook eviction_hook;
    uint32_t tenants_max; /* tenants that can have a quota (see QUOTAS), 0..65535; default none */
    uint32_t allocator;   /* enum pkv_allocator; default: the arena's, or the best */
    pkv_arena* arena;     /* that the cache lives in; NULL: one of its own */
    uint32_t cow;         /* enum pkv_cow; default at the first write */
    uint32_t graph_sequences_max;       /* sequences of a captured step (see pkv_graph_begin), on
                                           "cuda"; default 0: there are none */
    uint32_t graph_sequence_tokens_max; /* new tokens of each of them; default 1 */
    uint32_t graph_query_heads;         /* of captured attention: required with them */
    uint32_t retained_max; /* blocks that can be retained at once (see RETENTION), 0..2^24; default
                              none */
    uint32_t cow_whole;    /* nonzero: copy on write copies whole blocks, as "cuda" always does;
                              default: the 16-token tiles of them that are filled */
} pkv_config;

/* What a config will take. */
typedef struct pkv_sizes {
    uint64_t block_bytes;       /* one block: all layers, K and V */
    uint64_t arena_bytes;       /* device memory for all blocks; in a shared arena at most */
    uint32_t blocks_per_extent; /* blocks in one extent of the arena */
    uint32_t extents;           /* that hold all blocks */
    uint64_t host_bytes;        /* host memory for the host tier */
} pkv_sizes;

/* Fill `config` with zeros and defaults for a program compiled with `version`: pass PKV_VERSION.
 * Errors  PKV_EINVAL, PKV_EVERSION when major or minor version differ from the library's. */
PKV_API int pkv_config_init(pkv_config* config, uint32_t version);

/* Check `config` as pkv_cache_create would, allocating nothing.
 * why     set on error to a static sentence that names the field; may be NULL.
 * sizes   filled on success; may be NULL.
 * Errors  PKV_EINVAL, PKV_EVERSION, PKV_ENOTSUP (also: the device is not here), PKV_ETOOBIG. */
PKV_API int pkv_config_check(const pkv_config* config, const char** why, pkv_sizes* sizes);

/* Why a cache on `device` (a name as in the config) cannot be created here at all, as a static
 * sentence: no driver, no library, a wrong version. NULL when it can. */
PKV_API const char* pkv_device_absent(const char* device);

/* ---- Arenas ------------------------------------------------------------------------------------
 *
 * Several caches, one for each model, can live in one arena. Each cuts the extents that it takes
 * into blocks of its own size, so that none is padded to another's; what is left at the end of an
 * extent is all that is lost. An extent goes back to the arena when its last block is free, and
 * moves to whoever needs it:
 *
 *   - a cache that is out of blocks takes free extents first, then evicts what it has cached itself
 *   - when all of that is not enough it makes other caches give up extents whose blocks are only
 *     cached, all that it needs or none. Blocks that a sequence names are never touched
 *   - blocks that come from another cache are zeroed before anybody gets them
 *
 * config.blocks is then what a cache may have at most, and stats.blocks_total what it could have now.
 * Caches of one arena are of its device and share its mutex. Devices "cpu" and "sim". */

typedef struct pkv_arena_config {
    uint32_t struct_size;  /* set by pkv_arena_config_init */
    uint32_t version;      /* set by pkv_arena_config_init */
    const char* device;    /* "cpu" (default) or "sim" */
    uint64_t bytes;        /* memory, rounded down to whole extents: required */
    uint64_t bytes_max;    /* address space; default bytes */
    uint64_t extent_bytes; /* a multiple of 4096; default 2 MiB. One block of each cache must fit */
    uint32_t allocator;    /* enum pkv_allocator, of its caches that name none */
    const char* faults;    /* fault specification (see FAULTS); NULL: $PKV_FAULTS, else none */
    uint64_t fault_seed;   /* of the faults' random choices */
    pkv_memory_hook memory; /* for its books; called inside create and destroy */
} pkv_arena_config;

/* Fill `config` with zeros and defaults for a program compiled with `version`: pass PKV_VERSION.
 * Errors  PKV_EINVAL, PKV_EVERSION when major or minor version differ from the library's. */
PKV_API int pkv_arena_config_init(pkv_arena_config* config, uint32_t version);

/* Check `config` as pkv_arena_create would, allocating nothing.
 * why     set on error to a static sentence that names the field; may be NULL.
 * Errors  PKV_EINVAL, PKV_EVERSION, PKV_ENOTSUP, PKV_ETOOBIG. */
PKV_API int pkv_arena_config_check(const pkv_arena_config* config, const char** why);

/* Create an arena.
 * Owns    *arena is the caller's until pkv_arena_destroy. `config` and its strings are copied.
 * Errors  as pkv_arena_config_check, and PKV_ENOMEM, PKV_EFAULTSPEC, PKV_EIO. */
PKV_API int pkv_arena_create(const pkv_arena_config* config, pkv_arena** arena);

/* Free an arena in which no cache lives. NULL is allowed and does nothing. It must be the last call
 * on the arena, unless it fails.
 * Errors  PKV_EBUSY (a cache lives in it). */
PKV_API int pkv_arena_destroy(pkv_arena* arena);

/* Let the arena have `bytes` from now on, rounded down to whole extents, at most bytes_max. What it
 * loses is given back to the system: free extents wherever they lie, and when those are not enough
 * extents whose blocks are only cached, all that it needs or none. What it gains is zeroed.
 * Errors  PKV_EINVAL, PKV_ETOOBIG (more than bytes_max), PKV_ENOBLOCKS (caches hold more: nothing
 *         has changed), PKV_ENOTSUP (the device cannot give memory back), PKV_EIO: nothing has
 *         changed, but cached blocks that were evicted stay so. */
PKV_API int pkv_arena_resize(pkv_arena* arena, uint64_t bytes);

/* What an arena is used for. extents_total is extents_free and those that caches hold;
 * bytes_used + bytes_loose + bytes_lost are the bytes of the latter. */
typedef struct pkv_arena_stats {
    uint32_t struct_size; /* set by the caller: sizeof(pkv_arena_stats) */
    uint32_t caches;      /* that live in it */
    uint32_t extents_max; /* of the address space */
    uint32_t extents_total;
    uint32_t extents_free;
    uint64_t extent_bytes;
    uint64_t bytes_used;      /* blocks in use, active and cached */
    uint64_t bytes_loose;     /* free blocks in extents that caches hold: external fragmentation */
    uint64_t bytes_lost;      /* ends of extents, too short for a block: internal fragmentation */
    uint64_t extents_claimed; /* that caches have given up for each other, or for a resize */
    uint64_t heap_bytes;      /* host memory of its books */
} pkv_arena_stats;

/* Copy the counters. stats->struct_size says how much of the struct the caller knows.
 * Errors  PKV_EINVAL. */
PKV_API int pkv_arena_get_stats(pkv_arena* arena, pkv_arena_stats* stats);

/* ---- Cache ----------------------------------------------------------------------------------- */

typedef struct pkv_cache pkv_cache;

/* Create a cache; all memory it will ever use is taken here.
 * Owns    *cache is the caller's until pkv_cache_destroy. `config` and its strings are copied.
 * Errors  as pkv_config_check, and PKV_ENOMEM, PKV_EFAULTSPEC, PKV_EIO (device, threads, seed),
 *         PKV_EDEVICE. */
PKV_API int pkv_cache_create(const pkv_config* config, pkv_cache** cache);

/* Free everything. Open plans and sequences die with the cache. NULL is allowed. */
PKV_API void pkv_cache_destroy(pkv_cache* cache);

/* Counters of a cache. blocks_free + blocks_active + blocks_cached == blocks_total at all times. */
typedef struct pkv_stats {
    uint32_t struct_size;   /* set by the caller: sizeof(pkv_stats) */
    uint32_t blocks_total;  /* in a shared arena: that the cache has or could take now */
    uint32_t blocks_free;   /* hold nothing; in a shared arena another cache may take them first */
    uint32_t blocks_active; /* named by at least one sequence */
    uint32_t blocks_cached; /* named by the prefix index only: evictable */
    uint32_t blocks_peak;   /* highest blocks_active so far */
    uint32_t extents_total;
    uint32_t extents_used; /* extents that this cache holds */
    uint32_t sequences;    /* alive */
    uint32_t plans;        /* open */
    uint32_t leaves_total; /* page table leaves */
    uint32_t leaves_free;
    uint64_t plans_committed;
    uint64_t plans_aborted;
    uint64_t tokens_committed;    /* computed and committed, prefix hits not counted */
    uint64_t prefix_query_tokens; /* asked of pkv_seq_match */
    uint64_t prefix_hit_tokens;   /* found by it */
    uint64_t prefix_inserts;      /* blocks that entered the index */
    uint64_t prefix_duplicates;   /* blocks given back since an equal one was in the index */
    uint64_t evictions;           /* cached blocks that were dropped for room */
    uint64_t forks;
    uint64_t cow_copies;           /* blocks copied since a shared one was, or would be, written */
    uint64_t scrubs;               /* blocks zeroed on change of tenant */
    uint64_t rolled_blocks;        /* table entries dropped behind the window */
    uint64_t table_rows_extended;  /* plan rows that only grew or stayed as they were */
    uint64_t table_rows_rewritten; /* plan rows written from their start */
    uint64_t heap_calls;           /* calls of the memory hook that allocated */
    uint64_t heap_bytes;           /* host memory held */
    uint64_t arena_bytes;          /* device memory held: in a shared arena by extents_used */
    uint64_t swap_out_bytes;       /* of transfers that ended well */
    uint64_t swap_in_bytes;
    uint64_t transfers_failed;
    uint64_t transfers_cancelled;
    uint32_t host_blocks_total; /* of the host tier */
    uint32_t host_blocks_free;
    uint32_t transfers;          /* under way */
    uint64_t tokens_rejected;    /* computed, and then dropped by pkv_plan_accept */
    uint32_t pins;               /* alive; they are not counted among the sequences */
    uint64_t pins_expired;       /* at their timeout */
    uint64_t eviction_fallbacks; /* victims that the eviction hook should have named and did not */
    uint64_t bytes_used;         /* of the extents that this cache holds: blocks in use, */
    uint64_t bytes_loose;        /* free blocks (external fragmentation), */
    uint64_t bytes_lost;         /* and ends too short for a block (internal) */
    uint64_t extents_claimed;    /* that other caches of the arena gave up for this one */
    uint64_t extents_ceded;      /* that this one gave up for others, or for a resize */
    uint64_t blocks_moved;       /* by pkv_cache_compact */
    uint64_t extents_emptied;    /* by it */
    uint64_t reservations;       /* that took blocks, of plans and appends; how long they took: */
    uint64_t reserve_p50_ns;     /* half of them at most, to about an eighth */
    uint64_t reserve_p99_ns;
    uint64_t reserve_max_ns;
    uint64_t cow_bytes;   /* that they were: of what is filled, or whole (config.cow_whole) */
    uint32_t cow_peak;    /* the most blocks that one plan, append or fork has copied */
    uint32_t retained;    /* blocks that have a priority or a time to live */
    uint64_t expirations; /* cached blocks that were dropped since their time to live was over */
} pkv_stats;

/* Copy the counters. stats->struct_size says how much of the struct the caller knows.
 * Errors  PKV_EINVAL. */
PKV_API int pkv_cache_stats(pkv_cache* cache, pkv_stats* stats);

/* Move blocks together, so that whole extents become free: for other caches of the arena, or to be
 * given back (pkv_arena_resize). At most `max_moves` blocks are copied, and none that does not help to
 * empty an extent within this call. Sequences may be in use meanwhile: what an open plan, a running
 * call or a transfer holds, and uncommitted tokens, stay where they are. Numbers of other blocks
 * that pkv_seq_blocks has given before may change, and nothing else that can be seen does.
 * moved   set to the blocks that were copied, 0 when no extent can be emptied with so many; stats
 *         say how many extents that was.
 * Errors  PKV_EINVAL, PKV_EIO, PKV_ETIMEDOUT, PKV_EDEVICE: a copy has failed, and nothing moved.
 * Threads holds the mutex while it copies: that is what `max_moves` bounds. */
PKV_API int pkv_cache_compact(pkv_cache* cache, uint32_t max_moves, uint32_t* moved);

/* Let nobody find what was computed before this call: for example since the weights of the model have
 * changed. Blocks that only the prefix index names are free at once. Sequences, pins and open plans
 * keep theirs, and those leave the index: what such a sequence has or computes is not cached any more,
 * until it is truncated to nothing. Published prefixes go too, and what sequences with tokens have
 * announced. Takes time in proportion to the pool.
 * dropped  set to the blocks that became free; may be NULL
 * Errors   PKV_EINVAL. */
PKV_API int pkv_cache_drop(pkv_cache* cache, uint32_t* dropped);

/* The instruction set level that the cache's kernels run with: "scalar", "avx2", "sm_90", ... The
 * string lives as long as the cache. */
PKV_API const char* pkv_cache_isa(const pkv_cache* cache);

/* ---- CUDA ------------------------------------------------------------------------------------
 *
 * device = "cuda" puts the arena into the memory of a GPU and computes there. The code for it is a
 * library of its own, libpagedkv_cuda.so, which is looked for beside this library, or at
 * $PKV_CUDA_LIBRARY, when the device is first named. What differs from the CPU:
 *
 *   Arrays   pkv_array, lse and sink_logits are memory that the GPU reaches: its own, managed, or
 *            pinned. Other pointers give PKV_EINVAL.
 *   Order    Everything is put into one stream, the caller's (pkv_cache_set_stream), and the calls
 *            return before it is done. Arrays must stay as they are until it is. An error of the
 *            GPU may be reported by a later call.
 *   Numbers  NaN and infinity are not looked for, since that would have to wait for the GPU: there
 *            is no PKV_ENONFINITE. NaN and infinity come out again, as NaN of other bits perhaps,
 *            and where they are in V also in rows that stand up to 15 tokens before them. Queries
 *            are rounded to bf16, where K is f16 to f16, and softmax weights likewise for V; to
 *            twice as many bits when q is f32 and neither K nor V has 8 bits. Sums are f32.
 *   Types    key_dim and value_dim are the same and one of 64, 96, 128, 256; K and V are stored in
 *            the same type, f16, bf16, i8 or e4m3, or K in i8 and V in f16 or bf16; block_tokens is
 *            a multiple of 16; at most 128 query heads share a KV head. Others give PKV_ENOTSUP.
 *            Compute capability 8.6 to 8.9 has the shared memory for dims 64 and 96, and for 128
 *            where K has 8 bits; where K has 16, it takes q in f32 with dim 64.
 *   GPUs     Compute capability 8.0 (Ampere) or newer. Calls leave the device of a thread alone.
 *   Graphs   A step can be captured in a CUDA graph and replayed for the plans of later steps: see
 *            pkv_graph_begin. Calls of other plans are not captured: the graph would copy their
 *            tables from where others stand by then, and they give PKV_ENOTSUP, except that what
 *            is left to do of a plan with a layer written and attended to can be captured, for that
 *            plan alone. Start no transfer, and change no stream, while one is captured.
 *   Failure  After an error that the GPU does not recover from, every call that needs it gives
 *            PKV_EDEVICE. The process lives, and the cache can be destroyed. */

/* Work in the order of `stream` from now on: a cudaStream_t of the cache's GPU, or NULL, as at the
 * beginning, for the legacy default stream. What was put into the stream before this call comes
 * first; both streams must exist during this call, and the new one as long as it is in use.
 * Errors  PKV_EINVAL (also: a stream of another GPU, and cudaStreamPerThread; what is no stream at
 *         all the driver may not survive), PKV_ENOTSUP (another device than "cuda"), PKV_EIO,
 *         PKV_EDEVICE. */
PKV_API int pkv_cache_set_stream(pkv_cache* cache, void* stream);

/* ---- Sequences ------------------------------------------------------------------------------- */

/* An array [rows][heads][dim] in memory of the device: host memory, or what a GPU reaches. The dims
 * of a head are contiguous; strides are in elements, 0 meaning packed: head_stride = dim,
 * row_stride = heads * dim. */
typedef struct pkv_array {
    void* data;     /* aligned to its element */
    uint32_t dtype; /* PKV_F32, PKV_F16 or PKV_BF16 */
    uint64_t row_stride;
    uint64_t head_stride;
} pkv_array;

typedef struct pkv_seq {
    uint64_t id;
} pkv_seq;

typedef struct pkv_seq_info {
    uint32_t length;   /* committed tokens */
    uint32_t reserved; /* uncommitted tokens that have slots, behind the length */
    uint32_t pages;    /* pages of the table, rolled ones included */
    uint32_t in_plan;  /* 1 while an open plan names the sequence */
    uint64_t tenant;
    uint32_t residence; /* enum pkv_residence */
} pkv_seq_info;

/* Start an empty sequence that belongs to `tenant` (any number; 0 is as good as another).
 * Errors  PKV_EINVAL, PKV_ENOSEQS. */
PKV_API int pkv_seq_create(pkv_cache* cache, uint64_t tenant, pkv_seq* seq);

/* A key beside the token ids: what stands at positions [begin, end) besides. */
typedef struct pkv_extra_key {
    uint32_t begin;
    uint32_t end;
    const void* bytes; /* [size], for example a hash of an image */
    uint32_t size;     /* at least 1 */
} pkv_extra_key;

/* Give an empty sequence extra keys: for what token ids do not say, such as the images that stand
 * at some positions, or the adapter that K and V are computed with. It finds, waits for, and makes
 * only cached blocks whose keys over the positions of the block are the same, byte for byte. What
 * it was given before is replaced; forks have the same keys.
 *
 * salt    [salt_bytes] any bytes that all of the sequence depends on: an adapter, a user, a secret of
 *         a tenant. NULL with 0: none
 * keys    [count] ranges of positions, in order and apart; they may reach beyond the tokens
 *
 * The sets are remembered in key_sets_max places. When they are all taken, the set that no living
 * sequence has had for longest is forgotten, and blocks that only it led to are found no more; when
 * living sequences have all of them, this sequence is not cached: it finds nothing and leaves
 * nothing, which is not an error.
 * Errors  PKV_EINVAL (also: ranges are empty, out of order or overlap), PKV_ESTALE, PKV_EBUSY (not
 *         empty, or in a plan), PKV_EAWAY, PKV_ETOOBIG (more than key_bytes_max). */
PKV_API int pkv_seq_set_keys(pkv_cache* cache, pkv_seq seq, const void* salt, uint32_t salt_bytes,
                             const pkv_extra_key* keys, uint32_t count);

/* Attach the longest cached prefix of `tokens` [count] to an empty sequence. Token ids are
 * compared, one by one; only blocks that the same tenant committed, or any tenant has published,
 * are found. Pass one token less than the prompt has when you need the logits of its last token.
 * Behind a window too, all blocks from the first one on must be cached, as they prove each other;
 * those that no later token can see are let go of at once, as by pkv_plan_commit.
 * The prefix may end within a block, where a cached text and `tokens` part, or where one ended:
 * such a block is shared like others, and copied when this sequence writes to it. For the end of
 * the prefix the 16 newest blocks that come into question are looked at.
 * matched set to the tokens that need not be computed: the new length of the sequence.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (not empty, or in a plan), PKV_EAWAY,
 *         PKV_ETOOBIG, PKV_ENOLEAVES. */
PKV_API int pkv_seq_match(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count,
                          uint32_t* matched);

/* What pkv_seq_match would find, and what is on its way. */
typedef struct pkv_match {
    uint32_t matched; /* tokens that can be attached now */
    uint32_t pending; /* tokens behind them that living sequences have announced and not committed
                         yet, up to the end of a block; 0: nobody is at it */
} pkv_match;

/* Ask what pkv_seq_match would attach, changing nothing, and whether others are computing more of
 * it: then it may pay to wait. Ask again after their next commits; when `pending` is 0 there is
 * nothing to wait for, be it that all is there or that who was at it has failed.
 * Errors  as pkv_seq_match, but for PKV_ENOLEAVES. */
PKV_API int pkv_seq_lookup(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count,
                           pkv_match* match);

/* Announce that `tokens` [count], the sequence's own from position 0 on, will be computed, so that
 * others of the same tenant can wait for them. An announcement replaces an earlier one; count 0
 * takes it back. A block that has been committed is not pending any more; all of it ends when the
 * sequence is freed, truncated or swapped out. It binds nobody, and is only kept in part when more
 * than announced_pages_max blocks are announced at once, first blocks first.
 * Two texts can be taken for one another with a probability of about 2^-64: then somebody waits in
 * vain, until the other has ended.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (in a plan), PKV_EAWAY, PKV_ETOOBIG. */
PKV_API int pkv_seq_announce(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count);

/* Let every tenant find the first `count` committed tokens of a sequence, in whole blocks: a system
 * prompt that all of them use, for example. Nothing else is ever shared across tenants, and what
 * follows a published prefix is again each tenant's own.
 * The blocks stay the publisher's: they count as its own as long as they are cached, whether it has
 * sequences or not, and are zeroed before they are used for anybody else's tokens. Who finds them
 * reads them, and gets a copy when it writes. Publishing cannot be taken back: published blocks
 * are found until they are evicted. Extra keys stay part of what must be the same.
 * Publish only what is no secret: others learn that a text has been published by finding it.
 * published  set to the tokens that every tenant can find now; less than asked, beside the end of
 *            the last block, when a block is not in the prefix index (unknown tokens, or it has
 *            rolled off)
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (in a plan), PKV_EAWAY, PKV_ERANGE (count exceeds the
 *         length). */
PKV_API int pkv_seq_publish(pkv_cache* cache, pkv_seq seq, uint32_t count, uint32_t* published);

/* A new sequence with the same committed tokens. Blocks and table leaves are shared and copied on
 * write; the cost does not grow with the tokens but with the leaves of the table (256 pages each).
 * With config.cow = PKV_COW_FORK a partly filled last block is copied now.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (uncommitted tokens or in a plan), PKV_EAWAY,
 *         PKV_ENOSEQS. With PKV_COW_FORK also PKV_EQUOTA, PKV_ENOBLOCKS, PKV_ENOLEAVES, PKV_EIO
 *         and PKV_ETIMEDOUT; after the last two, cached blocks that were evicted stay so. */
PKV_API int pkv_seq_fork(pkv_cache* cache, pkv_seq seq, pkv_seq* child);

/* Shorten a sequence to `length` tokens and free the blocks behind; uncommitted tokens go too.
 * `length` may not exceed the committed length, and with a window of W tokens none of the tokens
 * [length - W, length) may have rolled off, sinks not counted.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (in a plan), PKV_EAWAY, PKV_ERANGE,
 *         PKV_ENOLEAVES (only when config.table_leaves_max was set below the default). */
PKV_API int pkv_seq_truncate(pkv_cache* cache, pkv_seq seq, uint32_t length);

/* End a sequence, also one that is away. Its committed blocks of known tokens stay cached until
 * they are evicted, the last, partly filled one included, unless a cached block has all of its
 * tokens; those of the host tier are free at once. They become idle from the last page to the first,
 * those that have rolled off behind the window and are still cached once more in their turn, so that
 * a text is evicted from its end. A zero handle is allowed and does nothing.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (in a plan). */
PKV_API int pkv_seq_free(pkv_cache* cache, pkv_seq seq);

/* Errors  PKV_EINVAL, PKV_ESTALE. */
PKV_API int pkv_seq_get_info(pkv_cache* cache, pkv_seq seq, pkv_seq_info* info);

/* Copy the block numbers of pages [begin, end) of `group` into blocks [end - begin].
 * Pages that rolled off read PKV_NO_BLOCK.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EAWAY, PKV_ERANGE. */
PKV_API int pkv_seq_blocks(pkv_cache* cache, pkv_seq seq, uint32_t group, uint32_t begin,
                           uint32_t end, uint32_t* blocks);

/* K/V that were computed elsewhere (another process, a prefill server, a file) come in without a
 * plan: append reserves slots, pkv_seq_write stores K/V for each layer, commit declares them
 * computed. Append may be called again before the commit; the tokens add up.
 *
 * tokens  [count] ids, or NULL when they are unknown: the sequence is then not cached from here on.
 * slots   [count], filled for group 0; may be NULL.
 * To give up uncommitted tokens, truncate to the committed length.
 * Errors  PKV_EINVAL (count 0), PKV_ESTALE, PKV_EBUSY (in a plan), PKV_EAWAY, and PKV_ETOOBIG,
 *         PKV_EQUOTA, PKV_ENOBLOCKS, PKV_ENOLEAVES, PKV_EIO, PKV_ETIMEDOUT as at
 *         pkv_plan_begin. */
PKV_API int pkv_seq_append(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count,
                           uint32_t* slots);

/* Store K and V of all reserved tokens of a sequence that is in no plan, for one layer.
 * k       [reserved][kv_heads][key_dim]
 * v       [reserved][kv_heads][value_dim]
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (in a plan), PKV_EAWAY, PKV_ERANGE (layer, or
 *         nothing is reserved), PKV_ENONFINITE, PKV_EIO, PKV_EDEVICE. After an error the slots of
 *         this layer hold nothing defined. */
PKV_API int pkv_seq_write(pkv_cache* cache, pkv_seq seq, uint32_t layer, const pkv_array* k,
                          const pkv_array* v);

/* Commit all reserved tokens of a sequence that is in no plan.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (in a plan), PKV_EAWAY. */
PKV_API int pkv_seq_commit(pkv_cache* cache, pkv_seq seq);

/* ---- Pins ------------------------------------------------------------------------------------ */

/* A hold on blocks, whoever else lets go of them. */
typedef struct pkv_pin {
    uint64_t id;
} pkv_pin;

/* Hold the whole blocks among the first `tokens` committed tokens of a sequence: they stay, as
 * active ones, when the sequence is freed, until the pin is released, its owner's pins are, or
 * `timeout_us` have passed (0: no timeout). A pin takes one of config.sequences_max.
 * owner   any number that the application can name later, when what had the pin has died.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (uncommitted tokens or in a plan), PKV_EAWAY, PKV_ERANGE,
 *         PKV_ENOSEQS, PKV_ENOLEAVES. */
PKV_API int pkv_pin_create(pkv_cache* cache, pkv_seq seq, uint32_t tokens, uint64_t owner,
                           uint64_t timeout_us, pkv_pin* pin);

/* End a pin; its blocks are cached from then on. A zero handle is allowed and does nothing.
 * Errors  PKV_EINVAL, PKV_ESTALE (also: its time is over). */
PKV_API int pkv_pin_release(pkv_cache* cache, pkv_pin pin);

/* End all pins of `owner`; how many there were goes to *released, which may be NULL.
 * Errors  PKV_EINVAL. */
PKV_API int pkv_pins_release(pkv_cache* cache, uint64_t owner, uint32_t* released);

/* ---- Retention -------------------------------------------------------------------------------
 *
 * An application that knows more than the policy of eviction says so, block by block: a system prompt
 * is to stay, a batch job's documents need not, what a user said is to be gone after an hour. Needs
 * config.retained_max.
 *
 *   priority  0..100. When room is needed, cached blocks below PKV_PRIORITY_DEFAULT go first, lowest
 *             first; then those that have it, as config.eviction chooses; then those above it, lowest
 *             first. Of equal ones below or above, the one that has been cached for longest goes
 *             first, which is the last block of a sequence before the one before it
 *   duration  a block that has been cached for so long without being used has the default priority
 *             from then on, as if it had just become cached
 *   ttl       a block that has been cached for so long without being used is dropped: no match finds
 *             it, and its memory is free
 *
 * Both times begin when the last sequence, or pin, lets go of a block, and anew each time; of one that
 * has rolled off behind a window also when its sequence ends. They are noticed when somebody looks
 * for a prefix, needs room, or asks for statistics.
 *
 * Priorities are an order and no reservation: blocks that are not in use always go when they have
 * to, and no call fails for one. They order the blocks of one account (see QUOTAS) among each other;
 * how many blocks each account has to give is a matter of its guarantee alone, so that a tenant gets
 * nothing of another's by asking for more. Tenants without a quota compete with each other. In a
 * shared arena, extents that other caches claim go whatever is in them.
 *
 * Terms belong to the block, and so to all sequences that share it: forks, and those that found it.
 * When several ask, the most counts: the highest priority, with its duration (of equal ones the
 * longest), and the longest time to live. They last until the block leaves the cache. The copy that a
 * write to a shared block makes, and the blocks of a sequence that comes back from the host tier, have
 * none; a block that turns out to be equal to a cached one leaves its terms to that. */

enum pkv_priority {
    PKV_PRIORITY_LOWEST = 0,
    PKV_PRIORITY_DEFAULT = 35, /* of blocks that nobody has asked to retain */
    PKV_PRIORITY_HIGHEST = 100
};

typedef struct pkv_retention {
    uint32_t priority;    /* 0..100; the default is 35, not 0 */
    uint64_t duration_us; /* of a priority that is not the default; 0: without end */
    uint64_t ttl_us;      /* 0: without end */
} pkv_retention;

/* Ask to retain the blocks that the committed tokens [begin, end) of a sequence touch, also where
 * they fill them in part only. Tokens that come later are not meant: ask again, for what was decoded
 * at the latest before pkv_seq_free. A plan may be open. Passed over are blocks that are never
 * cached (unknown tokens), that have rolled off, and those that another tenant has published.
 * retention  NULL: take back all that anybody has asked for these blocks
 * retained   set to the number of blocks that are meant; may be NULL
 * Errors     PKV_EINVAL, PKV_ENOTSUP (retained_max is 0), PKV_ESTALE, PKV_EBUSY (leaving or
 *            arriving), PKV_EAWAY, PKV_ERANGE, PKV_ETOOBIG (more than retained_max blocks would be
 *            retained). */
PKV_API int pkv_seq_retain(pkv_cache* cache, pkv_seq seq, uint32_t begin, uint32_t end,
                           const pkv_retention* retention, uint32_t* retained);

/* ---- Quotas ----------------------------------------------------------------------------------
 *
 * A block counts for the tenant that owns it, whether sequences name it (active) or only the prefix
 * index (cached). Two numbers for each tenant say how many it may have:
 *
 *   guaranteed   so many blocks sequences of the tenant can always have, whatever others do. Others
 *                use what it leaves unused for cached blocks only, and lose those when it is asked
 *                for. Guarantees of all tenants together are at most the blocks of the pool. In a
 *                shared arena they are kept as far as the cache has memory: other caches, and
 *                pkv_arena_resize, can take it
 *   limit        so many it has at most, active and cached. At its limit it loses its own cached
 *                blocks for new ones; when they do not suffice, it gets PKV_EQUOTA, and nobody
 *                else's blocks
 *
 * Between its guarantee and its limit a tenant borrows. Blocks are lent to sequences as long as what
 * is used and what is guaranteed fit the pool together; cached ones are anybody's until they are
 * needed. Room is then made by whoever has borrowed most: it loses cached blocks until the next one
 * has as many, and so on. Cached blocks within the guarantee of a tenant go for its own sake only.
 *
 * Tenants without a quota are counted together; they are guaranteed nothing and limited by the pool.
 * pkv_seq_match gives only as much of a prefix as may become active in this sense. */

typedef struct pkv_tenant_config {
    uint64_t tenant;
    uint32_t guaranteed; /* blocks */
    uint32_t limit;      /* blocks, at least `guaranteed`; 0: none but the pool */
    uint32_t borrow_off; /* nonzero: `guaranteed` is the limit */
} pkv_tenant_config;

typedef struct pkv_tenant_info {
    uint64_t tenant;
    uint32_t has_quota; /* 0: all numbers are those of the tenants without a quota, together */
    uint32_t guaranteed;
    uint32_t limit;
    uint32_t borrow_off;
    uint32_t blocks_active; /* sums over all tenants are those of pkv_stats */
    uint32_t blocks_cached;
    uint32_t blocks_borrowed;  /* of both, beyond the guarantee */
    uint32_t blocks_available; /* so many more its sequences could have now: quotas and memory */
    uint32_t host_blocks;      /* of the host tier */
    uint32_t sequences;        /* alive, and pins */
    uint64_t refused;          /* calls that gave PKV_EQUOTA on its account */
    uint64_t evictions;        /* cached blocks that it lost */
    uint64_t prefix_query_tokens;
    uint64_t prefix_hit_tokens;
} pkv_tenant_info;

/* Give a tenant a quota, or another one. Cached blocks above the new limit are evicted; sequences
 * keep what they have. A quota that they do not fit is refused: end or swap out some of them first.
 * The first quota of a tenant takes time in proportion to the pool, and begins new counters.
 * Errors  PKV_EINVAL (also: the limit is below the guarantee), PKV_ETOOBIG (tenants_max tenants have
 *         one, or the pool has fewer blocks than are guaranteed), PKV_EQUOTA (its sequences have
 *         more than the limit), PKV_ENOBLOCKS (sequences of others have what would be guaranteed,
 *         now). */
PKV_API int pkv_tenant_set(pkv_cache* cache, const pkv_tenant_config* config);

/* Take a tenant's quota away, and evict what is cached of it.
 * Errors  PKV_EINVAL (also: it has none), PKV_EBUSY (it has sequences or pins, or others use blocks
 *         of it). */
PKV_API int pkv_tenant_delete(pkv_cache* cache, uint64_t tenant);

/* What a tenant has; any number will do, see has_quota.
 * Errors  PKV_EINVAL. */
PKV_API int pkv_tenant_get(pkv_cache* cache, uint64_t tenant, pkv_tenant_info* info);

/* The tenants that have a quota: `tenants` [capacity] takes as many as fit, in no order that means
 * anything, and *count says how many there are.
 * Errors  PKV_EINVAL. */
PKV_API int pkv_tenant_list(pkv_cache* cache, uint64_t* tenants, uint32_t capacity,
                            uint32_t* count);

/* ---- Swapping --------------------------------------------------------------------------------
 *
 * Sequences that wait can wait in host memory: config.host_blocks blocks of it, taken when the
 * cache is created (pinned on "cuda", or PKV_ENOMEM). Their K/V moves while others are computed:
 *
 *     resident --swap_out--> leaving --done--> away --swap_in--> arriving --done--> resident
 *
 *   leaving, arriving   a transfer is under way. pkv_seq_get_info works; every other call on the
 *                       sequence gives PKV_EBUSY, as if it were in a plan. On "cuda" a plan may be
 *                       begun while a sequence arrives: layers wait on the GPU until they have
 *                       arrived, so that the first is computed while the last is on its way
 *   away                the sequence holds no block of the pool. pkv_seq_get_info, pkv_seq_free and
 *                       pkv_seq_swap_in work; every other call gives PKV_EAWAY
 *
 * Blocks that are shared with other sequences stay with those; the sequence that leaves takes its
 * own copy along. Pages behind the window stay as they are. On "cpu" and "sim" the bytes move
 * inside pkv_transfer_poll, some MiB at a time, and pkv_transfer_wait: the library has no threads
 * for it. */

enum pkv_residence { PKV_RESIDENT = 0, PKV_LEAVING = 1, PKV_AWAY = 2, PKV_ARRIVING = 3 };

/* A swap under way. It is owned by who started it, and has to be ended: the handle lives until
 * pkv_transfer_poll or pkv_transfer_wait has said how it ended, or until it is cancelled. */
typedef struct pkv_transfer {
    uint64_t id;
} pkv_transfer;

/* Start moving a sequence to the host tier. Its blocks are given back when all of them have been
 * copied, not earlier; full ones stay cached like those of a sequence that has ended.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (uncommitted tokens, in a plan, being read, or
 *         transfers_max transfers are under way), PKV_EAWAY, PKV_ENOTSUP (there is no host tier),
 *         PKV_ETOOBIG (more pages than the host tier has blocks), PKV_ENOHOST (not now: others must
 *         come back or end), PKV_EIO, PKV_EDEVICE. */
PKV_API int pkv_seq_swap_out(pkv_cache* cache, pkv_seq seq, pkv_transfer* transfer);

/* Start moving a sequence back. All its blocks are reserved now, or none; cached ones are evicted
 * when that is enough. When it has arrived its full pages are offered to the prefix index again,
 * and those that it has already are shared.
 * Errors  PKV_EINVAL (also: it is not away), PKV_ESTALE, PKV_EBUSY (leaving, arriving, or
 *         transfers_max transfers are under way), PKV_ENOTSUP, PKV_EQUOTA, PKV_ENOBLOCKS,
 *         PKV_ENOLEAVES, PKV_EIO, PKV_EDEVICE. After the last two, cached blocks that were evicted
 *         stay so. */
PKV_API int pkv_seq_swap_in(pkv_cache* cache, pkv_seq seq, pkv_transfer* transfer);

/* Ask whether a transfer is done; never waits long.
 * done    set to 1 when it is: the sequence is away or resident, and the handle dies. Else 0.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (another call on this transfer runs). Every other
 *         status is that of the transfer, PKV_EIO (also: bytes were damaged on the way),
 *         PKV_ETIMEDOUT, PKV_EDEVICE: it has failed, its handle dies, and the sequence is where it
 *         was before, resident or away, with nothing lost. A sequence that a plan names by then is
 *         away again when the plan is aborted; cached blocks that were evicted stay so. */
PKV_API int pkv_transfer_poll(pkv_cache* cache, pkv_transfer transfer, uint32_t* done);

/* Wait until a transfer is done; the handle dies.
 * Errors  as pkv_transfer_poll. */
PKV_API int pkv_transfer_wait(pkv_cache* cache, pkv_transfer transfer);

/* Give a transfer up: the sequence is where it was before, resident or away, with nothing lost, and
 * the handle dies. Returns when the device touches neither copy any more, which can take as long as
 * the copies that it has begun. A zero handle is allowed and does nothing.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (another call on this transfer runs, or a plan names
 *         the sequence). */
PKV_API int pkv_transfer_cancel(pkv_cache* cache, pkv_transfer transfer);

/* ---- Steps: plan, write, attend, commit ------------------------------------------------------ */

typedef struct pkv_plan {
    uint64_t id;
} pkv_plan;

/* One sequence of a step and its new tokens: a chunk of a prompt, or the one sampled last. */
typedef struct pkv_entry {
    pkv_seq seq;
    const uint32_t* tokens; /* [count] ids; NULL: unknown, not cached from here on */
    uint32_t count;         /* new tokens, at least 1 */
} pkv_entry;

/* What a plan decided. All arrays belong to the plan and are valid until it is committed or
 * aborted. Rows of arrays that you pass to pkv_write and pkv_attend are the new tokens in entry
 * order. */
typedef struct pkv_plan_info {
    uint32_t entries;        /* sequences */
    uint32_t tokens;         /* new tokens of all of them: rows */
    uint32_t table_stride;   /* elements between rows of block_table */
    const uint32_t* starts;  /* [entries + 1] first row of each entry; starts[entries] == tokens */
    const uint32_t* lengths; /* [entries] tokens of the sequence with the new ones */
    const uint32_t* positions;   /* [tokens] position of each row in its sequence; in a tree, one
                                    behind that of its parent */
    const uint32_t* slots;       /* [tokens] slot of each row in the group, in the order of rows */
    const uint32_t* block_table; /* [entries][table_stride] block of each page */
} pkv_plan_info;

/* Open a plan: reserve the blocks of every entry, all or nothing. Shared blocks that would be
 * written are copied first; one that a sequence shares with the prefix index alone leaves the index
 * instead when it ends where the sequence goes on, or when there is no room for the copy. When free
 * blocks do not suffice, cached ones are evicted (config.eviction), but only when that is enough.
 * Errors  PKV_EINVAL (also: count 0, a sequence named twice), PKV_ESTALE, PKV_EBUSY (a sequence
 *         with reserved tokens or in a plan, or plans_max plans are open), PKV_EAWAY, PKV_ETOOBIG
 *         (a limit, or more blocks than there are: it can never fit), PKV_EQUOTA (a tenant is at
 *         its limit: sequences of its own must end), PKV_ENOBLOCKS (not now: other sequences must
 *         end, or this one be freed and computed again), PKV_ENOLEAVES, PKV_EIO and
 *         PKV_ETIMEDOUT (copy or scrub failed). After PKV_EIO and PKV_ETIMEDOUT no sequence has
 *         changed, but cached blocks that were evicted to make room, and zeroed free blocks, stay
 *         so. */
PKV_API int pkv_plan_begin(pkv_cache* cache, const pkv_entry* entries, uint32_t count,
                           pkv_plan* plan);

/* Errors  PKV_EINVAL (also: a plan of pkv_graph_begin), PKV_ESTALE, PKV_ERANGE (group). */
PKV_API int pkv_plan_get_info(pkv_cache* cache, pkv_plan plan, uint32_t group, pkv_plan_info* info);

/* Store K and V of the plan's new tokens for one layer, converted to the types of the cache.
 * k       [tokens][kv_heads][key_dim]
 * v       [tokens][kv_heads][value_dim]
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_ERANGE (layer), PKV_ENONFINITE, PKV_EIO, PKV_EDEVICE. After
 *         an error the slots of this layer hold nothing defined: write again or abort.
 * Threads calls for different layers or plans may run at once. */
PKV_API int pkv_write(pkv_cache* cache, pkv_plan plan, uint32_t layer, const pkv_array* k,
                      const pkv_array* v);

/* One attention call: softmax(scale * q k^T) v with a causal mask over absolute positions, and the
 * window and sinks of the group. Query head h reads KV head h / (query_heads / kv_heads). */
typedef struct pkv_attention {
    pkv_array q;          /* [tokens][query_heads][key_dim], read */
    pkv_array out;        /* [tokens][query_heads][value_dim], written; must not overlap q */
    float* lse;           /* [tokens][query_heads] natural log of the softmax sum; or NULL */
    uint32_t query_heads; /* a multiple of kv_heads, at most 65536 */
    float scale;          /* 0: 1 / sqrt(key_dim) */
    float softcap;        /* c > 0: scores become c * tanh(score / c) */
    /* [query_heads] learned sinks, or NULL. The logit of a head takes part in its softmax as one
     * more score, as it is (no scale, no soft cap, no window), and has no value: weights then add
     * up to less than 1. It is part of the sum whose log is `lse`. */
    const float* sink_logits;
} pkv_attention;

/* Attend from the plan's new tokens to all tokens of their sequences up to themselves. K and V of
 * the layer must have been written; the library does not check that. Scores, their softmax and the
 * output must stay within f32: finite inputs near its limits can give infinities and NaN. With E4M3
 * and E5M2 the limits are nearer: 2^63 for q, 2^80 for keys (times `scale`), 2^72 for values.
 * Arithmetic is f32 but at level "avx512bf16", which multiplies by dot products: K and V in bf16 by
 * queries and softmax weights of 8 significant bits when q is bf16, of 16 when it is not; in fp8,
 * of 8 always; in i8 and i4, of 16 bits below the largest of a row: what is 2^-16 of it or less may
 * count as nothing. Sums are f32, or exact integers. The output of a sequence is bitwise the same
 * whatever else is in the plan, wherever its blocks lie, however it is cut into chunks and however
 * many threads run; on "cuda", chunks of more rows than 64 (tokens times query heads of a KV head)
 * are summed in another order than shorter ones, and their last bits may differ.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_ERANGE (layer), PKV_ETOOBIG (over 2^30 rows of tokens times
 *         heads), PKV_ENONFINITE (in q or sink_logits; out is
 *         untouched), PKV_EIO, PKV_EDEVICE.
 * Threads calls for different layers or plans may run at once; the thread pool serves one at a
 * time. */
PKV_API int pkv_attend(pkv_cache* cache, pkv_plan plan, uint32_t layer,
                       const pkv_attention* attention);

/* Make the new tokens part of their sequences, put full blocks into the prefix index, and drop the
 * blocks that fell behind the window. The plan handle dies.
 * Errors  PKV_EINVAL (also: an entry is a tree, see pkv_plan_accept, or the plan is one of
 *         pkv_graph_begin), PKV_ESTALE, PKV_EBUSY (a write, attend or load still runs, or a sequence
 *         is still arriving), and that of a sequence whose arrival has failed: abort the plan then. */
PKV_API int pkv_plan_commit(pkv_cache* cache, pkv_plan plan);

/* Give up a plan: its new blocks are free again and its sequences are as long as before; a shared
 * last block that the plan copied, or took out of the prefix index, stays so. The handle dies.
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY. */
PKV_API int pkv_plan_abort(pkv_cache* cache, pkv_plan plan);

/* ---- Speculation -----------------------------------------------------------------------------
 *
 * Speculative decoding computes guesses at the next tokens in one step and keeps those that turn
 * out right. A chain of guesses is an entry like any other; several continuations are a tree:
 *
 *     row       0   1   2   3   4
 *     token     A   B   C   D   E               A - B - C
 *     parent    -   0   1   0   3                \_ D - E
 *
 * A token of a tree stands one position behind its parent, and sees the committed tokens, its
 * ancestors and itself; window and sinks go by position. Its output is that of the same tokens as a
 * chain, but for rounding; a tree in which each token is the parent of the next one is a chain, to
 * the last bit. Until a path is accepted, all tokens of a tree take slots: blocks, and room within
 * sequence_tokens_max. */

/* In place of a parent: the token follows the committed ones. */
enum pkv_parent { PKV_NO_PARENT = 0x7fffffff };

enum pkv_tree_limit { PKV_TREE_TOKENS_MAX = 256 };

/* Open a plan as pkv_plan_begin does, in which entries can be trees.
 * parents [count] for each entry NULL, when each of its tokens follows the one before, or for each
 *         of its tokens the parent, which has a lower place in the entry, or PKV_NO_PARENT. Read
 *         by this call only.
 * Errors  as pkv_plan_begin; PKV_EINVAL also for a parent that does not come before its child,
 *         PKV_ETOOBIG for a tree of more than PKV_TREE_TOKENS_MAX tokens. */
PKV_API int pkv_plan_begin_trees(pkv_cache* cache, const pkv_entry* entries,
                                 const uint32_t* const* parents, uint32_t count, pkv_plan* plan);

/* What is accepted of one entry. */
typedef struct pkv_path {
    const uint32_t* rows; /* [count] places in the entry: the first one has no parent, every other
                             one is a child of the one before. NULL: 0, 1, 2, ... */
    uint32_t count;       /* 0: nothing, the sequence is as long as before */
} pkv_path;

/* Commit one path of each entry and drop its other tokens: they leave nothing behind, and their
 * blocks are free at once. K and V of the path are moved to where its tokens now stand, as they are
 * stored, in all layers; the first tokens of a chain need no move. The plan handle dies.
 * paths   [count] one for each entry, in their order.
 * Errors  PKV_EINVAL (also: another count than that of the entries, or a path that is none),
 *         PKV_ESTALE, PKV_EBUSY and that of an arrival, as pkv_plan_commit; PKV_EIO, PKV_EDEVICE:
 *         nothing was moved, and the plan is open as before. */
PKV_API int pkv_plan_accept(pkv_cache* cache, pkv_plan plan, const pkv_path* paths, uint32_t count);

/* ---- Captured steps --------------------------------------------------------------------------
 *
 * On "cuda" a decode step can be captured in a CUDA graph once and launched for plan after plan, of
 * whatever sequences and lengths, up to the size that it was captured for. Once:
 *
 *   config.graph_sequences_max = 64; config.graph_query_heads = 32;
 *   pkv_cache_set_stream(cache, stream);
 *   pkv_graph_begin(cache, 64, 1, &shape);                // a plan for 64 sequences, one token each
 *   cudaStreamBeginCapture(stream, mode);
 *   ...  the model; pkv_write and pkv_attend with `shape`; arrays have 64 * 1 rows
 *   cudaStreamEndCapture(stream, &graph);  cudaGraphInstantiate(&ready, graph, 0);
 *   pkv_plan_abort(cache, shape);
 *
 * and then for each step, with arrays whose first rows are filled:
 *
 *   pkv_plan_begin(cache, entries, count, &plan);         // count <= 64
 *   pkv_graph_load(cache, plan, 64, 1);                   // one copy, in the stream
 *   cudaGraphLaunch(ready, stream);
 *   pkv_plan_commit(cache, plan);
 *
 * Rows behind those of the plan are neither read nor written. The output is bitwise that of the
 * same plan without a graph. Graphs of several sizes may be captured and launched in turn: all are
 * done for the plan that was loaded last. */

/* Open a plan that stands for every plan of up to `sequences` entries with up to `sequence_tokens`
 * new tokens each. It names no sequence, and serves pkv_write and pkv_attend, with arrays of
 * sequences * sequence_tokens rows and config.graph_query_heads query heads; captured or not, they
 * are done for the plan that is loaded when the stream comes to them. End it with pkv_plan_abort;
 * what was captured stays valid until the cache is destroyed.
 * Errors  PKV_EINVAL (a zero), PKV_ENOTSUP (no graph_sequences_max), PKV_ETOOBIG (larger than the
 *         config allows), PKV_EBUSY (plans_max plans are open). */
PKV_API int pkv_graph_begin(pkv_cache* cache, uint32_t sequences, uint32_t sequence_tokens,
                            pkv_plan* plan);

/* Put into the stream that captured steps are done for `plan` from here on. It has at most
 * `sequences` entries with at most `sequence_tokens` new tokens each; the graphs that are launched
 * for it were captured for at least as many of both: a smaller one would go beyond its arrays.
 * Launch before the plan ends. Sequences that are arriving are waited for as a whole.
 * Errors  PKV_EINVAL (also: the plan is one of pkv_graph_begin), PKV_ESTALE, PKV_ENOTSUP (no
 *         graph_sequences_max, a captured stream, or a token tree), PKV_ETOOBIG (the plan does not
 *         fit, or the config does not allow it), PKV_EIO, PKV_EDEVICE. After PKV_EIO it is not
 *         defined what captured steps are done for: load again. */
PKV_API int pkv_graph_load(pkv_cache* cache, pkv_plan plan, uint32_t sequences,
                           uint32_t sequence_tokens);

/* ---- Reading --------------------------------------------------------------------------------- */

/* Read K and V of committed tokens [begin, end) of one layer back, in the plain order.
 * k       [end - begin][kv_heads][key_dim] or NULL
 * v       [end - begin][kv_heads][value_dim] or NULL
 * Errors  PKV_EINVAL, PKV_ESTALE, PKV_EBUSY (in a plan), PKV_EAWAY, PKV_ERANGE (also: rolled
 *         off), PKV_EIO. */
PKV_API int pkv_seq_read(pkv_cache* cache, pkv_seq seq, uint32_t layer, uint32_t begin,
                         uint32_t end, const pkv_array* k, const pkv_array* v);

/* ---- Checking -------------------------------------------------------------------------------- */

typedef struct pkv_report {
    const char* broken;        /* the first invariant that does not hold, by its name in DESIGN.md;
                                       NULL when all hold. Static. */
    uint64_t sequences_digest; /* hash of all that sequences can see: lengths, tables, references */
    uint64_t cache_digest;     /* the above, and free lists, prefix index, eviction order */
} pkv_report;

/* Recount everything and compare with the books: every reference, list, table and index entry.
 * Takes time in proportion to the cache. `report` may be NULL.
 * Errors  PKV_EINVAL, PKV_ECORRUPT (report->broken names the invariant). */
PKV_API int pkv_check(pkv_cache* cache, pkv_report* report);

/* ---- Faults ------------------------------------------------------------------------------------
 * Every operation that can fail passes a named fault point, also in release builds. A specification
 * makes points fail on purpose, the same string from C, from Python and from the environment:
 *
 *   spec    point=term[->term...] [; point=...]      point may end in * to name several
 *   term    [P%][N*]action[(argument)]               P percent of visits, at most N times
 *   action  off             nothing; the visit is counted
 *           return(STATUS)  the operation fails with that status: return(EIO)
 *           delay(US)       it takes so many microseconds longer (of the virtual clock under "sim")
 *           drop            its completion never arrives
 *           dup             its completion arrives twice
 *           corrupt(BITS)   so many random bits of the data flip
 *           pause           it waits until the specification is replaced
 *           yield           the thread yields
 *           crash           the process ends at once, as by kill -9
 *
 * A term that has used up its N times hands over to the next one; a chain has at most 8. When
 * several parts name a point, the last one counts. Numbers are below 2^32. Visits are counted while
 * a point is named by the specification. Actions that make no sense at a point do nothing there.
 * A function may return any status that a specification names, also one that it does not list. A
 * pause in the specification of the config itself would wait for ever: nobody can end it yet. */

typedef struct pkv_fault_info {
    const char* name;    /* "device.copy.done"; static */
    const char* meaning; /* what happens there; static */
    uint64_t visits;     /* while named by a specification */
    uint64_t fired;      /* visits at which an action other than off was taken */
} pkv_fault_info;

/* Replace the fault specification of a cache; NULL or "" turns all points off. Counters restart.
 * Errors  PKV_EINVAL, PKV_EFAULTSPEC (the old specification stays), PKV_ENOTSUP (built without). */
PKV_API int pkv_faults_set(pkv_cache* cache, const char* spec, uint64_t seed);

/* How many fault points the library knows; a build without them (PKV_FAULTS=OFF) still names
 * them. */
PKV_API uint32_t pkv_fault_count(void);

/* Describe point `index`, with its counters in `cache`; `cache` may be NULL: counters are then 0.
 * Errors  PKV_EINVAL, PKV_ERANGE. */
PKV_API int pkv_fault_get(pkv_cache* cache, uint32_t index, pkv_fault_info* info);

/* ---- Clock and trace ------------------------------------------------------------------------- */

/* Microseconds since the cache was created: of the monotonic clock, or of the virtual one
 * ("sim"). */
PKV_API uint64_t pkv_clock_us(pkv_cache* cache);

/* Move the virtual clock of the "sim" device forward.
 * Errors  PKV_EINVAL, PKV_ENOTSUP (another device). */
PKV_API int pkv_clock_advance(pkv_cache* cache, uint64_t us);

/* The last operations, for post-mortems. Their times never go back; those of seq.append, seq.commit
 * and prefix.evict, which come with every token, may be early by a tick of the system, some ms. */
typedef struct pkv_trace_event {
    uint64_t number; /* counts from 0 without gaps */
    uint64_t time_us;
    const char* what; /* "seq.fork", "prefix.evict", ...; static */
    uint64_t subject; /* handle or block number */
    uint64_t detail;  /* tokens, blocks, or the status as a positive number */
} pkv_trace_event;

/* Copy the newest min(capacity, kept) events, oldest first, and say how many in *count.
 * Errors  PKV_EINVAL. */
PKV_API int pkv_trace_read(pkv_cache* cache, pkv_trace_event* events, uint32_t capacity,
                           uint32_t* count);

#ifndef PKV_CDEF
#ifdef __cplusplus
}
#endif
#endif
#endif /* PAGEDKV_H */
