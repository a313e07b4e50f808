/* Depthwise convolutions of 8-bit values by loops of our own: byte by byte what plain loops give,
 * and in plans bit by bit what oneDNN's convolutions give. */
#include "checks.h"

#include "engine/op.h"
#include "engine/ops/conv.h"
#include "engine/ops/depthwise_vnni.h"

#include <math.h>

enum { GUARD = 64, FILL = 0x5a };

static int value_of(const uint8_t *x, bool has_sign)
{
    return has_sign ? (int8_t)*x : *x;
}

static float limited(float z, float low, float high)
{
    return fminf(fmaxf(z, low), high);
}

/* The same operations one after the other. */
static uint8_t by_hand(const kd_depthwise_vnni *d, const int8_t *weights, const float *bias,
                       const float *scales, const uint8_t *x, int64_t oy, int64_t ox, int64_t c)
{
    int sum = 0;
    for (int k = 0; k < 9; k++) {
        const int64_t iy = oy * d->stride - d->pad_top + k / 3;
        const int64_t ix = ox * d->stride - d->pad_left + k % 3;
        if (iy >= 0 && iy < d->h && ix >= 0 && ix < d->w)
            sum += weights[c * 9 + k] * value_of(x + (iy * d->w + ix) * d->c + c, d->x_signed);
    }
    float z = ((float)sum + bias[c]) * scales[c];
    if (d->clamps)
        z = limited(z, d->low, d->high);
    z = limited(z * d->factor, d->y_signed ? -128 : 0, d->y_signed ? 127 : 255);
    return (uint8_t)(int)nearbyintf(z);
}

static void check_loops(kd_depthwise_vnni d, float size, kd_rng *r)
{
    const size_t c = (size_t)d.c, in = (size_t)(d.h * d.w) * c,
                 out = (size_t)(d.out_h * d.out_w) * c;
    uint8_t *x = kd_xalloc(in), *y = kd_xalloc(out + GUARD);
    int8_t *weights = kd_xalloc(9 * c);
    float *bias = kd_xalloc(c * sizeof *bias), *scales = kd_xalloc(c * sizeof *scales);
    void *table = kd_xalloc(kd_depthwise_vnni_table(d.c));
    const bool extreme = kd_rng_below(r, 4) == 0; /* the largest sums that there are */
    for (size_t i = 0; i < in; i++)
        x[i] = extreme ? (d.x_signed ? 0x80 : 0xff) : (uint8_t)kd_rng_below(r, 256);
    for (size_t i = 0; i < 9 * c; i++)
        weights[i] =
            extreme ? (int8_t)(i / 9 % 2 ? 127 : -127) : (int8_t)((int)kd_rng_below(r, 255) - 127);
    for (size_t i = 0; i < c; i++) {
        bias[i] = 2e4F * (kd_rng_float(r) - 0.5F);
        scales[i] = size * (0.5F + kd_rng_float(r));
    }
    memset(y, FILL, out + GUARD);
    kd_depthwise_vnni_pack(&d, weights, bias, scales, table);
    kd_depthwise_vnni_run(&d, table, x, y);
    for (size_t i = 0; i < out; i++) {
        const int64_t at = (int64_t)(i / c);
        const uint8_t want =
            by_hand(&d, weights, bias, scales, x, at / d.out_w, at % d.out_w, (int64_t)(i % c));
        if (y[i] != want)
            fail_msg("[%d,%d,%d], stride %d, padding %d, %d, %s to %s%s: %d instead of %d at %zu",
                     (int)d.h, (int)d.w, (int)d.c, (int)d.stride, (int)d.pad_top, (int)d.pad_left,
                     d.x_signed ? "s8" : "u8", d.y_signed ? "s8" : "u8",
                     d.clamps ? ", clamped" : "", y[i], want, i);
    }
    for (size_t i = out; i < out + GUARD; i++)
        assert_int_equal(y[i], FILL);
    free(x);
    free(y);
    free(weights);
    free(bias);
    free(scales);
    free(table);
}

