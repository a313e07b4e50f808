#include "models/onnx_put.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_ATTRIBUTES 6

void *kd_onnx_put_room(kd_onnx_writer *w, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    KD_BUG_ON(size > w->size - w->used);
    void *p = w->room + w->used;
    w->used += size;
    return p;
}

char *kd_onnx_put_text(kd_onnx_writer *w, const char *fmt, ...)
{
    char buf[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    KD_BUG_ON(n < 0 || (size_t)n >= sizeof buf);
    return memcpy(kd_onnx_put_room(w, (size_t)n + 1), buf, (size_t)n + 1);
}

/* ---- messages */

Onnx__NodeProto *kd_onnx_put_op(kd_onnx_writer *w, const char *type, const char *name,
                                const char *output)
{
    Onnx__NodeProto *n = kd_onnx_put_room(w, sizeof *n);
    onnx__node_proto__init(n);
    n->op_type = kd_onnx_put_text(w, "%s", type);
    n->name = kd_onnx_put_text(w, "%s", name);
    n->input = kd_onnx_put_room(w, 5 * sizeof *n->input);
    n->output = kd_onnx_put_room(w, sizeof *n->output);
    n->output[n->n_output++] = kd_onnx_put_text(w, "%s", output);
    n->attribute = kd_onnx_put_room(w, MAX_ATTRIBUTES * sizeof *n->attribute);
    w->nodes[w->n_nodes++] = n;
    return n;
}

void kd_onnx_put_reads(kd_onnx_writer *w, Onnx__NodeProto *n, const char *value)
{
    KD_BUG_ON(n->n_input == 5);
    n->input[n->n_input++] = kd_onnx_put_text(w, "%s", value);
}

static Onnx__AttributeProto *attr(kd_onnx_writer *w, Onnx__NodeProto *n, const char *name,
                                  int32_t type)
{
    KD_BUG_ON(n->n_attribute == MAX_ATTRIBUTES);
    Onnx__AttributeProto *a = n->attribute[n->n_attribute++] = kd_onnx_put_room(w, sizeof *a);
    onnx__attribute_proto__init(a);
    a->name = kd_onnx_put_text(w, "%s", name);
    a->has_type = true;
    a->type = type;
    return a;
}

void kd_onnx_put_int(kd_onnx_writer *w, Onnx__NodeProto *n, const char *name, int64_t v)
{
    Onnx__AttributeProto *a = attr(w, n, name, KD_ONNX_ATTR_INT);
    a->has_i = true;
    a->i = v;
}

void kd_onnx_put_float(kd_onnx_writer *w, Onnx__NodeProto *n, const char *name, float v)
{
    Onnx__AttributeProto *a = attr(w, n, name, KD_ONNX_ATTR_FLOAT);
    a->has_f = true;
    a->f = v;
}

void kd_onnx_put_ints(kd_onnx_writer *w, Onnx__NodeProto *n, const char *name, const int *v,
                      size_t count)
{
    Onnx__AttributeProto *a = attr(w, n, name, KD_ONNX_ATTR_INTS);
    a->ints = kd_onnx_put_room(w, count * sizeof *a->ints);
    a->n_ints = count;
    for (size_t i = 0; i < count; i++)
        a->ints[i] = v[i];
}

/* data is borrowed until the file is packed. */
void kd_onnx_put_tensor(kd_onnx_writer *w, const char *name, int32_t type, size_t n_dims,
                        const int64_t *dims, const void *data, size_t bytes)
{
    Onnx__TensorProto *t = kd_onnx_put_room(w, sizeof *t);
    onnx__tensor_proto__init(t);
    t->name = kd_onnx_put_text(w, "%s", name);
    t->has_data_type = true;
    t->data_type = type;
    t->n_dims = n_dims;
    t->dims = kd_onnx_put_room(w, n_dims * sizeof *dims);
    if (n_dims)
        memcpy(t->dims, dims, n_dims * sizeof *dims);
    t->has_raw_data = true;
    t->raw_data = (ProtobufCBinaryData){bytes, (uint8_t *)(uintptr_t)data};
    w->tensors[w->n_tensors++] = t;
}

/* A list of integers as another input of n, called NAME#what: no node of ours has a # in its name.
 */
void kd_onnx_put_reads_ints(kd_onnx_writer *w, Onnx__NodeProto *n, const char *what,
                            const int64_t *v, size_t count)
{
    const int64_t dim = (int64_t)count;
    const char *name = kd_onnx_put_text(w, "%s#%s", n->output[0], what);
    int64_t *copy = kd_onnx_put_room(w, count * sizeof *v);
    memcpy(copy, v, count * sizeof *v);
    kd_onnx_put_tensor(w, name, KD_ONNX_INT64, 1, &dim, copy, count * sizeof *v);
    kd_onnx_put_reads(w, n, name);
}

/* A number as another input. */
void kd_onnx_put_reads_float(kd_onnx_writer *w, Onnx__NodeProto *n, const char *what, float v)
{
    const char *name = kd_onnx_put_text(w, "%s#%s", n->output[0], what);
    float *copy = kd_onnx_put_room(w, sizeof v);
    *copy = v;
    kd_onnx_put_tensor(w, name, KD_ONNX_FLOAT, 0, NULL, copy, sizeof v);
    kd_onnx_put_reads(w, n, name);
}

/* The float32 value of whole numbers in the place of p, one unit a row. */
static const char *from_codes(kd_onnx_writer *w, const kd_param *p)
{
    const int64_t rows = p->shape[0];
    const char *name = kd_onnx_put_text(w, "%s#float", p->name),
               *unit = kd_onnx_put_text(w, "%s#unit", p->name);
    kd_onnx_put_tensor(w, unit, KD_ONNX_FLOAT, 1, &rows, w->eight->units + p->offset,
                       (size_t)rows * sizeof(float));
    Onnx__NodeProto *n = kd_onnx_put_op(w, "DequantizeLinear", name, name);
    kd_onnx_put_reads(w, n, p->name);
    kd_onnx_put_reads(w, n, unit);
    kd_onnx_put_int(w, n, "axis", 0);
    return name;
}

/* A parameter as the next input of n, `name` if it is not its own. */
void kd_onnx_put_reads_as(kd_onnx_writer *w, Onnx__NodeProto *n, int param, const char *name)
{
    kd_onnx_put_reads(w, n, name ? name : w->g->params[param].name);
}

void kd_onnx_put_reads_param(kd_onnx_writer *w, Onnx__NodeProto *n, int param)
{
    kd_onnx_put_reads_as(w, n, param, NULL);
}

/* What makes weights of 8 bits floats; NULL for others. */
const char *kd_onnx_put_weight(kd_onnx_writer *w, const kd_node *n)
{
    return w->eight && w->eight->params[n->weight] ? from_codes(w, &w->g->params[n->weight]) : NULL;
}

/* A bias in units of a product of an input and a weight, as whole numbers of 32 bits: what others'
 * 8-bit convolutions want. NULL where it is not exactly that. */
const char *kd_onnx_put_bias(kd_onnx_writer *w, const kd_node *n)
{
    kd_onnx_eight *e = w->eight;
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

static bool taken(const kd_onnx_writer *w, int below, const char *name)
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
char *kd_onnx_put_title(kd_onnx_writer *w, int at)
{
    const char *name = w->g->nodes[at].name;
    char *title = kd_onnx_put_text(w, "%s", name);
    for (int i = at; taken(w, at, title); i += w->g->n_nodes)
        title = kd_onnx_put_text(w, "%s_%d", name, i);
    return title;
}

/* The value of node `in` as [N,C,H,W]. `reader` is named in what has to be put between. */
const char *kd_onnx_put_as_image(kd_onnx_writer *w, int in, const char *reader)
{
    const kd_onnx_made *m = &w->made[in];
    if (!m->flat)
        return m->name;
    const int64_t axes[2] = {2, 3};
    const char *name = kd_onnx_put_text(w, "%s#image_%d", reader, in);
    Onnx__NodeProto *n = kd_onnx_put_op(w, "Unsqueeze", name, name);
    kd_onnx_put_reads(w, n, m->name);
    kd_onnx_put_reads_ints(w, n, "axes", axes, 2);
    return name;
}

const char *kd_onnx_put_as_flat(kd_onnx_writer *w, int in, const char *reader)
{
    const kd_onnx_made *m = &w->made[in];
    if (m->flat)
        return m->name;
    const char *name = kd_onnx_put_text(w, "%s#flat_%d", reader, in);
    Onnx__NodeProto *n = kd_onnx_put_op(w, "Flatten", name, name);
    kd_onnx_put_reads(w, n, m->name);
    kd_onnx_put_int(w, n, "axis", 1);
    return name;
}

/* A fixed value once for each image, where an operator does not broadcast. */
const char *kd_onnx_put_each_image(kd_onnx_writer *w, int in, const char *reader)
{
    const kd_node *p = &w->g->nodes[in];
    if (!w->made[in].fixed)
        return kd_onnx_put_as_image(w, in, reader);
    if (!w->batch) {
        Onnx__NodeProto *shape = kd_onnx_put_op(w, "Shape", "batch#shape", "batch#shape");
        kd_onnx_put_reads(w, shape, "input");
        Onnx__NodeProto *cut = kd_onnx_put_op(w, "Slice", "batch#size", "batch#size");
        kd_onnx_put_reads(w, cut, "batch#shape");
        kd_onnx_put_reads_ints(w, cut, "starts", (const int64_t[]){0}, 1);
        kd_onnx_put_reads_ints(w, cut, "ends", (const int64_t[]){1}, 1);
        w->batch = "batch#size";
    }
    const char *sides = kd_onnx_put_text(w, "%s#sides_%d", reader, in),
               *name = kd_onnx_put_text(w, "%s#each_%d", reader, in);
    Onnx__NodeProto *join = kd_onnx_put_op(w, "Concat", sides, sides);
    kd_onnx_put_int(w, join, "axis", 0);
    kd_onnx_put_reads(w, join, w->batch);
    kd_onnx_put_reads_ints(w, join, "rest", (const int64_t[]){p->c, p->h, p->w}, 3);
    Onnx__NodeProto *spread = kd_onnx_put_op(w, "Expand", name, name);
    kd_onnx_put_reads(w, spread, w->made[in].name);
    kd_onnx_put_reads(w, spread, sides);
    return name;
}
