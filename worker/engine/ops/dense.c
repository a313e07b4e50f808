#include <cblas.h>
#include <string.h>

#include "engine/op.h"
#include "gemm.h"

/* y = x W^T + b with x [n,in], W [out,in]. Training: one matrix product over the batch. Inference:
 * a matrix-vector product an image, so that no neighbour can change how its row is summed.
 *
 * With enough images our own product takes W as it lies: y^T = W x^T, where only the images, which
 * are few beside the weights, are turned around, and with them the result. */
enum { LEAST_IMAGES = 16, LANES = 16 };

typedef struct {
    dnnl_memory_t x, d_x; /* plain rows */
    kd_prim *reorder_x, *reorder_d_x;
    int weight, bias; /* blocks, bias -1 = none */
    int in, out;
    int turned; /* block: x^T and y^T, [in + out][images, in whole vectors]; -1 = OpenBLAS does it
                 */
} state;

static int check(const kd_graph *g, const kd_node *node, kd_diag *diag)
{
    const kd_node *in = &g->nodes[node->in[0]];
    if (in->h != 1 || in->w != 1 || node->h != 1 || node->w != 1 || node->weight < 0)
        return kd_fail(diag, -KD_EINVAL,
                       "Dense '%s' needs a flat input and weights, not an input [%d,%d,%d].",
                       node->name, in->h, in->w, in->c);
    const kd_param *w = &g->params[node->weight];
    if (w->count != (size_t)in->c * (size_t)node->c ||
        (node->bias >= 0 && g->params[node->bias].count != (size_t)node->c))
        return kd_fail(diag, -KD_EINVAL, "Dense '%s' of %d to %d has parameters of another size.",
                       node->name, in->c, node->c);
    return 0;
}

static int images_turned(const kd_plan *p)
{
    return (p->n + LANES - 1) / LANES * LANES;
}

static int prepare(kd_plan *p, kd_task *t, kd_diag *diag)
{
    state *s = t->state = kd_plan_alloc(p, sizeof *s);
    if (!s)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for a dense layer.");
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_value *in = &p->values[t->in[0]];
    const int tick = kd_tick_forward(t), back = kd_tick_backward(p, t);
    s->in = p->graph->nodes[t->in[0]].c;
    s->out = node->c;
    const dnnl_memory_desc_t rows = kd_plan_desc(p, s->in, 1, 1, dnnl_nchw);
    const dnnl_memory_desc_t md = kd_plan_desc(p, s->out, 1, 1, dnnl_nchw);
    int rc = kd_plan_make_value(p, t, &md, -1, diag);
    if (!rc)
        rc = kd_plan_as(p, &in->md, in->mem, &rows, tick, p->training ? back : tick, &s->x,
                        &s->reorder_x, diag);
    if (!rc && t->d_in[0])
        rc = kd_plan_into(p, &rows, &in->md, t->d_in[0], back, &s->d_x, &s->reorder_d_x, diag);
    if (rc)
        return rc;
    s->weight =
        kd_plan_block(p, (size_t)s->in * (size_t)s->out * sizeof(float), 0, KD_TICK_EVER, diag);
    if (s->weight < 0)
        return s->weight;
    s->turned = s->bias = -1;
    if (p->training && p->n >= LEAST_IMAGES && kd_gemm_supported()) {
        const size_t floats = (size_t)(s->in + s->out) * (size_t)images_turned(p);
        s->turned = kd_plan_block(p, floats * sizeof(float), tick, tick, diag);
        if (s->turned < 0)
            return s->turned;
    }
    if (node->bias >= 0)
        s->bias = kd_plan_block(p, (size_t)s->out * sizeof(float), 0, KD_TICK_EVER, diag);
    return node->bias >= 0 && s->bias < 0 ? s->bias : 0;
}

static int load(kd_plan *p, const kd_task *t, const float *vector, kd_diag *diag)
{
    (void)diag;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *w = &p->graph->params[node->weight];
    memcpy(kd_plan_data(p, s->weight), vector + w->offset, w->count * sizeof(float));
    if (s->bias >= 0)
        memcpy(kd_plan_data(p, s->bias), vector + p->graph->params[node->bias].offset,
               (size_t)s->out * sizeof(float));
    return 0;
}

/* to [columns][to_row] = from [rows][from_row] turned around, in squares that fit registers. */
static void turn(const float *from, int from_row, int rows, int columns, float *to, int to_row)
{
    enum { SIDE = 4 };
    const size_t f = (size_t)from_row, o = (size_t)to_row;
    const int whole_rows = rows / SIDE * SIDE, whole_columns = columns / SIDE * SIDE;
    for (int i = 0; i < whole_rows; i += SIDE)
        for (int j = 0; j < whole_columns; j += SIDE) {
            const float *x = from + (size_t)i * f + (size_t)j;
            float *y = to + (size_t)j * o + (size_t)i;
            float square[SIDE * SIDE];
            for (size_t k = 0; k < SIDE; k++)
                for (size_t l = 0; l < SIDE; l++)
                    square[l * SIDE + k] = x[k * f + l];
            for (size_t l = 0; l < SIDE; l++)
                memcpy(y + l * o, square + l * SIDE, SIDE * sizeof *y);
        }
    for (int i = 0; i < rows; i++)
        for (int j = i < whole_rows ? whole_columns : 0; j < columns; j++)
            to[(size_t)j * o + (size_t)i] = from[(size_t)i * f + (size_t)j];
}

