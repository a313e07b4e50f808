#include "engine/op.h"

/* Max pooling keeps the place of each maximum in a workspace for its backward; the global average
 * is an average over one window as large as the picture. */
typedef struct {
    kd_prim *forward, *backward;
} state;

static int check_max(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    const int k = node->kernel;
    if (k < 1 || k > in->h || k > in->w || node->h != in->h / k || node->w != in->w / k ||
        node->c != in->c)
        return kd_fail(diag, -KD_EINVAL, "Max pool '%s' of [%d,%d,%d] by %d gives [%d,%d,%d].",
                       node->name, in->h, in->w, in->c, k, node->h, node->w, node->c);
    return 0;
}

static int check_average(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (node->h != 1 || node->w != 1 || node->c != in->c)
        return kd_fail(diag, -KD_EINVAL, "Global average '%s' of [%d,%d,%d] gives [%d,%d,%d].",
                       node->name, in->h, in->w, in->c, node->h, node->w, node->c);
    return 0;
}

static int prepare_backward(kd_plan *p, kd_task *t, state *s, dnnl_alg_kind_t alg,
                            const dnnl_dims_t kernel, dnnl_primitive_desc_t hint,
                            dnnl_memory_t workspace, kd_diag *diag)
{
    static const dnnl_dims_t no_pad = {0, 0};
    const int back = kd_tick_backward(p, t);
    const kd_value *in = &p->values[t->in[0]], *v = &p->values[t->result];
    dnnl_pooling_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    int rc = kd_onednn(dnnl_pooling_backward_desc_init(&desc, alg, &in->md, &v->md, kernel, kernel,
                                                       no_pad, no_pad),
                       "pooling's gradient", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, hint, &pd, diag);
    if (rc)
        return rc;
    rc = kd_plan_prim(p, pd, back, back, &s->backward, diag);
    if (!rc) {
        kd_prim_arg(s->backward, DNNL_ARG_DIFF_DST, v->d_mem);
        kd_prim_arg(s->backward, DNNL_ARG_DIFF_SRC, t->d_in[0]);
        if (workspace)
            kd_prim_arg(s->backward, DNNL_ARG_WORKSPACE, workspace);
    }
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    static const dnnl_dims_t no_pad = {0, 0};
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a pooling.");
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    const kd_value *in = &p->values[t->in[0]];
    const bool max = node->op == KD_OP_MAX_POOL;
    const dnnl_alg_kind_t alg = max ? dnnl_pooling_max : dnnl_pooling_avg_exclude_padding;
    const dnnl_dims_t kernel = {max ? node->kernel : from->h, max ? node->kernel : from->w};
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const bool learns = p->training && t->d_in[0];
    const dnnl_memory_desc_t any = kd_plan_desc(p, node->c, node->h, node->w, dnnl_format_tag_any);
    dnnl_pooling_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_t workspace = NULL;
    int rc = kd_onednn(dnnl_pooling_forward_desc_init(
                           &desc, learns ? dnnl_forward_training : dnnl_forward_inference, alg,
                           &in->md, &any, kernel, kernel, no_pad, no_pad),
                       "pooling", diag);
    if (!rc)
        rc = kd_plan_desc_create(p, &desc, NULL, NULL, &pd, diag);
    if (rc)
        return rc;
    const dnnl_memory_desc_t md = kd_desc_query(pd, dnnl_query_dst_md);
    rc = kd_plan_make_value(p, t, &md, -1, diag);
    if (!rc)
        rc = kd_plan_prim(p, pd, tick, tick, &s->forward, diag);
    if (!rc) {
        kd_prim_arg(s->forward, DNNL_ARG_SRC, in->mem);
        kd_prim_arg(s->forward, DNNL_ARG_DST, p->values[t->result].mem);
        if (learns && max) {
            const dnnl_memory_desc_t ws = kd_desc_query(pd, dnnl_query_workspace_md);
            rc = kd_plan_new_memory(p, &ws, tick, back, &workspace, NULL, diag);
            if (!rc)
                kd_prim_arg(s->forward, DNNL_ARG_WORKSPACE, workspace);
        }
    }
    if (!rc && learns)
        rc = prepare_backward(p, t, s, alg, kernel, pd, workspace, diag);
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    return kd_prim_run(p, s->forward, diag);
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient;
    const state *s = t->state;
    return kd_prim_run(p, s->backward, diag);
}

const kd_op_impl kd_op_max_pool = {"max pool", check_max, prepare, NULL, forward, backward};
const kd_op_impl kd_op_global_avg_pool = {
    "global average pool", check_average, prepare, NULL, forward, backward};
