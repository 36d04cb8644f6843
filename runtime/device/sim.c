/* sim.c - the deterministic device: everything that a real one may do to us, in virtual time.
 *
 * Writes, reads and attention run on the scalar reference. Copies are asynchronous: each gets a due time
 * drawn from a seeded generator, so that they complete in another order than they were submitted in;
 * waiting moves the virtual clock forward to the due time. The fault points make it misbehave:
 *
 *   device.copy.submit   return: the copy is refused; delay: submission takes time
 *   device.copy.done     return: it fails, and the destination holds rubbish
 *                        delay: it is late
 *                        drop: its completion never comes; waiting gives up after a virtual second
 *                        dup: its bytes land a second time, just before the next operation of the device
 *                        corrupt(n): n bits flip on the way; the device's checksum notices: PKV_EIO
 *   device.zero, device.write, device.read, device.attend   return, delay
 *
 * A second landing is harmless exactly when the core hands the destination to nobody else before it has
 * waited for all its copies; it is modelled so that tests can tell.
 *
 * Threads: the core's lock orders copies; write, read and attend have no state. */
#include "device/device.h"

#include "base/hash.h"
#include <stdlib.h>
#include <string.h>

enum {
    LATENCY_US_MAX = 100,    /* of a healthy copy */
    TIMEOUT_US = 1000000,    /* how long wait() waits for a completion that never comes */
    RUBBISH = 0xab,
    ARENA_ALIGNMENT = 4096,
};

struct copy {
    uint64_t ticket; /* 0: the slot is free */
    unsigned char* to;
    const unsigned char* from;
    uint64_t bytes;
    uint64_t due_us;
};

struct sim {
    struct pkvi_device device;
    struct pkvi_mem* mem;
    struct pkvi_faults* faults;
    struct pkvi_clock* clock;
    struct copy* copies; /* [copies_max] in flight */
    uint32_t copies_max;
    uint64_t last_ticket;
    uint64_t random;
    struct copy again; /* a completed copy that will land once more; bytes 0: none */
};

static struct sim* sim_of(struct pkvi_device* device) {
    return (struct sim*)device;
}

/* Let a doubled completion have its second effect. Every operation begins with it. */
static void land_again(struct sim* sim) {
    if (sim->again.bytes == 0) return;
    memcpy(sim->again.to, sim->again.from, sim->again.bytes);
    sim->again.bytes = 0;
}

static int sim_alloc(struct pkvi_device* device, uint64_t bytes, void** base) {
    struct sim* sim = sim_of(device);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_ALLOC));
    if (posix_memalign(base, ARENA_ALIGNMENT, bytes) != 0) return PKV_ENOMEM;
    memset(*base, 0, bytes);
    return PKV_OK;
}

static void sim_free(struct pkvi_device* device, void* base, uint64_t bytes) {
    (void)device;
    (void)bytes;
    free(base);
}

static struct copy* find_copy(struct sim* sim, uint64_t ticket) {
    for (uint32_t i = 0; i < sim->copies_max; i++)
        if (sim->copies[i].ticket == ticket) return &sim->copies[i];
    return NULL;
}

static int sim_copy(struct pkvi_device* device, void* to, const void* from, uint64_t bytes,
                    uint64_t* ticket) {
    struct sim* sim = sim_of(device);
    land_again(sim);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_COPY_SUBMIT));
    struct copy* copy = find_copy(sim, 0);
    if (copy == NULL) return PKV_EIO; /* more in flight than was said at open */
    const uint64_t latency_us = pkvi_random_next(&sim->random) % LATENCY_US_MAX;
    *copy = (struct copy){
        .ticket = ++sim->last_ticket,
        .to = to,
        .from = from,
        .bytes = bytes,
        .due_us = pkvi_clock_now_us(sim->clock) + latency_us,
    };
    *ticket = copy->ticket;
    return PKV_OK;
}

static void flip_bits(const struct copy* copy, uint64_t bits, uint64_t random) {
    for (uint64_t i = 0; i < bits; i++) {
        const uint64_t bit = pkvi_random_next(&random) % (copy->bytes * 8);
        copy->to[bit / 8] ^= (unsigned char)(1U << bit % 8);
    }
}

