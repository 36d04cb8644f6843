/* transfer.c - see transfer.h. All pairs of all lists are one piece of memory, that of list 0. */
#include "device/transfer.h"

#include "base/hash.h"
#include <string.h>

int pkvi_transfer_lists_open(const struct pkvi_device_config* config,
                             struct pkvi_transfer_list** lists) {
    const uint64_t pairs = (uint64_t)config->transfers_max * config->transfer_pairs_max;
    struct pkvi_transfer_list* opened;
    PKVI_TRY(pkvi_mem_take(config->mem, config->transfers_max, sizeof *opened, (void**)&opened));
    *lists = opened;
    if (opened == NULL) return PKV_OK;
    PKVI_TRY(pkvi_mem_take(config->mem, pairs, sizeof *opened->pairs, (void**)&opened->pairs));
    for (uint32_t i = 1; i < config->transfers_max; i++)
        opened[i].pairs = opened->pairs + (size_t)i * config->transfer_pairs_max;
    return PKV_OK;
}

void pkvi_transfer_lists_close(struct pkvi_transfer_list* lists, struct pkvi_mem* mem) {
    if (lists == NULL) return;
    pkvi_mem_give(mem, lists->pairs);
    pkvi_mem_give(mem, lists);
}

void pkvi_transfer_list_fill(struct pkvi_transfer_list* list, const struct pkvi_transfer_job* job) {
    list->bytes = job->layout->block_bytes;
    list->count = job->count;
    list->done = 0;
    list->fate.is_known = false;
    for (uint32_t i = 0; i < job->count; i++) {
        unsigned char* block = pkvi_space_block(job->space, job->blocks[i]);
        unsigned char* slot = pkvi_transfer_host(job, i);
        list->pairs[i] =
            (struct pkvi_copy_pair){job->is_in ? block : slot, job->is_in ? slot : block};
    }
}

void pkvi_transfer_list_copy(struct pkvi_transfer_list* list, uint32_t end, uint64_t bytes) {
    for (uint64_t copied = 0; list->done < end && copied < bytes; copied += list->bytes) {
        const struct pkvi_copy_pair pair = list->pairs[list->done++];
        memcpy(pair.to, pair.from, list->bytes);
    }
}

void pkvi_transfer_list_corrupt(const struct pkvi_transfer_list* list, uint64_t count,
                                uint64_t random) {
    const uint64_t bits = list->bytes * 8;
    for (uint64_t i = 0; i < count && i < bits; i++) {
        const struct pkvi_copy_pair pair = list->pairs[pkvi_random_next(&random) % list->count];
        const uint64_t bit = pkvi_random_next(&random) % bits;
        pair.to[bit / 8] ^= (unsigned char)(1U << bit % 8);
    }
}
