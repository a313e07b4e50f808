#include <string.h>

#include "engine/layout.h"
#include "engine/op.h"

/* The weights' gradient of depthwise convolutions that oneDNN has no kernel for, such as 5x5: its
 * matrix products are some ten times slower than these loops. Channels lie side by side in blocks
 * of 8 or 16 and are summed four at a time; the order of additions is fixed, so that the bits hang
 * on the layout alone. */
typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
enum { QUAD = 4 };

typedef struct {
    const kd_node *node;
    kd_layout x, y;
} shape;

static bool shape_of(const kd_plan *p, const kd_task *t, shape *out)
{
    out->node = &p->graph->nodes[t->node];
    return kd_layout_of(&p->values[t->in[0]].md, &out->x) &&
           kd_layout_of(&p->values[t->result].md, &out->y) && out->x.block == out->y.block &&
           out->x.block % 8 == 0;
}

bool kd_depthwise_fits(const kd_plan *p, const kd_task *t)
{
    shape s;
    const kd_node *node = &p->graph->nodes[t->node], *from = &p->graph->nodes[t->in[0]];
    const bool beyond =
        node->kernel_h > 3 || node->kernel_w > 3 || node->dilation_h > 1 || node->dilation_w > 1;
    return beyond && node->groups == from->c && node->c == from->c && shape_of(p, t, &s);
}

size_t kd_depthwise_scratch(const kd_plan *p, const kd_task *t)
{
    shape s;
    KD_BUG_ON(!shape_of(p, t, &s));
    return (size_t)s.node->kernel_h * (size_t)s.node->kernel_w * (size_t)s.x.block * sizeof(float);
}

/* sum[4] += sum over ox of d_y[ox] * x[ox], in two halves that do not wait for each other. */
static void add_row(int64_t n, const float *d_y, int64_t y_step, const float *x, int64_t x_step,
                    float *sum)
{
    quad even = {0}, odd = {0};
    int64_t i = 0;
    for (; i + 1 < n; i += 2) {
        even += *(const quad *)(d_y + i * y_step) * *(const quad *)(x + i * x_step);
        odd += *(const quad *)(d_y + (i + 1) * y_step) * *(const quad *)(x + (i + 1) * x_step);
    }
    if (i < n)
        even += *(const quad *)(d_y + i * y_step) * *(const quad *)(x + i * x_step);
    *(quad *)sum += even + odd;
}

/* The products of one row of d_y with the kernel's row ky over one row of x, for one block. */
static void add_kernel_row(const shape *s, const float *d_y, const float *x, float *sums)
{
    const kd_node *node = s->node;
    for (int kx = 0; kx < node->kernel_w; kx++, sums += s->x.block) {
        const int64_t at = (int64_t)kx * node->dilation_w - node->pad[1], step = node->stride_w;
        const int64_t first = at < 0 ? (-at + step - 1) / step : 0;
        const int64_t end = at < s->x.w ? KD_MIN(s->y.w, (s->x.w - 1 - at) / step + 1) : 0;
        if (first >= end)
            continue;
        for (int64_t c = 0; c < s->x.block; c += QUAD)
            add_row(end - first, d_y + first * s->y.sw + c, s->y.sw,
                    x + (first * step + at) * s->x.sw + c, step * s->x.sw, sums + c);
    }
}

void kd_depthwise_weights(const kd_plan *p, const kd_task *t, float *scratch, float *weights,
                          float *bias)
{
    shape s;
    KD_BUG_ON(!shape_of(p, t, &s));
    const kd_node *node = s.node;
    const float *x = kd_plan_data(p, p->values[t->in[0]].block);
    const float *d_y = kd_plan_data(p, p->values[t->result].d_block);
    const int64_t block = s.x.block, area = (int64_t)node->kernel_h * node->kernel_w;
    for (int64_t first = 0; first < s.x.c; first += block) {
        memset(scratch, 0, (size_t)(area * block) * sizeof *scratch);
        for (int64_t n = 0; n < s.x.n; n++)
            for (int64_t oy = 0; oy < s.y.h; oy++)
                for (int ky = 0; ky < node->kernel_h; ky++) {
                    const int64_t iy =
                        oy * node->stride_h + (int64_t)ky * node->dilation_h - node->pad[0];
                    if (iy < 0 || iy >= s.x.h)
                        continue;
                    add_kernel_row(&s, d_y + kd_layout_at(&s.y, n, first, oy, 0),
                                   x + kd_layout_at(&s.x, n, first, iy, 0),
                                   scratch + (int64_t)ky * node->kernel_w * block);
                }
        for (int64_t c = 0; c < KD_MIN(block, s.x.c - first); c++)
            for (int64_t k = 0; k < area; k++)
                weights[(first + c) * area + k] = scratch[k * block + c];
    }
    for (int64_t c = 0; bias && c < s.y.c; c++) {
        double sum = 0;
        for (int64_t n = 0; n < s.y.n; n++)
            for (int64_t i = 0; i < s.y.h * s.y.w; i++)
                sum += (double)d_y[kd_layout_at(&s.y, n, c, 0, 0) + i * s.y.sw];
        bias[c] = (float)sum;
    }
}
