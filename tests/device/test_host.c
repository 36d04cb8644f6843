/* test_host.c - the CPU device beside its kernels: memory, copies, faults, levels, and values that
 * are refused. */
#include "device/cpu/element.h"
#include "device/device.h"
#include "unit.h"

#include <unistd.h>

enum { DIM = 16, BLOCK_TOKENS = 4, BLOCKS = 4, TOKENS = 3, HEADS = 2 };

struct fixture {
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    struct pkvi_clock clock;
    struct pkvi_device_config config;
    struct pkvi_device* device;
    const struct pkvi_device_ops* ops;
    struct pkvi_space space;
    float k[TOKENS * DIM];
    float v[TOKENS * DIM];
    float q[TOKENS * HEADS * DIM];
    float out[TOKENS * HEADS * DIM];
    float lse[TOKENS * HEADS];
};

static struct fixture it;
static const uint32_t slots[TOKENS] = {4, 5, 6}; /* the first tokens of block 1 */
static const uint32_t starts[] = {0, TOKENS};
static const uint32_t lengths[] = {TOKENS};
static const uint32_t pages[] = {1};

static void prepare(uint32_t dtype, uint32_t threads) {
    const pkv_group_config group = {.layers = 1,
                                    .kv_heads = 1,
                                    .key_dim = DIM,
                                    .value_dim = DIM,
                                    .k_dtype = dtype,
                                    .v_dtype = dtype,
                                    .block_tokens = BLOCK_TOKENS};
    const pkv_memory_hook none = {NULL, NULL};
    memset(&it, 0, sizeof it);
    ASSERT_OK(pkvi_faults_init(&it.faults, NULL, 0));
    pkvi_mem_init(&it.mem, &none, &it.faults);
    pkvi_clock_init(&it.clock, false);
    it.faults.clock = &it.clock;
    it.config = (struct pkvi_device_config){.threads = threads,
                                            .plan_tokens_max = TOKENS,
                                            .plan_sequences_max = 1,
                                            .sequence_tokens_max = TOKENS,
                                            .copies_max = 1,
                                            .mem = &it.mem,
                                            .faults = &it.faults,
                                            .clock = &it.clock};
    ASSERT(pkvi_layout_init(&it.config.layout, &group));
    for (int i = 0; i < TOKENS * DIM; i++)
        it.k[i] = it.v[i] = (float)(i % 7) - 3.0F;
    for (int i = 0; i < TOKENS * HEADS * DIM; i++)
        it.q[i] = (float)(i % 5) - 2.0F;
    memset(it.out, 0xff, sizeof it.out);
    memset(it.lse, 0xff, sizeof it.lse);
}

static void set_up(uint32_t dtype) {
    void* base;
    prepare(dtype, 1);
    ASSERT_OK(pkvi_device_open("cpu", &it.config, &it.device));
    it.ops = it.device->ops;
    const uint64_t block_bytes = it.config.layout.block_bytes;
    ASSERT_OK(it.ops->alloc(it.device, BLOCKS * block_bytes, &base));
    it.space = (struct pkvi_space){base, BLOCKS * block_bytes, block_bytes, BLOCKS};
}

static void tear_down(void) {
    if (it.space.base != NULL) it.ops->free(it.device, it.space.base, it.space.extent_bytes);
    if (it.device != NULL) it.device->ops->close(it.device);
    ASSERT_EQ(it.mem.bytes, 0);
    pkvi_faults_free(&it.faults);
}

static int write_tokens(void) {
    const struct pkvi_kv_job job = {
        &it.config.layout,         &it.space, 0,   TOKENS, slots, {it.k, PKV_F32, DIM, DIM},
        {it.v, PKV_F32, DIM, DIM}, 0,         NULL};
    return it.ops->write(it.device, &job);
}

static int attend_tokens(const void* q, uint32_t q_dtype) {
    const struct pkvi_attend_job job = {.layout = &it.config.layout,
                                        .space = &it.space,
                                        .entries = 1,
                                        .starts = starts,
                                        .lengths = lengths,
                                        .block_table = pages,
                                        .table_stride = 1,
                                        .query_heads = HEADS,
                                        .scale = 0.25F,
                                        .q = {(void*)(uintptr_t)q, q_dtype, HEADS * DIM, DIM},
                                        .out = {it.out, PKV_F32, HEADS * DIM, DIM},
                                        .lse = it.lse};
    return it.ops->attend(it.device, &job);
}

static bool out_is_untouched(void) {
    unsigned char untouched[sizeof it.out];
    memset(untouched, 0xff, sizeof untouched);
    return memcmp(it.out, untouched, sizeof it.out) == 0 &&
           memcmp(it.lse, untouched, sizeof it.lse) == 0;
}

