/* fork.c - several continuations of one prompt share its blocks, and copy only what they change.
 *
 * A fork names the same blocks as its parent. When one of them writes into a block that others see,
 * which can only be the last, partly filled one, it gets a copy of that block first (copy on
 * write). */
#include "example.h"

#include <string.h>

int main(void) {
    enum { PROMPT = 100, CHILDREN = 3 };
    pkv_cache* cache = example_cache(64);
    static float out[ROWS_MAX * HEADS * DIM];
    uint32_t prompt[PROMPT];
    for (uint32_t i = 0; i < PROMPT; i++)
        prompt[i] = i;

    pkv_seq parent;
    OK(pkv_seq_create(cache, 0, &parent));
    OK(example_step(cache, parent, prompt, PROMPT, out));
    printf("parent: %u blocks\n", example_stats(cache).blocks_active);
    EXPECT(example_stats(cache).blocks_active == 7);

    pkv_seq children[CHILDREN];
    for (uint32_t i = 0; i < CHILDREN; i++)
        OK(pkv_seq_fork(cache, parent, &children[i]));
    printf("with %d forks: %u blocks\n", CHILDREN, example_stats(cache).blocks_active);
    EXPECT(example_stats(cache).blocks_active == 7);

    /* Each child goes its own way. */
    for (uint32_t i = 0; i < CHILDREN; i++) {
        const uint32_t token = 200 + i;
        OK(example_step(cache, children[i], &token, 1, out));
    }
    const pkv_stats stats = example_stats(cache);
    printf("after one token each: %u blocks, %llu copies on write\n", stats.blocks_active,
           (unsigned long long)stats.cow_copies);
    EXPECT(stats.blocks_active == 7 + CHILDREN);
    EXPECT(stats.cow_copies == CHILDREN);

    /* The first child computes what a sequence that never was a fork computes. */
    pkv_seq alone;
    static float child_out[ROWS_MAX * HEADS * DIM];
    static float alone_out[ROWS_MAX * HEADS * DIM];
    const uint32_t first = 200;
    const uint32_t second = 300;
    OK(example_step(cache, children[0], &second, 1, child_out));
    OK(pkv_seq_create(cache, 1, &alone)); /* another tenant: nothing is shared with it */
    OK(example_step(cache, alone, prompt, PROMPT, out));
    OK(example_step(cache, alone, &first, 1, out));
    OK(example_step(cache, alone, &second, 1, alone_out));
    EXPECT(memcmp(child_out, alone_out, HEADS * DIM * sizeof(float)) == 0);
    printf("a fork attends, bit for bit, as a sequence of its own does\n");

    pkv_cache_destroy(cache); /* sequences die with the cache */
    return 0;
}
