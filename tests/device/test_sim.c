/* test_sim.c - the simulated device: copies that reorder, and every way in which they can go wrong. */
#include "base/hash.h"
#include "device/device.h"
#include "unit.h"

#include <pthread.h>

enum { COPIES = 8, PIECE = 256, PIECES = 32, ARENA = PIECE * PIECES };

struct fixture {
    struct pkvi_faults faults;
    struct pkvi_mem mem;
    struct pkvi_clock clock;
    struct pkvi_device* device;
    const struct pkvi_device_ops* ops;
    unsigned char* arena; /* PIECES pieces; piece i is filled with the byte i + 1 */
};

static struct fixture it;

static const pkv_group_config group = {
    .layers = 1, .kv_heads = 1, .key_dim = 16, .value_dim = 16, .block_tokens = 2};

static int open_device(uint64_t seed) {
    struct pkvi_device_config config = {.threads = 1,
                                        .copies_max = COPIES,
                                        .seed = seed,
                                        .mem = &it.mem,
                                        .faults = &it.faults,
                                        .clock = &it.clock};
    ASSERT(pkvi_layout_init(&config.layout, &group));
    return pkvi_device_open("sim", &config, &it.device);
}

static void open_surroundings(void) {
    const pkv_memory_hook none = {NULL, NULL};
    memset(&it, 0, sizeof it);
    ASSERT_OK(pkvi_faults_init(&it.faults, NULL, 0));
    pkvi_mem_init(&it.mem, &none, &it.faults);
    pkvi_clock_init(&it.clock, true);
    it.faults.clock = &it.clock;
}

static unsigned char* piece(uint32_t index) {
    return it.arena + (size_t)index * PIECE;
}

static void set_up_seeded(uint64_t seed) {
    void* base;
    open_surroundings();
    ASSERT_OK(open_device(seed));
    it.ops = it.device->ops;
    ASSERT_OK(it.ops->alloc(it.device, ARENA, &base));
    it.arena = base;
    for (uint32_t i = 0; i < PIECES; i++)
        memset(piece(i), (int)i + 1, PIECE);
}

static void set_up(void) {
    set_up_seeded(1);
}

static void tear_down(void) {
    it.ops->free(it.device, it.arena, ARENA);
    it.ops->close(it.device);
    ASSERT_EQ(it.mem.bytes, 0);
    pkvi_faults_free(&it.faults);
}

static void set_faults(const char* spec) {
#ifdef PKV_NO_FAULTS
    (void)spec;
    if (it.device != NULL) tear_down();
    SKIP("built without fault points");
#else
    ASSERT_OK(pkvi_faults_set(&it.faults, spec, 5));
#endif
}

static int copy(uint32_t to, uint32_t from, uint64_t* ticket) {
    const struct pkvi_copy_job job = {piece(to), piece(from), PIECE, NULL, 0};
    return it.ops->copy(it.device, &job, ticket);
}

static uint64_t submit(uint32_t to, uint32_t from) {
    uint64_t ticket;
    ASSERT_OK(copy(to, from, &ticket));
    return ticket;
}

static int wait_for(uint64_t ticket) {
    return it.ops->wait(it.device, ticket);
}

static uint64_t now_us(void) {
    return pkvi_clock_now_us(&it.clock);
}

/* The byte that fills a piece, or -1 when it is not filled with one. */
static int filling(uint32_t index) {
    for (uint32_t i = 1; i < PIECE; i++)
        if (piece(index)[i] != piece(index)[0]) return -1;
    return piece(index)[0];
}

/* ---- Memory ------------------------------------------------------------------------------------ */

TEST(arena_memory_is_zeroed_and_aligned) {
    void* base;
    open_surroundings();
    ASSERT_OK(open_device(1));
    it.ops = it.device->ops;
    ASSERT_STR(it.ops->name, "sim");
    ASSERT_OK(it.ops->alloc(it.device, ARENA, &base));
    it.arena = base;
    ASSERT_EQ((uintptr_t)base % 4096, 0);
    for (uint32_t i = 0; i < PIECES; i++)
        ASSERT_EQ(filling(i), 0);
    tear_down();
}

