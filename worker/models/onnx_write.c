/* Networks as ONNX files. Every node of the graph becomes one operator or a few; its tensor is
 * [N,C,H,W], or [N,C] behind a dense layer or flattening. A network of 8 bits has pairs of
 * QuantizeLinear and DequantizeLinear where its values are rounded ("QDQ"), and a DequantizeLinear
 * behind each weight. */
#include "engine/plan.h"
#include "models/int8.h"
#include "models/loaded.h"
#include "models/onnx.h"
#include "models/onnx_model.h"

#include "wire/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ATTRIBUTES 6
#define OPS_A_NODE 8             /* most operators that one node becomes, conversions included */
#define BYTES_A_NODE (16u << 10) /* room for their messages; pages that stay empty cost nothing */

/* What a node of the graph has become. */
typedef struct made {
    char *title;   /* of the operator, unlike any other */
    char *name;    /* of the value: the same, but "logits" at the end */
    bool flat;     /* [N,C] */
    bool fixed;    /* does not depend on the picture: one for all images */
    char *rounded; /* of 8 bits, for the convolutions that want it so; NULL = none */
} made;

/* What a network of 8 bits needs besides; arrays over the vector lie as their parameters do. */
typedef struct eight {
    kd_int8_node *nodes; /* [n_nodes] */
    bool *params;        /* [n_params]: written in 8 bits */
    int8_t *codes;       /* [vector_len] */
    float *units;        /* [vector_len]: of weights, one a row; of biases, of products */
    int32_t *biases;     /* [vector_len] */
} eight;

typedef struct writer {
    const kd_graph *g;
    const float *vector;
    const kd_onnx_write_options *opt;
    uint8_t *room; /* of all messages and names */
    size_t used, size;
    made *made; /* [n_nodes] */
    Onnx__NodeProto **nodes;
    Onnx__TensorProto **tensors;
    size_t n_nodes, n_tensors;
    eight *eight;      /* NULL: float32 */
    const char *batch; /* value [1] with the number of images; NULL until it is needed */
} writer;

static void *get(writer *w, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    KD_BUG_ON(size > w->size - w->used);
    void *p = w->room + w->used;
    w->used += size;
    return p;
}

