/* Which pseudo-labelled pictures are trained on, and how often: Noisy Student's filter and balance
 * (arXiv:1911.04252; google-research/noisystudent, filter_unlabel.py). Threads: reentrant. */
#ifndef KD_BALANCE_H
#define KD_BALANCE_H

#include "kd/err.h"

#define KD_BALANCE_MAX_COPIES UINT8_MAX

/* For each class c, over the samples whose best class is c and with n_c(t) of them at confidence t
 * or more: the threshold is the highest t of 1.00, 0.99, 0.98, ... and at last min_confidence with
 * n_c(t) >= per_class; if there is none, min_confidence. Every sample of the class at its threshold
 * or above is kept in per_class / n_c copies: the whole number below that, and one more with a
 * probability of what is left, drawn by (seed, first_sample + i). Hence classes with too many are
 * thinned out at random, those with too few are repeated. Without upsample no sample is kept more
 * than once. No sample is kept more than KD_BALANCE_MAX_COPIES times, which leaves a class short
 * that needs more. per_class 0: every sample at min_confidence or above is kept once.
 *
 * confidence [n], 0..1, of the teacher's best class, compared as floats; best_class [n],
 * 0..classes-1; copies [n] is overwritten. -KD_EINVAL: a value out of its range (copies is then
 * undefined). */
int kd_balance(const float *confidence, const int32_t *best_class, size_t n, int classes,
               double min_confidence, int per_class, bool upsample, uint64_t seed,
               uint32_t first_sample, uint8_t *copies, kd_diag *diag) KD_MUST_CHECK;

#endif
