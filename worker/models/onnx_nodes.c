/* Convolutions, dense layers, normalisation, activations. */
#include "models/onnx_internal.h"

#include <float.h>
#include <math.h>

/* ---- windows of convolutions and pools (also onnx_pools.c) */

int kd_onnx_window(kd_onnx_ctx *c, const kd_onnx_dyn *d, const int64_t *kernel, kd_onnx_window_t *w)
{
    const int64_t *strides, *dilations, *pads;
    size_t n_strides, n_dilations, n_pads;
    char mode[16];
    int rc;
    if ((rc = kd_onnx_attr_ints(c, "strides", &strides, &n_strides)) ||
        (rc = kd_onnx_attr_ints(c, "dilations", &dilations, &n_dilations)) ||
        (rc = kd_onnx_attr_ints(c, "pads", &pads, &n_pads)) ||
        (rc = kd_onnx_attr_text(c, "auto_pad", "NOTSET", mode, sizeof mode)))
        return rc;
    if ((strides && n_strides != 2) || (dilations && n_dilations != 2) || (pads && n_pads != 4))
        return kd_onnx_fail(c, -KD_EDATA, "strides, dilations or pads are not those of two axes");
    const bool upper = strcmp(mode, "SAME_UPPER") == 0, lower = strcmp(mode, "SAME_LOWER") == 0;
    const bool valid = strcmp(mode, "VALID") == 0;
    if (!upper && !lower && !valid && strcmp(mode, "NOTSET") != 0 && mode[0])
        return kd_onnx_fail(c, -KD_EUNSUP, "auto_pad %s is not supported", mode);
    for (int i = 0; i < 2; i++) {
        const int64_t in = d->dim[2 + i];
        const int64_t step = strides ? strides[i] : 1, far = dilations ? dilations[i] : 1;
        int64_t before = pads ? pads[i] : 0, after = pads ? pads[2 + i] : 0;
        if (kernel[i] < 1 || kernel[i] > 4096 || step < 1 || step > 4096 || far < 1 || far > 4096 ||
            before < 0 || before > 4096 || after < 0 || after > 4096)
            return kd_onnx_fail(
                c, -KD_EUNSUP,
                "kernel %lld, stride %lld, dilation %lld, pads %lld and %lld: kernel, "
                "stride and dilation are 1..4096, pads 0..4096",
                (long long)kernel[i], (long long)step, (long long)far, (long long)before,
                (long long)after);
        if (valid)
            before = after = 0;
        if (upper || lower) {
            const int64_t out = (in + step - 1) / step;
            const int64_t all = KD_MAX((out - 1) * step + (kernel[i] - 1) * far + 1 - in, 0);
            before = upper ? all / 2 : all - all / 2;
            after = all - before;
        }
        w->kernel[i] = (int)kernel[i];
        w->stride[i] = (int)step;
        w->dilation[i] = (int)far;
        w->pad[i] = (int)before;
        w->pad[2 + i] = (int)after;
    }
    return 0;
}

int kd_onnx_image(kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_groups *out_groups, int *out_node)
{
    if (d->rank != 4 || d->batch > 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "works on a tensor of %d axes; only [N,C,H,W] is read",
                            d->rank);
    if (d->batch < 0 && d->dim[0] != 1)
        return kd_onnx_fail(c, -KD_EUNSUP, "works on an axis that is not the batch");
    *out_groups = kd_onnx_group3(1, 2, 3);
    return kd_onnx_arrange(c, d, out_groups, out_node);
}

void kd_onnx_made_image(kd_onnx_ctx *c, const kd_onnx_dyn *in, int node, kd_onnx_dyn *out)
{
    const kd_onnx_groups groups = kd_onnx_group3(1, 2, 3);
    *out = *in;
    if (node >= 0) {
        out->dim[1] = c->g->nodes[node].c;
        out->dim[2] = c->g->nodes[node].h;
        out->dim[3] = c->g->nodes[node].w;
    }
    kd_onnx_settle(out, node, &groups);
}