KD_PRINTF(2, 3) static char *text(writer *w, const char *fmt, ...)
{
    char buf[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    KD_BUG_ON(n < 0 || (size_t)n >= sizeof buf);
    return memcpy(get(w, (size_t)n + 1), buf, (size_t)n + 1);
}

/* ---- messages */

static Onnx__NodeProto *op(writer *w, const char *type, const char *name, const char *output)
{
    Onnx__NodeProto *n = get(w, sizeof *n);
    onnx__node_proto__init(n);
    n->op_type = text(w, "%s", type);
    n->name = text(w, "%s", name);
    n->input = get(w, 5 * sizeof *n->input);
    n->output = get(w, sizeof *n->output);
    n->output[n->n_output++] = text(w, "%s", output);
    n->attribute = get(w, MAX_ATTRIBUTES * sizeof *n->attribute);
    w->nodes[w->n_nodes++] = n;
    return n;
}

static void reads(writer *w, Onnx__NodeProto *n, const char *value)
{
    KD_BUG_ON(n->n_input == 5);
    n->input[n->n_input++] = text(w, "%s", value);
}

static Onnx__AttributeProto *attr(writer *w, Onnx__NodeProto *n, const char *name, int32_t type)
{
    KD_BUG_ON(n->n_attribute == MAX_ATTRIBUTES);
    Onnx__AttributeProto *a = n->attribute[n->n_attribute++] = get(w, sizeof *a);
    onnx__attribute_proto__init(a);
    a->name = text(w, "%s", name);
    a->has_type = true;
    a->type = type;
    return a;
}

static void attr_int(writer *w, Onnx__NodeProto *n, const char *name, int64_t v)
{
    Onnx__AttributeProto *a = attr(w, n, name, KD_ONNX_ATTR_INT);
    a->has_i = true;
    a->i = v;
}

static void attr_float(writer *w, Onnx__NodeProto *n, const char *name, float v)
{
    Onnx__AttributeProto *a = attr(w, n, name, KD_ONNX_ATTR_FLOAT);
    a->has_f = true;
    a->f = v;
}

static void attr_ints(writer *w, Onnx__NodeProto *n, const char *name, const int *v, size_t count)
{
    Onnx__AttributeProto *a = attr(w, n, name, KD_ONNX_ATTR_INTS);
    a->ints = get(w, count * sizeof *a->ints);
    a->n_ints = count;
    for (size_t i = 0; i < count; i++)
        a->ints[i] = v[i];
}

/* data is borrowed until the file is packed. */
static void tensor(writer *w, const char *name, int32_t type, size_t n_dims, const int64_t *dims,
                   const void *data, size_t bytes)
{
    Onnx__TensorProto *t = get(w, sizeof *t);
    onnx__tensor_proto__init(t);
    t->name = text(w, "%s", name);
    t->has_data_type = true;
    t->data_type = type;
    t->n_dims = n_dims;
    t->dims = get(w, n_dims * sizeof *dims);
    if (n_dims)
        memcpy(t->dims, dims, n_dims * sizeof *dims);
    t->has_raw_data = true;
    t->raw_data = (ProtobufCBinaryData){bytes, (uint8_t *)(uintptr_t)data};
    w->tensors[w->n_tensors++] = t;
}

/* A list of integers as another input of n, called NAME#what: no node of ours has a # in its name.
 */
static void reads_ints(writer *w, Onnx__NodeProto *n, const char *what, const int64_t *v,
                       size_t count)
{
    const int64_t dim = (int64_t)count;
    const char *name = text(w, "%s#%s", n->output[0], what);
    int64_t *copy = get(w, count * sizeof *v);
    memcpy(copy, v, count * sizeof *v);
    tensor(w, name, KD_ONNX_INT64, 1, &dim, copy, count * sizeof *v);
    reads(w, n, name);
}

/* A number as another input. */
static void reads_float(writer *w, Onnx__NodeProto *n, const char *what, float v)
{
    const char *name = text(w, "%s#%s", n->output[0], what);
    float *copy = get(w, sizeof v);
    *copy = v;
    tensor(w, name, KD_ONNX_FLOAT, 0, NULL, copy, sizeof v);
    reads(w, n, name);
}

/* The float32 value of whole numbers in the place of p, one unit a row. */
static const char *from_codes(writer *w, const kd_param *p)
{
    const int64_t rows = p->shape[0];
    const char *name = text(w, "%s#float", p->name), *unit = text(w, "%s#unit", p->name);
    tensor(w, unit, KD_ONNX_FLOAT, 1, &rows, w->eight->units + p->offset,
           (size_t)rows * sizeof(float));
    Onnx__NodeProto *n = op(w, "DequantizeLinear", name, name);
    reads(w, n, p->name);
    reads(w, n, unit);
    attr_int(w, n, "axis", 0);
    return name;
}

/* A parameter as the next input of n, `name` if it is not its own. */
static void reads_as(writer *w, Onnx__NodeProto *n, int param, const char *name)
{
    reads(w, n, name ? name : w->g->params[param].name);
}

static void reads_param(writer *w, Onnx__NodeProto *n, int param)
{
    reads_as(w, n, param, NULL);
}

/* What makes weights of 8 bits floats; NULL for others. */
static const char *weight_of(writer *w, const kd_node *n)
{
    return w->eight && w->eight->params[n->weight] ? from_codes(w, &w->g->params[n->weight]) : NULL;
}

/* A bias in units of a product of an input and a weight, as whole numbers of 32 bits: what others'
 * 8-bit convolutions want. NULL where it is not exactly that. */
static const char *bias_of(writer *w, const kd_node *n)
{
    eight *e = w->eight;
    const kd_param *p = &w->g->params[n->bias];
    const float *bias = w->vector + p->offset, *units = e->units + w->g->params[n->weight].offset;
    const float in = e->nodes[n->in[0]].unit;
    for (int o = 0; o < n->c; o++) {
        const float unit = e->units[p->offset + (size_t)o] = in * units[o];
        const float code = nearbyintf(bias[o] / unit);
        if (!(fabsf(code) <= 8388608) || code * unit != bias[o])
            return NULL;
        e->biases[p->offset + (size_t)o] = (int32_t)code;
    }
    e->params[n->bias] = true;
    return from_codes(w, p);
}

/* ---- values */

static bool taken(const writer *w, int below, const char *name)
{
    if (strcmp(name, "logits") == 0)
        return true;
    for (int i = 0; i < below; i++)
        if (strcmp(w->made[i].title, name) == 0)
            return true;
    for (int i = 0; i < w->g->n_params; i++)
        if (strcmp(w->g->params[i].name, name) == 0)
            return true;
    return false;
}

/* The node's name where it is free: nodes without parameters are named after what they read. */
static char *title_of(writer *w, int at)
{
    const char *name = w->g->nodes[at].name;
    char *title = text(w, "%s", name);
    for (int i = at; taken(w, at, title); i += w->g->n_nodes)
        title = text(w, "%s_%d", name, i);
    return title;
}

/* The value of node `in` as [N,C,H,W]. `reader` is named in what has to be put between. */
static const char *as_image(writer *w, int in, const char *reader)
{
    const made *m = &w->made[in];
    if (!m->flat)
        return m->name;
    const int64_t axes[2] = {2, 3};
    const char *name = text(w, "%s#image_%d", reader, in);
    Onnx__NodeProto *n = op(w, "Unsqueeze", name, name);
    reads(w, n, m->name);
    reads_ints(w, n, "axes", axes, 2);
    return name;
}

static const char *as_flat(writer *w, int in, const char *reader)
{
    const made *m = &w->made[in];
    if (m->flat)
        return m->name;
    const char *name = text(w, "%s#flat_%d", reader, in);
    Onnx__NodeProto *n = op(w, "Flatten", name, name);
    reads(w, n, m->name);
    attr_int(w, n, "axis", 1);
    return name;
}

/* A fixed value once for each image, where an operator does not broadcast. */
static const char *for_each_image(writer *w, int in, const char *reader)
{
    const kd_node *p = &w->g->nodes[in];
    if (!w->made[in].fixed)
        return as_image(w, in, reader);
    if (!w->batch) {
        Onnx__NodeProto *shape = op(w, "Shape", "batch#shape", "batch#shape");
        reads(w, shape, "input");
        Onnx__NodeProto *cut = op(w, "Slice", "batch#size", "batch#size");
        reads(w, cut, "batch#shape");
        reads_ints(w, cut, "starts", (const int64_t[]){0}, 1);
        reads_ints(w, cut, "ends", (const int64_t[]){1}, 1);
        w->batch = "batch#size";
    }
    const char *sides = text(w, "%s#sides_%d", reader, in),
               *name = text(w, "%s#each_%d", reader, in);
    Onnx__NodeProto *join = op(w, "Concat", sides, sides);
    attr_int(w, join, "axis", 0);
    reads(w, join, w->batch);
    reads_ints(w, join, "rest", (const int64_t[]){p->c, p->h, p->w}, 3);
    Onnx__NodeProto *spread = op(w, "Expand", name, name);
    reads(w, spread, w->made[in].name);
    reads(w, spread, sides);
    return name;
}

/* ---- operators */

static Onnx__NodeProto *simple(writer *w, const kd_node *n, const made *m, const char *type)
{
    Onnx__NodeProto *o = op(w, type, m->title, m->name);
    reads(w, o, w->made[n->in[0]].name);
    return o;
}

/* x * gate(x) */
static void gated(writer *w, const kd_node *n, const made *m, const char *type)
{
    const char *gate = text(w, "%s#gate", m->name);
    Onnx__NodeProto *o = op(w, type, gate, gate);
    reads(w, o, w->made[n->in[0]].name);
    if (n->op == KD_OP_HARD_SWISH) {
        attr_float(w, o, "alpha", 1.0f / 6);
        attr_float(w, o, "beta", 0.5f);
    }
    reads(w, simple(w, n, m, "Mul"), gate);
}

static void clip(writer *w, const kd_node *n, const made *m, float low, float high)
{
    Onnx__NodeProto *o = simple(w, n, m, "Clip");
    if (isfinite(low))
        reads_float(w, o, "min", low);
    else
        reads(w, o, "");
    if (isfinite(high))
        reads_float(w, o, "max", high);
}

static Onnx__NodeProto *on_image(writer *w, const kd_node *n, const made *m, const char *type)
{
    const char *in = as_image(w, n->in[0], m->name);
    Onnx__NodeProto *o = op(w, type, m->title, m->name);
    reads(w, o, in);
    return o;
}

static void window(writer *w, Onnx__NodeProto *o, const kd_node *n)
{
    attr_ints(w, o, "kernel_shape", (const int[]){n->kernel_h, n->kernel_w}, 2);
    attr_ints(w, o, "strides", (const int[]){n->stride_h, n->stride_w}, 2);
    attr_ints(w, o, "pads", n->pad, 4);
}

static void conv(writer *w, const kd_node *n, const made *m)
{
    const bool int8 = w->eight && w->eight->nodes[n - w->g->nodes].conv;
    const made *in = &w->made[n->in[0]];
    const char *weight = weight_of(w, n);
    const char *bias = int8 && n->bias >= 0 ? bias_of(w, n) : NULL;
    const char *x = int8 && in->rounded ? in->rounded : as_image(w, n->in[0], m->name);
    Onnx__NodeProto *o = op(w, "Conv", m->title, m->name);
    reads(w, o, x);
    window(w, o, n);
    attr_ints(w, o, "dilations", (const int[]){n->dilation_h, n->dilation_w}, 2);
    attr_int(w, o, "group", n->groups);
    reads_as(w, o, n->weight, weight);
    if (n->bias >= 0)
        reads_as(w, o, n->bias, bias);
}

static void batch_norm(writer *w, const kd_node *n, const made *m)
{
    Onnx__NodeProto *o = simple(w, n, m, "BatchNormalization");
    attr_float(w, o, "epsilon", n->eps);
    reads_param(w, o, n->weight);
    reads_param(w, o, n->bias);
    reads_param(w, o, n->mean);
    reads_param(w, o, n->var);
}

static void dense(writer *w, const kd_node *n, made *m)
{
    const char *in = as_flat(w, n->in[0], m->name), *weight = weight_of(w, n);
    Onnx__NodeProto *o = op(w, "Gemm", m->title, m->name);
    reads(w, o, in);
    reads_as(w, o, n->weight, weight);
    reads_param(w, o, n->bias);
    attr_int(w, o, "transB", 1);
    m->flat = true;
}

static void arithmetic(writer *w, const kd_node *n, made *m, const char *type)
{
    const made *a = &w->made[n->in[0]], *b = &w->made[n->in[1]];
    m->flat = a->flat && b->flat;
    const char *x = m->flat ? a->name : as_image(w, n->in[0], m->name);
    const char *y = m->flat ? b->name : n->in[0] == n->in[1] ? x : as_image(w, n->in[1], m->name);
    Onnx__NodeProto *o = op(w, type, m->title, m->name);
    reads(w, o, x);
    reads(w, o, y);
}

static void sides(const kd_node *n, int64_t out[3])
{
    out[KD_AXIS_C] = n->c;
    out[KD_AXIS_H] = n->h;
    out[KD_AXIS_W] = n->w;
}

static void pad(writer *w, const kd_node *n, const made *m)
{
    int64_t have[3], want[3], pads[8] = {0};
    sides(&w->g->nodes[n->in[0]], have);
    sides(n, want);
    for (int i = 0; i < 3; i++) {
        pads[1 + i] = n->start[i];
        pads[5 + i] = want[i] - have[i] - n->start[i];
    }
    Onnx__NodeProto *o = on_image(w, n, m, "Pad");
    reads_ints(w, o, "pads", pads, 8);
    reads_float(w, o, "value", n->alpha);
}

static void slice(writer *w, const kd_node *n, const made *m)
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
    reads_ints(w, o, "starts", starts, count);
    reads_ints(w, o, "ends", ends, count);
    reads_ints(w, o, "axes", axes, count);
    reads_ints(w, o, "steps", steps, count);
}

