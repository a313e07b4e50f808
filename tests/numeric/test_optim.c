#include "engine/optim.h"
#include "kd/clip.h"
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

static enum kd_optim_rule rule_of(const json_t *k)
{
    const char *rule = json_string_value(kd_golden_get(k, "rule"));
    return strcmp(rule, "sgd") == 0    ? KD_OPTIM_SGD
           : strcmp(rule, "adam") == 0 ? KD_OPTIM_ADAM
                                       : KD_OPTIM_ADAMW;
}

static void set_one_cycle(kd_optim *o, const json_t *k)
{
    o->schedule = KD_OPTIM_ONE_CYCLE;
    o->total_steps = (uint64_t)kd_golden_number(k, "total");
    o->pct_start = kd_golden_number(k, "pct_start");
    o->div_factor = kd_golden_number(k, "div_factor");
    o->final_div_factor = kd_golden_number(k, "final_div_factor");
}

static kd_optim optim_from(const json_t *k)
{
    kd_optim o = {
        .rule = rule_of(k),
        .lr = kd_golden_number(k, "lr"),
        .head_lr = kd_golden_option(k, "head_lr", 0),
        .momentum = kd_golden_option(k, "momentum", 0),
        .nesterov = json_is_true(json_object_get(k, "nesterov")),
        .beta1 = kd_golden_option(k, "beta1", 0.9),
        .beta2 = kd_golden_option(k, "beta2", 0.999),
        .eps = kd_golden_option(k, "eps", 1e-8),
        .weight_decay = kd_golden_option(k, "weight_decay", 0),
        .schedule = json_object_get(k, "cosine") ? KD_OPTIM_COSINE : KD_OPTIM_CONSTANT,
        .warmup_steps = (uint64_t)kd_golden_option(k, "warmup", 0),
        .total_steps = (uint64_t)kd_golden_option(k, "cosine", 1),
        .ema = kd_golden_option(k, "ema", 0),
        .freeze_backbone = json_is_true(json_object_get(k, "frozen")),
    };
    if (json_object_get(k, "one_cycle"))
        set_one_cycle(&o, kd_golden_get(k, "one_cycle"));
    if (json_object_get(k, "milestones")) {
        double at[KD_OPTIM_MILESTONES];
        o.schedule = KD_OPTIM_STEP;
        o.gamma = kd_golden_number(k, "gamma");
        o.n_milestones = (int)kd_golden_flatten(kd_golden_get(k, "milestones"), at, 0, 8);
        for (int i = 0; i < o.n_milestones; i++)
            o.milestones[i] = (uint64_t)at[i];
    }
    return o;
}

#define NUMBERS 10 /* of the golden vector: 6 hidden, 4 of the head */
#define MOST_STEPS 8

/* Between the golden vector and the parameters of net(). */
static void spread(const kd_graph *g, const float *from, float *w)
{
    memcpy(w + kd_graph_param(g, "hidden.weight")->offset, from, 6 * sizeof *w);
    memcpy(w + kd_graph_param(g, "head.weight")->offset, from + 6, 4 * sizeof *w);
}

static void collect(const kd_graph *g, const float *w, float *to)
{
    memcpy(to, w + kd_graph_param(g, "hidden.weight")->offset, 6 * sizeof *w);
    memcpy(to + 6, w + kd_graph_param(g, "head.weight")->offset, 4 * sizeof *w);
}

