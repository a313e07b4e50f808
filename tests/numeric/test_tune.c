/* Training a network as it will be stored: rounding with gradients, masks, halves. */
#include "kd_test.h"

#include "compress_nets.h"

#include "compress/quantise.h"
#include "compress/tune.h"
#include "models/int8.h"
#include "models/loaded.h"

#include <string.h>

#define PICTURES 8

/* ---- 16 bits */

static void test_halves(void **state)
{
    (void)state;
    static const enum kd_st_type types[] = {KD_ST_F16, KD_ST_BF16};
    for (size_t t = 0; t < KD_COUNT(types); t++) {
        const uint32_t infinite = types[t] == KD_ST_F16 ? 0x7c00 : 0x7f80;
        for (uint32_t bits = 0; bits <= UINT16_MAX; bits++)
            if ((bits & infinite) != infinite)
                assert_int_equal(kd_half_bits(kd_half_value((uint16_t)bits, types[t]), types[t]),
                                 bits);
        /* Between two neighbours: to the nearer, half way to the even one. */
        for (uint32_t bits = 1; bits + 1 < infinite; bits += 7) {
            const float low = kd_half_value((uint16_t)bits, types[t]);
            const float high = kd_half_value((uint16_t)(bits + 1), types[t]);
            const float middle = low + (high - low) / 2;
            assert_int_equal(kd_half_bits(middle, types[t]), bits + (bits & 1));
            assert_int_equal(kd_half_bits(nextafterf(middle, 0), types[t]), bits);
            assert_int_equal(kd_half_bits(-nextafterf(middle, high), types[t]),
                             (bits + 1) | 0x8000U);
        }
    }
    assert_true(kd_half_value(kd_half_bits(1e6F, KD_ST_F16), KD_ST_F16) == 65504);
    assert_true(kd_half_value(kd_half_bits(-65520, KD_ST_F16), KD_ST_F16) == -65504);
    assert_true(isinf(kd_half_value(0xfc00, KD_ST_F16)) && isnan(kd_half_value(0x7c01, KD_ST_F16)));
    assert_true(isinf(kd_half_value(0x7f80, KD_ST_BF16)));
    assert_true(kd_half_value(0x3c00, KD_ST_F16) == 1 && kd_half_value(0x3f80, KD_ST_BF16) == 1);
    assert_true(kd_half_value(kd_half_bits(0x1p-26F, KD_ST_F16), KD_ST_F16) == 0);
    assert_true(isfinite(kd_half_value(kd_half_bits(3.4e38F, KD_ST_BF16), KD_ST_BF16)));
}

static void test_half_files(void **state)
{
    (void)state;
    kd_diag diag = {0};
    for (int h = KD_HALF_FLOAT16; h <= KD_HALF_BFLOAT16; h++) {
        zoo_net n = net_zoo("shallow_cnn", 32);
        const enum kd_half half = (enum kd_half)h;
        const kd_model_file_info info = {.has_preprocess = true, .size = 32, .half = half};
        kd_loaded back;
        kd_buf whole, narrow;
        kd_buf_init(&whole, 1 << 24);
        kd_buf_init(&narrow, 1 << 24);
        kd_half_round(n.g, half, n.vector);
        kd_assert_ok(kd_loaded_pack(n.g, n.vector, &info, &narrow, &diag), &diag);
        kd_assert_ok(kd_loaded_pack(n.g, n.vector,
                                    &(kd_model_file_info){.has_preprocess = true, .size = 32},
                                    &whole, &diag),
                     &diag);
        assert_true(narrow.len < whole.len * 6 / 10);
        kd_assert_ok(kd_loaded_open((const uint8_t *)narrow.data, narrow.len, "half", &back, &diag),
                     &diag);
        assert_int_equal(back.info.half, half);
        assert_memory_equal(back.vector, n.vector, n.g->vector_len * sizeof *n.vector);
        kd_loaded_clear(&back);
        kd_buf_clear(&whole);
        kd_buf_clear(&narrow);
        net_free(&n);
    }
}

/* ---- 8 bits */

/* Gradients of the convolution before a node that cuts off at +-127 units. */
static float *gradient_behind(bool rounds, float unit, size_t *out_n)
{
    kd_diag diag = {0};
    kd_graph *g = kd_graph_new(6, 6, 3);
    int x =
        kd_graph_conv(g, 0, "c", 8, 3, 1, (const int[4]){1, 1, 1, 1}, 1, true, KD_INIT_HE_NORMAL);
    x = rounds ? kd_graph_fake_quant(g, x, unit, false)
               : kd_graph_clip(g, x, -127 * unit, 127 * unit);
    x = kd_graph_dense(g, kd_graph_flatten(g, x), "fc", NET_CLASSES, true, KD_INIT_HE_NORMAL);
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    zoo_net n = net_of(g, 4);
    float *in = net_pictures(&n, 0, 2), *gradient = net_floats(g->vector_len);
    float z[2 * NET_CLASSES], d_z[2 * NET_CLASSES];
    for (int i = 0; i < 2 * NET_CLASSES; i++)
        d_z[i] = (float)(i % 5) - 2;
    kd_plan *p;
    kd_assert_ok(kd_plan_new(g, 2, KD_PLAN_TRAIN, &p, &diag), &diag);
    kd_assert_ok(kd_plan_load(p, n.vector, &diag), &diag);
    kd_assert_ok(kd_plan_forward(p, in, z, &diag), &diag);
    kd_assert_ok(kd_plan_backward(p, d_z, 1, gradient, &diag), &diag);
    *out_n = kd_graph_param(g, "fc.weight")->offset;
    kd_plan_free(p);
    free(in);
    net_free(&n);
    return gradient;
}

