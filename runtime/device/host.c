/* host.c - the CPU device: host memory, memcpy, and the kernels in cpu/.
 *
 * Transfers are done by whoever asks for them: polling copies POLL_BYTES at most and comes back,
 * waiting copies what is left. There are no threads for them, which would take the memory's
 * bandwidth from attention at moments that nobody chose.
 *
 * Copies are done when they are submitted; the ticket carries how they ended to wait(). Fault
 * points that speak of completions (drop, corrupt) do here what a DMA engine would do: nothing
 * arrives, or bits are wrong and the engine's checksum says so. */
#include "device/copy.h"
#include "device/cpu/attend.h"
#include "device/device.h"
#include "device/ending.h"
#include "device/transfer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_PAGE_BYTES = 2 << 20, POLL_BYTES = 4 << 20 };

struct host {
    struct pkvi_device device;
    struct pkvi_mem* mem;
    struct pkvi_faults* faults;
    struct pkvi_clock* clock;
    const struct pkvi_kernels* kernels;
    struct pkvi_threads* threads;
    uint32_t thread_count;
    struct pkvi_attender* attender;
    struct pkvi_transfer_list* transfers; /* [transfers_max] */
};

static struct host* host_of(struct pkvi_device* device) {
    return (struct host*)device;
}

/* ---- Levels ---------------------------------------------------------------------------------- */

static const struct pkvi_kernels* const levels[] = {
#if defined(__x86_64__)
    &pkvi_kernels_avx512bf16,
    &pkvi_kernels_avx512,
    &pkvi_kernels_avx2,
#elif defined(__aarch64__)
    &pkvi_kernels_neon,
#endif
    &pkvi_kernels_scalar,
};

const struct pkvi_kernels* pkvi_kernels_find(const char* isa) {
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (isa != NULL && strcmp(isa, levels[i]->isa) != 0) continue;
        if (levels[i]->is_supported()) return levels[i];
    }
    return NULL;
}

bool pkvi_isa_known(const char* isa) {
    return pkvi_kernels_find(isa) != NULL;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Reserve `bytes` that begin on a huge page: more is mapped than needed and the rest given back. */
static void* map_aligned(uint64_t bytes) {
    const uint64_t slack = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    if (bytes > SIZE_MAX - slack) return MAP_FAILED;
    unsigned char* memory =
        mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || slack == 0) return memory;
    const uint64_t before = -(uintptr_t)memory % HUGE_PAGE_BYTES;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t used = (before + bytes + page - 1) / page * page;
    if (before > 0) munmap(memory, before);
    if (used < bytes + slack) munmap(memory + used, bytes + slack - used);
    return memory + before;
}

/* Anonymous pages are zeroed, cost nothing until touched, and may become huge pages, which halve
 * the price of reading blocks in random order. */
static int map_zeroed(uint64_t bytes, void** base) {
    void* memory = map_aligned(bytes);
    if (memory == MAP_FAILED) return PKV_ENOMEM;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE); /* advice: refusal is fine */
#endif
    *base = memory;
    return PKV_OK;
}

static int host_alloc(struct pkvi_device* device, uint64_t bytes, void** base) {
    PKVI_TRY(pkvi_fault_check(host_of(device)->faults, PKVI_FAULT_DEVICE_ALLOC));
    return map_zeroed(bytes, base);
}

static int host_alloc_host(struct pkvi_device* device, uint64_t bytes, void** base) {
    PKVI_TRY(pkvi_fault_check(host_of(device)->faults, PKVI_FAULT_DEVICE_HOST_ALLOC));
    return map_zeroed(bytes, base);
}

static void host_free(struct pkvi_device* device, void* base, uint64_t bytes) {
    (void)device;
    munmap(base, bytes);
}

/* The system takes whole pages; what is left of others is zeroed by hand. */
static int host_release(struct pkvi_device* device, void* memory, uint64_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = (uintptr_t)memory;
    const uintptr_t first = (begin + page - 1) / page * page;
    const uintptr_t last = (begin + bytes) / page * page;
    PKVI_TRY(pkvi_fault_check(host_of(device)->faults, PKVI_FAULT_ARENA_RESIZE));
    memset(memory, 0, last > first ? first - begin : bytes);
    if (last <= first) return PKV_OK;
    memset((void*)last, 0, begin + bytes - last); /* NOLINT */
    return madvise((void*)first, last - first, MADV_DONTNEED) == 0 ? PKV_OK : PKV_EIO;
}

/* A ticket is the status of the finished copy as a positive number. */
static int host_copy(struct pkvi_device* device, const struct pkvi_copy_job* job,
                     uint64_t* ticket) {
    struct host* host = host_of(device);
    PKVI_TRY(pkvi_fault_check(host->faults, PKVI_FAULT_DEVICE_COPY_SUBMIT));
    pkvi_copy_run(job);
    const struct pkvi_fault fault = pkvi_fault_visit(host->faults, PKVI_FAULT_DEVICE_COPY_DONE);
    if (fault.action == PKVI_ACT_DELAY) pkvi_clock_sleep(host->clock, fault.argument);
    if (pkvi_ending_is_damage(fault)) *pkvi_copy_at(job, fault.random % job->bytes) ^= 1;
    *ticket = (uint64_t)-pkvi_ending_status(fault);
    return PKV_OK;
}

static int host_wait(struct pkvi_device* device, uint64_t ticket) {
    (void)device;
    return -(int)ticket;
}

static int host_zero(struct pkvi_device* device, void* to, uint64_t bytes) {
    PKVI_TRY(pkvi_fault_check(host_of(device)->faults, PKVI_FAULT_DEVICE_ZERO));
    memset(to, 0, bytes);
    return PKV_OK;
}

