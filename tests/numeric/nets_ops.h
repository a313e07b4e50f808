/* A net for each operator of imported networks and its corners, in four settings: channels that
 * fill no block of a layout, alone in a batch or not, its values read once (so that it is fused
 * where it can be) or by others too. */
#ifndef KD_TESTS_NETS_OPS_H
#define KD_TESTS_NETS_OPS_H

#include "nets.h"

typedef struct ops_net {
    const char *name;
    int (*build)(kd_graph *g, int x); /* behind x [6,5,c]; returns the operator's node */
} ops_net;

static inline int ops_conv(kd_graph *g, int x, const char *name, int c)
{
    return kd_graph_conv(g, x, name, c, 3, 1, ref_pad1, 1, true, KD_INIT_HE_NORMAL);
}

static inline int ops_batch_norm(kd_graph *g, int x)
{
    return kd_graph_batch_norm(g, x, "op_bn", 1e-3F);
}

#define OPS_NET(name, ...)                                                                         \
    static inline int ops_##name(kd_graph *g, int x)                                               \
    {                                                                                              \
        const int c = g->nodes[x].c;                                                               \
        (void)c;                                                                                   \
        __VA_ARGS__                                                                                \
    }

/* ---- activations */
OPS_NET(sigmoid, return kd_graph_sigmoid(g, x);)
OPS_NET(silu, return kd_graph_silu(g, x);)
OPS_NET(tanh, return kd_graph_tanh(g, x);)
OPS_NET(leaky_relu, return kd_graph_leaky_relu(g, x, 0.1F);)
OPS_NET(leaky_relu_falling, return kd_graph_leaky_relu(g, x, -0.5F);)
OPS_NET(clip, return kd_graph_clip(g, x, -0.3F, 0.7F);)
OPS_NET(clip_above_zero, return kd_graph_clip(g, x, 0.2F, INFINITY);)
OPS_NET(hard_sigmoid, return kd_graph_hard_sigmoid(g, x, 0.4F, 0.6F);)
OPS_NET(hard_swish, return kd_graph_hard_swish(g, kd_graph_add(g, x, kd_graph_add(g, x, x)));)
OPS_NET(bn_silu, return kd_graph_silu(g, ops_batch_norm(g, x));)
OPS_NET(bn_sigmoid, return kd_graph_sigmoid(g, ops_batch_norm(g, x));)
OPS_NET(bn_hard_swish, return kd_graph_hard_swish(g, ops_batch_norm(g, x));)
OPS_NET(conv_bn_silu, return kd_graph_silu(g, ops_batch_norm(g, ops_conv(g, x, "op", 20)));)
OPS_NET(bn_relu6, return kd_graph_relu6(g, ops_batch_norm(g, x));)
OPS_NET(bn_clip, return kd_graph_clip(g, ops_batch_norm(g, x), -0.3F, 0.7F);)
OPS_NET(bn_clip_above_zero, return kd_graph_clip(g, ops_batch_norm(g, x), 0.2F, INFINITY);)
OPS_NET(bn_sum, return kd_graph_add(g, ops_batch_norm(g, ops_conv(g, x, "op", c)), x);)
OPS_NET(bn_sum_relu,
        return kd_graph_relu(g, kd_graph_add(g, ops_batch_norm(g, ops_conv(g, x, "op", c)), x));)
OPS_NET(bn_sum_silu,
        return kd_graph_silu(g, kd_graph_add(g, x, ops_batch_norm(g, ops_conv(g, x, "op", c))));)
OPS_NET(bn_sum_tanh,
        return kd_graph_tanh(g, kd_graph_add(g, x, ops_batch_norm(g, ops_conv(g, x, "op", c))));)
OPS_NET(bn_sum_itself, return kd_graph_relu(g, kd_graph_add(g, x, ops_batch_norm(g, x)));)
OPS_NET(depthwise_bn_silu,
        x = kd_graph_conv(g, x, "op", c, 3, 2, ref_pad1, c, false, KD_INIT_HE_NORMAL);
        return kd_graph_silu(g, ops_batch_norm(g, x));)
