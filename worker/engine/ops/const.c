#include <string.h>

#include "engine/op.h"

/* A value that is the same for each image: written when weights are loaded, alive for ever. */
static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const size_t count = (size_t)node->c * (size_t)node->h * (size_t)node->w;
    if (node->weight < 0 || g->params[node->weight].kind != KD_PARAM_FIXED ||
        g->params[node->weight].count != count)
        return kd_fail(diag, -KD_EINVAL, "Constant '%s' needs a fixed parameter of %zu values.",
                       node->name, count);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const dnnl_memory_desc_t md = kd_plan_desc(p, node->c, node->h, node->w, dnnl_nchw);
    const int block = kd_plan_block(p, dnnl_memory_desc_get_size(&md), 0, KD_TICK_EVER, diag);
    return block < 0 ? block : kd_plan_make_value(p, t, &md, block, diag);
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)diag;
    const kd_param *value = &p->graph->params[p->graph->nodes[t->node].weight];
    float *y = kd_plan_data(p, p->values[t->result].block);
    for (int i = 0; i < p->n; i++)
        memcpy(y + (size_t)i * value->count, vector + value->offset, value->count * sizeof *y);
    return 0;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    (void)p, (void)t, (void)diag;
    return 0;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)p, (void)t, (void)stat_weight, (void)gradient, (void)diag;
    return 0;
}

const kd_op_impl kd_op_const = {"constant", check, prepare, load, forward, backward};