static void fault(const char* spec) {
    const int status = pkvi_faults_set(&it.faults, spec, 0);
    if (status == PKV_ENOTSUP) SKIP("this build has no fault points");
    ASSERT_OK(status);
}

/* ---- Open ------------------------------------------------------------------------------------ */

TEST(levels_are_known_by_name) {
    ASSERT(pkvi_isa_known("scalar"));
    ASSERT(!pkvi_isa_known("avx"));
    ASSERT(!pkvi_isa_known(""));
    prepare(PKV_F32, 1);
    it.config.isa = "scalar";
    ASSERT_OK(pkvi_device_open("cpu", &it.config, &it.device));
    ASSERT_STR(it.device->isa, "scalar");
    tear_down();
}

TEST(an_unknown_level_is_refused) {
    prepare(PKV_F32, 1);
    it.config.isa = "avx9000";
    ASSERT_STATUS(pkvi_device_open("cpu", &it.config, &it.device), PKV_ENOTSUP);
    ASSERT_EQ(it.mem.calls, 0);
    tear_down();
}

TEST(open_survives_each_failing_allocation) {
    prepare(PKV_F32, 3);
    for (int nth = 0;; nth++) {
        char spec[64];
        snprintf(spec, sizeof spec, "mem.alloc=%d*off->1*return(ENOMEM)", nth);
        fault(nth > 0 ? spec : "mem.alloc=1*return(ENOMEM)");
        const int status = pkvi_device_open("cpu", &it.config, &it.device);
        if (status == PKV_OK) break;
        ASSERT_STATUS(status, PKV_ENOMEM);
        ASSERT_EQ(it.mem.bytes, 0);
        ASSERT_LT(nth, 100);
    }
    tear_down();
}

TEST(open_survives_each_failing_thread) {
    prepare(PKV_F32, 4);
    fault("thread.create=1*return(EIO)");
    ASSERT_STATUS(pkvi_device_open("cpu", &it.config, &it.device), PKV_EIO);
    fault("thread.create=2*off->1*return(EIO)");
    ASSERT_STATUS(pkvi_device_open("cpu", &it.config, &it.device), PKV_EIO);
    ASSERT_EQ(it.mem.bytes, 0);
    fault("thread.create=3*off->1*return(EIO)");
    ASSERT_OK(pkvi_device_open("cpu", &it.config, &it.device));
    tear_down();
}

/* ---- Memory ---------------------------------------------------------------------------------- */

TEST(arena_memory_is_zeroed_and_aligned_to_huge_pages) {
    const uint64_t huge = 2 << 20;
    const uint64_t sizes[] = {1, 4096, huge - 1, huge, huge + 1, 3 * huge + 12345};
    set_up(PKV_F32);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void* base;
        ASSERT_OK(it.ops->alloc(it.device, sizes[i], &base));
        ASSERT_EQ((uintptr_t)base % (sizes[i] >= huge ? huge : 64), 0);
        const unsigned char* bytes = base;
        ASSERT_EQ(bytes[0], 0);
        ASSERT_EQ(bytes[sizes[i] - 1], 0);
        memset(base, 1, sizes[i]);
        it.ops->free(it.device, base, sizes[i]);
    }
    tear_down();
}

TEST(arena_memory_can_be_refused) {
    void* base = &it;
    set_up(PKV_F32);
    ASSERT_STATUS(it.ops->alloc(it.device, (uint64_t)1 << 62, &base), PKV_ENOMEM);
    fault("device.alloc=return(ENOMEM)");
    ASSERT_STATUS(it.ops->alloc(it.device, 4096, &base), PKV_ENOMEM);
    ASSERT_PTR(base, &it);
    tear_down();
}

TEST(zero_fills_with_zeros_and_can_fail) {
    set_up(PKV_F32);
    memset(it.space.base, 7, 200);
    ASSERT_OK(it.ops->zero(it.device, it.space.base + 10, 100));
    ASSERT_EQ(it.space.base[9], 7);
    ASSERT_EQ(it.space.base[10], 0);
    ASSERT_EQ(it.space.base[109], 0);
    ASSERT_EQ(it.space.base[110], 7);
    fault("device.zero=return(EIO)");
    ASSERT_STATUS(it.ops->zero(it.device, it.space.base, 200), PKV_EIO);
    ASSERT_EQ(it.space.base[9], 7);
    tear_down();
}

static int copy_and_wait(void) {
    uint64_t ticket;
    const struct pkvi_copy_job job = {it.space.base, it.space.base + 100, 50, NULL, 0};
    const int status = it.ops->copy(it.device, &job, &ticket);
    return status == PKV_OK ? it.ops->wait(it.device, ticket) : status;
}

TEST(copies_arrive) {
    set_up(PKV_F32);
    memset(it.space.base + 100, 9, 50);
    ASSERT_OK(copy_and_wait());
    ASSERT_MEM(it.space.base, it.space.base + 100, 50);
    ASSERT_EQ(it.space.base[50], 0);
    tear_down();
}