/* Zeros that a node before the convolution puts around the picture become its padding. */
static int absorb_pad(const kd_onnx_ctx *c, int node, int pad[4])
{
    const kd_node *n = &c->g->nodes[node];
    if (n->op != KD_OP_PAD || n->alpha != 0)
        return node;
    const kd_node *in = &c->g->nodes[n->in[0]];
    if (in->c != n->c)
        return node;
    pad[0] += n->start[KD_AXIS_H];
    pad[1] += n->start[KD_AXIS_W];
    pad[2] += n->h - in->h - n->start[KD_AXIS_H];
    pad[3] += n->w - in->w - n->start[KD_AXIS_W];
    return n->in[0];
}

int kd_onnx_conv(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    kd_onnx_const *weight, *bias = NULL;
    kd_onnx_groups groups;
    kd_onnx_window_t w;
    const int64_t *kernel;
    size_t n_kernel;
    int64_t group;
    int node, rc;
    if ((rc = kd_onnx_only_attrs(c, "auto_pad dilations group kernel_shape pads strides")) ||
        (rc = kd_onnx_in_dyn(c, 0, &d)) || (rc = kd_onnx_in_const(c, 1, "weight", &weight)) ||
        (kd_onnx_in(c, 2) && (rc = kd_onnx_in_const(c, 2, "bias", &bias))) ||
        (rc = kd_onnx_attr_ints(c, "kernel_shape", &kernel, &n_kernel)) ||
        (rc = kd_onnx_attr_int(c, "group", 1, &group)) ||
        (rc = kd_onnx_image(c, d, &groups, &node)))
        return rc;
    if (weight->integer || weight->rank != 4 || weight->count == 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "the weight %s is not of shape [out,in,height,width]",
                            weight->name);
    if (kernel && (n_kernel != 2 || kernel[0] != weight->dim[2] || kernel[1] != weight->dim[3]))
        return kd_onnx_fail(c, -KD_EDATA, "kernel_shape is not that of the weight %s",
                            weight->name);
    if (group < 1 || group > 65536 || weight->dim[0] > 65536 ||
        weight->dim[1] * group != d->dim[1] || weight->dim[0] % group != 0)
        return kd_onnx_fail(c, -KD_EDATA,
                            "the weight %s of shape [%lld,%lld,...] does not go with %lld channels "
                            "in %lld groups",
                            weight->name, (long long)weight->dim[0], (long long)weight->dim[1],
                            (long long)d->dim[1], (long long)group);
    if (bias && (bias->integer || bias->count != (size_t)weight->dim[0]))
        return kd_onnx_fail(c, -KD_EDATA, "the bias %s has %zu values for %lld channels",
                            bias->name, bias->count, (long long)weight->dim[0]);
    if ((rc = kd_onnx_window(c, d, &weight->dim[2], &w)))
        return rc;
    node = absorb_pad(c, node, w.pad);
    char name[80];
    kd_onnx_name(c, weight, name);
    kd_conv_spec spec = {.out_channels = (int)weight->dim[0],
                         .kernel_h = w.kernel[0],
                         .kernel_w = w.kernel[1],
                         .stride_h = w.stride[0],
                         .stride_w = w.stride[1],
                         .dilation_h = w.dilation[0],
                         .dilation_w = w.dilation[1],
                         .groups = (int)group,
                         .bias = true, /* dropped again if nothing gives it values */
                         .init = KD_INIT_HE_NORMAL_OUT};
    memcpy(spec.pad, w.pad, sizeof spec.pad);
    node = kd_graph_conv2(c->g, node, name, &spec);
    if ((rc = kd_onnx_fill_from(c, node < 0 ? -1 : c->g->nodes[node].weight, weight, false, 1)) ||
        (bias && (rc = kd_onnx_fill_from(c, c->g->nodes[node].bias, bias, false, 1))))
        return rc;
    kd_onnx_dyn out;
    kd_onnx_made_image(c, d, node, &out);
    return kd_onnx_out_dyn(c, 0, &out);
}

/* ---- dense layers */

