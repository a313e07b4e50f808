/* Operators on known tensors: what computes shapes, and what rearranges weights, is done once while
 * the model is read. */
#include "models/onnx_internal.h"

#include <math.h>
#include <stdlib.h>

/* ---- moving values: out[index] = in[offset + sum of index * stride], stride 0 repeats */

static void gather(const kd_onnx_const *in, int64_t offset, const int64_t *stride,
                   kd_onnx_const *out)
{
    int64_t index[KD_ONNX_MAX_RANK] = {0}, from = offset;
    for (size_t i = 0; i < out->count; i++) {
        if (out->integer)
            out->i[i] = in->i[from];
        else
            out->f[i] = in->f[from];
        for (int a = out->rank - 1; a >= 0; a--) {
            from += stride[a];
            if (++index[a] < out->dim[a])
                break;
            from -= stride[a] * out->dim[a];
            index[a] = 0;
        }
    }
}

static void strides_of(const kd_onnx_const *k, int64_t *stride)
{
    int64_t step = 1;
    for (int a = k->rank - 1; a >= 0; a--) {
        stride[a] = step;
        step *= k->dim[a];
    }
}

static int input(kd_onnx_ctx *c, size_t i, kd_onnx_const **out)
{
    int rc = kd_onnx_in_const(c, i, "operand", out);
    return rc ? rc : kd_onnx_const_load(c, *out);
}

/* The same values under other dims. */
static int with_dims(kd_onnx_ctx *c, const kd_onnx_const *in, int rank, const int64_t *dim)
{
    kd_onnx_const *out;
    int rc = kd_onnx_const_new(c, in->integer, rank, dim, &out);
    if (rc)
        return rc;
    KD_BUG_ON(out->count != in->count);
    if (in->count && in->integer)
        memcpy(out->i, in->i, in->count * sizeof *in->i);
    else if (in->count)
        memcpy(out->f, in->f, in->count * sizeof *in->f);
    return kd_onnx_out_const(c, 0, out);
}

static int fold_identity(kd_onnx_ctx *c)
{
    kd_onnx_const *in;
    int rc = kd_onnx_in_const(c, 0, "operand", &in);
    return rc ? rc : kd_onnx_out_const(c, 0, in);
}

static int fold_reshape(kd_onnx_ctx *c)
{
    kd_onnx_const *in;
    int rank;
    int64_t dim[KD_ONNX_MAX_RANK];
    int rc = input(c, 0, &in);
    if (!rc)
        rc = strcmp(c->node->op_type, "Flatten") == 0
                 ? kd_onnx_rule_flatten(c, in->rank, in->dim, &rank, dim)
                 : kd_onnx_rule_reshape(c, in->rank, in->dim, &rank, dim);
    return rc ? rc : with_dims(c, in, rank, dim);
}

static int fold_squeeze(kd_onnx_ctx *c)
{
    kd_onnx_const *in;
    int rank, from[KD_ONNX_MAX_RANK];
    int64_t dim[KD_ONNX_MAX_RANK];
    int rc = input(c, 0, &in);
    if (!rc)
        rc = strcmp(c->node->op_type, "Squeeze") == 0
                 ? kd_onnx_rule_squeeze(c, in->rank, in->dim, -1, &rank, from)
                 : kd_onnx_rule_unsqueeze(c, in->rank, &rank, from);
    if (rc)
        return rc;
    for (int a = 0; a < rank; a++)
        dim[a] = from[a] < 0 ? 1 : in->dim[from[a]];
    return with_dims(c, in, rank, dim);
}

static int fold_transpose(kd_onnx_ctx *c)
{
    kd_onnx_const *in, *out;
    int from[KD_ONNX_MAX_RANK];
    int64_t dim[KD_ONNX_MAX_RANK], stride[KD_ONNX_MAX_RANK], moved[KD_ONNX_MAX_RANK];
    int rc = input(c, 0, &in);
    if (!rc)
        rc = kd_onnx_rule_transpose(c, in->rank, from);
    if (rc)
        return rc;
    strides_of(in, stride);
    for (int a = 0; a < in->rank; a++) {
        dim[a] = in->dim[from[a]];
        moved[a] = stride[from[a]];
    }
    rc = kd_onnx_const_new(c, in->integer, in->rank, dim, &out);
    if (rc)
        return rc;
    gather(in, 0, moved, out);
    return kd_onnx_out_const(c, 0, out);
}

