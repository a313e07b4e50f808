#include <string.h>

#include "winograd_loops.h"

#if defined(__x86_64__)

/* A: of the output's gradient. */
INLINE void transform_gradient(const vec *from, int64_t f, vec *to, int64_t t)
{
    const vec p = axpy(PP, from[2 * f], from[0]);
    const vec p_odd = axpy(P * PP, from[3 * f], times(P, from[f]));
    const vec q = axpy(QQ, from[2 * f], from[0]);
    const vec q_odd = axpy(Q * QQ, from[3 * f], times(Q, from[f]));
    to[0] = from[0];
    to[t] = plus(p, p_odd);
    to[2 * t] = minus(p, p_odd);
    to[3 * t] = plus(q, q_odd);
    to[4 * t] = minus(q, q_odd);
    to[5 * t] = from[3 * f];
}

/* G^T: back to weights. */
INLINE void transform_back(const vec *from, int64_t f, vec *to, int64_t t)
{
    const vec p = times(GP, plus(from[f], from[2 * f]));
    const vec q = times(GQ, plus(from[3 * f], from[4 * f]));
    to[0] = axpy(G0, from[0], plus(p, q));
    to[t] =
        axpy(GP * P, minus(from[f], from[2 * f]), times(GQ * Q, minus(from[3 * f], from[4 * f])));
    to[2 * t] = axpy(PP, p, axpy(QQ, q, from[5 * f]));
}

/* As load_inputs(), of the output's gradient; adds it up in bias [k]. */
FAST static void load_gradients(const kd_winograd *s, const float *d_y, int64_t first,
                                int64_t count, int64_t block, float *v, float *bias)
{
    const int64_t blocks = s->k / LANES;
    for (int64_t b = 0; b < blocks; b++) {
        vec sum = _mm512_loadu_ps(bias + b * LANES);
        for (int64_t i = 0; i < count; i++) {
            const tile t = tile_of(s, first + i);
            vec d[SIDE * SIDE], half[SIDE * REACH], all[PLACES];
            load_tile(d_y + (t.n * blocks + b) * s->oh * s->ow * LANES, s->oh, s->ow, t.y, t.x,
                      SIDE, d);
#pragma GCC unroll 4
            for (int r = 0; r < SIDE; r++) {
                sum = plus(sum, plus(plus(d[SIDE * r], d[SIDE * r + 1]),
                                     plus(d[SIDE * r + 2], d[SIDE * r + 3])));
                transform_gradient(d + SIDE * r, 1, half + REACH * r, 1);
            }
#pragma GCC unroll 6
            for (int r = 0; r < REACH; r++)
                transform_gradient(half + r, REACH, all + r, REACH);
            store_tile(all, apart(s->k, block), v + (b * block + i) * LANES);
        }
        _mm512_storeu_ps(bias + b * LANES, sum);
    }
}

/* ---- products */

/* The products of `count` tiles for CHANNELS input channels of v and `wide` vectors of output
 * channels of d, added to u [CHANNELS][wide][16] or, if they are the first, put there. */
