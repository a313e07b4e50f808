#include "engine/graph_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_CHANNELS 65536
#define MAX_FLAT (1 << 26)

static int number(const kd_graph *g, const kd_node *n)
{
    return g->error[0] ? -1 : (int)(n - g->nodes);
}

/* A node without parameters behind `in`, named after it, of the same shape; NULL after an error. */
static kd_node *follow(kd_graph *g, enum kd_op op, int in, const char *what)
{
    char name[96] = "";
    if (in >= 0 && in < g->n_nodes)
        snprintf(name, sizeof name, "%.80s.%s", g->nodes[in].name, what);
    return kd_graph_node(g, op, in, name);
}

/* Refuses a shape that memory cannot be asked for. */
static int checked(kd_graph *g, const kd_node *n)
{
    if ((int64_t)n->h * n->w > MAX_FLAT || (int64_t)n->h * n->w * n->c > INT32_MAX)
        return kd_graph_fail(g, "%s: %dx%dx%d values are too many", n->name, n->h, n->w, n->c);
    return number(g, n);
}

/* ---- convolution, batch norm, dense */

static int or_one(int x)
{
    return x == 0 ? 1 : x;
}

/* Paddings that a convolution cannot have itself go into a node before it. */
static int pad_apart(kd_graph *g, int in, kd_node *n)
{
    const int high = (n->kernel_h - 1) * n->dilation_h, wide = (n->kernel_w - 1) * n->dilation_w;
    if (n->pad[0] <= high && n->pad[2] <= high && n->pad[1] <= wide && n->pad[3] <= wide)
        return in;
    const int before[3] = {0, n->pad[0], n->pad[1]}, after[3] = {0, n->pad[2], n->pad[3]};
    memset(n->pad, 0, sizeof n->pad);
    return kd_graph_pad(g, in, before, after, 0);
}

int kd_graph_conv2(kd_graph *g, int in, const char *name, const kd_conv_spec *spec)
{
    if (g->error[0] || in < 0)
        return -1;
    kd_node want = {.kernel_h = or_one(spec->kernel_h),
                    .kernel_w = or_one(spec->kernel_w),
                    .stride_h = or_one(spec->stride_h),
                    .stride_w = or_one(spec->stride_w),
                    .dilation_h = or_one(spec->dilation_h),
                    .dilation_w = or_one(spec->dilation_w),
                    .groups = or_one(spec->groups)};
    memcpy(want.pad, spec->pad, sizeof want.pad);
    for (int i = 0; i < 4; i++)
        if (want.pad[i] < 0 || want.pad[i] > KD_GRAPH_SIDE)
            return kd_graph_fail(g, "%s: padding %d is not in 0..%d", name, want.pad[i],
                                 KD_GRAPH_SIDE);
    if (!kd_graph_in_range(want.kernel_h) || !kd_graph_in_range(want.kernel_w) ||
        !kd_graph_in_range(want.stride_h) || !kd_graph_in_range(want.stride_w) ||
        !kd_graph_in_range(want.dilation_h) || !kd_graph_in_range(want.dilation_w))
        return kd_graph_fail(g, "%s: kernel %dx%d, stride %dx%d, dilation %dx%d: each is 1..%d",
                             name, want.kernel_h, want.kernel_w, want.stride_h, want.stride_w,
                             want.dilation_h, want.dilation_w, KD_GRAPH_SIDE);
    in = pad_apart(g, in, &want);
    kd_node *n = kd_graph_node(g, KD_OP_CONV, in, name);
    if (!n)
        return -1;
    const int ci = n->c, out = spec->out_channels;
    const int h = n->h + want.pad[0] + want.pad[2] - (want.kernel_h - 1) * want.dilation_h - 1;
    const int w = n->w + want.pad[1] + want.pad[3] - (want.kernel_w - 1) * want.dilation_w - 1;
    if (out < 1 || out > MAX_CHANNELS || want.groups < 1 || ci % want.groups != 0 ||
        out % want.groups != 0)
        return kd_graph_fail(g, "%s: %d channels in %d groups cannot become %d", name, ci,
                             want.groups, out);
    if (h < 0 || w < 0)
        return kd_graph_fail(g, "%s: a %dx%d kernel does not fit into %dx%d; use a larger image",
                             name, want.kernel_h, want.kernel_w, n->h, n->w);
    n->kernel_h = want.kernel_h;
    n->kernel_w = want.kernel_w;
    n->stride_h = want.stride_h;
    n->stride_w = want.stride_w;
    n->dilation_h = want.dilation_h;
    n->dilation_w = want.dilation_w;
    n->groups = want.groups;
    memcpy(n->pad, want.pad, sizeof n->pad);
    n->h = h / n->stride_h + 1;
    n->w = w / n->stride_w + 1;
    n->c = out;
    n->weight =
        kd_graph_new_param(g, name, "weight", KD_PARAM_TRAINED, spec->init, 4,
                           (int64_t[]){out, ci / n->groups, n->kernel_h, n->kernel_w}, spec->head);
    if (spec->bias)
        n->bias = kd_graph_new_param(g, name, "bias", KD_PARAM_TRAINED, KD_INIT_ZERO, 1,
                                     (int64_t[]){out}, spec->head);
    return number(g, n);
}

