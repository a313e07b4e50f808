#include <math.h>

#include "conv.h"
#include "depthwise_vnni.h"

/* Depthwise 3x3 convolutions of 8-bit values by depthwise_vnni.c's loops, three to five times as
 * fast as oneDNN 2.6's; what those do not know is conv_int8.c's. */
typedef struct {
    kd_depthwise_vnni loops;
    kd_conv_int8 q;
    dnnl_memory_t src;
    kd_prim *round_src;
    int table; /* block */
} state;

bool kd_depthwise_int8_off;

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

bool kd_depthwise_int8_fits(const kd_plan *p, const kd_task *t)
{
    const kd_node *node = &p->graph->nodes[t->node];
    float low, high;
    return !kd_depthwise_int8_off && kd_depthwise_vnni_works() && node->groups > 1 &&
           node->kernel_h == 3 && node->kernel_w == 3 && node->dilation_h == 1 &&
           node->dilation_w == 1 && node->stride_h == node->stride_w && node->stride_h <= 2 &&
           t->residual < 0 && p->values[t->result].scale > 0 &&
           (t->act < 0 || limits_of(&p->graph->nodes[t->act], &low, &high));
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    const kd_value *v = &p->values[t->result];
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a convolution.");
    s->loops = (kd_depthwise_vnni){.h = from->h,
                                   .w = from->w,
                                   .c = from->c,
                                   .out_h = node->h,
                                   .out_w = node->w,
                                   .stride = node->stride_h,
                                   .pad_top = node->pad[0],
                                   .pad_left = node->pad[1],
                                   .x_signed = !p->values[t->in[0]].positive,
                                   .y_signed = !v->positive,
                                   .factor = 1};
    t->act_inside = t->act >= 0;
    if (!kd_conv_int8_clips(p, t)) {
        s->loops.factor = 1 / v->scale;
        s->loops.clamps =
            t->act >= 0 && limits_of(&p->graph->nodes[t->act], &s->loops.low, &s->loops.high);
    }
    const dnnl_memory_desc_t dst = kd_plan_desc_int8(p, v, &p->graph->nodes[t->result]);
    int rc = kd_conv_int8_quantise(p, t, &s->q, diag);
    if (!rc)
        rc = kd_conv_int8_input(p, t, &s->src, &s->round_src, diag);
    if (!rc)
        rc = kd_plan_make_value(p, t, &dst, -1, diag);
    if (!rc)
        rc = s->table = kd_plan_block(p, kd_depthwise_vnni_table(node->c), 0, KD_TICK_EVER, diag);
    return KD_MIN(rc, 0);
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)vector, (void)diag; /* quantised when the plan was made */
    state *s = t->state;
    kd_depthwise_vnni_pack(&s->loops, s->q.weights, s->q.bias, s->q.scales,
                           kd_plan_data(p, s->table));
    return 0;
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    const int rc = kd_prim_run(p, s->round_src, diag);
    if (!rc)
        kd_depthwise_vnni_run(&s->loops, kd_plan_data(p, s->table), kd_memory_data(s->src),
                              kd_memory_data(p->values[t->result].mem));
    return rc;
}

const kd_op_impl kd_op_depthwise_int8 = {
    .name = "8-bit depthwise convolution", .prepare = prepare, .load = load, .forward = forward};
