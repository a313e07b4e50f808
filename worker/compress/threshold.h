/* Where to cut values off before they are rounded to 8 bits, from a histogram of their absolute
 * values. Zeros, which any unit holds exactly, do not count. Threads: reentrant. */
#ifndef KD_COMPRESS_THRESHOLD_H
#define KD_COMPRESS_THRESHOLD_H

#include "kd/err.h"

#define KD_HISTOGRAM_BINS 2048

enum kd_calibrate {
    KD_CALIBRATE_MINMAX,     /* the largest value */
    KD_CALIBRATE_PERCENTILE, /* what a given share of the values stays below */
    KD_CALIBRATE_MSE,        /* least mean squared error of the rounded values */
    KD_CALIBRATE_KL,         /* least Kullback-Leibler divergence of their distribution
                                (Migacz 2017, "8-bit inference with TensorRT") */
    KD_CALIBRATE_AUTO        /* each of those is tried (quantise.h) */
};
/* "minmax", "percentile", "mse", "kl", "auto"; -1 for another word. */
int kd_calibrate_of(const char *word);
const char *kd_calibrate_word(enum kd_calibrate method);

typedef struct kd_histogram {
    float largest; /* the last bin's end, > 0 */
    uint64_t count[KD_HISTOGRAM_BINS];
} kd_histogram;
/* Adds n values; those beyond the end go into the last bin. */
void kd_histogram_add(kd_histogram *h, const float *x, size_t n);
/* method: not KD_CALIBRATE_AUTO. levels: the largest code, 127 or 255. percentile: in (0, 100]. The
 * result is in (0, largest]. */
float kd_histogram_threshold(const kd_histogram *h, enum kd_calibrate method, int levels,
                             double percentile);

#endif
