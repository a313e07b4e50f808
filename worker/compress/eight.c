/* Which of a network runs in 8 bits, and its parameters rounded for that. */
#include "compress/quantise.h"
#include "models/int8.h"

#include <math.h>
#include <stdlib.h>

#define BIAS_MOST 8388608 /* units of a product, exact in float32 */
#define BIAS_OFF 0.004    /* relative error of a bias that is put up with */

int kd_quantise_choose(kd_graph *g, const float *vector, const float *largest,
                       kd_int8_node *out_nodes, int *out_convolutions, kd_diag *diag)
{
    kd_plan *p;
    int convolutions = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        g->nodes[i].range = largest ? largest[i] : 1;
        convolutions += g->nodes[i].op == KD_OP_CONV;
    }
    const int rc = kd_plan_new_ranged(g, 1, vector, &p, diag);
    if (rc)
        return rc;
    const int n = kd_plan_int8_tasks(p);
    if (out_nodes)
        kd_plan_int8_nodes(p, out_nodes);
    kd_plan_free(p);
    if (n == 0)
        kd_fail(diag, -KD_EUNSUP, "none of the network's %d convolutions can run in 8 bits",
                convolutions);
    else if (out_convolutions)
        *out_convolutions = convolutions;
    return n;
}

/* In units of a product of an input and a weight, where all of them fit. weights: [c][row]. */
static void round_bias(const kd_node *n, float in_unit, const float *weights, size_t row,
                       float *bias)
{
    bool fits = true;
    for (int o = 0; o < n->c && fits; o++) {
        const float unit = in_unit * kd_int8_row_unit(weights + (size_t)o * row, row),
                    codes = nearbyintf(bias[o] / unit);
        fits = fabsf(codes) <= BIAS_MOST &&
               fabsf(codes * unit - bias[o]) <= BIAS_OFF * fabsf(bias[o]) + 1e-7F;
    }
    for (int o = 0; o < n->c && fits; o++) {
        const float unit = in_unit * kd_int8_row_unit(weights + (size_t)o * row, row);
        bias[o] = nearbyintf(bias[o] / unit) * unit + 0.0F; /* codes have no -0 */
    }
}

void kd_quantise_weights(const kd_graph *g, float *vector)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (!kd_node_has_weights(n))
            continue;
        const kd_param *p = &g->params[n->weight];
        kd_int8_round(vector + p->offset, n->c, p->count / (size_t)n->c);
    }
}

/* Of convolutions that run in 8 bits. */
static void round_biases(const kd_graph *g, const kd_int8_node *nodes, float *vector)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (n->op != KD_OP_CONV || !nodes[i].conv || n->bias < 0)
            continue;
        const kd_param *p = &g->params[n->weight];
        round_bias(n, nodes[n->in[0]].unit, vector + p->offset, p->count / (size_t)n->c,
                   vector + g->params[n->bias].offset);
    }
}

void kd_quantise_round_as(const kd_graph *g, const kd_int8_node *nodes, float *vector)
{
    kd_quantise_weights(g, vector);
    round_biases(g, nodes, vector);
}

int kd_quantise_round(const kd_graph *g, float *vector, kd_diag *diag)
{
    kd_plan *p;
    kd_int8_node *nodes = calloc((size_t)g->n_nodes, sizeof *nodes);
    if (!nodes)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a network of 8 bits");
    kd_quantise_weights(g, vector);
    const int rc = kd_plan_new_ranged(g, 1, vector, &p, diag);
    if (!rc) {
        kd_plan_int8_nodes(p, nodes);
        kd_plan_free(p);
        round_biases(g, nodes, vector);
    }
    free(nodes);
    return rc;
}