static int fold_slice(kd_onnx_ctx *c)
{
    kd_onnx_const *in, *out;
    int64_t start[KD_ONNX_MAX_RANK], step[KD_ONNX_MAX_RANK], length[KD_ONNX_MAX_RANK],
        stride[KD_ONNX_MAX_RANK], offset = 0;
    int rc = input(c, 0, &in);
    if (!rc)
        rc = kd_onnx_rule_slice(c, in->rank, in->dim, start, step, length);
    if (!rc)
        rc = kd_onnx_const_new(c, in->integer, in->rank, length, &out);
    if (rc)
        return rc;
    strides_of(in, stride);
    for (int a = 0; a < in->rank; a++) {
        offset += start[a] * stride[a];
        stride[a] *= length[a] > 1 ? step[a] : 0;
    }
    gather(in, offset, stride, out);
    return kd_onnx_out_const(c, 0, out);
}

static int fold_concat(kd_onnx_ctx *c)
{
    kd_onnx_const *first, *in, *out;
    int64_t axis, dim[KD_ONNX_MAX_RANK], sum = 0;
    int at, rc;
    if ((rc = input(c, 0, &first)) || (rc = kd_onnx_attr_int(c, "axis", 1, &axis)) ||
        (rc = kd_onnx_axis(c, axis, first->rank, &at)))
        return rc;
    for (size_t i = 0; i < c->node->n_input; i++) {
        if ((rc = input(c, i, &in)))
            return rc;
        bool fits = in->rank == first->rank && in->integer == first->integer;
        for (int a = 0; fits && a < in->rank; a++)
            fits = a == at || in->dim[a] == first->dim[a];
        if (!fits || __builtin_add_overflow(sum, in->dim[at], &sum))
            return kd_onnx_fail(c, -KD_EDATA, "input %zu does not fit beside the first", i);
    }
    memcpy(dim, first->dim, sizeof dim);
    dim[at] = sum;
    if ((rc = kd_onnx_const_new(c, first->integer, first->rank, dim, &out)))
        return rc;
    size_t outer = 1, inner = 1, done = 0;
    for (int a = 0; a < first->rank; a++)
        *(a < at ? &outer : &inner) *= a == at ? 1 : (size_t)first->dim[a];
    for (size_t i = 0; i < c->node->n_input; i++) {
        if ((rc = input(c, i, &in)))
            return rc;
        const size_t run = (size_t)in->dim[at] * inner, whole = (size_t)sum * inner;
        for (size_t o = 0; o < outer && run; o++)
            if (out->integer)
                memcpy(out->i + o * whole + done, in->i + o * run, run * sizeof *in->i);
            else
                memcpy(out->f + o * whole + done, in->f + o * run, run * sizeof *in->f);
        done += run;
    }
    return kd_onnx_out_const(c, 0, out);
}

