#include "limit.h"

/* Multiplications of F(4x4,3x3) for one result: 36 for 16, instead of 9. */
#define WINOGRAD_SHARE 0.25
/* Channels of both sides from which on it is used. */
enum { WINOGRAD_CHANNELS = 16 };
/* Of a parameter in a step of Adam: value, gradient and both moments read, all but the gradient
 * written. */
enum { ADAM_BYTES = 28 };

static double layer(double ops, double peak, double bytes)
{
    return KD_MAX(ops / peak, bytes / kd_copy_rate((size_t)bytes));
}

static double elements(const kd_node *n)
{
    return (double)n->h * n->w * n->c;
}

/* The max pool that reads what this node writes, as it is or through one activation; NULL = none.
 */
static const kd_node *pool_behind(const kd_graph *g, int node)
{
    const kd_node *found = NULL;
    for (int i = node + 1; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (n->in[0] != node && n->in[1] != node)
            continue;
        if (found != NULL)
            return NULL;
        found = n;
    }
    if (found == NULL || found->op == KD_OP_MAX_POOL)
        return found;
    return found->op == KD_OP_RELU ? pool_behind(g, (int)(found - g->nodes)) : NULL;
}

static bool fits_winograd(const kd_graph *g, const kd_node *n)
{
    return n->op == KD_OP_CONV && n->kernel_h == 3 && n->kernel_w == 3 && n->stride_h == 1 &&
           n->stride_w == 1 && n->dilation_h == 1 && n->dilation_w == 1 && n->groups == 1 &&
           n->c >= WINOGRAD_CHANNELS && g->nodes[n->in[0]].c >= WINOGRAD_CHANNELS;
}

/* Whether a gradient has to go on from here: in the benches' networks nothing branches off before
 * the first layer. */
static bool learns(const kd_graph *g, int node)
{
    for (int i = 0; i <= node; i++)
        if (kd_node_has_weights(&g->nodes[i]))
            return true;
    return false;
}

/* A convolution or dense layer. size: bytes of an element. */
static double weighted(const kd_graph *g, int node, double batch, bool train,
                       enum kd_precision precision, double size)
{
    const kd_node *n = &g->nodes[node], *in = &g->nodes[n->in[0]], *pool = pool_behind(g, node);
    const double direct = 2 * (double)kd_node_macs(g, n) * batch;
    /* Fewest operations for their speed: Winograd's are float32. */
    double ops = direct, peak = kd_peak(precision);
    if (fits_winograd(g, n) && precision != KD_INT8 &&
        direct * WINOGRAD_SHARE / kd_peak(KD_FLOAT32) < direct / peak) {
        ops = direct * WINOGRAD_SHARE;
        peak = kd_peak(KD_FLOAT32);
    }
    const double read = batch * elements(in) * size;
    const double written = batch * elements(pool != NULL ? pool : n) * size;
    const double weights = (double)g->params[n->weight].count * size;
    double seconds = layer(ops, peak, read + written + weights);
    if (!train)
        return seconds;
    const double won = pool != NULL ? elements(pool) / elements(n) : 1;
    seconds += layer(KD_MIN(ops, direct * won), peak, read + written + weights);
    if (learns(g, n->in[0]))
        seconds += layer(KD_MIN(ops, direct * won), peak, read + written + weights);
    return seconds;
}

double kd_limit(const kd_graph *g, int batch, enum kd_plan_use use, enum kd_precision precision)
{
    const bool train = use != KD_PLAN_INFER;
    /* What stands between two layers is as narrow as their operands in inference alone. */
    const double size = train || precision == KD_FLOAT32 ? 4 : precision == KD_BFLOAT16 ? 2 : 1;
    if (!(kd_peak(precision) > 0))
        return 0;
    double seconds = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const kd_node *n = &g->nodes[i];
        if (kd_node_has_weights(n))
            seconds += weighted(g, i, batch, train, precision, size);
        if (n->op == KD_OP_BATCH_NORM && train) /* x to y; then x and d_y to d_x */
            seconds += layer(0, 1, 2 * batch * elements(n) * size) +
                       layer(0, 1, 3 * batch * elements(n) * size);
    }
    if (train)
        seconds += layer(0, 1, ADAM_BYTES * (double)g->trained_len);
    return seconds;
}
