/* Networks by name, and weights from safetensors.
 *
 * shallow_cnn   the report's student: 3x3 conv 64 valid, ReLU, 4x4 max-pool, 3x3 conv 128 valid, ReLU,
 *               global average pool, dense 512, ReLU, dense classes (144,261 parameters at 5)
 * mlp           flatten, dense+ReLU for each hidden size, dense classes
 * mobilenet_v2  Sandler et al. 2018, any width; channel rounding and names as torchvision; padding
 *               tf = "SAME" (stride-2 layers pad bottom and right), torch = symmetric; batch-norm
 *               eps 1e-3 with tf, 1e-5 with torch */
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

int kd_model_build(const kd_model_config *cfg, kd_graph **out, kd_diag *diag) KD_MUST_CHECK;
/* Copies tensors by name from safetensors bytes into vector (initialised before). Head tensors whose
 * shape differs (another number of classes) keep their initial values and *out_new_head is set; any
 * other missing or wrongly shaped tensor is refused with both shapes. */
int kd_model_load(const kd_graph *g, const void *file, size_t len, const char *name, float *vector,
                  bool *out_new_head, kd_diag *diag) KD_MUST_CHECK;
/* JSON table of the vector: [{"name","shape","offset","trained"}...]; caller frees. */
char *kd_model_table(const kd_graph *g);

#endif
