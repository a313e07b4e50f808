/* Convolutions of 8-bit values by loops of our own: byte by byte what plain loops give, and in
 * plans bit by bit what oneDNN's convolutions give. */
#include "checks.h"

#include "engine/op.h"
#include "engine/ops/conv.h"
#include "engine/ops/vnni.h"

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

/* What follows a sum, the same operations one after the other; r NULL: nothing is added. */
static float finished(const kd_vnni_end *e, int sum, float bias, float scale, const uint8_t *r)
{
    float z = ((float)sum + bias) * scale;
    if (r)
        z = fmaf((float)value_of(r, e->residual_signed), e->residual, z);
    if (e->clamps)
        z = limited(z, e->low, e->high);
    if (e->type == KD_VNNI_F32)
        return z;
    z *= e->factor;
    return nearbyintf(e->type == KD_VNNI_U8 ? limited(z, 0, 255) : limited(z, -128, 127));
}

/* One of the ways to end, and a scale that gives results of all sizes. */
static kd_vnni_end end_of(int way, float *scale)
{
    const kd_vnni_end e = {.type = way & 1 ? KD_VNNI_S8 : KD_VNNI_U8,
                           .clamps = way & 2,
                           .low = way & 4 ? 0 : -3.5F,
                           .high = way & 4 ? INFINITY : 6,
                           .factor = way & 6 ? 20.3F : 1};
    *scale = 3e-3F / e.factor;
    return e;
}

/* What a convolution reads: weights [channels * taps], bias and scales [channels], x [n]. */
typedef struct {
    uint8_t *x;
    int8_t *weights;
    float *bias, *scales;
} operands;

static operands operands_of(size_t n, size_t channels, size_t taps, bool x_signed, float scale,
                            kd_rng *r)
{
    operands o = {kd_xalloc(n), kd_xalloc(channels * taps), kd_xalloc(channels * sizeof(float)),
                  kd_xalloc(channels * sizeof(float))};
    const bool extreme = kd_rng_below(r, 4) == 0; /* the largest sums that there are */
    for (size_t i = 0; i < n; i++)
        o.x[i] = extreme ? (x_signed ? 0x80 : 0xff) : (uint8_t)kd_rng_below(r, 256);
    for (size_t i = 0; i < channels * taps; i++)
        o.weights[i] = extreme ? (int8_t)(i / taps % 2 ? 127 : -127)
                               : (int8_t)((int)kd_rng_below(r, 255) - 127);
    for (size_t i = 0; i < channels; i++) {
        o.bias[i] = 2e4F * (kd_rng_float(r) - 0.5F);
        o.scales[i] = scale * (0.5F + kd_rng_float(r));
    }
    return o;
}

static void free_operands(const operands *o)
{
    free(o->x);
    free(o->weights);
    free(o->bias);
    free(o->scales);
}

static float by_hand(const kd_vnni_depthwise *d, const operands *o, int64_t oy, int64_t ox,
                     int64_t c)
{
    int sum = 0;
    for (int k = 0; k < 9; k++) {
        const int64_t iy = oy * d->stride - d->pad_top + k / 3;
        const int64_t ix = ox * d->stride - d->pad_left + k % 3;
        if (iy >= 0 && iy < d->h && ix >= 0 && ix < d->w)
            sum +=
                o->weights[c * 9 + k] * value_of(o->x + (iy * d->w + ix) * d->c + c, d->x_signed);
    }
    return finished(&d->end, sum, o->bias[c], o->scales[c], NULL);
}

static void check_depthwise(kd_vnni_depthwise d, float scale, kd_rng *r)
{
    const size_t c = (size_t)d.c, out = (size_t)(d.out_h * d.out_w) * c;
    const operands o = operands_of((size_t)(d.h * d.w) * c, c, 9, d.x_signed, scale, r);
    uint8_t *y = kd_xalloc(out + GUARD);
    void *table = kd_xalloc(kd_vnni_depthwise_table(d.c));
    memset(y, FILL, out + GUARD);
    kd_vnni_depthwise_pack(&d, o.weights, o.bias, o.scales, table);
    kd_vnni_depthwise_run(&d, table, o.x, y);
    for (size_t i = 0; i < out; i++) {
        const int64_t at = (int64_t)(i / c);
        const int got = value_of(y + i, d.end.type == KD_VNNI_S8),
                  want = (int)by_hand(&d, &o, at / d.out_w, at % d.out_w, (int64_t)(i % c));
        if (got != want)
            fail_msg("[%d,%d,%d], stride %d, padding %d, %d: %d instead of %d at %zu", (int)d.h,
                     (int)d.w, (int)d.c, (int)d.stride, (int)d.pad_top, (int)d.pad_left, got, want,
                     i);
    }
    for (size_t i = out; i < out + GUARD; i++)
        assert_int_equal(y[i], FILL);
    free_operands(&o);
    free(y);
    free(table);
}

