/* The walk over a model's nodes, and what stands at its ends: input, output, head, parameters. */
#include "models/onnx_internal.h"

#include "models/graph_copy.h"
#include "models/graph_json.h"
#include "models/loaded.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MIN_OPSET 9
#define MAX_OPSET 17
#define MAX_CLASSES 65536
#define PRODUCER "distilld" /* as onnx_write.c writes it */

static const struct {
    const char *op;
    int (*read)(kd_onnx_ctx *c);
} g_ops[] = {
    {"Conv", kd_onnx_conv},
    {"Gemm", kd_onnx_gemm},
    {"MatMul", kd_onnx_matmul},
    {"BatchNormalization", kd_onnx_batch_norm},
    {"MaxPool", kd_onnx_pool},
    {"AveragePool", kd_onnx_pool},
    {"GlobalAveragePool", kd_onnx_global_pool},
    {"GlobalMaxPool", kd_onnx_global_pool},
    {"ReduceMean", kd_onnx_reduce_mean},
    {"Relu", kd_onnx_activation},
    {"LeakyRelu", kd_onnx_activation},
    {"Sigmoid", kd_onnx_activation},
    {"Tanh", kd_onnx_activation},
    {"HardSigmoid", kd_onnx_activation},
    {"HardSwish", kd_onnx_activation},
    {"Clip", kd_onnx_clip},
    {"Softmax", kd_onnx_softmax},
    {"LogSoftmax", kd_onnx_softmax},
    {"Dropout", kd_onnx_dropout},
    {"Add", kd_onnx_arithmetic},
    {"Sub", kd_onnx_arithmetic},
    {"Mul", kd_onnx_arithmetic},
    {"Div", kd_onnx_arithmetic},
    {"Sum", kd_onnx_arithmetic},
    {"Reshape", kd_onnx_reshape},
    {"Flatten", kd_onnx_flatten},
    {"Transpose", kd_onnx_transpose},
    {"Squeeze", kd_onnx_squeeze},
    {"Unsqueeze", kd_onnx_unsqueeze},
    {"Concat", kd_onnx_concat},
    {"Slice", kd_onnx_slice},
    {"Split", kd_onnx_split},
    {"Pad", kd_onnx_pad},
    {"Identity", kd_onnx_identity},
    {"Cast", kd_onnx_cast},
    {"QuantizeLinear", kd_onnx_quantize},
    {"DequantizeLinear", kd_onnx_dequantize},
};

/* ---- the nodes */

static int find_opset(kd_onnx_ctx *c, const Onnx__ModelProto *m)
{
    for (size_t i = 0; i < m->n_opset_import; i++) {
        const char *domain = m->opset_import[i]->domain;
        if (*domain == '\0' || strcmp(domain, "ai.onnx") == 0)
            c->opset = m->opset_import[i]->version;
    }
    if (c->opset < MIN_OPSET || c->opset > MAX_OPSET)
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "the model uses opset %lld, %d to %d are read; export it again with "
                            "such an opset",
                            (long long)c->opset, MIN_OPSET, MAX_OPSET);
    return 0;
}

/* Marks what the output depends on. Nodes stand in the order in which they can be computed, so one
 * pass from the end does. */
static int mark_needed(kd_onnx_ctx *c)
{
    if (c->graph->n_output < 1)
        return kd_onnx_fail(c, -KD_EDATA, "the model has no output");
    kd_onnx_value *out = kd_onnx_find(c, c->graph->output[0]->name);
    if (!out)
        return kd_onnx_fail(c, -KD_EDATA, "nothing makes the output %s", c->graph->output[0]->name);
    out->needed = true;
    out->readers++;
    for (size_t i = c->graph->n_node; i-- > 0;) {
        const Onnx__NodeProto *n = c->node = c->graph->node[i];
        bool needed = false;
        for (size_t k = 0; k < n->n_output; k++) {
            const kd_onnx_value *v = *n->output[k] ? kd_onnx_find(c, n->output[k]) : NULL;
            needed |= v && v->needed;
        }
        for (size_t k = 0; needed && k < n->n_input; k++) {
            if (!*n->input[k])
                continue;
            kd_onnx_value *v = kd_onnx_find(c, n->input[k]);
            if (!v)
                return kd_onnx_fail(c, -KD_EDATA, "nothing makes its input %s", n->input[k]);
            if (v->maker >= (int)i)
                return kd_onnx_fail(c, -KD_EDATA, "reads %s, which a later node makes",
                                    n->input[k]);
            v->needed = true;
            v->readers++;
        }
    }
    c->node = NULL;
    return 0;
}