static int fold_gather(kd_onnx_ctx *c)
{
    kd_onnx_const *in, *index, *out;
    int64_t axis, dim[KD_ONNX_MAX_RANK];
    int at, rank = 0, rc;
    if ((rc = input(c, 0, &in)) || (rc = input(c, 1, &index)) ||
        (rc = kd_onnx_attr_int(c, "axis", 0, &axis)) || (rc = kd_onnx_axis(c, axis, in->rank, &at)))
        return rc;
    if (!index->integer || in->rank - 1 + index->rank > KD_ONNX_MAX_RANK)
        return kd_onnx_fail(c, -KD_EDATA, "indices that are no integers, or too many axes");
    for (size_t i = 0; i < index->count; i++)
        if (index->i[i] < -in->dim[at] || index->i[i] >= in->dim[at])
            return kd_onnx_fail(c, -KD_EDATA, "index %lld of an axis of length %lld",
                                (long long)index->i[i], (long long)in->dim[at]);
    size_t outer = 1, inner = 1;
    for (int a = 0; a < in->rank; a++) {
        if (a == at)
            for (int b = 0; b < index->rank; b++)
                dim[rank++] = index->dim[b];
        else
            dim[rank++] = in->dim[a];
        if (a != at)
            *(a < at ? &outer : &inner) *= (size_t)in->dim[a];
    }
    if ((rc = kd_onnx_const_new(c, in->integer, rank, dim, &out)))
        return rc;
    size_t to = 0;
    for (size_t o = 0; o < outer; o++)
        for (size_t i = 0; i < index->count; i++) {
            int64_t pick = index->i[i] < 0 ? index->i[i] + in->dim[at] : index->i[i];
            size_t from = (o * (size_t)in->dim[at] + (size_t)pick) * inner;
            for (size_t k = 0; k < inner; k++, to++)
                if (out->integer)
                    out->i[to] = in->i[from + k];
                else
                    out->f[to] = in->f[from + k];
        }
    return kd_onnx_out_const(c, 0, out);
}

static int fold_cast(kd_onnx_ctx *c)
{
    kd_onnx_const *in, *out;
    int64_t to;
    int rc;
    if ((rc = input(c, 0, &in)) || (rc = kd_onnx_attr_int(c, "to", 0, &to)))
        return rc;
    const bool integer = to == KD_ONNX_INT64 || to == KD_ONNX_INT32 || to == KD_ONNX_BOOL ||
                         to == KD_ONNX_INT8 || to == KD_ONNX_UINT8;
    if (!integer && to != KD_ONNX_FLOAT && to != KD_ONNX_DOUBLE && to != KD_ONNX_FLOAT16)
        return kd_onnx_fail(c, -KD_EUNSUP, "a cast to type %lld", (long long)to);
    if ((rc = kd_onnx_const_new(c, integer, in->rank, in->dim, &out)))
        return rc;
    for (size_t i = 0; i < in->count; i++) {
        if (!integer) {
            out->f[i] = in->integer ? (float)in->i[i] : in->f[i];
            continue;
        }
        if (!in->integer && !(fabsf(in->f[i]) < 0x1p62f))
            return kd_onnx_fail(c, -KD_EDATA, "a cast of %g to an integer", (double)in->f[i]);
        int64_t v = in->integer ? in->i[i] : (int64_t)in->f[i];
        out->i[i] = to == KD_ONNX_BOOL    ? (in->integer ? v != 0 : in->f[i] != 0)
                    : to == KD_ONNX_INT32 ? (int32_t)v
                    : to == KD_ONNX_INT8  ? (int8_t)v
                    : to == KD_ONNX_UINT8 ? (uint8_t)v
                                          : v;
    }
    return kd_onnx_out_const(c, 0, out);
}

/* ---- arithmetic */

static int broadcast_dims(kd_onnx_ctx *c, const kd_onnx_const *const *in, int n, int *out_rank,
                          int64_t *out_dim)
{
    int rank = 0;
    for (int i = 0; i < n; i++)
        rank = KD_MAX(rank, in[i]->rank);
    for (int a = 0; a < rank; a++) {
        out_dim[a] = 1;
        for (int i = 0; i < n; i++) {
            int at = a - (rank - in[i]->rank);
            int64_t d = at < 0 ? 1 : in[i]->dim[at];
            if (d != 1 && out_dim[a] != 1 && d != out_dim[a])
                return kd_onnx_fail(c, -KD_EDATA, "operands of shapes that do not fit");
            if (d != 1)
                out_dim[a] = d;
        }
    }
    *out_rank = rank;
    return 0;
}

