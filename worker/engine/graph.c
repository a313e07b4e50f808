#include "engine/graph.h"

#include "kd/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAX_NODES 2048
#define MAX_SIDE 4096
#define MAX_CHANNELS 65536
#define MAX_FLAT (1 << 26)

kd_graph *kd_graph_new(int h, int w, int c)
{
    kd_graph *g = kd_xalloc(sizeof *g);
    g->nodes = kd_xalloc(MAX_NODES * sizeof *g->nodes);
    g->params = kd_xalloc(4 * MAX_NODES * sizeof *g->params);
    g->output = -1;
    kd_node *n = &g->nodes[g->n_nodes++];
    *n = (kd_node){.op = KD_OP_INPUT, .in = {-1, -1}, .h = h, .w = w, .c = c};
    n->weight = n->bias = n->mean = n->var = -1;
    snprintf(n->name, sizeof n->name, "input");
    if (h < 1 || w < 1 || c < 1 || h > MAX_SIDE || w > MAX_SIDE || c > 64)
        snprintf(g->error, sizeof g->error, "an input of %dx%dx%d is not possible", h, w, c);
    return g;
}

void kd_graph_free(kd_graph *g)
{
    if (!g)
        return;
    free(g->nodes);
    free(g->params);
    free(g);
}

KD_PRINTF(2, 3) static int fail(kd_graph *g, const char *fmt, ...)
{
    if (!g->error[0]) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(g->error, sizeof g->error, fmt, ap);
        va_end(ap);
    }
    return -1;
}

/* A new node behind `in` with its shape, or NULL after an error. */
static kd_node *add_node(kd_graph *g, enum kd_op op, int in, const char *name)
{
    if (g->error[0] || in < 0)
        return NULL;
    if (in >= g->n_nodes || g->n_nodes == MAX_NODES) {
        fail(g, "%s: no such input, or more than %d nodes", name, MAX_NODES);
        return NULL;
    }
    kd_node *n = &g->nodes[g->n_nodes++];
    const kd_node *p = &g->nodes[in];
    *n = (kd_node){.op = op, .in = {in, -1}, .h = p->h, .w = p->w, .c = p->c, .groups = 1};
    n->weight = n->bias = n->mean = n->var = -1;
    snprintf(n->name, sizeof n->name, "%s", name);
    return n;
}

static int add_param(kd_graph *g, const char *node, const char *suffix, enum kd_param_kind kind,
                     enum kd_param_init init, int ndim, const int64_t *shape, bool head)
{
    kd_param *p = &g->params[g->n_params];
    *p =
        (kd_param){.kind = kind, .init = init, .ndim = ndim, .offset = g->vector_len, .head = head};
    if (snprintf(p->name, sizeof p->name, "%s.%s", node, suffix) >= (int)sizeof p->name)
        return fail(g, "the name %.90s... is longer than %zu letters", node, sizeof p->name - 1);
    size_t count = 1;
    for (int i = 0; i < ndim; i++) {
        p->shape[i] = shape[i];
        if (!kd_mul_size(count, (size_t)shape[i], &count) || count > (size_t)1 << 30)
            return fail(g, "%s: too many parameters", p->name);
    }
    p->count = count;
    int64_t area = ndim == 4 ? shape[2] * shape[3] : 1;
    p->fan_in = ndim >= 2 ? shape[1] * area : shape[0];
    p->fan_out = shape[0] * area;
    g->vector_len += count;
    if (kind == KD_PARAM_TRAINED)
        g->trained_len += count;
    return g->n_params++;
}

static int number(const kd_graph *g, const kd_node *n)
{
    return g->error[0] ? -1 : (int)(n - g->nodes);
}

