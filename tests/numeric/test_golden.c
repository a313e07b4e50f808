/* Whole networks against PyTorch: tests/golden/README.md says how its answers were made. */
#include "distill/loss.h"
#include "engine/optim.h"
#include "engine/plan.h"
#include "kd_test.h"

#include "kd_golden.h"
#include "losses.h"
#include "photos.h"
#include "recipe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    kd_graph *g;
    float *vector, *input, *teacher;
    kd_target *targets;
    int images, classes;
} problem;

static problem problem_of(const char *model, const json_t *k, int images)
{
    const char *padding = json_string_value(json_object_get(k, "padding"));
    const kd_model_config cfg = {
        .model = model,
        .width = kd_golden_option(k, "width", 1),
        .pad_tf = padding && strcmp(padding, "tf") == 0,
        .size = (int)kd_golden_number(k, "size"),
        .channels = 3,
        .classes = (int)kd_golden_number(k, "classes"),
    };
    problem p = {.images = images, .classes = cfg.classes};
    kd_diag diag = {0};
    kd_assert_ok(kd_model_build(&cfg, &p.g, &diag), &diag);
    const size_t n = (size_t)images, pixels = (size_t)(cfg.size * cfg.size * cfg.channels);
    p.vector = kd_xalloc(p.g->vector_len * sizeof *p.vector);
    p.input = kd_xalloc(n * pixels * sizeof *p.input);
    p.teacher = kd_xalloc(n * (size_t)cfg.classes * sizeof *p.teacher);
    p.targets = kd_xalloc(n * sizeof *p.targets);
    int32_t *labels = kd_xalloc(n * sizeof *labels);
    const uint64_t seed = (uint64_t)kd_golden_number(k, "seed");
    kd_golden_vector(p.g, seed, p.vector);
    if (json_is_true(json_object_get(k, "apart")))
        kd_golden_apart(p.g, seed, p.vector);
    kd_golden_samples(p.g, seed, images, p.input, p.teacher, labels);
    for (size_t i = 0; i < n; i++)
        p.targets[i] = (kd_target){labels[i], -1, 1};
    free(labels);
    return p;
}

static void problem_clear(problem *p)
{
    kd_graph_free(p->g);
    free(p->vector);
    free(p->input);
    free(p->teacher);
    free(p->targets);
}

static kd_plan *plan_of(const problem *p, int batch, enum kd_plan_use use)
{
    kd_plan *plan = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_plan_new(p->g, batch, use, &plan, &diag), &diag);
    kd_assert_ok(kd_plan_load(plan, p->vector, &diag), &diag);
    return plan;
}

static double norm_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* Largest difference, relative to the root mean square of the answers. */
static double worst(const float *got, const float *want, int n)
{
    double most = 0;
    for (int i = 0; i < n; i++) {
        if (!isfinite(got[i]))
            return INFINITY;
        most = fmax(most, fabs((double)got[i] - (double)want[i]));
    }
    return most / (norm_of(want, (size_t)n) / sqrt(n));
}

static void test_golden_mobilenet_v2_logits(void **state)
{
    (void)state;
    json_t *root = kd_golden_load("tests/golden/mobilenet_v2.json");
    const json_t *cases = kd_golden_get(root, "cases");
    assert_int_equal(json_array_size(cases), 6);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *k = json_array_get(cases, c);
        problem p = problem_of("mobilenet_v2", k, (int)kd_golden_number(k, "images"));
        const enum kd_plan_use uses[] = {KD_PLAN_INFER, KD_PLAN_TRAIN_FROZEN_BN, KD_PLAN_TRAIN};
        const char *const names[] = {"infer", "train with frozen batch norm", "train"};
        const int n = p.images * p.classes;
        float want[64], got[64];
        assert_true(n <= (int)KD_COUNT(want));
        for (size_t u = 0; u < KD_COUNT(uses); u++) {
            kd_golden_floats(k, uses[u] == KD_PLAN_TRAIN ? "train_logits" : "logits", want,
                             (size_t)n);
            kd_plan *plan = plan_of(&p, p.images, uses[u]);
            kd_diag diag = {0};
            kd_assert_ok(kd_plan_forward(plan, p.input, got, &diag), &diag);
            const double error = worst(got, want, n);
            print_message("width %g, padding %s, size %g, %s: %.1e\n", kd_golden_number(k, "width"),
                          json_string_value(kd_golden_get(k, "padding")),
                          kd_golden_number(k, "size"), names[u], error);
            assert_true(error < 5e-4);
            kd_plan_free(plan);
        }
        problem_clear(&p);
    }
    json_decref(root);
}

