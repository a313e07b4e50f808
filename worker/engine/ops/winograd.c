#include "winograd_loops.h"

enum { LARGE = 2 << 20 }; /* floats that the nearer caches have no room for */

size_t kd_winograd_packed(const kd_winograd *s)
{
    return (size_t)(PLACES * s->c * s->k);
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

bool kd_winograd_supported(void)
{
    return __builtin_cpu_supports("avx512f");
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

/* ---- weights */

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

/* ---- results */

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

#endif
