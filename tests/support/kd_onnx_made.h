/* What the tests of ONNX share: running a graph, and building small models through the messages.
 * Include after kd_test.h. */
#ifndef KD_ONNX_MADE_H
#define KD_ONNX_MADE_H

#include "kd/file.h"

#include "engine/plan.h"
#include "models/onnx.h"
#include "wire/wire.h"

#include "onnx.pb-c.h"

#include <stdlib.h>
#include <string.h>

/* Outputs [batch, ...] of an infer plan for NHWC input; caller frees. */
static inline float *onnx_run(const kd_graph *g, const float *vector, const float *input, int batch)
{
    const kd_node *n = &g->nodes[g->output];
    float *out =
        kd_xalloc((size_t)batch * (size_t)n->h * (size_t)n->w * (size_t)n->c * sizeof *out);
    kd_plan *p;
    kd_diag diag = {0};
    kd_engine_thread();
    kd_assert_ok(kd_plan_new(g, batch, KD_PLAN_INFER, &p, &diag), &diag);
    kd_assert_ok(kd_plan_load(p, vector, &diag), &diag);
    kd_assert_ok(kd_plan_forward(p, input, out, &diag), &diag);
    kd_plan_free(p);
    return out;
}

typedef struct onnx_read {
    kd_graph *g;
    float *vector;
    bool new_head;
    kd_onnx_info info;
    kd_diag diag;
} onnx_read;

static inline int onnx_read_bytes(const void *bytes, size_t len, const kd_onnx_read_options *opt,
                                  onnx_read *out)
{
    *out = (onnx_read){0};
    return kd_onnx_read(bytes, len, "model.onnx", opt, &out->g, &out->vector, &out->new_head,
                        &out->info, &out->diag);
}

static inline void onnx_read_clear(onnx_read *r)
{
    kd_graph_free(r->g);
    free(r->vector);
    kd_onnx_info_clear(&r->info);
}

/* ---- models by hand; nothing is freed one by one: the process ends soon */

typedef struct onnx_made {
    Onnx__ModelProto model;
    Onnx__GraphProto graph;
    Onnx__OperatorSetIdProto opset, *opsets[1];
    Onnx__NodeProto *nodes[32];
    Onnx__TensorProto *tensors[32];
    Onnx__ValueInfoProto *inputs[4], *outputs[2];
    void *owned[512];
    size_t n_owned;
} onnx_made;

static inline void *made_get(onnx_made *m, size_t size)
{
    KD_BUG_ON(m->n_owned == KD_COUNT(m->owned));
    return m->owned[m->n_owned++] = kd_xalloc(size);
}

static inline char *made_text(onnx_made *m, const char *s)
{
    return memcpy(made_get(m, strlen(s) + 1), s, strlen(s) + 1);
}

static inline Onnx__ValueInfoProto *made_value(onnx_made *m, const char *name, int n,
                                               const int64_t *dims)
{
    Onnx__ValueInfoProto *v = made_get(m, sizeof *v);
    onnx__value_info_proto__init(v);
    v->name = made_text(m, name);
    v->type = made_get(m, sizeof *v->type);
    onnx__type_proto__init(v->type);
    v->type->tensor_type = made_get(m, sizeof *v->type->tensor_type);
    onnx__tensor_type_proto__init(v->type->tensor_type);
    v->type->tensor_type->has_elem_type = true;
    v->type->tensor_type->elem_type = 1;
    Onnx__TensorShapeProto *s = v->type->tensor_type->shape = made_get(m, sizeof *s);
    onnx__tensor_shape_proto__init(s);
    s->dim = made_get(m, (size_t)n * sizeof *s->dim);
    for (int i = 0; i < n; i++) {
        s->dim[i] = made_get(m, sizeof *s->dim[i]);
        onnx__tensor_shape_dimension__init(s->dim[i]);
        s->dim[i]->has_dim_value = dims[i] > 0; /* 0 = open */
        s->dim[i]->dim_value = dims[i];
    }
    s->n_dim = (size_t)n;
    return v;
}

/* A model from "input" [dims] to "out". */
static inline onnx_made *made_new(int opset, int n, const int64_t *dims)
{
    onnx_made *m = kd_xalloc(sizeof *m);
    onnx__model_proto__init(&m->model);
    onnx__graph_proto__init(&m->graph);
    onnx__operator_set_id_proto__init(&m->opset);
    m->opset.has_version = true;
    m->opset.version = opset;
    m->opsets[0] = &m->opset;
    m->model.graph = &m->graph;
    m->model.opset_import = m->opsets;
    m->model.n_opset_import = 1;
    m->graph.node = m->nodes;
    m->graph.initializer = m->tensors;
    m->inputs[0] = made_value(m, "input", n, dims);
    m->graph.input = m->inputs;
    m->graph.n_input = 1;
    m->outputs[0] = made_value(m, "out", 0, NULL);
    m->graph.output = m->outputs;
    m->graph.n_output = 1;
    return m;
}

