/* Networks as ONNX files. Every node of the graph becomes one operator or a few; its tensor is
 * [N,C,H,W], or [N,C] behind a dense layer or flattening. */
#include "models/loaded.h"
#include "models/onnx.h"
#include "models/onnx_model.h"

#include "wire/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ATTRIBUTES 6
#define MAX_META 8
#define OPS_A_NODE 8             /* most operators that one node becomes, conversions included */
#define BYTES_A_NODE (16u << 10) /* room for their messages; pages that stay empty cost nothing */

/* What a node of the graph has become. */
typedef struct made {
    char *title; /* of the operator, unlike any other */
    char *name;  /* of the value: the same, but "logits" at the end */
    bool flat;   /* [N,C] */
    bool fixed;  /* does not depend on the picture: one for all images */
} made;

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

static void reads_param(writer *w, Onnx__NodeProto *n, int param)
{
    reads(w, n, w->g->params[param].name);
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
    Onnx__NodeProto *o = on_image(w, n, m, "Conv");
    window(w, o, n);
    attr_ints(w, o, "dilations", (const int[]){n->dilation_h, n->dilation_w}, 2);
    attr_int(w, o, "group", n->groups);
    reads_param(w, o, n->weight);
    if (n->bias >= 0)
        reads_param(w, o, n->bias);
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
    const char *in = as_flat(w, n->in[0], m->name);
    Onnx__NodeProto *o = op(w, "Gemm", m->title, m->name);
    reads(w, o, in);
    reads_param(w, o, n->weight);
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
    case KD_OP_DROP_PATH: /* a number drawn for each image: the format has nothing like it */
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

static int write_model(writer *w, char *classes, kd_buf *out, kd_diag *diag)
{
    const kd_graph *g = w->g;
    const kd_node *first = &g->nodes[0], *last = &g->nodes[g->output];
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        tensor(w, p->name, KD_ONNX_FLOAT, (size_t)p->ndim, p->shape, w->vector + p->offset,
               p->count * sizeof(float));
    }
    for (int i = 0; i < g->n_nodes; i++)
        write_node(w, i);
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
    graph.name = text(w, "%s", *w->opt->model ? w->opt->model : "network");
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
    Onnx__StringStringEntryProto meta[MAX_META], *metas[MAX_META];
    const char *preprocess = kd_preprocess_word(w->opt->preprocess);
    char *const pairs[][2] = {
        {"preprocess", (char *)(uintptr_t)(preprocess ? preprocess : "")},
        {"size", text(w, "%d", first->h)},
        {"classes", classes},
        {"model", (char *)(uintptr_t)w->opt->model},
        {"digest", (char *)(uintptr_t)w->opt->digest},
    };
    Onnx__ModelProto model = ONNX__MODEL_PROTO__INIT;
    for (size_t i = 0; i < KD_COUNT(pairs); i++) {
        if (!pairs[i][1] || !*pairs[i][1])
            continue;
        Onnx__StringStringEntryProto *e = metas[model.n_metadata_props] =
            &meta[model.n_metadata_props];
        model.n_metadata_props++;
        onnx__string_string_entry_proto__init(e);
        e->key = pairs[i][0];
        e->value = pairs[i][1];
    }
    model.metadata_props = metas;
    model.has_ir_version = true;
    model.ir_version = w->opt->opset >= 15 ? 8 : 7;
    model.producer_name = (char *)(uintptr_t) "distilld";
    model.producer_version = (char *)(uintptr_t)KD_VERSION;
    model.graph = &graph;
    model.opset_import = &sets;
    model.n_opset_import = 1;
    return kd_wire_pack(&model, out)
               ? kd_fail(diag, -KD_ELIMIT, "the network does not fit into %zu bytes as ONNX",
                         out->max)
               : 0;
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
    char *classes = opt->classes ? kd_class_names_join(opt->classes, opt->n_classes) : NULL;
    int rc = w.room && w.made && w.nodes && w.tensors && (classes || !opt->classes)
                 ? write_model(&w, classes, out, diag)
                 : kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as ONNX");
    free(w.room);
    free(w.made);
    free(w.nodes);
    free(w.tensors);
    free(classes);
    return rc;
}
