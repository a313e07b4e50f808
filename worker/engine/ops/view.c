#include "engine/op.h"

/* Flatten, reshape and permute: the result is plain, in channel-height-width order as PyTorch's,
 * and seen with the input's axes it is the input in another layout. So each is one change of
 * layout. */
typedef struct {
    kd_prim *forward, *backward;
} state;

static int check_values(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    const bool flat = node->op != KD_OP_FLATTEN || (node->h == 1 && node->w == 1);
    if (!flat || (int64_t)in->h * in->w * in->c != (int64_t)node->h * node->w * node->c)
        return kd_fail(diag, -KD_EINVAL, "%s '%s' of [%d,%d,%d] gives [%d,%d,%d].",
                       node->op == KD_OP_FLATTEN ? "Flatten" : "Reshape", node->name, in->h, in->w,
                       in->c, node->h, node->w, node->c);
    return 0;
}

static int check_axes(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    const int from[3] = {in->c, in->h, in->w}, to[3] = {node->c, node->h, node->w};
    unsigned seen = 0;
    bool fits = true;
    for (int i = 0; i < 3; i++) {
        fits = fits && (unsigned)node->of[i] <= KD_AXIS_W && to[i] == from[node->of[i]];
        seen |= fits ? 1U << node->of[i] : 0;
    }
    if (!fits || seen != 7)
        return kd_fail(diag, -KD_EINVAL,
                       "Permutation '%s' of [%d,%d,%d] by axes %d,%d,%d gives [%d,%d,%d].",
                       node->name, in->h, in->w, in->c, (int)node->of[0], (int)node->of[1],
                       (int)node->of[2], node->h, node->w, node->c);
    return 0;
}

/* The result's plain memory with the input's axes. */
static dnnl_memory_desc_t unfolded(const kd_plan *p, const kd_node *node, const kd_node *from)
{
    if (node->op != KD_OP_PERMUTE)
        return kd_plan_desc(p, from->c, from->h, from->w, dnnl_nchw);
    const dnnl_dims_t dims = {p->n, from->c, from->h, from->w};
    const int64_t w = node->w, h = node->h, plain[3] = {h * w, w, 1};
    dnnl_dims_t strides = {node->c * h * w};
    for (int i = 0; i < 3; i++)
        strides[1 + node->of[i]] = plain[i];
    dnnl_memory_desc_t md;
    KD_BUG_ON(dnnl_memory_desc_init_by_strides(&md, 4, dims, dnnl_f32, strides) != dnnl_success);
    return md;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a change of shape.");
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    const kd_value *in = &p->values[t->in[0]];
    const dnnl_memory_desc_t plain = kd_plan_desc(p, node->c, node->h, node->w, dnnl_nchw);
    const dnnl_memory_desc_t seen = unfolded(p, node, from);
    dnnl_memory_t view;
    int rc = kd_plan_make_value(p, t, &plain, -1, diag);
    if (rc)
        return rc;
    const kd_value *v = &p->values[t->result];
    rc = kd_plan_memory(p, &seen, v->block, &view, diag);
    if (!rc)
        rc = kd_plan_reorder(p, &in->md, in->mem, &seen, view, kd_tick_forward(t), &s->forward,
                             diag);
    if (rc || !t->d_in[0])
        return rc;
    rc = kd_plan_memory(p, &seen, v->d_block, &view, diag);
    if (rc)
        return rc;
    return kd_plan_reorder(p, &seen, view, &in->md, t->d_in[0], kd_tick_backward(p, t),
                           &s->backward, diag);
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

const kd_op_impl kd_op_flatten = {"flatten", check_values, prepare, NULL, forward, backward};
const kd_op_impl kd_op_reshape = {"reshape", check_values, prepare, NULL, forward, backward};
const kd_op_impl kd_op_permute = {"permutation", check_axes, prepare, NULL, forward, backward};
