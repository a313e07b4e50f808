/* Losses on logits, value and gradient; what a teacher is made of; numbers for evaluation.
 *
 *   z student logits, v teacher logits [n, classes]; y label; T temperature
 *   q = softmax(v/T), p = softmax(z/T); one row's terms:
 *   ce    -sum_j y'_j log softmax(z)_j with y' = (1-s) [j=y] + s/C, s the smoothing
 *   kd    KL(q||p): 0 where the student equals the teacher. Its gradient is that of the
 * cross-entropy -sum q log p. With standardise q and p are softmax(x~/T), x~ = (x - mean x)/(std x
 * + 1e-7), std the unbiased one (over C-1) mse   mean: (1/C) sum (z-v)^2;  half: 1/2 sum (z-v)^2
 *   dkd   alpha KL(b(q)||b(p)) + beta KL(q^||p^): b = (of y, of all others), ^ = softmax(./T) over
 * the classes other than y dist  inter (1 - rho(p, q)) + intra (1 - mean_j rho(p_:j, q_:j)), rho
 * Pearson's correlation with 1e-8 added to the product of the norms; the second runs over the whole
 * batch nkd   -q_y log p_y - gamma L^2 sum_{j!=y} q^_j log p^_j: q_y and p_y at temperature 1, ^
 * over the others at temperature L (nkd_temperature) jsd   b KL(q||m) + (1-b) KL(p||m), m = b q +
 * (1-b) p, b = jsd_beta; b = 0: KL(q||p), b = 1: KL(p||q) total sum_t weight_t s_t t [/ sum_t
 * weight_t when normalise] t2 none: s = 1; soft: s = T^2 for kd and dkd (Hinton; mdistiller), 1 for
 * the others; all: T^2 for every term
 *
 * One reduction: sum over classes, mean over the real samples of the global batch.
 * float32 in, float64 inside through log-softmax; finite for logits of +-1e4 and T from 0.1 to 1e6.
 * Sources: Hinton et al. 2015 section 2; Tang et al. 2019; Paul's report (t2 none, normalise);
 * Szegedy et al. 2016 (smoothing); Zhao et al. 2022 (DKD); Huang et al. 2022 (DIST; its authors'
 * classification code multiplies by T^2, the paper does not); Sun et al. 2024 (standardise); Yang
 * et al. 2023 (NKD); Agarwal et al. 2024 (JSD). Threads: reentrant; nothing here allocates. */
#ifndef KD_DISTILL_LOSS_H
#define KD_DISTILL_LOSS_H

#include "kd/err.h"

enum kd_loss_term {
    KD_TERM_CE,
    KD_TERM_KD,
    KD_TERM_MSE,
    KD_TERM_DKD,
    KD_TERM_DIST,
    KD_TERM_NKD,
    KD_TERM_JSD,
    KD_LOSS_TERMS
};
/* "ce", "kd", "mse", "dkd", "dist", "nkd", "jsd". */
const char *kd_loss_term_name(enum kd_loss_term term);

enum kd_loss_t2 { KD_LOSS_T2_NONE, KD_LOSS_T2_SOFT, KD_LOSS_T2_ALL };
typedef struct kd_loss {
    double weight[KD_LOSS_TERMS]; /* >= 0; a term of weight 0 is not computed */
    double temperature;           /* > 0; of kd, dkd, dist, jsd and of t2 */
    enum kd_loss_t2 t2;
    bool mse_half;
    bool normalise;
    bool standardise; /* kd alone */
    double smoothing; /* [0, 1) */
    double dkd_alpha, dkd_beta;
    double dist_inter, dist_intra;
    double nkd_gamma, nkd_temperature; /* >= 0, > 0 */
    double jsd_beta;                   /* [0, 1] */
} kd_loss;

/* What a sample is. Hard terms (ce, dkd, nkd) of a mixed sample are share times the term of label
 * plus 1-share times the term of other. */
