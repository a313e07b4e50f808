#include "engine/plan.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/layout.h"
#include "engine/op.h"
#include "engine/ops/conv.h"

#define MAX_BATCH 4096
#define HUGE_PAGE ((size_t)2 << 20)

/* ---- fusing: nodes -> tasks */

typedef struct {
    const kd_graph *g;
    int output;     /* node whose value the caller gets */
    int *same;      /* node -> the node whose output it passes on as it is, itself for most */
    bool *needed;   /* the output depends on the node */
    int *uses;      /* readers of the node among the needed ones, the caller included */
    int *user;      /* the last of them */
    bool *absorbed; /* runs inside an earlier task */
    int *value;     /* node -> the value that holds its output */
    int *later_act; /* activation moved behind this node, -1 = none */
} fusing;

/* The node that gives input k, past those that change nothing. */
static int input_of(const fusing *f, const kd_node *node, int k)
{
    return f->same[node->in[k]];
}

static bool changes_nothing(const kd_plan *p, const kd_node *node)
{
    return (node->op == KD_OP_DROPOUT || node->op == KD_OP_DROP_PATH) &&
           (!p->training || !(node->alpha > 0));
}

/* The only reader of a node's output, -1 if there are others or the caller reads it. */
static int only_user(const fusing *f, int node)
{
    return f->uses[node] == 1 && node != f->output ? f->user[node] : -1;
}

static void absorb(fusing *f, kd_task *t, int node)
{
    f->absorbed[node] = true;
    t->result = node;
}

static bool same_shape(const kd_node *a, const kd_node *b)
{
    return a->h == b->h && a->w == b->w && a->c == b->c;
}

/* The value that the addition `node` adds to t's, -1 if it is no addition that t can do: of one
 * shape, to what an earlier task gives. */
static int addend_of(const fusing *f, const kd_plan *p, const kd_task *t, int node)
{
    const kd_graph *g = f->g;
    if (node < 0 || g->nodes[node].op != KD_OP_ADD)
        return -1;
    const int first = input_of(f, &g->nodes[node], 0);
    const int other = first == t->result ? input_of(f, &g->nodes[node], 1) : first;
    if (!same_shape(&g->nodes[other], &g->nodes[t->result]))
        return -1;
    const int value = f->value[other];
    return value >= 0 && p->values[value].producer >= 0 ? value : -1;
}

/* convolution + batch norm + residual, each only when nobody else reads what is in between. */
static void fuse_inference_conv(fusing *f, kd_plan *p, kd_task *t)
{
    const kd_graph *g = f->g;
    int next = only_user(f, t->result);
    if (next >= 0 && g->nodes[next].op == KD_OP_BATCH_NORM) {
        t->bn = next;
        absorb(f, t, next);
        next = only_user(f, t->result);
    }
    t->residual = addend_of(f, p, t, next);
    if (t->residual >= 0)
        absorb(f, t, next);
}

/* In every use: the sums that a batch norm needs cost one pass over memory, everything behind them
 * another one. */
static void fuse_batch_norm(fusing *f, kd_plan *p, kd_task *t)
{
    const int next = only_user(f, t->result);
    t->in[1] = addend_of(f, p, t, next);
    if (t->in[1] < 0)
        return;
    p->values[t->in[1]].last_use = t->index;
    absorb(f, t, next);
}

/* max-pool(act(x)) = act(max-pool(x)) for a rising act, bit for bit and in the gradient too, where
 * act is flat below its threshold. Behind the pool it has less to do. RELU6 is flat above as well,
 * where ties would send the gradient elsewhere, but that gradient is zero. Others that rise may
 * round two inputs to one output, with a gradient. */
static bool may_move_behind_pool(const fusing *f, int act)
{
    return f->g->nodes[act].op == KD_OP_RELU || f->g->nodes[act].op == KD_OP_RELU6;
}

static bool move_behind_pool(fusing *f, const kd_task *t, int act)
{
    const int pool = only_user(f, act);
    if (!may_move_behind_pool(f, act))
        return false;
    if (pool < 0 || f->g->nodes[pool].op != KD_OP_MAX_POOL)
        return false;
    f->absorbed[act] = true;
    f->value[act] = t->result;
    f->later_act[pool] = act;
    return true;
}