int kd_graph_conv(kd_graph *g, int in, const char *name, int out_channels, int kernel, int stride,
                  const int pad[4], int groups, bool bias, enum kd_param_init init)
{
    kd_conv_spec spec = {.out_channels = out_channels,
                         .kernel_h = kernel,
                         .kernel_w = kernel,
                         .stride_h = stride,
                         .stride_w = stride,
                         .groups = groups,
                         .bias = bias,
                         .init = init};
    if (kernel < 1 || stride < 1 || groups < 1)
        return kd_graph_fail(g, "%s: kernel %d, stride %d, groups %d: each is 1 or more", name,
                             kernel, stride, groups);
    memcpy(spec.pad, pad, sizeof spec.pad);
    return kd_graph_conv2(g, in, name, &spec);
}

int kd_graph_batch_norm(kd_graph *g, int in, const char *name, float eps)
{
    kd_node *n = kd_graph_node(g, KD_OP_BATCH_NORM, in, name);
    if (!n)
        return -1;
    int64_t c[] = {n->c};
    n->eps = eps;
    n->weight = kd_graph_new_param(g, name, "weight", KD_PARAM_TRAINED, KD_INIT_ONE, 1, c, false);
    n->bias = kd_graph_new_param(g, name, "bias", KD_PARAM_TRAINED, KD_INIT_ZERO, 1, c, false);
    n->mean =
        kd_graph_new_param(g, name, "running_mean", KD_PARAM_STATISTIC, KD_INIT_ZERO, 1, c, false);
    n->var =
        kd_graph_new_param(g, name, "running_var", KD_PARAM_STATISTIC, KD_INIT_ONE, 1, c, false);
    return number(g, n);
}

int kd_graph_dense(kd_graph *g, int in, const char *name, int units, bool head,
                   enum kd_param_init init)
{
    kd_node *n = kd_graph_node(g, KD_OP_DENSE, in, name);
    if (!n)
        return -1;
    if (n->h != 1 || n->w != 1 || units < 1 || units > MAX_CHANNELS)
        return kd_graph_fail(g, "%s: a dense layer wants a vector, not %dx%dx%d", name, n->h, n->w,
                             n->c);
    n->weight = kd_graph_new_param(g, name, "weight", KD_PARAM_TRAINED, init, 2,
                                   (int64_t[]){units, n->c}, head);
    n->bias = kd_graph_new_param(g, name, "bias", KD_PARAM_TRAINED, KD_INIT_ZERO, 1,
                                 (int64_t[]){units}, head);
    n->c = units;
    return number(g, n);
}

int kd_graph_const(kd_graph *g, const char *name, int h, int w, int c, enum kd_param_init init)
{
    kd_node *n = kd_graph_node(g, KD_OP_CONST, -1, name);
    if (!n)
        return -1;
    if (h < 1 || w < 1 || c < 1 || h > MAX_FLAT || w > MAX_FLAT || c > MAX_FLAT)
        return kd_graph_fail(g, "%s: a constant of %dx%dx%d is not possible", name, h, w, c);
    n->h = h;
    n->w = w;
    n->c = c;
    n->weight =
        kd_graph_new_param(g, name, "value", KD_PARAM_FIXED, init, 3, (int64_t[]){c, h, w}, false);
    return checked(g, n);
}

