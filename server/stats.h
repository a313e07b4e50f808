/* The little statistics that results need. Threads: any. */
#ifndef KD_SERVER_STATS_H
#define KD_SERVER_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Value that Student's t with df >= 1 degrees of freedom stays below in magnitude 95 times in 100.
 * Source: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4, inverted. */
double kd_t95(uint32_t df);

typedef struct kd_estimate {
    double value, lo, hi; /* 95 % interval */
    bool has_interval;    /* false: one number has a value only */
} kd_estimate;

/* Mean of n >= 1 numbers with its t-interval. */
kd_estimate kd_mean_of(const double *x, size_t n);
/* Difference of two success rates measured on the same `n` samples, by how many only the one and
 * only the other has right: normal interval for matched pairs. */
kd_estimate kd_paired_difference(uint64_t only_a, uint64_t only_b, uint64_t n);

#endif
