/* Networks as ONNX files. Every node of the graph becomes one operator or a few; its tensor is
 * [N,C,H,W], or [N,C] behind a dense layer or flattening. A network of 8 bits has pairs of
 * QuantizeLinear and DequantizeLinear where its values are rounded ("QDQ"), and a DequantizeLinear
 * behind each weight. */
#include "engine/plan.h"
#include "models/int8.h"
#include "models/loaded.h"
#include "models/onnx.h"
#include "models/onnx_model.h"
#include "models/onnx_put.h"

#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

#define OPS_A_NODE 8             /* most operators that one node becomes, conversions included */
#define BYTES_A_NODE (16u << 10) /* room for their messages; pages that stay empty cost nothing */

static Onnx__ValueInfoProto *value_info(kd_onnx_writer *w, const char *name, int n,
                                        const int64_t *dims)
{
    Onnx__ValueInfoProto *v = kd_onnx_put_room(w, sizeof *v);
    onnx__value_info_proto__init(v);
    v->name = kd_onnx_put_text(w, "%s", name);
    v->type = kd_onnx_put_room(w, sizeof *v->type);
    onnx__type_proto__init(v->type);
    Onnx__TensorTypeProto *t = v->type->tensor_type = kd_onnx_put_room(w, sizeof *t);
    onnx__tensor_type_proto__init(t);
    t->has_elem_type = true;
    t->elem_type = KD_ONNX_FLOAT;
    t->shape = kd_onnx_put_room(w, sizeof *t->shape);
    onnx__tensor_shape_proto__init(t->shape);
    t->shape->dim = kd_onnx_put_room(w, (size_t)(n + 1) * sizeof *t->shape->dim);
    for (int i = 0; i <= n; i++) {
        Onnx__TensorShapeDimension *d = t->shape->dim[t->shape->n_dim++] =
            kd_onnx_put_room(w, sizeof *d);
        onnx__tensor_shape_dimension__init(d);
        if (i == 0) {
            d->dim_param = kd_onnx_put_text(w, "N");
        } else {
            d->has_dim_value = true;
            d->dim_value = dims[i - 1];
        }
    }
    return v;
}

static void write_param(kd_onnx_writer *w, int at)
{
    const kd_param *p = &w->g->params[at];
    const kd_onnx_eight *e = w->eight;
    if (!e || !e->params[at])
        kd_onnx_put_tensor(w, p->name, KD_ONNX_FLOAT, (size_t)p->ndim, p->shape,
                           w->vector + p->offset, p->count * sizeof(float));
    else if (p->ndim > 1)
        kd_onnx_put_tensor(w, p->name, KD_ONNX_INT8, (size_t)p->ndim, p->shape,
                           e->codes + p->offset, p->count);
    else
        kd_onnx_put_tensor(w, p->name, KD_ONNX_INT32, 1, p->shape, e->biases + p->offset,
                           p->count * sizeof *e->biases);
}

static int write_model(kd_onnx_writer *w, const kd_loaded_meta *about, kd_buf *out, kd_diag *diag)
{
    const kd_graph *g = w->g;
    const kd_node *first = &g->nodes[0], *last = &g->nodes[g->output];
    for (int i = 0; i < g->n_nodes; i++) {
        kd_onnx_put_node(w, i);
        if (w->eight)
            kd_onnx_put_round(w, i);
    }
    for (int i = 0; i < g->n_params; i++)
        write_param(w, i);
    const bool vector = last->h == 1 && last->w == 1;
    if (vector && !w->made[g->output].flat) { /* "logits" must be [N,C] */
        Onnx__NodeProto *n = w->nodes[w->n_nodes - 1];
        n->output[0] = kd_onnx_put_text(w, "%s#before", n->name);
        Onnx__NodeProto *flat = kd_onnx_put_op(w, "Flatten", "logits", "logits");
        kd_onnx_put_reads(w, flat, n->output[0]);
        kd_onnx_put_int(w, flat, "axis", 1);
    }
    Onnx__GraphProto graph = ONNX__GRAPH_PROTO__INIT;
    Onnx__ValueInfoProto *input =
        value_info(w, "input", 3, (const int64_t[]){first->c, first->h, first->w});
    Onnx__ValueInfoProto *output =
        value_info(w, "logits", vector ? 1 : 3, (const int64_t[]){last->c, last->h, last->w});
    const char *model = w->opt->info ? w->opt->info->model : "";
    graph.name = kd_onnx_put_text(w, "%s", *model ? model : "network");
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

static void eight_clear(kd_onnx_eight *e)
{
    free(e->nodes);
    free(e->params);
    free(e->codes);
    free(e->units);
    free(e->biases);
}

static int eight_make(const kd_graph *g, const float *vector, kd_onnx_eight *e, kd_diag *diag)
{
    kd_plan *p;
    const size_t n = g->vector_len + 1;
    *e = (kd_onnx_eight){.nodes = calloc((size_t)g->n_nodes, sizeof *e->nodes),
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
    kd_onnx_writer w = {.g = g, .vector = vector, .opt = opt};
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
    kd_onnx_eight e = {0};
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
