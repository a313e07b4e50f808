/* The terms of the loss, one row at a time: shared between the files of this folder only.
 *
 * A term first takes what it needs from the whole row into a memo and gives its value; then it
 * gives the gradient class by class. That needs no buffer as long as the row, and each term stays a
 * pair of functions that knows nothing of weights, batches and other terms. */
#ifndef KD_DISTILL_TERMS_H
#define KD_DISTILL_TERMS_H

#include "distill/loss.h"

#include <math.h>

/* softmax(x/T)_j = exp((x_j - top) scale - log_sum), scale = 1/T: shifted by the maximum, so that
 * no exponent is positive. */
typedef struct kd_softmax {
    double top, scale, log_sum;
} kd_softmax;

/* Over all classes but `without` (-1: over all), summed in the order of the classes. */
kd_softmax kd_softmax_of(const float *x, int n, double temperature, int without);
bool kd_row_is_finite(const float *x, int n);

static inline double kd_log_prob(const kd_softmax *s, float x)
{
    return ((double)x - s->top) * s->scale - s->log_sum;
}

/* One class's part of KL(q||p), d = log(q/p), as q (d + p/q - 1): the parts are not negative, add
 * up to the same sum since q and p both add up to 1, and near d = 0 they are of second order like
 * the divergence itself, so that rounding of d does not drown it at high temperatures. */
static inline double kd_kl_part(double q, double d, double p)
{
    if (fabs(d) < 1e-4)
        return q * (d * d * (0.5 - d * (1.0 / 6 - d / 24)));
    if (fabs(d) < 0.5)
        return q * (d + expm1(-d));
    return q * d + (p - q);
}

/* KL(q||p), q of v and p of z. */
double kd_kl_of(const float *z, const float *v, int n, const kd_softmax *soft_z,
                const kd_softmax *soft_v);

typedef struct kd_row {
    const kd_loss *loss;
    int n;
    const float *z, *v;
    int32_t label;       /* of hard terms */
    const double *stats; /* kd_loss_couple's, of dist */
} kd_row;

typedef union kd_memo {
    struct {
        kd_softmax z;
    } ce;
    struct {
        kd_softmax z, v;
        double mean, spread, turn, bend; /* standardise */
    } kd;
    struct {
        double half;
    } mse;
    struct {
        kd_softmax z, v, other_z, other_v;
        double gap; /* p_y - q_y */
    } dkd;
    struct {
        kd_softmax z, v;
        double along, back; /* of the row's correlation: derivative along q - 1/C and p - 1/C */
        double dot;         /* sum_j p_j d/dp_j */
    } dist;
    struct {
        kd_softmax z, other_z, other_v;
        double sure; /* q_y */
    } nkd;
    struct {
        kd_softmax z, v;
        double mean; /* sum_j p_j log(p_j/m_j) */
    } jsd;
} kd_memo;

typedef struct kd_term {
    const char *name;
    bool needs_teacher, hard; /* hard: needs the label */
    double (*value)(const kd_row *row, kd_memo *memo);
    /* d[j - from] = coef * derivative of the value by z_j for from <= j < to. */
    void (*slope)(const kd_row *row, const kd_memo *memo, double coef, int from, int to, double *d);
} kd_term;

extern const kd_term kd_term_ce, kd_term_kd, kd_term_mse, kd_term_dkd, kd_term_dist, kd_term_nkd,
    kd_term_jsd;

#endif
