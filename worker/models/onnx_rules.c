/* What operators on shapes do to dims, read from the current node: the same for tensors that are
 * known and for those that are computed. */
#include "models/onnx_internal.h"

static int total(kd_onnx_ctx *c, int rank, const int64_t *dim, size_t *out)
{
    return kd_onnx_count(rank, dim, out)
               ? 0
               : kd_onnx_fail(c, -KD_ELIMIT, "works on a tensor that is too large");
}

int kd_onnx_rule_reshape(kd_onnx_ctx *c, int rank, const int64_t *dim, int *out_rank,
                         int64_t *out_dim)
{
    const int64_t *shape;
    size_t n, have, want = 1;
    int64_t allow_zero;
    int open = -1;
    int rc = kd_onnx_in_ints(c, 1, "shape", &shape, &n);
    if (!rc)
        rc = kd_onnx_attr_int(c, "allowzero", 0, &allow_zero);
    if (!rc)
        rc = total(c, rank, dim, &have);
    if (!rc && n > KD_ONNX_MAX_RANK)
        rc = kd_onnx_fail(c, -KD_ELIMIT, "a shape of %zu axes", n);
    for (size_t i = 0; !rc && i < n; i++) {
        int64_t v = shape[i];
        if (v == 0 && !allow_zero) {
            if ((int)i >= rank)
                return kd_onnx_fail(c, -KD_EDATA, "axis %zu is to stay as it is, but is none", i);
            v = dim[i];
        }
        if (v < -1 || (v == -1 && open >= 0))
            return kd_onnx_fail(c, -KD_EDATA, "a shape with %lld%s", (long long)v,
                                v == -1 ? " twice" : "");
        if (v == -1)
            open = (int)i;
        else if (!kd_mul_size(want, (size_t)v, &want) || want > have)
            return kd_onnx_fail(c, -KD_EDATA, "%zu values do not fit the shape", have);
        out_dim[i] = v;
    }
    if (rc)
        return rc;
    if (open >= 0) {
        out_dim[open] = want ? (int64_t)(have / want) : 0;
        want *= (size_t)out_dim[open];
    }
    if (want != have)
        return kd_onnx_fail(c, -KD_EDATA, "%zu values do not fit a shape of %zu", have, want);
    *out_rank = (int)n;
    return 0;
}

int kd_onnx_rule_flatten(kd_onnx_ctx *c, int rank, const int64_t *dim, int *out_rank,
                         int64_t *out_dim)
{
    int64_t axis;
    size_t first, second;
    int rc = kd_onnx_attr_int(c, "axis", 1, &axis);
    if (rc)
        return rc;
    if (axis < -rank || axis > rank)
        return kd_onnx_fail(c, -KD_EDATA, "axis %lld of a tensor with %d", (long long)axis, rank);
    const int at = (int)(axis < 0 ? axis + rank : axis);
    if ((rc = total(c, at, dim, &first)) || (rc = total(c, rank - at, dim + at, &second)))
        return rc;
    *out_rank = 2;
    out_dim[0] = (int64_t)first;
    out_dim[1] = (int64_t)second;
    return 0;
}

int kd_onnx_rule_squeeze(kd_onnx_ctx *c, int rank, const int64_t *dim, int keep, int *out_rank,
                         int *from)
{
    int axes[KD_ONNX_MAX_RANK], n;
    int rc = kd_onnx_axes(c, 1, rank, axes, &n);
    bool gone[KD_ONNX_MAX_RANK] = {false};
    for (int i = 0; !rc && i < n; i++) {
        gone[axes[i]] = true;
        if (dim[axes[i]] != 1)
            rc = kd_onnx_fail(c, -KD_EDATA, "axis %d has length %lld and cannot be left out",
                              axes[i], (long long)dim[axes[i]]);
    }
    *out_rank = 0;
    for (int a = 0; a < rank; a++)
        if (n ? !gone[a] : dim[a] != 1 || a == keep)
            from[(*out_rank)++] = a;
    return rc;
}

