#include "engine/graph_internal.h"

#include "kd/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

kd_graph *kd_graph_new(int h, int w, int c)
{
    kd_graph *g = kd_xalloc(sizeof *g);
    g->nodes = kd_xalloc(KD_GRAPH_NODES * sizeof *g->nodes);
    g->params = kd_xalloc(4 * KD_GRAPH_NODES * sizeof *g->params);
    g->output = -1;
    kd_node *n = &g->nodes[g->n_nodes++];
    *n = (kd_node){.op = KD_OP_INPUT, .in = {-1, -1}, .h = h, .w = w, .c = c};
    n->weight = n->bias = n->mean = n->var = -1;
    snprintf(n->name, sizeof n->name, "input");
    if (h < 1 || w < 1 || c < 1 || h > KD_GRAPH_SIDE || w > KD_GRAPH_SIDE || c > 64)
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

int kd_graph_fail(kd_graph *g, const char *fmt, ...)
{
    if (!g->error[0]) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(g->error, sizeof g->error, fmt, ap);
        va_end(ap);
    }
    return -1;
}

kd_node *kd_graph_node(kd_graph *g, enum kd_op op, int in, const char *name)
{
    const bool source = op == KD_OP_CONST;
    if (g->error[0] || (in < 0 && !source))
        return NULL;
    if (in >= g->n_nodes || g->n_nodes == KD_GRAPH_NODES) {
        kd_graph_fail(g, "%s: no such input, or more than %d nodes", name, KD_GRAPH_NODES);
        return NULL;
    }
    kd_node *n = &g->nodes[g->n_nodes++];
    const kd_node *p = source ? n : &g->nodes[in];
    *n = (kd_node){.op = op, .in = {in, -1}, .h = p->h, .w = p->w, .c = p->c, .groups = 1};
    n->weight = n->bias = n->mean = n->var = -1;
    snprintf(n->name, sizeof n->name, "%s", name);
    return n;
}

int kd_graph_new_param(kd_graph *g, const char *node, const char *suffix, enum kd_param_kind kind,
                       enum kd_param_init init, int ndim, const int64_t *shape, bool head)
{
    kd_param *p = &g->params[g->n_params];
    *p =
        (kd_param){.kind = kind, .init = init, .ndim = ndim, .offset = g->vector_len, .head = head};
    if (snprintf(p->name, sizeof p->name, "%s.%s", node, suffix) >= (int)sizeof p->name)
        return kd_graph_fail(g, "the name %.90s... is longer than %zu letters", node,
                             sizeof p->name - 1);
    size_t count = 1;
    for (int i = 0; i < ndim; i++) {
        p->shape[i] = shape[i];
        if (!kd_mul_size(count, (size_t)shape[i], &count) || count > (size_t)1 << 30)
            return kd_graph_fail(g, "%s: too many parameters", p->name);
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

static int check_output(const kd_graph *g, int output, kd_diag *diag)
{
    if (g->error[0])
        return kd_fail(diag, -KD_EINVAL, "%s", g->error);
    if (output < 1 || output >= g->n_nodes)
        return kd_fail(diag, -KD_EINVAL, "the network has no output");
    return 0;
}

int kd_graph_finish(kd_graph *g, int output, kd_diag *diag)
{
    const int rc = check_output(g, output, diag);
    if (rc)
        return rc;
    const kd_node *n = &g->nodes[output];
    if (n->h != 1 || n->w != 1 || n->c < 2)
        return kd_fail(diag, -KD_EINVAL,
                       "the output is %dx%dx%d, logits of 2 or more classes were "
                       "expected",
                       n->h, n->w, n->c);
    return kd_graph_finish_any(g, output, diag);
}

int kd_graph_finish_any(kd_graph *g, int output, kd_diag *diag)
{
    const int rc = check_output(g, output, diag);
    if (rc)
        return rc;
    for (int i = 0; i < g->n_params; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(g->params[i].name, g->params[k].name) == 0)
                return kd_fail(diag, -KD_EINVAL, "two parameters are named %s", g->params[i].name);
    bool used[KD_GRAPH_NODES] = {false};
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

static void init_param(const kd_param *p, uint64_t seed, float *w)
{
    kd_rng r;
    kd_rng_init(&r, seed, KD_RNG_INIT, XXH64(p->name, strlen(p->name), 0), 0);
    double fan_in = (double)p->fan_in, fan_out = (double)p->fan_out, bound = 0, sd = 0;
    switch (p->init) {
    case KD_INIT_ZERO:
    case KD_INIT_ONE:
        for (size_t k = 0; k < p->count; k++)
            w[k] = p->init == KD_INIT_ONE ? 1 : 0;
        return;
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
    case KD_INIT_UNIFORM_OUT:
        bound = 1 / sqrt(fan_out);
        break;
    }
    for (size_t k = 0; k < p->count; k++)
        w[k] =
            sd > 0 ? (float)(sd * kd_rng_normal(&r)) : (float)(bound * (2 * kd_rng_double(&r) - 1));
}

void kd_graph_init(const kd_graph *g, uint64_t seed, float *vector)
{
    for (int i = 0; i < g->n_params; i++)
        init_param(&g->params[i], seed, vector + g->params[i].offset);
}

void kd_graph_init_head(const kd_graph *g, uint64_t seed, float *vector)
{
    for (int i = 0; i < g->n_params; i++)
        if (g->params[i].head)
            init_param(&g->params[i], seed, vector + g->params[i].offset);
}

size_t kd_graph_channels(const kd_graph *g, int node)
{
    size_t channels = 0;
    for (int i = 0; i < node; i++)
        channels += (size_t)g->nodes[i].c;
    return channels;
}

bool kd_node_has_weights(const kd_node *n)
{
    return n->op == KD_OP_CONV || n->op == KD_OP_DENSE;
}

bool kd_graph_is_int8(const kd_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].range > 0)
            return true;
    return false;
}

uint64_t kd_node_macs(const kd_graph *g, const kd_node *n)
{
    if (!kd_node_has_weights(n))
        return 0;
    return (uint64_t)g->params[n->weight].count * (uint64_t)n->h * (uint64_t)n->w;
}

uint64_t kd_graph_macs(const kd_graph *g)
{
    uint64_t macs = 0;
    for (int i = 0; i < g->n_nodes; i++)
        macs += kd_node_macs(g, &g->nodes[i]);
    return macs;
}
