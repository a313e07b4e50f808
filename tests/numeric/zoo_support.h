/* What the tests of models share. Include after kd_test.h. */
#ifndef KD_ZOO_SUPPORT_H
#define KD_ZOO_SUPPORT_H

#include "models/models.h"

static inline kd_model_config zoo_config(const char *model, int size, int classes)
{
    return (kd_model_config){.model = model,
                             .width = 1,
                             .pad_tf = true,
                             .size = size,
                             .channels = 3,
                             .classes = classes};
}

/* The graph, whose last layer is the head, weight and bias, and nothing else is. */
static inline kd_graph *zoo_build(const kd_model_config *cfg)
{
    kd_graph *g = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_model_build(cfg, &g, &diag), &diag);
    const kd_node *n = &g->nodes[g->output];
    assert_int_equal(n->op, KD_OP_DENSE);
    assert_int_equal(n->c, cfg->classes);
    assert_true(g->params[n->weight].head && g->params[n->bias].head);
    int heads = 0;
    for (int i = 0; i < g->n_params; i++)
        heads += g->params[i].head;
    assert_int_equal(heads, 2);
    return g;
}

#endif
