#include "engine/op.h"

/* [h,w,c] -> channel-height-width order, as PyTorch: one change of layout. */
typedef struct {
    kd_prim *forward, *backward;
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (node->h != 1 || node->w != 1 || (int64_t)in->h * in->w * in->c != (int64_t)node->c)
        return kd_fail(diag, -KD_EINVAL, "Flatten '%s' of [%d,%d,%d] gives [%d,%d,%d].", node->name,
                       in->h, in->w, in->c, node->h, node->w, node->c);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a flatten.");
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    const kd_value *in = &p->values[t->in[0]];
    const dnnl_memory_desc_t flat = kd_plan_desc(p, node->c, 1, 1, dnnl_nchw);
    const dnnl_memory_desc_t unfolded = kd_plan_desc(p, from->c, from->h, from->w, dnnl_nchw);
    dnnl_memory_t view;
    int rc = kd_plan_make_value(p, t, &flat, -1, diag);
    if (rc)
        return rc;
    const kd_value *v = &p->values[t->result];
    rc = kd_plan_memory(p, &unfolded, v->block, &view, diag);
    if (!rc)
        rc = kd_plan_reorder(p, &in->md, in->mem, &unfolded, view, kd_tick_forward(t), &s->forward,
                             diag);
    if (rc || !t->d_in[0])
        return rc;
    rc = kd_plan_memory(p, &unfolded, v->d_block, &view, diag);
    if (rc)
        return rc;
    return kd_plan_reorder(p, &unfolded, view, &in->md, t->d_in[0], kd_tick_backward(p, t),
                           &s->backward, diag);
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    return kd_prim_run(p, s->forward, diag);
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient;
    const state *s = t->state;
    return kd_prim_run(p, s->backward, diag);
}

const kd_op_impl kd_op_flatten = {"flatten", check, prepare, NULL, forward, backward};
