/* dist: correlation between student and teacher along rows (inter) and along columns (intra). */
#include "distill/terms.h"

#include <string.h>

#define RHO_EPS 1e-8

/* A correlation a / (sqrt(pp qq) + eps) from centred sums of products, and its derivative by one
 * centred p_j: along (q_j) - back (p_j). Where p does not vary at all it has none. */
typedef struct {
    double rho, along, back;
} correlation;

static correlation correlate(double pp, double qq, double pq)
{
    const double norm_p = sqrt(pp), norm_q = sqrt(qq), below = norm_p * norm_q + RHO_EPS;
    correlation c = {.rho = pq / below, .along = 1 / below};
    if (norm_p > 0)
        c.back = pq / (below * below) * (norm_q / norm_p);
    return c;
}

/* What kd_loss_couple leaves for each class; meanwhile the last three hold sums of products. */
enum { MEAN_P, MEAN_Q, ALONG, BACK, RHO };
enum { PP = ALONG, QQ = BACK, PQ = RHO };
_Static_assert(RHO + 1 == KD_LOSS_STATS, "the header says how long a class's part is");

int kd_loss_couple(const kd_loss *l, int n, int classes, const float *z, const float *v,
                   const float *weight, double *stats, kd_diag *diag)
{
    memset(stats, 0, (size_t)classes * KD_LOSS_STATS * sizeof *stats);
    double real = 0;
    /* First the means, then what is centred on them: sums of squares less the square of the sum
     * would lose everything at high temperatures, where the columns hardly vary. */
    for (int centred = 0; centred < 2; centred++) {
        for (int i = 0; i < n; i++) {
            const double w = (double)weight[i];
            if (w == 0)
                continue;
            const float *zi = z + (size_t)i * (size_t)classes,
                        *vi = v + (size_t)i * (size_t)classes;
            if (!kd_row_is_finite(zi, classes) || !kd_row_is_finite(vi, classes))
                return kd_fail(diag, -KD_EDATA,
                               "row %d of the batch has logits that are not finite", i);
            const kd_softmax soft_z = kd_softmax_of(zi, classes, l->temperature, -1);
            const kd_softmax soft_v = kd_softmax_of(vi, classes, l->temperature, -1);
            for (int j = 0; j < classes; j++) {
                double *s = stats + (size_t)j * KD_LOSS_STATS;
                double p = exp(kd_log_prob(&soft_z, zi[j])), q = exp(kd_log_prob(&soft_v, vi[j]));
                if (!centred) {
                    s[MEAN_P] += w * p;
                    s[MEAN_Q] += w * q;
                    continue;
                }
                p -= s[MEAN_P];
                q -= s[MEAN_Q];
                s[PP] += w * (p * p);
                s[QQ] += w * (q * q);
                s[PQ] += w * (p * q);
            }
            real += centred ? 0 : w;
        }
        for (int j = 0; j < classes && real > 0; j++) {
            double *s = stats + (size_t)j * KD_LOSS_STATS;
            if (!centred) {
                s[MEAN_P] /= real;
                s[MEAN_Q] /= real;
                continue;
            }
            /* A row's part of 1 - mean_j rho_j is 1 - real/C sum_j of its products over the norms:
             * the mean over the rows is then the whole. */
            const correlation c = correlate(s[PP], s[QQ], s[PQ]);
            s[ALONG] = real / classes * c.along;
            s[BACK] = real / classes * c.back;
            s[RHO] = c.rho;
        }
    }
    return 0;
}

/* d/dp_j of the row's loss. */
static double push(const kd_row *r, const kd_memo *m, int j, double p, double q)
{
    const double level = 1 / (double)r->n;
    double g = 0;
    if (r->loss->dist_inter != 0)
        g -= r->loss->dist_inter * (m->dist.along * (q - level) - m->dist.back * (p - level));
    if (r->loss->dist_intra != 0) {
        const double *s = r->stats + (size_t)j * KD_LOSS_STATS;
        g -= r->loss->dist_intra * (s[ALONG] * (q - s[MEAN_Q]) - s[BACK] * (p - s[MEAN_P]));
    }
    return g;
}

static double dist_value(const kd_row *r, kd_memo *m)
{
    const double level = 1 / (double)r->n;
    m->dist.z = kd_softmax_of(r->z, r->n, r->loss->temperature, -1);
    m->dist.v = kd_softmax_of(r->v, r->n, r->loss->temperature, -1);
    double pp = 0, qq = 0, pq = 0, column = 0;
    for (int j = 0; j < r->n; j++) {
        const double p = exp(kd_log_prob(&m->dist.z, r->z[j]));
        const double q = exp(kd_log_prob(&m->dist.v, r->v[j]));
        pp += (p - level) * (p - level);
        qq += (q - level) * (q - level);
        pq += (p - level) * (q - level);
        if (r->loss->dist_intra != 0) {
            const double *s = r->stats + (size_t)j * KD_LOSS_STATS;
            column += s[ALONG] * ((p - s[MEAN_P]) * (q - s[MEAN_Q]));
        }
    }
    const correlation c = correlate(pp, qq, pq);
    m->dist.along = c.along;
    m->dist.back = c.back;
    double dot = 0;
    for (int j = 0; j < r->n; j++) {
        const double p = exp(kd_log_prob(&m->dist.z, r->z[j]));
        dot += p * push(r, m, j, p, exp(kd_log_prob(&m->dist.v, r->v[j])));
    }
    m->dist.dot = dot;
    double value = 0;
    if (r->loss->dist_inter != 0)
        value += r->loss->dist_inter * (1 - c.rho);
    if (r->loss->dist_intra != 0)
        value += r->loss->dist_intra * (1 - column);
    return value;
}

static void dist_slope(const kd_row *r, const kd_memo *m, double coef, int from, int to, double *d)
{
    const double each = coef / r->loss->temperature;
    for (int j = from; j < to; j++) {
        const double p = exp(kd_log_prob(&m->dist.z, r->z[j]));
        const double q = exp(kd_log_prob(&m->dist.v, r->v[j]));
        d[j - from] = each * p * (push(r, m, j, p, q) - m->dist.dot);
    }
}

const kd_term kd_term_dist = {"dist", true, false, dist_value, dist_slope};
