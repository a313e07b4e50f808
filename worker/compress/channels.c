/* Whole channels out of a graph. Nodes whose channels stand for the same thing share a space: what
 * is kept of a space is kept in all of them. */
#include "compress/prune.h"

#include "models/graph_copy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct space {
    int parent; /* another space that it is one with, itself for a root */
    int channels;
    bool frozen;
    double *score; /* [channels] of a root */
    int *kept;     /* numbers of the channels that stay, rising */
    int n_kept;
} space;

typedef struct pruning {
    const kd_graph *g;
    const float *vector;
    space *spaces; /* one a node at most, numbered as the nodes that begin them */
    int *of;       /* node -> space */
    int *spread;   /* node -> elements of its channel axis a channel of the space: behind flatten */
    int *node_of;  /* node -> that of the new graph */
} pruning;

static int root(const pruning *p, int at)
{
    while (p->spaces[at].parent != at)
        at = p->spaces[at].parent;
    return at;
}

static void freeze(pruning *p, int node)
{
    if (node >= 0)
        p->spaces[root(p, p->of[node])].frozen = true;
}

static void begin(pruning *p, int at, bool frozen)
{
    p->of[at] = at;
    p->spread[at] = 1;
    p->spaces[at] = (space){.parent = at, .channels = p->g->nodes[at].c, .frozen = frozen};
}

static void follow(pruning *p, int at, int node)
{
    p->of[at] = p->of[node];
    p->spread[at] = p->spread[node];
}

static bool depthwise(const pruning *p, const kd_node *n)
{
    return n->groups > 1 && n->groups == p->g->nodes[n->in[0]].c && n->groups == n->c;
}

/* Both operands lose the same channels, or none. */
static void join(pruning *p, int at, const kd_node *n)
{
    const kd_node *a = &p->g->nodes[n->in[0]], *b = &p->g->nodes[n->in[1]];
    if (a->c != b->c) { /* one of them has one channel */
        follow(p, at, a->c > b->c ? n->in[0] : n->in[1]);
        return;
    }
    const int x = root(p, p->of[n->in[0]]), y = root(p, p->of[n->in[1]]);
    follow(p, at, n->in[0]);
    if (p->spread[n->in[0]] != p->spread[n->in[1]]) {
        freeze(p, n->in[0]);
        freeze(p, n->in[1]);
        return;
    }
    p->spaces[KD_MAX(x, y)].parent = KD_MIN(x, y);
    p->spaces[KD_MIN(x, y)].frozen = p->spaces[x].frozen || p->spaces[y].frozen;
}

static void find_spaces(pruning *p)
{
    const kd_graph *g = p->g;
    begin(p, 0, true);
    for (int i = 1; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i], *in = n->in[0] >= 0 ? &g->nodes[n->in[0]] : NULL;
        switch (n->op) {
        case KD_OP_CONV:
            if (depthwise(p, n)) {
                follow(p, i, n->in[0]);
                break;
            }
            if (n->groups > 1)
                freeze(p, n->in[0]);
            begin(p, i, n->groups > 1);
            break;
        case KD_OP_DENSE:
            begin(p, i, g->params[n->weight].head);
            break;
        case KD_OP_ADD:
        case KD_OP_SUB:
        case KD_OP_MUL:
        case KD_OP_DIV:
            join(p, i, n);
            break;
        case KD_OP_FLATTEN:
            follow(p, i, n->in[0]);
            p->spread[i] *= in->h * in->w;
            break;
        case KD_OP_INPUT:
        case KD_OP_CONST:
            begin(p, i, true);
            break;
        case KD_OP_CONCAT:
        case KD_OP_SLICE:
        case KD_OP_RESHAPE:
        case KD_OP_PERMUTE:
        case KD_OP_SOFTMAX:
            freeze(p, n->in[0]);
            freeze(p, n->in[1]);
            begin(p, i, true);
            break;
        case KD_OP_PAD:
            follow(p, i, n->in[0]);
            if (n->c != in->c)
                freeze(p, n->in[0]);
            if (n->c != in->c)
                begin(p, i, true);
            break;
        default:
            follow(p, i, n->in[0]);
        }
    }
    freeze(p, g->output);
}

