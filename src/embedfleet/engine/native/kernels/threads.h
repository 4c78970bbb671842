/* Threads that take steps together. A step is a number of things to do; whoever is free takes the
 * next few, and all go on when all things are done, and not when all threads have come: a thread
 * that the machine holds up delays nobody. Nothing here knows what is done. */

#ifndef EMBEDFLEET_THREADS_H
#define EMBEDFLEET_THREADS_H

#include <stdatomic.h>

typedef struct Pool Pool;
typedef void Work(void *context, int thread);

/* The caller is the first of `threads`. NULL when they are not to be had. */
Pool *pool_open(int threads);

/* Every thread that comes in time does `work`, the caller does; returns when nobody does any more.
 * A thread may come more than once. */
void pool_run(Pool *pool, Work *work, void *context);
void pool_close(Pool *pool);

/* Zero at first; good for one step. */
typedef struct {
    atomic_int taken, done;
} Step;

/* Take up to `size` of `count` things: how many, from *first on. 0 when all are taken. */
int step_take(Step *step, int count, int size, int *first);

/* Say that `things` taken ones are done. */
void step_did(Step *step, int count, int things);

/* Wait until all are. */
void step_wait(Step *step, int count);

#endif