static void test_optim_torch(void **state)
{
    (void)state;
    kd_graph *g = net();
    json_t *root = kd_golden_load("tests/golden/optim.json");
    const json_t *cases = kd_golden_get(root, "cases");
    const size_t steps = json_array_size(kd_golden_get(root, "grads"));
    float grad[MOST_STEPS * NUMBERS], want[MOST_STEPS * NUMBERS], mean[MOST_STEPS * NUMBERS];
    assert_true(steps <= MOST_STEPS && g->vector_len <= 64);
    kd_golden_floats(root, "grads", grad, steps * NUMBERS);
    assert_int_equal(json_array_size(cases), 25);
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *k = json_array_get(cases, c);
        const kd_optim o = optim_from(k);
        const double clip_norm = kd_golden_option(k, "clip_norm", 0);
        kd_golden_floats(k, "w", want, steps * NUMBERS);
        if (o.ema != 0)
            kd_golden_floats(k, "average", mean, steps * NUMBERS);
        float w[64] = {0}, d[64] = {0}, memory[3 * 64] = {0}, start[NUMBERS], got[NUMBERS];
        kd_golden_floats(root, "start", start, NUMBERS);
        spread(g, start, w);
        for (size_t t = 0; t < steps; t++) {
            double square = 0;
            /* Frozen parameters have gradients here and none in torch: nobody may look at them. */
            spread(g, grad + t * NUMBERS, d);
            for (size_t i = 0; i < NUMBERS; i++)
                square += (double)grad[t * NUMBERS + i] * (double)grad[t * NUMBERS + i];
            const float scale = (float)kd_clip_scale(clip_norm, square);
            kd_optim_apply(&o, g, t, 0, g->vector_len, w, d, scale, memory);
            collect(g, w, got);
            /* A few float32 roundings a step, of values up to the largest weight (below 8). */
            kd_assert_all_close(got, want + t * NUMBERS, NUMBERS, 4e-6, 2e-6);
            if (o.ema == 0)
                continue;
            collect(g, memory + (size_t)(kd_optim_vectors(&o) - 1) * g->vector_len, got);
            kd_assert_all_close(got, mean + t * NUMBERS, NUMBERS, 4e-6, 2e-6);
        }
        print_message("as torch: %s\n", json_string_value(kd_golden_get(k, "name")));
    }
    json_decref(root);
    kd_graph_free(g);
}

static void test_optim_one_cycle(void **state)
{
    (void)state;
    json_t *root = kd_golden_load("tests/golden/optim.json");
    const json_t *cycles = kd_golden_get(root, "one_cycles");
    assert_int_equal(json_array_size(cycles), 8);
    for (size_t c = 0; c < json_array_size(cycles); c++) {
        const json_t *k = json_array_get(cycles, c);
        kd_optim o = {.warmup_steps = 5}; /* not read */
        double want[64];
        set_one_cycle(&o, k);
        assert_int_equal(kd_golden_flatten(kd_golden_get(k, "factors"), want, 0, 64),
                         o.total_steps);
        for (uint64_t t = 0; t < o.total_steps; t++)
            kd_assert_close(kd_optim_factor(&o, t), want[t], 1e-14, 1e-17);
        const double least = 1 / o.div_factor / o.final_div_factor;
        kd_assert_close(kd_optim_factor(&o, o.total_steps), least, 1e-12, 0);
        kd_assert_close(kd_optim_factor(&o, UINT64_MAX), least, 1e-12, 0);
    }
    json_decref(root);
    /* torch divides by zero where the top is step 0: it begins at the top. */
    const kd_optim top = {.schedule = KD_OPTIM_ONE_CYCLE,
                          .total_steps = 10,
                          .pct_start = 0.1,
                          .div_factor = 5,
                          .final_div_factor = 2};
    kd_assert_close(kd_optim_factor(&top, 0), 1, 0, 0);
    for (uint64_t t = 0; t < 9; t++)
        assert_true(kd_optim_factor(&top, t + 1) < kd_optim_factor(&top, t));
}

static void draw(kd_rng *r, float *out, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(scale * kd_rng_normal(r));
}

/* hidden layer, batch norm, a fixed factor, head. */
static kd_graph *wide_net(void)
{
    kd_graph *g = kd_graph_new(1, 1, 37);
    int x = kd_graph_dense(g, 0, "a", 29, false, KD_INIT_GLOROT_UNIFORM);
    x = kd_graph_batch_norm(g, x, "bn", 1e-5f);
    x = kd_graph_mul(g, x, kd_graph_const(g, "fixed", 1, 1, 29, KD_INIT_ONE));
    x = kd_graph_dense(g, x, "head", 5, true, KD_INIT_GLOROT_UNIFORM);
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    return g;
}