/* ---- which channels stay */

/* What the batch norm that reads node `at` multiplies channel c with; 1 without one. */
static double norm_factor(const pruning *p, int at, int c)
{
    for (int i = at + 1; i < p->g->n_nodes; i++) {
        const kd_node *n = &p->g->nodes[i];
        if (n->op != KD_OP_BATCH_NORM || n->in[0] != at)
            continue;
        const double gamma = (double)p->vector[p->g->params[n->weight].offset + (size_t)c];
        const double var = (double)p->vector[p->g->params[n->var].offset + (size_t)c];
        return gamma / sqrt(fmax(var, 0) + (double)n->eps);
    }
    return 1;
}

static int score(pruning *p, kd_diag *diag)
{
    for (int i = 1; i < p->g->n_nodes; i++) {
        const kd_node *n = &p->g->nodes[i];
        if (!kd_node_has_weights(n) || p->of[i] != i)
            continue;
        space *s = &p->spaces[root(p, i)];
        if (!s->score && !(s->score = calloc((size_t)s->channels, sizeof *s->score)))
            return kd_fail(diag, -KD_ENOMEM, "no memory for pruning");
        const kd_param *w = &p->g->params[n->weight];
        const size_t row = w->count / (size_t)n->c;
        for (int c = 0; c < n->c; c++) {
            double sum = 0;
            for (size_t k = 0; k < row; k++) {
                const double v = (double)p->vector[w->offset + (size_t)c * row + k];
                sum += v * v;
            }
            s->score[c] += sqrt(sum) * fabs(norm_factor(p, i, c));
        }
    }
    return 0;
}

static int keep(space *s, double share, int multiple, kd_diag *diag)
{
    int want = s->frozen || !s->score ? s->channels : (int)ceil((1 - share) * s->channels - 1e-9);
    want = KD_MIN((KD_MAX(want, 1) + multiple - 1) / multiple * multiple, s->channels);
    s->kept = malloc((size_t)s->channels * sizeof *s->kept);
    if (!s->kept)
        return kd_fail(diag, -KD_ENOMEM, "no memory for pruning");
    for (int c = 0; c < s->channels; c++) {
        int before = 0; /* channels that are kept rather than this one */
        for (int k = 0; k < s->channels && want < s->channels; k++)
            before += s->score[k] > s->score[c] || (s->score[k] == s->score[c] && k < c);
        if (before < want)
            s->kept[s->n_kept++] = c;
    }
    return 0;
}

static const space *space_of(const pruning *p, int node)
{
    return &p->spaces[root(p, p->of[node])];
}

static int channels_of(const pruning *p, int node)
{
    return space_of(p, node)->n_kept * p->spread[node];
}

/* Element e of what is left of a node's channel axis, as it was numbered before. */
static size_t old_channel(const pruning *p, int node, size_t e)
{
    const size_t spread = (size_t)p->spread[node];
    return (size_t)space_of(p, node)->kept[e / spread] * spread + e % spread;
}

/* ---- the new graph */

static int build(pruning *p, kd_graph *to, kd_diag *diag)
{
    to->nodes[0].range = p->g->nodes[0].range;
    for (int i = 1; i < p->g->n_nodes; i++) {
        kd_node n = p->g->nodes[i];
        const kd_node_extra extra = kd_graph_extra(p->g, &n);
        const int in[2] = {n.in[0] < 0 ? -1 : p->node_of[n.in[0]],
                           n.in[1] < 0 ? -1 : p->node_of[n.in[1]]};
        n.groups = n.op == KD_OP_CONV && depthwise(p, &n) ? channels_of(p, i) : n.groups;
        n.c = channels_of(p, i);
        p->node_of[i] = kd_graph_append(to, &n, in, &extra);
        if (p->node_of[i] < 0)
            return kd_fail(diag, -KD_EINVAL, "%s", to->error);
    }
    return kd_graph_finish(to, p->node_of[p->g->output], diag);
}

