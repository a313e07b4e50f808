/* Batch norm's loops against plain ones in double, in every kind of layout and over several tiles,
 * and the loops of one processor against those of another.
 *
 * Tolerance: with x of size 1 and N about 2000 places a result is off by a few roundings of terms
 * of its own size, 1e-6, and the sums by 6e-8 * sqrt(N) = 3e-6 of the terms' size. SiLU's exp adds
 * 2 ulp. Hence 2e-5 of the largest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/layout.h"
#include "engine/ops/norm.h"
#include "kd/hash.h"
#include "kd/rng.h"
#include "kd_test.h"

enum { N = 2, H = 33, W = 31, MOST_C = 40 };

typedef struct {
    kd_layout l;
    kd_norm n;
    size_t floats;
    float *x, *r, *y, *d_y, *g, *d_x, *gamma, *beta, *mean, *var, *d_gamma, *d_beta;
    float *all[12];
} norm_case;

static const struct {
    const char *name;
    dnnl_format_tag_t tag;
    int c;
} layouts[] = {{"nhwc", dnnl_nhwc, 24},
               {"nhwc, odd", dnnl_nhwc, 7},
               {"nhwc, wide", dnnl_nhwc, 32},
               {"nchw", dnnl_nchw, 5},
               {"nChw16c", dnnl_nChw16c, 32},
               {"nChw16c, padded", dnnl_nChw16c, 40},
               {"nChw8c, padded", dnnl_nChw8c, 12}};

static float act_of(const kd_norm *n, double z, double *slope)
{
    const double s = 1 / (1 + exp(-z)), h = fmin(fmax(z + 3, 0), 6) / 6;
    switch (n->act) {
    case KD_NORM_CLAMP:
        *slope = z > (double)n->low && z < (double)n->high;
        return (float)fmin(fmax(z, (double)n->low), (double)n->high);
    case KD_NORM_HARD_SWISH:
        *slope = z <= -3 ? 0 : z >= 3 ? 1 : z / 3 + 0.5;
        return (float)(z * h);
    case KD_NORM_SILU:
        *slope = s + z * s * (1 - s);
        return (float)(z * s);
    case KD_NORM_PLAIN:
        break;
    }
    *slope = 1;
    return (float)z;
}

static norm_case new_case(size_t layout, enum kd_norm_act act, bool has_r, bool own)
{
    norm_case k = {0};
    dnnl_memory_desc_t md;
    const dnnl_dims_t dims = {N, layouts[layout].c, H, W};
    assert_int_equal(dnnl_memory_desc_init_by_tag(&md, 4, dims, dnnl_f32, layouts[layout].tag),
                     dnnl_success);
    assert_true(kd_layout_of(&md, &k.l));
    assert_true(kd_norm_shape_of(&md, &k.n.shape));
    k.floats = dnnl_memory_desc_get_size(&md) / sizeof(float);
    const size_t channels = (size_t)(k.n.shape.groups * k.n.shape.channels);
    float **fields[] = {&k.x,     &k.r,    &k.y,    &k.d_y, &k.g,       &k.d_x,
                        &k.gamma, &k.beta, &k.mean, &k.var, &k.d_gamma, &k.d_beta};
    for (size_t i = 0; i < KD_COUNT(fields); i++)
        *fields[i] = k.all[i] = kd_xalloc((i < 6 ? k.floats : channels) * sizeof(float));
    kd_rng rng;
    kd_rng_init(&rng, 5, KD_RNG_TEST, layout, 0);
    for (int c = 0; c < layouts[layout].c; c++) {
        k.gamma[c] = 0.5F + kd_rng_float(&rng);
        k.beta[c] = kd_rng_float(&rng) - 0.5F;
        k.mean[c] = 3 * kd_rng_float(&rng); /* far from 0 beside the spread, as behind a ReLU */
        k.var[c] = 0.5F + kd_rng_float(&rng);
        for (int i = 0; i < N * H * W; i++) {
            const int64_t at = kd_layout_at(&k.l, i / (H * W), c, i / W % H, i % W);
            k.x[at] = k.mean[c] + (float)kd_rng_normal(&rng);
            k.r[at] = (float)kd_rng_normal(&rng);
            k.d_y[at] = (float)kd_rng_normal(&rng);
        }
    }
    k.n.act = act;
    k.n.low = act == KD_NORM_CLAMP ? -0.25F : 0;
    k.n.high = 1.5F;
    k.n.eps = 1e-3;
    k.n.own = own;
    k.n.mean = k.mean;
    k.n.var = k.var;
    k.n.gamma = k.gamma;
    k.n.beta = k.beta;
    k.n.scratch = kd_xalloc(kd_norm_scratch(&k.n.shape));
    k.n.x = k.x;
    k.n.r = has_r ? k.r : NULL;
    k.n.y = k.y;
    k.n.d_y = k.d_y;
    k.n.d_x = k.d_x;
    k.n.g = act == KD_NORM_PLAIN || (act == KD_NORM_CLAMP && !has_r) ? NULL : k.g;
    k.n.d_gamma = k.d_gamma;
    k.n.d_beta = k.d_beta;
    return k;
}

