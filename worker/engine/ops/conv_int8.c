#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conv.h"

/* Convolutions of 8-bit values in inference (Jacob et al. 2018, with scales alone): x = scale * q,
 * one scale a value, one an output channel for the weights, which are -127..127. Products are
 * summed in 32 bits, exactly; what follows (scale, bias, residual, activation, the result's scale)
 * is float32, an element at a time, rounded to the nearest even. */
typedef struct {
    dnnl_memory_t plain; /* the weights below, bound when they are packed */
    kd_prim *forward, *round_src, *reorder_residual, *pack;
    kd_conv_int8 q;
    int bias_block;
} state;

bool kd_conv_int8_fits(const kd_plan *p, const kd_task *t)
{
    const kd_node *node = &p->graph->nodes[t->node];
    if (node->op != KD_OP_CONV || t->pool >= 0)
        return false;
    const bool depthwise = node->groups == p->graph->nodes[t->in[0]].c && node->c == node->groups;
    return node->groups == 1 || depthwise;
}

/* Only where biases are corrected: plans without are part of what names the process's numerics, and
 * so the bank. */
bool kd_conv_int8_clips(const kd_plan *p, const kd_task *t)
{
    const kd_value *v = &p->values[t->result];
    return p->means && v->scale > 0 && v->positive && t->residual < 0;
}

/* What a channel's result loses on average by its weights' rounding, away from the edges. */
static float mean_loss(const kd_plan *p, const kd_task *t, int channel, const float *weights,
                       const int8_t *rounded, float unit)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const size_t taps = (size_t)node->kernel_h * (size_t)node->kernel_w;
    const size_t count = p->graph->params[node->weight].count / (size_t)node->c;
    const float *means = p->means + kd_graph_channels(p->graph, t->in[0]);
    double loss = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t from = node->groups > 1 ? (size_t)channel : i / taps;
        loss += (double)(weights[i] - unit * (float)rounded[i]) * (double)means[from];
    }
    return (float)loss;
}

int kd_conv_int8_quantise(kd_plan *p, const kd_task *t, kd_conv_int8 *q, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const size_t count = p->graph->params[node->weight].count, row = count / (size_t)node->c;
    const size_t floats = (size_t)node->c * sizeof(float);
    const float scale = kd_int8_unit(&p->values[t->in[0]]);
    float *folded = malloc(count * sizeof *folded);
    if (!folded || !(q->weights = kd_plan_alloc(p, count)) ||
        !(q->bias = kd_plan_alloc(p, floats)) || !(q->scales = kd_plan_alloc(p, floats))) {
        free(folded);
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a convolution.");
    }
    const int rc = kd_conv_fold(p, t, p->fixed, folded, q->bias, diag);
    for (int o = 0; !rc && o < node->c; o++) {
        const float *w = folded + (size_t)o * row;
        float largest = 0;
        for (size_t i = 0; i < row; i++)
            largest = fmaxf(largest, fabsf(w[i]));
        const float unit = largest > 0 ? largest / 127 : 1;
        for (size_t i = 0; i < row; i++)
            q->weights[(size_t)o * row + i] = (int8_t)nearbyintf(w[i] / unit);
        if (p->means)
            q->bias[o] += mean_loss(p, t, o, w, q->weights + (size_t)o * row, unit);
        q->scales[o] = unit * scale;
        q->bias[o] /= q->scales[o];
        if (kd_conv_int8_clips(p, t))
            q->scales[o] /= p->values[t->result].scale;
    }
    free(folded);
    return rc;
}

static int post_ops(const kd_plan *p, const kd_task *t, dnnl_post_ops_t *out, kd_diag *diag)
{
    const kd_value *v = &p->values[t->result];
    int rc = kd_onednn(dnnl_post_ops_create(out), "post-operations", diag);
    if (!rc && t->residual >= 0) {
        const kd_value *r = &p->values[t->residual];
        rc = kd_onednn(r->scale > 0 ? dnnl_post_ops_append_sum_v2(*out, r->scale,
                                                                  r->positive ? dnnl_u8 : dnnl_s8)
                                    : dnnl_post_ops_append_sum(*out, 1),
                       "residual", diag);
    }
    if (!rc && !kd_conv_int8_clips(p, t))
        rc = kd_conv_act_post_ops(p, t, *out, diag);
    if (!rc && v->scale > 0 && !kd_conv_int8_clips(p, t))
        rc = kd_onednn(
            dnnl_post_ops_append_eltwise(*out, 1.0F, dnnl_eltwise_linear, 1 / v->scale, 0),
            "the result's scale", diag);
    return rc;
}

static int describe(kd_plan *p, const kd_task *t, const kd_conv_geometry *geo, const float *scales,
                    const dnnl_memory_desc_t *src, const dnnl_memory_desc_t *dst,
                    dnnl_primitive_desc_t *out, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node];
    dnnl_post_ops_t post = NULL;
    dnnl_convolution_desc_t desc;
    int rc = post_ops(p, t, &post, diag);
    if (!rc)
        rc = kd_onednn(dnnl_dilated_convolution_forward_desc_init(
                           &desc, dnnl_forward_inference, dnnl_convolution_direct, src,
                           &geo->weights_any, &geo->bias, dst, geo->stride, geo->dilate,
                           geo->pad_before, geo->pad_after),
                       "convolution", diag);
    if (!rc)
        rc = kd_plan_desc_scaled(p, &desc, post, scales, node->c, NULL, out, diag);
    if (post)
        dnnl_post_ops_destroy(post);
    return rc == -KD_EUNSUP
               ? kd_fail(diag, rc, "oneDNN has no 8-bit convolution for '%s'.", node->name)
               : rc;
}

