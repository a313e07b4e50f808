#include "data/resize.h"

#include <stdlib.h>
#include <string.h>

#define WEIGHT_BITS 22

/* Weights of one axis: output o is the sum of `count[o]` inputs from `first[o]` on. */
typedef struct axis {
    int taps; /* weights kept for each output */
    int *first, *count;
    int32_t *weight; /* [out,taps] */
} axis;

static void axis_clear(axis *a)
{
    free(a->first);
    free(a->count);
    free(a->weight);
}

/* Distances in units of 1/(2*out) of an input pixel are whole numbers, so the weights are exact
 * until they are rounded: no floating point, no library, no compiler can change a bit. */
static bool axis_init(axis *a, int in, int out)
{
    int64_t reach =
        2 * (int64_t)KD_MAX(in, out); /* support: one output pixel, at least one input */
    a->taps = (int)(reach / out) + 2;
    a->first = malloc((size_t)out * sizeof *a->first);
    a->count = malloc((size_t)out * sizeof *a->count);
    a->weight = malloc((size_t)out * (size_t)a->taps * sizeof *a->weight);
    if (!a->first || !a->count || !a->weight)
        return false;
    for (int o = 0; o < out; o++) {
        int64_t centre = (2 * (int64_t)o + 1) * in;
        int64_t first = KD_MAX((centre - reach) / (2 * (int64_t)out) - 1, 0), sum = 0;
        while (first < in && llabs((2 * first + 1) * out - centre) >= reach)
            first++;
        int n = 0;
        for (int64_t i = first; i < in; i++, n++) {
            int64_t w = reach - llabs((2 * i + 1) * out - centre);
            if (w <= 0)
                break;
            sum += w;
        }
        KD_BUG_ON(n == 0 || n > a->taps);
        for (int k = 0; k < n; k++) {
            int64_t w = reach - llabs((2 * (first + k) + 1) * out - centre);
            a->weight[(size_t)o * (size_t)a->taps + (size_t)k] =
                (int32_t)(((w << (WEIGHT_BITS + 1)) + sum) / (2 * sum));
        }
        a->first[o] = (int)first;
        a->count[o] = n;
    }
    return true;
}

static uint8_t to_byte(int64_t sum)
{
    int64_t v = sum >> WEIGHT_BITS;
    return (uint8_t)KD_MIN(v, 255);
}

/* in [rows,in_w,3] -> out [rows,out_w,3] */
static void resize_rows(const axis *a, const uint8_t *in, int rows, int in_w, int out_w,
                        uint8_t *out)
{
    for (int y = 0; y < rows; y++, in += 3 * (size_t)in_w)
        for (int o = 0; o < out_w; o++, out += 3) {
            const int32_t *w = a->weight + (size_t)o * (size_t)a->taps;
            const uint8_t *p = in + 3 * (size_t)a->first[o];
            int64_t r = 1 << (WEIGHT_BITS - 1), g = r, b = r;
            for (int k = 0; k < a->count[o]; k++, p += 3) {
                r += (int64_t)w[k] * p[0];
                g += (int64_t)w[k] * p[1];
                b += (int64_t)w[k] * p[2];
            }
            out[0] = to_byte(r);
            out[1] = to_byte(g);
            out[2] = to_byte(b);
        }
}

/* in [in_h,row] -> out [out_h,row]; sums [row] is scratch. Row by row, so that memory is read in
 * its order. */
static void resize_columns(const axis *a, const uint8_t *in, int out_h, size_t row, int64_t *sums,
                           uint8_t *out)
{
    for (int o = 0; o < out_h; o++, out += row) {
        const int32_t *w = a->weight + (size_t)o * (size_t)a->taps;
        for (size_t i = 0; i < row; i++)
            sums[i] = 1 << (WEIGHT_BITS - 1);
        for (int k = 0; k < a->count[o]; k++) {
            const uint8_t *p = in + (size_t)(a->first[o] + k) * row;
            for (size_t i = 0; i < row; i++)
                sums[i] += (int64_t)w[k] * p[i];
        }
        for (size_t i = 0; i < row; i++)
            out[i] = to_byte(sums[i]);
    }
}

int kd_image_resize(const kd_image *in, int ow, int oh, uint8_t *out, kd_diag *diag)
{
    if (in->w < 1 || in->h < 1 || ow < 1 || oh < 1 || in->w > KD_IMAGE_MAX_SIDE ||
        in->h > KD_IMAGE_MAX_SIDE || ow > KD_IMAGE_MAX_SIDE || oh > KD_IMAGE_MAX_SIDE)
        return kd_fail(diag, -KD_EINVAL, "cannot resize %dx%d to %dx%d: sides are 1 to %d", in->w,
                       in->h, ow, oh, KD_IMAGE_MAX_SIDE);
    /* A very tall, narrow picture would grow without bound between the two passes. */
    if ((int64_t)in->h * ow > KD_IMAGE_MAX_PIXELS)
        return kd_fail(diag, -KD_ELIMIT,
                       "resizing %dx%d to %dx%d takes more than %d pixels on the way", in->w, in->h,
                       ow, oh, KD_IMAGE_MAX_PIXELS);
    axis across = {0}, down = {0};
    size_t row = 3 * (size_t)ow;
    uint8_t *middle = malloc((size_t)in->h * row);
    int64_t *sums = malloc(row * sizeof *sums);
    int rc = 0;
    if (middle && sums && axis_init(&across, in->w, ow) && axis_init(&down, in->h, oh)) {
        resize_rows(&across, in->rgb, in->h, in->w, ow, middle);
        resize_columns(&down, middle, oh, row, sums, out);
    } else {
        rc = kd_fail(diag, -KD_ENOMEM, "no memory to resize %dx%d to %dx%d", in->w, in->h, ow, oh);
    }
    axis_clear(&across);
    axis_clear(&down);
    free(middle);
    free(sums);
    return rc;
}
