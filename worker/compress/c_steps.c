#include "compress/c_internal.h"

#include "engine/op.h"
#include "models/int8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a row's mask, so that the next one begins at a byte. */
#define MASK(n) (((n) + 7) / 8)

static void number(kd_buf *b, float v)
{
    if (isfinite(v))
        kd_buf_printf(b, "%af", (double)v);
    else
        kd_buf_str(b, v > 0 ? "FLT_MAX" : "-FLT_MAX");
}

static void numbers(c_writer *w, const char *name, int at, const float *v, size_t n)
{
    kd_buf_printf(&w->data, "static const float %s%d[] = {", name, at);
    for (size_t i = 0; i < n; i++) {
        kd_buf_str(&w->data, i % 6 ? " " : "\n    ");
        number(&w->data, v[i]);
        kd_buf_str(&w->data, ",");
    }
    kd_buf_str(&w->data, "\n};\n");
}

static void bytes(c_writer *w, const char *type, const char *name, int at, const int *v, size_t n)
{
    kd_buf_printf(&w->data, "static const %s char %s%d[] = {", type, name, at);
    for (size_t i = 0; i < n; i++)
        kd_buf_printf(&w->data, "%s%d,", i % 20 ? " " : "\n    ", v[i]);
    kd_buf_str(&w->data, "\n};\n");
}

/* ---- weights */

/* Weights in the order in which they are read: a convolution's [o][i][h][w] as [o][h][w][i]. */
static float *ordered(const c_writer *w, const kd_node *n, size_t row)
{
    const kd_param *p = &w->g->params[n->weight];
    const float *from = w->vector + p->offset;
    float *to = malloc(p->count * sizeof *to);
    const size_t window = n->op == KD_OP_CONV ? (size_t)n->kernel_h * (size_t)n->kernel_w : 1;
    const size_t channels = row / window;
    for (size_t o = 0; to && o < p->count / row; o++)
        for (size_t i = 0; i < channels; i++)
            for (size_t k = 0; k < window; k++)
                to[o * row + k * channels + i] = from[o * row + i * window + k];
    return to;
}

/* A layer's weights on their way into the text. */
typedef struct layer_weights {
    int rows;
    size_t row;
    bool int8, masked;
    float *values; /* [rows][row], from ordered() */
    float *units;  /* [rows] of codes */
    int8_t *codes; /* [rows][row] */
    float *kept;   /* room for the values that are written */
    int *out;      /* likewise for bytes */
} layer_weights;

static bool is_zero(const layer_weights *l, size_t i)
{
    return l->int8 ? l->codes[i] == 0 : l->values[i] == 0;
}

static size_t count(const layer_weights *l)
{
    return (size_t)l->rows * l->row;
}

/* Where it takes less room than the zeros. */
static void choose_mask(layer_weights *l)
{
    const size_t each = l->int8 ? sizeof *l->codes : sizeof *l->values;
    size_t zeros = 0;
    for (size_t i = 0; i < count(l); i++)
        zeros += is_zero(l, i);
    l->masked = zeros * each > (size_t)l->rows * MASK(l->row);
}

static void write_mask(c_writer *w, int at, layer_weights *l)
{
    const size_t n = (size_t)l->rows * MASK(l->row);
    memset(l->out, 0, n * sizeof *l->out);
    for (size_t o = 0; o < (size_t)l->rows; o++)
        for (size_t i = 0; i < l->row; i++)
            if (!is_zero(l, o * l->row + i))
                l->out[o * MASK(l->row) + i / 8] |= 1 << i % 8;
    bytes(w, "unsigned", "m", at, l->out, n);
}

static void write_layer(c_writer *w, int at, layer_weights *l)
{
    char mask[16] = "0";
    size_t n = 0;
    if (l->masked) {
        write_mask(w, at, l);
        snprintf(mask, sizeof mask, "m%d", at);
    }
    for (size_t i = 0; i < count(l); i++) {
        if (l->masked && is_zero(l, i))
            continue;
        if (l->int8)
            l->out[n++] = l->codes[i];
        else
            l->kept[n++] = l->values[i];
    }
    if (n == 0) { /* C has no empty array */
        l->out[0] = 0;
        l->kept[n++] = 0;
    }
    if (l->int8) {
        bytes(w, "signed", "c", at, l->out, n);
        numbers(w, "u", at, l->units, (size_t)l->rows);
        kd_buf_printf(&w->data, "static const struct weights w%d = {0, %s, c%d, u%d};\n", at, mask,
                      at, at);
    } else {
        numbers(w, "v", at, l->kept, n);
        kd_buf_printf(&w->data, "static const struct weights w%d = {v%d, %s, 0, 0};\n", at, at,
                      mask);
    }
}

