#include "models/graph_json.h"

#include "models/graph_copy.h"
#include "store/narrow.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT "distilld graph"

/* What is written of an operator, beside "op", "in" and "shape". */
enum {
    NAMED = 1,  /* name, init */
    HEAD = 2,   /* head */
    WINDOW = 4, /* kernel, stride, pad */
    CONVOLUTION = 8 /* dilation, groups, bias */,
    COUNT_PAD = 16,
    EPS = 32,
    ALPHA = 64,
    BETA = 128,
    AXIS = 256,
    START = 512,
    STEP = 1024,
    OF = 2048,
    TWO = 4096,  /* inputs; one otherwise */
    NONE = 8192, /* no input */
};

static const struct {
    const char *name;
    unsigned fields;
} g_ops[] = {
    [KD_OP_INPUT] = {"input", NONE},
    [KD_OP_CONV] = {"conv", NAMED | HEAD | WINDOW | CONVOLUTION},
    [KD_OP_BATCH_NORM] = {"batch_norm", NAMED | EPS},
    [KD_OP_RELU] = {"relu", 0},
    [KD_OP_RELU6] = {"relu6", 0},
    [KD_OP_MAX_POOL] = {"max_pool", WINDOW},
    [KD_OP_GLOBAL_AVG_POOL] = {"global_avg_pool", 0},
    [KD_OP_FLATTEN] = {"flatten", 0},
    [KD_OP_DENSE] = {"dense", NAMED | HEAD},
    [KD_OP_ADD] = {"add", TWO},
    [KD_OP_SIGMOID] = {"sigmoid", 0},
    [KD_OP_SILU] = {"silu", 0},
    [KD_OP_TANH] = {"tanh", 0},
    [KD_OP_LEAKY_RELU] = {"leaky_relu", ALPHA},
    [KD_OP_CLIP] = {"clip", ALPHA | BETA},
    [KD_OP_HARD_SIGMOID] = {"hard_sigmoid", ALPHA | BETA},
    [KD_OP_HARD_SWISH] = {"hard_swish", 0},
    [KD_OP_AVG_POOL] = {"avg_pool", WINDOW | COUNT_PAD},
    [KD_OP_SUB] = {"sub", TWO},
    [KD_OP_MUL] = {"mul", TWO},
    [KD_OP_DIV] = {"div", TWO},
    [KD_OP_CONST] = {"const", NAMED | NONE},
    [KD_OP_PAD] = {"pad", ALPHA | START},
    [KD_OP_CONCAT] = {"concat", AXIS | TWO},
    [KD_OP_SLICE] = {"slice", START | STEP},
    [KD_OP_RESHAPE] = {"reshape", 0},
    [KD_OP_PERMUTE] = {"permute", OF},
    [KD_OP_SOFTMAX] = {"softmax", 0},
    [KD_OP_DROPOUT] = {"dropout", ALPHA},
    [KD_OP_DROP_PATH] = {"drop_path", ALPHA},
};
static const char *const g_kinds[] = {
    [KD_PARAM_TRAINED] = "trained", [KD_PARAM_STATISTIC] = "statistic", [KD_PARAM_FIXED] = "fixed"};
static const char *const g_inits[] = {
    [KD_INIT_ZERO] = "zero",
    [KD_INIT_ONE] = "one",
    [KD_INIT_HE_NORMAL] = "he_normal",
    [KD_INIT_GLOROT_UNIFORM] = "glorot_uniform",
    [KD_INIT_TORCH_UNIFORM] = "torch_uniform",
    [KD_INIT_HE_NORMAL_OUT] = "he_normal_out",
    [KD_INIT_NORMAL_001] = "normal_0.01",
    [KD_INIT_UNIFORM_OUT] = "uniform_out",
};
_Static_assert(KD_COUNT(g_inits) == KD_INIT_UNIFORM_OUT + 1, "an initial value has no word");

const char *kd_op_word(enum kd_op op)
{
    KD_BUG_ON((size_t)op >= KD_COUNT(g_ops));
    return g_ops[op].name;
}

/* ---- writing */

static json_t *ints(const int *v, int n)
{
    json_t *a = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(a, json_integer(v[i]));
    return a;
}

/* JSON has no infinity. */
static json_t *number(float v)
{
    return isfinite(v) ? json_real((double)v) : json_string(v > 0 ? "inf" : "-inf");
}

