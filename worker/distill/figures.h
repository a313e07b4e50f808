/* How good a network's answers are, over a whole set of samples.
 *
 * A guess is the class of the largest logit, the lower number among equals; a sample is right among
 * five when fewer than five classes come before its own in that order. The loss is the mean
 * cross-entropy at temperature 1 in nats. Calibration is the expected calibration error over 15
 * bins of equal width of the guess's probability: sum over bins of |right answers - probabilities|
 * over n (Guo et al. 2017, arXiv:1706.04599, section 2). Threads: reentrant. */
#ifndef KD_DISTILL_FIGURES_H
#define KD_DISTILL_FIGURES_H

#include "kd/err.h"

#define KD_FIGURES_BINS 15
#define KD_FIGURES_MATRIX 1024 /* classes of a confusion matrix, at most */

typedef struct kd_figures {
    int classes;
    size_t n, correct, top5;
    double loss, ece;
    uint32_t *samples, *guessed, *right; /* [classes]: of each class, guesses of it, right ones */
    uint32_t *confusion; /* [classes][classes], rows are the true class; NULL past the limit */
} kd_figures;

/* logits [n][classes], labels [n] in 0..classes-1, in this order of summing. On success the caller
 * clears *out. -KD_ENOMEM; -KD_EDATA for logits that are not finite, with the row. */
int kd_figures_of(const float *logits, const int32_t *labels, size_t n, int classes,
                  kd_figures *out, kd_diag *diag) KD_MUST_CHECK;
void kd_figures_clear(kd_figures *f);
/* Of class c: right guesses among guesses of it, among samples of it, their harmonic mean; 0 where
 * there are none. */
double kd_figures_precision(const kd_figures *f, int c);
double kd_figures_recall(const kd_figures *f, int c);
double kd_figures_f1(const kd_figures *f, int c);

#endif
