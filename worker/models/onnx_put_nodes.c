/* Each node of a graph as ONNX's operators: one, or a few. */
#include "models/onnx_put.h"

#include <math.h>
#include <string.h>

static Onnx__NodeProto *simple(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m,
                               const char *type)
{
    Onnx__NodeProto *o = kd_onnx_put_op(w, type, m->title, m->name);
    kd_onnx_put_reads(w, o, w->made[n->in[0]].name);
    return o;
}

/* x * gate(x) */
static void gated(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m, const char *type)
{
    const char *gate = kd_onnx_put_text(w, "%s#gate", m->name);
    Onnx__NodeProto *o = kd_onnx_put_op(w, type, gate, gate);
    kd_onnx_put_reads(w, o, w->made[n->in[0]].name);
    if (n->op == KD_OP_HARD_SWISH) {
        kd_onnx_put_float(w, o, "alpha", 1.0f / 6);
        kd_onnx_put_float(w, o, "beta", 0.5f);
    }
    kd_onnx_put_reads(w, simple(w, n, m, "Mul"), gate);
}

static void clip(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m, float low, float high)
{
    Onnx__NodeProto *o = simple(w, n, m, "Clip");
    if (isfinite(low))
        kd_onnx_put_reads_float(w, o, "min", low);
    else
        kd_onnx_put_reads(w, o, "");
    if (isfinite(high))
        kd_onnx_put_reads_float(w, o, "max", high);
}

static Onnx__NodeProto *on_image(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m,
                                 const char *type)
{
    const char *in = kd_onnx_put_as_image(w, n->in[0], m->name);
    Onnx__NodeProto *o = kd_onnx_put_op(w, type, m->title, m->name);
    kd_onnx_put_reads(w, o, in);
    return o;
}

static void window(kd_onnx_writer *w, Onnx__NodeProto *o, const kd_node *n)
{
    kd_onnx_put_ints(w, o, "kernel_shape", (const int[]){n->kernel_h, n->kernel_w}, 2);
    kd_onnx_put_ints(w, o, "strides", (const int[]){n->stride_h, n->stride_w}, 2);
    kd_onnx_put_ints(w, o, "pads", n->pad, 4);
}

static void conv(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m)
{
    const bool int8 = w->eight && w->eight->nodes[n - w->g->nodes].conv;
    const kd_onnx_made *in = &w->made[n->in[0]];
    const char *weight = kd_onnx_put_weight(w, n);
    const char *bias = int8 && n->bias >= 0 ? kd_onnx_put_bias(w, n) : NULL;
    const char *x = int8 && in->rounded ? in->rounded : kd_onnx_put_as_image(w, n->in[0], m->name);
    Onnx__NodeProto *o = kd_onnx_put_op(w, "Conv", m->title, m->name);
    kd_onnx_put_reads(w, o, x);
    window(w, o, n);
    kd_onnx_put_ints(w, o, "dilations", (const int[]){n->dilation_h, n->dilation_w}, 2);
    kd_onnx_put_int(w, o, "group", n->groups);
    kd_onnx_put_reads_as(w, o, n->weight, weight);
    if (n->bias >= 0)
        kd_onnx_put_reads_as(w, o, n->bias, bias);
}

static void batch_norm(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m)
{
    Onnx__NodeProto *o = simple(w, n, m, "BatchNormalization");
    kd_onnx_put_float(w, o, "epsilon", n->eps);
    kd_onnx_put_reads_param(w, o, n->weight);
    kd_onnx_put_reads_param(w, o, n->bias);
    kd_onnx_put_reads_param(w, o, n->mean);
    kd_onnx_put_reads_param(w, o, n->var);
}

static void dense(kd_onnx_writer *w, const kd_node *n, kd_onnx_made *m)
{
    const char *in = kd_onnx_put_as_flat(w, n->in[0], m->name), *weight = kd_onnx_put_weight(w, n);
    Onnx__NodeProto *o = kd_onnx_put_op(w, "Gemm", m->title, m->name);
    kd_onnx_put_reads(w, o, in);
    kd_onnx_put_reads_as(w, o, n->weight, weight);
    kd_onnx_put_reads_param(w, o, n->bias);
    kd_onnx_put_int(w, o, "transB", 1);
    m->flat = true;
}

static void arithmetic(kd_onnx_writer *w, const kd_node *n, kd_onnx_made *m, const char *type)
{
    const kd_onnx_made *a = &w->made[n->in[0]], *b = &w->made[n->in[1]];
    m->flat = a->flat && b->flat;
    const char *x = m->flat ? a->name : kd_onnx_put_as_image(w, n->in[0], m->name);
    const char *y = m->flat                ? b->name
                    : n->in[0] == n->in[1] ? x
                                           : kd_onnx_put_as_image(w, n->in[1], m->name);
    Onnx__NodeProto *o = kd_onnx_put_op(w, type, m->title, m->name);
    kd_onnx_put_reads(w, o, x);
    kd_onnx_put_reads(w, o, y);
}

