/* Networks of the zoo as if trained, for the tests of compress/: start values leave batch norms
 * without an effect and give all pictures one answer; these do not. Include after kd_test.h. */
#ifndef KD_COMPRESS_NETS_H
#define KD_COMPRESS_NETS_H

#include "engine/plan.h"
#include "kd/rng.h"
#include "models/models.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NET_CLASSES 6

typedef struct zoo_net {
    kd_graph *g;
    float *vector;
    size_t picture;
} zoo_net;

static inline float *net_floats(size_t n)
{
    return aligned_alloc(64, (n * sizeof(float) + 63) / 64 * 64);
}

/* Picture i: coarse patches of strong colours and some noise, unlike any other. */
static inline void net_picture(const zoo_net *n, uint32_t i, float *input)
{
    const kd_node *in = &n->g->nodes[0];
    for (int y = 0; y < in->h; y++)
        for (int x = 0; x < in->w; x++)
            for (int c = 0; c < in->c; c++) {
                kd_rng coarse, fine;
                const uint64_t patch = (uint64_t)(y * 4 / in->h * 4 + x * 4 / in->w) * 4 + c;
                const uint64_t at = (uint64_t)(y * in->w + x) * 4 + c;
                kd_rng_init(&coarse, 5, KD_RNG_TEST, i, patch);
                kd_rng_init(&fine, 6, KD_RNG_TEST, i, at);
                input[(y * in->w + x) * in->c + c] =
                    1.6F * kd_rng_float(&coarse) - 0.8F + 0.4F * kd_rng_float(&fine) - 0.2F;
            }
}

/* Pictures first.. of n, one behind the other; free it. */
static inline float *net_pictures(const zoo_net *net, uint32_t first, uint32_t n)
{
    float *in = net_floats(n * net->picture);
    for (uint32_t i = 0; i < n; i++)
        net_picture(net, first + i, in + i * net->picture);
    return in;
}

/* Pictures for kd_quantise. */
static inline int zoo_give(void *arg, size_t i, float *input, kd_diag *diag)
{
    (void)diag;
    net_picture(arg, (uint32_t)i, input);
    return 0;
}

/* Statistics of batch norms as they are on such pictures. */
static inline void net_measure(zoo_net *n)
{
    enum { PICTURES = 8 };
    kd_diag diag = {0};
    kd_plan *p;
    float *in = net_pictures(n, 1000, PICTURES), *z = net_floats(2 * PICTURES * NET_CLASSES);
    float *gradient = net_floats(n->g->vector_len);
    memset(z, 0, 2 * PICTURES * NET_CLASSES * sizeof *z);
    kd_assert_ok(kd_plan_new(n->g, PICTURES, KD_PLAN_TRAIN, &p, &diag), &diag);
    kd_assert_ok(kd_plan_load(p, n->vector, &diag), &diag);
    kd_assert_ok(kd_plan_forward(p, in, z, &diag), &diag);
    kd_assert_ok(kd_plan_backward(p, z + PICTURES * NET_CLASSES, 1, gradient, &diag), &diag);
    for (int i = 0; i < n->g->n_params; i++) {
        const kd_param *w = &n->g->params[i];
        if (w->kind == KD_PARAM_STATISTIC)
            memcpy(n->vector + w->offset, gradient + w->offset, w->count * sizeof(float));
    }
    kd_plan_free(p);
    free(in);
    free(z);
    free(gradient);
}

static inline zoo_net net_of(kd_graph *g, uint64_t seed)
{
    const kd_node *in = &g->nodes[0];
    zoo_net n = {.g = g, .vector = net_floats(g->vector_len)};
    n.picture = (size_t)in->h * (size_t)in->w * (size_t)in->c;
    kd_graph_init(g, seed, n.vector);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_TEST, (uint64_t)i, 0);
        for (size_t k = 0; k < p->count && p->kind == KD_PARAM_TRAINED; k++)
            if (p->head)
                n.vector[p->offset + k] *= 10;
            else if (p->ndim == 1)
                n.vector[p->offset + k] += 0.3F * kd_rng_float(&r);
    }
    net_measure(&n);
    return n;
}

static inline zoo_net net_zoo(const char *model, int size)
{
    const int hidden[] = {24};
    const kd_model_config cfg = {.model = model,
                                 .width = 0.35,
                                 .hidden = hidden,
                                 .n_hidden = 1,
                                 .size = size,
                                 .channels = 3,
                                 .classes = NET_CLASSES};
    kd_diag diag = {0};
    kd_graph *g;
    kd_assert_ok(kd_model_build(&cfg, &g, &diag), &diag);
    return net_of(g, 3);
}

static inline void net_free(zoo_net *n)
{
    kd_graph_free(n->g);
    free(n->vector);
}

/* Logits of pictures 0.. of n, by the plan that suits the graph. */
static inline float *net_logits(const zoo_net *n, const kd_graph *g, const float *vector,
                                int pictures)
{
    kd_diag diag = {0};
    kd_plan *p;
    float *in = net_floats(n->picture), *z = net_floats((size_t)pictures * NET_CLASSES);
    kd_assert_ok(kd_plan_new_infer(g, 1, vector, &p, &diag), &diag);
    for (int i = 0; i < pictures; i++) {
        net_picture(n, (uint32_t)i, in);
        kd_assert_ok(kd_plan_forward(p, in, z + i * NET_CLASSES, &diag), &diag);
    }
    kd_plan_free(p);
    free(in);
    return z;
}

static inline double net_largest(const float *z, int pictures)
{
    double largest = 0;
    for (int i = 0; i < pictures * NET_CLASSES; i++)
        largest = fmax(largest, fabs((double)z[i]));
    return largest;
}

#endif
