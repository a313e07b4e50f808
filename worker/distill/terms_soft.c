/* The terms between student and teacher, row by row: kd, mse and jsd. */
#include "distill/terms.h"

static double kl_of(const kd_row *r, const kd_softmax *z, const kd_softmax *v)
{
    return kd_kl_of(r->z, r->v, r->n, z, v);
}

/* ---- softened distillation */

#define STANDARD_EPS 1e-7

/* Mean and unbiased standard deviation. */
static double spread_of(const float *x, int n, double *out_mean)
{
    double mean = 0, square = 0;
    for (int j = 0; j < n; j++)
        mean += (double)x[j];
    mean /= n;
    for (int j = 0; j < n; j++)
        square += ((double)x[j] - mean) * ((double)x[j] - mean);
    *out_mean = mean;
    return sqrt(square / (n - 1));
}

/* (z_j - mean)/std; 0 where all logits are equal. */
static double standard(const kd_memo *m, float x)
{
    return m->kd.spread > 0 ? ((double)x - m->kd.mean) / m->kd.spread : 0;
}

static double kd_value(const kd_row *r, kd_memo *m)
{
    const double temperature = r->loss->temperature;
    if (!r->loss->standardise) {
        m->kd.z = kd_softmax_of(r->z, r->n, temperature, -1);
        m->kd.v = kd_softmax_of(r->v, r->n, temperature, -1);
        return kl_of(r, &m->kd.z, &m->kd.v);
    }
    /* The softmax does not see the mean, so that standardising is a temperature of the row's own.
     */
    double mean_v;
    const double spread_v = spread_of(r->v, r->n, &mean_v) + STANDARD_EPS;
    m->kd.spread = spread_of(r->z, r->n, &m->kd.mean);
    const double spread = m->kd.spread + STANDARD_EPS;
    m->kd.z = kd_softmax_of(r->z, r->n, temperature * spread, -1);
    m->kd.v = kd_softmax_of(r->v, r->n, temperature * spread_v, -1);
    double turn = 0;
    for (int j = 0; j < r->n; j++)
        turn += (exp(kd_log_prob(&m->kd.z, r->z[j])) - exp(kd_log_prob(&m->kd.v, r->v[j]))) *
                standard(m, r->z[j]);
    m->kd.turn = turn;
    m->kd.bend = m->kd.spread / ((r->n - 1) * spread * spread);
    return kl_of(r, &m->kd.z, &m->kd.v);
}

/* With g = (p - q)/T, which adds up to 0 over the classes, and u the standardised logits without
 * eps: d/dz_j = g_j/(s+e) - (sum_i g_i u_i) u_j s/((C-1)(s+e)^2). */
static void kd_slope(const kd_row *r, const kd_memo *m, double coef, int from, int to, double *d)
{
    const double each = coef / r->loss->temperature;
    for (int j = from; j < to; j++)
        d[j - from] =
            each * (exp(kd_log_prob(&m->kd.z, r->z[j])) - exp(kd_log_prob(&m->kd.v, r->v[j])));
    if (!r->loss->standardise)
        return;
    const double spread = m->kd.spread + STANDARD_EPS;
    for (int j = from; j < to; j++)
        d[j - from] = d[j - from] / spread - each * m->kd.turn * m->kd.bend * standard(m, r->z[j]);
}

const kd_term kd_term_kd = {"kd", true, false, kd_value, kd_slope};

/* ---- squared error on raw logits */

static double mse_value(const kd_row *r, kd_memo *m)
{
    double square = 0;
    m->mse.half = r->loss->mse_half ? 0.5 : 1 / (double)r->n;
    for (int j = 0; j < r->n; j++)
        square += ((double)r->z[j] - (double)r->v[j]) * ((double)r->z[j] - (double)r->v[j]);
    return m->mse.half * square;
}

static void mse_slope(const kd_row *r, const kd_memo *m, double coef, int from, int to, double *d)
{
    const double each = coef * 2 * m->mse.half;
    for (int j = from; j < to; j++)
        d[j - from] = each * ((double)r->z[j] - (double)r->v[j]);
}

const kd_term kd_term_mse = {"mse", true, false, mse_value, mse_slope};

/* ---- generalised Jensen-Shannon divergence */

/* log(p/m) and log(q/m) from log(q/p), m = beta q + (1-beta) p: without the cancellation of a
 * log m, and without an exponential that could overflow. */
static void to_mixture(double beta, double log_ratio, double *out_p, double *out_q)
{
    if (log_ratio <= 0) {
        *out_p = -log1p(beta * expm1(log_ratio));
        *out_q = log_ratio + *out_p;
    } else {
        *out_q = -log1p((1 - beta) * expm1(-log_ratio));
        *out_p = *out_q - log_ratio;
    }
}

static double jsd_value(const kd_row *r, kd_memo *m)
{
    const double beta = r->loss->jsd_beta;
    m->jsd.z = kd_softmax_of(r->z, r->n, r->loss->temperature, -1);
    m->jsd.v = kd_softmax_of(r->v, r->n, r->loss->temperature, -1);
    if (beta == 0)
        return kl_of(r, &m->jsd.z, &m->jsd.v);
    double of_p = 0, of_q = 0;
    for (int j = 0; j < r->n; j++) {
        const double log_q = kd_log_prob(&m->jsd.v, r->v[j]);
        const double log_p = kd_log_prob(&m->jsd.z, r->z[j]);
        const double q = exp(log_q), p = exp(log_p), mix = beta * q + (1 - beta) * p;
        double to_p = log_p - log_q, to_q = 0;
        if (beta < 1)
            to_mixture(beta, log_q - log_p, &to_p, &to_q);
        of_p += kd_kl_part(p, to_p, mix);
        of_q += kd_kl_part(q, to_q, mix);
    }
    m->jsd.mean = of_p;
    return beta < 1 ? beta * of_q + (1 - beta) * of_p : of_p;
}

static void jsd_slope(const kd_row *r, const kd_memo *m, double coef, int from, int to, double *d)
{
    const double beta = r->loss->jsd_beta;
    const double each = (beta < 1 ? 1 - beta : 1) * coef / r->loss->temperature;
    for (int j = from; j < to; j++) {
        const double log_q = kd_log_prob(&m->jsd.v, r->v[j]);
        const double log_p = kd_log_prob(&m->jsd.z, r->z[j]);
        double to_p = log_p - log_q, to_q;
        if (beta == 0) {
            d[j - from] = each * (exp(log_p) - exp(log_q));
            continue;
        }
        if (beta < 1)
            to_mixture(beta, log_q - log_p, &to_p, &to_q);
        d[j - from] = each * exp(log_p) * (to_p - m->jsd.mean);
    }
}

const kd_term kd_term_jsd = {"jsd", true, false, jsd_value, jsd_slope};
