#include "kd/stats.h"

#include "kd/err.h"

#include <math.h>

void kd_wilson(uint64_t k, uint64_t n, double *lo, double *hi)
{
    *lo = 0;
    *hi = 1;
    if (n == 0 || k > n)
        return;
    const double z = 1.959963984540054;
    double N = (double)n, p = (double)k / N;
    double centre = p + z * z / (2 * N);
    double half = z * sqrt(p * (1 - p) / N + z * z / (4 * N * N));
    double scale = 1 + z * z / N;
    /* Rounding must not push the share itself out of its interval (k = n). */
    *lo = KD_MAX(KD_MIN((centre - half) / scale, p), 0);
    *hi = KD_MIN(KD_MAX((centre + half) / scale, p), 1);
}

void kd_paired_interval(const kd_paired *p, double *difference, double *lo, double *hi)
{
    double a = (double)p->both, b = (double)p->only_a, c = (double)p->only_b,
           d = (double)p->neither;
    double n = a + b + c + d;
    *difference = 0;
    *lo = -1;
    *hi = 1;
    if (n == 0)
        return;
    double p1 = (a + b) / n, p2 = (a + c) / n, l1, u1, l2, u2;
    kd_wilson(p->both + p->only_a, p->both + p->only_a + p->only_b + p->neither, &l1, &u1);
    kd_wilson(p->both + p->only_b, p->both + p->only_a + p->only_b + p->neither, &l2, &u2);
    double product = (a + b) * (c + d) * (a + c) * (b + d), top = a * d - b * c;
    /* The correlation is shrunk where it is positive, as in equation (10) of the paper. */
    if (top > 0)
        top = KD_MAX(top - n / 2, 0);
    double phi = product > 0 ? top / sqrt(product) : 0;
    double dl1 = p1 - l1, du1 = u1 - p1, dl2 = p2 - l2, du2 = u2 - p2;
    *difference = p1 - p2;
    *lo = *difference - sqrt(KD_MAX(dl1 * dl1 - 2 * phi * dl1 * du2 + du2 * du2, 0));
    *hi = *difference + sqrt(KD_MAX(du1 * du1 - 2 * phi * du1 * dl2 + dl2 * dl2, 0));
}

/* Probability that |t| with df degrees of freedom is below t. */
static double within(double t, size_t df)
{
    double angle = atan(t / sqrt((double)df)), c = cos(angle), s = sin(angle), term, sum;
    if (df % 2) {
        sum = term = df > 1 ? c : 0;
        for (size_t k = 3; k + 2 <= df; k += 2)
            sum += term *= c * c * (double)(k - 1) / (double)k;
        return 2 / M_PI * (angle + s * sum);
    }
    sum = term = 1;
    for (size_t k = 2; k + 2 <= df; k += 2)
        sum += term *= c * c * (double)(k - 1) / (double)k;
    return s * sum;
}

double kd_t_quantile(size_t df)
{
    double lo = 1.9, hi = 13;
    if (df == 0)
        return NAN;
    for (int i = 0; i < 60; i++) {
        double mid = (lo + hi) / 2;
        if (within(mid, df) < 0.95)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

void kd_mean_interval(const double *values, size_t n, double *mean, double *lo, double *hi)
{
    double sum = 0, squares = 0;
    *mean = *lo = *hi = NAN;
    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    *mean = sum / (double)n;
    if (n == 1)
        return;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - *mean) * (values[i] - *mean);
    if (squares == 0)
        return;
    double half = kd_t_quantile(n - 1) * sqrt(squares / (double)(n - 1) / (double)n);
    *lo = *mean - half;
    *hi = *mean + half;
}

enum kd_verdict kd_verdict_of(double lo, double hi)
{
    if (!isfinite(lo) || !isfinite(hi))
        return KD_VERDICT_UNKNOWN;
    return lo > 0 ? KD_VERDICT_GAIN : hi < 0 ? KD_VERDICT_LOSS : KD_VERDICT_NONE;
}

const char *kd_verdict_word(enum kd_verdict v)
{
    static const char *const words[] = {"unknown", "gain", "no gain", "loss"};
    return words[v];
}
