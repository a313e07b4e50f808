#include <cblas.h>
#include <string.h>

#include "engine/op.h"

/* y = x W^T + b with x [n,in], W [out,in]. Training: one matrix product over the batch. Inference:
 * a matrix-vector product an image, so that no neighbour can change how its row is summed. */
typedef struct {
    dnnl_memory_t x, d_x; /* plain rows */
    kd_prim *reorder_x, *reorder_d_x;
    int weight, bias; /* blocks, bias -1 = none */
    int in, out;
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (in->h != 1 || in->w != 1 || node->h != 1 || node->w != 1 || node->weight < 0)
        return kd_fail(diag, -KD_EINVAL,
                       "Dense '%s' needs a flat input and weights, not an input [%d,%d,%d].",
                       node->name, in->h, in->w, in->c);
    const kd_param *w = &g->params[node->weight];
    if (w->count != (size_t)in->c * (size_t)node->c ||
        (node->bias >= 0 && g->params[node->bias].count != (size_t)node->c))
        return kd_fail(diag, -KD_EINVAL, "Dense '%s' of %d to %d has parameters of another size.",
                       node->name, in->c, node->c);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a dense layer.");
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *in = &p->values[t->in[0]];
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    s->in = p->graph->nodes[t->in[0]].c;
    s->out = node->c;
    const dnnl_memory_desc_t rows = kd_plan_desc(p, s->in, 1, 1, dnnl_nchw);
    const dnnl_memory_desc_t md = kd_plan_desc(p, s->out, 1, 1, dnnl_nchw);
    int rc = kd_plan_make_value(p, t, &md, -1, diag);
    if (!rc)
        rc = kd_plan_as(p, &in->md, in->mem, &rows, tick, p->training ? back : tick, &s->x,
                        &s->reorder_x, diag);
    if (!rc && t->d_in[0])
        rc = kd_plan_into(p, &rows, &in->md, t->d_in[0], back, &s->d_x, &s->reorder_d_x, diag);
    if (rc)
        return rc;
    s->weight =
        kd_plan_block(p, (size_t)s->in * (size_t)s->out * sizeof(float), 0, KD_TICK_EVER, diag);
    if (s->weight < 0)
        return s->weight;
    s->bias = -1;
    if (node->bias >= 0)
        s->bias = kd_plan_block(p, (size_t)s->out * sizeof(float), 0, KD_TICK_EVER, diag);
    return node->bias >= 0 && s->bias < 0 ? s->bias : 0;
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)diag;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *w = &p->graph->params[node->weight];
    memcpy(kd_plan_data(p, s->weight), vector + w->offset, w->count * sizeof(float));
    if (s->bias >= 0)
        memcpy(kd_plan_data(p, s->bias), vector + p->graph->params[node->bias].offset,
               (size_t)s->out * sizeof(float));
    return 0;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    const int rc = kd_prim_run(p, s->reorder_x, diag);
    if (rc)
        return rc;
    const float *x = kd_memory_data(s->x), *w = kd_plan_data(p, s->weight);
    float *y = kd_plan_data(p, p->values[t->result].block);
    const size_t row = (size_t)s->out * sizeof(float);
    for (int i = 0; i < p->n; i++) {
        if (s->bias >= 0)
            memcpy(y + (size_t)i * (size_t)s->out, kd_plan_data(p, s->bias), row);
        else
            memset(y + (size_t)i * (size_t)s->out, 0, row);
    }
    if (p->training) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->n, s->out, s->in, 1, x, s->in, w,
                    s->in, 1, y, s->out);
        return 0;
    }
    for (int i = 0; i < p->n; i++)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, s->out, s->in, 1, w, s->in,
                    x + (size_t)i * (size_t)s->in, 1, 1, y + (size_t)i * (size_t)s->out, 1);
    return 0;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const float *d_y = kd_plan_data(p, p->values[t->result].d_block);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, s->out, s->in, p->n, 1, d_y, s->out,
                kd_memory_data(s->x), s->in, 0, gradient + p->graph->params[node->weight].offset,
                s->in);
    if (node->bias >= 0) {
        float *d_b = gradient + p->graph->params[node->bias].offset;
        memset(d_b, 0, (size_t)s->out * sizeof(float));
        for (int i = 0; i < p->n; i++)
            for (int j = 0; j < s->out; j++)
                d_b[j] += d_y[(size_t)i * (size_t)s->out + (size_t)j];
    }
    if (!t->d_in[0])
        return 0;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, p->n, s->in, s->out, 1, d_y, s->out,
                kd_plan_data(p, s->weight), s->in, 0, kd_memory_data(s->d_x), s->in);
    return kd_prim_run(p, s->reorder_d_x, diag);
}

const kd_op_impl kd_op_dense = {"dense", check, prepare, load, forward, backward};
