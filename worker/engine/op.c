#include "engine/op.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const kd_op_impl *kd_op_of(enum kd_op op)
{
    static const kd_op_impl *const table[] = {
        [KD_OP_INPUT] = &kd_op_input,
        [KD_OP_CONV] = &kd_op_conv,
        [KD_OP_BATCH_NORM] = &kd_op_batch_norm,
        [KD_OP_RELU] = &kd_op_activation,
        [KD_OP_RELU6] = &kd_op_activation,
        [KD_OP_MAX_POOL] = &kd_op_max_pool,
        [KD_OP_GLOBAL_AVG_POOL] = &kd_op_global_avg_pool,
        [KD_OP_FLATTEN] = &kd_op_flatten,
        [KD_OP_DENSE] = &kd_op_dense,
        [KD_OP_ADD] = &kd_op_arithmetic,
        [KD_OP_SIGMOID] = &kd_op_activation,
        [KD_OP_SILU] = &kd_op_activation,
        [KD_OP_TANH] = &kd_op_activation,
        [KD_OP_LEAKY_RELU] = &kd_op_activation,
        [KD_OP_CLIP] = &kd_op_activation,
        [KD_OP_HARD_SIGMOID] = &kd_op_activation,
        [KD_OP_HARD_SWISH] = &kd_op_activation,
        [KD_OP_AVG_POOL] = &kd_op_avg_pool,
        [KD_OP_SUB] = &kd_op_arithmetic,
        [KD_OP_MUL] = &kd_op_arithmetic,
        [KD_OP_DIV] = &kd_op_arithmetic,
        [KD_OP_CONST] = &kd_op_const,
        [KD_OP_PAD] = &kd_op_pad,
        [KD_OP_CONCAT] = &kd_op_concat,
        [KD_OP_SLICE] = &kd_op_slice,
        [KD_OP_RESHAPE] = &kd_op_reshape,
        [KD_OP_PERMUTE] = &kd_op_permute,
        [KD_OP_SOFTMAX] = &kd_op_softmax,
        [KD_OP_DROPOUT] = &kd_op_noise,
        [KD_OP_DROP_PATH] = &kd_op_noise,
        [KD_OP_FAKE_QUANT] = &kd_op_fake_quant,
    };
    return (size_t)op < KD_COUNT(table) ? table[op] : NULL;
}

static int no_memory(kd_diag *diag)
{
    return kd_fail(diag, -KD_ENOMEM, "Out of memory while a plan is made.");
}

const kd_op_impl *kd_task_op(const kd_graph *g, const kd_task *t)
{
    if (t->int8)
        return t->int8_vnni ? &kd_op_conv_vnni : &kd_op_conv_int8;
    if (t->winograd)
        return &kd_op_conv_winograd;
    return t->pool >= 0 ? &kd_op_conv_pool : kd_op_of(g->nodes[t->node].op);
}

int kd_node_inputs(const kd_node *node)
{
    switch (node->op) {
    case KD_OP_INPUT:
    case KD_OP_CONST:
        return 0;
    case KD_OP_ADD:
    case KD_OP_SUB:
    case KD_OP_MUL:
    case KD_OP_DIV:
    case KD_OP_CONCAT:
        return 2;
    default:
        return 1;
    }
}

static int check_params(const kd_graph *g, kd_diag *diag)
{
    size_t end = 0;
    for (int i = 0; i < g->n_params; i++) {
        const kd_param *p = &g->params[i];
        size_t count = 1;
        bool fits = p->ndim >= 1 && p->ndim <= 4 && p->offset == end;
        for (int k = 0; fits && k < p->ndim; k++)
            fits = p->shape[k] >= 1 && kd_mul_size(count, (size_t)p->shape[k], &count);
        if (!fits || count != p->count || __builtin_add_overflow(end, count, &end))
            return kd_fail(diag, -KD_EINVAL, "Parameter '%s' has no proper place in the vector.",
                           p->name);
    }
    if (end != g->vector_len)
        return kd_fail(diag, -KD_EINVAL, "The parameters have %zu values, the vector %zu.", end,
                       g->vector_len);
    return 0;
}

