/* threads.h - a fixed set of threads that run the same task over a range of indices.
 *
 * Why     Creating threads per call costs more than a decode step of a small model. The threads are
 *         made with the device and sleep between jobs.
 * Holds   H1  pkvi_threads_run returns when every index has been run, exactly once
 *         H2  the caller takes part, so that `count` threads means count - 1 of our own
 * Threads one job at a time; a second caller waits. Which thread runs which index is not defined:
 * tasks
 *         must not depend on it. */
#ifndef PKVI_DEVICE_CPU_THREADS_H
#define PKVI_DEVICE_CPU_THREADS_H

#include "base/mem.h"

struct pkvi_threads;

/* `hook.run` not NULL: jobs go to the application's threads and none are created.
 * Errors  PKV_ENOMEM, PKV_EIO (the system gave no thread), or the fault point thread.create. */
int pkvi_threads_open(struct pkvi_threads** threads, struct pkvi_mem* mem,
                      struct pkvi_faults* faults, uint32_t count, pkv_parallel_hook hook);
void pkvi_threads_close(struct pkvi_threads* threads, struct pkvi_mem* mem);

void pkvi_threads_run(struct pkvi_threads* threads, uint32_t count,
                      void (*task)(void* arg, uint32_t index), void* arg);

#endif