static int write_weights(c_writer *w, int at, kd_diag *diag)
{
    const kd_node *n = &w->g->nodes[at];
    const kd_param *p = &w->g->params[n->weight];
    layer_weights l = {.rows = n->c, .row = p->count / (size_t)n->c, .int8 = w->int8};
    l.values = ordered(w, n, l.row);
    l.units = malloc((size_t)l.rows * sizeof *l.units);
    l.codes = malloc(p->count + 1);
    l.kept = malloc((p->count + 1) * sizeof *l.kept);
    l.out = malloc((p->count + (size_t)l.rows * MASK(l.row) + 1) * sizeof *l.out);
    const int rc = l.values && l.units && l.codes && l.kept && l.out
                       ? 0
                       : kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as C");
    if (!rc) {
        if (l.int8)
            kd_int8_codes(l.values, l.rows, l.row, l.codes, l.units);
        choose_mask(&l);
        write_layer(w, at, &l);
        if (l.masked || l.int8)
            w->row = KD_MAX(w->row, l.row);
        if (n->bias >= 0)
            numbers(w, "b", at, w->vector + w->g->params[n->bias].offset, (size_t)n->c);
        w->kernels[KD_C_ROW] = true;
    }
    free(l.values);
    free(l.units);
    free(l.codes);
    free(l.kept);
    free(l.out);
    return rc;
}

/* ---- activations */

static const struct {
    enum kd_op op;
    enum kd_c_kernel kernel;
    const char *name;
    int parameters;
} g_acts[] = {
    {KD_OP_RELU, KD_C_RELU, "relu", 0},
    {KD_OP_RELU6, KD_C_CLIP, "clip", 2},
    {KD_OP_CLIP, KD_C_CLIP, "clip", 2},
    {KD_OP_LEAKY_RELU, KD_C_LEAKY, "leaky", 1},
    {KD_OP_SIGMOID, KD_C_SIGMOID, "sigmoid", 0},
    {KD_OP_SILU, KD_C_SILU, "silu", 0},
    {KD_OP_TANH, KD_C_TANH, "tangent", 0},
    {KD_OP_HARD_SIGMOID, KD_C_HARD_SIGMOID, "hard_sigmoid", 2},
    {KD_OP_HARD_SWISH, KD_C_HARD_SWISH, "hard_swish", 0},
};

static size_t act_row(enum kd_op op)
{
    size_t i = 0;
    while (i < KD_COUNT(g_acts) && g_acts[i].op != op)
        i++;
    return i;
}

/* The call on x with n values, into b. */
static void call_act(c_writer *w, kd_buf *b, const kd_node *n, const char *x, const char *count)
{
    const size_t a = act_row(n->op);
    w->kernels[g_acts[a].kernel] = true;
    kd_buf_printf(b, "    %s(%s, %s", g_acts[a].name, x, count);
    const float bounds[2] = {n->op == KD_OP_RELU6 ? 0 : n->alpha,
                             n->op == KD_OP_RELU6 ? 6 : n->beta};
    for (int i = 0; i < g_acts[a].parameters; i++) {
        kd_buf_str(b, ", ");
        number(b, bounds[i]);
    }
    kd_buf_str(b, ");\n");
}

static void act(c_writer *w, int at)
{
    const kd_node *n = &w->g->nodes[at];
    char to[48], from[48], count[24];
    kd_c_value(w, at, to, sizeof to);
    kd_c_value(w, n->in[0], from, sizeof from);
    snprintf(count, sizeof count, "%zuL", w->places[at].floats);
    if (w->places[at].root != w->places[n->in[0]].root)
        kd_buf_printf(&w->steps, "    memcpy(%s, %s, %zu * sizeof(float));\n", to, from,
                      w->places[at].floats);
    call_act(w, &w->steps, n, to, count);
}

