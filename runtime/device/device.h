/* device.h - what the core asks of a device: memory, copies, and the three K/V operations.
 *
 * Peers: host.c with cpu/ (SIMD kernels), sim.c (deterministic, for tests), and cuda/, a library of
 * its own that cuda_loader.c loads when it is asked for. The core sees this table only.
 * Preconditions are stated here once, are guaranteed by core/ and api/, and are not checked again:
 * pointers are valid, sizes are nonzero, block numbers name blocks of the space, shapes fit the
 * geometry.
 *
 * ORDER   A device may work in the order in which it is called and be done later, as one with a
 *         stream does. What the core is told is complete is complete for every later call of the
 *         device; the host reads no memory of a device.
 *
 * LAYOUT of a block (struct pkvi_layout):
 *
 *   block   [layer 0 slab][layer 1 slab] ...                          layer_bytes each
 *   slab    [K of head 0][K of head 1] ... [V of head 0][V of head 1] ...
 *           K of a head: block_tokens x key_dim elements, V: block_tokens x value_dim
 *   piece   one head's K or V: [elements of all tokens][scales of all tokens], the latter for
 *           scaled types only: f32 [block_tokens], or for i4 an f16 scale and an f16 minimum for
 *           each token and group of 32 dims
 *
 * The order of elements inside one head's K or V belongs to the device (its write packs, its read
 * unpacks). Each head's piece starts on a 64-byte border. A slab is one contiguous read: what one
 * layer's decode needs of a block. */
#ifndef PKVI_DEVICE_DEVICE_H
#define PKVI_DEVICE_DEVICE_H

#include "base/clock.h"
#include "base/mem.h"

struct pkvi_layout {
    pkv_group_config group; /* with all defaults filled in */
    uint64_t k_head_bytes;  /* one head's K, padded to 64 */
    uint64_t v_head_bytes;
    uint64_t k_scale_offset; /* of the scales inside one head's K; for scaled types */
    uint64_t v_scale_offset;
    uint64_t v_offset;    /* of the first V inside a slab: kv_heads * k_head_bytes */
    uint64_t layer_bytes; /* one slab */
    uint64_t block_bytes; /* layers * layer_bytes */
};

/* Where blocks are: extents of the arena, each cut into blocks. */
struct pkvi_space {
    unsigned char* base;
    uint64_t extent_bytes;
    uint64_t block_bytes;
    uint32_t blocks_per_extent;
};

static inline unsigned char* pkvi_space_block(const struct pkvi_space* space, uint32_t block) {
    return space->base + (block / space->blocks_per_extent) * space->extent_bytes +
           (block % space->blocks_per_extent) * space->block_bytes;
}

/* Where the K or V of a head begins in a block. */
static inline uint64_t pkvi_layout_head(const struct pkvi_layout* layout, uint32_t layer,
                                        uint32_t head, bool is_value) {
    const uint64_t slab = layer * layout->layer_bytes;
    return is_value ? slab + layout->v_offset + head * layout->v_head_bytes
                    : slab + head * layout->k_head_bytes;
}

/* Sizes of `group`, whose fields are valid and complete. False when they overflow 64 bits. */
bool pkvi_layout_init(struct pkvi_layout* layout, const pkv_group_config* group);

/* Of the types that arrays can have. */
static inline uint32_t pkvi_dtype_bytes(uint32_t dtype) {
    return dtype == PKV_F32 ? 4 : 2;
}

static inline bool pkvi_dtype_is_scaled(uint32_t dtype) {
    return dtype >= PKV_I8;
}

static inline uint32_t pkvi_dtype_bits(uint32_t dtype) {
    if (dtype == PKV_I4) return 4;
    return pkvi_dtype_is_scaled(dtype) ? 8 : 8 * pkvi_dtype_bytes(dtype);
}

enum { PKVI_GROUP_DIMS = 32 }; /* dims of i4 that share a scale and a minimum */