static void test_loops_are_what_they_say(void **state)
{
    (void)state;
    if (!kd_depthwise_vnni_works())
        skip();
    static const int64_t channels[] = {1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 96, 127, 144};
    static const int64_t sides[][2] = {{1, 1}, {1, 5}, {2, 1}, {3, 3}, {4, 2}, {7, 6}};
    kd_rng r;
    kd_rng_init(&r, 11, KD_RNG_TEST, 0, 0);
    int plain = 0, all = 0;
    for (size_t i = 0; i < KD_COUNT(channels); i++)
        for (size_t k = 0; k < KD_COUNT(sides); k++)
            for (int way = 0; way < 32; way++) {
                kd_depthwise_vnni d = {.h = sides[k][0],
                                       .w = sides[k][1],
                                       .c = channels[i],
                                       .stride = way % 2 + 1,
                                       .pad_top = kd_rng_below(&r, 3),
                                       .pad_left = kd_rng_below(&r, 3),
                                       .x_signed = way & 2,
                                       .y_signed = way & 4,
                                       .clamps = way & 8,
                                       .low = way & 16 ? 0 : -3.5F,
                                       .high = way & 16 ? INFINITY : 6,
                                       .factor = way & 24 ? 20.3F : 1};
                const int64_t below = kd_rng_below(&r, 3), right = kd_rng_below(&r, 3);
                d.out_h = (d.h + d.pad_top + below - 3) / d.stride + 1;
                d.out_w = (d.w + d.pad_left + right - 3) / d.stride + 1;
                if (d.h + d.pad_top + below < 3 || d.w + d.pad_left + right < 3)
                    continue;
                check_loops(d, 3e-3F / d.factor, &r);
                check_loops(d, 1e30F, &r); /* far beyond whole numbers */
                plain += !(way & 30);
                all++;
            }
    print_message("%d cases, %d of them plain\n", 2 * all, plain);
    assert_true(plain > 50 && all > 1500);
}

/* ---- in plans */

typedef struct {
    int c, h, w, stride;
    int pad[4];
    enum { NONE, RELU, RELU6, CLIP, SILU } act;
    bool first; /* reads the input, which has a sign */
} shape;

static int act_of(kd_graph *g, int x, const shape *s)
{
    return s->act == RELU    ? kd_graph_relu(g, x)
           : s->act == RELU6 ? kd_graph_relu6(g, x)
           : s->act == CLIP  ? kd_graph_clip(g, x, -0.5F, 1)
           : s->act == SILU  ? kd_graph_silu(g, x)
                             : x;
}

static ref_net net_of(const shape *s, bool residual)
{
    const enum kd_param_init he = KD_INIT_HE_NORMAL;
    kd_graph *g = kd_graph_new(s->h, s->w, s->first ? s->c : 3);
    int x = 0;
    if (!s->first)
        x = kd_graph_relu(g, kd_graph_conv(g, x, "before", s->c, 1, 1, ref_pad0, 1, true, he));
    kd_conv_spec spec = {.out_channels = s->c,
                         .kernel_h = 3,
                         .kernel_w = 3,
                         .stride_h = s->stride,
                         .stride_w = s->stride,
                         .groups = s->c,
                         .bias = true,
                         .init = he};
    memcpy(spec.pad, s->pad, sizeof spec.pad);
    int y = kd_graph_conv2(g, x, "depthwise", &spec);
    if (residual)
        y = kd_graph_add(g, y, x);
    y = kd_graph_conv(g, act_of(g, y, s), "behind", 8, 1, 1, ref_pad0, 1, true, he);
    return ref_net_of("depthwise", g, y, 2);
}

enum { INT8, CORRECTED, RANGED };

