/* transfer.h - the copies of one transfer, for devices that make them by themselves.
 *
 * A list is filled when the transfer starts and worked off by whoever polls it or waits for it: no
 * thread of the library runs behind anybody's back. Threads: one call at a time for each list. */
#ifndef PKVI_DEVICE_TRANSFER_H
#define PKVI_DEVICE_TRANSFER_H

#include "device/device.h"

struct pkvi_copy_pair {
    unsigned char* to;
    const unsigned char* from;
};

/* What device.transfer.done says of a transfer, which visits it once. */
struct pkvi_transfer_fate {
    bool is_known;
    struct pkvi_fault fault;
};

static inline struct pkvi_fault pkvi_transfer_learn(struct pkvi_transfer_fate* fate,
                                                    struct pkvi_faults* faults) {
    if (!fate->is_known) fate->fault = pkvi_fault_visit(faults, PKVI_FAULT_DEVICE_TRANSFER_DONE);
    fate->is_known = true;
    return fate->fault;
}

struct pkvi_transfer_list {
    struct pkvi_copy_pair* pairs; /* [transfer_pairs_max] */
    uint64_t bytes;               /* of each */
    uint32_t count;
    uint32_t done; /* pairs that have been copied, for those who go in order */
    struct pkvi_transfer_fate fate;
};

/* Lists for config->transfers_max transfers; *lists is NULL when there are none. Close what was
 * opened in part as if it were whole. */
int pkvi_transfer_lists_open(const struct pkvi_device_config* config,
                             struct pkvi_transfer_list** lists);
void pkvi_transfer_lists_close(struct pkvi_transfer_list* lists, struct pkvi_mem* mem);

void pkvi_transfer_list_fill(struct pkvi_transfer_list* list, const struct pkvi_transfer_job* job);

/* Copy pairs in order until `end` of them are done or `bytes` have been copied; at least one. */
void pkvi_transfer_list_copy(struct pkvi_transfer_list* list, uint32_t end, uint64_t bytes);

/* Flip `count` bits somewhere in the destination. */
void pkvi_transfer_list_corrupt(const struct pkvi_transfer_list* list, uint64_t count,
                                uint64_t random);

#endif