/* A copy of `in` in the shape of a result. */
static int spread(kd_onnx_ctx *c, const kd_onnx_const *in, int rank, const int64_t *dim,
                  kd_onnx_const **out)
{
    int64_t stride[KD_ONNX_MAX_RANK], wide[KD_ONNX_MAX_RANK];
    int rc = kd_onnx_const_new(c, in->integer, rank, dim, out);
    if (rc)
        return rc;
    strides_of(in, stride);
    for (int a = 0; a < rank; a++) {
        int at = a - (rank - in->rank);
        wide[a] = at < 0 || in->dim[at] == 1 ? 0 : stride[at];
    }
    gather(in, 0, wide, *out);
    return 0;
}

static bool integer_op(const char *op, int64_t a, int64_t b, int64_t *out)
{
    if (strcmp(op, "Add") == 0)
        return !__builtin_add_overflow(a, b, out);
    if (strcmp(op, "Sub") == 0)
        return !__builtin_sub_overflow(a, b, out);
    if (strcmp(op, "Mul") == 0)
        return !__builtin_mul_overflow(a, b, out);
    if (strcmp(op, "Div") == 0 || strcmp(op, "Mod") == 0) {
        if (b == 0 || (a == INT64_MIN && b == -1))
            return false;
        int64_t rest = a % b;
        /* Div cuts towards 0 as C does, Mod has the sign of the divisor as Python. */
        *out = op[0] == 'D' ? a / b : rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
        return true;
    }
    *out = strcmp(op, "Min") == 0 ? KD_MIN(a, b) : strcmp(op, "Max") == 0 ? KD_MAX(a, b) : a == b;
    return true;
}

static float float_op(const char *op, float a, float b)
{
    switch (op[0]) {
    case 'A':
        return a + b;
    case 'S':
        return a - b;
    case 'D':
        return a / b;
    default:
        return strcmp(op, "Mul") == 0 ? a * b : strcmp(op, "Min") == 0 ? fminf(a, b) : fmaxf(a, b);
    }
}

static int fold_binary(kd_onnx_ctx *c)
{
    const char *op = c->node->op_type;
    kd_onnx_const *a, *b, *x, *y;
    int rank, rc;
    int64_t dim[KD_ONNX_MAX_RANK];
    if ((rc = input(c, 0, &a)) || (rc = input(c, 1, &b)))
        return rc;
    const bool equal = strcmp(op, "Equal") == 0;
    if (c->node->n_input != 2 || a->integer != b->integer ||
        (!a->integer && (equal || strcmp(op, "Mod") == 0)))
        return kd_onnx_fail(c, -KD_EUNSUP, "operands of these types, or more than two");
    const kd_onnx_const *both[2] = {a, b};
    if ((rc = broadcast_dims(c, both, 2, &rank, dim)) || (rc = spread(c, a, rank, dim, &x)) ||
        (rc = spread(c, b, rank, dim, &y)))
        return rc;
    for (size_t i = 0; i < x->count; i++) {
        if (!x->integer)
            x->f[i] = float_op(op, x->f[i], y->f[i]);
        else if (!integer_op(op, x->i[i], y->i[i], &x->i[i]))
            return kd_onnx_fail(c, -KD_EDATA, "overflow, or division by zero");
    }
    return kd_onnx_out_const(c, 0, x);
}

static float unary_op(const char *op, float x)
{
    switch (op[0]) {
    case 'N':
        return -x;
    case 'F':
        return floorf(x);
    case 'C':
        return ceilf(x);
    case 'R':
        return x > 0 ? x : 0;
    case 'T':
        return tanhf(x);
    default:
        return op[1] == 'q' ? sqrtf(x) : 1 / (1 + expf(-x));
    }
}

/* Neg, Floor, Ceil, Sqrt and the commonest activations. */
static int fold_unary(kd_onnx_ctx *c)
{
    const char *op = c->node->op_type;
    kd_onnx_const *in, *out;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "")) || (rc = input(c, 0, &in)) ||
        (rc = spread(c, in, in->rank, in->dim, &out)))
        return rc;
    for (size_t i = 0; i < out->count; i++)
        if (!out->integer)
            out->f[i] = unary_op(op, out->f[i]);
        else if (op[0] == 'N')
            out->i[i] = (int64_t)(0 - (uint64_t)out->i[i]);
        else
            return kd_onnx_fail(c, -KD_EUNSUP, "works on integers");
    return kd_onnx_out_const(c, 0, out);
}