static void test_depthwise_is_what_it_says(void **state)
{
    (void)state;
    static const int64_t channels[] = {1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 96, 127, 144};
    static const int64_t sides[][2] = {{1, 1}, {1, 5}, {2, 1}, {3, 3}, {4, 2}, {7, 6}};
    kd_rng r;
    kd_rng_init(&r, 11, KD_RNG_TEST, 0, 0);
    int all = 0;
    for (size_t i = 0; i < KD_COUNT(channels); i++)
        for (size_t k = 0; k < KD_COUNT(sides); k++)
            for (int way = 0; way < 32; way++) {
                float scale;
                kd_vnni_depthwise d = {.h = sides[k][0],
                                       .w = sides[k][1],
                                       .c = channels[i],
                                       .stride = way / 8 % 2 + 1,
                                       .pad_top = kd_rng_below(&r, 3),
                                       .pad_left = kd_rng_below(&r, 3),
                                       .x_signed = way & 16,
                                       .end = end_of(way, &scale)};
                const int64_t h = d.h + d.pad_top + kd_rng_below(&r, 3);
                const int64_t w = d.w + d.pad_left + kd_rng_below(&r, 3);
                if (h < 3 || w < 3)
                    continue;
                d.out_h = (h - 3) / d.stride + 1;
                d.out_w = (w - 3) / d.stride + 1;
                check_depthwise(d, scale, &r);
                check_depthwise(d, 1e30F, &r); /* far beyond whole numbers */
                all++;
            }
    assert_true(all > 1500);
}

/* in_place: the residual lies where the result will. */
static void check_pointwise(kd_vnni_pointwise d, bool adds, bool in_place, float scale, kd_rng *rng)
{
    const bool wide = d.end.type == KD_VNNI_F32;
    const size_t out = (size_t)(d.places * d.out), bytes = wide ? 4 * out : out;
    const operands o =
        operands_of((size_t)(d.places * d.in), (size_t)d.out, (size_t)d.in, d.x_signed, scale, rng);
    uint8_t *y = kd_xalloc(bytes + GUARD), *r = kd_xalloc(out);
    void *table = kd_xalloc(kd_vnni_pointwise_table(d.in, d.out));
    void *scratch = d.x_signed ? kd_xalloc(kd_vnni_pointwise_scratch(d.in)) : NULL;
    memset(y, FILL, bytes + GUARD);
    for (size_t i = 0; i < out; i++)
        r[i] = (uint8_t)kd_rng_below(rng, 256);
    if (in_place)
        memcpy(y, r, out);
    kd_vnni_pointwise_pack(&d, o.weights, o.bias, o.scales, table);
    kd_vnni_pointwise_run(&d, table, o.x, in_place ? y : adds ? r : NULL, scratch, y);
    for (size_t i = 0; i < out; i++) {
        const size_t c = i % (size_t)d.out, in = (size_t)d.in;
        int sum = 0;
        for (size_t k = 0; k < in; k++)
            sum += o.weights[c * in + k] * value_of(o.x + i / (size_t)d.out * in + k, d.x_signed);
        const float want = finished(&d.end, sum, o.bias[c], o.scales[c], adds ? r + i : NULL);
        float got = (float)value_of(y + i, d.end.type == KD_VNNI_S8);
        if (wide)
            memcpy(&got, y + 4 * i, sizeof got);
        if (got != want)
            fail_msg("%d places, %d to %d channels: %.9g instead of %.9g at %zu", (int)d.places,
                     (int)d.in, (int)d.out, (double)got, (double)want, i);
    }
    for (size_t i = bytes; i < bytes + GUARD; i++)
        assert_int_equal(y[i], FILL);
    free_operands(&o);
    free(y);
    free(r);
    free(table);
    free(scratch);
}

