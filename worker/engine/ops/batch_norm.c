#include <math.h>
#include <string.h>

#include "engine/op.h"
#include "norm.h"

/* Batch norm with the addition (t->in[1]) and the activation that the plan put behind it. On the
 * batch's own statistics the "gradient" of the running variance is the unbiased one, as PyTorch's
 * running_var. Frozen and in inference: on the running statistics. */
typedef struct {
    kd_norm norm; /* but for what lies in the arena */
    int gamma, beta, mean, var, d_gamma, d_beta, scratch, scratch_back; /* blocks */
    dnnl_memory_t x, r, d_x, d_r;                                       /* NULL = none */
    kd_prim *reorder_x, *reorder_r, *reorder_d_x, *reorder_d_r;
    bool keeps_g;      /* over d_y, when d_r is not there to take it */
    double correction; /* count / (count - 1) */
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    const int params[] = {node->weight, node->bias, node->mean, node->var};
    bool fits = in->h == node->h && in->w == node->w && in->c == node->c;
    for (size_t i = 0; i < KD_COUNT(params); i++)
        fits = fits && params[i] >= 0 && g->params[params[i]].count == (size_t)node->c;
    if (!fits || !(node->eps > 0))
        return kd_fail(diag, -KD_EINVAL,
                       "Batch norm '%s' needs four parameters of %d values and eps above 0.",
                       node->name, node->c);
    return 0;
}

static void set_act(kd_norm *n, const kd_node *act)
{
    switch (act->op) {
    case KD_OP_RELU:
        n->act = KD_NORM_CLAMP;
        n->low = 0;
        n->high = INFINITY;
        break;
    case KD_OP_RELU6:
        n->act = KD_NORM_CLAMP;
        n->low = 0;
        n->high = 6;
        break;
    case KD_OP_CLIP:
        n->act = KD_NORM_CLAMP;
        n->low = act->alpha;
        n->high = act->beta;
        break;
    case KD_OP_HARD_SWISH:
        n->act = KD_NORM_HARD_SWISH;
        break;
    case KD_OP_SILU:
        n->act = KD_NORM_SILU;
        break;
    default:
        break;
    }
}

/* Padding is 0 and must stay so: act(0) = 0. */
bool kd_batch_norm_takes(const kd_node *act)
{
    kd_norm n = {.act = KD_NORM_PLAIN};
    set_act(&n, act);
    return n.act != KD_NORM_PLAIN && n.low <= 0 && n.high >= 0;
}

/* ---- preparing */

static int channels_block(kd_plan *p, const state *s, int first, int last, int *out, kd_diag *diag)
{
    const size_t count = (size_t)(s->norm.shape.groups * s->norm.shape.channels);
    return kd_plan_new_block(p, count * sizeof(float), first, last, out, diag);
}

static int prepare_channels(kd_plan *p, const kd_task *t, state *s, kd_diag *diag)
{
    const bool own = s->norm.own;
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const int first = own ? tick : 0, last = own ? back : KD_TICK_EVER;
    int rc = channels_block(p, s, 0, KD_TICK_EVER, &s->gamma, diag);
    if (!rc)
        rc = channels_block(p, s, 0, KD_TICK_EVER, &s->beta, diag);
    if (!rc)
        rc = channels_block(p, s, first, last, &s->mean, diag);
    if (!rc)
        rc = channels_block(p, s, first, last, &s->var, diag);
    if (!rc && p->training)
        rc = channels_block(p, s, back, back, &s->d_gamma, diag);
    if (!rc && p->training)
        rc = channels_block(p, s, back, back, &s->d_beta, diag);
    const size_t bytes = kd_norm_scratch(&s->norm.shape);
    if (!rc)
        rc = kd_plan_new_block(p, bytes, tick, tick, &s->scratch, diag);
    if (!rc && p->training)
        rc = kd_plan_new_block(p, bytes, back, back, &s->scratch_back, diag);
    return rc;
}

/* d_y's memory becomes that of an input's gradient, the addend's first: then it is already there.
 * Nobody may have written to that gradient yet. */
static int shared_gradient(const kd_plan *p, const kd_task *t, const dnnl_memory_desc_t *md)
{
    for (int k = 1; k >= 0; k--) {
        if (!t->d_in[k] || t->d_in_adds[k])
            continue;
        const kd_value *in = &p->values[t->in[k]];
        if (kd_desc_equal(md, &in->md))
            return in->d_block;
    }
    return -1;
}

