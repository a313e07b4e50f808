/* Which precision a teacher labels in where the job leaves it to a measurement: the quickest whose
 * answers on training pictures agree with float32's. Measured by one worker; the job's others, and
 * later runs, go by what it chose. */
#include "stage_internal.h"

#include "distill/terms.h"
#include "kd/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE 200       /* pictures that are compared */
#define LEAST_AGREE 0.99 /* share of them with float32's class */
#define MOST_KL 0.01     /* mean KL divergence from float32's answers, at TEMPERATURE */
#define TEMPERATURE 5.0
#define WORTH 1.05 /* times as quick, or it stays as it is */

/* What one precision does with the pictures. */
struct trial {
    double ms;        /* an image, the median */
    double agree, kl; /* mean */
};

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double divergence(const float *v, const float *z, int classes)
{
    if (!kd_row_is_finite(z, classes) || !kd_row_is_finite(v, classes))
        return INFINITY;
    const kd_softmax soft_z = kd_softmax_of(z, classes, TEMPERATURE, -1);
    const kd_softmax soft_v = kd_softmax_of(v, classes, TEMPERATURE, -1);
    return kd_kl_of(z, v, classes, &soft_z, &soft_v);
}

/* reference [n][classes]: written in float32, else compared with. times [n]: room. */
static int try_one(kd_stage *s, int teacher, kd_plan *p, bool is_reference, size_t n,
                   float *reference, double *times, struct trial *out, kd_diag *diag)
{
    struct context *c = &s->contexts[0];
    const kd_session *ss = s->session;
    const size_t classes = (size_t)ss->classes;
    *out = (struct trial){0};
    for (size_t i = 0; i < n; i++) {
        float *row = reference + i * classes;
        int rc = kd_stage_training_picture(s, teacher, i, n, diag);
        const double begin = kd_clock_s();
        if (rc == 0)
            rc = kd_plan_forward(p, c->image, c->logits, diag);
        if (rc != 0)
            return rc;
        times[i] = (kd_clock_s() - begin) * 1000;
        if (is_reference)
            memcpy(row, c->logits, classes * sizeof *row);
        out->agree += kd_argmax(row, ss->classes) == kd_argmax(c->logits, ss->classes);
        out->kl += divergence(row, c->logits, ss->classes);
    }
    out->agree /= (double)n;
    out->kl /= (double)n;
    qsort(times, n, sizeof *times, by_value);
    out->ms = times[n / 2];
    return 0;
}

int kd_stage_measure_precision(kd_stage *s, int teacher, enum kd_precision *out, char *why,
                               size_t size, kd_diag *diag)
{
    static const enum kd_precision candidates[] = {KD_FLOAT32, KD_BFLOAT16, KD_INT8};
    const size_t n = KD_MIN(s->session->n_train, (size_t)SAMPLE);
    float *reference = malloc(n * (size_t)s->session->classes * sizeof *reference);
    double *times = malloc(n * sizeof *times);
    int rc = reference && times ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory to compare precisions");
    double best = 0;
    why[0] = '\0';
    for (size_t i = 0; rc == 0 && i < KD_COUNT(candidates); i++) {
        const char *name = kd_precision_name(candidates[i]);
        const size_t at = strlen(why);
        kd_plan *p = NULL;
        struct trial t = {0};
        kd_diag none = {0};
        rc = kd_stage_teacher_plan(s, teacher, candidates[i], &p, &none);
        if (rc == -KD_EUNSUP && i > 0) {
            snprintf(why + at, size - at, "; no %s on this machine", name);
            rc = 0;
            continue;
        }
        rc = rc == 0 ? try_one(s, teacher, p, i == 0, n, reference, times, &t, diag)
                     : kd_fail(diag, rc, "%s", none.msg);
        kd_plan_free(p);
        if (rc != 0)
            break;
        if (i == 0)
            snprintf(why + at, size - at, "%s %.2f ms an image", name, t.ms);
        else
            snprintf(why + at, size - at, "; %s %.2f ms, %.1f %% of %zu pictures alike, KL %.4f",
                     name, t.ms, 100 * t.agree, n, t.kl);
        const bool fits = t.agree >= LEAST_AGREE && t.kl < MOST_KL;
        if (i == 0 || (fits && t.ms * WORTH < best)) {
            best = t.ms;
            *out = candidates[i];
        }
    }
    free(reference);
    free(times);
    return rc;
}
