/* The thread pool. A job is a range that the threads take in pieces; which thread takes which piece never matters to the result.
 * Workers spin a little between jobs, because a step is many short ones, then sleep. */
#include "runtime/runtime.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 3000, PIECES = 4 };

struct intc_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    atomic_uint_fast64_t generation; /* number of jobs begun; changed under the lock */
    atomic_int_fast64_t next, running;
    atomic_bool stop;
    intc_kernel *kernel;
    unsigned char *arena;
    int64_t count, piece;
    int64_t workers;
    pthread_t thread[];
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void work(struct intc_pool *pool) {
    for (;;) {
        int64_t begin = atomic_fetch_add_explicit(&pool->next, pool->piece, memory_order_relaxed);
        if (begin >= pool->count)
            return;
        int64_t end = pool->count - begin < pool->piece ? pool->count : begin + pool->piece;
        pool->kernel(pool->arena, begin, end);
    }
}

static uint64_t wait_for_job(struct intc_pool *pool, uint64_t seen) {
    for (int i = 0; i < SPINS; i++) {
        uint64_t now = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (now != seen)
            return now;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    uint64_t now;
    while ((now = atomic_load_explicit(&pool->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&pool->wake, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return now;
}

static void *worker(void *argument) {
    struct intc_pool *pool = argument;
    uint64_t seen = 0;
    for (;;) {
        seen = wait_for_job(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_acquire))
            return NULL;
        work(pool);
        if (atomic_fetch_sub_explicit(&pool->running, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void begin_job(struct intc_pool *pool) {
    atomic_store_explicit(&pool->running, pool->workers, memory_order_relaxed);
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void wait_for_workers(struct intc_pool *pool) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->running, memory_order_acquire) == 0)
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->running, memory_order_acquire) != 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void intc_rt_parallel(struct intc_pool *pool, intc_kernel *kernel, unsigned char *arena, int64_t count) {
    if (count <= 0)
        return;
    if (!pool || count == 1) {
        kernel(arena, 0, count);
        return;
    }
    pool->kernel = kernel;
    pool->arena = arena;
    pool->count = count;
    pool->piece = (count - 1) / ((pool->workers + 1) * PIECES) + 1;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    begin_job(pool);
    work(pool);
    wait_for_workers(pool);
}

int64_t intc_rt_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set);
}

struct intc_pool *intc_rt_pool_new(int64_t threads) {
    if (threads <= 1)
        return NULL;
    struct intc_pool *pool = calloc(1, sizeof *pool + (size_t)(threads - 1) * sizeof pool->thread[0]);
    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    while (pool->workers < threads - 1 && pthread_create(&pool->thread[pool->workers], NULL, worker, pool) == 0)
        pool->workers++;
    return pool;
}

void intc_rt_pool_free(struct intc_pool *pool) {
    if (!pool)
        return;
    atomic_store_explicit(&pool->stop, true, memory_order_release);
    begin_job(pool);
    for (int64_t i = 0; i < pool->workers; i++)
        pthread_join(pool->thread[i], NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    free(pool);
}