/* ---- Transfers ------------------------------------------------------------------------------- */

static int host_transfer(struct pkvi_device* device, const struct pkvi_transfer_job* job) {
    struct host* host = host_of(device);
    PKVI_TRY(pkvi_fault_check(host->faults, PKVI_FAULT_DEVICE_TRANSFER_SUBMIT));
    pkvi_transfer_list_fill(&host->transfers[job->index], job);
    return PKV_OK;
}

/* One that is to fail does so in its middle. */
static uint32_t end_of(const struct pkvi_transfer_list* list) {
    return list->fate.fault.action == PKVI_ACT_RETURN ? list->count / 2 : list->count;
}

static int finish_transfer(struct host* host, const struct pkvi_transfer_list* list) {
    const struct pkvi_fault fault = list->fate.fault;
    if (fault.action == PKVI_ACT_DELAY) pkvi_clock_sleep(host->clock, fault.argument);
    if (pkvi_ending_is_damage(fault))
        pkvi_transfer_list_corrupt(list, fault.argument, fault.random);
    return pkvi_ending_status(fault);
}

static int host_transfer_poll(struct pkvi_device* device, uint32_t index, bool* has_ended) {
    struct host* host = host_of(device);
    struct pkvi_transfer_list* list = &host->transfers[index];
    *has_ended = false;
    if (pkvi_transfer_learn(&list->fate, host->faults).action == PKVI_ACT_DROP) return PKV_OK;
    pkvi_transfer_list_copy(list, end_of(list), POLL_BYTES);
    *has_ended = list->done == end_of(list);
    return *has_ended ? finish_transfer(host, list) : PKV_OK;
}

static int host_transfer_wait(struct pkvi_device* device, uint32_t index) {
    struct host* host = host_of(device);
    struct pkvi_transfer_list* list = &host->transfers[index];
    if (pkvi_transfer_learn(&list->fate, host->faults).action == PKVI_ACT_DROP)
        return PKV_ETIMEDOUT;
    pkvi_transfer_list_copy(list, end_of(list), UINT64_MAX);
    return finish_transfer(host, list);
}

static void host_transfer_cancel(struct pkvi_device* device, uint32_t index) {
    (void)device; /* nobody copies who is not called */
    (void)index;
}

/* ---- K/V ------------------------------------------------------------------------------------- */

static int host_write(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    struct host* host = host_of(device);
    PKVI_TRY(pkvi_fault_check(host->faults, PKVI_FAULT_DEVICE_WRITE));
    return pkvi_packed_write(job, host->kernels, host->threads, host->thread_count);
}

static int host_read(struct pkvi_device* device, const struct pkvi_kv_job* job) {
    PKVI_TRY(pkvi_fault_check(host_of(device)->faults, PKVI_FAULT_DEVICE_READ));
    pkvi_packed_read(job);
    return PKV_OK;
}

static int host_attend(struct pkvi_device* device, const struct pkvi_attend_job* job) {
    struct host* host = host_of(device);
    PKVI_TRY(pkvi_fault_check(host->faults, PKVI_FAULT_DEVICE_ATTEND));
    return pkvi_attender_run(host->attender, job);
}

static int host_move(struct pkvi_device* device, const struct pkvi_move_job* job) {
    PKVI_TRY(pkvi_fault_check(host_of(device)->faults, PKVI_FAULT_DEVICE_MOVE));
    pkvi_packed_move(job);
    return PKV_OK;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void host_close(struct pkvi_device* device) {
    struct host* host = host_of(device);
    struct pkvi_mem* mem = host->mem;
    pkvi_transfer_lists_close(host->transfers, mem);
    pkvi_attender_close(host->attender, mem);
    pkvi_threads_close(host->threads, mem);
    pkvi_mem_give(mem, host);
}

static const struct pkvi_device_ops host_ops = {
    .name = "cpu",
    .alloc = host_alloc,
    .free = host_free,
    .release = host_release,
    .copy = host_copy,
    .wait = host_wait,
    .zero = host_zero,
    .write = host_write,
    .read = host_read,
    .attend = host_attend,
    .move = host_move,
    .alloc_host = host_alloc_host,
    .free_host = host_free,
    .transfer = host_transfer,
    .transfer_poll = host_transfer_poll,
    .transfer_wait = host_transfer_wait,
    .transfer_cancel = host_transfer_cancel,
    .close = host_close,
};

/* What computing and moving needs. */
static int open_parts(struct host* host, const struct pkvi_device_config* config) {
    PKVI_TRY(pkvi_threads_open(&host->threads, config->mem, config->faults, config->threads,
                               config->parallel));
    PKVI_TRY(pkvi_attender_open(&host->attender, config, host->kernels, host->threads));
    return pkvi_transfer_lists_open(config, &host->transfers);
}

int pkvi_host_open(const struct pkvi_device_config* config, struct pkvi_device** device) {
    const struct pkvi_kernels* kernels = pkvi_kernels_find(config->isa);
    if (kernels == NULL) return PKV_ENOTSUP;
    struct host* host;
    PKVI_TRY(pkvi_mem_take(config->mem, 1, sizeof *host, (void**)&host));
    host->device = (struct pkvi_device){.ops = &host_ops, .isa = kernels->isa};
    host->mem = config->mem;
    host->faults = config->faults;
    host->clock = config->clock;
    host->kernels = kernels;
    host->thread_count = config->threads;
    const int status = config->memory_only ? PKV_OK : open_parts(host, config);
    if (status != PKV_OK) {
        host_close(&host->device);
        return status;
    }
    *device = &host->device;
    return PKV_OK;
}
