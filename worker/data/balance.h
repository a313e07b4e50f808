#include "kd/err.h"
int kd_balance(const float *confidence, const int32_t *best_class, size_t n, int classes,
               double min_confidence, int per_class, bool upsample, uint64_t seed,
               uint32_t first_sample, uint8_t *copies, kd_diag *);
