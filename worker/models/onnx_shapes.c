/* Reshaping, joining, cutting, padding of computed tensors. */
#include "models/onnx_internal.h"

#include <math.h>

/* ---- what only renames axes */

static int reshaped(kd_onnx_ctx *c, const kd_onnx_dyn *d, int rank, const int64_t *dim)
{
    kd_onnx_dyn out;
    int rc = kd_onnx_straighten(c, d, &out);
    if (rc)
        return rc;
    if (d->batch == 0 && (rank < 1 || dim[0] != d->dim[0]))
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "gives a tensor whose first axis (%lld) is not the batch (%lld)",
                            rank < 1 ? 0LL : (long long)dim[0], (long long)d->dim[0]);
    out.rank = rank;
    out.n_order = 0;
    for (int a = 0; a < rank; a++) {
        out.dim[a] = dim[a];
        if (a != out.batch && dim[a] != 1)
            out.order[out.n_order++] = a;
    }
    return kd_onnx_out_dyn(c, 0, &out);
}

int kd_onnx_reshape(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int rank, rc;
    int64_t dim[KD_ONNX_MAX_RANK];
    if ((rc = kd_onnx_only_attrs(c, "allowzero")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_rule_reshape(c, d->rank, d->dim, &rank, dim)))
        return rc;
    return reshaped(c, d, rank, dim);
}

int kd_onnx_flatten(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int rank, rc;
    int64_t dim[KD_ONNX_MAX_RANK];
    if ((rc = kd_onnx_only_attrs(c, "axis")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_rule_flatten(c, d->rank, d->dim, &rank, dim)))
        return rc;
    return reshaped(c, d, rank, dim);
}

static int remapped(kd_onnx_ctx *c, const kd_onnx_dyn *d, int rank, const int *from)
{
    kd_onnx_dyn out = *d;
    kd_onnx_remap(&out, rank, from);
    if (d->batch >= 0 && out.batch < 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "takes the batch's axis away");
    return kd_onnx_out_dyn(c, 0, &out);
}

int kd_onnx_transpose(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int from[KD_ONNX_MAX_RANK], rc;
    if ((rc = kd_onnx_only_attrs(c, "perm")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_rule_transpose(c, d->rank, from)))
        return rc;
    return remapped(c, d, d->rank, from);
}

int kd_onnx_squeeze(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int from[KD_ONNX_MAX_RANK], rank, rc;
    if ((rc = kd_onnx_only_attrs(c, "axes")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_rule_squeeze(c, d->rank, d->dim, d->batch, &rank, from)))
        return rc;
    return remapped(c, d, rank, from);
}

int kd_onnx_unsqueeze(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int from[KD_ONNX_MAX_RANK], rank, rc;
    if ((rc = kd_onnx_only_attrs(c, "axes")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_rule_unsqueeze(c, d->rank, &rank, from)))
        return rc;
    return remapped(c, d, rank, from);
}

int kd_onnx_identity(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int rc = kd_onnx_in_dyn(c, 0, &d);
    return rc ? rc : kd_onnx_out_dyn(c, 0, d);
}

int kd_onnx_cast(kd_onnx_ctx *c)
{
    int64_t to;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "to saturate")) || (rc = kd_onnx_attr_int(c, "to", 0, &to)))
        return rc;
    if (to != KD_ONNX_FLOAT && to != KD_ONNX_DOUBLE && to != KD_ONNX_FLOAT16)
        return kd_onnx_fail(c, -KD_EUNSUP, "a cast of computed values to type %lld", (long long)to);
    return kd_onnx_identity(c);
}

/* ---- slices */

/* Kept elements of d: the same on each axis of `length` 1 step further. */
static int sliced(kd_onnx_ctx *c, size_t output, const kd_onnx_dyn *d, const int64_t *start,
                  const int64_t *step, const int64_t *length)
{
    bool alone[KD_ONNX_MAX_RANK] = {false}, any = false;
    for (int a = 0; a < d->rank; a++) {
        if (length[a] < 1)
            return kd_onnx_fail(c, -KD_EUNSUP, "leaves nothing of axis %d", a);
        alone[a] = length[a] != d->dim[a] || (step[a] != 1 && d->dim[a] != 1);
        any |= alone[a];
        if (alone[a] && a == d->batch)
            return kd_onnx_fail(c, -KD_EUNSUP, "works on the batch's axis");
    }
    if (!any)
        return kd_onnx_out_dyn(c, output, d);
    kd_onnx_groups groups;
    int node, rc;
    if ((rc = kd_onnx_groups_alone(c, d, alone, &groups)) ||
        (rc = kd_onnx_arrange(c, d, &groups, &node)))
        return rc;
    int first[3] = {0, 0, 0}, stop[3], by[3] = {1, 1, 1};
    for (int g = 0; g < 3; g++) {
        const int a = groups.axis[g][0];
        stop[g] = (int)kd_onnx_group_size(d->dim, &groups, g);
        if (groups.n[g] != 1 || !alone[a])
            continue;
        const int64_t last = start[a] + (length[a] - 1) * (length[a] > 1 ? step[a] : 0);
        first[g] = (int)start[a];
        by[g] = length[a] > 1 ? (int)step[a] : 1;
        stop[g] = (int)(by[g] > 0 ? last + 1 : last - 1);
    }
    kd_onnx_dyn out = *d;
    memcpy(out.dim, length, (size_t)d->rank * sizeof *length);
    kd_onnx_settle(&out, kd_graph_slice(c->g, node, first, stop, by), &groups);
    return kd_onnx_out_dyn(c, output, &out);
}

