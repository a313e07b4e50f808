#include "compress/tune.h"

#include "compress/quantise.h"
#include "engine/plan.h"
#include "models/graph_copy.h"

#include <stdlib.h>
#include <string.h>

/* ---- a graph that rounds */

typedef struct rounding {
    const kd_graph *g;
    kd_int8_node *nodes; /* [n_nodes] */
    int *node_of;        /* of g -> of the new graph */
    int *rounded;        /* the same, rounded; -1 = nobody reads it so */
} rounding;

static int what_is_rounded(const rounding *r, const float *vector, kd_diag *diag)
{
    kd_plan *p;
    const int rc = kd_plan_new_ranged(r->g, 1, vector, &p, diag);
    if (rc)
        return rc;
    kd_plan_int8_nodes(p, r->nodes);
    kd_plan_free(p);
    return 0;
}

/* Of an 8-bit value all readers have the rounded one, of another the 8-bit convolutions alone. */
static int input_of(const rounding *r, int reader, int in)
{
    if (in < 0)
        return -1;
    const bool rounded = r->rounded[in] >= 0 && (r->nodes[in].stored || r->nodes[reader].conv);
    return rounded ? r->rounded[in] : r->node_of[in];
}

static void round_node(const rounding *r, kd_graph *to, int at)
{
    const kd_int8_node *k = &r->nodes[at];
    r->rounded[at] = -1;
    if (k->unit > 0 && r->node_of[at] >= 0)
        r->rounded[at] = kd_graph_fake_quant(to, r->node_of[at], k->unit, k->positive);
}

static int build(const rounding *r, kd_graph *to, kd_diag *diag)
{
    round_node(r, to, 0);
    for (int i = 1; i < r->g->n_nodes; i++) {
        const kd_node *n = &r->g->nodes[i];
        const kd_node_extra extra = kd_graph_extra(r->g, n);
        const int in[2] = {input_of(r, i, n->in[0]), input_of(r, i, n->in[1])};
        r->node_of[i] = kd_graph_append(to, n, in, &extra);
        if (r->node_of[i] >= 0)
            to->nodes[r->node_of[i]].range = 0;
        round_node(r, to, i);
    }
    return kd_graph_finish(to, r->node_of[r->g->output], diag);
}

int kd_tune_graph(const kd_graph *g, const float *vector, kd_graph **out, kd_diag *diag)
{
    const size_t n = (size_t)g->n_nodes;
    rounding r = {.g = g,
                  .nodes = calloc(n, sizeof *r.nodes),
                  .node_of = calloc(n, sizeof *r.node_of),
                  .rounded = calloc(n, sizeof *r.rounded)};
    kd_graph *to = kd_graph_new(g->nodes[0].h, g->nodes[0].w, g->nodes[0].c);
    int rc = r.nodes && r.node_of && r.rounded
                 ? what_is_rounded(&r, vector, diag)
                 : kd_fail(diag, -KD_ENOMEM, "no memory for a network of %zu nodes", n);
    if (!rc)
        rc = build(&r, to, diag);
    KD_BUG_ON(!rc && to->vector_len != g->vector_len);
    free(r.nodes);
    free(r.node_of);
    free(r.rounded);
    if (rc)
        kd_graph_free(to);
    else
        *out = to;
    return rc;
}

/* ---- a version */

int kd_tune_load(const kd_graph *g, const kd_tune_pruning *pruning, uint64_t step,
                 const float *vector, uint8_t *mask, float *out, kd_diag *diag)
{
    const double share = kd_prune_schedule(pruning->first, pruning->last, 0, pruning->steps, step);
    int rc = 0;
    kd_prune_gone(g, vector, mask);
    if (share > 0)
        rc = kd_prune_magnitude(g, vector, share, pruning->scope, mask, diag);
    if (rc)
        return rc;
    memcpy(out, vector, g->vector_len * sizeof *out);
    kd_prune_apply(mask, g->vector_len, out);
    if (kd_graph_is_int8(g))
        kd_quantise_weights(g, out);
    return 0;
}
