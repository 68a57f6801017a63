/* The thread pool. A job is a range that the threads take in pieces; which thread takes which piece never matters to the result. Each
 * begins with its own share of the range, the same in every job over the same rows, so that what it reads is what it wrote before and still
 * in its cache; then it helps with the others'. Pieces are halves of what is left of a share, so that the last ones are short and all
 * threads end at nearly the same time. The share with the image to begin with is a ring that starts there. Workers join a job while it is
 * open. The caller works too, closes the job when no piece is left and waits only for those that joined, so a worker that the system did
 * not wake in time costs nothing. Workers spin a little between jobs, because a step is many short ones, then sleep. */
#include "runtime/runtime.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* How often a thread looks before it sleeps: where every thread has a core, and where a waiting one keeps others from theirs. */
enum { SPINS = 20000, FEW_SPINS = 1000, PIECES = 16 };

/* The state of the job: its number, above one bit for open, above the number of workers in it. */
#define WORKERS UINT64_C(0x7fff)
#define OPEN UINT64_C(0x8000)
#define NUMBER_SHIFT 16

/* One thread's part of the job, on a cache line of its own: [begin, end), from `first` on and then from `begin`. */
struct share {
    _Alignas(64) atomic_int_fast64_t taken;
    int64_t begin, end, first;
};

/* What the threads do tiles of. */
typedef struct {
    intc_kernel *kernel;
    const void *places;
    unsigned char *arena;
} Job;

struct intc_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    atomic_uint_fast64_t job;
    atomic_int_fast64_t waiting; /* workers that sleep; changed under the lock */
    atomic_bool stop;
    Job current;
    int64_t least;   /* tiles of a piece */
    int64_t threads; /* that share the job */
    int spins;
    int64_t workers;
    pthread_t *thread;
    atomic_int_fast64_t started; /* workers that have a number */
    struct share share[];        /* of the caller, then of each worker */
};

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* `count` tiles of [begin, end), the one at `from` first, those behind the end from `begin` on. */
static void run_ring(const Job *job, int64_t slot, const struct share *ring, int64_t from, int64_t count) {
    int64_t first = count < ring->end - from ? count : ring->end - from;
    job->kernel(job->arena, job->places, from, from + first, slot);
    if (first < count)
        job->kernel(job->arena, job->places, ring->begin, ring->begin + count - first, slot);
}

static void work_on(struct intc_pool *pool, struct share *share, int64_t self) {
    int64_t size = share->end - share->begin, taken = atomic_load_explicit(&share->taken, memory_order_relaxed);
    while (taken < size) {
        int64_t left = size - taken, piece = (left + 1) / 2;
        piece = piece > pool->least ? piece : pool->least < left ? pool->least : left;
        if (!atomic_compare_exchange_weak_explicit(&share->taken, &taken, taken + piece, memory_order_relaxed, memory_order_relaxed))
            continue;
        int64_t from = share->first + taken;
        run_ring(&pool->current, self, share, from < share->end ? from : from - size, piece);
        taken = atomic_load_explicit(&share->taken, memory_order_relaxed);
    }
}

static void work(struct intc_pool *pool, int64_t self) {
    for (int64_t i = 0; i < pool->threads && self < pool->threads; i++)
        work_on(pool, &pool->share[(self + i) % pool->threads], self);
}

/* Whether there is a job (or the end) that this worker has not seen. */
static bool has_news(struct intc_pool *pool, uint64_t seen) {
    uint64_t job = atomic_load(&pool->job);
    return ((job & OPEN) && job >> NUMBER_SHIFT != seen) || atomic_load(&pool->stop);
}

static void wait_for_news(struct intc_pool *pool, uint64_t seen) {
    for (int i = 0; i < pool->spins; i++) {
        if (has_news(pool, seen))
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->waiting, 1);
    while (!has_news(pool, seen))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->waiting, 1);
    pthread_mutex_unlock(&pool->lock);
}