/* Convolution and max pool, the activation between them behind both. */
static void fuse_pool(fusing *f, const kd_plan *p, kd_task *t)
{
    int act = -1, pool = only_user(f, t->result);
    if (pool >= 0 && may_move_behind_pool(f, pool)) {
        act = pool;
        pool = only_user(f, act);
    }
    if (pool < 0 || f->g->nodes[pool].op != KD_OP_MAX_POOL ||
        !kd_conv_pool_fits(p, t, &f->g->nodes[pool]))
        return;
    if (act >= 0)
        f->absorbed[act] = true;
    t->act = act;
    t->pool = pool;
    absorb(f, t, pool);
}

/* In training: the activation does without its input, the producer without its output; or it is
 * the batch norm's, which has the one and never reads the other. */
static bool may_overwrite(const fusing *f, const kd_task *t, int act)
{
    if (f->g->nodes[t->node].op == KD_OP_BATCH_NORM && kd_batch_norm_takes(&f->g->nodes[act]))
        return true;
    return kd_act_by_output(&f->g->nodes[act]) && f->g->nodes[t->node].op != KD_OP_SOFTMAX;
}

static void fuse_activation(fusing *f, const kd_plan *p, kd_task *t)
{
    const int next = only_user(f, t->result);
    if (next < 0 || !kd_act_is(f->g->nodes[next].op) || t->act >= 0)
        return;
    if (p->training && !may_overwrite(f, t, next))
        return;
    if (p->training && f->g->nodes[t->node].op != KD_OP_BATCH_NORM && move_behind_pool(f, t, next))
        return;
    t->act = next;
    absorb(f, t, next);
}

static void make_task(fusing *f, kd_plan *p, int n)
{
    const kd_node *node = &f->g->nodes[n];
    kd_task *t = &p->tasks[p->n_tasks];
    *t = (kd_task){.index = p->n_tasks,
                   .node = n,
                   .result = n,
                   .in = {-1, -1},
                   .residual = -1,
                   .bn = -1,
                   .pool = -1,
                   .act = f->later_act[n]};
    bool wants_grad = node->weight >= 0 && node->op != KD_OP_CONST;
    for (int k = 0; k < kd_node_inputs(node); k++) {
        t->in[k] = f->value[input_of(f, node, k)];
        kd_value *in = &p->values[t->in[k]];
        in->last_use = t->index;
        wants_grad = wants_grad || in->wants_grad;
    }
    if (node->op == KD_OP_CONV && !p->training)
        fuse_inference_conv(f, p, t);
    if (node->op == KD_OP_CONV) {
        fuse_pool(f, p, t);
        t->winograd = t->pool < 0 && kd_conv_winograd_pays(p, t);
    }
    if (node->op == KD_OP_BATCH_NORM)
        fuse_batch_norm(f, p, t);
    if (node->op != KD_OP_INPUT && node->op != KD_OP_CONST && !kd_act_is(node->op))
        fuse_activation(f, p, t);
    if (t->residual >= 0)
        p->values[t->residual].last_use = t->index;
    f->value[t->result] = t->result;
    p->values[t->result].producer = t->index;
    p->values[t->result].wants_grad = wants_grad;
    p->n_tasks++;
}

/* Marks what the output needs and counts readers. */
static int survey(fusing *f, kd_plan *p, kd_diag *diag)
{
    const kd_graph *g = f->g;
    const int rc = kd_graph_check(g, diag);
    if (rc)
        return rc;
    for (int n = 0; n < g->n_nodes; n++)
        f->same[n] = changes_nothing(p, &g->nodes[n]) ? input_of(f, &g->nodes[n], 0) : n;
    p->output = f->output = f->same[g->output];
    f->needed[f->output] = true;
    for (int n = g->n_nodes - 1; n >= 0; n--) {
        if (!f->needed[n])
            continue;
        for (int k = 0; k < kd_node_inputs(&g->nodes[n]); k++) {
            const int in = input_of(f, &g->nodes[n], k);
            f->needed[in] = true;
            if (f->uses[in]++ == 0)
                f->user[in] = n;
        }
    }
    f->needed[0] = true;
    return 0;
}