/* ---- activations */

static int activation(kd_graph *g, enum kd_op op, int in, const char *what, float alpha, float beta)
{
    kd_node *n = follow(g, op, in, what);
    if (!n)
        return -1;
    n->alpha = alpha;
    n->beta = beta;
    const bool fits = op == KD_OP_CLIP ? alpha <= beta : isfinite(alpha) && isfinite(beta);
    return fits ? number(g, n)
                : kd_graph_fail(g, "%s: %g and %g are no parameters of it", n->name, (double)alpha,
                                (double)beta);
}

int kd_graph_relu(kd_graph *g, int in)
{
    return activation(g, KD_OP_RELU, in, "relu", 0, 0);
}

int kd_graph_relu6(kd_graph *g, int in)
{
    return activation(g, KD_OP_RELU6, in, "relu6", 0, 0);
}

int kd_graph_sigmoid(kd_graph *g, int in)
{
    return activation(g, KD_OP_SIGMOID, in, "sigmoid", 0, 0);
}

int kd_graph_silu(kd_graph *g, int in)
{
    return activation(g, KD_OP_SILU, in, "silu", 0, 0);
}

int kd_graph_tanh(kd_graph *g, int in)
{
    return activation(g, KD_OP_TANH, in, "tanh", 0, 0);
}

int kd_graph_leaky_relu(kd_graph *g, int in, float alpha)
{
    return activation(g, KD_OP_LEAKY_RELU, in, "leaky_relu", alpha, 0);
}

int kd_graph_clip(kd_graph *g, int in, float low, float high)
{
    return activation(g, KD_OP_CLIP, in, "clip", low, high);
}

int kd_graph_hard_sigmoid(kd_graph *g, int in, float alpha, float beta)
{
    return activation(g, KD_OP_HARD_SIGMOID, in, "hard_sigmoid", alpha, beta);
}

int kd_graph_hard_swish(kd_graph *g, int in)
{
    return activation(g, KD_OP_HARD_SWISH, in, "hard_swish", 0, 0);
}

int kd_graph_softmax(kd_graph *g, int in)
{
    return activation(g, KD_OP_SOFTMAX, in, "softmax", 0, 0);
}

/* ---- noise */

static int noise(kd_graph *g, enum kd_op op, int in, const char *what, float rate)
{
    kd_node *n = follow(g, op, in, what);
    if (!n)
        return -1;
    n->alpha = rate;
    return rate >= 0 && rate < 1
               ? number(g, n)
               : kd_graph_fail(g, "%s: a rate of %g is not in [0, 1)", n->name, (double)rate);
}

int kd_graph_dropout(kd_graph *g, int in, float rate)
{
    return noise(g, KD_OP_DROPOUT, in, "dropout", rate);
}

int kd_graph_drop_path(kd_graph *g, int in, float rate)
{
    return noise(g, KD_OP_DROP_PATH, in, "drop_path", rate);
}

int kd_graph_fake_quant(kd_graph *g, int in, float unit, bool positive)
{
    kd_node *n = follow(g, KD_OP_FAKE_QUANT, in, "rounding");
    if (!n)
        return -1;
    n->alpha = unit;
    n->beta = positive ? 1 : 0;
    return unit > 0 && isfinite(unit)
               ? number(g, n)
               : kd_graph_fail(g, "%s: a unit of %g is not above 0", n->name, (double)unit);
}

/* ---- pools */