/* Joins the open job; false if it was closed meanwhile. */
static bool join_job(struct intc_pool *pool, uint64_t *seen) {
    uint64_t job = atomic_load_explicit(&pool->job, memory_order_acquire);
    while (job & OPEN)
        if (atomic_compare_exchange_weak_explicit(&pool->job, &job, job + 1, memory_order_acq_rel, memory_order_acquire)) {
            *seen = job >> NUMBER_SHIFT;
            return true;
        }
    return false;
}

static void leave_job(struct intc_pool *pool) {
    uint64_t job = atomic_fetch_sub_explicit(&pool->job, 1, memory_order_acq_rel) - 1;
    if (job & (OPEN | WORKERS))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker(void *argument) {
    struct intc_pool *pool = argument;
    int64_t self = atomic_fetch_add(&pool->started, 1) + 1;
    uint64_t seen = 0;
    for (;;) {
        wait_for_news(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_acquire))
            return NULL;
        if (join_job(pool, &seen)) {
            work(pool, self);
            leave_job(pool);
        }
    }
}

static void wake_workers(struct intc_pool *pool) {
    /* Sequentially consistent with the worker's own order: it counts itself as waiting before it looks for news a last time. */
    if (atomic_load(&pool->waiting) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void close_job(struct intc_pool *pool) {
    atomic_fetch_and_explicit(&pool->job, ~OPEN, memory_order_acq_rel);
    for (int i = 0; i < pool->spins; i++) {
        if ((atomic_load_explicit(&pool->job, memory_order_acquire) & WORKERS) == 0)
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->job, memory_order_acquire) & WORKERS)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

/* At most so many threads do the tiles, beginning with `first`. */
static void run_job(struct intc_pool *pool, const Job *job, int64_t tiles, int64_t most, int64_t first) {
    if (!pool || most <= 1 || tiles <= 1) {
        run_ring(job, 0, &(struct share){.end = tiles}, first, tiles);
        return;
    }
    int64_t threads = pool->workers + 1 < most ? pool->workers + 1 : most;
    pool->current = *job;
    pool->threads = threads;
    pool->least = (tiles - 1) / (threads * PIECES) + 1;
    for (int64_t i = 0; i < threads; i++) {
        struct share *share = &pool->share[i];
        share->begin = tiles * i / threads;
        share->end = tiles * (i + 1) / threads;
        share->first = first >= share->begin && first < share->end ? first : share->begin;
        atomic_store_explicit(&share->taken, 0, memory_order_relaxed);
    }
    uint64_t number = (atomic_load_explicit(&pool->job, memory_order_relaxed) >> NUMBER_SHIFT) + 1;
    atomic_store(&pool->job, number << NUMBER_SHIFT | OPEN);
    wake_workers(pool);
    work(pool, 0);
    close_job(pool);
}

void intc_rt_run(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image) {
    int64_t first = image < call->images ? image * call->tiles / call->images : 0;
    run_job(pool, &(Job){intc_call_kernel(call), intc_call_places(call), arena}, call->tiles, call->threads, first);
}

void intc_rt_share_out(struct intc_pool *pool, intc_kernel *kernel, const void *context, int64_t tiles) {
    run_job(pool, &(Job){kernel, context, NULL}, tiles, INT16_MAX, 0);
}

CallObserver *intc_rt_observer;

void intc_rt_call(struct intc_pool *pool, const struct intc_call *call, unsigned char *arena, int64_t image) {
    if (intc_rt_observer)
        intc_rt_observer(pool, call, arena, image);
    else
        intc_rt_run(pool, call, arena, image);
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
    size_t size = sizeof(struct intc_pool) + (size_t)threads * sizeof(struct share);
    struct intc_pool *pool = aligned_alloc(_Alignof(struct intc_pool), size);
    if (!pool)
        return NULL;
    memset(pool, 0, size);
    pool->thread = calloc((size_t)threads, sizeof *pool->thread);
    if (!pool->thread) {
        free(pool);
        return NULL;
    }
    pool->spins = threads <= intc_rt_cores() ? SPINS : FEW_SPINS;
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
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int64_t i = 0; i < pool->workers; i++)
        pthread_join(pool->thread[i], NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    free(pool->thread);
    free(pool);
}
