/* sim.c - the deterministic device: everything that a real one may do to us, in virtual time.
 *
 * Writes, reads and attention run on the scalar reference. Copies are asynchronous: each gets a due
 * time drawn from a seeded generator, so that they complete in another order than they were
 * submitted in. A copy's bytes land when the virtual clock has reached its due time and the device
 * is entered next, in the order of due times; waiting moves the clock forward. A copy that nobody
 * waits for still lands, late, over whatever its destination has become by then.
 *
 *     free --copy--> in flight --due--> landed --wait--> free
 *                                         '--wait, dup--> again --due or fence--> free
 *
 * The fault points make it misbehave:
 *
 *   device.copy.submit   return: the copy is refused; delay: submission takes time
 *   device.copy.done     visited by each wait
 *                        return: it failed, and the destination holds rubbish
 *                        delay: it is late
 *                        drop: its completion never comes; waiting gives up after a virtual second
 *                        dup: the transfer is repeated; see below
 *                        corrupt(n): n random bits flip on the way; the device's checksum notices:
 *                        PKV_EIO
 *   device.zero, device.write, device.read, device.attend, device.move   return, delay
 *   device.transfer.submit   return, delay
 *   device.transfer.done     visited by the first poll or wait: return, delay, drop, corrupt, as above
 *
 * A transfer is a batch of copies with due times of their own: its blocks land one by one, in any
 * order, whenever the device is entered. Asking lets a little time pass. Cancelling forgets what has
 * not landed.
 *
 * A repeated transfer lands a second time when it is due, or at the next fence: an operation other
 * than a copy, or the first copy after all others were waited for. So it is harmless exactly when
 * nobody touches the memory of a batch of copies, by a further copy or by hand, before all of the
 * batch has been waited for. A device that could land later than that would be beyond any defence.
 *
 * Threads: a mutex orders the queue; the jobs of write, read and attend run outside it. */
#include "device/copy.h"
#include "device/device.h"
#include "device/transfer.h"

#include "base/hash.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    LATENCY_US_MAX = 100, /* of a healthy copy */
    TIMEOUT_US = 1000000, /* how long wait() waits for a completion that never comes */
    POLL_US = 20,         /* how long it takes to ask for one */
    RUBBISH = 0xab,
    ARENA_ALIGNMENT = 4096,
};

enum copy_state { FREE, IN_FLIGHT, LANDED, AGAIN };

struct copy {
    enum copy_state state;
    uint64_t ticket; /* while in flight or landed; never used twice */
    struct pkvi_copy_job job;
    uint64_t due_us;
};

/* Pairs with a due time are still to land; LANDED_US is behind all times. */
#define LANDED_US UINT64_MAX

struct transfer {
    bool is_open;
    uint32_t to_land;
    uint64_t* due_us; /* [transfer_pairs_max] */
    struct pkvi_transfer_list* list;
};

struct sim {
    struct pkvi_device device;
    struct pkvi_mem* mem;
    struct pkvi_faults* faults;
    struct pkvi_clock* clock;
    pthread_mutex_t lock;
    struct copy* copies; /* [copies_max] */
    uint32_t copies_max;
    uint32_t counts[AGAIN + 1]; /* copies in each state */
    uint64_t last_ticket;
    uint64_t random;
    struct pkvi_transfer_list* lists; /* [transfers_max] */
    struct transfer* transfers;       /* [transfers_max] */
    uint32_t transfers_max;
};

static struct sim* sim_of(struct pkvi_device* device) {
    return (struct sim*)device;
}

/* ---- The queue ------------------------------------------------------------------------------- */

static void set_state(struct sim* sim, struct copy* copy, enum copy_state state) {
    sim->counts[copy->state]--;
    sim->counts[state]++;
    copy->state = state;
}

static bool will_land(const struct copy* copy) {
    return copy->state == IN_FLIGHT || copy->state == AGAIN;
}

/* The next copy to land, up to and including `now_us`; NULL when there is none. */
static struct copy* earliest(struct sim* sim, uint64_t now_us) {
    struct copy* best = NULL;
    if (sim->counts[IN_FLIGHT] + sim->counts[AGAIN] == 0) return NULL;
    for (uint32_t i = 0; i < sim->copies_max; i++) {
        struct copy* copy = &sim->copies[i];
        if (!will_land(copy)) continue;
        if (copy->due_us > now_us) continue;
        if (best == NULL || copy->due_us < best->due_us) best = copy;
    }
    return best;
}

