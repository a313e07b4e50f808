#include <string.h>

#include "engine/op.h"

/* y = gamma (x - mean) / sqrt(var + eps) + beta (Ioffe & Szegedy 2015). On the batch's own
 * statistics the variance is the biased one; the "gradient" of the running variance is the unbiased
 * one, as PyTorch's running_var. Frozen and in inference: on the running statistics. */
typedef struct {
    kd_prim *forward, *backward;
    int gamma, beta, mean, var, d_gamma, d_beta; /* blocks of [c] */
    bool own;                                    /* the batch's own statistics */
    double correction;                           /* count / (count - 1) */
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

static int channel_memory(kd_plan *p, int c, int first, int last, int *out_block,
                          dnnl_memory_t *out, kd_diag *diag)
{
    dnnl_memory_desc_t md;
    const dnnl_dims_t dims = {c};
    KD_BUG_ON(dnnl_memory_desc_init_by_tag(&md, 1, dims, dnnl_f32, dnnl_a) != dnnl_success);
    return kd_plan_new_memory(p, &md, first, last, out, out_block, diag);
}

static int prepare_backward(kd_plan *p, kd_task *t, state *s, unsigned flags,
                            dnnl_primitive_desc_t hint, dnnl_memory_t gamma, dnnl_memory_t beta,
                            dnnl_memory_t mean, dnnl_memory_t var, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *in = &p->values[t->in[0]], *v = &p->values[t->result];
    const int back = kd_tick_backward(p, t);
    dnnl_batch_normalization_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_t d_x = t->d_in[0], d_gamma, d_beta;
    int rc = channel_memory(p, node->c, back, back, &s->d_gamma, &d_gamma, diag);
    if (!rc)
        rc = channel_memory(p, node->c, back, back, &s->d_beta, &d_beta, diag);
    if (!rc && !d_x)
        rc = kd_plan_new_memory(p, &in->md, back, back, &d_x, NULL, diag);
    if (!rc)
        rc = kd_onednn(dnnl_batch_normalization_backward_desc_init(&desc, dnnl_backward, &in->md,
                                                                   &in->md, node->eps, flags),
                       "batch norm's gradient", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, hint, &pd, diag);
    if (rc)
        return rc;
    rc = kd_plan_prim(p, pd, back, back, &s->backward, diag);
    if (!rc) {
        kd_prim_arg(s->backward, DNNL_ARG_SRC, in->mem);
        kd_prim_arg(s->backward, DNNL_ARG_DIFF_DST, v->d_mem);
        kd_prim_arg(s->backward, DNNL_ARG_MEAN, mean);
        kd_prim_arg(s->backward, DNNL_ARG_VARIANCE, var);
        kd_prim_arg(s->backward, DNNL_ARG_SCALE, gamma);
        kd_prim_arg(s->backward, DNNL_ARG_SHIFT, beta); /* unread, but oneDNN insists */
        kd_prim_arg(s->backward, DNNL_ARG_DIFF_SRC, d_x);
        kd_prim_arg(s->backward, DNNL_ARG_DIFF_SCALE, d_gamma);
        kd_prim_arg(s->backward, DNNL_ARG_DIFF_SHIFT, d_beta);
    }
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a batch norm.");
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *in = &p->values[t->in[0]];
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const double count = (double)p->n * node->h * node->w;
    s->own = p->use == KD_PLAN_TRAIN;
    if (s->own && count < 2)
        return kd_fail(diag, -KD_EINVAL,
                       "Batch norm '%s' has one value a channel to take a variance of; "
                       "use a larger batch or frozen batch norm.",
                       node->name);
    s->correction = s->own ? count / (count - 1) : 1;
    const unsigned flags =
        dnnl_use_scale | dnnl_use_shift | (s->own ? 0U : (unsigned)dnnl_use_global_stats);
    const int stats_first = s->own ? tick : 0, stats_last = s->own ? back : KD_TICK_EVER;
    dnnl_memory_t gamma, beta, mean, var;
    int rc = channel_memory(p, node->c, 0, KD_TICK_EVER, &s->gamma, &gamma, diag);
    if (!rc)
        rc = channel_memory(p, node->c, 0, KD_TICK_EVER, &s->beta, &beta, diag);
    if (!rc)
        rc = channel_memory(p, node->c, stats_first, stats_last, &s->mean, &mean, diag);
    if (!rc)
        rc = channel_memory(p, node->c, stats_first, stats_last, &s->var, &var, diag);
    dnnl_batch_normalization_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    if (!rc)
        rc = kd_onednn(dnnl_batch_normalization_forward_desc_init(
                           &desc, p->training ? dnnl_forward_training : dnnl_forward_inference,
                           &in->md, node->eps, flags),
                       "batch norm", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, NULL, &pd, diag);
    if (rc)
        return rc;
    rc = kd_plan_make_value(p, t, &in->md, -1, diag);
    if (!rc)
        rc = kd_plan_prim(p, pd, tick, tick, &s->forward, diag);
    if (!rc) {
        kd_prim_arg(s->forward, DNNL_ARG_SRC, in->mem);
        kd_prim_arg(s->forward, DNNL_ARG_DST, p->values[t->result].mem);
        kd_prim_arg(s->forward, DNNL_ARG_SCALE, gamma);
        kd_prim_arg(s->forward, DNNL_ARG_SHIFT, beta);
        kd_prim_arg(s->forward, DNNL_ARG_MEAN, mean);
        kd_prim_arg(s->forward, DNNL_ARG_VARIANCE, var);
    }
    if (!rc && p->training)
        rc = prepare_backward(p, t, s, flags, pd, gamma, beta, mean, var, diag);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)diag;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *params = p->graph->params;
    const size_t bytes = (size_t)node->c * sizeof(float);
    memcpy(kd_plan_data(p, s->gamma), vector + params[node->weight].offset, bytes);
    memcpy(kd_plan_data(p, s->beta), vector + params[node->bias].offset, bytes);
    if (s->own)
        return 0;
    memcpy(kd_plan_data(p, s->mean), vector + params[node->mean].offset, bytes);
    memcpy(kd_plan_data(p, s->var), vector + params[node->var].offset, bytes);
    return 0;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    return kd_prim_run(p, s->forward, diag);
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *params = p->graph->params;
    const int rc = kd_prim_run(p, s->backward, diag);
    if (rc)
        return rc;
    const size_t bytes = (size_t)node->c * sizeof(float);
    memcpy(gradient + params[node->weight].offset, kd_plan_data(p, s->d_gamma), bytes);
    memcpy(gradient + params[node->bias].offset, kd_plan_data(p, s->d_beta), bytes);
    float *g_mean = gradient + params[node->mean].offset;
    float *g_var = gradient + params[node->var].offset;
    if (!s->own) {
        memset(g_mean, 0, bytes);
        memset(g_var, 0, bytes);
        return 0;
    }
    const float *mean = kd_plan_data(p, s->mean), *var = kd_plan_data(p, s->var);
    for (int c = 0; c < node->c; c++) {
        g_mean[c] = stat_weight * mean[c];
        g_var[c] = (float)((double)stat_weight * s->correction * (double)var[c]);
    }
    return 0;
}

const kd_op_impl kd_op_batch_norm = {"batch norm", check, prepare, load, forward, backward};
