/* DROPOUT and DROP_PATH: what is dropped is a function of (seed, step, key, node) alone, in the
 * right share, and nothing is where no noise is named. Values and gradients under fixed noise are
 * among the nets of test_ops. */
#include "checks.h"

enum { H = 3, W = 4, C = 20, IMAGE = H * W * C };

/* Ones through dropout nodes number 1 and 2, or straight through: what is left of them, in
 * channel-height-width order. */
static float *through(enum kd_op op, float rate, int batch, enum kd_plan_use use, uint64_t seed,
                      uint64_t step, const uint32_t *keys, int nodes)
{
    kd_diag diag = {0};
    kd_graph *g = kd_graph_new(H, W, C);
    int x = 0;
    for (int i = 0; i < nodes; i++)
        x = op == KD_OP_DROPOUT ? kd_graph_dropout(g, x, rate) : kd_graph_drop_path(g, x, rate);
    kd_assert_ok(kd_graph_finish_any(g, x, &diag), &diag);
    const size_t n = (size_t)batch * IMAGE;
    float *ones = kd_xalloc(n * sizeof *ones), *left = kd_xalloc(n * sizeof *left);
    for (size_t i = 0; i < n; i++)
        ones[i] = 1;
    kd_plan *p = NULL;
    const float none = 0;
    kd_assert_ok(kd_plan_new(g, batch, use, &p, &diag), &diag);
    kd_assert_ok(kd_plan_load(p, &none, &diag), &diag);
    if (keys)
        kd_plan_noise(p, seed, step, keys);
    kd_assert_ok(kd_plan_forward(p, ones, left, &diag), &diag);
    kd_plan_free(p);
    kd_graph_free(g);
    free(ones);
    return left;
}

static bool same(const float *a, const float *b)
{
    return memcmp(a, b, IMAGE * sizeof *a) == 0;
}

static void test_noise_is_named(void **state)
{
    (void)state;
    static const uint32_t keys[3] = {7, 4000000000U, 0}, turned[3] = {0, 7, 9};
    float *a = through(KD_OP_DROPOUT, 0.3F, 3, KD_PLAN_TRAIN, 5, 6, keys, 1);
    for (int b = 0; b < 3; b++) {
        kd_rng r;
        kd_rng_init(&r, 5, KD_RNG_DROPOUT, 6, (uint64_t)1 << 32 | keys[b]);
        for (int i = 0; i < IMAGE; i++) {
            const float kept = kd_rng_float(&r) >= 0.3F ? 1 / (1 - 0.3F) : 0;
            assert_true(a[b * IMAGE + i] == kept);
        }
    }
    /* By key, not by place or batch. */
    float *b = through(KD_OP_DROPOUT, 0.3F, 3, KD_PLAN_TRAIN_FROZEN_BN, 5, 6, turned, 1);
    float *alone = through(KD_OP_DROPOUT, 0.3F, 1, KD_PLAN_TRAIN, 5, 6, keys + 1, 1);
    assert_true(same(a, b + IMAGE) && same(a + 2 * IMAGE, b) && same(a + IMAGE, alone));
    assert_false(same(a, a + IMAGE));
    float *seed = through(KD_OP_DROPOUT, 0.3F, 1, KD_PLAN_TRAIN, 4, 6, keys, 1);
    float *step = through(KD_OP_DROPOUT, 0.3F, 1, KD_PLAN_TRAIN, 5, 7, keys, 1);
    float *twice = through(KD_OP_DROPOUT, 0.3F, 1, KD_PLAN_TRAIN, 5, 6, keys, 2);
    assert_false(same(a, seed) || same(a, step));
    /* The second node drops others than the first. */
    int more = 0;
    for (int i = 0; i < IMAGE; i++) {
        assert_true(a[i] != 0 || twice[i] == 0);
        more += a[i] != 0 && twice[i] == 0;
    }
    assert_true(more > 0);
    free(a);
    free(b);
    free(alone);
    free(seed);
    free(step);
    free(twice);
}