static void land(struct sim* sim, struct copy* copy) {
    pkvi_copy_run(&copy->job);
    set_state(sim, copy, copy->state == IN_FLIGHT ? LANDED : FREE);
}

static void land_pairs(struct transfer* transfer, uint64_t now_us) {
    const struct pkvi_transfer_list* list = transfer->list;
    if (!transfer->is_open) return;
    for (uint32_t i = 0; i < list->count && transfer->to_land > 0; i++) {
        if (transfer->due_us[i] > now_us) continue;
        memcpy(list->pairs[i].to, list->pairs[i].from, list->bytes);
        transfer->due_us[i] = LANDED_US;
        transfer->to_land--;
    }
}

/* Land everything that is due, copies oldest first. */
static void settle_until(struct sim* sim, uint64_t now_us) {
    for (struct copy* copy; (copy = earliest(sim, now_us)) != NULL;)
        land(sim, copy);
    for (uint32_t i = 0; i < sim->transfers_max; i++)
        land_pairs(&sim->transfers[i], now_us);
}

static void settle(struct sim* sim) {
    settle_until(sim, pkvi_clock_now_us(sim->clock));
}

/* Land every repetition, due or not. */
static void fence_locked(struct sim* sim) {
    settle(sim);
    for (uint32_t i = 0; sim->counts[AGAIN] > 0; i++)
        if (sim->copies[i].state == AGAIN) land(sim, &sim->copies[i]);
}

static void fence(struct sim* sim) {
    pthread_mutex_lock(&sim->lock);
    fence_locked(sim);
    pthread_mutex_unlock(&sim->lock);
}

static struct copy* find_free(struct sim* sim) {
    if (sim->counts[FREE] == 0) return NULL;
    struct copy* copy = sim->copies;
    while (copy->state != FREE)
        copy++;
    return copy;
}

static struct copy* find_ticket(struct sim* sim, uint64_t ticket) {
    for (uint32_t i = 0; i < sim->copies_max; i++) {
        struct copy* copy = &sim->copies[i];
        if (copy->state != IN_FLIGHT && copy->state != LANDED) continue;
        if (copy->ticket == ticket) return copy;
    }
    return NULL;
}

static uint64_t draw_due_us(struct sim* sim) {
    return pkvi_clock_now_us(sim->clock) + pkvi_random_next(&sim->random) % LATENCY_US_MAX;
}

/* Let the clock reach `due_us`, and say what it shows then. */
static uint64_t pass_until(struct sim* sim, uint64_t due_us) {
    const uint64_t now_us = pkvi_clock_now_us(sim->clock);
    if (due_us <= now_us) return now_us;
    pkvi_clock_advance(sim->clock, due_us - now_us);
    return due_us;
}

/* ---- Copies ---------------------------------------------------------------------------------- */

/* A slot for a further copy: a first one is a fence, and repetitions make room when nothing else
 * does. */
static struct copy* take_slot(struct sim* sim) {
    const bool is_first = sim->counts[IN_FLIGHT] + sim->counts[LANDED] == 0;
    settle(sim);
    if (is_first || sim->counts[FREE] == 0) fence_locked(sim);
    return find_free(sim);
}

static int submit(struct sim* sim, const struct pkvi_copy_job* job, uint64_t* ticket) {
    struct copy* copy = take_slot(sim);
    if (copy == NULL) return PKV_EIO; /* more in flight than was said at open */
    copy->job = *job;
    copy->ticket = ++sim->last_ticket;
    copy->due_us = draw_due_us(sim);
    set_state(sim, copy, IN_FLIGHT);
    *ticket = copy->ticket;
    return PKV_OK;
}

static int sim_copy(struct pkvi_device* device, const struct pkvi_copy_job* job, uint64_t* ticket) {
    struct sim* sim = sim_of(device);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_COPY_SUBMIT));
    pthread_mutex_lock(&sim->lock);
    const int status = submit(sim, job, ticket);
    pthread_mutex_unlock(&sim->lock);
    return status;
}

