#include "stats.h"

#include "format.h"

#include <math.h>

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

double kd_t_quantile(size_t df)
{
    static const double table[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469,
                                   2.3646,  2.3060, 2.2622, 2.2281, 2.2010, 2.1788,
                                   2.1604,  2.1448, 2.1314, 2.1199, 2.1098, 2.1009};
    const double z = 1.959963984540054;
    if (df == 0)
        return NAN;
    if (df <= KD_COUNT(table))
        return table[df - 1];
    /* Abramowitz and Stegun, 26.7.5. */
    double v = (double)df, z3 = z * z * z, z5 = z3 * z * z;
    return z + (z3 + z) / (4 * v) + (5 * z5 + 16 * z3 + 3 * z) / (96 * v * v);
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