int kd_graph_pool(kd_graph *g, int in, const kd_pool_spec *spec)
{
    kd_node *n = follow(g, spec->average ? KD_OP_AVG_POOL : KD_OP_MAX_POOL, in,
                        spec->average ? "average" : "max_pool");
    if (!n)
        return -1;
    n->kernel_h = or_one(spec->kernel_h);
    n->kernel_w = or_one(spec->kernel_w);
    n->stride_h = or_one(spec->stride_h);
    n->stride_w = or_one(spec->stride_w);
    n->count_pad = spec->count_pad;
    memcpy(n->pad, spec->pad, sizeof n->pad);
    if (!kd_graph_in_range(n->kernel_h) || !kd_graph_in_range(n->kernel_w) ||
        !kd_graph_in_range(n->stride_h) || !kd_graph_in_range(n->stride_w))
        return kd_graph_fail(g, "%s: kernel %dx%d, stride %dx%d: each is 1..%d", n->name,
                             n->kernel_h, n->kernel_w, n->stride_h, n->stride_w, KD_GRAPH_SIDE);
    for (int i = 0; i < 4; i++)
        if (n->pad[i] < 0 || n->pad[i] >= (i % 2 ? n->kernel_w : n->kernel_h))
            return kd_graph_fail(g, "%s: padding %d does not go with a kernel of %dx%d", n->name,
                                 n->pad[i], n->kernel_h, n->kernel_w);
    const int h = n->h + n->pad[0] + n->pad[2] - n->kernel_h;
    const int w = n->w + n->pad[1] + n->pad[3] - n->kernel_w;
    if (h < 0 || w < 0)
        return kd_graph_fail(g, "a %dx%d %s does not fit into %dx%d; use a larger image",
                             n->kernel_h, n->kernel_w, spec->average ? "average-pool" : "max-pool",
                             n->h, n->w);
    n->h = h / n->stride_h + 1;
    n->w = w / n->stride_w + 1;
    return number(g, n);
}

int kd_graph_max_pool(kd_graph *g, int in, int kernel)
{
    if (kernel < 1)
        return kd_graph_fail(g, "a %dx%d max-pool is not possible", kernel, kernel);
    const kd_pool_spec spec = {
        .kernel_h = kernel, .kernel_w = kernel, .stride_h = kernel, .stride_w = kernel};
    return kd_graph_pool(g, in, &spec);
}

int kd_graph_global_avg_pool(kd_graph *g, int in)
{
    kd_node *n = follow(g, KD_OP_GLOBAL_AVG_POOL, in, "avg_pool");
    if (!n)
        return -1;
    n->h = n->w = 1;
    return number(g, n);
}

/* ---- arithmetic */

/* A node of two inputs with the shape of the first; NULL after an error. */
static kd_node *join(kd_graph *g, enum kd_op op, int a, int b, const char *what)
{
    if (g->error[0] || b < 0)
        return NULL;
    if (b >= g->n_nodes) {
        kd_graph_fail(g, "%s of node %d, which does not exist", what, b);
        return NULL;
    }
    kd_node *n = follow(g, op, a, what);
    if (n)
        n->in[1] = b;
    return n;
}

static int arithmetic(kd_graph *g, enum kd_op op, int a, int b, const char *what, const char *done)
{
    kd_node *n = join(g, op, a, b, what);
    if (!n)
        return -1;
    const kd_node *p = &g->nodes[a], *q = &g->nodes[b];
    n->h = kd_broadcast(p->h, q->h);
    n->w = kd_broadcast(p->w, q->w);
    n->c = kd_broadcast(p->c, q->c);
    if (!n->h || !n->w || !n->c)
        return kd_graph_fail(g, "%s: %dx%dx%d and %dx%dx%d cannot be %s", n->name, p->h, p->w, p->c,
                             q->h, q->w, q->c, done);
    return checked(g, n);
}

int kd_graph_add(kd_graph *g, int a, int b)
{
    return arithmetic(g, KD_OP_ADD, a, b, "add", "added");
}

int kd_graph_sub(kd_graph *g, int a, int b)
{
    return arithmetic(g, KD_OP_SUB, a, b, "sub", "subtracted");
}

int kd_graph_mul(kd_graph *g, int a, int b)
{
    return arithmetic(g, KD_OP_MUL, a, b, "mul", "multiplied");
}

int kd_graph_div(kd_graph *g, int a, int b)
{
    return arithmetic(g, KD_OP_DIV, a, b, "div", "divided");
}

/* ---- shapes */

static int *side_of(kd_node *n, int axis)
{
    return axis == KD_AXIS_C ? &n->c : axis == KD_AXIS_H ? &n->h : &n->w;
}

int kd_graph_flatten(kd_graph *g, int in)
{
    kd_node *n = follow(g, KD_OP_FLATTEN, in, "flatten");
    if (!n)
        return -1;
    int64_t flat = (int64_t)n->h * n->w * n->c;
    if (flat > MAX_FLAT)
        return kd_graph_fail(g, "%s: flattening gives %lld values, the limit is %d", n->name,
                             (long long)flat, MAX_FLAT);
    n->c = (int)flat;
    n->h = n->w = 1;
    return number(g, n);
}

