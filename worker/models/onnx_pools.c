/* Pools and means. */
#include "models/onnx_internal.h"

/* Places that rounding up adds behind an axis. Windows that would begin behind the values and the
 * padding before them are left out, as PyTorch and ONNX Runtime do. */
static int ceil_extra(int64_t in, int before, int after, int kernel, int stride)
{
    const int64_t span = in + before + after - kernel;
    if (span < 0)
        return 0;
    int64_t out = (span + stride - 1) / stride + 1;
    if ((out - 1) * stride >= in + before)
        out--;
    const int64_t need = (out - 1) * stride + kernel - (in + before + after);
    return (int)KD_MAX(need, 0);
}

int kd_onnx_pool(kd_onnx_ctx *c)
{
    const bool average = c->node->op_type[0] == 'A';
    const kd_onnx_dyn *d;
    kd_onnx_groups groups;
    kd_onnx_window_t w;
    const int64_t *kernel;
    size_t n_kernel;
    int64_t ceil_mode, count_pad, order;
    int node, rc;
    if ((rc = kd_onnx_only_attrs(c, average ? "auto_pad ceil_mode kernel_shape pads strides "
                                              "count_include_pad dilations"
                                            : "auto_pad ceil_mode kernel_shape pads strides "
                                              "storage_order dilations")) ||
        (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_attr_ints(c, "kernel_shape", &kernel, &n_kernel)) ||
        (rc = kd_onnx_attr_int(c, "ceil_mode", 0, &ceil_mode)) ||
        (rc = kd_onnx_attr_int(c, "count_include_pad", 0, &count_pad)) ||
        (rc = kd_onnx_attr_int(c, "storage_order", 0, &order)) ||
        (rc = kd_onnx_image(c, d, &groups, &node)))
        return rc;
    if (!kernel || n_kernel != 2)
        return kd_onnx_fail(c, -KD_EDATA, "kernel_shape does not have two sides");
    if ((rc = kd_onnx_window(c, d, kernel, &w)))
        return rc;
    if (w.dilation[0] != 1 || w.dilation[1] != 1)
        return kd_onnx_fail(c, -KD_EUNSUP, "the attribute dilations is not supported");
    int extra[2] = {0, 0};
    for (int i = 0; i < 2 && ceil_mode; i++)
        extra[i] = ceil_extra(d->dim[2 + i], w.pad[i], w.pad[2 + i], w.kernel[i], w.stride[i]);
    kd_pool_spec spec = {.average = average,
                         .count_pad = count_pad != 0,
                         .kernel_h = w.kernel[0],
                         .kernel_w = w.kernel[1],
                         .stride_h = w.stride[0],
                         .stride_w = w.stride[1]};
    if (average && count_pad && (extra[0] || extra[1])) {
        /* Padding counts, but what rounding up adds does not. */
        const int before[3] = {0, w.pad[0], w.pad[1]}, after[3] = {0, w.pad[2], w.pad[3]};
        node = kd_graph_pad(c->g, node, before, after, 0);
        memset(w.pad, 0, sizeof w.pad);
        spec.count_pad = false;
    }
    w.pad[2] += extra[0];
    w.pad[3] += extra[1];
    memcpy(spec.pad, w.pad, sizeof spec.pad);
    kd_onnx_dyn out;
    kd_onnx_made_image(c, d, kd_graph_pool(c->g, node, &spec), &out);
    return kd_onnx_out_dyn(c, 0, &out);
}

/* The mean over some axes. */
static int mean(kd_onnx_ctx *c, const kd_onnx_dyn *d, const bool *gone, bool keep)
{
    kd_onnx_groups lie, groups = {{0}, {{0}}};
    int node, rc;
    for (int a = 0; a < d->rank; a++) {
        if (a == d->batch && gone[a])
            return kd_onnx_fail(c, -KD_EUNSUP, "works across the batch");
        if (a == d->batch || d->dim[a] == 1)
            continue;
        const int g = gone[a] ? 1 : 0;
        groups.axis[g][groups.n[g]++] = a;
    }
    if (kd_onnx_groups_of(c, d, &lie)) {
        bool same = true; /* the node's height and width are just what goes */
        for (int g = 0; g < 3; g++)
            for (int i = 0; i < lie.n[g]; i++)
                same &= gone[lie.axis[g][i]] == (g > 0);
        if (same)
            groups = lie;
    }
    if ((rc = kd_onnx_arrange(c, d, &groups, &node)))
        return rc;
    kd_onnx_dyn out = *d;
    int from[KD_ONNX_MAX_RANK], n = 0;
    for (int a = 0; a < d->rank; a++) {
        if (gone[a])
            out.dim[a] = 1;
        if (!gone[a] || keep)
            from[n++] = a;
    }
    groups.n[1] = groups.n[2] = 0;
    kd_onnx_settle(&out, kd_graph_global_avg_pool(c->g, node), &groups);
    kd_onnx_remap(&out, n, from);
    return kd_onnx_out_dyn(c, 0, &out);
}

int kd_onnx_global_pool(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    bool gone[KD_ONNX_MAX_RANK] = {false};
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "")) || (rc = kd_onnx_in_dyn(c, 0, &d)))
        return rc;
    if (strcmp(c->node->op_type, "GlobalMaxPool") == 0) {
        kd_onnx_groups groups;
        int node;
        if ((rc = kd_onnx_image(c, d, &groups, &node)))
            return rc;
        const kd_pool_spec spec = {.kernel_h = (int)d->dim[2], .kernel_w = (int)d->dim[3]};
        kd_onnx_dyn out;
        kd_onnx_made_image(c, d, kd_graph_pool(c->g, node, &spec), &out);
        return kd_onnx_out_dyn(c, 0, &out);
    }
    if (d->rank < 3 || d->batch > 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "works on %d axes; [N,C,...] is read", d->rank);
    for (int a = 2; a < d->rank; a++)
        gone[a] = true;
    return mean(c, d, gone, true);
}

int kd_onnx_reduce_mean(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int axes[KD_ONNX_MAX_RANK], n, rc;
    int64_t keep, idle;
    bool gone[KD_ONNX_MAX_RANK] = {false};
    if ((rc = kd_onnx_only_attrs(c, "axes keepdims noop_with_empty_axes")) ||
        (rc = kd_onnx_in_dyn(c, 0, &d)) || (rc = kd_onnx_axes(c, 1, d->rank, axes, &n)) ||
        (rc = kd_onnx_attr_int(c, "keepdims", 1, &keep)) ||
        (rc = kd_onnx_attr_int(c, "noop_with_empty_axes", 0, &idle)))
        return rc;
    if (n == 0 && idle)
        return kd_onnx_out_dyn(c, 0, d);
    for (int a = 0; a < d->rank; a++)
        gone[a] = n == 0;
    for (int i = 0; i < n; i++)
        gone[axes[i]] = true;
    return mean(c, d, gone, keep != 0);
}