INLINE void outer(const float *v, const float *d, int64_t count, int64_t block, int wide,
                  bool first, float *u)
{
    vec sum[CHANNELS * WIDE];
#pragma GCC unroll 16
    for (int i = 0; i < CHANNELS * wide; i++)
        sum[i] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(u + i * LANES);
    for (int64_t t = 0; t < count; t++) {
        vec g[WIDE];
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++)
            g[j] = _mm512_loadu_ps(d + (j * block + t) * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < CHANNELS; i++) {
            const vec x = _mm512_set1_ps(v[t * LANES + i]);
#pragma GCC unroll 4
            for (int j = 0; j < wide; j++)
                sum[i * wide + j] = _mm512_fmadd_ps(x, g[j], sum[i * wide + j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < CHANNELS * wide; i++)
        _mm512_storeu_ps(u + i * LANES, sum[i]);
}

FAST static void outer_of(const float *v, const float *d, int64_t count, int64_t block,
                          int64_t wide, bool first, float *u)
{
    if (wide == 4)
        outer(v, d, count, block, 4, first, u);
    else if (wide == 3)
        outer(v, d, count, block, 3, first, u);
    else if (wide == 2)
        outer(v, d, count, block, 2, first, u);
    else
        outer(v, d, count, block, 1, first, u);
}

/* Sums of 16 output channels, places `distance` floats apart, to the weights of input channel c and
 * output channels from k on. */
INLINE void unpack(const kd_winograd *s, const float *from, int64_t distance, int64_t c, int64_t k,
                   float *weights)
{
    vec all[PLACES], half[3 * REACH], g[TAPS];
    for (int i = 0; i < PLACES; i++)
        all[i] = _mm512_loadu_ps(from + i * distance);
    for (int x = 0; x < REACH; x++)
        transform_back(all + x, REACH, half + x, REACH);
    for (int y = 0; y < 3; y++)
        transform_back(half + REACH * y, 1, g + 3 * y, 1);
    _Alignas(64) float taps[TAPS * LANES];
    for (int i = 0; i < TAPS; i++)
        _mm512_store_ps(taps + (size_t)i * LANES, g[i]);
    for (int64_t lane = 0; lane < LANES; lane++)
        for (int i = 0; i < TAPS; i++)
            weights[((k + lane) * s->c + c) * TAPS + i] = taps[i * LANES + lane];
}

/* Block after block of tiles into sums of all weights. */
FAST static void weights_of_many(const kd_winograd *s, const float *x, const float *d_y,
                                 float *scratch, float *d_weights, float *d_bias)
{
    const int64_t all = tiles(s), distance = s->c * s->k;
    float *v = scratch, *d = v + PLACES * apart(s->c, BLOCK), *u = d + PLACES * apart(s->k, BLOCK);
    for (int64_t first = 0; first < all; first += BLOCK) {
        const int64_t count = KD_MIN(all - first, (int64_t)BLOCK);
        load_inputs(s, x, first, count, BLOCK, v);
        load_gradients(s, d_y, first, count, BLOCK, d, d_bias);
        for (int64_t place = 0; place < PLACES; place++)
            for (int64_t k = 0; k < s->k; k += GROUP)
                for (int64_t c = 0; c < s->c; c += CHANNELS)
                    outer_of(v + place * apart(s->c, BLOCK) + c / LANES * BLOCK * LANES + c % LANES,
                             d + place * apart(s->k, BLOCK) + k * BLOCK, count, BLOCK,
                             KD_MIN(s->k - k, (int64_t)GROUP) / LANES, first == 0,
                             u + place * distance + packed_at(s, c, k));
    }
    for (int64_t k = 0; k < s->k; k += LANES)
        for (int64_t c = 0; c < s->c; c++)
            unpack(s, u + packed_at(s, c, k), distance, c, k, d_weights);
}

/* A few channels after the others over all tiles. */
FAST static void weights_of_few(const kd_winograd *s, const float *x, const float *d_y,
                                float *scratch, float *d_weights, float *d_bias)
{
    const int64_t all = tiles(s), block = KD_MAX(all, (int64_t)BLOCK);
    float *v = scratch, *d = v + PLACES * apart(s->c, block), *u = d + PLACES * apart(s->k, block);
    load_inputs(s, x, 0, all, block, v);
    load_gradients(s, d_y, 0, all, block, d, d_bias);
    for (int64_t k = 0; k < s->k; k += GROUP) {
        const int64_t wide = KD_MIN(s->k - k, (int64_t)GROUP) / LANES;
        const int64_t row = wide * LANES, distance = CHANNELS * row;
        for (int64_t c = 0; c < s->c; c += CHANNELS) {
            for (int64_t place = 0; place < PLACES; place++)
                outer_of(v + place * apart(s->c, block) + c / LANES * block * LANES + c % LANES,
                         d + place * apart(s->k, block) + k * block, all, block, wide, true,
                         u + place * distance);
            for (int64_t i = 0; i < CHANNELS; i++)
                for (int64_t j = 0; j < row; j += LANES)
                    unpack(s, u + i * row + j, distance, c + i, k + j, d_weights);
        }
    }
}

FAST void kd_winograd_weights(const kd_winograd *s, const float *x, const float *d_y,
                              float *scratch, float *d_weights, float *d_bias)
{
    memset(d_bias, 0, (size_t)s->k * sizeof *d_bias);
    (few_tiles(s) ? weights_of_few : weights_of_many)(s, x, d_y, scratch, d_weights, d_bias);
}

#else

void kd_winograd_weights(const kd_winograd *s, const float *x, const float *d_y, float *scratch,
                         float *d_weights, float *d_bias)
{
    (void)s, (void)x, (void)d_y, (void)scratch, (void)d_weights, (void)d_bias;
}

#endif
