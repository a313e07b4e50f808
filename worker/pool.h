/* The compute threads: run independent items, several at once, one thread each.
 */
#ifndef KD_WORKER_POOL_H
#define KD_WORKER_POOL_H

#include "kd/err.h"

typedef struct kd_pool kd_pool;
/* Each thread has called kd_engine_thread(). cores [threads]: the CPU that each thread stays on;
 * NULL = where the system puts it. -KD_ELIMIT: no more threads; -KD_EINVAL: a CPU that this process
 * may not use. */
int kd_pool_new(int threads, const int *cores, kd_pool **out, kd_diag *diag) KD_MUST_CHECK;
void kd_pool_free(kd_pool *p); /* waits for what runs */
int kd_pool_threads(const kd_pool *p);
/* Starts fn(arg, item, thread) for items 0..n-1, handed out in order. One batch
 * at a time: waits for the one before. */
typedef void (*kd_pool_fn)(void *arg, int item, int thread);
void kd_pool_start(kd_pool *p, int n, kd_pool_fn fn, void *arg);
void kd_pool_wait(kd_pool *p);
/* Items not yet begun are dropped; wait as usual. Returns how many. */
int kd_pool_drop(kd_pool *p);

#endif
