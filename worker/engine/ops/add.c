#include <string.h>

#include "engine/op.h"

/* y = a + b, both gradients d_y. Padding of a blocked layout is zero and stays zero, so that plain
 * loops over the whole memory do. */
typedef struct {
    dnnl_memory_t b; /* in a's layout */
    kd_prim *reorder_b, *reorder_d_b;
    dnnl_memory_t d_b; /* in y's layout, before reorder_d_b */
    size_t floats;
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    for (int k = 0; k < 2; k++) {
        const kd_node *in = &g->nodes[node->in[k]];
        if (in->h != node->h || in->w != node->w || in->c != node->c)
            return kd_fail(diag, -KD_EINVAL, "Addition '%s' of [%d,%d,%d] gives [%d,%d,%d].",
                           node->name, in->h, in->w, in->c, node->h, node->w, node->c);
    }
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for an addition.");
    const kd_value *a = &p->values[t->in[0]], *b = &p->values[t->in[1]];
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    int rc = kd_plan_make_value(p, t, &a->md, -1, diag);
    if (!rc)
        rc = kd_plan_as(p, &b->md, b->mem, &a->md, tick, tick, &s->b, &s->reorder_b, diag);
    if (!rc && t->d_in[1])
        rc = kd_plan_into(p, &a->md, &b->md, t->d_in[1], back, &s->d_b, &s->reorder_d_b, diag);
    s->floats = dnnl_memory_desc_get_size(&a->md) / sizeof(float);
    return rc;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    const int rc = kd_prim_run(p, s->reorder_b, diag);
    if (rc)
        return rc;
    const float *a = kd_plan_data(p, p->values[t->in[0]].block);
    const float *b = kd_memory_data(s->b);
    float *restrict y = kd_plan_data(p, p->values[t->result].block);
    for (size_t i = 0; i < s->floats; i++)
        y[i] = a[i] + b[i];
    return 0;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient;
    const state *s = t->state;
    const float *d_y = kd_plan_data(p, p->values[t->result].d_block);
    if (t->d_in[0])
        memcpy(kd_memory_data(t->d_in[0]), d_y, s->floats * sizeof(float));
    if (!t->d_in[1])
        return 0;
    memcpy(kd_memory_data(s->d_b), d_y, s->floats * sizeof(float));
    return kd_prim_run(p, s->reorder_d_b, diag);
}

const kd_op_impl kd_op_add = {"addition", check, prepare, NULL, forward, backward};