/* Compares each parameter's norm and its product with cos(i / 10), and where the file has them its
 * first, middle and last value; writes the largest error of a statistic and of a gradient, relative
 * to the tensor's norm (a value: to its root mean square). */
static void compare_gradient(const kd_graph *g, const float *gradient, const json_t *summary,
                             double *out_statistic, double *out_gradient)
{
    *out_statistic = *out_gradient = 0;
    assert_int_equal(json_object_size(summary), g->n_params);
    double before = 0;
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *q = &g->params[i];
        const float *d = gradient + q->offset;
        double want[5], along = 0;
        const size_t n = kd_golden_flatten(kd_golden_get(summary, q->name), want, 0, 5);
        assert_true(n == 2 || n == 5);
        for (size_t j = 0; j < q->count; j++)
            along += (double)d[j] * cos((double)j / 10);
        double error = fmax(fabs(norm_of(d, q->count) - want[0]), fabs(along - want[1]));
        const size_t at[] = {0, q->count / 2, q->count - 1};
        for (size_t k = 0; k + 2 < n; k++)
            error = fmax(error, fabs((double)d[at[k]] - want[k + 2]) * sqrt((double)q->count));
        assert_true(isfinite(error));
        /* A bias before another batch norm has the gradient 0, so that PyTorch's is rounding too:
         * it is measured by the norm of the weight it goes with, the parameter before it. */
        const double scale = fmax(want[0], q->init == KD_INIT_ZERO ? before : 0);
        double *most = q->kind == KD_PARAM_STATISTIC ? out_statistic : out_gradient;
        *most = fmax(*most, error / scale);
        before = want[0];
    }
}

/* A training step's logits and gradient of the mean cross-entropy. */
static void train_step(const problem *p, float *logits, float *gradient)
{
    const kd_loss loss = {.weight = {[KD_TERM_CE] = 1}, .temperature = 1};
    float d_logits[64], weight[8];
    assert_true(p->images <= (int)KD_COUNT(weight) && p->images * p->classes <= 64);
    for (int i = 0; i < p->images; i++)
        weight[i] = 1;
    kd_plan *plan = plan_of(p, p->images, KD_PLAN_TRAIN);
    kd_diag diag = {0};
    kd_assert_ok(kd_plan_forward(plan, p->input, logits, &diag), &diag);
    kd_loss_sums sums;
    kd_loss_apply(&loss, p->images, p->classes, logits, NULL, p->targets, weight, 1.0 / p->images,
                  NULL, d_logits, &sums);
    kd_assert_ok(kd_plan_backward(plan, d_logits, 1, gradient, &diag), &diag);
    kd_plan_free(plan);
}

/* Every gradient and every batch statistic of a step. ReLU6 has no derivative at its two corners:
 * of a million values a few lie so close that rounding decides the side, and each that lands on the
 * other one shifts the gradients before it by about a hundredth (27 positions in the last layers).
 * PyTorch differs from itself by 0.03 so when only the memory layout changes. Hence the clear
 * cases, chosen so that no value lies near a corner, are held tightly, and the others loosely. */