static json_t *node_json(const kd_graph *g, const kd_node *n)
{
    KD_BUG_ON((size_t)n->op >= KD_COUNT(g_ops));
    const unsigned f = g_ops[n->op].fields;
    const kd_node_extra extra = kd_graph_extra(g, n);
    json_t *o = json_object();
    json_object_set_new(o, "op", json_string(g_ops[n->op].name));
    if (!(f & NONE))
        json_object_set_new(o, "in", ints(n->in, f & TWO ? 2 : 1));
    json_object_set_new(o, "shape", ints((int[]){n->h, n->w, n->c}, 3));
    if (f & NAMED) {
        json_object_set_new(o, "name", json_string(n->name));
        json_object_set_new(o, "init", json_string(g_inits[extra.init]));
    }
    if (f & HEAD)
        json_object_set_new(o, "head", json_boolean(extra.head));
    if (f & WINDOW) {
        json_object_set_new(o, "kernel", ints((int[]){n->kernel_h, n->kernel_w}, 2));
        json_object_set_new(o, "stride", ints((int[]){n->stride_h, n->stride_w}, 2));
        json_object_set_new(o, "pad", ints(n->pad, 4));
    }
    if (f & CONVOLUTION) {
        json_object_set_new(o, "dilation", ints((int[]){n->dilation_h, n->dilation_w}, 2));
        json_object_set_new(o, "groups", json_integer(n->groups));
        json_object_set_new(o, "bias", json_boolean(extra.bias));
    }
    if (f & COUNT_PAD)
        json_object_set_new(o, "count_pad", json_boolean(n->count_pad));
    if (f & EPS)
        json_object_set_new(o, "eps", number(n->eps));
    if (f & ALPHA)
        json_object_set_new(o, "alpha", number(n->alpha));
    if (f & BETA)
        json_object_set_new(o, "beta", number(n->beta));
    if (f & AXIS)
        json_object_set_new(o, "axis", json_integer(n->axis));
    if (f & START)
        json_object_set_new(o, "start", ints(n->start, 3));
    if (f & STEP)
        json_object_set_new(o, "step", ints(n->step, 3));
    if (f & OF)
        json_object_set_new(o, "of", ints((int[]){(int)n->of[0], (int)n->of[1], (int)n->of[2]}, 3));
    if (n->range > 0)
        json_object_set_new(o, "range", number(n->range));
    return o;
}

static json_t *param_json(const kd_param *p)
{
    json_t *shape = json_array();
    for (int k = 0; k < p->ndim; k++)
        json_array_append_new(shape, json_integer(p->shape[k]));
    return json_pack("{s:s, s:o, s:s, s:s, s:b}", "name", p->name, "shape", shape, "kind",
                     g_kinds[p->kind], "init", g_inits[p->init], "head", (int)p->head);
}

char *kd_graph_to_json(const kd_graph *g)
{
    json_t *nodes = json_array(), *params = json_array();
    for (int i = 0; i < g->n_nodes; i++)
        json_array_append_new(nodes, node_json(g, &g->nodes[i]));
    for (int i = 0; i < g->n_params; i++)
        json_array_append_new(params, param_json(&g->params[i]));
    const bool whole = json_array_size(nodes) == (size_t)g->n_nodes &&
                       json_array_size(params) == (size_t)g->n_params;
    json_t *root = json_pack("{s:s, s:i, s:i, s:o, s:o}", "format", FORMAT, "version", 1, "output",
                             g->output, "nodes", nodes, "params", params);
    char *text = root && whole ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}

/* ---- reading */

static int find_word(const char *const *words, size_t n, const json_t *value)
{
    const char *word = json_string_value(value);
    for (size_t i = 0; word && i < n; i++)
        if (strcmp(words[i], word) == 0)
            return (int)i;
    return -1;
}

static bool get_int(const json_t *value, int *out)
{
    json_int_t v = json_integer_value(value);
    if (!json_is_integer(value) || v < INT32_MIN || v > INT32_MAX)
        return false;
    *out = (int)v;
    return true;
}

static bool get_ints(const json_t *o, const char *key, int *out, size_t n)
{
    const json_t *a = json_object_get(o, key);
    if (!json_is_array(a) || json_array_size(a) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!get_int(json_array_get(a, i), &out[i]))
            return false;
    return true;
}

static bool get_number(const json_t *o, const char *key, float *out)
{
    const json_t *v = json_object_get(o, key);
    const char *word = json_string_value(v);
    if (word && (strcmp(word, "inf") == 0 || strcmp(word, "-inf") == 0)) {
        *out = word[0] == '-' ? -INFINITY : INFINITY;
        return true;
    }
    double d = json_number_value(v);
    if (!json_is_number(v) || !(fabs(d) <= 3.4028234e38))
        return false;
    *out = (float)d;
    return true;
}

static bool get_bool(const json_t *o, const char *key, bool *out)
{
    const json_t *v = json_object_get(o, key);
    *out = json_is_true(v);
    return json_is_boolean(v);
}

static bool get_name(const json_t *o, char out[sizeof((kd_node *)0)->name])
{
    const char *name = json_string_value(json_object_get(o, "name"));
    if (!name || !*name || strlen(name) >= sizeof((kd_node *)0)->name)
        return false;
    memcpy(out, name, strlen(name) + 1);
    return true;
}

