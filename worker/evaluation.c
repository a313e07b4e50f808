/* The validation split at versions that are to be evaluated: this worker's share of its units. */
#include "runner_internal.h"

#include "kd/clock.h"
#include "wire/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_MS 100
#define HOLD_MS 300
/* Then the runner looks after its chunks again: what the evaluation waits for may be one of them.
 */
#define TRIES 5

void kd_runner_evaluation_due(kd_runner *r, uint64_t version)
{
    if (r->evaluation.version != version)
        memset(r->evaluation.done, 0, kd_stage_shape_of(r->stage)->eval_units);
    r->evaluation.version = version;
}

void kd_runner_evaluate_as(kd_runner *r, const Distill__V1__Begin *b)
{
    r->evaluation.rank = b->rank;
    r->evaluation.members = b->members;
    /* What the coordinator had of it is gone. */
    if (b->fresh)
        memset(r->evaluation.done, 0, kd_stage_shape_of(r->stage)->eval_units);
    if (b->evaluate_first)
        kd_runner_evaluation_due(r, b->version);
    else if (r->evaluation.version == b->version)
        r->evaluation.version = 0;
}

/* The next unit from `unit` on that is this worker's and not done. */
static uint32_t next_unit(const kd_runner *r, uint32_t unit)
{
    uint32_t all = kd_stage_shape_of(r->stage)->eval_units;
    while (unit < all && (unit % r->evaluation.members != r->evaluation.rank ||
                          atomic_load((atomic_uchar *)&r->evaluation.done[unit])))
        unit++;
    return unit;
}

bool kd_runner_evaluation_waits(const kd_runner *r)
{
    return r->evaluation.version != 0 && r->evaluation.version == r->step + 1 &&
           kd_clock_ms() >= r->evaluation.hold_until &&
           next_unit(r, 0) < kd_stage_shape_of(r->stage)->eval_units;
}

static const float *teacher_row(void *arg, uint32_t sample)
{
    return kd_teaching_clean_row(arg, sample);
}

static void eval_one(void *arg, int item, int thread)
{
    kd_runner *r = arg;
    const kd_optim *o = kd_stage_optim(r->stage);
    uint32_t unit = r->evaluation.units[item];
    float rows[KD_EVAL_COLUMNS * KD_EVAL_UNIT];
    kd_diag diag = {0};
    if (kd_runner_stopped(r))
        return;
    /* Averaged parameters are another vector of the same version. */
    const float *vector = r->average ? r->average : r->vector;
    int n = kd_stage_eval(r->stage, thread, unit, r->step, vector, r->average ? ~r->tag : r->tag,
                          r->teaching ? teacher_row : NULL, r->teaching, rows, &diag);
    if (n < 0) {
        kd_runner_problem(r, n == -KD_EDATA ? "NON_FINITE" : "INTERNAL", diag.msg);
        return;
    }
    atomic_fetch_add(&r->units, 1);
    for (int tries = 0; tries < TRIES; tries++) {
        int rc = kd_exchange_gather(r->cfg.channel, &r->ref, r->step + 1, unit, rows, (size_t)n,
                                    KD_EVAL_COLUMNS, o->lr * kd_optim_factor(o, r->step), &diag);
        if (rc == 0)
            atomic_store((atomic_uchar *)&r->evaluation.done[unit], 1);
        if (rc == 0 || kd_runner_stopped(r))
            return;
        if (!kd_part_again(rc)) {
            if (rc != -KD_ESTALE)
                (void)kd_runner_refused(r, rc, &diag);
            return;
        }
        usleep(RETRY_MS * 1000);
    }
}

/* The averaged parameters lie with the chunks' owners; the coordinator has them since the commit.
 */
static int fetch_average(kd_runner *r, kd_diag *diag)
{
    const kd_stage_shape *h = kd_stage_shape_of(r->stage);
    int rc = 0;
    for (uint32_t k = 0; k < h->chunks && rc == 0; k++) {
        size_t first = (size_t)k * h->chunk_floats;
        size_t n = KD_MIN((size_t)h->chunk_floats, h->floats - first);
        for (int tries = 0; tries < TRIES; tries++) {
            rc = kd_exchange_get_average(r->cfg.channel, &r->ref, r->step + 1, k,
                                         r->average + first, n, (uint32_t)h->state_vectors, diag);
            if (rc == 0 || !kd_part_again(rc) || kd_runner_stopped(r))
                break;
            usleep(RETRY_MS * 1000);
        }
    }
    return rc;
}

/* The teacher's view of the pictures that this worker evaluates. */
static int fill_clean(kd_runner *r, int n_units, kd_diag *diag)
{
    uint32_t first = (uint32_t)kd_data_first(r->session->data, KD_SPLIT_VAL);
    uint32_t *samples = kd_xalloc((size_t)n_units * KD_EVAL_UNIT * sizeof *samples);
    size_t n = 0;
    for (int i = 0; i < n_units; i++)
        for (uint32_t k = 0; k < KD_EVAL_UNIT; k++) {
            uint32_t at = r->evaluation.units[i] * KD_EVAL_UNIT + k;
            if (at < r->session->n_val)
                samples[n++] = first + at;
        }
    int rc = kd_teaching_clean(r->teaching, &r->ref, samples, n, diag);
    free(samples);
    return rc;
}

bool kd_runner_evaluate(kd_runner *r)
{
    uint32_t all = kd_stage_shape_of(r->stage)->eval_units;
    int n = 0;
    kd_diag diag = {0};
    kd_runner_phase(r, "evaluating", r->step + 1);
    for (uint32_t unit = next_unit(r, 0); unit < all; unit = next_unit(r, unit + 1))
        r->evaluation.units[n++] = unit;
    int rc = r->average ? fetch_average(r, &diag) : 0;
    if (rc == 0 && r->teaching)
        rc = fill_clean(r, n, &diag);
    if (rc == 0) {
        kd_pool_start(r->pool, n, eval_one, r);
        kd_pool_wait(r->pool);
    }
    /* Stale: the coordinator is somewhere else, and will say where. */
    if (rc != 0 || next_unit(r, 0) < all)
        r->evaluation.hold_until = kd_clock_ms() + HOLD_MS;
    if (rc == -KD_ESTALE || kd_part_again(rc))
        rc = 0;
    return !kd_runner_refused(r, rc, &diag);
}
