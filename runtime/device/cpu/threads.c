/* threads.c - see threads.h.
 *
 * A job is published under the lock with a new number; sleeping threads wake, take indices from a
 * shared counter until none is left, and report back. The caller does the same and then waits for
 * the last one. Waking costs some microseconds, so that a job of a single index is run by the
 * caller alone. */
#include "device/cpu/threads.h"

#include <pthread.h>

struct pkvi_threads {
    pkv_parallel_hook hook;
    pthread_mutex_t turn; /* held by the caller whose job runs */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;  /* a job was published, or stop was set */
    pthread_cond_t done;  /* the last worker has left the job */
    uint64_t job;         /* number of the newest job */
    uint32_t inside;      /* workers that are in it */
    bool stop;
    uint32_t count;
    void (*task)(void* arg, uint32_t index);
    void* arg;
    _Atomic uint32_t next;
    uint32_t worker_count;
    pthread_t workers[]; /* [worker_count] */
};

static void run_indices(struct pkvi_threads* threads) {
    for (;;) {
        const uint32_t index = atomic_fetch_add_explicit(&threads->next, 1, memory_order_relaxed);
        if (index >= threads->count) return;
        threads->task(threads->arg, index);
    }
}

static void* worker_main(void* arg) {
    struct pkvi_threads* threads = arg;
    uint64_t seen = 0;
    pthread_mutex_lock(&threads->lock);
    for (;;) {
        while (threads->job == seen && !threads->stop)
            pthread_cond_wait(&threads->work, &threads->lock);
        if (threads->stop) break;
        seen = threads->job;
        threads->inside++;
        pthread_mutex_unlock(&threads->lock);
        run_indices(threads);
        pthread_mutex_lock(&threads->lock);
        if (--threads->inside == 0) pthread_cond_signal(&threads->done);
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

void pkvi_threads_run(struct pkvi_threads* threads, uint32_t count,
                      void (*task)(void* arg, uint32_t index), void* arg) {
    if (threads->hook.run != NULL) {
        threads->hook.run(threads->hook.ctx, count, task, arg);
        return;
    }
    if (threads->worker_count == 0 || count == 1) {
        for (uint32_t index = 0; index < count; index++)
            task(arg, index);
        return;
    }
    pthread_mutex_lock(&threads->turn);
    pthread_mutex_lock(&threads->lock);
    while (threads->inside > 0) /* a worker woke late and is leaving the last job */
        pthread_cond_wait(&threads->done, &threads->lock);
    threads->task = task;
    threads->arg = arg;
    threads->count = count;
    atomic_store_explicit(&threads->next, 0, memory_order_relaxed);
    threads->job++;
    pthread_cond_broadcast(&threads->work);
    pthread_mutex_unlock(&threads->lock);

    run_indices(threads);

    pthread_mutex_lock(&threads->lock);
    while (threads->inside > 0)
        pthread_cond_wait(&threads->done, &threads->lock);
    pthread_mutex_unlock(&threads->lock);
    pthread_mutex_unlock(&threads->turn);
}

static void stop_workers(struct pkvi_threads* threads) {
    pthread_mutex_lock(&threads->lock);
    threads->stop = true;
    pthread_cond_broadcast(&threads->work);
    pthread_mutex_unlock(&threads->lock);
    for (uint32_t i = 0; i < threads->worker_count; i++)
        pthread_join(threads->workers[i], NULL);
}

void pkvi_threads_close(struct pkvi_threads* threads, struct pkvi_mem* mem) {
    if (threads == NULL) return;
    stop_workers(threads);
    pthread_cond_destroy(&threads->done);
    pthread_cond_destroy(&threads->work);
    pthread_mutex_destroy(&threads->lock);
    pthread_mutex_destroy(&threads->turn);
    pkvi_mem_give(mem, threads);
}

static int start_worker(struct pkvi_threads* threads, struct pkvi_faults* faults) {
    PKVI_TRY(pkvi_fault_check(faults, PKVI_FAULT_THREAD_CREATE));
    pthread_t* worker = &threads->workers[threads->worker_count];
    if (pthread_create(worker, NULL, worker_main, threads) != 0) return PKV_EIO;
    threads->worker_count++;
    return PKV_OK;
}

int pkvi_threads_open(struct pkvi_threads** threads, struct pkvi_mem* mem,
                      struct pkvi_faults* faults, uint32_t count, pkv_parallel_hook hook) {
    const uint32_t workers = hook.run == NULL ? count - 1 : 0;
    struct pkvi_threads* opened;
    PKVI_TRY(
        pkvi_mem_take(mem, 1, sizeof *opened + workers * sizeof *opened->workers, (void**)&opened));
    opened->hook = hook;
    pthread_mutex_init(&opened->turn, NULL);
    pthread_mutex_init(&opened->lock, NULL);
    pthread_cond_init(&opened->work, NULL);
    pthread_cond_init(&opened->done, NULL);
    for (uint32_t i = 0; i < workers; i++) {
        const int status = start_worker(opened, faults);
        if (status == PKV_OK) continue;
        pkvi_threads_close(opened, mem);
        return status;
    }
    *threads = opened;
    return PKV_OK;
}