OPS_NET(silu_of_input, return kd_graph_concat(g, kd_graph_silu(g, 0), x, KD_AXIS_C);)
OPS_NET(silu_twice, return kd_graph_silu(g, kd_graph_silu(g, x));)
OPS_NET(sum_tanh, return kd_graph_tanh(g, kd_graph_add(g, x, ops_conv(g, x, "op", c)));)
OPS_NET(dense_silu,
        x = kd_graph_dense(g, kd_graph_flatten(g, x), "op", 19, false, KD_INIT_GLOROT_UNIFORM);
        return kd_graph_silu(g, x);)
OPS_NET(dense_sigmoid,
        x = kd_graph_dense(g, kd_graph_flatten(g, x), "op", 19, false, KD_INIT_GLOROT_UNIFORM);
        return kd_graph_sigmoid(g, x);)
OPS_NET(softmax, return kd_graph_softmax(g, x);)
OPS_NET(softmax_flat, return kd_graph_softmax(g, kd_graph_flatten(g, x));)
OPS_NET(softmax_clip, return kd_graph_clip(g, kd_graph_softmax(g, x), 0.02F, 0.2F);)

/* ---- pools */
static inline int ops_pool(kd_graph *g, int x, bool average, bool count_pad, const int *geometry)
{
    kd_pool_spec spec = {.average = average,
                         .count_pad = count_pad,
                         .kernel_h = geometry[0],
                         .kernel_w = geometry[1],
                         .stride_h = geometry[2],
                         .stride_w = geometry[3]};
    memcpy(spec.pad, geometry + 4, sizeof spec.pad);
    return kd_graph_pool(g, x, &spec);
}

static const int ops_square[8] = {3, 3, 2, 2, 1, 1, 1, 1}, ops_uneven[8] = {2, 3, 1, 2, 1, 2, 0, 1},
                 ops_apart[8] = {1, 2, 3, 2, 0, 0, 0, 1}, ops_half[8] = {2, 2, 2, 2, 0, 0, 0, 0};

OPS_NET(avg_pool, return ops_pool(g, x, true, false, ops_half);)
OPS_NET(avg_pool_values, return ops_pool(g, x, true, false, ops_uneven);)
OPS_NET(avg_pool_padding, return ops_pool(g, x, true, true, ops_uneven);)
OPS_NET(avg_pool_square, return ops_pool(g, x, true, false, ops_square);)
OPS_NET(max_pool, return ops_pool(g, x, false, false, ops_square);)
OPS_NET(max_pool_uneven, return ops_pool(g, x, false, false, ops_uneven);)
OPS_NET(max_pool_apart, return ops_pool(g, x, false, false, ops_apart);)
OPS_NET(relu_max_pool, return ops_pool(g, kd_graph_relu(g, x), false, false, ops_square);)
OPS_NET(bn_relu_max_pool, x = kd_graph_relu(g, ops_batch_norm(g, x));
        return ops_pool(g, x, false, false, ops_square);)
OPS_NET(sigmoid_max_pool, return ops_pool(g, kd_graph_sigmoid(g, x), false, false, ops_square);)

/* ---- convolutions */
static inline int ops_conv2(kd_graph *g, int x, int out, int groups, const int *geometry, bool bias)
{
    kd_conv_spec spec = {.out_channels = out,
                         .kernel_h = geometry[0],
                         .kernel_w = geometry[1],
                         .stride_h = geometry[2],
                         .stride_w = geometry[3],
                         .dilation_h = geometry[4],
                         .dilation_w = geometry[5],
                         .groups = groups,
                         .bias = bias,
                         .init = KD_INIT_HE_NORMAL};
    memcpy(spec.pad, geometry + 6, sizeof spec.pad);
    return kd_graph_conv2(g, x, "op", &spec);
}

static const int ops_row[10] = {1, 5, 1, 1, 1, 1, 0, 2, 0, 2},
                 ops_column[10] = {3, 1, 1, 2, 1, 1, 1, 0, 1, 0},
                 ops_dilated[10] = {3, 3, 1, 1, 2, 2, 2, 2, 2, 2},
                 ops_dilated_uneven[10] = {3, 2, 2, 1, 2, 3, 3, 0, 1, 2},
                 ops_wide_pad[10] = {1, 1, 1, 2, 1, 1, 1, 2, 0, 1};

