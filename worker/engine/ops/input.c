#include <string.h>

#include "engine/op.h"

/* The caller's pictures are copied, in the layout that the first layer wants: the backward needs
 * them again and the caller may have reused their memory by then. */
typedef struct {
    dnnl_memory_t user; /* bound at each run */
    kd_prim *reorder;   /* NULL: plain copy */
    size_t bytes;
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    if (node != &g->nodes[0])
        return kd_fail(diag, -KD_EINVAL, "Only node 0 may be the input, not '%s'.", node->name);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const dnnl_memory_desc_t plain = kd_plan_desc(p, node->c, node->h, node->w, dnnl_nhwc);
    dnnl_memory_desc_t md = plain;
    int rc;
    const kd_value *v = &p->values[t->result];
    if (v->scale > 0)
        md = kd_plan_desc_int8(p, v, node);
    for (int i = 0; i < p->n_tasks && !(v->scale > 0); i++) {
        const kd_task *user = &p->tasks[i];
        if (user->in[0] != t->result || p->graph->nodes[user->node].op != KD_OP_CONV)
            continue;
        /* With its pool it takes them as they come. */
        rc = user->pool >= 0 ? 0 : kd_conv_wish(p, user, &md, diag);
        if (rc)
            return rc;
        break;
    }
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for the input.");
    rc = kd_plan_make_value(p, t, &md, -1, diag);
    if (rc)
        return rc;
    s->bytes = dnnl_memory_desc_get_size(&plain);
    if (kd_desc_equal(&md, &plain))
        return 0;
    rc = kd_plan_memory(p, &plain, -1, &s->user, diag);
    if (rc)
        return rc;
    return kd_plan_requantise(p, &plain, s->user, &md, v->mem, v->scale > 0 ? 1 / v->scale : 1,
                              kd_tick_forward(t), &s->reorder, diag);
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    if (!s->reorder) {
        memcpy(kd_plan_data(p, p->values[t->result].block), p->input, s->bytes);
        return 0;
    }
    const int rc = kd_memory_bind(s->user, p->input, diag);
    return rc ? rc : kd_prim_run(p, s->reorder, diag);
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)p, (void)t, (void)stat_weight, (void)gradient, (void)diag;
    return 0;
}

const kd_op_impl kd_op_input = {"input", check, prepare, NULL, forward, backward};