/* Only where it is said, of any node. */
static bool read_range(const json_t *o, kd_node *n)
{
    return !json_object_get(o, "range") ||
           (get_number(o, "range", &n->range) && n->range > 0 && n->range <= KD_INT8_MOST);
}

/* The key that is missing or wrong, NULL if all is well. */
static const char *read_node(const json_t *o, kd_node *n, kd_node_extra *extra)
{
    const char *op = json_string_value(json_object_get(o, "op"));
    size_t which = KD_COUNT(g_ops);
    for (size_t i = 0; op && i < KD_COUNT(g_ops); i++)
        if (strcmp(g_ops[i].name, op) == 0)
            which = i;
    if (which == KD_COUNT(g_ops))
        return "op";
    n->op = (enum kd_op)which;
    const unsigned f = g_ops[which].fields;
    int shape[3], pair[2], of[3], axis;
    if (!get_ints(o, "shape", shape, 3))
        return "shape";
    n->h = shape[0];
    n->w = shape[1];
    n->c = shape[2];
    n->in[0] = n->in[1] = -1;
    if (!(f & NONE) && !get_ints(o, "in", n->in, f & TWO ? 2 : 1))
        return "in";
    if (f & NAMED) {
        int init = find_word(g_inits, KD_COUNT(g_inits), json_object_get(o, "init"));
        if (init < 0)
            return "init";
        extra->init = (enum kd_param_init)init;
        if (!get_name(o, n->name))
            return "name";
    }
    if ((f & HEAD) && !get_bool(o, "head", &extra->head))
        return "head";
    if (f & WINDOW) {
        if (!get_ints(o, "kernel", pair, 2))
            return "kernel";
        n->kernel_h = pair[0];
        n->kernel_w = pair[1];
        if (!get_ints(o, "stride", pair, 2))
            return "stride";
        n->stride_h = pair[0];
        n->stride_w = pair[1];
        if (!get_ints(o, "pad", n->pad, 4))
            return "pad";
    }
    if (f & CONVOLUTION) {
        if (!get_ints(o, "dilation", pair, 2))
            return "dilation";
        n->dilation_h = pair[0];
        n->dilation_w = pair[1];
        if (!get_int(json_object_get(o, "groups"), &n->groups))
            return "groups";
        if (!get_bool(o, "bias", &extra->bias))
            return "bias";
    }
    if ((f & COUNT_PAD) && !get_bool(o, "count_pad", &n->count_pad))
        return "count_pad";
    if ((f & EPS) && (!get_number(o, "eps", &n->eps) || !(n->eps >= 0 && n->eps < 1e6f)))
        return "eps";
    if ((f & ALPHA) && !get_number(o, "alpha", &n->alpha))
        return "alpha";
    if ((f & BETA) && !get_number(o, "beta", &n->beta))
        return "beta";
    if (f & AXIS) {
        if (!get_int(json_object_get(o, "axis"), &axis) || axis < 0 || axis > 2)
            return "axis";
        n->axis = (enum kd_axis)axis;
    }
    if ((f & START) && !get_ints(o, "start", n->start, 3))
        return "start";
    if ((f & STEP) && !get_ints(o, "step", n->step, 3))
        return "step";
    if (f & OF) {
        if (!get_ints(o, "of", of, 3))
            return "of";
        for (int i = 0; i < 3; i++) {
            if (of[i] < 0 || of[i] > 2)
                return "of";
            n->of[i] = (enum kd_axis)of[i];
        }
    }
    if (!read_range(o, n))
        return "range";
    return NULL;
}

static int build_node(kd_graph *g, const json_t *o, int at, kd_diag *diag)
{
    kd_node n = {0};
    kd_node_extra extra = {0};
    const char *wrong = read_node(o, &n, &extra);
    if (wrong)
        return kd_fail(diag, -KD_EDATA, "node %d of the graph has no usable `%s`", at, wrong);
    if (n.op == KD_OP_INPUT)
        return kd_fail(diag, -KD_EDATA, "node %d of the graph is a second input", at);
    const int made = kd_graph_append(g, &n, n.in, &extra);
    if (made < 0)
        return kd_fail(diag, -KD_EDATA, "node %d of the graph: %s", at, g->error);
    const kd_node *is = &g->nodes[made];
    if (is->h != n.h || is->w != n.w || is->c != n.c)
        return kd_fail(diag, -KD_EDATA,
                       "node %d of the graph (%s) gives %dx%dx%d, the text says %dx%dx%d", at,
                       is->name, is->h, is->w, is->c, n.h, n.w, n.c);
    return 0;
}

