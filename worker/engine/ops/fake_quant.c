#include <math.h>

#include "engine/op.h"

/* x as 8 bits will hold it, unit * code with the code nearest to x (Jacob et al. 2018, section 3).
 * The gradient passes straight through where x is within the codes, and is 0 where it is cut off
 * (Bengio et al. 2013, arXiv:1308.3432). The layout is the input's: zeros that fill up a block stay
 * zeros. */

static float lowest(const kd_node *node)
{
    return node->beta > 0 ? 0 : -127;
}

static float highest(const kd_node *node)
{
    return node->beta > 0 ? 255 : 127;
}

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (in->h != node->h || in->w != node->w || in->c != node->c || !(node->alpha > 0) ||
        !isfinite(node->alpha))
        return kd_fail(diag, -KD_EINVAL,
                       "Rounding '%s' changes the shape or its unit %g is not above 0.", node->name,
                       (double)node->alpha);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    return kd_plan_make_value(p, t, &p->values[t->in[0]].md, -1, diag);
}

static size_t floats_of(const kd_value *v)
{
    return dnnl_memory_desc_get_size(&v->md) / sizeof(float);
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    (void)diag;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *v = &p->values[t->result];
    const float unit = node->alpha, low = lowest(node), high = highest(node);
    const float *x = kd_memory_data(p->values[t->in[0]].mem);
    float *restrict y = kd_memory_data(v->mem);
    const size_t n = floats_of(v);
    for (size_t i = 0; i < n; i++) {
        const float code = nearbyintf(x[i] / unit);
        y[i] = unit * (code < low ? low : code > high ? high : code);
    }
    return 0;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient, (void)diag;
    if (!t->d_in[0])
        return 0;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *v = &p->values[t->result];
    const float low = node->alpha * lowest(node), high = node->alpha * highest(node);
    const float *x = kd_memory_data(p->values[t->in[0]].mem), *d_y = kd_memory_data(v->d_mem);
    float *restrict d_x = kd_memory_data(t->d_in[0]);
    const size_t n = floats_of(v);
    for (size_t i = 0; i < n; i++)
        d_x[i] = x[i] >= low && x[i] <= high ? d_y[i] : 0;
    return 0;
}

const kd_op_impl kd_op_fake_quant = {"rounding", check, prepare, NULL, forward, backward};