static void sides(const kd_node *n, int64_t out[3])
{
    out[KD_AXIS_C] = n->c;
    out[KD_AXIS_H] = n->h;
    out[KD_AXIS_W] = n->w;
}

static void pad(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m)
{
    int64_t have[3], want[3], pads[8] = {0};
    sides(&w->g->nodes[n->in[0]], have);
    sides(n, want);
    for (int i = 0; i < 3; i++) {
        pads[1 + i] = n->start[i];
        pads[5 + i] = want[i] - have[i] - n->start[i];
    }
    Onnx__NodeProto *o = on_image(w, n, m, "Pad");
    kd_onnx_put_reads_ints(w, o, "pads", pads, 8);
    kd_onnx_put_reads_float(w, o, "value", n->alpha);
}

static void slice(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m)
{
    int64_t have[3], want[3], starts[3], ends[3], axes[3], steps[3];
    size_t count = 0;
    sides(&w->g->nodes[n->in[0]], have);
    sides(n, want);
    for (int i = 0; i < 3; i++) {
        if (want[i] == have[i] && n->step[i] == 1)
            continue;
        const int64_t end = n->start[i] + (want[i] - 1) * n->step[i] + (n->step[i] > 0 ? 1 : -1);
        starts[count] = n->start[i];
        ends[count] = end < 0 ? -have[i] - 1 : end; /* before the first, counted from the end */
        axes[count] = 1 + i;
        steps[count++] = n->step[i];
    }
    Onnx__NodeProto *o = on_image(w, n, m, count ? "Slice" : "Identity");
    if (!count)
        return;
    kd_onnx_put_reads_ints(w, o, "starts", starts, count);
    kd_onnx_put_reads_ints(w, o, "ends", ends, count);
    kd_onnx_put_reads_ints(w, o, "axes", axes, count);
    kd_onnx_put_reads_ints(w, o, "steps", steps, count);
}

static void concat(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m)
{
    const char *in[2];
    for (int k = 0; k < 2; k++) {
        in[k] = k && n->in[1] == n->in[0] ? in[0]
                : m->fixed                ? kd_onnx_put_as_image(w, n->in[k], m->name)
                                          : kd_onnx_put_each_image(w, n->in[k], m->name);
    }
    Onnx__NodeProto *o = kd_onnx_put_op(w, "Concat", m->title, m->name);
    kd_onnx_put_int(w, o, "axis", 1 + (int)n->axis);
    kd_onnx_put_reads(w, o, in[0]);
    kd_onnx_put_reads(w, o, in[1]);
}

static void permute(kd_onnx_writer *w, const kd_node *n, const kd_onnx_made *m)
{
    Onnx__NodeProto *o = on_image(w, n, m, "Transpose");
    kd_onnx_put_ints(w, o, "perm",
                     (const int[]){0, 1 + (int)n->of[0], 1 + (int)n->of[1], 1 + (int)n->of[2]}, 4);
}

static void constant(kd_onnx_writer *w, const kd_node *n, kd_onnx_made *m)
{
    m->fixed = true;
    Onnx__NodeProto *o = kd_onnx_put_op(w, "Identity", m->title, m->name);
    kd_onnx_put_reads_param(w, o, n->weight);
}

/* Rounds the value of node `at` to 8 bits, for all who read it or for convolutions alone. */
void kd_onnx_put_round(kd_onnx_writer *w, int at)
{
    const kd_int8_node *k = &w->eight->nodes[at];
    kd_onnx_made *m = &w->made[at];
    if (!(k->unit > 0) || m->flat)
        return;
    float *unit = kd_onnx_put_room(w, sizeof *unit);
    uint8_t *zero = kd_onnx_put_room(w, sizeof *zero);
    *unit = k->unit;
    char *codes = kd_onnx_put_text(w, "%s#code", m->name),
         *name = kd_onnx_put_text(w, "%s#rounded", m->name);
    const char *scale = kd_onnx_put_text(w, "%s#unit", m->name),
               *nought = kd_onnx_put_text(w, "%s#zero", m->name);
    kd_onnx_put_tensor(w, scale, KD_ONNX_FLOAT, 0, NULL, unit, sizeof *unit);
    kd_onnx_put_tensor(w, nought, k->positive ? KD_ONNX_UINT8 : KD_ONNX_INT8, 0, NULL, zero,
                       sizeof *zero);
    Onnx__NodeProto *to = kd_onnx_put_op(w, "QuantizeLinear", codes, codes);
    kd_onnx_put_reads(w, to, m->name);
    kd_onnx_put_reads(w, to, scale);
    kd_onnx_put_reads(w, to, nought);
    Onnx__NodeProto *from = kd_onnx_put_op(w, "DequantizeLinear", name, name);
    kd_onnx_put_reads(w, from, codes);
    kd_onnx_put_reads(w, from, scale);
    kd_onnx_put_reads(w, from, nought);
    if (k->stored)
        m->name = name;
    else
        m->rounded = name;
}