TEST(arena_memory_can_be_refused) {
    void* base = &it;
    set_up();
    set_faults("device.alloc=return(ENOMEM)");
    ASSERT_STATUS(it.ops->alloc(it.device, ARENA, &base), PKV_ENOMEM);
    ASSERT_PTR(base, &it);
    tear_down();
}

/* Each allocation of open fails in turn; nothing stays behind, and then it works. */
TEST(open_survives_each_failing_allocation) {
    open_surroundings();
    static const char* const specs[] = {"mem.alloc=1*return(ENOMEM)",
                                        "mem.alloc=1*off->1*return(ENOMEM)"};
    for (size_t i = 0; i < 2; i++) {
        set_faults(specs[i]);
        ASSERT_STATUS(open_device(1), PKV_ENOMEM);
        ASSERT_EQ(it.mem.bytes, 0);
    }
    set_faults("mem.alloc=2*off->return(ENOMEM)"); /* there are two */
    ASSERT_OK(open_device(1));
    it.device->ops->close(it.device);
    ASSERT_EQ(it.mem.bytes, 0);
    pkvi_faults_free(&it.faults);
}

TEST(zero_fills_with_zeros_and_can_fail) {
    set_up();
    ASSERT_OK(it.ops->zero(it.device, piece(3), PIECE));
    ASSERT_EQ(filling(2), 3);
    ASSERT_EQ(filling(3), 0);
    ASSERT_EQ(filling(4), 5);
    set_faults("device.zero=return(EIO)");
    ASSERT_STATUS(it.ops->zero(it.device, piece(4), PIECE), PKV_EIO);
    ASSERT_EQ(filling(4), 5);
    tear_down();
}

/* ---- Healthy copies ---------------------------------------------------------------------------- */

TEST(a_copy_lands_when_it_is_waited_for_and_not_before) {
    set_up();
    const uint64_t ticket = submit(10, 0);
    ASSERT_EQ(filling(10), 11);
    ASSERT_OK(wait_for(ticket));
    ASSERT_EQ(filling(10), 1);
    ASSERT_EQ(filling(9), 10);
    ASSERT_EQ(filling(11), 12);
    tear_down();
}

TEST(a_ticket_is_good_for_one_wait) {
    set_up();
    const uint64_t ticket = submit(10, 0);
    ASSERT_OK(wait_for(ticket));
    ASSERT_STATUS(wait_for(ticket), PKV_EINVAL);
    ASSERT_STATUS(wait_for(0), PKV_EINVAL);
    ASSERT_STATUS(wait_for(ticket + 1), PKV_EINVAL);
    ASSERT_STATUS(wait_for(UINT64_MAX), PKV_EINVAL);
    const uint64_t next = submit(11, 1); /* the same slot: the old ticket stays dead */
    ASSERT_NE(next, ticket);
    ASSERT_STATUS(wait_for(ticket), PKV_EINVAL);
    ASSERT_OK(wait_for(next));
    tear_down();
}

TEST(as_many_copies_fly_as_was_said_at_open) {
    uint64_t tickets[COPIES];
    uint64_t refused = 77;
    set_up();
    for (uint32_t i = 0; i < COPIES; i++)
        tickets[i] = submit(10 + i, i);
    ASSERT_STATUS(copy(30, 31, &refused), PKV_EIO);
    ASSERT_EQ(refused, 77);
    ASSERT_OK(wait_for(tickets[3]));
    tickets[3] = submit(30, 31);
    for (uint32_t i = 0; i < COPIES; i++)
        ASSERT_OK(wait_for(tickets[i]));
    ASSERT_EQ(filling(13), 4);
    ASSERT_EQ(filling(30), 32);
    tear_down();
}

/* Whether copy i has landed, as bit i, after each wait of a batch. */
static void watch_batch(uint64_t seed, uint32_t landed[COPIES]) {
    uint64_t tickets[COPIES];
    set_up_seeded(seed);
    for (uint32_t i = 0; i < COPIES; i++)
        tickets[i] = submit(10 + i, i);
    for (uint32_t waited = 0; waited < COPIES; waited++) {
        ASSERT_OK(wait_for(tickets[waited]));
        landed[waited] = 0;
        for (uint32_t i = 0; i < COPIES; i++)
            if (filling(10 + i) == (int)i + 1) landed[waited] |= 1U << i;
        ASSERT(landed[waited] >> waited & 1);
    }
    ASSERT_EQ(landed[COPIES - 1], (1U << COPIES) - 1);
    tear_down();
}