static int fold_where(kd_onnx_ctx *c)
{
    kd_onnx_const *in[3], *wide[3];
    int rank = 0, rc;
    int64_t dim[KD_ONNX_MAX_RANK];
    for (size_t i = 0; i < 3; i++)
        if ((rc = input(c, i, &in[i])))
            return rc;
    if (!in[0]->integer || in[1]->integer != in[2]->integer)
        return kd_onnx_fail(c, -KD_EDATA, "operands of these types");
    if ((rc = broadcast_dims(c, (const kd_onnx_const *const *)in, 3, &rank, dim)))
        return rc;
    for (size_t i = 0; i < 3; i++)
        if ((rc = spread(c, in[i], rank, dim, &wide[i])))
            return rc;
    for (size_t i = 0; i < wide[0]->count; i++)
        if (!wide[0]->i[i] && wide[1]->integer)
            wide[1]->i[i] = wide[2]->i[i];
        else if (!wide[0]->i[i])
            wide[1]->f[i] = wide[2]->f[i];
    return kd_onnx_out_const(c, 0, wide[1]);
}

static int fold_expand(kd_onnx_ctx *c)
{
    kd_onnx_const *in, *out, shape = {0};
    const int64_t *want;
    size_t n;
    int rank, rc;
    int64_t dim[KD_ONNX_MAX_RANK];
    if ((rc = input(c, 0, &in)) || (rc = kd_onnx_in_ints(c, 1, "shape", &want, &n)))
        return rc;
    if (n > KD_ONNX_MAX_RANK)
        return kd_onnx_fail(c, -KD_ELIMIT, "a shape of %zu axes", n);
    shape.rank = (int)n;
    if (n)
        memcpy(shape.dim, want, n * sizeof *want);
    const kd_onnx_const *both[2] = {in, &shape};
    if ((rc = broadcast_dims(c, both, 2, &rank, dim)) || (rc = spread(c, in, rank, dim, &out)))
        return rc;
    return kd_onnx_out_const(c, 0, out);
}

/* ---- making */

static int fold_shape(kd_onnx_ctx *c)
{
    const kd_onnx_value *v = kd_onnx_in(c, 0);
    kd_onnx_const *out;
    if (!v)
        return kd_onnx_fail(c, -KD_EDATA, "input 0 is missing");
    const int rank = v->constant ? v->constant->rank : v->d.rank;
    const int64_t *dim = v->constant ? v->constant->dim : v->d.dim;
    const bool size = strcmp(c->node->op_type, "Size") == 0;
    int64_t first, last;
    int rc;
    if ((rc = kd_onnx_attr_int(c, "start", 0, &first)) ||
        (rc = kd_onnx_attr_int(c, "end", rank, &last)))
        return rc;
    first = first < 0 ? KD_MAX(first + rank, 0) : KD_MIN(first, rank);
    last = last < 0 ? KD_MAX(last + rank, 0) : KD_MIN(last, rank);
    const int64_t n = size ? 1 : KD_MAX(last - first, 0);
    if ((rc = kd_onnx_const_new(c, true, size ? 0 : 1, &n, &out)))
        return rc;
    size_t all;
    if (size && !kd_onnx_count(rank, dim, &all))
        return kd_onnx_fail(c, -KD_ELIMIT, "of a tensor that is too large");
    for (int64_t i = 0; i < n; i++)
        out->i[i] = size ? (int64_t)all : dim[first + i];
    return kd_onnx_out_const(c, 0, out);
}

