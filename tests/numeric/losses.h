/* What the tests of the loss share. */
#ifndef KD_TEST_LOSSES_H
#define KD_TEST_LOSSES_H

#include "distill/loss.h"
#include "kd/rng.h"
#include "kd_test.h"

#include <math.h>
#include <stdlib.h>

#define MAX_ROWS 16

/* Sums over n real rows with every kind of target, batch-coupled terms included; d_z may be NULL.
 */
static inline kd_loss_sums sums_of(const kd_loss *l, int n, int classes, const float *z,
                                   const float *v, const kd_target *targets, float *d_z)
{
    float weight[MAX_ROWS];
    assert_true(n <= MAX_ROWS);
    for (int i = 0; i < n; i++)
        weight[i] = 1;
    double *stats = NULL;
    if (kd_loss_needs_batch(l)) {
        kd_diag diag = {0};
        stats = malloc((size_t)classes * KD_LOSS_STATS * sizeof *stats);
        kd_assert_ok(kd_loss_couple(l, n, classes, z, v, weight, stats, &diag), &diag);
    }
    kd_loss_sums sums;
    kd_loss_apply(l, n, classes, z, v, targets, weight, 1.0 / n, stats, d_z, &sums);
    free(stats);
    assert_int_equal(sums.bad, -1);
    kd_assert_close(sums.samples, n, 0, 0);
    return sums;
}

/* Value and gradient of the mean over n real rows that are not mixed. */
static inline double mean_loss(const kd_loss *l, int n, int classes, const float *z, const float *v,
                               const int32_t *labels, float *d_z)
{
    kd_target targets[MAX_ROWS];
    for (int i = 0; i < n; i++)
        targets[i] = (kd_target){labels[i], -1, 7};
    return sums_of(l, n, classes, z, v, targets, d_z).loss / n;
}

/* Of a golden that defines softened distillation as a cross-entropy: what it has more than the
 * divergence. */
static inline double mean_entropy(int n, int classes, const float *v, double temperature)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const float *row = v + (size_t)i * (size_t)classes;
        double all = 0, along = 0;
        for (int j = 0; j < classes; j++)
            all += exp((double)row[j] / temperature);
        for (int j = 0; j < classes; j++)
            along += exp((double)row[j] / temperature) / all * (double)row[j] / temperature;
        sum += log(all) - along;
    }
    return sum / n;
}

/* Multiples of 2^-12, so that steps of some powers of two are exact in float. */
static inline void draw_logits(kd_rng *r, float *out, int n, double scale)
{
    for (int i = 0; i < n; i++)
        out[i] = (float)(int)(scale * kd_rng_normal(r) * 4096) / 4096;
}

#endif
