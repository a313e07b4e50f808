/* Plans of 8-bit values: exactly the arithmetic that is promised, close to float32, alone in every
 * row. */
#include "checks.h"

#include "photos.h"

#include <math.h>

static kd_plan *int8_plan(const ref_net *net, int batch)
{
    kd_diag diag = {0};
    kd_plan *p = plan_of(net, net->batch, KD_PLAN_INFER), *q;
    float *largest = kd_xalloc((size_t)net->g->n_nodes * sizeof *largest);
    float *z = kd_xalloc(logits_of(net) * sizeof *z);
    kd_plan_watch(p, largest);
    kd_assert_ok(kd_plan_forward(p, net->input, z, &diag), &diag);
    kd_plan_free(p);
    kd_assert_ok(kd_plan_new_int8(net->g, batch, net->vector, largest, NULL, &q, &diag), &diag);
    free(largest);
    free(z);
    return q;
}

static float *int8_logits(const ref_net *net, int batch, const float *input)
{
    kd_diag diag = {0};
    kd_plan *q = int8_plan(net, batch);
    float *z = kd_xalloc((size_t)batch * ref_count(&net->g->nodes[net->g->output]) * sizeof *z);
    kd_assert_ok(kd_plan_forward(q, input, z, &diag), &diag);
    assert_null(kd_plan_find_nonfinite(q));
    kd_plan_free(q);
    return z;
}

enum { SIDE = 9 };

static ref_net small_net(int which)
{
    const enum kd_param_init he = KD_INIT_HE_NORMAL;
    kd_graph *g = kd_graph_new(SIDE, SIDE, 3);
    int x = kd_graph_conv(g, 0, "first", 20, 3, 1, ref_pad1, 1, true, he), y;
    x = kd_graph_relu(g, x);
    switch (which) {
    case 0: /* with a sign and without one */
        x = kd_graph_conv(g, x, "second", 18, 3, 2, ref_tf, 1, true, he);
        x = kd_graph_conv(g, x, "third", 16, 1, 1, ref_pad0, 1, false, he);
        break;
    case 1: /* an inverted residual */
        x = ref_conv_bn(g, x, "narrow", 12, 1, ref_pad0, 1);
        y = kd_graph_relu6(g, ref_conv_bn(g, x, "expand", 36, 1, ref_pad0, 1));
        y = kd_graph_relu6(g, ref_conv_bn(g, y, "depth", 36, 3, ref_pad1, 36));
        x = kd_graph_add(g, x, ref_conv_bn(g, y, "project", 12, 1, ref_pad0, 1));
        x = kd_graph_conv(g, x, "last", 16, 1, 1, ref_pad0, 1, true, he);
        break;
    case 2: /* a residual with a sign where the result has none */
        y = kd_graph_conv(g, x, "left", 20, 3, 1, ref_pad1, 1, true, he);
        y = kd_graph_relu(g, kd_graph_add(g, x, y));
        x = kd_graph_conv(g, y, "last", 16, 1, 1, ref_pad0, 1, true, he);
        break;
    case 3: /* activations that need their input, and a value that others read, too */
        y = kd_graph_silu(g, kd_graph_conv(g, x, "left", 24, 3, 1, ref_pad1, 1, true, he));
        x = kd_graph_conv(g, y, "right", 16, 1, 1, ref_pad0, 1, true, he);
        x = kd_graph_mul(g, kd_graph_sigmoid(g, x), x);
        break;
    default:
        fail();
    }
    return ref_net_of("8 bits", g, ref_head(g, kd_graph_global_avg_pool(g, x)), 4);
}

enum { NETS = 4 };
static const int least_tasks[NETS] = {3, 6, 3, 3};