/* The last axis of d times weight ([in,out], or [out,in] if `rows`), scaled, without bias. */
static int linear(kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_const *weight, bool rows,
                  float scale, kd_onnx_dyn *out)
{
    if (weight->integer || weight->rank != 2 || weight->count == 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "the weight %s is no matrix of numbers", weight->name);
    const int last = d->rank - 1;
    const int64_t in = weight->dim[rows ? 1 : 0], units = weight->dim[rows ? 0 : 1];
    if (last < 0 || last == d->batch || d->dim[last] != in || units > 65536)
        return kd_onnx_fail(c, -KD_EDATA,
                            "the weight %s of shape [%lld,%lld] does not go with its input's last "
                            "axis",
                            weight->name, (long long)weight->dim[0], (long long)weight->dim[1]);
    kd_onnx_groups groups = kd_onnx_group3(last, -1, -1);
    for (int a = 0; a < last; a++)
        if (a != d->batch && d->dim[a] != 1)
            groups.axis[1][groups.n[1]++] = a;
    int node, rc = kd_onnx_arrange(c, d, &groups, &node);
    if (rc)
        return rc;
    char name[80];
    kd_onnx_name(c, weight, name);
    if (groups.n[1] == 0) {
        node = kd_graph_dense(c->g, node, name, (int)units, false, KD_INIT_GLOROT_UNIFORM);
    } else { /* the same at each place */
        const kd_conv_spec spec = {
            .out_channels = (int)units, .bias = true, .init = KD_INIT_GLOROT_UNIFORM};
        node = kd_graph_conv2(c->g, node, name, &spec);
    }
    *out = *d;
    out->dim[last] = units;
    kd_onnx_settle(out, node, &groups);
    return kd_onnx_fill_from(c, node < 0 ? -1 : c->g->nodes[node].weight, weight, !rows, scale);
}

int kd_onnx_matmul(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    kd_onnx_const *weight;
    kd_onnx_dyn out;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_in_const(c, 1, "second operand", &weight)) ||
        (rc = linear(c, d, weight, false, 1, &out)))
        return rc;
    return kd_onnx_out_dyn(c, 0, &out);
}

int kd_onnx_gemm(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *in;
    kd_onnx_const *weight, *bias = NULL;
    kd_onnx_dyn d, out;
    float alpha, beta;
    int64_t trans_a, trans_b;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "alpha beta transA transB")) ||
        (rc = kd_onnx_in_dyn(c, 0, &in)) || (rc = kd_onnx_in_const(c, 1, "weight", &weight)) ||
        (kd_onnx_in(c, 2) && (rc = kd_onnx_in_const(c, 2, "bias", &bias))) ||
        (rc = kd_onnx_attr_float(c, "alpha", 1, &alpha)) ||
        (rc = kd_onnx_attr_float(c, "beta", 1, &beta)) ||
        (rc = kd_onnx_attr_int(c, "transA", 0, &trans_a)) ||
        (rc = kd_onnx_attr_int(c, "transB", 0, &trans_b)))
        return rc;
    if (in->rank != 2 || !isfinite(alpha) || !isfinite(beta))
        return kd_onnx_fail(c, -KD_EDATA, "works on %d axes, alpha %g, beta %g", in->rank,
                            (double)alpha, (double)beta);
    d = *in;
    if (trans_a) {
        const int swap[2] = {1, 0};
        kd_onnx_remap(&d, 2, swap);
    }
    if ((rc = linear(c, &d, weight, trans_b != 0, alpha, &out)))
        return rc;
    if (!bias || beta == 0)
        return kd_onnx_out_dyn(c, 0, &out);
    if (beta != 1) {
        kd_onnx_const *scaled;
        if ((rc = kd_onnx_const_load(c, bias)) ||
            (rc = kd_onnx_const_new(c, false, bias->rank, bias->dim, &scaled)) ||
            (rc = kd_onnx_const_floats(c, bias, scaled->f)))
            return rc;
        for (size_t i = 0; i < scaled->count; i++)
            scaled->f[i] *= beta;
        scaled->src = bias->src;
        scaled->held = bias->held;
        scaled->name = bias->name;
        bias = scaled;
    }
    return kd_onnx_add_const(c, &out, bias);
}

/* ---- normalisation */