int kd_onnx_rule_unsqueeze(kd_onnx_ctx *c, int rank, int *out_rank, int *from)
{
    const int64_t *list;
    size_t n;
    int rc = kd_onnx_attr_ints(c, "axes", &list, &n);
    if (!rc && !list)
        rc = kd_onnx_in_ints(c, 1, "axes", &list, &n);
    if (!rc && n + (size_t)rank > KD_ONNX_MAX_RANK)
        rc = kd_onnx_fail(c, -KD_ELIMIT, "gives more than %d axes", KD_ONNX_MAX_RANK);
    if (rc)
        return rc;
    const int all = rank + (int)n;
    bool fresh[KD_ONNX_MAX_RANK] = {false};
    for (size_t i = 0; i < n; i++) {
        int a;
        rc = kd_onnx_axis(c, list[i], all, &a);
        if (!rc && fresh[a])
            rc = kd_onnx_fail(c, -KD_EDATA, "axis %d comes twice", a);
        if (rc)
            return rc;
        fresh[a] = true;
    }
    int next = 0;
    for (int a = 0; a < all; a++)
        from[a] = fresh[a] ? -1 : next++;
    *out_rank = all;
    return 0;
}

int kd_onnx_rule_transpose(kd_onnx_ctx *c, int rank, int *from)
{
    const int64_t *perm;
    size_t n;
    int rc = kd_onnx_attr_ints(c, "perm", &perm, &n);
    if (rc)
        return rc;
    if (perm && n != (size_t)rank)
        return kd_onnx_fail(c, -KD_EDATA, "%zu axes in perm, the tensor has %d", n, rank);
    unsigned seen = 0;
    for (int a = 0; a < rank; a++) {
        from[a] = rank - 1 - a;
        if (perm && (rc = kd_onnx_axis(c, perm[a], rank, &from[a])))
            return rc;
        seen |= 1u << from[a];
    }
    return seen == (1u << rank) - 1 ? 0 : kd_onnx_fail(c, -KD_EDATA, "perm names an axis twice");
}

/* One list of a slice: an attribute until opset 9, then an input. */
static int slice_list(kd_onnx_ctx *c, const char *attr, size_t input, const int64_t **out,
                      size_t *out_n)
{
    *out = NULL;
    *out_n = 0;
    if (c->opset < 10)
        return kd_onnx_attr_ints(c, attr, out, out_n);
    return kd_onnx_in(c, input) ? kd_onnx_in_ints(c, input, attr, out, out_n) : 0;
}

int kd_onnx_rule_slice(kd_onnx_ctx *c, int rank, const int64_t *dim, int64_t *start, int64_t *step,
                       int64_t *length)
{
    const int64_t *starts, *ends, *axes, *steps = NULL;
    size_t n, n_ends, n_axes, n_steps = 0;
    int rc;
    if ((rc = slice_list(c, "starts", 1, &starts, &n)) ||
        (rc = slice_list(c, "ends", 2, &ends, &n_ends)) ||
        (rc = slice_list(c, "axes", 3, &axes, &n_axes)) ||
        (c->opset >= 10 && (rc = slice_list(c, "steps", 4, &steps, &n_steps))))
        return rc;
    if (n == 0 || n != n_ends || n > (size_t)rank || (axes && n_axes != n) ||
        (steps && n_steps != n))
        return kd_onnx_fail(c, -KD_EDATA, "starts, ends, axes and steps do not belong together");
    for (int a = 0; a < rank; a++) {
        start[a] = 0;
        step[a] = 1;
        length[a] = dim[a];
    }
    unsigned seen = 0;
    for (size_t i = 0; i < n; i++) {
        int a = (int)i;
        if (axes && (rc = kd_onnx_axis(c, axes[i], rank, &a)))
            return rc;
        if (seen & 1u << a)
            return kd_onnx_fail(c, -KD_EDATA, "axis %d is sliced twice", a);
        seen |= 1u << a;
        /* As numpy: negative ones count from the end, those too far are moved to it. */
        int64_t d = dim[a], by = steps ? steps[i] : 1, s = starts[i], e = ends[i];
        if (by == 0 || by == INT64_MIN)
            return kd_onnx_fail(c, -KD_EDATA, "a slice by steps of %lld", (long long)by);
        s = s < 0 ? KD_MAX(s, -d - 1) + d : s;
        e = e < 0 ? KD_MAX(e, -d - 1) + d : e;
        s = by > 0 ? KD_MIN(KD_MAX(s, 0), d) : KD_MIN(KD_MAX(s, -1), d - 1);
        e = by > 0 ? KD_MIN(KD_MAX(e, 0), d) : KD_MIN(KD_MAX(e, -1), d - 1);
        int64_t span = by > 0 ? e - s : s - e;
        start[a] = s;
        step[a] = by;
        length[a] = span <= 0 ? 0 : (span - 1) / (by > 0 ? by : -by) + 1;
    }
    return 0;
}
