/* What the engine is measured against: the same graph run by plain loops in double, one node after
 * the other, nothing fused. Values are NHWC. Slow, and meant to be read beside the formulas. */
#ifndef KD_TESTS_REFERENCE_H
#define KD_TESTS_REFERENCE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/op.h"
#include "kd/rng.h"
#include "kd_test.h"

typedef struct ref_run {
    double **out; /* [node] values [n,h,w,c] */
    double
        *stats; /* [vector_len]: the batch's mean and unbiased variance at the statistics' places */
    int n, n_nodes;
    bool noisy; /* training with the noise named by ref_noise_*: DROPOUT and DROP_PATH drop */
} ref_run;

enum { REF_NOISE_SEED = 21, REF_NOISE_STEP = 5 };
static const uint32_t ref_noise_keys[4] = {17, 4000000000U, 0, 3};

static inline size_t ref_count(const kd_node *node)
{
    return (size_t)node->h * (size_t)node->w * (size_t)node->c;
}

static inline void ref_conv(const kd_graph *g, const kd_node *node, int n, const double *w,
                            const double *x, double *y)
{
    const kd_node *in = &g->nodes[node->in[0]];
    const int kh = node->kernel_h, kw = node->kernel_w;
    const int ci = in->c / node->groups, co = node->c / node->groups;
    const double *weight = w + g->params[node->weight].offset;
    for (int b = 0; b < n; b++)
        for (int oy = 0; oy < node->h; oy++)
            for (int ox = 0; ox < node->w; ox++)
                for (int o = 0; o < node->c; o++) {
                    double sum = node->bias >= 0 ? w[g->params[node->bias].offset + (size_t)o] : 0;
                    for (int ky = 0; ky < kh; ky++)
                        for (int kx = 0; kx < kw; kx++) {
                            const int iy =
                                oy * node->stride_h + ky * node->dilation_h - node->pad[0];
                            const int ix =
                                ox * node->stride_w + kx * node->dilation_w - node->pad[1];
                            if (iy < 0 || iy >= in->h || ix < 0 || ix >= in->w)
                                continue;
                            for (int i = 0; i < ci; i++)
                                sum += weight[((o * ci + i) * kh + ky) * kw + kx] *
                                       x[((b * in->h + iy) * in->w + ix) * in->c + o / co * ci + i];
                        }
                    y[((b * node->h + oy) * node->w + ox) * node->c + o] = sum;
                }
}

static inline void ref_batch_norm(const kd_graph *g, const kd_node *node, int n, bool own,
                                  const double *w, const double *x, double *y, double *stats)
{
    const size_t rows = (size_t)n * (size_t)node->h * (size_t)node->w, c = (size_t)node->c;
    for (size_t j = 0; j < c; j++) {
        double mean = 0, var = 0;
        for (size_t i = 0; i < rows; i++)
            mean += x[i * c + j] / (double)rows;
        for (size_t i = 0; i < rows; i++)
            var += (x[i * c + j] - mean) * (x[i * c + j] - mean) / (double)rows;
        stats[g->params[node->mean].offset + j] = own ? mean : 0;
        stats[g->params[node->var].offset + j] = own ? var * (double)rows / ((double)rows - 1) : 0;
        if (!own) {
            mean = w[g->params[node->mean].offset + j];
            var = w[g->params[node->var].offset + j];
        }
        const double gamma = w[g->params[node->weight].offset + j];
        const double beta = w[g->params[node->bias].offset + j];
        for (size_t i = 0; i < rows; i++)
            y[i * c + j] = gamma * (x[i * c + j] - mean) / sqrt(var + (double)node->eps) + beta;
    }
}

static inline void ref_pool(const kd_node *in, const kd_node *node, int n, const double *x,
                            double *y)
{
    const bool max = node->op == KD_OP_MAX_POOL, global = node->op == KD_OP_GLOBAL_AVG_POOL;
    const int kh = global ? in->h : node->kernel_h, kw = global ? in->w : node->kernel_w;
    for (int b = 0; b < n; b++)
        for (int oy = 0; oy < node->h; oy++)
            for (int ox = 0; ox < node->w; ox++)
                for (int c = 0; c < node->c; c++) {
                    double most = -INFINITY, sum = 0;
                    int seen = 0;
                    for (int ky = 0; ky < kh; ky++)
                        for (int kx = 0; kx < kw; kx++) {
                            const int i = global ? ky : oy * node->stride_h + ky - node->pad[0];
                            const int j = global ? kx : ox * node->stride_w + kx - node->pad[1];
                            if (i < 0 || i >= in->h || j < 0 || j >= in->w)
                                continue;
                            const double v = x[((b * in->h + i) * in->w + j) * in->c + c];
                            most = fmax(most, v);
                            sum += v;
                            seen++;
                        }
                    const double mean = sum / (node->count_pad ? kh * kw : seen);
                    y[((b * node->h + oy) * node->w + ox) * node->c + c] = max ? most : mean;
                }
}