static void test_pointwise_is_what_it_says(void **state)
{
    (void)state;
    static const int64_t places[] = {1, 5, 6, 13, 100}, ins[] = {4, 16, 36, 260, 1028},
                         outs[] = {16, 32, 48, 64, 80, 112};
    kd_rng r;
    kd_rng_init(&r, 12, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < KD_COUNT(places) * KD_COUNT(ins) * KD_COUNT(outs); i++)
        for (int way = 0; way < 16; way++) {
            float scale;
            kd_vnni_pointwise d = {.places = places[i % KD_COUNT(places)],
                                   .in = ins[i / KD_COUNT(places) % KD_COUNT(ins)],
                                   .out = outs[i / KD_COUNT(places) / KD_COUNT(ins)],
                                   .x_signed = way & 8,
                                   .end = end_of(way, &scale)};
            scale /= (float)d.in;
            if (d.in * d.out * d.places > 100000 && kd_rng_below(&r, 4))
                continue;
            check_pointwise(d, false, false, scale, &r);
            check_pointwise(d, false, false, 1e30F, &r);
            d.end.residual = 0.07F;
            d.end.residual_signed = kd_rng_below(&r, 2);
            check_pointwise(d, true, kd_rng_below(&r, 2), scale, &r);
            d.end.type = KD_VNNI_F32;
            check_pointwise(d, true, false, scale, &r);
            d.end.residual = 0;
            check_pointwise(d, false, false, scale, &r);
        }
}

/* ---- in plans */

enum { NONE, RELU, RELU6, CLIP, SILU };

typedef struct {
    int c, h, w, stride;
    int pad[4];
    int act;
    bool first; /* reads the input, which has a sign */
} shape;

static int act_of(kd_graph *g, int x, int act)
{
    return act == RELU    ? kd_graph_relu(g, x)
           : act == RELU6 ? kd_graph_relu6(g, x)
           : act == CLIP  ? kd_graph_clip(g, x, -0.5F, 1)
           : act == SILU  ? kd_graph_silu(g, x)
                          : x;
}

static ref_net depthwise_net(const shape *s, bool residual)
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
    y = kd_graph_conv(g, act_of(g, y, s->act), "behind", 8, 1, 1, ref_pad0, 1, true, he);
    return ref_net_of("depthwise", g, y, 2);
}

/* Three 1x1 convolutions, the second with the first one's result behind it. */
typedef struct {
    int in, first, second, last, side;
    int acts[3];
    bool residual;
    int ours;
} chain;