int kd_conv_int8_input(kd_plan *p, const kd_task *t, dnnl_memory_t *out, kd_prim **round,
                       kd_diag *diag)
{
    const kd_value *in = &p->values[t->in[0]];
    const int tick = kd_tick_forward(t);
    *out = in->mem;
    if (in->scale > 0)
        return 0;
    const dnnl_memory_desc_t md = kd_plan_desc_int8(p, in, &p->graph->nodes[t->in[0]]);
    const int rc = kd_plan_new_memory(p, &md, tick, tick, out, NULL, diag);
    return rc ? rc
              : kd_plan_requantise(p, &in->md, in->mem, &md, *out, 1 / in->edge, tick, round, diag);
}

/* The residual lies where the result will, in its own kind of 8 bits where it has one. */
static int place_residual(kd_plan *p, const kd_task *t, state *s, kd_diag *diag)
{
    const kd_value *r = &p->values[t->residual];
    const dnnl_memory_desc_t md = r->scale > 0
                                      ? kd_plan_desc_int8(p, r, &p->graph->nodes[t->result])
                                      : p->values[t->result].md;
    dnnl_memory_t there;
    const int rc = kd_plan_memory(p, &md, p->values[t->result].block, &there, diag);
    return rc ? rc
              : kd_plan_reorder(p, &r->md, r->mem, &md, there, kd_tick_forward(t),
                                &s->reorder_residual, diag);
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const kd_node *result = &p->graph->nodes[t->result];
    const int tick = kd_tick_forward(t);
    const kd_value *v = &p->values[t->result];
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a convolution.");
    kd_conv_geometry geo = kd_conv_geometry_of(p, t, dnnl_s8);
    const dnnl_memory_desc_t dst =
        v->scale > 0 ? kd_plan_desc_int8(p, v, result)
                     : kd_plan_desc(p, result->c, result->h, result->w, dnnl_nhwc);
    const dnnl_memory_desc_t src_md =
        kd_plan_desc_int8(p, &p->values[t->in[0]], &p->graph->nodes[t->in[0]]);
    t->act_inside = t->act >= 0;
    dnnl_primitive_desc_t pd = NULL;
    int rc = kd_conv_int8_quantise(p, t, &s->q, diag);
    if (!rc)
        rc = describe(p, t, &geo, s->q.scales, &src_md, &dst, &pd, diag);
    if (rc)
        return rc;
    const dnnl_memory_desc_t w_md = kd_desc_query(pd, dnnl_query_weights_md);
    dnnl_memory_t src = NULL, weights = NULL, bias = NULL;
    const int share = kd_conv_residual_block(p, t, &dst);
    rc = kd_conv_int8_input(p, t, &src, &s->round_src, diag);
    if (!rc)
        rc = kd_plan_make_value(p, t, &dst, share, diag);
    if (!rc && t->residual >= 0 && share < 0)
        rc = place_residual(p, t, s, diag);
    if (!rc)
        rc = kd_plan_memory(p, &geo.weights_plain, -1, &s->plain, diag);
    if (!rc)
        rc = kd_plan_new_memory(p, &w_md, 0, KD_TICK_EVER, &weights, NULL, diag);
    if (!rc)
        rc = kd_plan_reorder(p, &geo.weights_plain, s->plain, &w_md, weights, 0, &s->pack, diag);
    if (!rc)
        rc = kd_plan_new_memory(p, &geo.bias, 0, KD_TICK_EVER, &bias, &s->bias_block, diag);
    if (!rc)
        rc = kd_plan_prim(p, pd, tick, tick, &s->forward, diag);
    dnnl_primitive_desc_destroy(pd);
    if (rc)
        return rc;
    kd_prim_arg(s->forward, DNNL_ARG_SRC, src);
    kd_prim_arg(s->forward, DNNL_ARG_WEIGHTS, weights);
    kd_prim_arg(s->forward, DNNL_ARG_BIAS, bias);
    kd_prim_arg(s->forward, DNNL_ARG_DST, v->mem);
    return 0;
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)vector; /* quantised when the plan was made */
    const state *s = t->state;
    memcpy(kd_plan_data(p, s->bias_block), s->q.bias,
           (size_t)p->graph->nodes[t->node].c * sizeof *s->q.bias);
    const int rc = kd_memory_bind(s->plain, (const float *)(const void *)s->q.weights, diag);
    return rc ? rc : kd_prim_run(p, s->pack, diag);
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    int rc = kd_prim_run(p, s->round_src, diag);
    if (!rc)
        rc = kd_prim_run(p, s->reorder_residual, diag);
    return rc ? rc : kd_prim_run(p, s->forward, diag);
}

const kd_op_impl kd_op_conv_int8 = {
    .name = "8-bit convolution", .prepare = prepare, .load = load, .forward = forward};
