/* Blind changes of bytes, for the tests that mutate good input. */
#ifndef KD_FUZZ_MUTATE_H
#define KD_FUZZ_MUTATE_H

#include "kd/rng.h"

#include <string.h>

/* One change: a byte, a bit, a cut, a repeated stretch, or a length blown up. p has room for `cap`
 * bytes, at least one. Returns how many of them there are then. */
static inline size_t kd_fuzz_mutate(kd_rng *rng, uint8_t *p, size_t n, size_t cap)
{
    if (n == 0) {
        p[0] = (uint8_t)kd_rng_u32(rng);
        return 1;
    }
    size_t at = kd_rng_below(rng, (uint32_t)n), len = kd_rng_below(rng, 16) + 1;
    len = KD_MIN(len, n - at);
    switch (kd_rng_below(rng, 6)) {
    case 0:
        p[at] = (uint8_t)kd_rng_u32(rng);
        return n;
    case 1:
        p[at] ^= (uint8_t)(1u << kd_rng_below(rng, 8));
        return n;
    case 2:
        return at;
    case 3:
        if (n + len > cap)
            return n;
        memmove(p + at + len, p + at, n - at);
        return n + len;
    case 4:
        memset(p + at, 0xff, KD_MIN(n - at, (size_t)5));
        return n;
    default:
        memmove(p + at, p + at + len, n - at - len);
        return n - len;
    }
}

#endif