/* The softmax that only the output reads, through nothing but shapes. */
static void find_softmax(kd_onnx_ctx *c)
{
    static const char *const through[] = {"Identity", "Cast",      "Flatten", "Reshape",
                                          "Squeeze",  "Unsqueeze", "Dropout"};
    const kd_onnx_value *v = kd_onnx_find(c, c->graph->output[0]->name);
    while (v && v->readers == 1 && v->maker >= 0) {
        const Onnx__NodeProto *n = c->graph->node[v->maker];
        if (strcmp(n->op_type, "Softmax") == 0 || strcmp(n->op_type, "LogSoftmax") == 0) {
            c->softmax = n;
            return;
        }
        bool passes = false;
        for (size_t i = 0; i < KD_COUNT(through); i++)
            passes |= strcmp(n->op_type, through[i]) == 0;
        if (!passes || n->n_input < 1 || !*n->input[0])
            return;
        v = kd_onnx_find(c, n->input[0]);
    }
}

static int read_node(kd_onnx_ctx *c)
{
    const Onnx__NodeProto *n = c->node;
    int rc = 0;
    if (*n->domain && strcmp(n->domain, "ai.onnx") != 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "operators of %s are not supported", n->domain);
    if (!kd_onnx_fold(c, &rc)) {
        size_t i = 0;
        while (i < KD_COUNT(g_ops) && strcmp(g_ops[i].op, n->op_type) != 0)
            i++;
        if (i == KD_COUNT(g_ops))
            return kd_onnx_fail(c, -KD_EUNSUP, "the operator %s is not supported", n->op_type);
        rc = g_ops[i].read(c);
    }
    for (size_t k = 0; !rc && k < n->n_output; k++) {
        const kd_onnx_value *v = *n->output[k] ? kd_onnx_find(c, n->output[k]) : NULL;
        if (v && v->needed && !v->ready)
            rc = kd_onnx_fail(c, -KD_EUNSUP, "output %zu (%s) is not supported", k, v->name);
    }
    if (!rc && c->g->vector_len > KD_GRAPH_MAX_VECTOR)
        rc = kd_onnx_fail(c, -KD_ELIMIT, "more than %zu parameters", KD_GRAPH_MAX_VECTOR);
    return rc;
}

static int read_nodes(kd_onnx_ctx *c)
{
    int rc = 0;
    for (size_t i = 0; i < c->n_values && !rc; i++) {
        kd_onnx_value *v = &c->values[i];
        if (v->needed && v->initializer) {
            rc = kd_onnx_const_of(c, v->initializer, v->name, &v->constant);
            v->ready = true;
        }
    }
    for (size_t i = 0; i < c->graph->n_node && !rc; i++) {
        bool needed = false;
        c->node = c->graph->node[i];
        for (size_t k = 0; k < c->node->n_output; k++) {
            const kd_onnx_value *v =
                *c->node->output[k] ? kd_onnx_find(c, c->node->output[k]) : NULL;
            needed |= v && v->needed;
        }
        if (needed)
            rc = read_node(c);
    }
    c->node = NULL;
    return rc;
}

/* ---- the input */

