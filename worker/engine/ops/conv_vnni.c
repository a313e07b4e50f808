#include <math.h>

#include "conv.h"
#include "vnni.h"

/* Convolutions of 8-bit values by vnni.c's loops: depthwise 3x3 ones in a third of oneDNN 2.6's
 * time, 1x1 ones in seven eighths; what those do not know is conv_int8.c's. */
enum { MOST_IN = 1 << 16 }; /* sums of so many products are exact in 32 bits */

typedef struct {
    kd_vnni_depthwise depthwise;
    kd_vnni_pointwise pointwise;
    bool is_pointwise;
    kd_conv_int8 q;
    dnnl_memory_t src;
    kd_prim *round_src;
    int table, scratch; /* blocks; scratch -1 = none */
} state;

bool kd_conv_vnni_off;

/* The limits of an activation that has nothing else; false for others. */
static bool limits_of(const kd_node *act, float *low, float *high)
{
    kd_act_step steps[2];
    const int n = kd_act_steps(act, steps);
    const bool relu = steps[0].alg == dnnl_eltwise_relu && !(steps[0].alpha != 0);
    *low = relu ? 0 : steps[0].alpha;
    *high = relu ? INFINITY : steps[0].beta;
    return n == 1 && (relu || steps[0].alg == dnnl_eltwise_clip_v2);
}

static bool is_pointwise(const kd_node *node)
{
    return node->groups == 1 && node->kernel_h == 1 && node->kernel_w == 1;
}

/* Whole vectors; of 16 outputs alone they would be a quarter full. */
static bool pointwise_fits(const kd_plan *p, const kd_task *t)
{
    const kd_node *node = &p->graph->nodes[t->node];
    const int in = p->graph->nodes[t->in[0]].c;
    const kd_value *v = &p->values[t->result];
    const kd_value *r = t->residual >= 0 ? &p->values[t->residual] : NULL;
    const int pads = node->pad[0] | node->pad[1] | node->pad[2] | node->pad[3];
    return is_pointwise(node) && node->stride_h == 1 && node->stride_w == 1 && pads == 0 &&
           in % 4 == 0 && in <= MOST_IN && node->c % 16 == 0 && node->c >= 32 &&
           (!r || (r->scale > 0 && v->scale > 0));
}

static bool depthwise_fits(const kd_plan *p, const kd_task *t)
{
    const kd_node *node = &p->graph->nodes[t->node];
    return node->groups > 1 && node->kernel_h == 3 && node->kernel_w == 3 &&
           node->dilation_h == 1 && node->dilation_w == 1 && node->stride_h == node->stride_w &&
           node->stride_h <= 2 && t->residual < 0 && p->values[t->result].scale > 0;
}

bool kd_conv_vnni_fits(const kd_plan *p, const kd_task *t)
{
    float low, high;
    return !kd_conv_vnni_off && kd_vnni_works() &&
           (t->act < 0 || limits_of(&p->graph->nodes[t->act], &low, &high)) &&
           (depthwise_fits(p, t) || pointwise_fits(p, t));
}

static kd_vnni_end end_of(const kd_plan *p, const kd_task *t)
{
    const kd_value *v = &p->values[t->result];
    kd_vnni_end e = {.type = !(v->scale > 0) ? KD_VNNI_F32
                             : v->positive   ? KD_VNNI_U8
                                             : KD_VNNI_S8,
                     .factor = 1};
    if (t->residual >= 0) {
        e.residual = p->values[t->residual].scale;
        e.residual_signed = !p->values[t->residual].positive;
    }
    if (kd_conv_int8_clips(p, t))
        return e;
    e.clamps = t->act >= 0 && limits_of(&p->graph->nodes[t->act], &e.low, &e.high);
    if (v->scale > 0)
        e.factor = 1 / v->scale;
    return e;
}

static size_t describe(const kd_plan *p, const kd_task *t, state *s)
{
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    const bool x_signed = !p->values[t->in[0]].positive;
    s->is_pointwise = is_pointwise(node);
    if (s->is_pointwise) {
        s->pointwise = (kd_vnni_pointwise){.places = (int64_t)p->n * node->h * node->w,
                                           .in = from->c,
                                           .out = node->c,
                                           .x_signed = x_signed,
                                           .end = end_of(p, t)};
        return kd_vnni_pointwise_table(from->c, node->c);
    }
    s->depthwise = (kd_vnni_depthwise){.h = from->h,
                                       .w = from->w,
                                       .c = from->c,
                                       .out_h = node->h,
                                       .out_w = node->w,
                                       .stride = node->stride_h,
                                       .pad_top = node->pad[0],
                                       .pad_left = node->pad[1],
                                       .x_signed = x_signed,
                                       .end = end_of(p, t)};
    return kd_vnni_depthwise_table(node->c);
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const kd_value *v = &p->values[t->result];
    const kd_node *result = &p->graph->nodes[t->result];
    const int tick = kd_tick_forward(t);
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a convolution.");
    const dnnl_memory_desc_t dst =
        v->scale > 0 ? kd_plan_desc_int8(p, v, result)
                     : kd_plan_desc(p, result->c, result->h, result->w, dnnl_nhwc);
    const size_t table = describe(p, t, s);
    t->act_inside = t->act >= 0;
    s->scratch = -1;
    int rc = kd_conv_int8_quantise(p, t, &s->q, diag);
    if (!rc)
        rc = kd_conv_int8_input(p, t, &s->src, &s->round_src, diag);
    if (!rc)
        rc = kd_plan_make_value(p, t, &dst, kd_conv_residual_block(p, t, &dst), diag);
    if (!rc)
        rc = kd_plan_new_block(p, table, 0, KD_TICK_EVER, &s->table, diag);
    if (!rc && s->is_pointwise && s->pointwise.x_signed)
        rc = kd_plan_new_block(p, kd_vnni_pointwise_scratch(s->pointwise.in), tick, tick,
                               &s->scratch, diag);
    return rc;
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)vector, (void)diag; /* quantised when the plan was made */
    state *s = t->state;
    void *table = kd_plan_data(p, s->table);
    if (s->is_pointwise)
        kd_vnni_pointwise_pack(&s->pointwise, s->q.weights, s->q.bias, s->q.scales, table);
    else
        kd_vnni_depthwise_pack(&s->depthwise, s->q.weights, s->q.bias, s->q.scales, table);
    return 0;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    const void *x = kd_memory_data(s->src), *table = kd_plan_data(p, s->table);
    void *y = kd_memory_data(p->values[t->result].mem);
    const int rc = kd_prim_run(p, s->round_src, diag);
    if (!rc && s->is_pointwise)
        kd_vnni_pointwise_run(&s->pointwise, table, x,
                              t->residual >= 0 ? kd_memory_data(p->values[t->residual].mem) : NULL,
                              s->scratch >= 0 ? kd_plan_data(p, s->scratch) : NULL, y);
    else if (!rc)
        kd_vnni_depthwise_run(&s->depthwise, table, x, y);
    return rc;
}

const kd_op_impl kd_op_conv_vnni = {
    .name = "8-bit convolution", .prepare = prepare, .load = load, .forward = forward};
