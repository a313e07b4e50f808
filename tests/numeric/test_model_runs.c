/* Every network runs: inference and training agree, its gradient moves every parameter, and dropout
 * and stochastic depth do what they say. */
#include "engine/plan.h"
#include "kd/rng.h"
#include "kd_test.h"

#include "zoo_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 3, CLASSES = 4 };

static const kd_layer_spec listed[] = {
    {.kind = KD_LAYER_CONV,
     .channels = 8,
     .kernel = 3,
     .stride = 2,
     .groups = 1,
     .pad = -1,
     .bias = true},
    {.kind = KD_LAYER_SILU},
    {.kind = KD_LAYER_AVG_POOL, .kernel = 3, .stride = 2, .pad = 1},
    {.kind = KD_LAYER_CONV, .channels = 12, .kernel = 3, .stride = 1, .groups = 4, .pad = 0},
    {.kind = KD_LAYER_BATCH_NORM},
    {.kind = KD_LAYER_RELU},
    {.kind = KD_LAYER_MAX_POOL, .kernel = 3, .stride = 2, .pad = -1},
    {.kind = KD_LAYER_DROPOUT, .rate = 0},
    {.kind = KD_LAYER_FLATTEN},
    {.kind = KD_LAYER_DENSE, .channels = 16},
    {.kind = KD_LAYER_RELU6},
};
static const int hidden[] = {24, 12};
static const struct {
    const char *model;
    int size;
} nets[] = {{"shallow_cnn", 32}, {"shallow_cnn_deep", 64}, {"cheap_cnn", 64}, {"lenet", 28},
            {"mlp", 16},         {"mobilenet_v2", 64},     {"resnet18", 64},  {"resnet50", 64},
            {"layers", 29},      {"efficientnet_b0", 64}};

static kd_model_config net_config(size_t i)
{
    kd_model_config cfg = zoo_config(nets[i].model, nets[i].size, CLASSES);
    /* Full width is tested against torchvision. */
    if (strcmp(cfg.model, "mobilenet_v2") == 0)
        cfg.width = 0.35;
    cfg.hidden = hidden;
    cfg.n_hidden = KD_COUNT(hidden);
    cfg.layers = listed;
    cfg.n_layers = KD_COUNT(listed);
    return cfg;
}

typedef struct {
    kd_graph *g;
    float *vector, *input, *gradient;
} problem;

static problem problem_of(const kd_model_config *cfg)
{
    problem p = {.g = zoo_build(cfg)};
    const size_t n = (size_t)(BATCH * cfg->size * cfg->size * cfg->channels);
    p.vector = kd_xalloc(p.g->vector_len * sizeof *p.vector);
    p.gradient = kd_xalloc(p.g->vector_len * sizeof *p.gradient);
    p.input = kd_xalloc(n * sizeof *p.input);
    kd_graph_init(p.g, 5, p.vector);
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_PROBE, 0, 0);
    for (size_t i = 0; i < n; i++)
        p.input[i] = 2 * kd_rng_float(&r) - 1;
    return p;
}

static void problem_clear(problem *p)
{
    kd_graph_free(p->g);
    free(p->vector);
    free(p->gradient);
    free(p->input);
}

/* Logits [BATCH * CLASSES]; with noise where seed is not 0, and the gradient where it is asked for.
 */
static void run(const problem *p, enum kd_plan_use use, uint64_t seed, float *logits,
                float *gradient)
{
    static const uint32_t keys[BATCH] = {7, 8, 9};
    kd_plan *plan = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_plan_new(p->g, BATCH, use, &plan, &diag), &diag);
    kd_assert_ok(kd_plan_load(plan, p->vector, &diag), &diag);
    if (seed)
        kd_plan_noise(plan, seed, 0, keys);
    kd_assert_ok(kd_plan_forward(plan, p->input, logits, &diag), &diag);
    if (gradient) {
        float d[BATCH * CLASSES];
        for (int i = 0; i < BATCH * CLASSES; i++)
            d[i] = sinf((float)(i * i + 1));
        kd_assert_ok(kd_plan_backward(plan, d, 1, gradient, &diag), &diag);
    }
    kd_plan_free(plan);
}

static double size_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)x[i]);
    return sum;
}

static void test_model_runs_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        kd_model_config cfg = net_config(i);
        problem p = problem_of(&cfg);
        float infer[BATCH * CLASSES], frozen[BATCH * CLASSES], train[BATCH * CLASSES];
        run(&p, KD_PLAN_INFER, 1, infer, NULL);
        run(&p, KD_PLAN_TRAIN_FROZEN_BN, 1, frozen, NULL);
        run(&p, KD_PLAN_TRAIN, 1, train, p.gradient);
        const double scale = size_of(infer, KD_COUNT(infer)) / KD_COUNT(infer);
        print_message("%s: logits of size %.1e\n", cfg.model, scale);
        assert_true(isfinite(scale) && scale > 0);
        kd_assert_all_close(frozen, infer, KD_COUNT(infer), 1e-4, 1e-4 * scale);
        for (int k = 0; k < p.g->n_params; k++) {
            const kd_param *q = &p.g->params[k];
            const double size = size_of(p.gradient + q->offset, q->count);
            if (!isfinite(size) || !(size > 0))
                fail_msg("%s: the gradient of %s has the size %g", cfg.model, q->name, size);
        }
        problem_clear(&p);
    }
}

static bool same(const float *a, const float *b)
{
    return memcmp(a, b, BATCH * CLASSES * sizeof *a) == 0;
}

/* With noise training gives other logits, others again by another seed, and inference none. */
static void check_noise(const kd_model_config *cfg)
{
    problem p = problem_of(cfg);
    float none[BATCH * CLASSES], one[BATCH * CLASSES], two[BATCH * CLASSES], again[BATCH * CLASSES];
    run(&p, KD_PLAN_TRAIN, 0, none, NULL);
    run(&p, KD_PLAN_TRAIN, 1, one, NULL);
    run(&p, KD_PLAN_TRAIN, 1, again, NULL);
    run(&p, KD_PLAN_TRAIN, 2, two, NULL);
    if (same(none, one) || same(one, two) || !same(one, again))
        fail_msg("%s does not drop as it should", cfg->model);
    run(&p, KD_PLAN_INFER, 0, none, NULL);
    run(&p, KD_PLAN_INFER, 1, one, NULL);
    assert_true(same(none, one));
    problem_clear(&p);
}

static void test_model_runs_dropout(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        if (strcmp(nets[i].model, "resnet50") == 0)
            continue; /* large, and the code is that of resnet18 */
        kd_model_config cfg = net_config(i);
        cfg.dropout = 0.5;
        check_noise(&cfg);
    }
}

static void test_model_runs_drop_path(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(nets); i++) {
        if (strcmp(nets[i].model, "resnet18") != 0 && strcmp(nets[i].model, "efficientnet_b0") != 0)
            continue;
        kd_model_config cfg = net_config(i);
        cfg.drop_path = 0.8;
        check_noise(&cfg);
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_runs_agree),
        cmocka_unit_test(test_model_runs_dropout),
        cmocka_unit_test(test_model_runs_drop_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