/* The share kept and the mean left, within five standard errors. */
static void check_share(enum kd_op op, float rate, int batch)
{
    uint32_t *keys = kd_xalloc((size_t)batch * sizeof *keys);
    for (int i = 0; i < batch; i++)
        keys[i] = (uint32_t)i;
    float *left = through(op, rate, batch, KD_PLAN_TRAIN, 1, 2, keys, 1);
    double sum = 0, kept = 0;
    for (int i = 0; i < batch * IMAGE; i++) {
        sum += (double)left[i];
        kept += left[i] != 0;
        if (op == KD_OP_DROP_PATH)
            assert_true(left[i] == left[i / IMAGE * IMAGE]);
    }
    const double all = (double)batch * IMAGE, keep = 1 - (double)rate;
    const double draws = op == KD_OP_DROPOUT ? all : batch;
    const double error = sqrt(keep * (double)rate / draws);
    kd_assert_close(kept / all, keep, 0, 5 * error);
    kd_assert_close(sum / all, 1, 0, 5 * error / keep);
    free(keys);
    free(left);
}

static void test_noise_has_its_share(void **state)
{
    (void)state;
    static const float rates[] = {0.1F, 0.5F, 0.9F};
    for (size_t i = 0; i < KD_COUNT(rates); i++) {
        check_share(KD_OP_DROPOUT, rates[i], 256);
        check_share(KD_OP_DROP_PATH, rates[i], 2048);
    }
}

static void test_noise_is_nothing_unless_named(void **state)
{
    (void)state;
    static const uint32_t keys[2] = {1, 2};
    static const struct {
        enum kd_plan_use use;
        float rate;
        const uint32_t *keys;
    } cases[] = {{KD_PLAN_INFER, 0.5F, keys},
                 {KD_PLAN_TRAIN, 0.5F, NULL},
                 {KD_PLAN_TRAIN, 0, keys},
                 {KD_PLAN_TRAIN_FROZEN_BN, 0.5F, NULL}};
    for (size_t i = 0; i < KD_COUNT(cases); i++)
        for (int op = KD_OP_DROPOUT; op <= KD_OP_DROP_PATH; op++) {
            float *left =
                through((enum kd_op)op, cases[i].rate, 2, cases[i].use, 1, 2, cases[i].keys, 2);
            for (int k = 0; k < 2 * IMAGE; k++)
                assert_true(left[k] == 1);
            free(left);
        }
}

/* A backward belongs to the noise of its forward, whatever was named since; naming it anew brings
 * the same bits back. */
static void test_noise_of_the_backward(void **state)
{
    (void)state;
    static const uint32_t one[3] = {1, 2, 3}, two[3] = {4, 5, 6};
    kd_graph *g = kd_graph_new(5, 5, 3);
    int x = kd_graph_conv(g, 0, "c", 8, 3, 1, ref_pad1, 1, true, KD_INIT_HE_NORMAL);
    x = kd_graph_drop_path(g, kd_graph_dropout(g, x, 0.5F), 0.5F);
    ref_net net = ref_net_of("noise", g, ref_head(g, x), 3);
    kd_diag diag = {0};
    const size_t bytes = g->vector_len * sizeof(float);
    float *z = kd_xalloc(logits_of(&net) * sizeof *z), *d[3];
    kd_plan *p = plan_of(&net, 3, KD_PLAN_TRAIN);
    for (int i = 0; i < 3; i++) {
        d[i] = kd_xalloc(bytes);
        kd_plan_noise(p, 1, 1, i == 1 ? two : one);
        kd_assert_ok(kd_plan_forward(p, net.input, z, &diag), &diag);
        if (i == 2)
            kd_plan_noise(p, 1, 1, two);
        for (size_t k = 0; k < logits_of(&net); k++)
            z[k] = 1;
        kd_assert_ok(kd_plan_backward(p, z, 1, d[i], &diag), &diag);
    }
    assert_memory_not_equal(d[0], d[1], bytes);
    assert_memory_equal(d[0], d[2], bytes);
    for (int i = 0; i < 3; i++)
        free(d[i]);
    free(z);
    kd_plan_free(p);
    ref_net_free(&net);
}

int main(void)
{
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_noise_is_named),
        cmocka_unit_test(test_noise_has_its_share),
        cmocka_unit_test(test_noise_is_nothing_unless_named),
        cmocka_unit_test(test_noise_of_the_backward),
    };
    return cmocka_run_group_tests_name("ops_noise", tests, NULL, NULL);
}