static void forward_turned(const kd_plan *p, const state *s, const float *x, const float *w,
                           float *y)
{
    const int images = images_turned(p);
    float *x_turned = kd_plan_data(p, s->turned),
          *y_turned = x_turned + (size_t)s->in * (size_t)images;
    const float *bias = s->bias >= 0 ? kd_plan_data(p, s->bias) : NULL;
    turn(x, s->in, p->n, s->in, x_turned, images);
    kd_gemm_run(&(kd_gemm){.m = s->out,
                           .n = p->n,
                           .k = s->in,
                           .a = w,
                           .a_row = s->in,
                           .a_column = 1,
                           .b = x_turned,
                           .b_row = images,
                           .c = y_turned,
                           .c_row = images});
    for (int j = 0; bias && j < s->out; j++)
        for (int i = 0; i < p->n; i++)
            y_turned[(size_t)j * (size_t)images + (size_t)i] += bias[j];
    turn(y_turned, images, s->out, p->n, y, s->out);
}

static int forward(kd_plan *p, const kd_task *t, kd_diag *diag)
{
    const state *s = t->state;
    const int rc = kd_prim_run(p, s->reorder_x, diag);
    if (rc)
        return rc;
    const float *x = kd_memory_data(s->x), *w = kd_plan_data(p, s->weight);
    float *y = kd_plan_data(p, p->values[t->result].block);
    if (s->turned >= 0) {
        forward_turned(p, s, x, w, y);
        return 0;
    }
    const size_t row = (size_t)s->out * sizeof(float);
    for (int i = 0; i < p->n; i++) {
        if (s->bias >= 0)
            memcpy(y + (size_t)i * (size_t)s->out, kd_plan_data(p, s->bias), row);
        else
            memset(y + (size_t)i * (size_t)s->out, 0, row);
    }
    if (p->training) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->n, s->out, s->in, 1, x, s->in, w,
                    s->in, 1, y, s->out);
        return 0;
    }
    for (int i = 0; i < p->n; i++)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, s->out, s->in, 1, w, s->in,
                    x + (size_t)i * (size_t)s->in, 1, 1, y + (size_t)i * (size_t)s->out, 1);
    return 0;
}

static void backward_bias(const float *d_y, int images, int out, float *d_b)
{
    memset(d_b, 0, (size_t)out * sizeof(float));
    for (int i = 0; i < images; i++)
        for (int j = 0; j < out; j++)
            d_b[j] += d_y[(size_t)i * (size_t)out + (size_t)j];
}

/* d_w [out,in] = d_y^T x. */
static void backward_weights(const kd_plan *p, const state *s, const float *d_y, const float *x,
                             float *d_w)
{
    if (s->turned < 0)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, s->out, s->in, p->n, 1, d_y, s->out, x,
                    s->in, 0, d_w, s->in);
    else
        kd_gemm_run(&(kd_gemm){.m = s->out,
                               .n = s->in,
                               .k = p->n,
                               .a = d_y,
                               .a_row = 1,
                               .a_column = s->out,
                               .b = x,
                               .b_row = s->in,
                               .c = d_w,
                               .c_row = s->in});
}

/* d_x [n,in] = d_y w. */
static void backward_input(const kd_plan *p, const state *s, const float *d_y, const float *w,
                           float *d_x)
{
    if (s->turned < 0)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, p->n, s->in, s->out, 1, d_y, s->out,
                    w, s->in, 0, d_x, s->in);
    else
        kd_gemm_run(&(kd_gemm){.m = p->n,
                               .n = s->in,
                               .k = s->out,
                               .a = d_y,
                               .a_row = s->out,
                               .a_column = 1,
                               .b = w,
                               .b_row = s->in,
                               .c = d_x,
                               .c_row = s->in});
}

static int backward(kd_plan *p, const kd_task *t, float stat_weight, float *gradient, kd_diag *diag)
{
    (void)stat_weight;
    const state *s = t->state;
    const kd_node *node = &p->graph->nodes[t->node];
    const kd_param *params = p->graph->params;
    const float *d_y = kd_plan_data(p, p->values[t->result].d_block);
    backward_weights(p, s, d_y, kd_memory_data(s->x), gradient + params[node->weight].offset);
    if (node->bias >= 0)
        backward_bias(d_y, p->n, s->out, gradient + params[node->bias].offset);
    if (!t->d_in[0])
        return 0;
    backward_input(p, s, d_y, kd_plan_data(p, s->weight), kd_memory_data(s->d_x));
    return kd_prim_run(p, s->reorder_d_x, diag);
}

const kd_op_impl kd_op_dense = {"dense", check, prepare, load, forward, backward};