OPS_NET(conv_row, return ops_conv2(g, x, 18, 1, ops_row, true);)
OPS_NET(conv_column, return ops_conv2(g, x, 7, 1, ops_column, false);)
OPS_NET(conv_dilated, return ops_conv2(g, x, 16, 1, ops_dilated, true);)
OPS_NET(conv_dilated_uneven, return ops_conv2(g, x, 5, 1, ops_dilated_uneven, true);)
OPS_NET(conv_dilated_groups, return ops_conv2(g, x, 10, 5, ops_dilated, true);)
OPS_NET(depthwise_row, return ops_conv2(g, x, c, c, ops_row, true);)
OPS_NET(depthwise_dilated, return ops_conv2(g, x, c, c, ops_dilated, false);)
OPS_NET(depthwise_5x5, const int five[10] = {5, 5, 1, 1, 1, 1, 2, 2, 2, 2};
        return ops_conv2(g, x, c, c, five, true);)
OPS_NET(depthwise_7x5_stride, const int seven[10] = {7, 5, 2, 3, 1, 1, 2, 4, 3, 1};
        return ops_conv2(g, x, c, c, seven, false);)
OPS_NET(depthwise_dilated_stride, const int wide[10] = {2, 4, 2, 1, 3, 2, 3, 5, 0, 6};
        return ops_conv2(g, x, c, c, wide, true);)
OPS_NET(conv_wide_pad, return ops_conv2(g, x, 6, 1, ops_wide_pad, true);)
OPS_NET(conv_row_bn_tanh,
        return kd_graph_tanh(g, ops_batch_norm(g, ops_conv2(g, x, 9, 1, ops_row, true)));)

/* ---- arithmetic */
static inline int ops_const(kd_graph *g, const char *name, int h, int w, int c)
{
    return kd_graph_const(g, name, h, w, c, KD_INIT_ONE);
}

static inline int ops_rows(kd_graph *g, int x) /* [h,1,c] */
{
    const int row[8] = {1, g->nodes[x].w, 1, 1, 0, 0, 0, 0};
    return ops_pool(g, x, true, false, row);
}

static inline int ops_columns(kd_graph *g, int x) /* [1,w,c] */
{
    const int column[8] = {g->nodes[x].h, 1, 1, 1, 0, 0, 0, 0};
    return ops_pool(g, x, true, false, column);
}

static inline int ops_excite(kd_graph *g, int x)
{
    const int c = g->nodes[x].c;
    int s = kd_graph_global_avg_pool(g, x);
    s = kd_graph_conv(g, s, "squeeze", 3, 1, 1, ref_pad0, 1, true, KD_INIT_HE_NORMAL);
    s = kd_graph_conv(g, kd_graph_silu(g, s), "excite", c, 1, 1, ref_pad0, 1, true,
                      KD_INIT_HE_NORMAL);
    return kd_graph_mul(g, kd_graph_sigmoid(g, s), x);
}

OPS_NET(add_channels, return kd_graph_add(g, x, kd_graph_global_avg_pool(g, x));)
OPS_NET(add_first_channels, return kd_graph_add(g, kd_graph_global_avg_pool(g, x), x);)
OPS_NET(add_const, return kd_graph_add(g, ops_conv(g, x, "op", c), ops_const(g, "k", 6, 5, c));)
OPS_NET(add_const_first, x = ops_conv(g, x, "op", c);
        return kd_graph_relu(g, kd_graph_add(g, ops_const(g, "k", 6, 5, c), x));)
OPS_NET(const_relu, x = kd_graph_add(g, x, kd_graph_sigmoid(g, ops_const(g, "k", 6, 1, c)));
        return kd_graph_tanh(g, x);)