TEST(copies_reorder_and_the_order_is_that_of_the_seed) {
    uint32_t first[COPIES];
    uint32_t second[COPIES];
    uint32_t reordered = 0;
    uint32_t different = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        watch_batch(seed, first);
        watch_batch(seed, second);
        ASSERT_MEM(first, second, sizeof first);
        reordered += first[0] != 1;
        watch_batch(seed + 1000, second);
        different += memcmp(first, second, sizeof first) != 0;
    }
    ASSERT_GE(reordered, 10);
    ASSERT_GE(different, 10);
}

TEST(waiting_moves_the_clock_to_the_latest_due_time_and_no_further) {
    uint64_t tickets[COPIES];
    set_up();
    for (uint32_t i = 0; i < COPIES; i++)
        tickets[i] = submit(10 + i, i);
    ASSERT_EQ(now_us(), 0);
    for (uint32_t i = 0; i < COPIES; i++)
        ASSERT_OK(wait_for(tickets[i]));
    ASSERT_GT(now_us(), 0);
    ASSERT_LT(now_us(), 100);
    tear_down();
}

/* A core that forgets to wait reuses the destination, and finds it overwritten later. */
TEST(a_copy_that_nobody_waits_for_lands_late) {
    set_up();
    submit(10, 0);
    memset(piece(10), 99, PIECE);
    ASSERT_OK(it.ops->zero(it.device, piece(20), PIECE));
    ASSERT_EQ(filling(10), 99);
    pkvi_clock_advance(&it.clock, 100);
    ASSERT_EQ(filling(10), 99);
    ASSERT_OK(it.ops->zero(it.device, piece(20), PIECE));
    ASSERT_EQ(filling(10), 1);
    tear_down();
}

/* Both copies have the same destination, which no sane core would do: whose bytes stay tells the order. */
TEST(copies_land_in_the_order_of_their_due_times) {
    int first_stays = 0;
    int second_stays = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        set_up_seeded(seed);
        submit(10, 0);
        submit(10, 1);
        pkvi_clock_advance(&it.clock, 100);
        ASSERT_OK(it.ops->zero(it.device, piece(20), PIECE));
        first_stays += filling(10) == 1;
        second_stays += filling(10) == 2;
        tear_down();
    }
    ASSERT_EQ(first_stays + second_stays, 20);
    ASSERT_GE(first_stays, 4);
    ASSERT_GE(second_stays, 4);
}

/* ---- Copies that go wrong ---------------------------------------------------------------------- */

TEST(a_refused_copy_takes_no_slot) {
    uint64_t tickets[COPIES];
    uint64_t refused = 77;
    set_up();
    set_faults("device.copy.submit=20*return(EDEVICE)");
    for (int i = 0; i < 20; i++)
        ASSERT_STATUS(copy(10, 0, &refused), PKV_EDEVICE);
    ASSERT_EQ(refused, 77);
    for (uint32_t i = 0; i < COPIES; i++)
        tickets[i] = submit(10 + i, i);
    for (uint32_t i = 0; i < COPIES; i++)
        ASSERT_OK(wait_for(tickets[i]));
    tear_down();
}

TEST(submission_can_take_time) {
    set_up();
    set_faults("device.copy.submit=delay(5000)");
    const uint64_t ticket = submit(10, 0);
    ASSERT_EQ(now_us(), 5000);
    ASSERT_OK(wait_for(ticket));
    tear_down();
}

TEST(a_failed_copy_leaves_rubbish) {
    set_up();
    set_faults("device.copy.done=1*return(EIO)");
    const uint64_t failing = submit(10, 0);
    const uint64_t healthy = submit(11, 1);
    ASSERT_STATUS(wait_for(failing), PKV_EIO);
    ASSERT_EQ(filling(10), 0xab);
    ASSERT_EQ(filling(0), 1);
    ASSERT_STATUS(wait_for(failing), PKV_EINVAL);
    ASSERT_OK(wait_for(healthy));
    ASSERT_EQ(filling(11), 2);
    tear_down();
}

