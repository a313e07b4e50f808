#include <math.h>

#include "engine/op.h"

bool kd_act_is(enum kd_op op)
{
    switch (op) {
    case KD_OP_RELU:
    case KD_OP_RELU6:
    case KD_OP_SIGMOID:
    case KD_OP_SILU:
    case KD_OP_TANH:
    case KD_OP_LEAKY_RELU:
    case KD_OP_CLIP:
    case KD_OP_HARD_SIGMOID:
    case KD_OP_HARD_SWISH:
        return true;
    default:
        return false;
    }
}

bool kd_act_by_output(const kd_node *act)
{
    switch (act->op) {
    case KD_OP_SILU:
    case KD_OP_HARD_SWISH:
        return false; /* they fall and rise: an output has two inputs */
    case KD_OP_LEAKY_RELU:
        return act->alpha >= 0;
    default:
        return true;
    }
}

int kd_act_steps(const kd_node *act, kd_act_step out[2])
{
    const float a = act->alpha, b = act->beta;
    switch (act->op) {
    case KD_OP_RELU:
        out[0] = (kd_act_step){dnnl_eltwise_relu, 0, 0};
        return 1;
    case KD_OP_RELU6:
        out[0] = (kd_act_step){dnnl_eltwise_clip_v2, 0, 6};
        return 1;
    case KD_OP_SIGMOID:
        out[0] = (kd_act_step){dnnl_eltwise_logistic, 0, 0};
        return 1;
    case KD_OP_SILU:
        out[0] = (kd_act_step){dnnl_eltwise_swish, 1, 0};
        return 1;
    case KD_OP_TANH:
        out[0] = (kd_act_step){dnnl_eltwise_tanh, 0, 0};
        return 1;
    case KD_OP_LEAKY_RELU:
        out[0] = (kd_act_step){dnnl_eltwise_relu, a, 0};
        return 1;
    case KD_OP_CLIP:
        out[0] = (kd_act_step){dnnl_eltwise_clip_v2, a, b};
        return 1;
    case KD_OP_HARD_SIGMOID:
        out[0] = (kd_act_step){dnnl_eltwise_linear, a, b};
        out[1] = (kd_act_step){dnnl_eltwise_clip_v2, 0, 1};
        return 2;
    case KD_OP_HARD_SWISH:
        out[0] = (kd_act_step){dnnl_eltwise_hardswish, 0, 0};
        return 1;
    default:
        KD_BUG_ON(true);
        return 0;
    }
}

/* oneDNN's name of the same function where its backward looks at the output. */
static dnnl_alg_kind_t by_output(dnnl_alg_kind_t alg)
{
    switch (alg) {
    case dnnl_eltwise_relu:
        return dnnl_eltwise_relu_use_dst_for_bwd;
    case dnnl_eltwise_clip_v2:
        return dnnl_eltwise_clip_v2_use_dst_for_bwd;
    case dnnl_eltwise_logistic:
        return dnnl_eltwise_logistic_use_dst_for_bwd;
    case dnnl_eltwise_tanh:
        return dnnl_eltwise_tanh_use_dst_for_bwd;
    default:
        return alg; /* a line's slope is the same everywhere */
    }
}

typedef struct {
    dnnl_memory_t x, y;     /* may be one; x NULL: the forward is done elsewhere */
    dnnl_memory_t d_y, d_x; /* may be one; d_x NULL: not wanted */
    const dnnl_memory_desc_t *md;
    int tick, back;
} place;

/* One step of y = act(x); `first` reads x, later ones work in place on y, and the backwards go the
 * other way with the last one reading d_y. */