/* ---- layers */

static int conv(c_writer *w, int at, const kd_node *pool, int act_node, int result, kd_diag *diag)
{
    const kd_node *n = &w->g->nodes[at], *in = &w->g->nodes[n->in[0]];
    const kd_node *last = pool ? pool : n;
    char from[48], to[48], bias[24] = "0";
    const int rc = write_weights(w, at, diag);
    if (rc)
        return rc;
    kd_c_value(w, n->in[0], from, sizeof from);
    kd_c_value(w, result, to, sizeof to);
    if (n->bias >= 0)
        snprintf(bias, sizeof bias, "b%d", at);
    kd_buf_printf(&w->data,
                  "static const struct conv s%d = {%d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, "
                  "%d, %d, %d, %d};\n",
                  at, in->h, in->w, in->c, last->h, last->w, n->c, n->kernel_h, n->kernel_w,
                  in->c / n->groups, n->stride_h, n->stride_w, n->dilation_h, n->dilation_w,
                  n->pad[0], n->pad[1], n->c / n->groups);
    w->kernels[KD_C_CONV_AT] = true;
    w->kernels[pool ? KD_C_CONV_POOL : KD_C_CONV] = true;
    if (!pool) {
        kd_buf_printf(&w->steps, "    conv(&s%d, w%d, %s, %s, %s);\n", at, at, bias, from, to);
        return 0;
    }
    char call[24] = "0";
    if (act_node >= 0) {
        snprintf(call, sizeof call, "act%d", act_node);
        kd_buf_printf(&w->data, "static void %s(float *x, long n)\n{\n", call);
        call_act(w, &w->data, &w->g->nodes[act_node], "x", "n");
        kd_buf_str(&w->data, "}\n");
    }
    kd_buf_printf(&w->steps,
                  "    conv_pool(&s%d, w%d, %s, %d, %d, %d, %d, %d, %d, %d, %d, %s, %s, %s);\n", at,
                  at, bias, pool->kernel_h, pool->kernel_w, pool->stride_h, pool->stride_w,
                  pool->pad[0], pool->pad[1], n->h, n->w, call, from, to);
    return 0;
}

static int batch_norm(c_writer *w, int at, const char *from, const char *to, kd_diag *diag)
{
    const kd_node *n = &w->g->nodes[at];
    const kd_param *p = w->g->params;
    const float *v = w->vector;
    float *factor = calloc(2 * (size_t)n->c, sizeof *factor), *shift = factor + n->c;
    if (!factor)
        return kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as C");
    for (size_t c = 0; c < (size_t)n->c; c++) {
        const double f = (double)v[p[n->weight].offset + c] /
                         sqrt((double)v[p[n->var].offset + c] + (double)n->eps);
        factor[c] = (float)f;
        shift[c] = (float)((double)v[p[n->bias].offset + c] - (double)v[p[n->mean].offset + c] * f);
    }
    numbers(w, "f", at, factor, (size_t)n->c);
    numbers(w, "b", at, shift, (size_t)n->c);
    kd_buf_printf(&w->steps, "    affine(%dL, %d, f%d, b%d, %s, %s);\n", n->h * n->w, n->c, at, at,
                  from, to);
    w->kernels[KD_C_AFFINE] = true;
    free(factor);
    return 0;
}

static void pool(c_writer *w, int at, const char *from, const char *to)
{
    const kd_node *n = &w->g->nodes[at], *in = &w->g->nodes[n->in[0]];
    kd_buf_printf(&w->data,
                  "static const struct pool s%d = {%d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, %d, "
                  "%d};\n",
                  at, in->h, in->w, in->c, n->h, n->w, n->kernel_h, n->kernel_w, n->stride_h,
                  n->stride_w, n->pad[0], n->pad[1], n->op == KD_OP_AVG_POOL, n->count_pad);
    kd_buf_printf(&w->steps, "    pool(&s%d, %s, %s);\n", at, from, to);
    w->kernels[KD_C_POOL] = true;
}

static void steps_of(const kd_node *in, char *out, size_t size)
{
    snprintf(out, size, "{%d, %d, %d}", in->h > 1 ? in->w * in->c : 0, in->w > 1 ? in->c : 0,
             in->c > 1 ? 1 : 0);
}

