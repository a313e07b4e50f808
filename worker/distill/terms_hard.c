/* The terms that need the label: ce, dkd and nkd. */
#include "distill/terms.h"

/* ---- hard cross-entropy with label smoothing */

static double ce_value(const kd_row *r, kd_memo *m)
{
    const double smoothing = r->loss->smoothing;
    m->ce.z = kd_softmax_of(r->z, r->n, 1, -1);
    double value = -(1 - smoothing) * kd_log_prob(&m->ce.z, r->z[r->label]);
    if (smoothing != 0) {
        double sum = 0;
        for (int j = 0; j < r->n; j++)
            sum += kd_log_prob(&m->ce.z, r->z[j]);
        value -= smoothing / r->n * sum;
    }
    return value;
}

static void ce_slope(const kd_row *r, const kd_memo *m, double coef, int from, int to, double *d)
{
    const double floor = r->loss->smoothing / r->n, top = 1 - r->loss->smoothing + floor;
    for (int j = from; j < to; j++)
        d[j - from] = coef * (exp(kd_log_prob(&m->ce.z, r->z[j])) - (j == r->label ? top : floor));
}

const kd_term kd_term_ce = {"ce", false, true, ce_value, ce_slope};

/* ---- decoupled distillation */

/* log(1 - p_y), without the cancellation of the difference: both sums of exponentials over the
 * classes, with y and without. */
static double log_others(const kd_softmax *all, const kd_softmax *others)
{
    return (others->top - all->top) * all->scale + (others->log_sum - all->log_sum);
}

static double dkd_value(const kd_row *r, kd_memo *m)
{
    const double temperature = r->loss->temperature;
    const int y = r->label;
    m->dkd.z = kd_softmax_of(r->z, r->n, temperature, -1);
    m->dkd.v = kd_softmax_of(r->v, r->n, temperature, -1);
    m->dkd.other_z = kd_softmax_of(r->z, r->n, temperature, y);
    m->dkd.other_v = kd_softmax_of(r->v, r->n, temperature, y);
    const double p = kd_log_prob(&m->dkd.z, r->z[y]), q = kd_log_prob(&m->dkd.v, r->v[y]);
    const double rest_p = log_others(&m->dkd.z, &m->dkd.other_z);
    const double rest_q = log_others(&m->dkd.v, &m->dkd.other_v);
    m->dkd.gap = exp(p) - exp(q);
    const double target =
        kd_kl_part(exp(q), q - p, exp(p)) + kd_kl_part(exp(rest_q), rest_q - rest_p, exp(rest_p));
    double others = 0;
    for (int j = 0; j < r->n; j++) {
        if (j == y)
            continue;
        const double log_q = kd_log_prob(&m->dkd.other_v, r->v[j]);
        const double log_p = kd_log_prob(&m->dkd.other_z, r->z[j]);
        others += kd_kl_part(exp(log_q), log_q - log_p, exp(log_p));
    }
    return r->loss->dkd_alpha * target + r->loss->dkd_beta * others;
}

static void dkd_slope(const kd_row *r, const kd_memo *m, double coef, int from, int to, double *d)
{
    const double each = coef / r->loss->temperature;
    const double target = r->loss->dkd_alpha * m->dkd.gap, beta = r->loss->dkd_beta;
    for (int j = from; j < to; j++) {
        if (j == r->label) {
            d[j - from] = each * target;
            continue;
        }
        const double p = exp(kd_log_prob(&m->dkd.other_z, r->z[j]));
        const double q = exp(kd_log_prob(&m->dkd.other_v, r->v[j]));
        d[j - from] = each * (beta * (p - q) - target * p);
    }
}

const kd_term kd_term_dkd = {"dkd", true, true, dkd_value, dkd_slope};

/* ---- normalised distillation */

static double nkd_value(const kd_row *r, kd_memo *m)
{
    const double temperature = r->loss->nkd_temperature;
    const int y = r->label;
    const kd_softmax v = kd_softmax_of(r->v, r->n, 1, -1);
    m->nkd.z = kd_softmax_of(r->z, r->n, 1, -1);
    m->nkd.other_z = kd_softmax_of(r->z, r->n, temperature, y);
    m->nkd.other_v = kd_softmax_of(r->v, r->n, temperature, y);
    m->nkd.sure = exp(kd_log_prob(&v, r->v[y]));
    double others = 0;
    for (int j = 0; j < r->n; j++)
        if (j != y)
            others -=
                exp(kd_log_prob(&m->nkd.other_v, r->v[j])) * kd_log_prob(&m->nkd.other_z, r->z[j]);
    return r->loss->nkd_gamma * temperature * temperature * others -
           m->nkd.sure * kd_log_prob(&m->nkd.z, r->z[y]);
}

static void nkd_slope(const kd_row *r, const kd_memo *m, double coef, int from, int to, double *d)
{
    const double gamma = r->loss->nkd_gamma * r->loss->nkd_temperature;
    for (int j = from; j < to; j++) {
        const double p = exp(kd_log_prob(&m->nkd.z, r->z[j]));
        if (j == r->label) {
            d[j - from] = coef * (m->nkd.sure * (p - 1));
            continue;
        }
        const double other_p = exp(kd_log_prob(&m->nkd.other_z, r->z[j]));
        const double other_q = exp(kd_log_prob(&m->nkd.other_v, r->v[j]));
        d[j - from] = coef * (m->nkd.sure * p + gamma * (other_p - other_q));
    }
}

const kd_term kd_term_nkd = {"nkd", true, true, nkd_value, nkd_slope};
