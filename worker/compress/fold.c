#include "compress/fold.h"

#include "models/graph_copy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct folding {
    const kd_graph *g;
    bool *needed;
    int *uses;    /* readers among the needed nodes, the caller included */
    int *bn;      /* batch norm that goes into a convolution, -1 = none */
    int *node_of; /* of g -> of the new graph */
} folding;

static void survey(folding *f)
{
    const kd_graph *g = f->g;
    f->needed[g->output] = true;
    f->uses[g->output]++;
    for (int i = g->output; i > 0; i--)
        for (int k = 0; f->needed[i] && k < 2; k++) {
            const int in = g->nodes[i].in[k];
            if (in < 0)
                continue;
            f->needed[in] = true;
            f->uses[in]++;
        }
    for (int i = 0; i < g->n_nodes; i++)
        f->bn[i] = -1;
    for (int i = 1; i <= g->output; i++) {
        const kd_node *n = &g->nodes[i];
        if (f->needed[i] && n->op == KD_OP_BATCH_NORM && f->uses[n->in[0]] == 1 &&
            g->nodes[n->in[0]].op == KD_OP_CONV)
            f->bn[n->in[0]] = i;
    }
}

static bool vanishes(const folding *f, int at)
{
    const kd_node *n = &f->g->nodes[at];
    return n->op == KD_OP_DROPOUT || n->op == KD_OP_DROP_PATH ||
           (n->op == KD_OP_BATCH_NORM && f->bn[n->in[0]] == at);
}

static int build(folding *f, kd_graph *to, kd_diag *diag)
{
    const kd_graph *g = f->g;
    to->nodes[0].range = g->nodes[0].range;
    for (int i = 1; i <= g->output; i++) {
        const kd_node *n = &g->nodes[i];
        if (!f->needed[i])
            continue;
        const int in[2] = {n->in[0] < 0 ? -1 : f->node_of[n->in[0]],
                           n->in[1] < 0 ? -1 : f->node_of[n->in[1]]};
        if (vanishes(f, i)) {
            f->node_of[i] = in[0];
            continue;
        }
        kd_node_extra extra = kd_graph_extra(g, n);
        extra.bias = extra.bias || f->bn[i] >= 0;
        f->node_of[i] = kd_graph_append(to, n, in, &extra);
        if (f->node_of[i] < 0)
            return kd_fail(diag, -KD_EINVAL, "%s", to->error);
    }
    return kd_graph_finish(to, f->node_of[g->output], diag);
}

static void copy(const kd_graph *g, const float *vector, int from, const kd_graph *to, int at,
                 float *out)
{
    if (from >= 0 && at >= 0)
        memcpy(out + to->params[at].offset, vector + g->params[from].offset,
               g->params[from].count * sizeof *out);
}

/* The convolution n of g and the batch norm behind it as the convolution m of `to`. */
static int join(const folding *f, const float *vector, const kd_node *n, const kd_node *bn,
                const kd_graph *to, const kd_node *m, float *out, kd_diag *diag)
{
    const kd_param *params = f->g->params;
    const float *gamma = vector + params[bn->weight].offset,
                *beta = vector + params[bn->bias].offset;
    const float *mean = vector + params[bn->mean].offset, *var = vector + params[bn->var].offset;
    const float *w = vector + params[n->weight].offset;
    const float *b = n->bias >= 0 ? vector + params[n->bias].offset : NULL;
    float *to_w = out + to->params[m->weight].offset, *to_b = out + to->params[m->bias].offset;
    const size_t row = params[n->weight].count / (size_t)n->c;
    for (int o = 0; o < n->c; o++) {
        const double spread = (double)var[o] + (double)bn->eps;
        if (!(spread > 0) || !isfinite(spread))
            return kd_fail(diag, -KD_EDATA, "running variance %d of %s is %g, which is none", o,
                           bn->name, (double)var[o]);
        const double factor = (double)gamma[o] / sqrt(spread);
        to_b[o] = (float)(((b ? (double)b[o] : 0) - (double)mean[o]) * factor + (double)beta[o]);
        for (size_t i = 0; i < row; i++)
            to_w[(size_t)o * row + i] = (float)((double)w[(size_t)o * row + i] * factor);
    }
    return 0;
}

static int fill(const folding *f, const float *vector, const kd_graph *to, float *out,
                kd_diag *diag)
{
    int rc = 0;
    for (int i = 1; i <= f->g->output && !rc; i++) {
        const kd_node *n = &f->g->nodes[i];
        if (!f->needed[i] || vanishes(f, i))
            continue;
        const kd_node *m = &to->nodes[f->node_of[i]];
        if (f->bn[i] >= 0) {
            rc = join(f, vector, n, &f->g->nodes[f->bn[i]], to, m, out, diag);
            continue;
        }
        copy(f->g, vector, n->weight, to, m->weight, out);
        copy(f->g, vector, n->bias, to, m->bias, out);
        copy(f->g, vector, n->mean, to, m->mean, out);
        copy(f->g, vector, n->var, to, m->var, out);
    }
    return rc;
}

int kd_fold(const kd_graph *g, const float *vector, kd_graph **out_graph, float **out_vector,
            kd_diag *diag)
{
    const size_t n = (size_t)g->n_nodes;
    folding f = {.g = g,
                 .needed = calloc(n, sizeof *f.needed),
                 .uses = calloc(n, sizeof *f.uses),
                 .bn = calloc(n, sizeof *f.bn),
                 .node_of = calloc(n, sizeof *f.node_of)};
    kd_graph *to = kd_graph_new(g->nodes[0].h, g->nodes[0].w, g->nodes[0].c);
    float *out = NULL;
    int rc = 0;
    if (!f.needed || !f.uses || !f.bn || !f.node_of)
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for a network of %zu nodes", n);
    if (!rc) {
        survey(&f);
        rc = build(&f, to, diag);
    }
    if (!rc && !(out = calloc(to->vector_len + 1, sizeof *out)))
        rc = kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters", to->vector_len);
    if (!rc)
        rc = fill(&f, vector, to, out, diag);
    free(f.needed);
    free(f.uses);
    free(f.bn);
    free(f.node_of);
    if (rc) {
        kd_graph_free(to);
        free(out);
        return rc;
    }
    *out_graph = to;
    *out_vector = out;
    return 0;
}
