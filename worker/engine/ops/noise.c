#include <string.h>

#include "engine/layout.h"
#include "engine/op.h"
#include "kd/rng.h"

/* Dropout (Srivastava et al. 2014, inverted: kept values are divided by 1 - rate) and drop path,
 * the same with whole images. The factors of a forward are kept for its backward. Plans without
 * noise leave the node out, so that both run in training alone. */
typedef struct {
    dnnl_memory_t x, d_x;
    kd_prim *reorder, *reorder_d;
    kd_layout layout;
    int factors;   /* block: one float a float of the value, or one an image */
    size_t floats; /* of the value, padding included */
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (in->h != node->h || in->w != node->w || in->c != node->c || !(node->alpha >= 0) ||
        !(node->alpha < 1))
        return kd_fail(diag, -KD_EINVAL,
                       "Dropout '%s' changes the shape or its rate %g is not in [0, 1).",
                       node->name, (double)node->alpha);
    return 0;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a dropout.");
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *in = &p->values[t->in[0]];
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    dnnl_memory_desc_t md = in->md;
    if (!kd_layout_of(&md, &s->layout) || s->layout.sn < s->layout.sc) {
        md = kd_plan_desc(p, node->c, node->h, node->w, dnnl_nchw);
        KD_BUG_ON(!kd_layout_of(&md, &s->layout));
    }
    s->floats = dnnl_memory_desc_get_size(&md) / sizeof(float);
    const size_t factors = node->op == KD_OP_DROP_PATH ? (size_t)p->n : s->floats;
    s->factors = kd_plan_block(p, factors * sizeof(float), tick, back, diag);
    if (s->factors < 0)
        return s->factors;
    int rc = kd_plan_make_value(p, t, &md, -1, diag);
    if (!rc)
        rc = kd_plan_as(p, &in->md, in->mem, &md, tick, tick, &s->x, &s->reorder, diag);
    if (!rc && t->d_in[0])
        rc = kd_plan_into(p, &md, &in->md, t->d_in[0], back, &s->d_x, &s->reorder_d, diag);
    return rc;
}

/* The stream of one image, and what its values are multiplied with when they stay. */
static float draw(kd_rng *r, float rate)
{
    return kd_rng_float(r) >= rate ? 1 / (1 - rate) : 0;
}

static void stream(const kd_plan *p, const kd_task *t, int image, kd_rng *out)
{
    kd_rng_init(out, p->noise.seed, KD_RNG_DROPOUT, p->noise.step,
                (uint64_t)(unsigned)t->node << 32 | p->noise.keys[image]);
}

static void fill_images(const kd_plan *p, const kd_task *t, float *factors)
{
    for (int i = 0; i < p->n; i++) {
        kd_rng r;
        stream(p, t, i, &r);
        factors[i] = p->noise.named ? draw(&r, p->graph->nodes[t->node].alpha) : 1;
    }
}

/* Drawn in channel-height-width order whatever the layout. */
static void fill_values(const kd_plan *p, const kd_task *t, const state *s, float *factors)
{
    const kd_layout *l = &s->layout;
    const float rate = p->graph->nodes[t->node].alpha;
    for (size_t i = 0; i < s->floats; i++)
        factors[i] = 1;
    for (int i = 0; p->noise.named && i < p->n; i++) {
        kd_rng r;
        stream(p, t, i, &r);
        for (int64_t c = 0; c < l->c; c++)
            for (int64_t h = 0; h < l->h; h++)
                for (int64_t w = 0; w < l->w; w++)
                    factors[kd_layout_at(l, i, c, h, w)] = draw(&r, rate);
    }
}

static void multiply(const kd_plan *p, const kd_task *t, const float *x, float *restrict y)
{
    const state *s = t->state;
    const float *f = kd_plan_data(p, s->factors);
    if (p->graph->nodes[t->node].op == KD_OP_DROPOUT) {
        for (size_t i = 0; i < s->floats; i++)
            y[i] = x[i] * f[i];
        return;
    }
    const size_t image = s->floats / (size_t)p->n; /* the outermost axis */
    for (int k = 0; k < p->n; k++, x += image, y += image)
        for (size_t i = 0; i < image; i++)
            y[i] = x[i] * f[k];
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    float *factors = kd_plan_data(p, s->factors);
    const int rc = kd_prim_run(p, s->reorder, diag);
    if (rc)
        return rc;
    if (p->graph->nodes[t->node].op == KD_OP_DROPOUT)
        fill_values(p, t, s, factors);
    else
        fill_images(p, t, factors);
    multiply(p, t, kd_memory_data(s->x), kd_plan_data(p, p->values[t->result].block));
    return 0;
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight, (void)gradient;
    const state *s = t->state;
    if (!t->d_in[0])
        return 0;
    multiply(p, t, kd_plan_data(p, p->values[t->result].d_block), kd_memory_data(s->d_x));
    return kd_prim_run(p, s->reorder_d, diag);
}

const kd_op_impl kd_op_noise = {"dropout", check, prepare, NULL, forward, backward};