static int find_input(kd_onnx_ctx *c, kd_onnx_value **out, const Onnx__TensorTypeProto **out_type)
{
    *out = NULL;
    for (size_t i = 0; i < c->graph->n_input; i++) {
        const Onnx__ValueInfoProto *info = c->graph->input[i];
        kd_onnx_value *v = kd_onnx_find(c, info->name);
        if (!v || v->initializer || v->maker >= 0 || !v->needed)
            continue;
        if (*out)
            return kd_onnx_fail(c, -KD_EUNSUP,
                                "the model has two inputs (%s and %s), one picture was expected",
                                (*out)->name, v->name);
        *out = v;
        *out_type = info->type ? info->type->tensor_type : NULL;
    }
    if (!*out)
        return kd_onnx_fail(c, -KD_EDATA, "the output does not depend on any input");
    const Onnx__TensorTypeProto *t = *out_type;
    if (!t || !t->shape)
        return kd_onnx_fail(c, -KD_EUNSUP, "the input %s does not say its shape", (*out)->name);
    if (t->elem_type != KD_ONNX_FLOAT && t->elem_type != KD_ONNX_FLOAT16 &&
        t->elem_type != KD_ONNX_DOUBLE)
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "the input %s is of type %d, floats that are preprocessed already were "
                            "expected",
                            (*out)->name, t->elem_type);
    return 0;
}

static bool is_colour(int64_t channels)
{
    return channels == 1 || channels == 3;
}

/* [N,C,H,W] or [N,H,W,C]: channels are where 1 or 3 stands. Fills in what is left open. */
static int image_input(kd_onnx_ctx *c, kd_onnx_value *v, kd_onnx_info *info)
{
    int64_t *dim = info->input_dim;
    const bool any = c->opt->use == KD_ONNX_ANY;
    if (info->input_rank != 4)
        return kd_onnx_fail(c, -KD_EUNSUP, "the input %s has %d axes, pictures have 4", v->name,
                            info->input_rank);
    info->nhwc = !any && !is_colour(dim[1]) && is_colour(dim[3]);
    if (!any && !is_colour(dim[1]) && !info->nhwc)
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "the input %s is [%lld,%lld,%lld,%lld] (0 = open): neither its second "
                            "nor its last axis has the 1 or 3 channels of a picture",
                            v->name, (long long)dim[0], (long long)dim[1], (long long)dim[2],
                            (long long)dim[3]);
    const int high = info->nhwc ? 1 : 2, colour = info->nhwc ? 3 : 1;
    if (dim[0] == 0)
        dim[0] = 1;
    for (int a = high; a < high + 2; a++) {
        if (dim[a] == 0 && c->opt->size <= 0)
            return kd_onnx_fail(
                c, -KD_EINVAL,
                "the model leaves the size of its pictures open; give it: `size` in "
                "a job, --size in a command");
        if (dim[a] != 0 && c->opt->size > 0 && dim[a] != c->opt->size)
            return kd_onnx_fail(c, -KD_EINVAL,
                                "the model wants pictures of %lld pixels a side, not %d; give that "
                                "as `size` in a job, --size in a command",
                                (long long)dim[a], c->opt->size);
        if (dim[a] == 0)
            dim[a] = c->opt->size;
    }
    if (!any && dim[high] != dim[high + 1])
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "the model wants pictures of %lld by %lld, ours are square",
                            (long long)dim[high], (long long)dim[high + 1]);
    for (int a = 0; a < 4; a++)
        if (dim[a] < 1 || dim[a] > 4096)
            return kd_onnx_fail(c, -KD_EDATA, "the input %s has an axis of length %lld", v->name,
                                (long long)dim[a]);
    c->g = kd_graph_new((int)dim[high], (int)dim[high + 1], (int)dim[colour]);
    info->size = (int)dim[high];
    const kd_onnx_groups groups = kd_onnx_group3(colour, high, high + 1);
    memcpy(v->d.dim, dim, sizeof v->d.dim);
    kd_onnx_settle(&v->d, 0, &groups);
    v->d.batch = 0;
    return 0;
}

