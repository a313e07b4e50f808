/* A model file's bytes, checked and unpacked. Internal to models/.
 *
 * The bytes are scanned by the schema's descriptors first: torn fields, wrong wire types, counts
 * and lengths over their limits, text that is not UTF-8 and fields of ours that come twice are
 * refused, and what the schema does not have (doc strings, graphs inside attributes, training) is
 * left out before anything is unpacked. The raw data of tensors is not copied: it stays where it
 * lies in the file. Threads: a model is read-only once unpacked. */
#ifndef KD_ONNX_MODEL_H
#define KD_ONNX_MODEL_H

#include "kd/err.h"

#include "onnx.pb-c.h"

#define KD_ONNX_MAX_FILE (512u << 20)
#define KD_ONNX_MAX_NAME 512u /* of a value or a node */
#define KD_ONNX_MAX_RANK 8
#define KD_ONNX_MAX_NODES 16384u

enum { /* TensorProto.data_type */
       KD_ONNX_FLOAT = 1,
       KD_ONNX_UINT8 = 2,
       KD_ONNX_INT8 = 3,
       KD_ONNX_INT32 = 6,
       KD_ONNX_INT64 = 7,
       KD_ONNX_BOOL = 9,
       KD_ONNX_FLOAT16 = 10,
       KD_ONNX_DOUBLE = 11,
       KD_ONNX_BFLOAT16 = 16
};
enum { /* AttributeProto.type */
       KD_ONNX_ATTR_FLOAT = 1,
       KD_ONNX_ATTR_INT = 2,
       KD_ONNX_ATTR_STRING = 3,
       KD_ONNX_ATTR_TENSOR = 4,
       KD_ONNX_ATTR_FLOATS = 6,
       KD_ONNX_ATTR_INTS = 7,
       KD_ONNX_ATTR_STRINGS = 8
};

/* bytes are borrowed until free; `name` is for messages. Absent text is "". Errors: -KD_EDATA,
 * -KD_ELIMIT, -KD_ENOMEM. */
int kd_onnx_unpack(const uint8_t *bytes, size_t len, const char *name, Onnx__ModelProto **out,
                   kd_diag *diag) KD_MUST_CHECK;
void kd_onnx_free(Onnx__ModelProto *m); /* NULL allowed */
/* Where a tensor's raw data lies in the bytes it was unpacked from; false if it has none. */
bool kd_onnx_raw(const Onnx__TensorProto *t, const uint8_t *file, const uint8_t **out_data,
                 size_t *out_len);

#endif