OPS_NET(sub, return kd_graph_sub(g, x, ops_conv(g, x, "op", c));)
OPS_NET(sub_scalar, return kd_graph_sub(g, ops_const(g, "k", 1, 1, 1), x);)
OPS_NET(sub_rows, return kd_graph_sub(g, x, ops_rows(g, x));)
OPS_NET(mul, return kd_graph_mul(g, ops_conv(g, x, "op", c), x);)
OPS_NET(mul_self, return kd_graph_mul(g, x, x);)
OPS_NET(mul_excite, return ops_excite(g, x);)
OPS_NET(mul_channels_second, return kd_graph_mul(g, x, kd_graph_global_avg_pool(g, x));)
OPS_NET(mul_mask, return kd_graph_mul(g, x, kd_graph_sigmoid(g, ops_conv(g, x, "op", 1)));)
OPS_NET(mul_columns, return kd_graph_mul(g, ops_columns(g, x), x);)
OPS_NET(mul_outer, return kd_graph_mul(g, ops_columns(g, x), ops_rows(g, x));)
OPS_NET(mul_const, return kd_graph_mul(g, x, ops_const(g, "k", 1, 1, c));)
OPS_NET(mul_activated, x = kd_graph_mul(g, ops_conv(g, x, "op", c), kd_graph_sigmoid(g, x));
        return kd_graph_leaky_relu(g, x, 0.2F);)
OPS_NET(div, return kd_graph_div(g, x, kd_graph_sigmoid(g, ops_conv(g, x, "op", c)));)
OPS_NET(div_const, return kd_graph_div(g, x, ops_const(g, "k", 1, 1, c));)
OPS_NET(div_by_channels,
        return kd_graph_div(g, x, kd_graph_sigmoid(g, kd_graph_global_avg_pool(g, x)));)
OPS_NET(div_of_scalar, return kd_graph_div(g, ops_const(g, "k", 1, 1, 1), kd_graph_sigmoid(g, x));)
OPS_NET(div_outer, return kd_graph_div(g, ops_columns(g, x), kd_graph_sigmoid(g, ops_rows(g, x)));)

/* ---- shapes */
OPS_NET(pad, return kd_graph_pad(g, x, (int[]){0, 1, 2}, (int[]){0, 0, 1}, 0);)
OPS_NET(pad_channels, return kd_graph_pad(g, x, (int[]){1, 0, 0}, (int[]){2, 1, 0}, -0.5F);)
OPS_NET(concat_channels, return kd_graph_concat(g, x, ops_conv(g, x, "op", 3), KD_AXIS_C);)
OPS_NET(concat_rows, return kd_graph_concat(g, ops_columns(g, x), x, KD_AXIS_H);)
OPS_NET(concat_columns, return kd_graph_concat(g, x, ops_rows(g, x), KD_AXIS_W);)
OPS_NET(concat_self, return kd_graph_concat(g, x, x, KD_AXIS_C);)
OPS_NET(concat_relu_conv,
        x = kd_graph_relu(g, kd_graph_concat(g, ops_conv(g, x, "op", 16), x, KD_AXIS_C));
        return ops_conv(g, x, "op2", 8);)
OPS_NET(slice, return kd_graph_slice(g, x, (int[]){1, 0, 2}, (int[]){4, 6, 5}, (int[]){1, 1, 1});)
OPS_NET(slice_steps,
        return kd_graph_slice(g, x, (int[]){0, 5, 4}, (int[]){c, -1, 0}, (int[]){2, -2, -3});)
OPS_NET(slice_halves,
        return kd_graph_sub(
            g, kd_graph_slice(g, x, (int[]){0, 0, 0}, (int[]){c, 3, 5}, (int[]){1, 1, 1}),
            kd_graph_slice(g, x, (int[]){0, 3, 0}, (int[]){c, 6, 5}, (int[]){1, 1, 1}));)
OPS_NET(reshape, return kd_graph_reshape(g, x, 3, 2 * c, 5);)
OPS_NET(reshape_conv, return ops_conv(g, kd_graph_reshape(g, x, c, 6, 5), "op", 4);)
OPS_NET(permute, return kd_graph_permute(g, x, (enum kd_axis[]){KD_AXIS_W, KD_AXIS_C, KD_AXIS_H});)
OPS_NET(permute_nhwc_flatten,
        x = kd_graph_permute(g, x, (enum kd_axis[]){KD_AXIS_H, KD_AXIS_W, KD_AXIS_C});
        return kd_graph_flatten(g, x);)
