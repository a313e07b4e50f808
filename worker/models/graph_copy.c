#include "models/graph_copy.h"

#include <stdlib.h>
#include <string.h>

static void sides(const kd_node *n, int out[3])
{
    out[KD_AXIS_C] = n->c;
    out[KD_AXIS_H] = n->h;
    out[KD_AXIS_W] = n->w;
}

static int append_conv(kd_graph *g, const kd_node *like, int in, const kd_node_extra *extra)
{
    kd_conv_spec spec = {.out_channels = like->c,
                         .kernel_h = like->kernel_h,
                         .kernel_w = like->kernel_w,
                         .stride_h = like->stride_h,
                         .stride_w = like->stride_w,
                         .dilation_h = like->dilation_h,
                         .dilation_w = like->dilation_w,
                         .groups = like->groups,
                         .bias = extra->bias,
                         .head = extra->head,
                         .init = extra->init};
    memcpy(spec.pad, like->pad, sizeof spec.pad);
    return kd_graph_conv2(g, in, like->name, &spec);
}

static int append_pool(kd_graph *g, const kd_node *like, int in)
{
    kd_pool_spec spec = {.average = like->op == KD_OP_AVG_POOL,
                         .count_pad = like->count_pad,
                         .kernel_h = like->kernel_h,
                         .kernel_w = like->kernel_w,
                         .stride_h = like->stride_h,
                         .stride_w = like->stride_w};
    memcpy(spec.pad, like->pad, sizeof spec.pad);
    return kd_graph_pool(g, in, &spec);
}

static int append_pad(kd_graph *g, const kd_node *like, int in)
{
    int have[3], want[3], after[3];
    sides(&g->nodes[in], have);
    sides(like, want);
    for (int i = 0; i < 3; i++)
        if (__builtin_sub_overflow(want[i], have[i], &after[i]) ||
            __builtin_sub_overflow(after[i], like->start[i], &after[i]))
            after[i] = -1;
    return kd_graph_pad(g, in, like->start, after, like->alpha);
}

static int append_slice(kd_graph *g, const kd_node *like, int in)
{
    int have[3], want[3], stop[3];
    sides(&g->nodes[in], have);
    sides(like, want);
    for (int i = 0; i < 3; i++) {
        /* Just behind the last element that is taken. */
        int64_t last = like->start[i] + ((int64_t)want[i] - 1) * like->step[i];
        int64_t end = last + (like->step[i] > 0 ? 1 : -1);
        stop[i] = end < -1 || end > have[i] ? -2 : (int)end;
    }
    return kd_graph_slice(g, in, like->start, stop, like->step);
}

static int append(kd_graph *g, const kd_node *n, const int in[2], const kd_node_extra *extra)
{
    switch (n->op) {
    case KD_OP_INPUT:
        break;
    case KD_OP_CONV:
        return append_conv(g, n, in[0], extra);
    case KD_OP_BATCH_NORM:
        return kd_graph_batch_norm(g, in[0], n->name, n->eps);
    case KD_OP_RELU:
        return kd_graph_relu(g, in[0]);
    case KD_OP_RELU6:
        return kd_graph_relu6(g, in[0]);
    case KD_OP_MAX_POOL:
    case KD_OP_AVG_POOL:
        return append_pool(g, n, in[0]);
    case KD_OP_GLOBAL_AVG_POOL:
        return kd_graph_global_avg_pool(g, in[0]);
    case KD_OP_FLATTEN:
        return kd_graph_flatten(g, in[0]);
    case KD_OP_DENSE:
        return kd_graph_dense(g, in[0], n->name, n->c, extra->head, extra->init);
    case KD_OP_ADD:
        return kd_graph_add(g, in[0], in[1]);
    case KD_OP_SIGMOID:
        return kd_graph_sigmoid(g, in[0]);
    case KD_OP_SILU:
        return kd_graph_silu(g, in[0]);
    case KD_OP_TANH:
        return kd_graph_tanh(g, in[0]);
    case KD_OP_LEAKY_RELU:
        return kd_graph_leaky_relu(g, in[0], n->alpha);
    case KD_OP_CLIP:
        return kd_graph_clip(g, in[0], n->alpha, n->beta);
    case KD_OP_HARD_SIGMOID:
        return kd_graph_hard_sigmoid(g, in[0], n->alpha, n->beta);
    case KD_OP_HARD_SWISH:
        return kd_graph_hard_swish(g, in[0]);
    case KD_OP_SUB:
        return kd_graph_sub(g, in[0], in[1]);
    case KD_OP_MUL:
        return kd_graph_mul(g, in[0], in[1]);
    case KD_OP_DIV:
        return kd_graph_div(g, in[0], in[1]);
    case KD_OP_CONST:
        return kd_graph_const(g, n->name, n->h, n->w, n->c, extra->init);
    case KD_OP_PAD:
        return append_pad(g, n, in[0]);
    case KD_OP_CONCAT:
        return kd_graph_concat(g, in[0], in[1], n->axis);
    case KD_OP_SLICE:
        return append_slice(g, n, in[0]);
    case KD_OP_RESHAPE:
        return kd_graph_reshape(g, in[0], n->h, n->w, n->c);
    case KD_OP_PERMUTE:
        return kd_graph_permute(g, in[0], n->of);
    case KD_OP_SOFTMAX:
        return kd_graph_softmax(g, in[0]);
    case KD_OP_DROPOUT:
        return kd_graph_dropout(g, in[0], n->alpha);
    case KD_OP_DROP_PATH:
        return kd_graph_drop_path(g, in[0], n->alpha);
    case KD_OP_FAKE_QUANT:
        return kd_graph_fake_quant(g, in[0], n->alpha, n->beta > 0);
    }
    return -1;
}