static inline double ref_activation(const kd_node *node, double x)
{
    const double a = (double)node->alpha, b = (double)node->beta;
    switch (node->op) {
    case KD_OP_RELU:
        return fmax(x, 0);
    case KD_OP_RELU6:
        return fmin(fmax(x, 0), 6);
    case KD_OP_SIGMOID:
        return 1 / (1 + exp(-x));
    case KD_OP_SILU:
        return x / (1 + exp(-x));
    case KD_OP_TANH:
        return tanh(x);
    case KD_OP_LEAKY_RELU:
        return x >= 0 ? x : a * x;
    case KD_OP_CLIP:
        return fmin(fmax(x, a), b);
    case KD_OP_HARD_SIGMOID:
        return fmin(fmax(a * x + b, 0), 1);
    default:
        return x * fmin(fmax(x + 3, 0), 6) / 6;
    }
}

/* Values of a node at (image, place), where a side of 1 stands for every place. */
static inline double ref_at(const kd_node *node, const double *x, int b, int i, int j, int c)
{
    i = node->h == 1 ? 0 : i;
    j = node->w == 1 ? 0 : j;
    c = node->c == 1 ? 0 : c;
    return x[((b * node->h + i) * node->w + j) * node->c + c];
}

static inline double ref_arithmetic(enum kd_op op, double a, double b)
{
    return op == KD_OP_ADD ? a + b : op == KD_OP_SUB ? a - b : op == KD_OP_MUL ? a * b : a / b;
}

/* Where element (image b, row i, column j, channel c) of a node comes from, for the operators that
 * only move values. */
static inline double ref_moved(const kd_graph *g, const kd_node *node, const ref_run *r, int b,
                               int i, int j, int c)
{
    const kd_node *in = &g->nodes[node->in[0]];
    const double *x = r->out[node->in[0]];
    int at[3] = {c, i, j}, from[3] = {c, i, j};
    const int side[3] = {in->c, in->h, in->w};
    switch (node->op) {
    case KD_OP_PAD:
        for (int k = 0; k < 3; k++) {
            from[k] = at[k] - node->start[k];
            if (from[k] < 0 || from[k] >= side[k])
                return (double)node->alpha;
        }
        break;
    case KD_OP_SLICE:
        for (int k = 0; k < 3; k++)
            from[k] = node->start[k] + at[k] * node->step[k];
        break;
    case KD_OP_PERMUTE:
        for (int k = 0; k < 3; k++)
            from[node->of[k]] = at[k];
        break;
    case KD_OP_CONCAT:
        if (at[node->axis] >= side[node->axis]) {
            from[node->axis] -= side[node->axis];
            in = &g->nodes[node->in[1]];
            x = r->out[node->in[1]];
        }
        break;
    default: { /* flatten, reshape */
        const int k = (c * node->h + i) * node->w + j;
        from[0] = k / (in->h * in->w);
        from[1] = k / in->w % in->h;
        from[2] = k % in->w;
        break;
    }
    }
    return x[((b * in->h + from[1]) * in->w + from[2]) * in->c + from[0]];
}

static inline void ref_each(const kd_graph *g, int at, const double *w, const ref_run *r)
{
    const kd_node *node = &g->nodes[at];
    for (int b = 0; b < r->n; b++)
        for (int i = 0; i < node->h; i++)
            for (int j = 0; j < node->w; j++)
                for (int c = 0; c < node->c; c++) {
                    double *y = &r->out[at][((b * node->h + i) * node->w + j) * node->c + c];
                    if (node->op == KD_OP_CONST)
                        *y = w[g->params[node->weight].offset +
                               (size_t)((c * node->h + i) * node->w + j)];
                    else if (node->op == KD_OP_ADD || node->op == KD_OP_SUB ||
                             node->op == KD_OP_MUL || node->op == KD_OP_DIV)
                        *y = ref_arithmetic(
                            node->op,
                            ref_at(&g->nodes[node->in[0]], r->out[node->in[0]], b, i, j, c),
                            ref_at(&g->nodes[node->in[1]], r->out[node->in[1]], b, i, j, c));
                    else
                        *y = ref_moved(g, node, r, b, i, j, c);
                }
}