static int make_step(kd_plan *p, const kd_act_step *step, bool from_output, bool first, bool last,
                     const place *at, kd_prim **out_forward, kd_prim **out_backward, kd_diag *diag)
{
    const dnnl_alg_kind_t alg = p->training && from_output ? by_output(step->alg) : step->alg;
    dnnl_eltwise_desc_t desc;
    dnnl_primitive_desc_t pd = NULL, back_pd = NULL;
    int rc = kd_onednn(dnnl_eltwise_forward_desc_init(
                           &desc, p->training ? dnnl_forward_training : dnnl_forward_inference, alg,
                           at->md, step->alpha, step->beta),
                       "activation", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, NULL, &pd, diag);
    if (rc)
        return rc;
    if (at->x) {
        rc = kd_plan_prim(p, pd, at->tick, at->tick, out_forward, diag);
        if (!rc) {
            kd_prim_arg(*out_forward, DNNL_ARG_SRC, first ? at->x : at->y);
            kd_prim_arg(*out_forward, DNNL_ARG_DST, at->y);
        }
    }
    if (!rc && at->d_x) {
        rc = kd_onednn(
            dnnl_eltwise_backward_desc_init(&desc, alg, at->md, at->md, step->alpha, step->beta),
            "activation's gradient", diag);
        if (!rc)
            rc = kd_plan_desc_create(p, &desc, NULL, pd, &back_pd, diag);
        if (!rc)
            rc = kd_plan_prim(p, back_pd, at->back, at->back, out_backward, diag);
        if (!rc) {
            if (alg != step->alg)
                kd_prim_arg(*out_backward, DNNL_ARG_DST, at->y);
            else
                kd_prim_arg(*out_backward, DNNL_ARG_SRC, from_output ? at->y : at->x);
            kd_prim_arg(*out_backward, DNNL_ARG_DIFF_DST, last ? at->d_y : at->d_x);
            kd_prim_arg(*out_backward, DNNL_ARG_DIFF_SRC, at->d_x);
        }
    }
    dnnl_primitive_desc_destroy(back_pd);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static int make(kd_plan *p, const kd_node *act, const place *at, kd_act_prims *out, kd_diag *diag)
{
    kd_act_step steps[2];
    const int n = kd_act_steps(act, steps);
    int rc = 0;
    for (int i = 0; !rc && i < n; i++)
        rc = make_step(p, &steps[i], kd_act_by_output(act), i == 0, i == n - 1, at,
                       &out->forward[i], &out->backward[n - 1 - i], diag);
    return rc;
}

int kd_act_run(kd_plan *p, kd_prim *const prims[2], kd_diag *diag)
{
    const int rc = kd_prim_run(p, prims[0], diag);
    return rc ? rc : kd_prim_run(p, prims[1], diag);
}

int kd_act_prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const kd_value *v = &p->values[t->result];
    const place at = {.x = t->act_inside ? NULL : v->mem,
                      .y = v->mem,
                      .d_y = v->d_mem,
                      .d_x = v->d_mem,
                      .md = &v->md,
                      .tick = kd_tick_forward(t),
                      .back = kd_tick_backward(p, t)};
    return make(p, &p->graph->nodes[t->act], &at, &t->act_prims, diag);
}

/* The operator itself runs where the plan could not fuse the activation: on a value that others
 * read too, on the input, and in training where its gradient needs its input. */
static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (in->h != node->h || in->w != node->w || in->c != node->c)
        return kd_fail(diag, -KD_EINVAL, "Activation '%s' changes the shape.", node->name);
    const bool fits = node->op == KD_OP_CLIP ? node->alpha <= node->beta
                                             : isfinite(node->alpha) && isfinite(node->beta);
    if (!fits)
        return kd_fail(diag, -KD_EINVAL, "Activation '%s' cannot have the parameters %g and %g.",
                       node->name, (double)node->alpha, (double)node->beta);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    kd_act_prims *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for an activation.");
    const kd_value *in = &p->values[t->in[0]];
    const int rc = kd_plan_make_value(p, t, &in->md, -1, diag);
    if (rc)
        return rc;
    const kd_value *v = &p->values[t->result];
    const place at = {.x = in->mem,
                      .y = v->mem,
                      .d_y = v->d_mem,
                      .d_x = t->d_in[0],
                      .md = &v->md,
                      .tick = kd_tick_forward(t),
                      .back = kd_tick_backward(p, t)};
    return make(p, &p->graph->nodes[t->node], &at, s, diag);
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const kd_act_prims *s = t->state;
    return kd_act_run(p, s->forward, diag);
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient;
    const kd_act_prims *s = t->state;
    return kd_act_run(p, s->backward, diag);
}

const kd_op_impl kd_op_activation = {"activation", check, prepare, NULL, forward, backward};
