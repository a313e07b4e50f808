/* The nets that the engine's tests share: one for each operator and its corners, and random ones.
 * Everything is a function of its seed. */
#ifndef KD_TESTS_NETS_H
#define KD_TESTS_NETS_H

#include "reference.h"

typedef struct ref_net {
    const char *name;
    kd_graph *g;
    int batch;
    int slopes; /* elements of a parameter that are checked by differences, 0 = as many as can be */
    float *vector, *input; /* random, running variances between 0.5 and 1.5 */
    double *wide;          /* the vector in double */
} ref_net;

static inline ref_net ref_net_of(const char *name, kd_graph *g, int output, int batch)
{
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_finish_any(g, output, &diag), &diag);
    ref_net net = {.name = name, .g = g, .batch = batch};
    const size_t inputs = (size_t)batch * ref_count(&g->nodes[0]);
    net.vector = kd_xalloc((g->vector_len + 1) * sizeof(float));
    net.wide = kd_xalloc((g->vector_len + 1) * sizeof(double));
    net.input = kd_xalloc(inputs * sizeof(float));
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_TEST, 1, 0);
    kd_graph_init(g, 3, net.vector);
    for (int i = 0; i < g->n_params; i++)
        for (size_t k = 0; k < g->params[i].count; k++) {
            float *v = &net.vector[g->params[i].offset + k];
            if (g->params[i].ndim == 1 || g->params[i].kind == KD_PARAM_FIXED)
                *v += (float)(kd_rng_double(&r) - 0.5);
            net.wide[g->params[i].offset + k] = (double)*v;
        }
    for (size_t i = 0; i < inputs; i++)
        net.input[i] = 2 * kd_rng_float(&r) - 1;
    return net;
}

static inline void ref_net_free(ref_net *net)
{
    kd_graph_free(net->g);
    free(net->vector);
    free(net->wide);
    free(net->input);
}

/* A net whose operator under test stands between a convolution, so that its input has a gradient
 * that shows, and a dense head. */
enum {
    REF_CONV,
    REF_CONV_STRIDE_TF,
    REF_CONV_ODD_PADDING,
    REF_CONV_WIDE,
    REF_CONV_WINOGRAD,
    REF_CONV_WINOGRAD_RESIDUAL,
    REF_CONV_1X1,
    REF_CONV_1X1_STRIDE,
    REF_CONV_GROUPS,
    REF_CONV_GROUPS_WIDE,
    REF_DEPTHWISE,
    REF_DEPTHWISE_STRIDE_TF,
    REF_DEPTHWISE_MULTIPLIER,
    REF_BATCH_NORM,
    REF_BATCH_NORM_FIRST,
    REF_BATCH_NORM_TWICE,
    REF_RELU_SHARED,
    REF_RELU6,
    REF_RELU_FIRST,
    REF_CONV_POOL,
    REF_CONV_POOL_FIRST,
    REF_CONV_POOL_STRIDE,
    REF_CONV_POOL_TWICE,
    REF_CONV_POOL_BATCH_NORM,
    REF_CONV_POOL_SHARED,
    REF_MAX_POOL,
    REF_MAX_POOL_RELU,
    REF_MAX_POOL_RELU6,
    REF_GLOBAL_AVG_POOL,
    REF_FLATTEN,
    REF_MLP,
    REF_ADD,
    REF_ADD_SELF,
    REF_ADD_SHARED_RESIDUAL,
    REF_ADD_LAYOUTS,
    REF_INVERTED_RESIDUAL,
    REF_STUDENT,
    REF_NETS
};

static const int ref_pad0[4] = {0, 0, 0, 0}, ref_pad1[4] = {1, 1, 1, 1}, ref_tf[4] = {0, 0, 1, 1},
                 ref_odd[4] = {2, 0, 1, 3};

static inline int ref_head(kd_graph *g, int x)
{
    x = kd_graph_flatten(g, x);
    return kd_graph_dense(g, x, "head", 3, true, KD_INIT_GLOROT_UNIFORM);
}

static inline int ref_conv_bn(kd_graph *g, int x, const char *name, int c, int k, const int *pad,
                              int groups)
{
    char bn[64];
    snprintf(bn, sizeof bn, "%s_bn", name);
    x = kd_graph_conv(g, x, name, c, k, 1, pad, groups, false, KD_INIT_HE_NORMAL);
    return kd_graph_batch_norm(g, x, bn, 1e-3F);
}

