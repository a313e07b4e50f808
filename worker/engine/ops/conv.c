#include <math.h>
#include <string.h>

#include "conv.h"
#include "engine/graph_internal.h"

/* 2-d convolution (cross-correlation, as PyTorch). Forward and both backwards
 * may each want their own layouts; the value's layout is forward's and the
 * others adapt with reorders where they must.
 */
typedef struct {
    dnnl_memory_t plain; /* weights as in the vector, bound at each use */
    /* forward */
    kd_prim *forward, *reorder_src, *reorder_residual;
    kd_prim *pack;      /* plain -> forward's layout */
    kd_prim *pack_data; /* plain -> backward-data's layout, NULL if the same */
    int bias;           /* block, -1 = none */
    /* backward: gradient of the input */
    kd_prim *data, *data_reorder_d_y, *data_reorder_d_x;
    /* backward: gradient of the weights */
    kd_prim *weights, *weights_reorder_x, *weights_reorder_d_y;
    kd_prim *unpack; /* its layout -> plain */
    int d_bias;      /* block */
    int scratch;     /* block; -1 = the weights' gradient is oneDNN's */
} state;

kd_conv_geometry kd_conv_geometry_of(const kd_plan *p, const kd_task *t, dnnl_data_type_t type)
{
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    const int g = node->groups;
    kd_conv_geometry o = {.stride = {node->stride_h, node->stride_w},
                          .dilate = {node->kernel_h > 1 ? node->dilation_h - 1 : 0,
                                     node->kernel_w > 1 ? node->dilation_w - 1 : 0},
                          .pad_before = {node->pad[0], node->pad[1]},
                          .pad_after = {node->pad[2], node->pad[3]},
                          .has_bias = node->bias >= 0 || t->bn >= 0};
    const dnnl_dims_t plain = {node->c, from->c, node->kernel_h, node->kernel_w};
    const dnnl_dims_t grouped = {g, node->c / g, from->c / g, node->kernel_h, node->kernel_w};
    const dnnl_dims_t channels = {node->c};
    const int ndims = g > 1 ? 5 : 4;
    const int64_t *dims = g > 1 ? grouped : plain;
    KD_BUG_ON(
        dnnl_memory_desc_init_by_tag(&o.weights_any, ndims, dims, type, dnnl_format_tag_any) ||
        dnnl_memory_desc_init_by_tag(&o.weights_plain, ndims, dims, type,
                                     g > 1 ? dnnl_goihw : dnnl_oihw) ||
        dnnl_memory_desc_init_by_tag(&o.bias, 1, channels, dnnl_f32, dnnl_a));
    return o;
}

static bool has_weights(const kd_graph *g, const kd_node *node, int in_channels)
{
    size_t count = (size_t)node->c;
    return kd_mul_size(count, (size_t)(in_channels / node->groups), &count) &&
           kd_mul_size(count, (size_t)node->kernel_h, &count) &&
           kd_mul_size(count, (size_t)node->kernel_w, &count) &&
           g->params[node->weight].count == count &&
           (node->bias < 0 || g->params[node->bias].count == (size_t)node->c);
}

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    const int64_t kh = node->kernel_h, kw = node->kernel_w;
    bool fits = node->groups >= 1 && in->c % node->groups == 0 && node->c % node->groups == 0 &&
                node->weight >= 0;
    const int sides[] = {node->kernel_h, node->kernel_w,   node->stride_h,
                         node->stride_w, node->dilation_h, node->dilation_w};
    for (size_t i = 0; i < KD_COUNT(sides); i++)
        fits = fits && kd_graph_in_range(sides[i]);
    if (fits) {
        const int64_t high = (kh - 1) * node->dilation_h + 1,
                      wide = (kw - 1) * node->dilation_w + 1;
        for (int i = 0; i < 4; i++)
            fits = fits && node->pad[i] >= 0 && node->pad[i] < (i % 2 ? wide : high);
        const int64_t h = in->h + (int64_t)node->pad[0] + node->pad[2] - high;
        const int64_t w = in->w + (int64_t)node->pad[1] + node->pad[3] - wide;
        fits = fits && h >= 0 && w >= 0 && node->h == h / node->stride_h + 1 &&
               node->w == w / node->stride_w + 1 && has_weights(g, node, in->c);
    }
    if (!fits)
        return kd_fail(diag, -KD_EINVAL,
                       "Convolution '%s' (%dx%d, stride %dx%d, dilation %dx%d, "
                       "groups %d, padding "
                       "%d,%d,%d,%d) "
                       "of [%d,%d,%d] cannot give [%d,%d,%d] or has parameters of "
                       "another size.",
                       node->name, node->kernel_h, node->kernel_w, node->stride_h, node->stride_w,
                       node->dilation_h, node->dilation_w, node->groups, node->pad[0], node->pad[1],
                       node->pad[2], node->pad[3], in->h, in->w, in->c, node->h, node->w, node->c);
    return 0;
}