static int make_tasks(kd_plan *p, kd_diag *diag)
{
    const size_t n = (size_t)p->graph->n_nodes;
    fusing f = {.g = p->graph,
                .same = calloc(n, sizeof *f.same),
                .needed = calloc(n, sizeof *f.needed),
                .uses = calloc(n, sizeof *f.uses),
                .user = calloc(n, sizeof *f.user),
                .absorbed = calloc(n, sizeof *f.absorbed),
                .value = calloc(n, sizeof *f.value),
                .later_act = calloc(n, sizeof *f.later_act)};
    p->tasks = calloc(n, sizeof *p->tasks);
    p->values = calloc(n, sizeof *p->values);
    int rc = 0;
    if (!f.same || !f.needed || !f.uses || !f.user || !f.absorbed || !f.value || !f.later_act ||
        !p->tasks || !p->values)
        rc = kd_fail(diag, -KD_ENOMEM, "Out of memory for a graph of %zu nodes.", n);
    for (size_t i = 0; !rc && i < n; i++) {
        f.value[i] = f.later_act[i] = -1;
        p->values[i] = (kd_value){.producer = -1, .last_use = -1, .block = -1, .d_block = -1};
    }
    if (!rc)
        rc = survey(&f, p, diag);
    for (int i = 0; !rc && i < p->graph->n_nodes; i++)
        if (f.needed[i] && !f.absorbed[i])
            make_task(&f, p, i);
    free(f.same);
    free(f.needed);
    free(f.uses);
    free(f.user);
    free(f.absorbed);
    free(f.value);
    free(f.later_act);
    return rc;
}

/* ---- bfloat16: which values */

static bool is_plain_conv(const kd_plan *p, const kd_task *t)
{
    return p->graph->nodes[t->node].op == KD_OP_CONV && t->pool < 0;
}

/* In training others read what convolutions leave: batch norm, activations in place, gradients. */
static void choose_bfloat16(kd_plan *p)
{
    for (int i = 0; i < p->n_tasks && !p->training; i++) {
        const kd_task *t = &p->tasks[i];
        bool all = is_plain_conv(p, t) && t->result != p->output;
        for (int k = i + 1; k < p->n_tasks && all; k++)
            all = !kd_task_reads(&p->tasks[k], t->result) || is_plain_conv(p, &p->tasks[k]);
        p->values[t->result].narrow = all;
    }
}

/* ---- preparing: tasks -> primitives and blocks */

/* Readers run backward from the last to the first: the last one writes a value's gradient, the
 * others write beside it and are added. */
static int place_input_gradients(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const int back = kd_tick_backward(p, t);
    for (int k = 0; k < 2; k++) {
        const kd_value *in = t->in[k] >= 0 ? &p->values[t->in[k]] : NULL;
        if (!in || !in->wants_grad)
            continue;
        t->d_in_adds[k] = in->last_use != t->index || (k == 1 && t->in[0] == t->in[1]);
        t->d_in[k] = in->d_mem;
        if (!t->d_in_adds[k])
            continue;
        const int rc = kd_plan_new_memory(p, &in->md, back, back, &t->d_in[k], NULL, diag);
        if (rc)
            return rc;
    }
    return 0;
}

/* Which weights a convolution's or dense layer's backward writes. */
static int survey_gradient(kd_plan *p, kd_diag *diag)
{
    p->overwritten = kd_plan_alloc(p, (size_t)p->graph->n_params + 1);
    if (!p->overwritten)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a plan.");
    for (int i = 0; i < p->n_tasks; i++) {
        const kd_task *t = &p->tasks[i];
        const kd_node *node = &p->graph->nodes[t->node];
        if (p->values[t->result].wants_grad && (node->op == KD_OP_CONV || node->op == KD_OP_DENSE))
            p->overwritten[node->weight] = true;
    }
    return 0;
}

static int prepare_tasks(kd_plan *p, kd_diag *diag)
{
    for (int i = 0; i < p->n_tasks; i++) {
        kd_task *t = &p->tasks[i];
        const kd_node *node = &p->graph->nodes[t->node];
        int rc = p->training ? place_input_gradients(p, t, diag) : 0;
        if (!rc)
            rc = kd_task_op(p->graph, t)->prepare(p, t, diag);
        if (!rc && t->act >= 0 && (p->training ? !t->act_back_inside : !t->act_inside))
            rc = kd_act_prepare(p, t, diag);
        if (rc)
            return kd_fail_at(diag, rc, "%s '%s'", kd_task_op(p->graph, t)->name, node->name);
    }
    return 0;
}