int kd_onnx_batch_norm(kd_onnx_ctx *c)
{
    static const char *const what[] = {"scale", "bias", "mean", "variance"};
    const kd_onnx_dyn *d;
    kd_onnx_const *k[4];
    kd_onnx_groups groups;
    float eps;
    int64_t training, spatial;
    int node, rc;
    if ((rc = kd_onnx_only_attrs(c, "epsilon momentum training_mode spatial")) ||
        (rc = kd_onnx_in_dyn(c, 0, &d)) || (rc = kd_onnx_attr_float(c, "epsilon", 1e-5f, &eps)) ||
        (rc = kd_onnx_attr_int(c, "training_mode", 0, &training)) ||
        (rc = kd_onnx_attr_int(c, "spatial", 1, &spatial)))
        return rc;
    if (training || !spatial)
        return kd_onnx_fail(c, -KD_EUNSUP, "%s is not supported; export the model for inference",
                            training ? "training_mode 1" : "spatial 0");
    if (d->rank < 2 || d->batch > 0 || (d->batch < 0 && d->dim[0] != 1) ||
        !(eps >= 0 && eps < 1e6f))
        return kd_onnx_fail(c, -KD_EUNSUP, "works on other axes than [N,C,...], or epsilon %g",
                            (double)eps);
    for (size_t i = 0; i < 4; i++) {
        if ((rc = kd_onnx_in_const(c, 1 + i, what[i], &k[i])))
            return rc;
        if (k[i]->integer || k[i]->count != (size_t)d->dim[1])
            return kd_onnx_fail(c, -KD_EDATA, "the %s %s has %zu values for %lld channels", what[i],
                                k[i]->name, k[i]->count, (long long)d->dim[1]);
    }
    kd_onnx_groups_channel(c, d, 1, &groups);
    if ((rc = kd_onnx_arrange(c, d, &groups, &node)))
        return rc;
    char name[80];
    kd_onnx_name(c, k[0], name);
    node = kd_graph_batch_norm(c->g, node, name, eps);
    const kd_node *n = &c->g->nodes[KD_MAX(node, 0)];
    const int param[4] = {n->weight, n->bias, n->mean, n->var};
    for (size_t i = 0; i < 4; i++)
        if ((rc = kd_onnx_fill_from(c, node < 0 ? -1 : param[i], k[i], false, 1)))
            return rc;
    kd_onnx_dyn out = *d;
    kd_onnx_settle(&out, node, &groups);
    return kd_onnx_out_dyn(c, 0, &out);
}

/* ---- activations */

static int replace(kd_onnx_ctx *c, const kd_onnx_dyn *d, int node)
{
    kd_onnx_dyn out = *d;
    out.node = node;
    out.shared = false;
    return kd_onnx_out_dyn(c, 0, &out);
}

int kd_onnx_activation(kd_onnx_ctx *c)
{
    const char *op = c->node->op_type;
    const kd_onnx_dyn *d;
    const bool leaky = strcmp(op, "LeakyRelu") == 0, hard = strcmp(op, "HardSigmoid") == 0;
    float alpha = 0, beta = 0;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, hard    ? "alpha beta"
                                    : leaky ? "alpha"
                                            : "")) ||
        (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_attr_float(c, "alpha", leaky ? 0.01f : 0.2f, &alpha)) ||
        (rc = kd_onnx_attr_float(c, "beta", 0.5f, &beta)))
        return rc;
    if (leaky)
        return replace(c, d, kd_graph_leaky_relu(c->g, d->node, alpha));
    if (hard)
        return replace(c, d, kd_graph_hard_sigmoid(c->g, d->node, alpha, beta));
    if (strcmp(op, "Relu") == 0)
        return replace(c, d, kd_graph_relu(c->g, d->node));
    if (strcmp(op, "Sigmoid") == 0)
        return replace(c, d, kd_graph_sigmoid(c->g, d->node));
    if (strcmp(op, "Tanh") == 0)
        return replace(c, d, kd_graph_tanh(c->g, d->node));
    return replace(c, d, kd_graph_hard_swish(c->g, d->node));
}

