/* What winograd.c and winograd_weights.c share: how tiles and weights lie, and the transforms in
 * one direction. */
#ifndef KD_ENGINE_WINOGRAD_LOOPS_H
#define KD_ENGINE_WINOGRAD_LOOPS_H

#include "kd/err.h"
#include "winograd.h"

/* Tiles go in blocks, so that what stands between the transforms stays in the cache: for each of
 * the 36 places of a transformed tile a matrix product of the block's tiles and the weights. */
enum { LANES = 16, SIDE = 4, REACH = 6, PLACES = REACH * REACH, TAPS = 9, BLOCK = 24, ROWS = 6 };
/* Output channels that a product takes at once, in vectors and in floats; input channels that the
 * weights' gradient takes at once. */
enum { WIDE = 4, GROUP = WIDE * LANES, CHANNELS = 4 };

static inline int64_t tiles_down(const kd_winograd *s)
{
    return (s->oh + SIDE - 1) / SIDE;
}
static inline int64_t tiles_across(const kd_winograd *s)
{
    return (s->ow + SIDE - 1) / SIDE;
}

static inline int64_t tiles(const kd_winograd *s)
{
    return s->n * tiles_down(s) * tiles_across(s);
}

/* Floats of `block` tiles at one of the places, [channels / 16][block][16] and a vector more, so
 * that a tile's places do not all fall into the same set of the cache. */
static inline int64_t apart(int64_t channels, int64_t block)
{
    return channels * block + LANES;
}

/* Whether all tiles together are no more than the weights: then their gradient is finished a few
 * channels at a time instead of all of it being added to block after block. */
static inline bool few_tiles(const kd_winograd *s)
{
    return tiles(s) * (s->c + s->k) <= s->c * s->k;
}

#if defined(__x86_64__)
#include <immintrin.h>
#define FAST __attribute__((target("avx512f,prfchw")))
#define INLINE static inline __attribute__((always_inline)) FAST

/* The points and what is made of them. */
#define P 0.6875F
#define Q 1.5F
#define PP (P * P)
#define QQ (Q * Q)
#define G0 (1 / (PP * QQ))
#define GP (1 / (2 * PP * (PP - QQ)))
#define GQ (1 / (2 * QQ * (QQ - PP)))

typedef __m512 vec;

INLINE vec times(float a, vec x)
{
    return _mm512_mul_ps(_mm512_set1_ps(a), x);
}
/* a x + y */
INLINE vec axpy(float a, vec x, vec y)
{
    return _mm512_fmadd_ps(_mm512_set1_ps(a), x, y);
}
INLINE vec plus(vec x, vec y)
{
    return _mm512_add_ps(x, y);
}
INLINE vec minus(vec x, vec y)
{
    return _mm512_sub_ps(x, y);
}

/* ---- the transforms in one direction: `from` and `to` with a distance between their elements */

/* B^T: of the input's places. */
INLINE void transform_input(const vec *from, int64_t f, vec *to, int64_t t)
{
    const vec a = axpy(-QQ, from[2 * f], from[4 * f]), b = axpy(-QQ, from[f], from[3 * f]);
    const vec c = axpy(-PP, from[2 * f], from[4 * f]), d = axpy(-PP, from[f], from[3 * f]);
    to[0] = axpy(PP * QQ, from[0], axpy(-(PP + QQ), from[2 * f], from[4 * f]));
    to[t] = axpy(P, b, a);
    to[2 * t] = axpy(-P, b, a);
    to[3 * t] = axpy(Q, d, c);
    to[4 * t] = axpy(-Q, d, c);
    to[5 * t] = axpy(PP * QQ, from[f], axpy(-(PP + QQ), from[3 * f], from[5 * f]));
}

/* ---- weights: [place][group of GROUP output channels][c][channel of the group] */

/* Where the vector of 16 output channels from k on stands for one input channel, at place 0. */
static inline int64_t packed_at(const kd_winograd *s, int64_t c, int64_t k)
{
    const int64_t first = k / GROUP * GROUP, wide = KD_MIN(s->k - first, (int64_t)GROUP);
    return first * s->c + c * wide + k - first;
}

/* ---- tiles of values */

typedef struct {
    int64_t n, y, x; /* image, and place of the tile's first result */
} tile;

static inline tile tile_of(const kd_winograd *s, int64_t index)
{
    const int64_t across = tiles_across(s), each = tiles_down(s) * across;
    return (tile){index / each, index % each / across * SIDE, index % across * SIDE};
}

/* side x side places from (y, x) on of a picture [h][w][LANES], zeros outside of it. */
INLINE void load_tile(const float *picture, int64_t h, int64_t w, int64_t y, int64_t x, int side,
                      vec *to)
{
    if (y >= 0 && x >= 0 && y + side <= h && x + side <= w) {
        const float *from = picture + (y * w + x) * LANES;
#pragma GCC unroll 6
        for (int i = 0; i < side; i++)
#pragma GCC unroll 6
            for (int j = 0; j < side; j++)
                to[i * side + j] = _mm512_loadu_ps(from + (i * w + j) * LANES);
        return;
    }
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            const bool inside = y + i >= 0 && y + i < h && x + j >= 0 && x + j < w;
            to[i * side + j] = inside ? _mm512_loadu_ps(picture + ((y + i) * w + x + j) * LANES)
                                      : _mm512_setzero_ps();
        }
}

/* The next tile's lines are fetched while this one is computed: they lie far apart, and the weights
 * have driven them out of the nearer caches since the last block. */
INLINE void store_tile(const vec *all, int64_t distance, float *to)
{
#pragma GCC unroll 36
    for (int place = 0; place < PLACES; place++) {
        __builtin_prefetch(to + place * distance + LANES, 1);
        _mm512_storeu_ps(to + place * distance, all[place]);
    }
}

/* count tiles from `first` on to v [place][c / 16][block][16]. */
FAST static inline void load_inputs(const kd_winograd *s, const float *x, int64_t first,
                                    int64_t count, int64_t block, float *v)
{
    const int64_t blocks = s->c / LANES;
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = 0; i < count; i++) {
            const tile t = tile_of(s, first + i);
            vec d[PLACES], half[PLACES], all[PLACES];
            load_tile(x + (t.n * blocks + b) * s->h * s->w * LANES, s->h, s->w, t.y - s->top,
                      t.x - s->left, REACH, d);
#pragma GCC unroll 6
            for (int r = 0; r < REACH; r++)
                transform_input(d + REACH * r, 1, half + REACH * r, 1);
#pragma GCC unroll 6
            for (int r = 0; r < REACH; r++)
                transform_input(half + r, REACH, all + r, REACH);
            store_tile(all, apart(s->c, block), v + (b * block + i) * LANES);
        }
}

#endif
#endif