static int check_node(const kd_graph *g, int n, kd_diag *diag)
{
    const kd_node *node = &g->nodes[n];
    const kd_op_impl *op = kd_op_of(node->op);
    if (!op)
        return kd_fail(diag, -KD_EINVAL, "Node '%s' has no known operator.", node->name);
    if (node->h < 1 || node->w < 1 || node->c < 1 ||
        (int64_t)node->h * node->w > INT32_MAX / node->c)
        return kd_fail(diag, -KD_EINVAL, "Node '%s' has an impossible shape [%d,%d,%d].",
                       node->name, node->h, node->w, node->c);
    if (!(node->range >= 0) || !isfinite(node->range))
        return kd_fail(diag, -KD_EINVAL, "Node '%s' has the range %g.", node->name,
                       (double)node->range);
    for (int k = 0; k < kd_node_inputs(node); k++)
        if (node->in[k] < 0 || node->in[k] >= n)
            return kd_fail(diag, -KD_EINVAL, "Node '%s' reads node %d, which is not before it.",
                           node->name, node->in[k]);
    const int params[] = {node->weight, node->bias, node->mean, node->var};
    for (size_t i = 0; i < KD_COUNT(params); i++)
        if (params[i] >= g->n_params)
            return kd_fail(diag, -KD_EINVAL, "Node '%s' has no parameter %d.", node->name,
                           params[i]);
    return op->check(g, node, diag);
}

/* A parameter of two nodes would get the gradient of one. */
static int check_owners(const kd_graph *g, kd_diag *diag)
{
    bool *owned = calloc((size_t)g->n_params + 1, sizeof *owned);
    if (!owned)
        return no_memory(diag);
    int rc = 0;
    for (int n = 0; !rc && n < g->n_nodes; n++) {
        const kd_node *node = &g->nodes[n];
        const int params[] = {node->weight, node->bias, node->mean, node->var};
        for (size_t i = 0; !rc && i < KD_COUNT(params); i++) {
            if (params[i] < 0)
                continue;
            if (owned[params[i]])
                rc = kd_fail(diag, -KD_EINVAL, "Parameter '%s' belongs to two nodes.",
                             g->params[params[i]].name);
            owned[params[i]] = true;
        }
    }
    free(owned);
    return rc;
}

int kd_graph_check(const kd_graph *g, kd_diag *diag)
{
    if (g->n_nodes < 1 || g->nodes[0].op != KD_OP_INPUT || g->output < 0 || g->output >= g->n_nodes)
        return kd_fail(diag, -KD_EINVAL, "The graph has no input or no output.");
    int rc = check_params(g, diag);
    for (int n = 0; !rc && n < g->n_nodes; n++)
        rc = check_node(g, n, diag);
    return rc ? rc : check_owners(g, diag);
}

int kd_onednn(dnnl_status_t status, const char *what, kd_diag *diag)
{
    switch (status) {
    case dnnl_success:
        return 0;
    case dnnl_out_of_memory:
        return kd_fail(diag, -KD_ENOMEM, "oneDNN is out of memory: %s.", what);
    case dnnl_unimplemented:
        return kd_fail(diag, -KD_EUNSUP, "oneDNN has no implementation: %s.", what);
    case dnnl_invalid_arguments:
    case dnnl_iterator_ends:
    case dnnl_runtime_error:
    case dnnl_not_required:
        break;
    }
    return kd_fail(diag, -KD_EINTERNAL, "oneDNN failed with status %d: %s.", (int)status, what);
}

/* Room for one more element of a table that grows by doubling. */
static bool grow(void *table, int n, int *cap, size_t element)
{
    if (n < *cap)
        return true;
    const int next = *cap ? 2 * *cap : 64;
    void *old;
    memcpy(&old, table, sizeof old);
    void *fresh = realloc(old, (size_t)next * element);
    if (!fresh)
        return false;
    memcpy(table, &fresh, sizeof fresh);
    *cap = next;
    return true;
}

void *kd_plan_alloc(kd_plan *p, size_t bytes)
{
    if (!grow(&p->states, p->n_states, &p->cap_states, sizeof *p->states))
        return NULL;
    void *state = calloc(1, bytes);
    if (state)
        p->states[p->n_states++] = state;
    return state;
}

dnnl_memory_desc_t kd_plan_desc(const kd_plan *p, int c, int h, int w, dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t md;
    const dnnl_dims_t dims = {p->n, c, h, w};
    KD_BUG_ON(dnnl_memory_desc_init_by_tag(&md, 4, dims, dnnl_f32, tag) != dnnl_success);
    return md;
}