int kd_onnx_slice(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    int64_t start[KD_ONNX_MAX_RANK], step[KD_ONNX_MAX_RANK], length[KD_ONNX_MAX_RANK];
    int rc;
    if ((rc = kd_onnx_only_attrs(c, c->opset < 10 ? "starts ends axes" : "")) ||
        (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_rule_slice(c, d->rank, d->dim, start, step, length)))
        return rc;
    return sliced(c, 0, d, start, step, length);
}

int kd_onnx_split(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    const int64_t *sizes;
    size_t n, parts = c->node->n_output;
    int64_t axis, start[KD_ONNX_MAX_RANK] = {0}, step[KD_ONNX_MAX_RANK], length[KD_ONNX_MAX_RANK],
                  sum = 0;
    int at, rc;
    if ((rc = kd_onnx_only_attrs(c, "axis split num_outputs")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_attr_int(c, "axis", 0, &axis)) ||
        (rc = kd_onnx_axis(c, axis, d->rank, &at)) ||
        (rc = kd_onnx_attr_ints(c, "split", &sizes, &n)) ||
        (!sizes && kd_onnx_in(c, 1) && (rc = kd_onnx_in_ints(c, 1, "sizes", &sizes, &n))))
        return rc;
    if (parts < 1 || (sizes && n != parts))
        return kd_onnx_fail(c, -KD_EDATA, "%zu sizes for %zu parts", n, parts);
    const int64_t even = (d->dim[at] + (int64_t)parts - 1) / (int64_t)parts;
    for (int a = 0; a < d->rank; a++) {
        step[a] = 1;
        length[a] = d->dim[a];
    }
    for (size_t i = 0; i < parts; i++) {
        length[at] = sizes ? sizes[i] : KD_MIN(even, d->dim[at] - sum);
        if (length[at] < 1 || length[at] > d->dim[at] - sum)
            return kd_onnx_fail(c, -KD_EDATA, "parts that do not fit an axis of %lld",
                                (long long)d->dim[at]);
        start[at] = sum;
        sum += length[at];
        kd_onnx_value *v = kd_onnx_find(c, c->node->output[i]);
        if (v && v->needed && (rc = sliced(c, i, d, start, step, length)))
            return rc;
    }
    return sum == d->dim[at] ? 0
                             : kd_onnx_fail(c, -KD_EDATA, "parts that do not fill an axis of %lld",
                                            (long long)d->dim[at]);
}

/* ---- padding */

int kd_onnx_pad(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    const int64_t *pads;
    size_t n;
    char mode[16];
    float value;
    int axes[KD_ONNX_MAX_RANK], n_axes = 0, rc;
    if ((rc = kd_onnx_only_attrs(c, c->opset < 11 ? "mode pads value" : "mode")) ||
        (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = kd_onnx_attr_text(c, "mode", "constant", mode, sizeof mode)) ||
        (rc = kd_onnx_attr_float(c, "value", 0, &value)) ||
        (rc = c->opset < 11 ? kd_onnx_attr_ints(c, "pads", &pads, &n)
                            : kd_onnx_in_ints(c, 1, "pads", &pads, &n)) ||
        (rc = kd_onnx_in_scalar(c, 2, "value", value, &value)) ||
        (rc = kd_onnx_axes(c, 3, d->rank, axes, &n_axes)))
        return rc;
    if (strcmp(mode, "constant") != 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "mode %s is not supported", mode);
    if (n_axes == 0)
        for (; n_axes < d->rank; n_axes++)
            axes[n_axes] = n_axes;
    if (n != 2 * (size_t)n_axes || !isfinite(value))
        return kd_onnx_fail(c, -KD_EDATA, "%zu pads for %d axes, or a value that is not finite", n,
                            n_axes);
    int64_t before[KD_ONNX_MAX_RANK] = {0}, after[KD_ONNX_MAX_RANK] = {0};
    bool alone[KD_ONNX_MAX_RANK] = {false}, any = false;
    kd_onnx_dyn out = *d;
    for (int i = 0; i < n_axes; i++) {
        const int a = axes[i];
        before[a] = pads[i];
        after[a] = pads[i + n_axes];
        if (before[a] < 0 || after[a] < 0 || before[a] > 1 << 20 || after[a] > 1 << 20)
            return kd_onnx_fail(c, -KD_EUNSUP, "pads of %lld and %lld: only 0 to %d are read",
                                (long long)before[a], (long long)after[a], 1 << 20);
        alone[a] = before[a] || after[a];
        any |= alone[a];
        if (alone[a] && a == d->batch)
            return kd_onnx_fail(c, -KD_EUNSUP, "works on the batch's axis");
        out.dim[a] += before[a] + after[a];
    }
    if (!any)
        return kd_onnx_out_dyn(c, 0, d);
    kd_onnx_groups groups;
    int node;
    if ((rc = kd_onnx_groups_alone(c, d, alone, &groups)) ||
        (rc = kd_onnx_arrange(c, d, &groups, &node)))
        return rc;
    int first[3] = {0, 0, 0}, last[3] = {0, 0, 0};
    for (int g = 0; g < 3; g++)
        if (groups.n[g] == 1) {
            first[g] = (int)before[groups.axis[g][0]];
            last[g] = (int)after[groups.axis[g][0]];
        }
    kd_onnx_settle(&out, kd_graph_pad(c->g, node, first, last, value), &groups);
    return kd_onnx_out_dyn(c, 0, &out);
}