static inline ref_net ref_net_make(int which)
{
    const enum kd_param_init he = KD_INIT_HE_NORMAL;
    const bool winograd = which == REF_CONV_WINOGRAD || which == REF_CONV_WINOGRAD_RESIDUAL;
    const bool wide = which == REF_CONV_WIDE || which == REF_CONV_GROUPS_WIDE || winograd;
    const int side = which == REF_STUDENT || which == REF_CONV_POOL_TWICE ? 18 : winograd ? 19 : 0;
    kd_graph *g = side ? kd_graph_new(side, side, 3) : kd_graph_new(7, 6, 3);
    const char *name = "?";
    int x = 0, y;
    const bool bare = which == REF_BATCH_NORM_FIRST || which == REF_RELU_FIRST ||
                      which == REF_STUDENT || which == REF_MLP || which == REF_CONV_POOL_FIRST ||
                      which == REF_CONV_POOL_STRIDE;
    if (!bare)
        x = kd_graph_conv(g, 0, "pre", wide ? 32 : 6, 1, 1, ref_pad0, 1, false, he);
    switch (which) {
    case REF_CONV:
        name = "convolution";
        x = ref_head(g, kd_graph_conv(g, x, "op", 5, 3, 1, ref_pad1, 1, true, he));
        break;
    case REF_CONV_STRIDE_TF:
        name = "convolution, stride 2, bottom and right padding";
        x = ref_head(g, kd_graph_conv(g, x, "op", 8, 3, 2, ref_tf, 1, true, he));
        break;
    case REF_CONV_ODD_PADDING:
        name = "5x5 convolution, stride 3, four paddings";
        x = ref_head(g, kd_graph_conv(g, x, "op", 4, 5, 3, ref_odd, 1, false, he));
        break;
    case REF_CONV_WIDE:
        name = "convolution of whole channel blocks";
        x = ref_head(g, kd_graph_conv(g, x, "op", 16, 3, 1, ref_pad1, 1, true, he));
        break;
    case REF_CONV_WINOGRAD:
        name = "convolution of many 4x4 tiles, ReLU";
        x = kd_graph_relu(g, kd_graph_conv(g, x, "op", 48, 3, 1, ref_pad0, 1, true, he));
        x = ref_head(g, kd_graph_global_avg_pool(g, x));
        break;
    case REF_CONV_WINOGRAD_RESIDUAL:
        name = "convolution of many 4x4 tiles, batch norm, addition, ReLU6";
        y = kd_graph_relu6(g, kd_graph_add(g, x, ref_conv_bn(g, x, "op", 32, 3, ref_pad1, 1)));
        x = ref_head(g, kd_graph_global_avg_pool(g, y));
        break;
    case REF_CONV_1X1:
        name = "1x1 convolution";
        x = ref_head(g, kd_graph_conv(g, x, "op", 9, 1, 1, ref_pad0, 1, true, he));
        break;
    case REF_CONV_1X1_STRIDE:
        name = "1x1 convolution, stride 2";
        x = ref_head(g, kd_graph_conv(g, x, "op", 7, 1, 2, ref_pad0, 1, false, he));
        break;
    case REF_CONV_GROUPS:
        name = "convolution in two groups";
        x = ref_head(g, kd_graph_conv(g, x, "op", 4, 3, 1, ref_pad1, 2, true, he));
        break;
    case REF_CONV_GROUPS_WIDE:
        name = "convolution in two groups of a channel block";
        x = ref_head(g, kd_graph_conv(g, x, "op", 32, 3, 2, ref_pad1, 2, false, he));
        break;
    case REF_DEPTHWISE:
        name = "depthwise convolution";
        x = ref_head(g, kd_graph_conv(g, x, "op", 6, 3, 1, ref_pad1, 6, true, he));
        break;
    case REF_DEPTHWISE_STRIDE_TF:
        name = "depthwise convolution, stride 2, bottom and right padding";
        x = ref_head(g, kd_graph_conv(g, x, "op", 6, 3, 2, ref_tf, 6, false, he));
        break;
    case REF_DEPTHWISE_MULTIPLIER:
        name = "depthwise convolution with two outputs a channel";
        x = ref_head(g, kd_graph_conv(g, x, "op", 12, 3, 1, ref_pad0, 6, false, he));
        break;
    case REF_BATCH_NORM:
        name = "batch norm";
        x = ref_head(g, kd_graph_batch_norm(g, x, "op", 1e-3F));
        break;
    case REF_BATCH_NORM_FIRST:
        name = "batch norm of the input";
        x = ref_head(g, kd_graph_batch_norm(g, x, "op", 1e-5F));
        break;
    case REF_BATCH_NORM_TWICE:
        name = "batch norm, ReLU, batch norm";
        x = kd_graph_relu(g, kd_graph_batch_norm(g, x, "op", 1e-3F));
        x = ref_head(g, kd_graph_batch_norm(g, x, "op2", 1e-3F));
        break;
    case REF_RELU_SHARED:
        name = "ReLU of a value that others read";
        x = ref_head(g, kd_graph_add(g, kd_graph_relu(g, x), x));
        break;
    case REF_RELU6:
        name = "ReLU6";
        x = kd_graph_batch_norm(g, x, "op", 1e-3F);
        x = kd_graph_conv(g, x, "louder", 6, 3, 1, ref_pad1, 1, true, he);
        x = kd_graph_add(g, x, x);
        x = ref_head(g, kd_graph_relu6(g, kd_graph_add(g, x, x)));
        break;
    case REF_RELU_FIRST:
        name = "ReLU of the input";
        x = ref_head(g, kd_graph_relu(g, x));
        break;
    case REF_CONV_POOL:
        name = "convolution, ReLU, max pool";
        x = kd_graph_relu(g, kd_graph_conv(g, x, "op", 20, 3, 1, ref_pad1, 1, true, he));
        x = ref_head(g, kd_graph_max_pool(g, x, 2));
        break;
    case REF_CONV_POOL_FIRST:
        name = "5x5 convolution of the input with four paddings, 3x3 max pool, ReLU6";
        x = kd_graph_conv(g, 0, "op", 7, 5, 1, ref_odd, 1, true, he);
        x = ref_head(g, kd_graph_relu6(g, kd_graph_max_pool(g, x, 3)));
        break;
    case REF_CONV_POOL_STRIDE:
        name = "convolution with stride 2, max pool";
        x = kd_graph_conv(g, 0, "op", 33, 3, 2, ref_pad1, 1, false, he);
        x = ref_head(g, kd_graph_max_pool(g, x, 2));
        break;
    case REF_CONV_POOL_TWICE:
        name = "convolution, ReLU, 4x4 max pool, convolution of wide rows, ReLU, 2x2 max pool";
        x = kd_graph_relu(g, kd_graph_conv(g, x, "op", 16, 3, 1, ref_pad0, 1, true, he));
        x = kd_graph_max_pool(g, x, 4);
        x = kd_graph_relu(g, kd_graph_conv(g, x, "op2", 18, 3, 1, ref_pad1, 1, true, he));
        x = ref_head(g, kd_graph_max_pool(g, x, 2));
        break;
    case REF_CONV_POOL_BATCH_NORM:
        name = "convolution, batch norm, ReLU, max pool";
        x = kd_graph_relu(g, ref_conv_bn(g, x, "op", 12, 3, ref_pad1, 1));
        x = ref_head(g, kd_graph_max_pool(g, x, 3));
        break;
    case REF_CONV_POOL_SHARED:
        name = "convolution that a max pool and others read";
        x = kd_graph_conv(g, x, "op", 6, 3, 1, ref_pad1, 1, true, he);
        y = kd_graph_global_avg_pool(g, kd_graph_max_pool(g, kd_graph_relu(g, x), 2));
        x = ref_head(g, kd_graph_add(g, kd_graph_global_avg_pool(g, x), y));
        break;
    case REF_MAX_POOL:
        name = "max pool with rows left over";
        x = ref_head(g, kd_graph_max_pool(g, x, 3));
        break;
    case REF_MAX_POOL_RELU:
        name = "ReLU, max pool";
        x = ref_head(g, kd_graph_max_pool(g, kd_graph_relu(g, x), 2));
        break;
    case REF_MAX_POOL_RELU6:
        name = "batch norm, ReLU6, max pool";
        x = kd_graph_relu6(g, kd_graph_batch_norm(g, x, "op", 1e-3F));
        x = ref_head(g, kd_graph_max_pool(g, x, 2));
        break;
    case REF_GLOBAL_AVG_POOL:
        name = "global average pool";
        x = ref_head(g, kd_graph_global_avg_pool(g, x));
        break;
    case REF_FLATTEN:
        name = "flatten to the output";
        x = kd_graph_flatten(g, x);
        break;
    case REF_MLP:
        name = "flatten, dense, ReLU, dense";
        x = kd_graph_dense(g, kd_graph_flatten(g, x), "h", 20, false, KD_INIT_GLOROT_UNIFORM);
        x = kd_graph_dense(g, kd_graph_relu(g, x), "head", 5, true, KD_INIT_TORCH_UNIFORM);
        break;
    case REF_ADD:
        name = "addition of two branches, ReLU";
        y = ref_conv_bn(g, x, "left", 6, 3, ref_pad1, 1);
        x = kd_graph_conv(g, x, "right", 6, 1, 1, ref_pad0, 1, true, he);
        x = ref_head(g, kd_graph_relu(g, kd_graph_add(g, y, x)));
        break;
    case REF_ADD_SELF:
        name = "addition of a value to itself";
        x = ref_head(g, kd_graph_add(g, x, x));
        break;
    case REF_ADD_SHARED_RESIDUAL:
        name = "residual that is read again later";
        y = kd_graph_add(g, x, ref_conv_bn(g, x, "one", 6, 3, ref_pad1, 1));
        x = ref_head(g, kd_graph_add(g, y, ref_conv_bn(g, x, "two", 6, 3, ref_pad1, 1)));
        break;
    case REF_ADD_LAYOUTS:
        name = "addition to a flattened value";
        y = kd_graph_flatten(g, kd_graph_global_avg_pool(g, x));
        x = kd_graph_global_avg_pool(g, x);
        x = ref_head(g, kd_graph_add(g, x, y));
        break;
    case REF_INVERTED_RESIDUAL:
        name = "inverted residual blocks";
        x = ref_conv_bn(g, x, "linear", 5, 1, ref_pad0, 1);
        y = kd_graph_relu6(g, ref_conv_bn(g, x, "expand", 20, 1, ref_pad0, 1));
        y = kd_graph_relu6(g, ref_conv_bn(g, y, "depth", 20, 3, ref_pad1, 20));
        x = kd_graph_add(g, x, ref_conv_bn(g, y, "project", 5, 1, ref_pad0, 1));
        y = kd_graph_relu6(g, ref_conv_bn(g, x, "expand2", 24, 1, ref_pad0, 1));
        y = kd_graph_relu6(g, ref_conv_bn(g, y, "depth2", 24, 3, ref_pad1, 24));
        x = kd_graph_add(g, x, ref_conv_bn(g, y, "project2", 5, 1, ref_pad0, 1));
        x = ref_head(g, kd_graph_global_avg_pool(g, x));
        break;
    case REF_STUDENT:
        name = "small student";
        x = kd_graph_conv(g, x, "c1", 16, 3, 1, ref_pad0, 1, true, he);
        x = kd_graph_max_pool(g, kd_graph_relu(g, x), 4);
        x = kd_graph_relu(g, kd_graph_conv(g, x, "c2", 24, 3, 1, ref_pad0, 1, true, he));
        x = kd_graph_flatten(g, kd_graph_global_avg_pool(g, x));
        x = kd_graph_relu(g, kd_graph_dense(g, x, "d1", 32, false, KD_INIT_GLOROT_UNIFORM));
        x = kd_graph_dense(g, x, "head", 5, true, KD_INIT_GLOROT_UNIFORM);
        break;
    default:
        fail();
    }
    ref_net net = ref_net_of(name, g, x, 3);
    net.slopes = winograd ? 10 : 0; /* its forward takes long in the reference */
    return net;
}