typedef struct kd_target {
    int32_t label; /* -1 = unlabelled: hard terms are 0 */
    int32_t other; /* -1 = not mixed, share is not read */
    float share;   /* of label, [0, 1] */
} kd_target;

typedef struct kd_loss_sums {
    double loss;    /* sum over samples of weight * total */
    double correct; /* sum of weight where argmax z = label (first maximum) */
    double samples; /* sum of weight */
    /* Sum over samples of weight * the term as it stands in the total. */
    double value[KD_LOSS_TERMS];
    /* Sum over samples of weight * L1 norm of that term's gradient on the logits: which share each
     * term has in what moves the student. 0 when d_z is NULL. */
    double pull[KD_LOSS_TERMS];
    int bad; /* row of the first non-finite value, -1 = none */
} kd_loss_sums;

/* Refuses weights that are negative, not finite, above 1e6 or all zero, and parameters outside
 * their ranges: -KD_EINVAL with the field's name. Only what a term of non-zero weight reads is
 * looked at. */
int kd_loss_check(const kd_loss *l, int classes, kd_diag *diag) KD_MUST_CHECK;
bool kd_loss_needs_teacher(const kd_loss *l);
/* False: the loss is the same whatever the labels are. */
bool kd_loss_needs_labels(const kd_loss *l);
/* True: kd_loss_couple has to run before kd_loss_apply. */
bool kd_loss_needs_batch(const kd_loss *l);

/* What the rows of the global batch have in common (dist's intra term), from all of them in the
 * order of the batch, so that each slot can then do its own rows. z, v [n, classes]; weight [n], 0
 * = padding, which is not read. stats [classes * KD_LOSS_STATS] overwritten. A batch of one real
 * row has correlations of 0 and no gradient from them. -KD_EDATA names a row that is not finite. */
#define KD_LOSS_STATS 5
int kd_loss_couple(const kd_loss *l, int n, int classes, const float *z, const float *v,
                   const float *weight, double *stats, kd_diag *diag) KD_MUST_CHECK;

/* v may be NULL if the teacher is not needed. targets [n]. weight [n]: 1 real, 0 padding (its row
 * of d_z is 0). d_z [n, classes] overwritten with weight * inv_batch * d total / d z; may be NULL
 * for the value alone. inv_batch = 1 / real samples of the global batch. stats: of kd_loss_couple;
 * NULL unless the loss needs the batch. Order of reduction: classes by number within a row, then
 * rows by number, one after the other in float64; a row's gradient depends on its own row (and
 * stats) alone, and the intra term is shared out over rows so that the sum over all slots of loss *
 * inv_batch is that of the whole batch. A row with a value that is not finite gets a zero gradient,
 * makes the loss NaN and is reported in `bad`. */
void kd_loss_apply(const kd_loss *l, int n, int classes, const float *z, const float *v,
                   const kd_target *targets, const float *weight, double inv_batch,
                   const double *stats, float *d_z, kd_loss_sums *out);

/* One row of teacher logits from n teachers' rows [classes]; share [n] >= 0, their sum 1; 1 <= n <=
 * KD_ENSEMBLE_MAX. LOGITS: weighted mean. PROBABILITIES: T log(sum_i share_i softmax(v_i/T)) plus
 * the constant that gives the row the mean of the weighted mean, so that softmax(v_out/T) is the
 * mean of the probabilities at T and squared errors on raw logits keep their meaning. A single
 * teacher's row is copied. v_out must not overlap the rows. */
#define KD_ENSEMBLE_MAX 16
enum kd_ensemble_kind { KD_COMBINE_LOGITS, KD_COMBINE_PROBABILITIES };
void kd_ensemble_logits(enum kd_ensemble_kind kind, int n, const double *share, double temperature,
                        int classes, const float *const *rows, float *v_out);

/* Numbers for evaluation at temperature 1, in nats; NaN where a row is not finite. */
int kd_argmax(const float *z, int classes); /* first maximum */
double kd_cross_entropy(const float *z, int classes, int32_t label);
double kd_kl(const float *v, const float *z, int classes); /* KL(softmax v || softmax z) */

#endif