static void combine(c_writer *w, int at, char op, const char *from, const char *to)
{
    const kd_node *n = &w->g->nodes[at];
    char other[48], a[64], b[64];
    kd_c_value(w, n->in[1], other, sizeof other);
    steps_of(&w->g->nodes[n->in[0]], a, sizeof a);
    steps_of(&w->g->nodes[n->in[1]], b, sizeof b);
    kd_buf_printf(&w->data, "static const long p%d[3] = %s, q%d[3] = %s;\n", at, a, at, b);
    kd_buf_printf(&w->steps, "    combine('%c', %d, %d, %d, p%d, q%d, %s, %s, %s);\n", op, n->h,
                  n->w, n->c, at, at, from, other, to);
    w->kernels[KD_C_COMBINE] = true;
}

/* The parameter lies as [c][h][w], values as [h][w][c]. */
static int constant(c_writer *w, int at, kd_diag *diag)
{
    const kd_node *n = &w->g->nodes[at];
    const float *v = w->vector + w->g->params[n->weight].offset;
    const size_t area = (size_t)n->h * (size_t)n->w, c = (size_t)n->c;
    float *to = malloc(area * c * sizeof *to);
    if (!to)
        return kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as C");
    for (size_t i = 0; i < area; i++)
        for (size_t k = 0; k < c; k++)
            to[i * c + k] = v[k * area + i];
    numbers(w, "value", at, to, area * c);
    free(to);
    return 0;
}

int kd_c_step(c_writer *w, int at, kd_diag *diag)
{
    const kd_node *n = &w->g->nodes[at];
    const c_place *p = &w->places[at];
    const kd_node *in = n->in[0] >= 0 ? &w->g->nodes[n->in[0]] : NULL;
    char from[48] = "", to[48];
    if (p->inside)
        return 0;
    if (p->pool_of >= 0)
        return conv(w, p->pool_of, n, p->act_of, at, diag);
    if (in)
        kd_c_value(w, n->in[0], from, sizeof from);
    kd_c_value(w, at, to, sizeof to);
    if (act_row(n->op) < KD_COUNT(g_acts)) {
        act(w, at);
        return 0;
    }
    switch (n->op) {
    case KD_OP_CONV:
        return conv(w, at, NULL, -1, at, diag);
    case KD_OP_DENSE: {
        const int rc = write_weights(w, at, diag);
        kd_buf_printf(&w->steps, "    dense(%d, %d, w%d, b%d, %s, %s);\n", in->c, n->c, at, at,
                      from, to);
        w->kernels[KD_C_DENSE] = true;
        return rc;
    }
    case KD_OP_BATCH_NORM:
        return batch_norm(w, at, from, to, diag);
    case KD_OP_MAX_POOL:
    case KD_OP_AVG_POOL:
        pool(w, at, from, to);
        return 0;
    case KD_OP_GLOBAL_AVG_POOL:
        kd_buf_printf(&w->steps, "    mean(%dL, %d, %s, %s);\n", in->h * in->w, in->c, from, to);
        w->kernels[KD_C_MEAN] = true;
        return 0;
    case KD_OP_RESHAPE:
        return p->root != at
                   ? 0
                   : kd_fail(diag, -KD_EUNSUP, "there is no C for the operator of %s", n->name);
    case KD_OP_FLATTEN:
        if (p->root == at) {
            kd_buf_printf(&w->steps, "    flatten(%dL, %d, %s, %s);\n", in->h * in->w, in->c, from,
                          to);
            w->kernels[KD_C_FLATTEN] = true;
        }
        return 0;
    case KD_OP_ADD:
        combine(w, at, '+', from, to);
        return 0;
    case KD_OP_SUB:
        combine(w, at, '-', from, to);
        return 0;
    case KD_OP_MUL:
        combine(w, at, '*', from, to);
        return 0;
    case KD_OP_DIV:
        combine(w, at, '/', from, to);
        return 0;
    case KD_OP_CONST:
        return constant(w, at, diag);
    default:
        return kd_fail(diag, -KD_EUNSUP, "there is no C for the operator of %s", n->name);
    }
}