static void pass_until(struct sim* sim, uint64_t due_us) {
    const uint64_t now_us = pkvi_clock_now_us(sim->clock);
    if (due_us > now_us) pkvi_clock_advance(sim->clock, due_us - now_us);
}

/* What becomes of a copy whose time has come. */
static int complete(struct sim* sim, const struct copy* copy, struct pkvi_fault fault) {
    switch (fault.action) {
    case PKVI_ACT_RETURN:
        memset(copy->to, RUBBISH, copy->bytes);
        return fault.status;
    case PKVI_ACT_DROP:
        pkvi_clock_advance(sim->clock, TIMEOUT_US);
        return PKV_ETIMEDOUT;
    case PKVI_ACT_CORRUPT:
        memcpy(copy->to, copy->from, copy->bytes);
        flip_bits(copy, fault.argument, fault.random);
        return fault.argument > 0 ? PKV_EIO : PKV_OK;
    case PKVI_ACT_DELAY:
        pkvi_clock_advance(sim->clock, fault.argument);
        break;
    case PKVI_ACT_DUP:
        sim->again = *copy;
        break;
    default:
        break;
    }
    memcpy(copy->to, copy->from, copy->bytes);
    return PKV_OK;
}

static int sim_wait(struct pkvi_device* device, uint64_t ticket) {
    struct sim* sim = sim_of(device);
    land_again(sim);
    struct copy* slot = ticket != 0 ? find_copy(sim, ticket) : NULL;
    if (slot == NULL) return PKV_EINVAL;
    const struct copy copy = *slot;
    slot->ticket = 0;
    pass_until(sim, copy.due_us);
    return complete(sim, &copy, pkvi_fault_visit(sim->faults, PKVI_FAULT_DEVICE_COPY_DONE));
}

static int sim_zero(struct pkvi_device* device, void* to, uint64_t bytes) {
    struct sim* sim = sim_of(device);
    land_again(sim);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_ZERO));
    memset(to, 0, bytes);
    return PKV_OK;
}

static int sim_write(struct pkvi_device* device, const struct pkvi_write_job* job) {
    struct sim* sim = sim_of(device);
    land_again(sim);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_WRITE));
    return pkvi_reference_write(job);
}

static int sim_read(struct pkvi_device* device, const struct pkvi_read_job* job) {
    struct sim* sim = sim_of(device);
    land_again(sim);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_READ));
    return pkvi_reference_read(job);
}

static int sim_attend(struct pkvi_device* device, const struct pkvi_attend_job* job) {
    struct sim* sim = sim_of(device);
    land_again(sim);
    PKVI_TRY(pkvi_fault_check(sim->faults, PKVI_FAULT_DEVICE_ATTEND));
    return pkvi_reference_attend(job);
}

static void sim_close(struct pkvi_device* device) {
    struct sim* sim = sim_of(device);
    struct pkvi_mem* mem = sim->mem;
    pkvi_mem_give(mem, sim->copies);
    pkvi_mem_give(mem, sim);
}

static const struct pkvi_device_ops sim_ops = {
    .name = "sim",
    .alloc = sim_alloc,
    .free = sim_free,
    .copy = sim_copy,
    .wait = sim_wait,
    .zero = sim_zero,
    .write = sim_write,
    .read = sim_read,
    .attend = sim_attend,
    .close = sim_close,
};

int pkvi_sim_open(const struct pkvi_device_config* config, struct pkvi_device** device) {
    struct sim* sim;
    PKVI_TRY(pkvi_mem_take(config->mem, 1, sizeof *sim, (void**)&sim));
    sim->device = (struct pkvi_device){.ops = &sim_ops, .isa = "reference"};
    sim->mem = config->mem;
    sim->faults = config->faults;
    sim->clock = config->clock;
    sim->copies_max = config->copies_max;
    const int status = pkvi_mem_take(config->mem, config->copies_max, sizeof *sim->copies,
                                     (void**)&sim->copies);
    if (status != PKV_OK) {
        pkvi_mem_give(config->mem, sim);
        return status;
    }
    *device = &sim->device;
    return PKV_OK;
}
