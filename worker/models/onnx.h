/* ONNX models: classifiers for pictures in and out.
 * Source: https://github.com/onnx/onnx, docs/Operators.md and docs/IR.md, opsets 9 to 17.
 *
 * Reading takes what PyTorch, TensorFlow (tf2onnx) and Keras export: convolutions, pools,
 * normalisation, activations, arithmetic, dense layers and shape arithmetic, which is computed once
 * and for all. Everything else is refused with the operator's and the node's name. Weights that are
 * initialisers become parameters: of convolutions, dense layers and batch norms trained ones or
 * statistics, of other arithmetic fixed ones. A softmax at the end is left out, since training
 * wants logits. The batch is the first axis of the model's input whatever size is written there.
 *
 * Threads: reentrant. */
#ifndef KD_MODELS_ONNX_H
#define KD_MODELS_ONNX_H

#include "kd/buf.h"
#include "models/models.h"

#define KD_ONNX_MAX_INPUT_RANK 8

/* CLASSIFIER is for networks. The other two are for trying single operators: the input may have any
 * number of channels, the output any shape, and a softmax at the end stays. In WHOLE the input has
 * no batch axis, all of it is one picture. */
enum kd_onnx_use { KD_ONNX_CLASSIFIER, KD_ONNX_ANY, KD_ONNX_WHOLE };

typedef struct kd_onnx_read_options {
    int size;      /* pixels a side where the model leaves its input's size open; a model with a
                      fixed one must agree; 0 = the model's own */
    int classes;   /* 0 = as in the file; another number gets a new head */
    uint64_t seed; /* of the new head's initial values */
    int folder_fd; /* folder of the model: external data is read beneath it; -1 = none is read */
    enum kd_onnx_use use;
} kd_onnx_read_options;

typedef struct kd_onnx_info {
    kd_model_file_info file;                   /* what its metadata says */
    bool ours;                                 /* distilld wrote it */
    int size;                                  /* height and width of a classifier's input */
    bool nhwc;                                 /* the model's own input was [N,H,W,C] */
    bool softmax;                              /* a softmax at the end was left out */
    int input_rank, output_rank;               /* of the model's own tensors, batch included */
    int64_t input_dim[KD_ONNX_MAX_INPUT_RANK]; /* batch: 1 where it is open */
    int64_t output_dim[KD_ONNX_MAX_INPUT_RANK];
    enum kd_st_type *types; /* [n_params of the graph]: what the model holds each as: 8 bits, with a
                               sign or without, are KD_ST_I8, more than 16 KD_ST_F32, and so is
                               what was computed */
} kd_onnx_info;
void kd_onnx_info_clear(kd_onnx_info *info);

/* bytes are borrowed during the call; `name` is for messages. On success *out_graph (free with
 * kd_graph_free), *out_vector [vector_len] (free) and *out_info (kd_onnx_info_clear) are the
 * caller's; *out_new_head says that the head has initial values for opt->classes classes. Errors:
 * -KD_EDATA (damaged, or no such model), -KD_EUNSUP (an operator or attribute that is not read; the
 * message names it and its node), -KD_EINVAL (does not fit the options), -KD_ELIMIT, -KD_ENOMEM,
 * -KD_EPERM and those of opening for external data. */
int kd_onnx_read(const uint8_t *bytes, size_t len, const char *name,
                 const kd_onnx_read_options *opt, kd_graph **out_graph, float **out_vector,
                 bool *out_new_head, kd_onnx_info *out_info, kd_diag *diag) KD_MUST_CHECK;

typedef struct kd_onnx_write_options {
    int opset;                      /* 13 or 17 */
    const kd_model_file_info *info; /* for the metadata, NULL = none; borrowed */
} kd_onnx_write_options;
/* Appends a model with input "input" float32 [N,C,H,W], already preprocessed, and output "logits"
 * [N,classes] (another output keeps its shape) to out. Batch norms stay nodes of their own, names
 * of parameters are kept; dropout is a node that does nothing in inference, drop path is left out.
 * A network of 8 bits (kd_graph_is_int8; the thread has called kd_engine_thread) has its roundings
 * as QuantizeLinear and DequantizeLinear and is read as the same one. g is finished, vector
 * [vector_len]. -KD_EINVAL for an opset that is not written; -KD_ELIMIT when out is full. */
int kd_onnx_write(const kd_graph *g, const float *vector, const kd_onnx_write_options *opt,
                  kd_buf *out, kd_diag *diag) KD_MUST_CHECK;

#endif
