#include "data/augment.h"

#include "data/exact.h"

#include <math.h>
#include <string.h>

static size_t pixels_of(const kd_canvas *c)
{
    return (size_t)c->size * (size_t)c->size;
}

static void exchange(kd_canvas *c)
{
    uint8_t *t = c->now;
    c->now = c->spare;
    c->spare = t;
}

static uint8_t cut(int32_t v)
{
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void apply_table(kd_canvas *c, const uint8_t table[256])
{
    size_t n = 3 * pixels_of(c);
    for (size_t i = 0; i < n; i++)
        c->now[i] = table[c->now[i]];
}

/* ---- colour */

int32_t kd_augment_factor(double factor)
{
    return (int32_t)floor(factor * KD_FACTOR_ONE + 0.5);
}

/* factor * x + (1 - factor) * other / 65536, rounded down as torchvision's conversion to uint8
 * does; other is in 1/65536. */
static uint8_t blend(int32_t factor, int32_t x, int64_t other)
{
    int64_t v = ((int64_t)factor * x * KD_FACTOR_ONE + (KD_FACTOR_ONE - factor) * other) >> 32;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

void kd_augment_brightness(kd_canvas *c, int32_t factor)
{
    uint8_t table[256];
    for (int v = 0; v < 256; v++)
        table[v] = blend(factor, v, 0);
    apply_table(c, table);
}

void kd_augment_contrast(kd_canvas *c, int32_t factor)
{
    uint8_t table[256];
    size_t n = pixels_of(c);
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += kd_augment_grey(c->now + 3 * i);
    int64_t mean = (sum * KD_FACTOR_ONE + (int64_t)n / 2) / (int64_t)n;
    for (int v = 0; v < 256; v++)
        table[v] = blend(factor, v, mean);
    apply_table(c, table);
}

void kd_augment_saturation(kd_canvas *c, int32_t factor)
{
    size_t n = pixels_of(c);
    for (size_t i = 0; i < n; i++) {
        uint8_t *p = c->now + 3 * i;
        int32_t rest = (KD_FACTOR_ONE - factor) * kd_augment_grey(p); /* |rest| < 2^24 */
        for (int k = 0; k < 3; k++)
            p[k] = cut((factor * p[k] + rest) >> 16);
    }
}

void kd_augment_sharpness(kd_canvas *c, int32_t factor)
{
    int size = c->size;
    size_t row = 3 * (size_t)size;
    if (size <= 2)
        return;
    memcpy(c->spare, c->now, row * (size_t)size);
    for (int y = 1; y < size - 1; y++) {
        const uint8_t *p = c->now + (size_t)y * row;
        uint8_t *to = c->spare + (size_t)y * row;
        for (size_t i = 3; i < row - 3; i++) {
            int32_t sum = 4 * p[i]; /* and once more below */
            for (ptrdiff_t k = -3; k <= 3; k += 3) {
                const uint8_t *q = p + (ptrdiff_t)i + k;
                sum += q[-(ptrdiff_t)row] + q[0] + q[row];
            }
            int32_t blur = (sum + 6) / 13;
            to[i] = cut((factor * p[i] + (KD_FACTOR_ONE - factor) * blur) >> 16);
        }
    }
    exchange(c);
}

void kd_augment_posterize(kd_canvas *c, int bits)
{
    uint8_t mask = (uint8_t)(0xFF00u >> KD_MIN(KD_MAX(bits, 0), 8));
    size_t n = 3 * pixels_of(c);
    for (size_t i = 0; i < n; i++)
        c->now[i] &= mask;
}

void kd_augment_solarize(kd_canvas *c, int threshold)
{
    uint8_t table[256];
    for (int v = 0; v < 256; v++)
        table[v] = (uint8_t)(v >= threshold ? 255 - v : v);
    apply_table(c, table);
}

static void apply_channel(kd_canvas *c, int channel, const uint8_t table[256])
{
    size_t n = pixels_of(c);
    for (size_t i = 0; i < n; i++)
        c->now[3 * i + (size_t)channel] = table[c->now[3 * i + (size_t)channel]];
}

static void histogram(const kd_canvas *c, int channel, uint32_t out[256])
{
    size_t n = pixels_of(c);
    memset(out, 0, 256 * sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[c->now[3 * i + (size_t)channel]]++;
}

void kd_augment_autocontrast(kd_canvas *c)
{
    for (int k = 0; k < 3; k++) {
        uint32_t count[256];
        uint8_t table[256];
        int low = 0, high = 255;
        histogram(c, k, count);
        while (count[low] == 0)
            low++;
        while (count[high] == 0)
            high--;
        if (low == high)
            continue;
        for (int v = low; v <= high; v++)
            table[v] = (uint8_t)((v - low) * 255 / (high - low));
        apply_channel(c, k, table);
    }
}

void kd_augment_equalize(kd_canvas *c)
{
    for (int k = 0; k < 3; k++) {
        uint32_t count[256], sum = 0;
        uint8_t table[256];
        int high = 255;
        histogram(c, k, count);
        while (count[high] == 0)
            high--;
        uint32_t step = ((uint32_t)pixels_of(c) - count[high]) / 255;
        if (step == 0)
            continue;
        for (int v = 0; v < 256; v++) {
            uint32_t to = (sum + step / 2) / step;
            table[v] = v == 0 ? 0 : (uint8_t)KD_MIN(to, 255u);
            sum += count[v];
        }
        apply_channel(c, k, table);
    }
}

void kd_augment_cutout(kd_canvas *c, int x, int y, int side)
{
    int x0 = x - side / 2, y0 = y - side / 2;
    int x1 = KD_MIN(x0 + side, c->size), y1 = KD_MIN(y0 + side, c->size);
    x0 = KD_MAX(x0, 0);
    y0 = KD_MAX(y0, 0);
    for (int at = y0; at < y1 && x0 < x1; at++)
        memset(c->now + 3 * ((size_t)at * (size_t)c->size + (size_t)x0), 127,
               3 * (size_t)(x1 - x0));
}

/* ---- places */

#define PLACE_BITS 24 /* of the fraction of a place */
#define WEIGHT_BITS 10

static int64_t place(double v)
{
    return (int64_t)floor(v * (1 << PLACE_BITS) + 0.5);
}

/* Pixel (x, y), black outside. */
static const uint8_t *pixel(const kd_canvas *c, int64_t x, int64_t y)
{
    static const uint8_t black[3];
    bool inside = x >= 0 && y >= 0 && x < c->size && y < c->size;
    return inside ? c->now + 3 * (size_t)(y * c->size + x) : black;
}

void kd_augment_affine(kd_canvas *c, const double m[6])
{
    /* Middles of pixels are half a pixel from the corner, at both ends. */
    const int64_t across[2] = {place(m[0]), place(m[3])}, down[2] = {place(m[1]), place(m[4])};
    const int64_t start[2] = {place(0.5 * m[0] + 0.5 * m[1] + m[2] - 0.5),
                              place(0.5 * m[3] + 0.5 * m[4] + m[5] - 0.5)};
    const int shift = PLACE_BITS - WEIGHT_BITS, one = 1 << WEIGHT_BITS;
    uint8_t *to = c->spare;
    for (int y = 0; y < c->size; y++) {
        /* Half a weight's step is added so that cutting off rounds. */
        int64_t sx = start[0] + y * down[0] + (1 << (shift - 1));
        int64_t sy = start[1] + y * down[1] + (1 << (shift - 1));
        for (int x = 0; x < c->size; x++, to += 3, sx += across[0], sy += across[1]) {
            int64_t ix = sx >> PLACE_BITS, iy = sy >> PLACE_BITS;
            if (ix < -1 || iy < -1 || ix >= c->size || iy >= c->size) {
                memset(to, 0, 3);
                continue;
            }
            int32_t fx = (int32_t)(sx >> shift) & (one - 1),
                    fy = (int32_t)(sy >> shift) & (one - 1);
            const uint8_t *p00 = c->now + 3 * (iy * c->size + ix), *p01 = p00 + 3;
            const uint8_t *p10 = p00 + 3 * (ptrdiff_t)c->size, *p11 = p10 + 3;
            if (ix < 0 || iy < 0 || ix + 1 >= c->size || iy + 1 >= c->size) {
                p00 = pixel(c, ix, iy);
                p01 = pixel(c, ix + 1, iy);
                p10 = pixel(c, ix, iy + 1);
                p11 = pixel(c, ix + 1, iy + 1);
            }
            for (int k = 0; k < 3; k++) {
                int32_t upper = (one - fx) * p00[k] + fx * p01[k];
                int32_t lower = (one - fx) * p10[k] + fx * p11[k];
                to[k] = (uint8_t)(((one - fy) * upper + fy * lower + one * one / 2) >>
                                  (2 * WEIGHT_BITS));
            }
        }
    }
    exchange(c);
}

void kd_augment_rotate(kd_canvas *c, double degrees)
{
    double s, k, middle = 0.5 * c->size;
    kd_exact_sincos(degrees, &s, &k);
    const double m[6] = {k, -s, middle - k * middle + s * middle,
                         s, k,  middle - s * middle - k * middle};
    kd_augment_affine(c, m);
}

/* ---- RandAugment */

void kd_augment_rand(kd_canvas *c, enum kd_rand_op op, int magnitude, bool negative)
{
    KD_BUG_ON(magnitude < 0 || magnitude > 30);
    double part = (negative ? -magnitude : magnitude) / 30.0;
    int shift = 150 * c->size * magnitude / (331 * 30) * (negative ? -1 : 1);
    int32_t factor = kd_augment_factor(1 + 0.9 * part);
    switch (op) {
    case KD_RAND_IDENTITY:
    case KD_RAND_OPS:
        break;
    case KD_RAND_SHEAR_X:
        kd_augment_affine(c, (double[6]){1, 0.3 * part, 0, 0, 1, 0});
        break;
    case KD_RAND_SHEAR_Y:
        kd_augment_affine(c, (double[6]){1, 0, 0, 0.3 * part, 1, 0});
        break;
    case KD_RAND_TRANSLATE_X:
        kd_augment_affine(c, (double[6]){1, 0, -shift, 0, 1, 0});
        break;
    case KD_RAND_TRANSLATE_Y:
        kd_augment_affine(c, (double[6]){1, 0, 0, 0, 1, -shift});
        break;
    case KD_RAND_ROTATE:
        kd_augment_rotate(c, 30 * part);
        break;
    case KD_RAND_BRIGHTNESS:
        kd_augment_brightness(c, factor);
        break;
    case KD_RAND_COLOR:
        kd_augment_saturation(c, factor);
        break;
    case KD_RAND_CONTRAST:
        kd_augment_contrast(c, factor);
        break;
    case KD_RAND_SHARPNESS:
        kd_augment_sharpness(c, factor);
        break;
    case KD_RAND_POSTERIZE:
        kd_augment_posterize(c, 8 - (8 * magnitude + 30) / 60);
        break;
    case KD_RAND_SOLARIZE:
        kd_augment_solarize(c, (511 - 17 * magnitude) / 2);
        break;
    case KD_RAND_AUTOCONTRAST:
        kd_augment_autocontrast(c);
        break;
    case KD_RAND_EQUALIZE:
        kd_augment_equalize(c);
        break;
    }
}
