#include <math.h>
#include <string.h>

#include "conv.h"
#include "winograd.h"

/* A convolution and both its gradients by Winograd's algorithm. */
typedef struct {
    kd_winograd shape, turned;
    int packed, packed_back; /* blocks; the latter -1 = the input's gradient is not wanted */
    int bias;                /* -1 = none */
    int scratch, back_scratch, d_bias;
    kd_prim *reorder_x, *reorder_residual;
    kd_prim *reorder_x_again, *reorder_d_y, *reorder_d_x;
    dnnl_memory_t x, residual, x_again, d_y, d_x;
    float low, high; /* limits of the activation that is done here */
} state;

/* With fewer tiles the weights cost more than they save. */
enum { LANES = 16, LEAST_TILES = 8, TILE = 4 };

static kd_winograd shape_of(const kd_plan *p, const kd_task *t)
{
    const kd_node *node = &p->graph->nodes[t->node], *in = &p->graph->nodes[t->in[0]];
    return (kd_winograd){.n = p->n,
                         .c = in->c,
                         .h = in->h,
                         .w = in->w,
                         .k = node->c,
                         .oh = node->h,
                         .ow = node->w,
                         .top = node->pad[0],
                         .left = node->pad[1]};
}

bool kd_conv_winograd_pays(const kd_plan *p, const kd_task *t)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_winograd s = shape_of(p, t);
    const int64_t tiles = (s.oh + TILE - 1) / TILE * ((s.ow + TILE - 1) / TILE);
    /* Tiles of which little is in the picture save less: at least half of the products must go. */
    const bool saves = 9 * s.oh * s.ow >= 2 * 36 * tiles;
    return kd_winograd_supported() && !p->bfloat16 && node->kernel_h == 3 && node->kernel_w == 3 &&
           node->stride_h == 1 && node->stride_w == 1 && node->dilation_h == 1 &&
           node->dilation_w == 1 && node->groups == 1 && s.c % LANES == 0 && s.k % LANES == 0 &&
           s.n * tiles >= LEAST_TILES && saves;
}

/* Activations that are no more than limits are done with the sum. */
static void choose_limits(const kd_plan *p, kd_task *t, state *s)
{
    s->low = -INFINITY;
    s->high = INFINITY;
    if (t->act < 0)
        return;
    const kd_node *act = &p->graph->nodes[t->act];
    t->act_inside = act->op == KD_OP_RELU || act->op == KD_OP_RELU6;
    if (t->act_inside)
        s->low = 0;
    if (act->op == KD_OP_RELU6)
        s->high = 6;
}

/* A block of floats. */
static int new_floats(kd_plan *p, size_t floats, int first, int last, int *out, kd_diag *diag)
{
    return kd_plan_new_block(p, floats * sizeof(float), first, last, out, diag);
}

static int prepare_forward(kd_plan *p, kd_task *t, state *s, const dnnl_memory_desc_t *x_md,
                           const dnnl_memory_desc_t *y_md, kd_diag *diag)
{
    const int tick = kd_tick_forward(t);
    const kd_value *in = &p->values[t->in[0]];
    const int share = kd_conv_residual_block(p, t, y_md);
    int rc = kd_plan_make_value(p, t, y_md, share, diag);
    if (!rc && t->residual >= 0) {
        const kd_value *r = &p->values[t->residual];
        rc = kd_plan_as(p, &r->md, r->mem, y_md, tick, tick, &s->residual, &s->reorder_residual,
                        diag);
    }
    if (!rc)
        rc = kd_plan_as(p, &in->md, in->mem, x_md, tick, tick, &s->x, &s->reorder_x, diag);
    if (!rc)
        rc = new_floats(p, kd_winograd_packed(&s->shape), 0, KD_TICK_EVER, &s->packed, diag);
    if (!rc && (p->graph->nodes[t->node].bias >= 0 || t->bn >= 0))
        rc = new_floats(p, (size_t)s->shape.k, 0, KD_TICK_EVER, &s->bias, diag);
    if (!rc)
        rc = new_floats(p, kd_winograd_scratch(&s->shape, false), tick, tick, &s->scratch, diag);
    return rc;
}