int kd_graph_reshape(kd_graph *g, int in, int h, int w, int c)
{
    kd_node *n = follow(g, KD_OP_RESHAPE, in, "reshape");
    if (!n)
        return -1;
    const int64_t flat = (int64_t)n->h * n->w * n->c;
    if (h < 1 || w < 1 || c < 1 || h > flat || w > flat || c > flat || (int64_t)h * w > flat ||
        (int64_t)h * w * c != flat)
        return kd_graph_fail(g, "%s: %dx%dx%d cannot become %dx%dx%d", n->name, n->h, n->w, n->c, h,
                             w, c);
    n->h = h;
    n->w = w;
    n->c = c;
    return checked(g, n);
}

int kd_graph_permute(kd_graph *g, int in, const enum kd_axis of[3])
{
    kd_node *n = follow(g, KD_OP_PERMUTE, in, "permute");
    if (!n)
        return -1;
    unsigned seen = 0;
    const int side[3] = {n->c, n->h, n->w};
    for (int i = 0; i < 3; i++) {
        if ((unsigned)of[i] > KD_AXIS_W)
            return kd_graph_fail(g, "%s: there is no axis %d", n->name, (int)of[i]);
        seen |= 1U << of[i];
        n->of[i] = of[i];
        *side_of(n, i) = side[of[i]];
    }
    return seen == 7 ? checked(g, n) : kd_graph_fail(g, "%s: an axis is named twice", n->name);
}

int kd_graph_pad(kd_graph *g, int in, const int before[3], const int after[3], float value)
{
    kd_node *n = follow(g, KD_OP_PAD, in, "pad");
    if (!n)
        return -1;
    n->alpha = value;
    for (int i = 0; i < 3; i++) {
        int *side = side_of(n, i);
        if (before[i] < 0 || after[i] < 0 || before[i] > MAX_FLAT || after[i] > MAX_FLAT ||
            *side > MAX_FLAT || !isfinite(value))
            return kd_graph_fail(g, "%s: %d places before and %d after of %g are not possible",
                                 n->name, before[i], after[i], (double)value);
        n->start[i] = before[i];
        *side += before[i] + after[i];
    }
    return checked(g, n);
}

int kd_graph_concat(kd_graph *g, int a, int b, enum kd_axis axis)
{
    kd_node *n = join(g, KD_OP_CONCAT, a, b, "concat");
    if (!n)
        return -1;
    if ((unsigned)axis > KD_AXIS_W)
        return kd_graph_fail(g, "%s: there is no axis %d", n->name, (int)axis);
    n->axis = axis;
    kd_node *q = &g->nodes[b];
    for (int i = 0; i < 3; i++)
        if (i != (int)axis && *side_of(n, i) != *side_of(q, i))
            return kd_graph_fail(g, "%s: %dx%dx%d and %dx%dx%d do not fit beside each other",
                                 n->name, n->h, n->w, n->c, q->h, q->w, q->c);
    if (__builtin_add_overflow(*side_of(n, (int)axis), *side_of(q, (int)axis),
                               side_of(n, (int)axis)))
        return kd_graph_fail(g, "%s is too large", n->name);
    return checked(g, n);
}

int kd_graph_slice(kd_graph *g, int in, const int start[3], const int stop[3], const int step[3])
{
    kd_node *n = follow(g, KD_OP_SLICE, in, "slice");
    if (!n)
        return -1;
    for (int i = 0; i < 3; i++) {
        int *side = side_of(n, i);
        const bool up = step[i] > 0;
        if (step[i] == 0 || step[i] == INT32_MIN || start[i] < 0 || start[i] >= *side ||
            stop[i] < -1 || stop[i] > *side || (up ? stop[i] <= start[i] : stop[i] >= start[i]))
            return kd_graph_fail(g, "%s: %d to %d by %d is no slice of %d", n->name, start[i],
                                 stop[i], step[i], *side);
        const int length = up ? stop[i] - start[i] : start[i] - stop[i];
        n->start[i] = start[i];
        n->step[i] = step[i];
        *side = (length - 1) / (up ? step[i] : -step[i]) + 1;
    }
    return checked(g, n);
}
