/* The builders behind kd_model_build, a file each, and the pieces that they share. Internal to
 * models/.
 * A builder writes its nodes into g, whose node 0 is the input, and returns the node of the logits,
 * or -1 with g->error set. cfg is checked already. */
#ifndef KD_MODELS_ZOO_H
#define KD_MODELS_ZOO_H

#include "models/models.h"

int kd_shallow_cnn(const kd_model_config *cfg, kd_graph *g);
int kd_shallow_cnn_deep(const kd_model_config *cfg, kd_graph *g);
int kd_cheap_cnn(const kd_model_config *cfg, kd_graph *g);
int kd_lenet(const kd_model_config *cfg, kd_graph *g);
int kd_mlp(const kd_model_config *cfg, kd_graph *g);
int kd_mobilenet_v2(const kd_model_config *cfg, kd_graph *g);
int kd_efficientnet_b0(const kd_model_config *cfg, kd_graph *g);
int kd_resnet18(const kd_model_config *cfg, kd_graph *g);
int kd_resnet34(const kd_model_config *cfg, kd_graph *g);
int kd_resnet50(const kd_model_config *cfg, kd_graph *g);
int kd_layers(const kd_model_config *cfg, kd_graph *g);

/* ---- pieces */

/* A network that is being written down; each call appends to `at`. */
typedef struct kd_zoo {
    const kd_model_config *cfg;
    kd_graph *g;
    int at;      /* last node */
    bool pad_tf; /* cfg->pad_tf for networks that exist in both kinds */
} kd_zoo;

/* Nearest multiple of 8, at least 8, and never more than 10 % below v: torchvision's
 * _make_divisible, from the authors' TensorFlow code. */
int kd_zoo_divisible(double v);
/* Padding before and after one side of `size` pixels, so that it becomes ceil(size / stride).
 * TensorFlow's "SAME" puts the odd pixel behind: a 3x3 kernel with stride 2 has nothing before an
 * even side and one pixel after it. */
void kd_zoo_same(int size, int kernel, int stride, int *before, int *after);
/* Convolution without bias, padded as z->pad_tf says (torch: kernel / 2 on every side). */
void kd_zoo_conv(kd_zoo *z, const char *name, int channels, int kernel, int stride, int groups,
                 enum kd_param_init init);
/* Batch norm with the eps of z->pad_tf: 1e-3 with tf, 1e-5 with torch. */
void kd_zoo_norm(kd_zoo *z, const char *name);
/* Dropout of cfg->dropout and the dense layer of the classes, marked as the head. */
int kd_zoo_head(const kd_model_config *cfg, kd_graph *g, int in, const char *name,
                enum kd_param_init init);
/* Stochastic depth of residual branch `index` of `total`, cfg->drop_path * index / total, as
 * torchvision counts; no node when that is 0. */
void kd_zoo_drop_path(kd_zoo *z, int index, int total);

#endif