/* All axes belong to one picture: the last three long ones are its sides. */
static int whole_input(kd_onnx_ctx *c, kd_onnx_value *v, kd_onnx_info *info)
{
    int64_t side[3] = {1, 1, 1};
    int order[KD_ONNX_MAX_RANK], n = 0;
    for (int a = 0; a < info->input_rank; a++) {
        if (info->input_dim[a] < 1 || info->input_dim[a] > 4096)
            return kd_onnx_fail(c, -KD_EUNSUP, "the input %s has an axis of length %lld", v->name,
                                (long long)info->input_dim[a]);
        if (info->input_dim[a] != 1)
            order[n++] = a;
    }
    for (int i = 0; i < n; i++)
        side[KD_MAX(i + 3 - n, 0)] *= info->input_dim[order[i]];
    if (side[0] > 64 || side[1] > 4096 || side[2] > 4096)
        return kd_onnx_fail(c, -KD_EUNSUP, "the input %s is too large", v->name);
    c->g = kd_graph_new((int)side[1], (int)side[2], (int)side[0]);
    memcpy(v->d.dim, info->input_dim, sizeof v->d.dim);
    v->d.node = 0;
    v->d.batch = -1;
    v->d.n_order = n;
    memcpy(v->d.order, order, (size_t)n * sizeof *order);
    return 0;
}

static int make_input(kd_onnx_ctx *c, kd_onnx_info *info)
{
    kd_onnx_value *v;
    const Onnx__TensorTypeProto *t = NULL;
    int rc = find_input(c, &v, &t);
    if (rc)
        return rc;
    info->input_rank = (int)t->shape->n_dim;
    for (int a = 0; a < info->input_rank; a++) {
        const int64_t n = t->shape->dim[a]->dim_value;
        info->input_dim[a] = t->shape->dim[a]->has_dim_value && n > 0 ? n : 0;
    }
    v->d.rank = info->input_rank;
    rc = c->opt->use == KD_ONNX_WHOLE ? whole_input(c, v, info) : image_input(c, v, info);
    if (rc)
        return rc;
    v->d.shared = v->readers > 1;
    v->ready = true;
    return c->g->error[0] ? kd_onnx_fail(c, -KD_EDATA, "%s", c->g->error) : 0;
}

/* ---- the output */

static int make_output(kd_onnx_ctx *c, kd_onnx_info *info, int *out_node)
{
    const kd_onnx_value *v = kd_onnx_find(c, c->graph->output[0]->name);
    if (!v->ready || v->constant)
        return kd_onnx_fail(c, -KD_EDATA, "the output %s does not depend on the picture", v->name);
    kd_onnx_dyn d;
    int rc = kd_onnx_straighten(c, &v->d, &d);
    if (rc)
        return rc;
    info->output_rank = d.rank;
    memcpy(info->output_dim, d.dim, sizeof info->output_dim);
    if (c->opt->use == KD_ONNX_CLASSIFIER) {
        if (d.n_order != 1)
            return kd_onnx_fail(c, -KD_EUNSUP,
                                "the output %s has %d axes longer than 1, logits of [N,classes] "
                                "were expected",
                                v->name, d.n_order);
        const kd_onnx_groups all = kd_onnx_group3(d.order[0], -1, -1);
        return kd_onnx_arrange(c, &d, &all, out_node);
    }
    /* A graph is more than its input. */
    const kd_node *n = &c->g->nodes[d.node];
    *out_node = d.node > 0 ? d.node : kd_graph_reshape(c->g, 0, n->h, n->w, n->c);
    return 0;
}

/* ---- the graph in its last form, and its parameters */