static ref_net chain_net(const chain *k)
{
    const enum kd_param_init he = KD_INIT_HE_NORMAL;
    kd_graph *g = kd_graph_new(k->side, k->side, k->in);
    int x = kd_graph_conv(g, 0, "first", k->first, 1, 1, ref_pad0, 1, true, he);
    x = act_of(g, x, k->acts[0]);
    int y = kd_graph_conv(g, x, "second", k->second, 1, 1, ref_pad0, 1, true, he);
    if (k->residual)
        y = kd_graph_add(g, x, y);
    y = act_of(g, y, k->acts[1]);
    y = kd_graph_conv(g, y, "last", k->last, 1, 1, ref_pad0, 1, false, he);
    return ref_net_of("1x1", g, act_of(g, y, k->acts[2]), 2);
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
    kd_conv_vnni_off = off;
    kd_assert_ok(kind == RANGED ? kd_plan_new_ranged(g, net->batch, net->vector, &q, &diag)
                                : kd_plan_new_int8(g, net->batch, net->vector, largest,
                                                   kind == CORRECTED ? means : NULL, &q, &diag),
                 &diag);
    kd_conv_vnni_off = false;
    *ours = 0;
    for (int i = 0; i < q->n_tasks; i++)
        *ours += q->tasks[i].int8_vnni;
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

/* Takes the net. want: how many of its convolutions are ours. */
static void check_same(ref_net net, int want)
{
    for (int kind = INT8; kind <= RANGED; kind++) {
        int ours, theirs;
        float *a = logits_in(kind, &net, false, &ours), *b = logits_in(kind, &net, true, &theirs);
        assert_int_equal(ours, want);
        assert_int_equal(theirs, 0);
        for (size_t i = 0; i < logits_of(&net); i++)
            if (memcmp(a + i, b + i, sizeof *a) != 0)
                fail_msg("%s, %d channels, kind %d: %.9g here, %.9g by oneDNN at %zu", net.name,
                         net.g->nodes[1].c, kind, (double)a[i], (double)b[i], i);
        free(a);
        free(b);
    }
    ref_net_free(&net);
}

static void test_depthwise_gives_onednns_bits(void **state)
{
    (void)state;
    static const shape shapes[] = {
        {32, 9, 9, 1, {1, 1, 1, 1}, RELU6, false}, {24, 8, 11, 2, {0, 0, 1, 1}, RELU6, false},
        {64, 7, 7, 1, {1, 1, 1, 1}, RELU, false},  {144, 5, 6, 2, {1, 1, 1, 1}, CLIP, false},
        {48, 6, 5, 1, {2, 0, 1, 2}, NONE, false},  {80, 6, 9, 2, {0, 2, 0, 1}, NONE, false},
        {16, 9, 8, 1, {1, 1, 1, 1}, RELU6, true},  {20, 9, 8, 2, {1, 1, 1, 1}, RELU, true},
        {63, 4, 4, 1, {1, 1, 1, 1}, NONE, true},   {3, 8, 8, 2, {0, 0, 1, 1}, CLIP, true},
    };
    for (size_t i = 0; i < KD_COUNT(shapes); i++)
        check_same(depthwise_net(&shapes[i], false), 1);
}

static void test_pointwise_gives_onednns_bits(void **state)
{
    (void)state;
    static const chain chains[] = {
        {16, 96, 32, 64, 7, {RELU6, NONE, RELU}, false, 3},
        {20, 48, 144, 32, 6, {NONE, CLIP, NONE}, false, 3},
        {64, 32, 32, 80, 7, {NONE, NONE, RELU6}, true, 3},
        {12, 64, 64, 32, 9, {RELU, NONE, NONE}, true, 3},
        {12, 64, 64, 32, 5, {NONE, RELU, CLIP}, true, 3},
        {8, 112, 112, 48, 8, {RELU, RELU6, NONE}, true, 3},
        {3, 32, 40, 64, 5, {RELU, NONE, NONE}, false, 1}, /* no whole vectors */
        {16, 16, 32, 24, 5, {RELU, NONE, SILU}, false, 1},
    };
    for (size_t i = 0; i < KD_COUNT(chains); i++)
        check_same(chain_net(&chains[i]), chains[i].ours);
}

static void test_others_stay_with_onednn(void **state)
{
    (void)state;
    const shape plain = {32, 7, 7, 1, {1, 1, 1, 1}, RELU, false};
    shape silu = plain, coarse = plain;
    silu.act = SILU;
    coarse.stride = 3;
    check_same(depthwise_net(&silu, false), 0);
    check_same(depthwise_net(&coarse, false), 0);
    check_same(depthwise_net(&plain, true), 0); /* an addition */
}

static void test_both_have_one_fingerprint(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_engine_info ours, theirs;
    kd_assert_ok(kd_engine_info_get(&ours, &diag), &diag);
    kd_conv_vnni_off = true;
    kd_assert_ok(kd_engine_info_get(&theirs, &diag), &diag);
    kd_conv_vnni_off = false;
    assert_true(kd_digest_equal(&ours.numerics, &theirs.numerics));
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_depthwise_is_what_it_says),
        cmocka_unit_test(test_pointwise_is_what_it_says),
        cmocka_unit_test(test_depthwise_gives_onednns_bits),
        cmocka_unit_test(test_pointwise_gives_onednns_bits),
        cmocka_unit_test(test_others_stay_with_onednn),
        cmocka_unit_test(test_both_have_one_fingerprint),
    };
    if (!kd_vnni_works()) {
        print_message("skipped: this processor has no AVX-512 VNNI\n");
        return 77;
    }
    return cmocka_run_group_tests_name("8-bit convolutions by VNNI", tests, NULL, NULL);
}
