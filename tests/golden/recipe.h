/* The weights and inputs behind the golden files, from the counter generator. Used by the program
 * that writes them out for PyTorch and by the test that compares with its answers. */
#ifndef KD_GOLDEN_RECIPE_H
#define KD_GOLDEN_RECIPE_H

#include "engine/graph.h"
#include "kd/rng.h"

#include <math.h>

/* The network's own start values, and for MobileNetV2 what a fresh network lacks: batch norms that
 * do something, and weights of a size that keeps the signal alive under their made-up statistics.
 */
static inline void kd_golden_vector(const kd_graph *g, uint64_t seed, float *vector)
{
    kd_graph_init(g, seed, vector);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        if (p->init == KD_INIT_HE_NORMAL_OUT || p->init == KD_INIT_NORMAL_001) {
            const double gain = p->head ? 5 : sqrt((double)p->fan_out / (double)p->fan_in);
            for (size_t k = 0; k < p->count; k++)
                vector[p->offset + k] = (float)(gain * (double)vector[p->offset + k]);
        }
    }
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (n->op != KD_OP_BATCH_NORM)
            continue;
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_TEST, (uint64_t)i, 0);
        for (int c = 0; c < n->c; c++) {
            vector[g->params[n->weight].offset + (size_t)c] =
                (float)(0.6 + 0.8 * kd_rng_double(&r));
            vector[g->params[n->bias].offset + (size_t)c] = (float)(0.3 * kd_rng_normal(&r));
            vector[g->params[n->mean].offset + (size_t)c] = (float)(0.2 * kd_rng_normal(&r));
            vector[g->params[n->var].offset + (size_t)c] = (float)(0.5 + kd_rng_double(&r));
        }
    }
}

/* Keeps the inputs of each ReLU6 away from its corners in a training step, where a batch norm
 * before it makes values of deviation 1: most channels stay between 0 and 6, an eighth below and an
 * eighth above. Without this some of a million values always lie so close to a corner that rounding
 * decides their derivative. */
static inline void kd_golden_apart(const kd_graph *g, uint64_t seed, float *vector)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (n->op != KD_OP_RELU6 || g->nodes[n->in[0]].op != KD_OP_BATCH_NORM)
            continue;
        const kd_node *norm = &g->nodes[n->in[0]];
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_TEST, (uint64_t)i, 1);
        for (int c = 0; c < n->c; c++) {
            const uint32_t where = kd_rng_below(&r, 8);
            vector[g->params[norm->weight].offset + (size_t)c] =
                (float)(0.5 + 0.2 * kd_rng_double(&r));
            vector[g->params[norm->bias].offset + (size_t)c] = where == 0 ? -3 : where == 1 ? 9 : 3;
        }
    }
}

/* images pictures [h,w,c] in [-1, 1), teacher logits [classes] of deviation 3, and labels. */
static inline void kd_golden_samples(const kd_graph *g, uint64_t seed, int images, float *input,
                                     float *teacher, int32_t *labels)
{
    const kd_node *in = &g->nodes[0];
    const int classes = g->nodes[g->output].c;
    const size_t pixels = (size_t)in->h * (size_t)in->w * (size_t)in->c;
    for (int i = 0; i < images; i++) {
        kd_rng r;
        kd_rng_init(&r, seed, KD_RNG_PROBE, (uint64_t)i, 0);
        for (size_t k = 0; k < pixels; k++)
            input[(size_t)i * pixels + k] = 2 * kd_rng_float(&r) - 1;
        for (int j = 0; j < classes; j++)
            teacher[i * classes + j] = (float)(3 * kd_rng_normal(&r));
        labels[i] = (int32_t)kd_rng_below(&r, (uint32_t)classes);
    }
}

#endif
