/* Winograd's algorithm against plain loops in double: forward, with all that follows the sum, and
 * both gradients, over shapes with whole and cut tiles, one and several blocks of tiles, and every
 * number of vectors of output channels that is computed at once.
 *
 * Tolerance: transforms with points up to 3/2 make a product's roundings about ten times as large
 * as those of direct sums, relative to the size of the result; 3e-7 in the root mean square at 64
 * channels, with single results ten times as far off. Hence 1e-5 of the largest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/ops/winograd.h"
#include "kd/err.h"
#include "kd/rng.h"
#include "kd_test.h"

enum { LANES = 16 };

static const kd_winograd shapes[] = {
    {1, 16, 3, 3, 16, 1, 1, 0, 0},    /* one result */
    {1, 32, 4, 4, 32, 4, 4, 1, 1},    /* one tile, padded on every side */
    {2, 16, 9, 14, 48, 7, 12, 0, 0},  /* three vectors; cut tiles below */
    {3, 48, 11, 6, 64, 11, 6, 1, 1},  /* four; whole rows and cut ones */
    {1, 32, 7, 5, 80, 8, 6, 1, 2},    /* a group of four and one of one; unlike paddings */
    {2, 64, 8, 13, 96, 10, 15, 2, 2}, /* and of two; padding as wide as it goes */
    {1, 16, 30, 31, 112, 29, 30, 0,
     1}, /* and of three; several blocks of tiles, the last one cut */
};

typedef struct {
    kd_winograd s;
    size_t n_x, n_y, n_w;
    float *x, *y, *r, *w, *b, *d_w, *d_b, *d_x, *packed, *scratch;
} net;

static float *floats(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
    assert_non_null(p);
    return p;
}

static net net_of(const kd_winograd *s)
{
    net o = {.s = *s,
             .n_x = (size_t)(s->n * s->c * s->h * s->w),
             .n_y = (size_t)(s->n * s->k * s->oh * s->ow),
             .n_w = (size_t)(s->c * s->k * 9)};
    float **const fields[] = {&o.x, &o.d_x, &o.y, &o.r, &o.w, &o.d_w, &o.b, &o.d_b};
    const size_t sizes[] = {o.n_x, o.n_x, o.n_y, o.n_y, o.n_w, o.n_w, (size_t)s->k, (size_t)s->k};
    kd_rng rng;
    kd_rng_init(&rng, 9, KD_RNG_TEST, 3, 0);
    for (size_t f = 0; f < KD_COUNT(fields); f++) {
        *fields[f] = floats(sizes[f]);
        for (size_t i = 0; i < sizes[f]; i++)
            (*fields[f])[i] = 2 * kd_rng_float(&rng) - 1;
    }
    o.packed = floats(kd_winograd_packed(s));
    const size_t scratch = kd_winograd_scratch(s, true);
    o.scratch = floats(scratch);
    memset(o.scratch, 0xff, scratch * sizeof(float)); /* NaN: what was left there is never used */
    return o;
}

static void net_free(net *o)
{
    float *const fields[] = {o->x,   o->d_x, o->y,   o->r,      o->w,
                             o->d_w, o->b,   o->d_b, o->packed, o->scratch};
    for (size_t f = 0; f < KD_COUNT(fields); f++)
        free(fields[f]);
}

static size_t at(int64_t channels, int64_t h, int64_t w, int64_t n, int64_t c, int64_t y, int64_t x)
{
    return (size_t)((((n * (channels / LANES) + c / LANES) * h + y) * w + x) * LANES + c % LANES);
}

/* What the convolution is, one product at a time. */
typedef void visit(void *arg, size_t y, size_t x, size_t w, int64_t k);
static void each_product(const kd_winograd *s, visit *f, void *arg)
{
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t k = 0; k < s->k; k++)
            for (int64_t oy = 0; oy < s->oh; oy++)
                for (int64_t ox = 0; ox < s->ow; ox++)
                    for (int64_t c = 0; c < s->c; c++)
                        for (int64_t tap = 0; tap < 9; tap++) {
                            const int64_t y = oy + tap / 3 - s->top, x = ox + tap % 3 - s->left;
                            if (y >= 0 && y < s->h && x >= 0 && x < s->w)
                                f(arg, at(s->k, s->oh, s->ow, n, k, oy, ox),
                                  at(s->c, s->h, s->w, n, c, y, x),
                                  (size_t)((k * s->c + c) * 9 + tap), k);
                        }
}

typedef struct {
    const net *o;
    double *y, *x, *w;
} sums;

static void add_product(void *arg, size_t y, size_t x, size_t w, int64_t k)
{
    (void)k;
    const sums *q = arg;
    q->y[y] += (double)q->o->x[x] * (double)q->o->w[w];
    q->x[x] += (double)q->o->r[y] * (double)q->o->w[w]; /* r stands for y's gradient */
    q->w[w] += (double)q->o->r[y] * (double)q->o->x[x];
}

static sums sums_of(const net *o)
{
    sums q = {o, calloc(o->n_y, sizeof(double)), calloc(o->n_x, sizeof(double)),
              calloc(o->n_w, sizeof(double))};
    assert_true(q.y && q.x && q.w);
    each_product(&o->s, add_product, &q);
    return q;
}

static void sums_free(sums *q)
{
    free(q->y);
    free(q->x);
    free(q->w);
}