static void concat(writer *w, const kd_node *n, const made *m)
{
    const char *in[2];
    for (int k = 0; k < 2; k++) {
        in[k] = k && n->in[1] == n->in[0] ? in[0]
                : m->fixed                ? as_image(w, n->in[k], m->name)
                                          : for_each_image(w, n->in[k], m->name);
    }
    Onnx__NodeProto *o = op(w, "Concat", m->title, m->name);
    attr_int(w, o, "axis", 1 + (int)n->axis);
    reads(w, o, in[0]);
    reads(w, o, in[1]);
}

static void permute(writer *w, const kd_node *n, const made *m)
{
    Onnx__NodeProto *o = on_image(w, n, m, "Transpose");
    attr_ints(w, o, "perm",
              (const int[]){0, 1 + (int)n->of[0], 1 + (int)n->of[1], 1 + (int)n->of[2]}, 4);
}

static void constant(writer *w, const kd_node *n, made *m)
{
    m->fixed = true;
    Onnx__NodeProto *o = op(w, "Identity", m->title, m->name);
    reads_param(w, o, n->weight);
}

/* Rounds the value of node `at` to 8 bits, for all who read it or for convolutions alone. */
static void round_value(writer *w, int at)
{
    const kd_int8_node *k = &w->eight->nodes[at];
    made *m = &w->made[at];
    if (!(k->unit > 0) || m->flat)
        return;
    float *unit = get(w, sizeof *unit);
    uint8_t *zero = get(w, sizeof *zero);
    *unit = k->unit;
    char *codes = text(w, "%s#code", m->name), *name = text(w, "%s#rounded", m->name);
    const char *scale = text(w, "%s#unit", m->name), *nought = text(w, "%s#zero", m->name);
    tensor(w, scale, KD_ONNX_FLOAT, 0, NULL, unit, sizeof *unit);
    tensor(w, nought, k->positive ? KD_ONNX_UINT8 : KD_ONNX_INT8, 0, NULL, zero, sizeof *zero);
    Onnx__NodeProto *to = op(w, "QuantizeLinear", codes, codes);
    reads(w, to, m->name);
    reads(w, to, scale);
    reads(w, to, nought);
    Onnx__NodeProto *from = op(w, "DequantizeLinear", name, name);
    reads(w, from, codes);
    reads(w, from, scale);
    reads(w, from, nought);
    if (k->stored)
        m->name = name;
    else
        m->rounded = name;
}