static int fill_param(kd_onnx_ctx *c, const kd_onnx_fill *f, const kd_param *p, float *to)
{
    const size_t n = p->count;
    if (f->values) {
        memcpy(to, f->values, n * sizeof *to);
    } else {
        KD_BUG_ON(f->from->count != n);
        float *rows = f->transpose ? malloc(n * sizeof *rows) : to;
        if (!rows)
            return kd_onnx_no_memory(c);
        int rc = kd_onnx_const_floats(c, f->from, rows);
        if (f->transpose) {
            const size_t high = (size_t)f->from->dim[0], wide = (size_t)f->from->dim[1];
            for (size_t i = 0; i < high && !rc; i++)
                for (size_t k = 0; k < wide; k++)
                    to[k * high + i] = rows[i * wide + k];
            free(rows);
        }
        if (rc)
            return rc;
    }
    const bool variance = p->kind == KD_PARAM_STATISTIC && p->init == KD_INIT_ONE;
    for (size_t i = 0; i < n; i++) {
        if (f->scale != 1)
            to[i] *= f->scale;
        if (!isfinite(to[i]) || (variance && to[i] < 0))
            return kd_onnx_fail(c, -KD_EDATA, "value %zu of %s is %g", i,
                                f->from ? f->from->name : p->name, (double)to[i]);
    }
    return 0;
}

static enum kd_st_type type_of(int32_t held)
{
    switch (held) {
    case KD_ONNX_INT8:
    case KD_ONNX_UINT8:
        return KD_ST_I8;
    case KD_ONNX_FLOAT16:
        return KD_ST_F16;
    case KD_ONNX_BFLOAT16:
        return KD_ST_BF16;
    default:
        return KD_ST_F32;
    }
}

/* Both are the caller's also on failure. */
static int make_vector(kd_onnx_ctx *c, const kd_graph *g, const int *param_of, bool new_head,
                       float **out, enum kd_st_type **out_types)
{
    float *vector = *out = malloc((g->vector_len ? g->vector_len : 1) * sizeof *vector);
    enum kd_st_type *types = *out_types = malloc(((size_t)g->n_params + 1) * sizeof *types);
    if (!vector || !types)
        return kd_onnx_no_memory(c);
    kd_graph_init(g, c->opt->seed, vector);
    for (int i = 0; i < g->n_params; i++)
        types[i] = KD_ST_F32;
    int rc = 0;
    for (size_t i = 0; i < c->n_fills && !rc; i++) {
        const int at = param_of[c->fills[i].param];
        if (at < 0 || (new_head && g->params[at].head))
            continue;
        types[at] = type_of(c->fills[i].held);
        rc = fill_param(c, &c->fills[i], &g->params[at], vector + g->params[at].offset);
    }
    return rc;
}

static int finish(kd_onnx_ctx *c, int output, kd_graph **out_graph, float **out_vector,
                  bool *out_new_head, enum kd_st_type **out_types)
{
    kd_graph *g = NULL, *from = c->g;
    float *vector = NULL;
    enum kd_st_type *types = NULL;
    const bool classifier = c->opt->use == KD_ONNX_CLASSIFIER;
    kd_graph_edit edit = {.head = -1, .any_output = !classifier};
    const int have = from->nodes[output].c, want = c->opt->classes;
    if (classifier) {
        edit.head = kd_graph_find_head(from, output);
        if (want && want != have) {
            if (edit.head < 0 || from->nodes[edit.head].c != have)
                return kd_onnx_fail(c, -KD_EUNSUP,
                                    "the model has %d classes and no last layer that could be "
                                    "replaced by one for %d",
                                    have, want);
            edit.classes = want;
        }
    }
    bool *drop = calloc((size_t)from->n_nodes, sizeof *drop);
    int *param_of = calloc((size_t)from->n_params + 1, sizeof *param_of);
    int rc = drop && param_of ? 0 : kd_onnx_no_memory(c);
    for (int i = 0; i < from->n_nodes && !rc; i++)
        drop[i] = from->nodes[i].op == KD_OP_CONV && from->nodes[i].bias >= 0 &&
                  !kd_onnx_filled(c, from->nodes[i].bias) && !(i == edit.head && edit.classes);
    edit.drop_bias = drop;
    if (!rc) {
        rc = kd_graph_rebuild(from, output, &edit, &g, param_of, c->diag);
        if (rc)
            kd_fail_at(c->diag, rc, "%s", c->name);
    }
    if (!rc)
        rc = make_vector(c, g, param_of, edit.classes != 0, &vector, &types);
    free(drop);
    free(param_of);
    if (rc) {
        kd_graph_free(g);
        free(vector);
        free(types);
        return rc;
    }
    *out_graph = g;
    *out_vector = vector;
    *out_types = types;
    *out_new_head = edit.classes != 0;
    return 0;
}