TEST(a_late_copy_is_late_on_the_clock) {
    set_up();
    set_faults("device.copy.done=1*delay(5000)");
    const uint64_t ticket = submit(10, 0);
    ASSERT_OK(wait_for(ticket));
    ASSERT_EQ(filling(10), 1);
    ASSERT_GE(now_us(), 5000);
    ASSERT_LT(now_us(), 5100);
    tear_down();
}

TEST(a_lost_completion_times_out_after_a_second) {
    set_up();
    set_faults("device.copy.done=1*drop");
    const uint64_t ticket = submit(10, 0);
    ASSERT_STATUS(wait_for(ticket), PKV_ETIMEDOUT);
    ASSERT_EQ(now_us(), 1000000);
    ASSERT_EQ(filling(10), 11);
    ASSERT_STATUS(wait_for(ticket), PKV_EINVAL);
    pkvi_clock_advance(&it.clock, 1000000);
    ASSERT_OK(wait_for(submit(11, 1))); /* its bytes never come, and its slot is free again */
    ASSERT_EQ(filling(10), 11);
    for (int i = 0; i < 2 * COPIES; i++)
        ASSERT_OK(wait_for(submit(11, 1)));
    tear_down();
}

static uint32_t bits_that_differ(uint32_t index, int byte) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < PIECE; i++)
        count += (uint32_t)__builtin_popcount((unsigned)(piece(index)[i] ^ byte));
    return count;
}

TEST(a_corrupted_copy_is_noticed) {
    set_up();
    set_faults("device.copy.done=1*corrupt(1)->1*corrupt(5)->1*corrupt(0)->corrupt(4294967295)");
    ASSERT_STATUS(wait_for(submit(10, 0)), PKV_EIO);
    ASSERT_EQ(bits_that_differ(10, 1), 1);
    ASSERT_STATUS(wait_for(submit(11, 0)), PKV_EIO);
    ASSERT_LE(bits_that_differ(11, 1), 5);
    ASSERT_GE(bits_that_differ(11, 1), 1);
    ASSERT_EQ(bits_that_differ(11, 1) % 2, 1);
    ASSERT_OK(wait_for(submit(12, 0)));
    ASSERT_EQ(filling(12), 1);
    ASSERT_STATUS(wait_for(submit(13, 0)), PKV_EIO);
    ASSERT_EQ(filling(0), 1);
    tear_down();
}

TEST(corruption_strikes_other_bits_each_time) {
    set_up();
    set_faults("device.copy.done=corrupt(1)");
    ASSERT_STATUS(wait_for(submit(10, 0)), PKV_EIO);
    ASSERT_STATUS(wait_for(submit(11, 0)), PKV_EIO);
    ASSERT_NE(memcmp(piece(10), piece(11), PIECE), 0);
    tear_down();
}

/* ---- Repeated transfers ------------------------------------------------------------------------ */

/* Inside a batch: the destination is touched again before all copies were waited for. */
TEST(a_repeated_transfer_strikes_who_reuses_memory_inside_a_batch) {
    uint32_t struck = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        set_up_seeded(seed);
        set_faults("device.copy.done=1*dup");
        const uint64_t first = submit(10, 0);
        const uint64_t second = submit(11, 1);
        ASSERT_OK(wait_for(first));
        ASSERT_EQ(filling(10), 1);
        memset(piece(10), 99, PIECE);
        const uint64_t reuse = submit(12, 2);
        ASSERT_OK(wait_for(second));
        ASSERT_OK(wait_for(reuse));
        struck += filling(10) == 1;
        ASSERT(filling(10) == 1 || filling(10) == 99);
        tear_down();
    }
    ASSERT_GE(struck, 5);
}

TEST(a_repeated_transfer_strikes_at_the_next_operation_at_the_latest) {
    set_up();
    set_faults("device.copy.done=1*dup");
    ASSERT_OK(wait_for(submit(10, 0)));
    memset(piece(10), 99, PIECE);
    ASSERT_OK(it.ops->zero(it.device, piece(20), PIECE));
    ASSERT_EQ(filling(10), 1);
    memset(piece(10), 99, PIECE); /* and then never again */
    pkvi_clock_advance(&it.clock, 1000);
    ASSERT_OK(it.ops->zero(it.device, piece(20), PIECE));
    ASSERT_OK(wait_for(submit(11, 1)));
    ASSERT_EQ(filling(10), 99);
    tear_down();
}

