#include "timing.h"

#include "engine/plan.h"
#include "kd/clock.h"
#include "kd/rng.h"

#include <stdlib.h>
#include <string.h>

#define MAX_RUNS 20000
#define LEAST_RUNS 20
#define SEED 1

typedef struct job {
    const kd_loaded *net;
    double seconds;
    kd_timing out;
    kd_diag diag;
    int rc;
    double ms[MAX_RUNS];
} job;

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The nearest rank. */
static double percentile(const double *sorted, int n, double share)
{
    const int at = (int)(share * n);
    return sorted[at < n ? at : n - 1];
}

static double once(kd_plan *plan, const float *input, float *logits, job *j)
{
    const double begin = kd_clock_s();
    if (j->rc == 0)
        j->rc = kd_plan_forward(plan, input, logits, &j->diag);
    return kd_clock_s() - begin;
}

static void warm_up(kd_plan *plan, const float *input, float *logits, job *j)
{
    double spent = once(plan, input, logits, j);
    while (j->rc == 0 && spent < j->seconds / 10)
        spent += once(plan, input, logits, j);
}

static void measure_one(kd_plan *plan, const float *input, float *logits, job *j)
{
    kd_timing *t = &j->out;
    double spent = 0;
    int n = 0;
    warm_up(plan, input, logits, j);
    while (j->rc == 0 && n < MAX_RUNS && (n < LEAST_RUNS || spent < j->seconds)) {
        const double s = once(plan, input, logits, j);
        j->ms[n++] = s * 1000;
        spent += s;
    }
    if (j->rc != 0)
        return;
    qsort(j->ms, (size_t)n, sizeof *j->ms, by_size);
    t->runs = n;
    t->mean = spent * 1000 / n;
    t->p50 = percentile(j->ms, n, 0.5);
    t->p90 = percentile(j->ms, n, 0.9);
    t->p99 = percentile(j->ms, n, 0.99);
    t->arena = kd_plan_arena_bytes(plan);
    t->int8_tasks = kd_plan_int8_tasks(plan);
}

static void measure_batch(kd_plan *plan, const float *input, float *logits, job *j)
{
    double spent = 0;
    int n = 0;
    warm_up(plan, input, logits, j);
    while (j->rc == 0 && (n == 0 || spent < j->seconds)) {
        spent += once(plan, input, logits, j);
        n++;
    }
    j->out.throughput = n * KD_TIMING_BATCH / spent;
}

static void run(job *j)
{
    const kd_loaded *net = j->net;
    const kd_node *first = &net->graph->nodes[0];
    const size_t floats = (size_t)first->h * (size_t)first->w * (size_t)first->c * KD_TIMING_BATCH;
    float *input = aligned_alloc(64, (floats * sizeof *input + 63) / 64 * 64);
    float *logits = malloc((size_t)net->n_classes * KD_TIMING_BATCH * sizeof *logits);
    kd_plan *plan = NULL;
    kd_rng rng;
    kd_engine_thread();
    if (!input || !logits)
        j->rc = kd_fail(&j->diag, -KD_ENOMEM, "no memory for %d pictures", KD_TIMING_BATCH);
    kd_rng_init(&rng, SEED, KD_RNG_PROBE, 0, 0);
    for (size_t i = 0; j->rc == 0 && i < floats; i++)
        input[i] = 2 * kd_rng_float(&rng) - 1;
    for (int batch = 1; j->rc == 0 && batch <= KD_TIMING_BATCH; batch *= KD_TIMING_BATCH) {
        j->rc = kd_plan_new_infer(net->graph, batch, net->vector, &plan, &j->diag);
        if (j->rc == 0)
            (batch == 1 ? measure_one : measure_batch)(plan, input, logits, j);
        kd_plan_free(plan);
        plan = NULL;
    }
    kd_engine_info info;
    if (j->rc == 0 && (j->rc = kd_engine_info_get(&info, &j->diag)) == 0) {
        memcpy(j->out.cpu, info.cpu, sizeof j->out.cpu);
        memcpy(j->out.isa, info.isa, sizeof j->out.isa);
    }
    free(input);
    free(logits);
}

int kd_timing_run(const kd_loaded *net, double seconds, kd_timing *out, kd_diag *diag)
{
    job *j = calloc(1, sizeof *j);
    if (!j)
        return kd_fail(diag, -KD_ENOMEM, "no memory to measure with");
    j->net = net;
    j->seconds = seconds;
    run(j);
    const int rc = j->rc == 0 ? 0 : kd_fail(diag, j->rc, "%s", j->diag.msg);
    if (rc == 0)
        *out = j->out;
    free(j);
    return rc;
}
