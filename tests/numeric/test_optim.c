#include "engine/optim.h"
#include "kd/rng.h"
#include "kd_test.h"

#include "kd_golden.h"

#include <math.h>
#include <string.h>

static const kd_optim adam_usual = {.rule = KD_OPTIM_ADAM,
                                    .lr = 0.01,
                                    .head_lr = 0.05,
                                    .beta1 = 0.9,
                                    .beta2 = 0.999,
                                    .eps = 1e-8,
                                    .weight_decay = 0.01};
static const kd_optim sgd_usual = {
    .rule = KD_OPTIM_SGD, .lr = 0.05, .head_lr = 0.1, .momentum = 0.9, .weight_decay = 0.01};

/* hidden.weight [2,3] and hidden.bias, batch norm, head.weight [2,2] and head.bias. */
static kd_graph *net(void)
{
    kd_graph *g = kd_graph_new(1, 1, 3);
    int x = kd_graph_dense(g, 0, "hidden", 2, false, KD_INIT_GLOROT_UNIFORM);
    x = kd_graph_batch_norm(g, x, "bn", 1e-5f);
    x = kd_graph_dense(g, x, "head", 2, true, KD_INIT_GLOROT_UNIFORM);
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    return g;
}

static void test_optim_torch(void **state)
{
    (void)state;
    kd_graph *g = net();
    const size_t hidden = kd_graph_param(g, "hidden.weight")->offset;
    const size_t head = kd_graph_param(g, "head.weight")->offset;
    json_t *root = kd_golden_load("tests/golden/optim.json");
    const json_t *grads = kd_golden_get(root, "grads"), *cases = kd_golden_get(root, "cases");
    const size_t steps = json_array_size(grads);
    float *grad = malloc(steps * 10 * sizeof *grad), *want = malloc(steps * 10 * sizeof *want);
    kd_golden_floats(root, "grads", grad, steps * 10);
    assert_true(json_array_size(cases) >= 10);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *k = json_array_get(cases, c);
        const char *name = json_string_value(kd_golden_get(k, "name"));
        const bool adam = strcmp(json_string_value(kd_golden_get(k, "rule")), "adam") == 0;
        const kd_optim o = {
            .rule = adam ? KD_OPTIM_ADAM : KD_OPTIM_SGD,
            .lr = kd_golden_number(k, "lr"),
            .head_lr = kd_golden_option(k, "head_lr", 0),
            .momentum = kd_golden_option(k, "momentum", 0),
            .beta1 = kd_golden_option(k, "beta1", 0.9),
            .beta2 = kd_golden_option(k, "beta2", 0.999),
            .eps = kd_golden_option(k, "eps", 1e-8),
            .weight_decay = kd_golden_option(k, "weight_decay", 0),
            .schedule = json_object_get(k, "cosine") ? KD_OPTIM_COSINE : KD_OPTIM_CONSTANT,
            .warmup_steps = (uint64_t)kd_golden_option(k, "warmup", 0),
            .total_steps = (uint64_t)kd_golden_option(k, "cosine", 1),
        };
        kd_golden_floats(k, "w", want, steps * 10);
        float w[64] = {0}, d[64] = {0}, memory[2 * 64] = {0}, start[10], got[10];
        assert_true(g->vector_len <= KD_COUNT(w));
        kd_golden_floats(root, "start", start, 10);
        memcpy(w + hidden, start, 6 * sizeof *w);
        memcpy(w + head, start + 6, 4 * sizeof *w);
        for (size_t t = 0; t < steps; t++) {
            memcpy(d + hidden, grad + t * 10, 6 * sizeof *d);
            memcpy(d + head, grad + t * 10 + 6, 4 * sizeof *d);
            kd_optim_apply(&o, g, t, 0, g->vector_len, w, d, 1, memory);
            memcpy(got, w + hidden, 6 * sizeof *w);
            memcpy(got + 6, w + head, 4 * sizeof *w);
            /* A few float32 roundings a step, of values up to the largest weight (below 8). */
            kd_assert_all_close(got, want + t * 10, 10, 4e-6, 2e-6);
        }
        print_message("as torch: %s\n", name);
    }
    free(grad);
    free(want);
    json_decref(root);
    kd_graph_free(g);
}

static void draw(kd_rng *r, float *out, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(scale * kd_rng_normal(r));
}