dnnl_memory_desc_t kd_plan_desc_int8(const kd_plan *p, const kd_value *v, const kd_node *node)
{
    dnnl_memory_desc_t md;
    const dnnl_dims_t dims = {p->n, node->c, node->h, node->w};
    const dnnl_data_type_t type = v->positive ? dnnl_u8 : dnnl_s8;
    KD_BUG_ON(dnnl_memory_desc_init_by_tag(&md, 4, dims, type, dnnl_nhwc) != dnnl_success);
    return md;
}

bool kd_desc_equal(const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b)
{
    return dnnl_memory_desc_equal(a, b) != 0;
}

int kd_plan_block(kd_plan *p, size_t bytes, int first, int last, kd_diag *diag)
{
    if (!grow(&p->blocks, p->n_blocks, &p->cap_blocks, sizeof *p->blocks))
        return no_memory(diag);
    if (bytes > SIZE_MAX / 2)
        return kd_fail(diag, -KD_ELIMIT, "A layer of %zu bytes is too large.", bytes);
    p->blocks[p->n_blocks] =
        (kd_block){.bytes = (KD_MAX(bytes, 1) + 63) / 64 * 64, .first = first, .last = last};
    return p->n_blocks++;
}

int kd_plan_new_block(kd_plan *p, size_t bytes, int first, int last, int *out, kd_diag *diag)
{
    *out = kd_plan_block(p, bytes, first, last, diag);
    return KD_MIN(*out, 0);
}

void kd_plan_extend(kd_plan *p, int block, int first, int last)
{
    p->blocks[block].first = KD_MIN(p->blocks[block].first, first);
    p->blocks[block].last = KD_MAX(p->blocks[block].last, last);
}

int kd_plan_memory(kd_plan *p, const dnnl_memory_desc_t *md, int block, dnnl_memory_t *out,
                   kd_diag *diag)
{
    if (!grow(&p->bindings, p->n_bindings, &p->cap_bindings, sizeof *p->bindings))
        return no_memory(diag);
    dnnl_memory_t mem;
    const int rc =
        kd_onednn(dnnl_memory_create(&mem, md, p->engine, DNNL_MEMORY_NONE), "memory", diag);
    if (rc)
        return rc;
    p->bindings[p->n_bindings++] = (struct kd_binding){.mem = mem, .block = block};
    *out = mem;
    return 0;
}

int kd_plan_new_memory(kd_plan *p, const dnnl_memory_desc_t *md, int first, int last,
                       dnnl_memory_t *out, int *out_block, kd_diag *diag)
{
    const int block = kd_plan_block(p, dnnl_memory_desc_get_size(md), first, last, diag);
    if (block < 0)
        return block;
    if (out_block)
        *out_block = block;
    return kd_plan_memory(p, md, block, out, diag);
}

int kd_plan_staging(kd_plan *p, size_t bytes, kd_diag *diag)
{
    /* Tick 0: weights are loaded before anything of a run is alive. */
    if (p->staging < 0)
        p->staging = kd_plan_block(p, bytes, 0, 0, diag);
    else
        p->blocks[p->staging].bytes = KD_MAX(p->blocks[p->staging].bytes, (bytes + 63) / 64 * 64);
    return p->staging;
}

int kd_plan_make_value(kd_plan *p, kd_task *t, const dnnl_memory_desc_t *md, int share,
                       kd_diag *diag)
{
    return kd_plan_make_value_sharing(p, t, md, share, -1, diag);
}

int kd_plan_make_value_sharing(kd_plan *p, kd_task *t, const dnnl_memory_desc_t *md, int share,
                               int d_share, kd_diag *diag)
{
    kd_value *v = &p->values[t->result];
    const bool is_output = t->result == p->output;
    const int first = kd_tick_forward(t), back = kd_tick_backward(p, t);
    /* In training a value lives until its producer's backward: later than every reader's. */
    const int last = p->training ? back : is_output ? p->n_tasks - 1 : KD_MAX(v->last_use, first);
    int rc;
    v->md = *md;
    if (share >= 0) {
        v->block = share;
        kd_plan_extend(p, share, first, last);
        rc = kd_plan_memory(p, md, share, &v->mem, diag);
    } else {
        rc = kd_plan_new_memory(p, md, first, last, &v->mem, &v->block, diag);
    }
    if (rc || !p->training || !v->wants_grad)
        return rc;
    const int d_first = is_output ? p->n_tasks : kd_tick_backward(p, &p->tasks[v->last_use]);
    if (d_share >= 0) {
        v->d_block = d_share;
        kd_plan_extend(p, d_share, d_first, back);
        return kd_plan_memory(p, md, d_share, &v->d_mem, diag);
    }
    return kd_plan_new_memory(p, md, d_first, back, &v->d_mem, &v->d_block, diag);
}

