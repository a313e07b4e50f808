#include "data/exact.h"

#include "kd/err.h"

#include <math.h>

/* ln 2 in two parts; the upper one has zeros at its end, so that its multiples by small whole
 * numbers are exact. */
#define LN2_HIGH 0x1.62e42feep-1
#define LN2_LOW 0x1.a39ef35793c76p-33
#define PI_180 0x1.1df46a2529d39p-6

double kd_exact_log(double x)
{
    int e;
    KD_BUG_ON(!(x > 0));
    double m = frexp(x, &e);
    if (m < 0x1.6a09e667f3bcdp-1) { /* sqrt(1/2) */
        m *= 2;
        e--;
    }
    /* ln m = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...), |s| < 0.172 */
    double s = (m - 1) / (m + 1), z = s * s, sum = 0;
    for (int k = 25; k >= 1; k -= 2)
        sum = sum * z + 1.0 / k;
    return (double)e * LN2_HIGH + ((double)e * LN2_LOW + 2 * s * sum);
}

double kd_exact_exp(double x)
{
    if (x < -700)
        return 0;
    x = KD_MIN(x, 700);
    double n = floor(x / (LN2_HIGH + LN2_LOW) + 0.5);
    double r = (x - n * LN2_HIGH) - n * LN2_LOW, sum = 1; /* |r| < 0.35 */
    for (int k = 15; k >= 1; k--)
        sum = 1 + sum * r / k;
    return ldexp(sum, (int)n);
}

void kd_exact_sincos(double degrees, double *out_sin, double *out_cos)
{
    KD_BUG_ON(!(degrees >= -360 && degrees <= 360));
    int quarter = (int)floor(degrees / 90 + 0.5);
    double x = (degrees - 90.0 * quarter) * PI_180, z = x * x, s = 1, c = 1; /* |x| <= pi/4 */
    for (int k = 16; k >= 2; k -= 2) {
        s = 1 - s * z / (k * (k + 1));
        c = 1 - c * z / (k * (k - 1));
    }
    s *= x;
    const double turned[4][2] = {{s, c}, {c, -s}, {-s, -c}, {-c, s}};
    *out_sin = turned[(quarter + 8) % 4][0];
    *out_cos = turned[(quarter + 8) % 4][1];
}
