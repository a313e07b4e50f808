#include "kd/rng.h"

#include <math.h>
#include <xxhash.h>

static void philox(const uint32_t key_in[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key_in[0], k1 = key_in[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void kd_rng_init(kd_rng *r, uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b)
{
    /* Names are wider than the counter, so they are hashed into key and counter together (160 bits
     * in all): a clash between two of 2^40 streams has probability below 2^-80. */
    uint64_t name[4] = {seed, purpose, a, b};
    XXH128_hash_t h = XXH3_128bits(name, sizeof name);
    uint64_t extra = XXH64(name, sizeof name, 0);
    r->key[0] = (uint32_t)h.low64;
    r->key[1] = (uint32_t)(h.low64 >> 32);
    r->counter[0] = 0;
    r->counter[1] = (uint32_t)extra;
    r->counter[2] = (uint32_t)h.high64;
    r->counter[3] = (uint32_t)(h.high64 >> 32);
    r->used = 4;
}

uint32_t kd_rng_u32(kd_rng *r)
{
    if (r->used == 4) {
        philox(r->key, r->counter, r->block);
        r->counter[0]++;
        r->used = 0;
    }
    return r->block[r->used++];
}

uint64_t kd_rng_u64(kd_rng *r)
{
    uint64_t low = kd_rng_u32(r);
    return low | (uint64_t)kd_rng_u32(r) << 32;
}

uint32_t kd_rng_below(kd_rng *r, uint32_t n)
{
    uint64_t m = (uint64_t)kd_rng_u32(r) * n;
    if ((uint32_t)m < n) {
        uint32_t floor = (uint32_t)(-n) % n;
        while ((uint32_t)m < floor)
            m = (uint64_t)kd_rng_u32(r) * n;
    }
    return (uint32_t)(m >> 32);
}

float kd_rng_float(kd_rng *r)
{
    return (float)(kd_rng_u32(r) >> 8) * 0x1p-24f;
}

double kd_rng_double(kd_rng *r)
{
    return (double)(kd_rng_u64(r) >> 11) * 0x1p-53;
}

double kd_rng_normal(kd_rng *r)
{
    for (;;) {
        double u = 2 * kd_rng_double(r) - 1, v = 2 * kd_rng_double(r) - 1;
        double s = u * u + v * v;
        if (s > 0 && s < 1)
            return u * sqrt(-2 * log(s) / s);
    }
}
