/* Plans whose convolutions read bfloat16: close to float32, the same bits each time, alone in every
 * row, and gradients that point where float32's do.
 *
 * Tolerance: an operand is off by at most 2^-9 = 0.2 % of its size, at random, and a sum of
 * products keeps about that relative to its terms' size; through the few layers here that stays
 * below 3 % of the largest logit or gradient. */
#include "checks.h"

#include <math.h>

/* NULL: this machine has none. */
static kd_plan *narrow_plan(const ref_net *net, int batch, enum kd_plan_use use)
{
    kd_diag diag = {0};
    kd_plan *p = NULL;
    const int rc = kd_plan_new_bfloat16(net->g, batch, use, &p, &diag);
    if (rc == -KD_EUNSUP)
        return NULL;
    kd_assert_ok(rc, &diag);
    kd_assert_ok(kd_plan_load(p, net->vector, &diag), &diag);
    kd_plan_noise(p, REF_NOISE_SEED, REF_NOISE_STEP, ref_noise_keys);
    return p;
}

static const int nets[] = {
    REF_CONV,        REF_CONV_WIDE,           REF_CONV_STRIDE_TF,         REF_CONV_1X1,
    REF_CONV_GROUPS, REF_DEPTHWISE,           REF_CONV_WINOGRAD_RESIDUAL, REF_CONV_POOL_TWICE,
    REF_ADD,         REF_ADD_SHARED_RESIDUAL, REF_INVERTED_RESIDUAL,      REF_STUDENT};

/* How far x is from y, in the largest of y. */
static double distance(const float *x, const float *y, size_t n)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(isfinite(x[i]));
        worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
        largest = fmax(largest, fabs((double)y[i]));
    }
    return worst / (largest + 1e-9);
}

static void test_bfloat16_is_close(void **state)
{
    (void)state;
    static const enum kd_plan_use uses[] = {KD_PLAN_INFER, KD_PLAN_TRAIN, KD_PLAN_TRAIN_FROZEN_BN};
    for (size_t i = 0; i < KD_COUNT(nets) * KD_COUNT(uses); i++) {
        const enum kd_plan_use use = uses[i % KD_COUNT(uses)];
        kd_diag diag = {0};
        ref_net net = ref_net_make(nets[i / KD_COUNT(uses)]);
        kd_plan *p = narrow_plan(&net, net.batch, use);
        if (!p) {
            ref_net_free(&net);
            skip();
        }
        float *z = kd_xalloc(logits_of(&net) * sizeof *z);
        float *again = kd_xalloc(logits_of(&net) * sizeof *z);
        float *exact = logits_by(&net, net.batch, use, net.input);
        kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
        assert_null(kd_plan_find_nonfinite(p));
        kd_plan_poison(p);
        kd_assert_ok(kd_plan_forward(p, net.input, again, &diag), &diag);
        assert_memory_equal(z, again, logits_of(&net) * sizeof *z);
        const double off = distance(z, exact, logits_of(&net));
        if (off >= 0.03 || off == 0) { /* it is bfloat16 */
            print_error("%s, use %d: off by %g\n", net.name, (int)use, off);
            fail();
        }
        kd_plan_free(p);
        free(z);
        free(again);
        free(exact);
        ref_net_free(&net);
    }
}

static void test_bfloat16_gradients(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        kd_diag diag = {0};
        ref_net net = ref_net_make(nets[i]);
        const size_t n = net.g->vector_len;
        kd_plan *p = narrow_plan(&net, net.batch, KD_PLAN_TRAIN);
        if (!p) {
            ref_net_free(&net);
            skip();
        }
        float *d_logits, *exact = engine_gradient(&net, KD_PLAN_TRAIN, &d_logits);
        float *z = kd_xalloc(logits_of(&net) * sizeof *z), *gradient = kd_xalloc(n * sizeof *z);
        float *again = kd_xalloc(n * sizeof *z);
        kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
        kd_assert_ok(kd_plan_backward(p, d_logits, 0.5F, gradient, &diag), &diag);
        kd_plan_poison(p);
        kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
        kd_assert_ok(kd_plan_backward(p, d_logits, 0.5F, again, &diag), &diag);
        assert_memory_equal(gradient, again, n * sizeof *z);
        double dot = 0, a = 0, b = 0;
        for (size_t k = 0; k < n; k++) {
            assert_true(isfinite(gradient[k]));
            dot += (double)gradient[k] * (double)exact[k];
            a += (double)gradient[k] * (double)gradient[k];
            b += (double)exact[k] * (double)exact[k];
        }
        if (dot < 0.999 * sqrt(a * b) || fabs(sqrt(a / b) - 1) > 0.02) {
            print_error("%s: cosine %.6f, length %.4f\n", net.name, dot / sqrt(a * b), sqrt(a / b));
            fail();
        }
        kd_plan_free(p);
        free(z);
        free(gradient);
        free(again);
        free(exact);
        free(d_logits);
        ref_net_free(&net);
    }
}

/* An image's logits do not know its neighbours. */
static void test_bfloat16_rows_stand_alone(void **state)
{
    (void)state;
    kd_diag diag = {0};
    ref_net net = ref_net_make(REF_INVERTED_RESIDUAL);
    const size_t picture = ref_count(&net.g->nodes[0]), row = logits_of(&net) / 3;
    kd_plan *all = narrow_plan(&net, 3, KD_PLAN_INFER), *one = narrow_plan(&net, 1, KD_PLAN_INFER);
    if (!all || !one) {
        ref_net_free(&net);
        skip();
    }
    float *z = kd_xalloc(3 * row * sizeof *z), *alone = kd_xalloc(row * sizeof *z);
    kd_assert_ok(kd_plan_forward(all, net.input, z, &diag), &diag);
    for (size_t k = 0; k < 3; k++) {
        kd_assert_ok(kd_plan_forward(one, net.input + k * picture, alone, &diag), &diag);
        assert_memory_equal(alone, z + k * row, row * sizeof *z);
    }
    kd_plan_free(all);
    kd_plan_free(one);
    free(z);
    free(alone);
    ref_net_free(&net);
}

int main(void)
{
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bfloat16_is_close),
        cmocka_unit_test(test_bfloat16_gradients),
        cmocka_unit_test(test_bfloat16_rows_stand_alone),
    };
    return cmocka_run_group_tests_name("bfloat16", tests, NULL, NULL);
}
