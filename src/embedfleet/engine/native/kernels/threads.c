#include "threads.h"

#include <immintrin.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks at a word before a thread goes to sleep: some ten microseconds, which is about what falling
 * asleep and being woken costs. Steps of a pass are far shorter apart than passes. */
#define LOOKS 500

struct Pool {
    int threads, started;
    pthread_t *handles;
    Work *work;
    void *context;
    atomic_int jobs;    /* counts up when there is work */
    atomic_int open;    /* whether the work may still be begun */
    atomic_int entered; /* how often, since ever, and how often left */
    atomic_int left;
    atomic_int closing;
};

typedef struct {
    Pool *pool;
    int thread;
} Worker;

/* The word's value when it is no longer `value`. */
static int other_than(atomic_int *word, int value)
{
    int found = atomic_load(word);
    for (int look = 0; found == value && look < LOOKS; look++) {
        _mm_pause();
        found = atomic_load(word);
    }
    while (found == value) {
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
        found = atomic_load(word);
    }
    return found;
}

static void wake(atomic_int *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

int step_take(Step *step, int count, int size, int *first)
{
    /* Looked at first: a thread that comes late would count it up for nothing. */
    if (atomic_load(&step->taken) >= count)
        return 0;
    *first = atomic_fetch_add(&step->taken, size);
    if (*first >= count)
        return 0;
    return count - *first < size ? count - *first : size;
}

void step_did(Step *step, int count, int things)
{
    if (atomic_fetch_add(&step->done, things) + things == count)
        wake(&step->done);
}

void step_wait(Step *step, int count)
{
    int done = atomic_load(&step->done);
    while (done < count)
        done = other_than(&step->done, done);
}

static void *work_on(void *argument)
{
    Worker worker = *(Worker *)argument;
    Pool *pool = worker.pool;
    free(argument);
    for (int seen = 0;;) {
        seen = other_than(&pool->jobs, seen);
        if (atomic_load(&pool->closing))
            return NULL;
        /* Entered first and looked after: the caller shuts first and counts after. */
        atomic_fetch_add(&pool->entered, 1);
        if (atomic_load(&pool->open))
            pool->work(pool->context, worker.thread);
        atomic_fetch_add(&pool->left, 1);
        wake(&pool->left);
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
    if (pool->threads > 1) {
        atomic_store(&pool->open, 1);
        atomic_fetch_add(&pool->jobs, 1);
        wake(&pool->jobs);
    }
    work(context, 0);
    atomic_store(&pool->open, 0);
    int left = atomic_load(&pool->left);
    while (left != atomic_load(&pool->entered))
        left = other_than(&pool->left, left);
}

void pool_close(Pool *pool)
{
    atomic_store(&pool->closing, 1);
    atomic_fetch_add(&pool->jobs, 1);
    wake(&pool->jobs);
    for (int thread = 1; thread <= pool->started; thread++)
        pthread_join(pool->handles[thread], NULL);
    free(pool->handles);
    free(pool);
}
