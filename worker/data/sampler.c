#include "data/sampler.h"

#include "kd/err.h"
#include "kd/rng.h"

void kd_sampler_order(uint64_t seed, uint32_t epoch, size_t n, uint32_t *order)
{
    KD_BUG_ON(n > UINT32_MAX);
    kd_rng rng;
    kd_rng_init(&rng, seed, KD_RNG_SHUFFLE, epoch, 0);
    for (size_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        uint32_t k = kd_rng_below(&rng, (uint32_t)i), t = order[i - 1];
        order[i - 1] = order[k];
        order[k] = t;
    }
}