/* A dense layer's bias may be drawn as its weight is (torch.nn.Linear), which no attribute of the
 * node says. */
static void take_bias_inits(kd_graph *g, const json_t *params)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (n->op != KD_OP_DENSE || g->params[n->weight].init != KD_INIT_TORCH_UNIFORM)
            continue;
        const json_t *o = json_array_get(params, (size_t)n->bias);
        int init = find_word(g_inits, KD_COUNT(g_inits), json_object_get(o, "init"));
        if (init == (int)KD_INIT_TORCH_UNIFORM) {
            g->params[n->bias].init = KD_INIT_TORCH_UNIFORM;
            g->params[n->bias].fan_in = g->params[n->weight].fan_in;
        }
    }
}

static bool param_agrees(const kd_param *p, const json_t *o)
{
    const char *name = json_string_value(json_object_get(o, "name"));
    const json_t *shape = json_object_get(o, "shape");
    bool head;
    if (!name || strcmp(name, p->name) != 0 || json_array_size(shape) != (size_t)p->ndim ||
        find_word(g_kinds, KD_COUNT(g_kinds), json_object_get(o, "kind")) != (int)p->kind ||
        find_word(g_inits, KD_COUNT(g_inits), json_object_get(o, "init")) != (int)p->init ||
        !get_bool(o, "head", &head) || head != p->head)
        return false;
    for (int i = 0; i < p->ndim; i++)
        if (json_integer_value(json_array_get(shape, (size_t)i)) != p->shape[i])
            return false;
    return true;
}

static int build(kd_graph *g, const json_t *root, kd_diag *diag)
{
    const json_t *nodes = json_object_get(root, "nodes"), *params = json_object_get(root, "params");
    int output;
    for (size_t i = 1; i < json_array_size(nodes); i++) {
        int rc = build_node(g, json_array_get(nodes, i), (int)i, diag);
        if (rc)
            return rc;
        if (g->vector_len > KD_GRAPH_MAX_VECTOR)
            return kd_fail(diag, -KD_ELIMIT, "a network of more than %zu parameters",
                           KD_GRAPH_MAX_VECTOR);
    }
    if (json_array_size(params) != (size_t)g->n_params)
        return kd_fail(diag, -KD_EDATA, "the graph has %d parameters, the text names %zu",
                       g->n_params, json_array_size(params));
    take_bias_inits(g, params);
    for (int i = 0; i < g->n_params; i++)
        if (!param_agrees(&g->params[i], json_array_get(params, (size_t)i)))
            return kd_fail(diag, -KD_EDATA, "the text does not describe the parameter %s as it is",
                           g->params[i].name);
    if (!get_int(json_object_get(root, "output"), &output))
        return kd_fail(diag, -KD_EDATA, "the graph names no output");
    kd_diag why = {0};
    return kd_graph_finish(g, output, &why) ? kd_fail(diag, -KD_EDATA, "the graph: %s", why.msg)
                                            : 0;
}

int kd_graph_from_json(const char *text, kd_graph **out, kd_diag *diag)
{
    const size_t len = strnlen(text, KD_GRAPH_JSON_MAX + 1u);
    if (len > KD_GRAPH_JSON_MAX)
        return kd_fail(diag, -KD_ELIMIT, "a graph of more than %u bytes", KD_GRAPH_JSON_MAX);
    json_error_t error;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    const char *format = json_string_value(json_object_get(root, "format"));
    int version, shape[3], rc = 0;
    kd_graph *g = NULL;
    if (!root)
        rc = kd_fail(diag, -KD_EDATA, "the graph is no JSON: line %d: %s", error.line, error.text);
    else if (!format || strcmp(format, FORMAT) != 0)
        rc = kd_fail(diag, -KD_EDATA, "the text is no graph: its format is not \"%s\"", FORMAT);
    else if (!get_int(json_object_get(root, "version"), &version) || version != 1)
        rc = kd_fail(diag, -KD_EDATA, "the graph is of another version than 1");
    const json_t *first = json_array_get(json_object_get(root, "nodes"), 0);
    const char *op = json_string_value(json_object_get(first, "op"));
    if (!rc && (!op || strcmp(op, "input") != 0 || !get_ints(first, "shape", shape, 3)))
        rc = kd_fail(diag, -KD_EDATA, "the graph does not begin with an input");
    if (!rc) {
        g = kd_graph_new(shape[0], shape[1], shape[2]);
        rc = g->error[0] ? kd_fail(diag, -KD_EDATA, "%s", g->error)
             : !read_range(first, &g->nodes[0])
                 ? kd_fail(diag, -KD_EDATA, "node 0 of the graph has no usable `range`")
                 : build(g, root, diag);
    }
    json_decref(root);
    if (rc)
        kd_graph_free(g);
    else
        *out = g;
    return rc;
}
