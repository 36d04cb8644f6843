/* rig.c - see rig.h. */
#include "kernel/rig.h"

#include "device/cpu/element.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char* const* rig_levels(const char* only) {
    static const char* const all[] = {"avx512bf16", "avx512", "avx2", "neon", "scalar"};
    static const char* known[RIG_LEVELS_MAX + 1];
    int count = 0;
    for (int i = 0; i < RIG_LEVELS_MAX; i++) {
        if (only != NULL && strcmp(only, all[i]) != 0) continue;
        if (pkvi_isa_known(all[i])) known[count++] = all[i];
    }
    known[count] = NULL;
    return known;
}

void rig_open(struct rig* rig, const struct shape* shape, const char* isa, uint32_t threads,
              pkv_parallel_hook hook) {
    const pkv_memory_hook memory = {NULL, NULL};
    struct pkvi_device_config config = {
        .isa = isa,
        .threads = threads,
        .parallel = hook,
        .plan_sequences_max = shape->entry_count,
        .copies_max = 1,
        .mem = &rig->mem,
        .faults = &rig->faults,
        .clock = &rig->clock,
    };
    for (uint32_t e = 0; e < shape->entry_count; e++) {
        const struct entry* entry = &shape->entries[e];
        config.plan_tokens_max += entry->fresh;
        if (entry->length > config.sequence_tokens_max) config.sequence_tokens_max = entry->length;
    }
    pkvi_clock_init(&rig->clock, false);
    int status = pkvi_faults_init(&rig->faults, NULL, 0);
    if (status == PKV_OK) {
        pkvi_mem_init(&rig->mem, &memory, &rig->faults);
        status = pkvi_layout_init(&config.layout, &shape->group) ? PKV_OK : PKV_ETOOBIG;
    }
    if (status == PKV_OK) status = pkvi_host_open(&config, &rig->device);
    if (status == PKV_OK) return;
    fprintf(stderr, "no device of level %s: %s\n", isa, pkv_status_name(status));
    exit(2);
}

void rig_close(struct rig* rig) {
    rig->device->ops->close(rig->device);
    if (rig->mem.bytes != 0) {
        fprintf(stderr, "the device kept %llu bytes\n", (unsigned long long)rig->mem.bytes);
        exit(1);
    }
    pkvi_faults_free(&rig->faults);
}

int rig_write(void* rig, const struct pkvi_kv_job* job) {
    struct pkvi_device* device = ((struct rig*)rig)->device;
    return device->ops->write(device, job);
}

int rig_reference_write(void* ctx, const struct pkvi_kv_job* job) {
    (void)ctx;
    return pkvi_reference_write(job);
}

const char* rig_word(int argc, char** argv, const char* name, const char* otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return otherwise;
}

uint64_t rig_number(int argc, char** argv, const char* name, uint64_t otherwise) {
    const char* word = rig_word(argc, argv, name, NULL);
    return word != NULL ? strtoull(word, NULL, 0) : otherwise;
}

struct difference rig_compare(const struct scene* result, const struct scene* reference) {
    const struct shape* shape = &result->shape;
    const uint32_t rows = result->out.rows * shape->query_heads;
    double error = 0.0;
    double power = 0.0;
    double lse_error = 0.0;
    double lse_power = 0.0;
    for (uint32_t row = 0; row < result->out.rows; row++)
        for (uint32_t head = 0; head < shape->query_heads; head++)
            for (uint32_t d = 0; d < shape->group.value_dim; d++) {
                const double want = (double)scene_out(reference, row, head, d);
                const double delta = (double)scene_out(result, row, head, d) - want;
                error += delta * delta;
                power += want * want;
            }
    for (uint32_t i = 0; !shape->no_lse && i < rows; i++) {
        const double want = (double)reference->lse[i];
        const double delta = (double)result->lse[i] - want;
        lse_error += delta * delta;
        lse_power += want * want + 1.0;
    }
    return (struct difference){
        .nmse = error / power,
        .lse_nmse = shape->no_lse ? 0.0 : lse_error / lse_power,
    };
}

bool rig_same_bits(const struct scene* left, uint32_t a, const struct scene* right, uint32_t b,
                   uint32_t count) {
    const struct shape* shape = &left->shape;
    const size_t heads = shape->query_heads;
    bool same = true;
    for (uint32_t row = 0; row < count; row++)
        for (uint32_t head = 0; head < shape->query_heads; head++)
            for (uint32_t d = 0; d < shape->group.value_dim; d++)
                same &= pkvi_float_bits(scene_out(left, a + row, head, d)) ==
                        pkvi_float_bits(scene_out(right, b + row, head, d));
    if (shape->no_lse) return same;
    return same && memcmp(left->lse + a * heads, right->lse + b * heads,
                          count * heads * sizeof(float)) == 0;
}
