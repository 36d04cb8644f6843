/* out_of_blocks.c - what a scheduler does when the pool is full: wait, preempt, or refuse.
 *
 * A reservation takes all blocks it needs or none. Two statuses say what to do:
 *
 *   PKV_ENOBLOCKS   not now: finish or free other sequences and try again
 *   PKV_ETOOBIG     never: the request is larger than the limits; refuse it at the door */
#include "example.h"

static uint32_t length_of(pkv_cache* cache, pkv_seq seq) {
    pkv_seq_info info;
    OK(pkv_seq_get_info(cache, seq, &info));
    return info.length;
}

int main(void) {
    enum { BLOCKS = 8, LONG = 96, TOO_LONG = 200 };
    pkv_cache* cache = example_cache(BLOCKS); /* 128 tokens in all */
    static float out[ROWS_MAX * HEADS * DIM];
    uint32_t tokens[TOO_LONG];
    for (uint32_t i = 0; i < TOO_LONG; i++)
        tokens[i] = i;

    pkv_seq running;
    pkv_seq waiting;
    OK(pkv_seq_create(cache, 0, &running));
    OK(pkv_seq_create(cache, 0, &waiting));
    OK(example_step(cache, running, tokens, LONG, out));
    printf("running: %d tokens, %u of %d blocks\n", LONG, example_stats(cache).blocks_active,
           BLOCKS);

    /* 64 more tokens need four blocks; two are free. The failed call has changed nothing. */
    int status = example_step(cache, waiting, tokens + 100, 64, out);
    printf("64 more tokens: %s (%s)\n", pkv_status_name(status), pkv_status_message(status));
    EXPECT(status == PKV_ENOBLOCKS);
    EXPECT(length_of(cache, waiting) == 0);
    EXPECT(example_stats(cache).blocks_active == 6);

    /* 200 tokens do not fit the whole pool. */
    status = example_step(cache, waiting, tokens, TOO_LONG, out);
    printf("200 tokens: %s (%s)\n", pkv_status_name(status), pkv_status_message(status));
    EXPECT(status == PKV_ETOOBIG);

    /* Preempt: give the running sequence up. Its blocks stay cached until the room is needed. */
    OK(pkv_seq_free(cache, running));
    OK(example_step(cache, waiting, tokens + 100, 64, out));
    printf("after freeing the first sequence: 64 tokens fit, %u blocks cached, %llu evicted\n",
           example_stats(cache).blocks_cached, (unsigned long long)example_stats(cache).evictions);
    EXPECT(example_stats(cache).evictions == 2);

    /* Resume: what was not evicted is found again and need not be computed. */
    uint32_t reused;
    OK(pkv_seq_create(cache, 0, &running));
    OK(pkv_seq_match(cache, running, tokens, LONG - 1, &reused));
    printf("the preempted sequence comes back: %u of %d tokens reused\n", reused, LONG);
    EXPECT(reused == 64);

    pkv_cache_destroy(cache);
    return 0;
}