/* A net of random operators, so that every pair meets: fused, shared, in place or not. */
static inline ref_net ref_net_random(uint64_t seed)
{
    static const int channels[] = {3, 8, 16, 20};
    kd_rng r;
    kd_rng_init(&r, seed, KD_RNG_TEST, 2, 0);
    kd_graph *g = kd_graph_new(6 + (int)kd_rng_below(&r, 5), 6 + (int)kd_rng_below(&r, 5), 3);
    int x = kd_graph_conv(g, 0, "pre", channels[kd_rng_below(&r, 4)], 3, 1, ref_pad1, 1, false,
                          KD_INIT_HE_NORMAL);
    int kept[16], n_kept = 0;
    for (int i = 0; i < 9; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        const int c = g->nodes[x].c, smaller = KD_MIN(g->nodes[x].h, g->nodes[x].w);
        switch (kd_rng_below(&r, 9)) {
        case 0:
        case 1:
            x = kd_graph_conv(g, x, name, channels[kd_rng_below(&r, 4)], 3,
                              1 + (int)kd_rng_below(&r, 2), ref_pad1, 1, kd_rng_below(&r, 2) == 0,
                              KD_INIT_HE_NORMAL);
            break;
        case 2:
            x = kd_graph_conv(g, x, name, c, 3, 1, ref_pad1, c, true, KD_INIT_HE_NORMAL);
            break;
        case 3:
            x = ref_conv_bn(g, x, name, c, 1, ref_pad0, 1);
            break;
        case 4:
            if (smaller >= 2)
                x = kd_graph_batch_norm(g, x, name, 1e-2F);
            break;
        case 5:
            x = kd_graph_relu(g, x);
            break;
        case 6:
            x = kd_graph_relu6(g, x);
            break;
        case 7:
            if (smaller >= 4)
                x = kd_graph_max_pool(g, x, 2);
            break;
        default:
            for (int k = 0; k < n_kept; k++) {
                const kd_node *a = &g->nodes[kept[k]], *b = &g->nodes[x];
                if (a->h == b->h && a->w == b->w && a->c == b->c) {
                    x = kd_graph_add(g, kept[k], x);
                    break;
                }
            }
            break;
        }
        kept[n_kept++] = x;
    }
    return ref_net_of("random", g, ref_head(g, x), 4);
}

#endif