static void test_golden_mobilenet_v2_gradient(void **state)
{
    (void)state;
    json_t *root = kd_golden_load("tests/golden/mobilenet_v2.json");
    const json_t *cases = kd_golden_get(root, "cases");
    int checked = 0;
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *k = json_array_get(cases, c);
        if (!json_object_get(k, "gradient"))
            continue;
        checked++;
        problem p = problem_of("mobilenet_v2", k, (int)kd_golden_number(k, "images"));
        float logits[64];
        float *gradient = kd_xalloc(p.g->vector_len * sizeof *gradient);
        train_step(&p, logits, gradient);
        double statistic, trained;
        compare_gradient(p.g, gradient, kd_golden_get(k, "gradient"), &statistic, &trained);
        print_message("width %g, padding %s, size %g: statistics %.1e, gradients %.1e\n",
                      kd_golden_number(k, "width"), json_string_value(kd_golden_get(k, "padding")),
                      kd_golden_number(k, "size"), statistic, trained);
        const bool clear = json_is_true(kd_golden_get(k, "clear"));
        assert_true(statistic < 1e-4 && trained < (clear ? 1e-3 : 0.1));
        free(gradient);
        problem_clear(&p);
    }
    assert_int_equal(checked, 4);
    json_decref(root);
}

/* torchvision's own modules: logits with running and with batch statistics, every gradient and
 * every statistic of one step. The seeds keep clear of corners, as above. */
static void test_golden_torchvision(void **state)
{
    (void)state;
    json_t *root = kd_golden_load("tests/golden/torchvision.json");
    const json_t *cases = kd_golden_get(root, "cases");
    assert_int_equal(json_array_size(cases), 4);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *k = json_array_get(cases, c);
        const char *model = json_string_value(kd_golden_get(k, "model"));
        problem p = problem_of(model, k, (int)kd_golden_number(k, "images"));
        const int n = p.images * p.classes;
        float want[64], got[64];
        float *gradient = kd_xalloc(p.g->vector_len * sizeof *gradient);
        double statistic, trained;
        assert_true(n <= (int)KD_COUNT(want));
        kd_golden_floats(k, "logits", want, (size_t)n);
        kd_plan *plan = plan_of(&p, p.images, KD_PLAN_INFER);
        kd_diag diag = {0};
        kd_assert_ok(kd_plan_forward(plan, p.input, got, &diag), &diag);
        kd_plan_free(plan);
        const double infer = worst(got, want, n);
        kd_golden_floats(k, "train_logits", want, (size_t)n);
        train_step(&p, got, gradient);
        const double train = worst(got, want, n);
        compare_gradient(p.g, gradient, kd_golden_get(k, "gradient"), &statistic, &trained);
        print_message("%s, padding %s: infer %.1e, train %.1e, statistics %.1e, gradients %.1e\n",
                      model, json_string_value(kd_golden_get(k, "padding")), infer, train,
                      statistic, trained);
        assert_true(infer < 1e-4 && train < 1e-4 && statistic < 1e-4 && trained < 1e-3);
        free(gradient);
        problem_clear(&p);
    }
    json_decref(root);
}