/* However the vector is cut into slices, every element gets the same bits. */
static void test_optim_slices(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(1, 1, 37);
    int x = kd_graph_dense(g, 0, "a", 29, false, KD_INIT_GLOROT_UNIFORM);
    x = kd_graph_batch_norm(g, x, "bn", 1e-5f);
    x = kd_graph_dense(g, x, "head", 5, true, KD_INIT_GLOROT_UNIFORM);
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    const size_t n = g->vector_len;
    float *whole = malloc(n * sizeof *whole), *cut = malloc(n * sizeof *cut);
    float *grad = malloc(n * sizeof *grad), *memory = malloc(2 * n * sizeof *memory);
    float *slice = malloc(2 * n * sizeof *slice), *kept = malloc(2 * n * sizeof *kept);
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_TEST, 0, 0);
    for (int rule = 0; rule < 3; rule++) {
        kd_optim o = rule == 0 ? adam_usual : sgd_usual;
        o.momentum = rule == 2 ? 0 : o.momentum;
        const size_t vectors = (size_t)kd_optim_vectors(&o);
        assert_int_equal(vectors, rule == 0 ? 2 : rule == 1 ? 1 : 0);
        for (size_t parts = 2; parts <= 13; parts++) {
            kd_graph_init(g, parts, whole);
            memcpy(cut, whole, n * sizeof *cut);
            memset(memory, 0, 2 * n * sizeof *memory);
            memset(kept, 0, 2 * n * sizeof *kept);
            for (uint64_t step = 0; step < 5; step++) {
                draw(&r, grad, n, 0.3);
                kd_optim_apply(&o, g, step, 0, n, whole, grad, 1, memory);
                for (size_t k = 0; k < parts; k++) {
                    const size_t first = n * k / parts, count = n * (k + 1) / parts - first;
                    for (size_t v = 0; v < vectors; v++)
                        memcpy(slice + v * count, kept + v * n + first, count * sizeof *slice);
                    kd_optim_apply(&o, g, step, first, count, cut + first, grad + first, 1, slice);
                    for (size_t v = 0; v < vectors; v++)
                        memcpy(kept + v * n + first, slice + v * count, count * sizeof *slice);
                }
            }
            assert_memory_equal(whole, cut, n * sizeof *whole);
            assert_memory_equal(memory, kept, vectors * n * sizeof *memory);
        }
    }
    free(whole);
    free(cut);
    free(grad);
    free(memory);
    free(slice);
    free(kept);
    kd_graph_free(g);
}

static void test_optim_statistics(void **state)
{
    (void)state;
    kd_graph *g = net();
    const kd_param *mean = kd_graph_param(g, "bn.running_mean");
    const kd_param *var = kd_graph_param(g, "bn.running_var");
    for (int frozen = 0; frozen < 2; frozen++) {
        kd_optim o = adam_usual;
        o.frozen_statistics = frozen;
        /* Neither learning rate nor decay nor schedule touches a statistic. */
        o.schedule = KD_OPTIM_COSINE;
        o.warmup_steps = 2;
        o.total_steps = 3;
        float w[64] = {0}, grad[64] = {0}, memory[128] = {0};
        double m = 0, v = 1;
        w[var->offset] = 1;
        grad[mean->offset] = 2;
        grad[var->offset] = 5;
        for (uint64_t t = 0; t < 20; t++) {
            kd_optim_apply(&o, g, t, 0, g->vector_len, w, grad, 1, memory);
            m = frozen ? 0 : 0.9 * m + 0.1 * 2;
            v = frozen ? 1 : 0.9 * v + 0.1 * 5;
            kd_assert_close(w[mean->offset], m, 2e-6, 0);
            kd_assert_close(w[var->offset], v, 2e-6, 0);
        }
        assert_true(memory[mean->offset] == 0 && memory[g->vector_len + mean->offset] == 0);
    }
    kd_graph_free(g);
}

static void test_optim_schedule(void **state)
{
    (void)state;
    kd_optim o = {.schedule = KD_OPTIM_CONSTANT, .total_steps = 1};
    kd_assert_close(kd_optim_factor(&o, 0), 1, 0, 0);
    kd_assert_close(kd_optim_factor(&o, UINT64_MAX), 1, 0, 0);
    o.warmup_steps = 4;
    for (int t = 0; t < 8; t++)
        kd_assert_close(kd_optim_factor(&o, (uint64_t)t), fmin(1, (t + 1) / 4.0), 1e-15, 0);
    o.schedule = KD_OPTIM_COSINE;
    o.total_steps = 14;
    kd_assert_close(kd_optim_factor(&o, 3), 1, 1e-15, 0);
    kd_assert_close(kd_optim_factor(&o, 4), 1, 1e-15, 0);
    kd_assert_close(kd_optim_factor(&o, 9), 0.5, 1e-15, 0);
    for (uint64_t t = 4; t < 14; t++)
        assert_true(kd_optim_factor(&o, t + 1) < kd_optim_factor(&o, t));
    kd_assert_close(kd_optim_factor(&o, 14), 0, 0, 0);
    kd_assert_close(kd_optim_factor(&o, 1000), 0, 0, 0);
    /* No step left for the cosine: the warm-up alone counts. */
    o.total_steps = 3;
    kd_assert_close(kd_optim_factor(&o, 3), 1, 1e-15, 0);
    kd_assert_close(kd_optim_factor(&o, 4), 0, 0, 0);
}

/* At the first step Adam moves every weight by lr against the sign of its gradient, however small.
 */
static void test_optim_adam_first_step(void **state)
{
    (void)state;
    kd_graph *g = net();
    kd_optim o = adam_usual;
    o.weight_decay = 0;
    o.head_lr = 0;
    o.eps = 1e-30;
    float w[64] = {0}, grad[64] = {0}, memory[128] = {0};
    for (size_t i = 0; i < g->vector_len; i++)
        grad[i] = (float)pow(-10, -(double)(i % 10));
    kd_optim_apply(&o, g, 0, 0, g->vector_len, w, grad, 1, memory);
    for (int i = 0; i < g->n_params; i++)
        for (size_t k = 0; g->params[i].kind == KD_PARAM_TRAINED && k < g->params[i].count; k++) {
            const size_t at = g->params[i].offset + k;
            kd_assert_close(w[at], grad[at] > 0 ? -0.01 : 0.01, 1e-5, 0);
        }
    kd_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_optim_torch),           cmocka_unit_test(test_optim_slices),
        cmocka_unit_test(test_optim_statistics),      cmocka_unit_test(test_optim_schedule),
        cmocka_unit_test(test_optim_adam_first_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
