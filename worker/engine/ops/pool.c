#include "engine/graph_internal.h"
#include "engine/op.h"

/* Max pooling keeps the place of each maximum in a workspace for its backward; the global average
 * is an average over one window as large as the picture. */
typedef struct {
    kd_prim *forward, *backward;
} state;

typedef struct {
    dnnl_dims_t kernel, stride, pad_before, pad_after;
    dnnl_alg_kind_t alg;
} geometry;

static geometry geometry_of(const kd_graph *g, const kd_node *node)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (node->op == KD_OP_GLOBAL_AVG_POOL)
        return (geometry){.kernel = {in->h, in->w},
                          .stride = {in->h, in->w},
                          .alg = dnnl_pooling_avg_exclude_padding};
    geometry o = {.kernel = {node->kernel_h, node->kernel_w},
                  .stride = {node->stride_h, node->stride_w},
                  .pad_before = {node->pad[0], node->pad[1]},
                  .pad_after = {node->pad[2], node->pad[3]},
                  .alg = dnnl_pooling_max};
    if (node->op == KD_OP_AVG_POOL)
        o.alg =
            node->count_pad ? dnnl_pooling_avg_include_padding : dnnl_pooling_avg_exclude_padding;
    return o;
}

static int check_windows(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    bool fits = node->c == in->c && kd_graph_in_range(node->kernel_h) &&
                kd_graph_in_range(node->kernel_w) && kd_graph_in_range(node->stride_h) &&
                kd_graph_in_range(node->stride_w);
    /* A padding smaller than the kernel leaves each window a value. */
    for (int i = 0; i < 4; i++)
        fits =
            fits && node->pad[i] >= 0 && node->pad[i] < (i % 2 ? node->kernel_w : node->kernel_h);
    if (fits) {
        const int64_t h = in->h + (int64_t)node->pad[0] + node->pad[2] - node->kernel_h;
        const int64_t w = in->w + (int64_t)node->pad[1] + node->pad[3] - node->kernel_w;
        fits = h >= 0 && w >= 0 && node->h == h / node->stride_h + 1 &&
               node->w == w / node->stride_w + 1;
    }
    if (!fits)
        return kd_fail(diag, -KD_EINVAL,
                       "%s pool '%s' of [%d,%d,%d] by %dx%d, stride %dx%d, padding %d,%d,%d,%d, "
                       "gives [%d,%d,%d].",
                       node->op == KD_OP_MAX_POOL ? "Max" : "Average", node->name, in->h, in->w,
                       in->c, node->kernel_h, node->kernel_w, node->stride_h, node->stride_w,
                       node->pad[0], node->pad[1], node->pad[2], node->pad[3], node->h, node->w,
                       node->c);
    return 0;
}

static int check_global(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (node->h != 1 || node->w != 1 || node->c != in->c)
        return kd_fail(diag, -KD_EINVAL, "Global average '%s' of [%d,%d,%d] gives [%d,%d,%d].",
                       node->name, in->h, in->w, in->c, node->h, node->w, node->c);
    return 0;
}

static int prepare_backward(kd_plan *p, kd_task *t, state *s, const geometry *geo,
                            dnnl_primitive_desc_t hint, dnnl_memory_t workspace, kd_diag *diag)
{
    const int back = kd_tick_backward(p, t);
    const kd_value *in = &p->values[t->in[0]], *v = &p->values[t->result];
    dnnl_pooling_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    int rc =
        kd_onednn(dnnl_pooling_backward_desc_init(&desc, geo->alg, &in->md, &v->md, geo->stride,
                                                  geo->kernel, geo->pad_before, geo->pad_after),
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
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a pooling.");
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *in = &p->values[t->in[0]];
    const geometry geo = geometry_of(p->graph, node);
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const bool learns = p->training && t->d_in[0];
    const dnnl_memory_desc_t any = kd_plan_desc(p, node->c, node->h, node->w, dnnl_format_tag_any);
    dnnl_pooling_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_t workspace = NULL;
    int rc = kd_onednn(dnnl_pooling_forward_desc_init(
                           &desc, learns ? dnnl_forward_training : dnnl_forward_inference, geo.alg,
                           &in->md, &any, geo.stride, geo.kernel, geo.pad_before, geo.pad_after),
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
        if (learns && geo.alg == dnnl_pooling_max) {
            const dnnl_memory_desc_t ws = kd_desc_query(pd, dnnl_query_workspace_md);
            rc = kd_plan_new_memory(p, &ws, tick, back, &workspace, NULL, diag);
            if (!rc)
                kd_prim_arg(s->forward, DNNL_ARG_WORKSPACE, workspace);
        }
    }
    if (!rc && learns)
        rc = prepare_backward(p, t, s, &geo, pd, workspace, diag);
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

const kd_op_impl kd_op_max_pool = {"max pool", check_windows, prepare, NULL, forward, backward};
const kd_op_impl kd_op_avg_pool = {"average pool", check_windows, prepare, NULL, forward, backward};
const kd_op_impl kd_op_global_avg_pool = {
    "global average pool", check_global, prepare, NULL, forward, backward};
