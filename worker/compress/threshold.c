#include "compress/threshold.h"

#include <math.h>
#include <string.h>

#define BINS KD_HISTOGRAM_BINS
#define STEP 8     /* bins between two thresholds that are tried */
#define EMPTY 1e-9 /* probability of what a rounded distribution lacks */

static const char *const g_words[] = {
    [KD_CALIBRATE_MINMAX] = "minmax", [KD_CALIBRATE_PERCENTILE] = "percentile",
    [KD_CALIBRATE_MSE] = "mse",       [KD_CALIBRATE_KL] = "kl",
    [KD_CALIBRATE_AUTO] = "auto",
};

int kd_calibrate_of(const char *word)
{
    for (size_t i = 0; i < KD_COUNT(g_words); i++)
        if (strcmp(g_words[i], word) == 0)
            return (int)i;
    return -1;
}

const char *kd_calibrate_word(enum kd_calibrate method)
{
    return g_words[method];
}

void kd_histogram_add(kd_histogram *h, const float *x, size_t n)
{
    const float scale = BINS / h->largest;
    for (size_t i = 0; i < n; i++) {
        const float at = fabsf(x[i]) * scale;
        if (at > 0)
            h->count[at < BINS ? (int)at : BINS - 1]++;
    }
}

static int by_percentile(const kd_histogram *h, double percentile)
{
    uint64_t all = 0, below = 0;
    for (int i = 0; i < BINS; i++)
        all += h->count[i];
    for (int i = 0; i < BINS; i++) {
        below += h->count[i];
        if ((double)below >= percentile / 100 * (double)all)
            return i + 1;
    }
    return BINS;
}

/* Of a cut after `bins`; a value counts as its bin's middle. */
static double squared_error(const kd_histogram *h, int bins, int levels)
{
    const double unit = (double)bins / levels;
    double sum = 0;
    for (int i = 0; i < BINS; i++) {
        const double x = i + 0.5, off = x - fmin(nearbyint(x / unit), levels) * unit;
        sum += (double)h->count[i] * off * off;
    }
    return sum;
}

/* Of the values cut off after `bins`, against the same in levels + 1 steps of one height each. */
static double divergence(const kd_histogram *h, int bins, int levels)
{
    double p[BINS], q[BINS], beyond = 0, all = 0, kept = 0, kl = 0;
    const int steps = levels + 1;
    for (int i = 0; i < BINS; i++) {
        all += (double)h->count[i];
        if (i < bins)
            p[i] = (double)h->count[i];
        else
            beyond += (double)h->count[i];
    }
    p[bins - 1] += beyond;
    for (int s = 0; s < steps; s++) {
        const int first = s * bins / steps, end = (s + 1) * bins / steps;
        double sum = 0;
        int filled = 0;
        for (int i = first; i < end; i++) {
            sum += (double)h->count[i];
            filled += h->count[i] > 0;
        }
        for (int i = first; i < end; i++)
            q[i] = h->count[i] > 0 ? sum / filled : 0;
        kept += sum;
    }
    for (int i = 0; i < bins; i++)
        if (p[i] > 0)
            kl += p[i] / all * log(p[i] / all / fmax(kept > 0 ? q[i] / kept : 0, EMPTY));
    return kl;
}

float kd_histogram_threshold(const kd_histogram *h, enum kd_calibrate method, int levels,
                             double percentile)
{
    int best = BINS;
    double least = INFINITY;
    if (method == KD_CALIBRATE_PERCENTILE)
        best = by_percentile(h, percentile);
    for (int bins = levels + 1;
         bins <= BINS && (method == KD_CALIBRATE_MSE || method == KD_CALIBRATE_KL); bins += STEP) {
        const double off = method == KD_CALIBRATE_MSE ? squared_error(h, bins, levels)
                                                      : divergence(h, bins, levels);
        if (off < least) {
            least = off;
            best = bins;
        }
    }
    return h->largest * (float)best / BINS;
}
