/* first.c - the first program: a prompt goes in, tokens come out, attention reads all of them.
 *
 * This is the program of the manual in pagedkv.h, complete. It uses nothing of example.h but the
 * macros OK and EXPECT, so that every call to the library can be seen. */
#include "example.h"

#include <string.h>

/* A stand-in for a model: q, K and V of one token, the same for every layer. */
static void compute(uint32_t token, uint32_t position, float* q, float* k, float* v) {
    for (uint32_t i = 0; i < HEADS * DIM; i++)
        q[i] = example_value(token, position, i + 2000);
    for (uint32_t i = 0; i < KV_HEADS * DIM; i++) {
        k[i] = example_value(token, position, i);
        v[i] = example_value(token, position, i + 1000);
    }
}

/* One step of one sequence: `count` new tokens. `out` [count][HEADS][DIM] is the attention of the
 * last layer. */
static void step(pkv_cache* cache, pkv_seq seq, const uint32_t* tokens, uint32_t count,
                 float* out) {
    static float q[ROWS_MAX * HEADS * DIM];
    static float k[ROWS_MAX * KV_HEADS * DIM];
    static float v[ROWS_MAX * KV_HEADS * DIM];

    /* Reserve slots for the new tokens. All of them get one, or the call fails and nothing has
     * changed. */
    pkv_entry entry = {seq, tokens, count};
    pkv_plan plan;
    OK(pkv_plan_begin(cache, &entry, 1, &plan));

    pkv_plan_info info;
    OK(pkv_plan_get_info(cache, plan, 0, &info));
    for (uint32_t row = 0; row < count; row++)
        compute(tokens[row], info.positions[row], q + row * HEADS * DIM, k + row * KV_HEADS * DIM,
                v + row * KV_HEADS * DIM);

    /* Layer by layer: store K and V of the new tokens, then attend to all tokens so far. */
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        pkv_array keys = {k, PKV_F32, 0, 0}; /* strides 0: packed [count][KV_HEADS][DIM] */
        pkv_array values = {v, PKV_F32, 0, 0};
        pkv_attention attention;
        memset(&attention, 0, sizeof attention);
        attention.q.data = q;
        attention.out.data = out;
        attention.query_heads = HEADS;
        OK(pkv_write(cache, plan, layer, &keys, &values));
        OK(pkv_attend(cache, plan, layer, &attention));
    }

    /* From here on the tokens belong to the sequence. pkv_plan_abort would have left no trace. */
    OK(pkv_plan_commit(cache, plan));
}

/* What attention should have given for one head: the definition, over all tokens at once. */
static void expect_attention(const uint32_t* tokens, uint32_t count, const float* out) {
    const double scale = 1.0 / sqrt((double)DIM);
    const uint32_t last = count - 1;
    double sum = 0.0;
    double expected[DIM] = {0};
    for (uint32_t t = 0; t < count; t++) {
        double score = 0.0;
        for (uint32_t d = 0; d < DIM; d++)
            score += (double)example_value(tokens[last], last, d + 2000) *
                     (double)example_value(tokens[t], t, d);
        const double weight = exp(score * scale);
        sum += weight;
        for (uint32_t d = 0; d < DIM; d++)
            expected[d] += weight * (double)example_value(tokens[t], t, d + 1000);
    }
    for (uint32_t d = 0; d < DIM; d++)
        EXPECT(fabs(expected[d] / sum - (double)out[d]) < 1e-4);
}

int main(void) {
    pkv_config config;
    pkv_cache* cache;
    OK(pkv_config_init(&config, PKV_VERSION));
    config.groups[0].layers = LAYERS;
    config.groups[0].kv_heads = KV_HEADS;
    config.groups[0].key_dim = DIM;
    config.blocks = 256;
    OK(pkv_cache_create(&config, &cache));

    enum { PROMPT = 40, GENERATED = 10 };
    uint32_t tokens[PROMPT + GENERATED];
    for (uint32_t i = 0; i < PROMPT; i++)
        tokens[i] = i * 7 % 50;

    pkv_seq seq;
    static float out[ROWS_MAX * HEADS * DIM];
    OK(pkv_seq_create(cache, 0, &seq));
    step(cache, seq, tokens, PROMPT, out); /* the prompt at once ... */
    for (uint32_t i = PROMPT; i < PROMPT + GENERATED; i++) {
        tokens[i] = i * 11 % 50; /* ... and then token by token, as a model would choose them */
        step(cache, seq, &tokens[i], 1, out);
    }
    expect_attention(tokens, PROMPT + GENERATED, out);

    const pkv_stats stats = example_stats(cache);
    printf("%d tokens in %u blocks of 16; attention agrees with its definition\n",
           PROMPT + GENERATED, stats.blocks_active);
    EXPECT(stats.blocks_active == 4);

    OK(pkv_seq_free(cache, seq));
    pkv_cache_destroy(cache);
    return 0;
}