static void write_node(writer *w, int at)
{
    const kd_node *n = &w->g->nodes[at];
    made *m = &w->made[at];
    m->title = title_of(w, at);
    m->name = at == w->g->output ? text(w, "logits") : m->title;
    if (n->in[0] >= 0) {
        m->flat = w->made[n->in[0]].flat;
        m->fixed = w->made[n->in[0]].fixed && (n->in[1] < 0 || w->made[n->in[1]].fixed);
    }
    switch (n->op) {
    case KD_OP_INPUT:
        m->title = m->name = text(w, "input");
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
            attr_int(w, o, "count_include_pad", n->count_pad);
        m->flat = false;
        break;
    }
    case KD_OP_GLOBAL_AVG_POOL:
        on_image(w, n, m, "GlobalAveragePool");
        m->flat = false;
        break;
    case KD_OP_FLATTEN:
        attr_int(w, simple(w, n, m, "Flatten"), "axis", 1);
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
        attr_float(w, simple(w, n, m, "LeakyRelu"), "alpha", n->alpha);
        break;
    case KD_OP_CLIP:
        clip(w, n, m, n->alpha, n->beta);
        break;
    case KD_OP_HARD_SIGMOID: {
        Onnx__NodeProto *o = simple(w, n, m, "HardSigmoid");
        attr_float(w, o, "alpha", n->alpha);
        attr_float(w, o, "beta", n->beta);
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
        reads_ints(w, on_image(w, n, m, "Reshape"), "shape", (const int64_t[]){0, n->c, n->h, n->w},
                   4);
        m->flat = false;
        break;
    case KD_OP_PERMUTE:
        permute(w, n, m);
        m->flat = false;
        break;
    case KD_OP_SOFTMAX:
        attr_int(w, simple(w, n, m, "Softmax"), "axis", 1);
        break;
    case KD_OP_DROPOUT:
        reads_float(w, simple(w, n, m, "Dropout"), "ratio", n->alpha);
        break;
    case KD_OP_DROP_PATH:  /* a number drawn for each image: the format has nothing like it */
    case KD_OP_FAKE_QUANT: /* in training alone */
        simple(w, n, m, "Identity");
        break;
    }
}