static void free_case(norm_case *k)
{
    for (size_t i = 0; i < KD_COUNT(k->all); i++)
        free(k->all[i]);
    free(k->n.scratch);
}

static void check_close(double got, double want, double size, const char *what, int c)
{
    if (fabs(got - want) <= 2e-5 * size)
        return;
    print_error("%s of channel %d is %.9g, the plain loops give %.9g\n", what, c, got, want);
    fail();
}

/* One channel, place by place. */
static void check_channel(const norm_case *k, int c)
{
    const int count = N * H * W;
    double mean = 0, m2 = 0, sum = 0, product = 0;
    int64_t at[N * H * W];
    for (int i = 0; i < count; i++) {
        at[i] = kd_layout_at(&k->l, i / (H * W), c, i / W % H, i % W);
        mean += (double)k->x[at[i]] / count;
    }
    for (int i = 0; i < count; i++)
        m2 += ((double)k->x[at[i]] - mean) * ((double)k->x[at[i]] - mean);
    if (k->n.own) {
        check_close((double)k->mean[c], mean, 3, "mean", c);
        check_close((double)k->var[c], m2 / count, 1, "variance", c);
    }
    mean = (double)k->mean[c];
    const double unit = 1 / sqrt((double)k->var[c] + k->n.eps);
    static double slopes[N * H * W];
    for (int i = 0; i < count; i++) {
        const double d = ((double)k->x[at[i]] - mean) * unit;
        const double z =
            d * (double)k->gamma[c] + (double)k->beta[c] + (k->n.r ? (double)k->r[at[i]] : 0);
        check_close((double)k->y[at[i]], (double)act_of(&k->n, z, &slopes[i]), 5, "y", c);
        slopes[i] *= (double)k->d_y[at[i]];
        sum += slopes[i];
        product += slopes[i] * d;
    }
    check_close((double)k->d_beta[c], sum, sqrt(count), "d beta", c);
    check_close((double)k->d_gamma[c], product, sqrt(count), "d gamma", c);
    for (int i = 0; i < count; i++) {
        const double d = ((double)k->x[at[i]] - mean) * unit;
        const double means = k->n.own ? (sum + d * product) / count : 0;
        check_close((double)k->d_x[at[i]], (double)k->gamma[c] * unit * (slopes[i] - means), 5,
                    "d x", c);
    }
}

static void each_case(void (*check)(norm_case *k, size_t layout))
{
    static const enum kd_norm_act acts[] = {KD_NORM_PLAIN, KD_NORM_CLAMP, KD_NORM_HARD_SWISH,
                                            KD_NORM_SILU};
    for (size_t layout = 0; layout < KD_COUNT(layouts); layout++)
        for (size_t i = 0; i < 4 * KD_COUNT(acts); i++) {
            norm_case k = new_case(layout, acts[i / 4], i % 2, i / 2 % 2);
            check(&k, layout);
            free_case(&k);
        }
}

