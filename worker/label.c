/* Unlabelled pictures: the teacher labels them clean, and what it is sure of joins the epoch.
 *
 * Every worker needs all labels before it can say what an epoch is. They share the work through the
 * bank: each begins at another place, in blocks, asks for a block and computes what is not there
 * yet, so that they meet each other's answers. */
#include "runner_internal.h"

#include "data/balance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BLOCK 256u

static int label_all(kd_runner *r, kd_diag *diag)
{
    const kd_session *ss = r->session;
    uint32_t first = (uint32_t)kd_data_first(ss->data, KD_SPLIT_UNLABELLED), start = 0;
    uint32_t n = (uint32_t)ss->n_unlabelled, blocks = (n + BLOCK - 1) / BLOCK;
    uint32_t samples[BLOCK];
    /* Only who computes what depends on it. */
    if (getrandom(&start, sizeof start, 0) != (ssize_t)sizeof start)
        start = 0;
    int rc = 0;
    for (uint32_t b = 0; b < blocks && rc == 0; b++) {
        uint32_t from = (start % blocks + b) % blocks * BLOCK;
        uint32_t count = KD_MIN(BLOCK, n - from);
        for (uint32_t i = 0; i < count; i++)
            samples[i] = first + from + i;
        rc = kd_teaching_clean(r->teaching, &r->ref, samples, count, diag);
    }
    return rc;
}

/* The teacher's best class and its probability at temperature 1. */
static void read_label(const float *v, int classes, float *confidence, int32_t *best)
{
    int top = kd_argmax(v, classes);
    double sum = 0;
    for (int k = 0; k < classes; k++)
        sum += exp((double)v[k] - (double)v[top]);
    *best = top;
    *confidence = (float)(1 / sum);
}

int kd_runner_label(kd_runner *r, kd_diag *diag)
{
    const kd_session *ss = r->session;
    const struct kd_unlabelled_spec *u = &ss->job.data.unlabelled;
    size_t n = ss->n_unlabelled;
    if (!r->teaching || n == 0)
        return kd_stage_compose(r->stage, NULL, diag);
    kd_runner_phase(r, "labelling", 0);
    snprintf(r->ref.job, sizeof r->ref.job, "%s", r->stage_job);
    r->ref.stage = r->stage_index;
    pthread_mutex_lock(&r->mu);
    r->over = false; /* of an earlier generation */
    pthread_mutex_unlock(&r->mu);
    int rc = label_all(r, diag);
    if (rc != 0)
        return rc;
    float *confidence = malloc(n * sizeof *confidence);
    int32_t *best = malloc(n * sizeof *best);
    uint8_t *copies = calloc(n, 1);
    uint32_t first = (uint32_t)kd_data_first(ss->data, KD_SPLIT_UNLABELLED);
    if (!confidence || !best || !copies)
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for the labels of %zu pictures", n);
    for (size_t i = 0; i < n && rc == 0; i++)
        read_label(kd_teaching_clean_row(r->teaching, first + (uint32_t)i), ss->classes,
                   &confidence[i], &best[i]);
    if (rc == 0)
        rc = kd_balance(confidence, best, n, ss->classes, u->min_confidence, u->per_class,
                        u->upsample, ss->job.data.seed, first, copies, diag);
    if (rc == 0)
        rc = kd_stage_compose(r->stage, copies, diag);
    free(confidence);
    free(best);
    free(copies);
    return rc;
}