/* A core that keeps the rule never sees it: what comes after the batch comes after the repetition too. */
TEST(a_repeated_transfer_is_harmless_after_the_batch) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        uint64_t tickets[4];
        set_up_seeded(seed);
        set_faults("device.copy.done=dup");
        for (uint32_t i = 0; i < 4; i++)
            tickets[i] = submit(10 + i, i);
        for (uint32_t i = 0; i < 4; i++)
            ASSERT_OK(wait_for(tickets[i]));
        ASSERT_OK(it.ops->zero(it.device, piece(10), PIECE));
        ASSERT_OK(wait_for(submit(11, 20)));
        ASSERT_OK(it.ops->zero(it.device, piece(25), PIECE));
        ASSERT_EQ(filling(10), 0);
        ASSERT_EQ(filling(11), 21);
        ASSERT_EQ(filling(12), 3);
        tear_down();
    }
}

/* The first copy of the next batch lands after the repetitions of the last one. */
TEST(a_new_batch_begins_after_all_repetitions) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        set_up_seeded(seed);
        set_faults("device.copy.done=1*dup");
        ASSERT_OK(wait_for(submit(10, 0)));
        ASSERT_OK(wait_for(submit(10, 1)));
        pkvi_clock_advance(&it.clock, 1000);
        ASSERT_OK(it.ops->zero(it.device, piece(20), PIECE));
        ASSERT_EQ(filling(10), 2);
        tear_down();
    }
}

TEST(repetitions_give_way_to_copies) {
    uint64_t tickets[COPIES];
    set_up();
    set_faults("device.copy.done=dup");
    for (int round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < COPIES; i++)
            tickets[i] = submit(10 + i, i);
        for (uint32_t i = 0; i < COPIES; i++) {
            ASSERT_OK(wait_for(tickets[i]));
            tickets[i] = submit(20 + i % 8, i);
        }
        for (uint32_t i = 0; i < COPIES; i++)
            ASSERT_OK(wait_for(tickets[i]));
    }
    tear_down();
}

/* The sanitizers would notice a landing in freed memory. */
TEST(freeing_the_arena_ends_what_is_in_flight) {
    set_up();
    set_faults("device.copy.done=1*dup");
    ASSERT_OK(wait_for(submit(10, 0)));
    const uint64_t ticket = submit(11, 1);
    submit(12, 2);
    it.ops->free(it.device, it.arena, ARENA);
    ASSERT_STATUS(wait_for(ticket), PKV_EINVAL);
    pkvi_clock_advance(&it.clock, 1000);
    unsigned char other[PIECE] = {1};
    ASSERT_OK(it.ops->zero(it.device, other, PIECE));
    ASSERT_EQ(other[0], 0);
    it.ops->close(it.device);
    ASSERT_EQ(it.mem.bytes, 0);
    pkvi_faults_free(&it.faults);
}

/* ---- Jobs -------------------------------------------------------------------------------------- */

enum { DIM = 16, ROWS = 2 };

static struct pkvi_layout layout;
static struct pkvi_space space;
static const uint32_t slots[ROWS] = {6, 7}; /* block 3 */
static float k[ROWS * DIM];
static float v[ROWS * DIM];

static pkv_array array_of(float* data) {
    return (pkv_array){data, PKV_F32, DIM, DIM};
}

static void set_up_jobs(void) {
    set_up();
    ASSERT(pkvi_layout_init(&layout, &group));
    ASSERT_EQ(layout.block_bytes, PIECE);
    space = (struct pkvi_space){it.arena, PIECE, PIECE, 1};
    for (int i = 0; i < ROWS * DIM; i++) {
        k[i] = (float)i / 8.0F;
        v[i] = (float)(100 - i);
    }
}

static int write_rows(void) {
    return it.ops->write(it.device, &(struct pkvi_kv_job){&layout, &space, 0, ROWS, slots,
                                                          array_of(k), array_of(v), 0, NULL});
}

static int read_rows(float* k_out, float* v_out) {
    return it.ops->read(it.device,
                        &(struct pkvi_kv_job){&layout, &space, 0, ROWS, slots, array_of(k_out),
                                              array_of(v_out), 0, NULL});
}

