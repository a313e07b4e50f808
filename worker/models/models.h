/* Networks by name, and weights from safetensors.
 *
 *   shallow_cnn   the report's student: 3x3 conv 64 valid, ReLU, 4x4 max-pool, 3x3 conv 128
 *                 valid, ReLU, global average pool, dense 512, ReLU, dense classes
 *                 (144,261 parameters at 5)
 *   mlp           flatten, dense+ReLU for each hidden size, dense classes
 *   mobilenet_v2  Sandler et al. 2018, any width; channel rounding and names as torchvision;
 *                 padding tf = "SAME" (stride-2 layers pad an even side at its end only), torch =
 *                 symmetric; batch-norm eps 1e-3 with tf, 1e-5 with torch
 *
 * Threads: reentrant. */
#ifndef KD_MODELS_H
#define KD_MODELS_H

#include "engine/graph.h"

typedef struct kd_model_config {
    const char *model;
    double width;
    const int *hidden;
    int n_hidden;
    bool pad_tf;
    int size;     /* input height and width */
    int channels; /* 3, or 1 for grey sets */
    int classes;
} kd_model_config;

/* Names of parameters: conv1, conv2, fc1, fc2 (shallow_cnn); fc1 ... fcN (mlp); torchvision's
 * (mobilenet_v2). The last dense layer is the head. Start values: Glorot uniform, zero biases
 * (Keras's defaults, as the report used); mobilenet_v2 He normal by fan_out and a head of N(0,
 * 0.01) (torchvision's). -KD_EINVAL with a sentence for what cannot be built. */
int kd_model_build(const kd_model_config *cfg, kd_graph **out, kd_diag *diag) KD_MUST_CHECK;
/* Copies tensors by name from safetensors bytes into vector (initialised before). When the file's
 * head is for another number of classes, all of the head keeps its initial values and *out_new_head
 * is true, else false. Any other missing or wrongly shaped tensor is refused with both shapes, as
 * is a value that is not finite; then vector is unchanged. Tensors the network has no use for are
 * passed over. `name` is for messages. Errors: -KD_EDATA, -KD_ELIMIT. */
int kd_model_load(const kd_graph *g, const void *file, size_t len, const char *name, float *vector,
                  bool *out_new_head, kd_diag *diag) KD_MUST_CHECK;
/* JSON table of the vector: [{"name","shape","offset","trained"}...]; caller frees. NULL when
 * memory is out. */
char *kd_model_table(const kd_graph *g);

#endif
