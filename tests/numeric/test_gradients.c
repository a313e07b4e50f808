/* Gradients of every operator against central differences.
 *
 * The scalar is L = sum(logits * fixed random). The differences are taken on the reference, in
 * double: with a step of 1e-6 their own error is about 1e-9 |L|, far below float32, so that the
 * tolerance is about the engine alone. An engine gradient is a float32 sum of at most about 4096
 * terms: 6e-8 * sqrt(4096) = 4e-6 of the terms' size, ten times that behind a batch norm, where
 * large terms cancel. Hence |g - d| <= 1e-4 (|d| + the parameter's largest |d|) + 1e-6. A wrong
 * formula is off by the order of the largest |d|. */
#include "reference.h"

#define STEP 1e-6

static double scalar(const ref_net *net, bool own, const double *w, const float *d_logits,
                     ref_run *r)
{
    const double *z = ref_forward(net->g, own, w, net->input, r);
    const size_t n = (size_t)net->batch * ref_count(&net->g->nodes[net->g->output]);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += z[i] * (double)d_logits[i];
    return sum;
}

static double slope(const ref_net *net, bool own, size_t at, const float *d_logits, ref_run *r)
{
    const double was = net->wide[at];
    net->wide[at] = was + STEP;
    const double up = scalar(net, own, net->wide, d_logits, r);
    net->wide[at] = was - STEP;
    const double down = scalar(net, own, net->wide, d_logits, r);
    net->wide[at] = was;
    return (up - down) / (2 * STEP);
}

/* Engine gradient [vector_len] and the random d_logits it was made with; caller frees both. */
static float *engine_gradient(const ref_net *net, enum kd_plan_use use, float **out_d_logits)
{
    kd_diag diag = {0};
    const size_t n = (size_t)net->batch * ref_count(&net->g->nodes[net->g->output]);
    const size_t bytes = (net->g->vector_len + 1) * sizeof(float);
    float *d_logits = kd_xalloc(n * sizeof(float)), *logits = kd_xalloc(n * sizeof(float));
    float *gradient = kd_xalloc(bytes), *again = kd_xalloc(bytes);
    kd_rng r;
    kd_rng_init(&r, 11, KD_RNG_TEST, 3, 0);
    for (size_t i = 0; i < n; i++)
        d_logits[i] = 2 * kd_rng_float(&r) - 1;
    kd_plan *p = NULL;
    kd_assert_ok(kd_plan_new(net->g, net->batch, use, &p, &diag), &diag);
    kd_assert_ok(kd_plan_load(p, net->vector, &diag), &diag);
    kd_assert_ok(kd_plan_forward(p, net->input, logits, &diag), &diag);
    kd_assert_ok(kd_plan_backward(p, d_logits, 0.5F, gradient, &diag), &diag);
    /* Nothing of the result may come from memory that this run did not write. */
    kd_plan_poison(p);
    kd_assert_ok(kd_plan_forward(p, net->input, logits, &diag), &diag);
    kd_assert_ok(kd_plan_backward(p, d_logits, 0.5F, again, &diag), &diag);
    assert_memory_equal(gradient, again, net->g->vector_len * sizeof(float));
    kd_plan_free(p);
    free(logits);
    free(again);
    *out_d_logits = d_logits;
    return gradient;
}

static void check_param(const ref_net *net, bool own, const kd_param *param, const float *gradient,
                        const float *d_logits, ref_run *r)
{
    enum { MOST = 60 };
    const size_t n = KD_MIN(param->count, (size_t)MOST);
    double slopes[MOST], largest = 0;
    for (size_t i = 0; i < n; i++) { /* spread over the parameter */
        slopes[i] = slope(net, own, param->offset + i * param->count / n, d_logits, r);
        largest = fmax(largest, fabs(slopes[i]));
    }
    for (size_t i = 0; i < n; i++) {
        const size_t k = i * param->count / n;
        const double g = (double)gradient[param->offset + k];
        const double allowed = 1e-4 * (fabs(slopes[i]) + largest) + 1e-6;
        if (isfinite(g) && fabs(g - slopes[i]) <= allowed)
            continue;
        print_error("%s, batch norm %s: d %s[%zu] is %.9g, central differences give %.9g\n",
                    net->name, own ? "trained" : "frozen", param->name, k, g, slopes[i]);
        fail();
    }
}

static void check_statistics(bool own, const kd_param *param, const float *gradient,
                             const ref_run *r)
{
    for (size_t k = param->offset; k < param->offset + param->count; k++)
        kd_assert_close(gradient[k], own ? 0.5 * r->stats[k] : 0, 1e-5, 1e-6);
}

static void check_net(const ref_net *net)
{
    static const enum kd_plan_use uses[] = {KD_PLAN_TRAIN, KD_PLAN_TRAIN_FROZEN_BN};
    for (size_t u = 0; u < KD_COUNT(uses); u++) {
        const bool own = uses[u] == KD_PLAN_TRAIN;
        float *d_logits, *gradient = engine_gradient(net, uses[u], &d_logits);
        ref_run r = ref_new(net->g, net->batch);
        (void)scalar(net, own, net->wide, d_logits, &r);
        for (int i = 0; i < net->g->n_params; i++)
            if (net->g->params[i].kind == KD_PARAM_STATISTIC)
                check_statistics(own, &net->g->params[i], gradient, &r);
        for (int i = 0; i < net->g->n_params; i++)
            if (net->g->params[i].kind == KD_PARAM_TRAINED)
                check_param(net, own, &net->g->params[i], gradient, d_logits, &r);
        ref_free(&r);
        free(gradient);
        free(d_logits);
    }
}

static void test_gradients_operators(void **state)
{
    (void)state;
    for (int i = 0; i < REF_NETS; i++) {
        ref_net net = ref_net_make(i);
        check_net(&net);
        ref_net_free(&net);
    }
}

/* Every element of the gradient at once: L along a random direction. */
static void test_gradients_random_nets(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        ref_net net = ref_net_random(seed);
        float *d_logits, *gradient = engine_gradient(&net, KD_PLAN_TRAIN_FROZEN_BN, &d_logits);
        ref_run r = ref_new(net.g, net.batch);
        double *w = kd_xalloc(net.g->vector_len * sizeof *w), ends[2], dot = 0, size = 0;
        for (int side = 0; side < 2; side++) {
            kd_rng rng;
            kd_rng_init(&rng, seed, KD_RNG_TEST, 4, 0);
            dot = size = 0;
            memcpy(w, net.wide, net.g->vector_len * sizeof *w);
            for (int i = 0; i < net.g->n_params; i++)
                for (size_t k = 0; k < net.g->params[i].count; k++) {
                    const size_t at = net.g->params[i].offset + k;
                    const double along = kd_rng_normal(&rng);
                    if (net.g->params[i].kind == KD_PARAM_STATISTIC)
                        continue;
                    w[at] += (side ? -STEP : STEP) * along;
                    dot += along * (double)gradient[at];
                    size += along * along * (double)gradient[at] * (double)gradient[at];
                }
            ends[side] = scalar(&net, false, w, d_logits, &r);
        }
        kd_assert_close(dot, (ends[0] - ends[1]) / (2 * STEP), 1e-4, 1e-4 * sqrt(size) + 1e-5);
        free(w);
        ref_free(&r);
        free(gradient);
        free(d_logits);
        ref_net_free(&net);
    }
}

int main(void)
{
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_operators),
        cmocka_unit_test(test_gradients_random_nets),
    };
    return cmocka_run_group_tests_name("gradients", tests, NULL, NULL);
}