static const struct {
    const char *name;
    kd_optim o;
    int vectors;
} kinds[] = {
    {"sgd", {.rule = KD_OPTIM_SGD, .lr = 0.05, .head_lr = 0.1, .weight_decay = 0.01}, 0},
    {"sgd, average", {.rule = KD_OPTIM_SGD, .lr = 0.05, .ema = 0.9}, 1},
    {"momentum",
     {.rule = KD_OPTIM_SGD, .lr = 0.05, .head_lr = 0.1, .momentum = 0.9, .weight_decay = 0.01},
     1},
    {"nesterov, average",
     {.rule = KD_OPTIM_SGD,
      .lr = 0.05,
      .momentum = 0.9,
      .nesterov = true,
      .weight_decay = 0.01,
      .ema = 0.99},
     2},
    {"adam",
     {.rule = KD_OPTIM_ADAM,
      .lr = 0.01,
      .head_lr = 0.05,
      .beta1 = 0.9,
      .beta2 = 0.999,
      .eps = 1e-8,
      .weight_decay = 0.01},
     2},
    {"adamw, average",
     {.rule = KD_OPTIM_ADAMW,
      .lr = 0.01,
      .head_lr = 0.05,
      .beta1 = 0.9,
      .beta2 = 0.999,
      .eps = 1e-8,
      .weight_decay = 0.1,
      .schedule = KD_OPTIM_ONE_CYCLE,
      .total_steps = 5,
      .pct_start = 0.4,
      .div_factor = 25,
      .final_div_factor = 100,
      .ema = 0.75},
     3},
};

/* However the vector is cut into slices, down to single elements, which no loop takes together,
 * every element gets the same bits. */
