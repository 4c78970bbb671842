#include "threads.h"

#include <immintrin.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks at a flag before a thread goes to sleep: some ten microseconds, which is about what falling
 * asleep and being woken costs. Steps of a pass are far shorter apart than passes. */
#define LOOKS 500

struct Pool {
    int threads, started;
    pthread_t *handles;
    Work *work;
    void *context;
    int closing;
    atomic_int jobs;     /* counts up when there is work */
    atomic_int arrived;  /* threads at the barrier */
    atomic_int barriers; /* counts up when all have come */
};

typedef struct {
    Pool *pool;
    int thread;
} Worker;

static void sleep_while(atomic_int *word, int value)
{
    for (int look = 0; look < LOOKS; look++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value)
            return;
        _mm_pause();
    }
    while (atomic_load_explicit(word, memory_order_acquire) == value)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void count_up(atomic_int *word)
{
    atomic_fetch_add_explicit(word, 1, memory_order_acq_rel);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void *work_on(void *argument)
{
    Worker worker = *(Worker *)argument;
    Pool *pool = worker.pool;
    free(argument);
    for (int seen = 0;; seen++) {
        sleep_while(&pool->jobs, seen);
        if (pool->closing)
            return NULL;
        pool->work(pool->context, worker.thread);
        pool_wait(pool);
    }
}

static int start_workers(Pool *pool)
{
    for (int thread = 1; thread < pool->threads; thread++) {
        Worker *worker = malloc(sizeof *worker);
        if (!worker)
            return -1;
        *worker = (Worker){pool, thread};
        if (pthread_create(&pool->handles[thread], NULL, work_on, worker)) {
            free(worker);
            return -1;
        }
        pool->started = thread;
    }
    return 0;
}

Pool *pool_open(int threads)
{
    Pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->threads = threads;
    pool->handles = calloc((size_t)threads, sizeof *pool->handles);
    /* Signals are for the threads of Python. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = !pool->handles || start_workers(pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        pool_close(pool);
        return NULL;
    }
    return pool;
}

void pool_run(Pool *pool, Work *work, void *context)
{
    pool->work = work;
    pool->context = context;
    if (pool->threads > 1)
        count_up(&pool->jobs);
    work(context, 0);
    pool_wait(pool);
}

void pool_wait(Pool *pool)
{
    if (pool->threads == 1)
        return;
    int barrier = atomic_load_explicit(&pool->barriers, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) == pool->threads - 1) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        count_up(&pool->barriers);
    } else {
        sleep_while(&pool->barriers, barrier);
    }
}

void pool_close(Pool *pool)
{
    pool->closing = 1;
    count_up(&pool->jobs);
    for (int thread = 1; thread <= pool->started; thread++)
        pthread_join(pool->handles[thread], NULL);
    free(pool->handles);
    free(pool);
}