static void flip_bits(const struct copy* copy, uint64_t count, uint64_t random) {
    const uint64_t bits = copy->job.bytes * 8;
    for (uint64_t i = 0; i < count && i < bits; i++) {
        const uint64_t bit = pkvi_random_next(&random) % bits;
        *pkvi_copy_at(&copy->job, bit / 8) ^= (unsigned char)(1U << bit % 8);
    }
}

static int time_out(struct sim* sim, struct copy* copy) {
    set_state(sim, copy, FREE);
    pkvi_clock_advance(sim->clock, TIMEOUT_US);
    settle(sim);
    return PKV_ETIMEDOUT;
}

/* Wait for the bytes to land, then do to them what the fault says. */
static int complete(struct sim* sim, struct copy* copy, struct pkvi_fault fault) {
    if (fault.action == PKVI_ACT_DROP) return time_out(sim, copy);
    if (fault.action == PKVI_ACT_DELAY) copy->due_us += fault.argument;
    settle_until(sim, pass_until(sim, copy->due_us));
    set_state(sim, copy, FREE);
    switch (fault.action) {
    case PKVI_ACT_RETURN:
        pkvi_copy_fill(&copy->job, RUBBISH);
        return fault.status;
    case PKVI_ACT_CORRUPT:
        flip_bits(copy, fault.argument, fault.random);
        return fault.argument > 0 ? PKV_EIO : PKV_OK;
    case PKVI_ACT_DUP:
        copy->due_us = draw_due_us(sim);
        set_state(sim, copy, AGAIN);
        return PKV_OK;
    default:
        return PKV_OK;
    }
}

/* The fault point is visited between the two critical sections: a pause there stops nobody else. */
static int sim_wait(struct pkvi_device* device, uint64_t ticket) {
    struct sim* sim = sim_of(device);
    pthread_mutex_lock(&sim->lock);
    struct copy* copy = find_ticket(sim, ticket);
    pthread_mutex_unlock(&sim->lock);
    if (copy == NULL) return PKV_EINVAL;
    const struct pkvi_fault fault = pkvi_fault_visit(sim->faults, PKVI_FAULT_DEVICE_COPY_DONE);
    pthread_mutex_lock(&sim->lock);
    const int status = complete(sim, copy, fault);
    pthread_mutex_unlock(&sim->lock);
    return status;
}

/* ---- Transfers ------------------------------------------------------------------------------- */

static int sim_transfer(struct pkvi_device* device, const struct pkvi_transfer_job* job) {
    struct sim* sim = sim_of(device);
    struct transfer* transfer = &sim->transfers[job->index];
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_TRANSFER_SUBMIT));
    pthread_mutex_lock(&sim->lock);
    fence_locked(sim);
    pkvi_transfer_list_fill(transfer->list, job);
    transfer->is_open = true;
    transfer->to_land = job->count;
    for (uint32_t i = 0; i < job->count; i++)
        transfer->due_us[i] = draw_due_us(sim);
    pthread_mutex_unlock(&sim->lock);
    return PKV_OK;
}

/* Learn what will become of the transfer; `late` says how much later its pairs are due. */
static struct pkvi_fault draw_fate(struct sim* sim, struct transfer* transfer, uint64_t* late) {
    const bool is_first = !transfer->list->fate.is_known;
    const struct pkvi_fault fate = pkvi_transfer_learn(&transfer->list->fate, sim->faults);
    *late = is_first && fate.action == PKVI_ACT_DELAY ? fate.argument : 0;
    return fate;
}

static void delay_pairs(struct transfer* transfer, uint64_t us) {
    for (uint32_t i = 0; i < transfer->list->count; i++)
        if (transfer->due_us[i] != LANDED_US) transfer->due_us[i] += us;
}

static uint64_t last_due_us(const struct transfer* transfer) {
    uint64_t last = 0;
    for (uint32_t i = 0; i < transfer->list->count; i++)
        if (transfer->due_us[i] != LANDED_US && transfer->due_us[i] > last)
            last = transfer->due_us[i];
    return last;
}

/* All of it has landed: do to the bytes what the fault says. */
static int finish_transfer(struct transfer* transfer, struct pkvi_fault fate) {
    const struct pkvi_transfer_list* list = transfer->list;
    transfer->is_open = false;
    if (fate.action == PKVI_ACT_RETURN) {
        for (uint32_t i = 0; i < list->count; i++)
            memset(list->pairs[i].to, RUBBISH, list->bytes);
        return fate.status;
    }
    if (fate.action != PKVI_ACT_CORRUPT) return PKV_OK;
    pkvi_transfer_list_corrupt(list, fate.argument, fate.random);
    return fate.argument > 0 ? PKV_EIO : PKV_OK;
}

