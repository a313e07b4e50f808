#include "depthwise_vnni.h"

#include <math.h>
#include <string.h>

#include "kd/err.h"

/* Channels run side by side in strips. A column's three rows (four for two rows of the output at
 * once) are interleaved into one int a channel, so that an instruction makes three products of each
 * channel, and columns stay in registers for the places that they belong to. Values with a sign
 * become such without one by adding 128, which the sums' start takes away again. */
enum { SIGN = 0x80 };

/* A strip's table, in vectors of as many bytes as it has channels, in the order of `column`: the
 * taps of the first and of the second row of the output, then for each quarter the sums' start,
 * bias and scale. */
enum { STARTS = 24, BIASES = 28, SCALES = 32, VECTORS = 36 };

/* The channels of the strip that begins at `first`; the last one may have fewer. */
static int64_t strip_lanes(int64_t channels, int64_t first)
{
    return channels - first >= 64 ? 64 : channels - first >= 32 ? 32 : 16;
}

size_t kd_depthwise_vnni_table(int64_t channels)
{
    return (size_t)((channels + 15) / 16 * 16) * VECTORS;
}

/* Where channel `at` of a strip stands among its ints or floats. */
static int64_t place_of(int64_t lanes, int64_t at)
{
    return at % 16 / 4 * (lanes / 4) + at / 16 * 4 + at % 4;
}

void kd_depthwise_vnni_pack(kd_depthwise_vnni *d, const int8_t *weights, const float *bias,
                            const float *scales, void *table)
{
    bool small = true;
    int8_t *to = memset(table, 0, kd_depthwise_vnni_table(d->c));
    for (int64_t c = 0; c < d->c; c++)
        small = small && (9 * 255 * 127 + fabsf(bias[c])) * fabsf(scales[c]) < 1e9F;
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
    d->plain = small && !d->x_signed && !d->y_signed && !d->clamps && d->factor == 1;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef struct {
    const kd_depthwise_vnni *d;
    const uint8_t *row[4]; /* rows of the input from the strip's first channel on */
    int64_t step[4];       /* bytes from column to column; 0 in a row of padding */
    const void *table;
    __mmask16 mask; /* of a last strip */
} strip;

#define LANES 64
#define INTS __m512i
#define REALS __m512
#define UNALIGNED __m512i_u
#define OP(x) _mm512_##x
#define NAME(x) x##_64
#define WHOLE true
#include "depthwise_vnni_loops.h"
#define LANES 32
#define INTS __m256i
#define REALS __m256
#define UNALIGNED __m256i_u
#define OP(x) _mm256_##x
#define NAME(x) x##_32
#define WHOLE true
#include "depthwise_vnni_loops.h"
#define LANES 16
#define INTS __m128i
#define REALS __m128
#define UNALIGNED __m128i_u
#define OP(x) _mm_##x
#define NAME(x) x##_16
#define WHOLE (s->mask == 0xffff)
#include "depthwise_vnni_loops.h"

bool kd_depthwise_vnni_works(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

void kd_depthwise_vnni_run(const kd_depthwise_vnni *d, const void *table, const void *x, void *y)
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

#else

bool kd_depthwise_vnni_works(void)
{
    return false;
}

void kd_depthwise_vnni_run(const kd_depthwise_vnni *d, const void *table, const void *x, void *y)
{
    (void)d, (void)table, (void)x, (void)y;
}

#endif