static void assert_close(const char *what, const float *is, const double *wanted, size_t n)
{
    double largest = 0, off = 0;
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs(wanted[i]));
        off = fmax(off, isfinite(is[i]) ? fabs((double)is[i] - wanted[i]) : INFINITY);
    }
    if (off > 1e-5 * largest)
        fail_msg("%s: off by %g, the largest is %g", what, off, largest);
}

static void test_forward_and_gradients_are_those_of_direct_sums(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(shapes); i++) {
        net o = net_of(&shapes[i]);
        sums q = sums_of(&o);
        const kd_winograd turned = kd_winograd_turned(&o.s);
        const kd_winograd_end plain = {.low = -INFINITY, .high = INFINITY};
        kd_winograd_pack(&o.s, o.w, false, o.packed);
        kd_winograd_run(&o.s, o.x, o.packed, &plain, o.scratch, o.y);
        assert_close("forward", o.y, q.y, o.n_y);
        kd_winograd_weights(&o.s, o.x, o.r, o.scratch, o.d_w, o.d_b);
        assert_close("weights", o.d_w, q.w, o.n_w);
        assert_int_equal(kd_winograd_packed(&turned), kd_winograd_packed(&o.s));
        kd_winograd_pack(&turned, o.w, true, o.packed);
        kd_winograd_run(&turned, o.r, o.packed, &plain, o.scratch, o.d_x);
        assert_close("input", o.d_x, q.x, o.n_x);
        double *bias = calloc((size_t)o.s.k, sizeof *bias);
        assert_non_null(bias);
        const size_t picture = (size_t)(o.s.oh * o.s.ow);
        for (size_t y = 0; y < o.n_y; y++)
            bias[y / LANES / picture % (size_t)(o.s.k / LANES) * LANES + y % LANES] +=
                (double)o.r[y];
        assert_close("bias", o.d_b, bias, (size_t)o.s.k);
        free(bias);
        sums_free(&q);
        net_free(&o);
    }
}

static void test_bias_residual_and_limits_follow_the_sum(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(shapes); i++) {
        net o = net_of(&shapes[i]);
        sums q = sums_of(&o);
        for (int64_t n = 0; n < o.s.n; n++)
            for (int64_t k = 0; k < o.s.k; k++)
                for (int64_t place = 0; place < o.s.oh * o.s.ow; place++) {
                    const size_t y = at(o.s.k, o.s.oh, o.s.ow, n, k, 0, place);
                    q.y[y] = fmin(fmax(q.y[y] + (double)o.b[k] + (double)o.r[y], -4), 6);
                }
        memcpy(o.y, o.r, o.n_y * sizeof *o.y);
        kd_winograd_pack(&o.s, o.w, false, o.packed);
        const kd_winograd_end end = {.bias = o.b, .residual = o.y, .low = -4, .high = 6};
        kd_winograd_run(&o.s, o.x, o.packed, &end, o.scratch, o.y);
        assert_close("result over its residual", o.y, q.y, o.n_y);
        sums_free(&q);
        net_free(&o);
    }
}

static void test_what_is_not_a_number_stays_one_and_stays_in_its_tile(void **state)
{
    (void)state;
    net o = net_of(&shapes[KD_COUNT(shapes) - 1]);
    kd_winograd_pack(&o.s, o.w, false, o.packed);
    o.x[at(o.s.c, o.s.h, o.s.w, 0, 3, 10, 10)] = NAN;
    const kd_winograd_end end = {.low = 0, .high = 6};
    kd_winograd_run(&o.s, o.x, o.packed, &end, o.scratch, o.y);
    for (int64_t y = 0; y < o.s.oh; y++)
        for (int64_t x = 0; x < o.s.ow; x++) {
            const bool reads = y / 4 * 4 <= 10 && 10 < y / 4 * 4 + 6 && x / 4 * 4 - 1 <= 10 &&
                               10 < x / 4 * 4 - 1 + 6;
            assert_int_equal(isnan(o.y[at(o.s.k, o.s.oh, o.s.ow, 0, 5, y, x)]) != 0, reads);
        }
    net_free(&o);
}

/* The same image alone and among others. */
static void test_bits_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    net o = net_of(&shapes[3]);
    const kd_winograd_end end = {.bias = o.b, .low = -INFINITY, .high = INFINITY};
    kd_winograd_pack(&o.s, o.w, false, o.packed);
    kd_winograd_run(&o.s, o.x, o.packed, &end, o.scratch, o.y);
    kd_winograd one = o.s;
    one.n = 1;
    const size_t image = o.n_y / (size_t)o.s.n, from = o.n_x / (size_t)o.s.n;
    kd_winograd_run(&one, o.x + 2 * from, o.packed, &end, o.scratch, o.r);
    assert_memory_equal(o.r, o.y + 2 * image, image * sizeof(float));
    net_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_and_gradients_are_those_of_direct_sums),
        cmocka_unit_test(test_bias_residual_and_limits_follow_the_sum),
        cmocka_unit_test(test_what_is_not_a_number_stays_one_and_stays_in_its_tile),
        cmocka_unit_test(test_bits_do_not_depend_on_the_batch),
    };
    if (!kd_winograd_supported()) {
        print_message("skipped: this processor has no AVX-512\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