int kd_plan_desc_try(kd_plan *p, const void *op_desc, dnnl_post_ops_t post,
                     dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out, kd_diag *diag)
{
    return kd_plan_desc_scaled(p, op_desc, post, NULL, 0, hint, out, diag);
}

int kd_plan_desc_scaled(kd_plan *p, const void *op_desc, dnnl_post_ops_t post, const float *scales,
                        int n_scales, dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out,
                        kd_diag *diag)
{
    dnnl_primitive_attr_t attr;
    int rc = kd_onednn(dnnl_primitive_attr_create(&attr), "attributes", diag);
    if (rc)
        return rc;
    rc = kd_onednn(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user),
                   "scratchpad mode", diag);
    if (!rc && post)
        rc = kd_onednn(dnnl_primitive_attr_set_post_ops(attr, post), "post-operations", diag);
    if (!rc && scales)
        rc = kd_onednn(dnnl_primitive_attr_set_output_scales(attr, n_scales, 1 << 1, scales),
                       "scales", diag);
    if (!rc) {
        const dnnl_status_t status =
            dnnl_primitive_desc_create(out, op_desc, attr, p->engine, hint);
        rc = status == dnnl_unimplemented ? -KD_EUNSUP : kd_onednn(status, "descriptor", diag);
    }
    dnnl_primitive_attr_destroy(attr);
    return rc;
}

int kd_plan_desc_create(kd_plan *p, const void *op_desc, dnnl_post_ops_t post,
                        dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out, kd_diag *diag)
{
    const int rc = kd_plan_desc_try(p, op_desc, post, hint, out, diag);
    return rc == -KD_EUNSUP ? kd_fail(diag, rc, "oneDNN has no implementation for these shapes.")
                            : rc;
}

const char *kd_desc_implementation(dnnl_primitive_desc_t pd)
{
    const char *name = NULL;
    if (dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name) != dnnl_success)
        return "";
    return name ? name : "";
}

int kd_desc_quality(dnnl_primitive_desc_t pd)
{
    const char *name = kd_desc_implementation(pd);
    if (!name[0] || strncmp(name, "ref", 3) == 0)
        return 0;
    return strncmp(name, "gemm", 4) == 0 ? 1 : 2;
}

dnnl_memory_desc_t kd_desc_query(dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, what, 0);
    KD_BUG_ON(!md);
    return *md;
}

int kd_plan_prim(kd_plan *p, dnnl_primitive_desc_t pd, int first, int last, kd_prim **out,
                 kd_diag *diag)
{
    if (!grow(&p->prims, p->n_prims, &p->cap_prims, sizeof(kd_prim *)))
        return no_memory(diag);
    kd_prim *prim = calloc(1, sizeof *prim);
    if (!prim)
        return no_memory(diag);
    int rc = kd_onednn(dnnl_primitive_create(&prim->handle, pd), "primitive", diag);
    if (rc) {
        free(prim);
        return rc;
    }
    p->prims[p->n_prims++] = prim;
    const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    if (pad && dnnl_memory_desc_get_size(pad) > 0) {
        dnnl_memory_t mem;
        rc = kd_plan_new_memory(p, pad, first, last, &mem, NULL, diag);
        if (rc)
            return rc;
        kd_prim_arg(prim, DNNL_ARG_SCRATCHPAD, mem);
    }
    *out = prim;
    return 0;
}

void kd_prim_arg(kd_prim *prim, int arg, dnnl_memory_t mem)
{
    KD_BUG_ON((size_t)prim->n_args >= KD_COUNT(prim->args) || !mem);
    prim->args[prim->n_args++] = (dnnl_exec_arg_t){.arg = arg, .memory = mem};
}