static int prepare_backward(kd_plan *p, kd_task *t, state *s, const dnnl_memory_desc_t *x_md,
                            const dnnl_memory_desc_t *y_md, kd_diag *diag)
{
    const int back = kd_tick_backward(p, t);
    const kd_value *in = &p->values[t->in[0]], *v = &p->values[t->result];
    int rc =
        kd_plan_as(p, &in->md, in->mem, x_md, back, back, &s->x_again, &s->reorder_x_again, diag);
    if (!rc)
        rc = kd_plan_as(p, &v->md, v->d_mem, y_md, back, back, &s->d_y, &s->reorder_d_y, diag);
    if (!rc)
        rc = new_floats(p, (size_t)s->shape.k, back, back, &s->d_bias, diag);
    if (!rc)
        rc =
            new_floats(p, kd_winograd_scratch(&s->shape, true), back, back, &s->back_scratch, diag);
    if (rc || !t->d_in[0])
        return rc;
    rc = kd_plan_into(p, x_md, &in->md, t->d_in[0], back, &s->d_x, &s->reorder_d_x, diag);
    return rc ? rc
              : new_floats(p, kd_winograd_packed(&s->turned), 0, KD_TICK_EVER, &s->packed_back,
                           diag);
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a convolution.");
    s->shape = shape_of(p, t);
    s->turned = kd_winograd_turned(&s->shape);
    s->packed_back = s->bias = -1;
    choose_limits(p, t, s);
    const kd_winograd *o = &s->shape;
    const dnnl_memory_desc_t x = kd_plan_desc(p, (int)o->c, (int)o->h, (int)o->w, dnnl_nChw16c);
    const dnnl_memory_desc_t y = kd_plan_desc(p, (int)o->k, (int)o->oh, (int)o->ow, dnnl_nChw16c);
    int rc = prepare_forward(p, t, s, &x, &y, diag);
    if (!rc && p->training)
        rc = prepare_backward(p, t, s, &x, &y, diag);
    if (!rc && t->bn >= 0) {
        const size_t weights = p->graph->params[p->graph->nodes[t->node].weight].count;
        rc = kd_plan_staging(p, weights * sizeof(float), diag);
        rc = KD_MIN(rc, 0);
    }
    return rc;
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    const state *s = t->state;
    const float *weights;
    const int rc = kd_conv_weights(p, t, vector, s->bias, &weights, diag);
    if (rc)
        return rc;
    kd_winograd_pack(&s->shape, weights, false, kd_plan_data(p, s->packed));
    if (s->packed_back >= 0)
        kd_winograd_pack(&s->turned, weights, true, kd_plan_data(p, s->packed_back));
    return 0;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    int rc = kd_prim_run(p, s->reorder_x, diag);
    if (!rc)
        rc = kd_prim_run(p, s->reorder_residual, diag);
    if (rc)
        return rc;
    const kd_winograd_end end = {.bias = s->bias >= 0 ? kd_plan_data(p, s->bias) : NULL,
                                 .residual = s->residual ? kd_memory_data(s->residual) : NULL,
                                 .low = s->low,
                                 .high = s->high};
    kd_winograd_run(&s->shape, kd_memory_data(s->x), kd_plan_data(p, s->packed), &end,
                    kd_plan_data(p, s->scratch), kd_memory_data(p->values[t->result].mem));
    return 0;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *params = p->graph->params;
    float *scratch = kd_plan_data(p, s->back_scratch), *d_bias = kd_plan_data(p, s->d_bias);
    int rc = kd_prim_run(p, s->reorder_x_again, diag);
    if (!rc)
        rc = kd_prim_run(p, s->reorder_d_y, diag);
    if (rc)
        return rc;
    const float *d_y = kd_memory_data(s->d_y);
    kd_winograd_weights(&s->shape, kd_memory_data(s->x_again), d_y, scratch,
                        gradient + params[node->weight].offset, d_bias);
    if (node->bias >= 0)
        memcpy(gradient + params[node->bias].offset, d_bias, (size_t)node->c * sizeof *d_bias);
    if (s->packed_back < 0)
        return 0;
    const kd_winograd_end end = {.low = -INFINITY, .high = INFINITY};
    kd_winograd_run(&s->turned, d_y, kd_plan_data(p, s->packed_back), &end, scratch,
                    kd_memory_data(s->d_x));
    return kd_prim_run(p, s->reorder_d_x, diag);
}

const kd_op_impl kd_op_conv_winograd = {.name = "convolution by Winograd's algorithm",
                                        .prepare = prepare,
                                        .load = load,
                                        .forward = forward,
                                        .backward = backward};
