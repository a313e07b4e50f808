#include "distill/loss.h"

#include <math.h>
#include <string.h>

bool kd_loss_needs_teacher(const kd_loss *l)
{
    return l->kd != 0 || l->mse != 0;
}

/* softmax(x/T)_j = exp((x_j - top)/T - log_sum): shifted by the maximum, so that no exponent is
 * positive. Summed in the order of the classes. */
typedef struct {
    double top, scale, log_sum;
} softmax;

static softmax softmax_of(const float *x, int n, double temperature)
{
    double top = (double)x[0];
    for (int j = 1; j < n; j++)
        top = fmax(top, (double)x[j]);
    softmax s = {.top = top, .scale = 1 / temperature};
    double sum = 0;
    for (int j = 0; j < n; j++)
        sum += exp(((double)x[j] - top) * s.scale);
    s.log_sum = log(sum);
    return s;
}

static double log_prob(const softmax *s, float x)
{
    return ((double)x - s->top) * s->scale - s->log_sum;
}

static bool finite_row(const float *x, int n)
{
    for (int j = 0; j < n; j++)
        if (!isfinite(x[j]))
            return false;
    return true;
}

/* The three weights with temperature and normalisation multiplied in, the same for every row. */
typedef struct {
    double ce, kd, mse, temperature;
    bool mse_half;
} terms;

static terms terms_of(const kd_loss *l)
{
    terms t = {.ce = l->ce,
               .kd = l->kd,
               .mse = l->mse,
               .temperature = l->temperature,
               .mse_half = l->mse_half};
    KD_BUG_ON(l->kd != 0 && !(l->temperature > 0));
    const double square = l->temperature * l->temperature;
    double all = 1;
    switch (l->t2) {
    case KD_LOSS_T2_NONE:
        break;
    case KD_LOSS_T2_SOFT:
        t.kd *= square;
        break;
    case KD_LOSS_T2_ALL:
        all = square;
        break;
    }
    if (l->normalise)
        all /= l->ce + l->kd + l->mse;
    t.ce *= all;
    t.kd *= all;
    t.mse *= all;
    return t;
}

/* Loss of one row; d_z NULL or overwritten with `scale` times its gradient. y -1: no hard term. */
static double row_loss(const terms *t, int n, const float *z, const float *v, int32_t y,
                       double scale, float *d_z)
{
    softmax hard = {0}, soft = {0}, teacher = {0};
    const double ce = y < 0 ? 0 : t->ce;
    const double half = t->mse_half ? 0.5 : 1 / (double)n;
    double loss = 0, soft_loss = 0, square = 0;
    if (ce != 0) {
        hard = softmax_of(z, n, 1);
        loss -= ce * log_prob(&hard, z[y]);
    }
    if (t->kd != 0) {
        soft = softmax_of(z, n, t->temperature);
        teacher = softmax_of(v, n, t->temperature);
        for (int j = 0; j < n; j++)
            soft_loss -= exp(log_prob(&teacher, v[j])) * log_prob(&soft, z[j]);
        loss += t->kd * soft_loss;
    }
    if (t->mse != 0) {
        for (int j = 0; j < n; j++)
            square += ((double)z[j] - (double)v[j]) * ((double)z[j] - (double)v[j]);
        loss += t->mse * half * square;
    }
    for (int j = 0; d_z && j < n; j++) {
        double d = 0;
        if (ce != 0)
            d += ce * (exp(log_prob(&hard, z[j])) - (j == y ? 1 : 0));
        if (t->kd != 0)
            d += t->kd / t->temperature *
                 (exp(log_prob(&soft, z[j])) - exp(log_prob(&teacher, v[j])));
        if (t->mse != 0)
            d += t->mse * 2 * half * ((double)z[j] - (double)v[j]);
        d_z[j] = (float)(scale * d);
    }
    return loss;
}

void kd_loss_apply(const kd_loss *l, int n, int classes, const float *z, const float *v,
                   const int32_t *labels, const float *weight, double inv_batch, float *d_z,
                   kd_loss_sums *out)
{
    const bool teacher = kd_loss_needs_teacher(l);
    KD_BUG_ON(teacher && !v);
    const terms t = terms_of(l);
    kd_loss_sums sums = {.bad = -1};
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)i * (size_t)classes;
        const float *row = z + at, *other = teacher ? v + at : NULL;
        float *d_row = d_z ? d_z + at : NULL;
        const double w = (double)weight[i];
        KD_BUG_ON(labels[i] >= classes);
        if (d_row)
            memset(d_row, 0, (size_t)classes * sizeof *d_row);
        /* Padding is never looked at: whatever stands in it, NaN included, changes no sum. */
        if (w == 0)
            continue;
        sums.samples += w;
        double loss = NAN;
        if (finite_row(row, classes) && (!other || finite_row(other, classes)))
            loss = row_loss(&t, classes, row, other, labels[i], w * inv_batch, d_row);
        if (!isfinite(loss) && sums.bad < 0)
            sums.bad = i;
        sums.loss += w * loss;
        int best = 0;
        for (int j = 1; j < classes; j++)
            if (row[j] > row[best])
                best = j;
        if (best == labels[i])
            sums.correct += w;
    }
    *out = sums;
}