int kd_conv_act_post_ops(const kd_plan *p, const kd_task *t, dnnl_post_ops_t post, kd_diag *diag)
{
    kd_act_step steps[2];
    const int n = t->act_inside ? kd_act_steps(&p->graph->nodes[t->act], steps) : 0;
    int rc = 0;
    for (int i = 0; !rc && i < n; i++)
        rc = kd_onednn(
            dnnl_post_ops_append_eltwise(post, 1.0F, steps[i].alg, steps[i].alpha, steps[i].beta),
            "activation", diag);
    return rc;
}

static int post_ops(const kd_plan *p, const kd_task *t, dnnl_post_ops_t *out, kd_diag *diag)
{
    *out = NULL;
    if (t->residual < 0 && !t->act_inside)
        return 0;
    int rc = kd_onednn(dnnl_post_ops_create(out), "post-operations", diag);
    if (!rc && t->residual >= 0)
        rc = kd_onednn(dnnl_post_ops_append_sum(*out, 1.0F), "residual", diag);
    return rc ? rc : kd_conv_act_post_ops(p, t, *out, diag);
}

/* Operands of a plan in bfloat16; sums, gradients of weights and the vector
 * stay float32. */
static dnnl_data_type_t operand(const kd_plan *p)
{
    return p->bfloat16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_memory_desc_t as_type(dnnl_memory_desc_t md, dnnl_data_type_t type)
{
    md.data_type = type;
    return md;
}

static kd_conv_geometry geometry(const kd_plan *p, const kd_task *t)
{
    kd_conv_geometry geo = kd_conv_geometry_of(p, t, dnnl_f32);
    geo.weights_any.data_type = operand(p);
    return geo;
}

/* Forward descriptor for these layouts of input and output. */
static int forward_desc(kd_plan *p, const kd_task *t, const dnnl_memory_desc_t *src,
                        const dnnl_memory_desc_t *dst, dnnl_primitive_desc_t *out, kd_diag *diag)
{
    const kd_conv_geometry geo = geometry(p, t);
    dnnl_post_ops_t post;
    int rc = post_ops(p, t, &post, diag);
    dnnl_convolution_desc_t desc;
    if (!rc)
        rc = kd_onednn(dnnl_dilated_convolution_forward_desc_init(
                           &desc, p->training ? dnnl_forward_training : dnnl_forward_inference,
                           dnnl_convolution_direct, src, &geo.weights_any,
                           geo.has_bias ? &geo.bias : NULL, dst, geo.stride, geo.dilate,
                           geo.pad_before, geo.pad_after),
                       "convolution", diag);
    if (!rc)
        rc = kd_plan_desc_try(p, &desc, post, NULL, out, diag);
    if (post)
        dnnl_post_ops_destroy(post);
    return rc;
}

static dnnl_memory_desc_t any_like(const kd_plan *p, int node, dnnl_data_type_t type)
{
    const kd_node *n = &p->graph->nodes[node];
    return as_type(kd_plan_desc(p, n->c, n->h, n->w, dnnl_format_tag_any), type);
}

static dnnl_data_type_t result_type(const kd_plan *p, const kd_task *t)
{
    return p->values[t->result].narrow ? dnnl_bf16 : dnnl_f32;
}

int kd_conv_wish(kd_plan *p, const kd_task *t, dnnl_memory_desc_t *out, kd_diag *diag)
{
    const dnnl_memory_desc_t src = any_like(p, t->in[0], operand(p)),
                             dst = any_like(p, t->result, result_type(p, t));
    dnnl_primitive_desc_t pd;
    const int rc = forward_desc(p, t, &src, &dst, &pd, diag);
    if (rc == -KD_EUNSUP)
        return kd_fail(diag, rc, "oneDNN has no convolution for '%s'.",
                       p->graph->nodes[t->node].name);
    if (rc)
        return rc;
    *out = as_type(kd_desc_query(pd, dnnl_query_src_md), dnnl_f32);
    dnnl_primitive_desc_destroy(pd);
    return 0;
}

/* Of two descriptors (either may be NULL) keeps the better one, the first on a
 * tie. */
static dnnl_primitive_desc_t better(dnnl_primitive_desc_t a, dnnl_primitive_desc_t b)
{
    if (!b)
        return a;
    if (!a)
        return b;
    if (kd_desc_quality(b) > kd_desc_quality(a)) {
        dnnl_primitive_desc_destroy(a);
        return b;
    }
    dnnl_primitive_desc_destroy(b);
    return a;
}

/* The input as it comes and the output as the implementation likes it; where
 * that would be a slow implementation, both as it likes them. Same rule on
 * every machine, no measuring: the choice is part of the bits. */
static int choose_forward(kd_plan *p, const kd_task *t, dnnl_primitive_desc_t *out, kd_diag *diag)
{
    const dnnl_data_type_t type = result_type(p, t);
    const dnnl_memory_desc_t src = any_like(p, t->in[0], operand(p)),
                             any = any_like(p, t->result, type),
                             given_src = as_type(p->values[t->in[0]].md, operand(p)),
                             dst =
                                 t->residual >= 0 ? as_type(p->values[t->residual].md, type) : any;
    dnnl_primitive_desc_t given = NULL, free_choice = NULL;
    int rc;
    rc = forward_desc(p, t, &given_src, &dst, &given, diag);
    if (rc && rc != -KD_EUNSUP)
        return rc;
    if (rc || kd_desc_quality(given) < 2) {
        rc = forward_desc(p, t, &src, &any, &free_choice, diag);
        if (rc && rc != -KD_EUNSUP) {
            if (given)
                dnnl_primitive_desc_destroy(given);
            return rc;
        }
    }
    *out = better(given, free_choice);
    return *out ? 0
                : kd_fail(diag, -KD_EUNSUP, "oneDNN has no convolution for '%s'.",
                          p->graph->nodes[t->node].name);
}

/* The sum is made in place: the residual's memory becomes the result's, unless
 * the convolution itself still reads it. */
int kd_conv_residual_block(const kd_plan *p, const kd_task *t, const dnnl_memory_desc_t *result)
{
    if (t->residual < 0)
        return -1;
    const kd_value *r = &p->values[t->residual];
    dnnl_memory_desc_t alike = r->md;
    if (r->scale > 0)
        alike.data_type = result->data_type; /* the same size: see kd_value.positive */
    const bool free = r->last_use == t->index && t->residual != t->in[0] &&
                      t->residual != p->output && p->blocks[r->block].last != KD_TICK_EVER;
    return free && kd_desc_equal(&alike, result) ? r->block : -1;
}

static int prepare_forward(kd_plan *p, kd_task *t, state *s, const kd_conv_geometry *geo,
                           dnnl_primitive_desc_t pd, dnnl_memory_desc_t *out_weights_md,
                           dnnl_memory_t *out_weights, kd_diag *diag)
{
    const int tick = kd_tick_forward(t);
    const kd_value *in = &p->values[t->in[0]];
    const dnnl_memory_desc_t src_md = kd_desc_query(pd, dnnl_query_src_md);
    const dnnl_memory_desc_t dst_md = kd_desc_query(pd, dnnl_query_dst_md);
    const dnnl_memory_desc_t w_md = kd_desc_query(pd, dnnl_query_weights_md);
    dnnl_memory_t src, weights, bias = NULL;
    const int share = kd_conv_residual_block(p, t, &dst_md);
    int rc = kd_plan_make_value(p, t, &dst_md, share, diag);
    if (!rc && t->residual >= 0 && share < 0)
        rc = kd_plan_reorder(p, &p->values[t->residual].md, p->values[t->residual].mem, &dst_md,
                             p->values[t->result].mem, tick, &s->reorder_residual, diag);
    if (!rc)
        rc = kd_plan_as(p, &in->md, in->mem, &src_md, tick, tick, &src, &s->reorder_src, diag);
    if (!rc)
        rc = kd_plan_new_memory(p, &w_md, 0, KD_TICK_EVER, &weights, NULL, diag);
    if (!rc)
        rc = kd_plan_reorder(p, &geo->weights_plain, s->plain, &w_md, weights, 0, &s->pack, diag);
    if (!rc && geo->has_bias)
        rc = kd_plan_new_memory(p, &geo->bias, 0, KD_TICK_EVER, &bias, &s->bias, diag);
    if (!rc)
        rc = kd_plan_prim(p, pd, tick, tick, &s->forward, diag);
    if (rc)
        return rc;
    kd_prim_arg(s->forward, DNNL_ARG_SRC, src);
    kd_prim_arg(s->forward, DNNL_ARG_WEIGHTS, weights);
    if (bias)
        kd_prim_arg(s->forward, DNNL_ARG_BIAS, bias);
    kd_prim_arg(s->forward, DNNL_ARG_DST, p->values[t->result].mem);
    *out_weights_md = w_md;
    *out_weights = weights;
    return 0;
}

static int backward_desc(kd_plan *p, const kd_conv_geometry *geo, bool of_weights,
                         const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *y,
                         dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out, kd_diag *diag)
{
    dnnl_convolution_desc_t desc;
    const dnnl_memory_desc_t d_weights = as_type(geo->weights_any, dnnl_f32);
    const dnnl_status_t status =
        of_weights
            ? dnnl_dilated_convolution_backward_weights_desc_init(
                  &desc, dnnl_convolution_direct, x, &d_weights, geo->has_bias ? &geo->bias : NULL,
                  y, geo->stride, geo->dilate, geo->pad_before, geo->pad_after)
            : dnnl_dilated_convolution_backward_data_desc_init(
                  &desc, dnnl_convolution_direct, x, &geo->weights_any, y, geo->stride, geo->dilate,
                  geo->pad_before, geo->pad_after);
    const int rc = kd_onednn(status, "convolution's gradient", diag);
    return rc ? rc : kd_plan_desc_try(p, &desc, NULL, hint, out, diag);
}

/* Descriptor of a backward: with the layouts of the forward's input x and output
 * y, then, if that is slow, with its own. */
static int choose_backward(kd_plan *p, const kd_task *t, const kd_conv_geometry *geo,
                           bool of_weights, dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out,
                           kd_diag *diag)
{
    dnnl_primitive_desc_t best = NULL;
    const dnnl_memory_desc_t any_x = any_like(p, t->in[0], of_weights ? operand(p) : dnnl_f32),
                             any_y = any_like(p, t->result, operand(p));
    for (int own = 0; own < 2; own++) {
        const dnnl_memory_desc_t x = own ? any_x : as_type(p->values[t->in[0]].md, any_x.data_type);
        const dnnl_memory_desc_t y = own ? any_y : as_type(p->values[t->result].md, operand(p));
        dnnl_primitive_desc_t pd = NULL;
        int rc = backward_desc(p, geo, of_weights, &x, &y, hint, &pd, diag);
        if (rc && rc != -KD_EUNSUP) {
            if (best)
                dnnl_primitive_desc_destroy(best);
            return rc;
        }
        best = better(best, pd);
        if (best && kd_desc_quality(best) == 2)
            break;
    }
    *out = best;
    return best ? 0
                : kd_fail(diag, -KD_EUNSUP, "oneDNN has no gradient of convolution '%s'.",
                          p->graph->nodes[t->node].name);
}

static int prepare_data(kd_plan *p, kd_task *t, state *s, const kd_conv_geometry *geo,
                        dnnl_primitive_desc_t hint, const dnnl_memory_desc_t *packed_md,
                        dnnl_memory_t packed, kd_diag *diag)
{
    const int back = kd_tick_backward(p, t);
    const kd_value *in = &p->values[t->in[0]], *v = &p->values[t->result];
    dnnl_primitive_desc_t pd;
    int rc = choose_backward(p, t, geo, false, hint, &pd, diag);
    if (rc)
        return rc;
    const dnnl_memory_desc_t x_md = kd_desc_query(pd, dnnl_query_diff_src_md);
    const dnnl_memory_desc_t y_md = kd_desc_query(pd, dnnl_query_diff_dst_md);
    const dnnl_memory_desc_t w_md = kd_desc_query(pd, dnnl_query_weights_md);
    dnnl_memory_t d_y, d_x, weights = packed;
    rc = kd_plan_as(p, &v->md, v->d_mem, &y_md, back, back, &d_y, &s->data_reorder_d_y, diag);
    if (!rc)
        rc = kd_plan_into(p, &x_md, &in->md, t->d_in[0], back, &d_x, &s->data_reorder_d_x, diag);
    if (!rc && !kd_desc_equal(&w_md, packed_md)) {
        rc = kd_plan_new_memory(p, &w_md, 0, KD_TICK_EVER, &weights, NULL, diag);
        if (!rc)
            rc = kd_plan_reorder(p, &geo->weights_plain, s->plain, &w_md, weights, 0, &s->pack_data,
                                 diag);
    }
    if (!rc)
        rc = kd_plan_prim(p, pd, back, back, &s->data, diag);
    dnnl_primitive_desc_destroy(pd);
    if (rc)
        return rc;
    kd_prim_arg(s->data, DNNL_ARG_DIFF_DST, d_y);
    kd_prim_arg(s->data, DNNL_ARG_WEIGHTS, weights);
    kd_prim_arg(s->data, DNNL_ARG_DIFF_SRC, d_x);
    return 0;
}

static int prepare_weights(kd_plan *p, kd_task *t, state *s, const kd_conv_geometry *geo,
                           dnnl_primitive_desc_t hint, kd_diag *diag)
{
    const int back = kd_tick_backward(p, t);
    const kd_value *in = &p->values[t->in[0]], *v = &p->values[t->result];
    dnnl_primitive_desc_t pd;
    int rc = choose_backward(p, t, geo, true, hint, &pd, diag);
    if (rc)
        return rc;
    if (!strstr(kd_desc_implementation(pd), "dw") && kd_depthwise_fits(p, t)) {
        dnnl_primitive_desc_destroy(pd);
        s->scratch = kd_plan_block(p, kd_depthwise_scratch(p, t), back, back, diag);
        return KD_MIN(s->scratch, 0);
    }
    const dnnl_memory_desc_t x_md = kd_desc_query(pd, dnnl_query_src_md);
    const dnnl_memory_desc_t y_md = kd_desc_query(pd, dnnl_query_diff_dst_md);
    const dnnl_memory_desc_t w_md = kd_desc_query(pd, dnnl_query_diff_weights_md);
    dnnl_memory_t x, d_y, d_w, d_bias = NULL;
    rc = kd_plan_as(p, &in->md, in->mem, &x_md, back, back, &x, &s->weights_reorder_x, diag);
    if (!rc)
        rc =
            kd_plan_as(p, &v->md, v->d_mem, &y_md, back, back, &d_y, &s->weights_reorder_d_y, diag);
    if (!rc)
        rc = kd_plan_new_memory(p, &w_md, back, back, &d_w, NULL, diag);
    if (!rc)
        rc = kd_plan_reorder(p, &w_md, d_w, &geo->weights_plain, s->plain, back, &s->unpack, diag);
    if (!rc && geo->has_bias)
        rc = kd_plan_new_memory(p, &geo->bias, back, back, &d_bias, &s->d_bias, diag);
    if (!rc)
        rc = kd_plan_prim(p, pd, back, back, &s->weights, diag);
    dnnl_primitive_desc_destroy(pd);
    if (rc)
        return rc;
    kd_prim_arg(s->weights, DNNL_ARG_SRC, x);
    kd_prim_arg(s->weights, DNNL_ARG_DIFF_DST, d_y);
    kd_prim_arg(s->weights, DNNL_ARG_DIFF_WEIGHTS, d_w);
    if (d_bias)
        kd_prim_arg(s->weights, DNNL_ARG_DIFF_BIAS, d_bias);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a convolution.");
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_conv_geometry geo = geometry(p, t);
    s->bias = s->d_bias = s->scratch = -1;
    t->act_inside = t->act >= 0;
    dnnl_primitive_desc_t pd;
    int rc = choose_forward(p, t, &pd, diag);
    if (rc)
        return rc;
    rc = kd_plan_memory(p, &geo.weights_plain, -1, &s->plain, diag);
    if (!rc && t->bn >= 0) {
        rc = kd_plan_staging(p, p->graph->params[node->weight].count * sizeof(float), diag);
        rc = KD_MIN(rc, 0);
    }
    dnnl_memory_desc_t w_md;
    dnnl_memory_t weights;
    if (!rc)
        rc = prepare_forward(p, t, s, &geo, pd, &w_md, &weights, diag);
    if (!rc && p->training && t->d_in[0])
        rc = prepare_data(p, t, s, &geo, pd, &w_md, weights, diag);
    if (!rc && p->training)
        rc = prepare_weights(p, t, s, &geo, pd, diag);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

/* conv then batch norm is a convolution with weights w s and bias (b - mean) s
 * + beta, s = gamma / sqrt(var + eps), a factor an output channel. */
int kd_conv_fold(const kd_plan *p, const kd_task *t, const float *vector, float *folded,
                 float *bias, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *params = p->graph->params;
    const float *w = vector + params[node->weight].offset;
    if (t->bn < 0) {
        memcpy(folded, w, params[node->weight].count * sizeof *w);
        for (int o = 0; o < node->c; o++)
            bias[o] = node->bias >= 0 ? vector[params[node->bias].offset + (size_t)o] : 0;
        return 0;
    }
    const kd_node *bn = &p->graph->nodes[t->bn];
    const float *gamma = vector + params[bn->weight].offset;
    const float *beta = vector + params[bn->bias].offset;
    const float *mean = vector + params[bn->mean].offset;
    const float *var = vector + params[bn->var].offset;
    const size_t row = params[node->weight].count / (size_t)node->c;
    for (int o = 0; o < node->c; o++) {
        const double spread = (double)var[o] + (double)bn->eps;
        if (!(spread > 0) || !isfinite(spread))
            return kd_fail(diag, -KD_EDATA, "Running variance %d of '%s' is %g: not a variance.", o,
                           bn->name, (double)var[o]);
        const double factor = (double)gamma[o] / sqrt(spread);
        const double b =
            node->bias >= 0 ? (double)vector[params[node->bias].offset + (size_t)o] : 0;
        bias[o] = (float)((b - (double)mean[o]) * factor + (double)beta[o]);
        for (size_t i = 0; i < row; i++)
            folded[(size_t)o * row + i] = (float)((double)w[(size_t)o * row + i] * factor);
    }
    return 0;
}

int kd_conv_weights(const kd_plan *p, const kd_task *t, const float *vector, int bias,
                    const float **out, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *params = p->graph->params;
    *out = vector + params[node->weight].offset;
    if (t->bn >= 0) {
        *out = kd_plan_data(p, p->staging);
        return kd_conv_fold(p, t, vector, kd_plan_data(p, p->staging), kd_plan_data(p, bias), diag);
    }
    if (node->bias >= 0)
        memcpy(kd_plan_data(p, bias), vector + params[node->bias].offset,
               (size_t)node->c * sizeof(float));
    return 0;
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    const state *s = t->state;
    const float *weights;
    int rc = kd_conv_weights(p, t, vector, s->bias, &weights, diag);
    if (!rc)
        rc = kd_memory_bind(s->plain, weights, diag);
    if (!rc)
        rc = kd_prim_run(p, s->pack, diag);
    return rc ? rc : kd_prim_run(p, s->pack_data, diag);
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    int rc = kd_prim_run(p, s->reorder_src, diag);
    if (!rc)
        rc = kd_prim_run(p, s->reorder_residual, diag);
    return rc ? rc : kd_prim_run(p, s->forward, diag);
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *params = p->graph->params;
    int rc = kd_prim_run(p, s->data_reorder_d_y, diag);
    if (!rc)
        rc = kd_prim_run(p, s->data, diag);
    if (!rc)
        rc = kd_prim_run(p, s->data_reorder_d_x, diag);
    if (!rc && s->scratch >= 0) {
        kd_depthwise_weights(p, t, kd_plan_data(p, s->scratch),
                             gradient + params[node->weight].offset,
                             node->bias >= 0 ? gradient + params[node->bias].offset : NULL);
        return 0;
    }
    if (!rc)
        rc = kd_prim_run(p, s->weights_reorder_x, diag);
    if (!rc)
        rc = kd_prim_run(p, s->weights_reorder_d_y, diag);
    if (!rc)
        rc = kd_prim_run(p, s->weights, diag);
    if (!rc)
        rc = kd_memory_bind(s->plain, gradient + params[node->weight].offset, diag);
    if (!rc)
        rc = kd_prim_run(p, s->unpack, diag);
    if (!rc && s->d_bias >= 0)
        memcpy(gradient + params[node->bias].offset, kd_plan_data(p, s->d_bias),
               (size_t)node->c * sizeof(float));
    return rc;
}

const kd_op_impl kd_op_conv = {"convolution", check, prepare, load, forward, backward};