static void test_int8_is_close(void **state)
{
    (void)state;
    for (int k = 0; k < NETS; k++) {
        ref_net net = small_net(k);
        float *exact = logits_by(&net, net.batch, KD_PLAN_INFER, net.input);
        float *z = int8_logits(&net, net.batch, net.input);
        kd_plan *q = int8_plan(&net, 1);
        assert_true(kd_plan_int8_tasks(q) >= least_tasks[k]);
        kd_plan_free(q);
        double largest = 0, worst = 0;
        for (size_t i = 0; i < logits_of(&net); i++) {
            largest = fmax(largest, fabs((double)exact[i]));
            worst = fmax(worst, fabs((double)z[i] - (double)exact[i]));
        }
        print_message("net %d: off by %.2f %% of the largest logit\n", k, 100 * worst / largest);
        assert_true(worst < 0.03 * largest);
        assert_true(worst > 1e-6 * largest); /* it is 8 bits */
        free(exact);
        free(z);
        ref_net_free(&net);
    }
}

/* ---- by hand */

static double rounded(double x, double low, double high)
{
    return fmin(fmax(nearbyint(x), low), high);
}

/* Weights -127..127 with one unit an output channel. */
static void quantised(const float *w, int out, int row, double *q, double *unit)
{
    for (int o = 0; o < out; o++) {
        float largest = 0;
        for (int i = 0; i < row; i++)
            largest = fmaxf(largest, fabsf(w[o * row + i]));
        unit[o] = (double)(largest / 127);
        for (int i = 0; i < row; i++)
            q[o * row + i] = rounded((double)(w[o * row + i] / (largest / 127)), -127, 127);
    }
}

/* The sums of the input's and the output's channels, [channels][places]. */
static void check_sums(const kd_graph *g, const double *sums, const float *input, const float *z)
{
    const int out = g->output, c_in = g->nodes[0].c, places = g->nodes[0].h * g->nodes[0].w;
    for (int c = 0; c < c_in; c++) {
        double sum = 0;
        for (int at = 0; at < places; at++)
            sum += (double)input[at * c_in + c];
        kd_assert_close(sums[c], sum, 1e-9, 1e-9);
    }
    for (int c = 0; c < g->nodes[out].c; c++) {
        double sum = 0;
        for (int at = 0; at < places; at++)
            sum += (double)z[c * places + at];
        kd_assert_close(sums[kd_graph_channels(g, out) + (size_t)c], sum, 1e-9, 1e-9);
    }
}

/* What rounding takes from each channel's mean. */
static void lost(const float *w, int out, int row, int taps, const double *q, const double *unit,
                 const float *means, double *loss)
{
    for (int o = 0; o < out; o++) {
        loss[o] = 0;
        for (int i = 0; means && i < row; i++)
            loss[o] +=
                ((double)w[o * row + i] - unit[o] * q[o * row + i]) * (double)means[i / taps];
    }
}