static inline void ref_softmax(const kd_node *node, int n, const double *x, double *y)
{
    for (int k = 0; k < n * node->h * node->w; k++, x += node->c, y += node->c) {
        double most = x[0], sum = 0;
        for (int c = 1; c < node->c; c++)
            most = fmax(most, x[c]);
        for (int c = 0; c < node->c; c++)
            sum += y[c] = exp(x[c] - most);
        for (int c = 0; c < node->c; c++)
            y[c] /= sum;
    }
}

static inline void ref_noise(const kd_graph *g, int at, const ref_run *r, const double *x,
                             double *y)
{
    const kd_node *node = &g->nodes[at];
    const double rate = (double)node->alpha;
    for (int b = 0; b < r->n; b++) {
        kd_rng rng;
        kd_rng_init(&rng, REF_NOISE_SEED, KD_RNG_DROPOUT, REF_NOISE_STEP,
                    (uint64_t)at << 32 | ref_noise_keys[b]);
        double factor = 1;
        for (int c = 0; c < node->c; c++)
            for (int i = 0; i < node->h; i++)
                for (int j = 0; j < node->w; j++) {
                    if (r->noisy && (node->op == KD_OP_DROPOUT || c + i + j == 0))
                        factor = kd_rng_float(&rng) >= node->alpha ? 1 / (1 - rate) : 0;
                    const int k = ((b * node->h + i) * node->w + j) * node->c + c;
                    y[k] = factor * x[k];
                }
    }
}

static inline void ref_node(const kd_graph *g, int at, int n, bool own, const double *w, ref_run *r)
{
    const kd_node *node = &g->nodes[at], *in = &g->nodes[KD_MAX(node->in[0], 0)];
    const double *x = r->out[KD_MAX(node->in[0], 0)];
    double *y = r->out[at];
    const size_t all = (size_t)n * ref_count(node);
    switch (node->op) {
    case KD_OP_INPUT:
        break;
    case KD_OP_CONV:
        ref_conv(g, node, n, w, x, y);
        break;
    case KD_OP_BATCH_NORM:
        ref_batch_norm(g, node, n, own, w, x, y, r->stats);
        break;
    case KD_OP_MAX_POOL:
    case KD_OP_AVG_POOL:
    case KD_OP_GLOBAL_AVG_POOL:
        ref_pool(in, node, n, x, y);
        break;
    case KD_OP_DENSE:
        for (int b = 0; b < n; b++)
            for (int o = 0; o < node->c; o++) {
                double sum = w[g->params[node->bias].offset + (size_t)o];
                for (int i = 0; i < in->c; i++)
                    sum += w[g->params[node->weight].offset + (size_t)(o * in->c + i)] *
                           x[b * in->c + i];
                y[b * node->c + o] = sum;
            }
        break;
    case KD_OP_SOFTMAX:
        ref_softmax(node, n, x, y);
        break;
    case KD_OP_DROPOUT:
    case KD_OP_DROP_PATH:
        ref_noise(g, at, r, x, y);
        break;
    default:
        for (size_t i = 0; kd_act_is(node->op) && i < all; i++)
            y[i] = ref_activation(node, x[i]);
        if (!kd_act_is(node->op))
            ref_each(g, at, w, r);
    }
}

static inline ref_run ref_new(const kd_graph *g, int n)
{
    ref_run r = {.out = kd_xalloc((size_t)g->n_nodes * sizeof(double *)),
                 .stats = kd_xalloc((g->vector_len + 1) * sizeof(double)),
                 .n = n,
                 .n_nodes = g->n_nodes};
    for (int i = 0; i < g->n_nodes; i++)
        r.out[i] = kd_xalloc((size_t)n * ref_count(&g->nodes[i]) * sizeof(double));
    return r;
}

static inline void ref_free(ref_run *r)
{
    for (int i = 0; i < r->n_nodes; i++)
        free(r->out[i]);
    free(r->out);
    free(r->stats);
}

/* own: batch norm on the batch's statistics. Returns the output's values. */
static inline const double *ref_forward(const kd_graph *g, bool own, const double *w,
                                        const float *input, ref_run *r)
{
    for (size_t i = 0; i < (size_t)r->n * ref_count(&g->nodes[0]); i++)
        r->out[0][i] = (double)input[i];
    for (int i = 1; i < g->n_nodes; i++)
        ref_node(g, i, r->n, own, w, r);
    return r->out[g->output];
}

#endif