/* Straight through, but not past the ends: the gradient of cutting off alone. */
static void test_rounding_lets_gradients_through(void **state)
{
    (void)state;
    static const float units[] = {0.1F, 0.005F};
    for (size_t i = 0; i < KD_COUNT(units); i++) {
        size_t n, same;
        float *a = gradient_behind(true, units[i], &n),
              *b = gradient_behind(false, units[i], &same);
        assert_true(n == same && n > 0);
        for (size_t k = 0; k < n; k++)
            assert_true(a[k] == b[k]);
        free(a);
        free(b);
    }
}

/* What is trained computes what the network of 8 bits will compute. */
static void test_tuned_graph_is_the_rounded_one(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int size;
        double near; /* of the largest logit: sums in float32, so a code may be the next one */
    } nets[] = {{"shallow_cnn", 64, 0.01}, {"cheap_cnn", 64, 0.05}, {"resnet18", 32, 0.08}};
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        kd_diag diag = {0};
        kd_quantised q;
        kd_graph *g;
        kd_plan *p;
        zoo_net n = net_zoo(nets[i].model, nets[i].size);
        const kd_quantise_options opt = {
            .method = KD_CALIBRATE_MSE, .n = 48, .picture = zoo_give, .arg = &n};
        kd_assert_ok(kd_quantise_calibrate(n.g, n.vector, &opt, &q, &diag), &diag);
        float *weights = net_floats(q.graph->vector_len);
        memcpy(weights, q.vector, q.graph->vector_len * sizeof *weights);
        kd_quantise_weights(q.graph, weights);
        assert_memory_not_equal(weights, q.vector, q.graph->vector_len * sizeof *weights);
        kd_assert_ok(kd_tune_graph(q.graph, q.vector, &g, &diag), &diag);
        assert_int_equal(g->vector_len, q.graph->vector_len);
        assert_false(kd_graph_is_int8(g));
        kd_assert_ok(kd_plan_new(g, PICTURES, KD_PLAN_TRAIN, &p, &diag), &diag);
        kd_assert_ok(kd_plan_load(p, weights, &diag), &diag);
        float *in = net_pictures(&n, 0, PICTURES), *y = net_floats(PICTURES * NET_CLASSES);
        kd_assert_ok(kd_plan_forward(p, in, y, &diag), &diag);
        kd_assert_ok(kd_quantise_round(q.graph, q.vector, &diag), &diag);
        float *z = net_logits(&n, q.graph, q.vector, PICTURES);
        double off = 0;
        for (int k = 0; k < PICTURES * NET_CLASSES; k++)
            off = fmax(off, fabs((double)y[k] - (double)z[k]));
        off /= net_largest(z, PICTURES);
        print_message("%s: off by %.5f\n", nets[i].model, off);
        assert_true(off < nets[i].near);
        /* Rounded once is rounded. */
        memcpy(weights, q.vector, q.graph->vector_len * sizeof *weights);
        kd_assert_ok(kd_quantise_round(q.graph, weights, &diag), &diag);
        assert_memory_equal(weights, q.vector, q.graph->vector_len * sizeof *weights);
        kd_plan_free(p);
        kd_graph_free(g);
        kd_quantised_clear(&q);
        free(weights);
        free(in);
        free(y);
        free(z);
        net_free(&n);
    }
}

/* ---- masks */

static void test_tuned_masks(void **state)
{
    (void)state;
    kd_diag diag = {0};
    zoo_net n = net_zoo("shallow_cnn", 32);
    const size_t len = n.g->vector_len;
    uint8_t *mask = malloc(len), *before = calloc(len, 1);
    float *out = net_floats(len), *once = net_floats(len);
    const kd_param *conv = kd_graph_param(n.g, "conv2.weight");
    for (size_t i = 0; i < 1000; i++)
        n.vector[conv->offset + 7 * i] = 0; /* of an earlier step */
    const double gone = kd_prune_gone(n.g, n.vector, mask);
    assert_true(gone > 0.006 && gone < 0.008);
    const kd_tune_pruning pruning = {
        .first = gone, .last = 0.8, .steps = 20, .scope = KD_PRUNE_GLOBAL};
    double last = 0;
    for (uint64_t step = 0; step <= 25; step++) {
        kd_assert_ok(kd_tune_load(n.g, &pruning, step, n.vector, mask, out, &diag), &diag);
        const double share = kd_prune_gone(n.g, out, before);
        kd_assert_close(share, kd_prune_schedule(gone, 0.8, 0, 20, step), 1e-4, 0);
        assert_true(share >= last - 1e-4);
        assert_memory_equal(mask, before, len);
        for (size_t i = 0; i < 1000; i++)
            assert_int_equal(mask[conv->offset + 7 * i], 0);
        last = share;
    }
    kd_assert_close(last, 0.8, 1e-4, 0);
    /* A function of the version and the step: whoever has them has the mask. */
    kd_assert_ok(kd_tune_load(n.g, &pruning, 25, n.vector, before, once, &diag), &diag);
    assert_memory_equal(mask, before, len);
    assert_memory_equal(out, once, len * sizeof *out);
    /* Without a schedule what is gone stays gone, and nothing else goes. */
    kd_assert_ok(kd_tune_load(n.g, &(kd_tune_pruning){0}, 3, n.vector, mask, out, &diag), &diag);
    assert_memory_equal(out, n.vector, len * sizeof *out);
    assert_int_equal(mask[conv->offset], 0);
    free(mask);
    free(before);
    free(out);
    free(once);
    net_free(&n);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_half_files),
        cmocka_unit_test(test_rounding_lets_gradients_through),
        cmocka_unit_test(test_tuned_graph_is_the_rounded_one),
        cmocka_unit_test(test_tuned_masks),
    };
    return cmocka_run_group_tests_name("tune", tests, NULL, NULL);
}
