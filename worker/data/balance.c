#include "data/balance.h"
int kd_balance(const float *confidence, const int32_t *best_class, size_t n, int classes,
               double min_confidence, int per_class, bool upsample, uint64_t seed,
               uint32_t first_sample, uint8_t *copies, kd_diag *diag)
{
    (void)best_class;
    (void)classes;
    (void)per_class;
    (void)upsample;
    (void)seed;
    (void)first_sample;
    (void)diag;
    for (size_t i = 0; i < n; i++)
        copies[i] = (double)confidence[i] >= min_confidence;
    return 0;
}