static int list_const(kd_onnx_ctx *c, const Onnx__AttributeProto *a, bool integer, bool scalar)
{
    kd_onnx_const *out;
    const int64_t dim = (int64_t)(integer ? a->n_ints : a->n_floats);
    int rc = kd_onnx_const_new(c, integer, scalar ? 0 : 1, &dim, &out);
    if (rc)
        return rc;
    for (size_t i = 0; i < out->count; i++)
        if (integer)
            out->i[i] = scalar ? a->i : a->ints[i];
        else
            out->f[i] = scalar ? a->f : a->floats[i];
    return kd_onnx_out_const(c, 0, out);
}

static int fold_constant(kd_onnx_ctx *c)
{
    if (c->node->n_attribute != 1)
        return kd_onnx_fail(c, -KD_EDATA, "one attribute was expected, there are %zu",
                            c->node->n_attribute);
    const Onnx__AttributeProto *a = c->node->attribute[0];
    if (strcmp(a->name, "value") == 0 && a->t) {
        kd_onnx_const *k;
        int rc = kd_onnx_const_of(c, a->t, c->node->n_output ? c->node->output[0] : "", &k);
        return rc ? rc : kd_onnx_out_const(c, 0, k);
    }
    if (strcmp(a->name, "value_int") == 0)
        return list_const(c, a, true, true);
    if (strcmp(a->name, "value_ints") == 0)
        return list_const(c, a, true, false);
    if (strcmp(a->name, "value_float") == 0)
        return list_const(c, a, false, true);
    if (strcmp(a->name, "value_floats") == 0)
        return list_const(c, a, false, false);
    return kd_onnx_fail(c, -KD_EUNSUP, "the attribute %s is not supported", a->name);
}

static int fold_constant_of_shape(kd_onnx_ctx *c)
{
    const int64_t *shape;
    size_t n;
    kd_onnx_const *value = NULL, *out;
    const Onnx__AttributeProto *a = kd_onnx_attr(c, "value");
    int rc = kd_onnx_in_ints(c, 0, "shape", &shape, &n);
    if (!rc && n > KD_ONNX_MAX_RANK)
        rc = kd_onnx_fail(c, -KD_ELIMIT, "a shape of %zu axes", n);
    if (!rc && a && a->t)
        rc = kd_onnx_const_of(c, a->t, "value", &value);
    if (!rc && value)
        rc = value->count == 1 ? kd_onnx_const_load(c, value)
                               : kd_onnx_fail(c, -KD_EDATA, "a value of %zu", value->count);
    if (!rc)
        rc = kd_onnx_const_new(c, value && value->integer, (int)n, shape, &out);
    if (rc)
        return rc;
    for (size_t i = 0; value && i < out->count; i++)
        if (out->integer)
            out->i[i] = value->i[0];
        else
            out->f[i] = value->f[0];
    return kd_onnx_out_const(c, 0, out);
}

static int fold_range(kd_onnx_ctx *c)
{
    kd_onnx_const *in[3], *out;
    int rc;
    for (size_t i = 0; i < 3; i++) {
        if ((rc = input(c, i, &in[i])))
            return rc;
        if (in[i]->count != 1 || !in[i]->integer)
            return kd_onnx_fail(c, -KD_EUNSUP, "a range of other than three integers");
    }
    const int64_t from = in[0]->i[0], to = in[1]->i[0], by = in[2]->i[0];
    int64_t span, n = 0;
    if (by == 0 || by == INT64_MIN ||
        __builtin_sub_overflow(by > 0 ? to : from, by > 0 ? from : to, &span))
        return kd_onnx_fail(c, -KD_EDATA, "a range that does not end");
    if (span > 0)
        n = (span - 1) / (by > 0 ? by : -by) + 1;
    if ((rc = kd_onnx_const_new(c, true, 1, &n, &out)))
        return rc;
    for (int64_t i = 0; i < n; i++)
        out->i[i] = from + i * by;
    return kd_onnx_out_const(c, 0, out);
}