/* ---- the file */

static Onnx__ValueInfoProto *value_info(writer *w, const char *name, int n, const int64_t *dims)
{
    Onnx__ValueInfoProto *v = get(w, sizeof *v);
    onnx__value_info_proto__init(v);
    v->name = text(w, "%s", name);
    v->type = get(w, sizeof *v->type);
    onnx__type_proto__init(v->type);
    Onnx__TensorTypeProto *t = v->type->tensor_type = get(w, sizeof *t);
    onnx__tensor_type_proto__init(t);
    t->has_elem_type = true;
    t->elem_type = KD_ONNX_FLOAT;
    t->shape = get(w, sizeof *t->shape);
    onnx__tensor_shape_proto__init(t->shape);
    t->shape->dim = get(w, (size_t)(n + 1) * sizeof *t->shape->dim);
    for (int i = 0; i <= n; i++) {
        Onnx__TensorShapeDimension *d = t->shape->dim[t->shape->n_dim++] = get(w, sizeof *d);
        onnx__tensor_shape_dimension__init(d);
        if (i == 0) {
            d->dim_param = text(w, "N");
        } else {
            d->has_dim_value = true;
            d->dim_value = dims[i - 1];
        }
    }
    return v;
}

static void write_param(writer *w, int at)
{
    const kd_param *p = &w->g->params[at];
    const eight *e = w->eight;
    if (!e || !e->params[at])
        tensor(w, p->name, KD_ONNX_FLOAT, (size_t)p->ndim, p->shape, w->vector + p->offset,
               p->count * sizeof(float));
    else if (p->ndim > 1)
        tensor(w, p->name, KD_ONNX_INT8, (size_t)p->ndim, p->shape, e->codes + p->offset, p->count);
    else
        tensor(w, p->name, KD_ONNX_INT32, 1, p->shape, e->biases + p->offset,
               p->count * sizeof *e->biases);
}