/* ---- metadata (as onnx_write.c writes it) */

static const char *metadata(const void *arg, const char *key)
{
    const Onnx__ModelProto *m = arg;
    for (size_t i = 0; i < m->n_metadata_props; i++)
        if (strcmp(m->metadata_props[i]->key, key) == 0)
            return m->metadata_props[i]->value;
    return NULL;
}

/* In files of others these words may mean something else: what cannot be ours is passed over, but
 * for the preprocessing, which must not be guessed. */
static int read_metadata(const kd_onnx_ctx *c, const Onnx__ModelProto *m, kd_onnx_info *info)
{
    const char *preprocess = metadata(m, "preprocess");
    kd_diag why = {0};
    info->ours = m->producer_name && strcmp(m->producer_name, PRODUCER) == 0;
    const int rc = kd_model_file_info_of(metadata, m, c->name, &info->file, &why);
    if (rc == -KD_EDATA && !info->ours && (!preprocess || kd_preprocess_of(preprocess) >= 0)) {
        if (preprocess) {
            info->file.has_preprocess = true;
            info->file.preprocess = (enum kd_preprocess)kd_preprocess_of(preprocess);
        }
        return 0;
    }
    return rc ? kd_fail(c->diag, rc, "%s", why.msg) : 0;
}

void kd_onnx_info_clear(kd_onnx_info *info)
{
    kd_model_file_info_clear(&info->file);
    free(info->types);
    *info = (kd_onnx_info){0};
}

/* ---- all of it */

static void clear(kd_onnx_ctx *c)
{
    for (size_t i = 0; i < c->n_consts; i++)
        kd_onnx_const_free(c->consts[i]);
    for (size_t i = 0; i < c->n_fills; i++)
        free(c->fills[i].values);
    free(c->consts);
    free(c->fills);
    free(c->values);
    kd_graph_free(c->g);
}

int kd_onnx_read(const uint8_t *bytes, size_t len, const char *name,
                 const kd_onnx_read_options *opt, kd_graph **out_graph, float **out_vector,
                 bool *out_new_head, kd_onnx_info *out_info, kd_diag *diag)
{
    Onnx__ModelProto *m;
    kd_onnx_info info = {0};
    int output;
    if (opt->classes < 0 || opt->classes == 1 || opt->classes > MAX_CLASSES)
        return kd_fail(diag, -KD_EINVAL, "%d classes are not in 2..%d", opt->classes, MAX_CLASSES);
    int rc = kd_onnx_unpack(bytes, len, name, &m, diag);
    if (rc)
        return rc;
    kd_onnx_ctx c = {.file = bytes, .name = name, .opt = opt, .graph = m->graph, .diag = diag};
    if ((rc = find_opset(&c, m)) == 0 && (rc = kd_onnx_collect(&c)) == 0 &&
        (rc = mark_needed(&c)) == 0 && (rc = make_input(&c, &info)) == 0) {
        if (opt->use == KD_ONNX_CLASSIFIER)
            find_softmax(&c);
        if ((rc = read_nodes(&c)) == 0 && (rc = make_output(&c, &info, &output)) == 0 &&
            (rc = read_metadata(&c, m, &info)) == 0)
            rc = finish(&c, output, out_graph, out_vector, out_new_head, &info.types);
    }
    info.softmax = c.softmax_dropped;
    clear(&c);
    kd_onnx_free(m);
    if (rc)
        kd_onnx_info_clear(&info);
    else
        *out_info = info;
    return rc;
}
