/* attend.h - attention on the CPU: what the driver (attend.c) and the kernels (attend_kernel.h)
 * share.
 *
 * The driver cuts a call into items; a kernel works one item off. The cuts that decide the result
 * are fixed positions of the sequence and nothing else:
 *
 *   positions   |<-- split (PKVI_SPLIT_TOKENS) -->|<-- split -->| ...   summed apart, then merged
 *               | chunk | chunk | ...                                   one softmax update each
 *               | tile | tile | ...                                     16 tokens: one block's run
 *
 * Rows are independent of each other and an invisible chunk leaves a row's state as it was, bit for
 * bit. So a row's output does not depend on which rows share its item, which items there are, or
 * who runs them. */
#ifndef PKVI_DEVICE_CPU_ATTEND_H
#define PKVI_DEVICE_CPU_ATTEND_H

#include "base/limits.h"
#include "device/cpu/chunk.h"
#include "device/cpu/threads.h"

enum { PKVI_ITEM_ROWS = 192 }; /* query rows of one item, over all its heads */

/* Rows of one item: `rows` (token, head) pairs of each of `kv_heads` KV heads. Row r of KV head h
 * is token r / group_heads of the entry, query head h * group_heads + r % group_heads. */
struct pkvi_item {
    uint32_t entry;
    uint32_t kv_head; /* first */
    uint32_t kv_heads;
    uint32_t row; /* first */
    uint32_t rows;
    uint32_t split_begin;
    uint32_t split_end;
    float* partial; /* where the state of a single split goes; NULL: all splits, write the output */
};

/* What one thread works with; sized for PKVI_ITEM_ROWS and the largest dims. */
struct pkvi_workspace {
    unsigned char* q;        /* [rows][key_dim] of f32 or less */
    float* sum;              /* [rows][state] of all splits so far */
    float* split;            /* [rows][state] of the present split */
    float* scores;           /* [rows][PKVI_CHUNK_TOKENS] */
    float* corrections;      /* [rows], and room for a vector */
    float* affine;           /* scales and minima of one chunk's V in 4-bit values */
    unsigned char* unpacked; /* K and V of one chunk in f32 or less */
    unsigned char* stage;    /* K and V of one chunk, for blocks shorter than a tile */
};

/* The state of one row's online softmax (Milakov, Gimelshein, 2018): output so far [value_dim],
 * then the highest score, then the sum of the weights relative to it. */
static inline uint32_t pkvi_state_floats(uint32_t value_dim) {
    return value_dim + PKVI_TILE_TOKENS; /* keeps rows aligned */
}

/* One instruction set level. */
struct pkvi_kernels {
    const char* isa;
    bool (*is_supported)(void);
    void (*attend)(const struct pkvi_attend_job* job, const struct pkvi_item* item,
                   const struct pkvi_workspace* workspace);
    /* Merge `splits` consecutive partial states of an item's rows in order and write the output. */
    void (*merge)(const struct pkvi_attend_job* job, const struct pkvi_item* item, uint32_t splits,
                  const struct pkvi_workspace* workspace);
    /* Store rows [begin, end) of K and V. False when a number is not finite in the type of the
     * cache. */
    bool (*pack)(const struct pkvi_kv_job* job, uint32_t begin, uint32_t end);
};

extern const struct pkvi_kernels pkvi_kernels_scalar;
extern const struct pkvi_kernels pkvi_kernels_avx2;
extern const struct pkvi_kernels pkvi_kernels_avx512;
extern const struct pkvi_kernels pkvi_kernels_avx512bf16;
extern const struct pkvi_kernels pkvi_kernels_neon;

/* The level called `isa`, or the best one for NULL; NULL when there is none. */
const struct pkvi_kernels* pkvi_kernels_find(const char* isa);

/* The driver. */
struct pkvi_attender;
int pkvi_attender_open(struct pkvi_attender** attender, const struct pkvi_device_config* config,
                       const struct pkvi_kernels* kernels, struct pkvi_threads* threads);
void pkvi_attender_close(struct pkvi_attender* attender, struct pkvi_mem* mem);

/* Errors  PKV_ENONFINITE; `out` is untouched then. */
int pkvi_attender_run(struct pkvi_attender* attender, const struct pkvi_attend_job* job);

#endif