/* The rows of a parameter of node `at` that stay; of weights the columns, too. */
static void copy(const pruning *p, int at, int param, const kd_graph *to, int to_param, float *out)
{
    if (param < 0)
        return;
    const kd_node *n = &p->g->nodes[at];
    const kd_param *a = &p->g->params[param], *b = &to->params[to_param];
    const bool weight = param == n->weight && kd_node_has_weights(n);
    const bool columns = weight && n->groups == 1;
    const size_t rows = n->op == KD_OP_CONST ? 1 : (size_t)channels_of(p, at);
    const size_t had = weight ? (size_t)a->shape[1] : 1;
    const size_t have = weight ? (size_t)b->shape[1] : 1;
    const size_t inner = a->count / (n->op == KD_OP_CONST ? 1 : (size_t)n->c) / had;
    for (size_t r = 0; r < rows; r++) {
        const size_t from = n->op == KD_OP_CONST ? 0 : old_channel(p, at, r);
        for (size_t k = 0; k < have; k++) {
            const size_t column = columns ? old_channel(p, n->in[0], k) : k;
            memcpy(out + b->offset + (r * have + k) * inner,
                   p->vector + a->offset + (from * had + column) * inner, inner * sizeof *out);
        }
    }
}

static int fill(const pruning *p, const kd_graph *to, float **out, kd_diag *diag)
{
    float *v = calloc(to->vector_len + 1, sizeof *v);
    if (!v)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu parameters", to->vector_len);
    for (int i = 1; i < p->g->n_nodes; i++) {
        const kd_node *n = &p->g->nodes[i], *m = &to->nodes[p->node_of[i]];
        copy(p, i, n->weight, to, m->weight, v);
        copy(p, i, n->bias, to, m->bias, v);
        copy(p, i, n->mean, to, m->mean, v);
        copy(p, i, n->var, to, m->var, v);
    }
    *out = v;
    return 0;
}

int kd_prune_channels(const kd_graph *g, const float *vector, double share, int multiple,
                      kd_graph **out_graph, float **out_vector, kd_diag *diag)
{
    const size_t n = (size_t)g->n_nodes;
    if (!(share >= 0 && share < 1) || multiple < 1)
        return kd_fail(diag, -KD_EINVAL, "a share of %g of the channels, in multiples of %d", share,
                       multiple);
    pruning p = {.g = g,
                 .vector = vector,
                 .spaces = calloc(n, sizeof *p.spaces),
                 .of = calloc(n, sizeof *p.of),
                 .spread = calloc(n, sizeof *p.spread),
                 .node_of = calloc(n, sizeof *p.node_of)};
    kd_graph *to = kd_graph_new(g->nodes[0].h, g->nodes[0].w, g->nodes[0].c);
    int rc = p.spaces && p.of && p.spread && p.node_of
                 ? 0
                 : kd_fail(diag, -KD_ENOMEM, "no memory for pruning");
    if (!rc) {
        find_spaces(&p);
        rc = score(&p, diag);
    }
    for (size_t i = 0; i < n && !rc; i++)
        if (p.of[i] == (int)i && p.spaces[i].parent == (int)i)
            rc = keep(&p.spaces[i], share, multiple, diag);
    if (!rc)
        rc = build(&p, to, diag);
    if (!rc)
        rc = fill(&p, to, out_vector, diag);
    for (size_t i = 0; i < n && p.spaces; i++) {
        free(p.spaces[i].score);
        free(p.spaces[i].kept);
    }
    free(p.spaces);
    free(p.of);
    free(p.spread);
    free(p.node_of);
    if (rc)
        kd_graph_free(to);
    else
        *out_graph = to;
    return rc;
}

int kd_prune_channels_less(const kd_graph *g, const float *vector, double share, int multiple,
                           kd_graph **out_graph, float **out_vector, kd_diag *diag)
{
    kd_graph *graph;
    float *less;
    const int rc = kd_prune_channels(g, vector, share, multiple, &graph, &less, diag);
    if (rc)
        return rc;
    if (graph->vector_len >= g->vector_len) {
        kd_graph_free(graph);
        free(less);
        return kd_fail(diag, -KD_EINVAL,
                       "none of the network's channels can go: a share of %g, in multiples of %d, "
                       "of layers whose channels nothing else holds on to",
                       share, multiple);
    }
    *out_graph = graph;
    *out_vector = less;
    return 0;
}
