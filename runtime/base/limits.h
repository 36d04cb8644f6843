/* limits.h - compile-time sizes, which the tiny-limits build shrinks so that rare paths become
 * common. */
#ifndef PKVI_BASE_LIMITS_H
#define PKVI_BASE_LIMITS_H

#define PKVI_NONE UINT32_MAX /* end of a list, no block, no extent */

#ifdef PKV_TINY
enum {
    PKVI_LEAF_PAGES = 2,    /* pages named by one page table leaf */
    PKVI_EXTENT_BYTES = 1,  /* smallest extent: one block */
    PKVI_HASH_BITS_MAX = 2, /* of the prefix index: nearly everything collides */
    PKVI_SIBLINGS_MAX = 2,  /* nodes that are looked at for a hit that ends within a block */
    PKVI_SPLIT_TOKENS = 16, /* tokens of one split of the attention sum */
    PKVI_PARTIALS_BYTES = 1 /* for results of splits on a GPU, or what one sequence needs */
};
#else
enum {
    PKVI_LEAF_PAGES = 256,
    PKVI_EXTENT_BYTES = 2 << 20,
    PKVI_HASH_BITS_MAX = 31,
    PKVI_SIBLINGS_MAX = 16,
    PKVI_SPLIT_TOKENS = 512,
    PKVI_PARTIALS_BYTES = 64 << 20
};
#endif

#endif
