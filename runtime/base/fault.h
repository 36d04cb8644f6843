/* fault.h - named fault points: operations that can be told to fail.
 *
 * Why     What never fails in a test fails in production. Every operation that can fail visits a
 *         point; a specification (grammar in pagedkv.h, after fail(9) and fail-rs) makes it
 *         misbehave.
 * Cost    A point that is off is one relaxed load of its `armed` flag and a branch not taken.
 * Holds   F1  each point has its own random generator, seeded from (seed, name): a schedule at one
 *             point does not depend on how often others are visited
 *         F2  a specification is parsed whole before the old one is replaced
 * Threads visits may come from any thread; a mutex orders those at armed points. */
#ifndef PKVI_BASE_FAULT_H
#define PKVI_BASE_FAULT_H

#include "base/clock.h"
#include "base/status.h"
#include <stdatomic.h>

/* Every point: identifier, public name, what happens there. In the order in which they are
 * listed. */
#define PKVI_FAULT_MAP(X)                                                                          \
    X(MEM_ALLOC, "mem.alloc", "host memory for the library's own structures")                      \
    X(SEED_READ, "seed.read", "random bytes from the operating system")                            \
    X(THREAD_CREATE, "thread.create", "start of a pool thread")                                    \
    X(DEVICE_OPEN, "device.open", "creation of the device")                                        \
    X(DEVICE_ALLOC, "device.alloc", "device memory for the arena")                                 \
    X(DEVICE_COPY_SUBMIT, "device.copy.submit", "a block copy is handed to the device")            \
    X(DEVICE_COPY_DONE, "device.copy.done", "a block copy completes")                              \
    X(DEVICE_ZERO, "device.zero", "a block is zeroed on change of tenant")                         \
    X(DEVICE_WRITE, "device.write", "K/V of new tokens are stored")                                \
    X(DEVICE_ATTEND, "device.attend", "attention is computed")                                     \
    X(DEVICE_READ, "device.read", "K/V are read back")                                             \
    X(DEVICE_MOVE, "device.move", "K/V of an accepted path are moved")                             \
    X(DEVICE_HOST_ALLOC, "device.host.alloc", "host memory for the blocks of the host tier")       \
    X(DEVICE_TRANSFER_SUBMIT, "device.transfer.submit", "a swap is handed to the device")          \
    X(DEVICE_TRANSFER_DONE, "device.transfer.done", "a swap completes")                            \
    X(ARENA_TAKE, "arena.take", "a pool takes an extent from the arena")                           \
    X(ARENA_CLAIM, "arena.claim", "another cache's cached blocks are evicted for their extents")   \
    X(ARENA_RESIZE, "arena.resize", "an arena gives an extent back to the system")                 \
    X(POOL_TAKE, "pool.take", "blocks are taken from a pool")                                      \
    X(TABLE_LEAF, "table.leaf", "page table leaves are taken")                                     \
    X(PREFIX_EVICT, "prefix.evict", "cached blocks are evicted to make room")                      \
    X(SEQ_CREATE, "seq.create", "a sequence slot is taken")                                        \
    X(SEQ_FORK, "seq.fork", "a sequence is forked")                                                \
    X(SEQ_MATCH, "seq.match", "a cached prefix is attached")                                       \
    X(PLAN_BEGIN, "plan.begin", "a plan is opened")                                                \
    X(TIER_TAKE, "tier.take", "host blocks are taken for a swap")                                  \
    X(TENANT_SET, "tenant.set", "a tenant is given a quota")

enum pkvi_fault_point {
#define PKVI_FAULT_ENUM(id, name, meaning) PKVI_FAULT_##id,
    PKVI_FAULT_MAP(PKVI_FAULT_ENUM)
#undef PKVI_FAULT_ENUM
        PKVI_FAULT_COUNT
};

enum pkvi_fault_action {
    PKVI_ACT_OFF,
    PKVI_ACT_RETURN,  /* fail with status */
    PKVI_ACT_DELAY,   /* take `argument` microseconds longer */
    PKVI_ACT_DROP,    /* the completion never arrives */
    PKVI_ACT_DUP,     /* the completion arrives twice */
    PKVI_ACT_CORRUPT, /* `argument` bits flip; choose them with `random` */
    PKVI_ACT_PAUSE,
    PKVI_ACT_YIELD,
    PKVI_ACT_CRASH
};

/* What a visit is told to do. */
struct pkvi_fault {
    enum pkvi_fault_action action;
    int status;        /* of PKVI_ACT_RETURN */
    uint64_t argument; /* of delay and corrupt */
    uint64_t random;   /* fresh random bits of the point's generator */
};

struct pkvi_faults {
    atomic_uchar armed[PKVI_FAULT_COUNT]; /* nonzero while the specification names the point */
    struct pkvi_fault_state* state;       /* everything else; private to fault.c */
    struct pkvi_clock* clock;             /* on which delays pass; NULL: real time */
};

/* Set up with `spec` ("" or NULL: all off). Uses malloc of its own, since the memory hook itself is
 * a fault point.
 * Errors  PKV_ENOMEM, PKV_EFAULTSPEC; then nothing needs to be freed. */
int pkvi_faults_init(struct pkvi_faults* faults, const char* spec, uint64_t seed);
void pkvi_faults_free(struct pkvi_faults* faults);

/* Replace the specification and restart the counters. On error the old one stays in force. */
int pkvi_faults_set(struct pkvi_faults* faults, const char* spec, uint64_t seed);

/* Counters of a point since the specification was set. */
void pkvi_faults_counts(struct pkvi_faults* faults, enum pkvi_fault_point point, uint64_t* visits,
                        uint64_t* fired);

const char* pkvi_fault_name(enum pkvi_fault_point point);
const char* pkvi_fault_meaning(enum pkvi_fault_point point);

/* The slow path of pkvi_fault_visit: counts, draws, and itself executes pause, yield and crash
 * (which are then reported as off). */
struct pkvi_fault pkvi_fault_draw(struct pkvi_faults* faults, enum pkvi_fault_point point);

/* Visit a point and learn what to do: for operations that can also be late, lost, doubled,
 * corrupted. */
static inline struct pkvi_fault pkvi_fault_visit(struct pkvi_faults* faults,
                                                 enum pkvi_fault_point point) {
#ifndef PKV_NO_FAULTS
    if (atomic_load_explicit(&faults->armed[point], memory_order_relaxed))
        return pkvi_fault_draw(faults, point);
#else
    (void)faults;
    (void)point;
#endif
    return (struct pkvi_fault){PKVI_ACT_OFF, PKV_OK, 0, 0};
}

/* Visit a point where failing is all that can happen; a delay sleeps. */
int pkvi_fault_check_slow(struct pkvi_faults* faults, enum pkvi_fault_point point);

static inline int pkvi_fault_check(struct pkvi_faults* faults, enum pkvi_fault_point point) {
#ifndef PKV_NO_FAULTS
    if (atomic_load_explicit(&faults->armed[point], memory_order_relaxed))
        return pkvi_fault_check_slow(faults, point);
#else
    (void)faults;
    (void)point;
#endif
    return PKV_OK;
}

#endif
