/* test_mem.c - memory is zeroed, aligned, accounted for, and refused in every way that it can be. */
#include "base/mem.h"
#include "unit.h"

/* A hook that counts, hands out dirty memory at an address aligned to 16 bytes only, and can refuse. */
struct meter {
    uint64_t held_bytes;
    uint64_t takes;
    uint64_t gives;
    uint64_t refuse_at; /* the take that is refused, from 1; 0: none */
    bool is_lied_to;    /* a size came back that was not asked for */
};

enum { FRONT = 48 };

static void* meter_take(struct meter* meter, size_t bytes) {
    meter->takes++;
    if (meter->takes == meter->refuse_at) return NULL;
    unsigned char* raw = aligned_alloc(64, (FRONT + bytes + 63) / 64 * 64);
    memset(raw, 0xee, FRONT + bytes);
    memcpy(raw, &bytes, sizeof bytes);
    meter->held_bytes += bytes;
    return raw + FRONT;
}

static void* meter_resize(void* ctx, void* memory, size_t old_bytes, size_t new_bytes) {
    struct meter* meter = ctx;
    if (memory == NULL) return meter_take(meter, new_bytes);
    unsigned char* raw = (unsigned char*)memory - FRONT;
    meter->is_lied_to |= memcmp(raw, &old_bytes, sizeof old_bytes) != 0 || new_bytes != 0;
    meter->held_bytes -= old_bytes;
    meter->gives++;
    free(raw);
    return NULL;
}

static void open_with(struct meter* meter, struct pkvi_faults* faults, struct pkvi_mem* mem) {
    const pkv_memory_hook hook = {meter_resize, meter};
    memset(meter, 0, sizeof *meter);
    ASSERT_OK(pkvi_faults_init(faults, NULL, 0));
    pkvi_mem_init(mem, &hook, faults);
}

static bool is_zero(const unsigned char* bytes, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        if (bytes[i] != 0) return false;
    return true;
}

TEST(memory_is_zeroed_aligned_and_accounted_for) {
    struct meter meter;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    unsigned char* taken[200];
    open_with(&meter, &faults, &mem);
    for (uint64_t i = 0; i < 200; i++) {
        ASSERT_OK(pkvi_mem_take(&mem, i + 1, 7, (void**)&taken[i]));
        ASSERT_EQ((uintptr_t)taken[i] % 64, 0);
        ASSERT(is_zero(taken[i], (i + 1) * 7));
        memset(taken[i], 0xff, (i + 1) * 7);
        ASSERT_EQ(mem.bytes, meter.held_bytes);
        ASSERT_EQ(mem.calls, i + 1);
    }
    for (uint64_t i = 0; i < 200; i++) {
        pkvi_mem_give(&mem, taken[(i * 77) % 200]);
        ASSERT_EQ(mem.bytes, meter.held_bytes);
    }
    ASSERT_EQ(mem.bytes, 0);
    ASSERT_EQ(meter.gives, 200);
    ASSERT(!meter.is_lied_to);
    pkvi_faults_free(&faults);
}

TEST(nothing_costs_nothing) {
    struct meter meter;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    int something;
    void* memory = &something;
    open_with(&meter, &faults, &mem);
    ASSERT_OK(pkvi_mem_take(&mem, 0, 8, &memory));
    ASSERT_PTR(memory, NULL);
    pkvi_mem_give(&mem, NULL);
    ASSERT_EQ(meter.takes + meter.gives + mem.calls + mem.bytes, 0);
    pkvi_faults_free(&faults);
}

TEST(sizes_that_overflow_never_reach_the_hook) {
    struct meter meter;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    void* memory = &meter;
    open_with(&meter, &faults, &mem);
    ASSERT_STATUS(pkvi_mem_take(&mem, 1ULL << 33, 1ULL << 31, &memory), PKV_ENOMEM);
    ASSERT_STATUS(pkvi_mem_take(&mem, UINT64_MAX, 1, &memory), PKV_ENOMEM);
    ASSERT_STATUS(pkvi_mem_take(&mem, 1, (uint64_t)INT64_MAX, &memory), PKV_ENOMEM);
    ASSERT_PTR(memory, &meter);
    ASSERT_EQ(meter.takes + mem.calls + mem.bytes, 0);
    pkvi_faults_free(&faults);
}

TEST(a_refusing_hook_gives_enomem_and_changes_nothing) {
    struct meter meter;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    void* memory = &meter;
    open_with(&meter, &faults, &mem);
    meter.refuse_at = 1;
    ASSERT_STATUS(pkvi_mem_take(&mem, 3, 5, &memory), PKV_ENOMEM);
    ASSERT_PTR(memory, &meter);
    ASSERT_EQ(mem.calls + mem.bytes, 0);
    ASSERT_OK(pkvi_mem_take(&mem, 3, 5, &memory));
    pkvi_mem_give(&mem, memory);
    pkvi_faults_free(&faults);
}

TEST(no_hook_means_the_heap) {
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    const pkv_memory_hook none = {NULL, NULL};
    unsigned char* memory;
    ASSERT_OK(pkvi_faults_init(&faults, NULL, 0));
    pkvi_mem_init(&mem, &none, &faults);
    ASSERT_OK(pkvi_mem_take(&mem, 1000, 3, (void**)&memory));
    ASSERT_EQ((uintptr_t)memory % 64, 0);
    ASSERT(is_zero(memory, 3000));
    ASSERT_GE(mem.bytes, 3000);
    pkvi_mem_give(&mem, memory);
    ASSERT_EQ(mem.bytes, 0);
    pkvi_faults_free(&faults);
}

TEST(each_allocation_visits_its_fault_point) {
#ifdef PKV_NO_FAULTS
    SKIP("built without fault points");
#else
    struct meter meter;
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    void* memory;
    void* refused = &meter;
    open_with(&meter, &faults, &mem);
    ASSERT_OK(pkvi_faults_set(&faults, "mem.alloc=1*off->1*return(ENOMEM)", 0));
    ASSERT_OK(pkvi_mem_take(&mem, 1, 8, &memory));
    ASSERT_STATUS(pkvi_mem_take(&mem, 1, 8, &refused), PKV_ENOMEM);
    ASSERT_PTR(refused, &meter);
    ASSERT_EQ(meter.takes, 1);
    pkvi_mem_give(&mem, memory);
    ASSERT_OK(pkvi_mem_take(&mem, 1, 8, &memory));
    pkvi_mem_give(&mem, memory);
    ASSERT_EQ(mem.bytes, 0);
    pkvi_faults_free(&faults);
#endif
}