/* One sequence of two tokens in block 3, one query of zeros at the last: the mean of both values. */
static int attend_rows(float* out) {
    static float q[DIM];
    static const uint32_t starts[] = {0, 1};
    static const uint32_t lengths[] = {2};
    static const uint32_t table[] = {3};
    const struct pkvi_attend_job job = {.layout = &layout,
                                        .space = &space,
                                        .entries = 1,
                                        .starts = starts,
                                        .lengths = lengths,
                                        .block_table = table,
                                        .table_stride = 1,
                                        .query_heads = 1,
                                        .scale = 1.0F,
                                        .q = array_of(q),
                                        .out = array_of(out)};
    return it.ops->attend(it.device, &job);
}

TEST(jobs_run_on_the_reference) {
    float k_out[ROWS * DIM];
    float v_out[ROWS * DIM];
    float out[DIM];
    set_up_jobs();
    ASSERT_OK(write_rows());
    ASSERT_OK(read_rows(k_out, v_out));
    ASSERT_MEM(k_out, k, sizeof k);
    ASSERT_MEM(v_out, v, sizeof v);
    ASSERT_OK(attend_rows(out));
    for (int d = 0; d < DIM; d++)
        ASSERT_NEAR(out[d], (v[d] + v[DIM + d]) / 2.0F, 1e-5);
    tear_down();
}

TEST(jobs_can_fail_and_then_touch_nothing) {
    float k_out[ROWS * DIM] = {5.0F};
    float out[DIM] = {6.0F};
    set_up_jobs();
    set_faults("device.write=return(EIO); device.read=return(EDEVICE); "
               "device.attend=return(ETIMEDOUT)");
    ASSERT_STATUS(write_rows(), PKV_EIO);
    ASSERT_EQ(filling(3), 4);
    ASSERT_STATUS(read_rows(k_out, k_out), PKV_EDEVICE);
    ASSERT_NEAR(k_out[0], 5.0, 0.0);
    ASSERT_STATUS(attend_rows(out), PKV_ETIMEDOUT);
    ASSERT_NEAR(out[0], 6.0, 0.0);
    tear_down();
}

TEST(jobs_can_take_virtual_time) {
    set_up_jobs();
    set_faults("device.write=delay(1000000000)");
    ASSERT_OK(write_rows());
    ASSERT_EQ(now_us(), 1000000000);
    tear_down();
}

/* New tokens are written into a block right after it was copied: the repetition comes before them. */
TEST(a_job_comes_after_all_repetitions) {
    float k_out[ROWS * DIM];
    float v_out[ROWS * DIM];
    set_up_jobs();
    set_faults("device.copy.done=1*dup");
    ASSERT_OK(wait_for(submit(3, 0)));
    ASSERT_OK(write_rows());
    pkvi_clock_advance(&it.clock, 1000);
    ASSERT_OK(read_rows(k_out, v_out));
    ASSERT_MEM(k_out, k, sizeof k);
    tear_down();
}

/* ---- Threads ----------------------------------------------------------------------------------- */

static void* attend_often(void* arg) {
    int* failures = arg;
    for (int i = 0; i < 2000; i++) {
        float out[DIM];
        *failures += attend_rows(out) != PKV_OK;
    }
    return NULL;
}

/* The core orders copies among themselves by its lock, but not with the jobs of other plans. */
TEST(jobs_run_while_copies_are_made) {
    pthread_t thread;
    int failures = 0;
    set_up_jobs();
    ASSERT_OK(write_rows());
#ifndef PKV_NO_FAULTS
    ASSERT_OK(pkvi_faults_set(&it.faults, "device.copy.done=50%dup; device.attend=yield", 5));
#endif
    ASSERT_EQ(pthread_create(&thread, NULL, attend_often, &failures), 0);
    for (int i = 0; i < 500; i++) {
        const uint64_t first = submit(20, 0);
        const uint64_t second = submit(21, 1);
        ASSERT_OK(wait_for(second));
        ASSERT_OK(wait_for(first));
    }
    pthread_join(thread, NULL);
    ASSERT_EQ(failures, 0);
    ASSERT_EQ(filling(20), 1);
    tear_down();
}