static void check_plain(norm_case *k, size_t layout)
{
    kd_norm_forward(&k->n);
    kd_norm_backward(&k->n);
    for (int c = 0; c < layouts[layout].c; c++)
        check_channel(k, c);
    /* Padding stays zero. */
    double padding = 0;
    for (size_t i = 0; i < k->floats; i++)
        padding += fabs((double)k->y[i]) + fabs((double)k->d_x[i]);
    for (int c = 0; c < layouts[layout].c; c++)
        for (int i = 0; i < N * H * W; i++) {
            const int64_t at = kd_layout_at(&k->l, i / (H * W), c, i / W % H, i % W);
            k->y[at] = k->d_x[at] = 0;
        }
    for (size_t i = 0; i < k->floats; i++)
        assert_true(k->y[i] == 0 && k->d_x[i] == 0);
    assert_true(padding > 0);
}

static void test_norm_is_what_plain_loops_give(void **state)
{
    (void)state;
    each_case(check_plain);
}

/* Outputs of one kind of loops, in order. */
static kd_digest results(norm_case *k, bool portable)
{
    k->n.portable = portable;
    kd_norm_forward(&k->n);
    kd_norm_backward(&k->n);
    kd_hasher *h = kd_hasher_new();
    const size_t channels = (size_t)(k->n.shape.groups * k->n.shape.channels);
    float *values[] = {k->y, k->d_x, k->g}, *sums[] = {k->mean, k->var, k->d_gamma, k->d_beta};
    for (size_t i = 0; i < KD_COUNT(values); i++)
        kd_hasher_add(h, values[i], k->floats * sizeof(float));
    for (size_t i = 0; i < KD_COUNT(sums); i++)
        kd_hasher_add(h, sums[i], channels * sizeof(float));
    const kd_digest d = kd_hasher_digest(h);
    kd_hasher_free(h);
    return d;
}

static void check_portable(norm_case *k, size_t layout)
{
    (void)layout;
    const kd_digest fast = results(k, false), portable = results(k, true);
    assert_memory_equal(&fast, &portable, sizeof fast);
}

static void test_norm_same_bits_on_every_processor(void **state)
{
    (void)state;
    each_case(check_portable);
}

/* g over d_y, d_x over d_y: what a plan does to save memory. */
static void check_in_place(norm_case *k, size_t layout)
{
    (void)layout;
    kd_norm_forward(&k->n);
    kd_norm_backward(&k->n);
    float *apart = kd_xalloc(k->floats * sizeof *apart);
    memcpy(apart, k->d_x, k->floats * sizeof *apart);
    k->n.g = k->n.g ? k->d_y : NULL;
    k->n.d_x = k->d_y;
    kd_norm_backward(&k->n);
    assert_memory_equal(apart, k->d_y, k->floats * sizeof *apart);
    free(apart);
}

static void test_norm_in_place(void **state)
{
    (void)state;
    each_case(check_in_place);
}

/* A value that is not finite shows in what comes out, whatever the activation. */
static void test_norm_hides_nothing(void **state)
{
    (void)state;
    for (int act = KD_NORM_PLAIN; act <= KD_NORM_SILU; act++)
        for (int own = 0; own < 2; own++) {
            norm_case k = new_case(0, (enum kd_norm_act)act, false, own);
            k.x[100] = NAN;
            kd_norm_forward(&k.n);
            assert_true(isnan(k.y[100]));
            free_case(&k);
        }
}

/* Far from 0 the variance is still that of the values: 1 beside 4096. */
static void test_norm_variance_far_from_zero(void **state)
{
    (void)state;
    norm_case k = new_case(0, KD_NORM_PLAIN, false, true);
    for (size_t i = 0; i < k.floats; i++)
        k.x[i] = i / 24 % 2 ? 4097 : 4095;
    kd_norm_forward(&k.n);
    const double count = N * H * W, odd = (double)(N * H * W / 2);
    const double shift = (count - 2 * odd) / count; /* as many -1 as 1, or one more */
    kd_assert_close(k.var[1], 1 - shift * shift, 1e-5, 0);
    free_case(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm_is_what_plain_loops_give),
        cmocka_unit_test(test_norm_same_bits_on_every_processor),
        cmocka_unit_test(test_norm_in_place),
        cmocka_unit_test(test_norm_hides_nothing),
        cmocka_unit_test(test_norm_variance_far_from_zero),
    };
    return cmocka_run_group_tests_name("norm", tests, NULL, NULL);
}