static int write_model(writer *w, const kd_loaded_meta *about, kd_buf *out, kd_diag *diag)
{
    const kd_graph *g = w->g;
    const kd_node *first = &g->nodes[0], *last = &g->nodes[g->output];
    for (int i = 0; i < g->n_nodes; i++) {
        write_node(w, i);
        if (w->eight)
            round_value(w, i);
    }
    for (int i = 0; i < g->n_params; i++)
        write_param(w, i);
    const bool vector = last->h == 1 && last->w == 1;
    if (vector && !w->made[g->output].flat) { /* "logits" must be [N,C] */
        Onnx__NodeProto *n = w->nodes[w->n_nodes - 1];
        n->output[0] = text(w, "%s#before", n->name);
        Onnx__NodeProto *flat = op(w, "Flatten", "logits", "logits");
        reads(w, flat, n->output[0]);
        attr_int(w, flat, "axis", 1);
    }
    Onnx__GraphProto graph = ONNX__GRAPH_PROTO__INIT;
    Onnx__ValueInfoProto *input =
        value_info(w, "input", 3, (const int64_t[]){first->c, first->h, first->w});
    Onnx__ValueInfoProto *output =
        value_info(w, "logits", vector ? 1 : 3, (const int64_t[]){last->c, last->h, last->w});
    const char *model = w->opt->info ? w->opt->info->model : "";
    graph.name = text(w, "%s", *model ? model : "network");
    graph.node = w->nodes;
    graph.n_node = w->n_nodes;
    graph.initializer = w->tensors;
    graph.n_initializer = w->n_tensors;
    graph.input = &input;
    graph.output = &output;
    graph.n_input = graph.n_output = 1;
    Onnx__OperatorSetIdProto set = ONNX__OPERATOR_SET_ID_PROTO__INIT, *sets = &set;
    set.has_version = true;
    set.version = w->opt->opset;
    Onnx__StringStringEntryProto meta[KD_LOADED_PAIRS], *metas[KD_LOADED_PAIRS];
    Onnx__ModelProto file = ONNX__MODEL_PROTO__INIT;
    for (size_t i = 0; i < about->n_pairs; i++) {
        metas[i] = &meta[i];
        onnx__string_string_entry_proto__init(metas[i]);
        metas[i]->key = (char *)(uintptr_t)about->pairs[i].key;
        metas[i]->value = (char *)(uintptr_t)about->pairs[i].value;
    }
    file.n_metadata_props = about->n_pairs;
    file.metadata_props = metas;
    file.has_ir_version = true;
    file.ir_version = w->opt->opset >= 15 ? 8 : 7;
    file.producer_name = (char *)(uintptr_t) "distilld";
    file.producer_version = (char *)(uintptr_t)KD_VERSION;
    file.graph = &graph;
    file.opset_import = &sets;
    file.n_opset_import = 1;
    return kd_wire_pack(&file, out)
               ? kd_fail(diag, -KD_ELIMIT, "the network does not fit into %zu bytes as ONNX",
                         out->max)
               : 0;
}

