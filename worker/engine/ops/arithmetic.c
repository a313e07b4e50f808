#include <string.h>

#include "engine/graph_internal.h"
#include "engine/layout.h"
#include "engine/op.h"

/* y = a + b, a - b, a * b, a / b, where a side of 1 goes along the other's. The result lies as an
 * operand that has its shape, so that nothing is reordered between a convolution and its
 * squeeze-excite factors; a smaller operand is read in plain order.
 *
 * The gradient of a smaller operand is the sum over what it was used for, in double, in the order
 * of the result's memory: a function of the layout alone. */
typedef struct {
    dnnl_memory_t in[2]; /* as the loops read them */
    dnnl_memory_t d[2];  /* gradients as the loops write them, NULL = not wanted */
    kd_prim *reorder[2], *reorder_d[2];
    bool full[2];    /* of the result's shape and in its layout */
    int sums[2];     /* block of doubles for a smaller operand's gradient */
    size_t count[2]; /* of them */
    kd_walk walk;
    size_t bytes; /* of the result */
    bool gaps;    /* the walk leaves out padding, which must be zero */
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *a = &g->nodes[node->in[0]], *b = &g->nodes[node->in[1]];
    if (kd_broadcast(a->h, b->h) != node->h || kd_broadcast(a->w, b->w) != node->w ||
        kd_broadcast(a->c, b->c) != node->c)
        return kd_fail(diag, -KD_EINVAL,
                       "Arithmetic '%s' of [%d,%d,%d] and [%d,%d,%d] gives [%d,%d,%d].", node->name,
                       a->h, a->w, a->c, b->h, b->w, b->c, node->h, node->w, node->c);
    return 0;
}

/* Whole memories, padding and all: zeros stay zeros but for 0 / 0. */
static bool in_one_stretch(const kd_node *node, const bool full[2])
{
    return full[0] && full[1] && node->op != KD_OP_DIV;
}

/* An operand of the result's shape gives the layout: the first that is computed. */
static dnnl_memory_desc_t result_desc(const kd_plan *p, const kd_task *t, const bool full[2])
{
    const kd_node *node = &p->graph->nodes[t->node];
    kd_layout known;
    for (int computed = 1; computed >= 0; computed--)
        for (int k = 0; k < 2; k++) {
            const kd_value *in = &p->values[t->in[k]];
            const bool constant = p->graph->nodes[t->in[k]].op == KD_OP_CONST;
            if (full[k] && constant != computed &&
                (in_one_stretch(node, full) || kd_layout_of(&in->md, &known)))
                return in->md;
        }
    return kd_plan_desc(p, node->c, node->h, node->w, dnnl_nchw);
}

static int prepare_operand(kd_plan *p, kd_task *t, state *s, int k, const dnnl_memory_desc_t *md,
                           kd_diag *diag)
{
    const kd_node *from = &p->graph->nodes[t->in[k]];
    const kd_value *in = &p->values[t->in[k]];
    const enum kd_op op = p->graph->nodes[t->node].op;
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    const bool again =
        p->training && p->values[t->result].wants_grad && (op == KD_OP_MUL || op == KD_OP_DIV);
    const dnnl_memory_desc_t plain = kd_plan_desc(p, from->c, from->h, from->w, dnnl_nchw);
    const dnnl_memory_desc_t *as = s->full[k] ? md : &plain;
    int rc = kd_plan_as(p, &in->md, in->mem, as, tick, again ? back : tick, &s->in[k],
                        &s->reorder[k], diag);
    if (rc || !t->d_in[k])
        return rc;
    rc = kd_plan_into(p, as, &in->md, t->d_in[k], back, &s->d[k], &s->reorder_d[k], diag);
    if (rc || s->full[k])
        return rc;
    s->count[k] = dnnl_memory_desc_get_size(&plain) / sizeof(float);
    s->sums[k] = kd_plan_block(p, s->count[k] * sizeof(double), back, back, diag);
    return KD_MIN(s->sums[k], 0);
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for an arithmetic operator.");
    const kd_node *node = &p->graph->nodes[t->node];
    int64_t shape[2][3];
    for (int k = 0; k < 2; k++) {
        const kd_node *from = &p->graph->nodes[t->in[k]];
        s->full[k] = from->c == node->c && from->h == node->h && from->w == node->w;
        shape[k][0] = from->c;
        shape[k][1] = from->h;
        shape[k][2] = from->w;
    }
    const dnnl_memory_desc_t md = result_desc(p, t, s->full);
    s->bytes = dnnl_memory_desc_get_size(&md);
    kd_layout layout;
    if (in_one_stretch(node, s->full)) {
        kd_walk_flat((int64_t)(s->bytes / sizeof(float)), &s->walk);
    } else {
        KD_BUG_ON(!kd_layout_of(&md, &layout));
        kd_walk_make(&layout, shape, s->full, &s->walk);
    }
    s->gaps = s->walk.blocks >= 0;
    int rc = kd_plan_make_value(p, t, &md, -1, diag);
    for (int k = 0; !rc && k < 2; k++)
        rc = prepare_operand(p, t, s, k, &md, diag);
    return rc;
}

/* ---- forward */

typedef struct {
    enum kd_op op;
    const float *a, *b;
    float *y;
} forward_run;