/* Logits; *ours: how many convolutions the loops do. */
static float *logits_in(int kind, const ref_net *net, bool off, int *ours)
{
    kd_diag diag = {0};
    const kd_graph *g = net->g;
    const size_t channels = kd_graph_channels(g, g->n_nodes);
    kd_plan *p = plan_of(net, net->batch, KD_PLAN_INFER), *q;
    float *largest = kd_xalloc((size_t)g->n_nodes * sizeof *largest);
    float *z = kd_xalloc(logits_of(net) * sizeof *z), *means = kd_xalloc(channels * sizeof *means);
    double *sums = kd_xalloc(channels * sizeof *sums);
    kd_plan_watch(p, largest);
    kd_plan_watch_sums(p, sums);
    kd_assert_ok(kd_plan_forward(p, net->input, z, &diag), &diag);
    kd_plan_means(g, sums, (size_t)net->batch, means);
    kd_plan_free(p);
    for (int i = 0; i < g->n_nodes; i++)
        g->nodes[i].range = kind == RANGED ? largest[i] : 0;
    kd_depthwise_int8_off = off;
    kd_assert_ok(kind == RANGED ? kd_plan_new_ranged(g, net->batch, net->vector, &q, &diag)
                                : kd_plan_new_int8(g, net->batch, net->vector, largest,
                                                   kind == CORRECTED ? means : NULL, &q, &diag),
                 &diag);
    kd_depthwise_int8_off = false;
    *ours = 0;
    for (int i = 0; i < q->n_tasks; i++)
        *ours += q->tasks[i].int8_depthwise;
    kd_assert_ok(kd_plan_forward(q, net->input, z, &diag), &diag);
    kd_plan_poison(q);
    float *again = kd_xalloc(logits_of(net) * sizeof *z);
    kd_assert_ok(kd_plan_forward(q, net->input, again, &diag), &diag);
    assert_memory_equal(again, z, logits_of(net) * sizeof *z);
    kd_plan_free(q);
    free(again);
    free(largest);
    free(sums);
    free(means);
    return z;
}

/* want: how many of its convolutions are ours. */
static void check_same(const shape *s, bool residual, int want)
{
    for (int kind = INT8; kind <= RANGED; kind++) {
        ref_net net = net_of(s, residual);
        int ours, theirs;
        float *a = logits_in(kind, &net, false, &ours), *b = logits_in(kind, &net, true, &theirs);
        assert_int_equal(ours, want);
        assert_int_equal(theirs, 0);
        for (size_t i = 0; i < logits_of(&net); i++)
            if (memcmp(a + i, b + i, sizeof *a) != 0)
                fail_msg(
                    "%d channels, %dx%d, stride %d, activation %d, kind %d: %.9g here, %.9g by "
                    "oneDNN at %zu",
                    s->c, s->h, s->w, s->stride, s->act, kind, (double)a[i], (double)b[i], i);
        free(a);
        free(b);
        ref_net_free(&net);
    }
}

static void test_plans_give_onednns_bits(void **state)
{
    (void)state;
    if (!kd_depthwise_vnni_works())
        skip();
    static const shape shapes[] = {
        {32, 9, 9, 1, {1, 1, 1, 1}, RELU6, false}, {24, 8, 11, 2, {0, 0, 1, 1}, RELU6, false},
        {64, 7, 7, 1, {1, 1, 1, 1}, RELU, false},  {144, 5, 6, 2, {1, 1, 1, 1}, CLIP, false},
        {48, 6, 5, 1, {2, 0, 1, 2}, NONE, false},  {80, 6, 9, 2, {0, 2, 0, 1}, NONE, false},
        {16, 9, 8, 1, {1, 1, 1, 1}, RELU6, true},  {20, 9, 8, 2, {1, 1, 1, 1}, RELU, true},
        {63, 4, 4, 1, {1, 1, 1, 1}, NONE, true},   {3, 8, 8, 2, {0, 0, 1, 1}, CLIP, true},
    };
    for (size_t i = 0; i < KD_COUNT(shapes); i++)
        check_same(&shapes[i], false, 1);
}

static void test_others_stay_with_onednn(void **state)
{
    (void)state;
    const shape plain = {32, 7, 7, 1, {1, 1, 1, 1}, RELU, false};
    shape silu = plain, coarse = plain;
    silu.act = SILU;
    coarse.stride = 3;
    check_same(&silu, false, 0);
    check_same(&coarse, false, 0);
    check_same(&plain, true, 0); /* an addition */
}

static void test_both_have_one_fingerprint(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_engine_info ours, theirs;
    kd_assert_ok(kd_engine_info_get(&ours, &diag), &diag);
    kd_depthwise_int8_off = true;
    kd_assert_ok(kd_engine_info_get(&theirs, &diag), &diag);
    kd_depthwise_int8_off = false;
    assert_true(kd_digest_equal(&ours.numerics, &theirs.numerics));
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loops_are_what_they_say),
        cmocka_unit_test(test_plans_give_onednns_bits),
        cmocka_unit_test(test_others_stay_with_onednn),
        cmocka_unit_test(test_both_have_one_fingerprint),
    };
    return cmocka_run_group_tests_name("8-bit depthwise convolutions", tests, NULL, NULL);
}