static int fold_reduce_prod(kd_onnx_ctx *c)
{
    kd_onnx_const *in, *out;
    int axes[KD_ONNX_MAX_RANK], n, rc;
    int64_t keep;
    if ((rc = input(c, 0, &in)) || (rc = kd_onnx_axes(c, 1, in->rank, axes, &n)) ||
        (rc = kd_onnx_attr_int(c, "keepdims", 1, &keep)))
        return rc;
    if (!in->integer || in->rank > 1)
        return kd_onnx_fail(c, -KD_EUNSUP, "other than a list of integers");
    const int64_t one = 1;
    if ((rc = kd_onnx_const_new(c, true, keep ? in->rank : 0, &one, &out)))
        return rc;
    out->i[0] = 1;
    for (size_t i = 0; i < in->count; i++)
        if (__builtin_mul_overflow(out->i[0], in->i[i], &out->i[0]))
            return kd_onnx_fail(c, -KD_EDATA, "overflow");
    return kd_onnx_out_const(c, 0, out);
}

static const struct {
    const char *op;
    int (*fold)(kd_onnx_ctx *c);
    enum {
        PLAIN,
        OF_ANY, /* also of computed tensors */
        MOVES   /* values of its first operand, in another order or as another kind of number */
    } kind;
} g_folds[] = {
    {"Shape", fold_shape, OF_ANY},
    {"Size", fold_shape, OF_ANY},
    {"Constant", fold_constant, PLAIN},
    {"ConstantOfShape", fold_constant_of_shape, PLAIN},
    {"Identity", fold_identity, MOVES},
    {"Dropout", fold_identity, MOVES},
    {"Reshape", fold_reshape, MOVES},
    {"Flatten", fold_reshape, MOVES},
    {"Squeeze", fold_squeeze, MOVES},
    {"Unsqueeze", fold_squeeze, MOVES},
    {"Transpose", fold_transpose, MOVES},
    {"Slice", fold_slice, PLAIN},
    {"Concat", fold_concat, PLAIN},
    {"Gather", fold_gather, PLAIN},
    {"Cast", fold_cast, MOVES},
    {"Range", fold_range, PLAIN},
    {"ReduceProd", fold_reduce_prod, PLAIN},
    {"Add", fold_binary, PLAIN},
    {"Sub", fold_binary, PLAIN},
    {"Mul", fold_binary, PLAIN},
    {"Div", fold_binary, PLAIN},
    {"Mod", fold_binary, PLAIN},
    {"Min", fold_binary, PLAIN},
    {"Max", fold_binary, PLAIN},
    {"Equal", fold_binary, PLAIN},
    {"Neg", fold_unary, PLAIN},
    {"Floor", fold_unary, PLAIN},
    {"Ceil", fold_unary, PLAIN},
    {"Sqrt", fold_unary, PLAIN},
    {"Relu", fold_unary, PLAIN},
    {"Sigmoid", fold_unary, PLAIN},
    {"Tanh", fold_unary, PLAIN},
    {"Where", fold_where, PLAIN},
    {"Expand", fold_expand, PLAIN},
    {"DequantizeLinear", kd_onnx_fold_dequantize, MOVES},
};

/* Moved values are held as they were before. */
static void keep_type(kd_onnx_ctx *c)
{
    const kd_onnx_value *from = kd_onnx_in(c, 0);
    const kd_onnx_value *to =
        c->node->n_output && *c->node->output[0] ? kd_onnx_find(c, c->node->output[0]) : NULL;
    if (from && from->constant && to && to->constant)
        to->constant->held = from->constant->held;
}

bool kd_onnx_fold(kd_onnx_ctx *c, int *out_rc)
{
    bool known = true;
    for (size_t i = 0; i < c->node->n_input; i++) {
        const kd_onnx_value *v = kd_onnx_in(c, i);
        known &= !v || v->constant;
    }
    for (size_t i = 0; i < KD_COUNT(g_folds); i++)
        if (strcmp(g_folds[i].op, c->node->op_type) == 0 && (known || g_folds[i].kind == OF_ANY)) {
            *out_rc = g_folds[i].fold(c);
            if (!*out_rc && g_folds[i].kind == MOVES)
                keep_type(c);
            return true;
        }
    return false;
}