static int poll_locked(struct sim* sim, struct transfer* transfer, struct pkvi_fault fate,
                       bool* has_ended) {
    settle_until(sim, pass_until(sim, pkvi_clock_now_us(sim->clock) + POLL_US));
    *has_ended = transfer->to_land == 0 && fate.action != PKVI_ACT_DROP;
    return *has_ended ? finish_transfer(transfer, fate) : PKV_OK;
}

static int sim_transfer_poll(struct pkvi_device* device, uint32_t index, bool* has_ended) {
    struct sim* sim = sim_of(device);
    struct transfer* transfer = &sim->transfers[index];
    uint64_t late;
    const struct pkvi_fault fate = draw_fate(sim, transfer, &late);
    pthread_mutex_lock(&sim->lock);
    delay_pairs(transfer, late);
    const int status = poll_locked(sim, transfer, fate, has_ended);
    pthread_mutex_unlock(&sim->lock);
    return status;
}

/* What was lost may have been lost before any of it landed, or after. */
static int wait_locked(struct sim* sim, struct transfer* transfer, struct pkvi_fault fate) {
    if (fate.action == PKVI_ACT_DROP) {
        transfer->is_open = false;
        pkvi_clock_advance(sim->clock, TIMEOUT_US);
        settle(sim);
        return PKV_ETIMEDOUT;
    }
    settle_until(sim, pass_until(sim, last_due_us(transfer)));
    return finish_transfer(transfer, fate);
}

static int sim_transfer_wait(struct pkvi_device* device, uint32_t index) {
    struct sim* sim = sim_of(device);
    struct transfer* transfer = &sim->transfers[index];
    uint64_t late;
    const struct pkvi_fault fate = draw_fate(sim, transfer, &late);
    pthread_mutex_lock(&sim->lock);
    delay_pairs(transfer, late);
    const int status = wait_locked(sim, transfer, fate);
    pthread_mutex_unlock(&sim->lock);
    return status;
}

static void sim_transfer_cancel(struct pkvi_device* device, uint32_t index) {
    struct sim* sim = sim_of(device);
    pthread_mutex_lock(&sim->lock);
    sim->transfers[index].is_open = false;
    pthread_mutex_unlock(&sim->lock);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static int take_zeroed(uint64_t bytes, void** base) {
    void* memory;
    if (posix_memalign(&memory, ARENA_ALIGNMENT, bytes) != 0) return PKV_ENOMEM;
    memset(memory, 0, bytes);
    *base = memory;
    return PKV_OK;
}

static int sim_alloc(struct pkvi_device* device, uint64_t bytes, void** base) {
    PKVI_TRY(pkvi_fault_check(sim_of(device)->faults, PKVI_FAULT_DEVICE_ALLOC));
    return take_zeroed(bytes, base);
}

static int sim_alloc_host(struct pkvi_device* device, uint64_t bytes, void** base) {
    PKVI_TRY(pkvi_fault_check(sim_of(device)->faults, PKVI_FAULT_DEVICE_HOST_ALLOC));
    return take_zeroed(bytes, base);
}

/* What is in flight is forgotten: nothing lands in memory that is gone. */
static void sim_free(struct pkvi_device* device, void* base, uint64_t bytes) {
    struct sim* sim = sim_of(device);
    (void)bytes;
    pthread_mutex_lock(&sim->lock);
    for (uint32_t i = 0; i < sim->copies_max; i++)
        set_state(sim, &sim->copies[i], FREE);
    for (uint32_t i = 0; i < sim->transfers_max; i++)
        sim->transfers[i].is_open = false;
    pthread_mutex_unlock(&sim->lock);
    free(base);
}

static int sim_release(struct pkvi_device* device, void* memory, uint64_t bytes) {
    PKVI_TRY(pkvi_fault_check(sim_of(device)->faults, PKVI_FAULT_ARENA_RESIZE));
    memset(memory, 0, bytes);
    return PKV_OK;
}

static int sim_zero(struct pkvi_device* device, void* to, uint64_t bytes) {
    struct sim* sim = sim_of(device);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_ZERO));
    fence(sim);
    memset(to, 0, bytes);
    return PKV_OK;
}