/* The first net's `first` and ReLU, and a 1x1 convolution behind it, in whole numbers. */
static void by_hand(bool corrected)
{
    enum { MID = 20, OUT = 16, TAPS = 27, PLACES = SIDE * SIDE };
    kd_diag diag = {0};
    kd_graph *g = kd_graph_new(SIDE, SIDE, 3);
    int x = kd_graph_conv(g, 0, "first", MID, 3, 1, ref_pad1, 1, true, KD_INIT_HE_NORMAL);
    x = kd_graph_relu(g, x);
    x = kd_graph_conv(g, x, "second", OUT, 1, 1, ref_pad0, 1, true, KD_INIT_HE_NORMAL);
    ref_net net = ref_net_of("by hand", g, x, 1);
    float largest[8] = {0}, z[OUT * PLACES];
    double sums[3 + MID + MID + OUT] = {0};
    assert_true(g->n_nodes <= 8);
    kd_plan *p = plan_of(&net, 1, KD_PLAN_INFER);
    kd_plan_watch(p, largest);
    kd_plan_watch_sums(p, sums);
    kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
    kd_plan_free(p);
    check_sums(g, sums, net.input, z);
    kd_plan *q;
    float means[3 + MID + MID +
                OUT]; /* of input, `first`, its ReLU, `second`: as large as they get */
    assert_int_equal(kd_graph_channels(g, g->n_nodes), KD_COUNT(means));
    for (size_t i = 0; i < KD_COUNT(means); i++)
        means[i] = (float)(i % 5) - 1;
    kd_assert_ok(kd_plan_new_int8(g, 1, net.vector, largest, corrected ? means : NULL, &q, &diag),
                 &diag);
    assert_int_equal(kd_plan_int8_tasks(q), 2);
    kd_assert_ok(kd_plan_forward(q, net.input, z, &diag), &diag);
    assert_int_equal(kd_plan_load(q, net.vector, &diag), -KD_ESTATE);

    const float *w1 = net.vector + g->params[g->nodes[1].weight].offset;
    const float *b1 = net.vector + g->params[g->nodes[1].bias].offset;
    const float *w2 = net.vector + g->params[g->nodes[3].weight].offset;
    const float *b2 = net.vector + g->params[g->nodes[3].bias].offset;
    double q1[MID * TAPS], u1[MID], q2[OUT * MID], u2[OUT], mid[MID], unit = 0;
    double loss1[MID], loss2[OUT];
    quantised(w1, MID, TAPS, q1, u1);
    quantised(w2, OUT, MID, q2, u2);
    lost(w1, MID, TAPS, 9, q1, u1, corrected ? means : NULL, loss1);
    lost(w2, OUT, MID, 1, q2, u2, corrected ? means + 3 + MID : NULL, loss2);
    const double s0 = (double)(largest[0] / 127), s1 = (double)(largest[2] / 255);
    int off = 0;
    for (int at = 0; at < PLACES; at++) {
        for (int o = 0; o < MID; o++) {
            double sum = 0;
            for (int t = 0; t < TAPS; t++) {
                const int c = t / 9, h = at / SIDE + t % 9 / 3 - 1, w = at % SIDE + t % 3 - 1;
                if (h < 0 || w < 0 || h >= SIDE || w >= SIDE)
                    continue;
                sum += q1[o * TAPS + t] *
                       rounded((double)net.input[(h * SIDE + w) * 3 + c] / s0, -128, 127);
            }
            const double y = sum * s0 * u1[o] + (double)b1[o] + loss1[o];
            mid[o] = rounded(fmax(y, 0) / s1, 0, 255);
        }
        for (int o = 0; o < OUT; o++) {
            double sum = 0;
            for (int k = 0; k < MID; k++)
                sum += q2[o * MID + k] * mid[k];
            const double want = sum * s1 * u2[o] + (double)b2[o] + loss2[o];
            unit = 127 * s1 * u2[o]; /* a value in between may round the other way */
            const double error = fabs((double)z[o * PLACES + at] - want);
            assert_true(error <= unit + 1e-5);
            off += error > 1e-5 * fmax(1, fabs(want));
        }
    }
    print_message("%d of %d values are a unit off\n", off, OUT * PLACES);
    assert_true(off < OUT * PLACES / 20);
    kd_plan_free(q);
    ref_net_free(&net);
}

static void test_int8_is_what_it_says(void **state)
{
    (void)state;
    by_hand(false);
}

static void test_int8_makes_up_for_rounding(void **state)
{
    (void)state;
    by_hand(true);
}

static void test_int8_rows_stand_alone(void **state)
{
    (void)state;
    for (int k = 0; k < NETS; k++) {
        ref_net net = small_net(k);
        const size_t row = logits_of(&net) / 4, picture = ref_count(&net.g->nodes[0]);
        float *all = int8_logits(&net, 4, net.input);
        for (size_t i = 0; i < 4; i++) {
            float *one = int8_logits(&net, 1, net.input + i * picture);
            assert_memory_equal(one, all + i * row, row * sizeof *one);
            free(one);
        }
        free(all);
        ref_net_free(&net);
    }
}

/* ---- real pictures */

enum { WATCHED = 48, COMPARED = 100 };
static const double TEMPERATURE = 5;