int kd_graph_conv(kd_graph *g, int in, const char *name, int out_channels, int kernel, int stride,
                  const int pad[4], int groups, bool bias, enum kd_param_init init)
{
    kd_node *n = add_node(g, KD_OP_CONV, in, name);
    if (!n)
        return -1;
    for (int i = 0; i < 4; i++)
        if (pad[i] < 0 || pad[i] > MAX_SIDE)
            return fail(g, "%s: padding %d is not in 0..%d", name, pad[i], MAX_SIDE);
    int ci = n->c, h = n->h + pad[0] + pad[2], w = n->w + pad[1] + pad[3];
    if (out_channels < 1 || out_channels > MAX_CHANNELS || kernel < 1 || stride < 1 || groups < 1 ||
        ci % groups != 0 || out_channels % groups != 0)
        return fail(g, "%s: %d channels in %d groups cannot become %d", name, ci, groups,
                    out_channels);
    if (h < kernel || w < kernel)
        return fail(g, "%s: a %dx%d kernel does not fit into %dx%d; use a larger image", name,
                    kernel, kernel, n->h, n->w);
    n->kernel = kernel;
    n->stride = stride;
    n->groups = groups;
    memcpy(n->pad, pad, sizeof n->pad);
    n->h = (h - kernel) / stride + 1;
    n->w = (w - kernel) / stride + 1;
    n->c = out_channels;
    n->weight = add_param(g, name, "weight", KD_PARAM_TRAINED, init, 4,
                          (int64_t[]){out_channels, ci / groups, kernel, kernel}, false);
    if (bias)
        n->bias = add_param(g, name, "bias", KD_PARAM_TRAINED, KD_INIT_ZERO, 1,
                            (int64_t[]){out_channels}, false);
    return number(g, n);
}

int kd_graph_batch_norm(kd_graph *g, int in, const char *name, float eps)
{
    kd_node *n = add_node(g, KD_OP_BATCH_NORM, in, name);
    if (!n)
        return -1;
    int64_t c[] = {n->c};
    n->eps = eps;
    n->weight = add_param(g, name, "weight", KD_PARAM_TRAINED, KD_INIT_ONE, 1, c, false);
    n->bias = add_param(g, name, "bias", KD_PARAM_TRAINED, KD_INIT_ZERO, 1, c, false);
    n->mean = add_param(g, name, "running_mean", KD_PARAM_STATISTIC, KD_INIT_ZERO, 1, c, false);
    n->var = add_param(g, name, "running_var", KD_PARAM_STATISTIC, KD_INIT_ONE, 1, c, false);
    return number(g, n);
}

static int same_shape(kd_graph *g, enum kd_op op, int in, const char *what)
{
    char name[96] = "";
    if (in >= 0 && in < g->n_nodes)
        snprintf(name, sizeof name, "%.80s.%s", g->nodes[in].name, what);
    kd_node *n = add_node(g, op, in, name);
    return n ? number(g, n) : -1;
}

int kd_graph_relu(kd_graph *g, int in)
{
    return same_shape(g, KD_OP_RELU, in, "relu");
}

int kd_graph_relu6(kd_graph *g, int in)
{
    return same_shape(g, KD_OP_RELU6, in, "relu6");
}

int kd_graph_max_pool(kd_graph *g, int in, int kernel)
{
    int at = same_shape(g, KD_OP_MAX_POOL, in, "max_pool");
    if (at < 0)
        return -1;
    kd_node *n = &g->nodes[at];
    if (kernel < 1 || n->h < kernel || n->w < kernel)
        return fail(g, "a %dx%d max-pool does not fit into %dx%d; use a larger image", kernel,
                    kernel, n->h, n->w);
    n->kernel = n->stride = kernel;
    n->h /= kernel;
    n->w /= kernel;
    return at;
}

int kd_graph_global_avg_pool(kd_graph *g, int in)
{
    int at = same_shape(g, KD_OP_GLOBAL_AVG_POOL, in, "avg_pool");
    if (at >= 0)
        g->nodes[at].h = g->nodes[at].w = 1;
    return at;
}

int kd_graph_flatten(kd_graph *g, int in)
{
    int at = same_shape(g, KD_OP_FLATTEN, in, "flatten");
    if (at < 0)
        return -1;
    kd_node *n = &g->nodes[at];
    int64_t flat = (int64_t)n->h * n->w * n->c;
    if (flat > MAX_FLAT)
        return fail(g, "%s: flattening gives %lld values, the limit is %d", n->name,
                    (long long)flat, MAX_FLAT);
    n->c = (int)flat;
    n->h = n->w = 1;
    return at;
}