static inline uint32_t pkvi_scale_groups(uint32_t dim) {
    return (dim + PKVI_GROUP_DIMS - 1) / PKVI_GROUP_DIMS;
}

/* Bytes of what decodes one token's K or V of one head. */
static inline uint32_t pkvi_scale_bytes(uint32_t dtype, uint32_t dim) {
    if (dtype == PKV_I4) return 4 * pkvi_scale_groups(dim);
    return pkvi_dtype_is_scaled(dtype) ? 4 : 0;
}

/* The shape of a captured step: for plans of so many entries, with so many new tokens each, at most. */
struct pkvi_graph {
    uint32_t sequences;
    uint32_t sequence_tokens;
};

/* Row r of the arrays and slots[r] belong together: write stores rows into slots, read copies slots
 * into rows, where the array's data is not NULL. Strides are filled in (never 0). Slots are
 * different from each other, and those of one run of 16 tokens stand together. */
struct pkvi_kv_job {
    const struct pkvi_layout* layout;
    const struct pkvi_space* space;
    uint32_t layer; /* within the group */
    uint32_t tokens;
    const uint32_t* slots;          /* [tokens] */
    pkv_array k;                    /* [tokens][kv_heads][key_dim] */
    pkv_array v;                    /* [tokens][kv_heads][value_dim] */
    uint64_t plan;                  /* as in pkvi_attend_job */
    const struct pkvi_graph* graph; /* likewise */
};

/* An entry that is a token tree: rows stand in the table like those of a chain, but their positions
 * are those given here, and of its own rows each one sees its ancestors and itself. */
struct pkvi_tree {
    const uint32_t* parents; /* [rows of the entry] a row before it in the entry, or PKV_NO_PARENT;
                                  NULL: the entry is no tree */
    const uint32_t* positions; /* [rows of the entry] */
};

/* `plan` is nonzero for jobs of a plan, and jobs with the same number have the same arrays of
 * indices (slots; starts, lengths, block_table) with the same content: a device may keep its own
 * copy of them from one layer to the next. The number never comes back with other content.
 *
 * Rows starts[e] .. starts[e+1] belong to entry e, whose sequence has lengths[e] tokens including
 * them: row r of e stands at position lengths[e] - starts[e+1] + r. Page p of e is block_table[e *
 * stride + p]; pages behind the window may be PKV_NO_BLOCK and must not be read. Slots at and
 * behind lengths[e] hold garbage, NaN included.
 *
 * Where `graph` is not NULL, the job is that of a captured step: it is done for whichever plan has been
 * loaded when the stream comes to it (graph_load below), and has none of the arrays of indices. Rows of
 * its arrays are those of the largest plan that fits the shape. */
struct pkvi_attend_job {
    const struct pkvi_layout* layout;
    const struct pkvi_space* space;
    uint32_t layer;
    uint32_t entries;
    const struct pkvi_tree* trees; /* [entries], or NULL: no entry is a tree */
    const uint32_t* starts;        /* [entries + 1] */
    const uint32_t* lengths;       /* [entries] */
    const uint32_t* block_table;   /* [entries][table_stride] */
    uint32_t table_stride;
    uint32_t query_heads;
    float scale;   /* filled in */
    float softcap; /* 0: none */
    pkv_array q;   /* strides filled in */
    pkv_array out;
    float* lse;               /* [tokens][query_heads] or NULL */
    const float* sink_logits; /* [query_heads] or NULL */
    uint64_t plan;
    const struct pkvi_graph* graph;
};

/* Tokens whose K and V go to other slots, in all layers: from[i] to to[i], one after the other. What
 * one move overwrites no later one reads. */
struct pkvi_move_job {
    const struct pkvi_layout* layout;
    const struct pkvi_space* space;
    uint32_t count;
    const uint32_t* from; /* [count] */
    const uint32_t* to;   /* [count] */
};