static int softened(const float *logits, double *out)
{
    int best = 0;
    double sum = 0;
    for (int j = 1; j < PHOTO_CLASSES; j++)
        best = logits[j] > logits[best] ? j : best;
    for (int j = 0; j < PHOTO_CLASSES; j++)
        sum += out[j] = exp(((double)logits[j] - (double)logits[best]) / TEMPERATURE);
    for (int j = 0; j < PHOTO_CLASSES; j++)
        out[j] /= sum;
    return best;
}

static void test_int8_of_photos(void **state)
{
    (void)state;
    kd_diag diag = {0};
    photos set;
    if (!photos_open(&set))
        skip();
    kd_plan *p, *q[2]; /* without correction, with it */
    float *input = kd_xalloc(PHOTO_FLOATS * sizeof *input), a[PHOTO_CLASSES], b[PHOTO_CLASSES];
    float *largest = kd_xalloc((size_t)set.g->n_nodes * sizeof *largest);
    const size_t channels = kd_graph_channels(set.g, set.g->n_nodes);
    double *sums = kd_xalloc(channels * sizeof *sums);
    float *means = kd_xalloc(channels * sizeof *means);
    kd_assert_ok(kd_plan_new(set.g, 1, KD_PLAN_INFER, &p, &diag), &diag);
    kd_assert_ok(kd_plan_load(p, set.vector, &diag), &diag);
    kd_plan_watch(p, largest);
    kd_plan_watch_sums(p, sums);
    for (int i = 0; i < WATCHED; i++) {
        assert_true(photos_next(&set, "", input));
        kd_assert_ok(kd_plan_forward(p, input, a, &diag), &diag);
    }
    kd_plan_watch(p, NULL);
    kd_plan_watch_sums(p, NULL);
    kd_plan_means(set.g, sums, WATCHED, means);
    for (int k = 0; k < 2; k++)
        kd_assert_ok(
            kd_plan_new_int8(set.g, 1, set.vector, largest, k ? means : NULL, &q[k], &diag), &diag);
    int agree[2] = {0}, seen = 0;
    double kl[2] = {0}, error[2] = {0}, size = 0;
    while (seen < COMPARED && photos_next(&set, "", input)) {
        static double pa[PHOTO_CLASSES], pb[PHOTO_CLASSES];
        kd_assert_ok(kd_plan_forward(p, input, a, &diag), &diag);
        const int best = softened(a, pa);
        for (int k = 0; k < 2; k++) {
            kd_assert_ok(kd_plan_forward(q[k], input, b, &diag), &diag);
            agree[k] += best == softened(b, pb);
            for (int j = 0; j < PHOTO_CLASSES; j++) {
                kl[k] += pa[j] * log(pa[j] / pb[j]);
                error[k] += pow((double)b[j] - (double)a[j], 2);
                size += k ? pow((double)a[j], 2) : 0;
            }
        }
        seen++;
    }
    for (int k = 0; k < 2; k++)
        print_message("MobileNetV2 in 8 bits%s: %d of %d photographs get the same of 1000 classes, "
                      "KL at T = 5 %.4f, logits off by %.1f %%\n",
                      k ? ", biases corrected" : "", agree[k], seen, kl[k] / seen,
                      100 * sqrt(error[k] / size));
    assert_int_equal(seen, COMPARED);
    assert_true(agree[0] >= 85 && agree[1] >= 92);
    assert_true(kl[0] / seen < 0.02 && kl[1] / seen < 0.001);
    for (int k = 0; k < 2; k++)
        kd_plan_free(q[k]);
    kd_plan_free(p);
    free(input);
    free(largest);
    free(sums);
    free(means);
    photos_close(&set);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_int8_is_close),
        cmocka_unit_test(test_int8_is_what_it_says),
        cmocka_unit_test(test_int8_makes_up_for_rounding),
        cmocka_unit_test(test_int8_rows_stand_alone),
        cmocka_unit_test(test_int8_of_photos),
    };
    return cmocka_run_group_tests_name("int8", tests, NULL, NULL);
}
