/* The checks that every operator goes through: forward and gradients against the reference, and
 * that no result hangs on memory that the run did not write.
 *
 * Forward tolerance: a logit is a float32 sum through a few layers of at most about 300 terms each,
 * so its error is about 6e-8 * sqrt(300) * layers = 1e-5 of the size of the values in between, more
 * behind a batch norm with a small variance: 1e-4 (|z| + the largest |z|).
 *
 * Gradients: the scalar is L = sum(logits * fixed random). The differences are taken on the
 * reference, in double: with a step of 1e-6 their own error is about 1e-9 |L|, far below float32,
 * so that the tolerance is about the engine alone. An engine gradient is a float32 sum of at most
 * about 4096 terms: 6e-8 * sqrt(4096) = 4e-6 of the terms' size, ten times that behind a batch
 * norm, where large terms cancel. Hence |g - d| <= 1e-4 (|d| + the parameter's largest |d|) + 1e-6.
 * A wrong formula is off by the order of the largest |d|. */
#ifndef KD_TESTS_CHECKS_H
#define KD_TESTS_CHECKS_H

#include "nets.h"

static inline size_t logits_of(const ref_net *net)
{
    return (size_t)net->batch * ref_count(&net->g->nodes[net->g->output]);
}

static inline kd_plan *plan_of(const ref_net *net, int batch, enum kd_plan_use use)
{
    kd_diag diag = {0};
    kd_plan *p = NULL;
    kd_assert_ok(kd_plan_new(net->g, batch, use, &p, &diag), &diag);
    kd_assert_ok(kd_plan_load(p, net->vector, &diag), &diag);
    kd_plan_noise(p, REF_NOISE_SEED, REF_NOISE_STEP, ref_noise_keys);
    return p;
}

/* Logits of a fresh plan; caller frees. */
static inline float *logits_by(const ref_net *net, int batch, enum kd_plan_use use,
                               const float *input)
{
    kd_diag diag = {0};
    kd_plan *p = plan_of(net, batch, use);
    float *z = kd_xalloc((size_t)batch * ref_count(&net->g->nodes[net->g->output]) * sizeof *z);
    kd_assert_ok(kd_plan_forward(p, input, z, &diag), &diag);
    assert_null(kd_plan_find_nonfinite(p));
    kd_plan_free(p);
    return z;
}

static inline void check_forward(const ref_net *net, enum kd_plan_use use)
{
    kd_diag diag = {0};
    const size_t n = logits_of(net);
    kd_plan *p = plan_of(net, net->batch, use);
    float *z = kd_xalloc(n * sizeof *z), *again = kd_xalloc(n * sizeof *z);
    ref_run r = ref_new(net->g, net->batch);
    r.noisy = use != KD_PLAN_INFER;
    const double *expected = ref_forward(net->g, use == KD_PLAN_TRAIN, net->wide, net->input, &r);
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(expected[i]));
    kd_assert_ok(kd_plan_forward(p, net->input, z, &diag), &diag);
    kd_plan_poison(p);
    kd_assert_ok(kd_plan_forward(p, net->input, again, &diag), &diag);
    assert_memory_equal(z, again, n * sizeof *z);
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)z[i] - expected[i]) <= 1e-4 * (fabs(expected[i]) + largest))) {
            print_error("%s, use %d: logit %zu is %.9g, the reference gives %.9g\n", net->name,
                        (int)use, i, (double)z[i], expected[i]);
            fail();
        }
    ref_free(&r);
    free(again);
    free(z);
    kd_plan_free(p);
}

#define REF_STEP 1e-6

static inline double scalar(const ref_net *net, bool own, const double *w, const float *d_logits,
                            ref_run *r)
{
    const double *z = ref_forward(net->g, own, w, net->input, r);
    const size_t n = (size_t)net->batch * ref_count(&net->g->nodes[net->g->output]);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += z[i] * (double)d_logits[i];
    return sum;
}

static inline double slope(const ref_net *net, bool own, size_t at, const float *d_logits,
                           ref_run *r)
{
    const double was = net->wide[at];
    net->wide[at] = was + REF_STEP;
    const double up = scalar(net, own, net->wide, d_logits, r);
    net->wide[at] = was - REF_STEP;
    const double down = scalar(net, own, net->wide, d_logits, r);
    net->wide[at] = was;
    return (up - down) / (2 * REF_STEP);
}

/* Engine gradient [vector_len] and the random d_logits it was made with; caller frees both. */
static inline float *engine_gradient(const ref_net *net, enum kd_plan_use use, float **out_d_logits)
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
    p = plan_of(net, net->batch, use);
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

static inline void check_param(const ref_net *net, bool own, const kd_param *param,
                               const float *gradient, const float *d_logits, ref_run *r)
{
    enum { MOST = 60 };
    const size_t most = net->slopes ? (size_t)net->slopes : MOST;
    const size_t n = KD_MIN(param->count, most);
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

static inline void check_statistics(bool own, const kd_param *param, const float *gradient,
                                    const ref_run *r)
{
    for (size_t k = param->offset; k < param->offset + param->count; k++)
        kd_assert_close(gradient[k], own ? 0.5 * r->stats[k] : 0, 1e-5, 1e-6);
}

static inline void check_gradients(const ref_net *net)
{
    static const enum kd_plan_use uses[] = {KD_PLAN_TRAIN, KD_PLAN_TRAIN_FROZEN_BN};
    for (size_t u = 0; u < KD_COUNT(uses); u++) {
        if (u > 0 && net->g->vector_len == net->g->trained_len)
            break; /* without a batch norm both uses are one */
        const bool own = uses[u] == KD_PLAN_TRAIN;
        float *d_logits, *gradient = engine_gradient(net, uses[u], &d_logits);
        ref_run r = ref_new(net->g, net->batch);
        r.noisy = true;
        (void)scalar(net, own, net->wide, d_logits, &r);
        for (int i = 0; i < net->g->n_params; i++)
            if (net->g->params[i].kind == KD_PARAM_STATISTIC)
                check_statistics(own, &net->g->params[i], gradient, &r);
        for (int i = 0; i < net->g->n_params; i++)
            for (size_t k = 0; k < net->g->params[i].count; k++)
                assert_true(net->g->params[i].kind != KD_PARAM_FIXED ||
                            gradient[net->g->params[i].offset + k] == 0);
        for (int i = 0; i < net->g->n_params; i++)
            if (net->g->params[i].kind == KD_PARAM_TRAINED)
                check_param(net, own, &net->g->params[i], gradient, d_logits, &r);
        ref_free(&r);
        free(gradient);
        free(d_logits);
    }
}

#endif
