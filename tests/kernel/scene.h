/* scene.h - a random attention problem, laid out in memory as unkindly as the contract allows.
 *
 * A shape says what is computed: geometry, sequences, arrays. A scene is the shape in memory, made
 * for one device: blocks shuffled, each in pages of its own between pages that cannot be touched,
 *
 *     [guard][   block 0][guard][   block 1][guard] ...    against the guard behind it, or
 *     [guard][block 0   ][guard][block 1   ][guard] ...    (half of the scenes) the one before it
 *
 * and every byte NaN (0xff...) until it is written. Blocks that no sequence names stay so, and so
 * do slots behind the length of a sequence and pages behind the window, which the table does not
 * name at all.
 *
 * Values are functions of (seed, who, position, head, dim): `who` names a sequence wherever it
 * stands in the batch, so that the same sequence can be set up in another scene, in other blocks.
 * */
#ifndef TESTS_KERNEL_SCENE_H
#define TESTS_KERNEL_SCENE_H

#include "device/device.h"

enum { SCENE_ENTRIES_MAX = 8 };

struct entry {
    uint32_t who;
    uint32_t length; /* tokens with the new ones */
    uint32_t fresh;  /* new tokens: query rows */
};

struct shape {
    uint64_t seed; /* of the values */
    pkv_group_config group;
    uint32_t entry_count;
    struct entry entries[SCENE_ENTRIES_MAX];
    uint32_t query_heads;
    float scale;
    float softcap;
    float spread; /* factor of the queries: larger ones make the softmax steeper */
    uint32_t q_dtype;
    uint32_t out_dtype;
    uint32_t kv_dtype;     /* of the arrays that are written into the cache */
    uint32_t pad_elements; /* between rows and between heads of all arrays */
    bool head_major;       /* arrays [heads][rows][dim] */
    bool no_lse;
    bool has_sink_logits;
    bool trees; /* the new tokens of most sequences are a token tree */
    uint32_t threads;
};

/* An array with padding, its bytes, and how many there are. */
struct cells {
    pkv_array array;
    uint32_t rows;
    uint32_t heads;
    uint32_t dim;
    size_t bytes;
};

struct scene {
    struct shape shape;
    struct pkvi_layout layout;
    struct pkvi_space space;
    unsigned char* memory; /* the mapping, guards included */
    size_t memory_bytes;
    uint32_t blocks;
    uint32_t table_stride;
    uint32_t* block_table;
    uint32_t starts[SCENE_ENTRIES_MAX + 1];
    uint32_t lengths[SCENE_ENTRIES_MAX];
    struct pkvi_tree trees[SCENE_ENTRIES_MAX];
    uint32_t* parents;   /* [tokens] */
    uint32_t* positions; /* [tokens] */
    struct cells q;
    struct cells out;
    float* lse;         /* [tokens][query_heads] */
    float* sink_logits; /* [query_heads] */
};

typedef int write_function(void* ctx, const struct pkvi_kv_job* job);

/* A shape of moderate cost. `seed` decides all of it. */
struct shape shape_random(uint64_t seed);
void shape_print(const struct shape* shape);
extern const char* const shape_dtype_names[]; /* by enum pkv_dtype */

/* Set a scene up and write K/V of all visible tokens through `write`, in pieces of random
 * lengths. `placement` decides where blocks lie. Ends the program when there is no memory, and when
 * `write` fails. */
struct scene* scene_open(const struct shape* shape, uint64_t placement, write_function* write,
                         void* ctx);
void scene_close(struct scene* scene);

/* Write positions [begin, end) of entry `e`. */
void scene_write(struct scene* scene, uint32_t e, uint32_t begin, uint32_t end,
                 write_function* write, void* ctx);
/* Is `page` of entry `e` in the table? Not when it lies behind the window of the first new token.
 * */
bool scene_page_is_there(const struct shape* shape, uint32_t e, uint32_t page);
uint32_t scene_slot(const struct scene* scene, uint32_t e, uint32_t position);

struct pkvi_attend_job scene_job(struct scene* scene);

/* Results: row of the batch, query head, dim. */
float scene_out(const struct scene* scene, uint32_t row, uint32_t head, uint32_t d);
float scene_value(const struct shape* shape, uint32_t who, uint32_t position, uint32_t head,
                  uint32_t d, bool is_value);

/* An array filled with 0xff; `pad` elements between rows and heads. */
struct cells cells_open(uint32_t rows, uint32_t heads, uint32_t dim, uint32_t dtype, uint32_t pad,
                        bool head_major);
void cells_close(struct cells* cells);
/* Is every byte between the elements still 0xff? */
bool cells_padding_is_untouched(const struct cells* cells);

#endif