/* Bytes of the arena that are copied to another place: a run of them, or where `layout` is not NULL
 * what the first tokens of a block take (copy.h); `bytes` in all. */
struct pkvi_copy_job {
    void* to;
    const void* from;
    uint64_t bytes;
    const struct pkvi_layout* layout;
    uint32_t tokens;
};

/* Blocks of the arena and blocks of the host tier that change places: blocks[i] of the space and
 * the slot slots[i] of `host`, which is cut into pieces of block_bytes. The blocks are different
 * from each other, and so are the slots. The arrays are read before the call returns.
 *
 * `index` names the transfer, below transfers_max, and is not used for another before it has ended:
 * when transfer_poll has said so, or transfer_wait or transfer_cancel has returned. From then on the
 * device touches neither the blocks nor the slots. Before that the caller leaves the destination
 * alone, and does not change the source. What an unsuccessful transfer leaves in the destination is
 * not defined. Calls for different transfers may come at once, those for one do not. */
struct pkvi_transfer_job {
    uint32_t index;
    uint32_t count;
    const struct pkvi_layout* layout;
    const struct pkvi_space* space;
    unsigned char* host;
    const uint32_t* blocks; /* [count] */
    const uint32_t* slots;  /* [count] */
    bool is_in;             /* host to device */
};

/* Where slot `slot` of a job's host tier is. */
static inline unsigned char* pkvi_transfer_host(const struct pkvi_transfer_job* job, uint32_t i) {
    return job->host + job->slots[i] * job->layout->block_bytes;
}

struct pkvi_device;

struct pkvi_device_ops {
    const char* name;

    /* Memory of the arena: `bytes`, zeroed, aligned to a huge page where the system has them. */
    int (*alloc)(struct pkvi_device* device, uint64_t bytes, void** base);
    void (*free)(struct pkvi_device* device, void* base, uint64_t bytes);

    /* Give pages of the arena back to the system; they read as zeros when they are touched again.
     * NULL: that is not possible. */
    int (*release)(struct pkvi_device* device, void* memory, uint64_t bytes);

    /* Start copying; *ticket names the copy. Source and destination do not overlap. Copies may
     * complete in any order. Every ticket must be waited for, once. */
    int (*copy)(struct pkvi_device* device, const struct pkvi_copy_job* job, uint64_t* ticket);
    bool copies_runs; /* of bytes alone: the layout of a job is NULL */
    /* Wait until a copy has completed and say how it ended. */
    int (*wait)(struct pkvi_device* device, uint64_t ticket);
    /* Fill with zeros. */
    int (*zero)(struct pkvi_device* device, void* to, uint64_t bytes);

    int (*write)(struct pkvi_device* device, const struct pkvi_kv_job* job);
    int (*read)(struct pkvi_device* device, const struct pkvi_kv_job* job);
    int (*attend)(struct pkvi_device* device, const struct pkvi_attend_job* job);
    /* Move tokens, codes and scales as they are. On error nothing has moved. */
    int (*move)(struct pkvi_device* device, const struct pkvi_move_job* job);

    /* Memory of the host tier, which transfers copy to and from: `bytes`, zeroed. */
    int (*alloc_host)(struct pkvi_device* device, uint64_t bytes, void** base);
    void (*free_host)(struct pkvi_device* device, void* base, uint64_t bytes);

    /* Start a transfer. On error there is none. */
    int (*transfer)(struct pkvi_device* device, const struct pkvi_transfer_job* job);
    /* Go on with it for a bounded time, and say whether it has ended; the status is then how. */
    int (*transfer_poll)(struct pkvi_device* device, uint32_t index, bool* has_ended);
    /* Wait until it has ended, and say how. */
    int (*transfer_wait)(struct pkvi_device* device, uint32_t index);
    /* End it, done or not. */
    void (*transfer_cancel)(struct pkvi_device* device, uint32_t index);