static int refuse(kd_graph *g, const char *name)
{
    if (!g->error[0]) {
        static const char what[] = "is not a node that can be built here";
        size_t n = strnlen(name, sizeof((kd_node *)0)->name - 1);
        memcpy(g->error, name, n);
        g->error[n] = ' ';
        memcpy(g->error + n + 1, what, sizeof what);
    }
    return -1;
}

int kd_graph_append(kd_graph *g, const kd_node *like, const int in[2], const kd_node_extra *extra)
{
    const bool source = like->op == KD_OP_CONST;
    const int before = g->n_nodes;
    if (g->error[0])
        return -1;
    if (source ? in[0] != -1 : in[0] < 0 || in[0] >= before || in[1] < -1 || in[1] >= before)
        return refuse(g, like->name);
    const int at = append(g, like, in, extra);
    /* A builder that would add a node of its own was given what no builder leaves behind. */
    if (at < 0 || g->n_nodes != before + 1)
        return refuse(g, like->name);
    g->nodes[at].range = like->range;
    return at;
}

kd_node_extra kd_graph_extra(const kd_graph *g, const kd_node *n)
{
    if (n->weight < 0)
        return (kd_node_extra){.init = KD_INIT_ZERO};
    return (kd_node_extra){
        .bias = n->bias >= 0, .head = g->params[n->weight].head, .init = g->params[n->weight].init};
}

/* ---- with edits */

static void mark_needed(const kd_graph *g, int output, bool *needed)
{
    needed[0] = needed[output] = true;
    for (int i = output; i > 0; i--)
        for (int k = 0; needed[i] && k < 2; k++)
            if (g->nodes[i].in[k] >= 0)
                needed[g->nodes[i].in[k]] = true;
}

/* Node n of g as it shall be, behind a head whose size changes from `old` channels. */
static bool resize_behind(const kd_graph *g, kd_node *n, int old, int classes, bool *behind, int at)
{
    for (int k = 0; k < 2; k++)
        if (n->in[k] >= 0 && behind[n->in[k]])
            behind[at] = true;
    if (!behind[at])
        return true;
    switch (n->op) {
    case KD_OP_RESHAPE:
        if (n->c == old)
            n->c = classes;
        else if (n->h == old)
            n->h = classes;
        else if (n->w == old)
            n->w = classes;
        return true;
    case KD_OP_ADD:
    case KD_OP_SUB:
    case KD_OP_MUL:
    case KD_OP_DIV:
        for (int k = 0; k < 2; k++) /* a constant of one value a class has none for the new ones */
            if (g->nodes[n->in[k]].op == KD_OP_CONST &&
                g->params[g->nodes[n->in[k]].weight].count != 1)
                return false;
        return true;
    case KD_OP_BATCH_NORM:
    case KD_OP_CONCAT:
    case KD_OP_PAD:
    case KD_OP_SLICE:
        return false;
    default:
        return true;
    }
}