static int prepare_backward(kd_plan *p, const kd_task *t, state *s, const dnnl_memory_desc_t *md,
                            kd_diag *diag)
{
    const int back = kd_tick_backward(p, t);
    int rc = 0;
    if (t->d_in[0])
        rc = kd_plan_into(p, md, &p->values[t->in[0]].md, t->d_in[0], back, &s->d_x,
                          &s->reorder_d_x, diag);
    if (!rc && t->d_in[1])
        rc = kd_plan_into(p, md, &p->values[t->in[1]].md, t->d_in[1], back, &s->d_r,
                          &s->reorder_d_r, diag);
    /* Where g is not cheap to have again. */
    s->keeps_g = s->norm.act == KD_NORM_SILU || s->norm.act == KD_NORM_HARD_SWISH ||
                 (s->r && s->norm.act != KD_NORM_PLAIN);
    return rc;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a batch norm.");
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *in = &p->values[t->in[0]], *r = t->in[1] >= 0 ? &p->values[t->in[1]] : NULL;
    const int tick = kd_tick_forward(t), last = p->training ? kd_tick_backward(p, t) : tick;
    const double count = (double)p->n * node->h * node->w;
    s->norm.own = p->use == KD_PLAN_TRAIN;
    s->norm.eps = (double)node->eps;
    if (s->norm.own && count < 2)
        return kd_fail(diag, -KD_EINVAL,
                       "Batch norm '%s' has one value a channel to take a variance of; "
                       "use a larger batch or frozen batch norm.",
                       node->name);
    s->correction = s->norm.own ? count / (count - 1) : 1;
    if (t->act >= 0 && kd_batch_norm_takes(&p->graph->nodes[t->act])) {
        set_act(&s->norm, &p->graph->nodes[t->act]);
        t->act_inside = t->act_back_inside = true;
    }
    dnnl_memory_desc_t md = in->md;
    if (!kd_norm_shape_of(&md, &s->norm.shape)) {
        md = kd_plan_desc(p, node->c, node->h, node->w, dnnl_nchw);
        KD_BUG_ON(!kd_norm_shape_of(&md, &s->norm.shape));
    }
    int rc = kd_plan_make_value_sharing(p, t, &md, -1, shared_gradient(p, t, &md), diag);
    if (!rc)
        rc = prepare_channels(p, t, s, diag);
    if (!rc)
        rc = kd_plan_as(p, &in->md, in->mem, &md, tick, last, &s->x, &s->reorder_x, diag);
    if (!rc && r)
        rc = kd_plan_as(p, &r->md, r->mem, &md, tick, last, &s->r, &s->reorder_r, diag);
    return rc || !p->training ? rc : prepare_backward(p, t, s, &md, diag);
}

/* ---- running */

static void load_channels(const kd_plan *p, const state *s, int block, const float *vector,
                          int param)
{
    float *to = kd_plan_data(p, block);
    const kd_param *from = &p->graph->params[param];
    memset(to, 0, (size_t)(s->norm.shape.groups * s->norm.shape.channels) * sizeof *to);
    memcpy(to, vector + from->offset, from->count * sizeof *to);
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)diag;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    load_channels(p, s, s->gamma, vector, node->weight);
    load_channels(p, s, s->beta, vector, node->bias);
    if (s->norm.own)
        return 0;
    load_channels(p, s, s->mean, vector, node->mean);
    load_channels(p, s, s->var, vector, node->var);
    return 0;
}

static kd_norm in_arena(const kd_plan *p, const state *s, int scratch)
{
    kd_norm n = s->norm;
    n.gamma = kd_plan_data(p, s->gamma);
    n.beta = kd_plan_data(p, s->beta);
    n.mean = kd_plan_data(p, s->mean);
    n.var = kd_plan_data(p, s->var);
    n.scratch = kd_plan_data(p, scratch);
    n.x = kd_memory_data(s->x);
    n.r = s->r ? kd_memory_data(s->r) : NULL;
    return n;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    int rc = kd_prim_run(p, s->reorder_x, diag);
    if (!rc)
        rc = kd_prim_run(p, s->reorder_r, diag);
    if (rc)
        return rc;
    kd_norm n = in_arena(p, s, s->scratch);
    n.y = kd_plan_data(p, p->values[t->result].block);
    kd_norm_forward(&n);
    return 0;
}

static void write_statistics(const kd_plan *p, const kd_task *t, float weight, float *gradient)
{
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    float *g_mean = gradient + p->graph->params[node->mean].offset;
    float *g_var = gradient + p->graph->params[node->var].offset;
    const float *mean = kd_plan_data(p, s->mean), *var = kd_plan_data(p, s->var);
    for (int c = 0; c < node->c; c++) {
        g_mean[c] = s->norm.own ? weight * mean[c] : 0;
        g_var[c] = s->norm.own ? (float)((double)weight * s->correction * (double)var[c]) : 0;
    }
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    kd_norm n = in_arena(p, s, s->scratch_back);
    float *d_y = kd_plan_data(p, p->values[t->result].d_block);
    n.d_y = d_y;
    n.d_x = s->d_x ? kd_memory_data(s->d_x) : NULL;
    n.d_gamma = kd_plan_data(p, s->d_gamma);
    n.d_beta = kd_plan_data(p, s->d_beta);
    if (s->d_r && (s->norm.act != KD_NORM_PLAIN || kd_memory_data(s->d_r) != d_y))
        n.g = kd_memory_data(s->d_r);
    else if (s->keeps_g)
        n.g = d_y;
    kd_norm_backward(&n);
    int rc = kd_prim_run(p, s->reorder_d_x, diag);
    if (!rc)
        rc = kd_prim_run(p, s->reorder_d_r, diag);
    if (rc)
        return rc;
    const size_t bytes = (size_t)node->c * sizeof(float);
    memcpy(gradient + p->graph->params[node->weight].offset, n.d_gamma, bytes);
    memcpy(gradient + p->graph->params[node->bias].offset, n.d_beta, bytes);
    write_statistics(p, t, stat_weight, gradient);
    return 0;
}

const kd_op_impl kd_op_batch_norm = {"batch norm", check, prepare, load, forward, backward};
