// first.cpp - a C++17 program on the C interface: RAII around the handles, a prompt, and one token more.
#include <pagedkv.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(int status, const char* what) {
    if (status != PKV_OK)
        throw std::runtime_error(std::string(what) + ": " + pkv_status_message(status));
}

struct Destroy {
    void operator()(pkv_cache* cache) const { pkv_cache_destroy(cache); }
};
using Cache = std::unique_ptr<pkv_cache, Destroy>;

constexpr uint32_t kHeads = 4, kKvHeads = 2, kDim = 16;

Cache create() {
    pkv_config config;
    check(pkv_config_init(&config, PKV_VERSION), "pkv_config_init");
    config.groups[0].layers = 1;
    config.groups[0].kv_heads = kKvHeads;
    config.groups[0].key_dim = kDim;
    config.blocks = 8;
    pkv_cache* cache = nullptr;
    check(pkv_cache_create(&config, &cache), "pkv_cache_create");
    return Cache(cache);
}

// One step of one sequence; every value has the constant `v`, so attention must give it back.
void step(pkv_cache* cache, pkv_seq seq, const std::vector<uint32_t>& tokens, float v) {
    const auto count = static_cast<uint32_t>(tokens.size());
    const pkv_entry entry{seq, tokens.data(), count};
    pkv_plan plan;
    check(pkv_plan_begin(cache, &entry, 1, &plan), "pkv_plan_begin");
    std::vector<float> keys(count * kKvHeads * kDim, 0.5F);
    std::vector<float> values(keys.size(), v);
    std::vector<float> q(count * kHeads * kDim, 1.0F);
    std::vector<float> out(q.size());
    const pkv_array k_array{keys.data(), PKV_F32, 0, 0};
    const pkv_array v_array{values.data(), PKV_F32, 0, 0};
    check(pkv_write(cache, plan, 0, &k_array, &v_array), "pkv_write");
    pkv_attention attention{};
    attention.q = {q.data(), PKV_F32, 0, 0};
    attention.out = {out.data(), PKV_F32, 0, 0};
    attention.query_heads = kHeads;
    check(pkv_attend(cache, plan, 0, &attention), "pkv_attend");
    check(pkv_plan_commit(cache, plan), "pkv_plan_commit");
    for (const float x : out)
        if (std::fabs(x - v) > 1e-6F) throw std::runtime_error("attention of a constant is not it");
}

} // namespace

int main() try {
    const Cache cache = create();
    pkv_seq seq;
    check(pkv_seq_create(cache.get(), 0, &seq), "pkv_seq_create");
    step(cache.get(), seq, std::vector<uint32_t>(20, 7), 0.25F);
    step(cache.get(), seq, {8}, 0.25F);
    pkv_seq_info info;
    check(pkv_seq_get_info(cache.get(), seq, &info), "pkv_seq_get_info");
    std::printf("%u tokens\n", info.length);
    check(pkv_seq_free(cache.get(), seq), "pkv_seq_free");
    return pkv_seq_free(cache.get(), seq) == PKV_ESTALE ? 0 : 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
