/* What does not belong to one loss: the softmax under all terms, ensembles, evaluation. */
#include "distill/terms.h"

#include <string.h>

kd_softmax kd_softmax_of(const float *x, int n, double temperature, int without)
{
    double top = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++)
        if (j != without)
            top = fmax(top, (double)x[j]);
    kd_softmax s = {.top = top, .scale = 1 / temperature};
    for (int j = 0; j < n; j++)
        if (j != without)
            sum += exp(((double)x[j] - top) * s.scale);
    s.log_sum = log(sum);
    return s;
}

bool kd_row_is_finite(const float *x, int n)
{
    for (int j = 0; j < n; j++)
        if (!isfinite(x[j]))
            return false;
    return true;
}

int kd_argmax(const float *z, int classes)
{
    int best = 0;
    for (int j = 1; j < classes; j++)
        if (z[j] > z[best])
            best = j;
    return best;
}

double kd_cross_entropy(const float *z, int classes, int32_t label)
{
    if (!kd_row_is_finite(z, classes))
        return NAN;
    const kd_softmax s = kd_softmax_of(z, classes, 1, -1);
    return -kd_log_prob(&s, z[label]);
}

double kd_kl(const float *v, const float *z, int classes)
{
    if (!kd_row_is_finite(z, classes) || !kd_row_is_finite(v, classes))
        return NAN;
    const kd_softmax soft_z = kd_softmax_of(z, classes, 1, -1);
    const kd_softmax soft_v = kd_softmax_of(v, classes, 1, -1);
    return kd_kl_of(z, v, classes, &soft_z, &soft_v);
}

double kd_kl_of(const float *z, const float *v, int n, const kd_softmax *soft_z,
                const kd_softmax *soft_v)
{
    double sum = 0;
    for (int j = 0; j < n; j++) {
        const double log_q = kd_log_prob(soft_v, v[j]), log_p = kd_log_prob(soft_z, z[j]);
        sum += kd_kl_part(exp(log_q), log_q - log_p, exp(log_p));
    }
    return sum;
}

/* T log of the mean probability of class j: log-sum-exp over the teachers, none of whose log
 * probabilities may be lost by underflow at low temperatures. */
static double log_mean(int n, const double *share, double temperature, const kd_softmax *soft,
                       const float *const *rows, int j)
{
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        if (share[i] > 0)
            top = fmax(top, kd_log_prob(&soft[i], rows[i][j]));
    for (int i = 0; i < n; i++)
        if (share[i] > 0)
            sum += share[i] * exp(kd_log_prob(&soft[i], rows[i][j]) - top);
    return temperature * (top + log(sum));
}

void kd_ensemble_logits(enum kd_ensemble_kind kind, int n, const double *share, double temperature,
                        int classes, const float *const *rows, float *v_out)
{
    KD_BUG_ON(n < 1 || n > KD_ENSEMBLE_MAX);
    if (n == 1) {
        memcpy(v_out, rows[0], (size_t)classes * sizeof *v_out);
        return;
    }
    if (kind == KD_COMBINE_LOGITS) {
        for (int j = 0; j < classes; j++) {
            double sum = 0;
            for (int i = 0; i < n; i++)
                sum += share[i] * (double)rows[i][j];
            v_out[j] = (float)sum;
        }
        return;
    }
    kd_softmax soft[KD_ENSEMBLE_MAX];
    for (int i = 0; i < n; i++)
        soft[i] = kd_softmax_of(rows[i], classes, temperature, -1);
    double shift = 0;
    for (int j = 0; j < classes; j++) {
        for (int i = 0; i < n; i++)
            shift += share[i] * (double)rows[i][j];
        shift -= log_mean(n, share, temperature, soft, rows, j);
    }
    shift /= classes;
    for (int j = 0; j < classes; j++)
        v_out[j] = (float)(log_mean(n, share, temperature, soft, rows, j) + shift);
}
