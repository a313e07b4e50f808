#include "winograd.h"

#include <string.h>

#include "kd/err.h"

/* Tiles go in blocks, so that what stands between the transforms stays in the cache: for each of
 * the 36 places of a transformed tile a matrix product of the block's tiles and the weights. */
enum { LANES = 16, SIDE = 4, REACH = 6, PLACES = REACH * REACH, TAPS = 9, BLOCK = 24, ROWS = 6 };
/* Output channels that a product takes at once, in vectors and in floats; input channels that the
 * weights' gradient takes at once. */
enum { WIDE = 4, GROUP = WIDE * LANES, CHANNELS = 4 };
enum { LARGE = 2 << 20 }; /* floats that the nearer caches have no room for */

static int64_t tiles_down(const kd_winograd *s)
{
    return (s->oh + SIDE - 1) / SIDE;
}
static int64_t tiles_across(const kd_winograd *s)
{
    return (s->ow + SIDE - 1) / SIDE;
}

size_t kd_winograd_packed(const kd_winograd *s)
{
    return (size_t)(PLACES * s->c * s->k);
}

static int64_t tiles(const kd_winograd *s)
{
    return s->n * tiles_down(s) * tiles_across(s);
}

/* Floats of `block` tiles at one of the places, [channels / 16][block][16] and a vector more, so
 * that a tile's places do not all fall into the same set of the cache. */
static int64_t apart(int64_t channels, int64_t block)
{
    return channels * block + LANES;
}

/* Whether all tiles together are no more than the weights: then their gradient is finished a few
 * channels at a time instead of all of it being added to block after block. */
static bool few_tiles(const kd_winograd *s)
{
    return tiles(s) * (s->c + s->k) <= s->c * s->k;
}

size_t kd_winograd_scratch(const kd_winograd *s, bool gradient)
{
    const int64_t block = gradient && few_tiles(s) ? KD_MAX(tiles(s), (int64_t)BLOCK) : BLOCK;
    const int64_t sums = !gradient      ? 0
                         : few_tiles(s) ? PLACES * CHANNELS * GROUP
                                        : PLACES * s->c * s->k;
    return (size_t)(PLACES * (apart(s->c, block) + apart(s->k, block)) + sums);
}

