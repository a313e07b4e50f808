#include "engine/op.h"

/* ReLU: max(x, 0); ReLU6: min(max(x, 0), 6), gradient 0 at and beyond both bounds. Both backwards
 * look at the output, so that the activation can overwrite its input. */
dnnl_alg_kind_t kd_act_alg(enum kd_op act, bool backward, float *out_alpha, float *out_beta)
{
    *out_alpha = 0;
    *out_beta = act == KD_OP_RELU6 ? 6.0F : 0;
    if (act == KD_OP_RELU6)
        return backward ? dnnl_eltwise_clip_v2_use_dst_for_bwd : dnnl_eltwise_clip_v2;
    return backward ? dnnl_eltwise_relu_use_dst_for_bwd : dnnl_eltwise_relu;
}

/* y = act(x); with dst-based backward the forward descriptor is of the same kind. */
static int make(kd_plan *p, enum kd_op act, const dnnl_memory_desc_t *md, dnnl_memory_t x,
                dnnl_memory_t y, dnnl_memory_t d_y, dnnl_memory_t d_x, int tick, int back,
                kd_prim **out_forward, kd_prim **out_backward, kd_diag *diag)
{
    float alpha, beta;
    const dnnl_alg_kind_t alg = kd_act_alg(act, p->training, &alpha, &beta);
    dnnl_eltwise_desc_t desc;
    dnnl_primitive_desc_t pd = NULL, back_pd = NULL;
    int rc = kd_onednn(dnnl_eltwise_forward_desc_init(
                           &desc, p->training ? dnnl_forward_training : dnnl_forward_inference, alg,
                           md, alpha, beta),
                       "activation", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, NULL, &pd, diag);
    if (rc)
        return rc;
    if (x) {
        rc = kd_plan_prim(p, pd, tick, tick, out_forward, diag);
        if (!rc) {
            kd_prim_arg(*out_forward, DNNL_ARG_SRC, x);
            kd_prim_arg(*out_forward, DNNL_ARG_DST, y);
        }
    }
    if (!rc && d_x) {
        rc = kd_onednn(dnnl_eltwise_backward_desc_init(&desc, alg, md, md, alpha, beta),
                       "activation's gradient", diag);
        if (!rc)
            rc = kd_plan_desc_create(p, &desc, NULL, pd, &back_pd, diag);
        if (!rc)
            rc = kd_plan_prim(p, back_pd, back, back, out_backward, diag);
        if (!rc) {
            kd_prim_arg(*out_backward, DNNL_ARG_DST, y);
            kd_prim_arg(*out_backward, DNNL_ARG_DIFF_DST, d_y);
            kd_prim_arg(*out_backward, DNNL_ARG_DIFF_SRC, d_x);
        }
    }
    dnnl_primitive_desc_destroy(back_pd);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

int kd_act_prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const kd_value *v = &p->values[t->result];
    return make(p, t->act, &v->md, t->act_inside ? NULL : v->mem, v->mem, v->d_mem, v->d_mem,
                kd_tick_forward(t), kd_tick_backward(p, t), &t->act_forward, &t->act_backward,
                diag);
}

/* The operator itself runs only where the plan could not fuse the activation: on a value that
 * others read too, or on the input. */
typedef struct {
    kd_prim *forward, *backward;
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (in->h != node->h || in->w != node->w || in->c != node->c)
        return kd_fail(diag, -KD_EINVAL, "Activation '%s' changes the shape.", node->name);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for an activation.");
    const kd_value *in = &p->values[t->in[0]];
    const int rc = kd_plan_make_value(p, t, &in->md, -1, diag);
    if (rc)
        return rc;
    const kd_value *v = &p->values[t->result];
    return make(p, p->graph->nodes[t->node].op, &v->md, in->mem, v->mem, v->d_mem, t->d_in[0],
                kd_tick_forward(t), kd_tick_backward(p, t), &s->forward, &s->backward, diag);
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

const kd_op_impl kd_op_activation = {"activation", check, prepare, NULL, forward, backward};