int kd_onnx_clip(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    float low = -INFINITY, high = INFINITY;
    int rc;
    if ((rc = kd_onnx_in_dyn(c, 0, &d)))
        return rc;
    if (c->opset < 11) {
        if ((rc = kd_onnx_only_attrs(c, "min max")) ||
            (rc = kd_onnx_attr_float(c, "min", low, &low)) ||
            (rc = kd_onnx_attr_float(c, "max", high, &high)))
            return rc;
    } else if ((rc = kd_onnx_only_attrs(c, "")) ||
               (rc = kd_onnx_in_scalar(c, 1, "lower bound", low, &low)) ||
               (rc = kd_onnx_in_scalar(c, 2, "upper bound", high, &high))) {
        return rc;
    }
    if (isnan(low) || isnan(high))
        return kd_onnx_fail(c, -KD_EDATA, "a bound that is no number");
    /* How files say that there is no bound. */
    if (low <= -FLT_MAX)
        low = -INFINITY;
    if (high >= FLT_MAX)
        high = INFINITY;
    if (low > high)
        low = high;
    if (low == 0 && high == 6)
        return replace(c, d, kd_graph_relu6(c->g, d->node));
    if (low == 0 && isinf(high))
        return replace(c, d, kd_graph_relu(c->g, d->node));
    if (isinf(low) && isinf(high) && low < high)
        return kd_onnx_out_dyn(c, 0, d);
    return replace(c, d, kd_graph_clip(c->g, d->node, low, high));
}

int kd_onnx_softmax(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    kd_onnx_groups groups = {{0}, {{0}}};
    int64_t axis;
    int at, node, rc;
    if ((rc = kd_onnx_only_attrs(c, "axis")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_attr_int(c, "axis", c->opset < 13 ? 1 : -1, &axis)) ||
        (rc = kd_onnx_axis(c, axis, d->rank, &at)))
        return rc;
    bool among[KD_ONNX_MAX_RANK] = {false}; /* axes that sum to 1 together */
    int64_t together = 1, all = 1;
    for (int a = 0; a < d->rank; a++) {
        /* Until opset 12 everything from the axis on is one row. */
        among[a] = c->opset < 13 ? a >= at : a == at;
        if (among[a] && a == d->batch)
            return kd_onnx_fail(c, -KD_EUNSUP, "works across the batch");
        if (a == d->batch)
            continue;
        all *= d->dim[a];
        if (among[a])
            together *= d->dim[a];
        const int g = among[a] ? 0 : 1;
        groups.axis[g][groups.n[g]++] = a;
    }
    if (c->node == c->softmax && together == all) {
        c->softmax_dropped = true;
        return kd_onnx_out_dyn(c, 0, d);
    }
    if (c->node->op_type[0] == 'L')
        return kd_onnx_fail(c, -KD_EUNSUP, "only read at the end of a model");
    kd_onnx_groups lie;
    if (kd_onnx_groups_of(c, d, &lie) && lie.n[0] == 1 && among[lie.axis[0][0]] &&
        d->dim[lie.axis[0][0]] == together)
        groups = lie;
    if ((rc = kd_onnx_arrange(c, d, &groups, &node)))
        return rc;
    kd_onnx_dyn out = *d;
    kd_onnx_settle(&out, kd_graph_softmax(c->g, node), &groups);
    return kd_onnx_out_dyn(c, 0, &out);
}

int kd_onnx_dropout(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    float ratio, training;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "ratio seed")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_attr_float(c, "ratio", 0.5f, &ratio)) ||
        (rc = kd_onnx_in_scalar(c, 1, "ratio", ratio, &ratio)) ||
        (rc = kd_onnx_in_scalar(c, 2, "training mode", 0, &training)))
        return rc;
    if (training != 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "training mode; export the model for inference");
    if (!(ratio >= 0 && ratio < 1))
        return kd_onnx_fail(c, -KD_EDATA, "a ratio of %g is not in [0, 1)", (double)ratio);
    if (ratio == 0)
        return kd_onnx_out_dyn(c, 0, d);
    return replace(c, d, kd_graph_dropout(c->g, d->node, ratio));
}