    /* May write and attend name blocks that a transfer is still copying in? The device then does
     * each layer after that layer has arrived. */
    bool orders_transfers;

    /* What this device was asked for is done, also what it might do once more: memory that others
     * get from now on is left alone. NULL: nothing comes late. */
    void (*settle)(struct pkvi_device* device);

    /* Load a plan, whose arrays are those of `job` and `slots` [tokens], for the captured steps that
     * follow; q, out and lse mean nothing. Its entries fit the config. NULL where a device has no
     * graphs. */
    int (*graph_load)(struct pkvi_device* device, const struct pkvi_attend_job* job,
                      const uint32_t* slots);

    /* From now on, work in the order of `stream`; NULL where a device has no streams. */
    int (*set_stream)(struct pkvi_device* device, void* stream);

    void (*close)(struct pkvi_device* device);
};

struct pkvi_device {
    const struct pkvi_device_ops* ops;
    const char* isa; /* level of the kernels; lives as long as the device */
};

struct pkvi_device_config {
    bool memory_only; /* of a shared arena: it allocates and frees, and nothing else is set below
                         but mem, faults and clock */
    const char* isa;  /* or NULL */
    uint32_t ordinal; /* which of several devices of the kind */
    uint32_t threads;
    pkv_parallel_hook parallel;
    struct pkvi_layout layout; /* of the group, to size scratch memory at open */
    uint32_t plan_tokens_max;
    uint32_t plan_sequences_max;
    uint32_t sequence_tokens_max;
    uint32_t plans_max;
    uint32_t copies_max;         /* copies that are in flight at once, at most */
    uint32_t blocks;             /* of the arena */
    uint32_t transfers_max;      /* under way at once, at most; 0: there is no host tier */
    uint32_t transfer_pairs_max; /* blocks of one transfer, at most */
    uint32_t swap_layers;        /* layers that arrive together; 0: the device decides */
    struct pkvi_graph graph;     /* the largest captured step; 0 sequences: there are none */
    uint32_t graph_query_heads;
    uint64_t seed; /* of the simulated device's latencies */
    struct pkvi_mem* mem;
    struct pkvi_faults* faults;
    struct pkvi_clock* clock;
};

/* Open the device called `name` ("cpu", "cuda", "sim").
 * Errors  PKV_ENOTSUP (unknown name or isa), PKV_ENOMEM, PKV_EIO (threads), or a fault point's
 *         status. */
int pkvi_device_open(const char* name, const struct pkvi_device_config* config,
                     struct pkvi_device** device);
bool pkvi_device_known(const char* name);

/* Why the device called `name` cannot be used here, as a static sentence; NULL when it can. */
const char* pkvi_device_absent(const char* name);

/* Is the device here, and does it do what `config`, complete and valid by itself, asks for? On
 * error *why is a static sentence that names the field.
 * Errors  PKV_ENOTSUP. */
int pkvi_device_check(const pkv_config* config, const char** why);

bool pkvi_isa_known(const char* isa); /* compiled in and supported by this processor */

/* The device peers. */
int pkvi_host_open(const struct pkvi_device_config* config, struct pkvi_device** device);
int pkvi_sim_open(const struct pkvi_device_config* config, struct pkvi_device** device);
const char* pkvi_cuda_absent(void);
int pkvi_cuda_check(const pkv_config* config, const char** why);
int pkvi_cuda_open(const struct pkvi_device_config* config, struct pkvi_device** device);

/* The specification: attention in double precision, one element at a time, no cleverness; and
 * storing and reading element by element through the plain order [token][dim]. The simulated device
 * runs on it. */
int pkvi_reference_attend(const struct pkvi_attend_job* job);
int pkvi_reference_write(const struct pkvi_kv_job* job);
int pkvi_reference_read(const struct pkvi_kv_job* job);
void pkvi_reference_move(const struct pkvi_move_job* job);

#endif