OPS_NET(shuffle, x = kd_graph_reshape(g, x, 5, 6, c);
        x = kd_graph_permute(g, x, (enum kd_axis[]){KD_AXIS_C, KD_AXIS_W, KD_AXIS_H});
        return ops_conv(g, x, "op", 6);)

/* ---- noise */
OPS_NET(dropout, return kd_graph_dropout(g, x, 0.4F);)
OPS_NET(dropout_relu, return kd_graph_relu(g, kd_graph_dropout(g, ops_conv(g, x, "op", c), 0.3F));)
OPS_NET(dropout_flat, return kd_graph_dropout(g, kd_graph_flatten(g, x), 0.5F);)
OPS_NET(dropout_zero, return kd_graph_dropout(g, x, 0);)
OPS_NET(drop_path, return kd_graph_drop_path(g, x, 0.5F);)
OPS_NET(drop_path_residual,
        return kd_graph_add(g, kd_graph_drop_path(g, ops_conv(g, x, "op", c), 0.6F), x);)

/* ---- blocks of known networks */
OPS_NET(mobile_block, int y = kd_graph_silu(g, ref_conv_bn(g, x, "expand", 24, 1, ref_pad0, 1));
        y = kd_graph_silu(g, ref_conv_bn(g, y, "depth", 24, 3, ref_pad1, 24));
        y = ref_conv_bn(g, ops_excite(g, y), "project", c, 1, ref_pad0, 1);
        return kd_graph_add(g, kd_graph_drop_path(g, y, 0.3F), x);)
OPS_NET(residual_block, int y = kd_graph_relu(g, ref_conv_bn(g, x, "one", 16, 3, ref_pad1, 1));
        y = ref_conv_bn(g, y, "two", c, 3, ref_pad1, 1);
        return kd_graph_relu(g, kd_graph_add(g, y, x));)
OPS_NET(hard_mobile_block,
        int y = kd_graph_hard_swish(g, ref_conv_bn(g, x, "expand", 16, 1, ref_pad0, 1));
        int s = ops_conv(g, kd_graph_global_avg_pool(g, y), "gate", 16);
        y = kd_graph_mul(g, y, kd_graph_hard_sigmoid(g, s, 1 / 6.0F, 0.5F));
        return ref_conv_bn(g, y, "project", c, 1, ref_pad0, 1);)

#define OPS_ROW(name)                                                                              \
    {                                                                                              \
#name, ops_##name                                                                          \
    }
