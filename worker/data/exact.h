/* Elementary functions out of additions, multiplications and divisions only: IEEE 754 rounds
 * those in one way, so the bits are the same with every C library and on every processor. Good to
 * some 1e-15. Threads: reentrant. */
#ifndef KD_EXACT_H
#define KD_EXACT_H

/* x > 0, finite and normal. */
double kd_exact_log(double x);
/* 0 below -700, exp(700) above 700. */
double kd_exact_exp(double x);
/* Of an angle in degrees, -360..360. */
void kd_exact_sincos(double degrees, double *out_sin, double *out_cos);

#endif
