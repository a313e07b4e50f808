#include "kd/bfloat16.h"

#include <string.h>

static inline uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The bits of the nearest bfloat16; the lower half is 0. Without a branch, for vector units. */
static inline uint32_t nearest(float x)
{
    uint32_t u = bits_of(x);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000u;
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : rounded;
}

static inline float packed_at(const void *packed, size_t i)
{
    uint16_t half;
    memcpy(&half, (const char *)packed + i * sizeof half, sizeof half);
    return float_of((uint32_t)half << 16);
}

void kd_bfloat16_round(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = float_of(nearest(x[i]));
}

void kd_bfloat16_add(float *sum, const float *other, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = float_of(nearest(sum[i] + other[i]));
}

void kd_bfloat16_pack(const float *x, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint16_t)(nearest(x[i]) >> 16);
}

void kd_bfloat16_unpack(const void *packed, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = packed_at(packed, i);
}

void kd_bfloat16_add_packed(float *sum, const void *packed, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = float_of(nearest(sum[i] + packed_at(packed, i)));
}