kd_winograd kd_winograd_turned(const kd_winograd *s)
{
    return (kd_winograd){.n = s->n,
                         .c = s->k,
                         .h = s->oh,
                         .w = s->ow,
                         .k = s->c,
                         .oh = s->h,
                         .ow = s->w,
                         .top = 2 - s->top,
                         .left = 2 - s->left};
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

bool kd_winograd_supported(void)
{
    return __builtin_cpu_supports("avx512f");
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

/* A^T: of sums, to the output's places. */
INLINE void transform_output(const vec *from, int64_t f, vec *to, int64_t t)
{
    const vec p = plus(from[f], from[2 * f]), p_odd = minus(from[f], from[2 * f]);
    const vec q = plus(from[3 * f], from[4 * f]), q_odd = minus(from[3 * f], from[4 * f]);
    to[0] = plus(from[0], plus(p, q));
    to[t] = axpy(Q, q_odd, times(P, p_odd));
    to[2 * t] = axpy(QQ, q, times(PP, p));
    to[3 * t] = axpy(Q * QQ, q_odd, axpy(P * PP, p_odd, from[5 * f]));
}

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

/* G: of weights. */
INLINE void transform_weights(const vec *from, int64_t f, vec *to, int64_t t)
{
    const vec p = times(GP, axpy(PP, from[2 * f], from[0])), p_odd = times(GP * P, from[f]);
    const vec q = times(GQ, axpy(QQ, from[2 * f], from[0])), q_odd = times(GQ * Q, from[f]);
    to[0] = times(G0, from[0]);
    to[t] = plus(p, p_odd);
    to[2 * t] = minus(p, p_odd);
    to[3 * t] = plus(q, q_odd);
    to[4 * t] = minus(q, q_odd);
    to[5 * t] = from[2 * f];
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

/* ---- weights: [place][group of GROUP output channels][c][channel of the group] */

/* Where the vector of 16 output channels from k on stands for one input channel, at place 0. */
static int64_t packed_at(const kd_winograd *s, int64_t c, int64_t k)
{
    const int64_t first = k / GROUP * GROUP, wide = KD_MIN(s->k - first, (int64_t)GROUP);
    return first * s->c + c * wide + k - first;
}

/* The 3x3 weights of 16 output channels, `out` floats apart, for one input channel: at the places
 * of `to`, `distance` floats apart. Large ones pass by the caches, which have no room for them. */
INLINE void pack_vector(const float *weights, int64_t out, bool turned, bool large,
                        int64_t distance, float *to)
{
    _Alignas(64) float taps[TAPS * LANES];
    for (int64_t lane = 0; lane < LANES; lane++)
        for (int i = 0; i < TAPS; i++)
            taps[i * LANES + lane] = weights[lane * out + (turned ? TAPS - 1 - i : i)];
    vec g[TAPS], half[3 * REACH], all[PLACES];
    for (int i = 0; i < TAPS; i++)
        g[i] = _mm512_load_ps(taps + (size_t)i * LANES);
    for (int y = 0; y < 3; y++)
        transform_weights(g + 3 * y, 1, half + REACH * y, 1);
    for (int x = 0; x < REACH; x++)
        transform_weights(half + x, REACH, all + x, REACH);
    for (int i = 0; i < PLACES; i++)
        if (large)
            _mm512_stream_ps(to + i * distance, all[i]);
        else
            _mm512_store_ps(to + i * distance, all[i]);
}

FAST void kd_winograd_pack(const kd_winograd *s, const float *weights, bool turned, float *packed)
{
    const int64_t out = turned ? TAPS : s->c * TAPS, in = turned ? s->k * TAPS : TAPS;
    const bool large = kd_winograd_packed(s) > LARGE;
    for (int64_t first = 0; first < s->k; first += GROUP)
        for (int64_t c = 0; c < s->c; c++)
            for (int64_t k = first; k < KD_MIN(s->k, first + GROUP); k += LANES)
                pack_vector(weights + c * in + k * out, out, turned, large, s->c * s->k,
                            packed + packed_at(s, c, k));
    _mm_sfence();
}

/* ---- tiles of values */

typedef struct {
    int64_t n, y, x; /* image, and place of the tile's first result */
} tile;

static tile tile_of(const kd_winograd *s, int64_t index)
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
FAST static void load_inputs(const kd_winograd *s, const float *x, int64_t first, int64_t count,
                             int64_t block, float *v)
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

/* Likewise the output's gradient; adds it up in bias [k]. */
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

/* Results [SIDE][SIDE] of a tile, of which `rows` and `columns` are in the picture, to y. */
INLINE void finish_tile(const vec *out, vec bias, const kd_winograd_end *end, int64_t rows,
                        int64_t columns, int64_t width, int64_t at, float *y)
{
    const vec low = _mm512_set1_ps(end->low), high = _mm512_set1_ps(end->high);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            const int64_t place = at + (r * width + c) * LANES;
            vec value = plus(out[SIDE * r + c], bias);
            if (end->residual)
                value = plus(value, _mm512_loadu_ps(end->residual + place));
            _mm512_storeu_ps(y + place, _mm512_min_ps(high, _mm512_max_ps(low, value)));
        }
}

/* Sums m, laid out as load_inputs does, to y. */
FAST static void store_outputs(const kd_winograd *s, const float *m, const kd_winograd_end *end,
                               int64_t first, int64_t count, float *y)
{
    const int64_t blocks = s->k / LANES, distance = apart(s->k, BLOCK);
    for (int64_t b = 0; b < blocks; b++) {
        const vec bias = end->bias ? _mm512_loadu_ps(end->bias + b * LANES) : _mm512_setzero_ps();
        for (int64_t i = 0; i < count; i++) {
            const tile t = tile_of(s, first + i);
            const float *from = m + (b * BLOCK + i) * LANES;
            vec sums[PLACES], half[SIDE * REACH], out[SIDE * SIDE];
#pragma GCC unroll 36
            for (int place = 0; place < PLACES; place++) {
                __builtin_prefetch(from + place * distance + LANES);
                sums[place] = _mm512_loadu_ps(from + place * distance);
            }
#pragma GCC unroll 6
            for (int c = 0; c < REACH; c++)
                transform_output(sums + c, REACH, half + c, REACH);
#pragma GCC unroll 4
            for (int r = 0; r < SIDE; r++)
                transform_output(half + REACH * r, 1, out + SIDE * r, 1);
            finish_tile(out, bias, end, KD_MIN(s->oh - t.y, (int64_t)SIDE),
                        KD_MIN(s->ow - t.x, (int64_t)SIDE), s->ow,
                        (((t.n * blocks + b) * s->oh + t.y) * s->ow + t.x) * LANES, y);
        }
    }
}

/* ---- the products of one place */

/* ROWS tiles from v on, `wide` vectors of output channels; wide is a constant where it is inlined.
 */
INLINE void products(const kd_winograd *s, const float *v, const float *u, int wide, float *m)
{
    vec sum[ROWS * WIDE];
#pragma GCC unroll 32
    for (int i = 0; i < ROWS * wide; i++)
        sum[i] = _mm512_setzero_ps();
    for (int64_t b = 0; b < s->c / LANES; b++, v += BLOCK * LANES)
        for (int64_t c = 0; c < LANES; c++, u += wide * LANES) {
            vec w[WIDE];
#pragma GCC unroll 4
            for (int j = 0; j < wide; j++)
                w[j] = _mm512_loadu_ps(u + j * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; i++) {
                const vec x = _mm512_set1_ps(v[i * LANES + c]);
#pragma GCC unroll 4
                for (int j = 0; j < wide; j++)
                    sum[i * wide + j] = _mm512_fmadd_ps(x, w[j], sum[i * wide + j]);
            }
        }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++)
            _mm512_storeu_ps(m + (j * BLOCK + i) * LANES, sum[i * wide + j]);
}

FAST static void multiply(const kd_winograd *s, const float *v, const float *packed, int64_t count,
                          float *m)
{
    for (int64_t place = 0; place < PLACES;
         place++, v += apart(s->c, BLOCK), m += apart(s->k, BLOCK))
        for (int64_t k = 0; k < s->k; k += GROUP) {
            const float *u = packed + place * s->c * s->k + k * s->c;
            const int64_t wide = KD_MIN(s->k - k, (int64_t)GROUP) / LANES;
            for (int64_t i = 0; i < count; i += ROWS) {
                const float *from = v + i * LANES;
                float *to = m + k * BLOCK + i * LANES;
                if (wide == 4)
                    products(s, from, u, 4, to);
                else if (wide == 3)
                    products(s, from, u, 3, to);
                else if (wide == 2)
                    products(s, from, u, 2, to);
                else
                    products(s, from, u, 1, to);
            }
        }
}

FAST void kd_winograd_run(const kd_winograd *s, const float *x, const float *packed,
                          const kd_winograd_end *end, float *scratch, float *y)
{
    const int64_t all = tiles(s);
    float *v = scratch, *m = scratch + PLACES * apart(s->c, BLOCK);
    for (int64_t first = 0; first < all; first += BLOCK) {
        const int64_t count = KD_MIN(all - first, (int64_t)BLOCK);
        load_inputs(s, x, first, count, BLOCK, v);
        multiply(s, v, packed, count, m);
        store_outputs(s, m, end, first, count, y);
    }
}

/* ---- the weights' gradient */

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

bool kd_winograd_supported(void)
{
    return false;
}
void kd_winograd_pack(const kd_winograd *s, const float *weights, bool turned, float *packed)
{
    (void)s, (void)weights, (void)turned, (void)packed;
}
void kd_winograd_run(const kd_winograd *s, const float *x, const float *packed,
                     const kd_winograd_end *end, float *scratch, float *y)
{
    (void)s, (void)x, (void)packed, (void)end, (void)scratch, (void)y;
}
void kd_winograd_weights(const kd_winograd *s, const float *x, const float *d_y, float *scratch,
                         float *d_weights, float *d_bias)
{
    (void)s, (void)x, (void)d_y, (void)scratch, (void)d_weights, (void)d_bias;
}

#endif