static void test_golden_student_steps(void **state)
{
    (void)state;
    json_t *root = kd_golden_load("tests/golden/shallow_cnn.json");
    const json_t *cases = kd_golden_get(root, "cases");
    assert_int_equal(json_array_size(cases), 2);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *k = json_array_get(cases, c);
        const int batch = (int)kd_golden_number(k, "batch");
        const int steps = (int)kd_golden_number(k, "steps");
        problem p = problem_of("shallow_cnn", k, batch * steps);
        const kd_loss loss = {.weight = {[KD_TERM_KD] = kd_golden_number(k, "kd"),
                                         [KD_TERM_CE] = kd_golden_number(k, "ce")},
                              .temperature = kd_golden_number(k, "temperature"),
                              .normalise = true};
        const kd_optim adam = {.rule = KD_OPTIM_ADAM,
                               .lr = kd_golden_number(k, "lr"),
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .eps = 1e-8,
                               .total_steps = 1};
        double want[16];
        float last[128], logits[128], d_logits[128], weight[16];
        assert_true(batch <= 16 && steps <= 16 && batch * p.classes <= 128);
        assert_int_equal(kd_golden_flatten(kd_golden_get(k, "losses"), want, 0, 16), steps);
        kd_golden_floats(k, "last_logits", last, (size_t)(batch * p.classes));
        for (int i = 0; i < batch; i++)
            weight[i] = 1;
        float *gradient = kd_xalloc(p.g->vector_len * sizeof *gradient);
        float *memory = kd_xalloc(2 * p.g->vector_len * sizeof *memory);
        kd_plan *plan = plan_of(&p, batch, KD_PLAN_TRAIN);
        const size_t picture = (size_t)p.g->nodes[0].h * (size_t)p.g->nodes[0].w * 3;
        kd_diag diag = {0};
        double most = 0;
        for (int t = 0; t < steps; t++) {
            const size_t at = (size_t)(t * batch);
            kd_loss_sums sums;
            kd_assert_ok(kd_plan_load(plan, p.vector, &diag), &diag);
            kd_assert_ok(kd_plan_forward(plan, p.input + at * picture, logits, &diag), &diag);
            kd_loss_apply(&loss, batch, p.classes, logits, p.teacher + at * (size_t)p.classes,
                          p.targets + at, weight, 1.0 / batch, NULL, d_logits, &sums);
            assert_int_equal(sums.bad, -1);
            const double got =
                sums.loss / batch +
                loss.weight[KD_TERM_KD] * mean_entropy(batch, p.classes,
                                                       p.teacher + at * (size_t)p.classes,
                                                       loss.temperature);
            most = fmax(most, fabs(got - want[t]) / want[t]);
            kd_assert_close(got, want[t], 1e-4, 0);
            kd_assert_ok(kd_plan_backward(plan, d_logits, 1, gradient, &diag), &diag);
            kd_optim_apply(&adam, p.g, (uint64_t)t, 0, p.g->vector_len, p.vector, gradient, 1,
                           memory);
        }
        const double error = worst(logits, last, batch * p.classes);
        print_message("%s: losses within %.1e, logits of the last step within %.1e\n",
                      json_string_value(kd_golden_get(k, "name")), most, error);
        assert_true(error < 1e-3);
        kd_plan_free(plan);
        free(gradient);
        free(memory);
        problem_clear(&p);
    }
    json_decref(root);
}

#define DAISY 985 /* line of imagenet_classes.txt, from 0 */

/* The network with its real weights knows a daisy: decoding, resizing, channel order,
 * preprocessing, names and layouts of weights, padding and folding in one. */
static void test_golden_daisies(void **state)
{
    (void)state;
    kd_diag diag = {0};
    photos set;
    if (!photos_open(&set))
        skip();
    kd_plan *plan;
    kd_assert_ok(kd_plan_new(set.g, 1, KD_PLAN_INFER, &plan, &diag), &diag);
    kd_assert_ok(kd_plan_load(plan, set.vector, &diag), &diag);
    float *input = kd_xalloc(PHOTO_FLOATS * sizeof *input), logits[PHOTO_CLASSES];
    int seen = 0, hits = 0;
    while (seen < 20 && photos_next(&set, "images/daisy/", input)) {
        kd_assert_ok(kd_plan_forward(plan, input, logits, &diag), &diag);
        int best = 0;
        for (int j = 1; j < PHOTO_CLASSES; j++)
            if (logits[j] > logits[best])
                best = j;
        seen++;
        hits += best == DAISY;
    }
    print_message("%d of %d daisies are daisies\n", hits, seen);
    /* Of all 633 daisies 82 % are. */
    assert_int_equal(seen, 20);
    assert_true(hits >= 11);
    kd_plan_free(plan);
    free(input);
    photos_close(&set);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_mobilenet_v2_logits),
        cmocka_unit_test(test_golden_mobilenet_v2_gradient),
        cmocka_unit_test(test_golden_torchvision),
        cmocka_unit_test(test_golden_student_steps),
        cmocka_unit_test(test_golden_daisies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
