/* Intervals for what is measured: shares of one sample, differences of two shares on the same
 * sample, means over seeds. All at 95 %. Threads: reentrant. */
#ifndef KD_STATS_H
#define KD_STATS_H

#include <stddef.h>
#include <stdint.h>

/* Wilson score interval of k successes in n trials (Wilson 1927; z = 1.959964). n = 0: [0,1]. */
void kd_wilson(uint64_t k, uint64_t n, double *lo, double *hi);

/* What two networks do on the same pictures: both right, only a, only b, neither. */
typedef struct kd_paired {
    uint64_t both, only_a, only_b, neither;
} kd_paired;

/* Accuracy of a minus accuracy of b and its interval: Newcombe (1998), Statistics in Medicine 17,
 * 2635-2650, method 10: square-and-add on Wilson limits with the paired correlation, continuity
 * corrected. Without pictures: 0 and [-1, 1]. */
void kd_paired_interval(const kd_paired *p, double *difference, double *lo, double *hi);

/* Mean of n values and Student's t interval over them. lo = hi = NAN where nothing can be said of
 * how they spread: n = 1, or all the same. n = 0: all NAN. */
void kd_mean_interval(const double *values, size_t n, double *mean, double *lo, double *hi);
/* Value that Student's t with df >= 1 degrees of freedom stays below in magnitude 95 times in 100;
 * NAN for 0. Source: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, inverted. */
double kd_t_quantile(size_t df);

enum kd_verdict { KD_VERDICT_UNKNOWN, KD_VERDICT_GAIN, KD_VERDICT_NONE, KD_VERDICT_LOSS };
/* A gain when all of the interval lies above 0, a loss when below, else none; unknown when a limit
 * is not finite. */
enum kd_verdict kd_verdict_of(double lo, double hi);
/* "gain", "no gain", "loss", "unknown" */
const char *kd_verdict_word(enum kd_verdict v);

#endif