static void map_params(const kd_node *from, const kd_node *to, int *param_of)
{
    const int old[] = {from->weight, from->bias, from->mean, from->var};
    const int new[] = {to->weight, to->bias, to->mean, to->var};
    for (int i = 0; i < 4; i++)
        if (old[i] >= 0)
            param_of[old[i]] = new[i];
}

static int rebuild(const kd_graph *g, int output, const kd_graph_edit *edit, kd_graph *to,
                   bool *flags, int *node_of, int *param_of, kd_diag *diag)
{
    bool *needed = flags, *behind = flags + g->n_nodes;
    const int old = edit->head >= 0 ? g->nodes[edit->head].c : 0;
    const bool other = edit->head >= 0 && edit->classes && edit->classes != old;
    mark_needed(g, output, needed);
    for (int i = 1; i < g->n_nodes; i++) {
        if (!needed[i])
            continue;
        kd_node n = g->nodes[i];
        kd_node_extra extra = kd_graph_extra(g, &n);
        if (edit->drop_bias && edit->drop_bias[i])
            extra.bias = false;
        if (i == edit->head) {
            extra.head = true;
            behind[i] = other;
            n.c = other ? edit->classes : n.c;
        } else if (!resize_behind(g, &n, old, edit->classes, behind, i)) {
            return kd_fail(diag, -KD_EINVAL,
                           "%s, which follows the last layer %s, cannot follow from %d to %d "
                           "classes",
                           n.name, g->nodes[edit->head].name, old, edit->classes);
        }
        const int in[2] = {n.in[0] < 0 ? -1 : node_of[n.in[0]],
                           n.in[1] < 0 ? -1 : node_of[n.in[1]]};
        node_of[i] = kd_graph_append(to, &n, in, &extra);
        if (node_of[i] < 0)
            return kd_fail(diag, -KD_EINVAL, "%s", to->error);
        map_params(&g->nodes[i], &to->nodes[node_of[i]], param_of);
    }
    return edit->any_output ? kd_graph_finish_any(to, node_of[output], diag)
                            : kd_graph_finish(to, node_of[output], diag);
}

int kd_graph_rebuild(const kd_graph *g, int output, const kd_graph_edit *edit, kd_graph **out,
                     int *param_of, kd_diag *diag)
{
    if (g->error[0] || output < 0 || output >= g->n_nodes)
        return kd_fail(diag, -KD_EINVAL, "%s",
                       g->error[0] ? g->error : "the network has no output");
    const size_t n = (size_t)g->n_nodes;
    bool *flags = calloc(2 * n, sizeof *flags);
    int *node_of = calloc(n, sizeof *node_of);
    if (!flags || !node_of) {
        free(flags);
        free(node_of);
        return kd_fail(diag, -KD_ENOMEM, "no memory for a network of %zu nodes", n);
    }
    for (int i = 0; i < g->n_params; i++)
        param_of[i] = -1;
    kd_graph *to = kd_graph_new(g->nodes[0].h, g->nodes[0].w, g->nodes[0].c);
    to->nodes[0].range = g->nodes[0].range;
    const int rc = rebuild(g, output, edit, to, flags, node_of, param_of, diag);
    free(flags);
    free(node_of);
    if (rc)
        kd_graph_free(to);
    else
        *out = to;
    return rc;
}

int kd_graph_find_head(const kd_graph *g, int output)
{
    for (int i = output; i > 0;) {
        const kd_node *n = &g->nodes[i];
        switch (n->op) {
        case KD_OP_DENSE:
        case KD_OP_CONV:
            return i;
        case KD_OP_INPUT:
        case KD_OP_CONST:
        case KD_OP_CONCAT:
        case KD_OP_PAD:
        case KD_OP_SLICE:
            return -1;
        case KD_OP_ADD:
        case KD_OP_SUB:
        case KD_OP_MUL:
        case KD_OP_DIV:
            if (g->nodes[n->in[1]].op == KD_OP_CONST)
                i = n->in[0];
            else if (g->nodes[n->in[0]].op == KD_OP_CONST)
                i = n->in[1];
            else
                return -1;
            continue;
        default:
            i = n->in[0];
        }
    }
    return -1;
}