/* ---- joining */

/* An older joint of the same two, -1 = none: dense blocks join all that came before again and
 * again. */
static int find_joint(const kd_onnx_ctx *c, int a, int b, enum kd_axis axis)
{
    for (int i = KD_MAX(a, b) + 1; i < c->g->n_nodes; i++) {
        const kd_node *n = &c->g->nodes[i];
        if (n->op == KD_OP_CONCAT && n->in[0] == a && n->in[1] == b && n->axis == axis)
            return i;
    }
    return -1;
}

/* Does input i have the axes of `like`, all but one as long? Its length on that one. */
static int part_length(kd_onnx_ctx *c, size_t i, const kd_onnx_dyn *like, int at, int64_t *out)
{
    const kd_onnx_value *v = kd_onnx_in(c, i);
    if (!v)
        return kd_onnx_fail(c, -KD_EDATA, "input %zu is missing", i);
    const int rank = v->constant ? v->constant->rank : v->d.rank;
    const int64_t *dim = v->constant ? v->constant->dim : v->d.dim;
    bool fits = rank == like->rank && (v->constant || v->d.batch == like->batch);
    for (int a = 0; fits && a < rank; a++)
        fits =
            a == at || dim[a] == like->dim[a] || (v->constant && a == like->batch && dim[a] == 1);
    if (!fits || dim[at] < 1)
        return kd_onnx_fail(c, -KD_EDATA, "input %zu does not fit beside the others", i);
    *out = dim[at];
    return 0;
}

static int part_node(kd_onnx_ctx *c, size_t i, const kd_onnx_dyn *like, int at, int64_t length,
                     const kd_onnx_groups *groups, int *out_node)
{
    kd_onnx_value *v = kd_onnx_in(c, i);
    if (!v->constant)
        return kd_onnx_arrange(c, &v->d, groups, out_node);
    kd_onnx_dyn shape = *like;
    shape.dim[at] = length;
    return kd_onnx_const_node(c, v->constant, &shape, groups, out_node);
}

int kd_onnx_concat(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *like = NULL;
    int64_t axis, length = 0, sum = 0;
    int at, node, rc;
    for (size_t i = 0; i < c->node->n_input && !like; i++) {
        const kd_onnx_value *v = kd_onnx_in(c, i);
        like = v && !v->constant ? &v->d : NULL;
    }
    if (!like)
        return kd_onnx_fail(c, -KD_EDATA, "there is nothing to join");
    if ((rc = kd_onnx_only_attrs(c, "axis")) || (rc = kd_onnx_attr_int(c, "axis", 1, &axis)) ||
        (rc = kd_onnx_axis(c, axis, like->rank, &at)))
        return rc;
    if (at == like->batch)
        return kd_onnx_fail(c, -KD_EUNSUP, "works on the batch's axis");
    bool alone[KD_ONNX_MAX_RANK] = {false};
    kd_onnx_groups groups;
    alone[at] = true;
    if ((rc = kd_onnx_groups_alone(c, like, alone, &groups)))
        return rc;
    enum kd_axis side = KD_AXIS_C;
    for (int g = 0; g < 3; g++)
        if (groups.n[g] && groups.axis[g][0] == at)
            side = (enum kd_axis)g;
    int joint = -1;
    for (size_t i = 0; i < c->node->n_input; i++) {
        if ((rc = part_length(c, i, like, at, &length)) ||
            (rc = part_node(c, i, like, at, length, &groups, &node)))
            return rc;
        sum += length;
        int old = i ? find_joint(c, joint, node, side) : node;
        joint = old >= 0 ? old : kd_graph_concat(c->g, joint, node, side);
        if (joint < 0)
            return kd_onnx_fail(c, -KD_EDATA, "%s", c->g->error);
    }
    kd_onnx_dyn out = *like;
    out.dim[at] = sum;
    kd_onnx_settle(&out, joint, &groups);
    out.shared = c->node->n_input == 1 && like->shared;
    return kd_onnx_out_dyn(c, 0, &out);
}
