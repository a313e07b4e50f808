/* The Open Inference Protocol over gRPC (proto/inference.proto): what both of its ends need, which
 * are `distill serve` and workers whose teacher runs elsewhere. Messages are unpacked by
 * kd_wire_unpack_large. Threads: reentrant.
 * Source: github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md. */
#ifndef KD_KSERVE_H
#define KD_KSERVE_H

#include "wire/wire.h"

#include "inference.pb-c.h"

#define KD_KSERVE_SERVICE "inference.GRPCInferenceService"
#define KD_KSERVE_PATH "/" KD_KSERVE_SERVICE "/"
#define KD_KSERVE_BESIDE 65536u /* bytes of a message beside its tensors' contents */

/* Whether a tensor has this shape; a wanted -1 is any length from 0 on. */
bool kd_kserve_shape_is(const int64_t *shape, size_t n, const int64_t *want, size_t n_want);
/* "[-1, 32, 32, 3]", cut to fit. Returns out. */
#define KD_KSERVE_SHAPE 128
const char *kd_kserve_shape_text(const int64_t *shape, size_t n, char out[KD_KSERVE_SHAPE]);
/* The elements of an FP32 tensor, of which there must be `floats`, all finite: out of its raw
 * contents if it came so (raw not NULL), else of `contents` (NULL = none). *out points into either.
 * -KD_EINVAL with a sentence that begins with the tensor's name. */
int kd_kserve_floats(const char *name, const ProtobufCBinaryData *raw,
                     const Inference__InferTensorContents *contents, size_t floats,
                     const float **out, kd_diag *diag) KD_MUST_CHECK;

#endif
