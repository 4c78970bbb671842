/* Threads that work on one thing together and wait for each other. Nothing here knows what on. */

#ifndef EMBEDFLEET_THREADS_H
#define EMBEDFLEET_THREADS_H

typedef struct Pool Pool;
typedef void Work(void *context, int thread);

/* The caller is the first of `threads`. NULL when they are not to be had. */
Pool *pool_open(int threads);

/* Every thread does `work`; returns when all have. */
void pool_run(Pool *pool, Work *work, void *context);

/* Called by all threads within `work`: none goes on before the last has come. */
void pool_wait(Pool *pool);

void pool_close(Pool *pool);

#endif
