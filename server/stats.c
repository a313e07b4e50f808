#include "stats.h"

#include <math.h>

/* Probability that |t| with df degrees of freedom is below t. */
static double within(double t, uint32_t df)
{
    double angle = atan(t / sqrt((double)df)), c = cos(angle), s = sin(angle), term, sum;
    if (df % 2) {
        sum = term = df > 1 ? c : 0;
        for (uint32_t k = 3; k + 2 <= df; k += 2)
            sum += term *= c * c * (double)(k - 1) / (double)k;
        return 2 / M_PI * (angle + s * sum);
    }
    sum = term = 1;
    for (uint32_t k = 2; k + 2 <= df; k += 2)
        sum += term *= c * c * (double)(k - 1) / (double)k;
    return s * sum;
}

double kd_t95(uint32_t df)
{
    double lo = 1.9, hi = 13;
    for (int i = 0; i < 60; i++) {
        double mid = (lo + hi) / 2;
        if (within(mid, df) < 0.95)
            lo = mid;
        else
            hi = mid;
    }
    return (lo + hi) / 2;
}

kd_estimate kd_mean_of(const double *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    kd_estimate e = {.value = sum / (double)n};
    e.lo = e.hi = e.value;
    if (n < 2)
        return e;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - e.value) * (x[i] - e.value);
    double half = kd_t95((uint32_t)n - 1) * sqrt(squares / (double)(n - 1) / (double)n);
    return (kd_estimate){e.value, e.value - half, e.value + half, true};
}

kd_estimate kd_paired_difference(uint64_t only_a, uint64_t only_b, uint64_t n)
{
    const double z = 1.959963984540054;
    if (n == 0)
        return (kd_estimate){0};
    double a = (double)only_a, b = (double)only_b, all = (double)n;
    double value = (a - b) / all, half = z * sqrt(a + b - (a - b) * (a - b) / all) / all;
    return (kd_estimate){value, value - half, value + half, true};
}