/* inputs: names with a space between. */
static inline Onnx__NodeProto *made_node(onnx_made *m, const char *op, const char *inputs,
                                         const char *output)
{
    Onnx__NodeProto *n = made_get(m, sizeof *n);
    onnx__node_proto__init(n);
    n->op_type = made_text(m, op);
    n->name = made_text(m, output);
    n->input = made_get(m, 8 * sizeof *n->input);
    char *rest = made_text(m, inputs);
    for (char *word; (word = strsep(&rest, " "));)
        if (*word)
            n->input[n->n_input++] = word;
    n->output = made_get(m, 4 * sizeof *n->output);
    n->output[n->n_output++] = made_text(m, output);
    n->attribute = made_get(m, 8 * sizeof *n->attribute);
    KD_BUG_ON(m->graph.n_node == KD_COUNT(m->nodes));
    m->nodes[m->graph.n_node++] = n;
    return n;
}

static inline Onnx__AttributeProto *made_attr(onnx_made *m, Onnx__NodeProto *n, const char *name,
                                              int type)
{
    Onnx__AttributeProto *a = made_get(m, sizeof *a);
    onnx__attribute_proto__init(a);
    a->name = made_text(m, name);
    a->has_type = true;
    a->type = type;
    return n->attribute[n->n_attribute++] = a;
}

static inline void made_int(onnx_made *m, Onnx__NodeProto *n, const char *name, int64_t v)
{
    Onnx__AttributeProto *a = made_attr(m, n, name, 2);
    a->has_i = true;
    a->i = v;
}

static inline void made_ints(onnx_made *m, Onnx__NodeProto *n, const char *name, size_t count,
                             const int64_t *v)
{
    Onnx__AttributeProto *a = made_attr(m, n, name, 7);
    a->n_ints = count;
    a->ints = memcpy(made_get(m, count * sizeof *v + 1), v, count * sizeof *v);
}

static inline void made_word(onnx_made *m, Onnx__NodeProto *n, const char *name, const char *v)
{
    Onnx__AttributeProto *a = made_attr(m, n, name, 3);
    a->has_s = true;
    a->s = (ProtobufCBinaryData){strlen(v), (uint8_t *)made_text(m, v)};
}

static inline Onnx__TensorProto *made_tensor(onnx_made *m, const char *name, int type, int n,
                                             const int64_t *dims, const void *data, size_t bytes)
{
    Onnx__TensorProto *t = made_get(m, sizeof *t);
    onnx__tensor_proto__init(t);
    t->name = made_text(m, name);
    t->has_data_type = true;
    t->data_type = type;
    t->n_dims = (size_t)n;
    t->dims = made_get(m, (size_t)(n + 1) * sizeof *dims);
    for (int i = 0; i < n; i++)
        t->dims[i] = dims[i];
    t->has_raw_data = true;
    t->raw_data = (ProtobufCBinaryData){bytes, memcpy(made_get(m, bytes + 1), data, bytes)};
    KD_BUG_ON(m->graph.n_initializer == KD_COUNT(m->tensors));
    return m->tensors[m->graph.n_initializer++] = t;
}

/* A weight with values between -0.5 and 0.5. */
static inline Onnx__TensorProto *made_weight(onnx_made *m, const char *name, int n,
                                             const int64_t *dims)
{
    size_t count = 1;
    for (int i = 0; i < n; i++)
        count *= (size_t)dims[i];
    float *v = made_get(m, count * sizeof *v);
    for (size_t i = 0; i < count; i++)
        v[i] = (float)((i * 2654435761u + 12345u * m->graph.n_initializer) % 1000) / 1000 - 0.5f;
    return made_tensor(m, name, 1, n, dims, v, count * sizeof *v);
}

static inline void made_list(onnx_made *m, const char *name, size_t n, const int64_t *v)
{
    made_tensor(m, name, 7, 1, (const int64_t[]){(int64_t)n}, v, n * sizeof *v);
}

static inline kd_buf made_bytes(const onnx_made *m)
{
    kd_buf b;
    kd_buf_init(&b, 64u << 20);
    KD_BUG_ON(kd_wire_pack(&m->model, &b) != 0);
    return b;
}

static inline void made_free(onnx_made *m)
{
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    free(m);
}

#endif
