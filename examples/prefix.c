/* prefix.c - a second request with the same beginning does not compute it again.
 *
 * Blocks of committed tokens enter the prefix index. pkv_seq_match attaches those that begin a
 * new prompt, by comparing token ids, and says how many tokens need not be computed. Tenants never
 * see each other's. */
#include "example.h"

static uint32_t match(pkv_cache* cache, uint64_t tenant, const uint32_t* tokens, uint32_t count,
                      pkv_seq* seq) {
    uint32_t reused;
    OK(pkv_seq_create(cache, tenant, seq));
    /* One token less than the prompt has: the last one must be computed to know what comes next. */
    OK(pkv_seq_match(cache, *seq, tokens, count - 1, &reused));
    return reused;
}

int main(void) {
    enum { SYSTEM = 64, PROMPT = 80 };
    pkv_cache* cache = example_cache(64);
    static float out[ROWS_MAX * HEADS * DIM];
    uint32_t first[PROMPT];
    uint32_t second[PROMPT];
    for (uint32_t i = 0; i < PROMPT; i++) { /* the same 64 tokens first, then different ones */
        first[i] = i;
        second[i] = i < SYSTEM ? i : i + 500;
    }

    pkv_seq seq;
    uint32_t reused = match(cache, 0, first, PROMPT, &seq);
    printf("first request: %u of %d tokens reused\n", reused, PROMPT);
    EXPECT(reused == 0);
    OK(example_step(cache, seq, first, PROMPT, out));
    OK(pkv_seq_free(cache, seq)); /* its blocks stay cached */

    reused = match(cache, 0, second, PROMPT, &seq);
    printf("second request, same beginning: %u of %d tokens reused\n", reused, PROMPT);
    EXPECT(reused == SYSTEM);
    OK(example_step(cache, seq, second + reused, PROMPT - reused, out));
    OK(pkv_seq_free(cache, seq));

    reused = match(cache, 1, second, PROMPT, &seq);
    printf("the same request of another tenant: %u of %d tokens reused\n", reused, PROMPT);
    EXPECT(reused == 0);

    const pkv_stats stats = example_stats(cache);
    printf("%u blocks cached, %u free\n", stats.blocks_cached, stats.blocks_free);
    EXPECT(stats.blocks_cached == 6);
    pkv_cache_destroy(cache);
    return 0;
}