static void eight_clear(eight *e)
{
    free(e->nodes);
    free(e->params);
    free(e->codes);
    free(e->units);
    free(e->biases);
}

static int eight_make(const kd_graph *g, const float *vector, eight *e, kd_diag *diag)
{
    kd_plan *p;
    const size_t n = g->vector_len + 1;
    *e = (eight){.nodes = calloc((size_t)g->n_nodes, sizeof *e->nodes),
                 .params = calloc((size_t)g->n_params + 1, sizeof *e->params),
                 .codes = malloc(n),
                 .units = malloc(n * sizeof *e->units),
                 .biases = malloc(n * sizeof *e->biases)};
    if (!e->nodes || !e->params || !e->codes || !e->units || !e->biases)
        return kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as ONNX");
    const int rc = kd_plan_new_ranged(g, 1, vector, &p, diag);
    if (rc)
        return rc;
    kd_plan_int8_nodes(p, e->nodes);
    kd_plan_free(p);
    kd_int8_params(g, e->params);
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *w = &g->params[i];
        if (e->params[i])
            kd_int8_codes(vector + w->offset, (int)w->shape[0], w->count / (size_t)w->shape[0],
                          e->codes + w->offset, e->units + w->offset);
    }
    return 0;
}

int kd_onnx_write(const kd_graph *g, const float *vector, const kd_onnx_write_options *opt,
                  kd_buf *out, kd_diag *diag)
{
    if (opt->opset != 13 && opt->opset != 17)
        return kd_fail(diag, -KD_EINVAL, "opset %d is not written; 13 and 17 are", opt->opset);
    const size_t n = (size_t)g->n_nodes;
    writer w = {.g = g, .vector = vector, .opt = opt};
    w.size = (n + (size_t)g->n_params + 16) * BYTES_A_NODE;
    w.room = calloc(1, w.size);
    w.made = calloc(n, sizeof *w.made);
    w.nodes = calloc(n * OPS_A_NODE + 8, sizeof *w.nodes);
    w.tensors = calloc(n * OPS_A_NODE + (size_t)g->n_params + 8, sizeof *w.tensors);
    kd_model_file_info info = opt->info ? *opt->info : (kd_model_file_info){0};
    kd_loaded_meta about = {0};
    info.size = g->nodes[0].h == g->nodes[0].w ? g->nodes[0].h : 0;
    int rc = w.room && w.made && w.nodes && w.tensors
                 ? kd_loaded_describe(NULL, &info, &about, diag)
                 : kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as ONNX");
    eight e = {0};
    if (!rc && kd_graph_is_int8(g)) {
        rc = eight_make(g, vector, &e, diag);
        w.eight = &e;
    }
    if (!rc)
        rc = write_model(&w, &about, out, diag);
    eight_clear(&e);
    free(w.room);
    free(w.made);
    free(w.nodes);
    free(w.tensors);
    kd_loaded_meta_clear(&about);
    return rc;
}