static void test_optim_slices(void **state)
{
    (void)state;
    kd_graph *g = wide_net();
    const size_t n = g->vector_len;
    float *whole = malloc(n * sizeof *whole), *cut = malloc(n * sizeof *cut);
    float *grad = malloc(n * sizeof *grad), *memory = malloc(3 * n * sizeof *memory);
    float *slice = malloc(3 * n * sizeof *slice), *kept = malloc(3 * n * sizeof *kept);
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_TEST, 0, 0);
    for (size_t kind = 0; kind < KD_COUNT(kinds); kind++) {
        const kd_optim o = kinds[kind].o;
        const size_t vectors = (size_t)kd_optim_vectors(&o);
        assert_int_equal(vectors, kinds[kind].vectors);
        for (size_t parts = 2; parts <= n; parts = parts == 13 ? n : parts + 1) {
            kd_graph_init(g, parts, whole);
            memcpy(cut, whole, n * sizeof *cut);
            memset(memory, 0, 3 * n * sizeof *memory);
            memset(kept, 0, 3 * n * sizeof *kept);
            for (uint64_t step = 0; step < 5; step++) {
                const float scale = 1 / (float)(step + 1);
                draw(&r, grad, n, 0.3);
                kd_optim_apply(&o, g, step, 0, n, whole, grad, scale, memory);
                for (size_t k = 0; k < parts; k++) {
                    const size_t first = n * k / parts, count = n * (k + 1) / parts - first;
                    for (size_t v = 0; v < vectors; v++)
                        memcpy(slice + v * count, kept + v * n + first, count * sizeof *slice);
                    kd_optim_apply(&o, g, step, first, count, cut + first, grad + first, scale,
                                   slice);
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

/* Does every element of a parameter have the bits that it started with? */
static bool unmoved(const kd_param *p, const float *w, const float *start)
{
    return memcmp(w + p->offset, start + p->offset, p->count * sizeof *w) == 0;
}

/* Fixed parameters never move, a frozen backbone neither, statistics included, and the average of
 * what does not move is what it was; the rest moves. */
static void test_optim_frozen(void **state)
{
    (void)state;
    kd_graph *g = wide_net();
    const size_t n = g->vector_len;
    float *start = malloc(n * sizeof *start), *w = malloc(n * sizeof *w);
    float *grad = malloc(n * sizeof *grad), *memory = malloc(3 * n * sizeof *memory);
    kd_rng r;
    kd_rng_init(&r, 6, KD_RNG_TEST, 0, 0);
    kd_graph_init(g, 3, start);
    draw(&r, start + kd_graph_param(g, "fixed.value")->offset, 29, 1);
    int fixed = 0;
    for (size_t kind = 0; kind < KD_COUNT(kinds); kind++)
        for (int freeze = 0; freeze < 2; freeze++) {
            kd_optim o = kinds[kind].o;
            o.freeze_backbone = freeze;
            memcpy(w, start, n * sizeof *w);
            memset(memory, 0, 3 * n * sizeof *memory);
            for (uint64_t step = 0; step < 40; step++) {
                draw(&r, grad, n, 0.3);
                kd_optim_apply(&o, g, step, 0, n, w, grad, 1, memory);
            }
            const float *mean = memory + (size_t)(kinds[kind].vectors - 1) * n;
            for (int i = 0; i < g->n_params; i++) {
                const kd_param *p = &g->params[i];
                const bool still = p->kind == KD_PARAM_FIXED || (freeze && !p->head);
                fixed += p->kind == KD_PARAM_FIXED;
                assert_int_equal(unmoved(p, w, start), still);
                assert_int_equal(kd_optim_moves(&o, p), !still && p->kind == KD_PARAM_TRAINED);
                if (o.ema != 0)
                    assert_int_equal(unmoved(p, mean, start), still);
            }
        }
    assert_int_equal(fixed, 2 * KD_COUNT(kinds));
    free(start);
    free(w);
    free(grad);
    free(memory);
    kd_graph_free(g);
}

/* The average over every element, statistics included, begins at the initial vector, whatever stood
 * in its memory. */
static void test_optim_average(void **state)
{
    (void)state;
    kd_graph *g = net();
    const size_t n = g->vector_len;
    float w[64], grad[64], memory[3 * 64], plain[64], plain_memory[2 * 64] = {0};
    double want[64];
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_TEST, 0, 0);
    kd_optim o = adam_usual;
    kd_graph_init(g, 1, w);
    memcpy(plain, w, sizeof w);
    memset(memory, 0, sizeof memory);
    for (size_t i = 0; i < n; i++) {
        want[i] = (double)w[i];
        memory[2 * n + i] = NAN;
    }
    for (uint64_t step = 0; step < 30; step++) {
        draw(&r, grad, n, 0.3);
        o.ema = 0;
        kd_optim_apply(&o, g, step, 0, n, plain, grad, 1, plain_memory);
        o.ema = 0.8;
        kd_optim_apply(&o, g, step, 0, n, w, grad, 1, memory);
        assert_memory_equal(w, plain, n * sizeof *w);
        for (size_t i = 0; i < n; i++) {
            want[i] = 0.8 * want[i] + 0.2 * (double)w[i];
            kd_assert_close(memory[2 * n + i], want[i], 2e-6, 2e-7);
        }
    }
    const kd_param *mean = kd_graph_param(g, "bn.running_mean");
    assert_true(fabs(want[mean->offset] - (double)w[mean->offset]) > 1e-3);
    kd_graph_free(g);
}

static void test_optim_clip(void **state)
{
    (void)state;
    kd_assert_close(kd_clip_scale(0, 1e30), 1, 0, 0);
    kd_assert_close(kd_clip_scale(2, 3.9), 1, 0, 0);
    kd_assert_close(kd_clip_scale(2, 100), 2 / (10 + 1e-6), 1e-15, 0);
    kd_assert_close(kd_clip_scale(1, 0), 1, 0, 0);
    /* Exactly at the norm, torch takes its millionth. */
    kd_assert_close(kd_clip_scale(2, 4), 2 / (2 + 1e-6), 1e-15, 0);
    /* Statistics are no gradients. */
    kd_graph *g = net();
    const size_t at = kd_graph_param(g, "bn.running_mean")->offset;
    const size_t head = kd_graph_param(g, "head.weight")->offset;
    const kd_optim plain = {.rule = KD_OPTIM_SGD, .lr = 1};
    float w[64] = {0}, grad[64];
    for (int i = 0; i < 64; i++)
        grad[i] = 1;
    kd_optim_apply(&plain, g, 0, 0, g->vector_len, w, grad, 0.25f, NULL);
    kd_assert_close(w[at], 0.1, 1e-6, 0);
    kd_assert_close(w[head], -0.25, 0, 0);
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
    o.schedule = KD_OPTIM_STEP;
    o.gamma = 0.5;
    o.n_milestones = 3;
    o.milestones[0] = 2; /* passes while the warm-up goes on */
    o.milestones[1] = 6;
    o.milestones[2] = 9;
    const double steps[] = {0.25, 0.5, 0.75, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125};
    for (size_t t = 0; t < KD_COUNT(steps); t++)
        kd_assert_close(kd_optim_factor(&o, t), steps[t], 0, 0);
    o.schedule = KD_OPTIM_COSINE;
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
        cmocka_unit_test(test_optim_torch),           cmocka_unit_test(test_optim_one_cycle),
        cmocka_unit_test(test_optim_slices),          cmocka_unit_test(test_optim_frozen),
        cmocka_unit_test(test_optim_average),         cmocka_unit_test(test_optim_clip),
        cmocka_unit_test(test_optim_statistics),      cmocka_unit_test(test_optim_schedule),
        cmocka_unit_test(test_optim_adam_first_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
