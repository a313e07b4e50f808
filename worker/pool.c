#include "pool.h"

#include "engine/plan.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

struct kd_pool {
    pthread_t *threads;
    int n_threads;
    pthread_mutex_t mu; /* guards all below */
    pthread_cond_t work, idle;
    bool leaving;
    int next, n, running;
    kd_pool_fn fn;
    void *arg;
};

struct start {
    kd_pool *pool;
    int index;
};

static void *run(void *arg)
{
    struct start s = *(struct start *)arg;
    kd_pool *p = s.pool;
    free(arg);
    kd_engine_thread();
    pthread_mutex_lock(&p->mu);
    for (;;) {
        while (!p->leaving && p->next >= p->n)
            pthread_cond_wait(&p->work, &p->mu);
        if (p->leaving)
            break;
        int item = p->next++;
        p->running++;
        pthread_mutex_unlock(&p->mu);
        p->fn(p->arg, item, s.index);
        pthread_mutex_lock(&p->mu);
        p->running--;
        if (p->running == 0 && p->next >= p->n)
            pthread_cond_broadcast(&p->idle);
    }
    pthread_mutex_unlock(&p->mu);
    return NULL;
}

static int keep_on(pthread_t thread, int core, kd_diag *diag)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    if (pthread_setaffinity_np(thread, sizeof set, &set) != 0)
        return kd_fail(diag, -KD_EINVAL, "no thread of this process may run on CPU %d", core);
    return 0;
}

int kd_pool_new(int threads, const int *cores, kd_pool **out, kd_diag *diag)
{
    kd_pool *p = kd_xalloc(sizeof *p);
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->idle, NULL);
    p->threads = kd_xalloc((size_t)threads * sizeof *p->threads);
    while (p->n_threads < threads) {
        struct start *s = kd_xalloc(sizeof *s);
        *s = (struct start){p, p->n_threads};
        if (pthread_create(&p->threads[p->n_threads], NULL, run, s) != 0) {
            const int n = p->n_threads;
            free(s);
            kd_pool_free(p);
            return kd_fail(diag, -KD_ELIMIT, "the system gives no more threads than %d", n);
        }
        p->n_threads++;
    }
    int rc = 0;
    for (int i = 0; cores && rc == 0 && i < threads; i++)
        rc = keep_on(p->threads[i], cores[i], diag);
    if (rc != 0)
        kd_pool_free(p);
    else
        *out = p;
    return rc;
}

void kd_pool_free(kd_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->mu);
    p->leaving = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mu);
    for (int i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_mutex_destroy(&p->mu);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->idle);
    free(p->threads);
    free(p);
}

int kd_pool_threads(const kd_pool *p)
{
    return p->n_threads;
}

static void wait_idle(kd_pool *p)
{
    while (p->running > 0 || p->next < p->n)
        pthread_cond_wait(&p->idle, &p->mu);
}

void kd_pool_start(kd_pool *p, int n, kd_pool_fn fn, void *arg)
{
    pthread_mutex_lock(&p->mu);
    wait_idle(p);
    p->next = 0;
    p->n = n;
    p->fn = fn;
    p->arg = arg;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mu);
}

void kd_pool_wait(kd_pool *p)
{
    pthread_mutex_lock(&p->mu);
    wait_idle(p);
    pthread_mutex_unlock(&p->mu);
}

int kd_pool_drop(kd_pool *p)
{
    pthread_mutex_lock(&p->mu);
    int dropped = p->n - p->next;
    p->next = p->n;
    if (p->running == 0)
        pthread_cond_broadcast(&p->idle);
    pthread_mutex_unlock(&p->mu);
    return dropped;
}
