#include "kserve/kserve.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool kd_kserve_shape_is(const int64_t *shape, size_t n, const int64_t *want, size_t n_want)
{
    bool same = n == n_want;
    for (size_t i = 0; same && i < n; i++)
        same = want[i] < 0 ? shape[i] >= 0 : shape[i] == want[i];
    return same;
}

const char *kd_kserve_shape_text(const int64_t *shape, size_t n, char out[KD_KSERVE_SHAPE])
{
    size_t at = (size_t)snprintf(out, KD_KSERVE_SHAPE, "[");
    for (size_t i = 0; i < n && at < KD_KSERVE_SHAPE - 24; i++)
        at += (size_t)snprintf(out + at, KD_KSERVE_SHAPE - at, "%s%lld", i ? ", " : "",
                               (long long)shape[i]);
    snprintf(out + at, KD_KSERVE_SHAPE - at, "]");
    return out;
}

int kd_kserve_floats(const char *name, const ProtobufCBinaryData *raw,
                     const Inference__InferTensorContents *contents, size_t floats,
                     const float **out, kd_diag *diag)
{
    if (raw && raw->len != floats * sizeof(float))
        return kd_fail(diag, -KD_EINVAL, "%s: %zu raw bytes, but its shape holds %zu of FP32", name,
                       raw->len, floats * sizeof(float));
    if (!raw && (contents ? contents->n_fp32_contents : 0) != floats)
        return kd_fail(diag, -KD_EINVAL, "%s: %zu values in fp32_contents, but its shape holds %zu",
                       name, contents ? contents->n_fp32_contents : 0, floats);
    const float *v = raw        ? (const float *)(const void *)raw->data
                     : contents ? contents->fp32_contents
                                : NULL;
    for (size_t i = 0; i < floats; i++)
        if (!isfinite(v[i]))
            return kd_fail(diag, -KD_EINVAL, "%s: value %zu is not a finite number", name, i);
    *out = v;
    return 0;
}
