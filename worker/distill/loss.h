/* Losses on logits, value and gradient.
 *
 *   z student logits, v teacher logits [n, classes]; y label; q = softmax(v/T), p = softmax(z/T)
 *   ce    -log softmax(z)_y
 *   kd    -sum_j q_j log p_j          (cross-entropy; differs from KL by q's entropy only)
 *   mse   mean: (1/C) sum (z-v)^2;  half: 1/2 sum (z-v)^2
 *   total (w_ce ce + w_kd s kd + w_mse mse) [/ (w_ce + w_kd + w_mse) when normalise]
 *         t2 none: s = 1; soft: s = T^2; all: s = 1 and the total times T^2
 * One reduction: sum over classes, mean over the real samples of the global batch.
 * float32 in, float64 inside through log-softmax; finite for logits of +-1e4 and T from 0.1 to 1e6.
 * Sources: Hinton et al. 2015 section 2; Tang et al. 2019; Paul's report (t2 none, normalise).
 * Threads: reentrant; no allocation for up to 65536 classes. */
#ifndef KD_DISTILL_LOSS_H
#define KD_DISTILL_LOSS_H

#include "kd/err.h"

enum kd_loss_t2 { KD_LOSS_T2_NONE, KD_LOSS_T2_SOFT, KD_LOSS_T2_ALL };
typedef struct kd_loss {
    double kd, ce, mse, temperature;
    enum kd_loss_t2 t2;
    bool mse_half;
    bool normalise;
} kd_loss;

typedef struct kd_loss_sums {
    double loss;    /* sum over samples of weight * total */
    double correct; /* sum of weight where argmax z = y (first maximum) */
    double samples; /* sum of weight */
    int bad;        /* row of the first non-finite value, -1 = none */
} kd_loss_sums;

bool kd_loss_needs_teacher(const kd_loss *l);
/* v may be NULL if the teacher is not needed. labels [n], -1 = unlabelled (hard term 0). weight
 * [n]: 1 real, 0 padding (its row of d_z is 0). d_z [n, classes] overwritten with weight *
 * inv_batch * d total / d z; may be NULL for the value alone. inv_batch = 1 / real samples of the
 * global batch. Order of reduction: classes by number within a row, then rows by number, one after
 * the other in float64; a row's gradient depends on its own row alone. A row with a value that is
 * not finite gets a zero gradient, makes the loss NaN and is reported in `bad`. */
void kd_loss_apply(const kd_loss *l, int n, int classes, const float *z, const float *v,
                   const int32_t *labels, const float *weight, double inv_batch, float *d_z,
                   kd_loss_sums *out);

#endif