/* Logits leave and their gradient enters in the plain order. */
static int prepare_edges(kd_plan *p, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[p->output];
    const kd_value *v = &p->values[p->output];
    const dnnl_memory_desc_t plain = kd_plan_desc(p, node->c, node->h, node->w, dnnl_nchw);
    const int out = p->n_tasks - 1, in = p->n_tasks;
    int rc = kd_plan_new_memory(p, &plain, out, out, &p->logits, &p->logits_block, diag);
    if (!rc)
        rc = kd_plan_reorder(p, &v->md, v->mem, &plain, p->logits, out, &p->logits_out, diag);
    if (rc || !v->d_mem)
        return rc;
    rc = kd_plan_new_memory(p, &plain, in, in, &p->d_logits, &p->d_logits_block, diag);
    if (rc)
        return rc;
    return kd_plan_reorder(p, &plain, p->d_logits, &v->md, v->d_mem, in, &p->d_logits_in, diag);
}

/* ---- the arena: blocks -> addresses */

static int by_size(const void *a, const void *b)
{
    const kd_block *x = *(const kd_block *const *)a, *y = *(const kd_block *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    return x < y ? -1 : x > y;
}

/* Largest first, each into the lowest gap between the placed blocks that live at the same time: for
 * such chains within a few per cent of the largest sum alive at once. */
static int lay_out(kd_plan *p, kd_diag *diag)
{
    const size_t n = (size_t)p->n_blocks;
    kd_block **order = calloc(n, sizeof *order), **placed = calloc(n, sizeof *placed);
    if (!order || !placed) {
        free(order);
        free(placed);
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for the arena's plan.");
    }
    for (size_t i = 0; i < n; i++)
        order[i] = &p->blocks[i];
    qsort(order, n, sizeof *order, by_size);
    size_t total = 0;
    bool fits = true;
    for (size_t i = 0; i < n; i++) {
        kd_block *b = order[i];
        size_t at = 0;
        for (size_t k = 0; k < i; k++) { /* placed[] stays sorted by offset */
            const kd_block *o = placed[k];
            if (o->last < b->first || b->last < o->first)
                continue;
            if (o->offset >= at && o->offset - at >= b->bytes)
                break;
            at = KD_MAX(at, o->offset + o->bytes);
        }
        b->offset = at;
        size_t end;
        fits = fits && !__builtin_add_overflow(at, b->bytes, &end);
        total = fits ? KD_MAX(total, end) : total;
        size_t k = i;
        for (; k > 0 && placed[k - 1]->offset > at; k--)
            placed[k] = placed[k - 1];
        placed[k] = b;
    }
    free(order);
    free(placed);
    if (!fits || total > SIZE_MAX / 2)
        return kd_fail(diag, -KD_ELIMIT, "The plan's arena is too large.");
    p->arena_bytes = total;
    return 0;
}

static int allocate(kd_plan *p, kd_diag *diag)
{
    const size_t align = p->arena_bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
    const size_t bytes = (p->arena_bytes + align - 1) / align * align;
    p->arena = aligned_alloc(align, bytes);
    if (!p->arena)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for an arena of %zu bytes.", bytes);
#ifdef MADV_HUGEPAGE
    if (align == HUGE_PAGE) /* only a hint: fewer page faults where the kernel agrees */
        (void)madvise(p->arena, bytes, MADV_HUGEPAGE);
#endif
    for (int i = 0; i < p->n_bindings; i++) {
        const struct kd_binding *b = &p->bindings[i];
        const int rc = b->block < 0 ? 0 : kd_memory_bind(b->mem, kd_plan_data(p, b->block), diag);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- the plan */

/* fixed, largest, means, edges: of an 8-bit plan, else NULL. */
static int make(const kd_graph *graph, int batch, enum kd_plan_use use, bool bfloat16,
                const float *fixed, const float *largest, const float *means, bool edges,
                kd_plan **out, kd_diag *diag)
{
    if (batch < 1 || batch > MAX_BATCH)
        return kd_fail(diag, -KD_EINVAL, "A plan's batch is 1 to %d, not %d.", MAX_BATCH, batch);
    if (graph->n_nodes < 1 || graph->output < 0 || graph->output >= graph->n_nodes)
        return kd_fail(diag, -KD_EINVAL, "The graph has no output.");
    /* Primitives made for several threads would round otherwise. */
    if (omp_get_max_threads() != 1)
        return kd_fail(diag, -KD_ESTATE, "This thread makes a plan before kd_engine_thread().");
    kd_plan *p = calloc(1, sizeof *p);
    if (!p)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a plan.");
    p->graph = graph;
    p->use = use;
    p->training = use != KD_PLAN_INFER;
    p->batch = batch;
    p->n = p->training ? batch : 1;
    p->clock = p->staging = -1;
    p->bfloat16 = bfloat16;
    p->noise.keys = calloc((size_t)batch, sizeof *p->noise.keys);
    int rc = p->noise.keys ? kd_onednn(dnnl_engine_create(&p->engine, dnnl_cpu, 0), "engine", diag)
                           : kd_fail(diag, -KD_ENOMEM, "Out of memory for a plan.");
    if (!rc)
        rc = kd_onednn(dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags),
                       "stream", diag);
    if (!rc)
        rc = make_tasks(p, diag);
    p->fixed = fixed;
    p->means = means;
    if (!rc && fixed)
        kd_plan_choose_int8(p, largest, edges);
    if (!rc && bfloat16)
        choose_bfloat16(p);
    if (!rc)
        rc = prepare_tasks(p, diag);
    if (!rc && p->training)
        rc = survey_gradient(p, diag);
    if (!rc)
        rc = prepare_edges(p, diag);
    if (!rc)
        rc = lay_out(p, diag);
    if (!rc)
        rc = allocate(p, diag);
    if (!rc && fixed)
        rc = kd_plan_load(p, fixed, diag);
    p->is_fixed = fixed != NULL;
    p->fixed = p->means = NULL;
    if (rc) {
        kd_plan_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

int kd_plan_new(const kd_graph *graph, int batch, enum kd_plan_use use, kd_plan **out,
                kd_diag *diag)
{
    return make(graph, batch, use, false, NULL, NULL, NULL, false, out, diag);
}

int kd_plan_new_bfloat16(const kd_graph *graph, int batch, enum kd_plan_use use, kd_plan **out,
                         kd_diag *diag)
{
    return make(graph, batch, use, true, NULL, NULL, NULL, false, out, diag);
}

int kd_plan_new_int8(const kd_graph *graph, int batch, const float *vector, const float *largest,
                     const float *means, kd_plan **out, kd_diag *diag)
{
    return make(graph, batch, KD_PLAN_INFER, false, vector, largest, means, false, out, diag);
}

int kd_plan_new_ranged(const kd_graph *graph, int batch, const float *vector, kd_plan **out,
                       kd_diag *diag)
{
    float *largest = malloc((size_t)graph->n_nodes * sizeof *largest);
    if (!largest)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a plan.");
    for (int i = 0; i < graph->n_nodes; i++)
        largest[i] = graph->nodes[i].range;
    const int rc = make(graph, batch, KD_PLAN_INFER, false, vector, largest, NULL, true, out, diag);
    free(largest);
    return rc;
}

int kd_plan_new_infer(const kd_graph *graph, int batch, const float *vector, kd_plan **out,
                      kd_diag *diag)
{
    if (kd_graph_is_int8(graph))
        return kd_plan_new_ranged(graph, batch, vector, out, diag);
    kd_plan *p;
    int rc = kd_plan_new(graph, batch, KD_PLAN_INFER, &p, diag);
    if (rc)
        return rc;
    rc = kd_plan_load(p, vector, diag);
    if (rc)
        kd_plan_free(p);
    else
        *out = p;
    return rc;
}

void kd_plan_observe(kd_plan *p, kd_plan_see *see, void *arg)
{
    KD_BUG_ON(p->training || p->is_fixed);
    p->see = see;
    p->see_arg = arg;
}

void kd_plan_watch(kd_plan *p, float *largest)
{
    KD_BUG_ON(p->training || p->is_fixed || p->bfloat16);
    p->watch = largest;
}

void kd_plan_watch_sums(kd_plan *p, double *sums)
{
    KD_BUG_ON(p->training || p->is_fixed || p->bfloat16);
    p->sums = sums;
}

void kd_plan_means(const kd_graph *graph, const double *sums, size_t images, float *means)
{
    size_t at = 0;
    for (int i = 0; i < graph->n_nodes; i++) {
        const kd_node *node = &graph->nodes[i];
        const double count = (double)images * node->h * node->w;
        for (int c = 0; c < node->c; c++, at++)
            means[at] = (float)(sums[at] / count);
    }
}

static void add_channels(const kd_value *v, const float *x, double *sums)
{
    kd_layout l;
    if (!kd_layout_of(&v->md, &l))
        return;
    for (int64_t n = 0; n < l.n; n++)
        for (int64_t h = 0; h < l.h; h++)
            for (int64_t w = 0; w < l.w; w++)
                for (int64_t c = 0; c < l.c; c++)
                    sums[c] += (double)x[kd_layout_at(&l, n, c, h, w)];
}

static void watch(const kd_plan *p, const kd_task *t)
{
    const kd_value *v = &p->values[t->result];
    const float *x = kd_plan_data(p, v->block);
    const size_t n = dnnl_memory_desc_get_size(&v->md) / sizeof *x;
    if (p->see)
        p->see(p->see_arg, t->result, x, n);
    if (p->sums)
        add_channels(v, x, p->sums + kd_graph_channels(p->graph, t->result));
    if (!p->watch)
        return;
    float most = p->watch[t->result];
    for (size_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    p->watch[t->result] = most;
}

void kd_plan_free(kd_plan *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_prims; i++) {
        dnnl_primitive_destroy(p->prims[i]->handle);
        free(p->prims[i]);
    }
    for (int i = 0; i < p->n_bindings; i++)
        dnnl_memory_destroy(p->bindings[i].mem);
    for (int i = 0; i < p->n_states; i++)
        free(p->states[i]);
    if (p->stream)
        dnnl_stream_destroy(p->stream);
    if (p->engine)
        dnnl_engine_destroy(p->engine);
    free(p->prims);
    free(p->bindings);
    free(p->states);
    free(p->blocks);
    free(p->tasks);
    free(p->values);
    free(p->noise.keys);
    free(p->arena);
    free(p);
}

void kd_plan_noise(kd_plan *p, uint64_t seed, uint64_t step, const uint32_t *keys)
{
    if (!p->training)
        return;
    p->noise.seed = seed;
    p->noise.step = step;
    p->noise.named = true;
    memcpy(p->noise.keys, keys, (size_t)p->batch * sizeof *keys);
}

static int check_thread(kd_diag *diag)
{
    if (omp_get_max_threads() != 1)
        return kd_fail(diag, -KD_ESTATE, "This thread runs a plan before kd_engine_thread().");
    return 0;
}

int kd_plan_load(kd_plan *p, const float *vector, kd_diag *diag)
{
    int rc = check_thread(diag);
    if (!rc && p->is_fixed)
        rc = kd_fail(diag, -KD_ESTATE, "An 8-bit plan is made for its weights; make another one.");
    if (rc)
        return rc;
    p->loaded = p->ran_forward = false;
    p->clock = -1; /* the staging block may lie over a value */
    for (int i = 0; !rc && i < p->n_tasks; i++) {
        const kd_task *t = &p->tasks[i];
        const kd_op_impl *op = kd_task_op(p->graph, t);
        rc = op->load ? op->load(p, t, vector, diag) : 0;
    }
    p->loaded = !rc;
    return rc;
}

static int run_forward(kd_plan *p, const float *input, float *logits, size_t classes, kd_diag *diag)
{
    p->input = input;
    int rc = 0;
    for (int i = 0; !rc && i < p->n_tasks; i++) {
        const kd_task *t = &p->tasks[i];
        rc = kd_task_op(p->graph, t)->forward(p, t, diag);
        if (!rc)
            rc = kd_act_run(p, t->act_prims.forward, diag);
        if (!rc && (p->watch || p->sums || p->see))
            watch(p, t);
    }
    p->input = NULL;
    if (!rc)
        rc = kd_prim_run(p, p->logits_out, diag);
    if (rc)
        return rc;
    const float *plain = kd_plan_data(p, p->logits_block);
    const size_t floats = (size_t)p->n * classes;
    memcpy(logits, plain, floats * sizeof(float));
    for (size_t i = 0; i < floats; i++)
        p->bad_output = p->bad_output || !isfinite(plain[i]);
    p->clock = p->n_tasks - 1;
    return 0;
}

static size_t floats_of(const kd_node *node)
{
    return (size_t)node->h * (size_t)node->w * (size_t)node->c;
}

int kd_plan_forward(kd_plan *p, const float *input, float *logits, kd_diag *diag)
{
    int rc = check_thread(diag);
    if (rc)
        return rc;
    if (!p->loaded)
        return kd_fail(diag, -KD_ESTATE, "The plan has no weights: kd_plan_load() comes first.");
    const size_t picture = floats_of(&p->graph->nodes[0]);
    const size_t classes = floats_of(&p->graph->nodes[p->output]);
    p->ran_forward = p->bad_output = false;
    for (int i = 0; !rc && i < p->batch; i += p->n)
        rc = run_forward(p, input + (size_t)i * picture, logits + (size_t)i * classes, classes,
                         diag);
    p->ran_forward = !rc;
    return rc;
}

/* to += from over the whole memory: padding is zero on both sides. */
static void add_gradient(const kd_plan *p, const kd_value *to, dnnl_memory_t from)
{
    const size_t floats = dnnl_memory_desc_get_size(&to->md) / sizeof(float);
    float *restrict sum = kd_plan_data(p, to->d_block);
    const float *x = kd_memory_data(from);
    for (size_t i = 0; i < floats; i++)
        sum[i] += x[i];
}

/* Parameters that the output does not depend on have no task to write their zero. Those that have
 * one and are large are spared. */
static void clear(const kd_plan *p, float *gradient)
{
    for (int i = 0; i < p->graph->n_params; i++) {
        const kd_param *param = &p->graph->params[i];
        if (!p->overwritten[i])
            memset(gradient + param->offset, 0, param->count * sizeof *gradient);
    }
}

int kd_plan_backward(kd_plan *p, const float *d_logits, float stat_weight, float *gradient,
                     kd_diag *diag)
{
    int rc = check_thread(diag);
    if (rc)
        return rc;
    if (!p->training || !p->ran_forward)
        return kd_fail(diag, -KD_ESTATE,
                       p->training ? "A backward needs a forward since the last load or backward."
                                   : "An inference plan has no backward.");
    p->ran_forward = false; /* activations are overwritten on the way */
    clear(p, gradient);
    const kd_value *out = &p->values[p->output];
    if (!out->d_mem)
        return 0;
    const size_t classes = floats_of(&p->graph->nodes[p->output]);
    memcpy(kd_plan_data(p, p->d_logits_block), d_logits, (size_t)p->n * classes * sizeof(float));
    rc = kd_prim_run(p, p->d_logits_in, diag);
    for (int i = p->n_tasks - 1; !rc && i >= 0; i--) {
        const kd_task *t = &p->tasks[i];
        if (!p->values[t->result].wants_grad)
            continue;
        rc = kd_act_run(p, t->act_prims.backward, diag);
        if (!rc)
            rc = kd_task_op(p->graph, t)->backward(p, t, stat_weight, gradient, diag);
        for (int k = 0; !rc && k < 2; k++)
            if (t->d_in_adds[k])
                add_gradient(p, &p->values[t->in[k]], t->d_in[k]);
        p->clock = kd_tick_backward(p, t);
    }
    for (int i = 0; i < p->graph->n_params; i++) {
        const kd_param *param = &p->graph->params[i];
        if (param->kind == KD_PARAM_FIXED)
            memset(gradient + param->offset, 0, param->count * sizeof *gradient);
    }
    return rc;
}

const char *kd_plan_find_nonfinite(const kd_plan *p)
{
    for (int i = 0; i < p->n_tasks && p->clock >= 0; i++) {
        const kd_task *t = &p->tasks[i];
        const kd_value *v = &p->values[t->result];
        if (v->scale > 0 || v->narrow || p->blocks[v->block].last < p->clock)
            continue;
        const float *x = kd_plan_data(p, v->block);
        const size_t floats = dnnl_memory_desc_get_size(&v->md) / sizeof(float);
        for (size_t k = 0; k < floats; k++)
            if (!isfinite(x[k]))
                return p->graph->nodes[t->node].name;
    }
    return p->bad_output ? p->graph->nodes[p->output].name : NULL;
}

size_t kd_plan_arena_bytes(const kd_plan *p)
{
    return p->arena_bytes;
}
