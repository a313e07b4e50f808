#include "vnni.h"

#include <math.h>
#include <string.h>

#include "kd/err.h"

/* Channels run side by side in strips. Values with a sign become such without one by adding 128,
 * which the sums' start takes away again. */
enum { SIGN = 0x80 };

/* Depthwise: a column's three rows (four for two rows of the output at once) are interleaved into
 * one int a channel, so that an instruction makes three products of each channel, and columns stay
 * in registers for the places that they belong to. A strip's table, in vectors of as many bytes as
 * it has channels, in the order of `column`: the taps of the first and of the second row of the
 * output, then for each quarter the sums' start, bias and scale. */
enum { STARTS = 24, BIASES = 28, SCALES = 32, VECTORS = 36 };

/* 1x1: a matrix product in tiles of a strip's channels at so many places, whose sums stay in
 * registers. A strip's table has the weights of each four inputs, side by side for each channel,
 * then start, bias and scale. Places go in pieces that stay in the cache for all strips. */
enum { ROWS = 6, PIECE_BYTES = 1 << 14, ENDS = 12 };

/* The channels of the strip that begins at `first`; the last one may have fewer. */
static int64_t strip_lanes(int64_t channels, int64_t first)
{
    return channels - first >= 64 ? 64 : channels - first >= 32 ? 32 : 16;
}

size_t kd_vnni_depthwise_table(int64_t channels)
{
    return (size_t)((channels + 15) / 16 * 16) * VECTORS;
}

/* Where channel `at` of a strip stands among its ints or floats. */
static int64_t place_of(int64_t lanes, int64_t at)
{
    return at % 16 / 4 * (lanes / 4) + at / 16 * 4 + at % 4;
}

/* Whether no more is to be done than a scale, whose result is far within what an int can hold. */
static bool is_plain(const kd_vnni_end *e, int64_t taps, int64_t channels, const float *bias,
                     const float *scales)
{
    const float most = (float)(taps * 255 * 127);
    bool small = true;
    for (int64_t c = 0; c < channels; c++)
        small = small && (most + fabsf(bias[c])) * fabsf(scales[c]) < 1e9F;
    return small && e->type == KD_VNNI_U8 && !e->clamps && e->factor == 1 && !(e->residual > 0);
}

void kd_vnni_depthwise_pack(kd_vnni_depthwise *d, const int8_t *weights, const float *bias,
                            const float *scales, void *table)
{
    int8_t *to = memset(table, 0, kd_vnni_depthwise_table(d->c));
    for (int64_t first = 0; first < d->c;) {
        const int64_t lanes = strip_lanes(d->c, first), n = KD_MIN(lanes, d->c - first);
        int32_t *starts = (int32_t *)(void *)(to + STARTS * lanes);
        float *biases = (float *)(void *)(to + BIASES * lanes);
        float *factors = (float *)(void *)(to + SCALES * lanes);
        for (int64_t c = 0; c < n; c++, weights += 9) {
            const int64_t place = place_of(lanes, c);
            int32_t sum = 0;
            for (int k = 0; k < 9; k++) {
                int8_t *column = to + k % 3 * 4 * lanes + 4 * place;
                column[k / 3] = column[12 * lanes + k / 3 + 1] = weights[k];
                sum += weights[k];
            }
            starts[place] = d->x_signed ? -SIGN * sum : 0;
            biases[place] = bias[first + c];
            factors[place] = scales[first + c];
        }
        to += VECTORS * lanes;
        first += lanes;
    }
    d->end.plain = !d->x_signed && is_plain(&d->end, 9, d->c, bias, scales);
}

size_t kd_vnni_pointwise_table(int64_t in, int64_t out)
{
    return (size_t)out * (size_t)(in + ENDS);
}

/* Places of a piece. */
static int64_t piece_of(int64_t in)
{
    return KD_MAX(PIECE_BYTES / in / ROWS, 1) * ROWS;
}

size_t kd_vnni_pointwise_scratch(int64_t in)
{
    return (size_t)(piece_of(in) * in);
}

void kd_vnni_pointwise_pack(kd_vnni_pointwise *d, const int8_t *weights, const float *bias,
                            const float *scales, void *table)
{
    int8_t *to = table;
    for (int64_t first = 0, lanes; first < d->out; first += lanes, to += (d->in + ENDS) * lanes) {
        lanes = strip_lanes(d->out, first);
        int32_t *starts = (int32_t *)(void *)(to + d->in * lanes);
        float *biases = (float *)(void *)(starts + lanes), *factors = biases + lanes;
        for (int64_t c = 0; c < lanes; c++) {
            int32_t sum = 0;
            for (int64_t k = 0; k < d->in; k++) {
                const int8_t w = *weights++;
                to[k / 4 * 4 * lanes + 4 * c + k % 4] = w;
                sum += w;
            }
            starts[c] = d->x_signed ? -SIGN * sum : 0;
            biases[c] = bias[first + c];
            factors[c] = scales[first + c];
        }
    }
    d->end.plain = is_plain(&d->end, d->in, d->out, bias, scales);
}

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("fma,avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef struct {
    const kd_vnni_depthwise *d;
    const uint8_t *row[4]; /* rows of the input from the strip's first channel on */
    int64_t step[4];       /* bytes from column to column; 0 in a row of padding */
    const void *table;
    __mmask16 mask; /* of a last strip */
} strip;

