#include "engine/op.h"

/* Over the channels at each place; the backward looks at the output alone:
 * d_x = y (d_y - sum(y d_y)). */
typedef struct {
    kd_prim *forward, *backward;
} state;

enum { CHANNELS = 1 };

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (in->h != node->h || in->w != node->w || in->c != node->c)
        return kd_fail(diag, -KD_EINVAL, "Softmax '%s' changes the shape.", node->name);
    return 0;
}

static int prepare_backward(kd_plan *p, kd_task *t, state *s, dnnl_primitive_desc_t hint,
                            kd_diag *diag)
{
    const kd_value *in = &p->values[t->in[0]], *v = &p->values[t->result];
    const int back = kd_tick_backward(p, t);
    dnnl_softmax_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    int rc = kd_onednn(dnnl_softmax_backward_desc_init(&desc, &in->md, &v->md, CHANNELS),
                       "softmax's gradient", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, hint, &pd, diag);
    if (rc)
        return rc;
    rc = kd_plan_prim(p, pd, back, back, &s->backward, diag);
    dnnl_primitive_desc_destroy(pd);
    if (rc)
        return rc;
    kd_prim_arg(s->backward, DNNL_ARG_DST, v->mem);
    kd_prim_arg(s->backward, DNNL_ARG_DIFF_DST, v->d_mem);
    kd_prim_arg(s->backward, DNNL_ARG_DIFF_SRC, t->d_in[0]);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a softmax.");
    const kd_value *in = &p->values[t->in[0]];
    const int tick = kd_tick_forward(t);
    dnnl_softmax_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    int rc = kd_onednn(
        dnnl_softmax_forward_desc_init(
            &desc, p->training ? dnnl_forward_training : dnnl_forward_inference, &in->md, CHANNELS),
        "softmax", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, NULL, &pd, diag);
    if (rc)
        return rc;
    rc = kd_plan_make_value(p, t, &in->md, -1, diag);
    if (!rc)
        rc = kd_plan_prim(p, pd, tick, tick, &s->forward, diag);
    if (!rc) {
        kd_prim_arg(s->forward, DNNL_ARG_SRC, in->mem);
        kd_prim_arg(s->forward, DNNL_ARG_DST, p->values[t->result].mem);
    }
    if (!rc && t->d_in[0])
        rc = prepare_backward(p, t, s, pd, diag);
    dnnl_primitive_desc_destroy(pd);
    return rc;
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

const kd_op_impl kd_op_softmax = {"softmax", check, prepare, NULL, forward, backward};