TEST(copies_can_be_refused_fail_get_lost_and_be_corrupted) {
    set_up(PKV_F32);
    fault("device.copy.submit=return(EIO)");
    ASSERT_STATUS(copy_and_wait(), PKV_EIO);
    fault("device.copy.done=return(EDEVICE)");
    ASSERT_STATUS(copy_and_wait(), PKV_EDEVICE);
    fault("device.copy.done=drop");
    ASSERT_STATUS(copy_and_wait(), PKV_ETIMEDOUT);
    memset(it.space.base + 100, 9, 50);
    fault("device.copy.done=corrupt(3)");
    ASSERT_STATUS(copy_and_wait(), PKV_EIO);
    ASSERT_NE(memcmp(it.space.base, it.space.base + 100, 50), 0);
    fault("device.copy.done=delay(1)");
    ASSERT_OK(copy_and_wait());
    fault("device.copy.done=dup");
    ASSERT_OK(copy_and_wait());
    tear_down();
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

TEST(jobs_can_fail_and_then_touch_nothing) {
    set_up(PKV_F32);
    fault("device.write=return(EIO);device.attend=return(EIO);device.read=return(EIO)");
    ASSERT_STATUS(write_tokens(), PKV_EIO);
    ASSERT_EQ(it.space.base[it.space.block_bytes], 0);
    ASSERT_STATUS(attend_tokens(it.q, PKV_F32), PKV_EIO);
    ASSERT(out_is_untouched());
    const struct pkvi_kv_job job = {
        &it.config.layout,         &it.space, 0,   TOKENS, slots, {it.out, PKV_F32, DIM, DIM},
        {NULL, PKV_F32, DIM, DIM}, 0,         NULL};
    ASSERT_STATUS(it.ops->read(it.device, &job), PKV_EIO);
    ASSERT(out_is_untouched());
    tear_down();
}

TEST(queries_that_are_not_finite_are_refused_before_the_output_is_touched) {
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const uint32_t dtypes[] = {PKV_F32, PKV_F16, PKV_BF16};
    uint16_t narrow[TOKENS * HEADS * DIM];
    set_up(PKV_F32);
    ASSERT_OK(write_tokens());
    for (int b = 0; b < 3; b++)
        for (int at = 0; at < TOKENS * HEADS * DIM; at += 5)
            for (int t = 0; t < 3; t++) {
                void* q = dtypes[t] == PKV_F32 ? (void*)it.q : (void*)narrow;
                const float good = it.q[at];
                for (int i = 0; i < TOKENS * HEADS * DIM; i++)
                    pkvi_element_set(q, (uint64_t)i, dtypes[t], i == at ? bad[b] : it.q[i]);
                ASSERT_STATUS(attend_tokens(q, dtypes[t]), PKV_ENONFINITE);
                ASSERT(out_is_untouched());
                it.q[at] = good;
            }
    ASSERT_OK(attend_tokens(it.q, PKV_F32));
    ASSERT(isfinite(it.out[0]));
    tear_down();
}

static int write_with(float* array, float value) {
    const float before = array[DIM + 3];
    array[DIM + 3] = value;
    const int status = write_tokens();
    array[DIM + 3] = before;
    return status;
}

TEST(values_that_are_not_finite_are_refused) {
    for (uint32_t dtype = PKV_F32; dtype <= PKV_BF16; dtype++) {
        set_up(dtype);
        ASSERT_OK(write_tokens());
        ASSERT_STATUS(write_with(it.k, NAN), PKV_ENONFINITE);
        ASSERT_STATUS(write_with(it.k, -INFINITY), PKV_ENONFINITE);
        ASSERT_STATUS(write_with(it.v, NAN), PKV_ENONFINITE);
        ASSERT_STATUS(write_with(it.v, INFINITY), PKV_ENONFINITE);
        tear_down();
    }
}

/* The largest values that round to something finite, and the smallest that do not. */
TEST(values_that_overflow_the_type_of_the_cache_are_refused) {
    set_up(PKV_F16);
    ASSERT_OK(write_with(it.k, 65519.996F));
    ASSERT_STATUS(write_with(it.k, 65520.0F), PKV_ENONFINITE);
    ASSERT_STATUS(write_with(it.v, -65520.0F), PKV_ENONFINITE);
    tear_down();
    set_up(PKV_BF16);
    ASSERT_OK(write_with(it.k, 0x1.fefffep127F));
    ASSERT_STATUS(write_with(it.k, 0x1.ffp127F), PKV_ENONFINITE);
    ASSERT_STATUS(write_with(it.v, -0x1.fffffep127F), PKV_ENONFINITE);
    tear_down();
    set_up(PKV_F32);
    ASSERT_OK(write_with(it.v, 0x1.fffffep127F));
    tear_down();
}
