#include "lanes.h"

#include "output.h"
#include "progress.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

typedef struct run {
    const kd_predictor *p;
    size_t n;
    kd_lane_fn *fn;
    void *arg;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    /* guarded by mu */
    size_t next, done;
    int working; /* threads that have not ended */
    bool stop;
    kd_diag why; /* of the first that failed */
} run;

static void fail(run *r, const kd_diag *diag)
{
    if (r->why.code == 0)
        r->why = *diag;
    r->stop = true;
}

static void *work(void *arg)
{
    run *r = arg;
    kd_diag diag = {0};
    kd_predict_lane lane;
    kd_engine_thread();
    const bool begun = kd_predict_lane_init(&lane, r->p, &diag) == 0;
    pthread_mutex_lock(&r->mu);
    if (!begun)
        fail(r, &diag);
    while (!r->stop && r->next < r->n) {
        const size_t item = r->next++;
        pthread_mutex_unlock(&r->mu);
        diag = (kd_diag){0};
        const int rc = r->fn(r->arg, &lane, item, &diag);
        pthread_mutex_lock(&r->mu);
        r->done++;
        if (rc != 0)
            fail(r, &diag);
    }
    r->working--;
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->mu);
    if (begun)
        kd_predict_lane_clear(&lane);
    return NULL;
}

void kd_lanes_wait(pthread_cond_t *cond, pthread_mutex_t *mu)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(cond, mu, &until);
}

static void watch(run *r, kd_bar *bar)
{
    pthread_mutex_lock(&r->mu);
    while (r->working > 0) {
        kd_lanes_wait(&r->cond, &r->mu);
        if (kd_cli_signal() != 0)
            r->stop = true;
        kd_bar_set(bar, r->done);
    }
    pthread_mutex_unlock(&r->mu);
}

int kd_lanes_run(const kd_cli *cli, const kd_predictor *p, int threads, size_t n, const char *label,
                 kd_lane_fn *fn, void *arg)
{
    run r = {.p = p,
             .n = n,
             .fn = fn,
             .arg = arg,
             .mu = PTHREAD_MUTEX_INITIALIZER,
             .cond = PTHREAD_COND_INITIALIZER};
    pthread_t ids[KD_LANES_MAX];
    kd_bar bar;
    int started = 0;
    const int wanted = (int)KD_MIN((size_t)KD_MIN(threads, KD_LANES_MAX), n);
    kd_bar_start(&bar, cli, KD_BAR_PICTURES, label, n, 0);
    pthread_mutex_lock(&r.mu);
    while (started < wanted && pthread_create(&ids[started], NULL, work, &r) == 0)
        started++;
    r.working = started;
    pthread_mutex_unlock(&r.mu);
    watch(&r, &bar);
    for (int i = 0; i < started; i++)
        pthread_join(ids[i], NULL);
    kd_bar_end(&bar);
    if (kd_cli_signal() != 0)
        return kd_cli_signal_exit();
    if (wanted > 0 && started == 0)
        kd_error(cli, "no thread could be started");
    else if (r.why.code != 0)
        kd_error(cli, "%s", r.why.msg);
    else
        return KD_EXIT_OK;
    return KD_EXIT_FAILURE;
}

int kd_lanes_cpus(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return KD_MIN(KD_MAX(n, 1), KD_LANES_MAX);
}
