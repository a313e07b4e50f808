#include <math.h>
#include <string.h>

#include "engine/op.h"

/* Padding, slice and concatenation: boxes copied between a plain array and places of another. */
typedef struct {
    dnnl_memory_t in[2], d_in[2]; /* plain */
    kd_prim *reorder[2], *reorder_d[2];
    int inputs;
} state;

/* A box in a plain array of p->n images: where it begins in the first one and how far its elements
 * are apart, in floats, along n, c, h, w. */
typedef struct {
    int64_t at, step[4];
} box;

static int inputs_of(const kd_node *node)
{
    return node->op == KD_OP_CONCAT ? 2 : 1;
}

static void sides_of(const kd_node *node, int out[3])
{
    out[KD_AXIS_C] = node->c;
    out[KD_AXIS_H] = node->h;
    out[KD_AXIS_W] = node->w;
}

/* ---- shapes */

static int refuse(const kd_graph *g, const kd_node *node, const char *what, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    return kd_fail(diag, -KD_EINVAL, "%s '%s' of [%d,%d,%d] gives [%d,%d,%d].", what, node->name,
                   in->h, in->w, in->c, node->h, node->w, node->c);
}

static int check_pad(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    int from[3], to[3];
    sides_of(&g->nodes[node->in[0]], from);
    sides_of(node, to);
    if (!isfinite(node->alpha))
        return refuse(g, node, "Padding", diag);
    for (int i = 0; i < 3; i++)
        if (node->start[i] < 0 || (int64_t)node->start[i] + from[i] > to[i])
            return refuse(g, node, "Padding", diag);
    return 0;
}

static int check_slice(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    int from[3], to[3];
    sides_of(&g->nodes[node->in[0]], from);
    sides_of(node, to);
    for (int i = 0; i < 3; i++) {
        const int64_t last = node->start[i] + (int64_t)(to[i] - 1) * node->step[i];
        if (node->step[i] == 0 || node->start[i] < 0 || node->start[i] >= from[i] || last < 0 ||
            last >= from[i])
            return refuse(g, node, "Slice", diag);
    }
    return 0;
}

static int check_concat(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    int a[3], b[3], to[3];
    sides_of(&g->nodes[node->in[0]], a);
    sides_of(&g->nodes[node->in[1]], b);
    sides_of(node, to);
    bool fits = (unsigned)node->axis <= KD_AXIS_W;
    for (int i = 0; i < 3; i++)
        fits = fits && (i == (int)node->axis ? (int64_t)a[i] + b[i] == to[i]
                                             : a[i] == to[i] && b[i] == to[i]);
    return fits ? 0 : refuse(g, node, "Concatenation", diag);
}

/* ---- memory */

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a change of shape.");
    const kd_node *node = &p->graph->nodes[t->node];
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const dnnl_memory_desc_t md = kd_plan_desc(p, node->c, node->h, node->w, dnnl_nchw);
    int rc = kd_plan_make_value(p, t, &md, -1, diag);
    s->inputs = inputs_of(node);
    for (int k = 0; !rc && k < s->inputs; k++) {
        const kd_node *from = &p->graph->nodes[t->in[k]];
        const kd_value *in = &p->values[t->in[k]];
        const dnnl_memory_desc_t plain = kd_plan_desc(p, from->c, from->h, from->w, dnnl_nchw);
        rc = kd_plan_as(p, &in->md, in->mem, &plain, tick, tick, &s->in[k], &s->reorder[k], diag);
        if (!rc && t->d_in[k])
            rc = kd_plan_into(p, &plain, &in->md, t->d_in[k], back, &s->d_in[k], &s->reorder_d[k],
                              diag);
    }
    return rc;
}

/* Every element of a plain array. */
static box whole(const kd_node *node)
{
    const int64_t h = node->h, w = node->w;
    return (box){.step = {node->c * h * w, h * w, w, 1}};
}

/* The places that slice, padding or concatenation give to input k: in the input for a slice, in the
 * result for the others. */
static box part(const kd_plan *p, const kd_task *t, int k)
{
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    box o = whole(node->op == KD_OP_SLICE ? from : node);
    int sides[3];
    sides_of(from, sides);
    for (int i = 0; i < 3; i++) {
        if (node->op == KD_OP_CONCAT)
            o.at += k == 1 && i == (int)node->axis ? sides[i] * o.step[1 + i] : 0;
        else
            o.at += node->start[i] * o.step[1 + i];
        if (node->op == KD_OP_SLICE)
            o.step[1 + i] *= node->step[i];
    }
    return o;
}

static void copy(int n, const kd_node *shape, const float *from, const box *f, float *to,
                 const box *o)
{
    for (int b = 0; b < n; b++)
        for (int c = 0; c < shape->c; c++)
            for (int h = 0; h < shape->h; h++) {
                const float *x = from + f->at + b * f->step[0] + c * f->step[1] + h * f->step[2];
                float *y = to + o->at + b * o->step[0] + c * o->step[1] + h * o->step[2];
                if (f->step[3] == 1 && o->step[3] == 1)
                    memcpy(y, x, (size_t)shape->w * sizeof *y);
                else
                    for (int w = 0; w < shape->w; w++)
                        y[w * o->step[3]] = x[w * f->step[3]];
            }
}

/* ---- running */

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    float *y = kd_plan_data(p, p->values[t->result].block);
    const size_t floats = (size_t)p->n * (size_t)node->c * (size_t)node->h * (size_t)node->w;
    for (size_t i = 0; node->op == KD_OP_PAD && i < floats; i++)
        y[i] = node->alpha;
    for (int k = 0; k < s->inputs; k++) {
        const int rc = kd_prim_run(p, s->reorder[k], diag);
        if (rc)
            return rc;
        const kd_node *from = &p->graph->nodes[t->in[k]];
        const box places = part(p, t, k), all = whole(node->op == KD_OP_SLICE ? node : from);
        const float *x = kd_memory_data(s->in[k]);
        if (node->op == KD_OP_SLICE)
            copy(p->n, node, x, &places, y, &all);
        else
            copy(p->n, from, x, &all, y, &places);
    }
    return 0;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const float *d_y = kd_plan_data(p, p->values[t->result].d_block);
    for (int k = 0; k < s->inputs; k++) {
        if (!t->d_in[k])
            continue;
        const kd_node *from = &p->graph->nodes[t->in[k]];
        const box places = part(p, t, k), all = whole(node->op == KD_OP_SLICE ? node : from);
        float *d_x = kd_memory_data(s->d_in[k]);
        if (node->op == KD_OP_SLICE) {
            memset(d_x, 0,
                   (size_t)p->n * (size_t)from->c * (size_t)from->h * (size_t)from->w *
                       sizeof *d_x);
            copy(p->n, node, d_y, &all, d_x, &places);
        } else {
            copy(p->n, from, d_y, &places, d_x, &all);
        }
        const int rc = kd_prim_run(p, s->reorder_d[k], diag);
        if (rc)
            return rc;
    }
    return 0;
}

const kd_op_impl kd_op_pad = {"padding", check_pad, prepare, NULL, forward, backward};
const kd_op_impl kd_op_slice = {"slice", check_slice, prepare, NULL, forward, backward};
const kd_op_impl kd_op_concat = {"concatenation", check_concat, prepare, NULL, forward, backward};
