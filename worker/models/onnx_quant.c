/* QuantizeLinear and DequantizeLinear: weights of 8 bits become floats, values between layers get
 * the range that 8 bits hold of them. */
#include "models/onnx_internal.h"
#include "store/narrow.h"

#include <math.h>

/* scale and zero point of the current node; *out_zero NULL = 0. */
static int read_units(kd_onnx_ctx *c, kd_onnx_const **out_scale, kd_onnx_const **out_zero)
{
    int rc;
    *out_zero = NULL;
    if ((rc = kd_onnx_in_const(c, 1, "scale", out_scale)) ||
        (rc = kd_onnx_const_load(c, *out_scale)) ||
        (kd_onnx_in(c, 2) && ((rc = kd_onnx_in_const(c, 2, "zero point", out_zero)) ||
                              (rc = kd_onnx_const_load(c, *out_zero)))))
        return rc;
    const kd_onnx_const *s = *out_scale, *z = *out_zero;
    if (s->integer || (z && !z->integer))
        return kd_onnx_fail(c, -KD_EUNSUP, "a scale of integers, or a zero point of floats");
    if (z && z->count != s->count)
        return kd_onnx_fail(c, -KD_EDATA, "%zu scales with %zu zero points", s->count, z->count);
    for (size_t i = 0; i < s->count; i++)
        if (!(s->f[i] > 0) || !isfinite(s->f[i]))
            return kd_onnx_fail(c, -KD_EDATA, "scale %zu is %g", i, (double)s->f[i]);
    return 0;
}

int kd_onnx_fold_dequantize(kd_onnx_ctx *c)
{
    kd_onnx_const *in, *scale, *zero, *out;
    int64_t axis;
    int at = 0, rc;
    if ((rc = kd_onnx_only_attrs(c, "axis")) || (rc = kd_onnx_in_const(c, 0, "operand", &in)) ||
        (rc = kd_onnx_const_load(c, in)) || (rc = read_units(c, &scale, &zero)) ||
        (rc = kd_onnx_attr_int(c, "axis", 1, &axis)))
        return rc;
    if (!in->integer)
        return kd_onnx_fail(c, -KD_EUNSUP, "the values are no integers");
    if (scale->count != 1 && (rc = kd_onnx_axis(c, axis, in->rank, &at)))
        return rc;
    if (scale->count != 1 && (int64_t)scale->count != in->dim[at])
        return kd_onnx_fail(c, -KD_EDATA, "%zu scales for an axis of %lld", scale->count,
                            (long long)in->dim[at]);
    if ((rc = kd_onnx_const_new(c, false, in->rank, in->dim, &out)))
        return rc;
    size_t behind = 1; /* values that share their place on the axis with the next one */
    for (int a = at + 1; a < in->rank; a++)
        behind *= (size_t)in->dim[a];
    for (size_t i = 0; i < in->count; i++) {
        const size_t k = scale->count == 1 ? 0 : i / behind % scale->count;
        const int64_t code = in->i[i] - (zero ? zero->i[k] : 0);
        out->f[i] = (float)code * scale->f[k];
    }
    out->src = in->src; /* layers are named after it */
    out->name = in->name;
    return kd_onnx_out_const(c, 0, out);
}

int kd_onnx_quantize(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    kd_onnx_const *scale, *zero;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "axis")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = read_units(c, &scale, &zero)))
        return rc;
    if (scale->count != 1)
        return kd_onnx_fail(c, -KD_EUNSUP, "values with more than one scale (%zu)", scale->count);
    const int32_t type = zero && zero->src ? zero->src->data_type : KD_ONNX_UINT8;
    const int64_t nought = zero ? zero->i[0] : 0;
    if (type != KD_ONNX_UINT8 && type != KD_ONNX_INT8)
        return kd_onnx_fail(c, -KD_EUNSUP, "values of type %d, 8 bits are read", type);
    if (nought != 0 && !(type == KD_ONNX_UINT8 && nought == 128))
        return kd_onnx_fail(c, -KD_EUNSUP,
                            "its zero point is %lld; only ranges about zero are read (quantise "
                            "activations symmetrically)",
                            (long long)nought);
    const float range = scale->f[0] * (type == KD_ONNX_UINT8 && nought == 0 ? 255 : 127);
    if (!(range <= KD_INT8_MOST))
        return kd_onnx_fail(c, -KD_EDATA, "scale 0 is %g", (double)scale->f[0]);
    c->g->nodes[d->node].range = range;
    return kd_onnx_out_dyn(c, 0, d);
}

int kd_onnx_dequantize(kd_onnx_ctx *c)
{
    const kd_onnx_dyn *d;
    kd_onnx_const *scale, *zero;
    int rc;
    if ((rc = kd_onnx_only_attrs(c, "axis")) || (rc = kd_onnx_in_dyn(c, 0, &d)) ||
        (rc = read_units(c, &scale, &zero)))
        return rc;
    return kd_onnx_out_dyn(c, 0, d);
}