#define ROWS(OP)                                                                                   \
    for (int64_t r = 0; r < at->rows; r++) {                                                       \
        const float *a = run->a + at->side[0] + r * at->side_row[0];                               \
        const float *b = run->b + at->side[1] + r * at->side_row[1];                               \
        float *restrict y = run->y + at->main + r * at->main_row;                                  \
        if (sa == 1 && sb == 1)                                                                    \
            for (int64_t i = 0; i < at->len; i++)                                                  \
                y[i] = a[i] OP b[i];                                                               \
        else if (sa == 1 && sb == 0)                                                               \
            for (int64_t i = 0; i < at->len; i++)                                                  \
                y[i] = a[i] OP * b;                                                                \
        else                                                                                       \
            for (int64_t i = 0; i < at->len; i++)                                                  \
                y[i] = a[i * sa] OP b[i * sb];                                                     \
    }

static void forward_plane(void *arg, const kd_plane *at)
{
    const forward_run *run = arg;
    const int64_t sa = at->step[0], sb = at->step[1];
    switch (run->op) {
    case KD_OP_SUB:
        ROWS(-)
        break;
    case KD_OP_MUL:
        ROWS(*)
        break;
    case KD_OP_DIV:
        ROWS(/)
        break;
    default:
        ROWS(+)
        break;
    }
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    for (int k = 0; k < 2; k++) {
        const int rc = kd_prim_run(p, s->reorder[k], diag);
        if (rc)
            return rc;
    }
    forward_run run = {.op = p->graph->nodes[t->node].op,
                       .a = kd_memory_data(s->in[0]),
                       .b = kd_memory_data(s->in[1]),
                       .y = kd_plan_data(p, p->values[t->result].block)};
    if (s->gaps)
        memset(run.y, 0, s->bytes);
    kd_walk_run(&s->walk, forward_plane, &run);
    return 0;
}

/* ---- backward */

typedef struct {
    enum kd_op op;
    int k; /* the operand whose gradient this is */
    const float *d_y, *in[2];
    float *d;     /* full: the gradient, in the result's layout */
    double *sums; /* otherwise: its sums, in plain order */
} backward_run;

/* out[i] = d_y[i] times the derivative by operand k. */
static void slopes(enum kd_op op, int k, int64_t n, const float *d_y, const float *a, int64_t sa,
                   const float *b, int64_t sb, float *restrict out)
{
    const float *other = k == 0 ? b : a;
    const int64_t so = k == 0 ? sb : sa;
    switch (op) {
    case KD_OP_SUB:
        for (int64_t i = 0; i < n; i++)
            out[i] = k == 0 ? d_y[i] : -d_y[i];
        break;
    case KD_OP_MUL:
        if (so == 1)
            for (int64_t i = 0; i < n; i++)
                out[i] = d_y[i] * other[i];
        else
            for (int64_t i = 0; i < n; i++)
                out[i] = d_y[i] * other[i * so];
        break;
    case KD_OP_DIV:
        for (int64_t i = 0; i < n; i++)
            out[i] = k == 0 ? d_y[i] / b[i * sb] : -(d_y[i] * (a[i * sa] / b[i * sb])) / b[i * sb];
        break;
    default:
        memcpy(out, d_y, (size_t)n * sizeof *out);
        break;
    }
}

/* Eight sums side by side: the same order on every machine, and none waits for the other. */
static double total(const float *x, int64_t n)
{
    double lanes[8] = {0};
    for (int64_t i = 0; i < n; i++)
        lanes[i % 8] += (double)x[i];
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
           ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

static void backward_plane(void *arg, const kd_plane *at)
{
    enum { PIECE = 512 };
    float piece[PIECE];
    const backward_run *run = arg;
    const int64_t sa = at->step[0], sb = at->step[1], s = at->step[run->k];
    for (int64_t r = 0; r < at->rows; r++) {
        const float *d_y = run->d_y + at->main + r * at->main_row;
        const float *a = run->in[0] + at->side[0] + r * at->side_row[0];
        const float *b = run->in[1] + at->side[1] + r * at->side_row[1];
        if (run->d) {
            slopes(run->op, run->k, at->len, d_y, a, sa, b, sb,
                   run->d + at->main + r * at->main_row);
            continue;
        }
        double *sums = run->sums + at->side[run->k] + r * at->side_row[run->k];
        for (int64_t i = 0; i < at->len; i += PIECE) {
            const int64_t n = KD_MIN(at->len - i, (int64_t)PIECE);
            slopes(run->op, run->k, n, d_y + i, a + i * sa, sa, b + i * sb, sb, piece);
            if (s == 0)
                *sums += total(piece, n);
            else
                for (int64_t j = 0; j < n; j++)
                    sums[(i + j) * s] += (double)piece[j];
        }
    }
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient;
    const state *s = t->state;
    for (int k = 0; k < 2; k++) {
        if (!t->d_in[k])
            continue;
        float *d = kd_memory_data(s->d[k]);
        backward_run run = {.op = p->graph->nodes[t->node].op,
                            .k = k,
                            .d_y = kd_plan_data(p, p->values[t->result].d_block),
                            .in = {kd_memory_data(s->in[0]), kd_memory_data(s->in[1])}};
        if (s->full[k]) {
            run.d = d;
            if (s->gaps)
                memset(d, 0, s->bytes);
        } else {
            run.sums = (double *)(void *)kd_plan_data(p, s->sums[k]);
            memset(run.sums, 0, s->count[k] * sizeof *run.sums);
        }
        kd_walk_run(&s->walk, backward_plane, &run);
        for (size_t i = 0; !s->full[k] && i < s->count[k]; i++)
            d[i] = (float)run.sums[i];
        const int rc = kd_prim_run(p, s->reorder_d[k], diag);
        if (rc)
            return rc;
    }
    return 0;
}

const kd_op_impl kd_op_arithmetic = {"arithmetic", check, prepare, NULL, forward, backward};