void kd_onnx_put_node(kd_onnx_writer *w, int at)
{
    const kd_node *n = &w->g->nodes[at];
    kd_onnx_made *m = &w->made[at];
    m->title = kd_onnx_put_title(w, at);
    m->name = at == w->g->output ? kd_onnx_put_text(w, "logits") : m->title;
    if (n->in[0] >= 0) {
        m->flat = w->made[n->in[0]].flat;
        m->fixed = w->made[n->in[0]].fixed && (n->in[1] < 0 || w->made[n->in[1]].fixed);
    }
    switch (n->op) {
    case KD_OP_INPUT:
        m->title = m->name = kd_onnx_put_text(w, "input");
        break;
    case KD_OP_CONV:
        conv(w, n, m);
        m->flat = false;
        break;
    case KD_OP_BATCH_NORM:
        batch_norm(w, n, m);
        break;
    case KD_OP_RELU:
        simple(w, n, m, "Relu");
        break;
    case KD_OP_RELU6:
        clip(w, n, m, 0, 6);
        break;
    case KD_OP_MAX_POOL:
    case KD_OP_AVG_POOL: {
        const bool average = n->op == KD_OP_AVG_POOL;
        Onnx__NodeProto *o = on_image(w, n, m, average ? "AveragePool" : "MaxPool");
        window(w, o, n);
        if (average)
            kd_onnx_put_int(w, o, "count_include_pad", n->count_pad);
        m->flat = false;
        break;
    }
    case KD_OP_GLOBAL_AVG_POOL:
        on_image(w, n, m, "GlobalAveragePool");
        m->flat = false;
        break;
    case KD_OP_FLATTEN:
        kd_onnx_put_int(w, simple(w, n, m, "Flatten"), "axis", 1);
        m->flat = true;
        break;
    case KD_OP_DENSE:
        dense(w, n, m);
        break;
    case KD_OP_ADD:
        arithmetic(w, n, m, "Add");
        break;
    case KD_OP_SUB:
        arithmetic(w, n, m, "Sub");
        break;
    case KD_OP_MUL:
        arithmetic(w, n, m, "Mul");
        break;
    case KD_OP_DIV:
        arithmetic(w, n, m, "Div");
        break;
    case KD_OP_SIGMOID:
        simple(w, n, m, "Sigmoid");
        break;
    case KD_OP_SILU:
        gated(w, n, m, "Sigmoid");
        break;
    case KD_OP_TANH:
        simple(w, n, m, "Tanh");
        break;
    case KD_OP_LEAKY_RELU:
        kd_onnx_put_float(w, simple(w, n, m, "LeakyRelu"), "alpha", n->alpha);
        break;
    case KD_OP_CLIP:
        clip(w, n, m, n->alpha, n->beta);
        break;
    case KD_OP_HARD_SIGMOID: {
        Onnx__NodeProto *o = simple(w, n, m, "HardSigmoid");
        kd_onnx_put_float(w, o, "alpha", n->alpha);
        kd_onnx_put_float(w, o, "beta", n->beta);
        break;
    }
    case KD_OP_HARD_SWISH:
        if (w->opt->opset >= 14)
            simple(w, n, m, "HardSwish");
        else
            gated(w, n, m, "HardSigmoid");
        break;
    case KD_OP_CONST:
        constant(w, n, m);
        break;
    case KD_OP_PAD:
        pad(w, n, m);
        m->flat = false;
        break;
    case KD_OP_CONCAT:
        concat(w, n, m);
        m->flat = false;
        break;
    case KD_OP_SLICE:
        slice(w, n, m);
        m->flat = false;
        break;
    case KD_OP_RESHAPE:
        kd_onnx_put_reads_ints(w, on_image(w, n, m, "Reshape"), "shape",
                               (const int64_t[]){0, n->c, n->h, n->w}, 4);
        m->flat = false;
        break;
    case KD_OP_PERMUTE:
        permute(w, n, m);
        m->flat = false;
        break;
    case KD_OP_SOFTMAX:
        kd_onnx_put_int(w, simple(w, n, m, "Softmax"), "axis", 1);
        break;
    case KD_OP_DROPOUT:
        kd_onnx_put_reads_float(w, simple(w, n, m, "Dropout"), "ratio", n->alpha);
        break;
    case KD_OP_DROP_PATH:  /* a number drawn for each image: the format has nothing like it */
    case KD_OP_FAKE_QUANT: /* in training alone */
        simple(w, n, m, "Identity");
        break;
    }
}
