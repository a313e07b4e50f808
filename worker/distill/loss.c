/* The loss as a weighted sum of terms: weights, targets, rows, sums. */
#include "distill/terms.h"

#include <string.h>

#define MAX_WEIGHT 1e6
#define BLOCK 256 /* classes whose gradient is put together at once */

static const kd_term *const terms[KD_LOSS_TERMS] = {
    [KD_TERM_CE] = &kd_term_ce,   [KD_TERM_KD] = &kd_term_kd,     [KD_TERM_MSE] = &kd_term_mse,
    [KD_TERM_DKD] = &kd_term_dkd, [KD_TERM_DIST] = &kd_term_dist, [KD_TERM_NKD] = &kd_term_nkd,
    [KD_TERM_JSD] = &kd_term_jsd,
};

const char *kd_loss_term_name(enum kd_loss_term term)
{
    return terms[term]->name;
}

bool kd_loss_needs_teacher(const kd_loss *l)
{
    for (int t = 0; t < KD_LOSS_TERMS; t++)
        if (l->weight[t] != 0 && terms[t]->needs_teacher)
            return true;
    return false;
}

bool kd_loss_needs_labels(const kd_loss *l)
{
    for (int t = 0; t < KD_LOSS_TERMS; t++)
        if (l->weight[t] != 0 && terms[t]->hard)
            return true;
    return false;
}

bool kd_loss_needs_batch(const kd_loss *l)
{
    return l->weight[KD_TERM_DIST] != 0 && l->dist_intra != 0;
}

/* ---- check */

static int in_range(double x, const char *name, double least, double most, kd_diag *diag)
{
    if (x >= least && x <= most)
        return 0;
    return kd_fail(diag, -KD_EINVAL, "the loss's %s is %g; it has to be from %g to %g", name, x,
                   least, most);
}

int kd_loss_check(const kd_loss *l, int classes, kd_diag *diag)
{
    /* The least double above 0 and below 1 that is worth telling apart from them. */
    const double tiny = 1e-9;
    int rc = 0;
    double sum = 0;
    if (classes < 2)
        return kd_fail(diag, -KD_EINVAL, "a loss needs 2 classes or more, not %d", classes);
    for (int t = 0; t < KD_LOSS_TERMS && rc == 0; t++) {
        rc = in_range(l->weight[t], terms[t]->name, 0, MAX_WEIGHT, diag);
        sum += l->weight[t];
    }
    if (rc == 0 && sum == 0)
        rc = kd_fail(diag, -KD_EINVAL, "the loss has no term: every weight is 0");
    const struct {
        bool used;
        double x;
        const char *name;
        double least, most;
    } fields[] = {
        {l->t2 != KD_LOSS_T2_NONE || l->weight[KD_TERM_KD] + l->weight[KD_TERM_DKD] +
                                             l->weight[KD_TERM_DIST] + l->weight[KD_TERM_JSD] !=
                                         0,
         l->temperature, "temperature", tiny, 1e9},
        {l->weight[KD_TERM_CE] != 0, l->smoothing, "label smoothing", 0, 1 - tiny},
        {l->weight[KD_TERM_DKD] != 0, l->dkd_alpha, "dkd_alpha", 0, MAX_WEIGHT},
        {l->weight[KD_TERM_DKD] != 0, l->dkd_beta, "dkd_beta", 0, MAX_WEIGHT},
        {l->weight[KD_TERM_DIST] != 0, l->dist_inter, "dist_inter", 0, MAX_WEIGHT},
        {l->weight[KD_TERM_DIST] != 0, l->dist_intra, "dist_intra", 0, MAX_WEIGHT},
        {l->weight[KD_TERM_NKD] != 0, l->nkd_gamma, "nkd_gamma", 0, MAX_WEIGHT},
        {l->weight[KD_TERM_NKD] != 0, l->nkd_temperature, "nkd_temperature", tiny, 1e9},
        {l->weight[KD_TERM_JSD] != 0, l->jsd_beta, "jsd_beta", 0, 1},
    };
    for (size_t i = 0; i < KD_COUNT(fields) && rc == 0; i++)
        if (fields[i].used)
            rc = in_range(fields[i].x, fields[i].name, fields[i].least, fields[i].most, diag);
    return rc;
}

/* ---- rows */

/* Each term's factor in the total: weight, t2 and normalisation. */
static void factors_of(const kd_loss *l, double factor[KD_LOSS_TERMS])
{
    const double square = l->temperature * l->temperature;
    double all = l->t2 == KD_LOSS_T2_ALL ? square : 1, sum = 0;
    for (int t = 0; t < KD_LOSS_TERMS; t++) {
        const bool soft = t == KD_TERM_KD || t == KD_TERM_DKD;
        factor[t] = l->weight[t] * (soft && l->t2 == KD_LOSS_T2_SOFT ? square : 1);
        sum += l->weight[t];
    }
    if (l->normalise)
        all /= sum;
    for (int t = 0; t < KD_LOSS_TERMS; t++)
        factor[t] *= all;
}