static const ops_net ops_nets[] = {OPS_ROW(sigmoid),
                                   OPS_ROW(silu),
                                   OPS_ROW(tanh),
                                   OPS_ROW(leaky_relu),
                                   OPS_ROW(leaky_relu_falling),
                                   OPS_ROW(clip),
                                   OPS_ROW(clip_above_zero),
                                   OPS_ROW(hard_sigmoid),
                                   OPS_ROW(hard_swish),
                                   OPS_ROW(bn_silu),
                                   OPS_ROW(bn_sigmoid),
                                   OPS_ROW(bn_hard_swish),
                                   OPS_ROW(conv_bn_silu),
                                   OPS_ROW(bn_relu6),
                                   OPS_ROW(bn_clip),
                                   OPS_ROW(bn_clip_above_zero),
                                   OPS_ROW(bn_sum),
                                   OPS_ROW(bn_sum_relu),
                                   OPS_ROW(bn_sum_silu),
                                   OPS_ROW(bn_sum_tanh),
                                   OPS_ROW(bn_sum_itself),
                                   OPS_ROW(depthwise_bn_silu),
                                   OPS_ROW(silu_of_input),
                                   OPS_ROW(silu_twice),
                                   OPS_ROW(sum_tanh),
                                   OPS_ROW(dense_silu),
                                   OPS_ROW(dense_sigmoid),
                                   OPS_ROW(softmax),
                                   OPS_ROW(softmax_flat),
                                   OPS_ROW(softmax_clip),
                                   OPS_ROW(avg_pool),
                                   OPS_ROW(avg_pool_values),
                                   OPS_ROW(avg_pool_padding),
                                   OPS_ROW(avg_pool_square),
                                   OPS_ROW(max_pool),
                                   OPS_ROW(max_pool_uneven),
                                   OPS_ROW(max_pool_apart),
                                   OPS_ROW(relu_max_pool),
                                   OPS_ROW(bn_relu_max_pool),
                                   OPS_ROW(sigmoid_max_pool),
                                   OPS_ROW(conv_row),
                                   OPS_ROW(conv_column),
                                   OPS_ROW(conv_dilated),
                                   OPS_ROW(conv_dilated_uneven),
                                   OPS_ROW(conv_dilated_groups),
                                   OPS_ROW(depthwise_row),
                                   OPS_ROW(depthwise_dilated),
                                   OPS_ROW(depthwise_5x5),
                                   OPS_ROW(depthwise_7x5_stride),
                                   OPS_ROW(depthwise_dilated_stride),
                                   OPS_ROW(conv_wide_pad),
                                   OPS_ROW(conv_row_bn_tanh),
                                   OPS_ROW(add_channels),
                                   OPS_ROW(add_first_channels),
                                   OPS_ROW(add_const),
                                   OPS_ROW(add_const_first),
                                   OPS_ROW(const_relu),
                                   OPS_ROW(sub),
                                   OPS_ROW(sub_scalar),
                                   OPS_ROW(sub_rows),
                                   OPS_ROW(mul),
                                   OPS_ROW(mul_self),
                                   OPS_ROW(mul_excite),
                                   OPS_ROW(mul_channels_second),
                                   OPS_ROW(mul_mask),
                                   OPS_ROW(mul_columns),
                                   OPS_ROW(mul_outer),
                                   OPS_ROW(mul_const),
                                   OPS_ROW(mul_activated),
                                   OPS_ROW(div),
                                   OPS_ROW(div_const),
                                   OPS_ROW(div_by_channels),
                                   OPS_ROW(div_of_scalar),
                                   OPS_ROW(div_outer),
                                   OPS_ROW(pad),
                                   OPS_ROW(pad_channels),
                                   OPS_ROW(concat_channels),
                                   OPS_ROW(concat_rows),
                                   OPS_ROW(concat_columns),
                                   OPS_ROW(concat_self),
                                   OPS_ROW(concat_relu_conv),
                                   OPS_ROW(slice),
                                   OPS_ROW(slice_steps),
                                   OPS_ROW(slice_halves),
                                   OPS_ROW(reshape),
                                   OPS_ROW(reshape_conv),
                                   OPS_ROW(permute),
                                   OPS_ROW(permute_nhwc_flatten),
                                   OPS_ROW(shuffle),
                                   OPS_ROW(dropout),
                                   OPS_ROW(dropout_relu),
                                   OPS_ROW(dropout_flat),
                                   OPS_ROW(dropout_zero),
                                   OPS_ROW(drop_path),
                                   OPS_ROW(drop_path_residual),
                                   OPS_ROW(mobile_block),
                                   OPS_ROW(residual_block),
                                   OPS_ROW(hard_mobile_block)};

static const struct ops_setting {
    int channels, batch;
    bool shared;
} ops_settings[] = {{5, 3, false}, {20, 1, false}, {20, 3, true}, {5, 1, true}};

static inline int ops_head(kd_graph *g, int x, const char *name)
{
    return kd_graph_dense(g, kd_graph_flatten(g, x), name, 3, true, KD_INIT_GLOROT_UNIFORM);
}

static inline ref_net ops_net_make(const ops_net *net, const struct ops_setting *setting)
{
    kd_graph *g = kd_graph_new(6, 5, 3);
    const int x =
        kd_graph_conv(g, 0, "pre", setting->channels, 1, 1, ref_pad0, 1, true, KD_INIT_HE_NORMAL);
    const int y = net->build(g, x);
    int z = ops_head(g, y, "head");
    if (setting->shared) {
        z = kd_graph_add(g, z, ops_head(g, x, "head_of_input"));
        z = kd_graph_add(g, ops_head(g, y, "other_head"), z);
    }
    ref_net made = ref_net_of(net->name, g, z, setting->batch);
    made.slopes = 10;
    return made;
}

#endif