/* The intrinsic makes GCC 12 copy and spill the sums. */
#define DOT(sum, a, w) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(w))

#define LANES 64
#define INTS __m512i
#define REALS __m512
#define UNALIGNED __m512i_u
#define OP(x) _mm512_##x
#define NAME(x) x##_64
#define WHOLE true
#define ORDER(x)                                                                                   \
    _mm512_permutexvar_epi32(                                                                      \
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x)
#include "vnni_loops.h"
#define LANES 32
#define INTS __m256i
#define REALS __m256
#define UNALIGNED __m256i_u
#define OP(x) _mm256_##x
#define NAME(x) x##_32
#define WHOLE true
#define ORDER(x) _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
#include "vnni_loops.h"
#define LANES 16
#define INTS __m128i
#define REALS __m128
#define UNALIGNED __m128i_u
#define OP(x) _mm_##x
#define NAME(x) x##_16
#define WHOLE (s->mask == 0xffff)
#define ORDER(x) (x)
#include "vnni_loops.h"

bool kd_vnni_works(void)
{
    return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

void kd_vnni_depthwise_run(const kd_vnni_depthwise *d, const void *table, const void *x, void *y)
{
    static const uint8_t padding[64];
    strip s = {.d = d, .table = table};
    for (int64_t first = 0, lanes; first < d->c; first += lanes) {
        lanes = strip_lanes(d->c, first);
        s.mask = (__mmask16)(0xffff >> (16 - KD_MIN(d->c - first, 16)));
        for (int64_t oy = 0, rows; oy < d->out_h; oy += rows) {
            rows = d->stride == 1 && oy + 1 < d->out_h ? 2 : 1;
            for (int k = 0; k < 4; k++) {
                const int64_t iy = oy * d->stride - d->pad_top + k;
                const bool inside = iy >= 0 && iy < d->h;
                s.row[k] = inside ? (const uint8_t *)x + iy * d->w * d->c + first : padding;
                s.step[k] = inside ? d->c : 0;
            }
            uint8_t *to = (uint8_t *)y + oy * d->out_w * d->c + first;
            if (lanes == 64)
                rows_64(&s, (int)rows, to);
            else if (lanes == 32)
                rows_32(&s, (int)rows, to);
            else
                rows_16(&s, (int)rows, to);
        }
        s.table = (const uint8_t *)s.table + VECTORS * lanes;
    }
}

static void without_sign(const uint8_t *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] ^ SIGN;
}

void kd_vnni_pointwise_run(const kd_vnni_pointwise *d, const void *table, const void *x,
                           const void *r, void *scratch, void *y)
{
    const int64_t size = d->end.type == KD_VNNI_F32 ? 4 : 1, piece = piece_of(d->in);
    for (int64_t at = 0; at < d->places; at += piece) {
        const int64_t n = KD_MIN(piece, d->places - at);
        const uint8_t *from = (const uint8_t *)x + at * d->in;
        const uint8_t *strips = table;
        if (d->x_signed) {
            without_sign(from, (size_t)(n * d->in), scratch);
            from = scratch;
        }
        for (int64_t first = 0, lanes; first < d->out; first += lanes) {
            lanes = strip_lanes(d->out, first);
            const uint8_t *add = r ? (const uint8_t *)r + at * d->out + first : NULL;
            uint8_t *to = (uint8_t *)y + (at * d->out + first) * size;
            if (lanes == 64)
                places_64(d, from, strips, n, add, to);
            else if (lanes == 32)
                places_32(d, from, strips, n, add, to);
            else
                places_16(d, from, strips, n, add, to);
            strips += (d->in + ENDS) * lanes;
        }
    }
}

#else

bool kd_vnni_works(void)
{
    return false;
}

void kd_vnni_depthwise_run(const kd_vnni_depthwise *d, const void *table, const void *x, void *y)
{
    (void)d, (void)table, (void)x, (void)y;
}

void kd_vnni_pointwise_run(const kd_vnni_pointwise *d, const void *table, const void *x,
                           const void *r, void *scratch, void *y)
{
    (void)d, (void)table, (void)x, (void)r, (void)scratch, (void)y;
}

#endif