/* A term of a row, with one label: a mixed sample has each hard term twice. */
typedef struct {
    enum kd_loss_term term;
    double coef;
    kd_row row;
    kd_memo memo;
} part;

static int parts_of(const double *factor, const kd_row *row, const kd_target *target,
                    part parts[2 * KD_LOSS_TERMS])
{
    int n = 0;
    const bool mixed = target->label >= 0 && target->other >= 0;
    const double share = mixed ? (double)target->share : 1;
    for (int t = 0; t < KD_LOSS_TERMS; t++)
        for (int k = 0; k < (mixed && terms[t]->hard ? 2 : 1); k++) {
            part *p = &parts[n];
            p->term = (enum kd_loss_term)t;
            p->row = *row;
            p->row.label = k ? target->other : target->label;
            p->coef = factor[t];
            if (terms[t]->hard)
                p->coef *= p->row.label < 0 ? 0 : k ? 1 - share : share;
            n += p->coef != 0;
        }
    return n;
}

/* Overwrites d_z with scale * gradient and adds each term's L1 norm to pull; false, with d_z zero,
 * when a number does not fit a float. */
static bool gradient(const part *parts, int n_parts, int classes, double scale, float *d_z,
                     double pull[KD_LOSS_TERMS])
{
    double sum[BLOCK], whole[BLOCK], d[BLOCK];
    bool finite = true;
    for (int from = 0; from < classes; from += BLOCK) {
        const int to = KD_MIN(from + BLOCK, classes), n = to - from;
        memset(sum, 0, sizeof sum);
        for (int k = 0; k < n_parts; k++) {
            const part *p = &parts[k];
            terms[p->term]->slope(&p->row, &p->memo, p->coef, from, to, d);
            /* Both labels' parts of a mixed sample are one term. */
            const bool first = k == 0 || parts[k - 1].term != p->term;
            const bool last = k == n_parts - 1 || parts[k + 1].term != p->term;
            for (int j = 0; j < n; j++)
                whole[j] = first ? d[j] : whole[j] + d[j];
            for (int j = 0; last && j < n; j++) {
                sum[j] += whole[j];
                pull[p->term] += fabs(whole[j]);
            }
        }
        for (int j = 0; j < n; j++) {
            d_z[from + j] = (float)(scale * sum[j]);
            finite = finite && isfinite(d_z[from + j]);
        }
    }
    if (!finite)
        memset(d_z, 0, (size_t)classes * sizeof *d_z);
    return finite;
}

void kd_loss_apply(const kd_loss *l, int n, int classes, const float *z, const float *v,
                   const kd_target *targets, const float *weight, double inv_batch,
                   const double *stats, float *d_z, kd_loss_sums *out)
{
    const bool teacher = kd_loss_needs_teacher(l);
    KD_BUG_ON((teacher && !v) || (kd_loss_needs_batch(l) && !stats));
    double factor[KD_LOSS_TERMS];
    factors_of(l, factor);
    kd_loss_sums sums = {.bad = -1};
    for (int i = 0; i < n; i++) {
        const size_t at = (size_t)i * (size_t)classes;
        const kd_row row = {l, classes, z + at, teacher ? v + at : NULL, -1, stats};
        const kd_target *target = &targets[i];
        float *d_row = d_z ? d_z + at : NULL;
        const double w = (double)weight[i];
        KD_BUG_ON(target->label >= classes || target->other >= classes);
        KD_BUG_ON(target->other >= 0 && !(target->share >= 0 && target->share <= 1));
        if (d_row)
            memset(d_row, 0, (size_t)classes * sizeof *d_row);
        /* Padding is never looked at: whatever stands in it, NaN included, changes no sum. */
        if (w == 0)
            continue;
        sums.samples += w;
        double loss = NAN, pull[KD_LOSS_TERMS] = {0};
        if (kd_row_is_finite(row.z, classes) && (!teacher || kd_row_is_finite(row.v, classes))) {
            part parts[2 * KD_LOSS_TERMS];
            const int n_parts = parts_of(factor, &row, target, parts);
            loss = 0;
            for (int k = 0; k < n_parts; k++) {
                part *p = &parts[k];
                const double value = p->coef * terms[p->term]->value(&p->row, &p->memo);
                loss += value;
                sums.value[p->term] += w * value;
            }
            if (d_row && !gradient(parts, n_parts, classes, w * inv_batch, d_row, pull))
                loss = NAN;
        }
        if (!isfinite(loss) && sums.bad < 0)
            sums.bad = i;
        sums.loss += w * loss;
        for (int t = 0; t < KD_LOSS_TERMS; t++)
            sums.pull[t] += w * pull[t];
        if (kd_argmax(row.z, classes) == target->label)
            sums.correct += w;
    }
    *out = sums;
}