static void sim_settle(struct pkvi_device* device) {
    fence(sim_of(device));
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

static int sim_write(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    struct sim* sim = sim_of(device);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_WRITE));
    fence(sim);
    return pkvi_reference_write(job);
}

static int sim_read(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    struct sim* sim = sim_of(device);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_READ));
    fence(sim);
    return pkvi_reference_read(job);
}

static int sim_attend(struct pkvi_device* device, const struct pkvi_attend_job* job) {
    struct sim* sim = sim_of(device);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_ATTEND));
    fence(sim);
    return pkvi_reference_attend(job);
}

static int sim_move(struct pkvi_device* device, const struct pkvi_move_job* job) {
    struct sim* sim = sim_of(device);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_MOVE));
    fence(sim);
    pkvi_reference_move(job);
    return PKV_OK;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void close_parts(struct sim* sim) {
    struct pkvi_mem* mem = sim->mem;
    if (sim->transfers != NULL) pkvi_mem_give(mem, sim->transfers->due_us);
    pkvi_mem_give(mem, sim->transfers);
    pkvi_transfer_lists_close(sim->lists, mem);
    pkvi_mem_give(mem, sim->copies);
    pkvi_mem_give(mem, sim);
}

/* The arena is gone by now, and with it everything that was in flight. */
static void sim_close(struct pkvi_device* device) {
    struct sim* sim = sim_of(device);
    pthread_mutex_destroy(&sim->lock);
    close_parts(sim);
}

static const struct pkvi_device_ops sim_ops = {
    .name = "sim",
    .alloc = sim_alloc,
    .free = sim_free,
    .release = sim_release,
    .copy = sim_copy,
    .wait = sim_wait,
    .zero = sim_zero,
    .write = sim_write,
    .read = sim_read,
    .attend = sim_attend,
    .move = sim_move,
    .alloc_host = sim_alloc_host,
    .free_host = sim_free,
    .transfer = sim_transfer,
    .transfer_poll = sim_transfer_poll,
    .transfer_wait = sim_transfer_wait,
    .transfer_cancel = sim_transfer_cancel,
    .settle = sim_settle,
    .close = sim_close,
};

static void set_up(struct sim* sim, const struct pkvi_device_config* config) {
    sim->device = (struct pkvi_device){.ops = &sim_ops, .isa = "reference"};
    sim->mem = config->mem;
    sim->faults = config->faults;
    sim->clock = config->clock;
    sim->copies_max = config->copies_max;
    sim->counts[FREE] = config->copies_max;
    sim->random = config->seed;
}

static int open_transfers(struct sim* sim, const struct pkvi_device_config* config) {
    const uint32_t count = config->transfers_max;
    uint64_t* due_us;
    PKVI_TRY(pkvi_transfer_lists_open(config, &sim->lists));
    PKVI_TRY(pkvi_mem_take(config->mem, count, sizeof *sim->transfers, (void**)&sim->transfers));
    PKVI_TRY(pkvi_mem_take(config->mem, (uint64_t)count * config->transfer_pairs_max,
                           sizeof *due_us, (void**)&due_us));
    for (uint32_t i = 0; i < count; i++) {
        sim->transfers[i].due_us = due_us + (size_t)i * config->transfer_pairs_max;
        sim->transfers[i].list = &sim->lists[i];
    }
    sim->transfers_max = count;
    return PKV_OK;
}

int pkvi_sim_open(const struct pkvi_device_config* config, struct pkvi_device** device) {
    struct sim* sim;
    PKVI_TRY(pkvi_mem_take(config->mem, 1, sizeof *sim, (void**)&sim));
    set_up(sim, config);
    int status =
        pkvi_mem_take(config->mem, config->copies_max, sizeof *sim->copies, (void**)&sim->copies);
    if (status == PKV_OK) status = open_transfers(sim, config);
    if (status == PKV_OK && pthread_mutex_init(&sim->lock, NULL) != 0) status = PKV_ENOMEM;
    if (status != PKV_OK) {
        close_parts(sim);
        return status;
    }
    *device = &sim->device;
    return PKV_OK;
}