int kd_graph_dense(kd_graph *g, int in, const char *name, int units, bool head,
                   enum kd_param_init init)
{
    kd_node *n = add_node(g, KD_OP_DENSE, in, name);
    if (!n)
        return -1;
    if (n->h != 1 || n->w != 1 || units < 1 || units > MAX_CHANNELS)
        return fail(g, "%s: a dense layer wants a vector, not %dx%dx%d", name, n->h, n->w, n->c);
    n->weight =
        add_param(g, name, "weight", KD_PARAM_TRAINED, init, 2, (int64_t[]){units, n->c}, head);
    n->bias =
        add_param(g, name, "bias", KD_PARAM_TRAINED, KD_INIT_ZERO, 1, (int64_t[]){units}, head);
    n->c = units;
    return number(g, n);
}

int kd_graph_add(kd_graph *g, int a, int b)
{
    if (g->error[0] || b < 0)
        return -1;
    if (b >= g->n_nodes)
        return fail(g, "an addition of node %d, which does not exist", b);
    int at = same_shape(g, KD_OP_ADD, a, "add");
    if (at < 0)
        return -1;
    kd_node *n = &g->nodes[at];
    const kd_node *q = &g->nodes[b];
    if (n->h != q->h || n->w != q->w || n->c != q->c)
        return fail(g, "%s: %dx%dx%d and %dx%dx%d cannot be added", n->name, n->h, n->w, n->c, q->h,
                    q->w, q->c);
    n->in[1] = b;
    return at;
}

int kd_graph_finish(kd_graph *g, int output, kd_diag *diag)
{
    if (g->error[0])
        return kd_fail(diag, -KD_EINVAL, "%s", g->error);
    if (output < 1 || output >= g->n_nodes)
        return kd_fail(diag, -KD_EINVAL, "the network has no output");
    const kd_node *n = &g->nodes[output];
    if (n->h != 1 || n->w != 1 || n->c < 2)
        return kd_fail(diag, -KD_EINVAL,
                       "the output is %dx%dx%d, logits of 2 or more classes were "
                       "expected",
                       n->h, n->w, n->c);
    for (int i = 0; i < g->n_params; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(g->params[i].name, g->params[k].name) == 0)
                return kd_fail(diag, -KD_EINVAL, "two parameters are named %s", g->params[i].name);
    bool used[MAX_NODES] = {false};
    used[output] = true;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < 2; k++)
            if (g->nodes[i].in[k] >= 0)
                used[g->nodes[i].in[k]] = true;
    for (int i = 0; i < g->n_nodes; i++)
        if (!used[i])
            return kd_fail(diag, -KD_EINVAL, "node %d (%s) leads nowhere", i, g->nodes[i].name);
    g->output = output;
    return 0;
}

const kd_param *kd_graph_param(const kd_graph *g, const char *name)
{
    for (int i = 0; i < g->n_params; i++)
        if (strcmp(g->params[i].name, name) == 0)
            return &g->params[i];
    return NULL;
}

void kd_graph_init(const kd_graph *g, uint64_t seed, float *vector)
{
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        float *w = vector + p->offset;
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_INIT, XXH64(p->name, strlen(p->name), 0), 0);
        double fan_in = (double)p->fan_in, fan_out = (double)p->fan_out, bound = 0, sd = 0;
        switch (p->init) {
        case KD_INIT_ZERO:
        case KD_INIT_ONE:
            for (size_t k = 0; k < p->count; k++)
                w[k] = p->init == KD_INIT_ONE ? 1 : 0;
            continue;
        case KD_INIT_HE_NORMAL:
            sd = sqrt(2 / fan_in);
            break;
        case KD_INIT_HE_NORMAL_OUT:
            sd = sqrt(2 / fan_out);
            break;
        case KD_INIT_NORMAL_001:
            sd = 0.01;
            break;
        case KD_INIT_GLOROT_UNIFORM:
            bound = sqrt(6 / (fan_in + fan_out));
            break;
        case KD_INIT_TORCH_UNIFORM:
            bound = 1 / sqrt(fan_in);
            break;
        }
        for (size_t k = 0; k < p->count; k++)
            w[k] = sd > 0 ? (float)(sd * kd_rng_normal(&r))
                          : (float)(bound * (2 * kd_rng_double(&r) - 1));
    }
}

uint64_t kd_graph_macs(const kd_graph *g)
{
    uint64_t macs = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (n->op == KD_OP_CONV || n->op == KD_OP_DENSE)
            macs += (uint64_t)g->params[n->weight].count * (uint64_t)n->h * (uint64_t)n->w;
    }
    return macs;
}