int kd_plan_reorder(kd_plan *p, const dnnl_memory_desc_t *from_md, dnnl_memory_t from,
                    const dnnl_memory_desc_t *to_md, dnnl_memory_t to, int tick, kd_prim **out,
                    kd_diag *diag)
{
    return kd_plan_requantise(p, from_md, from, to_md, to, 1, tick, out, diag);
}

int kd_plan_requantise(kd_plan *p, const dnnl_memory_desc_t *from_md, dnnl_memory_t from,
                       const dnnl_memory_desc_t *to_md, dnnl_memory_t to, float factor, int tick,
                       kd_prim **out, kd_diag *diag)
{
    dnnl_primitive_attr_t attr;
    int rc = kd_onednn(dnnl_primitive_attr_create(&attr), "attributes", diag);
    if (rc)
        return rc;
    dnnl_primitive_desc_t pd = NULL;
    rc = kd_onednn(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user),
                   "scratchpad mode", diag);
    if (!rc && factor != 1)
        rc = kd_onednn(dnnl_primitive_attr_set_output_scales(attr, 1, 0, &factor), "scale", diag);
    if (!rc)
        rc = kd_onednn(
            dnnl_reorder_primitive_desc_create(&pd, from_md, p->engine, to_md, p->engine, attr),
            "change of layout", diag);
    dnnl_primitive_attr_destroy(attr);
    if (rc)
        return rc;
    rc = kd_plan_prim(p, pd, tick, tick, out, diag);
    dnnl_primitive_desc_destroy(pd);
    if (rc)
        return rc;
    kd_prim_arg(*out, DNNL_ARG_FROM, from);
    kd_prim_arg(*out, DNNL_ARG_TO, to);
    return 0;
}

int kd_plan_as(kd_plan *p, const dnnl_memory_desc_t *from_md, dnnl_memory_t from,
               const dnnl_memory_desc_t *to_md, int tick, int last, dnnl_memory_t *out_mem,
               kd_prim **out_prim, kd_diag *diag)
{
    *out_prim = NULL;
    *out_mem = from;
    if (kd_desc_equal(from_md, to_md))
        return 0;
    const int rc = kd_plan_new_memory(p, to_md, tick, last, out_mem, NULL, diag);
    return rc ? rc : kd_plan_reorder(p, from_md, from, to_md, *out_mem, tick, out_prim, diag);
}

int kd_plan_into(kd_plan *p, const dnnl_memory_desc_t *from_md, const dnnl_memory_desc_t *to_md,
                 dnnl_memory_t to, int tick, dnnl_memory_t *out_mem, kd_prim **out_prim,
                 kd_diag *diag)
{
    *out_prim = NULL;
    *out_mem = to;
    if (kd_desc_equal(from_md, to_md))
        return 0;
    const int rc = kd_plan_new_memory(p, from_md, tick, tick, out_mem, NULL, diag);
    return rc ? rc : kd_plan_reorder(p, from_md, *out_mem, to_md, to, tick, out_prim, diag);
}

int kd_prim_run(kd_plan *p, const kd_prim *prim, kd_diag *diag)
{
    if (!prim)
        return 0;
    return kd_onednn(dnnl_primitive_execute(prim->handle, p->stream, prim->n_args, prim->args),
                     "run", diag);
}

float *kd_plan_data(const kd_plan *p, int block)
{
    return (float *)(void *)(p->arena + p->blocks[block].offset);
}

int kd_memory_bind(dnnl_memory_t mem, const float *data, kd_diag *diag)
{
    return kd_onednn(dnnl_memory_set_data_handle(mem, (void *)(uintptr_t)data), "binding", diag);
}

float *kd_memory_data(dnnl_memory_t mem)
{
    void *data = NULL;
    KD_BUG_ON(dnnl_memory_get_data_handle(mem, &data) != dnnl_success || !data);
    return data;
}

void kd_plan_poison(kd_plan *p)
{
    for (int i = 0; i < p->n_blocks; i++) {
        if (p->blocks[i].last == KD_TICK_EVER)
            continue;
        float *x = kd_plan_data(p, i);
        for (size_t k = 0; k < p->blocks[i].bytes / sizeof *x; k++)
            x[k] = NAN;
    }
}
